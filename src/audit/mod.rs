//! The tamper-evident log: JSON Lines in segments, each line bound to its predecessor by a MAC, appended by one
//! write(2) before its caller gets a byte.
//!
//! A [`Record`] goes in, a [`Receipt`] comes out, and only this room makes one. [`Log`] is the open log of the one
//! process that owns the store; [`verify`] needs the key and the directory, [`query`] and [`Follower`] the
//! directory alone. `packaging/doc/audit.md` has the fields, the chain and what verifying finds.

mod anchor;
mod archive;
mod body;
mod budget;
mod chain;
mod error;
mod flood;
mod json;
mod log;
mod open;
mod page;
mod query;
mod record;
mod segment;
mod unrecorded;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use anchor::{Anchor, Archived};
pub use archive::{AT_ONCE, Finished, Wanted, file_name, head_text, named, segments, since_archived};
pub use body::Body;
pub use error::{Broken, BrokenKind, LogError, VerifyError};
pub use flood::Refused;
pub use log::{Admitted, Log, Receipt};
pub use open::opens;
pub use page::{Item, Page, Place, back, page};
pub use query::{Entry, Follower, Query, newest_of, query, tail};
pub use record::{Changed, Event, Identity, Outcome, Record, Value, Who};
pub use segment::{FORMAT, MIN_READER};
pub use unrecorded::Unrecorded;
pub use verify::{Verified, verify};
pub use writer::HOLD;

/// No byte is read while a record waits for its anchor for longer: what was written after the last anchor can be cut
/// off unseen.
pub const ANCHOR_LIMIT: Duration = Duration::from_secs(10);

/// How a log behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment of this many bytes is followed by a new one.
    pub segment_bytes: u64,
    /// Bytes kept allocated behind the last record, so that administration remains possible on a full disk.
    pub reserve_bytes: u64,
    /// While the file system has less free than this, in bytes, each account's budget binds.
    pub low_space_bytes: u64,
    /// The budget: bytes of records of reads for each account and second, and 16 seconds' worth at once.
    pub uid_bytes_per_second: u64,
    /// Bytes a second for records of what changed nothing and gave no byte, of all callers together, and 16 seconds'
    /// worth at once. A quarter of it is there besides for refused deletions and refused changes of what decides.
    pub refusal_bytes_per_second: u64,
    /// Refusals of one kind (owner, event, secret, reason) written one by one in a window; the others are counted.
    pub refusals_per_window: u32,
    /// How long a window of refusals is.
    pub refusal_window: Duration,
}

impl Options {
    /// Bytes that a new segment takes on disk, with the reserve.
    pub fn first_segment(&self) -> u64 {
        self.reserve_bytes + writer::GROWTH
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            reserve_bytes: 4 << 20,
            low_space_bytes: 1 << 30,
            uid_bytes_per_second: 64 << 10,
            refusal_bytes_per_second: 64 << 10,
            refusals_per_window: 10,
            refusal_window: Duration::from_secs(1),
        }
    }
}
