//! Who: local principals, the mapping of ARNs to them, and the directory of names.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};

use crate::id::{DYNAMIC_IDS, Gid, Uid};

/// Longest local name, in bytes.
const MAX_NAME: usize = 256;

/// The kinds of unit that a process can be in (systemd.unit(5)).
const UNIT_TYPES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// A principal of this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Local {
    /// A user by name.
    User(String),
    /// A user by number.
    Uid(Uid),
    /// A group by name: the caller's gid or a supplementary group.
    Group(String),
    /// A group by number.
    Gid(Gid),
    /// A systemd unit, as in `app.service`.
    Unit(String),
    /// A part of wardfs itself, as in `wardfs-rotator`.
    Service(String),
}

/// Why a text names no local principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// No known kind before the colon.
    #[error("{0:?} does not begin with user:, uid:, group:, gid:, unit: or service:")]
    Kind(String),
    /// Nothing after the colon, or more than fits.
    #[error("a {0} name has 1 to {MAX_NAME} bytes")]
    Length(&'static str),
    /// Not a decimal id.
    #[error("{0:?} is no decimal id between 0 and 4294967294")]
    Number(String),
    /// A number where a name belongs.
    #[error("{name:?} is a number; write {kind}:{name}")]
    NumericName {
        /// `uid` or `gid`.
        kind: &'static str,
        /// What was given.
        name: String,
    },
    /// A wildcard.
    #[error("{0:?}: a principal has no wildcards; only a bare \"*\" stands for everybody")]
    Wildcard(String),
    /// A character that no such name has.
    #[error("{name:?} is no {kind} name: {bad:?} is not allowed")]
    Character {
        /// The kind of name.
        kind: &'static str,
        /// What was given.
        name: String,
        /// The character.
        bad: char,
    },
    /// A unit without its type.
    #[error("{0:?} is no unit's full name, as {0}.service is")]
    UnitType(String),
}

impl LocalError {
    /// The text that was probably meant.
    pub(super) fn suggestion(&self) -> Option<String> {
        match self {
            LocalError::UnitType(name) => Some(format!("{name}.service")),
            _ => None,
        }
    }
}

/// A decimal id without sign or leading zero; 4294967295 is "no id" to the kernel.
pub(super) fn parse_id(s: &str) -> Result<u32, LocalError> {
    match s.parse::<u32>() {
        Ok(n) if n != u32::MAX && n.to_string() == s => Ok(n),
        _ => Err(LocalError::Number(s.into())),
    }
}

fn check_name(kind: &'static str, name: &str, bad: impl Fn(char) -> bool) -> Result<String, LocalError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(LocalError::Length(kind));
    }
    if super::pattern::is_wild(name) {
        return Err(LocalError::Wildcard(name.into()));
    }
    match name
        .chars()
        .find(|&c| c.is_control() || c.is_whitespace() || bad(c))
    {
        Some(bad) => Err(LocalError::Character {
            kind,
            name: name.into(),
            bad,
        }),
        None => Ok(name.into()),
    }
}

fn check_account(kind: &'static str, id: &'static str, name: &str) -> Result<String, LocalError> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
        return Err(LocalError::NumericName {
            kind: id,
            name: name.into(),
        });
    }
    check_name(kind, name, |c| matches!(c, ':' | '/' | ','))
}

/// A unit's full name.
pub(super) fn check_unit(name: &str) -> Result<String, LocalError> {
    let name = check_name("unit", name, |c| {
        !(c.is_ascii_alphanumeric() || ":_.\\@-".contains(c))
    })?;
    match UNIT_TYPES
        .iter()
        .any(|t| name.len() > t.len() && name.ends_with(t))
    {
        true => Ok(name),
        false => Err(LocalError::UnitType(name)),
    }
}

impl Local {
    /// The principal of a kind (`user`, `uid`, …, in any case) and a name.
    pub(super) fn of_kind(kind: &str, name: &str) -> Result<Local, LocalError> {
        Ok(match kind.to_ascii_lowercase().as_str() {
            "user" => Local::User(check_account("user", "uid", name)?),
            "uid" => Local::Uid(Uid(parse_id(name)?)),
            "group" => Local::Group(check_account("group", "gid", name)?),
            "gid" => Local::Gid(Gid(parse_id(name)?)),
            "unit" => Local::Unit(check_unit(name)?),
            "service" => Local::Service(check_name("service", name, |c| c == ':' || c == '/')?),
            _ => return Err(LocalError::Kind(format!("{kind}:{name}"))),
        })
    }

    /// The kind as documents spell it, and the name.
    pub(super) fn parts(&self) -> (&'static str, String) {
        match self {
            Local::User(s) => ("User", s.clone()),
            Local::Uid(n) => ("Uid", n.to_string()),
            Local::Group(s) => ("Group", s.clone()),
            Local::Gid(n) => ("Gid", n.to_string()),
            Local::Unit(s) => ("Unit", s.clone()),
            Local::Service(s) => ("Service", s.clone()),
        }
    }

    /// The id, if it is a number of systemd's dynamic range.
    pub fn dynamic_id(&self) -> Option<u32> {
        match self {
            Local::Uid(Uid(n)) | Local::Gid(Gid(n)) if DYNAMIC_IDS.contains(n) => Some(*n),
            _ => None,
        }
    }
}

/// As in `user:www-data`, `uid:33`, `group:backup`, `gid:34`, `unit:app.service`, `service:wardfs-rotator`.
impl FromStr for Local {
    type Err = LocalError;
    fn from_str(s: &str) -> Result<Self, LocalError> {
        let (kind, name) = s.split_once(':').ok_or_else(|| LocalError::Kind(s.into()))?;
        Local::of_kind(kind, name)
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{}:{name}", kind.to_ascii_lowercase())
    }
}

impl serde::Serialize for Local {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Local {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// The names of users and groups. Behind it is NSS; in tests a table.
pub trait Directory {
    /// The user's uid.
    fn uid_of(&self, name: &str) -> Option<Uid>;
    /// The group's gid.
    fn gid_of(&self, name: &str) -> Option<Gid>;
    /// All users that can be enumerated.
    fn users(&self) -> Vec<(String, Uid)>;
    /// All groups that can be enumerated.
    fn groups(&self) -> Vec<(String, Gid)>;
    /// The name of the uid; the first of several.
    fn user_name(&self, uid: Uid) -> Option<String> {
        self.users()
            .into_iter()
            .find(|(_, u)| *u == uid)
            .map(|(name, _)| name)
    }
    /// The name of the gid; the first of several.
    fn group_name(&self, gid: Gid) -> Option<String> {
        self.groups()
            .into_iter()
            .find(|(_, g)| *g == gid)
            .map(|(name, _)| name)
    }
    /// All groups of the uid's account, its own first; none if it is no account's.
    fn groups_of(&self, _: Uid) -> Vec<Gid> {
        Vec::new()
    }
}

/// `[principals]` of `wardfs.toml`: for an ARN, the local principals that count as it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PrincipalMap(#[serde(deserialize_with = "one_or_many")] pub BTreeMap<String, Vec<Local>>);

/// One that stands alone is the list of it.
fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, Vec<Local>>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Locals {
        One(Local),
        Many(Vec<Local>),
    }
    let map: BTreeMap<String, Locals> = Deserialize::deserialize(d)?;
    let list = |locals| match locals {
        Locals::One(local) => vec![local],
        Locals::Many(locals) => locals,
    };
    Ok(map.into_iter().map(|(arn, locals)| (arn, list(locals))).collect())
}

/// Whether `s` has an ARN's six segments, the last of them not empty.
pub(super) fn is_arn(s: &str) -> bool {
    s.starts_with("arn:") && s.splitn(6, ':').nth(5).is_some_and(|rest| !rest.is_empty())
}

/// The account of a principal that is a whole account (`123456789012` or `arn:aws:iam::123456789012:root`).
pub(super) fn account(principal: &str) -> Option<&str> {
    let number = |s: &str| s.len() == 12 && s.bytes().all(|b| b.is_ascii_digit());
    if number(principal) {
        return Some(principal);
    }
    let mut parts = principal.splitn(6, ':');
    match [(); 6].map(|()| parts.next()) {
        [Some("arn"), Some(_), Some("iam"), Some(""), Some(a), Some("root")] if number(a) => Some(a),
        _ => None,
    }
}

/// Whether the ARN is of that account.
pub(super) fn in_account(arn: &str, account: &str) -> bool {
    arn.split(':').nth(4) == Some(account)
}
