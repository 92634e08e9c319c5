//! Asking the log: filters, its end, and what is added to it. Reading needs no key and proves nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::sys::dir::Dir;

use super::chain::MAX_LINE;
use super::error::LogError;
use super::page::Place;
use super::segment::{self, Folder, Mode};

/// One record as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The line, without its newline.
    pub line: String,
    /// The same, parsed.
    pub value: Value,
}

impl Entry {
    /// A line of the log, without its newline; `None` if it is no record.
    pub fn parse(line: &[u8]) -> Option<Entry> {
        let line = std::str::from_utf8(line).ok()?;
        let value: Value = serde_json::from_str(line).ok()?;
        value.get("seq")?.as_u64()?;
        Some(Entry {
            line: line.into(),
            value,
        })
    }

    /// The sequence number.
    pub fn seq(&self) -> u64 {
        self.value["seq"].as_u64().unwrap_or(0)
    }

    /// A top-level field that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value.get(name)?.as_str()
    }

    /// Whether this was done besides, by the same change.
    pub fn besides(&self, event: &str) -> bool {
        let besides = self.value["requestParameters"]["besides"].as_array();
        besides.is_some_and(|all| all.iter().any(|e| e == event))
    }

    /// The uid, if the record has one.
    pub fn uid(&self) -> Option<u32> {
        self.value["uid"].as_u64().and_then(|n| n.try_into().ok())
    }

    /// Whether refusals of this uid are among those that the record counts.
    fn counts(&self, uid: u32) -> bool {
        self.value
            .get("refusedUids")
            .is_some_and(|uids| uids.get(uid.to_string()).is_some())
    }

    /// The secret's name.
    pub fn secret(&self) -> Option<&str> {
        self.value["requestParameters"]["secretId"].as_str()
    }
}

/// Which records are wanted. What is `None` or false filters nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// Of this uid, counts that name it included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Of a process in this systemd unit, where the record says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// About this secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// With this `eventName`; of refused reads also those that came no further than the open or the look-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// With this `outcome`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Refusals only, counts of suppressed ones included.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
    /// Not before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// At most this many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The newest ones, if there is a limit. The order is the log's all the same.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub newest: bool,
}

impl Query {
    /// Whether a line holds the words that a wanted one must hold.
    pub(super) fn may_match(&self, line: &[u8]) -> bool {
        let Ok(line) = std::str::from_utf8(line) else {
            return false;
        };
        (!self.denied || line.contains("\"denied\""))
            && self.secret.as_deref().is_none_or(|name| line.contains(name))
    }

    /// Whether it is about the secret that was asked for, whatever else was.
    pub(super) fn is_about(&self, entry: &Entry) -> bool {
        self.secret.is_some() && self.secret.as_deref() == entry.secret()
    }

    /// Who asks for refused reads means those who wanted to read: most were stopped before there was a READ.
    fn stopped(&self, event: &str, entry: &Entry) -> bool {
        self.denied
            && event == "GetSecretValue"
            && matches!(entry.text("eventName"), Some("OpenSecret" | "LookupSecret"))
    }

    pub(super) fn matches(&self, entry: &Entry) -> bool {
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|w| Some(w) == found);
        let time = || {
            let text = entry.text("eventTime")?;
            text.parse::<jiff::Timestamp>()
                .ok()
                .map(|t| Timestamp(t.as_microsecond()))
        };
        is(&self.unit, entry.text("unit"))
            && self
                .uid
                .is_none_or(|uid| entry.uid() == Some(uid) || entry.counts(uid))
            && is(&self.secret, entry.secret())
            && self.event.as_deref().is_none_or(|event| {
                entry.text("eventName") == Some(event) || entry.besides(event) || self.stopped(event, entry)
            })
            && is(&self.outcome, entry.text("outcome"))
            && (!self.denied || entry.text("outcome") == Some("denied"))
            && self.since.is_none_or(|since| time().is_some_and(|t| t >= since))
            && self.until.is_none_or(|until| time().is_some_and(|t| t < until))
    }
}

/// The records of the log in `dir` that `query` wants, in the order of the log. A line that is no record gives an
/// error, and the next call goes on behind it.
pub fn query(dir: &Path, query: &Query) -> impl Iterator<Item = Result<Entry, LogError>> + use<> {
    let limit = query.limit.unwrap_or(usize::MAX);
    if query.newest && query.limit.is_some() {
        let newest = newest(dir, query, limit);
        let entries: Box<dyn Iterator<Item = _>> = match newest {
            Ok(entries) => Box::new(entries.into_iter().map(Ok)),
            Err(e) => Box::new(std::iter::once(Err(e))),
        };
        return entries;
    }
    let lines: Box<dyn Iterator<Item = Result<Entry, LogError>>> = match Follower::from_start(dir) {
        Ok(follower) => Box::new(follower),
        Err(e) => Box::new(std::iter::once(Err(e))),
    };
    let query = query.clone();
    Box::new(
        lines
            .filter(move |e| e.as_ref().map_or(true, |e| query.matches(e)))
            .take(limit),
    )
}

/// The last `n` records.
///
/// # Errors
/// If the log cannot be read.
pub fn tail(dir: &Path, n: usize) -> Result<Vec<Entry>, LogError> {
    newest(dir, &Query::default(), n)
}

fn newest(dir: &Path, query: &Query, n: usize) -> Result<Vec<Entry>, LogError> {
    let (entries, _) = newest_within(dir, query, n, &mut |_| true)?;
    Ok(entries)
}

/// The newest record that `query` wants among the last `bytes` of the log, and whether older ones were not looked at.
/// `go_on` is asked between pieces; where it says no, nothing is found.
///
/// # Errors
/// If the log cannot be read.
pub fn newest_of(
    dir: &Path,
    query: &Query,
    bytes: u64,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(Option<Entry>, bool), LogError> {
    let (mut entries, cut) = newest_within(dir, query, 1, &mut |read| read < bytes && go_on())?;
    Ok((entries.pop(), cut))
}

/// The newest `n`, while `more` says of the bytes read so far that more may be; and whether it said no.
fn newest_within(
    dir: &Path,
    query: &Query,
    n: usize,
    more: &mut dyn FnMut(u64) -> bool,
) -> Result<(Vec<Entry>, bool), LogError> {
    let folder = Folder::at(dir)?;
    let mut entries = VecDeque::new();
    let (mut read, mut cut) = (0, false);
    for &number in folder.list()?.iter().rev() {
        let path = folder.path(number);
        let file = match folder.segment(number, Mode::Read) {
            // Archived in this moment.
            Err(LogError::Missing { .. }) if read > 0 => break,
            file => file?,
        };
        let mut lines = Backwards::new(file, &path, None)?;
        let (mut asked, before) = (lines.rest, read);
        let length = lines.rest + lines.buffer.len() as u64;
        while entries.len() < n && !cut {
            let Some(line) = lines.next()? else { break };
            read = before + length - lines.rest;
            if lines.rest != asked {
                asked = lines.rest;
                cut = !more(read);
            }
            // Most lines are told from the wanted ones without taking them apart.
            if !query.may_match(&line) {
                continue;
            }
            if let Some(entry) = Entry::parse(&line).filter(|e| query.matches(e)) {
                entries.push_front(entry);
            }
        }
        if entries.len() >= n || cut {
            break;
        }
    }
    Ok((entries.into(), cut))
}

/// The whole lines of a file, last first.
pub(super) struct Backwards<'p> {
    file: File,
    path: &'p Path,
    /// Bytes not read yet.
    rest: u64,
    /// What was read and not handed out, from `rest` on; ends with the newline of the next line to hand out.
    buffer: Vec<u8>,
}

impl<'p> Backwards<'p> {
    /// Those before `end`, or all.
    pub(super) fn new(file: File, path: &'p Path, end: Option<u64>) -> Result<Self, LogError> {
        let rest = file.metadata().map_err(|e| LogError::io(path, e))?.len();
        let rest = end.map_or(rest, |end| end.min(rest));
        let mut lines = Backwards {
            file,
            path,
            rest,
            buffer: Vec::new(),
        };
        // An unfinished last line is no record yet; one that is longer than any record is none at all.
        while !lines.buffer.contains(&b'\n') && lines.rest > 0 {
            if lines.buffer.len() > MAX_LINE {
                return Err(lines.unreadable());
            }
            lines.fill()?;
        }
        let end = lines
            .buffer
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        lines.buffer.truncate(end);
        Ok(lines)
    }

    /// Where the line begins that was handed out last.
    pub(super) fn place(&self) -> u64 {
        self.rest + self.buffer.len() as u64
    }

    fn unreadable(&self) -> LogError {
        LogError::Unreadable {
            path: self.path.into(),
            offset: self.rest,
        }
    }

    fn fill(&mut self) -> Result<(), LogError> {
        let n = self.rest.min(1 << 16);
        self.rest -= n;
        let mut chunk = vec![0; n as usize];
        self.file
            .seek(SeekFrom::Start(self.rest))
            .map_err(|e| LogError::io(self.path, e))?;
        self.file
            .read_exact(&mut chunk)
            .map_err(|e| LogError::io(self.path, e))?;
        chunk.extend_from_slice(&self.buffer);
        self.buffer = chunk;
        Ok(())
    }

    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        loop {
            let Some(body) = self.buffer.strip_suffix(b"\n") else {
                if self.rest == 0 {
                    return Ok(None);
                }
                self.fill()?;
                continue;
            };
            match body.iter().rposition(|&b| b == b'\n') {
                Some(at) => {
                    let line = body[at + 1..].to_vec();
                    self.buffer.truncate(at + 1);
                    return Ok(Some(line));
                }
                None if self.rest == 0 => {
                    let line = body.to_vec();
                    self.buffer.clear();
                    return Ok(Some(line));
                }
                None if body.len() > MAX_LINE => return Err(self.unreadable()),
                None => self.fill()?,
            }
        }
    }
}

/// Reads the log from a place on, across segments, and can be asked again when it had reached the end.
pub struct Follower {
    /// The directory in which the log's is, which may be made anew.
    home: Dir,
    dir: PathBuf,
    number: u64,
    input: Option<BufReader<File>>,
    offset: u64,
    line: Vec<u8>,
}

impl Follower {
    /// From the oldest record on.
    ///
    /// # Errors
    /// If there is no log, or it cannot be read.
    pub fn from_start(dir: &Path) -> Result<Follower, LogError> {
        let (home, _) = Dir::of(dir).map_err(|e| LogError::io(dir, e))?;
        let first = Folder::open(&home, dir)?.list()?.first().copied();
        let number = first.ok_or_else(|| LogError::Missing { path: dir.into() })?;
        Ok(Follower {
            home,
            dir: dir.into(),
            number,
            input: None,
            offset: 0,
            line: Vec::new(),
        })
    }

    /// From a place on, before which a line ends.
    pub(super) fn at(dir: &Path, place: Place) -> Result<Follower, LogError> {
        let mut follower = Follower::from_start(dir)?;
        (follower.number, follower.offset) = (place.segment, place.offset);
        Ok(follower)
    }

    /// Where the next record begins.
    pub(super) fn place(&self) -> Place {
        Place {
            segment: self.number,
            offset: self.offset,
        }
    }

    /// From the end on: only what is added from now.
    ///
    /// # Errors
    /// If there is no log, or it cannot be read.
    pub fn new(dir: &Path) -> Result<Follower, LogError> {
        let mut follower = Follower::from_start(dir)?;
        follower.number = Folder::open(&follower.home, dir)?
            .list()?
            .last()
            .copied()
            .unwrap_or(follower.number);
        while follower.read()?.is_some() {}
        Ok(follower)
    }

    /// The next record, or `None` if there is none yet.
    ///
    /// # Errors
    /// If the log cannot be read, or a line is no record (the next call goes on behind it).
    pub fn read(&mut self) -> Result<Option<Entry>, LogError> {
        let mut last_look = false;
        loop {
            let path = segment::path(&self.dir, self.number);
            let input = match &mut self.input {
                Some(input) => input,
                None => {
                    let folder = Folder::open(&self.home, &self.dir)?;
                    let mut file = match folder.segment(self.number, Mode::Read) {
                        Err(e @ LogError::Missing { .. }) => {
                            // Archived in this moment: the log goes on with a later one.
                            let later = folder.list()?.into_iter().find(|&n| n > self.number);
                            (self.number, self.offset) = (later.ok_or(e)?, 0);
                            continue;
                        }
                        file => file?,
                    };
                    file.seek(SeekFrom::Start(self.offset))
                        .map_err(|e| LogError::io(&path, e))?;
                    self.input.insert(BufReader::with_capacity(1 << 16, file))
                }
            };
            let rest = (MAX_LINE - self.line.len().min(MAX_LINE - 1)) as u64;
            input
                .take(rest)
                .read_until(b'\n', &mut self.line)
                .map_err(|e| LogError::io(&path, e))?;
            if self.line.last() == Some(&b'\n') || self.line.len() >= MAX_LINE {
                let from = self.offset;
                self.offset += self.line.len() as u64;
                let entry = Entry::parse(self.line.trim_ascii_end());
                self.line.clear();
                return match entry {
                    Some(entry) => Ok(Some(entry)),
                    None => Err(LogError::Unreadable { path, offset: from }),
                };
            }
            // The file ends within a line. What is there of it may be cut back after a failure and written over,
            // so it is not kept but read anew.
            let unfinished = !self.line.is_empty();
            if unfinished {
                self.line.clear();
                input
                    .seek(SeekFrom::Start(self.offset))
                    .map_err(|e| LogError::io(&path, e))?;
            }
            // At the end of this segment: is there a later one? (It is looked for before the end is believed.)
            let Some(next) = Folder::open(&self.home, &self.dir)?
                .list()?
                .into_iter()
                .find(|&n| n > self.number)
            else {
                return Ok(None);
            };
            let ended = unfinished && std::mem::replace(&mut last_look, true);
            if ended || input.fill_buf().map_err(|e| LogError::io(&path, e))?.is_empty() {
                (self.number, self.offset) = (next, 0);
                self.input = None;
                last_look = false;
            }
        }
    }
}

impl Iterator for Follower {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
