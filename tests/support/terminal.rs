//! A terminal of its own for a command.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `wardfs` and types `keys` at a terminal of its own, each when its prompt has appeared: what was shown, and the exit code.
pub fn at_a_terminal(store: &Path, args: &[&str], keys: &[(&str, &[u8])]) -> (String, Option<i32>) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    // A session of its own, or /dev/tty would be the terminal of whoever runs the tests. The limit ends a test
    // that would wait for ever.
    let mut child = Command::new("timeout")
        .args([
            "--foreground",
            "20",
            "setsid",
            "--ctty",
            "--wait",
            env!("CARGO_BIN_EXE_wardfs"),
            "--store",
        ])
        .arg(store)
        .args(args)
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .unwrap();
    drop(pty.slave);
    let mut master = std::fs::File::from(pty.master);
    let mut shown = Vec::new();
    let mut keys = keys.iter();
    let mut next = keys.next();
    let mut buffer = [0; 1024];
    let mut from = 0;
    // Reading fails when the last process has closed the terminal.
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..n]);
        if let Some((prompt, line)) = next
            && String::from_utf8_lossy(&shown[from..]).contains(prompt)
        {
            from = shown.len();
            master.write_all(line).unwrap();
            next = keys.next();
        }
    }
    (
        String::from_utf8_lossy(&shown).into_owned(),
        child.wait().unwrap().code(),
    )
}
