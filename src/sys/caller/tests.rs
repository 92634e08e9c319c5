//! With real processes and threads of several uids (as root), each way of looking in turn.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::mpsc;

use super::*;

#[path = "kept_tests.rs"]
mod kept;

const BOTH: [Means; 2] = [Means::Best, Means::ProcOnly];
const A: u32 = 61_001;
const B: u32 = 61_002;

fn header(uid: u32, gid: u32, tid: u32) -> Header {
    Header {
        uid: Uid(uid),
        gid: Gid(gid),
        tid: Tid(tid),
    }
}

fn own_tid() -> u32 {
    nix::unistd::gettid().as_raw() as u32
}

/// A process of another user that waits to be killed.
struct Other(u32);

impl Other {
    fn start(uid: u32, gid: u32, groups: &[u32]) -> Other {
        let (mut ready, tell) = io::pipe().unwrap();
        let tell_fd = tell.as_raw_fd();
        // SAFETY: the child makes raw system calls only and ends with _exit.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            // SAFETY: system calls on integers and on memory that the child has a copy of.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                // Nothing of other tests (the ends of their pipes) may stay open in here.
                libc::dup2(tell_fd, 0);
                libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
                let ok = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
                    && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
                    && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0;
                if ok {
                    libc::write(0, b"!".as_ptr().cast(), 1);
                    loop {
                        libc::pause();
                    }
                }
                libc::_exit(1);
            }
        }
        drop(tell);
        let mut byte = [0];
        std::io::Read::read_exact(&mut ready, &mut byte).unwrap();
        Other(pid as u32)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // SAFETY: our own child, not yet waited for.
        unsafe {
            libc::kill(self.0 as i32, libc::SIGKILL);
            libc::waitpid(self.0 as i32, std::ptr::null_mut(), 0);
        }
    }
}

/// A thread of this process that does what it is told and then waits, as a caller that is blocked.
struct Caller {
    tid: u32,
    orders: Option<mpsc::Sender<fn()>>,
    done: mpsc::Receiver<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Caller {
    fn start() -> Caller {
        let (orders, inbox) = mpsc::channel::<fn()>();
        let (tell, done) = mpsc::channel();
        let (tell_tid, tid) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell_tid.send(own_tid()).unwrap();
            for order in inbox {
                order();
                tell.send(()).unwrap();
            }
        });
        Caller {
            tid: tid.recv().unwrap(),
            orders: Some(orders),
            done,
            thread: Some(thread),
        }
    }

    fn does(&self, order: fn()) {
        self.orders.as_ref().unwrap().send(order).unwrap();
        self.done.recv().unwrap();
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.thread.take().unwrap().join();
    }
}

/// System calls that, made raw, change one thread only.
fn raw(number: libc::c_long, a: u32, b: u32, c: u32) {
    // SAFETY: the set*id calls take integers; setgroups(0) reads no memory.
    assert!(unsafe { libc::syscall(number, a, b, c) } >= 0);
}

#[test]
fn this_kernel_can_be_looked_at_in_the_best_way() {
    let mut observer = Observer::new();
    observer.identify(&header(0, 0, own_tid())).unwrap();
    assert_eq!(observer.means, Means::Best);
    assert!(observer.strangers.threads[0].pidfd.is_some());
}

#[test]
fn a_process_of_another_user_is_seen_with_its_ids_and_groups() {
    let other = Other::start(A, B, &[7, 61_009]);
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        let mut caller = observer.identify(&header(A, B, other.0)).unwrap();
        assert_eq!((caller.pid(), caller.tid()), (Pid(other.0), Tid(other.0)));
        assert_eq!(caller.parent(), Pid(std::process::id()));
        assert_eq!(caller.groups().unwrap(), [Gid(7), Gid(61_009)]);
        assert_eq!(caller.groups_for_record().unwrap(), [Gid(7), Gid(61_009)]);
        assert!(caller.start_time().is_some_and(|t| t > 0));
        assert!(caller.exe().is_some());
        drop(caller);
        for wrong in [
            header(0, B, other.0),
            header(A, A, other.0),
            header(B, A, other.0),
        ] {
            assert_eq!(
                observer.identify(&wrong).err(),
                Some(Unidentified::CredMismatch),
                "{means:?} {wrong:?}"
            );
        }
    }
}

#[test]
fn nobody_is_identified_without_a_thread_id_or_a_thread() {
    let gone = Other::start(A, A, &[]).0;
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        assert_eq!(
            observer.identify(&header(0, 0, 0)).err(),
            Some(Unidentified::NoPid)
        );
        assert_eq!(
            observer.identify(&header(A, A, gone)).err(),
            Some(Unidentified::Gone),
            "{means:?}"
        );
        assert_eq!(
            observer.identify(&header(A, A, u32::MAX)).err(),
            Some(Unidentified::Gone),
            "{means:?}"
        );
    }
}

#[test]
fn a_kept_thread_that_ends_is_gone_and_its_descriptors_do_not_pile_up() {
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        let other = Other::start(A, A, &[]);
        let tid = other.0;
        observer.identify(&header(A, A, tid)).unwrap().groups().unwrap();
        drop(other);
        assert_eq!(
            observer.identify(&header(A, A, tid)).err(),
            Some(Unidentified::Gone),
            "{means:?}"
        );
        assert_eq!(observer.strangers.threads.len(), 0, "{means:?}");
    }
}

#[test]
fn a_thread_is_not_its_process() {
    let caller = Caller::start();
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        let mut seen = observer.identify(&header(0, 0, caller.tid)).unwrap();
        assert_eq!(
            (seen.pid(), seen.tid()),
            (Pid(std::process::id()), Tid(caller.tid))
        );
        let start = seen.start_time().unwrap();
        drop(seen);
        let mut leader = observer.identify(&header(0, 0, std::process::id())).unwrap();
        assert_eq!(
            leader.start_time(),
            Some(start),
            "the process's start, not the thread's"
        );
    }
}

#[test]
fn a_thread_that_alone_changes_its_file_system_uid_is_seen_as_that_uid() {
    let caller = Caller::start();
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        observer.identify(&header(0, 0, caller.tid)).unwrap();
        caller.does(|| raw(libc::SYS_setfsuid, B, 0, 0));
        // The observer has kept the thread, and must not have kept its ids.
        assert_eq!(
            observer.identify(&header(0, 0, caller.tid)).err(),
            Some(Unidentified::CredMismatch)
        );
        let mut seen = observer.identify(&header(B, 0, caller.tid)).unwrap();
        assert!(seen.groups().is_ok());
        drop(seen);
        // The rest of the process is still root.
        observer.identify(&header(0, 0, std::process::id())).unwrap();
        caller.does(|| raw(libc::SYS_setfsuid, 0, 0, 0));
        observer.identify(&header(0, 0, caller.tid)).unwrap();
    }
}

#[test]
fn groups_dropped_by_one_thread_are_gone_at_the_next_look() {
    for means in BOTH {
        let caller = Caller::start();
        caller.does(|| {
            let groups = [5u32, 61_005];
            // SAFETY: the raw call reads two ids from an array that outlives it, and changes this thread only.
            let ret = unsafe { libc::syscall(libc::SYS_setgroups, 2, groups.as_ptr()) };
            assert_eq!(ret, 0);
        });
        let mut observer = Observer::with_means(means);
        let mut seen = observer.identify(&header(0, 0, caller.tid)).unwrap();
        assert_eq!(seen.groups().unwrap(), [Gid(5), Gid(61_005)]);
        assert_eq!(seen.groups_for_record().unwrap().len(), 2);
        drop(seen);
        caller.does(|| raw(libc::SYS_setgroups, 0, 0, 0));
        // Within one look, too: nothing of an answer is kept.
        let mut seen = observer.identify(&header(0, 0, caller.tid)).unwrap();
        assert_eq!(seen.groups().unwrap(), [], "{means:?}");
    }
}

#[test]
fn groups_read_after_the_ids_have_changed_are_refused() {
    for means in BOTH {
        let caller = Caller::start();
        let mut observer = Observer::with_means(means);
        let mut seen = observer.identify(&header(0, 0, caller.tid)).unwrap();
        caller.does(|| raw(libc::SYS_setresuid, B, B, B));
        let error = seen.groups().unwrap_err();
        assert_eq!(
            Unidentified::of(&error),
            Some(Unidentified::CredMismatch),
            "{means:?}"
        );
    }
}

/// Whichever way it is asked, also of a thread that was looked at before it left; and what is a second old says so.
#[test]
fn the_user_namespace_is_the_one_of_now() {
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    for means in BOTH {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read _; exec unshare -U sleep 100"])
            .stdin(std::process::Stdio::piped())
            .uid(A)
            .gid(A)
            .spawn()
            .unwrap();
        let header = header(A, A, child.id());
        let mut observer = Observer::with_means(means);
        let mut caller = observer.identify(&header).unwrap();
        assert_eq!(caller.namespace_lately(), Namespace::Initial, "{means:?}");
        assert!(!caller.is_of_the_past(), "it was not known before");
        assert_eq!(caller.namespace(), Namespace::Initial, "{means:?}");
        drop(caller);
        writeln!(child.stdin.take().unwrap()).unwrap();
        let begun = Instant::now();
        // In a namespace without a map the ids are nobody's for others of it, and as before for this process.
        let left = loop {
            let mut caller = observer.identify(&header).unwrap();
            if caller.namespace() == Namespace::Foreign {
                break caller.namespace_lately();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{means:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(left, Namespace::Foreign);
    }
}

#[test]
fn thousands_of_groups_are_read_whole() {
    let groups: Vec<u32> = (100_000..104_000).collect();
    let other = Other::start(A, A, &groups);
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        let mut seen = observer.identify(&header(A, A, other.0)).unwrap();
        assert!(
            seen.groups()
                .unwrap()
                .iter()
                .map(|g| g.0)
                .eq(groups.iter().copied()),
            "{means:?}"
        );
    }
}

#[test]
fn a_name_may_hold_anything_and_hides_nothing() {
    for name in [
        c") R 1 2 3 (",
        c"Uid:\t0\t0\t0\t0",
        c"\nUid:\t0\t0\t0\t0\n",
        c"a) S 16 16",
    ] {
        let (tell, ready) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: PR_SET_NAME reads a NUL-terminated string that outlives the call.
            unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
            raw(libc::SYS_setfsuid, B, 0, 0);
            tell.send(own_tid()).unwrap();
            let _ = ended.recv();
        });
        let tid = ready.recv().unwrap();
        for means in BOTH {
            let mut observer = Observer::with_means(means);
            assert_eq!(
                observer.identify(&header(0, 0, tid)).err(),
                Some(Unidentified::CredMismatch)
            );
            let mut seen = observer.identify(&header(B, 0, tid)).unwrap();
            assert_eq!(
                seen.command(),
                &name.to_bytes()[..name.to_bytes().len().min(15)],
                "{means:?}"
            );
            assert!(seen.groups().is_ok());
            assert!(seen.start_time().is_some());
        }
        drop(end);
        thread.join().unwrap();
    }
}

#[test]
fn the_name_is_the_one_of_now() {
    let caller = Caller::start();
    let mut observer = Observer::new();
    caller.does(|| drop(fs::write("/proc/thread-self/comm", "before")));
    assert_eq!(
        observer.identify(&header(0, 0, caller.tid)).unwrap().command(),
        b"before"
    );
    caller.does(|| drop(fs::write("/proc/thread-self/comm", "after")));
    assert_eq!(
        observer.identify(&header(0, 0, caller.tid)).unwrap().command(),
        b"after"
    );
}

#[test]
fn workers_of_the_kernel_are_refused() {
    let mut ring: io_uring::IoUring = io_uring::IoUring::builder()
        .setup_sqpoll(60_000)
        .build(4)
        .unwrap();
    let nop = io_uring::opcode::Nop::new().build();
    // SAFETY: a no-operation refers to no memory.
    unsafe { ring.submission().push(&nop).unwrap() };
    ring.submit_and_wait(1).unwrap();
    let workers: Vec<u32> = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|tid| fs::read_to_string(format!("/proc/{tid}/comm")).is_ok_and(|c| c.starts_with("iou-")))
        .collect();
    assert!(!workers.is_empty());
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        for tid in &workers {
            assert_eq!(
                observer.identify(&header(0, 0, *tid)).err(),
                Some(Unidentified::IoWorker),
                "{means:?}"
            );
        }
        // kthreadd: as a loop device's thread would be.
        assert_eq!(
            observer.identify(&header(0, 0, 2)).err(),
            Some(Unidentified::IoWorker),
            "{means:?}"
        );
    }
}

/// Numbers are used again on purpose, by turns for two users; the observer never takes one for the other.
#[test]
fn thread_ids_used_again_are_never_confused() {
    let last_pid = "/proc/sys/kernel/ns_last_pid";
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        let mut previous: Option<(u32, u32)> = None;
        let mut again = 0;
        for i in 0..2000 {
            let uid = if i % 2 == 0 { A } else { B };
            if let Some((tid, _)) = previous {
                let _ = fs::write(last_pid, (tid - 1).to_string());
            }
            let other = Other::start(uid, uid, &[uid]);
            if let Some((tid, old_uid)) = previous
                && tid == other.0
            {
                again += 1;
                let stale = observer.identify(&header(old_uid, old_uid, tid)).err();
                assert_eq!(stale, Some(Unidentified::CredMismatch), "{means:?} {i}");
            }
            let mut seen = observer.identify(&header(uid, uid, other.0)).unwrap();
            assert_eq!(seen.pid().0, other.0);
            assert_eq!(seen.groups().unwrap(), [Gid(uid)], "{means:?} {i}");
            assert_eq!(seen.groups_for_record().unwrap(), [Gid(uid)], "{means:?} {i}");
            previous = Some((other.0, uid));
        }
        assert!(
            again > 100 || !PathBuf::from(last_pid).exists(),
            "{means:?}: {again} used again"
        );
    }
}

/// A control group, removed at the end.
struct Group(PathBuf);

impl Group {
    fn make(path: &str) -> Group {
        let mount = mounts_of_cgroup2();
        let place = mount.join(path);
        fs::create_dir_all(&place).unwrap();
        Group(place)
    }
    fn admit(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mount = mounts_of_cgroup2();
        let mut place = self.0.clone();
        while place != mount && fs::remove_dir(&place).is_ok() {
            place.pop();
        }
    }
}

fn mounts_of_cgroup2() -> PathBuf {
    crate::sys::mount::mounts()
        .unwrap()
        .into_iter()
        .find(|m| m.fstype == "cgroup2")
        .unwrap()
        .target
}

#[test]
fn the_unit_is_the_one_of_now_and_no_name_below_it_counts() {
    let slice = format!("wardfstest{}.slice", std::process::id());
    let app = Group::make(&format!("{slice}/app.service"));
    let evil = Group::make(&format!("{slice}/deleg.service/evil.service"));
    let odd = Group::make(&format!("{slice}/o d.service"));
    let none = Group::make(&format!("wardfstest{}-plain/app.service", std::process::id()));
    let other = Other::start(A, A, &[]);
    let ids = header(A, A, other.0);
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        for _ in 0..2 {
            app.admit(other.0);
            assert_eq!(
                observer.identify(&ids).unwrap().unit().unwrap(),
                Some("app.service"),
                "{means:?}"
            );
            evil.admit(other.0);
            assert_eq!(
                observer.identify(&ids).unwrap().unit().unwrap(),
                Some("deleg.service"),
                "{means:?}"
            );
            odd.admit(other.0);
            assert!(observer.identify(&ids).unwrap().unit().is_err(), "{means:?}");
            none.admit(other.0);
            assert_eq!(
                observer.identify(&ids).unwrap().unit().unwrap(),
                None,
                "{means:?}"
            );
        }
        if means == Means::Best {
            assert!(observer.units.verifies());
        }
    }
    drop(other);
}

#[test]
fn a_caller_moved_between_the_two_looks_gets_no_unit_that_was_never_verified() {
    let slice = format!("wardfsmove{}.slice", std::process::id());
    let app = Group::make(&format!("{slice}/app.service"));
    let next = Group::make(&format!("{slice}/next.service"));
    let other = Other::start(A, A, &[]);
    app.admit(other.0);
    let mut observer = Observer::new();
    let mut seen = observer.identify(&header(A, A, other.0)).unwrap();
    next.admit(other.0);
    // The id is of the one, the path of the other.
    assert!(seen.unit().is_err());
    drop(seen);
    assert_eq!(
        observer.identify(&header(A, A, other.0)).unwrap().unit().unwrap(),
        Some("next.service")
    );
    drop(other);
}

#[test]
fn without_a_mount_to_verify_by_the_unit_is_read_anew_each_time() {
    let slice = format!("wardfsbare{}.slice", std::process::id());
    let app = Group::make(&format!("{slice}/app.service"));
    let next = Group::make(&format!("{slice}/next.service"));
    let other = Other::start(A, A, &[]);
    let mut observer = Observer::new();
    observer.units = Units::new(None);
    app.admit(other.0);
    assert_eq!(
        observer.identify(&header(A, A, other.0)).unwrap().unit().unwrap(),
        Some("app.service")
    );
    next.admit(other.0);
    assert_eq!(
        observer.identify(&header(A, A, other.0)).unwrap().unit().unwrap(),
        Some("next.service")
    );
    drop(other);
}

#[test]
fn an_observer_without_privileges_sees_other_users_callers() {
    let other = Other::start(A, A, &[61_009]);
    let tid = other.0;
    std::thread::spawn(move || {
        raw(libc::SYS_setresgid, B, B, B);
        raw(libc::SYS_setresuid, B, B, B);
        crate::sys::harden::drop_capabilities(&[]).unwrap();
        for means in BOTH {
            let mut observer = Observer::with_means(means);
            let mut seen = observer.identify(&header(A, A, tid)).unwrap();
            assert_eq!(seen.groups().unwrap(), [Gid(61_009)], "{means:?}");
            assert!(seen.unit().is_ok() && seen.start_time().is_some());
            assert!(!seen.command().is_empty());
        }
    })
    .join()
    .unwrap();
}
