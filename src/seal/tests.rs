//! The room under attack: what all tests share, and the attacks on values.

mod format;
mod records;
mod slots;

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
fn a_key_that_is_not_there_is_named() {
    let (ring, mut place) = (ring(), Place::new());
    place.key = "absent".parse().unwrap();
    let Err(SealError::UnknownKey(id)) = ring.seal_value(&place.ctx(), &locked(b"v")) else {
        panic!()
    };
    assert_eq!(id.as_str(), "absent");
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
fn keys_and_rings_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<DataKey>();
    shared::<Keyring>();
    shared::<SealError>();
}

#[test]
fn a_wrapped_key_names_its_own_named_key_and_no_other() {
    let place = Place::new();
    let (mut wrapped, _) = ring().seal_value(&place.ctx(), &locked(b"value")).unwrap();
    wrapped.share_key("other".parse().unwrap());
    assert_eq!(*wrapped.key(), KeyId::default_key());
    wrapped.share_key(KeyId::default_key());
    assert_eq!(*wrapped.key(), KeyId::default_key());
}
