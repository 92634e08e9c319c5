//! A record as its author fills it, and the JSON that it becomes. `packaging/doc/audit.md` lists the fields.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::id::{Gid, Label};

use super::json;

// What others choose is bounded here, each by itself and all together below [`MAX_FIELDS`](super::chain::MAX_FIELDS):
// a record that no line can hold would keep everything after it from being changed.

/// Longest text of a field of its own, in bytes as it is written.
const TEXT: usize = 4 << 10;
/// Longest text among the request parameters.
const ITEM: usize = 1 << 10;
/// Longest list among them.
const LIST: usize = 18 << 10;
/// All of them together, about.
const PARAMETERS: usize = 92 << 10;
/// So many groups are written one by one.
const GROUPS: usize = 32;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident $(= $text:literal)? $reserve:ident,)*) => {
        /// What happened. The names are CloudTrail's where it has one.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Event { $($(#[$doc])* $name,)* }

        impl Event {
            /// All of them.
            pub const ALL: &[Event] = &[$(Event::$name,)*];

            /// The `eventName`.
            pub fn name(self) -> &'static str {
                match self { $(Event::$name => events!(@text $name $($text)?),)* }
            }

            /// Whether its record may use the space that is reserved for administration on a full disk:
            /// changes and the life of the daemon may, reading and what strangers can cause may not.
            pub fn may_use_reserve(self) -> bool {
                match self { $(Event::$name => events!(@reserve $reserve),)* }
            }
        }
    };
    (@text $name:ident) => { stringify!($name) };
    (@text $name:ident $text:literal) => { $text };
    (@reserve reserve) => { true };
    (@reserve ordinary) => { false };
}

events! {
    /// A READ that returned bytes, or one that was refused.
    GetSecretValue ordinary,
    /// An open that was refused.
    OpenSecret ordinary,
    /// A look-up that was refused: what it was for, the kernel does not say.
    LookupSecret ordinary,
    /// Attributes, labels or settings were asked for.
    DescribeSecret ordinary,
    /// Names were listed.
    ListSecrets ordinary,
    /// Versions were listed.
    ListSecretVersionIds ordinary,
    /// A policy was shown.
    GetResourcePolicy ordinary,
    /// A decision was explained (`why`).
    ExplainDecision ordinary,
    /// The log was queried or followed.
    QueryLog ordinary,
    /// The log was verified.
    VerifyLog ordinary,
    /// Segments of the log were archived: they are removed from the store next.
    ArchiveLog reserve,
    /// The store was checked.
    CheckStore ordinary,
    /// The daemon's state was asked for.
    GetStatus ordinary,
    /// A control call that has no name of its own, or could not be read.
    ControlCall ordinary,
    /// A store was made.
    CreateStore reserve,
    /// The store was backed up.
    BackupStore reserve,
    /// The store was restored from a backup.
    RestoreStore reserve,
    /// A slot of the root key was replaced, with the recovery key.
    ReplaceKeySlot reserve,
    /// A secret was made.
    CreateSecret reserve,
    /// A new value.
    PutSecretValue reserve,
    /// Description, owner, visibility or other settings were changed.
    UpdateSecret reserve,
    /// A label was moved.
    UpdateSecretVersionStage reserve,
    /// A policy was set.
    PutResourcePolicy reserve,
    /// The guardrails were looked at.
    GetGuardrail ordinary,
    /// The identity policies were looked at.
    GetIdentityPolicy ordinary,
    /// A guardrail was set.
    PutGuardrail reserve,
    /// A guardrail was removed.
    DeleteGuardrail reserve,
    /// An identity's policy was set.
    PutIdentityPolicy reserve,
    /// An identity's policy was removed.
    DeleteIdentityPolicy reserve,
    /// The file of the configuration says something else than what is in force, or was sealed for the first time.
    ConfigChanged reserve,
    /// What the file says was put in force.
    AcceptConfig reserve,
    /// A policy or guardrail was replaced past every policy, by root without a daemon.
    BreakGlass reserve,
    /// A policy was removed.
    DeleteResourcePolicy reserve,
    /// A secret was deleted.
    DeleteSecret reserve,
    /// A deleted secret was put back.
    RestoreSecret reserve,
    /// A deleted secret's name and policy were removed.
    PurgeSecret reserve,
    /// A rotation began.
    RotateSecret reserve,
    /// Tags were set.
    TagResource reserve,
    /// Tags were removed.
    UntagResource reserve,
    /// The file system was mounted.
    Mount reserve,
    /// The file system was unmounted.
    Unmount reserve,
    /// The daemon began to serve.
    #[default]
    Startup reserve,
    /// The daemon stopped. Every count of refusals that is still open is written before it.
    Shutdown reserve,
    /// A record of the store is not what was written.
    IntegrityError ordinary,
    /// A handler failed; the request was answered with EIO.
    PanicCaught ordinary,
    /// How many refusals were counted and not written one by one.
    RefusalsSuppressed reserve,
    /// The first record of a segment.
    SegmentStarted reserve,
    /// The log can be written again, or an unfinished line of a crash was cut or marked.
    LogResumed reserve,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Allowed,
    /// The policy, or a rule that stands above policies, refused.
    Denied {
        /// A short word from a fixed set, as `implicit_deny`.
        reason: &'static str,
    },
    /// It was allowed and could not be done.
    Failed {
        /// A short word from a fixed set, as `integrity`.
        reason: &'static str,
    },
}

impl Default for Outcome {
    fn default() -> Self {
        Outcome::Failed {
            reason: "unspecified",
        }
    }
}

impl Outcome {
    /// `allowed`, `denied` or `failed`.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::Denied { .. } => "denied",
            Outcome::Failed { .. } => "failed",
        }
    }

    /// The reason of a refusal or failure.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Outcome::Allowed => None,
            Outcome::Denied { reason } | Outcome::Failed { reason } => Some(reason),
        }
    }
}

/// How much of the caller a record names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// All that is known.
    #[default]
    Full,
    /// The uid alone: later READs of a handle by the caller that the handle's first record names.
    Short,
}

/// Who asked. What is not known is `None` and left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Who<'a> {
    /// The kernel's word (fsuid).
    pub uid: u32,
    /// The kernel's word (fsgid).
    pub gid: u32,
    /// Supplementary groups: the first 32 are written, and the number and a digest of all.
    pub groups: Option<&'a [Gid]>,
    /// Process id (thread group).
    pub pid: Option<u32>,
    /// Thread id.
    pub tid: Option<u32>,
    /// When the process began, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: Option<u64>,
    /// The command name: any bytes, 16 at most are kept.
    pub command: Option<&'a [u8]>,
    /// The systemd unit.
    pub unit: Option<&'a str>,
    /// The login uid (`/proc/PID/loginuid`).
    pub login_uid: Option<u32>,
    /// The program's file, where it can be seen; never a fact to decide by.
    pub exe: Option<&'a str>,
}

/// An extra request parameter.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A string.
    Text(&'a str),
    /// A number.
    Number(u64),
    /// Numbers.
    Numbers(&'a [u64]),
    /// A truth.
    Flag(bool),
    /// Strings.
    List(&'a [&'a str]),
    /// The same.
    Texts(&'a [String]),
    /// Labels: `label`, `from` and `to`, which are versions.
    Labels(&'a [Changed]),
    /// Tags: `tag`, `old` and `new`.
    Tags(&'a [Changed]),
    /// Settings: `setting`, `old` and `new`.
    Settings(&'a [Changed]),
}

/// A label, tag or setting, and what it was and is; `None` where there was or is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its name.
    pub name: String,
    /// Before.
    pub old: Option<String>,
    /// After.
    pub new: Option<String>,
}

impl Changed {
    fn write(all: &[Changed], names: [&str; 3], end: usize, out: &mut Vec<u8>) {
        let room = end.min(out.len() + LIST);
        out.push(b'[');
        for (i, changed) in all.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.push(b'{');
            let inside = out.len();
            let more = (inside + 4 * ITEM > room).then(|| more(all.len() - i));
            let texts = match &more {
                Some(more) => [Some(more), None, None],
                None => [Some(&changed.name), changed.old.as_ref(), changed.new.as_ref()],
            };
            for (name, value) in names.iter().zip(texts) {
                if let Some(value) = value {
                    field(out, name);
                    json::clipped(out, value, ITEM);
                }
            }
            // As in the record itself, the first has no comma before it.
            out.remove(inside);
            out.push(b'}');
            if more.is_some() {
                break;
            }
        }
        out.push(b']');
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Text(text)
    }
}

impl From<u64> for Value<'_> {
    fn from(n: u64) -> Self {
        Value::Number(n)
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Value::Flag(flag)
    }
}

/// One record. Fill what is known; the log adds sequence, time, id and MAC. Whatever it is filled with, it makes a line:
/// what is too long is cut, and says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// What happened.
    pub event: Event,
    /// How it ended.
    pub outcome: Outcome,
    /// Who asked.
    pub who: Who<'a>,
    /// How much of `who` is written.
    pub identity: Identity,
    /// The secret's name.
    pub secret: Option<&'a str>,
    /// The version's id.
    pub version: Option<&'a str>,
    /// The version's labels, or the one by which it was chosen.
    pub labels: &'a [Label],
    /// The handle's number.
    pub handle: Option<u64>,
    /// Where the read began, in bytes.
    pub offset: Option<u64>,
    /// Bytes returned.
    pub length: Option<u64>,
    /// The policy layer that decided.
    pub layer: Option<&'static str>,
    /// The statement that decided (its Sid or number).
    pub statement: Option<&'a str>,
    /// The store's epoch at which it was decided, or that a change made.
    pub epoch: Option<u64>,
    /// `errorCode`, where it is neither of the usual `AccessDenied` and `InternalFailure`.
    pub error_code: Option<&'static str>,
    /// More request parameters.
    pub parameters: &'a [(&'static str, Value<'a>)],
    /// One line for people.
    pub message: Option<&'a str>,
    /// The door: `mount`, `control` or `command`; empty where there is none.
    pub via: &'static str,
}

impl Record<'_> {
    /// Whether it stands for bytes of a value that are given for it.
    pub(super) fn gives_value(&self) -> bool {
        self.event == Event::GetSecretValue && self.outcome == Outcome::Allowed
    }

    /// Whether it may use the reserve. A refused change may not: strangers can cause it.
    pub(super) fn may_use_reserve(&self) -> bool {
        self.event.may_use_reserve() && !matches!(self.outcome, Outcome::Denied { .. })
    }

    /// Appends `"eventName":…` and everything that follows but the epoch and the MAC.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"eventName\":\"");
        out.extend_from_slice(self.event.name().as_bytes());
        out.extend_from_slice(b"\",\"eventSource\":\"wardfs\",\"uid\":");
        json::number(out, self.who.uid.into());
        if self.identity == Identity::Full {
            self.who.write(out);
        }
        self.write_parameters(out);
        out.extend_from_slice(b",\"outcome\":\"");
        out.extend_from_slice(self.outcome.name().as_bytes());
        out.push(b'"');
        let code = self.error_code.or(match self.outcome {
            Outcome::Allowed => None,
            Outcome::Denied { .. } => Some("AccessDenied"),
            Outcome::Failed { .. } => Some("InternalFailure"),
        });
        text(out, "errorCode", code);
        text(out, "reason", self.outcome.reason());
        text(out, "layer", self.layer);
        text(out, "statement", self.statement);
        text(out, "message", self.message);
        if !self.via.is_empty() {
            text(out, "via", Some(self.via));
        }
    }

    fn write_parameters(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let end = start + PARAMETERS;
        out.extend_from_slice(b",\"requestParameters\":{");
        let inside = out.len();
        text(out, "secretId", self.secret);
        text(out, "versionId", self.version);
        if !self.labels.is_empty() {
            field(out, "versionStage");
            list(out, end, self.labels.iter().map(Label::as_str));
        }
        for (name, n) in [
            ("handle", self.handle),
            ("offset", self.offset),
            ("length", self.length),
        ] {
            optional(out, name, n);
        }
        for (name, value) in self.parameters {
            if out.len() > end {
                break;
            }
            field(out, name);
            match *value {
                Value::Text(t) => json::clipped(out, t, ITEM),
                Value::Number(n) => json::number(out, n),
                Value::Numbers(all) => numbers(out, all),
                Value::Flag(flag) => out.extend_from_slice(if flag { b"true" } else { b"false" }),
                Value::List(items) => list(out, end, items.iter().copied()),
                Value::Texts(items) => list(out, end, items.iter().map(String::as_str)),
                Value::Labels(all) => Changed::write(all, ["label", "from", "to"], end, out),
                Value::Tags(all) => Changed::write(all, ["tag", "old", "new"], end, out),
                Value::Settings(all) => Changed::write(all, ["setting", "old", "new"], end, out),
            }
        }
        if out.len() == inside {
            out.truncate(start);
        } else {
            // Each field was written with a comma before it; the first has none in an object.
            out.remove(inside);
            out.push(b'}');
        }
    }
}

impl Who<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        optional(out, "gid", Some(self.gid.into()));
        if let Some(groups) = self.groups {
            field(out, "groups");
            out.push(b'[');
            for (i, group) in groups.iter().take(GROUPS).enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                json::number(out, group.0.into());
            }
            out.push(b']');
            if groups.len() > GROUPS {
                optional(out, "groupsTotal", Some(groups.len() as u64));
                text(out, "groupsSha256", Some(&groups_digest(groups)));
            }
        }
        optional(out, "pid", self.pid.map(u64::from));
        optional(out, "tid", self.tid.map(u64::from));
        optional(out, "startTime", self.start_time);
        if let Some(command) = self.command {
            field(out, "command");
            json::bytes(out, &command[..command.len().min(16)]);
        }
        text(out, "unit", self.unit);
        optional(out, "loginUid", self.login_uid.map(u64::from));
        text(out, "exe", self.exe);
    }
}

/// SHA-256, in hex, over all groups in the kernel's order, each as four bytes, the high one first.
fn groups_digest(groups: &[Gid]) -> String {
    let mut digest = Sha256::new();
    for part in groups.chunks(1024) {
        let mut bytes = [0; 4096];
        for (bytes, group) in bytes.chunks_exact_mut(4).zip(part) {
            bytes.copy_from_slice(&group.0.to_be_bytes());
        }
        digest.update(&bytes[..4 * part.len()]);
    }
    HEXLOWER.encode(&digest.finalize())
}

pub(super) fn field(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

pub(super) fn text(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        field(out, name);
        json::clipped(out, value, TEXT);
    }
}

pub(super) fn optional(out: &mut Vec<u8>, name: &str, value: Option<u64>) {
    if let Some(n) = value {
        field(out, name);
        json::number(out, n);
    }
}

fn numbers(out: &mut Vec<u8>, all: &[u64]) {
    out.push(b'[');
    for (i, n) in all.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json::number(out, *n);
    }
    out.push(b']');
}

/// A list, as far as there is room for it before `end`.
fn list<'s>(out: &mut Vec<u8>, end: usize, items: impl ExactSizeIterator<Item = &'s str>) {
    let (room, len) = (end.min(out.len() + LIST), items.len());
    out.push(b'[');
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if out.len() + 2 * ITEM > room {
            json::string(out, &more(len - i));
            break;
        }
        json::clipped(out, item, ITEM);
    }
    out.push(b']');
}

/// Stands for so many at the end of a list that was cut.
fn more(left: usize) -> String {
    format!("[cut: {left} more]")
}
