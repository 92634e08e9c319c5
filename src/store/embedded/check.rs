//! The physical check: redb's own, of every page against its checksum, run on the file as it is now while the store
//! stays open. What the check would write goes to memory beside the file.

use super::overlay::Overlay;
use super::{CACHE, RECORDS, contradiction, decode_revision, error, guarded};
use crate::store::{Checked, Revision, StoreError, Table};
use redb::{ReadableDatabase, ReadableTable};
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

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
