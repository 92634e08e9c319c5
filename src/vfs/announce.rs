//! What the notifier sees and may do, so that watchers hear of a change: it makes names that are there already,
//! touches values, and removes names that are gone.

use std::ffi::OsStr;

use crate::access::{Caller, Side, Standing};
use crate::id::SecretId;
use crate::store::snapshot::DirId;
use crate::vault::State;

use super::tree::{directory, join};
use super::{Attr, Kind, Look, Node, Vfs, VfsError, lock};

/// What the notifier is about to announce.
#[derive(Clone, Debug)]
pub enum Announced {
    /// This name was made: for the notifier it is not there until it has made it.
    Created(String),
    /// This name is gone: for the notifier it is there, with the directories above it, until it has removed it.
    Deleted(String, SecretId),
}

impl Announced {
    fn name(&self) -> &str {
        match self {
            Announced::Created(name) | Announced::Deleted(name, _) => name,
        }
    }
}

impl Vfs {
    /// Sets the stage for a request of the notifier, until [`Vfs::announced`].
    pub fn announcing(&self, what: Announced) {
        lock(&self.announced).push(what);
    }

    /// The notifier is done with this name.
    pub fn announced(&self, name: &str) {
        lock(&self.announced).retain(|a| a.name() != name);
    }

    pub(super) fn lookup_for_notifier<C: Caller>(
        &self,
        parent: Node,
        name: &str,
        caller: &mut C,
    ) -> Result<Attr, VfsError> {
        let state = self.access().vault().peek();
        let path = self.path_for_notifier(&state, parent)?;
        let full = join(&path, name);
        for announced in &*lock(&self.announced) {
            match announced {
                Announced::Created(made) if *made == full => return Err(VfsError::NoEntry),
                Announced::Deleted(gone, id) if *gone == full => return Ok(self.gone_attr(*id)),
                Announced::Deleted(gone, _)
                    if is_above(&full, gone) && state.secrets.by_name(&full).is_none() =>
                {
                    return Ok(self.directory_attr(Node::Directory(DirId::of(&full))));
                }
                _ => {}
            }
        }
        match state.secrets.by_name(&full) {
            Some(secret) => Ok(self.secret_attr(secret, self.slot(secret), Standing::Describer, caller)),
            None => {
                let found = state.secrets.directory(&full).ok_or(VfsError::NoEntry)?;
                Ok(self.directory_attr(Node::Directory(found.id)))
            }
        }
    }

    /// A directory's path, also of one that went with its last secret.
    fn path_for_notifier(&self, state: &State, node: Node) -> Result<String, VfsError> {
        match directory(state, node) {
            Ok((path, Side::Values)) => Ok(path),
            Ok((_, Side::Versions)) => Err(VfsError::NoEntry),
            Err(e) => {
                let Node::Directory(id) = node else { return Err(e) };
                let announced = lock(&self.announced);
                let gone = announced.iter().filter_map(|a| match a {
                    Announced::Deleted(gone, _) => Some(gone),
                    Announced::Created(_) => None,
                });
                let mut above = gone.flat_map(|gone| gone.match_indices('/').map(|(at, _)| &gone[..at]));
                let found = above.find(|path| DirId::of(path) == id);
                found.map(str::to_string).ok_or(e)
            }
        }
    }

    fn gone_attr(&self, id: SecretId) -> Attr {
        Attr {
            kind: Kind::File,
            perm: 0o400,
            ..self.directory_attr(Node::secret(id))
        }
    }

    /// The notifier makes a name that is there already.
    ///
    /// # Errors
    /// EROFS for everybody else.
    pub fn announce_created<C: Caller>(
        &self,
        parent: Node,
        name: &OsStr,
        caller: &mut C,
    ) -> Result<Attr, VfsError> {
        if !self.is_notifier(caller) {
            return Err(VfsError::ReadOnly);
        }
        let state = self.access().vault().peek();
        let path = self.path_for_notifier(&state, parent)?;
        let name = name.to_str().ok_or(VfsError::NoEntry)?;
        match state.secrets.by_name(&join(&path, name)) {
            Some(secret) if secret.is_active() => Ok(self.answer(
                self.secret_attr(secret, self.slot(secret), Standing::Describer, caller),
                Look::Kept,
            )),
            _ => Err(VfsError::NoEntry),
        }
    }

    /// The notifier sets a time of a file, for the event and for the answer: of what is asked and answered meanwhile the
    /// kernel believes this, and the size in it is the one that it keeps.
    ///
    /// # Errors
    /// EROFS for everybody else.
    pub fn announce_touched<C: Caller>(&self, node: Node, caller: &mut C) -> Result<Attr, VfsError> {
        match node {
            Node::Secret(id, slot) if self.is_notifier(caller) => {
                let state = self.access().vault().peek();
                let secret = state.secrets.by_id(id).ok_or(VfsError::NoEntry)?;
                Ok(self.answer(
                    self.secret_attr(secret, slot, Standing::Describer, caller),
                    Look::Kept,
                ))
            }
            _ => Err(VfsError::ReadOnly),
        }
    }

    /// The notifier removes a name that is gone already.
    ///
    /// # Errors
    /// EROFS for everybody else, and for a name that is there.
    pub fn announce_deleted<C: Caller>(
        &self,
        parent: Node,
        name: &OsStr,
        caller: &mut C,
    ) -> Result<(), VfsError> {
        if !self.is_notifier(caller) {
            return Err(VfsError::ReadOnly);
        }
        let state = self.access().vault().peek();
        let path = self.path_for_notifier(&state, parent)?;
        let name = name.to_str().ok_or(VfsError::NoEntry)?;
        match state.secrets.by_name(&join(&path, name)) {
            Some(secret) if secret.is_active() => Err(VfsError::ReadOnly),
            _ => Ok(()),
        }
    }
}

fn is_above(directory: &str, name: &str) -> bool {
    name.strip_prefix(directory)
        .is_some_and(|rest| rest.starts_with('/'))
}
