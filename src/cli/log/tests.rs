use super::*;
use serde_json::json;
use std::io::Write;

fn record(seq: u64, uid: u32, secret: &str, outcome: &str) -> String {
    let time = jiff::Timestamp::from_second(1_800_000_000 + seq as i64).unwrap();
    json!({"seq": seq, "eventTime": time.to_string(), "eventName": "GetSecretValue", "uid": uid, "pid": 9, "command": "cat",
        "requestParameters": {"secretId": secret}, "outcome": outcome})
    .to_string()
}

/// A log of ten records in three segments whose names are in no useful order.
fn store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("audit")).unwrap();
    for (name, range) in [("b", 1..4), ("a", 4..8), ("c", 8..11)] {
        let lines: String = range
            .map(|n| {
                record(
                    n,
                    n as u32 % 2 + 4_000_000_000,
                    if n > 5 { "x" } else { "y" },
                    if n % 3 == 0 { "denied" } else { "ok" },
                ) + "\n"
            })
            .collect();
        std::fs::write(dir.path().join(format!("audit/{name}.jsonl")), lines).unwrap();
    }
    std::fs::write(dir.path().join("audit/reserve"), "not a segment").unwrap();
    dir
}

fn numbers(text: &str) -> Vec<u64> {
    text.lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].as_u64().unwrap())
        .collect()
}

fn query(store: &Path, filter: Filter) -> Vec<u64> {
    let (mut output, out, _) = Output::captured(true);
    Log::of(store).query(&filter, &mut output).unwrap();
    numbers(&out.text())
}

#[test]
fn records_come_in_their_order_and_filters_combine() {
    let dir = store();
    let of = |filter| query(dir.path(), filter);
    assert_eq!(of(Filter::default()), (1..11).collect::<Vec<_>>());
    assert_eq!(
        of(Filter {
            uid: Some(4_000_000_001),
            ..Filter::default()
        }),
        [1, 3, 5, 7, 9]
    );
    assert_eq!(
        of(Filter {
            denied: true,
            ..Filter::default()
        }),
        [3, 6, 9]
    );
    assert_eq!(
        of(Filter {
            denied: true,
            secret: Some("x".parse().unwrap()),
            ..Filter::default()
        }),
        [6, 9]
    );
    assert_eq!(
        of(Filter {
            limit: Some(2),
            ..Filter::default()
        }),
        [9, 10]
    );
    assert_eq!(
        of(Filter {
            limit: Some(0),
            ..Filter::default()
        }),
        [] as [u64; 0]
    );
    assert_eq!(
        of(Filter {
            event: Some("getsecretvalue".into()),
            limit: Some(1),
            ..Filter::default()
        }),
        [10]
    );
    assert_eq!(
        of(Filter {
            event: Some("Other".into()),
            ..Filter::default()
        }),
        [] as [u64; 0]
    );
    let at = |n: i64| Some(jiff::Timestamp::from_second(1_800_000_000 + n).unwrap());
    assert_eq!(
        of(Filter {
            since: at(4),
            until: at(6),
            ..Filter::default()
        }),
        [4, 5, 6]
    );
}

#[test]
fn lines_are_given_to_programs_as_they_are() {
    let dir = store();
    let path = dir.path().join("audit/c.jsonl");
    std::fs::write(&path, "{\"seq\":8,  \"mac\":\"A\", \"b\":1e0}\n").unwrap();
    let (mut output, out, _) = Output::captured(true);
    Log::of(dir.path())
        .query(
            &Filter {
                limit: Some(1),
                ..Filter::default()
            },
            &mut output,
        )
        .unwrap();
    assert_eq!(out.text(), "{\"seq\":8,  \"mac\":\"A\", \"b\":1e0}\n");
}

#[test]
fn tail_takes_the_latest_across_segments() {
    let dir = store();
    for (lines, first) in [(0, 11), (1, 10), (3, 8), (4, 7), (8, 3), (100, 1)] {
        let (mut output, out, _) = Output::captured(true);
        Log::of(dir.path()).tail(lines, false, &mut output).unwrap();
        assert_eq!(numbers(&out.text()), (first..11).collect::<Vec<_>>(), "{lines}");
    }
}

#[test]
fn following_shows_each_whole_line_once() {
    let dir = store();
    let log = Log::of(dir.path());
    let (mut output, out, _) = Output::captured(true);
    let (mut tail, mut names) = (Tail::default(), Names::default());
    for segment in log.segments().unwrap() {
        tail.advance(&segment, |_| {}).unwrap();
    }
    let mut news = || log.news(&mut tail, &mut names, &mut output).unwrap();
    let append = |name: &str, text: &str| {
        let path = dir.path().join("audit").join(name);
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    };
    news();
    assert_eq!(out.text(), "");
    let eleven = record(11, 1, "x", "ok");
    append("c.jsonl", &eleven[..20]);
    news();
    assert_eq!(out.text(), "", "half a line is not shown");
    append("c.jsonl", &format!("{}\n", &eleven[20..]));
    append(
        "d.jsonl",
        &format!("{}\n{}\n", record(12, 1, "x", "ok"), record(13, 1, "x", "ok")),
    );
    news();
    news();
    assert_eq!(numbers(&out.text()), [11, 12, 13]);
    // A torn line that is cut back is not mistaken for one already shown.
    append("d.jsonl", "{\"seq\":14, torn");
    news();
    let path = dir.path().join("audit/d.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &whole[..=whole.rfind('\n').unwrap()]).unwrap();
    append("d.jsonl", &format!("{}\n", record(14, 1, "x", "ok")));
    news();
    assert_eq!(numbers(&out.text()), [11, 12, 13, 14]);
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
    let bad = shown(b"\xff\x1b[2J not json\n", false, &mut Names::default());
    assert!(bad.starts_with("(no record)") && !bad.contains('\u{1b}'));
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
        assert_eq!(instant("--since", text, now).unwrap().to_string(), is, "{text}");
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
    let Err(Stop::Problem(problem)) = Log::of(dir.path()).query(&Filter::default(), &mut output) else {
        panic!()
    };
    assert_eq!(problem.exit, Exit::NotFound);
}
