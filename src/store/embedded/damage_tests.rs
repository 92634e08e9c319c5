//! Damage: every byte may be wrong, and no reader may believe it, stop or hang.

use super::super::tests::{Model, dump};
use super::tests::{other_process, part, place, place_in, put};
use super::*;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A value that carries its own proof, as every sealed record does.
fn sealed(table: Table, key: &[u8], len: usize) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let body = vec![table.number() ^ key.last().copied().unwrap_or(0); len];
    let proof = Sha256::new()
        .chain_update([table.number()])
        .chain_update(key)
        .chain_update(&body)
        .finalize();
    [&proof[..], &body].concat()
}

fn unsealed(table: Table, key: &[u8], bytes: &[u8]) -> bool {
    bytes.len() >= 32 && sealed(table, key, bytes.len() - 32) == bytes
}

/// Flips bytes all over a store that was closed, then one that was killed: it is refused, or every record is
/// right, or it fails its own proof, or is missing from the count. Never a panic, an abort or a hang.
#[test]
fn flipped_bytes_are_never_taken_for_truth() {
    let Some(_) = part() else {
        // A process of its own: an abort or a hang of it is a failure of this test, and of no other.
        let mut child = other_process(
            "damage_tests::flipped_bytes_are_never_taken_for_truth",
            Path::new("-"),
        )
        .stdout(Stdio::inherit())
        .spawn()
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(240);
        loop {
            match child.try_wait().unwrap() {
                Some(status) => return assert!(status.success(), "{status}"),
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                None => {
                    child.kill().unwrap();
                    panic!("a damaged store hangs its reader");
                }
            }
        }
    };
    // Thousands of stores, and no power cut to survive: memory will do where there is some.
    let memory = Path::new("/dev/shm");
    let p = if memory.is_dir() {
        place_in(memory)
    } else {
        place()
    };
    let store = Embedded::create(&p.home).unwrap();
    let mut wanted = Model::new();
    let mut base = Revision(0);
    for round in 0..6u64 {
        let mut batch = Batch::new();
        for key in 0..12u64 {
            for table in [Table::Secret, Table::Value, Table::Term] {
                let key = (round * 100 + key).to_be_bytes();
                let bytes = sealed(table, &key, if key[7] % 5 == 0 { 6000 } else { 90 });
                wanted.insert((table, key.to_vec()), bytes.clone());
                batch.put(table, &key[..], bytes);
            }
        }
        base = store.commit(base, &batch).unwrap();
    }
    let data = p.home.join("store.redb");
    let killed = std::fs::read(&data).unwrap();
    drop(store);
    let closed = std::fs::read(&data).unwrap();

    // redb's panics are expected here, thousands of them; ours are not.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_some_and(|at| !at.file().contains("/redb-")) {
            loud(panic);
        }
    }));
    let mut outcomes = BTreeMap::<&str, u32>::new();
    for image in [&closed, &killed] {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let header = (0..320).map(|at| (at, 1 << (at % 8)));
        let spread = (0..700).map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let page = (random >> 33) as usize % (image.len() / 4096) * 4096;
            // Half of them where the pages' own bookkeeping is.
            let within = if random >> 60 & 1 == 0 {
                (random >> 20) as usize % 64
            } else {
                (random >> 20) as usize % 4096
            };
            (page + within, (random >> 12) as u8 | 1)
        });
        for (at, flip) in header.chain(spread) {
            let mut bad = image.clone();
            bad[at] ^= flip;
            std::fs::write(&data, &bad).unwrap();
            let began = Instant::now();
            *outcomes.entry(examine(&p.home, &wanted, base)).or_default() += 1;
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "byte {at} ^ {flip:#x} takes too long"
            );
        }
    }
    println!("{outcomes:?}");
    let seen = |what| outcomes.get(what).copied().unwrap_or(0);
    assert!(
        seen("right") > 500 && seen("refused") > 10 && seen("proof fails") > 100,
        "{outcomes:?}"
    );
}

/// What becomes of a store that was damaged somewhere.
fn examine(home: &Path, wanted: &Model, revision: Revision) -> &'static str {
    let store = match Embedded::open(home) {
        Ok(store) => store,
        Err(StoreError::Corrupt { .. } | StoreError::TooNew { .. } | StoreError::Io { .. }) => {
            return "refused";
        }
        Err(other) => panic!("{other}"),
    };
    let mut outcome = "right";
    // The epoch record above holds the revision too, and finds a wrong one.
    match store.revision() {
        Ok(found) if found == revision => {}
        Ok(_) => outcome = "revision differs",
        Err(_) => return "revision unreadable",
    }
    for table in Table::ALL {
        let mut found = 0;
        let listed = store.list(table, &mut |key, bytes| {
            found += 1;
            if !unsealed(table, key, bytes) {
                outcome = "proof fails";
            } else if wanted.get(&(table, key.to_vec())).map(|b| &b[..]) != Some(bytes) {
                panic!("a record of nobody passes its proof");
            }
            ControlFlow::Continue(())
        });
        if listed.is_err() {
            outcome = "list fails";
        } else if found != wanted.keys().filter(|(t, _)| *t == table).count() {
            outcome = "count differs";
        }
    }
    for ((table, key), bytes) in wanted {
        match store.get(*table, key) {
            Ok(Some(found)) if found == *bytes => {}
            Ok(Some(found)) => {
                assert!(
                    !unsealed(*table, key, &found),
                    "another record's bytes pass for this one"
                );
                outcome = "proof fails";
            }
            Ok(None) => outcome = "record missing",
            Err(_) => outcome = "get fails",
        }
    }
    let checked = store.check(&mut |_| {});
    if outcome != "right" {
        assert!(
            checked.is_err(),
            "the check finds nothing where a reader does: {outcome}"
        );
    }
    // A commit may fail; it must come back. If it is made, nothing else changed, and the file is a good one again.
    if let Ok(base) = store.revision()
        && let Ok(mut before) = dump(&store)
        && store.commit(base, &put(7, b"x")).is_ok()
    {
        before.insert((Table::Value, 7u64.to_be_bytes().to_vec()), b"x".to_vec());
        assert_eq!(dump(&store).unwrap(), before);
        drop(store);
        let again = Embedded::open(home).unwrap();
        again.check(&mut |_| {}).unwrap();
        assert_eq!(dump(&again).unwrap(), before);
        if outcome != "right" {
            assert!(
                checked.is_err() && home.join("store.redb.damaged").exists(),
                "{outcome}"
            );
        }
    }
    outcome
}

/// One bad value costs itself alone: the others are read, and new ones can be put.
#[test]
fn a_damaged_value_keeps_nobody_from_being_changed() {
    let p = place();
    let store = Embedded::create(&p.home).unwrap();
    store
        .commit(
            Revision(0),
            put(1, &[0x5a; 600]).put(Table::Value, 2u64, vec![0xa5; 600]),
        )
        .unwrap();
    drop(store);
    let data = p.home.join("store.redb");
    let mut bytes = std::fs::read(&data).unwrap();
    let places: Vec<_> = bytes
        .windows(600)
        .enumerate()
        .filter(|(_, w)| *w == [0x5a; 600])
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[at + 300] ^= 1);
    std::fs::write(&data, &bytes).unwrap();

    let store = Embedded::open(&p.home).unwrap();
    assert!(matches!(
        store.check(&mut |_| {}),
        Err(StoreError::Corrupt { .. })
    ));
    let good = Some(vec![0xa5; 600]);
    assert_eq!(store.get(Table::Value, &2u64.to_be_bytes()).unwrap(), good);
    let next = store.commit(Revision(1), &put(3, b"new")).unwrap();
    assert_eq!(next, Revision(2));
    store.check(&mut |_| {}).unwrap();
    drop(store);
    let store = Embedded::open(&p.home).unwrap();
    assert_eq!(store.revision().unwrap(), Revision(2));
    assert_eq!(store.get(Table::Value, &2u64.to_be_bytes()).unwrap(), good);
    // Still what the medium held: it is for the sealing to refuse it.
    assert_ne!(
        store.get(Table::Value, &1u64.to_be_bytes()).unwrap(),
        Some(vec![0x5a; 600])
    );
    assert_eq!(
        std::fs::read(p.home.join("store.redb.damaged")).unwrap().len(),
        bytes.len()
    );
}
