//! The file under redb.

use crate::store::{Space, StoreError};
use redb::StorageBackend;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use super::overlay::Overlay;
use super::reserve::Reserve;
use crate::sys::dir::Inode;

/// Reads and writes the store's file, where that can be written; only reads it once it is retired, and does neither once it is closed. The directory's lock stands for redb's own.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: RwLock<Option<File>>,
    /// In the place of the file, where that cannot be written: redb writes when it only opens one.
    overlay: Option<Overlay>,
    inode: Option<Inode>,
    retired: AtomicBool,
    reserve: Reserve,
    /// Whether what is written now must leave the reserve whole.
    frugal: AtomicBool,
    #[cfg(test)]
    faults: faults::Faults,
}

impl Disk {
    pub(super) fn new(file: File) -> Self {
        let inode = Inode::of(&file).ok();
        Disk::over(inode, Some(file), None)
    }

    /// Of a file that is only read: what is written goes nowhere.
    pub(super) fn unwritten(file: File) -> io::Result<Self> {
        let inode = Inode::of(&file).ok();
        Ok(Disk::over(inode, None, Some(Overlay::new(file)?)))
    }

    fn over(inode: Option<Inode>, file: Option<File>, overlay: Option<Overlay>) -> Self {
        Disk(Arc::new(Inner {
            inode,
            file: RwLock::new(file),
            overlay,
            retired: AtomicBool::new(false),
            reserve: Reserve::default(),
            frugal: AtomicBool::new(false),
            #[cfg(test)]
            faults: faults::Faults::default(),
        }))
    }

    /// Which file it is; `None` if the system did not say.
    pub(super) fn inode(&self) -> Option<Inode> {
        self.0.inode
    }

    /// Nothing is written any more: another database has the file now.
    pub(super) fn retire(&self) {
        self.0.retired.store(true, Ordering::SeqCst);
    }

    /// From now on a commit is written that may use this space.
    pub(super) fn spend(&self, space: Space) {
        self.0.frugal.store(space == Space::Free, Ordering::SeqCst);
    }

    fn space(&self) -> Space {
        match self.0.frugal.load(Ordering::SeqCst) {
            true => Space::Free,
            false => Space::Reserve,
        }
    }

    /// Lets go of the file, even if a database that can no longer be ended holds on to this.
    pub(super) fn close(&self) {
        *self
            .0
            .file
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }

    fn with<T>(&self, f: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match &*self
            .0
            .file
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
        {
            Some(file) => f(file),
            None => Err(io::Error::other("the file was closed")),
        }
    }

    fn may_write(&self) -> io::Result<()> {
        if self.0.retired.load(Ordering::SeqCst) {
            return Err(io::Error::other("the file was opened again"));
        }
        #[cfg(test)]
        self.0.faults.strike()?;
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        if let Some(overlay) = &self.0.overlay {
            return overlay.len();
        }
        self.with(|file| Ok(file.metadata()?.len()))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if let Some(overlay) = &self.0.overlay {
            return overlay.read(offset, out);
        }
        self.with(|file| file.read_exact_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if let Some(overlay) = &self.0.overlay {
            return overlay.set_len(len);
        }
        self.may_write()?;
        self.with(|file| {
            let cut = len < file.metadata()?.len();
            file.set_len(len)?;
            if cut {
                self.0.reserve.cut(file, len);
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some(overlay) = &self.0.overlay {
            return overlay.sync_data();
        }
        self.may_write()?;
        self.with(|file| file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(overlay) = &self.0.overlay {
            return overlay.write(offset, data);
        }
        self.may_write()?;
        self.with(|file| {
            let end = offset.saturating_add(data.len() as u64);
            self.0.reserve.see_to(file, end, self.space())?;
            file.write_all_at(data, offset)
        })
    }
}

const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// The version of redb's file format that this release reads: the first byte of each commit slot.
const VERSION: u8 = 3;
const SLOTS: [u64; 2] = [64, 192];

/// Looks at the first bytes, because redb would make a new database of an empty file and calls every version that
/// it does not know damage.
pub(super) fn sniff(file: &File, path: &Path) -> Result<(), StoreError> {
    let damaged = |detail: &str| StoreError::Corrupt {
        what: path.display().to_string(),
        detail: detail.into(),
    };
    let read = |at: u64, out: &mut [u8]| match file.read_exact_at(out, at) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(damaged("it ends too early")),
        Err(e) => Err(super::files::io("read", path, e)),
    };
    let mut magic = [0; MAGIC.len()];
    read(0, &mut magic)?;
    if magic != MAGIC {
        return Err(damaged("it does not begin as a store"));
    }
    let mut versions = [0; SLOTS.len()];
    for (version, at) in versions.iter_mut().zip(SLOTS) {
        read(at, std::slice::from_mut(version))?;
    }
    // A later redb writes its version into both slots; a single one is damage.
    if versions[0] == versions[1] && versions[0] > VERSION {
        let format = u16::from(versions[0]);
        return Err(StoreError::TooNew {
            format,
            min_reader: format,
            version: None,
        });
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod faults {
    use std::io;
    use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

    /// Lets so many writes pass, then fails each with `errno` until told otherwise.
    #[derive(Debug)]
    pub(in super::super) struct Faults {
        left: AtomicI64,
        errno: AtomicI32,
    }

    impl Default for Faults {
        fn default() -> Self {
            Faults {
                left: AtomicI64::new(i64::MAX),
                errno: AtomicI32::new(libc::EIO),
            }
        }
    }

    impl Faults {
        pub(super) fn strike(&self) -> io::Result<()> {
            if self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
                return Ok(());
            }
            self.left.store(0, Ordering::SeqCst);
            Err(io::Error::from_raw_os_error(self.errno.load(Ordering::SeqCst)))
        }
    }

    impl super::Disk {
        pub(in super::super) fn fail_after(&self, writes: i64, errno: i32) {
            self.0.faults.errno.store(errno, Ordering::SeqCst);
            self.0.faults.left.store(writes, Ordering::SeqCst);
        }
    }
}
