//! Values in sealed memfds: the sender cannot change what the receiver has checked.
//!
//! Such a file is ordinary shared memory: it is not locked, and could reach a swap device in the moment between
//! being sent and being read. It is closed as soon as it is read.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};

use crate::secret::SecretBytes;
use crate::sys::checked;

/// Why a descriptor is not taken for a value.
#[derive(Debug, thiserror::Error)]
pub enum MemfdError {
    /// It is no memfd, or not sealed against every change.
    #[error("the value did not come in a sealed memfd")]
    Unsealed,
    /// It holds more bytes than a value may have.
    #[error("the value has {len} bytes; at most {limit} are allowed")]
    TooLong {
        /// Bytes found.
        len: u64,
        /// Bytes allowed.
        limit: usize,
    },
    /// The system refused.
    #[error("cannot read the value: {0}")]
    Io(#[from] io::Error),
}

fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// A memfd with the secret's bytes, sealed against every change.
pub fn sealed_memfd(secret: &SecretBytes) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let fd = checked(unsafe { libc::memfd_create(c"wardfs-value".as_ptr(), flags) }.into())?;
    // SAFETY: a new descriptor that nobody else owns.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    file.write_all_at(secret.expose(), 0)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all_seals()))?;
    Ok(file.into())
}

/// Reads a value of at most `limit` bytes from a memfd that bears every seal, into locked memory.
pub fn read_sealed_memfd(fd: impl AsFd, limit: usize) -> Result<SecretBytes, MemfdError> {
    let fd = fd.as_fd();
    // Only memfds and files on tmpfs answer, and only memfds can bear these.
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| MemfdError::Unsealed)?;
    if !SealFlag::from_bits_truncate(seals).contains(all_seals()) {
        return Err(MemfdError::Unsealed);
    }
    let file = File::from(fd.try_clone_to_owned()?);
    // Sealed against growing and shrinking: the size stays what it is.
    let len = file.metadata()?.len();
    let too_long = MemfdError::TooLong { len, limit };
    let Ok(size) = usize::try_from(len) else {
        return Err(too_long);
    };
    if size > limit {
        return Err(too_long);
    }
    let mut secret = crate::sys::mem::secret(size)?;
    file.read_exact_at(secret.expose_mut(), 0)?;
    Ok(secret)
}
