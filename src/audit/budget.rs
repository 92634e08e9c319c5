//! What each account may still write while the log's file system runs low, so that one that floods it is slowed, alone.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::id::Uid;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::accounts::owner;

/// Who was quiet may write this much time's bytes at once.
pub(super) const BURST: Duration = Duration::from_secs(16);
/// Uids whose debt is forgotten together when it is paid.
const MANY: usize = 4096;

/// What was written ahead of its rate, as the time at which it is paid (the generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Copy)]
pub(super) struct Debt(Instant);

impl Debt {
    pub(super) fn none(now: Instant) -> Debt {
        Debt(now)
    }

    /// How long it takes to pay.
    pub(super) fn owed(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Adds `bytes`, paid at `per_second`.
    pub(super) fn add(&mut self, bytes: f64, per_second: u64, now: Instant) {
        let cost = bytes / per_second.max(1) as f64;
        self.0 = self.0.max(now) + Duration::from_secs_f64(cost.min(1e9));
    }
}

/// Each account's debt; sub uids count for the account that has them.
pub(super) struct Budget {
    low: AtomicBool,
    per_second: AtomicU64,
    debts: Mutex<HashMap<u32, Debt>>,
}

impl Budget {
    /// `per_second` bytes for each.
    pub(super) fn new(per_second: u64) -> Budget {
        Budget {
            low: AtomicBool::new(false),
            per_second: AtomicU64::new(per_second.max(1)),
            debts: Mutex::default(),
        }
    }

    /// So many bytes for each from now on.
    pub(super) fn set(&self, per_second: u64) {
        self.per_second.store(per_second.max(1), Ordering::Relaxed);
    }

    /// Budgets bind while space is `low`. What was written before is not held against anybody.
    pub(super) fn bind(&self, low: bool) {
        if self.low.swap(low, Ordering::Relaxed) && !low {
            self.debts().clear();
        }
    }

    /// Takes `bytes` from the budget of the owner of `uid`. The time is asked for only while budgets bind.
    pub(super) fn charge(&self, uid: u32, bytes: u64, now: impl FnOnce() -> Instant) {
        if !self.low.load(Ordering::Relaxed) {
            return;
        }
        let now = now();
        let mut debts = self.debts();
        if debts.len() >= MANY {
            debts.retain(|_, debt| !debt.owed(now).is_zero());
        }
        let debt = debts.entry(owner(Uid(uid)).0).or_insert(Debt::none(now));
        debt.add(bytes as f64, self.per_second.load(Ordering::Relaxed), now);
    }

    /// How long `uid` has to wait before its next record; zero for all who do not flood.
    pub(super) fn wait(&self, uid: u32, now: impl FnOnce() -> Instant) -> Duration {
        if !self.low.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let debts = self.debts();
        debts
            .get(&owner(Uid(uid)).0)
            .map_or(Duration::ZERO, |debt| debt.owed(now()).saturating_sub(BURST))
    }

    fn debts(&self) -> MutexGuard<'_, HashMap<u32, Debt>> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_floods_waits_alone_and_only_while_space_is_low() {
        let (budget, now) = (Budget::new(100), Instant::now());
        budget.charge(1, 1_000_000, || now);
        assert_eq!(budget.wait(1, || now), Duration::ZERO, "there is space");
        budget.bind(true);
        assert_eq!(budget.wait(1, || now), Duration::ZERO, "what was written before");
        budget.charge(1, 1600, || now);
        assert_eq!(
            budget.wait(1, || now),
            Duration::ZERO,
            "sixteen seconds' bytes at once"
        );
        budget.charge(1, 50, || now);
        assert_eq!(budget.wait(1, || now), Duration::from_millis(500));
        assert_eq!(budget.wait(2, || now), Duration::ZERO);
        budget.bind(true);
        assert_eq!(
            budget.wait(1, || now),
            Duration::from_millis(500),
            "space is still low"
        );
        let later = now + Duration::from_millis(500);
        assert_eq!(budget.wait(1, || later), Duration::ZERO);
        // What is paid is not saved up beyond the burst.
        let much_later = now + Duration::from_secs(3600);
        budget.charge(1, 1700, || much_later);
        assert_eq!(budget.wait(1, || much_later), Duration::from_secs(1));
        budget.bind(false);
        assert_eq!(budget.wait(1, || much_later), Duration::ZERO);
    }

    #[test]
    fn uids_that_owe_nothing_are_forgotten() {
        let (budget, now) = (Budget::new(1 << 20), Instant::now());
        budget.bind(true);
        for uid in 0..3 * MANY as u32 {
            budget.charge(uid, 1, || now + Duration::from_millis(u64::from(uid)));
        }
        assert!(budget.debts().len() <= MANY);
        // Those who owe are not, whoever comes.
        let now = now + Duration::from_secs(3600);
        budget.charge(1_000_000, 20 << 20, || now);
        for uid in 0..2 * MANY as u32 {
            budget.charge(uid, 1, || now + Duration::from_millis(u64::from(uid % 2)));
        }
        assert_eq!(budget.wait(1_000_000, || now), Duration::from_secs(4));
    }
}
