//! Looks at a secret that give no value: for stat, listings and administration.

use super::{Access, AccessError, Asked, Caller, KnownCaller, Standing};
use crate::audit::{Event, Outcome, Record};
use crate::id::{Label, SecretId, SecretName};
use crate::policy::{self, Action, Basis, Decision, Grant, Layer, Layers, Purpose, Reason, Refusal};
use crate::vault::{Version, View};

impl Access {
    /// What the caller is to a secret, if anything; a stranger is refused and recorded, as `event`.
    ///
    /// # Errors
    /// For a stranger: denied, or hidden where the secret is.
    pub fn standing<C: Caller>(
        &self,
        secret: View<'_>,
        event: Event,
        caller: &mut C,
    ) -> Result<Standing, AccessError> {
        if secret.broken.is_some() {
            return Err(self.sound(secret, caller).err().unwrap_or(AccessError::NotFound));
        }
        self.peek(secret, caller)
            .map_err(|refusal| self.refuse(secret, refusal, event, caller))
    }

    /// As [`Access::standing`], for listings: nothing is recorded.
    ///
    /// # Errors
    /// The refusal, for a stranger.
    pub fn peek<C: Caller>(&self, secret: View<'_>, caller: &mut C) -> Result<Standing, Refusal> {
        // What a stat shows may come from groups that are up to a second old; nobody is refused for that.
        caller.relax(true);
        let standing = self.standing_now(secret, caller);
        caller.relax(false);
        match standing {
            Err(_) if caller.relied_on_the_past() => self.standing_now(secret, caller),
            standing => standing,
        }
    }

    fn standing_now<C: Caller>(&self, secret: View<'_>, caller: &mut C) -> Result<Standing, Refusal> {
        let (action, purpose) = (Action::GetSecretValue, Purpose::Read);
        let asked = Asked {
            version: secret.current().map(|v| &v.meta.id),
            labels: &secret.current_labels,
            ..Asked::secret()
        };
        let refusal = match self.decide(secret, action, purpose, asked, caller) {
            Ok(_) => return Ok(Standing::Reader),
            Err(refusal) => refusal,
        };
        match self.decide(
            secret,
            Action::DescribeSecret,
            Purpose::Describe,
            Asked::secret(),
            caller,
        ) {
            Ok(_) => Ok(Standing::Describer),
            Err(_) => Err(refusal),
        }
    }

    /// Whether he may read this very version, for listings: nothing is recorded.
    pub fn may_read_version<C: Caller>(
        &self,
        secret: View<'_>,
        version: &Version,
        caller: &mut C,
    ) -> Result<(), Refusal> {
        let labels: Vec<Label> = secret.labels_of(version.meta.no).cloned().collect();
        let asked = Asked::version(version, &labels);
        self.decide(secret, Action::GetSecretValue, Purpose::Read, asked, caller)
            .map(drop)
    }

    /// As [`Access::decide`], for a secret that is not there yet: it has no policy of its own. A refusal is recorded.
    ///
    /// # Errors
    /// The refusal.
    pub fn decide_new<C: Caller>(
        &self,
        name: &SecretName,
        action: Action,
        asked: Asked<'_>,
        caller: &mut C,
    ) -> Result<Grant, Refusal> {
        let request = policy::Request {
            request_tags: asked.tags,
            ..policy::Request::new(action, Purpose::Administer, SecretId(0), name)
        };
        self.decide_shared(&request, Event::CreateSecret, Some(name), caller)
    }

    /// The decision about a name alone, whether or not there is such a secret: its own policy has no part in it. A refusal
    /// is recorded as `event`.
    ///
    /// # Errors
    /// The refusal.
    pub fn decide_named<C: Caller>(
        &self,
        name: &SecretName,
        action: Action,
        event: Event,
        caller: &mut C,
    ) -> Result<Grant, Refusal> {
        let request = policy::Request::new(action, Purpose::Administer, SecretId(0), name);
        self.decide_shared(&request, event, Some(name), caller)
    }

    /// Whether something that a new secret is made with is forbidden. Its maker, who knows its first value, may say who
    /// reads it and what is shown of it, unless a guardrail or an identity policy says otherwise.
    ///
    /// # Errors
    /// The refusal, which is recorded.
    pub fn decide_made_with<C: Caller>(
        &self,
        name: &SecretName,
        action: Action,
        caller: &mut C,
    ) -> Result<(), Refusal> {
        let request = policy::Request::new(action, Purpose::Administer, SecretId(0), name);
        let state = self.vault().peek();
        let layers = self.layers(&state, None);
        match policy::decide(&layers, &request, caller) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(by_nobody)
                if (by_nobody.reason, by_nobody.basis.layer) == (Reason::ImplicitDeny, Layer::Default) =>
            {
                Ok(())
            }
            Decision::Deny(refusal) => {
                self.tell_shared(&layers, refusal, Event::CreateSecret, Some(name), caller);
                Err(refusal)
            }
        }
    }

    /// Records that a new secret was refused for what `basis` would then allow.
    pub fn refuse_new<C: Caller>(&self, name: &SecretName, basis: Basis, caller: &mut C) {
        let state = self.vault().peek();
        let refusal = Refusal {
            reason: Reason::ExplicitDeny,
            basis,
        };
        self.tell_shared(
            &self.layers(&state, None),
            refusal,
            Event::CreateSecret,
            Some(name),
            caller,
        );
    }

    /// The decision about a change of guardrails or identity policies. A refusal is recorded as `event`.
    ///
    /// # Errors
    /// The refusal.
    pub fn decide_layers<C: Caller>(
        &self,
        action: Action,
        event: Event,
        caller: &mut C,
    ) -> Result<Grant, Refusal> {
        let request = policy::Request::of_layers(action, Purpose::Administer);
        self.decide_shared(&request, event, None, caller)
    }

    fn decide_shared<C: Caller>(
        &self,
        request: &policy::Request<'_>,
        event: Event,
        name: Option<&SecretName>,
        caller: &mut C,
    ) -> Result<Grant, Refusal> {
        let state = self.vault().peek();
        let layers = self.layers(&state, None);
        match policy::decide(&layers, request, caller) {
            Decision::Allow(grant) => Ok(grant),
            Decision::Deny(refusal) => {
                self.tell_shared(&layers, refusal, event, name, caller);
                Err(refusal)
            }
        }
    }

    /// Records a refusal that no secret's own policy has a part in.
    fn tell_shared<C: Caller>(
        &self,
        layers: &Layers<'_>,
        refusal: Refusal,
        event: Event,
        name: Option<&SecretName>,
        caller: &mut C,
    ) {
        let record = Record {
            event,
            outcome: Outcome::Denied {
                reason: refusal.reason.code(),
            },
            secret: name.map(|n| n.as_str()),
            layer: Some(refusal.basis.layer.code()),
            statement: layers.statement_id(refusal.basis),
            ..Record::default()
        };
        // No secret has the name: it is whatever the caller likes.
        self.tell_as(record, None, caller);
    }

    /// Whether root, as a caller like any other, may read the current value.
    pub fn root_may_read(&self, secret: View<'_>) -> bool {
        let asked = Asked {
            version: secret.current().map(|v| &v.meta.id),
            labels: &secret.current_labels,
            ..Asked::secret()
        };
        self.decide(
            secret,
            Action::GetSecretValue,
            Purpose::Read,
            asked,
            &mut KnownCaller::root(),
        )
        .is_ok()
    }
}
