//! What is suggested for a word that is no command, or no flag: what was probably meant, or nothing.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Words that people type for what has another name here, and what does it. None of it destroys anything.
const MEANT: &[(&[&str], &str)] = &[
    (
        &["cp", "copy", "mv", "move", "rename"],
        "put the value under the other name: wardfs get OLD | wardfs put NEW",
    ),
    (
        &["import", "load", "upload"],
        "put them one by one: wardfs put NAME --value-file FILE",
    ),
    (
        &[
            "rotate",
            "renew",
            "set",
            "add",
            "create",
            "new",
            "write",
            "store-value",
            "insert",
        ],
        "put a value: wardfs put NAME",
    ),
    (
        &["edit"],
        "put another value: wardfs put NAME; other settings: wardfs update NAME --description TEXT",
    ),
    (
        &["cat", "show", "read", "print", "reveal"],
        "print a value: wardfs get NAME",
    ),
    (
        &["info", "inspect", "stat"],
        "see its settings: wardfs describe NAME",
    ),
    (
        &["history", "revisions"],
        "see its versions: wardfs versions NAME",
    ),
    (
        &["undo", "revert", "restore-version"],
        "get the previous value back: wardfs rollback NAME",
    ),
    (
        &["rm", "remove", "destroy", "purge"],
        "see what a delete takes: wardfs delete NAME --now --dry-run",
    ),
    (
        &["log", "logs", "events", "history-log"],
        "see the log: wardfs audit tail",
    ),
    (
        &["grant", "allow", "share", "chmod", "chown"],
        "let somebody read it: wardfs policy allow NAME user:WHO",
    ),
    (
        &["deny", "forbid"],
        "keep somebody out: wardfs policy deny NAME user:WHO",
    ),
    (&["explain"], "see why: wardfs why NAME"),
    (
        &["serve", "start", "run", "daemon"],
        "serve the secrets as files: wardfs mount DIR",
    ),
    (&["stop", "shutdown"], "end the service: wardfs unmount DIR"),
    (&["check", "fsck"], "check the store: wardfs store check"),
    (&["verify"], "verify the log: wardfs audit verify"),
    (
        &["backup", "dump", "export"],
        "back the store up: wardfs store backup FILE",
    ),
    (
        &["restore"],
        "see what a backup would bring back: wardfs store restore FILE --dry-run",
    ),
    (
        &["recover", "unlock"],
        "make a new key file: wardfs store recover",
    ),
    (&["find", "search", "tree"], "see the names: wardfs list"),
];

/// The error without suggestions that nobody means, and with those that help.
pub fn sensible(mut e: clap::Error) -> clap::Error {
    match e.kind() {
        ErrorKind::InvalidSubcommand => {
            let Some(ContextValue::String(typed)) = e.get(ContextKind::InvalidSubcommand) else {
                return e;
            };
            let typed = typed.clone();
            let meant = MEANT.iter().find(|(words, _)| words.contains(&typed.as_str()));
            keep_near(&mut e, ContextKind::SuggestedSubcommand, &typed, meant.is_some());
            if let Some((_, command)) = meant {
                let tip = ContextValue::StyledStrs(vec![StyledStr::from(
                    crate::problem::pasteable(command).into_owned(),
                )]);
                e.insert(ContextKind::Suggested, tip);
            }
        }
        ErrorKind::UnknownArgument => {
            let Some(ContextValue::String(typed)) = e.get(ContextKind::InvalidArg) else {
                return e;
            };
            let typed = typed.split('=').next().unwrap_or_default().to_owned();
            keep_near(&mut e, ContextKind::SuggestedArg, &typed, false);
            // "To pass it as a value": no name and no value that is meant begins with a hyphen.
            e.remove(ContextKind::Suggested);
        }
        _ => {}
    }
    e
}

/// Takes away what is suggested in place of `typed` and is more than a slip of the finger away.
fn keep_near(e: &mut clap::Error, kind: ContextKind, typed: &str, known: bool) {
    let near = |s: &String| {
        let (s, typed) = (s.trim_start_matches('-'), typed.trim_start_matches('-'));
        let far = strsim::osa_distance(typed, s);
        far * 3 <= typed.chars().count().max(3) || typed.len() > 2 && s.starts_with(typed)
    };
    match e.get(kind) {
        Some(ContextValue::String(one)) if !known && near(one) => {}
        Some(ContextValue::Strings(several)) if !known => {
            let several: Vec<String> = several.iter().filter(|s| near(s)).cloned().collect();
            match several.is_empty() {
                true => drop(e.remove(kind)),
                false => drop(e.insert(kind, ContextValue::Strings(several))),
            }
        }
        _ => drop(e.remove(kind)),
    }
}
