//! The connection: what is negotiated, who waits for whom, and what becomes of a daemon that dies.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use fuser::{FopenFlags, InitFlags};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::fs::*;
use super::support::*;
use super::{A, B, TEXT, deadline, errno, mounted};

/// Holds requests back until it is opened, for at most 10 s.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let guard = self.0.0.lock().unwrap();
        drop(
            self.0
                .1
                .wait_timeout_while(guard, Duration::from_secs(10), |open| !*open)
                .unwrap(),
        );
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// "add_capabilities is all or nothing (one flag a call)"; PARALLEL_DIROPS and HAS_RESEND are there.
#[test]
fn flags_are_granted_one_at_a_time() {
    let _deadline = deadline("flags");
    let world = World::new(TEXT);
    let unknown = InitFlags::from_bits_retain(1 << 62);
    let wanted = [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_HAS_RESEND];
    *world.want.lock().unwrap() = vec![wanted[0] | wanted[1] | unknown, unknown, wanted[0], wanted[1]];
    let _mount = TempMount::new(FactFs(world.clone()), 1);
    let granted: Vec<bool> = world.granted.lock().unwrap().iter().map(|g| g.1).collect();
    assert_eq!(granted, [false, false, true, true]);
}

/// `FOPEN_NOFLUSH` saves the FLUSH of each close; without the READDIRPLUS flags only READDIR comes; statfs works.
#[test]
fn noflush_readdir_and_statfs() {
    let _deadline = deadline("noflush");
    for noflush in [false, true] {
        let (world, mount) = mounted();
        world.rule(move |s| match (s.op.as_str(), noflush) {
            ("OPEN", true) => Answer::Open(FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH),
            _ => Answer::Usual,
        });
        assert_eq!(std::fs::read(mount.join("value")).unwrap(), TEXT);
        world.wait_for("RELEASE", |s| s.op == "RELEASE");
        assert_eq!(world.of("FLUSH").is_empty(), noflush);
        let names: Vec<_> = std::fs::read_dir(mount.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["value", "other", "dir"]);
        assert!(world.of("READDIRPLUS").is_empty() && !world.of("READDIR").is_empty());
        assert_eq!(
            nix::sys::statvfs::statvfs(&mount.join("value")).unwrap().blocks(),
            7
        );
        assert_eq!(world.of("STATFS")[0].ino, VALUE);
    }
}

/// "Without PARALLEL_DIROPS (off in fuser unless asked for) one slow LOOKUP held its directory for 1,700 ms, with it
/// 5 ms".
#[test]
fn a_slow_lookup_holds_its_directory_without_parallel_dirops() {
    let _deadline = deadline("dirops");
    for parallel in [false, true] {
        let world = World::new(TEXT);
        *world.want.lock().unwrap() = if parallel {
            vec![InitFlags::FUSE_PARALLEL_DIROPS]
        } else {
            vec![]
        };
        let mount = TempMount::new(FactFs(world.clone()), 2);
        let gate = Gate::default();
        let held = gate.clone();
        world.rule(move |s| {
            if s.op == "LOOKUP" && s.name == "value" {
                held.wait();
            }
            Answer::Usual
        });
        let (slow, quick) = (mount.join("value"), mount.join("other"));
        let first = Run::uid(A).start(|| std::fs::metadata(&slow).map(drop).map_err(errno));
        world.wait_for("the slow one", |s| s.name == "value");
        let mut second = Run::uid(B).start(|| std::fs::metadata(&quick).map(drop).map_err(errno));
        let start = Instant::now();
        while !second.ended() && start.elapsed() < Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(second.ended(), parallel, "parallel: {parallel}");
        gate.open();
        assert_eq!((first.join(), second.join()), (Ok(()), Ok(())));
    }
}

/// "fuser 0.18 answers FUSE_INTERRUPT with ENOSYS … the caller of a held request can be killed only after the reply";
/// "a SIGKILLed caller stays until the reply", and its thread id with it.
#[test]
fn a_killed_caller_stays_until_the_reply() {
    let _deadline = deadline("killed caller");
    let (world, mount) = mounted();
    let gate = Gate::default();
    let held = gate.clone();
    world.rule(move |s| {
        if s.op == "READ" {
            held.wait();
        }
        Answer::Usual
    });
    let path = mount.join("value");
    let mut reader = Run::uid(A).start(|| std::fs::read(&path).map(drop).map_err(errno));
    let read = world.wait_for("READ", |s| s.op == "READ");
    reader.signal(libc::SIGKILL);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!reader.ended());
    assert_eq!(
        super::callers::facts(read.pid).fsuid,
        A,
        "its /proc entry is still its own"
    );
    gate.open();
    wait_until(Duration::from_secs(5), "it dies with the reply", || {
        reader.ended()
    });
}

/// "a panic in a handler ends its loop, two ended the session (catch it)". The caller gets EIO; later ones hang
/// as long as anybody holds the device open.
#[test]
fn a_panic_in_a_handler_ends_its_loop() {
    let _deadline = deadline("panic");
    let (world, mount) = mounted();
    let armed = Arc::new(AtomicBool::new(false));
    let trap = armed.clone();
    world.rule(move |s| {
        if s.op == "READ" && trap.swap(false, Ordering::SeqCst) {
            panic!("a handler that panics, as this test wants it to");
        }
        // With the loops gone but the device open nobody answers any more: spare the reader's close a FLUSH.
        let quiet = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
        if s.op == "OPEN" {
            Answer::Open(quiet)
        } else {
            Answer::Usual
        }
    });
    let path = mount.join("value");
    let read = || Run::uid(A).call(|| std::fs::read(&path).map_err(errno));
    armed.store(true, Ordering::SeqCst);
    assert_eq!(read(), Err(libc::EIO), "a reply that is dropped is EIO");
    assert_eq!(read().as_deref(), Ok(TEXT), "the other loop serves on");
    armed.store(true, Ordering::SeqCst);
    assert_eq!(read(), Err(libc::EIO));
    wait_until(Duration::from_secs(5), "no loop is left", || {
        mount.stopped_serving()
    });
}

/// Mounts with a daemon process of its own, which holds the only device descriptor.
fn with_daemon(hold_reads: bool) -> (TempMount, Child<()>) {
    let (mount, device) = TempMount::unserved("");
    let mut device = Some(device);
    let daemon = Run::root()
        .keep_device()
        .limit(Duration::from_secs(15))
        .start(|| {
            let world = World::new(TEXT);
            world.rule(move |s| {
                if s.op == "READ" && hold_reads {
                    std::thread::sleep(Duration::from_secs(12));
                }
                Answer::Usual
            });
            let device = device.take().expect("the device");
            let config = fuser::Config::default();
            let session =
                fuser::Session::from_fd(FactFs(world), device, fuser::SessionACL::All, config).expect("INIT");
            let _ = session.run();
        });
    drop(device);
    (mount, daemon)
}

/// "A dead daemon: calls in flight get ECONNABORTED, later ones ENOTCONN, the mount stays until unmounted".
#[test]
fn a_dead_daemon_leaves_econnaborted_enotconn_and_the_mount() {
    let _deadline = deadline("dead daemon");
    let (mount, daemon) = with_daemon(true);
    let path = mount.join("value");
    let (near, far) = socket_pair();
    let reader = Run::uid(A).start(|| {
        let file = File::open(&path).map_err(errno)?;
        nix::unistd::write(&near, b"o").expect("opened");
        sys::pread(&file, 100, 0).map_err(errno)
    });
    sys::read(&far, 1).expect("opened");
    std::thread::sleep(Duration::from_millis(50));
    daemon.signal(libc::SIGKILL);
    assert_eq!(reader.join(), Err(libc::ECONNABORTED));
    assert_eq!(
        Run::uid(A).call(|| std::fs::read(&path).map_err(errno)),
        Err(libc::ENOTCONN)
    );
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    assert!(mounts.contains(mount.path().to_str().unwrap()));
    umount2(&mount.path(), MntFlags::empty()).expect("umount");
}

/// "A hung daemon is released with /sys/fs/fuse/connections/N/abort (mount fusectl first)".
#[test]
fn a_hung_daemon_is_released_through_fusectl() {
    let _deadline = deadline("abort");
    let (mount_, _daemon) = with_daemon(true);
    let control = mount_.beside("fusectl");
    mount(
        Some("fusectl"),
        &control,
        Some("fusectl"),
        MsFlags::empty(),
        None::<&str>,
    )
    .expect("mount fusectl");
    let path = mount_.join("value");
    let (near, far) = socket_pair();
    let reader = Run::uid(A).start(|| {
        let file = File::open(&path).map_err(errno)?;
        nix::unistd::write(&near, b"o").expect("opened");
        sys::pread(&file, 100, 0).map_err(errno)
    });
    sys::read(&far, 1).expect("opened");
    std::thread::sleep(Duration::from_millis(50));
    std::fs::write(control.join(mount_.connection().to_string()).join("abort"), b"1").expect("abort");
    let start = Instant::now();
    assert_eq!(reader.join(), Err(libc::ECONNABORTED));
    assert!(start.elapsed() < Duration::from_secs(2));
    umount2(&control, MntFlags::MNT_DETACH).expect("umount fusectl");
}

/// "A holder of the /dev/fuse fd keeps the connection: callers wait, a successor resumes without INIT, and
/// FUSE_NOTIFY_RESEND (negotiate FUSE_HAS_RESEND) replays what the dead daemon had taken; resent requests have bit 63
/// of `unique` set".
#[test]
fn a_successor_gets_the_dead_daemons_requests_again_without_init() {
    const FUSE_NOTIFY_RESEND: i32 = 7;
    const FUSE_READ: u32 = 15;
    let _deadline = deadline("resend");
    let (mount, device) = TempMount::unserved("");
    let for_daemon = device.try_clone().expect("dup");
    let mut for_daemon = Some(for_daemon);
    let (near, far) = socket_pair();
    let daemon = Run::root()
        .keep_device()
        .limit(Duration::from_secs(15))
        .start(|| {
            let world = World::new(TEXT);
            world.rule(move |s| {
                if s.op == "READ" {
                    nix::unistd::write(&near, b"r").expect("the READ has been taken");
                    std::thread::sleep(Duration::from_secs(12));
                }
                // Nobody answers a FLUSH later on.
                let quiet = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                if s.op == "OPEN" {
                    Answer::Open(quiet)
                } else {
                    Answer::Usual
                }
            });
            let device = for_daemon.take().expect("the device");
            let config = fuser::Config::default();
            fuser::Session::from_fd(FactFs(world), device, fuser::SessionACL::All, config)
                .expect("INIT")
                .run()
                .is_ok()
        });
    drop(for_daemon);
    let path = mount.join("value");
    let mut reader = Run::uid(A).start(|| {
        let file = File::open(&path).map_err(errno)?;
        sys::pread(&file, 100, 0).map_err(errno)
    });
    sys::read(&far, 1).expect("the READ has been taken");
    daemon.signal(libc::SIGKILL);
    drop(daemon);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!reader.ended(), "the connection lives: the caller waits");
    // fuse_out_header: length, code in place of the error, unique 0.
    let notify = [
        16u32.to_ne_bytes(),
        FUSE_NOTIFY_RESEND.to_ne_bytes(),
        [0; 4],
        [0; 4],
    ]
    .concat();
    nix::unistd::write(&device, &notify).expect("FUSE_NOTIFY_RESEND");
    assert_ne!(
        sys::poll(&device, libc::POLLIN, Duration::from_secs(5)),
        0,
        "a request is there"
    );
    // fuse_in_header: length, opcode, unique, node, uid, gid, pid.
    // The buffer must have room for the largest WRITE that fuser negotiated, 16 MiB.
    let request = sys::read(&device, 17 << 20).expect("a request");
    let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
    let unique = u64::from_ne_bytes(request[8..16].try_into().unwrap());
    assert_eq!((word(4), word(24), word(32)), (FUSE_READ, A, reader.pid()));
    assert_eq!(unique >> 63, 1, "marked as resent");
    let head = [
        &(16 + TEXT.len() as u32).to_ne_bytes()[..],
        &0i32.to_ne_bytes(),
        &unique.to_ne_bytes(),
    ]
    .concat();
    nix::unistd::write(&device, &[&head, TEXT].concat()).expect("the answer");
    assert_eq!(reader.join().as_deref(), Ok(TEXT));
}

/// "Negotiating FUSE_ASYNC_DIO frees the caller: … Never negotiate it": an O_DIRECT read by io_uring or libaio returns
/// to its caller before the daemon has answered; without the flag it holds the caller.
#[test]
fn async_dio_frees_the_caller_while_its_read_waits() {
    use io_uring::{IoUring, cqueue, opcode, squeue, types};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let _deadline = deadline("async dio");
    for (flags, freed) in [(vec![], false), (vec![InitFlags::FUSE_ASYNC_DIO], true)] {
        let world = World::new(TEXT);
        *world.want.lock().unwrap() = flags;
        let mount = TempMount::new(FactFs(world.clone()), 2);
        let gate = Gate::default();
        let held = gate.clone();
        world.rule(move |s| {
            if s.op == "READ" {
                held.wait();
            }
            Answer::Usual
        });
        let path = mount.join("value");
        let (near, far) = socket_pair();
        let reader = Run::root().start(|| {
            set_fsids(A, A);
            let file = std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(&path)
                .expect("open");
            let mut ring: IoUring<squeue::Entry, cqueue::Entry> =
                IoUring::builder().build(2).expect("io_uring");
            let mut buffer = [0u8; TEXT.len()];
            let read = opcode::Read::new(
                types::Fd(file.as_raw_fd()),
                buffer.as_mut_ptr(),
                buffer.len() as u32,
            );
            // SAFETY: the buffer outlives the wait for the only completion.
            unsafe { ring.submission().push(&read.build()).expect("room") };
            ring.submit().expect("submit");
            set_fsids(B, B);
            nix::unistd::write(&near, b"f").expect("free");
            ring.submit_and_wait(1).expect("wait");
            ring.completion().next().map(|c| c.result())
        });
        let seen = world.wait_for("READ", |s| s.op == "READ");
        assert_eq!(seen.uid, A);
        let early = sys::poll(&far, libc::POLLIN, Duration::from_millis(300)) != 0;
        assert_eq!(early, freed);
        if freed {
            assert_eq!(
                super::callers::facts(seen.pid).fsuid,
                B,
                "it has become another while its READ waits"
            );
        }
        gate.open();
        assert_eq!(reader.join(), Some(TEXT.len() as i32));
    }
}

/// Answers READs of the value from a thread of its own, when the gate opens.
struct Elsewhere(Arc<World>, Gate);

impl fuser::Filesystem for Elsewhere {
    fn lookup(&self, r: &fuser::Request, p: fuser::INodeNo, n: &std::ffi::OsStr, reply: fuser::ReplyEntry) {
        FactFs(self.0.clone()).lookup(r, p, n, reply);
    }

    fn open(&self, r: &fuser::Request, i: fuser::INodeNo, f: fuser::OpenFlags, reply: fuser::ReplyOpen) {
        FactFs(self.0.clone()).open(r, i, f, reply);
    }

    fn read(
        &self,
        _: &fuser::Request,
        ino: fuser::INodeNo,
        _: fuser::FileHandle,
        offset: u64,
        _: u32,
        _: fuser::OpenFlags,
        _: Option<fuser::LockOwner>,
        reply: fuser::ReplyData,
    ) {
        let bytes = if offset == 0 { TEXT } else { b"" };
        if ino.0 != VALUE {
            return reply.data(bytes);
        }
        let gate = self.1.clone();
        std::thread::spawn(move || {
            gate.wait();
            reply.data(bytes);
        });
    }
}

/// "fuser dispatches each request to one `Filesystem` method; a reply may be sent from another thread": one serving
/// thread goes on while a reply waits.
#[test]
fn a_reply_may_come_from_another_thread_while_the_loop_serves_on() {
    let _deadline = deadline("reply elsewhere");
    let (world, gate) = (World::new(TEXT), Gate::default());
    let mount = TempMount::new(Elsewhere(world.clone(), gate.clone()), 1);
    let (slow, quick) = (mount.join("value"), mount.join("other"));
    let read = |path: &std::path::Path| {
        let file = File::open(path).map_err(errno)?;
        sys::pread(&file, 100, 0).map_err(errno)
    };
    let mut waiting = Run::uid(A).start(|| read(&slow));
    world.wait_for("the slow one", |s| s.op == "OPEN");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(Run::uid(B).call(|| read(&quick)).as_deref(), Ok(TEXT));
    assert!(!waiting.ended());
    gate.open();
    assert_eq!(waiting.join().as_deref(), Ok(TEXT));
}

/// "a single-file bind mount by root works if root's LOOKUP is answered, and fails if it is refused".
#[test]
fn a_single_file_bind_mount_needs_roots_lookup_and_nothing_else() {
    let _deadline = deadline("single file");
    let (world, mount_) = mounted();
    let (source, target) = (mount_.join("value"), mount_.beside("bound").join("file"));
    std::fs::write(&target, b"").expect("target");
    let bind = || {
        mount(
            Some(&source),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|e| e as i32)
    };
    world.rule(|s| {
        if s.op == "LOOKUP" && s.uid == 0 {
            Answer::Errno(libc::EACCES)
        } else {
            Answer::Usual
        }
    });
    assert_eq!(bind(), Err(libc::EACCES));
    // Root may look, but not open or read.
    world.rule(|s| {
        if s.op == "OPEN" && s.uid == 0 {
            Answer::Errno(libc::EACCES)
        } else {
            Answer::Usual
        }
    });
    assert_eq!(bind(), Ok(()));
    assert_eq!(
        Run::uid(A)
            .call(|| std::fs::read(&target).map_err(errno))
            .as_deref(),
        Ok(TEXT)
    );
    umount2(&target, MntFlags::MNT_DETACH).expect("umount");
}
