//! Opening a log: from the anchored record to the end, every line must be the one that was written.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::id::StoreId;
use crate::secret::SecretBytes;
use crate::sys::dir::Dir;

use super::Anchor;
use super::chain::{self, End, MAX_LINE, SegmentKey, State};
use super::error::{Broken, BrokenKind, LogError};
use super::segment::{self, Folder, Header, Mode};

/// Where writing goes on.
pub(super) struct Found {
    pub number: u64,
    pub file: File,
    /// Bytes of whole records.
    pub len: u64,
    /// Bytes of an unfinished line behind them.
    pub torn: u64,
    pub state: State,
}

/// Whether the log in `dir`, in the directory `home`, would open, from the anchored record to its end; nothing is changed.
///
/// # Errors
/// As [`Log::open`](super::Log::open).
pub fn opens(
    home: &Dir,
    dir: &Path,
    store: StoreId,
    key: &SecretBytes,
    anchor: &Anchor,
) -> Result<(), LogError> {
    check(home, dir, store, key, anchor, Mode::Read).map(drop)
}

pub(super) fn check(
    home: &Dir,
    dir: &Path,
    store: StoreId,
    key: &SecretBytes,
    anchor: &Anchor,
    mode: Mode,
) -> Result<Found, LogError> {
    let folder = Folder::open(home, dir)?;
    let numbers = folder.list()?;
    let first = if anchor.seq == 0 {
        anchor.oldest_segment.max(1)
    } else {
        anchor.segment
    };
    let mut state = anchor.state();
    let mut found: Option<Found> = None;
    let Some(&last) = numbers.last() else {
        return Err(LogError::Missing { path: dir.into() });
    };
    if !numbers.contains(&first) {
        return Err(LogError::Missing {
            path: segment::path(dir, first),
        });
    }
    for number in first..=last {
        let path = segment::path(dir, number);
        let file = match folder.segment(number, mode) {
            Err(LogError::Missing { .. }) => {
                let text = "the segment is missing; later ones are there";
                return Err(broken(&path, &state, BrokenKind::Missing, text));
            }
            file => file?,
        };
        let size = file.metadata().map_err(|e| LogError::io(&path, e))?.len();
        let behind = number == first && size < anchor.offset;
        let Some(header) = Header::read(&path, &file)? else {
            if behind {
                return Err(LogError::Behind {
                    path,
                    anchored: anchor.seq,
                });
            }
            if number == last && number != first {
                // A crash while the segment was begun: nothing was ever written to it.
                if mode != Mode::Read {
                    folder.remove(number, &file)?;
                }
                break;
            }
            return Err(broken(
                &path,
                &state,
                BrokenKind::Torn,
                "the segment ends in its first record",
            ));
        };
        header.check(&path, store, number)?;
        if let Some(before) = &found {
            if before.torn > 0 {
                let text = "the segment ends in an unfinished line; later segments are there";
                return Err(broken(
                    &segment::path(dir, number - 1),
                    &state,
                    BrokenKind::Torn,
                    text,
                ));
            }
            joined(&segment::path(dir, number - 1), &path, &state, &header)?;
        }
        let segment_key = SegmentKey::derive(key, store, number)?;
        let mut end = End::default();
        if behind {
            // Shorter than the anchor: it cannot be in order.
            blame(&path, &file, &header, &segment_key, anchor)?;
        }
        if number == first && anchor.seq > 0 {
            if !proven(&path, &file, &header, &segment_key, anchor)? {
                blame(&path, &file, &header, &segment_key, anchor)?;
            }
            end.offset = anchor.offset;
        }
        let begun = end.offset;
        segment::walk(
            &path,
            &file,
            size,
            &segment_key,
            &mut state,
            &mut end,
            |_, _, _| Ok(()),
        )
        .map_err(|e| counted(e, &file, begun))?;
        found = Some(Found {
            number,
            file,
            len: end.offset,
            torn: end.torn,
            state,
        });
    }
    found.ok_or_else(|| LogError::Missing { path: dir.into() })
}

/// The same error, its line counted from the beginning of a file of which `begun` bytes were passed over.
fn counted(mut e: LogError, file: &File, begun: u64) -> LogError {
    if let LogError::Broken(broken) = &mut e {
        let mut input = BufReader::new(file);
        let lines = input.rewind().map_or(0, |()| {
            input.take(begun).split(b'\n').map_while(Result::ok).count()
        });
        broken.line += lines as u64;
    }
    e
}

/// Whether a segment goes on where its predecessor ended.
pub(super) fn joined(before: &Path, path: &Path, state: &State, header: &Header) -> Result<(), LogError> {
    let previous = header.previous(path)?;
    let (path, kind, text) = if previous.seq > state.seq {
        (
            before,
            BrokenKind::Truncated,
            format!(
                "the segment ends with record {}, the next one begins after record {}",
                state.seq, previous.seq
            ),
        )
    } else if previous.seq < state.seq {
        (
            before,
            BrokenKind::Inserted,
            format!("the next segment begins after record {}", previous.seq),
        )
    } else if previous.head != state.head {
        (
            path,
            BrokenKind::Replaced,
            "the segment does not continue its predecessor".into(),
        )
    } else {
        return Ok(());
    };
    let sequence = previous.seq.min(state.seq) + 1;
    Err(Broken {
        sequence,
        segment: path.into(),
        line: 0,
        kind,
        text,
    }
    .into())
}

/// Whether the record that ends at the anchor's offset is the anchored one, as far as it and the line before it show.
pub(super) fn proven(
    path: &Path,
    file: &File,
    header: &Header,
    key: &SegmentKey,
    anchor: &Anchor,
) -> Result<bool, LogError> {
    let from = anchor.offset.saturating_sub(MAX_LINE as u64);
    let mut bytes = Vec::new();
    let mut input = file;
    for from in [anchor.offset.saturating_sub(4096), from] {
        bytes.clear();
        input
            .seek(SeekFrom::Start(from))
            .map_err(|e| LogError::io(path, e))?;
        input
            .take(anchor.offset - from)
            .read_to_end(&mut bytes)
            .map_err(|e| LogError::io(path, e))?;
        let Some(body) = bytes.strip_suffix(b"\n") else {
            break;
        };
        let start = body.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        // With its predecessor's MAC, which the line before ends with, it proves itself.
        let head = match start {
            0 if from == 0 => Some(header.previous(path)?.head),
            0 => None,
            _ => chain::mac_of(&body[..start - 1]),
        };
        if let Some(head) = head {
            let seq = anchor.seq - 1;
            let mut state = State {
                seq,
                head,
                ..anchor.state()
            };
            if state.advance(key, &body[start..]).is_some() && state.head == anchor.head {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The anchored record is not in its place, or does not follow the line before it: finds out from the segment's
/// beginning what was done. Nothing was, if that line is one that was left unfinished and accounted for.
fn blame(
    path: &Path,
    file: &File,
    header: &Header,
    key: &SegmentKey,
    anchor: &Anchor,
) -> Result<(), LogError> {
    let mut state = header.previous(path)?;
    let (size, mut end) = (anchor.offset, End::default());
    segment::walk(path, file, size, key, &mut state, &mut end, |_, _, _| Ok(()))?;
    if (state.seq, state.head, end.offset) == (anchor.seq, anchor.head, anchor.offset) {
        return Ok(());
    }
    if state.seq < anchor.seq {
        return Err(LogError::Behind {
            path: path.into(),
            anchored: anchor.seq,
        });
    }
    let text = "it is not the record that the store knows";
    Err(broken(
        path,
        &State {
            seq: anchor.seq - 1,
            ..state
        },
        BrokenKind::Replaced,
        text,
    ))
}

fn broken(path: &Path, state: &State, kind: BrokenKind, text: &str) -> LogError {
    Broken {
        sequence: state.seq + 1,
        segment: path.into(),
        line: 0,
        kind,
        text: text.into(),
    }
    .into()
}
