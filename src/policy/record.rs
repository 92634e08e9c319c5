//! What is kept of a policy: its text, and what the names in it stood for when it was set.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::action::{Action, Purpose};
use super::compile::{self, Compiled, Output, Tables, Use, World};
use super::condition::{Key, dynamic, of_texts};
use super::decide::{Administration, Layers};
use super::diagnostic::{Concern, PolicyError, Source, Warning, nearest};
use super::document::{Condition, Document, Principal, Statement, Version};
use super::explain::Documents;
use super::facts::Request;
use super::foreign;
use super::json::Text;
use super::layers::{Attached, Shared};
use super::operator::Comparison;
use super::pattern::{eq_ignore_case, glob, glob_arn, is_wild};
use super::principal::{Directory, Local, PrincipalMap};
use super::readers;
use super::role::{self, Match, Reach};
use super::template::Template;
use crate::id::{DYNAMIC_IDS, Label, ROOT, SecretId, SecretName};

/// Whose document it is, which decides about its grammar.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    /// A secret's own, for the secret of this name and ARN.
    Secret(&'a SecretName, Option<&'a str>),
    /// A guardrail's.
    Guardrail,
    /// A principal's.
    Identity(&'a Attached),
}

impl<'a> Kind<'a> {
    fn purpose(self) -> Use<'a> {
        match self {
            Kind::Secret(name, arn) => Use::Secret(name, arn),
            Kind::Guardrail => Use::Guardrail,
            Kind::Identity(_) => Use::Identity,
        }
    }

    fn grammar(self) -> Grammar {
        match self {
            Kind::Secret(..) => Grammar::Secret,
            Kind::Guardrail => Grammar::Guardrail,
            Kind::Identity(_) => Grammar::Identity,
        }
    }
}

/// What of a statement may be left out, or may not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// `Principal` or `NotPrincipal` is there.
    #[default]
    Secret,
    /// They may be left out.
    Guardrail,
    /// They may not be there.
    Identity,
}

/// Most names that patterns of one policy may stand for.
const MAX_NAMES: usize = 4096;

/// A policy as it is sealed with its secret. Compiling it looks nothing up, so that neither the directory nor
/// the configuration of a later day changes who may read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRecord {
    /// The document as it was given.
    pub text: String,
    /// Whose document it is.
    #[serde(default, skip_serializing_if = "Grammar::is_secret")]
    pub grammar: Grammar,
    /// The ARNs that the document can mean, and who counted as them.
    pub principals: BTreeMap<String, Vec<Local>>,
    /// The users that the document can mean, and their uids.
    pub users: BTreeMap<String, u32>,
    /// The groups that the document can mean, and their gids.
    pub groups: BTreeMap<String, u32>,
}

impl PolicyRecord {
    /// Parses, looks up every name, and checks that the result compiles for the secret of this name and, where it has
    /// one elsewhere, ARN.
    pub fn resolve(
        text: &str,
        map: &PrincipalMap,
        directory: &dyn Directory,
        name: &SecretName,
        arn: Option<&str>,
    ) -> Result<(PolicyRecord, Vec<Warning>), PolicyError> {
        Self::resolve_as(Kind::Secret(name, arn), text, map, directory)
    }

    pub(super) fn resolve_as(
        kind: Kind<'_>,
        text: &str,
        map: &PrincipalMap,
        directory: &dyn Directory,
    ) -> Result<(PolicyRecord, Vec<Warning>), PolicyError> {
        let document = Document::parse_as(kind.grammar(), text)?;
        let source = Source(text);
        let record = PolicyRecord {
            text: text.into(),
            grammar: kind.grammar(),
            principals: BTreeMap::new(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
        };
        let names = Names::new(directory);
        let mut resolver = Resolver {
            source,
            map: Some(map),
            names: &names,
            record,
            variables: document.version == Version::V2012,
            warnings: Vec::new(),
        };
        match kind {
            Kind::Identity(Attached::Local(local)) => resolver.local(local, 0, None)?,
            Kind::Identity(Attached::Arn(own)) => {
                resolver.arns(0, |arn| role::names(own, arn, Reach::Allowed))?;
                if resolver.record.principals.is_empty() {
                    let message = format!("[principals] maps nobody to {own:?}: the policy is nobody's");
                    resolver.warnings.push(source.warning(0, message));
                }
            }
            Kind::Secret(..) | Kind::Guardrail => {}
        }
        for statement in &document.statements {
            resolver.statement(statement)?;
        }
        let (record, mut warnings) = resolver.finish();
        let output = compile::compile(
            &document,
            source,
            &record.tables(),
            kind.purpose(),
            World::Here,
            0,
        )?;
        warnings.extend(output.warnings.iter().cloned());
        if let Kind::Secret(name, arn) = kind {
            warnings.extend(record.unread(output, source, name, arn));
        }
        warnings.sort_by_key(|w| (w.line, w.column));
        Ok((record, warnings))
    }

    /// Compiles the policy for its secret.
    pub fn compile(&self, name: &SecretName, arn: Option<&str>) -> Result<Compiled, PolicyError> {
        let output = self.compile_as(Use::Secret(name, arn), World::Here, 0)?;
        Ok(output.of_secret(name, arn))
    }

    /// What compiling it warns of.
    pub(super) fn check(&self, name: &SecretName, arn: Option<&str>) -> Result<Vec<Warning>, PolicyError> {
        let output = self.compile_as(Use::Secret(name, arn), World::Here, 0)?;
        let mut warnings = output.warnings.clone();
        warnings.extend(self.unread(output, Source(&self.text), name, arn));
        Ok(warnings)
    }

    /// A warning if by this policy alone nobody may read the current version.
    fn unread(
        &self,
        output: Output,
        source: Source<'_>,
        name: &SecretName,
        arn: Option<&str>,
    ) -> Option<Warning> {
        let compiled = output.of_secret(name, arn);
        let current = [Label::current()];
        let request = Request {
            arn,
            labels: &current,
            ..Request::new(Action::GetSecretValue, Purpose::Read, SecretId(0), name)
        };
        let layers = Layers {
            administration: &Administration {
                owner: ROOT,
                group: None,
                root_describes: false,
            },
            shared: &Shared::default(),
            secret: Some(&compiled),
        };
        let message = "nobody may read the secret: what no statement allows is denied";
        readers::nobody(&layers, &request, &|| Documents::new(Some(self), [], []))
            .then(|| source.warning(0, message).concern(Concern::Lockout))
    }

    pub(super) fn compile_as(
        &self,
        purpose: Use<'_>,
        world: World<'_>,
        first: u32,
    ) -> Result<Output, PolicyError> {
        let document = self.document()?;
        compile::compile(
            &document,
            Source(&self.text),
            &self.tables(),
            purpose,
            world,
            first,
        )
    }

    /// The typed document.
    pub fn document(&self) -> Result<Document, PolicyError> {
        Document::parse_as(self.grammar, &self.text)
    }

    fn tables(&self) -> Tables<'_> {
        Tables {
            principals: &self.principals,
            users: &self.users,
            groups: &self.groups,
        }
    }
}

impl Grammar {
    fn is_secret(&self) -> bool {
        *self == Grammar::Secret
    }
}

/// The directory, enumerated at most once.
pub(super) struct Names<'a> {
    directory: &'a dyn Directory,
    users: OnceCell<Vec<(String, u32)>>,
    groups: OnceCell<Vec<(String, u32)>>,
}

/// Users or groups.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    User,
    Group,
}

impl Account {
    fn word(self) -> &'static str {
        match self {
            Account::User => "user",
            Account::Group => "group",
        }
    }
}

impl<'a> Names<'a> {
    pub(super) fn new(directory: &'a dyn Directory) -> Self {
        Names {
            directory,
            users: OnceCell::new(),
            groups: OnceCell::new(),
        }
    }

    fn id(&self, account: Account, name: &str) -> Option<u32> {
        match account {
            Account::User => self.directory.uid_of(name).map(|u| u.0),
            Account::Group => self.directory.gid_of(name).map(|g| g.0),
        }
    }

    fn all(&self, account: Account) -> &[(String, u32)] {
        match account {
            Account::User => self.users.get_or_init(|| {
                self.directory
                    .users()
                    .into_iter()
                    .map(|(n, u)| (n, u.0))
                    .collect()
            }),
            Account::Group => self.groups.get_or_init(|| {
                self.directory
                    .groups()
                    .into_iter()
                    .map(|(n, g)| (n, g.0))
                    .collect()
            }),
        }
    }
}

pub(super) struct Resolver<'a> {
    source: Source<'a>,
    map: Option<&'a PrincipalMap>,
    names: &'a Names<'a>,
    record: PolicyRecord,
    /// Whether `${…}` is a variable.
    variables: bool,
    warnings: Vec<Warning>,
}

impl<'a> Resolver<'a> {
    /// To add to what a record knows already; without a mapping, principals of this machine alone.
    pub(super) fn over(
        record: PolicyRecord,
        source: Source<'a>,
        names: &'a Names<'a>,
        map: Option<&'a PrincipalMap>,
    ) -> Self {
        Resolver {
            source,
            map,
            names,
            record,
            variables: false,
            warnings: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> (PolicyRecord, Vec<Warning>) {
        (self.record, self.warnings)
    }

    pub(super) fn statement(&mut self, statement: &Statement) -> Result<(), PolicyError> {
        let reach = statement.reach();
        for principal in &statement.principal.items {
            match principal {
                Principal::Everyone => {}
                Principal::Local(local) => self.local(&local.value, local.at, None)?,
                Principal::Aws(text) => self.arns(text.at, |arn| role::names(&text.value, arn, reach))?,
            }
        }
        for pattern in statement
            .resource
            .items
            .iter()
            .filter(|t| !foreign::is_resource(&t.value))
        {
            self.variables(pattern)?;
        }
        statement.conditions.iter().try_for_each(|c| self.condition(c))
    }

    /// A variable can stand for anybody's name.
    fn variables(&mut self, text: &Text) -> Result<(), PolicyError> {
        let template = Template::parse(&text.value, self.variables, true);
        let named = template.is_ok_and(|t| t.variables().any(|v| v.key == Key::Username));
        if named {
            self.everybody(Account::User, text.at)
        } else {
            Ok(())
        }
    }

    /// All names there are. Those of the dynamic range stay unknown, which is the safe side.
    fn everybody(&mut self, account: Account, at: usize) -> Result<(), PolicyError> {
        for (name, id) in self.names.all(account) {
            if !DYNAMIC_IDS.contains(id) {
                self.insert(account, name, *id, at)?;
            }
        }
        Ok(())
    }

    fn table(&mut self, account: Account) -> &mut BTreeMap<String, u32> {
        match account {
            Account::User => &mut self.record.users,
            Account::Group => &mut self.record.groups,
        }
    }

    fn insert(&mut self, account: Account, name: &str, id: u32, at: usize) -> Result<(), PolicyError> {
        if DYNAMIC_IDS.contains(&id) {
            let mut error = dynamic(id, at, self.source);
            error.message = format!(
                "the {} {name:?} is not to be relied on: {}",
                account.word(),
                error.message
            );
            return Err(error);
        }
        let table = self.table(account);
        table.insert(name.into(), id);
        match table.len() > MAX_NAMES {
            true => {
                let message = format!(
                    "the policy means more than {MAX_NAMES} {}s by name",
                    account.word()
                );
                Err(self
                    .source
                    .error(at, message)
                    .suggest("allow a group, or compare ids"))
            }
            false => Ok(()),
        }
    }

    /// Looks up an exact name.
    fn name(
        &mut self,
        account: Account,
        name: &str,
        at: usize,
        via: Option<&str>,
    ) -> Result<(), PolicyError> {
        match self.names.id(account, name) {
            Some(id) => self.insert(account, name, id, at),
            None => {
                let via = via.map_or_else(String::new, |arn| format!(" (to which [principals] maps {arn})"));
                let error = self
                    .source
                    .error(at, format!("there is no {} {name:?}{via}", account.word()));
                let known = self.names.all(account).iter().map(|(n, _)| n);
                Err(error.did_you_mean(nearest(name, known)))
            }
        }
    }

    pub(super) fn local(&mut self, local: &Local, at: usize, via: Option<&str>) -> Result<(), PolicyError> {
        match local {
            Local::User(name) => self.name(Account::User, name, at, via),
            Local::Group(name) => self.name(Account::Group, name, at, via),
            other => match other.dynamic_id() {
                Some(id) => Err(dynamic(id, at, self.source)),
                None => Ok(()),
            },
        }
    }

    /// Takes over the mapping of the ARNs that can matter.
    fn arns(&mut self, at: usize, matters: impl Fn(&str) -> bool) -> Result<(), PolicyError> {
        let Some(PrincipalMap(map)) = self.map else {
            return Ok(());
        };
        for (arn, locals) in map.iter().filter(|(arn, _)| matters(arn)) {
            for local in locals {
                self.local(local, at, Some(arn))?;
            }
            self.record.principals.insert(arn.clone(), locals.clone());
        }
        Ok(())
    }

    fn condition(&mut self, condition: &Condition) -> Result<(), PolicyError> {
        let Condition {
            operator,
            key,
            values,
        } = condition;
        let at = values.first().map_or(0, |v| v.at);
        let on = self.variables;
        let variable = |v: &Text| on && of_texts(operator.comparison) && v.value.contains("${");
        let asks_all = operator.asks_presence() || values.iter().any(variable);
        let matches = |v: &Text, text: &str| match operator.comparison {
            Comparison::Equals => v.value == text,
            Comparison::EqualsIgnoreCase => eq_ignore_case(&v.value, text),
            Comparison::Like => glob(&v.value, text),
            Comparison::Arn => glob_arn(&v.value, text),
            _ => false,
        };
        // Nobody has it, and its values are compared with nothing.
        if matches!(key, Key::Foreign(_)) {
            return Ok(());
        }
        let literal: Vec<&Text> = values.iter().filter(|v| !variable(v)).collect();
        for value in values.iter().filter(|v| variable(v)) {
            self.variables(value)?;
        }
        match key {
            Key::PrincipalArn => self.arns(at, |arn| {
                let compare = |v: &Text| role::compare(operator.comparison, &v.value, arn, on);
                asks_all || values.iter().any(|v| compare(v) != Match::No)
            }),
            Key::Username => {
                if asks_all {
                    self.everybody(Account::User, at)?;
                }
                literal
                    .into_iter()
                    .try_for_each(|v| self.names(Account::User, condition, v, &matches))
            }
            Key::Groups if values.iter().any(variable) => self.everybody(Account::Group, at),
            Key::Groups => values
                .iter()
                .filter(|v| !v.value.bytes().all(|b| b.is_ascii_digit()))
                .try_for_each(|v| self.names(Account::Group, condition, v, &matches)),
            _ => Ok(()),
        }
    }

    /// Looks up the names that one value of a condition means.
    fn names(
        &mut self,
        account: Account,
        condition: &Condition,
        value: &Text,
        matches: &dyn Fn(&Text, &str) -> bool,
    ) -> Result<(), PolicyError> {
        match condition.operator.comparison {
            Comparison::Null | Comparison::Bool | Comparison::Number(_) => Ok(()),
            Comparison::Equals => self.name(account, &value.value, value.at, None),
            _ => {
                let mut found = self
                    .names
                    .id(account, &value.value)
                    .map(|id| (value.value.clone(), id));
                for (name, id) in self.names.all(account).iter().filter(|(n, _)| matches(value, n)) {
                    // A group that matches by its number already needs no name.
                    if account == Account::Group && matches(value, &id.to_string()) {
                        continue;
                    }
                    self.insert(account, name, *id, value.at)?;
                    found = found.or(Some((name.clone(), *id)));
                }
                match (found, condition.operator.comparison) {
                    (Some((name, id)), _) => self.insert(account, &name, id, value.at),
                    (None, Comparison::Like) if is_wild(&value.value) => {
                        let numeric = |b: u8| b.is_ascii_digit() || b == b'*' || b == b'?';
                        if account == Account::User || !value.value.bytes().all(numeric) {
                            let message =
                                format!("{:?} matches no {} there is today", value.value, account.word());
                            self.warnings.push(self.source.warning(value.at, message));
                        }
                        Ok(())
                    }
                    (None, _) => self.name(account, &value.value, value.at, None),
                }
            }
        }
    }
}
