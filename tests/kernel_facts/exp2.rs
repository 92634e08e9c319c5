use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use super::fs::*;
use super::support::*;

fn show(w: &World) {
    for s in w.seen() {
        println!("      {} ino={} {:?} uid={} pid={} fh={:?} off={} size={} owner={} flags={:#o} ev={:#x}", s.op, s.ino, s.name, s.uid, s.pid, s.fh, s.offset, s.size, s.lock_owner.is_some(), s.flags, s.events);
    }
    w.clear();
}

fn clone_tree(path: &std::path::Path) -> std::io::Result<OwnedFd> {
    let p = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, p.as_ptr(), 1 /*OPEN_TREE_CLONE*/ | libc::O_CLOEXEC) };
    if fd < 0 { return Err(std::io::Error::last_os_error()); }
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
fn make_ro(path: &std::path::Path) -> std::io::Result<()> {
    let p = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let a = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let r = unsafe { libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, p.as_ptr(), 0, &a, size_of::<libc::mount_attr>()) };
    if r != 0 { return Err(std::io::Error::last_os_error()); }
    Ok(())
}
fn inotify(paths: &[std::path::PathBuf]) -> OwnedFd {
    let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
    for p in paths {
        let c = std::ffi::CString::new(p.to_str().unwrap()).unwrap();
        let wd = unsafe { libc::inotify_add_watch(fd, c.as_ptr(), libc::IN_ALL_EVENTS) };
        assert!(wd > 0, "{}", std::io::Error::last_os_error());
    }
    unsafe { OwnedFd::from_raw_fd(fd) }
}
fn events(fd: &OwnedFd) -> Vec<String> {
    std::thread::sleep(Duration::from_millis(30));
    let mut b = [0u8; 8192];
    let n = unsafe { libc::read(fd.as_raw_fd(), b.as_mut_ptr().cast(), b.len()) };
    let mut out = vec![]; let mut at = 0usize;
    while n > 0 && at < n as usize {
        let e: libc::inotify_event = unsafe { std::ptr::read_unaligned(b.as_ptr().add(at).cast()) };
        let name = String::from_utf8_lossy(&b[at + 16..at + 16 + e.len as usize]).trim_end_matches('\0').to_string();
        let names = [(1,"ACCESS"),(2,"MODIFY"),(4,"ATTRIB"),(8,"CLOSE_WRITE"),(16,"CLOSE_NOWRITE"),(32,"OPEN"),(64,"MOVED_FROM"),(128,"MOVED_TO"),(256,"CREATE"),(512,"DELETE"),(1024,"DELETE_SELF"),(2048,"MOVE_SELF"),(0x8000,"IGNORED")];
        let m: Vec<&str> = names.iter().filter(|(b, _)| e.mask & b != 0).map(|x| x.1).collect();
        out.push(format!("wd{}:{}:{name}", e.wd, m.join("|")));
        at += 16 + e.len as usize;
    }
    out
}

#[test]
fn exp_notifier() {
    let _d = Deadline::new(Duration::from_secs(60), "notifier");
    let w = World::new(b"[0123456789abcdef]");
    let m = TempMount::new(FactFs(w.clone()), 2);
    println!("handshake done; seen before any access:"); show(&w);
    let clone = clone_tree(&m.path());
    println!("open_tree clone: {clone:?}"); show(&w);
    let clone = clone.unwrap();
    println!("ro: {:?}", make_ro(&m.path())); show(&w);
    let ino = inotify(&[m.join("value"), m.path()]);
    println!("watch: "); show(&w);
    let who = Run::root().start(|| {
        let d = clone.as_raw_fd();
        let f = unsafe { libc::openat(d, c"value".as_ptr(), libc::O_WRONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC) };
        assert!(f >= 0, "{}", std::io::Error::last_os_error());
        let n = unsafe { libc::pwrite(f, b"x".as_ptr().cast(), 1, 0) };
        let c = unsafe { libc::close(f) };
        (n as i64, c)
    });
    println!("notifier pid {}", who.pid());
    println!("write: {:?}", who.join()); std::thread::sleep(Duration::from_millis(20)); show(&w);
    println!("events: {:?}", events(&ino));
    let md = std::fs::metadata(m.join("value")).unwrap();
    println!("size {} mtime {:?}", md.len(), md.modified().unwrap()); show(&w);
    for off in [100i64, 0] {
    let r = Run::root().call(|| {
        let f = unsafe { libc::openat(clone.as_raw_fd(), c"value".as_ptr(), libc::O_WRONLY | libc::O_NOFOLLOW) };
        let mut st: libc::stat = unsafe { std::mem::zeroed() };
        let n = unsafe { libc::pwrite(f, b"x".as_ptr().cast(), 1, off) };
        unsafe { libc::fstat(f, &mut st) };
        (f, n as i64, st.st_size)
    });
    println!("write at {off}: {r:?}"); show(&w);
    println!("events: {:?}", events(&ino));
    }
    let r = Run::root().call(|| {
        let d = clone.as_raw_fd();
        let f = unsafe { libc::openat(d, c"value".as_ptr(), libc::O_WRONLY | libc::O_NOFOLLOW) };
        unsafe { libc::close(f) };
        let a = unsafe { libc::mknodat(d, c"transient".as_ptr(), libc::S_IFREG | 0o400, 0) };
        let b = unsafe { libc::unlinkat(d, c"transient".as_ptr(), 0) };
        let t = unsafe { libc::utimensat(d, c"value".as_ptr(), std::ptr::null(), 0) };
        (f, a, b, t)
    });
    println!("open-close only, mknod, unlink, utimens: {r:?}"); std::thread::sleep(Duration::from_millis(20)); show(&w);
    println!("events: {:?}", events(&ino));
    let p = m.join("value");
    let path = m.path();
    for who in [Run::uid(61001), Run::root()] {
        let r: Vec<String> = who.call(|| {
            let e = std::fs::OpenOptions::new().write(true).open(&p).unwrap_err();
            let f = std::fs::File::create(path.join("new")).unwrap_err();
            let own = clone_tree(&path).map(|fd| {
                let f = unsafe { libc::openat(fd.as_raw_fd(), c"value".as_ptr(), libc::O_WRONLY) };
                let e1 = std::io::Error::last_os_error();
                let a = libc::mount_attr { attr_set: 0, attr_clr: libc::MOUNT_ATTR_RDONLY, propagation: 0, userns_fd: 0 };
                let r = unsafe { libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, &a, size_of::<libc::mount_attr>()) };
                let f2 = unsafe { libc::openat(fd.as_raw_fd(), c"value".as_ptr(), libc::O_WRONLY) };
                format!("open {f} {e1}; setattr rw {r}; open {f2}")
            });
            vec![format!("write {e}; create {f}; own clone: {own:?}")]
        });
        println!("{r:?}"); show(&w);
    }
    let r = Run::root().call(|| nix::mount::mount(None::<&str>, &path, None::<&str>, nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_BIND, None::<&str>).map_err(|e| e.to_string()).and_then(|_| std::fs::OpenOptions::new().write(true).open(&p).map(|_| ()).map_err(|e| e.to_string())));
    println!("root remounts public rw: {r:?}");
    show(&w);
}

#[test]
fn exp_size() {
    let _d = Deadline::new(Duration::from_secs(60), "size");
    let w = World::new(b"[0123456789abcdef]");
    let m = TempMount::new(FactFs(w.clone()), 2);
    let p = m.join("value");
    let f = std::fs::File::open(&p).unwrap();
    w.clear();
    let l = f.metadata().unwrap().len(); println!("fstat {l}"); show(&w);
    let e = unsafe { libc::lseek(f.as_raw_fd(), 0, libc::SEEK_END) }; println!("SEEK_END {e}"); show(&w);
    let e = unsafe { libc::lseek(f.as_raw_fd(), 0, libc::SEEK_DATA) }; println!("SEEK_DATA {e}"); show(&w);
    for (claim, what) in [(5u64, "short"), (0, "zero"), (1000, "long")] {
        w.rule(move |s| if s.op == "GETATTR" || s.op == "LOOKUP" { Answer::Size(claim) } else { Answer::Usual });
        let _ = std::fs::metadata(&p);
        let mut b = [0u8; 100];
        let n = unsafe { libc::pread(f.as_raw_fd(), b.as_mut_ptr().cast(), 100, 0) };
        let n2 = unsafe { libc::pread(f.as_raw_fd(), b.as_mut_ptr().cast(), 100, 10) };
        let mut b2 = [0u8; 7]; let _ = b2.as_mut();
        let e = unsafe { libc::lseek(f.as_raw_fd(), 0, libc::SEEK_END) };
        let st = f.metadata().unwrap().len();
        let all = { use std::io::{Read, Seek}; let mut g = &f; g.rewind().unwrap(); let mut v = vec![]; g.read_to_end(&mut v).unwrap(); v.len() };
        println!("{what}: claimed {claim}: pread {n}, at 10 {n2}, SEEK_END {e}, fstat {st}, read_to_end {all}");
        w.clear();
        let r: String = Run::uid(61001).call(|| super::exp::uring(&p, 0, 0, io_uring::squeue::Flags::empty(), false, false, false).map(|v| v.len().to_string()).unwrap_or_else(|e| e));
        println!("   io_uring {r}");
        let fo = std::os::unix::fs::OpenOptionsExt::custom_flags(std::fs::OpenOptions::new().read(true), libc::O_DIRECT).open(&p).unwrap();
        let mut b = [0u8; 100];
        println!("   O_DIRECT read {}", unsafe { libc::pread(fo.as_raw_fd(), b.as_mut_ptr().cast(), 100, 0) });
    }
}

#[test]
fn exp_flags() {
    let _d = Deadline::new(Duration::from_secs(60), "flags");
    for noflush in [false, true] {
        let w = World::new(b"[0123456789abcdef]");
        w.rule(move |s| if s.op == "OPEN" && noflush { Answer::Open(fuser::FopenFlags::FOPEN_DIRECT_IO | fuser::FopenFlags::FOPEN_NOFLUSH) } else { Answer::Usual });
        let m = TempMount::new(FactFs(w.clone()), 2);
        println!("granted {:?}", w.granted.lock().unwrap());
        std::fs::read(m.join("value")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        println!("noflush={noflush}"); show(&w);
        println!("readdir {:?}", std::fs::read_dir(m.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>()); std::thread::sleep(Duration::from_millis(20)); show(&w);
        println!("statfs {:?}", nix::sys::statvfs::statvfs(&m.join("value")).map(|s| (s.blocks(), s.files(), s.block_size()))); show(&w);
        println!("access {:?}", nix::unistd::access(&m.join("value"), nix::unistd::AccessFlags::R_OK)); show(&w);
        let c = c"/proc/sys/vm/drop_caches"; let _ = c; 
        drop(m);
    }
}
