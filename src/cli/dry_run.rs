//! `policy set --dry-run`: who would gain and who would lose reading.

use serde_json::{Value, json};

use super::Backend;
use super::render::Output;
use super::run::Stop;
use crate::control::protocol::{Comparison, Request};
use crate::id::{SecretName, printable};

/// Compares the readers of today with those of the document, and changes nothing.
///
/// # Errors
/// As `policy check`; there is no such secret.
pub fn policy(
    name: SecretName,
    text: String,
    strict: bool,
    backend: &mut dyn Backend,
    output: &mut Output,
) -> Result<(), Stop> {
    let after = backend.call(
        &Request::PolicyCheck {
            name: Some(name.clone()),
            text,
            strict,
            comparison: Comparison::WithToday,
        },
        None,
    )?;
    let [gain, lose] = ["gain", "lose"].map(|key| lines(&after[key]).collect::<Vec<_>>());
    let warnings: Vec<String> = lines(&after["warnings"]).collect();
    if output.json {
        return Ok(output.json(
            &json!({ "name": name, "dry_run": true, "gain": gain, "lose": lose,
            "readers": after["readers"], "warnings": warnings }),
        )?);
    }
    for (verb, who) in [("gains", &gain), ("loses", &lose)] {
        for who in who {
            output.line(&format!("{} {verb} reading {name}", printable(who)))?;
        }
    }
    if gain.is_empty() && lose.is_empty() {
        output.line(&format!("Nobody gains or loses reading {name}"))?;
    }
    for warning in warnings {
        output.line(&format!("warning: {}", printable(&warning)))?;
    }
    output.note("Nothing was changed");
    Ok(())
}

fn lines(list: &Value) -> impl Iterator<Item = String> + '_ {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|l| Some(l.as_str()?.to_string()))
}
