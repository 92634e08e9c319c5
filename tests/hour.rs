//! What a newcomer tries in the first hour: it works, or it is said what does.

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::Deadline;
use support::product::{A, B, Product, read_as};
use support::terminal::at_a_terminal;

fn deadline(what: &str) -> Deadline {
    Deadline::new(Duration::from_secs(60), what)
}

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "11111111-2222-4222-8222-222222222222";
const THREE: &str = "33333333-3333-4333-8333-333333333333";

#[test]
fn a_second_mount_says_at_once_where_the_first_is() {
    let _deadline = deadline("a second mount");
    let product = Product::mounted();
    let other = product.dir().join("other");
    let begin = Instant::now();
    let said = product.run(&["mount", other.to_str().expect("text")]);
    let why = format!(
        "already mounted on {} by process {}",
        product.target().display(),
        product.pid()
    );
    assert!(said.code() == 5 && said.err.contains(&why), "{said:?}");
    assert!(begin.elapsed() < Duration::from_secs(4), "it waited");
    assert!(!other.exists(), "nothing was begun");
}

#[test]
fn umount_works_while_nothing_is_open() {
    let _deadline = deadline("umount");
    let mut product = Product::new();
    product.put("app/a", "v", &["--allow", &format!("uid:{A}")]);
    product.mount();
    read_as(A, &[], &product.path("app/a")).expect("a value");
    let flags = nix::mount::MntFlags::empty();
    // A probe of the directory by the system itself may have it open for a moment.
    let done = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        nix::mount::umount2(&product.target(), flags).is_ok()
    });
    assert!(done, "busy");
    assert!(
        product
            .ended(Duration::from_secs(10))
            .is_some_and(|s| s.success())
    );
    product.run(&["list"]).ok();
}

#[test]
fn a_backup_streams_and_can_be_restored() {
    let _deadline = deadline("a streamed backup");
    for served in [false, true] {
        let mut product = Product::new();
        product.put("app/a", "v", &["--allow", "uid:0"]);
        if served {
            product.mount();
        }
        let mut command = product.command(&["store", "backup", "-"]);
        let out = command.stdin(Stdio::null()).output().expect("run");
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success() && err.contains("to standard output"),
            "{err}"
        );
        let file = product.dir().join("backup");
        std::fs::write(&file, &out.stdout).expect("write");
        let said = product
            .run(&[
                "--json",
                "store",
                "backup",
                product.dir().join("b2").to_str().expect("text"),
            ])
            .ok();
        assert_eq!(said.json()["records"].as_u64().map(|n| n > 0), Some(true));
        if served {
            product.stop();
        }
        let file = file.to_str().expect("text").to_string();
        let said = product
            .run(&["--json", "store", "restore", &file, "--accept-rollback"])
            .ok();
        assert_eq!(said.json()["secrets"], 1);
        let said = product.run(&["--json", "store", "backup", "-", "--store", "/nonexistent"]);
        assert!(said.code() != 0 && said.out.is_empty());
    }
    let product = Product::new();
    let (shown, code) = at_a_terminal(&product.store(), &["store", "backup", "-"], &[]);
    assert!(
        code == Some(2) && shown.contains("a terminal keeps no backup"),
        "{shown}"
    );
}

#[test]
fn a_value_is_got_by_the_path_of_its_file() {
    let _deadline = deadline("get PATH");
    let product = Product::mounted();
    product.put("app/a", "old", &["--allow", &format!("uid:{A}"), "--token", ONE]);
    product.put("app/a", "new", &["--token", TWO]);
    let path = |p: &str| product.path(p).to_str().expect("text").to_string();
    for (target, value) in [
        (path("app/a"), "new"),
        (path(".versions/app/a/previous"), "old"),
        (path(&format!(".versions/app/a/{ONE}")), "old"),
    ] {
        let said = product.run_as(A, &[], &["get", &target], b"").ok();
        assert_eq!(said.out, value, "{target}");
    }
    let said = product.run_as(B, &[], &["get", &path("app/a")], b"");
    assert!(
        said.code() == 3 && said.err.contains("wardfs --store"),
        "{said:?}"
    );
    assert_eq!(product.run(&["get", "/etc/passwd"]).code(), 2);
}

#[test]
fn labels_and_short_ids_name_versions() {
    let _deadline = deadline("short ids");
    for served in [true, false] {
        let mut product = Product::new();
        if served {
            product.mount();
        }
        let uid = format!("uid:{A}");
        for (token, value) in [(ONE, "1"), (TWO, "2"), (THREE, "3")] {
            product.put(
                "app/a",
                value,
                &["--allow", "uid:0", "--allow", &uid, "--token", token],
            );
        }
        let get = |version: &str| product.run(&["get", "app/a", "--version", version]);
        for (named, value) in [
            ("33333333", "3"),
            ("previous", "2"),
            ("11111111-1", "1"),
            (TWO, "2"),
            ("AWSCURRENT", "3"),
        ] {
            assert_eq!(get(named).ok().out, value, "{named} ({served})");
        }
        let said = get("11111111");
        assert!(said.code() == 2 && said.err.contains("several"), "{said:?}");
        assert_eq!(get("3333333").code(), 4, "seven characters");
        assert_eq!(get("44444444").code(), 4);

        // A label wins.
        product
            .run(&["label", "move", "app/a", "33333333", "--to", "previous"])
            .ok();
        assert_eq!(get("33333333").ok().out, "2");
        let said = product.run(&["label", "move", "app/a", "x", "--to", "11111111"]);
        assert!(said.code() == 2 && said.err.contains("several"), "{said:?}");
        product
            .run(&["label", "move", "app/a", "x", "--to", "11111111-1"])
            .ok();
        let said = product.run(&[
            "label", "move", "app/a", "x", "--to", "current", "--from", "nonesuch",
        ]);
        assert_eq!(said.code(), 5, "{said:?}");
        let moved = product
            .run(&[
                "--json", "label", "move", "app/a", "x", "--to", "current", "--from", "x",
            ])
            .ok();
        assert_eq!(moved.json()["version"], THREE);
        product
            .run(&["label", "remove", "app/a", "x", "--from", "current"])
            .ok();
        if served {
            let path = product.path(".versions/app/a/previous");
            let said = product
                .run(&["--json", "why", path.to_str().expect("text"), "--uid", "0"])
                .ok();
            assert_eq!(said.json()["decision"], "allow");
        }
    }
}

#[test]
fn a_rollback_gives_the_previous_value_and_can_be_taken_back() {
    let _deadline = deadline("rollback");
    let product = Product::mounted();
    let uid = format!("uid:{A}");
    product.put("app/a", "old", &["--allow", &uid, "--token", ONE]);
    let said = product.run(&["rollback", "app/a"]);
    assert!(
        said.code() == 4 && said.err.contains("no version is previous"),
        "{said:?}"
    );
    product.put("app/a", "new", &["--token", TWO]);
    let read = || String::from_utf8(read_as(A, &[], &product.path("app/a")).expect("a value")).expect("text");
    let said = product.run(&["rollback", "app/a"]).ok();
    assert!(
        said.out.contains(&format!("current   {ONE}")) && said.out.contains(&format!("previous  {TWO}")),
        "{said:?}"
    );
    assert_eq!(read(), "old");
    let json = product.run(&["--json", "rollback", "app/a"]).ok().json();
    assert_eq!(
        (&json["version"], &json["labels"]["previous"]),
        (&TWO.into(), &ONE.into())
    );
    assert_eq!(read(), "new");
    assert_eq!(product.run_as(A, &[], &["rollback", "app/a"], b"").code(), 3);
    assert_eq!(product.run(&["rollback", "app/none"]).code(), 4);
}

#[test]
fn put_keeps_to_what_was_meant() {
    let _deadline = deadline("put");
    let product = Product::mounted();
    let put = |args: &[&str]| product.run_with(&[&["--json", "put"], args].concat(), b"v");
    let warned = |args: &[&str]| put(args).ok().json()["warnings"].to_string();

    assert_eq!(put(&["app/password", "--update", "--allow", "uid:0"]).code(), 4);
    assert_eq!(
        put(&[
            "app/password",
            "--create",
            "--allow",
            &format!("uid:{A}"),
            "--token",
            ONE
        ])
        .code(),
        0
    );
    assert_eq!(put(&["app/password", "--create"]).code(), 5);
    assert_eq!(
        put(&["app/password", "--create", "--token", ONE]).code(),
        0,
        "the same again"
    );
    assert_eq!(put(&["app/password", "--update"]).code(), 0);
    assert_eq!(put(&["app/password", "--update", "--create"]).code(), 2);
    // Who may not put learns nothing by it.
    for flag in ["--create", "--update"] {
        for name in ["app/password", "app/none"] {
            let said = product.run_as(B, &[], &["put", name, flag], b"v");
            assert_eq!(said.code(), 3, "{name} {flag}: {said:?}");
        }
    }

    // A slip of the finger, told to whom it tells nothing new.
    assert!(warned(&["app/pasword", "--allow", "uid:0"]).contains("app/password too"));
    assert!(
        !warned(&["app/pasword", "--allow", "uid:0"]).contains("too"),
        "the second time it is meant"
    );
    assert!(!warned(&["app/other", "--allow", "uid:0"]).contains("too"));

    // The argument is named.
    let said = put(&["app/password", "--allow", "user:nosuch-user"]);
    assert!(
        said.code() == 2 && said.err.contains("--allow user:nosuch-user"),
        "{said:?}"
    );
    let said = put(&["app/password", "--deny", "group:nosuch-group"]);
    assert!(
        said.code() == 2 && said.err.contains("--deny group:nosuch-group"),
        "{said:?}"
    );
    let said = put(&["app/password", "--owner", "nosuch-user"]);
    assert!(said.code() == 2 && said.err.contains("--owner"), "{said:?}");

    // An old policy that comes back.
    product.run(&["delete", "app/password", "--now"]).ok();
    let list = product.run(&["--json", "list", "--deleted"]).ok().json();
    assert_eq!(
        (&list["secrets"][0]["name"], &list["secrets"][0]["policy_kept"]),
        (&"app/password".into(), &true.into())
    );
    assert!(
        product
            .run(&["list", "--deleted"])
            .ok()
            .out
            .contains("app/password")
    );
    assert!(!product.run(&["list"]).ok().out.contains("app/password"));
    let stranger = product.run_as(B, &[], &["--json", "list", "--deleted"], b"").ok();
    assert_eq!(stranger.json()["secrets"], serde_json::json!([]));
    assert_eq!(put(&["app/password", "--update"]).code(), 4);
    let said = put(&["app/password", "--create"]);
    assert!(said.code() == 5 && said.err.contains("--purge"), "{said:?}");
    let warned = warned(&["app/password", "--allow", "uid:0"]);
    assert!(
        warned.contains("old policy is back") && warned.contains(&format!("uid {A}")),
        "{warned}"
    );
    assert_eq!(
        product.run(&["--json", "list", "--deleted"]).ok().json()["secrets"],
        serde_json::json!([])
    );
}

#[test]
fn settings_change_without_the_value() {
    let _deadline = deadline("update");
    let product = Product::mounted();
    let uid = format!("uid:{A}");
    let made = product.put("app/a", "v", &["--allow", &uid]);
    let update = |args: &[&str]| product.run(&[&["--json", "update", "app/a"], args].concat());
    let of = || product.run(&["--json", "describe", "app/a"]).ok().json();

    assert_eq!(update(&[]).code(), 2, "nothing was said");
    let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:app/a-AbCdEf";
    let changed = update(&[
        "--description",
        "words",
        "--owner",
        "0",
        "--group",
        "34",
        "--mode",
        "0440",
        "--visibility",
        "hidden",
        "--arn",
        arn,
    ]);
    let changed = changed.ok().json();
    assert_eq!(
        changed["changed"]["mode"],
        serde_json::json!({"from": null, "to": "0440"})
    );
    let now = of();
    for (key, value) in [
        ("description", "words"),
        ("mode", "0440"),
        ("visibility", "hidden"),
        ("arn", arn),
    ] {
        assert_eq!(now[key], value, "{key}");
    }
    assert_eq!((&now["owner"], &now["group"]), (&0.into(), &34.into()));
    assert_eq!(
        (&now["version"], &now["changed"]),
        (&made["version"], &of()["changed"]),
        "the value stays"
    );
    let said = product.run(&["update", "app/a", "--description", "other"]).ok();
    assert!(said.out.contains("description  words -> other"), "{said:?}");
    update(&[
        "--description",
        "",
        "--owner",
        "",
        "--group",
        "",
        "--mode",
        "",
        "--arn",
        "",
    ])
    .ok();
    let now = of();
    for key in ["description", "owner", "group", "mode", "arn"] {
        assert!(now[key].is_null(), "{key}: {now}");
    }
    for (flag, bad) in [
        ("--mode", "0644"),
        ("--owner", "nosuch-user"),
        ("--group", "nosuch"),
        ("--arn", "x"),
    ] {
        assert_eq!(update(&[flag, bad]).code(), 2, "{flag}");
    }
    assert_eq!(
        product.run(&["update", "app/none", "--description", "x"]).code(),
        4
    );
    let record = product.record("an update", |r| {
        r["eventName"] == "UpdateSecret" && r["outcome"] == "allowed"
    });
    assert!(
        record.to_string().contains("description: words -> other") || record.to_string().contains("settings"),
        "{record}"
    );

    // How it looks, and to whom, is for who may set the policy.
    let policy = product.document("policy.json", &serde_json::json!({"Statement": [
        {"Effect": "Allow", "Principal": {"Uid": A.to_string()}, "Action": ["secretsmanager:UpdateSecret", "secretsmanager:GetSecretValue"], "Resource": "*"},
        {"Effect": "Allow", "Principal": {"Uid": B.to_string()}, "Action": ["secretsmanager:PutResourcePolicy", "secretsmanager:GetSecretValue"], "Resource": "*"},
    ]}));
    product.run(&["policy", "set", "app/a", &policy]).ok();
    let by = |uid: u32, flag: &str, value: &str| {
        product
            .run_as(uid, &[], &["update", "app/a", flag, value], b"")
            .code()
    };
    for (flag, value, a, b) in [
        ("--description", "x", 0, 3),
        ("--owner", "0", 3, 0),
        ("--group", "0", 3, 0),
        ("--mode", "0400", 3, 0),
        ("--visibility", "listed", 3, 0),
    ] {
        assert_eq!((by(A, flag, value), by(B, flag, value)), (a, b), "{flag}");
    }
}

#[test]
fn what_is_no_text_goes_to_a_terminal_only_after_a_yes() {
    let _deadline = deadline("a terminal");
    let product = Product::new();
    for (name, value) in [
        ("app/bytes", &b"\xff\x00\x01"[..]),
        ("app/escape", b"a\x1b[2Jb"),
        ("app/text", "zwölf\n".as_bytes()),
    ] {
        product.put(name, value, &["--allow", "uid:0"]);
    }
    let question = "Print it to the terminal? [y/N] ";
    for name in ["app/bytes", "app/escape"] {
        let (shown, code) = at_a_terminal(&product.store(), &["get", name], &[(question, b"n\r")]);
        assert!(
            code == Some(2) && shown.contains("was not printed") && !shown.contains("[2J"),
            "{shown}"
        );
        let (_, code) = at_a_terminal(&product.store(), &["get", name], &[(question, b"y\r")]);
        assert_eq!(code, Some(0));
        let (shown, code) = at_a_terminal(&product.store(), &["get", name, "--force"], &[]);
        assert!(code == Some(0) && !shown.contains(question), "{shown}");
    }
    let (shown, code) = at_a_terminal(&product.store(), &["get", "app/text"], &[]);
    assert!(
        code == Some(0) && shown.contains("zwölf") && !shown.contains(question),
        "{shown}"
    );
    // Anything but a terminal gets what there is.
    let mut command = product.command(&["get", "app/bytes"]);
    assert_eq!(
        command.stdin(Stdio::null()).output().expect("run").stdout,
        b"\xff\x00\x01"
    );
}
