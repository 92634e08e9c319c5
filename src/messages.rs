//! What a serving process says on standard error, without ever failing, waiting or growing.
//!
//! Whoever says something leaves it in a short queue. One thread writes, and it alone fails or hangs with a terminal
//! that is gone, a pipe that nobody reads or a disk that is full; nothing waits for it. What did not fit is counted,
//! and the number is said when there is room again. Failures can be provoked by callers: of one kind (one place in the
//! source) a line a second is written at once, the last of those that came meanwhile when the second is over.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use rustc_hash::FxHashMap;
use tracing::callsite::Identifier;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
const WAITING: usize = 256;
/// Bytes of a line.
const LINE: usize = 8192;
/// Between two lines of one kind of failure.
const PAUSE: Duration = Duration::from_secs(1);

/// The queue, and the thread behind it.
#[derive(Clone)]
pub struct Messages {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    written: Condvar,
}

/// One line on its way; of a failure with the kind that it belongs to.
pub struct Line<'m> {
    messages: &'m Messages,
    kind: Option<Identifier>,
}

impl Messages {
    /// Writes to standard error. Its lock is never taken: who holds it may hang. The thread blocks all signals, and
    /// begins with `settle`.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn to_stderr(settle: impl FnOnce() + Send + 'static) -> io::Result<Messages> {
        Messages::start(settle, |line| write_all(io::stderr().as_fd(), line))
    }

    fn start(
        settle: impl FnOnce() + Send + 'static,
        mut write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Messages> {
        let messages = Messages {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                arrived: Condvar::new(),
                written: Condvar::new(),
            }),
        };
        let shared = messages.shared.clone();
        let writer = std::thread::Builder::new().name("messages".into());
        writer.spawn(move || {
            let _ = SigSet::all().thread_block();
            settle();
            let mut queue = shared.lock();
            loop {
                queue = match queue.next(Instant::now()) {
                    Next::Line(line) => {
                        drop(queue);
                        let written = write(&line);
                        let mut queue = shared.lock();
                        queue.done(written.is_ok());
                        queue
                    }
                    Next::In(time) => {
                        shared.written.notify_all();
                        let waited = shared.arrived.wait_timeout(queue, time);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                    Next::Nothing => {
                        shared.written.notify_all();
                        let waited = shared.arrived.wait(queue);
                        waited.unwrap_or_else(PoisonError::into_inner)
                    }
                };
            }
        })?;
        Ok(messages)
    }

    /// Waits until everything is written, and not longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let begin = Instant::now();
        let mut queue = self.shared.lock();
        queue.hurry = true;
        self.shared.arrived.notify_all();
        while !queue.is_idle() {
            let Some(left) = limit.checked_sub(begin.elapsed()) else {
                return;
            };
            let waited = self.shared.written.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn say(&self, kind: Option<Identifier>, line: &[u8]) {
        self.shared.lock().say(kind, line, Instant::now());
        self.shared.arrived.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'m> MakeWriter<'m> for Messages {
    type Writer = Line<'m>;

    fn make_writer(&'m self) -> Line<'m> {
        Line {
            messages: self,
            kind: None,
        }
    }

    fn make_writer_for(&'m self, meta: &Metadata<'_>) -> Line<'m> {
        // The more verbose levels compare greater.
        let failure = *meta.level() <= Level::WARN;
        Line {
            messages: self,
            kind: failure.then(|| meta.callsite()),
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.messages.say(self.kind.clone(), line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Messages {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.say(None, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What waits to be written.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Vec<u8>>,
    kinds: FxHashMap<Identifier, Kind>,
    /// Lines for which there was no room, or that could not be written.
    lost: u64,
    /// The thread is writing.
    busy: bool,
    /// What is held back is to be written now.
    hurry: bool,
}

/// A kind of failure.
struct Kind {
    last: Instant,
    /// The latest line since, and how many there were.
    held: Option<(Vec<u8>, u64)>,
}

enum Next {
    Line(Vec<u8>),
    In(Duration),
    Nothing,
}

impl Queue {
    fn say(&mut self, kind: Option<Identifier>, line: &[u8], now: Instant) {
        let mut line = line[..line.len().min(LINE)].to_vec();
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let Some(kind) = kind else {
            return self.push(line);
        };
        match self.kinds.get_mut(&kind) {
            Some(kind) if now < kind.last + PAUSE => {
                let before = kind.held.take().map_or(0, |(_, n)| n);
                kind.held = Some((line, before + 1));
            }
            Some(kind) => {
                kind.last = now;
                let held = kind.held.take();
                held.into_iter()
                    .for_each(|(line, n)| self.push(counted(line, n - 1)));
                self.push(line);
            }
            None => {
                self.kinds.insert(
                    kind,
                    Kind {
                        last: now,
                        held: None,
                    },
                );
                self.push(line);
            }
        }
    }

    fn push(&mut self, line: Vec<u8>) {
        match self.waiting.len() < WAITING {
            true => self.waiting.push_back(line),
            false => self.lost += 1,
        }
    }

    /// What the thread is to do.
    fn next(&mut self, now: Instant) -> Next {
        if self.waiting.is_empty() {
            self.release(now);
        }
        if let Some(line) = self.waiting.pop_front() {
            self.busy = true;
            let lost = match std::mem::take(&mut self.lost) {
                0 => String::new(),
                n => format!(
                    "{n} messages were lost here: they could not be written, or not as fast as they came\n"
                ),
            };
            return Next::Line([lost.into_bytes(), line].concat());
        }
        let held = self.kinds.values().filter(|k| k.held.is_some());
        match held
            .map(|k| (k.last + PAUSE).saturating_duration_since(now))
            .min()
        {
            Some(time) => Next::In(time),
            None => Next::Nothing,
        }
    }

    /// Lets go of what was held back long enough.
    fn release(&mut self, now: Instant) {
        for kind in self.kinds.values_mut() {
            if (self.hurry || now >= kind.last + PAUSE)
                && let Some((line, n)) = kind.held.take()
            {
                kind.last = now;
                self.waiting.push_back(counted(line, n - 1));
            }
        }
    }

    fn done(&mut self, written: bool) {
        self.busy = false;
        self.lost += u64::from(!written);
    }

    fn is_idle(&self) -> bool {
        !self.busy && self.waiting.is_empty() && self.kinds.values().all(|k| k.held.is_none())
    }
}

/// A line that stands for `more` that were left out.
fn counted(mut line: Vec<u8>, more: u64) -> Vec<u8> {
    if more > 0 {
        line.pop();
        line.extend_from_slice(format!(" (and {more} more of this kind, left out)\n").as_bytes());
    }
    line
}

fn write_all(to: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(&to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut room = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                poll(&mut room, PollTimeout::NONE)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;
    use std::sync::mpsc::{channel, sync_channel};
    use tracing::{Callsite, Metadata, field::FieldSet, metadata::Kind as What, subscriber::Interest};

    struct Place(u8);
    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("nobody asks")
        }
    }
    static PLACES: [Place; 2] = [Place(0), Place(1)];

    fn kind(n: usize) -> Option<Identifier> {
        assert_eq!(usize::from(PLACES[n].0), n);
        Some(Identifier(&PLACES[n]))
    }

    fn lines(queue: &mut Queue, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        while let Next::Line(line) = queue.next(now) {
            queue.done(true);
            lines.push(String::from_utf8(line).unwrap());
        }
        lines
    }

    #[test]
    fn a_kind_of_failure_is_a_line_a_second_and_the_others_are_counted() {
        let (mut queue, begin) = (Queue::default(), Instant::now());
        let at = |ms| begin + Duration::from_millis(ms);
        for n in 0..10_000 {
            queue.say(kind(0), format!("failure {n}\n").as_bytes(), at(n / 20));
        }
        queue.say(kind(1), b"another", at(400));
        queue.say(None, b"news\n", at(500));
        assert_eq!(lines(&mut queue, at(500)), ["failure 0\n", "another\n", "news\n"]);
        assert!(matches!(queue.next(at(900)), Next::In(time) if time == Duration::from_millis(100)));
        let after = ["failure 9999 (and 9998 more of this kind, left out)\n"];
        assert_eq!(lines(&mut queue, at(1000)), after);
        // The pause begins anew with each line.
        queue.say(kind(0), b"failure x", at(1100));
        queue.say(kind(1), b"another y", at(1500));
        assert_eq!(lines(&mut queue, at(1500)), ["another y\n"]);
        queue.say(kind(0), b"failure z", at(2500));
        assert_eq!(lines(&mut queue, at(2500)), ["failure x\n", "failure z\n"]);
        assert!(matches!(queue.next(at(2500)), Next::Nothing) && queue.is_idle());
    }

    #[test]
    fn what_has_no_room_is_counted_and_long_lines_are_cut() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for n in 0..1000 {
            queue.say(None, format!("{n}\n").as_bytes(), now);
        }
        let said = lines(&mut queue, now);
        assert_eq!(said.len(), WAITING);
        assert!(said[0].starts_with("744 messages were lost here") && said[0].ends_with("\n0\n"));
        queue.say(None, &[b'x'; 1 << 20], now);
        assert_eq!(lines(&mut queue, now)[0].len(), LINE + 1);
    }

    #[test]
    fn nobody_waits_for_a_writer_that_hangs_or_fails() {
        let (go, gone) = sync_channel::<bool>(0);
        let (told, heard) = channel();
        let mut messages = Messages::start(
            || {},
            move |line| {
                if gone.recv() != Ok(true) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                told.send(String::from_utf8_lossy(line).into_owned()).unwrap();
                Ok(())
            },
        )
        .unwrap();
        // It hangs in the first until it is told to go on.
        for n in 0..10_000 {
            writeln!(messages, "{n}").unwrap();
        }
        messages.flush(Duration::from_millis(1));
        go.send(false).unwrap();
        go.send(true).unwrap();
        assert!(heard.recv().unwrap().contains(" messages were lost here"));
        drop(go);
        messages.flush(Duration::from_secs(60));
        assert!(messages.shared.lock().is_idle());
    }

    #[test]
    fn an_event_goes_through_and_an_error_with_its_kind() {
        static META: std::sync::OnceLock<Metadata<'static>> = std::sync::OnceLock::new();
        let meta = META.get_or_init(|| {
            let fields = FieldSet::new(&[], Identifier(&PLACES[0]));
            Metadata::new("e", "t", Level::ERROR, None, None, None, fields, What::EVENT)
        });
        let (told, heard) = channel();
        let messages = Messages::start(
            || {},
            move |line| {
                told.send(line.to_vec())
                    .map_err(|_| io::ErrorKind::BrokenPipe.into())
            },
        );
        let messages = messages.unwrap();
        for _ in 0..3 {
            messages.make_writer_for(meta).write_all(b"failed\n").unwrap();
        }
        messages.flush(Duration::from_secs(60));
        let said: Vec<_> = heard.try_iter().collect();
        assert_eq!(
            said,
            [&b"failed\n"[..], b"failed (and 1 more of this kind, left out)\n"]
        );
    }
}
