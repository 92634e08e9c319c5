//! Sealed values and the wrapped data keys that open them.

use std::borrow::Cow;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use subtle::ConstantTimeEq;

use super::keys::{self, Commitment};
use super::primitive::{self, KEY_LEN, NONCE_LEN, TAG_LEN};
use super::wire::{Aad, Header, Input};
use super::{Context, SealError, random};
use crate::id::KeyId;
use crate::secret::{Sealed, SecretBytes};

/// Bytes that sealing adds to a value or a metadata record: header, nonce, tag.
pub(super) const OVERHEAD: usize = 2 + NONCE_LEN + TAG_LEN;

/// A data key wrapped by a named key, and what binds it to one value: the commitment to the data key and the
/// tag of the value. It goes into the version's metadata; as text it is base64url of [`WrappedKey::encode`].
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey {
    header: Header,
    key: KeyId,
    nonce: [u8; NONCE_LEN],
    commitment: Commitment,
    value_tag: [u8; TAG_LEN],
    wrapped: [u8; KEY_LEN],
    tag: [u8; TAG_LEN],
}

impl std::fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WrappedKey(by {})", self.key)
    }
}

impl WrappedKey {
    /// The named key that wraps the data key.
    pub fn key(&self) -> &KeyId {
        &self.key
    }

    /// Keeps `key` in the place of an equal one, so that many wrapped keys name one.
    pub fn share_key(&mut self, key: KeyId) {
        if self.key == key {
            self.key = key;
        }
    }

    /// The bytes as `format.md` lays them out.
    pub fn encode(&self) -> Vec<u8> {
        let id = self.key.as_str().as_bytes();
        [
            &self.header.0[..],
            // At most 64 bytes: `KeyId` sees to it.
            &[id.len() as u8],
            id,
            &self.nonce,
            &self.commitment,
            &self.value_tag,
            &self.wrapped,
            &self.tag,
        ]
        .concat()
    }

    /// Reads what [`WrappedKey::encode`] wrote.
    ///
    /// # Errors
    /// [`SealError::Format`] if it is too new, [`SealError::Integrity`] if it is no wrapped key.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        const WHAT: &str = "a wrapped data key";
        let mut input = Input::new(WHAT, bytes);
        let header = Header::take(WHAT, &mut input)?;
        let [id_len] = *input.take()?;
        let key = std::str::from_utf8(input.slice(id_len.into())?)
            .ok()
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| SealError::integrity(WHAT))?;
        let wrapped = WrappedKey {
            header,
            key,
            nonce: *input.take()?,
            commitment: *input.take()?,
            value_tag: *input.take()?,
            wrapped: *input.take()?,
            tag: *input.take()?,
        };
        input.end()?;
        Ok(wrapped)
    }

    /// Everything of it that is not the wrapped key itself is authenticated with it.
    fn aad(&self, ctx: &Context<'_>) -> Aad {
        ctx.aad("data-key", self.header)
            .field(&self.commitment)
            .field(&self.value_tag)
    }

    /// Wraps `data_key`, whose commitment and value are known, by the named key's AES key.
    pub(super) fn wrap(
        ctx: &Context<'_>,
        by: &SecretBytes,
        data_key: &SecretBytes,
        commitment: Commitment,
        value_tag: [u8; TAG_LEN],
    ) -> Result<Self, SealError> {
        let mut wrapped = WrappedKey {
            header: Header::CURRENT,
            key: ctx.key.clone(),
            nonce: random::nonce()?,
            commitment,
            value_tag,
            wrapped: [0; KEY_LEN],
            tag: [0; TAG_LEN],
        };
        let aad = wrapped.aad(ctx);
        let (by, plain) = (by.expose(), data_key.expose());
        wrapped.tag = primitive::gcm_seal(by, &wrapped.nonce, aad.bytes(), plain, &mut wrapped.wrapped)?;
        Ok(wrapped)
    }

    /// Unwraps the data key and checks the commitment to it.
    pub(super) fn unwrap(&self, ctx: &Context<'_>, by: &SecretBytes) -> Result<DataKey, SealError> {
        let damaged = || SealError::integrity(ctx.describe("the data key"));
        if self.key != *ctx.key {
            return Err(damaged());
        }
        let aad = self.aad(ctx);
        let mut data_key = keys::locked(KEY_LEN)?;
        primitive::gcm_open(
            by.expose(),
            &self.nonce,
            aad.bytes(),
            &self.wrapped,
            &self.tag,
            data_key.expose_mut(),
        )
        .map_err(|_| damaged())?;
        let (data_key, commitment) = DataKey::split(ctx, self.header, &data_key)?;
        if !bool::from(commitment.ct_eq(&self.commitment)) {
            return Err(damaged());
        }
        Ok(data_key)
    }
}

impl Serialize for WrappedKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&BASE64URL_NOPAD.encode(&self.encode()))
    }
}

impl<'de> Deserialize<'de> for WrappedKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(d)?;
        let bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(de::Error::custom)?;
        Self::decode(&bytes).map_err(de::Error::custom)
    }
}

/// What [`super::Keyring::digest`] makes of a value; as text it is hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueDigest(pub(super) [u8; 32]);

impl ValueDigest {
    /// Whether they are equal, in a time that does not tell where they differ.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Serialize for ValueDigest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for ValueDigest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(d)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(de::Error::custom)?;
        let bytes = bytes
            .try_into()
            .map_err(|_| de::Error::custom("a digest is 32 bytes"))?;
        Ok(ValueDigest(bytes))
    }
}

/// An unwrapped data key in locked memory, its commitment checked: it opens the one value it was made for.
pub struct DataKey(SecretBytes);

impl DataKey {
    /// What a raw data key stands for: the AES key for the value, and the commitment.
    pub(super) fn split(
        ctx: &Context<'_>,
        header: Header,
        raw: &SecretBytes,
    ) -> Result<(Self, Commitment), SealError> {
        let (aes, commitment) = keys::split(ctx.store, raw, &ctx.aad("data-key/split", header))?;
        Ok((DataKey(aes), commitment))
    }

    /// Seals a value. Called once per data key.
    pub(super) fn seal_value(
        &self,
        ctx: &Context<'_>,
        plain: &SecretBytes,
    ) -> Result<(Sealed, [u8; TAG_LEN]), SealError> {
        let header = Header::CURRENT;
        seal(&self.0, header, &ctx.aad("value", header), plain.expose())
    }

    /// Decrypts a value into `out`, whose length must be [`plain_len`] of it; the plaintext is nowhere else.
    ///
    /// # Errors
    /// [`SealError::Integrity`] if `sealed` is not the value that `wrapped` was made with, or is damaged, or
    /// belongs to another place; [`SealError::Format`] if it is too new; [`SealError::Lengths`] if `out` has
    /// the wrong length. On every error `out` is all zero.
    pub fn open_value(
        &self,
        ctx: &Context<'_>,
        wrapped: &WrappedKey,
        sealed: &[u8],
        out: &mut SecretBytes,
    ) -> Result<(), SealError> {
        let opened = self.open_value_into(ctx, wrapped, sealed, out.expose_mut());
        if opened.is_err() {
            zeroize::Zeroize::zeroize(out.expose_mut());
        }
        opened
    }

    /// Checks the seal of a value; its plaintext is in locked memory meanwhile, and seen by nobody.
    ///
    /// # Errors
    /// As [`DataKey::open_value`].
    pub fn verify_value(
        &self,
        ctx: &Context<'_>,
        wrapped: &WrappedKey,
        sealed: &[u8],
    ) -> Result<(), SealError> {
        let mut out = keys::locked(plain_len(sealed)?)?;
        self.open_value(ctx, wrapped, sealed, &mut out)
    }

    fn open_value_into(
        &self,
        ctx: &Context<'_>,
        wrapped: &WrappedKey,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), SealError> {
        let parts = Parts::of("a sealed value", sealed)?;
        if parts.sealed.len() != out.len() {
            return Err(SealError::Lengths {
                key: KEY_LEN,
                input: parts.sealed.len(),
                output: out.len(),
            });
        }
        // Neither tag is secret: both lie on the disk.
        let its_own = *parts.tag == wrapped.value_tag && wrapped.key == *ctx.key;
        let opened = its_own && parts.open(&self.0, &ctx.aad("value", parts.header), out).is_ok();
        if opened {
            Ok(())
        } else {
            Err(SealError::integrity(ctx.describe("the value")))
        }
    }
}

/// Bytes of the plaintext in a sealed value.
///
/// # Errors
/// [`SealError::Format`] if it is too new, [`SealError::Integrity`] if it is too short to be one.
pub fn plain_len(sealed: &[u8]) -> Result<usize, SealError> {
    Ok(Parts::of("a sealed value", sealed)?.sealed.len())
}

/// header ‖ nonce ‖ ciphertext ‖ tag: sealed values and sealed metadata.
pub(super) struct Parts<'a> {
    pub header: Header,
    nonce: &'a [u8; NONCE_LEN],
    pub sealed: &'a [u8],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> Parts<'a> {
    pub fn of(what: &'static str, bytes: &'a [u8]) -> Result<Self, SealError> {
        let mut input = Input::new(what, bytes);
        let header = Header::take(what, &mut input)?;
        let nonce = input.take()?;
        let tag = input.take_last()?;
        Ok(Parts {
            header,
            nonce,
            tag,
            sealed: input.rest(),
        })
    }

    pub fn open(&self, key: &SecretBytes, aad: &Aad, out: &mut [u8]) -> Result<(), primitive::TagMismatch> {
        primitive::gcm_open(key.expose(), self.nonce, aad.bytes(), self.sealed, self.tag, out)
    }
}

/// Seals `plain` as [`Parts`] takes apart, with a random nonce; also gives the tag.
pub(super) fn seal(
    key: &SecretBytes,
    header: Header,
    aad: &Aad,
    plain: &[u8],
) -> Result<(Sealed, [u8; TAG_LEN]), SealError> {
    let nonce = random::nonce()?;
    let mut out = vec![0; plain.len() + OVERHEAD];
    out[..2].copy_from_slice(&header.0);
    out[2..2 + NONCE_LEN].copy_from_slice(&nonce);
    let tag_at = out.len() - TAG_LEN;
    let tag = primitive::gcm_seal(
        key.expose(),
        &nonce,
        aad.bytes(),
        plain,
        &mut out[2 + NONCE_LEN..tag_at],
    )?;
    out[tag_at..].copy_from_slice(&tag);
    Ok((Sealed(out.into()), tag))
}
