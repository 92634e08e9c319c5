use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;
use io_uring::{IoUring, opcode, types};
use super::fs::*;
use super::support::*;

fn uring(path: &Path, open: i32, off: u64, flags: io_uring::squeue::Flags, sqpoll: bool, fixed: bool, chain: bool) -> Result<Vec<u8>, String> {
    let f = std::fs::OpenOptions::new().read(true).custom_flags(open).open(path).map_err(|e| format!("open {e}"))?;
    let mut b = IoUring::builder();
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
