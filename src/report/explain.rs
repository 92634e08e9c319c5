//! `policy explain`: what a policy says to somebody, and what would change the answer.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Report;
use crate::access::{Asked, Caller, Faces, KnownCaller};
use crate::id::{Gid, Label, SecretName, quoted};
use crate::policy::{Action, Answer, Documents, Local, Purpose, explain};
use crate::problem::{Exit, Problem};
use crate::vault::Visibility;

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

impl Report {
    /// Decides now, as a read does, and says why and what would change it. About others only the owner may ask.
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
        let label = match (&question.label, action.reads_value()) {
            (Some(label), _) => Some(label.clone()),
            (None, true) => Some(Label::current()),
            (None, false) => None,
        };
        let version = match &label {
            None => None,
            Some(label) => Some(secret.labelled(label.as_str()).ok_or_else(|| {
                Problem::new(
                    Exit::NotFound,
                    &what,
                    format_args!("no version has the label {label}"),
                )
                .next(format!("see them: wardfs versions {name}"))
            })?),
        };
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
        let explained = explain(&layers, &documents, &request, &mut about);
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
        answer["drift"] = super::drift::of_all(&state, secret, &people);
        Ok(answer)
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
