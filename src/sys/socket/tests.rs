//! With real sockets; the foreign users are children and threads of this process, so root is needed.

use super::*;
use nix::sys::socket::ControlMessage;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const WAIT: Option<Duration> = Some(Duration::from_secs(5));

fn listening() -> (tempfile::TempDir, PathBuf, Listener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = bind(&path, Taking::Free).unwrap();
    (dir, path, listener)
}

fn bind(path: &Path, taking: Taking) -> io::Result<Listener> {
    let (dir, name) = Dir::of(path)?;
    Listener::bind(&dir, &name, taking)
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    match result {
        Err(e) => e.kind(),
        Ok(_) => panic!("accepted"),
    }
}

/// Runs `what` in a thread that alone has become `uid` for good.
fn as_user<T: Send>(uid: u32, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let groups = [61_009u32];
            // SAFETY: raw calls on integers and an array that outlives them; they change this thread only.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, 1, groups.as_ptr()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, uid, uid, uid), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
            }
            what()
        });
        run.join().unwrap()
    })
}

#[test]
fn packets_keep_their_bounds_and_bear_their_sender() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    // Sent before the connection is accepted: it must not miss its credentials.
    client.send(b"first").unwrap();
    let server = listener.accept().unwrap();
    client.send(b"second").unwrap();
    let mut buf = [0; 100];
    for expected in [&b"first"[..], b"second"] {
        let message = server.recv(&mut buf, WAIT).unwrap();
        assert_eq!(&buf[..message.len], expected);
        assert_eq!(message.creds, Some((Pid(std::process::id()), Uid(0), Gid(0))));
        assert!(!message.rights && !message.truncated);
    }
    server.send(b"answer").unwrap();
    assert_eq!(client.recv(&mut buf, WAIT).unwrap().len, 6);
    assert_eq!(
        kind(server.recv(&mut buf, Some(Duration::from_millis(20)))),
        io::ErrorKind::TimedOut
    );
    drop(client);
    assert_eq!(kind(server.recv(&mut buf, WAIT)), io::ErrorKind::UnexpectedEof);
    assert_eq!(kind(server.send(b"x")), io::ErrorKind::BrokenPipe);
}

#[test]
fn an_empty_packet_is_not_the_end() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    client.send(b"").unwrap();
    let message = listener.accept().unwrap().recv(&mut [0; 8], WAIT).unwrap();
    assert_eq!(message.len, 0);
    assert!(message.creds.is_some());
}

#[test]
fn a_connection_of_root_used_by_another_shows_both() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    let server = listener.accept().unwrap();
    as_user(61_002, || client.send(b"please").unwrap());
    let message = server.recv(&mut [0; 100], WAIT).unwrap();
    assert_eq!(server.peer().unwrap().uid, Uid(0));
    assert_eq!(
        message.creds,
        Some((Pid(std::process::id()), Uid(61_002), Gid(61_002)))
    );
}

#[test]
fn a_foreign_peer_is_known_with_its_groups() {
    let (_dir, path, listener) = listening();
    std::fs::set_permissions(path.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let client = as_user(61_002, || Connection::connect(&path).unwrap());
    let peer = listener.accept().unwrap().peer().unwrap();
    assert_eq!((peer.uid, peer.gid), (Uid(61_002), Gid(61_002)));
    assert_eq!(peer.groups, [Gid(61_009)]);
    assert_eq!(peer.pid, Pid(std::process::id()));
    assert!(peer.pidfd.is_some());
    drop(client);
}

#[test]
fn many_groups_of_a_peer_are_all_told() {
    let (_dir, path, listener) = listening();
    let many: Vec<u32> = (70_000..70_500).collect();
    let client = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            // SAFETY: the raw call reads an array that outlives it and changes this thread only.
            let ret = unsafe { libc::syscall(libc::SYS_setgroups, many.len(), many.as_ptr()) };
            assert_eq!(ret, 0);
            Connection::connect(&path).unwrap()
        });
        run.join().unwrap()
    });
    let groups = listener.accept().unwrap().peer().unwrap().groups;
    assert!(groups.iter().map(|g| g.0).eq(many.iter().copied()));
    drop(client);
}

#[test]
fn a_stranger_cannot_claim_to_be_root() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    let server = listener.accept().unwrap();
    let claim = |uid| {
        let mut ids = libc::ucred {
            pid: std::process::id() as i32,
            uid,
            gid: 61_002,
        };
        ids.gid = if uid == 0 { 0 } else { ids.gid };
        socket::sendmsg::<()>(
            client.as_fd().as_raw_fd(),
            &[IoSlice::new(b"x")],
            &[ControlMessage::ScmCredentials(&ids.into())],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
    };
    as_user(61_002, || {
        assert_eq!(claim(0), Err(Errno::EPERM));
        assert!(claim(61_002).is_ok());
    });
    assert_eq!(
        server.recv(&mut [0; 8], WAIT).unwrap().creds.unwrap().1,
        Uid(61_002)
    );
}

/// Sends a packet with `count` copies of a descriptor.
fn send_rights(from: &Connection, file: &File, count: usize) -> nix::Result<usize> {
    let fds = vec![file.as_raw_fd(); count];
    let rights = [ControlMessage::ScmRights(&fds)];
    let packet = [IoSlice::new(b"with descriptors")];
    socket::sendmsg::<()>(
        from.fd.as_raw_fd(),
        &packet,
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

/// Descriptors of this process that show the inode of `file`.
fn copies_of(file: &File) -> usize {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata().unwrap();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|e| std::fs::metadata(e.ok()?.path()).ok())
        .filter(|m| (m.dev(), m.ino()) == (ours.dev(), ours.ino()))
        .count()
}

#[test]
fn descriptors_are_refused_by_the_kernel_where_it_can() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    let server = listener.accept().unwrap();
    let file = tempfile::tempfile().unwrap();
    for (from, to) in [(&client, &server), (&server, &client)] {
        let sent = send_rights(from, &file, 1);
        assert_eq!(sent.is_err(), listener.refuses_rights(), "{sent:?}");
        if sent.is_ok() {
            assert_eq!(kind(to.recv(&mut [0; 100], WAIT)), io::ErrorKind::InvalidData);
        }
    }
}

#[test]
fn descriptors_that_arrive_are_seen_before_they_are_taken_and_never_had() {
    // A pair is not told to refuse them: as a kernel that cannot.
    let (a, b) = Connection::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    a.send(b"plain").unwrap();
    assert!(!b.brings_rights());
    assert_eq!(b.recv(&mut [0; 100], WAIT).unwrap().len, 5);
    for count in [1, 4, 50, 250] {
        send_rights(&a, &file, count).unwrap();
        assert!(b.brings_rights() && b.brings_rights());
        assert_eq!(copies_of(&file), 1, "{count}");
        assert_eq!(
            kind(b.recv(&mut [0; 100], WAIT)),
            io::ErrorKind::InvalidData,
            "{count}"
        );
        assert_eq!(copies_of(&file), 1, "{count}");
    }
    a.send(b"sober again").unwrap();
    assert_eq!(b.recv(&mut [0; 100], WAIT).unwrap().len, 11);
}

#[test]
fn a_packet_that_is_too_long_says_so() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    let server = listener.accept().unwrap();
    client.send(&[1; 200]).unwrap();
    client.send(b"next").unwrap();
    let mut buf = [0; 100];
    let message = server.recv(&mut buf, WAIT).unwrap();
    assert!(message.truncated);
    let message = server.recv(&mut buf, WAIT).unwrap();
    assert_eq!((&buf[..message.len], message.truncated), (&b"next"[..], false));
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let (_dir, path, listener) = listening();
    assert_eq!(kind(bind(&path, Taking::Free)), io::ErrorKind::AddrInUse);
    drop(listener);
    // Another test's child, forked meanwhile, may hold a copy for a moment.
    let begin = std::time::Instant::now();
    while Connection::connect(&path).is_ok() && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(kind(Connection::connect(&path)), io::ErrorKind::ConnectionRefused);
    let again = bind(&path, Taking::Free).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o666, "whatever the umask");
    let client = Connection::connect(&path).unwrap();
    again.accept().unwrap();
    drop(client);
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["s"]);
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(kind(bind(&path, Taking::Free)), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert_eq!(kind(bind(&path, Taking::Free)), io::ErrorKind::AlreadyExists);
    // A listener of another kind is somebody, too.
    std::fs::remove_file(&path).unwrap();
    let _stream = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(bind(&path, Taking::Free).is_err());
}

/// Whoever writes the directory may put a link in the place of the socket at any moment: no mode changes behind it.
#[test]
fn a_link_that_comes_between_changes_no_mode_elsewhere() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let (victim, path) = (dir.path().join("shadow"), dir.path().join("s"));
    std::fs::write(&victim, "secret").unwrap();
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (link, fresh) = (
        dir.path().join("link"),
        dir.path().join(format!(".s.{}", std::process::id())),
    );
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    let over = AtomicBool::new(false);
    let exchange = |from: &Path| {
        let (at, how) = (nix::fcntl::AT_FDCWD, RenameFlags::RENAME_EXCHANGE);
        nix::fcntl::renameat2(at, from, at, &fresh, how).is_ok()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                exchange(&link);
            }
        });
        for _ in 0..3000 {
            let _ = bind(&path, Taking::Over);
            if path.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
                std::fs::remove_file(&path).unwrap();
            }
            if !link.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
                let _ = std::fs::remove_file(&link);
                let _ = std::os::unix::fs::symlink(&victim, &link);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(victim.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_path_longer_than_an_address_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("control.sock");
    let listener = bind(&path, Taking::Free).unwrap();
    let client = Connection::connect(&path).unwrap();
    client.send(b"hi").unwrap();
    assert_eq!(
        listener.accept().unwrap().recv(&mut [0; 10], WAIT).unwrap().len,
        2
    );
}

#[test]
fn whoever_hangs_is_replaced_on_his_path() {
    let (_dir, path, listener) = listening();
    let waiting = Connection::connect(&path).unwrap();
    let successor = bind(&path, Taking::Over).unwrap();
    let client = Connection::connect(&path).unwrap();
    client.send(b"x").unwrap();
    assert_eq!(
        successor.accept().unwrap().recv(&mut [0; 10], WAIT).unwrap().len,
        1
    );
    drop((waiting, listener));
}
