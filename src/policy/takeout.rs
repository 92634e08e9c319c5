//! `revoke` and `undeny`: somebody is taken out of the statements that name him. He is matched by what the policy has meant
//! since it was set, so that an account that is gone, or has another name, can be taken out as well.

use super::diagnostic::PolicyError;
use super::document::{Document, Effect, Principal};
use super::principal::{Directory, Local};
use super::reach::Claim;
use super::record::PolicyRecord;

/// Why nobody was taken out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakeOutError {
    /// The document.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No statement of that effect names him.
    #[error("no {} statement of its policy names {who}", if *effect == Effect::Allow { "Allow" } else { "Deny" })]
    Nothing {
        /// As it was written.
        who: Local,
        /// Of which statements.
        effect: Effect,
    },
}

/// A principal that was taken out of a statement.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TakenOut {
    /// As the statement had it.
    pub who: Local,
    /// The statement's Sid, or `#2` for the second if it has none; as they were counted before.
    pub statement: String,
}

/// A policy without somebody.
#[derive(Debug, Clone)]
pub struct TakeOut {
    /// What is left; `None` where no statement is.
    pub record: Option<PolicyRecord>,
    /// What went.
    pub taken: Vec<TakenOut>,
    /// Who went, by id.
    pub claims: Vec<Claim>,
}

impl PolicyRecord {
    /// Takes these principals out of all statements of one effect that list them: conditions stay as they are, a statement
    /// that names nobody any more goes. `NotPrincipal` lists those who are spared, and is left alone.
    ///
    /// # Errors
    /// If one of them is in no such statement; nothing is taken out then.
    pub fn without(
        &self,
        effect: Effect,
        whom: &[Local],
        directory: &dyn Directory,
    ) -> Result<TakeOut, TakeOutError> {
        let mut document = self.document()?;
        let (mut taken, mut claims) = (Vec::new(), Vec::new());
        for who in whom {
            let nothing = || TakeOutError::Nothing {
                who: who.clone(),
                effect,
            };
            let claim = self.claim(who, directory).ok_or_else(nothing)?;
            let before = taken.len();
            for (i, statement) in document.statements.iter_mut().enumerate() {
                if statement.effect != effect || statement.principal.negated {
                    continue;
                }
                let id = statement
                    .sid
                    .as_deref()
                    .map_or_else(|| format!("#{}", i + 1), str::to_string);
                statement.principal.items.retain(|p| match p {
                    Principal::Local(local) if self.meant(&local.value).as_ref() == Some(&claim) => {
                        taken.push(TakenOut {
                            who: local.value.clone(),
                            statement: id.clone(),
                        });
                        false
                    }
                    _ => true,
                });
            }
            if taken.len() == before {
                return Err(nothing());
            }
            claims.push(claim);
        }
        document.statements.retain(|s| !s.principal.items.is_empty());
        let record = (!document.statements.is_empty()).then(|| self.cut(&document));
        Ok(TakeOut {
            record,
            taken,
            claims,
        })
    }

    /// Whom a principal of this policy means: by the ids that it was given.
    pub fn meant(&self, local: &Local) -> Option<Claim> {
        Some(match local {
            Local::User(name) => Claim::Uid(*self.users.get(name)?),
            Local::Uid(uid) => Claim::Uid(uid.0),
            Local::Group(name) => Claim::Gid(*self.groups.get(name)?),
            Local::Gid(gid) => Claim::Gid(gid.0),
            Local::Unit(unit) => Claim::Unit(unit.as_str().into()),
            Local::Service(service) => Claim::Service(service.as_str().into()),
        })
    }

    /// Whom somebody means who names a principal now: first by the policy's own names.
    fn claim(&self, who: &Local, directory: &dyn Directory) -> Option<Claim> {
        self.meant(who).or_else(|| match who {
            Local::User(name) => directory.uid_of(name).map(|u| Claim::Uid(u.0)),
            Local::Group(name) => directory.gid_of(name).map(|g| Claim::Gid(g.0)),
            _ => None,
        })
    }

    /// With this document, and without the names that nothing in it can mean any more.
    fn cut(&self, document: &Document) -> PolicyRecord {
        let mut record = self.clone();
        record.text = document.to_json_pretty();
        let text = record.text.to_ascii_lowercase();
        let listed = document.statements.iter().flat_map(|s| &s.principal.items);
        let listed: Vec<&Local> = listed
            .filter_map(|p| match p {
                Principal::Local(local) => Some(&local.value),
                _ => None,
            })
            .chain(record.principals.values().flatten())
            .collect();
        let (mut users, mut groups) = (record.users.clone(), record.groups.clone());
        if !text.contains("aws:username") {
            users.retain(|name, _| listed.iter().any(|l| matches!(l, Local::User(n) if n == name)));
        }
        if !text.contains("wardfs:groups") {
            groups.retain(|name, _| listed.iter().any(|l| matches!(l, Local::Group(n) if n == name)));
        }
        (record.users, record.groups) = (users, groups);
        record
    }
}
