//! What one decision, one unsealing and one record cost, and how fast a log is verified, by criterion:
//! `cargo bench --bench micro`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use wardfs::access::{KnownCaller, Range};
use wardfs::config::Config;
use wardfs::id::{Gid, Label, ROOT, SecretId, SecretName, Uid};
use wardfs::policy::{
    Action, Administration, Decision, Layers, PolicyRecord, PrincipalMap, Purpose, Request, Shared, decide,
};

#[path = "../support/nobody.rs"]
mod nobody;
use nobody::Nobody;

/// Records of which a log is verified: of several segments, so that every CPU has one.
const VERIFIED: u64 = 2_000_000;

/// Nineteen statements that do not decide, and one that does, last.
fn twenty(statement: impl Fn(usize) -> Value, last: Value) -> String {
    let mut all: Vec<Value> = (0..19).map(statement).collect();
    all.push(last);
    json!({"Version": "2012-10-17", "Statement": all}).to_string()
}

fn decisions(criterion: &mut Criterion) {
    let last = json!({"Effect": "Allow", "Principal": {"Uid": "4242"}, "Action": "secretsmanager:GetSecretValue", "Resource": "*"});
    let uid = |n: usize| json!({"Effect": "Allow", "Principal": {"Uid": n.to_string()}, "Action": "secretsmanager:*", "Resource": "*"});
    let deny = |n: usize| {
        json!({"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*",
        "Condition": {"StringLike": {"secretsmanager:VersionStage": format!("x{n}*")}, "NumericEquals": {"wardfs:Uid": n.to_string()}}})
    };
    let group = |n: usize| json!({"Effect": "Deny", "Principal": {"Gid": (100 + n).to_string()}, "Action": "*", "Resource": "*"});
    let any = |n: usize| {
        json!({"Effect": "Deny", "Principal": "*", "Action": "secretsmanager:Get*", "Resource": "*", "Condition": {
        "DateLessThan": {"aws:CurrentTime": format!("20{:02}-01-01", n)},
        "ForAnyValue:StringLike": {"wardfs:Groups": [format!("9{n}*")]},
        "StringEquals": {"secretsmanager:SecretId": "${aws:PrincipalTag/none, 'x'}/db"}}})
    };
    let name: SecretName = "app/db".parse().unwrap();
    let administration = Administration {
        owner: ROOT,
        group: None,
        root_describes: true,
    };
    let shared = Shared::default();
    let labels = [Label::current()];
    for (what, policy) in [
        ("20 statements, uids", twenty(uid, last.clone())),
        (
            "20 statements, 19 denies with 2 conditions",
            twenty(deny, last.clone()),
        ),
        ("20 statements, 19 denies of groups", twenty(group, last.clone())),
        (
            "20 statements, 19 denies with dates, sets and variables",
            twenty(any, last),
        ),
    ] {
        let (record, _) =
            PolicyRecord::resolve(&policy, &PrincipalMap::default(), &Nobody, &name, None).unwrap();
        let compiled = record.compile(&name, None).unwrap();
        let layers = Layers {
            administration: &administration,
            shared: &shared,
            secret: Some(&compiled),
        };
        let request = Request {
            labels: &labels,
            ..Request::new(Action::GetSecretValue, Purpose::Read, SecretId(1), &name)
        };
        let mut caller = KnownCaller::supposed(Uid(4242), Gid(7), vec![Gid(8), Gid(9)]);
        criterion.bench_function(what, |b| {
            b.iter(|| {
                let decision = decide(&layers, black_box(&request), &mut caller);
                assert!(matches!(decision, Decision::Allow(_)));
            });
        });
    }
}

fn reads(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = dir.path().join("store");
    wardfs::daemon::init(&store).unwrap();
    let config = Config::load(&store).unwrap();
    let (desk, access) = wardfs::daemon::desk(&store, &config).unwrap();
    let mut root = KnownCaller::root();
    for (name, size) in [("small", 32), ("large", 65_536)] {
        let put: wardfs::lifecycle::Put =
            serde_json::from_value(json!({"name": name, "rules": [{"allow": "uid:0"}]})).unwrap();
        let mut value = wardfs::sys::mem::secret(size).unwrap();
        value.expose_mut().fill(b'x');
        desk.lifecycle.put(&put, &value, &mut root).unwrap();
    }
    let state = access.vault().state();
    for name in ["small", "large"] {
        let secret = state.secrets.by_name(name).unwrap();
        let version = secret.current().unwrap();
        let sealed = access.vault().sealed_value(version).unwrap();
        let mut plain = wardfs::sys::mem::secret(version.meta.size as usize).unwrap();
        let (key, context) = (
            access.vault().data_key(version).unwrap(),
            access.vault().context(version),
        );
        criterion.bench_function(&format!("unseal, {} bytes", version.meta.size), |b| {
            b.iter(|| {
                key.open_value(&context, &version.meta.wrapped, &sealed.0, &mut plain)
                    .unwrap()
            });
        });
        let choice = wardfs::access::Choice::Label("current");
        let pin = access.open(state.view(secret), choice, 1, &mut root).unwrap();
        criterion.bench_function(
            &format!("decide, unseal and record, {} bytes", version.meta.size),
            |b| {
                b.iter(|| drop(access.read(&pin, Range::WHOLE, &mut root).unwrap()));
            },
        );
    }
}

fn append(criterion: &mut Criterion) {
    use wardfs::audit::{Event, Outcome, Record, Who};
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = dir.path().join("store");
    wardfs::daemon::init(&store).unwrap();
    let (_desk, access) = wardfs::daemon::desk(&store, &Config::load(&store).unwrap()).unwrap();
    let groups = [Gid(4)];
    let record = Record {
        event: Event::GetSecretValue,
        outcome: Outcome::Allowed,
        secret: Some("app/db"),
        version: Some("3fa9a0c8-c0dd-4cdf-bc30-275d03bd146a"),
        handle: Some(77),
        offset: Some(0),
        length: Some(32),
        layer: Some("secret"),
        statement: Some("#1"),
        via: "mount",
        who: Who {
            uid: 33,
            gid: 33,
            groups: Some(&groups),
            pid: Some(1234),
            tid: Some(1234),
            start_time: Some(123_456),
            command: Some(b"bench"),
            ..Who::default()
        },
        ..Record::default()
    };
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(1));
    group.bench_function("append a record", |b| {
        b.iter(|| access.vault().log().append(&record).unwrap());
    });
    while access.vault().log().head().seq < VERIFIED {
        let _receipt = access.vault().log().append(&record).unwrap();
    }
    let records = access.vault().log().head().seq;
    group.throughput(Throughput::Elements(records)).sample_size(10);
    group.bench_function(format!("verify {records} records"), |b| {
        b.iter(|| assert_eq!(access.vault().verify_log(&mut |_| {}).unwrap().records, records));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = decisions, reads, append
}
criterion_main!(benches);
