//! Guardrails and identity policies as people read them.

use super::View;
use crate::cli::render::{cell, time};
use crate::cli::table::table;
use crate::control::protocol::LayerKind;
use serde_json::Value;

/// The names, in a table.
pub fn list(kind: LayerKind, reply: &Value) -> View {
    let (field, head, none) = match kind {
        LayerKind::Guardrails => ("guardrails", "NAME", "There are no guardrails"),
        LayerKind::Identities => ("identities", "PRINCIPAL", "There are no identity policies"),
    };
    let rows = reply[field].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return View {
            notes: vec![none.into()],
            asked: true,
            ..View::default()
        };
    }
    let name = |row: &Value| {
        cell(if row["name"].is_null() {
            &row["principal"]
        } else {
            &row["name"]
        })
    };
    let tags = |row: &Value| {
        let tags = row["tags"].as_object().into_iter().flatten();
        let all: Vec<String> = tags
            .map(|(k, v)| format!("{}={}", crate::id::printable(k), cell(v)))
            .collect();
        all.join(" ")
    };
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let by = format!("uid {}", cell(&r["changed_by"]));
            let mut line = vec![name(r), cell(&r["statements"]), time(&r["changed"]), by];
            if kind == LayerKind::Identities {
                line.push(tags(r));
            }
            line
        })
        .collect();
    let mut heads = vec![head, "STATEMENTS", "CHANGED", "BY"];
    if kind == LayerKind::Identities {
        heads.push("TAGS");
    }
    View {
        text: table(&heads, &lines),
        asked: true,
        notes: Vec::new(),
    }
}
