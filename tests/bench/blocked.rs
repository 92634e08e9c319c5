//! A thousand readers of one uid that wait for their answers, on ten thousand handles: what others notice of it, and
//! what it takes in memory. Beside a do-nothing server that leaves the same readers without an answer.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::Resource;

use super::status::status_kib;
use super::{GID, become_user, both, median, wardfs};

/// Whose readers wait.
pub const HELD: u32 = 61060;
const READERS: usize = 1000;
const HANDLES: usize = 10_000;
const THREADS: &str = "4";

/// Opens many handles of `path` and reads through a thousand of them, from as many threads, for good.
pub fn held(path: &Path) {
    let enough = HANDLES as u64 + 100;
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, enough, enough).unwrap();
    become_user(HELD, HELD);
    let files: Vec<&'static File> = (0..HANDLES)
        .map(|_| &*Box::leak(Box::new(File::open(path).unwrap())))
        .collect();
    for file in files.into_iter().take(READERS) {
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || while file.read_at(&mut [0; 64], 0).is_ok() {})
            .unwrap();
    }
    println!("waiting");
    std::thread::sleep(Duration::from_secs(600));
}

/// Opens, reads and closes for a second, each time as another uid, so that none of them is over its budget; says the
/// median and the 99th percentile in nanoseconds.
pub fn client(path: &Path) {
    nix::unistd::setgroups(&[]).unwrap();
    let (mut times, mut buffer, begun) = (Vec::new(), [0; 64], Instant::now());
    nix::unistd::setfsgid(nix::unistd::Gid::from_raw(GID));
    for uid in 100_000.. {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
        let one = Instant::now();
        assert_eq!(File::open(path).unwrap().read(&mut buffer).unwrap(), 32);
        times.push(one.elapsed().as_nanos() as u64);
        if begun.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{} {}", at(50), at(99));
}

fn start(role: &str, path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(role).arg(path).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// Median and 99th percentile of a client, in µs.
fn run(path: &Path) -> (f64, f64) {
    let output = start("__tail", path).wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (median, tail) = text.trim().split_once(' ').expect("two numbers");
    let micros = |n: &str| n.parse::<f64>().unwrap() / 1000.0;
    (micros(median), micros(tail))
}

fn resident(pid: u32) -> u64 {
    status_kib(pid, "VmRSS").expect("a running server")
}

/// Many readers; those that wait do so until their server ends.
struct Waiting(Child);

impl Waiting {
    fn on(path: &Path) -> Waiting {
        let mut child = start("__held", path);
        let mut line = String::new();
        let said = child.stdout.take().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "waiting");
        Waiting(child)
    }

    /// Ends them, those that wait as soon as their server does.
    fn leave(mut self) {
        let _ = self.0.kill();
        std::thread::spawn(move || self.0.wait());
    }
}

/// The load that one uid is.
enum Load {
    /// It is over its budget, and its reads are held back.
    Held,
    /// It reads as fast as it can.
    Flood,
}

pub fn print(dir: &Path, rounds: usize) {
    println!(
        "\nbeside {READERS} readers of one uid on {HANDLES} handles; unpinned, {THREADS} serving threads:"
    );
    beside(&dir.join("held"), Load::Held, rounds);
    beside(&dir.join("flood"), Load::Flood, rounds);
}

fn beside(dir: &Path, load: Load, rounds: usize) {
    std::fs::create_dir(dir).unwrap();
    wardfs(dir, &["init"], b"");
    if let Load::Held = load {
        // A disk that is never large enough, and the least budget: after two records a uid waits.
        let config = "[audit]\nlow_space_bytes = 1125899906842624\nuid_bytes_per_second = 64\n";
        std::fs::write(dir.join("store/wardfs.toml"), config).unwrap();
    }
    for (name, who) in [("held", format!("uid:{HELD}")), ("others", format!("gid:{GID}"))] {
        wardfs(dir, &["put", name, "--allow", &who], &[b'x'; 32]);
    }
    let (nothing, ours) = both(dir, THREADS);
    let pid = ours.child.id();
    let before = resident(pid);
    // The do-nothing server never answers who reads `SIZE.1` as this uid, as wardfs does not who is held back.
    let (what, busy) = match load {
        Load::Held => ("that wait", "32.1"),
        Load::Flood => ("that read all the time", "32"),
    };
    let (mut a, mut b, mut grown) = (Vec::new(), Vec::new(), 0);
    for (mount, busy, others, times) in [
        (&nothing.mount, busy, "32.2", &mut a),
        (&ours.mount, "held", "others", &mut b),
    ] {
        // One server's load at a time.
        let waiting = Waiting::on(&mount.join(busy));
        std::thread::sleep(Duration::from_secs(1));
        times.extend((0..rounds).map(|_| run(&mount.join(others))));
        grown = resident(pid).saturating_sub(before);
        waiting.leave();
    }
    // Who waits does so until the server ends.
    drop((ours, nothing));
    let of = |v: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| median(v.iter().map(which).collect());
    let (a50, b50) = (of(&a, |x| x.0), of(&b, |x| x.0));
    let (a99, b99) = (of(&a, |x| x.1), of(&b, |x| x.1));
    println!(
        "  {what}: others' median {a50:.1} µs with nothing, {b50:.1} µs with wardfs, ratio {:.2}; p99 {a99:.1} µs, {b99:.1} µs, ratio {:.2} (goal 1.5); memory grew by {:.1} MiB (goal 64)",
        b50 / a50,
        b99 / a99,
        grown as f64 / 1024.0
    );
}
