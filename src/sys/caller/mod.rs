//! Who is calling: the process behind a FUSE request, looked at while its thread is blocked in that request.
//!
//! The request's header gives the caller's fsuid, fsgid and **thread** id; these are the kernel's word. All else
//! comes from the thread itself. As long as the request is unanswered the thread waits, so its id cannot be used
//! again and what is read belongs to the caller. Where the thread's own ids differ from the header's, somebody
//! acts for somebody else (overlayfs, an io_uring personality), and the facts must not be believed.
//!
//! Opening files under `/proc` costs more than reading them, so an [`Observer`] keeps the descriptors of the last
//! threads that were given a value, and one each of a few others. A kept descriptor is bound to its task: once that is
//! gone, it answers ESRCH and is opened anew, whoever has the number by then. **Facts** are read anew for every request.
//!
//! With `PIDFD_GET_INFO` (Linux 6.13) one ioctl gives ids, process and control group; without it the kept
//! `/proc/TID/status` and `cgroup` do.

mod kept;
mod long;
mod namespace;
mod pidfd;
mod proc;
mod self_test;
mod unit;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::id::{Gid, Pid, Tid, Uid};
use crate::sys::accounts::Namespace;

pub use kept::{DESCRIPTORS_PER_THREAD, KEPT_STRANGERS, KEPT_THREADS};
use kept::{Shelf, Standing, Thread};
pub use proc::look_privately;
pub use self_test::self_test;
use unit::{CgroupMount, Units};
pub use unit::{unit_of_cgroup_path, units_unknown};

/// The ids of a FUSE request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The caller's fsuid.
    pub uid: Uid,
    /// The caller's fsgid.
    pub gid: Gid,
    /// The caller's thread id; 0 if it lives outside of this process's pid namespace.
    pub tid: Tid,
}

impl Header {
    /// As a request of a process's main thread would show them now; `None` if there is no such process.
    pub fn of_process(pid: Pid) -> Option<Header> {
        let mut text = Vec::new();
        proc::read_anew(pid.0, "status", &mut text).ok()?;
        let status = proc::parse_status(&text, &mut Vec::new())?;
        Some(Header {
            uid: Uid(status.fsuid),
            gid: Gid(status.fsgid),
            tid: Tid(pid.0),
        })
    }
}

/// When a process began, in clock ticks since boot: with its number it is that process and no later one.
pub fn started(pid: Pid) -> Option<u64> {
    Some(proc::read_stat(pid.0, &mut Vec::new()).ok()?.start_time)
}

/// Why the process facts cannot be had, or cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unidentified {
    /// The request carries no thread id: the caller is outside of this process's pid namespace.
    #[error("the caller is outside of this process's pid namespace")]
    NoPid,
    /// The thread's own ids are not those of the request.
    #[error("the ids of the request are not those of the calling thread")]
    CredMismatch,
    /// The thread is a kernel worker (io_uring's, or any kernel thread) that acts for some other process.
    #[error("the request was made by a kernel worker on behalf of another process")]
    IoWorker,
    /// There is no such thread, or its facts are closed to this process, or too many groups are in the way.
    #[error("the calling thread cannot be looked at")]
    Gone,
}

impl Unidentified {
    /// The reason inside an error that [`Identified::groups`] or [`Identified::unit`] returned, if it has one.
    pub fn of(error: &io::Error) -> Option<Unidentified> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<Unidentified> for io::Error {
    fn from(reason: Unidentified) -> Self {
        io::Error::new(io::ErrorKind::PermissionDenied, reason)
    }
}

/// Where the facts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// `PIDFD_GET_INFO` where the kernel has it, `/proc` otherwise.
    Best,
    /// `/proc` alone, as on a kernel before 6.13.
    ProcOnly,
}

/// How old groups may be that [`Identified::groups_for_record`] gives.
const RECORD_AGE: Duration = Duration::from_secs(1);
/// `PF_IO_WORKER`, `PF_USER_WORKER` and `PF_KTHREAD` of the kernel's `include/linux/sched.h`, as shown in the
/// ninth field of `/proc/TID/stat`.
const WORKER_FLAGS: u64 = 0x10 | 0x4000 | 0x0020_0000;

/// Looks at callers; one for each serving thread, since looking needs `&mut`.
pub struct Observer {
    means: Means,
    /// Threads that were given a value.
    served: Shelf,
    strangers: Shelf,
    /// The stranger that was seen last.
    last: Option<usize>,
    clock: u64,
    units: Units,
    scratch: Scratch,
}

/// Buffers that are used again, so that looking allocates nothing.
#[derive(Default)]
struct Scratch {
    text: Vec<u8>,
    groups: Vec<Gid>,
    command: Vec<u8>,
    unit: String,
}

/// Supplementary groups, when they were read, and under which ids.
struct Groups {
    at: Instant,
    of: Header,
    list: Vec<Gid>,
}

impl Groups {
    fn none(of: Header) -> Self {
        Groups {
            at: Instant::now(),
            of,
            list: Vec::new(),
        }
    }
}

/// What [`Identified::hardening`] sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardening {
    /// `no_new_privs` (prctl(2)).
    pub no_new_privs: bool,
    /// Whether another process traces it.
    pub traced: bool,
    /// The uid that logged in.
    pub login_uid: Option<u32>,
}

/// What a record says of a caller beside the ids of its request. Groups and login uid may be up to 1 s old.
pub struct ForRecord<'a> {
    /// The process.
    pub pid: Pid,
    /// When it started, in clock ticks since boot.
    pub start_time: Option<u64>,
    /// The thread's name: untrusted bytes.
    pub command: &'a [u8],
    /// The systemd unit, where it is in one and that could be verified.
    pub unit: Option<&'a str>,
    /// The uid that logged in.
    pub login_uid: Option<u32>,
    /// Supplementary groups.
    pub groups: Option<&'a [Gid]>,
}

/// A look at a thread whose ids agree with the request's.
struct Look {
    tgid: u32,
    parent: u32,
    cgroup_id: Option<u64>,
}

impl Default for Observer {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer {
    /// Uses the best means that the kernel has.
    pub fn new() -> Self {
        Self::with_means(Means::Best)
    }

    /// Keeps no more than its share of `descriptors` that `observers` have together.
    pub fn sharing(descriptors: usize, observers: usize) -> Self {
        let share = (descriptors / observers.max(1)).saturating_sub(KEPT_STRANGERS) / DESCRIPTORS_PER_THREAD;
        Observer {
            served: Shelf::new(share.clamp(1, KEPT_THREADS)),
            ..Self::new()
        }
    }

    /// Uses `means`; for tests of both ways on one kernel.
    pub fn with_means(means: Means) -> Self {
        Observer {
            means,
            served: Shelf::new(KEPT_THREADS),
            strangers: Shelf::new(KEPT_STRANGERS),
            last: None,
            clock: 0,
            units: Units::new(CgroupMount::find()),
            scratch: Scratch::default(),
        }
    }

    /// The process behind a request that is **not yet answered**.
    pub fn identify(&mut self, header: &Header) -> Result<Identified<'_>, Unidentified> {
        if header.tid.0 == 0 {
            return Err(Unidentified::NoPid);
        }
        self.clock += 1;
        self.welcome();
        let (shelf, index, look) = match self.look_again(header)? {
            Some(seen) => seen,
            None => self.meet(header)?,
        };
        let shelf = match shelf {
            Standing::Served => &mut self.served,
            Standing::Stranger => {
                self.last = Some(index);
                &mut self.strangers
            }
        };
        shelf.seen(index, self.clock);
        Ok(Identified {
            header: *header,
            look,
            thread: &mut shelf.threads[index],
            groups_read: false,
            groups_old: false,
            namespace_old: false,
            long: None,
            units: &mut self.units,
            scratch: &mut self.scratch,
        })
    }

    /// The stranger that was seen last is none any more, if it was given a value.
    fn welcome(&mut self) {
        let served = |index: &usize| self.strangers.threads[*index].standing == Standing::Served;
        if let Some(index) = self.last.take().filter(served) {
            let thread = self.strangers.take(index);
            self.served.forget_ended(&mut self.scratch.text);
            self.served.add(thread, self.clock);
        }
    }

    /// A look at a thread that was kept; nothing, and nothing kept, if that one is gone: its number has a new owner.
    fn look_again(&mut self, header: &Header) -> Result<Option<(Standing, usize, Look)>, Unidentified> {
        for standing in [Standing::Served, Standing::Stranger] {
            let shelf = match standing {
                Standing::Served => &mut self.served,
                Standing::Stranger => &mut self.strangers,
            };
            if let Some(index) = shelf.position(header.tid.0) {
                match shelf.threads[index].look(&mut self.scratch, header) {
                    Err(Unidentified::Gone) => drop(shelf.take(index)),
                    other => return Ok(Some((standing, index, other?))),
                }
            }
        }
        Ok(None)
    }

    /// Opens what is kept of a thread, refuses workers, and looks.
    fn meet(&mut self, header: &Header) -> Result<(Standing, usize, Look), Unidentified> {
        let tid = header.tid.0;
        let pidfd = match self.means {
            Means::ProcOnly => None,
            Means::Best => self.open_pidfd(tid)?,
        };
        // Read once for each kept task: the flags asked for are set when a task is made and stay for its life, and
        // the kept descriptors pin the task. A worker is not kept: it has no business coming back.
        let stat = proc::read_stat(tid, &mut self.scratch.text).map_err(|_| Unidentified::Gone)?;
        if stat.flags & WORKER_FLAGS != 0 {
            return Err(Unidentified::IoWorker);
        }
        let thread = Thread::new(tid, pidfd, stat.start_time);
        let index = self.strangers.add(thread, self.clock);
        let thread = &mut self.strangers.threads[index];
        let look = thread.look(&mut self.scratch, header)?;
        // A leader's own start is its process's.
        if look.tgid == tid {
            thread.start_time = Some(stat.start_time);
        }
        Ok((Standing::Stranger, index, look))
    }

    /// A pidfd that answers `PIDFD_GET_INFO`, or `None` where `/proc` has to do.
    fn open_pidfd(&mut self, tid: u32) -> Result<Option<OwnedFd>, Unidentified> {
        let asked = pidfd::open_thread(tid).and_then(|fd| pidfd::info(&fd).map(|_| fd));
        match asked.map_err(|e| e.raw_os_error()) {
            Ok(fd) => Ok(Some(fd)),
            // ESRCH is also said of a living process whose parent is outside of our pid namespace; `/proc` knows.
            Err(Some(libc::ESRCH)) => Ok(None),
            // An older kernel: no such flag, no such ioctl, no such system call.
            Err(Some(libc::EINVAL | libc::ENOTTY | libc::ENOSYS)) => {
                self.means = Means::ProcOnly;
                Ok(None)
            }
            Err(_) => Err(Unidentified::Gone),
        }
    }
}

/// A caller whose ids agree with its request's. Valid until the request is answered.
pub struct Identified<'a> {
    header: Header,
    look: Look,
    thread: &'a mut Thread,
    groups_read: bool,
    groups_old: bool,
    namespace_old: bool,
    /// The groups, where they are very many.
    long: Option<Arc<[Gid]>>,
    units: &'a mut Units,
    scratch: &'a mut Scratch,
}

impl Drop for Identified<'_> {
    fn drop(&mut self) {
        if self.thread.standing == Standing::Stranger {
            self.thread.close_files();
        }
        if self.scratch.text.capacity() > 2 * long::LONG {
            *self.scratch = Scratch::default();
        }
    }
}

impl Identified<'_> {
    /// It was given a value, and is expected again: what is open of it is kept.
    pub fn was_served(&mut self) {
        self.thread.standing = Standing::Served;
    }

    /// The process (thread group).
    pub fn pid(&self) -> Pid {
        Pid(self.look.tgid)
    }

    /// The thread.
    pub fn tid(&self) -> Tid {
        self.header.tid
    }

    /// The parent process, 0 if it is outside of this pid namespace. For records only.
    pub fn parent(&self) -> Pid {
        Pid(self.look.parent)
    }

    /// The thread's name (`/proc/TID/comm`), as any program may have set it: untrusted bytes, at most 64; empty
    /// if it cannot be read.
    pub fn command(&mut self) -> &[u8] {
        self.scratch.command.clear();
        if self
            .thread
            .comm
            .read(self.thread.tid, &mut self.scratch.text)
            .is_ok()
        {
            let text = &self.scratch.text;
            let name = text.strip_suffix(b"\n").unwrap_or(text);
            self.scratch
                .command
                .extend_from_slice(&name[..name.len().min(64)]);
        }
        &self.scratch.command
    }

    /// When the process started, in clock ticks (1/100 s) since boot: with the pid it names a process for good.
    pub fn start_time(&mut self) -> Option<u64> {
        if self.thread.start_time.is_none() {
            let stat = proc::read_stat(self.look.tgid, &mut self.scratch.text).ok()?;
            self.thread.start_time = Some(stat.start_time);
        }
        self.thread.start_time
    }

    /// The uid that logged in (`/proc/TID/loginuid`); `None` if nobody did or the kernel keeps none.
    pub fn login_uid(&mut self) -> Option<u32> {
        self.thread
            .login_uid
            .read(self.thread.tid, &mut self.scratch.text)
            .ok()?;
        let uid: u32 = std::str::from_utf8(&self.scratch.text)
            .ok()?
            .trim()
            .parse()
            .ok()?;
        (uid != u32::MAX).then_some(uid)
    }

    /// What can be seen of the process beside its ids, read anew.
    ///
    /// # Errors
    /// If the thread is gone, or is not who the request names any more.
    pub fn hardening(&mut self) -> io::Result<Hardening> {
        self.thread.read_status(self.scratch, &self.header)?;
        let (no_new_privs, traced) =
            proc::parse_hardening(&self.scratch.text).ok_or_else(|| io::Error::from(Unidentified::Gone))?;
        let login_uid = match self
            .thread
            .login_uid
            .read(self.thread.tid, &mut self.scratch.text)
        {
            // A kernel that keeps none.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
            Ok(()) => {
                let text = std::str::from_utf8(&self.scratch.text).map_err(io::Error::other)?;
                Some(text.trim().parse::<u32>().map_err(io::Error::other)?).filter(|uid| *uid != u32::MAX)
            }
        };
        Ok(Hardening {
            no_new_privs,
            traced,
            login_uid,
        })
    }

    /// All that a record says of the caller; for records only.
    pub fn for_record(&mut self) -> ForRecord<'_> {
        let start_time = self.start_time();
        let login_uid = match self.thread.recorded_login {
            Some((at, login_uid)) if at.elapsed() <= RECORD_AGE => login_uid,
            _ => {
                let login_uid = self.login_uid();
                self.thread.recorded_login = Some((Instant::now(), login_uid));
                login_uid
            }
        };
        let grouped = self.groups_for_record().is_ok();
        self.command();
        // Who is at the root of all groups has no unit that could be named.
        let root = self.look.cgroup_id.is_some_and(|id| self.units.doubts(id));
        let in_unit = !root && matches!(self.unit(), Ok(Some(_)));
        let unit = match self.look.cgroup_id {
            _ if !in_unit => None,
            Some(id) if self.units.verifies() => self.units.get(id).ok().flatten(),
            _ => Some(self.scratch.unit.as_str()),
        };
        ForRecord {
            pid: Pid(self.look.tgid),
            start_time,
            command: &self.scratch.command,
            unit,
            login_uid,
            groups: grouped.then(|| list(&self.long, self.thread)),
        }
    }

    /// The executable, where this process may see it (`CAP_SYS_PTRACE` or the same user). For records only.
    pub fn exe(&self) -> Option<std::path::PathBuf> {
        proc::link(self.look.tgid, "exe").ok()
    }

    /// The supplementary groups, read now.
    ///
    /// # Errors
    /// Kind `PermissionDenied` around an [`Unidentified`] if they cannot be read or if the thread's ids are no
    /// longer the request's.
    pub fn groups(&mut self) -> io::Result<&[Gid]> {
        // Once for a request: its caller waits, so they are the same until it is answered.
        if !self.groups_read {
            self.thread.read_status(self.scratch, &self.header)?;
            if self.scratch.text.len() > long::LONG {
                let groups = std::mem::take(&mut self.scratch.groups);
                self.long = Some(long::keep((self.header, self.thread.born), &groups));
                self.thread.groups = None;
            } else {
                self.long = None;
                let groups = self
                    .thread
                    .groups
                    .get_or_insert_with(|| Groups::none(self.header));
                (groups.at, groups.of) = (Instant::now(), self.header);
                std::mem::swap(&mut groups.list, &mut self.scratch.groups);
            }
            self.groups_read = true;
        }
        self.groups_old = false;
        Ok(list(&self.long, self.thread))
    }

    /// The supplementary groups as they were at most 1 s ago, under the same ids: for records and for what a stat
    /// shows, never for what gives a value.
    pub fn groups_for_record(&mut self) -> io::Result<&[Gid]> {
        let known = |groups: &Groups| groups.of == self.header && groups.at.elapsed() <= RECORD_AGE;
        if self.groups_read {
            return self.groups();
        }
        if self.long.is_none() {
            self.groups_old = self.thread.groups.as_ref().is_some_and(known);
            if !self.groups_old {
                self.long = long::kept((self.header, self.thread.born));
                if self.long.is_none() {
                    return self.groups();
                }
            }
        }
        Ok(list(&self.long, self.thread))
    }

    /// Whether [`Identified::groups_for_record`] or [`Identified::namespace_lately`] gave what may have changed since, and
    /// asking now may say otherwise. A very long list of groups is not read again for that.
    pub fn is_of_the_past(&self) -> bool {
        self.groups_old || self.namespace_old
    }

    /// The systemd unit whose control group the thread is in now, `None` if it is in none.
    ///
    /// # Errors
    /// When the control group cannot be read or verified, or its name cannot be a unit's: treat the unit as
    /// unknown, not as absent.
    pub fn unit(&mut self) -> io::Result<Option<&str>> {
        let (thread, scratch) = (&mut *self.thread, &mut *self.scratch);
        if let Some(id) = self.look.cgroup_id
            && self.units.verifies()
        {
            if !self.units.knows(id) || self.units.doubts(id) {
                thread.cgroup.read(thread.tid, &mut scratch.text)?;
                self.units.learn(id, unit::path_of(&scratch.text)?)?;
            }
            return self.units.get(id);
        }
        thread.cgroup.read(thread.tid, &mut scratch.text)?;
        scratch.unit.clear();
        let path = unit::path_of(&scratch.text)?;
        if path == "/" && !self.units.verifies() {
            return Err(io::Error::other("no control groups of version 2 are mounted"));
        }
        match unit::judge(path)? {
            Some(name) => {
                scratch.unit.push_str(name);
                Ok(Some(&scratch.unit))
            }
            None => Ok(None),
        }
    }
}

/// The groups as they were read last.
fn list<'l>(long: &'l Option<Arc<[Gid]>>, thread: &'l Thread) -> &'l [Gid] {
    match (long, &thread.groups) {
        (Some(long), _) => long,
        (None, Some(groups)) => &groups.list,
        (None, None) => &[],
    }
}

#[cfg(test)]
mod tests;
