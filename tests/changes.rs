//! How a changed value is noticed: inotify, POLLPRI, inodes, times and attributes.

mod support;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use support::product::{A, Product};
use support::{Deadline, Run, sys, wait_until};

const IN_MODIFY: u32 = 0x2;
const IN_CLOSE_WRITE: u32 = 0x8;
const IN_CREATE: u32 = 0x100;
const IN_DELETE: u32 = 0x200;

fn mounted() -> Product {
    let product = Product::mounted();
    put(&product, "one");
    product
}

fn put(product: &Product, value: &str) {
    product.put("app/value", value, &[]);
}

fn allowed(product: &Product) {
    product
        .run(&["policy", "allow", "app/value", &format!("uid:{A}"), "uid:0"])
        .ok();
}

/// Collects events until all of `wanted` (mask, name) were seen.
fn await_events(watch: &sys::Inotify, what: &str, wanted: &[(u32, &str)]) {
    let mut seen: Vec<(u32, String)> = Vec::new();
    wait_until(Duration::from_secs(5), what, || {
        seen.extend(watch.events().into_iter().map(|(_, mask, name)| (mask, name)));
        wanted
            .iter()
            .all(|(mask, name)| seen.iter().any(|(m, n)| m & mask != 0 && n == name))
    });
}

#[test]
fn watchers_of_file_and_directory_hear_of_each_change() {
    let _deadline = Deadline::new(Duration::from_secs(60), "inotify");
    let product = mounted();
    allowed(&product);
    let file = sys::Inotify::new();
    file.watch(&product.path("app/value")).expect("watch the file");
    let directory = sys::Inotify::new();
    directory
        .watch(&product.path("app"))
        .expect("watch the directory");
    let begin = Instant::now();
    for value in ["two", "three", "four"] {
        put(&product, value);
        await_events(
            &file,
            "the file's events",
            &[(IN_MODIFY, ""), (IN_CLOSE_WRITE, "")],
        );
        await_events(
            &directory,
            "the directory's events",
            &[(IN_MODIFY, "value"), (IN_CLOSE_WRITE, "value")],
        );
    }
    println!(
        "three changes, put included, were heard of in {:?}",
        begin.elapsed()
    );
    product.put("app/new", "v", &["--allow", "uid:0"]);
    await_events(&directory, "a new name", &[(IN_CREATE, "new")]);
    assert_eq!(
        std::fs::read(product.path("app/new")).expect("read the new one"),
        b"v"
    );
    product.put("app/new", "w", &[]);
    await_events(&directory, "the new name's change", &[(IN_MODIFY, "new")]);
    product.run(&["delete", "app/new", "--now"]).ok();
    await_events(&directory, "a deleted name", &[(IN_DELETE, "new")]);
    assert!(!product.path("app/new").exists());
    // A purge, and the last name of a directory, are told as well.
    product.put("app/new", "v", &["--allow", "uid:0"]);
    await_events(&directory, "the name made again", &[(IN_CREATE, "new")]);
    product.run(&["delete", "app/new", "--now", "--purge"]).ok();
    await_events(&directory, "a purged name", &[(IN_DELETE, "new")]);
    for purge in [false, true] {
        product.put("deep/er/only", "v", &["--allow", "uid:0"]);
        let last = sys::Inotify::new();
        last.watch(&product.path("deep/er"))
            .expect("watch the directory of one");
        let args = ["delete", "deep/er/only", "--now", "--purge"];
        product.run(&args[..if purge { 4 } else { 3 }]).ok();
        await_events(&last, "the last name of a directory", &[(IN_DELETE, "only")]);
        assert!(!product.path("deep").exists());
    }
    // The file's watch has lived through it all.
    put(&product, "five");
    await_events(&file, "the last change", &[(IN_CLOSE_WRITE, "")]);
    // A policy is no change of the value.
    while !file.events().is_empty() {}
    product.run(&["policy", "allow", "app/value", "uid:61009"]).ok();
    std::thread::sleep(Duration::from_millis(200));
    let changes = file
        .events()
        .into_iter()
        .filter(|(_, mask, _)| mask & (IN_MODIFY | IN_CLOSE_WRITE) != 0)
        .count();
    assert_eq!(changes, 0);
}

#[test]
fn a_poller_wakes_and_does_not_spin() {
    let _deadline = Deadline::new(Duration::from_secs(60), "poll");
    let product = mounted();
    allowed(&product);
    let path = product.path("app/value");
    let (ours, theirs) = support::socket_pair();
    let waiter = Run::uid(A).start(|| {
        let file = File::open(&path).expect("open");
        nix::unistd::write(&theirs, b"o").expect("say so");
        let woken = sys::poll(&file, libc::POLLPRI, Duration::from_secs(10));
        let begin = Instant::now();
        // It does not reopen: the wake-ups must end all the same.
        let mut more = 0;
        while begin.elapsed() < Duration::from_millis(500) {
            more +=
                u32::from(sys::poll(&file, libc::POLLPRI, Duration::from_millis(50)) & libc::POLLPRI != 0);
        }
        let kept = sys::pread(&file, 100, 0).map_err(|e| e.raw_os_error());
        (
            woken & libc::POLLPRI != 0,
            more,
            kept,
            std::fs::read(&path).expect("reopen"),
        )
    });
    sys::read(&ours, 1).expect("opened");
    std::thread::sleep(Duration::from_millis(50));
    put(&product, "two");
    let (woken, more, kept, new) = waiter.join();
    assert!(woken && more <= 1, "woken {woken}, {more} more times");
    assert_eq!((kept, new), (Ok(b"one".to_vec()), b"two".to_vec()));
}

#[test]
fn a_change_before_epoll_is_asked_is_not_lost_nor_to_a_second_epoll() {
    let _deadline = Deadline::new(Duration::from_secs(60), "epoll");
    let product = mounted();
    allowed(&product);
    let path = product.path("app/value");
    let (ours, theirs) = support::socket_pair();
    let waiter = Run::uid(A).start(|| {
        let file = File::open(&path).expect("open");
        let early = sys::Epoll::new();
        early.add(&file, libc::EPOLLPRI);
        nix::unistd::write(&theirs, b"o").expect("say so");
        sys::read(&theirs, 1).expect("changed");
        // A second epoll of another thread on the same handle, asked after the change.
        let second = std::thread::scope(|scope| {
            let ask = || {
                let late = sys::Epoll::new();
                late.add(&file, libc::EPOLLPRI);
                late.wait(Duration::from_secs(5))
            };
            scope.spawn(ask).join().expect("the second thread")
        });
        let first = early.wait(Duration::from_secs(5));
        first & second & libc::EPOLLPRI as u32 != 0
    });
    let (ours_too, theirs_too) = support::socket_pair();
    let late = Run::uid(A).start(|| {
        let file = File::open(&path).expect("open");
        nix::unistd::write(&theirs_too, b"o").expect("say so");
        sys::read(&theirs_too, 1).expect("changed");
        let epoll = sys::Epoll::new();
        epoll.add(&file, libc::EPOLLPRI);
        epoll.wait(Duration::from_secs(5)) & libc::EPOLLPRI as u32 != 0
    });
    sys::read(&ours, 1).expect("opened");
    sys::read(&ours_too, 1).expect("opened");
    put(&product, "two");
    nix::unistd::write(&ours, b"c").expect("go on");
    nix::unistd::write(&ours_too, b"c").expect("go on");
    assert!(
        waiter.join(),
        "the one who asked before, and a second epoll on its handle"
    );
    assert!(late.join(), "the one who asked after the change");
}

fn attributes(path: &Path) -> (u64, i64, i64, u64) {
    let meta = std::fs::metadata(path).expect("stat");
    (
        meta.ino(),
        meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
        meta.size(),
    )
}

#[test]
fn the_inode_stays_and_the_time_is_the_values() {
    let _deadline = Deadline::new(Duration::from_secs(60), "attributes");
    let product = mounted();
    allowed(&product);
    let path = product.path("app/value");
    let (inode, mtime, ctime, size) = attributes(&path);
    assert_eq!(size, 3);
    product.run(&["policy", "allow", "app/value", "uid:61009"]).ok();
    let after = attributes(&path);
    assert_eq!(
        (after.0, after.1, after.3),
        (inode, mtime, 3),
        "a policy is no change of the value"
    );
    assert!(after.2 > ctime);
    // A single file that a container runtime has bound keeps up.
    let bound = product.dir().join("bound");
    File::create(&bound).expect("a place to bind on");
    nix::mount::mount(
        Some(&path),
        &bound,
        None::<&str>,
        nix::mount::MsFlags::MS_BIND,
        None::<&str>,
    )
    .expect("bind");
    for (i, value) in ["second", "3", "a fourth one"].iter().enumerate() {
        put(&product, value);
        let (now_inode, now, _, size) = attributes(&path);
        assert_eq!(now_inode, inode, "{i}");
        assert!(size >= value.len() as u64, "{i}: a size is never low");
        // A longer value's size lingers for 2 s.
        wait_until(Duration::from_secs(30), "the size of the shorter value", || {
            attributes(&path).3 == value.len() as u64
        });
        assert!(now > mtime);
        assert_eq!(
            std::fs::read(&bound).expect("read the bound file"),
            value.as_bytes()
        );
    }
    nix::mount::umount(&bound).expect("unbind");
    let version = |name: &str| {
        let mut value = vec![0u8; 100];
        let (file, name) = (sys::c_path(&path), std::ffi::CString::new(name).expect("a name"));
        // SAFETY: both strings and the buffer live through the call, and the buffer has the length given.
        let n = unsafe {
            libc::getxattr(
                file.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        assert!(n > 0, "{name:?}: {}", std::io::Error::last_os_error());
        value.truncate(n as usize);
        String::from_utf8(value).expect("text")
    };
    let before = (version("user.wardfs.version"), version("user.wardfs.created"));
    put(&product, "a fourth one");
    assert!(version("user.wardfs.version") != before.0 && version("user.wardfs.created") > before.1);
    assert_eq!(version("user.wardfs.labels"), "current");
    let versions = product.path(".versions/app/value");
    let link = |label: &str| std::fs::read(versions.join(label)).expect("read by label");
    assert_eq!(
        (link("current"), link("previous")),
        (b"a fourth one".to_vec(), b"a fourth one".to_vec())
    );
    assert_eq!(std::fs::read_dir(&versions).expect("list").count(), 5 + 2);
    assert!(
        !std::fs::read_dir(product.target())
            .expect("list")
            .any(|e| e.expect("entry").file_name() == ".versions")
    );
}

#[test]
fn a_handle_keeps_its_version_and_shows_no_size_that_is_too_small() {
    let _deadline = Deadline::new(Duration::from_secs(60), "handles");
    let product = mounted();
    allowed(&product);
    put(&product, "a value that is rather long");
    let path = product.path("app/value");
    let held = File::open(&path).expect("open");
    for value in ["a", "bb", "ccc", "dddd", "eeeee"] {
        put(&product, value);
        assert_eq!(
            sys::pread(&held, 100, 0).expect("read"),
            b"a value that is rather long"
        );
        assert!(held.metadata().expect("fstat").size() >= 27);
        assert_eq!(std::fs::read(&path).expect("read"), value.as_bytes());
    }
    drop(held);
    wait_until(
        Duration::from_secs(2),
        "the size comes down when nobody holds the old one",
        || attributes(&path).3 == 5,
    );
}

#[test]
fn maps_are_refused_and_tail_prints_the_first_value_only() {
    let _deadline = Deadline::new(Duration::from_secs(60), "maps and tail");
    let product = mounted();
    allowed(&product);
    let path = product.path("app/value");
    let file = File::open(&path).expect("open");
    let shared = sys::map_and_read(&file, libc::MAP_SHARED, 3).expect_err("a shared map");
    assert_eq!(shared.raw_os_error(), Some(libc::ENODEV));
    // A private one is SIGBUS at its first touch.
    let toucher = Run::uid(A).start(|| {
        let file = File::open(&path).expect("open");
        sys::map_and_read(&file, libc::MAP_PRIVATE, 3).map_err(|e| e.raw_os_error())
    });
    let touched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| toucher.join()));
    assert!(touched.is_err(), "{touched:?}");
    product.refusal(A, "page_cache_refused");
    let mut tail = std::process::Command::new("tail")
        .arg("-F")
        .arg(&path)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("tail");
    std::thread::sleep(Duration::from_millis(700));
    put(&product, "two");
    std::thread::sleep(Duration::from_millis(1500));
    tail.kill().expect("end tail");
    let out = tail.wait_with_output().expect("wait").stdout;
    assert!(
        out.starts_with(b"one") && !String::from_utf8_lossy(&out).contains("two"),
        "{out:?}"
    );
}

#[test]
fn a_stopped_reader_delays_nobody() {
    let _deadline = Deadline::new(Duration::from_secs(60), "a stopped reader");
    let product = mounted();
    allowed(&product);
    let path = product.path("app/value");
    let (ours, theirs) = support::socket_pair();
    let stopped = Run::uid(A).start(|| {
        let file = File::open(&path).expect("open");
        let first = sys::pread(&file, 1, 0).expect("read");
        nix::unistd::write(&theirs, b"o").expect("say so");
        sys::read(&theirs, 1).expect("woken");
        (first, sys::pread(&file, 100, 0).map_err(|e| e.raw_os_error()))
    });
    sys::read(&ours, 1).expect("reading");
    stopped.signal(libc::SIGSTOP);
    for value in ["two", "three"] {
        put(&product, value);
        assert_eq!(std::fs::read(&path).expect("read"), value.as_bytes());
    }
    stopped.signal(libc::SIGCONT);
    nix::unistd::write(&ours, b"g").expect("go on");
    assert_eq!(stopped.join(), (b"o".to_vec(), Ok(b"one".to_vec())));
}
