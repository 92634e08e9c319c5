//! Who gets what: each rule of evaluation once, and the ways round it.

use super::*;

fn allow(principal: &str) -> Compiled {
    compiled(&statement(&format!(
        r#""Effect":"Allow","Principal":{principal},"Action":"secretsmanager:GetSecretValue""#
    )))
}

const GUIDE: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"secretsmanager:*",
 "Resource":"arn:aws:secretsmanager:eu-central-1:111122223333:secret:app/db",
 "Condition":{"StringNotEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/app"}}}]}"#;

#[test]
fn the_guides_policy_works_word_for_word() {
    let policy = compiled(GUIDE);
    assert_eq!(read(&policy, Caller::new(1000, 1000)), NOTHING);
    assert_eq!(
        read(&policy, Caller::new(1001, 1001).unit("app.service")),
        NOTHING
    );
    assert_eq!(read(&policy, Caller::new(1001, 1001)), DENIED);
    assert_eq!(read(&policy, Caller::new(0, 0)), DENIED);
    assert_eq!(read(&policy, Caller::new(1001, 1001).opaque()), UNKNOWN);
    // Root cannot even describe it, but can mend it.
    let root = |action| {
        ask(
            Some(&policy),
            action,
            &[],
            &mut Caller::new(0, 0),
            &ADMINISTRATION,
        )
    };
    assert_eq!(root(Action::DescribeSecret), DENIED);
    assert_eq!(root(Action::GetResourcePolicy), DENIED);
    assert_eq!(
        root(Action::PutResourcePolicy),
        Verdict::Yes(Layer::Administration, None)
    );
    assert_eq!(
        root(Action::DeleteResourcePolicy),
        Verdict::Yes(Layer::Administration, None)
    );
    // With an Allow beside it, the role reads and nobody else.
    let both = GUIDE.replace(
        "[{",
        r#"[{"Effect":"Allow","Principal":"*","Action":"secretsmanager:GetSecretValue","Resource":"*"},{"#,
    );
    let policy = compiled(&both);
    assert_eq!(read(&policy, Caller::new(1000, 1000)), ALLOWED);
    assert_eq!(
        read(&policy, Caller::new(1001, 1001)),
        Verdict::No(Reason::ExplicitDeny, Layer::Secret, Some(1))
    );
}

#[test]
fn each_kind_of_principal_matches_its_own() {
    let c = Caller::new;
    for (principal, yes, no) in [
        (r#"{"User":"www-data"}"#, c(33, 33), c(34, 33)),
        (r#"{"User":["bob","alice"]}"#, c(1000, 1), c(1002, 1)),
        (r#"{"Uid":"33"}"#, c(33, 0), c(0, 33)),
        (r#"{"Uid":33}"#, c(33, 0), c(0, 33)),
        (r#"{"Group":"backup"}"#, c(1, 34), c(34, 1)),
        (
            r#"{"Gid":["34"]}"#,
            c(1, 1).groups(&[5, 34]),
            c(1, 1).groups(&[5, 35]),
        ),
        (
            r#"{"Unit":"app.service"}"#,
            c(1, 1).unit("app.service"),
            c(1, 1).unit("App.service"),
        ),
        (
            r#"{"Unit":"app@1.service"}"#,
            c(1, 1).unit("app@1.service"),
            c(1, 1).unit("app@.service"),
        ),
        (
            r#"{"Service":"wardfs-rotator"}"#,
            c(1, 1).service("wardfs-rotator"),
            c(1, 1),
        ),
        (
            r#"{"AWS":"arn:aws:iam::111122223333:role/app"}"#,
            c(1000, 1),
            c(1001, 1),
        ),
        (
            r#"{"AWS":"arn:aws:iam::111122223333:role/app"}"#,
            c(9, 1).unit("app.service"),
            c(9, 1),
        ),
        (
            r#"{"AWS":"arn:aws:iam::111122223333:user/bot"}"#,
            c(9, 9).groups(&[100]),
            c(1000, 9),
        ),
    ] {
        let policy = allow(principal);
        assert_eq!(read(&policy, yes), ALLOWED, "{principal}");
        assert_eq!(read(&policy, no), NOTHING, "{principal}");
    }
    for everybody in [r#""*""#, r#"{"AWS":"*"}"#, r#"{"User":"bob","AWS":["*"]}"#] {
        assert_eq!(read(&allow(everybody), Caller::new(12345, 1).opaque()), ALLOWED);
    }
}

#[test]
fn root_is_a_caller_like_any_other_when_it_reads() {
    assert_eq!(read(&allow(r#"{"User":"www-data"}"#), Caller::new(0, 0)), NOTHING);
    assert_eq!(read(&allow(r#"{"User":"root"}"#), Caller::new(0, 0)), ALLOWED);
    let mut root = Caller::new(0, 0);
    assert_eq!(
        ask(None, Action::GetSecretValue, &[], &mut root, &ADMINISTRATION),
        NOTHING
    );
    assert_eq!(
        ask(None, Action::BatchGetSecretValue, &[], &mut root, &ADMINISTRATION),
        NOTHING
    );
}

#[test]
fn an_explicit_deny_beats_every_allow_in_any_order() {
    let allow = r#"{"Effect":"Allow","Principal":{"Uid":"33"},"Action":"*","Resource":"*"}"#;
    let deny = r#"{"Sid":"Stop","Effect":"Deny","Principal":{"Group":"backup"},"Action":"*","Resource":"*"}"#;
    for (statements, index) in [(format!("{allow},{deny}"), 1), (format!("{deny},{allow}"), 0)] {
        let policy = compiled(&format!(
            r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#
        ));
        assert_eq!(
            read(&policy, Caller::new(33, 33).groups(&[34])),
            Verdict::No(Reason::ExplicitDeny, Layer::Secret, Some(index))
        );
        assert_eq!(policy.statement_id(index), "Stop");
        assert_eq!(policy.statement_id(1 - index), format!("#{}", 2 - index));
        assert_eq!(
            read(&policy, Caller::new(33, 33)),
            Verdict::Yes(Layer::Secret, Some(1 - index))
        );
    }
}

#[test]
fn the_administration_layer_is_this_table() {
    use Action::*;
    let both = [
        CreateSecret,
        DescribeSecret,
        ListSecrets,
        ListSecretVersionIds,
        PutSecretValue,
        UpdateSecretVersionStage,
        RotateSecret,
        CancelRotateSecret,
        DeleteSecret,
        RestoreSecret,
        GetRandomPassword,
        ValidateResourcePolicy,
    ];
    let root_alone = [
        GetResourcePolicy,
        PutResourcePolicy,
        DeleteResourcePolicy,
        UpdateSecret,
        TagResource,
        UntagResource,
        GetGuardrail,
        PutGuardrail,
        DeleteGuardrail,
        GetIdentityPolicy,
        PutIdentityPolicy,
        DeleteIdentityPolicy,
        AcceptConfig,
        QueryLog,
        ArchiveLog,
    ];
    let yes = Verdict::Yes(Layer::Administration, None);
    for &action in Action::ALL {
        let ask = |mut caller| ask(None, action, &[], &mut caller, &ADMINISTRATION) == yes;
        let by_group = both.contains(&action);
        assert_eq!(
            ask(Caller::new(0, 0)),
            by_group || root_alone.contains(&action),
            "{action}"
        );
        assert_eq!(ask(Caller::new(5, 900)), by_group, "{action}");
        assert_eq!(ask(Caller::new(5, 5).groups(&[1, 900])), by_group, "{action}");
        assert!(!ask(Caller::new(5, 5).groups(&[1])), "{action}");
    }
    let modest = Administration {
        root_describes: false,
        ..ADMINISTRATION
    };
    assert_eq!(
        ask(None, DescribeSecret, &[], &mut Caller::new(0, 900), &modest),
        NOTHING
    );
    assert_eq!(
        ask(None, PutSecretValue, &[], &mut Caller::new(0, 0), &modest),
        yes
    );
    assert_eq!(
        ask(None, DescribeSecret, &[], &mut Caller::new(5, 900), &modest),
        yes
    );
    // Without the group there is none to be a member of, not even gid 0.
    let alone = Administration {
        owner: crate::id::ROOT,
        group: None,
        root_describes: true,
    };
    assert_eq!(
        ask(None, PutSecretValue, &[], &mut Caller::new(5, 0), &alone),
        NOTHING
    );
    // In a private store its owner has root's place, and root has none; to read is nobody's by this layer.
    let private = Administration {
        owner: crate::id::Uid(1000),
        ..ADMINISTRATION
    };
    for &action in Action::ALL {
        let verdict = |uid| ask(None, action, &[], &mut Caller::new(uid, 7), &private);
        let as_root = ask(None, action, &[], &mut Caller::new(0, 7), &ADMINISTRATION);
        assert_eq!(verdict(1000), as_root, "{action}");
        assert_eq!(verdict(0), NOTHING, "{action}");
        assert_eq!(verdict(1001), NOTHING, "{action}");
    }
    // Members that cannot be seen are not members.
    assert_eq!(
        ask(
            None,
            PutSecretValue,
            &[],
            &mut Caller::new(5, 5).opaque(),
            &ADMINISTRATION
        ),
        Verdict::No(Reason::NoPid, Layer::Administration, None)
    );
}

#[test]
fn a_policy_can_hand_administration_to_others_and_take_it_from_the_group() {
    let policy = compiled(
        r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Principal":{"User":"bob"},"Action":["secretsmanager:PutResourcePolicy","secretsmanager:tagresource"],"Resource":"*"},
        {"Effect":"Deny","Principal":"*","Action":["secretsmanager:DeleteSecret","secretsmanager:*ResourcePolicy"],"Resource":"*","Condition":{"StringNotEquals":{"aws:username":"bob"}}}]}"#,
    );
    let ask = |action, caller: Caller| ask(Some(&policy), action, &[], &mut { caller }, &ADMINISTRATION);
    assert_eq!(ask(Action::PutResourcePolicy, Caller::new(1001, 1)), ALLOWED);
    assert_eq!(ask(Action::TagResource, Caller::new(1001, 1)), ALLOWED);
    assert_eq!(ask(Action::TagResource, Caller::new(5, 900)), NOTHING);
    let denied = Verdict::No(Reason::ExplicitDeny, Layer::Secret, Some(1));
    assert_eq!(ask(Action::DeleteSecret, Caller::new(0, 0)), denied);
    assert_eq!(ask(Action::DeleteSecret, Caller::new(5, 900)), denied);
    assert_eq!(ask(Action::PutResourcePolicy, Caller::new(5, 900)), denied);
    assert_eq!(
        ask(Action::PutResourcePolicy, Caller::new(0, 0)),
        Verdict::Yes(Layer::Administration, None)
    );
}

#[test]
fn a_grant_serves_only_the_purpose_that_fits_its_action() {
    let policy = compiled(&statement(r#""Effect":"Allow","Principal":"*","Action":"*""#));
    let name = secret();
    for &action in Action::ALL {
        for purpose in [
            Purpose::Read,
            Purpose::Describe,
            Purpose::Administer,
            Purpose::Rotate,
            Purpose::Render,
        ] {
            let request = Request::new(action, purpose, SecretId(1), &name);
            let shared = Shared::default();
            let layers = Layers {
                administration: &ADMINISTRATION,
                shared: &shared,
                secret: Some(&policy),
            };
            match decide(&layers, &request, &mut Caller::new(0, 0)) {
                Decision::Allow(grant) => {
                    assert_eq!(grant.purpose(), purpose);
                    let unseals = matches!(purpose, Purpose::Read | Purpose::Render);
                    let reads = matches!(action, Action::GetSecretValue | Action::BatchGetSecretValue);
                    assert_eq!(unseals, reads, "{action} {purpose:?}");
                }
                Decision::Deny(refusal) => assert_eq!(refusal.reason, Reason::PurposeMismatch),
            }
        }
    }
}

#[test]
fn a_policy_decides_for_its_own_secret_alone() {
    let policy = compiled(&statement(r#""Effect":"Allow","Principal":"*","Action":"*""#));
    let other: SecretName = "app/other".parse().unwrap();
    let request = Request::new(Action::GetSecretValue, Purpose::Read, SecretId(1), &other);
    let shared = Shared::default();
    let layers = Layers {
        administration: &ADMINISTRATION,
        shared: &shared,
        secret: Some(&policy),
    };
    match decide(&layers, &request, &mut Caller::new(33, 33)) {
        Decision::Deny(r) => assert_eq!(r.reason, Reason::OtherSecret),
        Decision::Allow(_) => panic!("another secret's policy decided"),
    }
}

#[test]
fn actions_have_wildcards_any_case_and_a_not_form() {
    for (clause, yes) in [
        (r#""Action":"*""#, true),
        (r#""Action":"secretsmanager:*""#, true),
        (r#""Action":"SecretsManager:getsecretVALUE""#, true),
        (
            r#""Action":["secretsmanager:Describe*","secretsmanager:Get*"]"#,
            true,
        ),
        (r#""Action":"secretsmanager:GetSecret?alue""#, true),
        (r#""Action":"secretsmanager:GetSecretValu?e""#, false),
        (r#""Action":"secretsmanager:Describe*""#, false),
        (r#""NotAction":"secretsmanager:Describe*""#, true),
        (r#""NotAction":"secretsmanager:Get*""#, false),
        (
            r#""NotAction":["secretsmanager:DeleteSecret","secretsmanager:GetSecretValue"]"#,
            false,
        ),
        (r#""NotAction":"*""#, false),
    ] {
        let text = statement(&format!(r#""Effect":"Allow","Principal":"*",{clause}"#));
        let outcome =
            resolve(&text).map(|(r, _)| read(&r.compile(&secret(), None).unwrap(), Caller::new(1, 1)));
        match outcome {
            Ok(verdict) => assert_eq!(verdict == ALLOWED, yes, "{clause}"),
            Err(_) => assert!(!yes, "{clause}"),
        }
    }
}

#[test]
fn a_resource_is_this_secret_with_and_without_suffix() {
    let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:";
    for (resource, yes) in [
        ("*".to_string(), true),
        (format!("{arn}app/db"), true),
        (format!("{arn}app/db-??????"), true),
        (format!("{arn}app/db-AbC12f"), false),
        (format!("{arn}app/db-*"), false),
        (format!("{arn}app/*"), true),
        (format!("{arn}*"), true),
        (format!("{arn}app/d?"), true),
        (format!("{arn}app/d?-??????"), true),
        ("arn:aws-cn:secretsmanager:*:*:secret:app/db".into(), true),
        ("arn:aws:secretsmanager:*:*:*".into(), true),
        (format!("{arn}APP/db"), false),
        (format!("{arn}app/db-?????"), false),
        (format!("{arn}app/db-???????"), false),
        (format!("{arn}app/db-Ab_12f"), false),
        (format!("{arn}app/d"), false),
        (format!("{arn}app/db2"), false),
        (format!("{arn}*/db/*"), false),
    ] {
        for (field, expect) in [("Resource", yes), ("NotResource", !yes)] {
            let text = format!(
                r#"{{"Statement":{{"Effect":"Allow","Principal":"*","Action":"*","{field}":"{resource}"}}}}"#
            );
            let verdict = read(&compiled(&text), Caller::new(1, 1));
            assert_eq!(verdict == ALLOWED, expect, "{field} {resource}");
        }
    }
    // A secret whose own name ends like a suffix: an Allow means the one secret, what takes away errs to the wide side.
    let name: SecretName = "db-abcdef".parse().unwrap();
    for (resource, allows, denies) in [
        ("db-abcdef", true, true),
        ("db-abcdef-??????", true, true),
        ("db", false, false),
        ("db-??????", false, true),
        ("db-abc*", true, true),
        ("*-??????", true, true),
        ("d?-??????", false, true),
    ] {
        for (effect, field, yes) in [
            ("Allow", "Resource", allows),
            ("Deny", "Resource", denies),
            ("Allow", "NotResource", !denies),
            ("Deny", "NotResource", !allows),
        ] {
            let text = format!(
                r#"{{"Statement":{{"Effect":"{effect}","Principal":"*","Action":"*","{field}":"{arn}{resource}"}}}}"#
            );
            let (_, warnings) = PolicyRecord::resolve(&text, &map(), &Book, &name, None).unwrap();
            assert_eq!(
                !warnings.iter().any(|w| w.message.contains("is not this secret")),
                yes,
                "{effect} {field} {resource}"
            );
        }
        for (effect, operator, value, yes) in [
            ("Allow", "ArnLike", format!("{arn}{resource}"), allows),
            ("Deny", "ArnLike", format!("{arn}{resource}"), denies),
            ("Allow", "ArnNotLike", format!("{arn}{resource}"), !denies),
            ("Deny", "ArnNotLike", format!("{arn}{resource}"), !allows),
            ("Allow", "StringLike", resource.into(), allows),
            ("Deny", "StringLike", resource.into(), denies),
            (
                "Allow",
                "StringNotLike",
                format!("arn:*:*:*:*:secret:{resource}"),
                !denies,
            ),
            (
                "Deny",
                "StringNotLike",
                format!("arn:*:*:*:*:secret:{resource}"),
                !allows,
            ),
        ] {
            let text = when(
                effect,
                &format!(r#"{{"{operator}":{{"secretsmanager:SecretId":"{value}"}}}}"#),
            );
            let (_, warnings) = PolicyRecord::resolve(&text, &map(), &Book, &name, None).unwrap();
            assert_eq!(
                !warnings
                    .iter()
                    .any(|w| w.message.contains("can match no request")),
                yes,
                "{effect} {operator} {value}"
            );
        }
    }
}

/// (condition, caller, holds)
fn table() -> Vec<(&'static str, Caller, bool)> {
    let c = Caller::new;
    let unit = |u: &str| Caller::new(1, 1).unit(u);
    vec![
        // Equals: wildcards are literal, case counts, values are ORed.
        (r#"{"StringEquals":{"aws:username":"alice"}}"#, c(1000, 1), true),
        (
            r#"{"StringEquals":{"aws:username":["bob","alice"]}}"#,
            c(1000, 1),
            true,
        ),
        (
            r#"{"StringEquals":{"aws:username":["bob","alice"]}}"#,
            c(33, 1),
            false,
        ),
        (r#"{"StringEquals":{"AWS:UserName":"toor"}}"#, c(0, 1), true),
        (r#"{"StringNotEquals":{"aws:username":"toor"}}"#, c(0, 1), false),
        (
            r#"{"StringNotEquals":{"aws:username":["bob","alice"]}}"#,
            c(1000, 1),
            false,
        ),
        (
            r#"{"StringNotEquals":{"aws:username":["bob","alice"]}}"#,
            c(33, 1),
            true,
        ),
        (
            r#"{"StringEqualsIgnoreCase":{"aws:username":"ALICE"}}"#,
            c(1000, 1),
            true,
        ),
        (
            r#"{"StringNotEqualsIgnoreCase":{"aws:username":"ALICE"}}"#,
            c(1000, 1),
            false,
        ),
        (r#"{"StringLike":{"aws:username":"svc-*"}}"#, c(1002, 1), true),
        (r#"{"StringLike":{"aws:username":"svc-*"}}"#, c(1001, 1), false),
        (r#"{"StringNotLike":{"aws:username":"svc-?"}}"#, c(1002, 1), false),
        (r#"{"StringNotLike":{"aws:username":"svc-??"}}"#, c(1002, 1), true),
        // Keys are ANDed, operators are ANDed.
        (
            r#"{"StringEquals":{"wardfs:Uid":"1","wardfs:Gid":"2"}}"#,
            c(1, 2),
            true,
        ),
        (
            r#"{"StringEquals":{"wardfs:Uid":"1","wardfs:Gid":"2"}}"#,
            c(1, 1),
            false,
        ),
        (
            r#"{"StringEquals":{"wardfs:Uid":"1"},"StringLike":{"wardfs:Gid":"2*"}}"#,
            c(1, 207),
            true,
        ),
        (
            r#"{"StringEquals":{"wardfs:Uid":"1"},"StringLike":{"wardfs:Gid":"2*"}}"#,
            c(1, 17),
            false,
        ),
        (r#"{"StringEquals":{"wardfs:Uid":33}}"#, c(33, 1), true),
        (r#"{"StringLike":{"wardfs:Uid":"10??"}}"#, c(1042, 1), true),
        (r#"{"StringLike":{"wardfs:Uid":"10??"}}"#, c(104, 1), false),
        (r#"{"StringLike":{"wardfs:Uid":"?"}}"#, c(0, 1), true),
        (
            r#"{"StringLike":{"wardfs:Uid":"4294967294"}}"#,
            c(4294967294, 1),
            true,
        ),
        (r#"{"StringNotLike":{"wardfs:Uid":"1*"}}"#, c(21, 1), true),
        // Many values: positive if any matches, negated only if none does.
        (
            r#"{"StringEquals":{"wardfs:Groups":"34"}}"#,
            c(1, 1).groups(&[2, 34]),
            true,
        ),
        (r#"{"StringEquals":{"wardfs:Groups":"34"}}"#, c(1, 34), true),
        (
            r#"{"StringEquals":{"wardfs:Groups":"backup"}}"#,
            c(1, 1).groups(&[34]),
            true,
        ),
        (
            r#"{"StringNotEquals":{"wardfs:Groups":"backup"}}"#,
            c(1, 1).groups(&[2, 34]),
            false,
        ),
        (
            r#"{"StringNotEquals":{"wardfs:Groups":["34","ops"]}}"#,
            c(1, 1).groups(&[2, 3]),
            true,
        ),
        (
            r#"{"StringNotEquals":{"wardfs:Groups":["34","ops"]}}"#,
            c(1, 100).groups(&[2]),
            false,
        ),
        (
            r#"{"StringLike":{"wardfs:Groups":"o*"}}"#,
            c(1, 1).groups(&[100]),
            true,
        ),
        (
            r#"{"StringLike":{"wardfs:Groups":"3*"}}"#,
            c(1, 1).groups(&[36]),
            true,
        ),
        (r#"{"StringNotLike":{"wardfs:Groups":"*"}}"#, c(1, 1), false),
        // A caller's ARNs are a set.
        (
            r#"{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/app"}}"#,
            c(1000, 1),
            true,
        ),
        (
            r#"{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::*:role/*"}}"#,
            c(1000, 1),
            true,
        ),
        (
            r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/*"}}"#,
            c(1000, 1),
            false,
        ),
        (
            r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/*"}}"#,
            c(1000, 100),
            true,
        ),
        (
            r#"{"ArnNotLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/*"}}"#,
            c(1000, 100),
            false,
        ),
        (
            r#"{"ArnNotEquals":{"aws:PrincipalArn":"arn:aws:iam::*:user/*"}}"#,
            c(1000, 1),
            true,
        ),
        (
            r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam:*:role/app:x"}}"#,
            c(1000, 1),
            false,
        ),
        (
            r#"{"StringLike":{"aws:PrincipalArn":"arn:*role/app"}}"#,
            c(1000, 1),
            true,
        ),
        (
            r#"{"StringEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/app"}}"#,
            c(9, 1).unit("app.service"),
            true,
        ),
        (
            r#"{"StringNotEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/app"}}"#,
            c(9, 9),
            true,
        ),
        // The secret itself.
        (
            r#"{"StringEquals":{"secretsmanager:SecretId":"app/db"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"StringLike":{"secretsmanager:SecretId":"app/*"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"StringNotLike":{"secretsmanager:SecretId":"app/*"}}"#,
            c(1, 1),
            false,
        ),
        (
            r#"{"StringEquals":{"secretsmanager:SecretId":"arn:aws:secretsmanager:r:1:secret:app/db-AbCdEf"}}"#,
            c(1, 1),
            false,
        ),
        (
            r#"{"StringEqualsIgnoreCase":{"secretsmanager:SecretId":"APP/DB"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"ArnLike":{"secretsmanager:SecretId":"arn:aws:secretsmanager:*:*:secret:app/*"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"ArnNotLike":{"secretsmanager:SecretId":"arn:aws:secretsmanager:*:*:secret:app/db-??????"}}"#,
            c(1, 1),
            false,
        ),
        (
            r#"{"StringLike":{"secretsmanager:SecretId":"arn*db-??????"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"StringLike":{"secretsmanager:SecretId":"*d?-*"}}"#,
            c(1, 1),
            false,
        ),
        (
            r#"{"StringLike":{"secretsmanager:SecretId":"*d?-?"}}"#,
            c(1, 1),
            false,
        ),
        // Labels (the request is for the current version).
        (
            r#"{"StringEquals":{"secretsmanager:VersionStage":"AWSCURRENT"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"StringEquals":{"secretsmanager:VersionStage":"current"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"StringEquals":{"secretsmanager:VersionStage":"AWSPREVIOUS"}}"#,
            c(1, 1),
            false,
        ),
        (
            r#"{"StringNotEquals":{"secretsmanager:VersionStage":"AWSCURRENT"}}"#,
            c(1, 1),
            false,
        ),
        (
            r#"{"StringLike":{"secretsmanager:VersionStage":"AWSC*"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"StringEqualsIgnoreCase":{"secretsmanager:VersionStage":"awscurrent"}}"#,
            c(1, 1),
            true,
        ),
        // Units, and a key that is missing: positive false, negated true, IfExists true.
        (
            r#"{"StringEquals":{"wardfs:Unit":"app.service"}}"#,
            unit("app.service"),
            true,
        ),
        (
            r#"{"StringLike":{"wardfs:Unit":"app@*.service"}}"#,
            unit("app@7.service"),
            true,
        ),
        (
            r#"{"StringLike":{"wardfs:Unit":"app@*.service"}}"#,
            unit("app@7.service.evil.scope"),
            false,
        ),
        (
            r#"{"StringEquals":{"wardfs:Unit":"app.service"}}"#,
            c(1, 1),
            false,
        ),
        (
            r#"{"StringNotEquals":{"wardfs:Unit":"app.service"}}"#,
            c(1, 1),
            true,
        ),
        (r#"{"StringNotLike":{"wardfs:Unit":"app*"}}"#, c(1, 1), true),
        (
            r#"{"StringEqualsIfExists":{"wardfs:Unit":"app.service"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"StringEqualsIfExists":{"wardfs:Unit":"app.service"}}"#,
            unit("b.service"),
            false,
        ),
        (
            r#"{"StringNotEqualsIfExists":{"wardfs:Unit":"app.service"}}"#,
            c(1, 1),
            true,
        ),
        (
            r#"{"StringNotEqualsIfExists":{"wardfs:Unit":"app.service"}}"#,
            unit("app.service"),
            false,
        ),
        (
            r#"{"StringEqualsIgnoreCaseIfExists":{"wardfs:Unit":"APP.service"}}"#,
            unit("app.service"),
            true,
        ),
        (
            r#"{"ArnLikeIfExists":{"aws:PrincipalArn":"arn:aws:iam::*:user/*"}}"#,
            c(9, 9),
            true,
        ),
        (
            r#"{"ArnLikeIfExists":{"aws:PrincipalArn":"arn:aws:iam::*:user/*"}}"#,
            c(1000, 9),
            false,
        ),
        (
            r#"{"StringEqualsIfExists":{"aws:username":"bob"}}"#,
            c(1000, 9),
            false,
        ),
        (r#"{"StringEqualsIfExists":{"wardfs:Uid":"5"}}"#, c(6, 9), false),
        // Null.
        (r#"{"Null":{"wardfs:Unit":"true"}}"#, c(1, 1), true),
        (r#"{"Null":{"wardfs:Unit":true}}"#, unit("a.service"), false),
        (r#"{"Null":{"wardfs:Unit":"false"}}"#, unit("a.service"), true),
        (r#"{"Null":{"wardfs:Unit":["true","false"]}}"#, c(1, 1), true),
        (r#"{"Null":{"aws:PrincipalArn":"true"}}"#, c(9, 9), true),
        (r#"{"Null":{"aws:PrincipalArn":"true"}}"#, c(9, 100), false),
        (r#"{"Null":{"aws:username":"false"}}"#, c(1000, 1), true),
        (r#"{"Null":{"wardfs:Uid":"false"}}"#, c(1, 1), true),
        (r#"{"Null":{"wardfs:Groups":"true"}}"#, c(1, 1), false),
        (
            r#"{"Null":{"secretsmanager:VersionStage":"false"}}"#,
            c(1, 1),
            true,
        ),
        // Bool compares with true and false.
        (r#"{"Bool":{"wardfs:Unit":"true"}}"#, unit("true.service"), false),
        (r#"{"BoolIfExists":{"wardfs:Unit":"true"}}"#, c(1, 1), true),
        (r#"{"Bool":{"wardfs:Uid":false}}"#, c(0, 0), false),
        (r#"{}"#, c(1, 1), true),
    ]
}

#[test]
fn conditions_hold_as_this_table_says() {
    for (condition, caller, holds) in table() {
        let allow = read(&compiled(&when("Allow", condition)), caller.clone());
        assert_eq!(
            allow,
            if holds { ALLOWED } else { NOTHING },
            "Allow {condition} {caller:?}"
        );
        let deny = read(&compiled(&when("Deny", condition)), caller.clone());
        assert_eq!(
            deny,
            if holds { DENIED } else { NOTHING },
            "Deny {condition} {caller:?}"
        );
    }
}

#[test]
fn labels_are_a_set_and_may_be_absent() {
    let ask = |condition: &str, labels: &[&str]| {
        let labels: Vec<Label> = labels.iter().map(|l| l.parse().unwrap()).collect();
        let policy = compiled(&when("Allow", condition));
        ask(
            Some(&policy),
            Action::GetSecretValue,
            &labels,
            &mut Caller::new(1, 1),
            &ADMINISTRATION,
        ) == ALLOWED
    };
    let equals = r#"{"StringEquals":{"secretsmanager:VersionStage":"blue"}}"#;
    let not = r#"{"StringNotEquals":{"secretsmanager:VersionStage":"blue"}}"#;
    assert!(ask(equals, &["current", "blue"]) && !ask(not, &["current", "blue"]));
    assert!(!ask(equals, &["current"]) && ask(not, &["current"]));
    assert!(!ask(equals, &[]) && ask(not, &[]));
    assert!(ask(
        r#"{"StringEqualsIfExists":{"secretsmanager:VersionStage":"blue"}}"#,
        &[]
    ));
    assert!(ask(r#"{"Null":{"secretsmanager:VersionStage":"true"}}"#, &[]));
    assert!(ask(
        r#"{"Bool":{"secretsmanager:VersionStage":"TRUE"}}"#,
        &["true"]
    ));
}

#[test]
fn an_unknown_fact_never_allows_and_always_denies() {
    for condition in [
        r#"{"StringEquals":{"wardfs:Unit":"a.service"}}"#,
        r#"{"StringNotEquals":{"wardfs:Unit":"a.service"}}"#,
        r#"{"StringEqualsIfExists":{"wardfs:Unit":"a.service"}}"#,
        r#"{"Null":{"wardfs:Unit":"true"}}"#,
        r#"{"Null":{"wardfs:Unit":"false"}}"#,
        r#"{"StringEquals":{"wardfs:Groups":"34"}}"#,
        r#"{"StringNotEquals":{"wardfs:Groups":"34"}}"#,
        r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/*"}}"#,
        r#"{"ArnNotLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/*"}}"#,
        r#"{"StringEquals":{"wardfs:Uid":"5"},"StringNotEquals":{"wardfs:Unit":"a.service","wardfs:Groups":"34"}}"#,
    ] {
        for effect in ["Allow", "Deny"] {
            let policy = compiled(&when(effect, condition));
            assert_eq!(
                read(&policy, Caller::new(5, 5).opaque()),
                UNKNOWN,
                "{effect} {condition}"
            );
        }
    }
    // What does not depend on it is decided all the same.
    let and = r#"{"StringEquals":{"wardfs:Uid":"6","wardfs:Unit":"a.service"}}"#;
    assert_eq!(
        read(&compiled(&when("Deny", and)), Caller::new(5, 5).opaque()),
        NOTHING
    );
    let gid = r#"{"StringEquals":{"wardfs:Groups":"5"}}"#;
    assert_eq!(
        read(&compiled(&when("Allow", gid)), Caller::new(5, 5).opaque()),
        ALLOWED
    );
    let policy = compiled(&statement(
        r#""Effect":"Deny","NotPrincipal":{"User":"bob","Unit":"a.service"},"Action":"*""#,
    ));
    assert_eq!(read(&policy, Caller::new(1001, 5).opaque()), NOTHING);
    assert_eq!(read(&policy, Caller::new(5, 5).opaque()), UNKNOWN);
    // A Deny that is certain is the reason, though another is not.
    let policy = compiled(
        r#"{"Statement":[{"Effect":"Deny","Principal":{"Group":"ops"},"Action":"*","Resource":"*"},
        {"Effect":"Deny","Principal":{"Group":"backup"},"Action":"*","Resource":"*"}]}"#,
    );
    assert_eq!(
        read(&policy, Caller::new(5, 34).opaque()),
        Verdict::No(Reason::ExplicitDeny, Layer::Secret, Some(1))
    );
}

#[test]
fn a_user_who_came_later_has_a_name_that_is_not_known() {
    // uid 4242 had no name when the policy was set. He may have one by now.
    for condition in [
        r#"{"StringEqualsIfExists":{"aws:username":"bob"}}"#,
        r#"{"Null":{"aws:username":"true"}}"#,
    ] {
        let verdict = |effect| read(&compiled(&when(effect, condition)), Caller::new(4242, 1));
        assert_eq!(verdict("Allow"), NOTHING);
        assert_eq!(verdict("Deny"), DENIED);
    }
}

#[test]
fn facts_are_asked_only_where_the_outcome_depends_on_them() {
    let asked = |text: &str, caller: Caller| {
        let policy = compiled(text);
        let mut caller = caller;
        let _ = ask(
            Some(&policy),
            Action::GetSecretValue,
            &[Label::current()],
            &mut caller,
            &ADMINISTRATION,
        );
        (caller.asked_groups, caller.asked_unit)
    };
    let all = statement(
        r#""Effect":"Allow","Principal":{"Group":"ops","Unit":"app.service","User":"bob"},"Action":"*""#,
    );
    assert_eq!(asked(&all, Caller::new(1001, 1)), (0, 0));
    assert_eq!(asked(&all, Caller::new(5, 100)), (0, 0));
    assert_eq!(asked(&all, Caller::new(5, 5).groups(&[100])), (1, 0));
    assert_eq!(asked(&all, Caller::new(5, 5)), (1, 1));
    // The Allow by uid stands last and is found first; the Deny is about something else or somebody else.
    let several = r#"{"Statement":[
        {"Effect":"Allow","Principal":{"Unit":"app.service"},"Action":"*","Resource":"*"},
        {"Effect":"Allow","Principal":{"Group":"ops"},"Action":"*","Resource":"*"},
        {"Effect":"Deny","Principal":{"Group":"backup"},"Action":"secretsmanager:DeleteSecret","Resource":"*"},
        {"Effect":"Deny","Principal":{"Group":"backup"},"Action":"*","Resource":"*","Condition":{"StringEquals":{"wardfs:Uid":"7"}}},
        {"Effect":"Allow","Principal":{"User":"bob"},"Action":"*","Resource":"*"}]}"#;
    assert_eq!(asked(several, Caller::new(1001, 1)), (0, 0));
    assert_eq!(asked(several, Caller::new(7, 1)), (2, 1));
    let whether = |text: &str, caller: Caller| {
        let (groups, unit) = asked(text, caller);
        (groups.min(1), unit.min(1))
    };
    // In one statement what is free comes first, the unit last, whatever they stand in.
    for (costly, either) in [
        (r#""StringEquals":{"wardfs:Groups":"ops"}"#, (1, 0)),
        (
            r#""StringEquals":{"wardfs:Groups":"${aws:ResourceTag/group, 'ops'}"}"#,
            (1, 0),
        ),
        (r#""ForAllValues:StringEquals":{"wardfs:Groups":"ops"}"#, (1, 0)),
        (r#""StringEquals":{"wardfs:Unit":"app.service"}"#, (0, 1)),
        (r#""StringEqualsIfExists":{"wardfs:Unit":"app.service"}"#, (0, 1)),
        (
            r#""StringEquals":{"aws:ResourceTag/unit":"${wardfs:Unit, 'none'}"}"#,
            (0, 1),
        ),
        (r#""Null":{"wardfs:Unit":"false"}"#, (0, 1)),
        (
            r#""StringEquals":{"secretsmanager:SecretId":"app/${wardfs:Unit, 'none'}"}"#,
            (0, 1),
        ),
        (&format!(r#""ArnEquals":{{"aws:PrincipalArn":"{ROLE}"}}"#), (0, 1)),
        (
            r#""ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/*"}"#,
            (1, 0),
        ),
    ] {
        let cheap = r#""NumericEquals":{"wardfs:Uid":"7"}"#;
        for both in [format!("{costly},{cheap}"), format!("{cheap},{costly}")] {
            let text = when("Allow", &format!("{{{both}}}"));
            assert_eq!(whether(&text, Caller::new(5, 5)), (0, 0), "{both}");
            assert_eq!(whether(&text, Caller::new(7, 5)), either, "{both}");
        }
        let unit = r#""StringLike":{"wardfs:Unit":"*"}"#;
        if either == (1, 0) {
            let text = when("Allow", &format!("{{{unit},{costly}}}"));
            assert_eq!(whether(&text, Caller::new(5, 5)), (1, 0), "{costly}");
        }
    }
    let by_uid = compiled(&statement(
        r#""Effect":"Allow","Principal":{"User":"bob"},"Action":"*""#,
    ));
    // Administrators of the group are looked for only after the policy's own free Allows, and never for reads.
    let mut bob = Caller::new(1001, 1);
    let verdict = ask(
        Some(&by_uid),
        Action::DescribeSecret,
        &[],
        &mut bob,
        &ADMINISTRATION,
    );
    assert_eq!((verdict, bob.asked_groups), (ALLOWED, 0));
    assert_eq!(
        asked(
            &statement(r#""Effect":"Allow","Principal":{"User":"bob"},"Action":"*""#),
            Caller::new(5, 5)
        ),
        (0, 0)
    );
}

#[test]
fn a_whole_account_allows_nobody_and_denies_everybody_in_it() {
    for account in ["111122223333", "arn:aws:iam::111122223333:root"] {
        let text = |effect: &str| {
            statement(&format!(
                r#""Effect":"{effect}","Principal":{{"AWS":"{account}"}},"Action":"*""#
            ))
        };
        let (_, warnings) = resolve(&text("Allow")).unwrap();
        assert!(
            warnings.iter().any(|w| w.message.contains("allows nobody")),
            "{warnings:?}"
        );
        assert_eq!(read(&compiled(&text("Allow")), Caller::new(1000, 1)), NOTHING);
        assert_eq!(read(&compiled(&text("Deny")), Caller::new(1000, 1)), DENIED);
        assert_eq!(read(&compiled(&text("Deny")), Caller::new(1001, 1)), NOTHING);
        // As an exemption it exempts nobody: AWS asks for the account and the role both.
        let not = statement(&format!(
            r#""Effect":"Deny","NotPrincipal":{{"AWS":"{account}"}},"Action":"*""#
        ));
        assert_eq!(read(&compiled(&not), Caller::new(1000, 1)), DENIED);
    }
}

#[test]
fn the_record_keeps_what_names_stood_for() {
    let (record, _) = resolve(&statement(
        r#""Effect":"Allow","Principal":{"User":"bob","AWS":"arn:aws:iam::111122223333:user/bot"},"Action":"*""#,
    ))
    .unwrap();
    assert_eq!(record.users, [("bob".to_string(), 1001)].into());
    assert_eq!(record.groups, [("ops".to_string(), 100)].into());
    assert_eq!(record.principals.keys().collect::<Vec<_>>(), [BOT]);
    let json = serde_json::to_string(&record).unwrap();
    let again: PolicyRecord = serde_json::from_str(&json).unwrap();
    assert_eq!(again, record);
    // Renumbered by the record, not by the directory: this is bob as he was.
    let policy = again.compile(&secret(), None).unwrap();
    assert_eq!(read(&policy, Caller::new(1001, 1)), ALLOWED);
    // A record whose tables lost a name does not compile into something weaker.
    let broken = PolicyRecord {
        users: Default::default(),
        ..record
    };
    assert!(
        broken
            .compile(&secret(), None)
            .unwrap_err()
            .message
            .contains("bob")
    );
}

#[test]
fn an_explanation_names_the_denies_that_bind_whoever_asks() {
    let policy = compiled(&statement(r#""Effect": "Deny", "Principal": "*", "Action": "*""#));
    let shared = Shared::default();
    let layers = Layers {
        administration: &ADMINISTRATION,
        shared: &shared,
        secret: Some(&policy),
    };
    let name = secret();
    let named = |action, uid| {
        let request = Request::new(action, Purpose::of(action), SecretId(1), &name);
        super::super::decide::trace(&layers, &request, &mut Caller::new(uid, uid)).len()
    };
    assert_eq!(
        named(Action::PutResourcePolicy, 0),
        0,
        "a secret's own policy does not take this from its owner"
    );
    assert_eq!(named(Action::PutResourcePolicy, 5), 1);
    assert_eq!(named(Action::GetSecretValue, 0), 1);
}

#[test]
fn each_label_of_aws_has_its_name_here() {
    for (theirs, ours) in [
        ("AWSCURRENT", "current"),
        ("AWSPENDING", "pending"),
        ("AWSPREVIOUS", "previous"),
    ] {
        let condition = format!(r#"{{"StringEquals":{{"secretsmanager:VersionStage":"{theirs}"}}}}"#);
        let policy = compiled(&when("Allow", &condition));
        for label in ["current", "pending", "previous", "blue"] {
            let labels = [label.parse().unwrap()];
            let action = Action::GetSecretValue;
            let asked = ask(
                Some(&policy),
                action,
                &labels,
                &mut Caller::new(1, 1),
                &ADMINISTRATION,
            );
            assert_eq!(
                matches!(asked, Verdict::Yes(..)),
                label == ours,
                "{theirs} and {label}"
            );
        }
    }
}
