//! The six tenets, each in one short and decisive test.

mod support;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use support::product::{A, B, Product, read_as};
use support::{Deadline, Run, become_ids, set_fsids, sys};

const VALUE: &[u8] = b"tenet-value-5f0c9a1e7b3d";

fn served(what: &str) -> (Deadline, Product, std::path::PathBuf) {
    let deadline = Deadline::new(Duration::from_secs(50), what);
    let mut product = Product::new();
    product.put("app/key", VALUE, &["--allow", &format!("uid:{A}")]);
    product.mount();
    let path = product.path("app/key");
    (deadline, product, path)
}

#[test]
fn no_way_round_the_policy() {
    let (_deadline, product, path) = served("no way round the policy");
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(VALUE));
    for uid in [B, 0] {
        assert_eq!(read_as(uid, &[], &path), Err(libc::EACCES));
        assert_eq!(product.run_as(uid, &[], &["get", "app/key"], b"").code(), 3);
        product.refusal(uid, "implicit_deny");
    }
    let inherited = Run::root().call(|| {
        set_fsids(A, A);
        let file = File::open(&path).expect("open");
        set_fsids(0, 0);
        become_ids(B, B, &[]).expect("become B");
        sys::pread(&file, 100, 0).map_err(|e| e.raw_os_error().unwrap_or(0))
    });
    assert_eq!(inherited, Err(libc::EACCES));
}

#[test]
fn no_value_without_a_record() {
    let (_deadline, product, path) = served("no value without a record");
    let reads = || {
        let all = product.records();
        all.iter()
            .filter(|r| r["uid"] == A && r["eventName"] == "GetSecretValue" && r["reason"].is_null())
            .count()
    };
    let before = reads();
    for _ in 0..5 {
        assert_eq!(read_as(A, &[], &path).as_deref(), Ok(VALUE));
    }
    assert!(reads() >= before + 5, "{:?}", product.records());
    // Without its log the daemon gives no byte.
    let log = product.store().join("audit");
    std::fs::remove_dir_all(&log).expect("remove the log");
    assert_eq!(read_as(A, &[], &path), Err(libc::EIO));
}

#[test]
fn a_value_is_right_or_absent() {
    let (_deadline, product, path) = served("right or absent");
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(VALUE));
    for value in [
        "short",
        "a value that is a good deal longer than the first one was",
    ] {
        product.put("app/key", value, &[]);
        assert_eq!(read_as(A, &[], &path).as_deref(), Ok(value.as_bytes()));
    }
}

#[test]
fn a_reader_never_waits_on_a_network() {
    let (_deadline, product, path) = served("no network");
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(VALUE));
    let unix = std::fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
    let mut sockets = 0;
    for fd in std::fs::read_dir(format!("/proc/{}/fd", product.pid()))
        .expect("fd")
        .flatten()
    {
        let Ok(to) = std::fs::read_link(fd.path()) else {
            continue;
        };
        let to = to.to_string_lossy().into_owned();
        if let Some(inode) = to.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']')) {
            sockets += 1;
            assert!(
                unix.lines().any(|l| l.split_whitespace().nth(6) == Some(inode)),
                "{to} is no Unix socket"
            );
        }
    }
    assert!(sockets > 0, "the control socket at least");
}

#[test]
fn acknowledged_means_durable() {
    let (_deadline, mut product, path) = served("durable");
    for turn in 0..5 {
        let value = format!("acknowledged-{turn}");
        product.put("app/key", &value, &[]);
        product.kill();
        product.mount();
        assert_eq!(read_as(A, &[], &path).as_deref(), Ok(value.as_bytes()));
    }
    product.run(&["audit", "verify"]).ok();
}

/// Whether the readable memory of `pid` holds `needle`, and how many bytes were looked at.
fn memory_holds(pid: u32, needle: &[u8]) -> (bool, usize) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let mut memory = File::open(format!("/proc/{pid}/mem")).expect("mem");
    let (mut found, mut looked) = (false, 0);
    for line in maps
        .lines()
        .filter(|l| l.split(' ').nth(1).is_some_and(|p| p.starts_with("rw")))
    {
        let (from, to) = line
            .split(' ')
            .next()
            .and_then(|r| r.split_once('-'))
            .expect("a range");
        let at = |text| u64::from_str_radix(text, 16).expect("hex");
        let mut bytes = vec![0; (at(to) - at(from)) as usize];
        memory.seek(SeekFrom::Start(at(from))).expect("seek");
        if memory.read_exact(&mut bytes).is_ok() {
            looked += bytes.len();
            found |= bytes.windows(needle.len()).any(|w| w == needle);
        }
    }
    (found, looked)
}

#[test]
fn plaintext_lives_for_one_request() {
    let (_deadline, product, path) = served("plaintext");
    for _ in 0..3 {
        assert_eq!(read_as(A, &[], &path).as_deref(), Ok(VALUE));
    }
    let (found, looked) = memory_holds(product.pid(), VALUE);
    assert!(looked > 100_000, "only {looked} bytes could be looked at");
    assert!(!found, "the value is still in the daemon's memory");
    // What the search would find: the secret's name is no secret, and must be there.
    assert!(memory_holds(product.pid(), b"app/key").0);
}
