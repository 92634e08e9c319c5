//! Every command line in the documents does what the page says: it is run, and what is named in passing is there.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::Deadline;
use support::product::{Product, read_as};

/// A policy of a secret, an identity policy and a guardrail, for the file names that the pages use.
const POLICY: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"User": "www-data"},
    "Action": "secretsmanager:GetSecretValue", "Resource": "*"}]}"#;
const POLICY_OF_AWS: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam::111122223333:role/app"}, "Action": "secretsmanager:GetSecretValue", "Resource": "*"}]}"#;
const IDENTITY: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
    "Action": "secretsmanager:DescribeSecret", "Resource": "*"}]}"#;
const GUARDRAIL: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*",
    "Action": "secretsmanager:DeleteSecret", "Resource": "*"}]}"#;

/// The lines of a page's blocks of code that run `wardfs`, and the commands that its text names.
fn commands(page: &str) -> (Vec<String>, BTreeSet<String>) {
    let (mut lines, mut named, mut fenced) = (Vec::new(), BTreeSet::new(), false);
    let runs = |line: &str| line.split_whitespace().any(|w| w == "wardfs");
    let mut code = String::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let inside = if fenced {
            Some(line)
        } else {
            line.strip_prefix("    ")
        };
        let Some(inside) = inside else {
            let quoted = line.split('`').skip(1).step_by(2);
            // What keys are derived from looks alike.
            let command = |q: &&str| q.starts_with("wardfs ") && !q.contains("root/") && !q.ends_with(" 1");
            named.extend(quoted.filter(command).map(str::to_string));
            continue;
        };
        // A line that goes on in the next.
        code += inside.trim().trim_start_matches("$ ").trim_start_matches("# ");
        if let Some(more) = code.strip_suffix('\\') {
            code = more.to_string();
            continue;
        }
        let line = std::mem::take(&mut code);
        // What it derives keys from is no command.
        if runs(&line) && !line.contains(" = ") && !line.contains('\u{2016}') {
            lines.push(line);
        }
    }
    (lines, named)
}

/// The words after `wardfs` that name a command.
fn words(line: &str) -> Vec<String> {
    let after = line.split_once("wardfs ").map_or("", |(_, after)| after);
    let mut words = after.split_whitespace();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "--store" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            word if word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && found.len() < 2 => {
                found.push(word.to_string());
            }
            _ => break,
        }
    }
    found
}

/// That there is such a command.
fn is_there(line: &str) -> bool {
    let words = words(line);
    let help = |words: &[String]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wardfs"));
        let out = command
            .args(words)
            .arg("-h")
            .stdin(Stdio::null())
            .output()
            .expect("run");
        out.status.success()
    };
    !words.is_empty() && (help(&words) || help(&words[..1]))
}

fn shell(line: &str, product: &Product) -> Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_wardfs"))
        .parent()
        .expect("a directory");
    // A follower is heard for a moment.
    let line = format!("set -o pipefail 2>/dev/null; {line}");
    Command::new("timeout")
        .args(["20", "/bin/bash", "-c", &line])
        .current_dir(product.dir())
        .env_clear()
        .envs(support::coverage())
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
        .env("WARDFS_STORE", product.store())
        .stdin(Stdio::null())
        .output()
        .expect("a shell")
}

/// Accounts of the pages, in this test's own view of the machine.
fn accounts(pages: &str, dir: &Path) {
    support::private_mounts();
    let add = |file: &str, kind: &str, rest: &str| {
        let mut text = std::fs::read_to_string(file).expect("accounts");
        let names = pages.split(kind).skip(1).map(|after| {
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c)));
            after[..end.unwrap_or(after.len())].to_string()
        });
        for (i, name) in names.collect::<BTreeSet<_>>().into_iter().enumerate() {
            let known = text.lines().any(|l| l.starts_with(&format!("{name}:")));
            if !known && !name.is_empty() {
                let id = 44_850 + i;
                text += &format!("{name}:x:{id}:{}\n", rest.replace("ID", &id.to_string()));
            }
        }
        let own = dir.join(file.trim_start_matches('/').replace('/', "-"));
        std::fs::write(&own, text).expect("write");
        let bind = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&own), file, None::<&str>, bind, None::<&str>).expect("bind");
    };
    add("/etc/passwd", "user:", "ID::/:/usr/sbin/nologin");
    add("/etc/group", "group:", "");
}

#[test]
fn every_command_line_of_the_documents_is_run() {
    let _deadline = Deadline::new(Duration::from_secs(180), "the documents");
    support::require_root();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/doc");
    let mut pages = Vec::new();
    for file in std::fs::read_dir(root).expect("documents").flatten() {
        if file.path().extension().is_some_and(|e| e == "md") {
            let text = std::fs::read_to_string(file.path()).expect("a page");
            pages.push((file.file_name().into_string().expect("text"), text));
        }
    }
    pages.sort();
    let all: String = pages.iter().map(|(_, text)| text.as_str()).collect();
    let dir = tempfile::tempdir().expect("a directory");
    accounts(&all, dir.path());
    let mut run = 0;
    for (page, text) in &pages {
        let (lines, named) = commands(text);
        for command in &named {
            assert!(
                is_there(command),
                "{page} names {command:?}, and there is no such command"
            );
        }
        if lines.is_empty() {
            continue;
        }
        let product = Product::mounted();
        let here = |name: &str, text: &str| std::fs::write(product.dir().join(name), text).expect("write");
        here("policy.json", POLICY);
        here("aws-policy.json", POLICY_OF_AWS);
        here("token.txt", "a token");
        here("server.key", "a key");
        here("role-policy.json", IDENTITY);
        here("deploy.json", IDENTITY);
        here("scp.json", GUARDRAIL);
        product.put("app/db/password", "v", &["--allow", "user:www-data"]);
        product.put("app/db/password", "w", &[]);
        read_as(61_001, &[], &product.path("app/db/password")).expect_err("refused");
        for line in lines {
            // What changes the machine, stands for something, or never ends, is looked at only.
            let leaves = [
                "mount ",
                "umount ",
                "systemctl",
                "sudo",
                "…",
                "init",
                "apt",
                " -f",
                "--follow",
                "recover",
                "restore",
            ];
            let words = words(&line).join(" ");
            if leaves
                .iter()
                .any(|l| line.contains(l) && !line.contains("policy.json -f"))
            {
                assert!(is_there(&line), "{page}: {line}: no such command: {words}");
                continue;
            }
            let line = line.replace("/run/secrets", product.target().to_str().expect("text"));
            let out = shell(&line, &product);
            let fine: &[i32] = match words.as_str() {
                "policy explain" | "why" => &[0, 3],
                _ => &[0],
            };
            assert!(
                out.status.code().is_some_and(|c| fine.contains(&c)),
                "{page}: {line}: {}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            );
            run += 1;
        }
    }
    assert!(run >= 9, "{run} command lines");
}

/// The recipes that `policy.md` begins with do what they say they are for.
#[test]
fn the_recipes_for_policies_are_right() {
    let _deadline = Deadline::new(Duration::from_secs(60), "the recipes");
    let product = Product::mounted();
    let page = include_str!("../packaging/doc/policy.md");
    let dir = tempfile::tempdir().expect("a directory");
    accounts(page, dir.path());
    let recipes = page
        .split_once("## Recipes")
        .and_then(|(_, after)| after.split_once("\n## "))
        .expect("recipes")
        .0;
    std::fs::write(product.dir().join("server.key"), "a key").expect("write");
    std::fs::write(product.dir().join("token.txt"), "a token").expect("write");
    std::fs::write(product.dir().join("aws-policy.json"), POLICY_OF_AWS).expect("write");
    std::fs::write(product.dir().join("policy.json"), POLICY).expect("write");
    let mut answers = Vec::new();
    for line in commands(recipes).0 {
        let line = line.replace("/run/secrets", product.target().to_str().expect("text"));
        let code = shell(&line, &product).status.code();
        if line.contains("policy explain") || line.contains("wardfs why") {
            answers.push((words(&line).join(" "), code));
        } else {
            assert_eq!(code, Some(0), "{line}");
        }
    }
    let codes: Vec<_> = answers.iter().filter_map(|(_, code)| *code).collect();
    assert_eq!(codes, [0, 0, 3, 3], "{answers:?}");
    let id = |file: &str, name: &str| -> u32 {
        let text = std::fs::read_to_string(file).expect("accounts");
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(&format!("{name}:")))
            .expect("the account");
        line.split(':')
            .nth(1)
            .and_then(|id| id.parse().ok())
            .expect("an id")
    };
    let (www, bob) = (id("/etc/passwd", "www-data"), id("/etc/passwd", "bob"));
    let backup = id("/etc/group", "backup");
    let path = |name: &str| product.path(name);
    assert_eq!(
        read_as(www, &[], &path("app/db/password")),
        Ok(b"s3cret".to_vec())
    );
    assert_eq!(read_as(bob, &[], &path("app/db/password")), Err(libc::EACCES));
    assert_eq!(
        read_as(61_001, &[backup], &path("app/tls/key")),
        Ok(b"a key".to_vec())
    );
    assert_eq!(read_as(bob, &[backup], &path("app/tls/key")), Err(libc::EACCES));
    assert_eq!(
        read_as(www, &[], &path("app/api/key")),
        Err(libc::EACCES),
        "no process of the unit"
    );
    assert_eq!(
        read_as(www, &[], &path("app/shared/token")),
        Err(libc::EACCES),
        "nobody is the role"
    );
}
