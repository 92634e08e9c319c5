//! The power fails at random moments: the file system of store and log is shut down without flushing anything, and
//! mounted again. What was acknowledged is there, nothing else is, and the log verifies.

mod support;

use std::time::{Duration, Instant};

use support::Deadline;
use support::disk::Disk;
use support::product::Product;
use support::rig::{Dice, Rig};

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
    let mut longest = 150_000;
    let mut round = 0;
    // On a busy machine little is done in so short a time: it gets longer, until something was.
    while round < cuts || acknowledged <= cuts {
        // Every fourth time without a daemon: each command opens the store for itself.
        let served = round % 4 != 3;
        if served {
            rig.product.mount();
        }
        let moment = Duration::from_micros(2_000 + dice.below(longest));
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
        round += 1;
        if acknowledged < round {
            longest = (longest * 2).min(4_000_000);
        }
    }
    println!(
        "{round} power cuts, {acknowledged} changes acknowledged, none lost, in {:?}",
        begun.elapsed()
    );
    // Before the directory that it is mounted on can go.
    drop(disk);
}
