//! A store on a disk that cannot be written: it is listed and read; a value goes out only after the system's own logs
//! were told.

mod support;

use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::Deadline;
use support::disk::Disk;
use support::product::{A, B, Product, read_as};
use support::small::Small;

const VALUE: &[u8] = b"s3cret";

fn mount(args: &[&str]) {
    let status = Command::new("mount").args(args).status().expect("mount");
    assert!(status.success(), "mount {args:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

fn secrets(product: &Product) {
    product.put("app/mine", VALUE, &["--allow", "uid:0"]);
    product.put("app/mine", b"newer", &[]);
    product.put("app/theirs", VALUE, &["--allow", &format!("uid:{A}")]);
}

/// Makes the store's directory, and nothing else, a mount that cannot be written.
fn freeze(product: &Product) {
    let store = product.store();
    mount(&["--bind", text(&store), text(&store)]);
    mount(&["-o", "remount,ro,bind", text(&store)]);
    std::fs::write(store.join("x"), "x").expect_err("read-only");
}

fn thaw(product: &Product) {
    nix::mount::umount(&product.store()).expect("umount");
}

/// The lines of the kernel's log about a store.
fn kernel_lines(store: &Path) -> Vec<String> {
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .expect("the kernel's log");
    let (mut lines, mut record) = (Vec::new(), [0; 8192]);
    loop {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(n) => lines.push(String::from_utf8_lossy(&record[..n]).into_owned()),
            // Overwritten meanwhile: the next one is read.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    let end = format!("store={}", store.display());
    lines.retain(|line| line.contains("unrecorded ") && line.contains(&end));
    lines
}

#[test]
fn it_is_listed_and_read_and_not_changed() {
    let _deadline = Deadline::new(Duration::from_secs(60), "a disk that cannot be written");
    let mut product = Product::empty();
    let disk = Disk::new(product.dir());
    std::fs::set_permissions(product.dir(), PermissionsExt::from_mode(0o755)).expect("chmod");
    product.run(&["init"]).ok();
    secrets(&product);
    product.mount();
    assert_eq!(read_as(A, &[], &product.path("app/theirs")), Ok(VALUE.to_vec()));
    // As a crash leaves it.
    product.crash();
    mount(&["-o", "remount,ro", text(product.dir())]);

    let listed = product.run(&["--json", "list"]).ok().json();
    assert_eq!(listed["secrets"].as_array().map(Vec::len), Some(2), "{listed}");
    product.run(&["describe", "app/theirs"]).ok();
    product.run(&["versions", "app/mine"]).ok();
    product.run(&["policy", "get", "app/mine"]).ok();
    product.run(&["why", "app/mine", "--as", "uid:0"]).ok();
    product.run(&["audit", "verify"]).ok();
    product.run(&["store", "check"]).ok();
    let reads = product
        .run(&["audit", "query", "--event", "GetSecretValue", "--json"])
        .ok();
    assert_eq!(reads.out.lines().count(), 1, "{reads:?}");
    let typo = product.run(&["audit", "query", "--secret", "app/typo"]);
    assert_eq!(typo.code(), 4, "{typo:?}");
    let status = product.run(&["--json", "status"]);
    assert_eq!(status.code(), 7, "{status:?}");

    let plain = product.run(&["get", "app/mine"]);
    assert_eq!((plain.code(), plain.out.as_str()), (7, ""), "{plain:?}");
    assert!(plain.err.contains("get app/mine --unrecorded"), "{plain:?}");
    for change in [
        &["put", "app/new"][..],
        &["policy", "allow", "app/mine", "uid:0"],
        &["delete", "app/mine", "--now"],
        &["mount", text(&product.target())],
    ] {
        let refused = product.run_with(change, VALUE);
        assert_eq!(refused.code(), 7, "{change:?}: {refused:?}");
    }

    let got = product.run(&["get", "app/mine", "--unrecorded"]).ok();
    assert_eq!(got.out, "newer");
    let before = product
        .run(&["get", "app/mine", "--unrecorded", "--label", "previous", "--json"])
        .ok();
    assert_eq!(before.json()["value"], "s3cret");
    let lines = kernel_lines(&product.store());
    let of = |outcome: &str, name: &str| {
        let wanted = format!("unrecorded GetSecretValue {outcome} uid=0 ");
        let name = format!(" secret={name} ");
        let count = lines.iter().filter(|l| l.contains(&wanted) && l.contains(&name));
        count.count()
    };
    assert_eq!(of("allowed", "app/mine"), 2, "{lines:#?}");
    // Decided as ever.
    let denied = product.run(&["get", "app/theirs", "--unrecorded"]);
    assert_eq!((denied.code(), denied.out.as_str()), (3, ""), "{denied:?}");
    assert!(
        kernel_lines(&product.store())
            .iter()
            .any(|l| l.contains(" denied uid=0 ") && l.contains("secret=app/theirs")),
        "a refusal is told too"
    );

    mount(&["-o", "remount,rw", text(product.dir())]);
    let writable = product.run(&["get", "app/mine", "--unrecorded"]);
    assert_eq!((writable.code(), writable.out.as_str()), (5, ""), "{writable:?}");
    product.run(&["get", "app/mine"]).ok();
    product.run(&["audit", "verify"]).ok();
    product.kill();
    drop(product);
    drop(disk);
}

#[test]
fn what_neither_log_takes_is_not_read() {
    let _deadline = Deadline::new(Duration::from_secs(60), "no log");
    let product = Product::new();
    secrets(&product);
    freeze(&product);
    // As in a container: something else has the name of the kernel's log.
    mount(&["--bind", "/dev/null", "/dev/kmsg"]);
    let run = Small::on(Path::new("/run"), "size=1m,mode=755");
    let refused = product.run(&["get", "app/mine", "--unrecorded"]);
    assert_eq!((refused.code(), refused.out.as_str()), (7, ""), "{refused:?}");
    assert!(refused.err.contains("/dev/kmsg"), "{refused:?}");
    assert!(refused.err.contains("journal"), "{refused:?}");

    // The journal alone is enough.
    let directory = Path::new("/run/systemd/journal");
    std::fs::create_dir_all(directory).expect("mkdir");
    let journal = UnixDatagram::bind(directory.join("socket")).expect("a journal");
    journal
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a limit");
    let got = product.run(&["get", "app/mine", "--unrecorded"]).ok();
    assert_eq!(got.out, "newer");
    let mut told = [0; 8192];
    let n = journal.recv(&mut told).expect("a line");
    let told = String::from_utf8_lossy(&told[..n]);
    assert!(told.contains("SYSLOG_IDENTIFIER=wardfs\n"), "{told}");
    assert!(
        told.contains("MESSAGE=unrecorded GetSecretValue allowed uid=0 "),
        "{told}"
    );
    assert!(!told.contains("newer"), "{told}");
    drop(run);
    nix::mount::umount("/dev/kmsg").expect("umount");
    thaw(&product);
}

#[test]
fn it_is_for_root_and_not_while_a_daemon_has_the_store() {
    let _deadline = Deadline::new(Duration::from_secs(60), "who may");
    let mut product = Product::new();
    secrets(&product);
    product.mount();
    freeze(&product);
    let served = product.run(&["get", "app/mine", "--unrecorded"]);
    assert_eq!((served.code(), served.out.as_str()), (7, ""), "{served:?}");
    let stranger = product.run_as(B, &[], &["get", "app/mine", "--unrecorded"], b"");
    assert_ne!(stranger.code(), 0, "{stranger:?}");
    assert_eq!(stranger.out, "", "{stranger:?}");
    thaw(&product);
    product.stop();
    freeze(&product);
    let stranger = product.run_as(B, &[], &["get", "app/mine", "--unrecorded"], b"");
    assert_eq!((stranger.code(), stranger.out.as_str()), (3, ""), "{stranger:?}");
    thaw(&product);
}
