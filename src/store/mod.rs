//! Durable truth: records of opaque bytes in numbered tables, changed by compare-and-swap commits.
//!
//! A store knows nothing of sealing, policies or the log. It hands back the bytes that the medium holds; whether
//! they are the bytes that were put is for the sealing above it to say, so that one damaged record harms no other.
//! [`Snapshot`](snapshot::Snapshot) is the index in memory that the serving path reads instead.
//!
//! | module | holds |
//! |---|---|
//! | [`embedded`] | the default: one `redb` file, owned by one process |
//! | [`memory`], [`faulty`] | for tests: a map, and a wrapper that fails when told to |
//! | [`feed`] | the changes after a revision |
//! | [`header`] | the first record of every store: format, reader, identity |
//! | [`snapshot`] | the immutable, structure-sharing index |

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::sys::dir::Dir;

pub mod embedded;
pub mod faulty;
pub mod feed;
pub mod header;
pub mod memory;
pub mod snapshot;

#[cfg(test)]
mod tests;

pub use feed::{Change, Event, Watch};

/// Most bytes that a record's key may have.
pub const MAX_KEY: usize = 64;
/// Most bytes that one record may have: far above the largest sealed value (1 MiB).
pub const MAX_RECORD: usize = 16 << 20;

/// The commit counter of a store: 0 when it is new, advanced by one by every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A group of records. The numbers are on disk (`packaging/doc/format.md`) and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Format, reader and identity of the store: [`header`].
    Header = 0,
    /// The root key, wrapped, once for each way to open the store.
    Slot = 1,
    /// Named keys, wrapped by the root key.
    Key = 2,
    /// Secrets: sealed metadata.
    Secret = 3,
    /// Versions: sealed metadata and the wrapped data key.
    Version = 4,
    /// Values, sealed.
    Value = 5,
    /// A keyed term for each record, summed up in the epoch record.
    Term = 6,
    /// The sealed epoch record.
    Epoch = 7,
    /// Audit records of committed changes that are not in the log yet.
    Outbox = 8,
    /// Guardrails and identity policies: sealed metadata.
    Layer = 9,
}

impl Table {
    /// Every table, in the order of the numbers.
    pub const ALL: [Table; 10] = [
        Table::Header,
        Table::Slot,
        Table::Key,
        Table::Secret,
        Table::Version,
        Table::Value,
        Table::Term,
        Table::Epoch,
        Table::Outbox,
        Table::Layer,
    ];

    /// The number on disk.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// A record's key within its table: up to [`MAX_KEY`] bytes, compared as bytes. Numbers are big-endian, so
/// that they are listed in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

/// A listed key as the number it was made from; `None` if it is not eight bytes.
pub fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// A listed key as the pair of numbers it was made from; `None` if it is not sixteen bytes.
pub fn pair(key: &[u8]) -> Option<(u64, u64)> {
    let (a, b) = key.split_at_checked(8)?;
    Some((number(a)?, number(b)?))
}

impl std::ops::Deref for Key {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<u64> for Key {
    fn from(n: u64) -> Self {
        Key(n.to_be_bytes().to_vec())
    }
}

impl From<(u64, u64)> for Key {
    fn from((a, b): (u64, u64)) -> Self {
        Key([a.to_be_bytes(), b.to_be_bytes()].concat())
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Key(bytes.to_vec())
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Key(bytes)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key(text.as_bytes().to_vec())
    }
}

/// One change of one record.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes the record, whether it is there or not.
    Put {
        /// Where.
        table: Table,
        /// Which.
        key: Key,
        /// What: at most [`MAX_RECORD`] bytes.
        bytes: Arc<[u8]>,
    },
    /// Removes the record; nothing happens if it is not there.
    Delete {
        /// Where.
        table: Table,
        /// Which.
        key: Key,
    },
}

impl Op {
    /// The record it changes.
    pub fn target(&self) -> (Table, &Key) {
        match self {
            Op::Put { table, key, .. } | Op::Delete { table, key } => (*table, key),
        }
    }
}

/// What a commit may take of the medium's space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Space {
    /// What is free.
    #[default]
    Free,
    /// What is kept for changes that take away, too.
    Reserve,
}

/// Changes that are made together or not at all, in their order: of two that touch a record the later wins.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    ops: Vec<Op>,
    space: Space,
}

impl Batch {
    /// No change yet, which may take what is free.
    pub fn new() -> Self {
        Batch::default()
    }

    /// No change yet, which may take so much.
    pub fn within(space: Space) -> Self {
        Batch {
            space,
            ..Batch::default()
        }
    }

    /// The first changes of it.
    fn first(&self, changes: usize) -> Self {
        Batch {
            ops: self.ops.iter().take(changes).cloned().collect(),
            space: self.space,
        }
    }

    /// What it may take.
    pub fn space(&self) -> Space {
        self.space
    }

    /// Adds a write.
    pub fn put(&mut self, table: Table, key: impl Into<Key>, bytes: impl Into<Arc<[u8]>>) -> &mut Self {
        self.ops.push(Op::Put {
            table,
            key: key.into(),
            bytes: bytes.into(),
        });
        self
    }

    /// Adds a removal.
    pub fn delete(&mut self, table: Table, key: impl Into<Key>) -> &mut Self {
        self.ops.push(Op::Delete {
            table,
            key: key.into(),
        });
        self
    }

    /// The changes.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether there is no change at all. Such a batch may be committed; the revision advances.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Refuses a key or a record past its bound.
    fn check(&self) -> Result<(), StoreError> {
        for op in &self.ops {
            let (_, key) = op.target();
            if key.len() > MAX_KEY {
                return Err(StoreError::TooLarge {
                    what: "key",
                    len: key.len(),
                    max: MAX_KEY,
                });
            }
            if let Op::Put { bytes, .. } = op
                && bytes.len() > MAX_RECORD
            {
                return Err(StoreError::TooLarge {
                    what: "record",
                    len: bytes.len(),
                    max: MAX_RECORD,
                });
            }
        }
        Ok(())
    }
}

/// What [`Store::check`] went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records found.
    pub records: u64,
    /// Bytes of keys and records.
    pub bytes: u64,
}

/// Durable records. Every method may wait for a disk or a network: nothing that answers a reader may call any
/// but [`get`](Store::get), and that of a local store only.
pub trait Store: Send + Sync {
    /// The number of the last commit.
    fn revision(&self) -> Result<Revision, StoreError>;

    /// Calls `each` with key and bytes of every record of `table`, in the order of the keys, until it breaks off.
    /// One call sees one revision, whatever is committed meanwhile. The bytes are as the medium holds them.
    #[expect(
        clippy::type_complexity,
        reason = "an alias would have to spell out the lifetimes"
    )]
    fn list(
        &self,
        table: Table,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Calls `each` with table, key and bytes of every record, in the order of tables and keys, until it breaks off.
    /// One call sees one revision, whatever is committed meanwhile.
    #[expect(
        clippy::type_complexity,
        reason = "an alias would have to spell out the lifetimes"
    )]
    fn dump(&self, each: &mut dyn FnMut(Table, &[u8], &[u8]) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// The record, as the medium holds it; `None` if there is none.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Makes all changes of `batch`, durably, if `base` is the present revision, and returns the new one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another commit came first: nothing is changed. After [`StoreError::Io`] the
    /// medium decides whether the batch is there, whole or not at all: ask for the revision.
    fn commit(&self, base: Revision, batch: &Batch) -> Result<Revision, StoreError>;

    /// The changes after `since`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if `since` is later than the present revision.
    fn watch(&self, since: Revision) -> Result<Watch, StoreError>;

    /// Goes through the whole medium and compares every page with its checksum. `progress` is told the part done,
    /// from 0 to 1. Readers go on meanwhile, commits wait.
    fn check(&self, progress: &mut dyn FnMut(f64)) -> Result<Checked, StoreError>;

    /// The directory that it has, held; `None` for a medium that has none.
    fn home(&self) -> Option<&Dir> {
        None
    }

    /// Gives the medium up to another process while this value lives on: the last call to it. Nothing is written any
    /// more, and who would, waits. False, and nothing given up, if a commit is under way longer than `limit`.
    fn release(&self, _limit: Duration) -> bool {
        true
    }
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process owns the store.
    #[error("the store {} is in use{}; stop its owner, or let it do the work through its control socket",
        path.display(), owner(*pid))]
    InUse {
        /// The store's directory.
        path: PathBuf,
        /// Its owner, where it can be told.
        pid: Option<u32>,
    },
    /// There is no store.
    #[error("there is no store at {}; `wardfs init` makes one", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is a store already.
    #[error("there is a store at {} already", path.display())]
    Exists {
        /// The store's directory.
        path: PathBuf,
    },
    /// A directory that is there for something else: others may look into it.
    #[error("{} was made for something else: others may look into it", path.display())]
    Unfit {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory that somebody else could have written or read.
    #[error("{} cannot be trusted: {why}", path.display())]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it, and how to mend it.
        why: String,
    },
    /// A later release wrote the store in a way that this one does not understand.
    #[error("the store has format {format}, which this release does not read; {}", reader(*version))]
    TooNew {
        /// The format found.
        format: u16,
        /// The oldest format whose readers understand it.
        min_reader: u16,
        /// The first release that reads it, where the store says so.
        version: Option<header::Release>,
    },
    /// The bytes contradict themselves.
    #[error("{what} is damaged: {detail}; restore a backup")]
    Corrupt {
        /// What was read.
        what: String,
        /// What was wrong with it.
        detail: String,
    },
    /// Another commit came first, or the revision is not reached yet.
    #[error("the store is at revision {found}, not at {expected}: something else changed it; try again")]
    Conflict {
        /// The revision that the caller knew.
        expected: Revision,
        /// The present one.
        found: Revision,
    },
    /// No room on the medium. The store stays as it was and takes commits again when there is room.
    #[error("no space left for the store {}; make room and try again", path.display())]
    Full {
        /// The store's file.
        path: PathBuf,
    },
    /// The store was opened on a disk that cannot be written.
    #[error("the store {} is on a file system that cannot be written: nothing can be changed", path.display())]
    ReadOnly {
        /// The store's directory.
        path: PathBuf,
    },
    /// A key or record past its bound.
    #[error("a {what} of {len} bytes is too large for the store; the limit is {max}")]
    TooLarge {
        /// `key` or `record`.
        what: &'static str,
        /// Bytes found.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The object.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(
        || " by another process".into(),
        |pid| format!(" by process {pid}"),
    )
}

fn reader(version: Option<header::Release>) -> String {
    version.map_or_else(
        || "a later release of wardfs does".into(),
        |v| format!("wardfs {v} or later does"),
    )
}
