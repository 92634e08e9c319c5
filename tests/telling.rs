//! Answers tell nobody more of a secret than what he may ask for elsewhere.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Deadline;
use support::product::{A, B, Product};

/// A file with this text, by its path.
fn file(product: &Product, name: &str, text: &str) -> String {
    let path = product.dir().join(name);
    std::fs::write(&path, text).expect("write");
    path.to_str().expect("a path").to_string()
}

fn document(statements: &[Value]) -> String {
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

/// Sets the policy of a secret, or a guardrail.
fn set(product: &Product, whose: [&str; 3], statements: &[Value]) {
    let path = file(product, "document.json", &document(statements));
    product.run(&[whose[0], whose[1], whose[2], path.as_str()]).ok();
}

#[test]
fn an_explanation_tells_a_stranger_no_more_than_why_does() {
    let _deadline = Deadline::new(Duration::from_secs(60), "explanations");
    let mut product = Product::new();
    product.put("app/two", "v1", &[]);
    let reading = "secretsmanager:GetSecretValue";
    set(
        &product,
        ["policy", "set", "app/two"],
        &[
            json!({"Sid": "ReadersOfPayroll", "Effect": "Allow", "Principal": {"Uid": "61001", "Gid": "61010", "Unit": "payroll.service"},
                   "Action": reading, "Resource": "*"}),
            json!({"Sid": "NotMallory", "Effect": "Deny", "Principal": "*", "Action": reading, "Resource": "*",
                   "Condition": {"StringEquals": {"secretsmanager:VersionStage": "topsecret"}}}),
            json!({"Sid": "Seer", "Effect": "Allow", "Principal": {"Uid": "61003"}, "Action": "secretsmanager:GetResourcePolicy",
                   "Resource": "*"}),
        ],
    );
    set(
        &product,
        ["guardrail", "set", "grd"],
        &[
            json!({"Sid": "GuardSecretSid", "Effect": "Deny", "Action": reading, "Resource": "*",
                   "Condition": {"StringEquals": {"wardfs:LoginUid": "4711"}}}),
        ],
    );
    product.put("app/two", "v2", &["--label", "topsecret"]);
    product.put("app/two", "v3", &["--label", "open"]);
    product.mount();
    let explain = |uid: u32, more: &[&str]| {
        let who = format!("uid:{uid}");
        let args = [&["--json", "policy", "explain", "app/two", "--as", &who], more].concat();
        product.run_as(uid, &[], &args, b"")
    };
    let refusals = |product: &Product| {
        let records = product.records();
        let of =
            |r: &&Value| r["eventName"] == "ExplainDecision" && r["outcome"] == "denied" && r["uid"] == B;
        records.iter().filter(of).count()
    };
    for more in [&[][..], &["--action", "PutResourcePolicy"]] {
        let said = explain(B, more);
        assert_eq!(said.code(), 3, "{said:?}");
        let answer = said.json();
        assert_eq!(
            (
                &answer["decision"],
                &answer["reason"],
                &answer["statement"],
                &answer["change"],
                &answer["drift"]
            ),
            (
                &json!("implicit_deny"),
                &json!("implicit_deny"),
                &Value::Null,
                &json!([]),
                &json!([])
            ),
            "{answer}"
        );
    }
    for supposed in [["--groups", "61010"], ["--unit", "payroll.service"]] {
        let said = explain(B, &supposed);
        assert_eq!((said.code(), said.out.as_str()), (3, ""), "{said:?}");
    }
    // Which labels there are is told to nobody who may not read what has them.
    let of_label = |uid: u32, label: &str| {
        let said = explain(uid, &["--label", label]);
        (said.code(), said.err.replace(label, "LABEL"), said.out)
    };
    let missing = of_label(B, "nosuch");
    assert_eq!((missing.0, missing.2.as_str()), (4, ""), "{missing:?}");
    assert_eq!(of_label(B, "topsecret"), missing);
    assert_eq!(of_label(A, "topsecret"), missing);
    assert_eq!(of_label(A, "open").0, 0);
    assert!(refusals(&product) > 0);
    // A reader is told that he may, and by which of the policy's statements, and nothing of what would keep him out.
    let answer = explain(A, &[]).ok().json();
    assert_eq!(
        (&answer["statement"], &answer["change"]),
        (&json!("ReadersOfPayroll"), &json!([])),
        "{answer}"
    );
    // Who may see the policy is told what it says, and nothing of guardrails.
    let said = explain(61003, &["--groups", "61010"]);
    let answer = said.ok().json();
    let change = answer["change"].to_string();
    assert!(
        change.contains("NotMallory") && !change.contains("GuardSecretSid"),
        "{answer}"
    );
    let answer = product.run(&["--json", "policy", "explain", "app/two", "--as", "uid:61001"]);
    assert!(answer.out.contains("GuardSecretSid"), "{answer:?}");
}

#[test]
fn status_tells_a_stranger_no_count_of_open_files() {
    let _deadline = Deadline::new(Duration::from_secs(60), "status");
    let product = Product::mounted();
    let of_root = product.run(&["--json", "status"]).ok().json();
    assert_eq!(of_root["open_handles"], 0);
    let of_stranger = product.run_as(B, &[], &["--json", "status"], b"").ok().json();
    assert!(of_stranger.get("open_handles").is_none(), "{of_stranger}");
}
