//! Locks, atomics and the swapped pointer of whatever several threads share on the path of a read.
//!
//! They are the standard library's and `arc-swap`'s. With the feature `interleavings` the unit tests get `shuttle`'s
//! in their place, which run threads in every order that a scheduler can think of.

#[cfg(not(all(test, feature = "interleavings")))]
mod real {
    pub use std::sync::{Condvar, Mutex, MutexGuard, atomic};
    pub use std::thread_local;

    pub use arc_swap::{ArcSwap as Swap, Guard as Peek};
}

#[cfg(all(test, feature = "interleavings"))]
mod tried {
    use std::ops::Deref;
    use std::sync::{Arc, PoisonError};

    pub use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
    pub use shuttle::thread_local;

    /// A pointer that is exchanged whole.
    pub struct Swap<T>(Mutex<Arc<T>>);

    /// What the pointer was when it was looked at.
    pub struct Peek<T>(T);

    impl<T> Swap<T> {
        pub fn from_pointee(value: T) -> Self {
            Swap(Mutex::new(Arc::new(value)))
        }

        pub fn load_full(&self) -> Arc<T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }

        pub fn load(&self) -> Peek<Arc<T>> {
            Peek(self.load_full())
        }

        pub fn store(&self, value: Arc<T>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
        }
    }

    impl<T> Deref for Peek<T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.0
        }
    }
}

#[cfg(not(all(test, feature = "interleavings")))]
pub use real::*;
#[cfg(all(test, feature = "interleavings"))]
pub use tried::*;

/// Runs `test` in `times` orders of its threads, twenty times as many if `WARDFS_TEST_LONG` is 1: half of them random,
/// half with few switches at random places, which finds what needs a certain order of a few steps (PCT, Burckhardt et
/// al., 2010).
#[cfg(all(test, feature = "interleavings"))]
pub fn in_many_orders(times: usize, test: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};

    fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
        let mut config = shuttle::Config::new();
        config.stack_size = 4 << 20;
        shuttle::Runner::new(scheduler, config).run(test);
    }
    let long = std::env::var_os("WARDFS_TEST_LONG").is_some_and(|v| v == "1");
    let times = if long { 20 * times } else { times };
    let test = std::sync::Arc::new(test);
    let again = test.clone();
    run(RandomScheduler::new(times.div_ceil(2)), move || test());
    run(PctScheduler::new(3, times.div_ceil(2)), move || again());
}
