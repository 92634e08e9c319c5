//! Labels of versions, moved by the rules of AWS's UpdateSecretVersionStage.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Lifecycle;
use super::gains::Custom;
use crate::access::{Asked, Caller};
use crate::audit::Event;
use crate::clock::Timestamp;
use crate::id::{Label, SecretName, VersionId, VersionName, VersionNo};
use crate::policy::Action;
use crate::problem::{Exit, Problem};
use crate::vault::{ChangeKind, Secret, SecretMeta, Unmeant, Version};

/// Most labels of a secret, as in AWS.
const MAX_LABELS: usize = 20;

/// A label that goes to another version, or away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelMove {
    /// Whose.
    pub name: SecretName,
    /// Which.
    pub label: Label,
    /// The version that shall have it; none if it is removed.
    #[serde(default)]
    pub to: Option<VersionName>,
    /// The version that has it: needed if there is one, so that nobody takes what he does not know of.
    #[serde(default)]
    pub from: Option<VersionName>,
}

impl Lifecycle {
    /// Moves a label to a version, or removes it. Moving `current` sets `previous` on the version that had it.
    ///
    /// # Errors
    /// A conflict if the label is not where the caller says; a refusal; no such secret or version; nothing is changed.
    pub fn move_label<C: Caller>(&self, change: &LabelMove, caller: &mut C) -> Result<Value, Problem> {
        let LabelMove {
            name,
            label,
            to,
            from,
        } = change;
        let what = match to {
            Some(_) => format!("cannot move the label {label} of {name}"),
            None => format!("cannot remove the label {label} of {name}"),
        };
        if to.is_none() && *label == Label::current() {
            return Err(Problem::new(
                Exit::Usage,
                what,
                "current can be moved and never removed: readers get that version",
            )
            .next(format!(
                "wardfs label move {name} current --to VERSION --from VERSION"
            )));
        }
        let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
            let secret = self.existing(draft, name, caller, &what)?;
            let holder = secret.labelled(label.as_str()).map(|v| v.meta.id.clone());
            // The decision comes first: a stranger learns nothing of versions.
            let about = match to.as_ref().or(from.as_ref()) {
                Some(named) => match secret.meant(named) {
                    Ok(version) => Some(version.meta.id.clone()),
                    Err(_) => named.as_str().parse().ok(),
                },
                None => holder.clone(),
            };
            let about = about.as_ref();
            let asked = match about {
                Some(version) => Asked::label(version, label),
                None => Asked::secret(),
            };
            let event = Event::UpdateSecretVersionStage;
            self.allowed_to(
                draft.state().view(&secret),
                Action::UpdateSecretVersionStage,
                asked,
                event,
                caller,
                &what,
            )?;
            if !secret.is_active() {
                return Err(self.missing(name, &what));
            }
            let target = to.as_ref().map(|id| version(&secret, id, &what)).transpose()?;
            let moved = target.map(|v| v.meta.id.clone());
            let about = about.map(VersionId::as_str);
            let held = secret.meta.labels.get(label).copied();
            if let Some(target) = target
                && held == Some(target.meta.no)
            {
                let body = self.body(event, name, about, caller);
                return Ok(((labels(&secret.meta, &secret), moved), body));
            }
            at_its_place(change, &secret, holder.as_ref(), &what)?;
            let now = Timestamp::now();
            let mut meta = secret.meta.clone();
            let mut kind = ChangeKind::Settings;
            match target {
                None => drop(meta.labels.remove(label)),
                Some(target) if *label == Label::current() => {
                    make_current(&mut meta, target.meta.no, now);
                    kind = ChangeKind::Value;
                }
                Some(target) => drop(meta.labels.insert(label.clone(), target.meta.no)),
            }
            check(&meta, target.map(|_| label), &what)?;
            self.gains((draft, &secret, &meta), Custom::None, event, caller, &what)?;
            meta.meta_changed = now;
            let after = labels(&meta, &secret);
            let effects = self.effects(draft, Some(&secret), &meta, None)?;
            let body = self.body_with(event, name, about, &effects.parameters(), caller);
            draft.put_secret(meta, kind);
            Ok(((after, moved), body))
        });
        let (labels, moved) = answer.map_err(|e| self.unprefixed(e, &what))?;
        Ok(json!({ "name": name, "label": label, "version": moved, "labels": labels }))
    }
}

fn version<'s>(secret: &'s Secret, named: &VersionName, what: &str) -> Result<&'s Version, Problem> {
    let (exit, why) = match secret.meant(named) {
        Ok(version) => return Ok(version),
        Err(Unmeant::Nothing) => (Exit::NotFound, format!("there is no version {named}")),
        Err(Unmeant::Several) => (
            Exit::Usage,
            format!("the ids of several versions begin with {named}"),
        ),
    };
    Err(Problem::new(exit, what, why).next(format!("see them: wardfs versions {}", secret.meta.name)))
}

/// The label must be on the version that the caller names, and on none if he names none.
fn at_its_place(
    change: &LabelMove,
    secret: &Secret,
    holder: Option<&VersionId>,
    what: &str,
) -> Result<(), Problem> {
    let LabelMove {
        name,
        label,
        to,
        from,
    } = change;
    let versions = || format!("see them: wardfs versions {name}");
    let (from, to) = (from.as_ref(), to.as_ref());
    let stated = match from {
        Some(named) if secret.meant(named).is_err_and(|e| e == Unmeant::Nothing) => None,
        Some(named) => Some(&version(secret, named, what)?.meta.id),
        None => None,
    };
    if holder == stated && from.is_some() == stated.is_some() {
        return match (holder, to) {
            (None, None) => Err(Problem::new(Exit::NotFound, what, "no version has it").next(versions())),
            _ => Ok(()),
        };
    }
    let why = match holder {
        Some(holder) => format!("version {holder} has it"),
        None => "no version has it".into(),
    };
    let next = match (holder, to) {
        (Some(holder), _) => format!("say so, if that is meant: --from {holder}"),
        (None, Some(_)) => format!("leave --from away to set {label}"),
        (None, None) => versions(),
    };
    Err(Problem::new(Exit::Conflict, what, why).next(next))
}

/// Readers get this version from now on; the one that they got is `previous`.
pub(super) fn make_current(meta: &mut SecretMeta, no: VersionNo, now: Timestamp) {
    if let Some(before) = meta.labels.insert(Label::current(), no).filter(|b| *b != no) {
        meta.labels.insert(Label::previous(), before);
    }
    meta.value_changed = now;
}

/// Whether a secret may have these labels, of which `new` are set now.
///
/// # Errors
/// More labels than a secret may have, of which two are kept for `current` and `previous`; one that could be taken for a
/// version's id, or for another label.
pub(super) fn check<'l>(
    meta: &SecretMeta,
    new: impl IntoIterator<Item = &'l Label>,
    what: &str,
) -> Result<(), Problem> {
    let own = meta
        .labels
        .keys()
        .filter(|label| !matches!(label.as_str(), "current" | "previous"))
        .count();
    if own > MAX_LABELS - 2 {
        let why = format!(
            "it would have {own} labels besides current and previous; {} are the most",
            MAX_LABELS - 2
        );
        return Err(Problem::new(Exit::Usage, what, why)
            .next(format!("remove one: wardfs label remove {} LABEL", meta.name)));
    }
    for label in new {
        if label.is_like_an_id() {
            let why =
                format!("{label} could be the id of a version: 32 to 64 letters, digits and hyphens are");
            return Err(Problem::new(Exit::Usage, what, why).next("give a shorter label"));
        }
        let twin = |other: &&Label| *other != label && other.number() == label.number();
        if let Some(other) = meta.labels.keys().find(twin) {
            let why = format!("the mount cannot tell {label} from {other}, which is there");
            return Err(Problem::new(Exit::Usage, what, why).next("choose another label"));
        }
    }
    Ok(())
}

fn labels(meta: &SecretMeta, secret: &Secret) -> Value {
    let row = |(label, no): (&Label, &VersionNo)| {
        Some((label.to_string(), json!(secret.versions.get(no)?.meta.id)))
    };
    Value::Object(meta.labels.iter().filter_map(row).collect())
}
