//! Deciding without a store, and the policies that AWS documents for Secrets Manager, with what they mean.

use std::collections::BTreeMap;

use super::*;

const ACCOUNT: &str = "arn:aws:iam::123456789012";

/// What is asked of an example, and the answer.
struct Case {
    principal: &'static str,
    action: &'static str,
    resource: &'static str,
    /// `secret:k=v`, `principal:k=v`, or a key of the context `k=v[,v]`.
    with: &'static [&'static str],
    answer: Answer,
}

const fn case(
    principal: &'static str,
    action: &'static str,
    resource: &'static str,
    with: &'static [&'static str],
    answer: Answer,
) -> Case {
    Case {
        principal,
        action,
        resource,
        with,
        answer,
    }
}

enum Kind {
    Secret,
    Identity,
    Guardrail,
}

use Answer::*;

const APP: &str = "arn:aws:iam::123456789012:role/EC2RoleToAccessSecrets";
const OTHER: &str = "arn:aws:iam::123456789012:role/Other";
const SECRET: &str = "arn:aws:secretsmanager:us-east-1:123456789012:secret:TestEnv/db-AbCdEf";
const READ: &str = "secretsmanager:GetSecretValue";

fn scenario(kind: &Kind, document: &str, case: &Case) -> Scenario {
    let mut scenario = Scenario {
        principal: Some(case.principal.parse().unwrap()),
        action: Some(case.action.parse().unwrap()),
        resource: case.resource.into(),
        ..Scenario::default()
    };
    match kind {
        Kind::Secret => scenario.policy = Some(document.into()),
        Kind::Identity => scenario.identity_policies.push(document.into()),
        Kind::Guardrail => {
            scenario.guardrails.push(document.into());
            let open =
                r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
            scenario.identity_policies.push(open.into());
        }
    }
    for with in case.with {
        let (key, value) = with.split_once('=').unwrap();
        match key.split_once(':') {
            Some(("secret", key)) => drop(scenario.tags.insert(key.into(), value.into())),
            Some(("principal", key)) => drop(scenario.principal_tags.insert(key.into(), value.into())),
            _ => scenario
                .context
                .push((key.into(), value.split(',').map(String::from).collect())),
        }
    }
    scenario
}

/// The examples of the AWS Secrets Manager user guide and of the IAM user guide, placeholders filled in.
fn examples() -> Vec<(&'static str, Kind, &'static str, Vec<Case>)> {
    vec![
        (
            "Permission to retrieve individual secret values (identity-based)",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"secretsmanager:GetSecretValue",
                "Resource":"arn:aws:secretsmanager:us-east-1:123456789012:secret:TestEnv/db-AbCdEf"}]}"#,
            vec![
                case(APP, READ, SECRET, &[], Allow),
                case(APP, "secretsmanager:DescribeSecret", SECRET, &[], ImplicitDeny),
                case(
                    APP,
                    READ,
                    "arn:aws:secretsmanager:us-east-1:123456789012:secret:TestEnv/db-XyZ123",
                    &[],
                    ImplicitDeny,
                ),
                // Without an ARN on record the literal suffix is part of another name.
                case(APP, READ, "TestEnv/db", &[], ImplicitDeny),
            ],
        ),
        (
            "Permission to retrieve a secret value, attached to the secret",
            Kind::Secret,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:role/EC2RoleToAccessSecrets"},
                "Action":"secretsmanager:GetSecretValue","Resource":"*"}]}"#,
            vec![
                case(APP, READ, SECRET, &[], Allow),
                case(OTHER, READ, SECRET, &[], ImplicitDeny),
                case("user:EC2RoleToAccessSecrets", READ, SECRET, &[], ImplicitDeny),
                case(
                    "arn:aws:sts::123456789012:assumed-role/EC2RoleToAccessSecrets/i-1",
                    READ,
                    SECRET,
                    &[],
                    Allow,
                ),
            ],
        ),
        (
            "Permission to retrieve a group of secret values in a batch",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["secretsmanager:BatchGetSecretValue","secretsmanager:ListSecrets"],"Resource":"*"},
                {"Effect":"Allow","Action":["secretsmanager:GetSecretValue"],"Resource":["arn:aws:secretsmanager:us-east-1:123456789012:secret:TestEnv/db-??????","arn:aws:secretsmanager:us-east-1:123456789012:secret:TestEnv/mq-??????"]}]}"#,
            vec![
                case(APP, "secretsmanager:BatchGetSecretValue", SECRET, &[], Allow),
                case(APP, READ, SECRET, &[], Allow),
                case(APP, READ, "TestEnv/mq", &[], Allow),
                case(APP, READ, "TestEnv/mq-backup2", &[], ImplicitDeny),
            ],
        ),
        (
            "Wildcards: every secret under a path",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"secretsmanager:GetSecretValue",
                "Resource":"arn:aws:secretsmanager:us-east-1:123456789012:secret:TestEnv/*"}}"#,
            vec![
                case(APP, READ, SECRET, &[], Allow),
                case(APP, READ, "TestEnv/a/b", &[], Allow),
                case(APP, READ, "ProdEnv/db", &[], ImplicitDeny),
                case(
                    APP,
                    READ,
                    "arn:aws:secretsmanager:eu-west-1:123456789012:secret:TestEnv/db-AbCdEf",
                    &[],
                    ImplicitDeny,
                ),
            ],
        ),
        (
            "Permission to create secrets",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["secretsmanager:CreateSecret"],"Resource":"*"}]}"#,
            vec![
                case(APP, "secretsmanager:CreateSecret", "new/secret", &[], Allow),
                case(
                    APP,
                    "secretsmanager:DeleteSecret",
                    "new/secret",
                    &[],
                    ImplicitDeny,
                ),
            ],
        ),
        (
            "Deny a specific AWS KMS key to encrypt secrets",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":["secretsmanager:CreateSecret","secretsmanager:UpdateSecret"],"Resource":["*"],
                "Condition":{"StringLike":{"secretsmanager:KmsKeyArn":"arn:aws:kms:us-east-1:123456789012:key/key-1"}}},
                {"Effect":"Allow","Action":"secretsmanager:*","Resource":"*"}]}"#,
            vec![
                case(
                    APP,
                    "secretsmanager:CreateSecret",
                    "x",
                    &["secretsmanager:KmsKeyArn=arn:aws:kms:us-east-1:123456789012:key/key-1"],
                    ExplicitDeny,
                ),
                case(
                    APP,
                    "secretsmanager:CreateSecret",
                    "x",
                    &["secretsmanager:KmsKeyArn=arn:aws:kms:us-east-1:123456789012:key/key-2"],
                    Allow,
                ),
                case(APP, "secretsmanager:CreateSecret", "x", &[], Allow),
            ],
        ),
        (
            "Permissions and VPCs: only through an endpoint",
            Kind::Secret,
            r#"{"Id":"example-policy-1","Version":"2012-10-17","Statement":[{"Sid":"RestrictGetSecretValueoperation","Effect":"Deny","Principal":"*",
                "Action":["secretsmanager:GetSecretValue"],"Resource":"*","Condition":{"StringNotEquals":{"aws:sourceVpce":"vpce-1234a5678b9012c"}}},
                {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:role/EC2RoleToAccessSecrets"},"Action":"secretsmanager:*","Resource":"*"}]}"#,
            vec![
                case(APP, READ, SECRET, &["aws:SourceVpce=vpce-1234a5678b9012c"], Allow),
                case(APP, READ, SECRET, &["aws:SourceVpce=vpce-x"], ExplicitDeny),
                // A missing key, and a negated operator: a local caller came through no endpoint.
                case(APP, READ, SECRET, &[], ExplicitDeny),
                case(APP, "secretsmanager:DescribeSecret", SECRET, &[], Allow),
            ],
        ),
        (
            "Permissions and VPCs: only from a VPC",
            Kind::Secret,
            r#"{"Id":"example-policy-2","Version":"2012-10-17","Statement":[{"Sid":"Allow","Effect":"Allow","Principal":"*",
                "Action":["secretsmanager:GetSecretValue"],"Resource":"*","Condition":{"StringEquals":{"aws:sourceVpc":"vpc-12345678"}}}]}"#,
            vec![
                case(APP, READ, SECRET, &["aws:SourceVpc=vpc-12345678"], Allow),
                case(APP, READ, SECRET, &[], ImplicitDeny),
            ],
        ),
        (
            "Restrict requests to specific IP addresses",
            Kind::Secret,
            r#"{"Version":"2012-10-17","Statement":[{"Sid":"IPDeny","Effect":"Deny","Principal":"*","Action":"secretsmanager:*","Resource":"*",
                "Condition":{"NotIpAddress":{"aws:SourceIp":["192.0.2.0/24","203.0.113.7","2001:DB8:1234:5678::/64"]}}},
                {"Effect":"Allow","Principal":"*","Action":"secretsmanager:GetSecretValue","Resource":"*"}]}"#,
            vec![
                case(APP, READ, SECRET, &["aws:SourceIp=192.0.2.77"], Allow),
                case(APP, READ, SECRET, &["aws:SourceIp=203.0.113.7"], Allow),
                case(APP, READ, SECRET, &["aws:SourceIp=203.0.113.8"], ExplicitDeny),
                case(
                    APP,
                    READ,
                    SECRET,
                    &["aws:SourceIp=2001:0db8:1234:5678:0::1"],
                    Allow,
                ),
                case(APP, READ, SECRET, &[], ExplicitDeny),
            ],
        ),
        (
            "Control access with tags: a tag of the secret",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"secretsmanager:DescribeSecret","Resource":"*",
                "Condition":{"StringEquals":{"secretsmanager:ResourceTag/ServerName":"ServerABC"}}}}"#,
            vec![
                case(
                    APP,
                    "secretsmanager:DescribeSecret",
                    SECRET,
                    &["secret:ServerName=ServerABC"],
                    Allow,
                ),
                case(
                    APP,
                    "secretsmanager:DescribeSecret",
                    SECRET,
                    &["secret:servername=ServerABC"],
                    Allow,
                ),
                case(
                    APP,
                    "secretsmanager:DescribeSecret",
                    SECRET,
                    &["secret:ServerName=serverabc"],
                    ImplicitDeny,
                ),
                case(APP, "secretsmanager:DescribeSecret", SECRET, &[], ImplicitDeny),
            ],
        ),
        (
            "Control access with tags: tags of the identity that match the secret's (ABAC)",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"secretsmanager:GetSecretValue","Resource":"*",
                "Condition":{"StringEquals":{"aws:ResourceTag/access-project":"${aws:PrincipalTag/access-project}"}}}]}"#,
            vec![
                case(
                    APP,
                    READ,
                    SECRET,
                    &["secret:access-project=peg", "principal:access-project=peg"],
                    Allow,
                ),
                case(
                    APP,
                    READ,
                    SECRET,
                    &["secret:access-project=peg", "principal:access-project=uni"],
                    ImplicitDeny,
                ),
                case(APP, READ, SECRET, &["secret:access-project=peg"], ImplicitDeny),
                case(APP, READ, SECRET, &["principal:access-project=peg"], ImplicitDeny),
            ],
        ),
        (
            "The ABAC tutorial: secrets are made with the creator's tags",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Sid":"AllActionsSecretsManagerSameProjectSameTeam","Effect":"Allow","Action":"secretsmanager:*","Resource":"*",
                "Condition":{"StringEquals":{"aws:ResourceTag/access-project":"${aws:PrincipalTag/access-project}","aws:ResourceTag/access-team":"${aws:PrincipalTag/access-team}"},
                "ForAllValues:StringEquals":{"aws:TagKeys":["access-project","access-team","cost-center","Name","OwnedBy"]},
                "StringEqualsIfExists":{"aws:RequestTag/access-project":"${aws:PrincipalTag/access-project}","aws:RequestTag/access-team":"${aws:PrincipalTag/access-team}"}}},
                {"Sid":"DenyUntagSecretsManagerReservedTags","Effect":"Deny","Action":"secretsmanager:UntagResource","Resource":"*",
                "Condition":{"ForAnyValue:StringLike":{"aws:TagKeys":"access-*"}}}]}"#,
            vec![
                case(
                    APP,
                    READ,
                    SECRET,
                    &[
                        "secret:access-project=peg",
                        "secret:access-team=eng",
                        "principal:access-project=peg",
                        "principal:access-team=eng",
                    ],
                    Allow,
                ),
                case(
                    APP,
                    READ,
                    SECRET,
                    &[
                        "secret:access-project=peg",
                        "secret:access-team=qas",
                        "principal:access-project=peg",
                        "principal:access-team=eng",
                    ],
                    ImplicitDeny,
                ),
                case(
                    APP,
                    "secretsmanager:TagResource",
                    SECRET,
                    &[
                        "secret:access-project=peg",
                        "secret:access-team=eng",
                        "principal:access-project=peg",
                        "principal:access-team=eng",
                        "aws:RequestTag/access-project=uni",
                    ],
                    ImplicitDeny,
                ),
                case(
                    APP,
                    "secretsmanager:TagResource",
                    SECRET,
                    &[
                        "secret:access-project=peg",
                        "secret:access-team=eng",
                        "principal:access-project=peg",
                        "principal:access-team=eng",
                        "aws:RequestTag/other=uni",
                    ],
                    ImplicitDeny,
                ),
                case(
                    APP,
                    "secretsmanager:UntagResource",
                    SECRET,
                    &[
                        "secret:access-project=peg",
                        "secret:access-team=eng",
                        "principal:access-project=peg",
                        "principal:access-team=eng",
                        "aws:TagKeys=access-project",
                    ],
                    ExplicitDeny,
                ),
                case(
                    APP,
                    "secretsmanager:UntagResource",
                    SECRET,
                    &[
                        "secret:access-project=peg",
                        "secret:access-team=eng",
                        "principal:access-project=peg",
                        "principal:access-team=eng",
                        "aws:TagKeys=Name",
                    ],
                    Allow,
                ),
            ],
        ),
        (
            "Service principal",
            Kind::Secret,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":["redshift.amazonaws.com"]},"Action":"secretsmanager:GetSecretValue","Resource":"*",
                "Condition":{"ArnLike":{"aws:sourceArn":"arn:aws:redshift::123456789012:*"},"StringEquals":{"aws:sourceAccount":"123456789012"}}}]}"#,
            vec![
                case(
                    "service:redshift.amazonaws.com",
                    READ,
                    SECRET,
                    &[
                        "aws:SourceArn=arn:aws:redshift::123456789012:x",
                        "aws:SourceAccount=123456789012",
                    ],
                    Allow,
                ),
                case(
                    "service:redshift.amazonaws.com",
                    READ,
                    SECRET,
                    &[
                        "aws:SourceArn=arn:aws:redshift::123456789012:x",
                        "aws:SourceAccount=1",
                    ],
                    ImplicitDeny,
                ),
                case("service:redshift.amazonaws.com", READ, SECRET, &[], ImplicitDeny),
                case(
                    APP,
                    READ,
                    SECRET,
                    &[
                        "aws:SourceArn=arn:aws:redshift::123456789012:x",
                        "aws:SourceAccount=123456789012",
                    ],
                    ImplicitDeny,
                ),
            ],
        ),
        (
            "Deny everybody but one role",
            Kind::Secret,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"secretsmanager:*",
                "Resource":"arn:aws:secretsmanager:us-east-1:123456789012:secret:TestEnv/db",
                "Condition":{"StringNotEquals":{"aws:PrincipalArn":"arn:aws:iam::123456789012:role/EC2RoleToAccessSecrets"}}},
                {"Effect":"Allow","Principal":"*","Action":"secretsmanager:GetSecretValue","Resource":"*"}]}"#,
            vec![
                case(APP, READ, "TestEnv/db", &[], Allow),
                case(OTHER, READ, "TestEnv/db", &[], ExplicitDeny),
                case("user:root", READ, "TestEnv/db", &[], ExplicitDeny),
                // The statement is about another secret.
                case(OTHER, READ, "TestEnv/db2", &[], Allow),
            ],
        ),
        (
            "Only the current version",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"secretsmanager:GetSecretValue","Resource":"*",
                "Condition":{"ForAnyValue:StringEquals":{"secretsmanager:VersionStage":"AWSCURRENT"}}}]}"#,
            vec![
                case(
                    APP,
                    READ,
                    SECRET,
                    &["secretsmanager:VersionStage=AWSCURRENT"],
                    Allow,
                ),
                case(
                    APP,
                    READ,
                    SECRET,
                    &["secretsmanager:VersionStage=current,blue"],
                    Allow,
                ),
                case(
                    APP,
                    READ,
                    SECRET,
                    &["secretsmanager:VersionStage=AWSPREVIOUS"],
                    ImplicitDeny,
                ),
                case(APP, READ, SECRET, &[], ImplicitDeny),
            ],
        ),
        (
            "No deletion without a recovery window, and none below seven days",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"secretsmanager:*","Resource":"*"},
                {"Effect":"Deny","Action":"secretsmanager:DeleteSecret","Resource":"*","Condition":{"Bool":{"secretsmanager:ForceDeleteWithoutRecovery":"true"}}},
                {"Effect":"Deny","Action":"secretsmanager:DeleteSecret","Resource":"*","Condition":{"NumericLessThan":{"secretsmanager:RecoveryWindowInDays":"7"}}}]}"#,
            vec![
                case(
                    APP,
                    "secretsmanager:DeleteSecret",
                    SECRET,
                    &["secretsmanager:ForceDeleteWithoutRecovery=true"],
                    ExplicitDeny,
                ),
                case(
                    APP,
                    "secretsmanager:DeleteSecret",
                    SECRET,
                    &["secretsmanager:RecoveryWindowInDays=6"],
                    ExplicitDeny,
                ),
                case(
                    APP,
                    "secretsmanager:DeleteSecret",
                    SECRET,
                    &["secretsmanager:RecoveryWindowInDays=30"],
                    Allow,
                ),
            ],
        ),
        (
            "A window of time (IAM user guide)",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"secretsmanager:GetSecretValue","Resource":"*",
                "Condition":{"DateGreaterThan":{"aws:CurrentTime":"2020-04-01T00:00:00Z"},"DateLessThan":{"aws:CurrentTime":"2020-06-30T23:59:59Z"}}}]}"#,
            vec![
                case(
                    APP,
                    READ,
                    SECRET,
                    &["aws:CurrentTime=2020-05-01T12:00:00Z"],
                    Allow,
                ),
                case(
                    APP,
                    READ,
                    SECRET,
                    &["aws:CurrentTime=2020-07-01T00:00:00Z"],
                    ImplicitDeny,
                ),
                case(APP, READ, SECRET, &["aws:EpochTime=1590000000"], Allow),
            ],
        ),
        (
            "Users' own secrets, by their names (IAM user guide's variable)",
            Kind::Identity,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"secretsmanager:*","Resource":"arn:aws:secretsmanager:*:*:secret:home/${aws:username}/*"}]}"#,
            vec![
                case(
                    "arn:aws:iam::123456789012:user/div/alice",
                    READ,
                    "home/alice/token",
                    &[],
                    Allow,
                ),
                case("user:alice", READ, "home/alice/token", &[], Allow),
                case("user:alice", READ, "home/bob/token", &[], ImplicitDeny),
                // A role has no user name: the statement is invalid.
                case(APP, READ, "home/alice/token", &[], ImplicitDeny),
            ],
        ),
        (
            "Service control policy: deny outside of some regions",
            Kind::Guardrail,
            r#"{"Version":"2012-10-17","Statement":[{"Sid":"DenyAllOutsideEU","Effect":"Deny","Action":"secretsmanager:*","Resource":"*",
                "Condition":{"StringNotEquals":{"aws:RequestedRegion":["eu-central-1","eu-west-1"]},"ArnNotLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/Break*"}}}]}"#,
            vec![
                case(APP, READ, SECRET, &["aws:RequestedRegion=eu-west-1"], Allow),
                case(
                    APP,
                    READ,
                    SECRET,
                    &["aws:RequestedRegion=us-east-1"],
                    ExplicitDeny,
                ),
                case(
                    "arn:aws:iam::123456789012:role/BreakGlass",
                    READ,
                    SECRET,
                    &["aws:RequestedRegion=us-east-1"],
                    Allow,
                ),
            ],
        ),
        (
            "Service control policy: nobody outside of the organisation",
            Kind::Guardrail,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*",
                "Condition":{"StringNotEqualsIfExists":{"aws:PrincipalOrgID":"o-exampleorgid"},"BoolIfExists":{"aws:PrincipalIsAWSService":"false"}}}]}"#,
            vec![
                case(
                    APP,
                    READ,
                    SECRET,
                    &[
                        "aws:PrincipalOrgID=o-exampleorgid",
                        "aws:PrincipalIsAWSService=false",
                    ],
                    Allow,
                ),
                case(
                    APP,
                    READ,
                    SECRET,
                    &["aws:PrincipalOrgID=o-other", "aws:PrincipalIsAWSService=false"],
                    ExplicitDeny,
                ),
                case(
                    APP,
                    READ,
                    SECRET,
                    &["aws:PrincipalOrgID=o-other", "aws:PrincipalIsAWSService=true"],
                    Allow,
                ),
                case(APP, READ, SECRET, &[], ExplicitDeny),
            ],
        ),
    ]
}

#[test]
fn the_policies_that_aws_documents_mean_what_this_table_says() {
    for (title, kind, document, cases) in examples() {
        for case in &cases {
            let found = simulate(&scenario(&kind, document, case), &Book).unwrap();
            let asked = format!(
                "{title}: {} {} {} {:?}: {found:?}",
                case.principal, case.action, case.resource, case.with
            );
            assert_eq!(found.decision, case.answer, "{asked}");
            assert_eq!(found.statement.is_some(), case.answer != ImplicitDeny, "{asked}");
        }
    }
}

#[test]
fn an_explanation_names_the_statement_and_what_would_change_it() {
    let policy = r#"{"Version":"2012-10-17","Statement":[
        {"Sid":"App","Effect":"Allow","Principal":{"User":"alice"},"Action":"secretsmanager:GetSecretValue","Resource":"*","Condition":{"StringEquals":{"wardfs:Unit":"app.service"}}},
        {"Sid":"Night","Effect":"Deny","Principal":"*","Action":"*","Resource":"*","Condition":{"Bool":{"wardfs:Traced":"true"}}}]}"#;
    let ask = |with: &'static [&'static str]| {
        let case = case("user:alice", READ, "app/db", with, Allow);
        simulate(&scenario(&Kind::Secret, policy, &case), &Book).unwrap()
    };
    let denied = ask(&[]);
    assert_eq!(
        (denied.decision, denied.layer, denied.statement),
        (ImplicitDeny, "default", None)
    );
    assert!(
        denied.change[0]
            .contains("statement App of the secret's policy would allow it if wardfs:Unit is app.service"),
        "{:?}",
        denied.change
    );
    let allowed = ask(&["wardfs:Unit=app.service"]);
    assert_eq!((allowed.decision, allowed.layer), (Allow, "secret"));
    assert_eq!(allowed.statement.as_deref(), Some("App"));
    assert!(
        allowed.change[0].contains("Night of the secret's policy would deny it if wardfs:Traced is true"),
        "{:?}",
        allowed.change
    );
    let stopped = ask(&["wardfs:Unit=app.service", "wardfs:Traced=true"]);
    assert_eq!(
        (stopped.decision, stopped.reason),
        (ExplicitDeny, Some("explicit_deny"))
    );
    assert_eq!(stopped.statement.as_deref(), Some("Night"));
    assert!(stopped.change[0].contains("Night"), "{:?}", stopped.change);
}

#[test]
fn a_scenario_that_cannot_be_is_refused() {
    let good = case("user:alice", READ, "app/db", &[], Allow);
    let open = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}]}"#;
    let error = |change: &dyn Fn(&mut Scenario)| {
        let mut scenario = scenario(&Kind::Secret, open, &good);
        change(&mut scenario);
        simulate(&scenario, &Book).unwrap_err().to_string()
    };
    assert!(error(&|s| s.resource = "arn:aws:s3:::bucket".into()).contains("neither"));
    assert!(error(&|s| s.resource = "../x".into()).contains("neither"));
    assert!(
        error(&|s| s.context.push(("aws:SourceIpp".into(), vec![])))
            .contains("did you mean \"aws:SourceIp\"")
    );
    assert!(
        error(&|s| s.context.push(("aws:CurrentTime".into(), vec!["now".into()]))).contains("no value of")
    );
    assert!(error(&|s| s.policy = Some("{".into())).contains("the policy is not valid"));
    assert!(error(&|s| s.guardrails.push("{}".into())).contains("guardrail 1 is not valid"));
    assert!(error(&|s| s.identity_policies.push(open.into())).contains("identity policy 1 is not valid"));
}

/// In a scenario names need not be of this machine, and an ARN is nobody but itself.
#[test]
fn a_scenario_needs_no_machine() {
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"User":"nobody-here","Group":"no-group","AWS":"{ACCOUNT}:role/r"}},"Action":"*","Resource":"*"}}]}}"#
    );
    for (principal, groups, yes) in [
        ("user:nobody-here", &[][..], true),
        ("user:somebody-else", &[], false),
        ("user:somebody-else", &["no-group"], true),
        ("group:no-group", &[], true),
        ("arn:aws:iam::123456789012:role/r", &[], true),
        ("arn:aws:iam::123456789012:role/s", &[], false),
        ("unit:app.service", &[], false),
    ] {
        let scenario = Scenario {
            policy: Some(policy.clone()),
            principal: Some(principal.parse().unwrap()),
            groups: groups.iter().map(|g| g.to_string()).collect(),
            resource: "x".into(),
            tags: BTreeMap::new(),
            ..Scenario::default()
        };
        let found = simulate(&scenario, &Book).unwrap();
        assert_eq!(found.decision == Allow, yes, "{principal} {groups:?}");
    }
}
