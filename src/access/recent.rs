//! The last refusals, kept in memory, so that who was refused can be told why without a search of the log.

use std::collections::VecDeque;
use std::sync::PoisonError;

use rustc_hash::FxHashMap;

use crate::audit::{Outcome, Record};
use crate::clock::Timestamp;
use crate::id::Uid;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::accounts;

/// How many are kept of an account, and of how many accounts.
const OF_EACH: usize = 16;
const ACCOUNTS: usize = 1024;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    uid: u32,
    secret: Box<str>,
    /// When.
    pub time: Timestamp,
    /// The name of what was tried.
    pub event: &'static str,
    /// The reason's code.
    pub reason: &'static str,
    /// By which door.
    pub via: &'static str,
    /// The layer that decided.
    pub layer: Option<&'static str>,
    /// The statement that decided.
    pub statement: Option<Box<str>>,
}

/// The newest refusals of each account, the last at the end.
#[derive(Default)]
pub(super) struct Recent(Mutex<FxHashMap<u32, VecDeque<Remembered>>>);

impl Recent {
    fn all(&self) -> MutexGuard<'_, FxHashMap<u32, VecDeque<Remembered>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, uid: Uid, record: &Record<'_>) {
        let (Outcome::Denied { reason }, Some(secret)) = (record.outcome, record.secret) else {
            return;
        };
        let uid = uid.0;
        let refusal = Remembered {
            uid,
            secret: secret.into(),
            time: Timestamp::now(),
            event: record.event.name(),
            reason,
            via: record.via,
            layer: record.layer,
            statement: record.statement.map(Into::into),
        };
        let account = accounts::owner(Uid(uid)).0;
        let mut all = self.all();
        if all.len() >= ACCOUNTS && !all.contains_key(&account) {
            let oldest = all
                .iter()
                .min_by_key(|(_, last)| last.back().map(|r| r.time))
                .map(|(a, _)| *a);
            oldest.map(|account| all.remove(&account));
        }
        let mine = all.entry(account).or_default();
        mine.retain(|r| r.uid != uid || *r.secret != *secret);
        if mine.len() >= OF_EACH {
            mine.pop_front();
        }
        mine.push_back(refusal);
    }

    pub(super) fn of(&self, uid: Uid, secret: &str) -> Option<Remembered> {
        let all = self.all();
        let mine = all.get(&accounts::owner(uid).0)?;
        mine.iter()
            .find(|r| r.uid == uid.0 && *r.secret == *secret)
            .cloned()
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;
    use crate::audit::Event;

    fn note(recent: &Recent, uid: u32, secret: &str, reason: &'static str) {
        let record = Record {
            event: Event::OpenSecret,
            outcome: Outcome::Denied { reason },
            secret: Some(secret),
            ..Record::default()
        };
        recent.note(Uid(uid), &record);
    }

    #[test]
    fn the_last_refusal_of_each_name_is_told_and_memory_is_bounded() {
        let recent = Recent::default();
        note(&recent, 1, "a", "implicit_deny");
        note(&recent, 1, "b", "implicit_deny");
        note(&recent, 1, "a", "explicit_deny");
        let reason = |uid, name| recent.of(Uid(uid), name).map(|r| r.reason);
        assert_eq!(reason(1, "a"), Some("explicit_deny"));
        assert_eq!(reason(1, "b"), Some("implicit_deny"));
        assert_eq!((reason(2, "a"), reason(1, "c")), (None, None));
        for n in 0..100 {
            note(&recent, 1, &n.to_string(), "implicit_deny");
        }
        assert_eq!((reason(1, "a"), reason(1, "99")), (None, Some("implicit_deny")));
        for uid in 10..10 + 2 * ACCOUNTS as u32 {
            note(&recent, uid, "a", "implicit_deny");
        }
        let all = recent.all();
        assert!(all.len() <= ACCOUNTS && all.values().all(|mine| mine.len() <= OF_EACH));
    }
}
