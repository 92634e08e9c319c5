//! Directories. An open one is a cursor and holds no names: each READDIR is decided for whoever reads, in the state that
//! is there then, and goes on behind the last place that was given.

use std::cell::Cell;

use crate::access::{AccessError, Caller, Enough, Side, Sight};
use crate::audit::Event;
use crate::store::snapshot::{DirId, Found, Place};
use crate::vault::Secret;

use super::tree::directory;
use super::{Handle, Kind, Node, Vfs, VfsError, found};

/// One line of a listing.
#[derive(Clone, Copy, Debug)]
pub struct ListingEntry<'a> {
    /// What it is.
    pub node: Node,
    /// Its kind.
    pub kind: Kind,
    /// Its name in the directory.
    pub name: &'a str,
    /// Where a listing goes on behind it: below 2^31, which is what 32-bit programs can take.
    pub cookie: u64,
}

/// Takes the lines of a listing until it has enough; the one that was too much is given again at another time.
pub type Show<'s> = &'s mut dyn FnMut(ListingEntry<'_>) -> Enough;

const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Of a secret's versions, which are numbered, and stand behind its labels.
const VERSIONS: u64 = 1 << 30;

impl Vfs {
    /// Opens a directory.
    ///
    /// # Errors
    /// EACCES, and a record, for who sees nothing in it: without a descriptor nobody can sleep with the lock of a directory
    /// that he has no business in. The mount's own two open for administrators, empty or not.
    pub fn opendir<C: Caller>(&self, node: Node, caller: &mut C) -> Result<u64, VfsError> {
        let place = self.handles.admit(super::owner(caller))?;
        self.check_listing(node, caller)?;
        let number = self.handles.reserve();
        self.handles.insert(number, Handle::Directory(node), place);
        Ok(number)
    }

    /// Whether the caller may list a directory.
    pub(super) fn check_listing<C: Caller>(&self, node: Node, caller: &mut C) -> Result<(), VfsError> {
        let state = self.access().vault().peek();
        if let Node::VersionsOf(id) = node {
            let secret = found(&state, id)?;
            return self.has_versions_for(secret, Event::DescribeSecret, caller);
        }
        let (_, side) = directory(&state, node)?;
        let dir = directory_id(node).ok_or(VfsError::NotDirectory)?;
        let is_top = matches!(node, Node::Root | Node::Versions);
        if is_top && self.access().administers(caller)
            || Sight::new(self.access(), &state, side, caller).sees_below(dir)
        {
            return Ok(());
        }
        let refusal = self.access().refuse_listing(caller);
        Err(self.refused(AccessError::Denied(refusal)))
    }

    /// Lists a directory behind the line of which `offset` is the cookie; 0 is its beginning.
    ///
    /// # Errors
    /// EACCES for who sees nothing in it, whoever opened it.
    pub fn readdir<C: Caller>(
        &self,
        handle: u64,
        offset: u64,
        caller: &mut C,
        show: Show<'_>,
    ) -> Result<(), VfsError> {
        let Handle::Directory(node) = self.handles.get(handle)? else {
            return Err(VfsError::NotDirectory);
        };
        // The dots are given once it is known that there is something for him.
        let begun = Cell::new(false);
        let mut with_dots = |entry: Option<ListingEntry<'_>>| {
            if !begun.replace(true) {
                for (cookie, name) in [(DOT, "."), (DOT_DOT, "..")] {
                    let kind = Kind::Directory;
                    let dot = ListingEntry {
                        node,
                        kind,
                        name,
                        cookie,
                    };
                    if offset < cookie && show(dot) == Enough::Yes {
                        return Enough::Yes;
                    }
                }
            }
            entry.map_or(Enough::Yes, &mut *show)
        };
        let show_entry: Show<'_> = &mut |entry| with_dots(Some(entry));
        match node {
            Node::VersionsOf(id) => self.list_versions(id, offset, caller, show_entry)?,
            _ => self.list(node, offset, caller, show_entry)?,
        }
        if !begun.get() {
            self.check_listing(node, caller)?;
            let _ = with_dots(None);
        }
        Ok(())
    }

    fn list<C: Caller>(
        &self,
        node: Node,
        offset: u64,
        caller: &mut C,
        show: Show<'_>,
    ) -> Result<(), VfsError> {
        let state = self.access().vault().peek();
        let (_, side) = directory(&state, node)?;
        let dir = directory_id(node).ok_or(VfsError::NotDirectory)?;
        let after = Place(u32::try_from(offset).unwrap_or(u32::MAX)).max(Place::START);
        let mut sight = Sight::new(self.access(), &state, side, caller);
        sight.list(dir, after, &mut |child| {
            let (node, kind) = match (child.what, side) {
                (Found::Secret(secret), Side::Values) => (Node::secret(secret.meta.id), Kind::File),
                (Found::Secret(secret), Side::Versions) => {
                    (Node::VersionsOf(secret.meta.id), Kind::Directory)
                }
                (Found::Directory(id), Side::Values) => (Node::Directory(id), Kind::Directory),
                (Found::Directory(id), Side::Versions) => (Node::VersionsDirectory(id), Kind::Directory),
            };
            show(ListingEntry {
                node,
                kind,
                name: child.segment,
                cookie: child.place.0.into(),
            })
        });
        Ok(())
    }

    /// Labels, then versions in the order of their numbers.
    fn list_versions<C: Caller>(
        &self,
        id: crate::id::SecretId,
        offset: u64,
        caller: &mut C,
        show: Show<'_>,
    ) -> Result<(), VfsError> {
        let state = self.access().vault().peek();
        let secret = found(&state, id)?;
        let mut readable = |version: &crate::vault::Version| {
            let decided = self.access().may_read_version(secret, version, caller);
            decided.is_ok()
        };
        for (cookie, label, no) in labels(secret.secret()).into_iter().filter(|(c, ..)| *c > offset) {
            let entry = ListingEntry {
                node: Node::label_link(secret.meta.id, label),
                kind: Kind::Link,
                name: label.as_str(),
                cookie,
            };
            if secret.versions.get(no).is_some_and(|v| readable(v)) && show(entry) == Enough::Yes {
                return Ok(());
            }
        }
        for (no, version) in secret.versions.iter() {
            let cookie = VERSIONS | no.0 & (VERSIONS - 1);
            let entry = ListingEntry {
                node: Node::Version(*no),
                kind: Kind::File,
                name: version.meta.id.as_str(),
                cookie,
            };
            if cookie > offset && readable(version) && show(entry) == Enough::Yes {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The labels of a secret's versions, each with a cookie that it has whatever others come and go (but one whose name
/// has the same hash), in the order of the cookies.
fn labels(secret: &Secret) -> Vec<(u64, &crate::id::Label, &crate::id::VersionNo)> {
    let mut found: Vec<(u64, _, _)> = Vec::new();
    for (label, no) in &secret.meta.labels {
        let mut cookie = u64::from(Place::of(label.as_str()).0) % (VERSIONS - 0x2000) + 0x1000;
        while found.iter().any(|(taken, ..)| *taken == cookie) {
            cookie += 1;
        }
        found.push((cookie, label, no));
    }
    found.sort_unstable_by_key(|(cookie, ..)| *cookie);
    found
}

/// The number of a directory of secrets, on either side.
pub(super) fn directory_id(node: Node) -> Option<DirId> {
    match node {
        Node::Root | Node::Versions => Some(DirId::of("")),
        Node::Directory(id) | Node::VersionsDirectory(id) => Some(id),
        Node::Secret(..) | Node::Version(_) | Node::VersionsOf(_) | Node::LabelLink(_) => None,
    }
}
