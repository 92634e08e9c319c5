//! The log says what a change changed: who gained and lost reading, labels, tags and settings from what to what.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Deadline;
use support::product::Product;

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "22222222-2222-4222-8222-222222222222";

/// A file with this text.
fn file(product: &Product, name: &str, text: &str) -> String {
    let path = product.dir().join(name);
    std::fs::write(&path, text).expect("write");
    path.to_str().expect("a path").to_string()
}

/// What the last record says besides the secret and the version.
fn last(product: &Product) -> Value {
    let record = product.records().pop().expect("a record");
    let mut parameters = record["requestParameters"].clone();
    for known in ["secretId", "versionId", "resolved", "besides"] {
        if let Some(all) = parameters.as_object_mut() {
            all.remove(known);
        }
    }
    parameters
}

fn digest(text: &str) -> String {
    use sha2::Digest;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(text))
}

#[test]
fn a_record_says_what_a_change_changed() {
    let _deadline = Deadline::new(Duration::from_secs(60), "what a change changed");
    let product = Product::new();
    let run = |args: &[&str]| {
        product.run(args).ok();
        last(&product)
    };
    let put = |args: &[&str], value: &str| {
        let args = [&["put", "app/db"], args].concat();
        product.run_with(&args, value.as_bytes()).ok();
        last(&product)
    };
    let text = || product.run(&["audit", "tail", "-n", "1"]).ok().out;

    let made = put(
        &[
            "--token",
            ONE,
            "--allow",
            "uid:61001",
            "--tag",
            "team=data",
            "--mode",
            "0440",
        ],
        "a",
    );
    assert_eq!(made["gained"], json!(["uid 61001"]), "{made}");
    assert_eq!(made["labels"], json!([{"label": "current", "to": ONE}]));
    assert_eq!(made["tags"], json!([{"tag": "team", "new": "data"}]));
    assert_eq!(made["settings"], json!([{"setting": "mode", "new": "0440"}]));
    assert!(made["digest"].is_string() && made["lost"].is_null(), "{made}");

    let rotated = put(&["--token", TWO], "b");
    assert_eq!(
        rotated,
        json!({"labels": [{"label": "current", "from": ONE, "to": TWO}, {"label": "previous", "to": ONE}]})
    );

    let denied = run(&["policy", "deny", "app/db", "uid:61001"]);
    assert_eq!(denied["lost"], json!(["uid 61001"]), "{denied}");
    assert!(denied["gained"].is_null(), "{denied}");
    assert!(text().contains("lost: uid 61001"), "{}", text());

    let undenied = run(&["policy", "undeny", "app/db", "uid:61001"]);
    assert_eq!(undenied["gained"], json!(["uid 61001"]), "{undenied}");
    assert!(undenied["digest"].is_string(), "{undenied}");
    let revoked = run(&["policy", "revoke", "app/db", "uid:61001"]);
    assert_eq!(revoked["lost"], json!(["uid 61001"]), "{revoked}");
    assert!(revoked["gained"].is_null(), "{revoked}");

    let document = r#"{"Version":"2012-10-17","Statement":{"Sid":"T","Effect":"Allow","Principal":{"Uid":"61002"},"Action":"secretsmanager:GetSecretValue","Resource":"*","Condition":{"StringEquals":{"secretsmanager:ResourceTag/team":"web"}}}}"#;
    let file_of = file(&product, "policy.json", document);
    let set = run(&["policy", "set", "app/db", &file_of]);
    assert_eq!(set["digest"], digest(document));
    assert!(set["gained"].is_null(), "nobody by a tag that it has not: {set}");

    let tagged = run(&["tag", "app/db", "team=web", "env=prod"]);
    assert_eq!(
        tagged["tags"],
        json!([{"tag": "env", "new": "prod"}, {"tag": "team", "old": "data", "new": "web"}])
    );
    assert_eq!(
        tagged["gained"],
        json!(["uid 61002"]),
        "a side door is on record: {tagged}"
    );
    assert!(text().contains("tag team: data → web"), "{}", text());

    let moved = run(&["label", "move", "app/db", "blue", "--to", ONE]);
    assert_eq!(moved, json!({"labels": [{"label": "blue", "to": ONE}]}));
    let removed = run(&["label", "remove", "app/db", "blue", "--from", ONE]);
    assert_eq!(removed, json!({"labels": [{"label": "blue", "from": ONE}]}));

    let described = put(&["--description", "the database"], "c");
    assert_eq!(
        described["settings"],
        json!([{"setting": "description", "new": "the database"}])
    );

    let deny = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"secretsmanager:GetSecretValue","Resource":"*"}}"#;
    let ceiling = file(&product, "deny.json", deny);
    let guarded = run(&["guardrail", "set", "keep", &ceiling]);
    assert_eq!(
        (&guarded["guardrail"], &guarded["digest"]),
        (&json!("keep"), &json!(digest(deny)))
    );
    assert_eq!(guarded["lost"], json!(["app/db: uid 61002"]), "{guarded}");
    assert!(text().contains("guardrail keep"), "{}", text());
    let freed = run(&["guardrail", "remove", "keep"]);
    assert_eq!(freed["gained"], json!(["app/db: uid 61002"]), "{freed}");

    let allow = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"secretsmanager:GetSecretValue","Resource":"*"}}"#;
    let allow = file(&product, "allow.json", allow);
    let given = run(&["identity", "set", "uid:61003", &allow, "--tag", "team=ops"]);
    assert_eq!(given["identity"], "uid:61003");
    assert_eq!(given["gained"], json!(["app/db: uid 61003"]), "{given}");
    assert_eq!(given["tags"], json!([{"tag": "team", "new": "ops"}]));
}
