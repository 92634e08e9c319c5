//! Every store against a plain map; watching; the wrapper that fails; the header's bytes.

use super::embedded::Embedded;
use super::faulty::{Call, Fault, Faulty};
use super::header::{FORMAT, Header, Release};
use super::memory::Memory;
use super::*;
use crate::clock::Timestamp;
use crate::id::StoreId;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;
/// A write, or a removal where there are no bytes.
type Step = (Table, Vec<u8>, Option<Vec<u8>>);
type Ops = Vec<Step>;

/// Everything in a store, checked against `get` on the way.
pub(super) fn dump(store: &dyn Store) -> Result<Model, StoreError> {
    let mut all = Model::new();
    for table in Table::ALL {
        let mut last = None;
        store.list(table, &mut |key, bytes| {
            assert!(last.as_deref() < Some(key), "keys out of order");
            last = Some(key.to_vec());
            all.insert((table, key.to_vec()), bytes.to_vec());
            ControlFlow::Continue(())
        })?;
    }
    Ok(all)
}

fn batch(ops: &[Step]) -> Batch {
    let mut batch = Batch::new();
    for (table, key, bytes) in ops {
        match bytes {
            Some(bytes) => batch.put(*table, key.clone(), bytes.clone()),
            None => batch.delete(*table, key.clone()),
        };
    }
    batch
}

fn apply(model: &mut Model, ops: &[Step]) {
    for (table, key, bytes) in ops {
        match bytes {
            Some(bytes) => model.insert((*table, key.clone()), bytes.clone()),
            None => model.remove(&(*table, key.clone())),
        };
    }
}

/// Few keys, so that batches meet; among them the empty one, the longest and some that are beginnings of others.
fn ops() -> impl Strategy<Value = Ops> {
    let key = prop_oneof![
        (0u8..12).prop_map(|n| vec![n]),
        (0u8..4, 0u8..4).prop_map(|(a, b)| vec![a, b, 0xff]),
        Just(vec![]),
        Just(vec![0xff; MAX_KEY]),
    ];
    let bytes = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Some),
        1 => (4000usize..70_000).prop_map(|len| Some(vec![len as u8; len])),
        2 => Just(None),
    ];
    prop::collection::vec((prop::sample::select(&Table::ALL[..]), key, bytes), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_a_map(batches in prop::collection::vec(ops(), 1..12)) {
        let store = Memory::new();
        let mut model = Model::new();
        for (n, ops) in batches.iter().enumerate() {
            prop_assert!(store.commit(Revision(n as u64 + 1), &batch(ops)).is_err());
            store.commit(Revision(n as u64), &batch(ops)).unwrap();
            apply(&mut model, ops);
            prop_assert_eq!(dump(&store).unwrap(), model.clone());
            for (table, key, _) in ops {
                prop_assert_eq!(store.get(*table, key).unwrap(), model.get(&(*table, key.clone())).cloned());
            }
        }
    }

    #[test]
    fn embedded_is_a_map_that_survives_reopening(batches in prop::collection::vec(ops(), 1..12)) {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("store");
        // The store is dropped before it is opened again: one process, one owner at a time.
        drop(Embedded::create(&home).unwrap());
        let mut model = Model::new();
        for (n, chunk) in batches.chunks(3).enumerate() {
            let store = Embedded::open(&home).unwrap();
            prop_assert_eq!(store.revision().unwrap(), Revision(n as u64 * 3));
            prop_assert_eq!(dump(&store).unwrap(), model.clone());
            for ops in chunk {
                let base = store.revision().unwrap();
                let stale = Revision(base.0 + 7);
                let is_conflict = matches!(
                    store.commit(stale, &batch(ops)),
                    Err(StoreError::Conflict { expected, found }) if expected == stale && found == base
                );
                prop_assert!(is_conflict);
                store.commit(base, &batch(ops)).unwrap();
                apply(&mut model, ops);
                prop_assert_eq!(dump(&store).unwrap(), model.clone());
                for (table, key, _) in ops {
                    prop_assert_eq!(
                        store.get(*table, key).unwrap(),
                        model.get(&(*table, key.clone())).cloned()
                    );
                }
            }
            let checked = store.check(&mut |_| {}).unwrap();
            prop_assert_eq!(checked.records, model.len() as u64);
        }
    }
}

fn both(test: impl Fn(&dyn Store)) {
    test(&Memory::new());
    let dir = tempfile::tempdir().unwrap();
    test(&Embedded::create(dir.path().join("store")).unwrap());
}

fn put(key: u64, byte: u8) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Secret, key, vec![byte; 40]);
    batch
}

#[test]
fn of_two_commits_on_one_revision_exactly_one_is_made() {
    both(|store| {
        let rounds = 40;
        let won: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2u8)
                .map(|me| {
                    scope.spawn(move || {
                        let mut won = 0;
                        while store.revision().unwrap() < Revision(rounds) {
                            let base = store.revision().unwrap();
                            match store.commit(base, &put(base.0, me)) {
                                Ok(next) => {
                                    assert_eq!(next.0, base.0 + 1);
                                    won += 1;
                                }
                                Err(StoreError::Conflict { expected, found }) => {
                                    assert_eq!(expected, base);
                                    assert!(found > base);
                                }
                                Err(other) => panic!("{other}"),
                            }
                        }
                        won
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        // Every revision was made once, by one of them, and none was made over another.
        assert_eq!(won.iter().sum::<u64>(), store.revision().unwrap().0);
        assert_eq!(dump(store).unwrap().len() as u64, store.revision().unwrap().0);
    });
}

#[test]
fn a_listing_sees_one_revision_whatever_is_committed_meanwhile() {
    both(|store| {
        let mut first = Batch::new();
        for n in 0..50u64 {
            first.put(Table::Key, n, vec![1]);
        }
        store.commit(Revision(0), &first).unwrap();
        let mut second = Batch::new();
        for n in 0..50u64 {
            second.put(Table::Key, n, vec![2]);
        }
        second.put(Table::Key, 99u64, vec![2]);
        let mut seen = Vec::new();
        store
            .list(Table::Key, &mut |_, bytes| {
                if seen.is_empty() {
                    store.commit(Revision(1), &second).unwrap();
                }
                seen.push(bytes[0]);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(seen, [1; 50]);
    });
}

#[test]
fn a_listing_ends_where_it_is_told_to_and_keeps_to_its_table() {
    both(|store| {
        let mut all = Batch::new();
        for table in Table::ALL {
            for n in 0..3u64 {
                all.put(table, n, vec![table.number()]);
            }
        }
        store.commit(Revision(0), &all).unwrap();
        let mut seen = Vec::new();
        store
            .list(Table::Term, &mut |key, bytes| {
                assert_eq!(bytes, [Table::Term.number()]);
                seen.push(number(key).unwrap());
                if seen.len() == 2 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
        assert_eq!(seen, [0, 1]);
    });
}

#[test]
fn keys_and_records_past_their_bounds_are_refused_whole() {
    both(|store| {
        let mut long = put(1, 1);
        long.put(Table::Key, vec![0; MAX_KEY + 1], vec![0]);
        assert!(matches!(
            store.commit(Revision(0), &long),
            Err(StoreError::TooLarge { what: "key", .. })
        ));
        let mut large = put(1, 1);
        large.put(Table::Key, 1u64, vec![0; MAX_RECORD + 1]);
        assert!(matches!(
            store.commit(Revision(0), &large),
            Err(StoreError::TooLarge { what: "record", .. })
        ));
        assert_eq!(store.revision().unwrap(), Revision(0));
        assert!(dump(store).unwrap().is_empty());
        assert_eq!(store.get(Table::Key, &[0; MAX_KEY + 1]).unwrap(), None);
    });
}

#[test]
fn a_watcher_hears_of_every_commit_once_and_in_order() {
    both(|store| {
        let mut watch = store.watch(Revision(0)).unwrap();
        assert_eq!(watch.recv(Duration::from_millis(1)), Event::Quiet);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20u64 {
                    store.commit(Revision(n), &put(n, 0)).unwrap();
                }
            });
            for n in 0..20u64 {
                let Event::Changed(change) = watch.recv(Duration::from_secs(20)) else {
                    panic!("no change {n}")
                };
                assert_eq!(change.revision, Revision(n + 1));
                assert_eq!(&*change.keys, [(Table::Secret, Key::from(n))]);
            }
        });
        assert_eq!(watch.recv(Duration::ZERO), Event::Quiet);
        let mut late = store.watch(Revision(18)).unwrap();
        assert!(matches!(late.recv(Duration::ZERO), Event::Changed(c) if c.revision == Revision(19)));
        assert!(matches!(
            store.watch(Revision(21)),
            Err(StoreError::Conflict { .. })
        ));
    });
}

#[test]
fn a_watcher_that_fell_behind_is_told_to_read_again() {
    let store = Memory::new();
    let mut slow = store.watch(Revision(0)).unwrap();
    for n in 0..1100u64 {
        store.commit(Revision(n), &put(n, 0)).unwrap();
    }
    assert_eq!(slow.recv(Duration::ZERO), Event::Resync(Revision(1100)));
    assert_eq!(slow.recv(Duration::ZERO), Event::Quiet);
    store.commit(Revision(1100), &put(0, 0)).unwrap();
    assert!(matches!(slow.recv(Duration::ZERO), Event::Changed(c) if c.revision == Revision(1101)));

    // One commit that alone is more than the ring keeps.
    let mut huge = Batch::new();
    for n in 0..70_000u64 {
        huge.delete(Table::Value, n);
    }
    store.commit(Revision(1101), &huge).unwrap();
    assert_eq!(slow.recv(Duration::ZERO), Event::Resync(Revision(1102)));
    drop(store);
    assert_eq!(slow.recv(Duration::from_secs(20)), Event::Closed);
}

#[test]
fn a_watcher_of_a_reopened_store_reads_again() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("store");
    Embedded::create(&home)
        .unwrap()
        .commit(Revision(0), &put(1, 1))
        .unwrap();
    let store = Embedded::open(&home).unwrap();
    assert_eq!(
        store.watch(Revision(0)).unwrap().recv(Duration::ZERO),
        Event::Resync(Revision(1))
    );
    assert_eq!(
        store.watch(Revision(1)).unwrap().recv(Duration::ZERO),
        Event::Quiet
    );
}

#[test]
fn faults_come_when_they_were_ordered() {
    let store = Faulty::new(Memory::new());
    store.inject(Call::Commit, 2, Fault::Full);
    store.inject(Call::Commit, 3, Fault::Unanswered);
    store.inject(Call::Commit, 4, Fault::Torn(1));
    store.inject(Call::Commit, 5, Fault::Lost);
    store.inject(Call::Get, 2, Fault::Corrupt);
    store.inject(Call::List, 1, Fault::Fail);
    store.inject(Call::Revision, 1, Fault::Delay(Duration::from_millis(30)));

    store.commit(Revision(0), &put(1, 1)).unwrap();
    assert!(matches!(
        store.commit(Revision(1), &put(2, 1)),
        Err(StoreError::Full { .. })
    ));
    assert!(matches!(
        store.commit(Revision(1), &put(3, 1)),
        Err(StoreError::Io { .. })
    ));
    assert_eq!(
        store.inner().revision().unwrap(),
        Revision(2),
        "done, though the answer was lost"
    );
    let mut two = put(4, 1);
    two.put(Table::Secret, 5u64, vec![1]);
    assert!(matches!(
        store.commit(Revision(2), &two),
        Err(StoreError::Io { .. })
    ));
    assert_eq!(store.commit(Revision(3), &put(6, 1)).unwrap(), Revision(4));
    let keys: Vec<_> = store
        .inner()
        .all()
        .into_keys()
        .map(|(_, key)| number(&key).unwrap())
        .collect();
    assert_eq!(keys, [1, 3, 4]);

    assert!(store.get(Table::Secret, &Key::from(1)).unwrap().is_some());
    assert!(matches!(
        store.get(Table::Secret, &Key::from(1)),
        Err(StoreError::Corrupt { .. })
    ));
    assert!(
        store
            .list(Table::Secret, &mut |_, _| ControlFlow::Continue(()))
            .is_err()
    );
    let began = std::time::Instant::now();
    store.revision().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert_eq!(store.calls(Call::Commit), 5);
}

fn header() -> Header {
    Header {
        format: 1,
        min_reader: 1,
        release: Release(0, 1, 0),
        id: StoreId(*b"0123456789abcdef"),
        created: Timestamp(1_795_602_600_123_456),
    }
}

/// The bytes of `packaging/doc/format.md`. If this fails, the format changed: stores out there cannot be read.
#[test]
fn the_header_has_its_golden_bytes() {
    let golden = "7761726466730d0a00010001000000010000\
                  30313233343536373839616263646566000661174f235c40\
                  a8ea7e83f47cd903";
    assert_eq!(data_encoding::HEXLOWER.encode(&header().encode()), golden);
    assert_eq!(Header::decode(&header().encode()).unwrap(), header());
}

#[test]
fn every_damaged_byte_of_the_header_is_found() {
    let good = header().encode();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(
                matches!(Header::decode(&bad), Err(StoreError::Corrupt { .. })),
                "byte {at} bit {bit}"
            );
        }
    }
    for len in 0..good.len() {
        assert!(
            matches!(Header::decode(&good[..len]), Err(StoreError::Corrupt { .. })),
            "{len} bytes"
        );
    }
}

#[test]
fn a_later_format_is_read_if_it_says_so_and_refused_by_name_if_not() {
    let readable = Header {
        format: FORMAT + 1,
        release: Release(0, 9, 0),
        ..header()
    };
    assert_eq!(Header::decode(&readable.encode()).unwrap(), readable);

    let too_new = Header {
        format: 7,
        min_reader: FORMAT + 1,
        release: Release(1, 4, 2),
        ..header()
    };
    let error = Header::decode(&too_new.encode()).unwrap_err();
    assert!(matches!(error, StoreError::TooNew { format: 7, .. }));
    assert!(error.to_string().contains("wardfs 1.4.2 or later"), "{error}");

    let nonsense = Header {
        format: 1,
        min_reader: 2,
        ..header()
    };
    assert!(matches!(
        Header::decode(&nonsense.encode()),
        Err(StoreError::Corrupt { .. })
    ));
}

#[test]
fn keys_keep_the_order_of_their_numbers() {
    let mut keys = [Key::from(256), Key::from(u64::MAX), Key::from(0), Key::from(255)];
    keys.sort();
    assert_eq!(keys.map(|k| number(&k).unwrap()), [0, 255, 256, u64::MAX]);
    assert_eq!(pair(&Key::from((7, 9))), Some((7, 9)));
    assert_eq!(pair(b"short"), None);
    assert_eq!(number(b"not a num"), None);
}
