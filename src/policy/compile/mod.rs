//! From the typed tree to what a decision runs over: names are numbers, ARNs are local principals, whatever is
//! about the secret itself is already answered, and the questions stand in the order of their cost.

mod conditions;
mod others;
mod warnings;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::SecretName;
use crate::policy::action::Action;
use crate::policy::condition::Key;
use crate::policy::diagnostic::{Concern, PolicyError, Source, Warning};
use crate::policy::document::{Condition, Document, Effect, Principal, Statement, Version};
use crate::policy::facts::Given;
use crate::policy::principal::Local;
use crate::policy::resource::{Resource, Subject};
use crate::policy::role::{self, names};
use crate::policy::rule::{Origin, Part, Rule, Rules, Spellings, Test, What, Who, Words};
use crate::policy::template::Template;
use crate::pool::Pool;
use others::Others;

/// Whose a document is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use<'a> {
    /// A secret's own: whatever is about the secret itself is answered once.
    Secret(&'a SecretName, Option<&'a str>),
    /// A guardrail.
    Guardrail,
    /// That of an identity.
    Identity,
}

/// Where the request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum World<'a> {
    /// This machine.
    Here,
    /// Words, which give keys that mean nothing here the values in it.
    Simulated(&'a Given),
}

impl World<'_> {
    /// Whether a key that means nothing here has values.
    fn gives(self, key: &str) -> bool {
        match self {
            World::Here => false,
            World::Simulated(given) => given.context.contains_key(&key.to_ascii_lowercase()),
        }
    }
}

/// A policy that is ready to decide. It belongs to the secret that it was compiled for.
#[derive(Debug, Clone)]
pub struct Compiled {
    name: SecretName,
    arn: Option<Box<str>>,
    body: Arc<Body>,
}

/// What secrets may have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(in crate::policy) struct Body {
    rules: Rules,
    ids: Box<[Box<str>]>,
}

/// Policies of which equal parts are kept once.
#[derive(Default)]
pub struct Compilations(Pool<Body>);

impl Compilations {
    /// The same policy, in common with those that came before.
    pub fn share(&self, policy: Compiled) -> Compiled {
        Compiled {
            body: self.0.share(policy.body),
            ..policy
        }
    }
}

/// Threads of the serving path share it.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Compiled>()
};

impl Compiled {
    /// A statement's Sid, or `#2` for the second if it has none.
    pub fn statement_id(&self, index: u32) -> &str {
        self.body.ids.get(index as usize).map_or("?", |id| id)
    }

    pub(super) fn body(&self) -> &Arc<Body> {
        &self.body
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.body.rules
    }

    /// Whether it was compiled for this secret.
    pub(super) fn is_for(&self, subject: Subject<'_>) -> bool {
        subject.name == Some(&self.name) && subject.arn == self.arn.as_deref()
    }
}

/// The tables of a record.
pub(super) struct Tables<'a> {
    pub principals: &'a BTreeMap<String, Vec<Local>>,
    pub users: &'a BTreeMap<String, u32>,
    pub groups: &'a BTreeMap<String, u32>,
}

/// What a document compiles to.
pub(super) struct Output {
    pub rules: Rules,
    /// The statements' names.
    pub ids: Vec<Box<str>>,
    pub warnings: Vec<Warning>,
}

impl Output {
    /// As the policy of the secret that it was compiled for.
    pub fn of_secret(self, name: &SecretName, arn: Option<&str>) -> Compiled {
        Compiled {
            name: name.clone(),
            arn: arn.map(Into::into),
            body: Arc::new(Body {
                rules: self.rules,
                ids: self.ids.into(),
            }),
        }
    }
}

/// Compiles a document. Statements are numbered from `first`.
pub(super) fn compile(
    document: &Document,
    source: Source<'_>,
    tables: &Tables<'_>,
    purpose: Use<'_>,
    world: World<'_>,
    first: u32,
) -> Result<Output, PolicyError> {
    let mut compiler = Compiler {
        source,
        tables,
        purpose,
        world,
        variables: document.version == Version::V2012,
        effect: Effect::Allow,
        warnings: Vec::new(),
        others: Others::default(),
    };
    let mut rules = Rules::default();
    let mut ids: Vec<Box<str>> = Vec::with_capacity(document.statements.len());
    for (index, statement) in (first..).zip(&document.statements) {
        ids.push(match statement.sid.as_deref() {
            Some(sid) => sid.into(),
            None => format!("#{}", ids.len() + 1).into(),
        });
        let id = ids.last().map_or("", |id| id);
        let Some(rule) = compiler.rule(index, id, statement)? else {
            continue;
        };
        match statement.effect {
            Effect::Allow => rules.allows.push(rule),
            Effect::Deny => rules.denies.push(rule),
        }
    }
    rules.sort();
    compiler.open_but_for_some(document);
    compiler.finish(document);
    let warnings = compiler.warnings;
    Ok(Output { rules, ids, warnings })
}

struct Compiler<'a> {
    source: Source<'a>,
    tables: &'a Tables<'a>,
    purpose: Use<'a>,
    world: World<'a>,
    /// Whether `${…}` is a variable.
    variables: bool,
    /// That of the statement at hand.
    effect: Effect,
    warnings: Vec<Warning>,
    others: Others,
}

impl Compiler<'_> {
    fn warn(&mut self, at: usize, message: impl Into<String>) {
        self.warnings.push(self.source.warning(at, message));
    }

    /// `None` if the statement can never apply.
    fn rule(&mut self, index: u32, id: &str, statement: &Statement) -> Result<Option<Rule>, PolicyError> {
        self.begin(statement);
        let mut tests = vec![self.principal(statement)?, self.resource(statement)];
        self.suffix_as_wildcard(statement);
        for (i, condition) in statement.conditions.iter().enumerate() {
            // 20,480 bytes hold far fewer conditions than 65,536.
            let part = Part::Condition(u16::try_from(i).unwrap_or(u16::MAX));
            tests.push(self.condition(condition, statement.effect, part)?);
        }
        let public = matches!(statement.principal.items.as_slice(), [Principal::Everyone])
            && statement.conditions.is_empty();
        let reads = statement.effect == Effect::Allow && statement.actions.contains(Action::GetSecretValue);
        if public && reads && matches!(self.purpose, Use::Secret(..)) {
            let message = "every process on this machine may read the secret";
            self.warnings.push(
                self.source
                    .warning(statement.at, message)
                    .concern(Concern::Public),
            );
        }
        if reads && statement.conditions.iter().any(grants_previous) {
            let message = "who may read `previous` reads each value when the next one is put";
            self.warn(statement.at, message);
        }
        let never = |t: &Test| t.constant() == Some(false);
        if let (Use::Secret(name, _), true) = (self.purpose, tests.get(1).is_some_and(never)) {
            let message = format!("the resource is not this secret ({name}): the statement has no effect");
            self.warn(statement.at, message);
            return Ok(None);
        }
        if self.is_without_effect(id, statement) {
            return Ok(None);
        }
        if statement.actions.is_empty() {
            self.warn(statement.at, "the statement is about no action and has no effect");
            return Ok(None);
        }
        if tests.iter().any(never) {
            self.warn(
                statement.at,
                "the statement can match no request and has no effect",
            );
            return Ok(None);
        }
        tests.retain(|t| t.constant().is_none());
        self.takes_effect(id, statement, &tests);
        tests.sort_by_key(Test::cost);
        Ok(Some(Rule {
            index,
            actions: statement.actions,
            tests: tests.into(),
        }))
    }

    fn resource(&self, statement: &Statement) -> Test {
        let clause = &statement.resource;
        let patterns = Resource::of(clause, statement.effect, self.variables);
        let everything = patterns.iter().any(|p| matches!(p, Resource::Everything));
        let fixed = patterns.iter().all(|p| p.template().is_none());
        let what = match self.purpose {
            _ if everything => What::Const(true),
            _ if patterns.is_empty() => What::Const(false),
            Use::Secret(name, arn) if fixed => {
                let subject = Subject {
                    name: Some(name),
                    arn,
                };
                What::Const(patterns.iter().any(|p| p.matches(None, subject)))
            }
            _ => {
                let origins = self.origins(patterns.iter().filter_map(Resource::template));
                What::Resource(patterns, origins)
            }
        };
        Test {
            part: Part::Resource,
            what,
            negated: clause.negated,
            unless_absent: None,
        }
    }

    fn origins<'t>(&self, templates: impl Iterator<Item = &'t Template>) -> Box<[Origin]> {
        templates
            .flat_map(Template::variables)
            .map(|v| self.origin(&v.key))
            .collect()
    }

    /// Where the values of a key come from.
    fn origin(&self, key: &Key) -> Origin {
        let by_id = |table: &BTreeMap<String, u32>| {
            let mut all: Vec<(u32, Box<str>)> =
                table.iter().map(|(n, id)| (*id, n.as_str().into())).collect();
            all.sort();
            all.into_boxed_slice()
        };
        match key {
            Key::PrincipalArn => self.arns(|arn| Some([arn.into()].into())),
            Key::Username => Origin::Usernames(by_id(self.tables.users)),
            Key::Groups => Origin::Groups(by_id(self.tables.groups)),
            Key::PrincipalTag(tag) => Origin::PrincipalTag(tag.clone()),
            Key::ResourceTag(tag) => Origin::ResourceTag(tag.clone()),
            Key::RequestTag(tag) => Origin::RequestTag(tag.clone()),
            Key::TagKeys => Origin::TagKeys,
            Key::CurrentTime => Origin::CurrentTime,
            Key::EpochTime => Origin::EpochTime,
            Key::SecretId => Origin::SecretId,
            Key::VersionId => Origin::VersionId,
            Key::VersionStage => Origin::Stage,
            Key::Uid => Origin::Uid,
            Key::Gid => Origin::Gid,
            Key::Unit => Origin::Unit,
            Key::NoNewPrivs => Origin::NoNewPrivs,
            Key::Traced => Origin::Traced,
            Key::LoginUid => Origin::LoginUid,
            Key::Foreign(name) => Origin::Given(name.clone()),
        }
    }

    /// The ARNs and who has them, each under the spellings that `spell` gives it.
    fn arns(&self, spell: impl Fn(&str) -> Spellings) -> Origin {
        let holders = |locals: &Vec<Local>| {
            let mut who = Who::default();
            // Names that the record does not have were found when it was made.
            locals.iter().for_each(|local| drop(self.add(&mut who, local, 0)));
            who.sort();
            who
        };
        let arns = self.tables.principals.iter();
        Origin::Arns(arns.map(|(arn, locals)| (spell(arn), holders(locals))).collect())
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
                    let reach = statement.reach();
                    let held = self
                        .tables
                        .principals
                        .iter()
                        .filter(|(k, _)| names(&arn.value, k, reach));
                    let held: Vec<_> = held.collect();
                    if held.iter().any(|(k, _)| role::is_session_of(&arn.value, k)) {
                        let message = "[principals] maps the role of this session: which session somebody has cannot be known, and the Deny binds whoever is the role";
                        self.warn(arn.at, message);
                    }
                    let held = held.into_iter().flat_map(|(_, locals)| locals);
                    let held: Vec<&Local> = held.collect();
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
            part: Part::Principal,
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
}

/// Whether a condition holds for the version before the current one, and not for that.
fn grants_previous(condition: &Condition) -> bool {
    let Condition {
        operator,
        key,
        values,
    } = condition;
    let names = |labels: [&str; 2]| {
        let words = values.iter().map(|v| Words::new(operator.comparison, &v.value));
        words
            .into_iter()
            .any(|w| labels.into_iter().any(|l| w.matches(l)))
    };
    *key == Key::VersionStage
        && !operator.negated
        && names(["previous", "AWSPREVIOUS"])
        && !names(["current", "AWSCURRENT"])
}
