//! Names of users and groups, as they are typed.

use super::{Lifecycle, Rule};
use crate::id::{Gid, Uid, quoted};
use crate::policy::{Local, PolicyRecord, nearest};
use crate::problem::{Exit, Problem};

impl Lifecycle {
    /// The uid of a user's name or number.
    pub(super) fn user_named(&self, name: Option<&str>, what: &str) -> Result<Option<u32>, Problem> {
        let Some(name) = name else { return Ok(None) };
        let uid = name.parse().map(Uid).ok().or_else(|| self.directory.uid_of(name));
        let why = || format!("there is no user {} (--owner)", quoted(name));
        let unknown = || Problem::new(Exit::Usage, what, why()).next("name a user of this machine, or a uid");
        Ok(Some(uid.ok_or_else(unknown)?.0))
    }

    /// The gid of a group's name or number.
    pub(super) fn group_named(&self, name: Option<&str>, what: &str) -> Result<Option<u32>, Problem> {
        let Some(name) = name else { return Ok(None) };
        let gid = name.parse().map(Gid).ok().or_else(|| self.directory.gid_of(name));
        let why = || format!("there is no group {} (--group)", quoted(name));
        let unknown =
            || Problem::new(Exit::Usage, what, why()).next("name a group of this machine, or a gid");
        Ok(Some(gid.ok_or_else(unknown)?.0))
    }

    /// That each new rule names somebody whom this machine or the policy knows.
    ///
    /// # Errors
    /// With the argument that does not.
    pub(super) fn known(
        &self,
        rules: &[Rule],
        old: Option<&PolicyRecord>,
        what: &str,
    ) -> Result<(), Problem> {
        for rule in rules {
            let (flag, who) = match rule {
                Rule::Allow(who) => ("--allow", who),
                Rule::Deny(who) => ("--deny", who),
            };
            let (kind, name, found) = match who {
                Local::User(name) => {
                    let kept = old.is_some_and(|p| p.users.contains_key(name));
                    ("user", name, kept || self.directory.uid_of(name).is_some())
                }
                Local::Group(name) => {
                    let kept = old.is_some_and(|p| p.groups.contains_key(name));
                    ("group", name, kept || self.directory.gid_of(name).is_some())
                }
                _ => continue,
            };
            if found {
                continue;
            }
            let mut all: Vec<String> = match kind {
                "user" => self.directory.users().into_iter().map(|(name, _)| name).collect(),
                _ => self
                    .directory
                    .groups()
                    .into_iter()
                    .map(|(name, _)| name)
                    .collect(),
            };
            all.sort();
            let meant = nearest(name, all).map(|n| format!("; did you mean {}?", quoted(&n)));
            let why = format!(
                "{flag} {who}: there is no {kind} {}{}",
                quoted(name),
                meant.unwrap_or_default()
            );
            return Err(Problem::new(Exit::Usage, what, why)
                .next("name users and groups of this machine, as user:www-data or gid:34"));
        }
        Ok(())
    }
}
