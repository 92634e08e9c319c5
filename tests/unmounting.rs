//! `unmount` tells the truth: the mount is gone, or something keeps it, which is named, and service goes on.

mod support;

use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::Deadline;
use support::product::{A, Product, read_as};
use support::small::Small;

fn deadline(what: &str) -> Deadline {
    Deadline::new(Duration::from_secs(60), what)
}

fn served() -> Product {
    let mut product = Product::new();
    product.put("app/key", "value", &["--allow", &format!("uid:{A}")]);
    product.mount();
    product
}

fn is_mounted(target: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let target = format!(" {} ", target.display());
    table
        .lines()
        .any(|l| l.contains(&target) && l.contains("fuse.wardfs"))
}

fn unmount(product: &Product) -> (i32, String) {
    let target = product.target();
    let said = product.run(&["unmount", target.to_str().expect("text")]);
    (said.code(), said.err)
}

#[test]
fn what_lies_over_a_mount_keeps_it_and_is_named() {
    let _deadline = deadline("over a mount");
    let mut product = served();
    let over = Small::on(&product.target(), "size=64k");
    let (code, err) = unmount(&product);
    assert_eq!(code, 7, "{err}");
    assert!(err.contains("tmpfs") && err.contains("over it"), "{err}");
    assert!(is_mounted(&product.target()) && over.0.exists());
    let said = product.run(&["status", "--json"]);
    assert_eq!(said.code(), 7, "{said:?}");
    assert_eq!(said.json()["reasons"], serde_json::json!(["mount_covered"]));
    drop(over);
    assert_eq!(
        read_as(A, &[], &product.path("app/key")),
        Ok(b"value".to_vec()),
        "service goes on"
    );
    assert_eq!(unmount(&product).0, 0);
    assert!(!is_mounted(&product.target()));
    assert!(product.ended(Duration::from_secs(5)).is_some_and(|s| s.success()));
}

#[test]
fn what_is_mounted_below_is_nobody_elses_to_take_away() {
    let _deadline = deadline("below a mount");
    let mut product = served();
    let (file, below) = (product.dir().join("plain"), product.path("app/key"));
    std::fs::write(&file, "plain").expect("write");
    let none = None::<&str>;
    // A container runtime's way to put a file in the place of a secret.
    mount(Some(&file), &below, none, MsFlags::MS_BIND, none).expect("bind");
    // And one that only shows a secret elsewhere, which keeps nothing.
    let shown = product.dir().join("shown");
    std::fs::write(&shown, "").expect("write");
    umount2(&below, MntFlags::MNT_DETACH).expect("umount");
    mount(Some(&below), &shown, none, MsFlags::MS_BIND, none).expect("bind");
    mount(Some(&file), &below, none, MsFlags::MS_BIND, none).expect("bind");
    let (code, err) = unmount(&product);
    assert_eq!(code, 7, "{err}");
    assert!(err.contains("below it") && err.contains("app/key"), "{err}");
    assert_eq!(std::fs::read_to_string(&below).expect("read"), "plain");
    umount2(&below, MntFlags::MNT_DETACH).expect("umount");
    assert_eq!(read_as(A, &[], &below), Ok(b"value".to_vec()));
    assert_eq!(unmount(&product).0, 0);
    assert!(!is_mounted(&product.target()));
    assert!(product.ended(Duration::from_secs(5)).is_some_and(|s| s.success()));
    umount2(&shown, MntFlags::MNT_DETACH).expect("umount");
}

#[test]
fn a_stop_that_cannot_unmount_says_so_and_a_dead_mount_is_found_below() {
    let _deadline = deadline("stop below a mount");
    let mut product = served();
    let over = Small::on(&product.target(), "size=64k");
    // SAFETY: the daemon is a child that was not reaped.
    unsafe { libc::kill(product.pid() as i32, libc::SIGTERM) };
    let status = product.ended(Duration::from_secs(10)).expect("it ends");
    assert_eq!(status.code(), Some(7));
    let (code, err) = unmount(&product);
    assert_eq!(code, 7, "{err}");
    assert!(err.contains("tmpfs"), "{err}");
    drop(over);
    assert_eq!(unmount(&product).0, 0, "the dead one");
    assert!(!is_mounted(&product.target()));
}

#[test]
fn status_is_what_a_reader_would_find() {
    let _deadline = deadline("status");
    let mut product = served();
    let status = |product: &Product| {
        let (json, text) = (product.run(&["status", "--json"]), product.run(&["status"]));
        assert_eq!(json.code(), text.code());
        (json.code(), json.json(), text.out)
    };
    let (code, well, text) = status(&product);
    assert_eq!(
        (code, &well["healthy"], &well["reasons"]),
        (0, &true.into(), &serde_json::json!([]))
    );
    assert!(
        well["uptime_seconds"].is_u64() && text.starts_with("healthy"),
        "{well} {text}"
    );
    assert_eq!(
        well["failed_reads"],
        serde_json::json!({"log_full": 0, "log_unwritable": 0, "damaged": 0, "unavailable": 0})
    );
    product.crash();
    let (code, ill, text) = status(&product);
    assert_eq!((code, &ill["healthy"]), (7, &false.into()), "{ill}");
    assert_eq!(ill["reasons"], serde_json::json!(["not_mounted", "dead_mount"]));
    let target = product.target();
    let target = target.to_str().expect("text");
    assert_eq!(ill["dead_mount"], target);
    assert!(text.contains(&format!("wardfs unmount {target}")), "{text}");
    product.run(&["unmount", target]).ok();
    let (code, ill, text) = status(&product);
    assert_eq!(
        (code, &ill["reasons"]),
        (7, &serde_json::json!(["not_mounted"])),
        "{ill}"
    );
    assert!(text.contains("wardfs mount DIR"), "{text}");
}
