//! The notifier's work on an ordinary directory, watched by inotify; on a mount: `tests/mount.rs`.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::*;

fn directory() -> (tempfile::TempDir, OwnedFd) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/f"), "abc").unwrap();
    let root = File::open(dir.path()).unwrap().into();
    (dir, root)
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().map(|e| e.raw_os_error().unwrap())
}

#[test]
fn the_ordinary_events_are_raised_for_file_and_directory() {
    let (dir, root) = directory();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
    let all = AddWatchFlags::IN_ALL_EVENTS;
    let on_dir = inotify.add_watch(&dir.path().join("d"), all).unwrap();
    let on_file = inotify.add_watch(&dir.path().join("d/f"), all).unwrap();
    perform(&root, Kind::Modified, b"d/f").unwrap();
    perform(&root, Kind::Created, b"d/g").unwrap();
    perform(&root, Kind::Deleted, b"d/g").unwrap();
    perform(&root, Kind::Probe, b"d/f").unwrap();
    perform(&root, Kind::Probe, b"").unwrap();
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
    let root: OwnedFd = File::open(dir.path().join("d")).unwrap().into();
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
        for kind in [Kind::Modified, Kind::Created, Kind::Deleted] {
            if kind == Kind::Deleted && path == b"link" {
                continue; // The link itself lies inside.
            }
            assert!(perform(&root, kind, path).is_err(), "{kind:?} {path:?}");
        }
    }
    assert_eq!(std::fs::read(&outside).unwrap(), b"keep");
}

#[test]
fn requests_are_answered_in_order_with_their_errno_until_the_channel_closes() {
    let (_dir, root) = directory();
    let (ours, theirs) = Connection::pair().unwrap();
    let serving = std::thread::spawn(move || serve(&root, &theirs));
    let ask = |bytes: &[u8]| {
        ours.send(bytes).unwrap();
        let mut answer = [0; 16];
        let got = ours.recv(&mut answer, Some(Duration::from_secs(5))).unwrap();
        answer[..got.len].to_vec()
    };
    let answer = |number: u32, errno: i32| [number.to_le_bytes(), errno.to_le_bytes()].concat();
    assert_eq!(ask(b"\x01\x07\0\0\0d/f"), answer(7, 0));
    assert_eq!(ask(b"\x01\x08\0\0\0d/none"), answer(8, libc::ENOENT));
    assert_eq!(ask(b"\x09\x09\0\0\0d/f"), answer(9, libc::EINVAL));
    // Too short to have a number: ignored, and what follows is served.
    ours.send(b"\x01").unwrap();
    ours.send(&[1; 6000]).unwrap();
    assert_eq!(ask(b"\x04\x0a\0\0\0"), answer(10, 0));
    drop(ours);
    serving.join().unwrap().unwrap();
}

/// A stand-in for the program: `sh`, which shows what a notifier would find.
#[test]
fn the_child_finds_its_two_descriptors_and_nothing_else() {
    let (dir, root) = directory();
    // Descriptors that are not close-on-exec must not come along.
    let leak = nix::unistd::dup(File::open("/dev/null").unwrap()).unwrap();
    let script = format!(
        "ls /proc/self/fd > {0}/fds; readlink /proc/self/fd/3 > {0}/root; env > {0}/env; read x <&4",
        dir.path().display()
    );
    let mut child = spawn_command(Command::new("/bin/sh").arg("-c").arg(script), root).unwrap();
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
    let (_dir, root) = directory();
    assert_eq!(
        spawn(Path::new("/none/such"), root).err().unwrap().kind(),
        io::ErrorKind::NotFound
    );
}

#[test]
fn a_child_that_ignores_its_channel_is_killed() {
    let (_dir, root) = directory();
    let mut child = spawn_command(Command::new("/bin/sleep").arg("1000"), root).unwrap();
    let pid = child.pid();
    child.stop(Duration::from_millis(50)).unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(
        errno(
            child
                .notify(Kind::Probe, b"", Duration::ZERO)
                .map_err(|_| io::Error::from_raw_os_error(107))
        ),
        Some(107)
    );
}

#[test]
fn a_path_that_is_too_long_is_refused_before_it_is_sent() {
    let (_dir, root) = directory();
    let mut child = spawn_command(Command::new("/bin/sleep").arg("1000"), root).unwrap();
    let error = child.request(Kind::Modified, &[b'a'; MAX_PATH + 1]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
}
