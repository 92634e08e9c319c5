//! Where keys and nonces come from: the kernel, and in tests of the format a fixed sequence.

use super::SealError;

/// Fills `out` with random bytes of the kernel.
#[cfg(not(test))]
pub(super) fn fill(out: &mut [u8]) -> Result<(), SealError> {
    getrandom::fill(out).map_err(SealError::Random)
}

/// The nonce of one encryption.
pub(super) fn nonce() -> Result<[u8; 12], SealError> {
    let mut nonce = [0; 12];
    fill(&mut nonce)?;
    Ok(nonce)
}

#[cfg(test)]
pub(super) use fixed::fill;

/// Compiled for unit tests alone, so that no build that seals real secrets contains it.
#[cfg(test)]
pub(super) mod fixed {
    use super::SealError;
    use std::cell::Cell;

    thread_local! {
        static NEXT: Cell<Option<u8>> = const { Cell::new(None) };
    }

    pub fn fill(out: &mut [u8]) -> Result<(), SealError> {
        let Some(first) = NEXT.get() else {
            return getrandom::fill(out).map_err(SealError::Random);
        };
        let mut next = first;
        for byte in out {
            *byte = next;
            next = next.wrapping_add(1);
        }
        NEXT.set(Some(next));
        Ok(())
    }

    /// Runs `f` on this thread with "random" bytes that count up from `first`.
    pub fn with_sequence<T>(first: u8, f: impl FnOnce() -> T) -> T {
        NEXT.set(Some(first));
        let result = f();
        NEXT.set(None);
        result
    }
}
