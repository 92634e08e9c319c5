//! `config accept`: what the configuration's file decides is put in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::effects::Effects;
use super::{Lifecycle, denied};
use crate::access::Caller;
use crate::audit::{Event, Identity, Outcome, Record};
use crate::policy::{Action, Deciding, Difference, Local, PolicyRecord};
use crate::problem::{Exit, Problem};
use crate::vault::State;

/// Most lines about who gains or loses.
const TOLD: usize = 200;

impl Lifecycle {
    /// Puts in force what the file decides; a dry run says what would change and who would gain. With `digest` the
    /// file has to say what it said when that was given.
    ///
    /// # Errors
    /// A refusal, a file that cannot be used or says something else by now; nothing is changed.
    pub fn accept_settings<C: Caller>(
        &self,
        dry_run: bool,
        digest: Option<&str>,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = "cannot put wardfs.toml in force";
        self.layers_allowed(Action::AcceptConfig, Event::AcceptConfig, caller, what)?;
        if !self.owns(caller) {
            self.refuse(Event::AcceptConfig, caller);
            return Err(denied(what, "this is for the owner of the store alone").next("run it as root"));
        }
        let file = (self.file)()?;
        let found = file.digest();
        if digest.is_some_and(|d| d != found) {
            return Err(
                Problem::new(Exit::Conflict, what, "it was changed after it was shown")
                    .next("look at it again: wardfs config accept"),
            );
        }
        let state = self.access.vault().state();
        let differences = self.compared(&file);
        let (gain, lose) = self.consequences(&state, &file);
        let accepted = !dry_run && !differences.is_empty();
        if accepted {
            let message = Difference::words(&differences);
            let effects = Effects::of_readers(&gain, &lose);
            let parameters = effects.parameters();
            let answer = self.access.vault().change(|draft| -> Result<_, Problem> {
                draft.accept(file);
                let record = Record {
                    event: Event::AcceptConfig,
                    outcome: Outcome::Allowed,
                    parameters: &parameters,
                    message: Some(&message),
                    via: caller.door(),
                    who: caller.who(Identity::Full),
                    ..Record::default()
                };
                Ok(((), record.body()))
            });
            answer.map_err(|e| self.unprefixed(e, what))?;
        }
        Ok(json!({
            "changes": differences, "gain": gain, "lose": lose,
            "accepted": accepted, "dry_run": dry_run, "digest": found,
        }))
    }

    /// How the file differs from what is in force; nothing where it cannot be read.
    pub fn differences(&self) -> Vec<Difference> {
        (self.file)().map_or_else(|_| Vec::new(), |file| self.compared(&file))
    }

    fn compared(&self, file: &Deciding) -> Vec<Difference> {
        let settings = self.settings();
        settings.map_or_else(|_| Vec::new(), |sealed| sealed.differences(file))
    }

    /// Who gains and who loses by it, in words.
    fn consequences(&self, state: &State, file: &Deciding) -> (Vec<String>, Vec<String>) {
        let (mut gain, mut lose) = (Vec::new(), Vec::new());
        let Ok(sealed) = self.settings() else {
            return (gain, lose);
        };
        let group = |d: &Deciding| d.admin_gid.map(|gid| (d.admin_group.clone(), gid));
        let (was, is) = (group(&sealed), group(file));
        let members = |(name, gid): (String, u32)| {
            format!(
                "members of group {} (gid {gid}): administering",
                crate::id::printable(&name)
            )
        };
        if was != is {
            lose.extend(was.map(members));
            gain.extend(is.map(members));
        }
        for (before, after, words) in [
            (
                sealed.root_describes,
                file.root_describes,
                "root: describing secrets whose policies do not say so",
            ),
            (
                sealed.serve_unidentified,
                file.serve_unidentified,
                "callers whose process cannot be seen: reading what policies give their uid or gid",
            ),
        ] {
            match (before, after) {
                (false, true) => gain.push(words.to_string()),
                (true, false) => lose.push(words.to_string()),
                _ => {}
            }
        }
        self.remapped(state, file, &mut gain, &mut lose);
        for lines in [&mut gain, &mut lose] {
            if lines.len() > TOLD {
                let more = format!("and {} more", lines.len() - TOLD);
                lines.truncate(TOLD);
                lines.push(more);
            }
        }
        (gain, lose)
    }

    /// Who would come to read, or cease to, when the policies that name an ARN are set again.
    fn remapped(&self, state: &State, file: &Deciding, gain: &mut Vec<String>, lose: &mut Vec<String>) {
        let arns = |record: &PolicyRecord| -> BTreeMap<String, Vec<Local>> {
            if !record.text.contains("arn:") && record.principals.is_empty() {
                return BTreeMap::new();
            }
            record.mapped(&file.principals)
        };
        // Many secrets have one policy.
        let mut known: BTreeMap<*const PolicyRecord, BTreeMap<String, Vec<Local>>> = BTreeMap::new();
        for secret in state.secrets.iter() {
            let Some(record) = &secret.meta.policy else {
                continue;
            };
            let after = known.entry(Arc::as_ptr(record)).or_insert_with(|| arns(record));
            for (arn, locals) in all(&record.principals, after) {
                let has = |map: &BTreeMap<String, Vec<Local>>, local: &Local| {
                    map.get(arn).is_some_and(|l| l.contains(local))
                };
                let line = |local: &Local| {
                    let arn = crate::id::printable(arn);
                    format!(
                        "{local} as {arn}: {}, once its policy is set again",
                        secret.meta.name
                    )
                };
                for local in locals {
                    match (has(&record.principals, local), has(after, local)) {
                        (false, true) => gain.push(line(local)),
                        (true, false) => lose.push(line(local)),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Every ARN of the two mappings, with whoever is mapped to it in one of them.
fn all<'m>(
    before: &'m BTreeMap<String, Vec<Local>>,
    after: &'m BTreeMap<String, Vec<Local>>,
) -> BTreeMap<&'m String, Vec<&'m Local>> {
    let mut all: BTreeMap<&String, Vec<&Local>> = BTreeMap::new();
    for (arn, locals) in before.iter().chain(after) {
        let entry = all.entry(arn).or_default();
        locals.iter().for_each(|l| {
            if !entry.contains(&l) {
                entry.push(l);
            }
        });
    }
    all
}
