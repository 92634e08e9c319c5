//! The decision. No allocation, no I/O, no clock.

use super::action::{Action, Purpose};
use super::compile::Compiled;
use super::pattern::glob;
use super::rule::{Cost, Numbers, Presence, Rule, Test, What, Who};
use crate::id::{Gid, Label, SecretId, SecretName, Uid};

/// What is known of the caller. The costly facts are asked for only if the outcome depends on them; one may be
/// asked for more than once in a decision, so an implementation keeps its first answer.
pub trait Facts {
    /// The kernel's word.
    fn uid(&self) -> Uid;
    /// The kernel's word.
    fn gid(&self) -> Gid;
    /// The supplementary groups; `None` if they cannot be had.
    fn groups(&mut self) -> Option<&[Gid]>;
    /// The systemd unit: `None` if it cannot be had, `Some(None)` outside of any.
    fn unit(&mut self) -> Option<Option<&str>>;
    /// The part of wardfs that asks, such as `wardfs-rotator`.
    fn service(&self) -> Option<&str>;
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The action.
    pub action: Action,
    /// What the grant is for; it has to fit the action ([`Purpose::covers`]).
    pub purpose: Purpose,
    /// The secret.
    pub secret: SecretId,
    /// Its name, which has to be the one that its policy was compiled for.
    pub name: &'a SecretName,
    /// The labels of the version that is asked for; empty if no version is meant or it has none.
    pub labels: &'a [Label],
}

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

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basis {
    /// The layer.
    pub layer: Layer,
    /// The statement's index in that layer's document, for [`Compiled::statement_id`].
    pub statement: Option<u16>,
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

    fn secret(rule: &Rule) -> Basis {
        Basis {
            layer: Layer::Secret,
            statement: Some(rule.index),
        }
    }
}

/// A layer of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The built-in one.
    Administration,
    /// The secret's own policy.
    Secret,
    /// None: what nothing allows is denied.
    Default,
}

impl Layer {
    /// As in records: `administration`, `secret`, `default`.
    pub fn code(self) -> &'static str {
        match self {
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

/// Decides: an explicit Deny, else the built-in layer, else an Allow of the secret's policy, else no.
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
    if layers.secret.is_some_and(|policy| policy.name != *request.name) {
        return deny(Reason::OtherSecret, Basis::DEFAULT);
    }
    let (denies, allows) = layers
        .secret
        .map_or((&[][..], &[][..]), |p| (&*p.denies, &*p.allows));
    let about = |rule: &&Rule| rule.actions.contains(request.action);
    let owner = facts.uid() == layers.administration.owner;
    let mut asker = Asker {
        request,
        facts,
        lacking: false,
    };

    if !(owner && is_policy_setting(request.action)) {
        let mut unknown = None;
        for rule in denies.iter().filter(about) {
            match asker.rule(rule) {
                Tri::Yes => return deny(Reason::ExplicitDeny, Basis::secret(rule)),
                Tri::Unknown if unknown.is_none() => unknown = Some(Basis::secret(rule)),
                Tri::Unknown | Tri::No => {}
            }
        }
        if let Some(basis) = unknown {
            return deny(asker.reason(Reason::ExplicitDeny), basis);
        }
    }

    if owner && administers(request.action, true, layers.administration) {
        return allow(Basis::ADMINISTRATION);
    }
    let mut unknown = None;
    let free = allows.partition_point(|r| r.cost() == Cost::Free);
    for rule in allows[..free].iter().filter(about) {
        match asker.rule(rule) {
            Tri::Yes => return allow(Basis::secret(rule)),
            Tri::Unknown => unknown = Some(Basis::secret(rule)),
            Tri::No => {}
        }
    }
    if let Some(group) = layers.administration.group
        && !owner
        && administers(request.action, false, layers.administration)
    {
        match asker.groups(|g| g == group) {
            Tri::Yes => return allow(Basis::ADMINISTRATION),
            Tri::Unknown => unknown = Some(Basis::ADMINISTRATION),
            Tri::No => {}
        }
    }
    for rule in allows[free..].iter().filter(about) {
        match asker.rule(rule) {
            Tri::Yes => return allow(Basis::secret(rule)),
            Tri::Unknown => unknown = unknown.or(Some(Basis::secret(rule))),
            Tri::No => {}
        }
    }
    match unknown {
        Some(basis) => deny(asker.reason(Reason::ImplicitDeny), basis),
        None => deny(Reason::ImplicitDeny, Basis::DEFAULT),
    }
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
        | UntagResource => owner,
        GetSecretValue
        | BatchGetSecretValue
        | ReplicateSecretToRegions
        | RemoveRegionsFromReplication
        | StopReplicationToReplica => false,
    }
}

/// Kleene's three values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tri {
    No,
    Unknown,
    Yes,
}

impl Tri {
    fn or(self, other: impl FnOnce() -> Tri) -> Tri {
        match self {
            Tri::Yes => Tri::Yes,
            Tri::No => other(),
            Tri::Unknown => match other() {
                Tri::Yes => Tri::Yes,
                Tri::No | Tri::Unknown => Tri::Unknown,
            },
        }
    }
}

impl std::ops::Not for Tri {
    type Output = Tri;
    fn not(self) -> Tri {
        match self {
            Tri::No => Tri::Yes,
            Tri::Unknown => Tri::Unknown,
            Tri::Yes => Tri::No,
        }
    }
}

impl From<bool> for Tri {
    fn from(b: bool) -> Tri {
        if b { Tri::Yes } else { Tri::No }
    }
}

struct Asker<'a, F: ?Sized> {
    request: &'a Request<'a>,
    facts: &'a mut F,
    /// Whether a fact could not be had.
    lacking: bool,
}

impl<F: Facts + ?Sized> Asker<'_, F> {
    /// The reason of a refusal that an unknown brought about.
    fn reason(&self, otherwise: Reason) -> Reason {
        if self.lacking { Reason::NoPid } else { otherwise }
    }

    fn rule(&mut self, rule: &Rule) -> Tri {
        let mut all = Tri::Yes;
        for test in &rule.tests {
            match self.test(test) {
                Tri::No => return Tri::No,
                Tri::Unknown => all = Tri::Unknown,
                Tri::Yes => {}
            }
        }
        all
    }

    fn test(&mut self, test: &Test) -> Tri {
        let found = self.what(&test.what);
        let holds = if test.negated { !found } else { found };
        match &test.unless_absent {
            None => holds,
            Some(presence) => holds.or(|| !self.present(presence)),
        }
    }

    fn what(&mut self, what: &What) -> Tri {
        match what {
            What::Const(answer) => (*answer).into(),
            What::Who(who) => self.who(who),
            What::Uid(numbers) => numbers.contains(self.facts.uid().0).into(),
            What::Gid(numbers) => numbers.contains(self.facts.gid().0).into(),
            What::Groups(numbers) => self.groups(|g| numbers.contains(g.0)),
            What::Unit(words) => self.unit(|unit| unit.is_some_and(|u| words.iter().any(|w| w.matches(u)))),
            What::Stage(words) => {
                let mut labels = self.request.labels.iter();
                // A label counts under AWS's name for it too.
                labels
                    .any(|l| {
                        words
                            .iter()
                            .any(|w| w.matches(l.as_str()) || alias(l.as_str()).is_some_and(|a| w.matches(a)))
                    })
                    .into()
            }
            What::Absent(presence) => !self.present(presence),
        }
    }

    fn present(&mut self, presence: &Presence) -> Tri {
        match presence {
            Presence::Always => Tri::Yes,
            Presence::Never => Tri::No,
            Presence::Arn(who) => self.who(who),
            Presence::Username(uids) => match uids.binary_search(&self.facts.uid().0) {
                Ok(_) => Tri::Yes,
                Err(_) => Tri::Unknown,
            },
            Presence::Unit => self.unit(|unit| unit.is_some()),
            Presence::Stage => (!self.request.labels.is_empty()).into(),
        }
    }

    fn who(&mut self, who: &Who) -> Tri {
        let Who {
            everyone,
            uids,
            gids,
            units,
            services,
        } = who;
        if *everyone
            || uids.binary_search(&self.facts.uid().0).is_ok()
            || self
                .facts
                .service()
                .is_some_and(|s| services.iter().any(|x| x == s))
        {
            return Tri::Yes;
        }
        let by_group = match gids.is_empty() {
            true => Tri::No,
            false => self.groups(|g| gids.binary_search(&g.0).is_ok()),
        };
        by_group.or(|| match units.is_empty() {
            true => Tri::No,
            false => self.unit(|unit| unit.is_some_and(|u| units.iter().any(|x| x == u))),
        })
    }

    /// Whether the gid or a supplementary group is one of those.
    fn groups(&mut self, is: impl Fn(Gid) -> bool) -> Tri {
        if is(self.facts.gid()) {
            return Tri::Yes;
        }
        match self.facts.groups() {
            Some(groups) => groups.iter().any(|g| is(*g)).into(),
            None => {
                self.lacking = true;
                Tri::Unknown
            }
        }
    }

    fn unit(&mut self, is: impl Fn(Option<&str>) -> bool) -> Tri {
        match self.facts.unit() {
            Some(unit) => is(unit).into(),
            None => {
                self.lacking = true;
                Tri::Unknown
            }
        }
    }
}

impl Numbers {
    fn contains(&self, id: u32) -> bool {
        if self.exact.binary_search(&id).is_ok() {
            return true;
        }
        if self.patterns.is_empty() {
            return false;
        }
        let mut digits = [0; 10];
        let text = decimal(id, &mut digits);
        self.patterns.iter().any(|p| glob(p, text))
    }
}

/// The number in decimal, in a buffer of the caller.
fn decimal(mut n: u32, digits: &mut [u8; 10]) -> &str {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    // Digits are ASCII; the empty text would match nothing but `*`.
    std::str::from_utf8(&digits[at..]).unwrap_or_default()
}

/// AWS's name for a label.
fn alias(label: &str) -> Option<&'static str> {
    match label {
        "current" => Some("AWSCURRENT"),
        "pending" => Some("AWSPENDING"),
        "previous" => Some("AWSPREVIOUS"),
        _ => None,
    }
}
