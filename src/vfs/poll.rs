//! POLLPRI: "the value changed, reopen". Told to each waiting thread of a handle at least once and at most twice for
//! each change: epoll asks once when it is told of the handle and once more before it wakes its caller; without an
//! end a reader that never reopens would spin.

use crate::id::VersionNo;

/// Threads that are remembered for a handle; beyond it the oldest may be told once more.
const KEPT: usize = 1024;
/// How often a change is told to a thread.
const TIMES: u8 = 2;

/// What the pollers of one handle were told.
#[derive(Debug, Default)]
pub struct PollState {
    /// The kernel's handle to wake. It belongs to the open file for its life, and wakes all who wait for it.
    waiter: Option<u64>,
    /// The change that is told now.
    change: Option<VersionNo>,
    told: Vec<(u32, u8)>,
}

impl PollState {
    /// The kernel's handle, to be kept **before** the current version is looked up: a change in between finds it.
    pub fn wait(&mut self, waiter: u64) {
        self.waiter = Some(waiter);
    }

    /// Whether POLLPRI is raised for `thread`, the current version being `current` and the handle's `held`.
    pub fn raise(&mut self, held: VersionNo, current: Option<VersionNo>, thread: u32) -> bool {
        let Some(current) = current.filter(|c| *c != held) else {
            return false;
        };
        if self.change != Some(current) {
            self.change = Some(current);
            self.told.clear();
        }
        match self.told.iter_mut().find(|(t, _)| *t == thread) {
            Some((_, times)) if *times >= TIMES => false,
            Some((_, times)) => {
                *times += 1;
                true
            }
            None => {
                if self.told.len() == KEPT {
                    self.told.remove(0);
                }
                self.told.push((thread, 1));
                true
            }
        }
    }

    /// Who is to be woken by a change.
    pub fn waiter(&self) -> Option<u64> {
        self.waiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_at_least_and_twice_at_most_to_each_thread() {
        let (v1, v2, v3) = (VersionNo(1), VersionNo(2), VersionNo(3));
        let mut state = PollState::default();
        assert!(!state.raise(v1, Some(v1), 7));
        state.wait(4);
        assert_eq!(state.waiter(), Some(4));
        assert!(state.raise(v1, Some(v2), 7));
        assert!(state.raise(v1, Some(v2), 7));
        assert!(!state.raise(v1, Some(v2), 7), "the third time is silence");
        assert!(state.raise(v1, Some(v2), 8), "another thread is told, too");
        assert!(state.raise(v1, Some(v3), 7), "a further change is told again");
        assert!(!state.raise(v3, Some(v3), 7));
        assert!(!state.raise(v1, None, 7));
        for thread in 100..3000 {
            assert!(state.raise(v1, Some(v3), thread));
        }
        assert!(state.told.len() <= KEPT);
    }
}
