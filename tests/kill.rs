//! kill -9 at random moments of put, policy set and reads: what was acknowledged is there, nothing else is, and
//! no byte left without its record.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::product::{A, Product, read_as};
use support::rig::{Dice, Rig, SECRETS, number, value};
use support::{Deadline, Run, wait_until};

/// Processes of this thread's mount namespace for which `wanted` holds, by command line and state.
fn processes(wanted: impl Fn(&str, char) -> bool) -> Vec<String> {
    let ours = std::fs::read_link("/proc/thread-self/ns/mnt").expect("ns");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let dir = entry.path();
        if std::fs::read_link(dir.join("ns/mnt")).ok().as_ref() != Some(&ours) {
            continue;
        }
        let Ok(command) = std::fs::read(dir.join("cmdline")) else {
            continue;
        };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let Ok(stat) = std::fs::read_to_string(dir.join("stat")) else {
            continue;
        };
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|s| s.chars().next())
            .unwrap_or('?');
        if wanted(&command, state) {
            found.push(format!(
                "{} {state} {command}",
                entry.file_name().to_string_lossy()
            ));
        }
    }
    found
}

fn nothing_hangs() {
    let ours = |command: &str| command.contains("/wardfs ") || command.contains("__notifier");
    wait_until(
        Duration::from_secs(5),
        "the daemon's processes and whoever waited in the mount to end",
        || processes(|command, state| state == 'D' || ours(command)).is_empty(),
    );
}

#[test]
fn at_random_moments() {
    let kills = if support::long_run() { 1000 } else { 40 };
    let _deadline = Deadline::new(
        Duration::from_secs(if support::long_run() { 4000 } else { 150 }),
        "kill",
    );
    let mut dice = Dice::new();
    let product = Product::new();
    let seen = product.dir().join("seen");
    std::fs::write(&seen, "").expect("seen");
    let mut rig = Rig::new(product);
    let (mut acknowledged, mut begun) = (0u64, Instant::now());
    for round in 0..kills {
        if round % 4 == 3 {
            // No daemon: the command itself has the store, and is killed in its work.
            let n = rig.next();
            rig.known[0].lock().expect("lock").tried.push(n);
            let mut command = rig.product.command(&["put", SECRETS[0]]);
            command
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null());
            let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("put");
            let _ = child
                .stdin
                .take()
                .expect("piped")
                .write_all(value(SECRETS[0], n).as_bytes());
            std::thread::sleep(Duration::from_micros(dice.below(40_000)));
            let _ = child.kill();
            if child.wait().expect("wait").success() {
                rig.known[0].lock().expect("lock").settle(n);
            }
            rig.check();
            continue;
        }
        // The mount that the last one left is dead; this one takes its place.
        rig.product.mount();
        let flag = rig.product.dir().join("stop");
        let _ = std::fs::remove_file(&flag);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (paths, flag) = (SECRETS.map(|n| rig.product.path(n)), flag.clone());
                let notes = std::fs::OpenOptions::new()
                    .append(true)
                    .open(&seen)
                    .expect("seen");
                Run::uid(A).limit(Duration::from_secs(30)).start(move || {
                    let me = std::process::id();
                    while !flag.exists() {
                        for path in &paths {
                            match std::fs::read(path) {
                                Ok(bytes) => {
                                    let text = String::from_utf8(bytes).expect("a whole value");
                                    let n = number(&text);
                                    let name = text.split(':').next().expect("a name");
                                    assert_eq!(text, value(name, n), "a torn value");
                                    let note = format!("{me} {name} {}\n", text.len());
                                    (&notes).write_all(note.as_bytes()).expect("note");
                                }
                                Err(e) => {
                                    let code = e.raw_os_error().unwrap_or(0);
                                    let dead = [libc::ENOTCONN, libc::ECONNABORTED];
                                    assert!(dead.contains(&code), "{e}");
                                    std::thread::sleep(Duration::from_millis(1));
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let moment = Duration::from_micros(5_000 + dice.below(300_000));
        let pid = rig.product.pid() as i32;
        acknowledged += rig.load(|| {
            std::thread::sleep(moment);
            // SAFETY: the daemon is our child and not reaped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        });
        rig.product.crash();
        std::fs::write(&flag, "").expect("stop");
        for reader in readers {
            reader.join();
        }
        assert_eq!(
            read_as(A, &[], &rig.product.path(SECRETS[0])),
            Err(libc::ENOTCONN)
        );
        nothing_hangs();
        rig.check();
    }
    println!(
        "{kills} kills, {acknowledged} acknowledged changes, {:?} each",
        begun.elapsed() / kills
    );
    begun = Instant::now();

    // Each read that gave bytes has a record: of that process, of that secret, as often, and as long.
    let records = rig.product.records();
    let mut recorded: BTreeMap<String, u64> = BTreeMap::new();
    let mut full: BTreeMap<u64, u64> = BTreeMap::new();
    for record in records
        .iter()
        .filter(|r| r["eventName"] == "GetSecretValue" && r["outcome"] == "allowed")
    {
        let parameters = &record["requestParameters"];
        let Some(handle) = parameters["handle"].as_u64() else {
            continue; // A command's own read.
        };
        // The first read of a handle names the caller in full; handles count anew in each daemon.
        if let Some(pid) = record["pid"].as_u64() {
            full.insert(handle, pid);
        }
        let key = format!(
            "{} {} {}",
            full[&handle],
            parameters["secretId"].as_str().unwrap_or_default(),
            parameters["length"]
        );
        *recorded.entry(key).or_default() += 1;
    }
    let notes = std::fs::read_to_string(&seen).expect("seen");
    let mut noted: BTreeMap<&str, u64> = BTreeMap::new();
    for line in notes.lines() {
        *noted.entry(line).or_default() += 1;
    }
    assert!(noted.values().sum::<u64>() > u64::from(kills), "the readers read");
    for (key, count) in &noted {
        let found = recorded.get(*key).copied().unwrap_or(0);
        assert!(found >= *count, "{key}: {count} reads, {found} records");
    }
    println!(
        "{} reads noted, all recorded; looked up in {:?}",
        noted.values().sum::<u64>(),
        begun.elapsed()
    );
    let ids: BTreeSet<&str> = records.iter().filter_map(|r| r["eventID"].as_str()).collect();
    assert_eq!(ids.len(), records.len(), "no record twice");
    let puts = |r: &&Value| r["eventName"] == "PutSecretValue" || r["eventName"] == "PutResourcePolicy";
    assert!(records.iter().filter(puts).count() as u64 >= acknowledged);
}

#[test]
fn a_dead_mount_is_recovered_or_taken_away() {
    let _deadline = Deadline::new(Duration::from_secs(60), "dead mount");
    let mut product = Product::new();
    product.put("one", "value", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let path = product.path("one");
    let held = Run::uid(A).call(|| std::fs::read(&path).map_err(|e| e.raw_os_error()));
    assert_eq!(held, Ok(b"value".to_vec()));
    // Somebody holds a file open while the daemon dies: the mount can be replaced and taken away all the same.
    let (ours, theirs) = support::socket_pair();
    let holder = Run::uid(A).start(move || {
        let file = std::fs::File::open(&path).expect("open");
        support::pass_fd(&theirs, &file).expect("say so");
        let mut seen = Vec::new();
        wait_until(Duration::from_secs(5), "the end of the mount", || {
            seen = support::sys::pread(&file, 100, 0).unwrap_or_default();
            seen.is_empty()
        });
        support::sys::pread(&file, 100, 0).map_err(|e| e.raw_os_error())
    });
    let file = support::receive_fd(&ours).expect("the holder's file");
    product.crash();
    let left = holder.join();
    assert!(
        matches!(left, Err(Some(libc::ENOTCONN | libc::ECONNABORTED))),
        "{left:?}"
    );
    assert_eq!(read_as(A, &[], &product.path("one")), Err(libc::ENOTCONN));
    nothing_hangs();

    product.mount();
    assert_eq!(read_as(A, &[], &product.path("one")), Ok(b"value".to_vec()));
    product.crash();
    let target = product.target();
    product.run(&["unmount", target.to_str().expect("a path")]).ok();
    assert_eq!(std::fs::read_dir(&target).expect("an empty directory").count(), 0);
    drop(file);

    // A second unmount has nothing to do, and says so.
    assert_eq!(
        product.run(&["unmount", target.to_str().expect("a path")]).code(),
        4
    );
    product.run(&["audit", "verify"]).ok();
}

/// The process that accepts control connections ends a moment after a killed daemon: what it accepts then is answered
/// by nobody, and no command takes that for a daemon.
#[test]
fn a_connection_that_ends_unanswered_is_no_daemon() {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept, bind, listen, socket,
    };
    let _deadline = Deadline::new(Duration::from_secs(60), "unanswered");
    let product = Product::new();
    let path = product.store().join("run/control.sock");
    let kind = (AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    std::fs::create_dir_all(path.parent().expect("run")).expect("run");
    let listening = socket(kind.0, kind.1, kind.2, None).expect("socket");
    bind(listening.as_raw_fd(), &UnixAddr::new(&path).expect("a name")).expect("bind");
    listen(&listening, Backlog::new(8).expect("backlog")).expect("listen");
    let dying = std::thread::spawn(move || {
        for _ in 0..3 {
            let fd = accept(listening.as_raw_fd()).expect("accept");
            // SAFETY: accepted here, and owned by nobody else.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    });
    product.put("one", "value", &["--allow", &format!("uid:{A}")]);
    product.run(&["list"]).ok();
    product.run(&["policy", "get", "one"]).ok();
    dying.join().expect("three connections");
    assert_eq!(
        product.run(&["versions", "one", "--json"]).ok().json()["versions"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[test]
fn the_notifier_killed() {
    let _deadline = Deadline::new(Duration::from_secs(60), "notifier");
    let mut product = Product::new();
    product.put("one", "first", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let notifier = processes(|command, _| command.contains("__notifier"));
    assert_eq!(notifier.len(), 1, "{notifier:?}");
    let pid: i32 = notifier[0]
        .split(' ')
        .next()
        .and_then(|p| p.parse().ok())
        .expect("a pid");
    // SAFETY: the notifier of the daemon that this test started.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    // No change waits for it, and none is lost.
    let put = product.run_with(&["put", "one"], b"second");
    // Service without events would be a promise broken quietly: it ends, with a reason, and leaves nothing.
    assert!(
        !product
            .ended(Duration::from_secs(5))
            .expect("the daemon ends")
            .success()
    );
    nothing_hangs();
    assert_eq!(
        std::fs::read_dir(product.target())
            .expect("an empty directory")
            .count(),
        0
    );
    product.mount();
    let value: &[u8] = if put.code() == 0 { b"second" } else { b"first" };
    assert_eq!(
        read_as(A, &[], &product.path("one")),
        Ok(value.to_vec()),
        "{put:?}"
    );
}

#[test]
fn a_start_that_is_killed() {
    let _deadline = Deadline::new(Duration::from_secs(120), "killed starts");
    let mut dice = Dice::new();
    let mut product = Product::new();
    product.put("one", "value", &["--allow", &format!("uid:{A}")]);
    let target = product.target();
    let (mut ready, mut left) = (0, 0);
    for _ in 0..if support::long_run() { 200 } else { 30 } {
        let mut command = product.command(&["mount"]);
        command
            .arg(&target)
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut child = command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("mount");
        std::thread::sleep(Duration::from_micros(dice.below(120_000)));
        let _ = child.kill();
        let said = child.wait_with_output().expect("wait").stdout;
        ready += usize::from(String::from_utf8_lossy(&said).contains("READY"));
        left +=
            usize::from(std::fs::read_dir(&target).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)));
        nothing_hangs();
    }
    println!("{ready} were ready, {left} left a dead mount");
    product.mount();
    assert_eq!(read_as(A, &[], &product.path("one")), Ok(b"value".to_vec()));
    product.stop();
    product.run(&["audit", "verify"]).ok();
    // They did not pile up, either.
    assert_eq!(std::fs::read_dir(&target).expect("an empty directory").count(), 0);
}
