//! What each layer of a read costs by itself, in this process: medians over many calls.

use std::path::Path;
use std::time::Instant;

use wardfs::access::{Access, Asked, Caller, Choice, KnownCaller, Range};
use wardfs::config::Config;
use wardfs::id::{Gid, Tid, Uid};
use wardfs::policy::{Action, Facts, Purpose};
use wardfs::sys::caller::{Header, Observer};

/// Median nanoseconds of one call of `f`, over batches of 100.
fn ns(mut f: impl FnMut()) -> f64 {
    let mut samples: Vec<f64> = (0..200)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..100 {
                f();
            }
            begin.elapsed().as_nanos() as f64 / 100.0
        })
        .collect();
    samples.sort_unstable_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn row(what: &str, ns: f64) {
    println!("  {what:<52} {:>8.2} µs", ns / 1000.0);
}

pub fn print(dir: &Path) {
    let store = dir.join("store");
    let config = Config::load(&store).unwrap();
    let (_desk, access) = wardfs::daemon::desk(&store, &config).unwrap();
    println!("\nlayers of a read, each by itself:");
    // SAFETY: no arguments, cannot fail.
    let tid = Tid(unsafe { libc::gettid() } as u32);
    let header = Header {
        uid: Uid(nix::unistd::geteuid().as_raw()),
        gid: Gid(nix::unistd::getegid().as_raw()),
        tid,
    };
    let mut observer = Observer::new();
    row(
        "identify the caller (kept descriptors)",
        ns(|| {
            let _seen = observer.identify(&header).unwrap();
        }),
    );
    row(
        "identify + unit",
        ns(|| drop(observer.identify(&header).unwrap().unit().map(|_| ()))),
    );
    row(
        "identify + supplementary groups, read now",
        ns(|| drop(observer.identify(&header).unwrap().groups().map(<[Gid]>::len))),
    );
    row(
        "identify + what a record says",
        ns(|| assert!(observer.identify(&header).unwrap().for_record().pid.0 != 0)),
    );
    decide(&access);
    unseal(&access);
    append(&access);
    read(&access, "uid", "32 B");
    read(&access, "large", "64 KiB");
}

fn decide(access: &Access) {
    let state = access.vault().state();
    let secret = state.secrets.by_name("uid").unwrap();
    let mut caller = KnownCaller::supposed(Uid(super::UID), Gid(super::GID), Vec::new());
    row(
        "find the secret and decide (uid rule)",
        ns(|| {
            let state = access.vault().peek();
            let secret = state.secrets.by_id(secret.meta.id).unwrap();
            let _grant = access
                .decide(
                    state.view(secret),
                    Action::GetSecretValue,
                    Purpose::Read,
                    Asked::secret(),
                    &mut caller,
                )
                .unwrap();
        }),
    );
    let version = secret.current().unwrap();
    let vault = access.vault();
    for (name, size) in [("uid", "32 B"), ("large", "64 KiB")] {
        let secret = state.secrets.by_name(name).unwrap();
        let version = if name == "uid" {
            version
        } else {
            secret.current().unwrap()
        };
        row(
            &format!("fetch the sealed value, {size}"),
            ns(|| drop(vault.sealed_value(version).unwrap())),
        );
    }
    row(
        "locked memory for 32 B",
        ns(|| drop(wardfs::sys::mem::secret(32).unwrap())),
    );
}

/// Decide, unseal, record: a whole read without FUSE and without looking at a process.
fn read(access: &Access, name: &str, size: &str) {
    let state = access.vault().state();
    let secret = state.secrets.by_name(name).unwrap();
    let mut caller = KnownCaller::supposed(Uid(super::UID), Gid(super::GID), Vec::new());
    assert!(caller.identify().is_ok() && caller.groups().is_some());
    let pin = access
        .open(state.view(secret), Choice::Label("current"), 1, &mut caller)
        .unwrap();
    row(
        &format!("decide + unseal + record, {size}"),
        ns(|| drop(access.read(&pin, Range::WHOLE, &mut caller).unwrap())),
    );
}

fn unseal(access: &Access) {
    let (vault, state) = (access.vault(), access.vault().state());
    for (name, size) in [("uid", "32 B"), ("large", "64 KiB")] {
        let version = state.secrets.by_name(name).unwrap().current().unwrap();
        let sealed = vault.sealed_value(version).unwrap();
        let mut plain = wardfs::sys::mem::secret(version.meta.size as usize).unwrap();
        let (key, context) = (vault.data_key(version).unwrap(), vault.context(version));
        row(
            &format!("unseal, {size}, data key at hand"),
            ns(|| {
                key.open_value(&context, &version.meta.wrapped, &sealed.0, &mut plain)
                    .unwrap()
            }),
        );
    }
}

fn append(access: &Access) {
    use wardfs::audit::{Event, Outcome, Record, Who};
    let groups = [Gid(super::SUPPLEMENTARY)];
    let who = Who {
        uid: super::UID,
        gid: super::GID,
        groups: Some(&groups),
        pid: Some(1234),
        tid: Some(1234),
        start_time: Some(123456),
        command: Some(b"bench"),
        ..Who::default()
    };
    let record = Record {
        event: Event::GetSecretValue,
        outcome: Outcome::Allowed,
        secret: Some("uid"),
        version: Some("3fa9a0c8-c0dd-4cdf-bc30-275d03bd146a"),
        handle: Some(77),
        offset: Some(0),
        length: Some(32),
        layer: Some("secret"),
        statement: Some("#1"),
        via: "mount",
        who,
        ..Record::default()
    };
    let log = access.vault().log();
    row(
        "record: format, MAC, append, check",
        ns(|| assert!(log.append(&record).unwrap().seq() > 0)),
    );
    let path = access.vault().dir().join("bench.tmp");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .unwrap();
    let line = [b'x'; 560];
    row(
        "  of which one write(2) of 560 bytes",
        ns(|| std::io::Write::write_all(&mut file, &line).unwrap()),
    );
    std::fs::remove_file(&path).unwrap();
}
