//! A file system in a file, whose disk can fail or hang.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// An ext4 of 96 MiB; gone when this is dropped.
pub struct Disk {
    image: tempfile::NamedTempFile,
    at: PathBuf,
}

fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    command
}

#[track_caller]
fn run(name: &str, args: &[&str]) {
    let output = program(name)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(output.status.success(), "{name} {args:?}: {output:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

impl Disk {
    /// On a directory.
    #[track_caller]
    pub fn new(at: &Path) -> Disk {
        let image = tempfile::NamedTempFile::new_in("/var/tmp").expect("an image");
        image.as_file().set_len(96 << 20).expect("an image");
        run("mkfs.ext4", &["-q", "-F", text(image.path())]);
        let disk = Disk { image, at: at.into() };
        disk.on();
        disk
    }

    /// Mounts it.
    #[track_caller]
    pub fn on(&self) {
        run("mount", &["-o", "loop", text(self.image.path()), text(&self.at)]);
    }

    /// What was not written is lost, and nothing can be written any more.
    #[track_caller]
    pub fn cut(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.at)]);
    }

    /// Unmounts it.
    #[track_caller]
    pub fn off(&self) {
        run("umount", &[text(&self.at)]);
    }

    /// Whoever writes there waits, and no signal ends the wait, until the guard is dropped or this process ends.
    #[track_caller]
    pub fn hang(&self) -> Hanging {
        let held = tempfile::NamedTempFile::new().expect("a file");
        run("fsfreeze", &["--freeze", text(&self.at)]);
        // By no descriptor, of which a child that waits for this disk would have a copy.
        let until =
            "while kill -0 \"$1\" && [ -e \"$2\" ]; do sleep 0.05; done; exec fsfreeze --unfreeze \"$0\"";
        let thaw = program("sh")
            .args(["-c", until, text(&self.at)])
            .arg(std::process::id().to_string())
            .arg(held.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        Hanging {
            held: Some(held),
            thaw,
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A disk that hangs, until this is dropped.
pub struct Hanging {
    held: Option<tempfile::NamedTempFile>,
    thaw: Child,
}

impl Drop for Hanging {
    fn drop(&mut self) {
        drop(self.held.take());
        let _ = self.thaw.wait();
    }
}
