//! Records of the log for who cannot read its files: the daemon is asked for them piece by piece.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use super::run::Stop;
use super::{Backend, World, log};
use crate::audit::{Entry, Item, Page, Place, Query};
use crate::control::protocol::{Records, Request};
use crate::problem::{Exit, Problem};

/// How long a question waits that found others being answered.
const PAUSE: Duration = Duration::from_millis(500);

/// What one record is, or why there is none.
pub enum Found {
    /// A record.
    Entry(Entry),
    /// A line that is none, in words.
    Unreadable(String),
}

/// Asks the daemon.
pub struct Asker {
    backend: Box<dyn Backend>,
    query: Query,
    /// Where the next piece begins.
    place: Option<Place>,
    items: VecDeque<Item>,
    end: bool,
    /// Whether a record about the secret that was asked for was seen.
    pub about: bool,
}

impl Asker {
    /// Somebody who can be asked, if this process cannot read the log's files itself.
    ///
    /// # Errors
    /// If nobody can be asked either.
    pub fn needed(store: &Path, query: &Query, world: &dyn World) -> Result<Option<Asker>, Problem> {
        let dir = log::directory(store);
        let denied = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => e,
            _ => return Ok(None),
        };
        if !crate::daemon::socket_path(store).exists() {
            let denied = crate::audit::LogError::Io {
                path: dir,
                source: denied,
            };
            return Err(log::problem(store, &denied));
        }
        Ok(Some(Asker {
            backend: world.backend(store)?,
            query: query.clone(),
            place: None,
            items: VecDeque::new(),
            end: false,
            about: false,
        }))
    }

    /// Goes back to the place before the newest `n` wanted records, and forgets what they were.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn back(&mut self, mut n: usize) -> Result<(), Problem> {
        loop {
            let page = self.ask(Some(n))?;
            n = n.saturating_sub(page.found);
            if n == 0 || page.end {
                return Ok(());
            }
        }
    }

    /// The next record; `None` if there is none yet.
    ///
    /// # Errors
    /// What the daemon says.
    pub fn read(&mut self) -> Result<Option<Found>, Stop> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(match item {
                    Item::Unreadable(why) => Found::Unreadable(why),
                    Item::Record(line) => match Entry::parse(line.as_bytes()) {
                        Some(entry) => Found::Entry(entry),
                        None => Found::Unreadable("the daemon gave a line that is no record".into()),
                    },
                }));
            }
            if std::mem::take(&mut self.end) {
                return Ok(None);
            }
            let page = self.ask(None)?;
            self.end = page.end;
            self.items = page.items.into();
        }
    }

    fn ask(&mut self, back: Option<usize>) -> Result<Page, Problem> {
        let request = Request::AuditRecords(Records {
            query: self.query.clone(),
            from: self.place,
            back,
            call: Default::default(),
        });
        let answer = loop {
            match self.backend.call(&request, None) {
                // Its turn comes.
                Err(e) if e.exit == Exit::Unavailable && e.why == crate::control::OTHERS => {
                    std::thread::sleep(PAUSE);
                }
                answer => break answer?,
            }
        };
        let page: Page = serde_json::from_value(answer).map_err(|e| {
            Problem::new(Exit::Unavailable, "the daemon's answer is not understood", e)
                .next("use the command that came with the daemon")
        })?;
        self.place = Some(page.place);
        self.about |= page.about;
        Ok(page)
    }
}
