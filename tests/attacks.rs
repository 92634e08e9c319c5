//! Attacks through a real mount: A may read, B may not. B gets no byte, and each refusal leaves its record.

mod support;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::product::{A, B, Product, read_as};
use support::{Deadline, Run, become_ids, pass_fd, receive_fd, set_fsids, socket_pair, sys};

const VALUE: &[u8] = b"the-value-of-the-attacked-secret";

fn errno(e: std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(0)
}

fn deadline(what: &str) -> Deadline {
    Deadline::new(Duration::from_secs(50), what)
}

/// A mounted store with one secret that A alone may read.
fn served() -> (Product, PathBuf) {
    let mut product = Product::new();
    product.put("app/key", VALUE, &["--allow", &format!("uid:{A}")]);
    product.mount();
    let path = product.path("app/key");
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(VALUE));
    (product, path)
}

#[test]
fn opening_looking_and_listing() {
    let _deadline = deadline("open, stat, list");
    let (product, path) = served();
    assert_eq!(read_as(B, &[], &path), Err(libc::EACCES));
    assert_eq!(read_as(0, &[], &path), Err(libc::EACCES), "root has no statement");
    let stat = |uid| {
        Run::uid(uid).call(|| {
            std::fs::metadata(&path)
                .map(|m| (m.uid(), m.mode() & 0o777))
                .map_err(errno)
        })
    };
    assert_eq!(stat(A), Ok((A, 0o400)));
    assert_eq!(stat(B), Err(libc::EACCES));
    let names = |uid| {
        Run::uid(uid).call(|| -> Vec<String> {
            let all = std::fs::read_dir(path.parent().unwrap())
                .into_iter()
                .flatten()
                .flatten();
            all.map(|e| e.file_name().to_string_lossy().into_owned())
                .collect()
        })
    };
    assert!(names(A).contains(&"key".to_owned()));
    assert!(!names(B).contains(&"key".to_owned()));
    product.refusal(B, "implicit_deny");
    product.refusal(0, "implicit_deny");
}

/// Whether a page of a private mapping of `file` shows the value; a fault ends a grandchild only.
fn mapping_leaks(file: &impl AsRawFd) -> bool {
    // SAFETY: the forked child maps, compares and ends by _exit.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            let leaked = sys::map_and_read(file, libc::MAP_PRIVATE, VALUE.len()).is_ok_and(|b| b == VALUE);
            libc::_exit(if leaked { 7 } else { 0 });
        }
        let mut status = 0;
        libc::waitpid(pid, &mut status, 0);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7
    }
}

#[test]
fn a_passed_or_inherited_descriptor() {
    let _deadline = deadline("passed descriptor");
    let (product, path) = served();
    let (near, far) = socket_pair();
    Run::uid(A).call(|| {
        let file = File::open(&path).expect("open");
        // A touches what could be cached first.
        assert_eq!(sys::pread(&file, 100, 0).expect("A reads"), VALUE);
        let _ = (
            mapping_leaks(&file),
            sys::sendfile(&file, 100),
            sys::splice(&file, 100),
        );
        pass_fd(&near, &file).expect("send");
    });
    let attack = |file: &std::os::fd::OwnedFd| {
        (
            sys::read(file, 100).map_err(errno),
            sys::pread(file, 100, 0).map_err(errno),
            sys::sendfile(file, 100).map_err(errno),
            sys::splice(file, 100).map_err(errno),
            mapping_leaks(file),
        )
    };
    let refused = (
        Err(libc::EACCES),
        Err(libc::EACCES),
        Err(libc::EINVAL),
        Err(libc::EINVAL),
        false,
    );
    assert_eq!(
        Run::uid(B).call(|| attack(&receive_fd(&far).expect("receive"))),
        refused
    );
    let inherited = Run::root().call(|| {
        set_fsids(A, A);
        let file = File::open(&path).expect("open").into();
        set_fsids(0, 0);
        become_ids(B, B, &[]).expect("become B");
        attack(&file)
    });
    assert_eq!(inherited, refused);
    product.refusal(B, "implicit_deny");
    product.refusal(B, "page_cache_refused");
}

#[test]
fn reopening_through_proc_and_o_path() {
    let _deadline = deadline("reopen");
    let (product, path) = served();
    for flags in [0, libc::O_PATH] {
        let got = Run::root().call(|| {
            set_fsids(A, A);
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(&path)
                .expect("open");
            set_fsids(0, 0);
            become_ids(B, B, &[]).expect("become B");
            // The change of ids made this process undumpable, which would be root's refusal and not wardfs's.
            // SAFETY: numbers only.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
            std::fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(errno)
        });
        assert_eq!(got, Err(libc::EACCES), "flags {flags}");
    }
    product.refusal(B, "implicit_deny");
}

#[test]
fn threads_and_user_namespaces() {
    let _deadline = deadline("threads and namespaces");
    let (product, path) = served();
    let by_thread = Run::root().call(|| {
        let path = path.clone();
        std::thread::spawn(move || {
            set_fsids(B, B);
            std::fs::read(path).map_err(errno)
        })
        .join()
        .expect("thread")
    });
    assert_eq!(by_thread, Err(libc::EACCES));
    product.refusal(B, "implicit_deny");
    let inside = Run::uid(B).call(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).expect("unshare");
        std::fs::write("/proc/self/setgroups", "deny").expect("setgroups");
        std::fs::write("/proc/self/uid_map", format!("0 {B} 1")).expect("uid_map");
        std::fs::write("/proc/self/gid_map", format!("0 {B} 1")).expect("gid_map");
        (
            nix::unistd::geteuid().as_raw(),
            std::fs::read(&path).map_err(errno),
        )
    });
    assert_eq!(inside, (0, Err(libc::EACCES)));
}

#[test]
fn overlayfs_and_single_file_bind_mounts_by_root() {
    let _deadline = deadline("overlayfs and bind");
    let (product, path) = served();
    let (over, empty, bound) = (
        product.dir().join("over"),
        product.dir().join("empty"),
        product.dir().join("bound"),
    );
    std::fs::create_dir(&over).unwrap();
    std::fs::create_dir(&empty).unwrap();
    File::create(&bound).unwrap();
    let lower = format!("lowerdir={}:{}", product.target().display(), empty.display());
    mount(
        Some("overlay"),
        &over,
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(lower.as_str()),
    )
    .expect("overlay");
    let got = [B, 0, A].map(|uid| read_as(uid, &[], &over.join("app/key")));
    umount2(&over, MntFlags::MNT_DETACH).expect("umount");
    assert!(got[0].is_err() && got[1].is_err(), "{got:?}");
    product.record("the overlay's refusal", |r| {
        r["reason"] == "cred_mismatch" || r["reason"] == "implicit_deny"
    });
    mount(Some(&path), &bound, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
    let got = [A, B, 0].map(|uid| read_as(uid, &[], &bound));
    umount2(&bound, MntFlags::MNT_DETACH).expect("umount");
    assert_eq!(got, [Ok(VALUE.to_vec()), Err(libc::EACCES), Err(libc::EACCES)]);
}

/// One io_uring read of `file`, by a personality if not 0.
fn ring_read(ring: &mut IoUring, file: &File, personality: u16) -> Result<Vec<u8>, i32> {
    let mut buffer = vec![0u8; 4096];
    let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), 4096).build();
    // SAFETY: the buffer lives until the completion has been taken, or the process is left.
    unsafe {
        ring.submission()
            .push(&entry.personality(personality))
            .expect("room")
    };
    let limit = types::Timespec::new().sec(5);
    let args = types::SubmitArgs::new().timespec(&limit);
    if ring.submitter().submit_with_args(1, &args).is_err() {
        // SAFETY: the kernel may still write to the buffer, so the process ends here.
        unsafe { libc::_exit(9) };
    }
    let rc = ring.completion().next().expect("a completion").result();
    if rc < 0 {
        Err(-rc)
    } else {
        Ok(buffer[..rc as usize].to_vec())
    }
}

#[test]
fn rings_of_the_allowed_user_after_setuid() {
    let _deadline = deadline("io_uring");
    let (product, path) = served();
    for polled in [false, true] {
        let got = Run::root().call(|| {
            let mut builder = IoUring::builder();
            if polled {
                builder.setup_sqpoll(200);
            }
            set_fsids(A, A);
            let mut ring: IoUring = builder.build(4).expect("ring");
            let personality = if polled {
                0
            } else {
                ring.submitter().register_personality().expect("personality")
            };
            let file = File::open(&path).expect("open");
            set_fsids(0, 0);
            become_ids(B, B, &[]).expect("become B");
            ring_read(&mut ring, &file, personality)
        });
        assert!(got.is_err(), "polled {polled}: {got:?}");
        let reason = if polled { "io_worker" } else { "cred_mismatch" };
        product.record(reason, |r| r["reason"] == reason);
    }
}

#[test]
fn a_supplementary_group_grants_until_it_is_dropped() {
    let _deadline = deadline("groups");
    const GROUP: u32 = 61050;
    let (product, _) = served();
    product.put("app/team", VALUE, &["--allow", &format!("gid:{GROUP}")]);
    let path = product.path("app/team");
    let got = Run::root().call(|| {
        // Keeps CAP_SETGID, so that the same thread can drop its groups.
        nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(GROUP)]).expect("setgroups");
        set_fsids(B, B);
        let file = File::open(&path).map_err(errno)?;
        let before = sys::pread(&file, 100, 0).map_err(errno)?;
        nix::unistd::setgroups(&[]).expect("setgroups(0)");
        Ok::<_, i32>((before, sys::pread(&file, 100, 0).map_err(errno)))
    });
    assert_eq!(got, Ok((VALUE.to_vec(), Err(libc::EACCES))));
    product.refusal(B, "implicit_deny");
}

#[test]
fn an_explicit_deny_beats_every_allow_and_hidden_is_not_there() {
    let _deadline = deadline("deny and hidden");
    let (product, _) = served();
    product.put("app/denied", VALUE, &["--allow", "uid:0", "--deny", "uid:0"]);
    assert_eq!(read_as(0, &[], &product.path("app/denied")), Err(libc::EACCES));
    product.refusal(0, "explicit_deny");
    product.put(
        "app/hidden",
        VALUE,
        &["--allow", &format!("uid:{A}"), "--visibility", "hidden"],
    );
    assert_eq!(read_as(B, &[], &product.path("app/hidden")), Err(libc::ENOENT));
    assert_eq!(read_as(A, &[], &product.path("app/hidden")).as_deref(), Ok(VALUE));
}

fn writes(path: &Path) -> Vec<(&'static str, Option<i32>)> {
    let beside = path.with_file_name("new");
    vec![
        ("open", OpenOptions::new().write(true).open(path).err().map(errno)),
        ("create", File::create(&beside).err().map(errno)),
        ("mkdir", std::fs::create_dir(&beside).err().map(errno)),
        ("unlink", std::fs::remove_file(path).err().map(errno)),
        ("rename", std::fs::rename(path, &beside).err().map(errno)),
        (
            "symlink",
            std::os::unix::fs::symlink("x", &beside).err().map(errno),
        ),
        ("link", std::fs::hard_link(path, &beside).err().map(errno)),
        (
            "chmod",
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
                .err()
                .map(errno),
        ),
        ("truncate", nix::unistd::truncate(path, 0).err().map(|e| e as i32)),
    ]
}

#[test]
fn every_write_is_erofs_also_through_a_writable_clone() {
    let _deadline = deadline("writes");
    let (product, path) = served();
    for (what, got) in Run::uid(A).call(|| writes_as_strings(&path)) {
        assert_eq!(got, Some(libc::EROFS), "{what}");
    }
    let clone = sys::clone_mount(&product.target()).expect("clone");
    sys::make_clone_writable(&clone).expect("writable");
    let through = PathBuf::from(format!("/proc/self/fd/{}/app/key", clone.as_raw_fd()));
    for (what, got) in writes_as_strings(&through) {
        assert!(
            got.is_some(),
            "root's {what} through a writable clone went through"
        );
    }
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(VALUE));
}

fn writes_as_strings(path: &Path) -> Vec<(String, Option<i32>)> {
    writes(path)
        .into_iter()
        .map(|(what, got)| (what.to_owned(), got))
        .collect()
}

/// What the daemon answers to `text` on a connection that root made and B uses.
fn asked_by_b(socket: &Path, text: &str) -> String {
    use wardfs::sys::socket::Connection;
    Run::root().call(|| {
        let connection = Connection::connect(socket).expect("connect");
        become_ids(B, B, &[]).expect("become B");
        if let Err(e) = connection.send(text.as_bytes()) {
            return format!("closed: {e}");
        }
        let mut packet = vec![0; 65536];
        match connection.recv(&mut packet, Some(Duration::from_secs(5))) {
            Ok(message) => {
                String::from_utf8_lossy(packet.get(1..message.len).unwrap_or_default()).into_owned()
            }
            Err(e) => format!("closed: {e}"),
        }
    })
}

#[test]
fn a_control_connection_of_root_in_the_hands_of_b() {
    let _deadline = deadline("control socket");
    let (product, path) = served();
    let socket = product.store().join("run/control.sock");
    let requests = [
        r#"{"command":"list","under":null}"#,
        r#"{"command":"describe","name":"app/key"}"#,
        r#"{"command":"versions","name":"app/key"}"#,
        r#"{"command":"policy_get","name":"app/key"}"#,
        r#"{"command":"policy_set","name":"app/key","text":"{}"}"#,
        r#"{"command":"policy_add","name":"app/key","rules":[]}"#,
        r#"{"command":"delete","name":"app/key","purge":true,"dry_run":false}"#,
        r#"{"command":"store_check"}"#,
        r#"{"command":"status"}"#,
        r#"{"command":"audit_verify"}"#,
        r#"{"command":"unmount"}"#,
    ];
    for request in requests {
        let text = format!(r#"{{"format":3,"request":{request}}}"#);
        let answer = asked_by_b(&socket, &text);
        assert!(!answer.contains("\"done\""), "{request}: {answer}");
    }
    product.record("the mismatch", |r| r["reason"] == "cred_mismatch");
    assert_eq!(
        read_as(A, &[], &path).as_deref(),
        Ok(VALUE),
        "nothing was changed"
    );
}

#[test]
fn the_daemons_own_process_tells_b_nothing() {
    let _deadline = deadline("the daemon's /proc");
    let (product, _) = served();
    let proc = format!("/proc/{}", product.pid());
    let seen = Run::uid(B).call(|| {
        ["mem", "environ", "fd", "maps", "root", "cwd"].map(|what| {
            let path = format!("{proc}/{what}");
            std::fs::read(&path).is_ok_and(|b| !b.is_empty()) || std::fs::read_dir(&path).is_ok()
        })
    });
    assert_eq!(seen, [false; 6]);
}

#[test]
fn versions_by_id_where_only_a_label_is_allowed() {
    let _deadline = deadline("versions");
    let mut product = Product::new();
    let policy = product.dir().join("policy.json");
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Uid":"{A}"}},
        "Action":"secretsmanager:GetSecretValue","Resource":"*",
        "Condition":{{"StringEquals":{{"secretsmanager:VersionStage":"AWSCURRENT"}}}}}}]}}"#
    );
    std::fs::write(&policy, text).expect("policy");
    let policy = policy.to_str().expect("UTF-8");
    let id = |said: serde_json::Value| {
        said["version"]
            .as_str()
            .unwrap_or_else(|| panic!("{said}"))
            .to_owned()
    };
    let old = id(product.put("app/key", "the-old-value", &["--policy", policy]));
    let new = id(product.put("app/key", VALUE, &[]));
    product.mount();
    let version = |name: &str| read_as(A, &[], &product.path(".versions/app/key").join(name));
    assert_eq!(version(&new).as_deref(), Ok(VALUE));
    assert_eq!(version("current").as_deref(), Ok(VALUE));
    assert_eq!(version(&old), Err(libc::EACCES));
    assert_eq!(version("previous"), Err(libc::EACCES));
    product.refusal(A, "implicit_deny");
}

#[test]
fn the_policy_from_aws_word_for_word() {
    let _deadline = deadline("policy from AWS");
    let mut product = Product::new();
    let role = "arn:aws:iam::123456789012:role/orders";
    let file = product.store().join("wardfs.toml");
    let config = std::fs::read_to_string(&file).expect("wardfs.toml");
    let mapped = config.replace(
        "[principals]\n",
        &format!("[principals]\n\"{role}\" = [\"uid:{A}\"]\n"),
    );
    assert_ne!(mapped, config, "the file that init writes has the table");
    std::fs::write(&file, mapped).expect("write");
    product.run(&["config", "accept", "--yes"]).ok();
    let policy = product.dir().join("policy.json");
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":[
        {{"Effect":"Deny","Principal":"*","Action":"secretsmanager:*","Resource":"*",
          "Condition":{{"StringNotEquals":{{"aws:PrincipalArn":"{role}"}}}}}},
        {{"Effect":"Allow","Principal":{{"AWS":"{role}"}},"Action":"secretsmanager:GetSecretValue","Resource":"*"}}]}}"#
    );
    std::fs::write(&policy, text).expect("policy");
    product.put("app/key", VALUE, &["--policy", policy.to_str().expect("UTF-8")]);
    product.mount();
    let path = product.path("app/key");
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(VALUE));
    for uid in [B, 0] {
        assert_eq!(read_as(uid, &[], &path), Err(libc::EACCES));
        product.refusal(uid, "explicit_deny");
    }
}

#[test]
fn a_loop_device_on_the_file() {
    const SET_FD: libc::Ioctl = 0x4C00;
    const CLEAR_FD: libc::Ioctl = 0x4C01;
    const GET_FREE: libc::Ioctl = 0x4C82;
    let _deadline = deadline("loop device");
    let (product, _) = served();
    product.put(
        "app/large",
        [b'x'; 8192],
        &["--allow", &format!("uid:{A}"), "--allow", "uid:0"],
    );
    let path = product.path("app/large");
    assert_eq!(
        read_as(0, &[], &path).map(|v| v.len()),
        Ok(8192),
        "root himself may"
    );
    let file = File::open(&path).expect("open");
    let control = File::open("/dev/loop-control").expect("/dev/loop-control");
    // SAFETY: no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
    let device = File::open(format!("/dev/loop{number}")).expect("the free device");
    // SAFETY: takes a descriptor by number.
    let set = unsafe { libc::ioctl(device.as_raw_fd(), SET_FD, file.as_raw_fd()) };
    let got = sys::pread(&device, 512, 0);
    // SAFETY: no argument.
    unsafe { libc::ioctl(device.as_raw_fd(), CLEAR_FD, 0) };
    assert_eq!(set, 0);
    assert!(got.is_err(), "{got:?}");
    product.refusal(0, "io_worker");
}
