//! System calls that the tests make and that std and nix (with the product's features) do not offer.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// A C string of a path.
pub fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL")
}

fn check(rc: i64) -> io::Result<i64> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

fn owned(rc: i64) -> io::Result<OwnedFd> {
    // SAFETY: a call that returns a new descriptor gives it to nobody else.
    check(rc).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The calling thread's id.
pub fn tid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() as u32 }
}

/// One pread(2) of up to `size` bytes.
pub fn pread(fd: &impl AsRawFd, size: usize, offset: i64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; size];
    // SAFETY: the pointer and length describe `bytes`.
    let n = check(unsafe { libc::pread(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), size, offset) } as i64)?;
    bytes.truncate(n as usize);
    Ok(bytes)
}

/// One read(2) of up to `size` bytes.
pub fn read(fd: &impl AsRawFd, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; size];
    // SAFETY: the pointer and length describe `bytes`.
    let n = check(unsafe { libc::read(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), size) } as i64)?;
    bytes.truncate(n as usize);
    Ok(bytes)
}

/// lseek(2).
pub fn lseek(fd: &impl AsRawFd, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: numbers only.
    check(unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) })
}

/// openat(2) relative to a directory descriptor.
pub fn openat(dir: &impl AsRawFd, name: &str, flags: i32) -> io::Result<OwnedFd> {
    let name = CString::new(name).expect("a name has no NUL");
    // SAFETY: `name` lives through the call.
    owned(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, 0) } as i64)
}

/// pwrite(2).
pub fn pwrite(fd: &impl AsRawFd, bytes: &[u8], offset: i64) -> io::Result<usize> {
    // SAFETY: the pointer and length describe `bytes`.
    check(unsafe { libc::pwrite(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset) } as i64)
        .map(|n| n as usize)
}

/// mknodat(2) of an empty regular file.
pub fn mknodat(dir: &impl AsRawFd, name: &str) -> io::Result<()> {
    let name = CString::new(name).expect("a name has no NUL");
    // SAFETY: `name` lives through the call.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), libc::S_IFREG | 0o400, 0) } as i64)
        .map(|_| ())
}

/// unlinkat(2) of a file.
pub fn unlinkat(dir: &impl AsRawFd, name: &str) -> io::Result<()> {
    let name = CString::new(name).expect("a name has no NUL");
    // SAFETY: `name` lives through the call.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) } as i64).map(|_| ())
}

/// `open_tree(OPEN_TREE_CLONE)`: a detached copy of the mount at `path`.
pub fn clone_mount(path: &Path) -> io::Result<OwnedFd> {
    let (path, flags) = (c_path(path), libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC);
    // SAFETY: `path` lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

fn mount_setattr(dir: i32, path: &CString, flags: i32, set: u64, clear: u64) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: `path` and `attr` live through the call, which gets the size of `attr`.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags,
            &attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(rc).map(|_| ())
}

/// Makes the mount at `path` `ro,nosuid,nodev,noexec`.
pub fn make_read_only(path: &Path) -> io::Result<()> {
    let set =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    mount_setattr(libc::AT_FDCWD, &c_path(path), 0, set, 0)
}

/// Takes the read-only flag off a mount that [`clone_mount`] returned.
pub fn make_clone_writable(clone: &impl AsRawFd) -> io::Result<()> {
    mount_setattr(
        clone.as_raw_fd(),
        &CString::default(),
        libc::AT_EMPTY_PATH,
        0,
        libc::MOUNT_ATTR_RDONLY,
    )
}

/// poll(2) on one descriptor: the returned events, 0 when the time is over.
pub fn poll(fd: &impl AsRawFd, events: i16, limit: Duration) -> i16 {
    let mut one = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one pollfd, as said.
    let n = unsafe { libc::poll(&mut one, 1, limit.as_millis() as i32) };
    assert!(n >= 0, "poll: {}", io::Error::last_os_error());
    one.revents
}

/// select(2) for one descriptor, for reading and for exceptional conditions: which of them holds.
pub fn select(fd: &impl AsRawFd, for_reading: bool, exceptional: bool, limit: Duration) -> (bool, bool) {
    let fd = fd.as_raw_fd();
    assert!(fd >= 0 && (fd as usize) < libc::FD_SETSIZE);
    let null = std::ptr::null_mut();
    // SAFETY: fd_set is plain bits; the descriptor is below FD_SETSIZE; pointers are null or live through the call.
    unsafe {
        let mut sets: [libc::fd_set; 2] = std::mem::zeroed();
        let mut time = libc::timeval {
            tv_sec: limit.as_secs() as i64,
            tv_usec: limit.subsec_micros() as i64,
        };
        libc::FD_SET(fd, &mut sets[0]);
        libc::FD_SET(fd, &mut sets[1]);
        let [read, except] = &mut sets;
        let (r, e) = (
            if for_reading { read } else { null },
            if exceptional { except } else { null },
        );
        let n = libc::select(fd + 1, r, null, e, &mut time);
        assert!(n >= 0, "select: {}", io::Error::last_os_error());
        (
            n > 0 && for_reading && libc::FD_ISSET(fd, &sets[0]),
            n > 0 && exceptional && libc::FD_ISSET(fd, &sets[1]),
        )
    }
}

/// An epoll set.
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    pub fn new() -> Epoll {
        // SAFETY: numbers only.
        Epoll(owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as i64).expect("epoll_create1"))
    }

    /// EPOLL_CTL_ADD.
    pub fn add(&self, fd: &impl AsRawFd, events: i32) {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: fd.as_raw_fd() as u64,
        };
        // SAFETY: `event` lives through the call.
        let rc = unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd.as_raw_fd(),
                &mut event,
            )
        };
        assert!(rc == 0, "EPOLL_CTL_ADD: {}", io::Error::last_os_error());
    }

    /// epoll_wait for one event: its bits, 0 when the time is over.
    pub fn wait(&self, limit: Duration) -> u32 {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event, as said.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &mut event, 1, limit.as_millis() as i32) };
        assert!(n >= 0, "epoll_wait: {}", io::Error::last_os_error());
        if n == 0 { 0 } else { event.events }
    }
}

/// An inotify instance.
pub struct Inotify(OwnedFd);

impl Inotify {
    /// Without watches.
    pub fn new() -> Inotify {
        // SAFETY: numbers only.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        Inotify(owned(fd as i64).expect("inotify_init1"))
    }

    /// Watches `path` for everything.
    pub fn watch(&self, path: &Path) -> io::Result<i32> {
        let path = c_path(path);
        // SAFETY: `path` lives through the call.
        let wd = unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), libc::IN_ALL_EVENTS) };
        check(wd as i64).map(|wd| wd as i32)
    }

    /// The events that came since the last call: watch, mask, name ("" for the watched object itself).
    pub fn events(&self) -> Vec<(i32, u32, String)> {
        let mut events = Vec::new();
        while let Ok(bytes) = read(&self.0, 16384) {
            let mut rest = bytes.as_slice();
            while rest.len() >= size_of::<libc::inotify_event>() {
                // SAFETY: that many bytes are there, written by the kernel; read without alignment.
                let head: libc::inotify_event = unsafe { std::ptr::read_unaligned(rest.as_ptr().cast()) };
                let (name, tail) = rest[size_of::<libc::inotify_event>()..].split_at(head.len as usize);
                let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
                events.push((head.wd, head.mask, name));
                rest = tail;
            }
        }
        events
    }
}

/// Maps one page of `fd` readable and touches it: its first `size` bytes.
///
/// A page that cannot be had raises SIGBUS: call it in a forked child.
pub fn map_and_read(fd: &impl AsRawFd, flags: i32, size: usize) -> io::Result<Vec<u8>> {
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            flags,
            fd.as_raw_fd(),
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: 4096 bytes are mapped there and nobody unmaps them; `size` is at most that.
    Ok(unsafe { std::slice::from_raw_parts(page.cast::<u8>(), size.min(4096)) }.to_vec())
}

/// sendfile(2) from `from` at offset 0 into a pipe, and what came out.
pub fn sendfile(from: &impl AsRawFd, size: usize) -> io::Result<Vec<u8>> {
    let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let mut offset = 0;
    // SAFETY: `offset` lives through the call.
    let n =
        check(unsafe { libc::sendfile(write_end.as_raw_fd(), from.as_raw_fd(), &mut offset, size) } as i64)?;
    if n == 0 {
        Ok(Vec::new())
    } else {
        read(&read_end, n as usize)
    }
}

/// splice(2) from `from` at offset 0 into a pipe, and what came out.
pub fn splice(from: &impl AsRawFd, size: usize) -> io::Result<Vec<u8>> {
    let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (mut offset, null) = (0i64, std::ptr::null_mut());
    // SAFETY: `offset` lives through the call.
    let n = unsafe {
        libc::splice(
            from.as_raw_fd(),
            &mut offset,
            write_end.as_raw_fd(),
            null,
            size,
            0,
        )
    };
    if check(n as i64)? == 0 {
        Ok(Vec::new())
    } else {
        read(&read_end, n as usize)
    }
}
