use super::*;
use crate::access::{Access, KnownCaller};
use crate::policy::Administration;
use crate::sys::mount;
use crate::vault::{Settings, Vault};
use crate::vfs::Look;
use std::sync::{Mutex, PoisonError};

/// Where handlers panic at the moment.
static FAULT: Mutex<Option<&str>> = Mutex::new(None);

/// Panics if this is the place.
pub fn fault(place: &str) {
    let now = *FAULT.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(now != Some(place), "a fault in a handler");
}

fn set_fault(place: Option<&'static str>) {
    *FAULT.lock().unwrap_or_else(PoisonError::into_inner) = place;
}

fn vfs(dir: &std::path::Path) -> Arc<Vfs> {
    let settings = Settings {
        key_file: dir.join("root.key"),
        log: Default::default(),
        administration: Administration {
            owner: crate::id::ROOT,
            group: None,
            root_describes: true,
        },
        deciding: None,
    };
    crate::vault::create(dir, &settings).unwrap();
    let vault = Arc::new(Vault::open(dir, &settings).unwrap());
    Arc::new(Vfs::new(Arc::new(Access::new(vault, false)), 16))
}

fn panics(vfs: &Vfs) -> u64 {
    vfs.counters.panics.load(std::sync::atomic::Ordering::Relaxed)
}

/// The panics of these tests are not worth words.
fn expect_faults() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<&str>() != Some(&"a fault in a handler") {
                hook(panic);
            }
        }));
    });
}

#[test]
fn a_panic_is_a_record_and_a_counter_and_the_reply_is_dropped() {
    struct Reply(Arc<std::sync::atomic::AtomicUsize>);
    impl Drop for Reply {
        fn drop(&mut self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = Server::new(vfs(&store)).unwrap();
    let me = KnownCaller::root();
    let header = Header {
        uid: me.uid,
        gid: me.gid,
        tid: Tid(nix::unistd::gettid().as_raw() as u32),
    };
    let dropped = Arc::default();
    expect_faults();
    for _ in 0..3 {
        let reply = Reply(Arc::clone(&dropped));
        server.guarded("read", header, move |_, _| {
            let _reply = reply;
            panic!("a fault in a handler")
        });
    }
    assert_eq!(dropped.load(std::sync::atomic::Ordering::Relaxed), 3);
    assert_eq!(panics(&server.vfs), 3);
    let mut answered = false;
    server.guarded("getattr", header, |vfs, caller| {
        answered = vfs.getattr(Node::Root, Look::Shown, caller).is_ok();
    });
    assert!(answered);
    server.vfs.access().vault().log().flush_refusals().unwrap();
    let records = crate::audit::tail(&store.join("audit"), 10).unwrap();
    assert!(
        records
            .iter()
            .any(|r| r.text("eventName") == Some("PanicCaught") && r.text("message") == Some("read"))
    );
}

/// Through the kernel: as many panics as there are threads, several times over, in the decision and in the reply.
#[test]
fn a_serving_thread_outlives_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (store, target) = (dir.path().join("store"), dir.path().join("mnt"));
    std::fs::create_dir(&target).unwrap();
    let vfs = vfs(&store);
    // In a mount namespace of this thread, so that nothing stays mounted.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let (none, all) = (
        None::<&str>,
        nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE,
    );
    nix::mount::mount(none, "/", none, all, none).unwrap();
    // Nothing else of the mount is kept, or it would not end.
    let device = { mount::mount(&target, &mount::Options::default()).unwrap().device };
    let session = Session::start(vfs.clone(), device, 2, 1024).unwrap();
    let session = std::thread::spawn(move || session.run());
    let errno = |place| {
        set_fault(place);
        let done = std::fs::metadata(&target).map(|_| ());
        set_fault(None);
        done.map_err(|e| e.raw_os_error().unwrap_or(0))
    };
    expect_faults();
    for n in 1..=10 {
        assert_eq!(errno(Some("decision")), Err(libc::EIO));
        assert_eq!(errno(Some("reply")), Err(libc::EIO));
        assert_eq!(errno(None), Ok(()));
        // The reply leaves before the panic is counted.
        while panics(&vfs) < 2 * n {
            std::thread::yield_now();
        }
    }
    assert!(!session.is_finished());
    nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH).unwrap();
    session.join().unwrap().unwrap();
}
