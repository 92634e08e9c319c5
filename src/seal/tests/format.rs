//! The bytes that are written, and bytes that nobody wrote.

use super::*;

#[test]
fn a_sealed_thing_of_one_sort_is_no_other() {
    // One key for all: only the domain tells a record from a value.
    let ring = ring();
    let place = Place::new();
    let (_, value) = ring.seal_value(&place.ctx(), &locked(b"{}")).unwrap();
    assert!(is_integrity(&ring.open_record(RECORD, 7, &value.0)));
    let header = wire::Header::CURRENT;
    let a = place.ctx().aad("value", header);
    for other in [
        "data-key",
        "data-key/split",
        "record",
        "slot",
        "slot/key",
        "named-key",
        "named-key/split",
    ] {
        assert_ne!(a.bytes(), place.ctx().aad(other, header).bytes());
    }
}

#[test]
fn what_is_too_new_says_which_version_reads_it() {
    let (ring, place) = (ring(), Place::new());
    let (wrapped, sealed) = ring.seal_value(&place.ctx(), &locked(b"v")).unwrap();
    let record = ring.seal_record(RECORD, 1, b"{}").unwrap();
    let newer = |bytes: &[u8]| [&[9, 8], &bytes[2..]].concat();
    let slot = Slot::create(
        0,
        SlotKind::KeyFile,
        &new_slot_secret().unwrap(),
        STORE,
        &RootKey::generate().unwrap(),
    )
    .unwrap();
    let errors = [
        plain_len(&newer(&sealed.0)).err(),
        open(&ring, &place.ctx(), &wrapped, &newer(&sealed.0)).err(),
        WrappedKey::decode(&newer(&wrapped.encode())).err(),
        ring.open_record(RECORD, 1, &newer(&record.0)).err(),
        Slot::decode(&newer(&slot.encode())).err(),
        super::ring()
            .add_key("new".parse().unwrap(), &newer(&[0; 94]))
            .err(),
    ];
    for error in errors {
        let error = error.expect("refused");
        assert!(matches!(
            error,
            SealError::Format {
                format: 9,
                min_reader: 8,
                ..
            }
        ));
        assert!(error.to_string().contains("reads format 8"), "{error}");
    }
    // A newer format that asks for no newer reader is read: the header is authenticated, so this one is not it.
    let mut lenient = sealed.0.to_vec();
    lenient[0] = 2;
    assert!(is_integrity(&open(&ring, &place.ctx(), &wrapped, &lenient)));
}

#[test]
fn no_text_carries_a_key() {
    let (ring, place) = (ring(), Place::new());
    let (wrapped, sealed) = ring.seal_value(&place.ctx(), &locked(b"correct horse")).unwrap();
    let shown = format!("{wrapped:?} {sealed:?} {:?}", TermSum([0x5a; 32]));
    assert_eq!(shown, "WrappedKey(by default) Sealed(43 bytes) TermSum");
    let json = serde_json::to_string(&wrapped).unwrap();
    assert!(serde_json::from_str::<WrappedKey>(&json).unwrap() == wrapped);
    assert!(serde_json::from_str::<WrappedKey>("\"AQE\"").is_err());
    assert!(serde_json::from_str::<WrappedKey>("\"!\"").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_refused_in_order(bytes in proptest::collection::vec(any::<u8>(), 0..300), headed: bool) {
        let ring = Keyring::new(STORE, RootKey(locked(&[3; 32]))).unwrap();
        let bytes = if headed { [&[FORMAT, MIN_READER], &bytes[..]].concat() } else { bytes };
        prop_assert!(ring.open_record(RECORD, 1, &bytes).is_err());
        if let Ok(slot) = Slot::decode(&bytes) {
            prop_assert_eq!(slot.encode(), &bytes[..]);
            prop_assert!(slot.open(&locked(&[1; 32]), STORE).is_err());
        }
        if let Ok(key) = WrappedKey::decode(&bytes) {
            prop_assert_eq!(key.encode(), &bytes[..]);
        }
        let _ = plain_len(&bytes);
        let _ = RecoveryKey::parse(&bytes).map(|_| ());
    }

    #[test]
    fn no_two_places_have_the_same_bytes(a in ("[a-z]{0,3}", "[a-z]{1,3}", 0u64..3, "[a-z]{1,3}"),
                                         b in ("[a-z]{0,3}", "[a-z]{1,3}", 0u64..3, "[a-z]{1,3}")) {
        let aad = |(tenant, name, no, key): &(String, String, u64, String)| {
            let mut p = Place::new();
            (p.tenant, p.name, p.version_no, p.key) =
                (tenant.clone(), name.parse().unwrap(), VersionNo(*no), key.parse().unwrap());
            p.ctx().aad("value", wire::Header::CURRENT).bytes().to_vec()
        };
        prop_assert_eq!(aad(&a) == aad(&b), a == b);
    }
}

/// The golden file: everything this room writes, made with keys and nonces that count up. `tests/golden.rs`
/// opens it through the public interface.
#[test]
fn the_format_is_the_one_that_was_written_down() {
    let place = Place::new();
    let ctx = place.ctx();
    let file_secret = locked(&[0x11; 32]);
    let recovery_secret = locked(&[0x22; 32]);
    let text = with_sequence(0, || {
        let root = RootKey::generate().unwrap();
        let key_file = Slot::create(0, SlotKind::KeyFile, &file_secret, STORE, &root).unwrap();
        let recovery = Slot::create(1, SlotKind::Recovery, &recovery_secret, STORE, &root).unwrap();
        let mut ring = Keyring::new(STORE, root).unwrap();
        let named = ring.create_key(KeyId::default_key()).unwrap();
        let record = ring
            .seal_record(RECORD, 9, b"{\"name\":\"app/db/password\"}")
            .unwrap();
        let (wrapped, Sealed(value)) = ring
            .seal_value(&ctx, &locked(b"correct horse battery staple"))
            .unwrap();
        let term = ring.term(RECORD, 9, 3, &record.0);
        let mut sum = TermSum::default();
        sum.add(&ring.summand(Summing::Terms, (RECORD, 9), &term));
        let mut placed = TermSum::default();
        placed.add(&ring.summand(Summing::Places, (RECORD, 9), &term));
        let golden = include_str!("../../../tests/golden/seal-format-2.txt");
        assert!(
            golden.ends_with(&format!("= {}\n", HEXLOWER.encode(&placed.0))),
            "{}",
            HEXLOWER.encode(&placed.0)
        );
        let audit = ring.derive(Purpose::Audit).unwrap();
        let lines = [
            ("key file slot", key_file.encode()),
            ("recovery slot", recovery.encode()),
            ("named key default", named),
            ("record 2 9", record.0.to_vec()),
            ("wrapped data key", wrapped.encode()),
            ("value", value.to_vec()),
            ("term of record 2 9 at revision 3", term.0.to_vec()),
            ("sum of that term", sum.0.to_vec()),
            ("audit key", audit.expose().to_vec()),
        ];
        lines
            .map(|(name, bytes)| format!("{name} = {}\n", HEXLOWER.encode(&bytes)))
            .concat()
    });
    let golden = include_str!("../../../tests/golden/seal-format-1.txt");
    let golden: String = golden
        .split_inclusive('\n')
        .filter(|l| !l.starts_with('#'))
        .collect();
    assert_eq!(text, golden);
}
