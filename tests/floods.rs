//! Floods of what is refused, through a real mount and the control socket: the log grows by a bounded number of bytes,
//! nobody's single refusal is hidden, and what is not written is counted exactly. A reads, all others are strangers.

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::attackers::{Account, build};
use support::product::{A, Product, read_as};
use support::small::Small;
use support::{Child, Deadline, Run};
use wardfs::control::client::Client;
use wardfs::control::protocol::{Enclosed, Request};
use wardfs::problem::Exit;
use wardfs::store::embedded::Embedded;
use wardfs::store::{Batch, Store, Table};

const VALUE: &[u8] = b"a value";

/// An unmounted store with these secrets, which A alone may read.
fn product(names: &[&str]) -> Product {
    let product = Product::new();
    for name in names {
        product.put(name, VALUE, &["--allow", &format!("uid:{A}")]);
    }
    product
}

fn log_bytes(product: &Product) -> u64 {
    let segments = std::fs::read_dir(product.store().join("audit")).expect("log");
    segments
        .map(|s| s.expect("segment").metadata().expect("size").len())
        .sum()
}

/// What is on record of refusals: written one by one, and counted.
fn told(records: &[Value]) -> (u64, u64) {
    let written = records
        .iter()
        .filter(|r| r["suppressed"].is_null() && r["outcome"] != "allowed");
    let counted = records.iter().filter_map(|r| r["suppressed"].as_u64());
    (written.count() as u64, counted.sum())
}

/// A reads for this long; how long each read took, shortest first.
fn reader(path: PathBuf, time: Duration) -> Child<Vec<f64>> {
    Run::uid(A).limit(Duration::from_secs(50)).start(move || {
        let (began, mut took) = (Instant::now(), Vec::new());
        while began.elapsed() < time {
            let one = Instant::now();
            assert_eq!(std::fs::read(&path).expect("an allowed read"), VALUE);
            took.push(one.elapsed().as_secs_f64() * 1e3);
            std::thread::sleep(Duration::from_millis(1));
        }
        took.sort_by(f64::total_cmp);
        took
    })
}

/// `manyg` as an account that has all the groups it can.
fn looks(account: &Account, groups: u32, seconds: u32, path: &Path) -> std::process::Child {
    let mut command = account.command("timeout");
    command.arg("30").arg(build("manyg"));
    let ids = account.subids.to_string();
    command
        .args([&groups.to_string(), &ids, &ids, &seconds.to_string()])
        .arg(path);
    command.stderr(Stdio::piped()).spawn().expect("manyg")
}

/// How long each refused look took, in microseconds.
fn each_look(looks: std::process::Child) -> f64 {
    let said = looks.wait_with_output().expect("manyg");
    let text = String::from_utf8_lossy(&said.stderr);
    let Some((calls, rest)) = text.lines().find_map(|l| l.split_once(" calls, ")) else {
        panic!("{text}");
    };
    assert!(rest.starts_with(&format!("{calls} EACCES")), "{text}");
    let each = rest.rsplit(", ").next().and_then(|t| t.strip_suffix(" us each"));
    each.and_then(|t| t.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn very_many_groups_make_no_long_record_and_keep_nobody_waiting() {
    let _deadline = Deadline::new(Duration::from_secs(60), "many groups");
    let account = Account::new("wfs6groups", 61600, &[]);
    let mut product = product(&["app/key"]);
    product.mount();
    let path = product.path("app/key");
    let one = each_look(looks(&account, 1, 2, &path));
    let many = each_look(looks(&account, 65_536, 3, &path));
    let idle = reader(path.clone(), Duration::from_secs(1)).join();
    let (before, reads) = (log_bytes(&product), product.recorded_reads());
    let beside = reader(path.clone(), Duration::from_secs(4));
    let four: Vec<_> = (0..4).map(|_| looks(&account, 65_536, 3, &path)).collect();
    let four: Vec<f64> = four.into_iter().map(each_look).collect();
    let beside = beside.join();
    let grown = log_bytes(&product) - before;
    let reads = (product.recorded_reads() - reads) as u64;
    let middle = |took: &[f64]| (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!(
        "a refused look: {one} us with 1 group, {many} us with 65,536, {four:?} beside each other; a read: idle {:?} ms, beside four of them {:?} ms; \
         {reads} reads, the log grew by {grown} bytes",
        middle(&idle),
        middle(&beside)
    );
    assert!(
        many < 4.0 * one + 200.0,
        "{many} us with many groups, {one} us with one"
    );
    let (median, slow) = middle(&beside);
    assert!(median < 20.0 && slow < 100.0, "{median} and {slow} ms");
    assert!(grown < reads * 1024 + (512 << 10), "{grown} bytes");
    product.stop();
    let records = product.records();
    let long = records
        .iter()
        .find(|r| r["groupsTotal"] == 65_536)
        .expect("a record of many groups");
    assert_eq!(long["groups"].as_array().expect("groups").len(), 32, "{long}");
    assert_eq!(long["groupsSha256"].as_str().map(str::len), Some(64), "{long}");
    let longest = records.iter().map(|r| r.to_string().len()).max();
    assert!(longest < Some(2048), "{longest:?}");
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn invented_names_over_the_socket_fill_no_log() {
    let _deadline = Deadline::new(Duration::from_secs(60), "invented names");
    let mut product = product(&["app/key"]);
    product.mount();
    let (store, before) = (product.store(), log_bytes(&product));
    let flood = |k: u32| {
        let store = store.clone();
        move || {
            let (began, mut asked) = (Instant::now(), 0u64);
            let mut client = Client::connect(&store).expect("connect").expect("a daemon");
            while began.elapsed() < Duration::from_secs(4) {
                let name = format!("z/{}/{k}-{asked}", "n".repeat(200));
                let put = json!({ "command": "put", "name": name });
                let request: Request = serde_json::from_value(put).expect("a request");
                let mut value = wardfs::sys::mem::secret(1).expect("locked memory");
                value.expose_mut()[0] = b'x';
                let said = client.call(&request, Some(Enclosed::Value(value)));
                assert!(said.is_err_and(|e| e.exit == Exit::Denied));
                asked += 1;
            }
            asked
        }
    };
    let floods: Vec<_> = (0..16)
        .map(|k| Run::uid(61_601).limit(Duration::from_secs(20)).start(flood(k)))
        .collect();
    let asked: u64 = floods.into_iter().map(Child::join).sum();
    product.stop();
    let grown = log_bytes(&product) - before;
    println!("{asked} refused puts of invented names: the log grew by {grown} bytes");
    assert!(grown < 128 << 10, "{grown} bytes");
    let (written, counted) = told(&product.records());
    assert_eq!(written + counted, asked);
    product.run(&["audit", "verify"]).ok();
}

/// Damages the record of the first secret that was put.
fn damage(product: &Product) {
    let store = Embedded::open(product.store()).expect("open");
    let mut batch = Batch::new();
    let key = 1u64.to_be_bytes();
    let mut bytes = store.get(Table::Secret, &key).expect("get").expect("a record");
    *bytes.last_mut().expect("bytes") ^= 1;
    batch.put(Table::Secret, key.as_slice(), bytes);
    store
        .commit(store.revision().expect("revision"), &batch)
        .expect("commit");
}

#[test]
fn a_damaged_secret_is_on_record_once_and_looks_like_a_missing_one() {
    let _deadline = Deadline::new(Duration::from_secs(60), "damaged");
    const STRANGER: u32 = 61_602;
    let mut product = product(&["app/bad", "app/good"]);
    damage(&product);
    product.mount();
    let stat = |uid, name: &str| {
        let path = product.path(name);
        let errno = |e: std::io::Error| e.raw_os_error().unwrap_or(0);
        Run::uid(uid).call(move || std::fs::metadata(&path).map(drop).map_err(errno))
    };
    assert_eq!(stat(STRANGER, "app/zzz"), Err(libc::ENOENT));
    assert_eq!(stat(STRANGER, "app/bad"), Err(libc::ENOENT));
    assert_eq!(stat(0, "app/bad"), Err(libc::EIO));
    let before = log_bytes(&product);
    let path = product.path("app/bad");
    let looked: u64 = Run::uid(STRANGER).limit(Duration::from_secs(30)).call(move || {
        let is_missing =
            |_: &u64| std::fs::metadata(&path).is_err_and(|e| e.raw_os_error() == Some(libc::ENOENT));
        (0..5000).filter(is_missing).count() as u64
    });
    assert_eq!(looked, 5000);
    let grown = log_bytes(&product) - before;
    println!("{looked} looks at a damaged secret: the log grew by {grown} bytes");
    assert!(grown < 128 << 10, "{grown} bytes");
    // The same by every command, word for word.
    let rule = format!("uid:{STRANGER}");
    for command in [
        &["describe", "NAME"][..],
        &["versions", "NAME"],
        &["policy", "get", "NAME"],
        &["policy", "allow", "NAME", &rule],
        &["policy", "explain", "NAME", "--as", &rule],
        &["why", "NAME"],
        &["why", "NAME", "--uid", &rule[4..]],
        &["tag", "NAME", "a=b"],
        &["label", "move", "NAME", "x", "--to", "current"],
        &["delete", "NAME", "--now"],
        &["delete", "NAME", "--now", "--purge"],
        &["put", "NAME"],
    ] {
        let said = ["app/bad", "app/zzz"].map(|name| {
            let args: Vec<&str> = command
                .iter()
                .map(|a| if *a == "NAME" { name } else { *a })
                .collect();
            let said = product.run_as(STRANGER, &[], &args, b"value");
            (
                said.code(),
                said.out.replace(name, "NAME"),
                said.err.replace(name, "NAME"),
            )
        });
        assert_eq!(said[0], said[1], "{command:?}");
        assert_ne!(said[0].0, 6, "{command:?}: {said:?}");
    }
    product.stop();
    let records = product.records();
    let bad: Vec<&Value> = records
        .iter()
        .filter(|r| r["eventName"] == "IntegrityError")
        .collect();
    let first = bad
        .iter()
        .find(|r| r["uid"] == STRANGER)
        .expect("the first look of the stranger");
    assert!(first["pid"].is_u64() && first["command"].is_string(), "{first}");
    assert_eq!(first["requestParameters"]["secretId"], "app/bad");
    let counted: u64 = records
        .iter()
        .filter_map(|r| r["refusedEvents"]["IntegrityError"].as_u64())
        .sum();
    assert!(bad.len() as u64 + counted >= 5002, "{} and {counted}", bad.len());
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn a_flood_hides_no_single_refusal_and_no_count_is_lost() {
    let _deadline = Deadline::new(Duration::from_secs(100), "a flood");
    let names: Vec<String> = (0..60).map(|i| format!("app/{}{i}", "n".repeat(100))).collect();
    let mut product = product(&names.iter().map(String::as_str).collect::<Vec<_>>());
    product.mount();
    let before = log_bytes(&product);
    let paths: Vec<PathBuf> = names.iter().map(|n| product.path(n)).collect();
    let seconds = if support::long_run() { 60 } else { 5 };
    let flood = || {
        let began = Instant::now();
        for path in paths.iter().cycle() {
            if began.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            let _ = std::fs::metadata(path);
            let _ = std::fs::File::open(path);
        }
    };
    let limit = Duration::from_secs(seconds + 20);
    let floods: Vec<_> = (0..16)
        .map(|k| Run::uid(61_610 + k).limit(limit).start(flood))
        .collect();
    std::thread::sleep(Duration::from_secs(seconds) * 3 / 4);
    // In the midst of it.
    assert_eq!(read_as(61_603, &[], &paths[0]), Err(libc::EACCES));
    let deleted = product.run_as(61_604, &[], &["delete", &names[0], "--now"], b"");
    assert_eq!(deleted.code(), 3, "{deleted:?}");
    let checked = product.run_as(61_604, &[], &["store", "check"], b"");
    assert_eq!(checked.code(), 3, "{checked:?}");
    floods.into_iter().for_each(Child::join);
    let status = product.run(&["--json", "status"]).ok().json();
    product.stop();
    let grown = log_bytes(&product) - before;
    let records = product.records();
    for (uid, event) in [(61_604, "DeleteSecret"), (61_604, "CheckStore"), (61_603, "")] {
        let record = records
            .iter()
            .find(|r| r["uid"] == uid && (event.is_empty() || r["eventName"] == event));
        let record = record.unwrap_or_else(|| panic!("no record of {uid}"));
        for field in ["pid", "command", "groups", "gid"] {
            assert!(!record[field].is_null(), "{field}: {record}");
        }
        assert_eq!(
            (&record["outcome"], &record["reason"]),
            (&json!("denied"), &json!("implicit_deny"))
        );
    }
    let refused = status["counters"]["refused"].as_u64().expect("a counter");
    let (written, counted) = told(&records);
    println!("{refused} refusals: {written} written, {counted} counted, {grown} bytes in {seconds} s");
    // Two were of commands, which are no requests of the mount.
    assert_eq!(written + counted, refused + 2);
    assert!(grown < (1 << 20) + (seconds + 3) * (68 << 10), "{grown} bytes");
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn a_walk_through_sub_uids_does_not_fill_a_small_disk() {
    let _deadline = Deadline::new(Duration::from_secs(60), "sub uids");
    let account = Account::new("wfs6walk", 61605, &[]);
    let mut product = product(&["app/key"]);
    let small = Small::under(&product, "16m");
    product.mount();
    let path = product.path("app/key");
    let ids = account.subids.to_string();
    let mut walks: Vec<_> = (0..4)
        .map(|_| {
            let mut command = account.command("timeout");
            command.arg("30").arg(build("subuids"));
            command.args(["65536", &ids, &ids, "6"]).arg(&path);
            command.stderr(Stdio::piped()).spawn().expect("subuids")
        })
        .collect();
    let took = reader(path, Duration::from_secs(6)).join();
    for walk in &mut walks {
        assert!(walk.wait().expect("wait").success());
    }
    let status = product.run(&["--json", "status"]).ok().json();
    assert_eq!(status["audit"]["healthy"], true, "{status}");
    println!(
        "{} reads beside four walks, the slowest {:?} ms",
        took.len(),
        took.last()
    );
    product.stop();
    let records = product.records();
    let strangers = |r: &&Value| {
        r["uid"]
            .as_u64()
            .is_some_and(|uid| uid >= u64::from(account.subids))
    };
    let bytes: usize = records
        .iter()
        .filter(strangers)
        .map(|r| r.to_string().len())
        .sum();
    assert!(bytes < 256 << 10, "{bytes} bytes");
    drop(small);
}

#[test]
fn a_log_that_refuses_reads_is_not_said_to_be_well() {
    let _deadline = Deadline::new(Duration::from_secs(100), "full");
    let mut product = product(&["app/key"]);
    let small = Small::under(&product, "16m");
    product.mount();
    let path = product.path("app/key");
    small.fill();
    // Until what the log has allocated ahead is full.
    let refused = Run::uid(A)
        .limit(Duration::from_secs(50))
        .call(|| (0..200_000).find_map(|_| std::fs::read(&path).err().and_then(|e| e.raw_os_error())));
    assert_eq!(refused, Some(libc::EIO), "reads are refused");
    let status = || product.run(&["--json", "status"]);
    let said = status();
    assert_eq!(said.code(), 7, "{said:?}");
    let ill = said.json();
    assert_eq!(
        (&ill["audit"]["healthy"], &ill["audit"]["full"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        (&ill["healthy"], &ill["reasons"]),
        (&json!(false), &json!(["log_full"])),
        "{ill}"
    );
    assert!(ill["failed_reads"]["log_full"].as_u64() >= Some(1), "{ill}");
    let said = product.run(&["status"]);
    assert_eq!(said.code(), 7, "{said:?}");
    assert!(said.out.contains("reads are refused"), "{said:?}");
    assert!(said.out.contains("make room on the disk of"), "{said:?}");
    // Whoever asks learns whether it serves, and no numbers.
    let theirs = product.run_as(A, &[], &["--json", "status"], b"");
    assert_eq!(
        (theirs.code(), &theirs.json()["reasons"]),
        (7, &json!(["log_full"]))
    );
    assert!(theirs.json()["failed_reads"].is_null(), "{theirs:?}");
    // Administration goes on.
    product.put("app/key", VALUE, &[]);
    small.clear();
    support::wait_until(Duration::from_secs(5), "reads are given", || {
        read_as(A, &[], &path).is_ok()
    });
    let well = status().ok().json();
    assert_eq!(
        (&well["audit"]["healthy"], &well["audit"]["full"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(
        (&well["healthy"], &well["reasons"]),
        (&json!(true), &json!([])),
        "what failed since the start is counted, and is over"
    );
}
