//! Readers beside a change, in many orders of their steps: what a change ended is over when it is acknowledged, what
//! a reader gets is whole, and each value that was given is on record.

use std::sync::Arc;

use shuttle::thread::spawn;

use super::*;
use crate::access::KnownCaller;
use crate::clock::Timestamp;
use crate::id::{Gid, Label, SecretId, SecretName, Uid, VersionId};
use crate::sync::in_many_orders;
use crate::vault::tests::{Place, allow, change, make};
use crate::vault::{Life, Vault};

const READER: u32 = 7;
const OLD: &[u8] = b"value";
const NEW: &[u8] = b"another value";

fn put(vault: &Vault, bytes: &[u8]) {
    change(vault, "app", |draft, meta| {
        let mut value = crate::sys::mem::secret(bytes.len()).unwrap();
        value.expose_mut().copy_from_slice(bytes);
        let name: SecretName = meta.name.clone();
        let no = draft
            .add_version(
                meta.id,
                &name,
                &meta.key,
                (VersionId::random(), crate::id::ROOT),
                Timestamp::now(),
                &value,
            )
            .unwrap();
        meta.labels.insert(Label::current(), no);
        ChangeKind::Value
    });
}

/// A served secret `app` with the value [`OLD`], that [`READER`] may read.
struct World {
    place: Place,
    vfs: Arc<Vfs>,
    secret: SecretId,
    /// Set when the change was acknowledged.
    changed: Arc<AtomicBool>,
}

impl World {
    fn new() -> World {
        let place = Place::new();
        let vault = Arc::new(place.open());
        make(&vault, "app", || {}).unwrap();
        allow(&vault, "app", &format!(r#"{{"Uid": "{READER}"}}"#));
        let secret = vault.state().secrets.by_name("app").unwrap().meta.id;
        World {
            place,
            vfs: Arc::new(Vfs::new(Arc::new(Access::new(vault, false)), 2)),
            secret,
            changed: Arc::default(),
        }
    }

    /// Runs readers and a change beside each other; gives what each reader said.
    fn run<T: Send + 'static>(
        self,
        readers: usize,
        reader: impl Fn(&Reader) -> T + Clone + Send + 'static,
        change: impl FnOnce(&Vault) + Send + 'static,
    ) -> (Vec<T>, usize) {
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                let with = Reader {
                    vfs: self.vfs.clone(),
                    secret: self.secret,
                    changed: self.changed.clone(),
                };
                let reader = reader.clone();
                spawn(move || reader(&with))
            })
            .collect();
        let (vfs, changed) = (self.vfs.clone(), self.changed.clone());
        let changer = spawn(move || {
            change(vfs.access().vault());
            changed.store(true, Ordering::SeqCst);
        });
        let said = threads.into_iter().map(|t| t.join().unwrap()).collect();
        changer.join().unwrap();
        assert_eq!(self.vfs.open_handles(), 0);
        self.vfs.access().vault().verify_log(&mut |_| {}).unwrap();
        let given = crate::audit::Query {
            secret: Some("app".into()),
            ..Default::default()
        };
        let given = crate::audit::query(&self.place.path().join("audit"), &given)
            .map(|entry| entry.unwrap().value)
            .filter(|line| line["eventName"] == "GetSecretValue" && line["outcome"] == "allowed")
            .count();
        (said, given)
    }
}

struct Reader {
    vfs: Arc<Vfs>,
    secret: SecretId,
    changed: Arc<AtomicBool>,
}

impl Reader {
    fn caller() -> KnownCaller {
        KnownCaller::supposed(Uid(READER), Gid(READER), Vec::new())
    }

    /// Whether the change was acknowledged before the call, and the handle.
    fn open(&self) -> (bool, Result<u64, VfsError>) {
        let over = self.changed.load(Ordering::SeqCst);
        let node = Node::secret(self.secret);
        (over, self.vfs.open(node, false, &mut Self::caller()))
    }

    fn read(&self, handle: u64) -> (bool, Result<Vec<u8>, VfsError>) {
        let over = self.changed.load(Ordering::SeqCst);
        let read = self.vfs.read(handle, Range::WHOLE, true, &mut Self::caller());
        (
            over,
            read.map(|bytes| bytes.map_or_else(Vec::new, |b| b.expose().to_vec())),
        )
    }

    fn size(&self) -> Result<u64, VfsError> {
        let attr = self
            .vfs
            .getattr(Node::secret(self.secret), Look::Shown, &mut Self::caller());
        attr.map(|attr| attr.size)
    }

    /// Opens, reads twice and closes; how many values it got. None of them after the change.
    fn until_over(&self) -> usize {
        let (over, opened) = self.open();
        let Ok(handle) = opened else { return 0 };
        assert!(!over, "opened after the change");
        let reads = (0..2).filter(|_| match self.read(handle) {
            (over, Ok(value)) => {
                assert!(!over, "read after the change");
                assert_eq!(value, OLD);
                true
            }
            (_, Err(_)) => false,
        });
        let got = reads.count();
        self.vfs.release(handle);
        got
    }
}

#[test]
fn a_revocation_holds_from_the_moment_it_is_acknowledged() {
    in_many_orders(400, || {
        let (got, recorded) = World::new().run(2, Reader::until_over, |vault| {
            change(vault, "app", |_, meta| {
                meta.policy = None;
                ChangeKind::Settings
            });
        });
        assert_eq!(
            got.iter().sum::<usize>(),
            recorded,
            "values given and values on record"
        );
    });
}

#[test]
fn a_deletion_holds_from_the_moment_it_is_acknowledged() {
    in_many_orders(300, || {
        let (got, recorded) = World::new().run(2, Reader::until_over, |vault| {
            change(vault, "app", |draft, meta| {
                for (_, no) in &meta.labels {
                    draft.destroy_version(*no);
                }
                meta.labels.clear();
                meta.life = Life::Deleted;
                ChangeKind::Deleted
            });
        });
        assert_eq!(
            got.iter().sum::<usize>(),
            recorded,
            "values given and values on record"
        );
    });
}

#[test]
fn a_rotation_is_seen_whole_and_at_once_and_no_size_is_too_low() {
    in_many_orders(400, || {
        let reader = |reader: &Reader| {
            let (over, handle) = reader.open();
            let handle = handle.unwrap();
            let size = reader.size().unwrap();
            let (_, first) = reader.read(handle);
            let first = first.unwrap();
            assert!(first == OLD || first == NEW, "{first:?}");
            assert!(!over || first == NEW, "the old value after the change");
            assert!(size >= first.len() as u64, "shown {size}, read {}", first.len());
            let (_, again) = reader.read(handle);
            assert_eq!(again.unwrap(), first, "a handle keeps its version");
            assert!(reader.size().unwrap() >= first.len() as u64);
            reader.vfs.release(handle);
            2
        };
        let (got, recorded) = World::new().run(2, reader, |vault| put(vault, NEW));
        assert_eq!(got.iter().sum::<usize>(), recorded);
    });
}

#[test]
fn a_uid_never_has_more_handles_than_it_may() {
    in_many_orders(1000, || {
        let handles = Arc::new(Handles::new(2));
        let most = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (handles, most) = (handles.clone(), most.clone());
                spawn(move || {
                    for _ in 0..2 {
                        let Ok(place) = handles.admit(READER) else {
                            continue;
                        };
                        assert!(most.fetch_add(1, Ordering::SeqCst) < 2, "a third place");
                        let number = handles.reserve();
                        handles.insert(number, Handle::Directory(Node::Root), place);
                        assert!(handles.get(number).is_ok());
                        most.fetch_sub(1, Ordering::SeqCst);
                        handles.release(number);
                        assert!(handles.get(number).is_err());
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(handles.count(), 0);
        assert!((0..2).map(|_| handles.admit(READER)).all(|p| p.is_ok()));
    });
}

/// The kernel's side of an inode's size: it believes the answer that it applies first, and drops those that were
/// asked for before it and those that were made void.
#[derive(Default)]
struct Kernel {
    inode: Mutex<Inode>,
}

#[derive(Default)]
struct Inode {
    /// Answers to questions of an earlier one are dropped.
    age: u64,
    /// What those hold whose open was answered.
    held: Vec<u64>,
}

impl Kernel {
    fn asks(&self, sizes: &super::handles::Sizes, current: u32) {
        let asked = lock(&self.inode).age;
        let answer = sizes.shown(SecretId(1), Slot::default(), current);
        let mut inode = lock(&self.inode);
        if inode.age == asked {
            inode.age += 1;
            for held in &inode.held {
                assert!(answer >= *held, "{answer} is believed while {held} is held");
            }
        }
    }
}

#[test]
fn no_answer_is_believed_that_is_less_than_what_is_held() {
    in_many_orders(6000, || {
        let sizes = Arc::new(super::handles::Sizes::default());
        let kernel = Arc::new(Kernel::default());
        // Strangers and the event writer ask all the time; the current value is a short one.
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (sizes, kernel) = (sizes.clone(), kernel.clone());
                spawn(move || (0..2).for_each(|_| kernel.asks(&sizes, 10)))
            })
            .collect();
        let readers: Vec<_> = [100, 200]
            .map(|size| {
                let (sizes, kernel) = (sizes.clone(), kernel.clone());
                spawn(move || {
                    sizes.hold(SecretId(1), Slot::default(), size, || {
                        lock(&kernel.inode).age += 1
                    });
                    lock(&kernel.inode).held.push(size.into());
                    kernel.asks(&sizes, 10);
                    lock(&kernel.inode).held.retain(|held| *held != u64::from(size));
                    sizes.drop_held(SecretId(1), Slot::default(), size);
                })
            })
            .into();
        others.into_iter().chain(readers).for_each(|t| t.join().unwrap());
    });
}
