//! Whose ids a request carries, and what /proc says about the blocked caller.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::fs::*;
use super::support::*;
use super::{A, B, TEXT, deadline, errno, mounted};

/// What /proc says about a thread.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub fsuid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
    pub comm: String,
    /// Field 9 of `/proc/TID/stat`.
    pub flags: u64,
}

/// Reads them; all zero where the thread is gone.
pub fn facts(tid: u32) -> Facts {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let row = |key: &str| -> Vec<u32> {
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(key))
            .unwrap_or_default();
        line.split_whitespace().filter_map(|n| n.parse().ok()).collect()
    };
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
    let (head, tail) = stat.rsplit_once(") ").unwrap_or_default();
    Facts {
        fsuid: row("Uid:").get(3).copied().unwrap_or_default(),
        fsgid: row("Gid:").get(3).copied().unwrap_or_default(),
        groups: row("Groups:"),
        comm: head.split_once('(').unwrap_or_default().1.to_owned(),
        flags: tail
            .split(' ')
            .nth(6)
            .and_then(|n| n.parse().ok())
            .unwrap_or_default(),
    }
}

/// Records the facts of the thread behind each request of kind `op`, while it is blocked in it.
fn watch(world: &World, op: &'static str) -> Arc<Mutex<Vec<(Seen, Facts)>>> {
    let found: Arc<Mutex<Vec<_>>> = Arc::default();
    let into = found.clone();
    world.rule(move |seen| {
        if seen.op == op {
            into.lock().unwrap().push((seen.clone(), facts(seen.pid)));
        }
        // Whoever asks owns the file; layers on top check its mode themselves.
        if seen.op == "LOOKUP" || seen.op == "GETATTR" {
            Answer::Owner(A)
        } else {
            Answer::Usual
        }
    });
    found
}

/// "A request's uid/gid are the caller's fsuid/fsgid; its pid is the thread id, not the process id".
#[test]
fn the_header_has_fsuid_fsgid_and_the_thread_id() {
    let _deadline = deadline("header ids");
    let (world, mount) = mounted();
    let path = mount.join("value");
    let (process, thread) = Run::root().call(|| {
        let reader = std::thread::spawn(move || {
            set_fsids(A, B);
            std::fs::read(&path).expect("read");
            sys::tid()
        });
        (std::process::id(), reader.join().unwrap())
    });
    assert_ne!(process, thread);
    for op in ["LOOKUP", "OPEN", "READ"] {
        let seen = world.of(op);
        assert!(
            !seen.is_empty() && seen.iter().all(|s| (s.uid, s.gid, s.pid) == (A, B, thread)),
            "{op}: {seen:?}"
        );
    }
}

/// "A direct READ on an inherited or passed fd carries the reader's ids, not the opener's".
#[test]
fn a_direct_read_on_a_passed_or_inherited_fd_carries_the_readers_ids() {
    let _deadline = deadline("passed fd");
    let (world, mount) = mounted();
    let path = mount.join("value");
    let (near, far) = socket_pair();
    Run::uid(A).call(|| pass_fd(&near, &File::open(&path).expect("open")).expect("send"));
    let got = Run::uid(B).call(|| sys::pread(&receive_fd(&far).expect("receive"), 100, 0).map_err(errno));
    assert_eq!(got.as_deref(), Ok(TEXT));
    let ids = |op| world.of(op).iter().map(|s| s.uid).collect::<Vec<_>>();
    assert_eq!((ids("OPEN"), ids("READ")), (vec![A], vec![B]));
    world.clear();
    let file = Run::root().call(|| {
        set_fsids(A, A);
        let file = File::open(&path).expect("open");
        set_fsids(0, 0);
        become_ids(B, B, &[]).unwrap();
        sys::pread(&file, 100, 0).is_ok()
    });
    assert!(file);
    assert_eq!((ids("OPEN"), ids("READ")), (vec![A], vec![B]));
}

/// "RELEASE, FORGET, INTERRUPT and INIT carry uid 0, gid 0, pid 0: never authorise or attribute on them".
#[test]
fn release_and_forget_carry_uid_0_and_pid_0() {
    let _deadline = deadline("release");
    let (world, mount) = mounted();
    let path = mount.join("value");
    Run::uid(A)
        .call(|| std::fs::read(&path).map(|_| ()).map_err(errno))
        .unwrap();
    let release = world.wait_for("RELEASE", |s| s.op == "RELEASE");
    assert_eq!((release.uid, release.gid, release.pid), (0, 0, 0));
    let flush = world.of("FLUSH");
    assert!(flush.iter().all(|s| s.uid == A), "a FLUSH is the closer's own");
    // An entry that is looked up and refused leaves the dentry to be dropped.
    world.rule(|s| {
        if s.op == "LOOKUP" {
            Answer::Errno(libc::ENOENT)
        } else {
            Answer::Usual
        }
    });
    let _ = std::fs::metadata(&path);
    let forget = world.wait_for("FORGET", |s| s.op == "FORGET");
    assert_eq!((forget.uid, forget.gid, forget.pid), (0, 0, 0));
}

/// "Supplementary groups are not in the request. While the caller is blocked … /proc/TID/status (Groups, and the
/// fsuid/fsgid columns) is safe to read before the reply".
#[test]
fn groups_of_the_blocked_caller_are_in_proc_and_follow_setgroups() {
    let _deadline = deadline("groups");
    let (world, mount) = mounted();
    let found = watch(&world, "READ");
    let path = mount.join("value");
    Run::uid(A)
        .group(70001)
        .group(70002)
        .call(|| std::fs::read(&path).map(|_| ()).map_err(errno))
        .unwrap();
    let (seen, facts) = found.lock().unwrap()[0].clone();
    assert_eq!((seen.uid, seen.gid), (A, A));
    assert_eq!(
        (facts.fsuid, facts.fsgid, facts.groups),
        (A, A, vec![70001, 70002])
    );
    found.lock().unwrap().clear();
    // One thread's setgroups(0) is that thread's alone.
    Run::root().group(70001).call(|| {
        let file = File::open(&path).unwrap();
        std::thread::scope(|s| {
            s.spawn(|| {
                become_ids(A, A, &[]).unwrap();
                sys::pread(&file, 100, 0).unwrap();
            });
        });
        sys::pread(&file, 100, 0).unwrap();
    });
    let groups: Vec<_> = found
        .lock()
        .unwrap()
        .iter()
        .map(|(_, f)| f.groups.clone())
        .collect();
    assert_eq!(groups, [vec![], vec![70001]]);
}

/// "A caller in a user namespace shows its real uid as mapped into the mount's namespace: `unshare -Ur cat` by
/// uid 1000 arrives as 1000".
#[test]
fn root_of_a_user_namespace_arrives_with_its_real_uid() {
    let _deadline = deadline("user namespace");
    let (world, mount) = mounted();
    let found = watch(&world, "READ");
    let path = mount.join("value");
    let inside = Run::uid(A).call(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(|e| e as i32)?;
        std::fs::write("/proc/self/setgroups", "deny").map_err(errno)?;
        std::fs::write("/proc/self/uid_map", format!("0 {A} 1")).map_err(errno)?;
        std::fs::write("/proc/self/gid_map", format!("0 {A} 1")).map_err(errno)?;
        std::fs::read(&path).map_err(errno)?;
        Ok::<u32, i32>(nix::unistd::geteuid().as_raw())
    });
    assert_eq!(inside, Ok(0), "root inside");
    let (seen, facts) = found.lock().unwrap()[0].clone();
    assert_eq!((seen.uid, seen.gid, facts.fsuid), (A, A, A));
}

/// "A setuid-root program run by B arrives as uid 0 at READ, while a file that B's shell opened for it was opened
/// as B: decide at OPEN and at READ, each with the ids of that request".
#[test]
fn a_setuid_root_program_is_its_caller_at_open_and_root_at_read() {
    let _deadline = deadline("setuid program");
    let (world, mount) = mounted();
    let path = mount.join("value");
    let program = mount.beside("bin").join("cat");
    let cat = ["/bin/cat", "/usr/bin/cat"]
        .into_iter()
        .find(|p| std::fs::metadata(p).is_ok())
        .expect("cat");
    std::fs::copy(cat, &program).expect("copy");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).expect("chmod u+s");
    let got = Run::uid(B).call(|| {
        let file = File::open(&path).expect("open");
        let run = Command::new(&program)
            .stdin(Stdio::from(file))
            .output()
            .expect("run cat");
        (run.status.success(), run.stdout)
    });
    assert_eq!(
        got,
        (true, TEXT.to_vec()),
        "is the temporary directory mounted nosuid?"
    );
    assert!(world.of("OPEN").iter().all(|s| s.uid == B));
    assert!(
        world.of("READ").iter().all(|s| s.uid == 0),
        "{:?}",
        world.of("READ")
    );
}

/// "the header's ids and /proc/TID's ids can differ: overlayfs (mounter's credentials)…".
#[test]
fn overlayfs_reads_with_the_mounters_ids_on_the_callers_thread() {
    let _deadline = deadline("overlayfs");
    let (world, mount_) = mounted();
    let found = watch(&world, "OPEN");
    let over = mount_.beside("over");
    let lower = format!(
        "lowerdir={}:{}",
        mount_.path().display(),
        mount_.beside("empty").display()
    );
    // overlayfs copies the root's mode when it is mounted, before any GETATTR: `rootmode` must have the
    // permission bits, or nobody but root gets in.
    mount(
        Some("overlay"),
        &over,
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(lower.as_str()),
    )
    .expect("mount overlay");
    let path = over.join("value");
    let read = Run::uid(A).call(|| (sys::tid(), std::fs::read(&path).map_err(errno)));
    umount2(&over, MntFlags::MNT_DETACH).expect("umount");
    assert_eq!(read.1.as_deref(), Ok(TEXT));
    let (seen, facts) = found.lock().unwrap()[0].clone();
    assert_eq!(
        (seen.pid, seen.uid),
        (read.0, 0),
        "the caller's thread, the mounter's uid"
    );
    assert_eq!(facts.fsuid, A, "/proc shows who it really is");
    assert!(world.of("READ").iter().all(|s| s.uid == 0));
}

/// "… loop devices (kworker, uid 0)".
#[test]
fn a_loop_device_reads_by_a_kernel_thread_as_uid_0() {
    const LOOP_SET_FD: u64 = 0x4C00;
    const LOOP_CLR_FD: u64 = 0x4C01;
    const LOOP_CTL_GET_FREE: u64 = 0x4C82;
    struct Loop(File);
    impl Drop for Loop {
        fn drop(&mut self) {
            // SAFETY: this ioctl takes no argument.
            unsafe { libc::ioctl(self.0.as_raw_fd(), LOOP_CLR_FD, 0) };
        }
    }
    let _deadline = deadline("loop device");
    let world = World::new(&[b'x'; 8192]);
    let mount = TempMount::new(FactFs(world.clone()), 2);
    let found = watch(&world, "READ");
    let control =
        File::open("/dev/loop-control").expect("these tests need /dev/loop-control (modprobe loop)");
    // SAFETY: this ioctl takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    let device = Loop(File::open(format!("/dev/loop{number}")).expect("the free loop device"));
    let backing = File::open(mount.join("value")).expect("open");
    // SAFETY: takes a descriptor, by number.
    let rc = unsafe { libc::ioctl(device.0.as_raw_fd(), LOOP_SET_FD, backing.as_raw_fd()) };
    assert_eq!(rc, 0, "LOOP_SET_FD: {}", std::io::Error::last_os_error());
    let got = sys::pread(&device.0, 512, 0).expect("read the device");
    assert_eq!(got, [b'x'; 512]);
    let (seen, facts) = found.lock().unwrap()[0].clone();
    assert_eq!(seen.uid, 0);
    assert_ne!(seen.pid, sys::tid());
    const PF_KTHREAD: u64 = 0x0020_0000;
    assert!(facts.flags & PF_KTHREAD != 0, "{facts:?}");
    assert!(facts.comm.starts_with("kworker"), "{facts:?}");
    assert!(
        seen.lock_owner.is_some(),
        "so the lock owner does not keep it out; its ids and its flags do"
    );
}

/// "`pid` is 0 when the caller is outside the daemon's pid namespace: nothing but uid and gid is known".
#[test]
fn a_caller_outside_the_mounters_pid_namespace_has_pid_0() {
    let _deadline = deadline("pid namespace");
    let (near, far) = socket_pair();
    // The mount belongs to the pid namespace of whoever mounts: a child of a child, in a namespace of its own.
    let mounter = Run::root().keep_device().start(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).expect("unshare");
        Run::root().keep_device().call(|| {
            let (_mount, device) = TempMount::unserved("");
            pass_fd(&near, &device).expect("pass the device");
            pass_fd(&near, &File::open(_mount.path().parent().unwrap()).unwrap()).expect("pass the place");
            drop(device);
            // Until the test is done; then the mount goes with its guard.
            sys::poll(&near, libc::POLLIN, Duration::from_secs(10));
        })
    });
    let device = receive_fd(&far).expect("device");
    let place = receive_fd(&far).expect("place");
    let world = World::new(TEXT);
    let config = fuser::Config::default();
    let session =
        fuser::Session::from_fd(FactFs(world.clone()), device, fuser::SessionACL::All, config).unwrap();
    let session = session.spawn().expect("serve");
    let got = Run::uid(A).call(|| {
        let file: OwnedFd = sys::openat(&place, "mnt/value", libc::O_RDONLY).map_err(errno)?;
        sys::pread(&file, 100, 0).map_err(errno)
    });
    assert_eq!(got.as_deref(), Ok(TEXT));
    for op in ["LOOKUP", "OPEN", "READ"] {
        assert!(
            world.of(op).iter().any(|s| (s.uid, s.pid) == (A, 0)),
            "{op}: {:?}",
            world.of(op)
        );
    }
    drop(place);
    nix::unistd::write(&far, b"d").expect("done");
    mounter.join();
    session.join().expect("the session ends with its mount");
}

/// "A mount made inside another user namespace (`uid_map 26 61002 1`) delivers requests as uid 26 on its descriptor:
/// believe a passed `/dev/fuse` only from uid 0, and after a probe of one's own through it".
#[test]
fn a_mount_of_another_user_namespace_shows_whatever_uid_its_maker_likes() {
    let _deadline = deadline("foreign mount");
    let (_world, place) = mounted();
    let device = place.beside("dev").join("fuse");
    let (kind, all) = (
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
    );
    nix::sys::stat::mknod(&device, kind, all, nix::sys::stat::makedev(10, 229)).expect("mknod");
    std::fs::set_permissions(&device, PermissionsExt::from_mode(0o666)).expect("chmod");
    let target = place.beside("target");
    let (near, far) = socket_pair();
    let maker = Run::uid(B).keep_device().start(|| {
        use nix::sched::CloneFlags;
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|e| e as i32)?;
        std::fs::write("/proc/self/setgroups", "deny").map_err(errno)?;
        std::fs::write("/proc/self/uid_map", format!("26 {B} 1")).map_err(errno)?;
        std::fs::write("/proc/self/gid_map", format!("26 {B} 1")).map_err(errno)?;
        let fuse = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&device)
            .map_err(errno)?;
        let options = format!("fd={},rootmode=40000,user_id=26,group_id=26", fuse.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("fact"),
            &target,
            Some("fuse.fact"),
            flags,
            Some(options.as_str()),
        )
        .map_err(|e| e as i32)?;
        pass_fd(&near, &fuse).map_err(errno)?;
        drop(fuse);
        std::fs::read(target.join("value")).map_err(errno)
    });
    let passed = receive_fd(&far).expect("the descriptor");
    let world = World::new(TEXT);
    let session = fuser::Session::from_fd(
        FactFs(world.clone()),
        passed,
        fuser::SessionACL::All,
        fuser::Config::default(),
    )
    .expect("handshake");
    let session = session.spawn().expect("serve");
    assert_eq!(maker.join().as_deref(), Ok(TEXT));
    let reads = world.of("READ");
    assert!(
        !reads.is_empty() && reads.iter().all(|s| s.uid == 26),
        "{B} passes for 26: {reads:?}"
    );
    session.join().expect("the mount went with its namespace");
}
