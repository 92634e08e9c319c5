//! What the sealed metadata records hold, as JSON inside the seal (`packaging/doc/format.md`).

use std::collections::BTreeMap;
use std::sync::Arc;

use litemap::LiteMap;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{KeyId, Label, SecretId, SecretName, Uid, VersionId, VersionNo};
use crate::policy::{Deciding, PolicyRecord};
use crate::seal::{Summing, ValueDigest, WrappedKey};

/// What somebody who may neither read nor describe a secret sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// That the name exists: look-ups say EACCES.
    #[default]
    Listed,
    /// Nothing: look-ups say ENOENT.
    Hidden,
}

/// Whether the secret's values exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// It can be read.
    Active,
    /// Its values are destroyed; the name keeps its policy, so that whoever makes it again gains nothing.
    Deleted,
}

/// How files of a secret look, where not as the caller's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Appearance {
    /// The owner shown; the caller himself if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// The group shown; the caller's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// The permission bits shown; 0400 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u16>,
}

/// A secret's metadata record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretMeta {
    /// Its number.
    pub id: SecretId,
    /// Its name.
    pub name: SecretName,
    /// Human words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The ARN that it has in AWS, if one is on record: policies may mean it by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// When the name was first made.
    pub created: Timestamp,
    /// When the name came again, if it was deleted in between: that changed its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Timestamp>,
    /// When the current value became current: the files' mtime.
    pub value_changed: Timestamp,
    /// When anything changed: the files' ctime.
    pub meta_changed: Timestamp,
    /// Who made it.
    pub maker: Uid,
    /// How its files look.
    #[serde(default)]
    pub appearance: Appearance,
    /// What strangers see.
    #[serde(default)]
    pub visibility: Visibility,
    /// Its own policy; without one nobody reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<PolicyRecord>>,
    /// The named key that wraps its data keys.
    pub key: KeyId,
    /// Its tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Which version has which label.
    pub labels: LiteMap<Label, VersionNo>,
    /// Whether its values exist.
    pub life: Life,
}

impl SecretMeta {
    /// When the name came to its directory.
    pub fn named(&self) -> Timestamp {
        self.again.unwrap_or(self.created)
    }
}

/// A version's metadata record. It holds the version's wrapped data key, and with it the tag of its value, so
/// that a value cannot be exchanged without this record, which has a term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionMeta {
    /// Its number.
    pub no: VersionNo,
    /// Its id, the request token of the put that made it.
    pub id: VersionId,
    /// Whose it is.
    pub secret: SecretId,
    /// The secret's name, which is bound into the seal, and tells whose a version is where the secret's own
    /// record is broken.
    pub name: SecretName,
    /// When it was made.
    pub created: Timestamp,
    /// Bytes of plaintext.
    pub size: u32,
    /// A keyed digest of its value, which tells a repeated put from another one. Versions of older stores have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ValueDigest>,
    /// Who put it, and so knows its value. Versions of older stores do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<Uid>,
    /// The data key, wrapped.
    pub wrapped: WrappedKey,
}

/// The epoch record: what makes the store as a whole refuse a part of its past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Commits so far.
    pub epoch: u64,
    /// The terms' sum modulo 2^256, as hexadecimal.
    pub sum: String,
    /// Over what it is taken. Stores of format 1 do not say.
    #[serde(default, skip_serializing_if = "super::upgrade::is_old")]
    pub summed: Summing,
    /// The next secret's number.
    pub next_secret: u64,
    /// The next version's number.
    pub next_version: u64,
    /// How far the log is known to be durable.
    pub anchor: crate::audit::Anchor,
    /// Audit records of commits that are not known to be in the log. They lie in this record, and not in a
    /// table of their own, so that none can be removed from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbox: Vec<Pending>,
    /// The settings that decide. Older stores have none.
    #[serde(flatten)]
    pub settings: Sealing,
}

/// The settings that decide, as they are in force, what else was found in the file, and the logs that were lost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sealing {
    /// What is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deciding: Option<Arc<Deciding>>,
    /// The digest of what the file said when it was last found to differ, and recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noticed: Option<Arc<str>>,
    /// The logs that were given up, oldest first. A record that has any is sealed for those releases alone that keep them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<super::lost::LostLog>,
}

/// A commit's audit record on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The commit.
    pub epoch: u64,
    /// The record's body.
    pub body: crate::audit::Body,
}
