//! Space that is kept for changes which take access away, so that deleting works on a full disk.
//!
//! The file's blocks are asked for ahead: those behind the last page that was ever written are the reserve. What an
//! ordinary commit writes must leave it whole, or lie in space that the file has had before it; a commit that
//! [may use the reserve](Space::Reserve) writes where it likes. A store of an older release, and one whose reserve was
//! used, gets it as soon as there is room.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use crate::store::Space;

/// Bytes that are kept.
pub const RESERVE: u64 = 2 << 20;
/// Bytes that are asked for beyond, so that not each page is asked for alone.
const GROWTH: u64 = 256 << 10;
/// How long after a refusal of the file system it is asked anew for what only the reserve lacks.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Reserve(Mutex<Option<Ahead>>);

#[derive(Debug)]
struct Ahead {
    /// The end of the last page that was ever written.
    top: u64,
    /// Bytes from the file's beginning that are known to have blocks.
    allocated: u64,
    retry: Option<Instant>,
}

impl Reserve {
    /// To be called before a write that ends at `end`.
    ///
    /// # Errors
    /// If there is no space for it but in the reserve, which this commit may not use.
    pub(super) fn see_to(&self, file: &File, end: u64, space: Space) -> io::Result<()> {
        let mut ahead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = ahead.get_or_insert_with(|| Ahead::of(file));
        ahead.top = ahead.top.max(end);
        ahead.see_to(file, end, space)
    }

    /// To be called after the file was cut at `len`, which gives back what was asked for behind it.
    pub(super) fn cut(&self, file: &File, len: u64) {
        let mut ahead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ahead) = &mut *ahead {
            ahead.top = ahead.top.min(len);
            ahead.allocated = ahead.allocated.min(len);
            let _ = ahead.see_to(file, 0, Space::Reserve);
        }
    }
}

impl Ahead {
    fn of(file: &File) -> Ahead {
        Ahead {
            top: written(file).unwrap_or(0),
            allocated: 0,
            retry: None,
        }
    }

    fn see_to(&mut self, file: &File, end: u64, space: Space) -> io::Result<()> {
        let wanted = self.top.saturating_add(RESERVE);
        if wanted <= self.allocated {
            return Ok(());
        }
        if space == Space::Free || self.retry.is_none_or(|at| Instant::now() >= at) {
            let asked = self.ask(file, wanted.saturating_add(GROWTH));
            match asked.or_else(|_| self.ask(file, wanted)) {
                Ok(()) => {
                    self.retry = None;
                    return Ok(());
                }
                Err(Errno::ENOSPC | Errno::EDQUOT) => self.retry = Some(Instant::now() + RETRY),
                // A file system that allocates nothing ahead: the write tells.
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => self.allocated = u64::MAX,
                // Failing, read-only: the write tells.
                Err(_) => {}
            }
            if self.retry.is_none() {
                return Ok(());
            }
        }
        let below = end.saturating_add(RESERVE);
        match space {
            // What it has blocks for can be written; what it has none for, the write tells.
            Space::Reserve => Ok(()),
            Space::Free if below <= self.allocated || self.ask(file, below).is_ok() => Ok(()),
            Space::Free => Err(Errno::ENOSPC.into()),
        }
    }

    /// Has the file system give blocks up to `to`, of which there may be some.
    fn ask(&mut self, file: &File, to: u64) -> Result<(), Errno> {
        let number = |n: u64| i64::try_from(n).map_err(|_| Errno::EFBIG);
        let (from, len) = (number(self.allocated)?, number(to - self.allocated)?);
        fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, len)?;
        self.allocated = to;
        Ok(())
    }
}

/// The end of the last byte that was ever written; the file's end where the file system does not tell holes.
fn written(file: &File) -> io::Result<u64> {
    let mut at = 0;
    loop {
        match lseek(file, at, Whence::SeekData) {
            Ok(data) => at = lseek(file, data, Whence::SeekHole)?,
            Err(Errno::ENXIO) => return Ok(u64::try_from(at).unwrap_or(0)),
            Err(_) => return Ok(file.metadata()?.len()),
        }
    }
}
