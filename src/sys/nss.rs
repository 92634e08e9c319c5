//! User and group names, through the system's name service (getpwnam_r and its like). For setting policies and
//! for showing names; never on the path of a read, because a name service may wait for a network.

use std::ffi::OsStr;

use crate::id::{Gid, Uid};

/// The system's user and group database. Every call asks anew.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemDirectory;

fn text(name: &OsStr) -> Option<String> {
    name.to_str().map(str::to_owned)
}

/// The C functions take a string that ends with NUL; a name with one inside is nobody's.
fn possible(name: &str) -> Option<&str> {
    (!name.is_empty() && !name.contains('\0')).then_some(name)
}

impl SystemDirectory {
    /// The uid of the user `name`.
    pub fn uid_of(&self, name: &str) -> Option<Uid> {
        users::get_user_by_name(possible(name)?).map(|u| Uid(u.uid()))
    }
    /// The gid of the group `name`.
    pub fn gid_of(&self, name: &str) -> Option<Gid> {
        users::get_group_by_name(possible(name)?).map(|g| Gid(g.gid()))
    }
    /// The name of `uid`, if it has one and it is UTF-8.
    pub fn user_name(&self, uid: Uid) -> Option<String> {
        users::get_user_by_uid(uid.0).and_then(|u| text(u.name()))
    }
    /// The name of `gid`, if it has one and it is UTF-8.
    pub fn group_name(&self, gid: Gid) -> Option<String> {
        users::get_group_by_gid(gid.0).and_then(|g| text(g.name()))
    }
    /// The primary group of `uid`.
    pub fn primary_group(&self, uid: Uid) -> Option<Gid> {
        users::get_user_by_uid(uid.0).map(|u| Gid(u.primary_group_id()))
    }
    /// All groups of `uid`, the primary one first; empty if there is no such user.
    pub fn groups_of(&self, uid: Uid) -> Vec<Gid> {
        let Some(user) = users::get_user_by_uid(uid.0) else {
            return Vec::new();
        };
        let mut all = vec![Gid(user.primary_group_id())];
        let more = users::get_user_groups(user.name(), user.primary_group_id()).unwrap_or_default();
        for gid in more.iter().map(|g| Gid(g.gid())) {
            if !all.contains(&gid) {
                all.push(gid);
            }
        }
        all
    }
    /// All users that the name service enumerates (a directory service may enumerate none).
    pub fn users(&self) -> Vec<(String, Uid)> {
        let _one = guard();
        // SAFETY: getpwent keeps one cursor for the process; the lock held here makes us its only user, and no
        // other part of wardfs calls it.
        unsafe { users::all_users() }
            .filter_map(|u| Some((text(u.name())?, Uid(u.uid()))))
            .collect()
    }
    /// All groups that the name service enumerates.
    pub fn groups(&self) -> Vec<(String, Gid)> {
        let _one = guard();
        // SAFETY: as in `users`, for getgrent.
        unsafe { users::all_groups() }
            .filter_map(|g| Some((text(g.name())?, Gid(g.gid()))))
            .collect()
    }
}

fn guard() -> std::sync::MutexGuard<'static, ()> {
    static ENUMERATION: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ENUMERATION
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_its_group_are_known_in_both_directions() {
        let d = SystemDirectory;
        assert_eq!(d.uid_of("root"), Some(Uid(0)));
        assert_eq!(d.group_name(Gid(0)).and_then(|g| d.gid_of(&g)), Some(Gid(0)));
        assert_eq!(d.groups_of(Uid(0)).first(), Some(&Gid(0)));
        assert!(d.users().iter().any(|(n, u)| n == "root" && u.0 == 0));
        assert!(d.groups().iter().any(|(_, g)| g.0 == 0));
    }

    #[test]
    fn nobody_has_an_impossible_name() {
        let d = SystemDirectory;
        for name in ["", "root\0", "no such user", "0"] {
            assert_eq!(d.uid_of(name), None, "{name:?}");
            assert_eq!(d.gid_of(name), None, "{name:?}");
        }
        assert_eq!(d.group_name(Gid(3_999_999_999)), None);
        assert!(d.groups_of(Uid(3_999_999_999)).is_empty());
    }
}
