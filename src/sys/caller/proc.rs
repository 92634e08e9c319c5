//! Files under `/proc/TID`, kept open and read anew, and their parsers (proc(5)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::id::Gid;

/// The longest answer that is read: 65,536 groups (`NGROUPS_MAX`) of eleven bytes, and the rest of a status.
const LONGEST: usize = 1024 * 1024;

/// A file of a thread, opened when it is first needed. It answers for the task that had the number when it was
/// opened, and ESRCH once that is gone.
pub(super) struct Kept {
    name: &'static str,
    file: Option<File>,
    /// Bytes that were enough last.
    room: usize,
}

/// What most files fit into.
const ROOM: usize = 4096;

impl Kept {
    pub(super) fn new(name: &'static str) -> Self {
        Kept {
            name,
            file: None,
            room: ROOM,
        }
    }

    /// It is opened anew when it is needed again.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// The content now, in `text`. No retry by path on ESRCH: the caller drops the thread as a whole.
    pub(super) fn read(&mut self, tid: u32, text: &mut Vec<u8>) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(open(tid, self.name)?),
        };
        self.room = read_whole(file, self.room, text)?;
        Ok(())
    }
}

/// The content now of a file that is not kept.
pub(super) fn read_anew(tid: u32, name: &str, text: &mut Vec<u8>) -> io::Result<()> {
    read_whole(&open(tid, name)?, ROOM, text).map(drop)
}

/// A proc file system of this process's own. In the public one anybody can sleep with the lock of a directory of his
/// processes (getdents64 into a page that never comes), and whoever looks up a name there sleeps behind him.
static OWN: OnceLock<OwnedFd> = OnceLock::new();

/// Looks at processes through a proc file system of one's own from now on, where one is to be had: as root, with kernels
/// since 5.8. Otherwise through the public one, as before.
pub fn look_privately() {
    match crate::sys::mount::processes() {
        Ok(own) => drop(OWN.set(own)),
        Err(e) => tracing::info!("processes are looked at through the public /proc: {e}"),
    }
}

fn open(tid: u32, name: &str) -> io::Result<File> {
    use io::Write;
    let mut path = [0u8; 40];
    let mut rest = &mut path[..];
    match OWN.get() {
        Some(_) => write!(rest, "{tid}/{name}")?,
        None => write!(rest, "/proc/{tid}/{name}")?,
    }
    let len = 40 - rest.len();
    let path = std::str::from_utf8(&path[..len]).map_err(io::Error::other)?;
    let Some(own) = OWN.get() else {
        return File::open(path);
    };
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(openat(own, path, flags, Mode::empty())?.into())
}

/// Where a link of a process leads.
pub(super) fn link(tid: u32, name: &str) -> io::Result<PathBuf> {
    let path = format!("{tid}/{name}");
    match OWN.get() {
        Some(own) => Ok(readlinkat(own, path.as_str())?.into()),
        None => std::fs::read_link(format!("/proc/{path}")),
    }
}

/// One read from the beginning. The kernel makes such a file's content whole in one go and cuts it to the buffer,
/// so an answer that leaves room is complete and of one moment; otherwise ask again with more room. Says what was enough.
fn read_whole(file: &File, mut room: usize, text: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        text.resize(room, 0);
        let n = match file.read_at(text, 0) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if n < room {
            text.truncate(n);
            return Ok(room);
        }
        if room >= LONGEST {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "a file under /proc is too long",
            ));
        }
        room *= 2;
    }
}

/// What is used of `/proc/TID/stat`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub flags: u64,
    pub start_time: u64,
}

pub(super) fn read_stat(tid: u32, text: &mut Vec<u8>) -> io::Result<Stat> {
    read_anew(tid, "stat", text)?;
    parse_stat(text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/TID/stat"))
}

/// The second field is the name in parentheses and may hold anything, `) R 1` too; no later field can hold a
/// parenthesis, so the last one ends it.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(text.get(end + 2..)?).ok()?;
    // The first of the rest is field 3, the state.
    let mut fields = rest.split_ascii_whitespace();
    Some(Stat {
        flags: fields.nth(9 - 3)?.parse().ok()?,
        start_time: fields.nth(22 - 10)?.parse().ok()?,
    })
}

/// What is used of `/proc/TID/status`, without the groups.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub tid: u32,
    pub tgid: u32,
    pub parent: u32,
    pub fsuid: u32,
    pub fsgid: u32,
}

/// `None` unless every line that is needed is there once and can be read. A name cannot forge a line: the kernel
/// escapes a newline in it.
pub(super) fn parse_status(text: &[u8], groups: &mut Vec<Gid>) -> Option<Status> {
    groups.clear();
    let mut status = Status::default();
    let mut seen = 0u8;
    for line in text.split(|b| *b == b'\n') {
        let (bit, slot, column) = match line {
            [b'T', b'g', b'i', b'd', b':', ..] => (1, &mut status.tgid, 1),
            [b'P', b'i', b'd', b':', ..] => (2, &mut status.tid, 1),
            [b'P', b'P', b'i', b'd', b':', ..] => (4, &mut status.parent, 1),
            [b'U', b'i', b'd', b':', ..] => (8, &mut status.fsuid, 4),
            [b'G', b'i', b'd', b':', ..] => (16, &mut status.fsgid, 4),
            [b'G', b'r', b'o', b'u', b'p', b's', b':', rest @ ..] => {
                for word in rest.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()) {
                    groups.push(Gid(number(word)?));
                }
                // Nothing that is needed comes after the groups.
                return (seen == 31).then_some(status);
            }
            _ => continue,
        };
        if seen & bit != 0 {
            return None;
        }
        let mut words = line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
        *slot = number(words.nth(column)?)?;
        seen |= bit;
    }
    None
}

/// `NoNewPrivs` and whether `TracerPid` names somebody, of `/proc/TID/status`; `None` unless each is there once.
pub(super) fn parse_hardening(text: &[u8]) -> Option<(bool, bool)> {
    let only = |name: &[u8]| {
        let mut found = text
            .split(|b| *b == b'\n')
            .filter_map(|line| line.strip_prefix(name));
        let value = number(found.next()?.trim_ascii())?;
        found.next().is_none().then_some(value)
    };
    Some((only(b"NoNewPrivs:")? != 0, only(b"TracerPid:")? != 0))
}

fn number(word: &[u8]) -> Option<u32> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_nothing() {
        let tail = "R 1 2 3 4 5 16400 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22";
        // Fields 3 to 24: state=R, 4..8 = 1..5, 9 = 16400, …, 22 = 19.
        for name in ["cat", ") R 1 2 3", "a) S 1 (b)", "((", "\n) Z"] {
            let text = format!("77 ({name}) {tail}");
            let stat = parse_stat(text.as_bytes()).unwrap();
            assert_eq!(
                stat,
                Stat {
                    flags: 16400,
                    start_time: 19
                },
                "{name}"
            );
        }
        for bad in [
            "",
            "77 (cat",
            "77 (cat)",
            "77 (cat) R 1 2",
            "77 (cat) R 1 2 3 4 5 x",
        ] {
            assert_eq!(parse_stat(bad.as_bytes()), None, "{bad}");
        }
    }

    const STATUS: &str = "Name:\tcat\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t10\nNgid:\t0\nPid:\t11\nPPid:\t1\n\
                          TracerPid:\t0\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t9 10 \nVmPeak:\t1 kB\n";

    #[test]
    fn the_file_system_columns_and_all_groups_are_taken() {
        let mut groups = vec![Gid(99)];
        let status = parse_status(STATUS.as_bytes(), &mut groups).unwrap();
        assert_eq!(
            status,
            Status {
                tid: 11,
                tgid: 10,
                parent: 1,
                fsuid: 4,
                fsgid: 8
            }
        );
        assert_eq!(groups, [Gid(9), Gid(10)]);
    }

    #[test]
    fn hardening_is_there_once_or_not_believed() {
        let text = format!("{STATUS}NoNewPrivs:\t1\nSeccomp:\t0\n");
        assert_eq!(parse_hardening(text.as_bytes()), Some((true, false)));
        let traced = text
            .replace("TracerPid:\t0", "TracerPid:\t77")
            .replace("NoNewPrivs:\t1", "NoNewPrivs:\t0");
        assert_eq!(parse_hardening(traced.as_bytes()), Some((false, true)));
        assert_eq!(parse_hardening(STATUS.as_bytes()), None);
        assert_eq!(
            parse_hardening(format!("{text}NoNewPrivs:\t0\n").as_bytes()),
            None
        );
    }

    #[test]
    fn a_status_that_is_cut_or_doubled_is_refused() {
        let mut groups = Vec::new();
        for cut in 0..STATUS.find("Groups:").unwrap() {
            assert_eq!(
                parse_status(&STATUS.as_bytes()[..cut], &mut groups),
                None,
                "{cut}"
            );
        }
        let doubled = STATUS.replace("FDSize", "Uid:\t0\t0\t0\t0\nFDSize");
        assert_eq!(parse_status(doubled.as_bytes(), &mut groups), None);
        let negative = STATUS.replace("\t9 10", "\t9 -1");
        assert_eq!(parse_status(negative.as_bytes(), &mut groups), None);
    }
}
