//! Verifying the whole log: every segment on its own, several at a time, and then their joints.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::id::StoreId;
use crate::secret::SecretBytes;

use super::archive::named_by;
use super::chain::{self, End, SegmentKey, State};
use super::error::{Broken, BrokenKind, LogError, VerifyError};
use super::open::joined;
use super::segment::{self, Folder, Header, Mode};
use super::{Anchor, Archived};

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Records, the segments' headers included.
    pub records: u64,
    /// Segments.
    pub segments: u64,
    /// The first record's sequence number.
    pub first: u64,
    /// The last record's.
    pub last: u64,
    /// The last record's MAC.
    pub head: [u8; 32],
    /// The highest epoch that a record carries.
    pub last_epoch: u64,
    /// Records behind the anchor: genuine, but nothing would show if more had been there. All, without an anchor.
    pub beyond_anchor: u64,
    /// The end of what was archived before; `None` if nothing was.
    pub archived: Option<Archived>,
    /// The number of the first segment that is there.
    pub oldest: u64,
    /// The archived segments that the records name, with SHA-256 of their files in hexadecimal.
    pub named: Vec<(u64, String)>,
    /// Bytes of an unfinished last line, which a crash or a write in progress leaves.
    pub torn_bytes: u64,
    /// When this was found.
    pub at: Timestamp,
}

/// Progress is told each time a thread has checked this many records.
const STEP: u64 = 50_000;

/// A segment that is in order in itself.
pub(super) struct Walked {
    path: PathBuf,
    pub header: Header,
    pub start: State,
    pub state: State,
    pub end: End,
    named: Vec<(u64, String)>,
    /// Of its bytes, if digests are wanted.
    pub digest: [u8; 32],
    /// The latest time of a record, if digests are wanted.
    pub latest: String,
}

/// What is walked.
pub(super) struct Walking<'w> {
    pub folder: &'w Folder,
    pub store: StoreId,
    pub key: &'w SecretBytes,
    pub anchor: Option<&'w Anchor>,
    pub digests: bool,
}

/// Verifies every record of the log in `dir`. With an `anchor` it must reach the anchored record, and that record
/// must be the one that the store knows. `progress` is called with the number of records checked so far.
/// The log may be written meanwhile; what is added after the beginning may or may not be seen.
///
/// # Errors
/// The first record that is not in order, in the order of the log.
pub fn verify(
    dir: &Path,
    store: StoreId,
    key: &SecretBytes,
    anchor: Option<&Anchor>,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified, VerifyError> {
    let folder = Folder::at(dir)?;
    let numbers = folder.list()?;
    let oldest = anchor.map_or(1, |a| a.oldest_segment.max(1));
    let last = numbers
        .last()
        .copied()
        .unwrap_or(0)
        .max(anchor.map_or(1, |a| a.segment));
    let walking = Walking {
        folder: &folder,
        store,
        key,
        anchor,
        digests: false,
    };
    let walked = walk_all(&walking, &numbers, progress);

    let mut walked = walked.into_iter();
    let mut state = State::genesis(store);
    let mut before: Option<Walked> = None;
    let mut report = Verified {
        records: 0,
        segments: 0,
        first: 0,
        last: 0,
        head: state.head,
        last_epoch: 0,
        beyond_anchor: 0,
        archived: anchor.and_then(|a| a.archived),
        oldest,
        named: Vec::new(),
        torn_bytes: 0,
        at: Timestamp::now(),
    };
    for number in numbers.first().copied().unwrap_or(oldest).min(oldest)..=last {
        let path = segment::path(dir, number);
        if numbers.binary_search(&number).is_err() {
            let text = "the segment is missing";
            return Err(broken(&path, state.seq + 1, BrokenKind::Missing, text));
        }
        let Some(result) = walked.next() else { break };
        if number < oldest && matches!(result, Err(LogError::Missing { .. })) {
            // Archived, and removed in this moment.
            before = None;
            (report.segments, report.records) = (0, 0);
            continue;
        }
        let Some(segment) = result? else {
            // Begun in a crash, or in this moment; anything but the last one was cut.
            if number == last && number > oldest && anchor.is_none_or(|a| a.segment < number) {
                break;
            }
            return Err(broken(
                &path,
                state.seq + 1,
                BrokenKind::Truncated,
                "the segment ends in its first record",
            ));
        };
        match &before {
            Some(before) if before.end.torn > 0 => {
                let text = "the segment ends in an unfinished line; later segments are there";
                return Err(broken(&before.path, state.seq + 1, BrokenKind::Torn, text));
            }
            Some(before) => joined(&before.path, &path, &state, &segment.header)?,
            None => {
                begins(
                    &path,
                    number,
                    store,
                    anchor.unwrap_or(&Anchor::genesis(store)),
                    &segment,
                )?;
                (report.first, report.oldest) = (segment.start.seq + 1, number);
                if number == oldest && oldest > 1 && !segment.header.log_lost {
                    let State { seq, head, epoch } = segment.start;
                    let segment = oldest - 1;
                    report.archived = report.archived.or(Some(Archived {
                        segment,
                        seq,
                        head,
                        epoch,
                    }));
                }
            }
        }
        report.segments += 1;
        report.records += segment.state.seq - segment.start.seq;
        report.last_epoch = report.last_epoch.max(segment.state.epoch);
        report.torn_bytes = segment.end.torn;
        report.named.extend_from_slice(&segment.named);
        state = segment.state;
        before = Some(segment);
    }
    report.first = report.first.max(1);
    (report.last, report.head) = (state.seq, state.head);
    let anchored = anchor.map_or(0, |a| a.seq);
    if state.seq < anchored {
        let (path, torn) = before.map_or((dir.to_path_buf(), 0), |s| (s.path, s.end.torn));
        let (kind, text) = match torn {
            0 => (
                BrokenKind::Truncated,
                format!("the log ends before it; the store knows {anchored} records"),
            ),
            _ => (
                BrokenKind::Torn,
                format!("its line is unfinished; the store knows {anchored} records"),
            ),
        };
        return Err(broken(&path, state.seq + 1, kind, &text));
    }
    report.beyond_anchor = state.seq - anchored;
    Ok(report)
}

/// Whether the first segment that is walked begins where the log begins: at its very beginning, or where what was archived
/// ended. What is there of archived ones may begin anywhere.
pub(super) fn begins(
    path: &Path,
    number: u64,
    store: StoreId,
    anchor: &Anchor,
    segment: &Walked,
) -> Result<(), LogError> {
    match anchor.archived {
        _ if number == 1 => joined(path, path, &State::genesis(store), &segment.header),
        Some(archived) if number == archived.segment + 1 => {
            let (found, known) = (segment.start, archived.state());
            if (found.seq, found.head) == (known.seq, known.head) {
                return Ok(());
            }
            let text = "the segment does not continue what was archived";
            Err(Broken {
                sequence: known.seq + 1,
                segment: path.into(),
                line: 1,
                kind: BrokenKind::Replaced,
                text: text.into(),
            }
            .into())
        }
        _ => Ok(()),
    }
}

/// A segment that is followed by others, and ends in an unfinished line.
pub(super) fn unfinished(path: &Path, number: u64) -> VerifyError {
    let text = format!("segment {number} ends in an unfinished line; later segments are there");
    broken(path, 0, BrokenKind::Torn, &text)
}

/// What the walk of one segment gave; `None` if not even its header is whole.
pub(super) type Walk = Result<Option<Walked>, LogError>;

/// Walks the segments on as many threads as there are processors; gives the results in the order of the log, up
/// to the first failure.
pub(super) fn walk_all(walking: &Walking<'_>, numbers: &[u64], progress: &mut dyn FnMut(u64)) -> Vec<Walk> {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(numbers.len());
    let slots: Vec<Mutex<Option<Walk>>> = numbers.iter().map(|_| Mutex::new(None)).collect();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let (next, stop, slots) = (&next, &stop, &slots);
        let walk = |tell: mpsc::Sender<u64>| {
            while !stop.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(&number) = numbers.get(at) else { return };
                let result = walk_one(walking, number, &mut |n| {
                    let _ = tell.send(n);
                });
                let oldest = walking.anchor.map_or(1, |a| a.oldest_segment);
                let archived = number < oldest && matches!(result, Err(LogError::Missing { .. }));
                if result.is_err() && !archived {
                    stop.store(true, Ordering::Relaxed);
                }
                *slots[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            }
        };
        let started = (0..threads)
            .map_while(|_| {
                let tell = tell.clone();
                std::thread::Builder::new()
                    .spawn_scoped(scope, move || walk(tell))
                    .ok()
            })
            .count();
        if started == 0 {
            // No other thread can be had.
            walk(tell.clone());
        }
        drop(tell);
        let mut records = 0;
        for n in told {
            records += n;
            progress(records);
        }
    });
    let slots = slots
        .into_iter()
        .map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    slots.map_while(|slot| slot).collect()
}

fn walk_one(walking: &Walking<'_>, number: u64, tell: &mut dyn FnMut(u64)) -> Walk {
    let Walking {
        folder,
        store,
        anchor,
        ..
    } = *walking;
    let path = folder.path(number);
    let file = folder.segment(number, Mode::Read)?;
    let size = file.metadata().map_err(|e| LogError::io(&path, e))?.len();
    let Some(header) = Header::read(&path, &file)? else {
        return Ok(None);
    };
    header.check(&path, store, number)?;
    let start = header.previous(&path)?;
    let key = SegmentKey::derive(walking.key, store, number)?;
    let (mut state, mut end, mut untold) = (start, End::default(), 0);
    let (mut hash, mut latest, mut named) = (Sha256::new(), Vec::new(), Vec::new());
    let input = (&file, size, walking.digests.then_some(&mut hash));
    segment::walk_hashed(&path, input, &key, &mut state, &mut end, |state, covered, _| {
        untold += 1;
        if untold == STEP {
            tell(std::mem::take(&mut untold));
        }
        named.append(&mut named_by(covered));
        if walking.digests
            && let Some((time, _)) = chain::event(covered)
            && time > latest.as_slice()
        {
            latest.clear();
            latest.extend_from_slice(time);
        }
        match anchor {
            Some(a) if a.seq == state.seq && a.head != state.head => {
                let text = "it was made with this log's key, but is not the record that the store knows";
                let segment = path.clone();
                Err(Broken {
                    sequence: a.seq,
                    segment,
                    line: 0,
                    kind: BrokenKind::Replaced,
                    text: text.into(),
                }
                .into())
            }
            _ => Ok(()),
        }
    })?;
    tell(untold);
    Ok(Some(Walked {
        path,
        header,
        start,
        state,
        end,
        named,
        digest: hash.finalize().into(),
        latest: String::from_utf8_lossy(&latest).into_owned(),
    }))
}

fn broken(path: &Path, sequence: u64, kind: BrokenKind, text: &str) -> VerifyError {
    Broken {
        sequence,
        segment: path.into(),
        line: 0,
        kind,
        text: text.into(),
    }
    .into()
}
