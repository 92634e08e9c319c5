//! Guardrails and identity policies, beside the secret's own.

use std::collections::BTreeMap;

use super::*;

fn document(statements: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#)
}

/// One statement without principal.
fn plain(effect: &str, action: &str, more: &str) -> String {
    document(&format!(
        r#"{{"Effect":"{effect}","Action":"{action}","Resource":"*"{more}}}"#
    ))
}

/// Whose, his tags, and the document.
type Identity<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

fn shared(guardrails: &[&str], identities: &[Identity<'_>]) -> Shared {
    let guardrail = |(i, text): (usize, &&str)| {
        GuardrailRecord::resolve(&format!("g{i}"), text, &map(), &Book)
            .unwrap()
            .0
    };
    let identity = |(who, tags, text): &Identity<'_>| {
        let tags = tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        IdentityRecord::resolve(&who.parse().unwrap(), tags, text, &map(), &Book)
            .unwrap()
            .0
    };
    let guardrails: Vec<_> = guardrails.iter().enumerate().map(guardrail).collect();
    let identities: Vec<_> = identities.iter().map(identity).collect();
    // What is kept survives its way through the store.
    let kept = |json: String| json;
    let guardrails: Vec<GuardrailRecord> =
        serde_json::from_str(&kept(serde_json::to_string(&guardrails).unwrap())).unwrap();
    let identities: Vec<IdentityRecord> =
        serde_json::from_str(&kept(serde_json::to_string(&identities).unwrap())).unwrap();
    Shared::compile(&guardrails, &identities).unwrap()
}

fn ask_of(
    shared: &Shared,
    secret_policy: Option<&str>,
    action: Action,
    mut caller: Caller,
) -> (Verdict, Option<String>) {
    let name = secret();
    let policy = secret_policy.filter(|_| !action.is_of_layers()).map(compiled);
    let layers = Layers {
        administration: &ADMINISTRATION,
        shared,
        secret: policy.as_ref(),
    };
    let request = match action.is_of_layers() {
        true => Request::of_layers(action, Purpose::of(action)),
        false => Request::new(action, Purpose::of(action), SecretId(7), &name),
    };
    let verdict = verdict(&layers, &request, &mut caller);
    let basis = match &verdict {
        Verdict::Yes(layer, statement) | Verdict::No(_, layer, statement) => Basis {
            layer: *layer,
            statement: *statement,
        },
    };
    (verdict, layers.statement_id(basis).map(str::to_string))
}

const READ: Action = Action::GetSecretValue;

fn allow_alice() -> String {
    statement(r#""Effect":"Allow","Principal":{"User":"alice"},"Action":"secretsmanager:GetSecretValue""#)
}

#[test]
fn a_guardrail_denies_everybody_root_included_on_every_action() {
    let deny = plain("Deny", "*", "");
    let shared = shared(&[&deny], &[]);
    for &action in Action::ALL {
        for caller in [Caller::new(0, 0), Caller::new(1000, 1), Caller::new(5, 900)] {
            let (verdict, statement) = ask_of(&shared, Some(&allow_alice()), action, caller);
            assert_eq!(
                verdict,
                Verdict::No(Reason::ExplicitDeny, Layer::Guardrail, Some(0)),
                "{action}"
            );
            assert_eq!(statement.as_deref(), Some("g0/#1"));
        }
    }
}

#[test]
fn a_guardrail_can_ask_whether_a_secret_is_meant_at_all() {
    for (null, of_layers) in [("true", true), ("false", false)] {
        let condition = format!(r#","Condition":{{"Null":{{"secretsmanager:SecretId":"{null}"}}}}"#);
        let shared = shared(&[&plain("Deny", "*", &condition)], &[]);
        for &action in Action::ALL {
            let (verdict, _) = ask_of(&shared, Some(&allow_alice()), action, Caller::new(0, 0));
            let denied = matches!(verdict, Verdict::No(Reason::ExplicitDeny, Layer::Guardrail, _));
            assert_eq!(denied, action.is_of_layers() == of_layers, "{null} {action}");
        }
    }
}

#[test]
fn a_guardrail_can_take_policy_set_from_root_which_a_secrets_policy_cannot() {
    let own = statement(r#""Effect":"Deny","Principal":"*","Action":"*""#);
    let none = Shared::default();
    let root = || Caller::new(0, 0);
    assert!(matches!(
        ask_of(&none, Some(&own), Action::PutResourcePolicy, root()).0,
        Verdict::Yes(..)
    ));
    let deny = plain("Deny", "secretsmanager:PutResourcePolicy", "");
    let guarded = shared(&[&deny], &[]);
    assert!(matches!(
        ask_of(&guarded, Some(&own), Action::PutResourcePolicy, root()).0,
        Verdict::No(Reason::ExplicitDeny, Layer::Guardrail, _)
    ));
    // So can the Deny of an identity policy.
    let by_identity = shared(&[], &[("user:root", &[], &deny)]);
    assert!(matches!(
        ask_of(&by_identity, None, Action::PutResourcePolicy, root()).0,
        Verdict::No(Reason::ExplicitDeny, Layer::Identity, _)
    ));
}

#[test]
fn a_guardrail_with_allows_is_a_ceiling_and_gives_nothing() {
    let ceiling = plain("Allow", "secretsmanager:Describe*", "");
    let shared = shared(&[&ceiling], &[]);
    let ceiling_denies = Verdict::No(Reason::ImplicitDeny, Layer::Guardrail, None);
    assert_eq!(
        ask_of(&shared, Some(&allow_alice()), READ, Caller::new(1000, 1)).0,
        ceiling_denies
    );
    assert_eq!(
        ask_of(&shared, None, Action::DeleteSecret, Caller::new(0, 0)).0,
        ceiling_denies
    );
    assert!(matches!(
        ask_of(&shared, None, Action::DescribeSecret, Caller::new(0, 0)).0,
        Verdict::Yes(..)
    ));
    assert_eq!(
        ask_of(&shared, None, Action::DescribeSecret, Caller::new(1000, 1)).0,
        NOTHING
    );
}

#[test]
fn every_guardrail_has_to_be_passed() {
    let reading = plain("Allow", "secretsmanager:Get*", "");
    let writing = plain("Allow", "secretsmanager:Put*", "");
    let both = shared(&[&reading, &writing], &[]);
    for action in [READ, Action::PutSecretValue] {
        let (verdict, _) = ask_of(&both, Some(&allow_alice()), action, Caller::new(1000, 1));
        assert_eq!(
            verdict,
            Verdict::No(Reason::ImplicitDeny, Layer::Guardrail, None),
            "{action}"
        );
    }
    // One that only denies is no ceiling.
    let deny = plain("Deny", "secretsmanager:DeleteSecret", "");
    let shared = shared(&[&reading, &deny], &[]);
    assert_eq!(
        ask_of(&shared, Some(&allow_alice()), READ, Caller::new(1000, 1)).0,
        ALLOWED
    );
}

#[test]
fn a_guardrail_may_name_whom_and_what_it_binds() {
    let deny = document(
        r#"{"Sid":"Stop","Effect":"Deny","Principal":{"User":"bob"},"Action":"*","Resource":"arn:aws:secretsmanager:*:*:secret:app/*"}"#,
    );
    let shared = shared(&[&deny], &[]);
    let open = statement(r#""Effect":"Allow","Principal":"*","Action":"*""#);
    let (verdict, statement) = ask_of(&shared, Some(&open), READ, Caller::new(1001, 1));
    assert_eq!(
        verdict,
        Verdict::No(Reason::ExplicitDeny, Layer::Guardrail, Some(0))
    );
    assert_eq!(statement.as_deref(), Some("g0/Stop"));
    assert_eq!(
        ask_of(&shared, Some(&open), READ, Caller::new(1000, 1)).0,
        ALLOWED
    );
}

#[test]
fn changing_guardrails_is_an_action_of_its_own() {
    let deny = plain("Deny", "secretsmanager:*", "");
    let secrets_only = shared(&[&deny], &[]);
    assert!(matches!(
        ask_of(&secrets_only, None, Action::DeleteGuardrail, Caller::new(0, 0)).0,
        Verdict::Yes(..)
    ));
    let deny = plain("Deny", "wardfs:*Guardrail", "");
    let guarded = shared(&[&deny], &[]);
    assert!(matches!(
        ask_of(&guarded, None, Action::DeleteGuardrail, Caller::new(0, 0)).0,
        Verdict::No(..)
    ));
    assert!(matches!(
        ask_of(&guarded, None, Action::DeleteSecret, Caller::new(0, 0)).0,
        Verdict::Yes(..)
    ));
    // A secret's resource is none of a guardrail's.
    let named =
        document(r#"{"Effect":"Deny","Action":"*","Resource":"arn:aws:secretsmanager:*:*:secret:*"}"#);
    let guarded = shared(&[&named], &[]);
    assert!(matches!(
        ask_of(&guarded, None, Action::PutGuardrail, Caller::new(0, 0)).0,
        Verdict::Yes(..)
    ));
    // The group administers secrets, not what binds it.
    assert_eq!(
        ask_of(
            &Shared::default(),
            None,
            Action::PutGuardrail,
            Caller::new(5, 900)
        )
        .0,
        NOTHING
    );
}

#[test]
fn an_identity_policy_or_the_secrets_own_is_enough() {
    let allow = plain("Allow", "secretsmanager:GetSecretValue", "");
    for (who, caller) in [
        ("user:alice", Caller::new(1000, 1)),
        ("uid:4242", Caller::new(4242, 1)),
        ("group:ops", Caller::new(5, 1).groups(&[100])),
        ("gid:7", Caller::new(5, 7)),
        ("unit:app.service", Caller::new(5, 1).unit("app.service")),
        (ROLE, Caller::new(1000, 1)),
        (ROLE, Caller::new(5, 1).unit("app.service")),
        (BOT, Caller::new(5, 100)),
    ] {
        let shared = shared(&[], &[(who, &[], &allow)]);
        let yes = Verdict::Yes(Layer::Identity, Some(0));
        let (verdict, statement) = ask_of(&shared, None, READ, caller);
        assert_eq!(verdict, yes, "{who}");
        assert_eq!(statement, Some(format!("{who}/#1")));
        assert_eq!(ask_of(&shared, None, READ, Caller::new(6, 6)).0, NOTHING, "{who}");
    }
}

#[test]
fn the_deny_of_any_layer_beats_every_allow() {
    let deny = plain("Deny", "*", "");
    let by_identity = shared(&[], &[("user:alice", &[], &deny)]);
    assert!(matches!(
        ask_of(&by_identity, Some(&allow_alice()), READ, Caller::new(1000, 1)).0,
        Verdict::No(Reason::ExplicitDeny, Layer::Identity, _)
    ));
    let allow = plain("Allow", "*", "");
    let allowed = shared(&[], &[("user:alice", &[], &allow)]);
    let own = statement(r#""Effect":"Deny","Principal":"*","Action":"*""#);
    assert_eq!(ask_of(&allowed, Some(&own), READ, Caller::new(1000, 1)).0, DENIED);
    // What cannot be known of a caller is what a Deny counts on.
    let group = shared(&[], &[("group:ops", &[], &deny)]);
    let open = statement(r#""Effect":"Allow","Principal":"*","Action":"*""#);
    assert_eq!(
        ask_of(&group, Some(&open), READ, Caller::new(5, 1).opaque()).0,
        Verdict::No(Reason::NoPid, Layer::Identity, Some(0))
    );
}

#[test]
fn an_identity_policy_names_its_secrets() {
    let allow = document(
        r#"{"Effect":"Allow","Action":"secretsmanager:GetSecretValue","Resource":["arn:aws:secretsmanager:*:*:secret:app/*","arn:aws:secretsmanager:*:*:secret:x"]}"#,
    );
    let mine = shared(&[], &[("user:alice", &[], &allow)]);
    assert!(matches!(
        ask_of(&mine, None, READ, Caller::new(1000, 1)).0,
        Verdict::Yes(..)
    ));
    let other = allow.replace("app/*", "web/*");
    let none = shared(&[], &[("user:alice", &[], &other)]);
    assert_eq!(ask_of(&none, None, READ, Caller::new(1000, 1)).0, NOTHING);
}

/// Attribute-based access: whoever has the tag of the secret.
#[test]
fn tags_of_identities_are_the_callers_tags() {
    let empty = document("");
    let identities = shared(
        &[],
        &[
            ("user:alice", &[("team", "db")], &empty),
            ("group:ops", &[("team", "web")], &empty),
            ("unit:app.service", &[("team", "a*")], &empty),
        ],
    );
    let name = secret();
    let policy = compiled(&when(
        "Allow",
        r#"{"StringEquals":{"aws:PrincipalTag/Team":"${secretsmanager:ResourceTag/team}"}}"#,
    ));
    let layers = Layers {
        administration: &ADMINISTRATION,
        shared: &identities,
        secret: Some(&policy),
    };
    for (tag, caller, yes) in [
        ("db", Caller::new(1000, 1), true),
        ("web", Caller::new(1000, 1), false),
        ("web", Caller::new(1000, 100), true),
        ("db", Caller::new(1001, 1), false),
        ("app", Caller::new(5, 1).unit("app.service"), false),
        ("a*", Caller::new(5, 1).unit("app.service"), true),
    ] {
        let tags = BTreeMap::from([("team".to_string(), tag.to_string())]);
        let request = Request {
            tags: &tags,
            ..Request::new(READ, Purpose::Read, SecretId(7), &name)
        };
        let found = verdict(&layers, &request, &mut caller.clone());
        assert_eq!(found == ALLOWED, yes, "{tag} {caller:?}");
    }
}

#[test]
fn their_grammar_is_held_apart() {
    let with = plain("Deny", "*", r#","Principal":{"User":"bob"}"#);
    let who = "user:alice".parse().unwrap();
    let error = IdentityRecord::resolve(&who, BTreeMap::new(), &with, &map(), &Book).unwrap_err();
    assert!(error.message.contains("names no principal"), "{error}");
    assert!(GuardrailRecord::resolve("g", &with, &map(), &Book).is_ok());
    let without = plain("Deny", "*", "");
    assert!(
        resolve(&without)
            .unwrap_err()
            .message
            .contains("no \"Principal\"")
    );
    let unknown: Attached = "user:alicia".parse().unwrap();
    let error = IdentityRecord::resolve(&unknown, BTreeMap::new(), &without, &map(), &Book).unwrap_err();
    assert_eq!(error.suggestion.as_deref(), Some("did you mean \"alice\"?"));
    for bad in ["alice", "arn:aws:iam::1:role/*", "user:", "uid:-1"] {
        assert!(bad.parse::<Attached>().is_err(), "{bad}");
    }
    let dynamic: Attached = "uid:61200".parse().unwrap();
    assert!(IdentityRecord::resolve(&dynamic, BTreeMap::new(), &without, &map(), &Book).is_err());
}

/// AWS's two prefixes are two worlds: `secretsmanager:*` means no guardrail, `wardfs:*` no secret.
#[test]
fn prefixes_of_actions_do_not_mix() {
    for (pattern, secret, layer) in [
        ("*", true, true),
        ("secretsmanager:*", true, false),
        ("wardfs:*", false, true),
        ("wardfs:PutGuardrail", false, true),
        ("secretsmanager:Put*", true, false),
    ] {
        let deny = plain("Deny", pattern, "");
        let shared = shared(&[&deny], &[]);
        let denied = |action| {
            matches!(
                ask_of(&shared, None, action, Caller::new(0, 0)).0,
                Verdict::No(Reason::ExplicitDeny, ..)
            )
        };
        assert_eq!(
            (denied(Action::PutSecretValue), denied(Action::PutGuardrail)),
            (secret, layer),
            "{pattern}"
        );
    }
    for bad in ["secretsmanager:PutGuardrail", "wardfs:GetSecretValue"] {
        assert!(bad.parse::<Action>().is_err(), "{bad}");
        assert!(
            GuardrailRecord::resolve("g", &plain("Deny", bad, ""), &map(), &Book).is_err(),
            "{bad}"
        );
    }
}
