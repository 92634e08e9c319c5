//! What the page cache, the dentry cache and the attribute cache let through.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::fs::*;
use super::support::*;
use super::{A, B, TEXT, deadline, errno, mounted};

type Leak = (&'static str, fn(&File) -> std::io::Result<Vec<u8>>);

const FILLS: [Leak; 3] = [
    ("MAP_PRIVATE", |f| {
        sys::map_and_read(f, libc::MAP_PRIVATE, TEXT.len())
    }),
    ("sendfile", |f| sys::sendfile(f, 100)),
    ("splice", |f| sys::splice(f, 100)),
];

/// "FOPEN_DIRECT_IO … does not stop MAP_PRIVATE mmap, sendfile and splice: these fill and read the page cache, and a
/// denied uid holding a passed fd got plaintext that way with no READ seen". "A real direct read carries a lock
/// owner; a page-cache fill does not".
#[test]
fn page_cache_fills_carry_no_lock_owner_and_later_reads_of_them_no_request() {
    let _deadline = deadline("fills");
    for (how, fill) in FILLS {
        let (world, mount) = mounted();
        let file = File::open(mount.join("value")).expect("open");
        sys::pread(&file, 100, 0).expect("a direct read");
        assert!(world.of("READ").iter().all(|s| s.lock_owner.is_some()));
        world.clear();
        assert_eq!(
            Run::uid(A).call(|| fill(&file).map_err(errno)).as_deref(),
            Ok(TEXT),
            "{how}"
        );
        let reads = world.of("READ");
        assert!(
            !reads.is_empty() && reads.iter().all(|s| s.lock_owner.is_none()),
            "{how}: {reads:?}"
        );
        world.clear();
        assert_eq!(
            Run::uid(B).call(|| fill(&file).map_err(errno)).as_deref(),
            Ok(TEXT),
            "{how}"
        );
        let again: Vec<_> = world.of("READ").iter().map(|s| (s.uid, s.lock_owner)).collect();
        // mmap of a direct-io file drops the cached pages first; sendfile and splice take them.
        let expected: &[_] = if how == "MAP_PRIVATE" { &[(B, None)] } else { &[] };
        assert_eq!(
            again, expected,
            "{how}: B is given A's page and the daemon sees nothing"
        );
    }
}

fn refuse_fills(with: i32) -> impl Fn(&Seen) -> Answer + Send + Sync {
    move |s| {
        if s.op == "READ" && s.lock_owner.is_none() {
            Answer::Errno(with)
        } else {
            Answer::Usual
        }
    }
}

/// "Refusing READs that have none closed every such leak tried".
#[test]
fn refusing_reads_without_a_lock_owner_closes_the_leaks() {
    let _deadline = deadline("leaks closed");
    for (how, fill) in FILLS {
        let (world, mount) = mounted();
        world.rule(refuse_fills(libc::EINVAL));
        let file = File::open(mount.join("value")).expect("open");
        let child = Run::uid(A).start(|| fill(&file).map_err(errno));
        // A page that cannot be had kills by SIGBUS: no result.
        let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| child.join()));
        assert!(
            !matches!(got, Ok(Ok(ref bytes)) if !bytes.is_empty()),
            "{how} gave {got:?}"
        );
        assert!(
            world.of("READ").iter().any(|s| s.lock_owner.is_none()),
            "{how} was tried"
        );
        assert_eq!(sys::pread(&file, 100, 0).unwrap(), TEXT, "reading goes on");
    }
}

/// "Refusing a page-cache fill with EINVAL makes Rust's io::copy … fall back to read; EACCES and EIO make them fail.
/// cat, cp, dd, Python … work with any".
#[test]
fn copying_falls_back_to_read_when_a_fill_is_refused_with_einval_only() {
    let _deadline = deadline("fall back");
    for (with, std_copy) in [
        (libc::EINVAL, Ok(TEXT.len() as u64)),
        (libc::EACCES, Err(libc::EACCES)),
        (libc::EIO, Err(libc::EIO)),
    ] {
        let (world, mount) = mounted();
        world.rule(refuse_fills(with));
        let (from, to) = (mount.join("value"), mount.beside("out"));
        let copy = Run::root().call(|| std::fs::copy(&from, to.join("std")).map_err(errno));
        assert_eq!(copy, std_copy, "std::fs::copy after errno {with}");
        let script = format!(
            "import shutil; shutil.copyfile({from:?}, {:?})",
            to.join("python")
        );
        let programs: [(&str, Vec<String>); 4] = [
            ("cat", vec![from.display().to_string()]),
            (
                "cp",
                vec![from.display().to_string(), to.join("cp").display().to_string()],
            ),
            (
                "dd",
                vec![
                    format!("if={}", from.display()),
                    format!("of={}", to.join("dd").display()),
                    "status=none".into(),
                ],
            ),
            ("python3", vec!["-c".into(), script]),
        ];
        for (program, args) in programs {
            match Command::new(program).args(&args).output() {
                Ok(run) => {
                    assert!(
                        run.status.success(),
                        "{program}, errno {with}: {}",
                        String::from_utf8_lossy(&run.stderr)
                    );
                    let copied = if program == "cat" {
                        run.stdout
                    } else {
                        std::fs::read(to.join(program.trim_end_matches('3'))).expect("the copy")
                    };
                    assert_eq!(copied, TEXT, "{program}");
                }
                // A machine with nothing but a Rust toolchain has coreutils and perhaps no Python.
                Err(e) => assert!(program == "python3", "{program}: {e}"),
            }
        }
    }
}

/// "MAP_SHARED on a direct-io file is ENODEV unless FUSE_DIRECT_IO_ALLOW_MMAP is negotiated".
#[test]
fn map_shared_of_a_direct_io_file_is_enodev() {
    let _deadline = deadline("MAP_SHARED");
    let (world, mount) = mounted();
    let file = File::open(mount.join("value")).expect("open");
    let got = Run::uid(A).call(|| sys::map_and_read(&file, libc::MAP_SHARED, 1).map_err(errno));
    assert_eq!(got, Err(libc::ENODEV));
    assert_eq!(world.of("READ"), []);
}

/// "entry or attribute timeout > 0: another uid's stat is answered from the cache and never reaches the daemon.
/// Visibility that depends on the caller needs timeout 0"; "With timeout 0, attributes may differ per caller".
#[test]
fn visibility_by_caller_needs_timeout_0() {
    let _deadline = deadline("timeouts");
    for (ttl, reaches) in [(Duration::from_secs(60), false), (Duration::ZERO, true)] {
        let (world, mount) = mounted();
        *world.ttl.lock().unwrap() = ttl;
        let path = mount.join("value");
        let owner =
            |uid| Run::uid(uid).call(|| std::fs::symlink_metadata(&path).map(|m| m.uid()).map_err(errno));
        assert_eq!(owner(A), Ok(A));
        world.clear();
        assert_eq!(owner(B), Ok(if reaches { B } else { A }));
        assert_eq!(world.seen().iter().any(|s| s.uid == B), reaches);
    }
}

/// "With timeout 0, attributes may differ per caller without a race: 60,000 concurrent stats by three uids, each shown
/// its own uid as owner, 0 mixed up". (Fewer here.)
#[test]
fn each_caller_sees_itself_as_owner() {
    let _deadline = deadline("owners");
    let (_world, mount) = mounted();
    let path = mount.join("value");
    let count = |uid: u32| {
        let path = path.clone();
        Run::uid(uid).start(move || {
            (0..2000)
                .filter(|_| std::fs::symlink_metadata(&path).is_ok_and(|m| m.uid() == uid))
                .count()
        })
    };
    let children = [A, B, 0].map(count);
    assert_eq!(children.map(Child::join), [2000; 3]);
}

/// "Two strangers whose LOOKUP and GETATTR of a file are refused … beside two readers that open, fstat, seek to the
/// end, read, getcwd: … 0 wrong"; "watchers and open files survive".
#[test]
fn a_refused_lookup_disturbs_no_other_caller() {
    let _deadline = deadline("strangers");
    let (world, mount) = mounted();
    world.rule(|s| match s.op.as_str() {
        "LOOKUP" if s.uid == B && s.name == "inner" => Answer::Errno(libc::EACCES),
        "GETATTR" if s.uid == B && s.ino == INNER => Answer::Errno(libc::EACCES),
        _ => Answer::Usual,
    });
    let (dir, inner) = (mount.join("dir"), mount.join("dir/inner"));
    let held = File::open(&inner).expect("open");
    let watch = sys::Inotify::new();
    watch.watch(&inner).expect("watch");
    let strangers: Vec<_> = (0..2)
        .map(|_| {
            let inner = inner.clone();
            Run::uid(B).start(move || {
                (0..3000)
                    .filter(|_| std::fs::metadata(&inner).map(drop).map_err(errno) == Err(libc::EACCES))
                    .count()
            })
        })
        .collect();
    let right = Run::uid(A).call(|| {
        std::env::set_current_dir(&dir).expect("chdir");
        (0..1000)
            .filter(|_| {
                let file = File::open("inner").expect("open");
                let size = file.metadata().expect("fstat").len() as usize;
                let end = sys::lseek(&file, 0, libc::SEEK_END).expect("seek");
                let got = sys::pread(&file, size, 0).expect("read");
                got == b"never changes" && end == 13 && std::env::current_dir().is_ok_and(|cwd| cwd == dir)
            })
            .count()
    });
    assert_eq!(right, 1000);
    for stranger in strangers {
        assert_eq!(stranger.join(), 3000);
    }
    assert_eq!(sys::pread(&held, 100, 0).unwrap(), b"never changes");
    assert!(!watch.events().is_empty(), "the watch is alive");
}

/// "Refusing LOOKUP of a directory to a stranger makes the kernel drop it for its rightful users: their getcwd()
/// fails. Never hide directories from LOOKUP".
#[test]
fn refusing_a_directory_breaks_getcwd_of_those_inside() {
    let _deadline = deadline("getcwd");
    let (world, mount) = mounted();
    world.rule(|s| match s.op.as_str() {
        "LOOKUP" if s.uid == B && s.name == "dir" => Answer::Errno(libc::ENOENT),
        _ => Answer::Usual,
    });
    let dir = mount.join("dir");
    let (near, far) = socket_pair();
    let inside = Run::uid(A).start(|| {
        std::env::set_current_dir(&dir).expect("chdir");
        let before = std::env::current_dir().is_ok();
        nix::unistd::write(&near, b"r").expect("ready");
        sys::read(&near, 1).expect("go on");
        (before, std::env::current_dir().map(drop).map_err(errno))
    });
    sys::read(&far, 1).expect("ready");
    assert_eq!(
        Run::uid(B).call(|| std::fs::metadata(&dir).map(drop).map_err(errno)),
        Err(libc::ENOENT)
    );
    nix::unistd::write(&far, b"g").expect("go on");
    assert_eq!(inside.join(), (true, Err(libc::ENOENT)));
}

/// "A bind mount or /proc/PID/fd reaches the inode without a LOOKUP: OPEN and READ must each decide for themselves";
/// "a single-file bind mount … goes on working and rotating" after a stranger was refused.
#[test]
fn a_bind_mount_and_proc_fd_reach_the_file_without_lookup() {
    let _deadline = deadline("without lookup");
    let (world, mount_) = mounted();
    let target = mount_.beside("bound").join("file");
    std::fs::write(&target, b"").expect("target");
    mount(
        Some(&mount_.join("value")),
        &target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .expect("bind");
    let held = File::open(mount_.join("value")).expect("open");
    let link = format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd());
    world.rule(|s| {
        if s.op == "LOOKUP" {
            Answer::Errno(libc::EACCES)
        } else {
            Answer::Usual
        }
    });
    assert_eq!(
        std::fs::read(mount_.join("value")).map_err(errno),
        Err(libc::EACCES)
    );
    world.clear();
    let read = |path: &std::path::Path| std::fs::read(path).map_err(errno);
    assert_eq!(Run::uid(A).call(|| read(&target)).as_deref(), Ok(TEXT));
    world.put(b"rotated");
    assert_eq!(Run::uid(A).call(|| read(&target)).as_deref(), Ok(&b"rotated"[..]));
    assert_eq!(
        Run::root().call(|| read(link.as_ref())).as_deref(),
        Ok(&b"rotated"[..]),
        "a new open, not the held one"
    );
    umount2(&target, MntFlags::MNT_DETACH).expect("umount");
    assert_eq!(world.of("LOOKUP"), []);
    assert_eq!(
        world.of("OPEN").iter().map(|s| s.uid).collect::<Vec<_>>(),
        [A, A, 0]
    );
}
