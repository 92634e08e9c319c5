//! Who may read, in words.

use std::collections::BTreeMap;

use super::compile::Tables;
use super::condition::Key;
use super::document::{Condition, Effect, Principal, Statement};
use super::operator::{Comparison, Order, Quantifier};
use super::principal::Local;
use super::role::names;

/// Collects the statements about reading.
#[derive(Default)]
pub(super) struct Readers {
    allowed: Vec<(String, String)>,
    denied: Vec<(String, String)>,
    nobody: bool,
}

impl Readers {
    pub fn add(&mut self, statement: &Statement, tables: &Tables<'_>) {
        let when = when(&statement.conditions);
        let who = principals(statement, tables);
        match (statement.effect, statement.principal.negated) {
            (Effect::Allow, _) => self.allowed.extend(who.into_iter().map(|w| (w, when.clone()))),
            (Effect::Deny, true) => self.denied.push((format!("anyone except {}", list(&who)), when)),
            (Effect::Deny, false) => {
                self.nobody |= when.is_empty() && who.iter().any(|w| w == "anyone");
                self.denied.extend(who.into_iter().map(|w| (w, when.clone())));
            }
        }
    }

    pub fn finish(mut self) -> Vec<String> {
        let denied = &self.denied;
        self.allowed
            .retain(|(who, _)| !denied.iter().any(|(d, when)| d == who && when.is_empty()));
        if self.nobody || self.allowed.is_empty() {
            return Vec::new();
        }
        let mut lines: Vec<String> = Vec::new();
        let allowed = self.allowed.into_iter().map(|(who, when)| who + &when);
        let denied = self
            .denied
            .into_iter()
            .map(|(who, when)| format!("but not {who}{when}"));
        for line in allowed.chain(denied) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "nobody".into()
    } else {
        items.join(", ")
    }
}

fn principals(statement: &Statement, tables: &Tables<'_>) -> Vec<String> {
    let reach = statement.reach();
    let mut all = Vec::new();
    for principal in &statement.principal.items {
        match principal {
            Principal::Everyone => all.push("anyone".to_string()),
            Principal::Local(l) => all.push(local(&l.value, tables)),
            Principal::Aws(text) => {
                for (arn, locals) in tables
                    .principals
                    .iter()
                    .filter(|(arn, _)| names(&text.value, arn, reach))
                {
                    all.extend(locals.iter().map(|l| format!("{} as {arn}", local(l, tables))));
                }
            }
        }
    }
    all
}

fn local(local: &Local, tables: &Tables<'_>) -> String {
    let with_id = |kind: &str, name: &str, id: &str, table: &BTreeMap<String, u32>| match table.get(name) {
        Some(n) => format!("{kind} {name} ({id} {n})"),
        None => format!("{kind} {name}"),
    };
    match local {
        Local::User(name) => with_id("user", name, "uid", tables.users),
        Local::Group(name) => with_id("group", name, "gid", tables.groups),
        Local::Uid(uid) => format!("uid {uid}"),
        Local::Gid(gid) => format!("gid {gid}"),
        Local::Unit(name) => format!("unit {name}"),
        Local::Service(name) => format!("service {name}"),
    }
}

/// ` when … and …`, or nothing.
fn when(conditions: &[Condition]) -> String {
    // Conditions on the secret itself are answered when the policy is compiled.
    let parts: Vec<String> = conditions
        .iter()
        .filter(|c| c.key != Key::SecretId)
        .map(condition)
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" when {}", parts.join(" and "))
    }
}

/// A condition as a clause, such as `wardfs:Unit is app.service`.
pub(super) fn condition(condition: &Condition) -> String {
    let Condition {
        operator,
        key,
        values,
    } = condition;
    let key = key.name();
    let values: Vec<&str> = values.iter().map(|v| v.value.as_str()).collect();
    let values = values.join(" or ");
    let not = if operator.negated { "not " } else { "" };
    let text = match operator.comparison {
        Comparison::Equals | Comparison::Bool | Comparison::Binary => format!("{key} is {not}{values}"),
        Comparison::Number(order) | Comparison::Date(order) => {
            let than = match order {
                Order::Equal => "",
                Order::Less => "less than ",
                Order::LessOrEqual => "at most ",
                Order::Greater => "more than ",
                Order::GreaterOrEqual => "at least ",
            };
            format!("{key} is {not}{than}{values}")
        }
        Comparison::Ip => format!("{key} is {not}in {values}"),
        Comparison::EqualsIgnoreCase => format!("{key} is {not}{values} (in any case)"),
        Comparison::Like | Comparison::Arn => format!("{key} is {not}like {values}"),
        Comparison::Null => match values.to_ascii_lowercase().as_str() {
            "true" => format!("{key} is absent"),
            "false" => format!("{key} is present"),
            _ => format!("{key} is present or absent"),
        },
    };
    let text = match operator.quantifier {
        Some(Quantifier::All) => format!("every {text}"),
        Some(Quantifier::Any) => format!("any {text}"),
        None => text,
    };
    match operator.if_exists && operator.quantifier != Some(Quantifier::Any) {
        true => format!("{text} (or absent)"),
        false => text,
    }
}
