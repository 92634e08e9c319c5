//! Completion in the shell: the definition's words, and the names of secrets that the caller may see.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use super::World;
use super::args::Cli;
use super::glue::Machine;
use super::render::Output;
use super::run::Stop;
use crate::control::protocol::Request;
use crate::problem::{Exit, Problem};

/// What the shell sets to ask; its value is the shell's name.
const ASKED: &str = "WARDFS_COMPLETE";

/// Answers the shell and ends the process, if it is the shell that asks.
pub fn answer() {
    CompleteEnv::with_factory(definition).var(ASKED).complete();
}

/// The definition, with names of secrets where one is meant.
fn definition() -> clap::Command {
    fn named(command: clap::Command) -> clap::Command {
        // Guardrails have names of their own.
        if command.get_name() == "guardrail" {
            return command;
        }
        let subs: Vec<String> = command
            .get_subcommands()
            .map(|s| s.get_name().to_string())
            .collect();
        let command = subs.iter().fold(command, |c, sub| c.mut_subcommand(sub, named));
        // `mut_arg` would change the order of what has no flag.
        command.mut_args(|arg| match arg.get_id().as_str() {
            "name" | "secret" | "under" if arg.is_positional() => arg.add(ArgValueCompleter::new(names)),
            _ => arg,
        })
    }
    named(Cli::definition())
}

/// The names that begin with what was typed: those that `wardfs list` shows to the caller, and none if it cannot be
/// asked.
fn names(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else {
        return Vec::new();
    };
    let request = Request::List {
        under: None,
        tags: Default::default(),
        deleted: false,
    };
    let reply = store(std::env::args_os())
        .and_then(|store| Machine.backend(&store).ok())
        .and_then(|mut backend| backend.call(&request, None).ok())
        .unwrap_or_default();
    reply["secrets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|secret| secret["name"].as_str())
        .filter(|name| name.starts_with(typed))
        .map(CompletionCandidate::new)
        .collect()
}

/// The store that the line so far names. The line need not be whole, so that it cannot be parsed.
fn store(line: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let words: Vec<OsString> = line.collect();
    if words.iter().any(|w| w == "--user") {
        return super::args::own_store();
    }
    let given = words
        .iter()
        .enumerate()
        .find_map(|(i, word)| match word.to_str()? {
            "--store" => words.get(i + 1).map(PathBuf::from),
            word => word.strip_prefix("--store=").map(PathBuf::from),
        });
    given
        .or_else(|| std::env::var_os("WARDFS_STORE").map(PathBuf::from))
        .or_else(|| Some(Path::new(crate::config::SYSTEM_STORE).to_owned()))
}

/// Prints the completion script of a shell.
///
/// # Errors
/// If the output cannot be written.
pub fn script(shell: clap_complete::Shell, output: &mut Output) -> Result<(), Stop> {
    let failed = |why: String| {
        Problem::new(Exit::Failed, "there is no completion script", why)
            .next("name another shell: wardfs completions --help")
    };
    let shells = Shells::builtins();
    let completer = shells
        .completer(&shell.to_string())
        .ok_or_else(|| failed(format!("{shell} is not known")))?;
    let mut script = Vec::new();
    completer
        .write_registration(ASKED, "wardfs", "wardfs", "wardfs", &mut script)
        .map_err(|e| failed(e.to_string()))?;
    let script = String::from_utf8_lossy(&script);
    if output.json {
        return Ok(output.json(&serde_json::json!({ "shell": shell.to_string(), "script": script }))?);
    }
    Ok(output.text(&script)?)
}
