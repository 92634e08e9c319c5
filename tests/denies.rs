//! What a Deny names it denies, whatever its caller puts off or on: sub uids, groups, namespaces, programs, units.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::attackers::{Account, build};
use support::product::{Product, read_as};
use support::{Deadline, long_run};

const VALUE: &str = "denied to one";

/// A group, gone when this is dropped.
struct Group(&'static str);

impl Group {
    fn new(name: &'static str, gid: u32) -> Group {
        let _ = Command::new("groupdel").arg(name).output();
        let made = Command::new("groupadd")
            .args(["--gid", &gid.to_string(), name])
            .output();
        assert!(made.expect("groupadd").status.success());
        Group(name)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = Command::new("groupdel").arg(self.0).output();
    }
}

/// Bytes of each path that `account` got in this way.
#[track_caller]
fn got(
    program: &Path,
    account: &Account,
    way: &str,
    attempts: usize,
    paths: &[PathBuf],
) -> BTreeMap<PathBuf, u64> {
    let first = account.subids.to_string();
    let mut command = account.command(program);
    bytes(
        command.args([way, &first, &attempts.to_string()]).args(paths),
        way,
    )
}

#[track_caller]
fn bytes(command: &mut Command, what: &str) -> BTreeMap<PathBuf, u64> {
    let said = command.stdin(Stdio::null()).output().expect("run");
    assert!(said.status.success(), "{what}: {said:?}");
    let text = String::from_utf8(said.stdout).expect("text");
    let line = |line: &str| {
        let (path, bytes) = line.rsplit_once(' ').expect("a path and a number");
        (path.into(), bytes.parse().expect("a number"))
    };
    text.lines().map(line).collect()
}

fn clean(account: &Account) {
    for way in ["setuid", "setgid"] {
        let _ = std::fs::remove_file(format!("/var/tmp/shed-{}-{way}", account.uid));
    }
}

/// A secret with this policy.
#[track_caller]
fn put(product: &Product, secret: &str, policy: &Value) {
    let file = product.document("policy.json", policy);
    product.put(secret, VALUE, &["--policy", &file]);
}

fn document(statements: Value) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// Everybody may, but for what more is said.
fn everybody_but(deny: Value) -> Value {
    let mut statements = vec![json!({ "Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*" })];
    if let Some(fields) = deny.as_object() {
        let mut fields = fields.clone();
        for (key, value) in [
            ("Effect", "Deny"),
            ("Action", "*"),
            ("Resource", "*"),
            ("Principal", "*"),
        ] {
            if !(key == "Principal" && fields.contains_key("NotPrincipal")) {
                fields.entry(key).or_insert(json!(value));
            }
        }
        statements.push(fields.into());
    }
    document(json!(statements))
}

/// Every caller on which this condition holds.
fn all_when(condition: Value) -> Value {
    document(
        json!([{ "Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*", "Condition": condition }]),
    )
}

const WAYS: [&str; 11] = [
    "plain", "sub", "each", "groups", "own", "nested", "pidns", "thread", "setuid", "setgid", "exec",
];

#[test]
fn nothing_that_a_caller_puts_off_frees_him_of_a_deny() {
    let _deadline = Deadline::new(Duration::from_secs(900), "denies");
    let program = build("shed");
    let _contractors = Group::new("wfs2contract", 44_819);
    let denied = Account::new("wfs2denied", 44_820, &["wfs2contract"]);
    let other = Account::new("wfs2other", 44_821, &["games"]);
    let mut product = Product::new();
    let name = denied.name.as_str();
    let uid = denied.uid.to_string();
    let group = "wfs2contract";
    // Each denies `denied`, and nobody else, unless its name says so.
    let policies = [
        (
            "deny/user",
            everybody_but(json!({ "Principal": { "User": name } })),
        ),
        ("deny/uid", everybody_but(json!({ "Principal": { "Uid": uid } }))),
        (
            "deny/group",
            everybody_but(json!({ "Principal": { "Group": group } })),
        ),
        (
            "deny/gid",
            everybody_but(json!({ "Principal": { "Gid": "44819" } })),
        ),
        (
            "deny/own-group",
            everybody_but(json!({ "Principal": { "Gid": uid } })),
        ),
        (
            "deny/username",
            everybody_but(json!({ "Condition": { "StringLike": { "aws:username": "wfs2deni*" } } })),
        ),
        (
            "deny/uid-number",
            everybody_but(json!({ "Condition": { "NumericEquals": { "wardfs:Uid": uid } } })),
        ),
        (
            "deny/groups",
            everybody_but(json!({ "Condition": { "StringEquals": { "wardfs:Groups": group } } })),
        ),
        (
            "deny/gid-number",
            everybody_but(json!({ "Condition": { "StringEquals": { "wardfs:Gid": uid } } })),
        ),
        (
            "deny/tag-of-user",
            everybody_but(json!({ "Condition": { "StringEquals": { "aws:PrincipalTag/team": "red" } } })),
        ),
        (
            "deny/tag-of-group",
            everybody_but(json!({ "Condition": { "StringEquals": { "aws:PrincipalTag/job": "guest" } } })),
        ),
        ("deny/identity-user", everybody_but(json!(null))),
        ("deny/identity-group", everybody_but(json!(null))),
        ("deny/guardrail-user", everybody_but(json!(null))),
        ("deny/guardrail-group", everybody_but(json!(null))),
        ("deny/ceiling", everybody_but(json!(null))),
        (
            "deny/allow-not-groups",
            all_when(json!({ "StringNotEquals": { "wardfs:Groups": group } })),
        ),
        (
            "deny/allow-not-gid",
            all_when(json!({ "NumericNotEquals": { "wardfs:Gid": uid } })),
        ),
        (
            "deny/allow-no-group",
            all_when(json!({ "ForAllValues:StringNotEquals": { "wardfs:Groups": group } })),
        ),
        (
            "deny/allow-not-tag",
            all_when(json!({ "StringNotEquals": { "aws:PrincipalTag/team": "red" } })),
        ),
        (
            "deny/allow-no-tag",
            all_when(json!({ "Null": { "aws:PrincipalTag/job": "true" } })),
        ),
        (
            "all/not-user",
            everybody_but(json!({ "NotPrincipal": { "User": "daemon" } })),
        ),
        (
            "all/not-groups",
            everybody_but(json!({ "Condition": { "StringNotEquals": { "wardfs:Groups": "daemon" } } })),
        ),
        (
            "all/not-username",
            everybody_but(json!({ "Condition": { "StringNotEquals": { "aws:username": "daemon" } } })),
        ),
        (
            "all/unless-user",
            document(json!([
                { "Effect": "Allow", "Principal": { "User": name }, "Action": "*", "Resource": "*" },
                { "Effect": "Deny", "Principal": { "Group": group }, "Action": "*", "Resource": "*" }
            ])),
        ),
        ("open", everybody_but(json!(null))),
    ];
    for (secret, policy) in &policies {
        put(&product, secret, policy);
    }
    let arn = |name: &str| format!("arn:aws:secretsmanager:*:*:secret:{name}");
    let deny = |secret: &str| json!([{ "Effect": "Deny", "Action": "*", "Resource": arn(secret) }]);
    for (who, secret, tag) in [
        (format!("user:{name}"), "deny/identity-user", "team=red"),
        (format!("group:{group}"), "deny/identity-group", "job=guest"),
    ] {
        let file = product.document("identity.json", &document(deny(secret)));
        product.run(&["identity", "set", &who, &file, "--tag", tag]).ok();
    }
    let when = |secret: &str, condition: Value| json!([{ "Effect": "Deny", "Action": "*", "Resource": arn(secret), "Condition": condition }]);
    let ceiling = json!([
        { "Effect": "Allow", "Action": "*", "NotResource": arn("deny/ceiling") },
        { "Effect": "Allow", "Action": "*", "Resource": arn("deny/ceiling"),
          "Condition": { "StringNotEquals": { "wardfs:Groups": group } } }
    ]);
    for (guardrail, statements) in [
        (
            "user",
            when(
                "deny/guardrail-user",
                json!({ "StringEquals": { "aws:username": name } }),
            ),
        ),
        (
            "group",
            when(
                "deny/guardrail-group",
                json!({ "StringEquals": { "wardfs:Groups": group } }),
            ),
        ),
        ("ceiling", ceiling),
    ] {
        let file = product.document("guardrail.json", &document(statements));
        product.run(&["guardrail", "set", guardrail, &file]).ok();
    }
    product.mount();
    let paths: Vec<PathBuf> = policies.iter().map(|(secret, _)| product.path(secret)).collect();
    let open = product.path("open");
    let attempts = match long_run() {
        true => 100_000 / (WAYS.len() * (paths.len() - 1)) + 1,
        false => 5,
    };
    for way in WAYS {
        let mut got = got(&program, &denied, way, attempts, &paths);
        let seen = got.remove(&open).expect("the open one");
        assert_eq!(
            seen,
            (attempts * VALUE.len()) as u64,
            "{way}: the program reads nothing at all"
        );
        got.retain(|_, bytes| *bytes > 0);
        assert!(got.is_empty(), "{way}: {got:?}");
    }
    // Nobody else is denied for it, nor in namespaces of his own.
    for way in WAYS {
        let got = got(&program, &other, way, 1, &paths);
        for (path, bytes) in got {
            let one = !path.starts_with(product.path("all"));
            assert_eq!(bytes, if one { VALUE.len() as u64 } else { 0 }, "{way} {path:?}");
        }
    }
    clean(&denied);
    clean(&other);
}

/// The first is told apart from a reader of all by a Deny; the change is in force within 1 s.
#[test]
fn sub_ids_lent_while_it_serves_count_within_a_second() {
    let _deadline = Deadline::new(Duration::from_secs(120), "changes of accounts");
    let program = build("shed");
    let group = Group::new("wfs2late", 44_829);
    let denied = Account::new("wfs2lent", 44_822, &[]);
    let mut product = Product::new();
    put(
        &product,
        "late/user",
        &everybody_but(json!({ "Principal": { "User": "wfs2lent" } })),
    );
    put(
        &product,
        "late/group",
        &everybody_but(json!({ "Principal": { "Group": "wfs2late" } })),
    );
    product.mount();
    let (user, members) = (product.path("late/user"), product.path("late/group"));
    // A second range, and a group that his processes do not have.
    let first = denied.subids - 0x1_0000;
    let range = format!("{first}-{}", first + 9);
    let change = |args: &[&str]| {
        assert!(
            Command::new("usermod")
                .args(args)
                .status()
                .expect("usermod")
                .success()
        )
    };
    assert_eq!(
        read_as(first + 3, &[], &user).as_deref(),
        Ok(VALUE.as_bytes()),
        "it is nobody's yet"
    );
    assert_eq!(
        read_as(denied.uid, &[], &members).as_deref(),
        Ok(VALUE.as_bytes())
    );
    change(&["--add-subuids", &range, &denied.name]);
    change(&["--append", "--groups", group.0, &denied.name]);
    let changed = Instant::now();
    let refused = |uid, path| read_as(uid, &[], path) == Err(libc::EACCES);
    while !(refused(first + 3, &user) && refused(denied.uid, &members)) {
        assert!(changed.elapsed() < Duration::from_secs(1), "not seen within 1 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    let both = [user.clone(), members.clone()];
    assert!(got(&program, &denied, "sub", 3, &both).values().all(|b| *b == 0));
    change(&["--del-subuids", &range, &denied.name]);
    support::wait_until(Duration::from_secs(5), "the range is nobody's again", || {
        !refused(first + 3, &user)
    });
}

/// The guide's policy: nobody but one role.
#[test]
fn sandboxes_of_the_role_keep_reading_under_the_guides_policy() {
    let _deadline = Deadline::new(Duration::from_secs(120), "sandboxes");
    let program = build("shed");
    let role = "arn:aws:iam::111122223333:role/app";
    let (app, other) = (
        Account::new("wfs2app", 44_823, &["games"]),
        Account::new("wfs2guest", 44_824, &[]),
    );
    let mut product = Product::new();
    let locals = "[\"user:wfs2app\", \"unit:app.service\"]";
    let settings = format!("[principals]\n\"{role}\" = {locals}\n");
    std::fs::write(product.store().join("wardfs.toml"), settings).expect("write");
    product.run(&["config", "accept", "--yes"]).ok();
    let policy = document(json!([
        { "Effect": "Deny", "Principal": "*", "Action": "secretsmanager:*", "Resource": "*",
          "Condition": { "StringNotEquals": { "aws:PrincipalArn": role } } },
        { "Effect": "Allow", "Principal": { "AWS": role }, "Action": "secretsmanager:GetSecretValue", "Resource": "*" }
    ]));
    put(&product, "app/db", &policy);
    let some = everybody_but(json!({ "Principal": { "User": "wfs2guest", "Group": "mail" } }));
    put(&product, "app/others", &some);
    product.mount();
    let paths = [product.path("app/db"), product.path("app/others")];
    let whole = VALUE.len() as u64;
    for (way, uid) in [("own", app.uid), ("private", app.uid), ("groups", app.uid)] {
        let found = match way {
            "private" => bytes(
                Command::new(&program)
                    .args([way, &uid.to_string(), "1"])
                    .args(&paths),
                way,
            ),
            _ => got(&program, &app, way, 1, &paths),
        };
        assert!(found.values().all(|b| *b == whole), "{way}: {found:?}");
    }
    let sandbox = |account: &Account, path: &Path| {
        let mut command = account.command("bwrap");
        command
            .args(["--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "cat"])
            .arg(path);
        command.output().expect("bwrap").stdout
    };
    for path in &paths {
        assert_eq!(sandbox(&app, path), VALUE.as_bytes());
        assert_eq!(sandbox(&other, path), b"");
    }
    // A uid that systemd lends for the life of a unit is nobody else's; one of which nothing is known may be anybody's.
    for (uid, seen) in [(61_299, whole), (44_828, 0)] {
        let found = bytes(
            Command::new(&program)
                .args(["private", &uid.to_string(), "1"])
                .args(&paths[1..]),
            "private",
        );
        assert_eq!(found[&paths[1]], seen, "{uid}");
    }
    // In the initial namespace nobody lends him anything.
    assert_eq!(read_as(44_828, &[], &paths[1]).as_deref(), Ok(VALUE.as_bytes()));
}

#[test]
fn the_control_socket_counts_the_same() {
    let _deadline = Deadline::new(Duration::from_secs(120), "control socket");
    let program = build("shed");
    let _group = Group::new("wfs2ask", 44_830);
    let (denied, other) = (
        Account::new("wfs2asks", 44_826, &["wfs2ask"]),
        Account::new("wfs2askt", 44_827, &["games"]),
    );
    let mut product = Product::new();
    put(
        &product,
        "ask/user",
        &everybody_but(json!({ "Principal": { "User": "wfs2asks" } })),
    );
    put(
        &product,
        "ask/group",
        &everybody_but(json!({ "Principal": { "Group": "wfs2ask" } })),
    );
    product.mount();
    let socket = product.store().join("run/control.sock");
    let answer = |account: &Account, way: &str, name: &str| {
        let request = json!({ "format": 3, "request": { "command": "describe", "name": name } }).to_string();
        let mut command = account.command(&program);
        command.arg(way).arg(account.subids.to_string()).arg("0");
        let said = command.arg(&socket).env("ASK", request).output().expect("run");
        assert!(said.status.success(), "{way}: {said:?}");
        String::from_utf8(said.stdout).expect("text")
    };
    for way in ["plain", "sub", "groups", "own", "setuid", "setgid", "exec"] {
        for name in ["ask/user", "ask/group"] {
            let told = answer(&denied, way, name);
            assert!(told.contains("explicit_deny"), "{way} {name}: {told}");
            let told = answer(&other, way, name);
            assert!(!told.contains("\"failed\""), "{way} {name}: {told}");
        }
    }
    clean(&denied);
    clean(&other);
}

/// In AWS `app/svc-master` is another secret than `app/svc`, whose random suffix the question marks stand for.
#[test]
fn an_allow_by_the_recommended_form_means_one_secret() {
    let _deadline = Deadline::new(Duration::from_secs(60), "suffixes");
    let reader = 44_818;
    let mut product = Product::new();
    let arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:";
    let statements = |effect: &str, resource: &str| {
        document(
            json!([{ "Effect": effect, "Action": "secretsmanager:GetSecretValue", "Resource": format!("{arn}{resource}") }]),
        )
    };
    for name in ["app/svc", "app/svc-master", "app/svc-backup"] {
        product.put(name, VALUE, &[]);
    }
    let open = everybody_but(json!(null));
    for name in ["bar/svc", "bar/svc-master"] {
        put(&product, name, &open);
    }
    let file = product.document("identity.json", &statements("Allow", "app/svc-??????"));
    product
        .run(&["identity", "set", &format!("uid:{reader}"), &file])
        .ok();
    let file = product.document("guardrail.json", &statements("Deny", "bar/svc-??????"));
    product.run(&["guardrail", "set", "bar", &file]).ok();
    product.mount();
    let read = |name: &str| read_as(reader, &[], &product.path(name));
    assert_eq!(read("app/svc").as_deref(), Ok(VALUE.as_bytes()));
    for name in ["app/svc-master", "app/svc-backup", "bar/svc", "bar/svc-master"] {
        assert_eq!(read(name), Err(libc::EACCES), "{name}");
    }
}

/// A control group of one hierarchy, gone when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(root: &Path, path: &str) -> Cgroup {
        let group = root.join(path);
        std::fs::create_dir_all(&group).expect("make a control group");
        Cgroup(group)
    }

    /// What a child of this uid reads in it.
    fn read(&self, uid: u32, path: &Path) -> Result<Vec<u8>, i32> {
        let procs = self.0.join("cgroup.procs");
        support::Run::root().call(|| {
            std::fs::write(&procs, std::process::id().to_string()).expect("enter");
            support::become_ids(uid, uid, &[]).expect("ids");
            std::fs::read(path).map_err(|e| e.raw_os_error().unwrap_or(0))
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut parent = self.0.clone();
        while parent.pop() && std::fs::remove_dir(&parent).is_ok() {}
    }
}

#[test]
fn a_unit_that_systemd_keeps_in_version_1_denies_and_allows_nothing() {
    let _deadline = Deadline::new(Duration::from_secs(60), "units of version 1");
    let mut product = Product::new();
    // The hierarchy that systemd has there, wherever it is mounted besides.
    let root = product.dir().join("v1");
    std::fs::create_dir(&root).expect("mkdir");
    let mounted = nix::mount::mount(
        Some("cgroup"),
        &root,
        Some("cgroup"),
        nix::mount::MsFlags::empty(),
        Some("none,name=systemd"),
    );
    mounted.expect("control groups of version 1");
    let (unit, reader) = ("wfs2-evil.service", 44_825);
    product.put(
        "unit/deny",
        VALUE,
        &[
            "--allow",
            &format!("uid:{reader}"),
            "--deny",
            &format!("unit:{unit}"),
        ],
    );
    product.put("unit/allow", VALUE, &["--allow", &format!("unit:{unit}")]);
    let none = document(
        json!([{ "Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*",
        "Condition": { "Null": { "wardfs:Unit": "true" } } }]),
    );
    put(&product, "unit/none", &none);
    product.mount();
    let [deny, allow, none] = ["deny", "allow", "none"].map(|name| product.path(&format!("unit/{name}")));
    {
        let group = Cgroup::make(&root, &format!("wfs2.slice/{unit}"));
        for path in [&deny, &allow, &none] {
            assert_eq!(group.read(reader, path), Err(libc::EACCES), "{path:?}");
        }
    }
    // At the root of both he is in none.
    assert_eq!(read_as(reader, &[], &deny).as_deref(), Ok(VALUE.as_bytes()));
    assert_eq!(read_as(reader, &[], &none).as_deref(), Ok(VALUE.as_bytes()));
    product.refusal(reader, "no_pid");
    nix::mount::umount(&root).expect("unmount");
}
