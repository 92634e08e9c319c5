//! What the log is for, and what its neighbours rely on.

use std::sync::Arc;

use crate::id::{Epoch, Label};

use super::*;

#[test]
fn a_record_has_its_fields_where_they_belong() {
    let place = place();
    let log = place.create(one_segment());
    let labels = [Label::current(), Label::pending()];
    let record = Record {
        event: Event::GetSecretValue,
        outcome: Outcome::Allowed,
        who: Who {
            uid: 1000,
            gid: 1001,
            groups: Some(&[crate::id::Gid(4), crate::id::Gid(24)]),
            pid: Some(10),
            tid: Some(11),
            start_time: Some(12345),
            command: Some(b"a-command-name-beyond-sixteen"),
            unit: Some("app.service"),
            login_uid: Some(1000),
            exe: Some("/usr/bin/app"),
        },
        secret: Some("app/db"),
        version: Some("0123456789abcdef0123456789abcdef"),
        labels: &labels,
        handle: Some(7),
        offset: Some(0),
        length: Some(32),
        layer: Some("secret"),
        statement: Some("Readers"),
        epoch: Some(9),
        parameters: &[("note", Value::Text("n")), ("flag", Value::Flag(true))],
        message: Some("m"),
        via: "mount",
        ..Record::default()
    };
    assert_eq!(log.append(&record).unwrap().seq(), 2);
    let short = Record {
        identity: Identity::Short,
        ..read_of(1000, "app/db")
    };
    let _ = log
        .append(&Record {
            secret: None,
            handle: Some(7),
            offset: Some(32),
            length: Some(4),
            ..short
        })
        .unwrap();
    let _ = log
        .append(&Record {
            outcome: Outcome::Denied {
                reason: "implicit_deny",
            },
            ..read_of(5, "x")
        })
        .unwrap();
    let entries = place.entries();
    let mut value = entries[1].value.clone();
    for name in ["eventTime", "eventID", "mac"] {
        assert!(value.as_object_mut().unwrap().remove(name).unwrap().is_string());
    }
    assert_eq!(
        value,
        serde_json::json!({
            "seq": 2, "eventName": "GetSecretValue", "eventSource": "wardfs",
            "uid": 1000, "gid": 1001, "groups": [4, 24], "pid": 10, "tid": 11, "startTime": 12345,
            "command": "a-command-name-b", "unit": "app.service", "loginUid": 1000, "exe": "/usr/bin/app",
            "requestParameters": {
                "secretId": "app/db", "versionId": "0123456789abcdef0123456789abcdef",
                "versionStage": ["current", "pending"], "handle": 7, "offset": 0, "length": 32,
                "note": "n", "flag": true
            },
            "outcome": "allowed", "layer": "secret", "statement": "Readers", "message": "m", "via": "mount", "epoch": 9
        })
    );
    assert!(entries[2].value.get("gid").is_none() && entries[2].value.get("epoch").is_none());
    assert_eq!(
        entries[2].value["requestParameters"],
        serde_json::json!({"handle": 7, "offset": 32, "length": 4})
    );
    assert_eq!(
        (
            entries[3].text("outcome"),
            entries[3].text("errorCode"),
            entries[3].text("reason")
        ),
        (Some("denied"), Some("AccessDenied"), Some("implicit_deny"))
    );
    let ids: std::collections::HashSet<_> = entries
        .iter()
        .map(|e| e.text("eventID").unwrap().to_string())
        .collect();
    assert_eq!(ids.len(), 4);
    assert!(ids.iter().all(|id| uuid::Uuid::parse_str(id).is_ok()));
}

#[test]
fn threads_share_one_chain_without_a_gap() {
    let place = place();
    let log = Arc::new(place.create(Options {
        segment_bytes: 100_000,
        ..one_segment()
    }));
    let threads: Vec<_> = (0..8)
        .map(|uid| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                let mut seqs = Vec::new();
                for _ in 0..500 {
                    seqs.push(log.append(&read_of(uid, "app/db")).unwrap().seq());
                }
                seqs
            })
        })
        .collect();
    // Somebody syncs meanwhile, and every anchor holds.
    let anchors: Vec<_> = (0..20).map(|_| log.sync().unwrap()).collect();
    let mut seqs: Vec<u64> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    let all: Vec<u64> = place.entries().iter().map(Entry::seq).collect();
    let anchor = log.sync().unwrap();
    assert_eq!(all, (1..=anchor.seq).collect::<Vec<_>>());
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 4000);
    for anchor in anchors.iter().chain([&anchor]) {
        place.verify(Some(anchor)).unwrap();
    }
    drop(log);
    for old in &anchors {
        assert_eq!(place.open(old).unwrap().head(), anchor);
    }
}

#[test]
fn an_anchor_comes_back_from_the_store() {
    let place = place();
    let anchor = twelve(&place);
    assert_eq!(
        (anchor.seq, anchor.epoch, anchor.segment, anchor.oldest_segment),
        (13, 12, 1, 1)
    );
    let text = serde_json::to_string(&anchor).unwrap();
    assert_eq!(serde_json::from_str::<Anchor>(&text).unwrap(), anchor);
    assert_eq!(place.open(&anchor).unwrap().last_epoch(), 12);
    assert_eq!(place.open(&Anchor::genesis(STORE)).unwrap().last_epoch(), 12);
    assert!(matches!(
        Log::create(&place.dir, STORE, key(), one_segment()),
        Err(LogError::Exists { .. })
    ));
}

#[test]
fn an_outbox_replayed_appends_once() {
    let place = place();
    let anchor = twelve(&place);
    let body = change("app/db", 13).body();
    assert_eq!(body.event_id().len(), 36);
    for _ in 0..3 {
        let log = place.open(&anchor).unwrap();
        if !log.contains_since(&anchor, body.event_id()).unwrap() {
            let _ = log.append_body(&body, Some(Epoch(14))).unwrap();
        }
    }
    let log = place.open(&anchor).unwrap();
    assert!(log.contains_since(&anchor, body.event_id()).unwrap());
    assert!(!log.contains_since(&log.head(), body.event_id()).unwrap());
    let found: Vec<_> = place
        .entries()
        .into_iter()
        .filter(|e| e.text("eventID") == Some(body.event_id()))
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].value["epoch"].as_u64(), log.last_epoch()),
        (Some(14), 14),
        "the given epoch is the one"
    );
    let _ = log.append_body(&change("app/db", 15).body(), None).unwrap();
    assert_eq!(log.last_epoch(), 15);
    place.verify(Some(&log.sync().unwrap())).unwrap();
}

#[test]
fn only_a_body_can_be_appended_as_one() {
    let place = place();
    let log = place.create(one_segment());
    let good = change("a", 1).body().0;
    let with = |tail: &[u8]| Body([good.as_slice(), tail].concat());
    for bad in [
        Body(Vec::new()),
        Body(b"\"eventName\":\"x\"".to_vec()),
        with(b"}\n{\"seq\":9"),
        with(b"\n"),
        with(b"}"),
        with(b","),
        with(b",\"x\":\"unfinished"),
        Body(good[..good.len() - 3].to_vec()),
    ] {
        if bad.0 != good {
            let refused = log.append_body(&bad, None);
            assert!(
                matches!(refused, Err(LogError::Unfit(_))) || bad.0.ends_with(b"\"epo"),
                "{bad:?}"
            );
        }
    }
    let long = with(format!(",\"x\":\"{}\"", "x".repeat(chain::MAX_FIELDS - good.len())).as_bytes());
    assert!(matches!(long.fit(), Err(LogError::Unfit(_))));
    assert!(matches!(log.append_body(&long, None), Err(LogError::Unfit(_))));
    assert_eq!(log.head().seq, 1);
    log.healthy().unwrap();
    // What stands for it keeps its time and id.
    let short = long.writable().into_owned();
    assert_eq!(short.event_id(), long.event_id());
    assert_eq!(short.0[..80], long.0[..80]);
    let _ = log.append_body(&short, Some(Epoch(7))).unwrap();
    let entries = place.entries();
    let last = &entries.last().unwrap().value;
    assert_eq!(last["eventName"], "PutSecretValue");
    assert_eq!(last["requestParameters"]["secretId"], "a");
    assert_eq!(last["requestParameters"]["recordBytes"], long.0.len());
    assert_eq!((&last["via"], &last["epoch"]), (&"control".into(), &7.into()));
    // And of what is no body at all, one that is appended once.
    let none = Body(b"\"no".to_vec());
    assert_eq!(none.writable().event_id(), none.writable().event_id());
    let _ = log.append_body(&none.writable(), None).unwrap();
    place.verify(None).unwrap();
}

/// Text of characters that grow when they are escaped, and of others.
fn texts() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let char = prop_oneof![
        Just('a'),
        Just('"'),
        Just('\n'),
        Just('\u{7f}'),
        Just('é'),
        Just('漢'),
        Just('🦀'),
        Just('\u{E0041}'),
    ];
    let part = (
        char,
        prop_oneof![0..40usize, 900..1100usize, 4000..4200usize, 0..60_000usize],
    );
    proptest::collection::vec(part, 0..3)
        .prop_map(|parts| parts.into_iter().map(|(c, n)| c.to_string().repeat(n)).collect())
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_a_record_is_filled_with_it_makes_a_line(
        texts in proptest::collection::vec(texts(), 1..8),
        (items, times) in (0..2000usize, 1..12usize),
    ) {
        let text = |i: usize| texts[i % texts.len()].as_str();
        let list: Vec<String> = (0..items).map(|i| text(i).chars().take(2000).collect()).collect();
        let short: Vec<&str> = list.iter().map(String::as_str).collect();
        let changed: Vec<_> = (0..items).map(|i| Changed {
            name: list[i].clone(),
            old: (i % 3 > 0).then(|| list[i].clone()),
            new: (i % 2 > 0).then(|| list[i].clone()),
        }).collect();
        let some = [
            ("gained", Value::Texts(&list)),
            ("lost", Value::List(&short)),
            ("tags", Value::Tags(&changed)),
            ("text", Value::Text(text(0))),
            ("labels", Value::Labels(&changed)),
        ];
        let parameters: Vec<_> = some.iter().copied().cycle().take(some.len() * times).collect();
        let groups: Vec<_> = (0..items as u32).map(|i| crate::id::Gid(u32::MAX - i)).collect();
        let record = Record {
            who: Who { groups: Some(&groups), unit: Some(text(1)), exe: Some(text(2)), ..Who::default() },
            secret: Some(text(3)),
            version: Some(text(4)),
            statement: Some(text(5)),
            message: Some(text(6)),
            parameters: &parameters,
            epoch: Some(u64::MAX),
            via: "control",
            ..Record::default()
        };
        let body = record.body();
        body.fit().unwrap_or_else(|e| panic!("{} bytes: {e}", body.0.len()));
        // What is short stays whole.
        if text(0).len() <= 100 && items < 10 && times == 1 && text(0).is_ascii() {
            let object: serde_json::Value = serde_json::from_slice(&[b"{", &*body.0, b"}"].concat()).unwrap();
            assert_eq!(object["requestParameters"]["text"], text(0));
        }
    }
}

#[test]
fn the_log_can_be_asked() {
    let place = place();
    let log = place.create(small());
    let mut follower = Follower::new(&place.dir).unwrap();
    assert!(follower.read().unwrap().is_none());
    for i in 0..30u32 {
        let _ = log
            .append(&read_of(1000 + i % 3, if i % 2 == 0 { "a" } else { "b" }))
            .unwrap();
    }
    log.refuse(&Record {
        outcome: Outcome::Denied {
            reason: "implicit_deny",
        },
        ..read_of(1, "a")
    })
    .unwrap();
    let find = |q: Query| query(&place.dir, &q).map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(
        find(Query {
            uid: Some(1000),
            ..Query::default()
        })
        .len(),
        10
    );
    assert_eq!(
        find(Query {
            secret: Some("b".into()),
            event: Some("GetSecretValue".into()),
            ..Query::default()
        })
        .len(),
        15
    );
    assert_eq!(
        find(Query {
            denied: true,
            ..Query::default()
        })
        .len(),
        1
    );
    assert_eq!(
        find(Query {
            outcome: Some("allowed".into()),
            uid: Some(1),
            ..Query::default()
        })
        .len(),
        0
    );
    let now = crate::clock::Timestamp::now();
    assert_eq!(
        find(Query {
            since: Some(now),
            ..Query::default()
        })
        .len(),
        0
    );
    let all = find(Query {
        until: Some(now),
        ..Query::default()
    });
    assert_eq!(all.len() as u64, log.head().seq);
    let newest = find(Query {
        limit: Some(4),
        newest: true,
        uid: Some(1001),
        ..Query::default()
    });
    let expected: Vec<_> = all.iter().filter(|e| e.uid() == Some(1001)).cloned().collect();
    assert_eq!(newest, expected[expected.len() - 4..]);
    assert_eq!(
        find(Query {
            limit: Some(2),
            ..Query::default()
        }),
        all[..2]
    );
    assert_eq!(tail(&place.dir, 7).unwrap(), all[all.len() - 7..]);
    assert_eq!(tail(&place.dir, 1000).unwrap(), all);
    // The follower saw everything across the segments, and waits for a line to be whole.
    let followed: Vec<_> = follower.by_ref().map(Result::unwrap).collect();
    assert_eq!(followed, all[1..]);
    let last = Folder::at(&place.dir).unwrap().list().unwrap().pop().unwrap();
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(place.segment(last))
        .unwrap();
    file.write_all(b"{\"seq\":99,").unwrap();
    assert!(follower.read().unwrap().is_none());
    file.write_all(b"\"x\":1}\n").unwrap();
    assert_eq!(follower.read().unwrap().unwrap().seq(), 99);
    file.write_all(b"no record\n{\"seq\":100}\n").unwrap();
    assert!(matches!(follower.read(), Err(LogError::Unreadable { .. })));
    assert_eq!(follower.read().unwrap().unwrap().seq(), 100);
}

#[test]
fn a_follower_does_not_join_what_was_cut_with_what_was_written_over_it() {
    let place = place();
    let log = place.create(one_segment());
    let _ = log.append(&read_of(1, "one")).unwrap();
    let mut follower = Follower::new(&place.dir).unwrap();
    assert!(follower.read().unwrap().is_none());
    let len = std::fs::metadata(place.segment(1)).unwrap().len();
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(place.segment(1))
        .unwrap();
    // What a short write leaves until the log recovers.
    std::io::Write::write_all(&mut &file, b"{\"seq\":3,\"eventTime\":\"2026-01-01T00:00:00.").unwrap();
    assert!(follower.read().unwrap().is_none());
    assert!(follower.read().unwrap().is_none());
    file.set_len(len).unwrap();
    let _ = log.append(&read_of(2, "two")).unwrap();
    let entry = follower.read().unwrap().expect("the record");
    assert_eq!((entry.uid(), entry.seq()), (Some(2), 3));
    assert_eq!(entry.line, *place.lines(1).last().unwrap());
    // A segment that stays unfinished is left behind when there is a later one.
    std::io::Write::write_all(&mut &file, b"{\"seq\":4,").unwrap();
    assert!(follower.read().unwrap().is_none());
    std::fs::write(place.segment(2), "{\"seq\":4,\"uid\":3}\n").unwrap();
    std::fs::set_permissions(
        place.segment(2),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    assert_eq!(follower.read().unwrap().expect("the next segment").uid(), Some(3));
}
