//! That what is read from the medium is what was committed last: for a backup, which is to hold nothing else.

use std::collections::HashMap;

use super::create::key_number;
use super::*;
use crate::seal::Term;

/// Sees each record of a dump, and then says whether they are those of one epoch record.
pub(super) struct Proof<'k> {
    keyring: &'k Keyring,
    last: EpochRecord,
    ends_so: bool,
    sum: TermSum,
    terms: HashMap<(u8, u64), Term>,
    records: HashMap<(u8, u64), Term>,
}

impl<'k> Proof<'k> {
    /// Of the store as `last` leaves it.
    pub fn new(keyring: &'k Keyring, last: EpochRecord) -> Proof<'k> {
        Proof {
            keyring,
            last,
            ends_so: false,
            sum: TermSum::default(),
            terms: HashMap::new(),
            records: HashMap::new(),
        }
    }

    pub fn see(&mut self, table: Table, key: &[u8], bytes: &[u8]) {
        let id = <[u8; 8]>::try_from(key).map(u64::from_be_bytes).ok();
        let place = match table {
            Table::Secret => id.map(|id| (SECRET, id)),
            Table::Version => id.map(|id| (VERSION, id)),
            Table::Layer => id.map(|id| (LAYER, id)),
            Table::Key => std::str::from_utf8(key)
                .ok()
                .and_then(|name| Some((KEY, key_number(&name.parse().ok()?)))),
            Table::Term => return self.term(key, bytes),
            Table::Epoch => {
                let opened = self.keyring.open_record(EPOCH, 0, bytes).ok();
                let record = opened.and_then(|json| serde_json::from_slice::<EpochRecord>(&json).ok());
                self.ends_so |= record.as_ref() == Some(&self.last);
                return;
            }
            _ => None,
        };
        if let (Some((kind, id)), Ok((revision, sealed))) = (place, unframed(bytes)) {
            let term = self.keyring.term(kind, id, revision, sealed);
            self.records.insert((kind.0, id), term);
        }
    }

    fn term(&mut self, key: &[u8], bytes: &[u8]) {
        // One that is malformed is missing from the sum.
        if let (Some((kind, id)), Ok(term)) = (key.split_first(), <[u8; 32]>::try_from(bytes))
            && let Ok(id) = <[u8; 8]>::try_from(id).map(u64::from_be_bytes)
        {
            let (place, term) = ((RecordKind(*kind), id), Term(term));
            self.sum
                .add(&self.keyring.summand(self.last.summed, place, &term));
            self.terms.insert((*kind, id), term);
        }
    }

    /// # Errors
    /// If it was another store, an older one, or one with a damaged record.
    pub fn end(self) -> Result<(), VaultError> {
        if !self.ends_so || !self.sum.ct_eq(&load::decode_sum(&self.last.sum)?) {
            return Err(VaultError::Integrity(
                "the store was written by something else while it was open: its file is not what the last change left".into(),
            ));
        }
        let fits = |(place, term): &(&(u8, u64), &Term)| {
            self.records.get(*place).is_some_and(|record| record.ct_eq(term))
        };
        match self.terms.iter().filter(|term| !fits(term)).count() {
            0 => Ok(()),
            n => Err(VaultError::Integrity(format!(
                "{n} records are damaged or not those that were written last (see which: wardfs store check)"
            ))),
        }
    }
}
