//! One request, one answer, whoever brings it.

use serde_json::{Value, json};

use crate::access::Caller;
use crate::audit::{Event, Identity, Outcome, Record, VerifyError};
use crate::id::ROOT;
use crate::lifecycle::{Care, Lifecycle, PolicyEdit};
use crate::problem::{Exit, Problem};
use crate::report::Report;
use crate::sys::dir::Dir;
use crate::vault::{LostLog, Trial, Vault, VaultError};

use super::health;
use super::protocol::{Enclosed, LayerChange, Request};

/// What only a serving process can tell or do.
pub trait Service: Send + Sync {
    /// For `status`: pid, mount, counters, and what is ill of the mount itself (`reasons`).
    fn status(&self) -> Value;
    /// Begins the end of service, asked for by whom these words name.
    ///
    /// # Errors
    /// If nothing is served.
    fn stop(&self, by: &str) -> Result<Value, Problem>;
}

/// For a command that opened the store itself.
pub struct StoppedService {
    /// The directory in which a daemon notes where it has mounted, if there is one.
    pub run: Option<Dir>,
}

impl Service for StoppedService {
    fn status(&self) -> Value {
        health::unserved(self.run.as_ref())
    }
    fn stop(&self, _by: &str) -> Result<Value, Problem> {
        Err(
            Problem::new(Exit::NotFound, "cannot unmount", "no daemon serves this store")
                .next("see what is mounted: wardfs status"),
        )
    }
}

/// Answers requests.
pub struct Desk {
    /// Changes.
    pub lifecycle: Lifecycle,
    /// Questions.
    pub report: Report,
    /// The serving process.
    pub service: Box<dyn Service>,
    /// The store.
    pub vault: std::sync::Arc<Vault>,
}

impl Desk {
    /// Which store is served: its id, and its directory.
    fn whose(&self) -> Value {
        let home = self.vault.home().and_then(|home| home.inode().ok());
        json!({
            "store": self.vault.id().to_string(),
            "device": home.map(|home| home.device),
            "inode": home.map(|home| home.number),
        })
    }

    /// Answers one request of `caller`; `told` hears how many pieces of a long task are done.
    ///
    /// # Errors
    /// What the user is to be told.
    pub fn answer<C: Caller>(
        &self,
        request: &Request,
        enclosed: Option<Enclosed<'_>>,
        told: &mut dyn FnMut(u64),
        caller: &mut C,
    ) -> Result<Value, Problem> {
        match request {
            Request::Hello => Ok(self.whose()),
            Request::Put(put) => {
                let Some(Enclosed::Value(value)) = enclosed else {
                    let what = format!("cannot put {}", put.name);
                    return Err(Problem::new(Exit::Usage, what, "no value came with it")
                        .next("use the command that came with the daemon"));
                };
                self.lifecycle.put(put, &value, caller)
            }
            Request::List {
                under,
                tags,
                deleted: false,
            } => self.report.list(under.as_deref(), tags, caller),
            Request::List { under, tags, .. } => self.report.deleted(under.as_deref(), tags, caller),
            Request::Update(update) => self.lifecycle.update(update, caller),
            Request::Tag(change) => self.lifecycle.tag(change, caller),
            Request::Label(change) => self.lifecycle.move_label(change, caller),
            Request::Describe { name } => self.report.describe(name, caller),
            Request::Versions { name } => self.report.versions(name, caller),
            Request::PolicyGet { name } => self.report.policy(name, caller),
            Request::PolicySet { name, text, strict } => {
                let care = Care::strict(*strict);
                self.lifecycle
                    .set_policy(name, PolicyEdit::Replace(text), care, caller)
            }
            Request::PolicyAdd { name, rules } => {
                self.lifecycle
                    .set_policy(name, PolicyEdit::Add(rules), Care::Warn, caller)
            }
            Request::PolicyTakeOut {
                name,
                from,
                who,
                dry_run,
            } => {
                let trial = if *dry_run { Trial::DryRun } else { Trial::Real };
                self.lifecycle.take_out(name, (*from, who), trial, caller)
            }
            Request::PolicyCheck {
                name,
                text,
                strict,
                comparison,
            } => {
                let how = (Care::strict(*strict), *comparison);
                self.lifecycle.check_policy(name.as_ref(), text, how, caller)
            }
            Request::PolicyExplain { name, question } => self.report.explain(name, question, caller),
            Request::Layers { kind } => self.report.layers(*kind, caller),
            Request::LayerGet { key } => self.report.layer(key, caller),
            Request::LayerSet(LayerChange {
                key,
                text,
                tags,
                strict,
            }) => self
                .lifecycle
                .set_layer(key, text, tags, Care::strict(*strict), caller),
            Request::LayerRemove { key, dry_run } => self.lifecycle.remove_layer(key, *dry_run, caller),
            Request::Why { name, version, about } => self.report.why(name, version.as_deref(), about, caller),
            Request::Delete { name, purge, dry_run } => self.lifecycle.delete(name, *purge, *dry_run, caller),
            Request::Backup => self.backup(enclosed, told, caller),
            Request::StoreCheck => self.store_check(told, caller),
            Request::Drift => Ok(json!({ "drift": self.report.drift(caller) })),
            Request::Status => Ok(self.status(caller)),
            Request::ConfigAccept { dry_run, digest } => {
                self.lifecycle
                    .accept_settings(*dry_run, digest.as_deref(), caller)
            }
            Request::AuditVerify => self.verify(told, caller),
            Request::AuditRecords(asked) => self.report.records(asked, caller),
            Request::AuditArchivable { before } => self.lifecycle.archivable(*before, told, caller),
            Request::AuditArchive { copied } => self.lifecycle.archive(copied, told, caller),
            Request::Unmount => {
                self.owner_only("cannot unmount", Event::Unmount, caller)?;
                let pid = caller.who(Identity::Full).pid;
                let process = pid.map_or_else(String::new, |pid| format!("process {pid} of "));
                self.service.stop(&format!("{process}uid {}", caller.uid()))
            }
        }
    }

    fn backup<C: Caller>(
        &self,
        enclosed: Option<Enclosed<'_>>,
        told: &mut dyn FnMut(u64),
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = "cannot back the store up";
        self.owner_only(what, Event::BackupStore, caller)?;
        let Some(Enclosed::Backup(out)) = enclosed else {
            return Err(Problem::new(Exit::Usage, what, "there is nothing to write it to")
                .next("use the command that came with the daemon"));
        };
        let record = Record {
            event: Event::BackupStore,
            outcome: Outcome::Allowed,
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        let _recorded = self
            .vault
            .log()
            .append(&record)
            .map_err(|e| VaultError::from(e).problem(what))?;
        let saved = self.vault.backup(out, told).map_err(|e| e.problem(what))?;
        out.flush().map_err(|e| super::client::unwritten(&e))?;
        Ok(json!({ "store": self.vault.id().to_string(), "records": saved.records, "bytes": saved.bytes }))
    }

    fn store_check<C: Caller>(&self, told: &mut dyn FnMut(u64), caller: &mut C) -> Result<Value, Problem> {
        self.owner_only("cannot check the store", Event::CheckStore, caller)?;
        let findings = self
            .vault
            .check(told)
            .map_err(|e| e.unopened("cannot check the store"))?;
        let ok = findings.problems.is_empty();
        let mut answer = json!(findings);
        answer["ok"] = json!(ok);
        answer["drift"] = json!(self.report.drift(caller));
        Ok(answer)
    }

    fn status<C: Caller>(&self, caller: &mut C) -> Value {
        let mut answer = self.service.status();
        answer["version"] = json!(env!("CARGO_PKG_VERSION"));
        answer["store"] = json!(self.vault.dir());
        let (audit, ill) = health::log(&self.vault);
        let ills = [ill, health::damage(&self.vault.state())];
        health::diagnosed(&mut answer, &ills.into_iter().flatten().collect::<Vec<_>>());
        // The rest is for those who administer; anybody may learn where the mount is, and whether it serves.
        let administers = caller.uid() == self.vault.administration().owner
            || self
                .vault
                .administration()
                .group
                .is_some_and(|g| caller.gid() == g || caller.groups().is_some_and(|gs| gs.contains(&g)));
        if administers {
            let state = self.vault.state();
            answer["secrets"] = json!(state.secrets.iter().filter(|s| s.is_active()).count());
            answer["epoch"] = json!(state.epoch);
            answer["audit"] = audit;
            self.add_lost_logs(&mut answer);
            let differences = self.lifecycle.differences();
            if !differences.is_empty() {
                answer["config"] = json!(differences);
            }
            answer["locked_bytes"] = json!(crate::sys::mem::locked_bytes());
        } else if let Some(object) = answer.as_object_mut() {
            object.remove("counters");
            object.remove("failed_reads");
            object.remove("unread");
            // It would say when anybody opens or closes a file, a hidden one too.
            object.remove("open_handles");
        }
        answer
    }

    fn verify<C: Caller>(&self, told: &mut dyn FnMut(u64), caller: &mut C) -> Result<Value, Problem> {
        let what = "cannot verify the log";
        self.report.may_query(what, Event::VerifyLog, caller)?;
        if caller.uid() != self.vault.administration().owner {
            self.report.recorded(what, Event::VerifyLog, &[], caller)?;
        }
        let mut answer = verified(self.vault.verify_log(told))?;
        self.add_lost_logs(&mut answer);
        Ok(answer)
    }

    /// For good, once one was given up.
    fn add_lost_logs(&self, answer: &mut Value) {
        let lost = &self.vault.state().settings.lost;
        if !lost.is_empty() {
            answer["lost"] = lost_logs(lost);
        }
    }

    fn owner_only<C: Caller>(&self, what: &str, event: Event, caller: &mut C) -> Result<(), Problem> {
        let owner = self.vault.administration().owner;
        if caller.uid() == owner {
            return Ok(());
        }
        self.lifecycle.refuse(event, caller);
        let owner = if owner == ROOT {
            "root".into()
        } else {
            format!("uid {owner}")
        };
        Err(
            Problem::new(Exit::Denied, what, format_args!("this is for {owner} alone"))
                .next(format!("run it as {owner}")),
        )
    }
}

/// Logs that were given up, as the user is told of them.
pub fn lost_logs(lost: &[LostLog]) -> Value {
    let row = |lost: &LostLog| {
        json!({
            "last_sequence": lost.last_sequence,
            "head": lost.head,
            "time": lost.time.to_string(),
            "reason": lost.reason,
            "uid": lost.uid,
        })
    };
    lost.iter().map(row).collect()
}

/// A verification as the user is told of it.
///
/// # Errors
/// With exit 6 if a line is not what it was.
pub fn verified(result: Result<crate::audit::Verified, VerifyError>) -> Result<Value, Problem> {
    let v = result.map_err(|e| {
        let exit = if matches!(e, VerifyError::Broken(_)) {
            Exit::Integrity
        } else {
            Exit::Unavailable
        };
        Problem::new(exit, "the log does not verify", e)
            .next("compare with a copy or a sink; the lines before it are sound")
    })?;
    let mut answer = json!({
        "ok": true, "records": v.records, "segments": v.segments, "first": v.first, "last": v.last,
        "last_epoch": v.last_epoch,
    });
    if let Some(archived) = v.archived {
        let named: Vec<Value> = (v.named.iter())
            .map(|(segment, digest)| json!({ "segment": segment, "digest": digest }))
            .collect();
        answer["archived"] = json!({
            "through": archived.seq, "head": crate::audit::head_text(&archived.head), "segments": v.oldest - 1,
            "named": named,
        });
    }
    Ok(answer)
}
