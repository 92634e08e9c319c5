//! Who may read, as every command says it; accounts that went or changed; and access that is taken back. On a real mount.

mod support;

use std::time::Duration;

use serde_json::{Value, json};

use support::Deadline;
use support::etc::Etc;
use support::product::{A, B, Product, read_as};

/// Users of an `/etc` of the test's own.
const ANN: u32 = 44_818;
const BEN: u32 = 44_819;
const CAT: u32 = 44_820;
const TEAM: u32 = 44_826;

fn document(statements: Value) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

fn everything(effect: &str) -> Value {
    document(json!([{"Effect": effect, "Action": "*", "Resource": "*"}]))
}

fn readers(product: &Product, name: &str) -> Value {
    product.run(&["--json", "describe", name]).ok().json()["readers"].clone()
}

fn user(uid: u32) -> Value {
    json!({"user": null, "uid": uid})
}

#[test]
fn every_layer_counts_in_every_answer() {
    let _deadline = Deadline::new(Duration::from_secs(90), "layers in answers");
    let mut product = Product::mounted();
    product.put("app/db", "s3cret", &["--allow", &format!("uid:{A}")]);
    let path = product.path("app/db");
    let identity = product.document("identity.json", &everything("Allow"));
    product
        .run(&["identity", "set", &format!("uid:{B}"), &identity])
        .ok();
    assert_eq!(read_as(B, &[], &path), Ok(b"s3cret".to_vec()));
    let both = json!([user(A), user(B)]);
    assert_eq!(readers(&product, "app/db"), both);
    assert_eq!(product.put("app/db", "s3cret", &[])["readers"], both);
    let listed = product.run(&["--json", "list"]).ok().json();
    assert_eq!(listed["secrets"][0]["readers"], both);
    let text = product.run(&["list"]).ok().out;
    assert!(
        text.contains("READERS") && text.contains(&format!("uid:{A} uid:{B}")),
        "{text}"
    );
    let own = product.document(
        "own.json",
        &document(
            json!([{"Effect": "Allow", "Principal": {"Gid": "44827"}, "Action": "*", "Resource": "*"}]),
        ),
    );
    let tried = product
        .run(&["--json", "policy", "set", "app/db", &own, "--dry-run"])
        .ok()
        .json();
    assert_eq!(tried["readers"], json!([user(B), {"group": null, "gid": 44827}]));
    assert_eq!(
        (&tried["gain"], &tried["lose"]),
        (&json!(["gid 44827"]), &json!([format!("uid {A}")]))
    );

    // A guardrail that leaves what it must to whoever would mend it.
    let nobody = product.document(
        "nobody.json",
        &document(json!([{"Effect": "Deny", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}])),
    );
    product.run(&["guardrail", "set", "nobody", &nobody]).ok();
    assert_eq!(read_as(B, &[], &path), Err(libc::EACCES));
    assert_eq!(readers(&product, "app/db"), json!([]));
    assert_eq!(
        product.run(&["--json", "list"]).ok().json()["secrets"][0]["readers"],
        json!([])
    );
    let put = product.put("app/db", "s3cret", &[]);
    assert_eq!(put["readers"], json!([]));
    let tried = product
        .run(&["--json", "policy", "set", "app/db", &own, "--dry-run"])
        .ok()
        .json();
    assert_eq!((&tried["readers"], &tried["gain"]), (&json!([]), &json!([])));
    let told = product.run(&["describe", "app/db"]).ok().out;
    let line = told.lines().find(|l| l.starts_with("read by")).expect("a line");
    assert!(line.ends_with(" nobody"), "{told}");
    product.run(&["guardrail", "remove", "nobody"]).ok();

    // What cannot be known ahead is said in words, and who may not is named.
    let open = product.document(
        "open.json",
        &document(json!([
            {"Effect": "Allow", "Principal": {"Gid": "44827"}, "Action": "*", "Resource": "*"},
            {"Effect": "Deny", "Principal": {"Uid": B.to_string()}, "Action": "*", "Resource": "*"},
            {"Effect": "Allow", "Principal": {"Uid": A.to_string()}, "Action": "*", "Resource": "*",
             "Condition": {"StringEquals": {"wardfs:Unit": "app.service"}}},
        ])),
    );
    product.run(&["policy", "set", "app/db", &open]).ok();
    assert_eq!(
        readers(&product, "app/db"),
        json!([{"user": null, "uid": A, "when": "wardfs:Unit is app.service"},
               {"group": null, "gid": 44827, "except": [user(B)]}])
    );
    let told = product.run(&["describe", "app/db"]).ok().out;
    assert!(
        told.contains(&format!("uid {A}, but only when wardfs:Unit is app.service"))
            && told.contains(&format!("gid 44827, but not uid {B}")),
        "{told}"
    );
    product.stop();
}

#[test]
fn accounts_that_went_or_changed_are_shown_and_never_followed() {
    let _deadline = Deadline::new(Duration::from_secs(90), "drift");
    let etc = Etc::bound();
    etc.accounts(&[("ann", ANN), ("ben", BEN)], &[("team", TEAM, vec![])]);
    let mut product = Product::mounted();
    product.put(
        "app/db",
        "s3cret",
        &["--allow", "user:ann", "--allow", "group:team"],
    );
    let path = product.path("app/db");
    assert_eq!(
        readers(&product, "app/db"),
        json!([{"user": "ann", "uid": ANN}, {"group": "team", "gid": TEAM}])
    );
    let drift =
        |product: &Product| product.run(&["--json", "describe", "app/db"]).ok().json()["drift"].clone();
    assert_eq!(drift(&product), json!([]));

    // Her name is somebody else's now, and her uid is cat's.
    etc.accounts(&[("ann", BEN), ("cat", ANN)], &[]);
    assert_eq!(read_as(ANN, &[], &path), Ok(b"s3cret".to_vec()));
    assert_eq!(read_as(BEN, &[], &path), Err(libc::EACCES));
    assert_eq!(
        readers(&product, "app/db"),
        json!([{"user": "cat", "uid": ANN}, {"group": null, "gid": TEAM}])
    );
    let shown = drift(&product);
    let row = |i: usize| {
        let row = &shown[i];
        json!([
            row["kind"],
            row["name"],
            row["id"],
            row["name_means"],
            row["id_is"],
            row["policy"]
        ])
    };
    assert_eq!(row(0), json!(["user", "ann", ANN, BEN, "cat", "app/db"]));
    assert_eq!(row(1), json!(["group", "team", TEAM, null, null, "app/db"]));
    let words = format!("user ann was uid {ANN} when the policy was set");
    for command in [
        &["describe", "app/db"][..],
        &["policy", "explain", "app/db", "--as", &format!("uid:{ANN}")],
        &["store", "check"],
        &["config", "check"],
    ] {
        let said = product.run(command).ok();
        assert!(said.out.contains(&words), "{command:?}: {said:?}");
    }

    // A change looks up what it adds, and nothing else.
    product.run(&["policy", "allow", "app/db", "user:cat"]).ok();
    assert_eq!(read_as(BEN, &[], &path), Err(libc::EACCES));
    let ambiguous = product.run(&["policy", "allow", "app/db", "user:ann"]);
    assert_eq!(ambiguous.code(), 5, "{ambiguous:?}");

    // Whoever is gone keeps nothing from being changed, his own denial included.
    etc.accounts(&[("ben", BEN)], &[]);
    product.run(&["policy", "allow", "app/db", "user:ben"]).ok();
    assert_eq!(read_as(BEN, &[], &path), Ok(b"s3cret".to_vec()));
    product.run(&["policy", "deny", "app/db", "user:ann"]).ok();
    assert_eq!(read_as(ANN, &[], &path), Err(libc::EACCES));
    product.run(&["policy", "undeny", "app/db", "user:ann"]).ok();
    assert_eq!(read_as(ANN, &[], &path), Ok(b"s3cret".to_vec()));
    assert_eq!(product.run(&["policy", "allow", "app/db", "user:gone"]).code(), 2);

    // Taken out by the name that the policy holds, of which there is no account.
    product
        .run(&["policy", "revoke", "app/db", "user:ann", "group:team"])
        .ok();
    assert_eq!(read_as(ANN, &[], &path), Err(libc::EACCES));
    assert_eq!(read_as(BEN, &[], &path), Ok(b"s3cret".to_vec()));
    assert_eq!(readers(&product, "app/db"), json!([{"user": "ben", "uid": BEN}]));
    assert_eq!(drift(&product), json!([]));

    // A renamed user keeps his access, and is taken out under his new name.
    etc.accounts(&[("benjamin", BEN)], &[]);
    assert_eq!(read_as(BEN, &[], &path), Ok(b"s3cret".to_vec()));
    assert_eq!(drift(&product)[0]["id_is"], "benjamin");
    product.run(&["policy", "revoke", "app/db", "user:benjamin"]).ok();
    assert_eq!(read_as(BEN, &[], &path), Err(libc::EACCES));
    product.stop();
}

#[test]
fn access_is_taken_back_and_so_is_a_denial() {
    let _deadline = Deadline::new(Duration::from_secs(90), "taking back");
    let etc = Etc::bound();
    etc.accounts(
        &[("ann", ANN), ("ben", BEN), ("cat", CAT)],
        &[("team", TEAM, vec!["ann"])],
    );
    let mut product = Product::mounted();
    product.put("app/db", "s3cret", &[]);
    let path = product.path("app/db");
    let unit = json!({"StringEquals": {"secretsmanager:VersionStage": "AWSCURRENT"}});
    let policy = product.document(
        "policy.json",
        &document(json!([
            {"Sid": "Some", "Effect": "Allow", "Principal": {"User": ["ann", "ben"]},
             "Action": "secretsmanager:GetSecretValue", "Resource": "*", "Condition": unit},
            {"Sid": "Ann", "Effect": "Allow", "Principal": {"Uid": ANN.to_string()},
             "Action": "secretsmanager:GetSecretValue", "Resource": "*"},
            {"Sid": "Team", "Effect": "Allow", "Principal": {"Group": "team"},
             "Action": "secretsmanager:GetSecretValue", "Resource": "*"},
            {"Sid": "No", "Effect": "Deny", "Principal": {"User": ["ben", "cat"]},
             "Action": "secretsmanager:GetSecretValue", "Resource": "*"},
        ])),
    );
    product.run(&["policy", "set", "app/db", &policy]).ok();
    let statements = |product: &Product| {
        product.run(&["--json", "policy", "get", "app/db"]).ok().json()["policy"]["Statement"].clone()
    };
    let before = statements(&product);

    // Tried first: nothing changes.
    let tried = product
        .run(&["--json", "policy", "revoke", "app/db", "user:ann", "--dry-run"])
        .ok()
        .json();
    assert_eq!(statements(&product), before);
    assert_eq!(tried["dry_run"], true);
    let done = product
        .run(&["--json", "policy", "revoke", "app/db", "user:ann"])
        .ok()
        .json();
    for key in ["taken", "remaining", "gain", "lose", "readers"] {
        assert_eq!(done[key], tried[key], "{key}");
    }
    assert_eq!(
        done["taken"],
        json!([{"who": "user:ann", "statement": "Some"}, {"who": format!("uid:{ANN}"), "statement": "Ann"}])
    );
    // She is of the team.
    let row = &done["remaining"][0];
    assert_eq!(
        (&row["statement"], &row["effect"], &row["layer"]),
        (&json!("Team"), &json!("allow"), &json!("secret"))
    );
    assert_eq!(done["remaining"].as_array().map(Vec::len), Some(1));
    assert_eq!(done["lose"], json!([]), "the team still lets her in");
    assert_eq!(read_as(ANN, &[TEAM], &path), Ok(b"s3cret".to_vec()));
    let now = statements(&product);
    assert_eq!(now.as_array().map(Vec::len), Some(3), "{now}");
    assert_eq!(
        (&now[0]["Principal"], &now[0]["Condition"]),
        (&json!({"User": "ben"}), &unit)
    );
    let told = product
        .run(&["policy", "revoke", "app/db", "group:team", "--dry-run"])
        .ok()
        .out;
    assert!(
        told.contains("Would take group:team out of statement Team") && told.contains("loses reading it"),
        "{told}"
    );

    // A denial stands over what is allowed, and is said to.
    let allowed = product
        .run(&["--json", "policy", "allow", "app/db", "user:cat"])
        .ok()
        .json();
    assert_eq!(allowed["remaining"][0]["statement"], "No");
    let warnings = allowed["warnings"].to_string();
    assert!(
        warnings.contains("user cat") && warnings.contains("no effect: statement No denies it"),
        "{warnings}"
    );
    assert_eq!(read_as(CAT, &[], &path), Err(libc::EACCES));
    let undone = product
        .run(&["--json", "policy", "undeny", "app/db", "user:cat"])
        .ok()
        .json();
    assert_eq!(undone["gain"], json!([format!("user cat (uid {CAT})")]));
    assert_eq!(read_as(CAT, &[], &path), Ok(b"s3cret".to_vec()));
    assert_eq!(read_as(BEN, &[], &path), Err(libc::EACCES));

    // Nothing to take out; and only who may set the policy takes anybody out.
    for (command, who) in [
        ("revoke", "uid:5"),
        ("undeny", "user:cat"),
        ("revoke", "user:nosuch"),
    ] {
        assert_eq!(
            product.run(&["policy", command, "app/db", who]).code(),
            4,
            "{command} {who}"
        );
    }
    let before = statements(&product);
    assert_eq!(
        product
            .run(&["policy", "revoke", "app/db", "user:cat", "uid:5"])
            .code(),
        4
    );
    assert_eq!(statements(&product), before, "all or nothing");
    let refused = product.run_as(
        CAT,
        &[],
        &["policy", "revoke", "app/db", "user:ben", "--dry-run"],
        b"",
    );
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert_eq!(product.run(&["policy", "revoke", "app/none", "uid:5"]).code(), 4);

    // The last statement goes, and the policy with it.
    product.put("app/one", "s3cret", &["--allow", "user:cat"]);
    product.run(&["policy", "revoke", "app/one", "user:cat"]).ok();
    assert_eq!(readers(&product, "app/one"), json!([]));
    assert_eq!(read_as(CAT, &[], &product.path("app/one")), Err(libc::EACCES));
    product.stop();
}

#[test]
fn a_question_about_somebody_is_asked_the_same_way_everywhere() {
    let _deadline = Deadline::new(Duration::from_secs(90), "who");
    let mut product = Product::mounted();
    product.put(
        "app/db",
        "s3cret",
        &["--allow", &format!("uid:{A}"), "--allow", "unit:app.service"],
    );
    let (a, b) = (format!("uid:{A}"), format!("uid:{B}"));
    let myself = std::process::id().to_string();
    for (who, code) in [
        (["--as", &a], 0),
        (["--as", &b], 3),
        (["--as", "user:root"], 3),
        (["--as", "unit:app.service"], 0),
        (["--as", "unit:other.service"], 3),
        (["--pid", &myself], 3),
        (["--pid", "4194304"], 4),
        (["--as", "group:root"], 2),
        (["--as", "user:nobodyatall"], 4),
    ] {
        for command in [&["why", "app/db"][..], &["policy", "explain", "app/db"]] {
            let said = product.run(&[command, &who].concat());
            assert_eq!(said.code(), code, "{command:?} {who:?}: {said:?}");
        }
    }
    // The old forms, as they were.
    for old in [["--uid", &B.to_string()], ["--user", "root"]] {
        product.run(&[&["why", "app/db"][..], &old].concat()).ok();
    }
    // A unit that may not is told what would let it in.
    let said = product
        .run(&["--json", "why", "app/db", "--as", "unit:other.service"])
        .json();
    let mend = said["mend"].as_str().expect("a command");
    assert!(
        mend.ends_with(" policy allow app/db unit:other.service"),
        "{mend}"
    );

    assert_eq!(read_as(A, &[], &product.path("app/db")), Ok(b"s3cret".to_vec()));
    assert_eq!(read_as(B, &[], &product.path("app/db")), Err(libc::EACCES));
    let of = |who: &[&str]| {
        let said = product
            .run(&[&["--json", "audit", "query"][..], who].concat())
            .ok();
        said.out
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).expect("a record"))
            .collect::<Vec<_>>()
    };
    let found = of(&["--who", &b]);
    assert!(
        !found.is_empty() && found.iter().all(|r| r["uid"] == B),
        "{found:?}"
    );
    assert_eq!(found, of(&["--uid", &B.to_string()]));
    assert!(of(&["--who", "user:root"]).iter().all(|r| r["uid"] == 0));
    assert_eq!(of(&["--who", "unit:wardfs-nosuch.service"]), Vec::<Value>::new());
    assert_eq!(product.run(&["audit", "query", "--who", "group:root"]).code(), 2);
    assert_eq!(
        product.run(&["audit", "query", "--who", &a, "--uid", "0"]).code(),
        2
    );

    // The switch for one's own store, and the name of somebody behind it.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wardfs"));
    command
        .args(["list", "--user", "root"])
        .env("HOME", product.dir());
    let said = support::product::said(command, b"");
    assert_eq!(said.code(), 2, "{said:?}");
    assert!(said.err.contains("wardfs why SECRET --as user:root"), "{said:?}");
    product.stop();
}

#[test]
fn what_still_keeps_somebody_out_is_said() {
    let _deadline = Deadline::new(Duration::from_secs(60), "what keeps out");
    let product = Product::mounted();
    let who = format!("uid:{A}");
    product.put("app/db", "s3cret", &["--allow", &who, "--deny", &who]);
    let path = product.path("app/db");
    // A put that allows somebody over a standing denial.
    let put = product.put("app/db", "s3cret", &["--allow", &who]);
    assert!(
        put["warnings"]
            .to_string()
            .contains("no effect: statement #2 denies it"),
        "{put}"
    );
    let why = |args: &[&str]| -> Value {
        let said = product.run(&[&["--json", "why", "app/db", "--as", &who], args].concat());
        assert_eq!(said.code(), 3);
        said.json()
    };
    let mend = why(&[])["mend"].to_string();
    assert!(mend.contains(&format!(" policy undeny app/db {who}")), "{mend}");
    // A guardrail that lets others alone read stands when the Deny is gone.
    let ceiling = json!([{"Effect": "Allow", "Action": "*", "Resource": "*",
        "Condition": {"StringNotEquals": {"wardfs:Uid": A.to_string()}}}]);
    let ceiling = product.document("ceiling.json", &document(ceiling));
    product.run(&["guardrail", "set", "few", &ceiling]).ok();
    let undone = product
        .run(&["--json", "policy", "undeny", "app/db", &who])
        .ok()
        .json();
    assert_eq!(undone["gain"], json!([]), "{undone}");
    let row = &undone["remaining"][0];
    assert_eq!(
        (&row["layer"], &row["statement"], &row["effect"]),
        (&json!("guardrail"), &json!("few"), &json!("deny")),
        "{undone}"
    );
    assert_eq!(row["words"], "guardrail few does not allow it");
    assert_eq!(read_as(A, &[], &path), Err(libc::EACCES));
    let put = product.put("app/db", "s3cret", &["--allow", &who]);
    assert!(put["warnings"].to_string().contains("guardrail few"), "{put}");
    product.run(&["guardrail", "remove", "few"]).ok();
    let put = product.put("app/db", "s3cret", &["--allow", &who]);
    assert_eq!(put["warnings"], json!([]), "{put}");
    assert_eq!(read_as(A, &[], &path), Ok(b"s3cret".to_vec()));
}
