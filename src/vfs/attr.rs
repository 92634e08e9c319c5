//! What a stat shows.

use crate::access::{Caller, Standing};
use crate::clock::Timestamp;
use crate::vault::{Secret, Version};

use super::listing::directory_id;
use super::{Node, Vfs};

/// The kinds of files there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A secret or a version.
    File,
    /// A directory.
    Directory,
    /// A label in `.versions`.
    Link,
}

/// The attributes of a node, as one caller sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Which.
    pub node: Node,
    /// Bytes.
    pub size: u64,
    /// When the value changed.
    pub mtime: Timestamp,
    /// When anything changed.
    pub ctime: Timestamp,
    /// The kind.
    pub kind: Kind,
    /// Permission bits.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Vfs {
    /// A directory changes when a name comes to it or goes: programs that remember listings look at its times.
    pub(super) fn directory_attr(&self, node: Node) -> Attr {
        let state = self.access().vault().peek();
        let changed = directory_id(node).and_then(|dir| state.reach.directory_changed(dir));
        self.directory_since(node, changed.unwrap_or(self.started))
    }

    /// The directory of a secret's versions changes with the secret.
    pub(super) fn versions_attr(&self, secret: &Secret) -> Attr {
        self.directory_since(Node::VersionsOf(secret.meta.id), secret.meta.meta_changed)
    }

    fn directory_since(&self, node: Node, at: Timestamp) -> Attr {
        Attr {
            node,
            size: 0,
            mtime: at,
            ctime: at,
            kind: Kind::Directory,
            perm: 0o555,
            uid: 0,
            gid: 0,
        }
    }

    pub(super) fn link_attr(&self, node: Node, size: usize) -> Attr {
        let at = self.started;
        Attr {
            node,
            size: size as u64,
            mtime: at,
            ctime: at,
            kind: Kind::Link,
            perm: 0o777,
            uid: 0,
            gid: 0,
        }
    }

    /// The secret's file: one size for everybody, the owner as this caller sees it.
    pub(super) fn secret_attr<C: Caller>(&self, secret: &Secret, standing: Standing, caller: &mut C) -> Attr {
        let current = secret.current().map_or(0, |v| v.meta.size);
        let size = self.handles.sizes().shown(secret.meta.id, current);
        self.file_attr(
            Node::Secret(secret.meta.id),
            secret,
            size,
            secret.meta.value_changed,
            standing,
            caller,
        )
    }

    /// The secret's file as a look-up shows it to who may neither read nor describe it: that it is there, and its
    /// length.
    pub(super) fn bare_attr(&self, secret: &Secret) -> Attr {
        let current = secret.current().map_or(0, |v| v.meta.size);
        let look = &secret.meta.appearance;
        Attr {
            size: self.handles.sizes().shown(secret.meta.id, current),
            kind: Kind::File,
            perm: look.mode.unwrap_or(0o400),
            ..self.directory_attr(Node::Secret(secret.meta.id))
        }
    }

    pub(super) fn version_attr<C: Caller>(&self, secret: &Secret, version: &Version, caller: &mut C) -> Attr {
        let meta = &version.meta;
        self.file_attr(
            Node::Version(meta.no),
            secret,
            u64::from(meta.size),
            meta.created,
            Standing::Reader,
            caller,
        )
    }

    fn file_attr<C: Caller>(
        &self,
        node: Node,
        secret: &Secret,
        size: u64,
        mtime: Timestamp,
        standing: Standing,
        caller: &mut C,
    ) -> Attr {
        let own = match standing {
            Standing::Reader => (caller.uid().0, caller.gid().0),
            Standing::Describer => (0, 0),
        };
        let look = &secret.meta.appearance;
        Attr {
            node,
            size,
            mtime,
            ctime: secret.meta.meta_changed.max(mtime),
            kind: Kind::File,
            perm: look.mode.unwrap_or(0o400),
            uid: look.owner.unwrap_or(own.0),
            gid: look.group.unwrap_or(own.1),
        }
    }
}
