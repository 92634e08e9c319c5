//! The notifier's work on an ordinary directory, watched by inotify; on a mount: `tests/mount.rs`.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::*;

fn directory() -> (tempfile::TempDir, Hands) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/f"), "abc").unwrap();
    let root = std::fs::File::open(dir.path()).unwrap().into();
    (dir, Hands::at(root))
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().map(|e| e.raw_os_error().unwrap())
}

#[test]
fn the_ordinary_events_are_raised_for_file_and_directory() {
    let (dir, hands) = directory();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
    let all = AddWatchFlags::IN_ALL_EVENTS;
    let on_dir = inotify.add_watch(&dir.path().join("d"), all).unwrap();
    let on_file = inotify.add_watch(&dir.path().join("d/f"), all).unwrap();
    hands.perform(Kind::Modified, 0, b"d/f").unwrap();
    hands.perform(Kind::Created, 0, b"d/g").unwrap();
    hands.perform(Kind::Deleted, 0, b"d/g").unwrap();
    hands.perform(Kind::Probe, 0, b"d/f").unwrap();
    hands.perform(Kind::Probe, 0, b"").unwrap();
    let mut events = inotify.read_events().unwrap();
    // A file is closed when its last copy is: another test's child, forked meanwhile, may have one for a moment.
    let begin = std::time::Instant::now();
    let mut saw = |wd, name: Option<&str>, mask| loop {
        if events.iter().any(|e| {
            e.wd == wd && e.mask.contains(mask) && e.name.as_deref() == name.map(std::ffi::OsStr::new)
        }) {
            return true;
        }
        if begin.elapsed() > std::time::Duration::from_secs(5) {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        events.extend(inotify.read_events().unwrap_or_default());
    };
    assert!(saw(on_file, None, AddWatchFlags::IN_MODIFY));
    assert!(saw(on_file, None, AddWatchFlags::IN_CLOSE_WRITE));
    assert!(saw(on_dir, Some("f"), AddWatchFlags::IN_MODIFY));
    assert!(saw(on_dir, Some("f"), AddWatchFlags::IN_CLOSE_WRITE));
    assert!(saw(on_dir, Some("g"), AddWatchFlags::IN_CREATE));
    assert!(saw(on_dir, Some("g"), AddWatchFlags::IN_DELETE));
}

#[test]
fn nothing_outside_of_the_root_is_touched() {
    let (dir, _) = directory();
    let outside = dir.path().join("outside");
    std::fs::write(&outside, "keep").unwrap();
    std::os::unix::fs::symlink("../outside", dir.path().join("d/link")).unwrap();
    std::os::unix::fs::symlink("..", dir.path().join("d/up")).unwrap();
    let hands = Hands::at(std::fs::File::open(dir.path().join("d")).unwrap().into());
    let absolute = outside.to_str().unwrap().as_bytes();
    for path in [
        &b"../outside"[..],
        absolute,
        b"link",
        b"up/outside",
        b"f/../../outside",
        b"",
        b"..",
        b"a\0b",
    ] {
        for kind in [
            Kind::Modified,
            Kind::Raised,
            Kind::Closed,
            Kind::Keep,
            Kind::Created,
            Kind::Deleted,
        ] {
            if kind == Kind::Deleted && path == b"link" {
                continue; // The link itself lies inside.
            }
            // The directory itself lies inside as well, and so does a link.
            if matches!(kind, Kind::Raised | Kind::Keep) && matches!(path, b"" | b"link") {
                continue;
            }
            assert!(hands.perform(kind, 0, path).is_err(), "{kind:?} {path:?}");
        }
    }
    assert_eq!(std::fs::read(&outside).unwrap(), b"keep");
}

#[test]
fn requests_are_answered_with_their_errno_until_the_channel_closes() {
    let (_dir, hands) = directory();
    let (ours, theirs) = Connection::pair().unwrap();
    let serving = std::thread::spawn(move || serve_all(hands.root, theirs));
    let ask = |bytes: &[u8]| {
        ours.send(bytes).unwrap();
        let mut answer = [0; 16];
        let got = ours.recv(&mut answer, Some(Duration::from_secs(5))).unwrap();
        answer[..got.len].to_vec()
    };
    let packet = |kind: u8, number: u8, path: &[u8]| [&[kind, number][..], &[0; 11], path].concat();
    let answer = |number: u32, errno: i32| [number.to_le_bytes(), errno.to_le_bytes()].concat();
    assert_eq!(ask(&packet(1, 7, b"d/f")), answer(7, 0));
    assert_eq!(ask(&packet(1, 8, b"d/none")), answer(8, libc::ENOENT));
    assert_eq!(ask(&packet(99, 9, b"d/f")), answer(9, libc::EINVAL));
    // Too short to have a number: ignored, and what follows is served.
    ours.send(b"\x01").unwrap();
    ours.send(&[1; 6000]).unwrap();
    assert_eq!(ask(&packet(4, 10, b"")), answer(10, 0));
    drop(ours);
    serving.join().unwrap().unwrap();
}

#[test]
fn what_is_kept_is_reached_without_its_name() {
    let (dir, hands) = directory();
    let path = dir.path().join("d/f");
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
    inotify.add_watch(&path, AddWatchFlags::IN_MODIFY).unwrap();
    hands.perform(Kind::Keep, 5, b"d/f").unwrap();
    let _other = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "another").unwrap();
    hands.perform(Kind::Modified, 5, b"d/f").unwrap();
    let events = inotify.read_events().unwrap();
    assert!(events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_MODIFY)));
    hands.perform(Kind::Forget, 5, b"").unwrap();
    hands.perform(Kind::Modified, 5, b"d/f").unwrap();
    assert!(inotify.read_events().is_err(), "the one with the name now");
}

#[test]
fn a_lease_delays_no_event_but_the_closing() {
    let (dir, hands) = directory();
    let held = std::fs::File::open(dir.path().join("d/f")).unwrap();
    // Who has a lease is sent SIGIO when it breaks: it must not end the test.
    // SAFETY: ignoring a signal installs no handler; the descriptor is open.
    unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        assert_eq!(libc::fcntl(held.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK), 0);
    }
    let begin = Instant::now();
    let modified = hands.perform(Kind::Modified, 0, b"d/f");
    assert_eq!(errno(modified), Some(libc::EAGAIN));
    assert!(begin.elapsed() < Duration::from_secs(5));
    drop(held);
    hands.perform(Kind::Closed, 0, b"d/f").unwrap();
}

/// A stand-in for the program: `sh`, which shows what a notifier would find.
#[test]
fn the_child_finds_its_two_descriptors_and_nothing_else() {
    let (dir, hands) = directory();
    // Descriptors that are not close-on-exec must not come along.
    let leak = nix::unistd::dup(std::fs::File::open("/dev/null").unwrap()).unwrap();
    let script = format!(
        "ls /proc/self/fd > {0}/fds; readlink /proc/self/fd/3 > {0}/root; env > {0}/env; read x <&4",
        dir.path().display()
    );
    let mut child = spawn_command(Command::new("/bin/sh").arg("-c").arg(script), hands.root).unwrap();
    // The last command waits for the channel.
    let begin = Instant::now();
    while !std::fs::read_to_string(dir.path().join("env")).is_ok_and(|env| !env.is_empty()) {
        assert!(begin.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.stop(Duration::from_secs(5)).unwrap();
    drop(leak);
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    // ls has the directory that it lists open as well.
    assert_eq!(read("fds").split_whitespace().count(), 6, "{}", read("fds"));
    assert_eq!(read("root").trim(), dir.path().to_str().unwrap());
    assert!(
        !read("env").contains("PATH=/") && !read("env").contains("HOME"),
        "{}",
        read("env")
    );
}

#[test]
fn a_program_that_cannot_be_started_is_an_error() {
    let (_dir, hands) = directory();
    assert_eq!(
        spawn(Path::new("/none/such"), hands.root).err().unwrap().kind(),
        io::ErrorKind::NotFound
    );
}

#[test]
fn a_child_is_ended_whatever_it_does_and_is_asked_without_waiting() {
    let (_dir, hands) = directory();
    let mut child = spawn_command(Command::new("/bin/sleep").arg("1000"), hands.root).unwrap();
    let (pid, channel) = (child.pid(), child.channel());
    let long = channel.request(Kind::Modified, 1, 0, &[b'a'; MAX_PATH + 1]);
    assert_eq!(errno(long), Some(libc::ENAMETOOLONG));
    let none = channel.ask(Kind::Probe, b"", Duration::from_millis(10));
    assert_eq!(none.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let begin = Instant::now();
    let full = (0..100_000).find_map(|n| channel.request(Kind::Probe, n, 0, &[b'a'; 4000]).err());
    assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    assert!(begin.elapsed() < Duration::from_secs(5));
    child.stop(Duration::from_secs(5)).unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
