//! The log, the store as a whole, and the configuration.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueHint};

/// `wardfs audit …`.
#[derive(Subcommand, Debug)]
pub enum Audit {
    /// Print the latest records
    #[command(after_help = "\
Examples:
  wardfs audit tail
  wardfs audit tail -n 50 -f")]
    Tail {
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
        lines: usize,
        /// Go on with new ones as they come
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the records that match
    ///
    /// With --json every record, one a line.
    #[command(after_help = "\
Examples:
  wardfs audit query --denied --since 1d
  wardfs audit query --secret app/db/password --who user:www-data
  wardfs audit query --since 2026-11-25T08:00:00Z --until 2026-11-25T09:00:00Z --json")]
    Query(Query),
    /// Verify the whole log against its keys and its anchor
    ///
    /// What was archived is no longer in the log: it is said with which record the rest begins, and what came before. With
    /// --with the archived segments are held against the digests that the log has of them, and the whole is one chain again.
    #[command(after_help = "\
Examples:
  wardfs audit verify
  wardfs audit verify --with /archive/wardfs
  wardfs audit verify --json")]
    Verify {
        /// A directory with archived segments (repeatable)
        #[arg(long, value_name = "DIR", action = ArgAction::Append, value_hint = ValueHint::DirPath)]
        with: Vec<PathBuf>,
    },
    /// Move old segments of the log into a directory
    ///
    /// Segments that are finished, verified, and have only records from before --before are copied into DIR and made
    /// durable there; then they are removed from the log, on record (ArchiveLog), with their digests. The segment that is
    /// written now always stays. Run it again if it was interrupted: it finishes what is left. For the store's owner alone,
    /// and a guardrail on wardfs:ArchiveLog forbids it.
    #[command(after_help = "\
Examples:
  wardfs audit archive /archive/wardfs --before 90d --dry-run
  wardfs audit archive /archive/wardfs --before 2026-09-01")]
    Archive {
        /// The directory, which is made (0700) if it is not there
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// Only what is older than a time (2026-11-25T08:00:00Z, 2026-11-25) or an age (2h, 7d, 12w)
        #[arg(long, value_name = "TIME")]
        before: String,
        /// Only say what would be archived
        #[arg(long)]
        dry_run: bool,
    },
}

/// See [`Audit::Query`].
#[derive(Args, Debug, Default)]
pub struct Query {
    /// Of user:NAME, uid:N or unit:NAME
    #[arg(long, value_name = "WHO", conflicts_with_all = ["uid", "user"])]
    pub who: Option<String>,
    /// Of this uid
    #[arg(long, value_name = "N", conflicts_with = "user")]
    pub uid: Option<u32>,
    /// Of this user
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Username)]
    pub user: Option<String>,
    /// About this secret
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,
    /// With this eventName, as GetSecretValue
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// Refusals only
    #[arg(long)]
    pub denied: bool,
    /// Not before: a time (2026-11-25T08:00:00Z, 2026-11-25) or an age (90s, 15m, 2h, 7d)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Not after
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// The latest N of them
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// `wardfs store …`.
#[derive(Subcommand, Debug)]
pub enum Store {
    /// Write a backup of the store into a new file, while it is in use
    ///
    /// The file holds every secret, version and policy of one moment, sealed as in the store. The log, the key file and
    /// wardfs.toml are not in it: keep them as well. For the store's owner alone, and on record. To - it goes to standard
    /// output, and what is said of it to standard error.
    #[command(after_help = "\
Examples:
  wardfs store backup /backup/wardfs-monday
  wardfs store backup - | ssh backup.example.com 'cat > wardfs-monday'
  wardfs store backup /backup/wardfs-monday --json")]
    Backup {
        /// The file, which must not be there yet, or -
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Restore the store from a backup, into a clean directory or over what is there; or one secret out of it
    ///
    /// Works without a daemon. Over the same store its log goes on. A backup that is older than what is there would take
    /// changes back, and is refused without --accept-rollback. The key file of the store must be there, or with
    /// --recovery-key the recovery key on standard input makes a new one. With --only one secret comes back into the store
    /// that is there, with all its versions and labels; a name that has values is left alone without --as or --new-version.
    #[command(after_help = "\
Examples:
  wardfs store restore /backup/wardfs-monday --dry-run
  wardfs store restore /backup/wardfs-monday --accept-rollback
  wardfs store restore /backup/wardfs-monday --store /srv/new --recovery-key < recovery-key.txt
  wardfs store restore /backup/wardfs-monday --only app/db/password
  wardfs store restore /backup/wardfs-monday --only app/db/password --new-version --dry-run")]
    Restore(Restore),
    /// Check every record and value of the store
    #[command(after_help = "\
Examples:
  wardfs store check
  wardfs store check --json")]
    Check,
    /// Replace a policy, or remove a guardrail or an identity's, that nobody may change any more; begin a new log where it is lost
    ///
    /// Works without a daemon, for the owner of the store alone, past every policy, and is recorded with the reason.
    /// The secret has no policy then: nobody reads it until root sets one. With --log a new log begins, where the log is
    /// missing, cut or changed, so that the store opens again; what was lost is sealed, and shown by `audit verify` and
    /// `status` for good.
    #[command(after_help = "\
Examples:
  wardfs store break-glass app/db/password --reason INC-4711 --dry-run
  wardfs store break-glass app/db/password --policy policy.json --reason INC-4711
  wardfs store break-glass --guardrail deny-all --reason INC-4711
  wardfs store break-glass --identity user:root --reason INC-4711
  wardfs store break-glass --log --reason INC-4712 --dry-run")]
    BreakGlass(super::policies::BreakGlass),
    /// Make a new root.key with the recovery key that `init` printed
    ///
    /// For a store whose key file is lost. The recovery key is read from standard input, and asked for at a
    /// terminal; it is never an argument. A key file that is there is left alone.
    #[command(after_help = "\
Examples:
  wardfs store recover
  wardfs store recover --dry-run < recovery-key.txt
  wardfs store recover < recovery-key.txt")]
    Recover {
        /// Only say whether the recovery key opens this store
        #[arg(long)]
        dry_run: bool,
    },
}

/// `wardfs store restore`.
#[derive(Args, Debug)]
pub struct Restore {
    /// The backup
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Take back what was changed since the backup
    #[arg(long)]
    pub accept_rollback: bool,
    /// Read the recovery key from standard input, and make a new key file
    #[arg(long)]
    pub recovery_key: bool,
    /// Take this secret alone, into the store that is there
    #[arg(long, value_name = "NAME", conflicts_with = "accept_rollback")]
    pub only: Option<String>,
    /// Restore it to this name instead
    #[arg(long = "as", value_name = "NAME", requires = "only")]
    pub to: Option<String>,
    /// Where it has values: make its value of then the current one, as a new version
    #[arg(long, requires = "only", conflicts_with = "to")]
    pub new_version: bool,
    /// Only say what would be restored
    #[arg(long)]
    pub dry_run: bool,
}

/// `wardfs config …`.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Say whether a configuration is valid, and what is in force
    ///
    /// Warns of what is valid and cannot work: an unknown group, a missing key file, principals that nobody is. Of the
    /// settings that decide who may do what, those that the store has sealed are in force; where the file differs, both
    /// are shown, and the exit code is 5. So it is where the service has not read the file as it is now: SIGHUP has it
    /// read again.
    #[command(after_help = "\
Examples:
  wardfs config check
  wardfs config check ./wardfs.toml --json")]
    Check {
        /// The file (default: wardfs.toml of the store)
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },

    /// Put in force what wardfs.toml decides: who administers, and whom ARNs mean
    ///
    /// admin_group, root_describes, serve_unidentified and [principals] are sealed in the store; a changed file changes
    /// nothing before its owner accepts it here. Shows what changes and who gains, and asks.
    #[command(after_help = "\
Examples:
  wardfs config accept --dry-run
  wardfs config accept
  wardfs config accept --yes")]
    Accept {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Only show what would change, and who would gain
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
    },
}
