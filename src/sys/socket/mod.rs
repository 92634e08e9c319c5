//! The control socket's plumbing: `AF_UNIX` packets with the credentials of each, and sealed memfds.

mod memfd;
mod receive;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    self, AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sockopt,
};
use nix::sys::time::TimeVal;

use super::checked;
use super::mount::poll_time;
use crate::id::{Gid, Pid, Uid};

pub use memfd::{MemfdError, read_sealed_memfd, sealed_memfd};

/// Descriptors that one message may carry.
pub const MAX_FDS: usize = 4;
/// How long a peer may leave a packet unread before sending to it fails.
const SEND_TIME: i64 = 10;

/// A listening control socket. Its file stays when it is dropped; the next [`Listener::bind`] replaces it.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One end of a connection.
#[derive(Debug)]
pub struct Connection(OwnedFd);

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
    /// Descriptors that came with it, close-on-exec; at most [`MAX_FDS`].
    pub fds: Vec<OwnedFd>,
    /// The packet was longer than the buffer; the rest is lost.
    pub truncated: bool,
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket::socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// A path's address. A path may be longer than an address (107 bytes), so it goes by a descriptor of its directory.
fn address(path: &Path) -> io::Result<(Option<OwnedFd>, UnixAddr)> {
    if path.as_os_str().len() < 100 {
        return Ok((None, UnixAddr::new(path)?));
    }
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not the path of a socket");
    let (parent, name) = (
        path.parent().ok_or_else(invalid)?,
        path.file_name().ok_or_else(invalid)?,
    );
    let held: OwnedFd = {
        use std::os::unix::fs::OpenOptionsExt;
        File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(parent)?
            .into()
    };
    let short = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd())).join(name);
    let address = UnixAddr::new(&short)?;
    Ok((Some(held), address))
}

impl Listener {
    /// Listens at `path`, whose file gets `mode`. A socket that is there is replaced, in one step, if nobody
    /// answers on it.
    ///
    /// # Errors
    /// Kind `AddrInUse` if somebody answers, `AlreadyExists` if the path is something else than a socket.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Listener> {
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "the control socket's path is taken by something that is not a socket",
                ));
            }
            Ok(_) => match Connection::connect(path) {
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
        // Made beside it and renamed: there is no moment without a socket, nor one with a wrong mode.
        let name = path.file_name().unwrap_or(OsStr::new("socket"));
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let fresh = path.with_file_name(hidden);
        let _ = std::fs::remove_file(&fresh);
        let made = Self::make(&fresh, mode).and_then(|l| std::fs::rename(&fresh, path).map(|()| l));
        if made.is_err() {
            let _ = std::fs::remove_file(&fresh);
        }
        made
    }

    fn make(path: &Path, mode: u32) -> io::Result<Listener> {
        let fd = new_socket()?;
        // Before anybody can connect: accepted sockets inherit it, so no message comes without credentials.
        socket::setsockopt(&fd, sockopt::PassCred, &true)?;
        let (_held, address) = address(path)?;
        socket::bind(fd.as_raw_fd(), &address)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        socket::listen(&fd, Backlog::new(64)?)?;
        Ok(Listener(fd))
    }

    /// Waits for the next connection.
    pub fn accept(&self) -> io::Result<Connection> {
        loop {
            match socket::accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(e) => return Err(e.into()),
                Ok(fd) => {
                    // SAFETY: a new descriptor that nobody else owns.
                    let connection = Connection(unsafe { OwnedFd::from_raw_fd(fd) });
                    socket::setsockopt(&connection.0, sockopt::PassCred, &true)?;
                    connection.limit_sending()?;
                    return Ok(connection);
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Connection {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Connection> {
        let fd = new_socket()?;
        let (_held, address) = address(path)?;
        socket::connect(fd.as_raw_fd(), &address)?;
        let connection = Connection(fd);
        connection.limit_sending()?;
        Ok(connection)
    }

    /// Two connected ends, for a child process. Neither asks for credentials.
    pub fn pair() -> io::Result<(Connection, Connection)> {
        let (a, b) = socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Connection(a), Connection(b)))
    }

    /// Takes over a connected packet socket.
    pub fn from_fd(fd: OwnedFd) -> Connection {
        Connection(fd)
    }

    fn limit_sending(&self) -> io::Result<()> {
        Ok(socket::setsockopt(
            &self.0,
            sockopt::SendTimeout,
            &TimeVal::new(SEND_TIME, 0),
        )?)
    }

    /// Who connected.
    pub fn peer(&self) -> io::Result<Peer> {
        let ids = socket::getsockopt(&self.0, sockopt::PeerCredentials)?;
        Ok(Peer {
            uid: Uid(ids.uid()),
            gid: Gid(ids.gid()),
            pid: Pid(u32::try_from(ids.pid()).unwrap_or(0)),
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
                        self.0.as_raw_fd(),
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
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERPIDFD,
                std::ptr::from_mut(&mut fd).cast(),
                &mut len,
            )
        };
        // SAFETY: a new descriptor (close-on-exec) that nobody else owns.
        (ret == 0 && fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Sends one packet, with descriptors if there are any. A peer that reads nothing makes it fail (10 s); one
    /// that is gone is EPIPE, without a signal.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        loop {
            match socket::sendmsg::<()>(
                self.0.as_raw_fd(),
                &[IoSlice::new(bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Receives one packet into `buf`, waiting at most `timeout` (forever if `None`).
    ///
    /// # Errors
    /// Kind `TimedOut`; `UnexpectedEof` when the peer has closed; `InvalidData` when control data did not fit (more
    /// than [`MAX_FDS`] descriptors: all of them are closed).
    pub fn recv(&self, buf: &mut [u8], timeout: Option<Duration>) -> io::Result<Message> {
        self.wait(timeout)?;
        let (message, control_cut) = receive::packet(self.0.as_fd(), buf)?;
        // The descriptors that did fit have owners by now, and are closed with the message.
        if control_cut || message.fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message came with more descriptors than it may carry",
            ));
        }
        if message.len == 0 && message.creds.is_none() && message.fds.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(message)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let end = timeout.map(|t| Instant::now() + t);
        loop {
            let time = end.map_or(PollTimeout::NONE, |end| {
                poll_time(end.saturating_duration_since(Instant::now()))
            });
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
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
