//! What the kernel and fuser really do, as far as the product stands on it.
//!
//! Each test is named after its fact and quotes it. They use real mounts, real processes of several uids and
//! no code of the product: when one fails on another kernel, the design has to be looked at, not the code.
//! Run as root, with `/dev/fuse`.

mod support;

#[path = "kernel_facts/attributes.rs"]
mod attributes;
#[path = "kernel_facts/caches.rs"]
mod caches;
#[path = "kernel_facts/callers.rs"]
mod callers;
#[path = "kernel_facts/changes.rs"]
mod changes;
#[path = "kernel_facts/fs.rs"]
mod fs;
#[path = "kernel_facts/harness.rs"]
mod harness;
#[path = "kernel_facts/io_uring_reads.rs"]
mod io_uring_reads;
#[path = "kernel_facts/polling.rs"]
mod polling;
#[path = "kernel_facts/processes.rs"]
mod processes;
#[path = "kernel_facts/serving.rs"]
mod serving;
#[path = "kernel_facts/sizes.rs"]
mod sizes;

use std::time::Duration;

/// Two uids that mean nothing on any machine.
const A: u32 = 61001;
const B: u32 = 61002;
/// The value of most tests.
const TEXT: &[u8] = b"[0123456789abcdef]";

/// How long any one of these tests may take.
fn deadline(what: &str) -> support::Deadline {
    support::Deadline::new(Duration::from_secs(20), what)
}

/// The world with [`TEXT`] in it, mounted and served by two threads.
fn mounted() -> (std::sync::Arc<fs::World>, support::TempMount) {
    let world = fs::World::new(TEXT);
    let mount = support::TempMount::new(fs::FactFs(world.clone()), 2);
    (world, mount)
}

/// An error's number, so that a child can report it.
fn errno(e: std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(-1)
}
