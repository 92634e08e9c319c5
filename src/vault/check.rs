//! `store check`: every record and every value, held against its seal.

use super::*;

/// Something that is not as it was written.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Finding {
    /// Whose, where that is known.
    pub name: Option<SecretName>,
    /// What is wrong.
    pub what: String,
}

/// What a check saw.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Findings {
    /// Secrets looked at.
    pub secrets: u64,
    /// Versions looked at.
    pub versions: u64,
    /// Values whose seal was opened.
    pub values: u64,
    /// What is wrong.
    pub problems: Vec<Finding>,
}

impl Vault {
    /// Opens the seal of every value and compares what belongs together. Plaintext is looked at by nobody.
    ///
    /// # Errors
    /// If the backend fails; what is found broken is in the answer.
    pub fn check(&self, progress: &mut dyn FnMut(u64)) -> Result<Findings, VaultError> {
        let mut findings = Findings::default();
        let state = self.state();
        for secret in state.secrets.iter() {
            findings.secrets += 1;
            progress(findings.secrets);
            let mut found = |what: String| {
                findings.problems.push(Finding {
                    name: Some(secret.meta.name.clone()),
                    what,
                })
            };
            if let Some(why) = &secret.broken {
                found(why.to_string());
            }
            for (label, no) in &secret.meta.labels {
                if !secret.versions.contains_key(no) {
                    found(format!("the version labelled {label} is missing or broken"));
                }
            }
            for version in secret.versions.values() {
                findings.versions += 1;
                let verified = self.data_key(version).and_then(|key| {
                    let sealed = self.sealed_value(version)?;
                    Ok(key.verify_value(&version.context(self.id), &version.meta.wrapped, &sealed.0)?)
                });
                match verified {
                    Ok(()) => findings.values += 1,
                    Err(e) => findings.problems.push(Finding {
                        name: Some(secret.meta.name.clone()),
                        what: format!("version {}: {e}", version.meta.id),
                    }),
                }
            }
        }
        let named: Vec<VersionNo> = (state.secrets.iter())
            .flat_map(|s| s.meta.labels.values().copied().collect::<Vec<_>>())
            .collect();
        let nameless = state.lost.secrets.iter().map(|(id, why)| ("secret", id.0, why));
        let versions = (state.lost.versions.iter()).filter(|(no, _)| !named.contains(no));
        let versions = versions.map(|(no, why)| ("version", no.0, why));
        for (what, number, why) in nameless.chain(versions) {
            findings.problems.push(Finding {
                name: None,
                what: format!("{what} number {number}, whose name is not known: {why}"),
            });
        }
        Ok(findings)
    }
}
