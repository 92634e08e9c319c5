//! Memory for plaintext and keys: locked, left out of dumps, wiped when dropped.

use crate::secret::{SecretBytes, SecretMemory};
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// Whole anonymous pages of one secret.
struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages belong to this value alone and are reached only through its borrows.
unsafe impl Send for Pages {}
// SAFETY: as above; shared borrows only read.
unsafe impl Sync for Pages {}

impl SecretMemory for Pages {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is a live mapping of `len` initialised bytes, owned by `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // SAFETY: the mapping was made by `secret` with this length, and nothing borrows it any longer.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

/// Zero-filled locked memory for a secret of `len` bytes.
///
/// # Errors
/// When the kernel gives no memory or does not lock it.
pub fn secret(len: usize) -> io::Result<SecretBytes> {
    let size = len.max(1).div_ceil(4096) * 4096;
    let size = NonZeroUsize::new(size).ok_or(io::ErrorKind::OutOfMemory)?;
    let flags = MapFlags::MAP_PRIVATE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
    let pages = Pages {
        start: start.cast(),
        len: size.get(),
    };
    // SAFETY: locking and advising the mapping just made changes no contents.
    unsafe {
        mlock(start, size.get())?;
        madvise(start, size.get(), MmapAdvise::MADV_DONTDUMP)?;
    }
    Ok(SecretBytes::in_memory(Box::new(pages), len))
}
