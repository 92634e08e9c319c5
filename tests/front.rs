//! The process that has the control socket: the daemon owns nothing of a stranger's, and the front may be lost.

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::attackers::{Account, build};
use support::product::{A, B, Product, read_as};
use support::{Deadline, Run};
use wardfs::control::client::Client;
use wardfs::control::protocol::{Enclosed, Request};
use wardfs::problem::Exit;
use wardfs::sys::socket::Connection;

/// How soon all must be well again.
const SOON: Duration = Duration::from_secs(2);

fn deadline(what: &str) -> Deadline {
    Deadline::new(Duration::from_secs(90), what)
}

/// Has `setsockopt(SO_PASSRIGHTS)` fail in the daemon and its front, as on a kernel older than 6.16.
fn without_passrights(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let (load, equal, give) = (0x20, 0x15, 0x06);
    let filter = [
        instruction(load, 0, 0, 0),
        instruction(equal, 0, 3, libc::SYS_setsockopt as u32),
        instruction(load, 0, 0, 16 + 2 * 8),
        instruction(equal, 0, 1, 83),
        instruction(give, 0, 0, 0x0005_0000 | libc::ENOPROTOOPT as u32),
        instruction(give, 0, 0, 0x7fff_0000),
    ];
    // SAFETY: one system call, on a filter that lives in the closure; root needs no NO_NEW_PRIVS for it.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_ptr().cast_mut(),
            };
            match libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

fn mounted(kernel: Kernel) -> Product {
    let mut product = Product::new();
    product.put("app/x", "v", &["--allow", &format!("uid:{A}")]);
    let failed = product.try_mount_as(&[], |command| {
        if kernel == Kernel::Older {
            without_passrights(command);
        }
    });
    assert!(failed.is_none(), "{failed:?}");
    product
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Present,
    /// Without SO_PASSRIGHTS.
    Older,
}
const KERNELS: [Kernel; 2] = [Kernel::Present, Kernel::Older];

fn socket(product: &Product) -> PathBuf {
    wardfs::daemon::socket_path(&product.store())
}

/// The child of the daemon that has the control socket, if there is one.
fn front(product: &Product) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", product.pid())).ok()?;
    let children = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|c| {
            c.split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    children.into_iter().find(|pid| {
        let said = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        said.split(|b| *b == 0).any(|word| word == b"__front")
    })
}

/// States of all threads of a process, with what they wait for.
fn states(pid: u32) -> Vec<(char, String)> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let state = |task: PathBuf| {
        let stat = std::fs::read_to_string(task.join("stat")).ok()?;
        let state = stat[stat.rfind(')')? + 2..].chars().next()?;
        Some((
            state,
            std::fs::read_to_string(task.join("wchan")).unwrap_or_default(),
        ))
    };
    tasks.filter_map(|t| state(t.ok()?.path())).collect()
}

/// What the daemon's descriptors are.
fn descriptors(pid: u32) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let link = |e: std::fs::DirEntry| Some(std::fs::read_link(e.path()).ok()?.to_string_lossy().into_owned());
    links.filter_map(|e| link(e.ok()?)).collect()
}

/// The named sockets of /proc/net/unix, by inode.
fn named_sockets() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string("/proc/net/unix").expect("sockets");
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some((
            format!("socket:[{}]", fields.get(6)?),
            (*fields.get(7)?).to_string(),
        ))
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Waits until `done`; at most so long.
#[track_caller]
fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An attacker's process with a FUSE mount of its own, ended with the test. What waits for the mount's answer, itself
/// included, ends only when the mount's connection is aborted.
struct Attacker(Child);

impl Attacker {
    fn abort(&self) -> Option<()> {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.0.id())).ok()?;
        let mount = mounts.lines().find(|l| l.contains(" - fuse hang "))?;
        let (_, minor) = mount.split_whitespace().nth(2)?.split_once(':')?;
        let control = tempfile::tempdir().ok()?;
        let (none, kind) = (None::<&str>, Some("fusectl"));
        nix::mount::mount(none, control.path(), kind, nix::mount::MsFlags::empty(), none).ok()?;
        let aborted = std::fs::write(control.path().join(minor).join("abort"), "1");
        nix::mount::umount(control.path()).ok()?;
        aborted.ok()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.abort();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_daemon_has_no_connection_and_the_front_nothing_else() {
    let _deadline = deadline("descriptors");
    let product = mounted(Kernel::Present);
    let held: Vec<_> = (0..5)
        .map(|_| Connection::connect(&socket(&product)).expect("connect"))
        .collect();
    product.run(&["list"]).ok();
    let path = socket(&product).to_string_lossy().into_owned();
    let named = named_sockets();
    let of = |pid| {
        let all = descriptors(pid);
        let ours = all.iter().filter(|d| {
            named
                .get(*d)
                .is_some_and(|p| p.starts_with(&*path) || p.contains("/."))
        });
        ours.count()
    };
    assert_eq!(of(product.pid()), 0, "{:?}", descriptors(product.pid()));
    let front = front(&product).expect("a front");
    assert!(
        of(front) >= 6,
        "the listener and its connections: {:?}",
        descriptors(front)
    );
    for descriptor in descriptors(front) {
        let known = ["socket:", "anon_inode:[eventpoll]", "/dev/null"];
        assert!(known.iter().any(|k| descriptor.starts_with(k)), "{descriptor}");
    }
    let status = std::fs::read_to_string(format!("/proc/{front}/status")).expect("status");
    for none in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        let line = status.lines().find(|l| l.starts_with(none)).expect("a line");
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
    assert_eq!(
        std::fs::read(format!("/proc/{front}/environ")).expect("environ"),
        b""
    );
    // Its files: none but what is said of processes.
    let root = format!("/proc/{front}/root");
    let names = |dir: &str| -> Vec<_> {
        let entries = std::fs::read_dir(dir).expect("a directory").flatten();
        entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(names(&root), ["proc"]);
    let said = names(&format!("{root}/proc"));
    let of_processes = |n: &String| n.parse::<u32>().is_ok() || n == "self" || n == "thread-self";
    assert!(said.iter().all(of_processes), "{said:?}");
    let mounts = std::fs::read_to_string(format!("/proc/{front}/mountinfo")).expect("its mounts");
    let closed = mounts.lines().filter(|l| l.contains(" ro,nosuid,nodev,noexec"));
    assert_eq!((closed.count(), mounts.lines().count()), (2, 2), "{mounts}");
    let seen = Run::uid(B).call(|| std::fs::read_dir(format!("/proc/{front}/fd")).is_ok());
    assert!(!seen, "it can be dumped");
    drop(held);
}

#[test]
fn a_descriptor_whose_flush_never_ends_holds_nothing_up() {
    let _deadline = deadline("scmhang");
    let account = Account::new("wfs3a", 61301, &[]);
    let program = build("scmhang");
    for kernel in KERNELS {
        let mut product = mounted(kernel);
        // The FUSE device as a stock Debian has it.
        let device = product.dir().join("fuse");
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        let number = nix::sys::stat::makedev(10, 229);
        nix::sys::stat::mknod(&device, nix::sys::stat::SFlag::S_IFCHR, mode, number).expect("mknod");
        std::fs::set_permissions(&device, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .expect("chmod");
        let attack = account
            .command(&program)
            .env("FUSEDEV", &device)
            .arg(socket(&product))
            .arg("8")
            .stderr(Stdio::piped())
            .spawn();
        let mut attacker = Attacker(attack.expect("run it"));
        let mut said = std::io::BufReader::new(attacker.0.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("sent 8") {
            let read = std::io::BufRead::read_line(&mut said, &mut line).expect("read");
            assert!(read > 0, "it ended: {line}");
        }
        std::thread::sleep(Duration::from_millis(300));
        product.run(&["list"]).ok();
        assert_eq!(read_as(A, &[], &product.path("app/x")), Ok(b"v".to_vec()));
        let pids = [Some(product.pid()), front(&product)];
        for pid in pids.into_iter().flatten() {
            // A thread that waits for the disk is in this state for a moment, one that is stuck for good.
            support::wait_until(SOON, "no thread that is stuck", || {
                states(pid).iter().all(|(s, _)| *s != 'D')
            });
        }
        let held = descriptors(product.pid());
        assert!(held.iter().all(|d| !d.contains("/tmp/hang")), "{held:?}");
        let begin = Instant::now();
        let target = product.target();
        product.run(&["unmount", target.to_str().expect("a path")]).ok();
        assert!(
            product.ended(SOON).is_some_and(|s| s.success()),
            "the daemon did not end"
        );
        product.mount();
        assert!(begin.elapsed() < SOON * 2, "{kernel:?}: {:?}", begin.elapsed());
        assert_eq!(read_as(A, &[], &product.path("app/x")), Ok(b"v".to_vec()));
        product.stop();
    }
}

#[test]
fn a_socket_that_lingers_holds_nothing_up() {
    let _deadline = deadline("lingering");
    let mut product = mounted(Kernel::Older);
    let path = socket(&product);
    let before = front(&product).expect("a front");
    let signal = |number| {
        // SAFETY: the pid is a child of the test's own daemon.
        unsafe { libc::kill(before as i32, number) };
    };
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = server.local_addr().expect("address");
    // TCP sockets whose close waits for a peer who reads nothing, sent while the front stands still, so that their
    // sender is gone when it finds them. (A process that ends does not linger.)
    signal(libc::SIGSTOP);
    let sent = Run::uid(B).start(move || {
        use nix::sys::socket as s;
        use std::os::fd::{AsFd, AsRawFd};
        let mut sent = Vec::new();
        for _ in 0..12 {
            let mut stream = std::net::TcpStream::connect(address).expect("connect");
            stream.set_nonblocking(true).expect("set");
            while stream.write(&[0; 65536]).is_ok() {}
            let linger = libc::linger {
                l_onoff: 1,
                l_linger: 20,
            };
            s::setsockopt(&stream, s::sockopt::Linger, &linger).expect("linger");
            let connection = Connection::connect(&path).expect("connect");
            let fds = [stream.as_raw_fd()];
            let rights = [s::ControlMessage::ScmRights(&fds)];
            let packet = [std::io::IoSlice::new(b"x")];
            let flags = s::MsgFlags::MSG_NOSIGNAL;
            s::sendmsg::<()>(connection.as_fd().as_raw_fd(), &packet, &rights, flags, None).expect("send");
            sent.push((stream, connection));
        }
        let count = sent.len();
        // Nothing is closed but by the end of this process.
        std::mem::forget(sent);
        count
    });
    let held: Vec<_> = (0..12).map(|_| server.accept().expect("accept")).collect();
    assert_eq!(sent.join(), 12);
    signal(libc::SIGCONT);
    within(SOON, "threads that linger", || states(before).len() > 12);
    for _ in 0..10 {
        let begin = Instant::now();
        product.run(&["list"]).ok();
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    }
    assert_eq!(front(&product), Some(before), "it was lost");
    let begin = Instant::now();
    let target = product.target();
    product.run(&["unmount", target.to_str().expect("a path")]).ok();
    assert!(
        product.ended(SOON).is_some_and(|s| s.success()),
        "the daemon did not end"
    );
    product.mount();
    assert!(begin.elapsed() < SOON * 2, "{:?}", begin.elapsed());
    drop(held);
}

#[test]
fn a_front_that_is_killed_or_hangs_is_replaced() {
    let _deadline = deadline("replacement");
    let product = mounted(Kernel::Present);
    for signal in [libc::SIGKILL, libc::SIGKILL, libc::SIGSTOP] {
        let lost = front(&product).expect("a front");
        // SAFETY: the pid is a child of the test's own daemon.
        unsafe { libc::kill(lost as i32, signal) };
        let limit = SOON * if signal == libc::SIGSTOP { 3 } else { 1 };
        within(limit, "another front", || {
            front(&product).is_some_and(|f| f != lost)
        });
        within(SOON, "an answer", || product.run(&["list"]).status.success());
        product.put("app/y", "w", &[]);
    }
    assert_eq!(read_as(A, &[], &product.path("app/x")), Ok(b"v".to_vec()));
}

#[test]
fn a_front_ends_with_its_daemon() {
    let _deadline = deadline("the daemon's end");
    let mut product = mounted(Kernel::Present);
    let lost = front(&product).expect("a front");
    product.crash();
    within(SOON, "the front's end", || {
        !Path::new(&format!("/proc/{lost}")).exists()
    });
    product.unmount();
    product.mount();
    product.run(&["list"]).ok();
}

#[test]
fn a_thousand_idle_connections_and_a_client_that_does_not_read() {
    let _deadline = deadline("idle connections");
    let product = mounted(Kernel::Present);
    for n in 0..200 {
        product.put(&format!("many/{n}"), "v", &["--allow", &format!("uid:{A}")]);
    }
    let path = socket(&product);
    // Nearly all places of strangers: one more of theirs is left for who does not read.
    let hoarders: Vec<_> = (0..63)
        .map(|n| {
            let path = path.clone();
            Run::uid(61320 + n).limit(Duration::from_secs(60)).start(move || {
                let held: Vec<_> = (0..16).map(|_| Connection::connect(&path)).collect();
                std::thread::sleep(Duration::from_secs(6));
                held.iter().filter(|c| c.is_ok()).count()
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let deaf = Run::uid(A).limit(Duration::from_secs(60)).start(move || {
        let connection = Connection::connect(&path).expect("connect");
        let request = r#"{"format":3,"request":{"command":"list","under":null}}"#;
        let asked = (0..50)
            .take_while(|_| connection.send(request.as_bytes()).is_ok())
            .count();
        std::thread::sleep(Duration::from_secs(3));
        asked
    });
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..10 {
        let begin = Instant::now();
        product.run(&["list"]).ok();
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    }
    assert!(deaf.join() > 0);
    let held: usize = hoarders.into_iter().map(|h| h.join()).sum();
    assert!(held >= 1000, "{held}");
}

fn ask(connection: &Connection, packets: &[Vec<u8>]) -> Option<String> {
    for packet in packets {
        if connection.send(packet).is_err() {
            break;
        }
    }
    let mut answer = vec![0; 65536];
    for _ in 0..2 {
        if let Ok(message) = connection.recv(&mut answer, Some(Duration::from_secs(15))) {
            return Some(String::from_utf8_lossy(&answer[1..message.len]).into_owned());
        }
    }
    None
}

#[test]
fn values_come_whole_or_not_at_all() {
    let _deadline = deadline("values");
    let product = mounted(Kernel::Present);
    let path = socket(&product);
    let put = |len: usize| {
        let put = json!({"format": 3, "value": len, "request": {"command": "put", "name": "new/value"}});
        put.to_string().into_bytes()
    };
    let piece = |bytes: &[u8]| [&[3u8][..], bytes].concat();
    for (what, packets) in [
        ("too many", vec![put(3), piece(b"abcd")]),
        ("too long", vec![put(70_000), piece(b"abcd")]),
        ("no piece", vec![put(4), b"\x09abcd".to_vec()]),
        ("an empty piece", vec![put(4), piece(b"")]),
        (
            "a packet beyond all bounds",
            vec![put(65_000), piece(&[b'x'; 140_000])],
        ),
        ("a request in its place", vec![put(4), put(4)]),
    ] {
        let connection = Connection::connect(&path).expect("connect");
        let answer = ask(&connection, &packets);
        let refused = answer
            .as_ref()
            .is_none_or(|a| a.contains("the value was not taken"));
        assert!(refused, "{what}: {answer:?}");
        // Nothing more is answered on this connection.
        let status = br#"{"format":3,"request":{"command":"status"}}"#.to_vec();
        assert_eq!(ask(&connection, &[status]), None, "{what}");
    }
    let long = Connection::connect(&path).expect("connect");
    let mut packets = vec![put(40_000)];
    packets.extend((0..40_000).step_by(1000).map(|_| piece(&[b'y'; 1000])));
    let answer = ask(&long, &packets).expect("an answer");
    assert!(answer.contains("\"done\""), "{answer}");
    let list = product.run(&["--json", "list"]).ok().json();
    assert_eq!(list["secrets"].as_array().map(Vec::len), Some(2), "{list}");
    let described = product.run(&["--json", "describe", "new/value"]).ok().json();
    assert_eq!(described["size"], 40_000);
}

#[test]
fn another_protocol_is_named() {
    let _deadline = deadline("versions");
    let product = mounted(Kernel::Present);
    let connection = Connection::connect(&socket(&product)).expect("connect");
    let old = br#"{"format":1,"request":{"command":"nothing of today"},"more":1}"#.to_vec();
    let answer = ask(&connection, &[old]).expect("an answer");
    assert!(
        answer.contains("the command speaks format 1, the daemon 3"),
        "{answer}"
    );
}

#[test]
fn a_strangers_socket_is_not_believed() {
    let _deadline = deadline("a stranger's socket");
    support::require_root();
    let dir = tempfile::Builder::new()
        .prefix("wardfs-test-")
        .tempdir_in("/var/tmp")
        .expect("a directory");
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(dir.path(), mode(0o755)).expect("chmod");
    let run = dir.path().join("store/run");
    std::fs::create_dir_all(&run).expect("mkdir");
    for place in [run.parent().expect("a parent"), &run] {
        std::os::unix::fs::chown(place, Some(B), Some(B)).expect("chown");
    }
    let path = run.join("control.sock");
    let (ours, theirs) = support::socket_pair();
    let there = path.clone();
    let listener = Run::uid(B).start(move || {
        use wardfs::sys::socket::{Listener, Taking};
        let (dir, name) = wardfs::sys::dir::Dir::of(&there).expect("a directory");
        let listener = Listener::bind(&dir, &name, Taking::Free).expect("listen");
        nix::unistd::write(&theirs, b"l").expect("say so");
        let connection = listener.accept().expect("accept");
        let mut heard = [0; 1000];
        connection
            .recv(&mut heard, Some(Duration::from_secs(10)))
            .map_or(0, |m| m.len)
    });
    support::sys::read(&ours, 1).expect("listening");
    let mut put = Command::new(env!("CARGO_BIN_EXE_wardfs"));
    put.arg("--store")
        .arg(dir.path().join("store"))
        .args(["put", "a/b"]);
    let said = support::product::said(put, b"ROOTSECRET");
    assert_eq!(said.code(), 6, "{said:?}");
    assert!(
        said.err.contains(&format!("of uid {B} listens there")),
        "{said:?}"
    );
    assert_eq!(listener.join(), 0, "something was sent");
}

#[test]
fn a_backup_is_written_by_who_asked_for_it() {
    let _deadline = deadline("backup");
    let product = mounted(Kernel::Present);
    let large = vec![b'z'; 60_000];
    for n in 0..20 {
        product.put(&format!("large/{n}"), &large, &[]);
    }
    let file = product.dir().join("backup");
    let made = product
        .run(&["--json", "store", "backup", file.to_str().expect("a path")])
        .ok()
        .json();
    assert_eq!(made["bytes"], std::fs::metadata(&file).expect("the backup").len());
    let full = Path::new("/dev/full");
    let said = product.run(&["store", "backup", full.to_str().expect("a path")]);
    assert_eq!(said.code(), 5, "{said:?}");
    let request: Request = serde_json::from_value(json!({"command": "backup"})).expect("a request");
    let mut client = Client::connect(&product.store())
        .expect("connect")
        .expect("a daemon");
    let mut full = std::fs::OpenOptions::new().write(true).open(full).expect("open");
    let problem = client
        .call(&request, Some(Enclosed::Backup(&mut full)))
        .expect_err("full");
    assert_eq!(problem.exit, Exit::Failed, "{problem}");
    drop(client);
    let refused = Run::uid(B).call(|| {
        let mut client = Client::connect(&product.store())
            .expect("connect")
            .expect("a daemon");
        let mut out = Vec::new();
        let problem = client
            .call(&request, Some(Enclosed::Backup(&mut out)))
            .expect_err("refused");
        (problem.exit as u8, out.len())
    });
    assert_eq!(refused, (Exit::Denied as u8, 0));
    let mut list: Vec<Value> = product.records();
    list.retain(|r| r["eventName"] == "BackupStore");
    let with = |outcome: &str| list.iter().filter(|r| r["outcome"] == outcome).count();
    assert_eq!((with("allowed"), with("denied")), (2, 1));
}
