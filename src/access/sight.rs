//! What one caller sees of a directory: who may read or describe nothing in it cannot open it, and a listing costs what
//! it shows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::{Access, Asked, Caller};
use crate::audit::{Event, Outcome, Record};
use crate::policy::{Action, Basis, Claim, Elsewhere, Purpose, Reason, Refusal, Scope, elsewhere};
use crate::store::snapshot::{Child, DirId, Found, Place};
use crate::vault::{PolicyNo, Secret, State};

/// Whether secrets are looked for, or the directories of their versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The secrets' values: who may read the current one, or describe the secret.
    Values,
    /// `.versions`: who may read any of them besides.
    Versions,
}

/// What a caller sees, in one state and one request: what was answered once for a policy is not asked again.
pub struct Sight<'a, C> {
    access: &'a Access,
    state: &'a State,
    side: Side,
    caller: &'a mut C,
    answers: FxHashMap<PolicyNo, bool>,
    candidates: Option<Candidates>,
}

/// The policies of the secrets that the caller could see.
enum Candidates {
    Some(Vec<PolicyNo>),
    /// Any, or so many that it is better to look at the secrets themselves.
    Any,
}

/// So many policies are looked up in each directory before its secrets are asked one by one.
const FEW: usize = if cfg!(test) { 4 } else { 1024 };
/// So many entries are found together.
const TOGETHER: usize = if cfg!(test) { 3 } else { 32 };
/// So many are followed side by side through a listing.
const ABREAST: usize = if cfg!(test) { 2 } else { 64 };

impl<'a, C: Caller> Sight<'a, C> {
    /// For one request of `caller`.
    pub fn new(access: &'a Access, state: &'a State, side: Side, caller: &'a mut C) -> Self {
        Sight {
            access,
            state,
            side,
            caller,
            answers: FxHashMap::default(),
            candidates: None,
        }
    }

    /// Whether a secret is there for the caller. Nothing is recorded.
    pub fn sees(&mut self, secret: &Secret) -> bool {
        if !secret.is_active() || secret.broken.is_some() {
            return false;
        }
        let policy = self.state.reach.policy_of(secret).filter(|p| self.is_shared(*p));
        if let Some(known) = policy.and_then(|p| self.answers.get(&p)) {
            return *known;
        }
        let sees = self.asks(secret, policy.is_some());
        if let Some(policy) = policy {
            self.answers.insert(policy, sees);
        }
        sees
    }

    /// Whether he sees anything in a directory or below it.
    pub fn sees_below(&mut self, dir: DirId) -> bool {
        let state = self.state;
        let policies = match self.candidates() {
            Candidates::Some(policies) => std::mem::take(policies),
            Candidates::Any => return self.sees_any(&mut secrets(state, dir, None)),
        };
        let mut his = policies.iter();
        let sees = his.any(|policy| self.sees_any(&mut secrets(state, dir, Some(*policy))));
        self.candidates = Some(Candidates::Some(policies));
        sees
    }

    fn sees_any(&mut self, secrets: &mut dyn Iterator<Item = (&Secret, Option<PolicyNo>)>) -> bool {
        for (secret, of) in secrets {
            if self.sees(secret) {
                return true;
            }
            if of.is_some_and(|policy| self.answers.get(&policy) == Some(&false)) {
                return false;
            }
        }
        false
    }

    /// Shows the entries of a directory behind a place, in the order of their places, until `show` has enough.
    pub fn list(&mut self, dir: DirId, after: Place, show: &mut dyn FnMut(Child<'_, Secret>) -> Enough) {
        let state = self.state;
        let policies = match self.candidates() {
            Candidates::Some(policies) if policies.len() <= ABREAST => policies.clone(),
            _ => {
                for child in state.secrets.children(dir, after) {
                    if self.sees_child(&child) && show(child) == Enough::Yes {
                        return;
                    }
                }
                return;
            }
        };
        let behind = |policy| state.reach.places(policy, dir, after);
        let mut rest: Vec<_> = policies.iter().map(|p| (*p, behind(*p))).collect();
        // The nearest place of each policy; several have one where a directory holds secrets of several.
        let mut next: BinaryHeap<_> = (0..rest.len())
            .filter_map(|i| Some(Reverse((rest[i].1.next()?, i))))
            .collect();
        let (mut last, mut walk) = (after, state.secrets.walk(dir, after));
        let mut some = Vec::with_capacity(TOGETHER);
        loop {
            some.clear();
            while some.len() < TOGETHER
                && let Some(Reverse((place, i))) = next.pop()
            {
                let (policy, places) = &mut rest[i];
                if self.answers.get(policy) == Some(&false) {
                    continue;
                }
                next.extend(places.next().map(|place| Reverse((place, i))));
                if place != last {
                    some.push(place);
                }
                last = place;
            }
            if some.is_empty() {
                return;
            }
            for child in walk.children(&some) {
                if self.sees_child(&child) && show(child) == Enough::Yes {
                    return;
                }
            }
        }
    }

    fn sees_child(&mut self, child: &Child<'_, Secret>) -> bool {
        match child.what {
            Found::Secret(secret) => self.sees(secret),
            Found::Directory(dir) => self.sees_below(dir),
        }
    }

    /// Whether the answer for one secret is that for all which have its policy.
    fn is_shared(&self, policy: PolicyNo) -> bool {
        let state = self.state;
        state.layers.shared().scope() == Scope::EverySecret && state.reach.scope(policy) == Scope::EverySecret
    }

    fn asks(&mut self, secret: &Secret, shared: bool) -> bool {
        let read = (Action::GetSecretValue, Purpose::Read);
        let current = Asked {
            version: secret.current().map(|v| &v.meta.id),
            labels: &secret.current_labels,
            ..Asked::secret()
        };
        let describe = (Action::DescribeSecret, Purpose::Describe);
        self.may(secret, read, current)
            || self.may(secret, describe, Asked::secret())
            || self.side == Side::Versions
                && !shared
                && secret.versions.values().any(|version| {
                    let labels: Vec<_> = secret.labels_of(version.meta.no).cloned().collect();
                    self.may(secret, read, Asked::version(version, &labels))
                })
    }

    fn may(&mut self, secret: &Secret, (action, purpose): (Action, Purpose), asked: Asked<'_>) -> bool {
        let decided = self
            .access
            .decide(self.state.view(secret), action, purpose, asked, self.caller);
        decided.is_ok()
    }

    fn candidates(&mut self) -> &mut Candidates {
        let found = match self.candidates.take() {
            Some(known) => known,
            None => self.find_candidates(),
        };
        self.candidates.insert(found)
    }

    fn find_candidates(&mut self) -> Candidates {
        let reach = &self.state.reach;
        let layers = self.access.layers(self.state, None);
        if elsewhere(&layers, self.caller) == Elsewhere::Perhaps {
            return match reach.policies() {
                all if all.len() <= ABREAST => Candidates::Some(all.collect()),
                _ => Candidates::Any,
            };
        }
        let mut found = Vec::new();
        let mut add = |claim| found.extend(reach.claimed(&claim).take(FEW + 1));
        add(Claim::Anyone);
        add(Claim::Uid(self.caller.uid().0));
        let gid = self.caller.gid();
        add(Claim::Gid(gid.0));
        if reach.has_claims(Claim::Gid(0)..Claim::Unit("".into())) {
            let others = self.caller.groups().unwrap_or_default().iter();
            others.filter(|g| **g != gid).for_each(|g| add(Claim::Gid(g.0)));
        }
        if reach.has_claims(Claim::Unit("".into())..Claim::Service("".into()))
            && let Some(Some(unit)) = self.caller.unit()
        {
            add(Claim::Unit(unit.into()));
        }
        if let Some(service) = self.caller.service() {
            add(Claim::Service(service.into()));
        }
        found.sort_unstable();
        found.dedup();
        match found.len() <= FEW {
            true => Candidates::Some(found),
            false => Candidates::Any,
        }
    }
}

/// Whether a listing has what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enough {
    /// It goes on.
    No,
    /// What was shown last, or was too much, ends it.
    Yes,
}

/// The secrets in a directory and below it; those of one policy, if one is given.
fn secrets(
    state: &State,
    dir: DirId,
    policy: Option<PolicyNo>,
) -> impl Iterator<Item = (&Secret, Option<PolicyNo>)> {
    let entries = move |dir| -> Box<dyn Iterator<Item = Child<'_, Secret>>> {
        match policy {
            None => Box::new(state.secrets.children(dir, Place::START)),
            Some(policy) => Box::new(
                (state.reach.places(policy, dir, Place::START))
                    .filter_map(move |place| state.secrets.child(dir, place)),
            ),
        }
    };
    let mut open = vec![entries(dir)];
    std::iter::from_fn(move || {
        loop {
            match open.last_mut()?.next().map(|child| child.what) {
                None => drop(open.pop()),
                Some(Found::Secret(secret)) => return Some((&**secret, policy)),
                Some(Found::Directory(dir)) => open.push(entries(dir)),
            }
        }
    })
}

impl Access {
    /// Whether the caller is the store's owner, or of the group that administers it.
    pub fn administers<C: Caller>(&self, caller: &mut C) -> bool {
        let administration = self.vault().administration();
        caller.uid() == administration.owner
            || administration.group.is_some_and(|group| {
                caller.gid() == group || caller.groups().is_some_and(|all| all.contains(&group))
            })
    }

    /// Records that somebody who sees nothing in a directory may not list it.
    pub fn refuse_listing<C: Caller>(&self, caller: &mut C) -> Refusal {
        self.refuse_outright(Event::ListSecrets, caller)
    }

    /// Records that what no policy can allow, and what is about no secret, was refused.
    pub fn refuse_outright<C: Caller>(&self, event: Event, caller: &mut C) -> Refusal {
        let refusal = Refusal {
            reason: Reason::ImplicitDeny,
            basis: Basis::DEFAULT,
        };
        let record = Record {
            event,
            outcome: Outcome::Denied {
                reason: refusal.reason.code(),
            },
            layer: Some(refusal.basis.layer.code()),
            ..Record::default()
        };
        self.tell(record, caller);
        refusal
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
#[path = "sight_tests.rs"]
mod tests;
