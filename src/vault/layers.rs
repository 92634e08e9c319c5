//! Guardrails and identity policies as they are kept: one sealed record each, and all of them compiled together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::*;
use crate::clock::Timestamp;
use crate::id::Uid;
use crate::policy::{Attached, GuardrailRecord, IdentityRecord, Shared};

/// The record of a guardrail or of an identity's policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerMeta {
    /// Its number.
    pub id: u64,
    /// When it was set.
    pub changed: Timestamp,
    /// Who set it.
    pub maker: Uid,
    /// What it says.
    pub record: LayerRecord,
    /// Which term stands for it.
    #[serde(skip)]
    pub(super) mark: Mark,
}

/// What a layer's record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerRecord {
    /// A guardrail.
    Guardrail(GuardrailRecord),
    /// The policy and tags of an identity.
    Identity(IdentityRecord),
}

/// Which record of a layer is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKey {
    /// A guardrail, by its name.
    Guardrail(String),
    /// An identity, by its principal.
    Identity(Attached),
}

impl LayerKey {
    /// As in words: `guardrail NAME`, `the identity user:app`.
    pub fn words(&self) -> String {
        let kind = match self {
            LayerKey::Guardrail(_) => "guardrail",
            LayerKey::Identity(_) => "the identity",
        };
        format!("{kind} {}", crate::id::printable(&self.name()))
    }

    /// The name, or the principal as text.
    pub fn name(&self) -> String {
        match self {
            LayerKey::Guardrail(name) => name.clone(),
            LayerKey::Identity(principal) => principal.to_string(),
        }
    }
}

/// The layers that all secrets share: their records, and what decides.
#[derive(Debug, Default)]
pub struct LayerSet {
    records: BTreeMap<u64, Arc<LayerMeta>>,
    shared: Shared,
}

impl LayerSet {
    /// # Errors
    /// If a policy does not compile any more: without it nothing may be decided.
    pub(super) fn new(records: BTreeMap<u64, Arc<LayerMeta>>) -> Result<LayerSet, VaultError> {
        let guardrails = records.values().filter_map(|m| match &m.record {
            LayerRecord::Guardrail(record) => Some(record),
            LayerRecord::Identity(_) => None,
        });
        let identities = records.values().filter_map(|m| match &m.record {
            LayerRecord::Identity(record) => Some(record),
            LayerRecord::Guardrail(_) => None,
        });
        let shared = Shared::compile(guardrails, identities).map_err(|(name, e)| {
            VaultError::Integrity(format!("the policy of {name} cannot be compiled: {e}"))
        })?;
        Ok(LayerSet { records, shared })
    }

    pub(super) fn mark(&self, id: u64) -> Option<Mark> {
        Some(self.records.get(&id)?.mark)
    }

    /// What decides.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The guardrails, oldest first.
    pub fn guardrails(&self) -> impl Iterator<Item = (&LayerMeta, &GuardrailRecord)> {
        self.records.values().filter_map(|meta| match &meta.record {
            LayerRecord::Guardrail(record) => Some((&**meta, record)),
            LayerRecord::Identity(_) => None,
        })
    }

    /// The identities, oldest first.
    pub fn identities(&self) -> impl Iterator<Item = (&LayerMeta, &IdentityRecord)> {
        self.records.values().filter_map(|meta| match &meta.record {
            LayerRecord::Identity(record) => Some((&**meta, record)),
            LayerRecord::Guardrail(_) => None,
        })
    }

    /// The guardrail of that name.
    pub fn guardrail(&self, name: &str) -> Option<(&LayerMeta, &GuardrailRecord)> {
        self.guardrails().find(|(_, r)| r.name == name)
    }

    /// The identity's.
    pub fn identity(&self, principal: &Attached) -> Option<(&LayerMeta, &IdentityRecord)> {
        self.identities().find(|(_, r)| r.principal == *principal)
    }

    /// The record that is meant.
    pub fn get(&self, key: &LayerKey) -> Option<&LayerMeta> {
        match key {
            LayerKey::Guardrail(name) => self.guardrail(name).map(|(meta, _)| meta),
            LayerKey::Identity(principal) => self.identity(principal).map(|(meta, _)| meta),
        }
    }

    /// With these records set, or removed.
    pub(super) fn with(&self, changes: &[(u64, Option<LayerMeta>)]) -> Result<LayerSet, VaultError> {
        let mut records = self.records.clone();
        for (id, meta) in changes {
            match meta {
                Some(meta) => drop(records.insert(*id, Arc::new(meta.clone()))),
                None => drop(records.remove(id)),
            }
        }
        LayerSet::new(records)
    }

    /// What would decide if this record were set, in the place of one of the same name or principal.
    ///
    /// # Errors
    /// As when it is set.
    pub fn supposing(&self, record: LayerRecord) -> Result<LayerSet, VaultError> {
        let meta = LayerMeta {
            id: self.number_of(&record),
            changed: Timestamp(0),
            maker: crate::id::ROOT,
            record,
            mark: Mark::default(),
        };
        self.with(&[(meta.id, Some(meta))])
    }

    /// The number of the record of the same name or principal, or the next one.
    fn number_of(&self, record: &LayerRecord) -> u64 {
        let same = match record {
            LayerRecord::Guardrail(new) => self.guardrail(&new.name).map(|(meta, _)| meta.id),
            LayerRecord::Identity(new) => self.identity(&new.principal).map(|(meta, _)| meta.id),
        };
        same.unwrap_or_else(|| self.records.last_key_value().map_or(1, |(id, _)| id + 1))
    }
}

impl Draft<'_> {
    /// Sets a guardrail or an identity's policy, in the place of one of the same name or principal.
    pub fn put_layer(&mut self, record: LayerRecord, maker: Uid) {
        let meta = LayerMeta {
            id: self.state().layers.number_of(&record),
            changed: Timestamp::now(),
            maker,
            record,
            mark: Mark::default(),
        };
        self.layers.push((meta.id, Some(meta)));
    }

    /// Removes a guardrail or an identity's policy.
    pub fn remove_layer(&mut self, meta: &LayerMeta) {
        self.layers.push((meta.id, None));
    }
}
