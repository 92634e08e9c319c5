//! Directories that are held open. What is made, opened, renamed or taken away in one goes by its descriptor, so that
//! nothing which is put in the place of its path leads elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

/// An inode, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// The device of its file system.
    pub device: u64,
    /// Its number there.
    pub number: u64,
}

impl Inode {
    /// Of an open file.
    ///
    /// # Errors
    /// As the system says.
    pub fn of(file: &File) -> io::Result<Inode> {
        let found = file.metadata()?;
        Ok(Inode {
            device: found.dev(),
            number: found.ino(),
        })
    }
}

impl From<&FileStat> for Inode {
    fn from(found: &FileStat) -> Inode {
        Inode {
            device: found.st_dev,
            number: found.st_ino,
        }
    }
}

/// The kind of what was found.
pub fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits())
}

const HELD: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// A directory, held; it need not be readable. Names in it are single ones: `InvalidInput` for what leads further.
#[derive(Debug, Clone)]
pub struct Dir(Arc<OwnedFd>);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Dir {
        Dir(Arc::new(fd))
    }
}

impl Dir {
    /// The directory at `path`, whose last component is no link.
    ///
    /// # Errors
    /// `NotADirectory` for a link too; otherwise as the system says.
    pub fn open(path: &Path) -> io::Result<Dir> {
        Ok(openat(AT_FDCWD, path, HELD, Mode::empty())?.into())
    }

    /// The directory that `path` leads to, through links too; the present one for an empty path.
    ///
    /// # Errors
    /// As the system says.
    pub fn behind(path: &Path) -> io::Result<Dir> {
        Dir::open(&path.join("."))
    }

    /// The directory that a file is named in, and its name there.
    ///
    /// # Errors
    /// `InvalidInput` if the path ends in no name; otherwise as the system says.
    pub fn of(path: &Path) -> io::Result<(Dir, OsString)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((Dir::behind(parent)?, name.into()))
    }

    /// The directory `name` in this one.
    ///
    /// # Errors
    /// As [`Dir::open`].
    pub fn dir(&self, name: impl AsRef<OsStr>) -> io::Result<Dir> {
        Ok(openat(self, single(&name)?, HELD, Mode::empty())?.into())
    }

    /// The same, made with `mode` (less the umask) if it is not there; whether it was.
    ///
    /// # Errors
    /// As [`Dir::open`].
    pub fn make_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<(Dir, bool)> {
        let made = match mkdirat(self, single(&name)?, Mode::from_bits_truncate(mode)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(e) => return Err(e.into()),
        };
        Ok((self.dir(name)?, made))
    }

    /// The directory `name`, made with `mode` (less the umask).
    ///
    /// # Errors
    /// `AlreadyExists` if something has the name; otherwise as [`Dir::open`].
    pub fn new_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Dir> {
        mkdirat(self, single(&name)?, Mode::from_bits_truncate(mode))?;
        self.dir(name)
    }

    /// What it is.
    ///
    /// # Errors
    /// As the system says.
    pub fn found(&self) -> io::Result<FileStat> {
        Ok(fstat(self)?)
    }

    /// Which it is.
    ///
    /// # Errors
    /// As the system says.
    pub fn inode(&self) -> io::Result<Inode> {
        Ok(Inode::from(&self.found()?))
    }

    /// Gives this user's own directory `mode`.
    ///
    /// # Errors
    /// If it is another's.
    pub fn chmod(&self, mode: u32) -> io::Result<()> {
        let found = self.found()?;
        if found.st_uid != geteuid().as_raw() {
            return Err(io::Error::other("the directory is another user's"));
        }
        if found.st_mode & 0o7777 == mode {
            return Ok(());
        }
        std::fs::set_permissions(held(self.as_fd()), Permissions::from_mode(mode))
    }

    /// What has the name, a link itself and not what it leads to; `None` if nothing has.
    ///
    /// # Errors
    /// As the system says.
    pub fn look(&self, name: impl AsRef<OsStr>) -> io::Result<Option<FileStat>> {
        match fstatat(self, single(&name)?, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whatever has the name, held and not opened: a link itself, a pipe, a socket.
    ///
    /// # Errors
    /// As the system says.
    pub fn held(&self, name: impl AsRef<OsStr>) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(self, single(&name)?, flags, Mode::empty())?)
    }

    /// Opens a regular file, as [`regular`] does, without following a link.
    ///
    /// # Errors
    /// As [`regular`].
    pub fn file(&self, name: impl AsRef<OsStr>, options: &OpenOptions) -> io::Result<File> {
        regular_at(self, Path::new(single(&name)?), Last::Itself, options)
    }

    /// Makes the new file `name` for reading and writing, with this mode whatever the umask.
    ///
    /// # Errors
    /// `AlreadyExists`, for a dangling link too.
    pub fn create(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file: File = openat(self, single(&name)?, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into();
        if file.metadata()?.mode() & 0o7777 != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(file)
    }

    /// Takes the name away from what was made; what another has put in its place stays.
    ///
    /// # Errors
    /// `NotFound` if it is gone, or something else has the name.
    pub fn remove(&self, name: impl AsRef<OsStr>, made: Inode) -> io::Result<()> {
        let found = self.look(&name)?.filter(|found| Inode::from(found) == made);
        let how = match found.as_ref().map(kind) {
            None => return Err(io::ErrorKind::NotFound.into()),
            Some(SFlag::S_IFDIR) => UnlinkatFlags::RemoveDir,
            Some(_) => UnlinkatFlags::NoRemoveDir,
        };
        Ok(unlinkat(self, single(&name)?, how)?)
    }

    /// Renames within the directory.
    ///
    /// # Errors
    /// As the system says.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>, how: RenameFlags) -> io::Result<()> {
        Ok(renameat2(self, single(&from)?, self, single(&to)?, how)?)
    }

    /// Moves `name` into another directory, where nothing has that name.
    ///
    /// # Errors
    /// As the system says.
    pub fn move_into(&self, name: impl AsRef<OsStr>, to: &Dir) -> io::Result<()> {
        let name = single(&name)?;
        Ok(renameat2(self, name, to, name, RenameFlags::RENAME_NOREPLACE)?)
    }

    /// A path to `name` for a call that takes no descriptor, good as long as this is held.
    ///
    /// # Errors
    /// Kind `InvalidInput` if it is not a single name.
    pub fn path(&self, name: impl AsRef<OsStr>) -> io::Result<PathBuf> {
        Ok(held(self.as_fd()).join(single(&name)?))
    }

    /// Makes names that came or went durable.
    ///
    /// # Errors
    /// As the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.readable()?.sync_all()
    }

    /// All names in it.
    ///
    /// # Errors
    /// As the system says.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let readable = self.readable()?;
        std::fs::read_dir(held(readable.as_fd()))?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    /// The directory, open for reading.
    ///
    /// # Errors
    /// As the system says.
    pub fn readable(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(openat(self, ".", flags, Mode::empty())?.into())
    }

    /// Whether root alone can change what it and any directory above it hold: it is where its path says, then, for as
    /// long as root likes.
    pub fn only_root_writes(&self) -> bool {
        let safe = |found: &FileStat| found.st_uid == 0 && found.st_mode & 0o022 == 0;
        let mut at = self.clone();
        // No path is longer than 4,096 bytes.
        for _ in 0..2048 {
            let above = openat(&at, "..", HELD, Mode::empty()).map(Dir::from);
            let (Ok(found), Ok(above)) = (at.found(), above) else {
                return false;
            };
            if !safe(&found) {
                return false;
            }
            if above.inode().is_ok_and(|inode| inode == Inode::from(&found)) {
                return true;
            }
            at = above;
        }
        false
    }
}

/// A name that leads to no other directory.
fn single(name: &impl AsRef<OsStr>) -> io::Result<&OsStr> {
    let name = name.as_ref();
    match name.as_bytes() {
        b"" | b"." | b".." => Err(io::ErrorKind::InvalidInput.into()),
        bytes if bytes.contains(&b'/') => Err(io::ErrorKind::InvalidInput.into()),
        _ => Ok(name),
    }
}

/// What a descriptor holds, as a path.
pub fn held(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is refused.
    Itself,
    /// It is.
    Followed,
}

/// Opens a regular file with these options. What else has its name is looked at and never opened: to open a pipe can
/// wait, and to open a device do anything.
///
/// # Errors
/// ELOOP for a link that is not to be followed, `InvalidInput` for what is no regular file; otherwise as the system says.
pub fn regular(path: &Path, last: Last, options: &OpenOptions) -> io::Result<File> {
    regular_at(AT_FDCWD, path, last, options)
}

fn regular_at(at: impl AsFd, path: &Path, last: Last, options: &OpenOptions) -> io::Result<File> {
    let follow = match last {
        Last::Itself => OFlag::O_NOFOLLOW,
        Last::Followed => OFlag::empty(),
    };
    let found = openat(at, path, OFlag::O_PATH | OFlag::O_CLOEXEC | follow, Mode::empty())?;
    match kind(&fstat(&found)?) {
        SFlag::S_IFREG => {}
        SFlag::S_IFLNK => return Err(Errno::ELOOP.into()),
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
    }
    // A lease on it does not hold the opener either.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let opened = options.clone().custom_flags(flags).open(held(found.as_fd()));
    opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => io::Error::other("/proc is not mounted here"),
        _ => e,
    })
}

/// What was made in directories that are held, to be taken away again if what it was made for fails.
#[derive(Debug, Clone, Default)]
pub struct Made(Vec<(Dir, OsString, Inode)>);

impl Made {
    /// That `name` was made in `dir`.
    pub fn add(&mut self, dir: &Dir, name: impl Into<OsString>, inode: Inode) {
        self.0.push((dir.clone(), name.into(), inode));
    }

    /// All that `other` knows, made after this.
    pub fn append(&mut self, mut other: Made) {
        self.0.append(&mut other.0);
    }

    /// Takes all of it away, the last first. What another has put in its place stays, and so does a directory in which
    /// something else is.
    pub fn take_away(self) {
        for (dir, name, inode) in self.0.into_iter().rev() {
            let _ = dir.remove(name, inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use super::*;

    fn place() -> (tempfile::TempDir, Dir) {
        let dir = tempfile::tempdir().unwrap();
        let held = Dir::open(dir.path()).unwrap();
        (dir, held)
    }

    fn reading() -> OpenOptions {
        OpenOptions::new().read(true).clone()
    }

    #[test]
    fn a_directory_behind_a_link_is_not_held_and_keeps_its_mode() {
        let (at, dir) = place();
        let (own, link) = (at.path().join("own"), at.path().join("link"));
        std::fs::create_dir(&own).unwrap();
        symlink(&own, &link).unwrap();
        let mode = || own.metadata().unwrap().mode() & 0o7777;
        for refused in [
            dir.dir("link"),
            Dir::open(&link),
            dir.make_dir("link", 0o700).map(|d| d.0),
        ] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::NotADirectory);
        }
        assert_eq!(
            Dir::behind(&link).unwrap().inode().unwrap(),
            dir.dir("own").unwrap().inode().unwrap()
        );
        let held = dir.dir("own").unwrap();
        for wanted in [0o000, 0o711, 0o700] {
            held.chmod(wanted).unwrap();
            assert_eq!(mode(), wanted);
        }
        std::os::unix::fs::chown(&own, Some(61_001), None).unwrap();
        assert!(held.chmod(0o711).is_err());
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn what_is_held_is_where_it_was_moved_to() {
        let (at, dir) = place();
        let (run, made) = dir.make_dir("run", 0o700).unwrap();
        assert!(made && !dir.make_dir("run", 0o755).unwrap().1);
        std::fs::rename(at.path().join("run"), at.path().join("aside")).unwrap();
        std::fs::create_dir(at.path().join("victim")).unwrap();
        symlink("victim", at.path().join("run")).unwrap();
        run.create("x", 0o604).unwrap().write_all(b"made").unwrap();
        run.rename("x", "y", RenameFlags::RENAME_NOREPLACE).unwrap();
        let found = at.path().join("aside/y").metadata().unwrap();
        assert_eq!((found.mode() & 0o7777, found.len()), (0o604, 4));
        assert_eq!(run.names().unwrap(), ["y"]);
        assert!(at.path().join("victim").read_dir().unwrap().next().is_none());
        run.sync().unwrap();
    }

    #[test]
    fn only_what_was_made_is_taken_away() {
        let (at, dir) = place();
        let mut made = Made::default();
        let (sub, _) = dir.make_dir("sub", 0o700).unwrap();
        made.add(&dir, "sub", sub.inode().unwrap());
        for name in ["kept", "replaced", "gone"] {
            made.add(&sub, name, Inode::of(&sub.create(name, 0o600).unwrap()).unwrap());
        }
        // Held, so that its number is not given again at once.
        let _old = sub.file("replaced", &reading()).unwrap();
        std::fs::remove_file(at.path().join("sub/replaced")).unwrap();
        std::fs::write(at.path().join("sub/replaced"), "another's").unwrap();
        std::fs::remove_file(at.path().join("sub/gone")).unwrap();
        made.clone().take_away();
        assert_eq!(sub.names().unwrap(), ["replaced"]);
        std::fs::remove_file(at.path().join("sub/replaced")).unwrap();
        made.take_away();
        assert!(dir.names().unwrap().is_empty());
    }

    #[test]
    fn only_a_regular_file_is_opened() {
        let (at, dir) = place();
        dir.create("file", 0o600).unwrap().write_all(b"text").unwrap();
        symlink("file", at.path().join("link")).unwrap();
        nix::unistd::mkfifo(&at.path().join("fifo"), Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at.path().join("socket")).unwrap();
        let mut text = String::new();
        dir.file("file", &reading())
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "text");
        let link = dir.file("link", &reading()).unwrap_err();
        assert_eq!(link.raw_os_error(), Some(libc::ELOOP));
        assert!(regular(&at.path().join("link"), Last::Followed, &reading()).is_ok());
        std::fs::create_dir(at.path().join("dir")).unwrap();
        for other in ["fifo", "socket", "dir"] {
            for mut options in [reading(), OpenOptions::new().append(true).clone()] {
                let refused = dir.file(other, options.read(true)).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{other}");
            }
        }
        let null = regular(Path::new("/dev/null"), Last::Itself, &reading());
        assert_eq!(null.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(
            dir.file("none", &reading()).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let (_at, dir) = place();
        for name in ["", ".", "..", "a/b", "/etc", "../x"] {
            let refused = dir.look(name).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name:?}");
            assert!(dir.dir(name).is_err() && dir.create(name, 0o600).is_err() && dir.path(name).is_err());
        }
    }

    #[test]
    fn a_new_file_replaces_nothing_and_follows_nothing() {
        let (at, dir) = place();
        symlink(at.path().join("elsewhere"), at.path().join("dangling")).unwrap();
        let refused = dir.create("dangling", 0o600).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(!at.path().join("elsewhere").exists());
    }

    #[test]
    fn who_else_writes_above_is_seen_from_below() {
        assert!(Dir::open(Path::new("/proc")).unwrap().only_root_writes());
        let (at, dir) = place();
        // `/tmp` is everybody's.
        assert!(!dir.only_root_writes(), "{}", at.path().display());
    }
}
