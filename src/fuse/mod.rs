//! The FUSE adapter: decode, call, reply, and nothing else. The only room that knows `fuser`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Config, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, SessionACL, TimeOrNow,
};

use self::fair::{Fair, Served, Urgency};
use self::held::Held;
use self::server::{HeldRead, Op, Refuse, SHARED, Server};
use crate::access::{Caller as _, Enough, Range};
use crate::id::{Gid, Tid, Uid};
use crate::sys::caller::Header;
use crate::vfs::{Asked, Attr, Kind, Look, Node, RequestCaller, Vfs, VfsError, Waker};

mod fair;
mod held;
mod later;
mod server;
#[cfg(test)]
mod tests;

/// Entries and attributes are never cached: each look is decided.
const NEVER: Duration = Duration::ZERO;
/// Requests that nobody waits for, which the kernel may have under way.
const BACKGROUND: u16 = 1024;

/// Serves requests from a `/dev/fuse` descriptor until the file system is unmounted.
pub struct Session {
    inner: fuser::Session<Adapter>,
}

/// Every method ends in the server's guard: nothing is left outside that could end a thread.
struct Adapter {
    fair: Fair<Door>,
}

/// What requests are answered with, on whichever thread.
struct Door {
    server: Server,
    held: Held<HeldRead>,
}

struct Wake(fuser::Notifier);

impl Waker for Wake {
    fn wake(&self, poller: u64) {
        // A poller that has gone is no error.
        let _ = self.0.poll(fuser::PollHandle(poller));
    }

    fn forget_attributes(&self, ino: u64) -> std::io::Result<()> {
        // A negative offset leaves pages alone (there are none) and raises the inode's attribute version alone.
        let told = self.0.inval_inode(INodeNo(ino), -1, 0);
        told.inspect_err(|e| tracing::error!("attributes of inode {ino:#x} may be outdated: {e}"))
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
        // Beside those that serve, in a crowd one always reads what comes, so that nobody's requests stand before
        // another's.
        let threads = threads + 1;
        // And one answers what was held back.
        SHARED.get_or_init(|| (descriptors / 2, threads + 1));
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(threads);
        let adapter = Adapter::new(vfs.clone(), threads, device.try_clone()?)?;
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
        // Of directories too: 2 would say that there are none below, and tree walkers believe it.
        nlink: 1,
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

impl Adapter {
    /// For `threads` that read requests from `device`.
    fn new(vfs: Arc<Vfs>, threads: usize, device: OwnedFd) -> std::io::Result<Adapter> {
        let server = Server::new(vfs)?;
        let (log, later) = (server.vfs.clone(), server.clone());
        let held = Held::start(
            move |uid| log.access().vault().log().wait(Uid(uid)),
            move |read: HeldRead| later.read(read),
        )?;
        let waiting = move || crate::sys::readable(device.as_fd());
        let fair = Fair::new(Door { server, held }, threads, waiting);
        Ok(Adapter { fair })
    }

    fn server(&self) -> &Server {
        &self.fair.context().server
    }

    /// Serves one request when it is its owner's turn.
    fn in_turn(&self, header: Header, urgency: Urgency, f: impl FnOnce(&Door) + Send + 'static) {
        let owner = crate::sys::accounts::owner(header.uid);
        if self.fair.serve(owner.0, urgency, f) == Served::InTurn {
            let queued = &self.server().vfs.counters.queued;
            queued.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Runs one request for its caller: asks, and gives what was answered.
    fn call<T, R: Refuse>(
        &self,
        op: Op,
        req: &Request,
        reply: R,
        ask: impl FnOnce(&Vfs, &mut RequestCaller<'_>) -> Result<T, VfsError> + Send + 'static,
        give: impl FnOnce(&Vfs, T, R) + Send + 'static,
    ) {
        self.filled(op, req, reply, move |vfs, caller, _| ask(vfs, caller), give);
    }

    /// The same for an answer that is made while it is decided.
    fn filled<T, R: Refuse>(
        &self,
        op: Op,
        req: &Request,
        reply: R,
        ask: impl FnOnce(&Vfs, &mut RequestCaller<'_>, &mut R) -> Result<T, VfsError> + Send + 'static,
        give: impl FnOnce(&Vfs, T, R) + Send + 'static,
    ) {
        let header = header(req);
        self.in_turn(header, op.urgency(), move |door| {
            door.server.answer(op, header, reply, ask, give);
        });
    }

    /// What needs no caller: it is answered before anything that waits.
    fn at_once(&self, what: &'static str, req: &Request, f: impl FnOnce(&Vfs)) {
        self.server().guarded(what, header(req), |vfs, _| f(vfs));
    }

    /// Whatever would change something: EROFS.
    fn read_only(&self, what: &'static str, req: &Request, reply: impl Refuse) {
        self.at_once(what, req, |_| reply.refuse(fuser::Errno::EROFS));
    }

    /// What this file system does not have, counted.
    fn unsupported(&self, what: &'static str, req: &Request, reply: impl Refuse, errno: fuser::Errno) {
        self.at_once(what, req, |vfs| {
            let unsupported = &vfs.counters.unsupported;
            unsupported.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            reply.refuse(errno);
        });
    }
}

fn node(ino: INodeNo) -> Result<Node, VfsError> {
    Node::from_ino(ino.0).ok_or(VfsError::NoEntry)
}

fn header(req: &Request) -> Header {
    Header {
        uid: Uid(req.uid()),
        gid: Gid(req.gid()),
        tid: Tid(req.pid()),
    }
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
        // What is closed is told in the background: it is not to wait for what else is there.
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_os_string();
        self.call(
            Op::prompt("lookup"),
            req,
            reply,
            move |vfs, caller| vfs.lookup(node(parent)?, &name, caller),
            entry,
        );
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        // A seek asks with its handle, under the inode's lock.
        let op = fh.map_or(Op::patient("getattr"), |_| Op::prompt("getattr"));
        // stat, fstat and statx ask without a handle; SEEK_END has one, and shows nothing.
        let look = fh.map_or(Look::Shown, |_| Look::Kept);
        self.call(
            op,
            req,
            reply,
            move |vfs, caller| vfs.getattr(node(ino)?, look, caller),
            |vfs, attr, reply| reply.attr(&NEVER, &fuse_attr(&attr, vfs.number(attr.node))),
        );
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.call(
            Op::patient("readlink"),
            req,
            reply,
            move |vfs, caller| vfs.readlink(node(ino)?, caller),
            |_, target, reply| reply.data(target.as_bytes()),
        );
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        self.call(
            Op::patient("open"),
            req,
            reply,
            move |vfs, caller| vfs.open(node(ino)?, write, caller),
            |_, handle, reply| {
                let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(handle), flags)
            },
        );
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
        // What would fill the page cache holds its pages until it is refused.
        let urgency = match read.direct {
            true => Urgency::Ordinary,
            false => Urgency::Urgent,
        };
        self.in_turn(read.header, urgency, |door| {
            // Nothing is decided before its turn: what changes while it waits counts.
            match read.direct && door.server.vfs.must_wait(read.header.uid) {
                false => door.server.read(read),
                true => door.held.hold(read.header.uid.0, read),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: fuser::WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.read_only("write", req, reply);
    }

    fn flush(&self, req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.at_once("flush", req, |_| reply.ok());
    }

    fn fsync(&self, req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.at_once("fsync", req, |_| reply.ok());
    }

    fn release(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.at_once("release", req, |vfs| {
            vfs.release(fh.0);
            reply.ok();
        });
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.call(
            Op::patient("opendir"),
            req,
            reply,
            move |vfs, caller| vfs.opendir(node(ino)?, caller),
            |_, handle, reply| reply.opened(FileHandle(handle), FopenFlags::empty()),
        );
    }

    fn readdir(&self, req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.filled(
            Op::prompt("readdir"),
            req,
            reply,
            move |vfs, caller, reply| {
                vfs.readdir(fh.0, offset, caller, &mut |entry| {
                    let (ino, kind) = (INodeNo(vfs.number(entry.node)), file_type(entry.kind));
                    match reply.add(ino, entry.cookie, kind, entry.name) {
                        true => Enough::Yes,
                        false => Enough::No,
                    }
                })
            },
            |_, (), reply| reply.ok(),
        );
    }

    fn releasedir(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.at_once("releasedir", req, |vfs| {
            vfs.release(fh.0);
            reply.ok();
        });
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // The same for everybody and always, so that it tells nothing: there is a file system, and no room in it. With
        // 0 blocks df leaves it out, and smbd and others take it for broken.
        const BLOCKS: u64 = 1 << 16;
        self.at_once("statfs", req, |_| {
            reply.statfs(BLOCKS, 0, 0, BLOCKS, 0, 4096, 255, 4096)
        });
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: fuser::AccessFlags, reply: ReplyEmpty) {
        let (read, write) = (
            mask.contains(fuser::AccessFlags::R_OK),
            mask.contains(fuser::AccessFlags::W_OK),
        );
        self.call(
            Op::patient("access"),
            req,
            reply,
            move |vfs, caller| vfs.check_access(node(ino)?, read, write, caller),
            |_, (), reply| reply.ok(),
        );
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_os_string();
        self.call(
            Op::patient("getxattr"),
            req,
            reply,
            move |vfs, caller| {
                let name = name.to_str().ok_or(VfsError::NoAttribute)?;
                sized(vfs.getxattr(node(ino)?, name, caller)?, size)
            },
            move |_, value, reply| answer_sized(reply, &value, size),
        );
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.call(
            Op::patient("listxattr"),
            req,
            reply,
            move |vfs, caller| sized(vfs.listxattr(node(ino)?, caller)?, size),
            move |_, names, reply| answer_sized(reply, &names, size),
        );
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
        self.call(
            Op::prompt("poll"),
            req,
            reply,
            move |vfs, caller| vfs.poll(fh.0, asked, waiter, caller.thread()),
            |_, polled, reply| {
                let mut ready = PollEvents::POLLIN | PollEvents::POLLRDNORM;
                if polled.changed {
                    ready |= PollEvents::POLLPRI;
                }
                reply.poll(ready);
            },
        );
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
        let name = name.to_os_string();
        self.call(
            Op::prompt("mknod"),
            req,
            reply,
            move |vfs, caller| vfs.announce_created(node(parent)?, &name, caller),
            entry,
        );
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_os_string();
        self.call(
            Op::prompt("unlink"),
            req,
            reply,
            move |vfs, caller| vfs.announce_deleted(node(parent)?, &name, caller),
            |_, (), reply| reply.ok(),
        );
    }

    #[allow(clippy::too_many_arguments)]
    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
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
        let times_alone = mode.is_none() && uid.is_none() && gid.is_none() && size.is_none();
        self.call(
            Op::prompt("setattr"),
            req,
            reply,
            move |vfs, caller| match times_alone {
                true => vfs.announce_touched(node(ino)?, caller),
                false => Err(VfsError::ReadOnly),
            },
            |vfs, attr, reply| reply.attr(&NEVER, &fuse_attr(&attr, vfs.number(attr.node))),
        );
    }

    fn mkdir(
        &self,
        req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.read_only("mkdir", req, reply);
    }

    fn rmdir(&self, req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.read_only("rmdir", req, reply);
    }

    fn symlink(
        &self,
        req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        self.read_only("symlink", req, reply);
    }

    fn rename(
        &self,
        req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.read_only("rename", req, reply);
    }

    fn link(&self, req: &Request, _ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        self.read_only("link", req, reply);
    }

    fn create(
        &self,
        req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.read_only("create", req, reply);
    }

    fn setxattr(
        &self,
        req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.read_only("setxattr", req, reply);
    }

    fn removexattr(&self, req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.read_only("removexattr", req, reply);
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        self.read_only("fallocate", req, reply);
    }

    // What this file system does not have, counted.

    fn ioctl(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        self.unsupported("ioctl", req, reply, fuser::Errno::ENOTTY);
    }

    fn bmap(&self, req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: fuser::ReplyBmap) {
        self.unsupported("bmap", req, reply, fuser::Errno::ENOTSUP);
    }

    fn copy_file_range(
        &self,
        req: &Request,
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
        self.unsupported("copy_file_range", req, reply, fuser::Errno::ENOTSUP);
    }
}

/// `fuser` takes the node's number from the attributes of an answer that makes it known.
fn entry(_: &Vfs, attr: Attr, reply: ReplyEntry) {
    reply.entry(&NEVER, &fuse_attr(&attr, attr.node.ino()), Generation(0));
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
