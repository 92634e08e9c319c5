//! Completion in the shell: the definition's words, and the names of secrets that the caller may see.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use serde_json::Value;

use super::World;
use super::args::Cli;
use super::glue::Machine;
use super::render::Output;
use super::run::Stop;
use crate::audit::Event;
use crate::control::protocol::Request;
use crate::id::SecretName;
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
            "name" | "secret" | "under" => arg.add(ArgValueCompleter::new(names)),
            "allow" | "deny" | "who" | "as" => arg.add(ArgValueCompleter::new(principals)),
            "label" => arg.add(ArgValueCompleter::new(labels)),
            "to" | "from" | "version" if arg.get_action().takes_values() => {
                arg.add(ArgValueCompleter::new(versions))
            }
            "event" => arg.add(ArgValueCompleter::new(events)),
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
    let reply = asked(&request).unwrap_or_default();
    let secrets = reply["secrets"].as_array().into_iter().flatten();
    beginning(typed, secrets.filter_map(|secret| secret["name"].as_str()))
}

/// What the store answers, if it can be asked.
fn asked(request: &Request) -> Option<Value> {
    let store = store(std::env::args_os())?;
    Machine.backend(&store).ok()?.call(request, None).ok()
}

fn beginning(typed: &str, all: impl IntoIterator<Item = impl Into<String>>) -> Vec<CompletionCandidate> {
    let all: BTreeSet<String> = all.into_iter().map(Into::into).collect();
    let fitting = all.into_iter().filter(|one| one.starts_with(typed));
    fitting.map(CompletionCandidate::new).collect()
}

/// `user:`, `group:` and `unit:` with the names of this machine; `uid:` and `gid:`, after which a number goes.
fn principals(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else {
        return Vec::new();
    };
    let Some((kind, _)) = typed.split_once(':') else {
        return beginning(typed, ["user:", "group:", "unit:", "uid:", "gid:"]);
    };
    let directory = Machine.directory();
    let names: Vec<String> = match kind {
        "user" => directory.users().into_iter().map(|(name, _)| name).collect(),
        "group" => directory.groups().into_iter().map(|(name, _)| name).collect(),
        "unit" => units(),
        _ => Vec::new(),
    };
    beginning(typed, names.into_iter().map(|name| format!("{kind}:{name}")))
}

/// The services that systemd knows files of.
fn units() -> Vec<String> {
    let places = ["/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"];
    let files = places
        .iter()
        .filter_map(|place| std::fs::read_dir(format!("{place}/systemd/system")).ok());
    let names = files
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.ends_with(".service") && !name.contains('@'))
        .collect()
}

/// The versions of the secret that the line names.
fn named_versions() -> Vec<Value> {
    let named = std::env::args_os().filter_map(|word| word.to_str()?.parse().ok());
    let answer = named
        .filter(|name: &SecretName| !super::args::names().iter().any(|c| c == name.as_str()))
        .find_map(|name| {
            let reply = asked(&Request::Versions { name })?;
            reply["versions"].as_array().cloned()
        });
    answer.unwrap_or_default()
}

/// Labels of the secret that the line names, and those that every secret may have.
fn labels(typed: &OsStr) -> Vec<CompletionCandidate> {
    let versions = named_versions();
    let own = versions.iter().filter_map(|v| v["labels"].as_array()).flatten();
    let own = own.filter_map(|label| label.as_str());
    let usual = ["current", "pending", "previous"];
    beginning(&typed.to_string_lossy(), own.chain(usual))
}

/// Labels and ids of the versions of the secret that the line names.
fn versions(typed: &OsStr) -> Vec<CompletionCandidate> {
    let versions = named_versions();
    let labels = versions.iter().filter_map(|v| v["labels"].as_array()).flatten();
    let ids = versions.iter().map(|v| &v["version"]);
    beginning(
        &typed.to_string_lossy(),
        labels.chain(ids).filter_map(Value::as_str),
    )
}

fn events(typed: &OsStr) -> Vec<CompletionCandidate> {
    beginning(
        &typed.to_string_lossy(),
        Event::ALL.iter().map(|event| event.name()),
    )
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
