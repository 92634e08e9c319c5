//! Slots: the root key, wrapped for each of those who may open the store. LUKS has them too: the root key
//! stays the same while slots come and go.

use subtle::ConstantTimeEq;

use super::keys::{self, COMMITMENT_LEN};
use super::primitive::{self, KEY_LEN, NONCE_LEN, TAG_LEN};
use super::wire::{Aad, Header, Input};
use super::{RootKey, SealError, random};
use crate::id::StoreId;
use crate::secret::SecretBytes;

/// Bytes of a slot's secret.
pub const SLOT_SECRET_LEN: usize = KEY_LEN;

/// nonce ‖ commitment ‖ wrapped root key ‖ tag.
const BODY_LEN: usize = NONCE_LEN + COMMITMENT_LEN + KEY_LEN + TAG_LEN;

/// What opens a slot. The numbers are the format's; those without support here are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotKind {
    /// 1: a file of [`SLOT_SECRET_LEN`] random bytes.
    KeyFile,
    /// 2: the recovery key that `init` prints once.
    Recovery,
    /// 3, reserved: a systemd credential.
    SystemdCredential,
    /// 4, reserved: a passphrase through argon2id.
    Passphrase,
    /// 5, reserved: sealed by a TPM 2.0.
    Tpm2,
    /// 6, reserved: a key on a PKCS#11 token.
    Pkcs11,
    /// 7, reserved: a cloud's key management service.
    Kms,
    /// A kind that this version does not know.
    Other(u8),
}

impl SlotKind {
    /// The number in the format.
    pub fn number(self) -> u8 {
        match self {
            SlotKind::KeyFile => 1,
            SlotKind::Recovery => 2,
            SlotKind::SystemdCredential => 3,
            SlotKind::Passphrase => 4,
            SlotKind::Tpm2 => 5,
            SlotKind::Pkcs11 => 6,
            SlotKind::Kms => 7,
            SlotKind::Other(number) => number,
        }
    }

    /// The kind with that number.
    pub fn from_number(number: u8) -> Self {
        match number {
            1 => SlotKind::KeyFile,
            2 => SlotKind::Recovery,
            3 => SlotKind::SystemdCredential,
            4 => SlotKind::Passphrase,
            5 => SlotKind::Tpm2,
            6 => SlotKind::Pkcs11,
            7 => SlotKind::Kms,
            other => SlotKind::Other(other),
        }
    }
}

impl std::fmt::Display for SlotKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SlotKind::KeyFile => "key file",
            SlotKind::Recovery => "recovery key",
            SlotKind::SystemdCredential => "systemd credential",
            SlotKind::Passphrase => "passphrase",
            SlotKind::Tpm2 => "TPM 2.0",
            SlotKind::Pkcs11 => "PKCS#11",
            SlotKind::Kms => "cloud KMS",
            SlotKind::Other(number) => return write!(f, "number {number}"),
        })
    }
}

/// One slot. It holds nothing that its secret does not protect: safe to store and to copy.
#[derive(Clone, PartialEq, Eq)]
pub struct Slot {
    /// The slot's number in the table.
    pub id: u8,
    /// What opens it.
    pub kind: SlotKind,
    header: Header,
    /// What the kind needs to find its secret: empty for a key file and a recovery key, kept as they are for
    /// kinds that this version does not know.
    params: Vec<u8>,
    body: Vec<u8>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({}, {})", self.id, self.kind)
    }
}

/// A fresh secret for a slot: [`SLOT_SECRET_LEN`] random bytes, the content of `root.key`.
///
/// # Errors
/// No memory or no randomness.
pub fn new_slot_secret() -> Result<SecretBytes, SealError> {
    keys::fresh()
}

/// Opens the first slot of `kind` that `secret` fits.
///
/// # Errors
/// [`SealError::NoSlot`] if there is none of that kind, otherwise the last slot's own error.
pub fn open_any(
    slots: &[Slot],
    kind: SlotKind,
    secret: &SecretBytes,
    store: StoreId,
) -> Result<RootKey, SealError> {
    let mut last = SealError::NoSlot { kind };
    for slot in slots.iter().filter(|s| s.kind == kind) {
        match slot.open(secret, store) {
            Ok(root) => return Ok(root),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Slot {
    /// Wraps the root key for `secret`.
    ///
    /// # Errors
    /// A secret of another length than [`SLOT_SECRET_LEN`], a kind without support, no memory, no randomness.
    pub fn create(
        id: u8,
        kind: SlotKind,
        secret: &SecretBytes,
        store: StoreId,
        root: &RootKey,
    ) -> Result<Slot, SealError> {
        let mut slot = Slot {
            id,
            kind,
            header: Header::CURRENT,
            params: Vec::new(),
            body: vec![0; BODY_LEN],
        };
        let (aes, commitment) = slot.split(secret, store)?;
        let nonce = random::nonce()?;
        let aad = slot.aad("slot", store).field(&commitment);
        let mut wrapped = [0; KEY_LEN];
        let tag = primitive::gcm_seal(aes.expose(), &nonce, aad.bytes(), root.0.expose(), &mut wrapped)?;
        slot.body = [&nonce[..], &commitment, &wrapped, &tag].concat();
        Ok(slot)
    }

    /// Unwraps the root key.
    ///
    /// # Errors
    /// [`SealError::WrongSlotSecret`] if the slot was made for another secret or another store,
    /// [`SealError::Integrity`] if it is damaged, [`SealError::UnsupportedSlot`] for kinds without support.
    pub fn open(&self, secret: &SecretBytes, store: StoreId) -> Result<RootKey, SealError> {
        const WHAT: &str = "a key slot";
        let (aes, commitment) = self.split(secret, store)?;
        let mut body = Input::new(WHAT, &self.body);
        let nonce = body.take()?;
        let committed: &[u8; COMMITMENT_LEN] = body.take()?;
        let wrapped: &[u8; KEY_LEN] = body.take()?;
        let tag = body.take()?;
        body.end()?;
        if !bool::from(committed.ct_eq(&commitment)) {
            return Err(SealError::WrongSlotSecret {
                slot: self.id,
                kind: self.kind,
            });
        }
        let aad = self.aad("slot", store).field(&commitment);
        let mut root = keys::locked(KEY_LEN)?;
        primitive::gcm_open(aes.expose(), nonce, aad.bytes(), wrapped, tag, root.expose_mut())
            .map_err(|_| SealError::integrity(format!("key slot {}", self.id)))?;
        Ok(RootKey(root))
    }

    /// The slot as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        // Both lengths came from 16 bits, or are this version's own.
        let params_len = (self.params.len() as u16).to_be_bytes();
        let body_len = (self.body.len() as u16).to_be_bytes();
        [
            &self.header.0[..],
            &[self.id, self.kind.number()],
            &params_len,
            &self.params,
            &body_len,
            &self.body,
        ]
        .concat()
    }

    /// Reads a stored slot. Kinds that this version does not know are kept whole.
    ///
    /// # Errors
    /// [`SealError::Format`] if it is too new, [`SealError::Integrity`] if it is no slot.
    pub fn decode(bytes: &[u8]) -> Result<Slot, SealError> {
        let mut input = Input::new("a key slot", bytes);
        let header = Header::take("a key slot", &mut input)?;
        let [id, kind] = *input.take()?;
        let params_len = u16::from_be_bytes(*input.take()?);
        let params = input.slice(params_len.into())?.to_vec();
        let body_len = u16::from_be_bytes(*input.take()?);
        let body = input.slice(body_len.into())?.to_vec();
        input.end()?;
        Ok(Slot {
            id,
            kind: SlotKind::from_number(kind),
            header,
            params,
            body,
        })
    }

    /// The AES key that wraps the root key, and the commitment to the slot's secret.
    fn split(
        &self,
        secret: &SecretBytes,
        store: StoreId,
    ) -> Result<(SecretBytes, keys::Commitment), SealError> {
        match self.kind {
            SlotKind::KeyFile | SlotKind::Recovery => {}
            kind => return Err(SealError::UnsupportedSlot { kind }),
        }
        if secret.len() != SLOT_SECRET_LEN {
            return Err(SealError::SlotSecretLength { found: secret.len() });
        }
        keys::split(store, secret, &self.aad("slot/key", store))
    }

    fn aad(&self, domain: &str, store: StoreId) -> Aad {
        Aad::new(domain, self.header)
            .field(&store.0)
            .field(&[self.id])
            .field(&[self.kind.number()])
            .field(&self.params)
    }
}
