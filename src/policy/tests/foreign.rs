//! Keys of AWS that no caller on one machine has: each operator as AWS has it for a missing key.

use super::*;
use crate::policy::foreign;

/// Whether an Allow under this condition lets somebody read, and the warnings.
fn allows(condition: &str) -> (bool, Vec<Warning>) {
    let (record, warnings) = resolve(&when("Allow", condition)).expect("a policy");
    let policy = record.compile(&secret(), None).expect("compiled");
    let read = read(&policy, Caller::new(1000, 1000));
    (matches!(read, Verdict::Yes(..)), warnings)
}

#[test]
fn a_missing_key_fails_what_is_positive_and_holds_what_is_negated() {
    for (condition, expected) in [
        (r#"{"StringEquals":{"aws:SourceVpce":"vpce-1"}}"#, false),
        (r#"{"StringLike":{"aws:PrincipalOrgID":"*"}}"#, false),
        (r#"{"StringNotEquals":{"aws:SourceVpce":"vpce-1"}}"#, true),
        (r#"{"StringNotLike":{"aws:PrincipalOrgID":"o-*"}}"#, true),
        (r#"{"StringEqualsIfExists":{"aws:SourceVpce":"vpce-1"}}"#, true),
        (r#"{"StringNotEqualsIfExists":{"aws:SourceVpce":"x"}}"#, true),
        (r#"{"ArnLike":{"aws:SourceArn":"arn:aws:s3:::*"}}"#, false),
        (r#"{"ArnNotLike":{"aws:SourceArn":"arn:aws:s3:::*"}}"#, true),
        (r#"{"Bool":{"aws:SecureTransport":"false"}}"#, false),
        (r#"{"BoolIfExists":{"aws:MultiFactorAuthPresent":"false"}}"#, true),
        (r#"{"Null":{"aws:TokenIssueTime":"true"}}"#, true),
        (r#"{"Null":{"aws:TokenIssueTime":"false"}}"#, false),
        (r#"{"Null":{"aws:TokenIssueTime":["true","false"]}}"#, true),
        (
            r#"{"StringNotEquals":{"aws:SourceVpce":"x"},"StringEquals":{"wardfs:Uid":"7"}}"#,
            false,
        ),
    ] {
        let (read, warnings) = allows(condition);
        assert_eq!(read, expected, "{condition}");
        let told = |w: &Warning| w.message.contains("no caller on this machine has aws:");
        assert!(warnings.iter().any(told), "{condition}: {warnings:?}");
    }
}

#[test]
fn a_deny_that_asks_for_a_missing_key_denies_by_its_negation_alone() {
    for (condition, denied) in [
        (r#"{"StringNotEquals":{"aws:SourceVpce":"vpce-1"}}"#, true),
        (r#"{"StringNotEqualsIfExists":{"aws:SourceVpce":"vpce-1"}}"#, true),
        (r#"{"StringEquals":{"aws:SourceVpce":"vpce-1"}}"#, false),
        (r#"{"Bool":{"aws:SecureTransport":"false"}}"#, false),
    ] {
        let policy = compiled(&when("Deny", condition));
        let read = read(&policy, Caller::new(0, 0));
        assert_eq!(read == DENIED, denied, "{condition}");
    }
}

#[test]
fn names_count_in_any_case_and_none_is_there_twice_or_ours() {
    let (read, _) = allows(r#"{"StringNotEquals":{"AWS:sourcevpce":"x"}}"#);
    assert!(read);
    let mut names: Vec<String> = foreign::KEYS.iter().map(|k| k.to_lowercase()).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(
        !names
            .iter()
            .any(|n| n.starts_with("wardfs:") || n == "aws:principalarn" || n == "aws:username")
    );
}
