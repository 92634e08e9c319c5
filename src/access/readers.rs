//! Who may read a secret, by all layers: what every answer to that question is made of.

use std::cell::RefCell;
use std::hash::Hash;

use rustc_hash::FxHashMap;

use super::{Access, KnownCaller, request};
use crate::id::{Gid, Label, SecretId, SecretName, Uid};
use crate::policy::{
    self, Action, Claim, Compiled, Directory, Documents, Effect, Facts, People, PolicyRecord, Purpose,
    Reading, Scope, Standing,
};
use crate::vault::{PolicyNo, Secret, State};

use super::Asked;

/// The accounts of this machine, each looked up once. For one question: what was found is kept as long as this is.
pub struct Faces<'d> {
    directory: &'d dyn Directory,
    users: Memo<Uid, Option<String>>,
    groups: Memo<Gid, Option<String>>,
    members: Memo<Uid, Vec<Gid>>,
    uids: Memo<String, Option<Uid>>,
    gids: Memo<String, Option<Gid>>,
}

type Memo<K, V> = RefCell<FxHashMap<K, V>>;

fn memo<K: Eq + Hash + Clone, V: Clone>(memo: &Memo<K, V>, key: &K, find: impl FnOnce() -> V) -> V {
    if let Some(known) = memo.borrow().get(key) {
        return known.clone();
    }
    let found = find();
    memo.borrow_mut().insert(key.clone(), found.clone());
    found
}

impl<'d> Faces<'d> {
    /// Over a directory.
    pub fn new(directory: &'d dyn Directory) -> Self {
        Faces {
            directory,
            users: Memo::default(),
            groups: Memo::default(),
            members: Memo::default(),
            uids: Memo::default(),
            gids: Memo::default(),
        }
    }
}

impl People for Faces<'_> {
    fn user(&self, uid: Uid) -> Option<String> {
        memo(&self.users, &uid, || self.directory.user_name(uid))
    }
    fn group(&self, gid: Gid) -> Option<String> {
        memo(&self.groups, &gid, || self.directory.group_name(gid))
    }
    fn uid_of(&self, name: &str) -> Option<Uid> {
        memo(&self.uids, &name.to_string(), || self.directory.uid_of(name))
    }
    fn gid_of(&self, name: &str) -> Option<Gid> {
        memo(&self.gids, &name.to_string(), || self.directory.gid_of(name))
    }
    fn groups(&self, uid: Uid) -> Vec<Gid> {
        memo(&self.members, &uid, || self.directory.groups_of(uid))
    }
    fn caller(&self, uid: Uid) -> Box<dyn Facts + '_> {
        let groups = self.groups(uid);
        let gid = groups.first().copied().unwrap_or(Gid(uid.0));
        let mut caller = KnownCaller::supposed(uid, gid, groups);
        (caller.unit, caller.process) = (None, None);
        Box::new(caller)
    }
}

/// Who may read the secrets of one state; what was answered for a policy is not asked again.
pub struct Readership<'a> {
    access: &'a Access,
    state: &'a State,
    people: &'a dyn People,
    known: FxHashMap<PolicyNo, Vec<Reading>>,
}

impl<'a> Readership<'a> {
    /// For one question.
    pub fn new(access: &'a Access, state: &'a State, people: &'a dyn People) -> Self {
        Readership {
            access,
            state,
            people,
            known: FxHashMap::default(),
        }
    }

    /// Of the current value, as it would be read now.
    pub fn of(&mut self, secret: &Secret) -> Vec<Reading> {
        let reach = &self.state.reach;
        let shared = |p: &PolicyNo| {
            self.state.layers.shared().scope() == Scope::EverySecret && reach.scope(*p) == Scope::EverySecret
        };
        let policy = reach.policy_of(secret).filter(shared);
        if let Some(known) = policy.and_then(|p| self.known.get(&p)) {
            return known.clone();
        }
        let found = self.access.readers(self.state, secret, self.people);
        if let Some(policy) = policy {
            self.known.insert(policy, found.clone());
        }
        found
    }
}

impl Access {
    /// Who may read the current value of a secret, by all layers.
    pub fn readers(&self, state: &State, secret: &Secret, people: &dyn People) -> Vec<Reading> {
        let policy = secret.policy.as_ref().zip(secret.meta.policy.as_deref());
        self.readers_as(state, (Some(secret), &secret.meta.name), policy, people)
    }

    /// Who might read it, had it this policy. The secret need not be there.
    pub fn readers_as(
        &self,
        state: &State,
        secret: (Option<&Secret>, &SecretName),
        policy: Option<(&Compiled, &PolicyRecord)>,
        people: &dyn People,
    ) -> Vec<Reading> {
        self.with_policy(state, secret, policy, &|(layers, request, documents)| {
            policy::readers(layers, request, documents, people)
        })
    }

    /// The statements of any layer that allow (or deny) somebody to read it, had it this policy.
    pub fn standing_by(
        &self,
        state: &State,
        secret: (Option<&Secret>, &SecretName),
        policy: Option<(&Compiled, &PolicyRecord)>,
        who: (&Claim, Effect),
        people: &dyn People,
    ) -> Vec<Standing> {
        self.with_policy(state, secret, policy, &|(layers, request, documents)| {
            policy::standing(layers, request, documents, people, who)
        })
    }

    fn with_policy<T>(
        &self,
        state: &State,
        (secret, name): (Option<&Secret>, &SecretName),
        policy: Option<(&Compiled, &PolicyRecord)>,
        ask: &dyn Fn(Inquiry<'_>) -> T,
    ) -> T {
        let current = [Label::current()];
        let (action, purpose) = (Action::GetSecretValue, Purpose::Read);
        let request = match secret {
            Some(secret) => {
                let version = secret.current();
                let labels = match version {
                    Some(_) => &*secret.current_labels,
                    // The next one to be put.
                    None => &current,
                };
                let asked = Asked {
                    version: version.map(|v| &v.meta.id),
                    labels,
                    ..Asked::secret()
                };
                request(secret, action, purpose, asked)
            }
            None => policy::Request {
                labels: &current,
                ..policy::Request::new(action, purpose, SecretId(0), name)
            },
        };
        let layers = policy::Layers {
            secret: policy.map(|(compiled, _)| compiled),
            ..self.layers(state, None)
        };
        let documents = || {
            Documents::new(
                policy.map(|(_, record)| record),
                state.layers.guardrails().map(|(_, r)| r),
                state.layers.identities().map(|(_, r)| r),
            )
        };
        ask((&layers, &request, &documents))
    }
}

type Inquiry<'i> = (
    &'i policy::Layers<'i>,
    &'i policy::Request<'i>,
    &'i dyn Fn() -> Documents,
);
