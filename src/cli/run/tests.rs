use super::super::tests::Fake;
use super::*;
use clap::Parser;

/// Runs a command line in a fake world: standard output, standard error, and the exit code.
fn typed(world: &Fake, line: &[&str]) -> (String, String, u8) {
    typed_at(world, Path::new("/nonexistent"), line)
}

fn typed_at(world: &Fake, store: &Path, line: &[&str]) -> (String, String, u8) {
    let cli = super::super::args::Cli::try_parse_from(std::iter::once("wardfs").chain(line.iter().copied()))
        .unwrap();
    let (mut output, out, err) = Output::captured(cli.global.json);
    output.quiet = cli.global.quiet;
    let done = super::super::plan::plan(cli.command)
        .map_err(Stop::from)
        .and_then(|p| run(p, store, world, &mut output));
    let code = match done {
        Ok(()) | Err(Stop::Closed) => 0,
        Err(Stop::Answered(exit)) => exit as u8,
        Err(Stop::Problem(problem)) => {
            output.problem(&problem);
            problem.exit as u8
        }
    };
    (out.text(), err.text(), code)
}

#[test]
fn a_put_sends_the_bytes_of_the_file_as_they_are() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"s3cret\n").unwrap();
    let world = Fake::replying(&[(
        "put",
        Ok(json!({"name": "a", "version": "v", "created": true, "readers": []})),
    )]);
    let path = file.path().to_str().unwrap();
    let (out, _, code) = typed(&world, &["put", "a", "--value-file", path]);
    assert_eq!((code, world.stored.borrow().as_slice()), (0, &b"s3cret\n"[..]));
    assert!(out.starts_with("Stored a, a new secret\n") && !out.contains("s3cret"));
    let (out, err, _) = typed(&world, &["-q", "put", "a", "--value-file", path]);
    assert_eq!((out.as_str(), err.as_str()), ("", ""));
    let (out, _, _) = typed(&world, &["put", "a", "--json", "--value-file", path]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["version"], "v");
}

#[test]
fn the_configured_limit_holds_before_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("wardfs.toml"), "max_value_bytes = 4\n").unwrap();
    let file = dir.path().join("v");
    std::fs::write(&file, b"12345").unwrap();
    let world = Fake::default();
    let (_, err, code) = typed_at(
        &world,
        dir.path(),
        &["put", "a", "--value-file", file.to_str().unwrap()],
    );
    assert_eq!(code, 2);
    assert!(
        err.contains("longer than 4 bytes") && err.contains("max_value_bytes"),
        "{err}"
    );
    assert!(world.commands().is_empty());

    std::fs::write(dir.path().join("wardfs.toml"), "max_value_byte = 4\n").unwrap();
    let (_, err, code) = typed_at(
        &world,
        dir.path(),
        &["put", "a", "--value-file", file.to_str().unwrap()],
    );
    assert_eq!(code, 2);
    assert!(
        err.contains("  why:  unknown key") && err.contains("\n        1 | max_value_byte = 4\n"),
        "{err}"
    );
}

#[test]
fn get_gives_the_bytes_and_nothing_else() {
    let world = Fake::default();
    world.stored.borrow_mut().extend_from_slice(b"s3cret");
    assert_eq!(typed(&world, &["get", "a"]), ("s3cret".into(), String::new(), 0));
    assert_eq!(
        typed(&world, &["get", "a", "--json"]).0,
        "{\"name\":\"a\",\"value\":\"s3cret\"}\n"
    );
}

#[test]
fn init_prints_the_recovery_key_once() {
    let (out, _, code) = typed(&Fake::default(), &["init"]);
    assert_eq!((code, out.matches("AB-CD").count()), (0, 1));
    assert!(out.contains("/nonexistent/root.key") && out.contains("/nonexistent/wardfs.toml"));
    let (out, _, _) = typed(&Fake::default(), &["init", "--json"]);
    let made: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (made["recovery_key"].as_str(), made["key_file"].as_str()),
        (Some("AB-CD"), Some("/nonexistent/root.key"))
    );
}

#[test]
fn a_damaged_store_is_exit_6_after_the_answer() {
    let world = Fake::replying(&[(
        "store_check",
        Ok(json!({"ok": false, "problems": [{"name": "a", "what": "b"}]})),
    )]);
    let (out, err, code) = typed(&world, &["store", "check", "--json"]);
    assert_eq!(code, 6);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["ok"], false);
    assert_eq!(serde_json::from_str::<Value>(&err).unwrap()["error"]["exit"], 6);
    // An answer that does not say so is no good news either.
    assert_eq!(typed(&Fake::default(), &["store", "check"]).2, 6);
}

#[test]
fn each_problem_keeps_its_exit_code() {
    use Exit::*;
    for exit in [Failed, Usage, Denied, NotFound, Conflict, Integrity, Unavailable] {
        let world = Fake::replying(&[(
            "describe",
            Err(Problem::new(exit, "what\u{1b}", "why").next("next")),
        )]);
        let (out, err, code) = typed(&world, &["describe", "a"]);
        assert_eq!((out.as_str(), code), ("", exit as u8));
        assert_eq!(err, "error: what\\u{1b}\n  why:  why\n  next: next\n");
    }
}

#[test]
fn why_finds_the_secret_behind_a_path() {
    let status = json!({"running": true, "mount": "/run/secrets"});
    let world = Fake::replying(&[
        ("status", Ok(status.clone())),
        ("why", Ok(json!({"words": "Because."}))),
    ]);
    let (out, _, code) = typed(&world, &["why", "/run/secrets/app/x", "--uid", "7"]);
    assert_eq!((out.as_str(), code), ("Because.\n", 0));
    assert_eq!(
        world.calls.borrow()[1],
        json!({"command": "why", "name": "app/x", "about": {"uid": 7}})
    );

    let none = Problem::new(Exit::NotFound, "no such secret", "x");
    let world = Fake::replying(&[("status", Ok(status)), ("why", Err(none))]);
    assert_eq!(typed(&world, &["why", "/run/secrets/.versions/a/b/current"]).2, 4);
    let asked: Vec<Value> = world
        .calls
        .borrow()
        .iter()
        .skip(1)
        .map(|c| c["name"].clone())
        .collect();
    assert_eq!(asked, [json!("a/b/current"), json!("a/b")]);

    let world = Fake::replying(&[("status", Ok(json!({"running": false, "mount": "/run/secrets"})))]);
    assert_eq!(typed(&world, &["why", "/run/secrets/a"]).2, 2);
    assert_eq!(world.commands(), ["status"]);
}

#[test]
fn unmount_never_ends_another_mount() {
    let world = Fake::replying(&[
        ("status", Ok(json!({"running": true, "mount": "/m"}))),
        ("unmount", Ok(json!({"mount": "/m"}))),
    ]);
    let (_, err, code) = typed(&world, &["unmount", "/other"]);
    assert_eq!(code, 4);
    assert!(err.contains("is mounted on /m"), "{err}");
    assert_eq!(world.commands(), ["status"]);
    assert_eq!(
        typed(&world, &["unmount", "/m/"]),
        ("Unmounted /m\n".into(), String::new(), 0)
    );
    assert_eq!(world.commands(), ["status", "status", "unmount"]);

    let world = Fake::replying(&[("status", Ok(json!({"running": false})))]);
    assert_eq!(typed(&world, &["unmount", "/m"]).2, 0);
    assert_eq!(world.commands(), ["status", "unmount_dead"]);
    let world = Fake {
        closed: true,
        ..Fake::default()
    };
    assert_eq!(typed(&world, &["unmount", "/m"]).2, 0);
    assert_eq!(world.commands(), ["unmount_dead"]);
}

#[test]
fn threads_of_the_command_line_go_before_the_configured() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("wardfs.toml"), "threads = 3\n").unwrap();
    let world = Fake::default();
    typed_at(&world, dir.path(), &["mount", "/m"]);
    typed_at(&world, dir.path(), &["mount", "/m", "--threads", "9"]);
    let threads: Vec<Value> = world
        .calls
        .borrow()
        .iter()
        .map(|c| c["threads"].clone())
        .collect();
    assert_eq!(threads, [3, 9]);
    std::fs::write(dir.path().join("wardfs.toml"), "threads = 0\n").unwrap();
    assert_eq!(
        typed_at(&world, dir.path(), &["mount", "/m", "--threads", "9"]).2,
        2
    );
}

#[test]
fn a_reader_who_has_gone_is_no_failure() {
    assert!(matches!(
        Stop::from(io::Error::from(io::ErrorKind::BrokenPipe)),
        Stop::Closed
    ));
    assert!(
        matches!(Stop::from(io::Error::from(io::ErrorKind::StorageFull)), Stop::Problem(p) if p.exit == Exit::Failed)
    );
}
