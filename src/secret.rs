//! Plaintext, and what is left of it once sealed.

use zeroize::Zeroize;

/// Memory fit for plaintext: locked, left out of dumps and wiped when dropped. `sys::mem` is the only
/// room that makes it, so that a [`SecretBytes`] cannot exist in ordinary memory.
pub trait SecretMemory: Send + Sync {
    /// The whole buffer.
    fn bytes(&self) -> &[u8];
    /// The whole buffer, to be filled.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// Stack that HMAC and HKDF with SHA-256 use at most, with room to spare.
pub const HASH_STACK: usize = 2 * 1024;

/// Runs `work`, which handles keys, and overwrites the `DEPTH` bytes of stack that it may have used. Ciphers wipe
/// themselves when they are dropped, but they are moved as they are made, and a move leaves its original behind.
/// `tests/memory.rs` looks whether `DEPTH` is enough.
pub fn on_clean_stack<const DEPTH: usize, T>(work: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn alone<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    #[inline(never)]
    fn overwrite<const DEPTH: usize>() {
        std::hint::black_box(&mut [0u8; DEPTH]);
    }
    let result = alone(work);
    match cfg!(debug_assertions) {
        // Unoptimized frames are several times as large.
        true => overwrite::<{ 64 * 1024 }>(),
        false => overwrite::<DEPTH>(),
    }
    result
}

/// Plaintext or key bytes. No `Debug`, no `Clone`, no `Serialize`: it is filled in place, used, and wiped.
pub struct SecretBytes {
    memory: Box<dyn SecretMemory>,
    len: usize,
}

impl SecretBytes {
    /// Takes over `memory`; its first `len` bytes are the secret.
    ///
    /// # Panics
    /// If `memory` is shorter than `len`: a programming error, never input.
    pub fn in_memory(memory: Box<dyn SecretMemory>, len: usize) -> Self {
        assert!(
            len <= memory.bytes().len(),
            "secret memory shorter than its secret"
        );
        SecretBytes { memory, len }
    }

    /// The plaintext. Named so that every place that looks at it can be found.
    pub fn expose(&self) -> &[u8] {
        &self.memory.bytes()[..self.len]
    }

    /// The plaintext, to be written in place.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[..self.len]
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps the first `len` bytes and wipes the others; does nothing if it is no longer than that.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.memory.bytes_mut()[len..self.len].zeroize();
            self.len = len;
        }
    }
}

/// An encrypted record as `seal` lays it out (`packaging/doc/format.md`). Safe to keep, copy and store.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub std::sync::Arc<[u8]>);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}
