//! A disk that is really full: access can be taken away on it, whether a daemon serves the store or not.

mod support;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use support::Deadline;
use support::disk::Disk;
use support::product::{A, B, Product, read_as};
use support::small::Small;

const VALUE: &[u8] = b"s3cret";

/// Leaves no byte free.
fn fill(product: &Product) {
    let mut filler = File::create(product.dir().join("filler")).expect("a filler");
    for size in [1 << 20, 4096, 1] {
        while filler.write_all(&vec![1; size]).is_ok() {}
    }
    let _ = filler.sync_all();
}

fn clear(product: &Product) {
    std::fs::remove_file(product.dir().join("filler")).expect("the filler goes");
}

fn secrets(product: &Product) {
    product.run(&["init"]).ok();
    for name in ["deny", "revoke", "gone", "forgotten", "guarded", "kept"] {
        let (a, b) = (format!("uid:{A}"), format!("uid:{B}"));
        product.put(name, VALUE, &["--allow", &a, "--allow", &b]);
    }
}

/// Puts until there is no room.
fn exhaust(product: &Product) {
    let value = vec![b'x'; 60_000];
    let refused = (0..500)
        .map(|n| product.run_with(&["put", &format!("more/{n}")], &value))
        .find(|said| said.code() != 0)
        .expect("a refusal");
    assert_eq!(refused.code(), 7, "{refused:?}");
    assert!(refused.err.contains("no space left"), "{refused:?}");
    // As long as it is full, whatever else was tried.
    for n in 0..20 {
        let refused = product.run_with(&["put", &format!("again/{n}")], &value);
        assert_eq!(refused.code(), 7, "{refused:?}");
    }
}

/// Everything that takes access away.
fn take_away(product: &Product) {
    let b = format!("uid:{B}");
    product.run(&["policy", "deny", "deny", &b]).ok();
    product.run(&["policy", "revoke", "revoke", &b]).ok();
    product.run(&["delete", "gone", "--now"]).ok();
    product.run(&["delete", "forgotten", "--purge", "--now"]).ok();
    let document = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"secretsmanager:GetSecretValue","Resource":"arn:aws:secretsmanager:*:*:secret:guarded"}]}"#;
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file");
    std::fs::write(file.path(), document).expect("a document");
    let path = file.path().to_str().expect("a path");
    product.run(&["guardrail", "set", "none", path]).ok();
}

fn taken(product: &mut Product) {
    product.mount();
    for name in ["deny", "revoke", "guarded"] {
        assert_eq!(
            read_as(B, &[], &product.path(name)),
            Err(libc::EACCES),
            "{name} is not B's any more"
        );
    }
    for name in ["gone", "forgotten"] {
        assert_eq!(read_as(A, &[], &product.path(name)), Err(libc::ENOENT), "{name}");
    }
    assert_eq!(read_as(A, &[], &product.path("deny")), Ok(VALUE.to_vec()));
    product.stop();
    product.run(&["store", "check"]).ok();
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn access_is_taken_away_on_a_full_tmpfs() {
    let _deadline = Deadline::new(Duration::from_secs(120), "a full tmpfs");
    for daemon in [true, false] {
        let mut product = Product::empty();
        let small = Small::on(product.dir(), "size=24m,mode=755");
        secrets(&product);
        if daemon {
            product.mount();
        }
        fill(&product);
        exhaust(&product);
        take_away(&product);
        clear(&product);
        product.run_with(&["put", "after"], VALUE).ok();
        if daemon {
            product.stop();
        }
        taken(&mut product);
        drop(small);
    }
}

#[test]
fn access_is_taken_away_on_a_full_disk() {
    let _deadline = Deadline::new(Duration::from_secs(120), "a full disk");
    let mut product = Product::empty();
    let disk = Disk::new(product.dir());
    std::fs::set_permissions(product.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("chmod");
    secrets(&product);
    fill(&product);
    exhaust(&product);
    take_away(&product);
    // Deleting makes room in the store, on a disk that stays full.
    let before = product.run(&["list", "--json"]).ok().json()["secrets"]
        .as_array()
        .map_or(0, Vec::len);
    for n in 0..20 {
        let _maybe_never_made = product.run(&["delete", &format!("more/{n}"), "--now"]);
    }
    let after = product.run(&["list", "--json"]).ok().json()["secrets"]
        .as_array()
        .map_or(0, Vec::len);
    assert!(after <= before, "{before} {after}");
    clear(&product);
    taken(&mut product);
    disk.off();
}

/// A store that an older release made has no block behind its last page; it gets the reserve when there is room, and
/// again after it was used.
#[test]
fn a_store_without_a_reserve_gets_one_when_there_is_room() {
    let _deadline = Deadline::new(Duration::from_secs(60), "an older store");
    let product = Product::empty();
    let disk = Disk::new(product.dir());
    secrets(&product);
    let file = product.store().join("store.redb");
    let bytes = || std::fs::metadata(&file).expect("the store").blocks() * 512;
    let whole = bytes();
    // As it was: no block that was not written.
    let copy = product.store().join("copy");
    let copied = std::process::Command::new("cp")
        .args(["--sparse=always", "--preserve=all"])
        .arg(&file)
        .arg(&copy)
        .status();
    assert!(copied.expect("cp").success());
    std::fs::rename(&copy, &file).expect("rename");
    let bare = bytes();
    assert!(bare + (1 << 20) < whole, "{bare} {whole}");
    product.run_with(&["put", "kept"], b"other").ok();
    assert!(bytes() >= bare + (2 << 20), "{bare} {}", bytes());
    disk.off();
}
