//! Refusals without end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::*;

fn refusal<'a>(uid: u32, secret: &'a str, reason: &'static str) -> Record<'a> {
    Record {
        event: Event::OpenSecret,
        outcome: Outcome::Denied { reason },
        ..read_of(uid, secret)
    }
}

/// Refusals per uid on record: written one by one, and counted.
fn counts(place: &Place) -> HashMap<Option<u32>, (u64, u64)> {
    let mut counts = HashMap::new();
    for entry in place.entries() {
        let count: &mut (u64, u64) = counts.entry(entry.uid()).or_default();
        match entry.text("eventName") {
            Some("OpenSecret") => count.0 += 1,
            Some("RefusalsSuppressed") => count.1 += entry.value["suppressed"].as_u64().unwrap(),
            _ => {}
        }
    }
    counts
}

#[test]
fn the_first_ten_are_written_and_the_others_counted_exactly() {
    let place = place();
    let log = place.create(one_segment());
    for _ in 0..1234 {
        log.refuse(&refusal(1001, "app/db", "implicit_deny")).unwrap();
    }
    for _ in 0..11 {
        log.refuse(&refusal(1001, "app/db", "explicit_deny")).unwrap();
        log.refuse(&refusal(1002, "app/db", "implicit_deny")).unwrap();
    }
    log.tick();
    assert_eq!(counts(&place)[&Some(1001)], (20, 0), "no window is over yet");
    std::thread::sleep(Duration::from_millis(1050));
    log.tick();
    assert_eq!(counts(&place)[&Some(1001)], (20, 1225));
    assert_eq!(counts(&place)[&Some(1002)], (10, 1));
    let counted: Vec<_> = place
        .entries()
        .into_iter()
        .filter(|e| e.text("eventName") == Some("RefusalsSuppressed"))
        .collect();
    assert_eq!(counted.len(), 3);
    for entry in counted {
        assert_eq!(
            (entry.secret(), entry.text("refusedEvent"), entry.text("outcome")),
            (Some("app/db"), Some("OpenSecret"), Some("denied"))
        );
        assert!(entry.text("reason").is_some());
    }
    // Nothing is told twice.
    log.tick();
    drop(log);
    assert_eq!(counts(&place)[&Some(1001)], (20, 1225));
}

#[test]
fn the_next_refusal_of_a_kind_closes_its_window() {
    let place = place();
    let log = place.create(Options {
        refusal_window: Duration::from_millis(30),
        ..one_segment()
    });
    for _ in 0..15 {
        log.refuse(&refusal(1001, "a", "implicit_deny")).unwrap();
    }
    std::thread::sleep(Duration::from_millis(40));
    log.refuse(&refusal(1001, "a", "implicit_deny")).unwrap();
    assert_eq!(counts(&place)[&Some(1001)], (11, 5));
}

#[test]
fn an_overflowing_table_loses_no_count() {
    let place = place();
    let log = place.create(Options {
        refusal_kinds: 64,
        ..one_segment()
    });
    // One uid with very many names, then very many uids.
    let names: Vec<String> = (0..500).map(|i| format!("app/{i}")).collect();
    for name in &names {
        for _ in 0..3 {
            log.refuse(&refusal(1001, name, "implicit_deny")).unwrap();
        }
    }
    for uid in 2000..2300 {
        for _ in 0..20 {
            log.refuse(&refusal(uid, "app/db", "implicit_deny")).unwrap();
        }
    }
    // An allowed read is never suppressed, whatever goes on.
    for _ in 0..100 {
        let _ = log.append(&read_of(1001, "app/db")).unwrap();
    }
    let _ = log
        .append(&Record {
            event: Event::Shutdown,
            outcome: Outcome::Allowed,
            ..Record::default()
        })
        .unwrap();
    let anchor = log.sync().unwrap();
    place.verify(Some(&anchor)).unwrap();
    let counts = counts(&place);
    let (written, counted) = counts[&Some(1001)];
    assert_eq!(written + counted, 1500);
    assert_eq!(written, 12, "four kinds of one uid, three times each");
    let sum: u64 = counts
        .iter()
        .filter(|(uid, _)| **uid != Some(1001))
        .map(|(_, (w, c))| w + c)
        .sum();
    assert_eq!(sum, 300 * 20);
    assert!(counts[&None].1 > 0, "uids beyond the table are in one number");
    let entries = place.entries();
    assert_eq!(
        entries.last().unwrap().text("eventName"),
        Some("Shutdown"),
        "counts stand before the end"
    );
    assert_eq!(
        entries
            .iter()
            .filter(|e| e.text("eventName") == Some("GetSecretValue"))
            .count(),
        100
    );
}

#[test]
fn a_flood_of_new_names_is_bounded_too() {
    let place = place();
    let log = place.create(one_segment());
    let began = Instant::now();
    for i in 0..20_000 {
        log.refuse(&refusal(1001, &format!("no/such/{i}"), "implicit_deny"))
            .unwrap();
    }
    drop(log);
    assert!(began.elapsed() < Duration::from_secs(20));
    let (written, counted) = counts(&place)[&Some(1001)];
    assert_eq!(written + counted, 20_000);
    assert_eq!(written, 256);
}

#[test]
fn counts_outlive_a_log_that_fails() {
    let place = place();
    let log = place.create(Options {
        refusal_window: Duration::from_millis(20),
        ..one_segment()
    });
    for _ in 0..15 {
        log.refuse(&refusal(1001, "a", "implicit_deny")).unwrap();
    }
    super::failure::attribute("+i", &place.segment(1));
    std::thread::sleep(Duration::from_millis(30));
    let mut refused = 0;
    for i in 0..30 {
        refused += u64::from(log.refuse(&refusal(1001, "a", "implicit_deny")).is_err());
        refused += u64::from(
            log.refuse(&refusal(1001, &format!("b/{i}"), "implicit_deny"))
                .is_err(),
        );
        log.tick();
    }
    super::failure::attribute("-i", &place.segment(1));
    assert!(refused > 0);
    std::thread::sleep(Duration::from_millis(120));
    log.tick();
    log.tick();
    drop(log);
    let (written, counted) = counts(&place)[&Some(1001)];
    assert_eq!(written + counted, 15 + 60);
}
