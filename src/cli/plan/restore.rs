//! What comes back out of a backup.

use std::path::PathBuf;

use super::super::args;
use super::{name, trial};
use crate::id::SecretName;
use crate::lifecycle::Place;
use crate::problem::Problem;
use crate::vault::{Rollback, Trial};

/// A backup to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The backup.
    pub file: PathBuf,
    /// Whether changes may be taken back.
    pub rollback: Rollback,
    /// Whether it is only tried.
    pub trial: Trial,
    /// Whether the recovery key is read from standard input.
    pub recovery_key: bool,
    /// The one secret that is taken out of it, and where to.
    pub only: Option<(SecretName, Place)>,
}

pub(super) fn plan(typed: args::Restore) -> Result<Restore, Problem> {
    let place = match (typed.to, typed.new_version) {
        (Some(to), _) => Place::Name(name(&to)?),
        (None, true) => Place::NewVersion,
        (None, false) => Place::Own,
    };
    let only = typed.only.map(|n| name(&n)).transpose()?;
    Ok(Restore {
        file: typed.file,
        rollback: match typed.accept_rollback {
            true => Rollback::Accepted,
            false => Rollback::Refused,
        },
        trial: trial(typed.dry_run),
        recovery_key: typed.recovery_key,
        only: only.map(|name| (name, place)),
    })
}
