//! The daemon's side of one connection: who is there, what is sent to him, and the value that he sends. The connection
//! itself is the front's.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::Query;
use crate::id::{Gid, Pid, Uid};
use crate::places::Place;
use crate::secret::SecretBytes;
use crate::sys::front::frame::{self, Kind};
use crate::sys::socket::Connection;

use super::protocol::{Call, PACKET, Part, Records};

/// Bytes of replies that the front may have for a peer who does not read them.
const WINDOW: usize = 4 * PACKET;
/// How long he may leave them unread, and how long his value may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is at the other end.
pub(super) struct Peer {
    channel: Arc<Connection>,
    number: u64,
    /// As the kernel noted them when he connected.
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) pid: Pid,
    /// When that process began, if it still lived at the first request.
    pub(super) started: OnceLock<u64>,
    groups: Mutex<Vec<Gid>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Set when nobody waits for an answer any more.
    pub(super) gone: Arc<AtomicBool>,
    _places: (Option<Place>, Place),
}

#[derive(Default)]
struct State {
    /// Bytes sent that he has not taken.
    unwritten: usize,
    value: Option<Intake>,
    /// What he asked the log on record, and was told.
    query: Option<Query>,
}

struct Intake {
    bytes: SecretBytes,
    filled: usize,
    /// Pieces that came, good or bad.
    pieces: usize,
    bad: bool,
}

/// Why a value did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoValue {
    #[error("it did not come whole: a piece of it is missing, or is none")]
    Broken,
    #[error("{0}")]
    Memory(io::Error),
}

impl Peer {
    pub(super) fn new(
        channel: Arc<Connection>,
        number: u64,
        (uid, gid, pid): (Uid, Gid, Pid),
        places: (Option<Place>, Place),
    ) -> Peer {
        Peer {
            channel,
            number,
            uid,
            gid,
            pid,
            started: OnceLock::new(),
            groups: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            gone: Arc::default(),
            _places: places,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Supplementary groups, as they were when he connected.
    pub(super) fn groups(&self) -> MutexGuard<'_, Vec<Gid>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Nobody is there any more: whatever waits for him ends.
    pub(super) fn left(&self) {
        self.gone.store(true, Ordering::SeqCst);
        drop(self.state());
        self.changed.notify_all();
    }

    /// He took so many bytes.
    pub(super) fn took(&self, bytes: usize) {
        let mut state = self.state();
        state.unwritten = state.unwritten.saturating_sub(bytes);
        drop(state);
        self.changed.notify_all();
    }

    /// A packet that was asked for came.
    pub(super) fn brought(&self, packet: &[u8]) {
        let mut state = self.state();
        if let Some(value) = &mut state.value {
            value.pieces += 1;
            match packet.split_first() {
                Some((kind, piece))
                    if Part::from_byte(*kind) == Some(Part::Value)
                        && !piece.is_empty()
                        && piece.len() <= value.bytes.len() - value.filled =>
                {
                    let end = value.filled + piece.len();
                    value.bytes.expose_mut()[value.filled..end].copy_from_slice(piece);
                    value.filled = end;
                }
                _ => value.bad = true,
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until `ready` gives something.
    fn until<T>(&self, end: Instant, mut ready: impl FnMut(&mut State) -> Option<T>) -> io::Result<T> {
        let mut state = self.state();
        loop {
            if self.is_gone() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if let Some(found) = ready(&mut state) {
                return Ok(found);
            }
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let waited = self.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends him a packet of a reply. Whoever reads nothing makes it fail, and makes nobody else wait.
    pub(super) fn send(&self, part: Part, piece: &[u8]) -> io::Result<()> {
        let bytes = piece.len() + 1;
        self.until(Instant::now() + PATIENCE, |state| {
            let room = state.unwritten == 0 || state.unwritten + bytes <= WINDOW;
            room.then(|| state.unwritten += bytes)
        })?;
        frame::send(&self.channel, Kind::Reply, self.number, &[&[part as u8], piece])
    }

    /// Whether a question to the log goes on with the one before it on this connection, which is on record.
    pub(super) fn call(&self, asked: &Records) -> Call {
        match asked.from.is_some() && self.state().query.as_ref() == Some(&asked.query) {
            true => Call::Continued,
            false => Call::Begun,
        }
    }

    /// The log was asked on record.
    pub(super) fn asked(&self, query: Query) {
        self.state().query = Some(query);
    }

    fn say(&self, kind: Kind) {
        // A front that is gone takes its connections with it.
        let _ = frame::send(&self.channel, kind, self.number, &[]);
    }

    /// The reply is complete.
    pub(super) fn next(&self) {
        self.say(Kind::Next);
    }

    /// Shows him out, once he has what was sent.
    pub(super) fn close(&self) {
        self.say(Kind::Close);
    }

    /// The value of `len` bytes that his request announced.
    pub(super) fn value(&self, len: usize) -> Result<SecretBytes, NoValue> {
        let bytes = crate::sys::mem::secret(len).map_err(NoValue::Memory)?;
        self.state().value = Some(Intake {
            bytes,
            filled: 0,
            pieces: 0,
            bad: false,
        });
        let end = Instant::now() + PATIENCE;
        let mut asked = 0;
        loop {
            asked += 1;
            self.say(Kind::Want);
            let whole = self.until(end, |state| {
                let value = state.value.as_ref()?;
                let done = value.bad || value.filled == len;
                (done || value.pieces == asked).then_some((done, value.bad))
            });
            match whole {
                Ok((false, _)) => continue,
                Ok((true, false)) => {
                    let value = self.state().value.take();
                    return value.map(|v| v.bytes).ok_or(NoValue::Broken);
                }
                Ok((true, true)) | Err(_) => {
                    self.state().value = None;
                    return Err(NoValue::Broken);
                }
            }
        }
    }
}
