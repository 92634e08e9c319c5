//! The disk under the log, or under the store, stops answering for a while: who needs it waits, and nothing else.

mod support;

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use support::disk::Disk;
use support::product::{A, Product, read_as};
use support::small::Small;
use support::{Child, Deadline, Run, wait_until};

const VALUE: &[u8] = b"s3cret";
const NAME: &str = "app/db/password";
/// Serving threads, if nothing else is configured.
const THREADS: usize = 4;
const READERS: usize = 2 * THREADS + 1;
/// Long enough for a reader that would not wait.
const WHILE: Duration = Duration::from_millis(700);

fn product() -> Product {
    let product = Product::new();
    product.put(NAME, VALUE, &["--allow", &format!("uid:{A}")]);
    product
}

/// No reader gets a byte that cannot be recorded, `status` says what it is, and who waits gets his in the end.
#[test]
fn the_disk_of_the_log() {
    let deadline = Deadline::new(Duration::from_secs(60), "a hanging log");
    let mut product = product();
    let disk = product.move_log(Disk::new);
    product.mount();
    assert_eq!(read_as(A, &[], &product.path(NAME)), Ok(VALUE.to_vec()));
    let path = product.path(NAME);
    let hanging = disk.hang();
    let mut readers: Vec<Child<_>> = (0..READERS)
        .map(|_| {
            Run::uid(A)
                .limit(Duration::from_secs(30))
                .start(|| std::fs::read(&path).map_err(|e| e.raw_os_error()))
        })
        .collect();
    std::thread::sleep(WHILE);
    assert!(
        readers.iter_mut().all(|r| !r.ended()),
        "a value without its record"
    );
    let status = product.run(&["--json", "status"]);
    assert_eq!(status.code(), 7, "{status:?}");
    let status = status.json();
    assert_eq!(status["reasons"], serde_json::json!(["log_waiting"]));
    assert_eq!(
        status["audit"],
        serde_json::json!({"healthy": false, "waiting": true})
    );
    let told = product.run(&["status"]).out;
    assert!(told.contains("ITS DISK DOES NOT ANSWER"), "{told}");
    // The kernel lets nobody go whose request a serving thread has taken; the others wait in its queue.
    let mut killed = readers.split_off(THREADS);
    killed.iter().for_each(|r| r.signal(libc::SIGKILL));
    wait_until(Duration::from_secs(2), "the end of a killed reader", || {
        killed.iter_mut().any(Child::ended)
    });
    drop(hanging);
    for reader in readers {
        assert_eq!(reader.join(), Ok(VALUE.to_vec()));
    }
    drop(killed);
    product.stop();
    let reads = product.recorded_reads();
    assert!((1 + THREADS..1 + READERS).contains(&reads), "{reads}");
    product.run(&["audit", "verify"]).ok();
    drop((disk, deadline));
}

/// Secrets are read while the store cannot be written; a change waits, is made, and is there.
#[test]
fn the_disk_of_the_store() {
    let deadline = Deadline::new(Duration::from_secs(60), "a hanging store");
    let mut product = Product::empty();
    let disk = Disk::new(product.dir());
    product.run(&["init"]).ok();
    let allow = ["--allow", &format!("uid:{A}")];
    product.put(NAME, VALUE, &allow);
    // Too long to be kept in memory, so that each read of it comes from the file.
    let long = vec![b'x'; 20_000];
    product.put("long", &long, &allow);
    let log = Small::under(&product, "16m");
    product.mount();
    let read = |name: &str| read_as(A, &[], &product.path(name));
    let mut reads = 0;
    let mut now = VALUE.to_vec();
    // The file has to grow for some of them.
    for (round, length) in [7, 60_000, 7, 8, 65_536].into_iter().enumerate() {
        let hanging = disk.hang();
        let later = vec![b'0' + round as u8; length];
        let mut put = product.command(&["put", NAME]);
        let mut put = put
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("start put");
        let mut value = put.stdin.take().expect("piped");
        value.write_all(&later).expect("the value");
        drop(value);
        std::thread::sleep(WHILE);
        for _ in 0..10 {
            assert_eq!(read(NAME).as_ref(), Ok(&now), "round {round}");
            assert_eq!(read("long").as_ref(), Ok(&long), "round {round}");
            reads += 2;
        }
        let acknowledged = put.try_wait().expect("wait");
        assert_eq!(acknowledged, None, "round {round}: what is not on disk");
        drop(hanging);
        assert!(put.wait().expect("wait").success(), "round {round}");
        assert_eq!(read(NAME).as_ref(), Ok(&later), "round {round}");
        reads += 1;
        now = later;
    }
    product.stop();
    assert!(
        product.recorded_reads() >= reads,
        "a long one may take several reads"
    );
    product.run(&["audit", "verify"]).ok();
    product.run(&["store", "check"]).ok();
    drop((log, disk, deadline));
}
