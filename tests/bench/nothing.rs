//! A FUSE server that does nothing but give the same replies: a file for each size, named by it, and as many others
//! of that size as are asked for by `SIZE.NUMBER`.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, Request, SessionACL,
};

struct Nothing {
    bytes: Vec<u8>,
    /// Reads that get no answer.
    waiting: Mutex<Vec<ReplyData>>,
}

fn attr(ino: u64, uid: u32) -> FileAttr {
    let directory = ino == 1;
    let now = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(ino),
        size: if directory { 0 } else { size_of(ino) },
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind: if directory {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: if directory { 0o555 } else { 0o400 },
        nlink: 1,
        uid,
        gid: uid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The low half of an inode number, less the root's.
fn size_of(ino: u64) -> u64 {
    (ino & 0xffff_ffff) - 2
}

fn inode(name: &str) -> Option<u64> {
    let (size, number) = name.split_once('.').unwrap_or((name, "0"));
    Some(number.parse::<u64>().ok()? << 32 | (size.parse::<u64>().ok()? + 2))
}

impl Filesystem for Nothing {
    fn lookup(&self, req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(inode) {
            Some(ino) => reply.entry(&Duration::ZERO, &attr(ino, req.uid()), Generation(0)),
            None => reply.error(fuser::Errno::ENOENT),
        }
    }
    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attr(ino.0, req.uid()));
    }
    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(
            FileHandle(ino.0),
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH,
        );
    }
    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if req.uid() == super::blocked::HELD && ino.0 >> 32 == 1 {
            return self.waiting.lock().unwrap().push(reply);
        }
        let end = size_of(ino.0).min(offset + u64::from(size));
        reply.data(&self.bytes[offset.min(end) as usize..end as usize]);
    }
    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

/// Mounts and serves until it is ended.
pub fn serve(mount: &Path, threads: usize) {
    let mounted = wardfs::sys::mount::mount(mount, &wardfs::sys::mount::Options::default()).unwrap();
    let mut config = Config::default();
    config.n_threads = Some(threads);
    let session = fuser::Session::from_fd(
        Nothing {
            bytes: vec![b'x'; 1 << 20],
            waiting: Mutex::default(),
        },
        mounted.device,
        SessionACL::All,
        config,
    )
    .unwrap();
    println!("READY");
    let _ = session.run();
}
