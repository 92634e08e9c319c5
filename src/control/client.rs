//! The asking side of the control socket.

use std::path::Path;
use std::time::Duration;

use crate::id::{ROOT, Uid};
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use crate::sys::socket::Connection;

use super::protocol::{Enclosed, Envelope, FORMAT, PACKET, Part, Reply, Request};

/// How long an answer may take: a check of a large store or log takes a while.
const PATIENCE: Duration = Duration::from_secs(600);

/// A connection to the daemon.
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to the daemon behind `path`; `None` if nobody answers there.
    ///
    /// # Errors
    /// If somebody does, but will not be spoken to.
    pub fn connect(path: &Path) -> Result<Option<Client>, Problem> {
        match Connection::connect(path) {
            Ok(connection) => {
                believe(&connection, path)?;
                let mut client = Client { connection };
                // The process that accepts outlives a killed daemon for a moment: nobody is there who would answer.
                match client.exchange(&Request::Hello, None, &mut |_| {}) {
                    Ok(_) => Ok(Some(client)),
                    Err(Unanswered::Ended(_)) => Ok(None),
                    Err(Unanswered::Problem(problem)) => Err(problem),
                }
            }
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(Problem::new(
                Exit::Unavailable,
                format!("cannot reach the daemon at {}", path.display()),
                e,
            )
            .next("without a daemon only the owner of the store may use it: run the command as root, or mount it first")),
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

/// What is said to a daemon may be a value, and what it says is acted on: it has to be root's or this user's, or listen
/// where root alone could have let it.
fn believe(connection: &Connection, path: &Path) -> Result<(), Problem> {
    let refused = |why: String| {
        Problem::new(
            Exit::Integrity,
            format!("the daemon at {} is not believed", path.display()),
            why,
        )
        .next("use a store whose directory and daemon are your own or root's")
    };
    let (pid, uid, _) = connection
        .peer_ids()
        .map_err(|e| refused(format!("it cannot be seen whose it is: {e}")))?;
    let myself = Uid(nix::unistd::geteuid().as_raw());
    if uid == ROOT || uid == myself || crate::sys::files::only_root_writes(path.parent().unwrap_or(path)) {
        return Ok(());
    }
    Err(refused(format!("process {pid} of uid {uid} listens there")))
}
