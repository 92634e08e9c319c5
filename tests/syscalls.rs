//! System calls that fail: each occurrence of each call on files, in turn, by `strace --inject`. A command then ends
//! with a documented code, and the store holds what it held or what it was to hold; a daemon serves what it can.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::Deadline;
use support::product::{A, Product, Said, read_as, said};

const CALLS: [&str; 8] = [
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "rename",
    "openat",
    "ftruncate",
    "fallocate",
];
const ERRORS: [&str; 3] = ["EIO", "ENOSPC", "EINTR"];

/// The command under strace with these words of its own.
fn traced(product: &Product, strace: &[&str], args: &[&str]) -> Command {
    let plain = product.command(args);
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq"])
        .args(strace)
        .arg("--")
        .arg(plain.get_program())
        .args(plain.get_args());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// How often each call is made by what is written in a trace.
fn counts(trace: &Path) -> BTreeMap<&'static str, usize> {
    let text = std::fs::read_to_string(trace).expect("a trace");
    let count = |call: &str| text.lines().filter(|l| l.contains(&format!(" {call}("))).count();
    CALLS
        .iter()
        .map(|c| (*c, count(c)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

/// Every (call, error, occurrence), of the quick half each fifth. Of a call that is made very often (the host's user
/// database opens thousands of files) so many over its whole length: one fault more is one daemon more.
fn faults(counts: &BTreeMap<&'static str, usize>) -> Vec<(&'static str, &'static str, usize)> {
    let (each, most) = match support::long_run() {
        true => (1, 1500),
        false => (5, 45),
    };
    let mut faults = Vec::new();
    for (call, count) in counts {
        let all: Vec<_> = ERRORS
            .iter()
            .flat_map(|error| (1..=*count).map(move |n| (*call, *error, n)))
            .collect();
        let step = (all.len() / most).max(each);
        faults.extend(all.into_iter().step_by(step));
    }
    faults
}

/// The dynamic loader's word for what it cannot open, before anything of ours runs.
fn is_loader(said: &Said) -> bool {
    said.code() == 127 && said.err.contains("error while loading shared libraries")
}

#[test]
fn of_commands() {
    let _deadline = Deadline::new(
        Duration::from_secs(if support::long_run() { 3000 } else { 200 }),
        "failing calls",
    );
    let begun = Instant::now();
    let product = Product::new();
    product.put("app/db", "value 0", &["--allow", "uid:0"]);
    let trace = product.dir().join("trace");
    let trace_text = trace.to_str().expect("a path");
    let (mut runs, mut failed, mut current) = (0, 0, 0);
    let backup = product.dir().join("backup");
    let backup = backup.to_str().expect("a path");
    let commands: [&[&str]; 3] = [
        &["put", "app/db"],
        &["policy", "allow", "app/db", "uid:61001"],
        &["store", "backup", backup],
    ];
    for args in commands {
        let all = format!("trace={}", CALLS.join(","));
        let next = |n: u64| format!("value {n}");
        let first = said(
            traced(&product, &["-e", &all, "-o", trace_text], args),
            next(current + 1).as_bytes(),
        );
        assert_eq!(first.code(), 0, "{first:?}");
        current += u64::from(args[0] == "put");
        for (call, error, n) in faults(&counts(&trace)) {
            let _ = std::fs::remove_file(backup);
            let inject = format!("inject={call}:error={error}:when={n}");
            let only = format!("trace={call}");
            let result = said(
                traced(&product, &["-e", &only, "-e", &inject, "-o", "/dev/null"], args),
                next(current + 1).as_bytes(),
            );
            let what = format!("{args:?} {call} {error} #{n}: {result:?}");
            runs += 1;
            failed += u32::from(result.code() != 0);
            assert!((0..=7).contains(&result.code()) || is_loader(&result), "{what}");
            assert!(!result.err.contains("panicked"), "{what}");
            let found = product.run(&["get", "app/db"]);
            assert_eq!(found.code(), 0, "{what}: {found:?}");
            let allowed = [next(current), next(current + 1)];
            assert!(allowed.contains(&found.out), "{what}: {found:?}");
            assert!(
                result.code() != 0 || args[0] != "put" || found.out == allowed[1],
                "{what}: {found:?}"
            );
            current += u64::from(found.out == allowed[1]);
            let verified = product.run(&["audit", "verify"]);
            assert_eq!(verified.code(), 0, "{what}: {verified:?}");
        }
    }
    println!(
        "{runs} commands with one failing call, {failed} failed, in {:?}",
        begun.elapsed()
    );
    assert!(failed > 10, "the faults were hardly met");
}

#[test]
fn of_the_daemon() {
    let _deadline = Deadline::new(
        Duration::from_secs(if support::long_run() { 3000 } else { 200 }),
        "failing calls",
    );
    let begun = Instant::now();
    let product = Product::new();
    let rules = ["--allow", "uid:0", "--allow", &format!("uid:{A}")];
    product.put("app/db", "value 0", &rules);
    product.put("other", "other", &rules);
    let target = product.target();
    let mount = ["mount", target.to_str().expect("a path")];
    let trace = product.dir().join("trace");
    let mut current = 0u64;
    // A mount under strace: its daemon once it is ready, or what it said when it could not be.
    let start = |strace: &[&str]| -> Result<std::process::Child, Said> {
        let mut command = traced(&product, strace, &mount);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace");
        let out = child.stdout.take().expect("a pipe");
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line);
            let _ = tell.send(line);
        });
        let begun = Instant::now();
        let line = loop {
            match told.recv_timeout(Duration::from_millis(50)) {
                Ok(line) if line.starts_with("READY") => return Ok(child),
                Ok(line) => break line,
                // The failing call may be the one that says READY: it serves all the same.
                Err(_) if begun.elapsed() > Duration::from_secs(1) => {
                    if product.run(&["--json", "status"]).json()["running"] == true {
                        return Ok(child);
                    }
                }
                Err(_) => {}
            }
        };
        let output = child.wait_with_output().expect("wait");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Said {
            status: output.status,
            out: line,
            err,
        })
    };
    let work = |current: &mut u64, what: &str| {
        for _ in 0..2 {
            let said = product.run_with(&["put", "app/db"], format!("value {}", *current + 1).as_bytes());
            assert!((0..=7).contains(&said.code()), "{what}: {said:?}");
            for (name, values) in [
                (
                    "app/db",
                    [format!("value {current}"), format!("value {}", *current + 1)],
                ),
                ("other", ["other".into(), "other".into()]),
            ] {
                match read_as(A, &[], &product.path(name)) {
                    Ok(bytes) => assert!(
                        values.iter().any(|v| v.as_bytes() == bytes),
                        "{what}: {name} {bytes:?}"
                    ),
                    // Its record could not be written; or the daemon is gone.
                    Err(libc::EIO | libc::ENOTCONN | libc::ECONNABORTED) => {}
                    // A caller who cannot be looked at is refused.
                    Err(libc::EACCES) if what.contains("openat") => {}
                    Err(e) => panic!("{what}: {name}: {e}"),
                }
            }
            let there = || product.run(&["get", "app/db"]).out == format!("value {}", *current + 1);
            let done = said.code() == 0 || there();
            *current += u64::from(done);
        }
        // What failed once works again, within the second that is promised.
        let again = Instant::now();
        while read_as(A, &[], &product.path("other")) != Ok(b"other".to_vec()) {
            let gone = product.run(&["--json", "status"]).json()["running"] != true;
            if gone {
                return;
            }
            assert!(
                again.elapsed() < Duration::from_secs(3),
                "{what}: no reading after a failure"
            );
        }
    };
    let stop = |mut child: std::process::Child, what: &str| {
        let said = product.run(&["unmount", mount[1]]);
        assert!((0..=7).contains(&said.code()), "{what}: {said:?}");
        let limit = Instant::now();
        while child.try_wait().expect("wait").is_none() {
            if limit.elapsed() > Duration::from_secs(10) {
                // strace passes the signal on.
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut err = String::new();
        let _ = std::io::Read::read_to_string(&mut child.stderr.take().expect("a pipe"), &mut err);
        assert!(!err.contains("panicked"), "{what}: {err}");
        product.unmount();
    };
    let all = format!("trace={}", CALLS.join(","));
    let child = start(&["-e", &all, "-o", trace.to_str().expect("a path")]).expect("ready");
    work(&mut current, "no fault");
    stop(child, "no fault");
    let (mut runs, mut refused) = (0, 0);
    for (call, error, n) in faults(&counts(&trace)) {
        let inject = format!("inject={call}:error={error}:when={n}");
        let what = inject.clone();
        let only = format!("trace={call}");
        match start(&["-e", &only, "-e", &inject, "-o", "/dev/null"]) {
            Ok(child) => {
                work(&mut current, &what);
                stop(child, &what);
            }
            Err(said) => {
                refused += 1;
                assert!(
                    (1..=7).contains(&said.code()) || is_loader(&said),
                    "{what}: {said:?}"
                );
                assert!(!said.err.contains("panicked"), "{what}: {said:?}");
                product.unmount();
            }
        }
        runs += 1;
        // A change that was not acknowledged may be there after all, once the store is read again.
        let found = product.run(&["get", "app/db"]);
        let allowed = [format!("value {current}"), format!("value {}", current + 1)];
        assert!(allowed.contains(&found.out), "{what}: {found:?}");
        current += u64::from(found.out == allowed[1]);
        let verified = product.run(&["audit", "verify"]);
        assert_eq!(verified.code(), 0, "{what}: {verified:?}");
    }
    println!(
        "{runs} daemons with one failing call, {refused} refused to start, in {:?}",
        begun.elapsed()
    );
}
