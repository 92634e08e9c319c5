//! Any request on the control socket's desk: answered or refused, by somebody who is nobody and by root.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardfs::access::KnownCaller;
use wardfs::config::Config;
use wardfs::control::Desk;
use wardfs::control::protocol::{Enclosed, Envelope, Part, Request};
use wardfs::id::{Gid, Uid};

struct Open {
    _dir: tempfile::TempDir,
    desk: Desk,
}

thread_local! {
    static OPEN: Open = open();
}

fn open() -> Open {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    wardfs::daemon::init(&store).unwrap();
    let (desk, _) = wardfs::daemon::desk(&store, &Config::default()).unwrap();
    Open { _dir: dir, desk }
}

fn value() -> Option<Enclosed<'static>> {
    let mut value = wardfs::sys::mem::secret(5).unwrap();
    value.expose_mut().copy_from_slice(b"value");
    Some(Enclosed::Value(value))
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Part::from_byte(*bytes.first().unwrap_or(&0));
    if let Some((_, _, rest)) = wardfs::sys::front::frame::parse(bytes) {
        let _ = wardfs::sys::front::frame::Sender::parse(rest);
    }
    let request = serde_json::from_slice::<Envelope>(bytes).map(|e| e.request);
    let Ok(request) = request.or_else(|_| serde_json::from_slice::<Request>(bytes)) else {
        return;
    };
    OPEN.with(|open| {
        let mut nobody = KnownCaller::supposed(Uid(61001), Gid(61001), Vec::new());
        let mut root = KnownCaller::root();
        for caller in [&mut nobody, &mut root] {
            let enclosed = matches!(request, Request::Put(_)).then(value).flatten();
            if let Err(problem) = open.desk.answer(&request, enclosed, &mut |_| {}, caller) {
                assert!(!problem.next.is_empty(), "{problem}");
            }
        }
    });
});
