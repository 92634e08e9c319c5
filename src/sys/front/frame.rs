//! What the daemon and its front say to each other: packets of a kind (1 byte), the number of a connection (8 bytes,
//! little-endian) and what the kind says follows.

use std::io;

use crate::id::{Gid, Pid, Uid};
use crate::sys::socket::Connection;

/// Bytes before what a frame carries.
pub const HEAD: usize = 9;
/// The longest packet of a peer that is passed on; what is longer is passed on as nothing.
pub const MAX_PACKET: usize = 128 * 1024;
/// The longest frame: a peer's packet with its sender.
pub const MAX_FRAME: usize = HEAD + Sender::LEN + MAX_PACKET;
/// How many groups one frame carries.
pub const GROUPS: usize = 16 * 1024;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// From the front: it listens.
    Bound = 1,
    /// It cannot: the words why.
    Failed,
    /// It turns to this connection, for what may take long or be its end.
    Turning,
    /// A connection: uid, gid, pid (4 bytes each).
    Open,
    /// Supplementary groups, 4 bytes each, and more of them in the next frame of this kind; before the first `Request`.
    Groups,
    /// When the process of the connection began, in clock ticks since boot (8 bytes); before the first `Request`. Not
    /// there if that process has ended.
    Started,
    /// The peer's packet: its [`Sender`], then its bytes.
    Request,
    /// A packet that was asked for.
    Value,
    /// So many bytes (4) of replies were handed to the peer.
    Written,
    /// The peer is gone, or was shown out.
    Gone,
    /// Nothing is left of the connection.
    Closed,
    /// The answer to `Ping`.
    Pong,
    /// From the daemon: a packet for the peer.
    Reply,
    /// The next packet is wanted, as a part of the present request.
    Want,
    /// The reply is complete.
    Next,
    /// The connection is to end, once what was replied is written.
    Close,
    /// Are you there?
    Ping,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        [
            Bound, Failed, Turning, Open, Groups, Started, Request, Value, Written, Gone, Closed, Pong,
            Reply, Want, Next, Close, Ping,
        ]
        .into_iter()
        .find(|k| *k as u8 == byte)
    }
}

/// The head of a frame.
pub fn head(kind: Kind, conn: u64) -> [u8; HEAD] {
    let mut head = [kind as u8; HEAD];
    head[1..].copy_from_slice(&conn.to_le_bytes());
    head
}

/// A frame taken apart; `None` if it is none.
pub fn parse(frame: &[u8]) -> Option<(Kind, u64, &[u8])> {
    let (head, rest) = frame.split_first_chunk::<HEAD>()?;
    let [kind, conn @ ..] = *head;
    Some((Kind::from_byte(kind)?, u64::from_le_bytes(conn), rest))
}

/// The first number of four bytes in a frame's rest, and what follows.
pub fn number(rest: &[u8]) -> Option<(u32, &[u8])> {
    let (bytes, rest) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*bytes), rest))
}

/// Who sent one packet, as the kernel says of this very packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Process and ids; none if the kernel gave none.
    pub creds: Option<(Pid, Uid, Gid)>,
    /// The packet was too long, and is not there.
    pub too_long: bool,
}

impl Sender {
    /// Bytes of one.
    pub const LEN: usize = 13;

    /// For a frame.
    pub fn bytes(&self) -> [u8; Self::LEN] {
        let (pid, uid, gid) = self.creds.map_or((0, 0, 0), |(p, u, g)| (p.0, u.0, g.0));
        let mut out = [u8::from(self.creds.is_some()) | u8::from(self.too_long) << 1; Self::LEN];
        for (at, number) in [(1, pid), (5, uid), (9, gid)] {
            out[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// Of a frame, and what follows.
    pub fn parse(rest: &[u8]) -> Option<(Sender, &[u8])> {
        let (flags, rest) = rest.split_first()?;
        let (pid, rest) = number(rest)?;
        let (uid, rest) = number(rest)?;
        let (gid, rest) = number(rest)?;
        let creds = (flags & 1 != 0).then_some((Pid(pid), Uid(uid), Gid(gid)));
        let too_long = flags & 2 != 0;
        Some((Sender { creds, too_long }, rest))
    }
}

/// Sends a frame to the front, which always reads.
///
/// # Errors
/// If it is gone or hangs.
pub fn send(channel: &Connection, kind: Kind, conn: u64, parts: &[&[u8]]) -> io::Result<()> {
    let head = head(kind, conn);
    match parts {
        [] => channel.send(&head),
        [one] => channel.send_all(&[&head, one]),
        [one, two, ..] => channel.send_all(&[&head, one, two]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_senders_come_back_as_they_were() {
        for byte in 0..=u8::MAX {
            if let Some(kind) = Kind::from_byte(byte) {
                let frame = [&head(kind, 7 << 40)[..], b"rest"].concat();
                assert_eq!(parse(&frame), Some((kind, 7 << 40, &b"rest"[..])));
            }
        }
        assert_eq!((parse(b""), parse(&[1; 8]), parse(&[0; 20])), (None, None, None));
        for creds in [None, Some((Pid(1), Uid(u32::MAX), Gid(3)))] {
            for too_long in [false, true] {
                let sender = Sender { creds, too_long };
                let bytes = [&sender.bytes()[..], b"x"].concat();
                assert_eq!(Sender::parse(&bytes), Some((sender, &b"x"[..])));
            }
        }
        assert_eq!(Sender::parse(&[1; 12]), None);
    }
}
