//! Setting policies: resolving their names, adding rules to them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Lifecycle, Rule};
use crate::access::{Asked, Caller, Faces};
use crate::audit::{Event, Value as Parameter};
use crate::clock::Timestamp;
use crate::id::SecretName;
use crate::policy::{
    Action, Claim, Concern, Effect, ExtendError, Local, PolicyError, PolicyRecord, Purpose, Warning,
};
use crate::problem::{Exit, Problem};
use crate::vault::{ChangeKind, View};

/// How a policy is changed.
#[derive(Debug, Clone, Copy)]
pub enum PolicyEdit<'a> {
    /// This document instead.
    Replace(&'a str),
    /// These rules as well.
    Add(&'a [Rule]),
}

/// What is done about a policy that gives a value to everybody, or leaves nobody who could read the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// It is accepted, with a warning.
    Warn,
    /// It is refused.
    Strict,
}

/// Whether a document that is only checked is compared with the policy in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// It stands alone.
    #[default]
    None,
    /// Who would gain and who would lose reading is said.
    WithToday,
}

impl Care {
    /// Strict where `--strict` was given.
    pub fn strict(given: bool) -> Care {
        if given { Care::Strict } else { Care::Warn }
    }

    /// # Errors
    /// The first warning that matters, where that is refused.
    pub(super) fn judge(self, found: &[Warning], what: &str) -> Result<(), Problem> {
        let grave = |w: &&Warning| w.concern != Concern::Odd;
        match found.iter().find(grave) {
            Some(warning) if self == Care::Strict => {
                Err(
                    Problem::new(Exit::Usage, what, format_args!("{warning} (refused by --strict)"))
                        .next("mend the document, or leave --strict away to accept it with a warning"),
                )
            }
            _ => Ok(()),
        }
    }
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
        care: Care,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot set the policy of {name}");
        let mut warnings: Vec<String> = match edit {
            PolicyEdit::Replace(text) if text.contains("arn:") => self.unaccepted().into_iter().collect(),
            _ => Vec::new(),
        };
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let secret = self.existing(draft, name, caller, &what)?;
            self.allowed(
                draft.state().view(&secret),
                Action::PutResourcePolicy,
                Event::PutResourcePolicy,
                caller,
                &what,
            )?;
            let mut meta = secret.meta.clone();
            let arn = meta.arn.as_deref();
            let (record, found) = match edit {
                PolicyEdit::Replace(text) => self.resolve(text, name, arn, &what)?,
                PolicyEdit::Add(rules) => self.with_rules(meta.policy.as_deref(), rules, name, arn, &what)?,
            };
            care.judge(&found, &what)?;
            warnings.extend(found.iter().map(ToString::to_string));
            let meanings = record.meanings();
            meta.policy = Some(record.into());
            meta.meta_changed = Timestamp::now();
            let told = told(&meanings);
            draft.put_secret(meta.clone(), ChangeKind::Settings);
            let effects = self.effects(draft, Some(&secret), &meta, None)?;
            effects.spare(draft);
            let mut more = effects.parameters();
            more.push(("resolved", Parameter::List(&told)));
            let body = self.body_with(Event::PutResourcePolicy, name, None, &more, caller);
            Ok((meanings, body))
        });
        let meanings = answer.map_err(|e| self.unprefixed(e, &what))?;
        let remaining = match edit {
            PolicyEdit::Add(rules) => self.over_denies(name, rules, &mut warnings),
            PolicyEdit::Replace(_) => None,
        };
        let mut answer = self.who_reads(name, warnings, super::Past::None);
        answer["resolved"] = json!(meanings);
        if let Some(remaining) = remaining {
            answer["remaining"] = json!(remaining);
        }
        Ok(answer)
    }

    /// What [`Lifecycle::set_policy`] would say of a document; changes nothing. A secret that the caller may not see is
    /// none to him.
    ///
    /// # Errors
    /// Bad input, with its position; a refusal.
    pub fn check_policy<C: Caller>(
        &self,
        name: Option<&SecretName>,
        text: &str,
        (care, comparison): (Care, Comparison),
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let (what, action) = ("the policy was not checked", Action::ValidateResourcePolicy);
        let any: SecretName = "any-name"
            .parse()
            .map_err(|e| Problem::new(Exit::Failed, what, e).next("try again"))?;
        let state = self.access.vault().state();
        let mut seen = |name: &SecretName| {
            let secret = state.secrets.by_name(name.as_str())?;
            let owner = caller.uid() == self.access.vault().administration().owner;
            (owner || secret.broken.is_none() && self.access.peek(state.view(secret), caller).is_ok())
                .then(|| secret.clone())
        };
        let secret = name.and_then(&mut seen);
        let refused = |refusal: crate::policy::Refusal| refusal.problem(what, action);
        match (&secret, name) {
            (Some(secret), _) => {
                self.allowed(state.view(secret), action, Event::ControlCall, caller, what)?
            }
            (None, Some(name)) => {
                let decided = self.access.decide_named(name, action, Event::ControlCall, caller);
                decided.map(drop).map_err(refused)?;
            }
            (None, None) => {
                let decided = self.access.decide_layers(action, Event::ControlCall, caller);
                decided.map(drop).map_err(refused)?;
            }
        }
        if comparison == Comparison::WithToday {
            self.describes(secret.as_deref().map(|s| state.view(s)), name, caller)?;
        }
        let what = "the policy is not valid";
        let name = name.unwrap_or(&any);
        let arn = secret.as_ref().and_then(|s| s.meta.arn.as_deref());
        let (record, found) = self.resolve(text, name, arn, what)?;
        care.judge(&found, what)?;
        let compiled = record.compile(name, arn).map_err(|e| bad_policy(what, &e))?;
        let warnings: Vec<String> = found.iter().map(ToString::to_string).collect();
        let people = Faces::new(&*self.directory);
        let secret = secret.as_deref();
        let readers = |policy| {
            self.access
                .readers_as(&state, (secret, name), Some(policy), &people)
        };
        let after = readers((&compiled, &record));
        let mut answer = json!({ "valid": true, "readers": after, "warnings": warnings });
        if comparison == Comparison::WithToday {
            let before = secret
                .map(|s| self.access.readers(&state, s, &people))
                .unwrap_or_default();
            let (gain, lose) = crate::policy::difference(&before, &after, &people);
            answer["gain"] = json!(gain);
            answer["lose"] = json!(lose);
        }
        Ok(answer)
    }

    /// Who is told who would gain and lose is told who reads now.
    fn describes<C: Caller>(
        &self,
        secret: Option<View<'_>>,
        name: Option<&SecretName>,
        caller: &mut C,
    ) -> Result<(), Problem> {
        let (what, action) = ("the policy was not compared", Action::DescribeSecret);
        let Some(secret) = secret else {
            let why = name.map_or("no secret is named".into(), |n| format!("there is no secret {n}"));
            return Err(Problem::new(Exit::NotFound, what, why).next("see the names: wardfs list"));
        };
        self.sound(secret, caller, what)?;
        let decided = (self.access).decide(secret, action, Purpose::Describe, Asked::secret(), caller);
        let refusal = match decided {
            Ok(_grant) => return Ok(()),
            Err(refusal) => refusal,
        };
        let _told = self.access.refuse(secret, refusal, Event::DescribeSecret, caller);
        Err(refusal.problem(what, action))
    }

    /// What keeps those out who were allowed, also as warnings; `None` where nobody was.
    pub(super) fn over_denies(
        &self,
        name: &SecretName,
        rules: &[Rule],
        warnings: &mut Vec<String>,
    ) -> Option<Vec<Value>> {
        let state = self.access.vault().state();
        let secret = state.secrets.by_name(name.as_str())?;
        let (policy, record) = (secret.policy.as_ref()?, secret.meta.policy.as_deref()?);
        let allowed = rules.iter().filter_map(|rule| match rule {
            Rule::Allow(who) => Some(who),
            Rule::Deny(_) => None,
        });
        let claims: Vec<Claim> = allowed.filter_map(|who| record.meant(who)).collect();
        let none_allowed = !rules.iter().any(|rule| matches!(rule, Rule::Allow(_)));
        let people = Faces::new(&*self.directory);
        let about = (&*claims, Effect::Deny);
        let remaining = self.remaining((&state, secret), Some((policy, record)), about, &people);
        for row in &remaining {
            let [who, words] = ["who", "words"].map(|key| row[key].as_str().unwrap_or_default());
            warnings.push(format!("{who}: no effect: {words}"));
        }
        (!none_allowed).then_some(remaining)
    }

    pub(super) fn resolve(
        &self,
        text: &str,
        name: &SecretName,
        arn: Option<&str>,
        what: &str,
    ) -> Result<(PolicyRecord, Vec<Warning>), Problem> {
        let settings = self.settings()?;
        PolicyRecord::resolve(text, &settings.principals, &*self.directory, name, arn)
            .map_err(|e| bad_policy(what, &e))
    }

    /// Adds rules to a policy. Names that it has already keep their meaning.
    pub(super) fn with_rules(
        &self,
        old: Option<&PolicyRecord>,
        rules: &[Rule],
        name: &SecretName,
        arn: Option<&str>,
        what: &str,
    ) -> Result<(PolicyRecord, Vec<Warning>), Problem> {
        let effect = |rule: &Rule| match rule {
            Rule::Allow(who) => (Effect::Allow, who.clone()),
            Rule::Deny(who) => (Effect::Deny, who.clone()),
        };
        let rules: Vec<(Effect, Local)> = rules.iter().map(effect).collect();
        let action = Action::GetSecretValue;
        PolicyRecord::extended(old, &rules, action, &*self.directory, name, arn).map_err(|e| match &e {
            ExtendError::Policy(e) => {
                bad_policy(what, e).next("name users and groups of this machine, as user:www-data or gid:34")
            }
            ExtendError::Ambiguous { is, kind, .. } => Problem::new(Exit::Conflict, what, &e).next(format!(
                "name the number, {kind}:{is}; or set the whole policy, which looks up every name anew: wardfs policy set {name} FILE"
            )),
        })
    }
}

/// Most names that a record lists; with them a line stays far below what a line may have.
const TOLD: usize = 250;

/// What the names of a policy were found to mean, for a record.
pub(super) fn told(meanings: &[String]) -> Vec<&str> {
    let (all, most) = (meanings.len() <= TOLD, meanings.len().min(TOLD));
    let more = (!all).then_some("…");
    meanings[..most].iter().map(String::as_str).chain(more).collect()
}

pub(super) fn bad_policy(what: &str, e: &PolicyError) -> Problem {
    Problem::new(Exit::Usage, what, e).next("correct the document, and try it: wardfs policy check FILE")
}
