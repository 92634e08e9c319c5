//! A store on a disk that cannot be written: it is listed and read, and nothing is changed or served.

use std::path::Path;
use std::sync::Arc;

use crate::access::Access;
use crate::audit::Unrecorded;
use crate::config::Config;
use crate::control::Desk;
use crate::id::ROOT;
use crate::problem::{Exit, Problem};
use crate::sys::files::is_read_only;
use crate::vault::Vault;

use super::{desk_of, settings};

/// Opens a store for reads that its own log cannot record: root's alone, and only where that is so.
///
/// # Errors
/// [`Exit::Denied`] for anybody else, [`Exit::Conflict`] where the store can be written; otherwise as [`Vault::look`].
pub fn unrecorded(store: &Path, config: &Config) -> Result<(Desk, Arc<Access>), Problem> {
    let what = "nothing was read unrecorded";
    if crate::report::myself().uid != ROOT {
        return Err(Problem::new(Exit::Denied, what, "this is for root alone").next("run it as root"));
    }
    if !is_read_only(store) {
        let why = format!(
            "the store {} can be written, and so can the record of a read",
            store.display()
        );
        return Err(Problem::new(Exit::Conflict, what, why).next("leave --unrecorded away"));
    }
    let vault = open(store, config, Unrecorded::Told)?;
    Ok(desk_of(vault, store, config))
}

/// What becomes of a read is said by `unrecorded`.
pub(super) fn open(store: &Path, config: &Config, unrecorded: Unrecorded) -> Result<Arc<Vault>, Problem> {
    let vault = Vault::look(store, &settings(store, config), unrecorded);
    let vault = vault.map_err(|e| e.unopened(format!("cannot open the store {}", store.display())))?;
    Ok(Arc::new(vault))
}
