//! Refusals without end. The log's clock stands, and is set ahead.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::*;

fn refusal<'a>(uid: u32, event: Event, secret: &'a str) -> Record<'a> {
    Record {
        event,
        outcome: Outcome::Denied {
            reason: "implicit_deny",
        },
        ..read_of(uid, secret)
    }
}

fn open(uid: u32, secret: &str) -> Record<'_> {
    refusal(uid, Event::OpenSecret, secret)
}

fn later(log: &Log, milliseconds: u64) {
    log.clock.1.fetch_add(milliseconds, Ordering::Relaxed);
}

fn size(place: &Place) -> u64 {
    std::fs::metadata(place.segment(1)).unwrap().len()
}

/// What is on record of refusals: records of each uid, what was counted, for each event and uid, and beyond them.
#[derive(Default, Debug, PartialEq)]
struct Told {
    written: HashMap<u32, u64>,
    counted: u64,
    events: HashMap<String, u64>,
    uids: HashMap<u32, u64>,
    others: u64,
    batches: u64,
}

fn told(place: &Place) -> Told {
    let mut told = Told::default();
    for entry in place.entries() {
        match (entry.text("eventName"), entry.text("outcome")) {
            (Some("RefusalsSuppressed"), _) => {
                let value = &entry.value;
                told.batches += 1;
                told.counted += value["suppressed"].as_u64().unwrap();
                for (event, n) in value["refusedEvents"].as_object().unwrap() {
                    *told.events.entry(event.clone()).or_default() += n.as_u64().unwrap();
                }
                for (uid, n) in value["refusedUids"].as_object().unwrap() {
                    *told.uids.entry(uid.parse().unwrap()).or_default() += n.as_u64().unwrap();
                }
                told.others += value["refusedOthers"].as_u64().unwrap_or(0);
            }
            (_, Some("denied" | "failed")) => *told.written.entry(entry.uid().unwrap()).or_default() += 1,
            _ => {}
        }
    }
    assert_eq!(told.counted, told.events.values().sum::<u64>());
    assert_eq!(told.counted, told.uids.values().sum::<u64>() + told.others);
    told
}

#[test]
fn the_first_ten_are_written_and_the_others_counted_exactly() {
    let place = place();
    let log = place.create(one_segment());
    for _ in 0..1234 {
        log.refuse(&open(1001, "app/db")).unwrap();
    }
    for _ in 0..11 {
        log.refuse(&refusal(1001, Event::DescribeSecret, "app/db"))
            .unwrap();
        log.refuse(&open(1002, "app/db")).unwrap();
    }
    log.tick();
    assert_eq!(told(&place).written, HashMap::from([(1001, 20), (1002, 10)]));
    assert_eq!(told(&place).batches, 0, "it is not time yet");
    later(&log, 1000);
    log.tick();
    let once = told(&place);
    assert_eq!(once.uids, HashMap::from([(1001, 1225), (1002, 1)]));
    let events = HashMap::from([
        ("OpenSecret".to_string(), 1225),
        ("DescribeSecret".to_string(), 1),
    ]);
    assert_eq!((&once.events, once.others, once.batches), (&events, 0, 1));
    // Nothing is told twice.
    later(&log, 10_000);
    log.tick();
    drop(log);
    assert_eq!(told(&place), once);
}

#[test]
fn whose_alone_a_count_is_has_its_uid_and_queries_find_it() {
    let place = place();
    let log = place.create(one_segment());
    let counted = |uids: &[u32]| {
        for _ in 0..12 {
            uids.iter()
                .for_each(|uid| log.refuse(&open(*uid, "app/db")).unwrap());
        }
        log.flush_refusals().unwrap();
        place.entries().pop().unwrap()
    };
    assert_eq!(counted(&[7]).uid(), Some(7));
    later(&log, 1000);
    let both = counted(&[7, 8]);
    assert_eq!((both.uid(), both.text("outcome")), (None, Some("denied")));
    let of = |uid| {
        let query = Query {
            uid: Some(uid),
            event: Some("RefusalsSuppressed".into()),
            denied: true,
            ..Query::default()
        };
        query_all(&place, &query)
    };
    assert_eq!([7, 8, 9].map(of), [2, 1, 0]);
}

fn query_all(place: &Place, wanted: &Query) -> usize {
    query(&place.dir, wanted).count()
}

/// Sixty seconds of `each`, a thousand times a second.
fn minute(log: &Log, mut each: impl FnMut(u64)) {
    for n in 0..60_000 {
        each(n);
        if n % 250 == 0 {
            later(log, 250);
            log.tick();
        }
    }
}

#[test]
fn a_minute_of_all_strangers_together_is_bounded_and_hides_nobody_elses() {
    let place = place();
    let log = place.create(one_segment());
    let names: Vec<String> = (0..20_000).map(|i| format!("{}/{i}", "n".repeat(200))).collect();
    let mut single = 0;
    minute(&log, |n| {
        // Twelve accounts, each name new in its minute, and all that can be refused.
        let (uid, name) = (2000 + (n % 12) as u32, &names[n as usize % names.len()]);
        let event = [Event::OpenSecret, Event::DescribeSecret, Event::PutSecretValue][n as usize % 3];
        log.refuse(&refusal(uid, event, name)).unwrap();
        log.refuse(&refusal(uid, Event::DeleteSecret, name)).unwrap();
        let damaged = Record {
            outcome: Outcome::Failed { reason: "integrity" },
            ..refusal(uid, Event::IntegrityError, name)
        };
        log.refuse(&damaged).unwrap();
        if n % 6000 == 5999 {
            single += 1;
            log.refuse(&open(1500 + single, "app/db")).unwrap();
            log.refuse(&refusal(1500 + single, Event::DeleteSecret, "app/db"))
                .unwrap();
        }
    });
    assert!(size(&place) <= 8 << 20, "{} bytes", size(&place));
    assert!(
        size(&place) > 3 << 20,
        "{} bytes: what there is room for is written",
        size(&place)
    );
    log.flush_refusals().unwrap();
    let told = told(&place);
    for uid in 1501..=1500 + single {
        assert_eq!(
            (told.written.get(&uid), told.uids.get(&uid)),
            (Some(&2), None),
            "{uid}"
        );
    }
    let all = told.written.values().sum::<u64>() + told.counted;
    assert_eq!(all, 3 * 60_000 + 2 * u64::from(single));
    for uid in 2000..2012 {
        assert_eq!(told.written[&uid] + told.uids[&uid], 3 * 5000, "{uid}");
    }
    assert!(told.batches <= 62, "{}", told.batches);
    drop(log);
    place.verify(None).unwrap();
}

#[test]
fn one_account_has_a_share() {
    let place = place();
    let log = place.create(one_segment());
    let names: Vec<String> = (0..40).map(|i| format!("app/{i}")).collect();
    // Ten of each name in a second would be far more than the share.
    let before = size(&place);
    minute(&log, |n| {
        log.refuse(&open(1001, &names[n as usize % 40])).unwrap()
    });
    // 128 KiB at once, and 8 KiB a second.
    let grown = size(&place) - before;
    assert!((400 << 10..700 << 10).contains(&grown), "{grown} bytes");
}

#[test]
fn refused_deletions_are_not_displaced_and_invented_names_are_one_kind() {
    let place = place();
    let log = place.create(one_segment());
    for n in 0..50_000 {
        log.refuse(&open(1001 + n % 16, &format!("app/{}", n / 16)))
            .unwrap();
    }
    let deletion = refusal(1001, Event::DeleteSecret, "app/1");
    log.refuse(&deletion).unwrap();
    let last = place.entries().pop().unwrap();
    assert_eq!(
        (last.text("eventName"), last.uid()),
        (Some("DeleteSecret"), Some(1001))
    );
    // Names that are not there.
    let before = size(&place);
    for n in 0..5000 {
        let name = format!("made/up/{n}");
        let record = refusal(3000, Event::CreateSecret, &name);
        let refused = Refused {
            secret: None,
            ..Refused::of(&record).unwrap()
        };
        if let Some(admitted) = log.admit(&refused) {
            admitted.write(&record).unwrap();
        }
    }
    assert!(size(&place) - before < 5000, "{}", size(&place) - before);
    // Leave that is not used is counted.
    drop(log.admit(&Refused::of(&refusal(4000, Event::OpenSecret, "x")).unwrap()));
    log.flush_refusals().unwrap();
    let told = told(&place);
    assert_eq!(told.written[&3000] + told.uids[&3000], 5000);
    assert_eq!((told.written.get(&4000), told.uids[&4000]), (None, 1));
}

#[test]
fn the_busiest_are_named_and_the_rest_is_one_number() {
    let place = place();
    let log = place.create(one_segment());
    // More accounts than are told apart, each with more than a first one; the later ones busier.
    let accounts = 17_000;
    for uid in 0..accounts {
        for _ in 0..if (15_000..16_000).contains(&uid) { 12 } else { 2 } {
            log.refuse(&open(uid, "app/db")).unwrap();
        }
    }
    let before = size(&place);
    log.flush_refusals().unwrap();
    assert!(size(&place) - before < 32 << 10, "{}", size(&place) - before);
    let told = told(&place);
    assert_eq!(told.uids.len(), 1024);
    assert!((15_000..16_000).all(|uid| told.uids[&uid] >= 11));
    let written: u64 = told.written.values().sum();
    assert_eq!(written + told.counted, 2 * u64::from(accounts) + 10 * 1000);
    // A batch that long is followed by none for a while.
    let batches_later = || {
        (0..20).for_each(|_| log.refuse(&open(1, "app/db")).unwrap());
        later(&log, 2000);
        log.tick();
        self::told(&place).batches
    };
    assert_eq!(batches_later(), 1);
    later(&log, 8000);
    assert_eq!(batches_later(), 2);
}

#[test]
fn while_space_is_low_firsts_alone_are_written_and_never_fill_the_disk() {
    let place = place();
    let log = place.create(Options {
        // Whatever the disk has: this is a thousand times as much.
        low_space_bytes: u64::MAX / 2,
        ..one_segment()
    });
    let names: Vec<String> = (0..5000).map(|i| format!("app/{i}")).collect();
    let before = size(&place);
    minute(&log, |n| {
        log.refuse(&open(1001 + n as u32 % 12, &names[n as usize % 5000]))
            .unwrap()
    });
    assert!(size(&place) - before < 16 << 10, "{}", size(&place) - before);
    drop(log);
    let told = told(&place);
    assert_eq!(told.written.values().sum::<u64>() + told.counted, 60_000);
}

#[test]
fn counts_outlive_a_log_that_fails() {
    let place = place();
    let log = place.create(one_segment());
    for _ in 0..15 {
        log.refuse(&open(1001, "a")).unwrap();
    }
    super::failure::attribute("+i", &place.segment(1));
    let mut refused = 0;
    for i in 0..30 {
        refused += u64::from(log.refuse(&open(1001, "a")).is_err());
        refused += u64::from(log.refuse(&open(1001, &format!("b/{i}"))).is_err());
        later(&log, 1000);
        log.tick();
    }
    super::failure::attribute("-i", &place.segment(1));
    assert!(refused > 0);
    // The writer tries again each 100 ms.
    std::thread::sleep(std::time::Duration::from_millis(120));
    log.tick();
    // What could not be written is the first of its kind again.
    log.refuse(&open(1001, "b/29")).unwrap();
    assert_eq!(place.entries().pop().unwrap().secret(), Some("b/29"));
    drop(log);
    let told = told(&place);
    assert_eq!(told.written[&1001] + told.counted, 15 + 61);
}

#[test]
fn groups_are_the_first_and_a_digest_of_all() {
    let place = place();
    let log = place.create(one_segment());
    let groups: Vec<crate::id::Gid> = (0..65_536).map(crate::id::Gid).collect();
    for n in [32, 33, 65_536] {
        let record = Record {
            who: Who {
                groups: Some(&groups[..n]),
                ..read_of(1, "a").who
            },
            ..read_of(1, "a")
        };
        let before = size(&place);
        let _ = log.append(&record).unwrap();
        assert!(size(&place) - before < 1024, "{n}");
        let value = place.entries().pop().unwrap().value;
        assert_eq!(value["groups"].as_array().unwrap().len(), 32);
        assert_eq!(value["groupsTotal"].as_u64(), Some(n as u64).filter(|n| *n > 32));
        if n == 65_536 {
            // perl -e 'print pack "N*", 0..65535' | sha256sum
            assert_eq!(value["groupsSha256"], DIGEST);
        }
    }
}

const DIGEST: &str = "91facb724b2bc1cd49df010cfbd1207d107f0c6b9c3935b5ecef8ba87cd015f9";
