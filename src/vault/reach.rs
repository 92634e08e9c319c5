//! Which secrets there are for whom, without asking each: names by the policy that they have in common, and policies by
//! the principals that they could allow. A listing costs what it shows, and what is not in here is seen by nobody whom
//! the built-in layer or an identity policy does not let see it.
//!
//! Beside it, when names came to a directory or went.

use crate::clock::Timestamp;
use crate::policy::{Claim, Compiled, Kept, Scope};
use crate::store::snapshot::{DirId, Item, Place, Snapshot};

use super::Secret;

/// A policy among those that secrets have; secrets without one have one in common too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyNo(u32);

/// A name of a directory at which, or below which, there is a secret with this policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    policy: PolicyNo,
    place: (DirId, Place),
}

#[derive(Clone)]
struct Policy {
    _kept: Option<Kept>,
    scope: Scope,
    secrets: u32,
}

/// When names came to a directory or went.
#[derive(Debug, Clone, Copy)]
struct Dated {
    /// Its names, secrets with values and directories that hold some.
    names: u32,
    changed: Timestamp,
}

/// The index. Secrets that are deleted or broken are not in it.
#[derive(Clone, Default)]
pub struct Reach {
    numbers: imbl::OrdMap<usize, PolicyNo>,
    policies: imbl::OrdMap<PolicyNo, Policy>,
    claims: imbl::OrdSet<(Claim, PolicyNo)>,
    /// With how many entries of a directory have the policy.
    names: imbl::OrdMap<At, u32>,
    directories: imbl::OrdMap<DirId, Dated>,
}

impl Reach {
    /// Of a store that is opened: what became of its names, as far as it can be told from those that are there.
    pub(super) fn of(secrets: &Snapshot<Secret>) -> Reach {
        let mut reach = Reach::default();
        let mut past: Vec<(Timestamp, &Secret, bool)> = Vec::with_capacity(secrets.len());
        for secret in secrets.all() {
            past.push((secret.meta.named(), secret, true));
            if !secret.is_active() {
                past.push((secret.meta.meta_changed, secret, false));
            }
        }
        past.sort_by_key(|(at, ..)| *at);
        for (at, secret, came) in past {
            match came {
                true => reach.came(secret.meta.name.as_str(), at),
                false => reach.went(secret.meta.name.as_str(), at),
            }
        }
        for secret in secrets.all() {
            reach.enter(secrets, secret);
        }
        reach
    }

    /// One secret is another than it was. `before` and `after` are what there was and is.
    pub(super) fn changed(
        &mut self,
        (before, old): (&Snapshot<Secret>, Option<&Secret>),
        (after, new): (&Snapshot<Secret>, Option<&Secret>),
        now: Timestamp,
    ) {
        let there = |secret: Option<&Secret>| secret.is_some_and(Secret::is_active);
        let name = |secret: Option<&Secret>| secret.map(|s| s.meta.name.clone());
        let same = name(old) == name(new);
        if let (Some(old), false) = (old, same && there(old) == there(new))
            && old.is_active()
        {
            self.went(old.meta.name.as_str(), new.map_or(now, |s| s.meta.meta_changed));
        }
        if let (Some(new), false) = (new, same && there(old) == there(new))
            && new.is_active()
        {
            self.came(new.meta.name.as_str(), new.meta.named());
        }
        let indexed = |secret: Option<&Secret>| secret.filter(|s| is_shown(s)).map(|s| (s.meta.id, key(s)));
        if same && indexed(old) == indexed(new) {
            return;
        }
        if let Some(old) = old {
            self.leave(before, old);
        }
        if let Some(new) = new {
            self.enter(after, new);
        }
    }

    /// The policy of a secret; none for one that is not shown to anybody.
    pub fn policy_of(&self, secret: &Secret) -> Option<PolicyNo> {
        self.numbers.get(&key(secret)).copied()
    }

    /// Whether a policy answers the same for all secrets that have it.
    pub fn scope(&self, policy: PolicyNo) -> Scope {
        self.policies.get(&policy).map_or(Scope::EachSecret, |p| p.scope)
    }

    /// All policies.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = PolicyNo> {
        self.policies.keys().copied()
    }

    /// The policies that could allow something to whoever has this claim.
    pub fn claimed(&self, claim: &Claim) -> impl Iterator<Item = PolicyNo> {
        let of_claim = (claim.clone(), PolicyNo(0))..=(claim.clone(), PolicyNo(u32::MAX));
        self.claims.range(of_claim).map(|(_, policy)| *policy)
    }

    /// Whether any policy has a claim between these.
    pub fn has_claims(&self, between: std::ops::Range<Claim>) -> bool {
        let all = (between.start, PolicyNo(0))..(between.end, PolicyNo(0));
        self.claims.range(all).next().is_some()
    }

    /// The entries of a directory, behind a place, at or below which there is a secret with this policy.
    pub fn places(&self, policy: PolicyNo, dir: DirId, after: Place) -> impl Iterator<Item = Place> {
        let at = |place| At {
            policy,
            place: (dir, place),
        };
        let behind = at(Place(after.0.saturating_add(1)))..=at(Place(u32::MAX));
        self.names.range(behind).map(|(at, _)| at.place.1)
    }

    /// When names came to a directory or went; `None` if it has none.
    pub fn directory_changed(&self, dir: DirId) -> Option<Timestamp> {
        self.directories.get(&dir).map(|d| d.changed)
    }

    fn enter(&mut self, secrets: &Snapshot<Secret>, secret: &Secret) {
        if !is_shown(secret) {
            return;
        }
        let policy = self.number(secret);
        if let Some(known) = self.policies.get_mut(&policy) {
            known.secrets += 1;
        }
        for place in places(secrets, secret) {
            let at = At { policy, place };
            if let Some(count) = self.names.get_mut(&at) {
                *count += 1;
                return;
            }
            self.names.insert(at, 1);
        }
    }

    fn leave(&mut self, secrets: &Snapshot<Secret>, secret: &Secret) {
        let Some(policy) = self.policy_of(secret).filter(|_| is_shown(secret)) else {
            return;
        };
        for place in places(secrets, secret) {
            let at = At { policy, place };
            match self.names.get_mut(&at) {
                Some(count) if *count > 1 => {
                    *count -= 1;
                    break;
                }
                _ => drop(self.names.remove(&at)),
            }
        }
        match self.policies.get_mut(&policy) {
            Some(known) if known.secrets > 1 => known.secrets -= 1,
            _ => {
                self.policies.remove(&policy);
                self.numbers.remove(&key(secret));
                for claim in claims(secret) {
                    self.claims.remove(&(claim, policy));
                }
            }
        }
    }

    fn number(&mut self, secret: &Secret) -> PolicyNo {
        if let Some(known) = self.policy_of(secret) {
            return known;
        }
        let last = self.policies.get_max().map_or(0, |(no, _)| no.0);
        let no = PolicyNo(last.wrapping_add(1));
        self.numbers.insert(key(secret), no);
        let known = Policy {
            _kept: secret.policy.as_ref().map(Compiled::keep),
            scope: secret.policy.as_ref().map_or(Scope::EverySecret, Compiled::scope),
            secrets: 0,
        };
        self.policies.insert(no, known);
        for claim in claims(secret) {
            self.claims.insert((claim, no));
        }
        no
    }

    fn came(&mut self, name: &str, at: Timestamp) {
        for dir in above(name) {
            let is_new = !self.directories.contains_key(&dir);
            let known = self.directories.entry(dir).or_insert(Dated {
                names: 0,
                changed: at,
            });
            known.names += 1;
            known.touch(at);
            if !is_new {
                return;
            }
        }
    }

    fn went(&mut self, name: &str, at: Timestamp) {
        let root = DirId::of("");
        for dir in above(name) {
            let Some(known) = self.directories.get_mut(&dir) else {
                return;
            };
            known.names = known.names.saturating_sub(1);
            known.touch(at);
            if known.names > 0 || dir == root {
                return;
            }
            self.directories.remove(&dir);
        }
    }
}

impl Dated {
    /// Never back, and each time on, whatever the clock says; but names that come in one moment are one change.
    fn touch(&mut self, at: Timestamp) {
        self.changed = match at < self.changed {
            true => Timestamp(self.changed.0 + 1),
            false => at,
        };
    }
}

/// Whether anybody is shown it at all.
fn is_shown(secret: &Secret) -> bool {
    secret.is_active() && secret.broken.is_none()
}

fn key(secret: &Secret) -> usize {
    secret.policy.as_ref().map_or(0, Compiled::number)
}

fn claims(secret: &Secret) -> Vec<Claim> {
    secret.policy.as_ref().map(Compiled::claims).unwrap_or_default()
}

/// The directories above a name, the nearest first.
fn above(name: &str) -> impl Iterator<Item = DirId> {
    paths(name).skip(1).map(DirId::of)
}

/// A name and the paths above it, down to the root's.
fn paths(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |path| match path.rsplit_once('/') {
        Some((dir, _)) => Some(dir),
        None => Some("").filter(|root| root != path),
    })
}

/// Where a secret stands in its directory, that directory in the one above it, and so on.
fn places<'s>(
    secrets: &'s Snapshot<Secret>,
    secret: &'s Secret,
) -> impl Iterator<Item = (DirId, Place)> + 's {
    let mut item = Item::Secret(secret.meta.id);
    paths(secret.meta.name.as_str()).map_while(move |path| {
        let found = secrets.place_of(path, item)?;
        item = Item::Directory(found.0);
        Some(found)
    })
}
