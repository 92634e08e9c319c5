//! Directories as programs expect them: their times move with their names, their link count is 1, and the file system
//! has a size.

mod support;

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::Deadline;
use support::product::{A, Product};

fn deadline(what: &str) -> Deadline {
    Deadline::new(Duration::from_secs(60), what)
}

/// mtime of a directory in nanoseconds, which is its ctime too.
fn changed(path: &Path) -> i128 {
    let meta = std::fs::metadata(path).expect("stat");
    let time = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
    let mtime = time(meta.mtime(), meta.mtime_nsec());
    assert_eq!(mtime, time(meta.ctime(), meta.ctime_nsec()));
    mtime
}

#[test]
fn times_move_when_a_name_comes_or_goes_and_are_the_same_after_a_restart() {
    let _deadline = deadline("directories' times");
    let mut product = Product::mounted();
    let dirs = ["", "app", "app/db", ".versions", ".versions/app"];
    let times = |product: &Product| dirs.map(|d| product.path(d).exists().then(|| changed(&product.path(d))));
    let put =
        |product: &Product, name: &str| drop(product.put(name, "value", &["--allow", &format!("uid:{A}")]));
    let mut last = times(&product);
    let mut moved = |product: &Product, what: &str, wanted: [bool; 5]| {
        let now = times(product);
        for ((dir, moves), (before, now)) in dirs.iter().zip(wanted).zip(last.iter().zip(&now)) {
            assert!(
                before.is_none() || now.is_none() || now >= before,
                "{what}: {dir:?} went back"
            );
            assert_eq!(now != before, moves, "{what}: {dir:?}");
        }
        last = now;
    };
    put(&product, "app/one");
    moved(&product, "the first name", [true, true, false, true, true]);
    put(&product, "app/two");
    moved(&product, "a second name", [false, true, false, false, true]);
    put(&product, "app/db/three");
    moved(&product, "a directory", [false, true, true, false, true]);
    put(&product, "app/db/four");
    moved(&product, "a name below it", [false, false, true, false, false]);
    put(&product, "app/one");
    product.run(&["tag", "app/one", "a=b"]).ok();
    moved(&product, "a value and a tag", [false; 5]);
    put(&product, "top");
    moved(&product, "a name at the top", [true, false, false, true, false]);
    product.stop();
    product.mount();
    moved(&product, "a restart", [false; 5]);
    product.run(&["delete", "app/two", "--now"]).ok();
    moved(&product, "a name that goes", [false, true, false, false, true]);
    product.stop();
    product.mount();
    moved(&product, "a restart", [false; 5]);
    put(&product, "app/two");
    moved(
        &product,
        "a name that comes again",
        [false, true, false, false, true],
    );
    product.stop();
    product.mount();
    moved(&product, "a restart", [false; 5]);
    product.run(&["delete", "app/db/three", "--now"]).ok();
    moved(&product, "a name below", [false, false, true, false, false]);
    product.run(&["delete", "app/db/four", "--now"]).ok();
    moved(
        &product,
        "a directory with its last name",
        [false, true, true, false, true],
    );
    assert!(!product.path("app/db").exists());
    product.stop();
    product.mount();
    moved(&product, "a restart", [false; 5]);
}

/// The import system remembers listings by the directory's mtime.
#[test]
fn python_finds_a_module_that_comes_late() {
    let _deadline = deadline("python");
    let mut product = Product::new();
    product.put("py/early.py", "x = 1", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let script = r#"
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import early
try:
    import late
    print("there already")
except ModuleNotFoundError:
    print("not yet", flush=True)
sys.stdin.readline()
import late
print(late.y)
"#;
    let mut python = Command::new("python3")
        .args(["-c", script])
        .arg(product.path("py"))
        .uid(A)
        .gid(A)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut said = std::io::BufReader::new(python.stdout.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).expect("a line");
    assert_eq!(line, "not yet\n");
    product.put("py/late.py", "y = 7", &["--allow", &format!("uid:{A}")]);
    drop(python.stdin.take());
    line.clear();
    std::io::BufRead::read_line(&mut said, &mut line).expect("a line");
    let ended = python.wait_with_output().expect("wait");
    assert_eq!(line, "7\n", "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn the_link_count_is_one_and_tree_walkers_go_below() {
    let _deadline = deadline("link counts");
    let mut product = Product::new();
    product.put("app/db/key", "value", &[]);
    product.mount();
    for name in [
        "",
        "app",
        "app/db",
        "app/db/key",
        ".versions",
        ".versions/app",
        ".versions/app/db/key",
    ] {
        assert_eq!(
            std::fs::metadata(product.path(name)).expect("stat").nlink(),
            1,
            "{name:?}"
        );
    }
    // Perl's File::Find, and fts(3) without stat, count subdirectories down from the link count.
    let walk = r#"use File::Find; my $n = 0; find(sub { $n++ }, $ARGV[0]); print $n"#;
    let said = Command::new("perl")
        .args(["-e", walk])
        .arg(product.target())
        .output()
        .expect("perl");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "4", "{said:?}");
}

#[test]
fn the_file_system_has_a_size_and_no_room() {
    let _deadline = deadline("statfs");
    let product = Product::mounted();
    let figures = || {
        let stat = nix::sys::statvfs::statvfs(&product.target()).expect("statvfs");
        (
            stat.blocks(),
            stat.blocks_free(),
            stat.blocks_available(),
            stat.files(),
            stat.files_free(),
        )
    };
    let empty = figures();
    assert!(empty.0 > 0 && empty.3 > 0, "{empty:?}");
    assert_eq!((empty.1, empty.2, empty.4), (0, 0, 0));
    product.put("app/key", vec![b'x'; 60_000], &[]);
    assert_eq!(figures(), empty, "what is in it is nobody's business");
    let df = Command::new("df")
        .arg("--output=target,pcent")
        .output()
        .expect("df");
    let out = String::from_utf8_lossy(&df.stdout);
    let line = out
        .lines()
        .find(|l| l.contains(product.target().to_str().expect("text")));
    assert!(line.is_some_and(|l| l.ends_with("100%")), "{out}");
}
