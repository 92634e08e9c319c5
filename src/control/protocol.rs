//! The messages of the control socket. A request is one packet of JSON; a value follows in packets of its own, never
//! inside. A reply is JSON, cut into as many packets as it needs. Nothing travels as a descriptor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::SecretName;
use crate::problem::Problem;
use crate::secret::SecretBytes;

pub use crate::lifecycle::{
    Comparison, Copied, LabelMove, Mode, Only, Put, Rule, TagChange, TakenFrom, Update,
};
pub use crate::policy::{Attached, Local};
pub use crate::report::{Call, LayerKind, Question, Records, Subject, Whom, WhyAbout};
pub use crate::vault::{LayerKey, Visibility};

/// The protocol's version, and the oldest reader that understands it.
pub const FORMAT: u32 = 3;
/// A request is at most this many bytes.
pub const MAX_REQUEST: usize = crate::sys::front::frame::MAX_PACKET;
/// A reply and a value are cut into packets of at most this many bytes; the first byte of each is its [`Part`].
pub const PACKET: usize = 64 * 1024;

/// What a packet of a reply or of a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// The end of the reply.
    Last = 0,
    /// A piece of the reply, after which more follow.
    More = 1,
    /// How many pieces of a long task are done: 8 bytes, big-endian. The reply is still to come.
    Progress = 2,
    /// To the daemon: a piece of the value that the request announced.
    Value = 3,
    /// A piece of the backup, which comes before the reply.
    Backup = 4,
}

impl Part {
    /// The part of a packet's first byte.
    pub fn from_byte(byte: u8) -> Option<Part> {
        use Part::*;
        [Last, More, Progress, Value, Backup]
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
    /// How many bytes the value has that follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<usize>,
    /// What is asked.
    pub request: Request,
}

/// Everything that can be asked of an opened store, by socket or in process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Whether somebody is there, before something is asked that must not be asked twice, and which store it serves.
    Hello,
    /// Store a new version, and the secret if it is not there. The value follows it.
    Put(Put),
    /// Names, with what the caller may see of them.
    List {
        /// Only names under this directory.
        under: Option<String>,
        /// Only secrets with all of these tags.
        #[serde(default)]
        tags: BTreeMap<String, String>,
        /// The names whose values were destroyed, instead.
        #[serde(default)]
        deleted: bool,
    },
    /// Settings of a secret, without its value.
    Update(Update),
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
    /// Take principals out of statements.
    PolicyTakeOut {
        /// Whose.
        name: SecretName,
        /// Out of which.
        from: TakenFrom,
        /// Whom.
        who: Vec<Local>,
        /// Only say what would change.
        dry_run: bool,
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
        /// Whether it is compared with the policy in force.
        #[serde(default)]
        comparison: Comparison,
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
    /// Back the store up; the backup comes before the reply.
    Backup,
    /// Check every record of the store.
    StoreCheck,
    /// Accounts that went or changed since policies were set.
    Drift,
    /// The serving process and its counters.
    Status,
    /// Put in force what the configuration's file decides.
    ConfigAccept {
        /// Only say what would change, and who gains.
        dry_run: bool,
        /// What the file was found to say: nothing else is accepted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// Verify the log against its keys and its anchor.
    AuditVerify,
    /// A piece of the log.
    AuditRecords(Records),
    /// Segments that can be archived, verified.
    AuditArchivable {
        /// Every record of them is older than this.
        before: Timestamp,
    },
    /// Remove archived segments from the log.
    AuditArchive {
        /// The oldest ones, by the digests of their copies.
        copied: Vec<Copied>,
    },
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

/// What goes with a request, outside of it.
pub enum Enclosed<'a> {
    /// A value.
    Value(SecretBytes),
    /// Where a backup goes.
    Backup(&'a mut dyn std::io::Write),
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
