//! The process that raises inotify events: it holds a private writable clone of the mount and the end of a
//! channel, and nothing else; no device, no store, no secret, no capability.
//!
//! It does on the mount what an application would: a file opened for writing, one byte written, closed raises
//! `IN_MODIFY` and `IN_CLOSE_WRITE` for watchers of the file and of its directory. What these calls mean is for the
//! server to decide; the notifier reports their errno. It may wait inside the mount for the server; no part of the
//! serving process may wait for it in turn while it holds what an answer needs.
//!
//! A request is a packet of the kind (1 byte), a number (4 bytes, little-endian) and the path relative to the
//! mount's root; its answer is the number and an errno (4 bytes each, little-endian; 0 is success).

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::socket::Connection;
use super::{checked, harden};
use crate::id::Pid;

/// The hidden argument that makes the program a notifier.
pub const ARGUMENT: &str = "__notifier";
/// Where a notifier finds its clone of the mount, and its channel.
const ROOT_FD: RawFd = 3;
const CHANNEL_FD: RawFd = 4;
/// Longest path that Linux takes.
const MAX_PATH: usize = 4096;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Its value changed: `IN_MODIFY`, `IN_CLOSE_WRITE`.
    Modified = 1,
    /// It came to be: `IN_CREATE` in its directory.
    Created = 2,
    /// It ceased to be: `IN_DELETE` in its directory.
    Deleted = 3,
    /// Nothing: the server is to see a GETATTR that comes from the notifier.
    Probe = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Modified, Kind::Created, Kind::Deleted, Kind::Probe]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }
}

/// A running notifier. It ends when this is dropped.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    channel: Option<Connection>,
    next: u32,
}

/// Starts `exe ARGUMENT` with the clone of the mount that [`super::mount::split`] gave. The child gets an empty
/// environment, no descriptor but its two, and is killed when the **calling thread** ends: call it from one that
/// lives as long as the process.
pub fn spawn(exe: &Path, root: OwnedFd) -> io::Result<Child> {
    spawn_command(Command::new(exe).arg(ARGUMENT), root)
}

fn spawn_command(command: &mut Command, root: OwnedFd) -> io::Result<Child> {
    let (ours, theirs) = Connection::pair()?;
    let (root_fd, channel_fd) = (root.as_raw_fd(), theirs.as_fd().as_raw_fd());
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .current_dir("/");
    // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(move || place(root_fd, channel_fd)) };
    let process = command.spawn()?;
    Ok(Child {
        process,
        channel: Some(ours),
        next: 0,
    })
}

/// In the new process: the two descriptors to their places, all others to be closed by exec.
fn place(root: RawFd, channel: RawFd) -> io::Result<()> {
    // SAFETY: system calls with integers only, on descriptors that live until exec.
    unsafe {
        checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0).into())?;
        // Out of the way first: either may be where the other has to go.
        let root = checked(libc::fcntl(root, libc::F_DUPFD_CLOEXEC, 10).into())? as RawFd;
        let channel = checked(libc::fcntl(channel, libc::F_DUPFD_CLOEXEC, 10).into())? as RawFd;
        // Before the two are placed: what stands at 3 and 4 may be the pipe by which exec's failure is told.
        checked(libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        ))?;
        checked(libc::dup2(root, ROOT_FD).into())?;
        checked(libc::dup2(channel, CHANNEL_FD).into())?;
    }
    Ok(())
}

impl Child {
    /// The channel, readable when an answer is there; `None` after [`Child::stop`].
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Its process id: the pid that its requests through the mount must show.
    pub fn pid(&self) -> Pid {
        Pid(self.process.id())
    }

    /// Whether it has ended. Its pid stays its own all the same, until this is dropped.
    pub fn ended(&self) -> bool {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
    }

    fn channel(&self) -> io::Result<&Connection> {
        self.channel
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends a request without waiting for its answer; returns its number. `path` is relative to the mount's root.
    pub fn request(&mut self, kind: Kind, path: &[u8]) -> io::Result<u32> {
        if path.len() > MAX_PATH {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        self.next = self.next.wrapping_add(1);
        let packet = [&[kind as u8][..], &self.next.to_le_bytes(), path].concat();
        self.channel()?.send(&packet)?;
        Ok(self.next)
    }

    /// The next answer: a request's number, and how it ended.
    ///
    /// # Errors
    /// Of the outer result: kind `TimedOut`; `UnexpectedEof` when the notifier has ended.
    pub fn answer(&self, time: Duration) -> io::Result<(u32, io::Result<()>)> {
        let mut packet = [0; 8];
        let got = self.channel()?.recv(&mut packet, Some(time))?;
        if got.len != 8 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the notifier answered nonsense",
            ));
        }
        let [a, b, c, d, e @ ..] = packet;
        let outcome = match i32::from_le_bytes(e) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
        Ok((u32::from_le_bytes([a, b, c, d]), outcome))
    }

    /// Sends a request and waits for its answer, at most for `time`. Answers to earlier requests are dropped.
    pub fn notify(&mut self, kind: Kind, path: &[u8], time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        let number = self.request(kind, path)?;
        loop {
            let (of, outcome) = self.answer(end.saturating_duration_since(Instant::now()))?;
            if of == number {
                return outcome;
            }
        }
    }

    /// Ends the notifier by closing its channel, by force after `time`. If it is still held inside the mount then,
    /// it is left to end with the mount (kind `TimedOut`).
    pub fn stop(&mut self, time: Duration) -> io::Result<()> {
        self.channel = None;
        let end = Instant::now() + time;
        let mut killed = false;
        loop {
            if self.process.try_wait()?.is_some() {
                return Ok(());
            }
            if Instant::now() >= end {
                if killed {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                self.process.kill()?;
                killed = true;
            }
            std::thread::sleep(Duration::from_millis(if killed { 20 } else { 1 }));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // A notifier that ends on its own does so at once.
        let _ = self.stop(Duration::from_millis(200));
    }
}

/// In the notifier: the mount's clone and the channel, as [`spawn`] placed them.
///
/// # Errors
/// Kind `InvalidInput` if they are not there: somebody typed the hidden argument.
pub fn inherited() -> io::Result<(OwnedFd, OwnedFd)> {
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, "this is started by wardfs itself");
    // Nothing is asked of the mount: nobody serves it yet.
    // SAFETY: F_GETFD takes integers only; a closed descriptor is EBADF.
    if unsafe { libc::fcntl(ROOT_FD, libc::F_GETFD) } == -1 {
        return Err(refused());
    }
    // SAFETY: an all-zero stat is a valid buffer.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is writable and outlives the call; a closed descriptor is EBADF.
    let told = unsafe { libc::fstat(CHANNEL_FD, &mut stat) } == 0;
    if !told || stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
        return Err(refused());
    }
    // SAFETY: both are open (checked above), were placed for this process alone, and are taken once, at its start.
    Ok(unsafe { (OwnedFd::from_raw_fd(ROOT_FD), OwnedFd::from_raw_fd(CHANNEL_FD)) })
}

/// The notifier's life: gives up every privilege, then serves `commands` until the other end is closed.
pub fn run(root: OwnedFd, commands: OwnedFd) -> io::Result<()> {
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGPIPE,
        libc::SIGUSR1,
        libc::SIGUSR2,
    ] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    harden::no_dumps()?;
    harden::drop_capabilities(&[])?;
    serve(&root, &Connection::from_fd(commands))
}

fn serve(root: &OwnedFd, channel: &Connection) -> io::Result<()> {
    let mut packet = vec![0; 5 + MAX_PATH];
    loop {
        let len = match channel.recv(&mut packet, None) {
            Ok(message) if message.truncated => continue,
            Ok(message) => message.len,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e),
        };
        let [kind, a, b, c, d, path @ ..] = &packet[..len] else {
            continue;
        };
        let outcome = match Kind::from_byte(*kind) {
            Some(kind) => perform(root, kind, path),
            None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let errno = outcome.map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |()| 0);
        let answer = [&[*a, *b, *c, *d][..], &errno.to_le_bytes()].concat();
        match channel.send(&answer) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
}

/// Where a touch writes. Each write makes void what the kernel was answered about the file at that time, and raises
/// the size that it keeps to the end of the write: beyond every value, as a size that runs high for a moment harms no
/// reader, while one left low by an answer that became void would cut his value short.
const TOUCH_AT: u64 = 1024 * 1024 - 1;

fn perform(root: &OwnedFd, kind: Kind, path: &[u8]) -> io::Result<()> {
    let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    match kind {
        Kind::Modified => {
            let file = File::from(open_beneath(root.as_fd(), &c_string(path)?, libc::O_WRONLY)?);
            file.write_all_at(b"\n", TOUCH_AT)
        }
        Kind::Created => {
            let (parent, name) = parent_of(root, path)?;
            // SAFETY: the name is NUL-terminated and outlives the call.
            let ret = unsafe { libc::mknodat(parent.as_raw_fd(), name.as_ptr(), libc::S_IFREG | 0o600, 0) };
            checked(ret.into())?;
            Ok(())
        }
        Kind::Deleted => {
            let (parent, name) = parent_of(root, path)?;
            // SAFETY: the name is NUL-terminated and outlives the call.
            checked(unsafe { libc::unlinkat(parent.as_raw_fd(), name.as_ptr(), 0) }.into())?;
            Ok(())
        }
        Kind::Probe => {
            let place;
            let fd = if path.is_empty() {
                root.as_fd()
            } else {
                place = open_beneath(root.as_fd(), &c_string(path)?, libc::O_PATH)?;
                place.as_fd()
            };
            super::statx(fd, libc::AT_STATX_FORCE_SYNC, libc::STATX_BASIC_STATS)?;
            Ok(())
        }
    }
}

/// The directory that holds `path`, and the last component.
fn parent_of(root: &OwnedFd, path: &[u8]) -> io::Result<(OwnedFd, CString)> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let name = CString::new(path.file_name().ok_or_else(invalid)?.as_bytes()).map_err(|_| invalid())?;
    let parent = match path.parent().map(|p| p.as_os_str().as_bytes()) {
        None | Some(b"") => &b"."[..],
        Some(parent) => parent,
    };
    let parent = CString::new(parent).map_err(|_| invalid())?;
    Ok((
        open_beneath(root.as_fd(), &parent, libc::O_PATH | libc::O_DIRECTORY)?,
        name,
    ))
}

/// Opens what lies below `root` and nothing else: no link, no `..` out of it, no other mount.
fn open_beneath(root: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: an all-zero open_how is valid: it has integers only.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    // SAFETY: path and struct outlive the call, and the struct's size is given.
    let fd = checked(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &how,
            size_of::<libc::open_how>(),
        )
    })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests;
