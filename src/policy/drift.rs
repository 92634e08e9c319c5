//! Accounts that went or changed since a policy was set. A policy goes on meaning the ids that its names had then; what the
//! names mean now is shown and never followed.

use std::fmt;

use serde::Serialize;

use super::reading::People;
use super::record::PolicyRecord;
use crate::id::{Gid, Uid};

/// A name that does not mean now what it meant when the policy was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// `user` or `group`.
    pub kind: &'static str,
    /// As the policy has it.
    pub name: String,
    /// The uid or gid that the policy goes on meaning.
    pub id: u32,
    /// The id that the name has now; null if there is no such account.
    pub name_means: Option<u32>,
    /// The name that the id has now; null if no account has it.
    pub id_is: Option<String>,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Drift { kind, name, id, .. } = self;
        let number = if *kind == "user" { "uid" } else { "gid" };
        write!(
            f,
            "{kind} {name} was {number} {id} when the policy was set, which it goes on meaning; now "
        )?;
        match self.name_means {
            None => write!(f, "there is no {kind} {name}")?,
            Some(other) => write!(f, "{kind} {name} is {number} {other}")?,
        }
        match &self.id_is {
            None => write!(f, ", and nobody has {number} {id}"),
            Some(other) => write!(f, ", and {number} {id} is {kind} {other}"),
        }
    }
}

impl PolicyRecord {
    /// What of its names drifted, in their order.
    pub fn drift(&self, people: &dyn People) -> Vec<Drift> {
        let drift =
            |kind, (name, id): (&String, &u32), means: Option<u32>, is: &dyn Fn() -> Option<String>| {
                (means != Some(*id)).then(|| Drift {
                    kind,
                    name: name.clone(),
                    id: *id,
                    name_means: means,
                    id_is: is(),
                })
            };
        let users = self.users.iter().filter_map(|kept| {
            let means = people.uid_of(kept.0).map(|u| u.0);
            drift("user", kept, means, &|| people.user(Uid(*kept.1)))
        });
        let groups = self.groups.iter().filter_map(|kept| {
            let means = people.gid_of(kept.0).map(|g| g.0);
            drift("group", kept, means, &|| people.group(Gid(*kept.1)))
        });
        users.chain(groups).collect()
    }
}
