//! Questions: what is there, who may, and why not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::access::{Access, AccessError, Asked, Caller, Faces, KnownCaller, Readership};
use crate::audit::Event;
use crate::id::{DYNAMIC_IDS, Gid, Pid, SecretName, Tid, Uid, printable};
use crate::policy::{Action, Directory, Purpose, Reason};
use crate::problem::{Exit, Problem};
use crate::sys::caller::{Header, Observer};
use crate::vault::{Secret, Version, View};

mod deleted;
mod drift;
mod explain;
mod layers;
mod why;

pub use explain::{Question, Subject, Whom};
pub use layers::LayerKind;
pub use why::WhyAbout;

/// The work of a long question. It ends when its answer is not waited for, and a stranger's leaves half of the time to
/// others.
struct Work {
    owner: bool,
    turn: Instant,
}

impl Work {
    /// How long a stranger's question is worked on without a pause, and how long the pause is.
    const TURN: Duration = Duration::from_millis(5);

    fn begin(owner: bool) -> Work {
        let turn = Instant::now();
        Work { owner, turn }
    }

    /// Before each piece.
    fn step<C: Caller>(&mut self, what: &str, caller: &C) -> Result<(), Problem> {
        if self.turn.elapsed() < Work::TURN {
            return Ok(());
        }
        if caller.gone() {
            return Err(unheard(what));
        }
        if !self.owner {
            std::thread::sleep(Work::TURN);
        }
        self.turn = Instant::now();
        Ok(())
    }
}

fn unheard(what: &str) -> Problem {
    Problem::new(Exit::Unavailable, what, "nobody waits for the answer").next("ask again")
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

    /// The secrets that the caller may read or describe, with all of `tags`: everywhere, or of that name or in that
    /// directory.
    ///
    /// # Errors
    /// If nothing has that name that the caller may see, or nobody waits for the answer any more.
    pub fn list<C: Caller>(
        &self,
        under: Option<&str>,
        tags: &BTreeMap<String, String>,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let state = self.access.vault().state();
        let owner = self.access.vault().administration().owner;
        let under = under.map(|u| u.trim_matches('/')).unwrap_or_default();
        let mut secrets: Vec<Value> = Vec::new();
        let mut work = Work::begin(caller.uid() == owner);
        let mut known = under.is_empty();
        let named = state.secrets.by_name(under).into_iter();
        let people = Faces::new(&*self.directory);
        let mut readership = Readership::new(&self.access, &state, &people);
        for s in named.chain(state.secrets.secrets_under(under)) {
            work.step("the secrets were not listed", caller)?;
            if !s.is_active() {
                known |= caller.uid() == owner;
                continue;
            }
            if !(s.broken.is_some() && caller.uid() == owner
                || self.access.peek(state.view(s), caller).is_ok())
            {
                continue;
            }
            known = true;
            if !tags.iter().all(|(k, v)| s.meta.tags.get(k) == Some(v)) {
                continue;
            }
            let mut row = self.summary(s);
            let described = (self.access)
                .decide(
                    state.view(s),
                    Action::DescribeSecret,
                    Purpose::Describe,
                    Asked::secret(),
                    caller,
                )
                .map_err(|refusal| refusal.reason);
            row["readers"] = match described.is_ok() && s.broken.is_none() {
                true => json!(readership.of(s)),
                false => Value::Null,
            };
            // A reader is shown what it reads; what a statement keeps from it, it does not get here.
            if described.err() == Some(Reason::ExplicitDeny) {
                (row["description"], row["version"]) = (Value::Null, Value::Null);
                (row["labels"], row["tags"]) = (json!({}), json!({}));
            }
            if s.broken.is_some() {
                row["broken"] = json!(true);
            }
            secrets.push(row);
        }
        match known {
            true => Ok(json!({ "secrets": secrets })),
            false => Err(Problem::new(
                Exit::NotFound,
                format!("cannot list {}", printable(under)),
                "there is no such secret or directory, or you may not see it",
            )
            .next("see the names: wardfs list")),
        }
    }

    fn summary(&self, secret: &Secret) -> Value {
        let current = secret.current();
        json!({
            "name": secret.meta.name,
            "description": secret.meta.description,
            "version": current.map(|v| &v.meta.id),
            "labels": labels(secret),
            "tags": secret.meta.tags,
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
        let mut answer = self.summary(&secret);
        answer["versions"] = json!(secret.versions.len());
        answer["owner"] = json!(look.owner);
        answer["group"] = json!(look.group);
        answer["mode"] = json!(look.mode.map(|m| format!("{m:04o}")));
        answer["arn"] = json!(secret.meta.arn);
        answer["key"] = json!(secret.meta.key);
        let people = Faces::new(&*self.directory);
        answer["readers"] = json!(self.access.readers(&state, &secret, &people));
        answer["drift"] = drift::of_secret(&secret, &people);
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
        let record = secret.meta.policy.as_deref();
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

    fn name_of(&self, uid: Uid) -> String {
        match self.directory.users().into_iter().find(|(_, u)| *u == uid) {
            Some((user, _)) => format!("uid {uid} ({})", printable(&user)),
            None => format!("uid {uid}"),
        }
    }

    /// Who asks, as an answer names him.
    fn called(&self, caller: &KnownCaller) -> String {
        match &caller.unit {
            Some(Some(unit)) if caller.pid.is_none() && DYNAMIC_IDS.contains(&caller.uid.0) => {
                format!("unit {}", printable(unit))
            }
            _ => self.name_of(caller.uid),
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
    ) -> Result<View<'s>, Problem> {
        let not_found = || {
            Problem::new(
                Exit::NotFound,
                what,
                "there is no such secret, or you may not see it",
            )
            .next("see the names: wardfs list")
        };
        let secret = state.view(state.secrets.by_name(name.as_str()).ok_or_else(not_found)?);
        if let Some(why) = &secret.broken {
            if !self.access.may_know_of_damage(secret, caller) {
                return Err(not_found());
            }
            return Err(
                Problem::new(Exit::Integrity, what, why).next("see what is broken: wardfs store check")
            );
        }
        let purpose = if action == Action::DescribeSecret {
            Purpose::Describe
        } else {
            Purpose::Administer
        };
        let refusal = match self
            .access
            .decide(secret, action, purpose, Asked::secret(), caller)
        {
            Ok(_grant) if secret.is_active() => return Ok(secret),
            Ok(_grant) => return Err(not_found()),
            Err(refusal) => refusal,
        };
        Err(
            match self.access.refuse(secret, refusal, Event::DescribeSecret, caller) {
                AccessError::Hidden(_) => not_found(),
                _ => refusal.problem(what, action),
            },
        )
    }
}

fn labels(secret: &Secret) -> Value {
    let row = |(label, no): (&crate::id::Label, &crate::id::VersionNo)| {
        Some((label.to_string(), json!(secret.versions.get(no)?.meta.id)))
    };
    Value::Object(secret.meta.labels.iter().filter_map(row).collect())
}

/// Some process of a unit: of a user whom no rule names, as systemd lends a uid to one with DynamicUser=.
fn of_unit(unit: &str) -> KnownCaller {
    let id = *DYNAMIC_IDS.end();
    let mut caller = KnownCaller::supposed(Uid(id), Gid(id), Vec::new());
    caller.unit = Some(Some(unit.to_string()));
    caller
}

/// # Errors
/// If there is no such process.
fn running(pid: u32, what: &str) -> Result<KnownCaller, Problem> {
    process(pid).ok_or_else(|| {
        Problem::new(Exit::NotFound, what, format_args!("there is no process {pid}"))
            .next("give the pid of a process that runs")
    })
}

/// The facts of a running process, as a request of its main thread would show them.
pub fn process(pid: u32) -> Option<KnownCaller> {
    let header = Header::of_process(Pid(pid))?;
    let mut observer = Observer::new();
    let mut known = observer.identify(&header).ok()?;
    let groups = known.groups().ok()?.to_vec();
    let unit = known.unit().ok()?.map(str::to_string);
    let hardening = known.hardening().ok();
    let mut caller = KnownCaller::supposed(header.uid, header.gid, groups).seen(hardening);
    caller.unit = Some(unit);
    caller.namespace = known.namespace();
    caller.pid = Some(Pid(pid));
    let facts = known.for_record();
    caller.tid = Some(Tid(pid));
    caller.start_time = facts.start_time;
    caller.command = Some(facts.command.to_vec());
    caller.login_uid = facts.login_uid;
    Some(caller)
}

/// This process, as a caller that gives commands.
pub fn myself() -> KnownCaller {
    let pid = std::process::id();
    let mut caller = process(pid).unwrap_or_else(|| {
        let ids = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut caller = KnownCaller::supposed(Uid(ids.0), Gid(ids.1), Vec::new());
        (caller.groups, caller.unit) = (None, None);
        caller
    });
    caller.door = "command";
    caller
}
