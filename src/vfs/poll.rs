//! POLLPRI: "the value changed, reopen". Said at least once and at most twice for each handle and change: once
//! alone would be lost on whoever registers late or with a second epoll, and without an end a reader that
//! never reopens would spin.

use crate::id::VersionNo;

/// What the pollers of one handle were told.
#[derive(Debug, Default)]
pub struct PollState {
    /// The kernel's handle to wake, given by a poll that wants to be.
    waiter: Option<u64>,
    /// The newest version that was reported, and how often.
    told: Option<(VersionNo, u8)>,
}

/// How often a change is reported on one handle.
const TIMES: u8 = 2;

impl PollState {
    /// Answers a poll: whether POLLPRI is raised, the current value being `current` and the handle's `held`.
    pub fn poll(&mut self, held: VersionNo, current: Option<VersionNo>, waiter: Option<u64>) -> bool {
        if let Some(waiter) = waiter {
            self.waiter = Some(waiter);
        }
        let Some(current) = current.filter(|c| *c != held) else {
            return false;
        };
        let times = match self.told {
            Some((version, times)) if version == current => times,
            _ => 0,
        };
        if times >= TIMES {
            return false;
        }
        self.told = Some((current, times + 1));
        true
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
    fn a_change_is_told_once_at_least_and_twice_at_most() {
        let (v1, v2, v3) = (VersionNo(1), VersionNo(2), VersionNo(3));
        let mut state = PollState::default();
        assert!(!state.poll(v1, Some(v1), Some(4)));
        assert_eq!(state.waiter(), Some(4));
        assert!(state.poll(v1, Some(v2), None));
        assert!(state.poll(v1, Some(v2), None));
        assert!(!state.poll(v1, Some(v2), None), "the third time is silence");
        assert!(state.poll(v1, Some(v3), None), "a further change is told again");
        assert!(!state.poll(v3, Some(v3), None));
        assert!(!state.poll(v1, None, None));
    }
}
