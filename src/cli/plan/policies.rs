//! What was typed about guardrails, identities and explanations.

use std::collections::BTreeMap;

use super::{Plan, document, local, name, parse_label};
use crate::cli::args::policies::{BreakGlass, Explain, Guardrail, Identity, Policy};
use crate::control::protocol::{self, Rule};
use crate::control::protocol::{
    Attached, LayerChange, LayerKey, LayerKind, Local, Question, Request, Subject, Whom, WhyAbout,
};
use crate::id::{SecretName, quoted};
use crate::policy::Scenario;
use crate::problem::{Exit, Problem};

/// What is done past every policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What is replaced or removed.
    pub what: Target,
    /// Why.
    pub reason: String,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What is replaced or removed past every policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A secret's policy, by this document or by none.
    Policy(SecretName, Option<String>),
    /// A guardrail, or an identity's policy and tags.
    Layer(LayerKey),
    /// The log.
    Log,
}

/// A command about a secret's own policy.
pub fn policy(policy: Policy) -> Result<Plan, Problem> {
    let rules = |who: &[String], rule: fn(Local) -> Rule| {
        who.iter()
            .map(|w| local(w).map(rule))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Plan::Ask(match policy {
        Policy::Get { name: n } => Request::PolicyGet { name: name(&n)? },
        Policy::Set {
            name: n,
            file,
            dry_run: true,
            strict,
        } => {
            return Ok(Plan::PolicyDryRun {
                name: name(&n)?,
                text: document(&file)?,
                strict,
            });
        }
        Policy::Set {
            name: n,
            file,
            strict,
            dry_run: false,
        } => Request::PolicySet {
            name: name(&n)?,
            text: document(&file)?,
            strict,
        },
        Policy::Allow { name: n, who } => Request::PolicyAdd {
            name: name(&n)?,
            rules: rules(&who, Rule::Allow)?,
        },
        Policy::Deny { name: n, who } => Request::PolicyAdd {
            name: name(&n)?,
            rules: rules(&who, Rule::Deny)?,
        },
        Policy::Revoke {
            name: n,
            who,
            dry_run,
        } => Request::PolicyTakeOut {
            name: name(&n)?,
            from: protocol::TakenFrom::Allows,
            who: who.iter().map(|w| local(w)).collect::<Result<_, _>>()?,
            dry_run,
        },
        Policy::Undeny {
            name: n,
            who,
            dry_run,
        } => Request::PolicyTakeOut {
            name: name(&n)?,
            from: protocol::TakenFrom::Denies,
            who: who.iter().map(|w| local(w)).collect::<Result<_, _>>()?,
            dry_run,
        },
        Policy::Check {
            first,
            second,
            name: flag,
            strict,
        } => {
            let (named, file) = match second {
                Some(file) => (Some(first.to_string_lossy().into_owned()), file),
                None => (None, first),
            };
            if named.is_some() && flag.is_some() {
                return Err(
                    Problem::new(Exit::Usage, "nothing was checked", "the secret is named twice")
                        .next("leave --name away"),
                );
            }
            Request::PolicyCheck {
                name: named.or(flag).map(|n| name(&n)).transpose()?,
                text: document(&file)?,
                strict,
                comparison: protocol::Comparison::None,
            }
        }
        Policy::Explain(typed) => return explain(*typed),
    }))
}

pub fn guardrail(command: Guardrail) -> Result<Request, Problem> {
    Ok(match command {
        Guardrail::Set { name, file, strict } => Request::LayerSet(LayerChange {
            key: LayerKey::Guardrail(name),
            text: document(&file)?,
            tags: BTreeMap::new(),
            strict,
        }),
        Guardrail::Get { name } => Request::LayerGet {
            key: LayerKey::Guardrail(name),
        },
        Guardrail::List => Request::Layers {
            kind: LayerKind::Guardrails,
        },
        Guardrail::Remove { name, dry_run } => Request::LayerRemove {
            key: LayerKey::Guardrail(name),
            dry_run,
        },
    })
}

pub fn identity(command: Identity) -> Result<Request, Problem> {
    let key = |principal: &str| attached(principal).map(LayerKey::Identity);
    Ok(match command {
        Identity::Set {
            principal,
            file,
            tag,
            strict,
        } => Request::LayerSet(LayerChange {
            key: key(&principal)?,
            tags: tags(&tag, "--tag")?,
            text: document(&file)?,
            strict,
        }),
        Identity::Get { principal } => Request::LayerGet {
            key: key(&principal)?,
        },
        Identity::List => Request::Layers {
            kind: LayerKind::Identities,
        },
        Identity::Remove { principal, dry_run } => Request::LayerRemove {
            key: key(&principal)?,
            dry_run,
        },
    })
}

pub fn explain(typed: Explain) -> Result<Plan, Problem> {
    let Some(secret) = &typed.name else {
        return Ok(Plan::Simulate(Box::new(scenario(typed)?)));
    };
    let who = match (typed.who.as_deref(), typed.pid) {
        (_, Some(pid)) => Whom::Process(pid),
        (Some(who), None) => Whom::Somebody(local(who)?),
        (None, None) => {
            return Err(
                Problem::new(Exit::Usage, "nothing was explained", "--as does not say who asks")
                    .next("write --as user:NAME, --as uid:N, --as unit:NAME.service or --pid N"),
            );
        }
    };
    Ok(Plan::Ask(Request::PolicyExplain {
        name: name(secret)?,
        question: Question {
            subject: Subject {
                who,
                groups: typed.groups,
                unit: typed.unit,
            },
            action: typed.action,
            label: typed.label.as_deref().map(parse_label).transpose()?,
        },
    }))
}

fn scenario(typed: Explain) -> Result<Scenario, Problem> {
    let what = "nothing was explained";
    let missing =
        |flag: &str, write: &str| Problem::new(Exit::Usage, what, format!("{flag} is missing")).next(write);
    let principal = typed.principal.ok_or_else(|| {
        missing(
            "--principal",
            "write --principal user:NAME, or the ARN of a role or user",
        )
    })?;
    let resource = typed
        .resource
        .ok_or_else(|| missing("--resource", "write --resource NAME, or the ARN of a secret"))?;
    let action = typed.action.parse().map_err(|e| {
        Problem::new(Exit::Usage, what, e)
            .next("write an action like GetSecretValue or secretsmanager:GetSecretValue")
    })?;
    let documents =
        |files: &[std::path::PathBuf]| files.iter().map(|f| document(f)).collect::<Result<Vec<_>, _>>();
    let context = |text: &String| {
        let (key, values) = pair(text, "--context")?;
        Ok((key, values.split(',').map(str::to_string).collect()))
    };
    Ok(Scenario {
        policy: typed.policy.as_deref().map(document).transpose()?,
        identity_policies: documents(&typed.identity_policy)?,
        guardrails: documents(&typed.guardrail)?,
        principal: Some(attached(&principal)?),
        groups: typed.groups.unwrap_or_default(),
        unit: typed.unit,
        action: Some(action),
        resource,
        tags: tags(&typed.tag, "--tag")?,
        principal_tags: tags(&typed.principal_tag, "--principal-tag")?,
        context: typed
            .context
            .iter()
            .map(context)
            .collect::<Result<_, Problem>>()?,
    })
}

pub fn break_glass(typed: BreakGlass) -> Result<Plan, Problem> {
    if typed.reason.trim().is_empty() {
        return Err(Problem::new(Exit::Usage, "nothing was done", "--reason is empty")
            .next("say why, for whoever reads the log"));
    }
    let what = match (typed.name, (typed.guardrail, typed.identity)) {
        _ if typed.log => Target::Log,
        (None, (Some(guardrail), _)) => Target::Layer(LayerKey::Guardrail(guardrail)),
        (None, (_, Some(who))) => Target::Layer(LayerKey::Identity(attached(&who)?)),
        // Without either the name is an empty one, which the parser does not let through.
        (secret, _) => {
            let policy = typed.policy.as_deref().map(document).transpose()?;
            Target::Policy(name(&secret.unwrap_or_default())?, policy)
        }
    };
    Ok(Plan::BreakGlass(Broken {
        what,
        reason: typed.reason,
        dry_run: typed.dry_run,
    }))
}

/// Whom `why` is asked about.
pub(super) fn about(who: &str) -> Result<WhyAbout, Problem> {
    match local(who)? {
        Local::User(name) => Ok(WhyAbout::User(name)),
        Local::Uid(uid) => Ok(WhyAbout::Uid(uid.0)),
        Local::Unit(unit) => Ok(WhyAbout::Unit(unit)),
        other => Err(not_a_process(&other)),
    }
}

/// A group or a part of wardfs, where a process is meant.
pub(in crate::cli) fn not_a_process(who: &Local) -> Problem {
    let why = "a process has a user and may be in a unit; a group is one of many that it may be in";
    Problem::new(
        Exit::Usage,
        format!("{} is no process", quoted(&who.to_string())),
        why,
    )
    .next("write user:NAME, uid:N or unit:NAME.service")
}

fn attached(text: &str) -> Result<Attached, Problem> {
    text.parse().map_err(|e| {
        Problem::new(Exit::Usage, format!("{} does not say who", quoted(text)), e)
            .next("write user:NAME, uid:N, group:NAME, gid:N, unit:NAME.service, or an ARN")
    })
}

/// `KEY=VALUE`, each key once.
pub(super) fn tags(typed: &[String], flag: &str) -> Result<BTreeMap<String, String>, Problem> {
    let mut all = BTreeMap::new();
    for text in typed {
        let (key, value) = pair(text, flag)?;
        let what = || format!("{flag} {} is not understood", quoted(text));
        if key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(Problem::new(
                Exit::Usage,
                what(),
                "a tag's key has 1 to 128 characters, its value at most 256",
            )
            .next("give a shorter one"));
        }
        if all.insert(key, value).is_some() {
            return Err(
                Problem::new(Exit::Usage, what(), "that key is given twice").next("give each key once")
            );
        }
    }
    match all.len() > 50 {
        true => Err(Problem::new(
            Exit::Usage,
            format!("{flag} is given too often"),
            "there are at most 50 tags",
        )
        .next("give fewer")),
        false => Ok(all),
    }
}

pub(super) fn pair(text: &str, flag: &str) -> Result<(String, String), Problem> {
    match text.split_once('=').filter(|(key, _)| !key.is_empty()) {
        Some((key, value)) => Ok((key.into(), value.into())),
        None => Err(Problem::new(
            Exit::Usage,
            format!("{flag} {} is not understood", quoted(text)),
            "it has no KEY=VALUE",
        )
        .next(format!("write {flag} KEY=VALUE"))),
    }
}
