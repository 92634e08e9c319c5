//! The opened store: keys, the snapshot that is served, the log, and commits that keep them consistent.
//!
//! A change is: decide and draft under the writer's lock → one store transaction with the records, their terms,
//! the epoch and the audit record in an outbox → append to the log, sync, anchor → publish the snapshot. Only
//! then the command returns 0. `load` is the way back: terms against the sum, records against their terms,
//! the log against its anchor, and an outbox replayed.

use self::writer::{Mark, Writer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use litemap::LiteMap;

use crate::audit::{Anchor, Log, LogError, VerifyError};
use crate::id::{Epoch, KeyId, Label, SecretId, SecretName, StoreId, VersionId, VersionName, VersionNo};
use crate::policy::{Administration, Compiled, Deciding, PolicyError};
use crate::problem::{Exit, Problem};
use crate::seal::{Context, DataKey, Keyring, RecordKind, SealError, Summing, TermSum};
use crate::secret::Sealed;
use crate::store::snapshot::{Indexed, Snapshot};
use crate::store::{Revision, Store, StoreError, Table};
use crate::sync::atomic::AtomicBool;
use crate::sync::{Mutex, MutexGuard, Peek, Swap};
use crate::sys::dir::Dir;
use crate::sys::files::{FileError, Unsafe};

mod backup;
mod bring;
mod check;
mod commit;
mod common;
mod create;
mod layers;
mod load;
mod lost;
mod meta;
mod proof;
mod reach;
mod settings;
#[cfg(test)]
pub(crate) mod tests;
mod upgrade;
mod view;
mod workers;
mod writer;

pub use backup::{Opener, Restored, Rollback, Saved, Trial, read_backup, restore};
pub use bring::{Kept, KeptVersion, NotKept};
pub use check::{Finding, Findings};
pub use commit::{Draft, Sameness};
pub use common::Common;
use common::exact;
pub use create::{Created, create, recover};
pub use layers::{LayerKey, LayerMeta, LayerRecord, LayerSet};
pub use lost::{LostLog, begin_log};
use meta::Pending;
pub use meta::{Appearance, EpochRecord, Life, Sealing, SecretMeta, VersionMeta, Visibility};
pub use reach::{PolicyNo, Reach};
pub use settings::in_force;
pub use view::View;

pub(crate) const SECRET: RecordKind = RecordKind(1);
pub(crate) const VERSION: RecordKind = RecordKind(2);
pub(crate) const EPOCH: RecordKind = RecordKind(3);
pub(crate) const KEY: RecordKind = RecordKind(5);
pub(crate) const LAYER: RecordKind = RecordKind(6);

/// Values up to this many bytes are kept in memory, sealed, with their version once they were read; longer ones are
/// fetched from the store each time a handle needs them.
const INLINE: u32 = 4096;

/// Why the store could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The backend.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Cryptography: tampering, a wrong key, a format that is too new.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A key file or another private file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store as a whole is not what it was when it was last written.
    #[error("{0}")]
    Integrity(String),
    /// The store is older than its log, or the log than its store.
    #[error("{0}")]
    RolledBack(String),
    /// A policy that was accepted once does not compile any more.
    #[error("the policy of {0} cannot be compiled: {1}")]
    Policy(SecretName, PolicyError),
    /// A sealed metadata record that is not the JSON it should be.
    #[error("a metadata record is not readable: {0}")]
    Meta(#[from] serde_json::Error),
    /// The disk is too small, or too full, for a new store.
    #[error("{0}")]
    NoRoom(String),
    /// A log that is to be given up, and opens.
    #[error("the log is there, and nothing of it that the store knows is missing or changed")]
    LogThere,
    /// Something is there where a store is to be restored.
    #[error("{0}")]
    Occupied(String),
    /// A backup that would take back changes.
    #[error(
        "the backup ends at change {backup}, and {present} are known here: what was changed since would be lost"
    )]
    OldBackup {
        /// The backup's last change.
        backup: u64,
        /// The last change that store or log know of.
        present: u64,
    },
    /// A store that was never finished.
    #[error("the store has no header: `init` did not finish, or it was removed")]
    Unfinished,
    /// A change that was made, and whose record is not in the log yet.
    #[error(
        "the change was made and stays, but its record is not safe in the log yet ({0}); that follows as soon as it is possible"
    )]
    Unrecorded(Box<VaultError>),
    /// Anything else from the system.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
}

/// Where nothing that is there helps.
const BACKUP: &str = "see what a backup would bring back: wardfs store restore FILE --dry-run";

impl VaultError {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        match self {
            VaultError::Store(e) => match e {
                StoreError::InUse { .. } => Exit::Unavailable,
                StoreError::NotFound { .. } => Exit::NotFound,
                StoreError::TooNew { .. } | StoreError::Corrupt { .. } | StoreError::Untrusted { .. } => {
                    Exit::Integrity
                }
                StoreError::Conflict { .. } | StoreError::Exists { .. } | StoreError::Unfit { .. } => {
                    Exit::Conflict
                }
                _ => Exit::Unavailable,
            },
            VaultError::Seal(SealError::Memory(_) | SealError::Random(_)) => Exit::Unavailable,
            VaultError::Seal(SealError::RecoveryLength { .. } | SealError::RecoveryGroup { .. }) => {
                Exit::Usage
            }
            VaultError::Seal(_)
            | VaultError::Integrity(_)
            | VaultError::RolledBack(_)
            | VaultError::OldBackup { .. }
            | VaultError::Unfinished
            | VaultError::Policy(..)
            | VaultError::Meta(_) => Exit::Integrity,
            VaultError::Occupied(_) | VaultError::LogThere => Exit::Conflict,
            VaultError::Log(e) => log_exit(e),
            // A key file that others could have read or exchanged is not to be believed, as any other tampering.
            VaultError::File(FileError::Unsafe { .. }) => Exit::Integrity,
            VaultError::File(FileError::Io { source, .. }) => match source.kind() {
                std::io::ErrorKind::NotFound => Exit::NotFound,
                std::io::ErrorKind::AlreadyExists => Exit::Conflict,
                std::io::ErrorKind::PermissionDenied => Exit::Denied,
                _ => Exit::Failed,
            },
            VaultError::Unrecorded(_) | VaultError::NoRoom(_) => Exit::Unavailable,
            VaultError::Io(..) => Exit::Failed,
        }
    }

    /// As the user is told of a store that does not open, or of a check that cannot be made: no command that opens it
    /// helps.
    pub fn unopened(&self, what: impl Into<String>) -> Problem {
        let problem = self.problem(what);
        match problem.next.ends_with("wardfs store check") {
            true => problem.next(match self {
                VaultError::Store(StoreError::Untrusted { .. }) => {
                    "mend that, after making sure that nobody used it, and try again"
                }
                _ => BACKUP,
            }),
            false => problem,
        }
    }

    /// As the user is told.
    pub fn problem(&self, what: impl Into<String>) -> Problem {
        let next = match self {
            VaultError::Store(StoreError::NotFound { .. }) => "create a store first: wardfs init",
            VaultError::Store(StoreError::InUse { .. }) => {
                "wait for that process, or stop it; commands reach a running `wardfs mount` by its socket"
            }
            VaultError::Store(StoreError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                "without a daemon only its owner may use a store: run the command as root, or start `wardfs mount`"
            }
            VaultError::Store(StoreError::Exists { .. }) => "name another directory with --store",
            VaultError::Store(StoreError::Unfit { .. }) => {
                "name a directory that does not exist yet, with --store: it is made"
            }
            VaultError::NoRoom(_) => {
                "make room there, or name another directory with --store; nothing was made"
            }
            VaultError::OldBackup { .. } => "if that is meant: --accept-rollback",
            VaultError::Occupied(_) => "move it away first, or name another directory with --store",
            VaultError::LogThere => "see whether all of it is genuine: wardfs audit verify",
            VaultError::Unfinished | VaultError::Log(LogError::Exists { .. }) => {
                "if `wardfs init` was interrupted here, nothing is in it yet: remove the directory and begin again"
            }
            VaultError::RolledBack(_)
            | VaultError::Integrity(_)
            | VaultError::Log(LogError::Missing { .. } | LogError::Behind { .. } | LogError::Broken(_)) => {
                "put back the store and the log that belong together; nothing was served or changed"
            }
            VaultError::Seal(SealError::WrongSlotSecret { .. } | SealError::NoSlot { .. }) => {
                "is this the root.key of this store?"
            }
            VaultError::File(FileError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                "a key file is there: is it the right one? Move it away first"
            }
            VaultError::File(FileError::Io { .. }) => {
                "put back the key file, or name it in wardfs.toml; if it is lost: wardfs store recover"
            }
            VaultError::File(FileError::Unsafe { why, .. }) => match why {
                Unsafe::WrongLength { .. } | Unsafe::TooLarge { .. } => {
                    "put the right key file back; if it is lost, move this one away, then: wardfs store recover"
                }
                _ => "chown root: and chmod 0600 it; it must be a regular file, not a link",
            },
            VaultError::Store(StoreError::Untrusted { .. }) => {
                "mend that, after making sure that nobody used it; then: wardfs store check"
            }
            VaultError::Store(StoreError::TooNew { .. })
            | VaultError::Seal(SealError::Format { .. })
            | VaultError::Log(LogError::TooNew { .. }) => "install a release of wardfs that reads it",
            VaultError::Store(StoreError::Corrupt { .. }) => BACKUP,
            VaultError::Store(StoreError::Conflict { .. }) => "try again",
            VaultError::Store(StoreError::TooLarge { .. }) => "store less in it",
            VaultError::Store(StoreError::Io { .. } | StoreError::Full { .. }) | VaultError::Io(..) => {
                "mend what the system says, and try again"
            }
            VaultError::Log(LogError::Unsafe { .. }) => {
                "give it back to the store's owner alone (a file with mode 0600, a directory with 0700, no link), then see \
                 whether it was changed: wardfs audit verify"
            }
            VaultError::Log(LogError::Full { .. }) => "make room for the log",
            VaultError::Log(LogError::Unanchored) => "see what the service says, and mend the store's disk",
            VaultError::Log(LogError::Unfit(_)) => "nothing was changed: change less at once",
            VaultError::Log(LogError::ReadOnly { .. }) | VaultError::Store(StoreError::ReadOnly { .. }) => {
                "mount it for writing; root reads a value all the same by: wardfs get NAME --unrecorded"
            }
            VaultError::Log(LogError::Untold(_)) => {
                "see to it that this process reaches /dev/kmsg, or the journal's socket"
            }
            VaultError::Log(_) | VaultError::Unrecorded(_) => {
                "make room for the log, or see what is wrong with it: wardfs audit verify"
            }
            VaultError::Seal(SealError::RecoveryLength { .. } | SealError::RecoveryGroup { .. }) => {
                "give the recovery key as `init` printed it"
            }
            VaultError::Seal(SealError::Memory(_)) => {
                "raise the limit of locked memory: ulimit -l, LimitMEMLOCK="
            }
            _ => "see what is wrong: wardfs store check",
        };
        Problem::new(self.exit(), what, self).next(next)
    }
}

fn log_exit(e: &LogError) -> Exit {
    match e {
        LogError::Missing { .. }
        | LogError::Behind { .. }
        | LogError::Broken(_)
        | LogError::TooNew { .. }
        | LogError::Unsafe { .. } => Exit::Integrity,
        _ => Exit::Unavailable,
    }
}

/// What a serving process may be told about its store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the key file is.
    pub key_file: PathBuf,
    /// How the log behaves.
    pub log: crate::audit::Options,
    /// Who administers, where the store seals no settings.
    pub administration: Administration,
    /// What a new store seals.
    pub deciding: Option<Deciding>,
}

/// Why a name of a version names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmeant {
    /// No version has it, as its label, its id or the beginning of its id.
    #[error("no version has that label, or an id that begins so")]
    Nothing,
    /// Several ids begin so.
    #[error("the ids of several versions begin so")]
    Several,
}

/// A secret's versions by number: few, so that the least memory is best.
pub type Versions = LiteMap<VersionNo, Arc<Version>>;

/// A secret as the serving path sees it.
pub struct Secret {
    /// Its metadata.
    pub meta: SecretMeta,
    /// Which term stands for its record.
    mark: Mark,
    /// Its policy, compiled.
    pub policy: Option<Compiled>,
    /// The labels of its current version.
    pub current_labels: Arc<[Label]>,
    /// Its versions by number.
    pub versions: Versions,
    /// Why its record cannot be believed, where that is so.
    pub broken: Option<Box<str>>,
}

impl Indexed for Secret {
    fn id(&self) -> SecretId {
        self.meta.id
    }
    fn name(&self) -> &SecretName {
        &self.meta.name
    }
}

impl Secret {
    fn new(
        meta: SecretMeta,
        mark: Mark,
        policy: Option<Compiled>,
        versions: Versions,
        broken: Option<Box<str>>,
        common: &Common,
    ) -> Self {
        let current = meta.labels.get("current").copied();
        let of_current = |(_, no): &(&Label, &VersionNo)| Some(**no) == current;
        let current_labels = meta
            .labels
            .iter()
            .filter(of_current)
            .map(|(label, _)| label.clone())
            .collect();
        let current_labels = common.label_sets.share(current_labels);
        let policy = policy.map(|policy| common.policies.share(policy));
        Secret {
            meta,
            mark,
            policy,
            current_labels,
            versions: exact(versions),
            broken,
        }
    }

    /// The version with this label.
    pub fn labelled(&self, label: &str) -> Option<&Arc<Version>> {
        self.versions.get(self.meta.labels.get(label)?)
    }

    /// The version that a plain open gets.
    pub fn current(&self) -> Option<&Arc<Version>> {
        self.labelled("current")
    }

    /// The version with this id.
    pub fn version(&self, id: &VersionId) -> Option<&Arc<Version>> {
        self.versions.values().find(|v| v.meta.id == *id)
    }

    /// The version that is meant: by its label, by its id, or by the beginning of its id.
    ///
    /// # Errors
    /// If there is none, or if several begin so.
    pub fn meant(&self, name: &VersionName) -> Result<&Arc<Version>, Unmeant> {
        let text = name.as_str();
        if let Some(version) = self.labelled(text) {
            return Ok(version);
        }
        let mut begin = self.versions.values().filter(|v| name.begins(v.meta.id.as_str()));
        match (begin.next(), begin.next()) {
            (Some(version), None) => Ok(version),
            (None, _) => Err(Unmeant::Nothing),
            // A whole id is meant although another one goes on from it.
            (Some(_), Some(_)) => {
                (self.versions.values().find(|v| v.meta.id.as_str() == text)).ok_or(Unmeant::Several)
            }
        }
    }

    /// The labels of a version.
    pub fn labels_of(&self, no: VersionNo) -> impl Iterator<Item = &Label> {
        self.meta
            .labels
            .iter()
            .filter(move |(_, v)| **v == no)
            .map(|(l, _)| l)
    }

    /// Whether its values exist.
    pub fn is_active(&self) -> bool {
        self.meta.life == Life::Active
    }
}

/// Names its version and nothing else.
impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Version({})", self.meta.id)
    }
}

/// A version as the serving path sees it: sealed, and with its data key in locked memory once it was needed.
pub struct Version {
    /// Its metadata.
    pub meta: VersionMeta,
    /// Which term stands for its record.
    mark: Mark,
    inline: OnceLock<Sealed>,
    key: OnceLock<DataKey>,
}

impl Version {
    /// With neither value nor key at hand.
    fn new(meta: VersionMeta, mark: Mark) -> Version {
        Version {
            meta,
            mark,
            inline: OnceLock::new(),
            key: OnceLock::new(),
        }
    }

    /// The same, with neither value nor key at hand.
    fn bare(&self) -> Version {
        Version::new(self.meta.clone(), self.mark)
    }

    fn context<'a>(&'a self, store: StoreId) -> Context<'a> {
        Context {
            store,
            tenant: "",
            name: &self.meta.name,
            secret: self.meta.secret,
            version: &self.meta.id,
            version_no: self.meta.no,
            key: self.meta.wrapped.key(),
        }
    }
}

/// The state that readers see: swapped whole.
pub struct State {
    /// Every secret.
    pub secrets: Snapshot<Secret>,
    /// Which of them there are for whom.
    pub reach: Reach,
    /// Whose a version is.
    pub versions: imbl::OrdMap<VersionNo, SecretId>,
    /// Guardrails and identity policies.
    pub layers: Arc<LayerSet>,
    /// What was found broken when the store was opened, without a name to answer under.
    pub lost: Arc<Lost>,
    common: Arc<Common>,
    /// The built-in policy layer.
    pub administration: Administration,
    /// The settings that decide, as they are sealed.
    pub settings: Sealing,
    /// The commit that made it.
    pub epoch: Epoch,
}

/// Records that cannot be believed and of which not even the name is known, each with the reason.
#[derive(Debug, Default)]
pub struct Lost {
    /// Secrets none of whose versions tells their name.
    pub secrets: Vec<(SecretId, String)>,
    /// Versions.
    pub versions: Vec<(VersionNo, String)>,
}

/// What a commit did to one secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// A name that was not readable before.
    Created,
    /// A new current value.
    Value,
    /// Settings or policy.
    Settings,
    /// Its values are gone.
    Deleted,
}

/// One change, as listeners hear of it after it is published.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which.
    pub id: SecretId,
    /// Its name.
    pub name: SecretName,
    /// What happened.
    pub kind: ChangeKind,
}

/// Somebody who wants to hear of changes. It is called with no lock held and must not wait.
pub type Listener = Box<dyn Fn(&Change) + Send + Sync>;

/// Somebody who has to do something before readers see a change, in the state that is to be. The writer's lock is held:
/// it must not wait for long.
pub type Preparer = Box<dyn Fn(&Change, &State) + Send + Sync>;

/// The opened store.
pub struct Vault {
    dir: PathBuf,
    id: StoreId,
    store: Box<dyn Store>,
    keyring: Keyring,
    log: Log,
    /// What the process was begun with: the owner, and what holds for a store that seals no settings.
    administration: Administration,
    state: Swap<State>,
    writer: Mutex<Writer>,
    listeners: OnceLock<Vec<Listener>>,
    preparer: OnceLock<Preparer>,
    failing: AtomicBool,
}

impl Vault {
    /// The directory it was opened in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// That directory itself, whatever its path leads to by now.
    pub fn home(&self) -> Option<&Dir> {
        self.store.home()
    }

    /// The store's identity.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The built-in policy layer.
    pub fn administration(&self) -> Administration {
        self.state.load().administration
    }

    /// What is served now.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// What is served now, for the length of one request and without touching its reference count.
    pub fn peek(&self) -> Peek<Arc<State>> {
        self.state.load()
    }

    /// The state after the change that is being made, if one is: it waits for that. For what looks damaged.
    pub fn after_changes(&self) -> Arc<State> {
        drop(self.lock());
        self.state()
    }

    /// Frees the store for another process, whatever the threads of this one do: for its end. Nothing is written after
    /// it. What a change has begun is finished by whoever opens the store next.
    pub fn release(self: &Arc<Self>) {
        const LIMIT: Duration = Duration::from_millis(500);
        // Nothing of it is ever dropped: that would write.
        std::mem::forget(self.clone());
        if !(self.log.end(LIMIT) && self.store.release(LIMIT)) {
            tracing::error!("a write does not end: the store stays this process's until it has ended");
        }
    }

    /// Names those who hear of changes; once, before service begins.
    pub fn listen(&self, listeners: Vec<Listener>) {
        let _ = self.listeners.set(listeners);
    }

    /// Who prepares for changes before they are published; once, before service begins.
    pub fn prepare(&self, preparer: Preparer) {
        let _ = self.preparer.set(preparer);
    }

    /// The sealed value of a version, from memory or from the store.
    ///
    /// # Errors
    /// If it is missing, or the store cannot be read.
    pub fn sealed_value(&self, version: &Version) -> Result<Sealed, VaultError> {
        if let Some(sealed) = version.inline.get() {
            return Ok(sealed.clone());
        }
        match self.store.get(Table::Value, &version.meta.no.0.to_be_bytes())? {
            Some(bytes) => {
                let sealed = Sealed(bytes.into());
                if version.meta.size <= INLINE {
                    let _ = version.inline.set(sealed.clone());
                }
                Ok(sealed)
            }
            None => Err(VaultError::Integrity(format!(
                "the value of version {} is missing",
                version.meta.id
            ))),
        }
    }

    /// The data key of a version, unwrapped once and kept in locked memory.
    ///
    /// # Errors
    /// If the key is not this version's, or locked memory is used up.
    pub fn data_key<'v>(&self, version: &'v Version) -> Result<&'v DataKey, VaultError> {
        if let Some(key) = version.key.get() {
            return Ok(key);
        }
        let key = self
            .keyring
            .unwrap(&version.context(self.id), &version.meta.wrapped)?;
        Ok(version.key.get_or_init(|| key))
    }

    /// What a value is bound to.
    pub fn context<'v>(&self, version: &'v Version) -> Context<'v> {
        version.context(self.id)
    }

    /// Verifies the whole log against its keys and the anchor that the store holds.
    ///
    /// # Errors
    /// The first line that is not what it was, by its sequence.
    pub fn verify_log(&self, progress: &mut dyn FnMut(u64)) -> Result<crate::audit::Verified, VerifyError> {
        let key = self
            .keyring
            .derive(crate::seal::Purpose::Audit)
            .map_err(|e| VerifyError::Key(e.to_string()))?;
        loop {
            let anchor = self.lock().anchor.clone();
            let verified =
                crate::audit::verify(&self.dir.join("audit"), self.id, &key, Some(&anchor), progress);
            // What was archived meanwhile is not missing.
            if verified.is_ok() || self.lock().anchor.oldest_segment == anchor.oldest_segment {
                return verified;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The named key of every new secret, until named keys can be chosen.
pub fn default_key() -> KeyId {
    KeyId::default_key()
}

fn term_key(kind: RecordKind, id: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = kind.0;
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

/// A record as it lies in the store: the epoch that wrote it, then the sealed bytes.
fn framed(revision: u64, sealed: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + sealed.len());
    out.extend_from_slice(&revision.to_be_bytes());
    out.extend_from_slice(sealed);
    out
}

fn unframed(record: &[u8]) -> Result<(u64, &[u8]), VaultError> {
    match record.split_first_chunk::<8>() {
        Some((revision, sealed)) => Ok((u64::from_be_bytes(*revision), sealed)),
        None => Err(VaultError::Integrity("a record is too short".into())),
    }
}
