//! The process that raises inotify events: it holds a private writable clone of the mount and the end of a
//! channel, and nothing else; no device, no store, no secret, no capability.
//!
//! It does on the mount what an application would: a file whose time is set, and which is opened for writing and closed,
//! raises `IN_MODIFY` and `IN_CLOSE_WRITE` for watchers of the file and of its directory. What these calls mean is for
//! the server to decide; the notifier reports their errno.
//!
//! Any of its calls may hang for good: whoever sleeps with a directory's lock holds up all who need it, beyond kill -9. So
//! each request is one thread's business, there are [`HELPERS`] of them, and who asks never waits without a limit.
//!
//! A request is a packet of the kind (1 byte), a number (4 bytes), a key (8 bytes) and the path relative to the mount's
//! root; its answer is the number and an errno (4 bytes each; 0 is success). Numbers are little-endian. A key that is not
//! 0 stands for a file that was kept ([`Kind::Keep`]) and is reached without its name.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::socket::Connection;
use super::{checked, harden};
use crate::id::{Pid, Tid};

/// The hidden argument that makes the program a notifier.
pub const ARGUMENT: &str = "__notifier";
/// Where a notifier finds its clone of the mount, and its channel.
const ROOT_FD: RawFd = 3;
const CHANNEL_FD: RawFd = 4;
/// Longest path that Linux takes.
const MAX_PATH: usize = 4096;
/// Threads of a notifier, and so requests that can be under way.
pub const HELPERS: usize = 32;

/// Its `nice`: before programs that keep every CPU busy.
const PRIORITY: i32 = -10;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Its value changed: `IN_MODIFY`, then `IN_CLOSE_WRITE`. Where somebody has a lease on the file, the second is
    /// EAGAIN, to be asked for again as [`Kind::Closed`]; the first waits for nobody.
    Modified = 1,
    /// It came to be: `IN_CREATE` in its directory.
    Created = 2,
    /// It ceased to be: `IN_DELETE` in its directory.
    Deleted = 3,
    /// Nothing: the server is to see a GETATTR that comes from the notifier.
    Probe = 4,
    /// The server is to say the size that the kernel keeps (SETATTR); no more than `IN_ACCESS` is raised.
    Raised = 5,
    /// `IN_CLOSE_WRITE` alone.
    Closed = 6,
    /// Nothing, and the mount is not touched: all threads are there.
    Ready = 7,
    /// The file is kept under the request's key.
    Keep = 8,
    /// The file under this key is kept no longer.
    Forget = 9,
    /// Two looks at the root, and one at what the kernel keeps of them: success if it is of the first, and the second
    /// showed a later time.
    ProbeShown = 10,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        let all = [
            Modified, Created, Deleted, Probe, Raised, Closed, Ready, Keep, Forget, ProbeShown,
        ];
        all.into_iter().find(|k| *k as u8 == byte)
    }
}

/// A running notifier. It ends when this is dropped.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    channel: Arc<Channel>,
}

/// Where requests go and answers come from; each may be a thread's of its own.
#[derive(Debug)]
pub struct Channel(Connection);

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
        channel: Arc::new(Channel(ours)),
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

impl Channel {
    /// Sends a request. `path` is relative to the mount's root.
    ///
    /// # Errors
    /// Kind `WouldBlock` if there is no room for it now: this never waits.
    pub fn request(&self, kind: Kind, number: u32, key: u64, path: &[u8]) -> io::Result<()> {
        if path.len() > MAX_PATH {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        let (number, key) = (number.to_le_bytes(), key.to_le_bytes());
        self.0.try_send(&[&[kind as u8], &number, &key, path])
    }

    /// The next answer: a request's number, and how it ended.
    ///
    /// # Errors
    /// Of the outer result: kind `TimedOut`; `UnexpectedEof` when the notifier has ended.
    pub fn answer(&self, time: Duration) -> io::Result<(u32, io::Result<()>)> {
        let mut packet = [0; 8];
        let got = self.0.recv(&mut packet, Some(time))?;
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

    /// Sends a request and waits for its answer, at most for `time`. Answers to other requests are dropped: for the
    /// beginning, when there are none.
    pub fn ask(&self, kind: Kind, path: &[u8], time: Duration) -> io::Result<()> {
        const NUMBER: u32 = 0;
        let end = Instant::now() + time;
        self.request(kind, NUMBER, 0, path)?;
        loop {
            let (of, outcome) = self.answer(end.saturating_duration_since(Instant::now()))?;
            if of == NUMBER {
                return outcome;
            }
        }
    }
}

impl Child {
    /// Its end of the channel.
    pub fn channel(&self) -> Arc<Channel> {
        self.channel.clone()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid(self.process.id())
    }

    /// Its threads, which its requests through the mount come from: all of them once it has answered, and then they live
    /// as long as it does.
    pub fn threads(&self) -> io::Result<Vec<Tid>> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()))?;
        tasks
            .map(|task| {
                let name = task?.file_name();
                let number = name.to_str().and_then(|n| n.parse().ok());
                number.map(Tid).ok_or_else(|| io::ErrorKind::InvalidData.into())
            })
            .collect()
    }

    /// Whether it has ended. Its pid stays its own all the same, until this is dropped.
    pub fn ended(&self) -> bool {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
    }

    /// Ends the notifier, whatever it is about, and waits for at most `time`. What of it is held inside the mount ends
    /// with whatever holds it (kind `TimedOut`).
    pub fn stop(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        // One that has been reaped is an error of no interest.
        let _ = self.process.kill();
        while self.process.try_wait()?.is_none() {
            if Instant::now() >= end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
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
    // A change waits for it; without privilege it waits a little longer.
    // SAFETY: integers only.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, PRIORITY) };
    harden::drop_capabilities(&[])?;
    serve_all(root, Connection::from_fd(commands))
}

/// Serves with all [`HELPERS`], none of which answers before all are there.
fn serve_all(root: OwnedFd, channel: Connection) -> io::Result<()> {
    let (hands, channel) = (Arc::new(Hands::at(root)), Arc::new(channel));
    let all = Arc::new(Barrier::new(HELPERS));
    for _ in 1..HELPERS {
        let (hands, channel, all) = (hands.clone(), channel.clone(), all.clone());
        // Never joined: it may hang in a call beyond any signal. The process ends with its first thread.
        let helper = std::thread::Builder::new()
            .name("notifier".into())
            .stack_size(128 << 10);
        helper.spawn(move || {
            all.wait();
            serve(&hands, &channel)
        })?;
    }
    all.wait();
    serve(&hands, &channel)
}

fn serve(hands: &Hands, channel: &Connection) -> io::Result<()> {
    let mut packet = vec![0; 13 + MAX_PATH];
    loop {
        let turn = hands.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let received = channel.recv(&mut packet, None);
        drop(turn);
        let len = match received {
            Ok(message) if message.truncated => continue,
            Ok(message) => message.len,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e),
        };
        let Some((&[kind, a, b, c, d, ref key @ ..], path)) = packet[..len].split_first_chunk::<13>() else {
            continue;
        };
        let outcome = match Kind::from_byte(kind) {
            Some(kind) => hands.perform(kind, u64::from_le_bytes(*key), path),
            None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let errno = outcome.map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |()| 0);
        let answer = [&[a, b, c, d][..], &errno.to_le_bytes()].concat();
        match channel.send(&answer) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
}

/// What the helpers share.
struct Hands {
    root: OwnedFd,
    kept: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    /// Who waits for the next request: one, so that one wakes.
    turn: Mutex<()>,
}

impl Hands {
    fn at(root: OwnedFd) -> Hands {
        Hands {
            root,
            kept: Mutex::default(),
            turn: Mutex::default(),
        }
    }
}

/// Which of a file's times is set to now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    Access,
    Modification,
}

impl Hands {
    fn perform(&self, kind: Kind, key: u64, path: &[u8]) -> io::Result<()> {
        match kind {
            Kind::Modified => {
                let node = self.node(key, path)?;
                set_time(&node, Time::Modification)?;
                open_and_close(&node)
            }
            Kind::Raised => set_time(&*self.node(key, path)?, Time::Access),
            Kind::Closed => open_and_close(&*self.node(key, path)?),
            Kind::Keep => {
                let node = self.node(0, path)?;
                self.kept().insert(key, node);
                Ok(())
            }
            Kind::Forget => {
                self.kept().remove(&key);
                Ok(())
            }
            Kind::Created => {
                let (parent, name) = parent_of(&self.root, path)?;
                // SAFETY: the name is NUL-terminated and outlives the call.
                let ret =
                    unsafe { libc::mknodat(parent.as_raw_fd(), name.as_ptr(), libc::S_IFREG | 0o600, 0) };
                checked(ret.into())?;
                Ok(())
            }
            Kind::Deleted => {
                let (parent, name) = parent_of(&self.root, path)?;
                // SAFETY: the name is NUL-terminated and outlives the call.
                checked(unsafe { libc::unlinkat(parent.as_raw_fd(), name.as_ptr(), 0) }.into())?;
                Ok(())
            }
            Kind::Probe => self.modified(path, libc::AT_STATX_FORCE_SYNC).map(drop),
            Kind::ProbeShown => {
                let [first, second] = [libc::AT_STATX_FORCE_SYNC; 2].map(|flag| self.modified(b"", flag));
                let (first, second) = (first?, second?);
                let kept = self.modified(b"", libc::AT_STATX_DONT_SYNC)?;
                match kept == first && second > first {
                    true => Ok(()),
                    false => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
                }
            }
            Kind::Ready => Ok(()),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<OwnedFd>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that is kept under `key`, or what is at `path`.
    fn node(&self, key: u64, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if key != 0
            && let Some(node) = self.kept().get(&key)
        {
            return Ok(node.clone());
        }
        let path = CString::new(path).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        open_beneath(self.root.as_fd(), &path, libc::O_PATH).map(Arc::new)
    }

    /// The time of modification, in seconds, that a look with this flag shows.
    fn modified(&self, path: &[u8], flag: i32) -> io::Result<i64> {
        let place;
        let fd = if path.is_empty() {
            self.root.as_fd()
        } else {
            place = self.node(0, path)?;
            place.as_fd()
        };
        Ok(super::statx(fd, flag, libc::STATX_BASIC_STATS)?.stx_mtime.tv_sec)
    }
}

/// `IN_MODIFY`, or `IN_ACCESS`: no lease makes this wait, and the size that the server answers is the one that the kernel
/// keeps from then on.
fn set_time(node: &OwnedFd, which: Time) -> io::Result<()> {
    let time = |set: bool| libc::timespec {
        tv_sec: 0,
        tv_nsec: if set { libc::UTIME_NOW } else { libc::UTIME_OMIT },
    };
    let times = [time(which == Time::Access), time(which == Time::Modification)];
    // SAFETY: both times and the empty path outlive the call.
    let ret = unsafe {
        libc::utimensat(
            node.as_raw_fd(),
            c"".as_ptr(),
            times.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    checked(ret.into()).map(drop)
}

/// `IN_CLOSE_WRITE`; EAGAIN, at once, where somebody has a lease, which breaks from then on.
fn open_and_close(node: &OwnedFd) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let by_descriptor = format!("/proc/self/fd/{}", node.as_raw_fd());
    let mut options = std::fs::File::options();
    options
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(by_descriptor).map(drop)
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
