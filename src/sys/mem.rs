//! Locked memory: the only maker of [`SecretBytes`].
//!
//! An arena of chunks, each mapped, locked into RAM (`mlock`), left out of core dumps (`MADV_DONTDUMP`), zero
//! in a forked child (`MADV_WIPEONFORK`) and fenced by two inaccessible pages. A chunk is cut into slots of one
//! size class (a power of two, 32 bytes to 1 MiB), so that 100,000 data keys of 32 bytes lock 3.1 MiB. A slot is
//! wiped when it is released and so is always zero when it is given out. What is larger than 1 MiB gets a
//! mapping of its own. The book-keeping lives outside of the locked pages.
//!
//! Small chunks stay locked once made; of slots of 64 KiB and more at most [`KEPT_LARGE`] bytes a class are kept
//! for reuse. When the lock limit is reached, every chunk that is wholly free is unlocked before giving up.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::secret::{SecretBytes, SecretMemory};

const SMALLEST_BITS: u32 = 5;
const LARGEST_BITS: u32 = 20;
const CLASSES: usize = (LARGEST_BITS - SMALLEST_BITS + 1) as usize;
/// A chunk's size, unless one slot is larger.
const CHUNK: usize = 64 * 1024;
/// Free bytes that a class of slots as large as a chunk keeps locked for reuse.
pub const KEPT_LARGE: usize = 1024 * 1024;
/// The longest secret that memory is given for: far above any value that wardfs stores.
pub const MAX_LEN: usize = 16 * 1024 * 1024;

/// Why no locked memory could be had. It is the inner error of an [`io::Error`] of kind `OutOfMemory`.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// `RLIMIT_MEMLOCK` is used up.
    #[error(
        "cannot lock {wanted} more bytes of memory for secrets ({locked} are locked): {source}; raise \
         RLIMIT_MEMLOCK (`ulimit -l`, `LimitMEMLOCK=` in a unit)"
    )]
    Locked {
        /// Bytes asked of the kernel.
        wanted: usize,
        /// Bytes that the arena holds.
        locked: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More than [`MAX_LEN`] bytes were asked for.
    #[error("{0} bytes are more than a secret may have ({MAX_LEN})")]
    TooLong(usize),
}

/// The free slots of one class, and the chunks they were cut from.
struct Class {
    free: Vec<Address>,
    chunks: Vec<Region>,
}

/// A slot's address. It is no pointer so that the free lists can be shared between threads.
type Address = usize;

#[derive(Clone, Copy)]
struct Region {
    start: Address,
    len: usize,
}

static ARENA: [Mutex<Class>; CLASSES] = [const {
    Mutex::new(Class {
        free: Vec::new(),
        chunks: Vec::new(),
    })
}; CLASSES];
static SINGLES: Mutex<Vec<Region>> = Mutex::new(Vec::new());
static LOCKED: AtomicUsize = AtomicUsize::new(0);

/// `len` zero bytes in locked memory, at most [`MAX_LEN`].
///
/// # Errors
/// Kind `OutOfMemory` around a [`MemoryError`] when no more memory can be locked; never ordinary memory instead.
pub fn secret(len: usize) -> io::Result<SecretBytes> {
    if len > MAX_LEN {
        return Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            MemoryError::TooLong(len),
        ));
    }
    let slot = match class_of(len) {
        Some(class) => Slot {
            start: take(class)?,
            len,
            home: Home::Class(class),
        },
        None => {
            let region = map(len)?;
            guard(&SINGLES).push(region);
            Slot {
                start: pointer(region.start),
                len,
                home: Home::Single(region),
            }
        }
    };
    Ok(SecretBytes::in_memory(Box::new(slot), len))
}

/// Keeps large blocks of ordinary memory out of the heap for good, so that each goes back to the kernel when it is
/// freed. By itself glibc puts ever larger ones among the small (mallopt(3), `M_MMAP_THRESHOLD`).
pub fn large_blocks_apart() {
    // SAFETY: takes numbers; glibc locks its arenas itself.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Gives ordinary memory that is not used any more back to the kernel, after work that took much for a while.
pub fn trim() {
    // SAFETY: takes a number; glibc locks its arenas itself.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes that the arena has locked now, free slots included.
pub fn locked_bytes() -> usize {
    LOCKED.load(Ordering::Relaxed)
}

/// The locked areas as (start, length): plaintext and keys may be found here and nowhere else in the process.
/// For tests that scan the memory.
pub fn regions() -> Vec<(usize, usize)> {
    let mut all: Vec<Region> = guard(&SINGLES).clone();
    for class in &ARENA {
        all.extend(&guard(class).chunks);
    }
    all.into_iter().map(|r| (r.start, r.len)).collect()
}

enum Home {
    Class(usize),
    Single(Region),
}

struct Slot {
    start: NonNull<u8>,
    len: usize,
    home: Home,
}

// SAFETY: a slot owns its bytes alone, from `take` or `map` until its drop; nothing else points to them.
unsafe impl Send for Slot {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Slot {}

impl SecretMemory for Slot {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` bytes, initialised (zero pages, or wiped), and owned by this slot.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: `start` is valid for `len` bytes and nobody borrows them any more. explicit_bzero is never
        // optimised away.
        unsafe { libc::explicit_bzero(self.start.as_ptr().cast(), self.len) };
        match self.home {
            Home::Class(class) => give_back(class, self.start),
            Home::Single(region) => {
                guard(&SINGLES).retain(|r| r.start != region.start);
                unmap(region);
            }
        }
    }
}

fn class_of(len: usize) -> Option<usize> {
    let bits = len.max(1).next_power_of_two().trailing_zeros().max(SMALLEST_BITS);
    (bits <= LARGEST_BITS).then_some((bits - SMALLEST_BITS) as usize)
}

fn slot_size(class: usize) -> usize {
    1 << (class as u32 + SMALLEST_BITS)
}

/// A panic while the lock was held cannot leave a list half changed: no call in between can panic but `push`,
/// which aborts when memory is short.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(class: usize) -> io::Result<NonNull<u8>> {
    let mut list = guard(&ARENA[class]);
    if let Some(address) = list.free.pop() {
        return Ok(pointer(address));
    }
    let size = slot_size(class);
    let len = CHUNK.max(size);
    let region = match map(len) {
        Ok(region) => region,
        Err(first) => {
            drop(list);
            if release_free_chunks() == 0 {
                return Err(first);
            }
            list = guard(&ARENA[class]);
            map(len)?
        }
    };
    list.chunks.push(region);
    // Highest first, so that slots are given out in ascending order.
    list.free
        .extend((1..len / size).rev().map(|i| region.start + i * size));
    Ok(pointer(region.start))
}

fn give_back(class: usize, start: NonNull<u8>) {
    let size = slot_size(class);
    let mut list = guard(&ARENA[class]);
    let address = start.as_ptr() as Address;
    if size >= CHUNK && (list.free.len() + 1) * size > KEPT_LARGE {
        if let Some(i) = list.chunks.iter().position(|c| c.start == address) {
            let region = list.chunks.swap_remove(i);
            drop(list);
            unmap(region);
        }
        return;
    }
    list.free.push(address);
}

/// Unlocks every chunk that has no slot in use; the number of bytes won.
fn release_free_chunks() -> usize {
    let mut won = 0;
    for (class, list) in ARENA.iter().enumerate() {
        let mut list = guard(list);
        list.free.sort_unstable();
        let Class { free, chunks } = &mut *list;
        chunks.retain(|chunk| {
            let from = free.partition_point(|a| *a < chunk.start);
            let to = free.partition_point(|a| *a < chunk.start + chunk.len);
            if (to - from) * slot_size(class) < chunk.len {
                return true;
            }
            free.drain(from..to);
            won += chunk.len;
            unmap(*chunk);
            false
        });
        free.reverse();
    }
    won
}

fn pointer(address: Address) -> NonNull<u8> {
    // Addresses come from mmap, which never returns 0 without MAP_FIXED.
    NonNull::new(std::ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
}

fn page() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    match PAGE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: sysconf has no preconditions.
            let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            let size = usize::try_from(size).unwrap_or(4096);
            PAGE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// Locked, zero, undumpable pages for at least `len` bytes, between two inaccessible ones.
fn map(len: usize) -> io::Result<Region> {
    let page = page();
    let len = len.next_multiple_of(page);
    let whole = len + 2 * page;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            whole,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(no_memory(len));
    }
    let start = base.expose_provenance() + page;
    let inner: *mut libc::c_void = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: `inner..inner+len` lies within the mapping just made, which nobody else knows of.
    let failed = unsafe {
        libc::mprotect(inner, len, libc::PROT_READ | libc::PROT_WRITE) != 0
            || libc::madvise(inner, len, libc::MADV_DONTDUMP) != 0
            || libc::madvise(inner, len, libc::MADV_WIPEONFORK) != 0
            || libc::mlock(inner, len) != 0
    };
    if failed {
        let error = no_memory(len);
        // SAFETY: exactly the mapping made above, to which no pointer was given out.
        unsafe { libc::munmap(base, whole) };
        return Err(error);
    }
    LOCKED.fetch_add(len, Ordering::Relaxed);
    Ok(Region { start, len })
}

fn no_memory(wanted: usize) -> io::Error {
    let source = io::Error::last_os_error();
    io::Error::new(
        io::ErrorKind::OutOfMemory,
        MemoryError::Locked {
            wanted,
            locked: locked_bytes(),
            source,
        },
    )
}

fn unmap(region: Region) {
    let page = page();
    LOCKED.fetch_sub(region.len, Ordering::Relaxed);
    // SAFETY: the whole of a mapping that `map` made (with its two fences); every slot in it was given back.
    unsafe {
        libc::munmap(
            std::ptr::with_exposed_provenance_mut(region.start - page),
            region.len + 2 * page,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(secret: &SecretBytes) -> usize {
        secret.expose().as_ptr() as usize
    }

    /// The bytes at an address of the arena, read as the kernel sees them.
    fn peek(address: usize, len: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0xff; len];
        std::fs::File::open("/proc/self/mem")
            .unwrap()
            .read_exact_at(&mut bytes, address as u64)
            .unwrap();
        bytes
    }

    #[test]
    fn a_secret_is_zero_when_given_and_wiped_when_dropped() {
        // A class that no other test uses, so that nobody takes the slot while we look.
        let len = 8000;
        let mut secret = secret(len).unwrap();
        assert_eq!(secret.len(), len);
        assert!(secret.expose().iter().all(|b| *b == 0));
        secret.expose_mut().fill(0xa5);
        let at = address(&secret);
        assert!(peek(at, len).iter().all(|b| *b == 0xa5));
        drop(secret);
        assert!(peek(at, len).iter().all(|b| *b == 0));
    }

    #[test]
    fn a_truncated_secret_leaves_no_tail() {
        let mut secret = secret(3000).unwrap();
        secret.expose_mut().fill(7);
        let at = address(&secret);
        secret.truncate(10);
        assert_eq!(peek(at, 11), [&[7u8; 10][..], &[0]].concat());
        drop(secret);
        assert!(peek(at, 3000).iter().all(|b| *b == 0));
    }

    #[test]
    fn every_length_lies_within_a_locked_region_and_overlaps_no_other() {
        let mut held: Vec<SecretBytes> = Vec::new();
        for len in [
            0,
            1,
            31,
            32,
            33,
            64,
            4096,
            65_535,
            65_536,
            65_537,
            1 << 20,
            (1 << 20) + 1,
        ] {
            held.push(secret(len).unwrap());
        }
        let regions = regions();
        let mut spans: Vec<_> = held.iter().map(|s| (address(s), s.len())).collect();
        for (at, len) in &spans {
            assert!(
                regions
                    .iter()
                    .any(|(start, l)| at >= start && at + len <= start + l),
                "{at:x} {len}"
            );
        }
        spans.sort_unstable();
        assert!(spans.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
    }

    #[test]
    fn the_pages_are_locked_undumpable_and_wiped_on_fork() {
        let secret = secret(100).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let at = address(&secret);
        let mut inside = false;
        let mut flags = None;
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|r| r.split_once('-'));
            if let Some((Ok(from), Ok(to))) =
                range.map(|(a, b)| (usize::from_str_radix(a, 16), usize::from_str_radix(b, 16)))
            {
                inside = (from..to).contains(&at);
            }
            if inside && line.starts_with("VmFlags:") {
                flags = Some(line.to_owned());
            }
        }
        let flags = flags.expect("the mapping is in smaps");
        for flag in [" lo", " dd", " wf"] {
            assert!(flags.contains(flag), "{flag} in {flags}");
        }
    }

    #[test]
    fn a_hundred_thousand_data_keys_lock_at_most_four_mebibytes() {
        // The 32-byte class is used by this test alone, so its chunks can be counted exactly.
        let keys: Vec<_> = (0..100_000).map(|_| secret(32).unwrap()).collect();
        let locked: usize = guard(&ARENA[0]).chunks.iter().map(|c| c.len).sum();
        assert!(locked <= 4 << 20, "{locked}");
        assert!(locked_bytes() >= locked);
        drop(keys);
    }

    #[test]
    fn large_slots_are_unlocked_when_they_are_given_back() {
        let held: Vec<_> = (0..20).map(|_| secret(200_000).unwrap()).collect();
        drop(held);
        let kept: usize = guard(&ARENA[class_of(200_000).unwrap()])
            .chunks
            .iter()
            .map(|c| c.len)
            .sum();
        assert!(kept <= KEPT_LARGE, "{kept}");
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        let error = secret(MAX_LEN + 1).err().expect("refused");
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn without_the_privilege_the_lock_limit_ends_in_an_error_and_never_in_ordinary_memory() {
        let result = std::thread::spawn(|| {
            // Capabilities are a thread's own: the other tests keep theirs.
            crate::sys::harden::drop_capabilities(&[]).unwrap();
            let mut held = Vec::new();
            loop {
                match secret(500_000) {
                    Ok(s) if held.len() < 1000 => held.push(s),
                    Ok(_) => return None,
                    Err(e) => {
                        let here: Vec<_> = held.iter().map(|s| (address(s), s.len())).collect();
                        let regions = regions();
                        assert!(here.iter().all(|(at, len)| {
                            regions
                                .iter()
                                .any(|(start, l)| at >= start && at + len <= start + l)
                        }));
                        drop(held);
                        // What was given back can be had again.
                        assert!(secret(500_000).is_ok());
                        return Some(e);
                    }
                }
            }
        })
        .join()
        .unwrap()
        .expect("the limit is reached");
        assert_eq!(result.kind(), io::ErrorKind::OutOfMemory);
        assert!(result.to_string().contains("RLIMIT_MEMLOCK"), "{result}");
    }

    #[test]
    fn threads_share_the_arena_without_sharing_a_slot() {
        std::thread::scope(|scope| {
            for t in 0..4u8 {
                scope.spawn(move || {
                    for i in 0..5_000usize {
                        let mut a = secret(40 + i % 900).unwrap();
                        let b = secret(64).unwrap();
                        assert!(a.expose().iter().chain(b.expose()).all(|x| *x == 0));
                        a.expose_mut().fill(t + 1);
                        std::hint::spin_loop();
                        assert!(a.expose().iter().all(|x| *x == t + 1));
                        assert!(b.expose().iter().all(|x| *x == 0));
                    }
                });
            }
        });
    }

    #[test]
    fn a_forked_child_finds_zeros() {
        let mut secret = secret(1500).unwrap();
        secret.expose_mut().fill(0x5a);
        // SAFETY: the child only reads memory and calls _exit, both of which are allowed after a fork.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let zero = secret.expose().iter().all(|b| *b == 0);
            // SAFETY: _exit never returns and runs no destructor.
            unsafe { libc::_exit(if zero { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call; `pid` is our own child.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
        assert!(secret.expose().iter().all(|b| *b == 0x5a));
    }
}
