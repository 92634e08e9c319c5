//! Accounts whose connections made fronts fail. They get none for a while, which grows.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

/// How long after the first loss, and at most.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
/// How many accounts are remembered.
const REMEMBERED: usize = 1024;

#[derive(Default)]
pub(super) struct Shunned(FxHashMap<u32, (u32, Instant)>);

impl Shunned {
    /// A front was lost while it turned to a connection of this account.
    pub(super) fn charge(&mut self, account: u32) {
        let now = Instant::now();
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, (_, until)| *until > now);
        }
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&account) {
            return;
        }
        let (losses, until) = self.0.entry(account).or_insert((0, now));
        *losses = losses.saturating_add(1);
        *until = now + LONGEST.min(FIRST * 2u32.saturating_pow((*losses - 1).min(10)));
    }

    pub(super) fn is_shunned(&self, account: u32) -> bool {
        self.0
            .get(&account)
            .is_some_and(|(_, until)| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_made_a_front_fail_waits_and_others_do_not() {
        let mut shunned = Shunned::default();
        assert!(!shunned.is_shunned(1));
        shunned.charge(1);
        assert!(shunned.is_shunned(1) && !shunned.is_shunned(2));
        for _ in 0..100 {
            shunned.charge(1);
        }
        assert!(shunned.0[&1].1 <= Instant::now() + LONGEST);
        for account in 0..10_000 {
            shunned.charge(account);
        }
        assert!(shunned.0.len() <= REMEMBERED);
    }
}
