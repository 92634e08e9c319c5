//! The vocabulary of conditions: keys, and which values they may have.

use std::borrow::Cow;

use super::diagnostic::{PolicyError, Source, nearest};
use super::foreign;
use super::json::Text;
use super::operator::{Comparison, Operator};
use super::pattern::is_wild;
use super::principal::{self, LocalError};
use super::record::Grammar;
use super::template::Template;
use super::value::{Decimal, Net, parse_binary, parse_instant};
use crate::id::{DYNAMIC_IDS, Label, SecretName};

/// Longest value in bytes: ARNs have at most 2,048.
const MAX_VALUE: usize = 2048;

/// A condition key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `aws:PrincipalArn`: the ARNs that are mapped to the caller. Absent if there is none.
    PrincipalArn,
    /// `aws:username`: the names of the caller's uid, as they were when the policy was set.
    Username,
    /// `aws:PrincipalTag/KEY`: a tag of the identities that the caller has. Absent without one.
    PrincipalTag(Box<str>),
    /// `aws:CurrentTime`: the wall clock, in whole seconds.
    CurrentTime,
    /// `aws:EpochTime`: the same, as seconds since 1970.
    EpochTime,
    /// `aws:RequestTag/KEY`: a tag that the request sets. Absent otherwise.
    RequestTag(Box<str>),
    /// `aws:TagKeys`: the keys of the tags that the request sets or removes.
    TagKeys,
    /// `secretsmanager:SecretId`: the secret's name, or its ARN without comparing region and account.
    SecretId,
    /// `secretsmanager:VersionId`: the id of the version that is asked for. Absent where none is meant.
    VersionId,
    /// `secretsmanager:VersionStage`: the labels of the version that is asked for. Absent without any.
    VersionStage,
    /// `secretsmanager:ResourceTag/KEY` (and `aws:ResourceTag/KEY`): a tag of the secret. Absent without one.
    ResourceTag(Box<str>),
    /// `wardfs:Uid`: the caller's uid in decimal.
    Uid,
    /// `wardfs:Gid`: the caller's gid in decimal.
    Gid,
    /// `wardfs:Groups`: the caller's gid and supplementary groups, each under its number and its name.
    Groups,
    /// `wardfs:Unit`: the caller's systemd unit. Absent outside of units.
    Unit,
    /// `wardfs:NoNewPrivs`: whether the caller can gain privileges by running programs no more (`no_new_privs` of
    /// prctl(2)). Hardening, and no boundary: any process can set it for itself.
    NoNewPrivs,
    /// `wardfs:Traced`: whether another process traces the caller. Hardening, and no boundary: it is so or not in
    /// the moment of the question.
    Traced,
    /// `wardfs:LoginUid`: the uid that logged in (pam_loginuid(8)). Absent where nobody did. Hardening, and no
    /// boundary: root can set it.
    LoginUid,
    /// A key that means nothing here, AWS's or another service's: always absent, but in a simulation that gives it.
    Foreign(Box<str>),
}

const KEYS: [(&str, Key); 15] = [
    ("aws:PrincipalArn", Key::PrincipalArn),
    ("aws:username", Key::Username),
    ("aws:CurrentTime", Key::CurrentTime),
    ("aws:EpochTime", Key::EpochTime),
    ("aws:TagKeys", Key::TagKeys),
    ("secretsmanager:SecretId", Key::SecretId),
    ("secretsmanager:VersionId", Key::VersionId),
    ("secretsmanager:VersionStage", Key::VersionStage),
    ("wardfs:Uid", Key::Uid),
    ("wardfs:Gid", Key::Gid),
    ("wardfs:Groups", Key::Groups),
    ("wardfs:Unit", Key::Unit),
    ("wardfs:NoNewPrivs", Key::NoNewPrivs),
    ("wardfs:Traced", Key::Traced),
    ("wardfs:LoginUid", Key::LoginUid),
];

/// Makes a key out of a tag's.
type OfTag = fn(Box<str>) -> Key;

/// Keys that go on with the key of a tag.
const TAGS: [(&str, OfTag); 4] = [
    ("aws:PrincipalTag/", Key::PrincipalTag),
    ("aws:RequestTag/", Key::RequestTag),
    ("secretsmanager:ResourceTag/", Key::ResourceTag),
    ("aws:ResourceTag/", Key::ResourceTag),
];

/// Longest key of a tag, in characters.
const MAX_TAG_KEY: usize = 128;

impl Key {
    /// The key as documents spell it.
    pub fn name(&self) -> Cow<'_, str> {
        let tagged = |prefix: &str, tag: &str| Cow::Owned(format!("{prefix}{tag}"));
        match self {
            Key::Foreign(name) => Cow::Borrowed(name),
            Key::PrincipalTag(tag) => tagged("aws:PrincipalTag/", tag),
            Key::RequestTag(tag) => tagged("aws:RequestTag/", tag),
            Key::ResourceTag(tag) => tagged("secretsmanager:ResourceTag/", tag),
            _ => Cow::Borrowed(KEYS.iter().find(|(_, k)| k == self).map_or("", |(n, _)| n)),
        }
    }

    /// The key of that name, which counts in any case; else the nearest name, if one is near. Keys of other services
    /// are among them: whether they may stand in a document is its grammar's question ([`Key::is_for`]).
    pub(super) fn named(name: &str) -> Result<Key, Option<String>> {
        if let Some((_, key)) = KEYS.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            return Ok(key.clone());
        }
        if let Some(known) = foreign::KEYS.iter().find(|k| k.eq_ignore_ascii_case(name)) {
            return Ok(Key::Foreign((*known).into()));
        }
        if foreign::is_key(name) {
            return Ok(Key::Foreign(name.into()));
        }
        if let Some(respelt) = foreign::respelt(name) {
            return Err(match Key::named(&respelt) {
                Ok(key) => Some(key.name().into_owned()),
                Err(near) => near,
            });
        }
        if let Some((prefix, tag)) = name.split_once('/') {
            let found = TAGS
                .iter()
                .find(|(p, _)| p.trim_end_matches('/').eq_ignore_ascii_case(prefix));
            return match found {
                Some((_, of_tag)) if (1..=MAX_TAG_KEY).contains(&tag.chars().count()) => {
                    Ok(of_tag(tag.into()))
                }
                Some(_) => Err(None),
                None => {
                    Err(nearest(prefix, TAGS.map(|(p, _)| p.trim_end_matches('/')))
                        .map(|n| format!("{n}/{tag}")))
                }
            };
        }
        if let Some((prefix, _)) = TAGS
            .iter()
            .find(|(p, _)| p.trim_end_matches('/').eq_ignore_ascii_case(name))
        {
            return Err(Some(format!("{prefix}KEY")));
        }
        Err(nearest(name, KEYS.iter().map(|k| k.0).chain(foreign::KEYS)).map(str::to_string))
    }

    pub(super) fn parse(name: &Text, grammar: Grammar, source: Source<'_>) -> Result<Key, PolicyError> {
        let named = Key::named(&name.value).and_then(|key| match key.is_for(grammar) {
            true => Ok(key),
            false => Err(None),
        });
        named.map_err(|near| {
            let error = source.error(
                name.at,
                format!("the condition key {:?} is not supported", name.value),
            );
            match near {
                Some(near) => error.did_you_mean(Some(near)),
                None => {
                    let tags = TAGS.iter().map(|(p, _)| format!("{p}KEY"));
                    let all: Vec<String> = KEYS.iter().map(|k| k.0.to_string()).chain(tags).collect();
                    error.suggest(format!("supported are {}", all.join(", ")))
                }
            }
        })
    }

    /// Whether it may stand in such a document: the policy of a secret has no keys of other services.
    pub(super) fn is_for(&self, grammar: Grammar) -> bool {
        match self {
            Key::Foreign(name) => grammar != Grammar::Secret || foreign::is_known(name),
            _ => true,
        }
    }

    /// Whether a request has at most one value of it, so that it can stand in a text as a variable.
    pub(super) fn has_one_value(&self) -> bool {
        !matches!(
            self,
            Key::PrincipalArn | Key::Groups | Key::VersionStage | Key::TagKeys | Key::SecretId
        )
    }

    /// Tags and AWS's own keys may have empty values; what this machine gives has none.
    fn may_be_empty(&self) -> bool {
        matches!(
            self,
            Key::PrincipalTag(_) | Key::RequestTag(_) | Key::ResourceTag(_) | Key::Foreign(_)
        )
    }

    fn fits(&self, comparison: Comparison) -> bool {
        use Key::*;
        let tag = matches!(self, PrincipalTag(_) | RequestTag(_) | ResourceTag(_));
        match comparison {
            _ if matches!(self, Foreign(_)) => true,
            Comparison::Arn => matches!(self, PrincipalArn | SecretId),
            Comparison::Number(_) => tag || matches!(self, Uid | Gid | Groups | LoginUid | EpochTime),
            Comparison::Date(_) => tag || matches!(self, CurrentTime | EpochTime),
            Comparison::Binary | Comparison::Ip => false,
            Comparison::Equals
            | Comparison::EqualsIgnoreCase
            | Comparison::Like
            | Comparison::Null
            | Comparison::Bool => true,
        }
    }
}

/// Checks what can be checked of a condition without looking up names: a value that could never match is an
/// error, as it would be a silent "no match". `variables`: whether `${…}` is one.
pub(super) fn check(
    op: Operator,
    key: &Key,
    values: &[Text],
    variables: bool,
    (grammar, source): (Grammar, Source<'_>),
) -> Result<(), PolicyError> {
    let at = values.first().map_or(0, |v| v.at);
    if !key.fits(op.comparison) {
        let what = match op.comparison {
            Comparison::Arn => "ARNs",
            Comparison::Number(_) => "numbers",
            Comparison::Date(_) => "times",
            Comparison::Binary => "bytes",
            _ => "addresses",
        };
        let error = source.error(
            at,
            format!("{} compares {what}, and {} is none", op.name(), key.name()),
        );
        return Err(match (key, op.negated) {
            (Key::CurrentTime, _) => error.suggest("use \"DateGreaterThan\" or its like"),
            (_, true) => error.suggest("use \"StringNotLike\""),
            (_, false) => error.suggest("use \"StringLike\""),
        });
    }
    for value in values {
        match variables && value.value.contains("${") {
            true => check_template(op, value, grammar, source)?,
            false => check_value(op, key, value, source)?,
        }
    }
    Ok(())
}

/// Whether the comparison is of texts, so that variables have a place in its values.
pub(super) fn of_texts(comparison: Comparison) -> bool {
    use Comparison::*;
    matches!(comparison, Equals | EqualsIgnoreCase | Like | Arn)
}

fn check_template(
    op: Operator,
    text: &Text,
    grammar: Grammar,
    source: Source<'_>,
) -> Result<(), PolicyError> {
    let value = text.value.as_str();
    if !of_texts(op.comparison) {
        let message = format!("{} takes no variables: {value:?}", op.name());
        return Err(source.error(text.at, message).suggest("write the value itself"));
    }
    let template = parse_template(text, grammar, source)?;
    let early = op.comparison == Comparison::Arn && !variables_in_resource(value);
    if early && template.has_variables() {
        return Err(source.error(
            text.at,
            "a variable in an ARN stands after its fifth colon, nowhere before",
        ));
    }
    Ok(())
}

/// Whether every variable stands after the fifth colon, so that no value of one can move the segments.
pub(super) fn variables_in_resource(arn: &str) -> bool {
    let mut segments = arn.splitn(6, ':');
    let five = (0..5).all(|_| segments.next().is_some_and(|s| !s.contains("${")));
    five && segments.next().is_some()
}

pub(super) fn parse_template(
    text: &Text,
    grammar: Grammar,
    source: Source<'_>,
) -> Result<Template, PolicyError> {
    let template = Template::parse(&text.value, true, true).map_err(|e| {
        // Beyond the quote; where the text has escapes the place is about right.
        let error = source.error(text.at + 1 + e.at, format!("{}: {:?}", e.message, text.value));
        match e.suggestion {
            Some(s) => error.suggest(s),
            None => error,
        }
    })?;
    if let Some(v) = template.variables().find(|v| !v.key.is_for(grammar)) {
        let message = format!(
            "there is no key {:?} that a variable could have: {:?}",
            v.key.name(),
            text.value
        );
        return Err(source.error(text.at, message));
    }
    Ok(template)
}

fn check_value(op: Operator, key: &Key, text: &Text, source: Source<'_>) -> Result<(), PolicyError> {
    let value = text.value.as_str();
    let fail = |message: String| Err(source.error(text.at, message));
    if value.len() > MAX_VALUE || value.is_empty() && !key.may_be_empty() {
        return fail(format!("a value has 1 to {MAX_VALUE} bytes"));
    }
    let takes = |what: &str| fail(format!("{} takes {what}, not {value:?}", op.name()));
    match op.comparison {
        Comparison::Null | Comparison::Bool => {
            return match value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
                true => Ok(()),
                false => takes("\"true\" or \"false\""),
            };
        }
        Comparison::Number(_) if Decimal::parse(value).is_none() => {
            return takes("a decimal number of at most 18 digits, and 9 after the point");
        }
        Comparison::Date(_) if parse_instant(value).is_none() => {
            return takes("a time as 2026-11-25T08:00:00Z, a date as 2026-11-25, or seconds since 1970");
        }
        Comparison::Binary if parse_binary(value).is_none() => return takes("base64"),
        Comparison::Ip if Net::parse(value).is_none() => {
            return takes("an address or a range, as 192.0.2.0/24 or 2001:db8::/32");
        }
        Comparison::Number(_) | Comparison::Date(_) | Comparison::Binary | Comparison::Ip => return Ok(()),
        _ => {}
    }
    let wild = op.comparison == Comparison::Like && is_wild(value);
    match key {
        Key::PrincipalArn if op.comparison == Comparison::Arn => {
            match principal::is_arn(value) || is_wild(value) && value.splitn(6, ':').count() == 6 {
                true => Ok(()),
                false => fail(format!("{value:?} has not the six segments of an ARN")),
            }
        }
        Key::Foreign(_)
        | Key::PrincipalTag(_)
        | Key::RequestTag(_)
        | Key::ResourceTag(_)
        | Key::TagKeys
        | Key::CurrentTime
        | Key::EpochTime
        | Key::VersionId => Ok(()),
        Key::NoNewPrivs | Key::Traced if wild || op.comparison == Comparison::EqualsIgnoreCase => Ok(()),
        Key::NoNewPrivs | Key::Traced => match value == "true" || value == "false" {
            true => Ok(()),
            false => fail(format!("{} is \"true\" or \"false\", not {value:?}", key.name())),
        },
        Key::PrincipalArn if wild => Ok(()),
        Key::PrincipalArn => match principal::is_arn(value) {
            true => Ok(()),
            false => fail(format!("{value:?} is not the ARN of a principal")),
        },
        Key::SecretId => check_secret_id(op, value).map_err(|m| source.error(text.at, m)),
        Key::Username => Ok(()),
        Key::Groups if !value.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        Key::Uid | Key::Gid | Key::Groups | Key::LoginUid => {
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
