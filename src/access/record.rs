//! What the log is told: reads, refusals, and what is broken.

use super::{Access, AccessError, Caller, Pin, Remembered};
use crate::audit::{Event, Identity, Outcome, Receipt, Record};
use crate::id::Uid;
use crate::policy::{Basis, Grant, Reason, Refusal};
use crate::vault::{Secret, Visibility};

impl Access {
    /// Records a refusal that was made elsewhere for a reason of its own (a page-cache fill).
    pub fn refuse<C: Caller>(
        &self,
        secret: &Secret,
        refusal: Refusal,
        event: Event,
        caller: &mut C,
    ) -> AccessError {
        let state = self.vault.peek();
        let statement = self.layers(&state, Some(secret)).statement_id(refusal.basis);
        let record = Record {
            event,
            outcome: Outcome::Denied {
                reason: refusal.reason.code(),
            },
            secret: Some(secret.meta.name.as_str()),
            layer: Some(refusal.basis.layer.code()),
            statement,
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        self.tell(&record);
        match secret.meta.visibility {
            Visibility::Hidden => AccessError::Hidden(refusal),
            Visibility::Listed => AccessError::Denied(refusal),
        }
    }

    pub(super) fn record_read<C: Caller>(
        &self,
        grant: &Grant,
        secret: &Secret,
        pin: &Pin,
        range: &std::ops::Range<usize>,
        caller: &mut C,
    ) -> Result<Receipt, AccessError> {
        let state = self.vault.peek();
        let statement = self.layers(&state, Some(secret)).statement_id(grant.basis());
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
            statement,
            via: caller.door(),
            identity: detail,
            who: caller.who(detail),
            ..Record::default()
        };
        Ok(self.vault.log().append(&record)?)
    }

    /// A read of what was deleted or destroyed after it was opened.
    pub(super) fn revoked<C: Caller>(&self, pin: &Pin, caller: &mut C) -> AccessError {
        let record = Record {
            event: Event::GetSecretValue,
            outcome: Outcome::Denied {
                reason: Reason::Revoked.code(),
            },
            secret: Some(pin.version.meta.name.as_str()),
            version: Some(pin.version.meta.id.as_str()),
            layer: Some(Basis::DEFAULT.layer.code()),
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        self.tell(&record);
        AccessError::Revoked
    }

    /// The last refusal of a uid about a secret, if it was lately and since service began.
    pub fn last_refusal(&self, uid: Uid, secret: &str) -> Option<Remembered> {
        self.recent.of(uid, secret)
    }

    /// A refusal that cannot be recorded is a refusal all the same.
    pub(super) fn tell(&self, record: &Record<'_>) {
        self.recent.note(record);
        if let Err(e) = self.vault.log().refuse(record) {
            tracing::error!("a refusal could not be recorded: {e}");
        }
    }

    pub(super) fn sound<C: Caller>(&self, secret: &Secret, caller: &mut C) -> Result<(), AccessError> {
        match &secret.broken {
            None if secret.is_active() => Ok(()),
            None => Err(AccessError::Revoked),
            Some(why) => Err(self.broken(secret, why.to_string(), caller)),
        }
    }

    pub(super) fn broken<C: Caller>(&self, secret: &Secret, why: String, caller: &mut C) -> AccessError {
        let record = Record {
            event: Event::IntegrityError,
            outcome: Outcome::Failed { reason: "integrity" },
            secret: Some(secret.meta.name.as_str()),
            message: Some(&why),
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        self.tell(&record);
        AccessError::Integrity(why)
    }
}
