//! The one size that the kernel keeps per inode.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

use super::fs::*;
use super::support::*;
use super::{A, TEXT, deadline, errno, mounted};

/// "`fstat` sends GETATTR without the handle (6.18's SEEK_END carries it)".
#[test]
fn fstat_asks_without_the_handle_and_seek_end_with_it() {
    let _deadline = deadline("fstat");
    let (world, mount) = mounted();
    let path = mount.join("value");
    let (len, end) = Run::uid(A).call(|| {
        let file = File::open(&path).expect("open");
        (
            file.metadata().expect("fstat").len(),
            sys::lseek(&file, 0, libc::SEEK_END).expect("seek"),
        )
    });
    assert_eq!((len, end), (TEXT.len() as u64, TEXT.len() as i64));
    let asked: Vec<_> = world.of("GETATTR").into_iter().map(|s| s.fh).collect();
    assert_eq!(asked, [None, Some(1)]);
}

/// "all replies go through one i_size per inode": what a stranger was told moves the reader's SEEK_END unless the
/// kernel asks again, and direct reads go past it: they stop where the daemon stops.
#[test]
fn a_direct_read_does_not_stop_at_the_size_that_was_told() {
    let _deadline = deadline("read past size");
    for told in [0u64, 5, 1000] {
        let (world, mount) = mounted();
        world.rule(move |s| match s.op.as_str() {
            "LOOKUP" | "GETATTR" if s.name != "other" => Answer::Size(told),
            _ => Answer::Usual,
        });
        let path = mount.join("value");
        let (size, whole, part, direct) = Run::uid(A).call(|| {
            let file = File::open(&path).expect("open");
            let direct = std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(&path)
                .expect("open");
            (
                file.metadata().expect("fstat").len(),
                sys::pread(&file, 100, 0).map_err(errno),
                sys::pread(&file, 100, 10).map_err(errno),
                sys::pread(&direct, 100, 0).map_err(errno),
            )
        });
        assert_eq!(size, told);
        assert_eq!(whole.as_deref(), Ok(TEXT));
        assert_eq!(part.as_deref(), Ok(&TEXT[10..]));
        assert_eq!(direct.as_deref(), Ok(TEXT));
    }
}

/// "open (v1), rotate to a shorter v2, fstat, read exactly st_size → a truncated v1": so the size told must be the
/// largest that anybody holds.
#[test]
fn a_size_lower_than_the_held_version_truncates_who_believes_fstat() {
    let _deadline = deadline("truncated");
    let (world, mount) = mounted();
    let path = mount.join("value");
    let file = File::open(&path).expect("open");
    world.put(b"short");
    let size = file.metadata().expect("fstat").len();
    assert_eq!(sys::pread(&file, size as usize, 0).unwrap(), TEXT[..5]);
    // The remedy: the larger of both, for everybody.
    world.rule(|s| {
        if s.op == "GETATTR" || s.op == "LOOKUP" {
            Answer::Size(TEXT.len() as u64)
        } else {
            Answer::Usual
        }
    });
    let size = file.metadata().expect("fstat").len();
    assert_eq!(sys::pread(&file, size as usize, 0).unwrap(), TEXT);
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"short",
        "a size too large harms no reader of the new version"
    );
}

/// "a stranger shown size 0 makes … an io_uring read return nothing".
#[test]
fn an_io_uring_read_ends_at_the_size_that_anybody_was_told() {
    use io_uring::{IoUring, cqueue, opcode, squeue, types};
    use std::os::fd::AsRawFd;
    let _deadline = deadline("uring size");
    let (world, mount) = mounted();
    let path = mount.join("value");
    let file = File::open(&path).expect("open");
    world.rule(|s| {
        if s.uid == A {
            Answer::Size(0)
        } else {
            Answer::Usual
        }
    });
    let stranger = path.clone();
    Run::uid(A)
        .call(|| std::fs::symlink_metadata(&stranger).map(|_| ()).map_err(errno))
        .unwrap();
    let mut ring: IoUring<squeue::Entry, cqueue::Entry> = IoUring::builder().build(2).expect("io_uring");
    let mut buffer = [0u8; TEXT.len()];
    let read = opcode::Read::new(
        types::Fd(file.as_raw_fd()),
        buffer.as_mut_ptr(),
        buffer.len() as u32,
    )
    .offset(0);
    // SAFETY: the buffer outlives the wait for the only completion.
    unsafe { ring.submission().push(&read.build()).expect("room") };
    ring.submit_and_wait(1).expect("submit");
    assert_eq!(ring.completion().next().map(|c| c.result()), Some(0));
    assert!(world.of("READ").is_empty());
}
