//! A lost log is not a lost store: a new one begins on record, and what was lost stays shown.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use support::Deadline;
use support::product::{A, Product, read_as};

const VALUE: &[u8] = b"s3cret";
const REASON: &str = "the disk of the log died";

fn product() -> Product {
    let product = Product::new();
    product.put(
        "app/db",
        VALUE,
        &["--allow", &format!("uid:{A}"), "--allow", "uid:0"],
    );
    product.run(&["get", "app/db"]).ok();
    // Which anchors the read.
    product.put("app/other", VALUE, &[]);
    product
}

fn segment(product: &Product) -> PathBuf {
    product.store().join("audit/00000001.jsonl")
}

fn refused(product: &Product) {
    for command in [
        &["list"][..],
        &["get", "app/db"],
        &["mount", product.target().to_str().expect("text")],
    ] {
        let said = product.run(command);
        assert_eq!(said.code(), 6, "{said:?}");
    }
}

fn break_glass(product: &Product, more: &[&str]) -> Value {
    let command = [
        &["--json", "store", "break-glass", "--log", "--reason", REASON],
        more,
    ]
    .concat();
    product.run(&command).ok().json()
}

fn lost(product: &Product) -> Vec<Value> {
    let rows = |answer: Value| answer["lost"].as_array().cloned().unwrap_or_default();
    let verified = rows(product.run(&["--json", "audit", "verify"]).ok().json());
    assert_eq!(rows(product.run(&["--json", "status"]).json()), verified);
    verified
}

/// What the damage is, and how it is done.
type Damage = (&'static str, fn(&Product));

const DAMAGES: [Damage; 4] = [
    ("gone", |p| {
        std::fs::remove_dir_all(p.store().join("audit")).expect("remove")
    }),
    ("empty", |p| {
        std::fs::remove_file(segment(p)).expect("remove");
    }),
    ("cut", |p| {
        let text = std::fs::read_to_string(segment(p)).expect("log");
        let lines: Vec<&str> = text.lines().collect();
        let cut = lines[..lines.len() - 2].join("\n") + "\n";
        std::fs::write(segment(p), cut).expect("write");
    }),
    ("changed", |p| {
        let text = std::fs::read_to_string(segment(p)).expect("log");
        std::fs::write(segment(p), text.replace("app/other", "app/0ther")).expect("write");
    }),
];

#[test]
fn a_new_log_begins_and_tells_what_was_lost() {
    let _deadline = Deadline::new(Duration::from_secs(120), "a lost log");
    for (damage, make) in DAMAGES {
        let mut product = product();
        let last = product.records().last().expect("records")["seq"].clone();
        make(&product);
        refused(&product);
        let bytes = || std::fs::read(product.store().join("store.redb")).expect("store");
        let told = break_glass(&product, &["--dry-run"]);
        assert_eq!(told["repaired"], false, "{damage}: {told}");
        assert_eq!(told["lost"][0]["last_sequence"], last, "{damage}: {told}");
        let before = bytes();
        refused(&product);
        assert_eq!(bytes(), before, "{damage}");

        let told = break_glass(&product, &[]);
        assert_eq!(told["repaired"], true, "{damage}: {told}");
        let row = &told["lost"][0];
        assert_eq!(row["last_sequence"], last, "{damage}: {told}");
        assert_eq!(
            (&row["reason"], &row["uid"]),
            (&REASON.into(), &0.into()),
            "{damage}: {told}"
        );
        // It is there, and the new log says so first.
        product.run(&["get", "app/db"]).ok();
        let records = product.records();
        assert_eq!(records[0]["eventName"], "SegmentStarted", "{damage}");
        assert_eq!(records[0]["logLost"], true, "{damage}");
        assert_eq!(records[0]["previousSeq"], last, "{damage}");
        let first = &records[1];
        assert_eq!(first["eventName"], "BreakGlass", "{damage}: {first}");
        assert_eq!(first["requestParameters"]["lastSequence"], last, "{first}");
        assert_eq!(first["requestParameters"]["lastHead"], row["head"], "{first}");
        assert!(
            first["message"].as_str().is_some_and(|m| m.contains(REASON)),
            "{first}"
        );
        // For good: after changes, a restart, and settings that were accepted.
        product.put("app/later", VALUE, &[]);
        product.run(&["config", "accept", "--yes"]).ok();
        product.mount();
        assert_eq!(read_as(A, &[], &product.path("app/db")), Ok(VALUE.to_vec()));
        assert_eq!(lost(&product).as_slice(), std::slice::from_ref(row), "{damage}");
        product.stop();
        assert_eq!(lost(&product).as_slice(), std::slice::from_ref(row), "{damage}");
        for command in [&["audit", "verify"][..], &["status"]] {
            let said = product.run(command);
            assert!(
                said.out.contains("LOST: the log up to record"),
                "{damage}: {said:?}"
            );
            assert!(said.out.contains(REASON), "{damage}: {said:?}");
        }
        // What is left of the old one is kept.
        let kept = product.store().join("audit/lost-1/00000001.jsonl");
        assert_eq!(kept.exists(), matches!(damage, "cut" | "changed"), "{damage}");
    }
}

#[test]
fn only_a_lost_log_is_given_up_and_only_without_a_daemon() {
    let _deadline = Deadline::new(Duration::from_secs(60), "a log that is there");
    let mut product = product();
    let command = ["store", "break-glass", "--log", "--reason", REASON];
    for more in [&[][..], &["--dry-run"]] {
        let whole = product.run(&[&command, more].concat());
        assert_eq!(whole.code(), 5, "{whole:?}");
    }
    let empty = product.run(&["store", "break-glass", "--log", "--reason", " "]);
    assert_eq!(empty.code(), 2, "{empty:?}");
    let both = product.run(&["store", "break-glass", "app/db", "--log", "--reason", REASON]);
    assert_eq!(both.code(), 2, "{both:?}");
    product.mount();
    let served = product.run(&command);
    assert_eq!(served.code(), 7, "{served:?}");
    product.stop();
    assert!(lost(&product).is_empty());
}

#[test]
fn each_loss_is_kept_and_no_backup_takes_it_back() {
    let _deadline = Deadline::new(Duration::from_secs(60), "two losses");
    let product = product();
    let backup = product.dir().join("backup");
    let backup = backup.to_str().expect("text");
    product.run(&["store", "backup", backup]).ok();
    for _ in 0..2 {
        std::fs::remove_dir_all(product.store().join("audit")).expect("remove");
        break_glass(&product, &[]);
    }
    let both = lost(&product);
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both[0]["last_sequence"].as_u64() < both[1]["last_sequence"].as_u64());
    product
        .run(&["store", "restore", backup, "--accept-rollback"])
        .ok();
    assert_eq!(lost(&product), both);
    // Nor a backup that knows of it, in a clean place.
    let newer = product.dir().join("newer");
    let newer = newer.to_str().expect("text");
    product.run(&["store", "backup", newer]).ok();
    let key = product.store().join("root.key");
    let kept = product.dir().join("key");
    std::fs::copy(&key, &kept).expect("copy");
    std::fs::remove_dir_all(product.store()).expect("remove");
    std::fs::create_dir(product.store()).expect("mkdir");
    std::fs::set_permissions(
        product.store(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .expect("chmod");
    std::fs::copy(&kept, &key).expect("copy");
    product.run(&["store", "restore", newer]).ok();
    assert_eq!(lost(&product), both);
}
