//! Changing secrets: put, labels, tags, policies, guardrails, delete. Each is decided, drafted and recorded as one
//! change of the vault.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::access::{Access, AccessError, Asked, Caller, Faces};
use crate::audit::{Body, Event, Identity, Outcome, Record, Value as Parameter};
use crate::id::SecretName;
use crate::policy::{Action, Deciding, Directory, Purpose};
use crate::problem::{Exit, Problem};
use crate::sync::Mutex;
use crate::vault::{Draft, Secret, VaultError, View};

mod accept;
mod accounts;
mod archive;
mod break_glass;
mod delete;
mod effects;
mod gains;
mod labels;
mod layers;
mod near;
mod policies;
mod put;
mod restore;
mod tags;
mod take_out;
mod update;

pub use archive::Copied;
pub use break_glass::{Repair, check_reason};
pub use labels::LabelMove;
pub use policies::{Care, Comparison, PolicyEdit};
pub use put::{Only, Put, Rule};
pub use restore::Place;
pub use tags::TagChange;
pub use take_out::TakenFrom;
pub use update::{Mode, Update};

/// Whether a name brings a policy from before its values were destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Past {
    None,
    Used,
}

/// Changing secrets.
pub struct Lifecycle {
    access: Arc<Access>,
    directory: Box<dyn Directory + Send + Sync>,
    file: Box<dyn Fn() -> Result<Deciding, Problem> + Send + Sync>,
    max_value: AtomicUsize,
    archiving: Mutex<()>,
}

impl Lifecycle {
    /// Over the decisions of `access`. `file` is asked for what the configuration's file decides, which is in force
    /// only as far as the store has sealed it; `max_value` is in bytes.
    pub fn new(
        access: Arc<Access>,
        directory: Box<dyn Directory + Send + Sync>,
        file: Box<dyn Fn() -> Result<Deciding, Problem> + Send + Sync>,
        max_value: usize,
    ) -> Self {
        Lifecycle {
            access,
            directory,
            file,
            max_value: max_value.into(),
            archiving: Mutex::new(()),
        }
    }

    /// The longest value that is taken, in bytes.
    pub fn max_value(&self) -> usize {
        self.max_value.load(Ordering::Relaxed)
    }

    /// Takes values of at most so many bytes from now on.
    pub fn limit_values(&self, bytes: usize) {
        self.max_value.store(bytes, Ordering::Relaxed);
    }

    /// What is in force: what is sealed, or in a store that seals nothing what the file says.
    fn settings(&self) -> Result<Arc<Deciding>, Problem> {
        match &self.access.vault().state().settings.deciding {
            Some(sealed) => Ok(sealed.clone()),
            None => Ok(Arc::new((self.file)()?)),
        }
    }

    /// That the file maps principals otherwise than is in force, for who sets a policy now.
    fn unaccepted(&self) -> Option<String> {
        let (sealed, file) = (self.settings().ok()?, (self.file)().ok()?);
        (sealed.principals != file.principals).then(|| {
            "wardfs.toml maps principals otherwise than is in force: wardfs config accept; then set it again".into()
        })
    }

    /// Root, or whoever has root's place in a private store.
    fn owns<C: Caller>(&self, caller: &C) -> bool {
        caller.uid() == self.access.vault().administration().owner
    }

    fn existing<C: Caller>(
        &self,
        draft: &Draft<'_>,
        name: &SecretName,
        caller: &mut C,
        what: &str,
    ) -> Result<Arc<Secret>, Problem> {
        let Some(secret) = draft.state().secrets.by_name(name.as_str()).cloned() else {
            return Err(self.missing(name, what));
        };
        self.sound(draft.state().view(&secret), caller, what)?;
        Ok(secret)
    }

    fn missing(&self, name: &SecretName, what: &str) -> Problem {
        Problem::new(Exit::NotFound, what, format_args!("there is no secret {name}"))
            .next("see the names: wardfs list")
    }

    fn sound<C: Caller>(&self, secret: View<'_>, caller: &mut C, what: &str) -> Result<(), Problem> {
        match &secret.broken {
            None => Ok(()),
            Some(_) if !self.access.may_know_of_damage(secret, caller) => {
                Err(self.missing(&secret.meta.name, what))
            }
            Some(why) => {
                Err(Problem::new(Exit::Integrity, what, why).next("see what is broken: wardfs store check"))
            }
        }
    }

    fn allowed<C: Caller>(
        &self,
        secret: View<'_>,
        action: Action,
        event: Event,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        self.allowed_to(secret, action, Asked::secret(), event, caller, what)
    }

    fn allowed_to<C: Caller>(
        &self,
        secret: View<'_>,
        action: Action,
        asked: Asked<'_>,
        event: Event,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        let refusal = match self
            .access
            .decide(secret, action, Purpose::Administer, asked, caller)
        {
            Ok(_grant) => return Ok(()),
            Err(refusal) => refusal,
        };
        Err(match self.access.refuse(secret, refusal, event, caller) {
            // Word for word what he is told where there is none.
            AccessError::Hidden(_) if self.access.peek(secret, caller).is_err() => {
                self.missing(&secret.meta.name, what)
            }
            _ => refusal.problem(what, action),
        })
    }

    /// Records that what only the store's owner may do was refused to somebody else.
    pub fn refuse<C: Caller>(&self, event: Event, caller: &mut C) {
        let _refused = self.access.refuse_outright(event, caller);
    }

    fn body<C: Caller>(
        &self,
        event: Event,
        name: &SecretName,
        version: Option<&str>,
        caller: &mut C,
    ) -> Body {
        self.body_with(event, name, version, &[], caller)
    }

    fn body_with<C: Caller>(
        &self,
        event: Event,
        name: &SecretName,
        version: Option<&str>,
        parameters: &[(&'static str, Parameter<'_>)],
        caller: &mut C,
    ) -> Body {
        Record {
            event,
            outcome: Outcome::Allowed,
            secret: Some(name.as_str()),
            version,
            parameters,
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        }
        .body()
    }

    fn who_reads(&self, name: &SecretName, mut warnings: Vec<String>, past: Past) -> Value {
        let state = self.access.vault().state();
        let secret = state.secrets.by_name(name.as_str());
        let people = Faces::new(&*self.directory);
        let readers = secret
            .map(|s| self.access.readers(&state, s, &people))
            .unwrap_or_default();
        if readers.is_empty() {
            warnings.push(format!(
                "nobody may read it yet: wardfs policy allow {name} user:NAME"
            ));
        }
        if past == Past::Used {
            let lines: Vec<String> = readers.iter().map(ToString::to_string).collect();
            let lines = if lines.is_empty() {
                "nobody".into()
            } else {
                lines.join(", ")
            };
            warnings.push(format!(
                "the name was used before, and its old policy is back: read by {lines}"
            ));
        }
        let root = secret.is_some_and(|s| self.access.root_may_read(state.view(s)));
        json!({ "name": name, "readers": readers, "root_may_read": root, "warnings": warnings })
    }

    fn unprefixed(&self, mut e: Problem, what: &str) -> Problem {
        if e.what.is_empty() {
            e.what = what.to_string();
        }
        e
    }
}

impl From<VaultError> for Problem {
    /// For changes, which fill in what could not be done.
    fn from(e: VaultError) -> Self {
        e.problem("")
    }
}

fn denied(what: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(Exit::Denied, what, why).next("ask who administers this store")
}
