//! The tests' own machinery: what it promises when a test goes wrong.

use std::time::Duration;

use super::fs::*;
use super::support::*;
use super::{A, TEXT, errno, mounted};

/// A test that hangs is ended: its children die, its mounts are aborted, and it fails.
#[test]
fn a_deadline_kills_children_aborts_mounts_and_fails_the_test() {
    let deadline = Deadline::new(Duration::from_millis(1500), "a test that hangs, as it should");
    let (world, mount) = mounted();
    world.rule(|s| {
        if s.op == "READ" {
            std::thread::sleep(Duration::from_secs(9));
        }
        Answer::Usual
    });
    let path = mount.join("value");
    let mut child = Run::uid(A).start(|| std::fs::read(&path).map(drop).map_err(errno));
    world.wait_for("it hangs", |s| s.op == "READ");
    wait_until(
        Duration::from_secs(2),
        "the child is gone long before the reply",
        || child.ended(),
    );
    assert!(deadline.struck());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(deadline))).is_err());
}

/// A panic in a child is the test's, with its text; a child that dies without a word is one too.
#[test]
fn a_childs_panic_and_a_childs_death_reach_the_test() {
    require_root();
    let caught = |work: fn()| {
        let run = std::panic::catch_unwind(|| Run::uid(A).call(work));
        *run.expect_err("it panics").downcast::<String>().expect("a text")
    };
    assert!(caught(|| panic!("of its own")).ends_with("of its own"));
    // SAFETY: ends the child at once.
    assert!(caught(|| unsafe { libc::_exit(0) }).contains("without a result"));
}

/// A mount, and all that was put beside it, is gone after its guard, also when files in it are open.
#[test]
fn a_mount_goes_with_its_guard() {
    let (_world, mount) = mounted();
    let (path, aside) = (mount.path(), mount.beside("aside"));
    let held = std::fs::File::open(mount.join("value")).expect("open");
    assert_eq!(sys::pread(&held, 100, 0).expect("read"), TEXT);
    drop(mount);
    assert!(!path.exists() && !aside.exists());
    assert!(sys::pread(&held, 100, 0).is_err());
}

/// What a child becomes is all it is: ids, groups, no capabilities; and its own process afterwards.
#[test]
fn a_child_has_the_ids_it_was_given_and_nothing_else() {
    require_root();
    let status = Run::uid(A)
        .gid(70000)
        .group(70001)
        .call(|| std::fs::read_to_string("/proc/self/status").unwrap());
    let row = |key: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(key))
            .unwrap()
            .split_whitespace()
            .collect()
    };
    let rows: [Vec<&str>; 4] = ["Uid:", "Gid:", "Groups:", "CapEff:"].map(row);
    assert_eq!(
        rows,
        [
            vec!["61001"; 4],
            vec!["70000"; 4],
            vec!["70001"],
            vec!["0000000000000000"]
        ]
    );
}
