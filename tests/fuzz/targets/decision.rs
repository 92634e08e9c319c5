//! Random policies and requests: the engine's answer is that of a slow, plain evaluator written from the rules alone.
#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use wardfs::policy::{Action, Answer, Scenario, simulate};

#[path = "../../support/nobody.rs"]
mod nobody;
use nobody::Nobody;

const ACTIONS: [&str; 4] = ["GetSecretValue", "DescribeSecret", "PutSecretValue", "DeleteSecret"];
const PATTERNS: [&str; 7] = ["*", "secretsmanager:*", "secretsmanager:Get*", "secretsmanager:GetSecretValue",
    "secretsmanager:?e*Secret", "secretsmanager:PutSecretValue", "SECRETSMANAGER:describesecret"];
const RESOURCES: [&str; 6] = ["*", "arn:aws:secretsmanager:*:*:secret:app/db", "arn:aws:secretsmanager:*:*:secret:app/*",
    "arn:aws:secretsmanager:*:*:secret:other/*", "arn:aws:secretsmanager:*:*:secret:app/db-??????",
    "arn:aws:secretsmanager:*:*:secret:app/??"];
// What guardrails and identity policies say of other services.
const PATTERNS_ELSEWHERE: [&str; 5] = ["s3:*", "s3:GetObject", "ec2:Describe*", "kms:Decrypt", "S3:getobject"];
const RESOURCES_ELSEWHERE: [&str; 3] = ["arn:aws:s3:::bucket/*", "arn:aws:kms:*:*:key/1", "arn:aws:s3:::b/${saml:sub}"];
const TEXTS: [&str; 8] = ["data", "Data", "web", "d*", "?ata", "", "a-b", "*"];
const TIMES: [&str; 4] = ["2026-01-01T00:00:00Z", "2026-11-25T12:00:00Z", "2027-01-01T00:00:00Z", "1970-01-01T00:00:01Z"];
const NETS: [&str; 4] = ["10.0.0.0/8", "10.1.2.3", "192.168.0.0/16", "2001:db8::/32"];
const ADDRESSES: [&str; 4] = ["10.1.2.3", "192.168.7.7", "172.16.0.1", "2001:db8::1"];
const TEAM: &str = "secretsmanager:ResourceTag/team";
const MINE: &str = "aws:PrincipalTag/team";
const NOW: &str = "aws:CurrentTime";
const ADDRESS: &str = "aws:SourceIp";
const ELSEWHERE: &str = "s3:prefix";

fn some<'a>(u: &mut Unstructured<'_>, from: &[&'a str]) -> Result<Vec<&'a str>> {
    let count = u.int_in_range(1..=2)?;
    (0..count).map(|_| u.choose(from).copied()).collect()
}

fn condition(u: &mut Unstructured<'_>, layer: bool) -> Result<(String, &'static str, Value)> {
    let if_exists = if u.ratio(1, 4)? { "IfExists" } else { "" };
    let (op, key, values): (&str, &str, Vec<&str>) = match u.int_in_range(0..=if layer { 5 } else { 4 })? {
        5 => (*u.choose(&["StringEquals", "StringNotEquals", "StringLike", "StringNotLike"])?, ELSEWHERE, some(u, &TEXTS)?),
        0 | 1 => {
            let ops = ["StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase",
                "StringNotEqualsIgnoreCase"];
            (*u.choose(&ops)?, *u.choose(&[TEAM, MINE])?, some(u, &TEXTS)?)
        }
        2 => {
            let ops = ["DateEquals", "DateNotEquals", "DateLessThan", "DateLessThanEquals", "DateGreaterThan",
                "DateGreaterThanEquals"];
            (*u.choose(&ops)?, NOW, some(u, &TIMES)?)
        }
        3 => (*u.choose(&["IpAddress", "NotIpAddress"])?, ADDRESS, some(u, &NETS)?),
        _ => {
            let null = u.choose(&[TEAM, MINE, ADDRESS])?;
            return Ok(("Null".into(), null, json!(*u.choose(&["true", "false"])?)));
        }
    };
    Ok((format!("{op}{if_exists}"), key, json!(values)))
}

fn statement(u: &mut Unstructured<'_>, principal: bool, denies: bool) -> Result<Value> {
    let mut s = json!({"Effect": *u.choose(&["Allow", "Deny"])?});
    if denies {
        s["Effect"] = json!(*u.choose(&["Allow", "Deny", "Allow"])?);
    }
    let (mut actions, mut resources) = (some(u, &PATTERNS)?, some(u, &RESOURCES)?);
    if !principal && u.ratio(1, 2)? {
        actions = [actions, some(u, &PATTERNS_ELSEWHERE)?].concat();
        resources = [resources, some(u, &RESOURCES_ELSEWHERE)?].concat();
        let (from_action, from_resource) = (u.int_in_range(0..=actions.len() - 1)?, u.int_in_range(0..=resources.len() - 1)?);
        (actions, resources) = (actions.split_off(from_action), resources.split_off(from_resource));
    }
    s[*u.choose(&["Action", "Action", "NotAction"])?] = json!(actions);
    s[*u.choose(&["Resource", "Resource", "NotResource"])?] = json!(resources);
    if principal {
        let who = [json!("*"), json!({"Uid": "61001"}), json!({"Uid": ["61002", "61003"]}), json!({"Gid": "70001"})];
        s["Principal"] = u.choose(&who)?.clone();
    }
    let mut block = serde_json::Map::new();
    for _ in 0..u.int_in_range(0..=2)? {
        let (op, key, values) = condition(u, !principal)?;
        let keys = block.entry(op).or_insert_with(|| json!({}));
        keys[key] = values;
    }
    if !block.is_empty() {
        s["Condition"] = Value::Object(block);
    }
    Ok(s)
}

struct Asked {
    action: &'static str,
    uid: u32,
    gids: Vec<u32>,
    keys: Vec<(&'static str, Option<&'static str>)>,
}

fn list(v: &Value) -> Vec<&str> {
    match v {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

fn like(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|i| like(rest, &text[i..])),
        Some((b'?', rest)) => !text.is_empty() && like(rest, &text[1..]),
        Some((c, rest)) => text.first() == Some(c) && like(rest, &text[1..]),
    }
}

fn lower(text: &str) -> String {
    text.to_ascii_lowercase()
}

fn seconds(time: &str) -> i64 {
    TIMES.iter().position(|t| *t == time).map(|i| [1_767_225_600, 1_795_608_000, 1_798_761_600, 1][i]).unwrap()
}

fn within(net: &str, address: &str) -> bool {
    match net {
        "10.0.0.0/8" => address.starts_with("10."),
        "192.168.0.0/16" => address.starts_with("192.168."),
        "2001:db8::/32" => address.starts_with("2001:db8:"),
        one => one == address,
    }
}

fn holds(op: &str, value: &str, pattern: &str) -> bool {
    match op {
        "StringEquals" => value == pattern,
        "StringEqualsIgnoreCase" => value.to_lowercase() == pattern.to_lowercase(),
        "StringLike" => like(pattern.as_bytes(), value.as_bytes()),
        "DateEquals" => seconds(value) == seconds(pattern),
        "DateLessThan" => seconds(value) < seconds(pattern),
        "DateLessThanEquals" => seconds(value) <= seconds(pattern),
        "DateGreaterThan" => seconds(value) > seconds(pattern),
        "DateGreaterThanEquals" => seconds(value) >= seconds(pattern),
        "IpAddress" => within(pattern, value),
        other => panic!("{other}"),
    }
}

fn met(op: &str, key: &str, patterns: &Value, asked: &Asked) -> bool {
    let value = asked.keys.iter().find(|(k, _)| *k == key).and_then(|(_, v)| *v);
    if op == "Null" {
        return (patterns == "true") == value.is_none();
    }
    let (op, if_exists) = op.strip_suffix("IfExists").map_or((op, false), |op| (op, true));
    let negated = op.contains("Not");
    let op = op.replace("Not", "");
    match value {
        None => if_exists || negated,
        Some(value) => list(patterns).iter().any(|p| holds(&op, value, p)) != negated,
    }
}

fn matches(s: &Value, asked: &Asked) -> bool {
    let action = lower(&format!("secretsmanager:{}", asked.action));
    let any = |field: &str, text: &str| {
        s.get(field).map(|v| list(v).iter().any(|p| like(lower(p).as_bytes(), text.as_bytes())))
    };
    let acts = any("Action", &action).or_else(|| any("NotAction", &action).map(|b| !b)).unwrap();
    // A local secret has any region and account, and no suffix of its own for a literal "-??????" to stand for.
    let named = |p: &str| {
        if p != "*" && !p.contains(":secretsmanager:") {
            return false;
        }
        let name = p.rsplit(':').next().unwrap_or(p);
        like(name.strip_suffix("-??????").unwrap_or(name).as_bytes(), b"app/db")
    };
    let exact = |field: &str| s.get(field).map(|v| list(v).iter().any(|p| named(p)));
    let on = exact("Resource").or_else(|| exact("NotResource").map(|b| !b)).unwrap();
    let who = match s.get("Principal") {
        None => true,
        Some(Value::String(all)) => all == "*",
        Some(kinds) => {
            let named = |kind: &str, ids: &[u32]| {
                kinds.get(kind).is_some_and(|v| list(v).iter().any(|n| ids.iter().any(|id| id.to_string() == *n)))
            };
            named("Uid", &[asked.uid]) || named("Gid", &asked.gids)
        }
    };
    let conditions = s.get("Condition").and_then(Value::as_object);
    let held = conditions.into_iter().flatten().all(|(op, keys)| {
        keys.as_object().unwrap().iter().all(|(key, patterns)| met(op, key, patterns, asked))
    });
    acts && on && who && held
}

/// Deny goes before all; guardrails, where there are any, must allow; then the secret's or the identity's policy.
fn plain(secret: &[Value], identity: &[Value], guardrails: &[Value], asked: &Asked) -> Answer {
    let effect = |of: &[Value], effect: &str| of.iter().any(|s| s["Effect"] == effect && matches(s, asked));
    if [secret, identity, guardrails].iter().any(|of| effect(of, "Deny")) {
        return Answer::ExplicitDeny;
    }
    let ceiling = guardrails.iter().all(|s| s["Effect"] == "Deny") || effect(guardrails, "Allow");
    match ceiling && (effect(secret, "Allow") || effect(identity, "Allow")) {
        true => Answer::Allow,
        false => Answer::ImplicitDeny,
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let statements = |u: &mut Unstructured<'_>, max, principal| -> Result<Vec<Value>> {
        (0..u.int_in_range(0..=max)?).map(|_| statement(u, principal, !principal)).collect()
    };
    let secret = statements(u, 4, true)?;
    let identity = statements(u, 2, false)?;
    let guardrail = statements(u, 2, false)?;
    let maybe = |u: &mut Unstructured<'_>, from: &[&'static str]| -> Result<Option<&'static str>> {
        Ok(if u.ratio(1, 3)? { None } else { Some(*u.choose(from)?) })
    };
    let asked = Asked {
        action: *u.choose(&ACTIONS)?,
        uid: *u.choose(&[61001, 61002, 61009])?,
        gids: if u.arbitrary()? { vec![70001] } else { vec![70009] },
        keys: vec![
            (TEAM, maybe(u, &TEXTS)?),
            (MINE, maybe(u, &TEXTS)?),
            (NOW, Some(*u.choose(&TIMES)?)),
            (ADDRESS, maybe(u, &ADDRESSES)?),
            (ELSEWHERE, maybe(u, &TEXTS)?),
        ],
    };
    let document = |statements: &[Value]| {
        (!statements.is_empty()).then(|| json!({"Version": "2012-10-17", "Statement": statements}).to_string())
    };
    let tags = |key: &str| {
        let value = asked.keys.iter().find(|(k, _)| *k == key).and_then(|(_, v)| *v);
        value.map(|v| ("team".to_string(), v.to_string())).into_iter().collect()
    };
    let scenario = Scenario {
        policy: document(&secret),
        identity_policies: document(&identity).into_iter().collect(),
        guardrails: document(&guardrail).into_iter().collect(),
        principal: Some(format!("uid:{}", asked.uid).parse().unwrap()),
        groups: asked.gids.iter().map(u32::to_string).collect(),
        unit: None,
        action: Some(asked.action.parse::<Action>().unwrap()),
        resource: "app/db".into(),
        tags: tags(TEAM),
        principal_tags: tags(MINE),
        context: (asked.keys.iter().skip(2))
            .filter_map(|(k, v)| Some((k.to_string(), vec![(*v)?.to_string()])))
            .collect(),
    };
    let expected = plain(&secret, &identity, &guardrail, &asked);
    match simulate(&scenario, &Nobody) {
        Ok(explained) => assert_eq!(explained.decision, expected, "{scenario:?}"),
        Err(e) => panic!("{e}: {scenario:?}"),
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    // Bytes that end too early are no case.
    let _ = run(&mut Unstructured::new(bytes));
});
