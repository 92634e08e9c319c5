//! What one holds that others need: leases on files, and the locks of directories. Whoever holds one makes nobody wait
//! for the value of a name that was looked up, nobody else's events late, and no stop slow.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::attackers::{Account, Attacker, build};
use support::product::{A, Product, read_as};
use support::{Deadline, Run, sys, wait_until};

const IN_MODIFY: u32 = 0x2;
const IN_CLOSE_WRITE: u32 = 0x8;
/// How late an event may be that nobody holds up, on a busy machine.
const SOON: Duration = Duration::from_secs(1);

/// Reads in a child that is left alone if it hangs: nobody could end it.
fn reads(uid: u32, path: &Path, limit: Duration) -> Option<Result<Vec<u8>, i32>> {
    let (tell, told) = std::sync::mpsc::channel();
    let path = path.to_path_buf();
    std::thread::spawn(move || {
        let script = "cat -- \"$1\"";
        let output = Command::new("setpriv")
            .args([
                &format!("--reuid={uid}"),
                &format!("--regid={uid}"),
                "--clear-groups",
            ])
            .args(["sh", "-c", script, "sh"])
            .arg(path)
            .output()
            .expect("cat");
        let _ = tell.send(match output.status.code() {
            Some(0) => Ok(output.stdout),
            code => Err(code.unwrap_or(-1)),
        });
    });
    told.recv_timeout(limit).ok()
}

#[track_caller]
fn hears(watch: &sys::Inotify, mask: u32, limit: Duration, what: &str) {
    let mut seen = 0;
    wait_until(limit, what, || {
        seen |= watch.events().iter().fold(0, |all, (_, m, _)| all | m);
        seen & mask == mask
    });
}

/// A mounted store: `app/shared` for A and the account, `other/thing` for A, both looked up.
fn served(account: &Account) -> Product {
    let mut product = Product::new();
    let (a, other) = (format!("uid:{A}"), format!("uid:{}", account.uid));
    product.put("app/shared", "one", &["--allow", &a, "--allow", &other]);
    for name in ["app/mine", "other/thing", "top"] {
        product.put(name, "one", &["--allow", &a]);
    }
    product.mount();
    for name in ["app/shared", "app/mine", "other/thing", "top"] {
        assert_eq!(read_as(A, &[], &product.path(name)).as_deref(), Ok(&b"one"[..]));
    }
    product
}

#[track_caller]
fn stops_soon(product: &mut Product) {
    let begin = Instant::now();
    product.stop();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

/// Root can take a lease on whatever file it can open. Of the file itself the closing is late; nothing else is.
#[test]
fn a_lease_delays_no_other_event_no_put_and_no_stop() {
    let _deadline = Deadline::new(Duration::from_secs(55), "leases");
    let account = Account::new("wfs4lease", 59401, &[]);
    let mut product = served(&account);
    product.run(&["policy", "allow", "app/shared", "uid:0"]).ok();
    let [leased, other] = ["app/shared", "other/thing"].map(|name| {
        let watch = sys::Inotify::new();
        watch.watch(&product.path(name)).expect("watch");
        watch
    });
    let path = product.path("app/shared");
    let (ours, theirs) = support::socket_pair();
    let holder = Run::root().limit(Duration::from_secs(40)).start(|| {
        let file = std::fs::File::open(&path).expect("open");
        use std::os::fd::AsRawFd;
        // SAFETY: ignores a signal; the descriptor is open.
        let taken = unsafe {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK)
        };
        nix::unistd::write(&theirs, b"t").expect("say so");
        sys::read(&theirs, 1).expect("over");
        taken
    });
    sys::read(&ours, 1).expect("taken");
    let begin = Instant::now();
    product.put("app/shared", "two", &[]);
    product.put("other/thing", "two", &[]);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    hears(&leased, IN_MODIFY, SOON, "the leased file's change");
    hears(&other, IN_MODIFY | IN_CLOSE_WRITE, SOON, "the other's change");
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(&b"two"[..]));
    nix::unistd::write(&ours, b"o").expect("say so");
    assert_eq!(holder.join(), 0, "root could take a lease");
    hears(
        &leased,
        IN_CLOSE_WRITE,
        Duration::from_secs(5),
        "its closing, later",
    );
    product.put("app/shared", "three", &[]);
    hears(&leased, IN_MODIFY | IN_CLOSE_WRITE, SOON, "its next change");
    stops_soon(&mut product);
}

/// A reader gets none: nobody waits for it to be broken.
#[test]
fn no_reader_can_take_a_lease() {
    let _deadline = Deadline::new(Duration::from_secs(55), "leases of readers");
    let account = Account::new("wfs4reader", 59404, &[]);
    let mut product = served(&account);
    let path = product.path("app/shared");
    let program = build("leaseat");
    let attackers: Vec<_> = ["r", "w"]
        .map(|kind| {
            let mut command = account.command(&program);
            command
                .arg(&path)
                .arg(kind)
                .current_dir("/")
                .stderr(Stdio::piped());
            command.spawn().expect("start leaseat")
        })
        .into();
    // They try about a thousand times a second.
    std::thread::sleep(Duration::from_secs(1));
    let [shared, other] = ["app/shared", "other/thing"].map(|name| {
        let watch = sys::Inotify::new();
        watch.watch(&product.path(name)).expect("watch");
        watch
    });
    for value in ["two", "three"] {
        product.put("app/shared", value, &[]);
        product.put("other/thing", value, &[]);
        hears(&shared, IN_MODIFY | IN_CLOSE_WRITE, SOON, "the file's change");
        hears(&other, IN_MODIFY | IN_CLOSE_WRITE, SOON, "the other's change");
        let read = reads(A, &path, Duration::from_secs(5)).expect("a reader waits");
        assert_eq!(read.as_deref(), Ok(value.as_bytes()));
    }
    for mut attacker in attackers {
        assert!(attacker.try_wait().expect("wait").is_none(), "it ended");
        attacker.kill().expect("kill");
        let said = attacker.wait_with_output().expect("wait");
        assert_eq!(String::from_utf8_lossy(&said.stderr), "");
    }
    stops_soon(&mut product);
}

/// The lock of a directory, by somebody who reads a secret in it. What was looked up is read, by everybody; other
/// directories' events, puts and the stop are on time.
#[test]
fn the_lock_of_a_directory_delays_nothing_elsewhere() {
    let _deadline = Deadline::new(Duration::from_secs(55), "the lock of a directory");
    let account = Account::new("wfs4dirlock", 59402, &[]);
    let mut product = served(&account);
    let held = product.path("app");
    dirlock(
        &mut product,
        &account,
        &held,
        &["app/new1", "app/new2", "app/deep/new3"],
    );
}

/// The same with the root of the mount.
#[test]
fn the_lock_of_the_root_delays_nothing_that_was_looked_up() {
    let _deadline = Deadline::new(Duration::from_secs(55), "the lock of the root");
    let account = Account::new("wfs4rootlock", 59403, &[]);
    let mut product = served(&account);
    let held = product.target();
    dirlock(&mut product, &account, &held, &["new1", "new2", "fresh/new3"]);
}

fn dirlock(product: &mut Product, account: &Account, held: &Path, fresh: &[&str]) {
    let watch = sys::Inotify::new();
    watch.watch(&product.path("other/thing")).expect("watch");
    let own = sys::Inotify::new();
    own.watch(&product.path("app/mine")).expect("watch");
    // The notifier has been there before.
    product.put("app/mine", "two", &[]);
    product.put("other/thing", "two", &[]);
    hears(&own, IN_CLOSE_WRITE, Duration::from_secs(5), "a change before");
    hears(&watch, IN_CLOSE_WRITE, Duration::from_secs(5), "another before");
    let program = build("dirlock");
    let attacker = Attacker::start(
        account,
        &program,
        &[held.to_str().expect("text"), "w"],
        "O_CREAT as waiting writer",
    );
    std::thread::sleep(Duration::from_millis(200));
    // Names made in the directory: the notifier hangs there.
    let allow = format!("uid:{A}");
    for name in fresh {
        let begin = Instant::now();
        product.put(name, "v", &["--allow", &allow]);
        assert!(
            begin.elapsed() < Duration::from_secs(3),
            "put {:?}",
            begin.elapsed()
        );
    }
    // A stranger looks at what is there; those who may read it go on.
    let shared = product.path("app/shared");
    let stat = Run::uid(61400).call(|| std::fs::metadata(&shared).map(drop).map_err(|e| e.raw_os_error()));
    assert_eq!(stat, Err(Some(libc::EACCES)));
    for name in ["app/mine", "app/shared", "other/thing", "top"] {
        let value = reads(A, &product.path(name), Duration::from_secs(5));
        let value = value.unwrap_or_else(|| panic!("{name} hangs")).expect("a value");
        assert!(value == b"one" || value == b"two");
    }
    for value in ["three", "four"] {
        let begin = Instant::now();
        product.put("other/thing", value, &[]);
        assert!(
            begin.elapsed() < Duration::from_secs(3),
            "put {:?}",
            begin.elapsed()
        );
        hears(&watch, IN_MODIFY | IN_CLOSE_WRITE, SOON, "an event elsewhere");
    }
    stops_soon(product);
    drop(attacker);
}
