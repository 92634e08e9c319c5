//! Bounds: the last value that is taken and the first one that is not, and who is meant where two readings are near.

use super::*;

#[track_caller]
fn accepted(text: &str) -> Vec<Warning> {
    match resolve(text) {
        Ok((_, warnings)) => warnings,
        Err(e) => panic!("{e}\n{text}"),
    }
}

fn one(op: &str, key: &str, value: &str) -> String {
    when("Deny", &format!(r#"{{"{op}":{{"{key}":"{value}"}}}}"#))
}

#[test]
fn values_of_conditions_at_their_bounds() {
    let long = "x".repeat(2048);
    let too_long = format!("{long}x");
    for (op, key, good) in [
        ("StringEquals", "aws:ResourceTag/t", &*long),
        ("StringEquals", "aws:ResourceTag/t", ""),
        ("StringEquals", "aws:UserAgent", ""),
        ("StringEqualsIgnoreCase", "wardfs:NoNewPrivs", "TRUE"),
        ("StringLike", "wardfs:Traced", "t*"),
        ("StringLike", "wardfs:Groups", "1*"),
        ("StringLike", "aws:username", "a*"),
        ("StringLike", "wardfs:Uid", "1?0*"),
        ("StringLike", "aws:PrincipalArn", "*:role/*"),
        ("StringLike", "secretsmanager:VersionStage", "*"),
        ("StringEqualsIgnoreCase", "wardfs:Unit", "APP.service"),
        ("ArnLike", "secretsmanager:SecretId", "*:*:*:*:*:secret:app/db"),
        ("ArnLike", "aws:PrincipalArn", "*:*:*:*:*:role/*"),
        ("StringEquals", "secretsmanager:SecretId", "app/db"),
    ] {
        accepted(&one(op, key, good));
    }
    for (op, key, bad, message) in [
        ("StringEquals", "aws:ResourceTag/t", &*too_long, "1 to 2048 bytes"),
        ("StringEquals", "wardfs:Unit", "", "1 to 2048 bytes"),
        ("StringEquals", "wardfs:NoNewPrivs", "TRUE", "is \\\"true\\\" or"),
        ("StringEquals", "wardfs:Groups", "61200", "dynamically"),
        ("StringEquals", "wardfs:Groups", "007", "wardfs:Groups"),
        ("StringEquals", "wardfs:Groups", "1*", "no group"),
        ("StringLike", "wardfs:Uid", "a*", "no decimal id"),
        ("StringEquals", "aws:PrincipalArn", "*:role/*", "not the ARN"),
        ("ArnLike", "aws:PrincipalArn", "*:role/*", "six segments"),
        (
            "ArnLike",
            "aws:PrincipalArn",
            "xrn:aws:iam::1:role/x",
            "six segments",
        ),
        ("ArnLike", "secretsmanager:SecretId", "app/db", "six segments"),
        ("ArnLike", "secretsmanager:SecretId", "app/*", "six segments"),
        (
            "ArnLike",
            "secretsmanager:SecretId",
            "xrn:aws:secretsmanager:e:1:secret:a",
            "six segments",
        ),
        (
            "StringEquals",
            "secretsmanager:SecretId",
            "a:b",
            "neither a secret's name",
        ),
        (
            "StringEquals",
            "secretsmanager:SecretId",
            "/a",
            "no secret's name",
        ),
        ("DateEquals", "wardfs:Uid", "5", "DateEquals compares times"),
        (
            "NumericEquals",
            "wardfs:Unit",
            "5",
            "NumericEquals compares numbers",
        ),
        (
            "IpAddress",
            "wardfs:Uid",
            "192.0.2.1",
            "IpAddress compares addresses",
        ),
        (
            "BinaryEquals",
            "wardfs:Uid",
            "YQ==",
            "BinaryEquals compares bytes",
        ),
        ("ArnEquals", "wardfs:Uid", "5", "ArnEquals compares ARNs"),
    ] {
        let error = refused(&one(op, key, bad));
        assert!(
            error.message.contains(&message.replace('\\', "")),
            "{op} {key} {bad}: {error}"
        );
    }
    let advice = |key: &str| {
        refused(&one("StringEquals", key, "x"))
            .suggestion
            .unwrap_or_default()
    };
    assert!(advice("wardfs:Uid").contains("aws:username"));
    assert!(advice("wardfs:Gid").contains("wardfs:Groups"));
    assert_eq!(advice("wardfs:LoginUid"), "");
}

#[test]
fn keys_are_named_as_they_are_written() {
    let tag = "k".repeat(128);
    for key in [
        "aws:PrincipalTag/team".into(),
        "aws:RequestTag/team".into(),
        "secretsmanager:ResourceTag/team".into(),
        format!("aws:RequestTag/{tag}"),
        "aws:UserAgent".into(),
        "wardfs:Uid".into(),
    ] {
        let found: Key = Key::named(&key).unwrap();
        assert_eq!(found.name(), key);
    }
    for bad in [format!("aws:RequestTag/{tag}k"), "aws:RequestTag/".into()] {
        assert_eq!(Key::named(&bad), Err(None), "{bad}");
    }
}

#[test]
fn an_account_in_an_allow_is_its_own_entry_and_in_a_deny_everybody_in_it() {
    const ACCOUNT: &str = "arn:aws:iam::111122223333:root";
    let mut map = map();
    map.0.insert(ACCOUNT.into(), vec!["user:bob".parse().unwrap()]);
    let decides = |fields: &str, uid: u32| {
        let text = statement(&format!(r#"{fields},"Action":"*""#));
        let (record, _) = PolicyRecord::resolve(&text, &map, &Book, &secret(), None).unwrap();
        read(&record.compile(&secret(), None).unwrap(), Caller::new(uid, uid))
    };
    // Bob is the account, alice a role in it.
    for named in [ACCOUNT, "111122223333"] {
        let aws = format!(r#"{{"AWS":"{named}"}}"#);
        let allow = format!(r#""Effect":"Allow","Principal":{aws}"#);
        assert_eq!(
            (decides(&allow, 1001), decides(&allow, 1000)),
            (ALLOWED, NOTHING),
            "{named}"
        );
        let deny = format!(r#""Effect":"Deny","Principal":{aws}"#);
        assert_eq!(
            (decides(&deny, 1001), decides(&deny, 1000)),
            (DENIED, DENIED),
            "{named}"
        );
        let but = format!(r#""Effect":"Deny","NotPrincipal":{aws}"#);
        assert_eq!(
            (decides(&but, 1001), decides(&but, 1000)),
            (NOTHING, DENIED),
            "{named}"
        );
    }
    // Another account is nobody here.
    let other = r#""Effect":"Deny","Principal":{"AWS":"999988887777"}"#;
    assert_eq!((decides(other, 1001), decides(other, 1000)), (NOTHING, NOTHING));
}

#[test]
fn only_an_allow_for_everybody_to_read_is_public() {
    let public = |fields: &str| {
        let warnings = accepted(&statement(fields));
        warnings.iter().any(|w| w.concern == Concern::Public)
    };
    assert!(public(r#""Effect":"Allow","Principal":"*","Action":"*""#));
    for less in [
        r#""Effect":"Deny","Principal":"*","Action":"*""#,
        r#""Effect":"Allow","Principal":{"User":"bob"},"Action":"*""#,
        r#""Effect":"Allow","Principal":"*","Action":"secretsmanager:DescribeSecret""#,
        r#""Effect":"Allow","Principal":"*","Action":"*","Condition":{"StringEquals":{"wardfs:Uid":"1"}}"#,
    ] {
        assert!(!public(less), "{less}");
    }
}

#[test]
fn places_are_found_between_characters_and_shown_with_what_is_around_them() {
    let fields = r#""Effect":"Deny","Principal":"*","Action":"*","Condition":{"StringEquals":{"aws:username":"ab${wardfs:uidd}"}}"#;
    let text = statement(fields);
    let error = refused(&text);
    assert_eq!(error.column, text.find("${wardfs").unwrap() + 1, "{error}");
    // Fifty characters on either side.
    let long = statement(&format!(
        r#""Sid":"{0}{0}","Effect":"Deny","Principal":{{"User":"nobody-of-this-name{0}"}},"Action":"*""#,
        "x".repeat(60)
    ));
    let shown = refused(&long).to_string();
    let line = shown.lines().nth(2).unwrap().trim_start();
    assert_eq!(line.chars().count(), 1 + 50 + 50 + 1, "{shown}");
    assert!(line.starts_with('…') && line.ends_with('…'), "{shown}");
    // An offset in the middle of a character is that character's.
    let source = super::super::diagnostic::Source("aé\né");
    let place = |at| {
        let error = source.error(at, "");
        (error.line, error.column)
    };
    assert_eq!(
        [place(1), place(2), place(3), place(4), place(5), place(9)],
        [(1, 2), (1, 2), (1, 3), (2, 1), (2, 1), (2, 2)]
    );
    let warning = source.warning(4, "odd");
    assert_eq!(warning.to_string(), "line 2, column 1: odd");
}

#[test]
fn patterns_match_segment_by_segment_and_to_their_ends() {
    use super::super::pattern::{ANY, ONE, glob, glob_arn, glob_arn_encoded, glob_encoded};
    let encoded = |pattern: &str| -> Vec<u8> {
        let byte = |b| match b {
            b'*' => ANY,
            b'?' => ONE,
            b => b,
        };
        pattern.bytes().map(byte).collect()
    };
    for (pattern, text, matches) in [
        ("", "", true),
        ("", "a", false),
        ("a", "", false),
        ("*", "", true),
        ("?", "", false),
        ("?", "é", true),
        ("a?", "a", false),
        ("a*", "a", true),
        ("*a", "a", true),
        ("*a*b", "xaxbxb", true),
        ("*a*b", "xaxbx", false),
        ("a?c*", "abcd", true),
        ("*?", "é", true),
        ("**?*", "", false),
        ("ab", "abc", false),
        ("abc", "ab", false),
    ] {
        assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        assert_eq!(glob_encoded(&encoded(pattern), text), matches, "{pattern} {text}");
        // The same as the last segment of an ARN, which may have colons.
        for (p, t, also) in [
            (
                format!("a:*:c:d:e:{pattern}"),
                format!("a:bb:c:d:e:{text}"),
                matches,
            ),
            (
                format!("a:b:c:d:{pattern}:f"),
                format!("a:b:c:d:{text}:f"),
                matches,
            ),
            (
                format!("a:b:c:d:e:x:{pattern}"),
                format!("a:b:c:d:e:x:{text}"),
                matches,
            ),
            (format!("a:b:c:d:e:{pattern}"), format!("a:b:c:d:{text}"), false),
            (format!("a:b:c:d:{pattern}"), format!("a:b:c:d:{text}:f"), false),
            (format!("a:b:x:d:e:{pattern}"), format!("a:b:c:d:e:{text}"), false),
        ] {
            assert_eq!(glob_arn(&p, &t), also, "{p} {t}");
            assert_eq!(glob_arn_encoded(&encoded(&p), &t), also, "{p} {t}");
        }
        // What stands for itself in an encoded pattern is no wildcard.
        assert_eq!(
            glob_encoded(pattern.as_bytes(), text),
            pattern == text,
            "{pattern} {text}"
        );
    }
}

#[test]
fn the_grammar_at_its_bounds() {
    let with =
        |fields: &str| format!(r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny",{fields}}}]}}"#);
    let sid = |sid: &str| {
        with(&format!(
            r#""Sid":"{sid}","Principal":"*","Action":"*","Resource":"*""#
        ))
    };
    accepted(&sid(&"s".repeat(128)));
    for bad in ["", &"s".repeat(129), "#1", "a\\n"] {
        assert!(refused(&sid(bad)).message.contains("1 to 128"), "{bad}");
    }
    let rest = r#""Action":"*","Resource":"*""#;
    for (fields, message, advice) in [
        (
            format!(r#""Principal":"arn:aws:iam::1:role/x",{rest}"#),
            "a plain string",
            r#"write {"AWS": "arn:aws:iam::1:role/x"}"#,
        ),
        (
            format!(r#""Principal":"x y",{rest}"#),
            "a plain string",
            r#"write {"User": "www-data"} or the like"#,
        ),
        (
            format!(r#""Principal":{{"Group":"a*"}},{rest}"#),
            "no wildcards",
            "",
        ),
        (
            format!(r#""Principal":{{"Unit":"a*"}},{rest}"#),
            "no wildcards",
            r#"use "Principal": "*" with the condition "StringLike": {"wardfs:Unit": …}"#,
        ),
        (
            r#""Principal":"*","Action":true,"Resource":"*""#.into(),
            "found true or false",
            "",
        ),
        (
            r#""Principal":"*","Action":7,"Resource":"*""#.into(),
            "found a number",
            "",
        ),
        (
            r#""Principal":"*","Action":null,"Resource":"*""#.into(),
            "found null",
            "",
        ),
        (
            r#""Principal":"*","Action":{},"Resource":"*""#.into(),
            "a string or an array of strings, found an object",
            "",
        ),
        (
            r#""Principal":"*","Action":"*""#.into(),
            "Resource",
            r#"write "Resource": "*", which means this secret"#,
        ),
    ] {
        let error = refused(&with(&fields));
        assert!(error.message.contains(message), "{fields}: {error}");
        assert_eq!(error.suggestion.unwrap_or_default(), advice, "{fields}");
    }
    let guardrail = GuardrailRecord::resolve("g", &with(r#""Action":"*""#), &map(), &Book).unwrap_err();
    assert_eq!(
        guardrail.suggestion.as_deref(),
        Some(r#"write "Resource": "*", which means every secret"#)
    );
    for (operator, meant) in [
        ("StringEqual", "did you mean \"StringEquals\"?"),
        ("StringEqualIfExists", "did you mean \"StringEqualsIfExists\"?"),
        (
            "ForAnyValue:StringEqualIfExists",
            "did you mean \"ForAnyValue:StringEqualsIfExists\"?",
        ),
        (
            "ForAnyVal:StringEquals",
            "did you mean \"ForAnyValue:StringEquals\"?",
        ),
        (
            "Some:StringEquals",
            "before the colon can be ForAllValues or ForAnyValue",
        ),
        ("IfExists", ""),
    ] {
        let error = refused(&one(operator, "wardfs:Unit", "a.service"));
        assert_eq!(error.suggestion.unwrap_or_default(), meant, "{operator}");
    }
}

#[test]
fn names_and_accounts_at_their_bounds() {
    use super::super::principal::account;
    assert_eq!(account("111122223333"), Some("111122223333"));
    assert_eq!(account("arn:aws:iam::111122223333:root"), Some("111122223333"));
    for none in [
        "1",
        "abcdefghijkl",
        "11112222333x",
        "arn:aws:iam::1:root",
        "arn:aws:iam::abcdefghijkl:root",
        "arn:aws:iam::111122223333:role/root",
    ] {
        assert_eq!(account(none), None, "{none}");
    }
    let unit = |length: usize| format!("{}.service", "u".repeat(length - 8));
    assert!(format!("unit:{}", unit(256)).parse::<Local>().is_ok());
    assert!(format!("unit:{}", unit(257)).parse::<Local>().is_err());
    assert!("service:wardfs-rotator".parse::<Local>().is_ok());
    for bad in ["service:a:b", "service:a/b", "service:"] {
        assert!(bad.parse::<Local>().is_err(), "{bad}");
    }
}

/// As many users and groups as it says, none of the dynamic range.
struct Crowd(u32);

impl Directory for Crowd {
    fn uid_of(&self, name: &str) -> Option<Uid> {
        self.users().into_iter().find(|u| u.0 == name).map(|u| u.1)
    }
    fn gid_of(&self, name: &str) -> Option<Gid> {
        self.groups().into_iter().find(|g| g.0 == name).map(|g| g.1)
    }
    fn users(&self) -> Vec<(String, Uid)> {
        (0..self.0).map(|n| (format!("u{n}"), Uid(n))).collect()
    }
    fn groups(&self) -> Vec<(String, Gid)> {
        (0..self.0).map(|n| (format!("g{n}"), Gid(n))).collect()
    }
}

#[test]
fn a_record_has_the_names_that_its_document_can_mean() {
    let resolve = |condition: &str, directory: &dyn Directory| {
        PolicyRecord::resolve(&when("Deny", condition), &map(), directory, &secret(), None)
            .map(|(record, _)| record)
    };
    let steady = |all: &[(&str, u32)]| -> Vec<String> {
        let mut names: Vec<String> = all.iter().filter(|n| n.1 != 61200).map(|n| n.0.into()).collect();
        names.sort();
        names
    };
    // A variable can be anybody's name, but not one of tomorrow.
    for condition in [
        r#"{"StringEquals":{"secretsmanager:SecretId":"${aws:username}"}}"#,
        r#"{"StringLike":{"aws:ResourceTag/team":"${aws:username}*"}}"#,
        r#"{"StringEquals":{"aws:username":"${aws:ResourceTag/owner}"}}"#,
        r#"{"Null":{"aws:username":"true"}}"#,
    ] {
        let record = resolve(condition, &Book).unwrap();
        assert_eq!(
            record.users.into_keys().collect::<Vec<_>>(),
            steady(&USERS),
            "{condition}"
        );
        assert!(record.groups.is_empty(), "{condition}");
    }
    let record = resolve(
        r#"{"StringEquals":{"wardfs:Groups":"${aws:ResourceTag/group}"}}"#,
        &Book,
    )
    .unwrap();
    assert_eq!(record.groups.into_keys().collect::<Vec<_>>(), steady(&GROUPS));
    assert!(record.users.is_empty());
    // Other variables are nobody's name.
    let record = resolve(r#"{"StringEquals":{"aws:ResourceTag/u":"${wardfs:Uid}"}}"#, &Book).unwrap();
    assert!(record.users.is_empty() && record.groups.is_empty());
    // In a resource.
    let text = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"*",
        "Resource":"arn:aws:secretsmanager:*:*:secret:${aws:username}/*"}]}"#;
    let (record, _) = PolicyRecord::resolve(text, &map(), &Book, &secret(), None).unwrap();
    assert_eq!(record.users.into_keys().collect::<Vec<_>>(), steady(&USERS));
    // A pattern means those that it matches; a number needs no name.
    let record = resolve(r#"{"StringLike":{"wardfs:Groups":["1*","o*"]}}"#, &Book).unwrap();
    assert_eq!(record.groups.into_keys().collect::<Vec<_>>(), ["ops"]);
    for bound in [
        r#"{"StringLike":{"aws:username":"u*"}}"#,
        r#"{"StringLike":{"wardfs:Groups":"g*"}}"#,
    ] {
        assert!(resolve(bound, &Crowd(4096)).is_ok(), "{bound}");
        let error = resolve(bound, &Crowd(4097)).unwrap_err();
        assert!(error.message.contains("more than 4096"), "{bound}: {error}");
    }
}

#[test]
fn a_pattern_that_matches_nobody_today_is_told_of() {
    let warned = |key: &str, pattern: &str| {
        accepted(&one("StringLike", key, pattern))
            .iter()
            .any(|w| w.message.contains("there is today"))
    };
    assert!(warned("aws:username", "zz*") && warned("wardfs:Groups", "zz*"));
    // A user's name may be a number, a group's number needs no name.
    assert!(warned("aws:username", "77*") && !warned("wardfs:Groups", "7?*"));
    assert!(!warned("aws:username", "a*") && !warned("wardfs:Groups", "o*"));
}

#[test]
fn an_identity_policy_of_an_arn_that_nobody_has_is_nobodys() {
    let text = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
    let warnings = |arn: &str| {
        let who = Attached::Arn(arn.into());
        let (_, warnings) = IdentityRecord::resolve(&who, Default::default(), text, &map(), &Book).unwrap();
        warnings.iter().any(|w| w.message.contains("nobody's"))
    };
    assert!(warnings("arn:aws:iam::9:role/x") && !warnings(ROLE));
}

#[test]
fn an_account_is_on_record_for_whom_it_means() {
    let mut map = map();
    const ACCOUNT: &str = "arn:aws:iam::111122223333:root";
    map.0.insert(ACCOUNT.into(), vec!["user:bob".parse().unwrap()]);
    let on_record = |fields: &str| {
        let text = statement(&format!(r#"{fields}:{{"AWS":"111122223333"}},"Action":"*""#));
        let (record, _) = PolicyRecord::resolve(&text, &map, &Book, &secret(), None).unwrap();
        let arns: Vec<String> = record.principals.keys().cloned().collect();
        (arns, super::readers::told(&record))
    };
    let arns = |fields| on_record(fields).0;
    assert_eq!(arns(r#""Effect":"Allow","Principal""#), [ACCOUNT]);
    assert_eq!(arns(r#""Effect":"Deny","Principal""#), [ROLE, ACCOUNT, BOT]);
    assert_eq!(arns(r#""Effect":"Deny","NotPrincipal""#), [ACCOUNT]);
    // The same in words.
    let readers = |fields| on_record(fields).1;
    assert_eq!(
        readers(r#""Effect":"Allow","Principal""#),
        ["user bob (uid 1001)"]
    );
    let denied = readers(r#""Effect":"Deny","Principal""#);
    assert!(
        denied.is_empty(),
        "what nobody has is taken from nobody: {denied:?}"
    );
}

#[test]
fn a_secrets_id_is_its_name_or_its_arn_and_another_region_is_another_secret() {
    use super::super::operator::Comparison::{self, *};
    use super::super::resource::{Reading, Subject, secret_id_matches};
    const OWN: &str = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:app/db-AbCdEf";
    let arn = |region: &str, account: &str, rest: &str| {
        format!("arn:aws:secretsmanager:{region}:{account}:secret{rest}")
    };
    let (eu, us, ours) = ("eu-west-1", "us-east-1", "111122223333");
    let name = secret();
    let rows: Vec<(Comparison, String, bool, bool)> = vec![
        // With its ARN on record, and without.
        (Equals, "app/db".into(), true, true),
        (Equals, "app/*".into(), false, false),
        (Equals, "app/other".into(), false, false),
        (Equals, OWN.into(), true, false),
        (Equals, arn(eu, ours, ":app/db"), true, true),
        (Equals, arn(us, ours, ":app/db"), false, true),
        (Equals, arn(us, ours, ":app/db-AbCdEf"), false, false),
        (Equals, arn(eu, "999988887777", ":app/db"), false, true),
        (Equals, arn(eu, "999988887777", ":app/db-AbCdEf"), false, false),
        (Equals, arn(eu, ours, ":app/db-??????"), false, false),
        (EqualsIgnoreCase, "APP/DB".into(), true, true),
        (EqualsIgnoreCase, OWN.to_uppercase(), true, false),
        (Like, "app/*".into(), true, true),
        (Like, "app/db-??????".into(), true, true),
        (Like, "other*".into(), false, false),
        (Like, "*AbCdEf".into(), true, false),
        (Like, arn("*", "*", ":app/db-??????"), true, true),
        (Like, arn("us-*", "*", ":app/*"), false, true),
        (Like, arn("eu-*", "*", ":app/*"), true, true),
        (Like, arn("*", "*", ":other/*"), false, false),
        (Arn, arn("eu-*", "*", ":app/db-AbCdEf"), true, false),
        (Arn, arn("us-*", "*", ":app/db-AbCdEf"), false, false),
        (Arn, arn("*", "*", "*"), true, true),
        (Arn, arn("us-*", "*", "*"), false, true),
        (Arn, arn("*", "*", ":app/other"), false, false),
    ];
    for (comparison, value, with, without) in rows {
        let matches = |arn| {
            let subject = Subject {
                name: Some(&name),
                arn,
            };
            let found = secret_id_matches(comparison, &value, Reading::Narrow, subject);
            assert_eq!(
                found,
                secret_id_matches(comparison, &value, Reading::Wide, subject)
            );
            found
        };
        assert_eq!(
            (matches(Some(OWN)), matches(None)),
            (with, without),
            "{comparison:?} {value}"
        );
    }
    let nobody = Subject {
        name: None,
        arn: Some(OWN),
    };
    assert!(!secret_id_matches(Like, "*", Reading::Wide, nobody));
    // The longest name.
    let long: SecretName = format!("{}/{}/o", "n".repeat(255), "m".repeat(254))
        .parse()
        .unwrap();
    let rules = |resource: &str| {
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":"*","Resource":"{resource}"}}]}}"#
        );
        let (record, _) = PolicyRecord::resolve(&text, &map(), &Book, &long, None).unwrap();
        record.compile(&long, None).unwrap().rules().allows.len()
    };
    assert_eq!(rules(&arn("*", "*", &format!(":{}/*", "n".repeat(255)))), 1);
}

#[test]
fn bytes_are_compared_as_bytes() {
    for (given, answer) in [
        ("YQ==", Answer::Allow),
        ("Yg==", Answer::ImplicitDeny),
        ("a", Answer::ImplicitDeny),
    ] {
        let scenario = Scenario {
            principal: Some("user:bob".parse().unwrap()),
            resource: "app/db".into(),
            policy: Some(when(
                "Allow",
                r#"{"BinaryEquals":{"aws:SourceIdentity":["YQ==","YWI="]}}"#,
            )),
            context: vec![("aws:SourceIdentity".into(), vec![given.into()])],
            ..Scenario::default()
        };
        assert_eq!(simulate(&scenario, &Book).unwrap().decision, answer, "{given}");
    }
}

#[test]
fn a_supposed_caller_is_nobody_that_is_not_said_of_him() {
    let decides = |principal: &str, resource: &str, context: &[(&str, &str)], policy: &str| {
        let scenario = Scenario {
            principal: Some(principal.parse().unwrap()),
            resource: resource.into(),
            policy: Some(policy.into()),
            context: context
                .iter()
                .map(|(k, v)| (k.to_string(), vec![v.to_string()]))
                .collect(),
            ..Scenario::default()
        };
        simulate(&scenario, &Book).unwrap().decision == Answer::Allow
    };
    let role = "arn:aws:iam::111122223333:role/x";
    // Users whom this machine does not have are others than the caller.
    let others = statement(
        r#""Effect":"Allow","Principal":{"User":["n1","n2","n3","n4"],"Group":["m1","m2","m3","m4"]},"Action":"*""#,
    );
    assert!(!decides(role, "app/db", &[], &others));
    assert!(!decides("user:n5", "app/db", &[], &others));
    assert!(decides("user:n3", "app/db", &[], &others));
    // Names that were made up for the question are matched like others.
    let like = when("Allow", r#"{"StringLike":{"aws:username":"n*"}}"#);
    assert!(decides("user:n5", "app/db", &[], &like) && !decides("user:m5", "app/db", &[], &like));
    let group = when("Allow", r#"{"StringLike":{"wardfs:Groups":"n*"}}"#);
    assert!(decides("user:app", "app/db", &[("wardfs:Groups", "n5")], &group));
    assert!(!decides("user:app", "app/db", &[("wardfs:Groups", "m5")], &group));
    // A version, and the accounts of the secret and of the caller, where there are any.
    let version = when(
        "Allow",
        &format!(
            r#"{{"StringEquals":{{"secretsmanager:VersionId":"{}"}}}}"#,
            "a".repeat(32)
        ),
    );
    assert!(decides(
        role,
        "app/db",
        &[("secretsmanager:VersionId", &"a".repeat(32))],
        &version
    ));
    assert!(!decides(
        role,
        "app/db",
        &[("secretsmanager:VersionId", &"b".repeat(32))],
        &version
    ));
    assert!(!decides(role, "app/db", &[], &version));
    for (key, principal, resource, known) in [
        (
            "aws:ResourceAccount",
            role,
            "arn:aws:secretsmanager:eu:111122223333:secret:app/db",
            true,
        ),
        (
            "aws:ResourceAccount",
            role,
            "arn:aws:secretsmanager:eu::secret:app/db",
            false,
        ),
        ("aws:ResourceAccount", role, "app/db", false),
        ("aws:PrincipalAccount", role, "app/db", true),
        ("aws:PrincipalAccount", "arn:aws:iam:::role/x", "app/db", false),
        ("aws:PrincipalAccount", "user:app", "app/db", false),
    ] {
        let present = when("Allow", &format!(r#"{{"Null":{{"{key}":"false"}}}}"#));
        assert_eq!(
            decides(principal, resource, &[], &present),
            known,
            "{key} {principal} {resource}"
        );
    }
}
