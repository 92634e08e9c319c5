//! A store in memory, for tests and for trying things out: gone with the process.

use super::feed::Feed;
use super::{Batch, Checked, Op, Revision, Store, StoreError, Table, Watch};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard};

type Records = imbl::OrdMap<(Table, Vec<u8>), Arc<[u8]>>;

/// A map behind a lock.
pub struct Memory {
    state: Mutex<(Revision, Records)>,
    feed: Arc<Feed>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            state: Mutex::default(),
            feed: Feed::new(Revision(0)),
        }
    }
}

impl Memory {
    /// An empty store at revision 0.
    pub fn new() -> Self {
        Memory::default()
    }

    fn state(&self) -> MutexGuard<'_, (Revision, Records)> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Every record, for comparisons.
    pub fn all(&self) -> BTreeMap<(Table, Vec<u8>), Vec<u8>> {
        self.state()
            .1
            .iter()
            .map(|(k, v)| (k.clone(), v.to_vec()))
            .collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.feed.close();
    }
}

impl Store for Memory {
    fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.state().0)
    }

    fn list(
        &self,
        table: Table,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let records = self.state().1.clone();
        let from = Bound::Included((table, Vec::new()));
        for ((found, key), bytes) in records.range((from, Bound::Unbounded)) {
            if *found != table || each(key, bytes).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn dump(&self, each: &mut dyn FnMut(Table, &[u8], &[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        let records = self.state().1.clone();
        for ((table, key), bytes) in &records {
            if each(*table, key, bytes).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .state()
            .1
            .get(&(table, key.to_vec()))
            .map(|bytes| bytes.to_vec()))
    }

    fn commit(&self, base: Revision, batch: &Batch) -> Result<Revision, StoreError> {
        batch.check()?;
        let mut state = self.state();
        let (revision, records) = &mut *state;
        if base != *revision {
            return Err(StoreError::Conflict {
                expected: base,
                found: *revision,
            });
        }
        for op in batch.ops() {
            match op {
                Op::Put { table, key, bytes } => {
                    records.insert((*table, key.to_vec()), bytes.clone());
                }
                Op::Delete { table, key } => {
                    records.remove(&(*table, key.to_vec()));
                }
            }
        }
        revision.0 += 1;
        // Under the lock, so that watchers hear of the commits in their order.
        self.feed.publish(*revision, batch);
        Ok(*revision)
    }

    fn watch(&self, since: Revision) -> Result<Watch, StoreError> {
        self.feed.watch(since)
    }

    fn check(&self, progress: &mut dyn FnMut(f64)) -> Result<Checked, StoreError> {
        let records = self.state().1.clone();
        let bytes = records
            .iter()
            .map(|((_, key), bytes)| (key.len() + bytes.len()) as u64)
            .sum();
        progress(1.0);
        Ok(Checked {
            records: records.len() as u64,
            bytes,
        })
    }
}
