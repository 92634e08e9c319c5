//! Values on their way in and out: from a file, a pipe or a terminal into locked memory, and from there to
//! standard output, without a copy in between that nobody wipes.

use super::plan::{ValueFrom, Which, file_exit};
use super::{World, tty};
use crate::config::{FILE, VALUE_CEILING};
use crate::id::{SecretName, VersionName, printable};
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The first buffer's size in bytes. Most values fit, and the locked memory of a user is small.
const FIRST: usize = 4096;

/// How long a value may be, and who says so.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// In bytes.
    pub bytes: usize,
}

impl Limit {
    fn problem(self, name: &SecretName) -> Problem {
        Problem::new(
            Exit::Usage,
            format!(
                "{name} was not stored: the value is longer than {} bytes",
                self.bytes
            ),
            format!("max_value_bytes of {FILE} is {}", self.bytes),
        )
        .next(format!(
            "store less, or raise max_value_bytes (to {VALUE_CEILING} at most) and mount again"
        ))
    }
}

fn empty(name: &SecretName) -> Problem {
    Problem::new(
        Exit::Usage,
        format!("{name} was not stored: the value is empty"),
        "a value has at least one byte",
    )
    .next(format!(
        "see what was to write it; a value goes in like this: printf %s \"$VALUE\" | wardfs put {name}"
    ))
}

/// Reads the value of `name`, every byte as it is.
///
/// # Errors
/// [`Exit::Usage`] for an empty or a too long value; what the file or the terminal says.
pub fn read(
    world: &dyn World,
    from: &ValueFrom,
    name: &SecretName,
    limit: Limit,
) -> Result<SecretBytes, Problem> {
    let failed = |shown: &str, e: &io::Error| {
        Problem::new(
            file_exit(e),
            format!("{name} was not stored: its value cannot be read from {shown}"),
            e,
        )
        .next("name a file that can be read, or - for standard input")
    };
    let value = match from {
        ValueFrom::Generated(recipe) => Some(recipe.password(world)?).filter(|p| p.len() <= limit.bytes),
        ValueFrom::Stdin if io::stdin().is_terminal() => tty::ask_twice(world, name, limit.bytes)?,
        ValueFrom::Stdin => fill(world, io::stdin(), limit.bytes, |e| failed("standard input", e))?,
        ValueFrom::File(path) => {
            let shown = printable(&path.to_string_lossy());
            let file = File::open(path).map_err(|e| failed(&shown, &e))?;
            fill(world, file, limit.bytes, |e| failed(&shown, e))?
        }
    };
    let Some(value) = value else {
        return Err(limit.problem(name));
    };
    if value.is_empty() {
        return Err(empty(name));
    }
    Ok(value)
}

/// The recovery key from standard input: all of it, or one line of a terminal.
///
/// # Errors
/// [`Exit::Usage`] if it is longer than a recovery key can be; what standard input says.
pub fn recovery_key(world: &dyn World) -> Result<SecretBytes, Problem> {
    const LONGEST: usize = 1024;
    let what = "the recovery key cannot be read";
    let terminal = io::stdin().is_terminal();
    if terminal {
        let _ = write!(io::stderr(), "Recovery key: ");
    }
    let mut key = world.memory(LONGEST + 1)?;
    let mut len = 0;
    loop {
        match nix::unistd::read(io::stdin(), &mut key.expose_mut()[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(Errno::EINTR) => continue,
            Err(e) => {
                return Err(Problem::new(Exit::Usage, what, e)
                    .next("type it at a terminal, or send it by standard input"));
            }
        }
        if len > LONGEST {
            return Err(
                Problem::new(Exit::Usage, what, format!("it is longer than {LONGEST} bytes"))
                    .next("give the recovery key alone, as init printed it"),
            );
        }
        if terminal && key.expose()[..len].ends_with(b"\n") {
            break;
        }
    }
    key.truncate(len);
    Ok(key)
}

/// Everything up to the end of `source`; `None` if that is more than `limit` bytes.
fn fill(
    world: &dyn World,
    source: impl AsFd,
    limit: usize,
    failed: impl Fn(&io::Error) -> Problem,
) -> Result<Option<SecretBytes>, Problem> {
    let mut value = world.memory(FIRST.min(limit + 1))?;
    let mut len = 0;
    loop {
        if len == value.len() {
            if len > limit {
                return Ok(None);
            }
            let mut more = world.memory((len * 4).min(limit + 1))?;
            more.expose_mut()[..len].copy_from_slice(value.expose());
            value = more;
        }
        match nix::unistd::read(&source, &mut value.expose_mut()[len..]) {
            Ok(0) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            Ok(n) => len += n,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(failed(&e.into())),
        }
    }
}

/// Where a version is a file, below the mount.
fn file_of(mount: &Path, name: &SecretName, which: &Which) -> PathBuf {
    let versions = || mount.join(".versions").join(name.as_str());
    match which {
        Which::Label(label) if label.as_str() == "current" => mount.join(name.as_str()),
        Which::Label(label) => versions().join(label.as_str()),
        Which::Version(named) => versions().join(named.as_str()),
    }
}

/// The one whole id that begins so, of the versions that the caller may see.
///
/// # Errors
/// [`Exit::Usage`] if several do.
fn whole(mount: &Path, name: &SecretName, named: &VersionName) -> Result<Option<VersionName>, Problem> {
    let versions = std::fs::read_dir(mount.join(".versions").join(name.as_str()));
    let mut ids = versions.into_iter().flatten().flatten().filter_map(|entry| {
        // What links stand there are named by labels.
        let id = entry.file_name().into_string().ok()?;
        let is = entry.file_type().is_ok_and(|t| t.is_file()) && named.begins(&id);
        id.parse().ok().filter(|_| is)
    });
    let found = ids.next();
    match ids.next() {
        None => Ok(found),
        Some(_) => Err(ambiguous(name, named)),
    }
}

/// That several versions' ids begin so.
pub fn ambiguous(name: &SecretName, named: &VersionName) -> Problem {
    let why = format!("the ids of several versions begin with {named}");
    Problem::new(Exit::Usage, format!("{name} cannot be read"), why).next(format!("wardfs versions {name}"))
}

/// Whether a terminal shows it as it is: text, without what could drive the terminal.
pub fn is_text(value: &SecretBytes) -> bool {
    let plain = |c: char| matches!(c, '\n' | '\r' | '\t') || !c.is_control();
    std::str::from_utf8(value.expose()).is_ok_and(|text| text.chars().all(plain))
}

/// Reads a value as any program does: through the mount, where the policy decides.
///
/// # Errors
/// [`Exit::Denied`], [`Exit::NotFound`]; [`Exit::Integrity`] for a damaged record or a log that cannot be
/// written (the file system says EIO for both).
pub fn through_mount(
    world: &dyn World,
    mount: &Path,
    name: &SecretName,
    which: &Which,
) -> Result<SecretBytes, Problem> {
    let ours = crate::sys::mount::connection_id(mount).ok();
    match (through(world, mount, ours, name, which), which) {
        (Err(problem), Which::Version(named)) if problem.exit == Exit::NotFound => {
            match whole(mount, name, named)? {
                Some(id) => through(world, mount, ours, name, &Which::Version(id)),
                None => Err(problem),
            }
        }
        (read, _) => read,
    }
}

/// `ours`: the number of the mount's device, if it is there.
fn through(
    world: &dyn World,
    mount: &Path,
    ours: Option<u32>,
    name: &SecretName,
    which: &Which,
) -> Result<SecretBytes, Problem> {
    let path = file_of(mount, name, which);
    let what = || format!("{name} cannot be read");
    let elsewhere = || {
        let mount = printable(&mount.to_string_lossy());
        let why =
            format!("{mount} is not the mount of this store here: the daemon is in another mount namespace");
        Problem::new(Exit::Unavailable, what(), why)
            .next("run it where the mount is: nsenter --target PID --mount")
    };
    let explain = |e: &io::Error| match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES) if ours.is_none() => elsewhere(),
        Some(libc::EACCES | libc::EPERM) => {
            Problem::new(Exit::Denied, what(), "its policy does not let you read it")
                .next(format!("wardfs why {name}"))
        }
        Some(libc::ENOENT | libc::ENOTDIR) => Problem::new(
            Exit::NotFound,
            what(),
            "there is no such secret or version, or you may not see it",
        )
        .next("wardfs list"),
        Some(libc::EISDIR) => Problem::new(Exit::NotFound, what(), "it is a directory of secrets")
            .next(format!("wardfs list {name}")),
        Some(libc::EIO) => Problem::new(
            Exit::Integrity,
            what(),
            "its record is damaged, or the log cannot be written",
        )
        .next("see which of them: wardfs status; wardfs store check"),
        Some(libc::ENOTCONN) => {
            Problem::new(Exit::Unavailable, what(), "the daemon behind the mount is gone").next(format!(
                "mount it again: wardfs mount {}",
                super::args::shell_word(&mount.to_string_lossy())
            ))
        }
        _ => Problem::new(Exit::Failed, what(), e).next("see whether the daemon serves: wardfs status"),
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(&path)
        .map_err(|e| explain(&e))?;
    // A file that lies where the mount is for others says nothing of the secret.
    let device = file.metadata().map_err(|e| explain(&e))?.dev();
    if ours != Some(libc::minor(device)) {
        return Err(elsewhere());
    }
    // A directory opens; it is the first read that fails.
    fill(world, file, VALUE_CEILING as usize, explain)?.ok_or_else(|| {
        Problem::new(
            Exit::Integrity,
            what(),
            format!("it is longer than {VALUE_CEILING} bytes"),
        )
        .next("see what is broken: wardfs store check")
    })
}

/// The value as one JSON document: `value` for text, `value_base64` for other bytes.
///
/// # Errors
/// When it cannot be written.
pub fn write_json(out: &mut dyn Write, name: &SecretName, value: &SecretBytes) -> io::Result<()> {
    // A name has no character that JSON escapes.
    match std::str::from_utf8(value.expose()) {
        Ok(text) => {
            write!(out, "{{\"name\":\"{name}\",\"value\":\"")?;
            escape(out, text)?;
        }
        Err(_) => {
            write!(out, "{{\"name\":\"{name}\",\"value_base64\":\"")?;
            let mut coded = Zeroizing::new([0u8; 1024]);
            for piece in value.expose().chunks(768) {
                let len = data_encoding::BASE64.encode_len(piece.len());
                data_encoding::BASE64.encode_mut(piece, &mut coded[..len]);
                out.write_all(&coded[..len])?;
            }
        }
    }
    out.write_all(b"\"}\n")
}

/// The inside of a JSON string, in pieces, from a buffer that is wiped.
fn escape(out: &mut dyn Write, text: &str) -> io::Result<()> {
    let mut buffer = Zeroizing::new([0u8; 1024]);
    let mut len = 0;
    for byte in text.bytes() {
        // The longest escape has six bytes.
        if len + 6 > buffer.len() {
            out.write_all(&buffer[..len])?;
            len = 0;
        }
        let mut put = |bytes: &[u8]| {
            buffer[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        match byte {
            b'"' => put(b"\\\""),
            b'\\' => put(b"\\\\"),
            b'\n' => put(b"\\n"),
            0..0x20 => {
                let hex = b"0123456789abcdef";
                put(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    hex[usize::from(byte >> 4)],
                    hex[usize::from(byte & 15)],
                ]);
            }
            other => put(&[other]),
        }
    }
    out.write_all(&buffer[..len])
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fake;
    use super::*;
    use crate::id::{Label, VersionId};

    fn of(bytes: &[u8]) -> SecretBytes {
        let mut value = Fake::default().memory(bytes.len()).unwrap();
        value.expose_mut().copy_from_slice(bytes);
        value
    }

    fn from_file(bytes: &[u8], limit: usize) -> Result<SecretBytes, Problem> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let from = ValueFrom::File(file.path().into());
        read(
            &Fake::default(),
            &from,
            &"a/b".parse().unwrap(),
            Limit { bytes: limit },
        )
    }

    #[test]
    fn every_byte_is_kept_at_every_length() {
        for len in [1, 2, FIRST - 1, FIRST, FIRST + 1, 4 * FIRST, 65_535, 65_536] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 256) as u8).collect();
            assert!(from_file(&bytes, 65_536).unwrap().expose() == bytes, "{len}");
        }
        assert_eq!(from_file(b"x\r\n\n", 4).unwrap().expose(), b"x\r\n\n");
    }

    #[test]
    fn too_long_and_empty_are_usage_and_say_the_limit() {
        let problem = from_file(&[1; 65_537], 65_536).err().unwrap();
        assert_eq!(problem.exit, Exit::Usage);
        assert!(
            problem.what.contains("65536") && problem.next.contains("max_value_bytes"),
            "{problem}"
        );
        assert_eq!(from_file(&[1; 4097], 4096).err().unwrap().exit, Exit::Usage);
        assert_eq!(from_file(&[1, 2], 1).err().unwrap().exit, Exit::Usage);
        let problem = from_file(b"", 10).err().unwrap();
        assert!(problem.exit == Exit::Usage && problem.what.contains("empty"));
    }

    #[test]
    fn a_file_that_is_none_is_told() {
        let read = |path: &str| {
            let from = ValueFrom::File(path.into());
            super::read(&Fake::default(), &from, &"a".parse().unwrap(), Limit { bytes: 9 })
                .err()
                .unwrap()
        };
        assert_eq!(read("/nonexistent/x").exit, Exit::NotFound);
        assert_eq!(read("/").exit, Exit::Usage);
        assert_eq!(
            read("/dev/zero").exit,
            Exit::Usage,
            "an endless file is too long, not endless"
        );
    }

    #[test]
    fn versions_have_their_files() {
        let (mount, name) = (Path::new("/m"), "a/b".parse().unwrap());
        let id = VersionId::random();
        let path = |which| file_of(mount, &name, &which).to_str().unwrap().to_owned();
        assert_eq!(path(Which::Label(Label::current())), "/m/a/b");
        assert_eq!(path(Which::Label(Label::previous())), "/m/.versions/a/b/previous");
        assert_eq!(
            path(Which::Version(id.clone().into())),
            format!("/m/.versions/a/b/{id}")
        );
    }

    #[test]
    fn what_the_mount_says_becomes_an_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let device = libc::minor(std::fs::metadata(dir.path()).unwrap().dev());
        let on = |ours: Option<u32>, name: &str| {
            through(
                &Fake::default(),
                dir.path(),
                ours,
                &name.parse().unwrap(),
                &Which::Label(Label::current()),
            )
        };
        let get = |name: &str| on(Some(device), name);
        std::fs::write(dir.path().join("a"), b"value\0").unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        assert_eq!(get("a").unwrap().expose(), b"value\0");
        assert_eq!(get("b").err().unwrap().exit, Exit::NotFound);
        assert_eq!(get("a/x").err().unwrap().exit, Exit::NotFound);
        assert!(get("d").err().unwrap().next.contains("wardfs list d"));
        // What lies there where the mount is not says nothing.
        for name in ["a", "b", "d"] {
            assert_eq!(on(None, name).err().unwrap().exit, Exit::Unavailable, "{name}");
        }
        assert_eq!(on(Some(device + 1), "a").err().unwrap().exit, Exit::Unavailable);
    }

    #[test]
    fn json_is_what_serde_reads_back() {
        let name: SecretName = "a/b".parse().unwrap();
        let every: String = (0u8..128).map(char::from).collect();
        for text in [
            "",
            "plain",
            "\"\\\n\r\t\u{0}\u{1f}\u{7f}é\u{1F600}",
            &every,
            &"\u{1}é".repeat(3000),
        ] {
            let mut out = Vec::new();
            write_json(&mut out, &name, &of(text.as_bytes())).unwrap();
            let back: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(back, serde_json::json!({"name": "a/b", "value": text}));
        }
        for len in [1, 767, 768, 769, 5000] {
            let bytes = vec![0xff; len];
            let mut out = Vec::new();
            write_json(&mut out, &name, &of(&bytes)).unwrap();
            let back: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let coded = back["value_base64"].as_str().unwrap();
            assert_eq!(data_encoding::BASE64.decode(coded.as_bytes()).unwrap(), bytes);
        }
    }
}
