//! What may be asked of a secret, and what a decision is for.

use std::fmt;
use std::str::FromStr;

/// The prefix of AWS's actions in a document.
pub(super) const PREFIX: &str = "secretsmanager:";
/// The prefix of the actions that AWS has not.
pub(super) const OWN_PREFIX: &str = "wardfs:";

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// An action: on a secret, under the names of AWS Secrets Manager, on the layers of policy, or on the log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Action { $($(#[$doc])* $name),+ }

        impl Action {
            /// Every action, in the order of the type.
            pub const ALL: &'static [Action] = &[$(Action::$name),+];

            /// The name without prefix, as in `GetSecretValue`.
            pub fn name(self) -> &'static str {
                match self { $(Action::$name => stringify!($name)),+ }
            }
        }
    };
}

actions! {
    /// Read a value.
    GetSecretValue,
    /// Read many values in one call.
    BatchGetSecretValue,
    /// See that a secret exists, and its metadata.
    DescribeSecret,
    /// See names in a listing.
    ListSecrets,
    /// See a secret's versions.
    ListSecretVersionIds,
    /// Make a secret.
    CreateSecret,
    /// Store a new version.
    PutSecretValue,
    /// Change description, key, owner, visibility.
    UpdateSecret,
    /// Move labels between versions.
    UpdateSecretVersionStage,
    /// Delete a secret.
    DeleteSecret,
    /// Bring back a secret that is scheduled for deletion.
    RestoreSecret,
    /// Rotate.
    RotateSecret,
    /// Stop rotating.
    CancelRotateSecret,
    /// See the policy.
    GetResourcePolicy,
    /// Set the policy.
    PutResourcePolicy,
    /// Remove the policy.
    DeleteResourcePolicy,
    /// Check a policy without setting it.
    ValidateResourcePolicy,
    /// Add or change tags.
    TagResource,
    /// Remove tags.
    UntagResource,
    /// Make a random password.
    GetRandomPassword,
    /// Replicate to other regions.
    ReplicateSecretToRegions,
    /// Remove replicas.
    RemoveRegionsFromReplication,
    /// Make a replica a secret of its own.
    StopReplicationToReplica,
    /// See the guardrails.
    GetGuardrail,
    /// Set a guardrail.
    PutGuardrail,
    /// Remove a guardrail.
    DeleteGuardrail,
    /// See the identity policies.
    GetIdentityPolicy,
    /// Set the policy of an identity.
    PutIdentityPolicy,
    /// Remove the policy of an identity.
    DeleteIdentityPolicy,
    /// Put what the configuration's file says in force.
    AcceptConfig,
    /// Ask the log, follow it, and verify it.
    QueryLog,
    /// Remove what of the log was archived.
    ArchiveLog,
}

impl Action {
    /// Whether it is about the layers of policy or the log, and so about no secret.
    pub fn is_of_layers(self) -> bool {
        use Action::*;
        matches!(
            self,
            GetGuardrail
                | PutGuardrail
                | DeleteGuardrail
                | GetIdentityPolicy
                | PutIdentityPolicy
                | DeleteIdentityPolicy
                | AcceptConfig
                | QueryLog
                | ArchiveLog
        )
    }

    /// `secretsmanager:` or `wardfs:`.
    pub(super) fn prefix(self) -> &'static str {
        if self.is_of_layers() { OWN_PREFIX } else { PREFIX }
    }

    /// Whether the action hands out a value.
    pub fn reads_value(self) -> bool {
        matches!(self, Action::GetSecretValue | Action::BatchGetSecretValue)
    }
}

/// As in a document: `secretsmanager:GetSecretValue`.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix(), self.name())
    }
}

/// A name that is no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no action of a secret{}", hint(.nearest))]
pub struct UnknownAction {
    name: String,
    nearest: Option<String>,
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or_else(String::new, |n| format!("; did you mean {n:?}?"))
}

impl FromStr for Action {
    type Err = UnknownAction;

    /// Any case, with or without its prefix.
    fn from_str(s: &str) -> Result<Self, UnknownAction> {
        let (prefix, bare) = match split_prefix(s) {
            Some((prefix, bare)) => (Some(prefix), bare),
            None => (None, s),
        };
        Action::ALL
            .iter()
            .copied()
            .find(|a| a.name().eq_ignore_ascii_case(bare) && prefix.is_none_or(|p| a.prefix() == p))
            .ok_or_else(|| UnknownAction {
                name: s.into(),
                nearest: nearest(bare),
            })
    }
}

/// The prefix of `s`, in any case, and what follows; `None` without one of the two.
pub(super) fn split_prefix(s: &str) -> Option<(&'static str, &str)> {
    [PREFIX, OWN_PREFIX].into_iter().find_map(|prefix| {
        let (head, rest) = s.split_at_checked(prefix.len())?;
        head.eq_ignore_ascii_case(prefix).then_some((prefix, rest))
    })
}

/// The action whose name is most like `bare`, with its prefix.
pub(super) fn nearest(bare: &str) -> Option<String> {
    let name = super::diagnostic::nearest(bare, Action::ALL.iter().map(|a| a.name()))?;
    let action = Action::ALL.iter().find(|a| a.name() == name)?;
    Some(action.to_string())
}

/// A set of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub(super) struct ActionSet(u64);

impl ActionSet {
    pub const ALL: ActionSet = ActionSet((1 << Action::ALL.len()) - 1);

    pub fn contains(self, action: Action) -> bool {
        self.0 & (1 << action as u8) != 0
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub fn complement(self) -> ActionSet {
        ActionSet(!self.0 & Self::ALL.0)
    }
    pub fn union(self, other: ActionSet) -> ActionSet {
        ActionSet(self.0 | other.0)
    }
    pub fn without(self, other: ActionSet) -> ActionSet {
        ActionSet(self.0 & !other.0)
    }
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.iter().copied().filter(move |a| self.contains(*a))
    }
    pub fn is_superset(self, other: ActionSet) -> bool {
        self.0 & other.0 == other.0
    }
}

impl FromIterator<Action> for ActionSet {
    fn from_iter<I: IntoIterator<Item = Action>>(iter: I) -> Self {
        ActionSet(iter.into_iter().fold(0, |set, a| set | 1 << a as u8))
    }
}

/// What a [`Grant`](super::Grant) may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Hand the value to the caller.
    Read,
    /// Show metadata.
    Describe,
    /// Change something. Never a way to a value.
    Administer,
    /// Drive a rotation. Never a way to a value: rotators read like anyone.
    Rotate,
    /// Put the value into a rendered template for the caller.
    Render,
}

impl Purpose {
    /// Whether a grant of `action` may serve this purpose. Only the actions that read a value serve
    /// [`Read`](Purpose::Read) and [`Render`](Purpose::Render), and they serve nothing else, so that no other
    /// grant can ever unseal a value.
    pub fn covers(self, action: Action) -> bool {
        use Action::*;
        match self {
            Purpose::Read | Purpose::Render => action.reads_value(),
            Purpose::Describe => {
                matches!(
                    action,
                    DescribeSecret
                        | ListSecrets
                        | ListSecretVersionIds
                        | GetResourcePolicy
                        | GetGuardrail
                        | GetIdentityPolicy
                        | QueryLog
                )
            }
            Purpose::Rotate => {
                matches!(
                    action,
                    RotateSecret | CancelRotateSecret | PutSecretValue | UpdateSecretVersionStage
                )
            }
            Purpose::Administer => !action.reads_value(),
        }
    }
}
