//! Keeps a front, hears what it passes on, believes the kernel about who sent each message, and answers.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroize;

use crate::access::{Caller, KnownCaller};
use crate::audit::{Event, Identity, Outcome, Record};
use crate::id::{Gid, Pid, Tid, Uid};
use crate::places::{Place, Places};
use crate::policy::Reason;
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use crate::sys::accounts::{self, Namespace};
use crate::sys::caller::{Header, Observer};
use crate::sys::dir::{Dir, Inode};
use crate::sys::front::frame::{self, Kind, Sender};
use crate::sys::front::{self, Place as At};
use crate::sys::socket::{Connection, Taking};

use super::Desk;
use super::crowd::{Crowd, For};
use super::peer::Peer;
use super::place::socket;
use super::protocol::{Enclosed, Envelope, FORMAT, PACKET, Part, Reply, Request};
use super::shun::Shunned;

/// Connections of one uid that are served at the same time.
const PER_UID: usize = 16;
/// Connections of all but the store's owner; fewer where there are few descriptors, of which they take a quarter at
/// most, so that whoever can become many users keeps not the owner out.
const OF_STRANGERS: usize = 1024;
/// How often a long task says how far it is.
const TELL: Duration = Duration::from_millis(250);
/// How long a front may take to listen.
const BIND: Duration = Duration::from_secs(5);
/// How often a front is asked whether it is there, and how long it may take to say so.
const PING: Duration = Duration::from_millis(500);
const HANG: Duration = Duration::from_secs(2);
/// The longest pause before a front that was lost is replaced.
const PAUSE: Duration = Duration::from_secs(1);
/// Why a question was not answered whose turn did not come.
pub const OTHERS: &str = "other questions are being answered";
/// How long an account waits for the end of its other long question.
const TURN: Duration = Duration::from_secs(5);
/// Long questions of all strangers that are worked on at the same time.
const LONG: usize = 2;

/// The listening side.
pub struct Server {
    desk: Arc<Desk>,
    owner: Uid,
    /// Connections of each uid.
    places: Arc<Places>,
    /// Connections of all but the store's owner.
    strangers: Arc<Places>,
    /// Long questions of each account, and of all but the store's owner.
    long: [Arc<Places>; 2],
    crowd: Arc<Crowd>,
    shunned: Mutex<Shunned>,
    stopping: Arc<AtomicBool>,
    /// The last front's socket.
    made: Arc<Mutex<Option<Inode>>>,
}

/// Ends the listening.
pub struct Listening {
    stopping: Arc<AtomicBool>,
    run: Dir,
    /// The last front's socket.
    made: Arc<Mutex<Option<Inode>>>,
}

impl Listening {
    /// No front follows the one that is there, which ends with this process. Its socket is taken away.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(made) = made {
            let _ = self.run.remove(socket(), made);
        }
    }
}

impl Server {
    /// Answers with `desk`; the process may have `descriptors`.
    pub fn new(desk: Arc<Desk>, descriptors: usize) -> Self {
        let owner = desk.vault.administration().owner;
        Server {
            desk,
            owner,
            places: Places::new(PER_UID),
            strangers: Places::new(OF_STRANGERS.min(descriptors / 4)),
            long: [Places::new(1), Places::new(LONG)],
            crowd: Arc::default(),
            shunned: Mutex::default(),
            stopping: Arc::default(),
            made: Arc::default(),
        }
    }

    /// Has a front listen in the directory `run`, always.
    ///
    /// # Errors
    /// If the first one cannot.
    pub fn listen(self, run: Dir) -> io::Result<Listening> {
        let at = At {
            dir: run.clone(),
            name: socket().into(),
            owner: self.owner,
            strangers: self.strangers.each(),
        };
        let (told, bound) = sync_channel(1);
        let listening = Listening {
            stopping: self.stopping.clone(),
            run,
            made: self.made.clone(),
        };
        // A front ends with the thread that started it.
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || Arc::new(self).keep(&at, told))?;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        bound.recv_timeout(BIND).unwrap_or_else(|e| Err(late(e)))?;
        Ok(listening)
    }

    /// One front after the other.
    fn keep(self: Arc<Self>, at: &At, told: SyncSender<io::Result<()>>) {
        let mut told = Some(told);
        let mut lost: Vec<Child> = Vec::new();
        let mut pause = Duration::ZERO;
        while !self.stopping.load(Ordering::SeqCst) {
            let began = Instant::now();
            // Nobody else serves this store: who answers there is a front that hangs.
            let taking = Taking::Over;
            match front::spawn(Path::new("/proc/self/exe"), at, taking) {
                Ok((child, channel)) => {
                    let ended = self.hear(&Arc::new(channel), &mut told);
                    let mut child = child;
                    // What it has hangs with it, if it does: nobody waits for it.
                    let _ = child.kill();
                    lost.push(child);
                    if self.stopping.load(Ordering::SeqCst) {
                        return std::mem::forget(lost);
                    }
                    tracing::warn!(
                        "the process that has the control socket was lost, and is replaced: {ended}"
                    );
                }
                Err(e) => {
                    if let Some(told) = told.take() {
                        let _ = told.send(Err(e));
                        return;
                    }
                    tracing::error!("no process for the control socket: {e}");
                }
            }
            if told.is_none() && began.elapsed() > Duration::from_secs(10) {
                pause = Duration::ZERO;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).clamp(Duration::from_millis(20), PAUSE);
            lost.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        }
    }

    /// Hears one front until it is lost; says why.
    fn hear(
        self: &Arc<Self>,
        channel: &Arc<Connection>,
        told: &mut Option<SyncSender<io::Result<()>>>,
    ) -> String {
        let mut peers: HashMap<u64, Arc<Peer>> = HashMap::new();
        let mut turned: Option<Uid> = None;
        let why = self.hear_all(channel, told, &mut peers, &mut turned);
        // Nobody waits for it: what is being sent to it fails at once.
        channel.shutdown();
        if let Some(uid) = turned.filter(|uid| *uid != self.owner) {
            self.shunned().charge(accounts::owner(uid).0);
        }
        for peer in peers.values() {
            peer.left();
        }
        why
    }

    fn hear_all(
        self: &Arc<Self>,
        channel: &Arc<Connection>,
        told: &mut Option<SyncSender<io::Result<()>>>,
        peers: &mut HashMap<u64, Arc<Peer>>,
        turned: &mut Option<Uid>,
    ) -> String {
        // Values pass through it.
        let mut buffer = match crate::sys::mem::secret(frame::MAX_FRAME) {
            Ok(buffer) => buffer,
            Err(e) => return e.to_string(),
        };
        let (mut asked, mut unanswered) = (Instant::now(), false);
        loop {
            if !unanswered && asked.elapsed() >= PING {
                (asked, unanswered) = (Instant::now(), true);
                if let Err(e) = channel.try_send(&[&frame::head(Kind::Ping, 0)])
                    && e.kind() != io::ErrorKind::WouldBlock
                {
                    return e.to_string();
                }
            }
            let len = match channel.recv(buffer.expose_mut(), Some(PING)) {
                Ok(message) => message.len,
                // Judged where nothing is there to be read: in a flood the answer comes behind what came before.
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    match unanswered && asked.elapsed() >= HANG {
                        true => return "it hangs".into(),
                        false => continue,
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return "it ended".into(),
                Err(e) => return e.to_string(),
            };
            let Some((kind, number, rest)) = frame::parse(&buffer.expose()[..len]) else {
                return "it says what is not understood".into();
            };
            // Whatever it says, it lives.
            unanswered = false;
            match kind {
                Kind::Pong => {}
                Kind::Bound => {
                    let numbers = rest.split_at_checked(8).and_then(|(device, number)| {
                        Some((device.try_into().ok()?, number.try_into().ok()?))
                    });
                    *self.made.lock().unwrap_or_else(PoisonError::into_inner) =
                        numbers.map(|(device, number)| Inode {
                            device: u64::from_le_bytes(device),
                            number: u64::from_le_bytes(number),
                        });
                    if let Some(told) = told.take() {
                        let _ = told.send(Ok(()));
                    }
                }
                Kind::Failed => {
                    let why = String::from_utf8_lossy(rest).into_owned();
                    if let Some(told) = told.take() {
                        self.stopping.store(true, Ordering::SeqCst);
                        let _ = told.send(Err(io::Error::other(why.clone())));
                    }
                    return why;
                }
                // Of whoever it turned to, the next word shows that it came back.
                Kind::Turning => {
                    *turned = peers.get(&number).map(|p| p.uid);
                    continue;
                }
                Kind::Open => {
                    if let Some(peer) = self.opened(channel, number, rest) {
                        peers.insert(number, peer);
                    }
                }
                Kind::Closed => drop(peers.remove(&number)),
                _ => {
                    if let Some(peer) = peers.get(&number) {
                        self.heard(kind, rest, peer);
                    }
                }
            }
            *turned = None;
            if kind == Kind::Value {
                buffer.expose_mut()[..len].zeroize();
            }
        }
    }

    fn heard(self: &Arc<Self>, kind: Kind, rest: &[u8], peer: &Arc<Peer>) {
        match kind {
            Kind::Groups => {
                let numbers = rest.chunks_exact(4).filter_map(frame::number);
                peer.groups().extend(numbers.map(|(n, _)| Gid(n)));
            }
            Kind::Started => {
                if let Ok(bytes) = rest.try_into() {
                    let _ = peer.started.set(u64::from_le_bytes(bytes));
                }
            }
            Kind::Request => {
                let Some((sender, text)) = Sender::parse(rest) else {
                    return;
                };
                self.asked(peer, sender, text.to_vec());
            }
            Kind::Value => peer.brought(rest),
            Kind::Written => {
                if let Some((bytes, _)) = frame::number(rest) {
                    peer.took(bytes as usize);
                }
            }
            Kind::Gone => peer.left(),
            _ => {}
        }
    }

    fn shunned(&self) -> std::sync::MutexGuard<'_, Shunned> {
        self.shunned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, channel: &Arc<Connection>, number: u64, rest: &[u8]) -> Option<Arc<Peer>> {
        let (uid, rest) = frame::number(rest)?;
        let (gid, rest) = frame::number(rest)?;
        let (pid, _) = frame::number(rest)?;
        let uid = Uid(uid);
        match self.place(uid) {
            Ok(places) => Some(Arc::new(Peer::new(
                channel.clone(),
                number,
                (uid, Gid(gid), Pid(pid)),
                places,
            ))),
            Err(why) => {
                let problem = Problem::new(Exit::Unavailable, "too many connections", why)
                    .next("end some of them first, or try again in a while");
                let reply = serde_json::to_vec(&Reply::Failed(problem)).unwrap_or_default();
                // Whoever hears the front does not wait for it.
                let _ = channel.try_send(&[&frame::head(Kind::Reply, number), &[Part::Last as u8], &reply]);
                let _ = channel.try_send(&[&frame::head(Kind::Close, number)]);
                None
            }
        }
    }

    /// One of the account's places (sub ids count for who they are lent to), and for a stranger one of all strangers'.
    fn place(&self, uid: Uid) -> Result<(Option<Place>, Place), String> {
        let of_all = match uid == self.owner {
            true => None,
            false => {
                if self.shunned().is_shunned(accounts::owner(uid).0) {
                    return Err(format!("uid {uid} has made the control socket fail"));
                }
                let full = || format!("{} are open", self.strangers.each());
                // All of them share the places of one number.
                Some(self.strangers.take(0).ok_or_else(full)?)
            }
        };
        let owner = accounts::owner(uid);
        let full = || format!("uid {owner} has {} open", self.places.each());
        Ok((of_all, self.places.take(owner.0).ok_or_else(full)?))
    }

    fn asked(self: &Arc<Self>, peer: &Arc<Peer>, sender: Sender, text: Vec<u8>) {
        let whose = match peer.uid == self.owner {
            true => For::Owner,
            false => For::Stranger(accounts::owner(peer.uid).0),
        };
        let (server, waits) = (self.clone(), peer.clone());
        let job = move || {
            if let Err(e) = server.converse(&waits, sender, &text) {
                tracing::debug!("a control connection ended: {e}");
                waits.close();
            }
        };
        if let Err(e) = self.crowd.submit(whose, job) {
            tracing::error!("no thread for a control connection: {e}");
            peer.close();
        }
    }

    fn converse(&self, peer: &Peer, sender: Sender, text: &[u8]) -> io::Result<()> {
        let run = std::panic::AssertUnwindSafe(|| self.handle(peer, sender, text));
        let answered = std::panic::catch_unwind(run).unwrap_or_else(|_| {
            let what = "the request was not answered";
            Err(Problem::new(Exit::Failed, what, "the daemon failed at it")
                .next("see the service's messages")
                .into())
        });
        let (reply, then) = match answered {
            Ok(value) => (Reply::Done(value), Then::Next),
            Err(Refused(problem, then)) => (Reply::Failed(problem), then),
        };
        let text = serde_json::to_vec(&reply)?;
        let mut pieces = text.chunks(PACKET - 1).peekable();
        while let Some(piece) = pieces.next() {
            let part = pieces.peek().map_or(Part::Last, |_| Part::More);
            peer.send(part, piece)?;
        }
        match then {
            Then::Next => peer.next(),
            Then::Close => peer.close(),
        }
        Ok(())
    }

    fn handle(&self, peer: &Peer, sender: Sender, text: &[u8]) -> Result<serde_json::Value, Refused> {
        let refused = |why: &str| {
            Problem::new(Exit::Usage, "the daemon did not understand the request", why)
                .next("use the command that came with the daemon")
        };
        if sender.too_long {
            return Err(refused("it is too long").into());
        }
        let mut caller = self.caller(sender, peer)?;
        // First the format alone: what another one holds besides is not for this reader.
        #[derive(serde::Deserialize)]
        struct Format {
            format: u32,
        }
        if let Ok(Format { format }) = serde_json::from_slice(text)
            && format != FORMAT
        {
            let why = format!("the command speaks format {format}, the daemon {FORMAT}");
            let problem = Problem::new(Exit::Integrity, "the daemon speaks another protocol", why);
            return Err(problem.next("use the command that came with the daemon").into());
        }
        let mut envelope: Envelope = serde_json::from_slice(text).map_err(|e| {
            refused(&e.to_string()).next("are the command and the daemon of the same version?")
        })?;
        let value = envelope
            .value
            .map(|len| self.value(&envelope.request, len, peer))
            .transpose()?;
        if let Request::AuditRecords(asked) = &mut envelope.request {
            asked.call = peer.call(asked);
        }
        let _turn = self.turn(&envelope.request, peer)?;
        let mut told = Told {
            peer,
            last: Instant::now(),
        };
        let mut told = |done| told.tell(done);
        if matches!(envelope.request, Request::Backup) {
            let mut out = io::BufWriter::with_capacity(PACKET - 1, ToPeer(peer));
            let enclosed = Some(Enclosed::Backup(&mut out));
            return Ok(self
                .desk
                .answer(&envelope.request, enclosed, &mut told, &mut caller)?);
        }
        let enclosed = value.map(Enclosed::Value);
        let answer = self
            .desk
            .answer(&envelope.request, enclosed, &mut told, &mut caller)?;
        if let Request::AuditRecords(asked) = envelope.request {
            peer.asked(asked.query);
        }
        Ok(answer)
    }

    /// A long question of a stranger has its turn: one of each account, and few of all.
    fn turn(&self, request: &Request, peer: &Peer) -> Result<[Option<Place>; 2], Problem> {
        let long = matches!(
            request,
            Request::List { .. }
                | Request::Why { .. }
                | Request::PolicyCheck { .. }
                | Request::PolicyExplain { .. }
                | Request::Layers { .. }
                | Request::AuditRecords(_)
                | Request::AuditVerify
        );
        if !long || peer.uid == self.owner {
            return Ok([None, None]);
        }
        let [of_each, of_all] = &self.long;
        let begin = Instant::now();
        loop {
            if let Some(mine) = of_each.take(accounts::owner(peer.uid).0)
                && let Some(one) = of_all.take(0)
            {
                return Ok([Some(mine), Some(one)]);
            }
            if begin.elapsed() >= TURN || peer.is_gone() {
                let problem = Problem::new(Exit::Unavailable, "the question was not answered", OTHERS);
                return Err(problem.next("try again in a while"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Who sent this very message. The connection's credentials are those of whoever connected, which may be
    /// somebody else: both must agree.
    fn caller(&self, sender: Sender, peer: &Peer) -> Result<KnownCaller, Problem> {
        let mut caller = KnownCaller::supposed(peer.uid, peer.gid, peer.groups().clone());
        caller.door = "control";
        caller.gone = peer.gone.clone();
        (caller.unit, caller.process) = (None, None);
        caller.namespace = Namespace::Foreign;
        if sender.creds != Some((peer.pid, peer.uid, peer.gid)) {
            if let Some((pid, uid, gid)) = sender.creds {
                (caller.uid, caller.gid, caller.groups, caller.pid) = (uid, gid, None, Some(pid));
            }
            self.refuse(&mut caller, Reason::CredMismatch);
            return Err(Problem::new(
                Exit::Denied,
                "the request was refused",
                "the connection was opened by somebody else (cred_mismatch)",
            )
            .next("connect as the process that asks"));
        }
        caller.pid = Some(peer.pid);
        caller.tid = Some(Tid(peer.pid.0));
        // Best effort: the sender is not blocked, so this names him in the record, and decides nothing
        // but his unit, user namespace and the state of his process, which are believed only if his ids are still those
        // of the message, and his process is the one that connected.
        let mut observer = Observer::new();
        let header = Header {
            uid: peer.uid,
            gid: peer.gid,
            tid: Tid(peer.pid.0),
        };
        if let Ok(mut known) = observer.identify(&header)
            && known.start_time().is_some_and(|t| peer.started.get() == Some(&t))
        {
            caller.namespace = known.namespace();
            caller.unit = known.unit().ok().map(|u| u.map(str::to_string));
            caller = caller.seen(known.hardening().ok());
            let facts = known.for_record();
            caller.start_time = facts.start_time;
            caller.command = Some(facts.command.to_vec());
            caller.login_uid = facts.login_uid;
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

    fn value(&self, request: &Request, len: usize, peer: &Peer) -> Result<SecretBytes, Refused> {
        // Pieces of it may follow, which nobody reads: such a connection ends.
        let refused = |exit, why: String, next: String| {
            Refused(
                Problem::new(exit, "the value was not taken", why).next(next),
                Then::Close,
            )
        };
        if !matches!(request, Request::Put(_)) {
            let next = "use the command that came with the daemon";
            return Err(refused(Exit::Usage, "the request takes none".into(), next.into()));
        }
        let max_value = self.desk.lifecycle.max_value();
        let bounds = || format!("a value is 1 to {max_value} bytes");
        if len > max_value {
            let why = format!("the value has {len} bytes; at most {} are allowed", max_value);
            return Err(refused(Exit::Usage, why, bounds()));
        }
        if len == 0 {
            return crate::sys::mem::secret(0)
                .map_err(|e| refused(Exit::Unavailable, e.to_string(), bounds()));
        }
        peer.value(len).map_err(|e| {
            let exit = match e {
                super::peer::NoValue::Broken => Exit::Usage,
                super::peer::NoValue::Memory(_) => Exit::Unavailable,
            };
            refused(exit, e.to_string(), bounds())
        })
    }
}

/// What becomes of a connection after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Next,
    Close,
}

/// An answer that is a refusal.
struct Refused(Problem, Then);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Refused {
        Refused(problem, Then::Next)
    }
}

/// A backup on its way.
struct ToPeer<'p>(&'p Peer);

impl io::Write for ToPeer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PACKET - 1)];
        self.0.send(Part::Backup, piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells the asking side how far a long task is, a few times a second.
struct Told<'p> {
    peer: &'p Peer,
    last: Instant,
}

impl Told<'_> {
    fn tell(&mut self, done: u64) {
        if self.last.elapsed() >= TELL {
            self.last = Instant::now();
            // Whoever asked and went away is noticed at the answer.
            let _ = self.peer.send(Part::Progress, &done.to_be_bytes());
        }
    }
}
