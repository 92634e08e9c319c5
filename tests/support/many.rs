//! A store with many secrets, made in this process by few commits.

use wardfs::audit::{Event, Outcome, Record};
use wardfs::clock::Timestamp;
use wardfs::config::Config;
use wardfs::daemon;
use wardfs::id::{Label, ROOT, SecretName, VersionId};
use wardfs::vault::{ChangeKind, VaultError};

use super::product::{A, Product};

/// Secrets in a directory.
const DIRECTORY: usize = 100;

/// The name of the secret with this number.
pub fn name(i: usize) -> String {
    format!("team{:04}/service/secret{i:06}", i / DIRECTORY)
}

/// A store with this many secrets of [`A`].
pub fn filled(count: usize) -> Product {
    let product = Product::new();
    product.put(&name(0), "value 0", &["--allow", &format!("uid:{A}")]);
    let config = Config::load(&product.store()).unwrap();
    let (_desk, access) = daemon::desk(&product.store(), &config).unwrap();
    let vault = access.vault();
    let model = vault.state().secrets.by_name(&name(0)).unwrap().meta.clone();
    let numbers: Vec<usize> = (1..count).collect();
    for some in numbers.chunks(200) {
        let made = vault.change(|draft| -> Result<_, VaultError> {
            let now = Timestamp::now();
            for i in some {
                let name: SecretName = name(*i).parse().unwrap();
                let id = draft.new_secret();
                let text = format!("value {i}");
                let mut value = wardfs::sys::mem::secret(text.len()).unwrap();
                value.expose_mut().copy_from_slice(text.as_bytes());
                let no =
                    draft.add_version(id, &name, &model.key, (VersionId::random(), ROOT), now, &value)?;
                let mut meta = model.clone();
                meta.id = id;
                meta.name = name;
                meta.labels = [(Label::current(), no)].into_iter().collect();
                draft.put_secret(meta, ChangeKind::Created);
            }
            let record = Record {
                event: Event::CreateSecret,
                outcome: Outcome::Allowed,
                ..Record::default()
            };
            Ok(((), record.body()))
        });
        made.unwrap();
    }
    product
}
