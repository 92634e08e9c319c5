//! Little space, and a uid that writes much.

use std::time::Duration;

use crate::id::Uid;

use super::*;

fn refusal(uid: u32, secret: &str) -> Record<'_> {
    Record {
        event: Event::OpenSecret,
        outcome: Outcome::Denied {
            reason: "implicit_deny",
        },
        ..read_of(uid, secret)
    }
}

/// A log whose file system counts as low below this many bytes.
fn log(place: &Place, low_space_bytes: u64) -> Log {
    place.create(Options {
        low_space_bytes,
        uid_bytes_per_second: 1024,
        ..one_segment()
    })
}

fn written(place: &Place) -> u64 {
    std::fs::metadata(place.segment(1)).unwrap().len()
}

#[test]
fn who_floods_waits_for_what_he_wrote_and_nobody_else_does() {
    let place = place();
    let log = log(&place, u64::MAX);
    // On the record whoever did it, in nobody's budget.
    for epoch in 1..200 {
        let _ = log
            .append(&Record {
                who: Who {
                    uid: 5,
                    ..Who::default()
                },
                ..change("app/db", epoch)
            })
            .unwrap();
    }
    assert_eq!(log.wait(Uid(5)), Duration::ZERO);
    let before = written(&place);
    for _ in 0..200 {
        let _ = log.append(&read_of(5, "app/db")).unwrap();
    }
    // Sixteen seconds' bytes are free.
    let seconds = (written(&place) - before) as f64 / 1024.0 - 16.0;
    let wait = log.wait(Uid(5)).as_secs_f64();
    assert!((wait / seconds - 1.0).abs() < 0.1, "{wait} s for {seconds} s");
    assert_eq!(log.wait(Uid(6)), Duration::ZERO);
    log.tick();
    assert!(log.wait(Uid(5)) > Duration::from_secs(5), "space is still low");
    // Refusals have a budget of their own.
    let waited = log.wait(Uid(6));
    for n in 0..500 {
        log.refuse(&refusal(6, &n.to_string())).unwrap();
    }
    assert_eq!((waited, log.wait(Uid(6))), (Duration::ZERO, Duration::ZERO));
}

#[test]
fn where_there_is_space_nobody_waits() {
    let place = place();
    let log = log(&place, 0);
    for _ in 0..200 {
        let _ = log.append(&read_of(5, "app/db")).unwrap();
    }
    log.tick();
    assert_eq!(log.wait(Uid(5)), Duration::ZERO);
}

#[test]
fn a_record_is_looked_for_in_every_segment_that_is_there() {
    let place = place();
    let log = place.create(small());
    let start = log.head();
    let body = change("app/db", 1).body();
    let mut last = log.head();
    while last.segment < 3 {
        let _ = log.append(&read_of(5, "app/db")).unwrap();
        last = log.head();
    }
    let _ = log.append_body(&body, None).unwrap();
    while last.segment < 5 {
        let _ = log.append(&read_of(5, "app/db")).unwrap();
        last = log.head();
    }
    assert!(log.contains_since(&start, body.event_id()).unwrap());
    assert!(
        !log.contains_since(&start, change("app/db", 1).body().event_id())
            .unwrap()
    );
    assert!(!log.contains_since(&last, body.event_id()).unwrap());
    // Old ones may be taken away, the newest may not.
    std::fs::remove_file(place.segment(2)).unwrap();
    assert!(log.contains_since(&start, body.event_id()).unwrap());
    std::fs::remove_file(place.segment(5)).unwrap();
    assert!(matches!(
        log.contains_since(&start, "no-such-id"),
        Err(LogError::Missing { .. })
    ));
}
