//! Whether a change lets anybody do what he could not: the rules of all layers, before it and after it.
//!
//! No callers are tried out. A rule is a conjunction of questions, some about the caller and some about the secret, and
//! of the latter both answers are known. Where no Allow begins to match and no Deny ceases to, nobody gains, whoever he
//! is. Where one does, another rule may show that nobody gains by it; if none does, somebody is taken to gain.

use std::collections::BTreeMap;

use super::action::Action;
use super::ask::{Asker, Tri};
use super::compile::Compiled;
use super::decide::{Basis, Layer};
use super::document::Effect;
use super::facts::{Facts, ProcessState, Request};
use super::layers::Shared;
use super::pattern::eq_ignore_case;
use super::rule::{Origin, Rule, Test, What, Who};
use crate::clock::Timestamp;
use crate::id::{Gid, Label, Uid};

/// A secret, or a version of it, before or after a change.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The secret's own policy, compiled for the request's name and ARN.
    pub policy: Option<&'a Compiled>,
    /// What would be asked: name, ARN, tags, version, labels.
    pub request: Request<'a>,
}

impl<'a> Side<'a> {
    fn rules(&self, effect: Effect) -> &'a [Rule] {
        match (self.policy, effect) {
            (None, _) => &[],
            (Some(policy), Effect::Allow) => &policy.rules().allows,
            (Some(policy), Effect::Deny) => &policy.rules().denies,
        }
    }
}

/// Of what somebody could gain reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The version that the requests name, with the labels that they give.
    Version,
    /// Any version, also one to come, whatever its labels.
    Every,
}

/// The statement by which somebody would gain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gain {
    /// Where it stands.
    pub basis: Basis,
    /// An Allow begins to match, or a Deny ceases to.
    pub effect: Effect,
}

/// Who gains the requests' action between the two sides: `None` only if it is certain that nobody does. The layers that
/// all secrets share are the same on both.
pub fn gain(shared: &Shared, before: &Side<'_>, after: &Side<'_>, extent: Extent) -> Option<Gain> {
    let comparison = Comparison {
        shared,
        before,
        after,
        extent,
    };
    let mut denies = Vec::new();
    let mut allows = Vec::new();
    for (effect, into) in [(Effect::Deny, &mut denies), (Effect::Allow, &mut allows)] {
        into.extend(comparison.own(before.rules(effect), after.rules(effect), effect));
        for rules in shared.all_identities() {
            let rules = match effect {
                Effect::Allow => &rules.allows,
                Effect::Deny => &rules.denies,
            };
            into.extend(comparison.shared(Layer::Identity, rules, effect));
        }
    }
    let mut ceilings = Vec::new();
    for guardrail in &shared.guardrails {
        denies.extend(comparison.shared(Layer::Guardrail, &guardrail.denies, Effect::Deny));
        if let Some(ceiling) = &guardrail.ceiling {
            ceilings.push(
                comparison
                    .shared(Layer::Guardrail, ceiling, Effect::Allow)
                    .collect::<Vec<_>>(),
            );
        }
    }
    let open = |rules: &[Pair<'_>]| rules.iter().any(|r| r.after);
    // The built-in layer lets nobody read; the owner it lets set policies.
    let built_in = !after.request.action.reads_value();
    let closed = |rule: &Pair<'_>| rule.after && rule.questions.is_empty();
    if !(built_in || open(&allows)) || !ceilings.iter().all(|c| open(c)) || denies.iter().any(closed) {
        return None;
    }
    let denied = |rule: &Pair<'_>| denies.iter().any(|d| d.after && !d.moved && d.covers(rule));
    for rules in [&allows].into_iter().chain(&ceilings) {
        let allowed = |rule: &Pair<'_>| rules.iter().any(|r| r.before && !r.moved && r.covers(rule));
        let begins = |r: &&Pair<'_>| r.after && (!r.before || r.moved);
        let new = rules.iter().filter(begins);
        if let Some(rule) = new.into_iter().find(|r| !allowed(r) && !denied(r)) {
            return Some(rule.gain(Effect::Allow));
        }
    }
    let ceases = |d: &&Pair<'_>| d.before && (!d.after || d.moved);
    let freed = denies.iter().filter(ceases).find(|d| !denied(d));
    freed.map(|rule| rule.gain(Effect::Deny))
}

/// One rule on both sides.
struct Pair<'r> {
    layer: Layer,
    index: u32,
    /// Whether it matches those of whom its questions about the caller hold.
    before: bool,
    after: bool,
    /// Whether for one caller those questions may have another answer after than before.
    moved: bool,
    /// What it asks of the caller.
    questions: Vec<&'r Test>,
}

impl Pair<'_> {
    fn gain(&self, effect: Effect) -> Gain {
        Gain {
            basis: Basis {
                layer: self.layer,
                statement: Some(self.index),
            },
            effect,
        }
    }

    /// Whether whoever the other one is about this one is about too.
    fn covers(&self, other: &Pair<'_>) -> bool {
        let asked = |mine: &&Test| other.questions.iter().any(|theirs| implies(theirs, mine));
        self.questions.iter().all(asked)
    }
}

/// Whether the second question holds of all of whom the first does.
fn implies(first: &Test, second: &Test) -> bool {
    let principals = |t: &Test| !t.negated && t.unless_absent.is_none();
    match (&first.what, &second.what) {
        (What::Who(few), What::Who(many)) if principals(first) && principals(second) => many.includes(few),
        (a, b) => a == b && first.negated == second.negated && first.unless_absent == second.unless_absent,
    }
}

impl Who {
    fn includes(&self, other: &Who) -> bool {
        fn all<T: PartialEq>(few: &[T], many: &[T]) -> bool {
            few.iter().all(|x| many.contains(x))
        }
        self.everyone
            || !other.everyone
                && all(&other.uids, &self.uids)
                && all(&other.gids, &self.gids)
                && all(&other.units, &self.units)
                && all(&other.services, &self.services)
    }
}

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Caller,
    Secret,
    Both,
}

impl About {
    fn and(self, other: About) -> About {
        if self == other { self } else { About::Both }
    }
}

struct Comparison<'a> {
    shared: &'a Shared,
    before: &'a Side<'a>,
    after: &'a Side<'a>,
    extent: Extent,
}

impl<'a> Comparison<'a> {
    fn shared(
        &self,
        layer: Layer,
        rules: &'a [Rule],
        effect: Effect,
    ) -> impl Iterator<Item = Pair<'a>> + use<'a, '_> {
        let about = |r: &&Rule| r.actions.contains(self.after.request.action);
        let pair = move |r| self.pair(layer, Some(r), Some(r), effect);
        rules.iter().filter(about).filter_map(pair)
    }

    /// The rules of the secret's own policy. One that could not match the secret under its name and ARN was left out
    /// when the policy was compiled.
    fn own(&self, before: &'a [Rule], after: &'a [Rule], effect: Effect) -> Vec<Pair<'a>> {
        let mut both: BTreeMap<u32, (Option<&Rule>, Option<&Rule>)> = BTreeMap::new();
        let about = |r: &&Rule| r.actions.contains(self.after.request.action);
        before
            .iter()
            .filter(about)
            .for_each(|r| both.entry(r.index).or_default().0 = Some(r));
        after
            .iter()
            .filter(about)
            .for_each(|r| both.entry(r.index).or_default().1 = Some(r));
        let pairs = both.into_values();
        pairs
            .filter_map(|(before, after)| self.pair(Layer::Secret, before, after, effect))
            .collect()
    }

    fn pair(
        &self,
        layer: Layer,
        before: Option<&'a Rule>,
        after: Option<&'a Rule>,
        effect: Effect,
    ) -> Option<Pair<'a>> {
        let questions = |rule: Option<&'a Rule>| {
            let tests = rule.into_iter().flat_map(|r| r.tests.iter());
            tests
                .filter(|t| self.about(t) != About::Secret)
                .collect::<Vec<_>>()
        };
        let (asked, asks) = (questions(before), questions(after));
        let same = match (before, after) {
            (Some(_), Some(_)) => {
                asked.iter().all(|t| asks.contains(t)) && asks.iter().all(|t| asked.contains(t))
            }
            _ => true,
        };
        let turned = |t: &&&Test| self.about(t) == About::Both && !self.is_same(t);
        Some(Pair {
            layer,
            index: after.or(before)?.index,
            before: before.is_some_and(|r| self.holds(r, self.before, effect)),
            after: after.is_some_and(|r| self.holds(r, self.after, effect)),
            moved: !same || asked.iter().chain(&asks).find(turned).is_some(),
            questions: if after.is_some() { asks } else { asked },
        })
    }

    /// Whether a rule's questions about the secret do not keep it from matching.
    fn holds(&self, rule: &Rule, side: &Side<'_>, effect: Effect) -> bool {
        let mut nobody = Nobody;
        let mut asker = Asker::new(&side.request, self.shared, &mut nobody);
        if effect == Effect::Allow && rule.tests.iter().any(|t| lacks(t, &side.request)) {
            return false;
        }
        let mut about_secret = rule.tests.iter().filter(|t| self.about(t) == About::Secret);
        about_secret.all(|test| match (asker.test(test, effect), effect) {
            (Tri::Yes, _) | (Tri::Unknown, Effect::Deny) => true,
            (Tri::No, _) | (Tri::Unknown, Effect::Allow) => false,
        })
    }

    fn about(&self, test: &Test) -> About {
        let own = match &test.what {
            What::Who(_) | What::Uid(_) | What::Gid(_) | What::Groups(_) | What::Unit(_) => {
                Some(About::Caller)
            }
            What::Stage(_) => Some(self.of_version()),
            What::Resource(..) | What::SecretId(..) | What::Const(_) => Some(About::Secret),
            What::Absent(_) | What::Each(_) => None,
        };
        let origins = test.origins().map(|origin| self.origin(origin));
        own.into_iter()
            .chain(origins)
            .reduce(About::and)
            .unwrap_or(About::Secret)
    }

    fn origin(&self, origin: &Origin) -> About {
        match origin {
            Origin::Stage | Origin::VersionId => self.of_version(),
            // Reading, and setting a policy, bring no tags along.
            Origin::SecretId | Origin::ResourceTag(_) | Origin::RequestTag(_) | Origin::TagKeys => {
                About::Secret
            }
            Origin::Arns(_)
            | Origin::Usernames(_)
            | Origin::Groups(_)
            | Origin::Uid
            | Origin::Gid
            | Origin::Unit
            | Origin::CurrentTime
            | Origin::EpochTime
            | Origin::NoNewPrivs
            | Origin::Traced
            | Origin::LoginUid
            | Origin::PrincipalTag(_)
            | Origin::Given(_) => About::Caller,
        }
    }

    /// Of any version, labels and id are what they may be, on both sides the same.
    fn of_version(&self) -> About {
        match self.extent {
            Extent::Version => About::Secret,
            Extent::Every => About::Caller,
        }
    }

    /// Whether what a question wants to know of the secret is the same on both sides.
    fn is_same(&self, test: &Test) -> bool {
        let (before, after) = (&self.before.request, &self.after.request);
        let subject = match &test.what {
            What::Resource(..) | What::SecretId(..) => before.arn == after.arn,
            What::Stage(_) => labels(before) == labels(after),
            _ => true,
        };
        subject
            && test.origins().all(|origin| match origin {
                Origin::Stage => labels(before) == labels(after),
                Origin::VersionId => before.version == after.version,
                Origin::SecretId => before.arn == after.arn,
                Origin::ResourceTag(key) => tagged(before, key) == tagged(after, key),
                _ => true,
            })
    }
}

/// Whether a question compares a tag that the secret has not, with whatever.
fn lacks(test: &Test, request: &Request<'_>) -> bool {
    let What::Each(each) = &test.what else {
        return false;
    };
    let Origin::ResourceTag(key) = &each.origin else {
        return false;
    };
    !each.all && !test.negated && test.unless_absent.is_none() && tagged(request, key).is_empty()
}

fn labels<'r>(request: &Request<'r>) -> Vec<&'r Label> {
    let mut labels: Vec<&Label> = request.labels.iter().collect();
    labels.sort();
    labels
}

fn tagged<'r>(request: &Request<'r>, key: &str) -> Vec<&'r String> {
    let same = |(k, _): &(&String, &String)| eq_ignore_case(k, key);
    request.tags.iter().filter(same).map(|(_, value)| value).collect()
}

impl Action {
    /// By which somebody comes to read a secret: at once, or by setting its policy then.
    pub const READING: [Action; 3] = [
        Action::GetSecretValue,
        Action::PutResourcePolicy,
        Action::DeleteResourcePolicy,
    ];
}

/// Stands where a caller would, for questions that are not about him.
struct Nobody;

impl Facts for Nobody {
    fn uid(&self) -> Uid {
        Uid(u32::MAX)
    }
    fn gid(&self) -> Gid {
        Gid(u32::MAX)
    }
    fn groups(&mut self) -> Option<&[Gid]> {
        None
    }
    fn unit(&mut self) -> Option<Option<&str>> {
        None
    }
    fn service(&self) -> Option<&str> {
        None
    }
    fn process(&mut self) -> Option<ProcessState> {
        None
    }
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}
