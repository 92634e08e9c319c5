//! Settings of a secret, changed without its value.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Lifecycle;
use super::gains::Custom;
use super::put::check_words;
use crate::access::Caller;
use crate::audit::Event;
use crate::clock::Timestamp;
use crate::id::SecretName;
use crate::policy::Action;
use crate::problem::{Exit, Problem};
use crate::vault::{Appearance, ChangeKind, SecretMeta, Visibility};

/// What `update` changes; what is absent stays. An empty text takes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// The secret.
    pub name: SecretName,
    /// Human words about it.
    #[serde(default)]
    pub description: Option<String>,
    /// The owner that files show, by name or number.
    #[serde(default)]
    pub owner: Option<String>,
    /// The group that files show.
    #[serde(default)]
    pub group: Option<String>,
    /// The permission bits that files show.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// What strangers see.
    #[serde(default)]
    pub visibility: Option<Visibility>,
    /// The ARN that the secret has in AWS.
    #[serde(default)]
    pub arn: Option<String>,
}

/// Permission bits of a secret's own, or those of every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// At most 0o444.
    Bits(u16),
    /// None of its own.
    Usual,
}

impl Update {
    /// Whether it sets what decides who sees the file as whose.
    fn sets_look(&self) -> bool {
        self.owner.is_some() || self.group.is_some() || self.mode.is_some() || self.visibility.is_some()
    }

    fn sets_words(&self) -> bool {
        self.description.is_some() || self.arn.is_some()
    }
}

impl Lifecycle {
    /// Changes settings of a secret. How its file looks, and to whom, is for who may set the policy.
    ///
    /// # Errors
    /// Bad input, a refusal, no such secret; nothing is changed.
    pub fn update<C: Caller>(&self, update: &Update, caller: &mut C) -> Result<Value, Problem> {
        let name = &update.name;
        let what = format!("cannot update {name}");
        let bits = match update.mode {
            Some(Mode::Bits(bits)) => Some(bits),
            Some(Mode::Usual) | None => None,
        };
        check_words(update.description.as_deref(), update.arn.as_deref(), bits, &what)?;
        if !update.sets_look() && !update.sets_words() {
            return Err(Problem::new(Exit::Usage, what, "no setting was given")
                .next(format!("name one: wardfs update {name} --description TEXT")));
        }
        let present = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        let owner = self.user_named(present(&update.owner).as_deref(), &what)?;
        let group = self.group_named(present(&update.group).as_deref(), &what)?;
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let secret = self.existing(draft, name, caller, &what)?;
            let event = Event::UpdateSecret;
            for (asked, action) in [
                (update.sets_words(), Action::UpdateSecret),
                (update.sets_look(), Action::PutResourcePolicy),
            ] {
                if asked {
                    self.allowed(draft.state().view(&secret), action, event, caller, &what)?;
                }
            }
            if !secret.is_active() {
                return Err(self.missing(name, &what));
            }
            let mut meta = secret.meta.clone();
            if update.description.is_some() {
                meta.description = present(&update.description);
            }
            if update.arn.is_some() {
                meta.arn = present(&update.arn);
            }
            let look = meta.appearance;
            meta.appearance = Appearance {
                owner: if update.owner.is_some() { owner } else { look.owner },
                group: if update.group.is_some() { group } else { look.group },
                mode: if update.mode.is_some() { bits } else { look.mode },
            };
            meta.visibility = update.visibility.unwrap_or(meta.visibility);
            self.gains((draft, &secret, &meta), Custom::None, event, caller, &what)?;
            let changes = changes(&secret.meta, &meta);
            meta.meta_changed = Timestamp::now();
            draft.put_secret(meta.clone(), ChangeKind::Settings);
            let effects = self.effects(draft, Some(&secret), &meta, None)?;
            let body = self.body_with(event, name, None, &effects.parameters(), caller);
            Ok((changes, body))
        });
        let changes = answer.map_err(|e| self.unprefixed(e, &what))?;
        let changed: Map<String, Value> = changes
            .into_iter()
            .map(|c| (c.key.to_string(), json!({ "from": c.from, "to": c.to })))
            .collect();
        Ok(json!({ "name": name, "changed": changed }))
    }
}

/// A setting that is another one now.
struct Change {
    key: &'static str,
    from: Option<String>,
    to: Option<String>,
}

fn changes(before: &SecretMeta, after: &SecretMeta) -> Vec<Change> {
    fn number(n: Option<impl Display>) -> Option<String> {
        n.map(|n| n.to_string())
    }
    let seen = |v: Visibility| match v {
        Visibility::Hidden => "hidden".to_string(),
        Visibility::Listed => "listed".to_string(),
    };
    let of = |meta: &SecretMeta| {
        let look = &meta.appearance;
        [
            ("description", meta.description.clone()),
            ("arn", meta.arn.clone()),
            ("owner", number(look.owner)),
            ("group", number(look.group)),
            ("mode", look.mode.map(|m| format!("{m:04o}"))),
            ("visibility", Some(seen(meta.visibility))),
        ]
    };
    let both = of(before).into_iter().zip(of(after));
    both.filter(|((_, from), (_, to))| from != to)
        .map(|((key, from), (_, to))| Change { key, from, to })
        .collect()
}
