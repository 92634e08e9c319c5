//! `status`: whether a reader would find what it may read, and what mends it if not.

use super::{cell, facts};
use crate::id::printable;
use serde_json::{Map, Value};

/// Whether it is well first, then what it is.
pub(super) fn text(reply: &Value) -> String {
    let running = if reply["running"] == true {
        format!("yes, as process {}", cell(&reply["pid"]))
    } else {
        "no: commands open the store themselves".into()
    };
    let mut rows = vec![("healthy", health(reply)), ("running", running)];
    let given = |key: &'static str| (!reply[key].is_null()).then(|| (key, cell(&reply[key])));
    for key in [
        "uptime_seconds",
        "version",
        "mount",
        "store",
        "secrets",
        "epoch",
        "threads",
        "locked_bytes",
    ] {
        rows.extend(given(key));
    }
    let audit = &reply["audit"];
    if audit.is_object() {
        let place = || {
            format!(
                "record {}, segment {}",
                cell(&audit["seq"]),
                cell(&audit["segment"])
            )
        };
        let log = match audit["healthy"].as_bool() {
            _ if audit["waiting"] == true => "ITS DISK DOES NOT ANSWER: reads wait until it does".into(),
            Some(true) => format!("it can be written; {}", place()),
            _ if audit["full"] == true => format!(
                "NO SPACE: reads are refused until there is some, administration goes on in the reserve; {}",
                place()
            ),
            _ => format!(
                "IT CANNOT BE WRITTEN: reads are refused until it can; {}",
                place()
            ),
        };
        rows.push(("log", log));
    }
    let lost = super::lost::lines(&reply["lost"]);
    if !lost.is_empty() {
        rows.push(("lost logs", lost.join("\n")));
    }
    for (title, key) in [
        ("failed reads since the start", "failed_reads"),
        ("counters since the start", "counters"),
    ] {
        let counters = reply[key].as_object().filter(|c| !c.is_empty());
        rows.extend(counters.map(|c| (title, counted(c))));
    }
    facts(&rows)
}

fn counted(counters: &Map<String, Value>) -> String {
    let width = counters.keys().map(|k| k.chars().count()).max().unwrap_or(0);
    let lines: Vec<String> = counters
        .iter()
        .map(|(k, v)| format!("{:width$}  {}", printable(k), cell(v)))
        .collect();
    lines.join("\n")
}

/// `yes`, or each reason on a line with what mends it below.
fn health(reply: &Value) -> String {
    let reasons = reply["reasons"].as_array().map_or(&[][..], Vec::as_slice);
    let reasons: Vec<String> = reasons
        .iter()
        .filter_map(Value::as_str)
        .map(|r| mend(r, reply))
        .collect();
    match reasons.is_empty() {
        true => "yes".into(),
        false => format!("NO\n{}", reasons.join("\n")),
    }
}

fn mend(reason: &str, reply: &Value) -> String {
    let audit = format!("{}/audit", cell(&reply["store"]));
    match reason {
        "not_mounted" => "nothing is mounted: wardfs mount DIR serves the store".into(),
        "dead_mount" => format!(
            "a mount without a daemon is on {0}: mount there again, or take it away: wardfs unmount {0}",
            cell(&reply["dead_mount"])
        ),
        "mount_covered" => format!(
            "something else is mounted over {}: see what, and unmount it: findmnt",
            cell(&reply["mount"])
        ),
        "log_full" => format!("the log has no space, so nothing is read: make room on the disk of {audit}"),
        "log_unwritable" => format!(
            "the log cannot be written, so nothing is read: see what the service says, and mend {audit}"
        ),
        "log_waiting" => {
            format!("the log's disk does not answer, and readers wait: see to the disk of {audit}")
        }
        "store_unwritable" => format!(
            "the store cannot be written, so nothing is changed, and nothing is read later than {} s after the log's last \
             anchor in it: see what the service says, and mend the disk of {}",
            crate::audit::ANCHOR_LIMIT.as_secs(),
            cell(&reply["store"])
        ),
        "damaged" => "some secrets are damaged and are not read: see which: wardfs store check".into(),
        other => printable(other).to_string(),
    }
}
