//! What can be wrong with a log, in words.

use std::io;
use std::path::{Path, PathBuf};

/// What was done to a log, as far as its chain shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokenKind {
    /// The record at this place is not the one that was written.
    Edited,
    /// One or more records are missing from this place on.
    Removed,
    /// A record that was not written here stands at this place.
    Inserted,
    /// The record of this place stands further down.
    Reordered,
    /// The log ends before a record that is known to have been durable.
    Truncated,
    /// A whole segment is missing.
    Missing,
    /// The last line is unfinished although a record there is known to have been durable.
    Torn,
    /// The record was made with this log's key, but is not the one that the store's anchor knows.
    Replaced,
    /// The segment names another store.
    Foreign,
}

/// The first place at which a log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: line {line}: record {sequence}: {text}", segment.display())]
pub struct Broken {
    /// The sequence number of the first record that is not in order.
    pub sequence: u64,
    /// The segment's file.
    pub segment: PathBuf,
    /// The line in it, from 1; 0 where there is none.
    pub line: u64,
    /// What was done.
    pub kind: BrokenKind,
    /// The same in words.
    pub text: String,
}

/// Why the log cannot be opened, or a record cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// No space: what is left is kept for administration, or nothing is left.
    #[error("{}: no space left for audit records (what is reserved is kept for administration)", path.display())]
    Full {
        /// The segment.
        path: PathBuf,
    },
    /// The store has not taken an anchor for so long that the records of reads could be cut off unseen.
    #[error("the store has taken no anchor of the log's last records for {} s: is it writable?", super::ANCHOR_LIMIT.as_secs())]
    Unanchored,
    /// The store is looked at on a disk that cannot be written.
    #[error("{}: on a file system that cannot be written: nothing can be recorded there", path.display())]
    ReadOnly {
        /// The log's directory.
        path: PathBuf,
    },
    /// Neither the kernel's log nor the journal took the line that stands for a record.
    #[error("neither the kernel's log nor the journal takes a line about it ({0})")]
    Untold(io::Error),
    /// The segment was deleted, moved or replaced while it was written.
    #[error("{}: the audit log was deleted, moved or replaced while it was in use", path.display())]
    Deleted {
        /// The segment.
        path: PathBuf,
    },
    /// The segment changed in size by another hand than ours.
    #[error("{}: the audit log was changed by another program while it was in use", path.display())]
    Altered {
        /// The segment.
        path: PathBuf,
    },
    /// The log, or the segment that the anchor names, is not there.
    #[error("{}: the audit log is missing", path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
    },
    /// The log ends before its anchor.
    #[error("{}: the audit log ends before record {anchored}, which the store knows to have been written", path.display())]
    Behind {
        /// The segment of the anchor.
        path: PathBuf,
        /// The anchored sequence number.
        anchored: u64,
    },
    /// It was changed behind its anchor.
    #[error("the audit log was changed: {0}")]
    Broken(#[from] Broken),
    /// It is of a format that this program cannot read.
    #[error("{}: written in log format {format}; wardfs with log format {min_reader} or later reads it (this one: {})", path.display(), super::FORMAT)]
    TooNew {
        /// The segment.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The oldest format number of a reader that understands it.
        min_reader: u32,
    },
    /// The file or directory could be read or changed by others, or is of another kind.
    #[error("{}: {why}", path.display())]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is a log already.
    #[error("{}: there is an audit log already", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// The record cannot be written as one line.
    #[error("the audit record is not fit to be written: {0}")]
    Unfit(&'static str),
    /// A line that is no record (found by a query; `verify` says what was done).
    #[error("{}: byte {offset}: not an audit record; verify the log", path.display())]
    Unreadable {
        /// The segment.
        path: PathBuf,
        /// Where the line begins.
        offset: u64,
    },
    /// The segment's key could not be made.
    #[error("the audit log's key cannot be held in locked memory: {0}")]
    Key(String),
}

impl LogError {
    pub(super) const TOO_LONG: LogError = LogError::Unfit("it is longer than 128 KiB");

    pub(super) fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        LogError::Io {
            path: path.into(),
            source: source.into(),
        }
    }
}

/// Why a log did not verify.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is not what was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// It is of a format that this program cannot read.
    #[error("{}: written in log format {format}; wardfs with log format {min_reader} or later verifies it", path.display())]
    TooNew {
        /// The segment.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The oldest format number of a reader that understands it.
        min_reader: u32,
    },
    /// It could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The key could not be made.
    #[error("the audit log's key cannot be had: {0}")]
    Key(String),
}

impl From<LogError> for VerifyError {
    fn from(e: LogError) -> Self {
        match e {
            LogError::Broken(b) => VerifyError::Broken(b),
            LogError::TooNew {
                path,
                format,
                min_reader,
            } => VerifyError::TooNew {
                path,
                format,
                min_reader,
            },
            LogError::Io { path, source } => VerifyError::Io { path, source },
            LogError::Key(text) => VerifyError::Key(text),
            LogError::Missing { path } => VerifyError::Broken(Broken {
                sequence: 1,
                text: "the audit log is missing".into(),
                segment: path,
                line: 0,
                kind: BrokenKind::Missing,
            }),
            other => VerifyError::Io {
                path: PathBuf::new(),
                source: io::Error::other(other.to_string()),
            },
        }
    }
}
