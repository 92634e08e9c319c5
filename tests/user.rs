//! A user without root: a store and a mount of his own, and settings for one service.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::product::{Product, read_as};
use support::{Deadline, wait_until};

/// A user that every Debian has: fusermount3 serves nobody without a name.
const USER: (u32, u32) = (5, 60);
/// Another one, whose processes nobody else's test makes.
const ALONE: (u32, u32) = (9, 9);

/// A home, the program, and `/dev/fuse` as udev leaves it, for everybody.
struct Home {
    dir: tempfile::TempDir,
    user: (u32, u32),
}

impl Home {
    fn new() -> Home {
        Home::of(USER)
    }

    fn of(user: (u32, u32)) -> Home {
        support::require_root();
        support::private_mounts();
        let dir = tempfile::Builder::new()
            .prefix("wardfs-test-")
            .tempdir_in("/var/tmp")
            .expect("temporary directory");
        let device = dir.path().join("fuse");
        let (kind, number) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::makedev(10, 229));
        nix::sys::stat::mknod(&device, kind, nix::sys::stat::Mode::empty(), number).expect("mknod");
        std::fs::set_permissions(&device, PermissionsExt::from_mode(0o666)).expect("chmod");
        let flags = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&device), "/dev/fuse", None::<&str>, flags, None::<&str>).expect("bind");
        support::product::install(&dir.path().join("wardfs"));
        std::os::unix::fs::chown(dir.path(), Some(user.0), Some(user.1)).expect("chown");
        Home { dir, user }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        self.program(self.path("wardfs").as_ref(), args)
    }

    fn program(&self, program: &std::ffi::OsStr, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .envs(support::coverage_of(self.user.0))
            .env("HOME", self.dir.path())
            .env("PATH", format!("{}:/usr/bin:/bin", self.dir.path().display()))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        let user = self.user;
        // SAFETY: raw system calls on this child alone.
        unsafe {
            command.pre_exec(move || {
                support::become_ids(user.0, user.1, &[])?;
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("start")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn mount(&self) -> Served {
        let command = self
            .command(&["mount", "--user", "secrets"])
            .spawn()
            .expect("start");
        let mut served = Served(command);
        let begin = Instant::now();
        while !mounted(&self.path("secrets")) || self.run(&["--user", "status"]).stdout.is_empty() {
            assert!(matches!(served.0.try_wait(), Ok(None)), "it ended");
            assert!(begin.elapsed() < Duration::from_secs(10), "it is not ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        served
    }

    fn read(&self, who: (u32, u32), name: &str) -> Result<Vec<u8>, i32> {
        let path = self.path("secrets").join(name);
        support::Run::uid(who.0)
            .gid(who.1)
            .call(|| std::fs::read(path).map_err(|e| e.raw_os_error().unwrap_or(0)))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let flags = nix::mount::MntFlags::MNT_DETACH;
        while nix::mount::umount2(&self.path("secrets"), flags).is_ok() {}
        let _ = nix::mount::umount2("/dev/fuse", flags);
    }
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mounted(target: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    table.lines().any(|l| l.contains(&*target.to_string_lossy()))
}

#[test]
fn a_user_without_root_has_a_store_and_a_mount_of_his_own() {
    let _deadline = Deadline::new(Duration::from_secs(90), "a user's own mount");
    let home = Home::new();
    home.ok(&["--user", "init"]);
    let store = home.path(".local/share/wardfs");
    let mode = std::fs::metadata(&store).expect("stat").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    std::fs::write(home.path("value"), "s3cret").expect("write");
    std::fs::set_permissions(home.path("value"), PermissionsExt::from_mode(0o644)).expect("chmod");
    home.ok(&[
        "put",
        "app/db",
        "--user",
        "--value-file",
        "value",
        "--allow",
        "uid:5",
    ]);
    home.ok(&["put", "--user", "app/none", "--value-file", "value"]);
    {
        let _served = home.mount();
        assert_eq!(home.read(USER, "app/db"), Ok(b"s3cret".to_vec()));
        assert_eq!(home.read(USER, "app/none"), Err(libc::EACCES));
        // The mount is the user's alone: the kernel keeps everybody else out, root too.
        assert_eq!(home.read((0, 0), "app/db"), Err(libc::EACCES));
        assert_eq!(home.read((61001, 61001), "app/db"), Err(libc::EACCES));
        // A new value is there at once; changes are refused.
        std::fs::write(home.path("value"), "n3wer").expect("write");
        home.ok(&["put", "--user", "app/db", "--value-file", "value"]);
        assert_eq!(home.read(USER, "app/db"), Ok(b"n3wer".to_vec()));
        assert_eq!(home.ok(&["get", "--user", "app/db"]), "n3wer");
        home.ok(&["unmount", "--user", "secrets"]);
        wait_until(Duration::from_secs(5), "the end of the mount", || {
            !mounted(&home.path("secrets"))
        });
    }
    // Nor does a kill leave anything behind.
    drop(home.mount());
    wait_until(Duration::from_secs(5), "the end of the mount", || {
        !mounted(&home.path("secrets"))
    });
    let log = home.ok(&["--user", "audit", "verify"]);
    assert!(log.contains("whole"), "{log}");
    let records = home.ok(&["--user", "--json", "audit", "query", "--event", "GetSecretValue"]);
    assert!(records.lines().count() >= 3, "{records}");
}

#[test]
fn the_flag_names_the_store_and_excludes_another() {
    let home = Home::new();
    let code = |args: &[&str]| home.run(args).status.code();
    assert_eq!(code(&["--user", "--store", "/x", "list"]), Some(2));
    assert_eq!(code(&["list", "--user"]), Some(4));
    let mut elsewhere = home.command(&["--user", "init"]);
    elsewhere.env("XDG_DATA_HOME", home.path("data"));
    assert!(elsewhere.output().expect("start").status.success());
    assert!(home.path("data/wardfs/root.key").exists());
    // A relative one is none (XDG Base Directory Specification).
    let mut relative = home.command(&["--user", "list"]);
    relative.env("XDG_DATA_HOME", "data");
    assert_eq!(relative.output().expect("start").status.code(), Some(4));
    let mut homeless = home.command(&["--user", "list"]);
    homeless.env_remove("HOME");
    assert_eq!(homeless.output().expect("start").status.code(), Some(2));
    // `why --user NAME` and `audit query --user NAME` mean somebody else's name still.
    home.ok(&["--user", "init"]);
    home.ok(&["--user", "audit", "query", "--user", "games"]);
}

#[test]
fn settings_for_one_service() {
    let _deadline = Deadline::new(Duration::from_secs(60), "mount -o");
    let mut product = Product::new();
    product.put("app/db", "s3cret", &["--allow", "uid:61001"]);
    for bad in [
        "threds=4",
        "threads",
        "threads=0",
        "threads=four",
        "audit=1",
        "audit.x=1",
        "principals=x",
    ] {
        let said = product.try_mount(&["-o", bad]).expect("refused");
        assert_eq!(said.code(), 2, "{bad}: {said:?}");
        assert!(!mounted(&product.target()));
    }
    let said = product.try_mount(&[
        "-o",
        "threads=3",
        "-o",
        "max_handles_per_uid=1",
        "-o",
        "audit.segment_bytes=65536",
    ]);
    assert!(said.is_none(), "{said:?}");
    let status = product.run(&["status", "--json"]).ok().json();
    assert_eq!(status["threads"], 3);
    let path = product.path("app/db");
    assert_eq!(read_as(61001, &[], &path), Ok(b"s3cret".to_vec()));
    let both = support::Run::uid(61001).call(|| {
        let first = std::fs::File::open(&path);
        let second = std::fs::File::open(&path).map(drop).map_err(|e| e.raw_os_error());
        (first.is_ok(), second)
    });
    assert_eq!(both, (true, Err(Some(libc::EMFILE))));
}

#[test]
fn the_readme_word_for_word() {
    let _deadline = Deadline::new(Duration::from_secs(60), "the README's words for a user");
    let home = Home::new();
    let (_, text) = include_str!("../README.md")
        .split_once("\n### Without root\n")
        .expect("the heading");
    let (_, text) = text.split_once("```console\n").expect("a block");
    let (block, _) = text.split_once("```").expect("its end");
    let commands: Vec<&str> = block.lines().filter_map(|l| l.strip_prefix("$ ")).collect();
    let said: Vec<&str> = block.lines().filter(|l| !l.starts_with("$ ")).collect();
    assert!(commands.len() >= 5, "{commands:?}");
    let script: String = commands
        .iter()
        .map(|line| match line.strip_suffix(" &") {
            Some(served) => format!("{served} > ready &\nuntil grep -q READY ready; do sleep 0.05; done\n"),
            // What is expected is what `cat` says.
            None if line.starts_with("cat ") => format!("{line}; echo\n"),
            None => format!("{line} >> other 2>&1\n"),
        })
        .collect();
    let script = format!("set -e\n{script}wait\n");
    let output = home
        .program("bash".as_ref(), &["-c", &script])
        .output()
        .expect("start");
    let other = std::fs::read_to_string(home.path("other"));
    assert!(output.status.success(), "{output:?} {other:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim_end(),
        said.join("\n")
    );
    assert!(!mounted(&home.path("secrets")));
}

/// The program alone counts here, as its threads do: nobody else is this user.
fn with_threads(command: &mut Command, most: u64) {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: setrlimit is async-signal-safe and changes this child alone.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NPROC, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

#[test]
fn with_few_threads_a_daemon_serves_or_says_why_not() {
    let _deadline = Deadline::new(Duration::from_secs(120), "few threads");
    let home = Home::of(ALONE);
    home.ok(&["--user", "init"]);
    std::fs::write(home.path("value"), "s3cret").expect("write");
    std::fs::set_permissions(home.path("value"), PermissionsExt::from_mode(0o644)).expect("chmod");
    let put = |name: &str| home.ok(&["put", "--user", name, "--value-file", "value", "--allow", "uid:9"]);
    put("app/db");
    let (mut refused, mut served) = (0, 0);
    for most in 1..32 {
        let mut command = home.command(&["mount", "--user", "secrets"]);
        with_threads(&mut command, most);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let Ok(child) = command.spawn() else { continue };
        let mut child = Served(child);
        let begin = Instant::now();
        let ended = loop {
            if let Some(status) = child.0.try_wait().expect("wait") {
                break Some(status);
            }
            if home.read(ALONE, "app/db") == Ok(b"s3cret".to_vec()) {
                // The first of its threads may serve while the last cannot be had.
                std::thread::sleep(Duration::from_millis(500));
                break child.0.try_wait().expect("wait");
            }
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "{most}: neither served nor ended"
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        if let Some(status) = ended {
            let mut said = String::new();
            let mut errors = child.0.stderr.take().expect("piped");
            std::io::Read::read_to_string(&mut errors, &mut said).expect("text");
            assert!(matches!(status.code(), Some(1 | 7)), "{most}: {said}");
            assert!(
                said.contains("error: cannot ") && !said.contains("panic"),
                "{most}: {said}"
            );
            refused += 1;
        } else {
            // Whoever asks its socket gets an answer, if only that there is none to be had.
            let status = home.run(&["--user", "status"]);
            assert!(matches!(status.status.code(), Some(0 | 7)), "{most}: {status:?}");
            for _ in 0..20 {
                assert_eq!(home.read(ALONE, "app/db"), Ok(b"s3cret".to_vec()), "{most}");
            }
            served += 1;
        }
        drop(child);
        wait_until(Duration::from_secs(5), "the end of the mount", || {
            !mounted(&home.path("secrets"))
        });
    }
    println!("{refused} starts refused, {served} served");
    assert!(refused > 2 && served > 2, "{refused} refused, {served} served");
    home.ok(&["--user", "audit", "verify"]);
}

#[test]
fn what_a_user_does_with_his_own_store_is_on_record_as_his() {
    let _deadline = Deadline::new(Duration::from_secs(60), "his records");
    let home = Home::new();
    let made: serde_json::Value =
        serde_json::from_str(&home.ok(&["--user", "init", "--json"])).expect("JSON");
    {
        let _served = home.mount();
        home.ok(&["unmount", "--user", "secrets"]);
        wait_until(Duration::from_secs(5), "the end of the mount", || {
            !mounted(&home.path("secrets"))
        });
    }
    std::fs::remove_file(home.path(".local/share/wardfs/root.key")).expect("remove");
    let key = home.path("recovery");
    std::fs::write(&key, made["recovery_key"].as_str().expect("a key")).expect("write");
    let mut recover = home.command(&["--user", "store", "recover"]);
    recover.stdin(std::fs::File::open(&key).expect("open"));
    let recovered = recover.output().expect("start");
    assert!(recovered.status.success(), "{recovered:?}");
    let lines = home.ok(&["--user", "audit", "query", "--json"]);
    let records: Vec<serde_json::Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    for event in ["CreateStore", "Startup", "Shutdown", "ReplaceKeySlot"] {
        let of: Vec<_> = records.iter().filter(|r| r["eventName"] == event).collect();
        assert_eq!(of.len(), 1, "{event}: {records:?}");
        let (uid, command, pid) = (&of[0]["uid"], &of[0]["command"], of[0]["pid"].as_u64());
        assert_eq!((uid, command), (&home.user.0.into(), &"wardfs".into()), "{event}");
        assert!(pid > Some(0), "{event}: {:?}", of[0]);
    }
}
