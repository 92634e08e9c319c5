//! Who holds the lock of a directory under `/proc` holds up whoever looks there, and not the service.

mod support;

use std::time::{Duration, Instant};

use support::attackers::{Account, Attacker, build};
use support::product::{A, B, Product, read_as};
use support::{Deadline, Run};

#[test]
fn who_holds_the_directories_of_its_processes_holds_nobody_up() {
    let _deadline = Deadline::new(Duration::from_secs(90), "held processes");
    let account = Account::new("wardfs-held", 60_728, &[]);
    let mut product = Product::new();
    // Groups and the record of a refusal are looked at in the process.
    let rules = [
        "--allow",
        &format!("uid:{A}"),
        "--allow",
        "gid:44829",
        "--deny",
        &format!("uid:{B}"),
    ];
    product.put("app/shared", "s3cret", &rules);
    product.mount();
    let path = product.path("app/shared");
    assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
    let words = [path.to_str().expect("text"), "16"];
    let attacker = Attacker::start(&account, &build("prochang"), &words, "processes ask");
    // Longer than each of them needs to reach a serving thread.
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..5 {
        let (path, began) = (path.clone(), Instant::now());
        let reader = Run::uid(A).limit(Duration::from_secs(20));
        let read = reader.call(|| std::fs::read(&path).map_err(|e| e.raw_os_error()));
        assert_eq!(read, Ok(b"s3cret".to_vec()));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    product.run(&["status"]).ok();
    let began = Instant::now();
    product.unmount();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(attacker);
}
