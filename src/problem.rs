//! What a user is told when something cannot be done, and the exit code that goes with it.

use std::fmt;

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
