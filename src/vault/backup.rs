//! Backups: every record of the store at one revision, as sealed as it lies there, under one MAC
//! (`packaging/doc/format.md`). And the way back, which is one commit.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::load::{believed, load_named_keys, open_root, slots};
use super::proof::Proof;
use super::*;
use crate::audit::{Body, since_archived};
use crate::clock::Timestamp;
use crate::seal::{RecoveryKey, SlotKind};
use crate::secret::SecretBytes;
use crate::store::embedded::Embedded;
use crate::store::header::{self, Header};
use crate::store::memory::Memory;
use crate::store::{Batch, MAX_KEY, MAX_RECORD};

const MAGIC: &[u8; 8] = b"wardbak\n";
const FORMAT: u16 = 2;
/// Stands where a table's number would.
const END: u8 = 0xff;
const MAC: usize = 32;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Records.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What may be lost by a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollback {
    /// Nothing: a backup that is older than what is there is refused.
    Refused,
    /// What was changed since the backup.
    Accepted,
}

/// Whether a restore is made or only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// Only say what would be done.
    DryRun,
    /// Do it.
    Real,
}

/// What opens a backup.
#[derive(Clone, Copy)]
pub enum Opener<'a> {
    /// The key file of the settings.
    KeyFile,
    /// The recovery key; a new key file is made.
    Recovery(&'a SecretBytes),
}

/// What was, or would be, restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The store.
    pub id: StoreId,
    /// Secrets with values.
    pub secrets: usize,
    /// Versions.
    pub versions: usize,
    /// The last change in the backup.
    pub epoch: u64,
    /// The last change that is known where it is restored; 0 if nothing is there.
    pub present: u64,
}

struct Hashed<'w> {
    out: &'w mut dyn Write,
    hash: Sha256,
    bytes: u64,
}

impl Hashed<'_> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn record(&mut self, table: Table, key: &[u8], bytes: &[u8]) -> std::io::Result<()> {
        self.put(&[table.number()])?;
        self.put(&(key.len() as u16).to_be_bytes())?;
        self.put(key)?;
        self.put(&(bytes.len() as u32).to_be_bytes())?;
        self.put(bytes)
    }
}

impl Vault {
    /// Writes a backup. Readers and changes go on meanwhile; it holds one moment. `progress` is called with the
    /// number of records written so far.
    ///
    /// # Errors
    /// If the store cannot be read, or `out` not written; or if what is read is not what was committed last. What was
    /// written is no backup then.
    pub fn backup(&self, out: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> Result<Saved, VaultError> {
        let failed = |e| VaultError::Io("cannot write the backup".into(), e);
        let mut out = Hashed {
            out,
            hash: Sha256::new(),
            bytes: 0,
        };
        let head = [
            &MAGIC[..],
            &FORMAT.to_be_bytes(),
            &FORMAT.to_be_bytes(),
            &self.id.0,
            &Timestamp::now().0.to_be_bytes(),
        ];
        out.put(&head.concat()).map_err(failed)?;
        let mut records = 0u64;
        let mut failure = None;
        // No change comes before the moment that the dump holds; then they go on.
        let mut writer = self.lock();
        self.be_sure(&mut writer)?;
        let mut proof = Proof::new(&self.keyring, writer.record());
        let mut held = Some(writer);
        self.store.dump(&mut |table, key, bytes| {
            drop(held.take());
            proof.see(table, key, bytes);
            records += 1;
            progress(records);
            match out.record(table, key, bytes) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failure = Some(e);
                    ControlFlow::Break(())
                }
            }
        })?;
        drop(held);
        if let Some(e) = failure {
            return Err(failed(e));
        }
        proof.end()?;
        out.put(&[END])
            .and_then(|()| out.put(&records.to_be_bytes()))
            .map_err(failed)?;
        let mac = self.keyring.backup_mac(&out.hash.clone().finalize().into());
        out.out.write_all(&mac).map_err(failed)?;
        Ok(Saved {
            records,
            bytes: out.bytes + MAC as u64,
        })
    }
}

/// A backup, taken apart and not believed yet.
struct Parsed<'b> {
    id: StoreId,
    made: Timestamp,
    store: Memory,
    digest: [u8; 32],
    mac: &'b [u8],
}

impl Parsed<'_> {
    fn genuine(&self, keyring: &Keyring) -> Result<(), VaultError> {
        match bool::from(keyring.backup_mac(&self.digest).ct_eq(self.mac)) {
            true => Ok(()),
            false => Err(damaged("it is not what was written")),
        }
    }
}

/// What a backup of the store of this keyring holds, and when it was made.
pub(super) fn believable(
    file: &[u8],
    keyring: &Keyring,
    given: &Administration,
) -> Result<(Timestamp, Memory, State), VaultError> {
    let backup = parse(file)?;
    if backup.id != keyring.store() {
        return Err(VaultError::Integrity("it is another store's backup".into()));
    }
    backup.genuine(keyring)?;
    let (_, state) = believed(&backup.store, keyring, given)?;
    Ok((backup.made, backup.store, state))
}

fn damaged(why: &str) -> VaultError {
    VaultError::Integrity(format!("the backup is damaged: {why}"))
}

/// The bytes of a backup; of what is none, no more than shows that.
///
/// # Errors
/// As the system says; `InvalidData` for what is no regular file.
pub fn read_backup(path: &Path) -> io::Result<Vec<u8>> {
    // Without O_NONBLOCK a FIFO in its place would hang the open.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not a regular file",
        ));
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut bytes)?;
    if bytes == MAGIC {
        file.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn parse(file: &[u8]) -> Result<Parsed<'_>, VaultError> {
    fn take<'f>(rest: &mut &'f [u8], n: usize) -> Result<&'f [u8], VaultError> {
        let (head, tail) = rest
            .split_at_checked(n)
            .ok_or_else(|| damaged("it is cut short"))?;
        *rest = tail;
        Ok(head)
    }
    fn number(rest: &mut &[u8], n: usize) -> Result<u64, VaultError> {
        Ok(take(rest, n)?
            .iter()
            .fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }
    let (signed, mac) = file
        .len()
        .checked_sub(MAC)
        .and_then(|at| file.split_at_checked(at))
        .ok_or_else(|| VaultError::Integrity("it is no backup of wardfs".into()))?;
    let rest = &mut &*signed;
    if take(rest, MAGIC.len())? != MAGIC {
        return Err(VaultError::Integrity("it is no backup of wardfs".into()));
    }
    let (format, min_reader) = (number(rest, 2)?, number(rest, 2)?);
    if min_reader > u64::from(FORMAT) {
        return Err(VaultError::Integrity(format!(
            "the backup has format {format}, which this release does not read: use a later one"
        )));
    }
    let id = StoreId(
        take(rest, 16)?
            .try_into()
            .map_err(|_| damaged("it is cut short"))?,
    );
    let made = Timestamp(i64::from_be_bytes(number(rest, 8)?.to_be_bytes()));
    let mut batch = Batch::new();
    loop {
        let [table] = take(rest, 1)? else {
            return Err(damaged("it is cut short"));
        };
        if *table == END {
            break;
        }
        let table = Table::ALL.into_iter().find(|t| t.number() == *table);
        let table = table.ok_or_else(|| damaged("it has a table that is not known"))?;
        let len = number(rest, 2)? as usize;
        let key = take(rest, len)?;
        let len = number(rest, 4)? as usize;
        let bytes = take(rest, len)?;
        if key.len() > MAX_KEY || bytes.len() > MAX_RECORD {
            return Err(damaged("a record is too long"));
        }
        batch.put(table, key, bytes);
    }
    if number(rest, 8)? != batch.ops().len() as u64 || !rest.is_empty() {
        return Err(damaged("it does not end where it should"));
    }
    let store = Memory::new();
    store.commit(store.revision()?, &batch)?;
    Ok(Parsed {
        id,
        made,
        store,
        digest: Sha256::digest(signed).into(),
        mac,
    })
}

/// Puts the store of a backup into `dir`: into a clean one with a new log, or over the same store, whose log goes on.
/// `body` is the audit record of it.
///
/// # Errors
/// If the backup is not what was written, no key opens it, another store is there, the one that is there is newer and
/// that is not accepted, or a daemon has it. Nothing is changed then.
pub fn restore(
    dir: &Path,
    settings: &Settings,
    file: &[u8],
    opener: Opener<'_>,
    rollback: Rollback,
    trial: Trial,
    body: Body,
) -> Result<Restored, VaultError> {
    let backup = parse(file)?;
    let root = match opener {
        Opener::KeyFile => open_root(&backup.store, backup.id, settings)?,
        Opener::Recovery(key) => {
            super::create::no_key_file(settings)?;
            let secret = RecoveryKey::parse(key.expose())?;
            crate::seal::open_any(&slots(&backup.store)?, SlotKind::Recovery, &secret, backup.id)?
        }
    };
    let mut keyring = Keyring::new(backup.id, root)?;
    backup.genuine(&keyring)?;
    load_named_keys(&backup.store, &mut keyring)?;
    let (epoch, state) = believed(&backup.store, &keyring, &settings.administration)?;

    let there = match Embedded::open(dir) {
        Ok(store) => Some(store),
        Err(StoreError::NotFound { .. }) => None,
        Err(e) => return Err(e.into()),
    };
    let known = there
        .as_ref()
        .map(|s| last_epoch(s, &keyring))
        .transpose()?
        .flatten();
    let mut restored = Restored {
        id: backup.id,
        secrets: state.secrets.iter().filter(|s| s.is_active()).count(),
        versions: state.versions.len(),
        epoch: epoch.epoch,
        present: known.as_ref().map_or(0, |e| e.epoch),
    };
    older(&restored, rollback)?;
    if trial == Trial::DryRun {
        return Ok(restored);
    }

    let store = match there {
        Some(store) => store,
        None => Embedded::create(dir)?,
    };
    let key = || keyring.derive(crate::seal::Purpose::Audit);
    let (audit, mut anchor) = (dir.join("audit"), known.as_ref().unwrap_or(&epoch).anchor.clone());
    let open = |anchor: &Anchor| {
        Log::open(&audit, backup.id, key()?, settings.log.clone(), anchor).map_err(VaultError::from)
    };
    let log = match Log::create(&audit, backup.id, key()?, settings.log.clone()) {
        Err(LogError::Exists { .. }) => {
            // The log may have been archived since the backup.
            anchor = since_archived(&audit, backup.id, &key()?, &anchor).map_err(unverified)?;
            match open(&anchor) {
                // What a restore that was interrupted has begun: a log with its first record, and no store.
                Err(behind @ VaultError::Log(LogError::Behind { .. })) if known.is_none() => {
                    anchor = Anchor::genesis(backup.id);
                    match open(&anchor)? {
                        log if log.head().seq <= 1 => log,
                        _ => return Err(behind),
                    }
                }
                opened => opened?,
            }
        }
        made => made?,
    };
    restored.present = restored.present.max(log.last_epoch());
    older(&restored, rollback)?;

    let next = restored.epoch.max(restored.present) + 1;
    let mut outbox = Vec::new();
    for pending in epoch.outbox.iter().chain(known.iter().flat_map(|k| &k.outbox)) {
        let body = pending.body.writable();
        if !log.contains_since(&anchor, body.event_id())? {
            outbox.push(body.into_owned());
        }
    }
    outbox.push(body);
    let record = EpochRecord {
        epoch: next,
        // Numbers are never given twice, not even those that the backup does not know of.
        next_secret: epoch.next_secret.max(known.as_ref().map_or(0, |k| k.next_secret)),
        next_version: epoch
            .next_version
            .max(known.as_ref().map_or(0, |k| k.next_version)),
        sum: epoch.sum,
        summed: epoch.summed,
        settings: Sealing {
            lost: super::lost::merged(
                &epoch.settings.lost,
                known.as_ref().map_or(&[], |k| &k.settings.lost),
            ),
            ..match (&epoch.settings.deciding, &known) {
                (None, Some(known)) => known.settings.clone(),
                _ => epoch.settings,
            }
        },
        anchor: log.sync()?,
        outbox: outbox
            .into_iter()
            .map(|body| Pending { epoch: next, body })
            .collect(),
    };
    let mut batch = Batch::new();
    store.dump(&mut |table, key, _| {
        batch.delete(table, key);
        ControlFlow::Continue(())
    })?;
    backup.store.dump(&mut |table, key, bytes| {
        batch.put(table, key, bytes);
        ControlFlow::Continue(())
    })?;
    let sealed = super::lost::seal_epoch(&keyring, &record)?;
    batch.put(Table::Epoch, b"epoch".as_slice(), sealed.0.to_vec());
    store.commit(store.revision()?, &batch)?;
    drop((store, log));
    if let Opener::Recovery(key) = opener {
        recover(dir, settings, key, Trial::Real)?;
    }
    // Which brings the record of it into the log.
    drop(Vault::open(dir, settings)?);
    Ok(restored)
}

fn unverified(e: VerifyError) -> VaultError {
    match e {
        VerifyError::Broken(broken) => LogError::Broken(broken).into(),
        other => VaultError::Io("cannot read the log".into(), io::Error::other(other.to_string())),
    }
}

/// The epoch record of the store that is there, if it can be believed.
fn last_epoch(store: &dyn Store, keyring: &Keyring) -> Result<Option<EpochRecord>, VaultError> {
    let Some(header) = store.get(Table::Header, header::KEY)? else {
        return Ok(None);
    };
    if Header::decode(&header)?.id != keyring.store() {
        return Err(VaultError::Occupied("another store is there".into()));
    }
    let sealed = store.get(Table::Epoch, b"epoch")?;
    let opened = sealed.and_then(|s| keyring.open_record(EPOCH, 0, &s).ok());
    Ok(opened.and_then(|json| serde_json::from_slice(&json).ok()))
}

fn older(restored: &Restored, rollback: Rollback) -> Result<(), VaultError> {
    match rollback {
        Rollback::Refused if restored.present > restored.epoch => Err(VaultError::OldBackup {
            backup: restored.epoch,
            present: restored.present,
        }),
        _ => Ok(()),
    }
}
