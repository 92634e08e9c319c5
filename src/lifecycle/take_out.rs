//! Taking access back, and taking a denial back.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Lifecycle;
use super::policies::{bad_policy, told};
use crate::access::{Caller, Faces};
use crate::audit::{Event, Value as Parameter};
use crate::clock::Timestamp;
use crate::id::SecretName;
use crate::policy::{
    Action, Claim, Compiled, Effect, Local, PolicyRecord, Reader, TakeOut, TakeOutError, difference,
};
use crate::problem::{Exit, Problem};
use crate::vault::{ChangeKind, Secret, State, Trial, VaultError};

/// Out of which statements somebody is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TakenFrom {
    /// Those that allow.
    Allows,
    /// Those that deny.
    Denies,
}

impl TakenFrom {
    fn effect(self) -> Effect {
        match self {
            TakenFrom::Allows => Effect::Allow,
            TakenFrom::Denies => Effect::Deny,
        }
    }
}

impl Lifecycle {
    /// Takes principals out of the statements of a secret's policy, and says what still lets them in or keeps them out.
    ///
    /// # Errors
    /// A refusal, no such secret, or no statement that names one of them; nothing is changed.
    pub fn take_out<C: Caller>(
        &self,
        name: &SecretName,
        (from, whom): (TakenFrom, &[Local]),
        trial: Trial,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot change the policy of {name}");
        let people = Faces::new(&*self.directory);
        let (action, event) = (Action::PutResourcePolicy, Event::PutResourcePolicy);
        let cut = |secret: &Secret| self.cut(secret, from, whom, &what);
        let answered = |state: &State, secret: &Secret, cut: &TakeOut| -> Result<Value, Problem> {
            let compiled = cut
                .record
                .as_ref()
                .map(|r| r.compile(name, secret.meta.arn.as_deref()));
            let compiled = compiled
                .transpose()
                .map_err(|e| VaultError::Policy(name.clone(), e))?;
            let policy = compiled.as_ref().zip(cut.record.as_ref());
            let before = self.access.readers(state, secret, &people);
            let after = self
                .access
                .readers_as(state, (Some(secret), name), policy, &people);
            let (gain, lose) = difference(&before, &after, &people);
            let remaining = self.remaining((state, secret), policy, (&cut.claims, from.effect()), &people);
            Ok(
                json!({ "name": name, "dry_run": trial == Trial::DryRun, "taken": cut.taken, "remaining": remaining,
                "gain": gain, "lose": lose, "readers": after, "warnings": [] }),
            )
        };
        if trial == Trial::DryRun {
            let state = self.access.vault().state();
            let secret = state.secrets.by_name(name.as_str()).cloned();
            let secret = secret.ok_or_else(|| self.missing(name, &what))?;
            let view = state.view(&secret);
            self.sound(view, caller, &what)?;
            self.allowed(view, action, event, caller, &what)?;
            return answered(&state, &secret, &cut(&secret)?);
        }
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let secret = self.existing(draft, name, caller, &what)?;
            self.allowed(draft.state().view(&secret), action, event, caller, &what)?;
            let cut = cut(&secret)?;
            let answer = answered(draft.state(), &secret, &cut)?;
            let mut meta = secret.meta.clone();
            let meanings = cut
                .record
                .as_ref()
                .map(PolicyRecord::meanings)
                .unwrap_or_default();
            meta.policy = cut.record.map(Into::into);
            meta.meta_changed = Timestamp::now();
            let told = told(&meanings);
            draft.put_secret(meta.clone(), ChangeKind::Settings);
            let effects = self.effects(draft, Some(&secret), &meta, None)?;
            let mut more = effects.parameters();
            more.push(("resolved", Parameter::List(&told)));
            let body = self.body_with(event, name, None, &more, caller);
            if answer["gain"].as_array().is_none_or(Vec::is_empty) {
                draft.takes_away();
            }
            Ok((answer, body))
        });
        answer.map_err(|e| self.unprefixed(e, &what))
    }

    fn cut(&self, secret: &Secret, from: TakenFrom, whom: &[Local], what: &str) -> Result<TakeOut, Problem> {
        let name = &secret.meta.name;
        let nothing = |why: &dyn std::fmt::Display| {
            Problem::new(Exit::NotFound, what, why)
                .next(format!("see whom it names: wardfs policy get {name}"))
        };
        let Some(record) = &secret.meta.policy else {
            return Err(nothing(&"it has no policy"));
        };
        record
            .without(from.effect(), whom, &*self.directory)
            .map_err(|e| match &e {
                TakeOutError::Policy(e) => bad_policy(what, e),
                TakeOutError::Nothing { .. } => nothing(&e),
            })
    }

    /// The statements that are still about them, one row each.
    pub(super) fn remaining(
        &self,
        (state, secret): (&State, &Secret),
        policy: Option<(&Compiled, &PolicyRecord)>,
        (claims, effect): (&[Claim], Effect),
        people: &Faces<'_>,
    ) -> Vec<Value> {
        let mut rows = Vec::new();
        for claim in claims {
            let who = Reader::of(claim, people).to_string();
            let subject = (Some(secret), &secret.meta.name);
            for standing in self
                .access
                .standing_by(state, subject, policy, (claim, effect), people)
            {
                let mut row = json!(standing);
                row["who"] = json!(who);
                rows.push(row);
            }
        }
        rows
    }
}
