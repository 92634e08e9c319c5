//! A FUSE mount for one test, without fuser's own mounting.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use fuser::{BackgroundSession, Config, Filesystem, Notifier, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::run::test_key;

/// Live mounts as (test, path), for the deadline.
static LIVE: Mutex<Vec<(u64, PathBuf)>> = Mutex::new(Vec::new());

/// Held while a child is forked: a copy that is locked by a thread which the child does not have would never open.
pub(super) fn still() -> std::sync::MutexGuard<'static, Vec<(u64, PathBuf)>> {
    LIVE.lock().unwrap_or_else(|e| e.into_inner())
}

thread_local! {
    static PRIVATE: Cell<bool> = const { Cell::new(false) };
}

/// Gives the calling thread a mount namespace of its own in which nothing propagates; once per thread.
///
/// Threads and processes that it starts afterwards share the namespace. It goes with the last of them.
pub fn private_mounts() {
    PRIVATE.with(|done| {
        if !done.replace(true) {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare(CLONE_NEWNS)");
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .expect("make all mounts private");
        }
    });
}

/// Aborts every mount of the test `key`: calls that wait in them return with an error.
pub(super) fn abort_all(key: u64) {
    for (owner, path) in LIVE.lock().unwrap_or_else(|e| e.into_inner()).iter() {
        if *owner == key {
            let _ = umount2(path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        }
    }
}

/// A mounted file system, unmounted (by force) and its directory removed when this is dropped.
pub struct TempMount {
    dir: tempfile::TempDir,
    session: Option<BackgroundSession>,
}

impl TempMount {
    /// Mounts `filesystem` with `allow_other`, served by `threads` threads of this process.
    #[track_caller]
    pub fn new<F: Filesystem>(filesystem: F, threads: usize) -> TempMount {
        let (mut made, fd) = TempMount::unserved("");
        made.serve(filesystem, fd, threads);
        made
    }

    /// Serves a mount that [`TempMount::unserved`] made. Returns when INIT has been answered.
    #[track_caller]
    pub fn serve<F: Filesystem>(&mut self, filesystem: F, fd: OwnedFd, threads: usize) {
        let mut config = Config::default();
        config.n_threads = Some(threads);
        let session =
            Session::from_fd(filesystem, fd, SessionACL::All, config).expect("handshake with the kernel");
        self.session = Some(session.spawn().expect("start serving"));
    }

    /// Mounts without serving: whoever reads the returned device descriptor is the daemon.
    /// `more` is added to the mount options, with its leading comma.
    #[track_caller]
    pub fn unserved(more: &str) -> (TempMount, OwnedFd) {
        super::require_root();
        private_mounts();
        let dir = tempfile::Builder::new()
            .prefix("fact-")
            .tempdir()
            .expect("temporary directory");
        // Everybody must be able to walk to the mount.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("chmod");
        let path = dir.path().join("mnt");
        std::fs::create_dir(&path).expect("mkdir");
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("/dev/fuse");
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,allow_other{more}",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("fact"),
            &path,
            Some("fuse.fact"),
            flags,
            Some(options.as_str()),
        )
        .expect("mount(2)");
        LIVE.lock()
            .unwrap_or_else(|e| e.into_inner())
            .push((test_key(), path));
        (TempMount { dir, session: None }, OwnedFd::from(device))
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A path under the mount.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A directory beside the mount, for the test's other files; made if need be, open to all.
    pub fn beside(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).expect("mkdir");
        path
    }

    /// Sends notifications to the kernel; only for a served mount.
    #[track_caller]
    pub fn notifier(&self) -> Notifier {
        self.session.as_ref().expect("a served mount").notifier()
    }

    /// Whether the serving threads have all ended.
    pub fn stopped_serving(&self) -> bool {
        self.session.as_ref().is_none_or(|s| s.guard.is_finished())
    }

    /// The connection's number under `/sys/fs/fuse/connections`: the minor of the mount's device number.
    pub fn connection(&self) -> u64 {
        let wanted = self.path();
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        let line = table
            .lines()
            .find(|l| l.split(' ').nth(4).is_some_and(|p| Path::new(p) == wanted));
        let device = line
            .and_then(|l| l.split(' ').nth(2))
            .expect("the mount is in mountinfo");
        device
            .split(':')
            .nth(1)
            .and_then(|minor| minor.parse().ok())
            .expect("major:minor")
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        let path = self.path();
        // Force aborts the connection, so that whoever waits in it returns; detach works with files open.
        while umount2(&path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).is_ok() {}
        LIVE.lock()
            .unwrap_or_else(|e| e.into_inner())
            .retain(|(_, live)| *live != path);
        if let Some(session) = self.session.take() {
            let start = std::time::Instant::now();
            while !session.guard.is_finished() && start.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if session.guard.is_finished() {
                // Its error, if any, is that the connection is gone.
                let _ = session.join();
            }
        }
    }
}
