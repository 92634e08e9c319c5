//! The inode numbers that programs are shown. The node's own number has its kind in the top byte, which neither a
//! 32-bit program (EOVERFLOW) nor JavaScript (a double) can take; so what a stat and a listing show has 32 bits, the
//! kind in the top three. A secret's is made of its id alone, and stays what it is.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Node, lock};
use crate::store::snapshot::DirId;
use crate::sync::Mutex;

const SHIFT: u32 = 29;
const ID: u64 = (1 << SHIFT) - 1;

/// The numbers of directories, whose ids are hashes of 56 bits: as many of their bits as there is room for, the next
/// free number if another directory has that.
#[derive(Default)]
pub struct Numbers {
    directories: Mutex<Directories>,
}

#[derive(Default)]
struct Directories {
    by_id: FxHashMap<DirId, u64>,
    taken: FxHashSet<u64>,
}

impl Numbers {
    /// The number to show for a node. What has no room in 32 bits keeps its own number, so that no two are equal.
    pub fn of(&self, node: Node) -> u64 {
        let pack = |kind: u64, id: u64| if id <= ID { kind << SHIFT | id } else { node.ino() };
        match node {
            Node::Root | Node::Versions => node.ino(),
            // One secret is one file to whoever compares, whichever of its nodes it is.
            Node::Secret(id, _) => pack(1, id.0),
            Node::Version(no) => pack(2, no.0),
            Node::VersionsOf(id) => pack(3, id.0),
            Node::Directory(id) => pack(4, self.directory(id)),
            Node::VersionsDirectory(id) => pack(5, self.directory(id)),
            // Nobody asks whether two links are the same file.
            Node::LabelLink(id) => pack(6, id & ID),
        }
    }

    fn directory(&self, id: DirId) -> u64 {
        let mut known = lock(&self.directories);
        if let Some(number) = known.by_id.get(&id) {
            return *number;
        }
        if known.taken.len() as u64 > ID / 2 {
            return u64::MAX;
        }
        let mut number = id.0 & ID;
        while !known.taken.insert(number) {
            number = (number + 1) & ID;
        }
        known.by_id.insert(id, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{SecretId, VersionNo};

    #[test]
    fn numbers_are_small_stable_and_never_shared() {
        let numbers = Numbers::default();
        assert_eq!(numbers.of(Node::Root), 1);
        assert_eq!(numbers.of(Node::secret(SecretId(7))), 0x2000_0007);
        let twins = [DirId(5), DirId(5 | 1 << 40), DirId(5 | 1 << 41), DirId(6)];
        let nodes = [
            Node::Versions,
            Node::secret(SecretId(5)),
            Node::Version(VersionNo(5)),
            Node::VersionsOf(SecretId(5)),
        ];
        let nodes = nodes
            .into_iter()
            .chain(twins.map(Node::Directory))
            .chain(twins.map(Node::VersionsDirectory));
        let nodes: Vec<Node> = nodes.collect();
        let shown: Vec<u64> = nodes.iter().map(|n| numbers.of(*n)).collect();
        assert!(shown.iter().all(|n| *n < 1 << 32), "{shown:x?}");
        assert_eq!(shown.iter().collect::<FxHashSet<_>>().len(), nodes.len());
        assert_eq!(shown, nodes.iter().map(|n| numbers.of(*n)).collect::<Vec<_>>());
        let far = Node::secret(SecretId(1 << 30));
        assert_eq!(numbers.of(far), far.ino(), "more than there is room for");
    }
}
