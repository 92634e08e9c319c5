//! Changing secrets: put, policy, delete. Each is decided, drafted and recorded as one change of the vault.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::{Access, AccessError, Asked, Caller};
use crate::audit::{Body, Event, Identity, Outcome, Record};
use crate::clock::Timestamp;
use crate::id::{Gid, Label, SecretName, Uid, VersionId, VersionNo};
use crate::policy::{Action, Directory, Local, PrincipalMap, Purpose};
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use crate::vault::{
    Appearance, ChangeKind, Draft, Life, Secret, SecretMeta, VaultError, Visibility, default_key,
};

/// What `put` is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// The secret.
    pub name: SecretName,
    /// Rules to add.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// A whole policy, instead of rules.
    #[serde(default)]
    pub policy: Option<String>,
    /// Human words about it.
    #[serde(default)]
    pub description: Option<String>,
    /// The owner that files show, by name or number.
    #[serde(default)]
    pub owner: Option<String>,
    /// The group that files show.
    #[serde(default)]
    pub group: Option<String>,
    /// The permission bits that files show (at most 0o444).
    #[serde(default)]
    pub mode: Option<u16>,
    /// What strangers see.
    #[serde(default)]
    pub visibility: Option<Visibility>,
    /// The version's id; a random one if absent.
    #[serde(default)]
    pub version: Option<VersionId>,
}

/// `--allow` or `--deny` of one principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// May read.
    Allow(Local),
    /// May not, whatever else says so.
    Deny(Local),
}

mod break_glass;
mod layers;
mod policies;

pub use break_glass::Repair;

pub use policies::{Care, PolicyEdit};

/// Versions without a label are kept up to this number…
const KEPT_VERSIONS: usize = 100;
/// …and always for this long, in microseconds: 24 hours.
const KEPT_FOR: i64 = 24 * 3600 * 1_000_000;
/// A description is at most this many bytes, as AWS's.
const MAX_DESCRIPTION: usize = 2048;

/// Changing secrets.
pub struct Lifecycle {
    access: Arc<Access>,
    directory: Box<dyn Directory + Send + Sync>,
    principals: Box<dyn Fn() -> Result<PrincipalMap, Problem> + Send + Sync>,
    max_value: usize,
}

impl Lifecycle {
    /// Over the decisions of `access`. `principals` is asked for the mapping each time a policy is set;
    /// `max_value` is in bytes.
    pub fn new(
        access: Arc<Access>,
        directory: Box<dyn Directory + Send + Sync>,
        principals: Box<dyn Fn() -> Result<PrincipalMap, Problem> + Send + Sync>,
        max_value: usize,
    ) -> Self {
        Lifecycle {
            access,
            directory,
            principals,
            max_value,
        }
    }

    /// Stores a new version, and the secret if it is not there.
    ///
    /// # Errors
    /// Bad input, a refusal, a conflict of names; nothing is changed.
    pub fn put<C: Caller>(&self, put: &Put, value: &SecretBytes, caller: &mut C) -> Result<Value, Problem> {
        let what = format!("cannot put {}", put.name);
        self.check_put(put, value, &what)?;
        let look = self.appearance(put, &what)?;
        let mut warnings = Vec::new();
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let now = Timestamp::now();
            let old = draft.state().secrets.by_name(put.name.as_str()).cloned();
            let mut meta = match &old {
                Some(secret) => {
                    self.allowed_put(put, secret, caller, &what)?;
                    secret.meta.clone()
                }
                None => self.new_meta(put, draft, now, caller, &what)?,
            };
            let created = old.as_ref().is_none_or(|s| !s.is_active());
            self.edit(put, look, &mut meta, &mut warnings, &what)?;
            let id = put.version.clone().unwrap_or_else(VersionId::random);
            if old.as_ref().is_some_and(|s| s.version(&id).is_some()) {
                return Err(Problem::new(
                    Exit::Conflict,
                    &what,
                    format_args!("version {id} is there already"),
                ));
            }
            let no = draft
                .add_version(meta.id, &meta.name, &meta.key, id.clone(), now, value)
                .map_err(|e| e.problem(&what))?;
            if let Some(current) = meta.labels.insert(Label::current(), no) {
                meta.labels.insert(Label::previous(), current);
            }
            meta.life = Life::Active;
            meta.value_changed = now;
            meta.meta_changed = now;
            if let Some(secret) = &old {
                prune(draft, secret, &meta, now);
            }
            let event = if created {
                Event::CreateSecret
            } else {
                Event::PutSecretValue
            };
            let body = self.body(event, &meta.name, Some(id.as_str()), caller);
            let kind = if created {
                ChangeKind::Created
            } else {
                ChangeKind::Value
            };
            draft.put_secret(meta, kind);
            Ok(((id, created), body))
        });
        let (version, created) = answer.map_err(|e| self.unprefixed(e, &what))?;
        let mut answer = self.who_reads(&put.name, warnings);
        answer["version"] = json!(version);
        answer["created"] = json!(created);
        Ok(answer)
    }

    fn check_put(&self, put: &Put, value: &SecretBytes, what: &str) -> Result<(), Problem> {
        if value.is_empty() {
            return Err(Problem::new(Exit::Usage, what, "the value is empty")
                .next("pipe it in: printf %s \"$VALUE\" | wardfs put NAME, or use --value-file"));
        }
        if value.len() > self.max_value {
            return Err(Problem::new(
                Exit::Usage,
                what,
                format_args!("the value is longer than {} bytes", self.max_value),
            )
            .next("raise max_value_bytes in wardfs.toml (1048576 at most), or store it elsewhere"));
        }
        if put.policy.is_some() && !put.rules.is_empty() {
            return Err(Problem::new(
                Exit::Usage,
                what,
                "--policy and --allow/--deny exclude each other",
            ));
        }
        if let Some(mode) = put.mode.filter(|m| m & !0o444 != 0) {
            return Err(Problem::new(
                Exit::Usage,
                what,
                format_args!("mode {mode:04o} has more than read bits"),
            )
            .next("use 0400, 0440 or 0444; files of the mount are never written or run"));
        }
        if put
            .description
            .as_ref()
            .is_some_and(|d| d.len() > MAX_DESCRIPTION)
        {
            return Err(Problem::new(
                Exit::Usage,
                what,
                format_args!("the description is longer than {MAX_DESCRIPTION} bytes"),
            ));
        }
        Ok(())
    }

    fn appearance(&self, put: &Put, what: &str) -> Result<Appearance, Problem> {
        let owner = put.owner.as_deref().map(|name| {
            name.parse()
                .map(Uid)
                .ok()
                .or_else(|| self.directory.uid_of(name))
                .ok_or_else(|| {
                    Problem::new(
                        Exit::Usage,
                        what,
                        format_args!("there is no user {:?}", crate::id::printable(name)),
                    )
                })
        });
        let group = put.group.as_deref().map(|name| {
            name.parse()
                .map(Gid)
                .ok()
                .or_else(|| self.directory.gid_of(name))
                .ok_or_else(|| {
                    Problem::new(
                        Exit::Usage,
                        what,
                        format_args!("there is no group {:?}", crate::id::printable(name)),
                    )
                })
        });
        Ok(Appearance {
            owner: owner.transpose()?.map(|u| u.0),
            group: group.transpose()?.map(|g| g.0),
            mode: put.mode,
        })
    }

    /// A new value for a secret that is there; what decides who reads it is root's alone.
    fn allowed_put<C: Caller>(
        &self,
        put: &Put,
        secret: &Secret,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        self.sound(secret, what)?;
        let may_put = self.allowed(
            secret,
            Action::PutSecretValue,
            Event::PutSecretValue,
            caller,
            what,
        );
        // To a stranger a hidden name is a free one, which he may not take.
        may_put.map_err(|e| {
            if e.exit == Exit::NotFound {
                may_not_create(what)
            } else {
                e
            }
        })?;
        if put.policy.is_some() || !put.rules.is_empty() {
            self.allowed(
                secret,
                Action::PutResourcePolicy,
                Event::PutResourcePolicy,
                caller,
                what,
            )?;
        }
        let settings = put.description.is_some()
            || put.owner.is_some()
            || put.group.is_some()
            || put.mode.is_some()
            || put.visibility.is_some();
        if settings {
            self.allowed(secret, Action::UpdateSecret, Event::UpdateSecret, caller, what)?;
        }
        Ok(())
    }

    fn new_meta<C: Caller>(
        &self,
        put: &Put,
        draft: &mut Draft<'_>,
        now: Timestamp,
        caller: &mut C,
        what: &str,
    ) -> Result<SecretMeta, Problem> {
        let _created = self
            .access
            .decide_new(&put.name, Action::CreateSecret, Asked::secret(), caller)
            .map_err(|_| may_not_create(what))?;
        if let Some(other) = draft.state().secrets.conflict(&put.name) {
            return Err(Problem::new(
                Exit::Conflict,
                what,
                format_args!("{other} is there: a name is a file or a directory, never both"),
            )
            .next("choose another name"));
        }
        Ok(SecretMeta {
            id: draft.new_secret(),
            name: put.name.clone(),
            description: None,
            arn: None,
            created: now,
            value_changed: now,
            meta_changed: now,
            maker: caller.uid(),
            appearance: Appearance::default(),
            visibility: Visibility::default(),
            policy: None,
            key: default_key(),
            labels: Default::default(),
            life: Life::Active,
        })
    }

    fn edit(
        &self,
        put: &Put,
        look: Appearance,
        meta: &mut SecretMeta,
        warnings: &mut Vec<String>,
        what: &str,
    ) -> Result<(), Problem> {
        let arn = meta.arn.as_deref();
        let resolved = match &put.policy {
            Some(text) => Some(self.resolve(text, &meta.name, arn, what)?),
            None if put.rules.is_empty() => None,
            None => Some(self.with_rules(meta.policy.as_ref(), &put.rules, &meta.name, arn, what)?),
        };
        if let Some((record, found)) = resolved {
            meta.policy = Some(record);
            warnings.extend(found.iter().map(ToString::to_string));
        }
        if let Some(description) = &put.description {
            meta.description = Some(description.clone()).filter(|d| !d.is_empty());
        }
        meta.appearance.owner = look.owner.or(meta.appearance.owner);
        meta.appearance.group = look.group.or(meta.appearance.group);
        meta.appearance.mode = look.mode.or(meta.appearance.mode);
        meta.visibility = put.visibility.unwrap_or(meta.visibility);
        Ok(())
    }

    /// Destroys all values. The name keeps its policy, so that whoever makes it again gains nothing by it;
    /// `purge`, for root, forgets that too.
    ///
    /// # Errors
    /// A refusal, no such secret; nothing is changed.
    pub fn delete<C: Caller>(
        &self,
        name: &SecretName,
        purge: bool,
        dry_run: bool,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot delete {name}");
        if dry_run {
            let state = self.access.vault().state();
            let secret = state
                .secrets
                .by_name(name.as_str())
                .filter(|s| purge || s.is_active())
                .ok_or_else(|| self.missing(name, &what))?;
            self.allowed_delete(secret, purge, caller, &what)?;
            return Ok(
                json!({ "name": name, "destroyed": secret.versions.len(), "purged": purge, "dry_run": true }),
            );
        }
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let secret = match draft.state().secrets.by_name(name.as_str()) {
                Some(secret) if purge || secret.is_active() => secret.clone(),
                _ => return Err(self.missing(name, &what)),
            };
            self.allowed_delete(&secret, purge, caller, &what)?;
            for no in secret.versions.keys() {
                draft.destroy_version(*no);
            }
            if purge {
                draft.forget_secret(secret.meta.id);
            } else {
                let mut meta = secret.meta.clone();
                meta.labels.clear();
                meta.life = Life::Deleted;
                meta.meta_changed = Timestamp::now();
                draft.put_secret(meta, ChangeKind::Deleted);
            }
            let body = self.body(
                if purge {
                    Event::PurgeSecret
                } else {
                    Event::DeleteSecret
                },
                name,
                None,
                caller,
            );
            Ok((secret.versions.len(), body))
        });
        let destroyed = answer.map_err(|e| self.unprefixed(e, &what))?;
        Ok(json!({ "name": name, "destroyed": destroyed, "purged": purge, "dry_run": false }))
    }

    fn allowed_delete<C: Caller>(
        &self,
        secret: &Secret,
        purge: bool,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        // A secret whose record is broken has no policy to ask; root may remove it, nobody else.
        if secret.broken.is_some() && !self.owns(caller) {
            self.sound(secret, what)?;
        }
        self.allowed(secret, Action::DeleteSecret, Event::DeleteSecret, caller, what)?;
        if !purge {
            return if secret.broken.is_some() {
                self.sound(secret, what)
            } else {
                Ok(())
            };
        }
        self.allowed(
            secret,
            Action::DeleteResourcePolicy,
            Event::PurgeSecret,
            caller,
            what,
        )?;
        if !self.owns(caller) {
            return Err(
                denied(what, "only root may purge a name: its policy would be forgotten")
                    .next("leave --purge away"),
            );
        }
        Ok(())
    }

    /// Root, or whoever has root's place in a private store.
    fn owns<C: Caller>(&self, caller: &C) -> bool {
        caller.uid() == self.access.vault().administration().owner
    }

    fn existing(&self, draft: &Draft<'_>, name: &SecretName, what: &str) -> Result<Arc<Secret>, Problem> {
        let Some(secret) = draft.state().secrets.by_name(name.as_str()).cloned() else {
            return Err(self.missing(name, what));
        };
        self.sound(&secret, what)?;
        Ok(secret)
    }

    fn missing(&self, name: &SecretName, what: &str) -> Problem {
        Problem::new(Exit::NotFound, what, format_args!("there is no secret {name}"))
            .next("see the names: wardfs list")
    }

    fn sound(&self, secret: &Secret, what: &str) -> Result<(), Problem> {
        match &secret.broken {
            None => Ok(()),
            Some(why) => {
                Err(Problem::new(Exit::Integrity, what, why).next("see what is broken: wardfs store check"))
            }
        }
    }

    fn allowed<C: Caller>(
        &self,
        secret: &Secret,
        action: Action,
        event: Event,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        let refusal = match self
            .access
            .decide(secret, action, Purpose::Administer, Asked::secret(), caller)
        {
            Ok(_grant) => return Ok(()),
            Err(refusal) => refusal,
        };
        Err(match self.access.refuse(secret, refusal, event, caller) {
            // Word for word what he is told where there is none.
            AccessError::Hidden(_) if self.access.peek(secret, caller).is_err() => {
                self.missing(&secret.meta.name, what)
            }
            _ => denied(
                what,
                format_args!(
                    "{} is not allowed to you ({})",
                    action.name(),
                    refusal.reason.code()
                ),
            ),
        })
    }

    fn body<C: Caller>(
        &self,
        event: Event,
        name: &SecretName,
        version: Option<&str>,
        caller: &mut C,
    ) -> Body {
        Record {
            event,
            outcome: Outcome::Allowed,
            secret: Some(name.as_str()),
            version,
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        }
        .body()
    }

    fn who_reads(&self, name: &SecretName, mut warnings: Vec<String>) -> Value {
        let state = self.access.vault().state();
        let secret = state.secrets.by_name(name.as_str());
        let readers = secret
            .and_then(|s| s.policy.as_deref())
            .map(crate::policy::readers)
            .unwrap_or_default();
        if readers.is_empty() {
            warnings.push(format!(
                "nobody may read it yet: wardfs policy allow {name} user:NAME"
            ));
        }
        let root = secret.is_some_and(|s| self.access.root_may_read(s));
        json!({ "name": name, "readers": readers, "root_may_read": root, "warnings": warnings })
    }

    fn unprefixed(&self, mut e: Problem, what: &str) -> Problem {
        if e.what.is_empty() {
            e.what = what.to_string();
        }
        e
    }
}

impl From<VaultError> for Problem {
    /// For changes, which fill in what could not be done.
    fn from(e: VaultError) -> Self {
        e.problem("")
    }
}

fn may_not_create(what: &str) -> Problem {
    denied(what, "only root and the group wardfs may create secrets")
}

fn denied(what: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(Exit::Denied, what, why)
}

/// As AWS prunes: only versions without a label, only beyond a hundred, never younger than a day.
fn prune(draft: &mut Draft<'_>, secret: &Secret, after: &SecretMeta, now: Timestamp) {
    let surplus = (secret.versions.len() + 1).saturating_sub(KEPT_VERSIONS);
    let labelled = |no: &VersionNo| after.labels.values().any(|v| v == no);
    let old = |v: &crate::vault::Version| now.0 - v.meta.created.0 > KEPT_FOR;
    let surplus: Vec<VersionNo> = secret
        .versions
        .values()
        .filter(|v| old(v) && !labelled(&v.meta.no))
        .take(surplus)
        .map(|v| v.meta.no)
        .collect();
    for no in surplus {
        draft.destroy_version(no);
    }
}
