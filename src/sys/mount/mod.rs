//! Mounting and unmounting, apart from serving: a mount is a device descriptor and a place.
//!
//! What is done here sends **no request** to the file system that is mounted, so that it can be done before
//! anybody serves it, and cannot hang on a server that is stuck: paths are resolved to their parent directory
//! only, mounts are held by `O_PATH` descriptors and known by their number (`statx` with
//! `AT_STATX_DONT_SYNC`) and their line in the mount table.
//!
//! The order in a serving process: [`mount`], [`split`] (the notifier's writable clone), then the session on the device.

mod attach;
mod helper;
mod table;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::checked;
pub use attach::processes;
pub use helper::{KEEP, Keeper, keep};
pub use table::{Layered, MountEntry, mounts};

/// The file system type of a wardfs mount in the mount table.
pub const FSTYPE: &str = "fuse.wardfs";
/// How long a file system may take to answer the question whether it lives.
const PROBE_TIME: Duration = Duration::from_secs(2);

/// What is at a place where something is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetState {
    /// Nothing.
    #[error("it does not exist")]
    Missing,
    /// A directory without entries: fit for mounting.
    #[error("it is an empty directory")]
    EmptyDirectory,
    /// A directory whose entries a mount would hide.
    #[error("it is a directory that is not empty")]
    NonEmpty,
    /// A symbolic link.
    #[error("it is a symbolic link; name the directory itself")]
    Symlink,
    /// Something else.
    #[error("it is not a directory")]
    NotDirectory,
    /// A wardfs mount.
    #[error("{}", if *dead { "a mount whose daemon is gone is there; unmount it" } else { "wardfs is already mounted there" })]
    OurMount {
        /// Its server is gone: every call on it fails with ENOTCONN.
        dead: bool,
    },
    /// A mount of something else.
    #[error("a file system of type {fstype} is mounted there")]
    ForeignMount {
        /// Its type.
        fstype: String,
    },
}

/// Why mounting, unmounting or a question about a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The place is not fit for what was asked.
    #[error("cannot use {}: {state}", target.display())]
    Target {
        /// The place.
        target: PathBuf,
        /// What is there.
        state: TargetState,
    },
    /// `/dev/fuse` cannot be opened.
    #[error("cannot open /dev/fuse: {0} (is the fuse module loaded?)")]
    Device(#[source] io::Error),
    /// A system call failed.
    #[error("cannot {what} {}: {source}", target.display())]
    System {
        /// What was being done.
        what: &'static str,
        /// The place.
        target: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl MountError {
    /// What the system said of a call that failed.
    pub fn system(&self) -> Option<&io::Error> {
        match self {
            MountError::System { source, .. } => Some(source),
            MountError::Target { .. } | MountError::Device(_) => None,
        }
    }
}

/// What to mount.
#[derive(Debug, Clone)]
pub struct Options {
    /// Serve all users, not the mounting one alone.
    pub allow_other: bool,
    /// Shown as the mount's source; without comma.
    pub fsname: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            allow_other: true,
            fsname: "wardfs".into(),
        }
    }
}

/// A mount that was made, and is not undone when this is dropped: [`unmount`] does that.
#[derive(Debug)]
pub struct Mounted {
    /// `/dev/fuse`, connected: whoever holds it serves.
    pub device: OwnedFd,
    /// Where, with its parent resolved.
    pub target: PathBuf,
    /// The number of the FUSE connection, as in `/sys/fs/fuse/connections`.
    pub connection: u32,
    /// The helper that keeps the mount, where this process may not mount by itself.
    pub keeper: Option<Keeper>,
    /// The root of the mount, as an `O_PATH` descriptor, until it is let go.
    root: Option<OwnedFd>,
}

fn failed(what: &'static str, target: &Path) -> impl FnOnce(io::Error) -> MountError {
    move |source| MountError::System {
        what,
        target: target.to_owned(),
        source,
    }
}

/// Mounts on the empty directory `target`: type [`FSTYPE`], `ro,nosuid,nodev,noexec` from its first moment and in
/// every mount namespace that it propagates to, so that a write by anybody is EROFS before it reaches the server.
/// Nobody serves it yet. Never `default_permissions`: every decision is the server's. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// [`MountError::Target`] unless the place is [`TargetState::EmptyDirectory`].
pub fn mount(target: &Path, options: &Options) -> Result<Mounted, MountError> {
    let (target, found) = examine(target)?;
    if found != TargetState::EmptyDirectory {
        return Err(MountError::Target { target, state: found });
    }
    // The directory that was examined is held, so that no other can be slipped in under its name.
    let place = open_path(&target).map_err(failed("open", &target))?;
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(MountError::Device)?;
    let root = attach::prepare(device.as_fd(), &options.fsname, options.allow_other)
        .map_err(failed("prepare a mount for", &target))?;
    // Its file system is its own, so its device number is the connection's.
    let connection = super::statx(root.as_fd(), libc::AT_STATX_DONT_SYNC, 0)
        .map_err(failed("look at the mount for", &target))?
        .stx_dev_minor;
    attach::attach(&root, &place).map_err(failed("mount on", &target))?;
    Ok(Mounted {
        device: device.into(),
        target,
        connection,
        keeper: None,
        root: Some(root),
    })
}

/// As [`mount`] without privilege, through the setuid helper of fuse3. Only the mounting user reaches the mount, and
/// there can be no [`split`].
///
/// # Errors
/// As [`mount`], or if the helper is missing or refuses.
pub fn mount_unprivileged(target: &Path, fsname: &str) -> Result<Mounted, MountError> {
    let (target, found) = examine(target)?;
    if found != TargetState::EmptyDirectory {
        return Err(MountError::Target { target, state: found });
    }
    // The helper opens it with this user's rights, and says less of it.
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    drop(device.map_err(MountError::Device)?);
    let (device, keeper) = helper::mount(&target, fsname).map_err(failed("mount on", &target))?;
    let root = open_path(&target).map_err(failed("open", &target))?;
    let connection = super::statx(root.as_fd(), libc::AT_STATX_DONT_SYNC, 0)
        .map_err(failed("look at the mount for", &target))?
        .stx_dev_minor;
    Ok(Mounted {
        device,
        target,
        connection,
        keeper: Some(keeper),
        root: Some(root),
    })
}

impl Mounted {
    /// Holds nothing of the mount open any more: it would be busy for umount(8).
    pub fn let_go(&mut self) {
        self.root = None;
    }
}

/// A detached, private, writable clone of the mount, for the notifier. Events raised through it reach watchers on
/// the public mount, which stays read-only for everybody. Sends no request; nobody need serve yet.
pub fn split(mounted: &Mounted) -> Result<OwnedFd, MountError> {
    let root = mounted
        .root
        .as_ref()
        .ok_or_else(|| io::ErrorKind::NotFound.into());
    let clone = root.and_then(attach::writable_clone);
    clone.map_err(failed("clone the mount on", &mounted.target))
}

/// What is at `target`. Never waits for a file system that does not answer for more than 2 s.
///
/// # Errors
/// When the parent directory or the mount table cannot be read.
pub fn state(target: &Path) -> Result<TargetState, MountError> {
    examine(target).map(|(_, state)| state)
}

fn examine(target: &Path) -> Result<(PathBuf, TargetState), MountError> {
    let place = match resolve(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok((target.to_owned(), TargetState::Missing));
        }
        other => other.map_err(failed("resolve", target))?,
    };
    let fd = match open_path(&place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((place, TargetState::Missing)),
        other => other.map_err(failed("open", &place))?,
    };
    let entry = entry_of(&fd).map_err(failed("look up the mount of", &place))?;
    // The descriptor is in the mount that covers the place. It is a mount point if that mount begins here.
    if let Some(entry) = entry.filter(|e| e.target == place) {
        let state = if entry.fstype == FSTYPE {
            TargetState::OurMount {
                dead: is_dead(&fd).map_err(failed("probe", &place))?,
            }
        } else {
            TargetState::ForeignMount { fstype: entry.fstype }
        };
        return Ok((place, state));
    }
    let meta = File::from(fd.try_clone().map_err(failed("open", &place))?)
        .metadata()
        .map_err(failed("examine", &place))?;
    let state = if meta.is_symlink() {
        TargetState::Symlink
    } else if !meta.is_dir() {
        TargetState::NotDirectory
    } else {
        let mut entries = std::fs::read_dir(by_descriptor(&fd)).map_err(failed("read", &place))?;
        if entries.next().is_none() {
            TargetState::EmptyDirectory
        } else {
            TargetState::NonEmpty
        }
    };
    Ok((place, state))
}

/// Takes the wardfs mount at `target` out of the tree, also when files in it are open, and whether its server
/// lives or not. Exactly the mount that was examined is unmounted, never what somebody puts in its place.
///
/// # Errors
/// [`MountError::Target`] if what is there is not a wardfs mount.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    let place = resolve(target).map_err(failed("resolve", target))?;
    let fd = match open_path(&place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Target {
                target: place,
                state: TargetState::Missing,
            });
        }
        other => other.map_err(failed("open", &place))?,
    };
    let entry = entry_of(&fd).map_err(failed("look up the mount of", &place))?;
    if !entry.is_some_and(|e| e.target == place && e.fstype == FSTYPE) {
        let (target, state) = examine(&place)?;
        return Err(MountError::Target { target, state });
    }
    match nix::mount::umount2(&by_descriptor(&fd), MntFlags::MNT_DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => helper::unmount(&place).map_err(failed("unmount", &place)),
        Err(e) => Err(failed("unmount", &place)(e.into())),
    }
}

/// The wardfs mount at `target`, seen or hidden, and what is mounted on it. Asks no file system.
///
/// # Errors
/// When the parent directory or the mount table cannot be read.
pub fn layered(target: &Path) -> Result<Option<Layered>, MountError> {
    let place = resolve(target).map_err(failed("resolve", target))?;
    let all = mounts().map_err(failed("look up the mount of", &place))?;
    Ok(table::layered(&place, &all))
}

/// The number of the FUSE connection of the wardfs mount at `target`.
pub fn connection_id(target: &Path) -> Result<u32, MountError> {
    let place = resolve(target).map_err(failed("resolve", target))?;
    let fd = open_path(&place).map_err(failed("open", &place))?;
    match entry_of(&fd).map_err(failed("look up the mount of", &place))? {
        Some(entry) if entry.target == place && entry.fstype == FSTYPE => Ok(entry.device.1),
        _ => {
            let (target, state) = examine(&place)?;
            Err(MountError::Target { target, state })
        }
    }
}

/// Ends a FUSE connection by force: every call that waits in it returns (ECONNABORTED), later ones fail with
/// ENOTCONN. Mounts the fusectl file system at its customary place if nobody has.
pub fn abort(connection: u32) -> Result<(), MountError> {
    const CONTROL: &str = "/sys/fs/fuse/connections";
    let file = PathBuf::from(format!("{CONTROL}/{connection}/abort"));
    if !mounts()
        .map_err(failed("read the mounts for", &file))?
        .iter()
        .any(|m| m.fstype == "fusectl")
    {
        nix::mount::mount(
            None::<&str>,
            CONTROL,
            Some("fusectl"),
            MsFlags::empty(),
            None::<&str>,
        )
        .map_err(|e| failed("mount", Path::new(CONTROL))(e.into()))?;
    }
    std::fs::write(&file, "1").map_err(failed("write", &file))
}

/// Whether a mount is still where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Mounted,
    /// It was unmounted or moved.
    Gone,
}

/// Notices that a mount has gone.
#[derive(Debug)]
pub struct UnmountWatch {
    table: File,
    target: PathBuf,
    id: u64,
    device: (u32, u32),
}

/// Watches the wardfs mount that is at `target` now. A clone of it keeps the connection open when it is
/// unmounted, so the end of the connection alone does not tell.
pub fn watch_unmounted(target: &Path) -> Result<UnmountWatch, MountError> {
    // Opened first: a change after this is reported.
    let table = File::open("/proc/self/mountinfo").map_err(failed("watch", target))?;
    let place = resolve(target).map_err(failed("resolve", target))?;
    let fd = open_path(&place).map_err(failed("open", &place))?;
    match entry_of(&fd).map_err(failed("look up the mount of", &place))? {
        Some(e) if e.target == place && e.fstype == FSTYPE => Ok(UnmountWatch {
            table,
            target: place,
            id: e.id,
            device: e.device,
        }),
        _ => {
            let (target, state) = examine(&place)?;
            Err(MountError::Target { target, state })
        }
    }
}

impl UnmountWatch {
    /// Waits until the mount has gone, at most for `time`.
    pub fn wait(&mut self, time: Duration) -> io::Result<Presence> {
        let end = Instant::now() + time;
        loop {
            // The number alone may have been given to another mount by now.
            let here = |m: &MountEntry| m.id == self.id && m.device == self.device && m.target == self.target;
            if !mounts()?.iter().any(here) {
                return Ok(Presence::Gone);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Presence::Mounted);
            }
            // The table is always readable; a change is exceptional (POLLPRI and POLLERR), reported once.
            let mut fds = [PollFd::new(self.table.as_fd(), PollFlags::POLLPRI)];
            match nix::poll::poll(&mut fds, poll_time(left)) {
                Err(Errno::EINTR) | Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for UnmountWatch {
    /// To be polled for `POLLPRI` beside other descriptors; then ask [`UnmountWatch::wait`] with no time.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.table.as_fd()
    }
}

pub(super) fn poll_time(time: Duration) -> PollTimeout {
    // Rounded up, so that a wait never ends early and spins.
    let ms = time.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
}

/// The path with its parent directory resolved; the last component is left alone, because looking at it would ask
/// the file system mounted there.
fn resolve(target: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(target)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        (None, _) => Ok(absolute),
        // The path ends in `..`.
        (Some(_), None) => absolute.canonicalize(),
    }
}

/// The place itself, or the root of what is mounted there; a final symbolic link is opened as such.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(OsStr::as_bytes(path.as_os_str()))?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let fd = checked(unsafe { libc::open(path.as_ptr(), flags) }.into())?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The name under which the kernel finds exactly what the descriptor holds.
fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The line of the mount that an `O_PATH` descriptor lies in.
fn entry_of(fd: &OwnedFd) -> io::Result<Option<MountEntry>> {
    let buffer = super::statx(fd.as_fd(), libc::AT_STATX_DONT_SYNC, libc::STATX_MNT_ID)?;
    if buffer.stx_mask & libc::STATX_MNT_ID == 0 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel does not tell the mount's number",
        ));
    }
    Ok(mounts()?.into_iter().find(|m| m.id == buffer.stx_mnt_id))
}

/// Whether the server of a mount is gone. Only a call that the server must answer tells, and such a call cannot
/// be taken back; so a child makes it, which holds nothing else and is left behind if no answer comes (then the
/// server lives, though it does not answer).
fn is_dead(root: &OwnedFd) -> io::Result<bool> {
    const ALIVE: i32 = 0;
    const DEAD: i32 = 1;
    let fd = root.as_raw_fd();
    // SAFETY: the child calls async-signal-safe functions only and ends with _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: system calls with integers, a static string and a local buffer; _exit never returns.
        unsafe {
            // Nothing that this process holds may be kept open by a child that is stuck.
            if fd != 0 {
                libc::dup2(fd, 0);
            }
            libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
            let mut buffer: libc::statx = std::mem::zeroed();
            let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC;
            let failed = libc::statx(0, c"".as_ptr(), flags, libc::STATX_BASIC_STATS, &mut buffer) != 0;
            let errno = *libc::__errno_location();
            let dead = failed && (errno == libc::ENOTCONN || errno == libc::ECONNABORTED);
            libc::_exit(if dead { DEAD } else { ALIVE });
        }
    }
    checked(pid.into())?;
    let end = Instant::now() + PROBE_TIME;
    let mut pause = Duration::from_micros(200);
    loop {
        let mut status = 0;
        // SAFETY: `status` is writable and outlives the call; `pid` is our own child, not yet waited for.
        let ended = checked(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) }.into())?;
        if ended != 0 {
            return Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == DEAD);
        }
        if Instant::now() >= end {
            // SAFETY: `pid` is our own child and not yet waited for, so the number is still its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            std::thread::sleep(Duration::from_millis(5));
            // SAFETY: as above. A child that the server holds stays until it answers.
            unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests;
