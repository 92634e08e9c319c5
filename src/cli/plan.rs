//! What was typed → a plan in which everything is checked that can be checked without the store.

pub mod policies;
mod restore;
mod secrets;

use super::args::{self, Command};
use super::{generate, manual, why};
use crate::control::protocol::{self, Request, WhyAbout};
use crate::id::{Label, NameError, SecretName, VersionId, VersionName, printable, quoted};
use crate::policy::Local;
use crate::problem::{Exit, Problem};
use crate::vault::Trial;
pub use restore::Restore;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The longest policy document that is read from a file, in bytes. The store has a lower limit of its own.
const DOCUMENT_CEILING: u64 = 1024 * 1024;

/// What one invocation will do.
#[derive(Debug)]
pub enum Plan {
    /// Make a store.
    Init,
    /// Read a value and store it.
    Put {
        /// Everything but the value.
        put: protocol::Put,
        /// Where the value comes from.
        from: ValueFrom,
    },
    /// Print a value.
    Get {
        /// Whose.
        target: why::Target,
        /// Which version, if it was said.
        which: Option<Which>,
        /// Whether a terminal gets it whatever it is.
        force: bool,
        /// Whether it is of a store that can record nothing.
        unrecorded: bool,
    },
    /// Make the previous version current again.
    Rollback(SecretName),
    /// One question or change, and its answer.
    Ask(Request),
    /// What policies in documents say.
    Simulate(Box<crate::policy::Scenario>),
    /// Repair past every policy.
    BreakGlass(policies::Broken),
    /// Who would gain and who would lose reading by a policy.
    PolicyDryRun {
        /// Whose policy.
        name: SecretName,
        /// The document.
        text: String,
        /// Whether what warns is refused.
        strict: bool,
    },
    /// Why a read is refused.
    Why {
        /// Of which secret.
        target: why::Target,
        /// For whom.
        about: WhyAbout,
        /// What a denial is.
        denial: Denial,
    },
    /// The latest records, and those to come.
    Tail {
        /// How many of the latest.
        lines: usize,
        /// Whether to wait for more.
        follow: bool,
    },
    /// Records that match.
    Query(crate::audit::Query),
    /// Verify the log, with what was archived of it in these directories.
    Verify(Vec<PathBuf>),
    /// Archive a part of it.
    Archive(super::archive::Plan),
    /// Serve.
    Mount {
        /// Where.
        target: PathBuf,
        /// With how many threads, if not as configured.
        threads: Option<usize>,
        /// Settings, by key.
        options: Vec<(String, String)>,
    },
    /// End the service.
    Unmount {
        /// Where.
        target: PathBuf,
    },
    /// Make a new key file with the recovery key.
    Recover(Trial),
    /// Back the store up.
    Backup(PathBuf),
    /// Restore it.
    Restore(Restore),
    /// Check a configuration; the store's own if none is named.
    ConfigCheck(Option<PathBuf>),
    /// Put the store's configuration in force.
    ConfigAccept {
        /// Without asking.
        yes: bool,
        /// Only say what would change.
        trial: Trial,
    },
    /// Print the completion script of a shell.
    Completions(clap_complete::Shell),
    /// Print one manual page.
    Man(manual::Page),
    /// Write every manual page below this directory.
    ManAll(PathBuf),
    /// Show it all.
    Demo,
    /// Unmount when standard input ends.
    Unmounter(PathBuf),
    /// The event writer.
    Notifier(Vec<OsString>),
    /// Have the control socket.
    Front(Vec<OsString>),
}

/// What it is for a command to find that somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// An answer like another.
    Told,
    /// Exit 3.
    Exit,
}

/// Where a value is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueFrom {
    /// Standard input; asked for if that is a terminal.
    Stdin,
    /// A file.
    File(PathBuf),
    /// Nowhere: a random password.
    Generated(generate::Recipe),
}

/// Which version of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one that carries a label.
    Label(Label),
    /// The one with this label, id, or beginning of an id.
    Version(VersionName),
}

/// Checks what was typed, and reads the policy documents it names.
///
/// # Errors
/// [`Exit::Usage`] for what is not understood; the file's own problem where a document cannot be read.
pub fn plan(command: Command) -> Result<Plan, Problem> {
    Ok(match command {
        Command::Init => Plan::Init,
        Command::Put(put) => secrets::put(*put)?,
        Command::Get(get) => Plan::Get {
            target: why::Target::parse(&get.name)?,
            which: match (get.label, get.version) {
                (_, Some(id)) => Some(Which::Version(version(&id, &get.name)?)),
                (Some(label), None) => Some(Which::Label(parse_label(&label)?)),
                (None, None) => None,
            },
            force: get.force,
            unrecorded: get.unrecorded,
        },
        Command::Rollback { name: n } => Plan::Rollback(name(&n)?),
        Command::List { under, tag, deleted } => Plan::Ask(Request::List {
            under: under.map(|u| directory(&u)).transpose()?,
            tags: policies::tags(&tag, "--tag")?,
            deleted,
        }),
        Command::Update(update) => Plan::Ask(Request::Update(secrets::update(update)?)),
        Command::Tag { name: n, set, remove } => Plan::Ask(Request::Tag(protocol::TagChange {
            name: name(&n)?,
            set: policies::tags(&set, "the tag")?,
            remove,
        })),
        Command::Label(args::Label::Move {
            name: n,
            label,
            to,
            from,
        }) => Plan::Ask(Request::Label(protocol::LabelMove {
            name: name(&n)?,
            label: parse_label(&label)?,
            to: Some(version(&to, &n)?),
            from: from.map(|f| version(&f, &n)).transpose()?,
        })),
        Command::Label(args::Label::Remove { name: n, label, from }) => {
            Plan::Ask(Request::Label(protocol::LabelMove {
                name: name(&n)?,
                label: parse_label(&label)?,
                to: None,
                from: Some(version(&from, &n)?),
            }))
        }
        Command::Describe { name: n } => Plan::Ask(Request::Describe { name: name(&n)? }),
        Command::Versions { name: n } => Plan::Ask(Request::Versions { name: name(&n)? }),
        Command::Guardrail(command) => Plan::Ask(policies::guardrail(command)?),
        Command::Identity(command) => Plan::Ask(policies::identity(command)?),
        Command::Policy(policy) => policies::policy(policy)?,
        Command::Why(w) => Plan::Why {
            target: why::Target::parse(&w.secret)?,
            denial: match w.who.is_some() || w.pid.is_some() {
                true => Denial::Exit,
                false => Denial::Told,
            },
            about: match (w.who, w.user, w.uid, w.pid) {
                (Some(who), ..) => policies::about(&who)?,
                (_, Some(user), ..) => WhyAbout::User(user),
                (_, _, Some(uid), _) => WhyAbout::Uid(real_uid(uid)?),
                (.., Some(pid)) => WhyAbout::Pid(pid),
                (None, None, None, None) => WhyAbout::Latest,
            },
        },
        Command::Delete(delete) => Plan::Ask(secrets::delete(delete)?),
        Command::Audit(args::Audit::Tail { lines, follow }) => Plan::Tail { lines, follow },
        Command::Audit(args::Audit::Query(query)) => Plan::Query(super::log::query_of(query)?),
        Command::Audit(args::Audit::Verify { with }) => Plan::Verify(with),
        Command::Audit(args::Audit::Archive { dir, before, dry_run }) => {
            super::archive::plan(&dir, &before, trial(dry_run))?
        }
        Command::Store(args::Store::Check) => Plan::Ask(Request::StoreCheck),
        Command::Store(args::Store::Backup { file }) => Plan::Backup(file),
        Command::Store(args::Store::Restore(typed)) => Plan::Restore(restore::plan(typed)?),
        Command::Store(args::Store::Recover { dry_run }) => Plan::Recover(trial(dry_run)),
        Command::Store(args::Store::BreakGlass(typed)) => policies::break_glass(typed)?,
        Command::Status => Plan::Ask(Request::Status),
        Command::Mount {
            target,
            threads,
            option,
        } => Plan::Mount {
            target: absolute(&target)?,
            threads: threads.map(usize::from),
            options: option
                .iter()
                .map(|o| policies::pair(o, "-o"))
                .collect::<Result<_, _>>()?,
        },
        Command::Unmount { target } => Plan::Unmount {
            target: absolute(&target)?,
        },
        Command::Config(args::ConfigCommand::Check { file }) => Plan::ConfigCheck(file),
        Command::Config(args::ConfigCommand::Accept { yes, dry_run }) => Plan::ConfigAccept {
            yes,
            trial: if dry_run { Trial::DryRun } else { Trial::Real },
        },
        Command::Completions { shell } => Plan::Completions(shell),
        Command::Man {
            output: Some(dir), ..
        } => Plan::ManAll(dir),
        Command::Man { of, output: None } => Plan::Man(manual::Page::parse(&of)?),
        Command::Demo => Plan::Demo,
        Command::Unmounter { target } => Plan::Unmounter(target),
        Command::Notifier { args } => Plan::Notifier(args),
        Command::Front { args } => Plan::Front(args),
    })
}

fn trial(dry_run: bool) -> Trial {
    match dry_run {
        true => Trial::DryRun,
        false => Trial::Real,
    }
}

/// A secret's name.
///
/// # Errors
/// [`Exit::Usage`], with what is wrong with it.
pub fn name(text: &str) -> Result<SecretName, Problem> {
    let what = || format!("{} is not the name of a secret", quoted(text));
    if is_path(text) {
        return Err(Problem::new(
            Exit::Usage,
            what(),
            "it is a path; a name has no slash or dot at its beginning",
        )
        .next("give the name below the mount, as app/db/password"));
    }
    text.parse()
        .map_err(|e: NameError| Problem::new(Exit::Usage, what(), e).next("give a name like app/db/password"))
}

/// Whether it can only be meant as a path.
pub fn is_path(text: &str) -> bool {
    text.starts_with('/') || text.starts_with("./") || text.starts_with("../") || text == "." || text == ".."
}

/// A directory of names: a name that may end in a slash.
fn directory(text: &str) -> Result<String, Problem> {
    Ok(name(text.strip_suffix('/').unwrap_or(text))?.to_string())
}

pub fn local(text: &str) -> Result<Local, Problem> {
    text.parse::<Local>().map_err(|e| {
        Problem::new(Exit::Usage, format!("{} does not say who", quoted(text)), e)
            .next("write user:NAME, uid:N, group:NAME, gid:N or unit:NAME.service")
    })
}

fn parse_label(text: &str) -> Result<Label, Problem> {
    text.parse().map_err(|e: NameError| {
        Problem::new(Exit::Usage, format!("{} is not a label", quoted(text)), e)
            .next("give a label like blue or 2026-11")
    })
}

/// The id that a new version shall have.
fn token(text: &str) -> Result<VersionId, Problem> {
    text.parse().map_err(|e: NameError| {
        Problem::new(Exit::Usage, format!("{} is not a token", quoted(text)), e)
            .next("give a new id, as uuidgen(1) prints one, or leave --token away")
    })
}

/// A version of the secret `of`.
fn version(text: &str, of: &str) -> Result<VersionName, Problem> {
    text.parse().map_err(|e: NameError| {
        let what = format!("{} is neither the label nor the id of a version", quoted(text));
        Problem::new(Exit::Usage, what, e).next(format!("see them: wardfs versions {}", args::shell_word(of)))
    })
}

/// 4294967295 means "no change" to the kernel and is nobody's uid.
pub fn real_uid(uid: u32) -> Result<u32, Problem> {
    if uid == u32::MAX {
        return Err(Problem::new(
            Exit::Usage,
            format!("{uid} is not a uid"),
            "the kernel reserves that number",
        )
        .next("give a number from 0 to 4294967294"));
    }
    Ok(uid)
}

fn not_empty(text: String, flag: &str, needed: &str) -> Result<String, Problem> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err(Problem::new(
            Exit::Usage,
            format!("{flag} {} is not understood", quoted(&text)),
            needed,
        )
        .next("leave it away, or give it text of one line"));
    }
    Ok(text)
}

/// Octal permission bits, reading only.
fn mode(text: &str) -> Result<u16, Problem> {
    let what = || format!("--mode {} is not understood", quoted(text));
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let bits = octal.then(|| u16::from_str_radix(digits, 8).ok()).flatten();
    match bits {
        None => Err(Problem::new(Exit::Usage, what(), "octal digits are needed")
            .next("write --mode 0400 or --mode 0440")),
        Some(bits) if bits & !0o444 != 0 => Err(Problem::new(
            Exit::Usage,
            what(),
            "a secret can only be read: at most 0444, no write or execute bit",
        )
        .next("write --mode 0400 or --mode 0440")),
        Some(bits) => Ok(bits),
    }
}

/// Text of a policy document; `-` is standard input.
fn document(path: &Path) -> Result<String, Problem> {
    use std::io::Read;
    let shown = printable(&path.to_string_lossy());
    let what = || format!("the policy document {shown} cannot be read");
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(DOCUMENT_CEILING + 1)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(DOCUMENT_CEILING + 1).read_to_string(&mut text))
    };
    match read {
        Ok(n) if n as u64 > DOCUMENT_CEILING => Err(Problem::new(
            Exit::Usage,
            what(),
            format!("it is longer than {DOCUMENT_CEILING} bytes"),
        )
        .next("split it: a guardrail or identity policies may carry a part")),
        Ok(_) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Err(Problem::new(Exit::Usage, what(), "it is not UTF-8 text").next("save it as UTF-8"))
        }
        Err(e) => Err(Problem::new(file_exit(&e), what(), e)
            .next("name a file that can be read, or - for standard input")),
    }
}

/// The exit code for a file of the caller's that cannot be used.
pub fn file_exit(e: &std::io::Error) -> Exit {
    match e.kind() {
        std::io::ErrorKind::NotFound => Exit::NotFound,
        std::io::ErrorKind::IsADirectory => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// Made absolute without touching the file system.
pub fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path).map_err(|e| {
        Problem::new(
            Exit::Usage,
            format!("{} is not a path", quoted(&path.to_string_lossy())),
            e,
        )
        .next("give a path that is not empty")
    })
}

#[cfg(test)]
mod tests;
