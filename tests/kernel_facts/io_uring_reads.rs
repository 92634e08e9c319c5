//! Reads through io_uring: who they come from, and the value that comes back repeated.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::callers::{Facts, facts};
use super::fs::*;
use super::support::*;
use super::{A, B, TEXT, deadline, errno, mounted};

type Ring = IoUring<squeue::Entry, cqueue::Entry>;

fn ring(sqpoll: bool) -> Ring {
    let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
    if sqpoll {
        builder.setup_sqpoll(200);
    }
    builder
        .build(16)
        .expect("io_uring_setup (io_uring_disabled must be 0)")
}

/// Submits `reads` together and waits for all: bytes or errno of each, in order.
fn submit(
    ring: &mut Ring,
    reads: usize,
    size: usize,
    entry: impl Fn(*mut u8, u32) -> squeue::Entry,
) -> Vec<Outcome> {
    let mut buffers = vec![vec![0u8; size]; reads];
    for (i, buffer) in buffers.iter_mut().enumerate() {
        let entry = entry(buffer.as_mut_ptr(), size as u32).user_data(i as u64);
        // SAFETY: the buffers live until every completion has been taken, below.
        unsafe { ring.submission().push(&entry).expect("room in the ring") };
    }
    let mut outcomes = vec![None; reads];
    while outcomes.iter().any(Option::is_none) {
        let limit = types::Timespec::new().sec(5);
        if let Err(e) = ring
            .submitter()
            .submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
        {
            eprintln!("no completion: {e}");
            // SAFETY: leaves the process before the buffers are freed under a read that still runs.
            unsafe { libc::_exit(9) };
        }
        while let Some(done) = ring.completion().next() {
            let (i, rc) = (done.user_data() as usize, done.result());
            outcomes[i] = Some(if rc < 0 {
                Err(-rc)
            } else {
                Ok(buffers[i][..rc as usize].to_vec())
            });
        }
    }
    outcomes.into_iter().flatten().collect()
}

type Outcome = Result<Vec<u8>, i32>;

fn open(path: &Path, flags: i32) -> File {
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .expect("open")
}

fn read_entry(file: &File, offset: u64, flags: Flags) -> impl Fn(*mut u8, u32) -> squeue::Entry {
    let fd = types::Fd(file.as_raw_fd());
    move |buffer, size| {
        opcode::Read::new(fd, buffer, size)
            .offset(offset)
            .build()
            .flags(flags)
    }
}

const VARIANTS: [(i32, u64); 6] = [
    (0, 0),
    (0, u64::MAX),
    (libc::O_DIRECT, 0),
    (libc::O_DIRECT, u64::MAX),
    (libc::O_NONBLOCK, 0),
    (libc::O_NONBLOCK, u64::MAX),
];

/// What one thread has had of one handle.
#[derive(Default)]
struct Served {
    by_ring: bool,
    offsets: Vec<u64>,
}

/// The remedy: a thread that polled a handle as only an io_uring read does (below) is given each offset of that handle once.
fn once() -> impl Fn(&Seen) -> Answer + Send + Sync {
    let handles: Mutex<HashMap<(u64, u32), Served>> = Mutex::default();
    move |seen| {
        let Some(fh) = seen.fh else { return Answer::Usual };
        let mut handles = handles.lock().unwrap();
        let Served { by_ring, offsets } = handles.entry((fh, seen.pid)).or_default();
        match seen.op.as_str() {
            "POLL" => *by_ring |= from_ring(seen),
            "READ" if *by_ring && offsets.contains(&seen.offset) => return Answer::Errno(libc::EINVAL),
            "READ" => offsets.push(seen.offset),
            _ => {}
        }
        Answer::Usual
    }
}

/// Whether a POLL belongs to an io_uring read: the look before it (exactly POLLIN, nobody to be notified), or the
/// one that arms the retry of a short one (POLLIN, POLLRDNORM and POLLERR without POLLHUP).
fn from_ring(poll: &Seen) -> bool {
    let arms = (libc::POLLIN | libc::POLLRDNORM | libc::POLLERR) as u32;
    let looks = poll.events == libc::POLLIN as u32 && poll.flags == 0;
    looks || poll.events & (arms | libc::POLLHUP as u32) == arms
}

/// "An io_uring read with a buffer larger than the value can come back with the value repeated (the retry
/// arrives at the same offset after a POLL …)". Seen on 6.18: 129 times in one buffer, also at offset 0.
#[test]
fn a_short_io_uring_read_is_retried_at_the_same_offset() {
    let _deadline = deadline("uring repeats");
    for (flags, offset) in VARIANTS {
        let (world, mount) = mounted();
        let path = mount.join("value");
        let got = Run::uid(A).call(|| {
            let file = open(&path, flags);
            submit(
                &mut ring(false),
                1,
                4096,
                read_entry(&file, offset, Flags::empty()),
            )
            .remove(0)
        });
        let got = got.expect("the read itself succeeds");
        assert!(
            got.len() > TEXT.len() && got.starts_with(&[TEXT, TEXT].concat()),
            "once only, the kernel is mended"
        );
        let reads = world.of("READ");
        assert_eq!((reads[0].offset, reads[0].size), (0, 4096));
        assert_eq!(
            (reads[1].offset, reads[1].size),
            (0, 4096 - TEXT.len() as u32),
            "open flags {flags:#o}"
        );
        assert!(reads.iter().all(|r| r.lock_owner.is_some() && r.uid == A));
    }
}

/// "… a POLL of exactly POLLIN". That one precedes the read unless the file is O_NONBLOCK; the one that arms the
/// retry has more events. Both can be told from those of poll(2), select(2), epoll and io_uring's own poll.
#[test]
fn the_polls_of_an_io_uring_read_are_like_no_others() {
    let _deadline = deadline("uring polls");
    for (flags, offset) in VARIANTS {
        let (world, mount) = mounted();
        world.rule(once());
        let path = mount.join("value");
        Run::uid(A)
            .call(|| {
                let file = open(&path, flags);
                submit(
                    &mut ring(false),
                    1,
                    4096,
                    read_entry(&file, offset, Flags::empty()),
                )
                .remove(0)
            })
            .expect("the read");
        let order: Vec<Seen> = world
            .seen()
            .into_iter()
            .filter(|s| s.op == "POLL" || s.op == "READ")
            .collect();
        let between = order.iter().skip_while(|s| s.op != "READ").nth(1);
        assert!(
            between.is_some_and(|s| s.op == "POLL" && from_ring(s)),
            "between the two READs: {order:?}"
        );
        let looked = order[0].op == "POLL" && from_ring(&order[0]);
        assert_eq!(looked, flags != libc::O_NONBLOCK, "{order:?}");
    }
    let (world, mount) = mounted();
    let path = mount.join("value");
    Run::uid(A).call(|| {
        let (file, soon) = (open(&path, 0), Duration::from_millis(5));
        for events in [
            0,
            libc::POLLIN,
            libc::POLLPRI,
            libc::POLLIN | libc::POLLPRI,
            libc::POLLIN | libc::POLLRDNORM,
        ] {
            sys::poll(&file, events, soon);
            let epoll = sys::Epoll::new();
            epoll.add(&file, events as i32);
            epoll.wait(soon);
        }
        for (read, except) in [(true, false), (false, true), (true, true)] {
            sys::select(&file, read, except, soon);
        }
        // A ring that only waits is an ordinary waiter, too.
        let wait = opcode::PollAdd::new(types::Fd(file.as_raw_fd()), libc::POLLIN as u32).build();
        let ready = submit(&mut ring(false), 1, 1, |_, _| wait.clone());
        assert_eq!(ready, [Ok(vec![0])], "POLLIN, which is 1, as the result");
    });
    let polls = world.of("POLL");
    assert!(polls.len() >= 13 && !polls.iter().any(from_ring), "{polls:?}");
}

/// "… once, or an error": the remedy over inline, IOSQE_ASYNC, SQPOLL, registered file, O_DIRECT, O_NONBLOCK,
/// offset 0 and −1, and a buffer larger than one request may be.
#[test]
fn refusing_the_retry_gives_the_value_once() {
    let _deadline = deadline("uring once");
    for (flags, offset) in VARIANTS {
        let (world, mount) = mounted();
        world.rule(once());
        let path = mount.join("value");
        let all: Vec<(String, Outcome)> = Run::uid(A).call(|| {
            let mut all = Vec::new();
            for (how, sqpoll, with, size) in [
                ("inline", false, Flags::empty(), 4096),
                ("async", false, Flags::ASYNC, 4096),
                ("sqpoll", true, Flags::empty(), 4096),
                ("2 MiB", false, Flags::empty(), 2 << 20),
            ] {
                let file = open(&path, flags);
                let got = submit(&mut ring(sqpoll), 1, size, read_entry(&file, offset, with)).remove(0);
                all.push((how.to_owned(), got));
            }
            let file = open(&path, flags);
            let mut ring = ring(false);
            ring.submitter()
                .register_files(&[file.as_raw_fd()])
                .expect("register");
            let fixed = |buffer, size| {
                opcode::Read::new(types::Fixed(0), buffer, size)
                    .offset(offset)
                    .build()
            };
            all.push(("registered".into(), submit(&mut ring, 1, 4096, fixed).remove(0)));
            all
        });
        for (how, got) in all {
            assert_eq!(
                got.as_deref(),
                Ok(TEXT),
                "{how}, open flags {flags:#o}, offset {}",
                offset as i64
            );
        }
    }
}

/// The refusal is an error and not an end of file: a second read of the same offset, in flight or later, never
/// comes back empty. (A read at −1 does not move the position on 6.18, so it would be the same offset again.)
#[test]
fn a_second_io_uring_read_of_an_offset_is_an_error_not_an_empty_value() {
    let _deadline = deadline("uring twice");
    for (flags, offset) in VARIANTS {
        let (world, mount) = mounted();
        world.rule(once());
        let path = mount.join("value");
        let (both, later, position): (Vec<Outcome>, Vec<Outcome>, i64) = Run::uid(A).call(|| {
            let (file, mut ring) = (open(&path, flags), ring(false));
            let both = submit(&mut ring, 2, 4096, read_entry(&file, offset, Flags::empty()));
            let later = submit(&mut ring, 1, 4096, read_entry(&file, offset, Flags::empty()));
            (both, later, sys::lseek(&file, 0, libc::SEEK_CUR).unwrap())
        });
        let mut both = both;
        both.sort();
        assert_eq!(
            both,
            [Ok(TEXT.to_vec()), Err(libc::EINVAL)],
            "{flags:#o} {}",
            offset as i64
        );
        assert_eq!(later, [Err(libc::EINVAL)]);
        assert_eq!(position, 0);
    }
}

/// The remedy leaves ordinary readers alone: poll then read, re-read after lseek 0, pread twice, a buffer that
/// shrinks as io_uring's does.
#[test]
fn refusing_the_retry_leaves_ordinary_readers_alone() {
    let _deadline = deadline("ordinary readers");
    let (world, mount) = mounted();
    world.rule(once());
    let path = mount.join("value");
    let all: Vec<Outcome> = Run::uid(A).call(|| {
        let (file, soon) = (open(&path, libc::O_NONBLOCK), Duration::from_millis(100));
        let mut all = Vec::new();
        assert_eq!(sys::poll(&file, libc::POLLIN, soon), libc::POLLIN);
        all.push(sys::read(&file, 4096).map_err(errno));
        sys::lseek(&file, 0, libc::SEEK_SET).unwrap();
        assert_eq!(sys::select(&file, true, true, soon), (true, false));
        all.push(sys::read(&file, 4096).map_err(errno));
        let epoll = sys::Epoll::new();
        epoll.add(&file, libc::EPOLLIN | libc::EPOLLPRI);
        assert_eq!(epoll.wait(soon), libc::EPOLLIN as u32);
        all.push(sys::pread(&file, 4096, 0).map_err(errno));
        all.push(sys::pread(&file, 4096 - TEXT.len(), 0).map_err(errno));
        all
    });
    assert!(all.iter().all(|got| got.as_deref() == Ok(TEXT)), "{all:?}");
}

/// Rules that look right and are not: answering a POLL of exactly POLLIN with nothing moves the read to a
/// worker after 255 POLLs, and does not help an O_NONBLOCK file at all.
#[test]
fn denying_readiness_is_no_remedy() {
    let _deadline = deadline("uring not ready");
    let (world, mount) = mounted();
    world.rule(|s| {
        if s.op == "POLL" && s.events == 1 {
            Answer::Ready(0)
        } else {
            Answer::Usual
        }
    });
    let path = mount.join("value");
    let read = |flags| {
        Run::uid(A).call(|| {
            let file = open(&path, flags);
            (
                sys::tid(),
                submit(&mut ring(false), 1, 4096, read_entry(&file, 0, Flags::empty())).remove(0),
            )
        })
    };
    let (tid, got) = read(0);
    assert_eq!(got.as_deref(), Ok(TEXT));
    assert!(world.of("READ")[0].pid != tid && world.of("POLL").len() > 100);
    assert!(read(libc::O_NONBLOCK).1.is_ok_and(|got| got.len() > TEXT.len()));
}

/// Records the facts of every READ's thread while it is blocked.
fn watch_readers(world: &World) -> Arc<Mutex<Vec<(Seen, Facts)>>> {
    let found: Arc<Mutex<Vec<_>>> = Arc::default();
    let (into, rule) = (found.clone(), once());
    world.rule(move |seen| {
        if seen.op == "READ" {
            into.lock().unwrap().push((seen.clone(), facts(seen.pid)));
        }
        rule(seen)
    });
    found
}

/// "its worker shows PF_USER_WORKER or PF_IO_WORKER (/proc/TID/stat field 9, mask 0x4010); ordinary rings run in
/// the caller".
#[test]
fn ring_workers_have_stat_flags_0x4010_and_ordinary_rings_run_in_the_caller() {
    let _deadline = deadline("uring workers");
    for (sqpoll, with, worker) in [
        (false, Flags::empty(), false),
        (false, Flags::ASYNC, true),
        (true, Flags::empty(), true),
    ] {
        let (world, mount) = mounted();
        let found = watch_readers(&world);
        let path = mount.join("value");
        let tid = Run::uid(A).call(|| {
            let file = open(&path, 0);
            submit(&mut ring(sqpoll), 1, 4096, read_entry(&file, 0, with))
                .remove(0)
                .expect("read");
            sys::tid()
        });
        let (seen, facts) = found.lock().unwrap()[0].clone();
        assert_eq!(facts.flags & 0x4010 != 0, worker, "{facts:?}");
        assert_eq!(seen.pid != tid, worker);
        assert_eq!((seen.uid, facts.fsuid), (A, A));
    }
}

/// "An SQPOLL ring made by A serves B after setuid, and header and /proc both say A".
#[test]
fn an_sqpoll_ring_keeps_its_makers_ids_after_setuid() {
    let _deadline = deadline("sqpoll setuid");
    let (world, mount) = mounted();
    let found = watch_readers(&world);
    let path = mount.join("value");
    let got = Run::root().call(|| {
        set_fsids(A, A);
        let mut ring = ring(true);
        let file = open(&path, 0);
        set_fsids(0, 0);
        become_ids(B, B, &[]).unwrap();
        submit(&mut ring, 1, 4096, read_entry(&file, 0, Flags::empty())).remove(0)
    });
    assert_eq!(got.as_deref(), Ok(TEXT));
    let (seen, facts) = found.lock().unwrap()[0].clone();
    assert_eq!(
        (seen.uid, facts.fsuid),
        (A, A),
        "nothing but the flags tells: {facts:?}"
    );
    assert!(facts.flags & 0x4010 != 0);
}

/// "the header's ids and /proc/TID's ids can differ: … io_uring personalities".
#[test]
fn an_io_uring_personality_shows_in_the_header_and_not_in_proc() {
    let _deadline = deadline("personality");
    let (world, mount) = mounted();
    let found = watch_readers(&world);
    let path = mount.join("value");
    let got = Run::root().call(|| {
        let mut ring = ring(false);
        set_fsids(A, A);
        let personality = ring.submitter().register_personality().expect("personality");
        set_fsids(0, 0);
        become_ids(B, B, &[]).unwrap();
        let file = open(&path, 0);
        let read = read_entry(&file, 0, Flags::empty());
        submit(&mut ring, 1, 4096, |buffer, size| {
            read(buffer, size).personality(personality)
        })
        .remove(0)
    });
    assert_eq!(got.as_deref(), Ok(TEXT));
    let (seen, facts) = found.lock().unwrap()[0].clone();
    assert_eq!((seen.uid, facts.fsuid), (A, B));
    assert_eq!(
        facts.flags & 0x4010,
        0,
        "it runs in the caller: only the ids disagree"
    );
}
