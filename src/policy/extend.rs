//! Rules for a policy that is there. Its names keep the meaning that they had when it was set; those of the new rules
//! are looked up.

use std::collections::BTreeMap;

use super::action::Action;
use super::diagnostic::{PolicyError, Source, Warning};
use super::document::{Document, Effect, Principal};
use super::principal::{Directory, Local, PrincipalMap};
use super::record::{Account, Names, PolicyRecord, Resolver};
use crate::id::{Gid, SecretName, Uid};

/// Why rules were not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtendError {
    /// The document, or a principal of the new rules.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A name that stands for somebody else in the policy that is there.
    #[error("{who} was {kind} {was} when the policy was set, and is {kind} {is} now")]
    Ambiguous {
        /// The principal, as it was written.
        who: Local,
        /// `uid` or `gid`.
        kind: &'static str,
        /// Whom the policy means.
        was: u32,
        /// Whom the directory means.
        is: u32,
    },
}

impl PolicyRecord {
    /// Adds rules about `action` to `old`, or begins with them. Only their own names are looked up.
    pub fn extended(
        old: Option<&PolicyRecord>,
        rules: &[(Effect, Local)],
        action: Action,
        directory: &dyn Directory,
        name: &SecretName,
        arn: Option<&str>,
    ) -> Result<(PolicyRecord, Vec<Warning>), ExtendError> {
        let mut record = old.cloned().unwrap_or_default();
        let mut document = match old {
            Some(old) => old.document()?,
            None => Document::empty(),
        };
        let mut added = Vec::new();
        let mut by_number = Vec::new();
        let mut kept = Vec::new();
        for (effect, who) in rules {
            // Whoever is denied may be gone by now: he is whom the policy has meant.
            if *effect == Effect::Deny && record.means_one_gone(who, directory) {
                kept.push(who.clone());
            }
            let who = match record.number_for(who, directory)? {
                Some(number) => {
                    by_number.push((who, number.clone()));
                    number
                }
                None => who.clone(),
            };
            document.add(*effect, &who, &[action]);
            added.push(who);
        }
        record.text = document.to_json_pretty();
        // Which gives each principal its place.
        let document = record.document()?;
        let text = record.text.clone();
        let source = Source(&text);
        let names = Names::new(directory);
        let mut resolver = Resolver::over(record, source, &names, None);
        for principal in document.statements.iter().flat_map(|s| &s.principal.items) {
            if let Principal::Local(local) = principal
                && added.contains(&local.value)
                && !kept.contains(&local.value)
            {
                resolver.local(&local.value, local.at, None)?;
            }
        }
        let (record, _) = resolver.finish();
        let mut warnings = record.check(name, arn)?;
        warnings.extend(by_number.into_iter().map(|(who, number)| {
            let why = "the policy also asks for names, which mean whom they meant when it was set";
            source.warning(0, format!("{who} was added as {number}: {why}"))
        }));
        Ok((record, warnings))
    }

    /// A name as its number, where with the name's entry in the record's tables another part of the document could come
    /// to mean this principal as well.
    ///
    /// # Errors
    /// If the record knows the name as somebody else's.
    fn number_for(&self, who: &Local, directory: &dyn Directory) -> Result<Option<Local>, ExtendError> {
        let (account, name) = match who {
            Local::User(name) => (Account::User, name),
            Local::Group(name) => (Account::Group, name),
            _ => return Ok(None),
        };
        let (found, known, kind, key, number): (_, _, _, _, fn(u32) -> Local) = match account {
            Account::User => {
                let found = directory.uid_of(name).map(|u| u.0);
                (found, self.users.get(name), "uid", "aws:username", |id| {
                    Local::Uid(Uid(id))
                })
            }
            Account::Group => {
                let found = directory.gid_of(name).map(|g| g.0);
                (found, self.groups.get(name), "gid", "wardfs:groups", |id| {
                    Local::Gid(Gid(id))
                })
            }
        };
        match (known.copied(), found) {
            (Some(was), Some(is)) if was != is => Err(ExtendError::Ambiguous {
                who: who.clone(),
                kind,
                was,
                is,
            }),
            (None, Some(id)) if self.text.to_ascii_lowercase().contains(key) => Ok(Some(number(id))),
            _ => Ok(None),
        }
    }

    /// Whether it knows a name of which there is no account now.
    fn means_one_gone(&self, who: &Local, directory: &dyn Directory) -> bool {
        match who {
            Local::User(name) => self.users.contains_key(name) && directory.uid_of(name).is_none(),
            Local::Group(name) => self.groups.contains_key(name) && directory.gid_of(name).is_none(),
            _ => false,
        }
    }

    /// Who would count as the ARNs that the document can mean, if it were set again under this mapping.
    pub fn mapped(&self, map: &PrincipalMap) -> BTreeMap<String, Vec<Local>> {
        let Ok(document) = self.document() else {
            return BTreeMap::new();
        };
        let names = Names::new(&Somebody);
        let mut resolver = Resolver::over(PolicyRecord::default(), Source(&self.text), &names, Some(map));
        for statement in &document.statements {
            // What else it names does not matter here.
            let _ = resolver.statement(statement);
        }
        resolver.finish().0.principals
    }

    /// What each name and ARN stands for, one line each.
    pub fn meanings(&self) -> Vec<String> {
        let users = self
            .users
            .iter()
            .map(|(name, uid)| format!("user {name}: uid {uid}"));
        let groups = self
            .groups
            .iter()
            .map(|(name, gid)| format!("group {name}: gid {gid}"));
        let arns = self.principals.iter().map(|(arn, locals)| {
            let locals: Vec<String> = locals.iter().map(ToString::to_string).collect();
            format!("{arn}: {}", locals.join(", "))
        });
        users.chain(groups).chain(arns).collect()
    }
}

/// A directory in which every name is somebody, where it does not matter who.
struct Somebody;

impl Directory for Somebody {
    fn uid_of(&self, _: &str) -> Option<Uid> {
        Some(Uid(1))
    }
    fn gid_of(&self, _: &str) -> Option<Gid> {
        Some(Gid(1))
    }
    fn users(&self) -> Vec<(String, Uid)> {
        Vec::new()
    }
    fn groups(&self) -> Vec<(String, Gid)> {
        Vec::new()
    }
}
