//! The document as a typed tree, and its way back to JSON.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::action::ActionSet;
use super::condition::Key;
use super::json::Text;
use super::operator::Operator;
use super::principal::Local;

/// The document's language version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// `2008-10-17`, what a document without `Version` has: `${…}` is literal.
    #[default]
    V2008,
    /// `2012-10-17`: `${…}` is a variable.
    V2012,
}

/// What a statement that matches does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Allow, unless something denies.
    Allow,
    /// Deny, whatever allows.
    Deny,
}

/// A list, or everything but the list (the `Not…` form).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause<T> {
    /// Whether it is the `Not…` form.
    pub negated: bool,
    /// The list, never empty in a parsed document.
    pub items: Vec<T>,
}

/// One principal of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// `*`.
    Everyone,
    /// An ARN or account of AWS, which the configuration maps to local principals.
    Aws(Text),
    /// A principal of this machine.
    Local(Place<Local>),
}

/// A value and its place in the document. Two are equal if their values are.
#[derive(Debug, Clone, Eq)]
pub struct Place<T> {
    /// The value.
    pub value: T,
    /// Byte offset; 0 for one that was made by an edit.
    pub(super) at: usize,
}

impl<T: PartialEq> PartialEq for Place<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// One condition: an operator, a key, the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The operator.
    pub operator: Operator,
    /// The key.
    pub key: Key,
    /// The values, of which one has to match (none, if the operator is negated).
    pub values: Vec<Text>,
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its name.
    pub sid: Option<String>,
    /// Its effect.
    pub effect: Effect,
    /// Who.
    pub principal: Clause<Principal>,
    /// What, as patterns.
    pub action: Clause<Text>,
    /// On what, as patterns.
    pub resource: Clause<Text>,
    /// When; all have to hold.
    pub conditions: Vec<Condition>,
    pub(super) actions: ActionSet,
    pub(super) at: usize,
}

impl Statement {
    /// Whether the statement is about this action.
    pub fn covers(&self, action: super::Action) -> bool {
        self.actions.contains(action)
    }
}

/// A policy document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The language version.
    pub version: Version,
    /// Its id, of no meaning here.
    pub id: Option<String>,
    /// The statements, in no order that matters.
    pub statements: Vec<Statement>,
}

impl Document {
    /// A document without a statement: nobody is allowed anything by it.
    pub fn empty() -> Self {
        Document {
            version: Version::V2012,
            id: None,
            statements: Vec::new(),
        }
    }

    /// Whether it has an Allow statement.
    pub(super) fn allows(&self) -> bool {
        self.statements.iter().any(|s| s.effect == Effect::Allow)
    }

    /// As indented JSON, fields in AWS's order, lists of one item as the item.
    pub fn to_json_pretty(&self) -> String {
        // Serializing to a String fails only if a Serialize impl does, and these do not.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// One item or an array of them.
struct Few<'a>(Vec<&'a str>);

impl Serialize for Few<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => s.serialize_str(one),
            many => many.serialize(s),
        }
    }
}

fn texts(list: &[Text]) -> Few<'_> {
    Few(list.iter().map(|t| t.value.as_str()).collect())
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry(
            "Version",
            match self.version {
                Version::V2008 => "2008-10-17",
                Version::V2012 => "2012-10-17",
            },
        )?;
        if let Some(id) = &self.id {
            map.serialize_entry("Id", id)?;
        }
        map.serialize_entry("Statement", &self.statements)?;
        map.end()
    }
}

impl Serialize for Statement {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        fn field<T>(clause: &Clause<T>, name: &'static str, not: &'static str) -> &'static str {
            if clause.negated { not } else { name }
        }
        let mut map = s.serialize_map(None)?;
        if let Some(sid) = &self.sid {
            map.serialize_entry("Sid", sid)?;
        }
        map.serialize_entry(
            "Effect",
            match self.effect {
                Effect::Allow => "Allow",
                Effect::Deny => "Deny",
            },
        )?;
        let principals = Principals(&self.principal.items);
        map.serialize_entry(field(&self.principal, "Principal", "NotPrincipal"), &principals)?;
        map.serialize_entry(
            field(&self.action, "Action", "NotAction"),
            &texts(&self.action.items),
        )?;
        map.serialize_entry(
            field(&self.resource, "Resource", "NotResource"),
            &texts(&self.resource.items),
        )?;
        if !self.conditions.is_empty() {
            map.serialize_entry("Condition", &Conditions(&self.conditions))?;
        }
        map.end()
    }
}

struct Principals<'a>(&'a [Principal]);

impl Serialize for Principals<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if let [Principal::Everyone] = self.0 {
            return s.serialize_str("*");
        }
        let mut kinds: Vec<(&'static str, Vec<String>)> = Vec::new();
        for principal in self.0 {
            let (kind, name) = match principal {
                Principal::Everyone => ("AWS", "*".to_string()),
                Principal::Aws(arn) => ("AWS", arn.value.clone()),
                Principal::Local(local) => local.value.parts(),
            };
            match kinds.iter_mut().find(|(k, _)| *k == kind) {
                Some((_, names)) => names.push(name),
                None => kinds.push((kind, vec![name])),
            }
        }
        let mut map = s.serialize_map(Some(kinds.len()))?;
        for (kind, names) in &kinds {
            map.serialize_entry(kind, &Few(names.iter().map(String::as_str).collect()))?;
        }
        map.end()
    }
}

struct Conditions<'a>(&'a [Condition]);

impl Serialize for Conditions<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        struct Keys<'a>(Vec<&'a Condition>);
        impl Serialize for Keys<'_> {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_map(self.0.iter().map(|c| (c.key.name(), texts(&c.values))))
            }
        }
        let mut operators: Vec<(Operator, Vec<&Condition>)> = Vec::new();
        for condition in self.0 {
            match operators.iter_mut().find(|(op, _)| *op == condition.operator) {
                Some((_, conditions)) => conditions.push(condition),
                None => operators.push((condition.operator, vec![condition])),
            }
        }
        s.collect_map(
            operators
                .into_iter()
                .map(|(op, conditions)| (op.name(), Keys(conditions))),
        )
    }
}
