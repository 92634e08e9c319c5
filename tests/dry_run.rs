//! `policy set --dry-run` says who gains and loses, as the change then does, and changes nothing.

mod support;

use std::time::Duration;

use support::Deadline;
use support::product::{A, B, Product, read_as};

#[test]
fn a_dry_run_says_what_the_change_does_and_changes_nothing() {
    let _deadline = Deadline::new(Duration::from_secs(60), "dry run");
    let product = Product::mounted();
    product.put("app/value", "x", &["--allow", &format!("uid:{A}")]);
    let policy = product.dir().join("policy.json");
    let document = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"Uid":"{B}"}},
            "Action":"secretsmanager:GetSecretValue","Resource":"*"}}}}"#
    );
    std::fs::write(&policy, document).expect("write");
    let policy = policy.to_str().expect("a path");
    let before = product.run(&["policy", "get", "app/value"]).ok().out;
    let said = product
        .run(&["policy", "set", "app/value", policy, "--dry-run", "--json"])
        .ok()
        .json();
    assert_eq!(said["gain"], serde_json::json!([format!("uid {B}")]));
    assert_eq!(said["lose"], serde_json::json!([format!("uid {A}")]));
    let text = product
        .run(&["policy", "set", "app/value", policy, "--dry-run"])
        .ok()
        .out;
    assert!(text.contains(&format!("uid {B} gains reading")) && text.contains(&format!("uid {A} loses")));
    assert_eq!(product.run(&["policy", "get", "app/value"]).ok().out, before);
    let path = product.path("app/value");
    let reads = || (read_as(A, &[], &path).is_ok(), read_as(B, &[], &path).is_ok());
    assert_eq!(reads(), (true, false));
    product.run(&["policy", "set", "app/value", policy]).ok();
    assert_eq!(reads(), (false, true));
    let same = product.run(&["policy", "set", "app/value", policy, "--dry-run"]);
    assert!(same.ok().out.contains("Nobody gains or loses"));
    let bad = product.dir().join("bad.json");
    std::fs::write(&bad, "{").expect("write");
    let bad = bad.to_str().expect("a path");
    let refused = product.run(&["policy", "set", "app/value", bad, "--dry-run"]);
    assert_eq!(refused.code(), 2);
    let nothing = product.run(&["policy", "set", "app/none", policy, "--dry-run"]);
    assert_eq!(nothing.code(), 4);
}
