//! Files opened with their owner and mode checked on the open descriptor, and secret input read straight into
//! locked memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::dir::{Last, regular};
use crate::secret::SecretBytes;

/// Bytes in a key file.
pub const KEY_LEN: usize = 32;

/// What a writer has to know of its own file after each write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub size: u64,
    /// Names that it has; none once it is deleted.
    pub links: u32,
}

/// Size and number of names of an open file (statx(2)). Its times are not asked for: a kernel that has told them
/// marks the file's next write with finer ones, and that costs as much as the write.
///
/// # Errors
/// As the system says.
pub fn extent(file: &File) -> io::Result<Extent> {
    let mut told = MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_SIZE | libc::STATX_NLINK;
    // SAFETY: the descriptor is open for the call, the path is an empty C string, and the result has room for one
    // answer.
    let done = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            mask,
            told.as_mut_ptr(),
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zero bits are a valid answer, and the kernel filled it.
    let told = unsafe { told.assume_init() };
    if told.stx_mask & mask != mask {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(Extent {
        size: told.stx_size,
        links: told.stx_nlink,
    })
}

/// Whether the file system that `path` lies on, or the mount, cannot be written now, whoever asks.
pub fn is_read_only(path: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    access(path, AccessFlags::W_OK) == Err(nix::Error::EROFS)
}

/// What makes a file unfit to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// The last component is a symbolic link.
    #[error("it is a symbolic link; name the file itself")]
    Symlink,
    /// Somebody else could replace it.
    #[error("it belongs to uid {uid}; it must belong to this process's user or to root")]
    ForeignOwner {
        /// Its owner.
        uid: u32,
    },
    /// Group or others may write it.
    #[error("its mode {mode:04o} lets group or others write it; run chmod 600")]
    Writable {
        /// Its permission bits.
        mode: u32,
    },
    /// Group or others may read or execute it.
    #[error("its mode {mode:04o} lets group or others read it; run chmod 600")]
    Readable {
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, device, socket or pipe.
    #[error("it is not a regular file")]
    NotRegular,
    /// It has more bytes than it may have.
    #[error("it has {len} bytes; at most {max} are allowed")]
    TooLarge {
        /// Bytes found.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// It has not exactly the number of bytes that it must have.
    #[error("it has {len} bytes; exactly {expected} are needed")]
    WrongLength {
        /// Bytes found, or one more than expected if there are more.
        len: u64,
        /// Bytes needed.
        expected: u64,
    },
}

/// Why a file could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// `open`, `read`, `create` or `examine`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is there and must not be used as it is.
    #[error("{} is refused: {why}", path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// The cause.
        why: Unsafe,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Opens `path` for reading if it is a regular file of this process's user or root, without any permission for
/// group and others, of at most `max_bytes`. The checks are made on the open descriptor, so that nobody can
/// exchange the file in between; a symbolic link is refused.
pub fn open_private(path: &Path, max_bytes: u64) -> Result<File, FileError> {
    let refuse = |why| {
        Err(FileError::Unsafe {
            path: path.to_owned(),
            why,
        })
    };
    let file = match regular(path, Last::Itself, OpenOptions::new().read(true)) {
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return refuse(Unsafe::Symlink),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => return refuse(Unsafe::NotRegular),
        opened => opened.map_err(io_error("open", path))?,
    };
    let meta = file.metadata().map_err(io_error("examine", path))?;
    let mode = meta.mode() & 0o7777;
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return refuse(Unsafe::ForeignOwner { uid: meta.uid() });
    }
    if mode & 0o022 != 0 {
        return refuse(Unsafe::Writable { mode });
    }
    if mode & 0o077 != 0 {
        return refuse(Unsafe::Readable { mode });
    }
    if meta.len() > max_bytes {
        return refuse(Unsafe::TooLarge {
            len: meta.len(),
            max: max_bytes,
        });
    }
    Ok(file)
}

/// Reads a key of [`KEY_LEN`] bytes from a private file (as [`open_private`] checks) into locked memory.
pub fn read_key_file(path: &Path) -> Result<SecretBytes, FileError> {
    let wrong = |len| FileError::Unsafe {
        path: path.to_owned(),
        why: Unsafe::WrongLength {
            len,
            expected: KEY_LEN as u64,
        },
    };
    let mut file = open_private(path, u64::MAX)?;
    let key = read_bounded(&mut file, KEY_LEN).map_err(io_error("read", path))?;
    match key {
        Some(key) if key.len() == KEY_LEN => Ok(key),
        Some(key) => Err(wrong(key.len() as u64)),
        None => Err(wrong(KEY_LEN as u64 + 1)),
    }
}

/// Makes the new file `path` for writing, mode 0600 whatever the umask. It must not exist, not even as a dangling
/// symbolic link.
pub fn create_private(path: &Path) -> Result<File, FileError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(io_error("create", path))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
        .map_err(io_error("create", path))?;
    Ok(file)
}

/// The whole rest of `file`, or `None` if it is longer than `limit`. Nothing passes through ordinary memory.
fn read_bounded(file: &mut File, limit: usize) -> io::Result<Option<SecretBytes>> {
    let mut secret = super::mem::secret(limit.saturating_add(1))?;
    let mut filled = 0;
    loop {
        match file.read(&mut secret.expose_mut()[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if filled > limit {
            return Ok(None);
        }
    }
    // The room was made for the limit; the value moves to a slot of its own size.
    let mut fitting = super::mem::secret(filled)?;
    fitting.expose_mut().copy_from_slice(&secret.expose()[..filled]);
    Ok(Some(fitting))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    fn why(result: Result<impl Sized, FileError>) -> Unsafe {
        match result {
            Err(FileError::Unsafe { why, .. }) => why,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        }
    }

    fn key_file(dir: &Path, len: usize) -> PathBuf {
        let path = dir.join(format!("key{len}"));
        create_private(&path).unwrap().write_all(&vec![9; len]).unwrap();
        path
    }

    #[test]
    fn a_private_key_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            read_key_file(&key_file(dir.path(), 32)).unwrap().expose(),
            [9; 32]
        );
        for len in [0, 31, 33, 100_000] {
            let got = why(read_key_file(&key_file(dir.path(), len)));
            assert!(
                matches!(got, Unsafe::WrongLength { expected: 32, .. }),
                "{len}: {got}"
            );
        }
    }

    #[test]
    fn every_bit_for_group_and_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = key_file(dir.path(), 32);
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600 | bit)).unwrap();
            let got = why(open_private(&path, 100));
            let expected = if bit & 0o022 != 0 {
                Unsafe::Writable { mode: 0o600 | bit }
            } else {
                Unsafe::Readable { mode: 0o600 | bit }
            };
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn links_foreign_owners_and_other_kinds_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = key_file(dir.path(), 32);
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(why(open_private(&link, 100)), Unsafe::Symlink);
        assert_eq!(why(open_private(dir.path(), 100)), Unsafe::NotRegular);
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(why(open_private(&fifo, 100)), Unsafe::NotRegular);
        let socket = dir.path().join("socket");
        let _held = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(why(open_private(&socket, 100)), Unsafe::NotRegular);
        assert_eq!(
            why(open_private(&path, 31)),
            Unsafe::TooLarge { len: 32, max: 31 }
        );
        std::os::unix::fs::chown(&path, Some(61_002), None).unwrap();
        assert_eq!(
            why(open_private(&path, 100)),
            Unsafe::ForeignOwner { uid: 61_002 }
        );
        assert!(matches!(
            open_private(&dir.path().join("none"), 1),
            Err(FileError::Io { what: "open", .. })
        ));
    }

    #[test]
    fn a_new_file_replaces_nothing_and_follows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dangling = dir.path().join("dangling");
        symlink(dir.path().join("elsewhere"), &dangling).unwrap();
        assert!(create_private(&dangling).is_err());
        assert!(!dir.path().join("elsewhere").exists());
        let path = key_file(dir.path(), 5);
        assert!(create_private(&path).is_err());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 5);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_pipe_that_comes_in_pieces_is_read_whole() {
        let (read, mut write) = io::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            for piece in [&b"se"[..], b"cr", b"et\n"] {
                write.write_all(piece).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let mut file = File::from(std::os::fd::OwnedFd::from(read));
        assert_eq!(read_bounded(&mut file, 7).unwrap().unwrap().expose(), b"secret\n");
        writer.join().unwrap();
    }

    #[test]
    fn errors_name_the_file_and_not_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = key_file(dir.path(), 5);
        let text = read_key_file(&path).err().unwrap().to_string();
        assert!(text.contains("key5") && text.contains("exactly 32"), "{text}");
    }
}
