//! A changed policy and a deleted secret reach descriptors that are already open.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::product::{A, Product};
use support::{Deadline, Run, socket_pair, sys};

/// Opens as A, runs `change`, and gives A's next read and how long after the change's end it was answered.
fn after(what: &str, change: &[&str], wanted: i32) {
    let _deadline = Deadline::new(Duration::from_secs(30), what);
    let mut product = Product::new();
    product.put("app/key", "to-be-revoked", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let path = product.path("app/key");
    let (near, far) = socket_pair();
    let (mut near, far) = (File::from(near), far);
    let reader = Run::uid(A).start(move || {
        let mut far = File::from(far);
        let file = File::open(&path).expect("open");
        assert_eq!(
            sys::pread(&file, 100, 0).expect("the first read"),
            b"to-be-revoked"
        );
        far.write_all(b"o").expect("say that it is open");
        far.read_exact(&mut [0]).expect("be told to go on");
        let got = sys::pread(&file, 100, 0).map_err(|e| e.raw_os_error().unwrap_or(0));
        far.write_all(b"d").expect("say that it is done");
        got
    });
    near.read_exact(&mut [0]).expect("opened");
    product.run(change).ok();
    let begin = Instant::now();
    near.write_all(b"g").expect("go");
    near.read_exact(&mut [0]).expect("done");
    let took = begin.elapsed();
    assert_eq!(reader.join(), Err(wanted), "{what}");
    assert!(took < Duration::from_millis(100), "{what}: {took:?}");
    eprintln!("{what}: the next read was refused {took:?} after the command returned");
}

#[test]
fn a_deny_reaches_open_descriptors() {
    after(
        "deny",
        &["policy", "deny", "app/key", &format!("uid:{A}")],
        libc::EACCES,
    );
}

#[test]
fn a_delete_reaches_open_descriptors() {
    after("delete", &["delete", "--now", "app/key"], libc::EKEYREVOKED);
}
