//! The first record of every store: what wrote it, who can read it, which store it is. Drawn byte by byte in
//! `packaging/doc/format.md`; the first 42 bytes mean the same in every format to come.

use super::StoreError;
use crate::clock::Timestamp;
use crate::id::StoreId;
use sha2::{Digest, Sha256};
use std::fmt;

/// The record's key in `Table::Header`.
pub const KEY: &[u8] = b"store";
/// The format that this release writes, and the latest it reads. 2: a term counts in its place.
pub const FORMAT: u16 = 2;

const MAGIC: [u8; 8] = *b"wardfs\r\n";
const FORMAT_AT: usize = 8;
const MIN_READER_AT: usize = 10;
const RELEASE_AT: usize = 12;
const ID_AT: usize = 18;
const CREATED_AT: usize = 34;
const FIXED: usize = 42;
const CHECK: usize = 8;

/// A release of wardfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u16, pub u16, pub u16);

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The header's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format it was written in.
    pub format: u16,
    /// A program that knows at least this format may read the store.
    pub min_reader: u16,
    /// The first release that knows `min_reader`, for the message of one that does not.
    pub release: Release,
    /// The store's identity.
    pub id: StoreId,
    /// When the store was made.
    pub created: Timestamp,
}

impl Header {
    /// The header of a store that this release makes.
    pub fn new(id: StoreId, created: Timestamp) -> Self {
        Header {
            format: FORMAT,
            min_reader: FORMAT,
            release: Release(0, 2, 0),
            id,
            created,
        }
    }

    /// The record.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + CHECK);
        out.extend(MAGIC);
        out.extend(self.format.to_be_bytes());
        out.extend(self.min_reader.to_be_bytes());
        for part in [self.release.0, self.release.1, self.release.2] {
            out.extend(part.to_be_bytes());
        }
        out.extend(self.id.0);
        out.extend(self.created.0.to_be_bytes());
        let check = check(&out);
        out.extend(check);
        out
    }

    /// Reads the record. What a later format adds between the known bytes and the check is passed over.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is no header or its check does not fit; [`StoreError::TooNew`] if only a
    /// later release reads the store.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = |detail: &str| StoreError::Corrupt {
            what: "the store's header".into(),
            detail: detail.into(),
        };
        let (body, found) = bytes
            .split_last_chunk::<CHECK>()
            .ok_or_else(|| damaged("it is too short to be one"))?;
        if body.len() < FIXED {
            return Err(damaged("it is too short to be one"));
        }
        if body[..FORMAT_AT] != MAGIC {
            return Err(damaged("it does not begin as one"));
        }
        if check(body) != *found {
            return Err(damaged("its check does not fit"));
        }
        let short = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let mut id = [0; 16];
        id.copy_from_slice(&body[ID_AT..CREATED_AT]);
        let mut created = [0; 8];
        created.copy_from_slice(&body[CREATED_AT..FIXED]);
        let header = Header {
            format: short(FORMAT_AT),
            min_reader: short(MIN_READER_AT),
            release: Release(short(RELEASE_AT), short(RELEASE_AT + 2), short(RELEASE_AT + 4)),
            id: StoreId(id),
            created: Timestamp(i64::from_be_bytes(created)),
        };
        if header.format == 0 || header.min_reader > header.format {
            return Err(damaged("its format numbers contradict each other"));
        }
        if header.min_reader > FORMAT {
            return Err(StoreError::TooNew {
                format: header.format,
                min_reader: header.min_reader,
                version: Some(header.release),
            });
        }
        Ok(header)
    }
}

/// Against accidents, not against forgers: who can write the store can compute it. The identity is bound to
/// every sealed record besides.
fn check(body: &[u8]) -> [u8; CHECK] {
    let digest = Sha256::digest(body);
    let mut out = [0; CHECK];
    out.copy_from_slice(&digest[..CHECK]);
    out
}
