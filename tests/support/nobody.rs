//! A machine without users and groups.

use wardfs::id::{Gid, Uid};
use wardfs::policy::Directory;

pub struct Nobody;

impl Directory for Nobody {
    fn uid_of(&self, _: &str) -> Option<Uid> {
        None
    }
    fn gid_of(&self, _: &str) -> Option<Gid> {
        None
    }
    fn users(&self) -> Vec<(String, Uid)> {
        Vec::new()
    }
    fn groups(&self) -> Vec<(String, Gid)> {
        Vec::new()
    }
}
