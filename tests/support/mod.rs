//! What every test against a real mount needs, and nothing about any one of them.
//!
//! * [`require_root`]: one clear sentence instead of forty odd failures.
//! * [`Deadline`]: a test that hangs is cut short, its children and mounts included.
//! * [`Run`]: a closure in a forked child with chosen ids and groups; its result comes back as a value.
//! * [`pass_fd`], [`receive_fd`]: descriptors over a Unix socket.
//! * [`TempMount`]: a FUSE file system on a directory of its own, served by threads of this process.
//! * [`sys`]: the few system calls that neither std nor nix offers here, made safe.
//! * [`terminal`]: a command at a terminal of its own.
//! * [`pin_to_cpu`], [`wait_until`].
//!
//! Whatever these make is gone when the guard drops, also when the test panics. Mounts are made in a mount
//! namespace that belongs to the test's thread alone, so that not even `kill -9` leaves one behind.
// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod attackers;
pub mod disk;
pub mod etc;
pub mod many;
mod mount;
pub mod product;
pub mod rig;
mod run;
pub mod small;
mod status;
pub mod sys;
pub mod terminal;

pub use mount::{TempMount, private_mounts};
pub use run::{Child, Run, become_ids, set_fsids};
pub use status::status_kib;

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Fails the test with one sentence unless it runs as root and may open `/dev/fuse`.
///
/// There is no quiet skip: a fact that was not looked at is not known.
pub fn require_root() {
    static SETUP: Once = Once::new();
    // A peer that went away must be an error of the call, not the end of the test process.
    // SAFETY: changes one signal's disposition; SIG_IGN is a valid handler.
    SETUP.call_once(|| unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    });
    // SAFETY: no arguments, cannot fail.
    let euid = unsafe { libc::geteuid() };
    assert!(
        euid == 0,
        "these tests mount file systems and change uids: run them as root (effective uid is {euid})"
    );
    if let Err(e) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    {
        panic!("these tests need /dev/fuse (modprobe fuse, or pass the device to the container): {e}");
    }
}

/// Ends a test that takes too long.
///
/// When `limit` has passed, every [`Child`] of this test is killed and every [`TempMount`] is aborted, so that
/// blocked calls return and the test fails where it stands. If that does not help, the process aborts 5 s later.
pub struct Deadline {
    done: Arc<(Mutex<bool>, Condvar)>,
    struck: Arc<AtomicBool>,
}

impl Deadline {
    /// Starts the clock for the calling test thread. `what` is printed if it strikes.
    pub fn new(limit: Duration, what: &str) -> Deadline {
        require_root();
        private_mounts();
        let done = Arc::new((Mutex::new(false), Condvar::new()));
        let struck = Arc::new(AtomicBool::new(false));
        let (watched, flag, what) = (done.clone(), struck.clone(), what.to_owned());
        // The thread inherits this thread's mount namespace, so it can unmount what the test mounted.
        let owner = run::test_key();
        std::thread::spawn(move || {
            run::adopt_test_key(owner);
            let wait = |limit| {
                let guard = watched.0.lock().unwrap_or_else(|e| e.into_inner());
                *watched
                    .1
                    .wait_timeout_while(guard, limit, |done| !*done)
                    .unwrap_or_else(|e| e.into_inner())
                    .0
            };
            if wait(limit) {
                return;
            }
            flag.store(true, Ordering::SeqCst);
            eprintln!("{what}: not finished after {limit:?}; killing its children and aborting its mounts");
            run::kill_all(owner);
            mount::abort_all(owner);
            if !wait(Duration::from_secs(5)) {
                eprintln!("{what}: still hanging; aborting the test process");
                std::process::abort();
            }
        });
        Deadline { done, struck }
    }

    /// Whether the time is over.
    pub fn struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        *self.done.0.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.done.1.notify_all();
        if self.struck() && !std::thread::panicking() {
            panic!("the test ran into its deadline");
        }
    }
}

/// Polls `ready` every millisecond for at most `limit`; panics with `what` if it never holds.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Binds the calling thread to one CPU (numbered from 0, among those that this process may use).
pub fn pin_to_cpu(index: usize) -> std::io::Result<()> {
    // SAFETY: cpu_set_t is plain bits; the calls get its true size.
    unsafe {
        let mut may: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &mut may) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
            .filter(|&c| libc::CPU_ISSET(c, &may))
            .collect();
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpus[index % cpus.len()], &mut one);
        if libc::sched_setaffinity(0, size, &one) != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A connected pair of Unix datagram sockets, close-on-exec; both ends survive a fork.
pub fn socket_pair() -> (OwnedFd, OwnedFd) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .expect("socketpair")
}

/// Sends descriptor `fd` over `socket` with one byte of data (SCM_RIGHTS).
pub fn pass_fd(socket: &impl AsRawFd, fd: &impl AsRawFd) -> std::io::Result<()> {
    let fds = [fd.as_raw_fd()];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"f")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

/// Receives one descriptor that [`pass_fd`] sent.
pub fn receive_fd(socket: &impl AsRawFd) -> std::io::Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut iov = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        "no descriptor came with the message",
    ))
}

/// Where a program under `-C instrument-coverage` leaves its counts (`tests/errors`): kept in a clean environment.
pub fn coverage() -> Option<(&'static str, std::ffi::OsString)> {
    let name = "LLVM_PROFILE_FILE";
    Some((name, std::env::var_os(name)?))
}

/// The same for a program of this uid, which may not write what another has made.
pub fn coverage_of(uid: u32) -> Option<(&'static str, std::ffi::OsString)> {
    let (name, pattern) = coverage()?;
    let pattern = std::path::PathBuf::from(pattern);
    let mut file = std::ffi::OsString::from(format!("{uid}-"));
    file.push(pattern.file_name()?);
    Some((name, pattern.with_file_name(file).into_os_string()))
}

/// Whether the long half of the tests was asked for (`tests/run --long`).
pub fn long_run() -> bool {
    std::env::var("WARDFS_TEST_LONG").as_deref() == Ok("1")
}
