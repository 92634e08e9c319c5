//! What a stat shows.

use crate::access::{Caller, Standing};
use crate::clock::Timestamp;
use crate::vault::{Secret, Version};

use super::listing::directory_id;
use super::{Node, Slot, Vfs};
use crate::id::Uid;
use crate::sync::atomic::Ordering;

/// No probe is on.
pub(super) const NOT_PROBING: u64 = u64::MAX;
/// In the microseconds of a [`Timestamp`].
const SECOND: i64 = 1_000_000;

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

/// How a file's owner and size are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// A caller is shown its own ownership, which the kernel does not keep; what it keeps has this owner, who is nobody,
    /// and the largest size that anybody needs. So nobody who reads can take a lease, whoever looked last.
    Shown(Uid),
    /// The kernel keeps what it was answered last: where it cannot be kept from it, or there is no such uid.
    Sticky,
}

impl Attributes {
    /// As `status` shows it.
    pub fn code(self) -> &'static str {
        match self {
            Attributes::Shown(_) => "shown",
            Attributes::Sticky => "sticky",
        }
    }
}

/// What becomes of an answer with attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A program sees it: GETATTR without a handle.
    Shown,
    /// The kernel keeps it, and nobody sees it: a look-up, SEEK_END, a change.
    Kept,
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
    /// How attributes are answered from now on; once.
    pub fn show(&self, attributes: Attributes) {
        self.handles
            .sizes()
            .raised_before_they_grow(matches!(attributes, Attributes::Shown(_)));
        let _ = self.attributes.set(attributes);
    }

    /// How attributes are answered.
    pub fn attributes(&self) -> Attributes {
        *self.attributes.get().unwrap_or(&Attributes::Sticky)
    }

    /// What may be answered of a file's attributes: what is to be seen and not kept is made void as a thing to keep,
    /// before it is answered.
    pub(super) fn answer(&self, attr: Attr, look: Look) -> Attr {
        match (self.attributes(), attr.kind, look) {
            (Attributes::Shown(_), Kind::File, Look::Shown) if self.void(attr.node) => attr,
            (Attributes::Shown(nobody), Kind::File, _) => self.kept(attr, nobody),
            _ => attr,
        }
    }

    fn kept(&self, attr: Attr, nobody: Uid) -> Attr {
        Attr {
            size: match attr.node {
                Node::Secret(id, _) => self.handles.sizes().kept(id, attr.size),
                _ => attr.size,
            },
            uid: nobody.0,
            gid: nobody.0,
            // Who may not ask for the times is shown these (AT_STATX_DONT_SYNC).
            mtime: self.started,
            ctime: self.started,
            ..attr
        }
    }

    /// What the kernel asked for by now about this node, it will show and not keep.
    fn void(&self, node: Node) -> bool {
        self.waker
            .get()
            .is_some_and(|waker| waker.forget_attributes(node.ino()).is_ok())
    }

    /// From now on the notifier's looks at the root find a later time each, and only the first is kept, if the kernel
    /// does as [`Attributes::Shown`] needs it; until `None`.
    pub fn probe(&self, probing: Option<()>) {
        let begin = probing.map_or(NOT_PROBING, |()| 0);
        self.probing.store(begin, Ordering::SeqCst);
    }

    pub(super) fn probed<C: Caller>(&self, attr: Attr, caller: &mut C) -> Attr {
        if self.probing.load(Ordering::SeqCst) == NOT_PROBING || !self.is_notifier(caller) {
            return attr;
        }
        let looks = self.probing.fetch_add(1, Ordering::SeqCst);
        if looks == 0 || !self.void(Node::Root) {
            return attr;
        }
        Attr {
            mtime: Timestamp(attr.mtime.0 + SECOND * looks as i64),
            ..attr
        }
    }

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

    /// The file that a look-up of a secret finds now.
    pub(super) fn slot(&self, secret: &Secret) -> Slot {
        self.handles.sizes().slot(secret.meta.id)
    }

    /// One of a secret's files: one size for everybody, the owner as this caller sees it.
    pub(super) fn secret_attr<C: Caller>(
        &self,
        secret: &Secret,
        slot: Slot,
        standing: Standing,
        caller: &mut C,
    ) -> Attr {
        let current = secret.current().map_or(0, |v| v.meta.size);
        let size = self.handles.sizes().shown(secret.meta.id, slot, current);
        self.file_attr(
            Node::Secret(secret.meta.id, slot),
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
        let slot = self.slot(secret);
        Attr {
            size: self.handles.sizes().shown(secret.meta.id, slot, current),
            kind: Kind::File,
            perm: look.mode.unwrap_or(0o400),
            ..self.directory_attr(Node::Secret(secret.meta.id, slot))
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
