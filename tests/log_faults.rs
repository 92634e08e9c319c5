//! The log full, read-only, deleted, rotated and flooded, under the real daemon: no byte without its record, and
//! service is back within a second of the cause clearing.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::product::{A, B, Product, read_as};
use support::small::Small;
use support::{Deadline, Run};

const VALUE: &[u8] = b"s3cret";
const NAME: &str = "app/db/password";

/// A store with one secret of A's, with these settings of the log, not mounted yet.
fn product(settings: &str) -> Product {
    let product = Product::new();
    let file = product.store().join("wardfs.toml");
    std::fs::write(&file, format!("[audit]\n{settings}\n")).expect("wardfs.toml");
    product.put(NAME, VALUE, &["--allow", &format!("uid:{A}")]);
    product
}

fn read(product: &Product) -> Result<Vec<u8>, i32> {
    read_as(A, &[], &product.path(NAME))
}

fn segment(product: &Product, number: u64) -> PathBuf {
    product.store().join(format!("audit/{number:08}.jsonl"))
}

/// Reads until it works again; it must within the second that is promised.
#[track_caller]
fn back_within_a_second(product: &Product) {
    let began = Instant::now();
    loop {
        match read(product) {
            Ok(bytes) => {
                assert_eq!(bytes, VALUE);
                println!("back after {:?}", began.elapsed());
                return;
            }
            Err(e) => {
                assert_eq!(e, libc::EIO);
                assert!(
                    began.elapsed() < Duration::from_secs(1),
                    "not back after a second"
                );
            }
        }
    }
}

#[test]
fn full() {
    let _deadline = Deadline::new(Duration::from_secs(60), "full");
    let mut product = product("reserve_bytes = 262144");
    let small = Small::under(&product, "1m");
    product.mount();
    let mut reads = 0;
    for round in 0..3 {
        assert_eq!(read(&product), Ok(VALUE.to_vec()));
        reads += 1;
        small.fill();
        // What the file system had given before is used up first; each of these reads has its record.
        let refused = (0..2000).map(|_| read(&product)).find(|got| {
            reads += usize::from(got.is_ok());
            got.is_err()
        });
        assert_eq!(refused, Some(Err(libc::EIO)), "round {round}");
        for _ in 0..20 {
            assert_eq!(read(&product), Err(libc::EIO), "round {round}");
        }
        assert_eq!(
            read_as(B, &[], &product.path(NAME)),
            Err(libc::EACCES),
            "a refusal stays one"
        );
        // Administration goes on in what is reserved.
        product.put("other", format!("{round}"), &["--allow", &format!("uid:{A}")]);
        product
            .run(&["policy", "allow", "other", &format!("uid:{B}")])
            .ok();
        assert_eq!(
            product.run(&["--json", "list"]).ok().json()["secrets"]
                .as_array()
                .map(Vec::len),
            Some(2)
        );
        small.clear();
        back_within_a_second(&product);
        reads += 1;
    }
    product.stop();
    assert_eq!(
        product.recorded_reads(),
        reads,
        "each read that gave bytes, and no other"
    );
    product.run(&["audit", "verify"]).ok();
    // Before the directory that it is mounted in can go.
    drop(small);
}

/// Takes the attribute away however the test ends.
struct Immutable(PathBuf);

impl Immutable {
    fn set(path: &Path) -> Immutable {
        Immutable::chattr("+i", path);
        Immutable(path.into())
    }

    fn chattr(flag: &str, path: &Path) {
        let done = Command::new("chattr")
            .arg(flag)
            .arg(path)
            .status()
            .expect("chattr (e2fsprogs) runs");
        assert!(done.success(), "chattr {flag} {}", path.display());
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        Immutable::chattr("-i", &self.0);
    }
}

#[test]
fn read_only() {
    let _deadline = Deadline::new(Duration::from_secs(60), "read-only");
    let mut product = product("");
    product.mount();
    let mut reads = 0;
    for _ in 0..3 {
        assert_eq!(read(&product), Ok(VALUE.to_vec()));
        {
            let _immutable = Immutable::set(&segment(&product, 1));
            for _ in 0..10 {
                assert_eq!(read(&product), Err(libc::EIO));
            }
            assert_eq!(read_as(B, &[], &product.path(NAME)), Err(libc::EACCES));
            let put = product.run_with(&["put", NAME], b"never");
            assert_eq!(put.code(), 7, "{put:?}");
        }
        back_within_a_second(&product);
        reads += 2;
    }
    product.stop();
    assert_eq!(product.recorded_reads(), reads);
    product.run(&["audit", "verify"]).ok();
    let refusals = product.records().iter().filter(|r| r["uid"] == B).count();
    assert!(refusals > 0, "refusals in between are told when the log is back");
}

#[test]
fn deleted() {
    let _deadline = Deadline::new(Duration::from_secs(60), "deleted");
    let mut product = product("");
    product.mount();
    assert_eq!(read(&product), Ok(VALUE.to_vec()));
    // The segment: no byte in the same call, then a new segment that says what happened.
    std::fs::remove_file(segment(&product, 1)).expect("remove");
    let first = read(&product);
    assert_eq!(first, Err(libc::EIO), "the record of this read would be nowhere");
    back_within_a_second(&product);
    assert!(segment(&product, 2).exists());
    let verify = product.run(&["audit", "verify"]);
    assert_eq!(verify.code(), 6, "{verify:?}");
    assert!(
        format!("{}{}", verify.out, verify.err).contains("missing"),
        "{verify:?}"
    );

    // The directory: nothing until there is a place for the log.
    let audit = product.store().join("audit");
    std::fs::remove_dir_all(&audit).expect("remove");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(400) {
        assert_eq!(read(&product), Err(libc::EIO));
    }
    std::fs::create_dir(&audit).expect("mkdir");
    std::fs::set_permissions(&audit, PermissionsExt::from_mode(0o700)).expect("chmod");
    back_within_a_second(&product);
    assert!(segment(&product, 3).exists());

    // Moved away is gone too, and put back is there again.
    let elsewhere = product.dir().join("moved");
    std::fs::rename(segment(&product, 3), &elsewhere).expect("rename");
    support::wait_until(Duration::from_secs(1), "the move to be noticed", || {
        read(&product) == Err(libc::EIO)
    });
    back_within_a_second(&product);
    product.put("other", "value", &["--allow", &format!("uid:{A}")]);
    assert_eq!(read_as(A, &[], &product.path("other")), Ok(b"value".to_vec()));
}

#[test]
fn a_log_behind_a_link_is_refused() {
    let _deadline = Deadline::new(Duration::from_secs(60), "a link");
    let mut product = product("");
    let (audit, elsewhere) = (product.store().join("audit"), product.dir().join("elsewhere"));
    std::fs::rename(&audit, &elsewhere).expect("rename");
    std::os::unix::fs::symlink(&elsewhere, &audit).expect("symlink");
    let said = product.try_mount(&[]).expect("refused");
    assert!(said.code() == 6 && said.err.contains("it is a link"), "{said:?}");
    std::fs::remove_file(&audit).expect("remove");
    std::fs::rename(&elsewhere, &audit).expect("rename");
    std::fs::rename(segment(&product, 1), &elsewhere).expect("rename");
    std::os::unix::fs::symlink(&elsewhere, segment(&product, 1)).expect("symlink");
    let said = product.try_mount(&[]).expect("refused");
    assert!(said.code() == 6 && said.err.contains("symbolic link"), "{said:?}");
}

#[test]
fn rotation_under_load_and_a_tail_that_follows() {
    let _deadline = Deadline::new(Duration::from_secs(120), "rotation");
    let mut product = product("segment_bytes = 65536");
    product.mount();
    let mut tail = product.command(&["--json", "audit", "tail", "-f"]);
    let mut tail = tail
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tail");
    let lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    let (tell, told) = std::sync::mpsc::channel::<Value>();
    let follower = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let record = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            if tell.send(record).is_err() {
                return;
            }
        }
    });
    // It follows once it has shown what was there.
    let mut last = told
        .recv_timeout(Duration::from_secs(5))
        .expect("the latest records")["seq"]
        .as_u64()
        .expect("seq");
    let (readers, each) = (4, if support::long_run() { 20_000 } else { 500 });
    let path = product.path(NAME);
    let children: Vec<_> = (0..readers)
        .map(|_| {
            let path = path.clone();
            Run::uid(A).limit(Duration::from_secs(100)).start(move || {
                let good = (0..each).filter(|_| std::fs::read(&path).is_ok_and(|b| b == VALUE));
                good.count()
            })
        })
        .collect();
    let changes = 20;
    for i in 0..changes {
        product.put("other", format!("{i}"), &[]);
    }
    for child in children {
        assert_eq!(child.join(), each);
    }
    product.put("the/end", "x", &[]);
    let mut seen_reads = 0;
    loop {
        let record = told
            .recv_timeout(Duration::from_secs(10))
            .expect("the end of the log");
        let seq = record["seq"].as_u64().expect("seq");
        assert_eq!(seq, last + 1, "the tail lost or doubled a record");
        last = seq;
        seen_reads += usize::from(record["eventName"] == "GetSecretValue");
        if record["requestParameters"]["secretId"] == "the/end" {
            break;
        }
    }
    let _ = tail.kill();
    let _ = tail.wait();
    drop(told);
    let _ = follower.join();
    assert_eq!(seen_reads, readers * each);
    assert_eq!(product.recorded_reads(), readers * each);
    let segments = std::fs::read_dir(product.store().join("audit"))
        .expect("list")
        .count();
    println!("{} records in {segments} segments", last);
    assert!(segments > 5, "{segments}");
    product.run(&["audit", "verify"]).ok();
    product.stop();
    product.run(&["audit", "verify"]).ok();

    // Every record, one a line, in order, the uid a number.
    for (i, record) in product.records().iter().enumerate() {
        assert_eq!(record["seq"].as_u64(), Some(i as u64 + 1));
        assert!(record["uid"].is_u64(), "{record}");
    }
}

#[test]
fn a_tail_follows_across_a_recovery() {
    let _deadline = Deadline::new(Duration::from_secs(60), "tail across a recovery");
    let mut product = product("");
    product.mount();
    let mut tail = product.command(&["--json", "audit", "tail", "-f", "--lines", "1"]);
    let mut tail = tail
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tail");
    let lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    let (tell, told) = std::sync::mpsc::channel::<Value>();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = tell.send(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")));
        }
    });
    let see = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            match told.recv_timeout(Duration::from_millis(200)) {
                Ok(record) if wanted(&record) => return,
                _ => {}
            }
        }
        panic!("the tail does not show {what}");
    };
    see("the latest", &|_| true);
    {
        let _immutable = Immutable::set(&segment(&product, 1));
        assert_eq!(read(&product), Err(libc::EIO));
    }
    back_within_a_second(&product);
    see("the read after a failure", &|r| {
        r["eventName"] == "GetSecretValue"
    });
    let audit = product.store().join("audit");
    std::fs::remove_dir_all(&audit).expect("remove");
    assert_eq!(read(&product), Err(libc::EIO));
    std::thread::sleep(Duration::from_millis(500));
    std::fs::create_dir(&audit).expect("mkdir");
    back_within_a_second(&product);
    see("the read after the directory was put back", &|r| {
        r["eventName"] == "GetSecretValue"
    });
    let _ = tail.kill();
    let _ = tail.wait();
}

#[test]
fn a_flood_is_bounded_and_counted_exactly() {
    let _deadline = Deadline::new(Duration::from_secs(60), "flood");
    let mut product = product("");
    // Each open of it is one LOOKUP; where A has just opened the same file, the kernel asks for B twice.
    product.put("flooded", VALUE, &["--allow", &format!("uid:{A}")]);
    product.mount();
    let path = product.path("flooded");
    let attempts: usize = if support::long_run() { 100_000 } else { 5000 };
    let began = Instant::now();
    let flood = Run::uid(B).limit(Duration::from_secs(50)).start(move || {
        let refused = (0..attempts)
            .filter(|_| std::fs::File::open(&path).is_err_and(|e| e.raw_os_error() == Some(libc::EACCES)));
        refused.count()
    });
    let reads = 200;
    for _ in 0..reads {
        assert_eq!(read(&product), Ok(VALUE.to_vec()));
    }
    assert_eq!(flood.join(), attempts);
    let seconds = began.elapsed().as_secs() as usize + 2;
    product.stop();
    let records = product.records();
    let of_b = |r: &&Value| r["uid"] == B;
    let summaries = || records.iter().filter(of_b).filter(|r| r["suppressed"].is_u64());
    let suppressed: u64 = summaries().filter_map(|r| r["suppressed"].as_u64()).sum();
    let written = records
        .iter()
        .filter(of_b)
        .filter(|r| r["suppressed"].is_null() && r["outcome"] == "denied")
        .count();
    assert_eq!(
        written + suppressed as usize,
        attempts,
        "{written} written, {suppressed} counted"
    );
    assert!(
        written + summaries().count() <= 11 * seconds,
        "{written} lines in {seconds} s"
    );
    assert_eq!(
        product.recorded_reads(),
        reads,
        "allowed reads are never suppressed"
    );
    println!("{attempts} refusals: {written} written, {suppressed} counted, {seconds} s");
    product.run(&["audit", "verify"]).ok();
}

fn held(product: &Product) -> u64 {
    let status = product.run(&["--json", "status"]).ok().json();
    status["counters"]["held"].as_u64().expect("a counter")
}

/// Bytes of the log that speak of this uid's reads.
fn bytes_of(product: &Product, uid: u32) -> usize {
    let text = std::fs::read_to_string(segment(product, 1)).expect("log");
    let mine = format!("\"uid\":{uid},");
    let lines = text
        .lines()
        .filter(|l| l.contains(&mine) && l.contains("GetSecretValue"));
    lines.map(str::len).sum()
}

#[test]
fn full_without_a_daemon_and_for_a_backup() {
    let _deadline = Deadline::new(Duration::from_secs(60), "full, without a daemon");
    let product = product("reserve_bytes = 262144");
    product.put("mine", VALUE, &["--allow", "uid:0"]);
    let backup = product.dir().join("backup");
    let backup = ["store", "backup", backup.to_str().expect("a path")];
    let small = Small::under(&product, "1m");
    small.fill();
    let refused = (0..2000)
        .map(|_| product.run(&["get", "mine"]))
        .find(|said| said.code() != 0);
    let refused = refused.expect("a refusal");
    assert_eq!(refused.code(), 7, "{refused:?}");
    assert!(
        refused.err.contains("no space left for audit records"),
        "{refused:?}"
    );
    // Opened anew on a full disk, it has the reserve that it was given before.
    product.run(&backup).ok();
    std::fs::remove_file(backup[2]).expect("remove");
    small.clear();
    product.run(&["get", "mine"]).ok();
    product.run(&backup).ok();
    // A backup that has no room is told, and leaves nothing that could be taken for one.
    let elsewhere = product.dir().join("small");
    std::fs::create_dir(&elsewhere).expect("mkdir");
    let tmpfs = Small::on(&elsewhere, "size=4k");
    tmpfs.fill();
    let file = tmpfs.0.join("backup");
    for size in [10, 60_000] {
        product.put("large", vec![b'x'; size], &["--allow", "uid:0"]);
        let said = product.run(&["store", "backup", file.to_str().expect("a path")]);
        assert_eq!(said.code(), 1, "{said:?}");
        assert!(said.err.contains("No space left"), "{said:?}");
        assert!(!file.exists());
    }
}

#[test]
fn under_siege_the_flooding_uid_is_slowed_alone() {
    let _deadline = Deadline::new(Duration::from_secs(60), "siege");
    const RATE: usize = 16384;
    let mut product = product(&format!("uid_bytes_per_second = {RATE}"));
    product.put("other", VALUE, &["--allow", &format!("uid:{B}")]);
    let _small = Small::under(&product, "16m");
    product.mount();
    let (path, began) = (product.path(NAME), Instant::now());
    let flood = || {
        let mut reads = 0;
        while began.elapsed() < Duration::from_secs(6) {
            assert_eq!(std::fs::read(&path).expect("an allowed read"), VALUE);
            reads += 1;
        }
        reads
    };
    let floods: Vec<_> = (0..4).map(|_| Run::uid(A).start(flood)).collect();
    // Once the burst is spent, another uid's reads are as quick as ever.
    support::wait_until(Duration::from_secs(10), "the first read is held", || {
        held(&product) > 0
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..300 {
        let one = Instant::now();
        assert_eq!(read_as(B, &[], &product.path("other")), Ok(VALUE.to_vec()));
        slowest = slowest.max(one.elapsed());
    }
    let reads: u32 = floods.into_iter().map(|flood| flood.join()).sum();
    let (took, bytes) = (began.elapsed(), bytes_of(&product, A));
    println!("{reads} reads, {bytes} bytes in {took:?}; the other's slowest {slowest:?}");
    let most = RATE * 16 + (RATE as f64 * took.as_secs_f64()) as usize;
    assert!(bytes <= most + RATE / 4, "{bytes} bytes of at most {most}");
    assert!(bytes >= most / 2, "{bytes} bytes: slowed more than was said");
    assert!(slowest < Duration::from_secs(1), "the other waited {slowest:?}");
    product.stop();
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn a_read_that_was_held_back_is_decided_when_it_is_answered() {
    let _deadline = Deadline::new(Duration::from_secs(60), "held");
    let mut product = product("uid_bytes_per_second = 64");
    product.put("other", VALUE, &["--allow", &format!("uid:{B}")]);
    let _small = Small::under(&product, "16m");
    product.mount();
    let until_refused = |path: PathBuf| {
        move || {
            let mut got = 0;
            loop {
                match std::fs::read(&path) {
                    Ok(bytes) => got += usize::from(bytes == VALUE),
                    Err(e) => return (got, e.raw_os_error()),
                }
            }
        }
    };
    let reader = Run::uid(A).start(until_refused(product.path(NAME)));
    support::wait_until(Duration::from_secs(10), "a read is held", || held(&product) > 0);
    product.run(&["policy", "deny", NAME, &format!("uid:{A}")]).ok();
    let (got, error) = reader.join();
    assert_eq!(error, Some(libc::EACCES));
    assert!((1..10).contains(&got), "{got}");
    // The refusal may meet the second READ of `read`, at the value's end.
    let recorded = product.recorded_reads();
    assert!(
        recorded == got || recorded == got + 1,
        "{recorded} records of {got}"
    );
    // The daemon ends although somebody waits, who is told.
    let before = held(&product);
    let waiting = Run::uid(B).start(until_refused(product.path("other")));
    support::wait_until(Duration::from_secs(10), "another read is held", || {
        held(&product) > before
    });
    product.stop();
    assert!(waiting.join().1.is_some());
}

#[test]
fn who_is_over_his_budget_has_his_refusals_counted() {
    let _deadline = Deadline::new(Duration::from_secs(60), "refusals under siege");
    let mut product = product("uid_bytes_per_second = 64");
    let _small = Small::under(&product, "16m");
    product.mount();
    for _ in 0..200 {
        assert_eq!(read_as(B, &[], &product.path(NAME)), Err(libc::EACCES));
    }
    product.stop();
    let records = product.records();
    let of_b = |r: &&Value| r["uid"] == B;
    let written = records
        .iter()
        .filter(of_b)
        .filter(|r| r["outcome"] == "denied")
        .count();
    let counted: u64 = records
        .iter()
        .filter(of_b)
        .filter_map(|r| r["suppressed"].as_u64())
        .sum();
    assert!(written <= 10, "{written}");
    assert!(written as u64 + counted >= 200, "{written} + {counted}");
    product.run(&["audit", "verify"]).ok();
}
