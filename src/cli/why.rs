//! `why` takes a secret's name or the path of its file; this finds the name behind a path.

use super::plan::{absolute, is_path, name};
use crate::id::{SecretName, printable};
use crate::problem::{Exit, Problem};
use std::path::{Component, Path, PathBuf};

/// What was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A secret by its name.
    Name(SecretName),
    /// A file, made absolute.
    Path(PathBuf),
}

/// A secret, and the label or id of one of its versions.
pub type Meant = (SecretName, Option<String>);

impl Target {
    /// A path if it can only be one, a name if not.
    ///
    /// # Errors
    /// [`Exit::Usage`].
    pub fn parse(text: &str) -> Result<Target, Problem> {
        if is_path(text) {
            Ok(Target::Path(absolute(Path::new(text))?))
        } else {
            Ok(Target::Name(name(text)?))
        }
    }

    /// The names that it can mean, likeliest first: a path under `.versions` may name a secret or one of its
    /// versions, and only the store knows which.
    ///
    /// `mount` is where the store's secrets are files, if they are.
    ///
    /// # Errors
    /// [`Exit::Usage`] for a path that is not under the mount or is no secret's.
    pub fn names(&self, mount: Option<&Path>) -> Result<Vec<Meant>, Problem> {
        let path = match self {
            Target::Name(name) => return Ok(vec![(name.clone(), None)]),
            Target::Path(path) => path,
        };
        let what = || format!("{} names no secret", printable(&path.to_string_lossy()));
        let Some(mount) = mount else {
            return Err(Problem::new(
                Exit::Usage,
                what(),
                "this store is not mounted anywhere, so a path says nothing",
            )
            .next("give the secret's name, as app/db/password, or mount the store"));
        };
        let shown = printable(&mount.to_string_lossy());
        let Some(inside) = below(path, mount) else {
            return Err(Problem::new(
                Exit::Usage,
                what(),
                format!("it is not under {shown}, where this store is mounted"),
            )
            .next("give a path under the mount, or the secret's name; for another store add --store DIR"));
        };
        let refuse = |why: &str| {
            Problem::new(Exit::Usage, what(), why).next("give the path of a secret's file, or its name")
        };
        let Some(inside) = inside.to_str() else {
            return Err(refuse("it is not UTF-8 text"));
        };
        if inside.is_empty() {
            return Err(refuse("it is the mount itself"));
        }
        match inside.strip_prefix(".versions/") {
            None => Ok(vec![(inside.parse().map_err(|e| refuse(&format!("{e}")))?, None)]),
            Some(rest) => {
                let whole = rest.parse().map_err(|e| refuse(&format!("{e}")))?;
                let version =
                    |(secret, version): (&str, &str)| Some((secret.parse().ok()?, Some(version.into())));
                let parent = rest.rsplit_once('/').and_then(version);
                Ok(std::iter::once((whole, None)).chain(parent).collect())
            }
        }
    }
}

/// `path` relative to `mount`. First as they are written; then with the directories above resolved, for
/// `/var/run` and its like. The last component is never touched: looking at the file would itself be a refused
/// look-up, and become the latest one on record.
fn below(path: &Path, mount: &Path) -> Option<PathBuf> {
    let path = without_dots(path);
    if let Ok(inside) = path.strip_prefix(without_dots(mount)) {
        return Some(inside.to_owned());
    }
    let real = path.parent()?.canonicalize().ok()?.join(path.file_name()?);
    real.strip_prefix(mount.canonicalize().ok()?)
        .ok()
        .map(Path::to_owned)
}

/// `.` and `..` taken away by their spelling.
fn without_dots(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, mount: Option<&str>) -> Result<Vec<String>, Problem> {
        let found = Target::parse(text)?.names(mount.map(Path::new))?;
        let shown = |(name, version): &Meant| match version {
            None => name.to_string(),
            Some(version) => format!("{name} @ {version}"),
        };
        Ok(found.iter().map(shown).collect())
    }

    #[test]
    fn a_path_under_the_mount_is_its_secret() {
        let mount = Some("/run/secrets");
        assert_eq!(names("app/x", None).unwrap(), ["app/x"]);
        assert_eq!(names("/run/secrets/app/x", mount).unwrap(), ["app/x"]);
        assert_eq!(names("/run/secrets/./app/../app/x/", mount).unwrap(), ["app/x"]);
        assert_eq!(
            names("/run/../run/secrets/x", Some("/run/secrets/")).unwrap(),
            ["x"]
        );
        assert_eq!(
            names("/run/secrets/.versions/app/x/current", mount).unwrap(),
            ["app/x/current", "app/x @ current"]
        );
        assert_eq!(names("/run/secrets/.versions/x", mount).unwrap(), ["x"]);
    }

    #[test]
    fn a_path_elsewhere_is_refused_with_the_reason() {
        let mount = Some("/run/secrets");
        for (path, why) in [
            ("/run/secretsx/app", "it is not under /run/secrets"),
            ("/etc/passwd", "it is not under /run/secrets"),
            ("/run/secrets/../passwd", "it is not under /run/secrets"),
            ("/run/secrets", "it is the mount itself"),
            ("/run/secrets/.keys/x", "begins with a dot"),
            ("/run/secrets/.versions", "begins with a dot"),
        ] {
            let problem = names(path, mount).unwrap_err();
            assert_eq!(problem.exit, Exit::Usage, "{path}");
            assert!(problem.why.contains(why), "{path}: {}", problem.why);
        }
        assert!(
            names("/run/secrets/x", None)
                .unwrap_err()
                .why
                .contains("not mounted anywhere")
        );
        assert!(
            !names("/etc/\u{1b}[2J", mount)
                .unwrap_err()
                .to_string()
                .contains('\u{1b}')
        );
    }

    #[test]
    fn a_mount_reached_through_a_link_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir_all(real.join("app")).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let path = dir.path().join("link/app/x");
        assert_eq!(names(path.to_str().unwrap(), real.to_str()).unwrap(), ["app/x"]);
    }
}
