//! Asking: a rule's questions, answered with yes, no, or "it cannot be known".
//!
//! What a caller may be beside what his process shows (the owner of a sub uid, groups that he dropped) is never a yes:
//! it cannot be known. So it allows nothing, and a Deny denies by it, with `Not…` or without.

use super::document::Effect;
use super::facts::{Breadth, Facts, Request};
use super::layers::Shared;
use super::pattern::{eq_ignore_case, glob};
use super::resource::secret_id_matches;
use super::rule::{Each, Numbers, Origin, Presence, Rule, SecretIdValue, Test, What, Who};
use super::template::Template;
use super::value::Value;
use crate::id::{Gid, Uid};

/// Kleene's three values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tri {
    No,
    Unknown,
    Yes,
}

impl Tri {
    pub fn or(self, other: impl FnOnce() -> Tri) -> Tri {
        match self {
            Tri::Yes => Tri::Yes,
            Tri::No => other(),
            Tri::Unknown => match other() {
                Tri::Yes => Tri::Yes,
                Tri::No | Tri::Unknown => Tri::Unknown,
            },
        }
    }
}

impl std::ops::Not for Tri {
    type Output = Tri;
    fn not(self) -> Tri {
        match self {
            Tri::No => Tri::Yes,
            Tri::Unknown => Tri::Unknown,
            Tri::Yes => Tri::No,
        }
    }
}

impl From<bool> for Tri {
    fn from(b: bool) -> Tri {
        if b { Tri::Yes } else { Tri::No }
    }
}

pub(super) struct Asker<'a, F: ?Sized> {
    pub request: &'a Request<'a>,
    pub shared: &'a Shared,
    pub facts: &'a mut F,
    /// Whether a fact could not be had.
    pub lacking: bool,
    /// Whether a variable of the question had no value.
    invalid: bool,
    /// Whether the question at hand counts what the caller may be besides.
    besides: bool,
}

impl<'a, F: Facts + ?Sized> Asker<'a, F> {
    pub fn new(request: &'a Request<'a>, shared: &'a Shared, facts: &'a mut F) -> Self {
        Asker {
            request,
            shared,
            facts,
            lacking: false,
            invalid: false,
            besides: false,
        }
    }

    pub fn rule(&mut self, rule: &Rule, effect: Effect) -> Tri {
        let mut all = Tri::Yes;
        for test in &rule.tests {
            match self.test(test, effect) {
                Tri::No => return Tri::No,
                Tri::Unknown => all = Tri::Unknown,
                Tri::Yes => {}
            }
        }
        all
    }

    pub fn test(&mut self, test: &Test, effect: Effect) -> Tri {
        self.invalid = false;
        self.besides = effect == Effect::Deny || test.rests_on_absence();
        let found = self.what(&test.what);
        // It invalidates the statement, `…IfExists` or not.
        if self.invalid {
            return Tri::Unknown;
        }
        let holds = if test.negated { !found } else { found };
        match &test.unless_absent {
            None => holds,
            Some(presence) => holds.or(|| !self.present(presence)),
        }
    }

    fn what(&mut self, what: &What) -> Tri {
        match what {
            What::Const(answer) => (*answer).into(),
            What::Who(who) => self.who(who),
            What::Uid(numbers) => self.uid(|u| numbers.contains(u.0)),
            What::Gid(numbers) => self.gid(|g| numbers.contains(g.0)),
            What::Groups(numbers) => self.groups(|g| numbers.contains(g.0)),
            What::Unit(words) => self.unit(|unit| unit.is_some_and(|u| words.iter().any(|w| w.matches(u)))),
            What::Stage(words) => {
                let mut labels = self.request.labels.iter();
                // A label counts under AWS's name for it too.
                labels
                    .any(|l| {
                        words
                            .iter()
                            .any(|w| w.matches(l.as_str()) || alias(l.as_str()).is_some_and(|a| w.matches(a)))
                    })
                    .into()
            }
            What::Absent(presence) => !self.present(presence),
            What::Each(each) => self.each(each),
            What::Resource(patterns, origins) => {
                let (mut origins, mut found) = (&**origins, Tri::No);
                for pattern in patterns {
                    let matched = match pattern.template() {
                        None => pattern.matches(None, self.request.subject()).into(),
                        Some(template) => match self.expand(template, &mut origins) {
                            Some(text) => pattern.matches(Some(&text), self.request.subject()).into(),
                            // Invalid, whatever else it lists.
                            None => return Tri::Unknown,
                        },
                    };
                    found = found.or(|| matched);
                }
                found
            }
            What::SecretId(comparison, reading, values, origins) => {
                let (mut origins, mut found) = (&**origins, false);
                for SecretIdValue { text, template } in values {
                    let expanded = match template {
                        None => None,
                        Some(template) => match self.expand(template, &mut origins).map(plain_pattern) {
                            Some(Some(text)) => Some(text),
                            _ => {
                                self.invalid = true;
                                return Tri::Unknown;
                            }
                        },
                    };
                    let text = expanded.as_deref().unwrap_or(text);
                    found |= secret_id_matches(*comparison, text, *reading, self.request.subject());
                }
                found.into()
            }
        }
    }

    fn each(&mut self, each: &Each) -> Tri {
        let mut origins = &*each.variables;
        let mut expanded = Vec::new();
        for template in each.matcher.templates() {
            match self.expand(template, &mut origins) {
                Some(text) => expanded.push(text),
                None => return Tri::Unknown,
            }
        }
        let mut answer = if each.all { Tri::Yes } else { Tri::No };
        self.values(&each.origin, &mut |has, spellings| {
            let matches = |v: &Value<'_>| each.matcher.matches(*v, &expanded);
            let holds = match spellings {
                None => Tri::Unknown,
                Some(values) => (values.iter().any(matches) != each.negated).into(),
            };
            answer = match each.all {
                false => answer.or(|| !((!has).or(|| !holds))),
                true => !((!answer).or(|| !((!has).or(|| holds)))),
            };
        });
        answer
    }

    fn present(&mut self, presence: &Presence) -> Tri {
        match presence {
            Presence::Always => Tri::Yes,
            Presence::Has(origin) => {
                let mut found = Tri::No;
                self.values(origin, &mut |has, _| found = found.or(|| has));
                found
            }
        }
    }

    /// The pattern of a template with the variables' values in it; `None` if one has none, has several, or cannot be
    /// known. Takes the origins that it needs from `origins`.
    fn expand(&mut self, template: &Template, origins: &mut &[Origin]) -> Option<Vec<u8>> {
        let mut texts = Vec::new();
        for variable in template.variables() {
            let (origin, rest) = origins.split_first()?;
            *origins = rest;
            let mut found: Vec<String> = Vec::new();
            let mut unsure = false;
            self.values(origin, &mut |has, spellings| match (has, spellings) {
                (Tri::No, _) => {}
                (Tri::Yes, Some([value, ..])) => found.push(value.text(&mut [0; 24]).to_string()),
                _ => unsure = true,
            });
            let text = match (&*found, unsure) {
                (_, true) => None,
                ([], false) => variable.default.as_deref().map(str::to_string),
                ([_], false) => found.pop(),
                _ => None,
            };
            texts.push(text);
        }
        let mut texts = texts.into_iter();
        let expanded = template.expand(|_| texts.next().flatten());
        self.invalid |= expanded.is_none();
        expanded
    }

    /// Every value that the key could have: whether the caller or the request has it, and its spellings. Values that
    /// cannot be known are one without spellings.
    fn values(&mut self, origin: &Origin, visit: &mut dyn FnMut(Tri, Option<&[Value<'_>]>)) {
        let mut text = |has: bool, text: &str| visit(has.into(), Some(&[Value::Text(text)]));
        match origin {
            Origin::Arns(arns) => {
                for (spellings, who) in arns {
                    let has = self.who(who);
                    match spellings.as_deref() {
                        None => visit(has, None),
                        Some([arn]) => visit(has, Some(&[Value::Text(arn)])),
                        Some(many) => {
                            let all: Vec<_> = many.iter().map(|text| Value::Text(text)).collect();
                            visit(has, Some(&all));
                        }
                    }
                }
            }
            Origin::Usernames(users) => {
                if let Some(given) = self.facts.given() {
                    return given.username.iter().for_each(|name| text(true, name));
                }
                let named = |uid: Uid, has: Tri, visit: &mut dyn FnMut(Tri, Option<&[Value<'_>]>)| {
                    let first = users.partition_point(|(u, _)| *u < uid.0);
                    let mut own = users[first..].iter().take_while(|(u, _)| *u == uid.0).peekable();
                    // He may have got a name since the policy was set.
                    if own.peek().is_none() {
                        return visit(Tri::Unknown, None);
                    }
                    own.for_each(|(_, name)| visit(has, Some(&[Value::Text(name)])));
                };
                if self.is_kind() {
                    return visit(Tri::Unknown, None);
                }
                named(self.facts.uid(), Tri::Yes, visit);
                self.other_uids(&mut |uid| match uid {
                    Some(uid) => named(uid, Tri::Unknown, visit),
                    None => visit(Tri::Unknown, None),
                });
            }
            Origin::Groups(names) => {
                let gid = self.facts.gid();
                let group = |gid: Gid, has: Tri, visit: &mut dyn FnMut(Tri, Option<&[Value<'_>]>)| {
                    let number = Value::Number(gid.0.into());
                    let first = names.partition_point(|(g, _)| *g < gid.0);
                    let own = names[first..].iter().take_while(|(g, _)| *g == gid.0);
                    let mut spellings = [number; 4];
                    for (slot, (_, name)) in spellings[1..].iter_mut().zip(own.clone()) {
                        *slot = Value::Text(name);
                    }
                    match own.clone().nth(3) {
                        None => visit(has, Some(&spellings)),
                        Some(_) => {
                            let all: Vec<_> = own.map(|(_, n)| Value::Text(n)).chain([number]).collect();
                            visit(has, Some(&all));
                        }
                    }
                };
                let kind = self.is_kind();
                if !kind {
                    group(gid, Tri::Yes, visit);
                }
                match self.facts.groups() {
                    Some(groups) => groups
                        .iter()
                        .filter(|g| **g != gid)
                        .for_each(|g| group(*g, Tri::Yes, visit)),
                    None => {
                        self.lacking = true;
                        visit(Tri::Unknown, None);
                    }
                }
                if kind {
                    return visit(Tri::Unknown, None);
                }
                self.other_groups(&mut |gid| match gid {
                    Some(gid) => group(gid, Tri::Unknown, visit),
                    None => visit(Tri::Unknown, None),
                });
            }
            Origin::Uid | Origin::Gid if self.is_kind() => visit(Tri::Unknown, None),
            Origin::Uid => {
                visit(Tri::Yes, Some(&[Value::Number(self.facts.uid().0.into())]));
                self.other_uids(&mut |uid| match uid {
                    Some(uid) => visit(Tri::Unknown, Some(&[Value::Number(uid.0.into())])),
                    None => visit(Tri::Unknown, None),
                });
            }
            Origin::Gid => {
                visit(Tri::Yes, Some(&[Value::Number(self.facts.gid().0.into())]));
                self.other_gids(&mut |gid| match gid {
                    Some(gid) => visit(Tri::Unknown, Some(&[Value::Number(gid.0.into())])),
                    None => visit(Tri::Unknown, None),
                });
            }
            Origin::Unit => match self.facts.unit() {
                Some(Some(unit)) => text(true, unit),
                Some(None) => {}
                None => {
                    self.lacking = true;
                    visit(Tri::Unknown, None);
                }
            },
            Origin::Stage => {
                for label in self.request.labels {
                    let own = Value::Text(label.as_str());
                    let other = alias(label.as_str()).map_or(own, Value::Text);
                    visit(Tri::Yes, Some(&[own, other]));
                }
            }
            Origin::VersionId => self.request.version.iter().for_each(|v| text(true, v.as_str())),
            Origin::SecretId => self.request.name.iter().for_each(|n| text(true, n.as_str())),
            Origin::CurrentTime => {
                let now = self.facts.now().0.div_euclid(1_000_000);
                visit(Tri::Yes, Some(&[Value::Instant(now)]));
            }
            Origin::EpochTime => {
                let now = self.facts.now().0.div_euclid(1_000_000);
                visit(Tri::Yes, Some(&[Value::Number(now)]));
            }
            Origin::NoNewPrivs | Origin::Traced | Origin::LoginUid => match (self.facts.process(), origin) {
                (None, _) => {
                    self.lacking = true;
                    visit(Tri::Unknown, None);
                }
                (Some(state), Origin::NoNewPrivs) => {
                    visit(Tri::Yes, Some(&[Value::Flag(state.no_new_privs)]))
                }
                (Some(state), Origin::Traced) => visit(Tri::Yes, Some(&[Value::Flag(state.traced)])),
                (Some(state), _) => {
                    if let Some(uid) = state.login_uid {
                        visit(Tri::Yes, Some(&[Value::Number(uid.into())]));
                    }
                }
            },
            Origin::PrincipalTag(key) => {
                for tag in self.shared.tags(key) {
                    let has = self.who(&tag.who);
                    visit(has, Some(&[Value::Text(&tag.value)]));
                }
                if let Some(given) = self.facts.given() {
                    tagged(&given.principal_tags, key, visit);
                }
            }
            Origin::ResourceTag(key) => tagged(self.request.tags, key, visit),
            Origin::RequestTag(key) => tagged(self.request.request_tags, key, visit),
            Origin::TagKeys => {
                let keys = self.request.request_tags.keys().chain(self.request.untag);
                keys.for_each(|k| text(true, k));
            }
            Origin::Given(key) => {
                let values = self
                    .facts
                    .given()
                    .and_then(|g| g.context.get(&key.to_ascii_lowercase()));
                values.into_iter().flatten().for_each(|v| text(true, v));
            }
        }
    }

    fn who(&mut self, who: &Who) -> Tri {
        let Who {
            everyone,
            uids,
            gids,
            units,
            services,
        } = who;
        if *everyone
            || self
                .facts
                .service()
                .is_some_and(|s| services.iter().any(|x| x == s))
        {
            return Tri::Yes;
        }
        let by_uid = match uids.is_empty() {
            true => Tri::No,
            false => self.uid(|u| uids.binary_search(&u.0).is_ok()),
        };
        let by_group = by_uid.or(|| match gids.is_empty() {
            true => Tri::No,
            false => self.groups(|g| gids.binary_search(&g.0).is_ok()),
        });
        by_group.or(|| match units.is_empty() {
            true => Tri::No,
            false => self.unit(|unit| unit.is_some_and(|u| units.iter().any(|x| x == u))),
        })
    }

    /// Whether it is a kind of callers who asks: some have an id that is not known of all.
    fn is_kind(&self) -> bool {
        self.facts.breadth() == Breadth::Kind
    }

    /// Whether the uid is one of those.
    fn uid(&mut self, is: impl Fn(Uid) -> bool) -> Tri {
        if self.is_kind() {
            return Tri::Unknown;
        }
        if is(self.facts.uid()) {
            return Tri::Yes;
        }
        let mut found = Tri::No;
        self.other_uids(&mut |uid| {
            if uid.is_none_or(&is) {
                found = Tri::Unknown;
            }
        });
        found
    }

    /// Whether the gid is one of those. Who has several groups can choose which of them is his gid.
    fn gid(&mut self, is: impl Fn(Gid) -> bool) -> Tri {
        if self.is_kind() {
            return Tri::Unknown;
        }
        if is(self.facts.gid()) {
            return Tri::Yes;
        }
        let mut found = Tri::No;
        self.other_gids(&mut |gid| {
            if gid.is_none_or(&is) {
                found = Tri::Unknown;
            }
        });
        found
    }

    /// Whether the gid or a supplementary group is one of those.
    fn groups(&mut self, is: impl Fn(Gid) -> bool) -> Tri {
        self.own_groups(&is).or(|| {
            let mut found = Tri::No;
            self.other_groups(&mut |gid| {
                if gid.is_none_or(&is) {
                    found = Tri::Unknown;
                }
            });
            found
        })
    }

    /// The same, of what his process shows alone.
    pub fn own_groups(&mut self, is: impl Fn(Gid) -> bool) -> Tri {
        let kind = self.is_kind();
        if !kind && is(self.facts.gid()) {
            return Tri::Yes;
        }
        match self.facts.groups() {
            Some(groups) if kind && !groups.iter().any(|g| is(*g)) => Tri::Unknown,
            Some(groups) => groups.iter().any(|g| is(*g)).into(),
            None => {
                self.lacking = true;
                Tri::Unknown
            }
        }
    }

    /// Whom else the question at hand takes the caller for; `None` for what cannot be known.
    fn other_uids(&mut self, visit: &mut dyn FnMut(Option<Uid>)) {
        match self.besides.then(|| self.facts.other_uids()) {
            None => {}
            Some(Some(uids)) => uids.iter().for_each(|u| visit(Some(*u))),
            Some(None) => {
                self.lacking = true;
                visit(None);
            }
        }
    }

    /// As [`Asker::other_uids`], of groups that he may have dropped.
    fn other_groups(&mut self, visit: &mut dyn FnMut(Option<Gid>)) {
        match self.besides.then(|| self.facts.other_groups()) {
            None => {}
            Some(Some(groups)) => groups.iter().for_each(|g| visit(Some(*g))),
            Some(None) => {
                self.lacking = true;
                visit(None);
            }
        }
    }

    /// As [`Asker::other_uids`], of what his gid could be as well.
    fn other_gids(&mut self, visit: &mut dyn FnMut(Option<Gid>)) {
        if !self.besides {
            return;
        }
        match self.facts.groups() {
            Some(groups) => groups.iter().for_each(|g| visit(Some(*g))),
            None => {
                self.lacking = true;
                visit(None);
            }
        }
        self.other_groups(visit);
    }

    fn unit(&mut self, is: impl Fn(Option<&str>) -> bool) -> Tri {
        match self.facts.unit() {
            Some(unit) => is(unit).into(),
            None => {
                self.lacking = true;
                Tri::Unknown
            }
        }
    }
}

/// The values of a tag, whose key counts in any case.
fn tagged(
    tags: &std::collections::BTreeMap<String, String>,
    key: &str,
    visit: &mut dyn FnMut(Tri, Option<&[Value<'_>]>),
) {
    for (_, value) in tags.iter().filter(|(k, _)| eq_ignore_case(k, key)) {
        visit(Tri::Yes, Some(&[Value::Text(value)]));
    }
}

/// An expanded pattern as a text of a document again. A variable's value with a wildcard in it would become one, so
/// it makes the statement invalid.
fn plain_pattern(pattern: Vec<u8>) -> Option<String> {
    use super::pattern::{ANY, ONE};
    if pattern.iter().any(|b| matches!(b, b'*' | b'?')) {
        return None;
    }
    let text = pattern.into_iter().map(|b| match b {
        ANY => b'*',
        ONE => b'?',
        other => other,
    });
    String::from_utf8(text.collect()).ok()
}

impl Numbers {
    fn contains(&self, id: u32) -> bool {
        if self.exact.binary_search(&id).is_ok() {
            return true;
        }
        if self.patterns.is_empty() {
            return false;
        }
        let mut digits = [0; 24];
        let text = Value::Number(id.into()).text(&mut digits);
        self.patterns.iter().any(|p| glob(p, text))
    }
}

/// AWS's name for a label.
fn alias(label: &str) -> Option<&'static str> {
    match label {
        "current" => Some("AWSCURRENT"),
        "pending" => Some("AWSPENDING"),
        "previous" => Some("AWSPREVIOUS"),
        _ => None,
    }
}
