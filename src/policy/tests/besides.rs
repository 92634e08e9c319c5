//! Whom else a caller may be, and what he may have dropped.

use super::*;

/// A lent uid of alice's (1000), who is in `ops` (100).
fn lent() -> Caller {
    Caller::new(427_680, 427_680).besides(Some(&[1000]), Some(&[1000, 100]))
}

/// Alice in a namespace of her own, without her groups.
fn without_groups() -> Caller {
    Caller::new(1000, 427_680).besides(Some(&[]), Some(&[1000, 100]))
}

/// Of whom nothing can be said.
fn unknown() -> Caller {
    Caller::new(900_000, 900_000).besides(None, None)
}

fn policy(statements: &str) -> Compiled {
    compiled(&format!(
        r#"{{"Version":"2012-10-17","Statement":[{statements},
        {{"Sid":"All","Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}}]}}"#
    ))
}

fn deny(who: &str) -> Compiled {
    policy(&format!(
        r#"{{"Effect":"Deny",{who},"Action":"*","Resource":"*"}}"#
    ))
}

const OPEN: Verdict = Verdict::Yes(Layer::Secret, Some(1));

#[test]
fn a_deny_by_user_or_group_binds_who_wears_a_lent_uid_or_dropped_his_groups() {
    for (who, of_user) in [
        (r#""Principal":{"User":"alice"}"#.to_string(), true),
        (r#""Principal":{"Uid":"1000"}"#.into(), true),
        (r#""Principal":{"Group":"ops"}"#.into(), false),
        (r#""Principal":{"Gid":"100"}"#.into(), false),
        (format!(r#""Principal":{{"AWS":"{ROLE}"}}"#), true),
        (format!(r#""Principal":{{"AWS":"{BOT}"}}"#), false),
        (
            r#""Principal":"*","Condition":{"StringEquals":{"aws:username":"alice"}}"#.into(),
            true,
        ),
        (
            r#""Principal":"*","Condition":{"StringLike":{"aws:username":"al*"}}"#.into(),
            true,
        ),
        (
            r#""Principal":"*","Condition":{"ForAnyValue:StringEquals":{"aws:username":"alice"}}"#.into(),
            true,
        ),
        (
            r#""Principal":"*","Condition":{"StringEquals":{"wardfs:Uid":"1000"}}"#.into(),
            true,
        ),
        (
            r#""Principal":"*","Condition":{"NumericLessThan":{"wardfs:Uid":"1001"}}"#.into(),
            true,
        ),
        (
            r#""Principal":"*","Condition":{"StringEquals":{"wardfs:Groups":"ops"}}"#.into(),
            false,
        ),
        (
            r#""Principal":"*","Condition":{"NumericEquals":{"wardfs:Groups":"100"}}"#.into(),
            false,
        ),
        (
            r#""Principal":"*","Condition":{"StringEquals":{"wardfs:Gid":"100"}}"#.into(),
            false,
        ),
        (
            r#""Principal":"*","Condition":{"NumericEquals":{"wardfs:Gid":"100"}}"#.into(),
            false,
        ),
        (
            format!(r#""Principal":"*","Condition":{{"ArnLike":{{"aws:PrincipalArn":"{ROLE}"}}}}"#),
            true,
        ),
        (
            format!(
                r#""Principal":"*","Condition":{{"ForAnyValue:ArnLike":{{"aws:PrincipalArn":"{BOT}"}}}}"#
            ),
            false,
        ),
    ] {
        let deny = deny(&who);
        assert_eq!(read(&deny, lent()), DENIED, "{who}");
        assert_eq!(read(&deny, unknown()), UNKNOWN, "{who}");
        assert_eq!(read(&deny, without_groups()), DENIED, "{who}");
        assert_eq!(read(&deny, Caller::new(1001, 1001)), OPEN, "{who}");
        // It is the uid that is lent, and the groups that are dropped.
        let others = |uids, groups| Caller::new(427_680, 427_680).besides(uids, groups);
        let by = |of| if of { DENIED } else { OPEN };
        // A name that nobody knows is not known to be another.
        if who.contains(":StringEquals\":{\"aws:username") {
            continue;
        }
        assert_eq!(
            read(&deny, others(Some(&[1000]), Some(&[]))),
            by(of_user),
            "{who}"
        );
        assert_eq!(
            read(&deny, others(Some(&[]), Some(&[100]))),
            by(!of_user),
            "{who}"
        );
    }
}

#[test]
fn what_he_may_be_besides_exempts_from_no_deny() {
    for who in [
        r#""NotPrincipal":{"User":"alice"}"#,
        r#""NotPrincipal":{"Group":"ops"}"#,
        r#""Principal":"*","Condition":{"StringNotEquals":{"aws:username":"alice"}}"#,
        r#""Principal":"*","Condition":{"StringNotEquals":{"wardfs:Uid":"1000"}}"#,
        r#""Principal":"*","Condition":{"StringNotEquals":{"wardfs:Groups":"ops"}}"#,
        r#""Principal":"*","Condition":{"StringNotEquals":{"wardfs:Gid":"100"}}"#,
        r#""Principal":"*","Condition":{"ForAllValues:StringNotEquals":{"wardfs:Groups":"ops"}}"#,
    ] {
        assert_eq!(read(&deny(who), lent()), DENIED, "{who}");
        assert_eq!(read(&deny(who), Caller::new(1000, 100)), OPEN, "{who}");
    }
}

#[test]
fn an_allow_counts_only_what_the_process_shows() {
    for (who, holder) in [
        (r#""Principal":{"User":"alice"}"#, Caller::new(1000, 5)),
        (r#""Principal":{"Group":"ops"}"#, Caller::new(5, 5).groups(&[100])),
        (
            r#""Principal":"*","Condition":{"StringEquals":{"wardfs:Gid":"100"}}"#,
            Caller::new(5, 100),
        ),
    ] {
        let allow = compiled(&statement(&format!(r#""Effect":"Allow",{who},"Action":"*""#)));
        assert_eq!(read(&allow, lent()), NOTHING, "{who}");
        assert_eq!(read(&allow, holder), ALLOWED, "{who}");
    }
    // And none that holds because he is not somebody holds for who may be that one.
    for who in [
        r#"{"StringNotEquals":{"aws:username":"alice"}}"#,
        r#"{"StringNotEquals":{"wardfs:Uid":"1000"}}"#,
        r#"{"NumericNotEquals":{"wardfs:Uid":"1000"}}"#,
        r#"{"StringNotEquals":{"wardfs:Groups":"ops"}}"#,
        r#"{"ForAllValues:StringNotEquals":{"wardfs:Groups":"ops"}}"#,
        r#"{"ForAllValues:StringEquals":{"wardfs:Groups":["427680","5"]}}"#,
        r#"{"StringNotEquals":{"wardfs:Gid":"100"}}"#,
    ] {
        let allow = compiled(&when("Allow", who));
        assert_eq!(read(&allow, Caller::new(5, 5)), ALLOWED, "{who}");
        assert_eq!(read(&allow, lent()), NOTHING, "{who}");
        assert_ne!(read(&allow, unknown()), ALLOWED, "{who}");
    }
}

#[test]
fn variables_of_a_lent_uid_deny_and_are_his_own_in_an_allow() {
    let arn = "arn:aws:secretsmanager:*:*:secret:";
    let named: SecretName = "u427680/x".parse().unwrap();
    let text = |effect: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"{effect}","Principal":"*","Action":"*","Resource":"{arn}u${{wardfs:Uid}}/*"}},
            {{"Effect":"Allow","Principal":{{"Uid":"5"}},"Action":"*","Resource":"*"}}]}}"#
        )
    };
    for (effect, yes) in [("Allow", true), ("Deny", false)] {
        let (record, _) = PolicyRecord::resolve(&text(effect), &map(), &Book, &named, None).unwrap();
        let policy = record.compile(&named, None).unwrap();
        let request = Request::new(Action::GetSecretValue, Purpose::Read, SecretId(7), &named);
        let layers = Layers {
            administration: &ADMINISTRATION,
            shared: &Shared::default(),
            secret: Some(&policy),
        };
        let found = verdict(&layers, &request, &mut lent());
        assert_eq!(found == ALLOWED, yes, "{effect} {found:?}");
    }
}

#[test]
fn the_deny_of_an_identity_policy_binds_its_users_lent_uids_and_his_tags_are_theirs() {
    let denying = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}"#;
    let quiet = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"secretsmanager:ListSecrets","Resource":"*"}}"#;
    let record = |who: &str, tag: &str, text: &str| {
        let tags = [("team".to_string(), tag.to_string())].into();
        let resolved = IdentityRecord::resolve(&who.parse().unwrap(), tags, text, &map(), &Book);
        resolved.unwrap().0
    };
    let open = policy(
        r#"{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*",
        "Condition":{"StringEquals":{"aws:PrincipalTag/team":"red"}}}"#,
    );
    let name = secret();
    let request = Request::new(Action::GetSecretValue, Purpose::Read, SecretId(7), &name);
    for (who, tag, text, denied) in [
        ("user:alice", "blue", denying, true),
        ("group:ops", "blue", denying, true),
        ("user:alice", "red", quiet, true),
        ("group:ops", "red", quiet, true),
        ("user:alice", "blue", quiet, false),
        ("user:bob", "red", denying, false),
    ] {
        let shared = Shared::compile(
            [],
            &[record(who, tag, text), record("user:svc-a", "blue", denying)],
        )
        .unwrap();
        let layers = Layers {
            administration: &ADMINISTRATION,
            shared: &shared,
            secret: Some(&open),
        };
        let found = verdict(&layers, &request, &mut lent());
        assert_eq!(
            matches!(found, Verdict::No(Reason::ExplicitDeny, ..)),
            denied,
            "{who} {found:?}"
        );
        assert_ne!(
            verdict(&layers, &request, &mut unknown()),
            OPEN,
            "{who} {tag} {text}"
        );
        assert_eq!(verdict(&layers, &request, &mut Caller::new(5, 5)), OPEN);
    }
}

#[test]
fn nothing_more_is_asked_where_no_deny_and_no_absence_depends_on_it() {
    let asked = |policy: &Compiled, mut caller: Caller| {
        let _ = ask(
            Some(policy),
            Action::GetSecretValue,
            &[Label::current()],
            &mut caller,
            &ADMINISTRATION,
        );
        caller.asked_besides
    };
    let allow = statement(r#""Effect":"Allow","Principal":{"User":"alice","Group":"ops"},"Action":"*""#);
    assert_eq!(asked(&compiled(&allow), Caller::new(1000, 5)), 0);
    assert_eq!(asked(&compiled(&allow), Caller::new(5, 5)), 0);
    assert_eq!(
        asked(&deny(r#""Principal":{"Unit":"app.service"}"#), Caller::new(5, 5)),
        0
    );
    assert_eq!(
        asked(&deny(r#""Principal":{"User":"alice"}"#), Caller::new(1000, 5)),
        0,
        "it matches already"
    );
    assert_eq!(
        asked(&deny(r#""Principal":{"User":"alice"}"#), Caller::new(5, 5)),
        1
    );
}

#[test]
fn everybody_but_some_is_worth_a_warning() {
    let warned = |text: &str| {
        let (_, warnings) = resolve(text).unwrap();
        warnings
            .iter()
            .any(|w| w.message.contains("everybody else may read"))
    };
    let open = r#"{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}"#;
    let text = |more: &str| format!(r#"{{"Version":"2012-10-17","Statement":[{open},{more}]}}"#);
    for (who, yes) in [
        (r#""Principal":{"User":"alice"}"#, true),
        (r#""Principal":{"Unit":"app.service"}"#, true),
        (
            r#""Principal":"*","Condition":{"StringEquals":{"wardfs:Groups":"ops"}}"#,
            true,
        ),
        (r#""NotPrincipal":{"User":"alice"}"#, false),
        (
            r#""Principal":"*","Condition":{"StringNotEquals":{"aws:username":"alice"}}"#,
            false,
        ),
        (
            r#""Principal":"*","Condition":{"DateGreaterThan":{"aws:CurrentTime":"2030-01-01"}}"#,
            false,
        ),
    ] {
        let deny = format!(r#"{{"Effect":"Deny",{who},"Action":"*","Resource":"*"}}"#);
        assert_eq!(warned(&text(&deny)), yes, "{who}");
        let named = deny.replace(
            "\"*\",\"Resource\"",
            "\"secretsmanager:DeleteSecret\",\"Resource\"",
        );
        assert!(
            !warned(&text(&named)),
            "who may delete is no matter of reading: {named}"
        );
    }
    assert!(warned(&when(
        "Allow",
        r#"{"StringNotEquals":{"wardfs:Groups":"ops"}}"#
    )));
    assert!(!warned(&when(
        "Allow",
        r#"{"StringEquals":{"wardfs:Groups":"ops"}}"#
    )));
}

#[test]
fn a_deny_of_a_name_with_a_wildcard_for_the_suffix_is_worth_a_warning() {
    let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:";
    let of = |effect: &str, clause: &str| {
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"{effect}","Action":"*",{clause}}}}}"#
        );
        let (_, warnings) = GuardrailRecord::resolve("g", &text, &map(), &Book).unwrap();
        warnings.iter().any(|w| w.message.contains("leaves out"))
    };
    let one = format!(r#""Resource":"{arn}app/db-*""#);
    assert!(of("Deny", &one));
    assert!(!of("Allow", &one));
    let not = one.replace("Resource", "NotResource");
    assert!(of("Allow", &not));
    assert!(!of("Deny", &not));
    for covered in ["app/db", "app/db*", "app/*"] {
        assert!(
            !of(
                "Deny",
                &format!(r#""Resource":["{arn}app/db-*","{arn}{covered}"]"#)
            ),
            "{covered}"
        );
    }
    let when = |operator: &str| {
        format!(
            r#""Resource":"*","Condition":{{"{operator}":{{"secretsmanager:SecretId":"{arn}app/db-*"}}}}"#
        )
    };
    assert!(of("Deny", &when("ArnLike")));
    assert!(!of("Deny", &when("ArnNotLike")));
    // In a secret's own policy, if it is that secret.
    let own = |name: &str| {
        let text = statement(r#""Effect":"Deny","Principal":"*","Action":"*""#)
            .replace(r#""Resource":"*""#, &format!(r#""Resource":"{arn}{name}-*""#));
        let (_, warnings) = resolve(&text).unwrap();
        warnings.iter().any(|w| w.message.contains("leaves out"))
    };
    assert!(own("app/db"));
    assert!(!own("other"));
}
