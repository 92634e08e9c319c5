//! What many records have equal parts of.

use litemap::LiteMap;

use super::{SecretMeta, VersionMeta};
use crate::id::{KeyId, Label};
use crate::policy::{Compilations, PolicyRecord};
use crate::pool::Pool;

/// What secrets have in common, kept once.
#[derive(Default)]
pub struct Common {
    records: Pool<PolicyRecord>,
    pub(super) policies: Compilations,
    labels: Pool<Label>,
    pub(super) label_sets: Pool<[Label]>,
    keys: Pool<KeyId>,
}

impl Common {
    /// The same record, in common with those that came before in whatever equals theirs.
    pub(super) fn with_secret(&self, mut meta: SecretMeta) -> SecretMeta {
        meta.policy = meta.policy.map(|record| self.records.share(record));
        meta.key = self.keys.alike(meta.key);
        let labels = meta.labels.into_iter();
        meta.labels = exact(labels.map(|(label, no)| (self.labels.alike(label), no)).collect());
        meta
    }

    /// As [`Common::with_secret`].
    pub(super) fn with_version(&self, mut meta: VersionMeta) -> VersionMeta {
        let key = self.keys.alike(meta.wrapped.key().clone());
        meta.wrapped.share_key(key);
        meta
    }
}

/// Without room for more.
pub(super) fn exact<K: Ord, V>(map: LiteMap<K, V>) -> LiteMap<K, V> {
    let mut entries = map.into_tuple_vec();
    entries.shrink_to_fit();
    LiteMap::from_sorted_store_unchecked(entries)
}
