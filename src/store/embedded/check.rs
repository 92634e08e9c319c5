//! The physical check: redb's own, of every page against its checksum, run on the file as it is now while the store
//! stays open. What the check would write goes to memory beside the file.

use super::{CACHE, RECORDS, contradiction, decode_revision, error, guarded};
use crate::store::{Checked, Revision, StoreError, Table};
use redb::{ReadableDatabase, ReadableTable, StorageBackend};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

const PAGE: u64 = 4096;

/// `file` is a descriptor of its own; nobody may commit meanwhile. `revision` is what the open store believes.
pub(super) fn check(
    file: File,
    path: &Path,
    revision: Revision,
    progress: &mut dyn FnMut(f64),
) -> Result<Checked, StoreError> {
    let overlay = Overlay::new(file).map_err(|e| super::files::io("read", path, e))?;
    let (tell, told) = mpsc::channel();
    let work = Mutex::new(Some((overlay, tell)));
    let run = || {
        let (overlay, tell) = locked(&work).take()?;
        Some(guarded(path, || verify(overlay, path, revision, tell)))
    };
    let done = std::thread::scope(
        |scope| match std::thread::Builder::new().spawn_scoped(scope, run) {
            Ok(worker) => {
                told.iter().for_each(&mut *progress);
                worker.join().ok().flatten()
            }
            // No other thread can be had: this one does it.
            Err(_) => run(),
        },
    );
    done.unwrap_or_else(|| Err(contradiction(path)))
        .inspect(|_| progress(1.0))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn verify(
    overlay: Overlay,
    path: &Path,
    revision: Revision,
    tell: mpsc::Sender<f64>,
) -> Result<Checked, StoreError> {
    let db = redb::Builder::new()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .set_repair_callback(move |session| {
            let _ = tell.send(session.progress());
        })
        .create_with_backend(overlay)
        .map_err(|e| error("check", path, e.into()))?;
    let (found, checked) = count(&db, path).map_err(|e| error("check", path, e))?;
    let found = decode_revision(found.as_deref(), path)?;
    if found != revision {
        // The check fell back to the commit before: the pages of the last one are not what they were.
        return Err(StoreError::Corrupt {
            what: path.display().to_string(),
            detail: format!("the last good state in it is revision {found}, not {revision}"),
        });
    }
    Ok(checked)
}

fn count(db: &redb::Database, path: &Path) -> Result<(Option<Vec<u8>>, Checked), redb::Error> {
    let mut checked = Checked::default();
    let mut revision = None;
    let records = match db.begin_read()?.open_table(RECORDS) {
        Ok(records) => records,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, checked)),
        Err(e) => return Err(e.into()),
    };
    for entry in records.iter()? {
        let (key, bytes) = entry?;
        match key.value().split_first() {
            Some((number, rest)) if Table::ALL.iter().any(|table| table.number() == *number) => {
                checked.records += 1;
                checked.bytes += (rest.len() + bytes.value().len()) as u64;
            }
            _ if key.value() == super::REVISION => revision = Some(bytes.value().to_vec()),
            _ => {
                let what = format!("{} holds a record of no known table", path.display());
                return Err(redb::Error::Corrupted(what));
            }
        }
    }
    Ok((revision, checked))
}

/// The file, with what is written to it kept in memory, page by page.
#[derive(Debug)]
struct Overlay {
    file: File,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
struct Changes {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Overlay {
            file,
            changes: Mutex::new(Changes {
                len,
                pages: BTreeMap::new(),
            }),
        })
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        locked(&self.changes)
    }

    /// The file's own bytes; zeros behind its end.
    fn original(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < out.len() {
            match self.file.read_at(&mut out[done..], offset + done as u64) {
                Ok(0) => {
                    out[done..].fill(0);
                    return Ok(());
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Calls `f` with each page that `offset..offset + len` touches, the place in it, and the place in the range.
fn pages(
    offset: u64,
    len: usize,
    mut f: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let step = (PAGE as usize - within).min(len - done);
        f(at / PAGE, within..within + step, done..done + step)?;
        done += step;
    }
    Ok(())
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes();
        if offset
            .checked_add(out.len() as u64)
            .is_none_or(|end| end > changes.len)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.original(offset, out)?;
        pages(offset, out.len(), |page, within, range| {
            if let Some(bytes) = changes.pages.get(&page) {
                out[range].copy_from_slice(&bytes[within]);
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.changes().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changes = self.changes();
        pages(offset, data.len(), |page, within, range| {
            let bytes = match changes.pages.entry(page) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => {
                    let mut bytes = vec![0; PAGE as usize].into_boxed_slice();
                    self.original(page * PAGE, &mut bytes)?;
                    place.insert(bytes)
                }
            };
            bytes[within].copy_from_slice(&data[range]);
            Ok(())
        })
    }
}
