//! The vocabulary of conditions: operators, keys, and which values they may have.

use super::diagnostic::{PolicyError, Source, nearest};
use super::foreign;
use super::json::Text;
use super::pattern::is_wild;
use super::principal::{self, DYNAMIC_IDS, LocalError};
use crate::id::{Label, SecretName};

/// Longest value in bytes: ARNs have at most 2,048.
const MAX_VALUE: usize = 2048;

/// How an operator compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Letter by letter; `*` and `?` are themselves.
    Equals,
    /// As `Equals`, in any case.
    EqualsIgnoreCase,
    /// With `*` and `?`.
    Like,
    /// With `*` and `?`, each of an ARN's six segments by itself. `ArnEquals` is the same as `ArnLike`.
    Arn,
    /// Whether the key is absent.
    Null,
    /// Against `true` and `false`.
    Bool,
}

/// A condition operator. Only parsing a document makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    base: &'static str,
    /// How it compares.
    pub comparison: Comparison,
    /// True if no value matches.
    pub negated: bool,
    /// True also if the key is absent.
    pub if_exists: bool,
}

const OPERATORS: [(&str, Comparison, bool); 12] = [
    ("StringEquals", Comparison::Equals, false),
    ("StringNotEquals", Comparison::Equals, true),
    ("StringEqualsIgnoreCase", Comparison::EqualsIgnoreCase, false),
    ("StringNotEqualsIgnoreCase", Comparison::EqualsIgnoreCase, true),
    ("StringLike", Comparison::Like, false),
    ("StringNotLike", Comparison::Like, true),
    ("ArnEquals", Comparison::Arn, false),
    ("ArnLike", Comparison::Arn, false),
    ("ArnNotEquals", Comparison::Arn, true),
    ("ArnNotLike", Comparison::Arn, true),
    ("Null", Comparison::Null, false),
    ("Bool", Comparison::Bool, false),
];

/// Operators of AWS that are not there yet.
const LATER: [&str; 7] = [
    "Numeric",
    "Date",
    "Binary",
    "IpAddress",
    "NotIpAddress",
    "ForAllValues:",
    "ForAnyValue:",
];

const IF_EXISTS: &str = "IfExists";

impl Operator {
    /// The operator's name, as in `StringLikeIfExists`.
    pub fn name(self) -> String {
        format!("{}{}", self.base, if self.if_exists { IF_EXISTS } else { "" })
    }

    pub(super) fn parse(name: &Text, source: Source<'_>) -> Result<Operator, PolicyError> {
        let text = name.value.as_str();
        let (base, if_exists) = match text.strip_suffix(IF_EXISTS) {
            Some(base) => (base, true),
            None => (text, false),
        };
        match OPERATORS.iter().find(|(n, ..)| *n == base) {
            Some((_, Comparison::Null, _)) if if_exists => Err(source
                .error(
                    name.at,
                    "Null has no IfExists form: it asks itself whether the key is there",
                )
                .suggest("write \"Null\"")),
            Some(&(base, comparison, negated)) => Ok(Operator {
                base,
                comparison,
                negated,
                if_exists,
            }),
            None if LATER.iter().any(|l| text.starts_with(l)) => {
                let error = source.error(name.at, format!("the operator {text:?} is not supported yet"));
                Err(match text {
                    _ if text.starts_with("ForAnyValue:") => error.suggest(
                        "leave out \"ForAnyValue:\": a key with several values matches if any of them does",
                    ),
                    _ if text.starts_with("Numeric") => {
                        error.suggest("compare ids with \"StringEquals\" or \"StringNotEquals\"")
                    }
                    _ => error.suggest(format!(
                        "supported are {}, with IfExists where AWS has it",
                        OPERATORS.map(|o| o.0).join(", ")
                    )),
                })
            }
            None => {
                let near = nearest(base, OPERATORS.map(|o| o.0))
                    .map(|n| format!("{n}{}", if if_exists { IF_EXISTS } else { "" }));
                Err(source
                    .error(name.at, format!("there is no operator {text:?}"))
                    .did_you_mean(near))
            }
        }
    }
}

/// A condition key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `aws:PrincipalArn`: the ARNs that are mapped to the caller. Absent if there is none.
    PrincipalArn,
    /// `aws:username`: the names of the caller's uid, as they were when the policy was set.
    Username,
    /// `secretsmanager:SecretId`: the secret's name, or its ARN without comparing region and account.
    SecretId,
    /// `secretsmanager:VersionStage`: the labels of the version that is asked for. Absent without any.
    VersionStage,
    /// `wardfs:Uid`: the caller's uid in decimal.
    Uid,
    /// `wardfs:Gid`: the caller's gid in decimal.
    Gid,
    /// `wardfs:Groups`: the caller's gid and supplementary groups, each under its number and its name.
    Groups,
    /// `wardfs:Unit`: the caller's systemd unit. Absent outside of units.
    Unit,
    /// A key of AWS that means nothing here: always absent.
    Foreign(&'static str),
}

const KEYS: [(&str, Key); 8] = [
    ("aws:PrincipalArn", Key::PrincipalArn),
    ("aws:username", Key::Username),
    ("secretsmanager:SecretId", Key::SecretId),
    ("secretsmanager:VersionStage", Key::VersionStage),
    ("wardfs:Uid", Key::Uid),
    ("wardfs:Gid", Key::Gid),
    ("wardfs:Groups", Key::Groups),
    ("wardfs:Unit", Key::Unit),
];

impl Key {
    /// The key as documents spell it.
    pub fn name(self) -> &'static str {
        match self {
            Key::Foreign(name) => name,
            _ => KEYS.iter().find(|(_, k)| *k == self).map_or("", |(n, _)| n),
        }
    }

    /// Names of keys count in any case.
    pub(super) fn parse(name: &Text, source: Source<'_>) -> Result<Key, PolicyError> {
        match KEYS.iter().find(|(n, _)| n.eq_ignore_ascii_case(&name.value)) {
            Some((_, key)) => Ok(*key),
            None => {
                let text = &name.value;
                if let Some(known) = foreign::KEYS.iter().find(|k| k.eq_ignore_ascii_case(text)) {
                    return Ok(Key::Foreign(known));
                }
                let error = source.error(name.at, format!("the condition key {text:?} is not supported"));
                Err(
                    match nearest(text, KEYS.iter().map(|k| k.0).chain(foreign::KEYS)) {
                        Some(n) => error.did_you_mean(Some(n)),
                        None => error.suggest(format!("supported are {}", KEYS.map(|k| k.0).join(", "))),
                    },
                )
            }
        }
    }
}

/// Checks what can be checked of a condition without looking up names: a value that could never match is an
/// error, as it would be a silent "no match".
pub(super) fn check(op: Operator, key: Key, values: &[Text], source: Source<'_>) -> Result<(), PolicyError> {
    if op.comparison == Comparison::Arn && !matches!(key, Key::PrincipalArn | Key::SecretId | Key::Foreign(_))
    {
        return Err(source
            .error(
                values[0].at,
                format!("{} compares ARNs, and {} is none", op.name(), key.name()),
            )
            .suggest(if op.negated {
                "use \"StringNotLike\""
            } else {
                "use \"StringLike\""
            }));
    }
    for value in values {
        check_value(op, key, value, source)?;
    }
    Ok(())
}

fn check_value(op: Operator, key: Key, text: &Text, source: Source<'_>) -> Result<(), PolicyError> {
    let value = text.value.as_str();
    let fail = |message: String| Err(source.error(text.at, message));
    if value.is_empty() || value.len() > MAX_VALUE {
        return fail(format!("a value has 1 to {MAX_VALUE} bytes"));
    }
    if matches!(op.comparison, Comparison::Null | Comparison::Bool) {
        return match value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
            true => Ok(()),
            false => fail(format!(
                "{} takes \"true\" or \"false\", not {value:?}",
                op.name()
            )),
        };
    }
    let wild = op.comparison == Comparison::Like && is_wild(value);
    match key {
        Key::PrincipalArn if op.comparison == Comparison::Arn => {
            match principal::is_arn(value) || is_wild(value) && value.splitn(6, ':').count() == 6 {
                true => Ok(()),
                false => fail(format!("{value:?} has not the six segments of an ARN")),
            }
        }
        Key::Foreign(_) => Ok(()),
        Key::PrincipalArn if wild => Ok(()),
        Key::PrincipalArn => match principal::is_arn(value) {
            true => Ok(()),
            false => fail(format!("{value:?} is not the ARN of a principal")),
        },
        Key::SecretId => check_secret_id(op, value).map_err(|m| source.error(text.at, m)),
        Key::Username | Key::Groups if wild => Ok(()),
        Key::Username => Ok(()),
        Key::Groups if !value.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        Key::Uid | Key::Gid | Key::Groups => {
            if wild {
                return match value
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b == b'*' || b == b'?')
                {
                    true => Ok(()),
                    false => fail(format!("{value:?} can match no decimal id")),
                };
            }
            let id = principal::parse_id(value).map_err(|e| {
                let error = source.error(text.at, format!("{}: {e}", key.name()));
                match key {
                    Key::Uid => error.suggest("names of users are compared with \"aws:username\""),
                    Key::Gid => error.suggest("names of groups are compared with \"wardfs:Groups\""),
                    _ => error,
                }
            })?;
            match DYNAMIC_IDS.contains(&id) {
                true => Err(dynamic(id, text.at, source)),
                false => Ok(()),
            }
        }
        Key::Unit if wild || op.comparison == Comparison::EqualsIgnoreCase => Ok(()),
        Key::Unit => match principal::check_unit(value) {
            Ok(_) => Ok(()),
            Err(LocalError::Wildcard(_)) => Err(source
                .error(
                    text.at,
                    format!(
                        "{} takes {value:?} literally, and no unit has that name",
                        op.name()
                    ),
                )
                .suggest(if op.negated {
                    "use \"StringNotLike\""
                } else {
                    "use \"StringLike\""
                })),
            Err(e) => Err(source.error(text.at, e.to_string()).did_you_mean(e.suggestion())),
        },
        Key::VersionStage if wild => Ok(()),
        Key::VersionStage => match value.parse::<Label>() {
            Ok(_) => Ok(()),
            Err(e) => fail(format!("{value:?} is no label: {e}")),
        },
    }
}

fn check_secret_id(op: Operator, value: &str) -> Result<(), String> {
    if value.starts_with("arn:") {
        return check_secret_arn(value, matches!(op.comparison, Comparison::Like | Comparison::Arn));
    }
    match op.comparison {
        Comparison::Arn if is_wild(value) && value.splitn(6, ':').count() == 6 => {
            check_secret_arn(value, true)
        }
        Comparison::Arn => Err(format!("{value:?} has not the six segments of an ARN")),
        _ if value.contains(':') => Err(format!(
            "{value:?} is neither a secret's name nor an ARN, which begins with arn:"
        )),
        Comparison::Like => Ok(()),
        _ => value
            .parse::<SecretName>()
            .map(|_| ())
            .map_err(|e| format!("{value:?} is no secret's name: {e}")),
    }
}

/// Checks that an ARN (pattern) can be that of a secret.
pub(super) fn check_secret_arn(arn: &str, wildcards: bool) -> Result<(), String> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let &[_, _, service, _, _, rest] = parts.as_slice() else {
        return Err(format!(
            "{arn:?} has {} of an ARN's six segments; a secret's is arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME",
            parts.len()
        ));
    };
    let is_service = match wildcards {
        true => super::pattern::glob(service, "secretsmanager"),
        false => service == "secretsmanager",
    };
    if !is_service {
        return Err(format!(
            "{arn:?} is of the service {service:?}, not secretsmanager"
        ));
    }
    let literal = match wildcards {
        true => rest.split(['*', '?']).next().unwrap_or_default(),
        false => rest,
    };
    let ends_early = wildcards && literal.len() < rest.len() && "secret:".starts_with(literal);
    if !(literal.starts_with("secret:") && rest.len() > "secret:".len() || ends_early) {
        return Err(format!(
            "{arn:?} names no secret; after the account it has to go on with secret:NAME"
        ));
    }
    Ok(())
}

/// The error for an id of systemd's dynamic range.
pub(super) fn dynamic(id: u32, at: usize, source: Source<'_>) -> PolicyError {
    source
        .error(
            at,
            format!("the id {id} is one that systemd gives to units dynamically; tomorrow another unit may have it"),
        )
        .suggest("name the unit: {\"Unit\": \"NAME.service\"}")
}
