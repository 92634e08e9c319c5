//! Nobody gains by a side door: a change that lets somebody read what he could not asks for the right to set the policy.

use super::Lifecycle;
use super::labels::make_current;
use crate::access::{Asked, Caller, request};
use crate::audit::Event;
use crate::id::{Label, VersionNo};
use crate::policy::{self, Action, Compiled, Effect, Extent, Gain, Layer, Layers, Purpose, Side, gain};
use crate::problem::{Exit, Problem};
use crate::vault::{Draft, Secret, SecretMeta, VaultError};

/// What of a change nobody is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Custom {
    /// Nothing.
    None,
    /// A new value has become current, and the one before it `previous`, as in AWS: who grants `previous` grants
    /// yesterday's value. Not the value before that one, which is without a label now.
    Replaced(VersionNo),
}

impl Lifecycle {
    /// Asks for `PutResourcePolicy` as well if with `after` in the place of the secret's metadata anybody may read a
    /// version that he may not read now, or would come to do so by setting the policy.
    ///
    /// # Errors
    /// The refusal, which is recorded as `event`.
    pub(super) fn gains<C: Caller>(
        &self,
        (draft, secret, after): (&Draft<'_>, &Secret, &SecretMeta),
        custom: Custom,
        event: Event,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        let compiled = recompiled(secret, after)?;
        let policy = compiled.as_ref().or(secret.policy.as_ref());
        let Some((gain, action)) = self.somebody(draft, secret, after, policy, custom) else {
            return Ok(());
        };
        let right = Action::PutResourcePolicy;
        let view = draft.state().view(secret);
        let decision = self
            .access
            .decide(view, right, Purpose::Administer, Asked::secret(), caller);
        let Err(refusal) = decision else { return Ok(()) };
        let _told = self.access.refuse(view, refusal, event, caller);
        let layers = Layers {
            secret: policy,
            ..self.access.layers(draft.state(), None)
        };
        let why = format!(
            "{} {} {}, and {right} is not allowed to you ({})",
            statement(&layers, gain),
            match gain.effect {
                Effect::Allow => "would begin to allow",
                Effect::Deny => "would cease to deny",
            },
            match action {
                Action::GetSecretValue => "reading it to somebody".to_string(),
                other => format!("{} to somebody", other.name()),
            },
            refusal.reason.code(),
            right = right.name(),
        );
        Err(Problem::new(Exit::Denied, what, why).next(format!(
            "ask root, or whoever else may set the policy of {}, to do it",
            after.name
        )))
    }

    /// What a new secret is made with is its maker's, but for rules that stand above it: those bind it whatever ARN its maker
    /// gives it, unless he owns the store.
    ///
    /// # Errors
    /// The refusal, which is recorded.
    pub(super) fn gains_by_arn<C: Caller>(
        &self,
        draft: &Draft<'_>,
        made: &SecretMeta,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        if made.arn.is_none() || self.owns(caller) {
            return Ok(());
        }
        let arn = made.arn.as_deref();
        let compiled = made
            .policy
            .as_deref()
            .map(|record| record.compile(&made.name, arn));
        let compiled = compiled
            .transpose()
            .map_err(|e| VaultError::Policy(made.name.clone(), e))?;
        let policy = compiled.as_ref();
        let shared = draft.state().layers.shared();
        for action in Action::READING {
            let request = policy::Request {
                tags: &made.tags,
                ..policy::Request::new(action, Purpose::of(action), made.id, &made.name)
            };
            let (before, after) = (
                Side { policy, request },
                Side {
                    policy,
                    request: policy::Request { arn, ..request },
                },
            );
            let Some(gain) = gain(shared, &before, &after, Extent::Every) else {
                continue;
            };
            let statement = {
                let layers = self.access.layers(draft.state(), None);
                self.access.refuse_new(&made.name, gain.basis, caller);
                statement(
                    &Layers {
                        secret: policy,
                        ..layers
                    },
                    gain,
                )
            };
            let why = format!("by that ARN {statement} would let somebody read it who may not by its name");
            return Err(Problem::new(Exit::Denied, what, why)
                .next("leave --arn away, or ask root to make the secret"));
        }
        Ok(())
    }

    fn somebody(
        &self,
        draft: &Draft<'_>,
        secret: &Secret,
        after: &SecretMeta,
        policy: Option<&Compiled>,
        custom: Custom,
    ) -> Option<(Gain, Action)> {
        let shared = draft.state().layers.shared();
        let asked = |action| request(secret, action, Purpose::of(action), Asked::secret());
        let changed = |action| policy::Request {
            arn: after.arn.as_deref(),
            tags: &after.tags,
            ..asked(action)
        };
        if secret.meta.tags != after.tags || secret.meta.arn != after.arn {
            for action in Action::READING {
                let before = Side {
                    policy: secret.policy.as_ref(),
                    request: asked(action),
                };
                let after = Side {
                    policy,
                    request: changed(action),
                };
                if let Some(gain) = gain(shared, &before, &after, Extent::Every) {
                    return Some((gain, action));
                }
            }
        }
        let mut before = secret.meta.clone();
        if let Custom::Replaced(by) = custom {
            make_current(&mut before, by, after.value_changed);
        }
        let action = Action::GetSecretValue;
        secret.versions.values().find_map(|version| {
            let labels = |meta: &SecretMeta| -> Vec<Label> {
                let own = meta.labels.iter().filter(|(_, no)| **no == version.meta.no);
                own.map(|(label, _)| label.clone()).collect()
            };
            let lost = secret.meta.labels.get("previous") == Some(&version.meta.no);
            let had = labels(if lost { &secret.meta } else { &before });
            let has = labels(after);
            if had == has {
                return None;
            }
            let side = |labels| Side {
                policy,
                request: policy::Request {
                    version: Some(&version.meta.id),
                    labels,
                    ..changed(action)
                },
            };
            gain(shared, &side(&had), &side(&has), Extent::Version).map(|gain| (gain, action))
        })
    }
}

/// The secret's policy as it means the secret by another ARN, where it has got one.
fn recompiled(secret: &Secret, after: &SecretMeta) -> Result<Option<Compiled>, Problem> {
    match &after.policy {
        Some(record) if secret.meta.arn != after.arn => {
            let compiled = record.compile(&after.name, after.arn.as_deref());
            Ok(Some(
                compiled.map_err(|e| VaultError::Policy(after.name.clone(), e))?,
            ))
        }
        _ => Ok(None),
    }
}

fn statement(layers: &Layers<'_>, gain: Gain) -> String {
    let id = crate::id::printable(layers.statement_id(gain.basis).unwrap_or("?"));
    match gain.basis.layer {
        Layer::Guardrail => format!("statement {id} of a guardrail"),
        Layer::Identity => format!("statement {id} of an identity policy"),
        Layer::Secret | Layer::Administration | Layer::Default => format!("statement {id} of its policy"),
    }
}
