//! Questions to a log that is longer than a buffer.

use std::io::Write;

use super::*;
use crate::clock::Timestamp;

fn texts(entries: impl Iterator<Item = Result<Entry, LogError>>) -> Vec<String> {
    entries
        .map(|e| e.unwrap().text("eventID").unwrap().to_string())
        .collect()
}

#[test]
fn the_newest_are_the_end_of_all() {
    let place = place();
    let log = place.create(Options {
        segment_bytes: 300_000,
        ..one_segment()
    });
    // Shorter and longer than what is read at once.
    let long = format!(",\"x\":\"{}\"", "x".repeat(100_000));
    for i in 0..900 {
        let record = read_of(1000 + i % 3, "app/db");
        let _ = match i % 150 == 77 {
            true => log.append_body(&Body([&*record.body().0, long.as_bytes()].concat()), None),
            false => log.append(&record),
        }
        .unwrap();
    }
    assert!(log.head().segment > 2);
    let all = texts(query(&place.dir, &Query::default()));
    assert_eq!(all.len() as u64, log.head().seq);
    for limit in [1, 2, 77, 80, 300, 899, all.len(), all.len() + 1] {
        let newest = Query {
            limit: Some(limit),
            newest: true,
            ..Query::default()
        };
        let expected = &all[all.len().saturating_sub(limit)..];
        assert_eq!(texts(query(&place.dir, &newest)), expected, "{limit}");
        let of_one = Query {
            uid: Some(1001),
            ..newest
        };
        assert_eq!(query(&place.dir, &of_one).count(), limit.min(300), "{limit}");
    }
}

#[test]
fn times_are_from_the_first_and_before_the_last() {
    let place = place();
    let _anchor = twelve(&place);
    let entries = place.entries();
    let time = |i: usize| {
        let text = entries[i].text("eventTime").unwrap();
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_microsecond())
    };
    let times: Vec<Timestamp> = (0..entries.len()).map(time).collect();
    for (since, until) in [(0, 12), (3, 9), (5, 5)] {
        let query = Query {
            since: Some(times[since]),
            until: Some(times[until]),
            ..Query::default()
        };
        let within = times.iter().filter(|t| (times[since]..times[until]).contains(t));
        assert_eq!(
            super::query(&place.dir, &query).count(),
            within.count(),
            "{since} {until}"
        );
    }
}

#[test]
fn a_giant_line_is_an_error_and_what_follows_is_found() {
    let place = place();
    let anchor = twelve(&place);
    let append = |bytes: &[u8]| {
        let path = place.segment(anchor.segment);
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
    };
    let last = place.lines(1).pop().unwrap();
    append(&vec![b'x'; 3 << 20]);
    append(b"\n");
    let newest = Query {
        limit: Some(1),
        newest: true,
        ..Query::default()
    };
    let found: Vec<_> = query(&place.dir, &newest).collect();
    assert!(matches!(&found[..], [Err(LogError::Unreadable { .. })]));
    append(last.as_bytes());
    append(b"\n");
    let found: Vec<_> = query(&place.dir, &Query::default()).collect();
    // It is read in pieces of the longest line.
    let errors = found.iter().filter(|e| e.is_err()).count();
    assert_eq!((found.len(), errors), (13 + 4 + 1, 4));
    assert!(found.last().unwrap().is_ok());
    assert_eq!(texts(query(&place.dir, &newest)).len(), 1);
}
