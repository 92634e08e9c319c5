//! From format 1 to this one.
//!
//! In format 1 a term counted wherever it stood. Whoever writes the disk could move a guardrail's term to where no record
//! is: the sum was right, and the guardrail, without its term, was none. What such a move leaves is a term that does not
//! match the record at its place, so that a store of format 1 is believed where all of them match, and not otherwise.

use std::ops::ControlFlow;

use super::load::Records;
use super::*;
use crate::seal::Term;
use crate::store::header::{self, Header};
use crate::store::{Batch, Space};

pub(super) fn is_old(summed: &Summing) -> bool {
    *summed == Summing::Terms
}

/// That nothing is hidden in a store of format 1.
///
/// # Errors
/// If one record is damaged: it may stand for another one.
pub(super) fn sound(records: &Records, summed: Summing) -> Result<(), VaultError> {
    match records.broken().filter(|_| is_old(&summed)) {
        None => Ok(()),
        Some(why) => Err(VaultError::Integrity(format!(
            "in a store of format 1 one damaged record may hide another one, and one is: {why}"
        ))),
    }
}

impl Vault {
    /// Brings a store of format 1 to this one, in one commit of its own.
    ///
    /// # Errors
    /// If it cannot be written, or was changed since it was opened; the store is as it was then.
    pub(super) fn upgrade(&self, writer: &mut Writer) -> Result<(), VaultError> {
        if !is_old(&writer.summed) {
            return Ok(());
        }
        let damaged = || VaultError::Integrity("the table of terms was changed".into());
        let [mut before, mut sum] = [TermSum::default(); 2];
        let mut malformed = false;
        self.store.list(Table::Term, &mut |key, bytes| {
            match (key.split_first(), <[u8; 32]>::try_from(bytes)) {
                (Some((kind, id)), Ok(term)) if id.len() == 8 => {
                    let place = (
                        RecordKind(*kind),
                        u64::from_be_bytes(id.try_into().unwrap_or_default()),
                    );
                    before.add(&self.keyring.summand(Summing::Terms, place, &Term(term)));
                    sum.add(&self.keyring.summand(Summing::Places, place, &Term(term)));
                }
                _ => malformed = true,
            }
            ControlFlow::Continue(())
        })?;
        if malformed || !before.ct_eq(&writer.sum) {
            return Err(damaged());
        }
        let header = self
            .store
            .get(Table::Header, header::KEY)?
            .ok_or(VaultError::Unfinished)?;
        let Header { id, created, .. } = Header::decode(&header)?;
        // Before a change that takes away, too.
        let mut batch = Batch::within(Space::Reserve);
        batch.put(Table::Header, header::KEY, Header::new(id, created).encode());
        let record = EpochRecord {
            sum: create::hex(&sum.0),
            summed: Summing::Places,
            ..writer.next_record()
        };
        self.write_epoch(writer, &record, batch)?;
        (writer.sum, writer.summed) = (sum, Summing::Places);
        Ok(())
    }
}
