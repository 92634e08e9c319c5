//! Archiving the log: what is copied away is gone from the store on record, the rest proves from there on, and with the
//! copies all of it; whoever changes, drops or forges something is found, whatever was interrupted.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::product::{A, B, Product, Said};
use support::rig::Dice;
use support::{Deadline, Run};

/// Reads so often that two or more segments of 64 KiB are full.
fn fill(product: &Product) {
    let path = product.path("app/db");
    Run::uid(A).limit(Duration::from_secs(60)).call(|| {
        for _ in 0..400 {
            std::fs::read(&path).expect("read");
        }
    });
}

/// A mounted store whose log has several segments.
fn product() -> Product {
    let mut product = Product::new();
    small(&product);
    product.mount();
    product.put("app/db", "value", &["--allow", &format!("uid:{A}")]);
    fill(&product);
    product
}

fn small(product: &Product) {
    let file = product.store().join("wardfs.toml");
    std::fs::write(&file, "[audit]\nsegment_bytes = 65536\n").expect("settings");
}

fn log(product: &Product) -> PathBuf {
    product.store().join("audit")
}

fn segments(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("list")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn archive(product: &Product, to: &Path, more: &[&str]) -> Said {
    let to = to.to_str().expect("text");
    let mut args = vec!["--json", "audit", "archive", to, "--before", "0s"];
    args.extend(more);
    product.run(&args)
}

fn verify(product: &Product, with: &[&Path]) -> Said {
    let mut args = vec!["--json", "audit", "verify"];
    for dir in with {
        args.extend(["--with", dir.to_str().expect("text")]);
    }
    product.run(&args)
}

/// What `--json` says has the form that is documented.
#[track_caller]
fn fits(command: &str, answer: &Value) {
    let file = format!(
        "{}/packaging/doc/json/{command}.schema.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let schema = std::fs::read_to_string(&file).expect("a schema");
    let schema = jsonschema::validator_for(&serde_json::from_str(&schema).expect("JSON")).expect("a schema");
    let faults: Vec<String> = schema.iter_errors(answer).map(|e| e.to_string()).collect();
    assert!(faults.is_empty(), "{command}: {answer}: {faults:?}");
}

/// A store of which something is archived in the directory that is given.
fn archived() -> (Product, PathBuf) {
    let product = product();
    let to = product.dir().join("archive");
    archive(&product, &to, &[]).ok();
    (product, to)
}

#[test]
fn what_is_archived_is_copied_recorded_and_gone() {
    let _deadline = Deadline::new(Duration::from_secs(120), "archive");
    let mut product = product();
    let (dir, to) = (log(&product), product.dir().join("archive"));
    let before = segments(&dir);
    assert!(before.len() >= 3, "{before:?}");
    let whole = verify(&product, &[]).ok().json();
    assert!(whole.get("archived").is_none(), "{whole}");
    // With nothing archived an empty directory is fine.
    let empty = product.dir().join("empty");
    std::fs::create_dir(&empty).expect("mkdir");
    verify(&product, &[&empty]).ok();

    // Nothing is old enough; a time is understood as in a query; and what is not.
    let none = product.run(&["audit", "archive", to.to_str().unwrap(), "--before", "7d"]);
    assert_eq!((none.code(), none.out.as_str()), (0, ""), "{none:?}");
    assert!(none.err.contains("No finished segment"), "{none:?}");
    let wrong = product.run(&["audit", "archive", to.to_str().unwrap(), "--before", "soon"]);
    assert!(
        wrong.code() == 2 && wrong.err.contains("--before \"soon\" is not understood"),
        "{wrong:?}"
    );
    verify(&product, &[&to]).ok();
    std::fs::remove_dir(&to).expect("an empty directory");

    // A dry run changes nothing.
    let dry = archive(&product, &to, &["--dry-run"]).ok().json();
    assert_eq!(dry["dry_run"], true);
    assert_eq!((segments(&dir), to.exists()), (before.clone(), false));

    let bytes: Vec<Vec<u8>> = before
        .iter()
        .map(|n| std::fs::read(dir.join(n)).expect("read"))
        .collect();
    let done = archive(&product, &to, &[]).ok().json();
    let mut same = done["segments"].clone();
    for segment in same.as_array_mut().expect("a list") {
        segment.as_object_mut().expect("an object").remove("digest");
    }
    assert_eq!(same, dry["segments"]);
    fits("audit-archive", &done);
    fits("audit-archive", &dry);
    let (kept, gone) = (segments(&dir), segments(&to));
    assert_eq!(gone, before[..before.len() - 1]);
    assert_eq!(kept, before[before.len() - 1..]);
    assert_eq!(std::fs::metadata(&to).expect("dir").mode() & 0o7777, 0o700);
    for (name, bytes) in gone.iter().zip(&bytes) {
        assert_eq!(&std::fs::read(to.join(name)).expect("copy"), bytes, "{name}");
        assert_eq!(
            std::fs::metadata(to.join(name)).expect("copy").mode() & 0o7777,
            0o400
        );
    }

    // The record, and what it names.
    let record = product.record("the archive", |r| r["eventName"] == "ArchiveLog");
    assert_eq!(
        (record["outcome"].as_str(), record["uid"].as_u64()),
        (Some("allowed"), Some(0))
    );
    let named = &record["requestParameters"];
    fits("audit-query", &record);
    assert_eq!(named["segments"], json!((1..=gone.len()).collect::<Vec<_>>()));
    let digests: Vec<String> = bytes[..gone.len()]
        .iter()
        .map(|b| data_encoding::HEXLOWER.encode(&Sha256::digest(b)))
        .collect();
    assert_eq!(named["digests"], json!(digests));
    let mac = |bytes: &[u8]| {
        let last = bytes
            .trim_ascii_end()
            .rsplit(|b| *b == b'\n')
            .next()
            .expect("a line");
        serde_json::from_slice::<Value>(last).expect("a record")["mac"].clone()
    };
    let heads: Vec<Value> = bytes[..gone.len()].iter().map(|b| mac(b)).collect();
    assert_eq!(named["heads"], json!(heads));

    // What it proves, and from where on.
    for mounted in [true, false] {
        if !mounted {
            product.stop();
        }
        let rest = verify(&product, &[]).ok().json();
        assert_eq!(rest["archived"]["through"], named["last"]);
        assert_eq!(rest["archived"]["head"], heads[heads.len() - 1]);
        assert_eq!(rest["first"], json!(named["last"].as_u64().unwrap() + 1));
        let all = verify(&product, &[&to]).ok().json();
        fits("audit-verify", &rest);
        fits("audit-verify", &all);
        assert_eq!((&all["first"], &all["records"]), (&json!(1), &all["last"]));
        assert_eq!(all["segments"], json!(before.len()));
        let text = product.run(&["audit", "verify"]).ok().out;
        assert!(
            text.contains(&format!("Records up to {} were archived", named["last"])),
            "{text}"
        );
    }
    // The log goes on, is archived again into the same place, and proves by records of what is archived itself.
    product.mount();
    fill(&product);
    archive(&product, &to, &[]).ok();
    verify(&product, &[&to]).ok();
    let nothing = archive(&product, &to, &[]).ok().json();
    assert_eq!(
        (&nothing["segments"], nothing.get("archived")),
        (&json!([]), None)
    );
    product.kill();
    product.mount();
    fill(&product);
    product.stop();
    // In process, without a daemon.
    archive(&product, &to, &[]).ok();
    let all = verify(&product, &[&to]).ok().json();
    assert_eq!(all["records"], all["last"]);
    let three = product
        .records()
        .iter()
        .filter(|r| r["eventName"] == "ArchiveLog")
        .count();
    assert_eq!(three, 1, "the others are archived");
}

#[test]
fn who_may_not_archive_is_refused_on_record() {
    let _deadline = Deadline::new(Duration::from_secs(120), "archive");
    let product = product();
    let (dir, to) = (log(&product), product.dir().join("archive"));
    let before = segments(&dir);
    let text = to.to_str().unwrap();
    let args = ["audit", "archive", text, "--before", "0s"];
    let stranger = product.run_as(B, &[], &args, b"");
    assert_eq!(stranger.code(), 3, "{stranger:?}");
    product.record("a stranger's try", |r| {
        r["eventName"] == "ArchiveLog" && r["outcome"] == "denied" && r["uid"] == B
    });
    // An identity policy that allows it does not make an owner of him.
    let all = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "wardfs:ArchiveLog", "Resource": "*"}]});
    let all = product.document("all.json", &all);
    product.run(&["identity", "set", &format!("uid:{B}"), &all]).ok();
    assert_eq!(product.run_as(B, &[], &args, b"").code(), 3);
    // A guardrail binds root.
    let deny = json!({"Version": "2012-10-17", "Statement": [{"Sid": "Keep", "Effect": "Deny", "Action": "wardfs:ArchiveLog", "Resource": "*"}]});
    let deny = product.document("deny.json", &deny);
    product.run(&["guardrail", "set", "keep", &deny]).ok();
    let root = product.run(&args);
    assert!(root.code() == 3 && root.err.contains("guardrail"), "{root:?}");
    let refused = product.record("root's try", |r| {
        r["eventName"] == "ArchiveLog" && r["outcome"] == "denied" && r["uid"] == 0
    });
    assert_eq!(
        (&refused["layer"], &refused["statement"]),
        (&json!("guardrail"), &json!("keep/Keep"))
    );
    assert!(!to.exists());
    assert_eq!(segments(&dir)[..before.len()], before[..]);
    product.run(&["guardrail", "remove", "keep"]).ok();
    product.run(&args).ok();
}

#[test]
fn what_was_done_to_log_or_archive_is_found() {
    let _deadline = Deadline::new(Duration::from_secs(180), "archive");
    let (product, to) = archived();
    fill(&product);
    let integrity = |said: Said, place: &str| {
        assert_eq!(said.code(), 6, "{said:?}");
        assert!(said.err.contains(place), "{place}: {said:?}");
    };
    let [first, second] = ["00000001.jsonl", "00000002.jsonl"].map(|n| to.join(n));
    let (one, two) = (std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
    let put = |path: &Path, bytes: &[u8]| {
        let _ = std::fs::remove_file(path);
        std::fs::write(path, bytes).expect("write");
    };
    // Changed, cut, another segment under its name, gone.
    let mut changed = two.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for bytes in [&changed[..], &two[..two.len() - 1], &one[..], b""] {
        put(&second, bytes);
        integrity(verify(&product, &[&to]), "00000002.jsonl");
        verify(&product, &[]).ok();
    }
    std::fs::remove_file(&second).unwrap();
    integrity(verify(&product, &[&to]), "00000002.jsonl: the segment is missing");
    // In two places it is whole again.
    let other = product.dir().join("other");
    std::fs::create_dir(&other).unwrap();
    put(&other.join("00000002.jsonl"), &two);
    verify(&product, &[&to, &other]).ok();
    put(&second, &two);
    verify(&product, &[&to]).ok();
    // Who can write the disk cannot say that more was archived.
    let dir = log(&product);
    let oldest = dir.join(&segments(&dir)[0]);
    let bytes = std::fs::read(&oldest).unwrap();
    std::fs::remove_file(&oldest).unwrap();
    integrity(
        verify(&product, &[]),
        oldest.file_name().unwrap().to_str().unwrap(),
    );
    integrity(
        verify(&product, &[&to]),
        oldest.file_name().unwrap().to_str().unwrap(),
    );
    put(&oldest, &bytes);
    std::fs::set_permissions(&oldest, PermissionsExt::from_mode(0o600)).unwrap();
    verify(&product, &[]).ok();
    // What was archived and is put back must be what it was.
    put(&dir.join("00000001.jsonl"), &one);
    std::fs::set_permissions(dir.join("00000001.jsonl"), PermissionsExt::from_mode(0o600)).unwrap();
    integrity(verify(&product, &[]), "00000002.jsonl");
    std::fs::remove_file(dir.join("00000001.jsonl")).unwrap();

    // A log that is not in order is not archived.
    let mut broken = bytes.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    std::fs::write(&oldest, &broken).unwrap();
    integrity(
        archive(&product, &to, &[]),
        oldest.file_name().unwrap().to_str().unwrap(),
    );
    assert!(oldest.exists());
    std::fs::write(&oldest, &bytes).unwrap();
    archive(&product, &to, &[]).ok();
    verify(&product, &[&to]).ok();
}

#[test]
fn a_directory_that_is_not_fit_is_refused() {
    let _deadline = Deadline::new(Duration::from_secs(120), "archive");
    let product = product();
    let (dir, to) = (log(&product), product.dir().join("archive"));
    let before = segments(&dir);
    std::fs::create_dir(&to).unwrap();
    std::fs::set_permissions(&to, PermissionsExt::from_mode(0o777)).unwrap();
    let open = archive(&product, &to, &[]);
    assert!(
        open.code() == 6 && open.err.contains("others can change"),
        "{open:?}"
    );
    std::fs::set_permissions(&to, PermissionsExt::from_mode(0o700)).unwrap();
    // Another file has the name: it stays.
    std::fs::write(to.join("00000002.jsonl"), "mine").unwrap();
    let taken = archive(&product, &to, &[]);
    assert!(
        taken.code() == 5 && taken.err.contains("another file has this name"),
        "{taken:?}"
    );
    assert_eq!(std::fs::read(to.join("00000002.jsonl")).unwrap(), b"mine");
    assert_eq!(segments(&dir)[..before.len()], before[..]);
    std::fs::remove_file(to.join("00000002.jsonl")).unwrap();
    // The log itself, by whatever name.
    let link = product.dir().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    for same in [&dir, &link] {
        let same = archive(&product, same, &[]);
        assert!(
            same.code() == 2 && same.err.contains("the log itself"),
            "{same:?}"
        );
    }
    std::fs::remove_file(to.join("00000001.jsonl")).unwrap();
    std::fs::hard_link(dir.join("00000001.jsonl"), to.join("00000001.jsonl")).unwrap();
    let linked = archive(&product, &to, &[]);
    assert!(
        linked.code() == 5 && linked.err.contains("second name"),
        "{linked:?}"
    );
    std::fs::remove_file(to.join("00000001.jsonl")).unwrap();
    assert_eq!(segments(&dir)[..before.len()], before[..]);
    // What an interrupted copy left is in nobody's way.
    std::fs::write(to.join(".00000001.jsonl.part"), "half").unwrap();
    archive(&product, &to, &[]).ok();
    assert!(!to.join(".00000001.jsonl.part").exists());
    verify(&product, &[&to]).ok();
}

/// As a crash leaves it between the record and the removal of each segment.
#[test]
fn a_second_run_finishes_what_was_interrupted() {
    let _deadline = Deadline::new(Duration::from_secs(180), "archive");
    let (mut product, to) = archived();
    let (dir, gone) = (log(&product), segments(&to));
    for from in 0..gone.len() {
        product.kill();
        for name in &gone[from..] {
            std::fs::copy(to.join(name), dir.join(name)).unwrap();
            std::fs::set_permissions(dir.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        if from % 2 == 0 {
            product.mount();
        }
        verify(&product, &[]).ok();
        verify(&product, &[&to]).ok();
        product.run(&["audit", "query", "--limit", "1"]).ok();
        if from % 2 == 1 {
            product.mount();
        }
        archive(&product, &to, &[]).ok();
        assert!(gone.iter().all(|name| !dir.join(name).exists()));
        let all = verify(&product, &[&to]).ok().json();
        assert_eq!(all["records"], all["last"]);
    }
}

#[test]
fn kill_9_at_any_moment_leaves_a_log_that_verifies() {
    let rounds = if support::long_run() { 200 } else { 12 };
    let _deadline = Deadline::new(
        Duration::from_secs(if support::long_run() { 4000 } else { 300 }),
        "archive",
    );
    let mut dice = Dice::new();
    let mut product = product();
    let to = product.dir().join("archive");
    for round in 0..rounds {
        fill(&product);
        let mut command = product.command(&["audit", "archive", to.to_str().unwrap(), "--before", "0s"]);
        let null = || std::process::Stdio::null();
        let mut child = command
            .stdin(null())
            .stdout(null())
            .stderr(null())
            .spawn()
            .expect("archive");
        std::thread::sleep(Duration::from_micros(dice.below(250_000)));
        if round % 3 == 2 {
            let _ = child.kill();
        } else {
            product.kill();
        }
        let _ = child.wait();
        if round % 3 != 2 {
            verify(&product, &[]).ok();
            product.mount();
        }
        verify(&product, &[]).ok();
        archive(&product, &to, &[]).ok();
        let all = verify(&product, &[&to]).ok().json();
        assert_eq!((&all["first"], &all["records"]), (&json!(1), &all["last"]));
    }
    product.stop();
    let all = verify(&product, &[&to]).ok().json();
    assert_eq!(all["records"], all["last"]);
}

/// The backup is older than the archive, and knows neither of it nor of the segment in which the log begins now.
#[test]
fn a_backup_from_before_the_archive_is_restored_over_the_rest_of_the_log() {
    let _deadline = Deadline::new(Duration::from_secs(180), "archive");
    let mut product = product();
    let backup = product.dir().join("backup");
    // Its anchor is in the last segment there is then; in the second round that one is archived, too.
    for round in 0..2 {
        let file = format!("{}-{round}", backup.display());
        product.run(&["store", "backup", &file]).ok();
        if round == 1 {
            fill(&product);
        }
        let to = product.dir().join("archive");
        archive(&product, &to, &[]).ok();
        fill(&product);
        product.stop();
        std::fs::rename(product.store().join("store.redb"), product.dir().join("aside")).expect("mv");
        // Who deletes a segment besides has no archive of it.
        let oldest = log(&product).join(&segments(&log(&product))[0]);
        std::fs::rename(&oldest, product.dir().join("oldest")).expect("mv");
        let said = product.run(&["store", "restore", &file, "--accept-rollback"]);
        assert_eq!(said.code(), 6, "{said:?}");
        std::fs::rename(product.dir().join("oldest"), &oldest).expect("mv");
        let _ = std::fs::remove_file(product.store().join("store.redb"));
        product
            .run(&["store", "restore", &file, "--accept-rollback"])
            .ok();
        let rest = verify(&product, &[]).ok().json();
        assert!(rest["archived"]["through"].as_u64().is_some(), "{rest}");
        let all = verify(&product, &[&to]).ok().json();
        assert_eq!((&all["first"], &all["records"]), (&json!(1), &all["last"]));
        product.mount();
        fill(&product);
        archive(&product, &to, &[]).ok();
        verify(&product, &[&to]).ok();
    }
}
