//! Keys in locked memory: making them, deriving them, and committing to them.

use super::primitive::{self, KEY_LEN};
use super::wire::Aad;
use super::{SealError, random};
use crate::id::StoreId;
use crate::secret::SecretBytes;

/// Bytes of a commitment.
pub(super) const COMMITMENT_LEN: usize = 32;

/// What says, without telling it, which key something was sealed with.
pub(super) type Commitment = [u8; COMMITMENT_LEN];

/// Zero-filled locked memory.
pub(super) fn locked(len: usize) -> Result<SecretBytes, SealError> {
    crate::sys::mem::secret(len).map_err(SealError::Memory)
}

/// A fresh random key.
pub(super) fn fresh() -> Result<SecretBytes, SealError> {
    let mut key = locked(KEY_LEN)?;
    random::fill(key.expose_mut())?;
    Ok(key)
}

/// A copy of key bytes.
pub(super) fn copy(bytes: &[u8]) -> Result<SecretBytes, SealError> {
    let mut key = locked(bytes.len())?;
    key.expose_mut().copy_from_slice(bytes);
    Ok(key)
}

/// A key for one purpose, from another key.
pub(super) fn derive(store: StoreId, from: &SecretBytes, info: &[u8]) -> Result<SecretBytes, SealError> {
    let mut key = locked(KEY_LEN)?;
    primitive::hkdf(&store.0, from.expose(), &[info], key.expose_mut())?;
    Ok(key)
}

/// Splits a key into the AES key that stands for it and the commitment to it.
///
/// AES-GCM lets a forger make one message that opens under two keys. The commitment is a part of the same
/// HKDF output, bound to the same `info`, so two keys with one commitment would be a collision of SHA-256.
pub(super) fn split(
    store: StoreId,
    key: &SecretBytes,
    info: &Aad,
) -> Result<(SecretBytes, Commitment), SealError> {
    let mut both = locked(KEY_LEN + COMMITMENT_LEN)?;
    primitive::hkdf(&store.0, key.expose(), &[info.bytes()], both.expose_mut())?;
    let (aes, rest) = both.expose().split_at(KEY_LEN);
    let mut commitment = [0; COMMITMENT_LEN];
    commitment.copy_from_slice(rest);
    Ok((copy(aes)?, commitment))
}
