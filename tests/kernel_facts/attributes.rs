//! What a program is shown of a file and what the kernel keeps of it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::fs::*;
use super::support::*;
use super::{A, TEXT, deadline};

/// Nobody's uid.
const NOBODY: u32 = 2_147_000_000;

/// The owner and size that the kernel keeps: it asks nobody.
fn kept(path: &Path) -> (u32, u64) {
    let node = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .expect("O_PATH");
    // SAFETY: an all-zero statx is valid; the empty path and the buffer outlive the call.
    unsafe {
        let mut buffer: libc::statx = std::mem::zeroed();
        let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
        let all = libc::STATX_BASIC_STATS;
        assert_eq!(
            libc::statx(node.as_raw_fd(), c"".as_ptr(), flags, all, &mut buffer),
            0
        );
        (buffer.stx_uid, buffer.stx_size)
    }
}

fn lease(file: &File) -> bool {
    // SAFETY: the descriptor is open; a lease that is taken goes with it.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0 }
}

/// A world in which look-ups answer nobody's ownership, and a stat its caller's own; before it is answered `before`
/// runs.
fn world(before: impl Fn() + Send + Sync + 'static) -> (std::sync::Arc<World>, TempMount) {
    let (world, mount) = super::mounted();
    world.rule(move |s| match (s.op.as_str(), s.fh) {
        ("GETATTR", None) => {
            before();
            Answer::Owner(s.uid)
        }
        ("LOOKUP" | "GETATTR", _) => Answer::Owner(NOBODY),
        _ => Answer::Usual,
    });
    (world, mount)
}

/// "the kernel drops an answer older than the inode's attribute version while still showing it": INVAL_INODE with a
/// negative offset, sent before the answer to a GETATTR, raises that version. And without it the answer sticks, and its
/// caller is the owner, who may take a lease.
#[test]
fn an_answer_older_than_the_attribute_version_is_shown_and_not_kept() {
    let _deadline = deadline("shown, not kept");
    for voided in [false, true] {
        let notifier = std::sync::Arc::new(std::sync::OnceLock::<fuser::Notifier>::new());
        let for_rule = notifier.clone();
        let (_world, mount) = world(move || {
            if voided && let Some(notifier) = for_rule.get() {
                notifier
                    .inval_inode(fuser::INodeNo(VALUE), -1, 0)
                    .expect("INVAL_INODE");
            }
        });
        let _ = notifier.set(mount.notifier());
        let path = mount.join("value");
        let (shown, leased, by_descriptor) = Run::uid(A).call(|| {
            let file = File::open(&path).expect("open");
            let by_descriptor = file.metadata().expect("fstat").uid();
            let shown = std::fs::metadata(&path).expect("stat").uid();
            let stays = std::fs::metadata(&path).expect("stat").uid();
            assert_eq!(shown, stays);
            (shown, lease(&file), by_descriptor)
        });
        assert_eq!((shown, by_descriptor), (A, A));
        assert_eq!(leased, !voided);
        // O_PATH looked up anew, and that sticks.
        assert_eq!(kept(&path), (NOBODY, TEXT.len() as u64));
    }
}

/// "the SETATTR reply sets i_size whatever the versions", also of a question that was made void.
#[test]
fn the_answer_to_a_setattr_sets_the_size_that_is_kept() {
    let _deadline = deadline("SETATTR sets the size");
    let notifier = std::sync::Arc::new(std::sync::OnceLock::<fuser::Notifier>::new());
    let for_rule = notifier.clone();
    let (world, mount) = super::mounted();
    let _ = notifier.set(mount.notifier());
    world.rule(move |s| match s.op.as_str() {
        "SETATTR" => {
            let notifier = for_rule.get().expect("set");
            notifier
                .inval_inode(fuser::INodeNo(VALUE), -1, 0)
                .expect("INVAL_INODE");
            Answer::Size(5000)
        }
        _ => Answer::Size(10),
    });
    let path = mount.join("value");
    let node = sys::openat(&File::open(mount.path()).expect("open"), "value", libc::O_PATH).expect("O_PATH");
    set_time(&node, libc::UTIME_NOW, libc::UTIME_OMIT);
    let size = |node: &OwnedFd| {
        // SAFETY: as in `kept`.
        unsafe {
            let mut buffer: libc::statx = std::mem::zeroed();
            let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
            let mask = libc::STATX_BASIC_STATS;
            assert_eq!(
                libc::statx(node.as_raw_fd(), c"".as_ptr(), flags, mask, &mut buffer),
                0
            );
            buffer.stx_size
        }
    };
    assert_eq!(size(&node), 5000);
    assert_eq!(kept(&path).1, 10, "a later look-up counts again");
}

fn set_time(node: &OwnedFd, access: i64, modification: i64) {
    let time = |tv_nsec| libc::timespec { tv_sec: 0, tv_nsec };
    let times = [time(access), time(modification)];
    // SAFETY: the empty path and both times outlive the call.
    let set = unsafe {
        libc::utimensat(
            node.as_raw_fd(),
            c"".as_ptr(),
            times.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// "`utimensat(mtime)` under a lease: IN_MODIFY on file and directory; lease untouched"; "atime only raises just
/// IN_ACCESS"; "`open(O_WRONLY|O_NONBLOCK)` under a read lease: EAGAIN".
#[test]
fn setting_a_time_raises_modify_and_waits_for_no_lease() {
    let _deadline = deadline("utimensat and leases");
    let (world, mount) = super::mounted();
    world.rule(|s| match s.op.as_str() {
        "LOOKUP" | "GETATTR" | "SETATTR" => Answer::Owner(A),
        _ => Answer::Usual,
    });
    let path = mount.join("value");
    let (ours, theirs) = socket_pair();
    let holder = Run::uid(A).start(|| {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        let file = File::open(&path).expect("open");
        let taken = lease(&file);
        nix::unistd::write(&theirs, b"t").expect("say so");
        sys::read(&theirs, 1).expect("go on");
        // SAFETY: the descriptor is open.
        let kind = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
        nix::unistd::write(&theirs, b"k").expect("say so");
        sys::read(&theirs, 1).expect("over");
        (taken, kind)
    });
    sys::read(&ours, 1).expect("taken");
    let watch = sys::Inotify::new();
    watch.watch(&path).expect("watch");
    let masks = || watch.events().iter().fold(0, |all, (_, mask, _)| all | mask);
    let node = sys::openat(&File::open(mount.path()).expect("open"), "value", libc::O_PATH).expect("O_PATH");
    set_time(&node, libc::UTIME_NOW, libc::UTIME_OMIT);
    assert_eq!(masks(), libc::IN_ACCESS);
    set_time(&node, libc::UTIME_OMIT, libc::UTIME_NOW);
    assert_eq!(masks(), libc::IN_MODIFY);
    nix::unistd::write(&ours, b"g").expect("say so");
    sys::read(&ours, 1).expect("looked");
    let opened = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", node.as_raw_fd()));
    assert_eq!(opened.map(drop).map_err(super::errno), Err(libc::EAGAIN));
    nix::unistd::write(&ours, b"o").expect("say so");
    assert_eq!(holder.join(), (true, libc::F_RDLCK));
}
