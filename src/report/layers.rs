//! What guardrails and identity policies there are.

use serde_json::{Value, json};

use super::Report;
use crate::access::Caller;
use crate::audit::Event;
use crate::policy::{Action, PolicyRecord};
use crate::problem::{Exit, Problem};
use crate::vault::{LayerKey, LayerMeta, LayerRecord};

/// One of the layers that all secrets share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// The guardrails.
    Guardrails,
    /// The identity policies.
    Identities,
}

impl Report {
    /// The guardrails, or the identity policies: names, when they were set and by whom.
    ///
    /// # Errors
    /// If the caller may not see them.
    pub fn layers<C: Caller>(&self, kind: LayerKind, caller: &mut C) -> Result<Value, Problem> {
        let state = self.access.vault().state();
        let (what, field) = match kind {
            LayerKind::Guardrails => ("cannot list the guardrails", "guardrails"),
            LayerKind::Identities => ("cannot list the identity policies", "identities"),
        };
        self.layers_seen(kind, what, caller)?;
        let rows: Vec<Value> = match kind {
            LayerKind::Guardrails => state.layers.guardrails().map(|(meta, _)| row(meta)).collect(),
            LayerKind::Identities => state.layers.identities().map(|(meta, _)| row(meta)).collect(),
        };
        Ok(json!({ field: rows }))
    }

    /// One guardrail, or the policy of one identity, as it was given.
    ///
    /// # Errors
    /// If there is none, or the caller may not see it.
    pub fn layer<C: Caller>(&self, key: &LayerKey, caller: &mut C) -> Result<Value, Problem> {
        let what = format!("cannot show {}", key.words());
        let (kind, list) = match key {
            LayerKey::Guardrail(_) => (LayerKind::Guardrails, "wardfs guardrail list"),
            LayerKey::Identity(_) => (LayerKind::Identities, "wardfs identity list"),
        };
        self.layers_seen(kind, &what, caller)?;
        let state = self.access.vault().state();
        let meta = state.layers.get(key).ok_or_else(|| {
            Problem::new(Exit::NotFound, &what, "there is none").next(format!("see what there is: {list}"))
        })?;
        let record = policy(meta);
        let mut answer = row(meta);
        answer["policy"] = serde_json::from_str(&record.text).unwrap_or(Value::Null);
        answer["text"] = json!(record.text);
        answer["principals"] = json!(record.principals);
        answer["users"] = json!(record.users);
        answer["groups"] = json!(record.groups);
        Ok(answer)
    }

    fn layers_seen<C: Caller>(&self, kind: LayerKind, what: &str, caller: &mut C) -> Result<(), Problem> {
        let (action, event) = match kind {
            LayerKind::Guardrails => (Action::GetGuardrail, Event::GetGuardrail),
            LayerKind::Identities => (Action::GetIdentityPolicy, Event::GetIdentityPolicy),
        };
        self.access
            .decide_layers(action, event, caller)
            .map(drop)
            .map_err(|refusal| refusal.problem(what, action))
    }
}

fn policy(meta: &LayerMeta) -> &PolicyRecord {
    match &meta.record {
        LayerRecord::Guardrail(record) => &record.policy,
        LayerRecord::Identity(record) => &record.policy,
    }
}

fn row(meta: &LayerMeta) -> Value {
    let statements = policy(meta).document().map_or(0, |d| d.statements.len());
    let mut row = match &meta.record {
        LayerRecord::Guardrail(record) => json!({ "name": record.name }),
        LayerRecord::Identity(record) => json!({ "principal": record.principal, "tags": record.tags }),
    };
    row["statements"] = json!(statements);
    row["changed"] = json!(meta.changed.to_string());
    row["changed_by"] = json!(meta.maker);
    row
}
