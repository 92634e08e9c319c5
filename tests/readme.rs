//! What the README promises, kept: the tour word for word, the demonstration, exit codes, messages, `why`.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::product::{A, B, Product, Said, commands, read_as};

const USER: u32 = 61003;
const README: &str = include_str!("../README.md");

/// The lines of the console block under this heading.
fn console(heading: &str) -> Vec<&'static str> {
    let (_, text) = README
        .split_once(&format!("\n## {heading}\n"))
        .expect("the heading");
    let (_, text) = text.split_once("```console\n").expect("a console block");
    text.split_once("```").expect("its end").0.lines().collect()
}

/// A copy of the program where every uid can run it, under its own name.
fn program(dir: &Path) -> PathBuf {
    let bin = dir.join("bin");
    std::fs::create_dir(&bin).unwrap();
    support::product::install(&bin.join("wardfs"));
    for path in [&bin, &bin.join("wardfs")] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    bin
}

fn shell(line: &str, bin: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", line])
        .env_clear()
        .envs(support::coverage())
        .env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin", bin.display()))
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    // SAFETY: prctl is async-signal-safe; it ends the child with the test's thread.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        status: output.status,
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

#[test]
fn every_command_is_in_the_table_and_every_document_is_there() {
    let (_, table) = README.split_once("\n## Commands\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let all = commands(&[]);
    assert!(all.len() > 15, "{all:?}");
    for command in all {
        let mut words = command.split(' ');
        let (first, second) = (words.next().unwrap(), words.next());
        let row = table
            .lines()
            .find(|l| l.contains(&format!("`{first}")) && second.is_none_or(|s| l.contains(s)));
        assert!(row.is_some(), "{command} is not in the README's table");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = std::fs::read_dir(root.join("packaging/doc")).unwrap().flatten();
    for page in documents
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .chain([root.join("README.md")])
    {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).map(|l| l.split(')').next().unwrap()) {
            let local = !link.starts_with("http") && link.ends_with(".md");
            assert!(
                !local || page.parent().unwrap().join(link).exists(),
                "{}: {link} is not there",
                page.display()
            );
        }
    }
}

/// The serving process of the tour, ended with the test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_five_minutes_word_for_word() {
    let _deadline = support::Deadline::new(Duration::from_secs(90), "tour");
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let bin = program(dir.path());
    // The system's own places, empty, in this test's mount namespace alone.
    for (place, mode) in [("/run", "mode=755"), ("/var/lib", "mode=755")] {
        nix::mount::mount(
            Some("tmpfs"),
            place,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(mode),
        )
        .unwrap();
    }
    let lines = console("Five minutes");
    let mut steps: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in lines {
        match line.strip_prefix("# ") {
            Some(command) => steps.push((command, Vec::new())),
            None => steps.last_mut().expect("a command first").1.push(line),
        }
    }
    assert!(steps.len() >= 10, "{steps:?}");
    let mut served = None;
    for (line, expected) in steps {
        if line.starts_with("cargo ") {
            continue;
        }
        if let Some(line) = line
            .split('&')
            .next()
            .filter(|_| line.contains("mount /run/secrets &"))
        {
            let mut child = shell(&format!("exec {line}"), &bin)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut ready = String::new();
            let mut out = BufReader::new(child.stdout.take().unwrap());
            served = Some(Served(child));
            out.read_line(&mut ready).unwrap();
            assert!(ready.starts_with("READY"), "{ready:?}");
            continue;
        }
        let said = said(&mut shell(line, &bin));
        let both = format!("{}{}", said.out, said.err);
        let refused = expected.iter().any(|l| l.contains("Permission denied"));
        let denied = line.starts_with("wardfs why") && line.contains(" --as ");
        let code = if denied { 3 } else { i32::from(refused) };
        assert_eq!(said.code(), code, "{line}: {said:?}");
        if !expected.is_empty() {
            assert_eq!(both.trim_end(), expected.join("\n"), "{line}");
        }
        let must_say = match line {
            l if l.starts_with("wardfs init") => "recovery key",
            l if l.starts_with("wardfs why") => "wardfs policy allow app/db/password user:nobody",
            l if l.starts_with("wardfs audit tail") => "nobody",
            _ => "",
        };
        assert!(both.contains(must_say), "{line}: {both}");
    }
    let mut served = served.expect("the tour mounts");
    assert!(served.0.wait().unwrap().success());
}

#[test]
fn the_demonstration_as_root_and_as_anybody() {
    let _deadline = support::Deadline::new(Duration::from_secs(120), "demo");
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let bin = program(dir.path());
    let left = || -> Vec<PathBuf> {
        let all = std::fs::read_dir("/var/tmp").unwrap().flatten();
        all.map(|e| e.path())
            .filter(|p| {
                p.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with("wardfs-demo-")
            })
            .filter(|p| std::fs::metadata(p).is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == USER))
            .collect()
    };
    let root = said(&mut shell("wardfs demo", &bin)).ok();
    assert!(root.out.contains("nothing is left behind"), "{root:?}");
    let mut command = shell("wardfs demo", &bin);
    command.uid(USER).gid(USER);
    let user = said(&mut command).ok();
    assert!(user.out.contains("this takes root"), "{user:?}");
    assert!(user.out.contains("nothing is left behind"), "{user:?}");
    assert_eq!(left(), Vec::<PathBuf>::new());
    let mut command = shell("wardfs demo --json", &bin);
    command.uid(USER).gid(USER);
    each_line_is_json(&said(&mut command).ok());
}

#[track_caller]
fn each_line_is_json(said: &Said) {
    assert!(!said.out.trim().is_empty(), "{said:?}");
    if serde_json::from_str::<Value>(&said.out).is_ok() {
        return;
    }
    for line in said.out.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

#[test]
fn a_private_store_is_its_owners() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "private store");
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let bin = program(dir.path());
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(USER), Some(USER)).unwrap();
    let by = |uid: u32, line: &str| {
        let mut command = shell(line, &bin);
        command.env("WARDFS_STORE", home.join("store")).uid(uid).gid(uid);
        said(&mut command)
    };
    by(USER, "wardfs init").ok();
    by(
        USER,
        &format!("printf mine | wardfs put app/x --allow uid:{USER}"),
    )
    .ok();
    assert_eq!(by(USER, "wardfs get app/x").ok().out, "mine");
    // To administer is not to read: the owner needs a statement, as root does.
    by(USER, "printf other | wardfs put app/y").ok();
    assert_eq!(by(USER, "wardfs get app/y").code(), 3);
    let why = by(USER, "wardfs why app/y --json").ok().json();
    by(USER, why["mend"].as_str().unwrap()).ok();
    assert_eq!(by(USER, "wardfs get app/y").ok().out, "other");
    for line in [
        "wardfs list",
        "wardfs describe app/x",
        "wardfs versions app/x",
        "wardfs policy get app/x",
        "wardfs audit tail",
        "wardfs audit verify",
        "wardfs store check",
        "wardfs delete app/x --now --purge",
    ] {
        by(USER, line).ok();
    }
    assert_eq!(by(USER, "wardfs get app/x").code(), 4);
    assert_eq!(by(USER, "wardfs status").code(), 7, "nothing is mounted");
    // Nobody else gets at it.
    let other = by(B, "wardfs list");
    assert!(!other.status.success() && other.out.is_empty(), "{other:?}");
}

/// The three lines of a problem, and its code.
#[track_caller]
fn problem(said: Said, code: i32, words: &[&str]) {
    assert_eq!(said.code(), code, "{said:?}");
    assert!(said.out.is_empty(), "{said:?}");
    assert!(
        said.err.contains("error: ") && said.err.contains("\n  why:  "),
        "{said:?}"
    );
    for word in words {
        assert!(said.err.contains(word), "no {word:?}: {said:?}");
    }
}

#[test]
fn every_exit_code_has_its_cause_and_advice() {
    let _deadline = support::Deadline::new(Duration::from_secs(90), "exit codes");
    let product = Product::new();
    let a = format!("uid:{A}");
    product.put("app/db/password", "s3cret", &["--allow", &a]); // 0
    let bad_name = product.run_with(&["put", "app/../x"], b"v");
    problem(bad_name, 2, &["app/../x", "next:"]);
    problem(
        product.run(&["get", "app/db/password"]),
        3,
        &["why app/db/password"],
    );
    problem(product.run(&["get", "app/none"]), 4, &[" list"]);
    problem(product.run(&["init"]), 5, &["next:"]);
    problem(
        product.run_with(&["put", "app/db"], b"v"),
        5,
        &["app/db is a directory", "choose another name"],
    );
    let below = product.run_with(&["put", "app/db/password/x"], b"v");
    problem(below, 5, &["app/db/password is a secret", "choose another name"]);
    let nowhere = Command::new(env!("CARGO_BIN_EXE_wardfs"))
        .args(["list", "--store", "/var/tmp/wardfs-is-not-here"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(4));
    assert!(
        String::from_utf8_lossy(&nowhere.stderr).contains(" init"),
        "{nowhere:?}"
    );

    // 7: another process has the store, and is named. This one.
    let config = wardfs::config::Config::load(&product.store()).unwrap();
    let held = wardfs::daemon::desk(&product.store(), &config).unwrap();
    let pid = std::process::id().to_string();
    problem(product.run(&["list"]), 7, &[&pid, "next:"]);
    drop(held);
    product.run(&["list"]).ok();

    // 1: the answer cannot be written.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let unwritten = product.command(&["list"]).stdout(full).output().unwrap();
    assert_eq!(unwritten.status.code(), Some(1), "{unwritten:?}");

    // 6: the key file is not private; the log is gone.
    let key = product.store().join("root.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    problem(product.run(&["list"]), 6, &["root.key", "chmod 0600"]);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    product.run(&["list"]).ok();
    std::fs::rename(product.store().join("audit"), product.dir().join("audit")).unwrap();
    problem(product.run(&["list"]), 6, &[]);
    let json = product.run(&["--json", "list"]);
    let error: Value = serde_json::from_str(&json.err).unwrap_or_else(|e| panic!("{e}: {json:?}"));
    assert_eq!(error["error"]["exit"], 6);
}

#[test]
fn values_and_names_at_their_limits() {
    let _deadline = support::Deadline::new(Duration::from_secs(90), "limits");
    let product = Product::new();
    let a = format!("uid:{A}");
    let max = vec![0u8; 65536];
    problem(
        product.run_with(&["put", "v/empty"], b""),
        2,
        &["empty", "printf"],
    );
    problem(
        product.run_with(&["put", "v/long"], &[0u8; 65537]),
        2,
        &["65536", "max_value_bytes"],
    );
    for (name, value) in [
        ("v/one", &[0u8][..]),
        ("v/max", &max),
        ("v/binary", b"\xff\0\n\r\x1b"),
    ] {
        product.put(name, value, &["--allow", &a]);
        // The store's files are root's: without a mount another uid reads nothing, whatever the policy says.
        let said = product.run_as(A, &[], &["get", name], b"");
        assert!(!said.status.success() && said.out.is_empty(), "{said:?}");
    }
    assert_eq!(product.run(&["get", "v/long"]).code(), 4, "nothing was stored");

    // AWS's rules: 512 characters; a segment is a file's name, so 255.
    let segment = "s".repeat(255);
    let longest = format!("{segment}/{segment}");
    assert_eq!(longest.len(), 511);
    product.put(&longest, "v", &["--allow", &a]);
    for bad in [
        format!("{longest}/x"),
        "s".repeat(256),
        String::new(),
        "/a".into(),
        "a/".into(),
        "a//b".into(),
        "a/./b".into(),
        "..".into(),
        "a b".into(),
        "ä".into(),
        "a\nb".into(),
        "a\u{1b}[2J".into(),
    ] {
        let said = product.run_with(&["put", &bad], b"v");
        assert!(!said.err.contains('\u{1b}'), "{said:?}");
        problem(said, 2, &[]);
    }
    product.put("Az09/_+=.@-", "v", &["--allow", &a]);

    let mut product = product;
    product.mount();
    assert_eq!(read_as(A, &[], &product.path("v/max")), Ok(max));
    assert_eq!(
        read_as(A, &[], &product.path("v/binary")),
        Ok(b"\xff\0\n\r\x1b".to_vec())
    );
    assert_eq!(read_as(A, &[], &product.path(&longest)), Ok(b"v".to_vec()));
    assert_eq!(read_as(A, &[], &product.path("Az09/_+=.@-")), Ok(b"v".to_vec()));
    let json = product
        .run_as(A, &[], &["--json", "get", "v/binary"], b"")
        .ok()
        .json();
    assert_eq!(json["value_base64"], "/wAKDRs=");
}

#[test]
fn json_on_everything_that_prints() {
    let _deadline = support::Deadline::new(Duration::from_secs(90), "json");
    let mut product = Product::new();
    let policy = product.dir().join("policy.json");
    let a = format!("uid:{A}");
    product.put("app/x", "one", &["--allow", &a, "--description", "words"]);
    product.put("app/x", "two", &[]);
    let commands = |policy: &str| -> Vec<Vec<String>> {
        [
            "list",
            "describe app/x",
            "versions app/x",
            "policy get app/x",
            "policy allow app/x uid:61005",
            "policy deny app/x uid:61006",
            &format!("policy check {policy}"),
            &format!("policy set app/x {policy}"),
            "why app/x --uid 61002",
            "delete app/x --now --dry-run",
            "audit tail",
            "audit query",
            "audit verify",
            "store check",
            "status",
        ]
        .iter()
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect()
    };
    let document = product.run(&["policy", "get", "app/x"]).ok().out;
    std::fs::write(&policy, document).unwrap();
    for mounted in [false, true] {
        if mounted {
            product.mount();
        }
        for command in commands(&policy.to_string_lossy()) {
            let mut args = vec!["--json"];
            args.extend(command.iter().map(String::as_str));
            let said = product.run(&args);
            let code = match command.first().map(String::as_str) {
                Some("status") if !mounted => 7,
                _ => 0,
            };
            assert_eq!(said.code(), code, "mounted: {mounted}: {command:?}: {said:?}");
            each_line_is_json(&said);
            assert!(!said.out.contains('\u{1b}'), "{said:?}");
        }
    }
    assert_eq!(
        product
            .run_as(A, &[], &["--json", "get", "app/x"], b"")
            .ok()
            .json()["value"],
        "two"
    );
    each_line_is_json(&product.run(&["--json", "delete", "app/x", "--now"]).ok());
    let target = product.target();
    let unmount = ["--json", "unmount", target.to_str().unwrap()];
    let foreign = product.run_as(B, &[], &unmount, b"");
    assert_eq!(foreign.code(), 3, "only root unmounts: {foreign:?}");
    each_line_is_json(&product.run(&unmount).ok());
}

#[test]
fn colour_on_a_terminal_alone() {
    let _deadline = support::Deadline::new(Duration::from_secs(30), "colour");
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let bin = program(dir.path());
    let seen = |before: &str| {
        let line = format!("TERM=xterm {before} script -qec 'wardfs --help' /dev/null");
        said(&mut shell(&line, &bin)).ok().out
    };
    assert!(seen("").contains('\u{1b}'), "a terminal has colours");
    assert!(!seen("NO_COLOR=1").contains('\u{1b}'), "NO_COLOR");
    assert!(
        !said(&mut shell("wardfs --help", &bin)).out.contains('\u{1b}'),
        "a pipe"
    );
}

#[test]
fn where_it_can_be_mounted() {
    let _deadline = support::Deadline::new(Duration::from_secs(90), "targets");
    let mut product = Product::new();
    let a = format!("uid:{A}");
    product.put("app/x", "value", &["--allow", &a]);
    let target = product.target();
    let refused = |product: &mut Product, words: &str| {
        let said = product
            .try_mount(&[])
            .unwrap_or_else(|| panic!("it mounted: {words}"));
        assert_eq!(said.code(), 2, "{said:?}");
        assert!(
            said.err.contains("why:") && said.err.contains(words),
            "no {words:?}: {said:?}"
        );
    };
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("file"), "precious").unwrap();
    refused(&mut product, "empty");
    assert_eq!(std::fs::read(target.join("file")).unwrap(), b"precious");
    std::fs::remove_dir_all(&target).unwrap();
    std::fs::write(&target, "").unwrap();
    refused(&mut product, "director");
    std::fs::remove_file(&target).unwrap();
    let real = product.dir().join("real");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &target).unwrap();
    refused(&mut product, "link");
    std::fs::remove_file(&target).unwrap();
    // Somebody else's mount is not covered.
    std::fs::create_dir(&target).unwrap();
    let tmpfs = Some("tmpfs");
    nix::mount::mount(tmpfs, &target, tmpfs, nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    let said = product.try_mount(&[]).expect("somebody else's mount");
    assert!(!said.status.success() && said.err.contains("why:"), "{said:?}");
    nix::mount::umount(&target).unwrap();
    // A second daemon of the store is told who has it.
    product.mount();
    let pid = product.pid().to_string();
    let second = product
        .command(&["mount"])
        .arg(product.dir().join("second"))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(5), "{second:?}");
    assert!(
        String::from_utf8_lossy(&second.stderr).contains(&pid),
        "{second:?}"
    );
    // A daemon that died leaves a mount; the next one takes its place.
    // SAFETY: the daemon is our child and not reaped.
    unsafe { libc::kill(product.pid() as i32, libc::SIGKILL) };
    support::wait_until(Duration::from_secs(5), "the mount to be dead", || {
        std::fs::read_dir(&target).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
    });
    product.mount();
    assert_eq!(read_as(A, &[], &product.path("app/x")), Ok(b"value".to_vec()));
    let wrong = product.run(&["unmount", "/var/tmp"]);
    problem(wrong, 4, &["/var/tmp", " unmount "]);
    product.stop();
    problem(
        product.run(&["unmount", target.to_str().unwrap()]),
        4,
        &["no mount of wardfs"],
    );
}

/// Runs the mending command as it is written, in a shell.
#[track_caller]
fn mend(product: &Product, bin: &Path, command: &str) {
    let mut shell = shell(command, bin);
    shell
        .env("WARDFS_STORE", product.store())
        .current_dir(product.dir());
    said(&mut shell).ok();
}

#[test]
fn why_says_why_and_how_to_mend_it() {
    let _deadline = support::Deadline::new(Duration::from_secs(90), "why");
    let mut product = Product::new();
    let bin = program(product.dir());
    for name in ["why/latest", "why/uid", "why/pid", "why/user", "why/denied"] {
        product.put(name, "value", &["--allow", &format!("uid:{A}")]);
    }
    product.mount();
    let why = |args: &[&str]| {
        let mut all = vec!["--json", "why"];
        all.extend(args);
        product.run(&all)
    };
    let mends = |said: &Said| {
        said.json()["mend"]
            .as_str()
            .unwrap_or_else(|| panic!("no mending command: {said:?}"))
            .to_string()
    };
    // Nothing on record yet.
    assert_eq!(why(&["why/latest"]).code(), 4);

    // The latest refusal on record, by path and by name, asked by root and by the one refused.
    let path = product.path("why/latest");
    assert_eq!(read_as(B, &[], &path), Err(libc::EACCES));
    product.refusal(B, "implicit_deny");
    let by_path = why(&[path.to_str().unwrap()]).ok();
    let by_name = why(&["why/latest"]).ok();
    assert_eq!(by_path.json(), by_name.json());
    assert_eq!(by_path.json()["record"]["uid"], B);
    let own = product.run_as(B, &[], &["--json", "why", "why/latest"], b"").ok();
    // The same record, without its place among others.
    let (own, all) = (own.json(), by_name.json());
    assert_eq!(own["record"]["eventTime"], all["record"]["eventTime"]);
    assert!(own["record"]["seq"].is_null() && all["record"]["seq"].is_number());
    let others = product.run_as(A, &[], &["--json", "why", "why/latest"], b"");
    assert_eq!(
        others.code(),
        4,
        "A was refused nothing, and B's refusals are not his: {others:?}"
    );
    mend(&product, &bin, &mends(&by_name));
    assert_eq!(read_as(B, &[], &path), Ok(b"value".to_vec()));

    // A decision made now.
    let b = B.to_string();
    let said = why(&["why/uid", "--uid", &b]).ok();
    assert_eq!(said.json()["decision"], "implicit_deny");
    mend(&product, &bin, &mends(&said));
    assert_eq!(read_as(B, &[], &product.path("why/uid")), Ok(b"value".to_vec()));
    assert_eq!(why(&["why/uid", "--uid", &b]).ok().json()["decision"], "allow");

    let www = nix::unistd::User::from_name("www-data")
        .unwrap()
        .unwrap()
        .uid
        .as_raw();
    let said = why(&["why/user", "--user", "www-data"]).ok();
    assert!(mends(&said).contains("user:www-data"), "{said:?}");
    mend(&product, &bin, &mends(&said));
    assert_eq!(
        read_as(www, &[], &product.path("why/user")),
        Ok(b"value".to_vec())
    );
    assert_eq!(why(&["why/user", "--user", "no-such-user"]).code(), 4);

    let mut sleeper = Command::new("/bin/sleep")
        .arg("60")
        .uid(B)
        .gid(B)
        .spawn()
        .unwrap();
    let pid = sleeper.id().to_string();
    let said = why(&["why/pid", "--pid", &pid]);
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    assert_eq!(said.code(), 3, "{said:?}");
    assert_eq!(said.json()["decision"], "implicit_deny");
    mend(&product, &bin, &mends(&said));
    assert_eq!(read_as(B, &[], &product.path("why/pid")), Ok(b"value".to_vec()));
    assert_eq!(
        why(&["why/pid", "--pid", &pid]).code(),
        4,
        "the process has ended"
    );

    // A Deny that names the user is taken back.
    let path = product.path("why/denied");
    product
        .run(&["policy", "allow", "why/denied", &format!("uid:{B}")])
        .ok();
    product
        .run(&["policy", "deny", "why/denied", &format!("uid:{B}")])
        .ok();
    let said = why(&["why/denied", "--uid", &b]).ok();
    assert_eq!(said.json()["decision"], "explicit_deny");
    mend(&product, &bin, &mends(&said));
    assert_eq!(read_as(B, &[], &path), Ok(b"value".to_vec()));

    // One that does not: the statement is taken out of the document.
    product.run(&["policy", "deny", "why/denied", "gid:44829"]).ok();
    let file = product.dir().join("policy.json");
    let everybody = |text: String| {
        text.replace("{\"Gid\":[\"44829\"]}", "\"*\"")
            .replace("{\"Gid\":\"44829\"}", "\"*\"")
    };
    let document = product
        .run(&["--json", "policy", "get", "why/denied"])
        .ok()
        .json()["policy"]
        .to_string();
    std::fs::write(&file, everybody(document)).unwrap();
    product
        .run(&["policy", "set", "why/denied", file.to_str().unwrap()])
        .ok();
    assert_eq!(read_as(B, &[], &path), Err(libc::EACCES));
    let said = why(&["why/denied", "--uid", &b]).ok();
    let command = mends(&said);
    mend(&product, &bin, &command);
    let mut document: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    document["Statement"]
        .as_array_mut()
        .unwrap()
        .retain(|s| s["Effect"] != "Deny");
    std::fs::write(&file, document.to_string()).unwrap();
    mend(
        &product,
        &bin,
        command.split_once("then: ").expect("the second step").1,
    );
    assert_eq!(read_as(B, &[], &path), Ok(b"value".to_vec()));

    // Of a hidden secret a stranger learns no more than of one that is not there.
    product.put(
        "why/hidden",
        "value",
        &["--visibility", "hidden", "--allow", &format!("uid:{A}")],
    );
    assert_eq!(read_as(B, &[], &product.path("why/hidden")), Err(libc::ENOENT));
    for about in [&[][..], &["--uid", &b]] {
        let ask = |name: &str| {
            let said = product.run_as(B, &[], &[&["why", name], about].concat(), b"");
            (said.code(), said.out, said.err.replace(name, "NAME"))
        };
        let hidden = ask("why/hidden");
        assert_eq!(hidden.0, 4);
        assert_eq!(hidden, ask("why/nothing"));
    }
    assert_eq!(
        why(&["why/hidden"]).ok().json()["record"]["uid"],
        B,
        "root is told"
    );

    // About others only root asks.
    let foreign = product.run_as(B, &[], &["why", "why/uid", "--uid", &A.to_string()], b"");
    problem(foreign, 3, &["only root", "ask as root"]);
    let own = product
        .run_as(B, &[], &["--json", "why", "why/uid", "--uid", &b], b"")
        .ok();
    assert_eq!(own.json()["decision"], "allow");
}

#[test]
fn a_hidden_secret_is_no_secret_to_strangers() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "hidden");
    let product = Product::mounted();
    let rule = ["--visibility", "hidden", "--allow", &format!("uid:{A}")];
    product.put("hid/hidden", "value", &rule);
    product.put("hid/deleted", "value", &rule);
    product.run(&["delete", "hid/deleted", "--now"]).ok();
    let policy = product.dir().join("policy.json");
    let document = product.run(&["policy", "get", "hid/hidden"]).ok().out;
    std::fs::write(&policy, document).unwrap();
    let set = format!("policy set NAME {}", policy.display());
    for line in [
        "get NAME",
        "describe NAME",
        "versions NAME",
        "put NAME",
        "put NAME --allow uid:61002",
        "put NAME --mode 0440",
        "delete NAME --now",
        "delete NAME --now --dry-run",
        "delete NAME --now --purge",
        "policy get NAME",
        "policy allow NAME uid:61002",
        "policy deny NAME uid:61001",
        "why NAME",
        "why NAME --uid 61002",
        &set,
    ] {
        let ask = |name: &str| {
            let line = line.replace("NAME", name);
            let args: Vec<&str> = line.split(' ').collect();
            let said = product.run_as(B, &[], &args, b"mine");
            (said.code(), said.out, said.err.replace(name, "NAME"))
        };
        let nothing = ask("hid/nothing");
        assert!(nothing.0 != 0 && nothing.1.is_empty(), "{line}: {nothing:?}");
        assert_eq!(ask("hid/hidden"), nothing, "{line}");
        assert_eq!(ask("hid/deleted"), nothing, "{line}");
    }
    // He changed nothing.
    assert_eq!(
        read_as(A, &[], &product.path("hid/hidden")),
        Ok(b"value".to_vec())
    );
    assert_eq!(read_as(B, &[], &product.path("hid/hidden")), Err(libc::ENOENT));
}

/// The text of all files below a directory.
fn below(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let text = |path: PathBuf| match path.is_dir() {
        true => below(&path),
        false => std::fs::read_to_string(path).unwrap_or_default(),
    };
    entries.map(|e| text(e.path())).collect()
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = |file: &str| {
        let places = [
            format!("tests/{file}.rs"),
            format!("tests/kernel_facts/{file}.rs"),
        ];
        places
            .map(|p| std::fs::read_to_string(root.join(p)).unwrap_or_default())
            .concat()
    };
    let mut seen = 0;
    for page in ["packaging/doc/threat-model.md", "packaging/doc/testing.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            if let Some((file, name)) = quoted.split_once("::").filter(|(f, _)| !f.contains([' ', '/'])) {
                seen += 1;
                // A room's own tests lie somewhere in it: `fuse::tests::NAME`.
                let (text, name) = match name.rsplit_once("::") {
                    Some((_, name)) => (below(&root.join("src").join(file)), name),
                    None => (source(file), name),
                };
                assert!(
                    text.contains(&format!("fn {name}(")),
                    "{page}: {quoted} is not there"
                );
            }
            for name in quoted
                .split("--test ")
                .skip(1)
                .filter_map(|w| w.split(' ').next())
            {
                seen += 1;
                let there = root.join(format!("tests/{name}.rs")).exists();
                assert!(there, "{page}: {quoted}: there is no {name}");
            }
        }
    }
    assert!(seen > 40, "{seen}");
}
