//! Refusals in a flood are answered a little later: decided and recorded at once, and no thread waits with them. A few
//! are answered at once; an owner who goes on is held to about a thousand a second, 20 ms each at most.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::sync::Mutex;

/// What one refusal counts for, how much of it is free, and the longest delay.
const EACH: Duration = Duration::from_millis(1);
const FREE: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_millis(20);
/// Owners that are told apart; the others are one.
const OWNERS: usize = 1024;
const OTHERS: u32 = u32::MAX;
/// Answers that wait; what comes beside them is answered at once.
const WAITING: usize = 4096;

/// How far each owner is ahead of what he may have.
#[derive(Default)]
pub struct Patience {
    paid_until: Mutex<FxHashMap<u32, Instant>>,
}

impl Patience {
    /// Counts one refusal of `owner`: how long its answer waits.
    pub fn count(&self, owner: u32, now: Instant) -> Duration {
        let mut owners = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.len() >= OWNERS && !owners.contains_key(&owner) {
            owners.retain(|_, until| *until > now);
        }
        let owner = if owners.len() < OWNERS || owners.contains_key(&owner) {
            owner
        } else {
            OTHERS
        };
        let until = owners.entry(owner).or_insert(now);
        *until = ((*until).max(now) + EACH).min(now + FREE + LONGEST);
        match (*until - now).saturating_sub(FREE) {
            short if short < EACH => Duration::ZERO,
            wait => wait,
        }
    }
}

type Answer = Box<dyn FnOnce() + Send>;

/// Gives answers when their time has come; all that wait when this is dropped.
pub struct Later {
    queue: Sender<(Instant, Answer)>,
    waiting: Arc<AtomicUsize>,
}

impl Later {
    /// # Errors
    /// If there can be no thread.
    pub fn start() -> std::io::Result<Later> {
        let (queue, arriving) = channel::<(Instant, Answer)>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let count = waiting.clone();
        std::thread::Builder::new()
            .name("refusals".into())
            .spawn(move || {
                let mut heap = BinaryHeap::new();
                let mut number = 0_u64;
                loop {
                    let now = Instant::now();
                    while heap
                        .peek()
                        .is_some_and(|Reverse(next): &Reverse<Due>| next.at <= now)
                    {
                        heap.pop()
                            .into_iter()
                            .for_each(|Reverse(due)| give(due.answer, &count));
                    }
                    let arrived = match heap.peek() {
                        Some(Reverse(next)) => arriving.recv_timeout(next.at - now),
                        None => arriving.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    };
                    match arrived {
                        Ok((at, answer)) => {
                            number += 1;
                            heap.push(Reverse(Due { at, number, answer }));
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => {
                            return heap.into_iter().for_each(|Reverse(due)| give(due.answer, &count));
                        }
                    }
                }
            })?;
        Ok(Later { queue, waiting })
    }

    /// Gives `answer` in a while.
    pub fn give(&self, wait: Duration, answer: impl FnOnce() + Send + 'static) {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let answer: Answer = Box::new(answer);
        if before >= WAITING {
            return give(answer, &self.waiting);
        }
        // Without the thread it is given now.
        if let Err(back) = self.queue.send((Instant::now() + wait, answer)) {
            give(back.0.1, &self.waiting);
        }
    }
}

fn give(answer: Answer, waiting: &AtomicUsize) {
    let _ = catch_unwind(AssertUnwindSafe(answer));
    waiting.fetch_sub(1, Ordering::Relaxed);
}

struct Due {
    at: Instant,
    number: u64,
    answer: Answer,
}

impl Due {
    fn key(&self) -> (Instant, u64) {
        (self.at, self.number)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;

    #[test]
    fn a_few_refusals_are_answered_at_once_and_a_flood_waits_20_ms_at_most() {
        let (patience, begin) = (Patience::default(), Instant::now());
        let waits: Vec<_> = (0..200).map(|_| patience.count(1, begin)).collect();
        assert!(waits[..100].iter().all(Duration::is_zero));
        assert_eq!(waits[100], Duration::from_millis(1));
        assert!(waits.is_sorted() && waits[199] == LONGEST);
        assert_eq!(
            patience.count(2, begin),
            Duration::ZERO,
            "another is not concerned"
        );
        // What is over the longest delay is forgiven, so that a flood that is over is soon forgotten.
        assert_eq!(patience.count(1, begin + LONGEST), Duration::from_millis(1));
        assert_eq!(patience.count(1, begin + LONGEST + FREE), Duration::ZERO);
        // Fifty a second are always answered at once.
        let ordinary = (0..1000).map(|n| patience.count(3, begin + n * Duration::from_millis(20)));
        assert!(ordinary.max() == Some(Duration::ZERO));
    }

    #[test]
    fn owners_are_bounded_and_those_who_wait_no_more_are_forgotten() {
        let (patience, now) = (Patience::default(), Instant::now());
        for owner in 0..10 * OWNERS as u32 {
            patience.count(owner, now);
        }
        assert_eq!(patience.paid_until.lock().unwrap().len(), OWNERS + 1);
        assert_eq!(patience.count(u32::MAX - 1, now), LONGEST, "the others share");
        let later = now + Duration::from_secs(1);
        assert_eq!(patience.count(u32::MAX - 1, later), Duration::ZERO);
        assert_eq!(patience.paid_until.lock().unwrap().len(), 1);
    }

    #[test]
    fn answers_come_in_order_and_all_of_them() {
        let (done, seen) = channel();
        let later = Later::start().unwrap();
        for (n, ms) in [(3, 30), (1, 0), (2, 10)] {
            let done = done.clone();
            later.give(Duration::from_millis(ms), move || done.send(n).unwrap());
        }
        later.give(Duration::from_millis(5), || {
            std::panic::resume_unwind(Box::new("a fault"))
        });
        let next = || seen.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!([next(), next(), next()], [1, 2, 3]);
        for n in 0..2 * WAITING {
            let done = done.clone();
            later.give(Duration::from_secs(3600), move || done.send(n).unwrap());
        }
        let at_once: Vec<_> = (0..WAITING).map(|_| next()).collect();
        assert!(at_once.iter().all(|n| *n >= WAITING - 1), "those without room");
        drop(later);
        let at_the_end: Vec<_> = (0..WAITING).map(|_| next()).collect();
        assert!(at_the_end.iter().all(|n| *n < 2 * WAITING), "the rest");
    }
}
