//! The whole story, on a temporary store and mount, with real processes of three uids.

use super::render::Output;
use super::run::Stop;
use super::steps::{Outcome, Steps};
use crate::problem::{Exit, Problem};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Allowed.
const A: u32 = 61001;
/// Refused.
const B: u32 = 61002;

/// What a step is called, and what it does.
type Act = (&'static str, fn(&mut Stage) -> Seen);

/// A step's result: what was seen, as it must be or not.
type Seen = Result<String, String>;

/// Runs the story and prints a line for each step.
///
/// # Errors
/// If a step did not hold, or the stage could not be set.
pub fn run(output: &mut Output) -> Result<(), Stop> {
    let root = nix::unistd::geteuid().is_root();
    let mut stage = Stage::set().map_err(|e| {
        Problem::new(Exit::Failed, "the demonstration cannot begin", e)
            .next("it needs room in the temporary directory (TMPDIR)")
    })?;
    let mut steps = Steps::new(output);
    let acts: &[Act] = if root { ROOT_ACTS } else { USER_ACTS };
    for (what, act) in acts {
        let outcome = match act(&mut stage) {
            Ok(seen) => Outcome::Held(seen),
            Err(seen) => Outcome::Broke(seen),
        };
        steps.step(what, outcome)?;
    }
    if !root {
        for what in ["a mount", "other uids", "a passed descriptor", "inotify"] {
            steps.step(what, Outcome::LeftOut("this takes root".into()))?;
        }
    }
    let left = stage.strike();
    steps.step(
        "nothing is left behind",
        left.map_or_else(Outcome::Broke, Outcome::Held),
    )?;
    Ok(steps.finish()??)
}

/// The names of events, as inotify(7) spells them.
fn named(mask: AddWatchFlags) -> String {
    let names: Vec<_> = mask.iter_names().map(|(name, _)| name).collect();
    names.join(", ")
}

/// The strings of a JSON list.
fn listed(list: &Value) -> String {
    super::view::readers::lines(list).join(", ")
}

const ROOT_ACTS: &[Act] = &[
    ("a store is made", Stage::init),
    ("a secret is put, for uid 61001 alone", Stage::put),
    ("the store is mounted", Stage::mount),
    ("uid 61001 reads it as a file", |s| s.reads(A, "s3cret")),
    ("uid 61002 is refused", |s| s.refused(B)),
    ("root, whom no statement names, is refused", |s| s.refused(0)),
    (
        "uid 61002 is refused on a descriptor that 61001 opened and passed on",
        Stage::passed,
    ),
    ("`why` names the reason and the mending command", Stage::why),
    (
        "the value is replaced under an open handle, which keeps the old one",
        Stage::replace,
    ),
    ("watchers of the file hear of the change", Stage::watch),
    ("the log has a record of each", Stage::log),
    ("the log verifies", Stage::verify),
    (
        "one flipped bit in the store is EIO, and harms no other secret",
        Stage::tamper,
    ),
];

const USER_ACTS: &[Act] = &[
    ("a store is made", Stage::init),
    ("a secret is put, for this uid alone", Stage::put_own),
    ("this uid reads it", Stage::get_own),
    ("a secret for another uid is refused", Stage::get_other),
    ("the log verifies", Stage::verify),
    ("one flipped bit in the store is found", Stage::tamper_own),
];

/// The temporary store and mount, and the daemon.
struct Stage {
    dir: PathBuf,
    program: PathBuf,
    daemon: Option<Child>,
}

impl Stage {
    fn set() -> std::io::Result<Stage> {
        let program = std::env::current_exe()?;
        let base = if Path::new("/var/tmp").is_dir() {
            PathBuf::from("/var/tmp")
        } else {
            std::env::temp_dir()
        };
        let dir = base.join(format!("wardfs-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir)?;
        // The other uids must be able to walk to the mount.
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755))?;
        Ok(Stage {
            dir,
            program,
            daemon: None,
        })
    }

    /// Unmounts, ends and removes everything.
    fn strike(&mut self) -> Seen {
        self.end_daemon();
        std::fs::remove_dir_all(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mounts.contains(&*self.dir.to_string_lossy()) {
            return Err("the mount is still there".into());
        }
        Ok("no mount, no process, no file".into())
    }

    fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn file(&self) -> PathBuf {
        self.dir.join("mnt/app/db/password")
    }

    /// One `wardfs` command: its JSON, or what it said.
    fn wardfs(&self, args: &[&str], value: &str) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        command.arg("--json").arg("--store").arg(self.store()).args(args);
        let (ok, out, err) = run_command(&mut command, value)?;
        if !ok {
            return Err(err);
        }
        Ok(serde_json::from_str(&out).unwrap_or(Value::String(out)))
    }

    fn init(&mut self) -> Seen {
        self.wardfs(&["init"], "")?;
        Ok("root key, recovery key, empty log".into())
    }

    fn put(&mut self) -> Seen {
        self.wardfs(
            &["put", "app/db/password", "--allow", &format!("uid:{A}")],
            "s3cret",
        )?;
        let said = self.wardfs(&["put", "app/other", "--allow", &format!("uid:{A}")], "unharmed")?;
        if said["root_may_read"] != false {
            return Err("root may read it".into());
        }
        Ok(format!("read by {}", listed(&said["readers"])))
    }

    fn mount(&mut self) -> Seen {
        let begin = Instant::now();
        let mut command = Command::new(&self.program);
        command
            .arg("-q")
            .arg("--store")
            .arg(self.store())
            .arg("mount")
            .arg(self.dir.join("mnt"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(text)?;
        let mut line = String::new();
        let read = child
            .stdout
            .take()
            .map(|out| BufReader::new(out).read_line(&mut line));
        self.daemon = Some(child);
        match read {
            Some(Ok(_)) if line.starts_with("READY") => {
                Ok(format!("READY after {} ms", begin.elapsed().as_millis()))
            }
            _ => Err("it did not get ready".into()),
        }
    }

    fn end_daemon(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
            if pid.as_raw() > 0 {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            }
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(5) && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `cat` as another uid.
    fn cat(&self, uid: u32, path: &Path) -> Result<(bool, String, String), String> {
        run_command(as_uid("cat", uid).arg(path), "")
    }

    fn reads(&self, uid: u32, value: &str) -> Seen {
        match self.cat(uid, &self.file())? {
            (true, out, _) if out == value => Ok(format!("{value:?}")),
            (_, out, err) => Err(format!("{out:?} {err}")),
        }
    }

    fn refused(&self, uid: u32) -> Seen {
        match self.cat(uid, &self.file())? {
            (false, out, err) if out.is_empty() => Ok(last_words(&err)),
            (_, out, err) => Err(format!("{out:?} {err}")),
        }
    }

    fn passed(&mut self) -> Seen {
        // 61001 opens; the descriptor itself is handed to 61002.
        let mut holder = Holder::start(A, &self.file())?;
        let passed = holder.descriptor()?;
        let (ok, out, err) = run_command(
            as_uid("dd", B)
                .args(["bs=64", "count=1", "status=none"])
                .stdin(Stdio::from(passed)),
            "",
        )?;
        holder.end();
        if ok || !out.is_empty() {
            return Err(format!("{out:?}"));
        }
        Ok(last_words(&err))
    }

    fn why(&mut self) -> Seen {
        let said = self.wardfs(
            &["why", &self.file().to_string_lossy(), "--uid", &B.to_string()],
            "",
        )?;
        match (said["decision"].as_str(), said["mend"].as_str()) {
            (Some("implicit_deny"), Some(mend)) => Ok(format!("implicit_deny; {mend}")),
            _ => Err(said.to_string()),
        }
    }

    fn replace(&mut self) -> Seen {
        let mut holder = Holder::start(A, &self.file())?;
        self.wardfs(&["put", "app/db/password"], "n3wer")?;
        let old = holder.read_now()?;
        self.reads(A, "n3wer")?;
        if old == "s3cret" {
            Ok("the handle \"s3cret\", a new open \"n3wer\"".into())
        } else {
            Err(format!("{old:?}"))
        }
    }

    fn watch(&mut self) -> Seen {
        let watcher = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(text)?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
        watcher.add_watch(&self.file(), flags).map_err(text)?;
        let begin = Instant::now();
        self.wardfs(&["put", "app/db/password"], "n3west")?;
        while begin.elapsed() < Duration::from_secs(2) {
            if let Some(event) = watcher
                .read_events()
                .ok()
                .and_then(|events| events.into_iter().next())
            {
                return Ok(format!("inotify says {}", named(event.mask)));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err("no event in 2 s".into())
    }

    fn log(&mut self) -> Seen {
        let mut command = Command::new(&self.program);
        command
            .arg("--json")
            .arg("--store")
            .arg(self.store())
            .args(["audit", "query"]);
        let (ok, out, err) = run_command(&mut command, "")?;
        let records: Vec<Value> = out.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let count = |uid: u32, outcome: &str| {
            records
                .iter()
                .filter(|r| r["uid"] == uid && r["eventName"] == "GetSecretValue" && r["outcome"] == outcome)
                .count()
        };
        let (read, passed) = (count(A, "allowed"), count(B, "denied"));
        let looked = records
            .iter()
            .filter(|r| r["uid"] == B && r["outcome"] == "denied")
            .count();
        if !ok || read == 0 || passed == 0 || looked <= passed {
            let events: Vec<_> = records
                .iter()
                .map(|r| format!("{} {} {}", r["uid"], r["eventName"], r["outcome"]))
                .collect();
            return Err(format!("{}. {err}", events.join(", ")));
        }
        Ok(format!(
            "{} records, {read} reads by {A}, {looked} refusals of {B}",
            records.len()
        ))
    }

    fn verify(&mut self) -> Seen {
        let said = self.wardfs(&["audit", "verify"], "")?;
        Ok(format!(
            "{} records in {} segment(s)",
            said["records"], said["segments"]
        ))
    }

    fn tamper(&mut self) -> Seen {
        self.end_daemon();
        self.flip("app/db/password")?;
        self.mount()?;
        let broken = self.refused(A)?;
        match self.cat(A, &self.dir.join("mnt/app/other"))? {
            (true, out, _) if out == "unharmed" && broken.contains("Input/output error") => Ok(broken),
            (_, out, err) => Err(format!("{broken}; the other: {out:?} {err}")),
        }
    }

    /// Flips one bit of the sealed current value, wherever it lies in the store's file.
    fn flip(&self, name: &str) -> Result<(), String> {
        let config = crate::config::Config::load(&self.store()).map_err(text)?;
        let (_, access) = crate::daemon::desk(&self.store(), &config).map_err(text)?;
        let state = access.vault().state();
        let version = state
            .secrets
            .by_name(name)
            .and_then(|s| s.current().cloned())
            .ok_or("no such secret")?;
        let sealed = access.vault().sealed_value(&version).map_err(text)?;
        drop((state, access));
        let path = self.store().join(crate::store::embedded::FILE);
        let mut bytes = std::fs::read(&path).map_err(text)?;
        let at: Vec<usize> = memfind(&bytes, &sealed.0);
        if at.is_empty() {
            return Err("the sealed value is not in the file".into());
        }
        for at in at {
            bytes[at + sealed.0.len() / 2] ^= 1;
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(text)?;
        file.write_all(&bytes).map_err(text)
    }

    fn put_own(&mut self) -> Seen {
        let me = format!("uid:{}", nix::unistd::geteuid());
        let said = self.wardfs(&["put", "app/own", "--allow", &me], "s3cret")?;
        self.wardfs(&["put", "app/other", "--allow", &format!("uid:{B}")], "not yours")?;
        Ok(format!("read by {}", listed(&said["readers"])))
    }

    fn get(&self, name: &str) -> Result<(bool, String, String), String> {
        run_command(
            Command::new(&self.program)
                .arg("--store")
                .arg(self.store())
                .args(["get", name]),
            "",
        )
    }

    fn get_own(&mut self) -> Seen {
        match self.get("app/own")? {
            (true, out, _) if out == "s3cret" => Ok(format!("{out:?}")),
            (_, out, err) => Err(format!("{out:?} {err}")),
        }
    }

    fn get_other(&mut self) -> Seen {
        match self.get("app/other")? {
            (false, out, err) if out.is_empty() => Ok(err.lines().next().unwrap_or_default().to_string()),
            (_, out, err) => Err(format!("{out:?} {err}")),
        }
    }

    fn tamper_own(&mut self) -> Seen {
        self.flip("app/own")?;
        match self.get("app/own")? {
            (false, out, err) if out.is_empty() && err.contains("why") => {
                Ok(err.lines().next().unwrap_or_default().to_string())
            }
            (_, out, err) => Err(format!("{out:?} {err}")),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end_daemon();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A process of another uid that holds the file open until it is told to read it.
struct Holder {
    child: Child,
}

impl Holder {
    fn start(uid: u32, path: &Path) -> Result<Holder, String> {
        let mut child = as_uid("sh", uid)
            .args([
                "-c",
                "exec 3<\"$1\" && echo open && read -r _ && exec cat <&3",
                "sh",
            ])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(text)?;
        let mut open = [0; 5];
        let read = child.stdout.as_mut().map(|out| out.read_exact(&mut open));
        let holder = Holder { child };
        match read {
            Some(Ok(())) if &open == b"open\n" => Ok(holder),
            _ => Err("the file could not be opened".into()),
        }
    }

    /// The very descriptor that it holds.
    fn descriptor(&self) -> Result<std::os::fd::OwnedFd, String> {
        crate::sys::process::descriptor_of(crate::id::Pid(self.child.id()), 3).map_err(text)
    }

    fn read_now(&mut self) -> Result<String, String> {
        drop(self.child.stdin.take().map(|mut stdin| stdin.write_all(b"\n")));
        let mut value = String::new();
        if let Some(out) = self.child.stdout.as_mut() {
            out.read_to_string(&mut value).map_err(text)?;
        }
        Ok(value)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.end();
    }
}

/// A command that runs as `uid`, with the gid of the same number and no groups.
fn as_uid(program: impl AsRef<OsStr>, uid: u32) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    if uid != 0 {
        // Setting a uid as root drops the supplementary groups.
        command.uid(uid).gid(uid);
    }
    command
}

fn run_command(command: &mut Command, input: &str) -> Result<(bool, String, String), String> {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(text)?;
    if !input.is_empty()
        && let Some(mut stdin) = child.stdin.take()
    {
        stdin.write_all(input.as_bytes()).map_err(text)?;
    }
    let output = child.wait_with_output().map_err(text)?;
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.success(),
        lossy(&output.stdout),
        lossy(&output.stderr),
    ))
}

/// The last part of `cat: PATH: Permission denied`.
fn last_words(err: &str) -> String {
    err.trim().rsplit(": ").next().unwrap_or_default().to_string()
}

fn memfind(haystack: &[u8], needle: &[u8]) -> Vec<usize> {
    haystack
        .windows(needle.len())
        .enumerate()
        .filter(|(_, w)| *w == needle)
        .map(|(i, _)| i)
        .collect()
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}
