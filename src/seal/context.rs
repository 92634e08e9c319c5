//! What a value is bound to.

use super::wire::{Aad, Header};
use crate::id::{KeyId, SecretId, SecretName, StoreId, VersionId, VersionNo};

/// The place of a value. A value opens in the place that it was sealed for and in no other: every field is
/// authenticated with it.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The store.
    pub store: StoreId,
    /// The tenant; empty as long as a store has one.
    pub tenant: &'a str,
    /// The secret's name.
    pub name: &'a SecretName,
    /// The secret's number.
    pub secret: SecretId,
    /// The version's id.
    pub version: &'a VersionId,
    /// The version's number.
    pub version_no: VersionNo,
    /// The named key that wraps the version's data key.
    pub key: &'a KeyId,
}

impl Context<'_> {
    /// The authenticated data of something in this place: the header, then what it is (`domain`), then the
    /// fields in their order above, each after its length.
    pub(super) fn aad(&self, domain: &str, header: Header) -> Aad {
        Aad::new(domain, header)
            .field(&self.store.0)
            .field(self.tenant.as_bytes())
            .field(self.name.as_str().as_bytes())
            .field(&self.secret.0.to_be_bytes())
            .field(self.version.as_str().as_bytes())
            .field(&self.version_no.0.to_be_bytes())
            .field(self.key.as_str().as_bytes())
    }

    /// For errors.
    pub(super) fn describe(&self, what: &str) -> String {
        format!("{what} of {} version {}", self.name, self.version)
    }
}
