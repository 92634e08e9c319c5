//! The programs of `tests/attackers/`, and the ordinary accounts that run them.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::product::Product;

static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();

extern "C" fn remove_programs() {
    if let Some(dir) = DIR.get() {
        let _ = std::fs::remove_dir_all(dir.path());
    }
}

/// Builds `tests/attackers/NAME.c`; the program can be run by everybody.
#[track_caller]
pub fn build(name: &str) -> PathBuf {
    let dir = DIR.get_or_init(|| {
        let dir = tempfile::Builder::new()
            .prefix("wardfs-attackers-")
            .tempdir_in("/var/tmp");
        let dir = dir.expect("temporary directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        // A static is not dropped at the end.
        // SAFETY: registers a function that lives as long as the process.
        unsafe { libc::atexit(remove_programs) };
        dir
    });
    // Once: a program that another test runs cannot be written.
    static BUILT: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut names = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let program = dir.path().join(name);
    if names.iter().any(|n| n == name) {
        return program;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/attackers")
        .join(format!("{name}.c"));
    let built = Command::new("gcc")
        .args(["-O1", "-w", "-pthread", "-o"])
        .args([&program, &source])
        .status()
        .expect("gcc");
    assert!(built.success(), "{name} does not compile");
    names.push(name.to_string());
    program
}

/// An ordinary account, with sub ids as Debian gives them; gone when this is dropped.
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its uid and gid.
    pub uid: u32,
    /// The first of its 65,536 sub uids and sub gids.
    pub subids: u32,
}

impl Account {
    /// `name` and `uid` are this test's alone, among all tests; `groups` are there.
    #[track_caller]
    pub fn new(name: &str, uid: u32, groups: &[&str]) -> Account {
        remove(name);
        // Far above what Debian's useradd gives, and apart for each uid.
        let subids = 0x4000_0000 + (uid & 0x3fff) * 0x1_0000;
        let range = format!("{subids}-{}", subids + 65_535);
        // newuidmap asks that the gid is the account's own.
        run(Command::new("groupadd").args(["--gid", &uid.to_string(), name]));
        let mut add = Command::new("useradd");
        add.args([
            "--no-create-home",
            "--shell",
            "/bin/sh",
            "--uid",
            &uid.to_string(),
            "--gid",
            &uid.to_string(),
        ]);
        if !groups.is_empty() {
            add.args(["--groups", &groups.join(",")]);
        }
        run(add.arg(name));
        // What useradd gave by itself goes, so that the range is the one above.
        for file in ["/etc/subuid", "/etc/subgid"] {
            let lines = std::fs::read_to_string(file).unwrap_or_default();
            for line in lines.lines().filter(|l| l.starts_with(&format!("{name}:"))) {
                let mut parts = line
                    .split(':')
                    .skip(1)
                    .map(|n| n.parse::<u32>().expect("a number"));
                let (first, count) = (parts.next().expect("first"), parts.next().expect("count"));
                let flag = if file == "/etc/subuid" {
                    "--del-subuids"
                } else {
                    "--del-subgids"
                };
                run(Command::new("usermod").args([flag, &format!("{first}-{}", first + count - 1), name]));
            }
        }
        run(Command::new("usermod").args(["--add-subuids", &range, "--add-subgids", &range, name]));
        Account {
            name: name.into(),
            uid,
            subids,
        }
    }

    /// A command that runs as this account, with its groups.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid",
                &self.uid.to_string(),
                "--regid",
                &self.uid.to_string(),
                "--init-groups",
                "--",
            ])
            .arg(program);
        command
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// A program of an attacker. When it is dropped it is killed, and the connections of the file systems that it serves
/// are aborted: otherwise it would stay, with all that hangs on it.
pub struct Attacker {
    child: Child,
    uid: u32,
    /// The FUSE device, for everybody, and the control of its connections.
    dir: tempfile::TempDir,
}

impl Attacker {
    /// Starts the program as `who`, and waits until it says `ready`.
    #[track_caller]
    pub fn start(who: &Account, program: &Path, args: &[&str], ready: &str) -> Attacker {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let dir = tempfile::tempdir_in("/var/tmp").expect("temporary directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let (control, device) = (dir.path().join("connections"), dir.path().join("fuse"));
        std::fs::create_dir(&control).expect("mkdir");
        let none = None::<&str>;
        mount(Some("none"), &control, Some("fusectl"), MsFlags::empty(), none).expect("fusectl");
        mknod(&device, SFlag::S_IFCHR, Mode::empty(), makedev(10, 229)).expect("a device");
        std::fs::set_permissions(&device, PermissionsExt::from_mode(0o666)).expect("chmod");
        let mut command = who.command(program);
        let mut child = command
            .args(args)
            .env("FUSEDEV", &device)
            .current_dir("/")
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("start the attacker");
        let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut heard = Vec::new();
        while !heard.last().is_some_and(|line: &String| line.contains(ready)) {
            match said.next() {
                Some(line) => heard.push(line.expect("its words")),
                None => break,
            }
        }
        // What it says later is nobody's concern, but must not stop it.
        std::thread::spawn(move || said.for_each(drop));
        let (uid, reached) = (who.uid, heard.last().is_some_and(|l| l.contains(ready)));
        let attacker = Attacker { child, uid, dir };
        assert!(reached, "{ready} was not reached: {heard:?}");
        attacker
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        // SAFETY: its group is its own, and it is not reaped.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let control = self.dir.path().join("connections");
        for connection in std::fs::read_dir(&control).into_iter().flatten().flatten() {
            if connection.metadata().is_ok_and(|m| m.uid() == self.uid) {
                let _ = std::fs::write(connection.path().join("abort"), "1");
            }
        }
        let _ = self.child.wait();
        let _ = umount2(&control, MntFlags::MNT_DETACH);
    }
}

/// A mounted store that is administered by the group of a new account, which is called and numbered as the account is.
#[track_caller]
pub fn administered(name: &str, uid: u32) -> (Account, Product) {
    let account = Account::new(name, uid, &[]);
    let mut product = Product::new();
    let file = product.store().join("wardfs.toml");
    let text = std::fs::read_to_string(&file).expect("wardfs.toml");
    std::fs::write(&file, format!("admin_group = \"{name}\"\n{text}")).expect("write");
    product.run(&["config", "accept", "--yes"]).ok();
    product.mount();
    (account, product)
}

fn remove(name: &str) {
    // Also while a process of it is still ending.
    let _ = Command::new("userdel").args(["--force", name]).output();
    let _ = Command::new("groupdel").arg(name).output();
}

#[track_caller]
fn run(command: &mut Command) {
    let said = command.output().expect("run");
    assert!(said.status.success(), "{command:?}: {said:?}");
}
