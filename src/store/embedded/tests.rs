//! The file: who may open it, what a crash leaves, what damage does.

use super::super::Event;
use super::super::tests::{Model, dump};
use super::*;
use nix::sys::stat::{FileStat, SFlag};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Place {
    _dir: tempfile::TempDir,
    home: PathBuf,
}

fn place() -> Place {
    place_in(&std::env::temp_dir())
}

fn place_in(parent: &Path) -> Place {
    let dir = tempfile::tempdir_in(parent).unwrap();
    let home = dir.path().join("store");
    Place { _dir: dir, home }
}

fn put(key: u64, bytes: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Value, key, bytes);
    batch
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The error of a store that must not open.
fn refused(home: &Path) -> StoreError {
    match Embedded::open(home) {
        Ok(_) => panic!("it opened"),
        Err(e) => e,
    }
}

/// Runs the test of that name in a process of its own, told by `WARDFS_TEST_STORE` to play the other part.
fn other_process(test: &str, home: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            &format!("store::embedded::tests::{test}"),
            "--nocapture",
            "--test-threads=1",
        ])
        .env("WARDFS_TEST_STORE", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

fn part() -> Option<PathBuf> {
    std::env::var_os("WARDFS_TEST_STORE").map(PathBuf::from)
}

#[test]
fn a_new_store_is_private() {
    let p = place();
    let nested = p.home.join("a/b");
    let store = Embedded::create(&nested).unwrap();
    assert_eq!(store.path(), nested);
    assert_eq!(std::fs::metadata(&nested).unwrap().mode() & 0o7777, 0o700);
    for file in ["store.redb", "lock"] {
        assert_eq!(
            std::fs::metadata(nested.join(file)).unwrap().mode() & 0o7777,
            0o600,
            "{file}"
        );
    }
    assert!(!nested.join("store.redb.new").exists());
}

#[test]
fn a_store_is_made_once_and_opened_only_where_it_is() {
    let p = place();
    assert!(matches!(refused(&p.home), StoreError::NotFound { .. }));
    drop(Embedded::create(&p.home).unwrap());
    // Nothing was committed: the creation was cut short and may be done again.
    let store = Embedded::create(&p.home).unwrap();
    store.commit(Revision(0), &put(1, b"x")).unwrap();
    drop(store);
    assert!(matches!(
        Embedded::create(&p.home),
        Err(StoreError::Exists { .. })
    ));
    assert_eq!(dump(&Embedded::open(&p.home).unwrap()).unwrap().len(), 1);
}

#[test]
fn a_creation_cut_short_leaves_nothing_in_the_way() {
    let p = place();
    drop(Embedded::create(&p.home).unwrap());
    std::fs::remove_file(p.home.join("store.redb")).unwrap();
    std::fs::write(p.home.join("store.redb.new"), b"half of a sto").unwrap();
    assert!(matches!(refused(&p.home), StoreError::NotFound { .. }));
    drop(Embedded::create(&p.home).unwrap());
    assert_eq!(Embedded::open(&p.home).unwrap().revision().unwrap(), Revision(0));
}

#[test]
fn a_second_owner_is_told_who_the_first_one_is() {
    if let Some(home) = part() {
        let _store = Embedded::open(home).unwrap();
        println!("\nopen");
        // Until the parent lets go of the pipe.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let p = place();
    drop(Embedded::create(&p.home).unwrap());
    let mut child = other_process("a_second_owner_is_told_who_the_first_one_is", &p.home)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while lines.next().unwrap().unwrap() != "open" {}
    let pid = child.id();
    for attempt in [Embedded::open(&p.home), Embedded::create(&p.home)] {
        let error = attempt.err().unwrap();
        assert!(
            matches!(error, StoreError::InUse { pid: Some(found), .. } if found == pid),
            "{error}"
        );
        assert!(
            error.to_string().contains(&format!("by process {pid}")),
            "{error}"
        );
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let _mine = Embedded::open(&p.home).unwrap();
    // The same process is no exception.
    let me = std::process::id();
    assert!(matches!(refused(&p.home), StoreError::InUse { pid: Some(found), .. } if found == me));
}

#[test]
fn a_lock_that_names_another_process_is_not_believed() {
    let p = place();
    let store = Embedded::create(&p.home).unwrap();
    for lie in [
        "1 1\n",
        "",
        "4294967295 7\n",
        "x y\n",
        "999999999999999999999 1\n",
        "1",
    ] {
        std::fs::write(p.home.join("lock"), lie).unwrap();
        let error = refused(&p.home);
        assert!(
            matches!(error, StoreError::InUse { pid: None, .. }),
            "{lie:?}: {error}"
        );
    }
    drop(store);
    // And one that nobody holds keeps nobody out.
    assert!(Embedded::open(&p.home).is_ok());
}

#[test]
fn links_in_place_of_the_store_are_refused() {
    for file in ["store.redb", "lock"] {
        let p = place();
        drop(Embedded::create(&p.home).unwrap());
        let moved = p.home.join("elsewhere");
        std::fs::rename(p.home.join(file), &moved).unwrap();
        symlink(&moved, p.home.join(file)).unwrap();
        let error = refused(&p.home);
        assert!(
            matches!(&error, StoreError::Untrusted { path, .. } if path.ends_with(file)),
            "{error}"
        );
        assert!(matches!(
            Embedded::create(&p.home),
            Err(StoreError::Untrusted { .. })
        ));
    }
    let p = place();
    drop(Embedded::create(p.home.join("real")).unwrap());
    symlink(p.home.join("real"), p.home.join("link")).unwrap();
    assert!(matches!(
        refused(&p.home.join("link")),
        StoreError::Untrusted { .. }
    ));
}

#[test]
fn what_others_can_open_is_refused() {
    for (file, bits) in [("store.redb", 0o077), ("lock", 0o077), ("", 0o066)] {
        for bit in (0..6).map(|n| 1 << n).filter(|bit| bit & bits != 0) {
            let p = place();
            drop(Embedded::create(&p.home).unwrap());
            let path = p.home.join(file);
            let own = if file.is_empty() { 0o700 } else { 0o600 };
            mode(&path, own | bit);
            let error = refused(&p.home);
            assert!(
                matches!(error, StoreError::Untrusted { .. }),
                "{file:?} {bit:o}: {error}"
            );
            assert!(error.to_string().contains(&format!("chmod {own:04o}")), "{error}");
            mode(&path, own);
            assert!(Embedded::open(&p.home).is_ok());
        }
    }
    // Others may pass through the directory, to the control socket.
    let p = place();
    drop(Embedded::create(&p.home).unwrap());
    mode(&p.home, 0o711);
    assert!(Embedded::open(&p.home).is_ok());
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    let p = place();
    drop(Embedded::create(&p.home).unwrap());
    for file in ["store.redb", "lock", "."] {
        let path = p.home.join(file);
        // As another user would see it …
        let found: FileStat = nix::sys::stat::stat(&path).unwrap();
        let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
        let stranger = nix::unistd::Uid::from_raw(found.st_uid + 1);
        assert!(matches!(
            files::judge_for(stranger, &path, &found, kind, 0),
            Err(StoreError::Untrusted { .. })
        ));
        // … and, where this process may give files away, for real.
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let error = refused(&p.home);
            assert!(matches!(error, StoreError::Untrusted { .. }), "{file}: {error}");
            assert!(error.to_string().contains("65534"), "{error}");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
    }
    assert!(Embedded::open(&p.home).is_ok());
}

/// A pipe in the store's place must not hang the opener, nor a directory confuse it.
#[test]
fn what_is_no_file_is_refused_at_once() {
    let p = place();
    drop(Embedded::create(&p.home).unwrap());
    let data = p.home.join("store.redb");
    std::fs::remove_file(&data).unwrap();
    nix::unistd::mkfifo(&data, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(refused(&p.home), StoreError::Untrusted { .. }));
    std::fs::remove_file(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    assert!(matches!(
        refused(&p.home),
        StoreError::Io { .. } | StoreError::Untrusted { .. }
    ));
}

#[test]
fn a_file_that_is_no_store_is_damage_and_stays_as_it_is() {
    let whole = {
        let p = place();
        Embedded::create(&p.home)
            .unwrap()
            .commit(Revision(0), &put(1, b"x"))
            .unwrap();
        std::fs::read(p.home.join("store.redb")).unwrap()
    };
    let mut zeroed = whole.clone();
    zeroed[..9].fill(0);
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("short", whole[..100].to_vec()),
        ("one page", whole[..4096].to_vec()),
        ("half", whole[..whole.len() / 2 / 4096 * 4096].to_vec()),
        ("text", b"[store]\nthis = \"is a text file\"\n".repeat(500)),
        ("no magic", zeroed),
        ("zeros", vec![0; whole.len()]),
    ] {
        let p = place();
        drop(Embedded::create(&p.home).unwrap());
        let data = p.home.join("store.redb");
        std::fs::write(&data, &bytes).unwrap();
        let error = refused(&p.home);
        assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error}");
        assert!(
            matches!(Embedded::create(&p.home), Err(StoreError::Corrupt { .. })),
            "{what}"
        );
        assert!(
            bytes.len() < 4096 || std::fs::read(&data).unwrap().len() >= bytes.len(),
            "{what}"
        );
    }
}

#[test]
fn a_file_of_a_later_redb_is_too_new_and_a_single_flipped_version_is_damage() {
    let p = place();
    drop(Embedded::create(&p.home).unwrap());
    let data = p.home.join("store.redb");
    let write = |at: u64, byte: u8| {
        std::fs::OpenOptions::new()
            .write(true)
            .open(&data)
            .unwrap()
            .write_all_at(&[byte], at)
            .unwrap();
    };
    write(64, 4);
    assert!(matches!(refused(&p.home), StoreError::Corrupt { .. }));
    write(192, 4);
    let error = refused(&p.home);
    assert!(matches!(error, StoreError::TooNew { format: 4, .. }), "{error}");
    write(64, 3);
    write(192, 3);
    assert!(Embedded::open(&p.home).is_ok());
}

/// Each commit writes one value into all of eight records and removes one of another eight.
fn step(n: u64) -> Batch {
    let mut batch = Batch::new();
    for key in 0..8u64 {
        batch.put(Table::Value, key, vec![n as u8; 64 + (n as usize * 37) % 3000]);
        batch.put(Table::Outbox, n * 8 + key, n.to_be_bytes().to_vec());
        if n > 0 {
            batch.delete(Table::Outbox, (n - 1) * 8 + key);
        }
    }
    batch
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_nothing_is_half_done() {
    if let Some(home) = part() {
        let store = Embedded::open(home).unwrap();
        let mut out = std::io::stdout();
        loop {
            let base = store.revision().unwrap();
            let next = store.commit(base, &step(base.0)).unwrap();
            writeln!(out, "\ndone {next}").unwrap();
            out.flush().unwrap();
        }
    }
    let p = place();
    drop(Embedded::create(&p.home).unwrap());
    let mut seen = 0;
    for round in 0..50u64 {
        let mut child = other_process(
            "what_was_acknowledged_survives_kill_9_and_nothing_is_half_done",
            &p.home,
        )
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = None;
        let mut line = String::new();
        let mut note = |line: &str| {
            if let Some(n) = line.trim().strip_prefix("done ") {
                acknowledged = Some(n.parse::<u64>().unwrap());
            }
        };
        // The first acknowledgement, so that the killing falls among commits; then a time of its own.
        while !line.starts_with("done") {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "the child ended by itself");
        }
        note(&line);
        std::thread::sleep(Duration::from_micros(round * 397 % 9000));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        // A last line without its end was cut off in the middle.
        rest.split_inclusive('\n')
            .filter(|l| l.ends_with('\n'))
            .for_each(&mut note);
        let acknowledged = acknowledged.unwrap();

        let store = Embedded::open(&p.home).unwrap();
        let revision = store.revision().unwrap().0;
        assert!(
            revision == acknowledged || revision == acknowledged + 1,
            "{acknowledged} then {revision}"
        );
        assert!(revision > seen);
        seen = revision;
        let last = revision - 1;
        let mut wanted = Model::new();
        for key in 0..8u64 {
            let value = vec![last as u8; 64 + (last as usize * 37) % 3000];
            wanted.insert((Table::Value, key.to_be_bytes().to_vec()), value);
            wanted.insert(
                (Table::Outbox, (last * 8 + key).to_be_bytes().to_vec()),
                last.to_be_bytes().to_vec(),
            );
        }
        assert_eq!(dump(&store).unwrap(), wanted);
        if round % 10 == 0 {
            store.check(&mut |_| {}).unwrap();
        }
    }
}

/// The medium fails at each write and sync in turn: what follows is the old state or the new one, whole, and the
/// store works again as soon as the medium does.
#[test]
fn a_failing_medium_costs_one_commit_and_no_record() {
    for errno in [libc::ENOSPC, libc::EIO] {
        let p = place();
        let store = Embedded::create(&p.home).unwrap();
        let mut base = store.commit(Revision(0), &step(0)).unwrap();
        let mut failures = 0;
        for writes in 0..60 {
            let before = dump(&store).unwrap();
            store.state.load().disk.fail_after(writes, errno);
            let result = store.commit(base, &step(base.0));
            let revision = store.revision().unwrap();
            match result {
                Ok(next) => assert_eq!(next, revision),
                Err(e) => {
                    failures += 1;
                    let full = matches!(e, StoreError::Full { .. });
                    assert!(
                        full == (errno == libc::ENOSPC) || matches!(e, StoreError::Io { .. }),
                        "{e}"
                    );
                    assert!(revision.0 - base.0 <= 1);
                    if revision == base {
                        assert_eq!(dump(&store).unwrap(), before);
                    }
                }
            }
            store.state.load().disk.fail_after(i64::MAX, errno);
            base = store.commit(revision, &step(revision.0)).unwrap();
            store.check(&mut |_| {}).unwrap();
        }
        assert!(failures > 3, "no write was hit");
        drop(store);
        assert_eq!(Embedded::open(&p.home).unwrap().revision().unwrap(), base);
    }
}

#[test]
fn watchers_of_a_store_whose_medium_failed_miss_nothing() {
    let p = place();
    let store = Embedded::create(&p.home).unwrap();
    let mut watch = store.watch(Revision(0)).unwrap();
    store.state.load().disk.fail_after(1, libc::EIO);
    store.commit(Revision(0), &put(1, b"x")).unwrap_err();
    let base = store.revision().unwrap();
    store.commit(base, &put(2, b"y")).unwrap();
    let mut told = Revision(0);
    while told < Revision(base.0 + 1) {
        match watch.recv(Duration::from_secs(10)) {
            Event::Changed(change) => {
                assert_eq!(change.revision.0, told.0 + 1);
                told = change.revision;
            }
            Event::Resync(revision) => told = revision,
            other => panic!("{other:?}"),
        }
    }
}

/// A caller's own panic is not taken for damage and does no harm to the store.
#[test]
fn a_panic_of_the_listener_stays_the_listeners() {
    let p = place();
    let store = Embedded::create(&p.home).unwrap();
    store.commit(Revision(0), &put(1, b"x")).unwrap();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _ = store.list(Table::Value, &mut |_, _| panic!("mine"));
    }));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"mine"));
    store.commit(Revision(1), &put(2, b"y")).unwrap();
    assert_eq!(dump(&store).unwrap().len(), 2);
}

/// A value that carries its own proof, as every sealed record does.
fn sealed(table: Table, key: &[u8], len: usize) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let body = vec![table.number() ^ key.last().copied().unwrap_or(0); len];
    let proof = Sha256::new()
        .chain_update([table.number()])
        .chain_update(key)
        .chain_update(&body)
        .finalize();
    [&proof[..], &body].concat()
}

fn unsealed(table: Table, key: &[u8], bytes: &[u8]) -> bool {
    bytes.len() >= 32 && sealed(table, key, bytes.len() - 32) == bytes
}

/// Flips bytes all over a store that was closed, then one that was killed: it is refused, or every record is
/// right, or it fails its own proof, or is missing from the count. Never a panic, an abort or a hang.
#[test]
fn flipped_bytes_are_never_taken_for_truth() {
    let Some(_) = part() else {
        // A process of its own: an abort or a hang of it is a failure of this test, and of no other.
        let mut child = other_process("flipped_bytes_are_never_taken_for_truth", Path::new("-"))
            .stdout(Stdio::inherit())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(240);
        loop {
            match child.try_wait().unwrap() {
                Some(status) => return assert!(status.success(), "{status}"),
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                None => {
                    child.kill().unwrap();
                    panic!("a damaged store hangs its reader");
                }
            }
        }
    };
    // Thousands of stores, and no power cut to survive: memory will do where there is some.
    let memory = Path::new("/dev/shm");
    let p = if memory.is_dir() {
        place_in(memory)
    } else {
        place()
    };
    let store = Embedded::create(&p.home).unwrap();
    let mut wanted = Model::new();
    let mut base = Revision(0);
    for round in 0..6u64 {
        let mut batch = Batch::new();
        for key in 0..12u64 {
            for table in [Table::Secret, Table::Value, Table::Term] {
                let key = (round * 100 + key).to_be_bytes();
                let bytes = sealed(table, &key, if key[7] % 5 == 0 { 6000 } else { 90 });
                wanted.insert((table, key.to_vec()), bytes.clone());
                batch.put(table, &key[..], bytes);
            }
        }
        base = store.commit(base, &batch).unwrap();
    }
    let data = p.home.join("store.redb");
    let killed = std::fs::read(&data).unwrap();
    drop(store);
    let closed = std::fs::read(&data).unwrap();

    // redb's panics are expected here, thousands of them; ours are not.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_some_and(|at| !at.file().contains("/redb-")) {
            loud(panic);
        }
    }));
    let mut outcomes = BTreeMap::<&str, u32>::new();
    for image in [&closed, &killed] {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let header = (0..320).map(|at| (at, 1 << (at % 8)));
        let spread = (0..900).map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let page = (random >> 33) as usize % (image.len() / 4096) * 4096;
            // Half of them where the pages' own bookkeeping is.
            let within = if random >> 60 & 1 == 0 {
                (random >> 20) as usize % 64
            } else {
                (random >> 20) as usize % 4096
            };
            (page + within, (random >> 12) as u8 | 1)
        });
        for (at, flip) in header.chain(spread) {
            let mut bad = image.clone();
            bad[at] ^= flip;
            std::fs::write(&data, &bad).unwrap();
            let began = Instant::now();
            *outcomes.entry(examine(&p.home, &wanted, base)).or_default() += 1;
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "byte {at} ^ {flip:#x} takes too long"
            );
        }
    }
    println!("{outcomes:?}");
    let seen = |what| outcomes.get(what).copied().unwrap_or(0);
    assert!(
        seen("right") > 500 && seen("refused") > 10 && seen("proof fails") > 100,
        "{outcomes:?}"
    );
}

/// What becomes of a store that was damaged somewhere.
fn examine(home: &Path, wanted: &Model, revision: Revision) -> &'static str {
    let store = match Embedded::open(home) {
        Ok(store) => store,
        Err(StoreError::Corrupt { .. } | StoreError::TooNew { .. } | StoreError::Io { .. }) => {
            return "refused";
        }
        Err(other) => panic!("{other}"),
    };
    let mut outcome = "right";
    // The epoch record above holds the revision too, and finds a wrong one.
    match store.revision() {
        Ok(found) if found == revision => {}
        Ok(_) => outcome = "revision differs",
        Err(_) => return "revision unreadable",
    }
    for table in Table::ALL {
        let mut found = 0;
        let listed = store.list(table, &mut |key, bytes| {
            found += 1;
            if !unsealed(table, key, bytes) {
                outcome = "proof fails";
            } else if wanted.get(&(table, key.to_vec())).map(|b| &b[..]) != Some(bytes) {
                panic!("a record of nobody passes its proof");
            }
            ControlFlow::Continue(())
        });
        if listed.is_err() {
            outcome = "list fails";
        } else if found != wanted.keys().filter(|(t, _)| *t == table).count() {
            outcome = "count differs";
        }
    }
    for ((table, key), bytes) in wanted {
        match store.get(*table, key) {
            Ok(Some(found)) if found == *bytes => {}
            Ok(Some(found)) => {
                assert!(
                    !unsealed(*table, key, &found),
                    "another record's bytes pass for this one"
                );
                outcome = "proof fails";
            }
            Ok(None) => outcome = "record missing",
            Err(_) => outcome = "get fails",
        }
    }
    let checked = store.check(&mut |_| {});
    if outcome != "right" {
        assert!(
            checked.is_err(),
            "the check finds nothing where a reader does: {outcome}"
        );
    }
    // A commit may fail; it must come back. If it is made, nothing else changed, and the file is a good one again.
    if let Ok(base) = store.revision()
        && let Ok(mut before) = dump(&store)
        && store.commit(base, &put(7, b"x")).is_ok()
    {
        before.insert((Table::Value, 7u64.to_be_bytes().to_vec()), b"x".to_vec());
        assert_eq!(dump(&store).unwrap(), before);
        drop(store);
        let again = Embedded::open(home).unwrap();
        again.check(&mut |_| {}).unwrap();
        assert_eq!(dump(&again).unwrap(), before);
        if outcome != "right" {
            assert!(
                checked.is_err() && home.join("store.redb.damaged").exists(),
                "{outcome}"
            );
        }
    }
    outcome
}
