//! Who the caller is, and who he says he is: units, names, appearances, and many callers at once.

mod support;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::product::{A, B, Product, read_as};
use support::{Deadline, Run, sys};

/// A control group, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(path: &str) -> Cgroup {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let line = mounts
            .lines()
            .find(|l| l.contains(" - cgroup2 "))
            .expect("a cgroup2 mount");
        let root = PathBuf::from(line.split(' ').nth(4).expect("a mount point"));
        let group = root.join(path);
        std::fs::create_dir_all(&group).expect("make a control group");
        Cgroup(group)
    }

    fn enter(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("enter the control group");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The last of its processes may just be going.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // What was made on the way, if nobody else uses it.
        let mut parent = self.0.clone();
        while parent.pop() && std::fs::remove_dir(&parent).is_ok() {}
    }
}

/// Reads as A from within a control group.
fn read_in(group: &Cgroup, path: &Path) -> Result<Vec<u8>, i32> {
    let (ours, theirs) = support::socket_pair();
    let child = Run::uid(A).start(|| {
        sys::read(&theirs, 1).expect("the signal to begin");
        std::fs::read(path).map_err(|e| e.raw_os_error().unwrap_or(0))
    });
    group.enter(child.pid());
    nix::unistd::write(&ours, b"b").expect("begin");
    child.join()
}

#[test]
fn a_unit_rule_is_not_fooled_by_names_below_a_delegated_unit() {
    let _deadline = Deadline::new(Duration::from_secs(60), "units");
    let product = Product::mounted();
    product.put(
        "app/unit",
        "for app.service",
        &["--allow", "unit:wardfs-test-app.service"],
    );
    let path = product.path("app/unit");
    let own = Cgroup::make("wardfs-test.slice/wardfs-test-app.service");
    assert_eq!(read_in(&own, &path), Ok(b"for app.service".to_vec()));
    let record = product.record("the unit's read", |r| r["uid"] == A && r["outcome"] == "allowed");
    assert_eq!(record["unit"], "wardfs-test-app.service");
    for pretended in [
        "user.slice/user-61001.slice/user@61001.service/app.slice/wardfs-test-app.service",
        "wardfs-test-delegated.service/wardfs-test-app.service",
        "wardfs-test.slice/wardfs-test-app.service.d",
        "wardfs-test.slice/wardfs-test-app.service-x.scope",
    ] {
        let group = Cgroup::make(pretended);
        assert_eq!(read_in(&group, &path), Err(libc::EACCES), "{pretended}");
    }
    assert_eq!(read_as(A, &[], &path), Err(libc::EACCES), "in no unit");
    assert_eq!(read_as(0, &[], &path), Err(libc::EACCES), "root in no unit");
    product.refusal(A, "implicit_deny");
}

#[test]
fn who_leaves_the_unit_with_the_descriptor_open_reads_no_more() {
    let _deadline = Deadline::new(Duration::from_secs(60), "leaving a unit");
    let product = Product::mounted();
    product.put(
        "app/unit",
        "for app.service",
        &["--allow", "unit:wardfs-test-leave.service"],
    );
    let path = product.path("app/unit");
    let inside = Cgroup::make("wardfs-test-leave.service");
    let outside = Cgroup::make("wardfs-test-other.service");
    let (ours, theirs) = support::socket_pair();
    let child = Run::uid(A).start(|| {
        sys::read(&theirs, 1).expect("inside");
        let file = File::open(&path).expect("open inside");
        let first = sys::pread(&file, 100, 0).map_err(|e| e.raw_os_error());
        nix::unistd::write(&theirs, b"o").expect("say so");
        sys::read(&theirs, 1).expect("outside");
        (first, sys::pread(&file, 100, 0).map_err(|e| e.raw_os_error()))
    });
    inside.enter(child.pid());
    nix::unistd::write(&ours, b"b").expect("begin");
    sys::read(&ours, 1).expect("opened");
    outside.enter(child.pid());
    nix::unistd::write(&ours, b"b").expect("go on");
    let (first, second) = child.join();
    assert_eq!(first, Ok(b"for app.service".to_vec()));
    assert_eq!(second, Err(Some(libc::EACCES)));
}

#[test]
fn a_hostile_process_name_forges_nothing() {
    let _deadline = Deadline::new(Duration::from_secs(60), "names");
    let product = Product::mounted();
    product.put("app/x", "v", &["--allow", &format!("uid:{A}")]);
    let path = product.path("app/x");
    let name = "\x1b[2J\"}\n{\"a\":1";
    Run::uid(B).call(|| {
        std::fs::write("/proc/self/comm", name).expect("set the name");
        std::fs::read(&path)
            .map_err(|e| e.raw_os_error())
            .expect_err("refused");
    });
    let record = product.refusal(B, "implicit_deny");
    assert!(
        record["command"]
            .as_str()
            .is_some_and(|c| c.starts_with("\u{1b}[2J\"}")),
        "{record}"
    );
    let tail = product.run(&["audit", "tail"]).ok();
    assert!(
        !tail.out.contains('\u{1b}') && tail.out.contains("\\u{1b}[2J"),
        "{tail:?}"
    );
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn a_file_belongs_to_whoever_may_read_it_unless_it_is_told_otherwise() {
    let _deadline = Deadline::new(Duration::from_secs(60), "appearance");
    let product = Product::mounted();
    let allow = ["--allow", &format!("uid:{A}"), "--allow", &format!("uid:{B}")];
    product.put("app/own", "v", &allow);
    let more = ["--owner", "33", "--group", "34", "--mode", "0440"];
    product.put("app/set", "v", &[&allow[..], &more].concat());
    let look = |uid: u32, name: &str| {
        let path = product.path(name);
        Run::uid(uid).call(|| {
            let meta = std::fs::metadata(&path).expect("stat");
            (meta.uid(), meta.gid(), meta.mode() & 0o7777)
        })
    };
    assert_eq!(look(A, "app/own"), (A, A, 0o400));
    assert_eq!(look(B, "app/own"), (B, B, 0o400));
    assert_eq!(
        look(0, "app/own"),
        (0, 0, 0o400),
        "root describes, and owns no more than that"
    );
    for uid in [A, B, 0] {
        assert_eq!(look(uid, "app/set"), (33, 34, 0o440));
    }
    for bad in [
        &["--mode", "0600"][..],
        &["--mode", "0444", "--owner", "no-such-user"],
    ] {
        let said = product.run_with(&[&["put", "app/bad"], bad].concat(), b"v");
        assert_eq!(said.code(), 2, "{said:?}");
    }
}

#[test]
fn many_connections_of_one_uid_do_not_keep_another_out() {
    let _deadline = Deadline::new(Duration::from_secs(60), "connections");
    let product = Product::mounted();
    product.put("app/x", "v", &["--allow", &format!("uid:{A}")]);
    let socket = wardfs::daemon::socket_path(&product.store());
    let (ours, theirs) = support::socket_pair();
    let hoarder = Run::uid(B).start(|| {
        let held: Vec<_> = (0..200)
            .map(|_| wardfs::sys::socket::Connection::connect(&socket))
            .collect();
        nix::unistd::write(&theirs, b"h").expect("say so");
        sys::read(&theirs, 1).expect("let go");
        held.iter().filter(|c| c.is_ok()).count()
    });
    sys::read(&ours, 1).expect("hoarded");
    product.run(&["list"]).ok();
    assert_eq!(product.run_as(A, &[], &["get", "app/x"], b"").ok().out, "v");
    nix::unistd::write(&ours, b"g").expect("let go");
    assert!(hoarder.join() > 0);
    product.run_as(B, &[], &["list"], b"").ok();
}

#[test]
fn handles_of_one_uid_are_bounded_and_leave_others_alone() {
    let _deadline = Deadline::new(Duration::from_secs(60), "handles");
    let mut product = Product::new();
    std::fs::write(product.store().join("wardfs.toml"), "max_handles_per_uid = 50\n").expect("configure");
    product.put(
        "app/x",
        "v",
        &["--allow", &format!("uid:{A}"), "--allow", &format!("uid:{B}")],
    );
    product.mount();
    let path = product.path("app/x");
    let (held, last, again) = Run::uid(A).call(|| {
        let mut held = Vec::new();
        let last = loop {
            match File::open(&path) {
                Ok(file) => held.push(file),
                Err(e) => break e.raw_os_error(),
            }
        };
        let count = held.len();
        drop(held);
        // Releases are not waited for by close.
        let again = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            std::fs::read(&path).is_ok()
        });
        (count, last, again)
    });
    assert_eq!((held, last, again), (50, Some(libc::EMFILE), true));
    assert_eq!(read_as(B, &[], &path), Ok(b"v".to_vec()));
}

#[test]
fn garbage_on_the_control_socket_is_answered_and_harms_nobody() {
    let _deadline = Deadline::new(Duration::from_secs(60), "garbage");
    let product = Product::mounted();
    product.put("app/x", "v", &["--allow", &format!("uid:{A}")]);
    let socket = wardfs::daemon::socket_path(&product.store());
    let deep = format!(
        "{{\"format\":3,\"request\":{}{}",
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let long = format!(
        "{{\"format\":3,\"request\":{{\"command\":\"list\",\"under\":\"{}\"}}}}",
        "a".repeat(150_000)
    );
    let garbage: Vec<&[u8]> = vec![
        b"",
        b"\0",
        b"null",
        b"\xff\xfe garbage",
        b"{\"format\":3}",
        b"{\"format\":3,\"request\":{\"command\":\"nothing\"}}",
        b"{\"format\":4,\"request\":{\"command\":\"status\"}}",
        b"{\"format\":3,\"request\":{\"command\":\"describe\",\"name\":\"../../etc/shadow\"}}",
        b"{\"format\":3,\"request\":{\"command\":\"put\",\"name\":\"app/y\"}}",
        b"{\"format\":3,\"request\":{\"command\":\"status\",\"more\":1}}",
        b"{\"format\":1,\"request\":{\"command\":\"nothing\"},\"of\":\"another\"}",
        b"{\"format\":3,\"value\":-1,\"request\":{\"command\":\"status\"}}",
        b"{\"format\":3,\"value\":1,\"request\":{\"command\":\"status\"}}",
        b"{\"format\":3,\"value\":18446744073709551615,\"request\":{\"command\":\"put\",\"name\":\"app/y\"}}",
        deep.as_bytes(),
        long.as_bytes(),
    ];
    let answered = Run::uid(B).call(|| {
        let mut failed = 0;
        for packet in &garbage {
            let connection = wardfs::sys::socket::Connection::connect(&socket).expect("connect");
            // An empty packet ends a connection, and one that is too long may not even be sent.
            if connection.send(packet).is_err() {
                continue;
            }
            let mut answer = vec![0; 65536];
            if let Ok(message) = connection.recv(&mut answer, Some(Duration::from_secs(5)))
                && String::from_utf8_lossy(&answer[..message.len]).contains("\"failed\"")
            {
                failed += 1;
            }
        }
        failed
    });
    assert!(
        answered >= garbage.len() - 2,
        "{answered} of {} were told what is wrong",
        garbage.len()
    );
    product.run(&["status"]).ok();
    assert_eq!(read_as(A, &[], &product.path("app/x")), Ok(b"v".to_vec()));
}

/// A daemon in a pid namespace of its own, whose callers are all outside of it.
struct Inside {
    product: Product,
    /// Its mount, which lies in a mount namespace of its own too.
    place: OwnedFd,
}

impl Inside {
    fn mount(mut product: Product, config: &str) -> Inside {
        let file = product.store().join("wardfs.toml");
        let written = std::fs::read_to_string(&file).expect("the configuration");
        std::fs::write(&file, format!("{config}\n{written}")).expect("configure");
        product.run(&["config", "accept", "--yes"]).ok();
        let failed =
            product.try_mount_within(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        assert!(failed.is_none(), "{failed:?}");
        let children = format!("/proc/{0}/task/{0}/children", product.pid());
        let inner = std::fs::read_to_string(children).expect("the daemon's pid");
        let root = format!("/proc/{}/root{}", inner.trim(), product.target().display());
        let place = File::open(root).expect("the mount").into();
        Inside { product, place }
    }

    fn read(&self, groups: &[u32], name: &str) -> Result<Vec<u8>, i32> {
        let errno = |e: std::io::Error| e.raw_os_error().unwrap_or(0);
        let mut who = Run::uid(A);
        for group in groups {
            who = who.group(*group);
        }
        who.call(|| {
            let file: OwnedFd = sys::openat(&self.place, name, libc::O_RDONLY).map_err(errno)?;
            sys::pread(&file, 100, 0).map_err(errno)
        })
    }
}

/// A group of those callers.
const GROUP: u32 = 61050;

/// Secrets that uid A may read, by its uid, by a group, by a unit, and unless it is in a unit.
fn by_all_means() -> Product {
    let product = Product::new();
    product.put("by/uid", "v", &["--allow", &format!("uid:{A}")]);
    product.put("by/group", "v", &["--allow", &format!("gid:{GROUP}")]);
    product.put("by/unit", "v", &["--allow", "unit:app.service"]);
    let deny = ["--allow", &format!("uid:{A}"), "--deny", "unit:other.service"];
    product.put("by/absence", "v", &deny);
    product
}

#[test]
fn a_caller_outside_the_pid_namespace_is_refused() {
    let _deadline = Deadline::new(Duration::from_secs(60), "pid namespace");
    let inside = Inside::mount(by_all_means(), "");
    for name in ["by/uid", "by/group", "by/unit", "by/absence"] {
        assert_eq!(inside.read(&[GROUP], name), Err(libc::EACCES), "{name}");
    }
    inside.product.refusal(A, "no_pid");
}

#[test]
fn such_a_caller_is_served_by_uid_alone_where_that_is_configured() {
    let _deadline = Deadline::new(Duration::from_secs(60), "pid namespace");
    let inside = Inside::mount(by_all_means(), "serve_unidentified = true");
    assert_eq!(inside.read(&[GROUP], "by/uid"), Ok(b"v".to_vec()));
    for name in ["by/group", "by/unit", "by/absence"] {
        assert_eq!(inside.read(&[GROUP], name), Err(libc::EACCES), "{name}");
    }
    let read = inside
        .product
        .record("the read", |r| r["uid"] == A && r["outcome"] == "allowed");
    assert!(read["pid"].is_null(), "nothing is known of the process: {read}");
}
