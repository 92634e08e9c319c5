//! io_uring's second look at a value that is shorter than its buffer.
//!
//! A short read by io_uring through FUSE is tried again **at the same offset** (the position does not move), so that
//! the value would come back repeated in one buffer, up to 129 times. Such a read gives itself away by its
//! polls: one for exactly POLLIN that asks for no wake-up before the read, and one for POLLIN, POLLRDNORM and
//! POLLERR without POLLHUP after it, as no poll(2), select(2) or epoll sends. A thread that polled so is given
//! each offset of a handle once; the next READ there is EINVAL, upon which io_uring completes with the bytes that
//! it has. EOF instead would be taken for an empty value by a read that is really a second one.
//! `tests/kernel_facts/io_uring_reads.rs` shows all of it.

use std::collections::{BTreeSet, VecDeque};

/// io_uring threads that are remembered for a handle.
const THREADS: usize = 64;
/// Places that are remembered for each of them: more than reads that make sense of a value of 1 MiB.
const PLACES: usize = 65_536;
/// Latest reads of other threads that are remembered for a handle.
const LATEST: usize = 16;

/// What a poll asks for, in the bits of poll(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `POLLIN`, `POLLPRI` and so on.
    pub events: u32,
    /// Whether a wake-up is asked for.
    pub wake: bool,
}

const POLLIN: u32 = 0x001;
const POLLERR: u32 = 0x008;
const POLLHUP: u32 = 0x010;
const POLLRDNORM: u32 = 0x040;

impl Asked {
    /// Whether it is the poll of an io_uring read.
    pub fn is_io_uring_read(self) -> bool {
        let armed = POLLIN | POLLRDNORM | POLLERR;
        (self.events == POLLIN && !self.wake) || self.events & (armed | POLLHUP) == armed
    }
}

/// How a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It may be answered.
    Anew,
    /// It is the retry of one that was.
    Again,
}

/// The io_uring readers of one handle and the places that each was given; of all others the latest places, because
/// the mark may come after the first read.
#[derive(Debug, Default)]
pub struct Retries {
    marked: Vec<(u32, BTreeSet<u64>)>,
    latest: VecDeque<(u32, u64)>,
}

impl Retries {
    /// A thread polled as an io_uring read does.
    pub fn mark(&mut self, thread: u32) {
        if self.of(thread).is_some() {
            return;
        }
        if self.marked.len() == THREADS {
            self.marked.remove(0);
        }
        let places = self
            .latest
            .iter()
            .filter(|(t, _)| *t == thread)
            .map(|(_, offset)| *offset);
        self.marked.push((thread, places.collect()));
    }

    /// A read of this thread at this offset begins: the place counts as given from now on, so that of two in
    /// flight one is answered.
    pub fn begin(&mut self, thread: u32, offset: u64) -> Begun {
        match self.of(thread) {
            Some(places) if places.contains(&offset) => return Begun::Again,
            Some(places) if places.len() < PLACES => drop(places.insert(offset)),
            Some(_) => {}
            None => {
                if self.latest.len() == LATEST {
                    self.latest.pop_front();
                }
                self.latest.push_back((thread, offset));
            }
        }
        Begun::Anew
    }

    /// That read gave no byte, so the place is not given.
    pub fn nothing_given(&mut self, thread: u32, offset: u64) {
        match self.of(thread) {
            Some(places) => drop(places.remove(&offset)),
            None => {
                if let Some(at) = self.latest.iter().rposition(|place| *place == (thread, offset)) {
                    self.latest.remove(at);
                }
            }
        }
    }

    fn of(&mut self, thread: u32) -> Option<&mut BTreeSet<u64>> {
        self.marked
            .iter_mut()
            .find(|(t, _)| *t == thread)
            .map(|(_, places)| places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_polls_of_io_uring_reads_are_theirs() {
        let asked = |events, wake| Asked { events, wake }.is_io_uring_read();
        assert!(asked(0x1, false) && asked(0x4b, true));
        // poll and epoll for POLLIN, poll without wait, POLLPRI, both, select, select for exceptions, POLL_ADD.
        for (events, wake) in [
            (0x19, true),
            (0x19, false),
            (0x18, false),
            (0x1a, true),
            (0x1b, true),
            (0xfb, true),
            (0x22, true),
            (0x1, true),
        ] {
            assert!(!asked(events, wake), "{events:#x} {wake}");
        }
    }

    #[test]
    fn a_marked_thread_gets_each_place_once_and_others_as_often_as_they_ask() {
        use Begun::{Again, Anew};
        let mut retries = Retries::default();
        assert_eq!(
            [retries.begin(7, 0), retries.begin(7, 0)],
            [Anew, Anew],
            "an ordinary reader reads again"
        );
        retries.mark(7);
        assert_eq!(retries.begin(7, 0), Again, "the mark came after the first read");
        assert_eq!([retries.begin(7, 5), retries.begin(7, 5)], [Anew, Again]);
        assert_eq!(retries.begin(8, 5), Anew);
        for thread in 100..150 {
            assert_eq!(retries.begin(thread, 5), Anew);
        }
        assert_eq!(
            retries.begin(7, 5),
            Again,
            "other readers do not make it forgotten"
        );
        for thread in 100..300 {
            retries.mark(thread);
        }
        assert!(retries.marked.len() <= THREADS && retries.latest.len() <= LATEST);
    }

    #[test]
    fn what_gave_no_byte_may_be_tried_again() {
        let mut retries = Retries::default();
        retries.mark(7);
        assert_eq!(retries.begin(7, 0), Begun::Anew);
        retries.nothing_given(7, 0);
        assert_eq!(retries.begin(7, 0), Begun::Anew, "refused, or the log was full");
        assert_eq!(retries.begin(7, 0), Begun::Again);
        assert_eq!(retries.begin(8, 0), Begun::Anew);
        retries.nothing_given(8, 0);
        retries.mark(8);
        assert_eq!(retries.begin(8, 0), Begun::Anew);
    }
}
