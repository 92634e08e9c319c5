//! `policy set --dry-run`: who would gain and who would lose reading.

use serde_json::{Value, json};

use super::Backend;
use super::render::Output;
use super::run::Stop;
use crate::control::protocol::Request;
use crate::id::{SecretName, printable};

/// What a list of readers begins an exception with.
const EXCEPT: &str = "but not ";

/// Compares the readers of today with those of the document, and changes nothing.
///
/// # Errors
/// As `describe` and `policy check`.
pub fn policy(
    name: SecretName,
    text: String,
    strict: bool,
    backend: &mut dyn Backend,
    output: &mut Output,
) -> Result<(), Stop> {
    let before = backend.call(&Request::Describe { name: name.clone() }, None)?;
    let named = Some(name.clone());
    let after = backend.call(
        &Request::PolicyCheck {
            name: named,
            text,
            strict,
        },
        None,
    )?;
    let (gain, lose) = compare(&readers(&before), &readers(&after));
    if output.json {
        return Ok(output.json(
            &json!({ "name": name, "dry_run": true, "gain": gain, "lose": lose,
            "readers": after["readers"], "warnings": after["warnings"] }),
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
    for warning in after["warnings"].as_array().into_iter().flatten() {
        output.line(&format!(
            "warning: {}",
            printable(warning.as_str().unwrap_or_default())
        ))?;
    }
    output.note("Nothing was changed");
    Ok(())
}

fn readers(answer: &Value) -> Vec<String> {
    let lines = answer["readers"].as_array().into_iter().flatten();
    lines.filter_map(|l| Some(l.as_str()?.to_string())).collect()
}

/// Who gains and who loses. An exception that goes is a gain, one that comes a loss.
fn compare(before: &[String], after: &[String]) -> (Vec<String>, Vec<String>) {
    let only = |these: &[String], others: &[String], excepted: bool| {
        let new = these.iter().filter(|l| !others.contains(l));
        let new = new.filter(|l| l.starts_with(EXCEPT) == excepted);
        new.map(|l| l.trim_start_matches(EXCEPT).to_string())
            .collect::<Vec<_>>()
    };
    (
        [only(after, before, false), only(before, after, true)].concat(),
        [only(before, after, false), only(after, before, true)].concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_count_the_other_way_round() {
        let lines = |l: &[&str]| l.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let before = lines(&["user a (uid 1)", "group g (gid 5)", "but not uid 7"]);
        let after = lines(&["user b (uid 2)", "group g (gid 5)", "but not uid 8"]);
        let (gain, lose) = compare(&before, &after);
        assert_eq!(gain, ["user b (uid 2)", "uid 7"]);
        assert_eq!(lose, ["user a (uid 1)", "uid 8"]);
        assert_eq!(compare(&after, &after), (Vec::new(), Vec::new()));
    }
}
