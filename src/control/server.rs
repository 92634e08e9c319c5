//! Accepts connections, believes the kernel about who sent each message, and answers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access::{Caller, KnownCaller};
use crate::audit::{Event, Identity, Outcome, Record};
use crate::id::{Tid, Uid};
use crate::places::{Place, Places};
use crate::policy::Reason;
use crate::problem::{Exit, Problem};
use crate::sys::caller::{Header, Observer};
use crate::sys::socket::{Connection, Listener, Message, Peer, read_sealed_memfd};

use super::Desk;
use super::protocol::{Enclosed, Envelope, FORMAT, MAX_REQUEST, PACKET, Part, Reply, Request};

/// Connections of one uid that are served at the same time.
const PER_UID: usize = 16;
/// Connections of all but the store's owner; fewer where there are few descriptors, of which they take a quarter at
/// most, so that whoever can become many users keeps no reader from being looked at, and not the owner out.
const OF_STRANGERS: usize = 1024;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(30);
/// How often a long task says how far it is.
const TELL: Duration = Duration::from_millis(250);

/// The listening side.
pub struct Server {
    desk: Arc<Desk>,
    max_value: usize,
    /// Connections of each uid.
    places: Arc<Places>,
    /// Connections of all but the store's owner.
    strangers: Arc<Places>,
}

impl Server {
    /// Answers with `desk`; values are at most `max_value` bytes, and the process may have `descriptors`.
    pub fn new(desk: Arc<Desk>, max_value: usize, descriptors: usize) -> Self {
        Server {
            desk,
            max_value,
            places: Places::new(PER_UID),
            strangers: Places::new(OF_STRANGERS.min(descriptors / 4)),
        }
    }

    /// Listens on `path`, and serves each connection in a thread of its own.
    ///
    /// # Errors
    /// If the socket cannot be made, or another process answers on it.
    pub fn listen(self, path: &Path) -> std::io::Result<()> {
        let listener = Listener::bind(path, 0o666)?;
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let server = Arc::new(self);
                loop {
                    match listener.accept() {
                        Ok(connection) => server.clone().serve(connection),
                        Err(e) => {
                            tracing::error!("control socket: {e}");
                            std::thread::sleep(Duration::from_millis(100));
                        }
                    }
                }
            })?;
        Ok(())
    }

    fn serve(self: Arc<Self>, connection: Connection) {
        let Ok(peer) = connection.peer() else { return };
        let place = match self.place(peer.uid) {
            Ok(place) => place,
            Err(why) => {
                let problem = Problem::new(Exit::Unavailable, "too many connections", why)
                    .next("end some of them first, or try again in a while");
                let _ = answer(&connection, &Reply::Failed(problem));
                return;
            }
        };
        let spawned = std::thread::Builder::new()
            .name("control-peer".into())
            .spawn(move || {
                let _place = place;
                let run = std::panic::AssertUnwindSafe(|| self.converse(&connection, &peer));
                if let Ok(Err(e)) = std::panic::catch_unwind(run) {
                    tracing::debug!("a control connection ended: {e}");
                }
            });
        if let Err(e) = spawned {
            tracing::error!("no thread for a control connection: {e}");
        }
    }

    /// One of the uid's places, and for a stranger one of all strangers'.
    fn place(&self, uid: Uid) -> Result<(Option<Place>, Place), String> {
        let of_all = match uid == self.desk.vault.administration().owner {
            true => None,
            false => {
                let full = || format!("{} are open", self.strangers.each());
                // All of them share the places of one number.
                Some(self.strangers.take(0).ok_or_else(full)?)
            }
        };
        let full = || format!("uid {uid} has {} open", self.places.each());
        Ok((of_all, self.places.take(uid.0).ok_or_else(full)?))
    }

    fn converse(&self, connection: &Connection, peer: &Peer) -> std::io::Result<()> {
        let mut buffer = vec![0; MAX_REQUEST + 1];
        loop {
            let message = connection.recv(&mut buffer, Some(IDLE))?;
            if message.len == 0 {
                return Ok(());
            }
            let text = &buffer[..message.len.min(MAX_REQUEST)];
            let mut told = Told::new(connection);
            let reply = match self.handle(text, message, peer, &mut |done| told.tell(done)) {
                Ok(value) => Reply::Done(value),
                Err(problem) => Reply::Failed(problem),
            };
            answer(connection, &reply)?;
        }
    }

    fn handle(
        &self,
        text: &[u8],
        message: Message,
        peer: &Peer,
        told: &mut dyn FnMut(u64),
    ) -> Result<serde_json::Value, Problem> {
        let refused = |why: &str| {
            Problem::new(Exit::Usage, "the daemon did not understand the request", why)
                .next("use the command that came with the daemon")
        };
        if message.truncated || message.len > MAX_REQUEST {
            return Err(refused("it is too long"));
        }
        let mut caller = self.caller(&message, peer)?;
        let envelope: Envelope = serde_json::from_slice(text).map_err(|e| {
            refused(&e.to_string()).next("are the command and the daemon of the same version?")
        })?;
        if envelope.format != FORMAT {
            return Err(Problem::new(
                Exit::Integrity,
                "the daemon speaks another protocol",
                format_args!(
                    "the command speaks format {}, the daemon {FORMAT}",
                    envelope.format
                ),
            )
            .next("use the command that came with the daemon"));
        }
        let enclosed = self.enclosed(message, &envelope.request)?;
        self.desk.answer(&envelope.request, enclosed, told, &mut caller)
    }

    /// Who sent this very message. The connection's credentials are those of whoever connected, which may be
    /// somebody else: both must agree.
    fn caller(&self, message: &Message, peer: &Peer) -> Result<KnownCaller, Problem> {
        let mut caller = KnownCaller::supposed(peer.uid, peer.gid, peer.groups.clone());
        caller.door = "control";
        (caller.unit, caller.process) = (None, None);
        let agree = message
            .creds
            .is_some_and(|(_, uid, gid)| uid == peer.uid && gid == peer.gid);
        if !agree {
            if let Some((pid, uid, gid)) = message.creds {
                (caller.uid, caller.gid, caller.groups, caller.pid) = (uid, gid, None, Some(pid));
            }
            self.refuse(&mut caller, Reason::CredMismatch);
            return Err(Problem::new(
                Exit::Denied,
                "the request was refused",
                "the connection was opened by somebody else (cred_mismatch)",
            )
            .next("connect as the user who asks"));
        }
        if let Some((pid, uid, gid)) = message.creds {
            caller.pid = Some(pid);
            caller.tid = Some(Tid(pid.0));
            // Best effort: the sender is not blocked, so this names him in the record, and decides nothing
            // but his unit and the state of his process, which are believed only if his ids are still those of the message.
            let mut observer = Observer::new();
            let header = Header {
                uid,
                gid,
                tid: Tid(pid.0),
            };
            if let Ok(mut known) = observer.identify(&header) {
                caller.unit = known.unit().ok().map(|u| u.map(str::to_string));
                caller = caller.seen(known.hardening().ok());
                let facts = known.for_record();
                caller.start_time = facts.start_time;
                caller.command = Some(facts.command.to_vec());
                caller.login_uid = facts.login_uid;
            }
        }
        Ok(caller)
    }

    fn refuse(&self, caller: &mut KnownCaller, reason: Reason) {
        let record = Record {
            event: Event::ControlCall,
            outcome: Outcome::Denied {
                reason: reason.code(),
            },
            via: "control",
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        if let Err(e) = self.desk.vault.log().refuse(&record) {
            tracing::error!("a refusal could not be recorded: {e}");
        }
    }

    fn enclosed(&self, message: Message, request: &Request) -> Result<Option<Enclosed>, Problem> {
        let what = "the value was not taken";
        let mut fds = message.fds.into_iter();
        let (Some(fd), None) = (fds.next(), fds.next()) else {
            return Ok(None);
        };
        if matches!(request, Request::Backup) {
            return Ok(Some(Enclosed::File(fd.into())));
        }
        if !matches!(request, Request::Put(_)) {
            return Err(Problem::new(Exit::Usage, what, "the request takes none")
                .next("use the command that came with the daemon"));
        }
        let value = read_sealed_memfd(fd, self.max_value).map_err(|e| {
            Problem::new(Exit::Usage, what, e).next(format!("a value is 1 to {} bytes", self.max_value))
        })?;
        Ok(Some(Enclosed::Value(value)))
    }
}

fn answer(connection: &Connection, reply: &Reply) -> std::io::Result<()> {
    let text = serde_json::to_vec(reply)?;
    let mut chunks = text.chunks(PACKET - 1).peekable();
    while let Some(chunk) = chunks.next() {
        let mut packet = Vec::with_capacity(chunk.len() + 1);
        let part = chunks.peek().map_or(Part::Last, |_| Part::More);
        packet.push(part as u8);
        packet.extend_from_slice(chunk);
        connection.send(&packet, &[])?;
    }
    Ok(())
}

/// Tells the asking side how far a long task is, a few times a second.
struct Told<'c> {
    connection: &'c Connection,
    last: Instant,
}

impl<'c> Told<'c> {
    fn new(connection: &'c Connection) -> Told<'c> {
        let last = Instant::now();
        Told { connection, last }
    }

    fn tell(&mut self, done: u64) {
        if self.last.elapsed() >= TELL {
            self.last = Instant::now();
            let packet = [&[Part::Progress as u8][..], &done.to_be_bytes()].concat();
            // Whoever asked and went away is noticed at the answer.
            let _ = self.connection.send(&packet, &[]);
        }
    }
}
