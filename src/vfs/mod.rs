//! The file system without a transport: tree, nodes, handles, sizes, errno. `fuse/` decodes, calls and replies.

use std::sync::{Arc, OnceLock, PoisonError};

use crate::access::{Access, AccessError, Bytes, Caller, Choice, Range, Standing};
use crate::audit::Event;
use crate::clock::Timestamp;
use crate::id::Tid;
use crate::places::Place;
use crate::policy::{Basis, Reason, Refusal};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, Swap};
use crate::vault::{Change, ChangeKind, State, Version, View};

mod announce;
mod attr;
mod caller;
mod counters;
mod errno;
mod handles;
#[cfg(all(test, feature = "interleavings"))]
mod interleavings;
mod listing;
mod node;
mod number;
mod poll;
mod retry;
mod tree;
mod xattr;

pub use announce::Announced;
pub use attr::{Attr, Attributes, Kind, Look};
pub use caller::{Answered, RequestCaller};
pub use counters::Counters;
use counters::Failure;
pub use errno::{Errno, Level, VfsError};
pub use handles::{Handle, Handles, OpenFile};
pub use listing::ListingEntry;
pub use node::{Node, Slot};
pub use retry::Asked;
use retry::Begun;

/// What the kernel has to be told before a change is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coming {
    /// Nothing.
    Known,
    /// The size that it keeps for these files is too low for what is to come.
    Longer(Vec<Node>),
    /// What is held on this file is longer: if the file can still be reached without its name ([`Vfs::reachable`]), look-ups
    /// find another one from then on.
    Shorter(Node),
}

/// The answer to a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The value that the handle keeps is not the current one any more.
    pub changed: bool,
}

/// Wakes a poller, by the kernel's number for it.
pub trait Waker: Send + Sync {
    /// Must not wait.
    fn wake(&self, poller: u64);
    /// Makes the kernel not keep attributes of this inode that are on their way to it. Must not wait.
    ///
    /// # Errors
    /// If it cannot be told.
    fn forget_attributes(&self, ino: u64) -> std::io::Result<()>;
}

/// The file system.
pub struct Vfs {
    access: Arc<Access>,
    handles: Handles,
    /// Counters of the service.
    pub counters: Counters,
    notifier: Swap<Vec<Tid>>,
    notifier_seen: AtomicBool,
    announced: Mutex<Vec<Announced>>,
    waker: OnceLock<Box<dyn Waker>>,
    numbers: number::Numbers,
    attributes: OnceLock<Attributes>,
    probing: AtomicU64,
    started: Timestamp,
}

/// Who a caller's handles count for: sub ids for the account that they are lent to.
fn owner<C: Caller>(caller: &C) -> u32 {
    crate::sys::accounts::owner(caller.uid()).0
}

impl Vfs {
    /// Over a store, with at most `max_handles_per_uid` open handles for each uid.
    pub fn new(access: Arc<Access>, max_handles_per_uid: usize) -> Self {
        Vfs {
            access,
            handles: Handles::new(max_handles_per_uid),
            counters: Counters::default(),
            notifier: Swap::from_pointee(Vec::new()),
            notifier_seen: AtomicBool::new(false),
            announced: Mutex::default(),
            waker: OnceLock::new(),
            numbers: number::Numbers::default(),
            attributes: OnceLock::new(),
            probing: AtomicU64::new(attr::NOT_PROBING),
            started: Timestamp::now(),
        }
    }

    /// Gives each uid at most so many open handles from now on; those that are open stay.
    pub fn limit_handles(&self, max_per_uid: usize) {
        self.handles.limit(max_per_uid);
    }

    /// Whether a READ of `uid` waits for its turn, because its records flood a log that has little space.
    pub fn must_wait(&self, uid: crate::id::Uid) -> bool {
        let waits = !self.access.vault().log().wait(uid).is_zero();
        if waits {
            count(&self.counters.held);
        }
        waits
    }

    /// The decisions behind it.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The inode number that programs are shown for a node.
    pub fn number(&self, node: Node) -> u64 {
        self.numbers.of(node)
    }

    /// Number of open handles.
    pub fn open_handles(&self) -> usize {
        self.handles.count()
    }

    /// Which threads may touch files so that watchers hear of changes.
    pub fn set_notifier(&self, threads: Vec<Tid>) {
        self.notifier.store(Arc::new(threads));
    }

    /// Whether a request of the notifier arrived as its own since it was named.
    pub fn notifier_was_seen(&self) -> bool {
        self.notifier_seen.load(Ordering::SeqCst)
    }

    /// How pollers are woken; once, before service begins.
    pub fn set_waker(&self, waker: Box<dyn Waker>) {
        let _ = self.waker.set(waker);
    }

    /// A change will be published when this returns. Of a value that becomes longer than what the kernel may know, the new
    /// length is what is answered to it from now on; whether it is to be asked for ([`Vfs::announce_touched`]).
    pub fn coming(&self, change: &Change, state: &State) -> Coming {
        let size = current_size(state, change);
        match change.kind == ChangeKind::Value && matches!(self.attributes(), Attributes::Shown(_)) {
            true => self.handles.sizes().coming(change.id, size),
            false => Coming::Known,
        }
    }

    /// The notifier reaches this file without its name.
    pub fn reachable(&self, node: Node) {
        if let Node::Secret(id, slot) = node {
            self.handles.sizes().reachable(id, slot);
        }
    }

    /// The notifier does not reach this file any more.
    pub fn unreachable(&self, node: Node) {
        if let Node::Secret(id, slot) = node {
            self.handles.sizes().unreachable(id, slot);
        }
    }

    /// The files of a secret beside the one that a look-up finds.
    pub fn other_nodes(&self, id: crate::id::SecretId) -> Vec<Node> {
        self.handles.sizes().others(id)
    }

    /// A change was published: whoever polls a handle of an older version is woken.
    pub fn changed(&self, change: &Change) {
        let size = current_size(&self.access.vault().peek(), change);
        self.handles.sizes().came(change.id, size);
        if change.kind == ChangeKind::Settings {
            return;
        }
        let Some(waker) = self.waker.get() else { return };
        for file in self.handles.followers(change.id) {
            let waiter = lock(&file.poll).waiter();
            if let Some(waiter) = waiter {
                waker.wake(waiter);
            }
        }
    }

    /// Opens a file for reading; for the notifier, for touching.
    ///
    /// # Errors
    /// As the decision goes; EROFS for writing.
    pub fn open<C: Caller>(&self, node: Node, write: bool, caller: &mut C) -> Result<u64, VfsError> {
        count(&self.counters.opens);
        if write {
            return self.open_for_notifier(caller);
        }
        let place = self.handles.admit(owner(caller))?;
        let number = self.handles.reserve();
        let file = loop {
            let state = self.access.vault().peek();
            let (secret, choice, follows_current) = self.target(&state, node)?;
            let pin = self
                .access
                .open(secret, choice, number, caller)
                .map_err(|e| self.not_read(e))?;
            let (id, no, size) = (pin.secret, pin.version.meta.no, pin.version.meta.size);
            let sizes = self.handles.sizes();
            let slot = match node {
                Node::Secret(_, slot) => slot,
                _ => Slot::default(),
            };
            sizes.hold(id, slot, size, || {
                if let Some(waker) = self.waker.get() {
                    let _ = waker.forget_attributes(Node::Secret(id, slot).ino());
                }
            });
            // A rotation between the choice and the hold could show somebody a size below what is held here:
            // then choose again.
            let now = self.access.vault().peek();
            let same = !follows_current
                || now
                    .secrets
                    .by_id(id)
                    .and_then(|s| s.current())
                    .is_none_or(|v| v.meta.no == no);
            if same {
                break OpenFile {
                    pin,
                    slot,
                    follows_current,
                    poll: Mutex::default(),
                    retries: Mutex::default(),
                };
            }
            sizes.drop_held(id, slot, size);
        };
        self.handles.insert(number, Handle::File(Arc::new(file)), place);
        Ok(number)
    }

    fn open_for_notifier<C: Caller>(&self, caller: &mut C) -> Result<u64, VfsError> {
        let place = self.admit_notifier(caller)?;
        let number = self.handles.reserve();
        self.handles.insert(number, Handle::Notifier, place);
        Ok(number)
    }

    fn admit_notifier<C: Caller>(&self, caller: &mut C) -> Result<Place, VfsError> {
        if !self.is_notifier(caller) {
            return Err(VfsError::ReadOnly);
        }
        self.handles.admit(0)
    }

    /// Whether this is the process that touches files so that watchers hear of changes.
    pub fn is_notifier<C: Caller>(&self, caller: &mut C) -> bool {
        caller.uid() == crate::id::ROOT
            && self.notifier.load().contains(&Tid(caller.thread()))
            && caller.identify().is_ok()
    }

    /// Reads a file. `direct` says that the kernel named who reads; without it this would fill the page cache,
    /// where anybody who is handed the file could fetch it unseen.
    ///
    /// # Errors
    /// As the decision goes.
    pub fn read<C: Caller>(
        &self,
        handle: u64,
        range: Range,
        direct: bool,
        caller: &mut C,
    ) -> Result<Option<Bytes>, VfsError> {
        count(&self.counters.reads);
        let Handle::File(file) = self.handles.get(handle)? else {
            return Err(VfsError::IsDirectory);
        };
        if !direct {
            self.refuse_read(&file, Reason::PageCacheRefused, caller);
            return Err(VfsError::PageCache);
        }
        let (thread, offset) = (caller.thread(), range.offset);
        if lock(&file.retries).begin(thread, offset) == Begun::Again {
            self.refuse_read(&file, Reason::IoUringRetry, caller);
            return Err(VfsError::IoUringRetry);
        }
        let bytes = self.access.read(&file.pin, range, caller);
        if !matches!(bytes, Ok(Some(_))) {
            lock(&file.retries).nothing_given(thread, offset);
        }
        bytes.map_err(|e| self.not_read(e))
    }

    fn refuse_read<C: Caller>(&self, file: &OpenFile, reason: Reason, caller: &mut C) {
        let state = self.access.vault().peek();
        if let Some(secret) = state.secrets.by_id(file.pin.secret) {
            let refusal = Refusal {
                reason,
                basis: Basis::DEFAULT,
            };
            let _ = self
                .access
                .refuse(state.view(secret), refusal, Event::GetSecretValue, caller);
        }
    }

    /// Whether the value behind a handle changed; `waiter` wants to be woken when it does.
    ///
    /// # Errors
    /// For a handle that is none.
    pub fn poll(
        &self,
        handle: u64,
        asked: Asked,
        waiter: Option<u64>,
        thread: u32,
    ) -> Result<Polled, VfsError> {
        let Handle::File(file) = self.handles.get(handle)? else {
            return Ok(Polled { changed: false });
        };
        if asked.is_io_uring_read() {
            lock(&file.retries).mark(thread);
            return Ok(Polled { changed: false });
        }
        let mut poll = lock(&file.poll);
        if let Some(waiter) = waiter {
            poll.wait(waiter);
        }
        if !file.follows_current || asked.events & POLLPRI == 0 {
            return Ok(Polled { changed: false });
        }
        let state = self.access.vault().peek();
        let current = state
            .secrets
            .by_id(file.pin.secret)
            .and_then(|s| s.current())
            .map(|v| v.meta.no);
        Ok(Polled {
            changed: poll.raise(file.pin.version.meta.no, current, thread),
        })
    }

    /// Forgets a handle, of a file or of a directory.
    pub fn release(&self, handle: u64) {
        self.handles.release(handle);
    }

    /// The secret and version that a file's node stands for.
    fn target<'s>(&self, state: &'s State, node: Node) -> Result<(View<'s>, Choice<'s>, bool), VfsError> {
        match node {
            Node::Secret(id, _) => Ok((found(state, id)?, Choice::Label("current"), true)),
            Node::Version(no) => {
                let (secret, version) = version(state, no).ok_or(VfsError::NoEntry)?;
                Ok((secret, Choice::Version(version), false))
            }
            Node::Root
            | Node::Directory(_)
            | Node::Versions
            | Node::VersionsDirectory(_)
            | Node::VersionsOf(_) => Err(VfsError::IsDirectory),
            Node::LabelLink(_) => Err(VfsError::Invalid),
        }
    }

    fn not_read(&self, e: AccessError) -> VfsError {
        if let Some(failure) = Failure::of(&e) {
            count(self.counters.failed(failure));
        }
        self.refused(e)
    }

    fn refused(&self, e: AccessError) -> VfsError {
        if matches!(e, AccessError::Denied(_) | AccessError::Hidden(_)) {
            count(&self.counters.refused);
        }
        VfsError::Access(e)
    }

    fn standing<C: Caller>(
        &self,
        secret: View<'_>,
        event: Event,
        caller: &mut C,
    ) -> Result<Standing, VfsError> {
        if !secret.is_active() && secret.broken.is_none() {
            return Err(VfsError::NoEntry);
        }
        self.access
            .standing(secret, event, caller)
            .map_err(|e| self.refused(e))
    }
}

fn current_size(state: &State, change: &Change) -> u32 {
    let secret = state.secrets.by_id(change.id);
    secret.and_then(|s| s.current()).map_or(0, |v| v.meta.size)
}

/// The secret in this state.
fn found(state: &State, id: crate::id::SecretId) -> Result<View<'_>, VfsError> {
    let secret = state.secrets.by_id(id).ok_or(VfsError::NoEntry)?;
    Ok(state.view(secret))
}

fn version(state: &State, no: crate::id::VersionNo) -> Option<(View<'_>, &Version)> {
    let secret = found(state, *state.versions.get(&no)?).ok()?;
    Some((secret, secret.secret().versions.get(&no)?))
}

/// `POLLPRI` of poll(2).
const POLLPRI: u32 = 0x002;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
