//! io_uring's second look at a value that is shorter than its buffer.
//!
//! A short read by io_uring through FUSE is tried again **at the same offset** (the position does not move), so that
//! the value would come back repeated in one buffer, up to 129 times. Such a read gives itself away by its
//! polls: one for exactly POLLIN that asks for no wake-up before the read, and one for POLLIN, POLLRDNORM and
//! POLLERR without POLLHUP after it, as no poll(2), select(2) or epoll sends. A thread that polled so is given
//! each offset of a handle once; the next READ there is EINVAL, upon which io_uring completes with the bytes that
//! it has. EOF instead would be taken for an empty value by a read that is really a second one.
//! `tests/kernel_facts/io_uring_reads.rs` shows all of it.

use std::collections::VecDeque;

/// Threads and places that are remembered for a handle.
const KEPT: usize = 64;

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

/// The io_uring readers of one handle, and what every thread was given of it lately: a mark may come after the
/// first read.
#[derive(Debug, Default)]
pub struct Retries {
    marked: VecDeque<u32>,
    given: VecDeque<(u32, u64)>,
}

impl Retries {
    /// A thread polled as an io_uring read does.
    pub fn mark(&mut self, thread: u32) {
        if !self.marked.contains(&thread) {
            keep(&mut self.marked, thread);
        }
    }

    /// Whether a READ of this thread at this offset is a retry. If not, it is remembered as given.
    pub fn is_retry(&mut self, thread: u32, offset: u64) -> bool {
        let place = (thread, offset);
        if self.given.contains(&place) {
            return self.marked.contains(&thread);
        }
        keep(&mut self.given, place);
        false
    }
}

fn keep<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == KEPT {
        list.pop_front();
    }
    list.push_back(item);
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
        let mut retries = Retries::default();
        assert!(!retries.is_retry(7, 0));
        assert!(!retries.is_retry(7, 0), "an ordinary reader reads again");
        retries.mark(7);
        assert!(retries.is_retry(7, 0), "the mark came after the first read");
        assert!(!retries.is_retry(7, 5));
        assert!(retries.is_retry(7, 5));
        assert!(!retries.is_retry(8, 5));
        for thread in 100..300 {
            retries.mark(thread);
            assert!(!retries.is_retry(thread, 0));
        }
        assert!(retries.marked.len() <= KEPT && retries.given.len() <= KEPT);
    }
}
