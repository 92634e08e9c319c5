//! The keys of an open store, and what they do.

use std::collections::BTreeMap;

use subtle::ConstantTimeEq;

use super::keys::{self, Commitment};
use super::primitive::{self, KEY_LEN};
use super::value::{self, DataKey, Parts, ValueDigest, WrappedKey};
use super::wire::{Aad, Header, Input};
use super::{Context, SealError, Summand, Summing, Term, random};
use crate::id::{KeyId, StoreId};
use crate::secret::{Sealed, SecretBytes};

/// The root key: random, one per store, stored only wrapped, in [`Slot`]s.
pub struct RootKey(pub(super) SecretBytes);

impl RootKey {
    /// A fresh root key.
    ///
    /// # Errors
    /// No memory or no randomness.
    pub fn generate() -> Result<Self, SealError> {
        Ok(RootKey(keys::fresh()?))
    }
}

/// Which releases open a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// All.
    All,
    /// Those that keep what an epoch record tells of lost logs.
    WhoKnowLostLogs,
}

/// What a metadata record is; the store's tables give the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKind(pub u8);

/// What a key derived from the root key is for, outside this room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The audit log's MACs.
    Audit,
}

impl Purpose {
    fn info(self) -> &'static [u8] {
        match self {
            Purpose::Audit => b"wardfs root/audit",
        }
    }
}

/// A named key, ready to wrap data keys.
struct NamedKey {
    aes: SecretBytes,
    commitment: Commitment,
}

/// The root key, what is derived from it, and the named keys, unwrapped, in locked memory.
pub struct Keyring {
    store: StoreId,
    root: RootKey,
    records: SecretBytes,
    terms: SecretBytes,
    summands: SecretBytes,
    digests: SecretBytes,
    wrapping: SecretBytes,
    named: BTreeMap<KeyId, NamedKey>,
}

impl Keyring {
    /// The keyring of a store, without named keys yet.
    ///
    /// # Errors
    /// No memory.
    pub fn new(store: StoreId, root: RootKey) -> Result<Self, SealError> {
        let derive = |info: &[u8]| keys::derive(store, &root.0, info);
        Ok(Keyring {
            records: derive(b"wardfs root/records")?,
            terms: derive(b"wardfs root/terms")?,
            summands: derive(b"wardfs root/summands")?,
            digests: derive(b"wardfs root/digests")?,
            wrapping: derive(b"wardfs root/named-keys")?,
            named: BTreeMap::new(),
            store,
            root,
        })
    }

    /// The store that the keys belong to.
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// Makes a named key, takes it up, and gives it wrapped by the root key, to be stored.
    ///
    /// # Errors
    /// [`SealError::KeyExists`], no memory, no randomness.
    pub fn create_key(&mut self, id: KeyId) -> Result<Vec<u8>, SealError> {
        if self.named.contains_key(&id) {
            return Err(SealError::KeyExists(id));
        }
        let header = Header::CURRENT;
        let key = keys::fresh()?;
        let named = self.split(header, &id, &key)?;
        let nonce = random::nonce()?;
        let mut wrapped = [0; KEY_LEN];
        let aad = self.named_aad("named-key", header, &id).field(&named.commitment);
        let by = self.wrapping.expose();
        let tag = primitive::gcm_seal(by, &nonce, aad.bytes(), key.expose(), &mut wrapped)?;
        let record = [&header.0[..], &nonce, &named.commitment, &wrapped, &tag].concat();
        self.named.insert(id, named);
        Ok(record)
    }

    /// Takes up a stored named key. Taking up the same key again changes nothing.
    ///
    /// # Errors
    /// [`SealError::Integrity`] or [`SealError::Format`] if the record is not this store's key of that name,
    /// [`SealError::KeyExists`] if another key of that name was taken up before.
    pub fn add_key(&mut self, id: KeyId, wrapped: &[u8]) -> Result<(), SealError> {
        const WHAT: &str = "a wrapped named key";
        let damaged = || SealError::integrity(format!("the key {id}"));
        let mut input = Input::new(WHAT, wrapped);
        let header = Header::take(WHAT, &mut input)?;
        let nonce = input.take()?;
        let commitment: &Commitment = input.take()?;
        let sealed: &[u8; KEY_LEN] = input.take()?;
        let tag = input.take()?;
        input.end()?;
        let mut key = keys::locked(KEY_LEN)?;
        let aad = self.named_aad("named-key", header, &id).field(commitment);
        let by = self.wrapping.expose();
        primitive::gcm_open(by, nonce, aad.bytes(), sealed, tag, key.expose_mut()).map_err(|_| damaged())?;
        let named = self.split(header, &id, &key)?;
        if !bool::from(named.commitment.ct_eq(commitment)) {
            return Err(damaged());
        }
        match self.named.get(&id) {
            Some(known) if known.commitment != named.commitment => Err(SealError::KeyExists(id)),
            Some(_) => Ok(()),
            None => {
                self.named.insert(id, named);
                Ok(())
            }
        }
    }

    /// Seals a value under a fresh data key that is used for nothing else, and wraps that by the named key of
    /// the context.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`], [`SealError::Integrity`] if the context is another store's, no memory, no
    /// randomness.
    pub fn seal_value(
        &self,
        ctx: &Context<'_>,
        plain: &SecretBytes,
    ) -> Result<(WrappedKey, Sealed), SealError> {
        let by = self.named(ctx)?;
        let raw = keys::fresh()?;
        let (data_key, commitment) = DataKey::split(ctx, Header::CURRENT, &raw)?;
        let (sealed, tag) = data_key.seal_value(ctx, plain)?;
        let wrapped = WrappedKey::wrap(ctx, &by.aes, &raw, commitment, tag)?;
        Ok((wrapped, sealed))
    }

    /// Unwraps a data key and checks the commitment to it.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`]; [`SealError::Integrity`] if `wrapped` is damaged or belongs to another place.
    pub fn unwrap(&self, ctx: &Context<'_>, wrapped: &WrappedKey) -> Result<DataKey, SealError> {
        wrapped.unwrap(ctx, &self.named(ctx)?.aes)
    }

    /// Seals a sealed value anew for another place: under a fresh data key, with the digest that it has there. The
    /// plaintext lives in locked memory, and no longer than this.
    ///
    /// # Errors
    /// As [`Keyring::unwrap`] and [`Keyring::seal_value`].
    pub fn reseal(
        &self,
        (from, wrapped, sealed): (&Context<'_>, &WrappedKey, &Sealed),
        to: &Context<'_>,
    ) -> Result<(WrappedKey, Sealed, ValueDigest), SealError> {
        let mut plain = keys::locked(value::plain_len(&sealed.0)?)?;
        self.unwrap(from, wrapped)?
            .open_value(from, wrapped, &sealed.0, &mut plain)?;
        let (wrapped, sealed) = self.seal_value(to, &plain)?;
        Ok((wrapped, sealed, self.digest(to, &plain)))
    }

    /// Seals a metadata record, bound to the store, its kind and its id.
    ///
    /// # Errors
    /// No randomness.
    pub fn seal_record(&self, kind: RecordKind, id: u64, plain: &[u8]) -> Result<Sealed, SealError> {
        self.seal_record_for(Readers::All, kind, id, plain)
    }

    /// As [`Keyring::seal_record`]; other releases than `readers` refuse it as too new.
    ///
    /// # Errors
    /// As [`Keyring::seal_record`].
    pub fn seal_record_for(
        &self,
        readers: Readers,
        kind: RecordKind,
        id: u64,
        plain: &[u8],
    ) -> Result<Sealed, SealError> {
        let header = match readers {
            Readers::All => Header::CURRENT,
            Readers::WhoKnowLostLogs => Header::NEWEST,
        };
        let (sealed, _) = value::seal(&self.records, header, &self.record_aad(header, kind, id), plain)?;
        Ok(sealed)
    }

    /// Opens a metadata record. What comes back is metadata, never a value of a secret.
    ///
    /// # Errors
    /// [`SealError::Integrity`] if it is damaged or not the record of that kind and id, [`SealError::Format`]
    /// if it is too new.
    pub fn open_record(&self, kind: RecordKind, id: u64, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let parts = Parts::of("a metadata record", sealed)?;
        let mut plain = vec![0; parts.sealed.len()];
        parts
            .open(
                &self.records,
                &self.record_aad(parts.header, kind, id),
                &mut plain,
            )
            .map_err(|_| SealError::integrity(format!("metadata record {id} (kind {})", kind.0)))?;
        Ok(plain)
    }

    /// The term of a stored record (its sealed bytes) at a revision.
    pub fn term(&self, kind: RecordKind, id: u64, revision: u64, record: &[u8]) -> Term {
        Term(primitive::hmac(
            self.terms.expose(),
            &[
                &[kind.0],
                &id.to_be_bytes(),
                &revision.to_be_bytes(),
                &primitive::sha256(record),
            ],
        ))
    }

    /// What the term that stands for a record counts in a [`super::TermSum`].
    pub fn summand(&self, summing: Summing, (kind, id): (RecordKind, u64), term: &Term) -> Summand {
        let key = self.summands.expose();
        Summand(match summing {
            Summing::Terms => primitive::hmac(key, &[&term.0]),
            Summing::Places => primitive::hmac(key, &[&[kind.0], &id.to_be_bytes(), &term.0]),
        })
    }

    /// The MAC of a backup, over the SHA-256 of what stands before it.
    pub fn backup_mac(&self, digest: &[u8; 32]) -> [u8; 32] {
        primitive::hmac(self.digests.expose(), &[b"wardfs backup 1", digest])
    }

    /// A digest of a value in its place. Equal values of one version have equal digests; of two versions, or
    /// without the root key, nothing can be told.
    pub fn digest(&self, ctx: &Context<'_>, value: &SecretBytes) -> ValueDigest {
        let place = ctx.aad("value digest", Header::CURRENT);
        ValueDigest(primitive::hmac(
            self.digests.expose(),
            &[place.bytes(), value.expose()],
        ))
    }

    /// A key of [`KEY_LEN`] bytes for a purpose outside this room.
    ///
    /// # Errors
    /// No memory.
    pub fn derive(&self, purpose: Purpose) -> Result<SecretBytes, SealError> {
        keys::derive(self.store, &self.root.0, purpose.info())
    }

    fn named(&self, ctx: &Context<'_>) -> Result<&NamedKey, SealError> {
        if ctx.store != self.store {
            return Err(SealError::integrity(ctx.describe("the store")));
        }
        self.named
            .get(ctx.key)
            .ok_or_else(|| SealError::UnknownKey(ctx.key.clone()))
    }

    fn split(&self, header: Header, id: &KeyId, key: &SecretBytes) -> Result<NamedKey, SealError> {
        let (aes, commitment) = keys::split(self.store, key, &self.named_aad("named-key/split", header, id))?;
        Ok(NamedKey { aes, commitment })
    }

    fn named_aad(&self, domain: &str, header: Header, id: &KeyId) -> Aad {
        Aad::new(domain, header)
            .field(&self.store.0)
            .field(id.as_str().as_bytes())
    }

    fn record_aad(&self, header: Header, kind: RecordKind, id: u64) -> Aad {
        Aad::new("record", header)
            .field(&self.store.0)
            .field(&[kind.0])
            .field(&id.to_be_bytes())
    }
}

#[cfg(test)]
impl Keyring {
    pub(super) fn aes_of(&self, id: &KeyId) -> &SecretBytes {
        &self.named[id].aes
    }

    pub(super) fn derived_for_test(&self) -> [&SecretBytes; 5] {
        [
            &self.records,
            &self.terms,
            &self.summands,
            &self.wrapping,
            &self.root.0,
        ]
    }
}
