//! Deciding without a store: policies as documents, a caller and a secret in words. The evaluator is that of the
//! read path; only names and ARNs are made up here.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::action::{Action, Purpose};
use super::compile::{Use, World};
use super::condition::Key;
use super::decide::{Administration, Layers};
use super::diagnostic::PolicyError;
use super::explain::{Documents, Explanation, explain};
use super::facts::{Facts, Given, ProcessState, Request};
use super::layers::{Attached, GuardrailRecord, IdentityRecord, Shared};
use super::principal::{Directory, Local, PrincipalMap};
use super::record::{Kind, PolicyRecord};
use super::value::{parse_bool, parse_instant};
use crate::clock::Timestamp;
use crate::id::{Gid, Label, SecretId, SecretName, Uid, VersionId};

/// Ids from here on are made up: no kernel gives them out by default, and none is systemd's.
const MADE_UP: u32 = 4_000_000_000;

/// What is supposed.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    /// The secret's own policy.
    pub policy: Option<String>,
    /// Identity policies of the principal.
    pub identity_policies: Vec<String>,
    /// Guardrails.
    pub guardrails: Vec<String>,
    /// Who asks: a local principal, or an ARN.
    pub principal: Option<Attached>,
    /// His groups: names, or numbers.
    pub groups: Vec<String>,
    /// His systemd unit.
    pub unit: Option<String>,
    /// What is asked.
    pub action: Option<Action>,
    /// The secret: a name or an ARN.
    pub resource: String,
    /// Tags of the secret.
    pub tags: BTreeMap<String, String>,
    /// Tags of the principal.
    pub principal_tags: BTreeMap<String, String>,
    /// Other keys of the request and their values.
    pub context: Vec<(String, Vec<String>)>,
}

/// What of a scenario cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A document is no policy.
    #[error("{which} is not valid: {error}")]
    Policy {
        /// As `the policy`, `identity policy 1`.
        which: String,
        /// What is wrong.
        error: PolicyError,
    },
    /// The resource is none.
    #[error("{0:?} is neither a secret's name nor the ARN of one")]
    Resource(String),
    /// A key that no request has.
    #[error("there is no key {name:?} to give{}", .near.as_ref().map_or_else(String::new, |n| format!("; did you mean {n:?}?")))]
    Key {
        /// What was given.
        name: String,
        /// The nearest key.
        near: Option<String>,
    },
    /// A value that the key cannot have.
    #[error("{value:?} is no value of {key}: {why}")]
    Value {
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// What it should be.
        why: &'static str,
    },
}

/// Decides a scenario by the policies that it has, and nothing else: the built-in layer is left out, as in AWS's
/// `simulate-custom-policy`.
///
/// # Errors
/// What of it cannot be.
pub fn simulate(scenario: &Scenario, directory: &dyn Directory) -> Result<Explanation, ScenarioError> {
    let invented = Invented {
        real: directory,
        users: RefCell::default(),
        groups: RefCell::default(),
    };
    let action = scenario.action.unwrap_or(Action::GetSecretValue);
    let (name, arn) = subject(&scenario.resource)?;
    let mut caller = Supposed::new(scenario, &invented);
    let mut asked = AskedFor::default();
    asked.tags.clone_from(&scenario.tags);
    if let Some(arn) = arn {
        let mut segments = arn.split(':').skip(3);
        let _region = segments.next();
        if let Some(account) = segments.next().filter(|a| !a.is_empty()) {
            caller
                .given
                .context
                .insert("aws:resourceaccount".into(), vec![account.into()]);
        }
    }
    for (key, values) in &scenario.context {
        asked.give(key, values, &mut caller, &invented)?;
    }
    let map = PrincipalMap(
        caller
            .arns
            .iter()
            .map(|arn| (arn.clone(), vec![Local::Uid(caller.uid)]))
            .collect(),
    );
    let who = Attached::Local(Local::Uid(caller.uid));

    let failed = |which: String| move |error| ScenarioError::Policy { which, error };
    let secret = match &scenario.policy {
        None => None,
        Some(text) => {
            let kind = Kind::Secret(&name, arn);
            let resolved = PolicyRecord::resolve_as(kind, text, &map, &invented);
            Some(resolved.map_err(failed("the policy".into()))?.0)
        }
    };
    let mut guardrails = Vec::new();
    for (i, text) in (1..).zip(&scenario.guardrails) {
        let resolved = GuardrailRecord::resolve(&format!("guardrail-{i}"), text, &map, &invented);
        guardrails.push(resolved.map_err(failed(format!("guardrail {i}")))?.0);
    }
    let mut identities = Vec::new();
    for (i, text) in (1..).zip(&scenario.identity_policies) {
        let resolved = IdentityRecord::resolve(&who, BTreeMap::new(), text, &map, &invented);
        let mut record = resolved.map_err(failed(format!("identity policy {i}")))?.0;
        record.principal = who.clone();
        identities.push(record);
    }
    let given = caller.given.clone();
    let world = World::Simulated(&given);
    let compiled = match &secret {
        None => None,
        Some(record) => {
            let output = record.compile_as(Use::Secret(&name, arn), world, 0);
            Some(output.map_err(failed("the policy".into()))?.of_secret(&name, arn))
        }
    };
    let shared = Shared::compile_in(world, &guardrails, &identities)
        .map_err(|(which, error)| ScenarioError::Policy { which, error })?;
    let layers = Layers {
        administration: &NOBODY,
        shared: &shared,
        secret: compiled.as_ref(),
    };
    let purpose = Purpose::of(action);
    let request = match action.is_of_layers() {
        true => Request::of_layers(action, purpose),
        false => Request {
            arn,
            tags: &asked.tags,
            version: asked.version.as_ref(),
            labels: &asked.labels,
            request_tags: &asked.request_tags,
            untag: &asked.untag,
            ..Request::new(action, purpose, SecretId(0), &name)
        },
    };
    let documents = Documents::new(secret.as_ref(), &guardrails, &identities);
    Ok(explain(&layers, &documents, &request, &mut caller))
}

/// No built-in layer: nobody owns the store.
const NOBODY: Administration = Administration {
    owner: Uid(u32::MAX),
    group: None,
    root_describes: false,
};

/// The secret's name, and its ARN if that was given.
fn subject(resource: &str) -> Result<(SecretName, Option<&str>), ScenarioError> {
    let bad = || ScenarioError::Resource(resource.to_string());
    match resource.starts_with("arn:") {
        false => Ok((resource.parse().map_err(|_| bad())?, None)),
        true => {
            let is_secret = resource.split(':').nth(2) == Some("secretsmanager");
            let rest = resource
                .splitn(6, ':')
                .nth(5)
                .and_then(|r| r.strip_prefix("secret:"));
            let name = rest.filter(|_| is_secret).ok_or_else(bad)?;
            Ok((name.parse().map_err(|_| bad())?, Some(resource)))
        }
    }
}

/// The directory, in which every name is somebody.
struct Invented<'a> {
    real: &'a dyn Directory,
    users: RefCell<BTreeMap<String, u32>>,
    groups: RefCell<BTreeMap<String, u32>>,
}

fn invent(names: &RefCell<BTreeMap<String, u32>>, name: &str) -> u32 {
    let mut names = names.borrow_mut();
    let next = MADE_UP + 1 + u32::try_from(names.len()).unwrap_or(0);
    *names.entry(name.into()).or_insert(next)
}

impl Directory for Invented<'_> {
    fn uid_of(&self, name: &str) -> Option<Uid> {
        Some(
            self.real
                .uid_of(name)
                .unwrap_or_else(|| Uid(invent(&self.users, name))),
        )
    }
    fn gid_of(&self, name: &str) -> Option<Gid> {
        Some(
            self.real
                .gid_of(name)
                .unwrap_or_else(|| Gid(invent(&self.groups, name))),
        )
    }
    fn users(&self) -> Vec<(String, Uid)> {
        let invented = self.users.borrow();
        let invented = invented.iter().map(|(n, u)| (n.clone(), Uid(*u)));
        self.real.users().into_iter().chain(invented).collect()
    }
    fn groups(&self) -> Vec<(String, Gid)> {
        let invented = self.groups.borrow();
        let invented = invented.iter().map(|(n, g)| (n.clone(), Gid(*g)));
        self.real.groups().into_iter().chain(invented).collect()
    }
}

/// A caller in words.
struct Supposed {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    unit: Option<String>,
    service: Option<String>,
    process: ProcessState,
    now: Option<Timestamp>,
    arns: Vec<String>,
    given: Given,
}

impl Supposed {
    fn new(scenario: &Scenario, directory: &Invented<'_>) -> Supposed {
        let mut caller = Supposed {
            uid: Uid(MADE_UP),
            gid: Gid(MADE_UP),
            groups: Vec::new(),
            unit: scenario.unit.clone(),
            service: None,
            process: ProcessState::default(),
            now: None,
            arns: Vec::new(),
            given: Given {
                principal_tags: scenario.principal_tags.clone(),
                ..Given::default()
            },
        };
        match &scenario.principal {
            None => {}
            Some(Attached::Arn(arn)) => caller.is_arn(arn),
            Some(Attached::Local(local)) => match local {
                Local::User(name) => {
                    caller.uid = directory.uid_of(name).unwrap_or(caller.uid);
                    caller.given.username = Some(name.clone());
                }
                Local::Uid(uid) => caller.uid = *uid,
                Local::Group(name) => caller.groups.extend(directory.gid_of(name)),
                Local::Gid(gid) => caller.groups.push(*gid),
                Local::Unit(name) => caller.unit = Some(name.clone()),
                Local::Service(name) => caller.service = Some(name.clone()),
            },
        }
        let group = |g: &String| g.parse().map(Gid).ok().or_else(|| directory.gid_of(g));
        caller.groups.extend(scenario.groups.iter().filter_map(group));
        caller
    }

    /// The ARN, and what it says of the caller. The session of a role is the role too, to every policy.
    fn is_arn(&mut self, arn: &str) {
        self.arns.push(arn.into());
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let &[_, _, service, _, account, rest] = parts.as_slice() else {
            return;
        };
        if let ("iam", Some(user)) = (service, rest.strip_prefix("user/")) {
            self.given.username = user.rsplit('/').next().map(str::to_string);
        }
        if !account.is_empty() {
            self.given
                .context
                .insert("aws:principalaccount".into(), vec![account.into()]);
        }
    }
}

impl Facts for Supposed {
    fn uid(&self) -> Uid {
        self.uid
    }
    fn gid(&self) -> Gid {
        self.gid
    }
    fn groups(&mut self) -> Option<&[Gid]> {
        Some(&self.groups)
    }
    fn unit(&mut self) -> Option<Option<&str>> {
        Some(self.unit.as_deref())
    }
    fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }
    fn process(&mut self) -> Option<ProcessState> {
        Some(self.process)
    }
    fn now(&self) -> Timestamp {
        self.now.unwrap_or_else(Timestamp::now)
    }
    fn given(&self) -> Option<&Given> {
        Some(&self.given)
    }
}

/// What of the secret is asked for.
#[derive(Default)]
struct AskedFor {
    tags: BTreeMap<String, String>,
    version: Option<VersionId>,
    labels: Vec<Label>,
    request_tags: BTreeMap<String, String>,
    untag: Vec<String>,
}

impl AskedFor {
    /// Takes over what `--context` gives.
    fn give(
        &mut self,
        name: &str,
        values: &[String],
        caller: &mut Supposed,
        directory: &Invented<'_>,
    ) -> Result<(), ScenarioError> {
        let key = Key::named(name).map_err(|near| ScenarioError::Key {
            name: name.into(),
            near,
        })?;
        let first = values.first().map(String::as_str).unwrap_or_default();
        let bad = |value: &str, why| ScenarioError::Value {
            key: name.into(),
            value: value.into(),
            why,
        };
        let id = |value: &str| value.parse::<u32>().map_err(|_| bad(value, "a decimal id"));
        let flag = |value: &str| parse_bool(value).ok_or_else(|| bad(value, "true or false"));
        match key {
            Key::PrincipalArn => values.iter().for_each(|arn| caller.is_arn(arn)),
            Key::Username => caller.given.username = Some(first.into()),
            Key::PrincipalTag(tag) => drop(caller.given.principal_tags.insert(tag.into(), first.into())),
            Key::ResourceTag(tag) => drop(self.tags.insert(tag.into(), first.into())),
            Key::RequestTag(tag) => drop(self.request_tags.insert(tag.into(), first.into())),
            Key::TagKeys => self.untag.extend_from_slice(values),
            Key::CurrentTime | Key::EpochTime => {
                let now = parse_instant(first).ok_or_else(|| bad(first, "a time as 2026-11-25T08:00:00Z"))?;
                caller.now = Some(Timestamp(now));
            }
            Key::SecretId => return Err(bad(first, "the secret is given by --resource")),
            Key::VersionId => {
                self.version = Some(first.parse().map_err(|_| bad(first, "the id of a version"))?);
            }
            Key::VersionStage => {
                for value in values {
                    self.labels
                        .push(value.parse().map_err(|_| bad(value, "a label"))?);
                }
            }
            Key::Uid => caller.uid = Uid(id(first)?),
            Key::Gid => caller.gid = Gid(id(first)?),
            Key::Groups => {
                let group = |v: &String| v.parse().map(Gid).ok().or_else(|| directory.gid_of(v));
                caller.groups.extend(values.iter().filter_map(group));
            }
            Key::Unit => caller.unit = Some(first.into()),
            Key::NoNewPrivs => caller.process.no_new_privs = flag(first)?,
            Key::Traced => caller.process.traced = flag(first)?,
            Key::LoginUid => caller.process.login_uid = Some(id(first)?),
            Key::Foreign(known) => {
                caller
                    .given
                    .context
                    .insert(known.to_ascii_lowercase(), values.to_vec());
            }
        }
        Ok(())
    }
}
