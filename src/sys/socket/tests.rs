//! With real sockets; the foreign users are children and threads of this process, so root is needed.

use super::*;

const WAIT: Option<Duration> = Some(Duration::from_secs(5));

fn listening() -> (tempfile::TempDir, PathBuf, Listener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::bind(&path, 0o666).unwrap();
    (dir, path, listener)
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
    client.send(b"first", &[]).unwrap();
    let server = listener.accept().unwrap();
    client.send(b"second", &[]).unwrap();
    let mut buf = [0; 100];
    for expected in [&b"first"[..], b"second"] {
        let message = server.recv(&mut buf, WAIT).unwrap();
        assert_eq!(&buf[..message.len], expected);
        assert_eq!(message.creds, Some((Pid(std::process::id()), Uid(0), Gid(0))));
        assert!(message.fds.is_empty() && !message.truncated);
    }
    server.send(b"answer", &[]).unwrap();
    assert_eq!(client.recv(&mut buf, WAIT).unwrap().len, 6);
    assert_eq!(
        kind(server.recv(&mut buf, Some(Duration::from_millis(20)))),
        io::ErrorKind::TimedOut
    );
    drop(client);
    assert_eq!(kind(server.recv(&mut buf, WAIT)), io::ErrorKind::UnexpectedEof);
    assert_eq!(kind(server.send(b"x", &[])), io::ErrorKind::BrokenPipe);
}

#[test]
fn an_empty_packet_is_not_the_end() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    client.send(b"", &[]).unwrap();
    let message = listener.accept().unwrap().recv(&mut [0; 8], WAIT).unwrap();
    assert_eq!(message.len, 0);
    assert!(message.creds.is_some());
}

#[test]
fn a_connection_of_root_used_by_another_shows_both() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    let server = listener.accept().unwrap();
    as_user(61_002, || client.send(b"please", &[]).unwrap());
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

#[test]
fn descriptors_come_along_and_close_on_exec() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    let server = listener.accept().unwrap();
    let files: Vec<File> = (0..MAX_FDS).map(|_| tempfile::tempfile().unwrap()).collect();
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    client.send(b"four", &fds).unwrap();
    let message = server.recv(&mut [0; 100], WAIT).unwrap();
    assert_eq!(message.fds.len(), MAX_FDS);
    assert!(message.creds.is_some());
    for fd in &message.fds {
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
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
fn too_many_descriptors_are_an_error_and_all_are_closed() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    let server = listener.accept().unwrap();
    let file = tempfile::tempfile().unwrap();
    for count in [MAX_FDS + 1, MAX_FDS + 2, 50, 250] {
        client.send(b"many", &vec![file.as_fd(); count]).unwrap();
        assert_eq!(
            kind(server.recv(&mut [0; 100], WAIT)),
            io::ErrorKind::InvalidData,
            "{count}"
        );
        assert_eq!(copies_of(&file), 1, "{count}");
    }
    client.send(b"sober again", &[]).unwrap();
    assert_eq!(server.recv(&mut [0; 100], WAIT).unwrap().len, 11);
}

#[test]
fn a_packet_that_is_too_long_says_so() {
    let (_dir, path, listener) = listening();
    let client = Connection::connect(&path).unwrap();
    let server = listener.accept().unwrap();
    client.send(&[1; 200], &[]).unwrap();
    client.send(b"next", &[]).unwrap();
    let mut buf = [0; 100];
    let message = server.recv(&mut buf, WAIT).unwrap();
    assert!(message.truncated);
    let message = server.recv(&mut buf, WAIT).unwrap();
    assert_eq!((&buf[..message.len], message.truncated), (&b"next"[..], false));
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let (_dir, path, listener) = listening();
    assert_eq!(kind(Listener::bind(&path, 0o600)), io::ErrorKind::AddrInUse);
    drop(listener);
    // Another test's child, forked meanwhile, may hold a copy for a moment.
    let begin = std::time::Instant::now();
    while Connection::connect(&path).is_ok() && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(kind(Connection::connect(&path)), io::ErrorKind::ConnectionRefused);
    let again = Listener::bind(&path, 0o620).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o620
    );
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
    assert_eq!(kind(Listener::bind(&path, 0o600)), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert_eq!(kind(Listener::bind(&path, 0o600)), io::ErrorKind::AlreadyExists);
    // A listener of another kind is somebody, too.
    std::fs::remove_file(&path).unwrap();
    let _stream = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(Listener::bind(&path, 0o600).is_err());
}

#[test]
fn a_path_longer_than_an_address_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("control.sock");
    let listener = Listener::bind(&path, 0o600).unwrap();
    let client = Connection::connect(&path).unwrap();
    client.send(b"hi", &[]).unwrap();
    assert_eq!(
        listener.accept().unwrap().recv(&mut [0; 10], WAIT).unwrap().len,
        2
    );
}

fn secret(bytes: &[u8]) -> crate::secret::SecretBytes {
    let mut secret = crate::sys::mem::secret(bytes.len()).unwrap();
    secret.expose_mut().copy_from_slice(bytes);
    secret
}

#[test]
fn a_value_travels_in_a_sealed_memfd() {
    let (a, b) = Connection::pair().unwrap();
    let sent = sealed_memfd(&secret(&[3; 70_000])).unwrap();
    a.send(b"value", &[sent.as_fd()]).unwrap();
    let message = b.recv(&mut [0; 10], WAIT).unwrap();
    assert_eq!(
        read_sealed_memfd(&message.fds[0], 70_000).unwrap().expose(),
        [3; 70_000]
    );
    assert!(matches!(
        read_sealed_memfd(&message.fds[0], 69_999),
        Err(MemfdError::TooLong {
            len: 70_000,
            limit: 69_999
        })
    ));
    use std::os::unix::fs::FileExt;
    assert!(File::from(sent).write_all_at(b"x", 0).is_err());
}

#[test]
fn whatever_could_still_change_is_refused() {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let all = [
        SealFlag::F_SEAL_WRITE,
        SealFlag::F_SEAL_SHRINK,
        SealFlag::F_SEAL_GROW,
        SealFlag::F_SEAL_SEAL,
    ];
    for missing in all {
        // SAFETY: the name is NUL-terminated; the result is checked.
        let fd = unsafe { libc::memfd_create(c"x".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        assert!(fd >= 0);
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let seals = all.into_iter().filter(|s| *s != missing).collect();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        assert!(
            matches!(read_sealed_memfd(&fd, 10), Err(MemfdError::Unsealed)),
            "{missing:?}"
        );
    }
    let regular = tempfile::tempfile().unwrap();
    let (pipe, _w) = io::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    assert!(matches!(
        read_sealed_memfd(&regular, 10),
        Err(MemfdError::Unsealed)
    ));
    assert!(matches!(read_sealed_memfd(&pipe, 10), Err(MemfdError::Unsealed)));
    assert!(matches!(read_sealed_memfd(&null, 10), Err(MemfdError::Unsealed)));
}
