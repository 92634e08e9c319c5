//! `audit archive`: old segments of the log are copied away, made durable there, and then removed from the log by
//! whoever has the store. `audit verify --with` holds the copies against what the log says of them.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::render::{Output, cell, count};
use super::run::{self, Stop};
use super::{World, log, plan};
use crate::audit;
use crate::clock::Timestamp;
use crate::control::protocol::{Copied, Request};
use crate::id::printable;
use crate::problem::{Exit, Problem, pasteable};
use crate::vault::Trial;

/// What `audit archive` is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where to, absolute.
    dir: PathBuf,
    /// Only segments with older records alone.
    before: Timestamp,
    trial: Trial,
}

/// Checks what was typed.
///
/// # Errors
/// [`Exit::Usage`] for a time or a path that is not understood.
pub fn plan(dir: &Path, before: &str, trial: Trial) -> Result<super::plan::Plan, Problem> {
    let now = jiff::Timestamp::from_microsecond(Timestamp::now().0).unwrap_or_default();
    Ok(super::plan::Plan::Archive(Plan {
        dir: plan::absolute(dir)?,
        before: log::instant("--before", before, now)?,
        trial,
    }))
}

fn failed(exit: Exit, why: impl std::fmt::Display) -> Problem {
    Problem::new(exit, "the log was not archived", why)
}

fn file_failed(path: &Path, e: &io::Error) -> Problem {
    let why = format!("{}: {e}", printable(&path.to_string_lossy()));
    failed(Exit::Failed, why).next("make room there, or name another directory; the log is whole")
}

/// Copies, makes durable, and has removed.
///
/// # Errors
/// A refusal; a directory that others can write or that cannot be written; a file in it that is another one.
pub fn run(plan: &Plan, store: &Path, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let mut backend = world.backend(store)?;
    let mut all: Vec<Value> = Vec::new();
    loop {
        let look = Request::AuditArchivable { before: plan.before };
        let found = output.during("verifying the log", |told| backend.long(&look, None, told))?;
        if plan.trial == Trial::Real {
            directory(&plan.dir)?;
        }
        let segments = found["segments"].as_array().cloned().unwrap_or_default();
        if segments.is_empty() {
            break;
        }
        if plan.trial == Trial::DryRun {
            // What was only looked at is still there: more is not asked for.
            all = segments;
            break;
        }
        let copied = output.during("copying segments", |told| {
            copy_all(&log::directory(store), &plan.dir, &segments, told)
        })?;
        let remove = Request::AuditArchive { copied };
        let removed = output.during("removing segments", |told| backend.long(&remove, None, told))?;
        all.extend(removed["segments"].as_array().cloned().unwrap_or_default());
        if found["more"] != true {
            break;
        }
    }
    told(plan, &all, output)
}

fn told(plan: &Plan, all: &[Value], output: &mut Output) -> Result<(), Stop> {
    let dry_run = plan.trial == Trial::DryRun;
    let (first, last) = (all.first(), all.last());
    if output.json {
        let mut answer = json!({ "dir": plan.dir.to_string_lossy(), "segments": all, "dry_run": dry_run });
        if let Some(last) = last {
            answer["archived"] = json!({ "through": last["last"], "head": last["head"] });
        }
        return Ok(output.json(&answer)?);
    }
    let (Some(first), Some(last)) = (first, last) else {
        output.note(&format!(
            "No finished segment of the log has only records from before {}",
            plan.before
        ));
        return Ok(());
    };
    let bytes: u64 = all.iter().filter_map(|s| s["bytes"].as_u64()).sum();
    let verb = if dry_run { "Would archive" } else { "Archived" };
    output.line(&format!(
        "{verb} {} ({bytes} bytes), records {} to {}, into {}",
        count(&json!(all.len()), "segment"),
        cell(&first["first"]),
        cell(&last["last"]),
        printable(&plan.dir.to_string_lossy()),
    ))?;
    if dry_run {
        output.note("Nothing was changed");
    } else {
        let next = last["last"].as_u64().unwrap_or_default() + 1;
        output.note(&format!("The log begins with record {next} now"));
    }
    Ok(())
}

fn copy_all(
    from: &Path,
    dir: &Path,
    segments: &[Value],
    told: &mut dyn FnMut(u64),
) -> Result<Vec<Copied>, Problem> {
    let open = directory(dir)?;
    same_place(from, &open, dir)?;
    // Where the file system has no locks, it is the administrator who runs one at a time.
    if let Err(TryLockError::WouldBlock) = open.try_lock() {
        let shown = printable(&dir.to_string_lossy());
        let why = format!("{shown} is being written by another process");
        return Err(failed(Exit::Conflict, why).next("run the command again when that one has ended"));
    }
    let mut copied = Vec::new();
    for segment in segments {
        let number = segment["segment"].as_u64().unwrap_or_default();
        let file = audit::file_name(number);
        copied.push(Copied {
            segment: number,
            digest: copy(&from.join(&file), &dir.join(&file))?,
        });
        told(copied.len() as u64);
    }
    // Their names are durable before anything is removed.
    open.sync_all().map_err(|e| file_failed(dir, &e))?;
    Ok(copied)
}

/// The directory, made if need be; one in which others could exchange what lies there is refused.
fn directory(dir: &Path) -> Result<File, Problem> {
    let unfit = |e: io::Error| file_failed(dir, &e);
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(unfit(e)),
        Err(_) => {}
        Ok(()) => {
            let parent = dir.parent().unwrap_or(dir);
            File::open(parent).and_then(|p| p.sync_all()).map_err(unfit)?;
        }
    }
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(dir)
        .map_err(unfit)?;
    let meta = open.metadata().map_err(unfit)?;
    let myself = nix::unistd::geteuid().as_raw();
    if (meta.uid() != 0 && meta.uid() != myself) || meta.mode() & 0o022 != 0 {
        let why = format!(
            "others can change what is in {}",
            printable(&dir.to_string_lossy())
        );
        return Err(failed(Exit::Integrity, why).next("name a directory of your own, with mode 0700"));
    }
    Ok(open)
}

/// The log itself is no archive of it.
fn same_place(from: &Path, dir: &File, shown: &Path) -> Result<(), Problem> {
    let log = std::fs::metadata(from).map_err(|e| file_failed(from, &e))?;
    let dir = dir.metadata().map_err(|e| file_failed(shown, &e))?;
    if (log.dev(), log.ino()) == (dir.dev(), dir.ino()) {
        let why = format!("{} is the log itself", printable(&shown.to_string_lossy()));
        return Err(failed(Exit::Usage, why).next("name a directory elsewhere"));
    }
    Ok(())
}

/// Copies a segment and makes it durable; gives its digest. What is there already stays if it is the same.
fn copy(from: &Path, to: &Path) -> Result<String, Problem> {
    let source = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(from)
        .map_err(|e| file_failed(from, &e))?;
    let there = match archived(to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        there => Some(there.map_err(|e| conflict(to, &e))?),
    };
    if let Some(file) = there {
        let [ours, theirs] = [source.metadata(), file.metadata()].map(|m| m.ok().map(|m| (m.dev(), m.ino())));
        if ours == theirs {
            return Err(conflict(
                to,
                &"it is the segment in the store, under a second name",
            ));
        }
        let digest = digest_of(&source, &mut io::sink()).map_err(|e| file_failed(from, &e))?;
        if digest_of(&file, &mut io::sink()).map_err(|e| file_failed(to, &e))? != digest {
            return Err(conflict(to, &"another file has this name there"));
        }
        file.sync_all().map_err(|e| file_failed(to, &e))?;
        return Ok(digest);
    }
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    // What a copy that was interrupted has left.
    let part = to.with_file_name(format!(".{name}.part"));
    let unwritten = |e: io::Error| file_failed(&part, &e);
    match std::fs::remove_file(&part) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(unwritten(e)),
        _ => {}
    }
    let mut made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&part)
        .map_err(unwritten)?;
    let digest = digest_of(&source, &mut made).map_err(unwritten)?;
    made.set_permissions(Permissions::from_mode(0o400))
        .and_then(|()| made.sync_all())
        .and_then(|()| std::fs::rename(&part, to))
        .map_err(unwritten)?;
    Ok(digest)
}

fn conflict(to: &Path, why: &dyn std::fmt::Display) -> Problem {
    let why = format!("{}: {why}", printable(&to.to_string_lossy()));
    failed(Exit::Conflict, why).next("name another directory, or move that file away; the log is whole")
}

/// A file that lies in an archive.
fn archived(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not a regular file",
        )),
    }
}

/// SHA-256 of a file, in hexadecimal, which is copied on the way.
fn digest_of(mut file: &File, into: &mut dyn Write) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(HEXLOWER.encode(&hash.finalize())),
            n => {
                hash.update(&buffer[..n]);
                into.write_all(&buffer[..n])?;
            }
        }
    }
}

/// Verifies the log, and what was archived of it where directories are named.
///
/// # Errors
/// [`Exit::Integrity`] with the place if something is not what was written.
pub fn verify(with: &[PathBuf], store: &Path, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let with = with
        .iter()
        .map(|dir| plan::absolute(dir))
        .collect::<Result<Vec<_>, _>>()?;
    let request = Request::AuditVerify;
    let mut reply = output.during("verifying the log", |told| {
        world.backend(store)?.long(&request, None, told)
    })?;
    let archived = reply.get_mut("archived").and_then(Value::as_object_mut);
    let named = archived.and_then(|a| a.remove("named"));
    if !with.is_empty() {
        let named = named.as_ref().and_then(Value::as_array).into_iter().flatten();
        let named = named.filter_map(|n| Some((n["segment"].as_u64()?, n["digest"].as_str()?.to_string())));
        let mut proof = Proof {
            known: named.collect(),
            records: 0,
        };
        let last = reply["archived"]["segments"].as_u64().unwrap_or(0);
        let told = output.during("verifying the archive", |told| proof.all(&with, last, told))?;
        for line in told {
            output.note(&line);
        }
        if last > 0 {
            reply["records"] = json!(reply["last"].as_u64().unwrap_or(0));
            reply["segments"] = json!(reply["segments"].as_u64().unwrap_or(0) + last);
            reply["first"] = json!(1);
        }
        reply["with"] = json!(with.iter().map(|d| d.to_string_lossy()).collect::<Vec<_>>());
    }
    run::show(&request, &reply, output)
}

/// The archived segments, the latest first: each by the digest that a record behind it names, which is in the log itself or
/// in a segment that was proven before.
struct Proof {
    known: BTreeMap<u64, String>,
    records: u64,
}

impl Proof {
    /// Gives remarks.
    fn all(
        &mut self,
        with: &[PathBuf],
        last: u64,
        told: &mut dyn FnMut(u64),
    ) -> Result<Vec<String>, Problem> {
        let mut remarks = Vec::new();
        let mut places: BTreeMap<u64, Vec<&PathBuf>> = BTreeMap::new();
        for dir in with {
            let listed = audit::segments(dir).map_err(|e| {
                let what = format!("the archive {} cannot be read", printable(&dir.to_string_lossy()));
                Problem::new(Exit::NotFound, what, e)
                    .next("name the directory into which the log was archived")
            })?;
            for number in listed {
                places.entry(number).or_default().push(dir);
            }
        }
        for number in (1..=last).rev() {
            let file = audit::file_name(number);
            let Some(dirs) = places.remove(&number) else {
                return Err(unproven(&file, "the segment is missing"));
            };
            let Some(digest) = self.known.remove(&number) else {
                return Err(unproven(&file, "no record of the log names its digest"));
            };
            for dir in dirs {
                self.one(&dir.join(&file), &digest)?;
            }
            told(self.records);
        }
        for (number, dirs) in places {
            for dir in dirs {
                let path = dir.join(audit::file_name(number));
                let shown = printable(&path.to_string_lossy());
                remarks.push(format!(
                    "warning: {shown}: the log has not archived this segment; it was not looked at"
                ));
            }
        }
        Ok(remarks)
    }

    fn one(&mut self, path: &Path, digest: &str) -> Result<(), Problem> {
        let shown = printable(&path.to_string_lossy());
        let unread = |e: &io::Error| unproven(&shown, &e.to_string());
        let file = archived(path).map_err(|e| unread(&e))?;
        let mut input = BufReader::with_capacity(1 << 18, &file);
        let (mut hash, mut line, mut records) = (Sha256::new(), Vec::new(), 0);
        let mut named: Vec<(u64, String)> = Vec::new();
        loop {
            line.clear();
            // No line that is not believed yet is longer than this in memory.
            let n = Read::by_ref(&mut input)
                .take(1 << 20)
                .read_until(b'\n', &mut line)
                .map_err(|e| unread(&e))?;
            if n == 0 {
                break;
            }
            hash.update(&line);
            records += 1;
            if line.windows(24).any(|w| w == b"\"eventName\":\"ArchiveLog\"")
                && let Ok(record) = serde_json::from_slice::<Value>(&line)
                && record["eventName"] == "ArchiveLog"
                && record["outcome"] == "allowed"
            {
                named.extend(audit::named(&record));
            }
        }
        if HEXLOWER.encode(&hash.finalize()) != digest {
            return Err(unproven(&shown, "the segment is not the one that was archived"));
        }
        self.records += records;
        self.known.extend(named);
        Ok(())
    }
}

fn unproven(place: &str, why: &str) -> Problem {
    Problem::new(
        Exit::Integrity,
        "the archived log does not verify",
        format!("{place}: {why}"),
    )
    .next("compare with another copy of it; what is in the store is in order")
}

/// What a verification says of what came before.
pub fn before(reply: &Value) -> String {
    let archived = &reply["archived"];
    match (archived.is_null(), reply["with"].is_null()) {
        (true, _) => String::new(),
        (false, true) => {
            let through = cell(&archived["through"]);
            let next = pasteable("wardfs audit verify --with DIR");
            format!("Records up to {through} were archived: {next}\n")
        }
        (false, false) => format!(
            "Of these, records up to {} are archived\n",
            cell(&archived["through"])
        ),
    }
}
