//! Names and numbers that must not be mistaken for each other.

use std::fmt;
use std::sync::Arc;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A user id as the kernel numbers it in the initial user namespace of the mount.
    Uid(u32)
);
number!(
    /// A group id.
    Gid(u32)
);
number!(
    /// A thread id. The `pid` of a FUSE request is one of these.
    Tid(u32)
);
number!(
    /// A process (thread group) id.
    Pid(u32)
);
number!(
    /// A secret's number: given once, never used again, the base of its inode number.
    SecretId(u64)
);
number!(
    /// A version's number, unique in the store, the base of its inode number.
    VersionNo(u64)
);
number!(
    /// The store's commit counter: every commit advances it by one.
    Epoch(u64)
);

/// Root.
pub const ROOT: Uid = Uid(0);

/// The ids that systemd hands to units with `DynamicUser=` (systemd's UIDS-GIDS document): whoever starts next
/// may get the same one.
pub const DYNAMIC_IDS: std::ops::RangeInclusive<u32> = 61184..=65519;

/// Why a name, label or version id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("it is empty")]
    Empty,
    /// More bytes than the kind of name may have.
    #[error("it is {len} bytes long; the limit is {max}")]
    TooLong {
        /// Bytes found.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Fewer bytes than the kind of name must have.
    #[error("it is {len} characters long; at least {min} are needed")]
    TooShort {
        /// Characters found.
        len: usize,
        /// Characters needed.
        min: usize,
    },
    /// A byte outside the alphabet.
    #[error("{0:?} at byte {1} is not allowed; use letters, digits and {2}")]
    BadCharacter(char, usize, &'static str),
    /// `a//b`, a leading or a trailing slash.
    #[error("it has an empty segment: remove leading, trailing and doubled slashes")]
    EmptySegment,
    /// `.`, `..`, or a segment that begins with a dot.
    #[error("the segment {0:?} begins with a dot; such names are reserved")]
    DotSegment(String),
}

fn check_alphabet(s: &str, extra: &'static str) -> Result<(), NameError> {
    for (i, c) in s.char_indices() {
        if !(c.is_ascii_alphanumeric() || extra.contains(c)) {
            return Err(NameError::BadCharacter(c, i, extra));
        }
    }
    Ok(())
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<&str, NameError> = $parse;
                Ok($name(check(s)?.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                s.parse().map_err(serde::de::Error::custom)
            }
        }

        /// So that maps keyed by the name can be searched by text.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text!(
    /// A secret's name: 1..=512 bytes of `[A-Za-z0-9/_+=.@-]`, no empty segment, none that begins with a dot,
    /// none longer than 255 bytes (the longest file name Linux takes).
    SecretName,
    |s| {
        if s.is_empty() {
            return Err(NameError::Empty);
        }
        if s.len() > 512 {
            return Err(NameError::TooLong { len: s.len(), max: 512 });
        }
        check_alphabet(s, "/_+=.@-")?;
        for segment in s.split('/') {
            if segment.is_empty() {
                return Err(NameError::EmptySegment);
            }
            if segment.starts_with('.') {
                return Err(NameError::DotSegment(segment.into()));
            }
            if segment.len() > 255 {
                return Err(NameError::TooLong { len: segment.len(), max: 255 });
            }
        }
        Ok(s)
    }
);

text!(
    /// A version's id, which is also the client's request token: 32..=64 characters of `[A-Za-z0-9-]`.
    VersionId,
    |s| {
        if s.len() < 32 {
            return Err(NameError::TooShort { len: s.len(), min: 32 });
        }
        if s.len() > 64 {
            return Err(NameError::TooLong { len: s.len(), max: 64 });
        }
        check_alphabet(s, "-")?;
        Ok(s)
    }
);

text!(
    /// What names a version of a secret: one of its labels, its id, or the first characters of its id, 8 at least,
    /// where no other version's begins so. 1..=255 characters as a label has them, `AWSCURRENT` and its like read as
    /// [`Label`] reads them.
    VersionName,
    |s| match s.parse::<Label>() {
        Ok(label) if label.as_str() != s => Ok(match label.as_str() {
            "current" => "current",
            "pending" => "pending",
            _ => "previous",
        }),
        parsed => parsed.map(|_| s),
    }
);

impl VersionName {
    /// The fewest characters of an id that are enough.
    pub const SHORTEST: usize = 8;

    /// The version that carries a label.
    pub fn labelled(label: &Label) -> Self {
        VersionName(label.0.clone())
    }

    /// Whether `id` may be meant by its first characters.
    pub fn begins(&self, id: &str) -> bool {
        self.0.len() >= Self::SHORTEST && id.starts_with(&*self.0)
    }
}

impl From<VersionId> for VersionName {
    fn from(id: VersionId) -> Self {
        VersionName(id.0)
    }
}

impl VersionId {
    /// A fresh id: a random UUID.
    pub fn random() -> Self {
        VersionId(uuid::Uuid::new_v4().to_string().into())
    }
}

text!(
    /// A label on a version: 1..=255 characters of `[A-Za-z0-9_+=.@-]`, not beginning with a dot. The aliases
    /// `AWSCURRENT`, `AWSPENDING` and `AWSPREVIOUS` are read as `current`, `pending` and `previous`.
    Label,
    |s| {
        if s.is_empty() {
            return Err(NameError::Empty);
        }
        if s.len() > 255 {
            return Err(NameError::TooLong { len: s.len(), max: 255 });
        }
        check_alphabet(s, "_+=.@-")?;
        if s.starts_with('.') {
            return Err(NameError::DotSegment(s.into()));
        }
        Ok(match s {
            "AWSCURRENT" => "current",
            "AWSPENDING" => "pending",
            "AWSPREVIOUS" => "previous",
            other => other,
        })
    }
);

impl Label {
    /// A number of 24 bits, of which two labels of a secret must not have the same: the mount knows a link by it.
    pub fn number(&self) -> u32 {
        use sha2::Digest;
        let hash = sha2::Sha256::digest(self.0.as_bytes());
        u32::from_be_bytes([0, hash[0], hash[1], hash[2]])
    }

    /// Whether it could be a version's id as well. No new label may.
    pub fn is_like_an_id(&self) -> bool {
        self.0.parse::<VersionId>().is_ok()
    }

    /// The label of the version that readers get.
    pub fn current() -> Self {
        Label("current".into())
    }
    /// The label of a version in preparation.
    pub fn pending() -> Self {
        Label("pending".into())
    }
    /// The label of the version that was current before.
    pub fn previous() -> Self {
        Label("previous".into())
    }
}

text!(
    /// A named key that wraps data keys: 1..=64 characters of `[A-Za-z0-9_.-]`.
    KeyId,
    |s| {
        if s.is_empty() {
            return Err(NameError::Empty);
        }
        if s.len() > 64 {
            return Err(NameError::TooLong { len: s.len(), max: 64 });
        }
        check_alphabet(s, "_.-")?;
        Ok(s)
    }
);

impl KeyId {
    /// The key that is used where none is named.
    pub fn default_key() -> Self {
        KeyId("default".into())
    }
}

/// A store's identity, random, made by `init`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// Whether a character could drive a terminal, end a line, or hide in a text: Unicode's categories Cc, Zl, Zp and Cf.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Invisible characters of untrusted text made visible, so that a process name or a description cannot drive a
/// terminal, forge a line, or look like another one.
pub fn printable(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        if is_invisible(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Untrusted text in quotes, made visible as [`printable`] does.
pub fn quoted(s: &str) -> String {
    format!("\"{}\"", printable(s).replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_escaped_once() {
        assert_eq!(quoted("a\u{200b}b\"c\\d"), r#""a\u{200b}b\"c\d""#);
    }

    #[test]
    fn names_keep_to_the_alphabet_and_the_segments() {
        for good in [
            "a",
            "app/db/password",
            "A-z0_9+=.@x",
            "a/".repeat(200).trim_end_matches('/'),
        ] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a/..",
            "a b",
            "a\n",
            "é",
            "a\0",
            &"x".repeat(513),
            &"x".repeat(256),
        ] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn aws_stages_are_aliases() {
        assert_eq!("AWSCURRENT".parse::<Label>().unwrap(), Label::current());
        assert_eq!("AWSPENDING".parse::<Label>().unwrap(), Label::pending());
        assert_eq!("AWSPREVIOUS".parse::<Label>().unwrap(), Label::previous());
    }

    #[test]
    fn untrusted_text_cannot_drive_a_terminal() {
        assert_eq!(printable("a\x1b[2J\n\u{202e}b"), "a\\u{1b}[2J\\n\\u{202e}b");
    }
}
