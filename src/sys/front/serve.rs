//! The front's loop. It never waits for a peer, nor for the daemon while the daemon waits for it: what cannot be
//! written now is kept within bounds, and whoever has his bound is not read from.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use zeroize::Zeroize;

use super::frame::{self, GROUPS, HEAD, Kind, MAX_FRAME, MAX_PACKET, Sender};
use crate::id::{Pid, Uid};
use crate::secret::SecretBytes;
use crate::sys::socket::{Connection, Listener};

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(30);
/// How often silent ones are looked for, and what could not be ended yet.
const STEP: Duration = Duration::from_secs(1);
/// Bytes of strangers' requests that the daemon has not answered: who brings more waits.
const HELD: usize = 8 << 20;
/// Connections of strangers that are shown out with an answer, beyond those that they may have.
const SHOWN_OUT: usize = 8;
/// Threads that wait for the end of connections.
const CLOSERS: usize = 64;

const LISTENER: u64 = 0;
const CHANNEL: u64 = 1;

struct Peer {
    socket: Connection,
    uid: Uid,
    pid: Pid,
    /// Whether the daemon was told what is read once.
    introduced: bool,
    turn: Turn,
    /// Bytes of its request, while it is answered.
    held: usize,
    out: VecDeque<Vec<u8>>,
    closing: bool,
    since: Instant,
    watched: EpollFlags,
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The peer's: a request is awaited.
    Peer,
    /// The daemon's.
    Daemon,
    /// The peer's: a part of the present request is awaited.
    Part,
}

pub(super) struct Front {
    channel: Arc<Connection>,
    listener: Listener,
    /// Requests and values pass through here, and nothing else keeps them.
    buffer: SecretBytes,
    /// Bytes of the buffer that the daemon did not take yet.
    pending: usize,
    /// For what the daemon says.
    heard: Vec<u8>,
    /// Small frames that the daemon did not take yet.
    queue: VecDeque<Vec<u8>>,
    epoll: Epoll,
    peers: HashMap<u64, Peer>,
    last: u64,
    owner: Uid,
    /// Connections that all but the owner may have, and have.
    may: usize,
    have: Arc<AtomicUsize>,
    /// Bytes of strangers' requests with the daemon.
    held: usize,
    /// Who was not read from because of that.
    parked: Vec<u64>,
    closing: Arc<AtomicUsize>,
    /// What no thread could be had for.
    unclosed: Vec<(u64, Uid, Connection)>,
    listening: bool,
}

impl Front {
    pub(super) fn new(
        channel: Connection,
        listener: Listener,
        buffer: SecretBytes,
        (owner, strangers): (Uid, usize),
    ) -> io::Result<Front> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&channel, EpollEvent::new(EpollFlags::EPOLLIN, CHANNEL))?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Front {
            channel: Arc::new(channel),
            listener,
            buffer,
            pending: 0,
            heard: vec![0; MAX_FRAME],
            queue: VecDeque::new(),
            epoll,
            peers: HashMap::new(),
            last: CHANNEL,
            owner,
            may: strangers + SHOWN_OUT,
            have: Arc::default(),
            held: 0,
            parked: Vec::new(),
            closing: Arc::default(),
            unclosed: Vec::new(),
            listening: true,
        })
    }

    /// Until the daemon is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        let made = self.listener.inode();
        let made = [made.device, made.number].map(u64::to_le_bytes).concat();
        self.tell(Kind::Bound, 0, &made);
        let mut events = [EpollEvent::empty(); 64];
        let mut looked = Instant::now();
        loop {
            let step = EpollTimeout::try_from(STEP).unwrap_or(EpollTimeout::ZERO);
            let count = match self.epoll.wait(&mut events, step) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    CHANNEL => {
                        if !self.hear()? {
                            return Ok(());
                        }
                    }
                    LISTENER => self.accept(),
                    number => self.attend(number, event.events()),
                }
                if !self.drain()? {
                    return Ok(());
                }
            }
            if looked.elapsed() >= STEP {
                looked = Instant::now();
                self.look_around();
            }
        }
    }

    /// Tells the daemon, or keeps it for later.
    fn tell(&mut self, kind: Kind, number: u64, rest: &[u8]) {
        let frame = [&frame::head(kind, number)[..], rest].concat();
        if self.pending > 0 || !self.queue.is_empty() || self.channel.try_send(&[&frame]).is_err() {
            self.queue.push_back(frame);
        }
    }

    /// Waits until the daemon has taken all, and hears it meanwhile; false if it is gone.
    fn drain(&mut self) -> io::Result<bool> {
        loop {
            if self.pending > 0 && self.queue.is_empty() {
                match self.channel.try_send(&[&self.buffer.expose()[..self.pending]]) {
                    Ok(()) => self.forget(),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Ok(false),
                }
            }
            while let Some(first) = self.queue.front() {
                match self.channel.try_send(&[first]) {
                    Ok(()) => drop(self.queue.pop_front()),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return Ok(false),
                }
            }
            if self.pending == 0 && self.queue.is_empty() {
                return Ok(true);
            }
            let channel = self.channel.clone();
            let mut fds = [PollFd::new(
                channel.as_fd(),
                PollFlags::POLLIN | PollFlags::POLLOUT,
            )];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let heard = fds[0].revents().unwrap_or(PollFlags::empty());
            if heard.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) && !self.hear()? {
                return Ok(false);
            }
        }
    }

    /// Wipes what passed.
    fn forget(&mut self) {
        self.buffer.expose_mut()[..self.pending].zeroize();
        self.pending = 0;
    }

    /// What the daemon says, a few frames at a time; false if it is gone.
    fn hear(&mut self) -> io::Result<bool> {
        let mut frame = std::mem::take(&mut self.heard);
        let alive = self.hear_into(&mut frame);
        self.heard = frame;
        alive
    }

    fn hear_into(&mut self, frame: &mut [u8]) -> io::Result<bool> {
        for _ in 0..16 {
            let message = match self.channel.try_recv(frame) {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
            };
            let Some((kind, number, rest)) = frame::parse(&frame[..message.len]) else {
                continue;
            };
            match kind {
                Kind::Reply => self.reply(number, rest),
                Kind::Want => self.turn(number, Turn::Part),
                Kind::Next => {
                    self.release(number);
                    self.turn(number, Turn::Peer);
                }
                Kind::Close => {
                    if let Some(peer) = self.peers.get_mut(&number) {
                        (peer.closing, peer.since) = (true, Instant::now());
                        if peer.out.is_empty() {
                            self.end(number);
                        }
                    }
                }
                Kind::Ping => self.tell(Kind::Pong, 0, &[]),
                _ => {}
            }
        }
        Ok(true)
    }

    fn turn(&mut self, number: u64, turn: Turn) {
        if let Some(peer) = self.peers.get_mut(&number) {
            (peer.turn, peer.since) = (turn, Instant::now());
            self.watch(number);
        }
    }

    /// A request is answered: what it held can be another's.
    fn release(&mut self, number: u64) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        let held = std::mem::take(&mut peer.held);
        self.freed(held);
    }

    fn freed(&mut self, bytes: usize) {
        self.held -= bytes;
        if bytes > 0 && self.held + MAX_FRAME <= HELD {
            for parked in std::mem::take(&mut self.parked) {
                self.watch(parked);
            }
        }
    }

    /// Asks for the events that a peer's state calls for; its end is always told.
    fn watch(&mut self, number: u64) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, peer.turn != Turn::Daemon && !peer.closing);
        wanted.set(EpollFlags::EPOLLOUT, !peer.out.is_empty());
        if wanted != peer.watched {
            peer.watched = wanted;
            let mut event = EpollEvent::new(wanted, number);
            if self.epoll.modify(&peer.socket, &mut event).is_err() {
                self.end(number);
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..16 {
            match self.listener.try_accept() {
                Ok(Some(socket)) => self.welcome(socket),
                Ok(None) => return,
                // No descriptor, no memory: the others go on, and this is tried again in a while.
                Err(_) => return self.listen(false),
            }
        }
    }

    fn listen(&mut self, listening: bool) {
        let flags = if listening {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::empty()
        };
        self.listening = listening;
        let _ = self
            .epoll
            .modify(&self.listener, &mut EpollEvent::new(flags, LISTENER));
    }

    fn welcome(&mut self, socket: Connection) {
        self.last += 1;
        let number = self.last;
        let Ok(ids) = socket.peer_ids() else {
            return self.dispose(number, self.owner, socket);
        };
        let (pid, uid, gid) = ids;
        if uid != self.owner && self.have.fetch_add(1, Ordering::SeqCst) >= self.may {
            return self.dispose(number, uid, socket);
        }
        if self
            .epoll
            .add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))
            .is_err()
        {
            return self.dispose(number, uid, socket);
        }
        let peer = Peer {
            socket,
            uid,
            pid,
            introduced: false,
            turn: Turn::Peer,
            held: 0,
            out: VecDeque::new(),
            closing: false,
            since: Instant::now(),
            watched: EpollFlags::EPOLLIN,
        };
        self.peers.insert(number, peer);
        let ids: Vec<u8> = [uid.0, gid.0, pid.0]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        self.tell(Kind::Open, number, &ids);
    }

    fn attend(&mut self, number: u64, events: EpollFlags) {
        if events.contains(EpollFlags::EPOLLOUT) {
            self.write(number);
        }
        let readable = self
            .peers
            .get(&number)
            .is_some_and(|p| p.watched.contains(EpollFlags::EPOLLIN));
        if readable && events.contains(EpollFlags::EPOLLIN) {
            self.read(number);
        } else if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.end(number);
        }
    }

    fn read(&mut self, number: u64) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        let stranger = peer.uid != self.owner;
        if peer.turn == Turn::Peer && stranger && self.held + MAX_FRAME > HELD {
            peer.watched = EpollFlags::empty();
            let _ = self
                .epoll
                .modify(&peer.socket, &mut EpollEvent::new(peer.watched, number));
            return self.parked.push(number);
        }
        self.tell(Kind::Turning, number, &[]);
        // What comes with descriptors is not even read, so that they end with the connection, elsewhere.
        let may_bring = !self.listener.refuses_rights();
        if may_bring && self.peers.get(&number).is_some_and(|p| p.socket.brings_rights()) {
            return self.end(number);
        }
        if !self.peers.get(&number).is_some_and(|p| p.introduced) {
            self.introduce(number);
        }
        if !self.queue.is_empty() {
            // The daemon is behind: the packet stays where it is.
            return;
        }
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        let from = match peer.turn {
            Turn::Part => HEAD,
            _ => HEAD + Sender::LEN,
        };
        let message = match peer.socket.try_recv(&mut self.buffer.expose_mut()[from..]) {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(_) => return self.end(number),
        };
        let too_long = message.truncated || message.len > MAX_PACKET;
        self.pending = from + message.len.min(MAX_PACKET);
        // An empty packet ends a connection, and so does a part that cannot be one.
        if message.len == 0 || too_long && peer.turn == Turn::Part {
            self.forget();
            return self.end(number);
        }
        let kind = match peer.turn {
            Turn::Part => Kind::Value,
            _ => Kind::Request,
        };
        if kind == Kind::Request {
            if too_long {
                self.buffer.expose_mut()[from..self.pending].zeroize();
                self.pending = from;
            }
            let sender = Sender {
                creds: message.creds,
                too_long,
            };
            self.buffer.expose_mut()[HEAD..from].copy_from_slice(&sender.bytes());
            if stranger {
                peer.held = self.pending;
                self.held += peer.held;
            }
        }
        self.buffer.expose_mut()[..HEAD].copy_from_slice(&frame::head(kind, number));
        peer.turn = Turn::Daemon;
        self.watch(number);
        if self
            .channel
            .try_send(&[&self.buffer.expose()[..self.pending]])
            .is_ok()
        {
            self.forget();
        }
    }

    /// What is read of a peer once, as it was when it connected.
    fn introduce(&mut self, number: u64) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        peer.introduced = true;
        let Ok(facts) = peer.socket.peer() else {
            return self.end(number);
        };
        let started = crate::sys::caller::started(peer.pid);
        // It is that process's if that process lives now.
        let lives = facts.pidfd.as_ref().is_none_or(|pidfd| !ended(pidfd));
        for groups in facts.groups.chunks(GROUPS) {
            let bytes: Vec<u8> = groups.iter().flat_map(|g| g.0.to_le_bytes()).collect();
            self.tell(Kind::Groups, number, &bytes);
        }
        if let Some(started) = started.filter(|_| lives) {
            self.tell(Kind::Started, number, &started.to_le_bytes());
        }
    }

    fn reply(&mut self, number: u64, packet: &[u8]) {
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.out.push_back(packet.to_vec());
            self.write(number);
        }
    }

    fn write(&mut self, number: u64) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        let (mut written, mut broken) = (0, false);
        while let Some(first) = peer.out.front() {
            match peer.socket.try_send(&[first]) {
                Ok(()) => written += first.len(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
            peer.out.pop_front();
        }
        peer.since = Instant::now();
        let done = broken || peer.closing && peer.out.is_empty();
        if written > 0 {
            self.tell(Kind::Written, number, &(written as u32).to_le_bytes());
        }
        match done {
            true => self.end(number),
            false => self.watch(number),
        }
    }

    fn look_around(&mut self) {
        let silent = |p: &Peer| {
            let silence = p.since.elapsed();
            p.turn == Turn::Peer && silence > IDLE || p.closing && silence > STEP
        };
        let silent: Vec<u64> = self
            .peers
            .iter()
            .filter(|(_, p)| silent(p))
            .map(|(n, _)| *n)
            .collect();
        for number in silent {
            self.end(number);
        }
        for (number, uid, socket) in std::mem::take(&mut self.unclosed) {
            self.dispose(number, uid, socket);
        }
        if !self.listening {
            self.listen(true);
        }
    }

    fn end(&mut self, number: u64) {
        let Some(peer) = self.peers.remove(&number) else {
            return;
        };
        self.tell(Kind::Gone, number, &[]);
        self.freed(peer.held);
        let _ = self.epoll.delete(&peer.socket);
        self.dispose(number, peer.uid, peer.socket);
    }

    /// The end of a connection. What lies unread in it ends with it, and may take as long as its sender likes.
    fn dispose(&mut self, number: u64, uid: Uid, socket: Connection) {
        let counted = uid != self.owner;
        if self.listener.refuses_rights() {
            drop(socket);
            if counted {
                self.have.fetch_sub(1, Ordering::SeqCst);
            }
            return self.tell(Kind::Closed, number, &[]);
        }
        if self.closing.fetch_add(1, Ordering::SeqCst) >= CLOSERS {
            self.closing.fetch_sub(1, Ordering::SeqCst);
            return self.unclosed.push((number, uid, socket));
        }
        let (have, closing, channel) = (self.have.clone(), self.closing.clone(), self.channel.clone());
        let kept = Arc::new(std::sync::Mutex::new(Some(socket)));
        let taken = kept.clone();
        let spawned = std::thread::Builder::new().name("closer".into()).spawn(move || {
            let socket = taken.lock().ok().and_then(|mut s| s.take());
            drop(socket);
            closing.fetch_sub(1, Ordering::SeqCst);
            if counted {
                have.fetch_sub(1, Ordering::SeqCst);
            }
            let _ = frame::send(&channel, Kind::Closed, number, &[]);
        });
        if spawned.is_err() {
            self.closing.fetch_sub(1, Ordering::SeqCst);
            let socket = kept.lock().ok().and_then(|mut s| s.take());
            self.unclosed.extend(socket.map(|s| (number, uid, s)));
        }
    }
}

/// Whether a process has ended.
fn ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    debug_assert!(pidfd.as_raw_fd() >= 0);
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}
