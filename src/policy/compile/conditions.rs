//! A statement's conditions: what is about the secret is answered here, texts and ids get the quick questions, and
//! everything else compares each value.

use super::{Compiler, Use, World};
use crate::policy::condition::{Key, of_texts};
use crate::policy::diagnostic::PolicyError;
use crate::policy::document::{Condition, Effect};
use crate::policy::json::Text;
use crate::policy::operator::{Comparison, Operator, Quantifier};
use crate::policy::resource::{Reading, Subject, secret_id_matches};
use crate::policy::role::{self, Match};
use crate::policy::rule::{Each, Numbers, Part, Presence, SecretIdValue, Test, What, Who, Words};
use crate::policy::template::Template;
use crate::policy::value::Matcher;

impl Compiler<'_> {
    fn presence(&self, key: &Key) -> Presence {
        match key {
            Key::SecretId if matches!(self.purpose, Use::Secret(..)) => Presence::Always,
            Key::Uid | Key::Gid | Key::Groups | Key::CurrentTime | Key::EpochTime => Presence::Always,
            _ => Presence::Has(self.origin(key)),
        }
    }

    /// What one condition asks.
    pub(super) fn condition(
        &mut self,
        condition: &Condition,
        effect: Effect,
        part: Part,
    ) -> Result<Test, PolicyError> {
        let Condition {
            operator,
            key,
            values,
        } = condition;
        let at = values.first().map_or(0, |v| v.at);
        if let Key::Foreign(name) = key
            && self.is_absent(key)
        {
            let holds = without_key(*operator, values);
            self.absent(name, holds, part, at);
            return Ok(Test {
                part,
                what: What::Const(holds),
                negated: false,
                unless_absent: None,
            });
        }
        if operator.comparison == Comparison::Null {
            let absent = |v: &Text| v.value.eq_ignore_ascii_case("true");
            let what = match (values.iter().any(absent), values.iter().all(absent)) {
                (true, false) => What::Const(true),
                _ => match self.presence(key) {
                    Presence::Always => What::Const(false),
                    presence => What::Absent(presence),
                },
            };
            let negated = !values.iter().any(absent);
            return Ok(Test {
                part,
                what,
                negated,
                unless_absent: None,
            });
        }
        let flag = matches!(key, Key::NoNewPrivs | Key::Traced | Key::Foreign(_)) || self.is_tag(key);
        if operator.comparison == Comparison::Bool && !flag {
            self.warn(
                at,
                format!(
                    "{} is a text, not true or false: Bool hardly ever matches it",
                    key.name()
                ),
            );
        }
        let on = self.variables;
        let variable = |v: &Text| on && of_texts(operator.comparison) && v.value.contains("${");
        let variables = values.iter().any(variable);
        let unless_absent = match (operator.if_exists, operator.quantifier) {
            (true, None) => Some(self.presence(key)).filter(|p| !matches!(p, Presence::Always)),
            _ => None,
        };
        let reading = Reading::of(effect, operator.negated);
        if let Some(what) = self.plain(condition, reading, variables, at)? {
            return Ok(Test {
                part,
                what,
                negated: operator.negated,
                unless_absent,
            });
        }
        if *key == Key::SecretId {
            let template = |v: &Text| Template::parse(&v.value, true, true).ok().filter(|_| variable(v));
            let values: Box<[SecretIdValue]> = values
                .iter()
                .map(|v| SecretIdValue {
                    text: v.value.as_str().into(),
                    template: template(v),
                })
                .collect();
            let origins = self.origins(values.iter().filter_map(|v| v.template.as_ref()));
            return Ok(Test {
                part,
                what: What::SecretId(operator.comparison, reading, values, origins),
                negated: operator.negated,
                unless_absent,
            });
        }
        let matcher = Matcher::new(operator.comparison, values, self.variables);
        let each = Each {
            origin: match key {
                Key::PrincipalArn => self.arns(|arn| {
                    let values = values.iter().map(|v| v.value.as_str());
                    role::spellings(operator.comparison, values, arn, on)
                }),
                _ => self.origin(key),
            },
            // A negated operator is true if none of the values matches.
            all: match operator.quantifier {
                Some(quantifier) => quantifier == Quantifier::All,
                None => operator.negated,
            },
            negated: operator.negated,
            variables: self.origins(matcher.templates()),
            matcher,
        };
        Ok(Test {
            part,
            what: What::Each(Box::new(each)),
            negated: false,
            unless_absent,
        })
    }

    fn is_tag(&self, key: &Key) -> bool {
        matches!(
            key,
            Key::PrincipalTag(_) | Key::ResourceTag(_) | Key::RequestTag(_)
        )
    }

    /// The quicker questions for comparisons of texts without quantifier and variables.
    fn plain(
        &mut self,
        condition: &Condition,
        reading: Reading,
        variables: bool,
        at: usize,
    ) -> Result<Option<What>, PolicyError> {
        let Condition {
            operator,
            key,
            values,
        } = condition;
        let text = of_texts(operator.comparison) || operator.comparison == Comparison::Bool;
        if let (Use::Secret(name, arn), Key::SecretId, false) = (self.purpose, key, variables) {
            let subject = Subject {
                name: Some(name),
                arn,
            };
            let mut values = values.iter();
            let any = values.any(|v| secret_id_matches(operator.comparison, &v.value, reading, subject));
            return Ok(Some(What::Const(any)));
        }
        if operator.quantifier.is_some() || variables || !text {
            return Ok(None);
        }
        let words: Box<[Words]> = values
            .iter()
            .map(|v| Words::new(operator.comparison, &v.value))
            .collect();
        let any = |text: &str| words.iter().any(|w| w.matches(text));
        Ok(Some(match key {
            Key::PrincipalArn => {
                let compare = |value: &str, arn: &str| role::compare(operator.comparison, value, arn, false);
                for value in values {
                    let mut arns = self.tables.principals.keys();
                    let mapped = arns.any(|arn| compare(&value.value, arn) != Match::No);
                    if !mapped && operator.comparison != Comparison::Bool {
                        self.warn(value.at, format!("[principals] maps nobody to {:?}", value.value));
                    }
                }
                // What only some path of a role would match allows nothing, and denies.
                let least = match (self.effect == Effect::Deny) != operator.negated {
                    true => Match::Perhaps,
                    false => Match::Yes,
                };
                let held = |arn: &str| values.iter().any(|v| compare(&v.value, arn) >= least);
                What::Who(self.holders(at, held)?)
            }
            Key::Username if self.world == World::Here => {
                let named = self.tables.users.iter().filter(|(n, _)| any(n));
                What::Who(Who {
                    uids: sorted(named.map(|(_, uid)| *uid)),
                    ..Who::default()
                })
            }
            Key::Uid => What::Uid(self.numbers(condition, None)),
            Key::Gid => What::Gid(self.numbers(condition, None)),
            Key::Groups => What::Groups(self.numbers(condition, Some(&any))),
            Key::Unit => What::Unit(words),
            Key::VersionStage => What::Stage(words),
            _ => return Ok(None),
        }))
    }

    /// The ids that a condition compares with; `named` tells which names of groups it matches besides.
    fn numbers(&self, condition: &Condition, named: Option<&dyn Fn(&str) -> bool>) -> Numbers {
        let mut numbers = Numbers::default();
        for value in condition.values.iter().map(|v| v.value.as_str()) {
            match (condition.operator.comparison, value.parse()) {
                (Comparison::Bool, _) => {}
                (_, Ok(id)) => numbers.exact.push(id),
                (Comparison::Like, Err(_)) => numbers.patterns.push(value.into()),
                _ => {}
            }
        }
        if let Some(named) = named {
            numbers.exact.extend(
                self.tables
                    .groups
                    .iter()
                    .filter(|(n, _)| named(n))
                    .map(|(_, gid)| *gid),
            );
        }
        numbers.exact = sorted(numbers.exact);
        numbers
    }
}

/// Whether a condition holds on a key that the request lacks: a positive operator fails, a negated one or one with
/// IfExists holds, and Null asks just that.
fn without_key(operator: Operator, values: &[Text]) -> bool {
    match operator.comparison {
        Comparison::Null => values.iter().any(|v| v.value.eq_ignore_ascii_case("true")),
        // Of no values every one satisfies, and none does.
        _ => match operator.quantifier {
            Some(quantifier) => quantifier == Quantifier::All,
            None => operator.negated || operator.if_exists,
        },
    }
}

fn sorted(ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
