//! The room under attack, and the bytes it writes.

use super::random::fixed::with_sequence;
use super::*;
use crate::id::{KeyId, SecretId, SecretName, StoreId, VersionId, VersionNo};
use crate::secret::{Sealed, SecretBytes};
use data_encoding::HEXLOWER;
use proptest::prelude::*;

const STORE: StoreId = StoreId(*b"store 0123456789");
const OTHER_STORE: StoreId = StoreId(*b"store 9876543210");
const RECORD: RecordKind = RecordKind(2);

fn locked(bytes: &[u8]) -> SecretBytes {
    keys::copy(bytes).unwrap()
}

/// What a [`Context`] borrows from.
struct Place {
    store: StoreId,
    tenant: String,
    name: SecretName,
    secret: SecretId,
    version: VersionId,
    version_no: VersionNo,
    key: KeyId,
}

impl Place {
    fn new() -> Self {
        Place {
            store: STORE,
            tenant: String::new(),
            name: "app/db/password".parse().unwrap(),
            secret: SecretId(7),
            version: "0190c0de-0000-7000-8000-000000000001".parse().unwrap(),
            version_no: VersionNo(41),
            key: KeyId::default_key(),
        }
    }

    fn ctx(&self) -> Context<'_> {
        Context {
            store: self.store,
            tenant: &self.tenant,
            name: &self.name,
            secret: self.secret,
            version: &self.version,
            version_no: self.version_no,
            key: &self.key,
        }
    }

    /// Every place that differs from this one in one field.
    fn neighbours(&self) -> Vec<(&'static str, Place)> {
        let with = |what: &'static str, change: fn(&mut Place)| {
            let mut place = Place::new();
            change(&mut place);
            (what, place)
        };
        vec![
            with("store", |p| p.store = OTHER_STORE),
            with("tenant", |p| p.tenant = "a".into()),
            with("name", |p| p.name = "app/db/passwore".parse().unwrap()),
            with("secret id", |p| p.secret = SecretId(8)),
            with("version id", |p| {
                p.version = "0190c0de-0000-7000-8000-000000000002".parse().unwrap()
            }),
            with("version number", |p| p.version_no = VersionNo(42)),
            with("key", |p| p.key = "other".parse().unwrap()),
        ]
    }
}

fn ring() -> Keyring {
    let mut ring = Keyring::new(STORE, RootKey::generate().unwrap()).unwrap();
    ring.create_key(KeyId::default_key()).unwrap();
    ring.create_key("other".parse().unwrap()).unwrap();
    ring
}

/// Opens a value the way a read does: unwrap, then decrypt.
fn open(
    ring: &Keyring,
    ctx: &Context<'_>,
    wrapped: &WrappedKey,
    sealed: &[u8],
) -> Result<Vec<u8>, SealError> {
    let key = ring.unwrap(ctx, wrapped)?;
    let mut out = locked(&vec![0xa5; plain_len(sealed)?]);
    let opened = key.open_value(ctx, wrapped, sealed, &mut out);
    if opened.is_err() {
        assert!(
            out.expose().iter().all(|b| *b == 0),
            "a failed decryption left bytes behind"
        );
    }
    opened.map(|()| out.expose().to_vec())
}

fn is_integrity<T>(result: &Result<T, SealError>) -> bool {
    matches!(result, Err(SealError::Integrity { .. }))
}

/// Runs `check` with every bit of every byte flipped, one at a time.
fn each_flip(bytes: &[u8], mut check: impl FnMut(&[u8], usize)) {
    let mut changed = bytes.to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            changed[at] ^= 1 << bit;
            check(&changed, at);
            changed[at] ^= 1 << bit;
        }
    }
}

/// Runs `check` with every shorter and one longer input.
fn each_length(bytes: &[u8], mut check: impl FnMut(&[u8])) {
    for len in 0..bytes.len() {
        check(&bytes[..len]);
    }
    check(&[bytes, &[0]].concat());
}

#[test]
fn values_of_every_size_come_back() {
    let (ring, place) = (ring(), Place::new());
    for len in [0, 1, 15, 16, 17, 32, 4096, 65_536] {
        let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let (wrapped, sealed) = ring.seal_value(&place.ctx(), &locked(&plain)).unwrap();
        assert_eq!(plain_len(&sealed.0).unwrap(), len);
        assert_eq!(open(&ring, &place.ctx(), &wrapped, &sealed.0).unwrap(), plain);
    }
}

#[test]
fn a_flipped_bit_of_a_value_is_found() {
    let (ring, place) = (ring(), Place::new());
    let (wrapped, sealed) = ring.seal_value(&place.ctx(), &locked(b"correct horse")).unwrap();
    each_flip(&sealed.0, |bytes, at| {
        let opened = open(&ring, &place.ctx(), &wrapped, bytes);
        assert!(is_integrity(&opened), "byte {at}");
    });
    each_length(&sealed.0, |bytes| {
        assert!(is_integrity(&open(&ring, &place.ctx(), &wrapped, bytes)))
    });
}

#[test]
fn a_flipped_bit_of_a_wrapped_key_is_found() {
    let (ring, place) = (ring(), Place::new());
    let (wrapped, sealed) = ring.seal_value(&place.ctx(), &locked(b"correct horse")).unwrap();
    each_flip(&wrapped.encode(), |bytes, at| {
        let opened = WrappedKey::decode(bytes).and_then(|w| open(&ring, &place.ctx(), &w, &sealed.0));
        assert!(is_integrity(&opened), "byte {at}");
    });
    each_length(&wrapped.encode(), |bytes| {
        assert!(is_integrity(&WrappedKey::decode(bytes)))
    });
}

#[test]
fn a_flipped_bit_of_a_record_is_found() {
    let ring = ring();
    let sealed = ring.seal_record(RECORD, 9, b"{\"policy\":1}").unwrap();
    assert_eq!(ring.open_record(RECORD, 9, &sealed.0).unwrap(), b"{\"policy\":1}");
    each_flip(&sealed.0, |bytes, at| {
        assert!(is_integrity(&ring.open_record(RECORD, 9, bytes)), "byte {at}")
    });
    each_length(&sealed.0, |bytes| {
        assert!(is_integrity(&ring.open_record(RECORD, 9, bytes)))
    });
}

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
fn a_value_opens_in_its_own_place_alone() {
    let (ring, place) = (ring(), Place::new());
    let (wrapped, sealed) = ring.seal_value(&place.ctx(), &locked(b"value")).unwrap();
    let data_key = ring.unwrap(&place.ctx(), &wrapped).unwrap();
    for (what, there) in place.neighbours() {
        assert!(
            is_integrity(&open(&ring, &there.ctx(), &wrapped, &sealed.0)),
            "{what}"
        );
        // Nor with the right data key at hand.
        let mut out = locked(&[0; 5]);
        assert!(
            is_integrity(&data_key.open_value(&there.ctx(), &wrapped, &sealed.0, &mut out)),
            "{what}"
        );
    }
}

#[test]
fn values_and_wrapped_keys_of_two_versions_cannot_be_exchanged() {
    let (ring, place) = (ring(), Place::new());
    // Even in one and the same place, with one key: a value that was sealed twice.
    let (old_key, old) = ring.seal_value(&place.ctx(), &locked(b"old")).unwrap();
    let (new_key, new) = ring.seal_value(&place.ctx(), &locked(b"new")).unwrap();
    assert!(is_integrity(&open(&ring, &place.ctx(), &new_key, &old.0)));
    assert!(is_integrity(&open(&ring, &place.ctx(), &old_key, &new.0)));
    // The data key of one with the metadata of the other.
    let mut out = locked(&[0; 3]);
    let data_key = ring.unwrap(&place.ctx(), &old_key).unwrap();
    assert!(is_integrity(&data_key.open_value(
        &place.ctx(),
        &new_key,
        &new.0,
        &mut out
    )));
    assert!(is_integrity(&data_key.open_value(
        &place.ctx(),
        &new_key,
        &old.0,
        &mut out
    )));
}

#[test]
fn fields_cannot_run_into_each_other() {
    // ("ab", "c") and ("a", "bc"): same bytes one after the other, other fields.
    let (ring, mut here) = (ring(), Place::new());
    (here.tenant, here.name) = ("ab".into(), "c".parse().unwrap());
    let mut there = Place::new();
    (there.tenant, there.name) = ("a".into(), "bc".parse().unwrap());
    let (wrapped, sealed) = ring.seal_value(&here.ctx(), &locked(b"value")).unwrap();
    assert!(open(&ring, &here.ctx(), &wrapped, &sealed.0).is_ok());
    assert!(is_integrity(&open(&ring, &there.ctx(), &wrapped, &sealed.0)));
}

#[test]
fn a_data_key_that_was_not_committed_to_is_refused() {
    // Whoever holds the named key wraps another data key under the old commitment: the wrapping is genuine,
    // the commitment is not.
    let (mut ring, place) = (ring(), Place::new());
    let ctx = place.ctx();
    let (genuine, sealed) = ring.seal_value(&ctx, &locked(b"value")).unwrap();
    let mine = keys::fresh().unwrap();
    let (data_key, commitment) = DataKey::split(&ctx, wire::Header::CURRENT, &mine).unwrap();
    let (forged, tag) = data_key.seal_value(&ctx, &locked(b"forged")).unwrap();
    let committed: [u8; 32] = genuine.encode()[22..54].try_into().unwrap();
    assert_eq!(genuine.encode()[2..10], *b"\x07default");
    let attack = ring.wrap_for_test(&ctx, &mine, committed, tag);
    assert!(is_integrity(&ring.unwrap(&ctx, &attack)));
    // With its own commitment the same wrapping opens: it is the commitment that refused it.
    let honest = ring.wrap_for_test(&ctx, &mine, commitment, tag);
    assert_eq!(open(&ring, &ctx, &honest, &forged.0).unwrap(), b"forged");
    assert!(is_integrity(&open(&ring, &ctx, &honest, &sealed.0)));
    // And the same for named keys: a store's key table cannot be given another key of the same name.
    let foreign = Keyring::new(STORE, RootKey::generate().unwrap())
        .unwrap()
        .create_key(place.key.clone());
    assert!(is_integrity(&ring.add_key(place.key.clone(), &foreign.unwrap())));
}

impl Keyring {
    fn wrap_for_test(&self, ctx: &Context<'_>, raw: &SecretBytes, c: [u8; 32], tag: [u8; 16]) -> WrappedKey {
        WrappedKey::wrap(ctx, self.aes_of(ctx.key), raw, c, tag).unwrap()
    }
}

#[test]
fn records_open_in_their_own_place_alone() {
    let root = || RootKey(locked(&[3; 32]));
    let ring = Keyring::new(STORE, root()).unwrap();
    let sealed = ring.seal_record(RECORD, 9, b"{}").unwrap();
    assert!(is_integrity(&ring.open_record(RECORD, 10, &sealed.0)));
    assert!(is_integrity(&ring.open_record(RecordKind(3), 9, &sealed.0)));
    // The same root key in another store, another root key in the same store.
    assert!(is_integrity(
        &Keyring::new(OTHER_STORE, root())
            .unwrap()
            .open_record(RECORD, 9, &sealed.0)
    ));
    let other = Keyring::new(STORE, RootKey::generate().unwrap()).unwrap();
    assert!(is_integrity(&other.open_record(RECORD, 9, &sealed.0)));
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
    assert_eq!(ring.key_ids().map(KeyId::as_str).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_key_that_is_not_there_is_named() {
    let (ring, mut place) = (ring(), Place::new());
    place.key = "absent".parse().unwrap();
    let Err(SealError::UnknownKey(id)) = ring.seal_value(&place.ctx(), &locked(b"v")) else {
        panic!()
    };
    assert_eq!(id.as_str(), "absent");
}

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
        &ring_root(),
    )
    .unwrap();
    let errors = [
        plain_len(&newer(&sealed.0)).err(),
        open(&ring, &place.ctx(), &wrapped, &newer(&sealed.0)).err(),
        WrappedKey::decode(&newer(&wrapped.encode())).err(),
        ring.open_record(RECORD, 1, &newer(&record.0)).err(),
        Slot::decode(&newer(&slot.encode())).err(),
        self::ring()
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

fn ring_root() -> RootKey {
    RootKey::generate().unwrap()
}

#[test]
fn a_buffer_of_the_wrong_size_gets_nothing() {
    let (ring, place) = (ring(), Place::new());
    let (wrapped, sealed) = ring.seal_value(&place.ctx(), &locked(b"value")).unwrap();
    let key = ring.unwrap(&place.ctx(), &wrapped).unwrap();
    for len in [0, 4, 6] {
        let mut out = locked(&vec![0xa5; len]);
        let opened = key.open_value(&place.ctx(), &wrapped, &sealed.0, &mut out);
        assert!(matches!(opened, Err(SealError::Lengths { .. })));
        assert!(out.expose().iter().all(|b| *b == 0));
    }
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

#[test]
fn terms_tell_revisions_records_and_places_apart() {
    let ring = ring();
    let term = ring.term(RECORD, 1, 5, b"record");
    assert!(term.ct_eq(&ring.term(RECORD, 1, 5, b"record")));
    for other in [
        ring.term(RECORD, 1, 4, b"record"),
        ring.term(RECORD, 2, 5, b"record"),
        ring.term(RecordKind(3), 1, 5, b"record"),
        ring.term(RECORD, 1, 5, b"recorD"),
        self::ring().term(RECORD, 1, 5, b"record"),
    ] {
        assert!(!term.ct_eq(&other));
    }
}

#[test]
fn an_old_record_put_back_shows_whatever_is_done_to_the_table_of_terms() {
    // Whoever writes the disk puts record 1 back to revision 1, and gives record 2, which he sacrifices, the
    // entry that would make up for it if the sum were one over the entries themselves.
    let ring = ring();
    let (old, new, other) = (
        ring.term(RECORD, 1, 1, b"old"),
        ring.term(RECORD, 1, 2, b"new"),
        ring.term(RECORD, 2, 1, b"x"),
    );
    let sum = |terms: [&Term; 2]| {
        let mut sum = TermSum::default();
        terms.iter().for_each(|t| sum.add(&ring.summand(t)));
        sum
    };
    let genuine = sum([&new, &other]);
    assert!(genuine.ct_eq(&sum([&other, &new])));
    assert!(!genuine.ct_eq(&sum([&old, &other])));
    let mut entry = TermSum(other.0);
    entry.add(&Summand(new.0));
    entry.sub(&Summand(old.0));
    let forged = Term(entry.0);
    let naive = |a: &Term, b: &Term| {
        let mut sum = TermSum(a.0);
        sum.add(&Summand(b.0));
        sum
    };
    assert!(
        naive(&old, &forged).ct_eq(&naive(&new, &other)),
        "the attack adds up"
    );
    assert!(!genuine.ct_eq(&sum([&old, &forged])));
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

#[test]
fn keys_and_rings_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<DataKey>();
    shared::<Keyring>();
    shared::<SealError>();
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
        sum.add(&ring.summand(&term));
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
    let golden = include_str!("../../tests/golden/seal-format-1.txt");
    let golden: String = golden
        .split_inclusive('\n')
        .filter(|l| !l.starts_with('#'))
        .collect();
    assert_eq!(text, golden);
}
