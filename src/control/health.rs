//! Whether a reader would find what the policies give it, and if not, why.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::LogError;
use crate::sys::dir::Dir;
use crate::sys::mount::{self, TargetState};
use crate::vault::{Secret, State, Vault};

use super::place::NOTE;

/// How long `status` waits for a record that is on its way to the disk.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a reader finds nothing, or not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ill {
    /// No daemon serves the store.
    NotMounted,
    /// A mount is there whose daemon is gone.
    DeadMount,
    /// Something else is mounted over the mount.
    Covered,
    /// The log has no space for the record of a read.
    LogFull,
    /// The log cannot be written for another reason.
    LogUnwritable,
    /// The log's disk does not answer.
    LogWaiting,
    /// The store, in which the log is anchored, cannot be written.
    StoreUnwritable,
    /// Some secret's record, or its current version, is not what was written.
    Damaged,
}

impl Ill {
    /// The word for it in `reasons`.
    pub fn code(self) -> &'static str {
        match self {
            Ill::NotMounted => "not_mounted",
            Ill::DeadMount => "dead_mount",
            Ill::Covered => "mount_covered",
            Ill::LogFull => "log_full",
            Ill::LogUnwritable => "log_unwritable",
            Ill::LogWaiting => "log_waiting",
            Ill::StoreUnwritable => "store_unwritable",
            Ill::Damaged => "damaged",
        }
    }
}

/// What `status` says where no daemon serves the store, whose last one has noted in `run` where it mounted.
pub(super) fn unserved(run: Option<&Dir>) -> Value {
    let mut answer = json!({ "running": false });
    let mut ills = vec![Ill::NotMounted];
    if let Some(dead) = run.and_then(noted).filter(|target| is_dead(target)) {
        ills.push(Ill::DeadMount);
        answer["dead_mount"] = json!(dead);
    }
    diagnosed(&mut answer, &ills);
    answer
}

fn noted(run: &Dir) -> Option<PathBuf> {
    let mut target = Vec::new();
    let file = run.file(NOTE, OpenOptions::new().read(true)).ok()?;
    let owner = file.metadata().ok()?.uid();
    if ![0, nix::unistd::geteuid().as_raw()].contains(&owner) {
        return None;
    }
    file.take(libc::PATH_MAX as u64).read_to_end(&mut target).ok()?;
    (!target.is_empty()).then(|| PathBuf::from(std::ffi::OsString::from_vec(target)))
}

/// Where no mount of ours is known to be, nobody is asked: what is there may never answer.
fn is_dead(target: &Path) -> bool {
    let ours = mount::mounts().is_ok_and(|all| {
        all.iter()
            .any(|m| m.target == target && m.fstype == mount::FSTYPE)
    });
    ours && matches!(mount::state(target), Ok(TargetState::OurMount { dead: true }))
}

/// Adds these to what is known already.
pub(super) fn diagnosed(answer: &mut Value, ills: &[Ill]) {
    let mut reasons = answer["reasons"].as_array().cloned().unwrap_or_default();
    reasons.extend(ills.iter().map(|ill| json!(ill.code())));
    answer["healthy"] = json!(reasons.is_empty());
    answer["reasons"] = json!(reasons);
}

/// The state of the log, for those who administer, and what of it a reader would meet.
pub(super) fn log(vault: &Vault) -> (Value, Option<Ill>) {
    let log = vault.log();
    let Some(head) = log.head_within(PATIENCE) else {
        return (
            json!({ "healthy": false, "waiting": true }),
            Some(Ill::LogWaiting),
        );
    };
    let ill = match log.healthy().and_then(|()| log.takes_reads()) {
        Ok(()) => vault.is_failing().then_some(Ill::StoreUnwritable),
        Err(LogError::Unanchored) => Some(Ill::StoreUnwritable),
        Err(LogError::Full { .. }) => Some(Ill::LogFull),
        Err(_) => Some(Ill::LogUnwritable),
    };
    let mut audit = json!({ "seq": head.seq, "segment": head.segment, "healthy": matches!(ill, None | Some(Ill::StoreUnwritable)) });
    if ill == Some(Ill::LogFull) {
        audit["full"] = json!(true);
    }
    (audit, ill)
}

/// Whether what is known of the store in memory shows damage; what is on the disk is for `store check`.
pub(super) fn damage(state: &State) -> Option<Ill> {
    let lost = |s: &Secret| s.is_active() && s.meta.labels.contains_key("current") && s.current().is_none();
    let broken = |s: &Secret| s.broken.is_some() || lost(s);
    state.secrets.iter().any(|s| broken(s)).then_some(Ill::Damaged)
}
