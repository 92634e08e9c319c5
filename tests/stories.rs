//! Stories: transcripts on a store that is served, with good and bad input for every command.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::Deadline;
use support::product::{Product, commands};

/// Runs the commands of a transcript, in the directory beside it, and gives the transcript of what they said.
fn played(text: &str, dir: &Path, product: &Product) -> String {
    let bin = Path::new(env!("CARGO_BIN_EXE_wardfs"))
        .parent()
        .expect("a directory");
    let mut played = String::new();
    // What stands below a command, up to the next empty line or end of the block, is what it said the last time.
    let mut old = false;
    for line in text.lines() {
        old &= !line.is_empty() && !line.starts_with("```");
        if old {
            continue;
        }
        played.push_str(line);
        played.push('\n');
        let Some(command) = line.strip_prefix("$ ") else {
            continue;
        };
        old = true;
        let output = Command::new("/bin/sh")
            .args(["-c", command])
            .current_dir(dir)
            .env_clear()
            .envs(support::coverage())
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("WARDFS_STORE", product.store())
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        if let Some(code @ 1..) = output.status.code() {
            played.push_str(&format!("? {code}\n"));
        }
        for said in [output.stdout, output.stderr] {
            let said = String::from_utf8(said).expect("text");
            // An empty line would end it.
            played.extend(said.lines().map(|l| {
                if l.is_empty() {
                    "\u{b7}\n".into()
                } else {
                    format!("{l}\n")
                }
            }));
        }
    }
    played
}

#[test]
fn stories() {
    let _deadline = Deadline::new(Duration::from_secs(60), "stories");
    let mut redactions = snapbox::Redactions::new();
    for (name, pattern) in [
        (
            "[UUID]",
            "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        ),
        ("[TIME]", "2[0-9]{3}-[0-9]{2}-[0-9]{2}[ T][0-9:.]+Z"),
        ("[KEY]", "([0-9A-HJKMNP-TV-Z]{8}-){7}[0-9A-HJKMNP-TV-Z]{8}"),
        ("[PID]", "pid\":[0-9]+"),
        ("[BYTES]", "[0-9]+ bytes, into"),
    ] {
        redactions
            .insert(name, regex::Regex::new(pattern).expect("a pattern"))
            .expect("a name");
    }
    for name in ["secrets", "policies", "layers", "store"] {
        let product = Product::mounted();
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
        let dir = product.dir().join("here");
        std::fs::create_dir(&dir).expect("mkdir");
        for file in std::fs::read_dir(here.join(format!("{name}.in")))
            .expect("files")
            .flatten()
        {
            std::fs::copy(file.path(), dir.join(file.file_name())).expect("copy");
        }
        let file = here.join(format!("{name}.trycmd"));
        let said = played(
            &std::fs::read_to_string(&file).expect("a transcript"),
            &dir,
            &product,
        );
        let said = said.replace(product.dir().to_str().expect("a path"), "[DIR]");
        support::product::has_three_lines(&said);
        snapbox::Assert::new()
            .normalize_paths(false)
            .action_env("TRYCMD")
            .redact_with(redactions.clone())
            .eq(
                said,
                snapbox::Data::read_from(&file, Some(snapbox::data::DataFormat::Text)),
            );
    }
}

#[test]
fn every_command_is_seen_with_good_and_with_bad_input() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![std::fs::read_to_string(root.join("README.md")).expect("the README")];
    for dir in ["tests/cli", "tests/stories"] {
        for file in std::fs::read_dir(root.join(dir)).expect("a directory").flatten() {
            if file.path().extension().is_some_and(|e| e == "trycmd") {
                texts.push(std::fs::read_to_string(file.path()).expect("a transcript"));
            }
        }
    }
    // For each line: whether it ends well. A `?` of the next line gives another exit code.
    let mut seen: BTreeMap<String, [bool; 2]> = BTreeMap::new();
    let all = commands(&[]);
    for text in &texts {
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let command = line.replace("cargo run --release -- ", "wardfs ");
            let Some((_, words)) = command
                .split_once("wardfs ")
                .filter(|_| line.starts_with(['$', '#']))
            else {
                continue;
            };
            let good = !lines.peek().is_some_and(|l| l.starts_with('?'));
            let words: Vec<&str> = words.split(' ').filter(|w| !w.starts_with("--")).collect();
            let command = all
                .iter()
                .find(|c| words.starts_with(&c.split(' ').collect::<Vec<_>>()));
            if let Some(command) = command {
                seen.entry(command.clone()).or_default()[usize::from(good)] = true;
            }
        }
    }
    let lacking: Vec<_> = all
        .iter()
        .filter(|c| seen.get(*c) != Some(&[true, true]))
        .map(|c| (c, seen.get(c)))
        .collect();
    assert!(lacking.is_empty(), "[bad, good] of {lacking:?}");
}
