//! Every command that a message prints does what it says when it is pasted: it is run, with the store that was named.

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::Deadline;
use support::product::{A, Product, said};

fn at(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().expect("a path").to_string()
}

/// The commands in the texts of the program, with the words that stand for something.
fn printed() -> BTreeSet<String> {
    let text = regex::Regex::new(r#""((?:[^"\\]|\\.)*)""#).expect("a pattern");
    let mut names = wardfs::cli::command_names();
    names.sort();
    // A command ends where its text does, or before what cannot be a part of it.
    let command = format!(r"wardfs (?:{})\b[^`;,)#\n]*", names.join("|"));
    let command = regex::Regex::new(&command).expect("a pattern");
    let mut found = BTreeSet::new();
    let continued = regex::Regex::new("\u{1}\\s*").expect("a pattern");
    for file in sources(Path::new("src")) {
        let source = std::fs::read_to_string(&file).expect("a source");
        let source = source.split("#[cfg(test)]\nmod tests {").next().expect("a part");
        let code: String = source
            .lines()
            .filter(|l| !l.trim_start().starts_with("//"))
            .map(|l| {
                l.strip_suffix('\\')
                    .map_or(format!("{l}\n"), |l| format!("{l}\u{1}"))
            })
            .collect();
        let code = continued.replace_all(&code, "");
        for literal in text.captures_iter(&code) {
            for found_here in command.find_iter(&literal[1].replace("\\\"", "'")) {
                found.insert(found_here.as_str().trim().to_string());
            }
        }
    }
    // Labels of derived keys, and a title.
    found.retain(|c| !c.starts_with("wardfs audit genesis") && !c.starts_with("wardfs audit segment"));
    found.retain(|c| c != "wardfs store");
    found
}

fn sources(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).expect("sources").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        match path.is_dir() {
            // The examples of the definition are parsed by a test of its own.
            true if name == "tests" || name == "args" => {}
            true => all.extend(sources(&path)),
            false if name == "args.rs" || name.ends_with("tests.rs") => {}
            false => all.extend(name.ends_with(".rs").then_some(path)),
        }
    }
    all
}

/// Runs a line of a shell, in which `wardfs` is this program.
fn shell(line: &str, dir: &Path) -> Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_wardfs"))
        .parent()
        .expect("a directory");
    Command::new("/bin/sh")
        .args(["-c", line])
        .current_dir(dir)
        .env_clear()
        .envs(support::coverage())
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
        .env("VALUE", "v")
        .stdin(Stdio::null())
        .output()
        .expect("a shell")
}

#[test]
fn every_command_in_a_text_does_what_it_says() {
    let _deadline = Deadline::new(Duration::from_secs(120), "every printed command");
    let product = Product::mounted();
    let here = product.dir();
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"User":"nobody"},"Action":"secretsmanager:GetSecretValue","Resource":"*"}]}"#;
    std::fs::write(here.join("policy.json"), policy).expect("a policy");
    std::fs::write(here.join("value"), "v").expect("a value");
    product.put("app/old", "v", &["--allow", "uid:0"]);
    product.document(
        "guardrail.json",
        &serde_json::json!({"Statement": [{"Effect": "Deny", "Principal": "*",
        "Action": "secretsmanager:DeleteSecret", "Resource": "*"}]}),
    );
    product
        .run(&["guardrail", "set", "g", &at(here, "guardrail.json")])
        .ok();
    product.run(&["store", "backup", &at(here, "backup")]).ok();
    product.run(&["guardrail", "remove", "g"]).ok();

    let store = product.store();
    wardfs::problem::repeat(
        format!("--store {}", store.display()),
        wardfs::cli::command_names(),
    );
    let all = printed();
    assert!(all.len() > 40, "{all:?}");
    for (i, text) in all.iter().enumerate() {
        let name = format!("app/m{i}");
        let denied = ["--deny", "user:nobody", "--deny", "uid:1234"];
        let older = product.put(&name, "1", &[&["--allow", "uid:0"][..], &denied].concat());
        let newer = product.put(&name, "2", &["--label", "extra", "--label", "current"]);
        let [older, newer] = [&older, &newer].map(|put| put["version"].as_str().expect("an id").to_string());
        support::product::read_as(A, &[], &product.path(&name)).expect_err("refused");
        let mount = at(here, "mnt");
        let fresh = format!("{name}-new --create");
        let mut line = text.clone();
        for (word, meaning) in [
            ("{mount}", "DIR"),
            ("wardfs unmount {}", "wardfs unmount DIR"),
            ("wardfs mount {}", "wardfs mount DIR"),
            ("user:NAME", "user:nobody"),
            ("user:WHO", "user:nobody"),
            ("user:{user}", "user:nobody"),
            ("uid:{uid}", "uid:1234"),
            ("--user NAME", "--user nobody"),
            ("unit:NAME.service", "unit:app.service"),
            ("unit:{unit}", "unit:app.service"),
            ("user:{name}", "user:nobody"),
            ("--guardrail NAME", "--guardrail g"),
            ("--reason TEXT", "--reason text"),
            ("put NEW", "put app/copy"),
            ("get OLD", "get app/old"),
            ("{name} --create", &fresh),
            ("PROGRAM", "cat"),
            ("{name}", &name),
            ("{}", &name),
            ("NAME", &name),
            ("--to VERSION", &format!("--to {older}")),
            ("--from VERSION", &format!("--from {newer}")),
            ("previous --to", "other --to"),
            ("LABEL", &format!("extra --from {newer}")),
            ("KEY", "k"),
            ("restore FILE", "restore backup"),
            ("backup FILE", &format!("backup backup-{i}")),
            ("policy set {name} FILE", "policy set {name} policy.json"),
            ("check FILE", "check policy.json"),
            (
                "FILE",
                if text.contains("policy") {
                    "policy.json"
                } else {
                    "value"
                },
            ),
            ("DIR", &mount),
        ] {
            line = line.replace(word, meaning);
        }
        // What needs another state than a served store is run below.
        let elsewhere = [
            "init",
            "mount",
            "unmount",
            "umount",
            "store recover",
            "store restore",
            "store break-glass",
        ];
        if elsewhere.iter().any(|c| text.starts_with(&format!("wardfs {c}"))) {
            continue;
        }
        // On a disk that cannot be written: `tests/read_only.rs`.
        if text.ends_with("--unrecorded") {
            continue;
        }
        let line = match line.contains("wardfs put")
            && !line.contains('<')
            && !line.contains('|')
            && !line.contains("FILE")
        {
            true if !line.contains("--value-file") => format!("printf v | {line}"),
            _ => line,
        };
        if text.contains("config accept") {
            let out = shell(&format!("{} --dry-run", wardfs::problem::pasteable(&line)), here);
            assert_eq!(out.status.code(), Some(0), "{line}: {out:?}");
            continue;
        }
        let out = shell(&wardfs::problem::pasteable(&line), here);
        let fine: &[i32] = match text.contains("explain") || text.contains(" why ") {
            true => &[0, 3],
            false => &[0],
        };
        assert!(
            out.status.code().is_some_and(|c| fine.contains(&c)),
            "{text:?} as {line:?}: {out:?}"
        );
    }
}

/// The commands of `next:` in what was said.
fn advised(err: &str) -> Vec<&str> {
    let (_, next) = err
        .split_once("next: ")
        .unwrap_or_else(|| panic!("no advice: {err}"));
    let parts = next
        .split([';', '`', '\n'])
        .filter_map(|part| Some(&part[part.find("wardfs ")?..]));
    parts.map(str::trim).collect()
}

#[test]
fn a_printed_command_names_the_store_that_was_named() {
    let _deadline = Deadline::new(Duration::from_secs(60), "the store that was named");
    let product = Product::mounted();
    let store = at(product.dir(), "store");
    product.put("app/a", "v", &["--allow", "uid:0"]);

    let missing = product.run(&["get", "app/b"]);
    assert_eq!(advised(&missing.err), [format!("wardfs --store {store} list")]);
    assert!(shell(advised(&missing.err)[0], product.dir()).status.success());
    let missing = product.run(&["--json", "get", "app/b"]);
    assert!(
        missing
            .err
            .contains(&format!("\"next\":\"wardfs --store {store} list\"")),
        "{missing:?}"
    );

    let nobody = product.run_with(&["put", "app/c"], b"v").ok();
    let command = format!("wardfs --store {store} policy allow app/c user:NAME");
    assert!(
        nobody.out.contains(&format!("nobody yet: {command}")),
        "{nobody:?}"
    );
    assert!(nobody.err.contains(&command), "{nobody:?}");
    let json = product.put("app/c", "v", &[]);
    assert!(
        json["warnings"][0]
            .as_str()
            .expect("a warning")
            .ends_with(&command),
        "{json}"
    );

    // Nobody named one: the one that everybody means.
    let mut plain = Command::new(env!("CARGO_BIN_EXE_wardfs"));
    plain.env("WARDFS_STORE", &store).args(["get", "app/b"]);
    assert_eq!(advised(&said(plain, b"").err), ["wardfs list"]);

    // A store of one's own, and words that a shell would take apart.
    let home = product.dir().join("a home");
    std::fs::create_dir(&home).expect("mkdir");
    let own = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wardfs"));
        command
            .env_remove("WARDFS_STORE")
            .env_remove("XDG_DATA_HOME")
            .env("HOME", &home);
        said(
            {
                command.args(args);
                command
            },
            b"",
        )
    };
    assert_eq!(advised(&own(&["list", "--user"]).err), ["wardfs --user init"]);
    own(&["--user", "init"]).ok();
    assert_eq!(advised(&own(&["get", "x", "--user"]).err), ["wardfs --user list"]);
    let spaced = at(&home, ".local/share/wardfs");
    assert_eq!(
        advised(&own(&["get", "x", "--store", &spaced]).err),
        [format!("wardfs --store '{spaced}' list")]
    );
    let out = shell(&format!("wardfs --store '{spaced}' list"), &home);
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn advice_is_of_the_cause() {
    let _deadline = Deadline::new(Duration::from_secs(60), "advice of the cause");
    let product = Product::new();
    product.put("app/a", "v", &["--allow", "uid:0"]);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
    };

    let said = product.run_with(&["put", "app/a"], b"");
    assert!(said.code() == 2 && !said.err.contains("delete"), "{said:?}");
    let said = product.run_with(&["put", "app/a", "--token", "abc"], b"v");
    assert!(
        said.code() == 2 && !said.err.contains("versions") && said.err.contains("uuidgen"),
        "{said:?}"
    );

    // A log that others may read.
    let log = product.store().join("audit/00000001.jsonl");
    mode(&log, 0o644);
    for command in [&["list"][..], &["audit", "query"]] {
        let said = product.run(command);
        let next = said.err.split("next: ").nth(1).expect("advice");
        assert!(
            said.code() == 6 && next.contains("owner alone") && !next.contains("room"),
            "{said:?}"
        );
    }
    mode(&log, 0o600);

    // A key that is too short: whose it is was never the question.
    let key = product.store().join("root.key");
    let kept = std::fs::read(&key).expect("the key");
    std::fs::write(&key, &kept[..7]).expect("write");
    let said = product.run(&["list"]);
    let next = said.err.split("next: ").nth(1).expect("advice");
    assert!(
        said.code() == 6 && !next.contains("chown") && next.contains("store recover"),
        "{said:?}"
    );
    std::fs::write(&key, &kept).expect("write");
    product.run(&["list"]).ok();

    // A store that does not open is not checked by opening it.
    let file = std::fs::read_dir(product.store())
        .expect("list")
        .flatten()
        .map(|e| e.path());
    let database = file
        .max_by_key(|p| p.is_file().then(|| p.metadata().map_or(0, |m| m.len())))
        .expect("a file");
    let kept = std::fs::read(&database).expect("the store");
    std::fs::write(&database, vec![7; kept.len()]).expect("write");
    for command in [&["store", "check"][..], &["list"]] {
        let said = product.run(command);
        assert!(said.code() != 0 && !said.err.contains("store check"), "{said:?}");
    }
    std::fs::write(&database, &kept).expect("write");

    // A device that may not be opened.
    let device = product.dir().join("fuse");
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    let closed = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::sys::stat::mknod(&device, kind, closed, nix::sys::stat::makedev(10, 229)).expect("mknod");
    mode(&device, 0o600);
    let own = product.dir().join("own");
    std::fs::create_dir(&own).expect("mkdir");
    std::os::unix::fs::chown(&own, Some(A), Some(A)).expect("chown");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wardfs"));
        command
            .args(args)
            .env("HOME", &own)
            .env_remove("XDG_DATA_HOME")
            .uid(A)
            .gid(A);
        support::product::said(command, b"")
    };
    run(&["--user", "init"]).ok();
    nix::mount::mount(
        Some(&device),
        "/dev/fuse",
        None::<&str>,
        nix::mount::MsFlags::MS_BIND,
        None::<&str>,
    )
    .expect("bind");
    let said = run(&["--user", "mount", own.join("mnt").to_str().expect("a path")]);
    nix::mount::umount2("/dev/fuse", nix::mount::MntFlags::MNT_DETACH).expect("umount");
    assert!(
        said.code() != 0 && said.err.contains("/dev/fuse") && !said.err.contains("empty directory"),
        "{said:?}"
    );
}

#[test]
fn what_is_suggested_is_what_was_meant() {
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wardfs"));
        command.env_remove("WARDFS_STORE").args(args);
        let said = said(command, b"");
        assert_eq!(said.code(), 2, "{said:?}");
        said.err
    };
    for (typed, suggested) in [
        ("import", "wardfs put NAME --value-file FILE"),
        ("cp", "wardfs get OLD | wardfs put NEW"),
        ("rename", "wardfs get OLD | wardfs put NEW"),
        ("rotate", "wardfs put NAME"),
        ("rm", "wardfs delete NAME --now --dry-run"),
        ("descibe", "'describe'"),
        ("lst", "'list'"),
    ] {
        let err = run(&[typed, "a"]);
        assert!(err.contains("tip: ") && err.contains(suggested), "{typed}: {err}");
        assert!(
            !err.contains("completions") && !err.contains("'mount'") && !err.contains("'demo'"),
            "{typed}: {err}"
        );
    }
    for typed in ["frobnicate", "xyz", "move-everything"] {
        let err = run(&[typed]);
        assert!(!err.contains("tip:") && err.contains("--help"), "{typed}: {err}");
    }
    assert!(run(&["--store", "/x y", "cp"]).contains("wardfs --store '/x y' get OLD"));
    let err = run(&["list", "--zzz"]);
    assert!(!err.contains("as a value"), "{err}");
    assert!(run(&["put", "a", "--alow", "user:x"]).contains("'--allow'"));
}

#[test]
fn what_needs_another_state_is_run_in_it() {
    let _deadline = Deadline::new(Duration::from_secs(60), "other states");
    let mut product = Product::empty();
    let no_store = product.run(&["list"]);
    let init = format!("{} --json", advised(&no_store.err)[0]);
    let out = shell(&init, product.dir());
    assert!(out.status.success(), "{init}: {out:?}");
    let made: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let recovery = made["recovery_key"].as_str().expect("a key");
    product.put("app/a", "v", &["--allow", "uid:0"]);

    // Served, and stopped as it says.
    product.mount();
    let glass = ["store", "break-glass", "app/a", "--reason", "text"];
    let refused = product.run(&glass);
    assert_eq!(refused.code(), 7, "{refused:?}");
    let unmount = advised(&refused.err)[0];
    assert!(shell(unmount, product.dir()).status.success(), "{unmount}");
    assert!(product.ended(Duration::from_secs(10)).is_some());
    let kept = at(product.dir(), "FILE");
    product.run(&["store", "backup", &kept]).ok();
    product.run(&glass).ok();

    // A key that is lost.
    std::fs::remove_file(product.store().join("root.key")).expect("remove");
    let lost = product.run(&["list"]);
    let recover = advised(&lost.err)[0];
    assert!(recover.ends_with("store recover"), "{lost:?}");
    let line = format!("printf %s {recovery} | {recover}");
    assert!(shell(&line, product.dir()).status.success(), "{recover}");
    product.run(&["list"]).ok();

    // A store that is damaged as a whole.
    let database = product.store().join("store.redb");
    let length = std::fs::metadata(&database).expect("the store").len();
    std::fs::write(&database, vec![7; length as usize]).expect("write");
    let damaged = product.run(&["list"]);
    let restore = advised(&damaged.err)[0];
    assert!(restore.contains("store restore FILE --dry-run"), "{damaged:?}");
    let out = shell(restore, product.dir());
    let err = String::from_utf8_lossy(&out.stderr);
    // What is there is damaged, and it says what to do with it.
    assert!(out.status.success() || err.contains("next: "), "{restore}: {err}");
    assert_ne!(out.status.code(), Some(2), "{restore}: {err}");
}
