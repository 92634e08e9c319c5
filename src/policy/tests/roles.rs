//! Roles with a path, and their sessions.

use std::collections::BTreeMap;

use super::*;
use crate::policy::role::{Match, Reach, compare, is_session_of, names};

const PATHED: &str = "arn:aws:iam::111122223333:role/org/team/app";
const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/app/i-0abc";
const OTHER_SESSION: &str = "arn:aws:sts::111122223333:assumed-role/app/other";

/// Bob is the session, or the role.
fn mapped(arn: &str) -> PrincipalMap {
    PrincipalMap([(arn.to_string(), vec!["user:bob".parse().unwrap()])].into())
}

fn policy(map: &PrincipalMap, text: &str) -> (Compiled, Vec<Warning>) {
    let (record, warnings) =
        PolicyRecord::resolve(text, map, &Book, &secret(), None).unwrap_or_else(|e| panic!("{e}\n{text}"));
    (record.compile(&secret(), None).unwrap(), warnings)
}

/// Whether bob reads by a policy that allows everybody, with this Deny beside.
fn denied(map: &PrincipalMap, deny: &str) -> bool {
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}},
          {{"Effect":"Deny","Action":"*","Resource":"*",{deny}}}]}}"#
    );
    !matches!(
        read(&policy(map, &text).0, Caller::new(1001, 1001)),
        Verdict::Yes(..)
    )
}

fn allowed(map: &PrincipalMap, allow: &str) -> bool {
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"*","Resource":"*",{allow}}}]}}"#
    );
    matches!(
        read(&policy(map, &text).0, Caller::new(1001, 1001)),
        Verdict::Yes(..)
    )
}

fn principal(arn: &str) -> String {
    format!(r#""Principal":{{"AWS":"{arn}"}}"#)
}

fn condition(operator: &str, value: &str) -> String {
    format!(r#""Principal":"*","Condition":{{"{operator}":{{"aws:PrincipalArn":"{value}"}}}}"#)
}

#[test]
fn a_role_names_its_sessions_whatever_its_path() {
    let session = mapped(SESSION);
    for role in [
        PATHED,
        ROLE,
        "arn:aws:iam::111122223333:role/aws-reserved/sso.amazonaws.com/app",
    ] {
        assert!(denied(&session, &principal(role)), "{role}");
        assert!(allowed(&session, &principal(role)), "{role}");
        assert!(denied(&session, &condition("ArnEquals", role)), "{role}");
        assert!(denied(&session, &condition("StringEquals", role)), "{role}");
        assert!(allowed(&session, &condition("StringEquals", role)), "{role}");
        assert!(
            allowed(&session, &condition("ForAnyValue:StringEquals", role)),
            "{role}"
        );
        // Who is the role is excepted by it.
        assert!(!denied(&session, &condition("ArnNotEquals", role)), "{role}");
        assert!(!denied(&session, &condition("StringNotEquals", role)), "{role}");
        assert!(
            !denied(&session, &condition("ForAnyValue:StringNotEquals", role)),
            "{role}"
        );
    }
    for role in [
        "arn:aws:iam::111122223333:role/app/org",
        "arn:aws:iam::111122223333:role/org/application",
        "arn:aws:iam::111122223333:role/org/App",
        "arn:aws:iam::999922223333:role/org/app",
        "arn:aws-cn:iam::111122223333:role/org/app",
        "arn:aws:iam::111122223333:user/org/app",
    ] {
        assert!(!denied(&session, &principal(role)), "{role}");
        assert!(!allowed(&session, &principal(role)), "{role}");
        assert!(!denied(&session, &condition("ArnEquals", role)), "{role}");
        assert!(denied(&session, &condition("StringNotEquals", role)), "{role}");
    }
}

#[test]
fn a_session_names_itself_and_binds_the_role_in_a_deny_alone() {
    let session = mapped(SESSION);
    assert!(denied(&session, &principal(SESSION)) && allowed(&session, &principal(SESSION)));
    assert!(!denied(&session, &principal(OTHER_SESSION)) && !allowed(&session, &principal(OTHER_SESSION)));
    // Which session the role's bearer has cannot be known.
    let role = mapped(PATHED);
    assert!(denied(&role, &principal(SESSION)) && !allowed(&role, &principal(SESSION)));
    let deny = format!(r#""Effect":"Deny","Action":"*",{}"#, principal(SESSION));
    let (_, warnings) = policy(&role, &statement(&deny));
    assert!(
        warnings
            .iter()
            .any(|w| w.message.contains("the role of this session")),
        "{warnings:?}"
    );
    // As in AWS the key has the role, and never a session.
    assert!(!denied(&role, &condition("ArnEquals", SESSION)));
    assert!(denied(&role, &condition("ArnNotEquals", SESSION)));
}

#[test]
fn an_exception_for_a_role_is_none_for_its_sessions() {
    let not = |arns: &str| format!(r#""NotPrincipal":{{"AWS":[{arns}]}}"#);
    let session = mapped(SESSION);
    assert!(denied(&session, &not(&format!("\"{PATHED}\""))));
    assert!(!denied(
        &session,
        &not(&format!(
            "\"{PATHED}\",\"{SESSION}\",\"arn:aws:iam::111122223333:root\""
        ))
    ));
    assert!(!denied(&mapped(PATHED), &not(&format!("\"{PATHED}\""))));
    assert!(denied(&mapped(PATHED), &not(&format!("\"{SESSION}\""))));
}

#[test]
fn a_pattern_that_some_path_would_match_denies_and_allows_nothing() {
    let session = mapped(SESSION);
    for (pattern, deny, allow) in [
        ("arn:aws:iam::111122223333:role/*", true, true),
        ("arn:aws:iam::*:role/app", true, true),
        ("arn:aws:iam::*:role/a*", true, true),
        ("arn:aws:iam::*:role/org/*", true, false),
        ("arn:aws:iam::*:role/org/*/app", true, false),
        ("arn:aws:iam::*:role/org/???", true, false),
        ("arn:aws:iam::*:role/org/other*", true, false),
        ("arn:aws:iam::*:role/org/*other", false, false),
        ("arn:aws:iam::*:user/*", false, false),
        ("arn:aws:iam::9*:role/org/*", false, false),
    ] {
        for operator in [
            "ArnLike",
            "StringLike",
            "ForAnyValue:StringLike",
            "ForAllValues:ArnLike",
        ] {
            assert_eq!(
                denied(&session, &condition(operator, pattern)),
                deny,
                "{operator} {pattern}"
            );
            assert_eq!(
                allowed(&session, &condition(operator, pattern)),
                allow,
                "{operator} {pattern}"
            );
        }
        for operator in ["ArnNotLike", "StringNotLike", "ForAnyValue:ArnNotLike"] {
            assert_eq!(
                denied(&session, &condition(operator, pattern)),
                !allow,
                "{operator} {pattern}"
            );
            assert_eq!(
                allowed(&session, &condition(operator, pattern)),
                !deny,
                "{operator} {pattern}"
            );
        }
    }
    // Whom the role is mapped to has its path.
    let role = mapped(PATHED);
    assert!(allowed(&role, &condition("ArnLike", "arn:aws:iam::*:role/org/*")));
    assert!(!denied(
        &role,
        &condition("ArnLike", "arn:aws:iam::*:role/other/*")
    ));
    assert!(!denied(&role, &condition("ArnLike", "arn:aws:iam::*:role/app")));
}

#[test]
fn an_identity_policy_of_a_role_is_its_sessions() {
    let map = mapped(SESSION);
    let role = PATHED.parse().unwrap();
    let text = r#"{"Statement":{"Effect":"Allow","Action":"secretsmanager:*","Resource":"*"}}"#;
    let (record, warnings) = IdentityRecord::resolve(&role, BTreeMap::new(), text, &map, &Book).unwrap();
    assert_eq!(warnings, []);
    let shared = Shared::compile([], [&record]).unwrap();
    let layers = Layers {
        administration: &ADMINISTRATION,
        shared: &shared,
        secret: None,
    };
    let name = secret();
    let request = Request::new(Action::GetSecretValue, Purpose::Read, SecretId(7), &name);
    let reads = |uid| {
        matches!(
            verdict(&layers, &request, &mut Caller::new(uid, uid)),
            Verdict::Yes(..)
        )
    };
    assert!(reads(1001) && !reads(1000));
}

#[test]
fn a_simulated_session_is_its_role() {
    for (principal, resource, allow) in [
        (SESSION, PATHED, true),
        (SESSION, ROLE, true),
        (SESSION, SESSION, true),
        (SESSION, OTHER_SESSION, false),
        (PATHED, PATHED, true),
        (PATHED, ROLE, false),
        (PATHED, SESSION, false),
    ] {
        for fields in [
            format!(r#""Principal":{{"AWS":"{resource}"}}"#),
            format!(r#""Principal":"*","Condition":{{"ArnEquals":{{"aws:PrincipalArn":"{resource}"}}}}"#),
        ] {
            let scenario = Scenario {
                policy: Some(statement(&format!(r#""Effect":"Allow","Action":"*",{fields}"#))),
                principal: Some(principal.parse().unwrap()),
                resource: "app/db".into(),
                ..Scenario::default()
            };
            let decision = simulate(&scenario, &Book).unwrap().decision;
            assert_eq!(decision == Answer::Allow, allow, "{principal} {fields}");
        }
    }
}

#[test]
fn the_parts_of_arns_are_told_apart() {
    assert!(is_session_of(SESSION, PATHED) && is_session_of(SESSION, ROLE));
    for (session, role) in [
        (PATHED, PATHED),
        (SESSION, SESSION),
        ("arn:aws:sts::111122223333:assumed-role/app", PATHED),
        (
            "arn:aws:sts::111122223333:assumed-role//app",
            "arn:aws:iam::111122223333:role/",
        ),
        ("arn:aws:sts:eu:111122223333:assumed-role/app/s", PATHED),
        ("arn:aws:sts::111122223333:federated-user/app/s", PATHED),
        ("arn:aws:iam::111122223333:assumed-role/app/s", PATHED),
    ] {
        assert!(!is_session_of(session, role), "{session} {role}");
    }
    let account = "111122223333";
    assert!(names(account, SESSION, Reach::Denied));
    assert!(!names(account, SESSION, Reach::Allowed) && !names(account, SESSION, Reach::Excepted));
    use crate::policy::operator::Comparison as C;
    assert_eq!(
        compare(C::EqualsIgnoreCase, &PATHED.to_uppercase(), SESSION, false),
        Match::No
    );
    assert_eq!(
        compare(C::EqualsIgnoreCase, &PATHED.replace("app", "APP"), SESSION, false),
        Match::Yes
    );
    assert_eq!(
        compare(C::Equals, "arn:aws:iam::*:role/org/*", SESSION, false),
        Match::No
    );
    assert_eq!(
        compare(C::Like, "arn:aws:iam::111122223333:role/${x}", SESSION, true),
        Match::Perhaps
    );
    assert_eq!(
        compare(C::Like, "arn:aws:iam::999122223333:role/${x}", SESSION, true),
        Match::No
    );
}

proptest::proptest! {
    #[test]
    fn patterns_overlap_if_a_text_matches_both(a in "[ab?*]{0,5}", b in "[ab?*]{0,5}") {
        use crate::policy::pattern::{glob, overlap};
        // Longer than any text that tells two such patterns apart.
        let mut texts = vec![String::new()];
        let mut all = texts.clone();
        for _ in 0..10 {
            texts = texts.iter().flat_map(|t| [format!("{t}a"), format!("{t}b")]).collect();
            all.extend_from_slice(&texts);
        }
        let found = all.iter().any(|t| glob(&a, t) && glob(&b, t));
        let colon = overlap(&format!("{}:x", a), "*");
        proptest::prop_assert!(!colon || a.contains(":"));
        proptest::prop_assert_eq!(overlap(&a, &b), found, "{} {}", a, b);
    }
}
