//! A mount made whole before it appears: `fsopen(2)`, `fsconfig`, `fsmount`, `move_mount`.
//!
//! mount(2) would not do. The public mount has to be read-only while its clone is writable, so the mount and not
//! the file system must be read-only; and a mount that is made writable and then changed has by then been
//! propagated, writable, into every mount namespace that follows ours (any service with a private `/tmp`), where
//! the change does not reach it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::sys::checked;

/// Begins a file system of this type.
fn begin(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated and outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

/// The detached mount of one that is set up, `ro,nosuid,nodev,noexec`.
fn made(context: &OwnedFd) -> io::Result<OwnedFd> {
    let null = std::ptr::null::<libc::c_char>();
    config(context, libc::FSCONFIG_CMD_CREATE, null, null)?;
    let attributes =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    // SAFETY: fsmount takes integers only.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes,
        )
    })
}

/// A detached FUSE mount on `device`, `ro,nosuid,nodev,noexec`; nothing is asked of the server.
pub(super) fn prepare(device: BorrowedFd<'_>, source: &str, allow_other: bool) -> io::Result<OwnedFd> {
    let context = begin(c"fuse")?;
    let number = |n: u32| CString::new(n.to_string()).unwrap_or_default();
    set(&context, c"source", &CString::new(source)?)?;
    set(&context, c"subtype", c"wardfs")?;
    set(&context, c"fd", &number(device.as_raw_fd().unsigned_abs()))?;
    set(&context, c"rootmode", c"40755")?;
    set(&context, c"user_id", &number(nix::unistd::geteuid().as_raw()))?;
    set(&context, c"group_id", &number(nix::unistd::getegid().as_raw()))?;
    if allow_other {
        let null = std::ptr::null();
        config(&context, libc::FSCONFIG_SET_FLAG, c"allow_other".as_ptr(), null)?;
    }
    made(&context)
}

/// A proc file system that has no place in any tree: nobody else can hold a lock of its directories.
///
/// # Errors
/// Without the right to mount, or on a kernel before 5.8.
pub fn processes() -> io::Result<OwnedFd> {
    let context = begin(c"proc")?;
    set(&context, c"subset", c"pid")?;
    made(&context)
}

/// Puts a detached mount on the directory that `place` holds.
pub(super) fn attach(mount: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (mount.as_raw_fd(), place.as_raw_fd());
    // SAFETY: both paths are NUL-terminated and outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) })?;
    Ok(())
}

/// A detached, private, writable clone of a mount.
pub(super) fn writable_clone(mount: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let clone =
        descriptor(unsafe { libc::syscall(libc::SYS_open_tree, mount.as_raw_fd(), c"".as_ptr(), flags) })?;
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: libc::MOUNT_ATTR_RDONLY,
        // What somebody mounts over the public mount must not appear in the clone.
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is NUL-terminated, the struct is passed with its size, and both outlive the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            clone.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(clone)
}

fn descriptor(ret: libc::c_long) -> io::Result<OwnedFd> {
    let fd = checked(ret)?;
    // SAFETY: the system calls whose results come here return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn set(context: &OwnedFd, key: &CStr, value: &CStr) -> io::Result<()> {
    config(context, libc::FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())
}

fn config(
    context: &OwnedFd,
    command: libc::fsconfig_command,
    key: *const libc::c_char,
    value: *const libc::c_char,
) -> io::Result<()> {
    // SAFETY: key and value are null or NUL-terminated strings that outlive the call, as the command demands.
    checked(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) })?;
    Ok(())
}
