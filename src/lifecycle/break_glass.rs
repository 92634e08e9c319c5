//! Repair past every policy: without a daemon, by the store's owner, and recorded with the reason.

use serde_json::{Value, json};

use super::Lifecycle;
use crate::access::Caller;
use crate::audit::{Event, Identity, Outcome, Record};
use crate::clock::Timestamp;
use crate::id::SecretName;
use crate::problem::{Exit, Problem};
use crate::vault::{ChangeKind, LayerKey};

/// Longest reason, in bytes.
const MAX_REASON: usize = 1024;

/// What is repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// A secret's policy: this document, or none, instead.
    Policy(SecretName, Option<String>),
    /// A guardrail, or an identity's policy and tags, goes.
    Layer(LayerKey),
}

impl Lifecycle {
    /// Repairs what policies do not let anybody repair. No policy is asked: whoever has the store's files and its
    /// root key could do as much. The caller makes sure that no daemon has the store.
    ///
    /// # Errors
    /// If somebody else than the owner asks, there is no such secret, guardrail or identity, or the document is bad.
    pub fn break_glass<C: Caller>(
        &self,
        repair: &Repair,
        reason: &str,
        dry_run: bool,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let (what, name) = match repair {
            Repair::Policy(name, _) => (format!("cannot repair the policy of {name}"), name.to_string()),
            Repair::Layer(key) => (format!("cannot remove {}", key.words()), key.name()),
        };
        check_reason(reason, &what)?;
        if !self.owns(caller) {
            return Err(
                super::denied(&what, "this is for the owner of the store alone").next("run it as root")
            );
        }
        let mut warnings = Vec::new();
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let (secret, effects) = match repair {
                Repair::Policy(name, policy) => {
                    let secret = self.existing(draft, name, caller, &what)?;
                    let mut meta = secret.meta.clone();
                    meta.policy = match policy {
                        None => None,
                        Some(text) => {
                            let (record, found) = self.resolve(text, name, meta.arn.as_deref(), &what)?;
                            warnings.extend(found.iter().map(ToString::to_string));
                            Some(record.into())
                        }
                    };
                    meta.meta_changed = Timestamp::now();
                    draft.put_secret(meta.clone(), ChangeKind::Settings);
                    let effects = self.effects(draft, Some(&secret), &meta, None)?;
                    (Some(name.as_str()), effects)
                }
                Repair::Layer(key) => {
                    let meta = super::layers::existing(key, draft.state(), &what)?;
                    draft.remove_layer(&meta);
                    (None, self.layer_effects(draft, key)?)
                }
            };
            effects.spare(draft);
            if dry_run {
                return Err(dry(&what));
            }
            let message = match repair {
                Repair::Policy(..) => format!("policy replaced: {reason}"),
                Repair::Layer(key) => format!("{} removed: {reason}", key.words()),
            };
            let body = Record {
                event: Event::BreakGlass,
                outcome: Outcome::Allowed,
                secret,
                parameters: &effects.parameters(),
                message: Some(&message),
                via: caller.door(),
                who: caller.who(Identity::Full),
                ..Record::default()
            }
            .body();
            Ok(((), body))
        });
        match answer {
            Err(e) if dry_run && e == dry(&what) => {}
            other => other.map_err(|e| self.unprefixed(e, &what))?,
        }
        Ok(json!({ "name": name, "repaired": !dry_run, "dry_run": dry_run, "warnings": warnings }))
    }
}

/// # Errors
/// If it says nothing, or too much.
pub fn check_reason(reason: &str, what: &str) -> Result<(), Problem> {
    if reason.trim().is_empty() || reason.len() > MAX_REASON {
        let why = format!("a reason has 1 to {MAX_REASON} bytes");
        return Err(Problem::new(Exit::Usage, what, why).next("say why, for whoever reads the log"));
    }
    Ok(())
}

/// Ends a dry run in the place of a change; nobody is told.
fn dry(what: &str) -> Problem {
    Problem::new(Exit::Failed, what, "only tried").next("leave --dry-run away")
}
