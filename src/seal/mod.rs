//! Cryptography: AES-256-GCM, HKDF-SHA256 and HMAC-SHA256, put together so that what was sealed opens in the
//! place it was sealed for and in no other.
//!
//! ```text
//! slot secret ──opens──▶ root key ──derives──▶ keys for metadata records, terms, the log, named keys
//!                                                                                            │ wraps
//!                                  value ◀──opens── data key (one per version) ◀──wraps── named key
//! ```
//!
//! Every key that is wrapped carries a commitment, checked before anything is decrypted with it. Everything
//! encoded begins with `format` and `min_reader`; `packaging/doc/format.md` lays out every byte.
//!
//! **Limits.** Nonces are 96 random bits, so a key may encrypt 2^32 messages (NIST SP 800-38D, 8.3): 2^32
//! versions per named key, 2^32 writes of metadata records per store. A data key encrypts one value.

mod context;
mod error;
mod keyring;
mod keys;
pub mod primitive;
mod random;
mod recovery;
mod slot;
mod term;
mod value;
mod wire;

#[cfg(test)]
mod tests;

pub use context::Context;
pub use error::SealError;
pub use keyring::{Keyring, Purpose, Readers, RecordKind, RootKey};
pub use recovery::RecoveryKey;
pub use slot::{SLOT_SECRET_LEN, Slot, SlotKind, new_slot_secret, open_any};
pub use term::{Summand, Summing, Term, TermSum};
pub use value::{DataKey, ValueDigest, WrappedKey, plain_len};
pub use wire::{FORMAT, MIN_READER, NEWEST};
