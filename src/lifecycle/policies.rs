//! Setting policies: resolving their names, adding rules to them.

use serde_json::{Value, json};

use super::{Lifecycle, Rule};
use crate::access::Caller;
use crate::audit::Event;
use crate::clock::Timestamp;
use crate::id::SecretName;
use crate::policy::{Action, Document, Effect, PolicyError, PolicyRecord};
use crate::problem::{Exit, Problem};
use crate::vault::ChangeKind;

/// How a policy is changed.
#[derive(Debug, Clone, Copy)]
pub enum PolicyEdit<'a> {
    /// This document instead.
    Replace(&'a str),
    /// These rules as well.
    Add(&'a [Rule]),
}

impl Lifecycle {
    /// Replaces the policy of a secret, or adds rules to it.
    ///
    /// # Errors
    /// Bad input (with its position), a refusal, no such secret; nothing is changed.
    pub fn set_policy<C: Caller>(
        &self,
        name: &SecretName,
        edit: PolicyEdit<'_>,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot set the policy of {name}");
        let mut warnings = Vec::new();
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let secret = self.existing(draft, name, &what)?;
            self.allowed(
                &secret,
                Action::PutResourcePolicy,
                Event::PutResourcePolicy,
                caller,
                &what,
            )?;
            let mut meta = secret.meta.clone();
            meta.policy = Some(match edit {
                PolicyEdit::Replace(text) => self.resolve(text, name, &mut warnings, &what)?,
                PolicyEdit::Add(rules) => {
                    self.with_rules(meta.policy.as_ref(), rules, name, &mut warnings, &what)?
                }
            });
            meta.meta_changed = Timestamp::now();
            let body = self.body(Event::PutResourcePolicy, name, None, caller);
            draft.put_secret(meta, ChangeKind::Settings);
            Ok(((), body))
        });
        answer.map_err(|e| self.unprefixed(e, &what))?;
        Ok(self.who_reads(name, warnings))
    }

    /// What [`Lifecycle::set_policy`] would say of a document; changes nothing.
    ///
    /// # Errors
    /// Bad input, with its position.
    pub fn check_policy(&self, name: Option<&SecretName>, text: &str) -> Result<Value, Problem> {
        let what = "the policy is not valid";
        let any: SecretName = "any-name"
            .parse()
            .map_err(|e| Problem::new(Exit::Failed, what, e))?;
        let name = name.unwrap_or(&any);
        let mut warnings = Vec::new();
        let compiled = self
            .resolve(text, name, &mut warnings, what)?
            .compile(name)
            .map_err(|e| bad_policy(what, &e))?;
        Ok(json!({ "valid": true, "readers": crate::policy::readers(&compiled), "warnings": warnings }))
    }

    pub(super) fn resolve(
        &self,
        text: &str,
        name: &SecretName,
        warnings: &mut Vec<String>,
        what: &str,
    ) -> Result<PolicyRecord, Problem> {
        let map = (self.principals)()?;
        let (record, found) =
            PolicyRecord::resolve(text, &map, &*self.directory, name).map_err(|e| bad_policy(what, &e))?;
        warnings.extend(found.iter().map(ToString::to_string));
        Ok(record)
    }

    /// Adds rules to a policy. Principals that the policy names already are resolved again, as everything is
    /// when a policy is set.
    pub(super) fn with_rules(
        &self,
        old: Option<&PolicyRecord>,
        rules: &[Rule],
        name: &SecretName,
        warnings: &mut Vec<String>,
        what: &str,
    ) -> Result<PolicyRecord, Problem> {
        let mut document = match old {
            Some(record) => record.document().map_err(|e| bad_policy(what, &e))?,
            None => Document::empty(),
        };
        for rule in rules {
            match rule {
                Rule::Allow(who) => document.add(Effect::Allow, who, &[Action::GetSecretValue]),
                Rule::Deny(who) => document.add(Effect::Deny, who, &[Action::GetSecretValue]),
            };
        }
        self.resolve(&document.to_json_pretty(), name, warnings, what)
    }
}

fn bad_policy(what: &str, e: &PolicyError) -> Problem {
    Problem::new(Exit::Usage, what, e)
}
