//! Putting: a new version, and the secret if it is not there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::gains::Custom;
use super::policies::told;
use super::{Lifecycle, Past, denied, labels, tags};
use crate::access::{Asked, Caller};
use crate::audit::{Event, Value as Parameter};
use crate::clock::Timestamp;
use crate::id::{Label, SecretName, VersionId, VersionNo};
use crate::policy::{Action, Local, PolicyRecord};
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use crate::vault::{
    Appearance, ChangeKind, Draft, Life, Sameness, Secret, SecretMeta, View, Visibility, default_key,
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
    /// The version's id, a random one if absent. A put that is repeated with it changes nothing.
    #[serde(default)]
    pub version: Option<VersionId>,
    /// The labels that move to the version; `current` if there are none.
    #[serde(default)]
    pub labels: BTreeSet<Label>,
    /// Tags to set.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The ARN that the secret has in AWS.
    #[serde(default)]
    pub arn: Option<String>,
    /// Whether the secret has to be there, or must not be.
    #[serde(default)]
    pub only: Option<Only>,
}

/// What a put is refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Only {
    /// The name is there.
    Create,
    /// The secret is not there.
    Update,
}

impl Put {
    fn sets_policy(&self) -> bool {
        self.policy.is_some() || !self.rules.is_empty()
    }

    fn sets_appearance(&self) -> bool {
        self.description.is_some() || self.arn.is_some() || self.sets_look()
    }

    fn sets_look(&self) -> bool {
        self.owner.is_some() || self.group.is_some() || self.mode.is_some() || self.visibility.is_some()
    }

    /// What it does besides storing a value.
    fn besides(&self) -> impl Iterator<Item = (Action, Event)> {
        [
            (
                self.sets_policy(),
                Action::PutResourcePolicy,
                Event::PutResourcePolicy,
            ),
            (!self.tags.is_empty(), Action::TagResource, Event::TagResource),
            (self.sets_appearance(), Action::UpdateSecret, Event::UpdateSecret),
        ]
        .into_iter()
        .filter_map(|(is, action, event)| is.then_some((action, event)))
    }
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

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// There is a secret that was not there.
    Created,
    /// There is one version more.
    Added,
    /// The version was there, with this value.
    Repeated,
}

/// Versions without a label are kept up to this number…
const KEPT_VERSIONS: usize = 100;
/// …and always for this long, in microseconds: 24 hours.
const KEPT_FOR: i64 = 24 * 3600 * 1_000_000;
/// A description is at most this many bytes, as AWS's.
const MAX_DESCRIPTION: usize = 2048;

impl Lifecycle {
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
                    self.allowed_put(put, draft.state().view(secret), caller, &what)?;
                    secret.meta.clone()
                }
                None => self.new_meta(put, draft, now, caller, &what)?,
            };
            Self::only(put, old.as_deref(), &what)?;
            let created = old.as_ref().is_none_or(|s| !s.is_active());
            self.edit(put, look, &mut meta, &mut warnings, &what)?;
            if old.is_none() {
                self.gains_by_arn(draft, &meta, caller, &what)?;
            }
            let id = put.version.clone().unwrap_or_else(VersionId::random);
            if let Some(version) = old.as_ref().and_then(|s| s.version(&id)) {
                // Whoever neither made it nor may read it would learn its value by guessing.
                let secret = old
                    .as_deref()
                    .filter(|_| version.meta.maker != Some(caller.uid()));
                if let Some(secret) = secret
                    && self
                        .access
                        .may_read_version(draft.state().view(secret), version, caller)
                        .is_err()
                {
                    let why = format!(
                        "version {id} is there already, and whether with this value is told to who put it"
                    );
                    return Err(Problem::new(Exit::Conflict, &what, why)
                        .next("a token belongs to one value: give another one"));
                }
                return match draft.compare(version, value) {
                    Sameness::Same => {
                        let body = self.body(Event::PutSecretValue, &meta.name, Some(id.as_str()), caller);
                        Ok((((id, Outcome::Repeated), false), body))
                    }
                    Sameness::Other => Err(Problem::new(
                        Exit::Conflict,
                        &what,
                        format_args!("version {id} is there already, with another value"),
                    )
                    .next("a token belongs to one value: give another one")),
                };
            }
            let no = draft
                .add_version(
                    meta.id,
                    &meta.name,
                    &meta.key,
                    (id.clone(), caller.uid()),
                    now,
                    value,
                )
                .map_err(|e| e.problem(&what))?;
            let becomes_current = put.labels.is_empty()
                || put.labels.contains("current")
                || !meta.labels.contains_key("current");
            // What becomes current makes the other one previous, below.
            for label in put.labels.iter().filter(|l| l.as_str() != "current") {
                meta.labels.insert(label.clone(), no);
            }
            if becomes_current {
                labels::make_current(&mut meta, no, now);
            } else if !put.labels.contains("pending")
                && let Some(current) = old.as_ref().and_then(|s| s.current())
            {
                let id = &current.meta.id;
                warnings.push(format!(
                    "nobody reads it by the secret's name: current stays on version {id}"
                ));
            }
            labels::check(&meta, &put.labels, &what)?;
            let event = if created {
                Event::CreateSecret
            } else {
                Event::PutSecretValue
            };
            // With the policy the right to set it was asked for already.
            if let Some(secret) = old.as_ref().filter(|_| !put.sets_policy()) {
                let custom = match becomes_current {
                    true => Custom::Replaced(no),
                    false => Custom::None,
                };
                self.gains((draft, secret, &meta), custom, event, caller, &what)?;
            }
            meta.life = Life::Active;
            meta.meta_changed = now;
            if created && old.is_some() {
                meta.again = Some(now);
            }
            if let Some(secret) = &old {
                prune(draft, secret, &meta, now);
            }
            let besides: Vec<&str> = put.besides().map(|(_, event)| event.name()).collect();
            let policy = meta.policy.as_deref().filter(|_| put.sets_policy());
            let meanings = policy.map(PolicyRecord::meanings);
            let told = meanings.as_deref().map(told);
            let besides = (!besides.is_empty()).then_some(("besides", Parameter::List(&besides)));
            let resolved = told.as_deref().map(|told| ("resolved", Parameter::List(told)));
            let kind = match (created, becomes_current) {
                (true, _) => ChangeKind::Created,
                (false, true) => ChangeKind::Value,
                (false, false) => ChangeKind::Settings,
            };
            draft.put_secret(meta.clone(), kind);
            let effects = self.effects(draft, old.as_deref(), &meta, Some((no, &id)))?;
            let more = besides.into_iter().chain(resolved).chain(effects.parameters());
            let more: Vec<_> = more.collect();
            let body = self.body_with(event, &meta.name, Some(id.as_str()), &more, caller);
            let outcome = if created { Outcome::Created } else { Outcome::Added };
            // A policy of its own is whoever's who puts it.
            let back = created && put.policy.is_none() && old.is_some_and(|s| s.policy.is_some());
            Ok((((id, outcome), back), body))
        });
        let ((version, outcome), back) = answer.map_err(|e| self.unprefixed(e, &what))?;
        if outcome == Outcome::Created {
            warnings.extend(self.looks_like(&put.name, caller));
        }
        if !put.rules.is_empty() {
            self.over_denies(&put.name, &put.rules, &mut warnings);
        }
        let mut answer = self.who_reads(&put.name, warnings, if back { Past::Used } else { Past::None });
        answer["version"] = json!(version);
        answer["created"] = json!(outcome == Outcome::Created);
        answer["repeated"] = json!(outcome == Outcome::Repeated);
        Ok(answer)
    }

    fn check_put(&self, put: &Put, value: &SecretBytes, what: &str) -> Result<(), Problem> {
        if value.is_empty() {
            return Err(Problem::new(Exit::Usage, what, "the value is empty")
                .next(format!("see what was to write it; a value goes in like this: printf %s \"$VALUE\" | wardfs put {}", put.name)));
        }
        if value.len() > self.max_value() {
            return Err(Problem::new(
                Exit::Usage,
                what,
                format_args!("the value is longer than {} bytes", self.max_value()),
            )
            .next("raise max_value_bytes in wardfs.toml (1048576 at most), or store it elsewhere"));
        }
        if put.policy.is_some() && !put.rules.is_empty() {
            return Err(Problem::new(
                Exit::Usage,
                what,
                "--policy and --allow/--deny exclude each other",
            )
            .next("use one of them"));
        }
        tags::check(&put.tags, what)?;
        if put.labels.contains("previous") {
            return Err(
                Problem::new(Exit::Usage, what, "previous follows current by itself").next(format!(
                    "leave --label previous away; set it on a version that is there: wardfs label move {} previous --to VERSION",
                    put.name
                )),
            );
        }
        check_words(put.description.as_deref(), put.arn.as_deref(), put.mode, what)
    }

    fn appearance(&self, put: &Put, what: &str) -> Result<Appearance, Problem> {
        Ok(Appearance {
            owner: self.user_named(put.owner.as_deref(), what)?,
            group: self.group_named(put.group.as_deref(), what)?,
            mode: put.mode,
        })
    }

    /// A new value for a secret that is there; what decides who reads it is root's alone.
    pub(super) fn allowed_put<C: Caller>(
        &self,
        put: &Put,
        secret: View<'_>,
        caller: &mut C,
        what: &str,
    ) -> Result<(), Problem> {
        let may_put = self.sound(secret, caller, what).and_then(|()| {
            let (action, event) = (Action::PutSecretValue, Event::PutSecretValue);
            self.allowed(secret, action, event, caller, what)
        });
        // To a stranger a hidden name is a free one, which he may not take.
        may_put.map_err(|e| {
            if e.exit == Exit::NotFound {
                may_not_create(what)
            } else {
                e
            }
        })?;
        if !secret.is_active() {
            let asked = Asked::tags(&put.tags, &[]);
            let created = self
                .access
                .decide_new(&put.name, Action::CreateSecret, asked, caller);
            let _created = created.map_err(|_| may_not_create(what))?;
        }
        for (action, event) in put.besides() {
            let asked = match action {
                Action::TagResource => Asked::tags(&put.tags, &[]),
                _ => Asked::secret(),
            };
            self.allowed_to(secret, action, asked, event, caller, what)?;
        }
        // As `update` asks.
        match put.sets_look() {
            true => self.allowed(
                secret,
                Action::PutResourcePolicy,
                Event::UpdateSecret,
                caller,
                what,
            ),
            false => Ok(()),
        }
    }

    /// `--create` and `--update`, after the decision: nobody learns by them what he may not see.
    fn only(put: &Put, old: Option<&Secret>, what: &str) -> Result<(), Problem> {
        let name = &put.name;
        let repeats = |s: &Secret| put.version.as_ref().is_some_and(|id| s.version(id).is_some());
        match (put.only, old) {
            (Some(Only::Create), Some(old)) if !repeats(old) => {
                let (why, next) = match old.is_active() {
                    true => (
                        "it is there already",
                        format!("put a new version: wardfs put {name} --update"),
                    ),
                    false => (
                        "its values were destroyed, and the name keeps its policy",
                        format!(
                            "bring both back: wardfs put {name}; or forget the name first, as root: wardfs delete {name} --now --purge"
                        ),
                    ),
                };
                Err(Problem::new(Exit::Conflict, what, why).next(next))
            }
            (Some(Only::Update), old) if old.is_none_or(|s| !s.is_active()) => {
                let why = "there is no such secret";
                Err(Problem::new(Exit::NotFound, what, why)
                    .next(format!("make it: wardfs put {name} --create")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn new_meta<C: Caller>(
        &self,
        put: &Put,
        draft: &mut Draft<'_>,
        now: Timestamp,
        caller: &mut C,
        what: &str,
    ) -> Result<SecretMeta, Problem> {
        let asked = Asked::tags(&put.tags, &[]);
        let _created = self
            .access
            .decide_new(&put.name, Action::CreateSecret, asked, caller)
            .map_err(|refusal| match self.owns(caller) {
                true => refusal.problem(what, Action::CreateSecret),
                false => may_not_create(what),
            })?;
        for (action, _) in put.besides() {
            if action == Action::TagResource {
                let _tagged = self
                    .access
                    .decide_new(&put.name, action, asked, caller)
                    .map_err(|refusal| refusal.problem(what, action).next("leave --tag away"))?;
            } else {
                self.access
                    .decide_made_with(&put.name, action, caller)
                    .map_err(|refusal| refusal.problem(what, action))?;
            }
        }
        if let Some(other) = draft.state().secrets.conflict(&put.name) {
            return Err(Problem::new(
                Exit::Conflict,
                what,
                format_args!("{other}; a name is a file or a directory, never both"),
            )
            .next("choose another name; one without values is in the way too: wardfs list --deleted"));
        }
        Ok(SecretMeta {
            id: draft.new_secret(),
            name: put.name.clone(),
            description: None,
            arn: None,
            created: now,
            again: None,
            value_changed: now,
            meta_changed: now,
            maker: caller.uid(),
            appearance: Appearance::default(),
            visibility: Visibility::default(),
            policy: None,
            key: default_key(),
            tags: Default::default(),
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
        if let Some(arn) = &put.arn {
            meta.arn = Some(arn.clone()).filter(|a| !a.is_empty());
        }
        tags::merge(meta, &put.tags, &[], what)?;
        let arn = meta.arn.as_deref();
        let resolved = match &put.policy {
            Some(text) => Some(self.resolve(text, &meta.name, arn, what)?),
            None if put.rules.is_empty() => None,
            None => {
                self.known(&put.rules, meta.policy.as_deref(), what)?;
                Some(self.with_rules(meta.policy.as_deref(), &put.rules, &meta.name, arn, what)?)
            }
        };
        if let Some((record, found)) = resolved {
            meta.policy = Some(record.into());
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
}

/// Words and bits that a secret may have.
///
/// # Errors
/// With the one that it may not have.
pub(super) fn check_words(
    description: Option<&str>,
    arn: Option<&str>,
    mode: Option<u16>,
    what: &str,
) -> Result<(), Problem> {
    if let Some(arn) = arn.filter(|a| !a.is_empty() && !is_arn(a)) {
        return Err(Problem::new(
            Exit::Usage,
            what,
            format_args!("{} is not the ARN of a secret", crate::id::quoted(arn)),
        )
        .next("write arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-SUFFIX"));
    }
    if let Some(mode) = mode.filter(|m| m & !0o444 != 0) {
        return Err(Problem::new(
            Exit::Usage,
            what,
            format_args!("mode {mode:04o} has more than read bits"),
        )
        .next("use 0400, 0440 or 0444; files of the mount are never written or run"));
    }
    if description.is_some_and(|d| d.len() > MAX_DESCRIPTION) {
        return Err(Problem::new(
            Exit::Usage,
            what,
            format_args!("the description is longer than {MAX_DESCRIPTION} bytes"),
        )
        .next("give a shorter one"));
    }
    Ok(())
}

fn may_not_create(what: &str) -> Problem {
    denied(
        what,
        "only root and the group that administers (admin_group) may create secrets, unless a policy says more",
    )
}

/// `arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME`, at most 2,048 bytes, as AWS's.
fn is_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(7, ':').collect();
    let plain = |p: &&str| !p.is_empty() && !p.contains(['*', '?', '$']);
    text.len() <= 2048
        && parts.len() == 7
        && parts.iter().all(plain)
        && parts.first() == Some(&"arn")
        && parts.get(2) == Some(&"secretsmanager")
        && parts.get(5) == Some(&"secret")
}

/// As AWS prunes: only versions without a label, only beyond a hundred, never younger than a day.
pub(super) fn prune(draft: &mut Draft<'_>, secret: &Secret, after: &SecretMeta, now: Timestamp) {
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
