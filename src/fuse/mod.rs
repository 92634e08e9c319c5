//! The FUSE adapter: decode, call, reply, and nothing else. The only room that knows `fuser`.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{
    Config, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, SessionACL, TimeOrNow,
};

use self::held::Held;
use crate::access::{Caller, Range};
use crate::audit::{Event, Identity, Outcome, Record};
use crate::id::{Gid, Tid, Uid};
use crate::sys::caller::{Header, Observer};
use crate::vfs::{Asked, Attr, Errno, Kind, Level, Node, RequestCaller, Vfs, VfsError, Waker};

mod held;
#[cfg(test)]
mod tests;

/// Entries and attributes are never cached: each look is decided.
const NEVER: Duration = Duration::ZERO;

/// Descriptors for looking at callers, and the threads that share them.
static SHARED: OnceLock<(usize, usize)> = OnceLock::new();

thread_local! {
    static OBSERVER: RefCell<Observer> = RefCell::new(match SHARED.get() {
        Some((descriptors, threads)) => Observer::sharing(*descriptors, *threads),
        None => Observer::new(),
    });
}

/// Serves requests from a `/dev/fuse` descriptor until the file system is unmounted.
pub struct Session {
    inner: fuser::Session<Adapter>,
}

struct Adapter {
    server: Server,
    held: Held<HeldRead>,
}

/// What answers requests, on whichever thread.
#[derive(Clone)]
struct Server {
    vfs: Arc<Vfs>,
}

/// A READ and where its answer goes.
struct HeldRead {
    header: Header,
    handle: u64,
    range: Range,
    direct: bool,
    reply: ReplyData,
}

struct Wake(fuser::Notifier);

impl Waker for Wake {
    fn wake(&self, poller: u64) {
        // A poller that has gone is no error.
        let _ = self.0.poll(fuser::PollHandle(poller));
    }

    fn forget_attributes(&self, ino: u64) {
        // A negative offset leaves pages alone (there are none) and raises the inode's attribute version alone.
        if let Err(e) = self.0.inval_inode(INodeNo(ino), -1, 0) {
            tracing::error!("attributes of inode {ino:#x} may be outdated: {e}");
        }
    }
}

impl Session {
    /// Answers the kernel's INIT on `device`. Of the process's `descriptors`, half are for looking at callers.
    ///
    /// # Errors
    /// If the device is not that of a fresh mount.
    pub fn start(
        vfs: Arc<Vfs>,
        device: OwnedFd,
        threads: usize,
        descriptors: usize,
    ) -> std::io::Result<Session> {
        // Beside those that serve, the one that answers what was held back.
        SHARED.get_or_init(|| (descriptors / 2, threads + 1));
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(threads);
        let adapter = Adapter::new(vfs.clone())?;
        let inner = fuser::Session::from_fd(adapter, device, SessionACL::All, config)?;
        vfs.set_waker(Box::new(Wake(inner.notifier())));
        Ok(Session { inner })
    }

    /// Serves until unmounted.
    ///
    /// # Errors
    /// If the device fails, or a serving thread cannot be made.
    pub fn run(self) -> std::io::Result<()> {
        self.inner.run()
    }
}

/// The attributes in an answer that makes a node known: `fuser` takes the node's number from them.
fn entry_attr(attr: &Attr) -> FileAttr {
    fuse_attr(attr, attr.node.ino())
}

fn fuse_attr(attr: &Attr, number: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.mtime.to_system_time(),
        mtime: attr.mtime.to_system_time(),
        ctime: attr.ctime.to_system_time(),
        crtime: attr.mtime.to_system_time(),
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: if attr.kind == Kind::Directory { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Link => FileType::Symlink,
    }
}

fn errno(e: &VfsError, what: &str) -> fuser::Errno {
    let (Errno(number), level) = e.errno();
    match level {
        Level::Debug => tracing::debug!("{what}: {e}"),
        Level::Info => tracing::info!("{what}: {e}"),
        Level::Error => tracing::error!("{what}: {e}"),
    }
    fuser::Errno::from_i32(number)
}

impl Adapter {
    fn new(vfs: Arc<Vfs>) -> std::io::Result<Adapter> {
        let server = Server { vfs };
        let (log, later) = (server.vfs.clone(), server.clone());
        let held = Held::start(
            move |uid| log.access().vault().log().wait(Uid(uid)),
            move |read: HeldRead| later.read(read),
        )?;
        Ok(Adapter { server, held })
    }

    /// Runs one request for its caller.
    fn call<T>(
        &self,
        what: &'static str,
        req: &Request,
        f: impl FnOnce(&Vfs, &mut RequestCaller<'_>) -> Result<T, VfsError>,
    ) -> Result<T, fuser::Errno> {
        self.server
            .guarded(what, header(req), f)
            .map_err(|e| errno(&e, what))
    }

    fn node(ino: INodeNo) -> Result<Node, VfsError> {
        Node::from_ino(ino.0).ok_or(VfsError::NoEntry)
    }

    /// Whatever would change something: EROFS, counted.
    fn read_only(&self) -> fuser::Errno {
        fuser::Errno::EROFS
    }

    fn unsupported(&self) -> fuser::Errno {
        self.server
            .vfs
            .counters
            .unsupported
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        errno(&VfsError::Unsupported, "request")
    }
}

fn header(req: &Request) -> Header {
    Header {
        uid: Uid(req.uid()),
        gid: Gid(req.gid()),
        tid: Tid(req.pid()),
    }
}

impl Server {
    /// Decides, and answers.
    fn read(&self, read: HeldRead) {
        let HeldRead {
            header,
            handle,
            range,
            direct,
            reply,
        } = read;
        let result = self.guarded("read", header, |vfs, caller| {
            vfs.read(handle, range, direct, caller)
        });
        match result {
            Ok(Some(bytes)) => reply.data(bytes.expose()),
            Ok(None) => reply.data(&[]),
            Err(e) => reply.error(errno(&e, "read")),
        }
    }

    /// A panic is an EIO, a record and a counter, never the end of service.
    fn guarded<T>(
        &self,
        what: &'static str,
        header: Header,
        f: impl FnOnce(&Vfs, &mut RequestCaller<'_>) -> Result<T, VfsError>,
    ) -> Result<T, VfsError> {
        let run = || {
            OBSERVER.with(|observer| {
                let mut observer = observer.try_borrow_mut().map_err(|_| VfsError::Panic)?;
                f(&self.vfs, &mut RequestCaller::new(header, &mut observer))
            })
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(self.panicked(what, header)))
    }

    fn panicked(&self, what: &'static str, header: Header) -> VfsError {
        self.vfs
            .counters
            .panics
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let recorded = catch_unwind(AssertUnwindSafe(|| {
            let mut observer = Observer::new();
            let mut caller = RequestCaller::new(header, &mut observer);
            let record = Record {
                event: Event::PanicCaught,
                outcome: Outcome::Failed { reason: "panic" },
                message: Some(what),
                via: "mount",
                who: caller.who(Identity::Full),
                ..Record::default()
            };
            self.vfs.access().vault().log().refuse(&record)
        }));
        if !matches!(recorded, Ok(Ok(()))) {
            tracing::error!("a panic in {what} could not be recorded");
        }
        VfsError::Panic
    }
}

macro_rules! reply {
    ($result:expr, $reply:ident, $ok:expr) => {
        match $result {
            Ok(answer) => $ok(answer),
            Err(errno) => $reply.error(errno),
        }
    };
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // One flag a call: add_capabilities is all or nothing. What a kernel does not have is not needed to
        // serve. Never ASYNC_DIO (frees the caller while his request waits) or ALLOW_IDMAP (hides him).
        for flag in [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_HAS_RESEND] {
            if let Err(missing) = config.add_capabilities(flag) {
                tracing::info!("this kernel does not have {missing:?}");
            }
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let result = self.call("lookup", req, |vfs, caller| {
            vfs.lookup(Self::node(parent)?, name, caller)
        });
        reply!(result, reply, |attr: Attr| reply.entry(
            &NEVER,
            &entry_attr(&attr),
            Generation(0)
        ));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let result = self.call("getattr", req, |vfs, caller| {
            vfs.getattr(Self::node(ino)?, caller)
        });
        reply!(result, reply, |attr: Attr| reply
            .attr(&NEVER, &fuse_attr(&attr, self.server.vfs.number(attr.node))));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let result = self.call("readlink", req, |vfs, caller| {
            vfs.readlink(Self::node(ino)?, caller)
        });
        reply!(result, reply, |target: String| reply.data(target.as_bytes()));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let result = self.call("open", req, |vfs, caller| {
            vfs.open(Self::node(ino)?, write, caller)
        });
        reply!(result, reply, |handle| reply.opened(
            FileHandle(handle),
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH
        ));
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = HeldRead {
            header: header(req),
            handle: fh.0,
            range: Range { offset, length: size },
            direct: lock_owner.is_some(),
            reply,
        };
        // Nothing is decided before its turn: what changes while it waits counts.
        match self.server.vfs.must_wait(read.header.uid) {
            false => self.server.read(read),
            true => self.held.hold(read.header.uid.0, read),
        }
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: fuser::WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let result = self.call("write", req, |vfs, _| vfs.write(fh.0, data.len()));
        reply!(result, reply, |length| reply.written(length as u32));
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.server.vfs.release(fh.0);
        reply.ok();
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let result = self.call("opendir", req, |vfs, caller| {
            vfs.opendir(Self::node(ino)?, caller)
        });
        reply!(result, reply, |handle| reply
            .opened(FileHandle(handle), FopenFlags::empty()));
    }

    fn readdir(&self, req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.call("readdir", req, |vfs, _| vfs.listing(fh.0));
        reply!(result, reply, |listing: Arc<crate::vfs::Listing>| {
            let skip = usize::try_from(offset).unwrap_or(usize::MAX);
            for (i, entry) in listing.entries.iter().enumerate().skip(skip) {
                if reply.add(
                    INodeNo(self.server.vfs.number(entry.node)),
                    i as u64 + 1,
                    file_type(entry.kind),
                    &*entry.name,
                ) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.server.vfs.release(fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: fuser::AccessFlags, reply: ReplyEmpty) {
        let (read, write) = (
            mask.contains(fuser::AccessFlags::R_OK),
            mask.contains(fuser::AccessFlags::W_OK),
        );
        let result = self.call("access", req, |vfs, caller| {
            vfs.check_access(Self::node(ino)?, read, write, caller)
        });
        reply!(result, reply, |()| reply.ok());
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let result = self.call("getxattr", req, |vfs, caller| {
            let name = name.to_str().ok_or(VfsError::NoAttribute)?;
            sized(vfs.getxattr(Self::node(ino)?, name, caller)?, size)
        });
        reply!(result, reply, |value: Vec<u8>| answer_sized(reply, &value, size));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let result = self.call("listxattr", req, |vfs, caller| {
            sized(vfs.listxattr(Self::node(ino)?, caller)?, size)
        });
        reply!(result, reply, |names: Vec<u8>| answer_sized(reply, &names, size));
    }

    fn poll(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        ph: PollNotifier,
        events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        let wake = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
        let asked = Asked {
            events: events.bits(),
            wake,
        };
        let waiter = wake.then(|| ph.handle().0);
        let result = self.call("poll", req, |vfs, caller| {
            vfs.poll(fh.0, asked, waiter, caller.thread())
        });
        reply!(result, reply, |polled: crate::vfs::Polled| {
            let mut ready = PollEvents::POLLIN | PollEvents::POLLRDNORM;
            if polled.changed {
                ready |= PollEvents::POLLPRI;
            }
            reply.poll(ready);
        });
    }

    // What follows would change something. The public mount is read-only, so that only the notifier's clone
    // brings any of it here.

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
        let result = self.call("mknod", req, |vfs, caller| {
            vfs.announce_created(Self::node(parent)?, name, caller)
        });
        reply!(result, reply, |attr: Attr| reply.entry(
            &NEVER,
            &entry_attr(&attr),
            Generation(0)
        ));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let result = self.call("unlink", req, |vfs, caller| {
            vfs.announce_deleted(Self::node(parent)?, name, caller)
        });
        reply!(result, reply, |()| reply.ok());
    }

    #[allow(clippy::too_many_arguments)]
    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(self.read_only());
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(self.read_only());
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.read_only());
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        reply.error(self.read_only());
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(self.read_only());
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        reply.error(self.read_only());
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(self.read_only());
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(self.read_only());
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.read_only());
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(self.read_only());
    }

    // What this file system does not have, counted.

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        let _ = self.unsupported();
        reply.error(fuser::Errno::ENOTTY);
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: fuser::ReplyBmap) {
        reply.error(self.unsupported());
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(self.unsupported());
    }
}

fn sized(value: Vec<u8>, size: u32) -> Result<Vec<u8>, VfsError> {
    if size != 0 && value.len() > size as usize {
        Err(VfsError::Range)
    } else {
        Ok(value)
    }
}

fn answer_sized(reply: ReplyXattr, value: &[u8], size: u32) {
    if size == 0 {
        reply.size(value.len() as u32)
    } else {
        reply.data(value)
    }
}
