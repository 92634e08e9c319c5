//! A day's worth of strangers in a minute: look-ups, opens, listings, control calls and refused changes, with sub ids
//! and 65,536 groups, all at once on a store of many secrets. A reader goes on, and nothing grows, waits or ends.
//!
//! The quick form takes 8 s and 1,000 secrets, the long one a minute and 20,000. Latencies are printed, and bounded
//! loosely, so that no busy machine fails here.

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::attackers::{self, Account};
use support::many::{filled, name};
use support::product::{A, Product};
use support::{Run, status_kib};
use wardfs::control::client::Client;
use wardfs::control::protocol::Request;
use wardfs::sys::caller::{DESCRIPTORS_PER_THREAD, KEPT_STRANGERS};

const STRANGER: u32 = 61_901;
const ACCOUNT: u32 = 61_900;

/// Threads that look at callers: four that serve, one that reads in a crowd, one that answers what was held back.
const THREADS: usize = 6;

/// Bytes that the log may have grown by in a minute, beside the records of allowed reads.
const LOG_A_MINUTE: u64 = 8 << 20;

/// What one stranger's process does until `end`.
fn pester(
    kind: usize,
    uid: u32,
    product: &Product,
    secrets: usize,
    end: Instant,
) -> Box<dyn FnOnce() -> u64> {
    let (mount, store) = (product.target(), product.store());
    Box::new(move || {
        let mut calls = 0;
        let paths: Vec<_> = (0..64)
            .map(|i| mount.join(name((i * 97 + uid as usize) % secrets)))
            .collect();
        let mut client = None;
        while Instant::now() < end {
            for path in &paths {
                calls += 1;
                match kind {
                    0 => drop(std::fs::metadata(path)),
                    1 => drop(std::fs::File::open(path)),
                    2 => drop(std::fs::read_dir(path.parent().unwrap_or(Path::new("/")))),
                    3 => drop(std::fs::metadata(path.with_extension(calls.to_string()))),
                    _ => {
                        if client.is_none() {
                            client = Client::connect(&store).ok().flatten();
                        }
                        let question = question(kind, calls, secrets);
                        let answered = client.as_mut().map(|c| c.call(&question, None));
                        if !matches!(answered, Some(Ok(_))) {
                            client = None;
                        }
                    }
                }
                if Instant::now() >= end {
                    break;
                }
            }
        }
        calls
    })
}

fn question(kind: usize, turn: u64, secrets: usize) -> Request {
    let name = name(turn as usize % secrets);
    let text = match kind {
        4 => serde_json::json!({ "command": "why", "name": name, "about": "latest" }),
        5 => serde_json::json!({ "command": "delete", "name": name, "purge": false, "dry_run": false }),
        6 => serde_json::json!({ "command": "policy_set", "name": format!("made/up{turn}"), "text": "{}" }),
        _ => serde_json::json!({ "command": "list", "under": null }),
    };
    serde_json::from_value(text).expect("a request")
}

/// Latencies of open, read and close by the allowed reader, and how many reads there were.
fn latencies(path: &Path, time: Duration) -> (Vec<u64>, u64) {
    let path = path.to_path_buf();
    let mut times: Vec<u64> = Run::uid(A).limit(time + Duration::from_secs(20)).call(move || {
        let (end, mut times) = (Instant::now() + time, Vec::new());
        while Instant::now() < end {
            let begin = Instant::now();
            let value = std::fs::read(&path).expect("the allowed reader reads");
            times.push(begin.elapsed().as_micros() as u64);
            assert_eq!(value, b"value 0");
            std::thread::sleep(Duration::from_millis(2));
        }
        times
    });
    times.sort_unstable();
    let count = times.len() as u64;
    (times, count)
}

fn log_bytes(product: &Product) -> u64 {
    let files = std::fs::read_dir(product.store().join("audit")).expect("the log");
    files
        .flatten()
        .filter_map(|f| f.metadata().ok())
        .map(|m| used(&m))
        .sum()
}

/// Segments are allocated ahead: what counts is their length.
fn used(meta: &std::fs::Metadata) -> u64 {
    meta.len()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn armed(account: &Account, program: &Path, seconds: u64, product: &Product) -> Child {
    let (subids, paths) = (
        account.subids.to_string(),
        [0, 1, 2, 3].map(|i| product.path(&name(i))),
    );
    let mut command: Command = account.command(program);
    command
        .args(["65536", &subids, &subids, &seconds.to_string()])
        .args(paths);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("start an attacker")
}

#[test]
fn a_days_worth_of_strangers_in_a_minute() {
    let _deadline = support::Deadline::new(Duration::from_secs(300), "a minute of strangers");
    let (secrets, time) = match support::long_run() {
        true => (20_000, Duration::from_secs(60)),
        false => (1_000, Duration::from_secs(8)),
    };
    let account = Account::new("wardfs-minute", ACCOUNT, &[]);
    let (many, subs) = (attackers::build("manyg"), attackers::build("subuids"));
    let mut product = filled(secrets);
    let errors = product.dir().join("stderr");
    let to = std::fs::File::create(&errors).expect("a file for stderr");
    product.mount_saying_to(to);
    let pid = product.pid();
    let path = product.path(&name(0));

    let (idle, _) = latencies(&path, Duration::from_secs(2));
    let before = (
        log_bytes(&product),
        status_kib(pid, "VmRSS").expect("VmRSS"),
        descriptors(pid),
    );
    let end = Instant::now() + time;
    let strangers: Vec<_> = (0..12)
        .map(|i| {
            let uid = STRANGER + (i % 3) as u32;
            let limit = time + Duration::from_secs(30);
            Run::uid(uid)
                .limit(limit)
                .start(pester(i % 8, uid, &product, secrets, end))
        })
        .collect();
    let mut armed: Vec<_> = [&many, &subs, &many, &subs]
        .iter()
        .map(|program| armed(&account, program, time.as_secs(), &product))
        .collect();
    let (busy, reads) = latencies(&path, time);
    let calls: Vec<u64> = strangers.into_iter().map(support::Child::join).collect();
    for child in &mut armed {
        assert!(
            child.wait().expect("wait").success(),
            "an attacker with sub ids could not begin"
        );
    }
    let after = (
        log_bytes(&product),
        status_kib(pid, "VmRSS").expect("VmRSS"),
        descriptors(pid),
    );

    let records = product.records();
    let allowed = |r: &&serde_json::Value| r["eventName"] == "GetSecretValue" && r["outcome"] == "allowed";
    let of_reads: u64 = records
        .iter()
        .filter(allowed)
        .map(|r| r.to_string().len() as u64)
        .sum();
    let grown = (after.0 - before.0).saturating_sub(of_reads);
    let said = std::fs::read_to_string(&errors).expect("stderr").lines().count();
    let [median, p99] = [50, 99].map(|p| (idle[idle.len() * p / 100], busy[busy.len() * p / 100]));
    println!("strangers' calls: {calls:?}; reads: {reads}");
    println!(
        "median {} µs idle, {} µs beside; p99 {}, {}",
        median.0, median.1, p99.0, p99.1
    );
    println!("log +{grown} bytes beside reads, stderr {said} lines");
    println!(
        "memory {} → {} KiB, descriptors {} → {}",
        before.1, after.1, before.2, after.2
    );

    assert!(
        grown <= LOG_A_MINUTE * time.as_secs().max(8) / 60,
        "the log grew by {grown} bytes"
    );
    assert!(said <= 100, "{said} lines on stderr");
    assert!(
        after.1 <= before.1 + (64 << 10),
        "{} KiB → {} KiB",
        before.1,
        after.1
    );
    // The serving threads keep one each of a few strangers, and what is open of the reader.
    let kept = THREADS * (KEPT_STRANGERS + DESCRIPTORS_PER_THREAD);
    assert!(
        after.2 <= before.2 + kept,
        "{} → {} descriptors",
        before.2,
        after.2
    );
    assert!(
        median.1 <= 40 * median.0.max(250),
        "median {} → {} µs",
        median.0,
        median.1
    );
    assert_eq!(
        product.recorded_reads() as u64,
        reads + idle.len() as u64,
        "each read has its record"
    );
    product.run(&["audit", "verify"]).ok();
    let begin = Instant::now();
    product.stop();
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "stopped after {:?}",
        begin.elapsed()
    );
}
