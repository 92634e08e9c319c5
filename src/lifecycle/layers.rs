//! Setting and removing guardrails and identity policies.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Lifecycle;
use super::policies::{Care, bad_policy};
use crate::access::Caller;
use crate::audit::{Body, Event, Identity, Outcome, Record};
use crate::policy::{
    Action, Decision, GuardrailRecord, IdentityRecord, Layers, MAX_GUARDRAILS, MAX_IDENTITIES, Purpose,
    Request, Warning, decide,
};
use crate::problem::{Exit, Problem};
use crate::vault::{Draft, LayerKey, LayerRecord, State, VaultError};

/// Longest name of a guardrail, in bytes.
const MAX_NAME: usize = 128;

/// What setting it is, and how it is recorded.
fn setting(key: &LayerKey) -> (Action, Event) {
    match key {
        LayerKey::Guardrail(_) => (Action::PutGuardrail, Event::PutGuardrail),
        LayerKey::Identity(_) => (Action::PutIdentityPolicy, Event::PutIdentityPolicy),
    }
}

/// What removing it is, and how it is recorded.
fn removal(key: &LayerKey) -> (Action, Event) {
    match key {
        LayerKey::Guardrail(_) => (Action::DeleteGuardrail, Event::DeleteGuardrail),
        LayerKey::Identity(_) => (Action::DeleteIdentityPolicy, Event::DeleteIdentityPolicy),
    }
}

/// `policy check` is for the policies of secrets, which name principals.
const MEND: &str = "correct what is named, and set it again";

impl Lifecycle {
    /// Sets a guardrail, or the policy and tags of an identity, in the place of what it had.
    ///
    /// # Errors
    /// Bad input (with its position), a refusal, too many of them; nothing is changed.
    pub fn set_layer<C: Caller>(
        &self,
        key: &LayerKey,
        text: &str,
        tags: &BTreeMap<String, String>,
        care: Care,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot set {}", key.words());
        if let LayerKey::Guardrail(name) = key {
            check_name(name, &what)?;
        }
        let mut warnings = Vec::new();
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let (action, event) = setting(key);
            self.layers_allowed(action, event, caller, &what)?;
            let (record, mut found) = self.layer_record(key, text, tags, &what)?;
            room_for(key, draft.state(), &what)?;
            found.extend(self.locks_up(draft.state(), &record, &what)?);
            care.judge(&found, &what)?;
            warnings.extend(found.iter().map(ToString::to_string));
            draft.put_layer(record, caller.uid());
            Ok(((), self.layer_body(draft, key, event, caller)?))
        });
        answer.map_err(|e| self.unprefixed(e, &what))?;
        Ok(json!({ "name": key.name(), "warnings": warnings }))
    }

    /// Removes a guardrail, or the policy and tags of an identity.
    ///
    /// # Errors
    /// A refusal, or there is none; nothing is changed.
    pub fn remove_layer<C: Caller>(
        &self,
        key: &LayerKey,
        dry_run: bool,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot remove {}", key.words());
        let (action, event) = removal(key);
        if dry_run {
            self.layers_allowed(action, event, caller, &what)?;
            existing(key, &self.access.vault().state(), &what)?;
            return Ok(json!({ "name": key.name(), "removed": false, "dry_run": true }));
        }
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            self.layers_allowed(action, event, caller, &what)?;
            let meta = existing(key, draft.state(), &what)?;
            draft.remove_layer(&meta);
            Ok(((), self.layer_body(draft, key, event, caller)?))
        });
        answer.map_err(|e| self.unprefixed(e, &what))?;
        Ok(json!({ "name": key.name(), "removed": true, "dry_run": false }))
    }

    fn layer_record(
        &self,
        key: &LayerKey,
        text: &str,
        tags: &BTreeMap<String, String>,
        what: &str,
    ) -> Result<(LayerRecord, Vec<Warning>), Problem> {
        let settings = self.settings()?;
        let map = &settings.principals;
        let directory = &*self.directory;
        Ok(match key {
            LayerKey::Guardrail(name) => {
                let (record, found) = GuardrailRecord::resolve(name, text, map, directory)
                    .map_err(|e| bad_policy(what, &e).next(MEND))?;
                (LayerRecord::Guardrail(record), found)
            }
            LayerKey::Identity(principal) => {
                let (record, found) = IdentityRecord::resolve(principal, tags.clone(), text, map, directory)
                    .map_err(|e| bad_policy(what, &e).next(MEND))?;
                (LayerRecord::Identity(record), found)
            }
        })
    }

    /// A warning if with this record the owner could not remove it any more.
    fn locks_up(&self, state: &State, record: &LayerRecord, what: &str) -> Result<Option<Warning>, Problem> {
        let supposed = state
            .layers
            .supposing(record.clone())
            .map_err(|e| e.problem(what))?;
        let administration = self.access.vault().administration();
        let layers = Layers {
            administration: &administration,
            shared: supposed.shared(),
            secret: None,
        };
        let (action, warning) = match record {
            LayerRecord::Guardrail(_) => (
                Action::DeleteGuardrail,
                "with this guardrail root can remove no guardrail any more: only `wardfs store break-glass --guardrail NAME --reason TEXT` could",
            ),
            LayerRecord::Identity(_) => (
                Action::DeleteIdentityPolicy,
                "with this identity policy root can remove no identity policy any more: only `wardfs store break-glass --identity user:NAME --reason TEXT` could",
            ),
        };
        let request = Request::of_layers(action, Purpose::Administer);
        let mut owner = crate::access::KnownCaller::root();
        owner.uid = administration.owner;
        Ok(match decide(&layers, &request, &mut owner) {
            Decision::Allow(_) => None,
            Decision::Deny(_) => Some(Warning::lockout(warning)),
        })
    }

    fn layer_body<C: Caller>(
        &self,
        draft: &mut Draft<'_>,
        key: &LayerKey,
        event: Event,
        caller: &mut C,
    ) -> Result<Body, VaultError> {
        let (words, effects) = (key.words(), self.layer_effects(draft, key)?);
        effects.spare(draft);
        let record = Record {
            event,
            outcome: Outcome::Allowed,
            parameters: &effects.parameters(),
            message: Some(&words),
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        Ok(record.body())
    }

    pub(super) fn layers_allowed<C: Caller>(
        &self,
        action: Action,
        event: Event,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        match self.access.decide_layers(action, event, caller) {
            Ok(_grant) => Ok(()),
            Err(refusal) => Err(refusal.problem(what, action)),
        }
    }
}

/// Letters, digits and `_+=.@-`, as in a segment of a secret's name.
fn check_name(name: &str, what: &str) -> Result<(), Problem> {
    let fits = (1..=MAX_NAME).contains(&name.len()) && !name.starts_with(['.', '#']);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+=.@-".contains(&b);
    match fits && name.bytes().all(allowed) {
        true => Ok(()),
        false => Err(Problem::new(
            Exit::Usage,
            what,
            format_args!("a guardrail's name has 1 to {MAX_NAME} of the characters A-Z a-z 0-9 _ + = . @ -, and does not begin with a dot"),
        )
        .next("give a name like deny-deletion")),
    }
}

fn room_for(key: &LayerKey, state: &State, what: &str) -> Result<(), Problem> {
    let (count, most) = match key {
        LayerKey::Guardrail(_) => (state.layers.guardrails().count(), MAX_GUARDRAILS),
        LayerKey::Identity(_) => (state.layers.identities().count(), MAX_IDENTITIES),
    };
    let is_new = state.layers.get(key).is_none();
    match is_new && count >= most {
        false => Ok(()),
        true => Err(
            Problem::new(Exit::Conflict, what, format_args!("there are {most} already"))
                .next("remove one that is needed no more"),
        ),
    }
}

pub(super) fn existing(
    key: &LayerKey,
    state: &State,
    what: &str,
) -> Result<crate::vault::LayerMeta, Problem> {
    let list = match key {
        LayerKey::Guardrail(_) => "wardfs guardrail list",
        LayerKey::Identity(_) => "wardfs identity list",
    };
    state.layers.get(key).cloned().ok_or_else(|| {
        Problem::new(Exit::NotFound, what, "there is none").next(format!("see what there is: {list}"))
    })
}
