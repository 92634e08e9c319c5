use super::*;
use crate::policy::Difference;
use std::os::unix::fs::PermissionsExt;

fn fails(text: &str) -> String {
    match Config::parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(why) => why,
    }
}

/// The template with every setting's `#` removed.
fn uncommented() -> String {
    let setting = |l: &str| {
        l.strip_prefix('#')
            .filter(|r| r.starts_with(|c: char| c.is_ascii_lowercase()))
            .map(str::to_owned)
    };
    Config::TEMPLATE
        .lines()
        .map(|l| setting(l).unwrap_or_else(|| l.to_owned()) + "\n")
        .collect()
}

#[test]
fn the_template_says_the_defaults_and_every_key() {
    assert_eq!(Config::parse(Config::TEMPLATE).unwrap(), Config::default());
    let all = uncommented();
    assert_eq!(Config::parse(&all).unwrap(), Config::default());
    let table: toml::Table = all.parse().unwrap();
    let keys: Vec<&str> = table.keys().map(String::as_str).collect();
    // What serde says it knows is what the template must hold.
    let known = toml::from_str::<Written>("x = 1")
        .err()
        .unwrap()
        .message()
        .to_owned();
    let known: Vec<&str> = known.split('`').skip(3).step_by(2).collect();
    assert_eq!(known.len(), 9, "{known:?}");
    for key in known {
        assert!(keys.contains(&key), "{key} is not in the template");
    }
    let audit = table["audit"].as_table().unwrap();
    let keys: Vec<&str> = audit.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "low_space_bytes",
            "reserve_bytes",
            "segment_bytes",
            "uid_bytes_per_second"
        ]
    );
}

#[test]
fn the_template_explains_each_setting() {
    let lines: Vec<&str> = Config::TEMPLATE.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        if line.starts_with('#') && line.chars().nth(1).is_some_and(|c| c.is_ascii_lowercase()) {
            assert!(
                i > 0 && lines[i - 1].starts_with("# "),
                "{line} has no explanation above it"
            );
        }
    }
}

#[test]
fn the_example_of_principals_is_valid() {
    let example: String = Config::TEMPLATE
        .lines()
        .filter_map(|l| l.strip_prefix("#   "))
        .map(|l| format!("{l}\n"))
        .collect();
    let config = Config::parse(&format!("[principals]\n{example}")).unwrap();
    assert_eq!(
        config.principals.0["arn:aws:iam::123456789012:role/app"],
        ["user:app", "unit:app.service"].map(|l| l.parse().unwrap())
    );
    assert_eq!(config.principals.0.len(), 2);
}

#[test]
fn errors_show_the_place_and_a_suggestion() {
    assert_eq!(
        fails("threads = 2\nmax_value_byte = 5\n"),
        "unknown key `max_value_byte`; did you mean `max_value_bytes`? (line 2, column 1)\n\
         2 | max_value_byte = 5\n  \u{20}| ^^^^^^^^^^^^^^"
            .replace("  \u{20}|", "  |")
    );
    assert_eq!(
        fails("threads = 0"),
        "0 is out of bounds: 1 to 64 (line 1, column 11)\n1 | threads = 0\n  |           ^"
    );
    assert!(fails("zzz = 1").contains("the keys here are max_value_bytes, threads,"));
    assert!(fails("[audit]\nsegment_byte = 1").contains("did you mean `segment_bytes`? (line 2, column 1)"));
    assert!(fails("[principal]").contains("did you mean `principals`?"));
    assert!(fails("max_value_bytes = 1048577").contains("1 to 1048576"));
    assert!(fails("threads = \"2\"").contains("line 1, column 11"));
    assert!(fails("threads = 2\nthreads = 3").contains("line 2"));
    assert!(fails("threads = ").contains("line 1"));
    assert!(fails("threads = -1").contains("line 1"));
    assert!(fails("admin_group = \"\"").contains("a group's name is needed"));
    assert!(fails("key_file = \"keys/\"").contains("the path of a file"));
    assert!(fails("[audit]\nsegment_bytes = 1").contains("65536 to 1073741824"));
}

#[test]
fn principals_are_whole_arns_and_known_kinds() {
    let one = |locals: &str| format!("[principals]\n\"arn:aws:iam::1:role/a\" = {locals}\n");
    assert!(
        Config::parse(&one(
            "[\"user:a\", \"uid:7\", \"group:b\", \"gid:8\", \"unit:a.service\"]"
        ))
        .is_ok()
    );
    assert!(fails(&one("[\"users:a\"]")).contains("did you mean `user:`?"));
    for bad in [
        "[\"a\"]",
        "[\"uid:x\"]",
        "[\"uid:-1\"]",
        "[\"user:\"]",
        "[\"user:7\"]",
        "[\"user:*\"]",
        "[\"unit:app\"]",
        "[\"service:wardfs-rotator\"]",
        "\"a\"",
        "\"user:*\"",
        "\"\"",
        "[1]",
        "7",
        "{ user = \"a\" }",
        "[[\"user:a\"]]",
    ] {
        assert!(fails(&one(bad)).contains("line 2"), "{bad}");
    }
    assert!(fails(&one("[\"gid:61184\"]")).contains("gives to units dynamically"));
    assert!(fails(&one("[]")).contains("it stands for nobody"));
    // One is the list of it, and has its place as one of a list has.
    let said = |locals: &str| Config::parse(&one(locals)).map(|c| c.principals);
    assert_eq!(said("\"user:a\""), said("[\"user:a\"]"));
    assert_eq!(said("'unit:a.service'"), said("[\"unit:a.service\"]"));
    assert!(fails(&one("\"users:a\"")).contains("did you mean `user:`? (line 2, column 27)"));
    assert!(fails(&one("[\"user:b\", \"users:a\"]")).contains("did you mean `user:`? (line 2, column 38)"));
    assert!(fails(&one("7")).contains("a text or a list of texts, as \"user:app\""));
    for bad in ["*", "arn:aws:iam::1:role/*", "arn:x"] {
        assert!(
            fails(&format!("[principals]\n\"{bad}\" = [\"user:a\"]")).contains("without wildcards"),
            "{bad}"
        );
    }
}

#[test]
fn hostile_text_neither_panics_nor_drives_the_terminal() {
    let why = fails("\u{1b}[2J = 1\n");
    assert!(!why.contains('\u{1b}'), "{why:?}");
    let why = fails("\"\\u001b[2J\" = 1\n");
    assert!(!why.contains('\u{1b}'), "{why:?}");
    for text in [
        "é = é",
        "\u{feff}x",
        "a = '\u{202e}'",
        "[",
        "\"",
        "é\n\té = 1",
        "[principals]\né = 1",
        "\r\n\r\nx=\r\n",
    ] {
        fails(text);
    }
    fails(&"[".repeat(100_000));
    fails(&format!("a = {}", "[".repeat(10_000)));
}

#[test]
fn only_a_file_that_nobody_else_could_have_written_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    assert_eq!(
        Config::load(dir.path()).unwrap(),
        Config::default(),
        "no file, no settings"
    );

    std::fs::write(&path, "threads = 7\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(Config::load(dir.path()).unwrap().threads, 7);

    for mode in [0o664, 0o646, 0o666] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let problem = Config::load(dir.path()).unwrap_err();
        assert_eq!(problem.exit, Exit::Usage);
        assert!(problem.why.contains("others can write it"), "{}", problem.why);
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        assert!(Config::load(dir.path()).unwrap_err().why.contains("uid 65534"));
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(Config::load(dir.path()).unwrap_err().why.contains("regular file"));
    std::fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    assert!(
        Config::load(dir.path()).unwrap_err().why.contains("regular file"),
        "and it does not hang"
    );
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(Config::load(dir.path()).unwrap_err().why.contains("UTF-8"));
    std::fs::write(&path, "#".repeat(FILE_CEILING as usize + 1)).unwrap();
    assert!(Config::load(dir.path()).unwrap_err().why.contains("longer than"));
}

#[test]
fn install_writes_what_load_believes_and_nothing_over_another() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        Config::install(&Dir::open(dir.path()).unwrap())
            .unwrap()
            .is_some()
    );
    assert_eq!(Config::load(dir.path()).unwrap(), Config::default());
    std::fs::write(dir.path().join(FILE), "threads = 2\n").unwrap();
    assert!(
        Config::install(&Dir::open(dir.path()).unwrap())
            .unwrap()
            .is_none()
    );
    assert_eq!(Config::load(dir.path()).unwrap().threads, 2);
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    std::os::unix::fs::symlink("elsewhere", dir.path().join(FILE)).unwrap();
    assert!(
        Config::install(&Dir::open(dir.path()).unwrap())
            .unwrap()
            .is_none(),
        "a link is not followed"
    );
    assert!(!dir.path().join("elsewhere").exists());
    std::fs::write(dir.path().join("elsewhere"), "root:*:20228:0\n").unwrap();
    let refused = Config::load(dir.path()).unwrap_err();
    assert!(
        refused.why.contains("what the link leads to") && !refused.why.contains("20228"),
        "{refused:?}"
    );
}

#[test]
fn what_comes_into_a_record_has_bounds() {
    let arn = |n: usize| format!("arn:aws:iam::123456789012:role/{}", "a".repeat(n));
    assert!(Config::parse(&format!("admin_group = \"{}\"", "é".repeat(32))).is_ok());
    let why = fails(&format!("admin_group = \"{}\"", "A".repeat(33)));
    assert!(why.contains("at most 32 characters"), "{why}");
    let why = fails(&format!("[principals]\n\"{}\" = \"uid:1\"", arn(2048)));
    assert!(why.contains("at most 2048 bytes"), "{why}");
    let why = fails(&format!(
        "[principals]\n\"{}\" = \"user:{}\"",
        arn(1),
        "x".repeat(300)
    ));
    assert!(why.contains("at most 300 bytes"), "{why}");
    let many = |n: u32| {
        let uids: Vec<String> = (1..=n).map(|i| format!("\"uid:{i}\"")).collect();
        format!("[principals]\n\"{}\" = [{}]", arn(1), uids.join(","))
    };
    assert!(Config::parse(&many(256)).is_ok());
    let why = fails(&many(257));
    assert!(why.contains("at most 256"), "{why}");
    // In a record each difference is cut.
    let group = |name: String| Deciding {
        admin_group: name,
        ..Config::default().deciding(|_| None)
    };
    let old = group("a".into());
    let words = Difference::words(&old.differences(&group("漢".repeat(10_000))));
    assert!(words.len() < 600 && words.ends_with("…[cut]"), "{words}");
}
