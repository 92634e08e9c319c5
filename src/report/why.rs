//! Why a read was refused, or would be.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Report;
use crate::access::{Asked, Caller};
use crate::audit::{Entry, Query};
use crate::clock::Timestamp;
use crate::id::{Label, ROOT, SecretName, Uid, printable, quoted};
use crate::policy::{Action, Basis, Effect, Layer, Local, Purpose, Reason, Refusal};
use crate::problem::{Exit, Problem};
use crate::vault::{Secret, VaultError, Visibility};

/// How much of the log is searched for its owner, and looked at for others.
const SEARCHED: u64 = 64 << 20;
const GLANCED: u64 = 1 << 20;

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
    /// A decision made now for some process of a unit.
    Unit(String),
}

impl Report {
    /// Why a read was refused, or would be, and the command that would allow it. A decision is about the current version,
    /// or the one with this label, id or beginning of an id.
    ///
    /// # Errors
    /// If there is no such secret or user, or the question is about somebody else and the caller is not root.
    pub fn why<C: Caller>(
        &self,
        name: &SecretName,
        version: Option<&str>,
        about: &WhyAbout,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot say why for {name}");
        let root = caller.uid() == self.access.vault().administration().owner;
        // To answer a stranger would tell him that a hidden secret exists.
        let concealed = !root && self.concealed(name, caller);
        let asked_about = about;
        let mut about = match about {
            WhyAbout::Latest if concealed => return Err(none_on_record(name, &what)),
            WhyAbout::Latest if root => return self.latest(name, &what, caller),
            WhyAbout::Latest => return self.own_latest(name, &what, caller),
            WhyAbout::User(user) => {
                let uid = self.directory.uid_of(user);
                let uid = uid.ok_or_else(|| {
                    Problem::new(
                        Exit::NotFound,
                        &what,
                        format_args!("there is no user {}", quoted(user)),
                    )
                    .next("name a user of this machine, or its number: --as uid:N")
                })?;
                self.supposed(uid)
            }
            WhyAbout::Uid(uid) => self.supposed(Uid(*uid)),
            WhyAbout::Pid(pid) => super::running(*pid, &what)?,
            WhyAbout::Unit(unit) => super::of_unit(unit),
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
        let no_version = || {
            let asked_for = quoted(version.unwrap_or_default());
            Problem::new(
                Exit::NotFound,
                &what,
                format_args!("no version that may be seen has the label or the id {asked_for}"),
            )
            .next(format!("see them: wardfs versions {name}"))
        };
        let meant = match version {
            None => secret.current(),
            Some(text) => {
                let text = text.parse().map_err(|_| no_version())?;
                Some(secret.meant(&text).map_err(|_| no_version())?)
            }
        };
        let labels: Vec<Label> = meant
            .map(|v| secret.labels_of(v.meta.no).cloned().collect())
            .unwrap_or_default();
        let asked = Asked {
            version: meant.map(|v| &v.meta.id),
            labels: &labels,
            ..Asked::secret()
        };
        let decision = self
            .access
            .decide(secret, Action::GetSecretValue, Purpose::Read, asked, &mut about);
        let who = self.called(&about);
        let layers = self.access.layers(&state, Some(secret));
        Ok(match decision {
            Ok(grant) => {
                let by = layers.statement_id(grant.basis());
                let words = format!(
                    "{who} may read {name}: {} allows it.",
                    statement_words(grant.basis(), by)
                );
                json!({ "name": name, "who": who, "decision": "allow", "reason": Value::Null, "layer": grant.basis().layer.code(),
                        "statement": by, "words": words, "mend": Value::Null, "record": Value::Null })
            }
            // Which versions there are is told to those alone who may read them.
            Err(_) if version.is_some() && !root => return Err(no_version()),
            Err(refusal) => {
                let (words, mut mend) = self.refusal_words(
                    secret,
                    refusal,
                    layers.statement_id(refusal.basis),
                    about.uid,
                    &who,
                );
                if let (WhyAbout::Unit(unit), Layer::Default, Some(mend)) =
                    (asked_about, refusal.basis.layer, &mut mend)
                {
                    *mend = format!("wardfs policy allow {name} unit:{unit}");
                }
                json!({ "name": name, "who": who, "decision": decision_code(refusal.reason), "reason": refusal.reason.code(),
                        "layer": refusal.basis.layer.code(), "statement": layers.statement_id(refusal.basis), "words": words,
                        "mend": mend, "record": Value::Null })
            }
        })
    }

    /// For the owner: the latest on record, of anybody.
    fn latest<C: Caller>(&self, name: &SecretName, what: &str, caller: &C) -> Result<Value, Problem> {
        let query = Query {
            secret: Some(name.to_string()),
            denied: true,
            ..Query::default()
        };
        let (found, cut) = self.newest(&query, SEARCHED, what, caller)?;
        match found {
            Some(entry) => Ok(self.refused(name, &Refused::of(&entry.value), entry.value.clone())),
            None if cut => {
                let mib = SEARCHED >> 20;
                let why = format!(
                    "no refusal is in the newest {mib} MiB of the log, and older ones were not looked at"
                );
                let next = format!("search all of it: wardfs audit query --secret {name} --denied");
                Err(Problem::new(Exit::NotFound, what, why).next(next))
            }
            None => Err(none_on_record(name, what)),
        }
    }

    /// For everybody else: his own latest, if it is remembered. The log is looked at for its record alone, where that is
    /// among the newest.
    fn own_latest<C: Caller>(&self, name: &SecretName, what: &str, caller: &C) -> Result<Value, Problem> {
        let last = self.access.last_refusal(caller.uid(), name.as_str());
        let last = last.ok_or_else(|| none_on_record(name, what))?;
        let query = Query {
            secret: Some(name.to_string()),
            denied: true,
            uid: Some(caller.uid().0),
            // A record is made a moment before or after it is remembered.
            since: Some(Timestamp(last.time.0 - 1_000_000)),
            ..Query::default()
        };
        let (found, _) = self.newest(&query, GLANCED, what, caller)?;
        Ok(match found {
            Some(entry) => self.refused(name, &Refused::of(&entry.value), unnumbered(&entry.value)),
            None => {
                let refused = Refused {
                    uid: Some(caller.uid()),
                    time: last.time.to_string(),
                    event: last.event,
                    reason: last.reason,
                    via: last.via,
                    layer: last.layer,
                    statement: last.statement.as_deref(),
                };
                self.refused(name, &refused, Value::Null)
            }
        })
    }

    fn newest<C: Caller>(
        &self,
        query: &Query,
        bytes: u64,
        what: &str,
        caller: &C,
    ) -> Result<(Option<Entry>, bool), Problem> {
        let log = self.access.vault().dir().join("audit");
        let found = crate::audit::newest_of(&log, query, bytes, &mut || !caller.gone());
        match caller.gone() {
            true => Err(super::unheard(what)),
            false => found.map_err(|e| VaultError::from(e).problem(what)),
        }
    }

    fn refused(&self, name: &SecretName, refused: &Refused<'_>, record: Value) -> Value {
        let who = refused
            .uid
            .map_or_else(|| "somebody unknown".to_string(), |u| self.name_of(u));
        let words = format!(
            "{who} was refused {} at {}: {}.",
            printable(refused.event),
            refused.time,
            reason_words(refused.reason)
        );
        // What `policy allow` gives is reading, and with it looking at the file.
        let reading = match refused.event {
            "GetSecretValue" | "OpenSecret" => true,
            "LookupSecret" | "DescribeSecret" => refused.via == "mount",
            _ => false,
        };
        let mend = (refused.reason == "implicit_deny" && reading)
            .then(|| refused.uid.map(|u| self.mending(name, u)))
            .flatten();
        json!({ "name": name, "who": who, "decision": "deny", "reason": refused.reason, "layer": refused.layer,
                "statement": refused.statement, "words": words, "mend": mend, "record": record })
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
        by: Option<&str>,
        uid: Uid,
        who: &str,
    ) -> (String, Option<String>) {
        let name = &secret.meta.name;
        match refusal.reason {
            Reason::ExplicitDeny => (
                format!(
                    "{who} may not read {name}: {} denies it, and a Deny beats every Allow.",
                    statement_words(refusal.basis, by)
                ),
                Some(match refusal.basis.layer {
                    Layer::Guardrail => {
                        "wardfs guardrail list   # see what it says, and whether it should".to_string()
                    }
                    Layer::Identity => {
                        "wardfs identity list   # see what it says, and whether it should".to_string()
                    }
                    _ => self.undenying(secret, uid).unwrap_or_else(|| {
                        format!("wardfs policy get {name} > policy.json   # take the statement out, then: wardfs policy set {name} policy.json")
                    }),
                }),
            ),
            Reason::ImplicitDeny if refusal.basis.layer == Layer::Guardrail => (
                format!("{who} may not read {name}: a guardrail has Allow statements, and none for this."),
                Some("wardfs guardrail list   # see what it allows".to_string()),
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

    /// The command that takes the user out of the Denies of the secret's policy, if they name that user.
    fn undenying(&self, secret: &Secret, uid: Uid) -> Option<String> {
        let record = secret.meta.policy.as_deref()?;
        let mut forms = vec![Local::Uid(uid)];
        let named = self.directory.users().into_iter().find(|(_, u)| *u == uid);
        forms.extend(named.map(|(user, _)| Local::User(user.into())));
        let named = |who: &Local| {
            let whom = std::slice::from_ref(who);
            record.without(Effect::Deny, whom, &*self.directory).is_ok()
        };
        let who = forms.into_iter().rev().find(named)?;
        Some(format!("wardfs policy undeny {} {who}", secret.meta.name))
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
}

/// A refusal, from the log or from memory.
struct Refused<'r> {
    uid: Option<Uid>,
    time: String,
    event: &'r str,
    reason: &'r str,
    via: &'r str,
    layer: Option<&'r str>,
    statement: Option<&'r str>,
}

impl<'r> Refused<'r> {
    fn of(record: &'r Value) -> Refused<'r> {
        let uid = record["uid"].as_u64().and_then(|u| u32::try_from(u).ok());
        Refused {
            uid: uid.map(Uid),
            time: record["eventTime"].as_str().unwrap_or("?").to_string(),
            event: record["eventName"].as_str().unwrap_or("?"),
            reason: record["reason"].as_str().unwrap_or("unknown"),
            via: record["via"].as_str().unwrap_or_default(),
            layer: record["layer"].as_str(),
            statement: record["statement"].as_str(),
        }
    }
}

fn statement_words(basis: Basis, statement: Option<&str>) -> String {
    let id = printable(statement.unwrap_or("?"));
    match basis.layer {
        Layer::Secret => format!("statement {id} of its policy"),
        Layer::Guardrail => format!("guardrail statement {id}"),
        Layer::Identity => format!("identity statement {id}"),
        Layer::Administration | Layer::Default => "a built-in rule".to_string(),
    }
}

/// The record without its place in the log, which tells how many others there are.
fn unnumbered(record: &Value) -> Value {
    let mut record = record.clone();
    if let Some(fields) = record.as_object_mut() {
        fields.retain(|field, _| !matches!(field.as_str(), "seq" | "eventID" | "mac"));
    }
    record
}

fn none_on_record(name: &SecretName, what: &str) -> Problem {
    Problem::new(Exit::NotFound, what, "no refusal is on record")
        .next(format!("ask about somebody: wardfs why {name} --as user:NAME"))
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
