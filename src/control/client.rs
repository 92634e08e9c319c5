//! The asking side of the control socket.

use std::path::Path;
use std::time::Duration;

use crate::id::{ROOT, Uid, printable};
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use crate::sys::dir::Dir;
use crate::sys::socket::Connection;

use super::place::{Place, socket, socket_path};
use super::protocol::{Enclosed, Envelope, FORMAT, PACKET, Part, Reply, Request};

/// How long an answer may take: a check of a large store or log takes a while.
const PATIENCE: Duration = Duration::from_secs(600);

/// A connection to the daemon.
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to the daemon that serves the store at `store`; `None` if none does.
    ///
    /// # Errors
    /// If somebody answers who will not be spoken to, or who serves another store (exit 6).
    pub fn connect(store: &Path) -> Result<Option<Client>, Problem> {
        let shown = socket_path(store);
        let place = match Place::of(store) {
            Ok(place) => place,
            Err(e) => return absent(&shown, e),
        };
        let connection = match Connection::to(&place.run, socket()) {
            Ok(connection) => connection,
            Err(e) => return absent(&shown, e),
        };
        believe(&connection, &place.run, &shown)?;
        let mut client = Client { connection };
        // The process that accepts outlives a killed daemon for a moment: nobody is there who would answer.
        match client.exchange(&Request::Hello, None, &mut |_| {}) {
            Ok(answer) => {
                same_store(&answer, &place, store, &shown)?;
                Ok(Some(client))
            }
            Err(Unanswered::Ended(_)) => Ok(None),
            Err(Unanswered::Problem(problem)) => Err(problem),
        }
    }

    /// Waits until the daemon has ended, which closes its connections.
    ///
    /// # Errors
    /// If it has not after `time`.
    pub fn wait_end(&mut self, time: Duration) -> Result<(), Problem> {
        match self.connection.recv(&mut [0; 1], Some(time)) {
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut => Err(Problem::new(
                Exit::Unavailable,
                "the daemon has not ended yet",
                format_args!("waited {} s", time.as_secs()),
            )
            .next("see what it does: wardfs status")),
            _ => Ok(()),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the daemon says, or that it does not answer.
    pub fn call(
        &mut self,
        request: &Request,
        enclosed: Option<Enclosed<'_>>,
    ) -> Result<serde_json::Value, Problem> {
        self.follow(request, enclosed, &mut |_| {})
    }

    /// The same; `told` hears how many pieces of a long task are done.
    ///
    /// # Errors
    /// What the daemon says, or that it does not answer.
    pub fn follow(
        &mut self,
        request: &Request,
        enclosed: Option<Enclosed<'_>>,
        told: &mut dyn FnMut(u64),
    ) -> Result<serde_json::Value, Problem> {
        self.exchange(request, enclosed, told)
            .map_err(|unanswered| match unanswered {
                Unanswered::Problem(problem) => problem,
                Unanswered::Ended(e) => Problem::new(Exit::Unavailable, "the daemon did not answer", e)
                    .next("is it running? wardfs status"),
            })
    }

    fn exchange(
        &mut self,
        request: &Request,
        enclosed: Option<Enclosed<'_>>,
        told: &mut dyn FnMut(u64),
    ) -> Result<serde_json::Value, Unanswered> {
        let (value, mut backup) = match enclosed {
            Some(Enclosed::Value(value)) => (Some(value), None),
            Some(Enclosed::Backup(out)) => (None, Some(out)),
            None => (None, None),
        };
        let text = serde_json::to_vec(&Envelope {
            format: FORMAT,
            value: value.as_ref().map(SecretBytes::len),
            request: request.clone(),
        })
        .map_err(|e| not_understood(&e))?;
        self.connection.send(&text)?;
        for piece in value.iter().flat_map(|v| v.expose().chunks(PACKET - 1)) {
            // Who refuses the value says why and closes: that answer is waiting.
            if self.connection.send_all(&[&[Part::Value as u8], piece]).is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let mut packet = vec![0; PACKET];
        loop {
            let message = match self.connection.recv(&mut packet, Some(PATIENCE)) {
                // Said once where pieces of the value were left unread; the answer is there all the same.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {
                    self.connection.recv(&mut packet, Some(PATIENCE))
                }
                other => other,
            }?;
            let Some((kind, chunk)) = packet[..message.len].split_first() else {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            };
            match (Part::from_byte(*kind), chunk.try_into()) {
                (Some(Part::Progress), Ok(done)) => told(u64::from_be_bytes(done)),
                (Some(Part::More), _) => answer.extend_from_slice(chunk),
                (Some(Part::Last), _) => {
                    answer.extend_from_slice(chunk);
                    break;
                }
                (Some(Part::Backup), _) if backup.is_some() => {
                    if let Some(out) = &mut backup {
                        out.write_all(chunk).map_err(|e| unwritten(&e))?;
                    }
                }
                (Some(Part::Progress | Part::Value | Part::Backup) | None, _) => {
                    return Err(not_understood(&"a packet of another kind").into());
                }
            }
        }
        match serde_json::from_slice(&answer).map_err(|e| not_understood(&e))? {
            Reply::Done(value) => Ok(value),
            Reply::Failed(problem) => Err(problem.into()),
        }
    }
}

/// Why there is no answer.
enum Unanswered {
    /// It is a refusal or a failure.
    Problem(Problem),
    /// The connection ended.
    Ended(std::io::Error),
}

impl From<Problem> for Unanswered {
    fn from(problem: Problem) -> Unanswered {
        Unanswered::Problem(problem)
    }
}

impl From<std::io::Error> for Unanswered {
    fn from(e: std::io::Error) -> Unanswered {
        match e.kind() {
            std::io::ErrorKind::TimedOut => Unanswered::Problem(
                Problem::new(Exit::Unavailable, "the daemon did not answer", e)
                    .next("see what it does: wardfs status"),
            ),
            _ => Unanswered::Ended(e),
        }
    }
}

fn not_understood(e: &dyn std::fmt::Display) -> Problem {
    Problem::new(Exit::Unavailable, "the daemon's answer is not understood", e)
        .next("use the command that came with the daemon")
}

/// A backup that could not be written to its file.
pub fn unwritten(e: &std::io::Error) -> Problem {
    Problem::new(Exit::Failed, "cannot back the store up", e)
        .next("make room for the backup, or name a file elsewhere")
}

/// Nobody listens, or it cannot be seen who does.
fn absent(shown: &Path, e: std::io::Error) -> Result<Option<Client>, Problem> {
    use std::io::ErrorKind::*;
    let run = shown.parent().unwrap_or(shown);
    match e.kind() {
        NotFound | ConnectionRefused => Ok(None),
        // ELOOP, which has no stable kind.
        _ if e.kind() == NotADirectory || e.raw_os_error() == Some(libc::ELOOP) => {
            Err(unbelieved(shown, "a link, or no directory, is on its way")
                .next(format!("see what lies there, and take it away: ls -la {}", run.display())))
        }
        _ => Err(Problem::new(
            Exit::Unavailable,
            format!("cannot reach the daemon at {}", shown.display()),
            e,
        )
        .next("without a daemon only the owner of the store may use it: run the command as root, or mount it first")),
    }
}

fn unbelieved(shown: &Path, why: impl std::fmt::Display) -> Problem {
    Problem::new(
        Exit::Integrity,
        format!("the daemon at {} is not believed", shown.display()),
        why,
    )
    .next("use a store whose directory and daemon are your own or root's")
}

/// What is said to a daemon may be a value, and what it says is acted on: it has to be root's or this user's, or listen
/// where root alone could have let it.
fn believe(connection: &Connection, run: &Dir, shown: &Path) -> Result<(), Problem> {
    let (pid, uid, _) = connection
        .peer_ids()
        .map_err(|e| unbelieved(shown, format!("it cannot be seen whose it is: {e}")))?;
    let myself = Uid(nix::unistd::geteuid().as_raw());
    if uid == ROOT || uid == myself || run.only_root_writes() {
        return Ok(());
    }
    Err(unbelieved(
        shown,
        format!("process {pid} of uid {uid} listens there"),
    ))
}

/// What was meant for one store is nothing that another one's daemon may have: a link or a second name of a socket
/// leads there.
fn same_store(answer: &serde_json::Value, place: &Place, store: &Path, shown: &Path) -> Result<(), Problem> {
    let served = (answer["device"].as_u64(), answer["inode"].as_u64());
    let meant = match &place.store {
        Some(home) => home.inode().map_err(|e| unbelieved(shown, e))?,
        // Out of sight, as in a container that was given the socket alone: where it lies says whose it is.
        None if place.run.only_root_writes() => return Ok(()),
        None => return Err(unbelieved(shown, format!("{} cannot be seen", store.display()))),
    };
    if served == (Some(meant.device), Some(meant.number)) {
        return Ok(());
    }
    let other = answer["store"].as_str().unwrap_or("?");
    let why = format!(
        "it serves another store ({}), and not {}",
        printable(other),
        store.display()
    );
    let run = shown.parent().unwrap_or(shown);
    Err(unbelieved(shown, why).next(format!(
        "see what lies there, and take it away: ls -la {}",
        run.display()
    )))
}
