//! Roles of AWS and their sessions. A role is `arn:aws:iam::ACCOUNT:role/PATH/NAME`, and whoever acts as it is a
//! session, `arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION`: the path is not in it, and the name is unique in the
//! account. To a condition on `aws:PrincipalArn` a session is its role.

use super::document::{Effect, Statement};
use super::operator::Comparison;
use super::pattern::{eq_ignore_case, glob, is_wild, overlap};
use super::principal::{account, in_account};
use super::rule::{Spellings, Words};

/// What makes a role one: partition, account, name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Role<'a> {
    partition: &'a str,
    account: &'a str,
    name: &'a str,
}

impl<'a> Role<'a> {
    fn of(arn: &'a str, service: &str, kind: &str, name: fn(&'a str) -> Option<&'a str>) -> Option<Role<'a>> {
        let mut parts = arn.splitn(6, ':');
        match [(); 6].map(|()| parts.next()) {
            [
                Some("arn"),
                Some(partition),
                Some(s),
                Some(""),
                Some(account),
                Some(rest),
            ] if s == service => {
                let name = name(rest.strip_prefix(kind)?)?;
                (!name.is_empty()).then_some(Role {
                    partition,
                    account,
                    name,
                })
            }
            _ => None,
        }
    }

    /// The role of an ARN such as `arn:aws:iam::111122223333:role/org/team/app`.
    fn named(arn: &'a str) -> Option<Role<'a>> {
        Self::of(arn, "iam", "role/", |rest| rest.rsplit('/').next())
    }

    /// The role whose session it is.
    fn behind(session: &'a str) -> Option<Role<'a>> {
        Self::of(session, "sts", "assumed-role/", |rest| {
            Some(rest.split_once('/')?.0)
        })
    }

    /// Its ARN, if it has no path.
    fn plain_arn(self) -> String {
        let Role {
            partition,
            account,
            name,
        } = self;
        format!("arn:{partition}:iam::{account}:role/{name}")
    }
}

/// Whether `session` is a session of the role `role`, wherever in the account's paths that stands.
pub(super) fn is_session_of(session: &str, role: &str) -> bool {
    let behind = Role::behind(session);
    behind.is_some() && behind == Role::named(role)
}

/// How far the principals of a statement reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Whom an Allow names.
    Allowed,
    /// Whom a Deny names, in the widest sense.
    Denied,
    /// Whom `NotPrincipal` excepts from a Deny, in the narrowest: as in AWS a role does not except its sessions.
    Excepted,
}

impl Statement {
    pub(super) fn reach(&self) -> Reach {
        match (self.effect, self.principal.negated) {
            (_, true) => Reach::Excepted,
            (Effect::Allow, false) => Reach::Allowed,
            (Effect::Deny, false) => Reach::Denied,
        }
    }
}

/// Whether a principal of a statement names who is mapped to this ARN. An account's principal stands for the
/// account's own entry; in a Deny, where that is the safe reading, for everybody in the account. A role stands for
/// its sessions. Which session somebody has who is mapped to a role cannot be known, and so a Deny of one binds him.
pub(super) fn names(principal: &str, arn: &str, reach: Reach) -> bool {
    let denied = reach == Reach::Denied;
    if let Some(number) = account(principal) {
        return arn == principal || account(arn) == Some(number) || denied && in_account(arn, number);
    }
    let session = reach != Reach::Excepted && is_session_of(arn, principal);
    arn == principal || session || denied && is_session_of(principal, arn)
}

/// Whether a value of a condition on `aws:PrincipalArn` is the ARN of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    No,
    /// If the session's role has a path that fits.
    Perhaps,
    Yes,
}

/// How a value of a condition compares with an ARN of `[principals]`: a session is its role too. A role that the
/// value names with a path is the role of that name; else it is taken to have none, and a pattern that would match
/// it in some path does so perhaps. `variables`: whether `${…}` is one; it can stand for anything.
pub(super) fn compare(comparison: Comparison, value: &str, arn: &str, variables: bool) -> Match {
    let wild = matches!(comparison, Comparison::Like | Comparison::Arn);
    if variables && value.contains("${") {
        let Some(role) = Role::behind(arn) else {
            return Match::No;
        };
        let open = value.split("${").next().unwrap_or_default();
        return match could_match(comparison, &format!("{open}*"), role) {
            true => Match::Perhaps,
            false => Match::No,
        };
    }
    let words = Words::new(comparison, value);
    if words.matches(arn) {
        return Match::Yes;
    }
    let Some(role) = Role::behind(arn) else {
        return Match::No;
    };
    let same = |named: Role<'_>| match comparison {
        Comparison::EqualsIgnoreCase => eq_ignore_case(&named.plain_arn(), &role.plain_arn()),
        _ => named == role,
    };
    let literal = !(wild && is_wild(value));
    let of_texts = wild || matches!(comparison, Comparison::Equals | Comparison::EqualsIgnoreCase);
    match Role::named(value) {
        Some(named) if literal && of_texts && same(named) => Match::Yes,
        _ if words.matches(&role.plain_arn()) => Match::Yes,
        _ if !literal && could_match(comparison, value, role) => Match::Perhaps,
        _ => Match::No,
    }
}

/// Whether a pattern matches the role in some path.
fn could_match(comparison: Comparison, pattern: &str, role: Role<'_>) -> bool {
    let Role {
        partition,
        account,
        name,
    } = role;
    [format!("role/{name}"), format!("role/*/{name}")]
        .iter()
        .any(|somewhere| match comparison {
            Comparison::Arn => {
                let mut parts = pattern.splitn(6, ':');
                let head = ["arn", partition, "iam", "", account];
                head.iter()
                    .all(|text| parts.next().is_some_and(|p| glob(p, text)))
                    && parts.next().is_some_and(|p| overlap(p, somewhere))
            }
            _ => overlap(pattern, &format!("arn:{partition}:iam::{account}:{somewhere}")),
        })
}

/// The texts under which an ARN counts in a comparison that looks at each of them; `None` where a session's role
/// could be one of the values in some path.
pub(super) fn spellings<'v>(
    comparison: Comparison,
    values: impl Iterator<Item = &'v str> + Clone,
    arn: &str,
    variables: bool,
) -> Spellings {
    let found = |wanted: Match| {
        let mut values = values.clone();
        values.any(|v| compare(comparison, v, arn, variables) == wanted)
    };
    if !found(Match::Yes) && found(Match::Perhaps) {
        return None;
    }
    let mut all: Vec<Box<str>> = vec![arn.into()];
    if let Some(role) = Role::behind(arn) {
        all.push(role.plain_arn().into());
        let named = values.filter(|v| Role::named(v) == Some(role));
        all.extend(named.map(Box::from));
    }
    Some(all.into())
}
