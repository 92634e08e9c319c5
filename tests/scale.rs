//! Many secrets (2,000, 10,000, or as `WARDFS_TEST_SECRETS` says): ready as soon, listed whole, and each operation as
//! cheap as with a hundred.
//!
//! The numbers are printed and bounded loosely, so that no busy machine fails here; `cargo bench --bench mount` is
//! for measuring.

mod support;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::Run;
use support::many::{filled, name};
use support::product::{A, B, Product};
use wardfs::control::client::Client;
use wardfs::control::protocol::Request;

/// Secrets in the store that others are compared with.
const SMALL: usize = 100;
/// Files and directories that `ls -R` of the whole mount shows to `uid`, and how long it took.
fn listed(product: &Product, uid: u32) -> (usize, Duration) {
    let begin = Instant::now();
    let said = Command::new("/bin/ls")
        .arg("-R1")
        .arg(product.target())
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // Who sees nothing cannot open the first directory.
    assert_eq!(said.status.success(), uid != B, "{said:?}");
    let text = String::from_utf8(said.stdout).unwrap();
    (
        text.lines().filter(|l| l.starts_with("secret")).count(),
        begin.elapsed(),
    )
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Runs `what` by turns on the small and the big one, and gives the medians.
fn by_turns(rounds: usize, mut what: impl FnMut(bool, usize)) -> [Duration; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for big in [false, true] {
            let begin = Instant::now();
            what(big, round);
            times[usize::from(big)].push(begin.elapsed());
        }
    }
    times.map(median)
}

#[test]
fn many_secrets_cost_as_a_hundred_do() {
    let _deadline = support::Deadline::new(Duration::from_secs(240), "scale");
    let long = support::long_run();
    let count: usize = std::env::var("WARDFS_TEST_SECRETS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(if long { 10_000 } else { 2_000 });
    let begin = Instant::now();
    let mut small = filled(SMALL);
    let mut big = filled(count);
    println!("{count} secrets made in {:?}", begin.elapsed());

    let mut starts = [Duration::ZERO; 2];
    for (product, start) in [&mut small, &mut big].into_iter().zip(&mut starts) {
        let begin = Instant::now();
        product.mount();
        *start = begin.elapsed();
    }
    println!(
        "READY with {SMALL}: {:?}; with {count}: {:?}",
        starts[0], starts[1]
    );
    let resident = support::status_kib(big.pid(), "VmRSS").expect("a running daemon");
    println!("resident with {count}: {resident} KiB");
    // An unoptimised program is several times slower, and is not what is promised.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
    assert!(
        starts[1] < limit.mul_f64((count as f64 / 10_000.0).max(1.0)),
        "READY took {:?}",
        starts[1]
    );

    let (files, took) = listed(&big, A);
    println!("ls -R of {count}: {took:?}");
    assert_eq!(files, count);
    assert_eq!(listed(&big, B).0, 0, "a stranger's listing");
    let begin = Instant::now();
    let list = big.run(&["--json", "list"]).ok().json();
    println!("list --json of {count}: {:?}", begin.elapsed());
    let mut names: Vec<&str> = list["secrets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    let wanted: Vec<String> = (0..count).map(name).collect();
    assert!(
        names == wanted,
        "list --json is not complete: {} of {count}",
        names.len()
    );

    // As many of either, from all over it.
    let chosen = |big_one: bool, round: usize| round % SMALL * (if big_one { count } else { SMALL } / SMALL);
    let file = |big_one: bool, round: usize| -> (PathBuf, String) {
        let (product, i) = (if big_one { &big } else { &small }, chosen(big_one, round));
        (product.path(&name(i)), format!("value {i}"))
    };
    let rounds = if long { 2000 } else { 400 };
    let look: [Duration; 2] = Run::uid(A).limit(Duration::from_secs(60)).call(|| {
        by_turns(rounds, |big, round| {
            std::fs::metadata(file(big, round).0).unwrap();
        })
    });
    let reads = |rounds: usize| -> [Duration; 2] {
        Run::uid(A).limit(Duration::from_secs(60)).call(|| {
            by_turns(rounds, |big, round| {
                let (path, value) = file(big, round);
                assert_eq!(std::fs::read_to_string(path).unwrap(), value);
            })
        })
    };
    // The first one of a secret fetches it from the store and unwraps its key.
    let first = reads(SMALL);
    let read = reads(rounds);
    let mut clients = [&small, &big].map(|p| Client::connect(&p.store()).unwrap().expect("a daemon"));
    let put = by_turns(if long { 100 } else { 40 }, |big_one, round| {
        let mut value = wardfs::sys::mem::secret(8).unwrap();
        value.expose_mut().copy_from_slice(b"replaced");
        let put = serde_json::json!({ "name": name(chosen(big_one, round)) });
        let request = Request::Put(serde_json::from_value(put).unwrap());
        clients[usize::from(big_one)]
            .call(&request, Some(wardfs::control::protocol::Enclosed::Value(value)))
            .unwrap();
    });
    for (what, [few, many]) in [
        ("look-up", look),
        ("first read", first),
        ("read", read),
        ("put", put),
    ] {
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        println!("{what}: median {few:?} with {SMALL}, {many:?} with {count}, ratio {ratio:.2}");
        // A cost that grows with the number would be 20 times as high, or 1,000 times.
        assert!(
            many < few * 5,
            "{what}: {few:?} with {SMALL}, {many:?} with {count}"
        );
    }
}
