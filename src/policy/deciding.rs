//! The settings that decide who may do what: the store keeps them as they were accepted, whatever its file says later.

use super::principal::PrincipalMap;

/// What `wardfs.toml` decides about, with the group as it was looked up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Deciding {
    /// The group whose members administer.
    pub admin_group: String,
    /// Its gid, if there was such a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_gid: Option<u32>,
    /// Whether the owner may describe every secret.
    pub root_describes: bool,
    /// Whether callers whose process cannot be seen are decided by their uid and gid alone.
    pub serve_unidentified: bool,
    /// What ARNs mean on this machine.
    #[serde(default)]
    pub principals: PrincipalMap,
}

/// One setting that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// As the file has it: `admin_group`, `principals."arn:…"`.
    pub key: String,
    /// What is in force.
    pub sealed: String,
    /// What the file says.
    pub file: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} is in force, the file says {}",
            self.key, self.sealed, self.file
        )
    }
}

/// Longest text about differences, in bytes.
const MOST: usize = 2048;
/// The same of one.
const MOST_OF_ONE: usize = 512;

impl Difference {
    /// All of them in one line, which is cut where it becomes long.
    pub fn words(differences: &[Difference]) -> String {
        let mut words = String::new();
        for (i, difference) in differences.iter().enumerate() {
            if words.len() > MOST {
                words.push_str(&format!("; and {} more", differences.len() - i));
                break;
            }
            let separator = if i > 0 { "; " } else { "" };
            let mut one = difference.to_string();
            if one.len() > MOST_OF_ONE {
                one.truncate(
                    (0..=MOST_OF_ONE)
                        .rev()
                        .find(|&at| one.is_char_boundary(at))
                        .unwrap_or(0),
                );
                one.push_str("…[cut]");
            }
            words.push_str(&format!("{separator}{one}"));
        }
        words
    }
}

impl Deciding {
    /// The keys of the file that it is made of.
    pub const KEYS: [&str; 4] = [
        "admin_group",
        "root_describes",
        "serve_unidentified",
        "principals",
    ];

    /// How the file differs from these, which are in force.
    pub fn differences(&self, file: &Deciding) -> Vec<Difference> {
        let plain = [
            ("admin_group", self.group(), file.group()),
            (
                "root_describes",
                self.root_describes.to_string(),
                file.root_describes.to_string(),
            ),
            (
                "serve_unidentified",
                self.serve_unidentified.to_string(),
                file.serve_unidentified.to_string(),
            ),
        ];
        let mut all: Vec<(String, String, String)> = plain.map(|(k, a, b)| (k.to_string(), a, b)).into();
        let arns = self.principals.0.keys().chain(file.principals.0.keys());
        for arn in arns.collect::<std::collections::BTreeSet<_>>() {
            let key = format!("principals.{:?}", crate::id::printable(arn));
            all.push((key, self.locals(arn), file.locals(arn)));
        }
        all.retain(|(_, sealed, file)| sealed != file);
        let difference = |(key, sealed, file)| Difference { key, sealed, file };
        all.into_iter().map(difference).collect()
    }

    fn group(&self) -> String {
        let name = crate::id::printable(&self.admin_group);
        match self.admin_gid {
            Some(gid) => format!("{name} (gid {gid})"),
            None => format!("{name} (no such group)"),
        }
    }

    fn locals(&self, arn: &str) -> String {
        let locals = self.principals.0.get(arn);
        let words: Vec<String> = locals.into_iter().flatten().map(ToString::to_string).collect();
        match words.is_empty() {
            true => "nobody".into(),
            false => crate::id::printable(&words.join(", ")),
        }
    }

    /// Tells one from another.
    pub fn digest(&self) -> String {
        use sha2::Digest;
        let hash = sha2::Sha256::digest(serde_json::to_vec(self).unwrap_or_default());
        data_encoding::HEXLOWER.encode(&hash)
    }
}
