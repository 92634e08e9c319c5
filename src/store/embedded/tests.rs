//! The file: who may open it, what a crash leaves, what damage does.

use super::super::Event;
use super::super::tests::{Model, dump};
use super::*;
use nix::sys::stat::{FileStat, SFlag};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) struct Place {
    _dir: tempfile::TempDir,
    pub(super) home: PathBuf,
}

pub(super) fn place() -> Place {
    place_in(&std::env::temp_dir())
}

pub(super) fn place_in(parent: &Path) -> Place {
    let dir = tempfile::tempdir_in(parent).unwrap();
    let home = dir.path().join("store");
    Place { _dir: dir, home }
}

pub(super) fn put(key: u64, bytes: &[u8]) -> Batch {
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

#[test]
fn a_released_store_is_another_ones_while_its_first_owner_lives_on() {
    let place = place();
    let first = Arc::new(Embedded::create(&place.home).unwrap());
    first.commit(Revision(0), &put(1, b"one")).unwrap();
    assert!(first.release(Duration::from_secs(1)));
    let late = first.clone();
    let waits = std::thread::spawn(move || late.commit(Revision(1), &put(1, b"late")).map(drop));
    let second = Embedded::open(&place.home).unwrap();
    second.commit(Revision(1), &put(1, b"two")).unwrap();
    assert_eq!(
        second.get(Table::Value, &1u64.to_be_bytes()).unwrap().as_deref(),
        Some(&b"two"[..])
    );
    assert!(!waits.is_finished(), "nothing is written any more");
    assert!(!first.release(Duration::ZERO), "once");
    std::mem::forget(first);
}

/// Runs the test of that name in a process of its own, told by `WARDFS_TEST_STORE` to play the other part.
pub(super) fn other_process(test: &str, home: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            &format!("store::embedded::{test}"),
            "--nocapture",
            "--test-threads=1",
        ])
        .env("WARDFS_TEST_STORE", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

pub(super) fn part() -> Option<PathBuf> {
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
    let mut child = other_process("tests::a_second_owner_is_told_who_the_first_one_is", &p.home)
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

/// Nothing that a store did not make is locked, changed, or advised to be changed.
#[test]
fn a_directory_without_a_store_is_left_as_it_is() {
    for bits in [0o700, 0o755, 0o777] {
        let p = place();
        let dir = p.home.join("etc");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("passwd"), "precious").unwrap();
        mode(&dir, bits);
        assert!(matches!(refused(&dir), StoreError::NotFound { .. }), "{bits:o}");
        let made = Embedded::create(&dir);
        if bits != 0o700 {
            let error = made.err().expect("others may look into it");
            assert!(matches!(error, StoreError::Unfit { .. }), "{bits:o}: {error}");
            assert!(!error.to_string().contains("chmod"), "{error}");
            let names: Vec<_> = std::fs::read_dir(&dir)
                .unwrap()
                .flatten()
                .map(|e| e.file_name())
                .collect();
            assert_eq!(names, ["passwd"]);
        }
    }
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
            "tests::what_was_acknowledged_survives_kill_9_and_nothing_is_half_done",
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
