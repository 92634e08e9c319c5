//! What a read takes and gives: a pinned version, a range, and bytes that have policy and log behind them.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError};

use super::CallerKey;
use crate::audit::{Identity, LogError, Receipt};
use crate::id::{Label, SecretId};
use crate::policy::{Grant, Refusal};
use crate::secret::SecretBytes;
use crate::sync::Mutex;
use crate::vault::{VaultError, Version, View};

/// Why no byte is given. `vfs` maps it to an errno, the control socket to an exit code.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The policy says no.
    #[error("denied: {}", .0.reason.code())]
    Denied(Refusal),
    /// The policy says no, and the secret is not to be seen.
    #[error("not found")]
    Hidden(Refusal),
    /// There is no such secret, version or label.
    #[error("not found")]
    NotFound,
    /// It was there when the handle was opened, and is deleted or destroyed now.
    #[error("deleted")]
    Revoked,
    /// Tampered, damaged or missing data. Never a value.
    #[error("integrity: {0}")]
    Integrity(String),
    /// The record could not be written, so there is no byte.
    #[error("the log cannot be written: {0}")]
    Log(#[from] LogError),
    /// The store could not be read, or locked memory is used up.
    #[error("{0}")]
    Unavailable(VaultError),
}

/// What a caller is to a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// He may read its current value.
    Reader,
    /// He may see that it is there, its size and its labels.
    Describer,
}

/// A version that an open chose, held by its handle: a reader who keeps a descriptor keeps its version.
pub struct Pin {
    /// Whose.
    pub secret: SecretId,
    /// Which.
    pub version: Arc<Version>,
    /// The labels it had when it was opened.
    pub labels: Arc<[Label]>,
    /// The handle's number in records; 0 for a read without one.
    pub handle: u64,
    pub(super) named: Mutex<Option<CallerKey>>,
}

impl Pin {
    /// The labels that a read is decided by: those that the version has now. A rotation alone takes none from it: whoever
    /// opened the current version goes on reading it as that, and not as the previous one.
    pub(super) fn labels_in(&self, secret: View<'_>) -> Cow<'_, [Label]> {
        let no = self.version.meta.no;
        let current = self.labels.iter().find(|l| l.as_str() == "current");
        let rotated = current.filter(|l| secret.meta.labels.get(l.as_str()) != Some(&no));
        if rotated.is_none() && secret.labels_of(no).eq(self.labels.iter()) {
            return Cow::Borrowed(&self.labels);
        }
        let now = secret.labels_of(no);
        let now = now.filter(|l| rotated.is_none() || l.as_str() != "previous");
        now.chain(rotated).cloned().collect()
    }

    pub(super) fn detail(&self, key: CallerKey) -> Identity {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if *named == Some(key) {
            return Identity::Short;
        }
        *named = Some(key);
        Identity::Full
    }
}

/// Which version an open asks for.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// The one with this label.
    Label(&'a str),
    /// This one, whatever its labels.
    Version(&'a Version),
}

/// Which bytes a read asks for.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The first.
    pub offset: u64,
    /// How many at most.
    pub length: u32,
}

impl Range {
    /// Everything.
    pub const WHOLE: Range = Range {
        offset: 0,
        length: u32::MAX,
    };

    pub(super) fn within(self, size: usize) -> std::ops::Range<usize> {
        let start = usize::try_from(self.offset).map_or(size, |o| o.min(size));
        start..start.saturating_add(self.length as usize).min(size)
    }
}

/// Plaintext that left the policy and the log behind it. Wiped when dropped.
pub struct Bytes {
    plain: SecretBytes,
    range: std::ops::Range<usize>,
}

impl Bytes {
    /// The one way to be handed a value.
    pub(super) fn release(
        _grant: Grant,
        _receipt: Receipt,
        plain: SecretBytes,
        range: std::ops::Range<usize>,
    ) -> Self {
        Bytes { plain, range }
    }

    /// The bytes asked for.
    pub fn expose(&self) -> &[u8] {
        &self.plain.expose()[self.range.clone()]
    }
}
