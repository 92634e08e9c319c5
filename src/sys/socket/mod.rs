//! The control socket's plumbing: `AF_UNIX` packets with the credentials of each. No descriptor is ever taken from a
//! packet: what a peer could send would be flushed, released and waited for in this process.

mod receive;

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::RenameFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{self, AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::stat::{Mode, SFlag, umask};
use nix::sys::time::TimeVal;

use super::checked;
use super::dir::{self, Dir, Inode};
use super::mount::poll_time;
use crate::id::{Gid, Pid, Uid};

/// Linux 6.16: whether packets with descriptors may be sent to this socket (asm-generic/socket.h).
const SO_PASSRIGHTS: libc::c_int = 83;
/// How long a peer may leave a packet unread before sending to it fails.
const SEND_TIME: i64 = 10;

/// A listening control socket. Its file stays when it is dropped; the next [`Listener::bind`] replaces it.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    refuses: bool,
    inode: Inode,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    /// Whether credentials come with each packet.
    asks: bool,
}

/// Who connected, as the kernel noted it **at that moment**. Whoever uses the connection later may be somebody
/// else: compare with each [`Message::creds`].
#[derive(Debug)]
pub struct Peer {
    /// Effective uid at connect.
    pub uid: Uid,
    /// Effective gid at connect.
    pub gid: Gid,
    /// The process; 0 if it is outside of our pid namespace.
    pub pid: Pid,
    /// Supplementary groups at connect.
    pub groups: Vec<Gid>,
    /// The process itself (Linux 6.5).
    pub pidfd: Option<OwnedFd>,
}

/// One packet. Its bytes are in the buffer that was given.
#[derive(Debug)]
pub struct Message {
    /// Bytes received.
    pub len: usize,
    /// The sender of **this** message (`SCM_CREDENTIALS`): its real ids, or saved ones that it may claim. There if
    /// the socket asked for them (an accepted one always did).
    pub creds: Option<(Pid, Uid, Gid)>,
    /// Descriptors were sent with it, for which there was no room.
    pub rights: bool,
    /// The packet was longer than the buffer; the rest is lost.
    pub truncated: bool,
}

fn new_socket() -> io::Result<OwnedFd> {
    let kind = SockType::SeqPacket;
    Ok(socket::socket(
        AddressFamily::Unix,
        kind,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// Lets nobody send descriptors to the socket, nor to those that are accepted on it; false where the kernel cannot.
fn refuse_rights(fd: &OwnedFd) -> bool {
    let off: libc::c_int = 0;
    // SAFETY: one int is read at `off`, which outlives the call.
    let ret = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            std::ptr::from_ref(&off).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    ret == 0
}

/// Who may have the path of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// Only if nobody answers there.
    Free,
    /// Whoever answers there is somebody of ours who hangs.
    Over,
}

/// A path's address. A path may be longer than an address (107 bytes), so it goes by a descriptor.
fn address(path: &Path) -> io::Result<UnixAddr> {
    Ok(UnixAddr::new(path)?)
}

impl Listener {
    /// Listens at `name` in `dir`, for everybody (mode 0666). A socket that is there is replaced, in one step.
    ///
    /// # Errors
    /// Kind `AddrInUse` if somebody answers and may not be replaced, `AlreadyExists` if the name is something else's than
    /// a socket's.
    pub fn bind(dir: &Dir, name: &OsStr, taking: Taking) -> io::Result<Listener> {
        match dir.look(name)? {
            None => {}
            Some(found) if dir::kind(&found) != SFlag::S_IFSOCK => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "the control socket's path is taken by something that is not a socket",
                ));
            }
            Some(_) if taking == Taking::Over => {}
            Some(_) => match Connection::to(dir, name) {
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "another process answers on the control socket",
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                // Whoever listens there for another kind of socket is somebody, too.
                Err(e) => return Err(e),
            },
        }
        // Made beside it and renamed: there is no moment without a socket.
        let mut fresh = OsString::from(".");
        fresh.push(name);
        fresh.push(format!(".{}", std::process::id()));
        if let Some(left) = dir.look(&fresh)? {
            let _ = dir.remove(&fresh, Inode::from(&left));
        }
        let listener = Self::make(dir, &fresh)?;
        let renamed = dir.rename(&fresh, name, RenameFlags::empty());
        if renamed.is_err() {
            let _ = dir.remove(&fresh, listener.inode);
        }
        renamed.map(|()| listener)
    }

    fn make(dir: &Dir, name: &OsStr) -> io::Result<Listener> {
        let fd = new_socket()?;
        // Before anybody can connect: accepted sockets inherit it, so no message comes without credentials.
        socket::setsockopt(&fd, sockopt::PassCred, &true)?;
        let refuses = refuse_rights(&fd);
        // Born with its mode: to change it by its name would be to change that of whatever has the name by then. The
        // umask is the process's if this thread cannot have one of its own; the front has one thread.
        let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS);
        let umask = umask(Mode::from_bits_truncate(0o111));
        let bound = address(&dir.path(name)?).and_then(|at| Ok(socket::bind(fd.as_raw_fd(), &at)?));
        self::umask(umask);
        bound?;
        let found = dir.look(name)?.ok_or(io::ErrorKind::NotFound)?;
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        socket::listen(&fd, Backlog::new(512)?)?;
        let inode = Inode::from(&found);
        Ok(Listener { fd, refuses, inode })
    }

    /// The socket in its directory.
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// Whether the kernel keeps descriptors away from its connections.
    pub fn refuses_rights(&self) -> bool {
        self.refuses
    }

    /// Waits for the next connection.
    pub fn accept(&self) -> io::Result<Connection> {
        loop {
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            let _ = nix::poll::poll(&mut fds, PollTimeout::NONE);
            if let Some(connection) = self.try_accept()? {
                return Ok(connection);
            }
        }
    }

    /// The next connection; `None` if nobody waits.
    pub fn try_accept(&self) -> io::Result<Option<Connection>> {
        loop {
            match socket::accept4(self.fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(e) => return Err(e.into()),
                Ok(fd) => {
                    // SAFETY: a new descriptor that nobody else owns.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                    let connection = Connection { fd, asks: true };
                    socket::setsockopt(&connection.fd, sockopt::PassCred, &true)?;
                    connection.limit_sending()?;
                    return Ok(Some(connection));
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// As [`Connection::to`].
    pub fn connect(path: &Path) -> io::Result<Connection> {
        let (dir, name) = Dir::of(path)?;
        Connection::to(&dir, &name)
    }

    /// Connects to the socket `name` in `dir`, which is no link.
    ///
    /// # Errors
    /// Kind `NotFound` and `ConnectionRefused` if nobody listens there, ELOOP for a link.
    pub fn to(dir: &Dir, name: &OsStr) -> io::Result<Connection> {
        let connection = Connection::from_fd(new_socket()?);
        refuse_rights(&connection.fd);
        // First: to connect to somebody who accepts nobody takes as long as to send.
        connection.limit_sending()?;
        let found = dir.held(name)?;
        match dir::kind(&nix::sys::stat::fstat(&found)?) {
            SFlag::S_IFSOCK => {}
            SFlag::S_IFLNK => return Err(Errno::ELOOP.into()),
            _ => return Err(Errno::ECONNREFUSED.into()),
        }
        let connected = socket::connect(connection.fd.as_raw_fd(), &address(&dir::held(found.as_fd()))?);
        match connected {
            Err(Errno::ENOENT) => Err(io::Error::other("/proc is not mounted here")),
            other => Ok(other.map(|()| connection)?),
        }
    }

    /// Two connected ends, for a child process. Neither asks for credentials.
    pub fn pair() -> io::Result<(Connection, Connection)> {
        let (a, b) = socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Connection::from_fd(a), Connection::from_fd(b)))
    }

    /// Takes over a connected packet socket, which did not ask for credentials.
    pub fn from_fd(fd: OwnedFd) -> Connection {
        Connection { fd, asks: false }
    }

    /// A packet that is not taken within 10 s is an error.
    pub fn limit_sending(&self) -> io::Result<()> {
        Ok(socket::setsockopt(
            &self.fd,
            sockopt::SendTimeout,
            &TimeVal::new(SEND_TIME, 0),
        )?)
    }

    /// Who connected.
    pub fn peer(&self) -> io::Result<Peer> {
        let (pid, uid, gid) = self.peer_ids()?;
        Ok(Peer {
            uid,
            gid,
            pid,
            groups: self.peer_groups()?,
            pidfd: self.peer_pidfd(),
        })
    }

    fn peer_groups(&self) -> io::Result<Vec<Gid>> {
        let mut groups: Vec<libc::gid_t> = vec![0; 64];
        loop {
            let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
            // SAFETY: the buffer has `bytes` writable bytes; it and the length outlive the call.
            let got = checked(
                unsafe {
                    libc::getsockopt(
                        self.fd.as_raw_fd(),
                        libc::SOL_SOCKET,
                        libc::SO_PEERGROUPS,
                        groups.as_mut_ptr().cast(),
                        &mut bytes,
                    )
                }
                .into(),
            );
            let count = bytes as usize / size_of::<libc::gid_t>();
            match got {
                Ok(_) => return Ok(groups.into_iter().take(count).map(Gid).collect()),
                // Too small: the kernel says what is needed (at most 65,536 groups).
                Err(e) if e.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                    groups.resize(count, 0);
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn peer_pidfd(&self) -> Option<OwnedFd> {
        let mut fd: RawFd = -1;
        let mut len = size_of::<RawFd>() as libc::socklen_t;
        // SAFETY: one int is writable at `fd`; it and the length outlive the call.
        let ret = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERPIDFD,
                std::ptr::from_mut(&mut fd).cast(),
                &mut len,
            )
        };
        // SAFETY: a new descriptor (close-on-exec) that nobody else owns.
        (ret == 0 && fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Process, uid and gid of the other end: who connected, or who listens.
    pub fn peer_ids(&self) -> io::Result<(Pid, Uid, Gid)> {
        let ids = socket::getsockopt(&self.fd, sockopt::PeerCredentials)?;
        let pid = Pid(u32::try_from(ids.pid()).unwrap_or(0));
        Ok((pid, Uid(ids.uid()), Gid(ids.gid())))
    }

    /// Sends one packet. A peer that reads nothing makes it fail (10 s); one that is gone is EPIPE, without a signal.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_parts(&[bytes], MsgFlags::empty())
    }

    /// Sends one packet without waiting; kind `WouldBlock` if there is no room.
    pub fn try_send(&self, parts: &[&[u8]]) -> io::Result<()> {
        self.send_parts(parts, MsgFlags::MSG_DONTWAIT)
    }

    /// Sends one packet made of `parts`, which are copied nowhere else.
    pub fn send_all(&self, parts: &[&[u8]]) -> io::Result<()> {
        self.send_parts(parts, MsgFlags::empty())
    }

    fn send_parts(&self, parts: &[&[u8]], flags: MsgFlags) -> io::Result<()> {
        let parts: Vec<_> = parts.iter().map(|p| IoSlice::new(p)).collect();
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        loop {
            match socket::sendmsg::<()>(self.fd.as_raw_fd(), &parts, &[], flags, None) {
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Ends the connection for both sides, whoever holds copies of it.
    pub fn shutdown(&self) {
        let _ = socket::shutdown(self.fd.as_raw_fd(), socket::Shutdown::Both);
    }

    /// Receives one packet into `buf`, waiting at most `timeout` (forever if `None`).
    ///
    /// # Errors
    /// Kind `TimedOut`; `UnexpectedEof` when the peer has closed; `InvalidData` when descriptors came with it.
    pub fn recv(&self, buf: &mut [u8], timeout: Option<Duration>) -> io::Result<Message> {
        self.wait(timeout)?;
        let message = receive::packet(self, buf, receive::How::Take)?;
        if message.rights {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message came with descriptors",
            ));
        }
        if message.len == 0 && message.creds.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(message)
    }

    /// As [`Connection::recv`] without waiting; `None` if nothing is there.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<Option<Message>> {
        match self.recv(buf, Some(Duration::ZERO)) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Ok(None),
            other => other.map(Some),
        }
    }

    /// Whether the next packet, which stays where it is, comes with descriptors.
    pub fn brings_rights(&self) -> bool {
        receive::packet(self, &mut [0; 1], receive::How::Look).is_ok_and(|m| m.rights)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let end = timeout.map(|t| Instant::now() + t);
        loop {
            let time = end.map_or(PollTimeout::NONE, |end| {
                poll_time(end.saturating_duration_since(Instant::now()))
            });
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut fds, time) {
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
