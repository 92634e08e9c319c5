//! Guardrails, identity policies, `policy explain` and break-glass, against the mounted product.

mod support;

use std::time::Duration;

use serde_json::{Value, json};

use support::Deadline;
use support::Run;
use support::product::{A, B, Product, read_as};

fn statement(effect: &str, action: &str) -> Value {
    json!({"Effect": effect, "Action": action, "Resource": "*"})
}

fn document(statements: &[Value]) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

#[test]
fn a_guardrail_binds_root_and_removing_it_is_guarded() {
    let _deadline = Deadline::new(Duration::from_secs(90), "guardrails");
    let mut product = Product::mounted();
    product.put("app/db", "s3cret", &["--allow", &format!("uid:{A}")]);
    let open = product.document("open.json", &json!({"Version": "2012-10-17", "Statement": []}));
    let frozen = document(&[json!({
        "Sid": "Frozen", "Effect": "Deny", "Resource": "*",
        "Action": ["secretsmanager:DeleteSecret", "secretsmanager:PutResourcePolicy", "secretsmanager:PutSecretValue", "secretsmanager:CreateSecret"],
    })]);
    let frozen = product.document("frozen.json", &frozen);
    product.run(&["guardrail", "set", "frozen", &frozen]).ok();
    let listed = product.run(&["guardrail", "list", "--json"]).ok().json();
    assert_eq!(listed["guardrails"][0]["name"], "frozen");
    let got = product.run(&["guardrail", "get", "frozen"]).ok().out;
    assert_eq!(got.trim_end(), std::fs::read_to_string(&frozen).expect("read"));

    for (args, input) in [
        (&["delete", "app/db", "--now"][..], ""),
        (&["policy", "set", "app/db", &open], ""),
        (&["policy", "allow", "app/db", "uid:0"], ""),
        (&["put", "app/db"], "other"),
        (&["put", "app/new"], "other"),
    ] {
        let said = product.run_with(args, input.as_bytes());
        assert_eq!(said.code(), 3, "{args:?}: {said:?}");
    }
    for event in [
        "DeleteSecret",
        "PutResourcePolicy",
        "PutSecretValue",
        "CreateSecret",
    ] {
        let record = product.record(event, |r| {
            r["eventName"] == event && r["outcome"] == "denied" && r["layer"] == "guardrail"
        });
        assert_eq!(
            (&record["uid"], &record["statement"]),
            (&json!(0), &json!("frozen/Frozen")),
            "{event}"
        );
    }
    // Reading goes on; a guardrail on it takes effect at once, for what is open too.
    let path = product.path("app/db");
    assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
    let unread = product.document(
        "unread.json",
        &document(&[statement("Deny", "secretsmanager:GetSecretValue")]),
    );
    product.run(&["guardrail", "set", "unread", &unread]).ok();
    assert_eq!(read_as(A, &[], &path), Err(libc::EACCES));

    // Removing is an action of its own, and only the owner's.
    assert_eq!(
        product
            .run_as(B, &[], &["guardrail", "remove", "unread"], b"")
            .code(),
        3
    );
    assert_eq!(product.run_as(B, &[], &["guardrail", "list"], b"").code(), 3);
    let kept = product.document("kept.json", &document(&[statement("Deny", "wardfs:*Guardrail")]));
    let strict = product.run(&["guardrail", "set", "kept", &kept, "--strict"]);
    assert_eq!(strict.code(), 2, "{strict:?}");
    let warned = product.run(&["guardrail", "set", "kept", &kept]).ok();
    assert!(warned.err.contains("break-glass"), "{warned:?}");
    for name in ["kept", "unread"] {
        let said = product.run(&["guardrail", "remove", name]);
        assert_eq!(said.code(), 3, "{said:?}");
    }
    product.record("the guarded removal", |r| {
        r["eventName"] == "DeleteGuardrail" && r["outcome"] == "denied"
    });

    // They survive a restart, and the way out is offline, root's, with a reason, and on record.
    let glass = [
        "store",
        "break-glass",
        "--guardrail",
        "kept",
        "--reason",
        "INC-4711",
    ];
    assert_eq!(product.run(&glass).code(), 7);
    product.stop();
    product.mount();
    assert_eq!(product.run(&["guardrail", "remove", "unread"]).code(), 3);
    assert_eq!(read_as(A, &[], &path), Err(libc::EACCES));
    product.stop();
    let dry = product.run(&[
        "store",
        "break-glass",
        "--guardrail",
        "kept",
        "--reason",
        "x",
        "--dry-run",
    ]);
    dry.ok();
    assert_eq!(product.run(&["guardrail", "remove", "unread"]).code(), 3);
    product.run(&glass).ok();
    let record = product.record("the glass", |r| r["eventName"] == "BreakGlass");
    assert!(record.to_string().contains("INC-4711"), "{record}");
    product.run(&["guardrail", "remove", "unread"]).ok();
    assert_eq!(product.run(&["guardrail", "remove", "unread"]).code(), 4);
    product.mount();
    assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn break_glass_repairs_a_policy_that_nobody_may_change() {
    let _deadline = Deadline::new(Duration::from_secs(90), "break-glass");
    let product = Product::new();
    product.put("app/db", "s3cret", &["--allow", &format!("uid:{A}")]);
    let nobody = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"}]});
    let nobody = product.document("nobody.json", &nobody);
    assert_eq!(
        product
            .run(&["policy", "set", "app/db", &nobody, "--strict"])
            .code(),
        2
    );
    assert_eq!(
        product
            .run(&["policy", "check", "app/db", &nobody, "--strict"])
            .code(),
        2
    );
    let warned = product.run(&["policy", "set", "app/db", &nobody]).ok();
    assert!(warned.err.contains("nobody may read"), "{warned:?}");
    let public = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]});
    let public = product.document("public.json", &public);
    assert_eq!(
        product
            .run(&["policy", "set", "app/db", &public, "--strict"])
            .code(),
        2
    );
    let deny = product.document(
        "deny.json",
        &document(&[statement("Deny", "secretsmanager:*Policy")]),
    );
    product.run(&["guardrail", "set", "no-policies", &deny]).ok();
    assert_eq!(
        product
            .run(&["policy", "allow", "app/db", &format!("uid:{A}")])
            .code(),
        3
    );
    for (args, code) in [
        (&["app/none", "--reason", "x"][..], 4),
        (&["app/db", "--reason", " "], 2),
        (&["app/db", "--reason", "x", "--policy", "/nowhere"], 4),
        (&["--guardrail", "none", "--reason", "x"], 4),
        (&["app/db"], 2),
    ] {
        let said = product.run(&[&["store", "break-glass"], args].concat());
        assert_eq!(said.code(), code, "{said:?}");
    }
    product
        .run(&[
            "store",
            "break-glass",
            "app/db",
            "--policy",
            &public,
            "--reason",
            "INC-1",
        ])
        .ok();
    let explained = product.run(&["policy", "explain", "app/db", "--as", &format!("uid:{B}")]);
    assert_eq!(explained.code(), 0, "{explained:?}");
    let record = product.record("the glass", |r| r["eventName"] == "BreakGlass");
    assert_eq!(record["requestParameters"]["secretId"], "app/db");
}

/// An identity policy can keep root out of everything: it is warned of, and taken away offline, on record.
#[test]
fn root_is_let_in_again_past_an_identity_policy() {
    let _deadline = Deadline::new(Duration::from_secs(90), "locked out");
    let mut product = Product::mounted();
    product.put("app/db", "s3cret", &["--allow", &format!("uid:{A}")]);
    let all = product.document("all.json", &document(&[statement("Deny", "*")]));
    for who in ["uid:0", "gid:0"] {
        let strict = product.run(&["identity", "set", who, &all, "--strict"]);
        assert_eq!(strict.code(), 2, "{strict:?}");
        let warned = product.run(&["identity", "set", who, &all]).ok();
        assert!(warned.err.contains("break-glass --identity"), "{warned:?}");
        assert_eq!(product.run(&["identity", "remove", who]).code(), 3);
        product.stop();
        assert_eq!(product.run(&["identity", "remove", who]).code(), 3);
        let glass = ["store", "break-glass", "--identity", who, "--reason", "INC-4712"];
        product.run(&[&glass[..], &["--dry-run"]].concat()).ok();
        assert_eq!(product.run(&["identity", "list"]).code(), 3);
        product.run(&glass).ok();
        assert_eq!(product.run(&glass).code(), 4);
        let listed = product.run(&["--json", "identity", "list"]).ok().json();
        assert!(!listed.to_string().contains(who), "{listed}");
        let record = product.record("the glass", |r| r["eventName"] == "BreakGlass");
        assert!(
            record["message"].as_str().is_some_and(|m| m.contains("INC-4712")),
            "{record}"
        );
        product.mount();
    }
    assert_eq!(read_as(A, &[], &product.path("app/db")), Ok(b"s3cret".to_vec()));
}

#[test]
fn an_identity_policy_gives_and_takes_on_every_secret() {
    let _deadline = Deadline::new(Duration::from_secs(90), "identity policies");
    let product = Product::mounted();
    product.put("app/db", "one", &[]);
    product.put("web/db", "two", &["--allow", &format!("uid:{A}")]);
    let reads = || ["app/db", "web/db"].map(|n| read_as(A, &[], &product.path(n)).is_ok());
    assert_eq!(reads(), [false, true]);
    let who = format!("uid:{A}");
    let app = json!({"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "arn:aws:secretsmanager:*:*:secret:app/*"});
    let allow = product.document("allow.json", &document(&[app]));
    product
        .run(&["identity", "set", &who, &allow, "--tag", "team=data"])
        .ok();
    assert_eq!(reads(), [true, true]);
    assert!(read_as(B, &[], &product.path("app/db")).is_err());
    let record = product.record("the read", |r| {
        r["eventName"] == "GetSecretValue" && r["layer"] == "identity"
    });
    assert_eq!(record["statement"], format!("uid:{A}/#1"));
    // By the tag, for whoever has it.
    let by_tag = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "secretsmanager:GetSecretValue", "Resource": "*",
        "Condition": {"StringEquals": {"aws:PrincipalTag/Team": "data"}}}]});
    let by_tag = product.document("tag.json", &by_tag);
    product.run(&["policy", "set", "app/db", &by_tag]).ok();
    assert_eq!(reads(), [false, true]);
    let deny = product.document(
        "deny.json",
        &document(&[statement("Deny", "secretsmanager:GetSecretValue")]),
    );
    product.run(&["identity", "set", &who, &deny]).ok();
    assert_eq!(reads(), [false, false]);
    let list = product.run(&["identity", "list", "--json"]).ok().json();
    assert_eq!(list["identities"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        product.run(&["identity", "get", &who]).ok().out.trim_end(),
        std::fs::read_to_string(&deny).expect("read")
    );
    product.run(&["identity", "remove", &who, "--dry-run"]).ok();
    assert_eq!(reads(), [false, false]);
    product.run(&["identity", "remove", &who]).ok();
    assert_eq!(reads(), [false, true]);
    // Bad input changes nothing and says what is wrong.
    let open = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]});
    let open = product.document("open.json", &open);
    for (args, code) in [
        (vec!["identity", "set", &who, &open], 2),
        (vec!["identity", "set", "user:no-such-user-here", &allow], 2),
        (vec!["identity", "set", "nobody", &allow], 2),
        (vec!["identity", "set", &who, &allow, "--tag", "team"], 2),
        (
            vec!["identity", "set", &who, &allow, "--tag", "a=1", "--tag", "a=2"],
            2,
        ),
        (vec!["identity", "remove", &who], 4),
        (vec!["guardrail", "set", "../x", &allow], 2),
        (vec!["guardrail", "get", "none"], 4),
    ] {
        let said = product.run(&args);
        assert_eq!(said.code(), code, "{args:?} {said:?}");
    }
    assert_eq!(reads(), [false, true]);
}

/// A dice of its own, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    /// splitmix64
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.roll(of.len())]
    }

    fn statement(&mut self, principal: bool) -> Value {
        let mut s = json!({
            "Effect": self.pick(&["Allow", "Allow", "Deny"]),
            "Action": self.pick(&["secretsmanager:GetSecretValue", "secretsmanager:*Value", "secretsmanager:Get*Value", "secretsmanager:DescribeSecret"]),
            "Resource": self.pick(&["*", "*", "arn:aws:secretsmanager:*:*:secret:app/*", "arn:aws:secretsmanager:*:*:secret:x-??????"]),
        });
        if principal {
            let conditioned = self.roll(2) == 0;
            s["Principal"] = match self.roll(5) {
                0 => json!({"Uid": ["61001"]}),
                1 => json!({"Uid": ["61002", "0"]}),
                2 => json!({"Gid": "34"}),
                3 if !conditioned => json!({"Gid": ["100", "61003"]}),
                _ => json!("*"),
            };
        }
        let condition = match self.roll(8) {
            0 => json!({"NumericGreaterThan": {"wardfs:Uid": "61001"}}),
            1 => json!({"ForAllValues:StringEquals": {"wardfs:Groups": ["34", "100", "61001"]}}),
            2 => json!({"ForAnyValue:StringNotEquals": {"wardfs:Groups": ["34"]}}),
            3 => json!({"StringNotEquals": {"secretsmanager:VersionStage": "AWSPENDING"}}),
            4 => json!({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01"}}),
            5 => json!({"StringLike": {"aws:PrincipalTag/team": "d*"}}),
            _ => return s,
        };
        s["Condition"] = condition;
        s
    }

    fn statements(&mut self, principal: bool) -> Vec<Value> {
        (0..=self.roll(3)).map(|_| self.statement(principal)).collect()
    }

    fn document(&mut self, principal: bool) -> Value {
        document(&self.statements(principal))
    }

    /// One that lets root change policies: what guardrails allow is a ceiling over all actions.
    fn guardrail(&mut self) -> Value {
        let mut statements = self.statements(false);
        if statements.iter().any(|s| s["Effect"] == "Allow") {
            let others = "secretsmanager:GetSecretValue";
            statements.push(json!({"Effect": "Allow", "NotAction": others, "Resource": "*"}));
        }
        document(&statements)
    }
}

/// What `policy explain` says is what opening the file as that caller gives.
#[test]
fn an_explanation_is_what_opening_the_file_gives() {
    let _deadline = Deadline::new(Duration::from_secs(400), "explain and open");
    let product = Product::mounted();
    let names = ["app/db", "x"];
    for name in names {
        product.put(name, "value", &[]);
    }
    let mut dice = Dice(4);
    let (mut cases, mut allowed) = (0, 0);
    for round in 0..50 {
        for name in names {
            let policy = product.document("policy.json", &dice.document(true));
            product.run(&["policy", "set", name, &policy]).ok();
        }
        let who = dice.pick(&["uid:61001", "gid:34", "uid:61002"]);
        match round % 5 {
            1 => {
                let policy = product.document("identity.json", &dice.document(false));
                product
                    .run(&[
                        "identity",
                        "set",
                        who,
                        &policy,
                        "--tag",
                        dice.pick(&["team=data", "team=web"]),
                    ])
                    .ok();
            }
            2 => {
                let policy = product.document("guardrail.json", &dice.guardrail());
                product.run(&["guardrail", "set", "random", &policy]).ok();
            }
            4 => {
                product.run(&["identity", "remove", who]);
                product.run(&["guardrail", "remove", "random"]);
            }
            _ => {}
        }
        for _ in 0..40 {
            let uid = [0, A, B, 61003][dice.roll(4)];
            let gid = [34, 100, 61001, 7][dice.roll(4)];
            let group = [34, 100, 61003, 9][dice.roll(4)];
            let name = dice.pick(&names);
            let groups = format!("{gid},{group}");
            let who = format!("uid:{uid}");
            let args = [
                "policy", "explain", name, "--as", &who, "--groups", &groups, "--json",
            ];
            let said = product.run(&args);
            let path = product.path(name);
            let read = Run::uid(uid)
                .gid(gid)
                .group(group)
                .call(|| std::fs::read(&path).map_err(|e| e.raw_os_error()));
            assert_eq!(
                said.code(),
                if read.is_ok() { 0 } else { 3 },
                "{args:?} {said:?} {read:?}"
            );
            assert_eq!(said.json()["decision"] == "allow", read.is_ok());
            allowed += usize::from(read.is_ok());
            cases += 1;
        }
    }
    println!("{cases} cases, {allowed} allowed, 0 differences");
    assert!(
        cases >= 2000 && allowed > 300 && allowed < 1700,
        "{allowed} of {cases}"
    );
}

#[test]
fn an_explanation_without_a_store() {
    let _deadline = Deadline::new(Duration::from_secs(60), "explain without a store");
    let product = Product::empty();
    let policy = json!({"Version": "2012-10-17", "Statement": [{"Sid": "Lan", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:role/app"},
        "Action": "secretsmanager:GetSecretValue", "Resource": "*", "Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}}]});
    let policy = product.document("policy.json", &policy);
    let guardrail = product.document(
        "guardrail.json",
        &document(&[statement("Deny", "secretsmanager:GetSecretValue")]),
    );
    let identity = product.document(
        "identity.json",
        &document(&[statement("Allow", "secretsmanager:*")]),
    );
    let bad = product.document("bad.json", &json!({"Statement": [{"Effect": "Permit"}]}));
    let ask = |more: &[&str]| {
        let base = [
            "policy",
            "explain",
            "--action",
            "GetSecretValue",
            "--json",
            "--principal",
            "arn:aws:iam::111122223333:role/app",
            "--resource",
            "app/db",
        ];
        product.run(&[&base[..], more].concat())
    };
    for (more, code, decision, statement, layer) in [
        (
            vec!["--policy", &policy, "--context", "aws:SourceIp=192.0.2.9"],
            0,
            "allow",
            json!("Lan"),
            "secret",
        ),
        (
            vec!["--policy", &policy],
            3,
            "implicit_deny",
            Value::Null,
            "default",
        ),
        (
            vec!["--policy", &policy, "--identity-policy", &identity],
            0,
            "allow",
            json!("identity-policy-1/#1"),
            "identity",
        ),
        (
            vec![
                "--policy",
                &policy,
                "--identity-policy",
                &identity,
                "--guardrail",
                &guardrail,
            ],
            3,
            "explicit_deny",
            json!("guardrail-1/#1"),
            "guardrail",
        ),
    ] {
        let said = ask(&more);
        assert_eq!(said.code(), code, "{said:?}");
        let json = said.json();
        assert_eq!(
            (&json["decision"], &json["statement"], &json["layer"]),
            (&json!(decision), &statement, &json!(layer))
        );
    }
    for more in [
        vec!["--policy", &bad],
        vec!["--policy", &policy, "--context", "aws:SourceIpp=1"],
        vec!["--policy", &policy, "--tag", "novalue"],
        vec!["--policy", &policy, "--guardrail", &bad],
    ] {
        assert_eq!(ask(&more).code(), 2, "{more:?}");
    }
    assert_eq!(product.run(&["policy", "explain", "--policy", &policy]).code(), 2);
    assert_eq!(
        product
            .run(&["policy", "explain", "app/db", "--policy", &policy])
            .code(),
        2
    );
    assert_eq!(product.run(&["policy", "explain"]).code(), 2);
}
