//! What a user is told when something cannot be done, and the exit code that goes with it.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

/// The stable exit codes of every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// 1: it failed for a reason that has no code of its own.
    Failed = 1,
    /// 2: usage or bad input; nothing was changed.
    Usage = 2,
    /// 3: denied by policy.
    Denied = 3,
    /// 4: there is no such thing.
    NotFound = 4,
    /// 5: it conflicts with what is there.
    Conflict = 5,
    /// 6: tampered, rolled back, damaged, or of a format that is too new.
    Integrity = 6,
    /// 7: store in use, log not writable, backend down.
    Unavailable = 7,
}

/// One failure in three short lines: what, why, and what to do next. Never holds a value or a key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
pub struct Problem {
    /// The exit code.
    pub exit: Exit,
    /// The thing that could not be done, naming its object.
    pub what: String,
    /// The cause.
    pub why: String,
    /// The next step, often a command; empty where there is none.
    pub next: String,
}

impl Problem {
    /// A problem without advice.
    pub fn new(exit: Exit, what: impl Into<String>, why: impl fmt::Display) -> Self {
        Problem {
            exit,
            what: what.into(),
            why: why.to_string(),
            next: String::new(),
        }
    }

    /// Adds the next step.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

/// How this process was told which store is meant, for the commands that it prints.
static CHOSEN: OnceLock<Chosen> = OnceLock::new();

struct Chosen {
    words: String,
    commands: Vec<String>,
}

/// From now on the commands that are printed name the store with `words` (`--user`, or `--store DIR` as a shell reads
/// it), so that they do the right thing when they are pasted. `commands` are the words that can follow `wardfs`. Only
/// the first call counts.
pub fn repeat(words: String, commands: Vec<String>) {
    let _first = CHOSEN.set(Chosen { words, commands });
}

/// `text` with its commands as they can be pasted. Not for what users wrote.
pub fn pasteable(text: &str) -> Cow<'_, str> {
    match CHOSEN.get() {
        Some(chosen) if !chosen.words.is_empty() => Cow::Owned(chosen.named(text)),
        _ => Cow::Borrowed(text),
    }
}

impl Chosen {
    fn named(&self, text: &str) -> String {
        const PROGRAM: &str = "wardfs ";
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(at) = rest.find(PROGRAM) {
            let (before, after) = rest.split_at(at + PROGRAM.len());
            let begins = !before[..at].ends_with(|c: char| c.is_alphanumeric() || "/-_.".contains(c));
            let word = after.split(|c: char| !c.is_ascii_lowercase() && c != '-').next();
            out.push_str(before);
            if begins && word.is_some_and(|w| self.commands.iter().any(|c| c == w)) {
                out.push_str(&self.words);
                out.push(' ');
            }
            rest = after;
        }
        out + rest
    }
}

/// `what: why`, and the next step on a line of its own.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  why:  {}", self.what, self.why)?;
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_command_names_the_store_that_was_named() {
        let chosen = Chosen {
            words: "--store '/a b'".into(),
            commands: vec!["put".into(), "list".into(), "mount".into()],
        };
        let named = |text: &str| chosen.named(text);
        assert_eq!(
            named("wardfs put a < FILE; or `wardfs list`"),
            "wardfs --store '/a b' put a < FILE; or `wardfs --store '/a b' list`"
        );
        for prose in [
            "wardfs is there",
            "man wardfs.toml",
            "/x/wardfs put",
            "wardfs putting",
            "wardfs",
        ] {
            assert_eq!(named(prose), prose);
        }
    }
}
