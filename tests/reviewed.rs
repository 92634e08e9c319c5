//! What a reviewer with a shell once found, so that it does not come back.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use support::Deadline;
use support::product::{A, B, Product, read_as, said};

fn document(statements: Value) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// A guardrail that forbids setting policies and settings forbids it at creation too; and whoever asks the log who set a
/// policy finds the put that did.
#[test]
fn what_a_secret_is_made_with_is_bound_by_guardrails_and_on_record() {
    let _deadline = Deadline::new(Duration::from_secs(60), "made with");
    let product = Product::mounted();
    let allow = format!("uid:{A}");
    let stop = json!({"Effect": "Deny", "Resource": "*", "Action": ["secretsmanager:PutResourcePolicy", "secretsmanager:UpdateSecret"]});
    // A ceiling that has no place for it does the same.
    let ceiling = json!({"Effect": "Allow", "Resource": "*", "NotAction": ["secretsmanager:PutResourcePolicy", "secretsmanager:UpdateSecret"]});
    for statement in [stop, ceiling] {
        let path = product.document("guardrail.json", &document(statement));
        product.run(&["guardrail", "set", "g", &path]).ok();
        for args in [
            &["put", "new", "--allow", &allow][..],
            &["put", "new", "--deny", &allow],
            &["put", "new", "--policy", &path],
            &["put", "new", "--owner", "root"],
            &["put", "new", "--visibility", "hidden"],
            &["put", "new", "--description", "words"],
            &["put", "new", "--mode", "0400"],
        ] {
            let refused = product.run_with(args, b"x");
            assert_eq!(refused.code(), 3, "{args:?}: {refused:?}");
        }
        assert_eq!(product.run(&["describe", "new"]).code(), 4, "nothing was made");
        product.run(&["guardrail", "remove", "g"]).ok();
    }
    product.put("bare", "x", &[]);
    product.put("new", "x", &["--allow", &allow, "--description", "words"]);
    product.put("new", "y", &["--deny", &format!("uid:{B}"), "--tag", "a=b"]);
    product.put("new", "z", &[]);
    let found = |event: &str| {
        let said = product.run(&["--json", "audit", "query", "--event", event]).ok();
        let records: Vec<Value> = said
            .out
            .lines()
            .map(|l| serde_json::from_str(l).expect("JSON"))
            .collect();
        let of =
            |r: &Value| format!("{} {}", r["requestParameters"]["secretId"], r["eventName"]).replace('"', "");
        let allowed = records.iter().filter(|r| r["outcome"] == "allowed");
        allowed.map(of).collect::<Vec<_>>()
    };
    assert_eq!(
        found("PutResourcePolicy"),
        ["new CreateSecret", "new PutSecretValue"]
    );
    assert_eq!(found("UpdateSecret"), ["new CreateSecret"]);
    assert_eq!(found("TagResource"), ["new PutSecretValue"]);
    assert_eq!(found("CreateSecret"), ["bare CreateSecret", "new CreateSecret"]);
}

/// `get` gives what the store's mount gives, and not a file that lies where others see the mount.
#[test]
fn a_file_in_the_mounts_place_is_no_secret() {
    let _deadline = Deadline::new(Duration::from_secs(60), "a planted file");
    let product = Product::mounted();
    product.put("app", "s3cret", &["--allow", "uid:0"]);
    assert_eq!(product.run(&["get", "app"]).ok().out, "s3cret");
    let elsewhere = |prepare: &str| {
        let get = product.command(&["get", "app"]);
        let mut command = Command::new("unshare");
        let script =
            format!("umount -l \"$1\" && mount -t tmpfs none \"$1\" && {prepare}; shift; exec \"$@\"");
        command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(product.target())
            .arg(get.get_program())
            .args(get.get_args());
        said(command, b"")
    };
    for prepare in [
        "echo planted > \"$1\"/app",
        "mkfifo \"$1\"/app",
        "mkdir \"$1\"/app",
        "true",
    ] {
        let refused = elsewhere(prepare);
        assert_eq!((refused.code(), &*refused.out), (7, ""), "{prepare}: {refused:?}");
        assert!(refused.err.contains("another mount namespace"), "{refused:?}");
    }
}

/// `why` about the file of a version answers for that version.
#[test]
fn why_of_a_version_is_about_that_version() {
    let _deadline = Deadline::new(Duration::from_secs(60), "why of a version");
    let product = Product::mounted();
    let policy = document(json!([
        {"Effect": "Allow", "Principal": {"Uid": A.to_string()}, "Action": "secretsmanager:GetSecretValue", "Resource": "*"},
        {"Sid": "Old", "Effect": "Deny", "Principal": "*", "Action": "secretsmanager:GetSecretValue", "Resource": "*",
         "Condition": {"StringNotEquals": {"secretsmanager:VersionStage": "current"}}}]));
    let path = product.document("policy.json", &policy);
    let first = product.put("app", "one", &["--policy", &path]);
    product.put("app", "two", &[]);
    let why = |version: &str, more: &[&str]| {
        let path = product.path(".versions/app").join(version);
        let path = path.to_str().expect("a path").to_string();
        product.run(&[&["--json", "why", &path], more].concat())
    };
    let a = format!("{A}");
    let first = first["version"].as_str().expect("an id");
    for (version, decision) in [
        ("current", "allow"),
        ("previous", "explicit_deny"),
        (first, "explicit_deny"),
    ] {
        let file = product.path(".versions/app").join(version);
        assert_eq!(read_as(A, &[], &file).is_ok(), decision == "allow", "{version}");
        let said = why(version, &["--uid", &a]).ok().json();
        assert_eq!(said["decision"], decision, "{version}");
    }
    assert_eq!(why("nosuch", &["--uid", &a]).code(), 4);
    // Who may not read a version does not learn whether it is there.
    let asked = |version: &str| {
        let path = product.path(".versions/app").join(version);
        let path = path.to_str().expect("a path").to_string();
        let said = product.run_as(A, &[], &["why", &path, "--uid", &a], b"");
        (said.code(), said.err.replace(version, "X"))
    };
    assert_eq!(asked("previous"), asked("nosuch"));
}

/// Times at which no clock of a machine stands.
#[test]
fn clocks_before_and_beyond_all_calendars() {
    let _deadline = Deadline::new(Duration::from_secs(60), "odd clocks");
    let product = Product::new();
    for time in ["1960-01-01 00:00:00", "9999-12-31 23:00:00"] {
        let at = |args: &[&str], input: &[u8]| {
            let inner = product.command(args);
            let mut command = Command::new("faketime");
            command.arg(time).arg(inner.get_program()).args(inner.get_args());
            said(command, input)
        };
        at(&["put", "app", "--allow", &format!("uid:{A}")], b"x").ok();
        at(&["policy", "allow", "app", &format!("uid:{B}")], b"").ok();
        at(&["tag", "app", "a=b"], b"").ok();
        at(&["audit", "query", "--since", "1h"], b"").ok();
        let listed = at(&["list"], b"").ok();
        assert!(!listed.out.contains("us "), "{listed:?}");
        at(&["delete", "app", "--now"], b"").ok();
    }
    for record in product.records() {
        let time = record["eventTime"].as_str().expect("a time");
        assert!(time.ends_with('Z') && time.len() == 27, "{record}");
    }
    product.run(&["audit", "verify"]).ok();
}

/// Invisible characters are escaped in JSON as well: it is read on terminals.
#[test]
fn json_drives_no_terminal() {
    let _deadline = Deadline::new(Duration::from_secs(60), "JSON");
    let product = Product::new();
    let text = "a\u{9b}31m\u{202e}b\u{7f}";
    product.put("app", "x", &["--description", text, "--tag", "t\u{9b}=x"]);
    for args in [&["--json", "describe", "app"][..], &["--json", "list"]] {
        let said = product.run(args).ok();
        assert!(
            said.out
                .chars()
                .all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')),
            "{said:?}"
        );
        assert!(said.json().to_string().contains(text), "and says the same");
    }
}

/// A log that others can touch is as little shown as it is verified.
#[test]
fn a_log_that_others_can_touch_is_not_shown() {
    let _deadline = Deadline::new(Duration::from_secs(60), "the log's directory");
    let product = Product::new();
    let log = product.store().join("audit");
    let segment = log.join("00000001.jsonl");
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    let refused = |what: &str| {
        for args in [
            &["audit", "tail"][..],
            &["audit", "query"],
            &["audit", "query", "--limit", "1"],
            &["audit", "verify"],
        ] {
            let said = product.run(args);
            assert_eq!((said.code(), &*said.out), (6, ""), "{what}, {args:?}: {said:?}");
        }
    };
    for (path, good) in [(&log, 0o700), (&segment, 0o600)] {
        mode(path, good | 0o044);
        refused("a mode");
        mode(path, good);
        let aside = product.dir().join("aside");
        std::fs::rename(path, &aside).expect("rename");
        std::os::unix::fs::symlink(&aside, path).expect("link");
        refused("a link");
        std::fs::remove_file(path).expect("remove");
        std::fs::rename(&aside, path).expect("rename");
    }
    product.run(&["audit", "tail"]).ok();
}

/// What is no backup is not read to its end, and no advice makes things worse.
#[test]
fn devices_in_the_place_of_files() {
    let _deadline = Deadline::new(Duration::from_secs(60), "devices");
    let product = Product::new();
    let fifo = product.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let fifo = fifo.to_str().expect("a path");
    for device in ["/dev/zero", "/dev", fifo] {
        let refused = product.run(&["store", "restore", device, "--accept-rollback"]);
        assert_eq!(refused.code(), 6, "{refused:?}");
        assert!(refused.err.contains("not a regular file"), "{refused:?}");
    }
    for device in ["/dev/zero", "/dev"] {
        let refused = product.run(&["config", "check", device]);
        assert_eq!(refused.code(), 2, "{refused:?}");
        assert!(!refused.err.contains("chmod"), "{refused:?}");
    }
    let large = product.dir().join("large");
    std::fs::write(&large, vec![0; 1 << 20]).expect("write");
    let refused = product.run(&[
        "store",
        "restore",
        large.to_str().expect("a path"),
        "--accept-rollback",
    ]);
    assert_eq!(refused.code(), 6, "{refused:?}");
}

/// The line of a damaged record is that of the file.
#[test]
fn a_damaged_line_is_counted_from_the_beginning() {
    let _deadline = Deadline::new(Duration::from_secs(60), "a damaged line");
    let product = Product::new();
    for n in 0..5 {
        product.put(&format!("app{n}"), "x", &[]);
    }
    let segment = product.store().join("audit/00000001.jsonl");
    let mut text = std::fs::read_to_string(&segment).expect("read");
    let line = text.lines().count() + 1;
    text.push_str("no record at all\n");
    std::fs::write(&segment, text).expect("write");
    let refused = product.run(&["audit", "verify"]);
    assert_eq!(refused.code(), 6, "{refused:?}");
    assert!(refused.err.contains(&format!("line {line}: ")), "{refused:?}");
}

/// An `init` that was interrupted can be begun again, by what it says.
#[test]
fn an_interrupted_init_says_how_to_go_on() {
    let _deadline = Deadline::new(Duration::from_secs(60), "an interrupted init");
    let product = Product::new();
    std::fs::remove_file(product.store().join("store.redb")).expect("remove");
    assert_eq!(product.run(&["list"]).code(), 4);
    let init = product.run(&["init"]);
    assert_eq!(init.code(), 5, "{init:?}");
    std::fs::remove_file(product.store().join("root.key")).expect("remove");
    let init = product.run(&["init"]);
    assert!(
        init.code() != 0 && init.err.contains("remove the directory and begin again"),
        "{init:?}"
    );
}

/// A daemon that could not have the memory it needs does not begin, rather than end with its mount in place.
#[test]
fn little_address_space_is_refused_before_anything_is_mounted() {
    let _deadline = Deadline::new(Duration::from_secs(60), "address space");
    let mut product = Product::new();
    let refused = product
        .try_mount_within(&["prlimit", "--as=400000000"])
        .expect("a refusal");
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.err.contains("LimitAS="), "{refused:?}");
    assert!(
        !std::fs::read_to_string("/proc/self/mountinfo")
            .expect("mounts")
            .contains(product.target().to_str().expect("a path"))
    );
    let failed = product.try_mount_within(&["prlimit", "--as=1200000000"]);
    assert!(failed.is_none(), "{failed:?}");
    product.stop();
}
