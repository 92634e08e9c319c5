//! Archiving, and asking piece by piece.

use super::*;
use crate::audit::page::{Item, Page, Place as At, back, page};
use crate::clock::Timestamp;

/// A log of several segments, and where it stands.
fn segments(place: &Place) -> (Log, Anchor) {
    let log = place.create(small());
    for i in 0..40 {
        let _ = log.append(&read_of(1000 + i % 3, "app/db")).unwrap();
    }
    let anchor = log.sync().unwrap();
    assert!(anchor.segment > 4);
    (log, anchor)
}

fn finished(log: &Log, wanted: Wanted) -> Vec<u64> {
    let found = log.finished(wanted, &mut |_| {}).unwrap();
    found.iter().map(|f| f.segment).collect()
}

#[test]
fn the_last_segment_and_what_is_young_is_never_archived() {
    let place = place();
    let (log, anchor) = segments(&place);
    let all: Vec<u64> = (1..anchor.segment).collect();
    assert_eq!(finished(&log, Wanted::Before(Timestamp::LAST)), all);
    assert_eq!(finished(&log, Wanted::Through(u64::MAX)), all);
    assert_eq!(finished(&log, Wanted::Through(2)), [1, 2]);
    assert_eq!(finished(&log, Wanted::Before(Timestamp(0))), [0u64; 0]);
    // A moment within the third segment, and the very moment of a record.
    let time = |line: &str| {
        let entry = Entry::parse(line.as_bytes()).unwrap();
        let time: jiff::Timestamp = entry.text("eventTime").unwrap().parse().unwrap();
        time.as_microsecond()
    };
    let last_of = |n| time(place.lines(n).last().unwrap());
    assert_eq!(finished(&log, Wanted::Before(Timestamp(last_of(3)))), [1, 2]);
    let after = Timestamp(last_of(3) + 1);
    assert_eq!(finished(&log, Wanted::Before(after)), [1, 2, 3]);
    let found = log.finished(Wanted::Through(3), &mut |_| {}).unwrap();
    for f in &found {
        let lines = place.lines(f.segment);
        let [first, last] = [&lines[0], lines.last().unwrap()].map(|l| Entry::parse(l.as_bytes()).unwrap());
        assert_eq!((f.first, f.last), (first.seq(), last.seq()));
        assert_eq!(Some(head_text(&f.head).as_str()), last.text("mac"));
        assert_eq!(Some(f.latest.as_str()), last.text("eventTime"));
    }
}

#[test]
fn what_is_not_in_order_is_not_archived() {
    let place = place();
    let (log, _) = segments(&place);
    let whole = place.lines(2);
    let mut edited = whole.clone();
    edited[2] = edited[2].replace("app/db", "app/dc");
    let cut = whole[..whole.len() - 1].to_vec();
    for lines in [edited, cut, place.lines(3), vec![]] {
        place.write(2, &lines);
        let broken = log.finished(Wanted::Through(2), &mut |_| {});
        assert!(matches!(broken, Err(VerifyError::Broken(_))), "{broken:?}");
    }
    place.write(2, &whole);
    // Nothing behind a gap.
    std::fs::rename(place.segment(2), place.dir.join("aside")).unwrap();
    let broken = log.finished(Wanted::Through(3), &mut |_| {});
    assert!(matches!(broken, Err(VerifyError::Broken(_))), "{broken:?}");
}

/// As the store seals it.
fn sealed(anchor: &Anchor, last: &Finished) -> Anchor {
    Anchor {
        oldest_segment: last.segment + 1,
        archived: Some(last.archived()),
        ..anchor.clone()
    }
}

#[test]
fn the_rest_is_proven_from_the_head_of_what_was_archived() {
    let place = place();
    let (log, anchor) = segments(&place);
    let found = log.finished(Wanted::Through(2), &mut |_| {}).unwrap();
    let behind = sealed(&anchor, &found[1]);
    // Sealed and not yet removed, or half: each way it verifies.
    log.begin_behind(&behind);
    let kept = std::fs::read(place.segment(2)).unwrap();
    for (gone, first) in [(&[][..], 1), (&[1], found[1].first), (&[2], found[1].last + 1)] {
        log.remove_archived(gone).unwrap();
        let verified = place.verify(Some(&behind)).unwrap();
        assert_eq!((verified.first, verified.archived), (first, behind.archived));
        assert_eq!(verified.oldest, 1 + gone.iter().sum::<u64>());
    }
    // What is not behind the beginning is not removed, whatever is named.
    log.remove_archived(&[3, 4, 99]).unwrap();
    assert!(place.segment(3).exists() && place.segment(4).exists());
    assert_eq!(log.head().archived, behind.archived);
    // It goes on, and is opened from there.
    drop(log);
    let anchor = {
        let log = place.open(&behind).unwrap();
        let _ = log.append(&read_of(1, "app/db")).unwrap();
        log.sync().unwrap()
    };
    assert_eq!((anchor.oldest_segment, anchor.archived), (3, behind.archived));
    place.verify(Some(&anchor)).unwrap();
    // Another head, as if something else had been archived; a header says it where the store does not.
    let mut other = anchor.clone();
    other.archived.as_mut().unwrap().head[0] ^= 1;
    assert_eq!(place.broken(Some(&other)).kind, BrokenKind::Replaced);
    let unsaid = Anchor {
        archived: None,
        ..anchor.clone()
    };
    assert_eq!(place.verify(Some(&unsaid)).unwrap().archived, behind.archived);
    // One more is gone.
    let third = std::fs::read(place.segment(3)).unwrap();
    std::fs::remove_file(place.segment(3)).unwrap();
    assert_eq!(place.broken(Some(&anchor)).kind, BrokenKind::Missing);
    // Nobody who has no key begins the log later: the store does not say so.
    assert_eq!(place.broken(None).kind, BrokenKind::Missing);
    std::fs::write(place.segment(3), third).unwrap();
    super::tamper::restore_private(&place.segment(3));
    // What is put back is what it was, or found.
    std::fs::write(place.segment(2), &kept).unwrap();
    super::tamper::restore_private(&place.segment(2));
    place.verify(Some(&anchor)).unwrap();
    std::fs::write(place.segment(2), &kept[..kept.len() / 2]).unwrap();
    place.broken(Some(&anchor));
}

fn all_pages(place: &Place, query: &Query, mut from: Option<At>) -> (Vec<String>, usize) {
    let (mut lines, mut pages) = (Vec::new(), 0);
    loop {
        let found: Page = page(&place.dir, query, from, &mut || true).unwrap();
        pages += 1;
        lines.extend(found.items.into_iter().map(|item| match item {
            Item::Record(line) => line,
            Item::Unreadable(why) => panic!("{why}"),
        }));
        from = Some(found.place);
        if found.end {
            return (lines, pages);
        }
    }
}

#[test]
fn pieces_are_the_whole() {
    let place = place();
    let (_log, anchor) = segments(&place);
    for uid in [None, Some(1001), Some(5)] {
        let wanted = Query {
            uid,
            ..Query::default()
        };
        let whole: Vec<String> = query(&place.dir, &wanted).map(|e| e.unwrap().line).collect();
        let (lines, pages) = all_pages(&place, &wanted, None);
        assert_eq!(lines, whole);
        assert!(pages > 2, "{pages}");
        for n in [0, 1, 2, 7, whole.len(), whole.len() + 1] {
            let (mut from, mut left) = (None, n);
            loop {
                let found = back(&place.dir, &wanted, from, left, &mut || true).unwrap();
                (from, left) = (Some(found.place), left - found.found);
                if left == 0 || found.end {
                    break;
                }
            }
            let (lines, _) = all_pages(&place, &wanted, from);
            assert_eq!(lines, whole[whole.len().saturating_sub(n)..], "{uid:?} {n}");
        }
    }
    // Who does not wait any more is not worked for.
    let found = page(&place.dir, &Query::default(), None, &mut || false).unwrap();
    assert_eq!((found.items.len(), found.end), (0, false));
    // No place but where a record begins, or where the next one will.
    let end = At {
        segment: anchor.segment,
        offset: anchor.offset,
    };
    let found = page(&place.dir, &Query::default(), Some(end), &mut || true).unwrap();
    assert_eq!((found.items.len(), found.end, found.place), (0, true, end));
    for (segment, offset) in [
        (1, 1),
        (1, u64::MAX),
        (anchor.segment, anchor.offset + 1),
        (u64::MAX, 0),
    ] {
        let nowhere = page(
            &place.dir,
            &Query::default(),
            Some(At { segment, offset }),
            &mut || true,
        );
        assert!(matches!(nowhere, Err(LogError::Unreadable { .. })), "{nowhere:?}");
    }
}
