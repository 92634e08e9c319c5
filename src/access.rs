//! The path of a read, and of every look at a secret: the product's story.
//!
//! Files, the control socket and the command line all come through here. A [`Grant`] proves that the policy
//! allowed this caller this purpose; a [`Receipt`] proves that the record is in the log; only who has both
//! gets [`Bytes`].

use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::{Event, Identity, LogError, Outcome, Receipt, Record, Who};
use crate::id::{Label, SecretId, SecretName};
use crate::policy::{self, Action, Basis, Decision, Facts, Grant, Layers, Purpose, Reason, Refusal};
use crate::secret::SecretBytes;
use crate::vault::{Secret, State, Vault, VaultError, Version, Visibility};

mod known;

pub use known::KnownCaller;

/// What tells one caller from another across the reads of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerKey {
    /// fsuid.
    pub uid: u32,
    /// fsgid.
    pub gid: u32,
    /// Thread.
    pub tid: u32,
    /// The process's start, in clock ticks since boot.
    pub start: Option<u64>,
}

/// Who asks: the facts for the decision and the identity for the record.
pub trait Caller: Facts {
    /// Looks at the process behind the request; every read of a value does so before it is decided.
    ///
    /// # Errors
    /// Why the process cannot be known or is not who the kernel's header names.
    fn identify(&mut self) -> Result<(), Reason>;
    /// For the record.
    fn who(&mut self, detail: Identity) -> Who<'_>;
    /// The thread, as the request names it; 0 where it names none. Nothing is looked at for this.
    fn thread(&self) -> u32;
    /// To tell a handle's callers apart.
    fn key(&mut self) -> CallerKey;
    /// By which door he comes: `mount`, `control` or `command`.
    fn door(&self) -> &'static str;
}

/// Why no byte is given. `vfs` maps it to an errno, the control socket to an exit code.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The policy says no.
    #[error("denied: {}", .0.reason.code())]
    Denied(Refusal),
    /// The policy says no, and the secret is not to be seen.
    #[error("not found")]
    Hidden(Refusal),
    /// There is no such secret, version or label.
    #[error("not found")]
    NotFound,
    /// It was there when the handle was opened, and is deleted or destroyed now.
    #[error("deleted")]
    Revoked,
    /// Tampered, damaged or missing data. Never a value.
    #[error("integrity: {0}")]
    Integrity(String),
    /// The record could not be written, so there is no byte.
    #[error("the log cannot be written: {0}")]
    Log(#[from] LogError),
    /// The store could not be read, or locked memory is used up.
    #[error("{0}")]
    Unavailable(VaultError),
}

/// What a caller is to a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// He may read its current value.
    Reader,
    /// He may see that it is there, its size and its labels.
    Describer,
}

/// A version that an open chose, held by its handle: a reader who keeps a descriptor keeps its version.
pub struct Pin {
    /// Whose.
    pub secret: SecretId,
    /// Which.
    pub version: Arc<Version>,
    /// The labels it had when it was opened, by which reads are decided.
    pub labels: Vec<Label>,
    /// The handle's number in records; 0 for a read without one.
    pub handle: u64,
    named: Mutex<Option<CallerKey>>,
}

impl Pin {
    fn detail(&self, key: CallerKey) -> Identity {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if *named == Some(key) {
            return Identity::Short;
        }
        *named = Some(key);
        Identity::Full
    }
}

/// Which version an open asks for.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// The one with this label.
    Label(&'a str),
    /// This one, whatever its labels.
    Version(&'a Version),
}

/// Which bytes a read asks for.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The first.
    pub offset: u64,
    /// How many at most.
    pub length: u32,
}

impl Range {
    /// Everything.
    pub const WHOLE: Range = Range {
        offset: 0,
        length: u32::MAX,
    };

    fn within(self, size: usize) -> std::ops::Range<usize> {
        let start = usize::try_from(self.offset).map_or(size, |o| o.min(size));
        start..start.saturating_add(self.length as usize).min(size)
    }
}

/// Plaintext that left the policy and the log behind it. Wiped when dropped.
pub struct Bytes {
    plain: SecretBytes,
    range: std::ops::Range<usize>,
}

impl Bytes {
    /// The one way to be handed a value.
    fn release(_grant: Grant, _receipt: Receipt, plain: SecretBytes, range: std::ops::Range<usize>) -> Self {
        Bytes { plain, range }
    }

    /// The bytes asked for.
    pub fn expose(&self) -> &[u8] {
        &self.plain.expose()[self.range.clone()]
    }
}

/// The decision and reading of secrets.
pub struct Access {
    vault: Arc<Vault>,
    /// Whether callers whose process cannot be seen at all (pid 0) may be served by rules on their uid alone.
    serve_unidentified: bool,
}

impl Access {
    /// Over an opened store.
    pub fn new(vault: Arc<Vault>, serve_unidentified: bool) -> Self {
        Access {
            vault,
            serve_unidentified,
        }
    }

    /// The store.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

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
        let state = self.vault.peek();
        let secret = self.find(&state, pin, caller)?;
        let grant = self.decide_read(secret, pin, caller)?;
        let range = range.within(pin.version.meta.size as usize);
        if range.is_empty() {
            return Ok(None);
        }
        let plain = self.unseal(&grant, secret, &pin.version, caller)?;
        let receipt = self.record_read(&grant, secret, pin, &range, caller)?;
        Ok(Some(Bytes::release(grant, receipt, plain, range)))
    }

    /// Chooses a version for this caller and pins it, without unsealing anything.
    ///
    /// # Errors
    /// If he may not read it, or it is not there.
    pub fn open<C: Caller>(
        &self,
        secret: &Secret,
        choice: Choice<'_>,
        handle: u64,
        caller: &mut C,
    ) -> Result<Pin, AccessError> {
        let version = self.choose(secret, choice, caller)?;
        let labels: Vec<Label> = secret.labels_of(version.meta.no).cloned().collect();
        let grant = self.decide(secret, Action::GetSecretValue, Purpose::Read, &labels, caller);
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
        secret: &'s Secret,
        choice: Choice<'_>,
        caller: &mut C,
    ) -> Result<&'s Arc<Version>, AccessError> {
        self.sound(secret, caller)?;
        match choice {
            Choice::Label(label) => match (secret.labelled(label), secret.meta.labels.contains_key(label)) {
                (Some(version), _) => Ok(version),
                (None, true) => {
                    let why = format!("the version labelled {label} is missing or broken");
                    Err(self.broken(secret, why, caller))
                }
                (None, false) => Err(AccessError::NotFound),
            },
            Choice::Version(version) => secret.versions.get(&version.meta.no).ok_or(AccessError::NotFound),
        }
    }

    /// What the caller is to a secret, if anything; a stranger is refused and recorded, as `event`.
    ///
    /// # Errors
    /// For a stranger: denied, or hidden where the secret is.
    pub fn standing<C: Caller>(
        &self,
        secret: &Secret,
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
    pub fn peek<C: Caller>(&self, secret: &Secret, caller: &mut C) -> Result<Standing, Refusal> {
        let labels: Vec<Label> = match secret.current() {
            Some(version) => secret.labels_of(version.meta.no).cloned().collect(),
            None => Vec::new(),
        };
        let refusal = match self.decide(secret, Action::GetSecretValue, Purpose::Read, &labels, caller) {
            Ok(_) => return Ok(Standing::Reader),
            Err(refusal) => refusal,
        };
        match self.decide(secret, Action::DescribeSecret, Purpose::Describe, &[], caller) {
            Ok(_) => Ok(Standing::Describer),
            Err(_) => Err(refusal),
        }
    }

    /// Whether he may read this very version, for listings: nothing is recorded.
    pub fn may_read_version<C: Caller>(
        &self,
        secret: &Secret,
        version: &Version,
        caller: &mut C,
    ) -> Result<(), Refusal> {
        let labels: Vec<Label> = secret.labels_of(version.meta.no).cloned().collect();
        self.decide(secret, Action::GetSecretValue, Purpose::Read, &labels, caller)
            .map(drop)
    }

    /// The one decision, by all layers. An administrative action on a secret that is not there yet passes the
    /// built-in layer alone.
    ///
    /// # Errors
    /// The refusal.
    pub fn decide<C: Caller>(
        &self,
        secret: &Secret,
        action: Action,
        purpose: Purpose,
        labels: &[Label],
        caller: &mut C,
    ) -> Result<Grant, Refusal> {
        let layers = Layers {
            administration: self.vault.administration(),
            secret: secret.policy.as_deref(),
        };
        let request = policy::Request {
            action,
            purpose,
            secret: secret.meta.id,
            name: &secret.meta.name,
            labels,
        };
        match policy::decide(&layers, &request, caller) {
            Decision::Allow(grant) => Ok(grant),
            Decision::Deny(refusal) => Err(refusal),
        }
    }

    /// As [`Access::decide`], for a name that is not there: the built-in layer alone. A refusal is recorded.
    ///
    /// # Errors
    /// The refusal.
    pub fn decide_new<C: Caller>(
        &self,
        name: &SecretName,
        action: Action,
        caller: &mut C,
    ) -> Result<Grant, Refusal> {
        let layers = Layers {
            administration: self.vault.administration(),
            secret: None,
        };
        let request = policy::Request {
            action,
            purpose: Purpose::Administer,
            secret: SecretId(0),
            name,
            labels: &[],
        };
        let refusal = match policy::decide(&layers, &request, caller) {
            Decision::Allow(grant) => return Ok(grant),
            Decision::Deny(refusal) => refusal,
        };
        let record = Record {
            event: Event::CreateSecret,
            outcome: Outcome::Denied {
                reason: refusal.reason.code(),
            },
            secret: Some(name.as_str()),
            layer: Some(refusal.basis.layer.code()),
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        if let Err(e) = self.vault.log().refuse(&record) {
            tracing::error!("a refusal could not be recorded: {e}");
        }
        Err(refusal)
    }

    /// Whether root, as a caller like any other, may read the current value.
    pub fn root_may_read(&self, secret: &Secret) -> bool {
        let labels = [Label::current()];
        let layers = Layers {
            administration: self.vault.administration(),
            secret: secret.policy.as_deref(),
        };
        let (action, purpose) = (Action::GetSecretValue, Purpose::Read);
        let request = policy::Request {
            action,
            purpose,
            secret: secret.meta.id,
            name: &secret.meta.name,
            labels: &labels,
        };
        matches!(
            policy::decide(&layers, &request, &mut KnownCaller::root()),
            Decision::Allow(_)
        )
    }

    /// Records a refusal that was made elsewhere for a reason of its own (a page-cache fill).
    pub fn refuse<C: Caller>(
        &self,
        secret: &Secret,
        refusal: Refusal,
        event: Event,
        caller: &mut C,
    ) -> AccessError {
        let statement = statement(secret, refusal.basis);
        let record = Record {
            event,
            outcome: Outcome::Denied {
                reason: refusal.reason.code(),
            },
            secret: Some(secret.meta.name.as_str()),
            layer: Some(refusal.basis.layer.code()),
            statement: statement.as_deref(),
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        if let Err(e) = self.vault.log().refuse(&record) {
            tracing::error!("a refusal could not be recorded: {e}");
        }
        match (refusal.reason, secret.meta.visibility) {
            (Reason::ImplicitDeny | Reason::ExplicitDeny | Reason::NoPid, Visibility::Hidden) => {
                AccessError::Hidden(refusal)
            }
            _ => AccessError::Denied(refusal),
        }
    }

    fn find<'s, C: Caller>(
        &self,
        state: &'s State,
        pin: &Pin,
        caller: &mut C,
    ) -> Result<&'s Secret, AccessError> {
        let secret = state.secrets.by_id(pin.secret).ok_or(AccessError::Revoked)?;
        self.sound(secret, caller)?;
        if !secret.versions.contains_key(&pin.version.meta.no) {
            let refusal = Refusal {
                reason: Reason::Revoked,
                basis: Basis::DEFAULT,
            };
            let _ = self.refuse(secret, refusal, Event::GetSecretValue, caller);
            return Err(AccessError::Revoked);
        }
        Ok(secret)
    }

    fn decide_read<C: Caller>(
        &self,
        secret: &Secret,
        pin: &Pin,
        caller: &mut C,
    ) -> Result<Grant, AccessError> {
        let grant = match caller.identify() {
            Err(Reason::NoPid) if self.serve_unidentified => None,
            Err(reason) => Some(Err(Refusal {
                reason,
                basis: Basis::DEFAULT,
            })),
            Ok(()) => None,
        };
        let grant = grant.unwrap_or_else(|| {
            self.decide(secret, Action::GetSecretValue, Purpose::Read, &pin.labels, caller)
        });
        self.granted(secret, grant, Event::GetSecretValue, caller)
    }

    fn granted<C: Caller>(
        &self,
        secret: &Secret,
        grant: Result<Grant, Refusal>,
        event: Event,
        caller: &mut C,
    ) -> Result<Grant, AccessError> {
        grant.map_err(|refusal| self.refuse(secret, refusal, event, caller))
    }

    /// Unsealing needs the grant, and one for reading.
    fn unseal<C: Caller>(
        &self,
        grant: &Grant,
        secret: &Secret,
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
            Err(e) if e.exit() == crate::problem::Exit::Integrity => {
                Err(self.broken(secret, e.to_string(), caller))
            }
            Err(e) => Err(AccessError::Unavailable(e)),
        }
    }

    fn record_read<C: Caller>(
        &self,
        grant: &Grant,
        secret: &Secret,
        pin: &Pin,
        range: &std::ops::Range<usize>,
        caller: &mut C,
    ) -> Result<Receipt, AccessError> {
        let statement = statement(secret, grant.basis());
        let detail = pin.detail(caller.key());
        let record = Record {
            event: Event::GetSecretValue,
            outcome: Outcome::Allowed,
            secret: Some(secret.meta.name.as_str()),
            version: Some(pin.version.meta.id.as_str()),
            handle: Some(pin.handle).filter(|h| *h != 0),
            offset: Some(range.start as u64),
            length: Some(range.len() as u64),
            layer: Some(grant.basis().layer.code()),
            statement: statement.as_deref(),
            via: caller.door(),
            identity: detail,
            who: caller.who(detail),
            ..Record::default()
        };
        Ok(self.vault.log().append(&record)?)
    }

    fn sound<C: Caller>(&self, secret: &Secret, caller: &mut C) -> Result<(), AccessError> {
        match &secret.broken {
            None if secret.is_active() => Ok(()),
            None => Err(AccessError::Revoked),
            Some(why) => Err(self.broken(secret, why.clone(), caller)),
        }
    }

    fn broken<C: Caller>(&self, secret: &Secret, why: String, caller: &mut C) -> AccessError {
        let record = Record {
            event: Event::IntegrityError,
            outcome: Outcome::Failed { reason: "integrity" },
            secret: Some(secret.meta.name.as_str()),
            message: Some(&why),
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        if let Err(e) = self.vault.log().refuse(&record) {
            tracing::error!("an integrity error could not be recorded: {e}");
        }
        AccessError::Integrity(why)
    }
}

/// The name of the statement that decided, for records and words.
pub fn statement(secret: &Secret, basis: Basis) -> Option<std::borrow::Cow<'_, str>> {
    Some(secret.policy.as_deref()?.statement_id(basis.statement?))
}
