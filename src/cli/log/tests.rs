use super::*;
use serde_json::json;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

/// A store with a log of two segments: three records, a line that is none, and three more.
fn store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(directory(dir.path()))
        .unwrap();
    let line = |n: u32| format!("{{\"seq\":{n},  \"uid\":{}, \"b\":1e0}}\n", 4_000_000_000 + n % 2);
    let segment = |n: u32, text: String| {
        let path = directory(dir.path()).join(format!("{n:08}.jsonl"));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    segment(1, (1..4).map(line).collect());
    segment(
        2,
        format!("no record\u{1b}\n{}", (4..7).map(line).collect::<String>()),
    );
    dir
}

fn numbers(text: &str) -> Vec<u64> {
    text.lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn programs_get_every_line_as_it_is_and_damage_hides_nothing() {
    let dir = store();
    let (mut output, out, err) = Output::captured(true);
    query(
        dir.path(),
        &Query::default(),
        &crate::cli::glue::Machine,
        &mut output,
    )
    .unwrap();
    assert_eq!(numbers(&out.text()), [1, 2, 3, 4, 5, 6]);
    assert!(
        out.text()
            .starts_with("{\"seq\":1,  \"uid\":4000000001, \"b\":1e0}\n")
    );
    assert!(
        err.text().contains("not an audit record") && !err.text().contains('\u{1b}'),
        "{}",
        err.text()
    );
}

#[test]
fn tail_takes_the_latest() {
    let dir = store();
    for (lines, first) in [(0, 7), (1, 6), (4, 3), (100, 1)] {
        let (mut output, out, _) = Output::captured(true);
        let machine = crate::cli::glue::Machine;
        tail(dir.path(), lines, false, &machine, &mut output).unwrap();
        assert_eq!(numbers(&out.text()), (first..7).collect::<Vec<_>>(), "{lines}");
    }
}

#[test]
fn what_was_typed_becomes_the_query() {
    let typed = args::Query {
        user: Some("root".into()),
        secret: Some("app/x".into()),
        event: Some("GetSecretValue".into()),
        denied: true,
        since: Some("2026-11-25".into()),
        limit: Some(3),
        ..args::Query::default()
    };
    let query = query_of(typed).unwrap();
    assert_eq!(
        (query.uid, query.secret.as_deref(), query.event.as_deref()),
        (Some(0), Some("app/x"), Some("GetSecretValue"))
    );
    assert!(query.denied && query.newest && query.limit == Some(3));
    assert_eq!(query.since.unwrap().to_string(), "2026-11-25T00:00:00.000000Z");
    let typed = args::Query {
        secret: Some("/etc".into()),
        ..args::Query::default()
    };
    assert_eq!(query_of(typed).unwrap_err().exit, Exit::Usage);
    let typed = args::Query {
        uid: Some(u32::MAX),
        ..args::Query::default()
    };
    assert_eq!(query_of(typed).unwrap_err().exit, Exit::Usage);
}

#[test]
fn a_process_cannot_forge_a_line_or_drive_the_terminal() {
    let record = json!({"seq": 1, "eventTime": "2026-11-25T08:30:00Z", "eventName": "GetSecretValue", "uid": 4_000_000_001u32, "pid": 7,
        "command": "a\n2026 #2\u{1b}[2J", "unit": "u\u{9b}.service", "requestParameters": {"secretId": "x"}, "outcome": "denied",
        "reason": "implicit_deny", "layer": "resource", "statement": "Deny\r", "suppressed": 12});
    assert_eq!(
        one_line(&record),
        "2026-11-25 08:30:00Z #1 GetSecretValue  x  4000000001 a\\n2026 #2\\u{1b}[2J[7] u\\u{9b}.service  \
         denied (implicit_deny, resource, Deny\\r)  and 12 more like it"
    );
    for odd in [
        json!(null),
        json!([]),
        json!({"uid": -1, "requestParameters": 3, "seq": {"a": "\u{1b}"}}),
    ] {
        assert!(!one_line(&odd).contains('\u{1b}'));
    }
}

#[test]
fn root_has_his_name() {
    assert_eq!(Names::default().of(&json!(0)), "root(0)");
    assert_eq!(Names::default().of(&json!(4_000_000_001u32)), "4000000001");
    assert_eq!(Names::default().of(&json!("0")), "-");
}

#[test]
fn times_are_told_in_three_ways() {
    let now: jiff::Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
    for (text, is) in [
        ("2026-11-25T08:00:00Z", "2026-11-25T08:00:00Z"),
        ("2026-11-25T08:00:00+02:00", "2026-11-25T06:00:00Z"),
        ("2026-11-25", "2026-11-25T00:00:00Z"),
        ("2026-11-25 08:00", "2026-11-25T08:00:00Z"),
        ("90s", "2026-11-25T11:58:30Z"),
        ("15m", "2026-11-25T11:45:00Z"),
        ("2h", "2026-11-25T10:00:00Z"),
        ("7d", "2026-11-18T12:00:00Z"),
    ] {
        assert_eq!(
            instant("--since", text, now).unwrap().to_string(),
            is.replace('Z', ".000000Z"),
            "{text}"
        );
    }
    for bad in [
        "",
        "h",
        "-1h",
        "1y",
        "yesterday",
        "2026-13-01",
        "4294967295w",
        "99999999999h",
        "é",
    ] {
        assert_eq!(
            instant("--since", bad, now).unwrap_err().exit,
            Exit::Usage,
            "{bad}"
        );
    }
}

#[test]
fn a_log_that_is_not_there_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mut output, _, _) = Output::captured(false);
    let Err(Stop::Problem(problem)) = query(
        dir.path(),
        &Query::default(),
        &crate::cli::glue::Machine,
        &mut output,
    ) else {
        panic!()
    };
    assert_eq!(problem.exit, Exit::NotFound);
}
