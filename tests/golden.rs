//! Stores outlive versions: what format 1 wrote must open for ever. The files under `tests/golden/` are pinned;
//! a test beside the writer checks that it still writes them byte for byte.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use wardfs::access::{Access, Choice, KnownCaller, Range};
use wardfs::id::{Gid, KeyId, SecretId, SecretName, StoreId, Uid, VersionId, VersionNo};
use wardfs::seal::{
    Context, Keyring, Purpose, RecordKind, Slot, SlotKind, Term, TermSum, WrappedKey, plain_len,
};
use wardfs::secret::SecretBytes;
use wardfs::store::memory::Memory;
use wardfs::store::{Batch, Revision, Store, Table};
use wardfs::sys::mem;
use wardfs::vault::{Life, Vault, Visibility};

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

/// The whole store of format 1: its directory with key file and log, and its records.
fn store_of_format_1() -> (tempfile::TempDir, Memory) {
    let dir = tempfile::tempdir().unwrap();
    let private = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    private(dir.path(), 0o700);
    let audit = dir.path().join("audit");
    std::fs::create_dir(&audit).unwrap();
    private(&audit, 0o700);

    let store = Memory::new();
    let mut batch = Batch::default();
    let mut log = String::new();
    let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
    let golden = include_str!("golden/store-format-1.txt");
    for line in golden.lines().filter(|l| !l.starts_with('#')) {
        let (what, bytes) = line.split_once(" = ").unwrap();
        match what.split_once(' ') {
            Some((table, key)) => {
                batch.put(Table::ALL[usize::from(hex(table)[0])], hex(key), hex(bytes));
            }
            None if what == "log" => log += &format!("{bytes}\n"),
            None => std::fs::write(dir.path().join(what), hex(bytes)).unwrap(),
        }
    }
    private(&dir.path().join("root.key"), 0o600);
    std::fs::write(audit.join("00000001.jsonl"), log).unwrap();
    private(&audit.join("00000001.jsonl"), 0o600);
    store.commit(Revision(0), &batch).unwrap();
    (dir, store)
}

/// A whole store of format 1: everything in it is there and readable, and its log is whole.
#[test]
fn a_store_of_format_1_opens() {
    let (dir, store) = store_of_format_1();
    let settings = wardfs::daemon::settings(dir.path(), &wardfs::config::Config::default());
    let vault = Arc::new(Vault::open_with(Box::new(store), dir.path(), &settings).unwrap());
    assert_eq!(vault.verify_log(&mut |_| {}).unwrap().records, 6);
    assert_eq!(vault.check(&mut |_| {}).unwrap().problems.len(), 0);
    let access = Access::new(vault.clone(), false);
    let state = vault.state();
    let read = |name: &str, label: &str, uid: u32| {
        let secret = state.secrets.by_name(name).unwrap();
        let mut caller = KnownCaller::supposed(Uid(uid), Gid(uid), Vec::new());
        let pin = access.open(secret, Choice::Label(label), 0, &mut caller).ok()?;
        let bytes = access.read(&pin, Range::WHOLE, &mut caller).unwrap()?;
        Some(bytes.expose().to_vec())
    };
    assert_eq!(
        read("app/db/password", "current", 61001).unwrap(),
        b"second value"
    );
    assert_eq!(
        read("app/db/password", "previous", 61001).unwrap(),
        b"first value"
    );
    assert_eq!(read("app/db/password", "current", 61002), None);
    assert_eq!(read("hidden", "current", 0).unwrap(), [0, 255, 10]);
    let meta = |name: &str| state.secrets.by_name(name).unwrap().meta.clone();
    let look = meta("app/db/password").appearance;
    assert_eq!(
        (look.owner, look.group, look.mode),
        (Some(33), Some(34), Some(0o440))
    );
    assert_eq!(meta("app/db/password").description.as_deref(), Some("orders DB"));
    assert_eq!(meta("hidden").visibility, Visibility::Hidden);
    assert_eq!(meta("gone").life, Life::Deleted);
    assert!(meta("gone").policy.is_some(), "a deleted name keeps its policy");
}

/// Its epoch record as a release writes it that has given a log up: of a format that none opens that would forget that,
/// and cannot be passed off as another.
#[test]
fn what_is_told_of_a_lost_log_is_kept() {
    let line = include_str!("golden/epoch-format-2.txt");
    let record = line
        .lines()
        .find_map(|line| line.strip_prefix("epoch = "))
        .unwrap();
    let record = HEXLOWER.decode(record.as_bytes()).unwrap();
    assert_eq!(record[..2], [2, 2], "readers of format 1 refuse it as too new");
    let open = |record: Vec<u8>| {
        let (dir, store) = store_of_format_1();
        let mut batch = Batch::default();
        batch.put(Table::Epoch, b"epoch".as_slice(), record);
        store.commit(store.revision().unwrap(), &batch).unwrap();
        let settings = wardfs::daemon::settings(dir.path(), &wardfs::config::Config::default());
        Vault::open_with(Box::new(store), dir.path(), &settings).map(|vault| (dir, vault))
    };
    let (_dir, vault) = open(record.clone()).unwrap_or_else(|e| panic!("{e}"));
    let lost = vault.state().settings.lost.clone();
    assert_eq!((lost.len(), lost[0].last_sequence, lost[0].uid), (1, 6, Uid(0)));
    assert_eq!(lost[0].reason, "the disk of the log died");
    // Changed, so that an older release takes it, it opens nowhere.
    let older = [&[1, 1], &record[2..]].concat();
    let refused = open(older).err().expect("refused");
    assert_eq!(refused.exit(), wardfs::problem::Exit::Integrity, "{refused}");
    let newer = [&[3, 3], &record[2..]].concat();
    let refused = open(newer).err().expect("refused").to_string();
    assert!(refused.contains("format 3"), "{refused}");
}
