//! What fresh eyes with a shell did, and cannot do any more.

mod support;

use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::attackers::{Account, administered};
use support::product::{A, B, Product, read_as};
use support::{Deadline, Run};
use wardfs::control::client::Client;

const ADMIN: u32 = 60_720;

fn deadline(name: &str) -> Deadline {
    Deadline::new(Duration::from_secs(100), name)
}

/// A store that a group administers, of which one account is a member.
struct Administered {
    member: Account,
    product: Product,
}

impl Administered {
    fn new(name: &str, uid: u32) -> Administered {
        let (member, product) = administered(name, uid);
        Administered { member, product }
    }

    fn put(&self, args: &[&str], value: &str) -> support::product::Said {
        let words = [&["put"], args].concat();
        self.product
            .run_as(self.member.uid, &[self.member.uid], &words, value.as_bytes())
    }
}

/// A name below `.versions` is one version for good: no label is spelt as an id, and none is taken for another one.
#[test]
fn no_label_stands_for_a_version_or_for_another_label() {
    let _deadline = deadline("labels");
    let mut product = Product::new();
    let a = format!("uid:{A}");
    let first = product.put("app/pin", "first", &["--allow", &a])["version"].clone();
    let first = first.as_str().expect("an id").to_string();
    let second = product.put("app/pin", "second", &[])["version"].clone();
    let second = second.as_str().expect("an id").to_string();
    product.mount();
    let refused = product.run_with(&["put", "app/pin", "--label", &second], b"evil");
    assert_eq!(refused.code(), 2, "{refused:?}");
    let refused = product.run(&["label", "move", "app/pin", &first, "--to", &second]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    // 24 bits of its SHA-256 are those of `current`.
    let refused = product.run(&["label", "move", "app/pin", "ac5302", "--to", &first]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    product
        .run(&["label", "move", "app/pin", "good", "--to", &first])
        .ok();
    for (name, value) in [
        (first.as_str(), "first"),
        (&second, "second"),
        ("current", "second"),
        ("good", "first"),
    ] {
        let path = product.target().join(".versions/app/pin").join(name);
        assert_eq!(read_as(A, &[], &path), Ok(value.into()), "{name}");
    }
    // The rest of the labels does not crowd out those that the product moves.
    for n in 0..17 {
        let (label, to) = (format!("l{n}"), first.as_str());
        product
            .run(&["label", "move", "app/pin", &label, "--to", to])
            .ok();
    }
    let refused = product.run(&["label", "move", "app/pin", "one-more", "--to", &first]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    product.put("app/pin", "third", &[]);
    product.put("app/pin", "fourth", &[]);
}

/// A put that is repeated tells its maker and readers whether the value is the same, and nobody else.
#[test]
fn nobody_guesses_a_value_by_its_token() {
    let _deadline = deadline("tokens");
    let store = Administered::new("wfsguess", ADMIN);
    let (product, token) = (&store.product, "0123456789abcdef0123456789abcdef");
    product.put("pin/a", "1234", &["--token", token]);
    let [right, wrong] = ["1234", "4321"].map(|guess| store.put(&["pin/a", "--token", token], guess));
    assert_eq!((right.code(), wrong.code()), (5, 5), "{right:?} {wrong:?}");
    assert_eq!(right.err, wrong.err);
    assert!(!right.err.contains("another value"), "{right:?}");
    // Its maker repeats it; and a member what he put himself.
    assert_eq!(
        product.put("pin/a", "1234", &["--token", token])["repeated"],
        true
    );
    let token = "fedcba9876543210fedcba9876543210";
    for repeated in [false, true] {
        let said = store.put(&["pin/own", "--token", token, "--json"], "own").ok();
        assert_eq!(said.json()["repeated"], repeated);
    }
}

/// A guardrail that names secrets binds a new one too, whatever ARN its maker gives it.
#[test]
fn no_arn_leads_round_a_guardrail() {
    let _deadline = deadline("an ARN");
    let store = Administered::new("wfsarn", ADMIN + 1);
    let document = serde_json::json!({ "Version": "2012-10-17", "Statement": [{
        "Sid": "NoProd", "Effect": "Deny", "Principal": "*", "Action": "secretsmanager:GetSecretValue",
        "Resource": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:prod/*" }] });
    let file = store.product.document("guardrail", &document);
    store.product.run(&["guardrail", "set", "prod", &file]).ok();
    let arn = "arn:aws:secretsmanager:us-east-1:999999999999:secret:prod/two-AbCdEf";
    let allow = format!("user:{}", store.member.name);
    let refused = store.put(&["prod/two", "--allow", &allow, "--arn", arn], "v");
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.err.contains("NoProd"), "{refused:?}");
    store.put(&["prod/two", "--allow", &allow], "v").ok();
    store
        .put(&["other/two", "--allow", &allow, "--arn", arn], "v")
        .ok();
    // Root does as it likes.
    store.product.put("prod/three", "v", &["--arn", arn]);
}

/// What loses its last label is not shown to those whom a rule about labels kept from it.
#[test]
fn two_puts_show_nobody_an_old_version() {
    let _deadline = deadline("labels that go");
    let store = Administered::new("wfsputs", ADMIN + 2);
    let document = serde_json::json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "Uid": A.to_string() }, "Action": "secretsmanager:GetSecretValue", "Resource": "*" },
        { "Effect": "Deny", "Principal": { "Uid": A.to_string() }, "Action": "secretsmanager:GetSecretValue", "Resource": "*",
          "Condition": { "StringEquals": { "secretsmanager:VersionStage": ["current", "previous"] } } }] });
    let file = store.product.document("stages", &document);
    store.product.put("lab/a", "one", &["--policy", &file]);
    store.put(&["lab/a"], "two").ok();
    let refused = store.put(&["lab/a"], "three");
    assert_eq!(refused.code(), 3, "{refused:?}");
    store.product.put("lab/a", "three", &[]);
}

/// Sub ids count for their account where connections and handles are counted.
#[test]
fn one_account_takes_no_more_connections_by_its_sub_ids() {
    let _deadline = deadline("connections");
    let account = Account::new("wfsconns", ADMIN + 3, &[]);
    let mut product = Product::new();
    product.put("app/r", "v", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let store = product.store();
    let holders: Vec<_> = (0..6)
        .map(|n| {
            let store = store.clone();
            let (ours, theirs) = support::socket_pair();
            let run = Run::uid(account.subids + n).limit(Duration::from_secs(60));
            let child = run.start(move || {
                let held: Vec<_> = (0..16).map(|_| Client::connect(&store)).collect();
                let list = serde_json::json!({ "command": "list", "under": null });
                let served = held
                    .into_iter()
                    .filter_map(|c| c.ok().flatten())
                    .filter_map(|mut client| {
                        let list = serde_json::from_value(list.clone()).expect("a request");
                        client.call(&list, None).ok().map(|_| client)
                    });
                let served: Vec<_> = served.collect();
                nix::unistd::write(&theirs, b"c").expect("say so");
                let _ = support::sys::read(&theirs, 1);
                served.len()
            });
            support::sys::read(&ours, 1).expect("connected");
            (child, ours)
        })
        .collect();
    product.run_as(B, &[], &["list"], b"").ok();
    let served: usize = holders
        .into_iter()
        .map(|(child, ours)| {
            nix::unistd::write(&ours, b"e").expect("say so");
            child.join()
        })
        .sum();
    assert!(served <= 16, "{served} connections of one account were served");
}

/// What root's daemon makes private or public is its own directory, not what a link leads to.
#[test]
fn a_link_in_the_store_changes_no_mode_elsewhere() {
    let _deadline = deadline("links");
    let mut product = Product::new();
    product.put("app/db", "v", &["--allow", &format!("uid:{A}")]);
    let mode = |path: &Path| path.metadata().expect("stat").mode() & 0o7777;
    let private = product.dir().join("private");
    std::fs::create_dir(&private).expect("mkdir");
    std::fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
    let _ = std::fs::remove_dir_all(product.store().join("run"));
    symlink(&private, product.store().join("run")).expect("link");
    let refused = product.try_mount(&[]);
    assert!(refused.is_some(), "it began to serve over a link");
    assert_eq!(mode(&private), 0o700);
    std::fs::remove_file(product.store().join("run")).expect("remove");
    product.mount();
    let (log, aside, public) = (
        product.store().join("audit"),
        product.dir().join("aside"),
        product.dir().join("public"),
    );
    std::fs::create_dir(&public).expect("mkdir");
    std::fs::set_permissions(&public, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    std::fs::rename(&log, &aside).expect("move");
    symlink(&public, &log).expect("link");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let _ = read_as(A, &[], &product.path("app/db"));
    }
    assert_eq!(mode(&public), 0o755);
    std::fs::remove_file(&log).expect("remove");
    std::fs::rename(&aside, &log).expect("back");
}

/// Nothing is acknowledged that goes to a file which nobody will open again.
#[test]
fn a_store_that_is_replaced_while_served_takes_no_changes() {
    let _deadline = deadline("a replaced store");
    let mut product = Product::new();
    product.put("app/db", "v", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let data = product.store().join("store.redb");
    let copy = product.dir().join("copy");
    std::fs::copy(&data, &copy).expect("copy");
    let aside = product.dir().join("aside");
    std::fs::rename(&data, &aside).expect("move");
    std::fs::rename(&copy, &data).expect("replace");
    let refused = product.run_with(&["put", "app/db"], b"lost");
    assert_eq!(refused.code(), 6, "{refused:?}");
    assert_eq!(read_as(A, &[], &product.path("app/db")), Ok(b"v".to_vec()));
    std::fs::rename(&aside, &data).expect("back");
    product.put("app/db", "kept", &[]);
    product.stop();
    assert_eq!(product.run(&["get", "app/db", "--as-root"]).code(), 2);
    product.run(&["audit", "verify"]).ok();
    product.mount();
    assert_eq!(read_as(A, &[], &product.path("app/db")), Ok(b"kept".to_vec()));
}

/// A segment that was made long is unreadable at once.
#[test]
fn a_log_that_was_grown_is_said_to_be_damaged_soon() {
    let _deadline = deadline("a grown log");
    let mut product = Product::new();
    product.put("app/db", "v", &[]);
    let segment = product.store().join("audit/00000001.jsonl");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&segment)
        .expect("open");
    file.set_len(file.metadata().expect("stat").len() + (256 << 20))
        .expect("grow");
    let begin = Instant::now();
    let mut tail = product.command(&["audit", "tail"]);
    let mut child = tail
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    let mut said = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut said)
        .expect("read");
    child.wait().expect("wait");
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?} {said}",
        begin.elapsed()
    );
    let _ = &mut product;
}

/// A stranger's own refusal tells no number of others', hidden ones among them.
#[test]
fn a_refusal_tells_nothing_of_the_log() {
    let _deadline = deadline("numbers");
    let mut product = Product::new();
    product.put("app/two", "v", &["--allow", &format!("uid:{A}")]);
    product.mount();
    assert!(read_as(B, &[], &product.path("app/two")).is_err());
    let why = product.run_as(B, &[], &["--json", "why", "app/two"], b"");
    let record = &why.json()["record"];
    assert!(record.is_object(), "{why:?}");
    for field in ["seq", "eventID", "mac"] {
        assert!(record.get(field).is_none(), "{field}: {record}");
    }
}

/// What a statement keeps from a reader is not in a listing; and a right to put makes no secret anew.
#[test]
fn a_listing_and_a_put_keep_to_what_is_denied() {
    let _deadline = deadline("listing");
    let mut product = Product::new();
    let to = |effect: &str, actions: &[&str]| {
        let actions: Vec<_> = actions.iter().map(|a| format!("secretsmanager:{a}")).collect();
        serde_json::json!({ "Effect": effect, "Principal": { "Uid": A.to_string() }, "Action": actions, "Resource": "*" })
    };
    let document = serde_json::json!({ "Version": "2012-10-17", "Statement": [
        to("Allow", &["GetSecretValue", "PutSecretValue"]), to("Deny", &["DescribeSecret"])] });
    let file = product.document("listing", &document);
    product.put(
        "app/x",
        "v",
        &["--policy", &file, "--description", "words", "--tag", "team=x"],
    );
    product.mount();
    let list = product.run_as(A, &[], &["--json", "list"], b"").ok().json();
    let row = &list["secrets"][0];
    assert_eq!(row["name"], "app/x");
    assert!(row["description"].is_null() && row["version"].is_null(), "{row}");
    assert_eq!(
        (&row["tags"], &row["labels"]),
        (&serde_json::json!({}), &serde_json::json!({}))
    );
    product.run_as(A, &[], &["put", "app/x"], b"w").ok();
    product.run(&["delete", "app/x", "--now"]).ok();
    let refused = product.run_as(A, &[], &["put", "app/x"], b"again");
    assert_eq!(refused.code(), 3, "{refused:?}");
    product.put("app/x", "again", &[]);
}
