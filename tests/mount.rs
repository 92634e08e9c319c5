//! `sys` on a mount that is served, by a file system that does nothing: what `sys` takes for granted about the
//! kernel, seen on this one. Needs root and `/dev/fuse`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use fuser::*;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use wardfs::id::{Gid, Pid, Tid, Uid};
use wardfs::sys::caller::{Header, Observer, Unidentified};
use wardfs::sys::mount::{self, Mounted, Options, Presence, TargetState};
use wardfs::sys::notifier::{self, Kind};

/// What the file system saw.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    what: &'static str,
    uid: u32,
    tid: u32,
    /// The process and its groups as looked at while the request waited.
    caller: Result<(Pid, Vec<Gid>), Unidentified>,
}

/// One directory with the file `f` of three bytes.
struct Plain {
    seen: Arc<Mutex<Vec<Seen>>>,
    observer: Mutex<Observer>,
}

const FILE: INodeNo = INodeNo(2);
const ZERO: Duration = Duration::ZERO;

fn attributes(ino: INodeNo) -> FileAttr {
    let dir = ino == INodeNo::ROOT;
    let t = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino,
        size: if dir { 0 } else { 3 },
        blocks: 1,
        atime: t,
        mtime: t,
        ctime: t,
        crtime: t,
        kind: if dir {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: if dir { 0o755 } else { 0o444 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 512,
    }
}

impl Plain {
    fn note(&self, what: &'static str, req: &Request) {
        let header = Header {
            uid: Uid(req.uid()),
            gid: Gid(req.gid()),
            tid: Tid(req.pid()),
        };
        let mut observer = self.observer.lock().unwrap();
        let caller = observer.identify(&header).map(|mut c| {
            let groups = c.groups().unwrap().to_vec();
            (c.pid(), groups)
        });
        let seen = Seen {
            what,
            uid: req.uid(),
            tid: req.pid(),
            caller,
        };
        self.seen.lock().unwrap().push(seen);
    }
}

impl Filesystem for Plain {
    fn lookup(&self, req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.note("lookup", req);
        if name == "f" {
            reply.entry(&ZERO, &attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }
    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.note("getattr", req);
        reply.attr(&ZERO, &attributes(ino));
    }
    fn open(&self, req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.note("open", req);
        reply.opened(FileHandle(1), FopenFlags::FOPEN_DIRECT_IO);
    }
    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.note("read", req);
        let rest = &b"abc"[(offset as usize).min(3)..];
        reply.data(&rest[..rest.len().min(size as usize)]);
    }
    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.note("setattr", req);
        reply.attr(&ZERO, &attributes(ino));
    }
    fn mknod(
        &self,
        req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.note("mknod", req);
        reply.entry(&ZERO, &attributes(INodeNo(3)), Generation(0));
    }
    fn unlink(&self, req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.note("unlink", req);
        reply.ok();
    }
}

/// A served mount, taken away when the test ends, however it ends.
struct Served {
    dir: tempfile::TempDir,
    mounted: Option<Mounted>,
    target: PathBuf,
    seen: Arc<Mutex<Vec<Seen>>>,
    notifier: Option<notifier::Child>,
}

impl Served {
    /// Mounts, splits, starts the notifier and only then serves.
    fn start() -> Served {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let target = dir.path().join("m");
        fs::create_dir(&target).unwrap();
        let seen = Arc::default();
        let mut served = Served {
            dir,
            mounted: None,
            target: target.clone(),
            seen,
            notifier: None,
        };
        let mounted = served
            .mounted
            .insert(mount::mount(&target, &Options::default()).unwrap());
        let clone = mount::split(mounted).unwrap();
        served.notifier = Some(notifier::spawn(&std::env::current_exe().unwrap(), clone).unwrap());
        let device = served.mounted.as_ref().unwrap().device.try_clone().unwrap();
        let plain = Plain {
            seen: served.seen.clone(),
            observer: Mutex::new(Observer::new()),
        };
        let mut config = Config::default();
        config.acl = SessionACL::All;
        std::thread::spawn(move || Session::from_fd(plain, device, SessionACL::All, config)?.run());
        served
    }
    fn file(&self) -> PathBuf {
        self.target.join("f")
    }
    fn seen(&self, what: &str) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|s| s.what == what)
            .cloned()
            .collect()
    }
    fn notify(&mut self, kind: Kind, path: &str) -> io::Result<()> {
        self.notifier
            .as_mut()
            .unwrap()
            .channel()
            .ask(kind, path.as_bytes(), Duration::from_secs(10))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        while nix::mount::umount2(&self.file(), MntFlags::MNT_DETACH).is_ok() {}
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        while nix::mount::umount2(&self.target, flags).is_ok() {}
        if let Some(mounted) = &self.mounted {
            let _ = mount::abort(mounted.connection);
        }
    }
}

/// Started by [`notifier::spawn`] it is the notifier; among the other tests it sees that nobody else can be one.
#[test]
fn __notifier() {
    if std::env::args().nth(1).as_deref() == Some(notifier::ARGUMENT) {
        let code = match notifier::inherited() {
            Ok((root, channel)) => notifier::run(root, channel).map_or(8, |()| 0),
            Err(_) => 7,
        };
        std::process::exit(code);
    }
    let typed = Command::new(std::env::current_exe().unwrap())
        .arg(notifier::ARGUMENT)
        .output()
        .unwrap();
    assert_eq!(typed.status.code(), Some(7), "typed by hand it is refused");
}

#[test]
fn the_notifier_raises_events_on_the_public_mount_that_nobody_else_can_write() {
    let mut served = Served::start();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
    let all = AddWatchFlags::IN_ALL_EVENTS;
    let on_file = inotify.add_watch(&served.file(), all).unwrap();
    let on_dir = inotify.add_watch(&served.target, all).unwrap();
    served.notify(Kind::Modified, "f").unwrap();
    served.notify(Kind::Created, "g").unwrap();
    served.notify(Kind::Deleted, "f").unwrap();
    assert_eq!(
        served.notify(Kind::Modified, "none").unwrap_err().raw_os_error(),
        Some(libc::ENOENT)
    );
    let mut events = inotify.read_events().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    events.extend(inotify.read_events().unwrap_or_default());
    let saw = |wd, name: Option<&str>, mask| {
        events
            .iter()
            .any(|e| e.wd == wd && e.mask.contains(mask) && e.name.as_deref() == name.map(OsStr::new))
    };
    assert!(saw(on_file, None, AddWatchFlags::IN_MODIFY), "{events:?}");
    assert!(saw(on_file, None, AddWatchFlags::IN_CLOSE_WRITE), "{events:?}");
    assert!(saw(on_dir, Some("f"), AddWatchFlags::IN_MODIFY), "{events:?}");
    assert!(
        saw(on_dir, Some("f"), AddWatchFlags::IN_CLOSE_WRITE),
        "{events:?}"
    );
    assert!(saw(on_dir, Some("g"), AddWatchFlags::IN_CREATE), "{events:?}");
    assert!(saw(on_dir, Some("f"), AddWatchFlags::IN_DELETE), "{events:?}");

    let writes = served.seen("setattr").len();
    let erofs = |r: io::Result<()>| assert_eq!(r.unwrap_err().raw_os_error(), Some(libc::EROFS));
    erofs(File::options().write(true).open(served.file()).map(drop));
    erofs(File::create(served.target.join("new")).map(drop));
    erofs(fs::remove_file(served.file()));
    erofs(fs::set_permissions(
        served.file(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    ));
    assert_eq!(served.seen("setattr").len(), writes);
}

#[test]
fn requests_of_the_notifier_arrive_with_its_pid() {
    let mut served = Served::start();
    let pid = served.notifier.as_ref().unwrap().pid();
    served.notify(Kind::Probe, "").unwrap();
    served.notify(Kind::Probe, "f").unwrap();
    served.notify(Kind::Modified, "f").unwrap();
    for what in ["getattr", "open", "setattr"] {
        let of_notifier = |s: &&Seen| s.caller.as_ref().is_ok_and(|(p, _)| *p == pid);
        assert!(
            served.seen(what).iter().filter(of_notifier).count() > 0,
            "{what}: {:?}",
            served.seen(what)
        );
    }
}

#[test]
fn the_notifier_has_no_privilege_and_no_other_descriptor() {
    let mut served = Served::start();
    served.notify(Kind::Probe, "").unwrap();
    let proc = PathBuf::from(format!("/proc/{}", served.notifier.as_ref().unwrap().pid()));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    // The thread that serves in this test is not the first one; its own line is in its task directory.
    let serving = fs::read_dir(proc.join("task"))
        .unwrap()
        .map(|t| fs::read_to_string(t.unwrap().path().join("status")).unwrap())
        .find(|s| s.contains("NoNewPrivs:\t1"))
        .expect("a thread without privileges");
    for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(serving.contains(&format!("{set}:\t0000000000000000")), "{set}");
    }
    assert!(status.contains("Tgid"));
    let mut open: Vec<String> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .map(|f| {
            fs::read_link(f.unwrap().path())
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    open.sort();
    assert!(!open.iter().any(|f| f.contains("/dev/fuse")), "{open:?}");
    assert_eq!(
        open.iter().filter(|f| f.starts_with("socket:")).count(),
        1,
        "{open:?}"
    );
}

#[test]
fn a_mount_over_the_file_does_not_lead_the_notifier_astray() {
    let mut served = Served::start();
    let decoy = served.dir.path().join("decoy");
    fs::write(&decoy, "decoy").unwrap();
    nix::mount::mount(
        Some(&decoy),
        &served.file(),
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    assert_eq!(fs::read(served.file()).unwrap(), b"decoy");
    let before = served.seen("setattr").len();
    served.notify(Kind::Modified, "f").unwrap();
    assert_eq!(served.seen("setattr").len(), before + 1);
    assert_eq!(fs::read(&decoy).unwrap(), b"decoy");
}

#[test]
fn the_blocked_caller_is_identified_from_within_its_request() {
    let served = Served::start();
    let (tell, told) = mpsc::channel();
    let path = served.file();
    std::thread::spawn(move || {
        let groups = [61_009u32];
        // SAFETY: raw calls on integers and an array that outlives them; they change this thread only.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_setgroups, 1, groups.as_ptr()), 0);
            assert!(libc::syscall(libc::SYS_setfsuid, 61_002) >= 0);
        }
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        tell.send((nix::unistd::gettid().as_raw() as u32, text)).unwrap();
    });
    let (tid, text) = told.recv().unwrap();
    assert_eq!(text, "abc");
    for what in ["open", "read"] {
        let seen = served.seen(what).into_iter().find(|s| s.tid == tid).unwrap();
        assert_eq!(seen.uid, 61_002);
        assert_eq!(
            seen.caller,
            Ok((Pid(std::process::id()), vec![Gid(61_009)])),
            "{what}"
        );
    }
}

#[test]
fn a_living_mount_is_alive_and_goes_although_files_are_open_and_a_clone_is_held() {
    let mut served = Served::start();
    assert_eq!(
        mount::state(&served.target).unwrap(),
        TargetState::OurMount { dead: false }
    );
    let file = File::open(served.file()).unwrap();
    let mut watch = mount::watch_unmounted(&served.target).unwrap();
    mount::unmount(&served.target).unwrap();
    assert_eq!(watch.wait(Duration::from_secs(5)).unwrap(), Presence::Gone);
    assert_eq!(mount::state(&served.target).unwrap(), TargetState::EmptyDirectory);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    served.notify(Kind::Probe, "").unwrap();
    let notifier = served.notifier.as_mut().unwrap();
    notifier.stop(Duration::from_secs(5)).unwrap();
}

#[test]
fn other_users_are_served() {
    let served = Served::start();
    let out = Command::new("cat")
        .arg(served.file())
        .uid_and_no_groups()
        .output()
        .unwrap();
    assert_eq!(out.stdout, b"abc", "{out:?}");
    assert!(served.seen("read").iter().any(|s| s.uid == 61_002));
    assert_eq!(fs::metadata(served.file()).unwrap().size(), 3);
}

trait Foreign {
    fn uid_and_no_groups(&mut self) -> &mut Command;
}

impl Foreign for Command {
    fn uid_and_no_groups(&mut self) -> &mut Command {
        use std::os::unix::process::CommandExt;
        self.uid(61_002).gid(61_002)
    }
}
