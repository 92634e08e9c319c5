//! A value replaced thousands of times under readers of all kinds: each handle sees one version, each later open
//! the newest acknowledged one, nothing is torn, truncated or repeated.

mod support;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use wardfs::control::client::Client;
use wardfs::control::protocol::Request;
use wardfs::lifecycle::Put;

use support::product::{A, B, Product};
use support::{Deadline, Run, sys};

/// A value that tells what it is: its number, its length, and a pattern that no other has.
fn value(number: u64, length: usize) -> Vec<u8> {
    let mut text = format!("{number:010}:{length:06}:").into_bytes();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(b'a' + (state % 26) as u8);
    }
    text
}

/// Shorter, longer, equal, in turn.
fn length(number: u64) -> usize {
    match number % 6 {
        0 => 40,
        1 => 40,
        2 => 5000,
        3 => 200,
        4 => 200,
        _ => 18 + (number as usize * 37) % 3000,
    }
}

/// The number of the value that these bytes are, whole; what is wrong with them otherwise.
fn number_of(bytes: &[u8]) -> Result<u64, String> {
    let head = bytes.get(..18).and_then(|h| std::str::from_utf8(h).ok());
    let number = head.and_then(|h| h[..10].parse().ok());
    let number: u64 = number.ok_or_else(|| format!("{} bytes without a head", bytes.len()))?;
    let whole = value(number, length(number));
    match bytes == whole {
        true => Ok(number),
        false => Err(format!(
            "value {number}: {} bytes of {}",
            bytes.len(),
            whole.len()
        )),
    }
}

/// Counters that forked readers share with the test.
#[repr(C)]
struct Shared {
    acknowledged: AtomicU64,
    stop: AtomicU64,
}

fn shared() -> &'static Shared {
    // SAFETY: a fresh shared mapping of zeroes, which is a valid Shared, and is never unmapped.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert!(at != libc::MAP_FAILED);
        &*at.cast::<Shared>()
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Chunks,
    ExactlyFstat,
    SeekToTheEnd,
    IoUring,
}

fn read_one(way: Way, file: &mut File, salt: &mut u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    match way {
        Way::Chunks => loop {
            *salt = salt
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let mut chunk = vec![0; 1 + (*salt >> 33) as usize % 700];
            match file.read(&mut chunk).expect("read") {
                0 => return bytes,
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        },
        Way::ExactlyFstat => {
            let size = file.metadata().expect("fstat").size() as usize;
            bytes.resize(size, 0);
            let n = file.read_at(&mut bytes, 0).expect("pread");
            bytes.truncate(n);
        }
        Way::SeekToTheEnd => {
            let size = file.seek(SeekFrom::End(0)).expect("seek") as usize;
            file.rewind().expect("seek");
            bytes.resize(size, 0);
            let n = file.read(&mut bytes).expect("read");
            bytes.truncate(n);
        }
        Way::IoUring => {
            let mut ring = IoUring::new(4).expect("io_uring_setup");
            bytes.resize(16384, 0);
            let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), bytes.as_mut_ptr(), 16384).build();
            // SAFETY: the buffer lives until its completion is taken, right below.
            unsafe { ring.submission().push(&entry).expect("room in the ring") };
            ring.submit_and_wait(1).expect("io_uring_enter");
            let n = ring.completion().next().expect("a completion").result();
            assert!(n >= 0, "io_uring read: errno {}", -n);
            bytes.truncate(n as usize);
        }
    }
    bytes
}

/// Opens and reads until told to stop: how many, and what was wrong.
fn reader(way: Way, path: &Path, shared: &Shared, mut salt: u64) -> (u64, Vec<String>) {
    let (mut read, mut wrong) = (0, Vec::new());
    while shared.stop.load(Ordering::SeqCst) == 0 && wrong.len() < 10 {
        let acknowledged = shared.acknowledged.load(Ordering::SeqCst);
        let mut file = File::open(path).expect("open");
        let first = number_of(&read_one(way, &mut file, &mut salt));
        read += 1;
        match first {
            Ok(number) if number < acknowledged => {
                wrong.push(format!("{way:?}: {number} after {acknowledged} was acknowledged"))
            }
            Ok(number) => {
                // The handle keeps its version: another look, by an ordinary read, at the same one.
                let again = sys::pread(&file, 18, 0);
                let same =
                    matches!(&again, Ok(head) if head.starts_with(format!("{number:010}:").as_bytes()));
                // After an io_uring read the thread gets no second look at the offset.
                if !same && !matches!(way, Way::IoUring) {
                    wrong.push(format!("{way:?}: the handle of {number} shows {again:?}"));
                }
            }
            Err(e) => wrong.push(format!("{way:?}: {e}")),
        }
    }
    (read, wrong)
}

#[test]
fn a_value_replaced_under_readers_of_all_kinds() {
    let long = support::long_run();
    let replacements: u64 = if long { 10_000 } else { 1_500 };
    let _deadline = Deadline::new(Duration::from_secs(if long { 900 } else { 240 }), "replace");
    let product = Product::mounted();
    let name = "app/value";
    product.put(name, value(0, length(0)), &["--allow", &format!("uid:{A}")]);
    let path = product.path(name);
    let shared = shared();
    let ways = [
        Way::Chunks,
        Way::Chunks,
        Way::Chunks,
        Way::ExactlyFstat,
        Way::ExactlyFstat,
        Way::SeekToTheEnd,
        Way::SeekToTheEnd,
        Way::IoUring,
    ];
    let limit = Duration::from_secs(600);
    let readers: Vec<_> = ways
        .iter()
        .enumerate()
        .map(|(i, way)| {
            Run::uid(A)
                .limit(limit)
                .start(|| reader(*way, &path, shared, i as u64 + 1))
        })
        .collect();
    let strangers: Vec<_> = (0..2)
        .map(|_| {
            Run::uid(B).limit(limit).start(|| {
                let (mut tried, mut shown) = (0u64, 0u64);
                while shared.stop.load(Ordering::SeqCst) == 0 {
                    tried += 1;
                    shown += u64::from(std::fs::metadata(&path).is_ok());
                }
                (tried, shown)
            })
        })
        .collect();

    let mut client = Client::connect(&product.store())
        .expect("connect")
        .expect("a daemon");
    let begin = std::time::Instant::now();
    for number in 1..=replacements {
        let text = value(number, length(number));
        let mut secret = wardfs::sys::mem::secret(text.len()).expect("locked memory");
        secret.expose_mut().copy_from_slice(&text);
        let put: Put = serde_json::from_value(serde_json::json!({ "name": name })).expect("a put");
        client
            .call(
                &Request::Put(put),
                Some(wardfs::control::protocol::Enclosed::Value(secret)),
            )
            .expect("put");
        shared.acknowledged.store(number, Ordering::SeqCst);
    }
    let took = begin.elapsed();
    shared.stop.store(1, Ordering::SeqCst);
    let mut total = 0;
    for (way, child) in ways.iter().zip(readers) {
        let (read, wrong) = child.join();
        assert!(
            wrong.is_empty(),
            "torn, truncated, repeated or outdated: {wrong:#?}"
        );
        assert!(read > 10, "{way:?} read {read} times only");
        total += read;
    }
    for stranger in strangers {
        let (tried, shown) = stranger.join();
        assert!(
            tried > 100 && shown == 0,
            "a stranger was shown attributes {shown} times of {tried}"
        );
    }
    println!("{replacements} replacements in {took:?}, {total} opens and reads, 0 wrong");
    product.run(&["audit", "verify"]).ok();
}
