//! `policy set --dry-run`: who would gain and who would lose reading.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Backend;
use super::render::Output;
use super::run::Stop;
use crate::control::protocol::{LayerKind, Request};
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
    let warnings: Vec<String> = lines(&after["warnings"]).chain(above(backend)).collect();
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

fn readers(answer: &Value) -> Vec<String> {
    lines(&answer["readers"]).collect()
}

fn lines(list: &Value) -> impl Iterator<Item = String> + '_ {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|l| Some(l.as_str()?.to_string()))
}

/// What is compared are the two policies; guardrails, which who asks may not be allowed to see, can deny all the same.
fn above(backend: &mut dyn Backend) -> Option<String> {
    let request = Request::Layers {
        kind: LayerKind::Guardrails,
    };
    let guardrails = backend.call(&request, None).ok()?;
    match guardrails["guardrails"].as_array()?.len() {
        0 => None,
        count => Some(format!(
            "guardrails ({count}) stand above this policy and may deny what it allows: `wardfs policy explain NAME --as user:NAME` says what holds"
        )),
    }
}

/// Who gains and who loses.
fn compare(before: &[String], after: &[String]) -> (Vec<String>, Vec<String>) {
    (gained(before, after), gained(after, before))
}

/// Who is allowed in `after` and was not, and whose exception is gone while somebody like him is allowed.
fn gained(before: &[String], after: &[String]) -> Vec<String> {
    let allowed = |line: &&String| !line.starts_with(EXCEPT);
    let new = after.iter().filter(|l| !before.contains(l)).filter(allowed);
    let freed = (before.iter().filter(|l| !after.contains(l)))
        .filter_map(|l| l.strip_prefix(EXCEPT))
        .filter(|who| after.iter().filter(allowed).any(|l| may_be(l, who)));
    let gained: BTreeSet<&str> = new.map(String::as_str).chain(freed).collect();
    gained.into_iter().map(str::to_string).collect()
}

/// Whether what a line allows may be `who`: a user is himself alone, and may be in any group or unit.
fn may_be(line: &str, who: &str) -> bool {
    let one = |line: &str| line.starts_with("uid ") || line.starts_with("user ");
    line == who || !one(line) || !one(who)
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
        assert_eq!(gain, ["uid 7", "user b (uid 2)"]);
        assert_eq!(lose, ["uid 8", "user a (uid 1)"]);
        assert_eq!(compare(&after, &after), (Vec::new(), Vec::new()));
    }

    #[test]
    fn an_exception_that_goes_gives_nobody_what_nothing_allows() {
        let lines = |l: &[&str]| l.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let before = lines(&["uid 1", "but not uid 7"]);
        assert_eq!(compare(&before, &[]), (Vec::new(), lines(&["uid 1"])));
        assert_eq!(compare(&before, &lines(&["uid 1"])), (Vec::new(), Vec::new()));
        assert_eq!(
            compare(&before, &lines(&["uid 1", "uid 7"])),
            (lines(&["uid 7"]), Vec::new())
        );
    }
}
