//! Whoever writes the store's directory puts links, other directories and other kinds of files in the places of its
//! own: root's daemon and root's commands are led nowhere by them, and kept waiting by none.

mod support;

use std::fs::{create_dir, read, read_to_string, remove_dir_all, remove_file, rename, write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::Deadline;
use support::product::{A, B, Product, Said, read_as};

fn deadline(name: &str) -> Deadline {
    Deadline::new(Duration::from_secs(100), name)
}

/// A directory that is not the store's, with files of the names that the daemon makes in `run/`.
fn victim(product: &Product) -> PathBuf {
    let victim = product.dir().join("victim");
    create_dir(&victim).expect("mkdir");
    for name in ["mount", "control.sock"] {
        write(victim.join(name), "precious").expect("write");
    }
    victim
}

#[track_caller]
fn untouched(victim: &Path) {
    for name in ["mount", "control.sock"] {
        let found = read_to_string(victim.join(name));
        assert_eq!(found.expect(name), "precious", "{name}");
    }
    let names = std::fs::read_dir(victim).expect("list").count();
    assert_eq!(names, 2, "nothing was added");
}

/// What the service takes away at its end is what it made.
#[test]
fn the_end_of_service_takes_away_only_what_it_made() {
    let _deadline = deadline("the end of service");
    let mut product = Product::mounted();
    let victim = victim(&product);
    let (run, aside) = (product.store().join("run"), product.store().join("run.x"));
    rename(&run, &aside).expect("rename");
    symlink(&victim, &run).expect("link");
    product.stop();
    untouched(&victim);
    assert!(!aside.join("mount").exists() && !aside.join("control.sock").exists());

    // The same with other files in the places of its own.
    remove_file(&run).expect("unlink");
    product.mount();
    for name in ["mount", "control.sock"] {
        remove_file(run.join(name)).expect("unlink");
        write(run.join(name), "another's").expect("write");
    }
    product.stop();
    for name in ["mount", "control.sock"] {
        assert_eq!(read(run.join(name)).expect(name), b"another's");
        remove_file(run.join(name)).expect("unlink");
    }
    product.mount();
    product.stop();
    assert_eq!(std::fs::read_dir(&run).expect("list").count(), 0);
}

/// Nothing is served where `run` is a link, and nothing is made behind it.
#[test]
fn no_service_begins_behind_a_link() {
    let _deadline = deadline("a link before service");
    let mut product = Product::new();
    let victim = victim(&product);
    let run = product.store().join("run");
    symlink(&victim, &run).expect("link");
    let said = product.try_mount(&[]).expect("not served");
    assert_ne!(said.code(), 0, "{said:?}");
    untouched(&victim);
    let mode = victim.metadata().expect("stat").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o755);
}

/// A store that is not served, and another one that is.
fn two() -> (Product, Product) {
    let (idle, served) = (Product::new(), Product::new());
    idle.put("app/a", "idle", &["--allow", &format!("uid:{A}")]);
    served.put("app/a", "served", &["--allow", &format!("uid:{B}")]);
    (idle, served)
}

#[track_caller]
fn refused(said: &Said) {
    assert_eq!(said.code(), 6, "{said:?}");
    support::product::has_three_lines(&said.err);
}

/// A command does what it does in the store that it was given, or not at all.
#[test]
fn no_link_sends_a_command_to_another_store() {
    let _deadline = deadline("another store's daemon");
    let (mut idle, mut served) = two();
    served.mount();
    let (run, other) = (idle.store().join("run"), served.store().join("run"));
    let links: [&dyn Fn(); 2] = [&|| symlink(&other, &run).expect("link"), &|| {
        create_dir(&run).expect("mkdir");
        symlink(other.join("control.sock"), run.join("control.sock")).expect("link");
    }];
    for put in links {
        let _ = remove_file(&run);
        let _ = remove_dir_all(&run);
        put();
        refused(&idle.run_with(&["put", "app/a"], b"for the idle store alone"));
        refused(&idle.run(&["delete", "app/a", "--now"]));
        refused(&idle.run(&["list"]));
        assert_eq!(read_as(B, &[], &served.path("app/a")), Ok(b"served".into()));
    }
    // The socket itself, under a second name: it is the daemon that says whose it is.
    let _ = remove_dir_all(&run);
    create_dir(&run).expect("mkdir");
    std::fs::hard_link(other.join("control.sock"), run.join("control.sock")).expect("link");
    refused(&idle.run_with(&["put", "app/a"], b"for the idle store alone"));
    assert_eq!(read_as(B, &[], &served.path("app/a")), Ok(b"served".into()));
    // The other store's own commands, and those of its users, are answered.
    served.run(&["list"]).ok();
    served.run_as(B, &[], &["list"], b"").ok();
    let dots = served.store().join("../store/.");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wardfs"));
    command.arg("--store").arg(dots).arg("list");
    support::product::said(command, b"").ok();
    remove_dir_all(&run).expect("remove");
    idle.mount();
    assert_eq!(read_as(A, &[], &idle.path("app/a")), Ok(b"idle".into()));
}

fn within(limit: Duration, product: &Product, args: &[&str]) -> i32 {
    let mut command = product.command(args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("start");
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait().expect("wait") {
            return status.code().expect("a code");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = (child.kill(), child.wait());
    panic!("{args:?} hangs");
}

/// What is no file is not waited for, whatever the store has in that place.
#[test]
fn nobody_waits_for_what_is_no_file() {
    let _deadline = deadline("a pipe");
    let mut product = Product::mounted();
    product.put("a", "1", &["--allow", &format!("uid:{A}")]);
    product.stop();
    let store = product.store();
    let target = product.target();
    let target = target.to_str().expect("UTF-8");
    let limit = Duration::from_secs(20);
    let fifo = |path: &Path| {
        let _ = remove_file(path);
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    };
    let note = store.join("run/mount");
    fifo(&note);
    assert_eq!(within(limit, &product, &["status"]), 7);
    assert_eq!(within(limit, &product, &["unmount", target]), 4);
    // It is no reason not to serve either; who is gone cannot have it.
    product.mount();
    assert_eq!(within(limit, &product, &["status"]), 0);
    product.stop();
    let socket = store.join("run/control.sock");
    for _ in 0..2 {
        fifo(&socket);
        let said = product.try_mount(&[]).expect("not served");
        assert_ne!(said.code(), 0, "{said:?}");
        assert!(socket.symlink_metadata().expect("stat").file_type().is_fifo());
    }
    remove_file(&socket).expect("unlink");
    for name in ["lock", "store.redb", "root.key", "wardfs.toml"] {
        let path = store.join(name);
        let aside = store.join("aside");
        rename(&path, &aside).expect("rename");
        fifo(&path);
        assert_ne!(within(limit, &product, &["list"]), 0, "{name}");
        assert_ne!(within(limit, &product, &["mount", target]), 0, "{name}");
        rename(&aside, &path).expect("rename");
    }
    product.mount();
}

/// A file that has another name elsewhere is not the store's own: nothing is written into it.
#[test]
fn nothing_is_written_into_a_file_that_has_another_name() {
    let _deadline = deadline("a hard link");
    let product = Product::new();
    product.put("a", "1", &["--allow", &format!("uid:{A}")]);
    for name in ["lock", "store.redb"] {
        let (path, aside) = (product.store().join(name), product.store().join("aside"));
        let key = product.dir().join("id_rsa");
        write(
            &key,
            "a private key that is longer than the line that is written into a lock",
        )
        .expect("write");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("chmod");
        let before = read(&key).expect("read");
        rename(&path, &aside).expect("rename");
        std::fs::hard_link(&key, &path).expect("link");
        let said = product.run(&["list"]);
        assert_ne!(said.code(), 0, "{said:?}");
        assert_eq!(read(&key).expect("read"), before, "{name}");
        rename(&aside, &path).expect("rename");
        remove_file(&key).expect("unlink");
    }
    product.run(&["list"]).ok();
}

/// Whoever takes the name of the lock away makes no second owner.
#[test]
fn a_lock_without_a_name_keeps_others_out() {
    let _deadline = deadline("the lock's name");
    let mut product = Product::new();
    product.put("app/a", "v", &["--allow", &format!("uid:{A}")]);
    product.mount();
    for name in ["lock", "run/control.sock"] {
        remove_file(product.store().join(name)).expect("unlink");
    }
    let said = product.run_with(&["put", "app/a"], b"beside the daemon");
    assert_eq!(said.code(), 7, "{said:?}");
    assert_eq!(read_as(A, &[], &product.path("app/a")), Ok(b"v".into()));
    product.stop();
    product.run(&["audit", "verify"]).ok();
    product.mount();
}

/// What a failed `init` made is taken away, and it can be repeated.
#[test]
fn an_init_that_fails_leaves_what_was_there() {
    let _deadline = deadline("a failed init");
    let product = Product::empty();
    std::fs::DirBuilder::new().create(product.store()).expect("mkdir");
    std::fs::set_permissions(product.store(), PermissionsExt::from_mode(0o700)).expect("chmod");
    create_dir(product.store().join("audit")).expect("mkdir");
    write(product.store().join("audit/00000001.jsonl"), "another log").expect("write");
    std::fs::set_permissions(product.store().join("audit"), PermissionsExt::from_mode(0o700)).expect("chmod");
    let said = product.run(&["init"]);
    assert_ne!(said.code(), 0, "{said:?}");
    let names = std::fs::read_dir(product.store()).expect("list");
    let names: Vec<_> = names.map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(names, ["audit"]);
    assert_eq!(
        read(product.store().join("audit/00000001.jsonl")).expect("read"),
        b"another log"
    );
    remove_dir_all(product.store().join("audit")).expect("remove");
    product.run(&["init"]).ok();
}

/// `init` fails or succeeds: what another directory has stays, whoever puts it in the place of the store's meanwhile.
#[test]
fn a_failed_init_takes_away_only_what_it_made() {
    let _deadline = deadline("init");
    let product = Product::empty();
    let (mut swapped, mut tries) = (0, 0);
    while swapped < 3 && tries < 20 {
        tries += 1;
        let parent = product.dir().join(format!("par{tries}"));
        let victim = product.dir().join(format!("vict{tries}"));
        create_dir(&parent).expect("mkdir");
        std::fs::create_dir_all(victim.join("sub/deep")).expect("mkdir");
        create_dir(victim.join("audit")).expect("mkdir");
        for name in ["hosts", "sub/deep/x", "audit/00000001.jsonl"] {
            write(victim.join(name), "precious").expect("write");
        }
        symlink(&victim, parent.join("link")).expect("link");
        let over = AtomicBool::new(false);
        let won = std::thread::scope(|scope| {
            let racer = scope.spawn(|| {
                let made = parent.join("st/store.redb");
                while !over.load(Ordering::Relaxed) {
                    if made.exists() {
                        let (a, b) = (parent.join("link"), parent.join("st"));
                        let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                        let at = nix::fcntl::AT_FDCWD;
                        return nix::fcntl::renameat2(at, &a, at, &b, flags).is_ok();
                    }
                }
                false
            });
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wardfs"));
            command.arg("--store").arg(parent.join("st")).arg("init");
            let _ = support::product::said(command, b"");
            over.store(true, Ordering::Relaxed);
            racer.join().expect("the racer")
        });
        swapped += u32::from(won);
        for name in ["hosts", "sub/deep/x", "audit/00000001.jsonl"] {
            let found = read_to_string(victim.join(name));
            assert_eq!(found.expect(name), "precious", "{name}");
        }
        let names = std::fs::read_dir(&victim).expect("list").count();
        assert_eq!(names, 3, "nothing was added");
    }
}
