//! The user namespace of a caller.
//!
//! `PIDFD_GET_USER_NAMESPACE` and `/proc/TID/ns/user` would say in half the time that it is this process's own, but ask for
//! the right to trace the caller (`ptrace_may_access`), which a serving process gave up.

use std::time::Instant;

use super::{Identified, RECORD_AGE, proc};
use crate::sys::accounts::{Namespace, namespace_of_map};

impl Identified<'_> {
    /// The user namespace that the thread is in now. Its map is opened each time: a descriptor shows the namespace of its
    /// opening, and a process leaves the initial one when it likes.
    pub fn namespace(&mut self) -> Namespace {
        let namespace = match proc::read_anew(self.thread.tid, "uid_map", &mut self.scratch.text) {
            Ok(()) => namespace_of_map(&self.scratch.text),
            Err(_) => Namespace::Foreign,
        };
        self.namespace_old = false;
        self.thread.namespace = Some((Instant::now(), namespace));
        namespace
    }

    /// The user namespace that the thread was in at most 1 s ago: for what a look-up or a stat shows, never for what
    /// gives a value.
    pub fn namespace_lately(&mut self) -> Namespace {
        match self.thread.namespace {
            Some((at, namespace)) if at.elapsed() <= RECORD_AGE => {
                self.namespace_old = true;
                namespace
            }
            _ => self.namespace(),
        }
    }
}
