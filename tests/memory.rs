//! Where plaintext and keys lie in the daemon's memory: in its locked area and nowhere else, and in no core dump.

mod support;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::product::{A, Product, read_as};
use support::{Deadline, wait_until};

struct Map {
    start: u64,
    end: u64,
    name: String,
    flags: Vec<String>,
    bytes: Vec<u8>,
}

impl Map {
    fn is_locked(&self) -> bool {
        self.flags.iter().any(|f| f == "lo")
    }
}

/// Every mapping of a process that can be read, and what is in it.
fn maps(pid: u32) -> Vec<Map> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("smaps");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("memory");
    let mut maps: Vec<Map> = Vec::new();
    for line in text.lines() {
        let (first, rest) = line.split_once(' ').expect("a line");
        if let Some((start, end)) = first.split_once('-') {
            let number = |text| u64::from_str_radix(text, 16).expect("an address");
            let name = rest.split_whitespace().nth(4).unwrap_or("").to_string();
            let (start, end) = (number(start), number(end));
            maps.push(Map {
                start,
                end,
                name,
                flags: Vec::new(),
                bytes: Vec::new(),
            });
        } else if first == "VmFlags:" {
            let last = maps.last_mut().expect("a mapping");
            last.flags = rest.split_whitespace().map(str::to_string).collect();
        }
    }
    for map in &mut maps {
        let mut bytes = vec![0; (map.end - map.start) as usize];
        // Fences, and what the kernel maps for itself, cannot be read.
        if memory.read_exact_at(&mut bytes, map.start).is_ok() {
            map.bytes = bytes;
        }
    }
    maps
}

/// What stands in the locked area and looks like a key: 32 bytes where a slot begins, of many values, that are no text:
/// requests arrive in locked memory too, and no key in 10^13 could be printed.
fn keys(maps: &[Map]) -> HashSet<Vec<u8>> {
    let slots = maps
        .iter()
        .filter(|m| m.is_locked())
        .flat_map(|m| m.bytes.chunks_exact(32));
    let random = |s: &&[u8]| s.iter().collect::<HashSet<_>>().len() >= 20;
    let text = |s: &&[u8]| s.iter().all(|b| (b' '..=b'~').contains(b));
    let slots = slots.filter(|s| random(s) && !text(s));
    slots.map(<[u8]>::to_vec).collect()
}

/// Where any of `needles` stands. Pages that hold nothing but zeros are passed over.
fn find(maps: &[Map], needles: &HashSet<Vec<u8>>, which: impl Fn(&Map) -> bool) -> Vec<String> {
    const PAGE: usize = 4096;
    let finders: Vec<_> = needles.iter().map(memchr::memmem::Finder::new).collect();
    let mut found = Vec::new();
    for map in maps.iter().filter(|m| which(m)) {
        let pages: Vec<&[u8]> = map.bytes.chunks(PAGE).collect();
        let mut first = 0;
        for run in pages.chunk_by(|a, b| (**a == [0; PAGE]) == (**b == [0; PAGE])) {
            let (start, end) = (first * PAGE, (first + run.len()) * PAGE);
            first += run.len();
            if *run[0] == [0; PAGE] {
                continue;
            }
            let bytes = &map.bytes[start..end.min(map.bytes.len())];
            for at in finders.iter().filter_map(|f| f.find(bytes)) {
                let address = map.start + (start + at) as u64;
                found.push(format!("{address:#x} in {:?} {:?}", map.name, map.flags));
            }
        }
    }
    found
}

#[test]
fn plaintext_and_keys_are_in_the_locked_area_alone() {
    let _deadline = Deadline::new(Duration::from_secs(120), "memory");
    let mut product = Product::new();
    let key_file = std::fs::read(product.store().join("root.key")).expect("the key file");
    let values: Vec<Vec<u8>> = (0..20)
        .map(|n| format!("plaintext number {n} of a secret that nobody else has").into_bytes())
        .collect();
    product.mount();
    for (n, value) in values.iter().enumerate() {
        product.put(&format!("app/{n}"), value, &["--allow", &format!("uid:{A}")]);
    }
    for n in 0..100 {
        let name = format!("app/{}", n % values.len());
        assert_eq!(
            read_as(A, &[], &product.path(&name)).as_ref(),
            Ok(&values[n % values.len()])
        );
    }
    std::thread::sleep(Duration::from_secs(5));
    let maps = maps(product.pid());
    let locked: u64 = maps
        .iter()
        .filter(|m| m.is_locked())
        .map(|m| m.end - m.start)
        .sum();
    let said = product.run(&["--json", "status"]).ok().json()["locked_bytes"].as_u64();
    assert!(locked > 0 && Some(locked) >= said, "{locked} of {said:?}");
    // Left out of dumps, and gone in a forked child.
    for map in maps.iter().filter(|m| m.is_locked()) {
        assert!(
            map.flags.iter().any(|f| f == "dd") && map.flags.iter().any(|f| f == "wf"),
            "{:?}",
            map.flags
        );
    }
    let keys = keys(&maps);
    assert!(
        keys.len() > values.len(),
        "{} keys are there to be found elsewhere",
        keys.len()
    );
    let elsewhere = |m: &Map| !m.is_locked();
    assert_eq!(find(&maps, &keys, elsewhere), Vec::<String>::new(), "keys");
    let plain: HashSet<Vec<u8>> = values.into_iter().chain([key_file]).collect();
    assert_eq!(find(&maps, &plain, elsewhere), Vec::<String>::new(), "plaintext");
    // The search does find what is there.
    let known: HashSet<Vec<u8>> = HashSet::from([b"secretsmanager:GetSecretValue".to_vec()]);
    assert!(!find(&maps, &known, elsewhere).is_empty());
    println!(
        "{} maps, {} bytes locked, {} keys",
        maps.len(),
        locked,
        keys.len()
    );
}

#[test]
fn a_daemon_that_crashes_leaves_no_dump() {
    let _deadline = Deadline::new(Duration::from_secs(60), "core dump");
    let product = Product::new();
    let here = product.dir().join("cwd");
    std::fs::create_dir(&here).expect("mkdir");
    let target = product.target();
    let mut command = product.command(&["mount", target.to_str().expect("a path")]);
    command.current_dir(&here).stdout(std::process::Stdio::piped());
    // SAFETY: setrlimit is async-signal-safe and touches this child alone.
    unsafe {
        command.pre_exec(|| {
            let all = libc::rlimit {
                rlim_cur: libc::RLIM_INFINITY,
                rlim_max: libc::RLIM_INFINITY,
            };
            libc::setrlimit(libc::RLIMIT_CORE, &all);
            Ok(())
        });
    }
    let mut daemon = command.spawn().expect("start");
    let mut line = String::new();
    let out = daemon.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("READY");
    assert!(line.starts_with("READY"), "{line}");
    // SAFETY: the daemon is a child that has not been waited for.
    unsafe { libc::kill(daemon.id() as i32, libc::SIGABRT) };
    let status = daemon.wait().expect("wait");
    // Its mount is dead and goes with the test's namespace.
    let _ = nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH);
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(!status.core_dumped(), "{status:?}");
    assert_eq!(std::fs::read_dir(&here).expect("list").count(), 0);
}

/// A swap file that is in use until this is dropped.
struct Swap(PathBuf);

impl Swap {
    fn on(path: PathBuf, bytes: usize) -> Swap {
        let mut file = File::create(&path).expect("a swap file");
        file.set_permissions(PermissionsExt::from_mode(0o600))
            .expect("chmod");
        file.write_all(&vec![0; bytes]).expect("write");
        let made = Command::new("mkswap").arg(&path).output().expect("mkswap");
        assert!(made.status.success(), "{made:?}");
        file.sync_all().expect("sync");
        // What is read of it later comes from the disk, where the kernel swaps to.
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .expect("forget the pages");
        // Before others, so that what is swapped out is here.
        let on = Command::new("swapon").args(["-p", "32767"]).arg(&path).output();
        let on = on.expect("swapon");
        assert!(on.status.success(), "{on:?}");
        Swap(path)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(&self.0).status();
    }
}

/// Makes the kernel take every page of a process that it may (process_madvise(2), `MADV_PAGEOUT`).
fn page_out(pid: u32, maps: &[Map]) {
    // SAFETY: takes numbers; the descriptor is a new one.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(process >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: nobody else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(process as i32) };
    for map in maps {
        let range = libc::iovec {
            iov_base: map.start as *mut libc::c_void,
            iov_len: (map.end - map.start) as usize,
        };
        // SAFETY: the range is of the other process; pages that may not go, as locked ones, stay and are an error.
        unsafe {
            let (number, process) = (libc::SYS_process_madvise, process.as_raw_fd());
            libc::syscall(number, process, &raw const range, 1, libc::MADV_PAGEOUT, 0);
        }
    }
}

fn swapped(pid: u32) -> u64 {
    support::status_kib(pid, "VmSwap").expect("a running daemon")
}

#[test]
fn what_is_swapped_out_under_pressure_holds_neither_plaintext_nor_keys() {
    let _deadline = Deadline::new(Duration::from_secs(120), "swap");
    let mut product = Product::new();
    let key_file = std::fs::read(product.store().join("root.key")).expect("the key file");
    product.mount();
    let values: Vec<Vec<u8>> = (0..20)
        .map(|n| format!("plaintext number {n} of a secret that the disk never sees").into_bytes())
        .collect();
    let described = "a description that may be swapped out like any other text";
    for (n, value) in values.iter().enumerate() {
        let more = ["--allow", &format!("uid:{A}"), "--description", described];
        product.put(&format!("app/{n}"), value, &more);
        let read = read_as(A, &[], &product.path(&format!("app/{n}")));
        assert_eq!(read.as_ref(), Ok(value));
    }
    let swap = Swap::on(product.dir().join("swap"), 64 << 20);
    let found = maps(product.pid());
    let keys = keys(&found);
    assert!(keys.len() > values.len(), "{} keys", keys.len());
    page_out(product.pid(), &found);
    wait_until(Duration::from_secs(20), "pages are swapped out", || {
        swapped(product.pid()) > 0
    });
    // Pages are still on their way to the disk when they count as swapped.
    std::thread::sleep(Duration::from_secs(2));
    println!("{} KiB swapped out", swapped(product.pid()));
    let disk = std::fs::read(&swap.0).expect("the swap file");
    let there = |needle: &[u8]| memchr::memmem::find(&disk, needle).is_some();
    assert!(
        there(described.as_bytes()),
        "the test finds nothing: what may be there is not"
    );
    for needle in values.iter().chain([&key_file]).chain(&keys) {
        assert!(
            !there(needle),
            "{} is in the swap file",
            String::from_utf8_lossy(needle)
        );
    }
    // And the daemon goes on, its pages coming back.
    assert_eq!(read_as(A, &[], &product.path("app/0")).as_ref(), Ok(&values[0]));
}
