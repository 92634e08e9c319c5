//! Places of which each uid has a bounded number, so that nobody takes those of others.

use std::sync::{Arc, PoisonError};

use rustc_hash::FxHashMap;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The places of all uids.
pub struct Places {
    each: AtomicUsize,
    taken: Mutex<FxHashMap<u32, usize>>,
}

/// One of a uid's places; it goes back when this is dropped.
pub struct Place {
    places: Arc<Places>,
    uid: u32,
}

impl Places {
    /// At most `each` for every uid.
    pub fn new(each: usize) -> Arc<Places> {
        Arc::new(Places {
            each: AtomicUsize::new(each),
            taken: Mutex::default(),
        })
    }

    /// How many a uid may have.
    pub fn each(&self) -> usize {
        self.each.load(Ordering::Relaxed)
    }

    /// Gives every uid so many from now on; who has more keeps them.
    pub fn set_each(&self, each: usize) {
        self.each.store(each, Ordering::Relaxed);
    }

    /// Takes one of the uid's places; `None` if it has none left.
    pub fn take(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut taken = self.taken();
        let count = taken.entry(uid).or_insert(0);
        if *count >= self.each() {
            return None;
        }
        *count += 1;
        Some(Place {
            places: self.clone(),
            uid,
        })
    }

    fn taken(&self) -> MutexGuard<'_, FxHashMap<u32, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_for_each_uid_and_come_back() {
        let places = Places::new(2);
        let (first, second) = (places.take(0), places.take(0));
        assert!(first.is_some() && second.is_some() && places.take(0).is_none());
        assert!(places.take(1).is_some(), "another uid has its own");
        drop(second);
        assert!(places.take(0).is_some());
        drop(first);
        assert!(places.taken().is_empty());
    }

    #[test]
    fn none_is_none() {
        let places = Places::new(0);
        assert!(places.take(0).is_none());
    }
}
