//! Values of every byte and length, names at their limits, and texts full of terminal escapes and newlines: what is
//! taken comes back as it was, what is not is refused and changes nothing, and no control character of a stranger
//! reaches a terminal.

mod support;

use std::time::Duration;

use support::Deadline;
use support::product::{A, Product, Said, read_as};

/// Clears the screen, forges a line, a record and a prompt, turns the writing direction, and rings.
const HOSTILE: &str =
    "\x1b[2J\x1b]0;owned\x07\r\nerror: forged\n{\"seq\":1}\u{202e}\u{9b}31m\x7f\u{feff}\u{200b}\x08";

#[track_caller]
fn is_plain(said: &Said) {
    for text in [&said.out, &said.err] {
        let bad = text
            .chars()
            .find(|c| c.is_control() && *c != '\n' || "\u{202e}\u{feff}\u{200b}".contains(*c));
        assert_eq!(bad, None, "{text:?}");
        assert!(
            !text
                .lines()
                .any(|l| l.starts_with("error: forged") || l.starts_with("{\"seq\":1}")),
            "{text:?}"
        );
    }
}

#[test]
fn values_of_every_byte_and_of_the_lengths_at_the_limits() {
    let _deadline = Deadline::new(Duration::from_secs(120), "values");
    let product = Product::mounted();
    let allow = ["--allow", &format!("uid:{A}")];
    product.put("app/db", "x", &allow);
    let path = product.path("app/db");
    let lengths = [2, 4095, 4096, 4097, 32_768, 65_535, 65_536];
    let single = (0..=255u8).map(|byte| vec![byte]);
    let long = lengths.map(|n: u32| (0..n).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let all = (0..=255u8).collect::<Vec<_>>();
    for value in single
        .chain(long)
        .chain([all, vec![0; 4096], vec![b'\n'; 3], vec![0xff; 65_536]])
    {
        product.put("app/db", &value, &[]);
        assert_eq!(
            read_as(A, &[], &path).as_ref(),
            Ok(&value),
            "{} bytes",
            value.len()
        );
    }
    for (length, why) in [(0, "empty"), (65_537, "65536 bytes")] {
        let said = product.run_with(&["put", "app/db"], &vec![b'x'; length]);
        assert_eq!(said.code(), 2, "{said:?}");
        assert!(said.err.contains(why), "{said:?}");
        assert_eq!(
            read_as(A, &[], &path),
            Ok(vec![0xff; 65_536]),
            "nothing was changed"
        );
    }
    product.run(&["store", "check"]).ok();
}

#[test]
fn names_at_their_limits_and_beyond() {
    let _deadline = Deadline::new(Duration::from_secs(60), "names");
    let product = Product::mounted();
    let allow = ["--allow", &format!("uid:{A}")];
    let segment = "s".repeat(255);
    let longest = format!("t{0}/{segment}/t", &segment[2..]);
    assert_eq!(longest.len(), 512);
    let deep = format!("{}x", "d/".repeat(200));
    let alphabet = "AZaz09_+=.@-";
    for name in ["a", &segment, &longest, &deep, alphabet] {
        product.put(name, "v", &allow);
        assert_eq!(read_as(A, &[], &product.path(name)), Ok(b"v".to_vec()), "{name}");
    }
    let before = product.run(&["--json", "list"]).ok().out;
    let too_long = "s".repeat(256);
    let too_long_whole = format!("{longest}x");
    for name in [
        "",
        "/",
        "a/",
        "/a/b",
        "a//b",
        ".",
        "..",
        "x/..",
        "x/.hidden",
        "a/x",
        "a\nb",
        "a b",
        "a\x1b[2Jb",
        "ä",
        "\u{202e}abc",
        "a\\b",
        "a:b",
        "*",
        "$(id)",
        &too_long,
        &too_long_whole,
        HOSTILE,
    ] {
        let said = product.run_with(&["put", "--", name], b"v");
        assert!(matches!(said.code(), 2 | 5), "{name:?}: {said:?}");
        is_plain(&said);
        assert_eq!(product.run(&["--json", "list"]).ok().out, before, "{name:?}");
    }
    // Names that could be options or paths elsewhere are names.
    for name in ["-rf", "--json", "etc.passwd", "@", "="] {
        let said = product.run_with(&["put", "--", name], b"v");
        assert!(matches!(said.code(), 0 | 2), "{name}: {said:?}");
        is_plain(&said);
    }
}

#[test]
fn texts_with_escapes_are_refused_or_shown_harmless() {
    let _deadline = Deadline::new(Duration::from_secs(60), "texts");
    let product = Product::mounted();
    product.put("app/db", "v", &["--allow", &format!("uid:{A}")]);
    // Whatever takes a text takes this one, or says plainly that it does not.
    let tag = format!("{HOSTILE}={HOSTILE}");
    for args in [
        &["put", "app/db", "--description", HOSTILE][..],
        &["put", "app/db", "--tag", &tag],
        &["put", "app/db", "--label", HOSTILE],
        &["put", "app/db", "--token", HOSTILE],
        &["put", "app/db", "--arn", HOSTILE],
        &["put", "app/db", "--owner", HOSTILE],
        &["put", "app/db", "--allow", HOSTILE],
        &["put", "app/db", "--policy", HOSTILE],
        &["put", "app/db", "--value-file", HOSTILE],
        &["tag", "app/db", &tag],
        &["label", "app/db", HOSTILE],
        &["policy", "show", HOSTILE],
        &["policy", "allow", "app/db", HOSTILE],
        &["why", HOSTILE],
        &["why", "app/db", "--user", HOSTILE],
        &["get", HOSTILE],
        &["describe", HOSTILE],
        &["delete", HOSTILE],
        &["audit", "query", "--secret", HOSTILE],
        &["audit", "query", "--since", HOSTILE],
        &["mount", HOSTILE, "-o", HOSTILE],
        &[HOSTILE],
        &["--store", HOSTILE, "list"],
    ] {
        let said = product.run_with(args, b"v");
        assert!((0..=7).contains(&said.code()), "{args:?}: {said:?}");
        is_plain(&said);
    }
    for args in [
        &["describe", "app/db"][..],
        &["list"],
        &["list", "--long"],
        &["versions", "app/db"],
        &["policy", "show", "app/db"],
        &["audit", "tail"],
        &["audit", "query"],
        &["status"],
    ] {
        is_plain(&product.run(args));
    }
    // In JSON the text is what it was, escaped as JSON escapes.
    let shown = product.run(&["--json", "describe", "app/db"]).ok();
    is_plain(&Said {
        out: shown
            .out
            .replace(['\u{202e}', '\u{feff}', '\u{200b}', '\u{9b}', '\x7f'], ""),
        ..shown
    });
    product.run(&["audit", "verify"]).ok();
    product.run(&["store", "check"]).ok();
}
