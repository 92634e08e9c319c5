//! What an explanation says, word for word, layer by layer.

use super::*;

const READ: &str = r#""Action":"secretsmanager:GetSecretValue","Resource":"*""#;
const TAG: &str = r#""Action":"secretsmanager:TagResource","Resource":"*""#;

fn document(statements: &[String]) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{}]}}"#,
        statements.join(",")
    )
}

fn statement(sid: &str, effect: &str, rest: &str) -> String {
    format!(r#"{{"Sid":"{sid}","Effect":"{effect}",{rest}}}"#)
}

/// An explanation of a read by user `app`: the answer, the layer, the statement, and what would change it.
#[track_caller]
fn explained(
    secret: &[String],
    guardrails: &[&[String]],
    identities: &[&[String]],
) -> (Answer, String, String, Vec<String>) {
    let scenario = Scenario {
        principal: Some("user:app".parse().unwrap()),
        resource: "app/db".into(),
        policy: (!secret.is_empty()).then(|| document(secret)),
        guardrails: guardrails.iter().map(|s| document(s)).collect(),
        identity_policies: identities.iter().map(|s| document(s)).collect(),
        ..Scenario::default()
    };
    let said = simulate(&scenario, &Book).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(said.reason.is_none(), said.decision == Answer::Allow);
    (
        said.decision,
        said.layer.into(),
        said.statement.unwrap_or_default(),
        said.change,
    )
}

fn of_app(sid: &str, effect: &str, rest: &str) -> String {
    statement(sid, effect, &format!(r#""Principal":{{"User":"app"}},{rest}"#))
}

const TRACED: &str = r#","Condition":{"Bool":{"wardfs:Traced":"true"}}"#;
const TEAM: &str = r#","Condition":{"StringEquals":{"aws:ResourceTag/team":"db"}}"#;
/// A statement about reading that does not match, since the secret has no tag.
fn of_team(sid: &str, effect: &str) -> String {
    of_app(sid, effect, &format!("{READ}{TEAM}"))
}

#[test]
fn what_is_allowed_says_what_would_deny_it() {
    let secret = [
        of_app("Read", "Allow", READ),
        of_app("Debugged", "Deny", &format!("{READ}{TRACED}")),
        of_team("Team", "Allow"),
    ];
    let (answer, layer, by, change) = explained(&secret, &[], &[]);
    assert_eq!((answer, &*layer, &*by), (Answer::Allow, "secret", "Read"));
    assert_eq!(
        change,
        ["statement Debugged of the secret's policy would deny it if wardfs:Traced is true"]
    );
}

#[test]
fn a_deny_says_what_would_have_to_go_and_only_that_if_it_is_allowed_otherwise() {
    let deny = of_app("No", "Deny", READ);
    let goes = "statement No of the secret's policy denies it: it would have to go, or not match";
    let (answer, layer, by, change) = explained(
        &[
            of_app("Read", "Allow", READ),
            deny.clone(),
            of_team("Team", "Allow"),
        ],
        &[],
        &[],
    );
    assert_eq!((answer, &*layer, &*by), (Answer::ExplicitDeny, "secret", "No"));
    assert_eq!(change, [goes]);
    // Where nothing allows it besides, that is said as well.
    let (answer, _, _, change) = explained(
        &[deny, of_team("Team", "Allow"), of_team("NotNow", "Deny")],
        &[],
        &[],
    );
    assert_eq!(answer, Answer::ExplicitDeny);
    assert_eq!(
        change,
        [
            goes,
            "statement Team of the secret's policy would allow it if secretsmanager:ResourceTag/team is db",
        ]
    );
}

#[test]
fn what_nothing_allows_says_what_would() {
    let (answer, layer, by, change) =
        explained(&[of_team("Team", "Allow"), of_team("NotNow", "Deny")], &[], &[]);
    assert_eq!((answer, &*layer, &*by), (Answer::ImplicitDeny, "default", ""));
    assert_eq!(
        change,
        [
            "statement Team of the secret's policy would allow it if secretsmanager:ResourceTag/team is db",
            "a statement that allows secretsmanager:GetSecretValue to the caller",
        ]
    );
    let other = statement(
        "Other",
        "Allow",
        &format!(r#""Principal":{{"User":"bob"}},{READ}"#),
    );
    let not = statement(
        "Not",
        "Allow",
        &format!(r#""Principal":{{"AWS":"arn:aws:iam::1:role/x"}},{READ}"#),
    );
    let (_, _, _, change) = explained(&[other, not], &[], &[]);
    assert_eq!(
        change,
        [
            "statement Other of the secret's policy would allow it if the caller were user:bob",
            "statement Not of the secret's policy would allow it if the caller were arn:aws:iam::1:role/x",
            "a statement that allows secretsmanager:GetSecretValue to the caller",
        ]
    );
}

#[test]
fn statements_of_other_layers_are_found_among_all_of_them() {
    let bare = |sid: &str, effect: &str, rest: &str| statement(sid, effect, rest);
    let team = format!("{READ}{TEAM}");
    // Of the second document, in either layer.
    let first = [bare("A", "Deny", TAG), bare("B", "Deny", TAG)];
    let second = [
        bare("D", "Deny", &team),
        bare("E", "Deny", &format!("{READ}{TRACED}")),
        bare("C", "Deny", TAG),
    ];
    let allow = [of_app("Read", "Allow", READ)];
    let (answer, _, _, change) = explained(&allow, &[&first, &second], &[]);
    assert_eq!(answer, Answer::Allow);
    assert_eq!(
        change,
        [
            "guardrail statement guardrail-2/D would deny it if secretsmanager:ResourceTag/team is db",
            "guardrail statement guardrail-2/E would deny it if wardfs:Traced is true",
        ]
    );
    let (_, _, _, change) = explained(&allow, &[], &[&first, &second]);
    assert_eq!(
        change,
        [
            "identity statement identity-policy-2/D would deny it if secretsmanager:ResourceTag/team is db",
            "identity statement identity-policy-2/E would deny it if wardfs:Traced is true",
        ]
    );
    let denies = [bare("Stop", "Deny", READ)];
    let (answer, layer, by, change) = explained(&allow, &[&first, &denies], &[]);
    assert_eq!(
        (answer, &*layer, &*by),
        (Answer::ExplicitDeny, "guardrail", "guardrail-2/Stop")
    );
    assert_eq!(
        change,
        ["guardrail statement guardrail-2/Stop denies it: it would have to go, or not match"]
    );
}

#[test]
fn a_ceiling_without_a_place_for_the_action_says_so() {
    let ceiling = [
        statement("Tags", "Allow", TAG),
        statement("Team", "Allow", &format!("{READ}{TEAM}")),
    ];
    let (answer, layer, by, change) = explained(
        &[of_app("Read", "Allow", READ), of_team("Mine", "Allow")],
        &[&ceiling],
        &[],
    );
    assert_eq!((answer, &*layer, &*by), (Answer::ImplicitDeny, "guardrail", ""));
    assert_eq!(
        change,
        [
            "a guardrail with Allow statements has none for secretsmanager:GetSecretValue",
            "guardrail statement guardrail-1/Team would allow it if secretsmanager:ResourceTag/team is db",
        ]
    );
    // What a ceiling lets through is not yet allowed.
    let lets = [statement("Reads", "Allow", READ)];
    let (answer, layer, _, change) = explained(&[of_team("Mine", "Allow")], &[&lets], &[]);
    assert_eq!((answer, &*layer), (Answer::ImplicitDeny, "default"));
    assert_eq!(
        change,
        [
            "statement Mine of the secret's policy would allow it if secretsmanager:ResourceTag/team is db",
            "a statement that allows secretsmanager:GetSecretValue to the caller",
        ]
    );
}

#[test]
fn a_deny_that_cannot_be_ruled_out_is_a_deny_and_an_allow_that_cannot_be_shown_is_none() {
    let answer = |statements: &[String]| {
        let policy = compiled(&document(statements));
        let (name, shared) = (super::secret(), Shared::default());
        let layers = Layers {
            administration: &ADMINISTRATION,
            shared: &shared,
            secret: Some(&policy),
        };
        let labels = [Label::current()];
        let request = Request {
            labels: &labels,
            ..Request::new(Action::GetSecretValue, Purpose::Read, SecretId(7), &name)
        };
        // Nothing but its ids is known of the caller.
        let mut caller = Caller::new(5, 5).opaque();
        explain(&layers, &Documents::default(), &request, &mut caller)
    };
    let everybody = |sid: &str, effect: &str, more: &str| {
        statement(sid, effect, &format!(r#""Principal":"*",{READ}{more}"#))
    };
    let unit = r#","Condition":{"StringEquals":{"wardfs:Unit":"app.service"}}"#;
    let denied = answer(&[
        everybody("All", "Allow", ""),
        everybody("Unit", "Deny", unit),
        everybody("Team", "Deny", TEAM),
    ]);
    assert_eq!(
        (denied.decision, denied.statement.as_deref(), denied.reason),
        (Answer::ExplicitDeny, Some("Unit"), Some(Reason::NoPid.code()))
    );
    let nothing = answer(&[everybody("Unit", "Allow", unit), everybody("Team", "Deny", TEAM)]);
    assert_eq!(
        (nothing.decision, nothing.reason),
        (Answer::ImplicitDeny, Some(Reason::NoPid.code()))
    );
}
