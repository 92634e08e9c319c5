//! The notifier's way of telling inotify watchers: a private writable clone of a read-only mount.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::fs::*;
use super::support::*;
use super::{A, TEXT, deadline, errno};

/// A mount that is read-only in public, and the writable clone of it. In this order nobody needs to serve:
/// the session starts last.
fn public_and_private() -> (std::sync::Arc<World>, TempMount, OwnedFd) {
    let world = World::new(TEXT);
    let (mut mount, device) = TempMount::unserved("");
    let clone = sys::clone_mount(&mount.path()).expect("open_tree");
    sys::make_read_only(&mount.path()).expect("mount_setattr");
    mount.serve(FactFs(world.clone()), device, 2);
    (world, mount, clone)
}

/// What the notifier does for a changed value.
fn touch(clone: &OwnedFd) -> Result<(), i32> {
    let file = sys::openat(clone, "value", libc::O_WRONLY | libc::O_NOFOLLOW).map_err(errno)?;
    let written = sys::pwrite(&file, b"x", 0).map_err(errno)?;
    if written == 1 { Ok(()) } else { Err(libc::EIO) }
}

fn ops(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|s| s.op.as_str()).collect()
}

/// The masks of the events with this name.
fn masks(events: &[(i32, u32, String)], name: &str) -> BTreeSet<u32> {
    events.iter().filter(|e| e.2 == name).map(|e| e.1).collect()
}

const WRITTEN: [u32; 3] = [libc::IN_MODIFY, libc::IN_CLOSE_WRITE, libc::IN_OPEN];

/// "The public mount can be `ro,nosuid,nodev,noexec` for everyone (`mount_setattr`) while the daemon keeps a private
/// writable clone of it (`open_tree(OPEN_TREE_CLONE)`)". Neither call asks the daemon anything, so both can be
/// made before anyone serves.
#[test]
fn cloning_and_sealing_a_mount_ask_the_daemon_nothing() {
    let _deadline = deadline("clone and seal");
    let (world, mount, _clone) = public_and_private();
    assert_eq!(world.seen(), []);
    let again = sys::clone_mount(&mount.path()).expect("open_tree of a served mount");
    drop(again);
    assert_eq!(world.seen(), []);
}

/// "events made through the private clone reach watchers on the public one"; "A write+close on a stable inode keeps
/// file watchers alive". The daemon sees LOOKUP, OPEN, WRITE, FLUSH from the notifier's thread, and RELEASE.
#[test]
fn a_write_through_the_clone_reaches_watchers_of_file_and_directory() {
    let _deadline = deadline("events");
    let (world, mount, clone) = public_and_private();
    let watch = sys::Inotify::new();
    watch.watch(&mount.join("value")).expect("watch the file");
    watch.watch(&mount.path()).expect("watch the directory");
    for _ in 0..3 {
        world.clear();
        let notifier = Run::root().start(|| touch(&clone));
        let pid = notifier.pid();
        assert_eq!(notifier.join(), Ok(()));
        world.wait_for("RELEASE", |s| s.op == "RELEASE");
        let seen = world.seen();
        assert_eq!(ops(&seen), ["LOOKUP", "OPEN", "WRITE", "FLUSH", "RELEASE"]);
        assert!(seen[..4].iter().all(|s| (s.uid, s.pid) == (0, pid)), "{seen:?}");
        assert_eq!((seen[2].offset, seen[2].size), (0, 1));
        let events = watch.events();
        assert_eq!(
            masks(&events, "value"),
            BTreeSet::from(WRITTEN),
            "directory: {events:?}"
        );
        assert_eq!(masks(&events, ""), BTreeSet::from(WRITTEN), "file: {events:?}");
    }
}

/// The one byte written changes neither size nor time for anybody, unless the daemon says so.
#[test]
fn a_write_at_offset_0_leaves_size_and_mtime_to_the_daemon() {
    let _deadline = deadline("size and mtime");
    let (_world, mount, clone) = public_and_private();
    let file = std::fs::File::open(mount.join("value")).expect("open");
    let before = file.metadata().expect("fstat");
    assert_eq!(Run::root().call(|| touch(&clone)), Ok(()));
    for after in [
        file.metadata().expect("fstat"),
        std::fs::metadata(mount.join("value")).expect("stat"),
    ] {
        assert_eq!(
            (after.len(), after.modified().unwrap()),
            (before.len(), before.modified().unwrap())
        );
    }
    assert_eq!(sys::lseek(&file, 0, libc::SEEK_END).unwrap(), TEXT.len() as i64);
    assert_eq!(sys::pread(&file, 100, 0).unwrap(), TEXT);
}

/// "Operations made through the VFS do [raise events]": mknod and unlink through the clone are CREATE and DELETE for
/// watchers of the public directory. The daemon answers a LOOKUP of the name in between.
#[test]
fn mknod_and_unlink_through_the_clone_are_create_and_delete_events() {
    let _deadline = deadline("create and delete");
    let (world, mount, clone) = public_and_private();
    let watch = sys::Inotify::new();
    watch.watch(&mount.path()).expect("watch the directory");
    let done = Run::root().call(|| {
        sys::mknodat(&clone, "transient").map_err(errno)?;
        sys::unlinkat(&clone, "transient").map_err(errno)
    });
    assert_eq!(done, Ok(()));
    assert_eq!(
        masks(&watch.events(), "transient"),
        BTreeSet::from([libc::IN_CREATE, libc::IN_DELETE])
    );
    let seen: Vec<Seen> = world
        .seen()
        .into_iter()
        .filter(|s| s.name == "transient")
        .collect();
    assert_eq!(ops(&seen), ["LOOKUP", "MKNOD", "LOOKUP", "UNLINK"]);
}

/// "writes from any other process are EROFS": through the public mount nobody's write reaches the daemon. But root can
/// make a writable clone of his own, or remount: those opens arrive, and only their pid tells them apart.
#[test]
fn root_can_write_through_a_clone_of_his_own_and_must_be_refused_by_pid() {
    let _deadline = deadline("own clone");
    let (world, mount_, _clone) = public_and_private();
    let (path, value) = (mount_.path(), mount_.join("value"));
    let write = |path: &std::path::Path| {
        std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .map(drop)
            .map_err(errno)
    };
    for who in [Run::uid(A), Run::root()] {
        let (open, create) = who.call(|| {
            (
                write(&value),
                std::fs::File::create(path.join("new")).map(drop).map_err(errno),
            )
        });
        assert_eq!((open, create), (Err(libc::EROFS), Err(libc::EROFS)));
    }
    assert!(world.of("OPEN").is_empty());
    assert_eq!(
        Run::uid(A).call(|| sys::clone_mount(&path).map(drop).map_err(errno)),
        Err(libc::EPERM)
    );
    world.rule(|s| {
        let writes = s.flags & libc::O_ACCMODE != libc::O_RDONLY;
        if s.op == "OPEN" && writes {
            Answer::Errno(libc::EROFS)
        } else {
            Answer::Usual
        }
    });
    let own = Run::root().call(|| {
        let clone = sys::clone_mount(&path).map_err(errno)?;
        sys::make_clone_writable(&clone).map_err(errno)?;
        touch(&clone)
    });
    assert_eq!(own, Err(libc::EROFS), "refused by the daemon");
    let remounted = Run::root().call(|| {
        mount(
            None::<&str>,
            &path,
            None::<&str>,
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|e| e as i32)?;
        write(&value)
    });
    assert_eq!(remounted, Err(libc::EROFS));
    assert_eq!(world.of("OPEN").len(), 2, "both reached the daemon");
}

/// "After `umount` a held clone keeps daemon and connection alive: watch mountinfo".
#[test]
fn a_held_clone_keeps_the_connection_after_umount() {
    let _deadline = deadline("held clone");
    let (_world, mount_, clone) = public_and_private();
    umount2(&mount_.path(), MntFlags::empty()).expect("umount, not even busy");
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(mount_.path().to_str().unwrap()));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!mount_.stopped_serving());
    assert_eq!(Run::root().call(|| touch(&clone)), Ok(()), "still served");
    drop(clone);
    wait_until(
        Duration::from_secs(5),
        "the loops end with the last clone",
        || mount_.stopped_serving(),
    );
}

/// "Who watches a directory by inotify gets OPEN, ACCESS and CLOSE events with names, also of files that it cannot look
/// up"; "Answering LOOKUP with an error for a denied caller also stops it from placing an inotify watch".
#[test]
fn a_directory_watcher_sees_names_that_it_cannot_look_up() {
    let _deadline = deadline("names");
    let (world, mount, _clone) = public_and_private();
    world.rule(|s| {
        if s.op == "LOOKUP" && s.uid == A {
            Answer::Errno(libc::EACCES)
        } else {
            Answer::Usual
        }
    });
    let (dir, value) = (mount.path(), mount.join("value"));
    let watcher = Run::uid(A).start(|| {
        let watch = sys::Inotify::new();
        let file = watch.watch(&value).map_err(errno);
        watch.watch(&dir).expect("watch the directory");
        let mut names = BTreeSet::new();
        wait_until(Duration::from_secs(5), "events", || {
            names.extend(watch.events().into_iter().map(|e| (e.1, e.2)));
            names
                .iter()
                .any(|e| e.0 == libc::IN_CLOSE_NOWRITE && e.1 == "value")
        });
        (file, names)
    });
    // The watcher's own LOOKUP is its last request before it waits.
    world.wait_for("the watcher is there", |s| s.op == "LOOKUP" && s.uid == A);
    let mut seen = None;
    for _ in 0..50 {
        let _ = std::fs::read(mount.join("value"));
        std::thread::sleep(Duration::from_millis(5));
        if !std::fs::read_to_string(format!("/proc/{}/status", watcher.pid()))
            .is_ok_and(|s| s.contains("State:\tS"))
        {
            break;
        }
    }
    seen.replace(watcher.join());
    let (file, names) = seen.unwrap();
    assert_eq!(file, Err(libc::EACCES));
    for mask in [libc::IN_OPEN, libc::IN_ACCESS, libc::IN_CLOSE_NOWRITE] {
        assert!(names.contains(&(mask, "value".into())), "{names:?}");
    }
}
