//! What a store on a disk that cannot be written says of its readers: a line in the system's own logs.

use std::fmt::Write as _;
use std::path::Path;

use crate::id::printable;
use crate::sys::witness;

use super::error::LogError;
use super::record::{Outcome, Record};

/// What becomes of a read that cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrecorded {
    /// It is refused.
    Refused,
    /// The kernel's log or the journal is told first; if neither takes it, it is refused.
    Told,
}

impl Unrecorded {
    /// Tells of a record of the log in `dir`. A refusal that cannot be told is a refusal all the same.
    ///
    /// # Errors
    /// If nobody may have what it is about without a record, or neither log took the line.
    pub(super) fn tell(self, record: &Record<'_>, dir: &Path) -> Result<(), LogError> {
        let line = line(record, dir);
        match (record.outcome, self) {
            (Outcome::Allowed, Unrecorded::Refused) => Err(LogError::ReadOnly { path: dir.into() }),
            (Outcome::Allowed, Unrecorded::Told) => witness::tell(&line).map_err(LogError::Untold),
            (Outcome::Denied { .. } | Outcome::Failed { .. }, _) => {
                if let Err(e) = witness::tell(&line) {
                    tracing::warn!("a refusal is recorded nowhere: {e}");
                }
                Ok(())
            }
        }
    }
}

/// Who first: a long name, or the store's long path, is cut.
fn line(record: &Record<'_>, dir: &Path) -> String {
    let who = &record.who;
    let mut line = format!(
        "unrecorded {} {} uid={}",
        record.event.name(),
        record.outcome.name(),
        who.uid
    );
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(line, " {name}={value}");
        }
    };
    add("auid", who.login_uid.map(|n| n.to_string()));
    add("pid", who.pid.map(|n| n.to_string()));
    let command = who.command.map(|c| printable(&String::from_utf8_lossy(c)));
    add("comm", command.map(|c| format!("\"{c}\"")));
    add("reason", record.outcome.reason().map(str::to_string));
    add("secret", record.secret.map(printable));
    add("version", record.version.map(printable));
    add("unit", who.unit.filter(|u| !u.is_empty()).map(printable));
    let store = dir.parent().unwrap_or(dir);
    add("store", Some(printable(&store.to_string_lossy())));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Event, Who};

    #[test]
    fn a_line_says_who_read_what() {
        let record = Record {
            event: Event::GetSecretValue,
            outcome: Outcome::Allowed,
            secret: Some("app/db"),
            version: Some("v1"),
            who: Who {
                uid: 0,
                pid: Some(7),
                login_uid: Some(1000),
                command: Some(b"cat\n<0>x"),
                ..Who::default()
            },
            ..Record::default()
        };
        let line = line(&record, Path::new("/srv/s/audit"));
        assert!(
            line.starts_with("unrecorded GetSecretValue allowed uid=0 auid=1000 pid=7 comm=\"cat"),
            "{line}"
        );
        assert!(line.ends_with("secret=app/db version=v1 store=/srv/s"), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}
