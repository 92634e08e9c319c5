//! Who may read, as people read it.

use serde_json::Value;

use super::View;
use crate::id::printable;
use crate::policy::Reading;

/// One line each.
pub fn lines(list: &Value) -> Vec<String> {
    let all = list.as_array().into_iter().flatten();
    let line = |one: &Value| match serde_json::from_value::<Reading>(one.clone()) {
        Ok(reading) => printable(&reading.to_string()),
        // Of a daemon that is older than this command.
        Err(_) => printable(one.as_str().unwrap_or("somebody (see --json)")),
    };
    all.map(line).collect()
}

/// What `policy revoke` and `policy undeny` did, or would do.
pub fn taken_out(reply: &Value) -> View {
    let text = |row: &Value, key: &str| printable(row[key].as_str().unwrap_or_default());
    let rows = |key: &str| reply[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let dry_run = reply["dry_run"] == true;
    let verb = if dry_run { "Would take" } else { "Took" };
    let name = text(reply, "name");
    let mut all: Vec<String> = Vec::new();
    for row in rows("taken") {
        let (who, statement) = (text(row, "who"), text(row, "statement"));
        all.push(format!("{verb} {who} out of statement {statement} of {name}"));
    }
    for row in rows("remaining") {
        all.push(format!("  still  {}: {}", text(row, "who"), text(row, "words")));
    }
    for (key, verb) in [("gain", "gains"), ("lose", "loses")] {
        for who in rows(key) {
            all.push(format!(
                "  {} {verb} reading it",
                printable(who.as_str().unwrap_or_default())
            ));
        }
    }
    if rows("gain").is_empty() && rows("lose").is_empty() {
        all.push("  nobody gains or loses reading it".into());
    }
    let read_by = lines(&reply["readers"]);
    let nobody = vec!["nobody".to_string()];
    let read_by = if read_by.is_empty() { nobody } else { read_by };
    View {
        text: all.join("\n") + "\n" + &super::facts(&[("  read by", read_by.join("\n"))]),
        asked: dry_run,
        notes: dry_run
            .then(|| "Nothing was changed".to_string())
            .into_iter()
            .collect(),
    }
}

/// All in a cell of a table: their names, of many the first, and a sign where something is left open.
pub fn cell(list: &Value) -> String {
    const SHOWN: usize = 3;
    if list.is_null() {
        return "-".into();
    }
    let all: Vec<Reading> = serde_json::from_value(list.clone()).unwrap_or_default();
    if all.is_empty() {
        return "nobody".into();
    }
    let short = |r: &Reading| {
        let open = if r.except.is_empty() && r.when.is_none() {
            ""
        } else {
            "*"
        };
        printable(&format!("{}{open}", r.who.short()))
    };
    let mut cell: Vec<String> = all.iter().take(SHOWN).map(short).collect();
    if all.len() > SHOWN {
        cell.push(format!("+{}", all.len() - SHOWN));
    }
    cell.join(" ")
}

/// Accounts that went or changed, one line each.
pub fn drift(list: &Value) -> Vec<String> {
    let all = list.as_array().into_iter().flatten();
    all.map(|row| {
        let text = |key: &str| printable(row[key].as_str().unwrap_or_default());
        format!("{}: {}", text("policy"), text("words"))
    })
    .collect()
}
