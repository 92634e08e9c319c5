//! Stores outlive versions: what format 1 wrote must open for ever. The files under `tests/golden/` are pinned;
//! a test beside the writer checks that it still writes them byte for byte.

use std::ops::ControlFlow;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use wardfs::access::{Access, Choice, KnownCaller, Range};
use wardfs::id::{Gid, KeyId, SecretId, SecretName, StoreId, Uid, VersionId, VersionNo};
use wardfs::problem::Exit;
use wardfs::seal::{
    Context, Keyring, Purpose, RecordKind, Slot, SlotKind, Summing, Term, TermSum, WrappedKey, plain_len,
};
use wardfs::secret::SecretBytes;
use wardfs::store::header::{self, Header};
use wardfs::store::memory::Memory;
use wardfs::store::{Batch, Checked, Revision, Store, StoreError, Table, Watch};
use wardfs::sys::mem;
use wardfs::vault::{Life, Vault, VaultError, Visibility};

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
        sum.add(&ring.summand(Summing::Terms, (RecordKind(2), 9), &term));
        assert_eq!(sum.0, *golden("sum of that term"));
        let mut placed = TermSum::default();
        placed.add(&ring.summand(Summing::Places, (RecordKind(2), 9), &term));
        let line = include_str!("golden/seal-format-2.txt").lines().last().unwrap();
        let (_, line) = line.split_once(" = ").unwrap();
        assert_eq!(HEXLOWER.encode(&placed.0), line);
        assert_eq!(ring.derive(Purpose::Audit).unwrap().expose(), golden("audit key"));
    }
}

/// A store over records that outlive it.
struct Over(Arc<Memory>);

impl Store for Over {
    fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision()
    }
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(table, key)
    }
    fn list(
        &self,
        table: Table,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.0.list(table, each)
    }
    fn dump(&self, each: &mut dyn FnMut(Table, &[u8], &[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.0.dump(each)
    }
    fn commit(&self, base: Revision, batch: &Batch) -> Result<Revision, StoreError> {
        self.0.commit(base, batch)
    }
    fn watch(&self, since: Revision) -> Result<Watch, StoreError> {
        self.0.watch(since)
    }
    fn check(&self, progress: &mut dyn FnMut(f64)) -> Result<Checked, StoreError> {
        self.0.check(progress)
    }
}

/// A golden store, in memory, with its key file and log in a directory.
struct Golden {
    dir: tempfile::TempDir,
    records: Arc<Memory>,
}

impl Golden {
    fn new(text: &str) -> Golden {
        let dir = tempfile::tempdir().unwrap();
        let private = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        private(dir.path(), 0o700);
        let audit = dir.path().join("audit");
        std::fs::create_dir(&audit).unwrap();
        private(&audit, 0o700);
        let records = Memory::new();
        let mut batch = Batch::default();
        let mut log = String::new();
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
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
        records.commit(Revision(0), &batch).unwrap();
        Golden {
            dir,
            records: Arc::new(records),
        }
    }

    fn open(&self) -> Result<Arc<Vault>, VaultError> {
        let settings = wardfs::daemon::settings(self.dir.path(), &wardfs::config::Config::default());
        let store = Box::new(Over(self.records.clone()));
        Vault::open_with(store, self.dir.path(), &settings).map(Arc::new)
    }

    fn header(&self) -> Header {
        let bytes = self.records.get(Table::Header, header::KEY).unwrap().unwrap();
        Header::decode(&bytes).unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Batch)) {
        let mut batch = Batch::default();
        change(&mut batch);
        self.records
            .commit(self.records.revision().unwrap(), &batch)
            .unwrap();
    }
}

fn read(vault: &Arc<Vault>, name: &str, label: &str, uid: u32) -> Option<Vec<u8>> {
    let access = Access::new(vault.clone(), false);
    let state = vault.state();
    let secret = state.secrets.by_name(name).unwrap();
    let mut caller = KnownCaller::supposed(Uid(uid), Gid(uid), Vec::new());
    let pin = access
        .open(state.view(secret), Choice::Label(label), 0, &mut caller)
        .ok()?;
    let bytes = access.read(&pin, Range::WHOLE, &mut caller).unwrap()?;
    Some(bytes.expose().to_vec())
}

/// Everything in a golden store is there and readable, and its log is whole.
fn whole(vault: &Arc<Vault>, records: u64) {
    assert_eq!(vault.verify_log(&mut |_| {}).unwrap().records, records);
    assert_eq!(vault.check(&mut |_| {}).unwrap().problems.len(), 0);
    let current = read(vault, "app/db/password", "current", 61001).unwrap();
    assert_eq!(current, b"second value");
    let previous = read(vault, "app/db/password", "previous", 61001).unwrap();
    assert_eq!(previous, b"first value");
    assert_eq!(read(vault, "app/db/password", "current", 61002), None);
    assert_eq!(read(vault, "hidden", "current", 0).unwrap(), [0, 255, 10]);
    let state = vault.state();
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

/// It is opened, and is one of format 2 then.
#[test]
fn a_store_of_format_1_opens() {
    let store = Golden::new(include_str!("golden/store-format-1.txt"));
    assert_eq!((store.header().format, store.header().min_reader), (1, 1));
    let before = store.header();
    whole(&store.open().unwrap(), 6);
    let after = store.header();
    assert_eq!((after.format, after.min_reader), (2, 2));
    assert_eq!((after.id, after.created), (before.id, before.created));
    // And the four reads.
    whole(&store.open().unwrap(), 6 + 4);
}

#[test]
fn a_store_of_format_2_opens() {
    let store = Golden::new(include_str!("golden/store-format-2.txt"));
    let vault = store.open().unwrap();
    whole(&vault, 10);
    assert_eq!(store.header().format, 2);
    // By an identity policy, and by none because a guardrail denies it.
    assert_eq!(
        read(&vault, "app/db/password", "current", 61004).unwrap(),
        b"second value"
    );
    assert_eq!(read(&vault, "app/db/password", "current", 61003), None);
}

/// In format 1 a term counted wherever it stood: a store in which one could hide another one is refused, and so is a
/// store of format 2 in which one stands elsewhere, whatever its header says.
#[test]
fn a_term_elsewhere_is_refused_in_both_formats() {
    let moved = |text: &str, kind: u8, to: u8| {
        let store = Golden::new(text);
        let [from, to] = [kind, to].map(|kind| [&[kind][..], &2u64.to_be_bytes()].concat());
        let term = store.records.get(Table::Term, &from).unwrap().unwrap();
        store.change(|batch| {
            batch.delete(Table::Term, from);
            batch.put(Table::Term, to, term);
        });
        store
    };
    let (one, two) = (
        include_str!("golden/store-format-1.txt"),
        include_str!("golden/store-format-2.txt"),
    );
    for (text, kind, to) in [
        (one, 1, 99),
        (one, 1, 6),
        (one, 2, 6),
        (two, 6, 99),
        (two, 6, 4),
        (two, 1, 6),
    ] {
        let store = moved(text, kind, to);
        let refused = store.open().err().map(|e| e.exit());
        assert_eq!(refused, Some(Exit::Integrity), "{kind} to {to}");
    }
    // An older header over a store of format 2 does not bring the old sum back.
    let store = Golden::new(two);
    let old = Header {
        format: 1,
        min_reader: 1,
        ..store.header()
    };
    store.change(|batch| {
        batch.put(Table::Header, header::KEY, old.encode());
    });
    whole(&store.open().unwrap(), 10);
}

/// An epoch record as a release writes it that has given a log up: none opens it that would forget that, and it cannot be
/// passed off as another.
#[test]
fn what_is_told_of_a_lost_log_is_kept() {
    let line = include_str!("golden/epoch-lost-log.txt");
    let record = line
        .lines()
        .find_map(|line| line.strip_prefix("epoch = "))
        .unwrap();
    let record = HEXLOWER.decode(record.as_bytes()).unwrap();
    assert_eq!(record[..2], [2, 2], "readers of format 1 refuse it as too new");
    let with = |record: Vec<u8>| {
        let golden = Golden::new(include_str!("golden/store-format-1.txt"));
        golden.change(|batch| {
            batch.put(Table::Epoch, b"epoch".as_slice(), record);
        });
        golden
    };
    let golden = with(record.clone());
    let vault = golden.open().unwrap_or_else(|e| panic!("{e}"));
    let lost = vault.state().settings.lost.clone();
    assert_eq!((lost.len(), lost[0].last_sequence, lost[0].uid), (1, 6, Uid(0)));
    assert_eq!(lost[0].reason, "the disk of the log died");
    drop(vault);
    // What is written then is no other.
    let written = golden.records.get(Table::Epoch, b"epoch").unwrap().unwrap();
    assert!(written != record && written[..2] == [2, 2]);
    assert_eq!(golden.open().unwrap().state().settings.lost, lost);
    // Changed, so that an older release takes it, it opens nowhere.
    let refused = with([&[1, 1], &record[2..]].concat()).open().err().unwrap();
    assert_eq!(refused.exit(), wardfs::problem::Exit::Integrity, "{refused}");
    let refused = with([&[3, 3], &record[2..]].concat()).open().err().unwrap();
    assert!(refused.to_string().contains("format 3"), "{refused}");
}
