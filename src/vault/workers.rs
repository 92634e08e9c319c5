//! Work on many records at once, on all CPUs, while the store is opened.

/// Fewer than this are not worth a thread.
const FEW: usize = 512;
/// No more threads than this.
const MOST: usize = 16;

/// `work` of each item, in order.
pub(super) fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST));
    if items.len() < FEW || threads == 1 {
        return items.into_iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    let mut items = items.into_iter();
    let work = &work;
    std::thread::scope(|scope| {
        let mut workers = Vec::with_capacity(threads);
        loop {
            let part: Vec<T> = items.by_ref().take(share).collect();
            if part.is_empty() {
                break;
            }
            workers.push(scope.spawn(move || part.into_iter().map(work).collect::<Vec<R>>()));
        }
        let join = |worker: std::thread::ScopedJoinHandle<'_, Vec<R>>| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().flat_map(join).collect()
    })
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
