//! Threads whose descriptors are kept from one request to the next. All that is kept of a thread is bound to the same
//! task, and answers ESRCH once that is gone.
//!
//! A thread that was given a value is expected again, and everything of it is kept. Of one that was not, a single
//! descriptor is: enough to know it again, and too little for strangers to use this process's up.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::proc::{Kept, Status};
use super::{Groups, Header, Look, Namespace, Scratch, Unidentified, long, pidfd, proc};

/// Threads that were given a value, kept at most; each has at most [`DESCRIPTORS_PER_THREAD`].
pub const KEPT_THREADS: usize = 1024;
/// Descriptors kept for a thread: a pidfd and four files under `/proc`.
pub const DESCRIPTORS_PER_THREAD: usize = 5;
/// Threads that were given nothing, kept at most, with a descriptor each.
pub const KEPT_STRANGERS: usize = 8;
/// So many are looked at whether they have ended, for each that comes: of those that have, no more are kept than of the
/// others.
const LOOKED_AT: usize = 2;

/// Whether a thread is expected again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was given nothing so far.
    Stranger,
    /// It was given a value.
    Served,
}

/// What is kept of a thread.
pub(super) struct Thread {
    pub tid: u32,
    /// With `PIDFD_GET_INFO` only.
    pub pidfd: Option<OwnedFd>,
    pub status: Kept,
    pub cgroup: Kept,
    pub comm: Kept,
    pub login_uid: Kept,
    /// When the thread started; `start_time` is its process's.
    pub born: u64,
    pub start_time: Option<u64>,
    /// But for a long list.
    pub groups: Option<Groups>,
    pub recorded_login: Option<(Instant, Option<u32>)>,
    pub namespace: Option<(Instant, Namespace)>,
    pub standing: Standing,
}

impl Thread {
    pub fn new(tid: u32, pidfd: Option<OwnedFd>, born: u64) -> Thread {
        Thread {
            tid,
            pidfd,
            status: Kept::new("status"),
            cgroup: Kept::new("cgroup"),
            comm: Kept::new("comm"),
            login_uid: Kept::new("loginuid"),
            born,
            start_time: None,
            groups: None,
            recorded_login: None,
            namespace: None,
            standing: Standing::Stranger,
        }
    }

    /// Keeps no more than what is needed to know it again.
    pub fn close_files(&mut self) {
        if self.pidfd.is_some() {
            self.status.close();
        }
        self.cgroup.close();
        self.comm.close();
        self.login_uid.close();
    }

    /// The thread as it is now, if its ids are the header's.
    pub fn look(&mut self, scratch: &mut Scratch, header: &Header) -> Result<Look, Unidentified> {
        match &self.pidfd {
            Some(fd) => {
                let info = pidfd::info(fd).map_err(|_| Unidentified::Gone)?;
                let theirs = (info.pid, info.fsuid, info.fsgid);
                if theirs != (header.tid.0, header.uid.0, header.gid.0) {
                    return Err(Unidentified::CredMismatch);
                }
                Ok(Look {
                    tgid: info.tgid,
                    parent: info.parent,
                    cgroup_id: info.cgroup_id,
                })
            }
            None => {
                let status = self.read_status(scratch, header)?;
                Ok(Look {
                    tgid: status.tgid,
                    parent: status.parent,
                    cgroup_id: None,
                })
            }
        }
    }

    /// `/proc/TID/status` as it is now, whose ids must be the header's; the groups go to `scratch.groups`. Of a thread
    /// with very many groups it cannot be had while another such one is read.
    pub fn read_status(&mut self, scratch: &mut Scratch, header: &Header) -> Result<Status, Unidentified> {
        let _turn = long::turn(header.uid).ok_or(Unidentified::Gone)?;
        self.status
            .read(self.tid, &mut scratch.text)
            .map_err(|_| Unidentified::Gone)?;
        if scratch.text.len() > long::LONG {
            long::expect(header.uid);
        }
        let status = proc::parse_status(&scratch.text, &mut scratch.groups).ok_or(Unidentified::Gone)?;
        if (status.tid, status.fsuid, status.fsgid) != (header.tid.0, header.uid.0, header.gid.0) {
            return Err(Unidentified::CredMismatch);
        }
        Ok(status)
    }

    fn has_ended(&mut self, text: &mut Vec<u8>) -> bool {
        match &self.pidfd {
            Some(fd) => pidfd::info(fd).is_err(),
            None => self.status.read(self.tid, text).is_err(),
        }
    }
}

/// As many threads as there is room for.
pub(super) struct Shelf {
    /// At least 1.
    room: usize,
    /// Parallel to `threads`, so that a search touches few cache lines.
    tids: Vec<u32>,
    used: Vec<u64>,
    pub threads: Vec<Thread>,
    /// How many were added, for which of them is looked at next.
    added: usize,
}

impl Shelf {
    pub fn new(room: usize) -> Shelf {
        Shelf {
            room,
            tids: Vec::new(),
            used: Vec::new(),
            threads: Vec::new(),
            added: 0,
        }
    }

    pub fn position(&self, tid: u32) -> Option<usize> {
        self.tids.iter().position(|t| *t == tid)
    }

    /// The thread at a position is seen at `clock`.
    pub fn seen(&mut self, index: usize, clock: u64) {
        self.used[index] = clock;
    }

    pub fn take(&mut self, index: usize) -> Thread {
        self.tids.swap_remove(index);
        self.used.swap_remove(index);
        self.threads.swap_remove(index)
    }

    /// Makes room where there is none, and says where the thread stands.
    pub fn add(&mut self, thread: Thread, clock: u64) -> usize {
        if self.threads.len() >= self.room {
            drop(self.take(self.stale(clock)));
        }
        self.tids.push(thread.tid);
        self.used.push(clock);
        self.threads.push(thread);
        self.threads.len() - 1
    }

    /// Forgets some that have ended: before one is added.
    pub fn forget_ended(&mut self, text: &mut Vec<u8>) {
        for _ in 0..LOOKED_AT {
            self.added = self.added.wrapping_add(1);
            let Some(index) = self.added.checked_rem(self.threads.len()) else {
                return;
            };
            if self.threads[index].has_ended(text) {
                drop(self.take(index));
            }
        }
    }

    /// Of two the one that was not seen for longer. The oldest of all takes longer to find, and where there are a few
    /// more than can be kept, each would be forgotten just before it is seen again.
    fn stale(&self, clock: u64) -> usize {
        // The multiplier spreads numbers that follow each other (Knuth, 6.4).
        let mixed = clock.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let count = self.used.len() as u64;
        let two = [(mixed >> 32) % count, (mixed & 0xffff_ffff) % count];
        let [a, b] = two.map(|n| n as usize);
        if self.used[a] <= self.used[b] { a } else { b }
    }
}
