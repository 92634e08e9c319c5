//! What the log is told: reads, refusals, and what is broken.

use super::{Access, AccessError, Asked, Caller, Pin, Remembered};
use crate::audit::{Event, Identity, Outcome, Receipt, Record, Refused};
use crate::id::Uid;
use crate::policy::{Action, Basis, Grant, Layer, Purpose, Reason, Refusal};
use crate::vault::{Version, View, Visibility};

impl Access {
    /// Records a refusal that was made elsewhere for a reason of its own (a page-cache fill).
    pub fn refuse<C: Caller>(
        &self,
        secret: View<'_>,
        refusal: Refusal,
        event: Event,
        caller: &mut C,
    ) -> AccessError {
        let statement = self.layers_of(secret).statement_id(refusal.basis);
        let record = Record {
            event,
            outcome: Outcome::Denied {
                reason: refusal.reason.code(),
            },
            secret: Some(secret.meta.name.as_str()),
            layer: Some(refusal.basis.layer.code()),
            statement,
            ..Record::default()
        };
        self.tell(record, caller);
        match secret.meta.visibility {
            Visibility::Hidden => AccessError::Hidden(refusal),
            Visibility::Listed => AccessError::Denied(refusal),
        }
    }

    pub(super) fn record_read<C: Caller>(
        &self,
        grant: &Grant,
        secret: View<'_>,
        pin: &Pin,
        range: &std::ops::Range<usize>,
        caller: &mut C,
    ) -> Result<Receipt, AccessError> {
        let statement = self.layers_of(secret).statement_id(grant.basis());
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
    pub(super) fn revoked<C: Caller>(&self, version: &Version, caller: &mut C) -> AccessError {
        let record = Record {
            event: Event::GetSecretValue,
            outcome: Outcome::Denied {
                reason: Reason::Revoked.code(),
            },
            secret: Some(version.meta.name.as_str()),
            version: Some(version.meta.id.as_str()),
            layer: Some(Basis::DEFAULT.layer.code()),
            ..Record::default()
        };
        self.tell(record, caller);
        AccessError::Revoked
    }

    /// The last refusal of a uid about a secret, if it was lately and since service began.
    pub fn last_refusal(&self, uid: Uid, secret: &str) -> Option<Remembered> {
        self.recent.of(uid, secret)
    }

    /// Records what gave nothing, about a secret that is there.
    pub(super) fn tell<C: Caller>(&self, record: Record<'_>, caller: &mut C) {
        self.tell_as(record, record.secret, caller);
    }

    /// The same, where the name may be one that the caller invented: `known` is the secret if it is there. Who asked is
    /// looked at only if there is room for the record, and a refusal that cannot be recorded is a refusal all the same.
    pub(super) fn tell_as<C: Caller>(&self, record: Record<'_>, known: Option<&str>, caller: &mut C) {
        let (Outcome::Denied { reason } | Outcome::Failed { reason }) = record.outcome else {
            return;
        };
        let record = Record {
            via: caller.door(),
            ..record
        };
        // A question about a decision is none that anybody asks `why` of.
        if record.event != Event::ExplainDecision {
            self.recent.note(caller.uid(), &record);
        }
        let refused = Refused {
            uid: caller.uid().0,
            event: record.event,
            secret: known,
            reason,
        };
        let (log, tid) = (self.vault.log(), caller.thread());
        let looks_up = record.event == Event::LookupSecret;
        if looks_up && log.is_asked_again(&refused, tid) {
            return;
        }
        let Some(admitted) = log.admit(&refused) else {
            return;
        };
        let record = Record {
            who: caller.who(Identity::Full),
            ..record
        };
        let recorded = match looks_up {
            true => admitted.hold(&record, tid),
            false => admitted.write(&record),
        };
        if let Err(e) = recorded {
            tracing::error!("a refusal could not be recorded: {e}");
        }
    }

    pub(super) fn sound<C: Caller>(&self, secret: View<'_>, caller: &mut C) -> Result<(), AccessError> {
        match &secret.broken {
            None if secret.is_active() => Ok(()),
            None => Err(AccessError::Revoked),
            Some(why) => Err(self.broken(secret, why.to_string(), caller)),
        }
    }

    /// Records that a secret is damaged. Who may not know of it is told what he is told of one that is not there.
    pub(super) fn broken<C: Caller>(&self, secret: View<'_>, why: String, caller: &mut C) -> AccessError {
        let record = Record {
            event: Event::IntegrityError,
            outcome: Outcome::Failed { reason: "integrity" },
            secret: Some(secret.meta.name.as_str()),
            message: Some(&why),
            ..Record::default()
        };
        self.tell(record, caller);
        match self.may_know_of_damage(secret, caller) {
            true => AccessError::Integrity(why),
            false => AccessError::NotFound,
        }
    }

    /// Whether the caller may be told that a secret is damaged. Of a hidden one only who may see it; where its record
    /// cannot be believed, what it hides and from whom is not known, and only administration sees it.
    pub fn may_know_of_damage<C: Caller>(&self, secret: View<'_>, caller: &mut C) -> bool {
        if secret.meta.visibility == Visibility::Listed || caller.uid() == self.vault.administration().owner {
            return true;
        }
        if secret.broken.is_none() {
            return self.peek(secret, caller).is_ok();
        }
        let (action, purpose) = (Action::DescribeSecret, Purpose::Describe);
        self.decide(secret, action, purpose, Asked::secret(), caller)
            .is_ok_and(|grant| grant.basis().layer == Layer::Administration)
    }
}
