//! Who may not set a policy gains no reading by anything that he may change: labels, tags, values, names, accounts.

mod support;

use std::time::Duration;

use serde_json::{Value, json};

use support::Deadline;
use support::attackers::{Account, administered};
use support::product::{Product, Said, read_as};

/// The administrator of each test, and others.
const ADMIN: u32 = 60702;
const READER: u32 = 60703;

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "22222222-2222-4222-8222-222222222222";
const THREE: &str = "33333333-3333-4333-8333-333333333333";

/// A mounted store whose administrators are a group of this host.
struct Administered {
    product: Product,
    /// Its account has a group of the same name.
    _account: Account,
    gid: u32,
}

impl Administered {
    fn new(name: &str, uid: u32) -> Administered {
        let (account, product) = administered(name, uid);
        let gid = account.uid;
        Administered {
            product,
            _account: account,
            gid,
        }
    }

    /// What the administrator says.
    fn admin(&self, args: &[&str], value: &str) -> Said {
        self.product.run_as(ADMIN, &[self.gid], args, value.as_bytes())
    }

    /// He is refused, told by which rule and what to do, the refusal is on record, and nothing has changed.
    #[track_caller]
    fn refused(&self, name: &str, args: &[&str], value: &str, event: &str, rule: &str) {
        let state = || {
            self.product.run(&["versions", name, "--json"]).ok().out
                + &self.product.run(&["describe", name, "--json"]).ok().out
        };
        let before = state();
        let said = self.admin(args, value);
        assert_eq!(said.code(), 3, "{args:?}: {said:?}");
        assert!(
            said.err.contains(rule) && said.err.contains("PutResourcePolicy"),
            "{said:?}"
        );
        assert!(said.err.contains("next: ask root"), "{said:?}");
        assert_eq!(state(), before, "{args:?}");
        self.product.record(event, |r| {
            r["eventName"] == event
                && r["outcome"] == "denied"
                && r["uid"] == ADMIN
                && r["requestParameters"]["secretId"] == name
        });
    }

    fn reads(&self, uid: u32, path: &str) -> Option<String> {
        let bytes = read_as(uid, &[], &self.product.path(path)).ok()?;
        Some(String::from_utf8(bytes).expect("text"))
    }

    /// Puts the values, each with its token, under a policy of these statements.
    fn store(&self, name: &str, statements: Value, values: &[(&str, &str)]) {
        let policy = json!({"Version": "2012-10-17", "Statement": statements});
        let policy = self.product.document("policy.json", &policy);
        for (i, (token, value)) in values.iter().enumerate() {
            let more: &[&str] = if i == 0 { &["--policy", &policy] } else { &[] };
            self.product
                .put(name, value, &[&["--token", token], more].concat());
        }
    }
}

fn statement(effect: &str, who: Value, condition: Value) -> Value {
    let mut statement = json!({
        "Effect": effect, "Principal": who, "Action": "secretsmanager:GetSecretValue", "Resource": "*"
    });
    if !condition.is_null() {
        statement["Condition"] = condition;
    }
    statement
}

fn uid(uid: u32) -> Value {
    json!({"Uid": uid.to_string()})
}

fn stage(operator: &str, label: &str) -> Value {
    json!({operator: {"secretsmanager:VersionStage": label}})
}

#[test]
fn an_administrator_moves_no_label_into_his_own_sight() {
    let _deadline = Deadline::new(Duration::from_secs(90), "labels");
    let store = Administered::new("wfs7label", 60710);
    let (product, admin) = (&store.product, &[store.gid][..]);
    // The administrator reads what is public, and no more.
    let public = json!([
        statement("Allow", uid(ADMIN), stage("StringEquals", "public")),
        statement("Allow", uid(READER), Value::Null),
    ]);
    store.store("lab/x", public, &[(ONE, "demo"), (TWO, "topsecret")]);
    product
        .run(&["label", "move", "lab/x", "public", "--to", ONE])
        .ok();
    let path = product.path("lab/x");
    assert_eq!(
        store.reads(ADMIN, ".versions/lab/x/public").as_deref(),
        Some("demo")
    );
    assert!(read_as(ADMIN, admin, &path).is_err());
    let event = "UpdateSecretVersionStage";
    let to = ["label", "move", "lab/x", "public", "--to", TWO, "--from", ONE];
    store.refused(
        "lab/x",
        &to,
        "",
        event,
        "statement #1 of its policy would begin to allow",
    );
    assert!(read_as(ADMIN, admin, &path).is_err());
    // What nobody asks for he may move, and take away what only gives.
    store
        .admin(&["label", "move", "lab/x", "blue", "--to", ONE], "")
        .ok();
    store
        .admin(
            &["label", "move", "lab/x", "blue", "--to", TWO, "--from", ONE],
            "",
        )
        .ok();
    store
        .admin(
            &["label", "move", "lab/x", "current", "--to", ONE, "--from", TWO],
            "",
        )
        .ok();
    store
        .admin(&["label", "remove", "lab/x", "public", "--from", ONE], "")
        .ok();
    store.admin(&["put", "lab/x", "--token", THREE], "third").ok();
    assert_eq!(store.reads(READER, "lab/x").as_deref(), Some("third"));
    // A value that he makes he knows: that label he may give it.
    store
        .admin(&["put", "lab/x", "--label", "public"], "for everybody")
        .ok();
    // root may.
    product
        .run(&[
            "label",
            "move",
            "lab/x",
            "public",
            "--to",
            TWO,
            "--from",
            &version(product, "public"),
        ])
        .ok();
    assert_eq!(
        store.reads(ADMIN, ".versions/lab/x/public").as_deref(),
        Some("topsecret")
    );
}

fn version(product: &Product, label: &str) -> String {
    let labels = product.run(&["describe", "lab/x", "--json"]).ok().json()["labels"].clone();
    labels[label].as_str().expect("a version").to_string()
}

/// The guide's third example: the group reads the current value, two operators the others.
#[test]
fn an_old_value_does_not_become_current_again_for_its_readers() {
    let _deadline = Deadline::new(Duration::from_secs(90), "current");
    let store = Administered::new("wfs7curr", 60720);
    let others = json!({"StringNotEquals": {
        "secretsmanager:VersionStage": "current", "wardfs:Uid": READER.to_string()}});
    let document = json!([
        statement(
            "Allow",
            json!({"Gid": store.gid.to_string(), "Uid": READER.to_string()}),
            Value::Null
        ),
        statement("Deny", json!("*"), others),
    ]);
    store.store("ops/key", document, &[(ONE, "first"), (TWO, "second")]);
    let group = [store.gid];
    let mine = |path: &str| read_as(ADMIN, &group, &store.product.path(path)).ok();
    assert_eq!(mine("ops/key").as_deref(), Some(&b"second"[..]));
    assert_eq!(mine(&format!(".versions/ops/key/{ONE}")), None);
    let to = ["label", "move", "ops/key", "current", "--to", ONE, "--from", TWO];
    let event = "UpdateSecretVersionStage";
    store.refused(
        "ops/key",
        &to,
        "",
        event,
        "statement #2 of its policy would cease to deny",
    );
    // A new value is his to give, and takes the old one from him; as often as he likes.
    for value in ["third", "fourth"] {
        store.admin(&["put", "ops/key"], value).ok();
        assert_eq!(mine("ops/key").as_deref(), Some(value.as_bytes()));
        assert_eq!(mine(&format!(".versions/ops/key/{TWO}")), None);
    }
    store
        .product
        .put("ops/key", "staged", &["--label", "pending", "--token", THREE]);
    let to = [
        "label", "move", "ops/key", "pending", "--to", TWO, "--from", THREE,
    ];
    store.admin(&to, "").ok();
    assert_eq!(mine(&format!(".versions/ops/key/{THREE}")), None);
}

#[test]
fn a_put_takes_no_label_that_a_deny_rests_on() {
    let _deadline = Deadline::new(Duration::from_secs(90), "put --label");
    let store = Administered::new("wfs7put", 60730);
    let document = json!([
        statement("Allow", uid(ADMIN), Value::Null),
        statement("Deny", uid(ADMIN), stage("StringEquals", "sealed")),
    ]);
    store.store("app/key", document, &[(ONE, "first")]);
    store
        .product
        .run(&["label", "move", "app/key", "sealed", "--to", ONE])
        .ok();
    assert_eq!(store.reads(ADMIN, "app/key"), None);
    let rule = "statement #2 of its policy would cease to deny";
    let put = ["put", "app/key", "--label", "sealed"];
    store.refused("app/key", &put, "decoy", "PutSecretValue", rule);
    let take = ["label", "remove", "app/key", "sealed", "--from", ONE];
    store.refused("app/key", &take, "", "UpdateSecretVersionStage", rule);
    store.admin(&["put", "app/key"], "second").ok();
    assert_eq!(store.reads(ADMIN, &format!(".versions/app/key/{ONE}")), None);
    // A deleted name keeps its policy; made again it has only what he knows.
    store.admin(&["delete", "--now", "app/key"], "").ok();
    store
        .admin(&["put", "app/key", "--label", "sealed"], "his own")
        .ok();
    assert_eq!(store.reads(ADMIN, "app/key"), None);

    // The one exception is AWS's: who grants `previous` grants yesterday's value, and is warned.
    let previous = json!([statement(
        "Allow",
        uid(READER),
        stage("StringEquals", "AWSPREVIOUS")
    )]);
    let policy = json!({"Version": "2012-10-17", "Statement": previous});
    let checked = store
        .product
        .run(&["policy", "check", &store.product.document("p.json", &policy)])
        .ok();
    assert!((checked.out + &checked.err).contains("reads each value when the next one is put"));
    store.store("app/old", previous, &[(ONE, "first"), (TWO, "second")]);
    assert_eq!(
        store.reads(READER, ".versions/app/old/previous").as_deref(),
        Some("first")
    );
    store.admin(&["put", "app/old"], "third").ok();
    assert_eq!(
        store.reads(READER, ".versions/app/old/previous").as_deref(),
        Some("second")
    );
    let to = [
        "label",
        "move",
        "app/old",
        "previous",
        "--to",
        &labelled(&store.product, "app/old", "current"),
        "--from",
        TWO,
    ];
    store.refused(
        "app/old",
        &to,
        "",
        "UpdateSecretVersionStage",
        "statement #1 of its policy would begin to allow",
    );
}

fn labelled(product: &Product, name: &str, label: &str) -> String {
    let labels = product.run(&["describe", name, "--json"]).ok().json()["labels"].clone();
    labels[label].as_str().expect("a version").to_string()
}

/// Who may tag, and give an ARN, by a policy.
#[test]
fn tags_and_arns_that_rules_ask_for_stand_with_the_policy() {
    let _deadline = Deadline::new(Duration::from_secs(90), "tags");
    let store = Administered::new("wfs7tag", 60740);
    let product = &store.product;
    let may = json!({"Effect": "Allow", "Principal": uid(ADMIN), "Resource": "*",
        "Action": ["secretsmanager:TagResource", "secretsmanager:UntagResource", "secretsmanager:UpdateSecret"]});
    let team = json!({"StringEquals": {"secretsmanager:ResourceTag/team": "${wardfs:Uid}"}});
    let allowed = json!([may, statement("Allow", json!("*"), team)]);
    store.store("tag/allow", allowed, &[(ONE, "value")]);
    store.admin(&["tag", "tag/allow", "colour=blue"], "").ok();
    let mine = format!("team={ADMIN}");
    let rule = "statement #2 of its policy would begin to allow";
    store.refused("tag/allow", &["tag", "tag/allow", &mine], "", "TagResource", rule);
    store.refused(
        "tag/allow",
        &["put", "tag/allow", "--tag", &mine],
        "his",
        "PutSecretValue",
        rule,
    );
    assert_eq!(store.reads(ADMIN, "tag/allow"), None);
    product.run(&["tag", "tag/allow", &format!("team={READER}")]).ok();
    assert_eq!(store.reads(READER, "tag/allow").as_deref(), Some("value"));
    store.admin(&["tag", "tag/allow", "--remove", "team"], "").ok();

    // To set the policy is to read.
    let owner = json!({"Effect": "Allow", "Principal": uid(ADMIN), "Resource": "*", "Action": "secretsmanager:PutResourcePolicy",
        "Condition": {"StringEquals": {"secretsmanager:ResourceTag/owner": "ops"}}});
    store.store("tag/owner", json!([may, owner]), &[(ONE, "value")]);
    let rule = "statement #2 of its policy would begin to allow PutResourcePolicy";
    store.refused(
        "tag/owner",
        &["tag", "tag/owner", "owner=ops"],
        "",
        "TagResource",
        rule,
    );

    // A Deny of the layers above rests on a tag.
    let sealed = json!({"Statement": {"Sid": "Sealed", "Effect": "Deny", "Action": "secretsmanager:GetSecretValue", "Resource": "*",
        "Condition": {"StringEquals": {"secretsmanager:ResourceTag/class": "sealed"}}}});
    product
        .run(&[
            "guardrail",
            "set",
            "classes",
            &product.document("g.json", &sealed),
        ])
        .ok();
    store.store(
        "tag/deny",
        json!([may, statement("Allow", uid(ADMIN), Value::Null)]),
        &[(ONE, "value")],
    );
    product.run(&["tag", "tag/deny", "class=sealed"]).ok();
    assert_eq!(store.reads(ADMIN, "tag/deny"), None);
    let rule = "statement classes/Sealed of a guardrail would cease to deny";
    store.refused(
        "tag/deny",
        &["tag", "tag/deny", "--remove", "class"],
        "",
        "UntagResource",
        rule,
    );
    store.refused(
        "tag/deny",
        &["tag", "tag/deny", "class=open"],
        "",
        "TagResource",
        rule,
    );

    // An identity policy that means a secret by its ARN.
    let arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:tag/arn-AbCdEf";
    let theirs = json!({"Statement": {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue",
        "Resource": "arn:aws:secretsmanager:*:*:secret:*-AbCdEf"}});
    product
        .run(&[
            "identity",
            "set",
            &format!("uid:{READER}"),
            &product.document("i.json", &theirs),
        ])
        .ok();
    store.store("tag/arn", json!([may]), &[(ONE, "value")]);
    assert_eq!(store.reads(READER, "tag/arn"), None);
    let rule = "of an identity policy would begin to allow";
    store.refused(
        "tag/arn",
        &["put", "tag/arn", "--arn", arn],
        "his",
        "PutSecretValue",
        rule,
    );
    store
        .admin(
            &["put", "tag/arn", "--arn", &arn.replace("AbCdEf", "other1")],
            "his",
        )
        .ok();
    assert_eq!(store.reads(READER, "tag/arn"), None);
}

/// Adding a rule looks that rule's names up, and no others.
#[test]
fn an_account_made_anew_is_nobody_that_a_policy_knows() {
    let _deadline = Deadline::new(Duration::from_secs(90), "accounts");
    let product = Product::mounted();
    let reads = |uid: u32| read_as(uid, &[], &product.path("a/b")).is_ok();
    let first = Account::new("wfs7anew", 60750, &[]);
    let other = Account::new("wfs7other", 60751, &[]);
    product.put("a/b", "value", &["--allow", "user:wfs7anew"]);
    drop(first);
    let _anew = Account::new("wfs7anew", 60752, &[]);
    assert!(reads(60750) && !reads(60752));
    let said = product
        .run(&["policy", "allow", "a/b", "user:wfs7other", "--json"])
        .ok()
        .json();
    assert!(reads(60750) && reads(other.uid) && !reads(60752));
    let resolved = said["resolved"].to_string();
    assert!(
        resolved.contains("user wfs7anew: uid 60750") && resolved.contains("uid 60751"),
        "{said}"
    );
    product.put("a/b", "value", &["--deny", "uid:60799"]);
    assert!(reads(60750) && !reads(60752));
    // The same name for two of them is refused, by every way to add a rule.
    for verb in ["allow", "deny"] {
        let said = product.run(&["policy", verb, "a/b", "user:wfs7anew"]);
        assert_eq!(said.code(), 5, "{said:?}");
        assert!(
            said.err
                .contains("was uid 60750 when the policy was set, and is uid 60752 now"),
            "{said:?}"
        );
        assert!(said.err.contains("policy set a/b"), "{said:?}");
    }
    let said = product.run_with(&["put", "a/b", "--allow", "user:wfs7anew"], b"value");
    assert_eq!(said.code(), 5, "{said:?}");
    assert!(reads(60750) && !reads(60752));
    product.run(&["policy", "allow", "a/b", "uid:60752"]).ok();
    assert!(reads(60750) && reads(60752));
    // Set anew, the name is whom it names now, and that is said and on record.
    let policy = json!({"Statement": statement("Allow", json!({"User": "wfs7anew"}), Value::Null)});
    let said = product
        .run(&[
            "policy",
            "set",
            "a/b",
            &product.document("p.json", &policy),
            "--json",
        ])
        .ok()
        .json();
    assert_eq!(said["resolved"], json!(["user wfs7anew: uid 60752"]));
    assert!(!reads(60750) && reads(60752));
    product.record("what the names meant", |r| {
        r["eventName"] == "PutResourcePolicy"
            && r["requestParameters"]["resolved"] == json!(["user wfs7anew: uid 60752"])
    });
    // A name does not slip into the patterns of another statement.
    let svc = json!([statement(
        "Allow",
        json!("*"),
        json!({"StringLike": {"aws:username": "wfs7o*"}})
    ),]);
    let svc = json!({"Version": "2012-10-17", "Statement": svc});
    drop(other);
    let late = Account::new("wfs7often", 60753, &[]);
    drop(late);
    product.run(&["policy", "set", "a/b", &product.document("p.json", &svc)]);
    let late = Account::new("wfs7often", 60753, &[]);
    let said = product.run(&["policy", "deny", "a/b", "user:wfs7anew", "--json"]);
    let said = said.ok().json();
    assert!(
        said["warnings"]
            .to_string()
            .contains("user:wfs7anew was added as uid:60752"),
        "{said}"
    );
    product.run(&["policy", "deny", "a/b", "user:wfs7often"]).ok();
    assert!(!reads(late.uid));
}
