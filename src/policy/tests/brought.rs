//! Guardrails and identity policies that were brought along from AWS, and so speak of other services.

use std::collections::BTreeMap;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum As {
    Guardrail,
    Identity,
}
use As::{Guardrail, Identity};

type Resolved = (Vec<GuardrailRecord>, Vec<IdentityRecord>, Vec<Warning>);

fn resolve_as(layer: As, text: &str) -> Result<Resolved, PolicyError> {
    Ok(match layer {
        Guardrail => {
            let (record, warnings) = GuardrailRecord::resolve("g", text, &map(), &Book)?;
            (vec![record], Vec::new(), warnings)
        }
        Identity => {
            let alice = "user:alice".parse().unwrap();
            let (record, warnings) = IdentityRecord::resolve(&alice, BTreeMap::new(), text, &map(), &Book)?;
            (Vec::new(), vec![record], warnings)
        }
    })
}

#[track_caller]
fn resolved(layer: As, text: &str) -> Resolved {
    resolve_as(layer, text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn warnings(layer: As, text: &str) -> Vec<(String, Concern)> {
    let (_, _, warnings) = resolved(layer, text);
    warnings.into_iter().map(|w| (w.message, w.concern)).collect()
}

#[track_caller]
fn refused_as(layer: As, text: &str) -> PolicyError {
    match resolve_as(layer, text) {
        Err(e) => e,
        Ok(_) => panic!("accepted: {text}"),
    }
}

/// Alice's request, with this document beside `own`, the secret's policy.
fn ask_with(layer: As, text: &str, own: Option<&str>, action: Action) -> Verdict {
    let (guardrails, identities, _) = resolved(layer, text);
    let shared = Shared::compile(&guardrails, &identities).unwrap();
    let name = secret();
    let own = own.map(compiled);
    let layers = Layers {
        administration: &ADMINISTRATION,
        shared: &shared,
        secret: own.as_ref(),
    };
    let request = Request::new(action, Purpose::of(action), SecretId(7), &name);
    verdict(&layers, &request, &mut Caller::new(1000, 1000))
}

/// Whether alice reads: under a guardrail by the secret's own policy, else by the identity policy alone.
fn reads(layer: As, text: &str) -> bool {
    let own = statement(r#""Effect":"Allow","Principal":"*","Action":"secretsmanager:*""#);
    let own = (layer == Guardrail).then_some(own);
    let verdict = ask_with(layer, text, own.as_deref(), Action::GetSecretValue);
    matches!(verdict, Verdict::Yes(..))
}

fn one(fields: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{{{fields}}}]}}"#)
}

/// AWS's own examples: the layer, whether alice reads under or by it, and which warnings matter.
const SAMPLES: [(&str, &str, As, bool, &[&str]); 18] = [
    // Nobody here comes from a region: the Deny hits everybody, and it is said.
    ("region", include_str!("aws/region.json"), Guardrail, false, &[]),
    (
        "region-identity",
        include_str!("aws/region-identity.json"),
        Guardrail,
        false,
        &[
            r#"the Deny statement "DenyAllOutsideRequestedRegions" denies everything to everybody: what it makes an exception for is not here (cloudfront:*, iam:*, route53:* and 2 more)"#,
        ],
    ),
    (
        "region-identity",
        include_str!("aws/region-identity.json"),
        Identity,
        false,
        &[],
    ),
    (
        "source-ip",
        include_str!("aws/source-ip.json"),
        Guardrail,
        true,
        &[r#"the Deny statement #1 denies nothing here: it asks for aws:ViaAWSService"#],
    ),
    ("s3-home", include_str!("aws/s3-home.json"), Identity, false, &[]),
    ("cognito", include_str!("aws/cognito.json"), Identity, false, &[]),
    (
        "leading-keys",
        include_str!("aws/leading-keys.json"),
        Identity,
        false,
        &[],
    ),
    (
        "read-with-key",
        include_str!("aws/read-with-key.json"),
        Identity,
        true,
        &[],
    ),
    (
        "full-access",
        include_str!("aws/full-access.json"),
        Guardrail,
        true,
        &[],
    ),
    (
        "allow-list",
        include_str!("aws/allow-list.json"),
        Guardrail,
        false,
        &[
            "the guardrail denies everything to everybody: it has Allow statements, and none that can match here allows it",
        ],
    ),
    (
        "root-user",
        include_str!("aws/root-user.json"),
        Guardrail,
        true,
        &[r#"the Deny statement "RestrictEC2ForRoot" denies nothing here: it asks for ec2:*"#],
    ),
    // As in AWS without that key, for BoolIfExists.
    (
        "force-mfa",
        include_str!("aws/force-mfa.json"),
        Identity,
        false,
        &[],
    ),
    (
        "boundary",
        include_str!("aws/boundary.json"),
        Identity,
        false,
        &[
            r#"the Deny statement "NoBoundaryPolicyEdit" denies nothing here: it asks for iam:CreatePolicyVersion, iam:DeletePolicy, iam:DeletePolicyVersion and 2 more"#,
            r#"the Deny statement "NoBoundaryUserDelete" denies nothing here: it asks for iam:DeleteUserPermissionsBoundary"#,
        ],
    ),
    (
        "rotation-function",
        include_str!("aws/rotation-function.json"),
        Identity,
        false,
        &[],
    ),
    (
        "read-write",
        include_str!("aws/read-write.json"),
        Identity,
        true,
        &[],
    ),
    (
        "network-perimeter",
        include_str!("aws/network-perimeter.json"),
        Guardrail,
        false,
        &[],
    ),
    (
        "web-identity",
        include_str!("aws/web-identity.json"),
        Identity,
        false,
        &[
            r#"the Deny statement "NeverFromPullRequests" denies nothing here: it asks for token.actions.githubusercontent.com:sub"#,
        ],
    ),
    (
        "ec2-owner",
        include_str!("aws/ec2-owner.json"),
        Identity,
        true,
        &[],
    ),
];

#[test]
fn the_examples_of_aws_are_accepted_as_they_are() {
    for (name, text, layer, read, said) in SAMPLES {
        assert_eq!(reads(layer, text), read, "{name}");
        let warnings = warnings(layer, text);
        let about_a_statement = |m: &str| m.starts_with("the Deny ") || m.starts_with("the guardrail ");
        let found: Vec<&str> = warnings
            .iter()
            .map(|w| w.0.as_str())
            .filter(|m| about_a_statement(m))
            .collect();
        assert_eq!(found, said, "{name}");
        // Every action and every key of another service is one warning, there where it stands.
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        let statements = match &document["Statement"] {
            serde_json::Value::Array(all) => all.clone(),
            one => vec![one.clone()],
        };
        let listed = |v: &serde_json::Value| match v {
            serde_json::Value::Array(all) => all.iter().map(|v| v.as_str().unwrap().to_string()).collect(),
            serde_json::Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        };
        let actions = statements
            .iter()
            .flat_map(|s| [listed(&s["Action"]), listed(&s["NotAction"])].concat());
        let other =
            actions.filter(|a| !["*", "secretsmanager", "kms"].contains(&a.split(':').next().unwrap()));
        let told = warnings.iter().filter(|w| w.0.contains("is of another service"));
        assert_eq!(told.count(), other.count(), "{name}: {warnings:?}");
        let conditions = statements.iter().filter_map(|s| s["Condition"].as_object());
        let keys: Vec<&String> = conditions
            .flat_map(|c| c.values())
            .flat_map(|keys| keys.as_object().unwrap().keys())
            .filter(|k| !k.to_lowercase().starts_with("aws:principalarn") && !k.contains("Tag/network"))
            .collect();
        let told = warnings
            .iter()
            .filter(|w| w.0.contains("no caller on this machine has") && w.0.contains("condition"));
        assert_eq!(told.count(), keys.len(), "{name}: {warnings:?}");
    }
}

#[test]
fn a_guardrail_that_denies_everybody_for_it_says_so() {
    let everybody = |text: &str| {
        let warnings = warnings(Guardrail, text);
        let told = warnings
            .iter()
            .any(|(m, c)| m.contains(" to everybody:") && *c == Concern::Lockout);
        assert_eq!(told, !reads(Guardrail, text), "{text}: {warnings:?}");
        told
    };
    for (fields, told) in [
        (
            r#""Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringNotEquals":{"s3:prefix":"x"}}"#,
            true,
        ),
        (
            r#""Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringEquals":{"s3:prefix":"x"}}"#,
            false,
        ),
        (
            r#""Effect":"Deny","Action":"*","Resource":"*","Condition":{"Null":{"idp.example.com:sub":"true"}}"#,
            true,
        ),
        (
            r#""Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringNotEquals":{"aws:SourceVpce":"x"}}"#,
            true,
        ),
        (
            r#""Effect":"Deny","NotAction":["s3:*","ec2:*"],"Resource":"*""#,
            true,
        ),
        (
            r#""Effect":"Deny","NotAction":["s3:*","secretsmanager:*"],"Resource":"*","Condition":{"StringEquals":{"s3:prefix":"x"}}"#,
            false,
        ),
        (
            r#""Effect":"Deny","Action":"*","NotResource":"arn:aws:s3:::bucket/*""#,
            true,
        ),
        (r#""Effect":"Deny","Action":"s3:*","Resource":"*""#, false),
        (
            r#""Effect":"Deny","Action":"*","Resource":"arn:aws:secretsmanager:*:*:secret:app/${saml:sub}""#,
            true,
        ),
        (
            r#""Effect":"Deny","Action":"*","Resource":"arn:aws:secretsmanager:*:*:secret:app/${saml:sub, 'x'}""#,
            false,
        ),
        (
            r#""Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringEquals":{"wardfs:Unit":"${saml:sub}"}}"#,
            true,
        ),
        (
            r#""Effect":"Allow","Action":["s3:*","ec2:*"],"Resource":"*""#,
            true,
        ),
        (
            r#""Effect":"Allow","Action":["s3:*","secretsmanager:*"],"Resource":"*""#,
            false,
        ),
        (
            r#""Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket""#,
            true,
        ),
        (
            r#""Effect":"Allow","Action":"*","NotResource":"arn:aws:s3:::bucket""#,
            false,
        ),
        (
            r#""Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"s3:prefix":"x"}}"#,
            true,
        ),
        (
            r#""Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"wardfs:Uid":"${saml:sub}"}}"#,
            true,
        ),
    ] {
        assert_eq!(everybody(&one(fields)), told, "{fields}");
    }
    // One that denies by what it asks of the caller is no such thing.
    let some = one(
        r#""Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringNotEquals":{"s3:prefix":"x","wardfs:Uid":"1000"}}"#,
    );
    assert!(!everybody(&some));
    // What one Allow loses, another may keep.
    let both = |second: &str| {
        format!(
            r#"{{"Statement":[{{"Effect":"Allow","Action":"*","Resource":"*","Condition":{{"StringEquals":{{"s3:prefix":"x"}}}}}},
              {{"Effect":"Allow","Action":"{second}","Resource":"*"}}]}}"#
        )
    };
    assert!(!everybody(&both("*")));
    assert!(!reads(Guardrail, &both("secretsmanager:DescribeSecret")));
    let told = warnings(Guardrail, &both("secretsmanager:DescribeSecret"));
    assert!(
        told.iter()
            .any(|w| w.0.contains("denies secretsmanager:GetSecretValue")),
        "{told:?}"
    );
}

#[test]
fn a_foreign_key_is_one_that_the_request_lacks() {
    for (condition, holds) in [
        (r#"{"StringEquals":{"s3:prefix":"x"}}"#, false),
        (r#"{"StringNotEquals":{"s3:prefix":"x"}}"#, true),
        (r#"{"StringEqualsIfExists":{"s3:prefix":"x"}}"#, true),
        (r#"{"StringNotLikeIfExists":{"s3:prefix":"x"}}"#, true),
        (
            r#"{"StringLike":{"s3:prefix":["","home/${aws:username}/*"]}}"#,
            false,
        ),
        (r#"{"StringLike":{"s3:prefix":"home/${saml:sub}/*"}}"#, false),
        (r#"{"StringNotLike":{"s3:prefix":"home/${saml:sub}/*"}}"#, true),
        (r#"{"NumericLessThan":{"s3:max-keys":"10"}}"#, false),
        (r#"{"NumericNotEquals":{"s3:max-keys":"10"}}"#, true),
        (
            r#"{"DateLessThan":{"s3:object-lock-retain-until-date":"2030-01-01T00:00:00Z"}}"#,
            false,
        ),
        (r#"{"Bool":{"iam:x":"false"}}"#, false),
        (
            r#"{"ArnNotEquals":{"ecs:cluster":"arn:aws:ecs:*:*:cluster/a"}}"#,
            true,
        ),
        (r#"{"IpAddress":{"vpc:ip":"10.0.0.0/8"}}"#, false),
        (r#"{"NotIpAddress":{"vpc:ip":"10.0.0.0/8"}}"#, true),
        (r#"{"Null":{"idp.example.com:sub":"true"}}"#, true),
        (r#"{"Null":{"idp.example.com:sub":"false"}}"#, false),
        (r#"{"Null":{"idp.example.com:sub":["true","false"]}}"#, true),
        (
            r#"{"ForAllValues:StringEquals":{"dynamodb:LeadingKeys":"x"}}"#,
            true,
        ),
        (
            r#"{"ForAllValues:StringNotEquals":{"dynamodb:LeadingKeys":"x"}}"#,
            true,
        ),
        (
            r#"{"ForAnyValue:StringEquals":{"dynamodb:LeadingKeys":"x"}}"#,
            false,
        ),
        (
            r#"{"ForAnyValue:StringNotEquals":{"dynamodb:LeadingKeys":"x"}}"#,
            false,
        ),
        (r#"{"StringEquals":{"kms:ViaService":"x"}}"#, false),
        (
            r#"{"StringNotEquals":{"kms:EncryptionContext:SecretARN":"x"}}"#,
            true,
        ),
        (r#"{"StringEquals":{"ec2:ResourceTag/Owner":"x"}}"#, false),
        (
            r#"{"StringNotEquals":{"oidc.eks.eu-west-1.amazonaws.com/id/ABC:sub":"x"}}"#,
            true,
        ),
    ] {
        for layer in [Guardrail, Identity] {
            let allow = one(&format!(
                r#""Effect":"Allow","Action":"*","Resource":"*","Condition":{condition}"#
            ));
            assert_eq!(reads(layer, &allow), holds, "{condition}");
            let told = warnings(layer, &allow);
            let of_key = told
                .iter()
                .filter(|w| w.0.starts_with("no caller on this machine has "));
            assert_eq!(of_key.count(), 1, "{told:?}");
            assert_eq!(
                told.len(),
                if layer == Guardrail && !holds { 2 } else { 1 },
                "{told:?}"
            );
        }
        let deny = one(&format!(
            r#""Effect":"Deny","Sid":"S","Action":"*","Resource":"*","Condition":{condition}"#
        ));
        assert_eq!(reads(Guardrail, &deny), !holds, "{condition}");
        let told = warnings(Guardrail, &deny);
        let dead = told.iter().any(|w| {
            w.0.starts_with(r#"the Deny statement "S" denies nothing here: it asks for "#)
        });
        assert_eq!(dead, !holds, "{condition}: {told:?}");
        // It is the answer of the simulation too.
        let scenario = |guardrail: &str| Scenario {
            policy: Some(statement(r#""Effect":"Allow","Principal":"*","Action":"*""#)),
            guardrails: vec![guardrail.to_string()],
            principal: Some("user:alice".parse().unwrap()),
            resource: "app/db".into(),
            ..Scenario::default()
        };
        let decision = simulate(&scenario(&deny), &Book).unwrap().decision;
        assert_eq!(decision == Answer::ExplicitDeny, holds, "{condition}");
    }
}

#[test]
fn a_simulation_may_give_a_foreign_key() {
    let guardrail = one(
        r#""Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringLike":{"s3:prefix":"home/*"}}"#,
    );
    for (context, denied) in [
        (&[][..], false),
        (&[("s3:prefix", "home/alice")], true),
        (&[("S3:Prefix", "home/alice")], true),
        (&[("s3:prefix", "work")], false),
    ] {
        let scenario = Scenario {
            policy: Some(statement(r#""Effect":"Allow","Principal":"*","Action":"*""#)),
            guardrails: vec![guardrail.clone()],
            principal: Some("user:alice".parse().unwrap()),
            resource: "app/db".into(),
            context: context
                .iter()
                .map(|(k, v)| (k.to_string(), vec![v.to_string()]))
                .collect(),
            ..Scenario::default()
        };
        let decision = simulate(&scenario, &Book).unwrap().decision;
        assert_eq!(decision == Answer::ExplicitDeny, denied, "{context:?}");
    }
}

#[test]
fn foreign_actions_match_nothing_and_except_nothing() {
    for (action, read) in [
        (
            r#""Action":["s3:GetObject","secretsmanager:GetSecretValue"]"#,
            true,
        ),
        (r#""Action":["S3:GetObject","SecretsManager:Get*"]"#, true),
        (r#""Action":"s3:*""#, false),
        (r#""NotAction":"s3:*""#, true),
        (r#""NotAction":["s3:*","secretsmanager:Get*"]"#, false),
        (r#""Action":"*""#, true),
        (r#""Action":"secretsmanager:*""#, true),
        (r#""Action":["kms:Decrypt","kms:GenerateDataKey*"]"#, false),
        (r#""NotAction":"kms:*""#, true),
    ] {
        let text = one(&format!(r#""Effect":"Allow",{action},"Resource":"*""#));
        assert_eq!(reads(Identity, &text), read, "{action}");
        let deny = one(&format!(r#""Effect":"Deny",{action},"Resource":"*""#));
        assert_eq!(reads(Guardrail, &deny), !read, "{action}");
    }
}

#[test]
fn resources_of_other_services_match_no_secret() {
    let bucket = "arn:aws:s3:::bucket/*";
    let own = "arn:aws:secretsmanager:*:*:secret:app/*";
    for (resource, read) in [
        (format!(r#""Resource":"{bucket}""#), false),
        (format!(r#""Resource":["{bucket}","{own}"]"#), true),
        (format!(r#""NotResource":"{bucket}""#), true),
        (format!(r#""NotResource":["{bucket}","{own}"]"#), false),
        (
            format!(r#""Resource":["arn:aws:s3:::b/${{saml:sub}}/*","{own}"]"#),
            true,
        ),
        (r#""Resource":"arn:aws:s3:::b/${saml:sub}/*""#.to_string(), false),
        (r#""Resource":"arn:aws:kms:*:*:key/*""#.to_string(), false),
    ] {
        let text = one(&format!(r#""Effect":"Allow","Action":"*",{resource}"#));
        assert_eq!(reads(Identity, &text), read, "{resource}");
        let deny = one(&format!(r#""Effect":"Deny","Action":"*",{resource}"#));
        assert_eq!(reads(Guardrail, &deny), !read, "{resource}");
    }
    let deny = one(&format!(
        r#""Sid":"Bucket","Effect":"Deny","Action":"*","Resource":"{bucket}""#
    ));
    assert_eq!(
        warnings(Guardrail, &deny),
        [(
            format!(r#"the Deny statement "Bucket" denies nothing here: it asks for {bucket}"#),
            Concern::Foreign
        )]
    );
    for bad in [
        "arn:aws:secretmanager:*:*:secret:app/*",
        "arn:aws:secretsmanagers:*:*:secret:app/*",
        "arn:aws:s3:bucket",
        "arn:aws:s3:::",
        "s3:::bucket",
        "arn:aws:secretsmanager:*:*:policy/x",
        "arn:aws:s3:::b/${saml:sub",
    ] {
        refused_as(
            Identity,
            &one(&format!(r#""Effect":"Allow","Action":"*","Resource":"{bad}""#)),
        );
    }
}

#[test]
fn a_prefix_one_edit_from_ours_is_misspelt() {
    for (action, suggestion) in [
        ("secretmanager:GetSecretValue", "secretsmanager:GetSecretValue"),
        ("secretsmanger:*", "secretsmanager:*"),
        ("SecretManager:getsecretvalue", "secretsmanager:getsecretvalue"),
        ("secretsmanagre:GetSecretValu", "secretsmanager:GetSecretValue"),
        ("wardf:PutGuardrail", "wardfs:PutGuardrail"),
        ("wradfs:PutGuardrail", "wardfs:PutGuardrail"),
        ("kmz:Decrypt", "kms:Decrypt"),
        ("km:Decrypt", "kms:Decrypt"),
        ("kmss:Decryp", "kms:Decrypt"),
        ("kms:Decryp", "kms:Decrypt"),
        ("dms:Decrypt", "kms:Decrypt"),
        ("awss:GetSecretValue", "secretsmanager:GetSecretValue"),
        ("secretsmanager:GetSecretVale", "secretsmanager:GetSecretValue"),
        ("GetSecretValue", "secretsmanager:GetSecretValue"),
    ] {
        for layer in [Guardrail, Identity] {
            let e = refused_as(
                layer,
                &one(&format!(
                    r#""Effect":"Deny","Action":["s3:*","{action}"],"Resource":"*""#
                )),
            );
            let meant = format!("did you mean \"{suggestion}\"?");
            assert_eq!(e.suggestion, Some(meant), "{action}: {e}");
        }
    }
    for (key, suggestion) in [
        ("awz:SourceVpce", "aws:SourceVpce"),
        ("aw:PrincipalTag/team", "aws:PrincipalTag/team"),
        (
            "secretmanager:ResourceTag/team",
            "secretsmanager:ResourceTag/team",
        ),
        ("ward:Uid", ""),
        ("wardf:Uid", "wardfs:Uid"),
        ("wardfs:Uidd", "wardfs:Uid"),
        ("aws:SourceVpcee", "aws:SourceVpce"),
        ("kmz:ViaService", "kms:ViaService"),
    ] {
        let text = one(&format!(
            r#""Effect":"Deny","Action":"*","Resource":"*","Condition":{{"StringEquals":{{"{key}":"1"}}}}"#
        ));
        match suggestion {
            "" => drop(resolved(Guardrail, &text)),
            _ => {
                let meant = format!("did you mean \"{suggestion}\"?");
                assert_eq!(refused_as(Guardrail, &text).suggestion, Some(meant), "{key}");
            }
        }
    }
    // A letter more, less, other or in another place, wherever it is.
    for ours in ["secretsmanager", "kms", "wardfs", "aws"] {
        let chars: Vec<char> = ours.chars().collect();
        for i in 0..chars.len() {
            let mut less = chars.clone();
            less.remove(i);
            let mut other = chars.clone();
            other[i] = 'q';
            let mut more = chars.clone();
            more.insert(i, 'q');
            let mut swapped = chars.clone();
            swapped.swap(i, (i + 1).min(chars.len() - 1));
            for prefix in [less, other, more, swapped].map(String::from_iter) {
                if prefix != ours {
                    let action = one(&format!(
                        r#""Effect":"Deny","Action":"{prefix}:Foo","Resource":"*""#
                    ));
                    let e = refused_as(Identity, &action);
                    assert!(
                        e.message.contains(&format!("misspelt \"{ours}:\"")),
                        "{prefix}: {e}"
                    );
                    let key = one(&format!(
                        r#""Effect":"Deny","Action":"*","Resource":"*","Condition":{{"Null":{{"{prefix}:Foo":"true"}}}}"#
                    ));
                    refused_as(Identity, &key);
                }
            }
        }
    }
}

#[test]
fn what_is_no_action_and_no_key_stays_an_error() {
    for action in [
        "s3",
        "s3:",
        ":GetObject",
        "s3:Get Object",
        "s*:GetObject",
        "*:*",
        "s3:Get-Object",
        "aws:GetObject",
        "a.b:Get",
    ] {
        refused_as(
            Identity,
            &one(&format!(r#""Effect":"Allow","Action":"{action}","Resource":"*""#)),
        );
    }
    for key in [
        "prefix",
        "s3:",
        ":prefix",
        "s3:a b",
        "s*:prefix",
        "ForAnyValue:aws:TagKeys",
        "forallvalues:s3:prefix",
        "",
    ] {
        refused_as(
            Identity,
            &one(&format!(
                r#""Effect":"Allow","Action":"*","Resource":"*","Condition":{{"StringEquals":{{"{key}":"x"}}}}"#
            )),
        );
    }
    for values in [
        r#"{"NumericEquals":{"s3:max-keys":"ten"}}"#,
        r#"{"Strings":{"s3:prefix":"x"}}"#,
        r#"{"StringEquals":{"s3:prefix":"${aws:usernam}"}}"#,
    ] {
        refused_as(
            Identity,
            &one(&format!(
                r#""Effect":"Allow","Action":"*","Resource":"*","Condition":{values}"#
            )),
        );
    }
}

#[test]
fn a_secrets_own_policy_speaks_of_nothing_else() {
    for fields in [
        r#""Effect":"Allow","Principal":"*","Action":["secretsmanager:GetSecretValue","s3:GetObject"]"#,
        r#""Effect":"Allow","Principal":"*","Action":"kms:Decrypt""#,
        r#""Effect":"Allow","Principal":"*","NotAction":"s3:*""#,
        r#""Effect":"Allow","Principal":"*","Action":"*","Condition":{"StringEquals":{"s3:prefix":"x"}}"#,
        r#""Effect":"Allow","Principal":"*","Action":"*","Condition":{"StringEquals":{"idp.example.com:sub":"x"}}"#,
        r#""Effect":"Allow","Principal":"*","Action":"*","Condition":{"StringEquals":{"wardfs:Unit":"${saml:sub}"}}"#,
    ] {
        refused(&statement(fields));
    }
    for resource in [
        "arn:aws:s3:::bucket/*",
        "arn:aws:secretsmanager:*:*:secret:${saml:sub}",
    ] {
        refused(&format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":"*","Resource":"{resource}"}}]}}"#
        ));
    }
    let e = refused(&statement(
        r#""Effect":"Allow","Principal":"*","Action":"secretmanager:GetSecretValue""#,
    ));
    assert_eq!(
        e.suggestion.as_deref(),
        Some("did you mean \"secretsmanager:GetSecretValue\"?")
    );
}

#[test]
fn actions_of_keys_are_kept_and_listed_once() {
    let text = r#"{"Statement":[
        {"Effect":"Allow","Action":["secretsmanager:GetSecretValue","kms:Decrypt"],"Resource":"*"},
        {"Sid":"Keys","Effect":"Deny","Action":["kms:Decrypt","kms:ScheduleKeyDeletion"],"Resource":"*"}]}"#;
    assert_eq!(
        warnings(Identity, text),
        [
            (
                "actions of keys are kept, and come into force with keys; until then they match nothing: kms:Decrypt, kms:ScheduleKeyDeletion".to_string(),
                Concern::Odd
            ),
            (
                r#"the Deny statement "Keys" denies nothing here: it asks for kms:Decrypt, kms:ScheduleKeyDeletion"#.to_string(),
                Concern::Odd
            ),
        ]
    );
    let (_, identities, _) = resolved(Identity, text);
    assert_eq!(identities[0].policy.text, text);
    let document = identities[0].policy.document().unwrap();
    assert_eq!(
        document.statements[1].action.items[1].value,
        "kms:ScheduleKeyDeletion"
    );
    assert!(document.to_json_pretty().contains("kms:ScheduleKeyDeletion"));
}

#[test]
fn warnings_stand_where_what_they_are_about_does() {
    let text = "{\"Statement\":[{\"Effect\":\"Deny\",\n \"Action\":[\"s3:GetObject\",\n  \"ec2:*\"],\"Resource\":\"*\",\n \"Condition\":{\"StringEquals\":{\"s3:prefix\":\"x\"}}}]}";
    let (_, _, warnings) = resolved(Guardrail, text);
    let places: Vec<(usize, usize, &str, Concern)> = warnings
        .iter()
        .map(|w| (w.line, w.column, w.message.as_str(), w.concern))
        .collect();
    use Concern::Foreign;
    assert_eq!(
        places,
        [
            (
                1,
                15,
                "the Deny statement #1 denies nothing here: it asks for s3:GetObject, ec2:*, s3:prefix",
                Foreign
            ),
            (
                2,
                12,
                "\"s3:GetObject\" is of another service: it matches nothing here",
                Foreign
            ),
            (
                3,
                3,
                "\"ec2:*\" is of another service: it matches nothing here",
                Foreign
            ),
            (
                4,
                43,
                "no caller on this machine has s3:prefix: the condition never holds",
                Foreign
            ),
        ]
    );
}

#[test]
fn keys_of_aws_at_large_are_warned_of_as_ever() {
    let text = one(
        r#""Sid":"Tls","Effect":"Deny","Action":"*","Resource":"*","Condition":{"Bool":{"aws:SecureTransport":"false"}}"#,
    );
    assert_eq!(
        warnings(Guardrail, &text),
        [
            (
                r#"the Deny statement "Tls" denies nothing here: it asks for aws:SecureTransport"#
                    .to_string(),
                Concern::Odd
            ),
            (
                "no caller on this machine has aws:SecureTransport: the condition never holds".to_string(),
                Concern::Odd
            ),
        ]
    );
}
