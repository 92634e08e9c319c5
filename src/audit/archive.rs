//! What of a log can be archived: segments that are finished, in order, and older than a moment. A segment leaves the
//! log only after the store has sealed where the log begins without it.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::id::StoreId;
use crate::secret::SecretBytes;

use super::chain::{self, Head, State};
use super::error::{LogError, VerifyError};
use super::segment::{self, Folder, Header, Mode};
use super::verify::{Walking, walk_all};
use super::{Anchor, Archived, open};

/// Segments that are archived at once: as many as one record names.
pub const AT_ONCE: usize = 256;

/// A segment that can be archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its number.
    pub segment: u64,
    /// Its first record's sequence number.
    pub first: u64,
    /// Its last record's.
    pub last: u64,
    /// Its last record's MAC.
    pub head: Head,
    /// The highest epoch of a record up to its end.
    pub epoch: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// SHA-256 of them.
    pub digest: [u8; 32],
    /// The latest time of a record in it, as the records have it.
    pub latest: String,
}

impl Finished {
    /// The file's name.
    pub fn file(&self) -> String {
        file_name(self.segment)
    }

    /// Its end, as the store keeps it once it is gone.
    pub fn archived(&self) -> Archived {
        Archived {
            segment: self.segment,
            seq: self.last,
            head: self.head,
            epoch: self.epoch,
        }
    }
}

/// The name of a segment's file.
pub fn file_name(segment: u64) -> String {
    let path = segment::path(Path::new(""), segment);
    path.to_string_lossy().into_owned()
}

/// A MAC as records and headers have it.
pub fn head_text(head: &Head) -> String {
    String::from_utf8_lossy(&chain::mac_text(head)).into_owned()
}

/// The numbers of the segments in `dir`, in order; other files are none of ours.
///
/// # Errors
/// If it cannot be read.
pub fn segments(dir: &Path) -> Result<Vec<u64>, LogError> {
    Folder::of_copies(dir)?.list()
}

/// Which of the oldest finished segments are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those of which every record is older than this.
    Before(Timestamp),
    /// Those up to this one.
    Through(u64),
}

/// The oldest finished segments, verified, [`AT_ONCE`] at most. `end` is where the log stands.
pub(super) fn finished(
    (dir, store, key): (&Path, StoreId, &SecretBytes),
    end: &Anchor,
    wanted: Wanted,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Finished>, VerifyError> {
    let folder = Folder::at(dir)?;
    let mut numbers = folder.list()?;
    numbers.retain(|n| *n < end.segment);
    let mut wished = Vec::new();
    for (at, number) in numbers.iter().enumerate() {
        // What is missing in between is for `verify` to tell: nothing behind it is archived.
        if wished.len() == AT_ONCE || *number != numbers[0] + at as u64 {
            break;
        }
        let fits = match wanted {
            Wanted::Through(last) => *number <= last,
            Wanted::Before(moment) => begins_before(&folder, *number, moment)?,
        };
        if !fits {
            break;
        }
        wished.push(*number);
    }
    let walking = Walking {
        folder: &folder,
        store,
        key,
        anchor: None,
        digests: true,
    };
    let mut found: Vec<Finished> = Vec::new();
    let mut before: Option<(PathBuf, State)> = None;
    for (walk, number) in walk_all(&walking, &wished, progress).into_iter().zip(&wished) {
        let path = folder.path(*number);
        let Some(segment) = walk?.filter(|s| s.end.torn == 0) else {
            return Err(super::verify::unfinished(&path, *number));
        };
        match &before {
            Some((path_before, state)) => open::joined(path_before, &path, state, &segment.header)?,
            None => super::verify::begins(&path, *number, store, end, &segment)?,
        }
        if let Wanted::Before(moment) = wanted
            && segment.latest.as_str() >= moment.to_string().as_str()
        {
            break;
        }
        found.push(Finished {
            segment: *number,
            first: segment.start.seq + 1,
            last: segment.state.seq,
            head: segment.state.head,
            epoch: segment.state.epoch,
            bytes: segment.end.offset,
            digest: segment.digest,
            latest: segment.latest,
        });
        before = Some((path, segment.state));
    }
    // Where the last of them ends, the next one goes on.
    if let (Some(last), Some((path, state))) = (found.last(), &before) {
        let next = folder.path(last.segment + 1);
        let file = folder.segment(last.segment + 1, Mode::Read)?;
        let header = Header::read(&next, &file)?;
        let header = header.ok_or_else(|| super::verify::unfinished(&next, last.segment + 1))?;
        header.check(&next, store, last.segment + 1)?;
        open::joined(path, &next, state, &header)?;
    }
    Ok(found)
}

/// Whether the first record of a segment is older than a moment.
fn begins_before(folder: &Folder, number: u64, moment: Timestamp) -> Result<bool, LogError> {
    let mut line = Vec::new();
    let file = folder.segment(number, Mode::Read)?;
    file.take(4096)
        .read_to_end(&mut line)
        .map_err(|e| LogError::io(&folder.path(number), e))?;
    let time = chain::event(&line).map(|(time, _)| time);
    Ok(time.is_some_and(|time| time < moment.to_string().as_bytes()))
}

/// Removes segments from the log's directory, the oldest first, each durably.
pub(super) fn remove(dir: &Path, segments: &[u64]) -> Result<(), LogError> {
    let folder = Folder::at(dir)?;
    for number in segments {
        match folder.segment(*number, Mode::Read) {
            Ok(file) => folder.remove(*number, &file)?,
            Err(LogError::Missing { .. }) => {}
            Err(e) => return Err(e),
        }
        folder.sync()?;
    }
    Ok(())
}

/// What passes through it goes into a digest, if one is wanted.
pub(super) struct Hashed<'h, R> {
    pub inner: R,
    pub hash: Option<&'h mut Sha256>,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&into[..read]);
        }
        Ok(read)
    }
}

/// The segments that an [`Event::ArchiveLog`](super::Event::ArchiveLog) names, with the digests of their files.
pub fn named(record: &serde_json::Value) -> Vec<(u64, String)> {
    let parameters = &record["requestParameters"];
    let list = |name: &str| parameters[name].as_array().cloned().unwrap_or_default();
    let named = list("segments").into_iter().zip(list("digests"));
    named
        .filter_map(|(segment, digest)| Some((segment.as_u64()?, digest.as_str()?.to_string())))
        .collect()
}

/// The same of the covered bytes of a line; nothing if it is another record.
pub(super) fn named_by(covered: &[u8]) -> Vec<(u64, String)> {
    let is_one = chain::event(covered).is_some_and(|(_, name)| name == b"ArchiveLog");
    let record = is_one
        .then(|| serde_json::from_slice::<serde_json::Value>(&[covered, b"}"].concat()).ok())
        .flatten();
    record
        .filter(|r| r["outcome"] == "allowed")
        .map_or_else(Vec::new, |r| named(&r))
}

/// The place from which a log is checked, for a store that knows no later one than `anchor`: itself, but where the log says
/// that segments were archived since. Then all that is left of it was verified.
///
/// # Errors
/// If what is left is not in order, or is not what the anchor knows.
pub fn since_archived(
    dir: &Path,
    store: StoreId,
    key: &SecretBytes,
    anchor: &Anchor,
) -> Result<Anchor, VerifyError> {
    let folder = Folder::at(dir)?;
    let first = folder.list()?.first().copied().unwrap_or(0);
    if first <= anchor.oldest_segment.max(1) {
        return Ok(anchor.clone());
    }
    let supposed = Anchor {
        oldest_segment: first,
        archived: None,
        ..anchor.clone()
    };
    let verified = super::verify(dir, store, key, Some(&supposed), &mut |_| {})?;
    let before = first - 1;
    let (Some(archived), true) = (
        verified.archived,
        verified.named.iter().any(|(n, _)| *n == before),
    ) else {
        return Ok(anchor.clone());
    };
    let known = Anchor {
        archived: Some(archived),
        ..supposed
    };
    if anchor.segment >= first {
        return Ok(known);
    }
    // The end of the first record that is there.
    let path = folder.path(first);
    let mut line = Vec::new();
    BufReader::new(folder.segment(first, Mode::Read)?)
        .take(chain::MAX_LINE as u64)
        .read_until(b'\n', &mut line)
        .map_err(|e| LogError::io(&path, e))?;
    let head = chain::mac_of(line.trim_ascii_end()).unwrap_or_default();
    Ok(Anchor {
        seq: archived.seq + 1,
        head,
        epoch: archived.epoch,
        segment: first,
        offset: line.len() as u64,
        ..known
    })
}
