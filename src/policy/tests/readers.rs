//! Who may read, by all layers: as it is told, and against the decision itself.

use proptest::prelude::*;

use super::*;

/// The groups of Book's accounts: their own, and what they are members of.
fn groups(uid: u32) -> Vec<Gid> {
    match uid {
        33 => vec![Gid(33), Gid(34)],
        1000 => vec![Gid(1000), Gid(100)],
        1001 => vec![Gid(1001), Gid(34), Gid(100)],
        1002 => vec![Gid(1002)],
        0 => vec![Gid(0)],
        _ => Vec::new(),
    }
}

/// Its people.
struct Town;

impl People for Town {
    fn user(&self, uid: Uid) -> Option<String> {
        Book.user_name(uid)
    }
    fn group(&self, gid: Gid) -> Option<String> {
        Book.group_name(gid)
    }
    fn uid_of(&self, name: &str) -> Option<Uid> {
        Book.uid_of(name)
    }
    fn gid_of(&self, name: &str) -> Option<Gid> {
        Book.gid_of(name)
    }
    fn groups(&self, uid: Uid) -> Vec<Gid> {
        groups(uid.0)
    }
    fn caller(&self, uid: Uid) -> Box<dyn Facts + '_> {
        let mut caller = process(uid.0, None);
        (caller.unit, caller.process) = (None, None);
        Box::new(caller)
    }
}

/// A process of a user with the groups of his account.
fn process(uid: u32, unit: Option<&str>) -> Caller {
    let all: Vec<u32> = groups(uid).iter().map(|g| g.0).collect();
    let mut caller = Caller::new(uid, all.first().copied().unwrap_or(uid))
        .groups(&all)
        .besides(Some(&[]), Some(&all));
    caller.unit = Some(unit.map(str::to_string));
    caller
}

/// A store of one secret.
#[derive(Debug)]
struct Store {
    policy: Option<PolicyRecord>,
    guardrails: Vec<GuardrailRecord>,
    identities: Vec<IdentityRecord>,
}

impl Store {
    fn new(policy: Option<&str>, guardrails: &[String], identities: &[(&str, String)]) -> Store {
        let guardrail = |(i, text): (usize, &String)| {
            let name = format!("g{i}");
            GuardrailRecord::resolve(&name, text, &map(), &Book).unwrap().0
        };
        let identity = |(who, text): &(&str, String)| {
            let who = who.parse().unwrap();
            IdentityRecord::resolve(&who, Default::default(), text, &map(), &Book)
                .unwrap()
                .0
        };
        Store {
            policy: policy.map(|text| {
                PolicyRecord::resolve(text, &map(), &Book, &secret(), None)
                    .unwrap()
                    .0
            }),
            guardrails: guardrails.iter().enumerate().map(guardrail).collect(),
            identities: identities.iter().map(identity).collect(),
        }
    }

    fn asking<T>(&self, ask: impl FnOnce(&Layers<'_>, &Request<'_>) -> T) -> T {
        let name = secret();
        let compiled = self.policy.as_ref().map(|p| p.compile(&name, None).unwrap());
        let shared = Shared::compile(&self.guardrails, &self.identities).unwrap();
        let layers = Layers {
            administration: &ADMINISTRATION,
            shared: &shared,
            secret: compiled.as_ref(),
        };
        let labels = [Label::current()];
        let request = Request {
            labels: &labels,
            ..Request::new(Action::GetSecretValue, Purpose::Read, SecretId(1), &name)
        };
        ask(&layers, &request)
    }

    fn readers(&self) -> Vec<Reading> {
        let documents = || Documents::new(self.policy.as_ref(), &self.guardrails, &self.identities);
        self.asking(|layers, request| readers(layers, request, &documents, &Town))
    }

    fn words(&self) -> Vec<String> {
        self.readers().iter().map(ToString::to_string).collect()
    }

    fn allows(&self, caller: &mut Caller) -> bool {
        self.asking(|layers, request| matches!(decide(layers, request, caller), Decision::Allow(_)))
    }
}

pub(super) fn told(record: &PolicyRecord) -> Vec<String> {
    let store = Store {
        policy: Some(record.clone()),
        guardrails: Vec::new(),
        identities: Vec::new(),
    };
    store.words()
}

fn own(statements: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#)
}

fn one(effect: &str, rest: &str) -> String {
    format!(r#"{{"Effect":"{effect}",{rest},"Action":"*","Resource":"*"}}"#)
}

fn layer(effect: &str) -> String {
    own(&format!(
        r#"{{"Effect":"{effect}","Action":"secretsmanager:GetSecretValue","Resource":"*"}}"#
    ))
}

#[test]
fn readers_are_told_in_words() {
    let words = |statements: &str| Store::new(Some(&own(statements)), &[], &[]).words();
    let allow = |rest: &str| words(&one("Allow", rest));
    assert_eq!(
        allow(r#""Principal":{"User":"www-data","Group":"backup","Unit":"app.service","Uid":"5"}"#),
        [
            "uid 5",
            "user www-data (uid 33)",
            "group backup (gid 34)",
            "unit app.service"
        ]
    );
    assert_eq!(
        allow(r#""Principal":"*","Condition":{"StringLike":{"wardfs:Unit":["a*","b*"]}}"#),
        ["anyone, but only when wardfs:Unit is like a* or b*"]
    );
    assert_eq!(
        allow(r#""Principal":"*","Condition":{"StringEquals":{"wardfs:Uid":"1000"}}"#),
        ["user alice (uid 1000)"]
    );
    assert_eq!(
        allow(r#""Principal":{"AWS":"arn:aws:iam::111122223333:role/app"}"#),
        ["user alice (uid 1000)", "unit app.service"]
    );
    let both = |deny: &str| {
        words(&format!(
            "{},{}",
            one(
                "Allow",
                r#""Principal":{"User":["bob","alice"],"Group":"backup"}"#
            ),
            one("Deny", deny)
        ))
    };
    assert_eq!(
        both(r#""Principal":{"User":"bob"}"#),
        [
            "user alice (uid 1000)",
            "group backup (gid 34), but not user bob (uid 1001)"
        ]
    );
    assert_eq!(both(r#""Principal":"*""#), [""; 0]);
    assert_eq!(
        both(r#""NotPrincipal":{"Group":"ops"}"#),
        [
            "user alice (uid 1000)",
            "user bob (uid 1001)",
            "group backup (gid 34), but only when the caller is group ops (gid 100)"
        ]
    );
    assert_eq!(
        both(r#""Principal":"*","Condition":{"Bool":{"wardfs:Traced":"true"}}"#)[0],
        "user alice (uid 1000), but only when not (wardfs:Traced is true)"
    );
}

#[test]
fn every_layer_counts() {
    let policy = own(&one("Allow", r#""Principal":{"User":"alice"}"#));
    let words = |guardrails: &[String], identities: &[(&str, String)]| {
        Store::new(Some(&policy), guardrails, identities).words()
    };
    assert_eq!(
        words(&[], &[("user:bob", layer("Allow"))]),
        ["user alice (uid 1000)", "user bob (uid 1001)"]
    );
    assert_eq!(words(&[], &[("user:alice", layer("Deny"))]), [""; 0]);
    assert_eq!(words(&[layer("Deny")], &[("user:bob", layer("Allow"))]), [""; 0]);
    let ceiling = own(&one("Allow", r#""Principal":{"Unit":"app.service"}"#));
    assert_eq!(
        words(&[ceiling], &[]),
        ["user alice (uid 1000), but only when the caller is unit app.service"]
    );
    let none = Store::new(None, &[], &[("group:backup", layer("Allow"))]);
    assert_eq!(none.words(), ["group backup (gid 34)"]);
    let json = serde_json::to_value(none.readers()).unwrap();
    assert_eq!(json, serde_json::json!([{"group": "backup", "gid": 34}]));
}

#[test]
fn what_changed_is_told_by_what_each_may() {
    let reads = |statements: &str| Store::new(Some(&own(statements)), &[], &[]).readers();
    let everyone = reads(&one("Allow", r#""Principal":"*""#));
    let ops = reads(&one("Allow", r#""Principal":{"Group":"ops"}"#));
    let alice = reads(&one("Allow", r#""Principal":{"User":"alice"}"#));
    let but_alice = reads(&format!(
        "{},{}",
        one("Allow", r#""Principal":{"Group":"ops"}"#),
        one("Deny", r#""Principal":{"User":"alice"}"#)
    ));
    let change = |a: &[Reading], b: &[Reading]| difference(a, b, &Town);
    let nothing: Vec<String> = Vec::new();
    assert_eq!(
        change(&everyone, &ops),
        (nothing.clone(), vec!["anyone".to_string()])
    );
    // She is of the group.
    assert_eq!(
        change(&ops, &alice),
        (nothing.clone(), vec!["group ops (gid 100)".to_string()])
    );
    assert_eq!(
        change(&ops, &but_alice),
        (nothing.clone(), vec!["user alice (uid 1000)".to_string()])
    );
    assert_eq!(
        change(&but_alice, &ops),
        (vec!["user alice (uid 1000)".to_string()], nothing.clone())
    );
    assert_eq!(change(&ops, &ops), (nothing.clone(), nothing));
}

/// What the list says of a caller: yes, no, or that it depends.
fn told_of(list: &[Reading], caller: &Caller) -> Option<bool> {
    let is = |who: &Reader| match who {
        Reader::User { uid, .. } => *uid == caller.uid,
        Reader::Group { gid, .. } => caller.groups.as_ref().unwrap().contains(&Gid(*gid)),
        Reader::Unit { unit } => caller.unit.as_ref().unwrap().as_ref() == Some(unit),
        Reader::Service { .. } => false,
        Reader::Everyone { .. } => true,
    };
    let mut depends = false;
    for reading in list.iter().filter(|r| is(&r.who)) {
        let mut except = reading.except.iter().filter(|e| is(&e.who));
        match except.clone().any(|e| e.when.is_none()) {
            true => continue,
            false if except.next().is_some() || reading.when.is_some() => depends = true,
            false => return Some(true),
        }
    }
    (!depends).then_some(false)
}

/// Stores; four times as many callers each.
const CASES: u32 = 3_000;
const PRINCIPALS: [&str; 9] = [
    r#""*""#,
    r#"{"User":"alice"}"#,
    r#"{"User":["bob","www-data"]}"#,
    r#"{"Group":"ops"}"#,
    r#"{"Group":"backup"}"#,
    r#"{"Unit":"app.service"}"#,
    r#"{"Uid":"1002","Group":"ops"}"#,
    r#"{"User":"alice","Unit":"app.service"}"#,
    r#"{"Uid":"4000"}"#,
];
const CONDITIONS: [&str; 9] = [
    "",
    "",
    "",
    "",
    r#","Condition":{"StringEquals":{"wardfs:Unit":"app.service"}}"#,
    r#","Condition":{"StringEquals":{"wardfs:Uid":"1000"}}"#,
    r#","Condition":{"StringNotEquals":{"aws:username":"bob"}}"#,
    r#","Condition":{"ForAnyValue:StringEquals":{"wardfs:groups":"ops"}}"#,
    r#","Condition":{"Bool":{"wardfs:Traced":"false"}}"#,
];
const ATTACHED: [&str; 5] = [
    "user:alice",
    "user:bob",
    "group:ops",
    "group:backup",
    "unit:app.service",
];

fn statements(most: usize) -> impl Strategy<Value = String> {
    let statement = (0..4usize, 0..PRINCIPALS.len(), 0..CONDITIONS.len()).prop_map(|(kind, who, when)| {
        let (effect, field) = match kind {
            0 => ("Deny", "Principal"),
            1 if who > 0 => ("Deny", "NotPrincipal"),
            _ => ("Allow", "Principal"),
        };
        let rest = format!(r#""{field}":{}{}"#, PRINCIPALS[who], CONDITIONS[when]);
        one(effect, &rest)
    });
    prop::collection::vec(statement, 1..=most).prop_map(|all| own(&all.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_list_agrees_with_the_decision(
        policy in prop::option::weighted(0.9, statements(4)),
        guardrails in prop::collection::vec(statements(2), 0..2),
        identities in prop::collection::vec((0..ATTACHED.len(), any::<bool>(), 0..CONDITIONS.len()), 0..3),
    ) {
        let identities: Vec<(&str, String)> = identities.into_iter().map(|(who, allow, when)| {
            let effect = if allow { "Allow" } else { "Deny" };
            let text = format!(r#"{{"Effect":"{effect}","Action":"*","Resource":"*"{}}}"#, CONDITIONS[when]);
            (ATTACHED[who], own(&text))
        }).collect();
        let store = Store::new(policy.as_deref(), &guardrails, &identities);
        let list = store.readers();
        for uid in [0, 33, 1000, 1001, 1002, 4000, 5000] {
            for unit in [None, Some("app.service"), Some("other.service")] {
                let mut caller = process(uid, unit);
                let told = told_of(&list, &caller);
                let may = store.allows(&mut caller);
                prop_assert!(told.is_none_or(|t| t == may), "uid {uid} in {unit:?}: {may}, told {told:?} by {list:#?}\n{store:#?}");
            }
        }
    }
}
