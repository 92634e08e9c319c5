//! The engine against a slow, plain evaluator that is written from the rules alone, over the JSON itself.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Kleene: `None` is unknown.
type Tri = Option<bool>;

fn and(parts: impl IntoIterator<Item = Tri>) -> Tri {
    let parts: Vec<Tri> = parts.into_iter().collect();
    match parts.contains(&Some(false)) {
        true => Some(false),
        false if parts.contains(&None) => None,
        false => Some(true),
    }
}

fn or(parts: impl IntoIterator<Item = Tri>) -> Tri {
    and(parts.into_iter().map(not)).map(|b| !b)
}

fn not(t: Tri) -> Tri {
    t.map(|b| !b)
}

fn list(v: &Value) -> Vec<String> {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    v.as_array()
        .map_or_else(|| vec![text(v)], |a| a.iter().map(text).collect())
}

/// By recursion over characters.
fn wild(p: &[char], t: &[char]) -> bool {
    match p.split_first() {
        None => t.is_empty(),
        Some(('*', rest)) => (0..=t.len()).any(|i| wild(rest, &t[i..])),
        Some(('?', rest)) => !t.is_empty() && wild(rest, &t[1..]),
        Some((c, rest)) => t.first() == Some(c) && wild(rest, &t[1..]),
    }
}

fn like(p: &str, t: &str) -> bool {
    wild(&p.chars().collect::<Vec<_>>(), &t.chars().collect::<Vec<_>>())
}

fn is_local(kind: &str, name: &str, who: &Caller) -> Tri {
    let group = |gid: u32| {
        if who.gid == gid {
            Some(true)
        } else {
            who.groups.as_ref().map(|g| g.contains(&Gid(gid)))
        }
    };
    match kind {
        "user" => Some(Book.uid_of(name) == Some(Uid(who.uid))),
        "uid" => Some(who.uid.to_string() == name),
        "group" => group(Book.gid_of(name).unwrap().0),
        "gid" => group(name.parse().unwrap()),
        "unit" => who.unit.as_ref().map(|u| u.as_deref() == Some(name)),
        "service" => Some(who.service.as_deref() == Some(name)),
        _ => unreachable!(),
    }
}

fn has_arn(arn: &str, who: &Caller) -> Tri {
    or(map().0.get(arn).into_iter().flatten().map(|l| {
        let text = l.to_string();
        let (kind, name) = text.split_once(':').unwrap();
        is_local(kind, name, who)
    }))
}

fn principal(v: &Value, who: &Caller) -> Tri {
    let Some(kinds) = v.as_object() else {
        return Some(true);
    };
    or(kinds.iter().flat_map(|(kind, names)| {
        list(names)
            .into_iter()
            .map(move |name| match (kind.as_str(), name.as_str()) {
                ("AWS", "*") => Some(true),
                ("AWS", arn) => has_arn(arn, who),
                (kind, name) => is_local(&kind.to_lowercase(), name, who),
            })
    }))
}

/// Whether one of the caller's values of a key satisfies `test`, and whether there is a value at all.
fn key(key: &str, labels: &[Label], who: &Caller, test: &dyn Fn(&str) -> bool) -> (Tri, Tri) {
    let any = |values: &[String]| Some(values.iter().any(|v| test(v)));
    match key {
        "aws:PrincipalArn" => {
            let arns = || map().0.into_keys();
            (
                or(arns().filter(|a| test(a)).map(|a| has_arn(&a, who))),
                or(arns().map(|a| has_arn(&a, who))),
            )
        }
        "aws:username" => {
            let names: Vec<String> = USERS
                .iter()
                .filter(|u| u.1 == who.uid && u.0 != "dyn")
                .map(|u| u.0.into())
                .collect();
            (any(&names), if names.is_empty() { None } else { Some(true) })
        }
        "wardfs:Uid" => (any(&[who.uid.to_string()]), Some(true)),
        "wardfs:Gid" => (any(&[who.gid.to_string()]), Some(true)),
        "wardfs:Groups" => {
            let names = |g: u32| {
                let named = GROUPS.iter().filter(|x| x.1 == g).map(|x| x.0.to_string());
                named.chain([g.to_string()]).collect::<Vec<_>>()
            };
            let others = who
                .groups
                .as_ref()
                .map(|g| g.iter().any(|g| any(&names(g.0)) == Some(true)));
            (or([any(&names(who.gid)), others]), Some(true))
        }
        "wardfs:Unit" => match &who.unit {
            None => (None, None),
            Some(unit) => (Some(unit.as_deref().is_some_and(test)), Some(unit.is_some())),
        },
        "secretsmanager:VersionStage" => {
            let both = |l: &Label| match l.as_str() {
                "current" => vec!["current".to_string(), "AWSCURRENT".into()],
                other => vec![other.to_string()],
            };
            (
                any(&labels.iter().flat_map(both).collect::<Vec<_>>()),
                Some(!labels.is_empty()),
            )
        }
        _ => unreachable!(),
    }
}

fn condition(op: &str, k: &str, values: &[String], labels: &[Label], who: &Caller) -> Tri {
    let (op, if_exists) = op.strip_suffix("IfExists").map_or((op, false), |o| (o, true));
    if op == "Null" {
        let (_, present) = key(k, labels, who, &|_| true);
        let wants = |w: &str| values.iter().any(|v| v == w);
        return match (wants("true"), wants("false")) {
            (true, true) => Some(true),
            (true, false) => not(present),
            _ => present,
        };
    }
    let negated = op.contains("Not");
    let plain = op.replace("Not", "");
    let test = |text: &str| {
        values.iter().any(|v| match plain.as_str() {
            "StringEquals" => v == text,
            "StringEqualsIgnoreCase" | "Bool" => v.to_lowercase() == text.to_lowercase(),
            "StringLike" => like(v, text),
            "ArnLike" | "ArnEquals" => {
                let (v, t): (Vec<_>, Vec<_>) = (v.splitn(6, ':').collect(), text.splitn(6, ':').collect());
                v.len() == t.len() && v.iter().zip(t).all(|(v, t)| like(v, t))
            }
            _ => unreachable!("{plain}"),
        })
    };
    let (found, present) = key(k, labels, who, &test);
    let holds = if negated { not(found) } else { found };
    if if_exists {
        or([holds, not(present)])
    } else {
        holds
    }
}

fn applies(s: &Value, action: Action, labels: &[Label], who: &Caller) -> Tri {
    let field = |name: &str| {
        s.get(name)
            .map(|v| (v, false))
            .or(s.get(format!("Not{name}")).map(|v| (v, true)))
    };
    let (actions, negated) = field("Action").unwrap();
    let listed = list(actions)
        .iter()
        .any(|p| like(&p.to_lowercase(), &action.to_string().to_lowercase()));
    let (resources, other) = field("Resource").unwrap();
    let named = list(resources).iter().any(|r| {
        let rest = r.splitn(6, ':').nth(5);
        r == "*" || rest.is_some_and(|rest| like(rest, "secret:app/db") || like(rest, "secret:app/db-AbC123"))
    });
    let (who_clause, except) = field("Principal").unwrap();
    let is = principal(who_clause, who);
    let conditions = s
        .get("Condition")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .flat_map(|(op, keys)| {
            keys.as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| condition(op, k, &list(v), labels, who))
        });
    and([
        Some(listed != negated),
        Some(named != other),
        if except { not(is) } else { is },
    ]
    .into_iter()
    .chain(conditions))
}

/// Allowed or not, and the reason's code.
fn plain(policy: &Value, action: Action, labels: &[Label], who: &Caller) -> Result<(), &'static str> {
    let found = |effect: &str| -> Vec<Tri> {
        let all = policy["Statement"].as_array().unwrap().iter();
        all.filter(|s| s["Effect"] == effect)
            .map(|s| applies(s, action, labels, who))
            .collect()
    };
    let opaque = who.groups.is_none() || who.unit.is_none();
    let unknown = |otherwise| if opaque { "no_pid" } else { otherwise };
    let root = who.uid == 0;
    if !(root && matches!(action, Action::PutResourcePolicy | Action::DeleteResourcePolicy)) {
        match or(found("Deny")) {
            Some(true) => return Err("explicit_deny"),
            None => return Err(unknown("explicit_deny")),
            Some(false) => {}
        }
    }
    let member = if root {
        Some(true)
    } else {
        is_local("gid", "900", who)
    };
    let administers = match action {
        Action::DescribeSecret | Action::PutSecretValue => member,
        Action::PutResourcePolicy => Some(root),
        _ => Some(false),
    };
    match or(found("Allow").into_iter().chain([administers])) {
        Some(true) => Ok(()),
        None => Err(unknown("implicit_deny")),
        Some(false) => Err("implicit_deny"),
    }
}

fn pick(options: Vec<Value>) -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => proptest::sample::select(options.clone()),
        1 => proptest::sample::subsequence(options.clone(), 1..=options.len().min(3)).prop_map(Value::Array),
    ]
}

fn words(list: &[&str]) -> Vec<Value> {
    list.iter().map(|s| json!(s)).collect()
}

fn a_principal() -> impl Strategy<Value = Value> {
    let kind = |kind: &'static str, names: &[&str]| pick(words(names)).prop_map(move |v| json!({ kind: v }));
    prop_oneof![
        Just(json!("*")),
        kind("AWS", &[ROLE, BOT, "*", "arn:aws:iam::9:role/none"]),
        kind("User", &["bob", "alice", "root", "svc-a"]),
        kind("Uid", &["1000", "1001", "5", "0"]),
        kind("Group", &["ops", "backup"]),
        kind("Gid", &["100", "34", "7"]),
        kind("Unit", &["app.service", "b.service"]),
        kind("Service", &["wardfs-rotator"]),
        (
            pick(words(&["bob", "svc-a"])),
            pick(words(&["ops", "backup"])),
            pick(words(&["app.service"]))
        )
            .prop_map(|(u, g, n)| json!({"User": u, "Group": g, "Unit": n})),
    ]
}

fn a_condition() -> impl Strategy<Value = (String, String, Value)> {
    let strings = || {
        (
            proptest::sample::select(vec![
                "StringEquals",
                "StringNotEquals",
                "StringEqualsIgnoreCase",
                "StringNotEqualsIgnoreCase",
            ]),
            prop_oneof![Just(""), Just("IfExists")],
        )
            .prop_map(|(a, b)| format!("{a}{b}"))
    };
    let likes = |ops: &[&'static str]| {
        (
            proptest::sample::select(ops.to_vec()),
            prop_oneof![Just(""), Just("IfExists")],
        )
            .prop_map(|(a, b)| format!("{a}{b}"))
    };
    let like = || likes(&["StringLike", "StringNotLike"]);
    let with = |key: &'static str, values: &[&str]| (Just(key.to_string()), pick(words(values)));
    let keys = [
        "aws:PrincipalArn",
        "aws:username",
        "secretsmanager:VersionStage",
        "wardfs:Uid",
        "wardfs:Groups",
        "wardfs:Unit",
    ];
    let flat = |(op, (key, values)): (String, (String, Value))| (op, key, values);
    prop_oneof![
        (
            strings(),
            with("aws:PrincipalArn", &[ROLE, BOT, "arn:aws:iam::9:role/none"])
        )
            .prop_map(flat),
        (
            like(),
            with("aws:PrincipalArn", &["*role/*", "arn:aws:iam::*", "*bot"])
        )
            .prop_map(flat),
        (
            likes(&["ArnLike", "ArnEquals", "ArnNotLike", "ArnNotEquals"]),
            with(
                "aws:PrincipalArn",
                &[
                    ROLE,
                    "arn:aws:iam::*:user/*",
                    "arn:*:*:*:*:*",
                    "arn:aws:iam:*:*:role"
                ]
            )
        )
            .prop_map(flat),
        (
            strings(),
            with("aws:username", &["bob", "alice", "toor", "svc-a"])
        )
            .prop_map(flat),
        (like(), with("aws:username", &["b*", "?oot", "svc-*", "*o*"])).prop_map(flat),
        (
            strings(),
            with("secretsmanager:VersionStage", &["AWSCURRENT", "current", "blue"])
        )
            .prop_map(flat),
        (
            like(),
            with("secretsmanager:VersionStage", &["AWS*", "b?ue", "*"])
        )
            .prop_map(flat),
        (strings(), with("wardfs:Uid", &["0", "1000", "5"])).prop_map(flat),
        (like(), with("wardfs:Uid", &["1*", "?", "100?"])).prop_map(flat),
        (strings(), with("wardfs:Gid", &["100", "34"])).prop_map(flat),
        (strings(), with("wardfs:Groups", &["100", "backup", "7"])).prop_map(flat),
        (like(), with("wardfs:Groups", &["1*", "b*", "?", "*"])).prop_map(flat),
        (strings(), with("wardfs:Unit", &["app.service", "b.service"])).prop_map(flat),
        (like(), with("wardfs:Unit", &["app*", "?.service", "*"])).prop_map(flat),
        (
            Just("Null".to_string()),
            Just(()).prop_flat_map(move |()| (
                proptest::sample::select(keys.to_vec()).prop_map(String::from),
                pick(words(&["true", "false"]))
            ))
        )
            .prop_map(flat),
        (
            likes(&["Bool"]),
            (
                proptest::sample::select(keys.to_vec()).prop_map(String::from),
                pick(words(&["true", "false"]))
            )
        )
            .prop_map(flat),
    ]
}

fn a_statement() -> impl Strategy<Value = Value> {
    let actions = pick(words(&[
        "*",
        "secretsmanager:Get*",
        "secretsmanager:GetSecretValue",
        "secretsmanager:describesecret",
        "secretsmanager:*Policy",
        "secretsmanager:Put*",
    ]));
    let arn = "arn:aws:secretsmanager:r:1:secret:";
    let own = ["app/db", "app/*", "app/db-??????", "app/db-*"].map(|n| json!(format!("{arn}{n}")));
    let resources = prop_oneof![
        4 => Just(json!("*")),
        1 => proptest::sample::select(own.to_vec()),
        1 => Just(json!(format!("{arn}other"))),
    ];
    (
        any::<(bool, bool)>(),
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.15),
        a_principal(),
        actions,
        resources,
        proptest::collection::vec(a_condition(), 0..3),
    )
        .prop_map(
            |((deny, except), not_action, not_resource, principal, action, resource, conditions)| {
                let everybody = principal == json!("*") || principal.to_string().contains("\"*\"");
                let mut s = serde_json::Map::new();
                s.insert("Effect".into(), json!(if deny { "Deny" } else { "Allow" }));
                let except = except && deny && !everybody;
                s.insert(
                    if except { "NotPrincipal" } else { "Principal" }.into(),
                    principal,
                );
                s.insert(if not_action { "NotAction" } else { "Action" }.into(), action);
                s.insert(
                    if not_resource { "NotResource" } else { "Resource" }.into(),
                    resource,
                );
                let mut ops = serde_json::Map::new();
                for (op, key, values) in conditions {
                    ops.entry(op).or_insert_with(|| json!({}))[key] = values;
                }
                if !ops.is_empty() {
                    s.insert("Condition".into(), Value::Object(ops));
                }
                Value::Object(s)
            },
        )
}

fn a_caller() -> impl Strategy<Value = Caller> {
    let groups = proptest::option::weighted(
        0.8,
        proptest::collection::vec(proptest::sample::select(vec![7, 34, 100, 900]), 0..3),
    );
    let unit = proptest::option::weighted(
        0.8,
        proptest::option::of(proptest::sample::select(vec![
            "app.service",
            "b.service",
            "apple.scope",
        ])),
    );
    (
        proptest::sample::select(vec![0, 5, 1000, 1001, 1002]),
        proptest::sample::select(vec![1, 7, 100, 900]),
        groups,
        unit,
        proptest::option::weighted(0.1, Just("wardfs-rotator".to_string())),
    )
        .prop_map(|(uid, gid, groups, unit, service)| Caller {
            uid,
            gid,
            groups: groups.map(|g| g.into_iter().map(Gid).collect()),
            unit: unit.map(|u| u.map(String::from)),
            service,
            ..Caller::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_decides_as_the_rules_say(
        statements in proptest::collection::vec(a_statement(), 0..5),
        callers in proptest::collection::vec(a_caller(), 4),
        labels in proptest::sample::select(vec![&[][..], &["current"], &["current", "blue"], &["blue"]]),
    ) {
        let json = json!({"Version": "2012-10-17", "Statement": statements});
        let text = json.to_string();
        let (record, _) = resolve(&text).map_err(|e| TestCaseError::fail(format!("{e}")))?;
        let policy = record.compile(&secret()).map_err(|e| TestCaseError::fail(format!("{e}")))?;
        let labels: Vec<Label> = labels.iter().map(|l| l.parse().unwrap()).collect();
        for caller in callers {
            for action in [Action::GetSecretValue, Action::DescribeSecret, Action::PutSecretValue, Action::PutResourcePolicy] {
                let expected = plain(&json, action, &labels, &caller);
                let verdict = ask(Some(&policy), action, &labels, &mut caller.clone(), &ADMINISTRATION);
                match (&verdict, expected) {
                    (Verdict::Yes(layer, statement), Ok(())) => {
                        // The statement that is named does match.
                        if *layer == Layer::Secret {
                            let s = &json["Statement"][usize::from(statement.unwrap())];
                            prop_assert_eq!(&s["Effect"], "Allow");
                            prop_assert_eq!(applies(s, action, &labels, &caller), Some(true));
                        }
                    }
                    (Verdict::No(reason, layer, statement), Err(code)) => {
                        // What is unknown of uid 5 may be its name.
                        let nameless = caller.uid == 5 && code == "no_pid";
                        let code = if nameless { reason.code() } else { code };
                        prop_assert_eq!(reason.code(), code, "{:?} {} {:?}", &caller, action, text);
                        if *layer == Layer::Secret && code == "explicit_deny" && caller.groups.is_some() {
                            let s = &json["Statement"][usize::from(statement.unwrap())];
                            prop_assert_eq!(&s["Effect"], "Deny");
                            prop_assert_ne!(applies(s, action, &labels, &caller), Some(false));
                        }
                    }
                    _ => prop_assert!(false, "{:?} instead of {:?}: {:?} {} {}", verdict, expected, caller, action, text),
                }
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "(\\{|\\}|\\[|\\]|\"|:|,|Statement|Effect|Allow|Principal|Action|Resource|Condition|StringLike|aws:username|wardfs:Uid|arn:aws:secretsmanager|\\*|\\?|\\\\u00e9|é|💣|\n| |[0-9a-z])*") {
        if let Err(e) = resolve(&text) {
            prop_assert!(e.line >= 1 && e.column >= 1);
            prop_assert!(!e.to_string().is_empty());
        }
    }

    #[test]
    fn patterns_match_as_by_recursion(pattern in "[ab?*é]{0,9}", text in "[abé]{0,9}") {
        prop_assert_eq!(super::super::pattern::glob(&pattern, &text), like(&pattern, &text));
    }
}
