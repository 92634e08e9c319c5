//! Policies that were brought along from AWS, against the mounted product: other services, roles and sessions.

mod support;

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use support::Deadline;
use support::product::{A, B, Product, Said, read_as};

fn document(statements: Value) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

fn warnings(said: Said) -> Vec<String> {
    let json = said.ok().json();
    let all = json["warnings"].as_array().expect("warnings").iter();
    all.map(|w| w.as_str().expect("a text").to_string()).collect()
}

#[test]
fn other_services_have_no_effect_and_are_said() {
    let _deadline = Deadline::new(Duration::from_secs(90), "brought along");
    let mut product = Product::mounted();
    product.put("app/db", "s3cret", &[]);
    product.put("web/db", "other", &[]);
    let path = product.path("app/db");
    let role = product.document(
        "role.json",
        &document(json!([
            {"Effect": "Allow", "Action": ["s3:GetObject", "secretsmanager:GetSecretValue"],
             "Resource": ["arn:aws:s3:::bucket/*", "arn:aws:secretsmanager:*:*:secret:app/*"]},
            {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "arn:aws:kms:eu-central-1:111122223333:key/1",
             "Condition": {"StringEquals": {"kms:ViaService": "secretsmanager.eu-central-1.amazonaws.com"}}},
            {"Sid": "NoUploads", "Effect": "Deny", "Action": "*", "Resource": "*",
             "Condition": {"StringLike": {"s3:prefix": "uploads/*"}}},
        ])),
    );
    let who = format!("uid:{A}");
    let strict = product.run(&["identity", "set", &who, &role, "--strict"]);
    assert_eq!(strict.code(), 2, "{strict:?}");
    assert!(
        strict.err.contains("\"s3:GetObject\" is of another service"),
        "{strict:?}"
    );
    assert_eq!(read_as(A, &[], &path), Err(libc::EACCES));

    let told = warnings(product.run(&["identity", "set", &who, &role, "--json"]));
    let about = |what: &str| told.iter().filter(|w| w.contains(what)).count();
    assert_eq!(told.len(), 5, "{told:#?}");
    assert_eq!(
        about("\"s3:GetObject\" is of another service: it matches nothing here"),
        1
    );
    assert_eq!(
        about("come into force with keys; until then they match nothing: kms:Decrypt"),
        1
    );
    assert_eq!(about("has kms:ViaService: the condition never holds"), 1);
    assert_eq!(about("has s3:prefix: the condition never holds"), 1);
    assert_eq!(
        about("the Deny statement \"NoUploads\" denies nothing here: it asks for s3:prefix"),
        1
    );
    assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
    assert_eq!(read_as(A, &[], &product.path("web/db")), Err(libc::EACCES));
    assert_eq!(read_as(B, &[], &path), Err(libc::EACCES));
    let got = product.run(&["identity", "get", &who]).ok().out;
    assert_eq!(got.trim_end(), std::fs::read_to_string(&role).expect("read"));

    // A guardrail that denies everybody for it.
    let region = product.document(
        "region.json",
        &document(
            json!({"Sid": "Regions", "Effect": "Deny", "NotAction": ["iam:*", "wardfs:*"], "Resource": "*",
            "Condition": {"StringNotEquals": {"aws:RequestedRegion": "eu-central-1"}}}),
        ),
    );
    let ceiling = product.document(
        "ceiling.json",
        &document(json!([{"Effect": "Allow", "Action": ["ec2:*", "wardfs:*"], "Resource": "*"}])),
    );
    let uploads = product.document(
        "uploads.json",
        &document(json!({"Effect": "Allow", "Action": "*", "Resource": "*",
            "Condition": {"StringEqualsIfExists": {"s3:prefix": "home/"}}})),
    );
    for (file, why, reads) in [
        (
            &region,
            "the Deny statement \"Regions\" denies secretsmanager:GetSecretValue",
            false,
        ),
        (&uploads, "has s3:prefix: the condition always holds", true),
    ] {
        let strict = product.run(&["guardrail", "set", "scp", file, "--strict"]);
        assert_eq!(strict.code(), 2, "{strict:?}");
        assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
        let told = warnings(product.run(&["guardrail", "set", "scp", file, "--json"]));
        assert!(told.iter().any(|w| w.contains(why)), "{told:#?}");
        assert_eq!(read_as(A, &[], &path).is_ok(), reads, "{file}");
        product.run(&["guardrail", "remove", "scp"]).ok();
        assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
    }
    let told = warnings(product.run(&["guardrail", "set", "scp", &ceiling, "--json"]));
    assert_eq!(told.len(), 1, "{told:#?}");
    product.run(&["guardrail", "remove", "scp"]).ok();

    // A slip is no other service, and a secret's own policy speaks of none.
    let slip = product.document(
        "slip.json",
        &document(
            json!([{"Effect": "Deny", "Action": ["s3:*", "secretmanager:GetSecretValue"], "Resource": "*"}]),
        ),
    );
    let said = product.run(&["guardrail", "set", "scp", &slip]);
    assert_eq!(said.code(), 2, "{said:?}");
    assert!(
        said.err
            .contains("did you mean \"secretsmanager:GetSecretValue\"?"),
        "{said:?}"
    );
    let own = product.document(
        "own.json",
        &document(
            json!([{"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": "*"}]),
        ),
    );
    assert_eq!(product.run(&["policy", "set", "app/db", &own]).code(), 2);
    product.stop();
}

#[test]
fn a_deny_on_a_role_binds_its_sessions() {
    let _deadline = Deadline::new(Duration::from_secs(90), "roles and sessions");
    let mut product = Product::new();
    // One text is a list of one.
    let mut settings = std::fs::OpenOptions::new()
        .append(true)
        .open(product.store().join("wardfs.toml"))
        .expect("the settings");
    let session = "arn:aws:sts::111122223333:assumed-role/app/i-0abc";
    writeln!(settings, "\"{session}\" = \"uid:{A}\"").expect("written");
    product.mount();
    product.run(&["config", "accept", "--yes"]).ok();
    product.put(
        "app/db",
        "s3cret",
        &["--allow", &format!("uid:{A}"), "--allow", &format!("uid:{B}")],
    );
    let path = product.path("app/db");
    assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
    let readers = json!({"Effect": "Allow", "Principal": {"Uid": [A.to_string(), B.to_string()]}, "Action": "*", "Resource": "*"});
    for denied in [
        json!({"Effect": "Deny", "Principal": {"AWS": "arn:aws:iam::111122223333:role/org/team/app"}, "Action": "*", "Resource": "*"}),
        json!({"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*",
            "Condition": {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/org/team/app"}}}),
        json!({"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*",
            "Condition": {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/org/*"}}}),
    ] {
        let policy = product.document("policy.json", &document(json!([readers, denied])));
        product.run(&["policy", "set", "app/db", &policy]).ok();
        assert_eq!(read_as(A, &[], &path), Err(libc::EACCES), "{denied}");
        assert_eq!(read_as(B, &[], &path), Ok(b"s3cret".to_vec()), "{denied}");
    }
    let policy = product.document("policy.json", &document(json!([readers])));
    product.run(&["policy", "set", "app/db", &policy]).ok();
    assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
    let identity = product.document(
        "identity.json",
        &document(json!([{"Effect": "Deny", "Action": "*", "Resource": "*"}])),
    );
    let role = "arn:aws:iam::111122223333:role/org/team/app";
    product.run(&["identity", "set", role, &identity]).ok();
    assert_eq!(read_as(A, &[], &path), Err(libc::EACCES));
    assert_eq!(read_as(B, &[], &path), Ok(b"s3cret".to_vec()));
    product.stop();
}
