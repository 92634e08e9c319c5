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
        let file = segment::open(&path, Mode::Read).unwrap();
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
