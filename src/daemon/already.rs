//! A store that another daemon serves already.

use std::path::Path;

use crate::control::client::Client;
use crate::control::protocol::Request;
use crate::problem::{Exit, Problem};

/// That a daemon serves the store, and goes on.
pub(super) fn served(store: &Path) -> Option<Problem> {
    let mut client = Client::connect(store).ok()??;
    let status = client.call(&Request::Status, None).ok()?;
    let (mount, pid) = (status["mount"].as_str()?, status["pid"].as_u64()?);
    if status["stopping"] == true {
        return None;
    }
    let what = format!("the store {} was not mounted", store.display());
    let why = format!("already mounted on {mount} by process {pid}");
    Some(Problem::new(Exit::Conflict, what, why).next("read its files there, or unmount it first"))
}
