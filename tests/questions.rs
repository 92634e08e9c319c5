//! Questions over the control socket: their work is bounded, they stop when nobody waits, and they tell nothing of what
//! is hidden.

mod support;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::product::{A, B, Product, read_as};
use support::{Deadline, Run};
use wardfs::sys::socket::Connection;

fn socket(product: &Product) -> PathBuf {
    wardfs::daemon::socket_path(&product.store())
}

fn request(request: Value) -> Vec<u8> {
    json!({ "format": 3, "request": request })
        .to_string()
        .into_bytes()
}

/// What is answered, whole.
fn ask(socket: &std::path::Path, request: &[u8]) -> String {
    let connection = Connection::connect(socket).expect("connect");
    connection.send(request).expect("send");
    let (mut whole, mut packet) = (String::new(), vec![0; 65536]);
    while let Ok(message) = connection.recv(&mut packet, Some(Duration::from_secs(30))) {
        whole.push_str(&String::from_utf8_lossy(&packet[1..message.len]));
        if packet[0] == 0 {
            break;
        }
    }
    whole
}

/// As `read_as`, where everything is slow.
fn read_of_a(product: &Product) -> Result<Vec<u8>, i32> {
    let path = product.path("app/x");
    let patient = Run::uid(A).limit(Duration::from_secs(60));
    patient.call(|| std::fs::read(&path).map_err(|e| e.raw_os_error().unwrap_or(0)))
}

/// Secrets, put without a process for each.
fn fill(product: &Product, count: usize, under: &str) {
    let config = wardfs::config::Config::load(&product.store()).expect("settings");
    let (desk, _access) = wardfs::daemon::desk(&product.store(), &config).expect("the store");
    let mut root = wardfs::access::KnownCaller::root();
    for n in 0..count {
        let mut value = wardfs::sys::mem::secret(1).expect("memory");
        value.expose_mut().fill(b'v');
        let put = json!({"command": "put", "name": format!("{}/{n}", under.trim_end_matches('/'))});
        let put = serde_json::from_value(put).expect("a request");
        let enclosed = Some(wardfs::control::protocol::Enclosed::Value(value));
        desk.answer(&put, enclosed, &mut |_| {}, &mut root).expect("put");
    }
}

/// A log of many old records about `name`, with a refusal of B at its begin, made while nobody has it.
fn old_log(product: &Product, bytes: usize) {
    let dir = product.store().join("audit");
    let mut names: Vec<_> = std::fs::read_dir(&dir)
        .expect("list")
        .map(|e| e.expect("entry").path())
        .collect();
    names.sort();
    let newest = names.pop().expect("a segment");
    let text = std::fs::read_to_string(&newest).expect("the log");
    let line = text.lines().last().expect("a record");
    // Reading proves nothing, so the lines may be copies; they lie in a segment of their own, which nobody verifies.
    let other = names.first().cloned().unwrap_or_else(|| newest.clone());
    assert_ne!(other, newest, "the log has one segment");
    let mut out = std::io::BufWriter::new(std::fs::File::options().append(true).open(other).expect("open"));
    for _ in 0..bytes / (line.len() + 1) {
        writeln!(out, "{line}").expect("write");
    }
    out.flush().expect("write");
}

#[test]
fn why_tells_a_stranger_his_last_refusal_and_reads_no_log() {
    let _deadline = Deadline::new(Duration::from_secs(90), "why");
    let mut product = Product::new();
    std::fs::write(
        product.store().join("wardfs.toml"),
        "[audit]\nsegment_bytes = 65536\n",
    )
    .expect("configure");
    fill(&product, 120, &"long-names/".repeat(40));
    product.put("app/x", "v", &["--allow", &format!("uid:{A}")]);
    old_log(&product, 16 << 20);
    product.mount();
    let path = socket(&product);
    let latest = request(json!({"command": "why", "name": "app/x", "about": "latest"}));
    // Sixteen at once, all of whom were refused nothing: each is answered from memory.
    let begin = Instant::now();
    let flood: Vec<_> = (0..16)
        .map(|_| {
            let (path, latest) = (path.clone(), latest.clone());
            Run::uid(B).limit(Duration::from_secs(60)).start(move || {
                (0..8)
                    .map(|_| ask(&path, &latest))
                    .next_back()
                    .expect("an answer")
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while begin.elapsed() < Duration::from_secs(1) {
        let one = Instant::now();
        assert_eq!(read_of_a(&product), Ok(b"v".to_vec()));
        slowest = slowest.max(one.elapsed());
    }
    for child in flood {
        let answer = child.join();
        assert!(
            answer.contains("no refusal is on record") || answer.contains("try again"),
            "{answer}"
        );
    }
    assert!(begin.elapsed() < Duration::from_secs(45), "{:?}", begin.elapsed());
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    // Who was refused is told, with the record.
    assert_eq!(read_as(B, &[], &product.path("app/x")), Err(libc::EACCES));
    product.refusal(B, "implicit_deny");
    let own = Run::uid(B).call(|| ask(&path, &latest));
    assert!(
        own.contains("uid 61002 was refused") && own.contains("\"eventTime\""),
        "{own}"
    );
    assert!(own.contains("wardfs policy allow app/x uid:61002"), "{own}");
}

#[test]
fn the_owners_search_is_bounded_and_says_so() {
    let _deadline = Deadline::new(Duration::from_secs(120), "why of the owner");
    let mut product = Product::new();
    std::fs::write(
        product.store().join("wardfs.toml"),
        "[audit]\nsegment_bytes = 65536\n",
    )
    .expect("configure");
    fill(&product, 120, &"long-names/".repeat(40));
    product.put("app/x", "v", &[]);
    let said = product.run(&["why", "app/x"]);
    assert_eq!(
        (said.code(), said.err.contains("no refusal is on record")),
        (4, true),
        "{said:?}"
    );
    old_log(&product, 80 << 20);
    product.mount();
    let begin = Instant::now();
    let said = product.run(&["why", "app/x"]);
    assert_eq!(said.code(), 4, "{said:?}");
    assert!(said.err.contains("in the newest 64 MiB of the log"), "{said:?}");
    assert!(
        said.err.contains("audit query --secret app/x --denied"),
        "{said:?}"
    );
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    // Nobody waits: the search ends, and the next one is not behind it.
    let path = socket(&product);
    let latest = request(json!({"command": "why", "name": "app/x", "about": "latest"}));
    for _ in 0..12 {
        let connection = Connection::connect(&path).expect("connect");
        connection.send(&latest).expect("send");
    }
    let cpu = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", product.pid())).expect("stat");
        let fields: Vec<u64> = stat[stat.rfind(')').expect("a name") + 2..]
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        // utime and stime, in hundredths of a second; the state before them is no number.
        fields[10] + fields[11]
    };
    std::thread::sleep(Duration::from_millis(500));
    let before = cpu();
    std::thread::sleep(Duration::from_secs(1));
    assert!(cpu() - before < 50, "{} of 100", cpu() - before);
}

#[test]
fn checking_a_policy_takes_the_right_and_tells_nothing_of_what_is_hidden() {
    let _deadline = Deadline::new(Duration::from_secs(60), "policy check");
    let mut product = Product::new();
    let put = |product: &Product, name: &str, arn: &str| {
        product.put(name, "v", &["--visibility", "hidden", "--arn", arn]);
    };
    put(
        &product,
        "hid/den",
        "arn:aws:secretsmanager:eu-west-1:111122223333:secret:hid/den-AbCdEf",
    );
    product.put("app/x", "v", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let path = socket(&product);
    let document = |resource: &str| {
        json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"Uid": "1"}, "Action": "*", "Resource": resource}]})
        .to_string()
    };
    let other = document("arn:aws:secretsmanager:us-east-1:999999999999:secret:hid/den");
    let check = |name: Option<&str>, text: &str| {
        request(json!({"command": "policy_check", "name": name, "text": text}))
    };
    for name in [None, Some("app/x"), Some("hid/den"), Some("hid/nope")] {
        let refused = Run::uid(B).call(|| ask(&path, &check(name, &other)));
        assert!(refused.contains("\"exit\":\"denied\""), "{name:?}: {refused}");
    }
    let [hidden, missing] = ["hid/den", "hid/nope"].map(|name| {
        Run::uid(B)
            .call(|| ask(&path, &check(Some(name), &other)))
            .replace(name, "NAME")
    });
    assert_eq!(hidden, missing);
    // Who administers the store may check, and is told of the ARN.
    let told = ask(&path, &check(Some("hid/den"), &other));
    assert!(
        told.contains("\"done\"") && told.contains("is not this secret"),
        "{told}"
    );
    // Many patterns of names walk through the user database once.
    let patterns: Vec<String> = (0..700).map(|n| format!("a*{n}?b")).collect();
    let many = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*",
         "Condition": {"StringLike": {"aws:username": patterns}}}]})
    .to_string();
    let begin = Instant::now();
    let told = ask(&path, &check(None, &many));
    println!("700 patterns: {:?}", begin.elapsed());
    assert!(told.contains("\"done\""), "{told}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_long_list_stops_when_nobody_waits_and_reads_go_on() {
    let _deadline = Deadline::new(Duration::from_secs(120), "lists");
    let mut product = Product::new();
    let count = if support::long_run() { 20_000 } else { 300 };
    fill(&product, count, "many");
    product.put("app/x", "v", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let path = socket(&product);
    let list = request(json!({"command": "list", "under": null}));
    let flood: Vec<_> = (0..4)
        .map(|_| {
            let (path, list) = (path.clone(), list.clone());
            Run::uid(B)
                .limit(Duration::from_secs(60))
                .start(move || (0..10).filter(|_| ask(&path, &list).contains("\"done\"")).count())
        })
        .collect();
    for _ in 0..20 {
        let begin = Instant::now();
        assert_eq!(read_of_a(&product), Ok(b"v".to_vec()));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    }
    let answered: usize = flood.into_iter().map(|f| f.join()).sum();
    assert!(answered > 0);
    let listed = product.run(&["--json", "list"]).ok().json();
    assert_eq!(listed["secrets"].as_array().map(Vec::len), Some(count + 1));
}
