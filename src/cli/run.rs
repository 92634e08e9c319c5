//! A plan → done, with the answer printed.

use super::plan::policies::Target;
use super::plan::{Denial, Plan, ValueFrom, Which};
use super::render::Output;
use super::value::{self, Limit};
use super::{
    Backend, MountPlan, World, accept, archive, complete, dry_run, explain, log, manual, restored, settings,
    tty, view, why,
};
use crate::config::{Config, VALUE_CEILING};
use crate::control::protocol::{LabelMove, Put, Request, WhyAbout};
use crate::id::{Label, SecretName, VersionName, printable};
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use crate::vault::Trial;
use serde_json::{Value, json};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Why a command stops before its end.
#[derive(Debug)]
pub enum Stop {
    /// Something to be told.
    Problem(Problem),
    /// Nobody reads the output any more (`wardfs list | head`): nothing to be told.
    Closed,
    /// The answer was printed, and is no.
    Answered(Exit),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Stop::Problem(problem)
    }
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Stop::Closed,
            _ => Stop::Problem(
                Problem::new(Exit::Failed, "the output cannot be written", e)
                    .next("make room, or send it elsewhere"),
            ),
        }
    }
}

/// Does what was planned, on the store in the directory `store`.
///
/// # Errors
/// What stopped it.
pub fn run(plan: Plan, store: &Path, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    // A serving process says this much without being asked.
    if !matches!(plan, Plan::Mount { .. }) {
        tracing::info!("the store is {}", printable(&store.to_string_lossy()));
    }
    match plan {
        Plan::Init => init(store, world, output),
        Plan::Put { put, from } => store_value(put, &from, store, world, output),
        Plan::Ask(Request::Status) => status(store, world, output),
        Plan::Get {
            target,
            which,
            force,
            unrecorded,
        } => {
            let mut backend = match unrecorded {
                true => world.unrecorded(store)?,
                false => world.backend(store)?,
            };
            let value = get(&target, which, &mut *backend)?;
            print(&value.0, &value.1, force, output)
        }
        Plan::Rollback(name) => rollback(&name, &mut *world.backend(store)?, output),
        Plan::Ask(request) => ask(request, store, world, output),
        Plan::Simulate(scenario) => explain::scenario(&scenario, world.directory(), output),
        Plan::BreakGlass(broken) => break_glass(&broken, store, world, output),
        Plan::PolicyDryRun { name, text, strict } => {
            dry_run::policy(name, text, strict, &mut *world.backend(store)?, output)
        }
        Plan::Why {
            target,
            about,
            denial,
        } => refusal(&target, (&about, denial), &mut *world.backend(store)?, output),
        Plan::Tail { lines, follow } => log::tail(store, lines, follow, world, output),
        Plan::Query(query) => log::query(store, &query, world, output),
        Plan::Verify(with) => archive::verify(&with, store, world, output),
        Plan::Archive(plan) => archive::run(&plan, store, world, output),
        Plan::Mount {
            target,
            threads,
            options,
        } => {
            let mut config = Config::load(store)?.with(&options)?;
            config.threads = threads.unwrap_or(config.threads);
            let plan = MountPlan {
                store: store.to_owned(),
                target,
                config,
                threads,
                options,
                json: output.json,
                quiet: output.quiet,
            };
            Ok(world.mount(&plan, output.progress("opening the store"))?)
        }
        Plan::Unmount { target } => unmount(&target, store, world, output),
        Plan::Backup(file) => backup(&file, store, world, output),
        Plan::Restore(plan) => restored::run(&plan, store, world, output),
        Plan::Recover(trial) => recover(store, trial, world, output),
        Plan::ConfigCheck(file) => settings::check(store, file.as_deref(), world, output),
        Plan::ConfigAccept { yes, trial } => {
            accept::settings((yes, trial), &mut *world.backend(store)?, output)
        }
        Plan::Completions(shell) => complete::script(shell, output),
        Plan::Man(page) => manual::print(&page, output),
        Plan::ManAll(dir) => manual::write_all(&dir, output),
        Plan::Demo => world.demo(output),
        Plan::Unmounter(target) => Ok(crate::sys::mount::keep(&target).map_err(|e| {
            let what = format!("cannot unmount {}", printable(&target.to_string_lossy()));
            Problem::new(Exit::Failed, what, e).next("fusermount3 -u -z DIR")
        })?),
        Plan::Notifier(args) => Ok(world.notifier(&args)?),
        Plan::Front(args) => Ok(crate::sys::front::run(&args).map_err(|e| {
            Problem::new(Exit::Failed, "the control socket's process ended", e)
                .next("`wardfs mount` starts it by itself")
        })?),
    }
}

fn init(store: &Path, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let made = world.init(store)?;
    let shown = |path: &Path| printable(&path.to_string_lossy());
    let config = store.join(crate::config::FILE);
    if output.json {
        // The key is plain ASCII by its making; it goes straight through, as every secret does.
        let head = json!({ "store": store.to_string_lossy(), "key_file": made.key_file.to_string_lossy(), "config": config.to_string_lossy() });
        let head = head.to_string();
        output.text(&format!("{},\"recovery_key\":\"", head.trim_end_matches('}')))?;
        output.value(&made.recovery_key)?;
        output.text("\"}\n")?;
        return Ok(());
    }
    output.line(&format!("Made the store {}", shown(store)))?;
    output.text(&super::render::facts(&[
        ("  root key", shown(&made.key_file)),
        ("  configuration", shown(&config)),
    ]))?;
    output.text("\nThe recovery key, shown this once. Keep it away from this machine: it opens the store\nif the root key is lost.\n\n    ")?;
    output.value(&made.recovery_key)?;
    output.text("\n")?;
    output.note("\nNext: printf s3cret | wardfs put app/db/password --allow user:NAME");
    Ok(())
}

fn recover(store: &Path, trial: Trial, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let typed = value::recovery_key(world)?;
    let key_file = output.during("opening the store", |_| world.recover(store, &typed, trial))?;
    let shown = printable(&key_file.to_string_lossy());
    let dry_run = trial == Trial::DryRun;
    if output.json {
        return Ok(output.json(&json!({ "key_file": key_file.to_string_lossy(), "dry_run": dry_run }))?);
    }
    output.line(&match trial {
        Trial::Real => format!("Made a new root key {shown}; the lost one opens this store no more"),
        Trial::DryRun => {
            format!(
                "The recovery key opens this store: would make a new root key {shown}; nothing was changed"
            )
        }
    })?;
    Ok(())
}

fn backup(file: &Path, store: &Path, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let shown = printable(&file.to_string_lossy());
    if file.as_os_str() == "-" {
        return stream(&mut *world.backend(store)?, output);
    }
    let mut backend = world.backend(store)?;
    let new = crate::sys::files::create_private(file).map_err(|e| {
        let exists = matches!(&e, crate::sys::files::FileError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists);
        let exit = if exists { Exit::Conflict } else { Exit::Failed };
        Problem::new(exit, "the store was not backed up", e).next("name a new file in a directory that is there")
    })?;
    let made = output.during("writing the backup", |told| {
        backend.long(&Request::Backup, Some(new), told)
    });
    let made = made.inspect_err(|_| {
        // What is there of it is no backup.
        let _ = std::fs::remove_file(file);
    })?;
    let dir = file
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| {
        Problem::new(Exit::Failed, format!("{shown} may not be safe on disk"), e)
            .next("run sync(1) before you rely on it")
    })?;
    if output.json {
        let mut made = made;
        made["file"] = json!(file.to_string_lossy());
        return Ok(output.json(&made)?);
    }
    output.line(&format!(
        "Backed up {} records, {} bytes, into {shown}",
        made["records"], made["bytes"]
    ))?;
    output.note("Keep the key file or the recovery key elsewhere: without one of them it cannot be restored");
    Ok(())
}

/// A backup to standard output, of which standard error tells.
fn stream(backend: &mut dyn Backend, output: &mut Output) -> Result<(), Stop> {
    let what = "the store was not backed up";
    if output.terminal {
        return Err(Problem::new(Exit::Usage, what, "a terminal keeps no backup")
            .next("wardfs store backup FILE; or send it on: wardfs store backup - | PROGRAM")
            .into());
    }
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let out = out.map_err(|e| Problem::new(Exit::Failed, what, e).next("name a file"))?;
    let made = output.during("writing the backup", |told| {
        backend.long(&Request::Backup, Some(out.into()), told)
    })?;
    if output.json {
        let mut made = made;
        made["file"] = json!("-");
        output.note(&super::render::json_text(&made));
        return Ok(());
    }
    let (records, bytes) = (&made["records"], &made["bytes"]);
    output.note(&format!(
        "Backed up {records} records, {bytes} bytes, to standard output"
    ));
    Ok(())
}

fn break_glass(
    broken: &super::plan::policies::Broken,
    store: &Path,
    world: &dyn World,
    output: &mut Output,
) -> Result<(), Stop> {
    let reply = world.break_glass(store, broken)?;
    if output.json {
        return Ok(output.json(&reply)?);
    }
    let done = match (&broken.what, broken.dry_run) {
        (Target::Policy(name, _), false) => format!("Replaced the policy of {name}, and recorded it"),
        (Target::Policy(name, _), true) => format!("Would replace the policy of {name}"),
        (Target::Layer(key), false) => format!("Removed {}, and recorded it", key.words()),
        (Target::Layer(key), true) => format!("Would remove {}", key.words()),
        (Target::Log, false) => "Began a new log, and recorded it".into(),
        (Target::Log, true) => "Would begin a new log".into(),
    };
    output.line(&done)?;
    for lost in super::view::lost::lines(&reply["lost"]) {
        output.line(&lost)?;
    }
    for warning in reply["warnings"].as_array().into_iter().flatten() {
        output.note(&format!(
            "warning: {}",
            printable(warning.as_str().unwrap_or_default())
        ));
    }
    Ok(())
}

fn store_value(
    put: Put,
    from: &ValueFrom,
    store: &Path,
    world: &dyn World,
    output: &mut Output,
) -> Result<(), Stop> {
    let bytes = match Config::load(store) {
        Ok(config) => config.max_value_bytes,
        // Who may not look is told the limit by the store.
        Err(problem) if problem.exit == Exit::Denied => VALUE_CEILING as usize,
        Err(problem) => return Err(problem.into()),
    };
    // Before the store is opened: what writes the value may need it first (`wardfs get a | wardfs put b`).
    let value = value::read(world, from, &put.name, Limit { bytes })?;
    let request = Request::Put(put);
    let reply = world.backend(store)?.call(&request, Some(value))?;
    show(&request, &reply, output)
}

/// The value of what was named, and its name.
fn get(
    target: &why::Target,
    which: Option<Which>,
    backend: &mut dyn Backend,
) -> Result<(SecretName, SecretBytes), Problem> {
    let mount = match target {
        why::Target::Name(_) => None,
        why::Target::Path(_) => mounted_at(&backend.call(&Request::Status, None)?),
    };
    let mut answer = Err(no_such_path());
    for (name, version) in target.names(mount.as_deref())? {
        let version = match (&which, version) {
            (Some(which), _) => which.clone(),
            (None, Some(version)) => Which::Version(version.parse().map_err(|_| no_such_path())?),
            (None, None) => Which::Label(Label::current()),
        };
        match backend.value(&name, &version) {
            Ok(value) => return Ok((name, value)),
            Err(problem) if problem.exit == Exit::NotFound => answer = Err(problem),
            Err(problem) => return Err(problem),
        }
    }
    answer
}

fn no_such_path() -> Problem {
    Problem::new(Exit::NotFound, "there is no such secret", "the path names none")
        .next("name a file below the mount, or see the names: wardfs list")
}

fn print(name: &SecretName, value: &SecretBytes, force: bool, output: &mut Output) -> Result<(), Stop> {
    if output.terminal && !output.json && !force && !value::is_text(value) {
        let what = format!("{name} was not printed");
        let why = "it is no text, and could drive the terminal";
        let next = format!("send it to a file: wardfs get {name} > FILE; or add --force");
        if !tty::confirmed(&format!("{name} is no text. Print it to the terminal? [y/N] ")) {
            return Err(Problem::new(Exit::Usage, what, why).next(next).into());
        }
    }
    if output.json {
        return Ok(output.value_json(name, value)?);
    }
    output.value(value)?;
    // On a terminal the prompt shall not stand behind the value; anything else gets the bytes alone.
    if output.terminal && value.expose().last() != Some(&b'\n') {
        output.text("\n")?;
    }
    Ok(())
}

fn ask(request: Request, store: &Path, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let doing = match request {
        Request::StoreCheck => "checking the store",
        _ => "waiting for the store",
    };
    let reply = output.during(doing, |told| world.backend(store)?.long(&request, None, told))?;
    if matches!(request, Request::PolicyExplain { .. }) {
        return explain::answer(&reply, output);
    }
    show(&request, &reply, output)?;
    if matches!(request, Request::StoreCheck) && reply["ok"] != true {
        let damaged = reply["problems"].as_array().map_or(0, Vec::len);
        return Err(Problem::new(
            Exit::Integrity,
            "the store is damaged",
            format!("{damaged} of its parts are not as they were written"),
        )
        .next("put the damaged values again, or restore a backup")
        .into());
    }
    Ok(())
}

/// What a reader would find; [`Exit::Unavailable`] if that is not all that it may read.
fn status(store: &Path, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let reply = world.backend(store)?.call(&Request::Status, None)?;
    show(&Request::Status, &reply, output)?;
    match reply["healthy"] == true {
        true => Ok(()),
        false => Err(Stop::Answered(Exit::Unavailable)),
    }
}

pub fn show(request: &Request, reply: &Value, output: &mut Output) -> Result<(), Stop> {
    if output.json {
        return Ok(output.json(reply)?);
    }
    let view = view::view(request, reply);
    if view.asked || !output.quiet {
        output.text(&view.text)?;
    }
    for note in &view.notes {
        output.note(note);
    }
    Ok(())
}

fn refusal(
    target: &why::Target,
    (about, denial): (&WhyAbout, Denial),
    backend: &mut dyn Backend,
    output: &mut Output,
) -> Result<(), Stop> {
    let mount = match target {
        why::Target::Name(_) => None,
        why::Target::Path(_) => mounted_at(&backend.call(&Request::Status, None)?),
    };
    let mut answer = Err(no_such_path());
    for (name, version) in target.names(mount.as_deref())? {
        let request = Request::Why {
            name,
            version,
            about: about.clone(),
        };
        match backend.call(&request, None) {
            Ok(reply) => {
                show(&request, &reply, output)?;
                return match denial {
                    Denial::Exit if reply["decision"] != "allow" => Err(Stop::Answered(Exit::Denied)),
                    Denial::Exit | Denial::Told => Ok(()),
                };
            }
            Err(problem) if problem.exit == Exit::NotFound => answer = Err(problem),
            Err(problem) => return Err(problem.into()),
        }
    }
    Ok(answer?)
}

/// Moves `current` to the version that was current before.
fn rollback(name: &SecretName, backend: &mut dyn Backend, output: &mut Output) -> Result<(), Stop> {
    let change = LabelMove {
        name: name.clone(),
        label: Label::current(),
        to: Some(VersionName::labelled(&Label::previous())),
        from: Some(VersionName::labelled(&Label::current())),
    };
    let reply = backend.call(&Request::Label(change), None).map_err(|e| Problem {
        what: format!("cannot roll {name} back"),
        why: match e.exit {
            Exit::NotFound if e.why == "there is no version previous" => "no version is previous".into(),
            _ => e.why,
        },
        ..e
    })?;
    if output.json {
        return Ok(output.json(&reply)?);
    }
    if !output.quiet {
        output.line(&format!("Rolled {name} back: readers get the value from before"))?;
        let on = |label: &str| super::render::cell(&reply["labels"][label]);
        output.text(&super::render::facts(&[
            ("  current", on("current")),
            ("  previous", on("previous")),
        ]))?;
    }
    Ok(())
}

fn mounted_at(status: &Value) -> Option<PathBuf> {
    status["mount"]
        .as_str()
        .filter(|_| status["running"] == true)
        .map(PathBuf::from)
}

fn unmount(target: &Path, store: &Path, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let dead = |output: &mut Output| {
        show(
            &Request::Unmount,
            &json!({ "mount": target.to_string_lossy() }),
            output,
        )
    };
    let mut backend = match world.backend(store) {
        Ok(backend) => backend,
        // Without a store that opens there can still be a mount that its daemon left behind.
        Err(problem) => {
            world
                .unmount_dead(target)
                .map_err(|e| if e.exit == Exit::NotFound { problem } else { e })?;
            return dead(output);
        }
    };
    let Some(mount) = mounted_at(&backend.call(&Request::Status, None)?) else {
        drop(backend);
        world.unmount_dead(target)?;
        return show(
            &Request::Unmount,
            &json!({ "mount": target.to_string_lossy() }),
            output,
        );
    };
    let same = |a: &Path, b: &Path| {
        a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
    };
    if !same(&mount, target) {
        let shown = |path: &Path| printable(&path.to_string_lossy());
        return Err(Problem::new(
            Exit::NotFound,
            format!("{} was not unmounted", shown(target)),
            format!("the store {} is mounted on {}", shown(store), shown(&mount)),
        )
        .next(format!(
            "wardfs unmount {}; or name the other store by --store DIR",
            super::args::shell_word(&mount.to_string_lossy())
        ))
        .into());
    }
    let reply = backend.call(&Request::Unmount, None)?;
    show(&Request::Unmount, &reply, output)
}

#[cfg(test)]
mod tests;
