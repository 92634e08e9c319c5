//! Forked children with chosen credentials.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

thread_local! {
    static KEY: Cell<u64> = const { Cell::new(0) };
}
static NEXT_KEY: AtomicU64 = AtomicU64::new(1);
/// Live children as (test, pid), for the deadline.
static LIVE: Mutex<Vec<(u64, libc::pid_t)>> = Mutex::new(Vec::new());

/// Identifies the test that this thread runs; made when first asked for.
pub(super) fn test_key() -> u64 {
    KEY.with(|key| {
        if key.get() == 0 {
            key.set(NEXT_KEY.fetch_add(1, Ordering::Relaxed));
        }
        key.get()
    })
}

/// Makes a helper thread part of the test `key`.
pub(super) fn adopt_test_key(key: u64) {
    KEY.with(|mine| mine.set(key));
}

/// SIGKILLs every live child of the test `key`.
pub(super) fn kill_all(key: u64) {
    for &(owner, pid) in LIVE.lock().unwrap_or_else(|e| e.into_inner()).iter() {
        if owner == key {
            // SAFETY: the pid is a child that has not been reaped, so it names no other process.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// Gives the calling **thread** these real, effective, saved and file system ids and exactly these groups.
///
/// Raw system calls: the C library's own wrappers would change every thread of the process.
pub fn become_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let check = |rc: libc::c_long| {
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the pointer and length describe `groups`; the others take numbers only.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
    }
}

/// Sets the calling thread's fsuid and fsgid alone, as an NFS server or a container runtime does.
pub fn set_fsids(uid: u32, gid: u32) {
    // SAFETY: numbers only; the calls report nothing, so the second pair reads the result back.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        assert_eq!(
            libc::syscall(libc::SYS_setfsgid, u32::MAX),
            gid as i64,
            "setfsgid was refused"
        );
        assert_eq!(
            libc::syscall(libc::SYS_setfsuid, u32::MAX),
            uid as i64,
            "setfsuid was refused"
        );
    }
}

/// Who a forked child shall be.
///
/// ```ignore
/// let seen: Result<String, i32> = Run::uid(61001).group(70001).call(|| read_file(path));
/// ```
#[derive(Clone, Debug)]
pub struct Run {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    limit: Duration,
    keep_device: bool,
}

impl Run {
    /// A child with this uid, the gid of the same number and no supplementary groups.
    pub fn uid(uid: u32) -> Run {
        Run {
            uid,
            gid: uid,
            groups: Vec::new(),
            limit: Duration::from_secs(10),
            keep_device: false,
        }
    }

    /// A child that keeps root's ids (and its capabilities), with no supplementary groups.
    pub fn root() -> Run {
        Run::uid(0)
    }

    /// Sets the primary group.
    pub fn gid(mut self, gid: u32) -> Run {
        self.gid = gid;
        self
    }

    /// Adds one supplementary group.
    pub fn group(mut self, gid: u32) -> Run {
        self.groups.push(gid);
        self
    }

    /// Keeps descriptors of `/dev/fuse`, which a child otherwise closes at once: each copy of one keeps the
    /// connection alive when its daemon dies.
    pub fn keep_device(mut self) -> Run {
        self.keep_device = true;
        self
    }

    /// How long [`Run::call`] and [`Child::join`] wait before they kill the child and fail (default 10 s).
    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// Runs `work` in a forked child with these ids and returns its result. A panic there is a panic here.
    #[track_caller]
    pub fn call<T: Serialize + DeserializeOwned>(&self, work: impl FnOnce() -> T) -> T {
        self.start(work).join()
    }

    /// Starts `work` in a forked child and does not wait for it.
    ///
    /// The child inherits all descriptors but those of `/dev/fuse`, and a copy of memory, but of all threads only this one: it must not
    /// wait for another thread of the test.
    pub fn start<T: Serialize + DeserializeOwned>(&self, work: impl FnOnce() -> T) -> Child<T> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
        let key = test_key();
        let mut live = LIVE.lock().unwrap_or_else(|e| e.into_inner());
        let mounts = super::mount::still();
        // SAFETY: the child runs `work` and ends by _exit; it never returns into the test harness.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", io::Error::last_os_error()),
            0 => {
                // The copied list is about the parent's children.
                live.clear();
                drop(live);
                drop(mounts);
                drop(read);
                if !self.keep_device {
                    close_devices();
                }
                let report = in_child(self, work);
                let mut out = File::from(write);
                let _ = out.write_all(&report);
                // SAFETY: ends the process at once, without the copied harness's exit handlers.
                unsafe { libc::_exit(0) }
            }
            pid => {
                live.push((key, pid));
                drop(live);
                drop(mounts);
                Child {
                    pid,
                    reaped: false,
                    pipe: read,
                    limit: self.limit,
                    result: std::marker::PhantomData,
                }
            }
        }
    }
}

/// Closes every descriptor of `/dev/fuse` of this process.
fn close_devices() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let devices: Vec<i32> = open
        .flatten()
        .filter(|e| std::fs::read_link(e.path()).is_ok_and(|p| p.as_os_str() == "/dev/fuse"))
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    for fd in devices {
        // SAFETY: the forked child never uses the copies of the parent's device descriptors.
        unsafe { libc::close(fd) };
    }
}

fn in_child<T: Serialize>(who: &Run, work: impl FnOnce() -> T) -> Vec<u8> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        become_ids(who.uid, who.gid, &who.groups).unwrap_or_else(|e| panic!("cannot become {who:?}: {e}"));
        // After the change of ids, which clears both. The child must not outlive the test's thread, and its
        // /proc entries belong to it, as a program's do that was executed with these ids.
        // SAFETY: numbers only.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(libc::PR_SET_DUMPABLE, 1);
        }
        work()
    }));
    let outcome: Result<T, String> = outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or("a panic without text".into())
    });
    serde_json::to_vec(&outcome).unwrap_or_default()
}

/// A running child. Dropped, it is killed and reaped.
pub struct Child<T> {
    pid: libc::pid_t,
    reaped: bool,
    pipe: OwnedFd,
    limit: Duration,
    result: std::marker::PhantomData<T>,
}

impl<T> Child<T> {
    /// Its process id, also the id of its only thread.
    pub fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        if !self.reaped {
            // SAFETY: the child has not been reaped, so the pid names it and no other process.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    /// Whether it has ended; reaps it if so.
    pub fn ended(&mut self) -> bool {
        if !self.reaped {
            let mut status = 0;
            // SAFETY: waits for our own child without blocking.
            let got = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
            if got == self.pid {
                self.forget();
            }
        }
        self.reaped
    }

    fn forget(&mut self) {
        self.reaped = true;
        LIVE.lock()
            .unwrap_or_else(|e| e.into_inner())
            .retain(|&(_, pid)| pid != self.pid);
    }

    fn end(&mut self, limit: Duration) {
        self.signal(libc::SIGKILL);
        let start = Instant::now();
        while !self.ended() && start.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl<T: DeserializeOwned> Child<T> {
    /// Waits for its result; kills it and panics when the limit is over, or with its own panic's text.
    #[track_caller]
    pub fn join(mut self) -> T {
        let mut bytes = Vec::new();
        let start = Instant::now();
        loop {
            let left = self.limit.saturating_sub(start.elapsed());
            let mut wait = libc::pollfd {
                fd: self.pipe.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one pollfd, as said.
            let n = unsafe { libc::poll(&mut wait, 1, left.as_millis() as i32) };
            assert!(
                n != 0,
                "the child {} gave no result within {:?}",
                self.pid,
                self.limit
            );
            let mut chunk = [0u8; 65536];
            let mut pipe = File::from(self.pipe.try_clone().expect("dup"));
            match pipe.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => panic!("reading the child's result: {e}"),
            }
        }
        while !self.ended() && start.elapsed() < self.limit + Duration::from_secs(1) {
            std::thread::sleep(Duration::from_micros(200));
        }
        match serde_json::from_slice::<Result<T, String>>(&bytes) {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => panic!("in the child: {panic}"),
            Err(_) => panic!("the child {} ended without a result (killed?)", self.pid),
        }
    }
}

impl<T> Drop for Child<T> {
    fn drop(&mut self) {
        // A child that waits in a mount ends only with its request; the mount's own guard sees to that.
        self.end(Duration::from_secs(2));
    }
}
