//! Questions: what is there, who may, and why not.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::{Access, AccessError, Caller, KnownCaller, statement};
use crate::audit::{Event, Query};
use crate::id::{Gid, Pid, ROOT, SecretName, Tid, Uid, printable};
use crate::policy::{Action, Directory, Purpose, Reason, Refusal};
use crate::problem::{Exit, Problem};
use crate::sys::caller::{Header, Observer};
use crate::vault::{Secret, VaultError, Version, Visibility};

/// About whom `why` is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyAbout {
    /// The latest refusal on record: of anybody where root asks, else of the caller himself.
    Latest,
    /// A decision made now for this user, with his groups.
    User(String),
    /// A decision made now for this uid, with the groups of its user where it has one.
    Uid(u32),
    /// A decision made now for a running process, with all its facts.
    Pid(u32),
}

/// Questions about a store.
pub struct Report {
    access: Arc<Access>,
    directory: Box<dyn Directory + Send + Sync>,
}

impl Report {
    /// Over the decisions of `access`.
    pub fn new(access: Arc<Access>, directory: Box<dyn Directory + Send + Sync>) -> Self {
        Report { access, directory }
    }

    /// Names that the caller may read or describe, under a directory if one is given.
    pub fn list<C: Caller>(&self, under: Option<&str>, caller: &mut C) -> Value {
        let state = self.access.vault().state();
        let owner = self.access.vault().administration().owner;
        let under = under.map(|u| u.trim_matches('/')).unwrap_or_default();
        let secrets: Vec<Value> = state
            .secrets
            .secrets_under(under)
            .filter(|s| {
                s.is_active()
                    && (s.broken.is_some() && caller.uid() == owner || self.access.peek(s, caller).is_ok())
            })
            .map(|s| {
                let mut row = self.summary(s);
                if s.broken.is_some() {
                    row["broken"] = json!(true);
                }
                row
            })
            .collect();
        json!({ "secrets": secrets })
    }

    fn summary(&self, secret: &Secret) -> Value {
        let current = secret.current();
        json!({
            "name": secret.meta.name,
            "description": secret.meta.description,
            "version": current.map(|v| &v.meta.id),
            "labels": labels(secret),
            "size": current.map(|v| v.meta.size),
            "created": secret.meta.created.to_string(),
            "changed": secret.meta.value_changed.to_string(),
            "visibility": secret.meta.visibility,
        })
    }

    /// One secret: its settings, and who may read it.
    ///
    /// # Errors
    /// If there is none that the caller may see.
    pub fn describe<C: Caller>(&self, name: &SecretName, caller: &mut C) -> Result<Value, Problem> {
        let what = format!("cannot describe {name}");
        let state = self.access.vault().state();
        let secret = self.allowed(&state, name, Action::DescribeSecret, &what, caller)?;
        let look = &secret.meta.appearance;
        let mut answer = self.summary(secret);
        answer["versions"] = json!(secret.versions.len());
        answer["owner"] = json!(look.owner);
        answer["group"] = json!(look.group);
        answer["mode"] = json!(look.mode.map(|m| format!("{m:04o}")));
        answer["key"] = json!(secret.meta.key);
        answer["readers"] = json!(
            secret
                .policy
                .as_deref()
                .map(crate::policy::readers)
                .unwrap_or_default()
        );
        answer["you_may_read"] = json!(
            self.access
                .peek(secret, caller)
                .is_ok_and(|s| s == crate::access::Standing::Reader)
        );
        answer["root_may_read"] = json!(self.access.root_may_read(secret));
        Ok(answer)
    }

    /// The versions of a secret, oldest first.
    ///
    /// # Errors
    /// If there is none that the caller may see.
    pub fn versions<C: Caller>(&self, name: &SecretName, caller: &mut C) -> Result<Value, Problem> {
        let what = format!("cannot list the versions of {name}");
        let state = self.access.vault().state();
        let secret = self.allowed(&state, name, Action::ListSecretVersionIds, &what, caller)?;
        let row = |v: &Version| {
            json!({
                "version": v.meta.id,
                "labels": secret.labels_of(v.meta.no).collect::<Vec<_>>(),
                "created": v.meta.created.to_string(),
                "size": v.meta.size,
            })
        };
        let versions: Vec<Value> = secret.versions.values().map(|v| row(v)).collect();
        Ok(json!({ "name": name, "versions": versions }))
    }

    /// The policy as it was given, and the principals as they were resolved.
    ///
    /// # Errors
    /// If there is none that the caller may see.
    pub fn policy<C: Caller>(&self, name: &SecretName, caller: &mut C) -> Result<Value, Problem> {
        let what = format!("cannot show the policy of {name}");
        let state = self.access.vault().state();
        let secret = self.allowed(&state, name, Action::GetResourcePolicy, &what, caller)?;
        let record = secret.meta.policy.as_ref();
        let document = record.and_then(|r| serde_json::from_str::<Value>(&r.text).ok());
        Ok(json!({
            "name": name,
            "policy": document,
            "text": record.map(|r| &r.text),
            "principals": record.map(|r| &r.principals),
            "users": record.map(|r| &r.users),
            "groups": record.map(|r| &r.groups),
        }))
    }

    /// Why a read was refused, or would be, and the command that would allow it.
    ///
    /// # Errors
    /// If there is no such secret or user, or the question is about somebody else and the caller is not root.
    pub fn why<C: Caller>(
        &self,
        name: &SecretName,
        about: &WhyAbout,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot say why for {name}");
        let root = caller.uid() == self.access.vault().administration().owner;
        // To answer a stranger would tell him that a hidden secret exists.
        let concealed = !root && self.concealed(name, caller);
        let mut about = match about {
            WhyAbout::Latest if concealed => return Err(none_on_record(name, &what)),
            WhyAbout::Latest => return self.latest(name, &what, root, caller.uid()),
            WhyAbout::User(user) => {
                let uid = self.directory.uid_of(user);
                let uid = uid.ok_or_else(|| {
                    Problem::new(
                        Exit::NotFound,
                        &what,
                        format_args!("there is no user {}", printable(user)),
                    )
                })?;
                self.supposed(uid)
            }
            WhyAbout::Uid(uid) => self.supposed(Uid(*uid)),
            WhyAbout::Pid(pid) => process(*pid).ok_or_else(|| {
                Problem::new(Exit::NotFound, &what, format_args!("there is no process {pid}"))
            })?,
        };
        if !root && about.uid != caller.uid() {
            return Err(
                Problem::new(Exit::Denied, &what, "only root may ask about others").next("ask as root"),
            );
        }
        let state = self.access.vault().state();
        let secret = state.secrets.by_name(name.as_str()).filter(|s| s.is_active());
        let Some(secret) = secret.filter(|_| !concealed) else {
            return Err(
                Problem::new(Exit::NotFound, &what, "there is no such secret, or it is deleted")
                    .next("see the names: wardfs list"),
            );
        };
        if let Some(why) = &secret.broken {
            return Err(
                Problem::new(Exit::Integrity, &what, why).next("see what is broken: wardfs store check")
            );
        }
        let labels: Vec<_> = secret
            .current()
            .map(|v| secret.labels_of(v.meta.no).cloned().collect())
            .unwrap_or_default();
        let decision = self
            .access
            .decide(secret, Action::GetSecretValue, Purpose::Read, &labels, &mut about);
        let who = self.name_of(about.uid);
        Ok(match decision {
            Ok(grant) => {
                let by = statement(secret, grant.basis());
                let words = format!("{who} may read {name}: {} allows it.", self.statement_words(by));
                json!({ "name": name, "who": who, "decision": "allow", "reason": Value::Null, "layer": grant.basis().layer.code(),
                        "statement": by, "words": words, "mend": Value::Null, "record": Value::Null })
            }
            Err(refusal) => {
                let (words, mend) = self.refusal_words(secret, refusal, about.uid, &who);
                json!({ "name": name, "who": who, "decision": decision_code(refusal.reason), "reason": refusal.reason.code(),
                        "layer": refusal.basis.layer.code(), "statement": statement(secret, refusal.basis), "words": words,
                        "mend": mend, "record": Value::Null })
            }
        })
    }

    fn latest(&self, name: &SecretName, what: &str, root: bool, uid: Uid) -> Result<Value, Problem> {
        let query = Query {
            secret: Some(name.to_string()),
            denied: true,
            uid: (!root).then_some(uid.0),
            limit: Some(1),
            newest: true,
            ..Query::default()
        };
        let found = crate::audit::query(&self.access.vault().dir().join("audit"), &query)
            .last()
            .transpose()
            .map_err(|e| VaultError::from(e).problem(what))?;
        let Some(entry) = found else {
            return Err(none_on_record(name, what));
        };
        let record = entry.value;
        let uid = record["uid"].as_u64().and_then(|u| u32::try_from(u).ok());
        let reason = record["reason"].as_str().unwrap_or("unknown").to_string();
        let who = uid.map_or_else(|| "somebody unknown".to_string(), |u| self.name_of(Uid(u)));
        let time = record["eventTime"].as_str().unwrap_or("?");
        let words = format!(
            "{who} was refused {} at {time}: {}.",
            printable(record["eventName"].as_str().unwrap_or("?")),
            reason_words(&reason)
        );
        // What `policy allow` gives is reading, and with it looking at the file.
        let reading = match record["eventName"].as_str() {
            Some("GetSecretValue" | "OpenSecret") => true,
            Some("DescribeSecret") => record["via"] == "mount",
            _ => false,
        };
        let mend = (reason == "implicit_deny" && reading)
            .then(|| uid.map(|u| self.mending(name, Uid(u))))
            .flatten();
        Ok(
            json!({ "name": name, "who": who, "decision": "deny", "reason": reason, "layer": record["layer"],
                   "statement": record["statement"], "words": words, "mend": mend, "record": record }),
        )
    }

    /// Whether there is no such secret, or it is hidden from this caller.
    fn concealed<C: Caller>(&self, name: &SecretName, caller: &mut C) -> bool {
        let state = self.access.vault().state();
        state
            .secrets
            .by_name(name.as_str())
            .is_none_or(|s| s.meta.visibility == Visibility::Hidden && self.access.peek(s, caller).is_err())
    }

    fn refusal_words(
        &self,
        secret: &Secret,
        refusal: Refusal,
        uid: Uid,
        who: &str,
    ) -> (String, Option<String>) {
        let name = &secret.meta.name;
        let by = statement(secret, refusal.basis);
        match refusal.reason {
            Reason::ExplicitDeny => (
                format!(
                    "{who} may not read {name}: {} denies it, and a Deny beats every Allow.",
                    self.statement_words(by)
                ),
                Some(format!(
                    "wardfs policy get {name} > policy.json   # take the statement out, then: wardfs policy set {name} policy.json"
                )),
            ),
            Reason::ImplicitDeny => {
                let why = if secret.policy.is_none() {
                    "it has no policy"
                } else {
                    "no statement of its policy allows it"
                };
                let root = if uid == ROOT {
                    " Root is a caller like any other."
                } else {
                    ""
                };
                (
                    format!("{who} may not read {name}: {why}, and the default is deny.{root}"),
                    Some(self.mending(name, uid)),
                )
            }
            other => (
                format!("{who} may not read {name}: {}.", reason_words(other.code())),
                None,
            ),
        }
    }

    fn statement_words(&self, statement: Option<&str>) -> String {
        statement.map_or_else(
            || "a built-in rule".to_string(),
            |s| format!("statement {} of its policy", printable(s)),
        )
    }

    fn mending(&self, name: &SecretName, uid: Uid) -> String {
        if (61184..=65519).contains(&uid.0) {
            return format!(
                "wardfs policy allow {name} unit:NAME.service   # uid {uid} is systemd's for a while only"
            );
        }
        match self.directory.users().into_iter().find(|(_, u)| *u == uid) {
            Some((user, _)) => format!("wardfs policy allow {name} user:{user}"),
            None => format!("wardfs policy allow {name} uid:{uid}"),
        }
    }

    fn name_of(&self, uid: Uid) -> String {
        match self.directory.users().into_iter().find(|(_, u)| *u == uid) {
            Some((user, _)) => format!("uid {uid} ({})", printable(&user)),
            None => format!("uid {uid}"),
        }
    }

    fn supposed(&self, uid: Uid) -> KnownCaller {
        let names = crate::sys::nss::SystemDirectory;
        let gid = names.primary_group(uid).unwrap_or(Gid(uid.0));
        KnownCaller::supposed(uid, gid, names.groups_of(uid))
    }

    fn allowed<'s, C: Caller>(
        &self,
        state: &'s crate::vault::State,
        name: &SecretName,
        action: Action,
        what: &str,
        caller: &mut C,
    ) -> Result<&'s Secret, Problem> {
        let not_found = || {
            Problem::new(
                Exit::NotFound,
                what,
                "there is no such secret, or you may not see it",
            )
            .next("see the names: wardfs list")
        };
        let secret = state.secrets.by_name(name.as_str()).ok_or_else(not_found)?;
        if let Some(why) = &secret.broken {
            return Err(
                Problem::new(Exit::Integrity, what, why).next("see what is broken: wardfs store check")
            );
        }
        let purpose = if action == Action::DescribeSecret {
            Purpose::Describe
        } else {
            Purpose::Administer
        };
        let refusal = match self.access.decide(secret, action, purpose, &[], caller) {
            Ok(_grant) if secret.is_active() => return Ok(secret),
            Ok(_grant) => return Err(not_found()),
            Err(refusal) => refusal,
        };
        Err(
            match self.access.refuse(secret, refusal, Event::DescribeSecret, caller) {
                AccessError::Hidden(_) => not_found(),
                _ => Problem::new(
                    Exit::Denied,
                    what,
                    format_args!(
                        "{} is not allowed to you ({})",
                        action.name(),
                        refusal.reason.code()
                    ),
                ),
            },
        )
    }
}

fn none_on_record(name: &SecretName, what: &str) -> Problem {
    Problem::new(Exit::NotFound, what, "no refusal is on record")
        .next(format!("ask about somebody: wardfs why {name} --user NAME"))
}

fn labels(secret: &Secret) -> Value {
    let row = |(label, no): (&crate::id::Label, &crate::id::VersionNo)| {
        Some((label.to_string(), json!(secret.versions.get(no)?.meta.id)))
    };
    Value::Object(secret.meta.labels.iter().filter_map(row).collect())
}

fn decision_code(reason: Reason) -> &'static str {
    match reason {
        Reason::ExplicitDeny => "explicit_deny",
        _ => "implicit_deny",
    }
}

fn reason_words(code: &str) -> &str {
    match code {
        "implicit_deny" => "no statement allowed it, and the default is deny",
        "explicit_deny" => "a statement denied it, and a Deny beats every Allow",
        "page_cache_refused" => {
            "the read would have filled the page cache (mmap, sendfile or splice); plain read(2) works"
        }
        "cred_mismatch" => {
            "the process was not who the kernel's request named (a stacked file system, a loop device or a borrowed identity)"
        }
        "io_worker" => "a kernel worker of io_uring read in somebody's place",
        "no_pid" => "the process is outside the daemon's pid namespace, so nothing but its uid is known",
        "revoked" => "the version was destroyed after the file was opened",
        other => other,
    }
}

/// The facts of a running process, as a request of its main thread would show them.
pub fn process(pid: u32) -> Option<KnownCaller> {
    let header = Header::of_process(Pid(pid))?;
    let mut observer = Observer::new();
    let mut known = observer.identify(&header).ok()?;
    let groups = known.groups().ok()?.to_vec();
    let unit = known.unit().ok()?.map(str::to_string);
    let mut caller = KnownCaller::supposed(header.uid, header.gid, groups);
    caller.unit = Some(unit);
    caller.pid = Some(Pid(pid));
    let facts = known.for_record();
    caller.tid = Some(Tid(pid));
    caller.start_time = facts.start_time;
    caller.command = Some(facts.command.to_vec());
    caller.login_uid = facts.login_uid;
    Some(caller)
}
