//! What a change leaves when the log, the store or the process fails in the middle of it.

use std::ops::ControlFlow;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::audit::{Body, Event, Identity, Outcome, Record, Who};
use crate::clock::Timestamp;
use crate::store::faulty::{Call, Fault, Faulty};
use crate::store::memory::Memory;
use crate::store::{Batch, Checked, Watch};

/// A store that outlives the vault over it.
#[derive(Clone)]
struct Shared(Arc<Faulty<Memory>>);

impl Store for Shared {
    fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision()
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
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(table, key)
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

pub(crate) struct Place {
    dir: tempfile::TempDir,
    store: Shared,
}

impl Place {
    pub(crate) fn new() -> Place {
        // Where files can be made immutable.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let place = dir.path().join("store");
        create(&place, &settings(&place)).unwrap();
        let made = crate::store::embedded::Embedded::open(&place).unwrap();
        let mut batch = Batch::new();
        for table in Table::ALL {
            made.list(table, &mut |key, bytes| {
                batch.put(table, key, bytes.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
        }
        let memory = Memory::new();
        memory.commit(Revision(0), &batch).unwrap();
        Place {
            dir,
            store: Shared(Arc::new(Faulty::new(memory))),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) fn open(&self) -> Vault {
        self.open_with(settings(&self.path()).administration)
    }

    pub(crate) fn open_with(&self, administration: Administration) -> Vault {
        let path = self.path();
        let settings = Settings {
            administration,
            ..settings(&path)
        };
        Vault::open_with(Box::new(self.store.clone()), &path, &settings).unwrap()
    }

    fn segment(&self) -> PathBuf {
        self.path().join("audit/00000001.jsonl")
    }

    /// The log's records of changes to `name`.
    fn recorded(&self, name: &str) -> usize {
        let query = crate::audit::Query {
            secret: Some(name.into()),
            ..Default::default()
        };
        crate::audit::query(&self.path().join("audit"), &query).count()
    }

    fn fail(&self, nth: u64, fault: Fault) {
        self.store.0.inject(Call::Commit, nth, fault);
    }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        key_file: dir.join("root.key"),
        log: Default::default(),
        administration: Administration {
            owner: crate::id::ROOT,
            group: None,
            root_describes: true,
        },
        deciding: None,
    }
}

pub(crate) fn body(name: &str) -> Body {
    Record {
        event: Event::CreateSecret,
        outcome: Outcome::Allowed,
        secret: Some(name),
        via: "command",
        who: Who::default(),
        identity: Identity::Full,
        ..Record::default()
    }
    .body()
}

/// Makes a secret; `meanwhile` runs after the log was found healthy and before the transaction.
pub(crate) fn make(vault: &Vault, name: &str, meanwhile: impl FnOnce()) -> Result<(), VaultError> {
    vault.change(|draft| {
        let name: SecretName = name.parse().unwrap();
        let now = Timestamp::now();
        let id = draft.new_secret();
        let mut value = crate::sys::mem::secret(5).unwrap();
        value.expose_mut().copy_from_slice(b"value");
        let version = VersionId::random();
        let no = draft.add_version(id, &name, &default_key(), (version, crate::id::ROOT), now, &value)?;
        draft.put_secret(
            SecretMeta {
                id,
                name: name.clone(),
                description: None,
                arn: None,
                created: now,
                again: None,
                value_changed: now,
                meta_changed: now,
                maker: crate::id::ROOT,
                appearance: Appearance::default(),
                visibility: Visibility::default(),
                policy: None,
                key: default_key(),
                tags: Default::default(),
                labels: [(crate::id::Label::current(), no)].into_iter().collect(),
                life: Life::Active,
            },
            ChangeKind::Created,
        );
        meanwhile();
        Ok(((), body(name.as_str())))
    })
}

/// A machine without users and groups.
pub(crate) struct Nobody;

impl crate::policy::Directory for Nobody {
    fn uid_of(&self, _: &str) -> Option<crate::id::Uid> {
        None
    }
    fn gid_of(&self, _: &str) -> Option<crate::id::Gid> {
        None
    }
    fn users(&self) -> Vec<(String, crate::id::Uid)> {
        Vec::new()
    }
    fn groups(&self) -> Vec<(String, crate::id::Gid)> {
        Vec::new()
    }
}

/// Changes the metadata of a secret.
pub(crate) fn change(
    vault: &Vault,
    name: &str,
    what: impl FnOnce(&mut Draft<'_>, &mut SecretMeta) -> ChangeKind,
) {
    let changed = vault.change(|draft| -> Result<_, VaultError> {
        let mut meta = draft.state().secrets.by_name(name).unwrap().meta.clone();
        let kind = what(draft, &mut meta);
        draft.put_secret(meta, kind);
        Ok(((), body(name)))
    });
    changed.unwrap();
}

/// Lets `principal`, as a policy names one, read a secret's value.
pub(crate) fn allow(vault: &Vault, name: &str, principal: &str) {
    let policy = format!(
        r#"{{"Version": "2012-10-17", "Statement": {{"Effect": "Allow", "Principal": {principal},
            "Action": "secretsmanager:GetSecretValue", "Resource": "*"}}}}"#
    );
    change(vault, name, |_, meta| {
        let map = crate::policy::PrincipalMap::default();
        let (record, _) =
            crate::policy::PolicyRecord::resolve(&policy, &map, &Nobody, &meta.name, None).unwrap();
        meta.policy = Some(record.into());
        ChangeKind::Settings
    });
}

fn has(vault: &Vault, name: &str) -> bool {
    vault
        .state()
        .secrets
        .by_name(name)
        .is_some_and(|s| s.current().is_some())
}

/// Whole: every value opens, the log verifies, and it can be opened again to the same.
#[track_caller]
fn whole(place: &Place, names: &[&str], absent: &[&str]) {
    let vault = place.open();
    for name in names {
        assert!(has(&vault, name), "{name} is not there");
        assert_eq!(place.recorded(name), 1, "records of {name}");
    }
    for name in absent {
        assert!(!has(&vault, name), "{name} is there");
    }
    assert_eq!(vault.check(&mut |_| {}).unwrap().problems.len(), 0);
    vault.verify_log(&mut |_| {}).unwrap();
}

fn immutable(flag: &str, path: &Path) {
    assert!(
        Command::new("chattr")
            .arg(flag)
            .arg(path)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn a_log_that_fails_after_the_transaction_gets_its_record_later() {
    let place = Place::new();
    let vault = place.open();
    make(&vault, "before", || {}).unwrap();
    let failed = make(&vault, "changed", || immutable("+i", &place.segment()));
    let second = make(&vault, "refused", || {});
    immutable("-i", &place.segment());
    let failed = failed.unwrap_err();
    assert!(matches!(failed, VaultError::Unrecorded(_)), "{failed}");
    assert_eq!(failed.exit(), Exit::Unavailable);
    assert!(
        failed.to_string().contains("the change was made and stays"),
        "{failed}"
    );
    // The next one is not even begun.
    assert!(
        !matches!(second, Ok(()) | Err(VaultError::Unrecorded(_))),
        "{second:?}"
    );
    assert!(has(&vault, "changed") && !has(&vault, "refused"));
    assert_eq!(place.recorded("changed"), 0);
    let began = Instant::now();
    while vault.tick().is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "the log does not come back"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(place.recorded("changed"), 1);
    make(&vault, "after", || {}).unwrap();
    drop(vault);
    whole(&place, &["before", "changed", "after"], &["refused"]);
}

#[test]
fn a_crash_between_the_transactions_is_made_up_at_the_start() {
    for log_too in [false, true] {
        let place = Place::new();
        let vault = place.open();
        if log_too {
            // The record is in the log, its anchor is not.
            place.fail(2, Fault::Fail);
            assert!(matches!(
                make(&vault, "changed", || {}),
                Err(VaultError::Unrecorded(_))
            ));
            assert_eq!(place.recorded("changed"), 1);
        } else {
            let failed = make(&vault, "changed", || immutable("+i", &place.segment()));
            drop(vault);
            immutable("-i", &place.segment());
            assert!(matches!(failed, Err(VaultError::Unrecorded(_))), "{failed:?}");
            assert_eq!(place.recorded("changed"), 0);
        }
        whole(&place, &["changed"], &[]);
        whole(&place, &["changed"], &[]);
    }
}

#[test]
fn a_commit_without_an_answer_is_looked_for() {
    // Done but not answered; not done; the same with the anchor's transaction.
    for (nth, fault, there) in [
        (1, Fault::Unanswered, true),
        (1, Fault::UnansweredFull, true),
        (1, Fault::UnansweredCorrupt, true),
        (1, Fault::Corrupt, false),
        (1, Fault::Fail, false),
        (1, Fault::Full, false),
        (2, Fault::Unanswered, true),
        (2, Fault::UnansweredFull, true),
        (2, Fault::UnansweredCorrupt, true),
        (2, Fault::Fail, true),
        (2, Fault::Full, true),
    ] {
        let place = Place::new();
        let vault = place.open();
        make(&vault, "before", || {}).unwrap();
        place.fail(nth, fault);
        let failed = make(&vault, "changed", || {}).unwrap_err();
        let exit = match (nth, fault) {
            (1, Fault::Corrupt | Fault::UnansweredCorrupt) => Exit::Integrity,
            _ => Exit::Unavailable,
        };
        assert_eq!(failed.exit(), exit, "{nth} {fault:?}: {failed}");
        assert_eq!(
            matches!(failed, VaultError::Unrecorded(_)),
            nth == 2,
            "{nth} {fault:?}: {failed}"
        );
        make(&vault, "after", || {}).unwrap();
        assert_eq!(has(&vault, "changed"), there, "{nth} {fault:?}");
        drop(vault);
        let (names, absent): (&[&str], &[&str]) = match there {
            true => (&["before", "changed", "after"], &[]),
            false => (&["before", "after"], &["changed"]),
        };
        whole(&place, names, absent);
    }
}

/// A record that no line of the log holds.
fn endless(name: &str) -> Body {
    let long = format!(",\"x\":\"{}\"", "x".repeat(200_000));
    Body([body(name).0.as_slice(), long.as_bytes()].concat())
}

#[test]
fn a_change_whose_record_makes_no_line_is_not_begun() {
    let place = Place::new();
    let vault = place.open();
    let failed = vault.change(|draft| -> Result<_, VaultError> {
        draft.settings.noticed = Some("something".into());
        Ok(((), endless("changed")))
    });
    let failed = failed.unwrap_err();
    assert!(matches!(failed, VaultError::Log(LogError::Unfit(_))), "{failed}");
    assert_eq!(vault.state().settings.noticed, None);
    vault.tick().unwrap();
    make(&vault, "after", || {}).unwrap();
    drop(vault);
    whole(&place, &["after"], &[]);
}

#[test]
fn a_record_of_an_older_release_that_makes_no_line_is_written_short() {
    let place = Place::new();
    let vault = place.open();
    make(&vault, "before", || {}).unwrap();
    let long = endless("changed");
    {
        let mut writer = vault.lock();
        let record = writer.next_record();
        let outbox = vec![Pending {
            epoch: record.epoch,
            body: long.clone(),
        }];
        let record = EpochRecord { outbox, ..record };
        vault.write_epoch(&mut writer, &record, Batch::default()).unwrap();
    }
    drop(vault);
    let vault = place.open();
    make(&vault, "after", || {}).unwrap();
    assert_eq!(place.recorded("changed"), 1);
    vault.verify_log(&mut |_| {}).unwrap();
    drop(vault);
    whole(&place, &["before", "after"], &["changed"]);
}

#[test]
fn a_full_store_delays_the_anchor_and_no_reader() {
    let place = Place::new();
    let vault = place.open();
    make(&vault, "one", || {}).unwrap();
    let read = || {
        let record = Record {
            event: Event::GetSecretValue,
            outcome: Outcome::Allowed,
            ..Record::default()
        };
        let _receipt = vault.log().append(&record).unwrap();
    };
    read();
    for _ in 0..3 {
        place.fail(1, Fault::Full);
        assert_eq!(vault.tick().unwrap_err().exit(), Exit::Unavailable);
        assert!(vault.is_failing());
        read();
        vault.log().pass(crate::audit::ANCHOR_LIMIT / 3);
    }
    read();
    // But not for ever: what is not anchored can be cut off.
    vault.log().pass(Duration::from_millis(10));
    let record = Record {
        event: Event::GetSecretValue,
        outcome: Outcome::Allowed,
        ..Record::default()
    };
    let head = vault.log().head();
    let late = vault.log().append(&record).unwrap_err();
    assert!(matches!(late, LogError::Unanchored), "{late}");
    assert!(matches!(vault.log().takes_reads(), Err(LogError::Unanchored)));
    assert_eq!(vault.log().head(), head);
    // A refusal gives nothing, and is recorded.
    let refused = Record {
        outcome: Outcome::Denied { reason: "x" },
        ..record
    };
    vault.log().refuse(&refused).unwrap();
    vault.tick().unwrap();
    assert!(!vault.is_failing());
    vault.log().takes_reads().unwrap();
    read();
    vault.tick().unwrap();
    // Nor does it matter how long nothing was written.
    vault.log().pass(Duration::from_secs(1000));
    read();
    // The anchor is there, but not its answer: no record comes after it.
    place.fail(1, Fault::UnansweredFull);
    assert!(vault.tick().is_err());
    vault
        .log()
        .pass(crate::audit::ANCHOR_LIMIT + Duration::from_secs(1));
    vault.tick().unwrap();
    read();
    vault.tick().unwrap();
    assert_eq!(vault.verify_log(&mut |_| {}).unwrap().beyond_anchor, 0);
    make(&vault, "two", || {}).unwrap();
    drop(vault);
    whole(&place, &["one", "two"], &[]);
}

#[test]
fn a_backup_holds_what_was_committed_last_or_is_none() {
    let place = Place::new();
    let vault = place.open();
    let backup = |out: &mut Vec<u8>| vault.backup(out, &mut |_| {});
    let dumped = || {
        let mut all = Batch::new();
        place
            .store
            .dump(&mut |table, key, bytes| {
                all.put(table, key, bytes);
                ControlFlow::Continue(())
            })
            .unwrap();
        all
    };
    let put_back = |batch: &Batch| {
        let now = place.store.revision().unwrap();
        place.store.commit(now, batch).unwrap();
    };
    make(&vault, "one", || {}).unwrap();
    let old = dumped();
    change(&vault, "one", |_, meta| {
        meta.description = Some("new".into());
        ChangeKind::Settings
    });
    let new = dumped();
    let mut whole = Vec::new();
    backup(&mut whole).unwrap();
    // The store as it was before, whole; then with one byte of one record, of each kind that has a term.
    let mut spoilt = vec![old];
    for table in [Table::Secret, Table::Version, Table::Term, Table::Key] {
        let mut batch = Batch::new();
        for op in new.ops() {
            if let crate::store::Op::Put { table: t, key, bytes } = op
                && *t == table
            {
                let mut bytes = bytes.to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                batch.put(table, key.clone(), bytes);
            }
        }
        spoilt.push(batch);
    }
    for (i, batch) in spoilt.iter().enumerate() {
        put_back(batch);
        let mut out = Vec::new();
        let failed = backup(&mut out).unwrap_err();
        assert_eq!(failed.exit(), Exit::Integrity, "{i}: {failed}");
        assert!(out.len() < whole.len(), "{i}");
        put_back(&new);
        backup(&mut Vec::new()).unwrap();
    }
}

#[test]
fn a_restore_that_was_interrupted_can_be_made_again() {
    let place = Place::new();
    let vault = place.open();
    for name in ["one", "two", "three"] {
        make(&vault, name, || {}).unwrap();
    }
    let (mut file, id) = (Vec::new(), vault.id());
    vault.backup(&mut file, &mut |_| {}).unwrap();
    let key = || vault.keyring.derive(crate::seal::Purpose::Audit).unwrap();
    let again = |records: usize| {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let clean = dir.path().join("clean");
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&clean).unwrap();
        std::fs::copy(place.path().join("root.key"), clean.join("root.key")).unwrap();
        let log = Log::create(&clean.join("audit"), id, key(), Default::default()).unwrap();
        for _ in 0..records {
            let _receipt = log.append_body(&body("else"), None).unwrap();
        }
        drop(log);
        let settings = settings(&clean);
        let (rollback, trial) = (Rollback::Refused, Trial::Real);
        let made = restore(
            &clean,
            &settings,
            &file,
            Opener::KeyFile,
            rollback,
            trial,
            body("restore"),
        );
        made.map(|made| {
            let vault = Vault::open(&clean, &settings).unwrap();
            vault.verify_log(&mut |_| {}).unwrap();
            assert!(has(&vault, "three"));
            made.secrets
        })
    };
    assert_eq!(again(0).unwrap(), 3);
    // A log that holds anything is no beginning: its end was cut off.
    let cut = again(1).unwrap_err();
    assert!(matches!(cut, VaultError::Log(LogError::Behind { .. })), "{cut}");
}
