//! `policy explain`, of a stored secret and of a scenario in words.

use serde_json::{Value, json};

use super::render::Output;
use super::run::Stop;
use crate::id::printable;
use crate::policy::{Directory, Scenario, ScenarioError, simulate};
use crate::problem::{Exit, Problem};

/// Decides a scenario and prints the answer.
///
/// # Errors
/// What of the scenario cannot be; or the answer, where it is no.
pub fn scenario(scenario: &Scenario, directory: &dyn Directory, output: &mut Output) -> Result<(), Stop> {
    let explained = simulate(scenario, directory).map_err(|e| {
        let next = match &e {
            ScenarioError::Policy { .. } => {
                "mend the document; of a secret's policy more is said by: wardfs policy check FILE"
            }
            ScenarioError::Resource(_) => {
                "write --resource app/db, or arn:aws:secretsmanager:REGION:ACCOUNT:secret:app/db"
            }
            ScenarioError::Key { .. } => "write --context KEY=VALUE with a key that conditions have",
            ScenarioError::Value { .. } => "give the key a value that it can have",
        };
        Problem::new(Exit::Usage, "nothing was explained", e).next(next)
    })?;
    answer(&json!(explained), output)
}

/// Prints an explanation; a denial is exit 3.
///
/// # Errors
/// The answer, where it is no.
pub fn answer(reply: &Value, output: &mut Output) -> Result<(), Stop> {
    match output.json {
        true => output.json(reply)?,
        false => output.text(&text(reply))?,
    }
    match reply["decision"] == "allow" {
        true => Ok(()),
        false => Err(Stop::Answered(Exit::Denied)),
    }
}

fn text(reply: &Value) -> String {
    let cell = |key: &str| printable(reply[key].as_str().unwrap_or_default());
    let mut lines = Vec::new();
    if reply["words"].is_string() {
        lines.push(cell("words"));
    }
    let decision = match reply["decision"].as_str() {
        Some("allow") => "allow",
        Some("explicit_deny") => "explicit deny",
        _ => "implicit deny",
    };
    let by = match (reply["statement"].as_str(), reply["layer"].as_str()) {
        (Some(statement), Some("secret")) => {
            format!(", by statement {} of the secret's policy", printable(statement))
        }
        (Some(statement), Some(layer)) => format!(", by {layer} statement {}", printable(statement)),
        (None, Some("administration")) => ", by the built-in layer".to_string(),
        (None, Some("guardrail")) => ", by a guardrail's Allow statements, none of which matches".to_string(),
        _ => ": nothing allows it, and the default is deny".to_string(),
    };
    lines.push(format!("decision: {decision}{by}"));
    if reply["reason"] == "no_pid" {
        lines.push("reason: it depends on facts of the process, and they cannot be had".to_string());
    }
    for change in reply["change"].as_array().into_iter().flatten() {
        lines.push(format!("  {}", printable(change.as_str().unwrap_or_default())));
    }
    for drift in super::view::readers::drift(&reply["drift"]) {
        lines.push(format!("  drift: {drift}"));
    }
    lines.join("\n") + "\n"
}
