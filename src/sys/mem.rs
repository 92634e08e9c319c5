//! Memory fit for plaintext: locked, left out of dumps, wiped when dropped.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize;

use crate::secret::{SecretBytes, SecretMemory};

struct Locked {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone; `&` gives only `&[u8]`, `&mut` only `&mut [u8]`.
unsafe impl Send for Locked {}
// SAFETY: as above.
unsafe impl Sync for Locked {}

impl SecretMemory for Locked {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `start..start + len` is mapped readable for the life of self and initialised (zeroed) by the kernel.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, writable, and `&mut self` excludes every other view.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // SAFETY: the mapping was made by `secret` with this length and nothing refers to it any more.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

/// `len` zero bytes of locked, undumpable memory.
///
/// # Errors
/// If the memory cannot be mapped or locked (RLIMIT_MEMLOCK).
pub fn secret(len: usize) -> io::Result<SecretBytes> {
    const PAGE: usize = 4096;
    let size = len
        .max(1)
        .checked_next_multiple_of(PAGE)
        .and_then(NonZeroUsize::new)
        .ok_or(io::ErrorKind::OutOfMemory)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches no other memory.
    let start = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE)? };
    let memory = Locked {
        start,
        len: size.get(),
    };
    // SAFETY: the whole range was just mapped.
    unsafe {
        mlock(start, size.get())?;
        madvise(start, size.get(), MmapAdvise::MADV_DONTDUMP)?;
    }
    Ok(SecretBytes::in_memory(Box::new(memory), len))
}
