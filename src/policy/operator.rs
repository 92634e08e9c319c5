//! Condition operators: how they compare, and over which of a key's values.

use super::diagnostic::{PolicyError, Source, nearest};
use super::json::Text;

/// How an operator compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// As decimal numbers.
    Number(Order),
    /// As instants: ISO 8601 or seconds since 1970.
    Date(Order),
    /// As bytes in base64.
    Binary,
    /// As an address within a range.
    Ip,
}

/// What a number or an instant has to be, beside the value of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// The same.
    Equal,
    /// Below.
    Less,
    /// Below or the same.
    LessOrEqual,
    /// Above.
    Greater,
    /// Above or the same.
    GreaterOrEqual,
}

impl Order {
    /// Whether it holds for what was asked, beside what the document has.
    pub(super) fn holds<T: Ord>(self, asked: &T, document: &T) -> bool {
        match self {
            Order::Equal => asked == document,
            Order::Less => asked < document,
            Order::LessOrEqual => asked <= document,
            Order::Greater => asked > document,
            Order::GreaterOrEqual => asked >= document,
        }
    }
}

/// `ForAllValues:` or `ForAnyValue:` before an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantifier {
    /// Every value of the key has to satisfy the operator; true for a key without any.
    All,
    /// One value has to; false for a key without any.
    Any,
}

impl Quantifier {
    const BOTH: [Quantifier; 2] = [Quantifier::All, Quantifier::Any];

    fn prefix(self) -> &'static str {
        match self {
            Quantifier::All => "ForAllValues:",
            Quantifier::Any => "ForAnyValue:",
        }
    }
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
    /// Over which of a key's values, where it says so.
    pub quantifier: Option<Quantifier>,
}

/// AWS's list (IAM user guide, "IAM JSON policy elements: Condition operators").
const OPERATORS: [(&str, Comparison, bool); 27] = [
    ("StringEquals", Comparison::Equals, false),
    ("StringNotEquals", Comparison::Equals, true),
    ("StringEqualsIgnoreCase", Comparison::EqualsIgnoreCase, false),
    ("StringNotEqualsIgnoreCase", Comparison::EqualsIgnoreCase, true),
    ("StringLike", Comparison::Like, false),
    ("StringNotLike", Comparison::Like, true),
    ("NumericEquals", Comparison::Number(Order::Equal), false),
    ("NumericNotEquals", Comparison::Number(Order::Equal), true),
    ("NumericLessThan", Comparison::Number(Order::Less), false),
    (
        "NumericLessThanEquals",
        Comparison::Number(Order::LessOrEqual),
        false,
    ),
    ("NumericGreaterThan", Comparison::Number(Order::Greater), false),
    (
        "NumericGreaterThanEquals",
        Comparison::Number(Order::GreaterOrEqual),
        false,
    ),
    ("DateEquals", Comparison::Date(Order::Equal), false),
    ("DateNotEquals", Comparison::Date(Order::Equal), true),
    ("DateLessThan", Comparison::Date(Order::Less), false),
    ("DateLessThanEquals", Comparison::Date(Order::LessOrEqual), false),
    ("DateGreaterThan", Comparison::Date(Order::Greater), false),
    (
        "DateGreaterThanEquals",
        Comparison::Date(Order::GreaterOrEqual),
        false,
    ),
    ("Bool", Comparison::Bool, false),
    ("BinaryEquals", Comparison::Binary, false),
    ("IpAddress", Comparison::Ip, false),
    ("NotIpAddress", Comparison::Ip, true),
    ("ArnEquals", Comparison::Arn, false),
    ("ArnLike", Comparison::Arn, false),
    ("ArnNotEquals", Comparison::Arn, true),
    ("ArnNotLike", Comparison::Arn, true),
    ("Null", Comparison::Null, false),
];

const IF_EXISTS: &str = "IfExists";

impl Operator {
    /// The operator's name, as in `ForAnyValue:StringLikeIfExists`.
    pub fn name(self) -> String {
        spelled(self.quantifier, self.base, self.if_exists)
    }

    /// Whether it looks at every value that the key could have, and not only at those that it names.
    pub(super) fn asks_presence(self) -> bool {
        self.if_exists || self.quantifier.is_some() || self.comparison == Comparison::Null
    }

    pub(super) fn parse(name: &Text, source: Source<'_>) -> Result<Operator, PolicyError> {
        let text = name.value.as_str();
        let (quantifier, rest) = Quantifier::BOTH
            .into_iter()
            .find_map(|q| Some((Some(q), text.strip_prefix(q.prefix())?)))
            .unwrap_or((None, text));
        let (base, if_exists) = match rest.strip_suffix(IF_EXISTS) {
            Some(base) => (base, true),
            None => (rest, false),
        };
        let Some(&(base, comparison, negated)) = OPERATORS.iter().find(|(n, ..)| *n == base) else {
            return Err(unknown(name, rest, source));
        };
        if comparison == Comparison::Null && (if_exists || quantifier.is_some()) {
            let form = if if_exists {
                IF_EXISTS
            } else {
                "ForAllValues or ForAnyValue"
            };
            let message = format!("Null has no {form} form: it asks itself whether the key is there");
            return Err(source.error(name.at, message).suggest("write \"Null\""));
        }
        Ok(Operator {
            base,
            comparison,
            negated,
            if_exists,
            quantifier,
        })
    }
}

fn spelled(quantifier: Option<Quantifier>, base: &str, if_exists: bool) -> String {
    let prefix = quantifier.map_or("", Quantifier::prefix);
    format!("{prefix}{base}{}", if if_exists { IF_EXISTS } else { "" })
}

/// The error for a name that is no operator, with the nearest one.
fn unknown(name: &Text, rest: &str, source: Source<'_>) -> PolicyError {
    let text = name.value.as_str();
    let error = source.error(name.at, format!("there is no operator {text:?}"));
    let (prefix, rest) = match text.split_once(':') {
        None => (None, rest),
        Some((prefix, rest)) => {
            let prefixes = Quantifier::BOTH.map(|q| q.prefix().trim_end_matches(':'));
            match nearest(prefix, prefixes) {
                Some(p) => (
                    Quantifier::BOTH
                        .into_iter()
                        .find(|q| q.prefix().trim_end_matches(':') == p),
                    rest,
                ),
                None => return error.suggest("before the colon can be ForAllValues or ForAnyValue"),
            }
        }
    };
    let if_exists = rest.len() > IF_EXISTS.len()
        && rest.is_char_boundary(rest.len() - IF_EXISTS.len())
        && rest[rest.len() - IF_EXISTS.len()..].eq_ignore_ascii_case(IF_EXISTS);
    let base = if if_exists {
        &rest[..rest.len() - IF_EXISTS.len()]
    } else {
        rest
    };
    let near = nearest(base, OPERATORS.map(|o| o.0)).map(|n| spelled(prefix, n, if_exists));
    error.did_you_mean(near)
}
