use super::*;
use crate::id::SecretName;
use serde_json::json;

fn name() -> SecretName {
    "app/x".parse().unwrap()
}

#[test]
fn put_says_who_may_read_and_that_root_may_not() {
    let put = Request::Put(crate::control::protocol::Put {
        name: name(),
        rules: vec![],
        policy: None,
        description: None,
        owner: None,
        group: None,
        mode: None,
        visibility: None,
        labels: Default::default(),
        tags: Default::default(),
        arn: None,
        only: None,
        version: None,
    });
    let seen = view(
        &put,
        &json!({"name": "app/x", "version": "v1", "created": true, "readers": [{"user": "www-data", "uid": 33}, {"group": "backup", "gid": 34, "except": [{"user": "bob", "uid": 7}]}],
            "root_may_read": false, "warnings": ["w\u{1b}"]}),
    );
    assert_eq!(
        seen.text,
        "Stored app/x, a new secret\n  version  v1\n  read by  user www-data (uid 33)\n           group backup (gid 34), but not user bob (uid 7)\n  \
         root     may not read it: nothing allows root\n"
    );
    assert_eq!(seen.notes, ["warning: w\\u{1b}"]);
    let seen = view(
        &put,
        &json!({"name": "app/x", "version": "v1", "created": false, "readers": [], "root_may_read": true}),
    );
    assert!(
        seen.text.contains("a new version")
            && seen
                .text
                .contains("nobody yet: wardfs policy allow app/x user:NAME")
    );
    assert!(!seen.text.contains("root"));
}

#[test]
fn list_is_a_table_and_an_empty_one_is_silent_on_standard_output() {
    let request = Request::List {
        under: None,
        tags: Default::default(),
        deleted: false,
    };
    let seen = view(
        &request,
        &json!({"secrets": [
            {"name": "app/x", "labels": {"current": "0123456789abcdef"}, "size": 6, "changed": "2026-11-25T08:30:00.1Z", "visibility": "listed", "description": "a\nb",
             "readers": [{"user": "www", "uid": 33, "when": "wardfs:Unit is a.service"}]},
            {"name": "b", "labels": {}, "size": null, "changed": null, "visibility": "hidden", "description": null, "readers": []},
            {"name": "c", "labels": {}, "visibility": "listed", "description": "d", "broken": true},
        ]}),
    );
    assert_eq!(
        seen.text,
        "NAME   CURRENT   SIZE  CHANGED               READERS    VISIBILITY  DESCRIPTION\n\
         app/x  01234567  6     2026-11-25 08:30:00Z  user:www*  listed      a\\nb\n\
         b      -         -     -                     nobody     hidden\n\
         c      -         -     -                     -          listed      DAMAGED: wardfs store check\n"
    );
    let seen = view(&request, &json!({"secrets": []}));
    assert_eq!((seen.text.as_str(), seen.notes.len()), ("", 1));
}

#[test]
fn describe_shows_what_it_was_told_and_no_more() {
    let request = Request::Describe { name: name() };
    let seen = view(
        &request,
        &json!({"name": "app/x", "labels": {"current": "v2", "previous": "v1"}, "versions": 2, "size": 6, "owner": null,
            "visibility": "listed", "readers": [], "you_may_read": false, "root_may_read": false}),
    );
    assert_eq!(
        seen.text,
        "name        app/x\nlabels      current  v2\n            previous  v1\nversions    2\nsize        6 bytes\n\
         visibility  listed\nread by     nobody\nyou         may not read it\nroot        may not read it\n"
    );
}

#[test]
fn a_policy_is_printed_as_given_and_cannot_drive_the_terminal() {
    let request = Request::PolicyGet { name: name() };
    let given = "{\n\t\"a\": \"é\u{202e}\u{7f}\u{9b}\"\r\n}";
    let seen = view(&request, &json!({"policy": {}, "text": given}));
    assert_eq!(seen.text, "{\n\t\"a\": \"é\\u202e\\u007f\\u009b\"\n}\n");
    let (before, after): (Value, Value) = (
        serde_json::from_str(given).unwrap(),
        serde_json::from_str(&seen.text).unwrap(),
    );
    assert_eq!(before, after, "it can be set again");
    let seen = view(&request, &json!({"policy": null, "text": null}));
    assert!(seen.text.is_empty() && seen.notes[0].contains("no policy"));
}

#[test]
fn why_gives_the_words_the_record_and_the_mending_command() {
    let request = Request::Why {
        name: name(),
        version: None,
        about: crate::control::protocol::WhyAbout::Latest,
    };
    let seen = view(
        &request,
        &json!({"who": "uid 65534 (nobody)", "decision": "implicit_deny", "reason": "no_statement", "layer": "resource",
            "statement": null, "words": "No statement allows uid 65534.", "mend": "wardfs policy allow app/x user:nobody",
            "record": {"seq": 7, "eventTime": "2026-11-25T08:30:00.123456Z", "eventName": "GetSecretValue", "uid": 4000000000u32,
                "pid": 9, "command": "cat\u{1b}", "outcome": "denied", "reason": "implicit_deny", "requestParameters": {"secretId": "app/x"}}}),
    );
    assert_eq!(
        seen.text,
        "No statement allows uid 65534.\n\nwho          uid 65534 (nobody)\ndecision     implicit_deny\nreason       no_statement\n\
         layer        resource\nrecord       2026-11-25 08:30:00Z #7 GetSecretValue  app/x  4000000000 cat\\u{1b}[9]  denied (implicit_deny)\n\
         to allow it  wardfs policy allow app/x user:nobody\n"
    );
}

#[test]
fn delete_and_check_and_status_and_verify_say_what_happened() {
    let delete = Request::Delete {
        name: name(),
        purge: false,
        dry_run: false,
    };
    let text = |reply| view(&delete, &reply).text;
    assert_eq!(
        text(json!({"destroyed": 2})),
        "2 values of app/x destroyed; its name keeps its policy\n"
    );
    assert_eq!(
        text(json!({"destroyed": 1, "purged": true, "dry_run": true})),
        "1 value of app/x would be destroyed, and its name and policy would be forgotten; nothing was changed\n"
    );
    assert_eq!(
        view(&Request::StoreCheck, &json!({"ok": false, "secrets": 1, "versions": 2, "values": 2, "problems": [{"name": "a", "what": "b"}, {"name": null, "what": "c"}]})).text,
        "1 secret, 2 versions, 2 values checked: some are damaged\n✗ a: b\n✗ store: c\n"
    );
    let seen = view(
        &Request::Status,
        &json!({"running": true, "pid": 5, "mount": "/m", "audit": {"seq": 3, "segment": "s", "healthy": false}, "counters": {"reads": 4}}),
    );
    assert!(
        seen.text.contains("yes, as process 5")
            && seen.text.contains("IT CANNOT BE WRITTEN")
            && seen.text.contains("reads  4")
    );
    assert_eq!(
        view(
            &Request::AuditVerify,
            &json!({"ok": true, "records": 9, "segments": 1, "first": 1, "last": 9, "last_epoch": 4})
        )
        .text,
        "The log is whole: 9 records in 1 segment, from 1 to 9, epoch 4\n"
    );
}

#[test]
fn a_reply_with_nothing_in_it_is_no_panic() {
    let (n, empty) = (name(), json!({}));
    for request in [
        Request::List {
            under: None,
            tags: Default::default(),
            deleted: false,
        },
        Request::Describe { name: n.clone() },
        Request::Versions { name: n.clone() },
        Request::PolicyGet { name: n.clone() },
        Request::PolicySet {
            name: n.clone(),
            text: String::new(),
            strict: false,
        },
        Request::Delete {
            name: n,
            purge: true,
            dry_run: true,
        },
        Request::StoreCheck,
        Request::Status,
        Request::AuditVerify,
        Request::Unmount,
    ] {
        for reply in [&empty, &Value::Null, &json!([1])] {
            view(&request, reply);
        }
    }
}
