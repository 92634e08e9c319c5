//! Records of the log for people and programs: the latest, those to come, and those that match.
//!
//! The segments are read as the lines of JSON that they are. Whether they are genuine is for `audit verify`.

use super::args;
use super::plan;
use super::render::{Output, cell, time};
use super::run::Stop;
use crate::id::{SecretName, printable};
use crate::problem::{Exit, Problem};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often `tail -f` looks.
const POLL: Duration = Duration::from_millis(200);

/// Which records are asked for; a field that is `None` asks nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The caller.
    pub uid: Option<u32>,
    /// The secret.
    pub secret: Option<SecretName>,
    /// The eventName, in any case.
    pub event: Option<String>,
    /// Refusals only.
    pub denied: bool,
    /// Not before.
    pub since: Option<jiff::Timestamp>,
    /// Not after.
    pub until: Option<jiff::Timestamp>,
    /// The latest so many.
    pub limit: Option<usize>,
}

impl Filter {
    /// What was typed.
    ///
    /// # Errors
    /// [`Exit::Usage`] for a time or name that is not understood, [`Exit::NotFound`] for a user who is not there.
    pub fn from_args(query: args::Query) -> Result<Filter, Problem> {
        let now = jiff::Timestamp::now();
        let uid = match (query.uid, query.user) {
            (Some(uid), _) => Some(plan::real_uid(uid)?),
            (None, Some(user)) => Some(users::get_user_by_name(&user).map(|u| u.uid()).ok_or_else(|| {
                Problem::new(
                    Exit::NotFound,
                    format!("there is no user {:?}", printable(&user)),
                    "this system knows no such name",
                )
                .next("give --uid for a user who is gone")
            })?),
            (None, None) => None,
        };
        Ok(Filter {
            uid,
            secret: query.secret.map(|s| plan::name(&s)).transpose()?,
            event: query.event,
            denied: query.denied,
            since: query.since.map(|t| instant("--since", &t, now)).transpose()?,
            until: query.until.map(|t| instant("--until", &t, now)).transpose()?,
            limit: query.limit,
        })
    }

    /// Whether a record is one of them. A record without the field that is asked about is not.
    fn matches(&self, record: &Value) -> bool {
        let at = || {
            record["eventTime"]
                .as_str()
                .and_then(|t| t.parse::<jiff::Timestamp>().ok())
        };
        self.uid
            .is_none_or(|uid| record["uid"].as_u64() == Some(uid.into()))
            && self
                .secret
                .as_ref()
                .is_none_or(|s| record["requestParameters"]["secretId"].as_str() == Some(s.as_str()))
            && self.event.as_ref().is_none_or(|e| {
                record["eventName"]
                    .as_str()
                    .is_some_and(|n| n.eq_ignore_ascii_case(e))
            })
            && (!self.denied || is_denied(record))
            && self.since.is_none_or(|since| at().is_some_and(|t| t >= since))
            && self.until.is_none_or(|until| at().is_some_and(|t| t <= until))
    }
}

fn is_denied(record: &Value) -> bool {
    matches!(record["outcome"].as_str(), Some("denied" | "refused"))
}

/// A time, or an age before `now`.
fn instant(flag: &str, text: &str, now: jiff::Timestamp) -> Result<jiff::Timestamp, Problem> {
    let day = || text.parse::<jiff::civil::Date>().ok().map(|d| d.at(0, 0, 0, 0));
    let civil = || text.parse::<jiff::civil::DateTime>().ok().or_else(day);
    let utc = || civil().and_then(|c| jiff::tz::TimeZone::UTC.to_timestamp(c).ok());
    let age = || {
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[number.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return None,
        };
        let seconds = number.parse::<u32>().ok().map(i64::from)?.checked_mul(unit)?;
        now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok()
    };
    text.parse().ok().or_else(age).or_else(utc).ok_or_else(|| {
        Problem::new(
            Exit::Usage,
            format!("{flag} {:?} is not understood", printable(text)),
            "it is neither a time (2026-11-25T08:00:00Z, 2026-11-25) nor an age (90s, 15m, 2h, 7d)",
        )
        .next(format!("write {flag} 2h for two hours ago"))
    })
}

/// The log of one store.
pub struct Log {
    dir: PathBuf,
}

impl Log {
    /// The log of the store in the directory `store`.
    pub fn of(store: &Path) -> Log {
        Log {
            dir: store.join("audit"),
        }
    }

    fn problem(&self, e: &io::Error) -> Problem {
        let what = format!(
            "the log in {} cannot be read",
            printable(&self.dir.to_string_lossy())
        );
        match e.kind() {
            io::ErrorKind::PermissionDenied => {
                Problem::new(Exit::Denied, what, "only root reads the log").next("run the command as root")
            }
            io::ErrorKind::NotFound => Problem::new(Exit::NotFound, what, "it is not there")
                .next("wardfs init makes a store; --store DIR names another one"),
            _ => Problem::new(Exit::Failed, what, e),
        }
    }

    /// The segments, oldest first: in the order of their first records, whatever their names.
    fn segments(&self) -> Result<Vec<PathBuf>, Problem> {
        let list = || -> io::Result<Vec<(u64, PathBuf)>> {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&self.dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|e| e == "jsonl") {
                    let mut line = Vec::new();
                    BufReader::new(File::open(&path)?).read_until(b'\n', &mut line)?;
                    let seq = serde_json::from_slice::<Value>(&line)
                        .ok()
                        .and_then(|r| r["seq"].as_u64());
                    // One that has no record yet is the newest.
                    found.push((seq.unwrap_or(u64::MAX), path));
                }
            }
            found.sort();
            Ok(found)
        };
        Ok(list()
            .map_err(|e| self.problem(&e))?
            .into_iter()
            .map(|(_, path)| path)
            .collect())
    }

    /// Prints the records that match, oldest first.
    ///
    /// # Errors
    /// When the log cannot be read or the output not written.
    pub fn query(&self, filter: &Filter, output: &mut Output) -> Result<(), Stop> {
        let mut names = Names::default();
        let mut kept = VecDeque::new();
        for segment in self.segments()? {
            let mut file = BufReader::new(File::open(&segment).map_err(|e| self.problem(&e))?);
            let mut line = Vec::new();
            while file.read_until(b'\n', &mut line).map_err(|e| self.problem(&e))? > 0 {
                // What is no record is for `verify` to tell.
                if let Ok(record) = serde_json::from_slice::<Value>(&line)
                    && filter.matches(&record)
                {
                    let text = shown(&line, output.json, &mut names);
                    match filter.limit {
                        None => output.line(&text)?,
                        Some(limit) => {
                            kept.push_back(text);
                            if kept.len() > limit {
                                kept.pop_front();
                            }
                        }
                    }
                }
                line.clear();
            }
        }
        for text in kept {
            output.line(&text)?;
        }
        Ok(())
    }

    /// Prints the latest `lines` records and, to `follow`, those that come until it is interrupted.
    ///
    /// # Errors
    /// When the log cannot be read or the output not written.
    pub fn tail(&self, lines: usize, follow: bool, output: &mut Output) -> Result<(), Stop> {
        let mut names = Names::default();
        let mut tail = Tail::default();
        let mut latest: VecDeque<Vec<u8>> = VecDeque::new();
        for segment in self.segments()?.into_iter().rev() {
            let mut here = VecDeque::new();
            let wanted = lines - latest.len();
            tail.advance(&segment, |line| {
                here.push_back(line);
                if here.len() > wanted {
                    here.pop_front();
                }
            })
            .map_err(|e| self.problem(&e))?;
            here.append(&mut latest);
            latest = here;
            if latest.len() >= lines && !follow {
                break;
            }
        }
        for line in latest {
            output.line(&shown(&line, output.json, &mut names))?;
        }
        if !follow {
            return Ok(());
        }
        loop {
            std::thread::sleep(POLL);
            self.news(&mut tail, &mut names, output)?;
        }
    }

    /// Prints what has come since.
    fn news(&self, tail: &mut Tail, names: &mut Names, output: &mut Output) -> Result<(), Stop> {
        let mut new = Vec::new();
        for segment in self.segments()? {
            match tail.advance(&segment, |line| new.push(line)) {
                // A segment may be moved away between the listing and now.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|e| self.problem(&e))?,
            }
        }
        for line in new {
            output.line(&shown(&line, output.json, names))?;
        }
        Ok(())
    }
}

/// How far each segment has been read: to the end of its last whole line.
#[derive(Default)]
struct Tail {
    read: HashMap<PathBuf, u64>,
}

impl Tail {
    /// Hands over each whole line that has not been handed over before.
    fn advance(&mut self, segment: &Path, mut each: impl FnMut(Vec<u8>)) -> io::Result<()> {
        let at = self.read.entry(segment.to_owned()).or_default();
        let mut file = File::open(segment)?;
        let len = file.metadata()?.len();
        // A write that went wrong is cut back.
        *at = (*at).min(len);
        if *at == len {
            return Ok(());
        }
        file.seek(SeekFrom::Start(*at))?;
        let mut file = BufReader::new(file.take(len - *at));
        loop {
            let mut line = Vec::new();
            file.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            *at += line.len() as u64;
            each(line);
        }
    }
}

/// Users' names, looked up once each.
#[derive(Default)]
struct Names(HashMap<u32, Option<String>>);

impl Names {
    fn of(&mut self, uid: &Value) -> String {
        let Some(number) = uid.as_u64().and_then(|u| u32::try_from(u).ok()) else {
            return "-".into();
        };
        let look_up = || users::get_user_by_uid(number).map(|u| printable(&u.name().to_string_lossy()));
        match self.0.entry(number).or_insert_with(look_up) {
            Some(name) => format!("{name}({number})"),
            None => number.to_string(),
        }
    }
}

/// A line of the log as it is printed: as it is, or for people.
fn shown(line: &[u8], json: bool, names: &mut Names) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\n');
    if json {
        return text.to_owned();
    }
    match serde_json::from_str::<Value>(text) {
        Ok(record) => sentence(&record, names),
        Err(_) => format!("(no record) {}", printable(text)),
    }
}

/// One record on one line: when, which, what, of what, by whom, how it ended and why.
pub fn one_line(record: &Value) -> String {
    sentence(record, &mut Names::default())
}

fn sentence(record: &Value, names: &mut Names) -> String {
    let mut text = format!(
        "{} #{} {}",
        time(&record["eventTime"]),
        cell(&record["seq"]),
        cell(&record["eventName"])
    );
    let parameters = &record["requestParameters"];
    let mut add = |part: String| {
        text.push_str("  ");
        text.push_str(&part);
    };
    if let Some(secret) = parameters["secretId"].as_str() {
        add(printable(secret));
    }
    let mut caller = names.of(&record["uid"]);
    if let Some(command) = record["command"].as_str() {
        caller = format!("{caller} {}", printable(command));
    }
    if let Some(pid) = record["pid"].as_u64() {
        caller = format!("{caller}[{pid}]");
    }
    if let Some(unit) = record["unit"].as_str().filter(|u| !u.is_empty()) {
        caller = format!("{caller} {}", printable(unit));
    }
    add(caller);
    let mut outcome = cell(&record["outcome"]);
    let facts = [&record["reason"], &record["layer"], &record["statement"]];
    let facts: Vec<String> = facts
        .into_iter()
        .filter(|f| !f.is_null())
        .map(cell)
        .filter(|f| f != "-")
        .collect();
    if !facts.is_empty() {
        outcome = format!("{outcome} ({})", facts.join(", "));
    }
    add(outcome);
    if let Some(n) = record["suppressed"].as_u64().filter(|n| *n > 0) {
        add(format!("and {n} more like it"));
    }
    text
}

#[cfg(test)]
mod tests;
