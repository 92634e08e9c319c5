//! The mount table of this process's mount namespace: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number; used again after it is unmounted.
    pub id: u64,
    /// The mount that it lies on.
    pub parent: u64,
    /// The device number, major and minor.
    pub device: (u32, u32),
    /// The directory within its file system that is shown.
    pub root: PathBuf,
    /// The mount point.
    pub target: PathBuf,
    /// The mount's own options, as `ro` or `nosuid`.
    pub options: String,
    /// The file system's type, with its subtype: `fuse.wardfs`.
    pub fstype: String,
    /// What was mounted.
    pub source: String,
}

/// All mounts, in the order in which they were made: of two at one place the later covers the earlier.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The wardfs mount at a place, and what hides it or goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layered {
    /// It.
    pub ours: MountEntry,
    /// What is mounted on it: over it, at the same place, or below it.
    pub over: Option<MountEntry>,
}

impl Layered {
    /// Whether what is mounted on it lies over all of it.
    pub fn is_covered(&self) -> bool {
        self.over.as_ref().is_some_and(|m| m.target == self.ours.target)
    }
}

/// The last wardfs mount at `place` among these.
pub(super) fn layered(place: &Path, all: &[MountEntry]) -> Option<Layered> {
    let is_ours = |m: &&MountEntry| m.target == place && m.fstype == super::FSTYPE;
    let ours = all.iter().rfind(is_ours)?;
    let on_it = |m: &&MountEntry| m.parent == ours.id;
    let over = all.iter().filter(on_it);
    let over = over.min_by_key(|m| m.target != place);
    Some(Layered {
        ours: ours.clone(),
        over: over.cloned(),
    })
}

/// A line that cannot be read is left out: the kernel writes none.
pub(super) fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let mut text = || fields.next().map(|f| String::from_utf8_lossy(f).into_owned());
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let device = text()?;
    let (major, minor) = device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = path(fields.next()?);
    let target = path(fields.next()?);
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    // Any number of optional fields, then a hyphen.
    fields.find(|f| *f == b"-")?;
    let fstype = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = path(fields.next()?).to_string_lossy().into_owned();
    Some(MountEntry {
        id,
        parent,
        device,
        root,
        target,
        options,
        fstype,
        source,
    })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn path(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_read() {
        let line = b"36 35 98:17 /mnt1 /mnt\\0402\\134x rw,noatime master:1 shared:2 - fuse.wardfs ward\\040fs rw,errors=continue";
        let all = parse(&[&line[..], b"\n\nbroken line\n", &line[..]].concat());
        assert_eq!(all.len(), 2);
        let m = &all[0];
        assert_eq!((m.id, m.parent, m.device), (36, 35, (98, 17)));
        assert_eq!(m.target, PathBuf::from("/mnt 2\\x"));
        assert_eq!((m.fstype.as_str(), m.source.as_str()), ("fuse.wardfs", "ward fs"));
        assert_eq!(m.options, "rw,noatime");
    }

    #[test]
    fn a_mount_point_cannot_forge_a_line_or_a_type() {
        // A directory named "x - fuse.wardfs w rw\n1 1 0:1 / /etc rw - tmpfs t rw" arrives escaped.
        let line = b"36 35 0:9 / /x\\040-\\040fuse.wardfs\\040w\\0121\\0401 rw - tmpfs t rw";
        let all = parse(line);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].fstype, "tmpfs");
    }

    #[test]
    fn what_lies_over_a_mount_is_told_before_what_lies_below() {
        let table = |more: &str| {
            let lines = format!("36 1 0:9 / /m ro - fuse.wardfs wardfs ro\n{more}");
            layered(Path::new("/m"), &parse(lines.as_bytes()))
        };
        let bare = table("37 1 0:10 / /other rw - tmpfs none rw\n").unwrap();
        assert_eq!((bare.ours.id, bare.over), (36, None));
        let below = table("38 36 8:1 /x /m/app/f ro - ext4 disk ro\n").unwrap();
        assert!(!below.is_covered());
        assert_eq!(below.over.unwrap().target, PathBuf::from("/m/app/f"));
        let both = table("38 36 8:1 /x /m/f ro - ext4 d ro\n39 36 0:11 / /m rw - tmpfs none rw\n").unwrap();
        assert!(both.is_covered());
        assert_eq!(both.over.unwrap().fstype, "tmpfs");
        assert_eq!(layered(Path::new("/elsewhere"), &[]), None);
    }

    #[test]
    fn the_real_table_has_a_root() {
        assert!(mounts().unwrap().iter().any(|m| m.target.as_os_str() == "/"));
    }
}
