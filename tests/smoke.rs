//! The thinnest true path: init, put, mount, read, refuse, record.

mod support;

use std::time::Duration;
use support::product::{A, B, Product, read_as};

#[test]
fn a_mounted_secret_end_to_end() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "smoke");
    let mut product = Product::new();
    product.put("app/db/password", "s3cret", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let path = product.path("app/db/password");
    assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
    assert_eq!(read_as(B, &[], &path), Err(libc::EACCES));
    assert_eq!(
        read_as(0, &[], &path),
        Err(libc::EACCES),
        "root is a caller like any other"
    );
    product.refusal(B, "implicit_deny");
    let read = product.record("the read", |r| {
        r["uid"] == A && r["eventName"] == "GetSecretValue"
    });
    assert_eq!(read["requestParameters"]["secretId"], "app/db/password");
    assert_eq!(product.run_as(B, &[], &["get", "app/db/password"], b"").code(), 3);
    assert_eq!(
        product.run_as(A, &[], &["get", "app/db/password"], b"").ok().out,
        "s3cret"
    );
    product.run(&["audit", "verify"]).ok();
    product.stop();
}
