//! The messages of the control socket. A request is one JSON object (a value rides beside it in a sealed
//! memfd, never inside); a reply is one JSON object, cut into as many packets as it needs.

use crate::id::{Label, SecretName, VersionId};
use crate::policy::Local;
use crate::problem::Problem;

/// The protocol's version: a peer that speaks another one is refused with the version it needs.
pub const FORMAT: u32 = 1;

/// What travels to the daemon.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`FORMAT`] of the sender.
    pub format: u32,
    /// What is asked.
    pub request: Request,
}

/// Everything that can be asked of an opened store, by socket or in process.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Store a new version, and the secret if it is not there. The value rides beside.
    Put(Put),
    /// Names, with what the caller may see of them.
    List {
        /// Only names under this directory.
        under: Option<String>,
    },
    /// One secret: labels, settings, who may read.
    Describe {
        /// Which.
        name: SecretName,
    },
    /// The versions of a secret.
    Versions {
        /// Which.
        name: SecretName,
    },
    /// The policy as it was given.
    PolicyGet {
        /// Whose.
        name: SecretName,
    },
    /// Replace the policy.
    PolicySet {
        /// Whose.
        name: SecretName,
        /// The document.
        text: String,
    },
    /// Add statements to the policy.
    PolicyAdd {
        /// Whose.
        name: SecretName,
        /// Who is allowed or denied reading.
        rules: Vec<Rule>,
    },
    /// Validate a document as `PolicySet` would, and change nothing.
    PolicyCheck {
        /// For which secret's name.
        name: Option<SecretName>,
        /// The document.
        text: String,
    },
    /// Why a read was refused, or would be.
    Why {
        /// Which secret.
        name: SecretName,
        /// The question.
        about: WhyAbout,
    },
    /// Destroy all values; the name keeps its policy.
    Delete {
        /// Which.
        name: SecretName,
        /// Also forget the name and its policy (root only).
        purge: bool,
        /// Only say what would be destroyed.
        dry_run: bool,
    },
    /// Check every record of the store.
    StoreCheck,
    /// The serving process and its counters.
    Status,
    /// Verify the log against its keys and its anchor.
    AuditVerify,
    /// End the service and unmount.
    Unmount,
}

/// See [`Request::Put`].
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// The secret.
    pub name: SecretName,
    /// Rules to add.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// A whole policy, instead of rules.
    #[serde(default)]
    pub policy: Option<String>,
    /// Human words about it.
    #[serde(default)]
    pub description: Option<String>,
    /// The owner that files show, by name or number.
    #[serde(default)]
    pub owner: Option<String>,
    /// The group that files show.
    #[serde(default)]
    pub group: Option<String>,
    /// The permission bits that files show (at most 0o444).
    #[serde(default)]
    pub mode: Option<u16>,
    /// What strangers see.
    #[serde(default)]
    pub visibility: Option<Visibility>,
    /// The version's id; a random one if absent.
    #[serde(default)]
    pub version: Option<VersionId>,
}

/// What somebody who may neither read nor describe a secret sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// That the name exists: look-ups say EACCES.
    #[default]
    Listed,
    /// Nothing: look-ups say ENOENT.
    Hidden,
}

/// `--allow` or `--deny` of one principal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// May read.
    Allow(Local),
    /// May not, whatever else says so.
    Deny(Local),
}

/// See [`Request::Why`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyAbout {
    /// The latest refusal on record (of the caller himself, or of anybody where root asks).
    Latest,
    /// A decision made now for this user, with his groups.
    User(String),
    /// A decision made now for this uid, with the groups of its user where it has one.
    Uid(u32),
    /// A decision made now for a running process, with all its facts.
    Pid(u32),
}

/// What comes back.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; the command's `--json` output.
    Done(serde_json::Value),
    /// Refused or failed.
    Failed(Problem),
}

/// Labels as `--json` shows them.
pub type Labels = Vec<Label>;
