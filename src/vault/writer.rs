//! What was committed last, and that the medium still says so.
//!
//! The store's file can be written by others while it is served. So a commit takes nothing from it unseen: the term that
//! a new one replaces has to be the one that was summed up, and after a commit of which the end is not known, the store
//! has to be as it was before, or as it was to be.

use super::*;
use crate::seal::Term;

/// Which of a record's terms was summed up last: its first 64 bits. Whoever writes the disk has no other term of the
/// record that begins so, since terms are made with a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark(u64);

impl From<&Term> for Mark {
    fn from(term: &Term) -> Mark {
        let [a, b, c, d, e, f, g, h, ..] = term.0;
        Mark(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// What the next commit goes on from.
pub(super) struct Writer {
    pub revision: Revision,
    pub epoch: u64,
    pub sum: TermSum,
    pub summed: Summing,
    pub next_secret: u64,
    pub next_version: u64,
    pub anchor: Anchor,
    pub outbox: Vec<Pending>,
    pub settings: Sealing,
    /// The highest number of a commit that was tried. None is used twice: two records with it would have two terms.
    pub tried: u64,
    /// What a commit wrote of which the backend could not say whether it is there.
    pub doubt: Option<Box<EpochRecord>>,
}

impl Writer {
    pub fn at(revision: Revision, epoch: EpochRecord) -> Result<Writer, VaultError> {
        Ok(Writer {
            revision,
            epoch: epoch.epoch,
            sum: load::decode_sum(&epoch.sum)?,
            summed: epoch.summed,
            next_secret: epoch.next_secret,
            next_version: epoch.next_version,
            anchor: epoch.anchor,
            outbox: epoch.outbox,
            settings: epoch.settings,
            tried: epoch.epoch,
            doubt: None,
        })
    }

    /// The epoch record, as it was written last.
    pub fn record(&self) -> EpochRecord {
        EpochRecord {
            epoch: self.epoch,
            sum: create::hex(&self.sum.0),
            summed: self.summed,
            next_secret: self.next_secret,
            next_version: self.next_version,
            anchor: self.anchor.clone(),
            outbox: self.outbox.clone(),
            settings: self.settings.clone(),
        }
    }

    /// The number of the next commit.
    pub fn next_epoch(&self) -> u64 {
        self.epoch.max(self.tried) + 1
    }

    /// The epoch record of the next commit, if that changes no more.
    pub fn next_record(&self) -> EpochRecord {
        EpochRecord {
            epoch: self.next_epoch(),
            ..self.record()
        }
    }
}

impl State {
    /// Which term stands for a record; `None` if the record is a new one.
    fn mark(&self, kind: RecordKind, id: u64) -> Option<Mark> {
        match kind {
            SECRET => Some(self.secrets.by_id(SecretId(id))?.mark),
            VERSION => {
                let secret = self.secrets.by_id(*self.versions.get(&VersionNo(id))?)?;
                Some(secret.versions.get(&VersionNo(id))?.mark)
            }
            LAYER => self.layers.mark(id),
            _ => None,
        }
    }
}

impl Vault {
    /// The term that the sum counts for a record; `None` if the record is a new one.
    ///
    /// # Errors
    /// If the medium has another one.
    pub(super) fn counted(
        &self,
        before: &State,
        kind: RecordKind,
        id: u64,
    ) -> Result<Option<Term>, VaultError> {
        let Some(mark) = before.mark(kind, id) else {
            return Ok(None);
        };
        let found = self.store.get(Table::Term, &term_key(kind, id))?;
        let term = found.and_then(|bytes| Some(Term(bytes.try_into().ok()?)));
        match term.filter(|term| Mark::from(term) == mark) {
            Some(term) => Ok(Some(term)),
            None => Err(VaultError::Integrity(
                "the store was written by something else while it was open: the term of a record is another one".into(),
            )),
        }
    }

    /// After a commit that failed half way the medium decides whether it is there. If it is, what the store holds
    /// is read anew, its outbox included.
    ///
    /// # Errors
    /// If the store is neither as it was before that commit nor as it was to be after it; nothing is believed then.
    pub(super) fn be_sure(&self, writer: &mut Writer) -> Result<(), VaultError> {
        let Some(doubt) = &writer.doubt else {
            return Ok(());
        };
        let found = self.store.revision()?;
        let on_disk = load::epoch_record(&*self.store, &self.keyring)?;
        if on_disk == **doubt {
            let (epoch, state) = load::believed(&*self.store, &self.keyring, &self.administration)?;
            if epoch == **doubt {
                *writer = Writer::at(found, epoch)?;
                self.state.store(Arc::new(state));
                return Ok(());
            }
        } else if on_disk == writer.record() && found == writer.revision {
            writer.tried = doubt.epoch;
            writer.doubt = None;
            return Ok(());
        }
        Err(VaultError::RolledBack(
            "the store was written by something else while it was open: it ends neither before nor after the last change".into(),
        ))
    }
}
