//! Who gains by a change: what is said of rules, against decisions about callers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::differential::{Situation, a_caller, a_document, a_situation};
use super::*;

type Tags = BTreeMap<String, String>;

fn tags(pairs: &[(&str, &str)]) -> Tags {
    let owned = |(k, v): &(&str, &str)| (k.to_string(), v.to_string());
    pairs.iter().map(owned).collect()
}

fn labels(names: &[&str]) -> Vec<Label> {
    names.iter().map(|l| l.parse().unwrap()).collect()
}

/// Whether a version's labels may become others without anybody's gain.
fn relabel(text: &str, had: &[&str], has: &[&str]) -> Option<Gain> {
    let policy = compiled(text);
    let (name, had, has) = (secret(), labels(had), labels(has));
    let side = |labels| Side {
        policy: Some(&policy),
        request: Request {
            labels,
            ..Request::new(Action::GetSecretValue, Purpose::Read, SecretId(7), &name)
        },
    };
    gain(&Shared::default(), &side(&had), &side(&has), Extent::Version)
}

/// The same of tags, and of any version.
fn retag(text: &str, had: &Tags, has: &Tags) -> Option<Gain> {
    let (policy, name) = (compiled(text), secret());
    let side = |tags| Side {
        policy: Some(&policy),
        request: Request {
            tags,
            ..Request::new(Action::GetSecretValue, Purpose::Read, SecretId(7), &name)
        },
    };
    gain(&Shared::default(), &side(had), &side(has), Extent::Every)
}

fn document(statements: &[&str]) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{}]}}"#,
        statements.join(",")
    )
}

/// `effect` for `who` where the condition holds.
fn rule(effect: &str, who: &str, condition: &str) -> String {
    let condition = match condition {
        "" => String::new(),
        c => format!(r#","Condition":{c}"#),
    };
    format!(
        r#"{{"Effect":"{effect}","Principal":{who},"Action":"secretsmanager:GetSecretValue","Resource":"*"{condition}}}"#
    )
}

const PUBLIC: &str = r#"{"StringEquals":{"secretsmanager:VersionStage":"public"}}"#;
const CURRENT: &str = r#"{"StringEquals":{"secretsmanager:VersionStage":"AWSCURRENT"}}"#;
const NOT_CURRENT: &str =
    r#"{"StringNotEquals":{"secretsmanager:VersionStage":"current","aws:username":["alice","bob"]}}"#;

#[test]
fn a_label_that_a_rule_names_is_not_moved_for_nothing() {
    let bob = r#"{"User":"bob"}"#;
    let alice = r#"{"User":"alice"}"#;
    let both = document(&[&rule("Allow", bob, PUBLIC), &rule("Allow", alice, "")]);
    let found = relabel(&both, &["current"], &["current", "public"]).unwrap();
    assert_eq!((found.effect, found.basis.statement), (Effect::Allow, Some(0)));
    // Other labels, and taking it away.
    assert_eq!(relabel(&both, &["current"], &["current", "blue"]), None);
    assert_eq!(relabel(&both, &["current", "public"], &["current"]), None);
    assert_eq!(relabel(&both, &["public"], &["current", "public"]), None);
    // Who reads all of it gains nothing by a part.
    let covered = document(&[&rule("Allow", alice, PUBLIC), &rule("Allow", alice, "")]);
    assert_eq!(relabel(&covered, &["current"], &["current", "public"]), None);
    let within = r#"{"User":["alice","www-data"]}"#;
    let covered = document(&[&rule("Allow", alice, PUBLIC), &rule("Allow", within, "")]);
    assert_eq!(relabel(&covered, &["current"], &["public"]), None);
    // Nor whom something else denies.
    let masked = document(&[
        &rule("Allow", bob, PUBLIC),
        &rule("Allow", alice, ""),
        &rule("Deny", bob, ""),
    ]);
    assert_eq!(relabel(&masked, &["current"], &["public"]), None);
}

#[test]
fn a_deny_by_label_does_not_vanish() {
    let bob = r#"{"User":"bob"}"#;
    let text = document(&[&rule("Allow", bob, ""), &rule("Deny", bob, PUBLIC)]);
    let found = relabel(&text, &["current", "public"], &["current"]).unwrap();
    assert_eq!((found.effect, found.basis.statement), (Effect::Deny, Some(1)));
    assert_eq!(relabel(&text, &["current"], &["public"]), None);
    // Where nobody is allowed, nobody is freed.
    let nobody = document(&[&rule("Deny", bob, PUBLIC)]);
    assert_eq!(relabel(&nobody, &["public"], &[]), None);
    let other = document(&[
        &rule("Allow", bob, ""),
        &rule("Deny", bob, PUBLIC),
        &rule("Deny", "\"*\"", ""),
    ]);
    assert_eq!(relabel(&other, &["public"], &[]), None);
}

/// The third example of the guide: the group reads what is current, the rest is for two.
#[test]
fn what_is_not_current_stays_with_its_operators() {
    let text = document(&[
        &rule("Allow", r#"{"Group":"ops"}"#, ""),
        &rule("Deny", "\"*\"", NOT_CURRENT),
    ]);
    assert!(relabel(&text, &["pending"], &["current"]).is_some());
    assert!(relabel(&text, &[], &["current"]).is_some());
    assert_eq!(relabel(&text, &["current"], &["previous"]), None);
    assert_eq!(relabel(&text, &["previous"], &[]), None);
}

#[test]
fn tags_count_where_a_rule_asks_for_them() {
    let none = tags(&[]);
    let team = tags(&[("team", "db")]);
    let asks = r#"{"StringEquals":{"secretsmanager:ResourceTag/Team":"db"}}"#;
    let text = document(&[&rule("Allow", "\"*\"", asks)]);
    assert!(retag(&text, &none, &team).is_some());
    assert_eq!(retag(&text, &team, &none), None);
    assert_eq!(retag(&text, &none, &tags(&[("other", "db")])), None);
    assert_eq!(retag(&text, &none, &tags(&[("team", "web")])), None);
    // With a variable it depends on the caller, and nobody knows all callers.
    let own = r#"{"StringEquals":{"secretsmanager:ResourceTag/team":"${aws:username}"}}"#;
    let text = document(&[&rule("Allow", "\"*\"", own)]);
    assert!(retag(&text, &team, &tags(&[("team", "web")])).is_some());
    assert_eq!(
        retag(&text, &team, &tags(&[("team", "db"), ("other", "x")])),
        None
    );
    assert_eq!(retag(&text, &team, &none), None);
    // A rule about versions to come counts as well.
    let both =
        r#"{"StringEquals":{"secretsmanager:ResourceTag/team":"db","secretsmanager:VersionStage":"blue"}}"#;
    let text = document(&[&rule("Allow", "\"*\"", both)]);
    assert!(retag(&text, &none, &team).is_some());
    // A Deny rests on its tag.
    let text = document(&[&rule("Allow", "\"*\"", CURRENT), &rule("Deny", "\"*\"", asks)]);
    assert!(retag(&text, &team, &none).is_some());
    assert_eq!(retag(&text, &none, &team), None);
}

/// Documents, layers and callers of all kinds, and a change of labels, of tags, or of the ARN.
const CASES: u32 = 4000;

/// The layers of a situation, and the document for the secret under an ARN.
fn layers(at: &Situation) -> Shared {
    let mut guardrails = Vec::new();
    for (i, g) in at.guardrails.iter().enumerate() {
        let record = GuardrailRecord::resolve(&format!("g{i}"), &g.to_string(), &map(), &Book);
        guardrails.push(record.unwrap().0);
    }
    let mut identities = Vec::new();
    for (who, tags, document) in &at.identities {
        let who: Attached = who.parse().unwrap();
        let record = IdentityRecord::resolve(&who, tags.clone(), &document.to_string(), &map(), &Book);
        identities.push(record.unwrap().0);
    }
    Shared::compile(&guardrails, &identities).unwrap()
}

fn own(text: &str, arn: Option<&str>) -> Compiled {
    let (record, _) = PolicyRecord::resolve(text, &map(), &Book, &secret(), None).unwrap();
    record.compile(&secret(), arn).unwrap()
}

fn asked<'a>(at: &'a Situation, action: Action, name: &'a SecretName) -> Request<'a> {
    Request {
        arn: at.arn,
        tags: &at.tags,
        version: at.version.as_ref(),
        labels: &at.labels,
        ..Request::new(action, Purpose::of(action), SecretId(7), name)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    /// Where nobody is said to gain, no caller may afterwards what he could not before.
    #[test]
    fn nobody_gains_unsaid(
        json in a_document(),
        callers in proptest::collection::vec(a_caller(), 12),
        before in a_situation(),
        mut after in a_situation(),
        settings in any::<bool>(),
    ) {
        let (text, name) = (json.to_string(), secret());
        let shared = layers(&before);
        if settings {
            // The versions stay what they are; what is asked must hold for whichever.
            (after.labels, after.version) = (before.labels.clone(), before.version.clone());
        } else {
            (after.arn, after.tags) = (before.arn, before.tags.clone());
            after.version = before.version.clone();
        }
        let (old, new) = (own(&text, before.arn), own(&text, after.arn));
        for action in Action::READING {
            let side = |policy, at| Side { policy: Some(policy), request: asked(at, action, &name) };
            let (extent, found) = match settings {
                true => {
                    // Labels and id are not looked at.
                    let bare = |at: &Situation| Situation { labels: Vec::new(), version: None, ..at.clone() };
                    let (b, a) = (bare(&before), bare(&after));
                    (Extent::Every, gain(&shared, &side(&old, &b), &side(&new, &a), Extent::Every))
                }
                false => (Extent::Version, gain(&shared, &side(&old, &before), &side(&new, &after), Extent::Version)),
            };
            if found.is_some() {
                continue;
            }
            for caller in &callers {
                let may = |policy, at| {
                    let layers = Layers { administration: &ADMINISTRATION, shared: &shared, secret: Some(policy) };
                    matches!(verdict(&layers, &asked(at, action, &name), &mut caller.clone()), Verdict::Yes(..))
                };
                prop_assert!(
                    !may(&new, &after) || may(&old, &before),
                    "{:?} gains {} by {:?}: {:?} to {:?} {}", caller, action, extent, before, after, text
                );
            }
        }
    }
}
