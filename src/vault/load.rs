//! Opening: nothing is believed before its term, its seal and the log's anchor say the same.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::create::key_number;
use super::writer::Mark;
use super::*;
use crate::audit::Unrecorded;
use crate::clock::Timestamp;
use crate::seal::{RootKey, Slot, SlotKind, Term};
use crate::secret::SecretBytes;
use crate::store::embedded::Embedded;
use crate::store::header::{self, Header};
use crate::sys::files;

impl Vault {
    /// Opens the store in `dir` for this process alone.
    ///
    /// # Errors
    /// If another process owns it, the key file is unsafe or not this store's, the store or its log are not
    /// what they were, or one of them is of a format that is too new. Single broken records are no error:
    /// their secrets answer with an integrity error, and the others are served.
    pub fn open(dir: &Path, settings: &Settings) -> Result<Vault, VaultError> {
        Self::open_with(Box::new(Embedded::open(dir)?), dir, settings)
    }

    /// Opens the store in `dir`, on a disk that cannot be written, for questions and reads alone. What a crash left
    /// unfinished stays so.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub fn look(dir: &Path, settings: &Settings, unrecorded: Unrecorded) -> Result<Vault, VaultError> {
        let store = Box::new(Embedded::look(dir)?);
        let log = |id, key, anchor: &Anchor| {
            Log::look(
                &dir.join("audit"),
                id,
                key,
                settings.log.clone(),
                anchor,
                unrecorded,
            )
        };
        Self::over(store, dir, settings, log)
    }

    /// As [`Vault::open`], over a given backend.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub fn open_with(store: Box<dyn Store>, dir: &Path, settings: &Settings) -> Result<Vault, VaultError> {
        let log =
            |id, key, anchor: &Anchor| Log::open(&dir.join("audit"), id, key, settings.log.clone(), anchor);
        let vault = Self::over(store, dir, settings, log)?;
        vault.settle()?;
        Ok(vault)
    }

    fn over(
        store: Box<dyn Store>,
        dir: &Path,
        settings: &Settings,
        log: impl FnOnce(StoreId, SecretBytes, &Anchor) -> Result<Log, LogError>,
    ) -> Result<Vault, VaultError> {
        let header = store
            .get(Table::Header, header::KEY)?
            .ok_or(VaultError::Unfinished)?;
        let id = Header::decode(&header)?.id;
        let mut keyring = Keyring::new(id, open_root(&*store, id, settings)?)?;
        load_named_keys(&*store, &mut keyring)?;

        let (epoch, state) = believed(&*store, &keyring, &settings.administration)?;

        let key = keyring.derive(crate::seal::Purpose::Audit)?;
        let log = log(id, key, &epoch.anchor)?;
        if log.last_epoch() > epoch.epoch {
            return Err(VaultError::RolledBack(format!(
                "the store is older than its log: the log knows change {}, the store ends at {}",
                log.last_epoch(),
                epoch.epoch
            )));
        }

        Ok(Vault {
            dir: dir.to_path_buf(),
            id,
            administration: settings.administration,
            state: Swap::from_pointee(state),
            writer: Mutex::new(Writer::at(store.revision()?, epoch)?),
            listeners: OnceLock::new(),
            preparer: OnceLock::new(),
            failing: AtomicBool::new(false),
            store,
            keyring,
            log,
        })
    }
}

/// What the store holds, as far as it can be believed: every record against its term, the terms against the sum.
pub(super) fn believed(
    store: &dyn Store,
    keyring: &Keyring,
    given: &Administration,
) -> Result<(EpochRecord, State), VaultError> {
    let epoch = epoch_record(store, keyring)?;
    let common = Arc::new(Common::default());
    let records = Records::read(store, keyring, (epoch.summed, &common))?;
    records.check_sum(&epoch)?;
    super::upgrade::sound(&records, epoch.summed)?;
    let layers = Arc::new(LayerSet::new(records.layers()?)?);
    let (secrets, versions, lost) = records.assemble(&common);
    let state = State {
        reach: Reach::of(&secrets),
        secrets,
        versions,
        layers,
        lost: Arc::new(lost),
        common,
        administration: in_force(given, &epoch.settings),
        settings: epoch.settings.clone(),
        epoch: Epoch(epoch.epoch),
    };
    Ok((epoch, state))
}

pub(super) fn epoch_record(store: &dyn Store, keyring: &Keyring) -> Result<EpochRecord, VaultError> {
    let sealed = store
        .get(Table::Epoch, b"epoch")?
        .ok_or_else(|| VaultError::Integrity("the store's epoch record is missing".into()))?;
    Ok(serde_json::from_slice(&keyring.open_record(EPOCH, 0, &sealed)?)?)
}

/// The slots of the root key.
pub(super) fn slots(store: &dyn Store) -> Result<Vec<Slot>, VaultError> {
    let mut slots = Vec::new();
    store.list(Table::Slot, &mut |_, bytes| {
        slots.push(Slot::decode(bytes));
        ControlFlow::Continue(())
    })?;
    Ok(slots.into_iter().collect::<Result<_, _>>()?)
}

pub(super) fn open_root(store: &dyn Store, id: StoreId, settings: &Settings) -> Result<RootKey, VaultError> {
    let secret = files::read_key_file(&settings.key_file)?;
    Ok(crate::seal::open_any(
        &slots(store)?,
        SlotKind::KeyFile,
        &secret,
        id,
    )?)
}

pub(super) fn load_named_keys(store: &dyn Store, keyring: &mut Keyring) -> Result<(), VaultError> {
    let mut failure = None;
    store.list(Table::Key, &mut |name, record| {
        let added = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse::<KeyId>().ok())
            .ok_or_else(|| VaultError::Integrity("a named key has a name that cannot be".into()))
            .and_then(|id| Ok(keyring.add_key(id, unframed(record)?.1)?));
        match added {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                failure = Some(e);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(()), Err)
}

pub(super) fn decode_sum(text: &str) -> Result<TermSum, VaultError> {
    data_encoding::HEXLOWER
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| Some(TermSum(bytes.try_into().ok()?)))
        .ok_or_else(|| VaultError::Integrity("the epoch record's sum is not one".into()))
}

/// One record of a kind: what it says, or why it cannot be believed.
struct Loaded<T> {
    mark: Mark,
    content: Result<T, String>,
}

/// A record, opened.
enum Opened {
    Secret(u64, Box<Loaded<SecretMeta>>),
    Version(u64, Box<Loaded<VersionMeta>>),
    Layer(u64, Box<Loaded<LayerMeta>>),
    Other,
}

impl Opened {
    /// Holds a record against its term, and opens it.
    fn read(kind: RecordKind, id: u64, record: &[u8], term: &Term, keyring: &Keyring) -> Opened {
        let opened = match unframed(record) {
            Err(_) => Err("its record is cut short".to_string()),
            Ok((revision, sealed)) if term.ct_eq(&keyring.term(kind, id, revision, sealed)) => {
                keyring.open_record(kind, id, sealed).map_err(|e| e.to_string())
            }
            Ok(_) => Err("its record is not the one that was written last".to_string()),
        };
        Opened::parse(kind, id, term.into(), opened)
    }

    fn parse(kind: RecordKind, id: u64, mark: Mark, opened: Result<Vec<u8>, String>) -> Opened {
        fn loaded<T: serde::de::DeserializeOwned>(
            mark: Mark,
            opened: Result<Vec<u8>, String>,
        ) -> Box<Loaded<T>> {
            let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
            let content =
                opened.and_then(|b| parse(b).map_err(|e| format!("its record is not readable: {e}")));
            Box::new(Loaded { mark, content })
        }
        match kind {
            SECRET => Opened::Secret(id, loaded(mark, opened)),
            VERSION => Opened::Version(id, loaded(mark, opened)),
            LAYER => Opened::Layer(id, loaded(mark, opened)),
            _ => Opened::Other,
        }
    }
}

impl Opened {
    /// The same, in common with the others in whatever equals theirs: at once, since what is given back between things
    /// that stay is no use to the next.
    fn sharing(self, common: &Common, secrets: &[(u64, Loaded<SecretMeta>)]) -> Opened {
        match self {
            Opened::Secret(id, mut secret) => {
                secret.content = secret.content.map(|meta| common.with_secret(meta));
                Opened::Secret(id, secret)
            }
            Opened::Version(id, mut version) => {
                version.content = version.content.map(|meta| {
                    let mut meta = common.with_version(meta);
                    let of = secrets.binary_search_by_key(&meta.secret.0, |(id, _)| *id);
                    let of = of.ok().and_then(|at| secrets[at].1.content.as_ref().ok());
                    if let Some(secret) = of.filter(|secret| secret.name == meta.name) {
                        meta.name = secret.name.clone();
                    }
                    meta
                });
                Opened::Version(id, version)
            }
            other => other,
        }
    }
}

/// Records that are opened together: enough for every CPU, and few enough that what is needed meanwhile is small.
const AT_ONCE: usize = 4096;

/// Every sealed metadata record, opened and held against its term.
pub(super) struct Records {
    secrets: Vec<(u64, Loaded<SecretMeta>)>,
    versions: Vec<(u64, Loaded<VersionMeta>)>,
    layers: Vec<(u64, Loaded<LayerMeta>)>,
    /// The sum of the terms.
    sum: TermSum,
}

impl Records {
    fn read(
        store: &dyn Store,
        keyring: &Keyring,
        (summing, common): (Summing, &Common),
    ) -> Result<Records, VaultError> {
        let mut terms: HashMap<(u8, u64), Term> = HashMap::new();
        let mut summed = Vec::new();
        let mut malformed = false;
        store.list(Table::Term, &mut |key, bytes| {
            match (key.split_first(), <[u8; 32]>::try_from(bytes)) {
                (Some((kind, id)), Ok(term)) if id.len() == 8 => {
                    let id = u64::from_be_bytes(id.try_into().unwrap_or_default());
                    malformed |= ![SECRET.0, VERSION.0, KEY.0, LAYER.0].contains(kind);
                    summed.push(((RecordKind(*kind), id), Term(term)));
                    terms.insert((*kind, id), Term(term));
                }
                _ => malformed = true,
            }
            ControlFlow::Continue(())
        })?;
        if malformed {
            return Err(VaultError::Integrity("the table of terms is damaged".into()));
        }
        let mut stored = TermSum::default();
        for summand in workers::map(summed, |(place, term)| keyring.summand(summing, place, &term)) {
            stored.add(&summand);
        }
        let mut records = Records {
            secrets: Vec::new(),
            versions: Vec::new(),
            layers: Vec::new(),
            sum: stored,
        };
        // Without its named keys nothing can be served: one that is not the one that was written last, or that
        // is missing, refuses the store.
        let mut foreign = None;
        store.list(Table::Key, &mut |name, record| {
            let key = std::str::from_utf8(name)
                .ok()
                .and_then(|n| n.parse::<KeyId>().ok());
            let term = key.as_ref().and_then(|k| terms.remove(&(KEY.0, key_number(k))));
            let computed = match (&key, unframed(record)) {
                (Some(key), Ok((revision, sealed))) => {
                    Some(keyring.term(KEY, key_number(key), revision, sealed))
                }
                _ => None,
            };
            if !matches!((term, computed), (Some(t), Some(c)) if t.ct_eq(&c)) {
                foreign = Some(crate::id::printable(&String::from_utf8_lossy(name)).to_string());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(name) = foreign {
            return Err(VaultError::Integrity(format!(
                "the record of the named key {name} is not the one that was written last"
            )));
        }
        if terms.keys().any(|(kind, _)| *kind == KEY.0) {
            return Err(VaultError::Integrity(
                "the record of a named key is missing".into(),
            ));
        }
        let mut raw = Vec::new();
        for (table, kind) in [
            (Table::Secret, SECRET),
            (Table::Version, VERSION),
            (Table::Layer, LAYER),
        ] {
            store.list(table, &mut |key, record| {
                if let Ok(id) = <[u8; 8]>::try_from(key).map(u64::from_be_bytes) {
                    // A record that was deleted and put back has no term: it is not there.
                    match terms.remove(&(kind.0, id)) {
                        Some(term) => raw.push((kind, id, record.to_vec(), term)),
                        None => tracing::warn!(kind = kind.0, id, "a record without a term was ignored"),
                    }
                }
                if raw.len() == AT_ONCE {
                    records.open(std::mem::take(&mut raw), keyring, common);
                }
                ControlFlow::Continue(())
            })?;
        }
        records.open(raw, keyring, common);
        // A term whose record is gone: the record is broken, and stays named.
        for ((kind, id), term) in terms {
            let why = Err("its record is missing".to_string());
            records.insert(Opened::parse(RecordKind(kind), id, (&term).into(), why));
        }
        Ok(records)
    }

    fn open(&mut self, raw: Vec<(RecordKind, u64, Vec<u8>, Term)>, keyring: &Keyring, common: &Common) {
        let secrets = &self.secrets;
        for opened in workers::map(raw, |(kind, id, record, term)| {
            Opened::read(kind, id, &record, &term, keyring).sharing(common, secrets)
        }) {
            self.insert(opened);
        }
    }

    fn insert(&mut self, opened: Opened) {
        match opened {
            Opened::Secret(id, secret) => self.secrets.push((id, *secret)),
            Opened::Version(id, version) => self.versions.push((id, *version)),
            Opened::Layer(id, layer) => self.layers.push((id, *layer)),
            // No term of such a kind is summed up.
            Opened::Other => {}
        }
    }

    /// Why one of them cannot be believed, if that is so.
    pub(super) fn broken(&self) -> Option<&str> {
        let secrets = self.secrets.iter().map(|(_, s)| s.content.as_ref().err());
        let versions = self.versions.iter().map(|(_, v)| v.content.as_ref().err());
        let layers = self.layers.iter().map(|(_, l)| l.content.as_ref().err());
        let mut all = secrets.chain(versions).chain(layers).flatten();
        all.next().map(String::as_str)
    }

    /// Guardrails and identity policies. One that cannot be believed refuses the store: it could be the one that
    /// denies.
    fn layers(&self) -> Result<std::collections::BTreeMap<u64, Arc<LayerMeta>>, VaultError> {
        let mut all = std::collections::BTreeMap::new();
        for (id, loaded) in &self.layers {
            let mut meta = loaded.content.clone().map_err(|why| {
                VaultError::Integrity(format!(
                    "guardrail or identity policy number {id} cannot be believed: {why}"
                ))
            })?;
            meta.mark = loaded.mark;
            all.insert(*id, Arc::new(meta));
        }
        Ok(all)
    }

    /// One old record put back with its old term changes the sum; a record put back without it does not match
    /// its term. Which one was exchanged a sum cannot tell, so nothing is served.
    fn check_sum(&self, epoch: &EpochRecord) -> Result<(), VaultError> {
        let sum = decode_sum(&epoch.sum)?;
        if self.sum.ct_eq(&sum) {
            return Ok(());
        }
        Err(VaultError::Integrity(
            "the records are not those of the last commit: at least one was exchanged for an older one, or its term was damaged".into(),
        ))
    }

    fn assemble(self, common: &Common) -> (Snapshot<Secret>, imbl::OrdMap<VersionNo, SecretId>, Lost) {
        let mut lost = Lost::default();
        let mut versions = Vec::with_capacity(self.versions.len());
        for (no, loaded) in self.versions {
            match loaded.content {
                Ok(meta) => versions.push((meta, loaded.mark)),
                Err(why) => lost.versions.push((VersionNo(no), why)),
            }
        }
        versions.sort_unstable_by_key(|(meta, _)| (meta.secret, meta.no));
        let owner = versions.iter().map(|(meta, _)| (meta.no, meta.secret)).collect();
        let mut secrets = self.secrets;
        secrets.sort_unstable_by_key(|(id, _)| *id);
        let mut versions = versions.into_iter().peekable();
        let mut secrets = secrets.into_iter().map(|(id, loaded)| {
            while versions.next_if(|(meta, _)| meta.secret.0 < id).is_some() {}
            let own = std::iter::from_fn(|| versions.next_if(|(meta, _)| meta.secret.0 == id));
            (id, loaded, own.collect())
        });
        let mut snapshot = Snapshot::empty();
        loop {
            let some: Vec<_> = secrets.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            for secret in workers::map(some, |(id, loaded, own)| assembled(id, loaded, own, common)) {
                match secret {
                    Ok(secret) => snapshot.insert(secret),
                    Err((id, why)) => {
                        let id = id.0;
                        tracing::error!(id, "a secret's record is broken and its name is not known: {why}");
                        lost.secrets.push((SecretId(id), why));
                    }
                }
            }
        }
        lost.secrets.sort();
        lost.versions.sort();
        (snapshot, owner, lost)
    }
}

/// A secret from its records; or that it is broken, if not even its name is known.
fn assembled(
    id: u64,
    loaded: Loaded<SecretMeta>,
    versions: Vec<(VersionMeta, Mark)>,
    common: &Common,
) -> Result<Arc<Secret>, (SecretId, String)> {
    let name = versions.first().map(|(version, _)| version.name.clone());
    let (meta, broken) = match (loaded.content, name) {
        (Ok(meta), _) => (meta, None),
        (Err(why), Some(name)) => (nameless(SecretId(id), name), Some(why)),
        (Err(why), None) => return Err((SecretId(id), why)),
    };
    let versions = versions.into_iter().map(|(mut version, mark)| {
        // Equal names are one in memory.
        if version.name == meta.name {
            version.name = meta.name.clone();
        }
        (version.no, Arc::new(Version::new(version, mark)))
    });
    let versions = versions.collect();
    let (policy, broken) = match (&meta.policy, broken) {
        (Some(record), None) => match record.compile(&meta.name, meta.arn.as_deref()) {
            Ok(compiled) => (Some(compiled), None),
            Err(e) => (None, Some(format!("its policy does not compile: {e}"))),
        },
        (_, broken) => (None, broken),
    };
    let (mark, broken) = (loaded.mark, broken.map(Into::into));
    Ok(Arc::new(Secret::new(
        meta, mark, policy, versions, broken, common,
    )))
}

/// The little that is known of a secret whose record is broken: enough to answer with an integrity error. Whether it
/// was hidden is not known, so it is.
fn nameless(id: SecretId, name: SecretName) -> SecretMeta {
    SecretMeta {
        id,
        name,
        description: None,
        arn: None,
        created: Timestamp(0),
        again: None,
        value_changed: Timestamp(0),
        meta_changed: Timestamp(0),
        maker: crate::id::ROOT,
        appearance: Appearance::default(),
        visibility: Visibility::Hidden,
        policy: None,
        key: default_key(),
        tags: Default::default(),
        labels: Default::default(),
        life: Life::Active,
    }
}
