//! Deleting, and forgetting a name.

use serde_json::{Value, json};

use super::{Lifecycle, denied};
use crate::access::Caller;
use crate::audit::Event;
use crate::clock::Timestamp;
use crate::id::SecretName;
use crate::policy::{Action, Basis, Reason, Refusal};
use crate::problem::Problem;
use crate::vault::{ChangeKind, Life, View};

impl Lifecycle {
    /// Destroys all values. The name keeps its policy, so that whoever makes it again gains nothing by it;
    /// `purge`, for root, forgets that too.
    ///
    /// # Errors
    /// A refusal, no such secret; nothing is changed.
    pub fn delete<C: Caller>(
        &self,
        name: &SecretName,
        purge: bool,
        dry_run: bool,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot delete {name}");
        if dry_run {
            let state = self.access.vault().state();
            let secret = state
                .secrets
                .by_name(name.as_str())
                .filter(|s| purge || s.is_active())
                .ok_or_else(|| self.missing(name, &what))?;
            self.allowed_delete(state.view(secret), purge, caller, &what)?;
            return Ok(
                json!({ "name": name, "destroyed": secret.versions.len(), "purged": purge, "dry_run": true }),
            );
        }
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let secret = match draft.state().secrets.by_name(name.as_str()) {
                Some(secret) if purge || secret.is_active() => secret.clone(),
                _ => return Err(self.missing(name, &what)),
            };
            self.allowed_delete(draft.state().view(&secret), purge, caller, &what)?;
            for no in secret.versions.keys() {
                draft.destroy_version(*no);
            }
            if purge {
                draft.forget_secret(secret.meta.id);
            } else {
                let mut meta = secret.meta.clone();
                meta.labels.clear();
                meta.life = Life::Deleted;
                meta.meta_changed = Timestamp::now();
                draft.put_secret(meta, ChangeKind::Deleted);
            }
            draft.takes_away();
            let body = self.body(
                if purge {
                    Event::PurgeSecret
                } else {
                    Event::DeleteSecret
                },
                name,
                None,
                caller,
            );
            Ok((secret.versions.len(), body))
        });
        let destroyed = answer.map_err(|e| self.unprefixed(e, &what))?;
        Ok(json!({ "name": name, "destroyed": destroyed, "purged": purge, "dry_run": false }))
    }

    fn allowed_delete<C: Caller>(
        &self,
        secret: View<'_>,
        purge: bool,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        // A secret whose record is broken has no policy to ask; root may remove it, nobody else.
        if secret.broken.is_some() && !self.owns(caller) {
            self.sound(secret, caller, what)?;
        }
        self.allowed(secret, Action::DeleteSecret, Event::DeleteSecret, caller, what)?;
        if !purge {
            return if secret.broken.is_some() {
                self.sound(secret, caller, what)
            } else {
                Ok(())
            };
        }
        self.allowed(
            secret,
            Action::DeleteResourcePolicy,
            Event::PurgeSecret,
            caller,
            what,
        )?;
        if !self.owns(caller) {
            let refusal = Refusal {
                reason: Reason::ImplicitDeny,
                basis: Basis::DEFAULT,
            };
            let _ = self.access.refuse(secret, refusal, Event::PurgeSecret, caller);
            return Err(
                denied(what, "only root may purge a name: its policy would be forgotten")
                    .next("leave --purge away"),
            );
        }
        Ok(())
    }
}
