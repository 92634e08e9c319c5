//! `init`: a store, its first key, its slots, its log.

use std::path::Path;

use super::*;
use crate::clock::Timestamp;
use crate::seal::{RecoveryKey, RootKey, Slot, SlotKind, new_slot_secret};
use crate::secret::SecretBytes;
use crate::store::embedded::{Embedded, RESERVE};
use crate::store::header::{self, Header};
use crate::store::{Batch, Space, Store};
use crate::sys::dir::{Dir, Inode, Made};

/// What `init` hands to its user.
pub struct Created {
    /// The new store's identity.
    pub id: StoreId,
    /// The recovery key, to be shown once and kept elsewhere.
    pub recovery: SecretBytes,
    /// All that was made, to be taken away where the key cannot be shown.
    pub made: Made,
}

/// Makes a new store in `dir`: root key, a key-file slot and a recovery slot, one named key, an empty log.
///
/// # Errors
/// If there is a store or a key file already, there is no [`room`], or the directory cannot be written; nothing is
/// overwritten, and nothing is left of what was begun.
pub fn create(dir: &Path, settings: &Settings) -> Result<Created, VaultError> {
    let (needed, free) = (room(settings), free(dir));
    if free.is_some_and(|free| free < needed) {
        let [needed, free] = [needed, free.unwrap_or(0)].map(|bytes| bytes.div_ceil(1 << 20));
        let why = format!(
            "a new store needs {needed} MiB, and {} has {free} left",
            dir.display()
        );
        return Err(VaultError::NoRoom(why));
    }
    let store = Embedded::create(dir)?;
    let mut made = store.made().clone();
    // Its lock is held until all is taken away: nobody else's beginning is.
    let filled = fill(&store, dir, settings, &mut made);
    match filled {
        Ok((id, recovery)) => Ok(Created { id, recovery, made }),
        Err(e) => {
            made.take_away();
            Err(e)
        }
    }
}

/// Bytes of disk that a new store takes: its log's first segment, and the store file's first growth, each with its
/// reserve.
pub fn room(settings: &Settings) -> u64 {
    settings.log.first_segment() + RESERVE + (1 << 20)
}

/// Bytes that are free where `dir` is or would be; `None` if the system does not say.
fn free(dir: &Path) -> Option<u64> {
    let absolute = std::path::absolute(dir).ok()?;
    let there = absolute.ancestors().find(|dir| dir.exists())?;
    let disk = nix::sys::statvfs::statvfs(there).ok()?;
    Some(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Notes in `made` what it has made, also if it fails.
fn fill(
    store: &Embedded,
    dir: &Path,
    settings: &Settings,
    made: &mut Made,
) -> Result<(StoreId, SecretBytes), VaultError> {
    let home = store.home().ok_or(VaultError::Unfinished)?;
    let id = StoreId(*uuid::Uuid::new_v4().as_bytes());
    let root = RootKey::generate()?;

    let file_secret = new_slot_secret()?;
    write_key_file((home, dir), &settings.key_file, &file_secret, made)?;
    let (recovery_secret, recovery) = RecoveryKey::generate()?;
    let slots = [
        Slot::create(0, SlotKind::KeyFile, &file_secret, id, &root)?,
        Slot::create(1, SlotKind::Recovery, &recovery_secret, id, &root)?,
    ];

    let mut keyring = Keyring::new(id, root)?;
    let key_record = keyring.create_key(default_key())?;
    let log = Log::create_in(
        home,
        &dir.join("audit"),
        id,
        keyring.derive(crate::seal::Purpose::Audit)?,
        settings.log.clone(),
        made,
    )?;
    let anchor = log.sync()?;

    let mut batch = Batch::default();
    batch.put(
        Table::Header,
        header::KEY,
        Header::new(id, Timestamp::now()).encode(),
    );
    for slot in &slots {
        batch.put(Table::Slot, [slot.id].as_slice(), slot.encode());
    }
    let mut sum = TermSum::default();
    let framed_key = framed(1, &key_record);
    let term = keyring.term(KEY, key_number(&default_key()), 1, &key_record);
    let place = (KEY, key_number(&default_key()));
    sum.add(&keyring.summand(Summing::Places, place, &term));
    batch.put(Table::Key, default_key().as_str().as_bytes(), framed_key);
    batch.put(
        Table::Term,
        term_key(KEY, key_number(&default_key())).as_slice(),
        term.0.to_vec(),
    );
    let epoch = EpochRecord {
        epoch: 1,
        sum: hex(&sum.0),
        summed: Summing::Places,
        next_secret: 1,
        next_version: 1,
        anchor,
        outbox: Vec::new(),
        settings: Sealing {
            deciding: settings.deciding.clone().map(Arc::new),
            noticed: None,
            lost: Vec::new(),
        },
    };
    let sealed = keyring.seal_record(EPOCH, 0, &serde_json::to_vec(&epoch)?)?;
    batch.put(Table::Epoch, b"epoch".as_slice(), sealed.0.to_vec());
    let base = store.revision()?;
    store.commit(base, &batch)?;
    Ok((id, recovery))
}

/// Replaces the key-file slot of the store in `dir` by a new one, which opens with a new key file: the root key
/// comes from the recovery slot. Nothing that is sealed changes. A dry run goes as far as nothing is written.
///
/// # Errors
/// If the recovery key is mistyped (naming the group) or another store's, or a key file is there.
pub fn recover(
    dir: &Path,
    settings: &Settings,
    recovery_key: &SecretBytes,
    trial: Trial,
) -> Result<(), VaultError> {
    let secret = RecoveryKey::parse(recovery_key.expose())?;
    let store = Embedded::open(dir)?;
    let header = store.get(Table::Header, header::KEY)?;
    let header = header.ok_or(VaultError::Unfinished)?;
    let (id, slots) = (Header::decode(&header)?.id, super::load::slots(&store)?);
    let root = crate::seal::open_any(&slots, SlotKind::Recovery, &secret, id)?;
    if trial == Trial::DryRun {
        return no_key_file(settings);
    }
    let file_secret = new_slot_secret()?;
    let number = slots
        .iter()
        .find(|s| s.kind == SlotKind::KeyFile)
        .map_or(0, |s| s.id);
    let slot = Slot::create(number, SlotKind::KeyFile, &file_secret, id, &root)?;
    // The file first: with it alone the old slot still stands, and nothing is lost.
    let home = store.home().ok_or(VaultError::Unfinished)?;
    write_key_file(
        (home, dir),
        &settings.key_file,
        &file_secret,
        &mut Made::default(),
    )?;
    let mut batch = Batch::within(Space::Reserve);
    batch.put(Table::Slot, [number].as_slice(), slot.encode());
    store.commit(store.revision()?, &batch)?;
    Ok(())
}

/// One that is there is left alone.
pub(super) fn no_key_file(settings: &Settings) -> Result<(), VaultError> {
    let shown = settings.key_file.display();
    match settings.key_file.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(VaultError::Occupied(format!("a key file is there: {shown}"))),
        Err(e) => Err(VaultError::Io(shown.to_string(), e)),
    }
}

/// Durable before the store that needs it is. A key in the store's directory is made there, whatever that path leads to
/// by now.
fn write_key_file(
    (home, at): (&Dir, &Path),
    path: &Path,
    secret: &SecretBytes,
    made: &mut Made,
) -> Result<(), VaultError> {
    use std::io::Write;
    let failed = |e| VaultError::Io(format!("cannot write {}", path.display()), e);
    let (dir, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent == at => (home.clone(), name.into()),
        _ => Dir::of(path).map_err(failed)?,
    };
    let mut file = dir.create(&name, 0o600).map_err(|source| FileError::Io {
        what: "create",
        path: path.into(),
        source,
    })?;
    made.add(&dir, name, Inode::of(&file).map_err(failed)?);
    file.write_all(secret.expose())
        .and_then(|()| file.sync_all())
        .and_then(|()| dir.sync())
        .map_err(failed)
}

/// A named key's number in the table of terms: the first 8 bytes of the hash of its name.
pub(super) fn key_number(key: &KeyId) -> u64 {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(key.as_str().as_bytes());
    u64::from_be_bytes(hash[..8].try_into().unwrap_or_default())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
