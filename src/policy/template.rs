//! Texts with wildcards and variables in them.
//!
//! A pattern is kept as bytes in which a wildcard is a byte that UTF-8 never has, so that a `*` that comes out of a
//! variable's value, or out of `${*}`, is only itself.

use super::condition::Key;
use super::pattern::{ANY, ONE};

/// A text of a document, taken apart.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Template {
    parts: Box<[Part]>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Part {
    Pattern(Box<[u8]>),
    Variable(Variable),
}

/// `${key}` or `${key, 'default'}`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Variable {
    pub key: Key,
    pub default: Option<Box<str>>,
}

/// Why a text is no template; the offset is in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TemplateError {
    pub at: usize,
    pub message: String,
    pub suggestion: Option<String>,
}

impl Template {
    /// `variables`: whether `${…}` is one. `wild`: whether `*` and `?` are wildcards.
    pub fn parse(text: &str, variables: bool, wild: bool) -> Result<Template, TemplateError> {
        let mut parts = Vec::new();
        let mut pattern = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let at = text.len() - rest.len();
            if let Some(inner) = rest.strip_prefix("${").filter(|_| variables) {
                let fail = |message: String| TemplateError {
                    at,
                    message,
                    suggestion: None,
                };
                let end =
                    closing(inner).ok_or_else(|| fail("a variable begins here and has no end".into()))?;
                match &inner[..end] {
                    literal @ ("*" | "?" | "$") => pattern.extend_from_slice(literal.as_bytes()),
                    body => {
                        let variable =
                            Variable::parse(body).map_err(|(message, suggestion)| TemplateError {
                                at,
                                message,
                                suggestion,
                            })?;
                        if !pattern.is_empty() {
                            parts.push(Part::Pattern(std::mem::take(&mut pattern).into()));
                        }
                        parts.push(Part::Variable(variable));
                    }
                }
                rest = &inner[end + 1..];
                continue;
            }
            let c = rest.chars().next().map_or(1, char::len_utf8);
            match &rest[..c] {
                "*" if wild => pattern.push(ANY),
                "?" if wild => pattern.push(ONE),
                other => pattern.extend_from_slice(other.as_bytes()),
            }
            rest = &rest[c..];
        }
        if !pattern.is_empty() || parts.is_empty() {
            parts.push(Part::Pattern(pattern.into()));
        }
        Ok(Template { parts: parts.into() })
    }

    pub fn has_variables(&self) -> bool {
        self.variables().next().is_some()
    }

    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|p| match p {
            Part::Variable(v) => Some(v),
            Part::Pattern(_) => None,
        })
    }

    /// The pattern of a template without variables.
    pub fn pattern(&self) -> &[u8] {
        match &*self.parts {
            [Part::Pattern(bytes)] => bytes,
            _ => &[],
        }
    }

    /// The pattern with the variables' values in their places; `None` if one of them has no value.
    pub fn expand(&self, mut value: impl FnMut(&Variable) -> Option<String>) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Pattern(bytes) => out.extend_from_slice(bytes),
                Part::Variable(v) => out.extend_from_slice(value(v)?.as_bytes()),
            }
        }
        Some(out)
    }
}

/// Where a variable ends: the first `}` outside of a quoted default.
fn closing(inner: &str) -> Option<usize> {
    let mut quoted = false;
    for (i, b) in inner.bytes().enumerate() {
        match b {
            b'\'' => quoted = !quoted,
            b'}' if !quoted => return Some(i),
            _ => {}
        }
    }
    None
}

impl Variable {
    fn parse(body: &str) -> Result<Variable, (String, Option<String>)> {
        let (name, default) = match body.split_once(',') {
            None => (body, None),
            Some((name, default)) => {
                let quoted = default
                    .trim()
                    .strip_prefix('\'')
                    .and_then(|d| d.strip_suffix('\''));
                let default = quoted.filter(|d| !d.contains('\'')).ok_or_else(|| {
                    let write = format!("write ${{{}, 'default'}}", name.trim());
                    (
                        "a variable's default is in single quotes".to_string(),
                        Some(write),
                    )
                })?;
                (name, Some(default.into()))
            }
        };
        let key = Key::named(name.trim()).map_err(|near| {
            let near = near.map(|n| format!("did you mean \"${{{n}}}\"?"));
            (
                format!("there is no key {:?} that a variable could have", name.trim()),
                near,
            )
        })?;
        match key.has_one_value() {
            true => Ok(Variable { key, default }),
            false => Err((
                format!("{} can have several values, and is no variable", key.name()),
                None,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_taken_apart_once() {
        let t = Template::parse(
            "a*${aws:username}/${*}${aws:PrincipalTag/team, 'no}ne'}?",
            true,
            true,
        )
        .unwrap();
        let names: Vec<String> = t.variables().map(|v| v.key.name().to_string()).collect();
        assert_eq!(names, ["aws:username", "aws:PrincipalTag/team"]);
        // What a value brings is literal.
        let out = t.expand(|v| Some(v.default.as_deref().unwrap_or("x*${aws:username}").to_string()));
        assert_eq!(
            out.unwrap(),
            [b"a".as_slice(), &[ANY], b"x*${aws:username}/*no}ne", &[ONE]].concat()
        );
        assert_eq!(t.expand(|_| None), None);
        assert_eq!(Template::parse("${x", false, true).unwrap().pattern(), b"${x");
    }

    #[test]
    fn what_is_no_variable_is_an_error_with_its_place() {
        for (text, at) in [
            ("a${", 1),
            ("${aws:usernam}", 0),
            ("x${aws:username,none}", 1),
            ("${}", 0),
            ("${wardfs:Groups}", 0),
        ] {
            assert_eq!(Template::parse(text, true, true).unwrap_err().at, at, "{text}");
        }
    }
}
