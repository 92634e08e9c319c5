//! What `--json` prints has the form of `packaging/doc/json/`: one schema for each command, and one for errors.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use support::Deadline;
use support::product::{A, Product, Said, commands, read_as};

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "22222222-2222-4222-8222-222222222222";

fn schema_file(command: &str) -> PathBuf {
    let name = format!("packaging/doc/json/{}.schema.json", command.replace(' ', "-"));
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The schemas, and which were looked at.
#[derive(Default)]
struct Schemas {
    compiled: BTreeMap<String, jsonschema::Validator>,
}

impl Schemas {
    #[track_caller]
    fn check(&mut self, command: &str, said: &Said) {
        let (schema, text) = match said.out.is_empty() {
            true => ("error", &said.err),
            false => (command, &said.out),
        };
        let validator = self.compiled.entry(schema.to_string()).or_insert_with(|| {
            let file = schema_file(schema);
            let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let schema: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{schema}: {e}"));
            jsonschema::validator_for(&schema).unwrap_or_else(|e| panic!("{command}: {e}"))
        });
        // One document, or one a line.
        let documents = match serde_json::from_str::<Value>(text) {
            Ok(one) => vec![one],
            Err(_) => text
                .lines()
                .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{command}: {e}: {l}")))
                .collect(),
        };
        assert!(!documents.is_empty(), "{command}: {said:?}");
        for document in documents {
            let faults: Vec<String> = validator
                .iter_errors(&document)
                .map(|e| format!("{}: {e}", e.instance_path()))
                .collect();
            assert!(faults.is_empty(), "{command}: {document}: {faults:?}");
        }
    }
}

/// Commands without `--json` output of their own: what they print is a value, a page or a stream of records.
const OTHERS: [&str; 2] = ["help", "audit tail"];

#[test]
fn every_output_has_the_form_of_its_schema() {
    let _deadline = Deadline::new(Duration::from_secs(120), "schemas");
    let mut schemas = Schemas::default();
    let mut product = Product::empty();
    let file = |name: &str, document: &Value| {
        let path = product.dir().join(name);
        std::fs::write(&path, document.to_string()).expect("write");
        path.to_str().expect("a path").to_string()
    };
    let statement = |effect: &str, action: &str| json!({"Sid": "One", "Effect": effect, "Action": action, "Resource": "*"});
    let mut policy = statement("Allow", "secretsmanager:GetSecretValue");
    policy["Principal"] = json!({"Uid": A.to_string()});
    let policy = file(
        "policy.json",
        &json!({"Version": "2012-10-17", "Statement": [policy]}),
    );
    let deny = file(
        "deny.json",
        &json!({"Statement": statement("Deny", "secretsmanager:DeleteSecret")}),
    );
    let allow = file(
        "allow.json",
        &json!({"Statement": statement("Allow", "secretsmanager:DescribeSecret")}),
    );
    let backup = product.dir().join("backup").to_str().expect("a path").to_string();
    let archive = product
        .dir()
        .join("archive")
        .to_str()
        .expect("a path")
        .to_string();
    let pages = product.dir().join("man").to_str().expect("a path").to_string();
    let target = product.target().to_str().expect("a path").to_string();
    let who = format!("uid:{A}");

    let run = |schemas: &mut Schemas, product: &Product, command: &str, more: &[&str], input: &[u8]| {
        let words: Vec<&str> = command.split(' ').chain(more.iter().copied()).collect();
        let said = product.run_with(&[&["--json"][..], &words].concat(), input);
        schemas.check(command, &said);
        said
    };
    let init = run(&mut schemas, &product, "init", &[], b"");
    let recovery = init.json()["recovery_key"].as_str().expect("a key").to_string();
    product.mount();
    {
        let p = &product;
        let mut ok = |command: &str, more: &[&str], input: &[u8]| {
            let said = run(&mut schemas, p, command, more, input);
            assert!(said.code() == 0, "{command}: {said:?}");
        };
        ok(
            "put",
            &[
                "app/db",
                "--policy",
                &policy,
                "--token",
                ONE,
                "--tag",
                "a=b",
                "--description",
                "d",
            ],
            b"one",
        );
        ok("put", &["app/db", "--token", TWO], b"two");
        ok("put", &["app/db", "--token", TWO], b"two");
        ok(
            "put",
            &[
                "app/gen",
                "--generate",
                "--allow",
                "uid:0",
                "--mode",
                "0440",
                "--owner",
                "0",
                "--group",
                "0",
                "--visibility",
                "hidden",
            ],
            b"",
        );
        ok("put", &["app/binary", "--allow", "uid:0"], &[0xff, 0, 1]);
        assert!(read_as(A, &[], &p.path("app/db")).is_ok());
        assert!(read_as(A, &[], &p.path("app/binary")).is_err());
        ok("get", &["app/gen"], b"");
        ok("get", &["app/binary"], b"");
        ok("list", &[], b"");
        ok("list", &["--tag", "a=b"], b"");
        ok("describe", &["app/db"], b"");
        ok("describe", &["app/gen"], b"");
        ok("versions", &["app/db"], b"");
        ok("tag", &["app/db", "c=d", "--remove", "a"], b"");
        ok(
            "update",
            &["app/db", "--description", "e", "--mode", "0400", "--owner", "0"],
            b"",
        );
        ok("update", &["app/db", "--mode", "", "--visibility", "listed"], b"");
        ok("rollback", &["app/db"], b"");
        ok("rollback", &["app/db"], b"");
        ok("put", &["app/gone", "--allow", "uid:0"], b"x");
        ok("delete", &["app/gone", "--now"], b"");
        ok("list", &["--deleted"], b"");
        ok("label move", &["app/db", "keep", "--to", ONE], b"");
        ok("label remove", &["app/db", "keep", "--from", ONE], b"");
        ok("policy get", &["app/db"], b"");
        ok("policy set", &["app/db", &policy], b"");
        ok("policy set", &["app/db", &policy, "--dry-run"], b"");
        ok("policy allow", &["app/db", "gid:34"], b"");
        ok("policy deny", &["app/db", "uid:61009"], b"");
        ok("policy allow", &["app/db", "uid:61009"], b"");
        ok("policy revoke", &["app/db", "gid:34", "--dry-run"], b"");
        ok("policy revoke", &["app/db", "gid:34"], b"");
        ok("policy undeny", &["app/db", "uid:61009"], b"");
        ok("policy revoke", &["app/db", "uid:61009"], b"");
        ok("policy check", &[&policy], b"");
        ok("policy explain", &["app/db", "--as", &who], b"");
        ok(
            "policy explain",
            &[
                "--policy",
                &policy,
                "--principal",
                &who,
                "--resource",
                "x",
                "--action",
                "GetSecretValue",
            ],
            b"",
        );
        ok("guardrail set", &["keep", &deny], b"");
        ok("guardrail get", &["keep"], b"");
        ok("guardrail list", &[], b"");
        ok("guardrail remove", &["keep", "--dry-run"], b"");
        ok("identity set", &[&who, &allow, "--tag", "team=data"], b"");
        ok("identity get", &[&who], b"");
        ok("identity list", &[], b"");
        ok("identity remove", &[&who], b"");
        ok("guardrail remove", &["keep"], b"");
        ok("guardrail set", &["keep", &deny], b"");
        ok("why", &["app/binary"], b"");
        ok("why", &["app/db", "--uid", "61001"], b"");
        ok("why", &["app/db", "--as", "uid:61001"], b"");
        ok("why", &["app/db", "--uid", "61005"], b"");
        ok("status", &[], b"");
        ok("store check", &[], b"");
        ok("store backup", &[&backup], b"");
        ok("audit query", &[], b"");
        ok("audit query", &["--denied"], b"");
        ok("audit verify", &[], b"");
        ok("audit archive", &[&archive, "--before", "1d"], b"");
        ok("audit archive", &[&archive, "--before", "0s", "--dry-run"], b"");
        ok("audit archive", &[&archive, "--before", "0s"], b"");
        ok("audit verify", &["--with", &archive], b"");
        ok("config check", &[], b"");
        ok("config accept", &["--dry-run"], b"");
        ok("completions", &["bash"], b"");
        ok("man", &["put"], b"");
        ok("man", &["--output", &pages], b"");
    }
    // Errors, and answers that are a no.
    for (command, more, code) in [
        ("policy explain", &["app/db", "--as", "uid:61005"][..], 3),
        ("delete", &["app/db", "--now"], 3),
        ("get", &["none"], 4),
        ("get", &["../x"], 2),
        ("put", &["app/db/under"], 5),
        ("lst", &[], 2),
    ] {
        assert_eq!(
            run(&mut schemas, &product, command, more, b"x").code(),
            code,
            "{command}"
        );
    }
    run(&mut schemas, &product, "unmount", &[&target], b"");
    assert!(product.ended(Duration::from_secs(10)).is_some());
    run(&mut schemas, &product, "status", &[], b"");
    for command in [
        &["--guardrail", "keep"][..],
        &["app/db"],
        &["app/db", "--dry-run"],
    ] {
        let args = [command, &["--reason", "INC-1"]].concat();
        assert_eq!(
            run(&mut schemas, &product, "store break-glass", &args, b"").code(),
            0
        );
    }
    std::fs::remove_dir_all(product.store().join("audit")).expect("remove");
    for more in [&["--dry-run"][..], &[]] {
        let args = [&["--log", "--reason", "INC-2"], more].concat();
        let said = run(&mut schemas, &product, "store break-glass", &args, b"");
        assert_eq!(said.code(), 0, "{said:?}");
    }
    run(&mut schemas, &product, "status", &[], b"");
    assert_eq!(run(&mut schemas, &product, "audit verify", &[], b"").code(), 0);
    assert_eq!(run(&mut schemas, &product, "audit query", &[], b"").code(), 0);
    for more in [
        &["app/gen", "--now", "--dry-run"][..],
        &["app/gen", "--now", "--purge"],
    ] {
        assert_eq!(run(&mut schemas, &product, "delete", more, b"").code(), 0);
    }
    for more in [&["--dry-run"][..], &[]] {
        let args = [&[&*backup, "--only", "app/gen"], more].concat();
        let said = run(&mut schemas, &product, "store restore", &args, b"");
        assert_eq!(said.code(), 0, "{said:?}");
    }
    for more in [
        &[&backup, "--dry-run", "--accept-rollback"][..],
        &[&backup, "--accept-rollback"],
    ] {
        let more: Vec<&str> = more.iter().map(|s| &**s).collect();
        assert_eq!(run(&mut schemas, &product, "store restore", &more, b"").code(), 0);
    }
    std::fs::remove_file(product.store().join("root.key")).expect("remove");
    for more in [&["--dry-run"][..], &[]] {
        let said = run(&mut schemas, &product, "store recover", more, recovery.as_bytes());
        assert_eq!(said.code(), 0, "{said:?}");
    }
    // `mount` says READY before it serves, as one line.
    let mut mount = product.command(&["--json", "mount", &target]);
    let mut child = mount.stdout(std::process::Stdio::piped()).spawn().expect("start");
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    std::io::BufRead::read_line(&mut out, &mut line).expect("READY");
    let said = Said {
        status: std::process::ExitStatus::default(),
        out: line,
        err: String::new(),
    };
    let unmounted = product.run(&["unmount", &target]);
    let _ = child.wait();
    unmounted.ok();
    schemas.check("mount", &said);
    let demo = product.run(&["--json", "demo"]);
    schemas.check("demo", &demo);

    let seen: BTreeSet<String> = schemas.compiled.keys().cloned().collect();
    let unseen: Vec<String> = commands(&[])
        .into_iter()
        .filter(|c| !seen.contains(c) && !OTHERS.contains(&c.as_str()))
        .collect();
    assert!(unseen.is_empty(), "no output of these was looked at: {unseen:?}");
    // And nothing is promised that no command keeps.
    let files = std::fs::read_dir(schema_file("x").parent().expect("a directory")).expect("schemas");
    for file in files {
        let name = file.expect("a file").file_name().into_string().expect("text");
        let name = name.strip_suffix(".schema.json").expect("a schema").to_string();
        let known = seen.iter().any(|c| c.replace(' ', "-") == name);
        assert!(known, "{name} is no command's schema");
    }
}
