//! Tests of the whole log; those of one part stand in its file.

mod archive;
mod asking;
mod failure;
mod floods;
#[cfg(feature = "interleavings")]
mod interleavings;
mod opening;
mod siege;
mod tamper;
mod usage;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::id::StoreId;
use crate::secret::SecretBytes;

use super::segment::Folder;
use super::*;

const STORE: StoreId = StoreId([7; 16]);

fn key_of(byte: u8) -> SecretBytes {
    let mut key = crate::sys::mem::secret(32).unwrap();
    key.expose_mut().fill(byte);
    key
}

fn key() -> SecretBytes {
    key_of(42)
}

/// Small enough that a few records make several segments.
fn small() -> Options {
    Options {
        segment_bytes: 1500,
        reserve_bytes: 64 << 10,
        ..Options::default()
    }
}

fn one_segment() -> Options {
    Options {
        reserve_bytes: 64 << 10,
        ..Options::default()
    }
}

struct Place {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
}

fn place() -> Place {
    let temporary = tempfile::tempdir().unwrap();
    Place {
        dir: temporary.path().join("audit"),
        _temporary: temporary,
    }
}

impl Place {
    fn create(&self, options: Options) -> Log {
        Log::create(&self.dir, STORE, key(), options).unwrap()
    }

    fn open(&self, anchor: &Anchor) -> Result<Log, LogError> {
        Log::open(&self.dir, STORE, key(), one_segment(), anchor)
    }

    fn segment(&self, number: u64) -> PathBuf {
        segment::path(&self.dir, number)
    }

    fn verify(&self, anchor: Option<&Anchor>) -> Result<Verified, VerifyError> {
        verify(&self.dir, STORE, &key(), anchor, &mut |_| {})
    }

    fn broken(&self, anchor: Option<&Anchor>) -> Broken {
        match self.verify(anchor) {
            Err(VerifyError::Broken(broken)) => broken,
            other => panic!("not found: {other:?}"),
        }
    }

    fn lines(&self, number: u64) -> Vec<String> {
        let text = std::fs::read_to_string(self.segment(number)).unwrap();
        text.lines().map(String::from).collect()
    }

    fn write(&self, number: u64, lines: &[String]) {
        let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
        std::fs::write(self.segment(number), text).unwrap();
    }

    fn entries(&self) -> Vec<Entry> {
        query(&self.dir, &Query::default()).map(Result::unwrap).collect()
    }
}

fn read_of(uid: u32, secret: &str) -> Record<'_> {
    Record {
        event: Event::GetSecretValue,
        outcome: Outcome::Allowed,
        who: Who {
            uid,
            gid: uid,
            ..Who::default()
        },
        secret: Some(secret),
        via: "mount",
        ..Record::default()
    }
}

fn change<'a>(secret: &'a str, epoch: u64) -> Record<'a> {
    Record {
        event: Event::PutSecretValue,
        epoch: Some(epoch),
        via: "control",
        ..read_of(0, secret)
    }
}

/// Twelve records after the header, in one segment.
fn twelve(place: &Place) -> Anchor {
    let log = place.create(one_segment());
    for i in 0..12 {
        let _ = log.append(&change("app/db", i + 1)).unwrap();
    }
    log.sync().unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
