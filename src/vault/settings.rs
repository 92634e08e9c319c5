//! The settings that decide, as they are sealed with the epoch.

use super::*;
use crate::id::Gid;
use crate::sys::nss::SystemDirectory;

/// The built-in policy layer under the sealed settings. The group administers only while its name and its number go
/// together: neither a group made anew under the old name nor another one that got the old number is believed.
pub fn in_force(given: &Administration, settings: &Sealing) -> Administration {
    match &settings.deciding {
        None => *given,
        Some(sealed) => Administration {
            owner: given.owner,
            group: sealed
                .admin_gid
                .map(Gid)
                .filter(|gid| SystemDirectory.gid_of(&sealed.admin_group) == Some(*gid)),
            root_describes: sealed.root_describes,
        },
    }
}

impl Draft<'_> {
    /// Puts settings in force, and seals them.
    pub fn accept(&mut self, deciding: Deciding) {
        self.settings = Sealing {
            deciding: Some(Arc::new(deciding)),
            noticed: None,
            lost: std::mem::take(&mut self.settings.lost),
        };
    }

    /// Keeps in mind that the file says this, which is not in force.
    pub fn notice(&mut self, file: &Deciding) {
        self.settings.noticed = Some(file.digest().into());
    }
}
