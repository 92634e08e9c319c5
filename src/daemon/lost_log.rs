//! A new log for a store whose log is lost: without a daemon, by the store's owner, and recorded with the reason.

use std::path::Path;

use serde_json::{Value, json};

use crate::access::Caller;
use crate::audit::{Event, Identity, Outcome, Record, Value as Parameter};
use crate::config::Config;
use crate::problem::Problem;
use crate::vault::{Trial, VaultError};

use super::settings;

/// Begins a new log for the store in `dir`; says what was lost, or in a dry run would be.
///
/// # Errors
/// If the log is not lost, or a daemon has the store; nothing is given up then.
pub fn begin_log<C: Caller>(
    dir: &Path,
    reason: &str,
    trial: Trial,
    caller: &mut C,
) -> Result<Value, Problem> {
    let what = "no new log was begun";
    crate::lifecycle::check_reason(reason, what)?;
    let settings = settings(dir, &Config::load(dir)?);
    let uid = caller.uid();
    let lost = crate::vault::begin_log(dir, &settings, (reason, uid), trial, |lost| {
        let message = format!("a new log was begun: {reason}");
        let parameters = [
            ("lastSequence", Parameter::Number(lost.last_sequence)),
            ("lastHead", Parameter::Text(&lost.head)),
        ];
        let record = Record {
            event: Event::BreakGlass,
            outcome: Outcome::Allowed,
            parameters: &parameters,
            message: Some(&message),
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        record.body()
    });
    let lost = lost.map_err(|e| match &e {
        VaultError::LogThere => e.problem(what),
        _ => e.unopened(what),
    })?;
    let dry_run = trial == Trial::DryRun;
    let shown = crate::control::lost_logs(std::slice::from_ref(&lost));
    Ok(json!({ "lost": shown, "repaired": !dry_run, "dry_run": dry_run, "warnings": [] }))
}
