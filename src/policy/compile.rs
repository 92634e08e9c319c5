//! From the typed tree to what a decision runs over: names are numbers, ARNs are local principals, whatever is
//! about the secret itself is already answered, and the questions stand in the order of their cost.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::action::{Action, ActionSet};
use super::condition::{Comparison, Key};
use super::diagnostic::{PolicyError, Source, Warning};
use super::document::{Clause, Condition, Document, Effect, Principal, Statement};
use super::json::Text;
use super::pattern::{eq_ignore_case, glob, glob_arn, glob_suffixed, strip_suffix};
use super::principal::{Local, account, in_account};
use super::words;
use crate::id::SecretName;

/// A policy that is ready to decide. It belongs to the secret that it was compiled for.
#[derive(Debug)]
pub struct Compiled {
    pub(super) name: SecretName,
    pub(super) denies: Box<[Rule]>,
    pub(super) allows: Box<[Rule]>,
    sids: Box<[Option<Box<str>>]>,
    readers: Box<[String]>,
}

/// A statement that applies to the secret.
#[derive(Debug)]
pub(super) struct Rule {
    pub index: u16,
    pub actions: ActionSet,
    /// All have to hold; cheap ones first.
    pub tests: Box<[Test]>,
}

/// One question.
#[derive(Debug)]
pub(super) struct Test {
    pub what: What,
    pub negated: bool,
    /// For `…IfExists`: the test holds too if this is absent.
    pub unless_absent: Option<Presence>,
}

#[derive(Debug)]
pub(super) enum What {
    Const(bool),
    Who(Who),
    Uid(Numbers),
    Gid(Numbers),
    Groups(Numbers),
    Unit(Box<[Words]>),
    Stage(Box<[Words]>),
    Absent(Presence),
}

/// A set of local principals.
#[derive(Debug, Default, Clone)]
pub(super) struct Who {
    pub everyone: bool,
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    pub units: Vec<String>,
    pub services: Vec<String>,
}

/// Ids, listed or by patterns of their decimal form.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub exact: Vec<u32>,
    pub patterns: Vec<String>,
}

/// A text to compare with.
#[derive(Debug)]
pub(super) struct Words {
    comparison: Comparison,
    value: Box<str>,
}

/// Whether the request has a key at all.
#[derive(Debug)]
pub(super) enum Presence {
    Always,
    /// Any of the ARNs' holders has an ARN.
    Arn(Who),
    /// These uids have a name; of others it is not known, as they may have got one since.
    Username(Vec<u32>),
    Unit,
    Stage,
}

/// What a question costs to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cost {
    Free,
    Groups,
    Unit,
}

impl Who {
    fn cost(&self) -> Cost {
        match (self.units.is_empty(), self.gids.is_empty()) {
            _ if self.everyone => Cost::Free,
            (false, _) => Cost::Unit,
            (true, false) => Cost::Groups,
            (true, true) => Cost::Free,
        }
    }

    fn sort(&mut self) {
        for ids in [&mut self.uids, &mut self.gids] {
            ids.sort_unstable();
            ids.dedup();
        }
        for names in [&mut self.units, &mut self.services] {
            names.sort_unstable();
            names.dedup();
        }
    }
}

impl Presence {
    fn cost(&self) -> Cost {
        match self {
            Presence::Arn(who) => who.cost(),
            Presence::Unit => Cost::Unit,
            Presence::Always | Presence::Username(_) | Presence::Stage => Cost::Free,
        }
    }
}

impl Test {
    pub fn cost(&self) -> Cost {
        let what = match &self.what {
            What::Who(who) => who.cost(),
            What::Groups(_) => Cost::Groups,
            What::Unit(_) => Cost::Unit,
            What::Absent(presence) => presence.cost(),
            What::Const(_) | What::Uid(_) | What::Gid(_) | What::Stage(_) => Cost::Free,
        };
        what.max(self.unless_absent.as_ref().map_or(Cost::Free, Presence::cost))
    }

    /// Whether a fact is asked for that costs this much.
    fn asks(&self, cost: Cost) -> bool {
        let who = |who: &Who| {
            !who.everyone
                && match cost {
                    Cost::Free => false,
                    Cost::Groups => !who.gids.is_empty(),
                    Cost::Unit => !who.units.is_empty(),
                }
        };
        let presence = |p: &Presence| match p {
            Presence::Arn(w) => who(w),
            p => p.cost() == cost,
        };
        let what = match &self.what {
            What::Who(w) => who(w),
            What::Absent(p) => presence(p),
            What::Groups(_) => cost == Cost::Groups,
            What::Unit(_) => cost == Cost::Unit,
            What::Const(_) | What::Uid(_) | What::Gid(_) | What::Stage(_) => false,
        };
        what || self.unless_absent.as_ref().is_some_and(presence)
    }

    /// The answer, if it is the same for every request.
    fn constant(&self) -> Option<bool> {
        match (&self.what, &self.unless_absent) {
            (What::Const(c), None) => Some(c ^ self.negated),
            _ => None,
        }
    }
}

impl Rule {
    pub fn cost(&self) -> Cost {
        self.tests.iter().map(Test::cost).max().unwrap_or(Cost::Free)
    }
}

impl Words {
    pub fn matches(&self, text: &str) -> bool {
        match self.comparison {
            Comparison::Equals => *self.value == *text,
            Comparison::EqualsIgnoreCase | Comparison::Bool => eq_ignore_case(&self.value, text),
            Comparison::Like => glob(&self.value, text),
            Comparison::Arn => glob_arn(&self.value, text),
            Comparison::Null => false,
        }
    }
}

impl Compiled {
    /// A statement's Sid, or `#2` for the second if it has none.
    pub fn statement_id(&self, index: u16) -> Cow<'_, str> {
        match self.sids.get(usize::from(index)) {
            Some(Some(sid)) => Cow::Borrowed(sid),
            _ => Cow::Owned(format!("#{}", u32::from(index) + 1)),
        }
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

/// Which facts could matter for this action under this policy.
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
    let mut sids = Vec::with_capacity(document.statements.len());
    for (i, statement) in document.statements.iter().enumerate() {
        sids.push(statement.sid.as_deref().map(Box::from));
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
        sids: sids.into(),
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
        })
    }

    fn condition(&mut self, condition: &Condition) -> Result<Test, PolicyError> {
        let Condition {
            operator,
            key,
            values,
        } = condition;
        let at = values.first().map_or(0, |v| v.at);
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
            .map(|v| Words {
                comparison: operator.comparison,
                value: v.value.as_str().into(),
            })
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
        };
        Ok(Test {
            what,
            negated: operator.negated,
            unless_absent,
        })
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
    let words = |value: &str| Words {
        comparison: if comparison == Comparison::Arn {
            Comparison::Like
        } else {
            comparison
        },
        value: value.into(),
    };
    match value.splitn(6, ':').nth(5) {
        None => words(value).matches(name.as_str()),
        Some(rest) => {
            let subject = format!("secret:{name}");
            match wild {
                true => glob_suffixed(rest, &subject),
                false => {
                    words(rest).matches(&subject)
                        || strip_suffix(rest).is_some_and(|r| words(r).matches(&subject))
                }
            }
        }
    }
}
