//! The store's directory: made, opened, checked and locked. Every check is made on the open descriptor, so that
//! nobody can exchange a file between the check and the use.

use crate::store::StoreError;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
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
    dir: OwnedFd,
    /// None where it is only looked at and none is there.
    lock: Option<File>,
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

impl Way {
    fn flags(self) -> OFlag {
        match self {
            Way::Change => OFlag::O_RDWR,
            Way::Look => OFlag::O_RDONLY,
        }
    }
}

/// A file, by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inode(u64, u64);

impl Inode {
    pub(super) fn of(file: &File) -> std::io::Result<Inode> {
        let found = file.metadata()?;
        Ok(Inode(found.dev(), found.ino()))
    }
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
        let _ = self.lock.as_ref().map(File::unlock);
    }

    /// Makes the directory where there is none (0700, its parents too), then opens it.
    ///
    /// # Errors
    /// `Unfit` for a directory that is there and that others may look into: it was made for something else, and
    /// nothing of it is to be changed for a store. Otherwise as [`Home::open`].
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        if path.exists() {
            let (dir, found) = open_dir(path)?;
            if found.st_mode & FORBIDDEN != 0 && !has_data(&dir, path)? {
                return Err(StoreError::Unfit { path: path.into() });
            }
        } else {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|e| io("make", path, e))?;
            // The name must survive a power cut too.
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            File::open(parent)
                .and_then(|dir| dir.sync_all())
                .map_err(|e| io("sync", parent, e))?;
        }
        Self::own(path, Way::Change)
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
        Self::own(path, way)
    }

    fn own(path: &Path, way: Way) -> Result<Self, StoreError> {
        let (dir, found) = open_dir(path)?;
        judge(path, &found, SFlag::S_IFDIR, FORBIDDEN)?;
        let lock = match way {
            Way::Change => Some(lock(path, &dir)?),
            Way::Look => share(path, &dir)?,
        };
        Ok(Home {
            path: path.into(),
            dir,
            lock,
            way,
        })
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
        open_checked(&self.dir, &self.path, DATA, self.way.flags()).map_err(|e| match e {
            StoreError::NotFound { .. } => StoreError::NotFound {
                path: self.path.clone(),
            },
            other => other,
        })
    }

    /// # Errors
    /// `Corrupt` if the store's name is another file's by now, or nobody's: a change would be lost with this one.
    pub(super) fn still_names(&self, inode: Option<Inode>) -> Result<(), StoreError> {
        let found = fstatat(&self.dir, DATA, AtFlags::AT_SYMLINK_NOFOLLOW);
        match found.map(|found| Inode(found.st_dev, found.st_ino)) {
            Ok(found) if Some(found) == inode => Ok(()),
            _ => Err(StoreError::Corrupt {
                what: self.data_path().display().to_string(),
                detail: "it was replaced or removed while it was served".into(),
            }),
        }
    }

    /// A new, empty file for a store that has no name yet. One left by a creation that was cut short goes.
    pub(super) fn draft(&self) -> Result<File, StoreError> {
        let path = self.path.join(DRAFT);
        match unlinkat(&self.dir, DRAFT, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => {}
            Err(e) => return Err(io("remove", &path, e)),
        }
        open_checked(
            &self.dir,
            &self.path,
            DRAFT,
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL,
        )
    }

    /// Gives the finished draft the store's name; never in place of another.
    pub(super) fn name_draft(&self) -> Result<(), StoreError> {
        match renameat2(&self.dir, DRAFT, &self.dir, DATA, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            Err(nix::Error::EEXIST) => {
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
        renameat2(&self.dir, DRAFT, &self.dir, DATA, RenameFlags::RENAME_EXCHANGE)
            .and_then(|()| renameat2(&self.dir, DRAFT, &self.dir, DAMAGED, RenameFlags::empty()))
            .map_err(|e| io("name", &self.data_path(), e))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), StoreError> {
        nix::unistd::fsync(&self.dir).map_err(|e| io("sync", &self.path, e))
    }
}

/// Others may pass through, to the control socket beside the store, but neither look nor write.
const FORBIDDEN: u32 = 0o066;

fn open_dir(path: &Path) -> Result<(OwnedFd, FileStat), StoreError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = openat(AT_FDCWD, path, flags, Mode::empty()).map_err(|e| refused(path, e))?;
    let found = fstat(&dir).map_err(|e| io("look at", path, e))?;
    Ok((dir, found))
}

/// Whether something has the name of the store's file.
fn has_data(dir: &OwnedFd, path: &Path) -> Result<bool, StoreError> {
    match fstatat(dir, DATA, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(nix::Error::ENOENT) => Ok(false),
        Err(e) => Err(io("look into", path, e)),
    }
}

fn refused(path: &Path, errno: nix::Error) -> StoreError {
    match errno {
        nix::Error::ENOENT => StoreError::NotFound { path: path.into() },
        nix::Error::ELOOP => untrusted(
            path,
            "it is a symbolic link; put the file itself in its place".into(),
        ),
        nix::Error::ENOTDIR => untrusted(path, "it is no directory, or is reached through a link".into()),
        other => io("open", path, other),
    }
}

fn untrusted(path: &Path, why: String) -> StoreError {
    StoreError::Untrusted {
        path: path.into(),
        why,
    }
}

/// Opens or makes a file of the store as `how` says, and checks what was opened.
fn open_checked(dir: impl AsFd, home: &Path, name: &str, how: OFlag) -> Result<File, StoreError> {
    let path = home.join(name);
    // O_NONBLOCK: a pipe or a device in the file's place must not hold the opener.
    let flags = how | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let fd = openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| refused(&path, e))?;
    judge(
        &path,
        &fstat(&fd).map_err(|e| io("look at", &path, e))?,
        SFlag::S_IFREG,
        0o077,
    )?;
    Ok(fd.into())
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
    if found.st_mode & SFlag::S_IFMT.bits() != kind.bits() {
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

fn lock(home: &Path, dir: &OwnedFd) -> Result<File, StoreError> {
    let path = home.join(LOCK);
    let mut file = open_checked(dir, home, LOCK, OFlag::O_RDWR | OFlag::O_CREAT)?;
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

/// Shares the lock of a store that is only looked at, if there is one: nobody makes one on a disk that cannot be written.
fn share(home: &Path, dir: &OwnedFd) -> Result<Option<File>, StoreError> {
    let mut file = match open_checked(dir, home, LOCK, OFlag::O_RDONLY) {
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
