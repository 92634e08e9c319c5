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

/// A descriptor that A opened, read again whenever it is asked for.
struct Held {
    near: File,
    reader: Option<support::Child<()>>,
}

impl Held {
    fn open(path: std::path::PathBuf) -> Held {
        let (near, far) = socket_pair();
        let reader = Run::uid(A).start(move || {
            let mut far = File::from(far);
            let file = File::open(&path).expect("open");
            far.write_all(&[0]).expect("opened");
            let mut word = [0];
            while far.read(&mut word).is_ok_and(|n| n == 1) && word == *b"r" {
                let read = sys::pread(&file, 100, 0).map_err(|e| e.raw_os_error().unwrap_or(0));
                let errno = read.err().unwrap_or(0);
                far.write_all(&[errno as u8]).expect("answer");
            }
        });
        let mut near = File::from(near);
        near.read_exact(&mut [0]).expect("opened");
        Held {
            near,
            reader: Some(reader),
        }
    }

    /// The errno of its next read; 0 for bytes.
    fn read(&mut self) -> i32 {
        self.near.write_all(b"r").expect("ask");
        let mut answer = [0];
        self.near.read_exact(&mut answer).expect("answer");
        i32::from(answer[0])
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.near.write_all(b"e");
        if let Some(reader) = self.reader.take() {
            reader.join();
        }
    }
}

/// A policy that names labels is asked about those that the version has now, except that a rotation cuts nobody off.
#[test]
fn labels_reach_open_descriptors_and_a_rotation_cuts_nobody_off() {
    let _deadline = Deadline::new(Duration::from_secs(60), "labels and descriptors");
    let product = Product::mounted();
    let document = |extra: &str, label: &str| {
        format!(
            r#"{{"Version": "2012-10-17", "Statement": [
                {{"Effect": "Allow", "Principal": {{"Uid": "{A}"}}, "Action": "secretsmanager:GetSecretValue", "Resource": "*"{extra}}},
                {{"Sid": "No", "Effect": "Deny", "Principal": "*", "Action": "secretsmanager:GetSecretValue", "Resource": "*",
                  "Condition": {{"StringEquals": {{"secretsmanager:VersionStage": "{label}"}}}}}}]}}"#
        )
    };
    let set = |name: &str, text: String| {
        let file = product.dir().join("policy.json");
        std::fs::write(&file, text).expect("write");
        product
            .run(&["policy", "set", name, file.to_str().expect("a path")])
            .ok();
    };
    product.put("app/quar", "one", &[]);
    set("app/quar", document("", "quarantine"));
    let mut held = Held::open(product.path("app/quar"));
    assert_eq!(held.read(), 0);
    product
        .run(&["label", "move", "app/quar", "quarantine", "--to", "current"])
        .ok();
    assert_eq!(held.read(), libc::EACCES, "a Deny of a label that came later");
    product
        .run(&["label", "remove", "app/quar", "quarantine", "--from", "current"])
        .ok();
    assert_eq!(held.read(), 0);

    // Rotated: it stays the version that was current to who holds it, also where `previous` is denied, and others cannot
    // open that one.
    set("app/quar", document("", "previous"));
    product.put("app/quar", "two", &[]);
    assert_eq!(held.read(), 0);
    let previous = product.target().join(".versions/app/quar/previous");
    assert_eq!(support::product::read_as(A, &[], &previous), Err(libc::EACCES));
    // A label of its own on that version is asked about all the same.
    set("app/quar", document("", "leaked"));
    assert_eq!(held.read(), 0);
    product
        .run(&["label", "move", "app/quar", "leaked", "--to", "previous"])
        .ok();
    assert_eq!(held.read(), libc::EACCES);

    // An Allow by a label ends with the label.
    product.put("app/pub", "one", &[]);
    product
        .run(&["label", "move", "app/pub", "public", "--to", "current"])
        .ok();
    let public = r#", "Condition": {"StringEquals": {"secretsmanager:VersionStage": "public"}}"#;
    set("app/pub", document(public, "none"));
    let mut held = Held::open(product.path("app/pub"));
    assert_eq!(held.read(), 0);
    product
        .run(&["label", "remove", "app/pub", "public", "--from", "current"])
        .ok();
    assert_eq!(held.read(), libc::EACCES);
}

/// A value that is deleted while it is read is no damage.
#[test]
fn a_read_beside_a_deletion_is_no_damage() {
    let _deadline = Deadline::new(Duration::from_secs(90), "deleted meanwhile");
    let product = Product::mounted();
    let value = vec![b'v'; 60_000];
    let put = || {
        product
            .run_with(&["put", "app/big", "--allow", &format!("uid:{A}")], &value)
            .ok()
    };
    put();
    let path = product.path("app/big");
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (path, len) = (path.clone(), value.len());
            let stop = path.with_file_name("stop");
            Run::uid(A).start(move || {
                let mut damaged = 0;
                // Until the secret of that name is there.
                while std::fs::metadata(&stop).is_err() {
                    match std::fs::read(&path) {
                        Ok(read) => assert!(read.len() == len || read.is_empty()),
                        Err(e) => damaged += u32::from(e.raw_os_error() == Some(libc::EIO)),
                    }
                }
                damaged
            })
        })
        .collect();
    for _ in 0..20 {
        product.run(&["delete", "app/big", "--now"]).ok();
        put();
    }
    product.put("app/stop", "now", &["--allow", &format!("uid:{A}")]);
    let damaged: u32 = readers.into_iter().map(|r| r.join()).sum();
    assert_eq!(damaged, 0);
    let integrity = ["--json", "audit", "query", "--event", "IntegrityError"];
    assert_eq!(
        product
            .run(&integrity)
            .ok()
            .out
            .lines()
            .filter(|l| l.contains("IntegrityError\","))
            .count(),
        0
    );
}
