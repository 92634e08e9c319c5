//! Replies that wait: a uid over its budget for the log is answered later, and no serving thread waits with it.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Work that waits for its uid's turn, in order. One thread does it; it ends when this is dropped, and what still
/// waits then is dropped with it.
pub struct Held<T> {
    queue: Sender<(u32, T)>,
}

impl<T: Send + 'static> Held<T> {
    /// `wait` says how long a uid has to wait still; `serve` does the work when that is zero.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(
        wait: impl Fn(u32) -> Duration + Send + 'static,
        serve: impl Fn(T) + Send + 'static,
    ) -> std::io::Result<Held<T>> {
        let (queue, arriving) = channel::<(u32, T)>();
        std::thread::Builder::new()
            .name("held-back".into())
            .spawn(move || {
                // A panic in either ends no thread: the work is done at once, or dropped.
                let wait = |uid| {
                    let asked = catch_unwind(AssertUnwindSafe(|| wait(uid)));
                    asked.unwrap_or_default()
                };
                let serve = |work| drop(catch_unwind(AssertUnwindSafe(|| serve(work))));
                let mut waiting: HashMap<u32, VecDeque<T>> = HashMap::new();
                loop {
                    let next = serve_all(&mut waiting, &wait, &serve);
                    let arrived = match next {
                        None => arriving.recv().map_err(|_| RecvTimeoutError::Disconnected),
                        Some(time) => arriving.recv_timeout(time),
                    };
                    match arrived {
                        Ok((uid, work)) => waiting.entry(uid).or_default().push_back(work),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })?;
        Ok(Held { queue })
    }

    /// Leaves `work` to be done when it is `uid`'s turn.
    pub fn hold(&self, uid: u32, work: T) {
        // Without the thread the work is dropped, and with it the reply: the caller gets EIO.
        let _ = self.queue.send((uid, work));
    }
}

/// Does what may be done now; the time until more may be.
fn serve_all<T>(
    waiting: &mut HashMap<u32, VecDeque<T>>,
    wait: &impl Fn(u32) -> Duration,
    serve: &impl Fn(T),
) -> Option<Duration> {
    let mut next: Option<Duration> = None;
    waiting.retain(|uid, queue| {
        while !queue.is_empty() {
            let time = wait(*uid);
            if !time.is_zero() {
                next = Some(next.map_or(time, |n| n.min(time)));
                break;
            }
            queue.pop_front().into_iter().for_each(serve);
        }
        !queue.is_empty()
    });
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn each_uid_waits_for_itself_and_in_order() {
        let open = Arc::new(AtomicBool::new(false));
        let (done, seen) = channel();
        let may = open.clone();
        let wait = move |uid: u32| match uid == 2 || may.load(Ordering::Relaxed) {
            true => Duration::ZERO,
            false => Duration::from_millis(5),
        };
        let held = Held::start(wait, move |n: u32| done.send(n).unwrap()).unwrap();
        let next = || seen.recv_timeout(Duration::from_secs(10)).unwrap();
        for (uid, n) in [(1, 10), (1, 11), (2, 20)] {
            held.hold(uid, n);
        }
        assert_eq!(next(), 20);
        open.store(true, Ordering::Relaxed);
        assert_eq!([next(), next()], [10, 11]);
        drop(held);
        assert!(
            seen.recv_timeout(Duration::from_secs(10)).is_err(),
            "the thread ended"
        );
    }
}
