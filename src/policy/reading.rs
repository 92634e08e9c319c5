//! Who may read, as it is told: to programs, in words, and what changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::reach::Claim;
use crate::id::{Gid, Uid};

/// Somebody, or a kind of callers. A name is null where no account has the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Reader {
    /// Processes of a user.
    User { user: Option<String>, uid: u32 },
    /// Processes in a group.
    Group { group: Option<String>, gid: u32 },
    /// Processes of a systemd unit.
    Unit { unit: String },
    /// A part of wardfs.
    Service { service: String },
    /// Every process of this machine.
    Everyone { everyone: bool },
}

/// Who may read, and what of it is left open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Who.
    #[serde(flatten)]
    pub who: Reader,
    /// Who of them may not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Reading>,
    /// What has to hold besides, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// The accounts of this machine, for an answer that names them.
pub trait People {
    /// The user's name.
    fn user(&self, uid: Uid) -> Option<String>;
    /// The group's name.
    fn group(&self, gid: Gid) -> Option<String>;
    /// The user's uid.
    fn uid_of(&self, name: &str) -> Option<Uid>;
    /// The group's gid.
    fn gid_of(&self, name: &str) -> Option<Gid>;
    /// All groups of the user's account; none if there is no such account.
    fn groups(&self, uid: Uid) -> Vec<Gid>;
    /// A process of this user with the groups of his account, of which nothing else is known.
    fn caller(&self, uid: Uid) -> Box<dyn Facts + '_>;
}

impl Reader {
    /// With the name that the id has now.
    pub fn of(claim: &Claim, people: &dyn People) -> Reader {
        match claim {
            Claim::Anyone => Reader::Everyone { everyone: true },
            Claim::Uid(uid) => Reader::User {
                user: people.user(Uid(*uid)),
                uid: *uid,
            },
            Claim::Gid(gid) => Reader::Group {
                group: people.group(Gid(*gid)),
                gid: *gid,
            },
            Claim::Unit(unit) => Reader::Unit {
                unit: unit.to_string(),
            },
            Claim::Service(service) => Reader::Service {
                service: service.to_string(),
            },
        }
    }
}

/// Who gains and who loses between two answers, in words.
pub fn difference(before: &[Reading], after: &[Reading], people: &dyn People) -> (Vec<String>, Vec<String>) {
    (gained(before, after, people), gained(after, before, people))
}

fn gained(before: &[Reading], after: &[Reading], people: &dyn People) -> Vec<String> {
    let mut found = Vec::new();
    let all = before.iter().chain(after);
    for subject in all.flat_map(|r| std::iter::once(&r.who).chain(r.except.iter().map(|e| &e.who))) {
        let state = |list| state(list, subject, people);
        let (was, is) = (state(before), state(after));
        let line = Reading {
            who: subject.clone(),
            except: Vec::new(),
            when: is.clone().flatten(),
        };
        let line = line.to_string();
        let gains = match (&was, &is) {
            (_, None) | (Some(None), _) => false,
            (was, is) => was != is,
        };
        if gains && !found.contains(&line) {
            found.push(line);
        }
    }
    found
}

/// Whether a list says that the subject may read, and under which condition.
fn state(list: &[Reading], subject: &Reader, people: &dyn People) -> Option<Option<String>> {
    let groups = match subject {
        Reader::User { uid, .. } => people.groups(Uid(*uid)),
        _ => Vec::new(),
    };
    let is = |who: &Reader| {
        who.is(subject) || matches!(who, Reader::Group { gid, .. } if groups.contains(&Gid(*gid)))
    };
    let mut state = None;
    for reading in list {
        let covers = is(&reading.who) || matches!(reading.who, Reader::Everyone { .. });
        let excepted: Vec<&Reading> = reading.except.iter().filter(|e| is(&e.who)).collect();
        if !covers || excepted.iter().any(|e| e.when.is_none()) {
            continue;
        }
        let unless = excepted.iter().filter_map(|e| e.when.as_deref());
        let parts: Vec<String> = (reading.when.iter().cloned())
            .chain(unless.map(|when| format!("not ({when})")))
            .collect();
        let when = (!parts.is_empty()).then(|| parts.join(" and "));
        match (&state, when) {
            (_, None) => return Some(None),
            (None, when) => state = Some(when),
            _ => {}
        }
    }
    state
}

impl Reader {
    /// As a policy's command line has it: `user:www-data`, `gid:34`, `everyone`.
    pub fn short(&self) -> String {
        match self {
            Reader::User { user: Some(name), .. } => format!("user:{name}"),
            Reader::User { user: None, uid } => format!("uid:{uid}"),
            Reader::Group {
                group: Some(name), ..
            } => format!("group:{name}"),
            Reader::Group { group: None, gid } => format!("gid:{gid}"),
            Reader::Unit { unit } => format!("unit:{unit}"),
            Reader::Service { service } => format!("service:{service}"),
            Reader::Everyone { .. } => "everyone".into(),
        }
    }

    fn is(&self, other: &Reader) -> bool {
        match (self, other) {
            (Reader::User { uid: a, .. }, Reader::User { uid: b, .. }) => a == b,
            (Reader::Group { gid: a, .. }, Reader::Group { gid: b, .. }) => a == b,
            _ => self == other,
        }
    }
}

/// As in `user www-data (uid 33)`, `gid 34`, `unit app.service`, `anyone`.
impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reader::User {
                user: Some(name),
                uid,
            } => write!(f, "user {name} (uid {uid})"),
            Reader::User { user: None, uid } => write!(f, "uid {uid}"),
            Reader::Group {
                group: Some(name),
                gid,
            } => write!(f, "group {name} (gid {gid})"),
            Reader::Group { group: None, gid } => write!(f, "gid {gid}"),
            Reader::Unit { unit } => write!(f, "unit {unit}"),
            Reader::Service { service } => write!(f, "service {service}"),
            Reader::Everyone { .. } => f.write_str("anyone"),
        }
    }
}

/// As in `group ops (gid 100), but not user bob (uid 1001), but only when wardfs:Unit is app.service`.
impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.who)?;
        for (i, except) in self.except.iter().enumerate() {
            let before = if i == 0 { ", but not " } else { " or " };
            write!(f, "{before}{}", except.who)?;
            if let Some(when) = &except.when {
                write!(f, " when {when}")?;
            }
        }
        match &self.when {
            Some(when) => write!(f, ", but only when {when}"),
            None => Ok(()),
        }
    }
}
