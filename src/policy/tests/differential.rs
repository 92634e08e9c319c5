//! The engine against a slow, plain evaluator that is written from the rules alone, over the JSON itself.

use std::collections::BTreeMap;

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

/// What he may be besides is never known to be so.
fn besides<T: PartialEq>(all: &Option<Vec<T>>, one: &T) -> Tri {
    match all {
        Some(all) if !all.contains(one) => Some(false),
        _ => None,
    }
}

/// Nothing counts but what his process shows.
fn bare(who: &Caller) -> Caller {
    Caller {
        choosy: false,
        ..who.clone().besides(Some(&[]), Some(&[]))
    }
}

fn is_local(kind: &str, name: &str, who: &Caller) -> Tri {
    let group = |gid: u32| {
        let own = if who.gid == gid {
            Some(true)
        } else {
            who.groups.as_ref().map(|g| g.contains(&Gid(gid)))
        };
        or([own, besides(&who.other_groups, &Gid(gid))])
    };
    let user = |uid: Uid| or([Some(uid.0 == who.uid), besides(&who.other_uids, &uid)]);
    match kind {
        "user" => user(Book.uid_of(name).unwrap()),
        "uid" => user(Uid(name.parse().unwrap())),
        "group" => group(Book.gid_of(name).unwrap().0),
        "gid" => group(name.parse().unwrap()),
        "unit" => who.unit.as_ref().map(|u| u.as_deref() == Some(name)),
        "service" => Some(who.service.as_deref() == Some(name)),
        _ => unreachable!(),
    }
}

/// The role of the deployers, and two of its sessions: svc-a has one.
const DEPLOY: &str = "arn:aws:iam::111122223333:role/org/deploy";
const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/deploy/s1";
const NO_SESSION: &str = "arn:aws:sts::111122223333:assumed-role/deploy/s2";
/// A session of the role of [`map`].
const APP_SESSION: &str = "arn:aws:sts::111122223333:assumed-role/app/s1";

fn table() -> PrincipalMap {
    let mut map = map();
    map.0.insert(
        SESSION.into(),
        vec!["user:svc-a".parse().unwrap(), "gid:7".parse().unwrap()],
    );
    map
}

/// The account and the name of the role whose session it is.
fn session(arn: &str) -> Option<(&str, &str)> {
    let rest = arn.strip_prefix("arn:aws:sts::")?;
    let (account, rest) = rest.split_once(":assumed-role/")?;
    Some((account, rest.split('/').next()?))
}

fn role(arn: &str) -> Option<(&str, &str)> {
    let rest = arn.strip_prefix("arn:aws:iam::")?;
    let (account, path) = rest.split_once(":role/")?;
    Some((account, path.split('/').next_back()?))
}

/// Whether a statement that names `named` means who is mapped to `mapped`.
fn means(named: &str, mapped: &str, deny: bool, not: bool) -> bool {
    let of = |s: &str, r: &str| session(s).is_some() && session(s) == role(r);
    named == mapped || !not && of(mapped, named) || deny && !not && of(named, mapped)
}

fn has_arn(arn: &str, who: &Caller) -> Tri {
    or(table().0.get(arn).into_iter().flatten().map(|l| {
        let text = l.to_string();
        let (kind, name) = text.split_once(':').unwrap();
        is_local(kind, name, who)
    }))
}

fn principal(v: &Value, deny: bool, not: bool, who: &Caller) -> Tri {
    let Some(kinds) = v.as_object() else {
        return Some(true);
    };
    or(kinds.iter().flat_map(|(kind, names)| {
        list(names)
            .into_iter()
            .map(move |name| match (kind.as_str(), name.as_str()) {
                ("AWS", "*") => Some(true),
                ("AWS", arn) => or(table()
                    .0
                    .keys()
                    .filter(|k| means(arn, k, deny, not))
                    .map(|k| has_arn(k, who))),
                (kind, name) => is_local(&kind.to_lowercase(), name, who),
            })
    }))
}

/// What the request is about, beside the caller.
#[derive(Debug, Clone)]
pub(super) struct Situation {
    pub name: SecretName,
    pub labels: Vec<Label>,
    pub version: Option<crate::id::VersionId>,
    pub tags: BTreeMap<String, String>,
    pub asked_tags: BTreeMap<String, String>,
    pub arn: Option<&'static str>,
    pub identities: Vec<(String, BTreeMap<String, String>, Value)>,
    pub guardrails: Vec<Value>,
}

/// Every value that a key could have: whether the request has it, and its spellings; `None` for what cannot be known.
fn values(key: &str, at: &Situation, who: &Caller) -> Vec<(Tri, Option<Vec<String>>)> {
    let is = |v: String| (Some(true), Some(vec![v]));
    let tagged = |tags: &BTreeMap<String, String>, tag: &str| -> Vec<_> {
        let same = tags
            .iter()
            .filter(|(k, _)| k.to_lowercase() == tag.to_lowercase());
        same.map(|(_, v)| is(v.clone())).collect()
    };
    if let Some((prefix, tag)) = key.split_once('/') {
        return match prefix {
            "aws:RequestTag" => tagged(&at.asked_tags, tag),
            "secretsmanager:ResourceTag" => tagged(&at.tags, tag),
            "aws:PrincipalTag" => {
                let own = |(name, tags, _): &(String, BTreeMap<String, String>, Value)| {
                    let has = attached(name, who);
                    tagged(tags, tag).into_iter().map(move |(_, v)| (has, v))
                };
                at.identities.iter().flat_map(own).collect()
            }
            _ => unreachable!(),
        };
    }
    match key {
        "aws:PrincipalArn" => table()
            .0
            .into_keys()
            .map(|a| (has_arn(&a, who), Some(vec![a])))
            .collect(),
        "aws:username" => {
            let named = |uid: u32, has: Tri| {
                let named = USERS.iter().filter(|u| u.1 == uid && u.0 != "dyn");
                let names: Vec<_> = named.map(|u| (has, Some(vec![u.0.to_string()]))).collect();
                if names.is_empty() {
                    vec![(None, None)]
                } else {
                    names
                }
            };
            let others = match &who.other_uids {
                None => vec![(None, None)],
                Some(all) => all.iter().flat_map(|u| named(u.0, None)).collect(),
            };
            [named(who.uid, Some(true)), others].concat()
        }
        "wardfs:Uid" => [vec![is(who.uid.to_string())], perhaps(&who.other_uids)].concat(),
        "wardfs:Gid" => {
            let own = match who.choosy {
                true => perhaps(&who.groups),
                false => Vec::new(),
            };
            [vec![is(who.gid.to_string())], own, perhaps(&who.other_groups)].concat()
        }
        "wardfs:Groups" => {
            let spelled = |g: u32, has: Tri| {
                let named = GROUPS.iter().filter(|x| x.1 == g).map(|x| x.0.to_string());
                (has, Some(named.chain([g.to_string()]).collect::<Vec<_>>()))
            };
            let all = |groups: &Option<Vec<Gid>>, has| match groups {
                Some(groups) => groups.iter().map(|g| spelled(g.0, has)).collect(),
                None => vec![(None, None)],
            };
            let own = all(&who.groups, Some(true));
            [
                vec![spelled(who.gid, Some(true))],
                own,
                all(&who.other_groups, None),
            ]
            .concat()
        }
        "wardfs:Unit" => match &who.unit {
            None => vec![(None, None)],
            Some(unit) => unit.iter().map(|u| is(u.clone())).collect(),
        },
        "wardfs:NoNewPrivs" => vec![
            who.process
                .map_or((None, None), |p| is(p.no_new_privs.to_string())),
        ],
        "wardfs:LoginUid" => match who.process {
            None => vec![(None, None)],
            Some(p) => p.login_uid.iter().map(|u| is(u.to_string())).collect(),
        },
        "aws:EpochTime" => vec![is(who.now.to_string())],
        "aws:CurrentTime" => vec![is(jiff::Timestamp::from_second(who.now).unwrap().to_string())],
        "secretsmanager:VersionId" => at.version.iter().map(|v| is(v.to_string())).collect(),
        "secretsmanager:VersionStage" => {
            let both = |l: &Label| match l.as_str() {
                "current" => vec!["current".to_string(), "AWSCURRENT".into()],
                other => vec![other.to_string()],
            };
            at.labels.iter().map(|l| (Some(true), Some(both(l)))).collect()
        }
        "aws:SourceIp" | "s3:prefix" | "idp.example.com:sub" | "kms:ViaService" => Vec::new(),
        _ => unreachable!("{key}"),
    }
}

/// Numbers that he may have besides.
fn perhaps<T: ToString>(all: &Option<Vec<T>>) -> Vec<(Tri, Option<Vec<String>>)> {
    match all {
        None => vec![(None, None)],
        Some(all) => all.iter().map(|id| (None, Some(vec![id.to_string()]))).collect(),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Glyph {
    Any,
    One,
    Is(char),
}

fn fits(p: &[Glyph], t: &[char]) -> bool {
    match p.split_first() {
        None => t.is_empty(),
        Some((Glyph::Any, rest)) => (0..=t.len()).any(|i| fits(rest, &t[i..])),
        Some((Glyph::One, rest)) => !t.is_empty() && fits(rest, &t[1..]),
        Some((Glyph::Is(c), rest)) => t.first() == Some(c) && fits(rest, &t[1..]),
    }
}

/// The pattern with the variables' values; `None` if one has none, or several.
fn expanded(text: &str, wild: bool, at: &Situation, who: &Caller) -> Option<Vec<Glyph>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(inner) = rest.strip_prefix("${") {
            let (body, after) = inner.split_once('}').unwrap();
            rest = after;
            let (key, default) = match body.split_once(", ") {
                Some((key, d)) => (key, Some(d.trim_matches('\'').to_string())),
                None => (body, None),
            };
            let value = match key {
                "*" | "?" | "$" => key.to_string(),
                key => {
                    let found: Vec<_> = values(key, at, who)
                        .into_iter()
                        .filter(|(has, _)| *has != Some(false))
                        .collect();
                    match &*found {
                        [] => default?,
                        [(Some(true), Some(v))] => v[0].clone(),
                        _ => return None,
                    }
                }
            };
            out.extend(value.chars().map(Glyph::Is));
            continue;
        }
        rest = &rest[c.len_utf8()..];
        out.push(match c {
            '*' if wild => Glyph::Any,
            '?' if wild => Glyph::One,
            c => Glyph::Is(c),
        });
    }
    Some(out)
}

fn instant(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| {
        let text = if text.len() == 10 {
            format!("{text}T00:00:00Z")
        } else {
            text.to_string()
        };
        Some(text.parse::<jiff::Timestamp>().ok()?.as_second())
    })
}

fn satisfies(op: &str, pattern: &[Glyph], value: &str) -> bool {
    let chars: Vec<char> = value.chars().collect();
    let literal: String = pattern
        .iter()
        .map(|g| if let Glyph::Is(c) = g { *c } else { '*' })
        .collect();
    let ordered = |order: Option<std::cmp::Ordering>, op: &str| match (order, op) {
        (None, _) => false,
        (Some(o), "Equals") => o.is_eq(),
        (Some(o), "LessThan") => o.is_lt(),
        (Some(o), "LessThanEquals") => o.is_le(),
        (Some(o), "GreaterThan") => o.is_gt(),
        (Some(o), "GreaterThanEquals") => o.is_ge(),
        _ => unreachable!("{op}"),
    };
    if let Some(op) = op.strip_prefix("Numeric") {
        let number = |t: &str| t.parse::<f64>().ok();
        return ordered(
            number(value)
                .zip(number(&literal))
                .and_then(|(a, b)| a.partial_cmp(&b)),
            op,
        );
    }
    if let Some(op) = op.strip_prefix("Date") {
        return ordered(instant(value).zip(instant(&literal)).map(|(a, b)| a.cmp(&b)), op);
    }
    match op {
        "StringEquals" => literal == value,
        "StringEqualsIgnoreCase" | "Bool" => literal.to_lowercase() == value.to_lowercase(),
        "StringLike" => fits(pattern, &chars),
        "ArnLike" | "ArnEquals" => {
            let mut parts: Vec<Vec<Glyph>> = vec![Vec::new()];
            for g in pattern {
                match g {
                    Glyph::Is(':') if parts.len() < 6 => parts.push(Vec::new()),
                    g => parts.last_mut().unwrap().push(g.clone()),
                }
            }
            let texts: Vec<Vec<char>> = value.splitn(6, ':').map(|t| t.chars().collect()).collect();
            parts.len() == texts.len() && parts.iter().zip(&texts).all(|(p, t)| fits(p, t))
        }
        _ => unreachable!("{op}"),
    }
}

fn condition(op: &str, k: &str, wanted: &[String], at: &Situation, who: &Caller) -> Tri {
    let (quantifier, op) = op.split_once(':').map_or((None, op), |(q, o)| (Some(q), o));
    let (op, if_exists) = op.strip_suffix("IfExists").map_or((op, false), |o| (o, true));
    let all = values(k, at, who);
    let present = or(all.iter().map(|(has, _)| *has));
    if op == "Null" {
        let wants = |w: &str| wanted.iter().any(|v| v == w);
        return match (wants("true"), wants("false")) {
            (true, true) => Some(true),
            (true, false) => not(present),
            _ => present,
        };
    }
    let negated = op.contains("Not");
    // What nobody has is compared with nothing.
    if ["s3:", "idp.", "kms:"].iter().any(|p| k.starts_with(p)) {
        return Some(match quantifier {
            Some(quantifier) => quantifier == "ForAllValues",
            None => negated || if_exists,
        });
    }
    let plain = op.replace("Not", "");
    let text = plain.starts_with("String") || plain.starts_with("Arn");
    let wild = plain == "StringLike" || plain.starts_with("Arn");
    let variables = text && wanted.iter().any(|v| v.contains("${"));
    let mut patterns = Vec::new();
    for v in wanted {
        match text {
            true => patterns.push(expanded(v, wild, at, who)?),
            false => patterns.push(v.chars().map(Glyph::Is).collect()),
        }
    }
    // Names were looked up when the policy was set: who had none then is none of those that it lists.
    let listed = k == "aws:username" && quantifier.is_none() && !variables && (text || plain == "Bool");
    let holds = |v: &Option<Vec<String>>| -> Tri {
        let Some(spellings) = v else {
            return None;
        };
        let one = |s: &String| {
            let Some((account, name)) = session(s).filter(|_| k == "aws:PrincipalArn") else {
                return Some(patterns.iter().any(|p| satisfies(&plain, p, s)));
            };
            // A session is its role, whose path is known only where a value names it.
            let arn = |path: &str| format!("arn:aws:iam::{account}:role/{path}{name}");
            let named = |v: &String| !v.contains(['*', '$']) && role(v) == Some((account, name)) && text;
            let is = |text: &str| patterns.iter().any(|p| satisfies(&plain, p, text));
            if is(s) || is(&arn("")) || wanted.iter().any(named) {
                return Some(true);
            }
            let perhaps = ["org/", "x/", "org/team/"].iter().any(|path| is(&arn(path)));
            // What a variable brings is looked at no closer.
            let unsure = wanted.iter().any(|v| v.contains("${") && v.contains(":role/"));
            if wild && perhaps || unsure {
                None
            } else {
                Some(false)
            }
        };
        let matched = or(spellings.iter().map(one));
        if negated { not(matched) } else { matched }
    };
    if listed {
        let is = |uid: u32| {
            let mut named = USERS.iter().filter(|u| u.1 == uid && u.0 != "dyn");
            named.any(|u| patterns.iter().any(|p| satisfies(&plain, p, u.0)))
        };
        let other = match &who.other_uids {
            Some(all) if !all.iter().any(|u| is(u.0)) => Some(false),
            _ if patterns_name_nobody(&patterns, &plain) => Some(false),
            _ => None,
        };
        let found = or([Some(is(who.uid)), other]);
        let found = if negated { not(found) } else { found };
        return if if_exists {
            or([found, not(present)])
        } else {
            found
        };
    }
    let every = and(all.iter().map(|(h, v)| or([not(*h), holds(v)])));
    let some = or(all.iter().map(|(h, v)| and([*h, holds(v)])));
    match quantifier {
        Some("ForAllValues") => every,
        Some(_) => some,
        None => {
            let found = if negated { every } else { some };
            if if_exists {
                or([found, not(present)])
            } else {
                found
            }
        }
    }
}

/// Nobody needs to be known to be none of nobody.
fn patterns_name_nobody(patterns: &[Vec<Glyph>], plain: &str) -> bool {
    let mut named = USERS.iter().filter(|u| u.0 != "dyn");
    !named.any(|u| patterns.iter().any(|p| satisfies(plain, p, u.0)))
}

/// `wide`: names that end as the random suffix does count too.
fn resource(pattern: &str, wide: bool, at: &Situation, who: &Caller) -> Tri {
    if pattern == "*" {
        return Some(true);
    }
    let parts: Vec<&str> = pattern.splitn(6, ':').collect();
    if parts[2] != "secretsmanager" {
        return Some(false);
    }
    let rest = expanded(parts[5], true, at, who)?;
    let chars = |t: &str| t.chars().collect::<Vec<char>>();
    let random = [vec![Glyph::Is('-')], vec![Glyph::One; 6]].concat();
    let without = rest.strip_suffix(&*random);
    let own = format!("secret:{}", at.name);
    let mut found = (wide || without.is_none()) && fits(&rest, &chars(&own));
    found |= without.is_some_and(|without| fits(without, &chars(&own)));
    if let Some(arn) = at.arn {
        let own: Vec<&str> = arn.splitn(6, ':').collect();
        let head = (1..5).all(|i| like(parts[i], own[i]));
        return Some(head && (found || fits(&rest, &chars(own[5]))));
    }
    Some(found)
}

fn attached(name: &str, who: &Caller) -> Tri {
    match name.split_once(':').unwrap() {
        ("arn", _) => or(table()
            .0
            .keys()
            .filter(|k| means(name, k, false, false))
            .map(|k| has_arn(k, who))),
        (kind, name) => is_local(kind, name, who),
    }
}

fn applies(s: &Value, action: Action, at: &Situation, who: &Caller) -> Tri {
    let field = |name: &str| {
        s.get(name)
            .map(|v| (v, false))
            .or(s.get(format!("Not{name}")).map(|v| (v, true)))
    };
    let (deny, own) = (s["Effect"] == "Deny", bare(who));
    let (actions, negated) = field("Action").unwrap();
    let listed = list(actions)
        .iter()
        .any(|p| like(&p.to_lowercase(), &action.to_string().to_lowercase()));
    let (resources, other) = field("Resource").unwrap();
    // One that cannot be expanded makes the statement invalid, unless it lists everything besides.
    let resources = list(resources);
    let named = match resources.iter().any(|r| r == "*") {
        true => Some(true),
        false => {
            let wide = deny != other;
            let who = if deny || other { who } else { &own };
            let each: Vec<Tri> = resources.iter().map(|r| resource(r, wide, at, who)).collect();
            if each.contains(&None) { None } else { or(each) }
        }
    };
    let is = match field("Principal") {
        None => Some(true),
        Some((clause, except)) => {
            let named = principal(clause, deny, except, if deny { who } else { &own });
            if except { not(named) } else { named }
        }
    };
    let conditions = s
        .get("Condition")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .flat_map(|(op, keys)| {
            keys.as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| {
                    // With a quantifier `…IfExists` says nothing more.
                    let if_exists = op.contains("IfExists") && !op.starts_with("For");
                    let absence = op.contains("Not") || op.contains("Null") || if_exists;
                    let counts = deny || absence || op.contains("ForAllValues");
                    condition(op, k, &list(v), at, if counts { who } else { &own })
                })
                .collect::<Vec<_>>()
        });
    and([
        Some(listed != negated),
        if other { not(named) } else { named },
        is,
    ]
    .into_iter()
    .chain(conditions))
}

/// Allowed or not, and the reason's code.
fn plain(policy: &Value, action: Action, at: &Situation, who: &Caller) -> Result<(), &'static str> {
    let of = |document: &Value, effect: &str| -> Vec<Tri> {
        let all = document["Statement"].as_array().unwrap().iter();
        all.filter(|s| s["Effect"] == effect)
            .map(|s| applies(s, action, at, who))
            .collect()
    };
    let by_identity = |effect: &str| -> Vec<Tri> {
        let each = at.identities.iter().flat_map(|(name, _, document)| {
            let own = match effect {
                "Deny" => attached(name, who),
                _ => attached(name, &bare(who)),
            };
            of(document, effect).into_iter().map(move |t| and([own, t]))
        });
        each.collect()
    };
    let root = who.uid == 0;
    let mut denies: Vec<Tri> = at.guardrails.iter().flat_map(|g| of(g, "Deny")).collect();
    denies.extend(by_identity("Deny"));
    if !(root && matches!(action, Action::PutResourcePolicy | Action::DeleteResourcePolicy)) {
        denies.extend(of(policy, "Deny"));
    }
    if or(denies) != Some(false) {
        return Err("explicit_deny");
    }
    for guardrail in &at.guardrails {
        let allows = of(guardrail, "Allow");
        if !allows.is_empty() && or(allows) != Some(true) {
            return Err("implicit_deny");
        }
    }
    let member = if root {
        Some(true)
    } else {
        is_local("gid", "900", &bare(who))
    };
    let administers = match action {
        Action::DescribeSecret | Action::PutSecretValue => member,
        Action::PutResourcePolicy => Some(root),
        _ => Some(false),
    };
    let allows = of(policy, "Allow").into_iter().chain(by_identity("Allow"));
    match or(allows.chain([administers])) {
        Some(true) => Ok(()),
        _ => Err("implicit_deny"),
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
        kind("AWS", &[DEPLOY, SESSION, NO_SESSION, APP_SESSION]),
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
        "wardfs:LoginUid",
        "secretsmanager:VersionId",
        "aws:PrincipalTag/team",
        "secretsmanager:ResourceTag/team",
    ];
    let keys_of_text = [
        "aws:PrincipalArn",
        "aws:username",
        "secretsmanager:VersionStage",
        "wardfs:Uid",
        "wardfs:Groups",
        "wardfs:Unit",
    ];
    let quantified = |ops: &[&'static str]| {
        (
            proptest::sample::select(vec!["", "ForAllValues:", "ForAnyValue:"]),
            proptest::sample::select(ops.to_vec()),
            prop_oneof![Just(""), Just("IfExists")],
        )
            .prop_map(|(q, a, b)| format!("{q}{a}{b}"))
    };
    let numeric = || {
        quantified(&[
            "NumericEquals",
            "NumericNotEquals",
            "NumericLessThan",
            "NumericLessThanEquals",
            "NumericGreaterThan",
            "NumericGreaterThanEquals",
        ])
    };
    let dates = || {
        quantified(&[
            "DateEquals",
            "DateNotEquals",
            "DateLessThan",
            "DateLessThanEquals",
            "DateGreaterThan",
            "DateGreaterThanEquals",
        ])
    };
    let texts = || quantified(&["StringEquals", "StringNotEquals", "StringLike", "StringNotLike"]);
    let flat = |(op, (key, values)): (String, (String, Value))| (op, key, values);
    prop_oneof![
        (
            strings(),
            with(
                "aws:PrincipalArn",
                &[ROLE, BOT, "arn:aws:iam::9:role/none", DEPLOY, SESSION]
            )
        )
            .prop_map(flat),
        (
            like(),
            with(
                "aws:PrincipalArn",
                &[
                    "*role/*",
                    "arn:aws:iam::*",
                    "*bot",
                    "*:role/org/*",
                    "*:role/x/dep*"
                ]
            )
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
                    "arn:aws:iam:*:*:role",
                    "arn:aws:iam::*:role/org/*",
                    "arn:aws:iam::*:role/deploy"
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
        (numeric(), with("wardfs:Uid", &["0", "1000", "1000.5", "-1"])).prop_map(flat),
        (numeric(), with("wardfs:Groups", &["34", "100"])).prop_map(flat),
        (numeric(), with("wardfs:LoginUid", &["1000", "5"])).prop_map(flat),
        (numeric(), with("aws:PrincipalTag/level", &["2", "3.5"])).prop_map(flat),
        (
            dates(),
            with(
                "aws:CurrentTime",
                &["2026-11-25T08:00:00Z", "2026-11-25", "1795594800"]
            )
        )
            .prop_map(flat),
        (
            dates(),
            with("aws:EpochTime", &["1795593600", "2026-11-25T08:00:00Z"])
        )
            .prop_map(flat),
        (
            quantified(&["Bool", "StringEquals", "StringNotEquals"]),
            with("wardfs:NoNewPrivs", &["true", "false"])
        )
            .prop_map(flat),
        (
            texts(),
            with(
                "aws:PrincipalTag/Team",
                &["db", "web", "${aws:username}", "${aws:PrincipalTag/team}"]
            )
        )
            .prop_map(flat),
        (
            texts(),
            with(
                "secretsmanager:ResourceTag/team",
                &[
                    "db",
                    "${aws:PrincipalTag/Team}",
                    "${aws:PrincipalTag/none, 'web'}",
                    "${aws:PrincipalTag/none}",
                    "w*"
                ]
            )
        )
            .prop_map(flat),
        (
            texts(),
            with("aws:RequestTag/Project", &["blue", "b*", "${aws:username}*"])
        )
            .prop_map(flat),
        (
            texts(),
            with(
                "secretsmanager:VersionId",
                &["0123456789abcdef0123456789abcdef", "0*", "x*"]
            )
        )
            .prop_map(flat),
        (texts(), with("wardfs:Groups", &["100", "backup", "34", "7"])).prop_map(flat),
        (
            texts(),
            with("secretsmanager:VersionStage", &["AWSCURRENT", "blue", "${*}"])
        )
            .prop_map(flat),
        (texts(), with("aws:username", &["alice", "bob", "svc-a"])).prop_map(flat),
        (
            texts(),
            with(
                "wardfs:Unit",
                &["app.service", "${aws:username}.service", "${wardfs:Unit}"]
            )
        )
            .prop_map(flat),
        (
            quantified(&["ArnLike", "ArnNotEquals"]),
            with(
                "aws:PrincipalArn",
                &[
                    ROLE,
                    "arn:aws:iam::*:user/${aws:PrincipalTag/none, 'bot'}",
                    "arn:aws:iam::*:role/*"
                ]
            )
        )
            .prop_map(flat),
        (
            quantified(&["IpAddress", "NotIpAddress"]),
            with("aws:SourceIp", &["192.0.2.0/24", "2001:db8::1"])
        )
            .prop_map(flat),
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
                proptest::sample::select(keys_of_text.to_vec()).prop_map(String::from),
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
    let own = [
        "app/db",
        "app/*",
        "app/db-??????",
        "app/db-*",
        "app/${aws:PrincipalTag/team}",
        "${aws:PrincipalTag/none, 'app'}/*-??????",
        "${secretsmanager:ResourceTag/none}*",
    ]
    .map(|n| json!(format!("{arn}{n}")));
    let resources = prop_oneof![
        4 => Just(json!("*")),
        1 => proptest::sample::select(own.to_vec()),
        1 => Just(json!(format!("{arn}other"))),
        1 => Just(json!("arn:aws:secretsmanager:*:2:secret:app/db")),
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

pub(super) fn a_document() -> impl Strategy<Value = Value> {
    proptest::collection::vec(a_statement(), 0..4)
        .prop_map(|statements| json!({"Version": "2012-10-17", "Statement": statements}))
}

/// What statements of other services have beside or instead of their own.
type Foreign = (usize, usize, usize, bool);

const ACTIONS_ELSEWHERE: [&str; 4] = ["", "s3:GetObject", "ec2:*", "kms:Decrypt"];
const RESOURCES_ELSEWHERE: [&str; 3] = [
    "",
    "arn:aws:s3:::bucket/*",
    "arn:aws:kms:*:*:key/${idp.example.com:sub}",
];

fn conditions_elsewhere() -> [(&'static str, Value); 9] {
    [
        ("", json!({})),
        ("StringLike", json!({"s3:prefix": ["", "home/${aws:username}/*"]})),
        (
            "StringNotLike",
            json!({"s3:prefix": "home/${idp.example.com:sub}"}),
        ),
        ("StringEqualsIfExists", json!({"idp.example.com:sub": "x"})),
        ("Null", json!({"idp.example.com:sub": ["true"]})),
        ("ForAllValues:StringEquals", json!({"kms:ViaService": "x"})),
        ("ForAnyValue:StringNotEquals", json!({"kms:ViaService": "x"})),
        ("StringEquals", json!({"wardfs:Unit": "${idp.example.com:sub}"})),
        (
            "StringNotEquals",
            json!({"wardfs:Unit": "${idp.example.com:sub, 'app.service'}"}),
        ),
    ]
}

fn foreign() -> impl Strategy<Value = Foreign> {
    (
        0..ACTIONS_ELSEWHERE.len(),
        0..RESOURCES_ELSEWHERE.len(),
        prop_oneof![2 => Just(0), 1 => 0..conditions_elsewhere().len()],
        any::<bool>(),
    )
}

/// Lets a statement of a layer speak of other services, beside its own or instead.
fn brought_along(s: &mut Value, (action, resource, condition, instead): Foreign) {
    let mut add = |field: &str, more: &str| {
        let field = [field.to_string(), format!("Not{field}")]
            .into_iter()
            .find(|f| s.get(f).is_some())
            .unwrap();
        if !more.is_empty() {
            let mut all = if instead { Vec::new() } else { list(&s[&field]) };
            all.push(more.to_string());
            s[&field] = json!(all);
        }
    };
    add("Action", ACTIONS_ELSEWHERE[action]);
    add("Resource", RESOURCES_ELSEWHERE[resource]);
    let (op, keys) = &conditions_elsewhere()[condition];
    if !op.is_empty() {
        s["Condition"][op] = keys.clone();
    }
}

/// A document of a layer: without principals, or for a guardrail with some.
fn without_principals(mut document: Value, keep: bool, foreign: &[Foreign]) -> Value {
    for (s, foreign) in document["Statement"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .zip(foreign)
    {
        brought_along(s, *foreign);
    }
    for (i, s) in document["Statement"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .enumerate()
    {
        if !(keep && i == 0) {
            let s = s.as_object_mut().unwrap();
            s.remove("Principal");
            s.remove("NotPrincipal");
        }
    }
    document
}

pub(super) fn a_situation() -> impl Strategy<Value = Situation> {
    let tags = || {
        proptest::collection::btree_map(
            proptest::sample::select(vec!["team", "Team", "level", "project"]).prop_map(String::from),
            proptest::sample::select(vec!["db", "web", "2", "blue", "w*"]).prop_map(String::from),
            0..3,
        )
    };
    let others = || proptest::collection::vec(foreign(), 0..4);
    let identity = (
        proptest::sample::select(vec![
            "user:alice",
            "user:bob",
            "group:ops",
            "unit:app.service",
            "uid:5",
            BOT,
            DEPLOY,
        ]),
        tags(),
        a_document(),
        others(),
    )
        .prop_map(|(name, tags, document, foreign)| {
            (
                name.to_string(),
                tags,
                without_principals(document, false, &foreign),
            )
        });
    let guardrail = (a_document(), others()).prop_map(|(d, foreign)| without_principals(d, true, &foreign));
    let some = |odds| proptest::bool::weighted(odds);
    (
        (
            proptest::sample::select(vec!["app/db", "app/db", "app/db-master"]),
            proptest::sample::select(vec![&[][..], &["current"], &["current", "blue"], &["blue"]]),
        ),
        proptest::option::of(Just("0123456789abcdef0123456789abcdef")),
        (tags(), tags()),
        proptest::option::weighted(0.3, Just("arn:aws:secretsmanager:r:1:secret:app/db-AbC123")),
        (some(0.4), proptest::collection::vec(identity, 1..3)),
        (some(0.3), proptest::collection::vec(guardrail, 1..3)),
    )
        .prop_map(
            |(
                (name, labels),
                version,
                (tags, asked_tags),
                arn,
                (some, mut identities),
                (any, guardrails),
            )| {
                identities.sort_by(|a, b| a.0.cmp(&b.0));
                identities.dedup_by(|a, b| a.0 == b.0);
                Situation {
                    name: name.parse().unwrap(),
                    labels: labels.iter().map(|l| l.parse().unwrap()).collect(),
                    version: version.map(|v| v.parse().unwrap()),
                    tags,
                    asked_tags,
                    arn,
                    identities: if some { identities } else { Vec::new() },
                    guardrails: if any { guardrails } else { Vec::new() },
                }
            },
        )
}

/// Mostly nothing, now and then what cannot be known.
fn a_few(ids: &'static [u32]) -> impl Strategy<Value = Option<Vec<u32>>> {
    prop_oneof![
        6 => Just(Some(Vec::new())),
        3 => proptest::sample::subsequence(ids, 1..3).prop_map(Some),
        1 => Just(None),
    ]
}

pub(super) fn a_caller() -> impl Strategy<Value = Caller> {
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
        proptest::option::weighted(
            0.8,
            (
                any::<bool>(),
                proptest::option::of(proptest::sample::select(vec![5, 1000])),
            ),
        ),
        proptest::sample::select(vec![1_795_593_600, 1_795_594_800, 1_795_594_801]),
        (a_few(&[0, 5, 1000, 1001]), a_few(&[7, 34, 100, 900])),
    )
        .prop_map(
            |(uid, gid, groups, unit, service, process, now, (uids, gids))| Caller {
                other_uids: uids.map(|all| all.into_iter().map(Uid).collect()),
                other_groups: gids.map(|all| all.into_iter().map(Gid).collect()),
                choosy: true,
                uid,
                gid,
                groups: groups.map(|g| g.into_iter().map(Gid).collect()),
                unit: unit.map(|u| u.map(String::from)),
                service,
                process: process.map(|(no_new_privs, login_uid)| ProcessState {
                    no_new_privs,
                    traced: false,
                    login_uid,
                }),
                now,
                ..Caller::default()
            },
        )
}

/// Decisions of a run: the product of the numbers below, 104,000.
const CASES: u32 = 6500;
const CALLERS: usize = 4;
const ACTIONS: [Action; 4] = [
    Action::GetSecretValue,
    Action::DescribeSecret,
    Action::PutSecretValue,
    Action::PutResourcePolicy,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_decides_as_the_rules_say(
        json in a_document(),
        callers in proptest::collection::vec(a_caller(), CALLERS),
        at in a_situation(),
    ) {
        let fail = |e: PolicyError| TestCaseError::fail(format!("{e}"));
        let text = json.to_string();
        let name = at.name.clone();
        let (record, _) = PolicyRecord::resolve(&text, &table(), &Book, &name, at.arn).map_err(fail)?;
        let policy = record.compile(&name, at.arn).map_err(fail)?;
        let mut guardrails = Vec::new();
        for (i, g) in at.guardrails.iter().enumerate() {
            let record = GuardrailRecord::resolve(&format!("g{i}"), &g.to_string(), &table(), &Book);
            guardrails.push(record.map_err(fail)?.0);
        }
        let mut identities = Vec::new();
        for (who, tags, document) in &at.identities {
            let who: Attached = who.parse().unwrap();
            let record = IdentityRecord::resolve(&who, tags.clone(), &document.to_string(), &table(), &Book);
            identities.push(record.map_err(fail)?.0);
        }
        let shared = Shared::compile(&guardrails, &identities).map_err(|(_, e)| fail(e))?;
        let layers = Layers { administration: &ADMINISTRATION, shared: &shared, secret: Some(&policy) };
        for caller in callers {
            for action in ACTIONS {
                let expected = plain(&json, action, &at, &caller);
                let request = Request {
                    arn: at.arn,
                    tags: &at.tags,
                    version: at.version.as_ref(),
                    labels: &at.labels,
                    request_tags: &at.asked_tags,
                    ..Request::new(action, Purpose::of(action), SecretId(7), &name)
                };
                let found = verdict(&layers, &request, &mut caller.clone());
                match (&found, expected) {
                    (Verdict::Yes(layer, statement), Ok(())) => {
                        // The statement that is named does match.
                        if *layer == Layer::Secret {
                            let s = &json["Statement"][statement.unwrap() as usize];
                            prop_assert_eq!(&s["Effect"], "Allow");
                            prop_assert_eq!(applies(s, action, &at, &caller), Some(true));
                        }
                    }
                    (Verdict::No(reason, layer, statement), Err(code)) => {
                        // A fact that could not be had turns both kinds of refusal into this one.
                        let unknown = *reason == Reason::NoPid
                            && (caller.groups.is_none()
                                || caller.unit.is_none()
                                || caller.process.is_none()
                                || caller.other_uids.is_none()
                                || caller.other_groups.is_none());
                        let code = if unknown { reason.code() } else { code };
                        prop_assert_eq!(reason.code(), code, "{:?} {} {:?} {}", &caller, action, &at, text);
                        if *layer == Layer::Secret && code == "explicit_deny" {
                            let s = &json["Statement"][statement.unwrap() as usize];
                            prop_assert_eq!(&s["Effect"], "Deny");
                            prop_assert_ne!(applies(s, action, &at, &caller), Some(false));
                        }
                    }
                    _ => prop_assert!(
                        false, "{:?} instead of {:?}: {:?} {} {:?} {}", found, expected, caller, action, at, text
                    ),
                }
                // What explains a decision decides it too, and what it says of each statement is so.
                let traced = trace(&layers, &request, &mut caller.clone());
                for t in traced.iter().filter(|t| t.basis.layer == Layer::Secret) {
                    let s = &json["Statement"][t.basis.statement.unwrap() as usize];
                    let holds = match (applies(s, action, &at, &caller), t.effect) {
                        (Some(holds), _) => holds,
                        (None, effect) => effect == Effect::Deny,
                    };
                    prop_assert_eq!(t.failing.is_empty(), holds, "{} {:?}", s, t);
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
