//! The decision. No I/O; no clock where no rule asks for the time; no allocation where none has a variable.

use super::action::{Action, Purpose};
use super::ask::{Asker, Tri};
use super::compile::Compiled;
use super::document::Effect;
use super::facts::{Facts, Request};
use super::layers::{Bound, Shared};
use super::rule::{Cost, Part, Rule};
use crate::id::{Gid, SecretId, Uid};
use crate::problem::{Exit, Problem};

/// The built-in layer: the store's owner and the members of a group administer, and nobody reads by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Administration {
    /// Whose store it is: root, or in a private store the user who made it.
    pub owner: Uid,
    /// The gid of the group `wardfs`, if there is one.
    pub group: Option<Gid>,
    /// Whether the owner may describe every secret.
    pub root_describes: bool,
}

/// What a request has to pass.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// The built-in layer.
    pub administration: &'a Administration,
    /// Guardrails and identity policies.
    pub shared: &'a Shared,
    /// The secret's own policy.
    pub secret: Option<&'a Compiled>,
}

/// The outcome.
#[derive(Debug)]
#[must_use]
pub enum Decision {
    /// Yes, and the proof of it.
    Allow(Grant),
    /// No, and why.
    Deny(Refusal),
}

/// The proof of an allowed request. Only [`decide`] makes it, and it can be neither copied nor changed.
///
/// ```compile_fail
/// fn twice(grant: wardfs::policy::Grant) -> [wardfs::policy::Grant; 2] {
///     [grant.clone(), grant]
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Grant {
    purpose: Purpose,
    action: Action,
    secret: SecretId,
    basis: Basis,
}

impl Grant {
    /// What it may be used for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }
    /// The secret that it is about.
    pub fn secret(&self) -> SecretId {
        self.secret
    }
    /// The action that was asked for.
    pub fn action(&self) -> Action {
        self.action
    }
    /// What allowed it.
    pub fn basis(&self) -> Basis {
        self.basis
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of reason.
    pub reason: Reason,
    /// What decided.
    pub basis: Basis,
}

impl Refusal {
    /// As whoever asked for `action` is told.
    pub fn problem(&self, what: impl Into<String>, action: Action) -> Problem {
        let why = format!("{} is not allowed to you ({})", action.name(), self.reason.code());
        Problem::new(Exit::Denied, what, why).next(match self.basis.layer {
            Layer::Guardrail => "guardrails bind everybody, root included: wardfs guardrail list",
            _ => "ask root, or whoever else administers this store",
        })
    }
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basis {
    /// The layer.
    pub layer: Layer,
    /// The statement, counted within the layer, for [`Layers::statement_id`].
    pub statement: Option<u32>,
}

impl Basis {
    /// Nothing decided: the default is deny.
    pub const DEFAULT: Basis = Basis {
        layer: Layer::Default,
        statement: None,
    };
    const ADMINISTRATION: Basis = Basis {
        layer: Layer::Administration,
        statement: None,
    };

    /// A guardrail with Allow statements, none of which allows it.
    const CEILING: Basis = Basis {
        layer: Layer::Guardrail,
        statement: None,
    };

    fn of((layer, rule): (Layer, &Rule)) -> Basis {
        Basis {
            layer,
            statement: Some(rule.index),
        }
    }
}

/// A layer of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Guardrails: what nobody may, root included.
    Guardrail,
    /// The built-in one.
    Administration,
    /// Identity policies: what a principal may, on any secret.
    Identity,
    /// The secret's own policy.
    Secret,
    /// None: what nothing allows is denied.
    Default,
}

impl Layer {
    /// As in records: `guardrail`, `administration`, `identity`, `secret`, `default`.
    pub fn code(self) -> &'static str {
        match self {
            Layer::Guardrail => "guardrail",
            Layer::Identity => "identity",
            Layer::Administration => "administration",
            Layer::Secret => "secret",
            Layer::Default => "default",
        }
    }
}

/// The kinds of reason for a refusal. Some are given by the upper floors, before there is anything to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Nothing allows it.
    ImplicitDeny,
    /// A Deny statement matches.
    ExplicitDeny,
    /// It depends on facts of the process, and they cannot be had.
    NoPid,
    /// The process is not who the request says.
    CredMismatch,
    /// A kernel worker acts for the process.
    IoWorker,
    /// A fill of the page cache, which would outlive the decision.
    PageCacheRefused,
    /// The purpose does not fit the action.
    PurposeMismatch,
    /// The policy was compiled for another secret.
    OtherSecret,
    /// The version was destroyed after it was opened.
    Revoked,
    /// io_uring's second read of what it was given: no denial, but the end of a read.
    IoUringRetry,
}

impl Reason {
    /// As in records: `implicit_deny`, …
    pub fn code(self) -> &'static str {
        match self {
            Reason::ImplicitDeny => "implicit_deny",
            Reason::ExplicitDeny => "explicit_deny",
            Reason::NoPid => "no_pid",
            Reason::CredMismatch => "cred_mismatch",
            Reason::IoWorker => "io_worker",
            Reason::PageCacheRefused => "page_cache_refused",
            Reason::PurposeMismatch => "purpose_mismatch",
            Reason::OtherSecret => "other_secret",
            Reason::Revoked => "revoked",
            Reason::IoUringRetry => "io_uring_retry",
        }
    }
}

impl<'a> Layers<'a> {
    /// The name of the statement that decided: its Sid, or `#2` for the second if it has none; before it, for the
    /// layers that have many policies, the policy's and a slash.
    pub fn statement_id(&self, basis: Basis) -> Option<&'a str> {
        let index = basis.statement?;
        match basis.layer {
            Layer::Secret => Some(self.secret?.statement_id(index)),
            layer => self.shared.statement_id(layer, index),
        }
    }

    /// Every Deny that may bind this caller, in the order in which layers are asked.
    fn denies(&self, bound: Bound, own: bool) -> impl Iterator<Item = (Layer, &Rule)> {
        let own = self.secret.filter(|_| own).map_or(&[][..], |p| &p.rules().denies);
        let guardrails = self.shared.guardrails.iter().flat_map(|g| &g.denies);
        let identities = self.shared.denies_to(bound);
        guardrails
            .map(|r| (Layer::Guardrail, r))
            .chain(identities)
            .chain(own.iter().map(|r| (Layer::Secret, r)))
    }

    fn allows(&self, uid: Uid, free: bool) -> impl Iterator<Item = (Layer, &Rule)> {
        let part = move |rules: &'_ [Rule]| rules.partition_point(|r| r.cost() == Cost::Free);
        let cut = move |rules: &'_ [Rule]| {
            if free {
                0..part(rules)
            } else {
                part(rules)..rules.len()
            }
        };
        let own = self.secret.map_or(&[][..], |p| &p.rules().allows);
        let identities = self
            .shared
            .identities(uid)
            .flat_map(move |rules| &rules.allows[cut(&rules.allows)]);
        own[cut(own)]
            .iter()
            .map(|r| (Layer::Secret, r))
            .chain(identities.map(|r| (Layer::Identity, r)))
    }
}

/// Decides, as AWS does within an account: an explicit Deny of any layer; else what a guardrail with Allow statements
/// does not allow is denied; else the built-in layer or an Allow of an identity policy or of the secret's own policy
/// is enough; else no.
///
/// A fact that cannot be had makes an Allow that needs it not match and a Deny that needs it match; if that
/// turned the scale, the reason is [`Reason::NoPid`].
pub fn decide<F: Facts + ?Sized>(layers: &Layers<'_>, request: &Request<'_>, facts: &mut F) -> Decision {
    let deny = |reason, basis| Decision::Deny(Refusal { reason, basis });
    let allow = |basis| {
        let Request {
            purpose,
            action,
            secret,
            ..
        } = *request;
        Decision::Allow(Grant {
            purpose,
            action,
            secret,
            basis,
        })
    };
    if !request.purpose.covers(request.action) {
        return deny(Reason::PurposeMismatch, Basis::DEFAULT);
    }
    if layers
        .secret
        .is_some_and(|policy| !policy.is_for(request.subject()))
    {
        return deny(Reason::OtherSecret, Basis::DEFAULT);
    }
    let about = |(_, rule): &(Layer, &Rule)| rule.actions.contains(request.action);
    let uid = facts.uid();
    let owner = uid == layers.administration.owner;
    let bound = layers.shared.bound(facts);
    let denies = layers.denies(bound, !(owner && is_policy_setting(request.action)));
    let mut asker = Asker::new(request, layers.shared, facts);

    let mut unknown = None;
    for rule in denies.filter(about) {
        match asker.rule(rule.1, Effect::Deny) {
            Tri::Yes => return deny(Reason::ExplicitDeny, Basis::of(rule)),
            Tri::Unknown if unknown.is_none() => unknown = Some(Basis::of(rule)),
            Tri::Unknown | Tri::No => {}
        }
    }
    if let Some(basis) = unknown {
        return deny(asker.reason(Reason::ExplicitDeny), basis);
    }

    for ceiling in layers
        .shared
        .guardrails
        .iter()
        .filter_map(|g| g.ceiling.as_deref())
    {
        let rules = ceiling.iter().map(|r| (Layer::Guardrail, r)).filter(about);
        let mut found = Tri::No;
        for rule in rules {
            found = found.or(|| asker.rule(rule.1, Effect::Allow));
        }
        match found {
            Tri::Yes => {}
            Tri::Unknown => return deny(asker.reason(Reason::ImplicitDeny), Basis::CEILING),
            Tri::No => return deny(Reason::ImplicitDeny, Basis::CEILING),
        }
    }

    if owner && administers(request.action, true, layers.administration) {
        return allow(Basis::ADMINISTRATION);
    }
    let mut unknown = None;
    for rule in layers.allows(uid, true).filter(about) {
        match asker.rule(rule.1, Effect::Allow) {
            Tri::Yes => return allow(Basis::of(rule)),
            Tri::Unknown => unknown = Some(Basis::of(rule)),
            Tri::No => {}
        }
    }
    if let Some(group) = layers.administration.group
        && !owner
        && administers(request.action, false, layers.administration)
    {
        match asker.own_groups(|g| g == group) {
            Tri::Yes => return allow(Basis::ADMINISTRATION),
            Tri::Unknown => unknown = Some(Basis::ADMINISTRATION),
            Tri::No => {}
        }
    }
    for rule in layers.allows(uid, false).filter(about) {
        match asker.rule(rule.1, Effect::Allow) {
            Tri::Yes => return allow(Basis::of(rule)),
            Tri::Unknown => unknown = unknown.or(Some(Basis::of(rule))),
            Tri::No => {}
        }
    }
    match unknown {
        Some(basis) if asker.lacking => deny(Reason::NoPid, basis),
        // An Allow with a variable that has no value is none.
        _ => deny(Reason::ImplicitDeny, Basis::DEFAULT),
    }
}

impl<F: Facts + ?Sized> Asker<'_, F> {
    /// The reason of a refusal that an unknown brought about.
    fn reason(&self, otherwise: Reason) -> Reason {
        if self.lacking { Reason::NoPid } else { otherwise }
    }
}

/// A statement that is about a request, and what keeps it from applying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// Where it stands, for [`Layers::statement_id`].
    pub basis: Basis,
    /// What it does when it applies.
    pub effect: Effect,
    /// Its parts that do not hold, or cannot be known; empty if it applies.
    pub failing: Vec<Part>,
}

/// Every statement that is about a request, as [`decide`] asks it: what would have to change for another answer.
pub fn trace<F: Facts + ?Sized>(layers: &Layers<'_>, request: &Request<'_>, facts: &mut F) -> Vec<Traced> {
    let uid = facts.uid();
    let own_denies = !(uid == layers.administration.owner && is_policy_setting(request.action));
    let bound = layers.shared.bound(facts);
    let denies = layers.denies(bound, own_denies);
    let mut asker = Asker::new(request, layers.shared, facts);
    let ceilings = layers
        .shared
        .guardrails
        .iter()
        .filter_map(|g| g.ceiling.as_deref())
        .flatten();
    let denies = denies.map(|r| (r, Effect::Deny));
    let allows = layers.allows(uid, true).chain(layers.allows(uid, false));
    denies
        .chain(ceilings.map(|r| ((Layer::Guardrail, r), Effect::Allow)))
        .chain(allows.map(|r| (r, Effect::Allow)))
        .filter(|((_, rule), _)| rule.actions.contains(request.action))
        .map(|(rule, effect)| {
            let holds = |answer: Tri| answer == Tri::Yes || effect == Effect::Deny && answer == Tri::Unknown;
            let failing = rule
                .1
                .tests
                .iter()
                .filter(|t| !holds(asker.test(t, effect)))
                .map(|t| t.part);
            Traced {
                basis: Basis::of(rule),
                effect,
                failing: failing.collect(),
            }
        })
        .collect()
}

/// What a secret's own policy cannot take from the store's owner.
fn is_policy_setting(action: Action) -> bool {
    matches!(action, Action::PutResourcePolicy | Action::DeleteResourcePolicy)
}

/// What the built-in layer allows the store's owner, or the members of its group.
fn administers(action: Action, owner: bool, layer: &Administration) -> bool {
    use Action::*;
    match action {
        DescribeSecret => !owner || layer.root_describes,
        CreateSecret
        | ListSecrets
        | ListSecretVersionIds
        | PutSecretValue
        | UpdateSecretVersionStage
        | RotateSecret
        | CancelRotateSecret
        | DeleteSecret
        | RestoreSecret
        | GetRandomPassword
        | ValidateResourcePolicy => true,
        // Whatever decides who reads.
        GetResourcePolicy | PutResourcePolicy | DeleteResourcePolicy | UpdateSecret | TagResource
        | UntagResource | GetGuardrail | PutGuardrail | DeleteGuardrail | GetIdentityPolicy
        | PutIdentityPolicy | DeleteIdentityPolicy | AcceptConfig | QueryLog | ArchiveLog => owner,
        GetSecretValue
        | BatchGetSecretValue
        | ReplicateSecretToRegions
        | RemoveRegionsFromReplication
        | StopReplicationToReplica => false,
    }
}
