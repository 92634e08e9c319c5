//! `config accept`: shows what changes and who gains, and asks.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::Value;

use super::Backend;
use super::render::{Output, cell};
use super::run::Stop;
use crate::control::protocol::Request;
use crate::problem::{Exit, Problem};
use crate::vault::Trial;

/// Puts in force what the store's configuration decides.
///
/// # Errors
/// A refusal; no answer, where one is needed.
pub fn settings(
    (yes, trial): (bool, Trial),
    backend: &mut dyn Backend,
    output: &mut Output,
) -> Result<(), Stop> {
    let look = Request::ConfigAccept {
        dry_run: true,
        digest: None,
    };
    let found = backend.call(&look, None)?;
    let nothing = found["changes"].as_array().is_none_or(Vec::is_empty);
    if trial == Trial::DryRun || nothing {
        if output.json {
            return Ok(output.json(&found)?);
        }
        show(&found, output)?;
        output.note("Nothing was changed");
        return Ok(());
    }
    if !output.json {
        show(&found, output)?;
    }
    if !yes {
        confirm(output.json)?;
    }
    let change = Request::ConfigAccept {
        dry_run: false,
        digest: found["digest"].as_str().map(str::to_string),
    };
    let done = backend.call(&change, None)?;
    if output.json {
        return Ok(output.json(&done)?);
    }
    output.note("What wardfs.toml says is in force");
    Ok(())
}

fn show(found: &Value, output: &mut Output) -> Result<(), Stop> {
    let list = |key: &str| found[key].as_array().cloned().unwrap_or_default();
    let changes = list("changes");
    if changes.is_empty() {
        output.line("What wardfs.toml says is in force already")?;
    }
    for change in changes {
        let [key, sealed, file] = ["key", "sealed", "file"].map(|k| cell(&change[k]));
        output.line(&format!("{key}: {sealed} -> {file}"))?;
    }
    for (verb, key) in [("gains", "gain"), ("loses", "lose")] {
        for line in list(key) {
            output.line(&format!("  {verb}: {}", cell(&line)))?;
        }
    }
    Ok(())
}

/// Asks at the terminal; where JSON is wanted, a program is asking.
fn confirm(json: bool) -> Result<(), Problem> {
    let what = "wardfs.toml was not put in force";
    let stdin = std::io::stdin();
    if json || !stdin.is_terminal() {
        return Err(Problem::new(Exit::Usage, what, "there is no terminal to ask at")
            .next("look with --dry-run, then say --yes"));
    }
    let mut line = String::new();
    let _ = write!(std::io::stderr(), "Put it in force? [y/N] ");
    let read = stdin.lock().read_line(&mut line);
    match (read, line.trim().to_ascii_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(Problem::new(Exit::Failed, what, "it was not confirmed")
            .next("nothing was changed; run it again to decide otherwise")),
    }
}
