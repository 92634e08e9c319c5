//! Inode numbers: (kind, id) in 64 bits, the same in every process that serves this store.

use crate::id::{Label, SecretId, VersionNo};
use crate::store::snapshot::DirId;

/// What an inode number stands for. Kinds 8 and up are free for JSON keys, rendered templates and per-caller
/// values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// The mount's root.
    Root,
    /// A secret's file. There is more than one while a version is held that is longer than the current one.
    Secret(SecretId, Slot),
    /// A directory of secrets.
    Directory(DirId),
    /// `.versions`.
    Versions,
    /// A directory under `.versions` that only holds others.
    VersionsDirectory(DirId),
    /// The directory of one secret's versions.
    VersionsOf(SecretId),
    /// One version's file.
    Version(VersionNo),
    /// A link in [`Node::VersionsOf`], named by a label: 32 bits of the secret's number, 24 of the label's hash.
    LabelLink(u64),
}

/// Which of a secret's files: the first, unless a longer version is held on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u8);

/// Files that a secret can have: one for the current value, and four on which longer ones are held.
pub const SLOTS: u8 = 5;

const SHIFT: u32 = 56;
/// The slot's bits, in the number of a secret's file.
const SLOT_SHIFT: u32 = 48;
const ID: u64 = (1 << SHIFT) - 1;
const SECRET_ID: u64 = (1 << SLOT_SHIFT) - 1;

impl Node {
    /// The first of a secret's files.
    pub fn secret(id: SecretId) -> Node {
        Node::Secret(id, Slot::default())
    }

    /// The inode number.
    pub fn ino(self) -> u64 {
        let pack = |kind: u64, id: u64| kind << SHIFT | id & ID;
        match self {
            Node::Root => 1,
            Node::Versions => 2,
            Node::Secret(id, slot) => pack(1, u64::from(slot.0) << SLOT_SHIFT | id.0 & SECRET_ID),
            Node::Directory(id) => pack(2, id.0),
            Node::VersionsDirectory(id) => pack(3, id.0),
            Node::VersionsOf(id) => pack(4, id.0),
            Node::Version(no) => pack(5, no.0),
            Node::LabelLink(id) => pack(6, id),
        }
    }

    /// What an inode number stands for; nothing for one that was never given.
    pub fn from_ino(ino: u64) -> Option<Node> {
        let id = ino & ID;
        Some(match (ino >> SHIFT, id) {
            (0, 1) => Node::Root,
            (0, 2) => Node::Versions,
            (1, _) => {
                let slot = (id >> SLOT_SHIFT) as u8;
                (slot < SLOTS).then_some(Node::Secret(SecretId(id & SECRET_ID), Slot(slot)))?
            }
            (2, _) => Node::Directory(DirId(id)),
            (3, _) => Node::VersionsDirectory(DirId(id)),
            (4, _) => Node::VersionsOf(SecretId(id)),
            (5, _) => Node::Version(VersionNo(id)),
            (6, _) => Node::LabelLink(id),
            _ => return None,
        })
    }

    /// The link named by `label` of `secret`.
    pub fn label_link(secret: SecretId, label: &Label) -> Node {
        Node::LabelLink((secret.0 & 0xffff_ffff) << 24 | u64::from(label.number()))
    }

    /// Whose link it is.
    pub fn link_secret(id: u64) -> SecretId {
        SecretId(id >> 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_invertible() {
        let link = Node::label_link(SecretId(7), &Label::current());
        for (node, ino) in [
            (Node::Root, 1),
            (Node::Versions, 2),
            (Node::secret(SecretId(7)), 0x0100_0000_0000_0007),
            (Node::Secret(SecretId(7), Slot(4)), 0x0104_0000_0000_0007),
            (Node::Version(VersionNo(9)), 0x0500_0000_0000_0009),
            (Node::VersionsOf(SecretId(7)), 0x0400_0000_0000_0007),
            (link, link.ino()),
        ] {
            assert_eq!(node.ino(), ino);
            assert_eq!(Node::from_ino(ino), Some(node));
        }
        assert_eq!(Node::from_ino(0), None);
        assert_eq!(Node::from_ino(0x0105_0000_0000_0007), None, "no such slot");
        assert_eq!(Node::from_ino(u64::MAX), None);
        let Node::LabelLink(id) = link else { unreachable!() };
        assert_eq!(Node::link_secret(id), SecretId(7));
    }
}
