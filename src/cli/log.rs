//! Records of the log for people and programs: the latest, those to come, and those that match. Whether they are
//! genuine is for `audit verify`.

use super::World;
use super::args;
use super::asked::{Asker, Found};
use super::plan;
use super::render::{Output, cell, time};
use super::run::Stop;
use crate::audit::{self, Entry, Follower, LogError, Query};
use crate::clock::Timestamp;
use crate::control::protocol::Request;
use crate::id::{printable, quoted};
use crate::policy::Local;
use crate::problem::{Exit, Problem};
use serde_json::Value;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often `tail -f` looks.
const POLL: Duration = Duration::from_millis(200);

/// The records that were asked for.
///
/// # Errors
/// [`Exit::Usage`] for a time or name that is not understood, [`Exit::NotFound`] for a user who is not there.
pub fn query_of(typed: args::Query) -> Result<Query, Problem> {
    let now = jiff::Timestamp::from_microsecond(Timestamp::now().0).unwrap_or_default();
    let who = typed.who.as_deref().map(plan::local).transpose()?;
    let (uid, user, unit) = match who {
        None => (typed.uid, typed.user, None),
        Some(Local::User(name)) => (None, Some(name), None),
        Some(Local::Uid(uid)) => (Some(uid.0), None, None),
        Some(Local::Unit(unit)) => (None, None, Some(unit)),
        Some(other) => return Err(plan::policies::not_a_process(&other)),
    };
    let uid = match (uid, user) {
        (Some(uid), _) => Some(plan::real_uid(uid)?),
        (None, Some(user)) => Some(users::get_user_by_name(&user).map(|u| u.uid()).ok_or_else(|| {
            let what = format!("there is no user {}", quoted(&user));
            Problem::new(Exit::NotFound, what, "this system knows no such name")
                .next("give uid:N for a user who is gone")
        })?),
        (None, None) => None,
    };
    Ok(Query {
        uid,
        unit,
        secret: typed
            .secret
            .map(|s| plan::name(&s))
            .transpose()?
            .map(|s| s.to_string()),
        event: typed.event.map(|e| event(&e)).transpose()?,
        denied: typed.denied,
        since: typed.since.map(|t| instant("--since", &t, now)).transpose()?,
        until: typed.until.map(|t| instant("--until", &t, now)).transpose()?,
        newest: typed.limit.is_some(),
        limit: typed.limit,
        ..Query::default()
    })
}

/// The name of something that is recorded.
fn event(typed: &str) -> Result<String, Problem> {
    let names = || audit::Event::ALL.iter().map(|e| e.name());
    if names().any(|name| name == typed) {
        return Ok(typed.to_string());
    }
    let far = |name: &&str| strsim::osa_distance(&name.to_lowercase(), &typed.to_lowercase());
    // Half a name is as good as one that is misspelt.
    let begun = |name: &&str| !typed.is_empty() && name.to_lowercase().starts_with(&typed.to_lowercase());
    let near = names().filter(|n| far(n) <= 3).min_by_key(far);
    let near = names().find(begun).or(near);
    let next = match near {
        Some(name) => format!("did you mean {name}?"),
        None => format!("the names are: {}", names().collect::<Vec<_>>().join(", ")),
    };
    let what = format!("--event {} is not understood", quoted(typed));
    Err(Problem::new(Exit::Usage, what, "nothing is recorded under this name").next(next))
}

/// A time, or an age before `now`.
///
/// # Errors
/// [`Exit::Usage`] for what is neither.
pub fn instant(flag: &str, text: &str, now: jiff::Timestamp) -> Result<Timestamp, Problem> {
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
    let at = text.parse().ok().or_else(age).or_else(utc);
    at.map(|at: jiff::Timestamp| Timestamp(at.as_microsecond()))
        .ok_or_else(|| {
            Problem::new(
                Exit::Usage,
                format!("{flag} {} is not understood", quoted(text)),
                "it is neither a time (2026-11-25T08:00:00Z, 2026-11-25) nor an age (90s, 15m, 2h, 7d)",
            )
            .next(format!("write {flag} 2h for two hours ago"))
        })
}

/// Where a store has its log.
pub fn directory(store: &Path) -> PathBuf {
    store.join("audit")
}

/// That the log cannot be read, as the user is told.
pub fn problem(store: &Path, e: &LogError) -> Problem {
    let what = format!(
        "the log in {} cannot be read",
        printable(&directory(store).to_string_lossy())
    );
    match e {
        LogError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Problem::new(Exit::Denied, what, "only root reads the log").next("run the command as root")
        }
        LogError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => missing(what),
        LogError::Missing { .. } => missing(what),
        other => {
            let exit = match other {
                LogError::Unsafe { .. } | LogError::TooNew { .. } | LogError::Broken(_) => Exit::Integrity,
                _ => Exit::Failed,
            };
            // Verifying refuses what others could have changed, too.
            Problem::new(exit, what, other).next(match other {
                LogError::Unsafe { .. } => {
                    "give it back to the store's owner alone, then: wardfs audit verify"
                }
                _ => "see what is wrong with it: wardfs audit verify",
            })
        }
    }
}

fn missing(what: String) -> Problem {
    Problem::new(Exit::NotFound, what, "it is not there")
        .next("make a store: wardfs init; or name another one: --store DIR")
}

/// Prints the records of a store that are asked for, oldest first.
///
/// # Errors
/// When the log cannot be read or the output not written.
pub fn query(store: &Path, query: &Query, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    if let Some(mut asker) = Asker::needed(store, query, world)? {
        return queried(&mut asker, query, (store, world), output);
    }
    let (mut any, mut names) = (false, Names::default());
    let mut progress = Some(output.progress("reading the log"));
    for found in audit::query(&directory(store), query) {
        // What is found shows that it goes on.
        progress.take();
        match found {
            Ok(entry) => {
                any = true;
                output.line(&shown(&entry, output.json, &mut names))?;
            }
            Err(e @ LogError::Unreadable { .. }) => unreadable(&e, output),
            Err(e) => return Err(problem(store, &e).into()),
        }
    }
    if any {
        return Ok(());
    }
    drop(progress);
    if let Some(name) = &query.secret {
        known(store, name, world)?;
    }
    output.note("No record matches");
    Ok(())
}

/// The same, of the daemon.
fn queried(
    asker: &mut Asker,
    query: &Query,
    (store, world): (&Path, &dyn World),
    output: &mut Output,
) -> Result<(), Stop> {
    let (mut found, mut names) = (0, Names::default());
    let limit = query.limit.unwrap_or(usize::MAX);
    let newest = query.newest && query.limit.is_some();
    if newest {
        asker.back(limit)?;
    }
    let mut progress = Some(output.progress("reading the log"));
    while found < limit {
        match asker.read()? {
            None => break,
            Some(Found::Entry(entry)) => {
                progress.take();
                found += 1;
                output.line(&shown(&entry, output.json, &mut names))?;
            }
            Some(Found::Unreadable(why)) if !newest => warned(&why, output),
            Some(Found::Unreadable(_)) => {}
        }
    }
    drop(progress);
    if found > 0 {
        return Ok(());
    }
    if let Some(name) = query.secret.as_ref().filter(|_| !asker.about) {
        in_store(store, name, world)?;
    }
    output.note("No record matches");
    Ok(())
}

/// That no record matches is an answer about a name that is in the log, or that the caller may see in the store.
fn known(store: &Path, name: &str, world: &dyn World) -> Result<(), Problem> {
    let about = Query {
        secret: Some(name.into()),
        limit: Some(1),
        newest: true,
        ..Query::default()
    };
    if audit::query(&directory(store), &about).any(|found| found.is_ok()) {
        return Ok(());
    }
    in_store(store, name, world)
}

fn in_store(store: &Path, name: &str, world: &dyn World) -> Result<(), Problem> {
    let what = format!("there are no records of {}", quoted(name));
    let unknown = Problem::new(
        Exit::NotFound,
        what,
        "neither the log nor the store knows a secret of this name",
    )
    .next("see the names: wardfs list");
    let Ok(mut backend) = world.backend(store) else {
        return Err(unknown);
    };
    match backend.call(
        &Request::Describe {
            name: plan::name(name)?,
        },
        None,
    ) {
        Err(e) if e.exit == Exit::NotFound => Err(unknown),
        _ => Ok(()),
    }
}

/// Prints the latest `lines` records and, to `follow`, those that come until it is interrupted.
///
/// # Errors
/// When the log cannot be read or the output not written.
pub fn tail(
    store: &Path,
    lines: usize,
    follow: bool,
    world: &dyn World,
    output: &mut Output,
) -> Result<(), Stop> {
    let mut names = Names::default();
    if let Some(mut asker) = Asker::needed(store, &Query::default(), world)? {
        return tailed(&mut asker, lines, follow, output);
    }
    // It stands at the end before the latest are read, so that none falls between the two.
    let follower = follow
        .then(|| Follower::new(&directory(store)))
        .transpose()
        .map_err(|e| problem(store, &e))?;
    let latest = audit::tail(&directory(store), lines).map_err(|e| problem(store, &e))?;
    let mut last = 0;
    for entry in &latest {
        last = entry.seq();
        output.line(&shown(entry, output.json, &mut names))?;
    }
    let Some(mut follower) = follower else {
        return Ok(());
    };
    let mut waiting = false;
    loop {
        match follower.read() {
            Ok(Some(entry)) if entry.seq() <= last => {}
            Ok(Some(entry)) => output.line(&shown(&entry, output.json, &mut names))?,
            Ok(None) => {
                waiting = false;
                std::thread::sleep(POLL);
            }
            Err(e @ LogError::Unreadable { .. }) => unreadable(&e, output),
            // Moved away or deleted: the daemon goes on as soon as there is a place for it, and so does this.
            Err(e) if is_gone(&e) => {
                if !std::mem::replace(&mut waiting, true) {
                    unreadable(&e, output);
                }
                std::thread::sleep(POLL);
            }
            Err(e) => return Err(problem(store, &e).into()),
        }
    }
}

/// The same, of the daemon.
fn tailed(asker: &mut Asker, lines: usize, follow: bool, output: &mut Output) -> Result<(), Stop> {
    let (mut names, mut following, mut told) = (Names::default(), false, 0);
    asker.back(lines)?;
    while follow || told < lines {
        told += 1;
        match asker.read()? {
            Some(Found::Entry(entry)) => output.line(&shown(&entry, output.json, &mut names))?,
            Some(Found::Unreadable(why)) if following => warned(&why, output),
            Some(Found::Unreadable(_)) => {}
            None if follow => {
                following = true;
                std::thread::sleep(POLL);
            }
            None => break,
        }
    }
    Ok(())
}

fn is_gone(e: &LogError) -> bool {
    match e {
        LogError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        other => matches!(other, LogError::Missing { .. }),
    }
}

/// A line that is no record does not hide the others.
fn unreadable(e: &LogError, output: &mut Output) {
    warned(&e.to_string(), output);
}

fn warned(why: &str, output: &mut Output) {
    output.note(&format!("warning: {}", printable(why)));
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

/// A record as it is printed: its line as it is, or for people.
fn shown(entry: &Entry, json: bool, names: &mut Names) -> String {
    if json {
        entry.line.clone()
    } else {
        sentence(&entry.value, names)
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
    for part in changes(parameters) {
        add(part);
    }
    if let Some(n) = record["requests"].as_u64() {
        add(format!("{n} requests"));
    }
    if let Some(n) = record["suppressed"].as_u64().filter(|n| *n > 0) {
        add(match record["refusedEvents"].as_object() {
            // As counts were written before: of one kind each.
            None => format!("and {n} more like it"),
            Some(events) => {
                let of = |(event, n): (&String, &Value)| format!("{n} {}", printable(event));
                let events: Vec<String> = events.iter().map(of).collect();
                format!("and {n} more: {}", events.join(", "))
            }
        });
    }
    if let Some(uids) = record["refusedUids"].as_object().filter(|uids| uids.len() > 1) {
        add(format!("of {} uids", uids.len()));
    }
    text
}

/// What a change changed, as its record has it.
fn changes(parameters: &Value) -> Vec<String> {
    let all = |name: &str| parameters[name].as_array().into_iter().flatten();
    let mut parts: Vec<String> = ["guardrail", "identity"]
        .into_iter()
        .filter_map(|kind| Some(format!("{kind} {}", printable(parameters[kind].as_str()?))))
        .collect();
    for list in ["gained", "lost"] {
        let who: Vec<String> = all(list).filter_map(Value::as_str).map(printable).collect();
        if !who.is_empty() {
            parts.push(format!("{list}: {}", who.join(", ")));
        }
    }
    for (list, kind, old, new) in [
        ("labels", "label", "from", "to"),
        ("tags", "tag", "old", "new"),
        ("settings", "setting", "old", "new"),
    ] {
        let words = |c: &Value| format!("{kind} {}: {} → {}", cell(&c[kind]), cell(&c[old]), cell(&c[new]));
        parts.extend(all(list).map(words));
    }
    if let Some(digest) = parameters["digest"].as_str() {
        let begin: String = digest.chars().take(12).collect();
        parts.push(format!("document {}", printable(&begin)));
    }
    parts
}

#[cfg(test)]
mod tests;
