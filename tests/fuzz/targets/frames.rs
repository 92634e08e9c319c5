//! Any requests of a kernel: each is answered, nobody but the one reader reads, and no handler panics.
#![no_main]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use wardfs::config::Config;
use wardfs::control::protocol::{Enclosed, Request, Rule};
use wardfs::fuse::Session;
use wardfs::vfs::Vfs;

struct Served {
    _dir: tempfile::TempDir,
    vfs: Arc<Vfs>,
    kernel: OwnedFd,
    /// The inode of the secret's file.
    file: u64,
}

const VALUE: &[u8] = b"value of 61007 alone";

/// struct fuse_in_header, then the body.
fn frame(opcode: u32, unique: u64, node: u64, uid: u32, body: &[u8]) -> Vec<u8> {
    let pid = std::process::id();
    let mut out = Vec::with_capacity(40 + body.len());
    out.extend((40 + body.len() as u32).to_ne_bytes());
    out.extend(opcode.to_ne_bytes());
    out.extend(unique.to_ne_bytes());
    out.extend(node.to_ne_bytes());
    out.extend(uid.to_ne_bytes());
    out.extend(uid.to_ne_bytes());
    out.extend(pid.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend(body);
    out
}

/// What follows the header of a request: the bytes of its structure, and its names.
const SHAPES: [(u32, usize, usize); 36] = [
    (1, 0, 1), (2, 8, 0), (3, 16, 0), (4, 88, 0), (5, 0, 0), (6, 0, 2), (8, 16, 1), (9, 8, 1), (10, 0, 1), (11, 0, 1),
    (12, 8, 2), (13, 8, 1), (14, 8, 0), (15, 40, 0), (16, 40, 0), (17, 0, 0), (18, 24, 0), (20, 16, 0), (21, 8, 1),
    (22, 8, 1), (23, 8, 0), (24, 0, 1), (25, 24, 0), (27, 8, 0), (28, 40, 0), (29, 24, 0), (30, 16, 0), (31, 48, 0),
    (34, 8, 0), (35, 16, 1), (36, 8, 0), (40, 24, 0), (42, 8, 0), (43, 32, 0), (45, 16, 2), (46, 24, 0),
];
/// Requests that are about an open handle, which their structure begins with.
const OF_HANDLES: [u32; 10] = [15, 16, 18, 20, 25, 28, 29, 30, 40, 46];
const SETATTR: u32 = 4;
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const BATCH_FORGET: u32 = 42;

/// A body as the kernel makes it, of any content. (What is malformed ends a thread of fuser 0.18; no caller of a mount
/// can bring that about.)
fn body(opcode: u32, fixed: usize, names: usize, bytes: &[u8]) -> Vec<u8> {
    let (fields, rest) = bytes.split_at(bytes.len().min(fixed));
    let mut out = fields.to_vec();
    out.resize(fixed, 0);
    if OF_HANDLES.contains(&opcode) {
        let handle = u64::from(out[0] % 8);
        out[..8].copy_from_slice(&handle.to_ne_bytes());
    }
    let mut parts = rest.split(|b| *b == 0xff);
    for _ in 0..names {
        let name = parts.next().filter(|n| !n.is_empty()).unwrap_or(b"app");
        out.extend(name.iter().take(255).map(|b| if matches!(b, 0 | b'/') { b'a' } else { *b }));
        out.push(0);
    }
    let data = parts.next().unwrap_or_default();
    match opcode {
        // Times that utimensat(2) lets through; of the least of all, fuser 0.18 takes the negative, which overflows
        // (a panic where overflows are checked, as here; a shipped build wraps).
        SETATTR => {
            for at in [32, 40, 48] {
                out[at + 7] &= 0x3f;
            }
            for at in [56, 60, 64] {
                let nanos = u32::from_ne_bytes(out[at..at + 4].try_into().unwrap()) % 1_000_000_000;
                out[at..at + 4].copy_from_slice(&nanos.to_ne_bytes());
            }
        }
        WRITE => {
            out[16..20].copy_from_slice(&(data.len() as u32).to_ne_bytes());
            out.extend(data);
        }
        SETXATTR => {
            out[..4].copy_from_slice(&(data.len() as u32).to_ne_bytes());
            out.extend(data);
        }
        BATCH_FORGET => {
            let count = data.len() / 16;
            out[..4].copy_from_slice(&(count as u32).to_ne_bytes());
            out.extend(&data[..count * 16]);
        }
        _ => {}
    }
    out
}

fn start() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    wardfs::daemon::init(&store).unwrap();
    let (desk, access) = wardfs::daemon::desk(&store, &Config::default()).unwrap();
    for (name, reader, bytes) in [("app/db", "uid:61007", VALUE), ("app/mine", "uid:0", b"what root may read")] {
        let mut value = wardfs::sys::mem::secret(bytes.len()).unwrap();
        value.expose_mut().copy_from_slice(bytes);
        let rule = Rule::Allow(reader.parse().unwrap());
        let put = serde_json::json!({"command": "put", "name": name, "rules": [rule]});
        let put: Request = serde_json::from_value(put).unwrap();
        let root = &mut wardfs::access::KnownCaller::root();
        desk.answer(&put, Some(Enclosed::Value(value)), &mut |_| {}, root).unwrap();
    }
    let vfs = Arc::new(Vfs::new(access, 64));
    let kind = SockType::SeqPacket;
    let (kernel, device) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let mut init = Vec::new();
    for word in [7u32, 40, 65536, 0, 0] {
        init.extend(word.to_ne_bytes());
    }
    init.resize(64, 0);
    send(kernel.as_raw_fd(), &frame(26, 1, 0, 0, &init), MsgFlags::empty()).unwrap();
    let session = Session::start(vfs.clone(), device, 1, 1024).unwrap();
    std::thread::spawn(move || session.run());
    let mut node = 1;
    for name in [&b"app\0"[..], b"mine\0"] {
        send(kernel.as_raw_fd(), &frame(1, 4, node, 0, name), MsgFlags::empty()).unwrap();
        let reply = until(&kernel, 4).unwrap();
        node = u64::from_ne_bytes(reply.get(16..24).expect("an entry").try_into().unwrap());
    }
    Served { _dir: dir, vfs, kernel, file: node }
}

/// Reads replies until that of `unique`; none if the session ended.
fn until(kernel: &OwnedFd, unique: u64) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match recv(kernel.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(n) if n >= 16 => {
                assert!(!buffer[..n].windows(VALUE.len()).any(|w| w == VALUE), "a value was given away");
                let got = u64::from_ne_bytes(buffer[8..16].try_into().unwrap());
                if got == unique {
                    return Some(buffer[..n].to_vec());
                }
            }
            _ => return None,
        }
    }
}

thread_local! {
    static SERVED: std::cell::RefCell<Option<Served>> = const { std::cell::RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    SERVED.with_borrow_mut(|served| {
        let mut rest = bytes;
        let now = served.get_or_insert_with(start);
        // An operation: opcode, node, caller, length, body.
        let (mut unique, mut alive) = (16u64, true);
        let mut taken = vec![0; 4096];
        while let [opcode, node, who, length, tail @ ..] = rest {
            let (bytes, more) = tail.split_at(usize::from(*length).min(tail.len()));
            rest = more;
            let (opcode, fixed, names) = SHAPES[usize::from(*opcode) % SHAPES.len()];
            let body = body(opcode, fixed, names, bytes);
            let node = [1, 2, 3, now.file, u64::from(*node), u64::MAX][usize::from(*node) % 6];
            let uid = [0, 61001, 61002, u32::MAX][usize::from(*who) % 4];
            // Replies are taken as they come: a full socket would stop both sides.
            while recv(now.kernel.as_raw_fd(), &mut taken, MsgFlags::MSG_DONTWAIT).is_ok_and(|n| n > 0) {
                assert!(!taken.windows(VALUE.len()).any(|w| w == VALUE), "a value was given away");
                taken.fill(0);
            }
            unique += 2;
            alive &= send(now.kernel.as_raw_fd(), &frame(opcode, unique, node, uid, &body), MsgFlags::empty()).is_ok();
        }
        // STATFS is always answered: whatever came before has been, too.
        alive = alive
            && send(now.kernel.as_raw_fd(), &frame(17, 2, 1, 0, &[]), MsgFlags::empty()).is_ok()
            && until(&now.kernel, 2).is_some();
        assert_eq!(now.vfs.counters.panics.load(Ordering::Relaxed), 0, "a handler panicked");
        if !alive {
            *served = None;
        }
    });
});
