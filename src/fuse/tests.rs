use super::*;
use crate::access::{Access, KnownCaller};
use crate::policy::Administration;
use crate::vault::{Settings, Vault};

fn adapter(dir: &std::path::Path) -> Adapter {
    let settings = Settings {
        key_file: dir.join("root.key"),
        log: Default::default(),
        administration: Administration {
            owner: crate::id::ROOT,
            group: None,
            root_describes: true,
        },
    };
    crate::vault::create(dir, &settings).unwrap();
    let vault = Arc::new(Vault::open(dir, &settings).unwrap());
    Adapter::new(Arc::new(Vfs::new(Arc::new(Access::new(vault, false)), 16))).unwrap()
}

#[test]
fn a_panic_is_an_eio_a_record_and_a_counter_and_service_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let adapter = adapter(&store);
    let me = KnownCaller::root();
    let header = Header {
        uid: me.uid,
        gid: me.gid,
        tid: Tid(nix::unistd::gettid().as_raw() as u32),
    };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for _ in 0..3 {
        let result = adapter
            .server
            .guarded::<()>("read", header, |_, _| panic!("a fault in a handler"));
        assert!(matches!(result, Err(VfsError::Panic)));
    }
    std::panic::set_hook(hook);
    assert_eq!(VfsError::Panic.errno().0, Errno(libc::EIO));
    assert_eq!(
        adapter
            .server
            .vfs
            .counters
            .list()
            .iter()
            .find(|(name, _)| *name == "panics"),
        Some(&("panics", 3))
    );
    assert!(
        adapter
            .server
            .guarded("getattr", header, |vfs, caller| vfs.getattr(Node::Root, caller))
            .is_ok()
    );
    adapter
        .server
        .vfs
        .access()
        .vault()
        .log()
        .flush_refusals()
        .unwrap();
    let records = crate::audit::tail(&store.join("audit"), 10).unwrap();
    assert!(
        records
            .iter()
            .any(|r| r.text("eventName") == Some("PanicCaught") && r.text("message") == Some("read"))
    );
}
