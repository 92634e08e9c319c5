//! Asking the log piece by piece, for who asks through somebody else: each piece is bounded, and the next goes on from the
//! place where it ended.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::LogError;
use super::query::{Backwards, Entry, Follower, Query};
use super::segment::{Folder, Mode};

/// Bytes of the log that are looked through for one piece.
const LOOKED: u64 = if cfg!(test) { 2000 } else { 8 << 20 };
/// Bytes of records in one piece, and one record more.
const GIVEN: usize = if cfg!(test) { 1000 } else { 256 << 10 };

/// A place in the log: before a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The segment.
    pub segment: u64,
    /// Bytes of it before the place.
    pub offset: u64,
}

/// What is found in a piece of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A record, as it stands in the log.
    Record(String),
    /// A line that is none, in words.
    Unreadable(String),
}

/// A piece of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// What was found, in the order of the log.
    #[serde(default)]
    pub items: Vec<Item>,
    /// How many records are wanted ones.
    pub found: usize,
    /// Where the next piece begins.
    pub place: Place,
    /// Whether there is nothing behind it now, or before it where it is looked for backwards.
    pub end: bool,
    /// Whether a record about the secret that was asked for is among those that were looked at.
    pub about: bool,
}

/// The wanted records from a place on, or from the beginning. `go_on` is asked between records; where it says no, the piece
/// ends.
///
/// # Errors
/// If there is no log, it cannot be read, or no record begins at the place.
pub fn page(
    dir: &Path,
    query: &Query,
    from: Option<Place>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Page, LogError> {
    let mut follower = match from {
        None => Follower::from_start(dir)?,
        Some(place) => Follower::at(dir, begins_line(dir, place)?)?,
    };
    let mut page = Page {
        items: Vec::new(),
        found: 0,
        place: follower.place(),
        end: false,
        about: false,
    };
    let (mut looked, mut given) = (0, 0);
    while looked < LOOKED && given < GIVEN && go_on() {
        let item = match follower.read() {
            Ok(None) => {
                page.end = true;
                break;
            }
            Ok(Some(entry)) => {
                looked += entry.line.len() as u64;
                page.about |= query.is_about(&entry);
                query.matches(&entry).then_some(Item::Record(entry.line))
            }
            Err(e @ LogError::Unreadable { .. }) => {
                looked += 1 << 10;
                Some(Item::Unreadable(e.to_string()))
            }
            Err(e) => return Err(e),
        };
        if let Some(item) = item {
            page.found += usize::from(matches!(item, Item::Record(_)));
            let (Item::Record(text) | Item::Unreadable(text)) = &item;
            given += text.len();
            page.items.push(item);
        }
    }
    page.place = follower.place();
    Ok(page)
}

/// The place before the newest `n` wanted records before a place, or before the end. The records themselves are not given.
///
/// # Errors
/// As [`page`].
pub fn back(
    dir: &Path,
    query: &Query,
    from: Option<Place>,
    n: usize,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Page, LogError> {
    let folder = Folder::at(dir)?;
    let mut numbers = folder.list()?;
    numbers.retain(|n| from.is_none_or(|place| *n <= place.segment));
    let mut page = Page {
        items: Vec::new(),
        found: 0,
        place: from.unwrap_or(Place {
            segment: 0,
            offset: 0,
        }),
        end: false,
        about: false,
    };
    let mut looked = 0;
    for &number in numbers.iter().rev() {
        let path = folder.path(number);
        let file = match folder.segment(number, Mode::Read) {
            // Archived in this moment.
            Err(LogError::Missing { .. }) if number != numbers[numbers.len() - 1] => break,
            file => file?,
        };
        let end = from.filter(|place| place.segment == number).map(|p| p.offset);
        let mut lines = Backwards::new(file, &path, end)?;
        page.place = Place {
            segment: number,
            offset: lines.place(),
        };
        loop {
            if page.found >= n || looked >= LOOKED || !go_on() {
                return Ok(page);
            }
            let Some(line) = lines.next()? else { break };
            looked += line.len() as u64 + 1;
            page.place.offset = lines.place();
            if let Some(entry) = query.may_match(&line).then(|| Entry::parse(&line)).flatten() {
                page.about |= query.is_about(&entry);
                page.found += usize::from(query.matches(&entry));
            }
        }
    }
    page.end = true;
    Ok(page)
}

/// A place that somebody names is believed if a line ends before it, or if its segment was archived.
fn begins_line(dir: &Path, place: Place) -> Result<Place, LogError> {
    let folder = Folder::at(dir)?;
    let path = folder.path(place.segment);
    let nowhere = || LogError::Unreadable {
        path: path.clone(),
        offset: place.offset,
    };
    let mut file = match folder.segment(place.segment, Mode::Read) {
        Err(LogError::Missing { .. }) => {
            let later = folder.list()?.iter().any(|n| *n > place.segment);
            return later.then_some(place).ok_or_else(nowhere);
        }
        file => file?,
    };
    let io = |e| LogError::io(&path, e);
    let Some(before) = place.offset.checked_sub(1) else {
        return Ok(place);
    };
    if file.metadata().map_err(io)?.len() <= before {
        return Err(nowhere());
    }
    let mut byte = [0];
    file.seek(SeekFrom::Start(before))
        .and_then(|_| file.read_exact(&mut byte))
        .map_err(io)?;
    match byte {
        [b'\n'] => Ok(place),
        _ => Err(nowhere()),
    }
}
