//! The settings that decide who may do what are sealed: an edited `wardfs.toml` changes nothing before its store's owner
//! accepts it.

mod support;

use std::time::Duration;

use serde_json::{Value, json};

use support::Deadline;
use support::attackers::Account;
use support::product::{A, B, Product, Said, read_as};
use support::terminal::at_a_terminal;

const ROLE: &str = "arn:aws:iam::111122223333:role/app";

/// Writes the file anew: these lines before what `init` wrote.
fn edit(product: &Product, lines: &str) {
    let file = product.store().join("wardfs.toml");
    let text = std::fs::read_to_string(&file).expect("wardfs.toml");
    let plain: String = text
        .lines()
        .filter(|l| !l.ends_with("# ours"))
        .map(|l| format!("{l}\n"))
        .collect();
    let (settings, mapping): (Vec<&str>, Vec<&str>) = lines.lines().partition(|l| !l.starts_with('"'));
    let own = |lines: Vec<&str>| {
        lines
            .into_iter()
            .map(|l| format!("{l} # ours\n"))
            .collect::<String>()
    };
    let text = own(settings) + &plain + &own(mapping);
    std::fs::write(file, text).expect("write");
}

fn mapped(uids: &[u32]) -> String {
    let locals: Vec<String> = uids.iter().map(|u| format!("\"uid:{u}\"")).collect();
    format!("\"{ROLE}\" = [{}]", locals.join(", "))
}

fn changes(said: &Said) -> Vec<String> {
    let said = said.json();
    let all = said["changes"].as_array().expect("changes").iter();
    all.map(|c| format!("{}: {} -> {}", c["key"], c["sealed"], c["file"]).replace('"', ""))
        .collect()
}

fn records(product: &Product, event: &str) -> Vec<Value> {
    let all = product.records().into_iter();
    all.filter(|r| r["eventName"] == event).collect()
}

#[test]
fn an_edited_mapping_is_followed_by_nothing_before_it_is_accepted() {
    let _deadline = Deadline::new(Duration::from_secs(90), "mapping");
    let mut product = Product::empty();
    std::fs::create_dir(product.store()).expect("mkdir");
    std::fs::set_permissions(
        product.store(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .expect("chmod");
    std::fs::write(
        product.store().join("wardfs.toml"),
        format!("[principals]\n{} # ours\n", mapped(&[A])),
    )
    .expect("write");
    product.run(&["init"]).ok();
    product.mount();
    let policy = json!({"Statement": {"Effect": "Allow", "Principal": {"AWS": ROLE},
        "Action": "secretsmanager:GetSecretValue", "Resource": "*"}});
    let policy = product.document("policy.json", &policy);
    product.put("arn/x", "arnval", &["--policy", &policy]);
    let reads = |product: &Product, uid| read_as(uid, &[], &product.path("arn/x")).is_ok();
    assert!(reads(&product, A) && !reads(&product, B));
    let whole = product.run(&["config", "check", "--json"]).ok().json();
    assert_eq!((&whole["ok"], &whole["differences"]), (&json!(true), &json!([])));

    // The disk's writer maps himself; whatever the administrator does then is not about that.
    edit(&product, &mapped(&[A, B]));
    product.run(&["policy", "allow", "arn/x", "uid:60790"]).ok();
    product
        .run_with(&["put", "arn/x", "--allow", "uid:60791"], b"arnval")
        .ok();
    assert!(!reads(&product, B));
    let set = product
        .run(&["policy", "set", "arn/x", &policy, "--json"])
        .ok()
        .json();
    assert!(set["warnings"].to_string().contains("config accept"), "{set}");
    assert_eq!(set["resolved"], json!([format!("{ROLE}: uid:{A}")]));
    assert!(reads(&product, A) && !reads(&product, B));
    product.stop();
    product.mount();
    product.run(&["policy", "set", "arn/x", &policy]).ok();
    assert!(!reads(&product, B));

    // It is told: in the log once, however often it begins, in `status`, and by `config check`.
    product.stop();
    product.mount();
    let told = records(&product, "ConfigChanged");
    assert_eq!(told.len(), 1, "{told:?}");
    let message = told[0]["message"].as_str().expect("words");
    assert!(
        message.contains(ROLE) && message.contains(&format!("uid:{A}, uid:{B}")),
        "{message}"
    );
    let status = product.run(&["status", "--json"]).ok().json();
    assert_eq!(status["config"][0]["sealed"], format!("uid:{A}"));
    assert_eq!(status["config"][0]["file"], format!("uid:{A}, uid:{B}"));
    let status = product.run(&["status"]).ok();
    assert!(status.err.contains("is in force, wardfs.toml says"), "{status:?}");
    for _ in 0..2 {
        let check = product.run(&["config", "check"]);
        assert_eq!(check.code(), 5, "{check:?}");
        assert!(check.out.contains("is in force, wardfs.toml says"), "{check:?}");
        assert!(check.err.contains("config accept"), "{check:?}");
        let check = product.run(&["config", "check", "--json"]);
        assert_eq!((check.code(), &check.json()["ok"]), (5, &json!(false)));
        product.stop();
        // Without a daemon as with one.
        let check = product.run(&["config", "check"]);
        assert_eq!(check.code(), 5, "{check:?}");
        product.mount();
    }

    // Accepting shows who gains, asks, and is root's alone.
    let dry = product.run(&["config", "accept", "--dry-run", "--json"]).ok();
    assert_eq!(changes(&dry).len(), 1);
    let gain = dry.json()["gain"].clone();
    assert_eq!(
        gain,
        json!([format!("uid:{B} as {ROLE}: arn/x, once its policy is set again")])
    );
    assert_eq!(dry.json()["accepted"], false);
    let asked = product.run(&["config", "accept"]);
    assert_eq!(asked.code(), 2, "{asked:?}");
    assert!(asked.err.contains("--yes"), "{asked:?}");
    let other = product.run_as(B, &[], &["config", "accept", "--yes"], b"");
    assert_eq!(other.code(), 3, "{other:?}");
    product.record("a refusal", |r| {
        r["eventName"] == "AcceptConfig" && r["outcome"] == "denied" && r["uid"] == B
    });
    assert_eq!(product.run(&["config", "check"]).code(), 5);
    let done = product.run(&["config", "accept", "--yes"]).ok();
    assert!(
        done.out.contains(&format!("gains: uid:{B} as {ROLE}: arn/x")),
        "{done:?}"
    );
    let record = product.record("accepted", |r| {
        r["eventName"] == "AcceptConfig" && r["outcome"] == "allowed"
    });
    assert!(
        record["message"].as_str().is_some_and(|m| m.contains(ROLE)),
        "{record}"
    );
    // Accepting is not setting a policy; setting it follows the mapping.
    assert!(!reads(&product, B));
    product.run(&["policy", "set", "arn/x", &policy]).ok();
    assert!(reads(&product, A) && reads(&product, B));
    assert_eq!(product.run(&["config", "check"]).code(), 0);
    let again = product.run(&["config", "accept", "--json"]).ok().json();
    assert_eq!(
        (&again["accepted"], &again["changes"]),
        (&json!(false), &json!([]))
    );
    product.stop();

    // Also without a daemon; and a backup carries what is sealed.
    edit(&product, &mapped(&[A]));
    product.run(&["config", "accept", "--yes"]).ok();
    assert_eq!(product.run(&["config", "check"]).code(), 0);
    let backup = product.dir().join("backup").to_str().expect("a path").to_string();
    product.run(&["store", "backup", &backup]).ok();
    edit(&product, &mapped(&[B]));
    product.run(&["config", "accept", "--yes"]).ok();
    product
        .run(&["store", "restore", &backup, "--accept-rollback"])
        .ok();
    let check = product.run(&["config", "check", "--json"]);
    assert_eq!(check.code(), 5, "{check:?}");
    assert_eq!(check.json()["differences"][0]["sealed"], format!("uid:{A}"));
}

#[test]
fn no_group_begins_to_administer_by_itself() {
    let _deadline = Deadline::new(Duration::from_secs(90), "group");
    let mut product = Product::new();
    product.put("app/key", "value", &["--allow", &format!("uid:{A}")]);
    let account = |uid: u32| {
        let account = Account::new("wfs7adm", uid, &[]);
        let group = nix::unistd::Group::from_name("wfs7adm")
            .expect("groups")
            .expect("its group");
        (account, group.gid.as_raw())
    };
    let tries = |product: &Product, gid: u32| product.run_as(B, &[gid], &["put", "app/key"], b"mine").code();
    let (first, gid) = account(60760);
    edit(
        &product,
        "admin_group = \"wfs7adm\"\nroot_describes = false\nserve_unidentified = true",
    );
    product.mount();
    assert_eq!(tries(&product, gid), 3, "an edited file makes no administrators");
    assert_eq!(product.run(&["describe", "app/key"]).code(), 0);
    let dry = product.run(&["config", "accept", "--dry-run", "--json"]).ok();
    let keys: Vec<String> = changes(&dry)
        .iter()
        .map(|c| c.split(':').next().unwrap_or_default().to_string())
        .collect();
    assert_eq!(keys, ["admin_group", "root_describes", "serve_unidentified"]);
    let gain = dry.json()["gain"].to_string();
    assert!(
        gain.contains(&format!("members of group wfs7adm (gid {gid})")) && gain.contains("cannot be seen"),
        "{gain}"
    );
    assert!(
        dry.json()["lose"].to_string().contains("root: describing"),
        "{dry:?}"
    );
    // At a terminal it asks.
    let answer = |keys: &[u8]| at_a_terminal(&product.store(), &["config", "accept"], &[("[y/N]", keys)]);
    let (shown, code) = answer(b"n\n");
    assert_eq!(code, Some(1), "{shown}");
    assert_eq!(tries(&product, gid), 3);
    let (shown, code) = answer(b"y\n");
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("gains: members of group wfs7adm"), "{shown}");
    // In force at once, and after a restart.
    assert_eq!(tries(&product, gid), 0);
    assert_eq!(product.run(&["describe", "app/key"]).code(), 3);
    product.stop();
    product.mount();
    assert_eq!(tries(&product, gid), 0);
    product.stop();

    // The group made anew, with another number: neither the new one nor whoever gets the old number administers.
    drop(first);
    let _blocker = Account::new("wfs7blk", 60762, &[]);
    let (_anew, other) = account(60761);
    product.mount();
    if other != gid {
        assert_eq!(tries(&product, other), 3);
        assert_eq!(tries(&product, gid), 3);
        let check = product.run(&["config", "check"]);
        assert_eq!(check.code(), 5, "{check:?}");
        assert!(
            check.out.contains(&format!(
                "(gid {gid}) is in force, wardfs.toml says wfs7adm (gid {other})"
            )),
            "{check:?}"
        );
        product.run(&["config", "accept", "--yes"]).ok();
        product.stop();
        product.mount();
        assert_eq!((tries(&product, other), tries(&product, gid)), (0, 3));
    }
}

#[test]
fn no_option_of_mount_decides() {
    let _deadline = Deadline::new(Duration::from_secs(60), "options");
    let mut product = Product::new();
    for option in [
        "admin_group=users",
        "root_describes=false",
        "serve_unidentified=true",
        "principals.x=y",
        "principals={}",
    ] {
        let said = product.try_mount(&["-o", option]).expect("refused");
        assert_eq!(said.code(), 2, "{option}: {said:?}");
        assert!(said.err.contains("config accept"), "{option}: {said:?}");
    }
    assert!(product.try_mount(&["-o", "max_handles_per_uid=7"]).is_none());
}

/// A store of a release that sealed none of it takes what the file says at its first start, on record.
#[test]
fn an_older_store_takes_the_file_once() {
    let _deadline = Deadline::new(Duration::from_secs(60), "older store");
    let mut product = Product::empty();
    let config = wardfs::config::Config::default();
    let settings = wardfs::vault::Settings {
        deciding: None,
        ..wardfs::daemon::settings(&product.store(), &config)
    };
    drop(wardfs::vault::create(&product.store(), &settings).expect("a store"));
    let text = format!("root_describes = false\n[principals]\n{}\n", mapped(&[A]));
    std::fs::write(product.store().join("wardfs.toml"), text).expect("write");
    product.mount();
    assert_eq!(product.run(&["config", "check"]).code(), 0);
    product.stop();
    std::fs::write(
        product.store().join("wardfs.toml"),
        format!("[principals]\n{}\n", mapped(&[B])),
    )
    .expect("write");
    for _ in 0..2 {
        product.mount();
        product.stop();
    }
    let check = product.run(&["config", "check", "--json"]);
    assert_eq!(check.code(), 5, "{check:?}");
    let sealed: Vec<String> = check.json()["differences"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|d| d["sealed"].to_string())
        .collect();
    assert_eq!(sealed, ["\"false\"".to_string(), format!("\"uid:{A}\"")]);
    let told = records(&product, "ConfigChanged");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0]["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("nothing was sealed")),
        "{told:?}"
    );
    product.run(&["audit", "verify"]).ok();
}
