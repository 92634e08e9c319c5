//! What the store remembers of the log.

use crate::id::StoreId;

use super::chain::{self, Head, State};

/// A place in the log: everything up to it was durable when the anchor was made by [`Log::sync`](super::Log::sync).
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Anchor {
    /// The last record's sequence number; 0 for the empty log.
    pub seq: u64,
    /// Its MAC.
    #[serde(with = "head_text")]
    pub head: [u8; 32],
    /// The highest epoch that a record up to it carries.
    pub epoch: u64,
    /// The number of the oldest segment that is kept.
    pub oldest_segment: u64,
    /// The number of the segment that holds the record; 0 for the empty log.
    pub segment: u64,
    /// Bytes of that segment up to the record's end.
    pub offset: u64,
    /// The end of what was archived and is kept no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<Archived>,
}

/// Where the part of a log ends that was archived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Archived {
    /// The number of the last segment of it.
    pub segment: u64,
    /// Its last record's sequence number.
    pub seq: u64,
    /// That record's MAC.
    #[serde(with = "head_text")]
    pub head: [u8; 32],
    /// The highest epoch that a record up to it carries.
    pub epoch: u64,
}

impl Archived {
    pub(super) fn state(&self) -> State {
        State {
            seq: self.seq,
            head: self.head,
            epoch: self.epoch,
        }
    }
}

impl Anchor {
    /// The anchor of a log that has no record yet.
    pub fn genesis(store: StoreId) -> Self {
        Anchor {
            seq: 0,
            head: chain::genesis(store),
            epoch: 0,
            oldest_segment: 1,
            segment: 0,
            offset: 0,
            archived: None,
        }
    }

    /// The same place in a log of which that was archived.
    #[must_use]
    pub fn behind(&self, archived: Archived) -> Anchor {
        Anchor {
            oldest_segment: self.oldest_segment.max(archived.segment + 1),
            archived: Some(archived),
            ..self.clone()
        }
    }

    pub(super) fn state(&self) -> State {
        State {
            seq: self.seq,
            head: self.head,
            epoch: self.epoch,
        }
    }
}

mod head_text {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Head;

    pub fn serialize<S: Serializer>(head: &Head, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&HEXLOWER.encode(head))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Head, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes
            .try_into()
            .map_err(|_| D::Error::custom("a head has 32 bytes"))
    }
}
