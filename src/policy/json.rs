//! JSON values with their place in the text, on top of serde_json's raw values: a raw value borrows from the
//! document, so its address is its position.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::diagnostic::{PolicyError, Source};

/// A leaf of the document: its text and where it stands. Two are equal if their texts are.
#[derive(Debug, Clone, Eq)]
pub struct Text {
    /// The text, unescaped.
    pub value: String,
    /// Byte offset in the document; 0 for one that was made by an edit.
    pub(super) at: usize,
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl From<&str> for Text {
    fn from(s: &str) -> Self {
        Text {
            value: s.into(),
            at: 0,
        }
    }
}

/// A JSON value and its place.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    raw: &'a str,
    source: Source<'a>,
}

/// The kinds of JSON value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Kind::Object => "an object",
            Kind::Array => "an array",
            Kind::String => "a string",
            Kind::Number => "a number",
            Kind::Bool => "true or false",
            Kind::Null => "null",
        }
    }
}

/// Which scalars count as texts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalars {
    /// Strings alone.
    Strings,
    /// Numbers and booleans too, as AWS takes them in conditions.
    Any,
}

impl<'a> Node<'a> {
    /// Checks the syntax of the whole text.
    pub fn root(source: Source<'a>) -> Result<Self, PolicyError> {
        match serde_json::from_str::<&RawValue>(source.0) {
            Ok(raw) => Ok(Node {
                raw: raw.get(),
                source,
            }),
            Err(e) => {
                let start: usize = source
                    .0
                    .split_inclusive('\n')
                    .take(e.line().saturating_sub(1))
                    .map(str::len)
                    .sum();
                let at = start + e.column().saturating_sub(1);
                let message = e.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                Err(source.error(at, format!("this is not JSON: {message}")))
            }
        }
    }

    /// Byte offset in the document.
    pub fn at(self) -> usize {
        // Both borrow from the same text, so the difference is the offset.
        (self.raw.as_ptr() as usize).saturating_sub(self.source.0.as_ptr() as usize)
    }

    /// An error at this value.
    pub fn error(self, message: impl Into<String>) -> PolicyError {
        self.source.error(self.at(), message)
    }

    pub fn kind(self) -> Kind {
        match self.raw.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }

    fn expected(self, what: &str) -> PolicyError {
        self.error(format!("expected {what}, found {}", self.kind().words()))
    }

    /// The text of a string.
    pub fn string(self) -> Result<Text, PolicyError> {
        if self.kind() != Kind::String {
            return Err(self.expected("a string"));
        }
        match serde_json::from_str(self.raw) {
            Ok(value) => Ok(Text { value, at: self.at() }),
            Err(_) => Err(self.error("this string has an escape that stands for no character")),
        }
    }

    fn scalar(self, scalars: Scalars) -> Result<Text, PolicyError> {
        match (self.kind(), scalars) {
            (Kind::Number | Kind::Bool, Scalars::Any) => Ok(Text {
                value: self.raw.into(),
                at: self.at(),
            }),
            _ => self.string(),
        }
    }

    /// A scalar, or a non-empty array of them.
    pub fn texts(self, scalars: Scalars) -> Result<Vec<Text>, PolicyError> {
        match self.kind() {
            Kind::Array => {
                let items = self.array()?;
                if items.is_empty() {
                    return Err(self.error("an empty array matches nothing; leave it out or name something"));
                }
                items.into_iter().map(|n| n.scalar(scalars)).collect()
            }
            Kind::Object | Kind::Null => Err(self.expected("a string or an array of strings")),
            _ => Ok(vec![self.scalar(scalars)?]),
        }
    }

    /// The items of an array.
    pub fn array(self) -> Result<Vec<Node<'a>>, PolicyError> {
        if self.kind() != Kind::Array {
            return Err(self.expected("an array"));
        }
        let items: Items<'a> = serde_json::from_str(self.raw).map_err(|e| self.error(e.to_string()))?;
        Ok(items
            .0
            .into_iter()
            .map(|raw| Node {
                raw: raw.get(),
                source: self.source,
            })
            .collect())
    }

    /// The fields of an object in their order; one that is there twice is refused.
    pub fn object(self) -> Result<Vec<(Text, Node<'a>)>, PolicyError> {
        if self.kind() != Kind::Object {
            return Err(self.expected("an object"));
        }
        let entries: Entries<'a> = serde_json::from_str(self.raw).map_err(|e| self.error(e.to_string()))?;
        let mut fields: Vec<(Text, Node<'a>)> = Vec::with_capacity(entries.0.len());
        let mut seen = std::collections::HashSet::with_capacity(entries.0.len());
        for (key, value) in entries.0 {
            let key = Node {
                raw: key.get(),
                source: self.source,
            }
            .string()?;
            if !seen.insert(key.value.clone()) {
                return Err(self
                    .source
                    .error(key.at, format!("{:?} is here twice", key.value)));
            }
            fields.push((
                key,
                Node {
                    raw: value.get(),
                    source: self.source,
                },
            ));
        }
        Ok(fields)
    }
}

struct Items<'a>(Vec<&'a RawValue>);
struct Entries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        d.deserialize_seq(V)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        d.deserialize_map(V)
    }
}
