//! Who waits longer than a second at a terminal is told for what, and how far it is.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing is shown before.
const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(250);

/// A line that is kept up to date, and gone when this is dropped.
pub struct Progress {
    done: Arc<AtomicU64>,
    shown: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Shows nothing.
    pub fn silent() -> Progress {
        Progress {
            done: Arc::default(),
            shown: None,
        }
    }

    /// Shows `doing` on the terminal `out` when a second is over.
    pub fn shown(doing: &'static str, mut out: impl Write + Send + 'static) -> Progress {
        let done = Arc::<AtomicU64>::default();
        let (end, ended) = channel::<()>();
        let count = done.clone();
        let begin = Instant::now();
        let show = move || {
            let mut wait = PATIENCE;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
                wait = STEP;
                let line = line(doing, count.load(Ordering::Relaxed), begin.elapsed());
                // A terminal that is gone has no reader.
                let _ = write!(out, "\r{line}\u{1b}[K").and_then(|()| out.flush());
            }
            if wait == STEP {
                let _ = write!(out, "\r\u{1b}[K").and_then(|()| out.flush());
            }
        };
        // Without a thread there is nothing to see, and all else is as it was.
        let thread = std::thread::Builder::new().name("progress".into()).spawn(show);
        Progress {
            done,
            shown: thread.ok().map(|thread| (end, thread)),
        }
    }

    /// Says that `done` pieces are done.
    pub fn tell(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.shown.take() {
            drop(end);
            // A panic there has been told already.
            let _ = thread.join();
        }
    }
}

fn line(doing: &str, done: u64, time: Duration) -> String {
    match done {
        0 => format!("{doing}, {} s", time.as_secs()),
        _ => format!("{doing}: {done} done, {} s", time.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_quick_shows_nothing_and_what_is_slow_leaves_nothing() {
        let screen = Screen::default();
        drop(Progress::shown("checking", screen.clone()));
        assert!(screen.0.lock().unwrap().is_empty());

        let progress = Progress::shown("checking", screen.clone());
        progress.tell(7);
        let seen = || String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
        while seen().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(progress);
        assert!(seen().starts_with("\rchecking: 7 done, "), "{:?}", seen());
        assert!(seen().ends_with("\r\u{1b}[K"), "{:?}", seen());
    }

    #[test]
    fn a_count_is_shown_once_there_is_one() {
        assert_eq!(line("a", 0, Duration::from_millis(1900)), "a, 1 s");
        assert_eq!(line("a", 12, Duration::from_secs(2)), "a: 12 done, 2 s");
    }
}
