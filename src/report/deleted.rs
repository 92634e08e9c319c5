//! Names whose values were destroyed: they keep their policy, and are in the way of others.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Report, Work};
use crate::access::Caller;
use crate::problem::Problem;

impl Report {
    /// Names without values that the caller could read or describe if they had one, under a directory if one is given,
    /// with all of `tags`.
    ///
    /// # Errors
    /// If nobody waits for the answer any more.
    pub fn deleted<C: Caller>(
        &self,
        under: Option<&str>,
        tags: &BTreeMap<String, String>,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let state = self.access.vault().state();
        let owner = caller.uid() == self.access.vault().administration().owner;
        let under = under.map(|u| u.trim_matches('/')).unwrap_or_default();
        let (mut secrets, mut work) = (Vec::new(), Work::begin(owner));
        for secret in state.secrets.secrets_under(under) {
            work.step("the secrets were not listed", caller)?;
            let shown = !secret.is_active()
                && secret.broken.is_none()
                && tags.iter().all(|(k, v)| secret.meta.tags.get(k) == Some(v))
                && self.access.peek(state.view(secret), caller).is_ok();
            if shown {
                let mut row = self.summary(secret);
                row["deleted"] = json!(secret.meta.meta_changed.to_string());
                // There is nothing to read.
                row["readers"] = Value::Null;
                row["policy_kept"] = json!(secret.policy.is_some());
                secrets.push(row);
            }
        }
        Ok(json!({ "secrets": secrets }))
    }
}
