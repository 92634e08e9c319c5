//! Accounts that went or changed since policies were set, where they are shown.

use serde_json::{Value, json};

use super::Report;
use crate::access::{Asked, Caller, Faces};
use crate::policy::{Action, People, PolicyRecord, Purpose};
use crate::vault::{Secret, State};

/// One row for each name that drifted; `place` says in whose policy.
fn rows(record: &PolicyRecord, place: &str, people: &dyn People) -> Vec<Value> {
    let row = |drift: crate::policy::Drift| {
        let words = drift.to_string();
        let mut row = json!(drift);
        row["policy"] = json!(place);
        row["words"] = json!(words);
        row
    };
    record.drift(people).into_iter().map(row).collect()
}

/// Of a secret's own policy.
pub(super) fn of_secret(secret: &Secret, people: &dyn People) -> Value {
    let record = secret.meta.policy.as_deref();
    json!(
        record
            .map(|r| rows(r, secret.meta.name.as_str(), people))
            .unwrap_or_default()
    )
}

/// Of all policies that decide about a secret.
pub(super) fn of_all(state: &State, secret: &Secret, people: &dyn People) -> Value {
    let mut all = of_layers(state, people);
    let record = secret.meta.policy.as_deref();
    all.extend(
        record
            .map(|r| rows(r, secret.meta.name.as_str(), people))
            .unwrap_or_default(),
    );
    json!(all)
}

/// Of the layers that all secrets share.
fn of_layers(state: &State, people: &dyn People) -> Vec<Value> {
    let guardrails = state.layers.guardrails();
    let guardrails = guardrails.flat_map(|(_, r)| rows(&r.policy, &format!("guardrail {}", r.name), people));
    let identities = state.layers.identities();
    let identities =
        identities.flat_map(|(_, r)| rows(&r.policy, &format!("identity {}", r.principal), people));
    guardrails.chain(identities).collect()
}

impl Report {
    /// Of the policies of all secrets that the caller may describe, and for the owner of the layers.
    pub fn drift<C: Caller>(&self, caller: &mut C) -> Vec<Value> {
        let state = self.access.vault().state();
        let people = Faces::new(&*self.directory);
        let owner = caller.uid() == self.access.vault().administration().owner;
        let mut found = if owner {
            of_layers(&state, &people)
        } else {
            Vec::new()
        };
        for secret in state.secrets.iter() {
            let Some(record) = secret.meta.policy.as_deref() else {
                continue;
            };
            let (action, purpose) = (Action::DescribeSecret, Purpose::Describe);
            let may = owner
                || (self.access)
                    .decide(state.view(secret), action, purpose, Asked::secret(), caller)
                    .is_ok();
            if may {
                found.extend(rows(record, secret.meta.name.as_str(), &people));
            }
        }
        found
    }
}
