//! The command line's world: the other rooms of this machine.

use super::render::Output;
use super::run::Stop;
use super::{Backend, Made, MountPlan, World};
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use std::ffi::OsString;
use std::path::Path;

/// This machine.
pub struct Machine;

fn apart(what: &str) -> Problem {
    Problem::new(
        Exit::Unavailable,
        format!("{what} is not possible"),
        "this build has no store",
    )
}

impl World for Machine {
    fn backend(&self, store: &Path) -> Result<Box<dyn Backend>, Problem> {
        Err(apart(&format!("opening {}", store.display())))
    }
    fn memory(&self, _: usize) -> Result<SecretBytes, Problem> {
        Err(apart("holding a value"))
    }
    fn init(&self, _: &Path) -> Result<Made, Problem> {
        Err(apart("making a store"))
    }
    fn mount(&self, _: &MountPlan) -> Result<(), Problem> {
        Err(apart("serving"))
    }
    fn unmount_dead(&self, _: &Path) -> Result<(), Problem> {
        Err(apart("unmounting"))
    }
    fn demo(&self, _: &mut Output) -> Result<(), Stop> {
        Err(apart("showing it").into())
    }
    fn notifier(&self, _: &[OsString]) -> Result<(), Problem> {
        Err(apart("notifying"))
    }
}
