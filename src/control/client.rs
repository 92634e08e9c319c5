//! The asking side of the control socket.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use crate::problem::{Exit, Problem};
use crate::sys::socket::{Connection, sealed_memfd};

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
            Ok(connection) => Ok(Some(Client { connection })),
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
        enclosed: Option<Enclosed>,
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
        enclosed: Option<Enclosed>,
        told: &mut dyn FnMut(u64),
    ) -> Result<serde_json::Value, Problem> {
        let gone = |e: &dyn std::fmt::Display| {
            Problem::new(Exit::Unavailable, "the daemon did not answer", e)
                .next("is it running? wardfs status")
        };
        let text = serde_json::to_vec(&Envelope {
            format: FORMAT,
            request: request.clone(),
        })
        .map_err(|e| gone(&e))?;
        let fd = match enclosed {
            Some(Enclosed::Value(value)) => Some(sealed_memfd(&value).map_err(|e| gone(&e))?),
            Some(Enclosed::File(file)) => Some(file.into()),
            None => None,
        };
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        self.connection.send(&text, &fds).map_err(|e| gone(&e))?;
        let mut answer = Vec::new();
        let mut packet = vec![0; PACKET];
        loop {
            let message = self
                .connection
                .recv(&mut packet, Some(PATIENCE))
                .map_err(|e| gone(&e))?;
            let Some((kind, chunk)) = packet[..message.len].split_first() else {
                return Err(gone(&"it closed the connection"));
            };
            match (Part::from_byte(*kind), chunk.try_into()) {
                (Some(Part::Progress), Ok(done)) => told(u64::from_be_bytes(done)),
                (Some(Part::More), _) => answer.extend_from_slice(chunk),
                (Some(Part::Last), _) => {
                    answer.extend_from_slice(chunk);
                    break;
                }
                (Some(Part::Progress) | None, _) => return Err(gone(&"its answer is not understood")),
            }
        }
        match serde_json::from_slice(&answer).map_err(|e| gone(&e))? {
            Reply::Done(value) => Ok(value),
            Reply::Failed(problem) => Err(problem),
        }
    }
}
