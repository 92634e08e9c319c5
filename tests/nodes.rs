//! What a file of the mount is to whoever looks at it: its name, which nobody's refusal takes from others; its inode
//! number; the owner and the size that it is shown with.

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::product::{A, Product};
use support::{Deadline, Run, sys};

/// A stranger of these tests alone.
const STRANGER: u32 = 61400;

fn errno(e: std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(0)
}

fn deadline(what: &str) -> Deadline {
    Deadline::new(Duration::from_secs(50), what)
}

/// A mounted store whose `app/key` A alone may read.
fn served() -> Product {
    let mut product = Product::new();
    product.put("app/key", "the value", &["--allow", &format!("uid:{A}")]);
    product.mount();
    product
}

/// Whether the name of an open file was dropped by the kernel.
fn dropped(file: &File) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("readlink");
    link.to_str().expect("text").ends_with(" (deleted)")
}

#[test]
fn a_strangers_refused_look_drops_no_name_and_detaches_no_mount() {
    let _deadline = deadline("names");
    let product = served();
    let path = product.path("app/key");
    let (ours, theirs) = support::socket_pair();
    let reader = Run::uid(A).start(|| {
        let file = File::open(&path).expect("open");
        nix::unistd::write(&theirs, b"o").expect("say so");
        sys::read(&theirs, 1).expect("looked at");
        dropped(&file)
    });
    sys::read(&ours, 1).expect("opened");
    let over = product.dir().join("over");
    std::fs::write(&over, "over it").expect("write");
    mount(Some(&over), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
    // A look at the name itself, beneath what is mounted: from a mount that has nothing over it.
    let aside = product.dir().join("aside");
    std::fs::create_dir(&aside).expect("mkdir");
    mount(
        Some(&product.target()),
        &aside,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .expect("bind the mount");
    let beneath = aside.join("app/key");
    let looked = Run::uid(STRANGER).call(|| std::fs::read(&beneath).map_err(errno));
    assert_eq!(looked, Err(libc::EACCES));
    assert_eq!(std::fs::read(&path).expect("read"), b"over it", "it was detached");
    umount2(&path, MntFlags::MNT_DETACH).expect("unmount");
    umount2(&aside, MntFlags::MNT_DETACH).expect("unmount");
    nix::unistd::write(&ours, b"l").expect("say so");
    assert!(!reader.join(), "the reader's name was dropped");
}

#[test]
fn what_a_stranger_is_told_of_a_listed_name() {
    let _deadline = deadline("a stranger's calls");
    let product = served();
    product.put(
        "app/secret",
        "hidden",
        &["--visibility", "hidden", "--allow", &format!("uid:{A}")],
    );
    let (path, hidden) = (product.path("app/key"), product.path("app/secret"));
    let said = |script: &str, path: &Path| {
        let output = Command::new("setpriv")
            .args([
                &format!("--reuid={STRANGER}"),
                &format!("--regid={STRANGER}"),
                "--clear-groups",
            ])
            .args(["sh", "-c", script, "sh"])
            .arg(path)
            .env("LC_ALL", "C")
            .output()
            .expect("sh");
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).trim_end().to_string()
    };
    let listed = |script: &str| said(script, &path);
    for refused in [
        "cat $1",
        "stat $1",
        "stat -L $1",
        "getfattr -d --absolute-names $1 || cat $1",
        "head -c1 <$1",
        "cp $1 /dev/null",
    ] {
        let text = listed(refused);
        assert!(text.contains("Permission denied"), "{refused}: {text}");
    }
    for test in ["-e", "-r", "-f", "-s"] {
        assert_eq!(listed(&format!("test {test} $1 || echo no")), "no", "{test}");
    }
    // The name is there, and so is its length.
    assert_eq!(listed("realpath $1"), path.to_str().expect("text"));
    assert_eq!(listed("stat --cached=always -c %s $1"), "9");
    assert!(listed("mkdir -p $1/x").ends_with("Not a directory"));
    assert!(listed("cd $1").to_lowercase().contains("can't cd"));
    assert!(listed("touch $1").ends_with("Read-only file system"));
    assert!(listed("mkdir $1").ends_with("File exists"));
    // Of a hidden one nothing: it is as a name that is not there.
    let missing = product.path("app/nothing");
    for script in [
        "cat $1",
        "stat -c %s $1",
        "stat --cached=always -c %s $1",
        "readlink -e $1; echo $?",
    ] {
        let same = |path: &Path| said(script, path).replace(path.to_str().expect("text"), "F");
        assert_eq!(same(&hidden), same(&missing), "{script}");
    }
    let times = Run::uid(STRANGER).call(|| {
        let node = File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&path)
            .expect("O_PATH");
        (
            node.metadata().map(drop).map_err(errno),
            std::fs::read(format!("/proc/self/fd/{}", node.as_raw_fd())).map_err(errno),
        )
    });
    assert_eq!(times, (Err(libc::EACCES), Err(libc::EACCES)));
}

#[test]
fn a_refused_read_is_one_record_and_a_look_is_none() {
    let _deadline = deadline("records");
    let product = served();
    let path = product.path("app/key");
    let before = product.records().len();
    let opened = Run::uid(STRANGER).call(|| File::open(&path).map(drop).map_err(errno));
    assert_eq!(opened, Err(libc::EACCES));
    let realpath = Run::uid(STRANGER).call(|| {
        let node = File::options().read(true).custom_flags(libc::O_PATH).open(&path);
        node.map(drop).map_err(errno)
    });
    assert_eq!(realpath, Ok(()));
    let records = product.records();
    let his: Vec<_> = records[before..]
        .iter()
        .filter(|r| r["uid"] == STRANGER)
        .map(|r| r["eventName"].as_str().expect("text"))
        .collect();
    assert_eq!(his, ["OpenSecret"]);
}

/// What of a stranger's is on record, as `eventName`s, after `act`.
fn recorded(product: &Product, act: impl FnOnce()) -> Vec<String> {
    let before = product.records().len();
    Run::uid(STRANGER).call(act);
    let records = product.records();
    let his = records[before..].iter().filter(|r| r["uid"] == STRANGER);
    his.map(|r| r["eventName"].as_str().expect("text").to_string())
        .collect()
}

#[test]
fn each_refusal_is_recorded_as_what_was_tried() {
    let _deadline = deadline("words");
    let product = served();
    product.put(
        "hid/den",
        "value",
        &["--allow", &format!("uid:{A}"), "--visibility", "hidden"],
    );
    let path = product.path("app/key");
    let refused = |code| assert_eq!(code, Err(libc::EACCES));
    let read = |path: &std::path::Path| {
        let _ = std::fs::read(path).expect_err("refused");
    };
    let access = || {
        refused(nix::unistd::access(&path, nix::unistd::AccessFlags::R_OK).map_err(|e| e as i32));
    };
    assert_eq!(recorded(&product, || read(&path)), ["OpenSecret"]);
    assert_eq!(
        recorded(&product, || refused(path.metadata().map(drop).map_err(errno))),
        ["DescribeSecret"]
    );
    assert_eq!(recorded(&product, access), ["DescribeSecret"]);
    // The kernel has this name in its cache, because its value was announced, and asks a second time after the first no.
    // On a busy machine the two can be too far apart to be one record.
    let hidden = product.path("hid/den");
    let one = (0..100).any(|_| {
        let before = product.records().len();
        Run::uid(STRANGER).call(|| read(&hidden));
        let mut new = Vec::new();
        support::wait_until(Duration::from_secs(5), "the record", || {
            new = product.records().split_off(before);
            !new.is_empty()
        });
        assert!(new.iter().all(|r| r["eventName"] == "LookupSecret"), "{new:?}");
        new.len() == 1 && new[0]["requests"] == 2
    });
    assert!(one, "one refused read of a hidden secret is one record");
    let asked = |more: &[&str]| {
        let args = [&["audit", "query", "--denied", "--json"][..], more].concat();
        let lines = product.run(&args).ok().out;
        let names = lines
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON"));
        names
            .map(|r| r["eventName"].as_str().expect("text").to_string())
            .collect::<Vec<_>>()
    };
    let uid = STRANGER.to_string();
    let mut reading = asked(&["--event", "GetSecretValue", "--uid", &uid]);
    reading.dedup();
    assert_eq!(
        reading,
        ["OpenSecret", "LookupSecret"],
        "who wanted to read, and how far it came"
    );
    assert_eq!(asked(&["--event", "OpenSecret", "--uid", &uid]), ["OpenSecret"]);
}

/// What `stat` and `readdir` of a 32-bit program say, without large file support.
const LOOK: &str = r#"
#include <stdio.h>
#include <string.h>
#include <errno.h>
#include <dirent.h>
#include <sys/stat.h>
int main(int c, char **v) {
    struct stat s;
    for (int i = 1; i < c; i++) {
        if (stat(v[i], &s)) { printf("%s: %s\n", v[i], strerror(errno)); continue; }
        printf("%lu\n", (unsigned long)s.st_ino);
        if (!S_ISDIR(s.st_mode)) continue;
        DIR *d = opendir(v[i]);
        struct dirent *e;
        for (errno = 0; (e = readdir(d)); errno = 0) printf(" %s %lu\n", e->d_name, (unsigned long)e->d_ino);
        if (errno) printf("%s: readdir: %s\n", v[i], strerror(errno));
    }
    return 0;
}
"#;

#[test]
fn inode_numbers_fit_32_bits_agree_and_stay() {
    let _deadline = deadline("inode numbers");
    let mut product = Product::new();
    let allow = format!("uid:{A}");
    for name in ["app/one", "app/two", "app/deep/three", "top"] {
        product.put(name, name, &["--allow", &allow]);
    }
    product.put("app/one", "again", &[]);
    product.mount();
    let program = product.dir().join("look");
    let source = product.dir().join("look.c");
    std::fs::write(&source, LOOK).expect("write");
    let built = Command::new("gcc")
        .args(["-m32", "-w", "-o"])
        .args([&program, &source])
        .output();
    let built = built.expect("gcc");
    assert!(
        built.status.success(),
        "a 32-bit program cannot be built (gcc-multilib): {}",
        String::from_utf8_lossy(&built.stderr)
    );
    let all = [
        "",
        "app",
        "app/one",
        "app/two",
        "app/deep",
        "app/deep/three",
        "top",
        ".versions",
        ".versions/app",
        ".versions/app/one",
    ];
    let look = |product: &Product| {
        let paths = all.map(|name| product.path(name));
        let mut command = Command::new("setpriv");
        command
            .args([&format!("--reuid={A}"), &format!("--regid={A}"), "--clear-groups"])
            .arg(&program)
            .args(&paths);
        let output = command.output().expect("the 32-bit program");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for (what, number) in text.lines().filter_map(|l| l.trim().rsplit_once(' ')) {
            assert!(number.parse::<u32>().is_ok(), "{what} {number}\n{text}");
        }
        assert!(text.contains(" one ") && text.contains(" three ") && text.contains(" current "));
        assert!(
            !text.contains("too large") && !text.contains("EOVERFLOW"),
            "{text}"
        );
        let numbers = Run::uid(A).call(|| {
            let ino = |path: &Path| std::fs::metadata(path).expect("stat").ino();
            paths.iter().map(|p| ino(p)).collect::<Vec<u64>>()
        });
        // What a listing says is what a stat says.
        let listed = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(&format!(" {name} ")));
            line.unwrap_or_else(|| panic!("{name}: {text}")).to_string()
        };
        assert_eq!(listed("two"), numbers[3].to_string());
        assert_eq!(listed("deep"), numbers[4].to_string());
        assert_eq!(listed("top"), numbers[6].to_string());
        numbers
    };
    let numbers = look(&product);
    let mut apart = numbers.clone();
    apart.sort_unstable();
    apart.dedup();
    assert_eq!(apart.len(), numbers.len(), "{numbers:?}");
    assert!(numbers.iter().all(|n| *n < 1 << 32), "{numbers:?}");
    product.stop();
    product.mount();
    assert_eq!(look(&product), numbers, "after a restart");
}

/// A second reader of these tests.
const OTHER: u32 = 59411;

/// `app/key` for both readers and root.
fn shared() -> (Product, std::path::PathBuf) {
    let product = served();
    let allow = ["policy", "allow", "app/key"].into_iter();
    let who = [format!("uid:{A}"), format!("uid:{OTHER}"), "uid:0".into()];
    let args: Vec<&str> = allow.chain(who.iter().map(String::as_str)).collect();
    product.run(&args).ok();
    let path = product.path("app/key");
    (product, path)
}

#[test]
fn a_caller_is_shown_its_own_file_and_the_kernel_keeps_nobodys() {
    let _deadline = deadline("owners");
    let (product, path) = shared();
    assert_eq!(
        product.run(&["--json", "status"]).ok().json()["attributes"],
        "shown"
    );
    for uid in [A, OTHER, A, 0] {
        let shown = Run::uid(uid).call(|| {
            let (by_path, file) = (
                std::fs::metadata(&path).expect("stat"),
                File::open(&path).expect("open"),
            );
            let by_descriptor = file.metadata().expect("fstat");
            [by_path, by_descriptor].map(|m| (m.uid(), m.gid(), m.mode() & 0o777, m.len()))
        });
        assert_eq!(shown, [(uid, uid, 0o400, 9); 2]);
    }
    let kept = || {
        let args = ["--cached=always", "-c", "%u %s"];
        let said = Command::new("stat").args(args).arg(&path).output().expect("stat");
        String::from_utf8(said.stdout).expect("text")
    };
    let first = kept();
    let nobody: u32 = first.split(' ').next().expect("a uid").parse().expect("a number");
    assert!(![0, A, OTHER, 65_534].contains(&nobody), "{first}");
    Run::uid(A).call(|| std::fs::metadata(&path).map(drop).expect("stat"));
    assert_eq!(kept(), first);
    // What is set on the secret is shown to all, and kept of nobody.
    product.put(
        "app/set",
        "value",
        &["--allow", &format!("uid:{A}"), "--owner", "0", "--mode", "0440"],
    );
    let set = product.path("app/set");
    let shown = Run::uid(A).call(|| {
        std::fs::metadata(&set)
            .map(|m| (m.uid(), m.mode() & 0o777))
            .expect("stat")
    });
    assert_eq!(shown, (0, 0o440));
}

#[test]
fn no_reader_is_the_owner_however_often_it_looks() {
    let _deadline = deadline("leases and O_NOATIME");
    let (_product, path) = shared();
    let tries = |uid| {
        let path = path.clone();
        Run::uid(uid).start(move || {
            // SAFETY: ignoring a signal installs no handler.
            unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
            let begin = std::time::Instant::now();
            let (mut tried, mut got) = (0u64, Vec::new());
            let file = File::open(&path).expect("open");
            while begin.elapsed() < Duration::from_millis(1500) {
                for kind in [libc::F_RDLCK, libc::F_WRLCK] {
                    let seen = (std::fs::metadata(&path), file.metadata());
                    assert!(seen.0.is_ok_and(|m| m.uid() == uid) && seen.1.is_ok_and(|m| m.uid() == uid));
                    assert_eq!(sys::lseek(&file, 0, libc::SEEK_END).expect("seek"), 9);
                    // SAFETY: the descriptor is open.
                    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } == 0 {
                        got.push("a lease".to_string());
                    }
                    let flags = libc::O_NOATIME;
                    let quiet = File::options().read(true).custom_flags(flags).open(&path);
                    if quiet.map_err(errno).err() != Some(libc::EPERM) {
                        got.push("O_NOATIME".to_string());
                    }
                    tried += 1;
                }
            }
            (tried, got)
        })
    };
    let all = [tries(A), tries(OTHER), tries(A)];
    for one in all {
        let (tried, got) = one.join();
        assert!(tried > 20 && got.is_empty(), "{tried} tries: {got:?}");
    }
}

#[test]
fn who_opens_now_sees_what_he_will_read_and_who_holds_an_older_version_gets_all_of_it() {
    let _deadline = deadline("a longer version held");
    let product = served();
    let path = product.path("app/key");
    let who = format!("uid:{A}");
    product.run(&["policy", "allow", "app/key", &who, "uid:0"]).ok();
    let long = vec![b'l'; 50_000];
    product.put("app/key", &long, &[]);
    let (ours, theirs) = support::socket_pair();
    let whole = long.clone();
    let holder = Run::uid(A).limit(Duration::from_secs(40)).start(|| {
        let mut file = File::open(&path).expect("open");
        nix::unistd::write(&theirs, b"o").expect("say so");
        let mut sizes = Vec::new();
        for _ in 0..6 {
            sys::read(&theirs, 1).expect("changed");
            let size = file.metadata().expect("fstat").len();
            sizes.push((size, sys::lseek(&file, 0, libc::SEEK_END).expect("seek")));
            assert_eq!(sys::pread(&file, size as usize, 0).expect("read"), whole);
            use std::io::{Read, Seek};
            file.rewind().expect("rewind");
            let mut all = Vec::new();
            file.read_to_end(&mut all).expect("read");
            assert_eq!(all, whole);
            nix::unistd::write(&theirs, b"s").expect("say so");
        }
        sizes
    });
    sys::read(&ours, 1).expect("opened");
    let old = sys::Inotify::new();
    old.watch(&path).expect("watch");
    let bound = product.dir().join("bound");
    std::fs::write(&bound, "").expect("write");
    mount(Some(&path), &bound, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
    let number = Run::uid(A).call(|| std::fs::metadata(&path).expect("stat").ino());
    let heard = |watch: &sys::Inotify| {
        let mut seen = 0;
        support::wait_until(Duration::from_secs(5), "events", || {
            seen |= watch.events().iter().fold(0, |all, (_, mask, _)| all | mask);
            seen & (libc::IN_MODIFY | libc::IN_CLOSE_WRITE) == libc::IN_MODIFY | libc::IN_CLOSE_WRITE
        });
    };
    let mut new = sys::Inotify::new();
    for (turn, length) in [20usize, 7, 30_000, 10, 60_000, 1].into_iter().enumerate() {
        let value = vec![b'a' + turn as u8; length];
        product.put("app/key", &value, &[]);
        // Who has the descriptor, who watches it, and who came by a bind mount, stay with the old file; all hear.
        heard(&old);
        if turn > 0 {
            heard(&new);
        }
        let seen = Run::uid(A).call(|| {
            let meta = std::fs::metadata(&path).expect("stat");
            let file = File::open(&path).expect("open");
            let exact = sys::pread(&file, meta.len() as usize, 0).expect("read");
            let end = sys::lseek(&file, 0, libc::SEEK_END).expect("seek");
            let by_descriptor = file.metadata().expect("fstat").len();
            let bound = std::fs::read(&bound).expect("read the bind mount");
            (meta.len(), by_descriptor, end, exact == bound, exact, meta.ino())
        });
        let size = length as u64;
        assert_eq!(
            seen,
            (size, size, size as i64, true, value.clone(), number),
            "{turn}"
        );
        let tar = Command::new("tar")
            .args(["-cf", "-", "-C"])
            .arg(product.path("app"))
            .arg("key")
            .output()
            .expect("tar");
        assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
        assert_eq!(tar.stdout[512..512 + length], value);
        assert!(tar.stdout[512 + length..].iter().all(|b| *b == 0));
        let header = std::str::from_utf8(&tar.stdout[124..135]).expect("a size");
        assert_eq!(u64::from_str_radix(header, 8), Ok(size));
        new = sys::Inotify::new();
        new.watch(&path).expect("watch");
        nix::unistd::write(&ours, b"c").expect("say so");
        sys::read(&ours, 1).expect("seen");
    }
    let sizes = holder.join();
    // Longer values are shown on all files: a size may run high for who holds an older version, never low.
    assert_eq!(
        sizes.iter().map(|s| s.0).collect::<Vec<_>>(),
        [50_000, 50_000, 50_000, 50_000, 60_000, 50_000]
    );
    assert!(
        sizes.iter().all(|(size, end)| *end >= 50_000 && *size >= 50_000),
        "{sizes:?}"
    );
    umount2(&bound, MntFlags::MNT_DETACH).expect("unmount");
}
