//! `allow` and `deny` as edits of a document.

use super::*;

fn local(s: &str) -> Local {
    s.parse().unwrap()
}

const READ: &[Action] = &[Action::GetSecretValue, Action::DescribeSecret];

#[test]
fn allowing_two_makes_one_statement() {
    let mut document = Document::empty();
    assert_eq!(
        document.add(Effect::Allow, &local("user:www-data"), READ),
        Change::Added(0)
    );
    assert_eq!(
        document.add(Effect::Allow, &local("group:backup"), READ),
        Change::Extended(0)
    );
    assert_eq!(
        document.add(Effect::Allow, &local("group:backup"), READ),
        Change::AlreadyThere(0)
    );
    assert_eq!(
        document.add(Effect::Allow, &local("group:backup"), &READ[..1]),
        Change::AlreadyThere(0)
    );
    assert_eq!(
        document.add(Effect::Allow, &local("uid:5"), &READ[..1]),
        Change::Added(1)
    );
    assert_eq!(document.add(Effect::Allow, &local("uid:5"), &[]), Change::Nothing);
    assert_eq!(
        document.to_json_pretty(),
        r#"{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Principal": {
        "User": "www-data",
        "Group": "backup"
      },
      "Action": [
        "secretsmanager:GetSecretValue",
        "secretsmanager:DescribeSecret"
      ],
      "Resource": "*"
    },
    {
      "Effect": "Allow",
      "Principal": {
        "Uid": "5"
      },
      "Action": "secretsmanager:GetSecretValue",
      "Resource": "*"
    }
  ]
}"#
    );
    let policy = compiled(&document.to_json_pretty());
    assert_eq!(read(&policy, Caller::new(33, 1)), ALLOWED);
    assert_eq!(read(&policy, Caller::new(0, 0)), NOTHING);
}

#[test]
fn the_opposite_effect_is_left_alone_and_deny_wins() {
    let mut document = Document::empty();
    document.add(Effect::Deny, &local("user:bob"), READ);
    assert_eq!(
        document.add(Effect::Allow, &local("user:bob"), READ),
        Change::Added(1)
    );
    assert_eq!(
        read(&compiled(&document.to_json_pretty()), Caller::new(1001, 1)),
        DENIED
    );
}

#[test]
fn statements_with_strings_attached_are_not_extended() {
    for text in [
        when("Allow", r#"{"StringEquals":{"wardfs:Uid":"1"}}"#),
        r#"{"Statement":[{"Effect":"Allow","Principal":{"User":"bob"},"Action":"*","Resource":"arn:aws:secretsmanager:*:*:secret:x"}]}"#.into(),
        statement(r#""Effect":"Deny","NotPrincipal":{"User":"bob"},"Action":"*""#),
        statement(r#""Effect":"Deny","Principal":{"User":"bob"},"Action":"*""#),
    ] {
        let mut document = Document::parse(&text).unwrap();
        let before = document.statements[0].clone();
        assert_eq!(document.add(Effect::Allow, &local("user:bob"), Action::ALL), Change::Added(1), "{text}");
        assert_eq!(document.statements[0], before);
        assert_eq!(document.statements[1].action.items, ["*".into()]);
    }
    // Whom everybody includes need not be named.
    let mut open = Document::parse(&statement(r#""Effect":"Allow","Principal":"*","Action":"*""#)).unwrap();
    assert_eq!(
        open.add(Effect::Allow, &local("user:bob"), READ),
        Change::AlreadyThere(0)
    );
}

#[test]
fn what_somebody_may_do_less_is_no_reason_to_add_nothing() {
    let mut document = Document::empty();
    let less = [Action::DescribeSecret];
    document.add(Effect::Allow, &local("uid:5"), &less);
    document.add(Effect::Deny, &local("uid:6"), &less);
    assert_eq!(
        document.add(Effect::Allow, &local("uid:5"), READ),
        Change::Added(2),
        "he may only describe so far"
    );
    assert_eq!(
        document.add(Effect::Deny, &local("uid:6"), READ),
        Change::Added(3),
        "he is only kept from describing so far"
    );
}
