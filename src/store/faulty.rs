//! A store that fails when told to, for tests of everything above it.

use super::{Batch, Checked, Revision, Store, StoreError, Table, Watch};
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The calls that are counted, each kind by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// [`Store::revision`]
    Revision,
    /// [`Store::list`]
    List,
    /// [`Store::get`]
    Get,
    /// [`Store::commit`]
    Commit,
    /// [`Store::watch`]
    Watch,
    /// [`Store::check`]
    Check,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An I/O error; nothing is done.
    Fail,
    /// No space; nothing is done.
    Full,
    /// The bytes read are refused as damaged; nothing is done.
    Corrupt,
    /// Done, but the answer is an I/O error: the caller cannot know.
    Unanswered,
    /// The same, and the answer is that there is no space: what `fdatasync` says on file systems that allocate late.
    UnansweredFull,
    /// The same, and the answer is that it is damaged.
    UnansweredCorrupt,
    /// Only the first so many changes of the batch are made, and the answer is an I/O error: what a medium does
    /// that breaks its promise of all or nothing.
    Torn(usize),
    /// Answered as done, and not done: a disk that lies about its cache.
    Lost,
    /// Done, late.
    Delay(Duration),
}

#[derive(Default)]
struct Plan {
    counts: BTreeMap<Call, u64>,
    faults: BTreeMap<(Call, u64), Fault>,
}

/// Passes every call on to the store inside, except those it was told to spoil.
pub struct Faulty<S> {
    inner: S,
    plan: Mutex<Plan>,
}

impl<S: Store> Faulty<S> {
    /// A wrapper that spoils nothing yet.
    pub fn new(inner: S) -> Self {
        Faulty {
            inner,
            plan: Mutex::default(),
        }
    }

    /// Spoils the `nth` call of that kind from now on; 1 is the next one.
    pub fn inject(&self, call: Call, nth: u64, fault: Fault) {
        let mut plan = self.plan();
        let at = plan.counts.get(&call).copied().unwrap_or(0) + nth;
        plan.faults.insert((call, at), fault);
    }

    /// How many calls of that kind were made.
    pub fn calls(&self, call: Call) -> u64 {
        self.plan().counts.get(&call).copied().unwrap_or(0)
    }

    /// The store inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn next(&self, call: Call) -> Option<Fault> {
        let mut plan = self.plan();
        let count = plan.counts.entry(call).or_default();
        *count += 1;
        let at = *count;
        plan.faults.remove(&(call, at))
    }

    /// For calls that change nothing, every fault but a delay is an error.
    fn spoil(&self, call: Call) -> Result<(), StoreError> {
        match self.next(call) {
            None => Ok(()),
            Some(Fault::Delay(time)) => {
                std::thread::sleep(time);
                Ok(())
            }
            Some(fault) => Err(error(fault)),
        }
    }
}

fn error(fault: Fault) -> StoreError {
    let path = PathBuf::from("(injected)");
    match fault {
        Fault::Full | Fault::UnansweredFull => StoreError::Full { path },
        Fault::Corrupt | Fault::UnansweredCorrupt => StoreError::Corrupt {
            what: "(injected)".into(),
            detail: "a test said so".into(),
        },
        Fault::Fail | Fault::Unanswered | Fault::Torn(_) | Fault::Lost | Fault::Delay(_) => StoreError::Io {
            doing: "use",
            path,
            source: io::Error::other("a test said so"),
        },
    }
}

impl<S: Store> Store for Faulty<S> {
    fn revision(&self) -> Result<Revision, StoreError> {
        self.spoil(Call::Revision)?;
        self.inner.revision()
    }

    fn list(
        &self,
        table: Table,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.spoil(Call::List)?;
        self.inner.list(table, each)
    }

    fn dump(&self, each: &mut dyn FnMut(Table, &[u8], &[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.spoil(Call::List)?;
        self.inner.dump(each)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.spoil(Call::Get)?;
        self.inner.get(table, key)
    }

    fn commit(&self, base: Revision, batch: &Batch) -> Result<Revision, StoreError> {
        match self.next(Call::Commit) {
            None => self.inner.commit(base, batch),
            Some(Fault::Delay(time)) => {
                std::thread::sleep(time);
                self.inner.commit(base, batch)
            }
            Some(fault @ (Fault::Unanswered | Fault::UnansweredFull | Fault::UnansweredCorrupt)) => {
                self.inner.commit(base, batch)?;
                Err(error(fault))
            }
            Some(fault @ Fault::Torn(ops)) => {
                self.inner.commit(base, &batch.first(ops))?;
                Err(error(fault))
            }
            Some(Fault::Lost) => Ok(Revision(base.0 + 1)),
            Some(fault @ (Fault::Fail | Fault::Full | Fault::Corrupt)) => Err(error(fault)),
        }
    }

    fn watch(&self, since: Revision) -> Result<Watch, StoreError> {
        self.spoil(Call::Watch)?;
        self.inner.watch(since)
    }

    fn check(&self, progress: &mut dyn FnMut(f64)) -> Result<Checked, StoreError> {
        self.spoil(Call::Check)?;
        self.inner.check(progress)
    }
}
