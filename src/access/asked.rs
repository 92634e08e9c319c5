//! What of a secret is asked for.

use std::collections::BTreeMap;

use crate::id::{Label, VersionId};
use crate::policy::NO_TAGS;
use crate::vault::Version;

/// The parts of a request that a policy may look at, beside the secret itself.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The version, if one is meant.
    pub version: Option<&'a VersionId>,
    /// Its labels.
    pub labels: &'a [Label],
    /// The tags that are to be set.
    pub tags: &'a BTreeMap<String, String>,
    /// The keys of the tags that are to be removed.
    pub untag: &'a [String],
}

impl<'a> Asked<'a> {
    /// The secret as a whole.
    pub fn secret() -> Self {
        Asked {
            version: None,
            labels: &[],
            tags: &NO_TAGS,
            untag: &[],
        }
    }

    /// One version, with the labels that it has, or had when it was opened.
    pub fn version(version: &'a Version, labels: &'a [Label]) -> Self {
        Asked {
            version: Some(&version.meta.id),
            labels,
            ..Self::secret()
        }
    }

    /// A change of tags.
    pub fn tags(set: &'a BTreeMap<String, String>, remove: &'a [String]) -> Self {
        Asked {
            tags: set,
            untag: remove,
            ..Self::secret()
        }
    }

    /// A label that is to be moved to a version, or taken from it.
    pub fn label(version: &'a VersionId, label: &'a Label) -> Self {
        Asked {
            version: Some(version),
            labels: std::slice::from_ref(label),
            ..Self::secret()
        }
    }
}
