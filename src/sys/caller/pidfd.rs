//! `pidfd_open(2)` for threads and `ioctl(PIDFD_GET_INFO)`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::sys::checked;

/// What `PIDFD_GET_INFO` told.
pub(super) struct Info {
    pub pid: u32,
    pub tgid: u32,
    pub parent: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    /// The id of the thread's control group in the version 2 hierarchy.
    pub cgroup_id: Option<u64>,
}

/// A descriptor bound to the thread `tid`, also if it leads no process (`PIDFD_THREAD`, Linux 6.9).
pub(super) fn open_thread(tid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes integers only.
    let fd = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, tid, libc::PIDFD_THREAD) })?;
    // SAFETY: a new descriptor that nobody else owns; the kernel made it close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Asks for ids and control group (Linux 6.13).
pub(super) fn info(fd: &OwnedFd) -> io::Result<Info> {
    // SAFETY: an all-zero pidfd_info is a valid request: it has integers only.
    let mut raw: libc::pidfd_info = unsafe { std::mem::zeroed() };
    let wanted = u64::from(libc::PIDFD_INFO_PID | libc::PIDFD_INFO_CREDS);
    let cgroup = u64::from(libc::PIDFD_INFO_CGROUPID);
    raw.mask = wanted | cgroup;
    // SAFETY: the request's size is in its number, and `raw` is that large, writable, and outlives the call.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::PIDFD_GET_INFO, &mut raw) }.into())?;
    // The kernel says in the mask what it filled in.
    if raw.mask & wanted != wanted {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(Info {
        pid: raw.pid,
        tgid: raw.tgid,
        parent: raw.ppid,
        fsuid: raw.fsuid,
        fsgid: raw.fsgid,
        cgroup_id: (raw.mask & cgroup != 0).then_some(raw.cgroupid),
    })
}
