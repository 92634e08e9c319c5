//! Where the daemon of a store listens, and notes where it has mounted.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::SYSTEM_STORE;
use crate::sys::dir::Dir;

/// The control socket's name in its directory.
pub const SOCKET: &str = "control.sock";
/// The note's, by which `status` finds what a killed daemon leaves behind.
pub const NOTE: &str = "mount";

const SYSTEM_RUN: &str = "/run/wardfs";
const RUN: &str = "run";

/// Where the control socket of a store is.
pub fn socket_path(store: &Path) -> PathBuf {
    run_path(store).join(SOCKET)
}

/// Where its directory is, for messages.
pub fn run_path(store: &Path) -> PathBuf {
    match is_system(store) {
        true => PathBuf::from(SYSTEM_RUN),
        false => store.join(RUN),
    }
}

fn is_system(store: &Path) -> bool {
    store == Path::new(SYSTEM_STORE)
}

/// The directory of a store, and that of its control socket. The store's may not be there, or not be seen, only where
/// the other one is not in it.
pub(super) struct Place {
    pub store: Option<Dir>,
    pub run: Dir,
}

impl Place {
    /// # Errors
    /// `NotADirectory` if one of them is a link; otherwise as the system says.
    pub(super) fn of(store: &Path) -> io::Result<Place> {
        let home = Dir::open(store);
        match is_system(store) {
            true => Ok(Place {
                store: home.ok(),
                run: Dir::open(Path::new(SYSTEM_RUN))?,
            }),
            false => {
                let home = home?;
                let run = home.dir(RUN)?;
                Ok(Place {
                    store: Some(home),
                    run,
                })
            }
        }
    }
}

/// Makes the directory of the socket of the store at `store`, whose own directory is `home`. Who may do what is the
/// policy's question: everybody may reach the socket. In a store's own directory that takes the right to walk through
/// it, and no more.
///
/// # Errors
/// If something else has its name, it is another's, or the system refuses.
pub fn prepare(store: &Path, home: &Dir) -> io::Result<Dir> {
    let run = if is_system(store) {
        let (above, name) = Dir::of(Path::new(SYSTEM_RUN))?;
        above.make_dir(name, 0o711)?.0
    } else {
        home.chmod(0o711)?;
        home.make_dir(RUN, 0o711)?.0
    };
    // Not to be listed: who reads a directory can hold its lock, without which no name in it comes or goes.
    run.chmod(0o711)?;
    Ok(run)
}

/// The directory of the socket, if it is there.
pub fn run(store: &Path) -> Option<Dir> {
    Place::of(store).ok().map(|place| place.run)
}

pub(super) fn socket() -> &'static OsStr {
    OsStr::new(SOCKET)
}
