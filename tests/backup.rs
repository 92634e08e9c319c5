//! Backups of a store in use, and the way back.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use support::Deadline;
use support::product::{A, B, Product, read_as};

/// A store with its recovery key.
fn made() -> (Product, String) {
    let product = Product::empty();
    let made = product.run(&["init", "--json"]).ok().json();
    (product, made["recovery_key"].as_str().expect("a key").to_string())
}

/// Everything that commands tell of a store, without what differs by design.
fn told(product: &Product) -> Value {
    let list = product.run(&["list", "--json"]).ok().json();
    let mut all = Vec::new();
    for secret in list["secrets"].as_array().expect("secrets") {
        let name = secret["name"].as_str().expect("a name");
        let of = |args: &[&str]| product.run(&[args, &[name, "--json"]].concat()).ok().json();
        all.push(json!([
            of(&["describe"]),
            of(&["versions"]),
            of(&["policy", "get"])
        ]));
    }
    let guardrails = product.run(&["guardrail", "list", "--json"]).ok().json();
    let identities = product.run(&["identity", "list", "--json"]).ok().json();
    json!([all, guardrails, identities])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

#[test]
fn a_backup_under_load_is_one_moment_and_comes_back_whole() {
    let _deadline = Deadline::new(Duration::from_secs(120), "backup under load");
    let (mut product, recovery) = made();
    product.mount();
    let allow = format!("uid:{A}");
    for n in 0..30 {
        product.put(
            &format!("app/{n}"),
            format!("value {n}"),
            &["--allow", &allow, "--tag", "k=v"],
        );
    }
    let guardrail = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "secretsmanager:DeleteSecret", "Resource": "*"}]});
    let file = product.dir().join("guardrail.json");
    std::fs::write(&file, guardrail.to_string()).expect("write");
    product.run(&["guardrail", "set", "keep", text(&file)]).ok();

    // Two secrets are always put one after the other: a backup that held the second alone would be no moment.
    let backup = product.dir().join("backup");
    let (stop, puts) = (AtomicBool::new(false), AtomicU64::new(0));
    product.put("pair/a", "0", &["--allow", &allow]);
    product.put("pair/b", "0", &["--allow", &allow]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                for name in ["pair/a", "pair/b"] {
                    product.put(name, n.to_string(), &[]);
                }
                puts.store(n, Ordering::Relaxed);
            }
        });
        while puts.load(Ordering::Relaxed) < 5 {
            std::thread::sleep(Duration::from_millis(5));
        }
        product.run(&["store", "backup", text(&backup)]).ok();
        stop.store(true, Ordering::Relaxed);
    });
    product.record("the backup", |r| r["eventName"] == "BackupStore" && r["uid"] == 0);
    let mode = std::fs::metadata(&backup).expect("stat").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let bytes = std::fs::read(&backup).expect("read");
    for plain in ["value 1", "app/1", "uid"] {
        assert!(
            !bytes.windows(plain.len()).any(|w| w == plain.as_bytes()),
            "{plain} is in the open"
        );
    }

    // Restored with the recovery key alone, into a clean directory.
    let mut other = Product::empty();
    let wrong = other.run_with(
        &["store", "restore", text(&backup), "--recovery-key"],
        b"not a key",
    );
    assert_eq!(wrong.code(), 2, "{wrong:?}");
    let keyless = other.run(&["store", "restore", text(&backup)]);
    assert_eq!(keyless.code(), 4, "{keyless:?}");
    let dry = [
        &["store", "restore", text(&backup), "--recovery-key", "--json"][..],
        &["--dry-run"],
    ]
    .concat();
    let dry = other.run_with(&dry, recovery.as_bytes()).ok().json();
    assert_eq!((&dry["secrets"], &dry["dry_run"]), (&json!(32), &json!(true)));
    assert!(!other.store().join("audit").exists() && !other.store().join("root.key").exists());
    let args = ["store", "restore", text(&backup), "--recovery-key", "--json"];
    other.run_with(&args, recovery.as_bytes()).ok();
    other.mount();
    let read = |name: &str| {
        let bytes = read_as(A, &[], &other.path(name)).expect("read");
        String::from_utf8(bytes).expect("text")
    };
    for n in 0..30 {
        assert_eq!(read(&format!("app/{n}")), format!("value {n}"));
    }
    let [a, b] = ["pair/a", "pair/b"].map(|n| read(n).parse::<u64>().expect("a number"));
    assert!(a >= 5 && (a == b || a == b + 1), "{a} {b}");
    assert!(read_as(B, &[], &other.path("app/1")).is_err());
    assert_eq!(other.run(&["delete", "app/1", "--now"]).code(), 3);
    other.record("the restore", |r| {
        r["eventName"] == "RestoreStore" && r["outcome"] == "allowed"
    });
    other.put("app/new", "x", &[]);
    other.run(&["audit", "verify"]).ok();
    other.run(&["store", "check"]).ok();
}

#[test]
fn what_is_restored_is_equal_and_an_older_one_is_refused() {
    let _deadline = Deadline::new(Duration::from_secs(120), "older backups");
    let (product, _) = made();
    product.put(
        "app/db",
        "one",
        &["--allow", &format!("uid:{A}"), "--description", "d"],
    );
    product.put("app/db", "two", &[]);
    let [old, new] = ["old", "new"].map(|n| product.dir().join(n));
    product.run(&["store", "backup", text(&old)]).ok();
    let then = told(&product);
    product.put("app/db", "three", &[]);
    product.put("app/late", "x", &[]);
    product
        .run(&["policy", "allow", "app/db", &format!("uid:{B}")])
        .ok();
    let now = told(&product);
    product.run(&["store", "backup", text(&new)]).ok();

    // A clean directory with the key file beside it.
    let other = Product::empty();
    std::fs::create_dir(other.store()).expect("mkdir");
    std::fs::set_permissions(other.store(), PermissionsExt::from_mode(0o700)).expect("chmod");
    std::fs::copy(product.store().join("root.key"), other.store().join("root.key")).expect("copy");
    other.run(&["store", "restore", text(&new)]).ok();
    assert_eq!(told(&other), now);

    // Older than what is there: refused, and nothing is changed.
    for dry in [&[][..], &["--dry-run"]] {
        let said = product.run(&[&["store", "restore", text(&old)], dry].concat());
        assert_eq!(said.code(), 6, "{said:?}");
        assert!(said.err.contains("--accept-rollback"), "{said:?}");
    }
    assert_eq!(told(&product), now);
    // Nor does a store that is gone hide it: the log knows.
    std::fs::rename(product.store().join("store.redb"), product.dir().join("aside")).expect("mv");
    assert_eq!(product.run(&["store", "restore", text(&old)]).code(), 6);
    product
        .run(&["store", "restore", text(&old), "--accept-rollback"])
        .ok();
    assert_eq!(told(&product), then);
    let verified = product.run(&["audit", "verify", "--json"]).ok().json();
    assert!(
        verified["records"].as_u64() > Some(6),
        "the log went on: {verified}"
    );
    // Numbers and epochs go on above what was.
    let put = product.put("app/db", "four", &[]);
    assert_eq!(put["created"], false);
    // The store that was put away is older than its log now.
    std::fs::rename(product.dir().join("aside"), product.store().join("store.redb")).expect("mv");
    assert_eq!(product.run(&["list"]).code(), 6);
}

#[test]
fn a_backup_that_is_not_what_was_written_changes_nothing() {
    let _deadline = Deadline::new(Duration::from_secs(120), "bad backups");
    let (mut product, recovery) = made();
    product.put("app/db", "one", &[]);
    let backup = product.dir().join("backup");
    product.run(&["store", "backup", text(&backup)]).ok();
    let before = told(&product);
    let bytes = std::fs::read(&backup).expect("read");
    let bad = product.dir().join("bad");
    let restore = ["store", "restore", text(&bad), "--accept-rollback"];
    let mut at = 0;
    while at < bytes.len() {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 1 << (at % 8);
        std::fs::write(&bad, &spoilt).expect("write");
        let said = product.run(&restore);
        assert_eq!(said.code(), 6, "byte {at}: {said:?}");
        at += 1 + bytes.len() / 60;
    }
    for cut in [0, 1, 40, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&bad, &bytes[..cut]).expect("write");
        assert_eq!(product.run(&restore).code(), 6, "{cut}");
    }
    let longer = [&bytes[..], b"x"].concat();
    std::fs::write(&bad, longer).expect("write");
    assert_eq!(product.run(&restore).code(), 6);
    assert_eq!(product.run(&["store", "restore", "/nowhere/b"]).code(), 4);
    assert_eq!(told(&product), before);

    // Another store is never written over, nor a key file, nor a file that is there.
    let (other, _) = made();
    let said = other.run_with(
        &["store", "restore", text(&backup), "--recovery-key"],
        recovery.as_bytes(),
    );
    assert_eq!(said.code(), 5, "{said:?}");
    assert_eq!(other.run(&["store", "restore", text(&backup)]).code(), 6);
    assert_eq!(product.run(&["store", "backup", text(&backup)]).code(), 5);
    assert_eq!(std::fs::read(&backup).expect("read"), bytes);
    let link = product.dir().join("link");
    std::os::unix::fs::symlink(product.dir().join("elsewhere"), &link).expect("symlink");
    assert_eq!(product.run(&["store", "backup", text(&link)]).code(), 5);

    // With a daemon: backups are the owner's alone, and nothing is restored.
    product.mount();
    let open = product.dir().join("open");
    std::fs::create_dir(&open).expect("mkdir");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).expect("chmod");
    let theirs = open.join("theirs");
    assert_eq!(
        product
            .run_as(A, &[], &["store", "backup", text(&theirs)], b"")
            .code(),
        3
    );
    assert!(!theirs.exists());
    assert_eq!(
        product
            .run(&["store", "restore", text(&backup), "--accept-rollback"])
            .code(),
        7
    );
}
