//! Killed in the middle of an attack, and started again while it goes on: it is back at once, and its log verifies.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::attackers::{Account, Attacker, build};
use support::product::{A, Product, read_as};
use support::{Deadline, Run};
use wardfs::control::client::Client;
use wardfs::control::protocol::Request;

/// Nobody's.
const STRANGER: u32 = 60_711;
/// How long an attack goes on before the kill, and how often that is done.
const WHILE: Duration = Duration::from_millis(400);
const KILLS: usize = 2;
/// Two seconds are promised on a machine that does nothing else.
const BACK: Duration = Duration::from_secs(20);

/// A store with `app/shared`, which A and the account read.
fn served(account: &Account) -> Product {
    let mut product = Product::new();
    let (a, other) = (format!("uid:{A}"), format!("uid:{}", account.uid));
    product.put("app/shared", "value", &["--allow", &a, "--allow", &other]);
    product.put("app/mine", "value", &["--allow", &a]);
    product.mount();
    product
}

/// Kills and starts again while `attack`, begun anew each time, goes on.
#[track_caller]
fn killed_under<T>(name: &str, uid: u32, attack: impl Fn(&Product, &Account) -> T) {
    let _deadline = Deadline::new(Duration::from_secs(120), name);
    let account = Account::new(&format!("wfskill{uid}"), uid, &[]);
    let mut product = served(&account);
    for _ in 0..KILLS {
        let attacker = attack(&product, &account);
        std::thread::sleep(WHILE);
        product.crash();
        let begin = Instant::now();
        product.mount();
        let path = product.path("app/mine");
        assert_eq!(read_as(A, &[], &path), Ok(b"value".to_vec()), "{name}");
        println!("{name}: back after {:?}", begin.elapsed());
        assert!(begin.elapsed() < BACK, "{name}: {:?}", begin.elapsed());
        drop(attacker);
        product.run(&["audit", "verify"]).ok();
    }
    let begin = Instant::now();
    product.stop();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    product.run(&["audit", "verify"]).ok();
}

/// Looks, opens, lists and asks over the socket without pause, for ten seconds, whatever is answered.
fn pester(mount: PathBuf, store: PathBuf) {
    let end = Instant::now() + Duration::from_secs(10);
    let path = mount.join("app/shared");
    while Instant::now() < end {
        for n in 0..64 {
            drop(std::fs::metadata(&path));
            drop(std::fs::File::open(&path));
            drop(std::fs::metadata(mount.join(format!("app/none{n}"))));
            drop(std::fs::read_dir(mount.join("app")));
        }
        let why = serde_json::json!({ "command": "why", "name": "app/shared", "about": "latest" });
        let why: Request = serde_json::from_value(why).expect("a request");
        if let Ok(Some(mut client)) = Client::connect(&store) {
            drop(client.call(&why, None));
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn by_refused_questions_of_every_kind() {
    killed_under("refusals", 60_712, |product, _| {
        let start = |n| {
            let (mount, store) = (product.target(), product.store());
            Run::uid(STRANGER + n).start(move || pester(mount, store))
        };
        [0, 0, 10, 10].map(start)
    });
}

#[test]
fn by_descriptors_whose_flush_never_ends() {
    killed_under("descriptors", 60_713, |product, account| {
        let socket = product.store().join("run/control.sock");
        Attacker::start(account, &build("scmhang"), &[text(&socket), "8"], "sent 8")
    });
}

#[test]
fn by_the_lock_of_a_directory() {
    killed_under("directory", 60_714, |product, account| {
        let directory = product.path("app");
        let words = [text(&directory), "w"];
        Attacker::start(account, &build("dirlock"), &words, "O_CREAT as waiting writer")
    });
}

#[test]
fn by_many_groups_and_many_uids() {
    killed_under("sub ids", 60_715, |product, account| {
        let (shared, first) = (product.path("app/shared"), account.subids.to_string());
        ["manyg", "subuids"].map(|program| {
            let mut command = account.command(build(program));
            command.args(["65536", &first, &first, "5"]).arg(&shared);
            command
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null());
            Ended(command.spawn().expect("start an attacker"))
        })
    });
}

#[test]
fn by_a_reader_who_holds_what_it_can() {
    killed_under("held", 60_716, |product, account| {
        let path = product.path("app/shared");
        let holder = Run::uid(account.uid).start(move || {
            let held: Vec<_> = (0..500).filter_map(|_| std::fs::File::open(&path).ok()).collect();
            for file in &held {
                let _ = support::sys::pread(file, 9, 0);
            }
            std::thread::sleep(Duration::from_secs(30));
        });
        let mut lease = account.command(build("leaseat"));
        lease.arg(product.path("app/shared")).arg("r").current_dir("/");
        lease
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        product.put("app/shared", "a longer value", &[]);
        (holder, Ended(lease.spawn().expect("start leaseat")))
    });
}

/// Killed when it is dropped.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
