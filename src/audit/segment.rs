//! Segment files: their names, how they are opened, and the record that each begins with.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use nix::sys::stat::{FileStat, fstat};
use sha2::Sha256;

use crate::id::StoreId;
use crate::sys::dir::{Dir, Inode, Made};

use super::archive::Hashed;
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
    dir.join(name_of(number))
}

fn name_of(number: u64) -> String {
    format!("{number:08}.jsonl")
}

/// The log's directory, held and checked: nobody else can read or change it.
pub(super) struct Folder {
    dir: Dir,
    path: PathBuf,
}

impl Folder {
    /// Makes it where `at` says, in the directory `home`, if it is not there, and its name durable.
    pub(super) fn make(home: &Dir, at: &Path, made: &mut Made) -> Result<Folder, LogError> {
        let failed = |e| LogError::io(at, e);
        let name = name(at)?;
        let (dir, is_new) = home.make_dir(name, 0o700).map_err(|e| unopened(at, e))?;
        if is_new {
            made.add(home, name, dir.inode().map_err(failed)?);
            home.sync().map_err(failed)?;
        }
        Folder::held(dir, at, PRIVATE)
    }

    /// Opens it in the directory `home`.
    pub(super) fn open(home: &Dir, at: &Path) -> Result<Folder, LogError> {
        let dir = home.dir(name(at)?).map_err(|e| unopened(at, e))?;
        Folder::held(dir, at, PRIVATE)
    }

    /// Opens it by its path.
    pub(super) fn at(path: &Path) -> Result<Folder, LogError> {
        let (home, _) = Dir::of(path).map_err(|e| unopened(path, e))?;
        Folder::open(&home, path)
    }

    /// Opens what was made anew in its place while the log was served: what others may see of it is no reason to stop, and
    /// is told by the next start.
    pub(super) fn anew(home: &Dir, at: &Path) -> Result<Folder, LogError> {
        let dir = home.dir(name(at)?).map_err(|e| unopened(at, e))?;
        Folder::held(dir, at, 0o022)
    }

    /// Opens a directory with copies of segments, whoever has it: each is held against what the log says of it.
    pub(super) fn of_copies(path: &Path) -> Result<Folder, LogError> {
        let dir = Dir::behind(path).map_err(|e| LogError::io(path, e))?;
        let path = path.into();
        Ok(Folder { dir, path })
    }

    fn held(dir: Dir, at: &Path, forbidden: libc::mode_t) -> Result<Folder, LogError> {
        judge(&dir.found().map_err(|e| LogError::io(at, e))?, at, forbidden)?;
        let path = at.into();
        Ok(Folder { dir, path })
    }

    /// A segment's path, for messages.
    pub(super) fn path(&self, number: u64) -> PathBuf {
        path(&self.path, number)
    }

    /// The numbers of the segments in it, in order. Other files are none of ours.
    pub(super) fn list(&self) -> Result<Vec<u64>, LogError> {
        let mut numbers = Vec::new();
        for found in self.dir.names().map_err(|e| LogError::io(&self.path, e))? {
            let Some(number) = found
                .to_str()
                .and_then(|n| n.strip_suffix(".jsonl"))
                .and_then(|n| n.parse().ok())
            else {
                continue;
            };
            if name_of(number).as_str() == found {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Opens a segment without following a link, and checks it on the open descriptor.
    pub(super) fn segment(&self, number: u64, mode: Mode) -> Result<File, LogError> {
        let (name, path) = (name_of(number), self.path(number));
        if mode == Mode::Create {
            match self.dir.create(&name, 0o600) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => drop(made.map_err(|e| LogError::io(&path, e))?),
            }
        }
        let options = OpenOptions::new().read(true).append(mode != Mode::Read).clone();
        let file = self.dir.file(&name, &options).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => LogError::Missing { path: path.clone() },
            _ if e.raw_os_error() == Some(libc::ELOOP) => LogError::Unsafe {
                path: path.clone(),
                why: "it is a symbolic link",
            },
            io::ErrorKind::InvalidInput => LogError::Unsafe {
                path: path.clone(),
                why: "it is not a regular file",
            },
            _ => LogError::io(&path, e),
        })?;
        let found = fstat(&file).map_err(|e| LogError::io(&path, e))?;
        judge(&found, &path, PRIVATE)?;
        // What is begun in it would stand in another file too.
        if mode == Mode::Create && found.st_nlink > 1 {
            let why = "it has another name elsewhere (a hard link)";
            return Err(LogError::Unsafe { path, why });
        }
        Ok(file)
    }

    /// What has a segment's name.
    pub(super) fn look(&self, number: u64) -> Result<Option<FileStat>, LogError> {
        let found = self.dir.look(name_of(number));
        found.map_err(|e| LogError::io(&self.path(number), e))
    }

    /// Takes a segment away, if it is still this file.
    pub(super) fn remove(&self, number: u64, file: &File) -> Result<(), LogError> {
        let removed = Inode::of(file).and_then(|inode| self.dir.remove(name_of(number), inode));
        removed.map_err(|e| LogError::io(&self.path(number), e))
    }

    /// Moves these segments into a new directory in it, where no one takes them for the log.
    pub(super) fn set_aside(&self, numbers: &[u64]) -> Result<(), LogError> {
        if numbers.is_empty() {
            return Ok(());
        }
        for name in (1..).map(|n: u32| format!("lost-{n}")) {
            let failed = |e| LogError::io(&self.path.join(&name), e);
            let aside = match self.dir.new_dir(&name, 0o700) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(failed)?,
            };
            for &number in numbers {
                let moved = self.dir.move_into(name_of(number), &aside);
                moved.map_err(|e| LogError::io(&self.path(number), e))?;
            }
            aside.sync().map_err(failed)?;
            return self.sync();
        }
        Ok(())
    }

    /// Notes that a segment was made.
    pub(super) fn made(&self, number: u64, file: &File, made: &mut Made) -> Result<(), LogError> {
        let inode = Inode::of(file).map_err(|e| LogError::io(&self.path(number), e))?;
        made.add(&self.dir, name_of(number), inode);
        Ok(())
    }

    /// Makes names durable.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.dir.sync().map_err(|e| LogError::io(&self.path, e))
    }
}

/// The last component of the log's path.
fn name(at: &Path) -> Result<&OsStr, LogError> {
    let none = || LogError::io(at, io::Error::from(io::ErrorKind::InvalidInput));
    at.file_name().ok_or_else(none)
}

fn unopened(at: &Path, e: io::Error) -> LogError {
    match e.kind() {
        io::ErrorKind::NotFound => LogError::Missing { path: at.into() },
        io::ErrorKind::NotADirectory => LogError::Unsafe {
            path: at.into(),
            why: "it is a link, or no directory; mount another file system there to have the log on it",
        },
        _ => LogError::io(at, e),
    }
}

/// What others may not have of it.
const PRIVATE: libc::mode_t = 0o077;

fn judge(found: &FileStat, path: &Path, forbidden: libc::mode_t) -> Result<(), LogError> {
    let why = if found.st_uid != 0 && found.st_uid != nix::unistd::geteuid().as_raw() {
        "it belongs to another user"
    } else if found.st_mode & forbidden != 0 {
        "others may read or change it; only its owner may (chmod go=)"
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
    /// Its predecessor was lost.
    #[serde(default)]
    pub(super) log_lost: bool,
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
    walk_hashed(path, (file, size, None), key, state, end, each)
}

/// The same, with a digest of what was read.
pub(super) fn walk_hashed(
    path: &Path,
    (file, size, hash): (&File, u64, Option<&mut Sha256>),
    key: &SegmentKey,
    state: &mut State,
    end: &mut End,
    each: impl FnMut(&State, &[u8], u64) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut input = file;
    input
        .seek(SeekFrom::Start(end.offset))
        .map_err(|e| LogError::io(path, e))?;
    let inner = input.take(size.saturating_sub(end.offset));
    let mut input = BufReader::with_capacity(1 << 18, Hashed { inner, hash });
    chain::walk(path, &mut input, key, state, end, each)
}
