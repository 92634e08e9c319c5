//! Records of a store as somebody could have left them: a backup of any bytes is refused or opened, never believed
//! in part; headers and sealed records' contents are read or refused.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use wardfs::policy::Administration;
use wardfs::store::header::Header;
use wardfs::vault::{self, Opener, Rollback, SecretMeta, Settings, Trial, Vault, VersionMeta};

struct Store {
    dir: tempfile::TempDir,
    settings: Settings,
    backup: Vec<u8>,
}

fn settings(dir: &Path) -> Settings {
    Settings {
        key_file: dir.join("root.key"),
        log: Default::default(),
        administration: Administration {
            owner: wardfs::id::ROOT,
            group: None,
            root_describes: true,
        },
        deciding: None,
    }
}

fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir.path().join("store"));
        vault::create(&dir.path().join("store"), &settings).unwrap();
        let vault = Vault::open(&dir.path().join("store"), &settings).unwrap();
        let mut backup = Vec::new();
        vault.backup(&mut backup, &mut |_| {}).unwrap();
        Store { dir, settings, backup }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let store = store();
    let _ = Header::decode(bytes);
    let _ = serde_json::from_slice::<SecretMeta>(bytes);
    let _ = serde_json::from_slice::<VersionMeta>(bytes);
    let restore = |file: &[u8]| {
        let body = wardfs::audit::Record::default().body();
        let to = store.dir.path().join("other");
        let trial = (Opener::KeyFile, Rollback::Refused, Trial::DryRun);
        vault::restore(&to, &store.settings, file, trial.0, trial.1, trial.2, body).is_ok()
    };
    // The bytes alone, and the bytes as edits of a true backup: (where, what) by three bytes.
    assert!(!restore(bytes), "a forged backup was believed");
    let mut edited = store.backup.clone();
    for edit in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % edited.len();
        edited[at] ^= edit[2];
    }
    assert_eq!(restore(&edited), edited == store.backup, "an edited backup was believed");
});
