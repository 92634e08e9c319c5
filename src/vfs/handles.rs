//! Open files and directories: numbers in a table, bounded for each uid, with the sizes they hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::errno::VfsError;
use super::node::{SLOTS, Slot};
use super::poll::PollState;
use super::retry::Retries;
use super::{Coming, Node, lock};
use crate::access::Pin;
use crate::id::SecretId;
use crate::places::{Place, Places};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// An open file.
pub struct OpenFile {
    /// The version it keeps, for a secret's or a version's file.
    pub pin: Pin,
    /// On which of the secret's files.
    pub slot: Slot,
    /// Whether it was opened as the current value, and so is told of changes.
    pub follows_current: bool,
    /// What pollers were told.
    pub poll: Mutex<PollState>,
    /// What io_uring readers were given.
    pub retries: Mutex<Retries>,
}

/// What a handle's number stands for.
#[derive(Clone)]
pub enum Handle {
    /// An open file.
    File(Arc<OpenFile>),
    /// An open directory: each look at it is decided anew, for whoever looks.
    Directory(super::Node),
    /// The notifier's write handle, which writes nothing.
    Notifier,
}

const SHARDS: usize = 16;

type Shard = Mutex<FxHashMap<u64, (Handle, Place)>>;

/// All handles.
pub struct Handles {
    next: AtomicU64,
    shards: [Shard; SHARDS],
    places: Arc<Places>,
    sizes: Sizes,
    open: AtomicUsize,
}

impl Handles {
    /// An empty table that gives each uid `max_per_uid` handles at most.
    pub fn new(max_per_uid: usize) -> Self {
        Handles {
            next: AtomicU64::new(1),
            shards: Default::default(),
            places: Places::new(max_per_uid),
            sizes: Sizes::default(),
            open: AtomicUsize::new(0),
        }
    }

    /// Gives each uid at most so many from now on.
    pub fn limit(&self, max_per_uid: usize) {
        self.places.set_each(max_per_uid);
    }

    /// A number for a handle to come.
    pub fn reserve(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes one of the uid's places, for a handle to come.
    ///
    /// # Errors
    /// If the uid has none left.
    pub fn admit(&self, uid: u32) -> Result<Place, VfsError> {
        self.places.take(uid).ok_or(VfsError::TooManyHandles)
    }

    /// Puts a handle under its number; it keeps its place.
    pub fn insert(&self, number: u64, handle: Handle, place: Place) {
        self.open.fetch_add(1, Ordering::Relaxed);
        lock(self.shard(number)).insert(number, (handle, place));
    }

    /// The handle with this number.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, number: u64) -> Result<Handle, VfsError> {
        lock(self.shard(number))
            .get(&number)
            .map(|(handle, _)| handle.clone())
            .ok_or(VfsError::BadHandle)
    }

    /// Forgets a handle.
    pub fn release(&self, number: u64) {
        let Some((handle, _place)) = lock(self.shard(number)).remove(&number) else {
            return;
        };
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Handle::File(file) = handle {
            self.sizes
                .drop_held(file.pin.secret, file.slot, file.pin.version.meta.size);
        }
    }

    /// The sizes of the versions held open.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Number of open handles.
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Every open file of one secret that follows its current value.
    pub fn followers(&self, secret: SecretId) -> Vec<Arc<OpenFile>> {
        let mut out = Vec::new();
        for shard in &self.shards {
            out.extend(lock(shard).values().filter_map(|(h, _)| match h {
                Handle::File(f) if f.follows_current && f.pin.secret == secret => Some(f.clone()),
                _ => None,
            }));
        }
        out
    }

    fn shard(&self, number: u64) -> &Shard {
        &self.shards[number as usize % SHARDS]
    }
}

/// The sizes of all versions held open, by secret. The kernel keeps one size for an inode, whoever asks, so
/// every answer gives the largest that anybody holds: a size can run high for a while, never low.
///
/// Holding is not enough: of answers to questions that were asked at the same time the kernel believes the one
/// that it applies first and drops the others, whatever was computed last. An answer from before a larger version
/// was held could win over the one that its reader needs. So the least size that was answered is remembered, and
/// when a larger version is held all answers to earlier questions are made void, once and before its open is
/// answered. Not at every version: what voids old answers voids good ones in flight as well. For the same reason a
/// size that was answered is answered for [`LINGER`] more, so that values that change their size to and fro do not
/// come near that race at all.
///
/// Where a notifier raises the size that the kernel keeps before a longer value is published, none of that is needed,
/// and nothing is shown longer than it has to be: the size to come is kept ([`Sizes::coming`]), the answer to the
/// notifier's SETATTR sets it whatever else is answered, and only then the value is there to be opened.
#[derive(Default)]
pub struct Sizes {
    shards: [Mutex<FxHashMap<SecretId, Size>>; SHARDS],
    voiding: Mutex<()>,
    raised: AtomicBool,
}

/// How long a size is still shown after a shorter value came: longer than any answer is on its way.
pub const LINGER: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Size {
    /// The largest size that was answered lately, and when.
    lately: Option<(u32, Instant)>,
    /// Sizes, on which file, and how many hold each; few.
    held: Vec<(Slot, u32, usize)>,
    /// The file that a look-up finds.
    slot: Slot,
    /// Files that the notifier reaches without their name, a bit each.
    reachable: u8,
    /// The size of a value that is about to be published.
    coming: Option<u32>,
    /// The least answer that the kernel may still apply; none if nobody ever asked.
    least: Option<u32>,
}

impl Size {
    fn hold(&mut self, slot: Slot, size: u32) {
        match self
            .held
            .iter_mut()
            .find(|(on, held, _)| (*on, *held) == (slot, size))
        {
            Some((.., count)) => *count += 1,
            None => self.held.push((slot, size, 1)),
        }
    }

    /// The largest that is held on a file.
    fn most(&self, slot: Slot) -> u32 {
        let on = self.held.iter().filter(|(on, ..)| *on == slot);
        on.map(|(_, size, _)| *size).max().unwrap_or(0)
    }

    fn reaches(&self, slot: Slot) -> bool {
        self.reachable & 1 << slot.0 != 0
    }

    fn needs_voiding(&self, size: u32) -> bool {
        self.least.is_some_and(|least| least < size)
    }
}

impl Sizes {
    /// A version of this size is held open from now on. `void` makes all answers void that the kernel has asked
    /// for by now; it is called if one of them can be too low, and before this returns.
    pub fn hold(&self, secret: SecretId, slot: Slot, size: u32, void: impl FnOnce()) {
        let low = {
            let mut secrets = lock(self.shard(secret));
            let entry = secrets.entry(secret).or_default();
            entry.hold(slot, size);
            entry.needs_voiding(size)
        };
        if low {
            let _one = lock(&self.voiding);
            let low = |sizes: &Self| {
                lock(sizes.shard(secret))
                    .entry(secret)
                    .or_default()
                    .needs_voiding(size)
            };
            if low(self) {
                void();
                // Whatever was answered since the hold is not below it.
                let mut secrets = lock(self.shard(secret));
                secrets.entry(secret).or_default().least = Some(size);
            }
        }
    }

    fn shard(&self, secret: SecretId) -> &Mutex<FxHashMap<SecretId, Size>> {
        &self.shards[secret.0 as usize % SHARDS]
    }

    /// One less is held.
    pub fn drop_held(&self, secret: SecretId, slot: Slot, size: u32) {
        let mut secrets = lock(self.shard(secret));
        let Some(entry) = secrets.get_mut(&secret) else {
            return;
        };
        let mut held = entry.held.iter();
        if let Some(at) = held.position(|(on, held, _)| (*on, *held) == (slot, size)) {
            entry.held[at].2 -= 1;
            if entry.held[at].2 == 0 {
                entry.held.swap_remove(at);
            }
        }
    }

    /// Whether a size that the kernel keeps is raised before a longer value can be opened.
    pub fn raised_before_they_grow(&self, raised: bool) {
        self.raised.store(raised, Ordering::SeqCst);
    }

    /// A value of this size is about to be published; what the kernel knows that does not fit it.
    pub fn coming(&self, secret: SecretId, size: u32) -> Coming {
        let mut secrets = lock(self.shard(secret));
        let Some(entry) = secrets.get_mut(&secret) else {
            return Coming::Known;
        };
        entry.coming = Some(size);
        if entry.least.is_some_and(|least| least < size) {
            let others = (0..SLOTS)
                .map(Slot)
                .filter(|s| *s != entry.slot && entry.reaches(*s));
            let all = std::iter::once(entry.slot).chain(others);
            return Coming::Longer(all.map(|slot| Node::Secret(secret, slot)).collect());
        }
        match entry.most(entry.slot) > size && !entry.reaches(entry.slot) {
            true => Coming::Shorter(Node::Secret(secret, entry.slot)),
            false => Coming::Known,
        }
    }

    /// A value of this size is published; another may be coming by now. Where a longer one is held on the file that
    /// look-ups find, they find one from now on on which none is: who opens now sees the size that he will read, and who
    /// holds the longer one sees that. The old file must be reached by the notifier, for its watchers.
    pub fn came(&self, secret: SecretId, size: u32) {
        let mut secrets = lock(self.shard(secret));
        let Some(entry) = secrets.get_mut(&secret) else {
            return;
        };
        entry.coming.take_if(|coming| *coming == size);
        if entry.most(entry.slot) > size && entry.reaches(entry.slot) {
            let fit = (0..SLOTS).map(Slot).find(|slot| entry.most(*slot) <= size);
            entry.slot = fit.unwrap_or(entry.slot);
        }
    }

    /// The file that a look-up finds now.
    pub fn slot(&self, secret: SecretId) -> Slot {
        lock(self.shard(secret))
            .get(&secret)
            .map_or(Slot::default(), |e| e.slot)
    }

    /// The notifier reaches a file without its name.
    pub fn reachable(&self, secret: SecretId, slot: Slot) {
        lock(self.shard(secret)).entry(secret).or_default().reachable |= 1 << slot.0;
    }

    /// The notifier does not any more.
    pub fn unreachable(&self, secret: SecretId, slot: Slot) {
        if let Some(entry) = lock(self.shard(secret)).get_mut(&secret) {
            entry.reachable &= !(1 << slot.0);
        }
    }

    /// Files that the notifier reaches beside the one that a look-up finds.
    pub fn others(&self, secret: SecretId) -> Vec<Node> {
        let secrets = lock(self.shard(secret));
        let Some(entry) = secrets.get(&secret) else {
            return Vec::new();
        };
        let others = (0..SLOTS)
            .map(Slot)
            .filter(|s| *s != entry.slot && entry.reaches(*s));
        others.map(|slot| Node::Secret(secret, slot)).collect()
    }

    /// The size for the kernel to keep, where `shown` is the one to show.
    pub fn kept(&self, secret: SecretId, shown: u64) -> u64 {
        let coming = lock(self.shard(secret)).get(&secret).and_then(|e| e.coming);
        shown.max(coming.unwrap_or(0).into())
    }

    /// The size of a file to show: the current one, or a larger one that somebody holds on it or that was shown lately.
    pub fn shown(&self, secret: SecretId, slot: Slot, current: u32) -> u64 {
        let now = Instant::now();
        let mut secrets = lock(self.shard(secret));
        let entry = secrets.entry(secret).or_default();
        let mut shown = entry.most(slot).max(current);
        match entry.lately {
            Some((size, at))
                if size > shown
                    && now.duration_since(at) < LINGER
                    && !self.raised.load(Ordering::Relaxed) =>
            {
                shown = size
            }
            _ => entry.lately = Some((shown, now)),
        }
        entry.least = Some(entry.least.map_or(shown, |least| least.min(shown)));
        u64::from(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Slot = Slot(0);

    #[test]
    fn a_size_is_never_lower_than_a_held_one() {
        let sizes = Sizes::default();
        let id = SecretId(1);
        assert_eq!(sizes.shown(id, FIRST, 5), 5);
        sizes.hold(id, FIRST, 9, || {});
        sizes.hold(id, FIRST, 9, || {});
        assert_eq!(sizes.shown(id, FIRST, 5), 9);
        assert_eq!(sizes.shown(id, FIRST, 12), 12);
        assert_eq!(sizes.shown(SecretId(2), FIRST, 5), 5);
        sizes.drop_held(id, FIRST, 9);
        sizes.drop_held(id, FIRST, 9);
        assert_eq!(sizes.shown(id, FIRST, 5), 12, "shown lately");
        std::thread::sleep(LINGER);
        assert_eq!(sizes.shown(id, FIRST, 5), 5);
    }

    #[test]
    fn answers_are_made_void_when_one_can_be_too_low_and_only_then() {
        let sizes = Sizes::default();
        let id = SecretId(1);
        let voided = |size| {
            let mut voided = false;
            sizes.hold(id, FIRST, size, || voided = true);
            sizes.drop_held(id, FIRST, size);
            voided
        };
        assert!(!voided(40), "nobody asked yet");
        sizes.shown(id, FIRST, 40);
        assert!(voided(5000), "40 can be on its way");
        assert!(!voided(5000), "and is void since");
        sizes.shown(id, FIRST, 5000);
        assert!(!voided(200) && !voided(5000));
        std::thread::sleep(LINGER);
        sizes.shown(id, FIRST, 40);
        assert!(voided(5000), "40 can be on its way again");
        assert!(voided(5001), "5000 may have been answered since");
        let other = SecretId(2);
        sizes.shown(other, FIRST, 1);
        assert!(!voided(5001), "another secret's answers do not matter");
    }

    #[test]
    fn who_opens_a_shorter_value_finds_another_file() {
        let (sizes, id) = (Sizes::default(), SecretId(1));
        sizes.raised_before_they_grow(true);
        let node = |slot| Node::Secret(id, Slot(slot));
        assert_eq!(sizes.coming(id, 5), Coming::Known, "nobody asked yet");
        sizes.shown(id, FIRST, 900);
        sizes.hold(id, FIRST, 900, || {});
        // The notifier could not keep the file: the larger size for everybody.
        assert_eq!(sizes.coming(id, 5), Coming::Shorter(node(0)));
        sizes.came(id, 5);
        assert_eq!((sizes.slot(id), sizes.shown(id, FIRST, 5)), (FIRST, 900));
        sizes.reachable(id, FIRST);
        // Each shorter one under a longer one takes a file more, until there are five.
        for (slot, size) in [(1, 800), (2, 700), (3, 600), (4, 500), (4, 400)] {
            sizes.came(id, size);
            assert_eq!(sizes.slot(id), Slot(slot), "{size}");
            sizes.hold(id, Slot(slot), size, || {});
            sizes.reachable(id, Slot(slot));
        }
        assert_eq!(sizes.shown(id, FIRST, 5), 900);
        assert_eq!(sizes.shown(id, Slot(3), 5), 600);
        assert_eq!(sizes.shown(id, Slot(4), 5), 500, "the largest again");
        assert_eq!(sizes.others(id), [node(0), node(1), node(2), node(3)]);
        // What none holds a longer one on is taken again, and all are raised before a longer one comes.
        sizes.drop_held(id, FIRST, 900);
        sizes.came(id, 5);
        assert_eq!(sizes.slot(id), FIRST);
        sizes.shown(id, FIRST, 5);
        let all = vec![node(0), node(1), node(2), node(3), node(4)];
        assert_eq!(sizes.coming(id, 1000), Coming::Longer(all));
    }

    #[test]
    fn a_handle_keeps_its_place_until_it_is_released() {
        let handles = Handles::new(1);
        let number = handles.reserve();
        handles.insert(number, Handle::Notifier, handles.admit(0).unwrap());
        assert!(matches!(handles.admit(0), Err(VfsError::TooManyHandles)));
        handles.release(number);
        handles.release(number);
        assert_eq!(handles.count(), 0);
        assert!(matches!(handles.get(number), Err(VfsError::BadHandle)));
        assert!(handles.admit(0).is_ok());
    }
}
