//! The wall clock steps, forward by years and back before the store was made: reads, changes, refusals and the log go
//! on, records say what the clock said, and policies that ask for the time follow it.
//!
//! The clock of the daemon alone is made to step, by libfaketime; the machine's stays as it is.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use support::product::{A, B, Product, read_as};
use support::{Deadline, wait_until};

/// A daemon whose clock says what is written here.
struct Clock(PathBuf);

impl Clock {
    fn says(&self, offset: &str) {
        // In one step: the daemon asks at any moment.
        let new = self.0.with_extension("new");
        std::fs::write(&new, offset).expect("the clock's file");
        std::fs::rename(new, &self.0).expect("set the clock");
    }

    /// Starts a product by this clock.
    fn mount(&self, product: &mut Product) {
        let library = [
            "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
            "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        ]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .expect("libfaketime (tests/run installs it)");
        let failed = product.try_mount_as(&[], |command| {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", &self.0)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        });
        assert!(failed.is_none(), "{failed:?}");
    }
}

fn year_now() -> i32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    1970 + (now.expect("after 1970").as_secs() / 31_556_952) as i32
}

/// The year in which the last read of `uid` happened, by its record.
fn year_of_read(product: &Product, uid: u32) -> i32 {
    let last = product.record("a read", |r| {
        r["uid"] == uid && r["eventName"] == "GetSecretValue"
    });
    let time = last["eventTime"].as_str().expect("a time");
    time[..4].parse().unwrap_or_else(|_| panic!("{time}"))
}

#[test]
fn the_wall_clock_may_step_either_way() {
    let _deadline = Deadline::new(Duration::from_secs(120), "clock steps");
    let mut product = Product::new();
    let clock = Clock(product.dir().join("clock"));
    clock.says("+0");
    product.put("app/db", "value 0", &["--allow", &format!("uid:{A}")]);
    let until = format!("{}-01-01T00:00:00Z", year_now() + 2);
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": {"Uid": A.to_string()}, "Action": "secretsmanager:GetSecretValue",
        "Resource": "*", "Condition": {"DateLessThan": {"aws:CurrentTime": until}}}});
    let file = product.dir().join("policy.json");
    std::fs::write(&file, policy.to_string()).expect("policy");
    product.put(
        "app/until",
        "in time",
        &["--policy", file.to_str().expect("a path")],
    );
    clock.mount(&mut product);

    // Forward by 3 years, back before the store was made, near the beginning and the end of 32 bits, and home again.
    let steps = [
        ("+0", 0),
        ("+3y", 3),
        ("-9y", -9),
        ("-55y", -55),
        ("+11y", 11),
        ("+70y", 70),
        ("+0", 0),
    ];
    for (n, (step, years)) in steps.into_iter().enumerate() {
        clock.says(step);
        let expected = year_now() + years;
        let value = format!("value {n}");
        product.put("app/db", &value, &[]);
        assert_eq!(
            read_as(A, &[], &product.path("app/db")),
            Ok(value.into_bytes()),
            "{step}"
        );
        let seen = year_of_read(&product, A);
        assert!(
            (expected - 1..=expected + 1).contains(&seen),
            "{step}: recorded in {seen}"
        );
        let timely = read_as(A, &[], &product.path("app/until"));
        match years >= 3 {
            true => assert_eq!(timely, Err(libc::EACCES), "{step}"),
            false => assert_eq!(timely, Ok(b"in time".to_vec()), "{step}"),
        }
        // More refusals than are written one by one: the rest is counted, and the count follows in its time.
        for _ in 0..15 {
            assert_eq!(
                read_as(B, &[], &product.path("app/db")),
                Err(libc::EACCES),
                "{step}"
            );
        }
        // The kernel asks twice now and then.
        let summed = || {
            let records = product.records();
            let of_b = records.iter().filter(|r| r["uid"] == B);
            let times = |r: &serde_json::Value| r["suppressed"].as_u64().unwrap_or(1);
            of_b.map(times).sum::<u64>() >= 15 * (n as u64 + 1)
        };
        wait_until(Duration::from_secs(5), "every refusal is on record", summed);
        product.run(&["audit", "verify"]).ok();
    }

    // A start by a clock that is behind everything in store and log.
    product.stop();
    clock.says("-20y");
    clock.mount(&mut product);
    assert_eq!(read_as(A, &[], &product.path("app/db")), Ok(b"value 6".to_vec()));
    product.put("app/db", "after", &[]);
    assert_eq!(read_as(A, &[], &product.path("app/db")), Ok(b"after".to_vec()));
    product.run(&["audit", "verify"]).ok();
    product.stop();
    product.run(&["store", "check"]).ok();
    product.run(&["audit", "verify"]).ok();
}
