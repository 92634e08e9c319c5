use super::*;
use crate::control::protocol::Rule;

fn typed(line: &[&str]) -> Result<Plan, Problem> {
    let args = std::iter::once("wardfs").chain(line.iter().copied());
    plan(
        args::Cli::typed(args)
            .unwrap_or_else(|e| panic!("{line:?}: {e}"))
            .command,
    )
}

fn refused(line: &[&str]) -> Problem {
    match typed(line) {
        Ok(plan) => panic!("{line:?} became {plan:?}"),
        Err(problem) => problem,
    }
}

#[test]
fn a_typed_value_is_refused_and_not_repeated() {
    for line in [
        &["put", "app/x", "hunter2"][..],
        &["put", "app/x", "a", "hunter2"],
        &["put", "app/x", "--", "-hunter2"],
        &["put", "app/x", "--value", "hunter2"],
        &["put", "app/x", "--value-file", "f", "hunter2"],
    ] {
        let problem = refused(line);
        assert_eq!(problem.exit, Exit::Usage);
        assert!(problem.what.contains("never taken from the command line"));
        assert!(problem.next.contains("wardfs put app/x --value-file FILE"));
        assert!(!problem.to_string().contains("hunter2"));
    }
}

#[test]
fn put_carries_what_was_said() {
    let plan = typed(&[
        "put",
        "app/x",
        "--allow",
        "user:a",
        "--deny",
        "uid:7",
        "--allow",
        "unit:a.service",
        "--description",
        "d",
        "--owner",
        "a",
        "--group",
        "g",
        "--mode",
        "0440",
        "--visibility",
        "hidden",
        "--value-file",
        "v",
    ]);
    let Ok(Plan::Put { put, from }) = plan else {
        panic!("{plan:?}")
    };
    assert_eq!(from, ValueFrom::File("v".into()));
    assert_eq!(put.name.as_str(), "app/x");
    assert_eq!(put.rules.len(), 3);
    assert!(matches!(put.rules[0], Rule::Allow(_)) && matches!(put.rules[2], Rule::Deny(_)));
    assert_eq!(
        (put.mode, put.visibility),
        (Some(0o440), Some(protocol::Visibility::Hidden))
    );
    assert_eq!(
        (
            put.owner.as_deref(),
            put.group.as_deref(),
            put.description.as_deref()
        ),
        (Some("a"), Some("g"), Some("d"))
    );
}

#[test]
fn modes_only_read() {
    for (text, bits) in [
        ("0400", 0o400),
        ("440", 0o440),
        ("0o444", 0o444),
        ("0", 0),
        ("00400", 0o400),
    ] {
        assert_eq!(mode(text).unwrap(), bits);
    }
    for bad in [
        "",
        "0o",
        "0644",
        "0500",
        "777",
        "04444",
        "9",
        "rw",
        "-4",
        "+4",
        "4444444444444444",
        "0x1",
    ] {
        assert_eq!(mode(bad).unwrap_err().exit, Exit::Usage, "{bad}");
    }
}

#[test]
fn names_that_are_paths_or_dangerous_are_told_plainly() {
    assert!(
        refused(&["describe", "/run/secrets/app/x"])
            .why
            .contains("it is a path")
    );
    assert!(refused(&["describe", "../x"]).why.contains("it is a path"));
    assert!(refused(&["describe", "a//b"]).why.contains("empty segment"));
    assert!(refused(&["get", "a\u{1b}[2Jb"]).what.contains("u{1b}"));
    assert!(!refused(&["get", "a\u{1b}[2Jb"]).to_string().contains('\u{1b}'));
    assert!(
        matches!(typed(&["list", "app/"]).unwrap(), Plan::Ask(Request::List { under: Some(u), .. }) if u == "app")
    );
}

#[test]
fn a_delete_without_now_does_nothing() {
    for line in [
        &["delete", "a"][..],
        &["delete", "a", "--purge"],
        &["delete", "a", "--dry-run"],
    ] {
        let problem = refused(line);
        assert_eq!(problem.exit, Exit::Usage);
        assert!(problem.why.contains("recovery window") && problem.why.contains("later"));
    }
    let plan = typed(&["delete", "a", "--now", "--purge", "--dry-run"]);
    assert!(matches!(
        plan,
        Ok(Plan::Ask(Request::Delete {
            purge: true,
            dry_run: true,
            ..
        }))
    ));
}

#[test]
fn versions_and_labels_are_checked() {
    assert!(matches!(
        typed(&["get", "a"]).unwrap(),
        Plan::Get {
            which: None,
            force: false,
            ..
        }
    ));
    let Ok(Plan::Get { which, .. }) = typed(&["get", "a", "--label", "AWSPREVIOUS"]) else {
        panic!()
    };
    assert_eq!(which, Some(Which::Label(Label::previous())));
    assert!(
        refused(&["get", "a", "--version", "../x"])
            .next
            .contains("wardfs versions a")
    );
    assert!(
        refused(&["get", "a", "--label", "../x"])
            .what
            .contains("is not a label")
    );
    assert_eq!(refused(&["why", "a", "--uid", "4294967295"]).exit, Exit::Usage);
}

#[test]
fn documents_are_read_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.json");
    let path = file.to_str().unwrap();
    assert_eq!(refused(&["policy", "set", "a", path]).exit, Exit::NotFound);
    std::fs::write(&file, "{}").unwrap();
    assert!(
        matches!(typed(&["policy", "set", "a", path]), Ok(Plan::Ask(Request::PolicySet { text, .. })) if text == "{}")
    );
    std::fs::write(&file, [0xff]).unwrap();
    assert!(refused(&["policy", "check", path]).why.contains("UTF-8"));
    std::fs::write(&file, " ".repeat(DOCUMENT_CEILING as usize + 1)).unwrap();
    assert!(refused(&["put", "a", "--policy", path]).why.contains("longer"));
    assert!(
        refused(&["policy", "check", dir.path().to_str().unwrap()])
            .what
            .contains("cannot be read")
    );
    assert!(
        refused(&["put", "a", "--policy", "-"])
            .why
            .contains("both come from standard input")
    );
}
