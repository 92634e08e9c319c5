//! Who may read: each principal that a rule of any layer names is asked about, by the evaluator that decides. What cannot
//! be known ahead (the unit, the time, the state of a process, who of a group it is) is said in words.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use serde::Serialize;

use super::action::Action;
use super::ask::{Asker, Tri};
use super::decide::{Basis, Layer, Layers};
use super::document::Effect;
use super::explain::{Documents, place};
use super::facts::{Facts, Request};
use super::kind::{Kind, Numbers};
use super::reach::Claim;
use super::reading::{People, Reader, Reading};
use super::rule::{Cost, Origin, Part, Rule, Test, What, Who};
use crate::id::{Gid, Uid};

/// Who may do what the request asks for.
pub fn readers(
    layers: &Layers<'_>,
    request: &Request<'_>,
    documents: &dyn Fn() -> Documents,
    people: &dyn People,
) -> Vec<Reading> {
    let inquiry = Inquiry::new(layers, request, documents, people);
    let mut found: Vec<(Claim, bool, Reading)> = Vec::new();
    for (claim, named) in inquiry.candidates() {
        if let Some(reading) = inquiry.judge(&claim) {
            found.push((claim, named, reading));
        }
    }
    let open = |claim: &Claim| found.iter().any(|(c, _, r)| c == claim && r.when.is_none());
    // Whom no Allow names is not listed beside those among whom he is.
    let told = |(claim, named, _): &&(Claim, bool, Reading)| {
        *named
            || !open(&Claim::Anyone)
                && match claim {
                    Claim::Uid(uid) => !people.groups(Uid(*uid)).iter().any(|g| open(&Claim::Gid(g.0))),
                    _ => true,
                }
    };
    found
        .iter()
        .filter(told)
        .map(|(_, _, reading)| reading.clone())
        .collect()
}

/// The statements by which somebody is allowed (or denied) what the request asks for, one line each, and the guardrails
/// that allow it to others alone: what is left when a rule about them went.
pub fn standing(
    layers: &Layers<'_>,
    request: &Request<'_>,
    documents: &dyn Fn() -> Documents,
    people: &dyn People,
    (who, effect): (&Claim, Effect),
) -> Vec<Standing> {
    let inquiry = Inquiry::new(layers, request, documents, people);
    let rules = match effect {
        Effect::Allow => &inquiry.allows,
        Effect::Deny => &inquiry.denies,
    };
    let mut found = Vec::new();
    inquiry.asking(who, |asker, kind| {
        for (layer, rule) in rules {
            let when = match inquiry.trial(rule, effect, kind, asker) {
                Trial::No => continue,
                Trial::Yes => None,
                Trial::Open(tests) if effect == Effect::Allow && tests.iter().any(|t| rule.is_anchor(t)) => {
                    continue;
                }
                Trial::Open(tests) => Some(inquiry.words((*layer, rule), &tests)),
            };
            found.push(inquiry.standing_by((*layer, rule), effect, when));
        }
        if effect == Effect::Deny {
            for (guardrail, rules) in &inquiry.ceilings {
                match inquiry.any_of(rules.iter(), kind, true, asker) {
                    Some(None) => {}
                    none_or_when => found.push(Standing::below(guardrail, none_or_when.flatten())),
                }
            }
        }
    });
    found
}

/// A statement that is about somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Its layer: `guardrail`, `identity` or `secret`.
    pub layer: &'static str,
    /// Its Sid, or `#2` for the second if it has none; the guardrail's name where it allows none of it.
    pub statement: String,
    /// `allow` or `deny`.
    pub effect: &'static str,
    /// What has to hold for it to apply, where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The whole in words.
    pub words: String,
}

impl Standing {
    /// A guardrail whose Allow statements are not about them; `otherwise`: what would have to hold.
    fn below(guardrail: &str, otherwise: Option<String>) -> Standing {
        let statement = crate::id::printable(guardrail);
        let only = otherwise.map_or_else(
            || "does not allow it".into(),
            |w| format!("allows it only when {w}"),
        );
        Standing {
            layer: Layer::Guardrail.code(),
            words: format!("guardrail {statement} {only}"),
            statement,
            effect: "deny",
            when: None,
        }
    }
}

/// What one rule says to a candidate.
enum Trial<'r> {
    No,
    Yes,
    /// It depends on these.
    Open(Vec<&'r Test>),
}

struct Inquiry<'a> {
    layers: &'a Layers<'a>,
    request: &'a Request<'a>,
    documents: OnceCell<Documents>,
    parse: &'a dyn Fn() -> Documents,
    people: &'a dyn People,
    allows: Vec<(Layer, &'a Rule)>,
    denies: Vec<(Layer, &'a Rule)>,
    /// Of each guardrail that has Allow statements.
    ceilings: Vec<(&'a str, Vec<(Layer, &'a Rule)>)>,
}

impl<'a> Inquiry<'a> {
    fn new(
        layers: &'a Layers<'a>,
        request: &'a Request<'a>,
        parse: &'a dyn Fn() -> Documents,
        people: &'a dyn People,
    ) -> Self {
        let shared = layers.shared;
        let mut anyone = Kind(&Claim::Anyone, []);
        let mut asker = Asker::new(request, shared, &mut anyone as &mut dyn Facts);
        let mut about =
            |rules: &mut dyn Iterator<Item = (Layer, &'a Rule)>, effect| -> Vec<(Layer, &'a Rule)> {
                let elsewhere = |t: &Test, asker: &mut Asker<'_, dyn Facts>| {
                    t.part == Part::Resource && asker.test(t, effect) == Tri::No
                };
                rules
                    .filter(|(_, r)| r.actions.contains(request.action))
                    .filter(|(_, r)| !r.tests.iter().any(|t| elsewhere(t, &mut asker)))
                    .collect()
            };
        let of = |layer| move |rule: &'a Rule| (layer, rule);
        let own = layers.secret.map(|p| p.rules());
        let mut allows = own
            .into_iter()
            .flat_map(|r| &r.allows)
            .map(of(Layer::Secret))
            .chain(
                shared
                    .all_identities()
                    .flat_map(|r| &r.allows)
                    .map(of(Layer::Identity)),
            );
        let mut denies = shared
            .guardrails
            .iter()
            .flat_map(|g| &g.denies)
            .map(of(Layer::Guardrail))
            .chain(
                shared
                    .all_identities()
                    .flat_map(|r| &r.denies)
                    .map(of(Layer::Identity)),
            )
            .chain(own.into_iter().flat_map(|r| &r.denies).map(of(Layer::Secret)));
        let ceilings = shared
            .guardrails
            .iter()
            .filter_map(|g| Some((&*g.name, g.ceiling.as_deref()?)));
        Inquiry {
            layers,
            request,
            documents: OnceCell::new(),
            parse,
            people,
            allows: about(&mut allows, Effect::Allow),
            denies: about(&mut denies, Effect::Deny),
            ceilings: ceilings
                .map(|(name, rules)| {
                    (
                        name,
                        about(&mut rules.iter().map(of(Layer::Guardrail)), Effect::Allow),
                    )
                })
                .collect(),
        }
    }

    /// Whom the rules name, and whether an Allow does. Whoever is none of them is one of `Anyone`.
    fn candidates(&self) -> BTreeMap<Claim, bool> {
        let mut all = BTreeMap::new();
        for (_, rule) in &self.allows {
            match rule.anchor() {
                Some(anchor) => all.extend(anchor.claims().map(|c| (c, true))),
                None => drop(all.insert(Claim::Anyone, true)),
            }
        }
        let ceilings = self.ceilings.iter().flat_map(|(_, rules)| rules);
        let ceilings = ceilings.filter_map(|(_, r)| r.anchor());
        let spared = self
            .denies
            .iter()
            .flat_map(|(_, r)| r.tests.iter().filter(|t| t.spares()));
        for claim in ceilings.chain(spared).flat_map(Test::claims) {
            all.entry(claim).or_insert(false);
        }
        all
    }

    /// Asks as this candidate.
    fn asking<T>(&self, claim: &Claim, ask: impl FnOnce(&mut Asker<'_, dyn Facts + '_>, &Claim) -> T) -> T {
        match claim {
            Claim::Uid(uid) => {
                let mut caller = self.people.caller(Uid(*uid));
                ask(
                    &mut Asker::new(self.request, self.layers.shared, &mut *caller),
                    claim,
                )
            }
            Claim::Gid(gid) => {
                let mut kind = Kind(claim, [Gid(*gid)]);
                ask(
                    &mut Asker::new(self.request, self.layers.shared, &mut kind as &mut dyn Facts),
                    claim,
                )
            }
            _ => {
                let mut kind = Kind(claim, []);
                ask(
                    &mut Asker::new(self.request, self.layers.shared, &mut kind as &mut dyn Facts),
                    claim,
                )
            }
        }
    }

    /// Whether the candidate may read; `None` if none of them may.
    fn judge(&self, claim: &Claim) -> Option<Reading> {
        let (except, when) = self.asking(claim, |asker, claim| {
            let mut all = Vec::new();
            let groups = match claim {
                Claim::Uid(uid) => self.people.groups(Uid(*uid)),
                _ => Vec::new(),
            };
            let own = self.allows.iter().filter(|(_, r)| match r.anchor() {
                None => true,
                Some(anchor) => anchor
                    .claims()
                    .any(|c| c == *claim || matches!(c, Claim::Gid(g) if groups.contains(&Gid(g)))),
            });
            all.extend(self.any_of(own, claim, false, asker)?);
            for (_, ceiling) in &self.ceilings {
                all.extend(self.any_of(ceiling.iter(), claim, true, asker)?);
            }
            let mut except = Vec::new();
            for &(layer, rule) in &self.denies {
                match self.trial(rule, Effect::Deny, claim, asker) {
                    Trial::No => {}
                    Trial::Yes => return None,
                    Trial::Open(tests) => self.denied((layer, rule), &tests, claim, &mut except, &mut all)?,
                }
            }
            Some((except, all))
        })?;
        let outright: Vec<Reader> = except
            .iter()
            .filter(|e| e.when.is_none())
            .map(|e| e.who.clone())
            .collect();
        let except = except
            .into_iter()
            .filter(|e| e.when.is_none() || !outright.contains(&e.who))
            .collect();
        let mut parts: Vec<String> = Vec::new();
        when.into_iter().for_each(|w| {
            if !parts.contains(&w) {
                parts.push(w)
            }
        });
        Some(Reading {
            who: self.reader(claim),
            except,
            when: (!parts.is_empty()).then(|| parts.join(" and ")),
        })
    }

    /// What has to hold for one of these rules to allow it: nothing, one thing, or one of several; `None` if none does.
    fn any_of<'r>(
        &self,
        rules: impl Iterator<Item = &'r (Layer, &'r Rule)>,
        claim: &Claim,
        ceiling: bool,
        asker: &mut Asker<'_, dyn Facts + '_>,
    ) -> Option<Option<String>> {
        let mut ways: Vec<String> = Vec::new();
        for &(layer, rule) in rules {
            let way = match self.trial(rule, Effect::Allow, claim, asker) {
                Trial::No => continue,
                Trial::Yes => return Some(None),
                Trial::Open(tests) => {
                    let (anchors, others): (Vec<&Test>, Vec<&Test>) =
                        tests.iter().partition(|t| rule.is_anchor(t));
                    let mut parts = Vec::new();
                    if let Some(anchor) = anchors.first() {
                        // Whom it names is asked about himself.
                        let besides = self.besides(claim, anchor);
                        if !ceiling || besides.is_empty() {
                            continue;
                        }
                        parts.push(format!("the caller is {}", besides.join(" or ")));
                    }
                    if !others.is_empty() {
                        parts.push(self.words((layer, rule), &others));
                    }
                    parts.join(" and ")
                }
            };
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        match ways.len() {
            0 => None,
            1 => Some(ways.pop()),
            _ => Some(Some(format!("({})", ways.join(" or ")))),
        }
    }

    /// A Deny that some of the candidate's callers may be under; `None` if that leaves none.
    fn denied(
        &self,
        rule: (Layer, &Rule),
        tests: &[&Test],
        claim: &Claim,
        except: &mut Vec<Reading>,
        when: &mut Vec<String>,
    ) -> Option<()> {
        let without = |test: &Test| -> Vec<&Test> {
            tests
                .iter()
                .copied()
                .filter(|t| !std::ptr::eq(*t, test))
                .collect()
        };
        if let Some(anchor) = tests.iter().copied().find(|t| rule.1.is_anchor(t)) {
            let others = without(anchor);
            let when = (!others.is_empty()).then(|| self.words(rule, &others));
            let apart = |other: &Claim| {
                matches!(
                    (claim, other),
                    (Claim::Unit(_), Claim::Unit(_))
                        | (Claim::Uid(_), Claim::Uid(_) | Claim::Gid(_))
                        | (_, Claim::Service(_))
                )
            };
            for other in anchor.claims().filter(|c| !apart(c)) {
                let one = Reading {
                    who: self.reader(&other),
                    except: Vec::new(),
                    when: when.clone(),
                };
                if !except.contains(&one) {
                    except.push(one);
                }
            }
            return Some(());
        }
        if let Some(spared) = tests.iter().copied().find(|t| t.spares()) {
            let others = without(spared);
            if others.is_empty() {
                let besides = self.besides(claim, spared);
                // Whom it spares is asked about himself.
                if besides.is_empty() {
                    return None;
                }
                when.push(format!("the caller is {}", besides.join(" or ")));
            } else {
                let all: Vec<String> = spared.claims().map(|c| self.reader(&c).to_string()).collect();
                when.push(format!(
                    "not ({} and the caller is not {})",
                    self.words(rule, &others),
                    all.join(" or ")
                ));
            }
            return Some(());
        }
        when.push(format!("not ({})", self.words(rule, tests)));
        Some(())
    }

    /// Of whom a test names, those that the candidate's callers may be besides, and who are not asked about themselves.
    fn besides(&self, claim: &Claim, test: &Test) -> Vec<String> {
        let more = |other: &Claim| {
            !matches!(
                (claim, other),
                (Claim::Anyone, _)
                    | (_, Claim::Service(_))
                    | (Claim::Unit(_), Claim::Unit(_))
                    | (Claim::Gid(_), Claim::Uid(_))
                    | (Claim::Uid(_), Claim::Uid(_) | Claim::Gid(_))
            )
        };
        test.claims()
            .filter(more)
            .map(|c| self.reader(&c).to_string())
            .collect()
    }

    fn trial<'r>(
        &self,
        rule: &'r Rule,
        effect: Effect,
        claim: &Claim,
        asker: &mut Asker<'_, dyn Facts + '_>,
    ) -> Trial<'r> {
        let mut open = Vec::new();
        for test in &rule.tests {
            let timed = test
                .origins()
                .any(|o| matches!(o, Origin::CurrentTime | Origin::EpochTime));
            let answer = if timed {
                Tri::Unknown
            } else {
                asker.test(test, effect)
            };
            let later = timed || !matches!(claim, Claim::Uid(_)) || test.cost() >= Cost::Process;
            match (answer, effect) {
                (Tri::No, _) => return Trial::No,
                (Tri::Yes, _) => {}
                (Tri::Unknown, _) if later => open.push(test),
                // As a decision takes it.
                (Tri::Unknown, Effect::Allow) => return Trial::No,
                (Tri::Unknown, Effect::Deny) => {}
            }
        }
        match open.is_empty() {
            true => Trial::Yes,
            false => Trial::Open(open),
        }
    }

    fn words(&self, (layer, rule): (Layer, &Rule), tests: &[&Test]) -> String {
        let documents = self.documents.get_or_init(self.parse);
        let basis = Basis {
            layer,
            statement: Some(rule.index),
        };
        let mut all: Vec<String> = Vec::new();
        let mut parts: Vec<&Test> = tests.to_vec();
        parts.sort_by_key(|t| t.part);
        for test in parts {
            let who: Vec<String> = test.claims().map(|c| self.reader(&c).to_string()).collect();
            let words = match test.part {
                Part::Principal if test.negated => format!("the caller is not {}", who.join(" or ")),
                Part::Principal => format!("the caller is {}", who.join(" or ")),
                part => documents.condition(basis, part),
            };
            if !all.contains(&words) {
                all.push(words);
            }
        }
        all.join(" and ")
    }

    fn standing_by(&self, (layer, rule): (Layer, &Rule), effect: Effect, when: Option<String>) -> Standing {
        let basis = Basis {
            layer,
            statement: Some(rule.index),
        };
        let (effect, verb) = match effect {
            Effect::Allow => ("allow", "allows"),
            Effect::Deny => ("deny", "denies"),
        };
        let statement = crate::id::printable(self.layers.statement_id(basis).unwrap_or("?"));
        let mut words = match layer {
            Layer::Secret => format!("statement {statement} {verb} it"),
            _ => format!("{} {verb} it", place(self.layers, basis)),
        };
        if let Some(when) = &when {
            words += &format!(" when {when}");
        }
        Standing {
            layer: layer.code(),
            statement,
            effect,
            when,
            words,
        }
    }

    fn reader(&self, claim: &Claim) -> Reader {
        Reader::of(claim, self.people)
    }
}

impl Rule {
    /// The question that says whom the rule is about, if one does: best one that names users.
    fn anchor(&self) -> Option<&Test> {
        let names_users = |t: &&Test| match &t.what {
            What::Uid(_) => true,
            What::Who(who) => who.gids.is_empty() && who.units.is_empty() && who.services.is_empty(),
            _ => false,
        };
        let mut anchors = self.tests.iter().filter(|t| t.names());
        anchors.clone().find(names_users).or_else(|| anchors.next())
    }

    fn is_anchor(&self, test: &Test) -> bool {
        self.anchor().is_some_and(|anchor| std::ptr::eq(anchor, test))
    }
}

impl Test {
    /// Whether it holds of those alone whom it names.
    fn names(&self) -> bool {
        let listed = match &self.what {
            What::Who(who) => !who.everyone,
            What::Uid(numbers) | What::Groups(numbers) => numbers.patterns.is_empty(),
            _ => false,
        };
        listed && !self.negated && self.unless_absent.is_none()
    }

    /// Whether it is `NotPrincipal`.
    fn spares(&self) -> bool {
        self.part == Part::Principal && self.negated && matches!(self.what, What::Who(_))
    }

    /// Whom it names.
    fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        const NOBODY: &Who = &Who {
            everyone: false,
            uids: Vec::new(),
            gids: Vec::new(),
            units: Vec::new(),
            services: Vec::new(),
        };
        let (who, uids, gids): (_, &[u32], &[u32]) = match &self.what {
            What::Who(who) => (who, &[], &[]),
            What::Uid(numbers) => (NOBODY, &numbers.exact, &[]),
            What::Groups(numbers) => (NOBODY, &[], &numbers.exact),
            _ => (NOBODY, &[], &[]),
        };
        let uids = who.uids.iter().chain(uids).map(|n| Claim::Uid(*n));
        let gids = who.gids.iter().chain(gids).map(|n| Claim::Gid(*n));
        let units = who.units.iter().map(|n| Claim::Unit(n.as_str().into()));
        let services = who.services.iter().map(|n| Claim::Service(n.as_str().into()));
        uids.chain(gids).chain(units).chain(services)
    }
}

/// Whether nobody may read by a secret's own policy, whatever the other layers say.
pub(super) fn nobody(layers: &Layers<'_>, request: &Request<'_>, documents: &dyn Fn() -> Documents) -> bool {
    debug_assert_eq!(request.action, Action::GetSecretValue);
    readers(layers, request, documents, &Numbers).is_empty()
}
