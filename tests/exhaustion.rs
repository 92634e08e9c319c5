//! What runs out: space for the store, descriptors, locked memory, handles; and what comes in masses: look-ups,
//! processes, stopped readers. Whoever is within his means is served, and memory stays flat.

mod support;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use support::product::{A, B, Product, read_as};
use support::small::Small;
use support::{Deadline, Run};

const VALUE: &[u8] = b"s3cret";

fn product() -> Product {
    let product = Product::new();
    product.put("app/db", VALUE, &["--allow", &format!("uid:{A}")]);
    product
}

fn reads(product: &Product) {
    assert_eq!(read_as(A, &[], &product.path("app/db")), Ok(VALUE.to_vec()));
}

/// What a store needs is said, and what was begun is taken away, whatever ends it; what lay there stays.
#[test]
fn a_store_that_cannot_be_made_leaves_nothing() {
    let _deadline = Deadline::new(Duration::from_secs(60), "no room for a store");
    let product = Product::empty();
    let place = product.dir().join("small");
    std::fs::create_dir(&place).expect("mkdir");
    let within = |size: &str, store: &std::path::Path| {
        let small = Small::on(&place, size);
        let mut command = Command::new(env!("CARGO_BIN_EXE_wardfs"));
        command.args(["--store", store.to_str().expect("text"), "init"]);
        let said = support::product::said(command, b"");
        let left = std::fs::read_dir(&small.0).expect("read").count();
        (said, left)
    };
    let (refused, left) = within("size=2m", &place.join("deep/store"));
    assert_eq!((refused.code(), left), (7, 0), "{refused:?}");
    assert!(refused.err.contains("needs 8 MiB"), "{refused:?}");
    assert!(refused.err.contains("has 2 left"), "{refused:?}");
    let (made, left) = within("size=8m", &place.join("store"));
    assert_eq!(
        (made.code(), left),
        (0, 1),
        "what is said to be enough is enough: {made:?}"
    );
    // Something in the way of the log, which is made late.
    let store = product.store();
    std::fs::create_dir(&store).expect("mkdir");
    std::fs::set_permissions(&store, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
    std::fs::write(store.join("audit"), "mine").expect("write");
    let refused = product.run(&["init"]);
    assert_ne!(refused.code(), 0, "{refused:?}");
    let left: Vec<_> = std::fs::read_dir(&store).expect("read").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        std::fs::read_to_string(store.join("audit")).expect("read"),
        "mine"
    );
}

/// Resident memory of the daemon, in KiB.
fn resident(product: &Product) -> u64 {
    support::status_kib(product.pid(), "VmRSS").expect("a running daemon")
}

/// Limits the daemon before it starts.
fn limit(command: &mut Command, what: libc::__rlimit_resource_t, to: u64) {
    limit_until(command, what, to, to);
}

/// The same; it can be raised to `most` later.
fn limit_until(command: &mut Command, what: libc::__rlimit_resource_t, to: u64, most: u64) {
    let limit = libc::rlimit {
        rlim_cur: to,
        rlim_max: most,
    };
    // SAFETY: both calls are async-signal-safe and change this child alone.
    unsafe {
        command.pre_exec(move || {
            // CAP_IPC_LOCK would lift the limit of locked memory.
            libc::prctl(libc::PR_CAPBSET_DROP, 14, 0, 0, 0);
            match libc::setrlimit(what, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

#[test]
fn no_space_for_the_store() {
    let _deadline = Deadline::new(Duration::from_secs(60), "no space for the store");
    let mut product = Product::empty();
    let _disk = Small::on(product.dir(), "size=16m,mode=755");
    product.run(&["init"]).ok();
    product.put("app/db", VALUE, &["--allow", &format!("uid:{A}")]);
    // The log has its own, or it would be full first.
    let _log = Small::under(&product, "16m");
    product.mount();
    let filler = product.dir().join("filler");
    std::fs::write(&filler, vec![0; 16 << 20]).expect_err("full");
    let large = vec![b'x'; 60_000];
    let refused = (0..200)
        .map(|n| product.run_with(&["put", &format!("large/{n}")], &large))
        .find(|said| said.code() != 0);
    let refused = refused.expect("a refusal");
    assert_eq!(refused.code(), 7, "{refused:?}");
    assert!(refused.err.contains("no space left for the store"), "{refused:?}");
    reads(&product);
    std::fs::remove_file(&filler).expect("remove");
    product.put("large/after", &large, &["--allow", &format!("uid:{A}")]);
    assert_eq!(read_as(A, &[], &product.path("large/after")), Ok(large));
    product.stop();
    product.run(&["store", "check"]).ok();
    product.run(&["audit", "verify"]).ok();
}

#[test]
fn few_descriptors() {
    let _deadline = Deadline::new(Duration::from_secs(60), "few descriptors");
    let mut product = product();
    let too_few = product.try_mount_as(&[], |command| limit(command, libc::RLIMIT_NOFILE, 64));
    let too_few = too_few.expect("refused");
    assert_eq!(too_few.code(), 1, "{too_few:?}");
    assert!(
        too_few
            .err
            .contains("64 open files are allowed, and 128 are needed"),
        "{too_few:?}"
    );
    let failed = product.try_mount_as(&[], |command| limit(command, libc::RLIMIT_NOFILE, 128));
    assert!(failed.is_none(), "{failed:?}");
    let store = product.store();
    // Strangers take every connection that they can get.
    let taken: Vec<_> = (0..6)
        .map(|n| {
            let store = store.clone();
            Run::uid(B + n).start(move || {
                let held: Vec<_> = (0..16)
                    .map(|_| wardfs::control::client::Client::connect(&store).ok().flatten())
                    .collect();
                std::thread::sleep(Duration::from_secs(3));
                held.iter().flatten().count()
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..20 {
        reads(&product);
    }
    let held: usize = taken.into_iter().map(|t| t.join()).sum();
    println!("{held} connections held at 128 descriptors; reads were served");
    product.put("after", VALUE, &["--allow", &format!("uid:{A}")]);
    product.stop();
}

#[test]
fn little_locked_memory() {
    let _deadline = Deadline::new(Duration::from_secs(60), "little locked memory");
    let mut product = product();
    let failed = product.try_mount_as(&[], |command| limit(command, libc::RLIMIT_MEMLOCK, 512 * 1024));
    assert!(failed.is_none(), "{failed:?}");
    let large = vec![b'x'; 65536];
    for n in 0..12 {
        let said = product.run_with(
            &["put", &format!("large/{n}"), "--allow", &format!("uid:{A}")],
            &large,
        );
        assert!(matches!(said.code(), 0 | 1 | 2 | 7), "{said:?}");
    }
    // More large reads at a time than there is memory for: each gets its value or an error, and small ones go on.
    let path = product.path("large/0");
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let (path, large) = (path.clone(), large.clone());
            Run::uid(A).start(move || {
                let mut refused = 0;
                for _ in 0..20 {
                    match std::fs::read(&path) {
                        Ok(bytes) => assert!(bytes == large),
                        Err(e) => {
                            assert!(
                                matches!(e.raw_os_error(), Some(libc::EIO | libc::ENOMEM | libc::EAGAIN)),
                                "{e}"
                            );
                            refused += 1;
                        }
                    }
                }
                refused
            })
        })
        .collect();
    for _ in 0..20 {
        let got = read_as(A, &[], &product.path("app/db"));
        assert!(
            got == Ok(VALUE.to_vec()) || matches!(got, Err(libc::EIO | libc::ENOMEM)),
            "{got:?}"
        );
    }
    let refused: u32 = readers.into_iter().map(|r| r.join()).sum();
    println!("{refused} of 320 large reads refused at 512 KiB of locked memory");
    reads(&product);
    // What could not be read is not said to be damaged.
    let broken = product
        .records()
        .into_iter()
        .find(|r| r["eventName"] == "IntegrityError");
    assert!(broken.is_none(), "{refused} refused: {broken:?}");
    product.stop();
    // Too little to open the store at all is told.
    let said = product
        .try_mount_as(&[], |command| limit(command, libc::RLIMIT_MEMLOCK, 16 * 1024))
        .expect("refused");
    assert!(matches!(said.code(), 1 | 7), "{said:?}");
    assert!(said.err.contains("RLIMIT_MEMLOCK"), "{said:?}");
}

#[test]
fn ten_thousand_open_handles_of_one_uid() {
    let _deadline = Deadline::new(Duration::from_secs(120), "handles");
    let product = {
        let mut product = product();
        product.put("other", VALUE, &["--allow", &format!("uid:{B}")]);
        product.mount();
        product
    };
    reads(&product);
    let before = resident(&product);
    let path = product.path("app/db");
    let (ours, theirs) = support::socket_pair();
    let holder = Run::uid(A).limit(Duration::from_secs(60)).start(move || {
        let all = libc::rlimit {
            rlim_cur: 10_100,
            rlim_max: 10_100,
        };
        // SAFETY: a plain number for this child alone; where it may not be raised, opening says so.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &all) };
        let held: Vec<_> = (0..10_000)
            .map_while(|_| std::fs::File::open(&path).ok())
            .collect();
        support::pass_fd(&theirs, &held[0]).expect("say so");
        std::thread::sleep(Duration::from_secs(3));
        held.len()
    });
    support::receive_fd(&ours).expect("told");
    let mut times: Vec<Duration> = (0..300)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(read_as(B, &[], &product.path("other")), Ok(VALUE.to_vec()));
            begun.elapsed()
        })
        .collect();
    times.sort();
    let grown = resident(&product).saturating_sub(before);
    let held = holder.join();
    println!(
        "{held} handles held; grown by {grown} KiB; another's read p99 {:?}",
        times[296]
    );
    assert!(held >= 1000, "{held}");
    assert!(grown <= 64 * 1024, "{grown} KiB");
}

#[test]
fn lookups_of_random_names_leave_memory_flat() {
    let count: u64 = if support::long_run() { 10_000_000 } else { 200_000 };
    let _deadline = Deadline::new(Duration::from_secs(1800), "look-ups");
    let product = {
        let mut product = product();
        product.mount();
        product
    };
    let lookups = |count: u64, seed: u64| {
        let dir = product.target();
        move || {
            let mut x = seed;
            for _ in 0..count {
                x = x
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let name = dir.join(format!("app/{:016x}", x));
                assert!(std::fs::symlink_metadata(&name).is_err());
            }
        }
    };
    Run::uid(B)
        .limit(Duration::from_secs(60))
        .call(lookups(20_000, 1));
    let (before, begun) = (resident(&product), Instant::now());
    let all: Vec<_> = (0..4)
        .map(|n| {
            Run::uid(B)
                .limit(Duration::from_secs(1700))
                .start(lookups(count / 4, n + 2))
        })
        .collect();
    all.into_iter().for_each(|child| child.join());
    let grown = resident(&product).saturating_sub(before);
    println!(
        "{count} look-ups of names that are not there in {:?}; grown by {grown} KiB",
        begun.elapsed()
    );
    assert!(grown < 4096, "{grown} KiB");
    reads(&product);
}

#[test]
fn churning_processes_are_never_taken_for_each_other() {
    let count = if support::long_run() { 10_000 } else { 1_500 };
    let _deadline = Deadline::new(Duration::from_secs(600), "churn");
    let product = {
        let mut product = product();
        product.mount();
        product
    };
    let path = product.path("app/db");
    let wrong: Vec<String> = Run::root().limit(Duration::from_secs(500)).call(|| {
        let mut wrong = Vec::new();
        for n in 0..count {
            let uid = if n % 2 == 0 { A } else { B };
            // SAFETY: the child makes its decision and ends by _exit.
            match unsafe { libc::fork() } {
                0 => {
                    let got = support::become_ids(uid, uid, &[]).and_then(|()| std::fs::read(&path));
                    let code = match got {
                        Ok(bytes) if bytes == VALUE => 0,
                        Err(e) if e.raw_os_error() == Some(libc::EACCES) => 1,
                        _ => 2,
                    };
                    // SAFETY: ends this child at once.
                    unsafe { libc::_exit(code) };
                }
                pid => {
                    let mut status = 0;
                    // SAFETY: our own child.
                    unsafe { libc::waitpid(pid, &mut status, 0) };
                    let code = libc::WEXITSTATUS(status);
                    if code != i32::from(uid == B) {
                        wrong.push(format!("#{n} uid {uid}: {code}"));
                    }
                }
            }
        }
        wrong
    });
    assert_eq!(wrong, Vec::<String>::new());
    println!("{count} processes, no wrong decision");
}

#[test]
fn a_reader_that_is_stopped_in_the_middle_stops_nobody_else() {
    let _deadline = Deadline::new(Duration::from_secs(60), "stopped readers");
    let mut product = product();
    product.put("other", VALUE, &["--allow", &format!("uid:{B}")]);
    product.mount();
    let path = product.path("app/db");
    let stopped: Vec<_> = (0..32)
        .map(|_| {
            let path = path.clone();
            Run::uid(A).start(move || {
                let end = Instant::now() + Duration::from_secs(2);
                while Instant::now() < end {
                    assert_eq!(std::fs::read(&path).expect("read"), VALUE);
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    stopped.iter().for_each(|child| child.signal(libc::SIGSTOP));
    for _ in 0..100 {
        assert_eq!(read_as(B, &[], &product.path("other")), Ok(VALUE.to_vec()));
    }
    product.put("app/db", VALUE, &[]);
    stopped.iter().for_each(|child| child.signal(libc::SIGCONT));
    stopped.into_iter().for_each(|child| child.join());
    product.stop();
}

/// Files may not grow beyond a limit (ulimit -f, LimitFSIZE=): whoever meets it has an error, and is not killed.
#[test]
fn a_limit_on_the_size_of_files() {
    let _deadline = Deadline::new(Duration::from_secs(60), "a limit on the size of files");
    const LIMIT: u64 = 512 << 10;
    let mut product = product();
    // A command that needs more says so, and changes nothing.
    let mut command = product.command(&["put", "large", "--allow", "uid:1"]);
    limit(&mut command, libc::RLIMIT_FSIZE, 64 << 10);
    let refused = support::product::said(command, &[b'x'; 60_000]);
    assert_eq!(refused.code(), 7, "{refused:?}");
    product.run(&["store", "check"]).ok();
    assert_eq!(product.run(&["get", "large"]).code(), 4);
    // A daemon serves until its log is as long as it may be, and goes on when the limit is lifted.
    let failed = product.try_mount_as(&[], |command| {
        limit_until(command, libc::RLIMIT_FSIZE, LIMIT, libc::RLIM_INFINITY);
    });
    assert!(failed.is_none(), "{failed:?}");
    let path = product.path("app/db");
    let read = || {
        Run::uid(A).call(|| {
            let mut read = 0;
            loop {
                match std::fs::read(&path) {
                    Ok(bytes) => {
                        assert_eq!(bytes, VALUE);
                        read += 1;
                    }
                    Err(e) => return (read, e.raw_os_error()),
                }
                if read == 5000 {
                    return (read, None);
                }
            }
        })
    };
    let (first, error) = read();
    assert_eq!(error, Some(libc::EIO), "after {first} reads");
    assert!(first > 100, "{first}");
    assert_eq!(read_as(B, &[], &path), Err(libc::EACCES), "a refusal stays one");
    let pid = product.pid().to_string();
    let lifted = Command::new("prlimit")
        .args(["--pid", &pid, "--fsize=unlimited:unlimited"])
        .status();
    assert!(lifted.expect("prlimit").success());
    support::wait_until(Duration::from_secs(1), "service again", || {
        read_as(A, &[], &path) == Ok(VALUE.to_vec())
    });
    product.stop();
    assert_eq!(product.recorded_reads(), first + 1, "each read that gave bytes");
    product.run(&["audit", "verify"]).ok();
    product.run(&["store", "check"]).ok();
}
