//! What a document says of other services: it has no effect, each of it is one warning, and what that does to a Deny
//! or to a guardrail is said besides.

use super::{Compiler, Use, World};
use crate::policy::action::ActionSet;
use crate::policy::condition::{Key, of_texts};
use crate::policy::diagnostic::Concern;
use crate::policy::document::{Document, Effect, Principal, Statement};
use crate::policy::foreign::{self, Spoken};
use crate::policy::json::Text;
use crate::policy::rule::{Part, Test};
use crate::policy::template::Template;

/// What was found of it.
#[derive(Default)]
pub(super) struct Others {
    /// The actions of keys, and where the first stands.
    kms: Vec<String>,
    kms_at: usize,
    /// Of the statement at hand: what it says that has no effect here.
    here: Vec<Absence>,
    /// What Allow statements that can match are about.
    kept: ActionSet,
    /// Whether one cannot match for it, and what those are about that a key keeps from matching.
    losing: bool,
    lost: ActionSet,
}

/// What is not here.
struct Absence {
    what: String,
    /// Of which question; none for an action.
    part: Option<Part>,
    /// Whether it is another service's, and not AWS's at large or of keys.
    other: bool,
    does: Does,
}

/// What it does to the statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// It keeps it from matching.
    Hinder,
    /// It lets it match.
    Help,
    /// A variable without a value: an Allow fails, a Deny denies.
    Invalidate,
}

/// Whether a key is another service's: not one of AWS's at large, and not one of keys, which are to come.
fn is_others(key: &str) -> bool {
    !foreign::is_known(key) && !key.to_ascii_lowercase().starts_with("kms:")
}

fn concern(other: bool) -> Concern {
    if other { Concern::Foreign } else { Concern::Odd }
}

impl Compiler<'_> {
    fn warn_of(&mut self, at: usize, message: impl Into<String>, concern: Concern) {
        self.warnings
            .push(self.source.warning(at, message).concern(concern));
    }

    /// Reads a statement's actions, resources and variables.
    pub(super) fn begin(&mut self, statement: &Statement) {
        self.effect = statement.effect;
        self.others.here.clear();
        let negated = statement.action.negated;
        for text in &statement.action.items {
            let spoken = foreign::spoken(&text.value);
            match spoken {
                Spoken::Here => continue,
                Spoken::Kms => self.others.of_keys(text),
                Spoken::Other => {
                    let does = if negated { "excepts" } else { "matches" };
                    let message = format!("{:?} is of another service: it {does} nothing here", text.value);
                    self.warn_of(text.at, message, Concern::Foreign);
                }
            }
            self.others.here.push(Absence {
                what: text.value.clone(),
                part: None,
                other: spoken == Spoken::Other,
                does: if negated { Does::Help } else { Does::Hinder },
            });
        }
        let resource = &statement.resource;
        if resource.items.iter().all(|t| foreign::is_resource(&t.value)) {
            let all: Vec<&str> = resource.items.iter().map(|t| t.value.as_str()).collect();
            self.others.here.push(Absence {
                what: all.join(", "),
                part: Some(Part::Resource),
                other: true,
                does: if resource.negated {
                    Does::Help
                } else {
                    Does::Hinder
                },
            });
        }
        for text in resource.items.iter().filter(|t| !foreign::is_resource(&t.value)) {
            self.absent_variables(text, Part::Resource);
        }
        for (i, condition) in (0..).zip(&statement.conditions) {
            if of_texts(condition.operator.comparison) && !self.is_absent(&condition.key) {
                let values = condition.values.iter();
                values.for_each(|text| self.absent_variables(text, Part::Condition(i)));
            }
        }
    }

    fn absent_variables(&mut self, text: &Text, part: Part) {
        let Ok(template) = Template::parse(&text.value, self.variables, true) else {
            return;
        };
        for variable in template.variables().filter(|v| v.default.is_none()) {
            let Key::Foreign(key) = &variable.key else {
                continue;
            };
            if !self.is_absent(&variable.key) {
                continue;
            }
            let does = match self.effect {
                Effect::Allow => "allows nobody",
                Effect::Deny => "denies whomever else it matches",
            };
            let message = format!("no caller on this machine has {key}: the statement {does}");
            self.warn_of(text.at, message, concern(is_others(key)));
            self.others.here.push(Absence {
                what: key.to_string(),
                part: Some(part),
                other: is_others(key),
                does: Does::Invalidate,
            });
        }
    }

    /// Whether a key means nothing here, and no simulation gives it.
    pub(super) fn is_absent(&self, key: &Key) -> bool {
        matches!(key, Key::Foreign(name) if !self.world.gives(name))
    }

    /// Takes note of a condition on a key that is absent.
    pub(super) fn absent(&mut self, key: &str, holds: bool, part: Part, at: usize) {
        let always = if holds { "always" } else { "never" };
        let message = format!("no caller on this machine has {key}: the condition {always} holds");
        self.warn_of(at, message, concern(is_others(key)));
        self.others.here.push(Absence {
            what: key.into(),
            part: Some(part),
            other: is_others(key),
            does: if holds { Does::Help } else { Does::Hinder },
        });
    }

    /// Whether a statement of a layer can match nothing for what it says of other services. A Deny is warned of by its
    /// name; of an Allow it was said where it says so.
    pub(super) fn is_without_effect(&mut self, id: &str, statement: &Statement) -> bool {
        if matches!(self.purpose, Use::Secret(..)) || self.world != World::Here {
            return false;
        }
        // Among other actions, one of another service hinders nothing.
        let no_action = statement.actions.is_empty();
        let here = self.others.here.iter();
        let hindering: Vec<&Absence> = here
            .filter(|a| a.does == Does::Hinder && (no_action || a.part.is_some()))
            .collect();
        if hindering.is_empty() {
            return false;
        }
        let other = hindering.iter().any(|a| a.other);
        let by_resource = hindering.iter().all(|a| a.part == Some(Part::Resource));
        let by_key = hindering
            .iter()
            .any(|a| matches!(a.part, Some(Part::Condition(_))));
        let what: Vec<&str> = hindering.iter().map(|a| a.what.as_str()).collect();
        let what = some(&what);
        match statement.effect {
            Effect::Deny => {
                let message = format!("the Deny {} denies nothing here: it asks for {what}", name(id));
                self.warn_of(statement.at, message, concern(other));
            }
            Effect::Allow => {
                if by_resource {
                    let message = format!("the Allow {} allows nothing here: it asks for {what}", name(id));
                    self.warn_of(statement.at, message, Concern::Foreign);
                }
                self.others.losing = true;
                if by_key {
                    self.others.lost = self.others.lost.union(statement.actions);
                }
            }
        }
        true
    }

    /// What a statement that can match does to a guardrail. `tests`: what is not settled.
    pub(super) fn takes_effect(&mut self, id: &str, statement: &Statement, tests: &[Test]) {
        if !matches!(self.purpose, Use::Guardrail) || self.world != World::Here {
            return;
        }
        let Others { here, kept, lost, .. } = &mut self.others;
        let invalid = |part: Part| {
            here.iter()
                .any(|a| a.does == Does::Invalidate && a.part == Some(part))
        };
        if statement.effect == Effect::Allow {
            match here.iter().any(|a| a.does == Does::Invalidate) {
                false => *kept = kept.union(statement.actions),
                true => {
                    *lost = lost.union(statement.actions);
                    self.others.losing = true;
                }
            }
            return;
        }
        let why: Vec<&str> = here
            .iter()
            .filter(|a| a.does != Does::Hinder)
            .map(|a| a.what.as_str())
            .collect();
        let everybody = matches!(statement.principal.items.as_slice(), [Principal::Everyone]);
        let limited = tests.iter().any(|t| t.part != Part::Resource && !invalid(t.part));
        if everybody && !why.is_empty() && !limited {
            let message = format!(
                "the Deny {} denies {} to everybody: what it makes an exception for is not here ({})",
                name(id),
                actions(statement.actions),
                some(&why)
            );
            self.warn_of(statement.at, message, Concern::Lockout);
        }
    }

    /// What is to be said of the document as a whole.
    pub(super) fn finish(&mut self, document: &Document) {
        if !self.others.kms.is_empty() {
            let message = format!(
                "actions of keys are kept, and come into force with keys; until then they match nothing: {}",
                self.others.kms.join(", ")
            );
            self.warn_of(self.others.kms_at, message, Concern::Odd);
        }
        let Others {
            kept, lost, losing, ..
        } = self.others;
        if !matches!(self.purpose, Use::Guardrail) || !losing || self.world != World::Here {
            return;
        }
        let denied = match (kept.is_empty(), lost.without(kept)) {
            (true, _) => ActionSet::ALL,
            (false, gone) if gone.is_empty() => return,
            (false, gone) => gone,
        };
        let first = document.statements.iter().find(|s| s.effect == Effect::Allow);
        let message = format!(
            "the guardrail denies {} to everybody: it has Allow statements, and none that can match here allows it",
            actions(denied)
        );
        self.warn_of(first.map_or(0, |s| s.at), message, Concern::Lockout);
    }
}

impl Others {
    fn of_keys(&mut self, text: &Text) {
        if self.kms.is_empty() {
            self.kms_at = text.at;
        }
        if !self.kms.contains(&text.value) {
            self.kms.push(text.value.clone());
        }
    }
}

/// The first of them, and how many there are besides.
fn some(all: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = all.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn actions(set: ActionSet) -> String {
    if set == ActionSet::ALL {
        return "everything".into();
    }
    let names: Vec<String> = set.iter().map(|a| a.to_string()).collect();
    some(&names)
}

/// A statement's name in a sentence: `"Sid"`, or `#2`.
fn name(id: &str) -> String {
    match id.starts_with('#') {
        true => format!("statement {id}"),
        false => format!("statement {id:?}"),
    }
}
