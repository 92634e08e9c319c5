//! A lost log is not a lost store: a new log begins, and what was lost stays on record in what is sealed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::create::hex;
use super::load::{believed, load_named_keys, open_root};
use super::*;
use crate::audit::Body;
use crate::clock::Timestamp;
use crate::id::Uid;
use crate::seal::Readers;
use crate::secret::Sealed;
use crate::store::Batch;
use crate::store::embedded::Embedded;
use crate::store::header::{self, Header};

/// A log that was given up, as the epoch record keeps it for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostLog {
    /// The last record that the store knew to be durable.
    pub last_sequence: u64,
    /// Its MAC, in hexadecimal: a copy of the log that is found later can be held against it.
    pub head: String,
    /// When the new log was begun.
    pub time: Timestamp,
    /// Why, in the words of whoever did it.
    pub reason: String,
    /// Who did it.
    pub uid: Uid,
}

/// Seals the epoch record. Where it tells of a lost log, a release that knows of none, and would forget it with the next
/// commit, does not open it.
pub(super) fn seal_epoch(keyring: &Keyring, record: &EpochRecord) -> Result<Sealed, VaultError> {
    let readers = match &*record.settings.lost {
        [] => Readers::All,
        [..] => Readers::WhoKnowLostLogs,
    };
    Ok(keyring.seal_record_for(readers, EPOCH, 0, &serde_json::to_vec(record)?)?)
}

/// All of both, each once, oldest first.
pub(super) fn merged(a: &[LostLog], b: &[LostLog]) -> Vec<LostLog> {
    let mut all = a.to_vec();
    all.extend(b.iter().filter(|lost| !a.contains(lost)).cloned());
    all.sort_by_key(|lost| lost.time);
    all
}

/// Begins a new log for the store in `dir`, whose log is missing, cut or changed. What is left of the old one is kept in a
/// directory beside the new one. `body` makes the record of it, which is the first of the new log. A dry run says what
/// would be lost, and nothing is written.
///
/// # Errors
/// [`VaultError::LogThere`] if the log opens; what [`Vault::open`] says of anything else that is wrong; nothing is given up
/// then.
pub fn begin_log(
    dir: &Path,
    settings: &Settings,
    (reason, uid): (&str, Uid),
    trial: Trial,
    body: impl FnOnce(&LostLog) -> Body,
) -> Result<LostLog, VaultError> {
    let store = Embedded::open(dir)?;
    let header = store
        .get(Table::Header, header::KEY)?
        .ok_or(VaultError::Unfinished)?;
    let id = Header::decode(&header)?.id;
    let mut keyring = Keyring::new(id, open_root(&store, id, settings)?)?;
    load_named_keys(&store, &mut keyring)?;
    let (mut epoch, _) = believed(&store, &keyring, &settings.administration)?;
    let key = || keyring.derive(crate::seal::Purpose::Audit);
    let audit = dir.join("audit");
    let home = store.home().ok_or(VaultError::Unfinished)?.clone();
    match crate::audit::opens(&home, &audit, id, &key()?, &epoch.anchor) {
        Ok(()) => return Err(VaultError::LogThere),
        Err(LogError::Missing { .. } | LogError::Behind { .. } | LogError::Broken(_)) => {}
        Err(other) => return Err(other.into()),
    }
    let lost = LostLog {
        last_sequence: epoch.anchor.seq,
        head: hex(&epoch.anchor.head),
        time: Timestamp::now(),
        reason: reason.to_string(),
        uid,
    };
    if trial == Trial::DryRun {
        return Ok(lost);
    }
    let log = Log::begin_anew(&home, &audit, id, key()?, settings.log.clone(), &epoch.anchor)?;
    epoch.epoch += 1;
    epoch.anchor = log.sync()?;
    let pending = Pending {
        epoch: epoch.epoch,
        body: body(&lost),
    };
    epoch.outbox.insert(0, pending);
    epoch.settings.lost.push(lost.clone());
    let mut batch = Batch::new();
    let sealed = seal_epoch(&keyring, &epoch)?;
    batch.put(Table::Epoch, b"epoch".as_slice(), sealed.0.to_vec());
    store.commit(store.revision()?, &batch)?;
    drop((store, log));
    // Which brings the record of it into the log.
    drop(Vault::open(dir, settings)?);
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_records_tell_is_told_once() {
        let lost = |time, reason: &str| LostLog {
            last_sequence: 7,
            head: "00".into(),
            time: Timestamp(time),
            reason: reason.into(),
            uid: Uid(0),
        };
        let (a, b) = ([lost(1, "a"), lost(3, "c")], [lost(2, "b"), lost(1, "a")]);
        assert_eq!(merged(&a, &b), [lost(1, "a"), lost(2, "b"), lost(3, "c")]);
    }
}
