//! The disk is full, the file is read-only, gone, cut, or was never finished.

use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

/// `chattr`, and back when dropped would be too late for a failed assertion: callers undo it themselves before.
pub(super) fn attribute(flag: &str, path: &Path) {
    let status = Command::new("chattr")
        .arg(flag)
        .arg(path)
        .status()
        .expect("chattr (e2fsprogs) runs");
    assert!(status.success(), "chattr {flag} {}", path.display());
}

/// Takes the attribute away however the test ends.
struct Attribute<'p>(&'static str, &'p Path);

impl<'p> Attribute<'p> {
    fn set(flag: &'static str, path: &'p Path) -> Self {
        attribute(&format!("+{flag}"), path);
        Attribute(flag, path)
    }
}

impl Drop for Attribute<'_> {
    fn drop(&mut self) {
        let _ = Command::new("chattr")
            .arg(format!("-{}", self.0))
            .arg(self.1)
            .status();
    }
}

/// A small file system that goes away with the test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(options: &str) -> Small {
        let place = Small(tempfile::tempdir().unwrap());
        let none = None::<&str>;
        nix::mount::mount(
            none,
            place.0.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options),
        )
        .unwrap();
        place
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Tries until it works; it must within the second that is promised.
fn back_within_a_second(log: &Log) -> Receipt {
    let began = Instant::now();
    loop {
        match log.append(&read_of(1000, "app/db")) {
            Ok(receipt) => return receipt,
            Err(e) => assert!(began.elapsed() < Duration::from_secs(1), "{e}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_line_torn_by_a_crash_is_cut_at_every_length() {
    let place = place();
    let anchor = {
        let log = place.create(one_segment());
        let _ = log.append(&change("app/db", 1)).unwrap();
        let anchor = log.sync().unwrap();
        let _ = log.append(&read_of(1000, "app/db")).unwrap();
        anchor
    };
    let whole = std::fs::read(place.segment(1)).unwrap();
    let start = anchor.offset as usize;
    for end in start..whole.len() {
        std::fs::write(place.segment(1), &whole[..end]).unwrap();
        let torn = (end - start) as u64;
        assert_eq!(place.verify(Some(&anchor)).unwrap().torn_bytes, torn);
        let log = place.open(&anchor).unwrap();
        assert_eq!(log.head().seq, anchor.seq + u64::from(torn > 0));
        let _ = log.append(&read_of(1000, "app/db")).unwrap();
        let verified = place.verify(Some(&log.sync().unwrap())).unwrap();
        assert_eq!((verified.last, verified.torn_bytes), (log.head().seq, 0));
        if torn > 0 {
            let resumed = &place.entries()[2];
            assert_eq!(resumed.text("eventName"), Some("LogResumed"));
            assert_eq!(
                resumed.value["requestParameters"]["tornBytes"].as_u64(),
                Some(torn)
            );
            // What was cut off and is put back is no record, and not excused by the mark that tells of it.
            let mut longer = std::fs::read(place.segment(1)).unwrap();
            let line = [&whole[start..end], b"\n"].concat();
            longer.splice(start..start, line);
            std::fs::write(place.segment(1), longer).unwrap();
            let but_for_its_end = u64::from(end + 1 == whole.len());
            assert_eq!(place.broken(None).sequence, anchor.seq + 1 + but_for_its_end);
        }
    }
    // Torn before its anchor it is no crash.
    std::fs::write(place.segment(1), &whole[..start - 1]).unwrap();
    assert_eq!(place.broken(Some(&anchor)).kind, BrokenKind::Torn);
    assert!(matches!(place.open(&anchor), Err(LogError::Behind { .. })));
}

#[test]
fn a_torn_line_that_cannot_be_cut_is_marked_and_accounted_for() {
    let place = place();
    let anchor = twelve(&place);
    let path = place.segment(1);
    let torn = b"{\"seq\":14,\"eventTime\":\"2026";
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(torn);
    std::fs::write(&path, &bytes).unwrap();
    let (mark, newer) = {
        let _append_only = Attribute::set("a", &path);
        let log = place.open(&anchor).unwrap();
        let mark = log.sync().unwrap();
        let _ = log.append(&read_of(1000, "app/db")).unwrap();
        (mark, log.sync().unwrap())
    };
    // The mark itself as the anchor: what stands before it is no record.
    assert_eq!(place.open(&mark).unwrap().head(), newer);
    assert_eq!(place.verify(Some(&newer)).unwrap().last, 15);
    assert_eq!(place.open(&anchor).unwrap().head(), newer);
    // The marked bytes are as tamper-evident as any record, and no mark makes room for others.
    let marked = std::fs::read(&path).unwrap();
    for at in anchor.offset as usize..anchor.offset as usize + torn.len() + 1 {
        let mut changed = marked.clone();
        changed[at] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        assert_eq!(place.broken(Some(&newer)).sequence, 14);
    }
    let mut longer = marked.clone();
    longer.insert(anchor.offset as usize, b'x');
    std::fs::write(&path, &longer).unwrap();
    assert_eq!(place.broken(None).sequence, 14);
}

#[test]
fn a_full_disk_refuses_reads_keeps_administration_and_comes_back() {
    let disk = Small::mount("size=4m,mode=0700");
    let dir = disk.0.path().join("audit");
    let options = Options {
        reserve_bytes: 256 << 10,
        ..Options::default()
    };
    let log = Log::create(&dir, STORE, key(), options).unwrap();
    let filler = disk.0.path().join("filler");
    // Fills what is left to the last page.
    let mut file = std::fs::File::create(&filler).unwrap();
    let page = [1u8; 4096];
    while std::io::Write::write_all(&mut file, &page).is_ok() {}
    let mut reads = 0;
    let refused = loop {
        match log.append(&read_of(1000, "app/db")) {
            Ok(_) => reads += 1,
            Err(e) => break e,
        }
        assert!(reads < 100_000);
    };
    assert!(matches!(refused, LogError::Full { .. }), "{refused}");
    assert!(reads > 0);
    // Administration goes on in the reserve, for a good while, and reads stay refused.
    for i in 0..200 {
        log.healthy().unwrap();
        let _ = log.append(&change("app/db", i + 1)).unwrap();
        let _ = log.append_body(&change("app/db", i + 1).body(), None).unwrap();
        assert!(log.append(&read_of(1000, "app/db")).is_err());
        let denied = Outcome::Denied {
            reason: "implicit_deny",
        };
        let _ = log.refuse(&Record {
            outcome: denied,
            ..change("app/db", 0)
        });
        log.tick();
    }
    let before = log.head().seq;
    // Until the reserve is used up; then nothing is taken, and still nothing is torn.
    let mut more = 0;
    while log.append(&change("app/db", 1000)).is_ok() {
        more += 1;
        assert!(more < 100_000);
    }
    assert!(more > 100, "{more}");
    assert!(matches!(log.healthy(), Err(LogError::Full { .. })));
    let anchor = log.sync().unwrap();
    assert_eq!(
        (
            anchor.seq,
            verify(&dir, STORE, &key(), Some(&anchor), &mut |_| {})
                .unwrap()
                .torn_bytes
        ),
        (before + more, 0)
    );
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    let _ = back_within_a_second(&log);
    log.tick();
    log.healthy().unwrap();
    let resumed = query(
        &dir,
        &Query {
            event: Some("LogResumed".into()),
            ..Query::default()
        },
    )
    .last()
    .unwrap()
    .unwrap();
    assert!(resumed.value["requestParameters"]["refused"].as_u64().unwrap() > 200);
    drop(log);
    let verified = verify(&dir, STORE, &key(), Some(&anchor), &mut |_| {}).unwrap();
    // No refusal was lost either: those that could not be written were counted.
    let refusals: u64 = query(
        &dir,
        &Query {
            denied: true,
            ..Query::default()
        },
    )
    .map(|e| e.unwrap().value["suppressed"].as_u64().unwrap_or(1))
    .sum();
    assert_eq!((refusals, verified.torn_bytes), (200, 0));
}

#[test]
fn a_segment_that_cannot_be_followed_goes_on_growing() {
    let disk = Small::mount("size=4m,mode=0700");
    let dir = disk.0.path().join("audit");
    let options = Options {
        reserve_bytes: 128 << 10,
        segment_bytes: 4096,
        ..Options::default()
    };
    let log = Log::create(&dir, STORE, key(), options).unwrap();
    let mut file = std::fs::File::create(disk.0.path().join("filler")).unwrap();
    while std::io::Write::write_all(&mut file, &[1u8; 4096]).is_ok() {}
    for i in 0..100 {
        let _ = log.append(&change("app/db", i + 1)).unwrap();
    }
    assert_eq!(
        Folder::at(&dir).unwrap().list().unwrap(),
        [1],
        "no half-made segment is left"
    );
    file.set_len(0).unwrap();
    std::thread::sleep(Duration::from_millis(120));
    let _ = log.append(&read_of(1, "a")).unwrap();
    let anchor = log.sync().unwrap();
    assert_eq!(
        (
            anchor.segment,
            verify(&dir, STORE, &key(), Some(&anchor), &mut |_| {})
                .unwrap()
                .segments
        ),
        (2, 2)
    );
}

#[test]
fn a_read_only_log_takes_nothing_and_comes_back() {
    let place = place();
    let log = place.create(one_segment());
    let _ = log.append(&read_of(1000, "app/db")).unwrap();
    let path = place.segment(1);
    {
        let _immutable = Attribute::set("i", &path);
        assert!(log.healthy().is_err());
        for _ in 0..3 {
            assert!(matches!(
                log.append(&read_of(1000, "app/db")),
                Err(LogError::Io { .. })
            ));
            assert!(log.append(&change("app/db", 1)).is_err());
            assert!(log.healthy().is_err());
            log.tick();
            std::thread::sleep(Duration::from_millis(110));
        }
    }
    let receipt = back_within_a_second(&log);
    // The record that tells of the interruption stands before the next one.
    assert_eq!(
        (receipt.seq(), place.entries()[2].text("eventName")),
        (4, Some("LogResumed"))
    );
    assert_eq!(
        (place.entries()[2].text("outcome"), place.entries()[2].uid()),
        (Some("allowed"), Some(nix::unistd::geteuid().as_raw()))
    );
    log.healthy().unwrap();
    place.verify(Some(&log.sync().unwrap())).unwrap();
}

#[test]
fn a_tick_alone_brings_a_failed_log_back() {
    let place = place();
    let log = place.create(one_segment());
    {
        let path = place.segment(1);
        let _immutable = Attribute::set("i", &path);
        assert!(log.append(&read_of(1000, "app/db")).is_err());
    }
    std::thread::sleep(Duration::from_millis(110));
    log.tick();
    assert_eq!(
        place.entries().last().unwrap().text("eventName"),
        Some("LogResumed")
    );
}

#[test]
fn a_deleted_file_is_noticed_in_the_same_call_and_followed_by_a_new_segment() {
    let place = place();
    let log = place.create(one_segment());
    let _ = log.append(&read_of(1000, "app/db")).unwrap();
    std::fs::remove_file(place.segment(1)).unwrap();
    assert!(matches!(
        log.append(&read_of(1000, "app/db")),
        Err(LogError::Deleted { .. })
    ));
    assert!(log.append(&change("app/db", 1)).is_err());
    let _ = back_within_a_second(&log);
    let anchor = log.sync().unwrap();
    assert_eq!(anchor.segment, 2);
    assert_eq!(place.entries()[0].value["logLost"], true);
    let broken = place.broken(Some(&anchor));
    assert_eq!(
        (broken.kind, broken.segment),
        (BrokenKind::Missing, place.segment(1))
    );
    drop(log);
    place.open(&anchor).unwrap();
}

#[test]
fn a_file_put_back_is_taken_again() {
    let place = place();
    let log = place.create(one_segment());
    let _ = log.append(&read_of(1000, "app/db")).unwrap();
    // Moved away: the link is still there, so the tick has to notice.
    let away = place.dir.join("away");
    std::fs::rename(place.segment(1), &away).unwrap();
    log.tick();
    assert!(matches!(
        log.append(&read_of(1000, "app/db")),
        Err(LogError::Deleted { .. })
    ));
    std::fs::rename(&away, place.segment(1)).unwrap();
    let _ = back_within_a_second(&log);
    // Deleted, and a faithful copy put back.
    std::fs::copy(place.segment(1), &away).unwrap();
    std::fs::remove_file(place.segment(1)).unwrap();
    std::fs::rename(&away, place.segment(1)).unwrap();
    log.tick();
    assert!(log.append(&read_of(1000, "app/db")).is_err());
    let _ = back_within_a_second(&log);
    assert_eq!(log.head().segment, 1);
    place.verify(Some(&log.sync().unwrap())).unwrap();
    // A copy that is not faithful is left as evidence.
    let mut bytes = std::fs::read(place.segment(1)).unwrap();
    bytes[300] ^= 1;
    std::fs::remove_file(place.segment(1)).unwrap();
    std::fs::write(place.segment(1), bytes).unwrap();
    assert!(log.append(&read_of(1000, "app/db")).is_err());
    let _ = back_within_a_second(&log);
    assert_eq!(log.head().segment, 2);
}

#[test]
fn a_copy_is_taken_only_if_it_is_faithful_to_the_last_byte() {
    let length = {
        let place = place();
        let log = place.create(one_segment());
        for _ in 0..600 {
            let _ = log.append(&read_of(1000, "app/db")).unwrap();
        }
        log.head().offset as usize
    };
    // More than two of the pieces in which they are compared.
    assert!(length > 150_000);
    for changed in [
        None,
        Some(0),
        Some(65_535),
        Some(65_536),
        Some(131_072),
        Some(length - 1),
    ] {
        let place = place();
        let log = place.create(one_segment());
        for _ in 0..600 {
            let _ = log.append(&read_of(1000, "app/db")).unwrap();
        }
        let (path, away) = (place.segment(1), place.dir.join("away"));
        std::fs::copy(&path, &away).unwrap();
        if let Some(at) = changed {
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1;
            std::fs::write(&away, bytes).unwrap();
        }
        std::fs::rename(&away, &path).unwrap();
        // Nothing is written to what is no longer there.
        log.tick();
        let _ = back_within_a_second(&log);
        assert_eq!(
            log.head().segment,
            1 + u64::from(changed.is_some()),
            "{changed:?}"
        );
        let anchor = log.sync().unwrap();
        assert_eq!(
            place.verify(Some(&anchor)).is_ok(),
            changed.is_none(),
            "{changed:?}"
        );
    }
}

#[test]
fn a_deleted_directory_is_waited_for() {
    let place = place();
    let log = place.create(one_segment());
    let _ = log.append(&read_of(1000, "app/db")).unwrap();
    std::fs::remove_dir_all(&place.dir).unwrap();
    assert!(matches!(
        log.append(&read_of(1000, "app/db")),
        Err(LogError::Deleted { .. })
    ));
    std::thread::sleep(Duration::from_millis(150));
    assert!(matches!(
        log.append(&read_of(1000, "app/db")),
        Err(LogError::Deleted { .. })
    ));
    assert!(log.healthy().is_err() && log.sync().is_err());
    std::fs::create_dir(&place.dir).unwrap();
    let _ = back_within_a_second(&log);
    let anchor = log.sync().unwrap();
    assert_eq!(place.broken(Some(&anchor)).kind, BrokenKind::Missing);
}

#[test]
fn a_file_changed_under_us_gives_no_receipt() {
    for truncate in [true, false] {
        let place = place();
        let log = place.create(one_segment());
        for _ in 0..3 {
            let _ = log.append(&read_of(1000, "app/db")).unwrap();
        }
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(place.segment(1))
            .unwrap();
        if truncate {
            file.set_len(0).unwrap();
        } else {
            std::io::Write::write_all(&mut file, b"{\"seq\":5}\n").unwrap();
        }
        assert!(matches!(
            log.append(&read_of(1000, "app/db")),
            Err(LogError::Altered { .. })
        ));
        let _ = back_within_a_second(&log);
        let anchor = log.sync().unwrap();
        assert_eq!(anchor.segment, 2, "the old segment stays as it is found");
        assert_eq!(place.broken(Some(&anchor)).segment, place.segment(1));
        drop(log);
        place.open(&anchor).unwrap();
    }
}

#[test]
fn a_crash_while_a_segment_begins_leaves_the_log_usable() {
    let place = place();
    let anchor = twelve(&place);
    for begun in [&b""[..], b"{\"seq\":14,\"eventTime\":"] {
        std::fs::write(place.segment(2), begun).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(place.segment(2), std::fs::Permissions::from_mode(0o600)).unwrap();
        place.verify(Some(&anchor)).unwrap();
        let log = place.open(&anchor).unwrap();
        assert_eq!(log.head(), anchor);
        assert!(!place.segment(2).exists());
    }
}

#[test]
fn old_records_copied_into_a_new_directory_are_another_log() {
    // A whole older copy of the log under the newer store.
    let place = place();
    let log = place.create(one_segment());
    let _ = log.append(&change("app/db", 1)).unwrap();
    let copy = place.dir.with_file_name("copy");
    copy_dir(&place.dir, &copy);
    let _ = log.append(&change("app/db", 2)).unwrap();
    let anchor = log.sync().unwrap();
    drop(log);
    std::fs::remove_dir_all(&place.dir).unwrap();
    std::fs::rename(&copy, &place.dir).unwrap();
    assert!(matches!(
        place.open(&anchor),
        Err(LogError::Behind { anchored: 3, .. })
    ));
    assert_eq!(place.broken(Some(&anchor)).kind, BrokenKind::Truncated);
}
