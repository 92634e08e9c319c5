//! Other processes' descriptors.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::checked;
use crate::id::Pid;

/// A duplicate of the descriptor `number` of another process: the same open file, as if it had been passed
/// (`pidfd_getfd(2)`, Linux 5.6). Needs the right to ptrace that process.
///
/// # Errors
/// If there is no such process or descriptor, or it may not be had.
pub fn descriptor_of(pid: Pid, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; a success is a new descriptor that nobody else owns.
    let process =
        unsafe { OwnedFd::from_raw_fd(checked(libc::syscall(libc::SYS_pidfd_open, pid.0, 0))? as i32) };
    // SAFETY: as above.
    let fd = checked(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
