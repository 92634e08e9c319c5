//! What the program says: transcripts of help and bad input, and how it behaves where its output goes nowhere.

mod support;

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::terminal::at_a_terminal;

fn wardfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wardfs"));
    command.env_remove("WARDFS_STORE").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A store that has a log and nothing else, with the modes that a log must have.
fn store_with_log(segments: &[(&str, &str)]) -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    let audit = store.path().join("audit");
    std::fs::create_dir(&audit).unwrap();
    std::fs::set_permissions(&audit, std::fs::Permissions::from_mode(0o700)).unwrap();
    for (name, text) in segments {
        write_segment(&audit.join(name), text);
    }
    store
}

fn write_segment(path: &Path, text: &str) {
    let mut options = std::fs::File::options();
    options.create(true).append(true).mode(0o600);
    options.open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn transcripts() {
    let store = store_with_log(&[
        ("00000001.jsonl", include_str!("cli/log/00000001.jsonl")),
        ("00000002.jsonl", include_str!("cli/log/00000002.jsonl")),
    ]);
    trycmd::TestCases::new()
        .env("WARDFS_STORE", store.path().to_str().unwrap())
        .env("COLUMNS", "100")
        .case("tests/cli/*.trycmd");
}

/// Every command's help exists, in both forms, and ends well even where nobody reads it.
#[test]
fn every_command_has_help_with_examples() {
    let commands = [
        "",
        "init",
        "put",
        "get",
        "list",
        "describe",
        "versions",
        "update",
        "rollback",
        "tag",
        "label",
        "label move",
        "label remove",
        "policy",
        "policy get",
        "policy set",
        "policy allow",
        "policy deny",
        "policy check",
        "policy explain",
        "guardrail",
        "guardrail set",
        "guardrail get",
        "guardrail list",
        "guardrail remove",
        "identity",
        "identity set",
        "identity get",
        "identity list",
        "identity remove",
        "why",
        "delete",
        "audit",
        "audit tail",
        "audit query",
        "audit verify",
        "store",
        "store check",
        "store recover",
        "store backup",
        "store restore",
        "store break-glass",
        "status",
        "mount",
        "unmount",
        "demo",
        "config",
        "config check",
        "completions",
        "man",
    ];
    for command in commands {
        for flag in ["-h", "--help"] {
            let out = wardfs()
                .args(command.split_whitespace())
                .arg(flag)
                .output()
                .unwrap();
            let help = text(&out.stdout);
            assert!(out.status.success(), "{command} {flag}");
            assert!(
                help.contains(&format!("Usage: wardfs {command}").trim_end().to_owned()),
                "{command}: {help}"
            );
            assert!(
                help.contains("Examples:\n  ") && help.contains("--store <DIR>"),
                "{command}: {help}"
            );
            assert!(
                help.lines().all(|l| l.chars().count() <= 100),
                "{command}: a line is too long"
            );
            assert!(!help.contains('\u{1b}'), "{command}: colour off a terminal");
        }
    }
    for command in [
        "",
        "label",
        "policy",
        "guardrail",
        "identity",
        "audit",
        "store",
        "config",
    ] {
        let out = wardfs().args(command.split_whitespace()).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{command}: nothing was said");
    }
}

fn query(store: &Path, stdout: Stdio) -> std::process::Child {
    wardfs()
        .args(["audit", "query", "--json", "--store"])
        .arg(store)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn output_that_goes_nowhere_is_quiet_or_told() {
    let lines: String = (1..20_000).map(|seq| format!("{{\"seq\":{seq}}}\n")).collect();
    let store = store_with_log(&[("00000001.jsonl", &lines)]);

    // `wardfs audit query | head -1`: nothing to complain about.
    let mut child = query(store.path(), Stdio::piped());
    drop(child.stdout.take());
    let out: Output = child.wait_with_output().unwrap();
    assert_eq!((text(&out.stderr), out.status.code()), ("", Some(0)));

    // A full disk is.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let out = query(store.path(), full.into()).wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("the output cannot be written"),
        "{}",
        text(&out.stderr)
    );

    // And an ordinary reader gets every line.
    let out = query(store.path(), Stdio::piped()).wait_with_output().unwrap();
    assert_eq!(
        (text(&out.stdout).lines().count(), out.status.code()),
        (19_999, Some(0))
    );
}

#[test]
fn a_faulty_configuration_is_shown_with_its_place() {
    let store = tempfile::tempdir().unwrap();
    let config = store.path().join("wardfs.toml");
    std::fs::write(&config, "# mine\nthreads = 4\nmax_value_byte = 5\n").unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    let target = store.path().join("mnt");
    let run = || {
        wardfs()
            .arg("--store")
            .arg(store.path())
            .arg("mount")
            .arg(&target)
            .output()
            .unwrap()
    };
    let out = run();
    assert_eq!(out.status.code(), Some(2));
    let shown = config.display();
    assert_eq!(
        text(&out.stderr),
        format!(
            "error: the configuration {shown} cannot be used\n  why:  unknown key `max_value_byte`; did you mean `max_value_bytes`? \
             (line 3, column 1)\n        3 | max_value_byte = 5\n          | ^^^^^^^^^^^^^^\n  next: correct the line in {shown}\n"
        )
    );
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o666)).unwrap();
    let out = run();
    assert_eq!(out.status.code(), Some(2));
    assert!(
        text(&out.stderr).contains("others can write it (mode 0666)"),
        "{}",
        text(&out.stderr)
    );
    assert!(!target.exists(), "nothing was begun");
}

#[test]
fn following_the_log_shows_new_records_of_new_segments() {
    use std::io::{BufRead, BufReader};
    let store = store_with_log(&[("00000001.jsonl", "{\"seq\":1}\n{\"seq\":2}\n")]);
    let segment = |n: u32| store.path().join(format!("audit/{n:08}.jsonl"));
    // The limit ends a test that would wait for ever.
    let mut child = Command::new("timeout")
        .args([
            "20",
            env!("CARGO_BIN_EXE_wardfs"),
            "audit",
            "tail",
            "-f",
            "-n",
            "1",
            "--json",
            "--store",
        ])
        .arg(store.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "{\"seq\":2}");
    // Long enough that it waits for more.
    std::thread::sleep(std::time::Duration::from_millis(300));
    write_segment(&segment(1), "{\"seq\":3}\n");
    assert_eq!(next(), "{\"seq\":3}");
    write_segment(&segment(1), "{\"seq\":4}\n");
    write_segment(&segment(2), "{\"seq\":5}\n");
    assert_eq!(next(), "{\"seq\":4}");
    assert_eq!(next(), "{\"seq\":5}");
    // It hands the signal on.
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_terminal_is_asked_and_shows_nothing() {
    let (first, again) = ("Value of app/x (not shown): ", "The same again: ");
    let nowhere = Path::new("/nonexistent/store");
    let put = ["put", "app/x"];

    let (shown, code) = at_a_terminal(nowhere, &put, &[(first, b"hunter2\r"), (again, b"hunter3\r")]);
    assert_eq!(code, Some(2), "{shown}");
    assert!(
        shown.contains("the two are not the same") && !shown.contains("hunter"),
        "{shown}"
    );

    // Both the same: it goes on to the store, which is not there.
    let (shown, code) = at_a_terminal(nowhere, &put, &[(first, b"hunter2\r"), (again, b"hunter2\r")]);
    assert!(
        !matches!(code, Some(0 | 2)) && shown.contains(again) && !shown.contains("hunter"),
        "{code:?}: {shown}"
    );

    let (shown, code) = at_a_terminal(nowhere, &put, &[(first, b"hunter2\x03")]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("it was cancelled"), "{shown}");

    let (shown, code) = at_a_terminal(nowhere, &put, &[(first, b"one\rtwo\r")]);
    assert_eq!(code, Some(2), "{shown}");
    assert!(
        shown.contains("more than one line") && !shown.contains("two"),
        "{shown}"
    );

    let (shown, code) = at_a_terminal(nowhere, &put, &[(first, b"\r")]);
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("the value is empty"), "{shown}");
}

#[test]
fn a_terminal_that_cannot_be_asked_is_told() {
    let pty = nix::pty::openpty(None, None).unwrap();
    let out = Command::new("setsid")
        .args([
            "--wait",
            env!("CARGO_BIN_EXE_wardfs"),
            "--store",
            "/nonexistent/store",
            "put",
            "app/x",
        ])
        .stdin(Stdio::from(pty.slave))
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    let said = text(&out.stderr);
    assert!(
        said.contains("the terminal cannot be asked for the value"),
        "{said}"
    );
    assert!(
        said.contains("next: wardfs --store /nonexistent/store put app/x < FILE"),
        "{said}"
    );
}

#[test]
fn who_waits_at_a_terminal_is_told_for_what() {
    let product = support::product::Product::mounted();
    let pid = nix::unistd::Pid::from_raw(product.pid() as i32);
    let signal = |signal| nix::sys::signal::kill(pid, signal).unwrap();
    let check = |args: &[&str]| {
        signal(nix::sys::signal::Signal::SIGSTOP);
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(2500));
                signal(nix::sys::signal::Signal::SIGCONT);
            });
            at_a_terminal(&product.store(), args, &[])
        })
    };
    let (shown, code) = check(&["store", "check"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.starts_with("\rchecking the store, 1 s\u{1b}[K"),
        "{shown:?}"
    );
    let (_, rest) = shown.rsplit_once("\u{1b}[K").expect("a line that was taken back");
    assert!(!rest.contains("checking"), "{shown:?}");
    let (shown, code) = check(&["--quiet", "store", "check"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("checking the store"), "{shown:?}");
}
