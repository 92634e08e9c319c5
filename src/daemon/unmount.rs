//! The end of a mount: it is gone, or it is said what keeps it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::id::printable;
use crate::problem::{Exit, Problem};
use crate::sys::mount::{self, Layered, MountError, TargetState};

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy()).to_string()
}

fn cannot(target: &Path) -> String {
    format!("cannot unmount {}", shown(target))
}

/// That something else is mounted on the mount at `target`: unmounting it would leave ours there, dead, or take what is
/// not ours.
///
/// # Errors
/// With exit 7, which names it.
pub(super) fn nothing_over(target: &Path) -> Result<(), Problem> {
    let found = mount::layered(target)
        .map_err(|e| Problem::new(Exit::Failed, cannot(target), e).next("mend what the system says"))?;
    match found {
        Some(Layered { over: Some(_), .. }) => Err(in_the_way(target, found.as_ref())),
        _ => Ok(()),
    }
}

fn in_the_way(target: &Path, found: Option<&Layered>) -> Problem {
    let Some(over) = found.and_then(|f| f.over.as_ref()) else {
        return Problem::new(Exit::Unavailable, cannot(target), "it is still mounted")
            .next("see what is mounted there: findmnt");
    };
    let place = shown(&over.target);
    let where_ = match found.is_some_and(Layered::is_covered) {
        true => "over it".to_string(),
        false => format!("below it, on {place}"),
    };
    let why = format!("a mount of type {} lies {where_}", printable(&over.fstype));
    Problem::new(Exit::Unavailable, cannot(target), why).next(format!("umount {place}, then try again"))
}

/// Waits until the mount that is at `target` now has gone, for at most `time`.
///
/// # Errors
/// With exit 7 if it has not.
pub fn gone(target: &Path, time: Duration) -> Result<(), Problem> {
    let end = Instant::now() + time;
    // Without one it went already, with its directory even, or is another namespace's.
    let now = || mount::layered(target).ok().flatten();
    let Some(first) = now() else { return Ok(()) };
    loop {
        let found = now().filter(|m| (m.ours.id, m.ours.device) == (first.ours.id, first.ours.device));
        match found {
            None => return Ok(()),
            Some(_) if Instant::now() >= end => return Err(in_the_way(target, found.as_ref())),
            Some(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Unmounts what a daemon that is gone has left behind; never a living mount.
///
/// # Errors
/// If there is no such mount, or another one lies over it.
pub fn unmount_dead(target: &Path) -> Result<(), Problem> {
    let what = cannot(target);
    match mount::state(target)
        .map_err(|e| Problem::new(Exit::Failed, &what, e).next("give the path of the mount"))?
    {
        TargetState::OurMount { dead: true } => mount::unmount(target).map_err(|e| {
            Problem::new(Exit::Failed, what, e).next("close what is open there, then try again")
        }),
        TargetState::OurMount { dead: false } => {
            Err(
                Problem::new(Exit::Unavailable, what, "a daemon of another store serves it")
                    .next("name that store with --store"),
            )
        }
        _ => {
            nothing_over(target)?;
            Err(Problem::new(Exit::NotFound, what, "no mount of wardfs is there")
                .next("see what is mounted: wardfs status"))
        }
    }
}

/// Unmounts when service ends, also by an error on the way up.
pub(super) struct Unmount {
    pub target: PathBuf,
    /// Who unmounts, where this process may not.
    pub keeper: Option<mount::Keeper>,
}

impl Unmount {
    /// # Errors
    /// With exit 7 if the mount stays.
    pub fn end(mut self) -> Result<(), Problem> {
        let target = self.target.clone();
        self.unmount();
        gone(&target, Duration::from_secs(1))
    }

    /// It was unmounted from outside: what is there now is another's.
    pub fn went(mut self) {
        self.target = PathBuf::new();
    }

    /// Once.
    fn unmount(&mut self) {
        let target = std::mem::take(&mut self.target);
        if let Some(keeper) = self.keeper.take() {
            return drop(keeper);
        }
        if target.as_os_str().is_empty() {
            return;
        }
        match mount::unmount(&target) {
            Ok(()) | Err(MountError::Target { .. }) => {}
            Err(e) => tracing::error!("{} stays mounted: {e}", target.display()),
        }
    }
}

impl Drop for Unmount {
    fn drop(&mut self) {
        self.unmount();
    }
}
