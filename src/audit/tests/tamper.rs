//! Somebody can write the log's files and has no key.

use super::*;

#[test]
fn an_untouched_log_verifies() {
    let place = place();
    let log = place.create(small());
    for i in 0..40 {
        let _ = log.append(&change("app/db", i + 1)).unwrap();
    }
    let anchor = log.sync().unwrap();
    let mut seen = 0;
    let verified = verify(&place.dir, STORE, &key(), Some(&anchor), &mut |n| seen = n).unwrap();
    assert!(verified.segments > 3, "{verified:?}");
    assert_eq!(
        (verified.first, verified.last, verified.records),
        (1, anchor.seq, anchor.seq)
    );
    assert_eq!(
        (verified.head, verified.last_epoch, verified.beyond_anchor),
        (anchor.head, 40, 0)
    );
    assert_eq!(seen, anchor.seq);
    let _ = log.append(&read_of(1000, "app/db")).unwrap();
    // More than one where the append began a segment, whose header is a record too.
    let head = log.head().seq;
    assert!(head > anchor.seq);
    assert_eq!(
        place.verify(Some(&anchor)).unwrap().beyond_anchor,
        head - anchor.seq
    );
    assert_eq!(place.verify(None).unwrap().last, head);
}

#[test]
fn each_byte_counts() {
    let place = place();
    let log = place.create(small());
    for i in 0..6 {
        let _ = log.append(&change("app/db", i + 1)).unwrap();
    }
    let anchor = log.sync().unwrap();
    drop(log);
    for number in Folder::at(&place.dir).unwrap().list().unwrap() {
        let path = place.segment(number);
        let original = std::fs::read(&path).unwrap();
        for at in 0..original.len() {
            for to in [original[at] ^ 1, original[at] ^ 0x80, b'\n', b' '] {
                if to == original[at] {
                    continue;
                }
                let mut changed = original.clone();
                changed[at] = to;
                std::fs::write(&path, &changed).unwrap();
                assert!(
                    place.verify(Some(&anchor)).is_err(),
                    "segment {number}, byte {at} as {to:#x}"
                );
            }
        }
        std::fs::write(&path, &original).unwrap();
    }
    place.verify(Some(&anchor)).unwrap();
}

#[test]
fn what_was_done_is_named_with_its_sequence() {
    let place = place();
    let anchor = twelve(&place);
    let lines = place.lines(1);
    let found = |changed: &[String]| {
        place.write(1, changed);
        let broken = place.broken(Some(&anchor));
        // An opening from the beginning finds the same.
        match place.open(&Anchor::genesis(STORE)) {
            Err(LogError::Broken(b)) => assert_eq!((b.sequence, b.kind), (broken.sequence, broken.kind)),
            Ok(_) if matches!(broken.kind, BrokenKind::Truncated) => {}
            other => panic!("{:?}", other.err()),
        }
        // So does one from the anchor, unless the file still ends as the anchor says.
        assert!(place.open(&anchor).is_err() || changed.len() == lines.len());
        (broken.sequence, broken.kind, broken.line)
    };
    for at in 1..12 {
        let seq = at as u64 + 1;
        let mut edited = lines.clone();
        edited[at] = edited[at].replace("\"uid\":0", "\"uid\":1");
        assert_ne!(edited[at], lines[at]);
        assert_eq!(found(&edited), (seq, BrokenKind::Edited, seq));

        let mut removed = lines.clone();
        removed.remove(at);
        assert_eq!(found(&removed), (seq, BrokenKind::Removed, seq));

        let mut reordered = lines.clone();
        reordered.swap(at, at + 1);
        assert_eq!(found(&reordered), (seq, BrokenKind::Reordered, seq));

        let mut copied = lines.clone();
        copied.insert(at, lines[at - 1].clone());
        assert_eq!(found(&copied), (seq, BrokenKind::Inserted, seq));

        let mut forged = lines.clone();
        forged.insert(at, lines[at].replace("\"uid\":0", "\"uid\":1"));
        assert_eq!(found(&forged), (seq, BrokenKind::Inserted, seq));

        assert_eq!(found(&lines[..at]), (seq, BrokenKind::Truncated, 0));
    }
    // The last two removed and the anchor not known: that is the documented window.
    place.write(1, &lines[..11]);
    assert_eq!(place.verify(None).unwrap().last, 11);
}

#[test]
fn a_line_has_one_form() {
    let place = place();
    let anchor = twelve(&place);
    let lines = place.lines(1);
    for change in [
        |l: &str| format!("{l} "),
        |l: &str| format!(" {l}"),
        |l: &str| format!("{l}\r"),
        |l: &str| l.replace("{\"seq\":5", "{\"seq\":05"),
        |l: &str| l.replace("{\"seq\"", "{ \"seq\""),
        |l: &str| l.replace(",\"mac\"", ",\"mac\":\"x\",\"mac\""),
        |l: &str| format!("{},\"mac\":\"{}\"}}", l.trim_end_matches('}'), "A".repeat(43)),
        |l: &str| l.replace("\"uid\":0", "\"uid\":0,\"uid\":1"),
        |_: &str| String::new(),
    ] {
        let mut changed = lines.clone();
        changed[4] = change(&lines[4]);
        place.write(1, &changed);
        assert_eq!(place.broken(Some(&anchor)).sequence, 5, "{}", changed[4]);
    }
    // Not a canonical base64 text of the same MAC either.
    let mut changed = lines.clone();
    let at = changed[4].len() - 3;
    for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=".chars() {
        changed[4].replace_range(at..=at, &c.to_string());
        if changed[4] != lines[4] {
            place.write(1, &changed);
            assert_eq!(place.broken(Some(&anchor)).sequence, 5);
        }
    }
}

#[test]
fn a_chain_recomputed_without_the_key_is_found() {
    let (place, other) = (place(), super::place());
    let anchor = twelve(&place);
    // The forger has the program and another key.
    let log = Log::create(&other.dir, STORE, key_of(43), one_segment()).unwrap();
    for i in 0..12 {
        let _ = log.append(&change("app/forged", i + 1)).unwrap();
    }
    drop(log);
    std::fs::copy(other.segment(1), place.segment(1)).unwrap();
    assert_eq!(place.broken(Some(&anchor)).sequence, 1);
    assert_eq!(place.broken(None).sequence, 1);
    assert!(place.open(&anchor).is_err());
    assert!(place.open(&Anchor::genesis(STORE)).is_err());
}

#[test]
fn another_history_with_the_right_key_is_found() {
    let (place, other) = (place(), super::place());
    let anchor = twelve(&place);
    let _ = twelve(&other);
    std::fs::copy(other.segment(1), place.segment(1)).unwrap();
    let broken = place.broken(Some(&anchor));
    assert_eq!((broken.sequence, broken.kind), (anchor.seq, BrokenKind::Replaced));
    assert!(matches!(place.open(&anchor), Err(LogError::Broken(b)) if b.sequence == anchor.seq));
    // A shorter one ends before the anchor.
    let lines = other.lines(1);
    other.write(1, &lines[..9]);
    std::fs::copy(other.segment(1), place.segment(1)).unwrap();
    assert!(matches!(
        place.open(&anchor),
        Err(LogError::Behind { anchored: 13, .. })
    ));
}

#[test]
fn another_stores_log_is_refused() {
    let place = place();
    let anchor = twelve(&place);
    let other = StoreId([8; 16]);
    match verify(&place.dir, other, &key(), Some(&anchor), &mut |_| {}) {
        Err(VerifyError::Broken(b)) => assert_eq!(b.kind, BrokenKind::Foreign),
        found => panic!("{found:?}"),
    }
    let opened = Log::open(&place.dir, other, key(), one_segment(), &Anchor::genesis(other));
    assert!(matches!(opened, Err(LogError::Broken(b)) if b.kind == BrokenKind::Foreign));
}

#[test]
fn segments_cannot_be_swapped_dropped_or_cut() {
    let place = place();
    let log = place.create(small());
    for i in 0..40 {
        let _ = log.append(&change("app/db", i + 1)).unwrap();
    }
    let anchor = log.sync().unwrap();
    drop(log);
    let originals: Vec<_> = Folder::at(&place.dir)
        .unwrap()
        .list()
        .unwrap()
        .iter()
        .map(|&n| std::fs::read(place.segment(n)).unwrap())
        .collect();
    let last = originals.len() as u64;
    assert!(last > 4);
    let restore = || {
        for (i, bytes) in originals.iter().enumerate() {
            std::fs::write(place.segment(i as u64 + 1), bytes).unwrap();
        }
        place.verify(Some(&anchor)).unwrap();
    };
    for number in 1..=last {
        std::fs::remove_file(place.segment(number)).unwrap();
        let broken = place.broken(Some(&anchor));
        assert_eq!(
            (broken.kind, broken.segment),
            (BrokenKind::Missing, place.segment(number))
        );
        std::fs::write(place.segment(number), &originals[number as usize - 1]).unwrap();
        restore_private(&place.segment(number));

        std::fs::write(place.segment(number), b"").unwrap();
        assert!(matches!(
            place.broken(Some(&anchor)).kind,
            BrokenKind::Truncated | BrokenKind::Torn
        ));
        restore();

        let text = String::from_utf8(originals[number as usize - 1].clone()).unwrap();
        let cut = text[..text.len() - 1].rfind('\n').unwrap() + 1;
        std::fs::write(place.segment(number), &text[..cut]).unwrap();
        assert_eq!(place.broken(Some(&anchor)).kind, BrokenKind::Truncated);
        restore();
    }
    std::fs::write(place.segment(2), &originals[2]).unwrap();
    std::fs::write(place.segment(3), &originals[1]).unwrap();
    assert_eq!(place.broken(Some(&anchor)).kind, BrokenKind::Reordered);
    restore();
    // All of them gone, or the directory itself.
    for number in 1..=last {
        std::fs::remove_file(place.segment(number)).unwrap();
    }
    assert_eq!(place.broken(Some(&anchor)).kind, BrokenKind::Missing);
    assert!(matches!(place.open(&anchor), Err(LogError::Missing { .. })));
    std::fs::remove_dir(&place.dir).unwrap();
    assert_eq!(place.broken(Some(&anchor)).kind, BrokenKind::Missing);
    assert!(matches!(place.open(&anchor), Err(LogError::Missing { .. })));
}

pub(super) fn restore_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn no_name_can_forge_a_line() {
    let place = place();
    let log = place.create(one_segment());
    let nasty = "x\"}\n{\"seq\":3,\"uid\":0,\"mac\":\"AAAA\"}\u{2028}\u{7f},\"epoch\":99999";
    let record = Record {
        who: Who {
            uid: 1000,
            command: Some(b"a\"\n\xff\x00\\,\"mac\":"),
            unit: Some(nasty),
            exe: Some(nasty),
            ..Who::default()
        },
        message: Some(nasty),
        statement: Some(nasty),
        parameters: &[
            ("note", Value::Text(nasty)),
            ("notes", Value::List(&[nasty, nasty])),
        ],
        ..read_of(1000, nasty)
    };
    let _ = log.append(&record).unwrap();
    // The one text that comes last before the MAC.
    let _ = log
        .append(&Record {
            via: ",\"epoch\":99999",
            ..record
        })
        .unwrap();
    let anchor = log.sync().unwrap();
    assert_eq!((anchor.seq, anchor.epoch), (3, 0));
    assert_eq!(place.lines(1).len(), 3);
    let entry = &place.entries()[1];
    assert_eq!((entry.uid(), entry.secret()), (Some(1000), Some(nasty)));
    assert_eq!(entry.text("unit"), Some(nasty));
    place.verify(Some(&anchor)).unwrap();
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let place = place();
    let anchor = twelve(&place);
    let mut lines = place.lines(1);
    lines[0] = lines[0].replace("\"format\":1,\"minReader\":1", "\"format\":3,\"minReader\":2");
    place.write(1, &lines);
    assert!(matches!(
        place.open(&anchor),
        Err(LogError::TooNew {
            format: 3,
            min_reader: 2,
            ..
        })
    ));
    assert!(matches!(
        place.verify(None),
        Err(VerifyError::TooNew {
            format: 3,
            min_reader: 2,
            ..
        })
    ));
}

#[test]
fn files_that_others_can_touch_are_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let place = place();
    let anchor = twelve(&place);
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for (path, good) in [(place.segment(1), 0o600), (place.dir.clone(), 0o700)] {
        for bad in [good | 0o040, good | 0o002] {
            mode(&path, bad);
            assert!(
                matches!(place.open(&anchor), Err(LogError::Unsafe { .. })),
                "{}",
                path.display()
            );
        }
        mode(&path, good);
    }
    let real = place.dir.join("real");
    std::fs::rename(place.segment(1), &real).unwrap();
    symlink(&real, place.segment(1)).unwrap();
    assert!(place.open(&anchor).is_err() && place.verify(None).is_err());
    std::fs::remove_file(place.segment(1)).unwrap();
    nix::unistd::mkfifo(&place.segment(1), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(place.open(&anchor).is_err() && place.verify(None).is_err());
    std::fs::remove_file(place.segment(1)).unwrap();
    std::fs::rename(&real, place.segment(1)).unwrap();
    place.open(&anchor).unwrap();
}

#[test]
fn a_giant_line_is_refused_without_reading_it_all() {
    let place = place();
    let anchor = twelve(&place);
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(place.segment(1))
        .unwrap();
    file.set_len(1 << 40).unwrap();
    let broken = place.broken(Some(&Anchor {
        offset: 0,
        ..anchor.clone()
    }));
    assert_eq!((broken.sequence, broken.kind), (14, BrokenKind::Edited));
    assert!(place.open(&anchor).is_err());
}
