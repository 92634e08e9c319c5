//! The path of a read, and of every look at a secret: the product's story.
//!
//! Files, the control socket and the command line all come through here. A [`Grant`] proves that the policy
//! allowed this caller this purpose; a [`Receipt`] proves that the record is in the log; only who has both
//! gets [`Bytes`].

use std::sync::Arc;

use crate::audit::Event;
use crate::policy::{self, Action, Basis, Decision, Grant, Layers, Purpose, Reason, Refusal};
use crate::secret::SecretBytes;
use crate::sync::Mutex;
use crate::vault::{Secret, State, Vault, VaultError, Version, View};

mod asked;
mod caller;
mod known;
mod proof;
mod readers;
mod recent;
mod record;
mod sight;
mod standing;
#[cfg(all(test, not(feature = "interleavings")))]
mod tests;

pub use asked::Asked;
pub use caller::{Caller, CallerKey};
pub use known::KnownCaller;
pub use proof::{AccessError, Bytes, Choice, Pin, Range, Standing};
pub use readers::{Faces, Readership};
pub use recent::Remembered;
pub use sight::{Enough, Side, Sight};

/// The decision and reading of secrets.
pub struct Access {
    vault: Arc<Vault>,
    /// Whether callers whose process cannot be seen at all (pid 0) may be served by rules on their uid alone, where the
    /// store seals no settings.
    serve_unidentified: bool,
    recent: recent::Recent,
}

impl Access {
    /// Gives bytes of a pinned version: find → decide → unseal → record → release. At the end of the value it
    /// gives none, and records none.
    ///
    /// # Errors
    /// In each case without a byte, and recorded.
    pub fn read<C: Caller>(
        &self,
        pin: &Pin,
        range: Range,
        caller: &mut C,
    ) -> Result<Option<Bytes>, AccessError> {
        // Before the state is taken: it can take long, and what was changed meanwhile is in force.
        let known = caller.identify();
        let mut state = self.vault.peek();
        let mut secret = self.find(&state, pin, caller)?;
        let mut grant = self.decide_read(secret, pin, known, caller)?;
        let newer = self.vault.peek();
        if newer.epoch != state.epoch {
            state = newer;
            secret = self.find(&state, pin, caller)?;
            grant = self.decide_read(secret, pin, known, caller)?;
        }
        let range = range.within(pin.version.meta.size as usize);
        if range.is_empty() {
            return Ok(None);
        }
        let plain = self.unseal(&grant, secret, &pin.version, caller)?;
        let receipt = self.record_read(&grant, secret, pin, &range, caller)?;
        caller.was_served();
        Ok(Some(Bytes::release(grant, receipt, plain, range)))
    }

    fn find<'s, C: Caller>(
        &self,
        state: &'s State,
        pin: &Pin,
        caller: &mut C,
    ) -> Result<View<'s>, AccessError> {
        let secret = state.secrets.by_id(pin.secret);
        let Some(secret) = secret.filter(|s| s.is_active() || s.broken.is_some()) else {
            return Err(self.revoked(&pin.version, caller));
        };
        let secret = state.view(secret);
        self.sound(secret, caller)?;
        if !secret.versions.contains_key(&pin.version.meta.no) {
            return Err(self.revoked(&pin.version, caller));
        }
        Ok(secret)
    }

    fn decide_read<C: Caller>(
        &self,
        secret: View<'_>,
        pin: &Pin,
        known: Result<(), Reason>,
        caller: &mut C,
    ) -> Result<Grant, AccessError> {
        let grant = match known {
            Err(reason) if !(reason == Reason::NoPid && self.serves_unidentified(secret.state)) => {
                let basis = Basis::DEFAULT;
                Err(Refusal { reason, basis })
            }
            _ => {
                let labels = pin.labels_in(secret);
                let asked = Asked::version(&pin.version, &labels);
                self.decide(secret, Action::GetSecretValue, Purpose::Read, asked, caller)
            }
        };
        self.granted(secret, grant, Event::GetSecretValue, caller)
    }

    /// The one decision, by all layers.
    ///
    /// # Errors
    /// The refusal.
    pub fn decide<C: Caller>(
        &self,
        secret: View<'_>,
        action: Action,
        purpose: Purpose,
        asked: Asked<'_>,
        caller: &mut C,
    ) -> Result<Grant, Refusal> {
        match policy::decide(
            &self.layers_of(secret),
            &request(&secret, action, purpose, asked),
            caller,
        ) {
            Decision::Allow(grant) => Ok(grant),
            Decision::Deny(refusal) => Err(refusal),
        }
    }

    /// What a request about this secret has to pass.
    pub(crate) fn layers_of<'s>(&'s self, secret: View<'s>) -> Layers<'s> {
        self.layers(secret.state, Some(secret.secret()))
    }

    /// What a request has to pass.
    pub(crate) fn layers<'s>(&'s self, state: &'s State, secret: Option<&'s Secret>) -> Layers<'s> {
        Layers {
            administration: &state.administration,
            shared: state.layers.shared(),
            secret: secret.and_then(|s| s.policy.as_ref()),
        }
    }

    /// Unsealing needs the grant, and one for reading.
    fn unseal<C: Caller>(
        &self,
        grant: &Grant,
        secret: View<'_>,
        version: &Version,
        caller: &mut C,
    ) -> Result<SecretBytes, AccessError> {
        if grant.purpose() != Purpose::Read || grant.secret() != version.meta.secret {
            return Err(self.broken(secret, "a grant for another purpose or secret".into(), caller));
        }
        let opened = self.vault.data_key(version).and_then(|key| {
            let sealed = self.vault.sealed_value(version)?;
            let length = crate::seal::plain_len(&sealed.0)?;
            let mut plain =
                crate::sys::mem::secret(length).map_err(|e| VaultError::Io("locked memory".into(), e))?;
            key.open_value(
                &self.vault.context(version),
                &version.meta.wrapped,
                &sealed.0,
                &mut plain,
            )?;
            Ok(plain)
        });
        match opened {
            Ok(plain) if plain.len() == version.meta.size as usize => Ok(plain),
            Ok(_) => Err(self.broken(
                secret,
                "the value has another size than its record says".into(),
                caller,
            )),
            Err(e) if e.exit() == crate::problem::Exit::Integrity => Err(match self.is_gone(version) {
                // Deleted since the state was taken, and nothing is damaged.
                true => self.revoked(version, caller),
                false => self.broken(secret, e.to_string(), caller),
            }),
            Err(e) => Err(AccessError::Unavailable(e)),
        }
    }

    /// A value is gone from the disk a moment before the state says so: what is being changed is waited for.
    fn is_gone(&self, version: &Version) -> bool {
        let gone = |state: &State| !state.versions.contains_key(&version.meta.no);
        gone(&self.vault.peek()) || gone(&self.vault.after_changes())
    }

    /// Chooses a version for this caller and pins it, without unsealing anything.
    ///
    /// # Errors
    /// If he may not read it, or it is not there.
    pub fn open<C: Caller>(
        &self,
        secret: View<'_>,
        choice: Choice<'_>,
        handle: u64,
        caller: &mut C,
    ) -> Result<Pin, AccessError> {
        let version = self.choose(secret, choice, caller)?;
        let labels = match choice {
            Choice::Label("current") => secret.current_labels.clone(),
            _ => secret.labels_of(version.meta.no).cloned().collect(),
        };
        let asked = Asked::version(version, &labels);
        let grant = self.decide(secret, Action::GetSecretValue, Purpose::Read, asked, caller);
        let _opened = self.granted(secret, grant, Event::OpenSecret, caller)?;
        Ok(Pin {
            secret: secret.meta.id,
            version: version.clone(),
            labels,
            handle,
            named: Mutex::new(None),
        })
    }

    /// The version that is meant. One that has a label and is not there is broken, and recorded as that.
    ///
    /// # Errors
    /// If it is not there, or cannot be believed.
    pub fn choose<'s, C: Caller>(
        &self,
        secret: View<'s>,
        choice: Choice<'_>,
        caller: &mut C,
    ) -> Result<&'s Arc<Version>, AccessError> {
        self.sound(secret, caller)?;
        match choice {
            Choice::Label(label) => match (
                secret.secret().labelled(label),
                secret.meta.labels.contains_key(label),
            ) {
                (Some(version), _) => Ok(version),
                (None, true) => {
                    // Only who may see the secret is told.
                    self.standing(secret, Event::OpenSecret, caller)?;
                    let why = format!("the version labelled {label} is missing or broken");
                    Err(self.broken(secret, why, caller))
                }
                (None, false) => Err(AccessError::NotFound),
            },
            Choice::Version(version) => {
                let versions = &secret.secret().versions;
                versions.get(&version.meta.no).ok_or(AccessError::NotFound)
            }
        }
    }

    fn granted<C: Caller>(
        &self,
        secret: View<'_>,
        grant: Result<Grant, Refusal>,
        event: Event,
        caller: &mut C,
    ) -> Result<Grant, AccessError> {
        grant.map_err(|refusal| self.refuse(secret, refusal, event, caller))
    }

    /// Over an opened store.
    pub fn new(vault: Arc<Vault>, serve_unidentified: bool) -> Self {
        Access {
            vault,
            serve_unidentified,
            recent: recent::Recent::default(),
        }
    }

    fn serves_unidentified(&self, state: &State) -> bool {
        let sealed = state.settings.deciding.as_ref();
        sealed.map_or(self.serve_unidentified, |d| d.serve_unidentified)
    }

    /// The store.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }
}

/// A request about a secret, as policies see it.
pub(crate) fn request<'a>(
    secret: &'a Secret,
    action: Action,
    purpose: Purpose,
    asked: Asked<'a>,
) -> policy::Request<'a> {
    policy::Request {
        arn: secret.meta.arn.as_deref(),
        tags: &secret.meta.tags,
        version: asked.version,
        labels: asked.labels,
        request_tags: asked.tags,
        untag: asked.untag,
        ..policy::Request::new(action, purpose, secret.meta.id, &secret.meta.name)
    }
}
