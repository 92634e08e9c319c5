//! Standard error that cannot be written, is not read or is full harms nobody, and what callers do adds nothing to it.

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::product::{Product, read_as};
use support::small::Small;
use support::{Deadline, Run};

/// The allowed reader, and the user whom no policy names.
const READER: u32 = 61100;
const STRANGER: u32 = 61101;
const SECRETS: usize = 8;

fn name(n: usize) -> String {
    format!("app/key{n}")
}

/// A store with some secrets of one reader, and `wardfs mount` with this standard error; stopped when it is dropped.
struct Served {
    product: Product,
    daemon: Child,
}

impl Served {
    fn new(stderr: impl Into<Stdio>, more: &[&str]) -> Served {
        let product = Product::new();
        for n in 0..SECRETS {
            product.put(&name(n), b"value", &["--allow", &format!("uid:{READER}")]);
        }
        Served::of(product, stderr, more)
    }

    fn of(product: Product, stderr: impl Into<Stdio>, more: &[&str]) -> Served {
        let mut command = product.command(&["mount"]);
        command.arg(product.target()).args(more).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(stderr);
        let mut daemon = command.spawn().expect("start wardfs mount");
        drop(command);
        let mut ready = String::new();
        let mut out = BufReader::new(daemon.stdout.take().expect("piped"));
        out.read_line(&mut ready).expect("READY");
        assert!(ready.starts_with("READY"), "{ready}");
        Served { product, daemon }
    }

    /// Refuses the stranger every secret, `times` times; who may read reads meanwhile.
    fn refuse(&self, times: usize) {
        let paths: Vec<_> = (0..SECRETS).map(|n| self.product.path(&name(n))).collect();
        for round in 0..times {
            let stat = |p: &std::path::PathBuf| File::open(p).map(|_| ()).map_err(|e| e.raw_os_error());
            let refused: Vec<_> = Run::uid(STRANGER).call(|| paths.iter().map(stat).collect());
            assert_eq!(refused, [Err(Some(libc::EACCES)); SECRETS], "round {round}");
        }
        assert_eq!(read_as(READER, &[], &paths[0]).as_deref(), Ok(&b"value"[..]));
    }

    /// SIGTERM, which is to end it well within two seconds; more, so that a busy machine fails no test.
    fn stop(&mut self) {
        let begin = Instant::now();
        // SAFETY: the child is not reaped, so its pid is its own.
        unsafe { libc::kill(self.daemon.id() as i32, libc::SIGTERM) };
        while begin.elapsed() < Duration::from_secs(6) {
            if let Ok(Some(status)) = self.daemon.try_wait() {
                assert!(status.success(), "{status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not stop");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn deadline(what: &str) -> Deadline {
    Deadline::new(Duration::from_secs(60), what)
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("a pipe")
}

#[test]
fn a_terminal_that_is_gone() {
    let _deadline = deadline("a closed terminal");
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    // The daemon must not have the other side itself.
    let close = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(&pty.master, close).expect("close on exec");
    let mut served = Served::new(pty.slave, &["-v"]);
    drop(pty.master);
    served.refuse(4);
    served.stop();
}

#[test]
fn a_pipe_whose_reader_ended() {
    let _deadline = deadline("a broken pipe");
    let (reader, writer) = pipe();
    let mut served = Served::new(writer, &["-v"]);
    drop(reader);
    served.refuse(4);
    served.stop();
}

#[test]
fn a_pipe_that_nobody_reads() {
    let _deadline = deadline("an undrained pipe");
    let (reader, writer) = pipe();
    // With everything on, so that it is full at once.
    let mut served = Served::new(writer, &["-vv"]);
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).expect("a small pipe");
    served.refuse(40);
    served.stop();
    drop(reader);
}

/// What ended it is said through the same queue.
#[test]
fn an_undrained_pipe_and_an_end_from_outside() {
    let _deadline = deadline("an undrained pipe");
    let (reader, writer) = pipe();
    let mut served = Served::new(writer, &["-vv"]);
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).expect("a small pipe");
    served.refuse(40);
    served.product.unmount();
    let begin = Instant::now();
    while served.daemon.try_wait().expect("wait").is_none() {
        assert!(begin.elapsed() < Duration::from_secs(6), "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(reader);
}

#[test]
fn a_file_on_a_full_disk() {
    let _deadline = deadline("a full disk");
    support::require_root();
    support::private_mounts();
    let dir = tempfile::tempdir().expect("a directory");
    let small = Small::on(dir.path(), "size=64k");
    let file = File::create(dir.path().join("stderr")).expect("a file");
    let mut served = Served::new(file, &["-v"]);
    small.fill();
    served.refuse(4);
    small.clear();
    served.refuse(1);
    let said = wait_for(&dir.path().join("stderr"), "could not be written");
    assert!(said.is_ok(), "{said:?}");
    served.stop();
}

fn wait_for(file: &Path, text: &str) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let said = std::fs::read_to_string(file).expect("readable");
        if said.contains(text) {
            return Ok(());
        }
        if begin.elapsed() > Duration::from_secs(5) {
            return Err(said);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Refusals are the log's business; failures that a caller can provoke are a line a second.
#[test]
fn ten_thousand_refusals_and_failures_are_a_few_lines() {
    let _deadline = deadline("10,000 refusals");
    let product = Product::new();
    for n in 0..SECRETS {
        product.put(&name(n), b"value", &["--allow", &format!("uid:{READER}")]);
    }
    let (reader, writer) = pipe();
    let mut served = Served::of(product, writer, &[]);
    let begin = Instant::now();
    let path = served.product.path(&name(1));
    // Of ten strangers, since one alone is answered a thousand a second.
    let strangers = (0..10).map(|n| {
        let path = path.clone();
        let stat = move || (0..1000).filter(|_| std::fs::metadata(&path).is_err()).count();
        Run::uid(STRANGER + n).limit(Duration::from_secs(50)).start(stat)
    });
    let strangers: Vec<_> = strangers.collect();
    let refused: usize = strangers.into_iter().map(support::Child::join).sum();
    assert_eq!(refused, 10_000);
    served.refuse(1);
    served.stop();
    let seconds = begin.elapsed().as_secs() as usize;
    let mut said = String::new();
    File::from(reader).read_to_string(&mut said).expect("text");
    assert!(said.lines().count() <= 5 + 2 * seconds, "{said}");
    assert!(!said.contains("denied"), "{said}");
}

/// Each read fails, since the log's disk is full.
#[test]
fn a_thousand_failures_are_a_line_a_second() {
    let _deadline = deadline("1,000 failures");
    let product = Product::new();
    product.put(&name(0), b"value", &["--allow", &format!("uid:{READER}")]);
    let small = Small::under(&product, "1m");
    let (reader, writer) = pipe();
    let mut served = Served::of(product, writer, &[]);
    let begin = Instant::now();
    small.fill();
    let path = served.product.path(&name(0));
    let failed = Run::uid(READER)
        .limit(Duration::from_secs(50))
        .call(|| (0..5000).filter(|_| std::fs::read(&path).is_err()).count());
    assert!(failed > 1000, "{failed}");
    small.clear();
    served.stop();
    let seconds = begin.elapsed().as_secs() as usize;
    let mut said = String::new();
    File::from(reader).read_to_string(&mut said).expect("text");
    // From a read, and from who keeps the log anchored.
    assert!(said.lines().count() <= 10 + 3 * seconds, "{said}");
    let counted = |l: &str| l.contains(&format!("read for uid {READER}")) && l.contains(" more of this kind");
    assert!(said.lines().any(counted), "{said}");
}
