//! Archiving the log: what was copied away is removed, on record and by its digests.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Lifecycle, denied};
use crate::access::Caller;
use crate::audit::{
    self, Event, Finished, Identity, Outcome, Record, Value as Parameter, VerifyError, Wanted,
};
use crate::clock::Timestamp;
use crate::policy::Action;
use crate::problem::{Exit, Problem};
use crate::vault::VaultError;

/// A segment that was copied, by the digest of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// Its number.
    pub segment: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub digest: String,
}

const WHAT: &str = "the log was not archived";

impl Lifecycle {
    /// The segments that can be archived: the oldest finished ones of which every record is older than `before`, verified,
    /// 256 at most; `more` says whether others may follow. Their digests are not told: who names them has read the files.
    ///
    /// # Errors
    /// A refusal, or a log that does not verify.
    pub fn archivable<C: Caller>(
        &self,
        before: Timestamp,
        told: &mut dyn FnMut(u64),
        caller: &mut C,
    ) -> Result<Value, Problem> {
        self.may_archive(caller)?;
        let log = self.access.vault().log();
        let found = log.finished(Wanted::Before(before), told);
        let found = found.map_err(|e| unverified(WHAT, &e))?;
        let mut segments = shown(&found);
        for segment in &mut segments {
            let _digest = segment.as_object_mut().and_then(|s| s.remove("digest"));
        }
        Ok(json!({ "segments": segments, "more": found.len() == audit::AT_ONCE }))
    }

    /// Removes archived segments from the log: the oldest ones, each by the digest of its copy, after the store has sealed
    /// where the log begins then and the record of it is durable.
    ///
    /// # Errors
    /// A refusal, a digest that is not the segment's, or a log that does not verify: nothing is removed.
    pub fn archive<C: Caller>(
        &self,
        copied: &[Copied],
        told: &mut dyn FnMut(u64),
        caller: &mut C,
    ) -> Result<Value, Problem> {
        self.may_archive(caller)?;
        let Some(last) = copied.last() else {
            return Err(Problem::new(Exit::Usage, WHAT, "no segment was named")
                .next("use the command that came with the daemon"));
        };
        let vault = self.access.vault();
        // One after the other: the second finds what the first has left.
        let _alone = self
            .archiving
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = vault.log().finished(Wanted::Through(last.segment), told);
        let found = found.map_err(|e| unverified(WHAT, &e))?;
        compare(&found, copied)?;
        // The anchor is in a segment that stays.
        vault.tick().map_err(|e| e.problem(WHAT))?;
        let (segments, texts) = lists(&found);
        let [heads, digests] = &texts;
        let parameters = [
            ("segments", Parameter::Numbers(&segments)),
            ("heads", Parameter::Texts(heads)),
            ("digests", Parameter::Texts(digests)),
            ("first", Parameter::Number(found[0].first)),
            ("last", Parameter::Number(found[found.len() - 1].last)),
        ];
        let made = vault.change(|draft| -> Result<_, VaultError> {
            draft.archive(found[found.len() - 1].archived());
            let record = Record {
                event: Event::ArchiveLog,
                outcome: Outcome::Allowed,
                parameters: &parameters,
                via: caller.door(),
                who: caller.who(Identity::Full),
                ..Record::default()
            };
            Ok(((), record.body()))
        });
        made.map_err(|e| e.problem(WHAT))?;
        vault.log().remove_archived(&segments).map_err(|e| {
            VaultError::from(e)
                .problem("what was archived is not yet removed from the log")
                .next("run the same command again: it finishes what is left")
        })?;
        Ok(json!({ "segments": shown(&found) }))
    }

    fn may_archive<C: Caller>(&self, caller: &mut C) -> Result<(), Problem> {
        self.layers_allowed(Action::ArchiveLog, Event::ArchiveLog, caller, WHAT)?;
        if self.owns(caller) {
            return Ok(());
        }
        // Whoever may not read the log's files cannot have copied them.
        self.refuse(Event::ArchiveLog, caller);
        Err(denied(WHAT, "this is for the owner of the store alone").next("run it as root"))
    }
}

/// What is named must be what is there: the oldest segments, without a gap, each with its digest.
fn compare(found: &[Finished], copied: &[Copied]) -> Result<(), Problem> {
    let there = |f: &Finished| Copied {
        segment: f.segment,
        digest: HEXLOWER.encode(&f.digest),
    };
    let there: Vec<Copied> = found.iter().map(there).collect();
    if there == copied {
        return Ok(());
    }
    let of = |list: &[Copied]| list.iter().map(|c| c.segment).collect::<Vec<_>>();
    let differs = there.iter().zip(copied).find(|(a, b)| a != b);
    Err(match differs {
        Some((there, named)) if there.segment == named.segment => {
            let file = audit::file_name(named.segment);
            let why = format!("the copy of {file} has another digest than the segment in the store");
            Problem::new(Exit::Integrity, WHAT, why)
                .next("see whether the log was changed: wardfs audit verify")
        }
        _ => {
            let why = format!(
                "segments {:?} were named, {:?} are the oldest finished ones",
                of(copied),
                of(&there)
            );
            Problem::new(Exit::Conflict, WHAT, why).next("run the command again")
        }
    })
}

fn lists(found: &[Finished]) -> (Vec<u64>, [Vec<String>; 2]) {
    let heads = found.iter().map(|f| audit::head_text(&f.head)).collect();
    let digests = found.iter().map(|f| HEXLOWER.encode(&f.digest)).collect();
    (found.iter().map(|f| f.segment).collect(), [heads, digests])
}

fn shown(found: &[Finished]) -> Vec<Value> {
    let one = |f: &Finished| {
        json!({
            "segment": f.segment, "file": f.file(), "first": f.first, "last": f.last, "latest": f.latest,
            "bytes": f.bytes, "head": audit::head_text(&f.head), "digest": HEXLOWER.encode(&f.digest),
        })
    };
    found.iter().map(one).collect()
}

/// That the log does not verify, as the user is told.
pub fn unverified(what: &str, e: &VerifyError) -> Problem {
    let exit = match e {
        VerifyError::Broken(_) | VerifyError::TooNew { .. } => Exit::Integrity,
        _ => Exit::Unavailable,
    };
    Problem::new(exit, what, e).next("see the whole of it: wardfs audit verify")
}
