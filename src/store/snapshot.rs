//! The index that the serving path reads: immutable, cloned in one step, changed by sharing all that did not change,
//! so that a put costs the same with 10 secrets as with 100,000.

use crate::id::{SecretId, SecretName};
use sha2::{Digest, Sha256};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher, RandomState};
use std::hint::black_box;
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

/// Where a name stands in its directory: a number below 2^31 that the name keeps as long as it is there, whatever
/// other names come and go. A walk can go on behind any place, also one whose name has gone meanwhile.
///
/// It is a hash of the name, or the next free number where another name has that one; so all but names that collide
/// have the same place in every process. (32-bit programs that know no large files cannot take longer numbers.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u32);

impl Place {
    /// Before every name; what is left of it is the caller's to give away.
    pub const START: Place = Place(0x1000);
    /// No name hashes to the last of them, so that the next free number is one.
    const SPREAD: u32 = (1 << 31) - (1 << 24);

    /// That of a name which collides with no other.
    pub fn of(segment: &str) -> Place {
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(segment.as_bytes()));
        let hash = u32::from_be_bytes([a, b, c, d]) >> 1;
        Place(Place::START.0 + 1 + hash % (Place::SPREAD - Place::START.0))
    }
}

/// What stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A secret.
    Secret(SecretId),
    /// A directory.
    Directory(DirId),
}

/// One entry of a directory.
pub struct Child<'a, E> {
    /// Where it stands; what [`Snapshot::children`] takes to go on behind it.
    pub place: Place,
    /// The last segment of its path.
    pub segment: &'a str,
    /// What it is.
    pub what: Found<'a, E>,
}

/// What an entry of a directory is.
pub enum Found<'a, E> {
    /// A secret.
    Secret(&'a Arc<E>),
    /// A directory.
    Directory(DirId),
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
    /// By numbers alone: the tree keeps copies of keys that were in it as its signposts, and an entry that is gone must
    /// go.
    places: imbl::OrdMap<At, Entry<E>>,
    by_name: imbl::GenericHashMap<Named<E>, (), RandomState, imbl::shared_ptr::DefaultSharedPtr>,
    by_id: imbl::OrdMap<SecretId, Arc<E>>,
    /// How many entries each directory has. The root is not in it while it is empty.
    entries: imbl::GenericHashMap<Arc<str>, usize, RandomState, imbl::shared_ptr::DefaultSharedPtr>,
    paths: imbl::GenericHashMap<u64, Arc<str>, BuildHasherDefault<Mix>, imbl::shared_ptr::DefaultSharedPtr>,
}

impl<E> Clone for Snapshot<E> {
    fn clone(&self) -> Self {
        Snapshot {
            places: self.places.clone(),
            by_name: self.by_name.clone(),
            by_id: self.by_id.clone(),
            entries: self.entries.clone(),
            paths: self.paths.clone(),
        }
    }
}

impl<E> fmt::Debug for Snapshot<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({} secrets)", self.by_id.len())
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
            places: imbl::OrdMap::new(),
            by_name: imbl::GenericHashMap::default(),
            by_id: imbl::OrdMap::new(),
            entries: imbl::GenericHashMap::default(),
            paths: imbl::GenericHashMap::default(),
        }
    }

    /// Number of secrets.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is no secret.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
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
        match same_name {
            true => self.renew(&entry),
            false => self.enter(entry.name().as_str(), Entry::Secret(entry.clone())),
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
        self.leave(old.name().as_str(), Item::Secret(old.id()));
    }

    /// Puts an entry in the place of the one that had its number and name.
    fn renew(&mut self, entry: &Arc<E>) {
        let known = self.place_of(entry.name().as_str(), Item::Secret(entry.id()));
        if let Some((dir, place)) = known {
            self.places
                .insert(At { dir, place }, Entry::Secret(entry.clone()));
        }
    }

    /// Gives an entry a place in its directory, and a directory that this makes one in the one above.
    fn enter(&mut self, entry: &str, item: Entry<E>) {
        let (mut path, mut item) = (entry, item);
        while let Some((dir, segment)) = parent(path) {
            let id = DirId::of(dir);
            let mut at = At {
                dir: id,
                place: Place::of(segment),
            };
            let taken = self.places.range(at..).take_while(|(found, _)| {
                let same = **found == at;
                at.place.0 += u32::from(same);
                same
            });
            taken.for_each(drop);
            self.places.insert(at, item);
            if let Some(count) = self.entries.get_mut(dir) {
                *count += 1;
                return;
            }
            let shared: Arc<str> = dir.into();
            self.entries.insert(shared.clone(), 1);
            self.paths.entry(id.0).or_insert(shared);
            (path, item) = (dir, Entry::Directory(id));
        }
    }

    /// Takes an entry out of its directory, and a directory that this empties out of the one above.
    fn leave(&mut self, entry: &str, item: Item) {
        let (mut path, mut item) = (entry, item);
        while let Some((dir, _)) = parent(path) {
            let Some((id, place)) = self.place_of(path, item) else {
                return;
            };
            self.places.remove(&At { dir: id, place });
            match self.entries.get_mut(dir) {
                Some(count) if *count > 1 => {
                    *count -= 1;
                    return;
                }
                Some(_) => {
                    self.entries.remove(dir);
                    if self.paths.get(&id.0).is_some_and(|taken| **taken == *dir) {
                        self.paths.remove(&id.0);
                    }
                }
                None => return,
            }
            (path, item) = (dir, Item::Directory(id));
        }
    }

    /// The directory that holds `path`, and where in it that stands.
    pub fn place_of(&self, path: &str, item: Item) -> Option<(DirId, Place)> {
        let (dir, segment) = parent(path)?;
        let dir = DirId::of(dir);
        let first = At {
            dir,
            place: Place::of(segment),
        };
        let mut from_there = self.places.range(first..).take_while(|(at, _)| at.dir == dir);
        let (at, _) = from_there.find(|(_, found)| found.item() == item)?;
        Some((dir, at.place))
    }

    /// Every secret in the order of the numbers.
    pub fn all(&self) -> impl Iterator<Item = &Arc<E>> {
        self.by_id.values()
    }

    /// Every secret in the order of the names, compared segment by segment: `a`, `a/x`, `a-b`.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<E>> {
        self.secrets_under("")
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

    /// The entries of a directory behind a place, in the order of their places. Each step costs O(log n), whatever a
    /// subdirectory holds.
    pub fn children(&self, dir: DirId, after: Place) -> impl Iterator<Item = Child<'_, E>> {
        self.behind(dir, after)
            .filter_map(|(at, found)| self.child_of(at.place, found))
    }

    /// The entries at places of a directory behind `after`, for whoever names the places in their order.
    pub fn walk(&self, dir: DirId, after: Place) -> Walk<'_, E> {
        Walk {
            snapshot: self,
            dir,
            rest: self.behind(dir, after),
        }
    }

    fn behind(&self, dir: DirId, after: Place) -> Behind<'_, E> {
        let (first, last) = (after.0.saturating_add(1), u32::MAX);
        let [first, last] = [first, last].map(|place| At {
            dir,
            place: Place(place),
        });
        self.places.range(first..=last)
    }

    /// The entry at a place, if there is one.
    pub fn child(&self, dir: DirId, place: Place) -> Option<Child<'_, E>> {
        self.child_of(place, self.places.get(&At { dir, place })?)
    }

    fn child_of<'s>(&'s self, place: Place, found: &'s Entry<E>) -> Option<Child<'s, E>> {
        found.child(place, self.path_of(found)?)
    }

    fn path_of<'s>(&'s self, found: &'s Entry<E>) -> Option<&'s str> {
        Some(match found {
            Entry::Secret(secret) => secret.name().as_str(),
            Entry::Directory(id) => self.paths.get(&id.0)?,
        })
    }

    /// Every secret beneath the directory at `path`, at whatever depth, in the order of [`iter`](Self::iter).
    pub fn secrets_under<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a Arc<E>> + 'a {
        let sorted = |dir| {
            let mut all: Vec<_> = self.children(dir, Place::START).collect();
            all.sort_unstable_by(|a, b| b.segment.cmp(a.segment));
            all
        };
        let mut open = match self.is_directory(path) {
            true => sorted(DirId::of(path)),
            false => Vec::new(),
        };
        std::iter::from_fn(move || {
            loop {
                match open.pop()?.what {
                    Found::Secret(secret) => return Some(secret),
                    Found::Directory(dir) => open.append(&mut sorted(dir)),
                }
            }
        })
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
}

/// The directory that holds `path`, and the last segment; `None` for the root.
fn parent(path: &str) -> Option<(&str, &str)> {
    match path.rsplit_once('/') {
        Some(parts) => Some(parts),
        None if path.is_empty() => None,
        None => Some(("", path)),
    }
}

/// A place of a directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    dir: DirId,
    place: Place,
}

/// What stands at a place.
enum Entry<E> {
    Secret(Arc<E>),
    Directory(DirId),
}

impl<E> Clone for Entry<E> {
    fn clone(&self) -> Self {
        match self {
            Entry::Secret(secret) => Entry::Secret(secret.clone()),
            Entry::Directory(id) => Entry::Directory(*id),
        }
    }
}

impl<E: Indexed> Entry<E> {
    fn item(&self) -> Item {
        match self {
            Entry::Secret(secret) => Item::Secret(secret.id()),
            Entry::Directory(id) => Item::Directory(*id),
        }
    }

    fn child<'s>(&'s self, place: Place, path: &'s str) -> Option<Child<'s, E>> {
        let (_, segment) = parent(path)?;
        let what = match self {
            Entry::Secret(secret) => Found::Secret(secret),
            Entry::Directory(id) => Found::Directory(*id),
        };
        Some(Child { place, segment, what })
    }
}

type Behind<'a, E> = imbl::ordmap::RangedIter<'a, At, Entry<E>, imbl::shared_ptr::DefaultSharedPtr>;

/// Goes through a directory by places that are named in their order: places that follow each other cost a step each, and
/// others a search.
pub struct Walk<'a, E> {
    snapshot: &'a Snapshot<E>,
    dir: DirId,
    rest: Behind<'a, E>,
}

impl<'a, E: Indexed> Walk<'a, E> {
    /// So many entries in between are stepped over.
    const STEPS: usize = 8;

    /// What there is at these places, each of which is behind the one before it and those named last.
    ///
    /// Secrets and their names lie far from each other in memory, which takes long to answer, and answers many questions
    /// in the time of one: so that all are asked before the first answer is needed.
    pub fn children(&mut self, places: &[Place]) -> impl Iterator<Item = Child<'a, E>> + use<'a, E> {
        let found = places
            .iter()
            .filter_map(|place| Some((*place, self.entry(*place)?)));
        let found: Vec<(Place, &'a Entry<E>)> = found.collect();
        let paths = found.into_iter().filter_map(|(place, entry)| {
            let path = self.snapshot.path_of(entry)?;
            Some((place, entry, path))
        });
        let paths: Vec<(Place, &'a Entry<E>, &'a str)> = paths.collect();
        let letters = paths.iter().filter_map(|(.., path)| path.as_bytes().last());
        black_box(letters.fold(0, |sum, letter| sum ^ letter));
        paths
            .into_iter()
            .filter_map(|(place, entry, path)| entry.child(place, path))
    }

    fn entry(&mut self, place: Place) -> Option<&'a Entry<E>> {
        for _ in 0..Self::STEPS {
            let (at, found) = self.rest.next()?;
            match at.place.cmp(&place) {
                Ordering::Less => {}
                Ordering::Equal => return Some(found),
                // There is none, and what was stepped over may be asked for next.
                Ordering::Greater => break,
            }
        }
        self.rest = self.snapshot.behind(self.dir, Place(place.0.saturating_sub(1)));
        let (at, found) = self.rest.next()?;
        if at.place == place {
            return Some(found);
        }
        self.rest = self.snapshot.behind(self.dir, place);
        None
    }
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
