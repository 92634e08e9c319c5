//! What opening the log looks at.

use super::chain::SegmentKey;
use super::segment::{Header, Mode};
use super::*;

#[test]
fn the_anchored_record_proves_itself_wherever_it_stands() {
    let place = place();
    let log = place.create(small());
    let long = "x".repeat(6000);
    let messages = ["", &long, "", "", &long, &long, ""];
    let mut anchors = vec![log.sync().unwrap()];
    for (i, message) in messages.iter().cycle().take(40).enumerate() {
        let _ = log
            .append(&Record {
                message: Some(message),
                ..change("app/db", i as u64)
            })
            .unwrap();
        anchors.push(log.sync().unwrap());
    }
    let proven = |anchor: &Anchor| {
        let path = place.segment(anchor.segment);
        let file = Folder::at(&place.dir)
            .unwrap()
            .segment(anchor.segment, Mode::Read)
            .unwrap();
        let header = Header::read(&path, &file).unwrap().unwrap();
        let key = SegmentKey::derive(&key(), STORE, anchor.segment).unwrap();
        open::proven(&path, &file, &header, &key, anchor).unwrap()
    };
    // The first records of segments are among them.
    let mut segments: Vec<u64> = anchors.iter().map(|a| a.segment).collect();
    segments.dedup();
    assert!(segments.len() > 10, "{segments:?}");
    for anchor in &anchors {
        assert!(proven(anchor), "{anchor:?}");
        for wrong in [
            Anchor {
                seq: anchor.seq + 1,
                ..anchor.clone()
            },
            Anchor {
                head: anchors[0].head.map(|b| !b),
                ..anchor.clone()
            },
            Anchor {
                offset: anchor.offset - 1,
                ..anchor.clone()
            },
        ] {
            assert!(!proven(&wrong), "{wrong:?}");
        }
    }
}

/// Two futures of one log, in segments of their own; each file is genuine, and they do not fit together.
#[test]
fn a_segment_goes_on_where_the_one_before_it_ended() {
    let (one, other) = (place(), place());
    let anchor = twelve(&one);
    copy_dir(&one.dir, &other.dir);
    // The one writes three records more and then a second segment, the other a second segment at once.
    let log = one.open(&anchor).unwrap();
    for i in 0..3 {
        let _ = log.append(&change("app/db", 20 + i)).unwrap();
    }
    let later = log.sync().unwrap();
    drop(log);
    for (place, anchor) in [(&one, &later), (&other, &anchor)] {
        let log = Log::open(&place.dir, STORE, key(), small(), anchor).unwrap();
        let _ = log.append(&change("app/db", 30)).unwrap();
        assert_eq!(log.sync().unwrap().segment, 2);
    }
    one.verify(None).unwrap();
    other.verify(None).unwrap();
    let second = |from: &Place| std::fs::read(from.segment(2)).unwrap();
    let (ones, others) = (second(&one), second(&other));
    // Records stand between the two.
    std::fs::write(one.segment(2), &others).unwrap();
    let broken = one.broken(None);
    assert_eq!(
        (broken.kind, broken.sequence, &broken.segment),
        (BrokenKind::Inserted, 14, &one.segment(1)),
        "{broken}"
    );
    assert!(matches!(one.open(&anchor), Err(LogError::Broken(b)) if b == broken));
    // Records between the two are missing.
    std::fs::write(other.segment(2), &ones).unwrap();
    let broken = other.broken(None);
    assert_eq!(
        (broken.kind, broken.sequence, &broken.segment),
        (BrokenKind::Truncated, 14, &other.segment(1)),
        "{broken}"
    );
    assert!(matches!(other.open(&anchor), Err(LogError::Broken(b)) if b == broken));
}

/// Bytes of the first line of a segment.
fn header_of(place: &Place, number: u64) -> usize {
    std::fs::read(place.segment(number))
        .unwrap()
        .iter()
        .position(|&b| b == b'\n')
        .unwrap()
}

#[test]
fn only_a_last_segment_that_nothing_is_known_of_may_end_in_its_header() {
    let place = place();
    let log = place.create(small());
    let mut before = log.sync().unwrap();
    let after = loop {
        let _ = log.append(&change("app/db", 1)).unwrap();
        let now = log.sync().unwrap();
        if now.segment == 3 {
            break now;
        }
        before = now;
    };
    drop(log);
    let cut = |number| {
        let original = std::fs::read(place.segment(number)).unwrap();
        std::fs::write(place.segment(number), &original[..header_of(&place, number) / 2]).unwrap();
        original
    };
    // Nothing of it was ever anchored: a crash while it was begun.
    let third = cut(3);
    assert_eq!(place.verify(Some(&before)).unwrap().last, before.seq);
    assert_eq!(place.verify(None).unwrap().last, before.seq);
    // The store knows of a record in it.
    let broken = place.broken(Some(&after));
    assert_eq!(
        (broken.kind, broken.sequence),
        (BrokenKind::Truncated, before.seq + 1)
    );
    // It is not the last one.
    std::fs::write(place.segment(3), third).unwrap();
    let ends = place
        .entries()
        .iter()
        .filter(|e| e.text("eventName") == Some("SegmentStarted"))
        .count();
    assert_eq!(ends, 3);
    let first = place.lines(1).len() as u64;
    let second = cut(2);
    for anchor in [None, Some(&after)] {
        let broken = place.broken(anchor);
        assert_eq!((broken.kind, broken.sequence), (BrokenKind::Truncated, first + 1));
    }
    // Nor is it taken away when the log is opened.
    let anew = place.open(&Anchor::genesis(STORE));
    assert!(matches!(anew, Err(LogError::Broken(b)) if b.kind == BrokenKind::Torn));
    assert!(place.segment(2).exists());
    // Those before the oldest that the store keeps are not missed.
    std::fs::write(place.segment(2), &second).unwrap();
    super::tamper::restore_private(&place.segment(2));
    let oldest = Anchor {
        oldest_segment: 2,
        ..after.clone()
    };
    let begun = std::fs::read(place.segment(1)).unwrap();
    std::fs::remove_file(place.segment(1)).unwrap();
    let verified = place.verify(Some(&oldest)).unwrap();
    assert_eq!(
        (verified.first, verified.last, verified.records, verified.segments),
        (first + 1, after.seq, after.seq - first, 2)
    );
    let broken = place.broken(Some(&after));
    assert_eq!((broken.kind, broken.sequence), (BrokenKind::Missing, 1));
    std::fs::write(place.segment(1), begun).unwrap();
    super::tamper::restore_private(&place.segment(1));
    // It is missing.
    std::fs::remove_file(place.segment(2)).unwrap();
    let broken = place.broken(Some(&after));
    assert_eq!((broken.kind, broken.sequence), (BrokenKind::Missing, first + 1));
    // The one before ends in an unfinished line.
    std::fs::write(place.segment(2), second).unwrap();
    super::tamper::restore_private(&place.segment(2));
    place.verify(Some(&after)).unwrap();
    let mut torn = std::fs::read(place.segment(1)).unwrap();
    torn.extend_from_slice(b"{\"seq\":");
    std::fs::write(place.segment(1), torn).unwrap();
    let broken = place.broken(Some(&after));
    assert_eq!((broken.kind, broken.sequence), (BrokenKind::Torn, first + 1));
    let anchor = Anchor::genesis(STORE);
    assert!(matches!(place.open(&anchor), Err(LogError::Broken(b)) if b == broken));
}

#[test]
fn the_first_segment_is_never_one_that_was_only_begun() {
    let place = place();
    drop(place.create(one_segment()));
    let text = std::fs::read(place.segment(1)).unwrap();
    std::fs::write(place.segment(1), &text[..text.len() / 2]).unwrap();
    assert_eq!(place.broken(None).kind, BrokenKind::Truncated);
    let anew = place.open(&Anchor::genesis(STORE));
    assert!(matches!(anew, Err(LogError::Broken(b)) if b.kind == BrokenKind::Torn));
    assert!(place.segment(1).exists());
}

#[test]
fn a_header_that_nobody_wrote_is_refused_before_it_is_believed() {
    let place = place();
    let anchor = twelve(&place);
    let lines = place.lines(1);
    let field = |text: &str| {
        let from = text.find("\"previousHead\":\"").unwrap() + 16;
        (from, from + text[from..].find('"').unwrap())
    };
    let (from, to) = field(&lines[0]);
    for forged in ["", "AAAA", &"A".repeat(64), "no base64 at all!"] {
        let mut changed = lines.clone();
        changed[0].replace_range(from..to, forged);
        place.write(1, &changed);
        assert!(
            place.verify(None).is_err() && place.open(&anchor).is_err(),
            "{forged}"
        );
        assert_eq!(place.broken(None).kind, BrokenKind::Edited, "{forged}");
    }
}

#[test]
fn what_stands_in_a_logs_place_is_named() {
    use std::os::unix::fs::symlink;
    let place = place();
    let anchor = twelve(&place);
    let aside = place.dir.with_file_name("aside");
    let why = |result: Result<Log, LogError>| match result {
        Err(LogError::Unsafe { why, .. }) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    };
    std::fs::rename(&place.dir, &aside).unwrap();
    symlink(&aside, &place.dir).unwrap();
    assert!(why(place.open(&anchor)).contains("it is a link, or no directory"));
    std::fs::remove_file(&place.dir).unwrap();
    std::fs::write(&place.dir, b"").unwrap();
    assert!(why(place.open(&anchor)).contains("it is a link, or no directory"));
    std::fs::remove_file(&place.dir).unwrap();
    std::fs::rename(&aside, &place.dir).unwrap();
    std::fs::rename(place.segment(1), &aside).unwrap();
    symlink(&aside, place.segment(1)).unwrap();
    assert_eq!(why(place.open(&anchor)), "it is a symbolic link");
    std::fs::remove_file(place.segment(1)).unwrap();
    std::fs::rename(&aside, place.segment(1)).unwrap();
    // Another user's, to whom this process is no root, but its own owner.
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(place.segment(1), Some(61001), None).unwrap();
        assert_eq!(why(place.open(&anchor)), "it belongs to another user");
        std::os::unix::fs::chown(place.segment(1), Some(0), None).unwrap();
    }
    place.open(&anchor).unwrap();
    // A directory cannot be made where its parent is not.
    let nowhere = place.dir.join("no/where");
    let made = Log::create(&nowhere, STORE, key(), one_segment());
    assert!(matches!(made.err(), Some(LogError::Io { .. })));
}
