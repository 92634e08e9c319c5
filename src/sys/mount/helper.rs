//! Mounting without privilege, through `fusermount3` (fuse3's setuid helper): the mounting user alone sees the mount.
//!
//! This process sets `no_new_privs`, after which no setuid program helps it: who unmounts is a child that was started
//! before ([`keep`]), and that does so when its standard input ends, also by `kill -9` of this process. (The helper's
//! own `auto_unmount` takes away dead mounts only, and this one lives as long as its server.)

use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};

/// Where distributions put it. `PATH` is not asked: whoever sets it is not trusted with the mount.
const PLACES: [&str; 4] = [
    "/usr/bin/fusermount3",
    "/bin/fusermount3",
    "/usr/local/bin/fusermount3",
    "/run/wrappers/bin/fusermount3",
];
/// How long it may take to unmount.
const PATIENCE: Duration = Duration::from_secs(5);

/// The child that takes a mount away when this is dropped.
#[derive(Debug)]
pub struct Keeper(Child);

impl Keeper {
    /// From now on there is a mount to take away.
    fn arm(&mut self) -> io::Result<()> {
        match &mut self.0.stdin {
            Some(stdin) => stdin.write_all(b"m"),
            None => Ok(()),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let end = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn program() -> io::Result<PathBuf> {
    let fit = |path: &&&str| {
        std::fs::metadata(**path).is_ok_and(|m| m.is_file() && m.uid() == 0 && m.mode() & 0o4022 == 0o4000)
    };
    match PLACES.iter().find(fit) {
        Some(path) => Ok(PathBuf::from(path)),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "fusermount3 is not installed (Debian: apt-get install fuse3), and without root there is no other way",
        )),
    }
}

/// Mounts on `target`; gives the connected device, and what keeps the mount.
pub(super) fn mount(target: &Path, fsname: &str) -> io::Result<(OwnedFd, Keeper)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let program = program()?;
    // Before there is a mount: where no process can be had for it, nothing is left behind.
    let keeper = Command::new("/proc/self/exe")
        .arg(KEEP)
        .arg(target)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // A ^C at the terminal is for the server, which then unmounts by it.
        .process_group(0)
        .spawn();
    let mut keeper = Keeper(keeper?);
    // For the helper alone: what else holds it would keep the answer open that a helper that fails never gives.
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let options = format!("ro,nosuid,nodev,noexec,fsname={fsname},subtype=wardfs");
    let helper = Command::new(program)
        .args(["-o", &options, "--"])
        .arg(target)
        .env_clear()
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(theirs);
    let device = receive(&ours)?;
    if device.is_some() {
        keeper.arm()?;
    }
    let ended = helper.wait_with_output()?;
    match device.filter(|_| ended.status.success()) {
        Some(device) => Ok((device, keeper)),
        None => {
            let said = String::from_utf8_lossy(&ended.stderr);
            Err(io::Error::other(format!("fusermount3 refused: {}", said.trim())))
        }
    }
}

/// The hidden command that runs [`keep`].
pub const KEEP: &str = "__unmounter";

/// Waits until standard input ends. If anything was in it there is a mount of this user at `target`, and this becomes
/// the program that takes it away: for another process there may be no room.
///
/// # Errors
/// If there is no such program, or it cannot be run.
pub fn keep(target: &Path) -> io::Result<()> {
    match io::copy(&mut io::stdin().lock(), &mut io::sink())? {
        0 => Ok(()),
        _ => Err(unmounting(target)?.exec()),
    }
}

/// The descriptor that comes over the socket; `None` if the other side closes it.
fn receive(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just made it for this process, and nobody else owns it.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    Ok(None)
}

fn unmounting(target: &Path) -> io::Result<Command> {
    let mut command = Command::new(program()?);
    command
        .args(["-u", "-z", "--"])
        .arg(target)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null());
    Ok(command)
}

/// Takes away what a process that is gone has left mounted.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    let output = unmounting(target)?.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_string(),
        )),
    }
}
