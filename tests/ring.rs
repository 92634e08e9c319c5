//! io_uring reads: a value comes once, or an error, never repeated.

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

use support::product::{A, Product};
use support::{Deadline, Run, sys};

/// Reads once by a ring, as many times at once as said: what each gave.
fn ring_reads(file: &File, offset: u64, times: usize) -> Vec<Result<Vec<u8>, i32>> {
    let mut ring = IoUring::new(16).expect("io_uring_setup");
    let mut buffers = vec![vec![0u8; 4096]; times];
    for (i, buffer) in buffers.iter_mut().enumerate() {
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), 4096).offset(offset);
        // SAFETY: the buffers live until every completion is taken, below.
        unsafe {
            ring.submission()
                .push(&read.build().user_data(i as u64))
                .expect("room in the ring")
        };
    }
    ring.submit_and_wait(times).expect("io_uring_enter");
    let mut answers = vec![Err(0); times];
    for done in ring.completion() {
        let (i, n) = (done.user_data() as usize, done.result());
        answers[i] = if n < 0 {
            Err(-n)
        } else {
            Ok(buffers[i][..n as usize].to_vec())
        };
    }
    answers
}

#[test]
fn io_uring_gives_a_value_once_or_an_error() {
    use std::os::unix::fs::OpenOptionsExt;
    let _deadline = Deadline::new(Duration::from_secs(60), "io_uring");
    let product = Product::mounted();
    product.put(
        "app/value",
        "eighteen bytes...!",
        &["--allow", &format!("uid:{A}")],
    );
    let path = product.path("app/value");
    for flags in [0, libc::O_DIRECT, libc::O_NONBLOCK] {
        for (offset, times) in [(0, 1), (u64::MAX, 1), (0, 4)] {
            let answers = Run::uid(A).call(|| {
                let file = File::options()
                    .read(true)
                    .custom_flags(flags)
                    .open(&path)
                    .expect("open");
                ring_reads(&file, offset, times)
            });
            let what = format!("flags {flags:#o}, offset {offset}, {times} at once: {answers:?}");
            assert!(
                answers.iter().any(|a| a.as_deref() == Ok(b"eighteen bytes...!")),
                "{what}"
            );
            let right = |a: &Result<Vec<u8>, i32>| match a {
                Ok(bytes) => bytes == b"eighteen bytes...!",
                Err(errno) => *errno == libc::EINVAL,
            };
            assert!(answers.iter().all(right), "{what}");
        }
    }
    // A thread that never used a ring reads as often as it likes.
    let reads = Run::uid(A).call(|| {
        let file = File::open(&path).expect("open");
        (0..100)
            .filter(|_| sys::pread(&file, 100, 0).is_ok_and(|b| b == b"eighteen bytes...!"))
            .count()
    });
    assert_eq!(reads, 100);
}
