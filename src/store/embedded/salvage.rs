//! Before the first commit: is the file one that redb can write to? If not, its records move to one that is.

use super::disk::Disk;
use super::{Embedded, Open, READ, RECORDS, check, contradiction};
use crate::store::{Revision, StoreError};
use redb::{Database, ReadableDatabase, ReadableTable};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Embedded {
    /// To be called in one's turn to commit: sees to it that the file is one that redb can write to.
    pub(super) fn make_sound(&self) -> Result<(), StoreError> {
        self.reopen()?;
        let open = self.state.load_full();
        if open.sound.load(Ordering::Acquire) {
            return Ok(());
        }
        let revision = open.revision(&self.data)?;
        match check::check(self.home.open_data()?, &self.data, revision, &mut |_| {}) {
            Ok(_) => open.sound.store(true, Ordering::Release),
            Err(StoreError::Corrupt { detail, .. }) => self.salvage(&open, revision, &detail)?,
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Copies every record, as it is, into a new file that takes the store's name; the damaged one is kept beside it.
    /// The sealing tells good records from bad ones, and finds any that are missing: here the point is that one bad
    /// record does not keep the others from being changed.
    fn salvage(&self, old: &Open, revision: Revision, damage: &str) -> Result<(), StoreError> {
        tracing::warn!(store = %self.data.display(), damage, "the store's file is damaged; copying its records");
        let draft = Open::new(Disk::new(self.home.draft()?), &self.data)?;
        let mut disordered = false;
        let mut copy = |from: &Database, to: &Database| -> Result<(), redb::Error> {
            let from = from.begin_read()?.open_table(RECORDS)?;
            let mut change = to.begin_write()?;
            change.set_quick_repair(true);
            {
                let mut records = change.open_table(RECORDS)?;
                let mut last: Option<Vec<u8>> = None;
                for entry in from.iter()? {
                    let (key, bytes) = entry?;
                    if last.as_deref() >= Some(key.value()) {
                        disordered = true;
                        break;
                    }
                    last = Some(key.value().to_vec());
                    records.insert(key.value(), bytes.value())?;
                }
            }
            change.commit()?;
            draft.renew(to)
        };
        old.using(&self.data, |from| draft.using_raw(|to| copy(from, to)), READ)?;
        if disordered || draft.revision(&self.data)? != revision {
            return Err(contradiction(&self.data));
        }
        drop(draft);
        self.home.replace_by_draft()?;
        old.disk.retire();
        let open = Open::new(Disk::new(self.home.open_data()?), &self.data)?;
        open.sound.store(true, Ordering::Release);
        self.state.store(Arc::new(open));
        Ok(())
    }
}
