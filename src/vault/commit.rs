//! Changing: one transaction, then the log, then the readers.

use std::collections::HashMap;

use super::*;
use crate::audit::{Archived, Body};
use crate::clock::Timestamp;
use crate::store::{Batch, Space, StoreError, Table};
use crate::sync::atomic::Ordering;

/// A change being put together under the writer's lock. It sees the state that it will replace, so that what
/// was decided still holds when it is committed.
pub struct Draft<'v> {
    vault: &'v Vault,
    before: Arc<State>,
    epoch: u64,
    next_secret: u64,
    next_version: u64,
    pub(super) layers: Vec<(u64, Option<LayerMeta>)>,
    secrets: Vec<(SecretMeta, ChangeKind)>,
    forgotten: Vec<SecretId>,
    versions: Vec<(VersionMeta, Sealed)>,
    destroyed: Vec<VersionNo>,
    pub(super) settings: Sealing,
    archived: Option<Archived>,
    space: Space,
}

/// What comparing two values says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    /// They are equal.
    Same,
    /// They differ, or it cannot be told.
    Other,
}

/// Which terms a commit gives to the records that it writes.
type Marks = HashMap<(u8, u64), Mark>;

impl Draft<'_> {
    /// What is there before the change.
    pub fn state(&self) -> &State {
        &self.before
    }

    /// What will be there after it, as it is drafted so far.
    ///
    /// # Errors
    /// If a policy does not compile.
    pub fn after(&self) -> Result<State, VaultError> {
        self.vault.next_state(self, &Marks::new()).map(|(state, _)| state)
    }

    /// The change takes away, and gives nobody anything: it may be made on a full disk.
    pub fn takes_away(&mut self) {
        self.space = Space::Reserve;
    }

    /// A number that no secret had before.
    pub fn new_secret(&mut self) -> SecretId {
        self.next_secret += 1;
        SecretId(self.next_secret - 1)
    }

    /// A number that no version had before.
    pub(super) fn new_version(&mut self) -> VersionNo {
        self.next_version += 1;
        VersionNo(self.next_version - 1)
    }

    pub(super) fn store(&self) -> StoreId {
        self.vault.id
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.vault.keyring
    }

    pub(super) fn put_version(&mut self, meta: VersionMeta, sealed: Sealed) {
        self.versions.push((meta, sealed));
    }

    /// Seals `value` as a new version of `secret`.
    ///
    /// # Errors
    /// If there is no randomness or no locked memory.
    pub fn add_version(
        &mut self,
        secret: SecretId,
        name: &SecretName,
        key: &KeyId,
        (id, maker): (VersionId, crate::id::Uid),
        created: crate::clock::Timestamp,
        value: &crate::secret::SecretBytes,
    ) -> Result<VersionNo, VaultError> {
        let no = self.new_version();
        let context = Context {
            store: self.vault.id,
            tenant: "",
            name,
            secret,
            version: &id,
            version_no: no,
            key,
        };
        let digest = Some(self.vault.keyring.digest(&context, value));
        let (wrapped, sealed) = self.vault.keyring.seal_value(&context, value)?;
        let size = u32::try_from(value.len())
            .map_err(|_| VaultError::Integrity("a value longer than 4 GiB".into()))?;
        self.versions.push((
            VersionMeta {
                no,
                id,
                secret,
                name: name.clone(),
                created,
                size,
                digest,
                maker: Some(maker),
                wrapped,
            },
            sealed,
        ));
        Ok(no)
    }

    /// Whether a version has this value, without opening it. One that an older store made has no digest, and the
    /// answer is [`Sameness::Other`].
    pub fn compare(&self, version: &Version, value: &crate::secret::SecretBytes) -> Sameness {
        let digest = self.vault.keyring.digest(&version.context(self.vault.id), value);
        match version.meta.digest.as_ref().map(|known| known.ct_eq(&digest)) {
            Some(true) => Sameness::Same,
            Some(false) | None => Sameness::Other,
        }
    }

    /// Writes a secret's metadata.
    pub fn put_secret(&mut self, meta: SecretMeta, kind: ChangeKind) {
        self.secrets.push((meta, kind));
    }

    /// Removes a secret and its name for good. Its versions must be destroyed in the same change.
    pub fn forget_secret(&mut self, id: SecretId) {
        self.forgotten.push(id);
    }

    /// Says that the log begins behind what was archived. The anchor must be in a segment that is kept.
    pub fn archive(&mut self, archived: Archived) {
        self.archived = Some(archived);
    }

    /// Removes a version's value and its record for good.
    pub fn destroy_version(&mut self, no: VersionNo) {
        self.destroyed.push(no);
    }
}

impl Vault {
    /// Makes one change: `plan` decides and drafts it under the writer's lock, and gives what the caller wants
    /// back and the audit record. When this returns Ok, change and record are durable and readers see it.
    ///
    /// # Errors
    /// What `plan` says; or the log or the store, in which case nothing was changed, with one exception: if the
    /// log fails after the transaction, the change stands and its record follows as soon as the log can be
    /// written ([`Vault::tick`]).
    pub fn change<T, E: From<VaultError>>(
        &self,
        plan: impl FnOnce(&mut Draft<'_>) -> Result<(T, Body), E>,
    ) -> Result<T, E> {
        let mut writer = self.lock();
        self.be_sure(&mut writer)?;
        self.flush(&mut writer)?;
        self.log.healthy().map_err(VaultError::from)?;
        self.upgrade(&mut writer)?;
        let mut draft = Draft {
            vault: self,
            before: self.state(),
            epoch: writer.next_epoch(),
            next_secret: writer.next_secret,
            next_version: writer.next_version,
            layers: Vec::new(),
            secrets: Vec::new(),
            forgotten: Vec::new(),
            versions: Vec::new(),
            destroyed: Vec::new(),
            settings: writer.settings.clone(),
            archived: None,
            space: Space::Free,
        };
        let (answer, body) = plan(&mut draft)?;
        // Before anything is done: a record that the log does not take would stand in the way of all that follow.
        body.fit().map_err(VaultError::from)?;
        let changes = self.commit(&mut writer, draft, body)?;
        let logged = self.flush(&mut writer);
        drop(writer);
        for change in &changes {
            for listener in self.listeners.get().into_iter().flatten() {
                listener(change);
            }
        }
        logged.map_err(|e| VaultError::Unrecorded(Box::new(e)))?;
        Ok(answer)
    }

    /// The first transaction: records, terms, epoch, and the audit record in the outbox; then the new state.
    fn commit(
        &self,
        writer: &mut Writer,
        mut draft: Draft<'_>,
        body: Body,
    ) -> Result<Vec<Change>, VaultError> {
        let known = |meta: &SecretMeta| draft.before.secrets.by_id(meta.id).is_some();
        if let Some((id, _)) = draft.before.lost.secrets.first()
            && !draft.secrets.iter().all(|(meta, _)| known(meta))
        {
            return Err(VaultError::Integrity(format!(
                "the record of secret number {} is broken and its name not known: a new secret could take its name past its policy",
                id.0
            )));
        }
        let mut batch = Batch::within(draft.space);
        let mut sum = writer.sum;
        let mut marks = Marks::new();
        let epoch = draft.epoch;
        let mut put =
            |table: Table, kind: RecordKind, id: u64, json: Option<Vec<u8>>| -> Result<(), VaultError> {
                let key = term_key(kind, id);
                if let Some(old) = self.counted(&draft.before, kind, id)? {
                    sum.sub(&self.keyring.summand(writer.summed, (kind, id), &old));
                }
                let Some(json) = json else {
                    batch.delete(table, id.to_be_bytes().as_slice());
                    batch.delete(Table::Term, key.as_slice());
                    return Ok(());
                };
                let sealed = self.keyring.seal_record(kind, id, &json)?;
                let term = self.keyring.term(kind, id, epoch, &sealed.0);
                sum.add(&self.keyring.summand(writer.summed, (kind, id), &term));
                batch.put(table, id.to_be_bytes().as_slice(), framed(epoch, &sealed.0));
                batch.put(Table::Term, key.as_slice(), term.0.to_vec());
                marks.insert((kind.0, id), Mark::from(&term));
                Ok(())
            };
        for (id, meta) in &draft.layers {
            let json = meta.as_ref().map(serde_json::to_vec).transpose()?;
            put(Table::Layer, LAYER, *id, json)?;
        }
        for (meta, _) in &draft.secrets {
            put(Table::Secret, SECRET, meta.id.0, Some(serde_json::to_vec(meta)?))?;
        }
        for id in &draft.forgotten {
            put(Table::Secret, SECRET, id.0, None)?;
        }
        for (meta, _) in &draft.versions {
            put(
                Table::Version,
                VERSION,
                meta.no.0,
                Some(serde_json::to_vec(meta)?),
            )?;
        }
        for no in &draft.destroyed {
            put(Table::Version, VERSION, no.0, None)?;
        }
        for (meta, sealed) in &draft.versions {
            batch.put(
                Table::Value,
                meta.no.0.to_be_bytes().as_slice(),
                sealed.0.to_vec(),
            );
        }
        for no in &draft.destroyed {
            batch.delete(Table::Value, no.0.to_be_bytes().as_slice());
        }
        let mut outbox = writer.outbox.clone();
        outbox.push(Pending { epoch, body });
        let record = EpochRecord {
            epoch,
            sum: create::hex(&sum.0),
            next_secret: draft.next_secret,
            next_version: draft.next_version,
            anchor: match draft.archived {
                None => writer.anchor.clone(),
                Some(archived) => writer.anchor.behind(archived),
            },
            outbox,
            settings: draft.settings.clone(),
            ..writer.record()
        };
        for (id, meta) in &mut draft.layers {
            if let (Some(meta), Some(mark)) = (meta, marks.get(&(LAYER.0, *id))) {
                meta.mark = *mark;
            }
        }
        let (state, changes) = self.next_state(&draft, &marks)?;
        self.write_epoch(writer, &record, batch)?;
        writer.sum = sum;
        writer.next_secret = record.next_secret;
        writer.next_version = record.next_version;
        if let Some(prepare) = self.preparer.get() {
            changes.iter().for_each(|change| prepare(change, &state));
        }
        self.state.store(Arc::new(state));
        Ok(changes)
    }

    pub(super) fn write_epoch(
        &self,
        writer: &mut Writer,
        record: &EpochRecord,
        mut batch: Batch,
    ) -> Result<(), VaultError> {
        let sealed = lost::seal_epoch(&self.keyring, record)?;
        batch.put(Table::Epoch, b"epoch".as_slice(), sealed.0.to_vec());
        writer.revision = match self.store.commit(writer.revision, &batch) {
            // Which was refused before anything was done.
            Err(e @ StoreError::TooLarge { .. }) => return Err(e.into()),
            // Whatever else it says: `fdatasync` can fail for want of space, with everything written.
            Err(e) => {
                writer.doubt = Some(Box::new(record.clone()));
                return Err(e.into());
            }
            Ok(revision) => revision,
        };
        writer.epoch = record.epoch;
        writer.anchor = record.anchor.clone();
        self.log.begin_behind(&writer.anchor);
        writer.outbox = record.outbox.clone();
        writer.settings = record.settings.clone();
        Ok(())
    }

    /// Brings the outbox into the log, syncs it, and anchors it in the store. Nothing to do if it is empty.
    fn flush(&self, writer: &mut Writer) -> Result<(), VaultError> {
        if writer.outbox.is_empty() {
            return Ok(());
        }
        for pending in &writer.outbox {
            // After a crash, or a failure half way, the record may be there already.
            let body = pending.body.writable();
            if !self.log.contains_since(&writer.anchor, body.event_id())? {
                let _receipt = self.log.append_body(&body, Some(Epoch(pending.epoch)))?;
            }
        }
        self.anchor(writer)
    }

    fn anchor(&self, writer: &mut Writer) -> Result<(), VaultError> {
        let anchor = self.log.sync()?;
        let record = EpochRecord {
            anchor,
            outbox: Vec::new(),
            ..writer.next_record()
        };
        self.write_epoch(writer, &record, Batch::within(Space::Reserve))?;
        self.log.anchored(&record.anchor);
        Ok(())
    }

    /// At start: what a crash left in the outbox goes into the log.
    pub(super) fn settle(&self) -> Result<(), VaultError> {
        let mut writer = self.lock();
        self.flush(&mut writer)?;
        // On a full disk the store is read in its old format; the first change tries again.
        if let Err(e) = self.upgrade(&mut writer) {
            tracing::warn!("the store keeps its old format for now: {e}");
        }
        Ok(())
    }

    /// To be called at least four times a second: closes the log's flood windows, lets it recover, and anchors
    /// what was appended since the last anchor.
    ///
    /// # Errors
    /// If the log or the store cannot be written; the next call tries again.
    pub fn tick(&self) -> Result<(), VaultError> {
        self.log.tick();
        let ticked = self.catch_up();
        self.failing.store(ticked.is_err(), Ordering::Relaxed);
        ticked
    }

    /// Whether the last [`Vault::tick`] failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    fn catch_up(&self) -> Result<(), VaultError> {
        let mut writer = self.lock();
        self.be_sure(&mut writer)?;
        self.flush(&mut writer)?;
        if self.log.is_beyond(&writer.anchor) {
            self.anchor(&mut writer)?;
        }
        Ok(())
    }

    fn next_state(&self, draft: &Draft<'_>, marks: &Marks) -> Result<(State, Vec<Change>), VaultError> {
        let mark = |kind: RecordKind, id| marks.get(&(kind.0, id)).copied().unwrap_or_default();
        let before = &draft.before;
        let mut secrets = before.secrets.clone();
        let mut versions = before.versions.clone();
        let (mut reach, now) = (before.reach.clone(), Timestamp::now());
        let mut changes = Vec::new();
        for (meta, kind) in &draft.secrets {
            let old = before.secrets.by_id(meta.id);
            let mut own = old.map(|s| s.versions.clone()).unwrap_or_default();
            for (v, sealed) in draft.versions.iter().filter(|(v, _)| v.secret == meta.id) {
                let version = Version::new(before.common.with_version(v.clone()), mark(VERSION, v.no.0));
                if version.meta.size <= INLINE {
                    let _ = version.inline.set(sealed.clone());
                }
                own.insert(v.no, Arc::new(version));
                versions.insert(v.no, meta.id);
            }
            for no in &draft.destroyed {
                let _ = own.remove(no);
            }
            // What lost its last label is hardly read any more: its value and key are not kept at hand.
            let labelled = |no: &VersionNo| meta.labels.values().any(|n| n == no);
            for no in old
                .iter()
                .flat_map(|s| s.meta.labels.values())
                .filter(|no| !labelled(no))
            {
                if let Some(version) = own.get(no).map(|v| Arc::new(v.bare())) {
                    own.insert(*no, version);
                }
            }
            let policy = match (&meta.policy, old) {
                (None, _) => None,
                (Some(record), Some(old))
                    if old.meta.policy.as_ref() == Some(record)
                        && old.meta.arn == meta.arn
                        && old.policy.is_some() =>
                {
                    old.policy.clone()
                }
                (Some(record), _) => Some(
                    record
                        .compile(&meta.name, meta.arn.as_deref())
                        .map_err(|e| VaultError::Policy(meta.name.clone(), e))?,
                ),
            };
            let secret = Secret::new(
                before.common.with_secret(meta.clone()),
                mark(SECRET, meta.id.0),
                policy,
                own,
                None,
                &before.common,
            );
            let secret = Arc::new(secret);
            let after = secrets.with(secret.clone());
            let old = secrets.by_id(meta.id).map(|s| &**s);
            reach.changed((&secrets, old), (&after, Some(&secret)), now);
            secrets = after;
            changes.push(Change {
                id: meta.id,
                name: meta.name.clone(),
                kind: *kind,
            });
        }
        for no in &draft.destroyed {
            versions.remove(no);
        }
        for id in &draft.forgotten {
            if let Some(old) = before.secrets.by_id(*id) {
                changes.push(Change {
                    id: *id,
                    name: old.meta.name.clone(),
                    kind: ChangeKind::Deleted,
                });
            }
            let after = secrets.without(*id);
            let old = secrets.by_id(*id).map(|s| &**s);
            reach.changed((&secrets, old), (&after, None), now);
            secrets = after;
        }
        Ok((
            State {
                secrets,
                reach,
                versions,
                layers: match &*draft.layers {
                    [] => before.layers.clone(),
                    changes => Arc::new(before.layers.with(changes)?),
                },
                lost: before.lost.clone(),
                common: before.common.clone(),
                administration: match draft.settings == before.settings {
                    true => before.administration,
                    false => in_force(&self.administration, &draft.settings),
                },
                settings: draft.settings.clone(),
                epoch: Epoch(draft.epoch),
            },
            changes,
        ))
    }
}
