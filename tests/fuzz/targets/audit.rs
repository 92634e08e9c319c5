//! Lines of a log as somebody could have left them: what was edited does not verify, and whoever only reads the log
//! is not disturbed.
#![no_main]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use wardfs::audit::{self, Event, Log, Options, Query, Record};
use wardfs::id::StoreId;
use wardfs::secret::SecretBytes;

struct Written {
    dir: tempfile::TempDir,
    text: Vec<u8>,
}

fn key() -> SecretBytes {
    let mut key = wardfs::sys::mem::secret(32).unwrap();
    key.expose_mut().fill(7);
    key
}

const STORE: StoreId = StoreId([9; 16]);

fn written() -> &'static Written {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(&dir.path().join("audit"), STORE, key(), Options::default()).unwrap();
        for n in 0..8 {
            let record = Record { event: Event::GetSecretValue, secret: Some("app/db"), length: Some(n), ..Record::default() };
            let _ = log.append(&record).unwrap();
        }
        drop(log);
        let text = std::fs::read(segment(&dir)).unwrap();
        Written { dir, text }
    })
}

fn segment(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("audit/00000001.jsonl")
}

fn look(written: &Written, text: &[u8]) -> bool {
    let file = segment(&written.dir);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let dir = written.dir.path().join("audit");
    let _ = audit::tail(&dir, 5);
    for entry in audit::query(&dir, &Query { denied: true, secret: Some("app/db".into()), ..Query::default() }) {
        let _ = entry.map(|e| (e.seq(), e.uid()));
    }
    audit::verify(&dir, STORE, &key(), None, &mut |_| {}).is_ok_and(|v| v.records == 9)
}

fuzz_target!(|bytes: &[u8]| {
    let written = written();
    assert!(!look(written, bytes), "a forged log verified");
    let mut edited = written.text.clone();
    for edit in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % edited.len();
        edited[at] ^= edit[2];
    }
    assert_eq!(look(written, &edited), edited == written.text, "an edited log verified");
});
