//! Stores outlive versions: what format 1 wrote must open for ever. The files under `tests/golden/` are pinned;
//! a test beside the writer checks that it still writes them byte for byte.

use data_encoding::HEXLOWER;
use wardfs::id::{KeyId, SecretId, SecretName, StoreId, VersionId, VersionNo};
use wardfs::seal::{
    Context, Keyring, Purpose, RecordKind, Slot, SlotKind, Term, TermSum, WrappedKey, plain_len,
};
use wardfs::secret::SecretBytes;
use wardfs::sys::mem;

const STORE: StoreId = StoreId(*b"store 0123456789");

fn golden(name: &str) -> Vec<u8> {
    let line = include_str!("golden/seal-format-1.txt")
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
        .unwrap_or_else(|| panic!("no {name}"));
    HEXLOWER.decode(line.as_bytes()).unwrap()
}

fn locked(bytes: &[u8]) -> SecretBytes {
    let mut secret = mem::secret(bytes.len()).unwrap();
    secret.expose_mut().copy_from_slice(bytes);
    secret
}

/// The store's keyring, opened by the slot of that name.
fn ring(slot: &str, kind: SlotKind, secret: u8) -> Keyring {
    let bytes = golden(slot);
    let slot = Slot::decode(&bytes).unwrap();
    assert_eq!(slot.kind, kind);
    assert_eq!(slot.encode(), bytes);
    let mut ring = Keyring::new(STORE, slot.open(&locked(&[secret; 32]), STORE).unwrap()).unwrap();
    ring.add_key(KeyId::default_key(), &golden("named key default"))
        .unwrap();
    ring
}

fn value(ring: &Keyring) -> Vec<u8> {
    let name: SecretName = "app/db/password".parse().unwrap();
    let version: VersionId = "0190c0de-0000-7000-8000-000000000001".parse().unwrap();
    let ctx = Context {
        store: STORE,
        tenant: "",
        name: &name,
        secret: SecretId(7),
        version: &version,
        version_no: VersionNo(41),
        key: &KeyId::default_key(),
    };
    let bytes = golden("wrapped data key");
    let wrapped = WrappedKey::decode(&bytes).unwrap();
    assert_eq!(wrapped.encode(), bytes);
    let sealed = golden("value");
    let mut out = mem::secret(plain_len(&sealed).unwrap()).unwrap();
    ring.unwrap(&ctx, &wrapped)
        .unwrap()
        .open_value(&ctx, &wrapped, &sealed, &mut out)
        .unwrap();
    out.expose().to_vec()
}

#[test]
fn format_1_opens() {
    for ring in [
        ring("key file slot", SlotKind::KeyFile, 0x11),
        ring("recovery slot", SlotKind::Recovery, 0x22),
    ] {
        let record = golden("record 2 9");
        let plain = ring.open_record(RecordKind(2), 9, &record).unwrap();
        assert_eq!(plain, b"{\"name\":\"app/db/password\"}");
        assert_eq!(value(&ring), b"correct horse battery staple");
        let term = ring.term(RecordKind(2), 9, 3, &record);
        let stored: [u8; 32] = golden("term of record 2 9 at revision 3").try_into().unwrap();
        assert!(term.ct_eq(&Term(stored)));
        let mut sum = TermSum::default();
        sum.add(&ring.summand(&term));
        assert_eq!(sum.0, *golden("sum of that term"));
        assert_eq!(ring.derive(Purpose::Audit).unwrap().expose(), golden("audit key"));
    }
}
