//! The default store: one `redb` file in a directory that one process owns.
//!
//! All tables live in one tree, under keys that begin with the table's number: a commit rewrites one path of pages
//! instead of one for each table. Commits are two-phase, with the allocator's state saved (redb's quick repair): a
//! store that was killed opens at once and needs no page of it to be good but those that are read, so that
//! damage in one record does not keep the others from being served.
//!
//! redb may panic on pages that contradict each other. No panic of it leaves this module: it becomes
//! [`StoreError::Corrupt`]. In a commit it may even panic while it unwinds, which would end the process. So the whole
//! file is checked before the first commit after it was opened, and if it is damaged, the records are copied into a
//! new file first (`salvage.rs`).
//!
//! Nothing is written at the end either: being dropped and being killed are the same to the file.

mod check;
#[cfg(test)]
mod damage_tests;
mod disk;
mod files;
mod overlay;
mod reserve;
mod salvage;
#[cfg(test)]
mod tests;

use super::feed::Feed;
use super::{Batch, Checked, MAX_KEY, Op, Revision, Space, Store, StoreError, Table, Watch};
use crate::sys::dir::{Dir, Made};
use arc_swap::{ArcSwap, ArcSwapOption};
use disk::Disk;
use files::{Home, Way};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use std::cell::Cell;
use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, TryLockError};
use std::time::{Duration, Instant};

/// The records at one commit.
type Records = ReadOnlyTable<&'static [u8], &'static [u8]>;
const RECORDS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("records");
/// Where the revision is kept, beyond the last table there can be.
const REVISION: &[u8] = b"\xffrevision";
/// Pages kept in memory: enough for the tree above 100,000 records. They hold sealed bytes only.
const CACHE: usize = 4 << 20;

pub use reserve::RESERVE;

/// The store's file in its directory.
pub const FILE: &str = files::DATA;
const READ: &str = "read";
const WRITE: &str = "write";

/// An open store.
pub struct Embedded {
    // Fields drop in their order: the database lets go of its file before the directory's lock is given up.
    state: ArcSwap<Open>,
    /// One commit at a time, and the watchers hear of them in their order.
    committing: Mutex<()>,
    feed: Arc<Feed>,
    data: PathBuf,
    home: Home,
}

/// A database and the way to cut it off from its file.
struct Open {
    db: Option<Database>,
    /// What the last commit left; `None` where none was made yet. Kept, because redb lets nobody begin to read while a
    /// commit waits for the disk to make the file larger.
    records: ArcSwapOption<Records>,
    disk: Disk,
    /// Set when redb has failed in a way that it answers all later calls with.
    broken: AtomicBool,
    /// Set when redb panicked.
    panicked: AtomicBool,
    /// Set when the file was checked, so that it may be written to.
    sound: AtomicBool,
}

impl Drop for Open {
    fn drop(&mut self) {
        let (db, records) = (self.db.take(), self.records.swap(None));
        self.disk.close();
        if self.panicked.load(Ordering::Acquire) {
            // It may hold poisoned locks, on which its own end would panic: a few pages of memory are lost instead.
            std::mem::forget((db, records));
            return;
        }
        // An orderly end of redb is one more commit, on pages that nobody may have checked. It is left out where the
        // database ends because of a panic; this unwinding is one, which no hook hears of.
        let _ = catch_unwind(AssertUnwindSafe(move || {
            let _end = (db, records);
            resume_unwind(Box::new(()));
        }));
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.feed.close();
    }
}

impl Embedded {
    /// Makes a store in `dir`, which is made (0700) if need be. The store is at revision 0 and without a header;
    /// one in which nothing was ever committed is taken for new.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::InUse`], [`StoreError::Unfit`], [`StoreError::Untrusted`], [`StoreError::Io`].
    pub fn create(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let mut home = Home::create(dir.as_ref())?;
        match home.open_data() {
            Ok(file) => {
                let path = home.path().to_path_buf();
                match Self::start(home, file)? {
                    store if store.revision()? == Revision(0) => Ok(store),
                    _ => Err(StoreError::Exists { path }),
                }
            }
            Err(StoreError::NotFound { .. }) => {
                let data = home.data_path();
                let file = match Self::begin(&mut home, &data) {
                    Ok(file) => file,
                    Err(e) => {
                        home.made().clone().take_away();
                        return Err(e);
                    }
                };
                Self::start(home, file)
            }
            Err(other) => Err(other),
        }
    }

    fn begin(home: &mut Home, data: &Path) -> Result<File, StoreError> {
        let draft = home.draft()?;
        home.note_draft(&draft)?;
        // Closed before it is named: a file of that name is a whole store.
        drop(Open::new(Disk::new(draft), data)?);
        home.name_draft()?;
        home.open_data()
    }

    /// Opens the store in `dir` and owns it until it is dropped.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::InUse`], naming the owner; [`StoreError::Untrusted`] if the
    /// directory or a file is a link, belongs to another user or is open to others; [`StoreError::TooNew`];
    /// [`StoreError::Corrupt`]; [`StoreError::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let home = Home::open(dir.as_ref(), Way::Change)?;
        let file = home.open_data()?;
        Self::start(home, file)
    }

    /// Opens the store in `dir` on a disk that cannot be written, for reading alone: nothing is written, and a commit is
    /// refused. Others may look at it too.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn look(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let home = Home::open(dir.as_ref(), Way::Look)?;
        let file = home.open_data()?;
        Self::start(home, file)
    }

    fn start(home: Home, file: File) -> Result<Self, StoreError> {
        let data = home.data_path();
        disk::sniff(&file, &data)?;
        let open = Open::new(disk(&home, file)?, &data)?;
        let revision = open.revision(&data)?;
        Ok(Embedded {
            state: ArcSwap::from_pointee(open),
            committing: Mutex::new(()),
            feed: Feed::new(revision),
            data,
            home,
        })
    }

    /// What [`Embedded::create`] made.
    pub fn made(&self) -> &Made {
        self.home.made()
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.home.path()
    }

    /// The database; opened anew if the last one gave up on its file, as redb does after every failed write.
    fn database(&self) -> Result<arc_swap::Guard<Arc<Open>>, StoreError> {
        let open = self.state.load();
        if !open.broken.load(Ordering::Acquire) {
            return Ok(open);
        }
        drop(open);
        let _turn = self
            .committing
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        self.reopen()?;
        Ok(self.state.load())
    }

    /// To be called in one's turn to commit.
    fn reopen(&self) -> Result<(), StoreError> {
        let old = self.state.load_full();
        if old.broken.load(Ordering::Acquire) {
            // Whoever still reads from the old one may go on; it writes no more, not even when it is dropped.
            old.disk.retire();
            self.home.still_names(old.disk.inode())?;
            let file = self.home.open_data()?;
            disk::sniff(&file, &self.data)?;
            let open = Open::new(disk(&self.home, file)?, &self.data)?;
            self.feed.found(open.revision(&self.data)?);
            self.state.store(Arc::new(open));
        }
        Ok(())
    }
}

fn disk(home: &Home, file: File) -> Result<Disk, StoreError> {
    match home.way() {
        Way::Change => Ok(Disk::new(file)),
        Way::Look => Disk::unwritten(file).map_err(|e| files::io("read", &home.data_path(), e)),
    }
}

impl Open {
    fn new(disk: Disk, path: &Path) -> Result<Self, StoreError> {
        let db = guarded(path, || {
            redb::Builder::new()
                .set_cache_size(CACHE)
                .create_with_backend(disk.clone())
                .map_err(|e| error("open", path, e.into()))
        })?;
        let open = Open {
            db: Some(db),
            records: ArcSwapOption::empty(),
            disk,
            broken: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            sound: AtomicBool::new(false),
        };
        open.using(path, |db| open.renew(db), READ)?;
        Ok(open)
    }

    /// From now on what is committed now is read.
    fn renew(&self, db: &Database) -> Result<(), redb::Error> {
        let records = match db.begin_read()?.open_table(RECORDS) {
            Ok(records) => Some(Arc::new(records)),
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            Err(e) => return Err(e.into()),
        };
        self.records.store(records);
        Ok(())
    }

    /// A record by its full key.
    fn read(&self, key: &[u8], path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let read = |_: &Database| match &*self.records.load() {
            Some(records) => Ok(records.get(key)?.map(|bytes| bytes.value().to_vec())),
            None => Ok(None),
        };
        self.using(path, read, READ)
    }

    /// Runs `f` on the database. An error after which redb refuses all work marks it broken, and so does a panic in
    /// a write; one in a read leaves it as it was, or shows by the next error.
    fn using<T>(
        &self,
        path: &Path,
        f: impl FnOnce(&Database) -> Result<T, redb::Error>,
        doing: &'static str,
    ) -> Result<T, StoreError> {
        let result = quietly(|| self.using_raw(f));
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => {
                if matches!(
                    e,
                    redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::LockPoisoned(_)
                ) {
                    self.broken.store(true, Ordering::Release);
                }
                Err(error(doing, path, e))
            }
            Err(_panic) => {
                self.panicked.store(true, Ordering::Release);
                if doing == WRITE {
                    self.broken.store(true, Ordering::Release);
                }
                Err(contradiction(path))
            }
        }
    }

    fn using_raw<T>(&self, f: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        self.db.as_ref().map_or(Err(redb::Error::DatabaseClosed), f)
    }

    fn revision(&self, path: &Path) -> Result<Revision, StoreError> {
        let found = self.read(REVISION, path)?;
        decode_revision(found.as_deref(), path)
    }
}

fn decode_revision(found: Option<&[u8]>, path: &Path) -> Result<Revision, StoreError> {
    match found.map(<[u8; 8]>::try_from) {
        None => Ok(Revision(0)),
        Some(Ok(bytes)) => Ok(Revision(u64::from_be_bytes(bytes))),
        Some(Err(_)) => Err(StoreError::Corrupt {
            what: path.display().to_string(),
            detail: "its revision is not a number".into(),
        }),
    }
}

fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(table.number());
    full.extend(key);
    full
}

impl Embedded {
    /// Every record whose key lies in `range`, under its full key, at one revision.
    #[expect(
        clippy::type_complexity,
        reason = "an alias would have to spell out the lifetimes"
    )]
    fn walk(
        &self,
        (from, to): (&[u8], &[u8]),
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        // A panic of the caller's own must not be taken for damage.
        let theirs = Cell::new(false);
        let mut disordered = false;
        let open = self.database()?;
        let mut walk = || -> Result<(), redb::Error> {
            let Some(records) = open.records.load_full() else {
                return Ok(());
            };
            let mut last = Vec::new();
            for entry in records.range::<&[u8]>(from..to)? {
                let (key, bytes) = entry?;
                let key = key.value();
                // Damaged pages can point back to their ancestors: without this the walk might not end.
                if key < from || key >= to || key <= &last[..] {
                    disordered = true;
                    break;
                }
                let bytes = bytes.value();
                theirs.set(true);
                QUIET.set(false);
                let go_on = each(key, bytes);
                QUIET.set(true);
                theirs.set(false);
                if go_on.is_break() {
                    break;
                }
                last.clear();
                last.extend(key);
            }
            Ok(())
        };
        let caught = Cell::new(None);
        let result = open.using(
            &self.data,
            |_| match catch_unwind(AssertUnwindSafe(&mut walk)) {
                Ok(result) => result,
                Err(panic) if theirs.get() => {
                    caught.set(Some(panic));
                    Ok(())
                }
                Err(panic) => resume_unwind(panic),
            },
            READ,
        );
        if let Some(panic) = caught.take() {
            resume_unwind(panic);
        }
        if disordered {
            return Err(contradiction(&self.data));
        }
        result
    }
}

impl Store for Embedded {
    fn home(&self) -> Option<&Dir> {
        Some(self.home.dir())
    }

    fn release(&self, limit: Duration) -> bool {
        let begun = Instant::now();
        loop {
            match self.committing.try_lock() {
                Ok(guard) => std::mem::forget(guard),
                Err(TryLockError::Poisoned(guard)) => std::mem::forget(guard.into_inner()),
                Err(TryLockError::WouldBlock) if begun.elapsed() < limit => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err(TryLockError::WouldBlock) => return false,
            }
            self.state.load().disk.retire();
            self.home.release();
            return true;
        }
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.database()?.revision(&self.data)
    }

    fn list(
        &self,
        table: Table,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let range = ([table.number()], [table.number() + 1]);
        self.walk((&range.0, &range.1), &mut |key, bytes| each(&key[1..], bytes))
    }

    fn dump(&self, each: &mut dyn FnMut(Table, &[u8], &[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        let tables = Table::ALL;
        // The revision's own record lies behind all tables.
        self.walk((&[0], &REVISION[..1]), &mut |key, bytes| match key
            .split_first()
            .and_then(|(n, key)| Some((tables.into_iter().find(|t| t.number() == *n)?, key)))
        {
            Some((table, key)) => each(table, key, bytes),
            None => ControlFlow::Continue(()),
        })
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if key.len() > MAX_KEY {
            return Ok(None);
        }
        let mut full = [0; 1 + MAX_KEY];
        full[0] = table.number();
        full[1..=key.len()].copy_from_slice(key);
        self.database()?.read(&full[..=key.len()], &self.data)
    }

    fn commit(&self, base: Revision, batch: &Batch) -> Result<Revision, StoreError> {
        batch.check()?;
        if self.home.way() == Way::Look {
            let path = self.home.path().into();
            return Err(StoreError::ReadOnly { path });
        }
        let _turn = self
            .committing
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        self.make_sound()?;
        // What is put in the file's place is not written to, nor is the file after that.
        self.home.still_names(self.state.load().disk.inode())?;
        let next = Revision(base.0.saturating_add(1));
        let found = Cell::new(Ok(base));
        let open = self.state.load();
        open.disk.spend(batch.space());
        let made = open.using(
            &self.data,
            |db| {
                let mut change = db.begin_write()?;
                change.set_durability(redb::Durability::Immediate)?;
                change.set_quick_repair(true);
                {
                    let mut records = change.open_table(RECORDS)?;
                    let present = {
                        let bytes = records.get(REVISION)?;
                        decode_revision(bytes.as_ref().map(|b| b.value()), &self.data)
                    };
                    let agreed = matches!(&present, Ok(present) if *present == base);
                    found.set(present);
                    if !agreed {
                        drop(records);
                        change.abort()?;
                        return Ok(());
                    }
                    for op in batch.ops() {
                        match op {
                            Op::Put { table, key, bytes } => {
                                records.insert(&full_key(*table, key)[..], &bytes[..])?;
                            }
                            Op::Delete { table, key } => {
                                records.remove(&full_key(*table, key)[..])?;
                            }
                        }
                    }
                    records.insert(REVISION, &next.0.to_be_bytes()[..])?;
                }
                change.commit()?;
                if open.renew(db).is_err() {
                    // It is committed all the same: the file is opened anew.
                    open.broken.store(true, Ordering::Release);
                }
                Ok(())
            },
            WRITE,
        );
        open.disk.spend(Space::Reserve);
        made?;
        let found = found.into_inner()?;
        if found != base {
            return Err(StoreError::Conflict {
                expected: base,
                found,
            });
        }
        self.feed.publish(next, batch);
        Ok(next)
    }

    fn watch(&self, since: Revision) -> Result<Watch, StoreError> {
        self.feed.watch(since)
    }

    fn check(&self, progress: &mut dyn FnMut(f64)) -> Result<Checked, StoreError> {
        // Commits wait, so that the file holds one state; readers do not.
        let _turn = self
            .committing
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        self.reopen()?;
        let revision = self.state.load().revision(&self.data)?;
        check::check(self.home.open_data()?, &self.data, revision, progress)
    }
}

thread_local! {
    /// Whether this thread runs a piece of redb.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a piece of redb. A panic in it is told by its result alone: who reads a damaged store is to see what is
/// wrong with it, and no backtrace.
fn quietly<T>(f: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(before);
    result
}

/// Runs a piece of redb; a panic in it is damage found.
fn guarded<T>(path: &Path, f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    quietly(f).unwrap_or_else(|_| Err(contradiction(path)))
}

fn contradiction(path: &Path) -> StoreError {
    StoreError::Corrupt {
        what: path.display().to_string(),
        detail: "its pages contradict each other".into(),
    }
}

/// redb's errors in this room's words.
fn error(doing: &'static str, path: &Path, e: redb::Error) -> StoreError {
    let corrupt = |detail: String| StoreError::Corrupt {
        what: path.display().to_string(),
        detail,
    };
    match e {
        redb::Error::Io(e) => match e.kind() {
            std::io::ErrorKind::UnexpectedEof => corrupt("it ends too early".into()),
            std::io::ErrorKind::InvalidData => corrupt(e.to_string()),
            _ => files::io(doing, path, e),
        },
        redb::Error::PreviousIo | redb::Error::LockPoisoned(_) | redb::Error::DatabaseClosed => {
            let source = std::io::Error::other("an earlier error closed the file; it is opened again");
            StoreError::Io {
                doing,
                path: path.into(),
                source,
            }
        }
        other => corrupt(other.to_string()),
    }
}
