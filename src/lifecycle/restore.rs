//! One secret out of a backup.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::gains::Custom;
use super::{Lifecycle, Put, labels};
use crate::access::{Asked, Caller, Faces};
use crate::audit::{Event, Value as Parameter};
use crate::clock::Timestamp;
use crate::id::{SecretName, VersionId, VersionNo};
use crate::policy::{Action, PolicyRecord};
use crate::problem::{Exit, Problem};
use crate::vault::{ChangeKind, Draft, Kept, KeptVersion, Life, Secret, SecretMeta, Trial};

/// Where a secret out of a backup goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// To its own name, where no values are.
    Own,
    /// To this name, where no values are.
    Name(SecretName),
    /// To its own name, where its value of then becomes a new version: the current one.
    NewVersion,
}

/// What is done with a secret out of a backup.
struct Brought {
    meta: SecretMeta,
    versions: Vec<VersionNo>,
    current: VersionId,
    kind: ChangeKind,
    warnings: Vec<String>,
}

impl Lifecycle {
    /// Takes one secret out of a backup: all its versions with their labels where none are, its current value as a new
    /// version where [`Place::NewVersion`] says so. A name that is known keeps what is known of it, its policy above all;
    /// to a new one the policy of the backup comes, if the caller may set it.
    ///
    /// # Errors
    /// A refusal, values that are there, a conflict of names, what is not what was sealed; nothing is changed.
    pub fn restore_secret<C: Caller>(
        &self,
        kept: &Kept,
        place: &Place,
        trial: Trial,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let name = match place {
            Place::Name(name) => name,
            Place::Own | Place::NewVersion => &kept.meta.name,
        };
        let what = format!("cannot restore {name}");
        if !self.owns(caller) {
            self.refuse(Event::RestoreSecret, caller);
            return Err(
                super::denied(&what, "this is for the owner of the store alone").next("run it as root")
            );
        }
        let mut tried = None;
        let made = self.access.vault().change(|draft| -> Result<_, Problem> {
            let old = draft.state().secrets.by_name(name.as_str()).cloned();
            let live = old.as_ref().filter(|s| s.is_active() || s.broken.is_some()).cloned();
            let brought = match (live, place) {
                (Some(secret), Place::NewVersion) => self.bring_current(draft, kept, &secret, caller, &what)?,
                (Some(_), _) => {
                    let why = "it is there, with values";
                    return Err(Problem::new(Exit::Conflict, &what, why).next(format!(
                        "make its value of then the current one: --new-version; or restore it to another name: --as {name}-restored"
                    )));
                }
                (None, _) => self.bring_all(draft, kept, (name, old.as_ref()), caller, &what)?,
            };
            draft.put_secret(brought.meta.clone(), brought.kind);
            let new = brought.versions.last().map(|no| (*no, &brought.current));
            let effects = self.effects(draft, old.as_deref(), &brought.meta, new)?;
            let after = draft.after()?;
            let people = Faces::new(&*self.directory);
            let secret = after.secrets.by_name(name.as_str());
            let readers = secret.map(|s| self.access.readers(&after, s, &people)).unwrap_or_default();
            let mut warnings = brought.warnings;
            if readers.is_empty() {
                warnings.push(format!("nobody may read it yet: wardfs policy allow {name} user:NAME"));
            }
            let answer = json!({
                "name": name,
                "from": kept.meta.name,
                "backup": kept.made.to_string(),
                "versions": brought.versions.len(),
                "version": brought.current,
                "created": brought.kind == ChangeKind::Created,
                "readers": readers,
                "root_may_read": secret.is_some_and(|s| self.access.root_may_read(after.view(s))),
                "warnings": warnings,
                "dry_run": trial == Trial::DryRun,
            });
            if trial == Trial::DryRun {
                tried = Some(answer);
                return Err(Problem::new(Exit::Failed, &what, "only tried").next("leave --dry-run away"));
            }
            let backup = kept.made.to_string();
            let mut more = effects.parameters();
            more.push(("versions", Parameter::Number(brought.versions.len() as u64)));
            more.push(("backup", Parameter::Text(&backup)));
            let id = Some(brought.current.as_str());
            Ok((answer, self.body_with(Event::RestoreSecret, name, id, &more, caller)))
        });
        match tried {
            Some(answer) => Ok(answer),
            None => made.map_err(|e| self.unprefixed(e, &what)),
        }
    }

    /// Every version with its labels, to a name without values.
    fn bring_all<C: Caller>(
        &self,
        draft: &mut Draft<'_>,
        kept: &Kept,
        (name, old): (&SecretName, Option<&Arc<Secret>>),
        caller: &mut C,
        what: &str,
    ) -> Result<Brought, Problem> {
        let now = Timestamp::now();
        let mut warnings = Vec::new();
        let mut meta = match old {
            Some(secret) => {
                self.allowed_put(&as_put(name, None), draft.state().view(secret), caller, what)?;
                self.allowed(
                    draft.state().view(secret),
                    Action::RestoreSecret,
                    Event::RestoreSecret,
                    caller,
                    what,
                )?;
                warnings.push("the name is known: its policy, tags and settings of now stay".into());
                secret.meta.clone()
            }
            None => {
                // An ARN belongs to one secret.
                let arn = kept.meta.arn.clone().filter(|_| *name == kept.meta.name);
                let was = SecretMeta {
                    name: name.clone(),
                    arn,
                    ..kept.meta.clone()
                };
                let made = self.new_meta(&as_put(name, Some(&was)), draft, now, caller, what)?;
                let asked = Asked::tags(&was.tags, &[]);
                let decided = self.access.decide_new(name, Action::RestoreSecret, asked, caller);
                let _restored = decided.map_err(|refusal| refusal.problem(what, Action::RestoreSecret))?;
                let policy = self.policy_of(&was, caller, &mut warnings);
                let meta = SecretMeta {
                    id: made.id,
                    key: made.key,
                    policy,
                    ..was
                };
                self.gains_by_arn(draft, &meta, caller, what)?;
                meta
            }
        };
        let mut numbers = BTreeMap::new();
        for version in &kept.versions {
            let id = version.meta().id.clone();
            let no = draft.bring(version, (meta.id, name, &meta.key), id)?;
            numbers.insert(version.meta().no, no);
        }
        let labels = kept.meta.labels.iter();
        meta.labels = labels
            .filter_map(|(label, no)| Some((label.clone(), *numbers.get(no)?)))
            .collect();
        let current = current(kept, what)?.meta().id.clone();
        (meta.life, meta.again) = (Life::Active, Some(now));
        (meta.value_changed, meta.meta_changed) = (now, now);
        Ok(Brought {
            meta,
            versions: numbers.into_values().collect(),
            current,
            kind: ChangeKind::Created,
            warnings,
        })
    }

    /// The policy of the backup, where it may be set and means something under this name.
    fn policy_of<C: Caller>(
        &self,
        was: &SecretMeta,
        caller: &mut C,
        warnings: &mut Vec<String>,
    ) -> Option<Arc<PolicyRecord>> {
        let record = was.policy.as_ref()?;
        let set = self
            .access
            .decide_made_with(&was.name, Action::PutResourcePolicy, caller);
        let why = match (set, record.compile(&was.name, was.arn.as_deref())) {
            (Ok(()), Ok(_)) => return Some(record.clone()),
            (Err(_), _) => "you may not set policies".to_string(),
            (Ok(()), Err(e)) => e.to_string(),
        };
        warnings.push(format!("its policy was left behind: {why}"));
        None
    }

    /// The value of then as a new version of what is there.
    fn bring_current<C: Caller>(
        &self,
        draft: &mut Draft<'_>,
        kept: &Kept,
        secret: &Secret,
        caller: &mut C,
        what: &str,
    ) -> Result<Brought, Problem> {
        let now = Timestamp::now();
        self.sound(draft.state().view(secret), caller, what)?;
        for action in [Action::PutSecretValue, Action::RestoreSecret] {
            self.allowed(
                draft.state().view(secret),
                action,
                Event::RestoreSecret,
                caller,
                what,
            )?;
        }
        let version = current(kept, what)?;
        let mut meta = secret.meta.clone();
        // A token belongs to one value, and the same one may be there.
        let id = VersionId::random();
        let no = draft.bring(version, (meta.id, &meta.name, &meta.key), id.clone())?;
        labels::make_current(&mut meta, no, now);
        self.gains(
            (draft, secret, &meta),
            Custom::Replaced(no),
            Event::RestoreSecret,
            caller,
            what,
        )?;
        meta.meta_changed = now;
        super::put::prune(draft, secret, &meta, now);
        Ok(Brought {
            meta,
            versions: vec![no],
            current: id,
            kind: ChangeKind::Value,
            warnings: Vec::new(),
        })
    }
}

fn current<'k>(kept: &'k Kept, what: &str) -> Result<&'k KeptVersion, Problem> {
    let no = kept.meta.labels.get("current");
    let version = kept.versions.iter().find(|v| Some(&v.meta().no) == no);
    version.ok_or_else(|| {
        Problem::new(
            Exit::NotFound,
            what,
            "none of its versions in the backup is current",
        )
        .next("see what a whole restore would bring back: wardfs store restore FILE --dry-run")
    })
}

/// What a put is asked for that makes a secret like this one; of one that is known, that adds a version.
fn as_put(name: &SecretName, like: Option<&SecretMeta>) -> Put {
    Put {
        name: name.clone(),
        rules: Vec::new(),
        policy: None,
        description: like.and_then(|meta| meta.description.clone()),
        owner: None,
        group: None,
        mode: like.and_then(|meta| meta.appearance.mode),
        visibility: like.map(|meta| meta.visibility),
        version: None,
        labels: BTreeSet::new(),
        tags: like.map(|meta| meta.tags.clone()).unwrap_or_default(),
        arn: like.and_then(|meta| meta.arn.clone()),
        only: None,
    }
}
