//! What a service counts, from its start.

use crate::sync::atomic::{AtomicU64, Ordering};

use crate::access::AccessError;
use crate::audit::LogError;

/// Why an open or a READ that the policy allowed gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The log has no space for its record.
    LogFull,
    /// Its record could not be written for another reason.
    LogUnwritable,
    /// The value or its record is not what was written.
    Damaged,
    /// The store could not be read, or locked memory is used up.
    Unavailable,
}

impl Failure {
    const ALL: [Failure; 4] = [
        Failure::LogFull,
        Failure::LogUnwritable,
        Failure::Damaged,
        Failure::Unavailable,
    ];

    /// What of this is a failure: a refusal is none, nor is a name that is not there.
    pub(super) fn of(e: &AccessError) -> Option<Failure> {
        match e {
            AccessError::Denied(_)
            | AccessError::Hidden(_)
            | AccessError::NotFound
            | AccessError::Revoked => None,
            AccessError::Integrity(_) => Some(Failure::Damaged),
            AccessError::Log(LogError::Full { .. }) => Some(Failure::LogFull),
            AccessError::Log(_) => Some(Failure::LogUnwritable),
            AccessError::Unavailable(_) => Some(Failure::Unavailable),
        }
    }

    /// The word for it in `failed_reads`.
    pub fn code(self) -> &'static str {
        match self {
            Failure::LogFull => "log_full",
            Failure::LogUnwritable => "log_unwritable",
            Failure::Damaged => "damaged",
            Failure::Unavailable => "unavailable",
        }
    }
}

/// Counters of the service; names as `status` shows them.
#[derive(Default)]
pub struct Counters {
    /// LOOKUPs answered or refused.
    pub lookups: AtomicU64,
    /// OPENs answered or refused.
    pub opens: AtomicU64,
    /// READs answered or refused.
    pub reads: AtomicU64,
    /// Requests refused by policy.
    pub refused: AtomicU64,
    /// Requests for something that this file system does not do.
    pub unsupported: AtomicU64,
    /// Panics of handlers that were caught.
    pub panics: AtomicU64,
    /// READs that had to wait for their uid's turn.
    pub held: AtomicU64,
    /// Requests that waited for their owner's turn.
    pub queued: AtomicU64,
    /// Refusals that were answered later, in a flood of them.
    pub delayed: AtomicU64,
    failed: [AtomicU64; 4],
}

impl Counters {
    /// Names and values.
    pub fn list(&self) -> [(&'static str, u64); 9] {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        [
            ("lookups", get(&self.lookups)),
            ("opens", get(&self.opens)),
            ("reads", get(&self.reads)),
            ("refused", get(&self.refused)),
            ("unsupported", get(&self.unsupported)),
            ("panics", get(&self.panics)),
            ("held", get(&self.held)),
            ("queued", get(&self.queued)),
            ("delayed", get(&self.delayed)),
        ]
    }

    /// Opens and READs that failed for this cause.
    pub(super) fn failed(&self, failure: Failure) -> &AtomicU64 {
        &self.failed[failure as usize]
    }

    /// Opens and READs that failed, by cause.
    pub fn failed_reads(&self) -> [(&'static str, u64); 4] {
        Failure::ALL.map(|f| (f.code(), self.failed(f).load(Ordering::Relaxed)))
    }
}
