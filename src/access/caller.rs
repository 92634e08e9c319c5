//! Who asks.

use crate::audit::{Identity, Who};
use crate::policy::{Facts, Reason};

/// What tells one caller from another across the reads of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerKey {
    /// fsuid.
    pub uid: u32,
    /// fsgid.
    pub gid: u32,
    /// Thread.
    pub tid: u32,
    /// The process's start, in clock ticks since boot.
    pub start: Option<u64>,
}

/// Who asks: the facts for the decision and the identity for the record.
pub trait Caller: Facts {
    /// Looks at the process behind the request; every read of a value does so before it is decided.
    ///
    /// # Errors
    /// Why the process cannot be known or is not who the kernel's header names.
    fn identify(&mut self) -> Result<(), Reason>;
    /// For the record.
    fn who(&mut self, detail: Identity) -> Who<'_>;
    /// The thread, as the request names it; 0 where it names none. Nothing is looked at for this.
    fn thread(&self) -> u32;
    /// Whether groups may be up to a second old from now on: for what a stat shows, never for a value.
    fn relax(&mut self, _relaxed: bool) {}
    /// He was answered what everybody is, though he has no right to anything here: for fairness it is a refusal.
    fn barely_answered(&mut self) {}
    /// It was given a value, and is likely to come again.
    fn was_served(&mut self) {}
    /// Whether groups were given that may not be so any more.
    fn relied_on_the_past(&self) -> bool {
        false
    }
    /// To tell a handle's callers apart.
    fn key(&mut self) -> CallerKey;
    /// Whether he waits for no answer any more, so that a long question need not be worked on.
    fn gone(&self) -> bool {
        false
    }
    /// By which door he comes: `mount`, `control` or `command`.
    fn door(&self) -> &'static str;
}
