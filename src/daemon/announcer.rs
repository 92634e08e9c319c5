//! Tells the notifier of changes. A change waits in a queue, never in the command that made it.
//!
//! Whatever the notifier is asked may hang for good, where somebody sleeps with the lock of a directory on the way. So
//! nothing here waits for an answer, and what hangs is left where it is: of each directory one event is under way, of all
//! below one name of the root a few, of directories that never answered a part of the helpers. What has to wait behind
//! one that hangs is kept once for each name, in bounded number.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::id::{SecretId, SecretName};
use crate::sys::nobody;
use crate::sys::notifier::{Channel, Child, HELPERS, Kind};
use crate::vault::{Change, ChangeKind};
use crate::vfs::{Announced, Attributes, Node, Vfs};

/// How long the notifier may take to begin.
const BEGIN: Duration = Duration::from_secs(5);
/// How often it is looked at while there is no change: service does not go on without it.
const LOOK: Duration = Duration::from_millis(250);
/// Events that wait, at most: as many as inotify keeps for a watcher that does not read them.
const WAITING: usize = 16_384;
/// Events under way at once below one name of the root.
const BELOW_ONE: usize = 4;
/// Events under way in directories that have not answered yet, all together.
const UNKNOWN: usize = HELPERS / 2 - BELOW_ONE;
/// Directories that answered, as far as they are remembered.
const KNOWN: usize = 4096;
/// When a file with a lease is tried again, and how often.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: u32 = 90;
/// Files that are kept within reach beside the one that has the secret's name.
const KEPT: usize = 1024;
/// How long a change waits until the size that the kernel keeps of a file is raised, or the file is kept. Where it is in vain once, it is
/// not tried while that hangs.
const RAISE: Duration = Duration::from_millis(250);
/// How long the notifier may take to end.
const END: Duration = Duration::from_millis(200);

/// Feeds a notifier.
pub(super) struct Announcer {
    shared: Arc<Shared>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    channel: Arc<Channel>,
    vfs: Arc<Vfs>,
    work: Mutex<Work>,
    /// Rung when something is done that a change waits for.
    answered: Condvar,
}

#[derive(Default)]
struct Work {
    stopping: bool,
    number: u32,
    directories: HashMap<String, Directory>,
    /// Events that wait in all directories.
    waiting: usize,
    /// Directories of which an event can go.
    ready: VecDeque<String>,
    /// Directories that wait for one under way to end, by what they share with it.
    parked: HashMap<Share, Vec<String>>,
    under_way: HashMap<u32, Job>,
    /// Files that somebody has a lease on.
    later: VecDeque<(Instant, Event)>,
    known: HashSet<String>,
    untold: Untold,
    /// Files that are within reach without their names, the oldest first.
    kept: VecDeque<Node>,
    /// Of those that were asked for, the numbers of those that are.
    done: HashSet<u32>,
}

/// What waits in one directory.
#[derive(Default)]
struct Directory {
    events: VecDeque<Event>,
    /// The last one of each name: the same again would tell nothing.
    last: HashMap<SecretName, Kind>,
}

#[derive(Clone)]
struct Event {
    kind: Kind,
    name: SecretName,
    id: SecretId,
    tries: u32,
}

struct Job {
    event: Event,
    /// Of a file that is reached without its name.
    key: u64,
    shares: Vec<Share>,
    since: Instant,
    outcome: Outcome,
}

/// What becomes of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The next event of its directory can go.
    Told,
    /// Nothing.
    Beside,
    /// A change waits for it.
    Awaited,
    /// A change waited for it, and went on.
    TooLate,
}

/// What is not given to one directory alone.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Share {
    /// Everything below this name of the root.
    Below(String),
    /// Directories that never answered.
    Unknown,
    /// All.
    Helpers,
}

impl Share {
    fn limit(&self) -> usize {
        match self {
            Share::Below(_) => BELOW_ONE,
            Share::Unknown => UNKNOWN,
            Share::Helpers => HELPERS,
        }
    }
}

/// Events that were given up, as they are told: once a second.
#[derive(Default)]
struct Untold {
    count: u64,
    last: Option<(SecretName, Error)>,
    said: Option<Instant>,
}

fn directory_of(name: &SecretName) -> &str {
    name.as_str()
        .rsplit_once('/')
        .map_or("", |(directory, _)| directory)
}

impl Announcer {
    /// Proves that the notifier's requests arrive with its pid (if they did not, no caller's pid could be
    /// believed), and feeds it.
    pub fn start(notifier: Child, vfs: &Arc<Vfs>) -> Result<Announcer> {
        let channel = notifier.channel();
        channel.ask(Kind::Ready, b"", BEGIN)?;
        vfs.set_notifier(notifier.threads()?);
        channel.ask(Kind::Probe, b"", BEGIN)?;
        if !vfs.notifier_was_seen() {
            return Err(Error::other(
                "requests do not arrive with their caller's pid: is this another pid namespace than the mount's?",
            ));
        }
        let attributes = attributes(&channel, vfs);
        if attributes == Attributes::Sticky {
            tracing::warn!("owners of files are what the last look at them showed: readers can take leases");
        }
        vfs.show(attributes);
        let shared = Arc::new(Shared {
            channel,
            vfs: vfs.clone(),
            work: Mutex::default(),
            answered: Condvar::new(),
        });
        let feeding = shared.clone();
        let worker = std::thread::Builder::new()
            .name("announcer".into())
            .spawn(move || feeding.feed(notifier))?;
        Ok(Announcer {
            shared,
            worker: Mutex::new(Some(worker)),
        })
    }

    /// A change was published.
    pub fn announce(&self, change: &Change) {
        let kind = match change.kind {
            ChangeKind::Created => Kind::Created,
            ChangeKind::Deleted => Kind::Deleted,
            ChangeKind::Value => Kind::Modified,
            ChangeKind::Settings => return,
        };
        let mut work = self.shared.work();
        work.push(Event {
            kind,
            name: change.name.clone(),
            id: change.id,
            tries: 0,
        });
        work.dispatch(&self.shared);
    }

    /// Has the size raised that the kernel keeps of these files, before a longer value is published. If that takes too long
    /// the value is published all the same: its put is not held up by whoever holds a lock.
    pub fn raise(&self, change: &Change, nodes: &[Node]) {
        let mut work = self.shared.work();
        let begun: Vec<u32> = nodes
            .iter()
            .enumerate()
            // The first is the one that has the name.
            .filter_map(|(i, node)| {
                let key = if i == 0 { 0 } else { node.ino() };
                work.begin(Kind::Raised, change, key, &self.shared)
            })
            .collect();
        drop(self.shared.wait_for(work, &begun));
    }

    /// Has a file kept within reach before its name goes to another. If that takes too long the name stays.
    pub fn keep(&self, change: &Change, node: Node) {
        let shared = &self.shared;
        let mut work = shared.work();
        if work.kept.len() >= KEPT
            && let Some(oldest) = work.kept.pop_front()
        {
            shared.vfs.unreachable(oldest);
            let _ = work.begin(Kind::Forget, change, oldest.ino(), shared);
        }
        let Some(number) = work.begin(Kind::Keep, change, node.ino(), shared) else {
            return;
        };
        let mut work = shared.wait_for(work, &[number]);
        if let Some(late) = work.under_way.get_mut(&number) {
            late.outcome = Outcome::TooLate;
        } else if work.done.remove(&number) {
            work.kept.push_back(node);
            shared.vfs.reachable(node);
        }
    }

    /// Lets each of `threads` serving threads take a request: the kernel wakes the one that waits longest. A thread whose
    /// buffer has no page of its own (since it never read, or since the process was forked) answers the request that it
    /// takes in the moment of being killed with EIO (`fuse_dev_do_read`), where the caller is to see ENOTCONN.
    pub fn warm(&self, threads: usize) {
        for _ in 0..2 * threads {
            // Nobody waits for the answers.
            let _ = self.shared.channel.request(Kind::Probe, 0, 0, b"");
        }
    }

    /// Whether it is still fed.
    pub fn alive(&self) -> bool {
        lock(&self.worker).as_ref().is_some_and(|w| !w.is_finished())
    }

    /// Ends the notifier. What was not told by now is not told any more.
    pub fn stop(&self) {
        self.shared.work().stopping = true;
        if let Some(worker) = lock(&self.worker).take() {
            // It waits for answers alone, and not longer than LOOK and END.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    /// Waits until none of these is under way, but not longer than [`RAISE`].
    fn wait_for<'w>(&'w self, mut work: MutexGuard<'w, Work>, numbers: &[u32]) -> MutexGuard<'w, Work> {
        let end = Instant::now() + RAISE;
        while numbers.iter().any(|n| work.under_way.contains_key(n)) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.answered.wait_timeout(work, left);
            work = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        work
    }

    fn feed(&self, mut notifier: Child) {
        loop {
            let answer = self.channel.answer(LOOK);
            let mut work = self.work();
            if work.stopping || notifier.ended() {
                break;
            }
            match answer {
                Ok((number, outcome)) => work.answered(number, outcome, self),
                Err(e) if e.kind() == ErrorKind::TimedOut => {}
                Err(e) => {
                    tracing::error!("the notifier cannot be heard: {e}");
                    break;
                }
            }
            work.try_again();
            work.dispatch(self);
            work.untold.tell();
        }
        *self.work() = Work {
            stopping: true,
            ..Work::default()
        };
        if notifier.stop(END).is_err() {
            tracing::info!("the notifier is held inside the mount, and is left to end with what holds it");
        }
        // Before its pid can be somebody else's: it is free when the notifier is dropped.
        self.vfs.set_notifier(Vec::new());
    }
}

impl Work {
    fn push(&mut self, event: Event) {
        if self.stopping {
            return;
        }
        let path = directory_of(&event.name);
        let directory = match self.directories.get_mut(path) {
            Some(directory) => directory,
            None => {
                self.ready.push_back(path.to_string());
                self.directories.entry(path.to_string()).or_default()
            }
        };
        if directory.last.get(&event.name) == Some(&event.kind) {
            return;
        }
        if self.waiting >= WAITING {
            let full = Error::other("too many events wait for a directory that hangs");
            return self.untold.note(event.name, full);
        }
        self.waiting += 1;
        directory.last.insert(event.name.clone(), event.kind);
        directory.events.push_back(event);
    }

    /// Sends what can be sent.
    fn dispatch(&mut self, shared: &Shared) {
        while let Some(path) = self.ready.pop_front() {
            let shares = self.shares(&path);
            let used = |share: &Share| {
                self.under_way
                    .values()
                    .filter(|j| j.shares.contains(share))
                    .count()
            };
            if let Some(full) = shares.iter().find(|share| used(share) >= share.limit()) {
                self.parked.entry(full.clone()).or_default().push(path);
                continue;
            }
            let Some(event) = self.take(&path) else { continue };
            stage(&event, &shared.vfs);
            let touched = (event.kind == Kind::Modified).then(|| event.clone());
            if let Err((event, e)) = self.send(event, 0, shares, Outcome::Told, shared) {
                shared.vfs.announced(event.name.as_str());
                self.untold.note(event.name, e);
                self.rest(path);
                continue;
            }
            for (event, node) in touched.into_iter().flat_map(|e| {
                shared
                    .vfs
                    .other_nodes(e.id)
                    .into_iter()
                    .map(move |n| (e.clone(), n))
            }) {
                let _ = self.send(event, node.ino(), vec![Share::Helpers], Outcome::Beside, shared);
            }
        }
    }

    /// Sends it beside what else is under way, unless something hangs there: its number.
    fn begin(&mut self, kind: Kind, change: &Change, key: u64, shared: &Shared) -> Option<u32> {
        let directory = directory_of(&change.name);
        let hangs = |job: &Job| directory_of(&job.event.name) == directory && job.since.elapsed() > RAISE;
        if self.stopping || self.under_way.len() >= HELPERS {
            return None;
        }
        // What has a key is reached without its name.
        if (key == 0 || kind == Kind::Keep) && self.under_way.values().any(hangs) {
            return None;
        }
        let event = Event {
            kind,
            name: change.name.clone(),
            id: change.id,
            tries: 0,
        };
        self.send(event, key, vec![Share::Helpers], Outcome::Awaited, shared)
            .ok()
    }

    fn send(
        &mut self,
        event: Event,
        key: u64,
        shares: Vec<Share>,
        outcome: Outcome,
        shared: &Shared,
    ) -> std::result::Result<u32, (Event, Error)> {
        self.number = self.number.wrapping_add(1);
        let path = event.name.as_str().as_bytes();
        if let Err(e) = shared.channel.request(event.kind, self.number, key, path) {
            return Err((event, e));
        }
        let job = Job {
            event,
            key,
            shares,
            since: Instant::now(),
            outcome,
        };
        self.under_way.insert(self.number, job);
        Ok(self.number)
    }

    fn shares(&self, path: &str) -> Vec<Share> {
        let first = path.split('/').next().unwrap_or_default();
        let mut shares = vec![Share::Helpers, Share::Below(first.to_string())];
        if !self.known.contains(path) {
            shares.push(Share::Unknown);
        }
        shares
    }

    /// The next event of a directory, which is not ready before [`Work::rest`].
    fn take(&mut self, path: &str) -> Option<Event> {
        let directory = self.directories.get_mut(path)?;
        let Some(event) = directory.events.pop_front() else {
            self.directories.remove(path);
            return None;
        };
        self.waiting -= 1;
        if directory.last.get(&event.name) == Some(&event.kind) {
            directory.last.remove(&event.name);
        }
        Some(event)
    }

    /// Nothing is under way in a directory any more.
    fn rest(&mut self, path: String) {
        match self.directories.get_mut(&path) {
            Some(directory) if !directory.events.is_empty() => {
                self.ready.push_back(path);
            }
            _ => {
                self.directories.remove(&path);
            }
        }
    }

    fn answered(&mut self, number: u32, outcome: Result<()>, shared: &Shared) {
        let Some(job) = self.under_way.remove(&number) else {
            return;
        };
        for share in &job.shares {
            self.ready.extend(self.parked.remove(share).unwrap_or_default());
        }
        match (job.outcome, job.event.kind) {
            (Outcome::Told, _) => {}
            (Outcome::TooLate, Kind::Keep) => {
                let event = Event {
                    kind: Kind::Forget,
                    ..job.event
                };
                let _ = self.send(event, job.key, Vec::new(), Outcome::Beside, shared);
                return;
            }
            (Outcome::Awaited, kind) => {
                if kind == Kind::Keep && outcome.is_ok() {
                    self.done.insert(number);
                }
                return shared.answered.notify_all();
            }
            (Outcome::Beside | Outcome::TooLate, _) => return,
        }
        let event = job.event;
        shared.vfs.announced(event.name.as_str());
        let path = directory_of(&event.name).to_string();
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(path.clone());
        self.rest(path);
        match outcome.map_err(|e| (e.raw_os_error(), e)) {
            Ok(()) => {}
            Err((Some(libc::EAGAIN), _)) if event.tries < TRIES => self.put_off(event),
            // A later change has overtaken it, and is told as well.
            Err((Some(libc::ENOENT | libc::EEXIST), _)) => {}
            Err((_, e)) => self.untold.note(event.name, e),
        }
    }

    /// Somebody has a lease on the file; `IN_MODIFY` was told, and the lease breaks from now on.
    fn put_off(&mut self, event: Event) {
        if self.later.len() < WAITING && !self.later.iter().any(|(_, e)| e.name == event.name) {
            let event = Event {
                kind: Kind::Closed,
                tries: event.tries + 1,
                ..event
            };
            self.later.push_back((Instant::now() + AGAIN, event));
        }
    }

    fn try_again(&mut self) {
        while self.later.front().is_some_and(|(at, _)| *at <= Instant::now()) {
            if let Some((_, event)) = self.later.pop_front() {
                self.push(event);
            }
        }
    }
}

/// How attributes can be answered here: whether the kernel does what [`Attributes::Shown`] rests on is seen, not believed.
fn attributes(channel: &Channel, vfs: &Vfs) -> Attributes {
    let Some(uid) = nobody::unused() else {
        return Attributes::Sticky;
    };
    vfs.probe(Some(()));
    let seen = channel.ask(Kind::ProbeShown, b"", BEGIN);
    vfs.probe(None);
    match seen {
        Ok(()) => Attributes::Shown(uid),
        Err(_) => Attributes::Sticky,
    }
}

/// What the notifier is to find: for a name that was made none, so that it can make it.
fn stage(event: &Event, vfs: &Vfs) {
    let name = event.name.as_str().to_string();
    match event.kind {
        Kind::Created => vfs.announcing(Announced::Created(name)),
        Kind::Deleted => vfs.announcing(Announced::Deleted(name, event.id)),
        _ => {}
    }
}

impl Untold {
    fn note(&mut self, name: SecretName, why: Error) {
        self.count += 1;
        self.last = Some((name, why));
    }

    fn tell(&mut self) {
        let quiet = self.said.is_some_and(|at| at.elapsed() < Duration::from_secs(1));
        if !quiet && let Some((name, why)) = self.last.take() {
            let others = self.count - 1;
            tracing::warn!("watchers of {name} were not told ({others} other events neither): {why}");
            *self = Untold {
                said: Some(Instant::now()),
                ..Untold::default()
            };
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
