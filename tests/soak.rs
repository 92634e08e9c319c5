//! Mixed work for a long time: readers of several uids, puts, policy changes, log rotation and kills. Slopes of the
//! daemon's memory, descriptors and of a read's time are printed; every answer is right.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::product::{A, B, Product, read_as};
use support::rig::{Dice, Rig, SECRETS, number, value};
use support::{Child, Deadline, Run};

/// One look at the daemon.
struct Sample {
    at: Duration,
    resident: u64,
    descriptors: usize,
    read: Duration,
}

fn sample(rig: &Rig, begun: Instant) -> Sample {
    let pid = rig.product.pid();
    let resident = support::status_kib(pid, "VmRSS").unwrap_or(0);
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let path = rig.product.path(SECRETS[0]);
    let mut times: Vec<Duration> = Run::uid(A).call(|| {
        (0..100)
            .map(|_| {
                let one = Instant::now();
                let _ = std::fs::read(&path);
                one.elapsed()
            })
            .collect()
    });
    times.sort();
    Sample {
        at: begun.elapsed(),
        resident,
        descriptors,
        read: times[50],
    }
}

/// The change of `y` in a minute, by least squares.
fn slope(samples: &[Sample], y: impl Fn(&Sample) -> f64) -> f64 {
    let n = samples.len() as f64;
    let x = |s: &Sample| s.at.as_secs_f64() / 60.0;
    let (mx, my) = (
        samples.iter().map(x).sum::<f64>() / n,
        samples.iter().map(&y).sum::<f64>() / n,
    );
    let over: f64 = samples.iter().map(|s| (x(s) - mx) * (y(s) - my)).sum();
    let under: f64 = samples.iter().map(|s| (x(s) - mx).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

/// Reads until the flag is there; how many values it got.
fn reader(rig: &Rig, uid: u32, allowed: bool) -> Child<u64> {
    let paths = SECRETS.map(|n| rig.product.path(n));
    let flag = rig.product.dir().join("stop");
    Run::uid(uid).limit(Duration::from_secs(120)).start(move || {
        let mut got = 0;
        while !flag.exists() {
            for (path, name) in paths.iter().zip(SECRETS) {
                match std::fs::read_to_string(path) {
                    Ok(text) => {
                        assert!(allowed, "a stranger read {name}");
                        assert_eq!(text, value(name, number(&text)), "a torn value");
                        got += 1;
                    }
                    Err(e) => {
                        let code = e.raw_os_error().unwrap_or(0);
                        let dead = [libc::ENOTCONN, libc::ECONNABORTED, libc::ENOENT];
                        assert!(dead.contains(&code) || (!allowed && code == libc::EACCES), "{e}");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        }
        got
    })
}

#[test]
fn mixed_work_for_a_long_time() {
    let long = support::long_run();
    let time = Duration::from_secs(if long { 1800 } else { 15 });
    let _deadline = Deadline::new(time + Duration::from_secs(120), "soak");
    let mut dice = Dice::new();
    let product = Product::new();
    let settings = "[audit]\nsegment_bytes = 1048576\n";
    std::fs::write(product.store().join("wardfs.toml"), settings).expect("settings");
    let mut rig = Rig::new(product);
    let (begun, mut samples, mut lives) = (Instant::now(), Vec::new(), 0u32);
    let (changes, reads) = (AtomicU64::new(0), AtomicU64::new(0));
    while begun.elapsed() < time {
        rig.product.mount();
        lives += 1;
        let flag = rig.product.dir().join("stop");
        let _ = std::fs::remove_file(&flag);
        let readers = [
            reader(&rig, A, true),
            reader(&rig, A, true),
            reader(&rig, B, false),
        ];
        // A life of the daemon: a minute and more, or a few seconds of the short run.
        let life = Duration::from_millis(if long { 45_000 } else { 4_000 } + dice.below(5_000));
        let end = Instant::now() + life;
        let fresh = samples.len();
        changes.fetch_add(
            rig.load(|| {
                while Instant::now() < end {
                    std::thread::sleep(Duration::from_secs(1));
                    samples.push(sample(&rig, begun));
                }
            }),
            Ordering::Relaxed,
        );
        // The first second of a life is not like the others.
        samples.remove(fresh);
        match lives % 3 {
            0 => rig.product.stop(),
            _ => rig.product.crash(),
        }
        std::fs::write(&flag, "").expect("stop");
        for reader in readers {
            reads.fetch_add(reader.join(), Ordering::Relaxed);
        }
        rig.check();
    }
    assert!(
        read_as(A, &[], &rig.product.path(SECRETS[0])).is_err(),
        "nothing is mounted"
    );
    let last = samples.last().expect("a sample");
    println!(
        "{:?}: {lives} lives of the daemon, {} reads, {} changes, 0 wrong answers",
        begun.elapsed(),
        reads.load(Ordering::Relaxed),
        changes.load(Ordering::Relaxed)
    );
    println!(
        "slopes a minute: resident {:+.1} KiB (last {} KiB), descriptors {:+.3} (last {}), read {:+.3} µs (last {:?})",
        slope(&samples, |s| s.resident as f64),
        last.resident,
        slope(&samples, |s| s.descriptors as f64),
        last.descriptors,
        slope(&samples, |s| s.read.as_secs_f64() * 1e6),
        last.read
    );
}
