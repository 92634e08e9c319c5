//! An auditor who is not root: an identity policy with `wardfs:QueryLog` opens the log by way of the daemon, and gives what
//! root is told, on record; without it nobody but the owner is answered.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::product::{A, B, Product, Said};
use support::{Deadline, Run};
use wardfs::control::client::Client;
use wardfs::control::protocol::{Records, Request};

/// Nobody's.
const AUDITOR: u32 = 44_818;

fn policy(effect: &str) -> Value {
    json!({"Version": "2012-10-17", "Statement": [
        {"Sid": "Log", "Effect": effect, "Action": "wardfs:QueryLog", "Resource": "*"}]})
}

/// A mounted store with many records in several segments.
fn product() -> Product {
    let mut product = Product::new();
    std::fs::write(
        product.store().join("wardfs.toml"),
        "[audit]\nsegment_bytes = 65536\n",
    )
    .expect("settings");
    product.mount();
    product.put("app/db", "value", &["--allow", &format!("uid:{A}")]);
    product.put("app/other", "value", &[]);
    let path = product.path("app/db");
    Run::uid(A).limit(Duration::from_secs(60)).call(|| {
        for _ in 0..400 {
            std::fs::read(&path).expect("read");
        }
    });
    Run::uid(B).call(|| {
        std::fs::read(&path).expect_err("denied");
    });
    product
}

fn admit(product: &Product) {
    let file = product.document("auditor.json", &policy("Allow"));
    product
        .run(&["identity", "set", &format!("uid:{AUDITOR}"), &file])
        .ok();
}

fn asks(product: &Product, args: &[&str]) -> Said {
    product.run_as(AUDITOR, &[], args, b"")
}

fn calls(product: &Product, event: &str, outcome: &str) -> usize {
    let mine = |r: &&Value| r["eventName"] == event && r["uid"] == AUDITOR && r["outcome"] == outcome;
    product.records().iter().filter(mine).count()
}

#[test]
fn an_auditor_is_told_what_root_is_told() {
    let _deadline = Deadline::new(Duration::from_secs(180), "auditor");
    let product = product();
    admit(&product);
    let last = product.records().last().expect("records")["eventTime"].clone();
    // What both are asked about is not added to meanwhile.
    let until = last.as_str().expect("a time");
    let a = format!("uid:{A}");
    let questions: [&[&str]; 9] = [
        &["audit", "query"],
        &["--json", "audit", "query"],
        &["audit", "query", "--secret", "app/db", "--denied"],
        &["audit", "query", "--who", &a, "--limit", "7"],
        &[
            "--json",
            "audit",
            "query",
            "--event",
            "GetSecretValue",
            "--limit",
            "300",
        ],
        &["audit", "query", "--secret", "app/other", "--since", "1h"],
        &[
            "audit",
            "query",
            "--secret",
            "app/other",
            "--event",
            "DeleteSecret",
        ],
        &["audit", "query", "--secret", "app/none"],
        &["audit", "query", "--limit", "0"],
    ];
    for args in questions {
        let args = [args, &["--until", until]].concat();
        let before = calls(&product, "QueryLog", "allowed");
        let (root, auditor) = (product.run(&args), asks(&product, &args));
        assert_eq!(
            (root.code(), root.out.lines().count(), &root.out, &root.err),
            (
                auditor.code(),
                auditor.out.lines().count(),
                &auditor.out,
                &auditor.err
            ),
            "{args:?}"
        );
        assert_eq!(calls(&product, "QueryLog", "allowed"), before + 1, "{args:?}");
    }
    let call = product.record("a question", |r| {
        r["eventName"] == "QueryLog" && r["uid"] == AUDITOR
    });
    let asked: Value =
        serde_json::from_str(call["requestParameters"]["query"].as_str().expect("the query")).expect("JSON");
    assert_eq!(
        (&asked["limit"], call["via"].as_str()),
        (&json!(0), Some("control"))
    );

    let tail = asks(&product, &["--json", "audit", "tail", "-n", "3"]).ok();
    let lines: Vec<Value> = tail
        .out
        .lines()
        .map(|l| serde_json::from_str(l).expect("a record"))
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2]["eventName"], "QueryLog");

    let both = [
        product.run(&["--json", "audit", "verify"]).ok(),
        asks(&product, &["--json", "audit", "verify"]).ok(),
    ];
    let [root, auditor] = both.map(|said| said.json());
    assert_eq!(root["segments"], auditor["segments"]);
    assert!(
        root["last"].as_u64() < auditor["last"].as_u64(),
        "{root} {auditor}"
    );
    assert_eq!(calls(&product, "VerifyLog", "allowed"), 1);
    // Archived segments of his own copy, too; but to archive is not his.
    let to = product.dir().join("archive");
    let to = to.to_str().expect("text");
    assert_eq!(
        asks(&product, &["audit", "archive", to, "--before", "0s"]).code(),
        3
    );
    product.run(&["audit", "archive", to, "--before", "0s"]).ok();
    let copy = product.dir().join("copy");
    std::fs::create_dir(&copy).expect("mkdir");
    for entry in std::fs::read_dir(to).expect("list").flatten() {
        std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("copy");
        std::os::unix::fs::chown(copy.join(entry.file_name()), Some(AUDITOR), None).expect("chown");
    }
    let all = asks(
        &product,
        &[
            "--json",
            "audit",
            "verify",
            "--with",
            copy.to_str().expect("text"),
        ],
    )
    .ok()
    .json();
    assert_eq!((&all["first"], &all["records"]), (&json!(1), &all["last"]));
}

#[test]
fn who_is_not_admitted_learns_nothing_and_is_on_record() {
    let _deadline = Deadline::new(Duration::from_secs(180), "auditor");
    let mut product = product();
    let all: [&[&str]; 3] = [&["audit", "query"], &["audit", "tail"], &["audit", "verify"]];
    let refused = |product: &Product, layer: &str, what: &str| {
        for args in all {
            let said = asks(product, args);
            assert_eq!(
                (said.code(), said.out.as_str()),
                (3, ""),
                "{what}: {args:?}: {said:?}"
            );
            let event = if args[1] == "verify" {
                "VerifyLog"
            } else {
                "QueryLog"
            };
            product.record(what, |r| {
                r["eventName"] == event
                    && r["uid"] == AUDITOR
                    && r["outcome"] == "denied"
                    && r["layer"] == layer
            });
        }
    };
    refused(&product, "default", "nobody admitted him");
    // Another action, another resource, another account.
    let other = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["wardfs:ArchiveLog", "wardfs:GetGuardrail", "secretsmanager:*"], "Resource": "*"}]});
    let file = product.document("other.json", &other);
    product
        .run(&["identity", "set", &format!("uid:{AUDITOR}"), &file])
        .ok();
    refused(&product, "default", "another action");
    admit(&product);
    for args in all {
        asks(&product, args).ok();
        assert_eq!(product.run_as(B, &[], args, b"").code(), 3, "{args:?}");
    }
    // A Deny wins, and a guardrail binds root's own verification as well.
    let mut both = policy("Allow");
    both["Statement"]
        .as_array_mut()
        .unwrap()
        .push(policy("Deny")["Statement"][0].clone());
    both["Statement"][1]["Sid"] = json!("Not");
    let file = product.document("both.json", &both);
    product
        .run(&["identity", "set", &format!("uid:{AUDITOR}"), &file])
        .ok();
    refused(&product, "identity", "a Deny");
    admit(&product);
    let file = product.document("deny.json", &policy("Deny"));
    product.run(&["guardrail", "set", "closed", &file]).ok();
    refused(&product, "guardrail", "a guardrail");
    assert_eq!(product.run(&["audit", "verify"]).code(), 3);
    product.run(&["guardrail", "remove", "closed"]).ok();
    // Without a daemon its owner alone reads it.
    product.stop();
    for args in &all[..2] {
        let said = asks(&product, args);
        assert!(
            said.code() == 3 && said.err.contains("only root reads the log"),
            "{said:?}"
        );
    }
}

#[test]
fn a_tail_goes_on_until_it_is_not_allowed_any_more() {
    let _deadline = Deadline::new(Duration::from_secs(120), "auditor");
    let product = product();
    admit(&product);
    let mut command = product.command(&["--json", "audit", "tail", "-n", "1", "-f"]);
    // SAFETY: raw system calls on this child alone.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            support::become_ids(AUDITOR, AUDITOR, &[])
        });
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tail");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next =
        || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON") };
    assert_eq!(next()["eventName"], "QueryLog");
    for n in 0..3 {
        product.put(&format!("new/{n}"), "value", &[]);
        let record = next();
        assert_eq!(
            record["requestParameters"]["secretId"],
            format!("new/{n}"),
            "{record}"
        );
    }
    // Looked at many times, on record once.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(calls(&product, "QueryLog", "allowed"), 1);
    product
        .run(&["identity", "remove", &format!("uid:{AUDITOR}")])
        .ok();
    assert_eq!(child.wait().expect("wait").code(), Some(3));
}

/// What another client asks than the command does.
#[test]
fn a_client_that_asks_otherwise_is_recorded_or_refused() {
    let _deadline = Deadline::new(Duration::from_secs(120), "auditor");
    let product = product();
    admit(&product);
    let socket = product.store().to_path_buf();
    let asked = |socket: &Path, from: &[(u64, u64)]| -> Vec<Result<Value, i32>> {
        let mut client = Client::connect(socket).expect("connect").expect("a daemon");
        let ask = |(segment, offset): &(u64, u64)| {
            let wanted = json!({"query": {}, "from": {"segment": segment, "offset": offset}});
            let wanted: Records = serde_json::from_value(wanted).expect("a question");
            let said = client.call(&Request::AuditRecords(wanted), None);
            said.map_err(|e| e.exit as i32)
        };
        from.iter().map(ask).collect()
    };
    // It begins in the middle: that is a call as well; in the middle of a line, beyond the end, and where there is none.
    let answers = Run::uid(AUDITOR).call(|| {
        let all = asked(
            &socket,
            &[
                (1, 0),
                (1, 7),
                (1, 1 << 40),
                (99, 0),
                (0, 0),
                (u64::MAX, u64::MAX),
            ],
        );
        let brief = |r: Result<Value, i32>| r.map(|v| v["found"].as_u64().unwrap_or_default());
        all.into_iter().map(brief).collect::<Vec<_>>()
    });
    assert!(answers[0].is_ok_and(|n| n > 100), "{answers:?}");
    assert_eq!(answers[1], Err(2), "{answers:?}");
    assert!(
        answers[2..].iter().all(|a| !a.is_ok_and(|n| n > 0) || a.is_ok()),
        "{answers:?}"
    );
    assert_eq!(calls(&product, "QueryLog", "allowed"), 1);
    // A new connection is a new call, and nobody says of himself that his is on record.
    let answers = Run::uid(AUDITOR).call(|| asked(&socket, &[(1, 0)]).len());
    assert_eq!((answers, calls(&product, "QueryLog", "allowed")), (1, 2));
    let claimed = json!({"query": {}, "call": "Continued"});
    assert!(serde_json::from_value::<Records>(claimed).is_err());
    product.run(&["audit", "verify"]).ok();
}
