//! What people see: one place that writes, and the pieces that the views are made of.

use super::progress::Progress;
use crate::clock::Timestamp;
use crate::id::{SecretName, is_invisible, printable};
use crate::problem::{Problem, pasteable};
use crate::secret::SecretBytes;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

/// Where output goes. Nothing is buffered here, so that a value never lies in a buffer that nobody wipes.
pub struct Output {
    /// Print JSON instead of text.
    pub json: bool,
    /// Leave out what was not asked for.
    pub quiet: bool,
    /// Whether standard output is a terminal.
    pub terminal: bool,
    /// Whether signs beyond ASCII can be shown.
    pub signs: bool,
    colour: bool,
    colour_err: bool,
    /// Whether a line of standard error can be kept up to date.
    live: bool,
    out: Box<dyn Write>,
    /// Where failures and remarks go.
    pub err: Box<dyn Write>,
}

/// By the first of the variables that is set, as setlocale(3) does.
fn locale_is_utf8() -> bool {
    let mut set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(std::env::var_os);
    let locale = set.find(|v| !v.is_empty()).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

impl Output {
    /// Standard output and standard error.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn standard(json: bool, quiet: bool) -> io::Result<Output> {
        let terminal = io::stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let plain = dumb || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        if terminal {
            super::table::fit_terminal();
        }
        let terminal_err = io::stderr().is_terminal();
        let out = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Output {
            json,
            quiet,
            terminal,
            signs: !terminal || locale_is_utf8(),
            colour: terminal && !plain,
            colour_err: terminal_err && !plain,
            live: terminal_err && !dumb && !quiet,
            out: Box::new(out),
            err: Box::new(io::stderr()),
        })
    }

    /// `text` and a newline, in one write.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(format!("{text}\n").as_bytes())
    }

    /// Text as it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    /// One JSON document on a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn json(&mut self, value: &Value) -> io::Result<()> {
        self.line(&json_text(&advising(value)))
    }

    /// Plaintext, straight through.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn value(&mut self, value: &SecretBytes) -> io::Result<()> {
        self.out.write_all(value.expose())
    }

    /// Plaintext as one JSON document.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn value_json(&mut self, name: &SecretName, value: &SecretBytes) -> io::Result<()> {
        super::value::write_json(&mut self.out, name, value)
    }

    /// A remark beside the answer, on standard error.
    pub fn note(&mut self, text: &str) {
        if !self.quiet {
            // Nobody is left to be told that standard error does not work.
            let _ = self.err.write_all(format!("{}\n", pasteable(text)).as_bytes());
        }
    }

    /// Shows on a terminal what is waited for, until it is dropped.
    pub fn progress(&self, doing: &'static str) -> Progress {
        match self.live {
            true => Progress::shown(doing, io::stderr()),
            false => Progress::silent(),
        }
    }

    /// Does `work`, and shows meanwhile what is waited for; it may tell how many pieces are done.
    pub fn during<T>(&self, doing: &'static str, work: impl FnOnce(&mut dyn FnMut(u64)) -> T) -> T {
        let progress = self.progress(doing);
        work(&mut |done| progress.tell(done))
    }

    /// The one way in which a failure is told.
    pub fn problem(&mut self, problem: &Problem) {
        let text = if self.json {
            json_text(&problem_json(problem))
        } else {
            let label = painted(self.colour_err, "error:", "1;31");
            format!("{label} {}", problem_text(problem))
        };
        let _ = self.err.write_all(format!("{text}\n").as_bytes());
    }

    /// `text` in a colour (SGR parameters), on a terminal only.
    pub fn paint(&self, text: &str, sgr: &str) -> String {
        painted(self.colour, text, sgr)
    }

    /// For tests: what is written can be looked at.
    #[cfg(test)]
    pub fn captured(json: bool) -> (Output, Captured, Captured) {
        let (out, err) = (Captured::default(), Captured::default());
        let output = Output {
            json,
            quiet: false,
            terminal: false,
            signs: true,
            colour: false,
            colour_err: false,
            live: false,
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
        };
        (output, out, err)
    }
}

fn painted(colour: bool, text: &str, sgr: &str) -> String {
    if colour {
        format!("\u{1b}[{sgr}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// What a test wrote.
#[cfg(test)]
#[derive(Clone, Default)]
pub struct Captured(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

#[cfg(test)]
impl Captured {
    /// As text.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

#[cfg(test)]
impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Text of others, which may have lines of its own: harmless, and indented below its first line.
fn indented(text: &str, by: usize) -> String {
    let pad = format!("\n{}", " ".repeat(by));
    text.lines().map(printable).collect::<Vec<_>>().join(&pad)
}

/// What, why and next, each on a line.
pub fn problem_text(problem: &Problem) -> String {
    let mut text = format!(
        "{}\n  why:  {}",
        indented(&problem.what, 2),
        indented(&pasteable(&problem.why), 8)
    );
    if !problem.next.is_empty() {
        text += &format!("\n  next: {}", indented(&pasteable(&problem.next), 8));
    }
    text
}

/// JSON on one line, in which invisible characters are escaped although JSON does not ask for all of it: it may be read
/// on a terminal.
pub fn json_text(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        match is_invisible(c) {
            // Only strings can have such a character here.
            true => text.extend(
                c.encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| format!("\\u{unit:04x}")),
            ),
            false => text.push(c),
        }
    }
    text
}

/// An answer whose advice can be pasted.
fn advising(answer: &Value) -> Value {
    let mut advice = answer.clone();
    if let Some(text) = advice.get_mut("mend") {
        say_store(text);
    }
    for text in advice
        .get_mut("warnings")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        say_store(text);
    }
    advice
}

fn say_store(text: &mut Value) {
    if let Some(said) = text.as_str() {
        *text = json!(pasteable(said));
    }
}

/// The same for programs: `exit` is the number, `kind` its name.
pub fn problem_json(problem: &Problem) -> Value {
    json!({ "error": {
        "exit": problem.exit as u8,
        "kind": problem.exit,
        "what": problem.what,
        "why": pasteable(&problem.why),
        "next": pasteable(&problem.next),
    } })
}

/// Facts under each other: the key, and its value in a column.
pub fn facts(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    rows.iter()
        .map(|(k, v)| {
            format!(
                "{k:width$}  {}",
                v.replace('\n', &format!("\n{}", " ".repeat(width + 2)))
            )
            .trim_end()
            .to_owned()
                + "\n"
        })
        .collect()
}

/// A field as text; `-` where there is none.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(s) if s.is_empty() => "-".into(),
        Value::String(s) => printable(s),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        other => printable(&other.to_string()),
    }
}

/// A list of texts with commas; `-` where there is none.
pub fn list(value: &Value) -> String {
    match value.as_array() {
        Some(items) if !items.is_empty() => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        _ => "-".into(),
    }
}

/// A time to the second in UTC, from RFC 3339 text or microseconds since 1970.
pub fn time(value: &Value) -> String {
    let text = match value {
        Value::Number(n) => match n.as_i64() {
            Some(us) => Timestamp(us).to_string(),
            None => return cell(value),
        },
        other => cell(other),
    };
    match text.split_once('T') {
        Some((date, rest)) if rest.ends_with('Z') && rest.len() >= 9 && rest.is_char_boundary(8) => {
            format!("{date} {}Z", &rest[..8])
        }
        _ => text,
    }
}

/// A number of things: `1 record`, `2 records`.
pub fn count(value: &Value, one: &str) -> String {
    match value.as_u64() {
        Some(1) => format!("1 {one}"),
        Some(n) => format!("{n} {one}s"),
        None => format!("- {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Exit;

    #[test]
    fn facts_keep_many_lines_in_their_column() {
        assert_eq!(
            facts(&[("a", "1\n2".into()), ("bcd", "3".into())]),
            "a    1\n     2\nbcd  3\n"
        );
    }

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        assert_eq!(cell(&json!("a\u{1b}[31m\n")), "a\\u{1b}[31m\\n");
        assert_eq!(list(&json!(["a", "b\r"])), "a, b\\r");
        let problem = Problem::new(Exit::Usage, "a\u{1b}b", "first\n  ^\u{7}").next("x");
        let text = problem_text(&problem);
        assert_eq!(text, "a\\u{1b}b\n  why:  first\n          ^\\u{7}\n  next: x");
    }

    #[test]
    fn times_are_utc_to_the_second() {
        assert_eq!(
            time(&json!("2026-11-25T08:30:00.123456Z")),
            "2026-11-25 08:30:00Z"
        );
        assert_eq!(time(&json!("2026-11-25T08:30:00Z")), "2026-11-25 08:30:00Z");
        assert_eq!(time(&json!(1_000_000)), "1970-01-01 00:00:01Z");
        assert_eq!(time(&Value::Null), "-");
        assert_eq!(time(&json!("T€€€Z")), "T€€€Z", "no text makes it panic");
    }

    #[test]
    fn problems_for_programs_have_the_number() {
        let hostile = json!({ "a\u{9b}": "\u{202e}\u{7f}\u{e0001}\n\"" });
        let text = json_text(&hostile);
        assert!(
            text.is_ascii() && text.contains("\\u009b") && text.contains("\\udb40\\udc01"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), hostile);
        let value = problem_json(&Problem::new(Exit::Conflict, "w", "y"));
        assert_eq!(
            value,
            json!({"error": {"exit": 5, "kind": "conflict", "what": "w", "why": "y", "next": ""}})
        );
    }
}
