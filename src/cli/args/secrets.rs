//! One secret: its value, versions and labels, and who may have it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueHint};

/// See [`super::Command::Put`].
#[derive(Args, Debug)]
pub struct Put {
    /// The secret: letters, digits and /_+=.@-
    pub name: String,
    /// A value in its place is refused; see [`crate::cli::plan`].
    #[arg(hide = true, num_args = 0.., value_name = "VALUE")]
    pub typed: Vec<OsString>,
    /// As a flag it is refused too.
    #[arg(long, hide = true, value_name = "VALUE", allow_hyphen_values = true)]
    pub value: Option<OsString>,
    /// Read the value from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub value_file: Option<PathBuf>,
    /// A password instead of a value.
    #[command(flatten)]
    pub password: crate::cli::generate::Typed,
    /// Who may read: user:NAME, uid:N, group:NAME, gid:N or unit:NAME (repeatable)
    #[arg(long, value_name = "WHO", action = ArgAction::Append)]
    pub allow: Vec<String>,
    /// Who may not, whatever else says so (repeatable)
    #[arg(long, value_name = "WHO", action = ArgAction::Append)]
    pub deny: Vec<String>,
    /// A whole policy document, instead of --allow and --deny
    #[arg(long, value_name = "FILE", conflicts_with_all = ["allow", "deny"], value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Words about it, for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// The owner that the file shows (default: whoever looks and may read it)
    #[arg(long, value_name = "USER", value_hint = ValueHint::Username)]
    pub owner: Option<String>,
    /// The group that the file shows
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// The permission bits that the file shows, in octal, at most 0444
    #[arg(long, value_name = "MODE")]
    pub mode: Option<String>,
    /// What those see who may neither read nor describe it
    #[arg(long, value_enum)]
    pub visibility: Option<Visibility>,
    /// A tag to set (repeatable)
    #[arg(long, value_name = "KEY=VALUE", action = ArgAction::Append)]
    pub tag: Vec<String>,
    /// A label for the version, instead of current (repeatable)
    #[arg(long, value_name = "LABEL", action = ArgAction::Append)]
    pub label: Vec<String>,
    /// The version's id, 32 to 64 characters: the same put again with it does nothing
    #[arg(long, value_name = "ID")]
    pub token: Option<String>,
    /// The ARN that the secret has in AWS, for policies that name it; an empty one takes it away
    #[arg(long, value_name = "ARN")]
    pub arn: Option<String>,
    /// Only make a new secret: a name that is there is refused
    #[arg(long, conflicts_with = "update")]
    pub create: bool,
    /// Only store a new version: a secret that is not there is not made
    #[arg(long)]
    pub update: bool,
}

/// See [`super::Command::Update`].
#[derive(Args, Debug)]
#[group(id = "settings", required = true, multiple = true, args = ["description", "owner", "group", "mode", "visibility", "arn"])]
pub struct Update {
    /// The secret
    pub name: String,
    /// Words about it, for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// The owner that the file shows
    #[arg(long, value_name = "USER", value_hint = ValueHint::Username)]
    pub owner: Option<String>,
    /// The group that the file shows
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// The permission bits that the file shows, in octal, at most 0444
    #[arg(long, value_name = "MODE")]
    pub mode: Option<String>,
    /// What those see who may neither read nor describe it
    #[arg(long, value_enum)]
    pub visibility: Option<Visibility>,
    /// The ARN that the secret has in AWS
    #[arg(long, value_name = "ARN")]
    pub arn: Option<String>,
}

/// `wardfs label …`.
#[derive(Subcommand, Debug)]
pub enum Label {
    /// Move a label to a version
    ///
    /// A label is on one version at most. If another version has it, --from must name that one. Moving current makes
    /// the version that had it previous, and readers get the other one at once. A version is named by a label, by its
    /// id, or by the first characters of its id, 8 at least, where no other begins so.
    #[command(after_help = "\
Examples:
  wardfs label move app/db/password pending --to b7c1f6de
  wardfs label move app/db/password current --to pending --from current
  wardfs label move app/db/password current --to b7c1f6de-4a1b-4d52-9f0e-2f1f3a2c5d61 --from 0f0e3b0c-8a54-4f31-b7fd-1f4c0a8a1c11")]
    Move {
        /// The secret
        name: String,
        /// The label
        label: String,
        /// The version that shall have it
        #[arg(long, value_name = "VERSION")]
        to: String,
        /// The version that has it
        #[arg(long, value_name = "VERSION")]
        from: Option<String>,
    },
    /// Remove a label from a version
    ///
    /// current cannot be removed. A version without labels is pruned in time.
    #[command(after_help = "\
Examples:
  wardfs label remove app/db/password pending --from b7c1f6de-4a1b-4d52-9f0e-2f1f3a2c5d61")]
    Remove {
        /// The secret
        name: String,
        /// The label
        label: String,
        /// The version that has it
        #[arg(long, value_name = "VERSION")]
        from: String,
    },
}

/// What strangers see.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// That the name exists
    Listed,
    /// Nothing at all
    Hidden,
}

/// See [`super::Command::Get`].
#[derive(Args, Debug)]
pub struct Get {
    /// The secret, or the path of its file under the mount
    #[arg(value_name = "PATH|NAME")]
    pub name: String,
    /// The version that carries this label (default: current)
    #[arg(long, value_name = "LABEL", conflicts_with = "version")]
    pub label: Option<String>,
    /// The version with this label or id; 8 characters of an id are enough where no other begins so
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Print to a terminal what is no text
    #[arg(short, long)]
    pub force: bool,
    /// Read a store on a disk that cannot be written, which can record nothing: for root, and told to the kernel's log
    /// and the journal first
    #[arg(long)]
    pub unrecorded: bool,
}

/// See [`super::Command::Why`].
#[derive(Args, Debug)]
pub struct Why {
    /// The secret, or the path of its file under the mount
    #[arg(value_name = "PATH|NAME")]
    pub secret: String,
    /// Decide now, for user:NAME, uid:N or unit:NAME; exit 0 if it is allowed, 3 if it is denied
    #[arg(long = "as", value_name = "WHO", group = "about")]
    pub who: Option<String>,
    /// Decide now, for this user with all groups (as --as user:NAME; always exit 0)
    #[arg(long, value_name = "NAME", group = "about", value_hint = ValueHint::Username)]
    pub user: Option<String>,
    /// Decide now, for this uid (as --as uid:N; always exit 0)
    #[arg(long, value_name = "N", group = "about")]
    pub uid: Option<u32>,
    /// Decide now, for this running process; exit 0 if it is allowed, 3 if it is denied
    #[arg(long, value_name = "N", group = "about")]
    pub pid: Option<u32>,
}

/// See [`super::Command::Delete`].
#[derive(Args, Debug)]
pub struct Delete {
    /// The secret
    pub name: String,
    /// Yes, destroy the values now
    #[arg(long)]
    pub now: bool,
    /// Also forget the name and its policy (root only)
    #[arg(long)]
    pub purge: bool,
    /// Only say what would be destroyed
    #[arg(long)]
    pub dry_run: bool,
}
