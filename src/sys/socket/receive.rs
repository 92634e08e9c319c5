//! `recvmsg(2)` with room for credentials and nothing else: descriptors that come along find none, are never this
//! process's, and show by the kernel's saying that control data was cut.

use std::io;
use std::os::fd::AsRawFd;

use super::{Connection, Message};
use crate::id::{Gid, Pid, Uid};
use crate::sys::checked;

// SAFETY: CMSG_SPACE only computes.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) as usize };

/// Aligned as control data has to be.
#[repr(C)]
union Control {
    _align: libc::cmsghdr,
    bytes: [u8; CONTROL_LEN],
}

/// What becomes of the packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Take,
    /// It stays the next one.
    Look,
}

/// One packet, without waiting.
pub(super) fn packet(socket: &Connection, buf: &mut [u8], how: How) -> io::Result<Message> {
    let mut control = Control {
        bytes: [0; CONTROL_LEN],
    };
    let mut slice = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: an all-zero msghdr is valid: null pointers with zero lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut slice;
    header.msg_iovlen = 1;
    header.msg_control = std::ptr::from_mut(&mut control).cast();
    // Without credentials there would be room for descriptors.
    header.msg_controllen = if socket.asks { CONTROL_LEN } else { 0 };
    // Not blocking: somebody who shares the socket may have taken the packet since the wait.
    let look = if how == How::Look { libc::MSG_PEEK } else { 0 };
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT | look;
    let len = loop {
        // SAFETY: buffer and control data are writable for the lengths given, and outlive the call.
        match checked(unsafe { libc::recvmsg(socket.fd.as_raw_fd(), &mut header, flags) } as libc::c_long) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            other => break other? as usize,
        }
    };
    let mut message = Message {
        len,
        creds: None,
        rights: header.msg_flags & libc::MSG_CTRUNC != 0,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
    };
    // SAFETY: the kernel filled in the control data and set its length; it is aligned and lives in `control`.
    let mut part = unsafe { libc::CMSG_FIRSTHDR(&header) };
    while !part.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header within the control data.
        let head = unsafe { *part };
        // SAFETY: the data follows the header; only computes the address.
        let data = unsafe { libc::CMSG_DATA(part) };
        // SAFETY: only computes.
        let size = head
            .cmsg_len
            .saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        match (head.cmsg_level, head.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if size >= size_of::<libc::ucred>() => {
                // SAFETY: `size` bytes lie at `data`, enough for a ucred.
                let ids = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                message.creds = Some((
                    Pid(u32::try_from(ids.pid).unwrap_or(0)),
                    Uid(ids.uid),
                    Gid(ids.gid),
                ));
            }
            _ => {}
        }
        // SAFETY: `part` is a header of this very message.
        part = unsafe { libc::CMSG_NXTHDR(&header, part) };
    }
    Ok(message)
}
