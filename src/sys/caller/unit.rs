//! From a control group to a systemd unit.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Units kept by control group id; the map is emptied when it is full.
const KEPT_UNITS: usize = 4096;

/// What a control group path says about the unit.
enum Verdict<'a> {
    /// In this unit.
    Unit(&'a str),
    /// In none.
    None,
    /// Where a unit's name should be stands something that cannot be one as it is written.
    Odd,
}

/// The unit of a control group path: the **first** component after the slices, from the root. What comes later was
/// made by the unit itself (a user manager, a delegated service) and proves nothing. Names are compared as they
/// stand: one that systemd would have to unescape (a leading `_`) or whose characters no unit has is refused.
pub fn unit_of_cgroup_path(path: &str) -> Option<&str> {
    match verdict(path) {
        Verdict::Unit(name) => Some(name),
        Verdict::None | Verdict::Odd => None,
    }
}

fn verdict(path: &str) -> Verdict<'_> {
    let Some(relative) = path.strip_prefix('/') else {
        return Verdict::Odd;
    };
    if relative.is_empty() {
        return Verdict::None;
    }
    for component in relative.split('/') {
        if !is_unit_name(component) {
            // A directory that is no unit of systemd's, as container engines make them, holds no unit; a name of
            // a unit's shape with odd characters is suspicious.
            let shaped = component
                .rsplit_once('.')
                .is_some_and(|(_, suffix)| KINDS.contains(&suffix));
            let odd = shaped || component.is_empty() || component.starts_with('.') || component.contains(' ');
            return if odd { Verdict::Odd } else { Verdict::None };
        }
        if !component.ends_with(".slice") {
            return Verdict::Unit(component);
        }
    }
    Verdict::None
}

/// The kinds of units that have control groups of their own.
const KINDS: [&str; 6] = ["service", "scope", "slice", "socket", "mount", "swap"];

/// systemd.unit(5): at most 255 ASCII letters, digits and `:-_.\@`, and one of the suffixes.
fn is_unit_name(name: &str) -> bool {
    let Some((prefix, suffix)) = name.rsplit_once('.') else {
        return false;
    };
    name.len() <= 255
        && KINDS.contains(&suffix)
        && !prefix.is_empty()
        && !name.starts_with(['_', '.'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b))
}

/// The verdict, with what cannot be a unit's name as an error.
pub(super) fn judge(path: &str) -> io::Result<Option<&str>> {
    match verdict(path) {
        Verdict::Unit(name) => Ok(Some(name)),
        Verdict::None => Ok(None),
        Verdict::Odd => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the caller's control group has an odd name",
        )),
    }
}

/// The path in the version 2 hierarchy out of `/proc/TID/cgroup` (cgroups(7)): the line `0::PATH`. Who is at its root may
/// be in a unit all the same, where systemd keeps its units in version 1 (`N:name=systemd:PATH`): then it is not known.
pub(super) fn path_of(text: &[u8]) -> io::Result<&str> {
    let mut lines = text.split(|b| *b == b'\n');
    match lines.find_map(|l| l.strip_prefix(b"0::")) {
        None => Err(io::Error::other(ELSEWHERE)),
        Some(b"/") if in_version_1(text) => Err(io::Error::other(ELSEWHERE)),
        Some(path) => std::str::from_utf8(path).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

const ELSEWHERE: &str =
    "systemd keeps the caller's unit in the control groups of version 1, which are not believed";

/// Whether systemd's own hierarchy of version 1 has the process anywhere but at its root.
fn in_version_1(text: &[u8]) -> bool {
    text.split(|b| *b == b'\n').any(|line| {
        let mut fields = line.splitn(3, |b| *b == b':').skip(1);
        fields.next() == Some(b"name=systemd") && fields.next() != Some(b"/")
    })
}

/// Why this machine's units cannot be had, if so: what a policy says of units then denies, and allows nothing.
pub fn units_unknown() -> Option<&'static str> {
    if CgroupMount::find().is_none() {
        return Some("no control groups of version 2 are mounted");
    }
    let of = |process: &str| fs::read(format!("/proc/{process}/cgroup")).unwrap_or_default();
    // The first process is in a unit of its own wherever systemd runs.
    let elsewhere = ["1", "self"].map(of).iter().any(|text| path_of(text).is_err());
    elsewhere.then_some("systemd keeps units in the control groups of version 1")
}

/// Where the version 2 hierarchy is mounted, seen whole.
pub(super) struct CgroupMount(PathBuf);

impl CgroupMount {
    /// The first mount of it whose root is the root of our control group namespace.
    pub(super) fn find() -> Option<Self> {
        let mounts = crate::sys::mount::mounts().ok()?;
        mounts
            .into_iter()
            .find(|m| m.fstype == "cgroup2" && m.root == Path::new("/"))
            .map(|m| CgroupMount(m.target))
    }
}

/// Units by control group id. An id is never used again while the kernel runs and a version 2 group cannot be
/// renamed or moved, so what was once verified stays true.
pub(super) struct Units {
    mount: Option<CgroupMount>,
    /// The root of version 2, where that says nothing by itself: systemd has control groups of version 1 as well.
    doubtful: Option<u64>,
    known: HashMap<u64, Option<Box<str>>>,
}

impl Units {
    pub(super) fn new(mount: Option<CgroupMount>) -> Self {
        let version_1 = || {
            let text = fs::read("/proc/self/cgroup").unwrap_or_default();
            text.windows(14).any(|w| w == b":name=systemd:")
        };
        let root = |mount: &CgroupMount| fs::symlink_metadata(&mount.0).ok().map(|m| m.ino());
        Units {
            doubtful: mount.as_ref().filter(|_| version_1()).and_then(root),
            mount,
            known: HashMap::new(),
        }
    }

    /// Whether ids can be verified at all; if not, only the path read anew each time is to be had.
    pub(super) fn verifies(&self) -> bool {
        self.mount.is_some()
    }

    pub(super) fn knows(&self, id: u64) -> bool {
        self.known.contains_key(&id)
    }

    /// Whether the group's file has to be read each time.
    pub(super) fn doubts(&self, id: u64) -> bool {
        self.doubtful == Some(id)
    }

    pub(super) fn get(&self, id: u64) -> io::Result<Option<&str>> {
        self.known.get(&id).map(Option::as_deref).ok_or_else(unverified)
    }

    /// Takes the unit of `path` for the group `id` if that path **is** that group: its inode number is its id.
    pub(super) fn learn(&mut self, id: u64, path: &str) -> io::Result<()> {
        let Some(mount) = &self.mount else {
            return Err(unverified());
        };
        if path.split('/').any(|c| c == "..") {
            return Err(unverified());
        }
        let place = mount.0.join(path.trim_start_matches('/'));
        if fs::symlink_metadata(place)?.ino() != id {
            return Err(unverified());
        }
        let unit = judge(path)?.map(Box::from);
        if self.known.len() >= KEPT_UNITS {
            self.known.clear();
        }
        self.known.insert(id, unit);
        Ok(())
    }
}

fn unverified() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the caller's control group could not be verified",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_unit_after_the_slices_counts() {
        for (path, unit) in [
            ("/system.slice/app.service", Some("app.service")),
            (
                "/system.slice/system-foo.slice/foo@1.service",
                Some("foo@1.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
                Some("user@1000.service"),
            ),
            (
                "/user.slice/user-1000.slice/session-2.scope",
                Some("session-2.scope"),
            ),
            ("/deleg.service/evil.service", Some("deleg.service")),
            ("/init.scope", Some("init.scope")),
            (
                "/machine.slice/machine-a\\x2db.scope/payload/system.slice/app.service",
                Some("machine-a\\x2db.scope"),
            ),
            ("/", None),
            ("/system.slice", None),
            ("/docker/0123abc/system.slice/app.service", None),
            ("/kubepods.slice/kubepods-besteffort.slice", None),
        ] {
            assert_eq!(unit_of_cgroup_path(path), unit, "{path}");
            assert_eq!(judge(path).unwrap(), unit, "{path}");
        }
    }

    #[test]
    fn names_that_no_unit_has_are_refused_and_not_taken_for_absence() {
        for path in [
            "",
            "system.slice/app.service",
            "//app.service",
            "/system.slice//app.service",
            "/../app.service",
            "/system.slice/../app.service",
            "/system.slice/app service.service",
            "/system.slice/app.service (deleted)",
            "/system.slice/äpp.service",
            "/system.slice/_cpu.service",
            "/system.slice/.service",
            "/a b.slice/app.service",
            &format!("/{}.service", "x".repeat(260)),
        ] {
            assert_eq!(unit_of_cgroup_path(path), None, "{path}");
            assert!(judge(path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_version_2_line_is_found_among_the_others() {
        let text =
            b"9:name=systemd:/system.slice/evil.service\n3:cpuset:/0::/no\n0::/system.slice/a.service\n";
        assert_eq!(path_of(text).unwrap(), "/system.slice/a.service");
        assert!(path_of(b"1:cpu:/x\n").is_err());
        // At the root of version 2: in no unit, unless systemd has it elsewhere.
        assert_eq!(path_of(b"9:name=systemd:/\n8:pids:/x\n0::/\n").unwrap(), "/");
        for unit in ["/system.slice/evil.service", "/docker/0123", "/init.scope", ""] {
            assert!(
                path_of(format!("9:name=systemd:{unit}\n0::/\n").as_bytes()).is_err(),
                "{unit}"
            );
            let both = format!("9:name=systemd:{unit}\n0::/a.service\n");
            assert_eq!(path_of(both.as_bytes()).unwrap(), "/a.service");
        }
        assert!(path_of(b"0::/\xff\n").is_err());
    }

    #[test]
    fn a_path_that_is_another_group_is_not_learned() {
        let Some(mount) = CgroupMount::find() else {
            panic!("no cgroup2 mount on this machine")
        };
        let root = fs::metadata(&mount.0).unwrap().ino();
        let mut units = Units::new(Some(mount));
        assert!(units.learn(root + 1, "/").is_err());
        assert!(units.learn(root, "/../..").is_err());
        assert!(units.get(root).is_err());
        units.learn(root, "/").unwrap();
        assert_eq!(units.get(root).unwrap(), None);
    }
}
