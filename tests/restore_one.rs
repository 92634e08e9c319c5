//! One secret out of a backup: where it comes back, with what, and where it does not.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Deadline;
use support::product::{A, B, Product, read_as};

struct Backed {
    product: Product,
    file: String,
}

impl Backed {
    fn restore(&self, more: &[&str]) -> support::product::Said {
        let command = [&["--json", "store", "restore", &self.file], more].concat();
        self.product.run(&command)
    }

    fn describe(&self, name: &str) -> Value {
        self.product.run(&["--json", "describe", name]).ok().json()
    }

    fn get(&self, more: &[&str]) -> String {
        self.product.run(&[&["get"], more].concat()).ok().out
    }
}

/// Three versions of a secret with labels, tags and a policy, in a backup.
fn backed() -> Backed {
    let product = Product::new();
    let a = format!("uid:{A}");
    product.put(
        "app/db",
        b"one",
        &["--allow", "uid:0", "--allow", &a, "--tag", "team=data"],
    );
    product.put("app/db", b"two", &["--description", "orders"]);
    product.put("app/db", b"next", &["--label", "pending"]);
    product.put("app/other", b"other", &["--allow", "uid:0"]);
    let file = product.dir().join("backup").to_str().expect("text").to_string();
    product.run(&["store", "backup", &file]).ok();
    Backed { product, file }
}

#[test]
fn a_deleted_secret_comes_back_whole() {
    let _deadline = Deadline::new(Duration::from_secs(60), "a deleted secret");
    for purge in [true, false] {
        let mut backed = backed();
        let before = backed.describe("app/db");
        let more: &[&str] = if purge { &["--purge"] } else { &[] };
        let delete = [&["delete", "app/db", "--now"], more].concat();
        backed.product.run(&delete).ok();
        backed.product.put("app/other", b"changed", &[]);

        let bytes = || std::fs::read(backed.product.store().join("store.redb")).expect("store");
        let stood = bytes();
        let tried = backed.restore(&["--only", "app/db", "--dry-run"]).ok().json();
        assert_eq!(
            (&tried["dry_run"], &tried["versions"]),
            (&json!(true), &json!(3)),
            "{tried}"
        );
        assert_eq!(bytes(), stood, "a dry run changes nothing");
        assert_eq!(backed.product.run(&["get", "app/db"]).code(), 4);

        let said = backed.restore(&["--only", "app/db"]).ok().json();
        assert_eq!(said["readers"], tried["readers"], "{said}");
        assert_eq!(said["readers"], before["readers"], "{said}");
        assert_eq!(
            (&said["created"], &said["root_may_read"]),
            (&json!(true), &json!(true))
        );
        let after = backed.describe("app/db");
        for kept in [
            "description",
            "labels",
            "tags",
            "version",
            "versions",
            "readers",
            "created",
        ] {
            assert_eq!(after[kept], before[kept], "purge {purge}: {kept}");
        }
        assert_eq!(backed.get(&["app/db"]), "two");
        assert_eq!(backed.get(&["app/db", "--label", "previous"]), "one");
        assert_eq!(backed.get(&["app/db", "--label", "pending"]), "next");
        assert_eq!(backed.get(&["app/other"]), "changed", "no other is touched");
        let record = backed
            .product
            .record("a restore", |r| r["eventName"] == "RestoreSecret");
        assert_eq!(record["requestParameters"]["secretId"], "app/db", "{record}");
        assert_eq!(record["requestParameters"]["versions"], 3, "{record}");
        assert!(!record.to_string().contains("\"two\""), "{record}");
        backed.product.mount();
        assert_eq!(
            read_as(A, &[], &backed.product.path("app/db")),
            Ok(b"two".to_vec())
        );
        assert_eq!(read_as(B, &[], &backed.product.path("app/db")), Err(libc::EACCES));
        backed.product.stop();
        backed.product.run(&["store", "check"]).ok();
        backed.product.run(&["audit", "verify"]).ok();
    }
}

#[test]
fn what_is_there_is_left_alone_unless_it_is_said() {
    let _deadline = Deadline::new(Duration::from_secs(60), "a secret that is there");
    let backed = backed();
    backed.product.put("app/db", b"three", &[]);
    let refused = backed.restore(&["--only", "app/db"]);
    assert_eq!(refused.code(), 5, "{refused:?}");
    assert!(refused.err.contains("--new-version"), "{refused:?}");
    assert_eq!(backed.get(&["app/db"]), "three");

    let said = backed.restore(&["--only", "app/db", "--new-version"]).ok().json();
    assert_eq!(
        (&said["created"], &said["versions"]),
        (&json!(false), &json!(1)),
        "{said}"
    );
    assert_eq!(backed.get(&["app/db"]), "two");
    assert_eq!(backed.get(&["app/db", "--label", "previous"]), "three");

    let said = backed
        .restore(&["--only", "app/db", "--as", "app/old"])
        .ok()
        .json();
    assert_eq!(
        (&said["name"], &said["from"]),
        (&json!("app/old"), &json!("app/db")),
        "{said}"
    );
    assert_eq!(backed.get(&["app/old"]), "two");
    assert_eq!(backed.get(&["app/old", "--label", "previous"]), "one");
    let again = backed.restore(&["--only", "app/db", "--as", "app/old"]);
    assert_eq!(again.code(), 5, "{again:?}");
    let below = backed.restore(&["--only", "app/db", "--as", "app/db/below"]);
    assert_eq!(below.code(), 5, "{below:?}");
    backed.product.run(&["store", "check"]).ok();
}

#[test]
fn a_known_name_keeps_its_policy_and_a_guardrail_binds() {
    let _deadline = Deadline::new(Duration::from_secs(60), "policies");
    let backed = backed();
    backed
        .product
        .run(&["policy", "revoke", "app/db", &format!("uid:{A}")])
        .ok();
    backed.product.run(&["delete", "app/db", "--now"]).ok();
    let said = backed.restore(&["--only", "app/db"]).ok().json();
    assert!(!said["readers"].to_string().contains(&A.to_string()), "{said}");

    // Who may set no policy brings none back.
    backed.product.run(&["delete", "app/db", "--now", "--purge"]).ok();
    let deny = |action: &str| json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": action, "Resource": "*"}]});
    let document = backed
        .product
        .document("no-policies", &deny("secretsmanager:PutResourcePolicy"));
    backed
        .product
        .run(&["guardrail", "set", "no-policies", &document])
        .ok();
    let said = backed.restore(&["--only", "app/db"]).ok().json();
    assert_eq!(said["readers"], json!([]), "{said}");
    assert!(
        said["warnings"]
            .to_string()
            .contains("its policy was left behind"),
        "{said}"
    );
    for action in ["CreateSecret", "RestoreSecret"] {
        let document = backed
            .product
            .document(action, &deny(&format!("secretsmanager:{action}")));
        backed
            .product
            .run(&["guardrail", "set", "no-restores", &document])
            .ok();
        let denied = backed.restore(&["--only", "app/db", "--as", "app/copy"]);
        assert_eq!(denied.code(), 3, "{action}: {denied:?}");
    }
}

#[test]
fn what_cannot_come_back_says_why() {
    let _deadline = Deadline::new(Duration::from_secs(60), "refusals");
    let mut backed = backed();
    assert_eq!(backed.restore(&["--only", "app/none"]).code(), 4);
    assert_eq!(
        backed.restore(&["--only", "app/db", "--accept-rollback"]).code(),
        2
    );
    assert_eq!(backed.restore(&["--as", "app/db"]).code(), 2);
    backed.product.run(&["delete", "app/db", "--now"]).ok();
    let other = Product::new();
    let foreign = other.run(&["store", "restore", &backed.file, "--only", "app/db"]);
    assert_eq!(foreign.code(), 6, "{foreign:?}");
    let mut damaged = std::fs::read(&backed.file).expect("read");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let file = backed.product.dir().join("damaged");
    std::fs::write(&file, damaged).expect("write");
    let file = file.to_str().expect("text");
    let said = backed
        .product
        .run(&["store", "restore", file, "--only", "app/db"]);
    assert_eq!(said.code(), 6, "{said:?}");
    backed.product.mount();
    assert_eq!(backed.restore(&["--only", "app/db"]).code(), 7);
    backed.product.stop();
    backed.restore(&["--only", "app/db"]).ok();
}
