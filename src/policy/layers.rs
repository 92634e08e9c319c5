//! The layers of policy that all secrets share: guardrails, which nobody passes by, and identity policies, which say
//! what a principal may on any secret.

use std::collections::BTreeMap;

use super::compile::{Use, World};
use super::decide::Layer;
use super::diagnostic::{PolicyError, Warning};
use super::facts::Facts;
use super::pattern::eq_ignore_case;
use super::principal::{Directory, Local, LocalError, PrincipalMap, is_arn};
use super::record::{Kind, PolicyRecord};
use super::role::{Reach, names};
use super::rule::{Part, Rule, Rules, Scope, Test, What, Who};
use crate::id::Uid;

/// Most guardrails that a store has.
pub const MAX_GUARDRAILS: usize = 100;
/// Most identities that a store has.
pub const MAX_IDENTITIES: usize = 1000;

/// Who has an identity policy: a principal of this machine, or an ARN that the configuration maps to some.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attached {
    /// A user, group, unit or part of wardfs.
    Local(Local),
    /// An ARN.
    Arn(String),
}

impl std::str::FromStr for Attached {
    type Err = LocalError;
    fn from_str(s: &str) -> Result<Self, LocalError> {
        match is_arn(s) && !super::pattern::is_wild(s) {
            true => Ok(Attached::Arn(s.into())),
            false => Ok(Attached::Local(s.parse()?)),
        }
    }
}

impl std::fmt::Display for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Attached::Local(local) => local.fmt(f),
            Attached::Arn(arn) => f.write_str(arn),
        }
    }
}

impl serde::Serialize for Attached {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Attached {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A guardrail as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardrailRecord {
    /// Its name.
    pub name: String,
    /// Its document, and what the names in it stood for.
    pub policy: PolicyRecord,
}

impl GuardrailRecord {
    /// Parses a guardrail's document and looks up every name. `Principal` may be left out, and means everybody.
    pub fn resolve(
        name: &str,
        text: &str,
        map: &PrincipalMap,
        directory: &dyn Directory,
    ) -> Result<(GuardrailRecord, Vec<Warning>), PolicyError> {
        let (policy, warnings) = PolicyRecord::resolve_as(Kind::Guardrail, text, map, directory)?;
        let name = name.to_string();
        Ok((GuardrailRecord { name, policy }, warnings))
    }
}

/// An identity policy as it is kept: the document, whose names' table holds the principal's too, and his tags.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRecord {
    /// Who.
    pub principal: Attached,
    /// `aws:PrincipalTag/…` of whoever is this principal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What he may, and may not.
    pub policy: PolicyRecord,
}

impl IdentityRecord {
    /// Parses an identity policy and looks up every name in it, and its principal's. It names no `Principal`.
    pub fn resolve(
        principal: &Attached,
        tags: BTreeMap<String, String>,
        text: &str,
        map: &PrincipalMap,
        directory: &dyn Directory,
    ) -> Result<(IdentityRecord, Vec<Warning>), PolicyError> {
        let (policy, warnings) = PolicyRecord::resolve_as(Kind::Identity(principal), text, map, directory)?;
        let record = IdentityRecord {
            principal: principal.clone(),
            tags,
            policy,
        };
        Ok((record, warnings))
    }

    fn who(&self) -> Who {
        let mut who = Who::default();
        let mut add = |local: &Local| match local {
            Local::User(name) => who.uids.extend(self.policy.users.get(name)),
            Local::Uid(uid) => who.uids.push(uid.0),
            Local::Group(name) => who.gids.extend(self.policy.groups.get(name)),
            Local::Gid(gid) => who.gids.push(gid.0),
            Local::Unit(name) => who.units.push(name.clone()),
            Local::Service(name) => who.services.push(name.clone()),
        };
        match &self.principal {
            Attached::Local(local) => add(local),
            Attached::Arn(own) => {
                let held = self.policy.principals.iter();
                held.filter(|(arn, _)| names(own, arn, Reach::Allowed))
                    .flat_map(|(_, locals)| locals)
                    .for_each(add);
            }
        }
        who.sort();
        who
    }
}

/// The layers that all secrets share, ready to decide.
#[derive(Debug, Default)]
pub struct Shared {
    pub(super) guardrails: Box<[Guardrail]>,
    /// By uid, in its order: what is attached to one user.
    by_uid: Box<[(u32, Rules)]>,
    /// Whether one of these has a Deny.
    users_are_denied: bool,
    /// What is attached to anything else.
    others: Rules,
    tags: Box<[PrincipalTag]>,
    scope: Scope,
    guardrail_ids: Box<[Box<str>]>,
    identity_ids: Box<[Box<str>]>,
}

/// Whose Deny statements could bind a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// Those of this uid.
    ByThoseOf(Uid),
    /// He may be somebody besides: those of all users, each of which asks for its own.
    ByAnybodys,
}

/// A guardrail, ready to decide.
#[derive(Debug)]
pub(super) struct Guardrail {
    pub name: Box<str>,
    pub denies: Vec<Rule>,
    /// One of these has to allow a request, if there are any. A guardrail without Allow statements only denies, as
    /// an SCP beside AWS's `FullAWSAccess`.
    pub ceiling: Option<Vec<Rule>>,
}

/// A tag of whoever is a principal.
#[derive(Debug)]
pub(super) struct PrincipalTag {
    key: Box<str>,
    pub value: Box<str>,
    pub who: Who,
}

impl Shared {
    /// Compiles the records. Nothing is looked up.
    ///
    /// # Errors
    /// The name of the guardrail or principal whose policy does not compile, and why.
    pub fn compile<'r>(
        guardrails: impl IntoIterator<Item = &'r GuardrailRecord>,
        identities: impl IntoIterator<Item = &'r IdentityRecord>,
    ) -> Result<Shared, (String, PolicyError)> {
        Self::compile_in(World::Here, guardrails, identities)
    }

    pub(super) fn compile_in<'r>(
        world: World<'_>,
        guardrails: impl IntoIterator<Item = &'r GuardrailRecord>,
        identities: impl IntoIterator<Item = &'r IdentityRecord>,
    ) -> Result<Shared, (String, PolicyError)> {
        let mut shared = Shared::default();
        let (mut guardrail_ids, mut identity_ids) = (Vec::new(), Vec::new());
        let mut all = Vec::new();
        for record in guardrails {
            let rules = compile(
                &record.policy,
                &record.name,
                (Use::Guardrail, world),
                &mut guardrail_ids,
            )?;
            let has_allows = record.policy.document().is_ok_and(|d| d.allows());
            all.push(Guardrail {
                name: record.name.as_str().into(),
                denies: rules.denies,
                ceiling: has_allows.then_some(rules.allows),
            });
        }
        let mut by_uid: BTreeMap<u32, Rules> = BTreeMap::new();
        let mut tags = Vec::new();
        for (i, record) in (1..).zip(identities) {
            let who = record.who();
            let name = match world {
                World::Here => record.principal.to_string(),
                // A supposed caller has a number that nobody chose.
                World::Simulated(_) => format!("identity-policy-{i}"),
            };
            let rules = compile(&record.policy, &name, (Use::Identity, world), &mut identity_ids)?;
            for (key, value) in &record.tags {
                tags.push(PrincipalTag {
                    key: key.as_str().into(),
                    value: value.as_str().into(),
                    who: who.clone(),
                });
            }
            let into = match (&record.principal, &*who.uids) {
                (Attached::Local(Local::User(_) | Local::Uid(_)), [uid]) => by_uid.entry(*uid).or_default(),
                _ => &mut shared.others,
            };
            into.denies
                .extend(rules.denies.into_iter().map(|r| attached(r, &who)));
            into.allows
                .extend(rules.allows.into_iter().map(|r| attached(r, &who)));
        }
        by_uid.values_mut().for_each(Rules::sort);
        shared.others.sort();
        let guardrails = all.iter();
        let guardrails = guardrails.flat_map(|g| g.denies.iter().chain(g.ceiling.iter().flatten()));
        let identities = by_uid.values().chain([&shared.others]);
        shared.scope = Scope::of(guardrails.chain(identities.flat_map(|r| r.denies.iter().chain(&r.allows))));
        shared.guardrails = all.into();
        shared.users_are_denied = by_uid.values().any(|rules| !rules.denies.is_empty());
        shared.by_uid = by_uid.into_iter().collect();
        shared.tags = tags.into();
        shared.guardrail_ids = guardrail_ids.into();
        shared.identity_ids = identity_ids.into();
        Ok(shared)
    }

    /// Of all its statements about reading and describing.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Whose Deny statements could bind this caller.
    pub(super) fn bound<F: Facts + ?Sized>(&self, facts: &mut F) -> Bound {
        let besides = self.users_are_denied && facts.other_uids().is_none_or(|others| !others.is_empty());
        match besides {
            true => Bound::ByAnybodys,
            false => Bound::ByThoseOf(facts.uid()),
        }
    }

    /// The Deny statements of the identity policies that could bind him.
    pub(super) fn denies_to(&self, bound: Bound) -> impl Iterator<Item = (Layer, &Rule)> {
        let users: &[(u32, Rules)] = match bound {
            Bound::ByThoseOf(uid) => match self.by_uid.binary_search_by_key(&uid.0, |(u, _)| *u) {
                Ok(i) => &self.by_uid[i..=i],
                Err(_) => &[],
            },
            Bound::ByAnybodys => &self.by_uid,
        };
        let rules = users.iter().map(|(_, rules)| rules).chain([&self.others]);
        rules
            .flat_map(|rules| &rules.denies)
            .map(|rule| (Layer::Identity, rule))
    }

    /// The rules of the identity policies that could be about this caller.
    pub(super) fn identities(&self, uid: Uid) -> impl Iterator<Item = &Rules> {
        let own = self.by_uid.binary_search_by_key(&uid.0, |(u, _)| *u).ok();
        let own = own.and_then(|i| self.by_uid.get(i)).map(|(_, rules)| rules);
        own.into_iter().chain([&self.others])
    }

    /// The rules of every identity policy.
    pub(super) fn all_identities(&self) -> impl Iterator<Item = &Rules> {
        let own = self.by_uid.iter().map(|(_, rules)| rules);
        own.chain([&self.others])
    }

    /// The tags of that key, which counts in any case.
    pub(super) fn tags(&self, key: &str) -> impl Iterator<Item = &PrincipalTag> {
        self.tags.iter().filter(move |t| eq_ignore_case(&t.key, key))
    }

    pub(super) fn statement_id(&self, layer: Layer, index: u32) -> Option<&str> {
        let ids = match layer {
            Layer::Guardrail => &self.guardrail_ids,
            Layer::Identity => &self.identity_ids,
            Layer::Administration | Layer::Secret | Layer::Default => return None,
        };
        ids.get(index as usize).map(|id| &**id)
    }
}

fn compile(
    record: &PolicyRecord,
    name: &str,
    (purpose, world): (Use<'_>, World<'_>),
    ids: &mut Vec<Box<str>>,
) -> Result<Rules, (String, PolicyError)> {
    let first = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let output = record
        .compile_as(purpose, world, first)
        .map_err(|e| (name.to_string(), e))?;
    ids.extend(output.ids.iter().map(|id| format!("{name}/{id}").into()));
    Ok(output.rules)
}

/// The rule for its principal alone.
fn attached(rule: Rule, who: &Who) -> Rule {
    let mut tests = rule.tests.into_vec();
    tests.push(Test {
        part: Part::Principal,
        what: What::Who(who.clone()),
        negated: false,
        unless_absent: None,
    });
    tests.sort_by_key(Test::cost);
    Rule {
        tests: tests.into(),
        ..rule
    }
}
