//! The process that has the control socket and all of its connections. A connection can bring descriptors whose end
//! is its maker's to delay, so the daemon has none: it has one channel to this process, which has no store, no key, no
//! device and no capability, keeps nothing that passes it, and may be lost and replaced.
//!
//! It says who the kernel says a peer is; what a request means, and who may make it, is the daemon's question.

pub mod frame;
mod serve;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::dir::Dir;
use super::socket::{Connection, Listener, Taking};
use super::{checked, harden};
use crate::id::Uid;
use frame::Kind;

/// The hidden argument that makes the program a front.
pub const ARGUMENT: &str = "__front";
/// Where a front finds its channel, and the directory for its socket.
const CHANNEL_FD: RawFd = 3;
const DIR_FD: RawFd = 4;

/// How a front listens.
#[derive(Debug, Clone)]
pub struct Place {
    /// The socket's directory.
    pub dir: Dir,
    /// Its name there.
    pub name: OsString,
    /// Whose connections are always taken.
    pub owner: Uid,
    /// How many connections all others may have together.
    pub strangers: usize,
}

/// Starts `exe ARGUMENT`: the process, and the daemon's end of the channel. The child gets an empty environment, no
/// descriptor but the channel and the directory of its socket, and is killed when the **calling thread** ends.
pub fn spawn(exe: &Path, place: &Place, taking: Taking) -> io::Result<(Child, Connection)> {
    let (ours, theirs) = Connection::pair()?;
    ours.limit_sending()?;
    let given = [theirs.as_fd().as_raw_fd(), place.dir.as_fd().as_raw_fd()];
    let mut command = Command::new(exe);
    command
        .arg(ARGUMENT)
        .arg(place.owner.0.to_string())
        .arg(place.strangers.to_string())
        .arg(if taking == Taking::Over { "over" } else { "free" })
        .arg(&place.name)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/");
    // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(move || place_given(given)) };
    Ok((command.spawn()?, ours))
}

/// In the new process: the channel and the directory to their places, all others to be closed by exec.
fn place_given([channel, dir]: [RawFd; 2]) -> io::Result<()> {
    // SAFETY: system calls with integers only, on descriptors that live until exec.
    unsafe {
        checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0).into())?;
        let channel = checked(libc::fcntl(channel, libc::F_DUPFD_CLOEXEC, 10).into())? as RawFd;
        let dir = checked(libc::fcntl(dir, libc::F_DUPFD_CLOEXEC, 10).into())? as RawFd;
        // Before it is placed: what stands at 3 may be the pipe by which exec's failure is told.
        checked(libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        ))?;
        checked(libc::dup2(channel, CHANNEL_FD).into())?;
        checked(libc::dup2(dir, DIR_FD).into())?;
    }
    Ok(())
}

/// The front's life, until the daemon's end closes the channel.
///
/// # Errors
/// Kind `InvalidInput` if somebody typed the hidden argument.
pub fn run(args: &[OsString]) -> io::Result<()> {
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, "this is started by wardfs itself");
    let [owner, strangers, taking, name] = args else {
        return Err(refused());
    };
    let number = |text: &OsString| {
        text.to_str()
            .and_then(|t| t.parse::<u32>().ok())
            .ok_or_else(refused)
    };
    let (owner, strangers) = (Uid(number(owner)?), number(strangers)? as usize);
    let taking = if taking == "over" {
        Taking::Over
    } else {
        Taking::Free
    };
    if !is(CHANNEL_FD, libc::S_IFSOCK) || !is(DIR_FD, libc::S_IFDIR) {
        return Err(refused());
    }
    // SAFETY: they are open (checked above), were placed for this process alone, and are taken once, at its start.
    let [channel, dir] = [CHANNEL_FD, DIR_FD].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let channel = Connection::from_fd(channel);
    // Once it listens, nothing leads it back to a file.
    let started = prepare(&Dir::from(dir), name, taking);
    match started {
        Ok((listener, buffer)) => serve::Front::new(channel, listener, buffer, (owner, strangers))?.run(),
        Err(e) => frame::send(&channel, Kind::Failed, 0, &[e.to_string().as_bytes()]),
    }
}

/// Whether a descriptor is open, and of this kind.
fn is(fd: RawFd, kind: libc::mode_t) -> bool {
    // SAFETY: an all-zero stat is a valid buffer.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is writable and outlives the call; a closed descriptor is EBADF.
    let told = unsafe { libc::fstat(fd, &mut stat) } == 0;
    told && stat.st_mode & libc::S_IFMT == kind
}

fn prepare(dir: &Dir, name: &OsStr, taking: Taking) -> io::Result<(Listener, crate::secret::SecretBytes)> {
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGPIPE,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGCHLD,
    ] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    harden::no_dumps()?;
    // Before the capability to lock memory is gone.
    let buffer = super::mem::secret(frame::MAX_FRAME + 1)?;
    // The key and the store are this user's. Where it may not, as without root, file permissions are what is left. What
    // it goes to lies over a directory that nobody but the system has a hand in.
    let _ = harden::leave_files(Path::new("/proc"));
    // What may hang above must not be what others connect to.
    let listener = Listener::bind(dir, name, taking)?;
    harden::drop_capabilities(&[])?;
    Ok((listener, buffer))
}
