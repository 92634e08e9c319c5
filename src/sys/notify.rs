//! Readiness for a service manager: sd_notify(3) by hand, one datagram to `$NOTIFY_SOCKET`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Whether there was a service manager to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The state was sent.
    Manager,
    /// `$NOTIFY_SOCKET` is not set: nobody waits.
    Nobody,
}

/// Sends `state` (lines such as `READY=1` or `STATUS=…`, sd_notify(3)) to the manager in `$NOTIFY_SOCKET`.
///
/// # Errors
/// When the variable is set and the socket cannot be reached or is neither a path nor an abstract name.
pub fn sd_notify(state: &str) -> io::Result<Told> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(address) => send(&address, state).map(|()| Told::Manager),
        None => Ok(Told::Nobody),
    }
}

fn send(address: &OsStr, state: &str) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "$NOTIFY_SOCKET is neither an absolute path nor an abstract name",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    // The manager reads its socket; a full one must not stop us from serving.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> Vec<u8> {
        let mut buf = [0; 100];
        let n = socket.recv(&mut buf).unwrap();
        buf[..n].to_vec()
    }

    #[test]
    fn a_path_socket_gets_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(received(&manager), b"READY=1");
    }

    #[test]
    fn an_abstract_socket_gets_the_state() {
        let name = format!("wardfs-notify-test-{}", std::process::id());
        let manager =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "STATUS=x").unwrap();
        assert_eq!(received(&manager), b"STATUS=x");
    }

    #[test]
    fn other_addresses_are_refused() {
        for bad in ["", "relative", "vsock:2:1"] {
            assert!(send(OsStr::new(bad), "READY=1").is_err(), "{bad}");
        }
    }
}
