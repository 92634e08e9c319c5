//! The writing end of the chain: one line, one write(2), and the way back after a failure.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::clock::Timestamp;
use crate::id::StoreId;
use crate::secret::SecretBytes;
use crate::sys::dir::Dir;
use crate::sys::files::{Extent, extent};

use super::chain::{self, MAX_FIELDS, SegmentKey, State};
use super::error::LogError;
use super::json::{self, TimeText};
use super::record::optional;
use super::segment::{self, Folder, Mode};
use super::{Anchor, Archived, Options};

mod held;
mod recovery;

pub use held::HOLD;
pub(super) use held::Held;

/// How long a failed log is left alone before it is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// The log's file grows its allocation by this much at a time.
pub(super) const GROWTH: u64 = 1 << 20;

/// What does not change while a log is open.
pub(super) struct Context {
    /// The directory in which the log's is.
    pub home: Dir,
    /// The log's path, for messages.
    pub dir: PathBuf,
    pub store: StoreId,
    pub key: SecretBytes,
    pub options: Options,
    pub live: Live,
}

impl Context {
    /// The log's directory, as it is now.
    pub(super) fn folder(&self) -> Result<Folder, LogError> {
        Folder::anew(&self.home, &self.dir)
    }
}

/// What of the options can change while the log is written: its segments' size, and what is little space.
pub(super) struct Live {
    pub segment_bytes: AtomicU64,
    pub low_space_bytes: AtomicU64,
}

impl Live {
    pub(super) fn of(options: &Options) -> Live {
        Live {
            segment_bytes: options.segment_bytes.into(),
            low_space_bytes: options.low_space_bytes.into(),
        }
    }
}

/// Time and id of a record.
pub(super) enum Stamp {
    /// Now, and an id made of store and sequence.
    Fresh,
    /// They are the first of the fields.
    Carried,
}

/// Why the log takes no record.
#[derive(Clone, Copy)]
enum Cause {
    Os(i32),
    Deleted,
    Altered,
}

struct Down {
    cause: Cause,
    next_try: Instant,
}

/// The last segment, open for appending. Behind the chain's lock.
pub(super) struct Writer {
    pub path: PathBuf,
    pub file: Arc<File>,
    pub number: u64,
    key: SegmentKey,
    /// Bytes of whole records.
    pub len: u64,
    /// Bytes that the file system has given us, the reserve included.
    allocated: u64,
    /// Whether the file system can allocate ahead.
    allocates: bool,
    pub state: State,
    pub oldest: u64,
    pub archived: Option<Archived>,
    line: Vec<u8>,
    time: TimeText,
    down: Option<Down>,
    /// Reading is refused for want of space until then, when space is asked for again.
    full_until: Option<Instant>,
    rotate_after: Option<Instant>,
    /// Whether an unfinished write of ours may stand behind `len`.
    torn: bool,
    /// Records refused since the log last took one, to be told when it does again.
    refused: u64,
    /// Since when a record may wait for its anchor; `None` if none does.
    pub unanchored: Option<Instant>,
    /// When [`Log::sync`](super::Log::sync) was called last.
    pub synced: Option<Instant>,
    /// The last refusal of a look-up, which an equal one may follow at once.
    pub held: Option<Held>,
}

impl Writer {
    /// Continues an open segment that ends at `len` with `state`; `torn` bytes of a crash may stand behind it.
    pub(super) fn resume(
        ctx: &Context,
        number: u64,
        file: File,
        len: u64,
        state: State,
        oldest: u64,
        torn: u64,
    ) -> Result<Writer, LogError> {
        let key = SegmentKey::derive(&ctx.key, ctx.store, number)?;
        let mut writer = Writer {
            path: segment::path(&ctx.dir, number),
            file: Arc::new(file),
            number,
            key,
            len,
            allocated: len,
            allocates: true,
            state,
            oldest,
            archived: None,
            line: Vec::with_capacity(4096),
            time: TimeText::default(),
            down: None,
            full_until: None,
            rotate_after: None,
            torn: torn > 0,
            refused: 0,
            unanchored: None,
            synced: None,
            held: None,
        };
        if torn > 0 {
            // A log that cannot be written at this moment is still open, and mends itself as after any failure.
            if writer.mend(ctx).is_err() && writer.down.is_none() {
                writer.fail(Cause::Os(libc::EIO));
            }
        }
        Ok(writer)
    }

    /// Begins a log: the first segment of a new store.
    pub(super) fn create(ctx: &Context, file: File) -> Result<Writer, LogError> {
        let state = State::genesis(ctx.store);
        let mut writer = Writer::resume(ctx, 1, file, 0, state, 1, 0)?;
        writer.begin(ctx, 1, false)?;
        Ok(writer)
    }

    /// Goes on after a log that is lost, of which the store knows this anchor.
    pub(super) fn after(ctx: &Context, number: u64, file: File, anchor: &Anchor) -> Result<Writer, LogError> {
        let mut writer = Writer::resume(ctx, number, file, 0, anchor.state(), number, 0)?;
        writer.begin(ctx, number, true)?;
        Ok(writer)
    }

    /// Appends one record; `fields` are everything between the id and the epoch.
    pub(super) fn append(
        &mut self,
        ctx: &Context,
        stamp: Stamp,
        fields: &[u8],
        epoch: Option<u64>,
        may_use_reserve: bool,
    ) -> Result<u64, LogError> {
        if fields.len() > MAX_FIELDS {
            return Err(LogError::TOO_LONG);
        }
        self.settle(ctx);
        let taken = self.admit(ctx, fields.len() as u64 + 512, may_use_reserve);
        let taken = taken.and_then(|()| self.put(ctx, stamp, fields, epoch, false));
        if taken.is_err() {
            self.refused += 1;
        }
        taken.map(|()| self.state.seq)
    }

    /// Whether a record of `need` bytes can be taken now: recovers a failed log, rotates, sees to space.
    pub(super) fn admit(&mut self, ctx: &Context, need: u64, may_use_reserve: bool) -> Result<(), LogError> {
        if self.down.is_some() {
            self.recover(ctx)?;
        }
        if self.len >= ctx.live.segment_bytes.load(Ordering::Relaxed) {
            self.rotate(ctx);
        }
        self.room(ctx, need, may_use_reserve)?;
        if self.refused > 0 && self.full_until.is_none() {
            self.tell_resumed(ctx, None)?;
        }
        Ok(())
    }

    /// The place after the last record.
    pub(super) fn anchor(&self) -> Anchor {
        Anchor {
            seq: self.state.seq,
            head: self.state.head,
            epoch: self.state.epoch,
            oldest_segment: self.oldest,
            segment: self.number,
            offset: self.len,
            archived: self.archived,
        }
    }

    /// Whether reading is refused for want of space while administration may go on.
    pub(super) fn is_full(&self) -> bool {
        self.full_until.is_some()
    }

    /// The failure that holds now, if any.
    pub(super) fn failure(&self) -> Option<LogError> {
        self.down.as_ref().map(|d| self.error(d.cause))
    }

    /// Recovers a failed log; looks whether a sound one is still at its place (a moved file keeps its link).
    pub(super) fn tick(&mut self, ctx: &Context) {
        if self.down.is_some() {
            let _ = self.recover(ctx);
        } else {
            let here = ctx.folder().and_then(|folder| folder.look(self.number));
            let ours = here
                .ok()
                .flatten()
                .is_some_and(|m| self.is_ours(&m).unwrap_or(false));
            if !ours {
                self.fail(Cause::Deleted);
            } else if self.is_full() || self.refused > 0 {
                let _ = self.admit(ctx, 1024, false);
            }
        }
    }

    /// Marks the log failed; the next try is a while away.
    pub(super) fn fail_os(&mut self, e: &io::Error) -> LogError {
        self.fail(Cause::Os(e.raw_os_error().unwrap_or(libc::EIO)))
    }

    fn fail(&mut self, cause: Cause) -> LogError {
        self.down = Some(Down {
            cause,
            next_try: Instant::now() + RETRY,
        });
        self.error(cause)
    }

    fn error(&self, cause: Cause) -> LogError {
        let path = self.path.clone();
        match cause {
            Cause::Os(libc::ENOSPC | libc::EDQUOT) => LogError::Full { path },
            Cause::Os(code) => LogError::Io {
                path,
                source: io::Error::from_raw_os_error(code),
            },
            Cause::Deleted => LogError::Deleted { path },
            Cause::Altered => LogError::Altered { path },
        }
    }

    /// One line, one write(2). The chain moves on only if the whole line is in the file and the file in its place.
    fn put(
        &mut self,
        ctx: &Context,
        stamp: Stamp,
        fields: &[u8],
        epoch: Option<u64>,
        after_torn: bool,
    ) -> Result<(), LogError> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        if after_torn {
            line.push(b'\n');
        }
        let start = line.len();
        let mut next = self.state;
        next.seq += 1;
        next.epoch = next.epoch.max(epoch.unwrap_or(0));
        self.compose(&mut line, ctx.store, next.seq, stamp, fields, epoch);
        next.head = self.key.mac(&self.state.head, &line[start..]);
        finish(&mut line, &next.head);

        let written = write_once(&self.file, &line);
        let result = match written {
            Ok(n) if n == line.len() => self.landed(next, n as u64),
            Ok(n) => {
                self.torn = (self.torn || n > 0) && !self.cut();
                Err(self.fail(Cause::Os(libc::ENOSPC)))
            }
            Err(e) => Err(self.fail_os(&e)),
        };
        self.line = line;
        result
    }

    /// A whole line was written: is it where it should be?
    fn landed(&mut self, next: State, n: u64) -> Result<(), LogError> {
        let Extent { size, links } = extent(&self.file).map_err(|e| self.fail_os(&e))?;
        if size != self.len + n && !self.torn {
            return Err(self.fail(Cause::Altered));
        }
        self.len = size;
        self.allocated = self.allocated.max(self.len);
        self.state = next;
        self.torn = false;
        if links == 0 {
            return Err(self.fail(Cause::Deleted));
        }
        Ok(())
    }

    fn compose(
        &mut self,
        line: &mut Vec<u8>,
        store: StoreId,
        seq: u64,
        stamp: Stamp,
        fields: &[u8],
        epoch: Option<u64>,
    ) {
        line.extend_from_slice(b"{\"seq\":");
        json::number(line, seq);
        line.push(b',');
        if let Stamp::Fresh = stamp {
            line.extend_from_slice(b"\"eventTime\":\"");
            self.time.write(line, Timestamp::now());
            line.extend_from_slice(b"\",\"eventID\":\"");
            event_id(line, store, seq);
            line.extend_from_slice(b"\",");
        }
        line.extend_from_slice(fields);
        optional(line, "epoch", epoch);
    }

    /// Cuts a short write of ours back; false where the file cannot be cut (append-only).
    fn cut(&self) -> bool {
        self.file.set_len(self.len).is_ok()
    }

    /// Sees to space for `need` bytes beside the reserve; only administration may go into it.
    fn room(&mut self, ctx: &Context, need: u64, may_use_reserve: bool) -> Result<(), LogError> {
        let wanted = self.len + need + ctx.options.reserve_bytes;
        if !self.allocates || wanted <= self.allocated {
            return Ok(());
        }
        let due = self.full_until.is_none_or(|at| Instant::now() >= at);
        if due {
            match self
                .allocate(self.len, wanted + GROWTH)
                .or_else(|_| self.allocate(self.len, wanted))
            {
                Ok(allocated) => {
                    self.allocated = allocated;
                    self.full_until = None;
                    return Ok(());
                }
                Err(Errno::ENOSPC | Errno::EDQUOT) => self.full_until = Some(Instant::now() + RETRY),
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                    self.allocates = false;
                    return Ok(());
                }
                // Read-only, immutable, failing: the write that follows tells.
                Err(_) => return Ok(()),
            }
        }
        let end = self.len + need;
        if may_use_reserve && end > self.allocated {
            // Opened anew on a full disk, it does not know what the file was given before.
            self.allocated = self.allocate(self.len, end).unwrap_or(self.allocated);
        }
        if may_use_reserve && end <= self.allocated {
            return Ok(());
        }
        Err(LogError::Full {
            path: self.path.clone(),
        })
    }

    fn allocate(&self, from: u64, to: u64) -> Result<u64, Errno> {
        let (Ok(offset), Ok(len)) = (i64::try_from(from), i64::try_from(to - from)) else {
            return Err(Errno::EFBIG);
        };
        fallocate(&*self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, len)?;
        Ok(to)
    }

    /// Begins the next segment. Where that fails, this one goes on growing and it is tried again later.
    fn rotate(&mut self, ctx: &Context) {
        if self.rotate_after.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let rotated = self.file.sync_data().map_err(|e| LogError::io(&self.path, e));
        let rotated = rotated.and_then(|()| self.begin(ctx, self.number + 1, false));
        self.rotate_after = rotated.is_err().then(|| Instant::now() + RETRY);
    }

    /// Makes segment `number` with its header, durable by name and content, and writes to it from now on.
    fn begin(&mut self, ctx: &Context, number: u64, lost: bool) -> Result<(), LogError> {
        let path = segment::path(&ctx.dir, number);
        if lost {
            // A directory that an administrator put back is made private again before anything is in it.
            let name = ctx.dir.file_name().unwrap_or_default();
            let _ = ctx.home.dir(name).and_then(|dir| dir.chmod(0o700));
        }
        let folder = ctx.folder()?;
        let file = folder.segment(number, Mode::Create)?;
        if file.metadata().map_err(|e| LogError::io(&path, e))?.len() > 0 {
            return Err(LogError::Exists { path });
        }
        let made = self.write_header(ctx, &path, &file, number, lost);
        let made = made.and_then(|made| folder.sync().map(|()| made));
        let (key, state, len, allocated) = match made {
            Ok(made) => made,
            Err(e) => {
                let _ = file.set_len(0);
                let _ = folder.remove(number, &file);
                return Err(e);
            }
        };
        if !lost && number != self.number {
            // Gives back what was allocated behind the last record of the old segment.
            let _ = self.file.set_len(self.len);
        }
        self.file = Arc::new(file);
        (self.path, self.number, self.key, self.state, self.len) = (path, number, key, state, len);
        self.allocates = allocated.is_some();
        self.allocated = allocated.unwrap_or(len).max(len);
        self.torn = false;
        self.full_until = None;
        Ok(())
    }

    fn write_header(
        &mut self,
        ctx: &Context,
        path: &Path,
        file: &File,
        number: u64,
        lost: bool,
    ) -> Result<(SegmentKey, State, u64, Option<u64>), LogError> {
        let size = ctx.options.first_segment();
        let allocated =
            match i64::try_from(size).map(|s| fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, s)) {
                Ok(Ok(())) => Some(size),
                Ok(Err(Errno::ENOSPC | Errno::EDQUOT)) => return Err(LogError::Full { path: path.into() }),
                _ => None,
            };
        let key = SegmentKey::derive(&ctx.key, ctx.store, number)?;
        let mut fields = Vec::with_capacity(512);
        segment::header_fields(&mut fields, ctx.store, number, &self.state, lost);
        let mut line = Vec::with_capacity(1024);
        let mut state = State {
            seq: self.state.seq + 1,
            ..self.state
        };
        self.compose(
            &mut line,
            ctx.store,
            state.seq,
            Stamp::Fresh,
            &fields,
            Some(state.epoch),
        );
        state.head = key.mac(&self.state.head, &line);
        finish(&mut line, &state.head);
        match write_once(file, &line) {
            Ok(n) if n == line.len() => {}
            Ok(_) => return Err(LogError::Full { path: path.into() }),
            Err(e) => return Err(LogError::io(path, e)),
        }
        file.sync_all().map_err(|e| LogError::io(path, e))?;
        Ok((key, state, line.len() as u64, allocated))
    }
}

fn finish(line: &mut Vec<u8>, head: &chain::Head) {
    line.extend_from_slice(b",\"mac\":\"");
    line.extend_from_slice(&chain::mac_text(head));
    line.extend_from_slice(b"\"}\n");
}

/// Exactly one write(2), but for a signal that came before anything was written.
fn write_once(mut file: &File, line: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(line) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A UUID of version 8 made of the store's id (60 bits) and the sequence number (62 bits): unique and cheap.
fn event_id(out: &mut Vec<u8>, store: StoreId, seq: u64) {
    let mut id = [0u8; 16];
    id[..8].copy_from_slice(&store.0[..8]);
    id[6] = 0x80 | (id[6] & 0x0f);
    id[8..].copy_from_slice(&((seq & (u64::MAX >> 2)) | (1 << 63)).to_be_bytes());
    let mut text = [0; 36];
    out.extend_from_slice(
        uuid::Uuid::from_bytes(id)
            .hyphenated()
            .encode_lower(&mut text)
            .as_bytes(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_is_a_uuid_of_its_own_for_each_store_and_number() {
        let id = |store: u8, seq: u64| {
            let mut out = Vec::new();
            event_id(&mut out, StoreId([store; 16]), seq);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(id(7, 1), "07070707-0707-8707-8000-000000000001");
        assert_eq!(id(0xff, (1 << 62) - 1), "ffffffff-ffff-8fff-bfff-ffffffffffff");
        let mut seen = std::collections::HashSet::new();
        for store in [0, 7, 0xff] {
            for bit in 0..62 {
                for seq in [1 << bit, (1 << bit) + (1 << 40)] {
                    let text = id(store, seq);
                    let uuid = uuid::Uuid::parse_str(&text).unwrap();
                    assert_eq!(uuid.get_version_num(), 8, "{text}");
                    assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122, "{text}");
                    seen.insert((text, store, seq));
                }
            }
        }
        let texts: std::collections::HashSet<_> = seen.iter().map(|s| &s.0).collect();
        assert_eq!(texts.len(), seen.len());
    }
}
