//! Tags: words on a secret that policies may ask for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Lifecycle;
use super::gains::Custom;
use crate::access::{Asked, Caller};
use crate::audit::Event;
use crate::clock::Timestamp;
use crate::id::{SecretName, printable, quoted};
use crate::policy::Action;
use crate::problem::{Exit, Problem};
use crate::vault::{ChangeKind, SecretMeta};

/// Most tags of a secret, as in AWS.
const MAX_TAGS: usize = 50;
/// Longest key of a tag, in characters.
const MAX_KEY: usize = 128;
/// Longest value of a tag, in characters.
const MAX_VALUE: usize = 256;

/// A change of a secret's tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagChange {
    /// Whose.
    pub name: SecretName,
    /// Tags to set.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Keys of tags to remove; those that are not there are no error.
    #[serde(default)]
    pub remove: Vec<String>,
}

impl Lifecycle {
    /// Sets and removes tags.
    ///
    /// # Errors
    /// Bad input, a refusal, no such secret; nothing is changed.
    pub fn tag<C: Caller>(&self, change: &TagChange, caller: &mut C) -> Result<Value, Problem> {
        let TagChange { name, set, remove } = change;
        let what = format!("cannot tag {name}");
        check(set, &what)?;
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let secret = self.existing(draft, name, caller, &what)?;
            let mut event = Event::UntagResource;
            if !remove.is_empty() {
                let asked = Asked::tags(&crate::policy::NO_TAGS, remove);
                self.allowed_to(
                    draft.state().view(&secret),
                    Action::UntagResource,
                    asked,
                    event,
                    caller,
                    &what,
                )?;
            }
            if !set.is_empty() || remove.is_empty() {
                event = Event::TagResource;
                let asked = Asked::tags(set, &[]);
                self.allowed_to(
                    draft.state().view(&secret),
                    Action::TagResource,
                    asked,
                    event,
                    caller,
                    &what,
                )?;
            }
            let mut meta = secret.meta.clone();
            merge(&mut meta, set, remove, &what)?;
            self.gains((draft, &secret, &meta), Custom::None, event, caller, &what)?;
            meta.meta_changed = Timestamp::now();
            let tags = meta.tags.clone();
            draft.put_secret(meta.clone(), ChangeKind::Settings);
            let effects = self.effects(draft, Some(&secret), &meta, None)?;
            let body = self.body_with(event, name, None, &effects.parameters(), caller);
            Ok((tags, body))
        });
        let tags = answer.map_err(|e| self.unprefixed(e, &what))?;
        Ok(json!({ "name": name, "tags": tags }))
    }
}

/// Whether a secret may have these.
///
/// # Errors
/// With the tag that it may not have.
pub(super) fn check(tags: &BTreeMap<String, String>, what: &str) -> Result<(), Problem> {
    for (key, value) in tags {
        let why = if key.is_empty() || key.chars().count() > MAX_KEY {
            format!("a tag's key has 1 to {MAX_KEY} characters")
        } else if value.chars().count() > MAX_VALUE {
            format!(
                "the value of the tag {:?} has more than {MAX_VALUE} characters",
                printable(key)
            )
        } else if key.to_ascii_lowercase().starts_with("aws:") {
            format!(
                "the tag {:?} begins with aws:, which AWS keeps to itself",
                printable(key)
            )
        } else {
            continue;
        };
        return Err(Problem::new(Exit::Usage, what, why).next("give another key or a shorter value"));
    }
    Ok(())
}

/// Removes and sets. Keys are told apart by their case, as AWS stores them.
pub(super) fn merge(
    meta: &mut SecretMeta,
    set: &BTreeMap<String, String>,
    remove: &[String],
    what: &str,
) -> Result<(), Problem> {
    let tags = &mut meta.tags;
    for key in remove {
        tags.remove(key);
    }
    for (key, value) in set {
        // A policy asks without case: two such tags could not be told apart there.
        if let Some(other) = tags.keys().find(|k| *k != key && k.eq_ignore_ascii_case(key)) {
            let why = format!("it has the tag {}, of another case", quoted(other));
            return Err(Problem::new(Exit::Conflict, what, why).next("remove that one first"));
        }
        tags.insert(key.clone(), value.clone());
    }
    if tags.len() > MAX_TAGS {
        let why = format!("it would have {} tags; {MAX_TAGS} are the most", tags.len());
        return Err(Problem::new(Exit::Usage, what, why)
            .next(format!("remove some: wardfs tag {} --remove KEY", meta.name)));
    }
    Ok(())
}
