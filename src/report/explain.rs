//! `policy explain`: what a policy says to somebody, and what would change the answer.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Report;
use crate::access::{Asked, Caller, Faces, KnownCaller};
use crate::audit::Event;
use crate::id::{Gid, Label, SecretName, quoted};
use crate::policy::{Action, Answer, Documents, Layer, Local, Purpose, Refusal, explain};
use crate::problem::{Exit, Problem};
use crate::vault::{View, Visibility};

/// Somebody, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Who.
    pub who: Whom,
    /// His groups, by name or number, in the place of those that he has.
    pub groups: Option<Vec<String>>,
    /// The systemd unit that he is in.
    pub unit: Option<String>,
}

/// A process that there is, or one that is supposed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Whom {
    /// A user, by name or number; or a unit, of which some process asks.
    Somebody(Local),
    /// A running process, by its pid.
    Process(u32),
}

/// What is asked about a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Who.
    pub subject: Subject,
    /// What he does.
    pub action: String,
    /// With the version of which label; the current one, if it reads.
    pub label: Option<Label>,
}

/// How much of what decided is told to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// To the owner: every statement of every layer, and what would change the answer.
    All,
    /// To whoever may see the secret's policy: what that says, and nothing of the layers above it.
    Policy,
    /// To everybody else: the answer about himself, as `why` gives it.
    Answer(Refusal),
}

impl Report {
    /// Decides now, as a read does, and says why; to who may see the policy also what would change it. About others, and
    /// with groups or a unit that the caller has not, only the owner may ask, or who may see the policy.
    ///
    /// # Errors
    /// If there is no such secret, user, group, action or label, or the caller may not ask.
    pub fn explain<C: Caller>(
        &self,
        name: &SecretName,
        question: &Question,
        caller: &mut C,
    ) -> Result<Value, Problem> {
        let what = format!("cannot explain the policy of {name}");
        let bad = |e: &dyn std::fmt::Display| {
            Problem::new(Exit::Usage, &what, e)
                .next("write an action like GetSecretValue or secretsmanager:GetSecretValue")
        };
        let action: Action = question.action.parse().map_err(|e| bad(&e))?;
        let mut about = self.subject(&question.subject, &what)?;
        let owner = caller.uid() == self.access.vault().administration().owner;
        if !owner && about.uid != caller.uid() {
            let _recorded = self.access.refuse_outright(Event::ExplainDecision, caller);
            return Err(
                Problem::new(Exit::Denied, &what, "only root may ask about others").next("ask as root"),
            );
        }
        let state = self.access.vault().state();
        let secret = state.secrets.by_name(name.as_str()).filter(|s| s.is_active());
        let shown = |s: &&crate::vault::Secret| {
            owner
                || s.meta.visibility != Visibility::Hidden
                || self.access.peek(state.view(s), caller).is_ok()
        };
        let Some(secret) = secret.map(|s| &**s).filter(shown) else {
            let why = "there is no such secret, or it is deleted";
            return Err(Problem::new(Exit::NotFound, &what, why).next("see the names: wardfs list"));
        };
        if let Some(why) = &secret.broken {
            return Err(
                Problem::new(Exit::Integrity, &what, why).next("see what is broken: wardfs store check")
            );
        }
        let view = state.view(secret);
        let told = self.told(view, owner, caller);
        if let Told::Answer(refusal) = told {
            let _recorded = self.access.refuse(view, refusal, Event::ExplainDecision, caller);
            own(&about, &question.subject, caller, &what)?;
        }
        let no_version = |label: &Label| {
            let why = match told {
                Told::Answer(_) => format!("no version that may be seen has the label {label}"),
                Told::All | Told::Policy => format!("no version has the label {label}"),
            };
            Problem::new(Exit::NotFound, &what, why).next(format!("see them: wardfs versions {name}"))
        };
        let label = match (&question.label, action.reads_value()) {
            (Some(label), _) => Some(label.clone()),
            (None, true) => Some(Label::current()),
            (None, false) => None,
        };
        let version = match &label {
            None => None,
            Some(label) => Some(secret.labelled(label.as_str()).ok_or_else(|| no_version(label))?),
        };
        // Which labels there are is told to those alone who may see the policy, or read what has this one.
        if let (Told::Answer(_), Some(label), Some(version)) = (told, &question.label, version) {
            let read = self.access.may_read_version(view, version, &mut about);
            read.map_err(|_| no_version(label))?;
        }
        let labels: Vec<Label> = version
            .map(|v| secret.labels_of(v.meta.no).cloned().collect())
            .unwrap_or_default();
        let asked = Asked {
            version: version.map(|v| &v.meta.id),
            labels: &labels,
            ..Asked::secret()
        };
        let layers = self.access.layers(&state, Some(secret));
        let request = crate::access::request(secret, action, Purpose::of(action), asked);
        let documents = Documents::new(
            secret.meta.policy.as_deref(),
            state.layers.guardrails().map(|(_, r)| r),
            state.layers.identities().map(|(_, r)| r),
        );
        let mut explained = explain(&layers, &documents, &request, &mut about);
        let secrets_own = explained.layer == Layer::Secret.code();
        if !matches!((told, secrets_own), (Told::All, _) | (_, true)) {
            explained.statement = None;
        }
        match told {
            Told::All => {}
            Told::Policy => {
                let above = |line: &String| line.starts_with("guardrail ") || line.starts_with("identity ");
                explained.change.retain(|line| !above(line));
            }
            Told::Answer(_) => explained.change.clear(),
        }
        let who = self.called(&about);
        let verb = if explained.decision == Answer::Allow {
            "may"
        } else {
            "may not"
        };
        let words = format!("{who} {verb} {} {name}", action.name());
        let mut answer = json!(explained);
        answer["name"] = json!(name);
        answer["who"] = json!(who);
        answer["action"] = json!(action.to_string());
        answer["words"] = json!(words);
        let people = Faces::new(&*self.directory);
        answer["drift"] = match told {
            Told::All => super::drift::of_all(&state, secret, &people),
            Told::Policy => super::drift::of_secret(secret, &people),
            Told::Answer(_) => json!([]),
        };
        Ok(answer)
    }

    fn told<C: Caller>(&self, secret: View<'_>, owner: bool, caller: &mut C) -> Told {
        if owner {
            return Told::All;
        }
        let (action, purpose) = (Action::GetResourcePolicy, Purpose::Administer);
        match self
            .access
            .decide(secret, action, purpose, Asked::secret(), caller)
        {
            Ok(_grant) => Told::Policy,
            Err(refusal) => Told::Answer(refusal),
        }
    }

    fn subject(&self, subject: &Subject, what: &str) -> Result<KnownCaller, Problem> {
        let unknown = |kind: &str, name: &str| {
            Problem::new(
                Exit::NotFound,
                what,
                format_args!("there is no {kind} {}", quoted(name)),
            )
            .next("name one of this machine, or its number")
        };
        let who = match &subject.who {
            Whom::Somebody(local) => local,
            Whom::Process(pid) => return super::running(*pid, what),
        };
        let uid = match who {
            Local::Unit(unit) => return Ok(super::of_unit(unit)),
            Local::User(user) => self.directory.uid_of(user).ok_or_else(|| unknown("user", user))?,
            Local::Uid(uid) => *uid,
            other => {
                let why =
                    format!("{other} is no user: processes have a uid, and groups and a unit beside it");
                return Err(Problem::new(Exit::Usage, what, why)
                    .next("write --as user:NAME, uid:N or unit:NAME, with --groups and --unit"));
            }
        };
        let mut caller = self.supposed(uid);
        if let Some(groups) = &subject.groups {
            let group = |g: &String| {
                let number = g.parse::<u32>().ok().filter(|n| *n != u32::MAX).map(Gid);
                number
                    .or_else(|| self.directory.gid_of(g))
                    .ok_or_else(|| unknown("group", g))
            };
            let all = groups.iter().map(group).collect::<Result<Vec<_>, _>>()?;
            // The first is his own, as id(1) shows it.
            caller.gid = all.first().copied().unwrap_or(caller.gid);
            caller.groups = Some(all);
        }
        caller.unit = Some(subject.unit.clone());
        Ok(caller)
    }
}

/// Whether what is supposed of a caller is the asker's own.
///
/// # Errors
/// If a group or the unit is not.
fn own<C: Caller>(about: &KnownCaller, subject: &Subject, caller: &mut C, what: &str) -> Result<(), Problem> {
    if about.pid.is_some() {
        return Ok(());
    }
    let mut has = vec![caller.gid()];
    has.extend(caller.groups().unwrap_or_default());
    let groups = about.groups.iter().flatten();
    let mut supposed = groups.filter(|_| subject.groups.is_some());
    let unit = about.unit.as_ref().and_then(|u| u.as_deref());
    let other_unit = unit.is_some() && caller.unit().flatten() != unit;
    if supposed.all(|g| has.contains(g)) && !other_unit {
        return Ok(());
    }
    let why = "only root, and who may see the policy, may ask with groups or a unit that they are not in";
    Err(Problem::new(Exit::Denied, what, why).next("leave --groups and --unit away, or ask as root"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Uid;

    #[test]
    fn a_question_survives_its_way_over_the_socket() {
        let question = Question {
            subject: Subject {
                who: Whom::Somebody(Local::Uid(Uid(7))),
                groups: Some(vec!["34".into()]),
                unit: Some("app.service".into()),
            },
            action: "GetSecretValue".into(),
            label: Some(Label::current()),
        };
        let json = serde_json::to_string(&question).unwrap();
        assert_eq!(serde_json::from_str::<Question>(&json).unwrap(), question);
    }
}
