//! Replies as people read them. With `--json` a reply is printed as it is.

mod layers;
pub mod lost;
pub mod readers;
mod status;

use super::archive;
use super::log::one_line;
use super::render::{cell, count, facts, list, time};
use super::table::table;
use crate::control::protocol::{LabelMove, Request};
use crate::id::printable;
use crate::problem::pasteable;
use serde_json::Value;

/// The text of a reply, and remarks for standard error.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View {
    /// For standard output; ends with a newline unless it is empty.
    pub text: String,
    /// Whether the text was the question (`true`), or only tells what was done and can be left out by `-q`.
    pub asked: bool,
    /// For standard error.
    pub notes: Vec<String>,
}

/// What `reply` to `request` looks like.
pub fn view(request: &Request, reply: &Value) -> View {
    let asked = |text: String| View {
        text,
        asked: true,
        notes: Vec::new(),
    };
    let told = |text: String| View {
        text,
        asked: false,
        notes: warnings(reply),
    };
    match request {
        Request::Put(_) => told(put(reply)),
        Request::List {
            deleted: false, tags, ..
        } => names(!tags.is_empty(), reply),
        Request::List { .. } => deleted(reply),
        Request::Update(change) => told(format!("Updated {}\n", change.name) + &settings(reply)),
        Request::Tag(change) => told(tags(change.name.as_str(), reply)),
        Request::Label(change) => told(label(change, reply)),
        Request::Describe { .. } => asked(describe(reply)),
        Request::Versions { .. } => asked(versions(reply)),
        Request::PolicyGet { name } => policy(name.as_str(), reply),
        Request::PolicySet { name, .. } => told(format!("Policy of {name} set\n{}", readers(reply))),
        Request::PolicyAdd { name, .. } => told(format!("Policy of {name} changed\n{}", readers(reply))),
        Request::PolicyTakeOut { .. } => readers::taken_out(reply),
        Request::PolicyCheck { .. } => View {
            asked: true,
            ..told(format!("The policy is valid\n{}", readers(reply)))
        },
        // Printed by its own, with an exit code.
        Request::PolicyExplain { .. } => asked(String::new()),
        Request::Layers { kind } => layers::list(*kind, reply),
        Request::LayerGet { .. } => policy("it", reply),
        Request::LayerSet(change) => told(format!("Set {}\n", change.key.words())),
        Request::LayerRemove { key, dry_run: false } => told(format!("Removed {}\n", key.words())),
        Request::LayerRemove { key, dry_run: true } => asked(format!("Would remove {}\n", key.words())),
        Request::Why { .. } => asked(why(reply)),
        Request::Delete { name, .. } => told(delete(name.as_str(), reply)),
        // Printed by its own, with the file's name.
        Request::Backup => asked(String::new()),
        Request::StoreCheck => asked(check(reply)),
        // Part of other answers.
        Request::Drift | Request::Hello => asked(String::new()),
        Request::Status => View {
            notes: [
                differences(&reply["config"]),
                unread(&reply["unread"], &cell(&reply["pid"])),
            ]
            .concat(),
            ..asked(status::text(reply))
        },
        // Printed by its own, which may ask.
        Request::ConfigAccept { .. } => asked(String::new()),
        Request::AuditVerify => asked(verify(reply)),
        // Printed by its own, with the copies.
        Request::AuditRecords(_) | Request::AuditArchivable { .. } | Request::AuditArchive { .. } => {
            asked(String::new())
        }
        Request::Unmount => told(format!("Unmounted {}\n", cell(&reply["mount"]))),
    }
}

/// Settings of the file that are not in force.
pub fn differences(list: &Value) -> Vec<String> {
    let all = list.as_array().into_iter().flatten();
    all.map(|d| {
        let [key, sealed, file] = ["key", "sealed", "file"].map(|k| cell(&d[k]));
        format!("warning: {key}: {sealed} is in force, wardfs.toml says {file} (wardfs config accept)")
    })
    .collect()
}

/// Settings of the file that the service, this process, has not read.
pub fn unread(list: &Value, pid: &str) -> Vec<String> {
    let all = list.as_array().into_iter().flatten();
    all.map(|d| {
        let [key, running, file] = ["key", "running", "file"].map(|k| cell(&d[k]));
        let takes = match d["takes"] == "reload" {
            true => format!("kill -HUP {pid}"),
            false => "takes a new mount".into(),
        };
        format!("warning: {key}: {running} is in force, wardfs.toml says {file} ({takes})")
    })
    .collect()
}

/// A number or text as it is shown.
pub fn scalar(value: &Value) -> String {
    cell(value)
}

fn warnings(reply: &Value) -> Vec<String> {
    let warnings = reply["warnings"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    warnings.iter().map(|w| format!("warning: {}", cell(w))).collect()
}

/// Who may read, or that nobody does.
fn readers(reply: &Value) -> String {
    match reply["readers"].is_null() {
        true => String::new(),
        false => facts(&[("  read by", read_by(reply).unwrap_or_else(|| "nobody".into()))]),
    }
}

pub fn read_by(reply: &Value) -> Option<String> {
    let lines = readers::lines(&reply["readers"]);
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn put(reply: &Value) -> String {
    let name = cell(&reply["name"]);
    let kind = if reply["repeated"] == true {
        "a version that is there already, with this value"
    } else if reply["created"] == true {
        "a new secret"
    } else {
        "a new version"
    };
    let nobody = || pasteable(&format!("nobody yet: wardfs policy allow {name} user:NAME")).into_owned();
    let mut rows = vec![
        ("  version", cell(&reply["version"])),
        ("  read by", read_by(reply).unwrap_or_else(nobody)),
    ];
    if reply["root_may_read"] == false {
        rows.push(("  root", "may not read it: nothing allows root".into()));
    }
    format!("Stored {name}, {kind}\n{}", facts(&rows))
}

fn tags(name: &str, reply: &Value) -> String {
    format!(
        "Tags of {name} changed\n{}",
        facts(&[("  tags", pairs(&reply["tags"]))])
    )
}

fn pairs(tags: &Value) -> String {
    let all: Vec<String> = tags
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{}={}", printable(k), cell(v)))
        .collect();
    if all.is_empty() {
        "none".into()
    } else {
        all.join("\n")
    }
}

fn label(change: &LabelMove, reply: &Value) -> String {
    let LabelMove { name, label, .. } = change;
    match &change.to {
        None => format!("Removed the label {label} of {name}\n"),
        Some(_) => format!("{name}: {label} is on version {}\n", cell(&reply["version"])),
    }
}

fn names(tagged: bool, reply: &Value) -> View {
    let secrets = reply["secrets"].as_array().map(Vec::as_slice).unwrap_or_default();
    if secrets.is_empty() {
        return View {
            notes: vec![match tagged {
                true => "No secret that you may see has these tags".into(),
                false => "There are no secrets that you may see".into(),
            }],
            asked: true,
            ..View::default()
        };
    }
    let short = |id: &Value| {
        id.as_str().map_or("-".into(), |id| {
            printable(&id.chars().take(8).collect::<String>())
        })
    };
    let rows: Vec<Vec<String>> = secrets
        .iter()
        .map(|s| {
            let hidden = if s["visibility"] == "hidden" {
                "hidden"
            } else {
                "listed"
            };
            vec![
                cell(&s["name"]),
                short(&s["labels"]["current"]),
                cell(&s["size"]),
                time(&s["changed"]),
                readers::cell(&s["readers"]),
                hidden.into(),
                if s["broken"] == true {
                    pasteable("DAMAGED: wardfs store check").into_owned()
                } else {
                    s["description"].as_str().map(printable).unwrap_or_default()
                },
            ]
        })
        .collect();
    let text = table(
        &[
            "NAME",
            "CURRENT",
            "SIZE",
            "CHANGED",
            "READERS",
            "VISIBILITY",
            "DESCRIPTION",
        ],
        &rows,
    );
    View {
        text,
        asked: true,
        notes: Vec::new(),
    }
}

fn deleted(reply: &Value) -> View {
    let secrets = reply["secrets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kept = |s: &Value| match s["policy_kept"] == true {
        true => "kept",
        false => "none",
    };
    let row = |s: &Value| vec![cell(&s["name"]), time(&s["deleted"]), kept(s).into()];
    let rows: Vec<Vec<String>> = secrets.iter().map(row).collect();
    let none = "There are no names without values that you may see";
    View {
        text: match rows.is_empty() {
            true => String::new(),
            false => table(&["NAME", "DELETED", "POLICY"], &rows),
        },
        asked: true,
        notes: rows.is_empty().then(|| none.to_string()).into_iter().collect(),
    }
}

/// What was changed: from what, to what.
fn settings(reply: &Value) -> String {
    let changed = reply["changed"].as_object().into_iter().flatten();
    let rows: Vec<(String, String)> = changed
        .map(|(key, c)| {
            (
                format!("  {}", printable(key)),
                format!("{} -> {}", cell(&c["from"]), cell(&c["to"])),
            )
        })
        .collect();
    match rows.is_empty() {
        true => "  nothing was otherwise before\n".into(),
        false => facts(
            &rows
                .iter()
                .map(|(k, v)| (k.as_str(), v.clone()))
                .collect::<Vec<_>>(),
        ),
    }
}

fn describe(reply: &Value) -> String {
    let mut rows = vec![("name", cell(&reply["name"]))];
    let labels = reply["labels"].as_object().map(|labels| {
        labels
            .iter()
            .map(|(label, id)| format!("{}  {}", printable(label), cell(id)))
            .collect::<Vec<_>>()
            .join("\n")
    });
    let given = |key: &'static str| (!reply[key].is_null()).then(|| (key, cell(&reply[key])));
    rows.extend(given("description"));
    let tags = reply["tags"].as_object().is_some_and(|t| !t.is_empty());
    rows.extend(tags.then(|| ("tags", pairs(&reply["tags"]))));
    rows.extend(given("arn"));
    rows.extend(labels.filter(|l| !l.is_empty()).map(|l| ("labels", l)));
    rows.extend(given("versions"));
    rows.extend(reply["size"].as_u64().map(|n| ("size", format!("{n} bytes"))));
    for key in ["created", "changed"] {
        rows.extend((!reply[key].is_null()).then(|| (key, time(&reply[key]))));
    }
    for key in ["owner", "group", "mode", "visibility", "key"] {
        rows.extend(given(key));
    }
    if !reply["readers"].is_null() {
        rows.push(("read by", read_by(reply).unwrap_or_else(|| "nobody".into())));
    }
    let drift = readers::drift(&reply["drift"]);
    rows.extend((!drift.is_empty()).then(|| ("drift", drift.join("\n"))));
    if let Some(may) = reply["you_may_read"].as_bool() {
        rows.push(("you", if may { "may read it" } else { "may not read it" }.into()));
    }
    if reply["root_may_read"] == false {
        rows.push(("root", "may not read it".into()));
    }
    facts(&rows)
}

fn versions(reply: &Value) -> String {
    let versions = reply["versions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let rows: Vec<Vec<String>> = versions
        .iter()
        .map(|v| {
            vec![
                cell(&v["version"]),
                list(&v["labels"]),
                cell(&v["size"]),
                time(&v["created"]),
            ]
        })
        .collect();
    table(&["VERSION", "LABELS", "SIZE", "CREATED"], &rows)
}

/// The document as it was given, so that `policy get > file` can be edited and set again.
fn policy(name: &str, reply: &Value) -> View {
    match reply["text"].as_str().filter(|_| !reply["policy"].is_null()) {
        Some(text) => {
            let mut text = document(text);
            if !text.ends_with('\n') {
                text.push('\n');
            }
            View {
                text,
                asked: true,
                notes: Vec::new(),
            }
        }
        None => View {
            notes: vec![format!("{name} has no policy: nobody may read it")],
            asked: true,
            ..View::default()
        },
    }
}

/// A JSON text that cannot drive a terminal and means the same: what could is written as JSON escapes it, and
/// it can only stand inside of strings. (Carriage returns between them mean nothing.)
fn document(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => safe.push(c),
            '\r' => {}
            c if printable(c.encode_utf8(&mut [0; 4])).len() == c.len_utf8() => safe.push(c),
            c => safe += &format!("\\u{:04x}", u32::from(c)),
        }
    }
    safe
}

fn why(reply: &Value) -> String {
    let mut text = format!("{}\n", cell(&reply["words"]));
    let mut rows = Vec::new();
    for (shown, key) in [
        ("who", "who"),
        ("decision", "decision"),
        ("reason", "reason"),
        ("layer", "layer"),
        ("statement", "statement"),
    ] {
        if !reply[key].is_null() {
            rows.push((shown, cell(&reply[key])));
        }
    }
    if !reply["record"].is_null() {
        rows.push(("record", one_line(&reply["record"])));
    }
    if let Some(mend) = reply["mend"].as_str() {
        rows.push(("to allow it", pasteable(&printable(mend)).into_owned()));
    }
    if !rows.is_empty() {
        text.push('\n');
        text += &facts(&rows);
    }
    text
}

fn delete(name: &str, reply: &Value) -> String {
    let values = count(&reply["destroyed"], "value");
    let rest = match (reply["purged"] == true, reply["dry_run"] == true) {
        (true, true) => "and its name and policy would be forgotten",
        (true, false) => "its name and policy are forgotten",
        (false, true) => "and its name and policy would be kept",
        (false, false) => "its name keeps its policy",
    };
    if reply["dry_run"] == true {
        format!("{values} of {name} would be destroyed, {rest}; nothing was changed\n")
    } else {
        format!("{values} of {name} destroyed; {rest}\n")
    }
}

fn check(reply: &Value) -> String {
    let mut text = format!(
        "{}, {}, {} checked: {}\n",
        count(&reply["secrets"], "secret"),
        count(&reply["versions"], "version"),
        count(&reply["values"], "value"),
        if reply["ok"] == true {
            "all are whole"
        } else {
            "some are damaged"
        },
    );
    for problem in reply["problems"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    {
        let name = if problem["name"].is_null() {
            "store".into()
        } else {
            cell(&problem["name"])
        };
        text += &format!("✗ {name}: {}\n", cell(&problem["what"]));
    }
    for line in readers::drift(&reply["drift"]) {
        text += &format!("  drift: {line}\n");
    }
    text
}

fn verify(reply: &Value) -> String {
    let mut text = format!(
        "The log is whole: {} in {}",
        count(&reply["records"], "record"),
        count(&reply["segments"], "segment"),
    );
    if !reply["first"].is_null() {
        text += &format!(", from {} to {}", cell(&reply["first"]), cell(&reply["last"]));
    }
    if !reply["last_epoch"].is_null() {
        text += &format!(", epoch {}", cell(&reply["last_epoch"]));
    }
    text.push('\n');
    text += &archive::before(reply);
    for line in lost::lines(&reply["lost"]) {
        text += &format!("{line}\n");
    }
    text
}

#[cfg(test)]
mod tests;
