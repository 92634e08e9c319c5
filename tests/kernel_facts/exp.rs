use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;
use io_uring::{IoUring, opcode, types};
use super::fs::*;
use super::support::*;

pub fn uring(path: &Path, open: i32, off: u64, flags: io_uring::squeue::Flags, sqpoll: bool, fixed: bool, chain: bool) -> Result<Vec<u8>, String> {
    let f = std::fs::OpenOptions::new().read(true).custom_flags(open).open(path).map_err(|e| format!("open {e}"))?;
    let mut b: io_uring::Builder<io_uring::squeue::Entry, io_uring::cqueue::Entry> = IoUring::builder();
    if sqpoll { b.setup_sqpoll(100); }
    let mut ring = b.build(8).map_err(|e| format!("ring {e}"))?;
    #[repr(align(4096))] struct A([u8; 8192]);
    let mut buf = Box::new(A([0u8; 8192]));
    let len = 4096;
    let e = if fixed {
        ring.submitter().register_files(&[f.as_raw_fd()]).unwrap();
        unsafe { ring.submitter().register_buffers(&[libc::iovec{ iov_base: buf.0.as_mut_ptr().cast(), iov_len: 8192}]).unwrap(); }
        opcode::ReadFixed::new(types::Fixed(0), buf.0.as_mut_ptr(), len, 0).offset(off).build()
    } else {
        opcode::Read::new(types::Fd(f.as_raw_fd()), buf.0.as_mut_ptr(), len).offset(off).build()
    }.flags(flags).user_data(7);
    unsafe { ring.submission().push(&e).unwrap(); }
    let _ = chain;
    let mut ts = types::SubmitArgs::new(); let t = types::Timespec::new().sec(3); ts = ts.timespec(&t);
    match ring.submitter().submit_with_args(1, &ts) { Ok(_) => {}, Err(e) => return Err(format!("submit {e}")) }
    let r = ring.completion().next().ok_or("no completion")?.result();
    if r < 0 { return Err(format!("cqe {}", std::io::Error::from_raw_os_error(-r))); }
    Ok(buf.0[..r as usize].to_vec())
}

fn show(w: &World) {
    for s in w.seen() {
        if ["LOOKUP","GETATTR","FORGET","RELEASE","FLUSH"].contains(&s.op.as_str()) { continue; }
        println!("      {} uid={} pid={} fh={:?} off={} size={} owner={} flags={:#o} events={:#x}", s.op, s.uid, s.pid, s.fh, s.offset, s.size, s.lock_owner.is_some(), s.flags, s.events);
    }
}

#[test]
fn exp_uring() {
    let _d = Deadline::new(Duration::from_secs(60), "uring");
    for (remedy, f) in [
        ("usual", (|s: &Seen| { let _ = s; Answer::Usual }) as fn(&Seen) -> Answer),
        ("zero to exactly POLLIN", |s| if s.op == "POLL" && s.events == 1 { Answer::Ready(0) } else { Answer::Usual }),
        ("POLLERR to exactly POLLIN", |s| if s.op == "POLL" && s.events == 1 { Answer::Ready(8) } else { Answer::Usual }),
        ("EIO to exactly POLLIN", |s| if s.op == "POLL" && s.events == 1 { Answer::Errno(libc::EIO) } else { Answer::Usual }),
        ("O_DIRECT READ refused EINVAL", |s| if (s.op == "READ" || s.op=="OPEN") && s.flags & libc::O_DIRECT != 0 { Answer::Errno(libc::EINVAL) } else { Answer::Usual }),
        ("STREAM", |s| if s.op == "OPEN" { Answer::Open(fuser::FopenFlags::FOPEN_DIRECT_IO | fuser::FopenFlags::FOPEN_STREAM) } else { Answer::Usual }),
        ("NONSEEKABLE", |s| if s.op == "OPEN" { Answer::Open(fuser::FopenFlags::FOPEN_DIRECT_IO | fuser::FopenFlags::FOPEN_NONSEEKABLE) } else { Answer::Usual }),
    ] {
        println!("== {remedy}");
        for (open, on) in [(0, "plain"), (libc::O_DIRECT, "O_DIRECT"), (libc::O_NONBLOCK, "O_NONBLOCK")] {
            for (off, offn) in [(0u64, "0"), (u64::MAX, "-1")] {
                for (fl, sq, fixed, name) in [
                    (io_uring::squeue::Flags::empty(), false, false, "inline"),
                    (io_uring::squeue::Flags::ASYNC, false, false, "ASYNC"),
                    (io_uring::squeue::Flags::empty(), true, false, "SQPOLL"),
                    (io_uring::squeue::Flags::FIXED_FILE, false, true, "fixed"),
                ] {
                    let w = World::new(b"[0123456789abcdef]");
                    w.rule(f);
                    let m = TempMount::new(FactFs(w.clone()), 2);
                    let p = m.join("value");
                    let r: Result<String, String> = Run::uid(61001).call(|| {
                        uring(&p, open, off, fl, sq, fixed, false).map(|v| String::from_utf8_lossy(&v).into_owned())
                    });
                    let n = w.of("POLL").len();
                    println!("  {on} off {offn} {name}: {r:?} polls={n} reads={}", w.of("READ").len());
                    if n < 8 { show(&w); }
                }
            }
        }
    }
}

/// Rule: a thread that polled a handle without POLLHUP gets each offset once.
fn once_rule() -> impl Fn(&Seen) -> Answer + Send + Sync {
    use std::sync::Mutex;
    #[derive(Default)] struct St { uring: Vec<(u64,u32)>, read: Vec<(u64,u32,u64)> }
    let st = Mutex::new(St::default());
    move |s| {
        let mut st = st.lock().unwrap();
        if s.op == "POLL" && s.events & libc::POLLHUP as u32 == 0 { st.uring.push((s.fh.unwrap(), s.pid)); }
        if s.op == "READ" {
            let k = (s.fh.unwrap(), s.pid, s.offset);
            if st.uring.contains(&(k.0, k.1)) && st.read.contains(&k) { return Answer::Errno(libc::EINVAL); }
            st.read.push(k);
        }
        Answer::Usual
    }
}

fn uring_n(path: &Path, open: i32, off: u64, len: usize, times: usize, multi: bool) -> Vec<String> {
    let f = std::fs::OpenOptions::new().read(true).custom_flags(open).open(path).unwrap();
    let b: io_uring::Builder<io_uring::squeue::Entry, io_uring::cqueue::Entry> = IoUring::builder();
    let mut ring = b.build(8).unwrap();
    let mut out = vec![];
    let mut bufs: Vec<Vec<u8>> = (0..times).map(|_| vec![0u8; len + 3]).collect();
    let mut go = |ring: &mut IoUring<io_uring::squeue::Entry, io_uring::cqueue::Entry>, want: usize| {
        let t = types::Timespec::new().sec(2);
        let _ = ring.submitter().submit_with_args(want, &types::SubmitArgs::new().timespec(&t));
        while let Some(c) = ring.completion().next() { out.push((c.user_data(), c.result())); }
    };
    for (i, b) in bufs.iter_mut().enumerate() {
        let e = opcode::Read::new(types::Fd(f.as_raw_fd()), b[3..].as_mut_ptr(), len as u32).offset(off).build().user_data(i as u64);
        unsafe { ring.submission().push(&e).unwrap(); }
        if !multi { go(&mut ring, 1); }
    }
    if multi { go(&mut ring, times); }
    let pos = unsafe { libc::lseek(f.as_raw_fd(), 0, libc::SEEK_CUR) };
    let mut r: Vec<String> = out.iter().map(|(u, r)| format!("#{u}:{}", if *r<0 { std::io::Error::from_raw_os_error(-r).to_string() } else { format!("{r} {:?}", String::from_utf8_lossy(&bufs[*u as usize][3..3+(*r as usize).min(40)])) })).collect();
    r.push(format!("pos={pos}"));
    r
}

#[test]
fn exp_uring2() {
    let _d = Deadline::new(Duration::from_secs(60), "uring2");
    for rule in [false, true] {
        println!("== rule {rule}");
        for open in [0, libc::O_DIRECT, libc::O_NONBLOCK] {
          for off in [0, u64::MAX] {
            for (len, times, multi) in [(4096, 1, false), (4096, 3, false), (4096, 2, true), (4, 3, false), (2<<20, 1, false)] {
                let w = World::new(b"[0123456789abcdef]");
                if rule { w.rule(once_rule()); }
                let m = TempMount::new(FactFs(w.clone()), 2);
                let p = m.join("value");
                let r: Vec<String> = Run::uid(61001).call(|| uring_n(&p, open, off, len, times, multi));
                println!("  open {open:#o} off {} len {len} x{times} multi={multi}: {r:?} polls={} reads={:?}", off as i64, w.of("POLL").len(), w.of("READ").iter().map(|s| (s.offset, s.size)).take(6).collect::<Vec<_>>());
                if len == 4096 && times == 1 && rule { show(&w) }
            }
          }
        }
    }
    // Ordinary readers under the rule.
    let w = World::new(b"[0123456789abcdef]");
    w.rule(once_rule());
    let m = TempMount::new(FactFs(w.clone()), 2);
    let p = m.join("value");
    let r: Vec<String> = Run::uid(61001).call(|| {
        let mut out = vec![];
        let f = std::fs::File::open(&p).unwrap();
        let fd = f.as_raw_fd();
        let mut b = [0u8; 100];
        let rd = |b: &mut [u8]| unsafe { libc::read(fd, b.as_mut_ptr().cast(), b.len()) };
        let mut pf = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        out.push(format!("poll {} rev {:#x}", unsafe { libc::poll(&mut pf, 1, 100) }, pf.revents));
        out.push(format!("read {}", rd(&mut b)));
        unsafe { libc::lseek(fd, 0, 0) };
        out.push(format!("reread {}", rd(&mut b)));
        unsafe { let mut set: libc::fd_set = std::mem::zeroed(); libc::FD_SET(fd, &mut set); let mut tv = libc::timeval { tv_sec: 0, tv_usec: 100000 };
          out.push(format!("select r {}", libc::select(fd + 1, &mut set, std::ptr::null_mut(), std::ptr::null_mut(), &mut tv))); 
          libc::FD_ZERO(&mut set); libc::FD_SET(fd, &mut set);
          out.push(format!("select x {}", libc::select(fd + 1, std::ptr::null_mut(), std::ptr::null_mut(), &mut set, &mut tv))); }
        for _ in 0..2 { out.push(format!("pread {}", unsafe { libc::pread(fd, b.as_mut_ptr().cast(), 100, 0) })); }
        let ep = unsafe { libc::epoll_create1(0) };
        let mut ev = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 1 };
        out.push(format!("add {}", unsafe { libc::epoll_ctl(ep, libc::EPOLL_CTL_ADD, fd, &mut ev) }));
        out.push(format!("wait {} ev {:#x}", unsafe { libc::epoll_wait(ep, &mut ev, 1, 100) }, {ev.events}));
        unsafe { libc::lseek(fd, 0, 0) };
        out.push(format!("read {}", rd(&mut b)));
        for m in [0i16, libc::POLLPRI, libc::POLLIN|libc::POLLPRI, libc::POLLOUT] {
            let mut pf = libc::pollfd { fd, events: m, revents: 0 };
            out.push(format!("poll({m:#x}) {} rev {:#x}", unsafe { libc::poll(&mut pf, 1, 20) }, pf.revents));
        }
        out
    });
    println!("ordinary: {r:?}");
    show(&w);
}
