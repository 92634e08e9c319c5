//! What only the operating system can give: who is calling, mounts, locked memory, checked opens, the
//! hardening of a process. The one room with `unsafe`; each block says why it is sound.
//!
//! | look here for | room |
//! |---|---|
//! | memory fit for plaintext and keys | [`mem`] |
//! | the process behind a FUSE request | [`caller`] |
//! | mounting, unmounting, what is at a mount point | [`mount`] |
//! | directories held open, and all that is done in them | [`dir`] |
//! | files opened with their owner and mode checked; values as input | [`files`] |
//! | what a serving process gives up at its start | [`harden`] |
//! | the control socket's plumbing | [`socket`] |
//! | the process that has the control socket and its connections | [`front`] |
//! | the process that raises inotify events | [`notifier`] |
//! | readiness for a service manager | [`notify`] |
//! | a line in the kernel's log and the journal | [`witness`] |
//! | other processes' descriptors | [`process`] |
//! | whose a uid is: sub ids, groups of an account, loaded ahead | [`accounts`] |
//! | user and group names (never on the path of a read) | [`nss`] |

pub mod accounts;
pub mod caller;
pub mod dir;
pub mod files;
pub mod front;
pub mod harden;
pub mod mem;
pub mod mount;
pub mod nobody;
pub mod notifier;
pub mod notify;
pub mod nss;
pub mod process;
pub mod socket;
pub mod witness;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A system call's result of `-1` as the error that `errno` holds.
fn checked(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Whether a read of `fd` would not wait; also if it would fail.
pub fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// `statx(2)` of what a descriptor holds. `flags` say whether the file system may be asked
/// (`AT_STATX_DONT_SYNC`, `AT_STATX_FORCE_SYNC`).
fn statx(fd: BorrowedFd<'_>, flags: i32, mask: u32) -> io::Result<libc::statx> {
    // SAFETY: an all-zero statx is a valid buffer: it has integers only.
    let mut buffer: libc::statx = unsafe { std::mem::zeroed() };
    let flags = flags | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the path is NUL-terminated, the buffer is writable, and both outlive the call.
    let ret = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, &mut buffer) };
    checked(ret.into()).map(|_| buffer)
}
