//! The file system that the facts are looked at with: five nodes, every request written down, every answer
//! the test's to choose.
//!
//! `/value` (2), `/other` (3), `/dir` (4), `/dir/inner` (5). A file's content is pinned by its open handles;
//! `/dir/inner` and `/other` never change.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::*;

pub const ROOT: u64 = 1;
pub const VALUE: u64 = 2;
pub const OTHER: u64 = 3;
pub const DIR: u64 = 4;
pub const INNER: u64 = 5;
/// The node that an event writer makes and removes.
pub const TRANSIENT: u64 = 6;

/// What arrived, as the kernel told it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Seen {
    pub op: String,
    pub ino: u64,
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub unique: u64,
    pub fh: Option<u64>,
    pub offset: u64,
    pub size: u32,
    pub lock_owner: Option<u64>,
    pub flags: i32,
    pub events: u32,
}

/// What to answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// What the file system does of itself.
    Usual,
    /// An errno.
    Errno(i32),
    /// LOOKUP, GETATTR: this size, with the usual rest.
    Size(u64),
    /// LOOKUP, GETATTR: this owner.
    Owner(u32),
    /// OPEN: these flags instead of DIRECT_IO alone.
    Open(FopenFlags),
    /// POLL: these events.
    Ready(u32),
}

type Rule = Box<dyn Fn(&Seen) -> Answer + Send + Sync>;

/// The state that test and file system share.
pub struct World {
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    rule: Mutex<Arc<Rule>>,
    value: Mutex<Arc<Vec<u8>>>,
    mtime: Mutex<SystemTime>,
    handles: Mutex<HashMap<u64, Arc<Vec<u8>>>>,
    next_handle: AtomicU64,
    transient: Mutex<bool>,
    pub polls: Mutex<Vec<(u64, PollHandle)>>,
    pub ttl: Mutex<Duration>,
    pub want: Mutex<Vec<InitFlags>>,
    pub granted: Mutex<Vec<(InitFlags, bool)>>,
}

impl World {
    pub fn new(value: &[u8]) -> Arc<World> {
        Arc::new(World {
            seen: Mutex::default(),
            changed: Condvar::new(),
            rule: Mutex::new(Arc::new(Box::new(|_| Answer::Usual))),
            value: Mutex::new(Arc::new(value.to_vec())),
            mtime: Mutex::new(UNIX_EPOCH + Duration::from_secs(1_000_000_000)),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
            transient: Mutex::new(false),
            polls: Mutex::default(),
            ttl: Mutex::new(Duration::ZERO),
            want: Mutex::new(vec![InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_HAS_RESEND]),
            granted: Mutex::default(),
        })
    }

    /// Answers every later request by `rule`. It runs in the serving thread, with the caller blocked.
    pub fn rule(&self, rule: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Arc::new(Box::new(rule));
    }

    /// A new value; open handles keep the old one.
    pub fn put(&self, value: &[u8]) {
        *self.value.lock().unwrap() = Arc::new(value.to_vec());
        *self.mtime.lock().unwrap() += Duration::from_secs(1);
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests of one kind so far.
    pub fn of(&self, op: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|s| s.op == op).collect()
    }

    /// Forgets what was seen.
    pub fn clear(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// Waits (at most 5 s) until a request satisfies `wanted`.
    #[track_caller]
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let seen = self.seen.lock().unwrap();
        let (seen, over) = self
            .changed
            .wait_timeout_while(seen, Duration::from_secs(5), |s| !s.iter().any(&wanted))
            .unwrap();
        assert!(!over.timed_out(), "no such request came: {what}; came: {seen:#?}");
        seen.iter().find(|s| wanted(s)).unwrap().clone()
    }

    fn note(&self, seen: Seen) -> Answer {
        let rule = self.rule.lock().unwrap().clone();
        self.seen.lock().unwrap().push(seen.clone());
        self.changed.notify_all();
        rule(&seen)
    }

    fn content(&self, ino: u64) -> Arc<Vec<u8>> {
        match ino {
            VALUE => self.value.lock().unwrap().clone(),
            _ => Arc::new(b"never changes".to_vec()),
        }
    }

    fn attr(&self, ino: u64, size: Option<u64>, owner: u32) -> FileAttr {
        let dir = ino == ROOT || ino == DIR;
        let mtime = *self.mtime.lock().unwrap();
        FileAttr {
            ino: INodeNo(ino),
            size: size.unwrap_or_else(|| if dir { 0 } else { self.content(ino).len() as u64 }),
            blocks: 1,
            atime: mtime,
            mtime,
            ctime: mtime,
            crtime: mtime,
            kind: if dir {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if dir { 0o755 } else { 0o400 },
            nlink: 1,
            uid: owner,
            gid: owner,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn find(&self, parent: u64, name: &str) -> Option<u64> {
        match (parent, name) {
            (ROOT, "value") => Some(VALUE),
            (ROOT, "other") => Some(OTHER),
            (ROOT, "dir") => Some(DIR),
            (DIR, "inner") => Some(INNER),
            (_, "transient") if *self.transient.lock().unwrap() => Some(TRANSIENT),
            _ => None,
        }
    }
}

/// The `Filesystem` over a [`World`].
pub struct FactFs(pub Arc<World>);

fn seen(op: &str, req: &Request, ino: INodeNo) -> Seen {
    let (uid, gid, pid) = (req.uid(), req.gid(), req.pid());
    Seen {
        op: op.into(),
        ino: ino.0,
        uid,
        gid,
        pid,
        unique: req.unique().0,
        ..Seen::default()
    }
}

impl FactFs {
    fn attr(&self, seen: &Seen, ino: u64, answer: Answer) -> Result<FileAttr, Errno> {
        match answer {
            Answer::Errno(e) => Err(Errno::from_i32(e)),
            Answer::Size(size) => Ok(self.0.attr(ino, Some(size), seen.uid)),
            Answer::Owner(owner) => Ok(self.0.attr(ino, None, owner)),
            _ => Ok(self.0.attr(ino, None, seen.uid)),
        }
    }

    fn empty(&self, seen: Seen, reply: ReplyEmpty) {
        match self.0.note(seen) {
            Answer::Errno(e) => reply.error(Errno::from_i32(e)),
            _ => reply.ok(),
        }
    }
}

impl Filesystem for FactFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for &flag in self.0.want.lock().unwrap().iter() {
            let ok = config.add_capabilities(flag).is_ok();
            self.0.granted.lock().unwrap().push((flag, ok));
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_string_lossy().into_owned();
        let seen = Seen {
            name: name.clone(),
            ..seen("LOOKUP", req, parent)
        };
        let answer = self.0.note(seen.clone());
        match self
            .0
            .find(parent.0, &name)
            .ok_or(Errno::ENOENT)
            .and_then(|ino| self.attr(&seen, ino, answer))
        {
            Ok(attr) => reply.entry(&self.0.ttl.lock().unwrap(), &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn forget(&self, req: &Request, ino: INodeNo, _nlookup: u64) {
        self.0.note(seen("FORGET", req, ino));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let seen = Seen {
            fh: fh.map(|f| f.0),
            ..seen("GETATTR", req, ino)
        };
        let answer = self.0.note(seen.clone());
        match self.attr(&seen, ino.0, answer) {
            Ok(attr) => reply.attr(&self.0.ttl.lock().unwrap(), &attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let seen = Seen {
            fh: fh.map(|f| f.0),
            ..seen("SETATTR", req, ino)
        };
        let answer = self.0.note(seen.clone());
        match self.attr(&seen, ino.0, answer) {
            Ok(attr) => reply.attr(&Duration::ZERO, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let seen = Seen {
            name: name.to_string_lossy().into_owned(),
            ..seen("MKNOD", req, parent)
        };
        match self.0.note(seen) {
            Answer::Errno(e) => reply.error(Errno::from_i32(e)),
            _ => {
                *self.0.transient.lock().unwrap() = true;
                reply.entry(&Duration::ZERO, &self.0.attr(TRANSIENT, None, 0), Generation(0));
            }
        }
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        *self.0.transient.lock().unwrap() = false;
        self.empty(
            Seen {
                name: name.to_string_lossy().into_owned(),
                ..seen("UNLINK", req, parent)
            },
            reply,
        );
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let fh = self.0.next_handle.fetch_add(1, Ordering::Relaxed);
        let answer = self.0.note(Seen {
            flags: flags.0,
            fh: Some(fh),
            ..seen("OPEN", req, ino)
        });
        let with = match answer {
            Answer::Errno(e) => return reply.error(Errno::from_i32(e)),
            Answer::Open(flags) => flags,
            _ => FopenFlags::FOPEN_DIRECT_IO,
        };
        self.0.handles.lock().unwrap().insert(fh, self.0.content(ino.0));
        reply.opened(FileHandle(fh), with);
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let lock_owner = lock_owner.map(|o| o.0);
        let (fh, flags) = (fh.0, flags.0);
        let answer = self.0.note(Seen {
            fh: Some(fh),
            offset,
            size,
            lock_owner,
            flags,
            ..seen("READ", req, ino)
        });
        match answer {
            Answer::Errno(e) => reply.error(Errno::from_i32(e)),
            _ => {
                let held = self
                    .0
                    .handles
                    .lock()
                    .unwrap()
                    .get(&fh)
                    .cloned()
                    .unwrap_or_default();
                let from = (offset as usize).min(held.len());
                let to = (from + size as usize).min(held.len());
                reply.data(&held[from..to]);
            }
        }
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (size, lock_owner) = (data.len() as u32, lock_owner.map(|o| o.0));
        let (fh, flags) = (Some(fh.0), flags.0);
        match self.0.note(Seen {
            fh,
            offset,
            size,
            lock_owner,
            flags,
            ..seen("WRITE", req, ino)
        }) {
            Answer::Errno(e) => reply.error(Errno::from_i32(e)),
            _ => reply.written(size),
        }
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        let lock_owner = Some(lock_owner.0);
        self.empty(
            Seen {
                fh: Some(fh.0),
                lock_owner,
                ..seen("FLUSH", req, ino)
            },
            reply,
        );
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.handles.lock().unwrap().remove(&fh.0);
        let (fh, lock_owner, flags) = (Some(fh.0), lock_owner.map(|o| o.0), flags.0);
        self.empty(
            Seen {
                fh,
                lock_owner,
                flags,
                ..seen("RELEASE", req, ino)
            },
            reply,
        );
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.0.note(seen("OPENDIR", req, ino)) {
            Answer::Errno(e) => reply.error(Errno::from_i32(e)),
            _ => reply.opened(FileHandle(0), FopenFlags::empty()),
        }
    }

    fn readdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.0.note(Seen {
            offset,
            ..seen("READDIR", req, ino)
        });
        let names: &[(u64, &str)] = match ino.0 {
            ROOT => &[
                (ROOT, "."),
                (ROOT, ".."),
                (VALUE, "value"),
                (OTHER, "other"),
                (DIR, "dir"),
            ],
            _ => &[(DIR, "."), (ROOT, ".."), (INNER, "inner")],
        };
        for (i, (ino, name)) in names.iter().enumerate().skip(offset as usize) {
            let dir = *ino == ROOT || *ino == DIR;
            let kind = if dir {
                FileType::Directory
            } else {
                FileType::RegularFile
            };
            if reply.add(INodeNo(*ino), i as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _o: u64, reply: ReplyDirectoryPlus) {
        self.0.note(seen("READDIRPLUS", req, ino));
        reply.error(Errno::ENOSYS);
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.0.note(seen("STATFS", req, ino)) {
            Answer::Errno(e) => reply.error(Errno::from_i32(e)),
            _ => reply.statfs(7, 0, 0, 3, 0, 4096, 255, 4096),
        }
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.0.note(Seen {
            name: name.to_string_lossy().into_owned(),
            size,
            ..seen("GETXATTR", req, ino)
        });
        reply.error(Errno::ENODATA);
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.empty(
            Seen {
                flags: mask.bits(),
                ..seen("ACCESS", req, ino)
            },
            reply,
        );
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (fh, offset) = (Some(fh.0), offset as u64);
        self.0.note(Seen {
            fh,
            offset,
            flags: whence,
            ..seen("LSEEK", req, ino)
        });
        reply.error(Errno::EINVAL);
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.0.note(Seen {
            fh: Some(fh.0),
            flags: cmd as i32,
            ..seen("IOCTL", req, ino)
        });
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        ph: PollNotifier,
        events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        self.0.polls.lock().unwrap().push((fh.0, ph.handle()));
        let (fh, events, flags) = (Some(fh.0), events.bits(), flags.bits() as i32);
        match self.0.note(Seen {
            fh,
            events,
            flags,
            ..seen("POLL", req, ino)
        }) {
            Answer::Errno(e) => reply.error(Errno::from_i32(e)),
            Answer::Ready(ready) => reply.poll(PollEvents::from_bits_retain(ready)),
            // What a regular file is: always readable.
            _ => reply.poll(PollEvents::from_bits_retain(
                events & (libc::POLLIN | libc::POLLRDNORM) as u32,
            )),
        }
    }
}
