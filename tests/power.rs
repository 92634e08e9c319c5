//! The power fails at random moments: the file system of store and log is shut down without flushing anything, and
//! mounted again. What was acknowledged is there, nothing else is, and the log verifies.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::Deadline;
use support::product::Product;
use support::rig::{Dice, Rig};

/// A file system in a file.
struct Disk {
    image: tempfile::NamedTempFile,
    at: PathBuf,
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

impl Disk {
    fn new(at: &Path) -> Disk {
        let image = tempfile::NamedTempFile::new_in("/var/tmp").expect("an image");
        image.as_file().set_len(96 << 20).expect("an image");
        run("mkfs.ext4", &["-q", "-F", text(image.path())]);
        let disk = Disk { image, at: at.into() };
        disk.on();
        disk
    }

    fn on(&self) {
        run("mount", &["-o", "loop", text(self.image.path()), text(&self.at)]);
    }

    /// What was not written is lost, and nothing can be written any more.
    fn cut(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.at)]);
    }

    fn off(&self) {
        run("umount", &[text(&self.at)]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn cut_at_random_moments() {
    let long = support::long_run();
    let cuts = if long { 200 } else { 12 };
    let _deadline = Deadline::new(Duration::from_secs(if long { 1800 } else { 120 }), "power cuts");
    let mut dice = Dice::new();
    let product = Product::empty();
    let disk = Disk::new(product.dir());
    product.run(&["init"]).ok();
    let mut rig = Rig::new(product);
    let (mut acknowledged, begun) = (0, Instant::now());
    for round in 0..cuts {
        // Every fourth time without a daemon: each command opens the store for itself.
        let served = round % 4 != 3;
        if served {
            rig.product.mount();
        }
        let moment = Duration::from_micros(2_000 + dice.below(150_000));
        acknowledged += rig.load(|| {
            std::thread::sleep(moment);
            disk.cut();
        });
        if served {
            rig.product.kill();
        }
        disk.off();
        disk.on();
        rig.check();
        rig.product.run(&["store", "check"]).ok();
    }
    println!(
        "{cuts} power cuts, {acknowledged} changes acknowledged, none lost, in {:?}",
        begun.elapsed()
    );
    assert!(acknowledged > cuts, "too little was done to show anything");
    drop(rig);
}
