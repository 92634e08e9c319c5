//! Many clients at a time, anywhere: reads in a second, and a listing of many names.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{GID, UID, become_user, both, median, wardfs};

const THREADS: &str = "4";
const NAMES: usize = 10_000;

/// Opens, reads and closes for a second; says how often, and the median in nanoseconds.
pub fn client(path: &Path) {
    become_user(UID, GID);
    // All begin together, when the parent closes the pipe.
    let _ = std::io::stdin().read(&mut [0]);
    let (mut times, mut buffer, begun) = (Vec::new(), [0; 64], Instant::now());
    while begun.elapsed() < Duration::from_secs(1) {
        let one = Instant::now();
        assert_eq!(std::fs::File::open(path).unwrap().read(&mut buffer).unwrap(), 32);
        times.push(one.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    println!("{} {}", times.len(), times[times.len() / 2]);
}

/// Reads a second of all together, and the median of their medians in µs.
fn run(paths: &[PathBuf]) -> (f64, f64) {
    let (hold, begin) = std::os::unix::net::UnixStream::pair().unwrap();
    let clients: Vec<_> = paths
        .iter()
        .map(|path| {
            let stdin: std::os::fd::OwnedFd = begin.try_clone().unwrap().into();
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .arg("__crowd")
                .arg(path)
                .stdin(stdin)
                .stdout(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    drop((hold, begin));
    let mut medians = Vec::new();
    let mut count = 0.0;
    for client in clients {
        let output = client.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (n, median) = text.trim().split_once(' ').expect("two numbers");
        count += n.parse::<f64>().unwrap();
        medians.push(median.parse::<f64>().unwrap() / 1000.0);
    }
    medians.sort_unstable_by(f64::total_cmp);
    (count, medians[medians.len() / 2])
}

/// The table of the crowd, and the listing.
pub fn print(dir: &Path, rounds: usize) {
    let dir = dir.join("crowd");
    std::fs::create_dir(&dir).unwrap();
    wardfs(&dir, &["init"], b"");
    fill(&dir.join("store"));
    let (nothing, ours) = both(&dir, THREADS);
    println!(
        "\nunpinned, {THREADS} serving threads each, as many secrets as clients; medians of {rounds} interleaved rounds"
    );
    println!(
        "{:<12} {:>22} {:>22} {:>8}",
        "clients", "nothing", "wardfs", "rate"
    );
    for clients in [1, 4, 16] {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let each = |of: &Path, name: &str| -> Vec<PathBuf> {
                (0..clients).map(|n| of.join(format!("{name}.{n}"))).collect()
            };
            a.push(run(&each(&nothing.mount, "32")));
            b.push(run(&each(&ours.mount, "reader")));
        }
        let rate = |v: &[(f64, f64)]| median(v.iter().map(|x| x.0).collect());
        let time = |v: &[(f64, f64)]| median(v.iter().map(|x| x.1).collect());
        println!(
            "{clients:<12} {:>9.0}/s {:>7.1} µs {:>9.0}/s {:>7.1} µs {:>8.2}{}",
            rate(&a),
            time(&a),
            rate(&b),
            time(&b),
            rate(&b) / rate(&a),
            if clients == 16 { "  (goal 0.9)" } else { "" }
        );
    }
    // As ls(1) without colours: the names alone.
    let plain = dir.join("plain");
    std::fs::create_dir(&plain).unwrap();
    nix::mount::mount(
        None::<&str>,
        &plain,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    for n in 0..NAMES {
        std::fs::File::create(plain.join(n.to_string()))
            .unwrap()
            .write_all(b"x")
            .unwrap();
    }
    let list = |at: &Path| {
        let times = (0..9).map(|_| {
            let begun = Instant::now();
            let output = Command::new("ls").arg(at).output().unwrap();
            assert_eq!(output.stdout.iter().filter(|b| **b == b'\n').count(), NAMES);
            begun.elapsed().as_secs_f64() * 1000.0
        });
        median(times.collect())
    };
    let (a, b) = (list(&plain), list(&ours.mount.join("d")));
    println!(
        "\nls of {NAMES} names, as root: tmpfs {a:.1} ms, wardfs {b:.1} ms, ratio {:.1} (goal 10)",
        b / a
    );
    nix::mount::umount(&plain).unwrap();
}

/// Secrets of the client, put through the library.
fn fill(store: &Path) {
    use wardfs::control::protocol::{Enclosed, Request, Rule};
    let config = wardfs::config::Config::load(store).unwrap();
    let (desk, _access) = wardfs::daemon::desk(store, &config).unwrap();
    let mut root = wardfs::access::KnownCaller::root();
    let readers = (0..16).map(|n| format!("reader.{n}"));
    for name in readers.chain((0..NAMES).map(|n| format!("d/{n}"))) {
        let rules = [Rule::Allow(format!("uid:{UID}").parse().unwrap())];
        let put = serde_json::json!({"command": "put", "name": name, "rules": rules});
        let put: Request = serde_json::from_value(put).unwrap();
        let mut value = wardfs::sys::mem::secret(32).unwrap();
        value.expose_mut().fill(b'x');
        desk.answer(&put, Some(Enclosed::Value(value)), &mut |_| {}, &mut root)
            .unwrap();
    }
}
