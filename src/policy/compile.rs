//! From the typed tree to what a decision runs over: names are numbers, ARNs are local principals, whatever is
//! about the secret itself is already answered, and the questions stand in the order of their cost.

use std::collections::BTreeMap;

use super::action::Action;
use super::condition::{Comparison, Key, Operator};
use super::diagnostic::{PolicyError, Source, Warning};
use super::document::{Clause, Condition, Document, Effect, Principal, Statement};
use super::json::Text;
use super::pattern::{glob_suffixed, is_wild, strip_suffix};
use super::principal::{Local, account, in_account};
use super::rule::{Cost, Numbers, Presence, Rule, Test, What, Who, Words};
use super::words;
use crate::id::SecretName;

/// A policy that is ready to decide. It belongs to the secret that it was compiled for.
#[derive(Debug)]
pub struct Compiled {
    pub(super) name: SecretName,
    pub(super) denies: Box<[Rule]>,
    pub(super) allows: Box<[Rule]>,
    ids: Box<[Box<str>]>,
    readers: Box<[String]>,
}

/// Threads of the serving path share it.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Compiled>()
};

impl Compiled {
    /// A statement's Sid, or `#2` for the second if it has none.
    pub fn statement_id(&self, index: u16) -> &str {
        self.ids.get(usize::from(index)).map_or("?", |id| id)
    }
}

/// Who may read the value, in words, one entry a principal: `user www-data (uid 33)`, `group backup (gid 34)`,
/// `unit app.service`, `anyone`, followed by ` when …` if there are conditions. Entries that begin with
/// `but not ` are what Deny statements take from the others. Empty if nobody may.
pub fn readers(policy: &Compiled) -> Vec<String> {
    policy.readers.to_vec()
}

/// Which of a caller's costly facts could matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Its supplementary groups.
    pub groups: bool,
    /// Its systemd unit.
    pub unit: bool,
}

/// Which facts could matter for this action under this policy. (The built-in layer asks for groups besides,
/// except for the actions that read a value.)
pub fn needs(policy: &Compiled, action: Action) -> Needs {
    let rules = || {
        policy
            .denies
            .iter()
            .chain(&policy.allows)
            .filter(|r| r.actions.contains(action))
    };
    let asks = |cost| rules().any(|r| r.tests.iter().any(|t| t.asks(cost)));
    Needs {
        groups: asks(Cost::Groups),
        unit: asks(Cost::Unit),
    }
}

/// The tables of a record.
pub(super) struct Tables<'a> {
    pub principals: &'a BTreeMap<String, Vec<Local>>,
    pub users: &'a BTreeMap<String, u32>,
    pub groups: &'a BTreeMap<String, u32>,
}

/// Compiles a document for a secret.
pub(super) fn compile(
    document: &Document,
    source: Source<'_>,
    tables: &Tables<'_>,
    name: &SecretName,
) -> Result<(Compiled, Vec<Warning>), PolicyError> {
    let mut compiler = Compiler {
        source,
        tables,
        name,
        warnings: Vec::new(),
    };
    let (mut denies, mut allows) = (Vec::new(), Vec::new());
    let mut readers = words::Readers::default();
    let mut ids: Vec<Box<str>> = Vec::with_capacity(document.statements.len());
    for (i, statement) in document.statements.iter().enumerate() {
        ids.push(match statement.sid.as_deref() {
            Some(sid) => sid.into(),
            None => format!("#{}", ids.len() + 1).into(),
        });
        // 20,480 bytes hold far fewer statements than that.
        let index =
            u16::try_from(i).map_err(|_| source.error(statement.at, "there are too many statements"))?;
        let Some(rule) = compiler.rule(index, statement)? else {
            continue;
        };
        if rule.actions.contains(Action::GetSecretValue) {
            readers.add(statement, tables);
        }
        match statement.effect {
            Effect::Allow => allows.push(rule),
            Effect::Deny => denies.push(rule),
        }
    }
    denies.sort_by_key(Rule::cost);
    allows.sort_by_key(Rule::cost);
    let readers = readers.finish();
    let mut warnings = compiler.warnings;
    if readers.is_empty() {
        let message = "nobody may read the secret: what no statement allows is denied";
        warnings.push(source.warning(0, message));
    }
    let compiled = Compiled {
        name: name.clone(),
        denies: denies.into(),
        allows: allows.into(),
        ids: ids.into(),
        readers: readers.into(),
    };
    Ok((compiled, warnings))
}

struct Compiler<'a> {
    source: Source<'a>,
    tables: &'a Tables<'a>,
    name: &'a SecretName,
    warnings: Vec<Warning>,
}

impl Compiler<'_> {
    fn warn(&mut self, at: usize, message: impl Into<String>) {
        self.warnings.push(self.source.warning(at, message));
    }

    /// `None` if the statement can never apply.
    fn rule(&mut self, index: u16, statement: &Statement) -> Result<Option<Rule>, PolicyError> {
        let mut tests = vec![self.principal(statement)?];
        for condition in &statement.conditions {
            tests.push(self.condition(condition)?);
        }
        let public = matches!(statement.principal.items.as_slice(), [Principal::Everyone])
            && statement.conditions.is_empty();
        if public && statement.effect == Effect::Allow && statement.actions.contains(Action::GetSecretValue) {
            self.warn(statement.at, "every process on this machine may read the secret");
        }
        if !resource_matches(&statement.resource, self.name) {
            self.warn(
                statement.at,
                format!(
                    "the resource is not this secret ({}): the statement has no effect",
                    self.name
                ),
            );
            return Ok(None);
        }
        if statement.actions.is_empty() {
            self.warn(statement.at, "the statement is about no action and has no effect");
            return Ok(None);
        }
        if tests.iter().any(|t| t.constant() == Some(false)) {
            self.warn(
                statement.at,
                "the statement can match no request and has no effect",
            );
            return Ok(None);
        }
        tests.retain(|t| t.constant().is_none());
        tests.sort_by_key(Test::cost);
        Ok(Some(Rule {
            index,
            actions: statement.actions,
            tests: tests.into(),
        }))
    }

    fn principal(&mut self, statement: &Statement) -> Result<Test, PolicyError> {
        let mut who = Who::default();
        let negated = statement.principal.negated;
        for principal in &statement.principal.items {
            match principal {
                Principal::Everyone => who.everyone = true,
                Principal::Local(local) => {
                    if matches!(&local.value, Local::Service(s) if s.ends_with(".amazonaws.com")) {
                        self.warn(
                            local.at,
                            "a service of AWS never calls here; Service means a part of wardfs",
                        );
                    }
                    self.add(&mut who, &local.value, local.at)?;
                }
                Principal::Aws(arn) => {
                    let deny_account = statement.effect == Effect::Deny && !negated;
                    let held = self
                        .tables
                        .principals
                        .iter()
                        .filter(|(k, _)| names(arn, k, deny_account));
                    let held: Vec<&Local> = held.flat_map(|(_, locals)| locals).collect();
                    if held.is_empty() {
                        let what = match (statement.effect, negated) {
                            (Effect::Allow, _) => "allows nobody",
                            (Effect::Deny, false) => "denies nobody",
                            (Effect::Deny, true) => "exempts nobody",
                        };
                        self.warn(
                            arn.at,
                            format!("[principals] maps nobody to {:?}: naming it {what}", arn.value),
                        );
                    }
                    for local in held {
                        self.add(&mut who, local, arn.at)?;
                    }
                }
            }
        }
        who.sort();
        let what = if who.everyone {
            What::Const(true)
        } else {
            What::Who(who)
        };
        Ok(Test {
            what,
            negated,
            unless_absent: None,
        })
    }

    fn add(&self, who: &mut Who, local: &Local, at: usize) -> Result<(), PolicyError> {
        let id = |table: &BTreeMap<String, u32>, kind: &str, name: &str| {
            let missing = || {
                self.source
                    .error(at, format!("the record of this policy has no {kind} {name:?}"))
            };
            table.get(name).copied().ok_or_else(missing)
        };
        match local {
            Local::User(name) => who.uids.push(id(self.tables.users, "user", name)?),
            Local::Uid(uid) => who.uids.push(uid.0),
            Local::Group(name) => who.gids.push(id(self.tables.groups, "group", name)?),
            Local::Gid(gid) => who.gids.push(gid.0),
            Local::Unit(name) => who.units.push(name.clone()),
            Local::Service(name) => who.services.push(name.clone()),
        }
        Ok(())
    }

    /// The local principals that count as any ARN that `matches`.
    fn holders(&self, at: usize, matches: impl Fn(&str) -> bool) -> Result<Who, PolicyError> {
        let mut who = Who::default();
        for (_, locals) in self.tables.principals.iter().filter(|(arn, _)| matches(arn)) {
            for local in locals {
                self.add(&mut who, local, at)?;
            }
        }
        who.sort();
        Ok(who)
    }

    fn presence(&self, key: Key, at: usize) -> Result<Presence, PolicyError> {
        Ok(match key {
            Key::PrincipalArn => Presence::Arn(self.holders(at, |_| true)?),
            Key::Username => Presence::Username(sorted(self.tables.users.values().copied())),
            Key::VersionStage => Presence::Stage,
            Key::Unit => Presence::Unit,
            Key::SecretId | Key::Uid | Key::Gid | Key::Groups => Presence::Always,
            // Answered before it is asked; without the answer nothing may match.
            Key::Foreign(_) => Presence::Never,
        })
    }

    fn condition(&mut self, condition: &Condition) -> Result<Test, PolicyError> {
        let Condition {
            operator,
            key,
            values,
        } = condition;
        let at = values.first().map_or(0, |v| v.at);
        if let Key::Foreign(name) = key {
            return Ok(self.absent_key(name, *operator, values, at));
        }
        if operator.comparison == Comparison::Null {
            let absent = |v: &Text| v.value.eq_ignore_ascii_case("true");
            let what = match (values.iter().any(absent), values.iter().all(absent)) {
                (true, false) => What::Const(true),
                _ => match self.presence(*key, at)? {
                    Presence::Always => What::Const(false),
                    presence => What::Absent(presence),
                },
            };
            let negated = !values.iter().any(absent);
            return Ok(Test {
                what,
                negated,
                unless_absent: None,
            });
        }
        if operator.comparison == Comparison::Bool {
            self.warn(
                at,
                format!(
                    "{} is a text, not true or false: Bool hardly ever matches it",
                    key.name()
                ),
            );
        }
        let unless_absent = match operator.if_exists {
            true => Some(self.presence(*key, at)?).filter(|p| !matches!(p, Presence::Always)),
            false => None,
        };
        let words: Box<[Words]> = values
            .iter()
            .map(|v| Words::new(operator.comparison, &v.value))
            .collect();
        let any = |text: &str| words.iter().any(|w| w.matches(text));
        let what = match key {
            Key::SecretId => What::Const(
                values
                    .iter()
                    .any(|v| secret_id_matches(operator.comparison, &v.value, self.name)),
            ),
            Key::PrincipalArn => {
                for (value, word) in values.iter().zip(&words) {
                    let mapped = self.tables.principals.keys().any(|arn| word.matches(arn));
                    if !mapped && operator.comparison != Comparison::Bool {
                        self.warn(value.at, format!("[principals] maps nobody to {:?}", value.value));
                    }
                }
                What::Who(self.holders(at, any)?)
            }
            Key::Username => {
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
            Key::Foreign(_) => What::Const(false),
        };
        Ok(Test {
            what,
            negated: operator.negated,
            unless_absent,
        })
    }

    /// A condition on a key that no request here has: a positive operator fails, a negated one or one with
    /// IfExists holds, and Null asks just that.
    fn absent_key(&mut self, name: &str, operator: Operator, values: &[Text], at: usize) -> Test {
        let holds = match operator.comparison {
            Comparison::Null => values.iter().any(|v| v.value.eq_ignore_ascii_case("true")),
            _ => operator.negated || operator.if_exists,
        };
        let always = if holds { "always" } else { "never" };
        self.warn(
            at,
            format!("no caller on this machine has {name}: the condition {always} holds"),
        );
        Test {
            what: What::Const(holds),
            negated: false,
            unless_absent: None,
        }
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

fn sorted(ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Whether a principal of AWS names this ARN. An account's principal stands for the account's own entry; in a
/// Deny, where that is the safe reading, for everybody in the account.
pub(super) fn names(principal: &Text, arn: &str, whole_account: bool) -> bool {
    match account(&principal.value) {
        Some(number) => {
            arn == principal.value || account(arn) == Some(number) || whole_account && in_account(arn, number)
        }
        None => arn == principal.value,
    }
}

/// Whether the clause's ARNs (but not their region and account) are of the secret.
fn resource_matches(clause: &Clause<Text>, name: &SecretName) -> bool {
    let subject = format!("secret:{name}");
    let listed = clause.items.iter().any(|t| {
        t.value == "*"
            || t.value
                .splitn(6, ':')
                .nth(5)
                .is_some_and(|rest| glob_suffixed(rest, &subject))
    });
    listed != clause.negated
}

fn secret_id_matches(comparison: Comparison, value: &str, name: &SecretName) -> bool {
    let wild = matches!(comparison, Comparison::Like | Comparison::Arn);
    let literal = |value: &str, text: &str| Words::new(comparison, value).matches(text);
    let subject = format!("secret:{name}");
    match value.splitn(6, ':').nth(5) {
        Some(rest) if wild => glob_suffixed(rest, &subject),
        Some(rest) => {
            literal(rest, &subject) || strip_suffix(rest).is_some_and(|rest| literal(rest, &subject))
        }
        // To AWS the key is the whole ARN, which a pattern without colons may mean too.
        None if wild && is_wild(value) => {
            glob_suffixed(value, name.as_str())
                || glob_suffixed(value, &format!("arn:aws:secretsmanager:::{subject}"))
        }
        None => literal(value, name.as_str()),
    }
}
