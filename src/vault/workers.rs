//! Work on many records at once, on all CPUs, while the store is opened.

use std::sync::{Mutex, PoisonError};

/// Fewer than this are not worth a thread.
const FEW: usize = 512;
/// No more threads than this.
const MOST: usize = 16;

/// `work` of each item, in order. Where there can be no other thread, this one does it all.
pub(super) fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST));
    if items.len() < FEW || threads == 1 {
        return items.into_iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    let mut items = items.into_iter();
    let parts =
        std::iter::from_fn(|| Some(items.by_ref().take(share).collect()).filter(|p: &Vec<T>| !p.is_empty()));
    let parts: Vec<Vec<T>> = parts.collect();
    let left = Mutex::new(parts.into_iter().enumerate());
    let take = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let serve = || -> Vec<(usize, Vec<R>)> {
        let parts = std::iter::from_fn(take);
        parts
            .map(|(n, part)| (n, part.into_iter().map(&work).collect()))
            .collect()
    };
    let mut done = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, serve).ok())
            .collect();
        let mut done = serve();
        for helper in helpers {
            match helper.join() {
                Ok(theirs) => done.extend(theirs),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(n, _)| *n);
    done.into_iter().flat_map(|(_, part)| part).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_order_is_kept_and_a_panic_goes_on() {
        for count in [0, 1, 511, 512, 513, 10_007] {
            let squares = super::map((0..count).collect(), |n: u64| n * n);
            assert_eq!(squares, (0..count).map(|n| n * n).collect::<Vec<_>>());
        }
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let panicked =
            std::panic::catch_unwind(|| super::map((0..10_000).collect(), |n: u64| assert_ne!(n, 9_999)));
        std::panic::set_hook(hook);
        assert!(panicked.is_err());
    }
}
