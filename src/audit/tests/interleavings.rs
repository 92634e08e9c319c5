//! Threads that append, refuse, sync and tick, in many orders: always one chain, and in it what was receipted.

use std::collections::BTreeMap;
use std::sync::Arc;

use shuttle::thread::spawn;

use super::*;
use crate::sync::in_many_orders;

#[test]
fn every_receipt_is_for_its_own_record_and_the_chain_is_one() {
    in_many_orders(600, || {
        let place = place();
        let log = Arc::new(place.create(small()));
        let appends: Vec<_> = (1..3)
            .map(|uid| {
                let log = log.clone();
                spawn(move || {
                    let append = |n: u64| {
                        let record = Record {
                            offset: Some(n),
                            ..read_of(uid, "app/db")
                        };
                        (log.append(&record).unwrap().seq(), (uid, n))
                    };
                    (0..3).map(append).collect::<Vec<_>>()
                })
            })
            .collect();
        let refuse = {
            let log = log.clone();
            spawn(move || {
                let refused = Record {
                    outcome: Outcome::Denied {
                        reason: "implicit_deny",
                    },
                    ..read_of(3, "app/db")
                };
                (0..12).for_each(|_| log.refuse(&refused).unwrap());
            })
        };
        let tend = {
            let log = log.clone();
            spawn(move || {
                log.tick();
                let anchor = log.sync().unwrap();
                log.tick();
                anchor
            })
        };
        let receipts: BTreeMap<u64, (u32, u64)> =
            appends.into_iter().flat_map(|t| t.join().unwrap()).collect();
        refuse.join().unwrap();
        let anchor = tend.join().unwrap();
        drop(log);

        assert_eq!(receipts.len(), 6, "a number was receipted twice");
        place.verify(Some(&anchor)).unwrap();
        let mut refusals = 0;
        for entry in place.entries() {
            let line = entry.value;
            let seq = line["seq"].as_u64().unwrap();
            let read = (line["uid"].as_u64(), line["requestParameters"]["offset"].as_u64());
            match (receipts.get(&seq), line["outcome"].as_str()) {
                (Some((uid, n)), _) => assert_eq!(read, (Some(u64::from(*uid)), Some(*n)), "record {seq}"),
                (None, Some("denied")) => {
                    refusals += line["suppressed"].as_u64().unwrap_or(1);
                }
                (None, _) => assert_ne!(line["eventName"], "GetSecretValue", "record {seq} has no receipt"),
            }
        }
        assert_eq!(refusals, 12, "refusals are written or counted, each once");
    });
}
