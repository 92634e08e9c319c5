//! Open directories: a cursor that holds no names, decided for whoever reads, and no business of who sees nothing there.

#[path = "support/nobody.rs"]
mod nobody;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::product::{A, B, Product, read_as};
use support::{Deadline, Run, pass_fd, receive_fd, socket_pair, status_kib, sys};
use wardfs::audit::{Event, Outcome, Record};
use wardfs::clock::Timestamp;
use wardfs::config::Config;
use wardfs::daemon;
use wardfs::id::{Label, SecretName, VersionId};
use wardfs::policy::PolicyRecord;
use wardfs::vault::{ChangeKind, VaultError};

/// A stranger's stranger: another whom no policy names.
const C: u32 = 61160;

fn deadline(what: &str) -> Deadline {
    Deadline::new(Duration::from_secs(60), what)
}

fn errno(e: std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(0)
}

/// What getdents64(2) gives at once: names, and where the walk goes on behind each.
fn getdents(dir: &impl AsRawFd, room: usize) -> Result<Vec<(String, i64)>, i32> {
    let mut buffer = vec![0u8; room];
    // SAFETY: the pointer and length describe `buffer`.
    let n = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), room) };
    if n < 0 {
        return Err(errno(std::io::Error::last_os_error()));
    }
    let (mut at, mut entries) = (0, Vec::new());
    while at < n as usize {
        let number = |from: usize, len: usize| {
            let bytes = &buffer[at + from..at + from + len];
            bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))
        };
        let length = number(16, 2) as usize;
        let name = &buffer[at + 19..at + length];
        let name = name.split(|b| *b == 0).next().expect("a name");
        entries.push((
            String::from_utf8(name.to_vec()).expect("text"),
            number(8, 8) as i64,
        ));
        at += length;
    }
    Ok(entries)
}

/// All that is left of a directory.
fn rest(dir: &impl AsRawFd, room: usize) -> Result<Vec<(String, i64)>, i32> {
    let mut all = Vec::new();
    loop {
        let some = getdents(dir, room)?;
        if some.is_empty() {
            return Ok(all);
        }
        all.extend(some);
    }
}

fn names(uid: u32, groups: &[u32], path: &Path) -> Result<BTreeSet<String>, i32> {
    let run = groups.iter().fold(Run::uid(uid), |run, g| run.group(*g));
    run.call(|| {
        let all = std::fs::read_dir(path).map_err(errno)?;
        all.map(|e| {
            e.map(|e| e.file_name().into_string().expect("text"))
                .map_err(errno)
        })
        .collect()
    })
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_string).collect()
}

/// Access(2), for the real ids, which in a child of [`Run`] are all the same.
fn access(uid: u32, path: &Path, mode: i32) -> i32 {
    let path = sys::c_path(path);
    Run::uid(uid).call(|| {
        // SAFETY: the path is NUL-terminated and lives through the call.
        match unsafe { libc::access(path.as_ptr(), mode) } {
            0 => 0,
            _ => errno(std::io::Error::last_os_error()),
        }
    })
}

#[test]
fn who_sees_nothing_in_a_directory_cannot_open_it() {
    let _deadline = deadline("opendir");
    let mut product = Product::new();
    let a = format!("uid:{A}");
    product.put("app/deep/key", "value", &["--allow", &a]);
    product.put(
        "app/hidden/only",
        "value",
        &["--allow", &a, "--visibility", "hidden"],
    );
    product.put("group/key", "value", &["--allow", "gid:61161"]);
    product.put("other", "value", &["--allow", "uid:61162"]);
    product.mount();
    let all = [
        "",
        "app",
        "app/deep",
        "app/hidden",
        ".versions",
        ".versions/app",
        ".versions/app/deep",
    ];
    for dir in all {
        let path = product.path(dir);
        assert_eq!(names(B, &[], &path), Err(libc::EACCES), "{dir}");
        assert_eq!(access(B, &path, libc::R_OK), libc::EACCES, "{dir}");
        assert_eq!(access(B, &path, libc::R_OK | libc::X_OK), libc::EACCES, "{dir}");
        assert_eq!(access(B, &path, libc::X_OK), 0, "{dir}");
        assert_eq!(access(B, &path, libc::F_OK), 0, "{dir}");
        assert_eq!(access(A, &path, libc::R_OK | libc::X_OK), 0, "{dir}");
        assert!(names(A, &[], &path).is_ok_and(|n| !n.is_empty()), "{dir}");
        let stands = Run::uid(B).call(|| {
            std::env::set_current_dir(&path).map_err(errno)?;
            std::env::current_dir().map_err(errno)
        });
        assert_eq!(stands.as_deref(), Ok(&*path), "{dir}");
    }
    assert_eq!(names(A, &[], &product.path("")), Ok(set(["app"])));
    assert_eq!(names(A, &[], &product.path("app")), Ok(set(["deep", "hidden"])));
    assert_eq!(names(A, &[61161], &product.path("")), Ok(set(["app", "group"])));
    assert_eq!(
        names(0, &[], &product.path("")),
        Ok(set(["app", "group", "other"]))
    );
    let record = product.record("a listing refused", |r| {
        r["eventName"] == "ListSecrets" && r["uid"] == B
    });
    assert_eq!(
        (&record["outcome"], &record["reason"]),
        (&"denied".into(), &"implicit_deny".into())
    );
    assert!(record["secretId"].is_null(), "{record}");
    let listed = |r: &serde_json::Value| r["eventName"] == "ListSecrets" && r["uid"] == A;
    assert!(!product.records().iter().any(listed));

    // What changes is seen at once, both ways.
    product
        .run(&["policy", "allow", "app/deep/key", &format!("uid:{B}")])
        .ok();
    assert_eq!(names(B, &[], &product.path("app/deep")), Ok(set(["key"])));
    assert_eq!(names(B, &[], &product.path("app")), Ok(set(["deep"])));
    assert_eq!(names(B, &[], &product.path(".versions/app")), Ok(set(["deep"])));
    product.run(&["delete", "app/deep/key", "--now"]).ok();
    assert_eq!(names(B, &[], &product.path("app")), Err(libc::EACCES));
    assert_eq!(names(A, &[], &product.path("app")), Ok(set(["hidden"])));
    assert_eq!(names(A, &[], &product.path("app/deep")), Err(libc::ENOENT));
}

#[test]
fn an_empty_mount_opens_for_those_who_administer() {
    let _deadline = deadline("empty");
    let product = Product::mounted();
    for dir in ["", ".versions"] {
        assert_eq!(names(0, &[], &product.path(dir)), Ok(set([])), "{dir}");
        assert_eq!(names(A, &[], &product.path(dir)), Err(libc::EACCES), "{dir}");
    }
}

#[test]
fn a_passed_descriptor_shows_what_its_reader_may_see() {
    let _deadline = deadline("passed directory");
    let mut product = Product::new();
    let allow = |uid: u32| format!("uid:{uid}");
    product.put("app/a", "value", &["--allow", &allow(A)]);
    product.put("app/b", "value", &["--allow", &allow(B)]);
    product.mount();
    let path = product.path("app");
    let (near, far) = socket_pair();
    let sent = Run::uid(A).call(|| {
        for _ in 0..3 {
            pass_fd(&near, &File::open(&path).expect("open")).expect("send");
        }
        true
    });
    assert!(sent);
    let read = |uid: u32| {
        let dir = receive_fd(&far).expect("receive");
        Run::uid(uid)
            .call(|| getdents(&dir, 4096).map(|e| e.into_iter().map(|(n, _)| n).collect::<BTreeSet<_>>()))
    };
    assert_eq!(read(C), Err(libc::EACCES), "a stranger");
    assert_eq!(read(B), Ok(set([".", "..", "b"])), "his own");
    assert_eq!(read(A), Ok(set([".", "..", "a"])));
    product.refusal(C, "implicit_deny");
}

#[test]
fn a_walk_goes_on_where_it_was_whatever_comes_and_goes() {
    let _deadline = deadline("seekdir");
    let mut product = Product::new();
    let names: Vec<String> = (0..120).map(|n| format!("name{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    filled(&product, names.iter().map(|n| format!("app/{n}")));
    product.put("app/sub/one", "value", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let path = product.path("app");
    let wanted = set(names.iter().copied().chain([".", "..", "sub"]));

    // Each cookie leads to what came behind it, in any order, and the beginning to all.
    Run::uid(A).limit(Duration::from_secs(30)).call(|| {
        let dir = File::open(&path).expect("open");
        let all = rest(&dir, 512).expect("list");
        assert_eq!(
            all.iter().map(|(n, _)| n.clone()).collect::<BTreeSet<_>>(),
            wanted
        );
        assert_eq!(all.len(), wanted.len(), "none twice");
        assert!(all.windows(2).all(|w| w[0].1 < w[1].1) && all.iter().all(|(_, c)| *c < 1 << 31));
        for at in (0..all.len()).rev().step_by(7) {
            assert_eq!(
                sys::lseek(&dir, all[at].1, libc::SEEK_SET).expect("seek"),
                all[at].1
            );
            assert_eq!(
                rest(&dir, 700).expect("list"),
                all[at + 1..],
                "behind {}",
                all[at].0
            );
        }
        sys::lseek(&dir, 0, libc::SEEK_SET).expect("rewind");
        assert_eq!(rest(&dir, 65536).expect("list"), all);
        sys::lseek(&dir, i64::from(u32::MAX) + 5, libc::SEEK_SET).expect("seek");
        assert_eq!(rest(&dir, 512).expect("list"), []);
    });

    // Between any two looks names come and go: those that stay are given once each.
    let (ask, answer) = (socket_pair(), socket_pair());
    let walk = Run::uid(A).limit(Duration::from_secs(40)).start(|| {
        let dir = File::open(&path).expect("open");
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let some = getdents(&dir, 256).expect("list");
            for (name, _) in &some {
                *seen.entry(name.clone()).or_default() += 1;
            }
            let last = some.last().map_or(String::new(), |(name, _)| name.clone());
            nix::unistd::write(&ask.0, last.as_bytes()).expect("tell");
            if some.is_empty() {
                return seen;
            }
            nix::unistd::read(&answer.0, &mut [0; 1]).expect("wait");
        }
    });
    let mut gone = BTreeSet::new();
    for step in 0.. {
        let mut buffer = [0; 64];
        let n = nix::unistd::read(&ask.1, &mut buffer).expect("hear");
        if n == 0 {
            break;
        }
        let last = String::from_utf8(buffer[..n].to_vec()).expect("text");
        // The very name behind which it goes on.
        if last.starts_with("name") && step % 2 == 0 {
            product.run(&["delete", &format!("app/{last}"), "--now"]).ok();
            gone.insert(last);
        }
        product.put(
            &format!("app/late{step:03}"),
            "value",
            &["--allow", &format!("uid:{A}")],
        );
        nix::unistd::write(&answer.1, b"x").expect("go on");
    }
    let seen = walk.join();
    assert!(gone.len() > 5, "{gone:?}");
    for name in &wanted {
        assert_eq!(seen.get(name), Some(&1), "{name}");
    }
    assert!(seen.values().all(|n| *n == 1), "{seen:?}");
}

#[test]
fn versions_are_listed_from_any_place() {
    let _deadline = deadline("versions");
    let mut product = Product::new();
    product.put("app/db", "0", &["--allow", &format!("uid:{A}")]);
    for n in 1..12 {
        product.put("app/db", n.to_string(), &["--label", &format!("label{n}")]);
    }
    product.mount();
    let path = product.path(".versions/app/db");
    let found = Run::uid(A).call(|| {
        let dir = File::open(&path).expect("open");
        let all = rest(&dir, 128).expect("list");
        for at in 0..all.len() {
            sys::lseek(&dir, all[at].1, libc::SEEK_SET).expect("seek");
            assert_eq!(
                rest(&dir, 256).expect("list"),
                all[at + 1..],
                "behind {}",
                all[at].0
            );
        }
        all.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    });
    let distinct: BTreeSet<&String> = found.iter().collect();
    // The dots, twelve versions, their labels.
    assert_eq!(
        (found.len(), distinct.len()),
        (2 + 12 + 12, 2 + 12 + 12),
        "{found:?}"
    );
}

/// Secrets of A, made in this process by few commits; the first gives the policy.
fn filled(product: &Product, names: impl IntoIterator<Item = String>) {
    filled_with(product, names, |_, _| None);
}

/// The same; `policy` gives one of its own to the secret of a number.
fn filled_with(
    product: &Product,
    names: impl IntoIterator<Item = String>,
    policy: impl Fn(usize, &SecretName) -> Option<PolicyRecord>,
) {
    let names: Vec<String> = names.into_iter().collect();
    product.put(&names[0], "value", &["--allow", &format!("uid:{A}")]);
    let config = Config::load(&product.store()).expect("config");
    let (_desk, access) = daemon::desk(&product.store(), &config)
        .map_err(|e| e.to_string())
        .expect("open");
    let vault = access.vault();
    let model = vault
        .state()
        .secrets
        .by_name(&names[0])
        .expect("the first")
        .meta
        .clone();
    let numbered: Vec<_> = names.iter().enumerate().skip(1).collect();
    for some in numbered.chunks(500) {
        let made = vault.change(|draft| -> Result<_, VaultError> {
            let now = Timestamp::now();
            for (number, name) in some {
                let name: SecretName = name.parse().expect("a name");
                let id = draft.new_secret();
                let mut value = wardfs::sys::mem::secret(5).expect("memory");
                value.expose_mut().copy_from_slice(b"value");
                let no = draft.add_version(
                    id,
                    &name,
                    &model.key,
                    (VersionId::random(), wardfs::id::ROOT),
                    now,
                    &value,
                )?;
                let mut meta = model.clone();
                if let Some(own) = policy(*number, &name) {
                    meta.policy = Some(own.into());
                }
                (meta.id, meta.name) = (id, name);
                meta.labels = [(Label::current(), no)].into_iter().collect();
                draft.put_secret(meta, ChangeKind::Created);
            }
            let record = Record {
                event: Event::CreateSecret,
                outcome: Outcome::Allowed,
                ..Record::default()
            };
            Ok(((), record.body()))
        });
        made.expect("a commit");
    }
}

/// Sixteen processes that may see nothing open the large directories in a loop.
#[test]
fn strangers_at_large_directories_cost_readers_nothing() {
    let _deadline = Deadline::new(Duration::from_secs(240), "opendir of many");
    let count = if support::long_run() { 20_000 } else { 3_000 };
    let mut product = Product::new();
    filled(&product, (0..count).map(|n| format!("app/name{n:06}")));
    product.put("one/mine", "value", &["--allow", &format!("uid:{C}")]);
    // He sees one name among all.
    product.put("app/his", "value", &["--allow", &format!("uid:{C}")]);
    product.mount();
    let read = product.path("app/name000001");
    let reads = |limit: Duration| -> Vec<f64> {
        Run::uid(A).limit(Duration::from_secs(60)).call(|| {
            let (begin, mut took) = (Instant::now(), Vec::new());
            while begin.elapsed() < limit {
                let one = Instant::now();
                assert_eq!(std::fs::read(&read).expect("read"), b"value");
                took.push(one.elapsed().as_secs_f64() * 1e3);
            }
            took.sort_by(f64::total_cmp);
            took
        })
    };
    let idle = reads(Duration::from_millis(500));
    let strangers: Vec<_> = (0..16)
        .map(|n| {
            let dirs = ["app", "", ".versions/app"].map(|d| product.path(d));
            let uid = if n % 4 == 3 { C } else { B };
            Run::uid(uid).limit(Duration::from_secs(60)).start(move || {
                let (begin, mut opened) = (Instant::now(), 0u64);
                while begin.elapsed() < Duration::from_millis(2500) {
                    for dir in &dirs {
                        match std::fs::read_dir(dir) {
                            Ok(all) => assert_eq!((uid, all.count() <= 2), (C, true)),
                            Err(e) => assert_eq!((uid, errno(e)), (B, libc::EACCES)),
                        }
                        opened += 1;
                    }
                }
                opened
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let beside = reads(Duration::from_millis(1500));
    let opened: u64 = strangers.into_iter().map(|c| c.join()).sum();
    let median = |took: &[f64]| took[took.len() / 2];
    println!(
        "{count} secrets: a read {:.2} ms idle, {:.2} ms beside {opened} opendirs of 16",
        median(&idle),
        median(&beside)
    );
    // 1,919 ms it was with a decision for each secret.
    assert!(
        median(&beside) < 60.0 && opened > 500,
        "{:.2} ms, {opened}",
        median(&beside)
    );
    assert_eq!(names(C, &[], &product.path("app")), Ok(set(["his"])));
    assert_eq!(names(A, &[], &product.path("app")).map(|n| n.len()), Ok(count));
}

/// What a stranger's opendir costs the service: with one policy, and with as many as there are secrets.
#[test]
fn a_refused_opendir_asks_few_of_many_secrets() {
    let _deadline = Deadline::new(
        Duration::from_secs(if support::long_run() { 900 } else { 120 }),
        "opendir",
    );
    let count = if support::long_run() { 100_000 } else { 1_000 };
    let own = |number: usize, name: &SecretName| {
        let uid = 100_000 + number;
        let text = format!(
            r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Principal": {{"Uid": "{uid}"}},
                "Action": "secretsmanager:GetSecretValue", "Resource": "*"}}]}}"#
        );
        let map = wardfs::policy::PrincipalMap::default();
        PolicyRecord::resolve(&text, &map, &nobody::Nobody, name, None)
            .ok()
            .map(|(record, _)| record)
    };
    for different in [false, true] {
        let mut product = Product::new();
        filled_with(
            &product,
            (0..count).map(|n| format!("app/name{n:06}")),
            |number, name| different.then(|| own(number, name)).flatten(),
        );
        product.put("app/his", "value", &["--allow", &format!("uid:{C}")]);
        product.mount();
        let path = product.path("app");
        let took = |uid: u32| -> (f64, f64) {
            Run::uid(uid).limit(Duration::from_secs(60)).call(|| {
                let mut times: Vec<f64> = (0..400)
                    .map(|_| {
                        let begin = Instant::now();
                        match std::fs::read_dir(&path) {
                            Ok(all) => assert_eq!((uid, all.count()), (C, 1)),
                            Err(e) => assert_eq!((uid, errno(e)), (B, libc::EACCES)),
                        }
                        begin.elapsed().as_secs_f64() * 1e3
                    })
                    .collect();
                times.sort_by(f64::total_cmp);
                (times[200], times[396])
            })
        };
        let (refused, listed) = (took(B), took(C));
        println!(
            "{count} secrets, {} policies: a refused opendir {:.3} ms (p99 {:.3}), one name listed {:.3} ms (p99 {:.3}), {} KiB",
            if different { count } else { 1 },
            refused.0,
            refused.1,
            listed.0,
            listed.1,
            status_kib(product.pid(), "VmRSS").expect("a daemon"),
        );
        assert!(refused.0 < 20.0 && listed.0 < 20.0, "{refused:?}, {listed:?}");
    }
}

#[test]
fn an_open_directory_holds_no_names() {
    let _deadline = deadline("memory of open directories");
    let mut product = Product::new();
    filled(&product, (0..2_000).map(|n| format!("app/name{n:06}")));
    product.mount();
    let path = product.path("app");
    let (near, far) = socket_pair();
    let hold = Run::uid(A).limit(Duration::from_secs(40)).start(|| {
        // What the service needs once, whoever comes.
        let open = || {
            let dir = File::open(&path).expect("open");
            assert!(!getdents(&dir, 4096).expect("list").is_empty());
            dir
        };
        drop((0..1000).map(|_| open()).collect::<Vec<_>>());
        let step = || {
            nix::unistd::write(&near, b"x").expect("tell");
            nix::unistd::read(&near, &mut [0; 1]).expect("wait");
        };
        step();
        let _held: Vec<File> = (0..1000).map(|_| open()).collect();
        step();
        true
    });
    let measured = || {
        nix::unistd::read(&far, &mut [0; 1]).expect("hear");
        let resident = status_kib(product.pid(), "VmRSS").expect("a daemon");
        nix::unistd::write(&far, b"x").expect("go on");
        resident
    };
    let (before, after) = (measured(), measured());
    assert!(hold.join());
    println!("1,000 open directories of 2,000 names: {before} to {after} KiB");
    assert!(after.saturating_sub(before) <= 1000, "{before} to {after} KiB");
}

#[test]
fn programs_list_what_their_user_may_see() {
    let _deadline = deadline("find, ls, du, tar");
    let mut product = Product::new();
    let a = format!("uid:{A}");
    for name in ["app/one", "app/db/two", "top"] {
        product.put(name, "value", &["--allow", &a]);
    }
    product.put("other/three", "value", &["--allow", "uid:61162"]);
    product.mount();
    let run = |uid: u32, args: &[&str]| {
        let output = Command::new(args[0])
            .args(&args[1..])
            .current_dir(product.target())
            .uid(uid)
            .gid(uid)
            .env("LC_ALL", "C")
            .output()
            .expect("run");
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let wanted = set([".", "./app", "./app/one", "./app/db", "./app/db/two", "./top"]);
    let (code, out, err) = run(A, &["find", "."]);
    assert_eq!(
        (code, out.lines().map(String::from).collect()),
        (Some(0), wanted),
        "{err}"
    );
    let (code, out, err) = run(A, &["find", "-type", "f", "-name", "two"]);
    assert_eq!((code, &*out), (Some(0), "./app/db/two\n"), "{err}");
    assert_eq!(
        run(A, &["ls", "-R"]).1,
        ".:\napp\ntop\n\n./app:\ndb\none\n\n./app/db:\ntwo\n"
    );
    let (code, out, err) = run(A, &["du", "-a", "."]);
    assert_eq!((code, out.lines().count()), (Some(0), 6), "{err}");
    let (code, out, err) = run(A, &["sh", "-c", "tar c . | tar t"]);
    assert_eq!((code, out.lines().count()), (Some(0), 6), "{err}");
    for program in [
        &["find", "."][..],
        &["ls", "-R"],
        &["du", "-a", "."],
        &["tar", "cf", "/dev/null", "."],
    ] {
        let (code, out, err) = run(B, program);
        assert!(
            code != Some(0) && err.contains("Permission denied"),
            "{program:?}: {err}"
        );
        assert!(!format!("{out}{err}").contains("app"), "{program:?}: {out}{err}");
    }
    assert_eq!(
        read_as(A, &[], &product.path("app/db/two")),
        Ok(b"value".to_vec())
    );
}
