//! Hundreds of threads of one account, and of the sub uids lent to it, beside one reader of another: his requests do not
//! stand behind theirs. And refusals in a flood are answered later, by nobody who serves.

mod support;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::attackers::Account;
use support::product::Product;
use support::{Deadline, Run, become_ids};

/// The reader whose times are looked at.
const READER: u32 = 61110;
const THREADS: usize = 250;

/// What the many do, until they are killed.
#[derive(Clone, Copy)]
enum Load {
    /// Read what they may read.
    Reads,
    /// Ask for what they may not have.
    Refusals,
}

/// Threads in one process, each as one of `uids`; killed when it is dropped.
struct Crowd(support::Child<()>);

impl Crowd {
    fn start(uids: &[u32], path: PathBuf, load: Load) -> Crowd {
        let uids = uids.to_vec();
        let child = Run::root().limit(Duration::from_secs(100)).start(move || {
            let one = |uid: u32| {
                become_ids(uid, uid, &[]).expect("ids");
                loop {
                    match load {
                        Load::Reads => drop(std::fs::read(&path)),
                        Load::Refusals => drop(std::fs::metadata(&path)),
                    }
                }
            };
            std::thread::scope(|scope| {
                for n in 0..THREADS {
                    let (one, uid) = (&one, uids[n % uids.len()]);
                    scope.spawn(move || one(uid));
                }
            });
        });
        // They are many, and take a while to begin.
        std::thread::sleep(Duration::from_secs(1));
        Crowd(child)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.signal(libc::SIGKILL);
    }
}

/// The median and the 99th percentile of open, read and close, in µs.
fn times(path: &Path) -> (u64, u64) {
    let path = path.to_path_buf();
    Run::uid(READER).limit(Duration::from_secs(60)).call(move || {
        let mut buffer = [0; 64];
        let mut times: Vec<u64> = (0..300)
            .map(|_| {
                let begin = Instant::now();
                let read = File::open(&path).and_then(|mut f| f.read(&mut buffer));
                assert_eq!(read.ok(), Some(5));
                begin.elapsed().as_micros() as u64
            })
            .collect();
        times.sort_unstable();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    })
}

#[test]
fn one_owners_many_do_not_stand_before_anothers_one() {
    let _deadline = Deadline::new(Duration::from_secs(120), "a crowd");
    let account = Account::new("wfs1crowd", 61111, &[]);
    let mut product = Product::new();
    product.put("mine", b"value", &["--allow", &format!("uid:{READER}")]);
    product.put("theirs", b"value", &["--allow", &format!("uid:{}", account.uid)]);
    product.mount();
    let (mine, theirs) = (product.path("mine"), product.path("theirs"));
    let idle = times(&mine);
    let subids: Vec<u32> = (0..THREADS as u32).map(|n| account.subids + n).collect();
    for (what, uids, load) in [
        ("reads of one uid", &[account.uid][..], Load::Reads),
        ("refusals of one uid", &[account.uid], Load::Refusals),
        ("refusals of its sub uids", &subids, Load::Refusals),
    ] {
        let path = if let Load::Reads = load { &theirs } else { &mine };
        let crowd = Crowd::start(uids, path.clone(), load);
        let beside = times(&mine);
        drop(crowd);
        println!(
            "{what}: median {} µs, p99 {} µs; idle {} and {} µs",
            beside.0, beside.1, idle.0, idle.1
        );
        // In the kernel's order each of the reader's four requests stands behind 250; a busy machine is not that slow.
        assert!(beside.0 < idle.0 + 10_000, "{what}: {beside:?}, idle {idle:?}");
    }
    let status = product.run(&["--json", "status"]).ok().json();
    let counter = |name: &str| status["counters"][name].as_u64().expect("a counter");
    assert!(counter("queued") > 0 && counter("delayed") > 0, "{status}");
}

#[test]
fn a_few_refusals_are_answered_at_once_and_many_late() {
    let _deadline = Deadline::new(Duration::from_secs(60), "refusals");
    let mut product = Product::new();
    product.put("mine", b"value", &["--allow", &format!("uid:{READER}")]);
    product.mount();
    let path = product.path("mine");
    let status = || product.run(&["--json", "status"]).ok().json()["counters"]["delayed"].as_u64();
    let refused = |times: usize| {
        let path = path.clone();
        Run::uid(61112).call(move || {
            let begin = Instant::now();
            let all =
                (0..times).all(|_| File::open(&path).is_err_and(|e| e.raw_os_error() == Some(libc::EACCES)));
            assert!(all);
            begin.elapsed().as_micros() as u64
        })
    };
    refused(25);
    assert_eq!(status(), Some(0));
    // A thousand a second, and an open looks the name up, which counts too. A machine that is slower waits for nobody.
    let took = refused(1000);
    assert!(took > 1_000_000, "{took} µs");
    assert!(status() > Some(0) || took > 4_000_000, "{took} µs");
}
