//! What a serving process gives up at its start.

use std::io;
use std::path::Path;

use super::checked;

/// A Linux capability that a process may keep, by its number in `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Act on files of others as their owner would.
    Fowner = 3,
    /// Lock memory beyond `RLIMIT_MEMLOCK`.
    IpcLock = 14,
    /// See `/proc/PID/exe` of other users.
    SysPtrace = 19,
    /// Mount, unmount and abort a FUSE connection.
    SysAdmin = 21,
    /// Raise resource limits.
    SysResource = 24,
}

/// No core dump and no look from outside: `RLIMIT_CORE` 0 and `PR_SET_DUMPABLE` 0, which also keeps processes of
/// the same uid from `/proc/PID/{mem,environ,fd}` and ptrace.
pub fn no_dumps() -> io::Result<()> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is a valid rlimit that outlives the call.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) }.into())?;
    // SAFETY: PR_SET_DUMPABLE takes integers only.
    checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into())?;
    Ok(())
}

/// A write beyond `RLIMIT_FSIZE` gives EFBIG, as any other failing write gives its error, instead of ending the
/// process in the middle of a change.
pub fn outlive_file_size_limits() {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Raises the soft limit of open files to the hard one; returns the limit that holds now.
pub fn raise_nofile() -> io::Result<u64> {
    let mut limit = limit_of(libc::RLIMIT_NOFILE)?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a valid rlimit that outlives the call.
        checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }.into())?;
    }
    Ok(limit.rlim_cur)
}

/// The address space that this process may have (`RLIMIT_AS`), in bytes.
pub fn address_space() -> io::Result<u64> {
    Ok(limit_of(libc::RLIMIT_AS)?.rlim_cur)
}

fn limit_of(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writing and outlives the call.
    checked(unsafe { libc::getrlimit(resource, &mut limit) }.into())?;
    Ok(limit)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAP_VERSION: u32 = 0x2008_0522;
/// `CAP_SETPCAP`, needed to lower the bounding set.
const SETPCAP: u32 = 8;

/// Detaches what is mounted at `.`, in a child without descriptors that nobody waits for: with the last mount of a file
/// system its end is waited for, and for one that a stranger serves that takes as long as the stranger likes.
fn detach_elsewhere() -> io::Result<()> {
    // SAFETY: the child makes system calls alone, and ends by _exit(2).
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: the path is NUL-terminated; the others take integers.
            unsafe {
                libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
                libc::umount2(c".".as_ptr(), libc::MNT_DETACH);
                libc::_exit(0)
            }
        }
        _ => {}
    }
    // It is out of the table at once, whatever the child waits for then.
    for _ in 0..2000 {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        if table.lines().count() <= 2 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Leaves every file behind: a file system mounted over `place`, in a mount namespace of its own, is the root from now on.
/// It holds nothing but what `/proc` says of processes (`subset=pid`, Linux 5.8), for looking at callers, and cannot be written. Before
/// capabilities are dropped, and before there are threads: it needs `CAP_SYS_ADMIN`.
pub fn leave_files(place: &Path) -> io::Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let none = None::<&str>;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let bare = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let closed = bare | MsFlags::MS_RDONLY;
    mount(
        Some("none"),
        place,
        Some("tmpfs"),
        bare,
        Some("size=4k,mode=0700"),
    )?;
    let entered = || -> io::Result<()> {
        let proc = place.join("proc");
        nix::unistd::mkdir(&proc, nix::sys::stat::Mode::S_IRWXU)?;
        mount(Some("proc"), &proc, Some("proc"), closed, Some("subset=pid"))?;
        mount(none, place, none, closed | MsFlags::MS_REMOUNT, none)?;
        nix::unistd::chdir(place)?;
        // The old root is over the new one, and goes (pivot_root(2), "pivot_root(".", ".")").
        nix::unistd::pivot_root(".", ".")?;
        detach_elsewhere()?;
        nix::unistd::chdir("/")?;
        Ok(())
    };
    entered().inspect_err(|_| {
        // What it lies over is needed where this is not to be had.
        let _ = umount2(place, MntFlags::MNT_DETACH);
    })
}

/// Gives up every capability but `keep` (and of those keeps only what it has): effective, permitted, inheritable,
/// ambient and bounding sets, and sets `PR_SET_NO_NEW_PRIVS`, so that no later exec wins anything back.
///
/// Capabilities belong to a **thread**: call it before the first thread is made; threads made later inherit it.
pub fn drop_capabilities(keep: &[Capability]) -> io::Result<()> {
    let kept: u64 = keep.iter().fold(0, |set, c| set | 1 << (*c as u8));
    let mut data = get_caps()?;
    // SAFETY: all of these prctl calls take integers only.
    unsafe {
        checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        checked(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0).into())?;
        // Without SETPCAP the bounding set stays; NO_NEW_PRIVS makes it harmless.
        if data[0].effective & (1 << SETPCAP) != 0 {
            for cap in 0..64u64 {
                // EINVAL: past the last capability that this kernel knows.
                if libc::prctl(libc::PR_CAPBSET_READ, cap, 0, 0, 0) < 0 {
                    break;
                }
                if kept & (1 << cap) == 0 {
                    checked(libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0).into())?;
                }
            }
        }
    }
    for (half, set) in data.iter_mut().enumerate() {
        let mask = (kept >> (32 * half)) as u32;
        set.permitted &= mask;
        set.effective = set.permitted;
        set.inheritable = 0;
    }
    let header = CapHeader {
        version: CAP_VERSION,
        pid: 0,
    };
    // SAFETY: header and two data structs are laid out as version 3 of capset(2) demands and outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) })?;
    Ok(())
}

fn get_caps() -> io::Result<[CapData; 2]> {
    let mut header = CapHeader {
        version: CAP_VERSION,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: header and two data structs are laid out as version 3 of capget(2) demands and outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) })?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of_this_thread() -> String {
        std::fs::read_to_string("/proc/thread-self/status").unwrap()
    }

    fn field(status: &str, name: &str) -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    #[test]
    fn only_the_kept_capability_remains_in_any_set() {
        let before = field(&status_of_this_thread(), "CapPrm");
        let status = std::thread::spawn(|| {
            drop_capabilities(&[Capability::SysAdmin]).unwrap();
            status_of_this_thread()
        })
        .join()
        .unwrap();
        let admin = 1 << Capability::SysAdmin as u8;
        assert_eq!(field(&status, "CapEff"), before & admin);
        assert_eq!(field(&status, "CapPrm"), before & admin);
        assert_eq!(field(&status, "CapBnd"), admin);
        for empty in ["CapInh", "CapAmb"] {
            assert_eq!(field(&status, empty), 0, "{empty}");
        }
        assert_eq!(field(&status, "NoNewPrivs"), 1);
        assert_eq!(
            field(&status_of_this_thread(), "CapPrm"),
            before,
            "other threads keep theirs"
        );
    }

    #[test]
    fn what_was_given_up_cannot_be_had_again() {
        std::thread::spawn(|| {
            drop_capabilities(&[]).unwrap();
            drop_capabilities(&[Capability::SysAdmin]).unwrap();
            assert_eq!(field(&status_of_this_thread(), "CapEff"), 0);
            // exec as uid 0 would normally fill the sets again.
            let out = std::process::Command::new("cat")
                .arg("/proc/self/status")
                .output()
                .unwrap();
            assert_eq!(field(&String::from_utf8_lossy(&out.stdout), "CapEff"), 0);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_open_file_limit_reaches_the_hard_limit() {
        let now = raise_nofile().unwrap();
        assert_eq!(raise_nofile().unwrap(), now);
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
        let mut numbers = line.split_whitespace().filter_map(|w| w.parse::<u64>().ok());
        assert_eq!((numbers.next(), numbers.next()), (Some(now), Some(now)));
    }

    #[test]
    fn a_process_without_dumps_says_so() {
        // SAFETY: the child calls only async-signal-safe functions (setrlimit, prctl, getrlimit) and _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let done = no_dumps().is_ok();
            let mut limit = libc::rlimit {
                rlim_cur: 1,
                rlim_max: 1,
            };
            // SAFETY: `limit` outlives the call; prctl takes integers; _exit never returns.
            unsafe {
                libc::getrlimit(libc::RLIMIT_CORE, &mut limit);
                let dumpable = libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0);
                libc::_exit(if done && limit.rlim_max == 0 && dumpable == 0 {
                    0
                } else {
                    1
                });
            }
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call; `pid` is our own child.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
    }
}
