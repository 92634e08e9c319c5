//! One secret out of a backup: its versions are sealed anew, under numbers and keys that nothing had before.

use std::sync::Arc;

use super::backup::believable;
use super::*;
use crate::clock::Timestamp;
use crate::secret::Sealed;

/// A secret as a backup of this store has it.
pub struct Kept {
    /// Its metadata, its policy among it.
    pub meta: SecretMeta,
    /// Its versions, oldest first.
    pub versions: Vec<KeptVersion>,
    /// When the backup was made.
    pub made: Timestamp,
}

/// A version of it, sealed.
pub struct KeptVersion {
    version: Arc<Version>,
    sealed: Sealed,
}

impl KeptVersion {
    /// Its metadata.
    pub fn meta(&self) -> &VersionMeta {
        &self.version.meta
    }
}

/// Why a backup does not give a secret.
#[derive(Debug)]
pub enum NotKept {
    /// It is none of this store, or is damaged.
    Backup(VaultError),
    /// It has no such secret.
    Missing,
    /// The secret, or a version of it, is broken there.
    Broken(String),
}

impl<E: Into<VaultError>> From<E> for NotKept {
    fn from(e: E) -> Self {
        NotKept::Backup(e.into())
    }
}

impl Vault {
    /// A secret with values out of a backup of this store, whose key opens it. Nothing is unsealed.
    ///
    /// # Errors
    /// Why there is none.
    pub fn kept_in(&self, file: &[u8], name: &SecretName) -> Result<Kept, NotKept> {
        let (made, store, state) = believable(file, &self.keyring, &self.administration)?;
        let secret = state.secrets.by_name(name.as_str()).ok_or(NotKept::Missing)?;
        if let Some(why) = &secret.broken {
            return Err(NotKept::Broken(why.to_string()));
        }
        if !secret.is_active() {
            return Err(NotKept::Missing);
        }
        let labelled = secret.meta.labels.values();
        if let Some(no) = labelled.into_iter().find(|no| !secret.versions.contains_key(no)) {
            return Err(NotKept::Broken(format!("its version number {} is missing", no.0)));
        }
        let versions = secret.versions.values().map(|version| {
            let bytes = store.get(Table::Value, &version.meta.no.0.to_be_bytes())?;
            let missing = || NotKept::Broken(format!("the value of version {} is missing", version.meta.id));
            Ok(KeptVersion {
                version: version.clone(),
                sealed: Sealed(bytes.ok_or_else(missing)?.into()),
            })
        });
        Ok(Kept {
            versions: versions.collect::<Result<_, NotKept>>()?,
            meta: secret.meta.clone(),
            made,
        })
    }
}

impl Draft<'_> {
    /// Seals a version of a backup anew as one of `secret`, with this id.
    ///
    /// # Errors
    /// If it is not what was sealed, or there is no randomness or no locked memory.
    pub fn bring(
        &mut self,
        kept: &KeptVersion,
        (secret, name, key): (SecretId, &SecretName, &KeyId),
        id: VersionId,
    ) -> Result<VersionNo, VaultError> {
        let no = self.new_version();
        let store = self.store();
        let context = Context {
            store,
            tenant: "",
            name,
            secret,
            version: &id,
            version_no: no,
            key,
        };
        let from = (&kept.version.context(store), &kept.meta().wrapped, &kept.sealed);
        let (wrapped, sealed, digest) = self.keyring().reseal(from, &context)?;
        let meta = VersionMeta {
            no,
            id,
            secret,
            name: name.clone(),
            created: kept.meta().created,
            size: kept.meta().size,
            digest: Some(digest),
            maker: kept.meta().maker,
            wrapped,
        };
        self.put_version(meta, sealed);
        Ok(no)
    }
}
