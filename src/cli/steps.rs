//! A line for each step of a story: what was tried, whether it went as it must, and what was seen.

use super::render::Output;
use crate::problem::{Exit, Problem};
use serde_json::{Value, json};

/// How a step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it must; with what was seen.
    Held(String),
    /// Not as it must; with what was seen instead.
    Broke(String),
    /// It could not be tried here; with the reason.
    LeftOut(String),
}

/// Prints steps as they happen, and knows at the end whether all held.
pub struct Steps<'a> {
    output: &'a mut Output,
    done: Vec<Value>,
    broke: usize,
    left_out: usize,
}

impl<'a> Steps<'a> {
    /// Nothing tried yet.
    pub fn new(output: &'a mut Output) -> Self {
        Steps {
            output,
            done: Vec::new(),
            broke: 0,
            left_out: 0,
        }
    }

    /// One step. `what` names it in the present tense, as "an allowed user reads".
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn step(&mut self, what: &str, outcome: Outcome) -> std::io::Result<()> {
        let (sign, plain, seen, ok) = match &outcome {
            Outcome::Held(seen) => ("✓", "ok  ", seen, Some(true)),
            Outcome::Broke(seen) => ("✗", "FAIL", seen, Some(false)),
            Outcome::LeftOut(why) => ("–", "-   ", why, None),
        };
        let sign = if self.output.signs { sign } else { plain };
        self.broke += usize::from(ok == Some(false));
        self.left_out += usize::from(ok.is_none());
        self.done.push(json!({ "step": what, "ok": ok, "seen": seen }));
        if self.output.json || self.output.quiet && ok != Some(false) {
            return Ok(());
        }
        let colour = match ok {
            Some(true) => "32",
            Some(false) => "1;31",
            None => "33",
        };
        let line = format!(
            "{} {what}: {}",
            self.output.paint(sign, colour),
            crate::id::printable(seen)
        );
        self.output.line(&line)
    }

    /// The last line. With `--json` the whole story.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn finish(self) -> std::io::Result<Result<(), Problem>> {
        let tried = self.done.len() - self.left_out;
        if self.output.json {
            self.output
                .json(&json!({ "ok": self.broke == 0, "left_out": self.left_out, "steps": self.done }))?;
        } else if !self.output.quiet || self.broke > 0 {
            let rest = if self.left_out > 0 {
                format!(", {} left out", self.left_out)
            } else {
                String::new()
            };
            self.output
                .line(&format!("{} of {tried} steps held{rest}", tried - self.broke))?;
        }
        Ok(if self.broke == 0 {
            Ok(())
        } else {
            Err(Problem::new(
                Exit::Failed,
                "the demonstration failed",
                format!("{} of {tried} steps did not hold", self.broke),
            )
            .next("the step that did not hold says why"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_step_fails_the_whole() {
        let (mut output, out, _) = Output::captured(false);
        let mut steps = Steps::new(&mut output);
        steps
            .step("an allowed user reads", Outcome::Held("6 bytes".into()))
            .unwrap();
        steps
            .step("another is refused", Outcome::Broke("\u{1b}[2J".into()))
            .unwrap();
        steps
            .step("a unit rule", Outcome::LeftOut("no systemd".into()))
            .unwrap();
        let problem = steps.finish().unwrap().unwrap_err();
        assert_eq!(problem.exit, Exit::Failed);
        assert_eq!(
            out.text(),
            "✓ an allowed user reads: 6 bytes\n✗ another is refused: \\u{1b}[2J\n– a unit rule: no systemd\n\
             1 of 2 steps held, 1 left out\n"
        );
    }

    #[test]
    fn quiet_it_tells_of_failures_alone_and_without_signs_in_words() {
        let (mut output, out, _) = Output::captured(false);
        (output.quiet, output.signs) = (true, false);
        let mut steps = Steps::new(&mut output);
        steps.step("a", Outcome::Held("b".into())).unwrap();
        steps.step("c", Outcome::LeftOut("d".into())).unwrap();
        steps.step("e", Outcome::Broke("f".into())).unwrap();
        assert!(steps.finish().unwrap().is_err());
        assert_eq!(out.text(), "FAIL e: f\n1 of 2 steps held, 1 left out\n");
    }

    #[test]
    fn as_json_it_is_one_document() {
        let (mut output, out, _) = Output::captured(true);
        let mut steps = Steps::new(&mut output);
        steps.step("a", Outcome::Held("b".into())).unwrap();
        steps.step("c", Outcome::LeftOut("d".into())).unwrap();
        assert!(steps.finish().unwrap().is_ok());
        let value: Value = serde_json::from_str(&out.text()).unwrap();
        assert_eq!(value["ok"], true);
        assert_eq!(value["steps"][0], json!({"step": "a", "ok": true, "seen": "b"}));
        assert_eq!(value["steps"][1]["ok"], Value::Null);
    }
}
