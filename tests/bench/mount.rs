//! `cargo bench --bench mount`: what a read through the mount costs beside a do-nothing FUSE server with the
//! same replies. Client and servers on one CPU, one serving thread each, runs interleaved by one client that
//! turns from one mount to the other; medians and 99th percentiles, and the µs of single layers. Then unpinned, with
//! 1, 4 and 16 clients of as many secrets; a listing of 10,000 names; one client beside a thousand of another uid that
//! wait; and what people do instead: a process for each read, a new HTTP connection.
//!
//! Options behind `--`: `--quick` (a tenth of the rounds), `--blocked` (beside those that wait, alone).

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

#[path = "blocked.rs"]
mod blocked;
#[path = "crowd.rs"]
mod crowd;
#[path = "instead.rs"]
mod instead;
#[path = "layers.rs"]
mod layers;
#[path = "nothing.rs"]
mod nothing;
#[path = "../support/status.rs"]
mod status;

const UID: u32 = 61050;
const GID: u32 = 61050;
const SUPPLEMENTARY: u32 = 61051;
const UNIT: &str = "wardfsbench.service";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("__nothing") => nothing::serve(Path::new(&args[3]), args[2].parse().unwrap()),
        Some("__client") => client(&args[2..]),
        Some("__crowd") => crowd::client(Path::new(&args[2])),
        Some("__held") => blocked::held(Path::new(&args[2])),
        Some("__tail") => blocked::client(Path::new(&args[2])),
        _ if args.iter().any(|a| a == "--blocked") => {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            blocked::print(dir.path(), 5);
        }
        _ => bench(args.iter().any(|a| a == "--quick")),
    }
}

/// What one row of the table measures.
struct Row {
    name: &'static str,
    secret: &'static str,
    size: usize,
    op: &'static str,
    unit: bool,
    goal: (f64, Option<f64>),
}

const ROWS: &[Row] = &[
    Row {
        name: "open+read+close, 32 B, uid rule",
        secret: "uid",
        size: 32,
        op: "open",
        unit: false,
        goal: (1.2, Some(1.5)),
    },
    // Of a uid without an account, whose user namespace is looked at.
    Row {
        name: "uid rule with a Deny of a user",
        secret: "deny",
        size: 32,
        op: "open",
        unit: false,
        goal: (1.7, None),
    },
    Row {
        name: "open+read+close, 32 B, unit rule",
        secret: "unit",
        size: 32,
        op: "open",
        unit: true,
        goal: (1.25, None),
    },
    Row {
        name: "open+read+close, 32 B, group rule",
        secret: "group",
        size: 32,
        op: "open",
        unit: false,
        goal: (1.8, None),
    },
    Row {
        name: "pread, 32 B, uid rule",
        secret: "uid",
        size: 32,
        op: "pread",
        unit: false,
        goal: (1.75, None),
    },
    Row {
        name: "open+read+close, 4 KiB, uid rule",
        secret: "page",
        size: 4096,
        op: "open",
        unit: false,
        goal: (1.2, None),
    },
    Row {
        name: "open+read+close, 64 KiB, uid rule",
        secret: "large",
        size: 65536,
        op: "open",
        unit: false,
        goal: (2.5, None),
    },
];

fn bench(quick: bool) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the bench mounts and becomes another user: run it as root"
    );
    let rounds = if quick { 20 } else { 200 };
    let dir = tempfile::Builder::new()
        .prefix("wardfs-bench")
        .tempdir_in("/var/tmp")
        .unwrap();
    let nothing = Server::start(
        &std::env::current_exe().unwrap(),
        &["__nothing", "1"],
        &dir.path().join("nothing"),
        Place::Cpu0,
    );
    let ours = start_wardfs(dir.path());
    println!("client and servers on CPU 0, one serving thread each; {rounds} interleaved rounds of 200\n");
    println!(
        "{:<38} {:>9} {:>9} {:>7} {:>7}   {:>9} {:>9} {:>7}",
        "", "nothing", "wardfs", "ratio", "goal", "p99", "p99", "ratio"
    );
    for row in ROWS {
        let (mut a, mut b) = measure(row, &nothing.mount, &ours.mount, rounds);
        a.sort_unstable();
        b.sort_unstable();
        let at = |v: &[u64], p: usize| v[(v.len() - 1) * p / 100] as f64 / 1000.0;
        let (m, p) = (at(&b, 50) / at(&a, 50), at(&b, 99) / at(&a, 99));
        let goal = row.goal.1.map_or(String::new(), |g| format!(" (goal {g})"));
        println!(
            "{:<38} {:>7.2}µs {:>7.2}µs {:>7.2} {:>7.2}   {:>7.2}µs {:>7.2}µs {:>7.2}{goal}",
            row.name,
            at(&a, 50),
            at(&b, 50),
            m,
            row.goal.0,
            at(&a, 99),
            at(&b, 99),
            p
        );
    }
    drop(ours);
    drop(nothing);
    layers::print(dir.path());
    crowd::print(dir.path(), if quick { 1 } else { 5 });
    blocked::print(dir.path(), if quick { 1 } else { 5 });
    instead::print(dir.path());
}

/// Gives up root for good.
fn become_user(uid: u32, gid: u32) {
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(nix::unistd::Gid::from_raw(gid)).unwrap();
    nix::unistd::setuid(nix::unistd::Uid::from_raw(uid)).unwrap();
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of[of.len() / 2]
}

fn wardfs(dir: &Path, args: &[&str], value: &[u8]) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wardfs"))
        .arg("--store")
        .arg(dir.join("store"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(value).unwrap();
    assert!(child.wait().unwrap().success(), "wardfs {args:?}");
}

fn start_wardfs(dir: &Path) -> Server {
    wardfs(dir, &["init"], b"");
    let value = |n: usize| vec![b'x'; n];
    // Ten statements, of which the last allows.
    let policy = dir.join("policy.json");
    let statement = |uid: u32| {
        serde_json::json!({"Effect": "Allow", "Principal": {"Uid": uid.to_string()},
            "Action": "secretsmanager:GetSecretValue", "Resource": "*"})
    };
    let statements: Vec<_> = (0..9)
        .map(|n| statement(UID + 100 + n))
        .chain([statement(UID)])
        .collect();
    let document = serde_json::json!({"Version": "2012-10-17", "Statement": statements});
    std::fs::write(&policy, document.to_string()).unwrap();
    let policy = policy.to_str().unwrap();
    let user = format!("uid:{UID}");
    wardfs(
        dir,
        &["put", "deny", "--allow", &user, "--deny", "user:daemon"],
        &value(32),
    );
    wardfs(dir, &["put", "uid", "--policy", policy], &value(32));
    wardfs(dir, &["put", "page", "--policy", policy], &value(4096));
    wardfs(
        dir,
        &["put", "unit", "--allow", &format!("unit:{UNIT}")],
        &value(32),
    );
    wardfs(
        dir,
        &["put", "group", "--allow", &format!("gid:{SUPPLEMENTARY}")],
        &value(32),
    );
    wardfs(
        dir,
        &["put", "large", "--allow", &format!("uid:{UID}")],
        &value(65536),
    );
    let store = dir.join("store");
    Server::start(
        Path::new(env!("CARGO_BIN_EXE_wardfs")),
        &["--store", store.to_str().unwrap(), "mount", "--threads", "1"],
        &dir.join("wardfs"),
        Place::Cpu0,
    )
}

/// A serving process on CPU 0, ended and unmounted when dropped.
struct Server {
    child: Child,
    mount: PathBuf,
}

/// Where a server runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Cpu0,
    Anywhere,
}

impl Server {
    fn start(program: &Path, args: &[&str], mount: &Path, place: Place) -> Server {
        std::fs::create_dir_all(mount).unwrap();
        let mut command = Command::new(program);
        command.args(args).arg(mount).stdout(Stdio::piped());
        if place == Place::Cpu0 {
            on_cpu0(&mut command);
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("READY"), "{program:?} did not get ready: {line}");
        Server {
            child,
            mount: mount.to_path_buf(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.child.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.child.wait();
        let _ = nix::mount::umount2(&self.mount, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A do-nothing server with as many serving threads, and one of the store in `dir`; anywhere.
fn both(dir: &Path, threads: &str) -> (Server, Server) {
    let store = dir.join("store");
    let nothing = Server::start(
        &std::env::current_exe().unwrap(),
        &["__nothing", threads],
        &dir.join("nothing"),
        Place::Anywhere,
    );
    let ours = Server::start(
        Path::new(env!("CARGO_BIN_EXE_wardfs")),
        &["--store", store.to_str().unwrap(), "mount", "--threads", threads],
        &dir.join("wardfs"),
        Place::Anywhere,
    );
    (nothing, ours)
}

fn on_cpu0(command: &mut Command) -> &mut Command {
    // SAFETY: sched_setaffinity is async-signal-safe and touches this process alone.
    unsafe {
        command.pre_exec(|| {
            let mut set = nix::sched::CpuSet::new();
            set.set(0)?;
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
            Ok(())
        })
    }
}

/// Nanoseconds of each operation, on either mount.
fn measure(row: &Row, nothing: &Path, ours: &Path, rounds: usize) -> (Vec<u64>, Vec<u64>) {
    let cgroup = row.unit.then(Cgroup::make);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg("__client")
        .arg(row.op)
        .arg(rounds.to_string())
        .arg(row.size.to_string());
    command
        .arg(nothing.join(row.size.to_string()))
        .arg(ours.join(row.secret))
        .stdout(Stdio::piped())
        .stdin(Stdio::piped());
    let mut child = on_cpu0(&mut command).spawn().unwrap();
    if let Some(cgroup) = &cgroup {
        std::fs::write(cgroup.0.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    drop(child.stdin.take());
    let mut out = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert!(
        child.wait().unwrap().success(),
        "the client of {:?} failed",
        row.name
    );
    let numbers: Vec<u64> = out
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
        .collect();
    let (a, b) = numbers.split_at(numbers.len() / 2);
    (a.to_vec(), b.to_vec())
}

/// A cgroup that looks like a unit.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make() -> Cgroup {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .map(Path::new)
            .find(|p| p.join("cgroup.procs").exists());
        let dir = root.expect("a cgroup2 mount").join(UNIT);
        let _ = std::fs::create_dir(&dir);
        Cgroup(dir)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn client(args: &[String]) {
    // Begins when the parent closes standard input: then it is in its cgroup.
    let _ = std::io::stdin().read(&mut [0]);
    nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(SUPPLEMENTARY)]).unwrap();
    nix::unistd::setgid(nix::unistd::Gid::from_raw(GID)).unwrap();
    nix::unistd::setuid(nix::unistd::Uid::from_raw(UID)).unwrap();
    let rounds: usize = args[1].parse().unwrap();
    let size: usize = args[2].parse().unwrap();
    let paths = [Path::new(&args[3]), Path::new(&args[4])];
    let mut buffer = vec![0; size.max(4096)];
    let mut samples = [Vec::new(), Vec::new()];
    let files: Vec<File> = paths.iter().map(|p| File::open(p).unwrap()).collect();
    for round in 0..rounds + 2 {
        for (which, path) in paths.iter().enumerate() {
            for _ in 0..200 {
                let begin = Instant::now();
                let n = match args[0].as_str() {
                    "open" => File::open(path).unwrap().read(&mut buffer).unwrap(),
                    _ => files[which].read_at(&mut buffer, 0).unwrap(),
                };
                let took = begin.elapsed().as_nanos() as u64;
                assert_eq!(n, size);
                // Two rounds to warm up.
                if round >= 2 {
                    samples[which].push(took);
                }
            }
        }
    }
    let mut out = std::io::stdout().lock();
    for sample in samples.iter().flatten() {
        out.write_all(&sample.to_le_bytes()).unwrap();
    }
}
