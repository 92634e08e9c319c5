//! What a change changed, for its record: who gained and who lost reading, labels, tags and settings from what to what.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::Lifecycle;
use crate::access::{Faces, Readership};
use crate::audit::{Changed, Value as Parameter};
use crate::id::{VersionId, VersionNo};
use crate::policy::difference;
use crate::vault::{
    Draft, LayerKey, LayerMeta, LayerRecord, Secret, SecretMeta, State, VaultError, Visibility,
};

/// Most lines about who gained or lost.
const TOLD: usize = 100;
/// A change of all secrets looks at this many of them for who gains and loses.
const LOOKED_AT: usize = 1000;

/// What a change changed.
#[derive(Debug, Default)]
pub(super) struct Effects {
    layer: Option<(&'static str, String)>,
    /// How many are seen to gain.
    gain: usize,
    gained: Vec<String>,
    lost: Vec<String>,
    labels: Vec<Changed>,
    tags: Vec<Changed>,
    settings: Vec<Changed>,
    digest: Option<String>,
}

impl Effects {
    /// Of a change of what all secrets share, told elsewhere.
    pub fn of_readers(gained: &[String], lost: &[String]) -> Effects {
        let mut effects = Effects {
            gained: gained.to_vec(),
            lost: lost.to_vec(),
            ..Effects::default()
        };
        effects.cut();
        effects
    }

    /// Tells the draft of a change that gives reading to nobody.
    pub fn spare(&self, draft: &mut Draft<'_>) {
        if self.gain == 0 {
            draft.takes_away();
        }
    }

    /// As a record has it.
    pub fn parameters(&self) -> Vec<(&'static str, Parameter<'_>)> {
        let layer = self
            .layer
            .as_ref()
            .map(|(kind, name)| (*kind, Parameter::Text(name)));
        let digest = self.digest.as_ref().map(|d| ("digest", Parameter::Text(d)));
        let texts = [("gained", &self.gained), ("lost", &self.lost)];
        let texts = texts.into_iter().filter(|(_, list)| !list.is_empty());
        let lists = [
            ("labels", Parameter::Labels(&self.labels), self.labels.is_empty()),
            ("tags", Parameter::Tags(&self.tags), self.tags.is_empty()),
            (
                "settings",
                Parameter::Settings(&self.settings),
                self.settings.is_empty(),
            ),
        ];
        let lists = lists.into_iter().filter(|(_, _, empty)| !empty);
        layer
            .into_iter()
            .chain(digest)
            .chain(texts.map(|(name, list)| (name, Parameter::Texts(list))))
            .chain(lists.map(|(name, list, _)| (name, list)))
            .collect()
    }

    fn cut(&mut self) {
        self.gain = self.gained.len();
        for lines in [&mut self.gained, &mut self.lost] {
            if lines.len() > TOLD {
                let more = format!("and {} more", lines.len() - TOLD);
                lines.truncate(TOLD);
                lines.push(more);
            }
        }
    }
}

impl Lifecycle {
    /// Of a change of one secret, which the draft has already; `new` is the version that it makes.
    ///
    /// # Errors
    /// If the policy does not compile.
    pub(super) fn effects(
        &self,
        draft: &Draft<'_>,
        old: Option<&Secret>,
        meta: &SecretMeta,
        new: Option<(VersionNo, &VersionId)>,
    ) -> Result<Effects, VaultError> {
        let old = old.filter(|s| s.is_active());
        let before = old.map(|s| &s.meta);
        let mut effects = Effects {
            labels: labels(old, meta, new),
            tags: changed(before.map(|m| &m.tags), Some(&meta.tags)),
            settings: changed(before.map(settings).as_ref(), Some(&settings(meta))),
            ..Effects::default()
        };
        let policy = |m: &SecretMeta| m.policy.clone();
        let sets = before.map(policy) != Some(policy(meta));
        if sets {
            effects.digest = meta.policy.as_ref().map(|p| digest(&p.text));
        }
        let arn = before.is_some_and(|m| m.arn != meta.arn);
        if sets || arn || !effects.tags.is_empty() {
            let people = Faces::new(&*self.directory);
            let readers = |state: &State, secret: &Secret| self.access.readers(state, secret, &people);
            let was = old.map(|s| readers(draft.state(), s)).unwrap_or_default();
            let after = draft.after()?;
            let is = after.secrets.by_id(meta.id);
            let is = is.map(|s| readers(&after, s)).unwrap_or_default();
            (effects.gained, effects.lost) = difference(&was, &is, &people);
            effects.cut();
        }
        Ok(effects)
    }

    /// Of a change of a guardrail or an identity, which the draft has already.
    ///
    /// # Errors
    /// If a policy does not compile.
    pub(super) fn layer_effects(&self, draft: &Draft<'_>, key: &LayerKey) -> Result<Effects, VaultError> {
        let (before, after) = (draft.state(), draft.after()?);
        let tags = |meta: Option<&LayerMeta>| match meta.map(|m| &m.record) {
            Some(LayerRecord::Identity(record)) => record.tags.clone(),
            _ => BTreeMap::new(),
        };
        let (was, is) = (before.layers.get(key), after.layers.get(key));
        let mut effects = Effects {
            layer: Some(match key {
                LayerKey::Guardrail(_) => ("guardrail", key.name()),
                LayerKey::Identity(_) => ("identity", key.name()),
            }),
            tags: changed(Some(&tags(was)), Some(&tags(is))),
            digest: is.map(|meta| match &meta.record {
                LayerRecord::Guardrail(record) => digest(&record.policy.text),
                LayerRecord::Identity(record) => digest(&record.policy.text),
            }),
            ..Effects::default()
        };
        let people = Faces::new(&*self.directory);
        let mut had = Readership::new(&self.access, before, &people);
        let mut has = Readership::new(&self.access, &after, &people);
        let readable = |s: &&std::sync::Arc<Secret>| s.is_active() && s.broken.is_none();
        for secret in after.secrets.iter().filter(readable).take(LOOKED_AT) {
            let (gained, lost) = difference(&had.of(secret), &has.of(secret), &people);
            let line = |who: String| format!("{}: {who}", secret.meta.name);
            effects.gained.extend(gained.into_iter().map(line));
            effects.lost.extend(lost.into_iter().map(line));
        }
        effects.cut();
        if after.secrets.iter().filter(readable).nth(LOOKED_AT).is_some() {
            let rest = format!("only {LOOKED_AT} secrets were looked at for who gained and lost");
            effects.gained.push(rest);
        }
        Ok(effects)
    }
}

/// SHA-256 of a document, in hexadecimal.
fn digest(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(text))
}

fn settings(meta: &SecretMeta) -> BTreeMap<String, String> {
    let look = &meta.appearance;
    let hidden = meta.visibility == Visibility::Hidden;
    [
        ("description", meta.description.clone()),
        ("arn", meta.arn.clone()),
        ("owner", look.owner.map(|n| n.to_string())),
        ("group", look.group.map(|n| n.to_string())),
        ("mode", look.mode.map(|m| format!("{m:04o}"))),
        ("visibility", hidden.then(|| "hidden".into())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_string(), value?)))
    .collect()
}

fn labels(old: Option<&Secret>, meta: &SecretMeta, new: Option<(VersionNo, &VersionId)>) -> Vec<Changed> {
    let id = |no: VersionNo| match new {
        Some((new, id)) if new == no => Some(id.to_string()),
        _ => old?.versions.get(&no).map(|v| v.meta.id.to_string()),
    };
    let all = |labels: Option<&SecretMeta>| -> BTreeMap<String, String> {
        let labels = labels.into_iter().flat_map(|m| m.labels.iter());
        labels
            .filter_map(|(label, no)| Some((label.to_string(), id(*no)?)))
            .collect()
    };
    changed(Some(&all(old.map(|s| &s.meta))), Some(&all(Some(meta))))
}

fn changed(old: Option<&BTreeMap<String, String>>, new: Option<&BTreeMap<String, String>>) -> Vec<Changed> {
    let empty = BTreeMap::new();
    let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
    let gone = old
        .iter()
        .filter(|(name, _)| !new.contains_key(*name))
        .map(|(name, value)| (name, Some(value), None));
    let set = new
        .iter()
        .filter(|(name, value)| old.get(*name) != Some(value))
        .map(|(name, value)| (name, old.get(name), Some(value)));
    gone.chain(set)
        .map(|(name, old, new)| Changed {
            name: name.clone(),
            old: old.cloned(),
            new: new.cloned(),
        })
        .collect()
}
