//! Accounts that come and go for one test alone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A directory that stands in the place of `/etc` for this thread and what it starts. It is written to by its own path
/// alone, so that the machine's user database stays as it is whatever happens to the mount.
pub struct Etc {
    passwd: String,
    group: String,
    dir: tempfile::TempDir,
}

impl Etc {
    /// Binds it, with what programs that the test starts read there.
    #[track_caller]
    pub fn bound() -> Etc {
        super::private_mounts();
        let dir = tempfile::tempdir().expect("temporary directory");
        let etc = Path::new("/etc");
        for name in [
            "passwd",
            "group",
            "nsswitch.conf",
            "subuid",
            "subgid",
            "ld.so.cache",
            "localtime",
        ] {
            if let Ok(bytes) = std::fs::read(etc.join(name)) {
                let copy = dir.path().join(name);
                std::fs::write(&copy, bytes).expect("write");
                std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o644)).expect("chmod");
            }
        }
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let text = |name| std::fs::read_to_string(dir.path().join(name)).expect("the user database");
        let (passwd, group) = (text("passwd"), text("group"));
        let flags = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(dir.path()), etc, None::<&str>, flags, None::<&str>).expect("bind");
        Etc { passwd, group, dir }
    }

    /// These users, each with a primary group of its own number, and groups with their members, beside the machine's.
    #[track_caller]
    pub fn accounts(&self, users: &[(&str, u32)], groups: &[(&str, u32, Vec<&str>)]) {
        let user =
            |(name, uid): &(&str, u32)| format!("{name}:x:{uid}:{uid}::/nonexistent:/usr/sbin/nologin\n");
        let group =
            |(name, gid, members): &(&str, u32, Vec<&str>)| format!("{name}:x:{gid}:{}\n", members.join(","));
        let passwd: String = self.passwd.clone() + &users.iter().map(user).collect::<String>();
        let groups: String = self.group.clone() + &groups.iter().map(group).collect::<String>();
        for (name, text) in [("passwd", passwd), ("group", groups)] {
            // As useradd does it: whoever reads has the old one or the new one.
            let new = self.dir.path().join(format!("{name}.new"));
            std::fs::write(&new, text).expect("write");
            std::fs::rename(&new, self.dir.path().join(name)).expect("rename");
        }
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        let _ = nix::mount::umount2("/etc", nix::mount::MntFlags::MNT_DETACH);
    }
}
