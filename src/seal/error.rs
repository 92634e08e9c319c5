//! What can go wrong while sealing and unsealing.

use super::slot::SlotKind;
use super::wire::NEWEST;
use crate::id::KeyId;

/// Why something was not sealed or unsealed. No text here carries a key or a value.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The bytes are not what this store wrote for this place: damaged, forged, or moved from elsewhere.
    #[error("{what} is damaged, forged, or belongs elsewhere")]
    Integrity {
        /// What was being opened.
        what: String,
    },
    /// The bytes were written by a newer wardfs in a form that this one must not read.
    #[error(
        "{what} has format {format}: it needs a wardfs that reads format {min_reader} (this is wardfs {}, which \
         reads up to format {NEWEST}); install a newer wardfs",
        env!("CARGO_PKG_VERSION")
    )]
    Format {
        /// What was being opened.
        what: &'static str,
        /// The format it is written in.
        format: u8,
        /// The oldest format a reader must know to read it.
        min_reader: u8,
    },
    /// The named key is not in the keyring.
    #[error("the key {0} is not in this store")]
    UnknownKey(KeyId),
    /// Another key of that name is in the keyring already.
    #[error("a key named {0} is in this store already")]
    KeyExists(KeyId),
    /// Locked memory could not be had.
    #[error("no locked memory for a secret: {0}; raise the limit of locked memory (RLIMIT_MEMLOCK)")]
    Memory(#[source] std::io::Error),
    /// The kernel gave no random bytes.
    #[error("no random bytes from the kernel: {0}")]
    Random(getrandom::Error),
    /// The slot was made for another secret, or its commitment is damaged.
    #[error(
        "the key does not open slot {slot} ({kind}): it belongs to another store, or the slot is damaged"
    )]
    WrongSlotSecret {
        /// The slot's number.
        slot: u8,
        /// The slot's kind.
        kind: SlotKind,
    },
    /// The secret for a slot is not [`super::SLOT_SECRET_LEN`] bytes long.
    #[error("a slot's key has {} bytes; this one has {found}", super::SLOT_SECRET_LEN)]
    SlotSecretLength {
        /// Bytes found.
        found: usize,
    },
    /// No slot of the wanted kind.
    #[error("the store has no slot of the kind {kind}")]
    NoSlot {
        /// The kind looked for.
        kind: SlotKind,
    },
    /// A kind of slot that this version of wardfs keeps but cannot open or make.
    #[error("slots of the kind {kind} are not supported by this wardfs")]
    UnsupportedSlot {
        /// The slot's kind.
        kind: SlotKind,
    },
    /// A recovery key with too few or too many characters.
    #[error(
        "a recovery key has {} groups of {} characters; this one has {found} characters",
        super::recovery::GROUPS,
        super::recovery::GROUP_LEN
    )]
    RecoveryLength {
        /// Characters found, spaces and hyphens left out.
        found: usize,
    },
    /// One group of a recovery key was mistyped.
    #[error(
        "group {group} of the recovery key is wrong: compare its {} characters with the printed key",
        super::recovery::GROUP_LEN
    )]
    RecoveryGroup {
        /// The group, counted from 1.
        group: usize,
    },
    /// Buffers that do not fit each other or the primitive: an error of the calling code, never of input.
    #[error("lengths do not fit: key {key}, input {input}, output {output} bytes")]
    Lengths {
        /// Bytes of the key.
        key: usize,
        /// Bytes of the input.
        input: usize,
        /// Bytes of the output.
        output: usize,
    },
}

impl SealError {
    pub(super) fn integrity(what: impl Into<String>) -> Self {
        SealError::Integrity { what: what.into() }
    }
}
