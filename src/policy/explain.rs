//! A decision in words: what decided, and what would change the answer.

use super::action::Purpose;
use super::decide::{Basis, Decision, Layer, Layers, Reason, Traced, decide, trace};
use super::document::{Document, Effect, Principal, Statement};
use super::facts::{Facts, Request};
use super::layers::{GuardrailRecord, IdentityRecord};
use super::record::PolicyRecord;
use super::rule::Part;
use super::words;
use crate::id::printable;

/// The outcome under AWS's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is allowed.
    Allow,
    /// A Deny statement matches, or cannot be ruled out.
    ExplicitDeny,
    /// Nothing allows it.
    ImplicitDeny,
}

/// A decision, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// The outcome.
    pub decision: Answer,
    /// The statement that decided: its Sid, or `#2` for the second if it has none; before it the policy's name, where
    /// a layer has several.
    pub statement: Option<String>,
    /// The layer that decided: `guardrail`, `administration`, `identity`, `secret` or `default`.
    pub layer: &'static str,
    /// Why it is denied, under the name that records have; absent if it is allowed.
    pub reason: Option<&'static str>,
    /// What would change the answer, one way a line.
    pub change: Vec<String>,
}

/// The documents behind the layers, to name their parts.
#[derive(Debug, Default)]
pub struct Documents {
    secret: Option<Document>,
    guardrails: Vec<Document>,
    identities: Vec<Document>,
}

impl Documents {
    /// Of records that were compiled before, in the same order.
    pub fn new<'r>(
        secret: Option<&PolicyRecord>,
        guardrails: impl IntoIterator<Item = &'r GuardrailRecord>,
        identities: impl IntoIterator<Item = &'r IdentityRecord>,
    ) -> Documents {
        let parse = |record: &PolicyRecord| record.document().unwrap_or_else(|_| Document::empty());
        Documents {
            secret: secret.map(parse),
            guardrails: guardrails.into_iter().map(|r| parse(&r.policy)).collect(),
            identities: identities.into_iter().map(|r| parse(&r.policy)).collect(),
        }
    }

    /// A part of a statement, as a clause.
    pub(super) fn condition(&self, basis: Basis, part: Part) -> String {
        match (self.statement(basis), part) {
            (_, Part::Resource) => "its resource is this secret".into(),
            (Some(statement), part) => words_of(part, statement),
            (None, _) => "its conditions hold".into(),
        }
    }

    fn statement(&self, basis: Basis) -> Option<&Statement> {
        let index = basis.statement? as usize;
        let among = |all: &'_ [Document]| -> Option<(usize, usize)> {
            let mut before = 0;
            for (i, document) in all.iter().enumerate() {
                let n = document.statements.len();
                if index < before + n {
                    return Some((i, index - before));
                }
                before += n;
            }
            None
        };
        let (all, (i, j)) = match basis.layer {
            Layer::Secret => return self.secret.as_ref()?.statements.get(index),
            Layer::Guardrail => (&self.guardrails, among(&self.guardrails)?),
            Layer::Identity => (&self.identities, among(&self.identities)?),
            Layer::Administration | Layer::Default => return None,
        };
        all.get(i)?.statements.get(j)
    }
}

/// Decides, as a read does, and says what would change the answer.
pub fn explain<F: Facts + ?Sized>(
    layers: &Layers<'_>,
    documents: &Documents,
    request: &Request<'_>,
    facts: &mut F,
) -> Explanation {
    let (decision, basis, reason) = match decide(layers, request, facts) {
        Decision::Allow(grant) => (Answer::Allow, grant.basis(), None),
        Decision::Deny(refusal) => {
            // A Deny that cannot be ruled out has a statement; what is missing for an Allow has not decided.
            let by_deny = refusal.reason == Reason::ExplicitDeny
                || trace(layers, request, facts)
                    .iter()
                    .any(|t| t.effect == Effect::Deny && t.failing.is_empty() && t.basis == refusal.basis);
            let decision = if by_deny {
                Answer::ExplicitDeny
            } else {
                Answer::ImplicitDeny
            };
            (decision, refusal.basis, Some(refusal.reason))
        }
    };
    let traced = trace(layers, request, facts);
    let line = |t: &Traced, verb: &str| line(layers, documents, t, verb);
    let of = |effect| traced.iter().filter(move |t| t.effect == effect);
    let mut change: Vec<String> = match decision {
        Answer::Allow => of(Effect::Deny).map(|t| line(t, "would deny it")).collect(),
        Answer::ExplicitDeny => of(Effect::Deny)
            .filter(|t| t.failing.is_empty())
            .map(|t| {
                format!(
                    "{} denies it: it would have to go, or not match",
                    place(layers, t.basis)
                )
            })
            .collect(),
        Answer::ImplicitDeny => Vec::new(),
    };
    let ceiling = basis.layer == Layer::Guardrail && basis.statement.is_none();
    if decision != Answer::Allow {
        let allows = of(Effect::Allow).filter(|t| !ceiling || t.basis.layer == Layer::Guardrail);
        let missing: Vec<String> = allows
            .filter(|t| !t.failing.is_empty())
            .map(|t| line(t, "would allow it"))
            .collect();
        let allowed = of(Effect::Allow).any(|t| t.failing.is_empty() && t.basis.layer != Layer::Guardrail);
        if decision == Answer::ImplicitDeny || !allowed {
            change.extend(missing);
        }
        if ceiling {
            change.insert(
                0,
                format!(
                    "a guardrail with Allow statements has none for {}",
                    request.action
                ),
            );
        } else if !allowed && decision == Answer::ImplicitDeny {
            change.push(format!(
                "a statement that allows {} to the caller",
                request.action
            ));
        }
    }
    Explanation {
        decision,
        statement: layers.statement_id(basis).map(str::to_string),
        layer: basis.layer.code(),
        reason: reason.map(Reason::code),
        change,
    }
}

pub(super) fn place(layers: &Layers<'_>, basis: Basis) -> String {
    let id = printable(layers.statement_id(basis).unwrap_or("?"));
    match basis.layer {
        Layer::Guardrail => format!("guardrail statement {id}"),
        Layer::Identity => format!("identity statement {id}"),
        _ => format!("statement {id} of the secret's policy"),
    }
}

fn line(layers: &Layers<'_>, documents: &Documents, traced: &Traced, verb: &str) -> String {
    let place = place(layers, traced.basis);
    let Some(statement) = documents.statement(traced.basis) else {
        return format!("{place} {verb} otherwise");
    };
    let mut parts: Vec<String> = traced
        .failing
        .iter()
        .map(|part| words_of(*part, statement))
        .collect();
    parts.dedup();
    format!("{place} {verb} if {}", printable(&parts.join(", and ")))
}

/// What would have to hold, as a clause.
fn words_of(part: Part, statement: &Statement) -> String {
    match part {
        Part::Condition(i) => statement
            .conditions
            .get(usize::from(i))
            .map_or_else(|| "its conditions held".to_string(), words::condition),
        Part::Resource => "its resource were this secret".to_string(),
        Part::Principal => {
            let who = statement.principal.items.iter().map(|p| match p {
                Principal::Everyone => "whom it is attached to".to_string(),
                Principal::Aws(arn) => arn.value.clone(),
                Principal::Local(local) => local.value.to_string(),
            });
            let who: Vec<String> = who.collect();
            let not = if statement.principal.negated { "not " } else { "" };
            format!("the caller were {not}{}", who.join(" or "))
        }
    }
}

/// What a grant of this action is for, where nothing more is meant.
impl Purpose {
    /// Reading for what hands out values, else administration.
    pub fn of(action: super::Action) -> Purpose {
        if action.reads_value() {
            Purpose::Read
        } else {
            Purpose::Administer
        }
    }
}
