//! Operators, keys and variables beyond the plain comparison of texts, row by row.

use std::collections::BTreeMap;

use super::*;

const VERSION: &str = "0123456789abcdef0123456789abcdef";

/// Whether an Allow and a Deny with this condition apply.
fn applies(condition: &str, tags: &[(&str, &str)], caller: &Caller) -> (bool, bool) {
    let tags: BTreeMap<String, String> = tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let (name, shared) = (secret(), Shared::default());
    let version = VERSION.parse().unwrap();
    let labels = [Label::current()];
    let request = Request {
        tags: &tags,
        version: Some(&version),
        labels: &labels,
        ..Request::new(Action::GetSecretValue, Purpose::Read, SecretId(7), &name)
    };
    let decides = |effect: &str| {
        let policy = compiled(&when(effect, condition));
        let layers = Layers {
            administration: &ADMINISTRATION,
            shared: &shared,
            secret: Some(&policy),
        };
        verdict(&layers, &request, &mut caller.clone())
    };
    let denied = matches!(
        decides("Deny"),
        Verdict::No(Reason::ExplicitDeny | Reason::NoPid, Layer::Secret, _)
    );
    (matches!(decides("Allow"), Verdict::Yes(..)), denied)
}

/// 2026-11-25T08:00:00Z
const NOW: i64 = 1_795_593_600;

fn caller() -> Caller {
    let mut caller = Caller::new(1000, 34).groups(&[34, 100]).unit("app.service");
    caller.now = NOW;
    caller.process = Some(ProcessState {
        no_new_privs: true,
        traced: false,
        login_uid: Some(1001),
    });
    caller
}

#[test]
fn conditions_hold_as_this_table_says() {
    let tags = [
        ("team", "db"),
        ("level", "7"),
        ("expires", "2027-01-01"),
        ("public", "true"),
        ("empty", ""),
        ("star", "*b"),
        ("question", "?b"),
    ];
    for (condition, holds) in [
        // Numbers.
        (r#"{"NumericEquals":{"wardfs:Uid":"1000"}}"#, true),
        (r#"{"NumericEquals":{"wardfs:Uid":1000}}"#, true),
        (r#"{"NumericEquals":{"wardfs:Uid":["5","1000.0"]}}"#, true),
        (r#"{"NumericNotEquals":{"wardfs:Uid":["5","1000"]}}"#, false),
        (r#"{"NumericNotEquals":{"wardfs:Uid":"1000.000000001"}}"#, true),
        (r#"{"NumericLessThan":{"wardfs:Uid":"1000"}}"#, false),
        (r#"{"NumericLessThanEquals":{"wardfs:Uid":"1000"}}"#, true),
        (r#"{"NumericGreaterThan":{"wardfs:Uid":"999.5"}}"#, true),
        (r#"{"NumericGreaterThanEquals":{"wardfs:Uid":"1001"}}"#, false),
        (r#"{"NumericEquals":{"wardfs:LoginUid":"1001"}}"#, true),
        (
            r#"{"NumericLessThan":{"secretsmanager:ResourceTag/level":"10"}}"#,
            true,
        ),
        (
            r#"{"NumericGreaterThan":{"secretsmanager:ResourceTag/level":"10"}}"#,
            false,
        ),
        // `db` is no number: positive false, negated true.
        (
            r#"{"NumericLessThan":{"secretsmanager:ResourceTag/team":"10"}}"#,
            false,
        ),
        (
            r#"{"NumericNotEquals":{"secretsmanager:ResourceTag/team":"10"}}"#,
            true,
        ),
        // Dates, ISO 8601 or epoch.
        (
            r#"{"DateGreaterThan":{"aws:CurrentTime":"2026-11-25T07:59:59Z"}}"#,
            true,
        ),
        (
            r#"{"DateGreaterThan":{"aws:CurrentTime":"2026-11-25T08:00:00Z"}}"#,
            false,
        ),
        (
            r#"{"DateGreaterThanEquals":{"aws:CurrentTime":"2026-11-25T09:00:00+01:00"}}"#,
            true,
        ),
        (r#"{"DateLessThan":{"aws:CurrentTime":"2026-11-26"}}"#, true),
        (r#"{"DateLessThan":{"aws:EpochTime":"1795593600"}}"#, false),
        (r#"{"DateLessThanEquals":{"aws:EpochTime":"1795593600"}}"#, true),
        (r#"{"DateEquals":{"aws:EpochTime":"2026-11-25T08:00:00Z"}}"#, true),
        (r#"{"DateNotEquals":{"aws:CurrentTime":"1795593600"}}"#, false),
        (r#"{"NumericGreaterThan":{"aws:EpochTime":"1795593599"}}"#, true),
        (
            r#"{"DateGreaterThan":{"secretsmanager:ResourceTag/expires":"2026-11-25"}}"#,
            true,
        ),
        (r#"{"StringLike":{"aws:CurrentTime":"2026-11-25T08:*Z"}}"#, true),
        // Flags.
        (r#"{"Bool":{"wardfs:NoNewPrivs":"true"}}"#, true),
        (r#"{"Bool":{"wardfs:NoNewPrivs":true}}"#, true),
        (r#"{"Bool":{"wardfs:Traced":"true"}}"#, false),
        (r#"{"StringEquals":{"wardfs:Traced":"false"}}"#, true),
        (r#"{"Bool":{"secretsmanager:ResourceTag/public":"true"}}"#, true),
        // `db` is neither.
        (r#"{"Bool":{"secretsmanager:ResourceTag/team":"false"}}"#, false),
        // With a variable: any case, and a wildcard that is none where the operator has none.
        (
            r#"{"StringEqualsIgnoreCase":{"aws:ResourceTag/team":"${aws:PrincipalTag/none, 'DB'}"}}"#,
            true,
        ),
        (
            r#"{"StringEquals":{"aws:ResourceTag/team":"*${aws:PrincipalTag/none, 'b'}"}}"#,
            false,
        ),
        (
            r#"{"StringEquals":{"aws:ResourceTag/team":"?${aws:PrincipalTag/none, 'b'}"}}"#,
            false,
        ),
        (
            r#"{"StringLike":{"aws:ResourceTag/team":"?${aws:PrincipalTag/none, 'b'}"}}"#,
            true,
        ),
        (
            r#"{"StringEquals":{"aws:ResourceTag/question":"?${aws:PrincipalTag/none, 'b'}"}}"#,
            true,
        ),
        (
            r#"{"StringEquals":{"aws:ResourceTag/star":"*${aws:PrincipalTag/none, 'b'}"}}"#,
            true,
        ),
        // Addresses and bytes: a local caller has none.
        (r#"{"IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}"#, false),
        (r#"{"NotIpAddress":{"aws:SourceIp":"192.0.2.0/24"}}"#, true),
        (r#"{"IpAddressIfExists":{"aws:SourceIp":"192.0.2.0/24"}}"#, true),
        (r#"{"BinaryEquals":{"aws:SourceIdentity":"YQ=="}}"#, false),
        // Versions and tags; the keys of tags in any case, their values not.
        (
            r#"{"StringEquals":{"secretsmanager:VersionId":"0123456789abcdef0123456789abcdef"}}"#,
            true,
        ),
        (r#"{"StringLike":{"secretsmanager:VersionId":"0123*"}}"#, true),
        (
            r#"{"StringEquals":{"secretsmanager:ResourceTag/TEAM":"db"}}"#,
            true,
        ),
        (r#"{"StringEquals":{"aws:ResourceTag/team":"db"}}"#, true),
        (
            r#"{"StringEquals":{"secretsmanager:resourcetag/team":"DB"}}"#,
            false,
        ),
        (
            r#"{"StringEquals":{"secretsmanager:ResourceTag/empty":""}}"#,
            true,
        ),
        (
            r#"{"StringEquals":{"secretsmanager:ResourceTag/none":"db"}}"#,
            false,
        ),
        (
            r#"{"StringNotEquals":{"secretsmanager:ResourceTag/none":"db"}}"#,
            true,
        ),
        (r#"{"Null":{"secretsmanager:ResourceTag/none":"true"}}"#, true),
        (r#"{"Null":{"secretsmanager:ResourceTag/team":"true"}}"#, false),
        // Absent or not: always.
        (
            r#"{"Null":{"secretsmanager:ResourceTag/team":["true","false"]}}"#,
            true,
        ),
        (
            r#"{"Null":{"secretsmanager:ResourceTag/none":["false","true"]}}"#,
            true,
        ),
        (r#"{"Null":{"wardfs:Uid":["true","false"]}}"#, true),
        (
            r#"{"StringEqualsIfExists":{"secretsmanager:ResourceTag/none":"db"}}"#,
            true,
        ),
        (
            r#"{"StringEqualsIfExists":{"secretsmanager:ResourceTag/team":"web"}}"#,
            false,
        ),
        (
            r#"{"Null":{"aws:RequestTag/team":"true","aws:TagKeys":"true"}}"#,
            true,
        ),
        // Sets: every value, one value, and keys without any.
        (
            r#"{"ForAllValues:StringEquals":{"wardfs:Groups":["backup","ops","7"]}}"#,
            true,
        ),
        (
            r#"{"ForAllValues:StringEquals":{"wardfs:Groups":["backup"]}}"#,
            false,
        ),
        (
            r#"{"ForAnyValue:StringEquals":{"wardfs:Groups":["ops","7"]}}"#,
            true,
        ),
        (r#"{"ForAnyValue:StringEquals":{"wardfs:Groups":["7"]}}"#, false),
        // Not each of them is 34: one is another.
        (
            r#"{"ForAnyValue:StringNotEquals":{"wardfs:Groups":["34"]}}"#,
            true,
        ),
        (
            r#"{"ForAnyValue:StringNotEquals":{"wardfs:Groups":["34","100"]}}"#,
            false,
        ),
        (
            r#"{"ForAllValues:StringNotEquals":{"wardfs:Groups":["34"]}}"#,
            false,
        ),
        (
            r#"{"ForAllValues:StringNotEquals":{"wardfs:Groups":["7"]}}"#,
            true,
        ),
        (r#"{"StringNotEquals":{"wardfs:Groups":["34"]}}"#, false),
        (
            r#"{"ForAllValues:StringLike":{"secretsmanager:VersionStage":"AWS*"}}"#,
            true,
        ),
        (
            r#"{"ForAllValues:StringEquals":{"secretsmanager:ResourceTag/none":"x"}}"#,
            true,
        ),
        (
            r#"{"ForAnyValue:StringEquals":{"secretsmanager:ResourceTag/none":"x"}}"#,
            false,
        ),
        (
            r#"{"ForAnyValue:StringEqualsIfExists":{"secretsmanager:ResourceTag/none":"x"}}"#,
            false,
        ),
        (
            r#"{"ForAllValues:StringEqualsIfExists":{"secretsmanager:ResourceTag/none":"x"}}"#,
            true,
        ),
        (
            r#"{"ForAnyValue:StringNotEquals":{"secretsmanager:ResourceTag/none":"x"}}"#,
            false,
        ),
        (
            r#"{"ForAllValues:NumericLessThan":{"wardfs:Groups":"101"}}"#,
            true,
        ),
        (r#"{"ForAnyValue:IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}"#, false),
        (r#"{"ForAllValues:IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}"#, true),
        // Variables; the wildcards of their values are none.
        (
            r#"{"StringEquals":{"wardfs:Unit":"app.${aws:PrincipalTag/none, 'service'}"}}"#,
            true,
        ),
        (
            r#"{"StringEquals":{"secretsmanager:ResourceTag/team":"${secretsmanager:ResourceTag/TEAM}"}}"#,
            true,
        ),
        (
            r#"{"StringLike":{"wardfs:Unit":"${aws:PrincipalTag/none, '*'}"}}"#,
            false,
        ),
        (
            r#"{"StringLike":{"aws:username":["bob","a${aws:PrincipalTag/none, 'lic'}?"]}}"#,
            true,
        ),
        (r#"{"StringEquals":{"aws:username":"${aws:username}"}}"#, true),
        (r#"{"StringNotEquals":{"aws:username":"${aws:username}"}}"#, false),
        (r#"{"StringLike":{"wardfs:Unit":"app${*}service"}}"#, false),
        (
            r#"{"StringEqualsIgnoreCase":{"wardfs:Unit":"APP.${wardfs:NoNewPrivs, 'x'}"}}"#,
            false,
        ),
        (
            r#"{"StringEquals":{"wardfs:LoginUid":"${wardfs:LoginUid}"}}"#,
            true,
        ),
        (
            r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/${aws:PrincipalTag/none, 'app'}"}}"#,
            true,
        ),
        (
            r#"{"StringEquals":{"secretsmanager:SecretId":"app/${aws:PrincipalTag/none, 'db'}"}}"#,
            true,
        ),
        (
            r#"{"StringLike":{"secretsmanager:SecretId":"arn:aws:secretsmanager:*:*:secret:${aws:PrincipalTag/none, 'app'}/*"}}"#,
            true,
        ),
    ] {
        assert_eq!(
            applies(condition, &tags, &caller()),
            (holds, holds),
            "{condition}"
        );
    }
}

/// What cannot be known, and what is invalid, lets an Allow fail and a Deny hold.
#[test]
fn a_variable_without_a_value_allows_nothing_and_denies() {
    for condition in [
        r#"{"StringEquals":{"wardfs:Unit":"${aws:PrincipalTag/none}"}}"#,
        r#"{"StringNotEquals":{"wardfs:Unit":"${aws:PrincipalTag/none}"}}"#,
        // Whatever else the statement lists.
        r#"{"StringEquals":{"wardfs:Unit":["app.service","${aws:PrincipalTag/none}"]}}"#,
        r#"{"StringEqualsIfExists":{"secretsmanager:ResourceTag/none":"${aws:PrincipalTag/none}"}}"#,
        r#"{"ForAllValues:StringEquals":{"secretsmanager:ResourceTag/none":"${aws:PrincipalTag/none}"}}"#,
        // AWS's keys that mean nothing here have no value either.
        r#"{"StringLike":{"aws:username":"${aws:userid}*"}}"#,
        // A value with a wildcard could mean more secrets than one.
        r#"{"StringLike":{"secretsmanager:SecretId":"${aws:PrincipalTag/none, '*'}"}}"#,
    ] {
        assert_eq!(applies(condition, &[], &caller()), (false, true), "{condition}");
    }
}

#[test]
fn what_cannot_be_seen_of_a_process_allows_nothing_and_denies() {
    for condition in [
        r#"{"Bool":{"wardfs:NoNewPrivs":"true"}}"#,
        r#"{"Bool":{"wardfs:Traced":"false"}}"#,
        r#"{"NumericEquals":{"wardfs:LoginUid":"1001"}}"#,
        r#"{"Null":{"wardfs:LoginUid":"true"}}"#,
        r#"{"ForAllValues:StringEquals":{"wardfs:Groups":["34"]}}"#,
        r#"{"ForAnyValue:StringNotEquals":{"wardfs:Groups":["34"]}}"#,
    ] {
        assert_eq!(
            applies(condition, &[], &caller().opaque()),
            (false, true),
            "{condition}"
        );
    }
    // A uid that has no name had none, or has one since.
    let nameless = Caller::new(4242, 1);
    let condition = r#"{"ForAllValues:StringEquals":{"aws:username":"bob"}}"#;
    assert_eq!(applies(condition, &[], &nameless), (false, true));
    let nobody = Caller::new(1000, 1);
    assert_eq!(
        applies(r#"{"Null":{"wardfs:LoginUid":"true"}}"#, &[], &nobody),
        (true, true)
    );
}

#[test]
fn in_the_older_language_a_variable_is_a_text() {
    let old = when("Allow", r#"{"StringLike":{"wardfs:Unit":"*${aws:username}*"}}"#).replace("2012", "2008");
    assert_eq!(read(&compiled(&old), caller()), NOTHING);
}

/// Among the caller's names the variable could mean either, so it means none.
#[test]
fn a_variable_with_two_values_is_invalid() {
    let two = Caller::new(0, 0);
    let condition = r#"{"StringEquals":{"secretsmanager:ResourceTag/owner":"${aws:username}"}}"#;
    assert_eq!(applies(condition, &[("owner", "root")], &two), (false, true));
}

#[test]
fn a_resource_with_variables_is_asked_for_each_request() {
    let policy = |resource: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":"*",
               "Resource":"arn:aws:secretsmanager:*:*:secret:{resource}"}}]}}"#
        )
    };
    let db = Caller::new(1000, 1);
    for (resource, yes) in [
        ("app/${aws:PrincipalTag/none, 'db'}", true),
        ("app/${aws:PrincipalTag/none, 'db'}-??????", true),
        ("${aws:username}/*", false),
        ("${aws:PrincipalTag/none}/*", false),
        ("${aws:PrincipalTag/none, '*'}", false),
        ("app/d${?}", false),
    ] {
        let verdict = read(&compiled(&policy(resource)), db.clone());
        assert_eq!(matches!(verdict, Verdict::Yes(..)), yes, "{resource}");
    }
}

/// The suffix that AWS appends: only a literal `-??????` or the ARN on record takes it up, so that `db` is never
/// `db-backup`.
#[test]
fn only_the_recorded_arn_absorbs_a_suffix_and_fixes_region_and_account() {
    let own = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:app/db-AbC12f";
    let arn = |r: &str, a: &str, n: &str| format!("arn:aws:secretsmanager:{r}:{a}:secret:{n}");
    for (resource, without, with) in [
        ("*".to_string(), true, true),
        (own.into(), false, true),
        (arn("eu-west-1", "111122223333", "app/db"), true, true),
        (arn("us-east-1", "111122223333", "app/db"), true, false),
        (arn("eu-*", "*", "app/db-??????"), true, true),
        (arn("eu-west-1", "444455556666", "*"), true, false),
        (arn("eu-west-1", "111122223333", "app/db-AbC*"), false, true),
        (arn("eu-west-1", "111122223333", "app/db-backup"), false, false),
        (arn("eu-west-1", "111122223333", "app/d"), false, false),
    ] {
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Principal":"*","Action":"*","Resource":"{resource}"}}]}}"#
        );
        for (recorded, yes) in [(None, without), (Some(own), with)] {
            let name = secret();
            let (record, _) = PolicyRecord::resolve(&text, &map(), &Book, &name, recorded).unwrap();
            let policy = record.compile(&name, recorded).unwrap();
            let shared = Shared::default();
            let layers = Layers {
                administration: &ADMINISTRATION,
                shared: &shared,
                secret: Some(&policy),
            };
            let request = Request {
                arn: recorded,
                ..Request::new(Action::GetSecretValue, Purpose::Read, SecretId(7), &name)
            };
            let denied = verdict(&layers, &request, &mut Caller::new(1, 1)) == DENIED;
            assert_eq!(denied, yes, "{resource} {recorded:?}");
        }
    }
}
