//! Who is answered now, and who waits: the store's owner is answered at once; of all others a few at a time, of each
//! account fewer, in the order in which they asked. Nobody waits for what a peer does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

/// Requests of strangers that are answered at the same time.
const RUNNING: usize = 32;
/// Of each account.
const OF_EACH: usize = 4;

/// For whom a job is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// The store's owner.
    Owner,
    /// Another account, by its number.
    Stranger(u32),
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    running: usize,
    of_each: FxHashMap<u32, usize>,
    waiting: VecDeque<(u32, Job)>,
}

/// The jobs of all connections, of each at most one.
#[derive(Default)]
pub(super) struct Crowd(Mutex<State>);

impl State {
    fn may(&self, who: u32) -> bool {
        self.running < RUNNING && self.of_each.get(&who).is_none_or(|n| *n < OF_EACH)
    }

    fn begin(&mut self, who: u32) {
        self.running += 1;
        *self.of_each.entry(who).or_default() += 1;
    }

    fn end(&mut self, who: u32) {
        self.running -= 1;
        if let Some(count) = self.of_each.get_mut(&who) {
            *count -= 1;
            if *count == 0 {
                self.of_each.remove(&who);
            }
        }
    }

    /// The next who may.
    fn next(&mut self) -> Option<(u32, Job)> {
        let at = self.waiting.iter().position(|(who, _)| self.may(*who))?;
        let next = self.waiting.remove(at)?;
        self.begin(next.0);
        Some(next)
    }
}

impl Crowd {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the job in a thread of its own, now or when others have ended.
    ///
    /// # Errors
    /// If there can be no thread; the job is dropped.
    pub(super) fn submit(
        self: &Arc<Self>,
        whose: For,
        job: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name("control-peer".into());
        let For::Stranger(who) = whose else {
            return thread.spawn(job).map(drop);
        };
        let mut state = self.state();
        state.waiting.push_back((who, Box::new(job)));
        let Some(first) = state.next() else {
            return Ok(());
        };
        drop(state);
        let (crowd, began) = (self.clone(), first.0);
        let spawned = thread.spawn(move || {
            let mut now = Some(first);
            while let Some((who, job)) = now.take() {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                let mut state = crowd.state();
                state.end(who);
                now = state.next();
            }
        });
        spawned.map(drop).inspect_err(|_| self.state().end(began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn one_account_leaves_room_for_others_and_all_are_done() {
        let crowd = Arc::new(Crowd::default());
        let (go, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let (done, seen) = channel();
        for n in 0..20 {
            let (wait, done) = (wait.clone(), done.clone());
            let job = move || {
                let _ = wait.lock().unwrap().recv();
                done.send(n).unwrap();
            };
            crowd.submit(For::Stranger(1), job).unwrap();
        }
        assert_eq!(crowd.state().running, OF_EACH);
        let other = done.clone();
        crowd
            .submit(For::Stranger(2), move || other.send(100).unwrap())
            .unwrap();
        let owner = done.clone();
        crowd
            .submit(For::Owner, move || owner.send(101).unwrap())
            .unwrap();
        let mut both = [0; 2].map(|_| seen.recv_timeout(Duration::from_secs(5)).unwrap());
        both.sort_unstable();
        assert_eq!(both, [100, 101]);
        crowd
            .submit(For::Stranger(3), || panic!("a job that fails"))
            .unwrap();
        drop(go);
        let mut all = [0; 20].map(|_| seen.recv_timeout(Duration::from_secs(5)).unwrap());
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..20));
        while crowd.state().running > 0 {
            std::thread::yield_now();
        }
        assert!(crowd.state().of_each.is_empty());
    }
}
