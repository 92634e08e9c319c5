//! Equal things kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Gives the same allocation for equal values, as long as somebody keeps it.
pub struct Pool<T: ?Sized>(Mutex<Kept<T>>);

struct Kept<T: ?Sized> {
    all: HashSet<Arc<T>>,
    /// How many there may be before those that nobody else has any more are dropped.
    sweep_at: usize,
}

const LEAST: usize = 64;

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Pool(Mutex::new(Kept {
            all: HashSet::new(),
            sweep_at: LEAST,
        }))
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    /// The first one that was equal to `value`, or `value` itself.
    pub fn share(&self, value: Arc<T>) -> Arc<T> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.all.get(&value) {
            return known.clone();
        }
        if kept.all.len() >= kept.sweep_at {
            kept.all.retain(|one| Arc::strong_count(one) > 1);
            kept.sweep_at = LEAST.max(2 * kept.all.len());
        }
        kept.all.insert(value.clone());
        value
    }
}

impl<T: Clone + Eq + Hash> Pool<T> {
    /// The same for a value that shares what it is made of with its clones.
    pub fn alike(&self, value: T) -> T {
        (*self.share(Arc::new(value))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_others_are_not() {
        let pool = Pool::<str>::default();
        let one = pool.share("a".into());
        assert!(Arc::ptr_eq(&one, &pool.share("a".into())));
        assert!(!Arc::ptr_eq(&one, &pool.share("b".into())));
    }

    #[test]
    fn what_nobody_keeps_is_dropped() {
        let pool = Pool::<str>::default();
        let kept = pool.share("kept".into());
        for i in 0..100_000 {
            pool.share(i.to_string().into());
        }
        let all = pool.0.lock().unwrap().all.len();
        assert!(all <= LEAST + 1, "{all}");
        assert!(Arc::ptr_eq(&kept, &pool.share("kept".into())));
    }
}
