//! The messages of the control socket. A request is one packet of JSON (a value rides beside it in a sealed
//! memfd, never inside); a reply is JSON, cut into as many packets as it needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::SecretName;
use crate::problem::Problem;
use crate::secret::SecretBytes;

pub use crate::lifecycle::{LabelMove, Put, Rule, TagChange};
pub use crate::policy::Attached;
pub use crate::report::{LayerKind, Question, Subject, WhyAbout};
pub use crate::vault::{LayerKey, Visibility};

/// The protocol's version, and the oldest reader that understands it.
pub const FORMAT: u32 = 1;
/// A request is at most this many bytes.
pub const MAX_REQUEST: usize = 128 * 1024;
/// A reply is cut into packets of at most this many bytes; the first byte of each is its [`Part`].
pub const PACKET: usize = 64 * 1024;

/// What a packet of a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// The end of the reply.
    Last = 0,
    /// A piece of the reply, after which more follow.
    More = 1,
    /// How many pieces of a long task are done: 8 bytes, big-endian. The reply is still to come.
    Progress = 2,
}

impl Part {
    /// The part of a packet's first byte.
    pub fn from_byte(byte: u8) -> Option<Part> {
        [Part::Last, Part::More, Part::Progress]
            .into_iter()
            .find(|part| *part as u8 == byte)
    }
}

/// What travels to the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`FORMAT`] of the sender.
    pub format: u32,
    /// What is asked.
    pub request: Request,
}

/// Everything that can be asked of an opened store, by socket or in process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Store a new version, and the secret if it is not there. The value rides beside.
    Put(Put),
    /// Names, with what the caller may see of them.
    List {
        /// Only names under this directory.
        under: Option<String>,
        /// Only secrets with all of these tags.
        #[serde(default)]
        tags: BTreeMap<String, String>,
    },
    /// Set and remove tags.
    Tag(TagChange),
    /// Move or remove a label.
    Label(LabelMove),
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
        /// Whether what warns is refused.
        #[serde(default)]
        strict: bool,
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
        /// Whether what warns is refused.
        #[serde(default)]
        strict: bool,
    },
    /// What the policy says to somebody, and what would change it.
    PolicyExplain {
        /// Of which secret.
        name: SecretName,
        /// Who, and what he does.
        question: Question,
    },
    /// The guardrails, or the identity policies.
    Layers {
        /// Which layer.
        kind: LayerKind,
    },
    /// One of them.
    LayerGet {
        /// Which.
        key: LayerKey,
    },
    /// Set one of them.
    LayerSet(LayerChange),
    /// Remove one of them.
    LayerRemove {
        /// Which.
        key: LayerKey,
        /// Only say whether it could be removed.
        dry_run: bool,
    },
    /// Why a read was refused, or would be.
    Why {
        /// Which secret.
        name: SecretName,
        /// The label or the id of a version, if not the current one is meant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
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
    /// Back the store up into the file that comes with the request.
    Backup,
    /// Check every record of the store.
    StoreCheck,
    /// The serving process and its counters.
    Status,
    /// Verify the log against its keys and its anchor.
    AuditVerify,
    /// End the service and unmount.
    Unmount,
}

/// A guardrail or an identity's policy to set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerChange {
    /// Which.
    pub key: LayerKey,
    /// The document.
    pub text: String,
    /// Tags of the identity.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Whether what warns is refused.
    #[serde(default)]
    pub strict: bool,
}

/// What travels beside a request, as a descriptor.
pub enum Enclosed {
    /// A value, in a sealed memfd.
    Value(SecretBytes),
    /// A file to write.
    File(std::fs::File),
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; the command's `--json` output.
    Done(serde_json::Value),
    /// Refused or failed.
    Failed(Problem),
}
