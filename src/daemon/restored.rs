//! One secret out of a backup, into the store that is there.

use std::path::Path;

use serde_json::Value;

use crate::access::Caller;
use crate::config::Config;
use crate::id::SecretName;
use crate::lifecycle::Place;
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use crate::vault::{NotKept, Trial};

/// Takes one secret out of a backup into the store in `dir`, which no daemon may have. With the recovery key a new key file
/// is made first, as `recover` does.
///
/// # Errors
/// If the backup is damaged, another store's, or has no such secret; what [`Lifecycle::restore_secret`] says.
///
/// [`Lifecycle::restore_secret`]: crate::lifecycle::Lifecycle::restore_secret
pub fn restore_secret<C: Caller>(
    dir: &Path,
    backup: &Path,
    (name, place): (&SecretName, &Place),
    trial: Trial,
    recovery_key: Option<&SecretBytes>,
    caller: &mut C,
) -> Result<Value, Problem> {
    let what = format!("cannot restore {name}");
    let file = super::read_backup(backup, &what)?;
    if let Some(key) = recovery_key {
        super::recover(dir, key, trial)?;
        if trial == Trial::DryRun {
            let why = "the recovery key opens this store; what is in the backup is seen with a key file";
            return Err(
                Problem::new(Exit::Usage, what, why).next("make the key file first: wardfs store recover")
            );
        }
    }
    let config = Config::load(dir)?;
    let (desk, _access) = super::desk(dir, &config)?;
    let kept = desk.vault.kept_in(&file, name).map_err(|e| match e {
        NotKept::Backup(e) => e.problem(&what).next("take another backup; nothing was changed"),
        NotKept::Missing => {
            let why = format!("the backup has no values of {name}");
            Problem::new(Exit::NotFound, &what, why).next("take another backup; nothing was changed")
        }
        NotKept::Broken(why) => {
            let why = format!("it is broken in the backup: {why}");
            Problem::new(Exit::Integrity, &what, why).next("take another backup; nothing was changed")
        }
    })?;
    desk.lifecycle.restore_secret(&kept, place, trial, caller)
}
