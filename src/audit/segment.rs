//! Segment files: their names, how they are opened, and the record that each begins with.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;

use crate::id::StoreId;

use super::chain::{self, End, Head, SegmentKey, State};
use super::error::{Broken, BrokenKind, LogError};
use super::json;
use super::record::{field, optional};

/// The log format that this program writes.
pub const FORMAT: u32 = 1;
/// The oldest reader that understands what this program writes.
pub const MIN_READER: u32 = 1;

/// `DIR/00000001.jsonl`. Numbers beyond eight digits simply grow longer.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.jsonl"))
}

/// The numbers of the segments in `dir`, in order. Other files are none of ours.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, LogError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| LogError::io(dir, e))? {
        let name = entry.map_err(|e| LogError::io(dir, e))?.file_name();
        let Some(number) = name
            .to_str()
            .and_then(|n| n.strip_suffix(".jsonl"))
            .and_then(|n| n.parse().ok())
        else {
            continue;
        };
        if path(dir, number).file_name() == Some(&name) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens the log's directory and checks on the open descriptor that nobody else can read or change it.
pub(super) fn open_dir(dir: &Path) -> Result<File, LogError> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(dir)
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => LogError::Missing { path: dir.into() },
            io::ErrorKind::NotADirectory => LogError::Unsafe {
                path: dir.into(),
                why: "it is a link, or no directory; mount another file system there to have the log on it",
            },
            _ => LogError::io(dir, e),
        })?;
    checked(&file, dir)?;
    Ok(file)
}

/// Makes the log's directory (its parent must be there) and makes its name durable.
pub(super) fn make_dir(dir: &Path) -> Result<(), LogError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(|e| LogError::io(dir, e))?,
    }
    let parent = dir
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|p| p.sync_all())
        .map_err(|e| LogError::io(parent, e))
}

/// Moves these segments into a new directory in `dir`, where no one takes them for the log.
pub(super) fn set_aside(dir: &Path, numbers: &[u64]) -> Result<(), LogError> {
    if numbers.is_empty() {
        return Ok(());
    }
    let names = (1..).map(|n: u32| dir.join(format!("lost-{n}")));
    for aside in names {
        match DirBuilder::new().mode(0o700).create(&aside) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(|e| LogError::io(&aside, e))?,
        }
        for &number in numbers {
            let (from, to) = (path(dir, number), path(&aside, number));
            std::fs::rename(&from, &to).map_err(|e| LogError::io(&from, e))?;
        }
        return open_dir(&aside)?.sync_all().map_err(|e| LogError::io(&aside, e));
    }
    Ok(())
}

fn checked(file: &File, path: &Path) -> Result<(), LogError> {
    let meta = file.metadata().map_err(|e| LogError::io(path, e))?;
    let why = if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        "it belongs to another user"
    } else if meta.mode() & 0o077 != 0 {
        "others may read or change it; only its owner may (chmod go=)"
    } else if !meta.is_dir() && !meta.is_file() {
        "it is not a regular file"
    } else {
        return Ok(());
    };
    Err(LogError::Unsafe {
        path: path.into(),
        why,
    })
}

/// How a segment is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    Append,
    /// Made if it is not there.
    Create,
}

/// Opens a segment without following a link, and checks it on the open descriptor.
pub(super) fn open(path: &Path, mode: Mode) -> Result<File, LogError> {
    let file = OpenOptions::new()
        .read(true)
        .append(mode != Mode::Read)
        .create(mode == Mode::Create)
        .mode(0o600)
        // Without O_NONBLOCK a FIFO in its place would hang the open.
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => LogError::Missing { path: path.into() },
            _ if e.raw_os_error() == Some(libc::ELOOP) => LogError::Unsafe {
                path: path.into(),
                why: "it is a symbolic link",
            },
            _ => LogError::io(path, e),
        })?;
    checked(&file, path)?;
    Ok(file)
}

/// What a segment's first record says.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    store: String,
    segment: u64,
    previous_seq: u64,
    previous_head: String,
    #[serde(default)]
    epoch: u64,
}

/// The fields of a header record behind its id.
pub(super) fn header_fields(out: &mut Vec<u8>, store: StoreId, number: u64, previous: &State, lost: bool) {
    out.extend_from_slice(
        b"\"eventName\":\"SegmentStarted\",\"eventSource\":\"wardfs\",\"eventVersion\":\"1.0\",\"uid\":",
    );
    json::number(out, nix::unistd::geteuid().as_raw().into());
    optional(out, "format", Some(FORMAT.into()));
    optional(out, "minReader", Some(MIN_READER.into()));
    field(out, "store");
    json::string(out, &store.to_string());
    optional(out, "segment", Some(number));
    optional(out, "previousSeq", Some(previous.seq));
    field(out, "previousHead");
    json::string(out, &BASE64URL_NOPAD.encode(&previous.head));
    if lost {
        out.extend_from_slice(b",\"logLost\":true");
    }
    out.extend_from_slice(b",\"outcome\":\"allowed\"");
}

impl Header {
    /// Reads the header at the beginning of `file`; `None` if its line is not finished. Nothing in it is proven
    /// before the walk has passed it.
    pub(super) fn read(path: &Path, file: &File) -> Result<Option<Header>, LogError> {
        use io::BufRead;
        let mut line = Vec::new();
        let mut input = file;
        input
            .seek(SeekFrom::Start(0))
            .map_err(|e| LogError::io(path, e))?;
        BufReader::new(input)
            .take(chain::MAX_LINE as u64)
            .read_until(b'\n', &mut line)
            .map_err(|e| LogError::io(path, e))?;
        if line.pop() != Some(b'\n') {
            return Ok(None);
        }
        let broken = |text: &str| Broken {
            sequence: chain::sequence(&line).unwrap_or(1),
            segment: path.into(),
            line: 1,
            kind: BrokenKind::Edited,
            text: text.into(),
        };
        /// Only what every format has, so that a newer one is told apart from a damaged one.
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            format: u32,
            min_reader: u32,
        }
        let version: Version = serde_json::from_slice(&line)
            .map_err(|_| broken("the segment does not begin with its header"))?;
        if version.min_reader > FORMAT {
            let Version { format, min_reader } = version;
            return Err(LogError::TooNew {
                path: path.into(),
                format,
                min_reader,
            });
        }
        let header =
            serde_json::from_slice(&line).map_err(|_| broken("the segment's header cannot be read"))?;
        Ok(Some(header))
    }

    /// The state in which the chain says it was before this segment.
    pub(super) fn previous(&self, path: &Path) -> Result<State, LogError> {
        let mut head: Head = [0; 32];
        match BASE64URL_NOPAD.decode(self.previous_head.as_bytes()) {
            Ok(bytes) if bytes.len() == head.len() => head.copy_from_slice(&bytes),
            _ => return Err(self.broken(path, BrokenKind::Edited, "the segment's header cannot be read")),
        }
        Ok(State {
            seq: self.previous_seq,
            head,
            epoch: self.epoch,
        })
    }

    /// Checks that it belongs to this store and stands under this number.
    pub(super) fn check(&self, path: &Path, store: StoreId, number: u64) -> Result<(), LogError> {
        if self.store != store.to_string() {
            return Err(self.broken(path, BrokenKind::Foreign, "the segment is another store's"));
        }
        if self.segment != number {
            let text = format!("the segment is number {} under another's name", self.segment);
            return Err(self.broken(path, BrokenKind::Reordered, &text));
        }
        Ok(())
    }

    fn broken(&self, path: &Path, kind: BrokenKind, text: &str) -> LogError {
        let sequence = self.previous_seq.saturating_add(1);
        Broken {
            sequence,
            segment: path.into(),
            line: 1,
            kind,
            text: text.into(),
        }
        .into()
    }
}

/// Walks the part of an open segment from `end.offset` to `size`.
pub(super) fn walk(
    path: &Path,
    file: &File,
    size: u64,
    key: &SegmentKey,
    state: &mut State,
    end: &mut End,
    each: impl FnMut(&State, &[u8], u64) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut input = file;
    input
        .seek(SeekFrom::Start(end.offset))
        .map_err(|e| LogError::io(path, e))?;
    let mut input = BufReader::with_capacity(1 << 18, input.take(size.saturating_sub(end.offset)));
    chain::walk(path, &mut input, key, state, end, each)
}
