//! Errors and warnings that point into the document.

use std::fmt;

use crate::id::printable;

/// Characters of the source line that are shown around the caret.
const SHOWN: usize = 100;

/// Why a policy was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PolicyError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What may have been meant, or what to write instead.
    pub suggestion: Option<String>,
    /// The (part of the) line that is shown, and the characters before the caret.
    #[serde(skip)]
    excerpt: (String, usize),
}

impl PolicyError {
    /// The same error with advice.
    pub(super) fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// The same error with "did you mean", if there is something near.
    pub(super) fn did_you_mean(self, nearest: Option<impl fmt::Display>) -> Self {
        match nearest {
            Some(n) => self.suggest(format!("did you mean \"{n}\"?")),
            None => self,
        }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message)?;
        writeln!(f, "  at line {}, column {}", self.line, self.column)?;
        writeln!(f, "    {}", self.excerpt.0)?;
        write!(f, "    {:1$}^", "", self.excerpt.1)?;
        match &self.suggestion {
            Some(s) => write!(f, "\n  {s}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PolicyError {}

/// Something in an accepted policy that is probably not what was meant.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Warning {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is odd, and what it means.
    pub message: String,
    /// How much it matters.
    pub concern: Concern,
}

/// How much a warning matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Concern {
    /// Probably not what was meant.
    Odd,
    /// It gives a value to everybody: refused by `--strict`.
    Public,
    /// It leaves nobody who could read, or mend it: refused by `--strict`.
    Lockout,
    /// It speaks of another service, which has no effect here: refused by `--strict`.
    Foreign,
}

impl Warning {
    /// That the document as a whole leaves nobody who could mend something.
    pub fn lockout(message: impl Into<String>) -> Self {
        Warning {
            line: 1,
            column: 1,
            message: message.into(),
            concern: Concern::Lockout,
        }
    }

    pub(super) fn concern(mut self, concern: Concern) -> Self {
        self.concern = concern;
        self
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// The document's text, which positions (byte offsets) point into.
#[derive(Clone, Copy)]
pub(super) struct Source<'a>(pub &'a str);

impl<'a> Source<'a> {
    /// Line, column and excerpt of a byte offset; one beyond the end means the end.
    fn locate(self, at: usize) -> (usize, usize, (String, usize)) {
        let mut at = at.min(self.0.len());
        while !self.0.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.0[..at];
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = before[start..].chars().count() + 1;
        let rest = self.0[at..].split('\n').next().unwrap_or_default();
        let head: Vec<char> = before[start..].trim_start().chars().collect();
        let head_from = head.len().saturating_sub(SHOWN / 2);
        let mut text = String::new();
        if head_from > 0 {
            text.push('…');
        }
        text.extend(&head[head_from..]);
        let text = printable(&text.replace('\t', " "));
        let caret = text.chars().count();
        let mut shown: String = rest.chars().take(SHOWN / 2).collect();
        if rest.chars().nth(SHOWN / 2).is_some() {
            shown.push('…');
        }
        let shown = printable(&shown.trim_end().replace('\t', " "));
        (line, column, (text + &shown, caret))
    }

    /// An error at a byte offset.
    pub fn error(self, at: usize, message: impl Into<String>) -> PolicyError {
        let (line, column, excerpt) = self.locate(at);
        PolicyError {
            line,
            column,
            message: message.into(),
            suggestion: None,
            excerpt,
        }
    }

    /// A warning at a byte offset.
    pub fn warning(self, at: usize, message: impl Into<String>) -> Warning {
        let (line, column, _) = self.locate(at);
        Warning {
            line,
            column,
            message: message.into(),
            concern: Concern::Odd,
        }
    }
}

/// The candidate that is most like `word`, if one is like it at all. Case does not count.
pub fn nearest<T: AsRef<str>>(word: &str, candidates: impl IntoIterator<Item = T>) -> Option<T> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (likeness(&word, &c.as_ref().to_lowercase()), c))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

/// From 0 to 1. The one measure favours long names with common beginnings, the other short ones with a slip.
fn likeness(a: &str, b: &str) -> f64 {
    let slips = strsim::osa_distance(a, b);
    let one_slip = if slips <= 1 && a.chars().count() > 2 {
        0.9
    } else {
        0.0
    };
    strsim::jaro_winkler(a, b).max(one_slip)
}
