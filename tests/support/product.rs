//! The product itself: a store, its daemon on a mount of its own, and the command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The allowed user of most tests.
pub const A: u32 = 61001;
/// The denied one.
pub const B: u32 = 61002;

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The exit code; -1 for a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    /// Itself, if it ended well.
    #[track_caller]
    pub fn ok(self) -> Said {
        assert!(self.status.success(), "{self:?}");
        self
    }
}

/// A store of one test, with its daemon while [`Product::mount`] is in force.
pub struct Product {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Product {
    /// An initialised store, not mounted.
    #[track_caller]
    pub fn new() -> Product {
        let product = Product::empty();
        product.run(&["init"]).ok();
        product
    }

    /// A place for a store that is not made yet.
    #[track_caller]
    pub fn empty() -> Product {
        super::require_root();
        super::private_mounts();
        let dir = tempfile::Builder::new()
            .prefix("wardfs-test-")
            .tempdir_in("/var/tmp")
            .expect("temporary directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        Product { dir, daemon: None }
    }

    /// An initialised store, mounted.
    #[track_caller]
    pub fn mounted() -> Product {
        let mut product = Product::new();
        product.mount();
        product
    }

    /// The test's own directory, open to all for walking.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Moves the log to a file system that `mount` puts on its directory.
    #[track_caller]
    pub fn move_log<T>(&self, mount: impl FnOnce(&Path) -> T) -> T {
        let (log, kept) = (self.store().join("audit"), self.dir().join("kept"));
        let copy = |from: &Path, to: &Path| {
            for entry in std::fs::read_dir(from).expect("list") {
                let from = entry.expect("entry").path();
                std::fs::copy(&from, to.join(from.file_name().expect("a name"))).expect("copy");
            }
        };
        std::fs::create_dir(&kept).expect("mkdir");
        copy(&log, &kept);
        let mounted = mount(&log);
        std::fs::set_permissions(&log, PermissionsExt::from_mode(0o700)).expect("chmod");
        copy(&kept, &log);
        mounted
    }

    /// The mount.
    pub fn target(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A file of the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.target().join(name)
    }

    /// The daemon's pid.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a running daemon").id()
    }

    /// Starts `wardfs mount` and waits for READY.
    #[track_caller]
    pub fn mount(&mut self) {
        let failed = self.try_mount(&[]);
        assert!(failed.is_none(), "{failed:?}");
    }

    /// Starts `wardfs mount` with more arguments; says what it said if it did not get ready.
    pub fn try_mount(&mut self, more: &[&str]) -> Option<Said> {
        self.try_mount_as(more, |_| {})
    }

    /// The same; `prepare` has a last word at the command.
    #[track_caller]
    pub fn try_mount_as(&mut self, more: &[&str], prepare: impl FnOnce(&mut Command)) -> Option<Said> {
        let mut command = self.command(&["mount"]);
        command.arg(self.target()).args(more);
        prepare(&mut command);
        self.await_ready(command)
    }

    /// The same by way of another program, which starts it.
    #[track_caller]
    pub fn try_mount_within(&mut self, starter: &[&str]) -> Option<Said> {
        let inner = self.command(&["mount"]);
        let mut command = Command::new(starter[0]);
        command
            .args(&starter[1..])
            .arg(inner.get_program())
            .args(inner.get_args())
            .arg(self.target())
            .envs(super::coverage());
        self.await_ready(command)
    }

    /// As [`Product::mount`]; what the daemon says goes to `errors`.
    #[track_caller]
    pub fn mount_saying_to(&mut self, errors: std::fs::File) {
        let mut command = self.command(&["mount"]);
        command
            .arg(self.target())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut child = command.spawn().expect("start wardfs mount");
        let mut reader = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        assert!(line.contains("READY"), "{line}");
        self.daemon = Some(child);
    }

    fn await_ready(&mut self, mut command: Command) -> Option<Said> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("start wardfs mount");
        let mut reader = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let mut errors = child.stderr.take().expect("piped");
        if line.contains("READY") {
            // Somebody must read what the daemon says, or it would wait.
            std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
            std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
            self.daemon = Some(child);
            return None;
        }
        let mut err = String::new();
        let _ = errors.read_to_string(&mut err);
        let status = child.wait().expect("wait");
        Some(Said {
            status,
            out: line,
            err,
        })
    }

    /// Ends the daemon as a service manager does, and waits.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut child = self.daemon.take().expect("a running daemon");
        signal(&child, libc::SIGTERM);
        let status = end(&mut child, Duration::from_secs(10));
        assert!(
            status.is_some_and(|s| s.success()),
            "the daemon ended with {status:?}"
        );
    }

    /// Kills the daemon and takes away what it leaves mounted.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.unmount();
    }

    /// Kills the daemon and leaves its dead mount as it is.
    pub fn crash(&mut self) {
        let mut child = self.daemon.take().expect("a running daemon");
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Waits for a daemon that ends by itself.
    pub fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let status = end(self.daemon.as_mut().expect("a running daemon"), limit)?;
        self.daemon = None;
        Some(status)
    }

    /// Takes the mount away, whatever is on it.
    pub fn unmount(&self) {
        let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::MNT_FORCE;
        while nix::mount::umount2(&self.target(), flags).is_ok() {}
    }

    /// A `wardfs` command on this store.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wardfs"));
        command
            .env_clear()
            .envs(super::coverage())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .arg("--store")
            .arg(self.store())
            .args(args)
            .current_dir("/");
        // SAFETY: prctl is async-signal-safe; it ends the child with the test's thread.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command
    }

    /// Runs a command without input, as root.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Said {
        self.run_with(args, b"")
    }

    /// Runs a command with input, as root.
    #[track_caller]
    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Said {
        said(self.command(args), input)
    }

    /// Runs a command as another user, with these supplementary groups.
    #[track_caller]
    pub fn run_as(&self, uid: u32, groups: &[u32], args: &[&str], input: &[u8]) -> Said {
        // By descriptor: the program may lie where only root can walk.
        let program = std::fs::File::open(env!("CARGO_BIN_EXE_wardfs")).expect("the program");
        let number = nix::fcntl::fcntl(&program, nix::fcntl::FcntlArg::F_DUPFD(100)).expect("dup");
        // SAFETY: a new descriptor that nobody else owns.
        let _held: std::os::fd::OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(number) };
        let mut command = Command::new(format!("/proc/self/fd/{number}"));
        command
            .env_clear()
            .envs(super::coverage_of(uid))
            .arg("--store")
            .arg(self.store())
            .args(args)
            .current_dir("/");
        let groups = groups.to_vec();
        // SAFETY: raw system calls on this child alone.
        unsafe {
            command.pre_exec(move || super::become_ids(uid, uid, &groups));
        }
        said(command, input)
    }

    /// `put NAME` with this value and more arguments.
    #[track_caller]
    pub fn put(&self, name: &str, value: impl AsRef<[u8]>, more: &[&str]) -> Value {
        let mut args = vec!["--json", "put", name];
        args.extend(more);
        self.run_with(&args, value.as_ref()).ok().json()
    }

    /// Every audit record, parsed.
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        let said = self.run(&["--json", "audit", "query"]).ok();
        said.out
            .lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
            .collect()
    }

    /// Reads that returned bytes, as the log has them.
    #[track_caller]
    pub fn recorded_reads(&self) -> usize {
        let reads = |r: &Value| r["eventName"] == "GetSecretValue" && r["outcome"] == "allowed";
        self.records().iter().filter(|r| reads(r)).count()
    }

    /// Writes a document, a policy or the like, into the test's directory and gives its path.
    #[track_caller]
    pub fn document(&self, name: &str, document: &Value) -> String {
        let path = self.dir().join(name);
        std::fs::write(&path, document.to_string()).expect("write");
        path.to_str().expect("a path").to_string()
    }

    /// Waits until a record satisfies `wanted`, and gives it.
    #[track_caller]
    pub fn record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            if let Some(found) = self.records().into_iter().rev().find(|r| wanted(r)) {
                return found;
            }
            assert!(begin.elapsed() < Duration::from_secs(3), "no record: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the record of a refusal of `uid` with this reason.
    #[track_caller]
    pub fn refusal(&self, uid: u32, reason: &str) -> Value {
        self.record(&format!("refusal of {uid} for {reason}"), |r| {
            r["uid"] == uid && r["reason"] == reason
        })
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            signal(&child, libc::SIGTERM);
            if end(&mut child, Duration::from_secs(5)).is_none() {
                let _ = child.kill();
                self.unmount();
                let _ = child.wait();
            }
        }
        self.unmount();
    }
}

/// Reads a whole file in a child of these ids: its bytes, or its errno.
pub fn read_as(uid: u32, groups: &[u32], path: &Path) -> Result<Vec<u8>, i32> {
    let mut who = super::Run::uid(uid);
    for group in groups {
        who = who.group(*group);
    }
    who.call(|| std::fs::read(path).map_err(|e| e.raw_os_error().unwrap_or(0)))
}

fn signal(child: &Child, number: i32) {
    // SAFETY: the child is not reaped, so its pid is its own.
    unsafe { libc::kill(child.id() as i32, number) };
}

fn end(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Runs a command with input.
#[track_caller]
pub fn said(mut command: Command, input: &[u8]) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start wardfs");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("wait");
    let _ = writer.join();
    let said = Said {
        status: output.status,
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    has_three_lines(&said.err);
    said
}

/// Every error of ours says what, why, and what to do next, in whichever test it is seen.
#[track_caller]
pub fn has_three_lines(err: &str) {
    let count = |text: &str| err.matches(text).count();
    assert!(count("\n  why:  ") <= count("\n  next: "), "no next step: {err}");
    assert!(!err.contains("\"next\":\"\""), "no next step: {err}");
}

/// A copy of the program. It is made by another process: one that is open for writing here could be inherited by
/// a child that another test starts at this moment, and then not be executed ("text file busy").
#[track_caller]
pub fn install(to: &Path) {
    let status = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_wardfs"))
        .arg(to)
        .status();
    assert!(status.expect("start cp").success());
}

/// The commands that the help text of those `above` lists, those beneath them included.
pub fn commands(above: &[&str]) -> Vec<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_wardfs"))
        .args(above)
        .arg("-h")
        .output()
        .expect("help");
    let help = String::from_utf8(help.stdout).expect("text");
    // Commands stand under headings of their own, after which come the options.
    let mut below: Vec<&str> = Vec::new();
    let mut listed = false;
    for line in help.lines() {
        match line.strip_suffix(':') {
            Some("Arguments" | "Options" | "Global options" | "Examples") => break,
            Some(heading) if !heading.starts_with(' ') => listed = true,
            // What goes on from the line before stands deeper.
            _ if listed && line.starts_with("  ") && !line.starts_with("   ") => {
                below.extend(line.split_whitespace().next())
            }
            _ => {}
        }
    }
    below.retain(|c| *c != "help");
    if below.is_empty() {
        return vec![above.join(" ")];
    }
    below
        .iter()
        .flat_map(|c| commands(&[above, &[c]].concat()))
        .collect()
}
