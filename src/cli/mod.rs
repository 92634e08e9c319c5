//! The command line: what was typed ([`args`]) → a validated plan ([`plan`]) → done ([`run`]), and one place
//! where a failure becomes words and an exit code.

mod accept;
mod archive;
mod args;
mod asked;
mod complete;
mod demo;
mod dry_run;
mod explain;
mod generate;
mod glue;
mod groups;
mod log;
mod manual;
mod plan;
mod progress;
mod render;
mod restored;
mod run;
mod settings;
mod steps;
mod suggest;
mod table;
mod tty;
mod value;
mod view;
mod why;

use crate::config::Config;
use crate::control::protocol::Request;
use crate::id::SecretName;
use crate::messages::Messages;
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use crate::vault::Trial;
use progress::Progress;
use render::Output;
use run::Stop;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// An opened store, in the daemon or in this process.
pub trait Backend {
    /// One request and its reply; the value of a `put` beside it.
    ///
    /// # Errors
    /// What the store answered, or that it does not.
    fn call(&mut self, request: &Request, value: Option<SecretBytes>) -> Result<serde_json::Value, Problem>;

    /// A request that may take long: `told` hears how many pieces are done. A backup's `file` goes with it.
    ///
    /// # Errors
    /// What the store answered, or that it does not.
    fn long(
        &mut self,
        request: &Request,
        file: Option<std::fs::File>,
        told: &mut dyn FnMut(u64),
    ) -> Result<serde_json::Value, Problem>;

    /// A value, to this process's caller: through the mount where a daemon runs, by the same decision and with
    /// the same record where none does.
    ///
    /// # Errors
    /// [`Exit::Denied`], [`Exit::NotFound`], [`Exit::Integrity`], [`Exit::Unavailable`].
    fn value(&mut self, name: &SecretName, which: &plan::Which) -> Result<SecretBytes, Problem>;
}

/// What `init` made.
pub struct Made {
    /// The root key's file.
    pub key_file: PathBuf,
    /// Shown once and kept nowhere: printable ASCII without quotes or backslashes.
    pub recovery_key: SecretBytes,
}

/// What `mount` is to do.
#[derive(Debug)]
pub struct MountPlan {
    /// The store's directory.
    pub store: PathBuf,
    /// The mount's directory, absolute.
    pub target: PathBuf,
    /// Settings, the command line's among them.
    pub config: Config,
    /// The number of threads that was typed.
    pub threads: Option<usize>,
    /// Settings that were typed.
    pub options: Vec<(String, String)>,
    /// Say READY as JSON.
    pub json: bool,
    /// Say READY and nothing else.
    pub quiet: bool,
}

/// What the command line needs of the other rooms.
pub trait World {
    /// Opens the store: the daemon's if one runs, itself if not.
    ///
    /// # Errors
    /// [`Exit::NotFound`] without a store, [`Exit::Unavailable`] if another process has it, [`Exit::Integrity`].
    fn backend(&self, store: &Path) -> Result<Box<dyn Backend>, Problem>;

    /// Opens the store on a disk that cannot be written, for reads that its log cannot record.
    ///
    /// # Errors
    /// [`Exit::Denied`] for anybody but root, [`Exit::Conflict`] if the store can be written, [`Exit::Unavailable`] if a
    /// daemon has it; otherwise as [`World::backend`].
    fn unrecorded(&self, store: &Path) -> Result<Box<dyn Backend>, Problem>;

    /// `len` bytes of memory fit for plaintext.
    ///
    /// # Errors
    /// [`Exit::Failed`] if there is none.
    fn memory(&self, len: usize) -> Result<SecretBytes, Problem>;

    /// Makes a store.
    ///
    /// # Errors
    /// [`Exit::Conflict`] if there is one.
    fn init(&self, store: &Path) -> Result<Made, Problem>;

    /// Makes a new key file with the recovery key, or only tries; gives its path.
    ///
    /// # Errors
    /// [`Exit::Usage`] for what is no recovery key, [`Exit::Conflict`] if there is a key file,
    /// [`Exit::Integrity`] if it is another store's.
    fn recover(&self, store: &Path, recovery_key: &SecretBytes, trial: Trial) -> Result<PathBuf, Problem>;

    /// Restores a store from a backup, with the recovery key if one is given.
    ///
    /// # Errors
    /// [`Exit::Integrity`] for a backup that is damaged or older than what is there, [`Exit::Conflict`] where another
    /// store is, [`Exit::Unavailable`] while a daemon has it, [`Exit::NotFound`].
    fn restore(
        &self,
        store: &Path,
        plan: &plan::Restore,
        recovery_key: Option<&SecretBytes>,
    ) -> Result<serde_json::Value, Problem>;

    /// Repairs past every policy.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] while a daemon has the store, [`Exit::Denied`] for anybody but its owner,
    /// [`Exit::NotFound`], [`Exit::Usage`].
    fn break_glass(
        &self,
        store: &Path,
        broken: &plan::policies::Broken,
    ) -> Result<serde_json::Value, Problem>;

    /// The users and groups of this machine.
    fn directory(&self) -> &dyn crate::policy::Directory;

    /// Serves until it is told to end; `opening` is shown until it does.
    ///
    /// # Errors
    /// Why it cannot serve.
    fn mount(&self, plan: &MountPlan, opening: Progress) -> Result<(), Problem>;

    /// Unmounts what a daemon that is gone has left behind; never a living mount.
    ///
    /// # Errors
    /// [`Exit::NotFound`] if nothing of ours is there.
    fn unmount_dead(&self, target: &Path) -> Result<(), Problem>;

    /// Tells the whole story.
    ///
    /// # Errors
    /// If a step did not hold.
    fn demo(&self, output: &mut Output) -> Result<(), Stop>;

    /// The event writer's process.
    ///
    /// # Errors
    /// Why it cannot run.
    fn notifier(&self, args: &[OsString]) -> Result<(), Problem>;
}

/// The words that can follow `wardfs`.
pub fn command_names() -> Vec<String> {
    args::names()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    crate::sys::harden::outlive_file_size_limits();
    complete::answer();
    let cli = match args::Cli::typed(std::env::args_os()) {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() => {
            crate::problem::repeat(args::named(std::env::args_os()), args::names());
            return refused(&suggest::sensible(visible(&e)));
        }
        Err(answer) => return refused(&answer),
    };
    let mut output = match Output::standard(cli.global.json, cli.global.quiet) {
        Ok(output) => output,
        // Without a standard output there is no way to answer.
        Err(_) => return ExitCode::from(Exit::Failed as u8),
    };
    crate::problem::repeat(cli.global.named.clone(), args::names());
    let messages = logging(&cli);
    if let Some(messages) = messages.clone() {
        output.err = Box::new(messages);
    }
    let done = plan::absolute(&cli.global.store)
        .and_then(|store| Ok((store, plan::plan(cli.command)?)))
        .map_err(Stop::from)
        .and_then(|(store, plan)| run::run(plan, &store, &glue::Machine, &mut output));
    let (code, patience) = match done {
        Ok(()) | Err(Stop::Closed) => (ExitCode::SUCCESS, LAST_WORDS),
        Err(Stop::Answered(exit)) => (ExitCode::from(exit as u8), LAST_WORDS),
        Err(Stop::Problem(problem)) => {
            output.problem(&problem);
            (ExitCode::from(problem.exit as u8), 5 * LAST_WORDS)
        }
    };
    if let Some(messages) = messages {
        messages.flush(patience);
    }
    code
}

/// How long the end of a service waits for its messages to be written; longer if they say why it failed.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What clap says of arguments repeats them: whatever in them could drive a terminal is made visible first.
fn visible(e: &clap::Error) -> clap::Error {
    let args = std::env::args_os().map(|a| crate::id::printable(&a.to_string_lossy()));
    args::Cli::typed(args).err().unwrap_or_else(|| {
        clap::Error::raw(
            e.kind(),
            "an argument has characters that it may not have\n\nSee wardfs --help.\n",
        )
    })
}

/// Help and version are answers; everything else that clap says is bad usage.
fn refused(e: &clap::Error) -> ExitCode {
    if e.use_stderr() && std::env::args_os().any(|a| a == "--json") {
        let text = e.render().to_string();
        let mut parts = text.trim_start_matches("error: ").split("\n\n").map(str::trim);
        let why = parts.next().unwrap_or_default();
        let next = parts
            .find(|p| p.starts_with("tip:"))
            .map_or("see wardfs --help", |p| p.trim_start_matches("tip: "));
        let problem = Problem::new(Exit::Usage, "the command line is not understood", why).next(next);
        let _ = writeln!(
            std::io::stderr(),
            "{}",
            render::json_text(&render::problem_json(&problem))
        );
    } else {
        // A reader who has gone away has seen enough.
        let _ = e.print();
    }
    ExitCode::from(if e.use_stderr() { Exit::Usage as u8 } else { 0 })
}

/// Events go to standard error; the daemon says what happens, other commands only what goes wrong. What a serving
/// process says goes through [`Messages`], panics too.
fn logging(cli: &args::Cli) -> Option<Messages> {
    use tracing_subscriber::filter::LevelFilter;
    let serving = matches!(cli.command, args::Command::Mount { .. });
    let level = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) if serving => LevelFilter::INFO,
        (_, 0) => LevelFilter::WARN,
        (_, 1) if serving => LevelFilter::DEBUG,
        (_, 1) => LevelFilter::INFO,
        _ => LevelFilter::TRACE,
    };
    // What goes wrong in here is said nowhere: by itself the library would say it on standard error, and panic.
    let events = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false);
    // A second subscriber in one process changes nothing.
    if !serving {
        let _ = events.with_writer(std::io::stderr).try_init();
        return None;
    }
    // Capabilities are each thread's own, and this one is older than the moment in which the others lose them.
    let settle = || drop(crate::sys::harden::drop_capabilities(&[]));
    let Ok(messages) = Messages::to_stderr(settle) else {
        // Without a thread nothing can be served, and why is said all the same.
        let _ = events.with_writer(std::io::sink).try_init();
        return None;
    };
    let _ = events.with_writer(messages.clone()).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let (thread, payload) = (std::thread::current(), panic.payload());
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let why = text
            .or(payload.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            "thread {} panicked at {at}: {why}",
            thread.name().unwrap_or("unknown")
        );
    }));
    Some(messages)
}

#[cfg(test)]
mod tests;
