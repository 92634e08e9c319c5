//! Whom a policy could show its secret to, without asking about a caller: what an index of secrets by principals is
//! made of. It errs to the wide side: whoever is not named here is allowed nothing by the policy.

use std::sync::Arc;

use super::action::{Action, Purpose};
use super::ask::{Asker, Tri};
use super::compile::{Body, Compiled};
use super::decide::Layers;
use super::document::Effect;
use super::facts::{Facts, Request};
use super::rule::{Part, Scope, Test, What};

/// What a caller has to be for a policy to allow him anything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// Anybody: it has to be asked.
    Anyone,
    /// A uid.
    Uid(u32),
    /// A gid, his own or a supplementary one.
    Gid(u32),
    /// A systemd unit.
    Unit(Arc<str>),
    /// A part of wardfs.
    Service(Arc<str>),
}

/// Whether something besides secrets' own policies could show secrets to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// Only a secret's own policy could.
    Nothing,
    /// The built-in layer, or an identity policy, could.
    Perhaps,
}

/// Keeps the number of a policy from being given to another one.
#[derive(Clone)]
pub struct Kept {
    _body: Arc<Body>,
}

impl Compiled {
    /// What tells policies apart that are not equal; the same for equal ones that are kept once.
    pub fn number(&self) -> usize {
        Arc::as_ptr(self.body()) as usize
    }

    /// For as long as the number is to mean this policy.
    pub fn keep(&self) -> Kept {
        Kept {
            _body: self.body().clone(),
        }
    }

    /// Everybody whom it could allow to read or describe.
    pub fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        for rule in self.rules().allows.iter().filter(|r| r.shows()) {
            let named = |test: &&Test| {
                matches!(test.what, What::Who(_)) && !test.negated && test.unless_absent.is_none()
            };
            match rule.tests.iter().find(named).map(|test| &test.what) {
                Some(What::Who(who)) if !who.everyone => {
                    claims.extend(who.uids.iter().map(|n| Claim::Uid(*n)));
                    claims.extend(who.gids.iter().map(|n| Claim::Gid(*n)));
                    claims.extend(who.units.iter().map(|n| Claim::Unit(n.as_str().into())));
                    claims.extend(who.services.iter().map(|n| Claim::Service(n.as_str().into())));
                }
                _ => claims.push(Claim::Anyone),
            }
        }
        claims.sort_unstable();
        claims.dedup();
        claims
    }

    /// Of its statements about reading and describing.
    pub fn scope(&self) -> Scope {
        let rules = self.rules();
        Scope::of(rules.denies.iter().chain(&rules.allows))
    }
}

/// Whether anything but a secret's own policy could let this caller read or describe one.
pub fn elsewhere<F: Facts + ?Sized>(layers: &Layers<'_>, facts: &mut F) -> Elsewhere {
    let uid = facts.uid();
    let administration = layers.administration;
    if uid == administration.owner && administration.root_describes {
        return Elsewhere::Perhaps;
    }
    let request = Request::of_layers(Action::DescribeSecret, Purpose::Describe);
    let mut asker = Asker::new(&request, layers.shared, facts);
    let mut attached = layers.shared.identities(uid).flat_map(|rules| &rules.allows);
    let his = attached.any(|rule| {
        let principal = |t: &&Test| t.part == Part::Principal;
        rule.shows() && (rule.tests.iter().filter(principal)).all(|t| asker.test(t, Effect::Allow) != Tri::No)
    });
    let member = |asker: &mut Asker<'_, F>| {
        let group = administration.group.filter(|_| uid != administration.owner);
        group.is_some_and(|group| asker.own_groups(|g| g == group) != Tri::No)
    };
    match his || member(&mut asker) {
        true => Elsewhere::Perhaps,
        false => Elsewhere::Nothing,
    }
}
