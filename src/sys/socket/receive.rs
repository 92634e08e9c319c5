//! `recvmsg(2)` with control data. By hand: nix hands out no descriptors of control data that were cut, and so
//! leaves them open; whoever sends too many could use up all that this process may have.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{MAX_FDS, Message};
use crate::id::{Gid, Pid, Uid};
use crate::sys::checked;

// SAFETY: CMSG_SPACE only computes.
const CONTROL_LEN: usize = unsafe {
    libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) as usize
        + libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) as usize
};

/// Aligned as control data has to be.
#[repr(C)]
union Control {
    _align: libc::cmsghdr,
    bytes: [u8; CONTROL_LEN],
}

/// One packet, without waiting, and whether its control data was cut. Every descriptor that arrived has an owner.
pub(super) fn packet(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<(Message, bool)> {
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
    header.msg_controllen = CONTROL_LEN;
    // Not blocking: somebody who shares the socket may have taken the packet since the wait.
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    let len = loop {
        // SAFETY: buffer and control data are writable for the lengths given, and outlive the call.
        match checked(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) } as libc::c_long) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            other => break other? as usize,
        }
    };
    let mut message = Message {
        len,
        creds: None,
        fds: Vec::new(),
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
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for i in 0..size / size_of::<RawFd>() {
                    // SAFETY: `size` bytes of descriptors lie at `data`; the kernel made them for us alone.
                    message
                        .fds
                        .push(unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(i).read_unaligned()) });
                }
            }
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
    Ok((message, header.msg_flags & libc::MSG_CTRUNC != 0))
}
