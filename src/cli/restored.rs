//! What came back out of a backup.

use std::path::Path;

use super::World;
use super::plan::Restore;
use super::render::{Output, cell, count, facts};
use super::run::Stop;
use super::value;
use super::view::read_by;
use crate::id::printable;
use crate::vault::Trial;
use serde_json::Value;

/// Restores a store, or one secret, and says what came back.
///
/// # Errors
/// What stopped it.
pub fn run(plan: &Restore, store: &Path, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let key = match plan.recovery_key {
        true => Some(value::recovery_key(world)?),
        false => None,
    };
    let reply = output.during("restoring the store", |_| {
        world.restore(store, plan, key.as_ref())
    })?;
    if output.json {
        return Ok(output.json(&reply)?);
    }
    let done = match plan.trial {
        Trial::Real => "Restored",
        Trial::DryRun => "Would restore",
    };
    if plan.only.is_some() {
        return one(done, &reply, output);
    }
    output.line(&format!(
        "{done} {} with {} into {}",
        count(&reply["secrets"], "secret"),
        count(&reply["versions"], "version"),
        printable(&store.to_string_lossy())
    ))?;
    Ok(())
}

fn one(done: &str, reply: &Value, output: &mut Output) -> Result<(), Stop> {
    let name = cell(&reply["name"]);
    let versions = count(&reply["versions"], "version");
    let what = match reply["created"] == true {
        true => format!("{done} {name} with {versions}"),
        false => format!("{done} the value of {name} as a new version"),
    };
    output.line(&format!("{what}, from the backup of {}", cell(&reply["backup"])))?;
    output.text(&facts(&[
        ("  version", cell(&reply["version"])),
        ("  read by", read_by(reply).unwrap_or_else(|| "nobody".into())),
    ]))?;
    for warning in reply["warnings"].as_array().into_iter().flatten() {
        output.note(&format!(
            "warning: {}",
            printable(warning.as_str().unwrap_or_default())
        ));
    }
    Ok(())
}
