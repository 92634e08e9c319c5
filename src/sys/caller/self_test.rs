//! Proof, at start, that another user's process can be looked at. In a user namespace of its own, or under a
//! `/proc` that hides processes, every caller would look like somebody else, or like nobody.

use std::io;

use super::{Header, Observer};
use crate::id::{Gid, Tid, Uid};
use crate::sys::checked;

/// Whose facts are looked at: an id that a daemon which runs as root does not have.
const STRANGER: u32 = 61013;

/// Makes a process of another uid, looks at it, and ends it. Takes root; for another user there is nothing to
/// prove, since he can serve himself alone.
///
/// # Errors
/// If the facts are not those that were given.
pub fn self_test() -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let child = Stranger::start()?;
    let header = Header {
        uid: Uid(STRANGER),
        gid: Gid(STRANGER),
        tid: Tid(child.pid as u32),
    };
    let wrong = |what: &str| io::Error::other(format!("another user's process shows the wrong {what}"));
    let mut observer = Observer::new();
    let mut seen = observer
        .identify(&header)
        .map_err(|e| io::Error::other(format!("another user's process cannot be looked at: {e}")))?;
    if seen.groups()? != [Gid(STRANGER + 1)] {
        return Err(wrong("groups"));
    }
    if seen.pid().0 != child.pid as u32 {
        return Err(wrong("process id"));
    }
    Ok(())
}

/// A child with ids of its own that waits to be ended.
struct Stranger {
    pid: libc::pid_t,
}

impl Stranger {
    fn start() -> io::Result<Stranger> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: no arguments, cannot fail.
        let parent = unsafe { libc::getpid() };
        // SAFETY: the child makes only async-signal-safe system calls, and ends without returning.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as said; the group list and the byte live on this stack.
            unsafe {
                use std::os::fd::AsRawFd;
                let group: libc::gid_t = STRANGER + 1;
                let ok = libc::syscall(libc::SYS_setgroups, 1, &group) == 0
                    && libc::syscall(libc::SYS_setresgid, STRANGER, STRANGER, STRANGER) == 0
                    && libc::syscall(libc::SYS_setresuid, STRANGER, STRANGER, STRANGER) == 0;
                // After the ids: a change of them clears it. Whoever lost its parent before gets no signal.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() != parent {
                    libc::_exit(1);
                }
                let byte = u8::from(ok);
                if libc::write(write.as_raw_fd(), std::ptr::from_ref(&byte).cast(), 1) != 1 {
                    libc::_exit(1);
                }
                loop {
                    libc::pause();
                }
            }
        }
        checked(pid.into())?;
        let child = Stranger { pid };
        drop(write);
        let mut byte = [0];
        let got = nix::unistd::read(&read, &mut byte)?;
        if (got, byte) != (1, [1]) {
            return Err(io::Error::other("a process of another user could not be made"));
        }
        Ok(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // SAFETY: our own child, not yet reaped; the status is not wanted.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_users_process_is_seen_here() {
        super::self_test().unwrap();
    }
}
