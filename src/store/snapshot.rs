//! The index that the serving path reads: immutable, cloned in one step, changed by sharing all that did not change,
//! so that a put costs the same with 10 secrets as with 100,000.

use crate::id::{SecretId, SecretName};
use equivalent::Comparable;
use sha2::{Digest, Sha256};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;

/// What a snapshot can index.
pub trait Indexed {
    /// The number under which it is found.
    fn id(&self) -> SecretId;
    /// The name under which it is found.
    fn name(&self) -> &SecretName;
}

/// A directory's number: the first 56 bits of the SHA-256 of its path, the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirId(pub u64);

impl DirId {
    /// The number of the directory at `path`; `""` is the root.
    pub fn of(path: &str) -> Self {
        let digest = Sha256::digest(path.as_bytes());
        DirId(
            digest
                .iter()
                .take(7)
                .fold(0, |id, byte| id << 8 | u64::from(*byte)),
        )
    }
}

/// A directory that holds at least one secret, at whatever depth; or the root, which may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Its number.
    pub id: DirId,
    /// Its path without slashes at the ends; `""` is the root.
    pub path: Arc<str>,
    /// Secrets and directories directly in it.
    pub entries: usize,
}

/// One entry of a directory.
pub enum Child<'a, E> {
    /// A secret, by the last segment of its name.
    Secret(&'a str, &'a Arc<E>),
    /// A directory, by the last segment of its path.
    Directory(&'a str, DirId),
}

impl<'a, E> Child<'a, E> {
    /// Its name in the directory; what [`Snapshot::children`] takes to go on after it.
    pub fn segment(&self) -> &'a str {
        match self {
            Child::Secret(segment, _) | Child::Directory(segment, _) => segment,
        }
    }
}

/// Why a name cannot be given to a new secret: a name is a file or a directory, never both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameConflict {
    /// A directory on the way is a secret.
    #[error("{0} is a secret, so nothing can be put beneath it")]
    UnderSecret(SecretName),
    /// The name is a directory.
    #[error("{0} is a directory: there are secrets beneath it")]
    IsDirectory(SecretName),
    /// A directory that the name needs has the number of another one: one chance in 2^56 for each pair. Any
    /// other name for the directory will do.
    #[error(
        "the directory {wanted} cannot be told from {taken} (their numbers are equal); choose another name"
    )]
    Collision {
        /// The directory that would have to be made.
        wanted: String,
        /// The directory that is there.
        taken: String,
    },
}

/// The index. `E` is shared between all snapshots that hold it.
pub struct Snapshot<E> {
    /// Names alone: the tree keeps copies of what was in it as its signposts, and an entry that is gone must go.
    ordered: imbl::OrdSet<Ordered>,
    by_name: imbl::GenericHashMap<Named<E>, (), RandomState, imbl::shared_ptr::DefaultSharedPtr>,
    by_id: imbl::OrdMap<SecretId, Arc<E>>,
    /// How many entries each directory has. The root is not in it while it is empty.
    entries: imbl::GenericHashMap<Arc<str>, usize, RandomState, imbl::shared_ptr::DefaultSharedPtr>,
    paths: imbl::GenericHashMap<u64, Arc<str>, BuildHasherDefault<Mix>, imbl::shared_ptr::DefaultSharedPtr>,
}

impl<E> Clone for Snapshot<E> {
    fn clone(&self) -> Self {
        Snapshot {
            ordered: self.ordered.clone(),
            by_name: self.by_name.clone(),
            by_id: self.by_id.clone(),
            entries: self.entries.clone(),
            paths: self.paths.clone(),
        }
    }
}

impl<E> fmt::Debug for Snapshot<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({} secrets)", self.ordered.len())
    }
}

impl<E: Indexed> Default for Snapshot<E> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<E: Indexed> Snapshot<E> {
    /// Nothing but the root directory.
    pub fn empty() -> Self {
        Snapshot {
            ordered: imbl::OrdSet::new(),
            by_name: imbl::GenericHashMap::default(),
            by_id: imbl::OrdMap::new(),
            entries: imbl::GenericHashMap::default(),
            paths: imbl::GenericHashMap::default(),
        }
    }

    /// Number of secrets.
    pub fn len(&self) -> usize {
        self.ordered.len()
    }

    /// Whether there is no secret.
    pub fn is_empty(&self) -> bool {
        self.ordered.is_empty()
    }

    /// The secret of that name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<E>> {
        self.by_name.get_key_value(name).map(|(named, ())| &named.0)
    }

    /// The secret of that number.
    pub fn by_id(&self, id: SecretId) -> Option<&Arc<E>> {
        self.by_id.get(&id)
    }

    /// A snapshot with `entry` in it, in place of whatever has its number or its name. Whether the name may be
    /// given is for [`conflict`](Self::conflict) to say beforehand.
    #[must_use]
    pub fn with(&self, entry: Arc<E>) -> Self {
        let mut next = self.clone();
        next.insert(entry);
        next
    }

    /// As [`with`](Self::with), in place: nothing is copied while no other snapshot shares the maps, which makes
    /// the first one of a start.
    pub fn insert(&mut self, entry: Arc<E>) {
        let same_name = match self.by_id.get(&entry.id()).cloned() {
            Some(old) if old.name() == entry.name() => true,
            Some(old) => {
                self.remove(&old);
                false
            }
            None => false,
        };
        if !same_name && let Some(old) = self.by_name(entry.name().as_str()).cloned() {
            self.remove(&old);
        }
        if !same_name {
            self.count_in(entry.name().as_str());
            self.ordered.insert(Ordered(entry.name().clone()));
        }
        self.by_id.insert(entry.id(), entry.clone());
        self.by_name.insert(Named(entry), ());
    }

    /// A snapshot without the secret of that number; the same one if there is none.
    #[must_use]
    pub fn without(&self, id: SecretId) -> Self {
        let mut next = self.clone();
        if let Some(old) = self.by_id.get(&id) {
            next.remove(old);
        }
        next
    }

    fn remove(&mut self, old: &Arc<E>) {
        self.by_id.remove(&old.id());
        self.by_name.remove(old.name().as_str());
        self.ordered.remove(&ByPath(old.name().as_str()));
        self.count_out(old.name().as_str());
    }

    /// Counts an entry in its directory, and a directory that this makes in the one above.
    fn count_in(&mut self, entry: &str) {
        let mut path = entry;
        while let Some((dir, _)) = parent(path) {
            if let Some(count) = self.entries.get_mut(dir) {
                *count += 1;
                return;
            }
            let shared: Arc<str> = dir.into();
            self.entries.insert(shared.clone(), 1);
            self.paths.entry(DirId::of(dir).0).or_insert(shared);
            path = dir;
        }
    }

    /// Takes an entry out of its directory, and a directory that this empties out of the one above.
    fn count_out(&mut self, entry: &str) {
        let mut path = entry;
        while let Some((dir, _)) = parent(path) {
            match self.entries.get_mut(dir) {
                Some(count) if *count > 1 => {
                    *count -= 1;
                    return;
                }
                Some(_) => {
                    self.entries.remove(dir);
                    let id = DirId::of(dir).0;
                    if self.paths.get(&id).is_some_and(|taken| **taken == *dir) {
                        self.paths.remove(&id);
                    }
                }
                None => return,
            }
            path = dir;
        }
    }

    /// Every secret in the order of the names, compared segment by segment: `a`, `a/x`, `a-b`.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<E>> {
        self.ordered
            .iter()
            .filter_map(|name| self.by_name(name.0.as_str()))
    }

    /// The directory at `path`; `""` is the root, which is always there.
    pub fn directory(&self, path: &str) -> Option<Directory> {
        let id = DirId::of(path);
        match self.entries.get_key_value(path) {
            Some((path, entries)) => Some(Directory {
                id,
                path: path.clone(),
                entries: *entries,
            }),
            None if path.is_empty() => Some(Directory {
                id,
                path: "".into(),
                entries: 0,
            }),
            None => None,
        }
    }

    /// Whether `path` is a directory; `""` is the root.
    pub fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || self.entries.contains_key(path)
    }

    /// The path of the directory with that number.
    pub fn dir_by_id(&self, id: DirId) -> Option<Arc<str>> {
        match self.paths.get(&id.0) {
            Some(path) => Some(path.clone()),
            None if id == DirId::of("") => Some("".into()),
            None => None,
        }
    }

    /// The entries of the directory at `path`, in the byte order of their segments; those behind `after`, if it is
    /// given, whether it is there still or not. Each step costs O(log n), whatever a subdirectory holds.
    pub fn children<'a>(
        &'a self,
        path: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = Child<'a, E>> + 'a {
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let from = match after {
            Some(segment) => behind(&format!("{prefix}{segment}")),
            None => prefix.clone(),
        };
        let rest = self.from(&from);
        Children {
            snapshot: self,
            prefix,
            rest,
        }
    }

    /// Every secret beneath the directory at `path`, at whatever depth, in the order of [`iter`](Self::iter).
    pub fn secrets_under<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a Arc<E>> + 'a {
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        self.from(&prefix)
            .take_while(move |name| name.0.as_str().starts_with(&prefix))
            .filter_map(|name| self.by_name(name.0.as_str()))
    }

    /// Why `name` cannot be given to a secret, if it cannot. A name that a secret has already is no conflict.
    pub fn conflict(&self, name: &SecretName) -> Option<NameConflict> {
        if self.entries.contains_key(name.as_str()) {
            return Some(NameConflict::IsDirectory(name.clone()));
        }
        let mut path = name.as_str();
        while let Some((dir, _)) = parent(path) {
            if let Some(secret) = self.by_name(dir) {
                return Some(NameConflict::UnderSecret(secret.name().clone()));
            }
            if self.is_directory(dir) {
                break;
            }
            let id = DirId::of(dir);
            if let Some(taken) = self.dir_by_id(id) {
                return Some(NameConflict::Collision {
                    wanted: dir.into(),
                    taken: taken.to_string(),
                });
            }
            path = dir;
        }
        None
    }

    fn from<'a>(&'a self, at: &str) -> Rest<'a> {
        self.ordered.range::<_, ByPath<'_>>(ByPath(at)..)
    }
}

type Rest<'a> = imbl::ordset::RangedIter<'a, Ordered, imbl::shared_ptr::DefaultSharedPtr>;

struct Children<'a, E> {
    snapshot: &'a Snapshot<E>,
    prefix: String,
    rest: Rest<'a>,
}

impl<'a, E: Indexed> Iterator for Children<'a, E> {
    type Item = Child<'a, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let Ordered(name) = self.rest.next()?;
        let name = name.as_str();
        let Some(tail) = name.strip_prefix(&self.prefix) else {
            // What follows is in another directory; so is everything behind it.
            self.rest = self.snapshot.from(END);
            return None;
        };
        match tail.split_once('/') {
            None => Some(Child::Secret(tail, self.snapshot.by_name(name)?)),
            Some((segment, _)) => {
                let path = &name[..self.prefix.len() + segment.len()];
                self.rest = self.snapshot.from(&behind(path));
                Some(Child::Directory(segment, DirId::of(path)))
            }
        }
    }
}

/// The directory that holds `path`, and the last segment; `None` for the root.
fn parent(path: &str) -> Option<(&str, &str)> {
    match path.rsplit_once('/') {
        Some(parts) => Some(parts),
        None if path.is_empty() => None,
        None => Some(("", path)),
    }
}

/// A place behind every name of all names.
const END: &str = "\u{7f}";

/// The place behind `path` and all that is beneath it: no name has a byte between `/` and this one.
fn behind(path: &str) -> String {
    format!("{path}\u{1}")
}

/// An entry found by its name, which is kept in the entry alone.
struct Named<E>(Arc<E>);

impl<E> Clone for Named<E> {
    fn clone(&self) -> Self {
        Named(self.0.clone())
    }
}

impl<E: Indexed> Borrow<str> for Named<E> {
    fn borrow(&self) -> &str {
        self.0.name().as_str()
    }
}

impl<E: Indexed> Hash for Named<E> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<str>::borrow(self).hash(state);
    }
}

impl<E: Indexed> PartialEq for Named<E> {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl<E: Indexed> Eq for Named<E> {}

/// A name in the order of a tree: `/` comes before every other byte, so that what is beneath a directory
/// follows its own name at once and segments are in the order of their bytes.
#[derive(Clone, PartialEq, Eq)]
struct Ordered(SecretName);

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> Ordering {
        by_segments(self.0.as_str(), other.0.as_str())
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A text compared with names.
struct ByPath<'a>(&'a str);

impl equivalent::Equivalent<Ordered> for ByPath<'_> {
    fn equivalent(&self, key: &Ordered) -> bool {
        self.0 == key.0.as_str()
    }
}

impl Comparable<Ordered> for ByPath<'_> {
    fn compare(&self, key: &Ordered) -> Ordering {
        by_segments(self.0, key.0.as_str())
    }
}

fn by_segments(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((x, y)) => rank(*x).cmp(&rank(*y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Spreads numbers that the store itself gave out; nobody can choose them to collide.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, n: u64) {
        // The finalizer of splitmix64, whose every output bit depends on every input bit.
        let mut x = self.0.wrapping_add(n).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = x ^ (x >> 31);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
