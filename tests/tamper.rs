//! Tampering: whoever can write the disk gets an integrity error for what he touched, and nothing else.
//!
//! The first part rewrites single records under the library (every byte of every record); the second part flips
//! bytes of the real files under the real program.

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::product::{A, B, Product, Said, read_as};
use wardfs::access::{Access, AccessError, Choice, KnownCaller, Range};
use wardfs::id::{Gid, Uid};
use wardfs::policy::Administration;
use wardfs::problem::Exit;
use wardfs::store::embedded::Embedded;
use wardfs::store::memory::Memory;
use wardfs::store::{Batch, Checked, Op, Revision, Store, StoreError, Table, Watch};
use wardfs::vault::{Settings, Vault, VaultError};

type Records = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Chance that a failure can be repeated with.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed = std::env::var("WARDFS_TEST_SEED")
            .ok()
            .and_then(|s| s.parse().ok());
        let time = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
        let seed = seed.unwrap_or(time.as_nanos() as u64);
        println!("WARDFS_TEST_SEED={seed}");
        Dice(seed)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

/// Secret, its readers, its value at the end of the history.
const SECRETS: [(&str, u32, &str); 4] = [
    ("app/one", A, "the second value of one"),
    ("app/two", A, "two's own value"),
    ("moved", B, "now for B alone"),
    ("other/three", A, "three!"),
];

/// A store with a history, and its records after each step of it.
struct Lab {
    product: Product,
    stages: Vec<Records>,
    log: u64,
}

impl Lab {
    fn new() -> Lab {
        let product = Product::new();
        let policy = |uid: u32| {
            let path = product.dir().join(format!("policy-{uid}"));
            let text = format!(
                r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Uid":"{uid}"}},"Action":"secretsmanager:GetSecretValue","Resource":"*"}}]}}"#
            );
            std::fs::write(&path, text).expect("policy");
            path.to_str().expect("a path").to_string()
        };
        let (for_a, for_b) = (policy(A), policy(B));
        let mut stages = Vec::new();
        let mut keep = || stages.push(records_of(&Embedded::open(product.store()).expect("open")));
        product.put("app/one", "the first value of one", &["--policy", &for_a]);
        keep();
        product.put("app/two", "two's own value", &["--policy", &for_a]);
        product.put("other/three", "three!", &["--policy", &for_a]);
        product.put("moved", "once for A", &["--policy", &for_a]);
        product.put("gone", "a deleted value", &["--policy", &for_a]);
        keep();
        product.run(&["policy", "set", "moved", &for_b]).ok();
        keep();
        product.put("app/one", "the second value of one", &[]);
        product.put("moved", "now for B alone", &[]);
        keep();
        product.run(&["delete", "gone", "--now"]).ok();
        keep();
        let mut lab = Lab {
            product,
            stages,
            log: 0,
        };
        lab.log = lab.segment().metadata().expect("log").len();
        lab
    }

    fn segment(&self) -> PathBuf {
        self.product.store().join("audit/00000001.jsonl")
    }

    fn now(&self) -> &Records {
        self.stages.last().expect("stages")
    }

    /// Opens these records under the log as it stood.
    fn open(&self, records: &Records) -> Result<Access, VaultError> {
        let store = Memory::new();
        let mut batch = Batch::new();
        for ((table, key), bytes) in records {
            batch.put(*table, key.as_slice(), bytes.clone());
        }
        store.commit(Revision(0), &batch).expect("in memory");
        self.open_store(Box::new(store))
    }

    fn open_store(&self, store: Box<dyn Store>) -> Result<Access, VaultError> {
        let log = std::fs::OpenOptions::new().write(true).open(self.segment());
        log.and_then(|f| f.set_len(self.log))
            .expect("the log is put back");
        self.open_anew(store)
    }

    /// The same under the log as it is.
    fn open_anew(&self, store: Box<dyn Store>) -> Result<Access, VaultError> {
        let dir = self.product.store();
        let settings = Settings {
            key_file: dir.join("root.key"),
            log: wardfs::audit::Options {
                reserve_bytes: 0,
                ..Default::default()
            },
            administration: Administration {
                owner: wardfs::id::ROOT,
                group: None,
                root_describes: true,
            },
            deciding: None,
        };
        Vault::open_with(store, &dir, &settings).map(|vault| Access::new(Arc::new(vault), false))
    }

    fn integrity_records(&self) -> usize {
        let log = std::fs::read_to_string(self.segment()).expect("log");
        log.matches("\"eventName\":\"IntegrityError\"").count()
    }

    /// What anybody gets from these records; panics on a byte too many. Gives the secrets that answered with an
    /// integrity error, or `None` if the store was refused.
    #[track_caller]
    fn judge(&self, records: &Records, what: &str) -> Option<Vec<&'static str>> {
        let access = match self.open(records) {
            Ok(access) => access,
            Err(e) => {
                assert_eq!(e.exit(), Exit::Integrity, "{what}: {e}");
                return None;
            }
        };
        let mut broken = Vec::new();
        for (name, reader, value) in SECRETS {
            for uid in [A, B] {
                match get(&access, name, uid) {
                    Ok(bytes) if uid == reader => {
                        assert_eq!(String::from_utf8_lossy(&bytes), value, "{what}: {name}")
                    }
                    Ok(bytes) => panic!("{what}: {uid} read {name}: {}", String::from_utf8_lossy(&bytes)),
                    Err(e @ (AccessError::Integrity(_) | AccessError::NotFound)) => {
                        // Where not even the secret's settings are to be had, only administration is told.
                        if matches!(e, AccessError::NotFound) {
                            let told = get(&access, name, 0).expect_err("damaged");
                            assert!(
                                matches!(told, AccessError::Integrity(_)),
                                "{what}: {name}: {told}"
                            );
                        }
                        if uid == reader {
                            broken.push(name);
                        }
                    }
                    Err(AccessError::Denied(_)) if uid != reader => {}
                    Err(e) => panic!("{what}: {uid} reads {name}: {e}"),
                }
            }
        }
        let gone = get(&access, "gone", A);
        assert!(gone.is_err(), "{what}: a deleted secret was read");
        if !broken.is_empty() {
            assert!(self.integrity_records() > 0, "{what}: no IntegrityError record");
            let findings = access.vault().check(&mut |_| {}).expect("check");
            for name in &broken {
                let named = |f: &wardfs::vault::Finding| f.name.as_ref().is_some_and(|n| n.as_str() == *name);
                assert!(
                    findings.problems.iter().any(named),
                    "{what}: {name} is not named: {findings:?}"
                );
            }
        }
        Some(broken)
    }

    /// The number of a secret, from its position in the history (numbers are given in order).
    fn secret(&self, name: &str) -> Vec<u8> {
        let order = ["app/one", "app/two", "other/three", "moved", "gone"];
        let at = order.iter().position(|n| *n == name).expect("known");
        (at as u64 + 1).to_be_bytes().to_vec()
    }
}

fn records_of(store: &dyn Store) -> Records {
    let mut records = Records::new();
    for table in Table::ALL {
        let listed = store.list(table, &mut |key, bytes| {
            records.insert((table, key.to_vec()), bytes.to_vec());
            ControlFlow::Continue(())
        });
        listed.expect("list");
    }
    records
}

fn get(access: &Access, name: &str, uid: u32) -> Result<Vec<u8>, AccessError> {
    let state = access.vault().state();
    let secret = state.secrets.by_name(name).ok_or(AccessError::NotFound)?;
    let mut caller = KnownCaller::supposed(Uid(uid), Gid(uid), Vec::new());
    access.standing(secret, wardfs::audit::Event::DescribeSecret, &mut caller)?;
    let pin = access.open(secret, Choice::Label("current"), 1, &mut caller)?;
    let bytes = access.read(&pin, Range::WHOLE, &mut caller)?;
    Ok(bytes.map_or_else(Vec::new, |b| b.expose().to_vec()))
}

/// A store whose file somebody else writes while it is open, and of which one commit fails.
#[derive(Default)]
struct Written {
    records: std::sync::Mutex<Records>,
    revision: std::sync::atomic::AtomicU64,
    /// The next commit fails: before it is made, or after.
    fails: std::sync::Mutex<Option<bool>>,
}

impl Written {
    fn records(&self) -> std::sync::MutexGuard<'_, Records> {
        self.records.lock().expect("records")
    }
}

#[derive(Clone)]
struct Over(Arc<Written>);

impl Store for Over {
    fn revision(&self) -> Result<Revision, StoreError> {
        Ok(Revision(self.0.revision.load(Ordering::SeqCst)))
    }
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.records().get(&(table, key.to_vec())).cloned())
    }
    fn list(
        &self,
        table: Table,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let all = self.0.records().clone();
        let own = all.iter().filter(|((t, _), _)| *t == table);
        let _ = own
            .map(|((_, key), bytes)| each(key, bytes))
            .find(ControlFlow::is_break);
        Ok(())
    }
    fn dump(&self, _: &mut dyn FnMut(Table, &[u8], &[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        Ok(())
    }
    fn commit(&self, base: Revision, batch: &Batch) -> Result<Revision, StoreError> {
        let fails = self.0.fails.lock().expect("fails").take();
        if fails != Some(false) {
            for op in batch.ops() {
                match op {
                    Op::Put { table, key, bytes } => {
                        self.0.records().insert((*table, key.to_vec()), bytes.to_vec());
                    }
                    Op::Delete { table, key } => {
                        self.0.records().remove(&(*table, key.to_vec()));
                    }
                }
            }
            self.0.revision.store(base.0 + 1, Ordering::SeqCst);
        }
        match fails {
            None => Ok(Revision(base.0 + 1)),
            Some(_) => Err(StoreError::Io {
                doing: "write",
                path: "the store".into(),
                source: std::io::Error::from_raw_os_error(libc::EIO),
            }),
        }
    }
    fn watch(&self, _: Revision) -> Result<Watch, StoreError> {
        unimplemented!("nobody watches")
    }
    fn check(&self, _: &mut dyn FnMut(f64)) -> Result<Checked, StoreError> {
        unimplemented!("nobody checks")
    }
}

fn term_of(table: Table, key: &[u8]) -> (Table, Vec<u8>) {
    let kind = match table {
        Table::Secret => 1,
        Table::Version => 2,
        other => panic!("{other:?} has no such terms"),
    };
    (Table::Term, [&[kind], key].concat())
}

#[test]
fn any_byte_of_any_record() {
    let _deadline = support::Deadline::new(Duration::from_secs(240), "any byte");
    let lab = Lab::new();
    assert_eq!(lab.judge(lab.now(), "untouched"), Some(vec![]));
    let mut dice = Dice::new();
    let (mut tried, mut refused, mut spoiled) = (0, 0, 0);
    for ((table, key), bytes) in lab.now() {
        for at in 0..bytes.len() {
            let mut records = lab.now().clone();
            let bit = 1u8 << dice.below(8);
            records.get_mut(&(*table, key.clone())).expect("there")[at] ^= bit;
            let what = format!("{table:?} {key:?}, byte {at} ^ {bit:#04x}");
            let broken = lab.judge(&records, &what);
            tried += 1;
            match (table, &broken) {
                // One broken record harms no other.
                (Table::Secret | Table::Version | Table::Value, None) => {
                    panic!("{what}: the store was refused")
                }
                (Table::Secret | Table::Version | Table::Value, Some(broken)) => {
                    assert!(broken.len() <= 1, "{what}: {broken:?}")
                }
                (Table::Key | Table::Term | Table::Epoch, Some(_)) => panic!("{what} was not noticed"),
                _ => {}
            }
            refused += usize::from(broken.is_none());
            spoiled += usize::from(broken.is_some_and(|b| !b.is_empty()));
        }
    }
    println!("{tried} bytes flipped: {refused} refused the store, {spoiled} one secret");
    assert!(refused > 50 && spoiled > 50);
}

#[test]
fn records_exchanged_cut_removed_and_added() {
    let _deadline = support::Deadline::new(Duration::from_secs(120), "exchanged");
    let lab = Lab::new();
    let names: Vec<(Table, Vec<u8>)> = lab.now().keys().cloned().collect();
    for table in [Table::Secret, Table::Version, Table::Value] {
        let own: Vec<_> = names.iter().filter(|(t, _)| *t == table).collect();
        assert!(own.len() > 3, "{table:?}");
        for (i, a) in own.iter().enumerate() {
            for b in &own[i + 1..] {
                let mut records = lab.now().clone();
                let (one, other) = (records[*a].clone(), records[*b].clone());
                records.insert((*a).clone(), other.clone());
                records.insert((*b).clone(), one.clone());
                let what = format!("{a:?} exchanged with {b:?}");
                let broken = lab.judge(&records, &what).expect("the others are served");
                assert!(broken.len() <= 2, "{what}: {broken:?}");
                if table == Table::Value {
                    continue;
                }
                let (s, t) = (term_of(table, &a.1), term_of(table, &b.1));
                let (one, other) = (records[&s].clone(), records[&t].clone());
                records.insert(s, other);
                records.insert(t, one);
                let broken = lab.judge(&records, &format!("{what}, their terms too"));
                assert!(broken.is_none_or(|b| b.len() <= 2), "{what}");
            }
        }
    }
    for at in &names {
        let mut records = lab.now().clone();
        let whole = records.remove(at).expect("there");
        let what = format!("{at:?} removed");
        let broken = lab.judge(&records, &what);
        if matches!(at.0, Table::Secret | Table::Version | Table::Value) {
            let served = broken.expect("the others are served");
            assert!(served.len() <= 1, "{what}: {served:?}");
            if at.0 != Table::Value {
                // With its term it was as if it had never been.
                let mut without = records.clone();
                without.remove(&term_of(at.0, &at.1)).expect("a term");
                assert_eq!(lab.judge(&without, &what), None, "{what}, with its term");
            }
        }
        for cut in [0, 1, 7, 8, 9, whole.len() / 2, whole.len() - 1] {
            if cut < whole.len() {
                records.insert(at.clone(), whole[..cut].to_vec());
                lab.judge(&records, &format!("{at:?} cut to {cut}"));
            }
        }
        records.insert(at.clone(), [&whole[..], b"x"].concat());
        lab.judge(&records, &format!("{at:?} lengthened"));
    }
    // Records that nobody wrote.
    for (table, key) in [
        (Table::Secret, 99u64.to_be_bytes().to_vec()),
        (Table::Version, 99u64.to_be_bytes().to_vec()),
        (Table::Secret, b"odd".to_vec()),
        (Table::Version, Vec::new()),
        (Table::Value, 99u64.to_be_bytes().to_vec()),
        (Table::Outbox, 1u64.to_be_bytes().to_vec()),
    ] {
        for bytes in [vec![], vec![1, 2, 3], vec![0; 300]] {
            let mut records = lab.now().clone();
            records.insert((table, key.clone()), bytes);
            let what = format!("{table:?} {key:?} added");
            assert_eq!(lab.judge(&records, &what), Some(vec![]), "{what}");
        }
    }
    // A named key that nobody made.
    let mut records = lab.now().clone();
    let key = records[&(Table::Key, b"default".to_vec())].clone();
    records.insert((Table::Key, b"other".to_vec()), key);
    assert_eq!(lab.judge(&records, "a named key added"), None);
}

/// A term that is moved aside would take its record away: a guardrail's, a secret's policy, a version.
#[test]
fn a_term_counts_in_its_place_alone() {
    let _deadline = support::Deadline::new(Duration::from_secs(120), "places");
    let lab = Lab::new();
    let terms: Vec<_> = lab
        .now()
        .keys()
        .filter(|(t, _)| *t == Table::Term)
        .cloned()
        .collect();
    let mut tried = 0;
    for term in &terms {
        let record = match term.1[0] {
            1 => (Table::Secret, term.1[1..].to_vec()),
            2 => (Table::Version, term.1[1..].to_vec()),
            _ => (Table::Key, b"default".to_vec()),
        };
        for kind in [0, 1, 2, 3, 4, 5, 6, 99] {
            for id in [&term.1[1..], &77u64.to_be_bytes()] {
                let aside = (Table::Term, [&[kind], id].concat());
                if lab.now().contains_key(&aside) {
                    continue;
                }
                let mut records = lab.now().clone();
                let bytes = records.remove(term).expect("a term");
                records.insert(aside.clone(), bytes);
                let what = format!("{term:?} moved to {aside:?}");
                assert_eq!(lab.judge(&records, &what), None, "{what}");
                records.remove(&record).expect("its record");
                assert_eq!(lab.judge(&records, &what), None, "{what}, without its record");
                tried += 1;
            }
        }
        // A term more, of a kind that there is none of.
        let mut records = lab.now().clone();
        records.insert((Table::Term, [&[99], &term.1[1..]].concat()), vec![0; 32]);
        assert_eq!(lab.judge(&records, "a term of no kind"), None);
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn the_past_put_back() {
    let _deadline = support::Deadline::new(Duration::from_secs(120), "the past");
    let lab = Lab::new();
    let now = lab.now();
    let mut tried = 0;
    for (stage, old) in lab.stages.iter().enumerate() {
        for (at, bytes) in old {
            if now.get(at) == Some(bytes) {
                continue;
            }
            tried += 1;
            let what = format!("{at:?} of stage {stage}");
            let mut records = now.clone();
            records.insert(at.clone(), bytes.clone());
            let broken = lab.judge(&records, &what);
            match at.0 {
                Table::Secret | Table::Version => {
                    let broken = broken.expect("without its term it harms only itself");
                    assert!(broken.len() <= 1, "{what}: {broken:?}");
                    let was_deleted = at.1 == lab.secret("gone") || !now.contains_key(at);
                    assert!(was_deleted || broken.len() == 1, "{what} was believed");
                    let term = term_of(at.0, &at.1);
                    records.insert(term.clone(), old[&term].clone());
                    assert_eq!(lab.judge(&records, &what), None, "{what}, with its old term");
                }
                // An old value, an old version's or a deleted secret's: nobody asks for it.
                Table::Value => assert!(broken.is_some_and(|b| b.len() <= 1), "{what}"),
                Table::Term => assert_eq!(broken, None, "{what}"),
                // The sum in an older epoch record is another one, or the store is older than its log.
                Table::Epoch => assert_eq!(broken, None, "{what}"),
                _ => {}
            }
        }
        if old != now {
            // All of it: an older store under the newer log.
            let refused = lab.open(old).map(drop).expect_err("an older store");
            assert!(
                matches!(refused, VaultError::RolledBack(_)),
                "stage {stage}: {refused}"
            );
            // All but the epoch record, and the epoch record alone with its terms.
            let epoch = (Table::Epoch, b"epoch".to_vec());
            let mut mixed = old.clone();
            mixed.insert(epoch.clone(), now[&epoch].clone());
            assert_eq!(lab.judge(&mixed, "old records under the new epoch"), None);
            let mut mixed = now.clone();
            mixed.retain(|(table, _), _| *table != Table::Term && *table != Table::Epoch);
            let old_sum = old
                .iter()
                .filter(|((t, _), _)| matches!(t, Table::Term | Table::Epoch));
            mixed.extend(old_sum.map(|(k, v)| (k.clone(), v.clone())));
            assert_eq!(lab.judge(&mixed, "old epoch and terms over new records"), None);
        }
    }
    assert!(tried > 15, "{tried}");
}

/// Sets the policy of `moved` to the one that `like` has.
fn set_like(access: &Access, like: &str) -> Result<(), VaultError> {
    access.vault().change(|draft| {
        let by_name = |name: &str| draft.state().secrets.by_name(name).expect("there").meta.clone();
        let (mut meta, like) = (by_name("moved"), by_name(like));
        meta.policy = like.policy;
        draft.put_secret(meta, wardfs::vault::ChangeKind::Settings);
        Ok(((), body()))
    })
}

/// A store that is written by others while it is open: a term that is moved aside would not be taken from the sum when
/// its record is written anew, and could stand beside the new one from then on.
#[test]
fn a_term_that_is_exchanged_while_the_store_is_open_stops_the_change() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "exchanged while open");
    let lab = Lab::new();
    let term = (Table::Term, [&[1], &lab.secret("moved")[..]].concat());
    let written = Arc::new(Written::default());
    *written.records() = lab.now().clone();
    let access = lab
        .open_store(Box::new(Over(written.clone())))
        .expect("untouched");
    assert_eq!(get(&access, "moved", B).expect("its reader"), b"now for B alone");
    let old = written.records()[&term].clone();
    let other = written.records()[&(Table::Term, [&[1], &lab.secret("app/one")[..]].concat())].clone();
    for exchanged in [None, Some(other), Some(vec![7; 32]), Some(vec![1, 2, 3])] {
        match exchanged {
            None => drop(written.records().remove(&term)),
            Some(bytes) => drop(written.records().insert(term.clone(), bytes)),
        }
        let before = written.records().clone();
        let stopped = set_like(&access, "app/one");
        assert!(matches!(stopped, Err(VaultError::Integrity(_))), "{stopped:?}");
        assert_eq!(*written.records(), before, "nothing is written");
        assert!(get(&access, "moved", A).is_err(), "what was known is in force");
    }
    written.records().insert(term.clone(), old);
    set_like(&access, "app/one").expect("as it was");
    assert_eq!(
        get(&access, "moved", A).expect("the new reader"),
        b"now for B alone"
    );
    // What it wrote is believed.
    drop(access);
    let records = written.records().clone();
    let store = Arc::new(Written::default());
    *store.records() = records;
    let access = lab.open_anew(Box::new(Over(store))).expect("whole");
    assert!(get(&access, "moved", B).is_err());
}

/// After a commit of which the end is not known the store is as before it or as after it, and nothing else.
#[test]
fn a_store_put_back_while_a_commit_is_in_doubt_is_not_believed() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "in doubt");
    let lab = Lab::new();
    for made in [false, true] {
        let written = Arc::new(Written::default());
        *written.records() = lab.now().clone();
        let access = lab
            .open_store(Box::new(Over(written.clone())))
            .expect("untouched");
        let old = written.records().clone();
        set_like(&access, "app/one").expect("for A");
        set_like(&access, "other/three").expect("for A again");
        set_like(&access, "moved").expect("as it is");
        let now = written.records().clone();
        *written.fails.lock().expect("fails") = Some(made);
        let failed = set_like(&access, "app/two");
        assert!(failed.is_err(), "{failed:?}");
        let left = written.records().clone();
        for past in [&old, &now] {
            if made || past != &now {
                *written.records() = past.clone();
                let refused = set_like(&access, "app/one");
                assert!(matches!(refused, Err(VaultError::RolledBack(_))), "{refused:?}");
                assert!(access.vault().tick().is_err());
                assert!(get(&access, "moved", B).is_err(), "what was known is in force");
                assert_eq!(*written.records(), *past, "nothing is written");
            }
        }
        *written.records() = left;
        set_like(&access, "app/one").expect("it is as it was, or as it was to be");
        drop(access);
        let again = Arc::new(Written::default());
        *again.records() = written.records().clone();
        let access = lab.open_anew(Box::new(Over(again))).expect("whole");
        assert_eq!(get(&access, "moved", A).expect("its reader"), b"now for B alone");
    }
}

#[test]
fn a_name_whose_policy_is_lost_is_not_made_anew() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "lost name");
    let lab = Lab::new();
    let mut records = lab.now().clone();
    let gone = (Table::Secret, lab.secret("gone"));
    *records
        .get_mut(&gone)
        .expect("its record")
        .last_mut()
        .expect("bytes") ^= 1;
    let access = lab.open(&records).expect("the others are served");
    let findings = access.vault().check(&mut |_| {}).expect("check");
    assert_eq!(findings.problems.len(), 1, "{findings:?}");
    assert!(
        findings.problems[0].what.contains("secret number 5"),
        "{findings:?}"
    );
    let made = access.vault().change(|draft| -> Result<_, VaultError> {
        let old = draft
            .state()
            .secrets
            .by_name("moved")
            .expect("there")
            .meta
            .clone();
        let (id, name) = (draft.new_secret(), "gone".parse().expect("a name"));
        draft.put_secret(
            wardfs::vault::SecretMeta {
                id,
                name,
                tags: Default::default(),
                labels: Default::default(),
                ..old
            },
            wardfs::vault::ChangeKind::Created,
        );
        Ok(((), body()))
    });
    assert!(matches!(made, Err(VaultError::Integrity(_))), "{made:?}");
}

fn body() -> wardfs::audit::Body {
    wardfs::audit::Record {
        event: wardfs::audit::Event::PutSecretValue,
        outcome: wardfs::audit::Outcome::Allowed,
        ..Default::default()
    }
    .body()
}

// ---- the real files under the real program ----

/// Runs a command that must end by itself within its time, and not by a signal or a panic.
#[track_caller]
fn ends(product: &Product, args: &[&str], what: &str) -> Said {
    let mut command = product.command(args);
    let begin = Instant::now();
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("start wardfs");
    while child.try_wait().expect("wait").is_none() {
        if begin.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            panic!("{what}: {args:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().expect("output");
    let said = Said {
        status: output.status,
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(
        said.status.code().is_some_and(|c| c != 101) && !said.err.contains("panicked"),
        "{what}: {args:?}: {said:?}"
    );
    said
}

/// A store directory's files, to be put back after each attempt.
struct Saved {
    store: PathBuf,
    files: Vec<(PathBuf, Vec<u8>, u32)>,
}

impl Saved {
    fn of(product: &Product) -> Saved {
        let store = product.store();
        let mut files = Vec::new();
        for dir in [store.clone(), store.join("audit")] {
            for entry in std::fs::read_dir(&dir).expect("list") {
                let path = entry.expect("entry").path();
                if path.is_file() {
                    let mode = path.metadata().expect("mode").permissions().mode();
                    files.push((path.clone(), std::fs::read(&path).expect("read"), mode));
                }
            }
        }
        Saved { store, files }
    }

    fn put_back(&self) {
        let audit = self.store.join("audit");
        let _ = std::fs::remove_dir_all(&audit);
        std::fs::create_dir(&audit).expect("mkdir");
        std::fs::set_permissions(&audit, PermissionsExt::from_mode(0o700)).expect("chmod");
        for entry in std::fs::read_dir(&self.store).expect("list") {
            let path = entry.expect("entry").path();
            if !path.is_dir() {
                std::fs::remove_file(path).expect("remove");
            }
        }
        for (path, bytes, mode) in &self.files {
            std::fs::write(path, bytes).expect("write");
            std::fs::set_permissions(path, PermissionsExt::from_mode(*mode)).expect("chmod");
        }
    }

    fn file(&self, name: &str) -> &[u8] {
        let found = self.files.iter().find(|(path, ..)| path.ends_with(name));
        &found.unwrap_or_else(|| panic!("no {name}")).1
    }
}

fn plain_product() -> (Product, Vec<(&'static str, String)>) {
    let product = Product::new();
    let (zero, a) = ("uid:0", format!("uid:{A}"));
    let values = vec![
        ("app/one", "the value of one".to_string()),
        ("app/long", "0123456789".repeat(900)),
        ("three", "3".to_string()),
    ];
    for (name, value) in &values {
        product.put(name, value, &["--allow", zero, "--allow", &a]);
    }
    (product, values)
}

#[test]
fn any_byte_of_the_real_file() {
    let _deadline = support::Deadline::new(Duration::from_secs(400), "any byte of the file");
    let (mut product, values) = plain_product();
    let saved = Saved::of(&product);
    let whole = saved.file("store.redb").to_vec();
    // Most of the file is empty pages: bytes that say something are hit more often than others.
    let written: Vec<usize> = (0..whole.len()).filter(|&i| whole[i] != 0).collect();
    let mut dice = Dice::new();
    let flip = |dice: &mut Dice| {
        let at = match dice.below(4) {
            0 => dice.below(whole.len()),
            _ => written[dice.below(written.len())],
        };
        let bit = 1u8 << dice.below(8);
        let mut bytes = whole.clone();
        bytes[at] ^= bit;
        saved.put_back();
        std::fs::write(product_file(&saved), bytes).expect("write");
        format!("byte {at} ^ {bit:#04x}")
    };
    let (mut right, mut refused) = (0, 0);
    for i in 0..if support::long_run() { 2000 } else { 200 } {
        let what = flip(&mut dice);
        let (name, value) = &values[i % values.len()];
        let said = ends(&product, &["get", name], &what);
        match said.code() {
            0 => {
                assert_eq!(&said.out, value, "{what}: wrong bytes");
                right += 1;
            }
            6 => {
                assert!(said.out.is_empty() && !said.err.is_empty(), "{what}: {said:?}");
                refused += 1;
            }
            _ => panic!("{what}: {said:?}"),
        }
    }
    println!(
        "{} bytes of {} flipped: {right} times the right value, {refused} times exit 6",
        right + refused,
        whole.len()
    );
    let mut served = 0;
    for _ in 0..if support::long_run() { 200 } else { 12 } {
        let what = flip(&mut dice);
        if let Some(said) = product.try_mount(&[]) {
            assert_eq!(said.code(), 6, "{what}: {said:?}");
            continue;
        }
        for (name, value) in &values {
            match read_as(A, &[], &product.path(name)) {
                Ok(bytes) => assert_eq!(bytes, value.as_bytes(), "{what}: wrong bytes of {name}"),
                Err(libc::EIO | libc::ENOENT) => {
                    product.record("the integrity error", |r| r["eventName"] == "IntegrityError");
                }
                Err(e) => panic!("{what}: {name}: errno {e}"),
            }
        }
        served += 1;
        product.kill();
    }
    println!("the daemon served {served} of them");
}

fn product_file(saved: &Saved) -> PathBuf {
    saved.store.join("store.redb")
}

/// `audit verify` and the start of service both refuse with exit 6 and say what they should.
#[track_caller]
fn refused(product: &mut Product, what: &str, words: &[&str], at_start: bool) {
    let said = ends(product, &["audit", "verify"], what);
    assert_eq!(said.code(), 6, "{what}: {said:?}");
    for word in words {
        let text = format!("{}{}", said.out, said.err);
        assert!(text.contains(word), "{what}: {word:?} is not said: {said:?}");
    }
    if at_start {
        let said = product.try_mount(&[]);
        let said = said.unwrap_or_else(|| panic!("{what}: it is served"));
        assert_eq!(said.code(), 6, "{what}: {said:?}");
    }
}

#[test]
fn the_log_of_the_real_program() {
    let _deadline = support::Deadline::new(Duration::from_secs(120), "the log");
    let mut product = Product::new();
    product.put("first", "value", &["--allow", &format!("uid:{A}")]);
    let older_store = std::fs::read(product.store().join("store.redb")).expect("store");
    product.mount();
    for _ in 0..5 {
        assert!(read_as(A, &[], &product.path("first")).is_ok());
        assert!(read_as(B, &[], &product.path("first")).is_err());
    }
    product.stop();
    product.put("second", "value", &["--allow", &format!("uid:{A}")]);
    let saved = Saved::of(&product);
    let segment = product.store().join("audit/00000001.jsonl");
    let text = String::from_utf8(saved.file("00000001.jsonl").to_vec()).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 12, "{}", lines.len());
    let write = |lines: &[String]| {
        saved.put_back();
        std::fs::write(
            &segment,
            lines.iter().map(|l| format!("{l}\n")).collect::<String>(),
        )
        .expect("write");
    };
    let owned = || lines.iter().map(|l| l.to_string()).collect::<Vec<_>>();
    let last = lines.len() - 1;

    // Where the anchor stands behind it, only verifying reads so far back.
    let mut edited = owned();
    let by_a = format!("\"uid\":{A}");
    let at = lines
        .iter()
        .position(|l| l.contains(&by_a))
        .expect("a line of A's");
    let named = format!("record {}", at + 1);
    edited[at] = edited[at].replace(&by_a, "\"uid\":60000");
    write(&edited);
    refused(&mut product, "edited", &[&named], false);
    for (what, change) in [
        (
            "removed",
            Box::new(|l: &mut Vec<String>| drop(l.remove(at))) as Box<dyn Fn(&mut Vec<String>)>,
        ),
        ("reordered", Box::new(|l: &mut Vec<String>| l.swap(at, at + 1))),
        (
            "inserted",
            Box::new(|l: &mut Vec<String>| l.insert(at, l[at - 2].clone())),
        ),
    ] {
        let mut changed = owned();
        change(&mut changed);
        write(&changed);
        // What was moved across the anchor's offset is noticed at a start already.
        refused(&mut product, what, &[&named], what != "reordered");
    }
    // The last line is the anchored one.
    let mut edited = owned();
    edited[last] = edited[last].replace("second", "fourth");
    write(&edited);
    refused(
        &mut product,
        "the last line edited",
        &[&format!("record {}", last + 1)],
        true,
    );
    write(&owned()[..last]);
    refused(&mut product, "truncated behind the anchor", &["audit log"], true);
    write(&[]);
    refused(&mut product, "emptied", &["audit log"], true);

    // Somebody without the key computes a chain of his own.
    let forged: Vec<String> = owned()
        .iter()
        .map(|line| {
            let body = line.split(",\"mac\":\"").next().expect("a body");
            let body = body.replace(&format!("\"uid\":{A}"), "\"uid\":60000");
            use sha2::Digest;
            let mac = data_encoding::BASE64URL_NOPAD.encode(&sha2::Sha256::digest(body.as_bytes()));
            format!("{body},\"mac\":\"{mac}\"}}")
        })
        .collect();
    write(&forged);
    refused(&mut product, "recomputed", &["record 1"], true);

    saved.put_back();
    std::fs::remove_file(&segment).expect("remove");
    refused(&mut product, "segment removed", &["missing"], true);
    saved.put_back();
    std::fs::remove_dir_all(product.store().join("audit")).expect("remove");
    refused(&mut product, "log removed", &["missing"], true);

    saved.put_back();
    std::fs::write(product.store().join("store.redb"), &older_store).expect("write");
    refused(&mut product, "an older store", &["older than its log"], true);

    saved.put_back();
    let newer = text.replacen("\"format\":1,\"minReader\":1", "\"format\":8,\"minReader\":7", 1);
    assert_ne!(newer, text);
    std::fs::write(&segment, newer).expect("write");
    refused(
        &mut product,
        "a newer log",
        &["format 8", "format 7 or later"],
        true,
    );

    saved.put_back();
    product.run(&["audit", "verify"]).ok();
    product.mount();
    assert_eq!(read_as(A, &[], &product.path("first")), Ok(b"value".to_vec()));
}

#[test]
fn a_key_file_that_is_not_what_it_should_be() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "the key file");
    let (mut product, _) = plain_product();
    let saved = Saved::of(&product);
    let key = product.store().join("root.key");
    let mode = |bits: u32| std::fs::set_permissions(&key, PermissionsExt::from_mode(bits)).expect("chmod");
    let other = Product::new();
    type Attempt<'a> = (&'a str, Box<dyn Fn() + 'a>, &'a str, i32);
    let attempts: Vec<Attempt<'_>> = vec![
        ("group may read", Box::new(|| mode(0o640)), "0640", 6),
        ("world may read", Box::new(|| mode(0o604)), "0604", 6),
        ("group may write", Box::new(|| mode(0o620)), "0620", 6),
        (
            "foreign",
            Box::new(|| std::os::unix::fs::chown(&key, Some(A), None).expect("chown")),
            "uid 61001",
            6,
        ),
        (
            "a link",
            Box::new(|| {
                let elsewhere = product_elsewhere(&key);
                std::fs::rename(&key, &elsewhere).expect("rename");
                std::os::unix::fs::symlink(&elsewhere, &key).expect("symlink");
            }),
            "symbolic link",
            6,
        ),
        (
            "short",
            Box::new(|| std::fs::write(&key, [7; 31]).expect("write")),
            "exactly 32",
            6,
        ),
        (
            "long",
            Box::new(|| std::fs::write(&key, [7; 33]).expect("write")),
            "exactly 32",
            6,
        ),
        (
            "another store's",
            Box::new(|| {
                assert_eq!(
                    std::fs::copy(other.store().join("root.key"), &key).expect("copy"),
                    32
                )
            }),
            "root.key of this store",
            6,
        ),
        (
            "missing",
            Box::new(|| std::fs::remove_file(&key).expect("remove")),
            "store recover",
            4,
        ),
    ];
    for (what, attempt, word, exit) in &attempts {
        saved.put_back();
        attempt();
        let said = ends(&product, &["get", "three"], what);
        assert_eq!(said.code(), *exit, "{what}: {said:?}");
        assert!(said.out.is_empty() && said.err.contains(word), "{what}: {said:?}");
    }
    saved.put_back();
    mode(0o640);
    assert_eq!(product.try_mount(&[]).expect("refused").code(), 6);
    mode(0o400);
    assert_eq!(product.run(&["get", "three"]).ok().out, "3");
}

fn product_elsewhere(key: &Path) -> PathBuf {
    key.with_file_name("elsewhere.key")
}

#[test]
fn a_store_of_a_later_format() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "a later store");
    let (mut product, _) = plain_product();
    {
        let store = Embedded::open(product.store()).expect("open");
        let header = store
            .get(Table::Header, wardfs::store::header::KEY)
            .expect("get")
            .expect("a header");
        let mut batch = Batch::new();
        let mut header = wardfs::store::header::Header::decode(&header).expect("a header");
        (header.format, header.min_reader) = (9, 8);
        header.release = wardfs::store::header::Release(7, 6, 5);
        batch.put(Table::Header, wardfs::store::header::KEY, header.encode());
        store
            .commit(store.revision().expect("revision"), &batch)
            .expect("commit");
    }
    let said = ends(&product, &["get", "three"], "later");
    assert_eq!(said.code(), 6, "{said:?}");
    assert!(
        said.err.contains("format 9") && said.err.contains("wardfs 7.6.5"),
        "{said:?}"
    );
    assert_eq!(product.try_mount(&[]).expect("refused").code(), 6);
}

#[test]
fn a_broken_record_through_the_mount() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "a broken record");
    let (mut product, _) = plain_product();
    // The first secret's version, the second's value: numbers are given in order.
    {
        let store = Embedded::open(product.store()).expect("open");
        let mut batch = Batch::new();
        for (table, number) in [(Table::Version, 1u64), (Table::Value, 2)] {
            let key = number.to_be_bytes();
            let mut bytes = store.get(table, &key).expect("get").expect("a record");
            *bytes.last_mut().expect("bytes") ^= 1;
            batch.put(table, key.as_slice(), bytes);
        }
        store
            .commit(store.revision().expect("revision"), &batch)
            .expect("commit");
    }
    product.mount();
    for name in ["app/one", "app/long"] {
        assert_eq!(read_as(A, &[], &product.path(name)), Err(libc::EIO), "{name}");
        let record = product.record(name, |r| {
            r["eventName"] == "IntegrityError" && r["requestParameters"]["secretId"] == name
        });
        assert_eq!(record["uid"], A, "{record}");
        // A stranger learns nothing of it.
        assert_eq!(read_as(B, &[], &product.path(name)), Err(libc::EACCES), "{name}");
        assert_eq!(product.run(&["get", name]).code(), 6);
    }
    let versions = product.path(".versions/app/one/current");
    assert_eq!(
        read_as(A, &[], &versions),
        Err(libc::EIO),
        "a label that is there is never ENOENT"
    );
    assert_eq!(read_as(A, &[], &product.path("three")), Ok(b"3".to_vec()));
    let check = product.run(&["store", "check"]);
    assert_eq!(check.code(), 6, "{check:?}");
    let said = format!("{}{}", check.out, check.err);
    assert!(
        said.contains("app/one") && said.contains("app/long") && !said.contains("three"),
        "{said}"
    );
    // A new value mends it, and nothing that was there is believed for it.
    product.put("app/one", "mended", &[]);
    product.put("app/long", "mended too", &[]);
    assert_eq!(read_as(A, &[], &product.path("app/one")), Ok(b"mended".to_vec()));
    assert_eq!(
        read_as(A, &[], &product.path("app/long")),
        Ok(b"mended too".to_vec())
    );
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn a_broken_secret_is_named_by_every_command() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "a broken secret");
    let (mut product, _) = plain_product();
    {
        let store = Embedded::open(product.store()).expect("open");
        let mut batch = Batch::new();
        let key = 3u64.to_be_bytes();
        let mut bytes = store.get(Table::Secret, &key).expect("get").expect("a record");
        *bytes.last_mut().expect("bytes") ^= 1;
        batch.put(Table::Secret, key.as_slice(), bytes);
        store
            .commit(store.revision().expect("revision"), &batch)
            .expect("commit");
    }
    product.mount();
    // Who may read it, and whether it was hidden, nobody knows.
    assert_eq!(read_as(A, &[], &product.path("three")), Err(libc::ENOENT));
    assert_eq!(read_as(0, &[], &product.path("three")), Err(libc::EIO));
    for command in [
        &["describe", "three"][..],
        &["versions", "three"],
        &["policy", "get", "three"],
        &["policy", "allow", "three", "uid:0"],
        &["policy", "explain", "three", "--as", "uid:0"],
        &["why", "three", "--uid", "0"],
        &["tag", "three", "a=b"],
        &["get", "three"],
    ] {
        let said = product.run(command);
        assert_eq!(said.code(), 6, "{command:?}: {said:?}");
        assert!(said.err.contains("store check"), "{command:?}: {said:?}");
    }
    product.stop();
    // And without a daemon.
    assert_eq!(product.run(&["get", "three"]).code(), 6);
    assert_eq!(product.run(&["store", "check"]).code(), 6);
}

/// Equal values of equal secrets have nothing in common on the disk: every key and every nonce is its own.
#[test]
fn no_key_and_no_nonce_is_used_twice() {
    use std::collections::HashSet;
    let _deadline = support::Deadline::new(Duration::from_secs(60), "randomness");
    let (mut seen, mut all) = (HashSet::new(), 0);
    for _ in 0..2 {
        let product = Product::new();
        seen.insert(std::fs::read(product.store().join("root.key")).expect("the key file"));
        all += 1;
        for n in 0..3 {
            product.put(&format!("app/{n}"), "the same value everywhere", &[]);
            product.put(&format!("app/{n}"), "the same value everywhere?", &[]);
        }
        let config = wardfs::config::Config::load(&product.store()).expect("settings");
        let (_desk, access) = wardfs::daemon::desk(&product.store(), &config).expect("the store");
        let state = access.vault().state();
        for version in state.secrets.iter().flat_map(|s| s.versions.values()) {
            let sealed = access.vault().sealed_value(version).expect("sealed");
            // Behind the header the nonce stands first, and the wrapped key has one too (`format.md`).
            let wrapped = version.meta.wrapped.encode();
            let nonce = 3 + version.meta.wrapped.key().as_str().len();
            for bytes in [
                &sealed.0[2..14],
                &sealed.0[14..],
                &wrapped[nonce..nonce + 12],
                &wrapped[nonce + 12..],
            ] {
                seen.insert(bytes.to_vec());
                all += 1;
            }
        }
    }
    assert_eq!((seen.len(), all), (all, 2 + 2 * 6 * 4));
}
