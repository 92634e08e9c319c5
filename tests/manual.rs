//! Manual pages and completions, by the programs that take them.

mod support;

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

/// What bash offers for a line, by the script and by the program.
fn complete(typed: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let script = wardfs(&["completions", "bash"]);
    let words: Vec<String> = typed.split(' ').map(|w| format!("'{w}'")).collect();
    let last = words.len() - 1;
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_wardfs"));
    let path = format!(
        "{}:/usr/bin:/bin",
        program.parent().expect("a directory").display()
    );
    let set: String = environment
        .iter()
        .map(|(k, v)| format!("export {k}='{v}'\n"))
        .collect();
    let ask = format!(
        "export PATH='{path}'\n{set}{script}\nCOMP_WORDS=({}); COMP_CWORD={last}; COMP_TYPE=9\n_clap_complete_wardfs wardfs {} {}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words[last],
        words[last - 1]
    );
    let (out, err) = piped("bash", &["--norc"], &ask);
    assert!(!err.contains("panicked"), "{err}");
    out.lines().map(|l| l.trim().to_string()).collect()
}

#[test]
fn bash_completes_commands_and_flags() {
    assert_eq!(complete("wardfs pol", &[]), ["policy"]);
    assert!(complete("wardfs policy ", &[]).iter().any(|w| w == "check"));
    assert!(
        complete("wardfs put x --vis", &[])
            .iter()
            .any(|w| w == "--visibility")
    );
    assert!(!complete("wardfs ", &[]).iter().any(|w| w.starts_with("__")));
}

#[test]
fn other_shells_have_scripts() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(wardfs(&["completions", shell]).contains("wardfs"), "{shell}");
    }
}

/// Names complete for those who may see them, with and without a daemon.
#[test]
fn bash_completes_the_names_that_the_caller_may_see() {
    let _deadline = support::Deadline::new(std::time::Duration::from_secs(60), "completion");
    let mut product = support::product::Product::mounted();
    product.put("app/db", "1", &["--allow", "uid:61001"]);
    product.put("app/key", "1", &["--visibility", "hidden"]);
    product.put("web", "1", &[]);
    let store = product.store();
    let store = store.to_str().expect("a path");
    let set = [("WARDFS_STORE", store)];
    assert_eq!(complete("wardfs get app/", &set), ["app/db", "app/key"]);
    assert_eq!(complete("wardfs policy set w", &set), ["web"]);
    assert_eq!(
        complete(&format!("wardfs --store {store} describe app/d"), &[]),
        ["app/db"]
    );
    let has = |line: &str, words: &[&str]| {
        let all = complete(line, &set);
        assert!(
            words.iter().all(|w| all.iter().any(|a| a == w)),
            "{line}: {all:?}"
        );
    };
    has("wardfs put x --allow ", &["user:", "group:", "unit:"]);
    has("wardfs put x --allow user:roo", &["user:root"]);
    has("wardfs policy allow app/db group:roo", &["group:root"]);
    has("wardfs audit query --event GetS", &["GetSecretValue"]);
    has("wardfs audit query --secret app/d", &["app/db"]);
    has("wardfs get app/db --label ", &["current", "previous"]);
    let version = product.put("app/db", "2", &[])["version"]
        .as_str()
        .expect("an id")
        .to_string();
    has("wardfs get app/db --version ", &["current", "previous", &version]);
    has("wardfs label move app/db pending --to ", &["current", &version]);
    assert!(!complete("wardfs guardrail get ", &set).iter().any(|w| w == "web"));
    let asked = |uid: u32| {
        let args = ["--", "wardfs", "get", ""];
        let program = std::fs::File::open(env!("CARGO_BIN_EXE_wardfs")).expect("the program");
        let number = nix::fcntl::fcntl(&program, nix::fcntl::FcntlArg::F_DUPFD(100)).expect("dup");
        // SAFETY: a new descriptor that nobody else owns.
        let _held: std::os::fd::OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(number) };
        let mut command = Command::new(format!("/proc/self/fd/{number}"));
        command
            .args(args)
            .env("WARDFS_STORE", store)
            .env("WARDFS_COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", "2")
            .env("_CLAP_IFS", "\n")
            .current_dir("/");
        // SAFETY: raw system calls on this child alone.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
                support::become_ids(uid, uid, &[])
            });
        }
        let out = command.output().expect("run");
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).expect("text")
    };
    let names = asked(61001);
    assert!(
        names.contains("app/db") && !names.contains("app/key") && !names.contains("web"),
        "{names}"
    );
    product.stop();
    assert_eq!(complete("wardfs get we", &set), ["web"]);
    assert_eq!(complete("wardfs get we", &[("WARDFS_STORE", "/nowhere")]), [""]);
}
