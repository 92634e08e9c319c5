//! Labels, tags and tokens, against the mounted product.

mod support;

use std::time::Duration;

use serde_json::{Value, json};

use support::Deadline;
use support::product::{A, B, Product, read_as};

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "22222222-2222-4222-8222-222222222222";
const THREE: &str = "33333333-3333-4333-8333-333333333333";

fn labels(product: &Product) -> Value {
    product.run(&["describe", "app/db", "--json"]).ok().json()["labels"].clone()
}

fn store(product: &Product, value: &str, args: &[&str]) -> support::product::Said {
    product.run_with(&[&["put", "app/db"], args].concat(), value.as_bytes())
}

#[test]
fn labels_move_by_the_rules_of_aws() {
    let _deadline = Deadline::new(Duration::from_secs(90), "labels");
    let product = Product::mounted();
    let path = product.path("app/db");
    let read = || String::from_utf8(read_as(A, &[], &path).expect("read")).expect("text");
    // The first version is current, whatever label it was given.
    store(
        &product,
        "one",
        &[
            "--allow",
            &format!("uid:{A}"),
            "--token",
            ONE,
            "--label",
            "AWSPENDING",
        ],
    )
    .ok();
    assert_eq!(labels(&product), json!({"current": ONE, "pending": ONE}));
    // A label moves alone.
    store(&product, "two", &["--token", TWO, "--label", "pending"]).ok();
    assert_eq!(labels(&product), json!({"current": ONE, "pending": TWO}));
    assert_eq!(read(), "one");
    let open = std::fs::File::open(&path);
    // A put without labels moves current, and sets previous.
    store(&product, "three", &["--token", THREE]).ok();
    assert_eq!(
        labels(&product),
        json!({"current": THREE, "pending": TWO, "previous": ONE})
    );
    assert_eq!(read(), "three");
    drop(open);

    let moved = |args: &[&str]| product.run(&[&["label"], args].concat()).code();
    // A label that another version has needs that one named, and named rightly.
    assert_eq!(moved(&["move", "app/db", "current", "--to", TWO]), 5);
    assert_eq!(
        moved(&["move", "app/db", "current", "--to", TWO, "--from", ONE]),
        5
    );
    assert_eq!(moved(&["move", "app/db", "fresh", "--to", TWO, "--from", ONE]), 5);
    assert_eq!(moved(&["move", "app/db", "current", "--to", &"9".repeat(36)]), 4);
    assert_eq!(moved(&["move", "app/none", "current", "--to", TWO]), 4);
    assert_eq!(moved(&["move", "app/db", "../x", "--to", TWO]), 2);
    assert_eq!(moved(&["remove", "app/db", "current", "--from", THREE]), 2);
    assert_eq!(moved(&["remove", "app/db", "pending", "--from", THREE]), 5);
    assert_eq!(read(), "three");
    // Rolled back and forth; asking again for what is so already is no error.
    assert_eq!(
        moved(&["move", "app/db", "current", "--to", TWO, "--from", THREE]),
        0
    );
    assert_eq!(moved(&["move", "app/db", "current", "--to", TWO]), 0);
    assert_eq!(
        labels(&product),
        json!({"current": TWO, "pending": TWO, "previous": THREE})
    );
    assert_eq!(read(), "two");
    assert_eq!(moved(&["remove", "app/db", "pending", "--from", TWO]), 0);
    assert_eq!(moved(&["move", "app/db", "keep", "--to", ONE]), 0);
    assert_eq!(
        labels(&product),
        json!({"current": TWO, "previous": THREE, "keep": ONE})
    );
    // Its name is a link below .versions.
    assert_eq!(
        read_as(A, &[], &product.path(".versions/app/db/keep")),
        Ok(b"one".to_vec())
    );
    // At most twenty.
    for n in 3..20 {
        assert_eq!(moved(&["move", "app/db", &format!("l{n}"), "--to", ONE]), 0);
    }
    assert_eq!(moved(&["move", "app/db", "one-too-many", "--to", ONE]), 2);
    // A stranger gets no answer to his guesses, and a guardrail may keep a label where it is.
    for version in [TWO, "99999999-9999-4999-8999-999999999999"] {
        let said = product.run_as(
            B,
            &[],
            &["label", "move", "app/db", "current", "--to", version],
            b"",
        );
        assert_eq!(said.code(), 3, "{said:?}");
    }
    let pinned = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Resource": "*",
        "Action": "secretsmanager:UpdateSecretVersionStage",
        "Condition": {"StringEquals": {"secretsmanager:VersionStage": "AWSCURRENT"}}}]});
    let file = product.dir().join("pinned.json");
    std::fs::write(&file, pinned.to_string()).expect("write");
    product
        .run(&["guardrail", "set", "pinned", file.to_str().expect("path")])
        .ok();
    assert_eq!(
        moved(&["move", "app/db", "current", "--to", ONE, "--from", TWO]),
        3
    );
    assert_eq!(moved(&["move", "app/db", "keep", "--to", TWO, "--from", ONE]), 0);
    product.record("the move", |r| {
        r["eventName"] == "UpdateSecretVersionStage" && r["outcome"] == "denied" && r["layer"] == "guardrail"
    });
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn a_put_that_is_repeated_with_its_token_changes_nothing() {
    let _deadline = Deadline::new(Duration::from_secs(60), "tokens");
    let mut product = Product::mounted();
    let first = store(&product, "one", &["--token", ONE, "--json"]).ok().json();
    assert_eq!(
        (&first["created"], &first["repeated"]),
        (&json!(true), &json!(false))
    );
    store(&product, "two", &["--token", TWO]).ok();
    let before = labels(&product);
    for _ in 0..2 {
        let again = store(&product, "one", &["--token", ONE, "--json"]).ok().json();
        assert_eq!(
            (&again["repeated"], &again["version"]),
            (&json!(true), &json!(ONE))
        );
        let other = store(&product, "other", &["--token", ONE]);
        assert_eq!(other.code(), 5, "{other:?}");
        assert!(
            !other.err.contains("other\n") && other.err.contains(ONE),
            "{other:?}"
        );
        assert_eq!(labels(&product), before);
        // Also after the next start.
        product.stop();
        product.mount();
    }
    for bad in ["short", &"x".repeat(65), "has/a/slash/in/its/thirty/two/chars"] {
        assert_eq!(store(&product, "v", &["--token", bad]).code(), 2, "{bad}");
    }
    assert_eq!(store(&product, "v", &["--label", "previous"]).code(), 2);
    let versions = product.run(&["versions", "app/db", "--json"]).ok().json();
    assert_eq!(versions["versions"].as_array().map(Vec::len), Some(2));
}

#[test]
fn tags_are_set_listed_and_asked_for_by_policies() {
    let _deadline = Deadline::new(Duration::from_secs(60), "tags");
    let product = Product::mounted();
    let by_tag = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Uid": A.to_string()}, "Action": "secretsmanager:GetSecretValue",
        "Resource": "*", "Condition": {"StringEquals": {"secretsmanager:ResourceTag/team": "data"}}}]});
    let file = product.dir().join("tag.json");
    std::fs::write(&file, by_tag.to_string()).expect("write");
    let file = file.to_str().expect("path");
    store(
        &product,
        "one",
        &["--policy", file, "--tag", "team=data", "--tag", "env=prod"],
    )
    .ok();
    product.put("app/other", "x", &["--tag", "env=prod"]);
    let path = product.path("app/db");
    assert_eq!(read_as(A, &[], &path), Ok(b"one".to_vec()));
    let described = product.run(&["describe", "app/db", "--json"]).ok().json();
    assert_eq!(described["tags"], json!({"team": "data", "env": "prod"}));
    let listed = |args: &[&str]| {
        let said = product.run(&[&["list", "--json"], args].concat()).ok().json();
        said["secrets"].as_array().map(Vec::len)
    };
    assert_eq!(listed(&["--tag", "env=prod"]), Some(2));
    assert_eq!(listed(&["--tag", "env=prod", "--tag", "team=data"]), Some(1));
    assert_eq!(listed(&["--tag", "env=dev"]), Some(0));
    // A change reaches the next read; who may read is not for him to tag, nor for a stranger.
    let tag = |args: &[&str]| product.run(&[&["tag", "app/db"], args].concat()).code();
    assert_eq!(tag(&["team=web"]), 0);
    assert_eq!(read_as(A, &[], &path), Err(libc::EACCES));
    let said = product.run_as(A, &[], &["tag", "app/db", "team=data"], b"");
    assert_eq!(said.code(), 3, "{said:?}");
    assert_eq!(tag(&["--remove", "team", "team=data"]), 0);
    assert_eq!(read_as(A, &[], &path), Ok(b"one".to_vec()));
    assert_eq!(tag(&["--remove", "team", "--remove", "none"]), 0);
    assert_eq!(read_as(A, &[], &path), Err(libc::EACCES));
    for event in ["TagResource", "UntagResource"] {
        product.record(event, |r| r["eventName"] == event && r["outcome"] == "allowed");
    }
    // Bad input changes nothing.
    let long = format!("k={}", "v".repeat(257));
    for (args, code) in [
        (&["team"][..], 2),
        (&["=x"], 2),
        (&["aws:x=1"], 2),
        (&["AWS:x=1"], 2),
        (&["a=1", "a=2"], 2),
        (&[&long], 2),
        (&["Env=dev"], 5),
        (&[], 2),
    ] {
        assert_eq!(tag(args), code, "{args:?}");
    }
    assert_eq!(product.run(&["tag", "app/none", "a=1"]).code(), 4);
    let many: Vec<String> = (0..50).map(|n| format!("k{n}=v")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(tag(&many), 2);
    let described = product.run(&["describe", "app/db", "--json"]).ok().json();
    assert_eq!(described["tags"], json!({"env": "prod"}));
    // The ARN of elsewhere.
    let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:app/db-AbCdEf";
    store(&product, "one", &["--arn", arn]).ok();
    assert_eq!(
        product.run(&["describe", "app/db", "--json"]).ok().json()["arn"],
        arn
    );
    assert_eq!(
        store(&product, "one", &["--arn", "arn:aws:iam::1:role/x"]).code(),
        2
    );
}

#[test]
fn a_policy_can_name_the_version_and_the_tags_that_are_asked_for() {
    let _deadline = Deadline::new(Duration::from_secs(60), "version ids and request tags");
    let product = Product::mounted();
    let write = |name: &str, document: serde_json::Value| {
        let file = product.dir().join(name);
        std::fs::write(&file, document.to_string()).expect("write");
        file.to_str().expect("path").to_string()
    };
    let first = product.put("app/db", "one", &[])["version"].clone();
    let first = first.as_str().expect("an id");
    let only_first = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Uid": A.to_string()},
        "Action": "secretsmanager:GetSecretValue", "Resource": "*",
        "Condition": {"StringEquals": {"secretsmanager:VersionId": first}}}]});
    product
        .run(&["policy", "set", "app/db", &write("version.json", only_first)])
        .ok();
    let current = product.path("app/db");
    assert_eq!(read_as(A, &[], &current), Ok(b"one".to_vec()));
    product.put("app/db", "two", &[]);
    assert_eq!(read_as(A, &[], &current), Err(libc::EACCES), "the second version");
    let old = product.path(".versions/app/db").join(first);
    assert_eq!(
        read_as(A, &[], &old),
        Ok(b"one".to_vec()),
        "the first one, by its id"
    );

    assert_eq!(read_as(B, &[], &old), Err(libc::EACCES), "a stranger");
    let seen = |uid: u32, name: &str| {
        let dir = product.path(".versions").join(name);
        support::Run::uid(uid).call(|| {
            let names = std::fs::read_dir(&dir).map_err(|e| e.raw_os_error().unwrap_or(0))?;
            let names = names.map(|e| e.expect("entry").file_name().into_string().expect("text"));
            let mut names: Vec<String> = names.collect();
            names.sort();
            Ok(names)
        })
    };
    let may: Result<Vec<String>, i32> = seen(A, "app/db");
    assert_eq!(
        may,
        Ok(vec![first.to_string(), "previous".to_string()]),
        "what he may read, and no more"
    );
    assert_eq!(seen(A, "app"), Ok(vec!["db".to_string()]));
    assert_eq!(seen(B, "app/db"), Err(libc::EACCES));
    assert_eq!(seen(B, "app"), Err(libc::EACCES));

    // By its label: one unit's last value, when all others have the new one.
    let only_previous = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Uid": A.to_string()},
        "Action": "secretsmanager:GetSecretValue", "Resource": "*",
        "Condition": {"StringEquals": {"secretsmanager:VersionStage": "AWSPREVIOUS"}}}]});
    product
        .run(&["policy", "set", "app/db", &write("previous.json", only_previous)])
        .ok();
    assert_eq!(read_as(A, &[], &current), Err(libc::EACCES));
    let previous = product.path(".versions/app/db/previous");
    assert_eq!(read_as(A, &[], &previous), Ok(b"one".to_vec()));

    // A guardrail binds root too.
    let teams = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "secretsmanager:TagResource",
        "Resource": "*", "Condition": {"StringNotEquals": {"aws:RequestTag/team": "data"}, "Null": {"aws:RequestTag/team": "false"}}}]});
    product
        .run(&["guardrail", "set", "teams", &write("teams.json", teams)])
        .ok();
    let tag = |tag: &str| product.run(&["tag", "app/db", tag]).code();
    assert_eq!(tag("team=web"), 3);
    assert_eq!(tag("team=data"), 0);
    assert_eq!(tag("env=prod"), 0, "it asks for no team");
}
