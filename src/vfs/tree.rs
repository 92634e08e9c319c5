//! Names: look-ups, links, and what access(2) is told.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::sync::Arc;

use crate::access::{Caller, Side, Sight};
use crate::audit::Event;
use crate::id::{Label, VersionId};
use crate::vault::{State, View, Visibility};

use super::listing::directory_id;
use super::{Attr, Look, Node, Vfs, VfsError, count, found, version};

const VERSIONS: &str = ".versions";

impl Vfs {
    /// Finds a name in a directory.
    ///
    /// # Errors
    /// ENOENT for a name that is not there, and for a stranger's look at a hidden secret; below `.versions` EACCES for
    /// a stranger. Directories always look up: refusing one would make the kernel drop it for its rightful users.
    pub fn lookup<C: Caller>(&self, parent: Node, name: &OsStr, caller: &mut C) -> Result<Attr, VfsError> {
        count(&self.counters.lookups);
        Ok(self.answer(self.find(parent, name, caller)?, Look::Kept))
    }

    fn find<C: Caller>(&self, parent: Node, name: &OsStr, caller: &mut C) -> Result<Attr, VfsError> {
        let name = name.to_str().ok_or(VfsError::NoEntry)?;
        if self.is_notifier(caller) {
            return self.lookup_for_notifier(parent, name, caller);
        }
        let state = self.access().vault().peek();
        match parent {
            Node::Root if name == VERSIONS => Ok(self.directory_attr(Node::Versions)),
            Node::Root | Node::Directory(_) | Node::Versions | Node::VersionsDirectory(_) => {
                let (path, side) = directory(&state, parent)?;
                self.lookup_child(&state, &path, side, name, caller)
            }
            Node::VersionsOf(id) => {
                let secret = found(&state, id)?;
                self.lookup_version(secret, name, caller)
            }
            Node::Secret(..) | Node::Version(_) | Node::LabelLink(_) => Err(VfsError::NotDirectory),
        }
    }

    fn lookup_child<C: Caller>(
        &self,
        state: &State,
        path: &str,
        side: Side,
        name: &str,
        caller: &mut C,
    ) -> Result<Attr, VfsError> {
        let full = join(path, name);
        if let Some(secret) = state.secrets.by_name(&full) {
            let secret = state.view(secret);
            return match side {
                Side::Values => self.lookup_secret(secret, caller),
                Side::Versions => {
                    self.has_versions_for(secret, Event::LookupSecret, caller)?;
                    Ok(self.versions_attr(&secret))
                }
            };
        }
        let directory = state.secrets.directory(&full).ok_or(VfsError::NoEntry)?.id;
        if state.reach.directory_changed(directory).is_none() {
            return Err(VfsError::NoEntry);
        }
        Ok(self.directory_attr(match side {
            Side::Values => Node::Directory(directory),
            Side::Versions => Node::VersionsDirectory(directory),
        }))
    }

    /// A secret that is not hidden is found by everybody: a refusal would make the kernel drop its name for those who
    /// may read it, and detach what is mounted over it. What the answer tells is that it exists, and its length.
    fn lookup_secret<C: Caller>(&self, secret: View<'_>, caller: &mut C) -> Result<Attr, VfsError> {
        let findable =
            secret.is_active() && secret.broken.is_none() && secret.meta.visibility == Visibility::Listed;
        match self.access().peek(secret, caller) {
            Ok(standing) if findable => Ok(self.secret_attr(&secret, self.slot(&secret), standing, caller)),
            // No record, since nothing was refused: what a stranger does with the name will be.
            Err(_) if findable => {
                caller.barely_answered();
                Ok(self.bare_attr(&secret))
            }
            _ => {
                let standing = self.standing(secret, Event::LookupSecret, caller)?;
                Ok(self.secret_attr(&secret, self.slot(&secret), standing, caller))
            }
        }
    }

    fn lookup_version<C: Caller>(
        &self,
        secret: View<'_>,
        name: &str,
        caller: &mut C,
    ) -> Result<Attr, VfsError> {
        if !secret.is_active() {
            return Err(VfsError::NoEntry);
        }
        // An id is one version for good: a label of the same letters, which older stores can have, is not found.
        let by_id = name.parse::<VersionId>();
        if let Some(version) = by_id.as_ref().ok().and_then(|id| secret.version(id)) {
            self.check_version(secret, version, Event::LookupSecret, caller)?;
            return Ok(self.version_attr(&secret, version, caller));
        }
        let by_label = name.parse::<Label>().ok().filter(|l| l.as_str() == name);
        if let Some(label) = by_label
            && secret.meta.labels.contains_key(&label)
        {
            let version = self.choose(secret, &label, Event::LookupSecret, caller)?;
            self.check_version(secret, version, Event::LookupSecret, caller)?;
            return Ok(self.link_attr(
                Node::label_link(secret.meta.id, &label),
                version.meta.id.as_str().len(),
            ));
        }
        // Whether an id or a label exists is told only to those who may see the secret.
        self.standing(secret, Event::LookupSecret, caller)?;
        Err(VfsError::NoEntry)
    }

    /// Whether the caller may see the directory of a secret's versions: who may see the secret, or may read one of
    /// them, as a policy can say that names labels or ids. A refusal is recorded as `event`.
    pub(super) fn has_versions_for<C: Caller>(
        &self,
        secret: View<'_>,
        event: Event,
        caller: &mut C,
    ) -> Result<(), VfsError> {
        if Sight::new(self.access(), secret.state, Side::Versions, caller).sees(&secret) {
            return Ok(());
        }
        self.standing(secret, event, caller).map(drop)
    }

    pub(super) fn check_version<C: Caller>(
        &self,
        secret: View<'_>,
        version: &crate::vault::Version,
        event: Event,
        caller: &mut C,
    ) -> Result<(), VfsError> {
        self.access()
            .may_read_version(secret, version, caller)
            .map_err(|refusal| {
                let e = self.access().refuse(secret, refusal, event, caller);
                self.refused(e)
            })
    }

    /// Attributes of a node, for this caller, now.
    ///
    /// # Errors
    /// As an open, for a secret also where it is not hidden.
    pub fn getattr<C: Caller>(&self, node: Node, look: Look, caller: &mut C) -> Result<Attr, VfsError> {
        Ok(self.answer(self.attr(node, caller)?, look))
    }

    pub(super) fn attr<C: Caller>(&self, node: Node, caller: &mut C) -> Result<Attr, VfsError> {
        if node == Node::Root && !self.notifier_was_seen() && self.is_notifier(caller) {
            self.notifier_seen
                .store(true, crate::sync::atomic::Ordering::SeqCst);
        }
        // GETATTR of a directory never waits on anything.
        match node {
            Node::Root | Node::Versions | Node::Directory(_) | Node::VersionsDirectory(_) => {
                let attr = self.directory_attr(node);
                return Ok(match node {
                    Node::Root => self.probed(attr, caller),
                    _ => attr,
                });
            }
            _ => {}
        }
        let state = self.access().vault().peek();
        match node {
            Node::Secret(id, slot) => {
                let secret = found(&state, id)?;
                let standing = self.standing(secret, Event::DescribeSecret, caller)?;
                Ok(self.secret_attr(&secret, slot, standing, caller))
            }
            Node::VersionsOf(id) => {
                let secret = found(&state, id)?;
                self.has_versions_for(secret, Event::DescribeSecret, caller)?;
                Ok(self.versions_attr(&secret))
            }
            Node::Version(no) => {
                let (secret, version) = version(&state, no).ok_or(VfsError::NoEntry)?;
                self.check_version(secret, version, Event::DescribeSecret, caller)?;
                Ok(self.version_attr(&secret, version, caller))
            }
            Node::LabelLink(_) => Ok(self.link_attr(node, self.readlink(node, caller)?.len())),
            Node::Root | Node::Versions | Node::Directory(_) | Node::VersionsDirectory(_) => {
                Err(VfsError::NoEntry)
            }
        }
    }

    /// The version id that a label's link points to.
    ///
    /// # Errors
    /// If the label is gone, or the caller may not read its version.
    pub fn readlink<C: Caller>(&self, node: Node, caller: &mut C) -> Result<String, VfsError> {
        let Node::LabelLink(id) = node else {
            return Err(VfsError::Invalid);
        };
        let state = self.access().vault().peek();
        let secret = found(&state, Node::link_secret(id))?;
        let label = secret
            .secret()
            .meta
            .labels
            .keys()
            .find(|l| Node::label_link(secret.meta.id, l) == node)
            .ok_or(VfsError::NoEntry)?;
        let version = self.choose(secret, label, Event::DescribeSecret, caller)?;
        self.check_version(secret, version, Event::DescribeSecret, caller)?;
        Ok(version.meta.id.to_string())
    }

    /// The version with a label that is there. Of a broken one only who may see the secret is told.
    fn choose<'s, C: Caller>(
        &self,
        secret: View<'s>,
        label: &Label,
        event: Event,
        caller: &mut C,
    ) -> Result<&'s Arc<crate::vault::Version>, VfsError> {
        if secret.labelled(label.as_str()).is_none() {
            self.standing(secret, event, caller)?;
        }
        let choice = crate::access::Choice::Label(label.as_str());
        let chosen = self.access().choose(secret, choice, caller);
        chosen.map_err(|e| self.refused(e))
    }

    /// Answers `access(2)`.
    ///
    /// # Errors
    /// EROFS for writing; for reading, as an open would.
    pub fn check_access<C: Caller>(
        &self,
        node: Node,
        read: bool,
        write: bool,
        caller: &mut C,
    ) -> Result<(), VfsError> {
        if write {
            return Err(VfsError::ReadOnly);
        }
        let Node::Secret(id, _) = node else {
            self.attr(node, caller)?;
            return match read && directory_id(node).is_some() {
                true => self.check_listing(node, caller),
                false => Ok(()),
            };
        };
        let state = self.access().vault().peek();
        let secret = found(&state, id)?;
        match self.standing(secret, Event::DescribeSecret, caller)? {
            crate::access::Standing::Describer if read => {
                let refusal = crate::policy::Refusal {
                    reason: crate::policy::Reason::ImplicitDeny,
                    basis: crate::policy::Basis::DEFAULT,
                };
                let e = self
                    .access()
                    .refuse(secret, refusal, Event::DescribeSecret, caller);
                Err(self.refused(e))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn directory(state: &State, node: Node) -> Result<(String, Side), VfsError> {
    let path = |id| {
        state
            .secrets
            .dir_by_id(id)
            .map(|p| p.to_string())
            .ok_or(VfsError::NoEntry)
    };
    Ok(match node {
        Node::Root => (String::new(), Side::Values),
        Node::Versions => (String::new(), Side::Versions),
        Node::Directory(id) => (path(id)?, Side::Values),
        Node::VersionsDirectory(id) => (path(id)?, Side::Versions),
        Node::Secret(..) | Node::Version(_) | Node::VersionsOf(_) | Node::LabelLink(_) => {
            return Err(VfsError::NotDirectory);
        }
    })
}

pub(super) fn join<'a>(path: &str, name: &'a str) -> Cow<'a, str> {
    if path.is_empty() {
        name.into()
    } else {
        [path, "/", name].concat().into()
    }
}
