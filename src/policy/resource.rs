//! On what: patterns of ARNs, and the names that a condition on `secretsmanager:SecretId` compares with.

use super::document::{Clause, Effect};
use super::foreign;
use super::json::Text;
use super::operator::Comparison;
use super::pattern::{glob_encoded, is_wild, strip_suffix, strip_suffix_encoded};
use super::rule::Words;
use super::template::Template;
use crate::id::SecretName;

/// What a request is about: a secret, or (for actions on the layers of policy) none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subject<'a> {
    pub name: Option<&'a SecretName>,
    /// The ARN that the secret has elsewhere, if one is on record.
    pub arn: Option<&'a str>,
}

/// How a pattern with a `-??????` at its end is read. That stands for the random suffix which AWS appends to a secret's
/// name, and names here do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reading {
    /// The secret of that name alone, as in AWS.
    Narrow,
    /// Names that end so as well.
    Wide,
}

impl Reading {
    /// What errs takes away: a Deny reaches further, and so does what an Allow excepts.
    pub fn of(effect: Effect, negated: bool) -> Reading {
        match (effect, negated) {
            (Effect::Deny, false) | (Effect::Allow, true) => Reading::Wide,
            (Effect::Allow, false) | (Effect::Deny, true) => Reading::Narrow,
        }
    }

    /// Whether a pattern `holds`, or what is left of it without the suffix.
    fn holds<P: Copy>(self, pattern: P, stripped: Option<P>, holds: impl Fn(P) -> bool) -> bool {
        match (stripped, self) {
            (Some(stripped), Reading::Narrow) => holds(stripped),
            (Some(stripped), Reading::Wide) => holds(pattern) || holds(stripped),
            (None, _) => holds(pattern),
        }
    }
}

/// One pattern of a `Resource` clause.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Resource {
    Everything,
    Arn {
        /// The four segments after `arn`: partition, service, region, account.
        head: Box<[Box<[u8]>]>,
        /// What follows the fifth colon.
        rest: Template,
        reading: Reading,
    },
}

impl Resource {
    /// The patterns of a clause. One of another service matches no secret, whatever its variables; else one that is no
    /// pattern of a secret was refused when the document was parsed.
    pub fn of(clause: &Clause<Text>, effect: Effect, variables: bool) -> Box<[Resource]> {
        let reading = Reading::of(effect, clause.negated);
        clause
            .items
            .iter()
            .filter(|t| !foreign::is_resource(&t.value))
            .filter_map(|t| Resource::parse(&t.value, reading, variables))
            .collect()
    }

    fn parse(text: &str, reading: Reading, variables: bool) -> Option<Resource> {
        if text == "*" {
            return Some(Resource::Everything);
        }
        let mut segments = text.splitn(6, ':').skip(1);
        let mut head = Vec::new();
        for _ in 0..4 {
            let segment = Template::parse(segments.next()?, false, true).ok()?;
            head.push(segment.pattern().into());
        }
        Some(Resource::Arn {
            head: head.into(),
            rest: Template::parse(segments.next()?, variables, true).ok()?,
            reading,
        })
    }

    /// The template, if it has variables.
    pub fn template(&self) -> Option<&Template> {
        match self {
            Resource::Arn { rest, .. } if rest.has_variables() => Some(rest),
            _ => None,
        }
    }

    /// Whether it is the subject. `expanded` is the pattern after the fifth colon, where that has variables.
    ///
    /// Region and account are compared only where the secret has an ARN on record: a Deny that missed for its region
    /// would fail open.
    pub fn matches(&self, expanded: Option<&[u8]>, subject: Subject<'_>) -> bool {
        let (head, rest, reading) = match self {
            Resource::Everything => return true,
            Resource::Arn { head, rest, reading } => {
                (head, expanded.unwrap_or_else(|| rest.pattern()), reading)
            }
        };
        let Some(name) = subject.name else { return false };
        let mut by_arn = false;
        if let Some(arn) = subject.arn {
            let mut segments = arn.splitn(6, ':').skip(1);
            for pattern in head {
                if !segments.next().is_some_and(|text| glob_encoded(pattern, text)) {
                    return false;
                }
            }
            by_arn = segments
                .next()
                .is_some_and(|resource| glob_encoded(rest, resource));
        }
        let named = |pattern: &[u8]| named(pattern, name);
        by_arn || reading.holds(rest, strip_suffix_encoded(rest), named)
    }
}

/// Whether a pattern matches `secret:NAME`, without making that text.
fn named(pattern: &[u8], name: &SecretName) -> bool {
    let mut buffer = [0u8; 7 + 512];
    let name = name.as_str().as_bytes();
    let Some(space) = buffer.get_mut(7..7 + name.len()) else {
        return false;
    };
    space.copy_from_slice(name);
    buffer[..7].copy_from_slice(b"secret:");
    std::str::from_utf8(&buffer[..7 + name.len()]).is_ok_and(|text| glob_encoded(pattern, text))
}

/// Whether one value of a condition on the secret's id means this secret: by its name, or by its ARN, of which
/// region and account are compared only where one is on record.
pub(super) fn secret_id_matches(
    comparison: Comparison,
    value: &str,
    reading: Reading,
    subject: Subject<'_>,
) -> bool {
    let Some(name) = subject.name else { return false };
    let wild = matches!(comparison, Comparison::Like | Comparison::Arn);
    let holds = |value: &str, text: &str| match comparison {
        Comparison::Arn => Words::new(Comparison::Like, value).matches(text),
        _ => Words::new(comparison, value).matches(text),
    };
    let suffixed = |value: &str, text: &str| {
        let stripped = strip_suffix(value).filter(|_| wild);
        reading.holds(value, stripped, |value| holds(value, text))
    };
    let own = format!("secret:{name}");
    let Some(rest) = value.splitn(6, ':').nth(5) else {
        // To AWS the key is the whole ARN, which a pattern without colons may mean too.
        let whole = subject.arn.unwrap_or("arn:aws:secretsmanager:::");
        return match wild && is_wild(value) {
            true => {
                suffixed(value, name.as_str())
                    || holds(value, whole)
                    || suffixed(value, &format!("{whole}{own}"))
            }
            false => holds(value, name.as_str()),
        };
    };
    match subject.arn {
        None => suffixed(rest, &own),
        Some(arn) => {
            let mut ours = arn.splitn(6, ':');
            let head = value
                .splitn(6, ':')
                .take(5)
                .all(|v| ours.next().is_some_and(|o| holds(v, o)));
            head && (suffixed(rest, &own) || ours.next().is_some_and(|resource| holds(rest, resource)))
        }
    }
}
