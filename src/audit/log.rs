//! The open log, as the rest of the program sees it.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use crate::id::{Epoch, StoreId, Uid};
use crate::secret::SecretBytes;
use crate::sync::{Mutex, MutexGuard, thread_local};
use crate::sys::accounts::owner;
use crate::sys::dir::{Dir, Made, held};
use crate::sys::files::extent;

use super::body::Body;
use super::budget::Budget;
use super::chain::MAX_LINE;
use super::error::LogError;
use super::flood::{Floods, Refused, Ticket, Verdict};
use super::record::{Event, Record};
use super::segment::{self, Folder, Mode};
use super::unrecorded::Unrecorded;
use super::writer::{Context, Held, Live, Stamp, Writer};
use super::{ANCHOR_LIMIT, Anchor, Finished, Options, VerifyError, Wanted, archive, open};

/// Proof that a record is in the log. Only the log makes one, for each record once; the bytes that the record
/// speaks of may be handed out in exchange for it.
#[must_use]
#[derive(Debug)]
pub struct Receipt {
    seq: u64,
}

impl Receipt {
    /// The record's sequence number.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// The log of one store, open for writing. Whoever owns the store owns it; all methods may be called from any
/// thread.
pub struct Log {
    ctx: Context,
    chain: Mutex<Writer>,
    /// Who is told that a record is held back, and settles it.
    settler: OnceLock<SyncSender<()>>,
    /// Taken before `chain`, never after it.
    floods: Mutex<Floods>,
    budget: Budget,
    /// What becomes of a read, where nothing can be written.
    looked_at: Option<Unrecorded>,
    /// In tests budgets are by a clock that stands: this, and so many milliseconds.
    #[cfg(test)]
    pub(super) clock: (Instant, std::sync::atomic::AtomicU64),
}

/// Leave to record a refusal. Dropped without that, it is counted.
#[must_use]
pub struct Admitted<'l> {
    log: &'l Log,
    ticket: Option<Ticket>,
}

impl Admitted<'_> {
    /// Appends the record.
    ///
    /// # Errors
    /// If it could not be written. It is counted then, and the count is written when the log can be.
    pub fn write(mut self, record: &Record<'_>) -> Result<(), LogError> {
        let (_, bytes) = self.log.put(record)?;
        if let Some(ticket) = self.ticket.take() {
            self.log.floods().charge(ticket, bytes, self.log.now());
        }
        Ok(())
    }
}

impl Admitted<'_> {
    /// As [`Admitted::write`], of a refused look-up: held back for a moment, for the same request asked again
    /// ([`Log::is_asked_again`]), where somebody settles it. The next record of whatever kind is behind it.
    ///
    /// # Errors
    /// As [`Admitted::write`].
    pub fn hold(mut self, record: &Record<'_>, tid: u32) -> Result<(), LogError> {
        if self.log.looked_at.is_some() {
            return self.write(record);
        }
        let (Some(settler), Some(refused)) = (self.log.settler.get(), Refused::of(record)) else {
            return self.write(record);
        };
        let bytes = FIELDS.with(|fields| {
            let fields = &mut *fields.borrow_mut();
            fields.clear();
            record.write(fields);
            let mut chain = self.log.chain();
            chain.settle(&self.log.ctx);
            chain.held = Some(Held::new(&refused, tid, fields));
            fields.len() as u64 + FRAME
        });
        // Full: it is told already.
        let _ = settler.try_send(());
        if let Some(ticket) = self.ticket.take() {
            self.log.floods().charge(ticket, bytes, self.log.now());
        }
        Ok(())
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.log.floods().unwritten(ticket, self.log.now());
        }
    }
}

/// What a line has beside the fields of its record, about: sequence, time, id, MAC.
const FRAME: u64 = 160;

thread_local! {
    /// Where a thread lays out its record before it takes the chain's lock.
    static FIELDS: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(4096));
}

impl Log {
    /// Makes the log of a new store in `dir`, which is made if it is not there and must hold no log.
    ///
    /// # Errors
    /// [`LogError::Exists`] if there is a log; otherwise if the directory or file cannot be made private and durable.
    pub fn create(dir: &Path, store: StoreId, key: SecretBytes, options: Options) -> Result<Log, LogError> {
        let (home, _) = Dir::of(dir).map_err(|e| LogError::io(dir, e))?;
        Log::create_in(&home, dir, store, key, options, &mut Made::default())
    }

    /// The same, where `dir` is in the directory `home` that is held; `made` hears what is made, also if it fails then.
    ///
    /// # Errors
    /// As [`Log::create`].
    pub fn create_in(
        home: &Dir,
        dir: &Path,
        store: StoreId,
        key: SecretBytes,
        options: Options,
        made: &mut Made,
    ) -> Result<Log, LogError> {
        let folder = Folder::make(home, dir, made)?;
        if !folder.list()?.is_empty() {
            return Err(LogError::Exists { path: dir.into() });
        }
        let first = folder.segment(1, Mode::Create)?;
        folder.made(1, &first, made)?;
        let ctx = Context {
            home: home.clone(),
            dir: dir.into(),
            store,
            key,
            live: Live::of(&options),
            options,
        };
        let writer = Writer::create(&ctx, first)?;
        Ok(Log::with(ctx, writer))
    }

    /// Opens the log and checks it from the anchored record to its end. An unfinished last line of a crash is cut
    /// off (or marked, where the file is append-only), and a record says so.
    ///
    /// # Errors
    /// If the log is missing, ends before `anchor`, was changed from there on, is another store's, is too new, or
    /// is not private to its owner.
    pub fn open(
        dir: &Path,
        store: StoreId,
        key: SecretBytes,
        options: Options,
        anchor: &Anchor,
    ) -> Result<Log, LogError> {
        Log::resumed(dir, store, key, options, anchor, Mode::Append)
    }

    /// As it stands behind `anchor`, checked; to be written or only looked at.
    fn resumed(
        dir: &Path,
        store: StoreId,
        key: SecretBytes,
        options: Options,
        anchor: &Anchor,
        mode: Mode,
    ) -> Result<Log, LogError> {
        let (home, _) = Dir::of(dir).map_err(|e| LogError::io(dir, e))?;
        let found = open::check(&home, dir, store, &key, anchor, mode)?;
        let ctx = Context {
            home,
            dir: dir.into(),
            store,
            key,
            live: Live::of(&options),
            options,
        };
        // What is only looked at is not mended.
        let torn = if mode == Mode::Read { 0 } else { found.torn };
        let (number, file, len, state) = (found.number, found.file, found.len, found.state);
        let mut writer = Writer::resume(&ctx, number, file, len, state, anchor.oldest_segment, torn)?;
        writer.archived = anchor.archived;
        Ok(Log::with(ctx, writer))
    }

    /// Begins anew after the anchored record, where the log is lost: with a segment whose number none had before, and
    /// whose header says that its predecessor is lost. What is left of the old log goes into a directory in `dir`, which is
    /// in the directory `home` that is held.
    ///
    /// # Errors
    /// If the directory or a file cannot be made or moved, or is not private.
    pub fn begin_anew(
        home: &Dir,
        dir: &Path,
        store: StoreId,
        key: SecretBytes,
        options: Options,
        anchor: &Anchor,
    ) -> Result<Log, LogError> {
        let folder = Folder::make(home, dir, &mut Made::default())?;
        let left = folder.list()?;
        let last = left.last().copied().unwrap_or(0).max(anchor.segment);
        folder.set_aside(&left)?;
        let ctx = Context {
            home: home.clone(),
            dir: dir.into(),
            store,
            key,
            live: Live::of(&options),
            options,
        };
        let file = folder.segment(last + 1, Mode::Create)?;
        let mut writer = Writer::after(&ctx, last + 1, file, anchor)?;
        writer.archived = anchor.archived;
        Ok(Log::with(ctx, writer))
    }

    /// Opens the log on a disk that cannot be written: it is checked, and takes no record. Refusals, and with
    /// [`Unrecorded::Told`] reads as well, go as a line to the system's own logs instead.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn look(
        dir: &Path,
        store: StoreId,
        key: SecretBytes,
        options: Options,
        anchor: &Anchor,
        unrecorded: Unrecorded,
    ) -> Result<Log, LogError> {
        let mut log = Log::resumed(dir, store, key, options, anchor, Mode::Read)?;
        log.looked_at = Some(unrecorded);
        Ok(log)
    }

    fn with(ctx: Context, writer: Writer) -> Log {
        let log = Log {
            looked_at: None,
            floods: Mutex::new(Floods::new(&ctx.options, Instant::now())),
            budget: Budget::new(ctx.options.uid_bytes_per_second),
            chain: Mutex::new(writer),
            settler: OnceLock::new(),
            ctx,
            #[cfg(test)]
            clock: (Instant::now(), 0.into()),
        };
        log.look_at_space();
        log
    }

    /// Appends a record with one write(2). When it returns, the record is in the file (not yet on the disk).
    ///
    /// # Errors
    /// If the record is not, or the file is no longer, in the log. The caller must not get its bytes.
    pub fn append(&self, record: &Record<'_>) -> Result<Receipt, LogError> {
        if record.event == Event::Shutdown {
            self.flush_refusals()?;
        }
        let (seq, bytes) = self.put(record)?;
        if !record.may_use_reserve() {
            self.budget.charge(record.who.uid, bytes, || self.now());
        }
        Ok(Receipt { seq })
    }

    fn put(&self, record: &Record<'_>) -> Result<(u64, u64), LogError> {
        if let Some(unrecorded) = self.looked_at {
            unrecorded.tell(record, &self.ctx.dir)?;
            return Ok((self.head().seq, 0));
        }
        FIELDS.with(|fields| {
            let fields = &mut *fields.borrow_mut();
            fields.clear();
            record.write(fields);
            let (reserve, epoch) = (record.may_use_reserve(), record.epoch);
            let mut chain = self.chain();
            if record.gives_value() {
                self.anchored_in_time(&chain)?;
            }
            let seq = chain.append(&self.ctx, Stamp::Fresh, fields, epoch, reserve)?;
            if chain.unanchored.is_none() {
                chain.unanchored = Some(self.now());
            }
            Ok((seq, fields.len() as u64 + FRAME))
        })
    }

    fn anchored_in_time(&self, chain: &Writer) -> Result<(), LogError> {
        match chain.unanchored {
            Some(since) if self.now().saturating_duration_since(since) > ANCHOR_LIMIT => {
                Err(LogError::Unanchored)
            }
            _ => Ok(()),
        }
    }

    /// Whether there are records behind `anchor`, which is the store's last one.
    pub fn is_beyond(&self, anchor: &Anchor) -> bool {
        let mut chain = self.chain();
        let beyond = chain.state.seq != anchor.seq;
        if !beyond {
            chain.unanchored = None;
        }
        beyond
    }

    /// The anchor that [`Log::sync`] gave last is in the store.
    pub fn anchored(&self, anchor: &Anchor) {
        let mut chain = self.chain();
        chain.unanchored = chain.synced.filter(|_| chain.state.seq > anchor.seq);
    }

    /// Appends a record that was serialised beforehand, with its own time and id. `epoch` replaces the epoch that
    /// the body carries.
    ///
    /// # Errors
    /// As [`Log::append`]; [`LogError::Unfit`] if the bytes are no body.
    pub fn append_body(&self, body: &Body, epoch: Option<Epoch>) -> Result<Receipt, LogError> {
        self.writable()?;
        let (fields, carried) = body.parts()?;
        let epoch = epoch.map(|e| e.0).or(carried);
        let seq = self
            .chain()
            .append(&self.ctx, Stamp::Carried, fields, epoch, true)?;
        Ok(Receipt { seq })
    }

    /// Asks for leave to record what changed nothing and gave no byte, before anything is looked up for the record:
    /// `None` if it was counted instead, because the budget of all such records is used up, or its owner's share and
    /// nothing is new about it. `packaging/doc/audit.md` has the rules.
    pub fn admit(&self, refused: &Refused<'_>) -> Option<Admitted<'_>> {
        let owner = owner(Uid(refused.uid)).0;
        match self.floods().admit(owner, refused, self.now()) {
            Verdict::Counted => None,
            Verdict::Write(ticket) => Some(Admitted {
                log: self,
                ticket: Some(ticket),
            }),
        }
    }

    /// Records a refusal or failure, or counts it, as [`Log::admit`] decides; about a secret that is there, if about
    /// one. A record of anything else is appended as it is.
    ///
    /// # Errors
    /// As [`Admitted::write`].
    pub fn refuse(&self, record: &Record<'_>) -> Result<(), LogError> {
        let Some(refused) = Refused::of(record) else {
            return self.append(record).map(drop);
        };
        self.admit(&refused)
            .map_or(Ok(()), |admitted| admitted.write(record))
    }

    /// Holds refused look-ups back from now on; whoever receives calls [`Log::settle`], [`HOLD`] later. Once.
    ///
    /// [`HOLD`]: super::HOLD
    pub fn settler(&self) -> Receiver<()> {
        let (tell, told) = sync_channel(1);
        let _ = self.settler.set(tell);
        told
    }

    /// Writes what is held back.
    pub fn settle(&self) {
        self.chain().settle(&self.ctx);
    }

    /// Whether this is the request that is held back, asked again by the same thread with no record between: then it is
    /// counted there.
    pub fn is_asked_again(&self, refused: &Refused<'_>, tid: u32) -> bool {
        // Who has the lock writes a record.
        let Ok(mut chain) = self.chain.try_lock() else {
            return false;
        };
        chain.held.as_mut().is_some_and(|held| held.again(refused, tid))
    }

    /// Goes on with these options, as far as they can change while it is written: the size of segments, what is little
    /// space, and each account's budget then.
    pub fn adjust(&self, options: &Options) {
        let live = &self.ctx.live;
        live.segment_bytes.store(options.segment_bytes, Ordering::Relaxed);
        live.low_space_bytes
            .store(options.low_space_bytes, Ordering::Relaxed);
        self.budget.set(options.uid_bytes_per_second);
    }

    /// To be called at least each 250 ms by the owner: writes the counts of refusals that are due, notices a log that was
    /// moved away, and brings a failed one back.
    pub fn tick(&self) {
        self.look_at_space();
        let full = {
            let mut chain = self.chain();
            chain.tick(&self.ctx);
            chain.is_full() || chain.failure().is_some()
        };
        // On a full disk the counts stay in memory, so that a flood does not eat the reserve.
        if !full {
            let _ = self.tell(false);
        }
    }

    /// How long the next read of `uid` must wait: zero, but where its account floods the log while its file system has
    /// less than [`Options::low_space_bytes`] free.
    pub fn wait(&self, uid: Uid) -> Duration {
        self.budget.wait(uid.0, || self.now())
    }

    fn look_at_space(&self) {
        // A file system that does not answer this has other troubles, which an append meets.
        let file = self.chain().file.clone();
        if let Ok(here) = nix::sys::statvfs::fstatvfs(&*file) {
            let free = here.blocks_available().saturating_mul(here.fragment_size());
            let low = self.ctx.live.low_space_bytes.load(Ordering::Relaxed);
            self.budget.bind(free < low);
            self.floods().space(free, low);
        }
    }

    /// Writes the counts of refusals at once. [`Log::append`] does so before a [`Event::Shutdown`], and dropping
    /// the log does.
    ///
    /// # Errors
    /// If a count cannot be written; it is kept.
    pub fn flush_refusals(&self) -> Result<(), LogError> {
        self.tell(true)
    }

    fn tell(&self, all: bool) -> Result<(), LogError> {
        self.writable()?;
        let mut write = |fields: &[u8]| {
            let mut chain = self.chain();
            chain
                .append(&self.ctx, Stamp::Fresh, fields, None, true)
                .map(drop)
        };
        self.floods().tell(all, self.now(), &mut write)
    }

    /// Lets the time pass that a test cannot wait for.
    #[cfg(test)]
    pub(crate) fn pass(&self, time: Duration) {
        let milliseconds = u64::try_from(time.as_millis()).unwrap();
        self.clock.1.fetch_add(milliseconds, Ordering::Relaxed);
    }

    #[cfg(not(test))]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[cfg(test)]
    fn now(&self) -> Instant {
        let (start, ahead) = &self.clock;
        *start + Duration::from_millis(ahead.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Makes everything appended so far durable and gives the anchor for it. No reader waits for the disk meanwhile.
    ///
    /// # Errors
    /// If the log has failed, or the disk does.
    pub fn sync(&self) -> Result<Anchor, LogError> {
        self.writable()?;
        let (anchor, file, path) = {
            let mut chain = self.chain();
            chain.synced = Some(self.now());
            if let Some(LogError::Deleted { path }) = chain.failure() {
                return Err(LogError::Deleted { path });
            }
            // Older segments were made durable before the next one began.
            (chain.anchor(), Arc::clone(&chain.file), chain.path.clone())
        };
        file.sync_data().map_err(|e| {
            let _failed = self.chain().fail_os(&e);
            LogError::io(&path, e)
        })?;
        Ok(anchor)
    }

    /// The place after the last record; not necessarily durable.
    pub fn head(&self) -> Anchor {
        self.chain().anchor()
    }

    /// The same; `None` if somebody's record is still on its way to the disk after `limit`.
    pub fn head_within(&self, limit: Duration) -> Option<Anchor> {
        self.chain_within(limit).map(|chain| chain.anchor())
    }

    fn writable(&self) -> Result<(), LogError> {
        match self.looked_at {
            None => Ok(()),
            Some(_) => Err(LogError::ReadOnly {
                path: self.ctx.dir.clone(),
            }),
        }
    }

    /// Nothing is written any more, and who would, waits: for the end of a process whose threads go on. False if
    /// somebody's record is still on its way to the disk after `limit`.
    pub fn end(&self, limit: Duration) -> bool {
        let chain = self.chain_within(limit).map(|mut chain| {
            chain.settle(&self.ctx);
            chain
        });
        chain.map(std::mem::forget).is_some()
    }

    fn chain_within(&self, limit: Duration) -> Option<MutexGuard<'_, Writer>> {
        let begun = Instant::now();
        loop {
            match self.chain.try_lock() {
                Ok(chain) => return Some(chain),
                Err(TryLockError::Poisoned(chain)) => return Some(chain.into_inner()),
                Err(TryLockError::WouldBlock) if begun.elapsed() < limit => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }

    /// Whether an administrative record could be taken now: to be asked before a change is begun.
    ///
    /// # Errors
    /// Why it could not.
    pub fn healthy(&self) -> Result<(), LogError> {
        self.writable()?;
        let mut chain = self.chain();
        chain.admit(&self.ctx, 64 << 10, true)?;
        let path = chain.path.clone();
        if extent(&chain.file).map_err(|e| LogError::io(&path, e))?.links == 0 {
            return Err(LogError::Deleted { path });
        }
        // Finds a read-only file system and an immutable file without writing.
        let file = held(chain.file.as_fd());
        faccessat(AT_FDCWD, &file, AccessFlags::W_OK, AtFlags::AT_EACCESS).map_err(|e| LogError::io(&path, e))
    }

    /// Whether records of reads could be taken now, which are refused on a full disk before administration is.
    ///
    /// # Errors
    /// Why they could not; [`LogError::Unanchored`] if it is the store that takes no anchor.
    pub fn takes_reads(&self) -> Result<(), LogError> {
        self.writable()?;
        let mut chain = self.chain();
        chain.admit(&self.ctx, 4096, false)?;
        self.anchored_in_time(&chain)
    }

    /// Whether a record with this `eventID` stands behind `anchor`: replaying an outbox must not append twice.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn contains_since(&self, anchor: &Anchor, event_id: &str) -> Result<bool, LogError> {
        let needle = format!("\",\"eventID\":\"{event_id}\"");
        let end = self.head();
        let folder = self.ctx.folder()?;
        let mut line = Vec::new();
        for number in anchor.segment.max(anchor.oldest_segment)..=end.segment {
            let path = segment::path(&self.ctx.dir, number);
            let mut file = match folder.segment(number, Mode::Read) {
                Err(LogError::Missing { .. }) if number != end.segment => continue,
                file => file?,
            };
            let from = if number == anchor.segment {
                anchor.offset
            } else {
                0
            };
            // What others have written behind our last record is no record.
            let rest = match number == end.segment {
                true => end.offset.saturating_sub(from),
                false => u64::MAX,
            };
            file.seek(SeekFrom::Start(from))
                .map_err(|e| LogError::io(&path, e))?;
            let mut input = BufReader::with_capacity(1 << 16, file.take(rest));
            loop {
                line.clear();
                let read = Read::by_ref(&mut input)
                    .take(MAX_LINE as u64)
                    .read_until(b'\n', &mut line)
                    .map_err(|e| LogError::io(&path, e))?;
                match read {
                    0 => break,
                    MAX_LINE if line.last() != Some(&b'\n') => return Err(LogError::Altered { path }),
                    _ => {}
                }
                // `{"seq":N,"eventTime":"…","eventID":"…"`: the id ends within the first 160 bytes.
                let start = &line[..line.len().min(160)];
                if start.windows(needle.len()).any(|w| w == needle.as_bytes()) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The oldest finished segments, verified, as many as are `wanted` and [`AT_ONCE`](super::AT_ONCE) at most.
    ///
    /// # Errors
    /// The first record that is not in order.
    pub fn finished(
        &self,
        wanted: Wanted,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<Finished>, VerifyError> {
        let ctx = &self.ctx;
        archive::finished((&ctx.dir, ctx.store, &ctx.key), &self.head(), wanted, progress)
    }

    /// Anchors say from now on what the store has sealed: the log begins behind what was archived.
    pub fn begin_behind(&self, anchor: &Anchor) {
        let mut chain = self.chain();
        (chain.oldest, chain.archived) = (anchor.oldest_segment, anchor.archived);
    }

    /// Removes what was archived: of these segments those that the log does not begin with or behind.
    ///
    /// # Errors
    /// If one could not be removed; later ones are there then.
    pub fn remove_archived(&self, segments: &[u64]) -> Result<(), LogError> {
        let oldest = self.chain().oldest;
        let mut gone = segments.to_vec();
        gone.retain(|n| *n < oldest);
        gone.sort_unstable();
        archive::remove(&self.ctx.dir, &gone)
    }

    /// The highest epoch that a record carries.
    pub fn last_epoch(&self) -> u64 {
        self.chain().state.epoch
    }

    fn chain(&self) -> MutexGuard<'_, Writer> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn floods(&self) -> MutexGuard<'_, Floods> {
        self.floods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.settle();
        let _ = self.flush_refusals();
    }
}
