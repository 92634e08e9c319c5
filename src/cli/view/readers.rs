//! Who may read, as people read it.

use serde_json::Value;

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
