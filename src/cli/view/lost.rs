//! Logs that were given up.

use super::super::render::{cell, time};
use serde_json::Value;

/// One line for each, none where none was.
pub fn lines(lost: &Value) -> Vec<String> {
    let line = |lost: &Value| {
        format!(
            "LOST: the log up to record {}, whose head was {}; given up {} by uid {}: {}",
            cell(&lost["last_sequence"]),
            cell(&lost["head"]),
            time(&lost["time"]),
            cell(&lost["uid"]),
            cell(&lost["reason"]),
        )
    };
    lost.as_array().into_iter().flatten().map(line).collect()
}
