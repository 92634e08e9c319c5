//! The command line's definition: every command, flag and help text. What was typed is checked in
//! [`super::plan`], so that every complaint about it has the same form.

pub mod policies;
mod secrets;
mod upkeep;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

pub use policies::Policy;
pub use secrets::{Delete, Get, Label, Put, Update, Visibility, Why};
pub use upkeep::{Audit, ConfigCommand, Query, Restore, Store};

/// Headings in bold; clap leaves all of it out where the output is no terminal or NO_COLOR is set.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Secrets as files, shown only to the process that may read them.
#[derive(Parser, Debug)]
#[command(
    name = "wardfs",
    version,
    max_term_width = 100,
    styles = STYLES,
    arg_required_else_help = true,
    propagate_version = false,
    infer_subcommands = false,
    after_help = "\
Examples:
  wardfs init
  printf s3cret | wardfs put app/db/password --allow user:www-data
  wardfs mount /run/secrets
  cat /run/secrets/app/db/password
  wardfs why /run/secrets/app/db/password --as user:nobody
  wardfs audit tail

Exit codes: 0 done, 1 failed, 2 usage or bad input, 3 denied by policy, 4 not found, 5 conflict,
6 integrity (tampered with, rolled back, damaged, too new, or a store, log or key file that
others can touch), 7 unavailable."
)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The store's directory
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "WARDFS_STORE",
        hide_env_values = true,
        default_value = crate::config::SYSTEM_STORE,
        value_hint = ValueHint::DirPath
    )]
    pub store: PathBuf,
    /// Print JSON, errors too
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but what was asked for, and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more of what happens; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// The words with which the store was named, as a shell reads them; none where it was not.
    #[arg(skip)]
    pub named: String,
}

impl Cli {
    /// The definition, with `--user` on every command that has no flag of that name.
    pub fn definition() -> clap::Command {
        fn own(command: clap::Command) -> clap::Command {
            let subs: Vec<String> = command
                .get_subcommands()
                .map(|s| s.get_name().to_string())
                .collect();
            let taken = command.get_arguments().any(|a| a.get_long() == Some("user"));
            let command = subs.iter().fold(command, |c, sub| c.mut_subcommand(sub, own));
            if taken || command.is_hide_set() {
                return command;
            }
            command.arg(
                clap::Arg::new(OWN)
                    .long("user")
                    .action(ArgAction::SetTrue)
                    .help_heading("Global options")
                    .help("Use your own store, in $XDG_DATA_HOME/wardfs (needs no root)"),
            )
        }
        super::groups::grouped(own(<Cli as clap::CommandFactory>::command()))
    }

    /// What was typed.
    ///
    /// # Errors
    /// What is not understood; help and version, too.
    pub fn typed(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Cli, clap::Error> {
        let mut definition = Cli::definition();
        let matches = definition.try_get_matches_from_mut(args)?;
        let mut cli = <Cli as clap::FromArgMatches>::from_arg_matches(&matches)?;
        let (mut at, mut own, mut store) = (Some(&matches), false, false);
        while let Some(found) = at {
            own |= matches!(found.try_get_one::<bool>(OWN), Ok(Some(true)));
            store |= found.value_source("store") == Some(clap::parser::ValueSource::CommandLine);
            at = found.subcommand().map(|(_, sub)| sub);
        }
        if own && store {
            return Err(definition.error(
                clap::error::ErrorKind::ArgumentConflict,
                "--user and --store each name a store: give one of them",
            ));
        }
        if own
            && let Command::List {
                under: Some(name), ..
            } = &cli.command
            && crate::sys::nss::SystemDirectory.uid_of(name).is_some()
        {
            return Err(definition.error(
                clap::error::ErrorKind::ArgumentConflict,
                format!(
                    "--user means your own store here, and {name} is a user of this machine: what {name} may read says \
                     wardfs why SECRET --as user:{name}; for the directory {name}/ of your own store write wardfs --user list {name}/"
                ),
            ));
        }
        if store {
            let dir = std::path::absolute(&cli.global.store).unwrap_or_else(|_| cli.global.store.clone());
            cli.global.named = format!("--store {}", shell_word(&dir.to_string_lossy()));
        }
        if own {
            cli.global.named = "--user".into();
            cli.global.store = own_store().ok_or_else(|| {
                definition.error(clap::error::ErrorKind::Io, "there is no home directory (HOME)")
            })?;
        }
        Ok(cli)
    }
}

/// The words with which a line that was not understood names its store.
pub fn named(line: impl Iterator<Item = OsString>) -> String {
    let words: Vec<OsString> = line.collect();
    if words.iter().any(|w| w == "--user") {
        return "--user".into();
    }
    let store = words
        .iter()
        .enumerate()
        .find_map(|(i, word)| match word.to_str()? {
            "--store" => words.get(i + 1)?.to_str().map(str::to_owned),
            word => word.strip_prefix("--store=").map(str::to_owned),
        });
    store.map_or_else(String::new, |dir| format!("--store {}", shell_word(&dir)))
}

/// The words that can follow `wardfs`.
pub fn names() -> Vec<String> {
    let definition = <Cli as clap::CommandFactory>::command();
    let all = definition.get_subcommands().filter(|c| !c.is_hide_set());
    all.map(|c| c.get_name().to_string()).collect()
}

/// `text` as one word of a shell.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.,:=@%+-".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// The id of `--user`.
const OWN: &str = "own";

/// The store of this user: `$XDG_DATA_HOME/wardfs`, in `~/.local/share` by default (XDG Base Directory Specification).
pub fn own_store() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join("wardfs"))
}

/// Every command.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a store, its root key and its configuration
    ///
    /// Prints a recovery key once: keep it away from this machine. It opens the store if the key file is lost. A new
    /// store needs 8 MiB of disk, most of which is the reserve of store and log: taking access away works on a full disk.
    #[command(after_help = "\
Examples:
  wardfs init
  wardfs init --store /srv/secrets --json")]
    Init,

    /// Store a value: a new version, or a new secret
    ///
    /// The value is read from standard input, or from --value-file, and stored exactly as it is, a newline at
    /// its end included (so use printf, not echo). If standard input is a terminal, the value is asked for
    /// twice, not shown, and ends before the newline. A value has 1 to 65,536 bytes (max_value_bytes).
    ///
    /// Nobody reads a secret that no rule gives him, root and the one who puts it included.
    #[command(after_help = "\
Examples:
  printf s3cret | wardfs put app/db/password --allow user:www-data --allow group:backup
  wardfs put app/tls/key --value-file key.pem --allow unit:nginx.service --description 'TLS key'
  wardfs put app/token --policy policy.json < token
  wardfs put app/db/password --generate --length 40 --exclude-punctuation
  wardfs put app/db/password --label pending --tag team=data < password
  wardfs put app/db/password --token 5f2d7f9e-3f0c-4a3b-9d5a-6c1b8f3e2a10 < password
  wardfs put app/db/password                  # asks for the new value")]
    Put(Box<Put>),

    /// Print a value, to those who may read it
    ///
    /// The bytes are written exactly as they are stored. A value that is no UTF-8 text has the field
    /// \"value_base64\" instead of \"value\" with --json; to a terminal what is no text goes only after a yes, or with
    /// --force.
    #[command(after_help = "\
Examples:
  wardfs get app/db/password
  wardfs get app/db/password --label previous
  wardfs get app/db/password --version b7c1f6de
  wardfs get /run/secrets/app/db/password
  wardfs get app/tls/key > key.pem")]
    Get(Get),

    /// Give readers the previous value again
    ///
    /// Moves current to the version that is previous, which makes the other one previous: a second rollback takes it
    /// back.
    #[command(after_help = "\
Examples:
  wardfs rollback app/db/password
  wardfs rollback app/db/password --json")]
    Rollback {
        /// The secret
        name: String,
    },

    /// List the secrets that you may see
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  wardfs list
  wardfs list app/db
  wardfs list --tag team=data
  wardfs list --deleted
  wardfs list --json"
    )]
    List {
        /// Only this secret, or those under this directory
        #[arg(value_name = "NAME")]
        under: Option<String>,
        /// Only secrets with this tag (repeatable)
        #[arg(long, value_name = "KEY=VALUE", action = ArgAction::Append)]
        tag: Vec<String>,
        /// Names whose values were destroyed instead: each keeps its policy, which a put brings back
        #[arg(long)]
        deleted: bool,
    },

    /// Show a secret's settings, labels and readers
    #[command(after_help = "\
Examples:
  wardfs describe app/db/password
  wardfs describe app/db/password --json")]
    Describe {
        /// The secret
        name: String,
    },

    /// Change settings of a secret without its value
    ///
    /// What is not named stays as it is. --owner, --group, --mode and --visibility ask for the right to set the policy;
    /// the others for secretsmanager:UpdateSecret. An empty text takes a description, an ARN, an owner, a group or a
    /// mode away.
    #[command(
        override_usage = "wardfs update [OPTIONS] <NAME>",
        after_help = "\
Examples:
  wardfs update app/db/password --description web-server
  wardfs update app/db/password --owner www-data --mode 0400
  wardfs update app/db/password --visibility hidden
  wardfs update app/db/password --description '' --arn ''"
    )]
    Update(Update),

    /// Show the versions of a secret and their labels
    #[command(after_help = "\
Examples:
  wardfs versions app/db/password")]
    Versions {
        /// The secret
        name: String,
    },

    /// Set and remove tags of a secret
    ///
    /// Policies may ask for them (secretsmanager:ResourceTag/KEY). `describe` shows them.
    #[command(after_help = "\
Examples:
  wardfs tag app/db/password team=data env=prod
  wardfs tag app/db/password --remove env")]
    Tag {
        /// The secret
        name: String,
        /// Tags to set
        #[arg(value_name = "KEY=VALUE", required_unless_present = "remove")]
        set: Vec<String>,
        /// Remove the tag with this key (repeatable)
        #[arg(long, value_name = "KEY", action = ArgAction::Append)]
        remove: Vec<String>,
    },

    /// Move the labels of versions
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  wardfs label move app/db/password current --to b7c1f6de-4a1b-4d52-9f0e-2f1f3a2c5d61 --from 0f0e3b0c-8a54-4f31-b7fd-1f4c0a8a1c11"
    )]
    Label(Label),

    /// See and change who may read a secret
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  wardfs policy allow app/db/password user:www-data unit:app.service
  wardfs policy revoke app/db/password user:www-data
  wardfs policy get app/db/password > policy.json
  wardfs policy check app/db/password policy.json
  wardfs policy set app/db/password policy.json"
    )]
    Policy(Policy),

    /// See and change guardrails, which bind every caller on every secret
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  wardfs guardrail set no-deletion deny-delete.json
  wardfs guardrail list
  wardfs guardrail remove no-deletion"
    )]
    Guardrail(policies::Guardrail),

    /// See and change identity policies: what somebody may do with any secret
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  wardfs identity set user:deploy deploy.json --tag team=web
  wardfs identity list
  wardfs identity remove user:deploy"
    )]
    Identity(policies::Identity),

    /// Say why a read was refused, and what would allow it
    ///
    /// Without --as or --pid: the latest refusal on record. With one of them: a decision made now, without reading
    /// anything, and exit 0 if it is allowed, 3 if it is denied. About others only root may ask.
    #[command(after_help = "\
Examples:
  wardfs why /run/secrets/app/db/password
  wardfs why app/db/password --as user:nobody
  wardfs why app/db/password --pid 4242 --json")]
    Why(Why),

    /// Destroy the values of a secret
    ///
    /// All versions are destroyed at once; there is no recovery window yet, so --now must say that this is
    /// meant. The name keeps its policy, unless root also gives --purge.
    #[command(after_help = "\
Examples:
  wardfs delete app/old --now --dry-run
  wardfs delete app/old --now
  wardfs delete app/old --now --purge")]
    Delete(Delete),

    /// Read and verify the log
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  wardfs audit tail -f
  wardfs audit query --secret app/db/password --denied --since 2h
  wardfs audit verify"
    )]
    Audit(Audit),

    /// Look after the store
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  wardfs store check"
    )]
    Store(Store),

    /// Show whether readers are served, by which process, and its counters
    ///
    /// `healthy` is what a reader would find. Otherwise it is said why not and what mends it, with exit code 7: nothing is
    /// mounted, a mount has lost its daemon or lies under another one, the log cannot take the record of a read, or secrets
    /// are damaged. Counters run from the start of the service.
    #[command(after_help = "\
Examples:
  wardfs status
  wardfs status --json")]
    Status,

    /// Serve the secrets as files under a directory
    ///
    /// Makes the directory if need be, serves in the foreground, and prints READY once files can be read.
    ///
    /// SIGTERM and SIGINT end the service, and its last record and line say who asked. SIGHUP has wardfs.toml read again:
    /// max_value_bytes, max_handles_per_uid and of [audit] segment_bytes, low_space_bytes and uid_bytes_per_second change
    /// at once; the rest takes a new mount, and is said.
    #[command(after_help = "\
Examples:
  wardfs mount /run/secrets &
  wardfs mount /run/secrets --threads 8
  wardfs mount /run/secrets -o max_handles_per_uid=100 -o audit.segment_bytes=1048576
  wardfs mount --user ~/secrets")]
    Mount {
        /// The directory
        #[arg(value_hint = ValueHint::DirPath)]
        target: PathBuf,
        /// Threads that serve (1 to 64; default: `threads` of wardfs.toml)
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
        threads: Option<u8>,
        /// A setting of wardfs.toml for this service, as in -o max_handles_per_uid=100 (repeatable; none that decides
        /// who may do what)
        #[arg(short, long = "option", value_name = "KEY=VALUE", action = ArgAction::Append)]
        option: Vec<String>,
    },

    /// End the service and unmount
    #[command(
        visible_alias = "umount",
        after_help = "\
Examples:
  wardfs unmount /run/secrets"
    )]
    Unmount {
        /// The directory
        #[arg(value_hint = ValueHint::DirPath)]
        target: PathBuf,
    },

    /// Show on this machine, in seconds, that it does what it says
    ///
    /// Makes a store and a mount of its own, reads with processes of several users, and removes everything.
    #[command(after_help = "\
Examples:
  wardfs demo")]
    Demo,

    /// Look at the store's configuration, wardfs.toml, and put it in force
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  wardfs config check
  wardfs config accept"
    )]
    Config(ConfigCommand),

    /// Print the completion script of a shell
    #[command(after_help = "\
Examples:
  wardfs completions bash > /etc/bash_completion.d/wardfs
  wardfs completions zsh > /usr/local/share/zsh/site-functions/_wardfs
  wardfs completions fish > ~/.config/fish/completions/wardfs.fish")]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },

    /// Print a manual page, or write all of them
    ///
    /// One page for each command, and wardfs.toml(5) for the configuration, from the same definition as --help.
    #[command(after_help = "\
Examples:
  wardfs man | man -l -
  wardfs man policy set | man -l -
  wardfs man wardfs.toml | man -l -
  wardfs man --output /usr/local/share/man")]
    Man {
        /// The command, or wardfs.toml; without it the page of wardfs itself
        #[arg(value_name = "COMMAND", conflicts_with = "output")]
        of: Vec<String>,
        /// Write every page into man1 and man5 of this directory
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        output: Option<PathBuf>,
    },

    /// Unmounts when its standard input ends; started by `mount` without root
    #[command(name = crate::sys::mount::KEEP, hide = true)]
    Unmounter {
        /// The mount.
        target: PathBuf,
    },

    /// The process that has the control socket; started by `mount`
    #[command(name = crate::sys::front::ARGUMENT, hide = true)]
    Front {
        /// What `mount` hands over.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },

    /// The event writer's process; started by `mount`
    #[command(name = "__notifier", hide = true)]
    Notifier {
        /// What `mount` hands over.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

#[cfg(test)]
mod tests;
