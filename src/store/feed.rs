//! The changes after a revision: a bounded ring that a store fills and watchers follow.

use super::{Batch, Key, Revision, StoreError, Table};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Most commits that the ring keeps.
const MAX_CHANGES: usize = 1024;
/// Most keys that the ring keeps, over all its commits.
const MAX_KEYS: usize = 65_536;

/// The records that one commit touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision that the commit made.
    pub revision: Revision,
    /// What it wrote or removed, in the order of the batch.
    pub keys: Arc<[(Table, Key)]>,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next commit.
    Changed(Change),
    /// Commits were missed: read everything again. What follows comes after this revision.
    Resync(Revision),
    /// Nothing happened within the time given.
    Quiet,
    /// The store was closed; nothing will follow.
    Closed,
}

#[derive(Default)]
struct Ring {
    changes: VecDeque<Change>,
    keys: usize,
    /// The last revision published or known.
    head: Revision,
    /// The revision before the oldest change kept: a watcher behind it has missed something.
    floor: Revision,
    closed: bool,
}

/// Where a store publishes its commits.
pub(super) struct Feed {
    ring: Mutex<Ring>,
    news: Condvar,
}

impl Feed {
    pub(super) fn new(head: Revision) -> Arc<Self> {
        let ring = Ring {
            head,
            floor: head,
            ..Ring::default()
        };
        Arc::new(Feed {
            ring: Mutex::new(ring),
            news: Condvar::new(),
        })
    }

    /// A panic elsewhere leaves the ring whole: no step of it is left half done.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Tells of a commit. One that does not follow the last one known makes every watcher read again.
    pub(super) fn publish(&self, revision: Revision, batch: &Batch) {
        let mut ring = self.ring();
        if revision.0 != ring.head.0.wrapping_add(1) {
            ring.restart(revision);
        } else {
            let keys: Arc<[_]> = batch
                .ops()
                .iter()
                .map(|op| op.target())
                .map(|(t, k)| (t, k.clone()))
                .collect();
            ring.keys += keys.len();
            ring.head = revision;
            ring.changes.push_back(Change { revision, keys });
            while ring.changes.len() > MAX_CHANGES || ring.keys > MAX_KEYS {
                let Some(old) = ring.changes.pop_front() else {
                    break;
                };
                ring.keys -= old.keys.len();
                ring.floor = old.revision;
            }
        }
        self.news.notify_all();
    }

    /// Tells that the store is at `revision`, by whatever way it came there.
    pub(super) fn found(&self, revision: Revision) {
        let mut ring = self.ring();
        if ring.head != revision {
            ring.restart(revision);
            self.news.notify_all();
        }
    }

    pub(super) fn close(&self) {
        self.ring().closed = true;
        self.news.notify_all();
    }

    pub(super) fn watch(self: &Arc<Self>, since: Revision) -> Result<Watch, StoreError> {
        let found = self.ring().head;
        if since > found {
            return Err(StoreError::Conflict {
                expected: since,
                found,
            });
        }
        Ok(Watch {
            feed: self.clone(),
            at: since,
        })
    }
}

impl Ring {
    fn restart(&mut self, at: Revision) {
        self.changes.clear();
        self.keys = 0;
        self.head = at;
        self.floor = at;
    }

    fn after(&self, at: Revision) -> Option<Event> {
        if at < self.floor || at > self.head {
            return Some(Event::Resync(self.head));
        }
        let nth = usize::try_from(at.0 - self.floor.0).ok()?;
        Some(Event::Changed(self.changes.get(nth)?.clone()))
    }
}

/// Follows a store from a revision on. Dropping it ends it; a slow one costs the store nothing.
pub struct Watch {
    feed: Arc<Feed>,
    at: Revision,
}

impl Watch {
    /// The revision up to which the watcher was told.
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// The next event; waits for it for `timeout` at most.
    pub fn recv(&mut self, timeout: Duration) -> Event {
        let deadline = Instant::now().checked_add(timeout);
        let mut ring = self.feed.ring();
        loop {
            if let Some(event) = ring.after(self.at) {
                match &event {
                    Event::Changed(change) => self.at = change.revision,
                    Event::Resync(revision) => self.at = *revision,
                    Event::Quiet | Event::Closed => {}
                }
                return event;
            }
            if ring.closed {
                return Event::Closed;
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            if left.is_zero() {
                return Event::Quiet;
            }
            // A day at a time: the platform's clock may not take a wait without end.
            let nap = left.min(Duration::from_secs(86_400));
            ring = match self.feed.news.wait_timeout(ring, nap) {
                Ok((ring, _)) => ring,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}
