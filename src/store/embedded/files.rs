//! The store's directory: made, opened, checked and locked. Every check is made on the open descriptor, so that
//! nobody can exchange a file between the check and the use.

use crate::store::StoreError;
use crate::sys::dir::{self, Dir, Inode, Made};
use nix::fcntl::RenameFlags;
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::Uid;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOCK: &str = "lock";
pub(super) const DATA: &str = "store.redb";
/// A store being made; it gets its name when it is whole.
const DRAFT: &str = "store.redb.new";
/// A damaged file whose records were copied.
const DAMAGED: &str = "store.redb.damaged";

/// How long a new owner may take to write its name into the lock.
const INTRODUCTION: Duration = Duration::from_millis(50);

/// The store's directory, owned by this process as long as this value lives.
pub(super) struct Home {
    path: PathBuf,
    dir: Dir,
    /// None where it is only looked at and none is there.
    lock: Option<File>,
    /// The directory once more, which is locked itself: who writes it can take the other lock's name away.
    locked: File,
    made: Made,
    way: Way,
}

/// What is done with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It is read and changed.
    Change,
    /// It is only read, on a disk that cannot be written.
    Look,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.release();
    }
}

/// Turns the system's refusal into an error about `path`.
pub(super) fn io(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> StoreError {
    let source = source.into();
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => StoreError::Full { path: path.into() },
        _ => StoreError::Io {
            doing,
            path: path.into(),
            source,
        },
    }
}

impl Home {
    /// Gives the lock up. It would end with its last descriptor, and a child that is being spawned has one until its
    /// exec, a thread that hangs in the system for as long as it does.
    pub(super) fn release(&self) {
        let _ = (self.locked.unlock(), self.lock.as_ref().map(File::unlock));
    }

    /// Makes the directory where there is none (0700, its parents too), then opens it.
    ///
    /// # Errors
    /// `Unfit` for a directory that is there and that others may look into: it was made for something else, and
    /// nothing of it is to be changed for a store. Otherwise as [`Home::open`].
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        let mut made = Made::default();
        let dir = match open_dir(path) {
            Ok((dir, found)) => {
                if found.st_mode & FORBIDDEN != 0 && !has_data(&dir, path)? {
                    return Err(StoreError::Unfit { path: path.into() });
                }
                dir
            }
            Err(StoreError::NotFound { .. }) => {
                let failed = |e| io("make", path, e);
                // Its parents too.
                if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                    let mut parents = DirBuilder::new();
                    parents
                        .recursive(true)
                        .mode(0o700)
                        .create(parent)
                        .map_err(failed)?;
                }
                let (parent, name) = Dir::of(path).map_err(failed)?;
                let (dir, is_new) = parent.make_dir(&name, 0o700).map_err(failed)?;
                if is_new {
                    made.add(&parent, name, dir.inode().map_err(failed)?);
                }
                // The name must survive a power cut too.
                parent.sync().map_err(|e| io("sync", path, e))?;
                dir
            }
            Err(e) => return Err(e),
        };
        Self::own(path, Way::Change, dir, made)
    }

    /// Opens the directory of a store that is there, checks it and takes the lock. In a directory without a store
    /// nothing is made, and nothing is said of its mode.
    ///
    /// # Errors
    /// `NotFound`, `Untrusted`, `InUse`, `Io`.
    pub(super) fn open(path: &Path, way: Way) -> Result<Self, StoreError> {
        let (dir, _) = open_dir(path)?;
        if !has_data(&dir, path)? {
            return Err(StoreError::NotFound { path: path.into() });
        }
        Self::own(path, way, dir, Made::default())
    }

    fn own(path: &Path, way: Way, dir: Dir, mut made: Made) -> Result<Self, StoreError> {
        let found = dir.found().map_err(|e| io("look at", path, e))?;
        judge(path, &found, SFlag::S_IFDIR, FORBIDDEN)?;
        let lock = match way {
            Way::Change => Some(lock(path, &dir, &mut made)?),
            Way::Look => share(path, &dir)?,
        };
        let locked = lock_dir(path, &dir, way)?;
        Ok(Home {
            path: path.into(),
            dir,
            lock,
            locked,
            made,
            way,
        })
    }

    /// The directory itself.
    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// What [`Home::create`] made, and the draft of a new store.
    pub(super) fn made(&self) -> &Made {
        &self.made
    }

    /// What is done with it.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// The path of the store's file, for messages.
    pub(super) fn data_path(&self) -> PathBuf {
        self.path.join(DATA)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the store's file.
    pub(super) fn open_data(&self) -> Result<File, StoreError> {
        open_checked(&self.dir, &self.path, DATA, self.way).map_err(|e| match e {
            StoreError::NotFound { .. } => StoreError::NotFound {
                path: self.path.clone(),
            },
            other => other,
        })
    }

    /// # Errors
    /// `Corrupt` if the store's name is another file's by now, or nobody's: a change would be lost with this one.
    pub(super) fn still_names(&self, inode: Option<Inode>) -> Result<(), StoreError> {
        let found = self.dir.look(DATA).ok().flatten();
        match found.map(|found| Inode::from(&found)) {
            Some(found) if Some(found) == inode => Ok(()),
            _ => Err(StoreError::Corrupt {
                what: self.data_path().display().to_string(),
                detail: "it was replaced or removed while it was served".into(),
            }),
        }
    }

    /// A new, empty file for a store that has no name yet. One left by a creation that was cut short goes.
    pub(super) fn draft(&self) -> Result<File, StoreError> {
        let path = self.path.join(DRAFT);
        let failed = |doing| move |e| io(doing, &path, e);
        if let Some(left) = self.dir.look(DRAFT).map_err(failed.clone()("look at"))? {
            let removed = self.dir.remove(DRAFT, Inode::from(&left));
            removed.map_err(failed.clone()("remove"))?;
        }
        self.dir.create(DRAFT, 0o600).map_err(failed("make"))
    }

    /// Notes that the draft was made, under whichever of its names it is then.
    pub(super) fn note_draft(&mut self, draft: &File) -> Result<(), StoreError> {
        let inode = Inode::of(draft).map_err(|e| io("look at", &self.path.join(DRAFT), e))?;
        self.made.add(&self.dir, DRAFT, inode);
        self.made.add(&self.dir, DATA, inode);
        Ok(())
    }

    /// Gives the finished draft the store's name; never in place of another.
    pub(super) fn name_draft(&self) -> Result<(), StoreError> {
        match self.dir.rename(DRAFT, DATA, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Exists {
                    path: self.path.clone(),
                });
            }
            Err(e) => return Err(io("name", &self.data_path(), e)),
        }
        self.sync()
    }

    /// Gives the finished draft the store's name and keeps the file that had it under another.
    pub(super) fn replace_by_draft(&self) -> Result<(), StoreError> {
        self.dir
            .rename(DRAFT, DATA, RenameFlags::RENAME_EXCHANGE)
            .map_err(|e| io("name", &self.data_path(), e))?;
        // The whole file has the store's name: whatever keeps the damaged one from its own is no reason not to use it.
        if let Err(e) = self.dir.rename(DRAFT, DAMAGED, RenameFlags::empty()) {
            tracing::warn!("the damaged file is kept as {DRAFT}: {DAMAGED} cannot be made: {e}");
        }
        self.sync()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.dir.sync().map_err(|e| io("sync", &self.path, e))
    }
}

/// Others may pass through, to the control socket beside the store, but neither look nor write.
const FORBIDDEN: u32 = 0o066;

fn open_dir(path: &Path) -> Result<(Dir, FileStat), StoreError> {
    let dir = Dir::open(path).map_err(|e| refused(path, e))?;
    let found = dir.found().map_err(|e| io("look at", path, e))?;
    Ok((dir, found))
}

/// Whether something has the name of the store's file.
fn has_data(dir: &Dir, path: &Path) -> Result<bool, StoreError> {
    let found = dir.look(DATA).map_err(|e| io("look into", path, e))?;
    Ok(found.is_some())
}

fn refused(path: &Path, e: io::Error) -> StoreError {
    match (e.kind(), e.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => StoreError::NotFound { path: path.into() },
        (_, Some(libc::ELOOP)) => untrusted(
            path,
            "it is a symbolic link; put the file itself in its place".into(),
        ),
        (io::ErrorKind::NotADirectory, _) => {
            untrusted(path, "it is no directory, or is reached through a link".into())
        }
        (io::ErrorKind::InvalidInput, None) => untrusted(path, "it is no regular file".into()),
        _ => io("open", path, e),
    }
}

fn untrusted(path: &Path, why: String) -> StoreError {
    StoreError::Untrusted {
        path: path.into(),
        why,
    }
}

/// Opens a file of the store for what is done with it, and checks what was opened.
fn open_checked(dir: &Dir, home: &Path, name: &str, way: Way) -> Result<File, StoreError> {
    let path = home.join(name);
    let options = OpenOptions::new().read(true).write(way == Way::Change).clone();
    let file = dir.file(name, &options).map_err(|e| refused(&path, e))?;
    let found = fstat(&file).map_err(|e| io("look at", &path, e))?;
    judge(&path, &found, SFlag::S_IFREG, 0o077)?;
    // What is written goes to the other name too, wherever that is.
    if way == Way::Change && found.st_nlink > 1 {
        let why = format!(
            "it has {} names (hard links), and is written to; put a copy of it in its place",
            found.st_nlink
        );
        return Err(untrusted(&path, why));
    }
    Ok(file)
}

/// Whether what was opened is of the kind, belongs to this process's user and gives others no more than it may.
fn judge(path: &Path, found: &FileStat, kind: SFlag, forbidden: u32) -> Result<(), StoreError> {
    judge_for(Uid::effective(), path, found, kind, forbidden)
}

pub(super) fn judge_for(
    me: Uid,
    path: &Path,
    found: &FileStat,
    kind: SFlag,
    forbidden: u32,
) -> Result<(), StoreError> {
    if dir::kind(found) != kind {
        let wanted = if kind == SFlag::S_IFDIR {
            "directory"
        } else {
            "regular file"
        };
        return Err(untrusted(path, format!("it is no {wanted}")));
    }
    if found.st_uid != me.as_raw() {
        let why = format!(
            "it belongs to uid {}, and this process runs as uid {me}; `chown` it or run as its owner",
            found.st_uid
        );
        return Err(untrusted(path, why));
    }
    let mode = found.st_mode & 0o7777;
    if mode & forbidden != 0 {
        let mend = mode & !forbidden;
        return Err(untrusted(
            path,
            format!(
                "its mode {mode:04o} lets others in; `chmod {mend:04o}` it after making sure that nobody was"
            ),
        ));
    }
    Ok(())
}

fn lock(home: &Path, dir: &Dir, made: &mut Made) -> Result<File, StoreError> {
    let path = home.join(LOCK);
    let mut file = match dir.create(LOCK, 0o600) {
        Ok(file) => {
            let inode = Inode::of(&file).map_err(|e| io("look at", &path, e))?;
            made.add(dir, LOCK, inode);
            file
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => open_checked(dir, home, LOCK, Way::Change)?,
        Err(e) => return Err(io("make", &path, e)),
    };
    let give_up = Instant::now() + INTRODUCTION;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(e)) => return Err(io("lock", &path, e)),
            Err(TryLockError::WouldBlock) => {
                let pid = owner(&mut file);
                if pid.is_some() || Instant::now() >= give_up {
                    return Err(StoreError::InUse {
                        path: home.into(),
                        pid,
                    });
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    let me = std::process::id();
    let line = format!("{me} {}\n", start_time(me).unwrap_or(0));
    let introduce = |file: &mut File| -> io::Result<()> {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(line.as_bytes())?;
        file.set_len(line.len() as u64)
    };
    // A full disk must not keep anybody out of the store: the name in the lock is a courtesy.
    if introduce(&mut file).is_err() {
        let _ = file.set_len(0);
    }
    Ok(file)
}

fn lock_dir(home: &Path, dir: &Dir, way: Way) -> Result<File, StoreError> {
    let locked = dir.readable().map_err(|e| io("lock", home, e))?;
    let give_up = Instant::now() + INTRODUCTION;
    loop {
        let tried = match way {
            Way::Change => locked.try_lock(),
            Way::Look => locked.try_lock_shared(),
        };
        match tried {
            // A network file system may know no lock of a directory: it has the file's.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(locked),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    path: home.into(),
                    pid: None,
                });
            }
        }
    }
}

/// Shares the lock of a store that is only looked at, if there is one: nobody makes one on a disk that cannot be written.
fn share(home: &Path, dir: &Dir) -> Result<Option<File>, StoreError> {
    let mut file = match open_checked(dir, home, LOCK, Way::Look) {
        Err(StoreError::NotFound { .. }) => return Ok(None),
        file => file?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::Error(e)) => Err(io("lock", &home.join(LOCK), e)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: home.into(),
            pid: owner(&mut file),
        }),
    }
}

/// The process named in the lock, if it is the one that wrote its name there and not a later one with its number.
fn owner(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(64).read_to_string(&mut text).ok()?;
    let (pid, started) = text.trim_end().split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    (start_time(pid)? == started.parse::<u64>().ok()?).then_some(pid)
}

/// When the process began, in clock ticks since boot: field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, field 2, is in parentheses and may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}
