//! The primitives that everything here is made of: AES-256-GCM, HKDF-SHA256, HMAC-SHA256.
//!
//! They are public so that `tests/vectors.rs` runs published vectors through the very functions that the
//! product uses. Nothing else calls them with a nonce of its own choice.
//!
//! AES and GHASH use the CPU's instructions where it has them (found at run time). Round keys and hash states
//! live on the stack of one call and are wiped when it returns, by their crates and [`on_clean_stack`]; keys and
//! plaintext go straight between the buffers given.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use super::SealError;
use crate::secret::{HASH_STACK, on_clean_stack};

/// Bytes of a key, for every primitive here.
pub const KEY_LEN: usize = 32;
/// Bytes of an AES-GCM nonce.
pub const NONCE_LEN: usize = 12;
/// Bytes of an AES-GCM tag.
pub const TAG_LEN: usize = 16;

/// Stack that AES-256-GCM and HKDF use at most, with room to spare.
const AES_STACK: usize = 8 * 1024;

/// The tag did not match: nothing was decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagMismatch;

/// AES-256-GCM encryption of `plain` into `out`; gives the tag (NIST SP 800-38D, 96-bit nonce, 128-bit tag).
///
/// # Errors
/// [`SealError::Lengths`] if `plain` is longer than one message may be (2^36 − 32 bytes), `out` has another
/// length, or `key` has not [`KEY_LEN`] bytes.
pub fn gcm_seal(
    key: &[u8],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    plain: &[u8],
    out: &mut [u8],
) -> Result<[u8; TAG_LEN], SealError> {
    let wrong = SealError::Lengths {
        key: key.len(),
        input: plain.len(),
        output: out.len(),
    };
    on_clean_stack::<AES_STACK, _>(|| {
        let (Ok(cipher), Ok(buffer)) = (Aes256Gcm::new_from_slice(key), InOutBuf::new(plain, out)) else {
            return Err(wrong);
        };
        match cipher.encrypt_inout_detached(nonce.into(), aad, buffer) {
            Ok(tag) => Ok(tag.into()),
            Err(aes_gcm::Error) => Err(wrong),
        }
    })
}

/// AES-256-GCM decryption of `sealed` into `out`, after the tag was found right.
///
/// # Errors
/// [`TagMismatch`] if the tag is wrong, `out` has another length than `sealed`, or `key` has not [`KEY_LEN`]
/// bytes; `out` is then all zero.
pub fn gcm_open(
    key: &[u8],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    sealed: &[u8],
    tag: &[u8; TAG_LEN],
    out: &mut [u8],
) -> Result<(), TagMismatch> {
    let opened = on_clean_stack::<AES_STACK, _>(|| {
        match (Aes256Gcm::new_from_slice(key), InOutBuf::new(sealed, &mut *out)) {
            (Ok(cipher), Ok(buffer)) => cipher
                .decrypt_inout_detached(nonce.into(), aad, buffer, tag.into())
                .is_ok(),
            _ => false,
        }
    });
    if opened {
        Ok(())
    } else {
        out.zeroize();
        Err(TagMismatch)
    }
}

/// HKDF-SHA256 (RFC 5869), extract and expand; `info` is the concatenation of its parts.
///
/// # Errors
/// [`SealError::Lengths`] if more than 8,160 bytes are asked for.
pub fn hkdf(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), SealError> {
    let (input, output) = (salt.len(), out.len());
    on_clean_stack::<AES_STACK, _>(|| {
        let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(salt), ikm);
        prk.as_mut_slice().zeroize();
        hkdf.expand_multi_info(info, out)
    })
    .map_err(|_| SealError::Lengths {
        key: ikm.len(),
        input,
        output,
    })
}

/// HMAC-SHA256 (FIPS 198-1) of the concatenated parts.
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    on_clean_stack::<HASH_STACK, _>(|| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    })
}

/// SHA-256 (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
