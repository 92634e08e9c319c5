//! What is refused, where the error points, and what it suggests.

use super::refused as error;
use super::*;

/// (a statement's fields but the resource, part of the message, part of the suggestion)
const REFUSED: &[(&str, &str, &str)] = &[
    // Fields.
    (
        r#""Effect":"Allow","Principal":"*","Action":"*","Actions":"*""#,
        "no field",
        "Action",
    ),
    (
        r#""effect":"Allow","Principal":"*","Action":"*""#,
        "no field",
        "Effect",
    ),
    (
        r#""Effect":"Allow","Effect":"Deny","Principal":"*","Action":"*""#,
        "twice",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":"*","\u0041ction":"*""#,
        "twice",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":"*","Resource":"*""#,
        "twice",
        "",
    ),
    (
        r#""Effect":"allow","Principal":"*","Action":"*""#,
        "no effect",
        "Allow",
    ),
    (r#""Principal":"*","Action":"*""#, "Effect", ""),
    (r#""Effect":"Allow","Action":"*""#, "Principal", ""),
    (r#""Effect":"Allow","Principal":"*""#, "Action", ""),
    (
        r#""Effect":"Allow","Principal":"*","Action":"*","NotAction":"*""#,
        "not both",
        "",
    ),
    (
        r#""Effect":"Deny","Principal":"*","NotPrincipal":{"User":"bob"},"Action":"*""#,
        "not both",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":"*","NotResource":"*""#,
        "not both",
        "",
    ),
    (
        r#""Effect":"Allow","NotPrincipal":{"User":"bob"},"Action":"*""#,
        "everybody else",
        "",
    ),
    (r#""Effect":"Deny","NotPrincipal":"*","Action":"*""#, "nobody", ""),
    (
        r##""Sid":"#2","Effect":"Allow","Principal":"*","Action":"*""##,
        "Sid",
        "",
    ),
    (
        r#""Sid":"a\u001b[2J","Effect":"Allow","Principal":"*","Action":"*""#,
        "Sid",
        "",
    ),
    // Principals.
    (
        r#""Effect":"Allow","Principal":"user:bob","Action":"*""#,
        "plain string",
        r#"{"User": "bob"}"#,
    ),
    (
        r#""Effect":"Allow","Principal":"**","Action":"*""#,
        "plain string",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":[],"Action":"*""#,
        "expected an object",
        "",
    ),
    (r#""Effect":"Allow","Principal":{},"Action":"*""#, "nobody", ""),
    (
        r#""Effect":"Allow","Principal":{"User":[]},"Action":"*""#,
        "empty array",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":[["bob"]]},"Action":"*""#,
        "expected a string",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":null},"Action":"*""#,
        "expected",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":7},"Action":"*""#,
        "expected a string",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"user":"bob"},"Action":"*""#,
        "no field",
        "User",
    ),
    (
        r#""Effect":"Allow","Principal":{"Federated":"x"},"Action":"*""#,
        "no field",
        "AWS",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":"*"},"Action":"*""#,
        "wildcard",
        "aws:username",
    ),
    (
        r#""Effect":"Allow","Principal":{"Unit":"app@*.service"},"Action":"*""#,
        "wildcard",
        "wardfs:Unit",
    ),
    (
        r#""Effect":"Allow","Principal":{"AWS":"arn:aws:iam::1:role/*"},"Action":"*""#,
        "wildcard",
        "ArnLike",
    ),
    (
        r#""Effect":"Allow","Principal":{"AWS":"bob"},"Action":"*""#,
        "neither",
        "User",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":"bbo"},"Action":"*""#,
        "no user",
        "bob",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":"ww-data"},"Action":"*""#,
        "no user",
        "www-data",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":"аlice"},"Action":"*""#,
        "no user",
        "alice",
    ), // Cyrillic а
    (
        r#""Effect":"Allow","Principal":{"User":"alice\u200b"},"Action":"*""#,
        "no user",
        "alice",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":"alice\u0000"},"Action":"*""#,
        "not allowed",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":"ALICE"},"Action":"*""#,
        "no user",
        "alice",
    ),
    (
        r#""Effect":"Allow","Principal":{"Group":"bakcup"},"Action":"*""#,
        "no group",
        "backup",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":"33"},"Action":"*""#,
        "number",
        r#"{"Uid": "33"}"#,
    ),
    (
        r#""Effect":"Allow","Principal":{"Uid":"033"},"Action":"*""#,
        "decimal",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"Uid":-1},"Action":"*""#,
        "decimal",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"Uid":3e1},"Action":"*""#,
        "decimal",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"Uid":4294967295},"Action":"*""#,
        "decimal",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"Uid":4294967329},"Action":"*""#,
        "decimal",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"Unit":"app"},"Action":"*""#,
        "full name",
        "app.service",
    ),
    (
        r#""Effect":"Allow","Principal":{"Unit":"../app.service"},"Action":"*""#,
        "not allowed",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"Unit":".service"},"Action":"*""#,
        "full name",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":{"Uid":61184},"Action":"*""#,
        "dynamic",
        "Unit",
    ),
    (
        r#""Effect":"Allow","Principal":{"Gid":"65519"},"Action":"*""#,
        "dynamic",
        "Unit",
    ),
    (
        r#""Effect":"Allow","Principal":{"User":"dyn"},"Action":"*""#,
        "dynamic",
        "Unit",
    ),
    (
        r#""Effect":"Allow","Principal":{"Group":"dyn"},"Action":"*""#,
        "dynamic",
        "Unit",
    ),
    // Actions.
    (
        r#""Effect":"Allow","Principal":"*","Action":"secretsmanager:GetSecretValu""#,
        "no action",
        "GetSecretValue",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":"GetSecretValue""#,
        "no action",
        "secretsmanager:GetSecretValue",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":"kms:Decrypt""#,
        "no action",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":"secretsmanager:Fetch*""#,
        "no action",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":"secrets*:Get*""#,
        "no action",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":[]"#,
        "empty array",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":["*",7]"#,
        "expected a string",
        "",
    ),
    (
        r#""Effect":"Allow","Principal":"*","Action":["*",""]"#,
        "no action",
        "",
    ),
    // Conditions.
    (
        r#""Effect":"Deny","Principal":"*","Action":"*","Condition":[]"#,
        "expected an object",
        "",
    ),
];

const REFUSED_CONDITIONS: &[(&str, &str, &str)] = &[
    (r#"{"StringLike":{"wardfs:Groups":"opps"}}"#, "no group", "ops"),
    (r#"{"StringLike":{"aws:username":"bbo"}}"#, "no user", "bob"),
    (
        r#"{"StringEqual":{"wardfs:Uid":"1"}}"#,
        "no operator",
        "StringEquals",
    ),
    (
        r#"{"stringequals":{"wardfs:Uid":"1"}}"#,
        "no operator",
        "StringEquals",
    ),
    (
        r#"{"StringLkeIfExists":{"wardfs:Unit":"a*"}}"#,
        "no operator",
        "StringLikeIfExists",
    ),
    (
        r#"{"NullIfExists":{"wardfs:Uid":"true"}}"#,
        "no IfExists form",
        "Null",
    ),
    (r#"{"IfExists":{"wardfs:Uid":"true"}}"#, "no operator", ""),
    (
        r#"{"NumericEquals":{"wardfs:Uid":"10abc"}}"#,
        "decimal number",
        "",
    ),
    (
        r#"{"NumericEquals":{"wardfs:Unit":"1"}}"#,
        "compares numbers",
        "StringLike",
    ),
    (
        r#"{"NumericEqual":{"wardfs:Uid":"1"}}"#,
        "no operator",
        "NumericEquals",
    ),
    (
        r#"{"DateLessThan":{"aws:CurrentTime":"yesterday"}}"#,
        "takes a time",
        "",
    ),
    (
        r#"{"NumericLessThan":{"aws:CurrentTime":"1"}}"#,
        "compares numbers",
        "DateGreaterThan",
    ),
    (r#"{"BinaryEquals":{"aws:SourceIp":"%%"}}"#, "base64", ""),
    (r#"{"BinaryEquals":{"wardfs:Unit":"YQ=="}}"#, "compares bytes", ""),
    (r#"{"IpAddress":{"aws:SourceIp":"192.0.2.0/33"}}"#, "a range", ""),
    (
        r#"{"IpAddress":{"wardfs:Uid":"192.0.2.1"}}"#,
        "compares addresses",
        "",
    ),
    (
        r#"{"ForAnyValue:StringEqual":{"wardfs:Groups":"34"}}"#,
        "no operator",
        "ForAnyValue:StringEquals",
    ),
    (
        r#"{"ForAnyValues:StringEquals":{"wardfs:Groups":"34"}}"#,
        "no operator",
        "ForAnyValue:StringEquals",
    ),
    (
        r#"{"ForEach:StringEquals":{"wardfs:Groups":"34"}}"#,
        "no operator",
        "ForAllValues",
    ),
    (
        r#"{"ForAllValues:Null":{"wardfs:Unit":"true"}}"#,
        "no ForAllValues or ForAnyValue form",
        "Null",
    ),
    (
        r#"{"StringEquals":{"aws:PrincipalTag":"x"}}"#,
        "not supported",
        "aws:PrincipalTag/KEY",
    ),
    (
        r#"{"StringEquals":{"aws:PrincipleTag/team":"x"}}"#,
        "not supported",
        "aws:PrincipalTag/team",
    ),
    (
        r#"{"Bool":{"wardfs:NoNewPriv":"true"}}"#,
        "not supported",
        "wardfs:NoNewPrivs",
    ),
    (
        r#"{"StringEquals":{"wardfs:NoNewPrivs":"yes"}}"#,
        "or \"false\"",
        "",
    ),
    (
        r#"{"NumericEquals":{"wardfs:Uid":"${wardfs:Gid}"}}"#,
        "takes no variables",
        "",
    ),
    (
        r#"{"StringEquals":{"wardfs:Unit":"${aws:usernam}.service"}}"#,
        "no key",
        "${aws:username}",
    ),
    (
        r#"{"StringEquals":{"wardfs:Unit":"${aws:username"}}"#,
        "no end",
        "",
    ),
    (
        r#"{"StringEquals":{"wardfs:Unit":"${aws:username, x}"}}"#,
        "single quotes",
        "'default'",
    ),
    (
        r#"{"StringEquals":{"wardfs:Unit":"${wardfs:Groups}"}}"#,
        "several values",
        "",
    ),
    (
        r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::${aws:username}:role/*"}}"#,
        "fifth colon",
        "",
    ),
    (
        r#"{"StringEquals":{"aws:SourceVpcd":"vpce-1"}}"#,
        "not supported",
        "aws:SourceVpc",
    ),
    (
        r#"{"StringEquals":{"aws:PrincipalArm":"x"}}"#,
        "not supported",
        "aws:PrincipalArn",
    ),
    (r#"{"StringEquals":{}}"#, "no key", ""),
    (r#"{"StringEquals":{"wardfs:Uid":[]}}"#, "empty array", ""),
    (r#"{"StringEquals":{"wardfs:Uid":{"a":1}}}"#, "expected", ""),
    (r#"{"StringEquals":{"wardfs:Uid":null}}"#, "expected", ""),
    (
        r#"{"StringEquals":{"wardfs:Uid":"1","wardfs:Uid":"2"}}"#,
        "twice",
        "",
    ),
    (
        r#"{"StringEquals":{"wardfs:Uid":"1","WARDFS:uid":"2"}}"#,
        "twice",
        "",
    ),
    (
        r#"{"StringEquals":{"wardfs:Uid":"1"},"StringEquals":{"wardfs:Gid":"2"}}"#,
        "twice",
        "",
    ),
    (
        r#"{"StringEquals":{"wardfs:Uid":"www-data"}}"#,
        "decimal",
        "aws:username",
    ),
    (r#"{"StringEquals":{"wardfs:Uid":"1*"}}"#, "decimal", ""),
    (r#"{"StringLike":{"wardfs:Uid":"www-*"}}"#, "no decimal id", ""),
    (r#"{"StringEquals":{"wardfs:Gid":"61200"}}"#, "dynamic", "Unit"),
    (r#"{"StringEquals":{"wardfs:Groups":"opps"}}"#, "no group", "ops"),
    (r#"{"StringEquals":{"aws:username":"al*"}}"#, "no user", ""),
    (r#"{"StringEquals":{"aws:username":""}}"#, "1 to 2048", ""),
    (
        r#"{"StringEqualsIgnoreCase":{"aws:username":"bbo"}}"#,
        "no user",
        "bob",
    ),
    (r#"{"StringLike":{"aws:username":"d*"}}"#, "dynamic", "Unit"),
    (
        r#"{"StringEquals":{"wardfs:Unit":"app@*.service"}}"#,
        "literally",
        "StringLike",
    ),
    (
        r#"{"StringEquals":{"wardfs:Unit":"app"}}"#,
        "full name",
        "app.service",
    ),
    (
        r#"{"StringEquals":{"secretsmanager:VersionStage":"AWS CURRENT"}}"#,
        "no label",
        "",
    ),
    (
        r#"{"StringEquals":{"aws:PrincipalArn":"alice"}}"#,
        "not the ARN",
        "",
    ),
    (r#"{"ArnLike":{"aws:PrincipalArn":"*"}}"#, "six segments", ""),
    (
        r#"{"ArnLike":{"wardfs:Unit":"a*"}}"#,
        "compares ARNs",
        "StringLike",
    ),
    (
        r#"{"StringEquals":{"secretsmanager:SecretId":"app/d*"}}"#,
        "no secret's name",
        "",
    ),
    (
        r#"{"StringLike":{"secretsmanager:SecretId":"*:secret:app/*"}}"#,
        "neither",
        "",
    ),
    (
        r#"{"ArnLike":{"secretsmanager:SecretId":"arn:aws:secretsmanager:*"}}"#,
        "six segments",
        "",
    ),
    (
        r#"{"StringEquals":{"secretsmanager:SecretId":"arn:aws:s3:::bucket"}}"#,
        "service",
        "",
    ),
    (r#"{"Null":{"wardfs:Unit":"yes"}}"#, "true", ""),
    (r#"{"Bool":{"wardfs:Unit":"1"}}"#, "true", ""),
    (r#"{"Bool":{"wardfs:Unit":1}}"#, "true", ""),
];

#[test]
fn what_is_not_understood_is_refused_with_advice() {
    let all = REFUSED
        .iter()
        .map(|(fields, m, s)| (statement(fields), *m, *s))
        .chain(
            REFUSED_CONDITIONS
                .iter()
                .flat_map(|(c, m, s)| ["Allow", "Deny"].map(|e| (when(e, c), *m, *s))),
        );
    for (text, message, suggestion) in all {
        let e = error(&text);
        assert!(e.message.contains(message), "{e}\n{text}");
        let advice = e.suggestion.clone().unwrap_or_default();
        assert!(
            advice.contains(suggestion) && (suggestion.is_empty() || !advice.is_empty()),
            "{e}\n{text}"
        );
        assert_eq!(e.line, 1);
        assert!(e.column > 1 && e.column <= text.chars().count(), "{e}");
    }
}

#[test]
fn resources_are_this_secret_or_an_arn() {
    for (resource, message) in [
        ("app/db", "no ARN"),
        ("arn:aws:secretsmanager:*", "six segments"),
        ("arn:aws:s3:::bucket", "service"),
        ("arn:aws:secretsmanager:r:1:app/db", "names no secret"),
        ("arn:aws:secretsmanager:r:1:secret:", "names no secret"),
        ("arn:aws:secretsmanager:r:1:Secret:app/db", "names no secret"),
        (
            "arn:aws:secretsmanager:${aws:username}:1:secret:app/db",
            "fifth colon",
        ),
        ("", "no ARN"),
        ("**", "no ARN"),
    ] {
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Principal":"*","Action":"*","Resource":["*","{resource}"]}}]}}"#
        );
        assert!(
            error(&text).message.contains(message),
            "{resource}: {}",
            error(&text)
        );
    }
    // In the older language a variable is not one, and no name has such characters.
    let old = r#"{"Version":"2008-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*",
        "Condition":{"StringLike":{"wardfs:Unit":"${aws:username}*"}}}]}"#;
    assert!(resolve(old).is_ok());
}

#[test]
fn documents_are_refused_as_a_whole() {
    for (text, message) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("{} x", "not JSON"),
        ("\u{feff}{}", "not JSON"),
        ("[]", "expected an object"),
        ("{}", "Statement"),
        (r#"{"Statement":null}"#, "expected an array"),
        (r#"{"Statement":[[]]}"#, "expected an object"),
        (r#"{"Statement":[],"Statement":[]}"#, "twice"),
        (
            r#"{"Version":"2012-10-17","Version":"2008-10-17","Statement":[]}"#,
            "twice",
        ),
        (r#"{"Version":"2026-11-25","Statement":[]}"#, "no policy version"),
        (r#"{"Version":20121017,"Statement":[]}"#, "expected a string"),
        (r#"{"Statements":[]}"#, "no field"),
        (r#"{"Statement":[],"Id":"\ud800"}"#, "stands for no character"),
        (r#"{"Statement":[/* hidden */]}"#, "not JSON"),
        (r#"{"Statement":[],}"#, "not JSON"),
        (
            r#"{"Statement":[{"Sid":"a","Effect":"Deny","Principal":"*","Action":"*","Resource":"*"},
            {"Sid":"a","Effect":"Deny","Principal":"*","Action":"*","Resource":"*"}]}"#,
            "already",
        ),
    ] {
        let e = error(text);
        assert!(e.message.contains(message), "{text}: {e}");
    }
}

#[test]
fn deep_and_huge_documents_end_soon_and_without_a_panic() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = MAX_BYTES / (open.len() + close.len() + 1);
        let nest = open.repeat(depth) + "1" + &close.repeat(depth);
        for text in [
            nest.clone(),
            format!(r#"{{"Statement":{nest}}}"#),
            when("Deny", &nest),
        ] {
            assert!(resolve(&text).is_err());
        }
        assert!(resolve(&open.repeat(MAX_BYTES / open.len())).is_err());
    }
    let mut many = String::from(r#"{"Statement":[{"Effect":"Allow","Principal":{"Uid":["#);
    while many.len() < MAX_BYTES - 100 {
        many += &format!("{},", 100_000 + many.len());
    }
    many += r#"9]},"Action":"*","Resource":"*"}]}"#;
    let policy = compiled(&many);
    assert_eq!(read(&policy, Caller::new(9, 1)), ALLOWED);
    assert_eq!(read(&policy, Caller::new(10, 1)), NOTHING);
    // One byte over the limit, though it is only white space.
    let over = format!("{many}{}", " ".repeat(MAX_BYTES + 1 - many.len()));
    assert!(error(&over).message.contains("20480"));
    assert!(resolve(&over[..MAX_BYTES]).is_ok());
    // A pattern made to be slow.
    let stars = "*a".repeat(1000);
    let policy = compiled(&when(
        "Allow",
        &format!(r#"{{"StringLike":{{"wardfs:Unit":"{stars}"}}}}"#),
    ));
    let unit = "a".repeat(240) + "b.service";
    assert_eq!(read(&policy, Caller::new(1, 1).unit(&unit)), NOTHING);
}

#[test]
fn errors_show_the_place() {
    let text = "{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": [{\n    \"Effect\": \"Allow\",\n    \"Principal\": {\"User\": \"ww-data\"},\n    \"Action\": \"*\", \"Resource\": \"*\"\n  }]\n}\n";
    assert_eq!(
        error(text).to_string(),
        "there is no user \"ww-data\"\n  at line 5, column 27\n    \"Principal\": {\"User\": \"ww-data\"},\n                          ^\n  did you mean \"www-data\"?"
    );
    // A document on one line is cut to the surroundings, and its control characters drive no terminal.
    let text = statement(&format!(
        r#""Effect":"Deny","Principal":{{"User":"{}{}"}},"Action":"*""#,
        "\u{9b}\u{202e}",
        "x".repeat(200)
    ));
    let shown = error(&text).to_string();
    assert!(shown.lines().all(|l| l.chars().count() < 350), "{shown}");
    assert!(
        !shown.contains('\u{9b}') && !shown.contains('\u{202e}'),
        "{shown:?}"
    );
}

#[test]
fn warnings_name_what_has_no_effect() {
    let warned = |text: &str, part: &str| {
        let (_, warnings) = resolve(text).unwrap();
        assert!(
            warnings.iter().any(|w| w.message.contains(part)),
            "{part}: {warnings:?}"
        );
    };
    let s = |fields: &str| statement(fields);
    let strange = r#"{"AWS":"arn:aws:iam::9:role/x"}"#;
    warned(
        &s(&format!(r#""Effect":"Allow","Principal":{strange},"Action":"*""#)),
        "allows nobody",
    );
    warned(
        &s(&format!(r#""Effect":"Deny","Principal":{strange},"Action":"*""#)),
        "denies nobody",
    );
    warned(
        &s(&format!(
            r#""Effect":"Deny","NotPrincipal":{strange},"Action":"*""#
        )),
        "exempts nobody",
    );
    warned(
        &when(
            "Deny",
            r#"{"StringNotEquals":{"aws:PrincipalArn":"arn:aws:iam::9:role/x"}}"#,
        ),
        "maps nobody",
    );
    warned(
        &when("Deny", r#"{"StringLike":{"wardfs:Groups":"zz*"}}"#),
        "matches no group",
    );
    warned(
        &when("Deny", r#"{"StringLike":{"aws:username":"zz*"}}"#),
        "matches no user",
    );
    warned(&when("Deny", r#"{"Bool":{"wardfs:Unit":"true"}}"#), "hardly ever");
    warned(
        &s(r#""Effect":"Allow","Principal":"*","Action":"*""#),
        "every process",
    );
    warned(
        &s(r#""Effect":"Allow","Principal":{"Service":"lambda.amazonaws.com"},"Action":"*""#),
        "AWS",
    );
    warned(
        &s(r#""Effect":"Deny","Principal":"*","NotAction":"*""#),
        "no action",
    );
    warned(&when("Allow", r#"{"Null":{"wardfs:Uid":"true"}}"#), "no request");
    warned(r#"{"Statement":[]}"#, "nobody may read");
    let (_, warnings) = resolve(&s(r#""Effect":"Allow","Principal":{"User":"bob"},"Action":"*""#)).unwrap();
    assert_eq!(warnings, []);
}

#[test]
fn a_foreign_mapping_matters_only_where_it_is_meant() {
    let mut map = map();
    map.0.insert(
        "arn:aws:iam::9:role/x".into(),
        vec!["user:nobody-here".parse().unwrap()],
    );
    map.0
        .insert("arn:aws:iam::9:role/y".into(), vec!["uid:61300".parse().unwrap()]);
    let resolve = |text: &str| PolicyRecord::resolve(text, &map, &Book, &secret(), None);
    let named = |arn: &str| {
        resolve(&statement(&format!(
            r#""Effect":"Allow","Principal":{{"AWS":"{arn}"}},"Action":"*""#
        )))
    };
    assert!(named(ROLE).is_ok());
    let e = named("arn:aws:iam::9:role/x").unwrap_err();
    assert!(
        e.message.contains("nobody-here") && e.message.contains("role/x"),
        "{e}"
    );
    assert!(
        named("arn:aws:iam::9:role/y")
            .unwrap_err()
            .message
            .contains("dynamic")
    );
    let like = |p: &str| {
        resolve(&when(
            "Deny",
            &format!(r#"{{"ArnLike":{{"aws:PrincipalArn":"{p}"}}}}"#),
        ))
    };
    assert!(like("arn:aws:iam::111122223333:*").is_ok());
    assert!(like("arn:aws:iam::*:role/x").is_err());
    assert!(resolve(&when("Deny", r#"{"Null":{"aws:PrincipalArn":"true"}}"#)).is_err());
}

#[test]
fn locals_and_actions_are_written_as_they_are_read() {
    for text in [
        "user:www-data",
        "uid:33",
        "group:backup",
        "gid:34",
        "unit:app@1.service",
        "service:wardfs-rotator",
    ] {
        let local: Local = text.parse().unwrap();
        assert_eq!(local.to_string(), text);
        assert_eq!(
            serde_json::from_str::<Local>(&serde_json::to_string(&local).unwrap()).unwrap(),
            local
        );
    }
    for text in [
        "",
        "www-data",
        ":x",
        "user:",
        "user:a b",
        "user:a:b",
        "uid:x",
        "uid:+1",
        "group:*",
        "exe:/bin/sh",
    ] {
        assert!(text.parse::<Local>().is_err(), "{text}");
    }
    for action in Action::ALL {
        for text in [
            action.name().to_string(),
            action.to_string(),
            action.to_string().to_uppercase(),
        ] {
            assert_eq!(text.parse(), Ok(*action));
        }
    }
    for text in [
        "",
        "*",
        "secretsmanager:",
        "secretsmanager:*",
        "s3:GetObject",
        "secretsmanager:secretsmanager:GetSecretValue",
    ] {
        assert!(text.parse::<Action>().is_err(), "{text}");
    }
}

#[test]
fn a_document_survives_its_way_to_json_and_back() {
    let text = r##"{"Id":"i","Statement":[
        {"Sid":"A b","Effect":"Allow","Principal":{"User":["bob","alice"],"Uid":5,"AWS":["*","111122223333"]},"NotAction":["secretsmanager:Get*"],"NotResource":"arn:aws:secretsmanager:*:*:secret:x"},
        {"Effect":"Deny","NotPrincipal":{"Unit":"a.service"},"Action":"*","Resource":["*"],
         "Condition":{"StringLikeIfExists":{"wardfs:unit":["a*","b.service"],"aws:username":"b*"},"ArnLike":{"aws:PrincipalArn":"arn:*:*:*:*:*"},"ArnEquals":{"aws:PrincipalArn":"arn:*:*:*:*:*"},"Null":{"wardfs:Unit":false}}}]}"##;
    let document = Document::parse(text).unwrap();
    let again = document.to_json_pretty();
    let parsed = Document::parse(&again).unwrap();
    assert_eq!(parsed.to_json_pretty(), again);
    assert_eq!(parsed.statements.len(), 2);
    assert_eq!(parsed.statements[1].conditions, document.statements[1].conditions);
    assert_eq!(parsed.statements[0].principal.items.len(), 5);
}

/// Every example of the user's page is a policy without a fault.
#[test]
fn the_examples_of_the_manual_are_accepted() {
    let page = include_str!("../../../packaging/doc/policy.md");
    let blocks = |kind: &str| -> Vec<String> {
        let fence = format!("```{kind}\n");
        page.split(&fence)
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap().to_string())
            .collect()
    };
    let examples = blocks("json");
    assert_eq!(examples.len(), 5);
    for example in &examples {
        let (_, warnings) = resolve(example).unwrap_or_else(|e| panic!("{e}"));
        let expected = |w: &Warning| w.message.contains("nobody may read");
        assert!(warnings.iter().all(expected), "{warnings:?}");
    }
    let current = compiled(&examples[3]);
    let ask = |uid, label: &str| {
        let labels = [label.parse().unwrap()];
        let mut caller = Caller::new(uid, 100);
        ask(
            Some(&current),
            Action::GetSecretValue,
            &labels,
            &mut caller,
            &ADMINISTRATION,
        ) == ALLOWED
    };
    assert!(ask(5, "current") && !ask(5, "pending") && ask(1000, "pending") && ask(1001, "previous"));
    #[derive(serde::Deserialize)]
    struct Config {
        principals: PrincipalMap,
    }
    let config: Config = toml::from_str(&blocks("toml")[0]).unwrap();
    assert_eq!(config.principals, map());
    for reason in [
        Reason::ImplicitDeny,
        Reason::ExplicitDeny,
        Reason::NoPid,
        Reason::CredMismatch,
        Reason::IoWorker,
        Reason::PageCacheRefused,
        Reason::PurposeMismatch,
        Reason::OtherSecret,
    ] {
        assert!(
            page.contains(&format!("`{}`", reason.code())),
            "{}",
            reason.code()
        );
    }
}

#[test]
fn a_fault_of_syntax_is_shown_where_it_is() {
    let e = error("{\n  \"Statement\": [\n    {\"Effect\" \"Allow\"}\n  ]\n}");
    assert_eq!((e.line, e.column), (3, 15));
    assert!(e.to_string().contains("{\"Effect\" \"Allow\"}"), "{e}");
}
