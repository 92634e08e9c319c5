//! Slots, named keys and derived keys.

use super::*;

#[test]
fn a_flipped_bit_of_a_named_key_is_found() {
    let root = || RootKey(locked(&[3; 32]));
    let id = KeyId::default_key;
    let record = Keyring::new(STORE, root()).unwrap().create_key(id()).unwrap();
    let add = |bytes: &[u8]| Keyring::new(STORE, root()).unwrap().add_key(id(), bytes);
    add(&record).unwrap();
    each_flip(&record, |bytes, at| {
        assert!(is_integrity(&add(bytes)), "byte {at}")
    });
    each_length(&record, |bytes| assert!(is_integrity(&add(bytes))));
}

#[test]
fn a_flipped_bit_of_a_slot_is_found() {
    let secret = new_slot_secret().unwrap();
    let root = RootKey::generate().unwrap();
    let slot = Slot::create(1, SlotKind::KeyFile, &secret, STORE, &root).unwrap();
    let open = |bytes: &[u8]| Slot::decode(bytes)?.open(&secret, STORE);
    assert_eq!(open(&slot.encode()).unwrap().0.expose(), root.0.expose());
    each_flip(&slot.encode(), |bytes, at| {
        let opened = open(bytes);
        let refused = matches!(
            opened,
            Err(SealError::Integrity { .. }
                | SealError::WrongSlotSecret { .. }
                | SealError::UnsupportedSlot { .. })
        );
        assert!(refused, "byte {at}");
    });
    each_length(&slot.encode(), |bytes| assert!(is_integrity(&open(bytes))));
}

#[test]
fn a_named_key_opens_under_its_own_name_alone() {
    let mut ring = Keyring::new(STORE, RootKey(locked(&[3; 32]))).unwrap();
    let record = ring.create_key("a".parse().unwrap()).unwrap();
    assert!(is_integrity(&ring.add_key("b".parse().unwrap(), &record)));
    ring.add_key("a".parse().unwrap(), &record).unwrap();
    assert!(matches!(
        ring.create_key("a".parse().unwrap()),
        Err(SealError::KeyExists(_))
    ));
    // An older key of the same name, put back into the table.
    let mut before = Keyring::new(STORE, RootKey(locked(&[3; 32]))).unwrap();
    let old = before.create_key("a".parse().unwrap()).unwrap();
    assert!(matches!(
        ring.add_key("a".parse().unwrap(), &old),
        Err(SealError::KeyExists(_))
    ));
}

#[test]
fn the_wrong_secret_opens_no_slot() {
    let root = RootKey::generate().unwrap();
    let (secret, text) = RecoveryKey::generate().unwrap();
    let file = new_slot_secret().unwrap();
    let slots = [
        Slot::create(0, SlotKind::KeyFile, &file, STORE, &root).unwrap(),
        Slot::create(1, SlotKind::Recovery, &secret, STORE, &root).unwrap(),
    ];
    let read_back = RecoveryKey::parse(text.expose()).unwrap();
    let opened = open_any(&slots, SlotKind::Recovery, &read_back, STORE).unwrap();
    assert_eq!(opened.0.expose(), root.0.expose());
    let (wrong, _) = RecoveryKey::generate().unwrap();
    let refused =
        |r: Result<RootKey, SealError>| matches!(r, Err(SealError::WrongSlotSecret { slot: 1, .. }));
    assert!(refused(open_any(&slots, SlotKind::Recovery, &wrong, STORE)));
    // The key file's secret typed as a recovery key, and the right one at another store.
    assert!(refused(open_any(&slots, SlotKind::Recovery, &file, STORE)));
    assert!(refused(open_any(
        &slots,
        SlotKind::Recovery,
        &secret,
        OTHER_STORE
    )));
    // A slot renumbered or relabelled.
    let mut moved = slots[1].clone();
    moved.id = 5;
    assert!(moved.open(&secret, STORE).is_err());
    moved = slots[1].clone();
    moved.kind = SlotKind::KeyFile;
    assert!(moved.open(&secret, STORE).is_err());
    assert!(matches!(
        open_any(&slots[..1], SlotKind::Recovery, &secret, STORE),
        Err(SealError::NoSlot {
            kind: SlotKind::Recovery
        })
    ));
    for short in [0, 31, 33] {
        let short = locked(&vec![0; short]);
        assert!(matches!(
            slots[0].open(&short, STORE),
            Err(SealError::SlotSecretLength { .. })
        ));
        assert!(Slot::create(0, SlotKind::KeyFile, &short, STORE, &root).is_err());
    }
}

#[test]
fn slots_of_unknown_kinds_survive() {
    for kind in [SlotKind::Passphrase, SlotKind::Tpm2, SlotKind::Other(200)] {
        let mut stored = vec![FORMAT, MIN_READER, 4, kind.number(), 0, 3];
        stored.extend_from_slice(b"m=1");
        stored.extend_from_slice(&[0, 5, 9, 9, 9, 9, 9]);
        let slot = Slot::decode(&stored).unwrap();
        assert_eq!((slot.id, slot.kind), (4, kind));
        assert_eq!(slot.encode(), stored);
        let secret = new_slot_secret().unwrap();
        assert!(matches!(
            slot.open(&secret, STORE),
            Err(SealError::UnsupportedSlot { .. })
        ));
    }
    for number in 0..=255 {
        assert_eq!(SlotKind::from_number(number).number(), number);
    }
}

#[test]
fn derived_keys_differ() {
    let root = || RootKey(locked(&[3; 32]));
    let a = Keyring::new(STORE, root()).unwrap();
    let b = Keyring::new(OTHER_STORE, root()).unwrap();
    let audit = a.derive(Purpose::Audit).unwrap();
    assert_eq!(audit.len(), 32);
    assert_eq!(audit.expose(), a.derive(Purpose::Audit).unwrap().expose());
    assert_ne!(audit.expose(), b.derive(Purpose::Audit).unwrap().expose());
    let all = a.derived_for_test();
    let distinct: std::collections::BTreeSet<&[u8]> =
        all.iter().map(|k| k.expose()).chain([audit.expose()]).collect();
    assert_eq!(distinct.len(), all.len() + 1);
}
