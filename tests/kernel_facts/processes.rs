//! What can be known of another process, from /proc, pidfds and sockets.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, getsockopt, recvmsg, sendmsg, setsockopt,
    sockopt,
};

use super::callers::facts;
use super::support::*;
use super::{A, B, deadline, errno, mounted};

/// "A capability-free daemon reads other uids' status (Groups …), loginuid, …, cgroup, stat; not exe"; "`/proc/TID/cgroup`
/// gives the systemd unit … of the blocked caller".
#[test]
fn a_capability_free_process_reads_status_stat_and_cgroup_of_other_uids_but_not_exe() {
    let _deadline = deadline("foreign proc");
    let (near, far) = socket_pair();
    let other = Run::uid(A)
        .group(70001)
        .start(|| sys::read(&near, 1).map(drop).map_err(errno));
    let pid = other.pid();
    wait_until(Duration::from_secs(5), "the other has its ids", || {
        facts(pid).fsuid == A
    });
    let (facts, cgroup, exe) = Run::uid(B).call(|| {
        let f = facts(pid);
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"))
            .map(drop)
            .map_err(errno);
        (
            (f.fsuid, f.groups, f.flags != 0),
            std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(errno),
            exe,
        )
    });
    assert_eq!(facts, (A, vec![70001], true));
    assert!(cgroup.is_ok_and(|c| c.contains(":/")));
    assert_eq!(exe, Err(libc::EACCES));
    nix::unistd::write(&far, b"d").expect("done");
    assert_eq!(other.join(), Ok(()));
}

/// What `PIDFD_GET_INFO` says of a thread: (tid, process, fsuid, fsgid, cgroup id), or the errno.
fn pidfd_info(tid: u32) -> Result<(u32, u32, u32, u32, u64), i32> {
    use std::os::fd::FromRawFd;
    // SAFETY: numbers only; the descriptor is ours alone; the ioctl gets a zeroed struct of the size its number has.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, tid, libc::PIDFD_THREAD);
        if fd < 0 {
            return Err(errno(std::io::Error::last_os_error()));
        }
        let fd = OwnedFd::from_raw_fd(fd as i32);
        let mut info: libc::pidfd_info = std::mem::zeroed();
        info.mask = (libc::PIDFD_INFO_PID | libc::PIDFD_INFO_CREDS | libc::PIDFD_INFO_CGROUPID) as u64;
        if libc::ioctl(fd.as_raw_fd(), libc::PIDFD_GET_INFO as _, &mut info) != 0 {
            return Err(errno(std::io::Error::last_os_error()));
        }
        Ok((info.pid, info.tgid, info.fsuid, info.fsgid, info.cgroupid))
    }
}

/// "libc 0.2 has … `pidfd_info` and PIDFD_GET_INFO"; it "works without capabilities, for other uids, for non-leader
/// threads (with PIDFD_THREAD, 6.9)", and carries what has to equal the header: thread, fsuid, fsgid.
#[test]
fn pidfd_get_info_knows_the_blocked_thread() {
    let _deadline = deadline("pidfd info");
    let (near, far) = socket_pair();
    let other = Run::root().start(|| {
        let thread = std::thread::spawn(move || {
            set_fsids(A, B);
            nix::unistd::write(&near, &sys::tid().to_ne_bytes()).expect("tid");
            sys::read(&near, 1).map(drop).map_err(errno)
        });
        thread.join().unwrap()
    });
    let tid = u32::from_ne_bytes(sys::read(&far, 4).unwrap().try_into().unwrap());
    let (info_tid, process, fsuid, fsgid, cgroup) = Run::uid(B)
        .call(|| pidfd_info(tid))
        .expect("PIDFD_GET_INFO (6.13)");
    assert_eq!((info_tid, process, fsuid, fsgid), (tid, other.pid(), A, B));
    assert_ne!(tid, process);
    assert_ne!(cgroup, 0);
    nix::unistd::write(&far, b"d").expect("done");
    assert_eq!(other.join(), Ok(()));
    assert_eq!(pidfd_info(tid), Err(libc::ESRCH));
}

/// "`PR_SET_DUMPABLE=0` blocks same-uid `/proc/PID/{mem,environ,fd}`".
#[test]
fn an_undumpable_process_is_closed_to_its_own_uid() {
    let _deadline = deadline("undumpable");
    let (near, far) = socket_pair();
    let look = |pid: u32| {
        Run::uid(A).call(|| {
            let open = |name: &str| File::open(format!("/proc/{pid}/{name}")).map(drop).map_err(errno);
            [
                open("mem"),
                open("environ"),
                std::fs::read_dir(format!("/proc/{pid}/fd"))
                    .map(drop)
                    .map_err(errno),
            ]
        })
    };
    for (dumpable, expected) in [(1, Ok(())), (0, Err(libc::EACCES))] {
        let other = Run::uid(A).start(|| {
            // SAFETY: numbers only.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, dumpable) };
            nix::unistd::write(&near, b"r").expect("ready");
            sys::read(&near, 1).map(drop).map_err(errno)
        });
        sys::read(&far, 1).expect("ready");
        assert_eq!(look(other.pid()), [expected; 3], "dumpable {dumpable}");
        nix::unistd::write(&far, b"d").expect("done");
        assert_eq!(other.join(), Ok(()));
    }
}

/// What a message's sender is said to be: (SO_PEERCRED, SCM_CREDENTIALS).
fn peer_and_message(socket: &OwnedFd) -> (u32, u32) {
    let peer = getsockopt(socket, sockopt::PeerCredentials)
        .expect("SO_PEERCRED")
        .uid();
    let mut byte = [0u8; 1];
    let mut iov = [std::io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(UnixCredentials);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty()).expect("recvmsg");
    for part in message.cmsgs().expect("cmsgs") {
        if let ControlMessageOwned::ScmCredentials(sender) = part {
            return (peer, sender.uid());
        }
    }
    panic!("no credentials came with the message");
}

fn listener(mount: &TempMount) -> (std::os::unix::net::UnixListener, std::path::PathBuf) {
    let path = mount.beside("run").join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("chmod");
    (listener, path)
}

fn accept(listener: &std::os::unix::net::UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().expect("accept");
    let socket = OwnedFd::from(stream);
    setsockopt(&socket, sockopt::PassCred, &true).expect("SO_PASSCRED");
    socket
}

fn say(stream: &std::os::unix::net::UnixStream, claim: Option<UnixCredentials>) -> Result<(), i32> {
    let claim: Vec<ControlMessage> = claim.iter().map(ControlMessage::ScmCredentials).collect();
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[std::io::IoSlice::new(b"x")],
        &claim,
        MsgFlags::empty(),
        None,
    )
    .map(|_| ())
    .map_err(|e| e as i32)
}

/// "A Unix socket connected by root and used by uid 61002 still says uid 0 in SO_PEERCRED: take SCM_CREDENTIALS
/// of each message".
#[test]
fn a_socket_connected_by_root_says_root_in_peercred_for_ever() {
    let _deadline = deadline("peercred");
    let (_world, mount) = mounted();
    let (listener, path) = listener(&mount);
    let child = Run::root().start(|| {
        let stream = std::os::unix::net::UnixStream::connect(&path).map_err(errno)?;
        become_ids(B, B, &[]).map_err(errno)?;
        // The other side asks for credentials once it has accepted.
        std::thread::sleep(Duration::from_millis(50));
        say(&stream, None)
    });
    let socket = accept(&listener);
    assert_eq!(peer_and_message(&socket), (0, B));
    assert_eq!(child.join(), Ok(()));
}

/// "SCM_CREDENTIALS carries the real (or, claimed, the saved) uid, SO_PEERCRED the effective one at connect, FUSE
/// the fsuid: a root daemon with seteuid(B) shows three answers".
#[test]
fn scm_credentials_peercred_and_fuse_can_give_three_answers() {
    let _deadline = deadline("three answers");
    let (world, mount) = mounted();
    let (listener, path) = listener(&mount);
    let file = mount.join("value");
    let child = Run::root().start(|| {
        // Effective A (and with it the file system uid), real and saved root.
        nix::unistd::seteuid(nix::unistd::Uid::from_raw(A)).map_err(|e| e as i32)?;
        let stream = std::os::unix::net::UnixStream::connect(&path).map_err(errno)?;
        nix::unistd::seteuid(nix::unistd::Uid::from_raw(0)).map_err(|e| e as i32)?;
        nix::unistd::seteuid(nix::unistd::Uid::from_raw(B)).map_err(|e| e as i32)?;
        std::fs::read(&file).map_err(errno)?;
        std::thread::sleep(Duration::from_millis(50));
        say(&stream, None)
    });
    let socket = accept(&listener);
    assert_eq!(peer_and_message(&socket), (A, 0));
    assert_eq!(child.join(), Ok(()));
    assert!(world.of("READ").iter().all(|s| s.uid == B));
}
