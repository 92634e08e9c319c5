//! What the caller's system call returns: one match, no wildcard, each with its level of logging.

use crate::access::AccessError;

/// An errno as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// Why a file operation gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum VfsError {
    /// From the path of a read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No such node, name or attribute.
    #[error("no such file")]
    NoEntry,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// Any change through the mount.
    #[error("read-only")]
    ReadOnly,
    /// A directory operation on a file.
    #[error("not a directory")]
    NotDirectory,
    /// A file operation on a directory.
    #[error("is a directory")]
    IsDirectory,
    /// A handle that was not given, or is released.
    #[error("bad handle")]
    BadHandle,
    /// A READ that does not say who reads: it would fill the page cache.
    #[error("page cache refused")]
    PageCache,
    /// io_uring's second look at a value that it has already.
    #[error("io_uring retry")]
    IoUringRetry,
    /// Readlink of something else.
    #[error("invalid")]
    Invalid,
    /// The caller's uid has its share of open handles.
    #[error("too many handles")]
    TooManyHandles,
    /// An extended attribute that does not fit the buffer.
    #[error("buffer too small")]
    Range,
    /// An operation that this file system does not have.
    #[error("not supported")]
    Unsupported,
}

/// How loud the service says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everyday, or a refusal: the log is where those are.
    Debug,
    /// The operator must look.
    Error,
}

impl VfsError {
    /// Whether the policy says no.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            VfsError::Access(AccessError::Denied(_) | AccessError::Hidden(_))
        )
    }

    /// The errno that says what is meant, and how loud to say it.
    pub fn errno(&self) -> (Errno, Level) {
        let (errno, level) = match self {
            VfsError::Access(e) => match e {
                AccessError::Denied(_) => (libc::EACCES, Level::Debug),
                AccessError::Hidden(_) => (libc::ENOENT, Level::Debug),
                AccessError::NotFound => (libc::ENOENT, Level::Debug),
                AccessError::Revoked => (libc::EKEYREVOKED, Level::Debug),
                AccessError::Integrity(_) => (libc::EIO, Level::Error),
                AccessError::Log(_) => (libc::EIO, Level::Error),
                AccessError::Unavailable(_) => (libc::EIO, Level::Error),
            },
            VfsError::NoEntry => (libc::ENOENT, Level::Debug),
            VfsError::NoAttribute => (libc::ENODATA, Level::Debug),
            VfsError::ReadOnly => (libc::EROFS, Level::Debug),
            VfsError::NotDirectory => (libc::ENOTDIR, Level::Debug),
            VfsError::IsDirectory => (libc::EISDIR, Level::Debug),
            VfsError::BadHandle => (libc::EBADF, Level::Error),
            // EINVAL makes programs fall back to read(2); EACCES or EIO would make them give up.
            VfsError::PageCache => (libc::EINVAL, Level::Debug),
            VfsError::IoUringRetry => (libc::EINVAL, Level::Debug),
            VfsError::Invalid => (libc::EINVAL, Level::Debug),
            VfsError::TooManyHandles => (libc::EMFILE, Level::Debug),
            VfsError::Range => (libc::ERANGE, Level::Debug),
            VfsError::Unsupported => (libc::ENOTSUP, Level::Debug),
        };
        (Errno(errno), level)
    }
}
