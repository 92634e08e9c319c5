//! What a decision may ask: about the caller, and about the request.

use std::collections::BTreeMap;

use super::action::{Action, Purpose};
use super::resource::Subject;
use crate::clock::Timestamp;
use crate::id::{Gid, Label, SecretId, SecretName, Uid, VersionId};

/// What is known of the caller. The costly facts are asked for only if the outcome depends on them; one may be
/// asked for more than once in a decision, so an implementation keeps its first answer.
pub trait Facts {
    /// Whether it is one caller who asks, or any of a kind.
    fn breadth(&self) -> Breadth {
        Breadth::One
    }
    /// The kernel's word.
    fn uid(&self) -> Uid;
    /// The kernel's word.
    fn gid(&self) -> Gid;
    /// The supplementary groups; `None` if they cannot be had.
    fn groups(&mut self) -> Option<&[Gid]>;
    /// Whom else he may be: those to whom his uid is lent. An Allow never counts it; a Deny does, and so does whatever
    /// rests on his not being somebody. `None` if it cannot be known.
    fn other_uids(&mut self) -> Option<&[Uid]> {
        Some(&[])
    }
    /// Groups that he may have dropped, as [`Facts::other_uids`] counts.
    fn other_groups(&mut self) -> Option<&[Gid]> {
        Some(&[])
    }
    /// The systemd unit: `None` if it cannot be had, `Some(None)` outside of any.
    fn unit(&mut self) -> Option<Option<&str>>;
    /// The part of wardfs that asks, such as `wardfs-rotator`.
    fn service(&self) -> Option<&str>;
    /// The state of the process; `None` if it cannot be had.
    fn process(&mut self) -> Option<ProcessState>;
    /// The time of the request.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    /// What a simulation gives besides. A real caller has nothing of it.
    fn given(&self) -> Option<&Given> {
        None
    }
}

/// Of how many callers facts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breadth {
    /// Of one.
    One,
    /// Of all of a kind, who have in common what the facts say; what they do not say differs, ids included.
    Kind,
}

/// What can be seen of a process beside its ids. Hardening, and no boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessState {
    /// Whether `no_new_privs` is set (prctl(2)).
    pub no_new_privs: bool,
    /// Whether another process traces it (ptrace(2)).
    pub traced: bool,
    /// The uid that logged in, if one did.
    pub login_uid: Option<u32>,
}

/// What a simulation gives of a caller and a request that are not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// The caller's name.
    pub username: Option<String>,
    /// Tags of the caller.
    pub principal_tags: BTreeMap<String, String>,
    /// Values of keys that mean nothing on this machine, by the key in lower case.
    pub context: BTreeMap<String, Vec<String>>,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The action.
    pub action: Action,
    /// What the grant is for; it has to fit the action ([`Purpose::covers`]).
    pub purpose: Purpose,
    /// The secret; 0 if it is not there yet, or none is meant.
    pub secret: SecretId,
    /// Its name, which has to be the one that its policy was compiled for. `None` for what is about no secret.
    pub name: Option<&'a SecretName>,
    /// The ARN that it has elsewhere, if one is on record.
    pub arn: Option<&'a str>,
    /// Its tags.
    pub tags: &'a BTreeMap<String, String>,
    /// The version that is asked for, if one is meant.
    pub version: Option<&'a VersionId>,
    /// The labels of the version that is asked for; empty if no version is meant or it has none.
    pub labels: &'a [Label],
    /// The tags that the request sets.
    pub request_tags: &'a BTreeMap<String, String>,
    /// The keys of tags that the request removes.
    pub untag: &'a [String],
}

/// No tags.
pub static NO_TAGS: BTreeMap<String, String> = BTreeMap::new();

impl<'a> Request<'a> {
    /// About a secret, without a version or tags.
    pub fn new(action: Action, purpose: Purpose, secret: SecretId, name: &'a SecretName) -> Self {
        Request {
            name: Some(name),
            secret,
            ..Self::of_layers(action, purpose)
        }
    }

    /// About the layers of policy, and so about no secret.
    pub fn of_layers(action: Action, purpose: Purpose) -> Self {
        Request {
            action,
            purpose,
            secret: SecretId(0),
            name: None,
            arn: None,
            tags: &NO_TAGS,
            version: None,
            labels: &[],
            request_tags: &NO_TAGS,
            untag: &[],
        }
    }

    pub(super) fn subject(&self) -> Subject<'a> {
        Subject {
            name: self.name,
            arn: self.arn,
        }
    }
}
