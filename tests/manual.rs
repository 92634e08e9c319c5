//! Manual pages and completions, by the programs that take them.

use std::io::Write;
use std::process::{Command, Stdio};

fn wardfs(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_wardfs"))
        .args(args)
        .output()
        .expect("run");
    assert!(out.status.success(), "{args:?}: {out:?}");
    String::from_utf8(out.stdout).expect("text")
}

/// Standard output and error of a program that is given this text.
fn piped(program: &str, args: &[&str], text: &str) -> (String, String) {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let text = text.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let out = child.wait_with_output().expect("wait");
    writer.join().expect("writer").expect("write");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(&out.stdout), text(&out.stderr))
}

#[test]
fn every_page_renders_without_a_warning() {
    let dir = tempfile::tempdir().expect("a directory");
    wardfs(&["man", "--output", dir.path().to_str().expect("a path")]);
    let mut pages = 0;
    for section in ["man1", "man5"] {
        for page in std::fs::read_dir(dir.path().join(section)).expect("pages") {
            let path = page.expect("a page").path();
            let text = std::fs::read_to_string(&path).expect("read");
            let (shown, said) = piped("groff", &["-man", "-Tutf8", "-ww", "-Kutf8"], &text);
            assert_eq!(said, "", "{path:?}");
            assert!(shown.lines().count() > 15, "{path:?}: {shown}");
            pages += 1;
        }
    }
    assert!(pages > 30, "{pages} pages");
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = wardfs(&["completions", "bash"]);
    let complete = |typed: &str| {
        let words: Vec<&str> = typed.split(' ').collect();
        let last = words.len() - 1;
        let quoted = words
            .iter()
            .map(|w| format!("'{w}'"))
            .collect::<Vec<_>>()
            .join(" ");
        let ask = format!(
            "{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={last}; _wardfs wardfs '{}' '{}'; echo \"${{COMPREPLY[@]}}\"",
            words[last],
            words[last - 1]
        );
        piped("bash", &["--norc"], &ask).0
    };
    assert_eq!(complete("wardfs pol").trim(), "policy");
    assert!(complete("wardfs policy ").contains("check"));
    assert!(complete("wardfs put x --vis").contains("--visibility"));
}
