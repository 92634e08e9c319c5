//! Tests of the policy room. The tables here are what NSS, `/proc` and `wardfs.toml` are elsewhere.

mod besides;
mod brought;
mod differential;
mod documents;
mod edges;
mod edits;
mod explaining;
mod foreign;
mod gains;
mod layers;
mod operators;
mod readers;
mod roles;
mod rules;
mod simulation;

use super::*;
use crate::clock::Timestamp;
use crate::id::{Gid, Label, SecretId, SecretName, Uid};

pub(super) const ROLE: &str = "arn:aws:iam::111122223333:role/app";
pub(super) const BOT: &str = "arn:aws:iam::111122223333:user/bot";

/// Users and groups.
pub(super) struct Book;

const USERS: [(&str, u32); 7] = [
    ("root", 0),
    ("toor", 0),
    ("www-data", 33),
    ("alice", 1000),
    ("bob", 1001),
    ("svc-a", 1002),
    ("dyn", 61200),
];
const GROUPS: [(&str, u32); 4] = [("root", 0), ("backup", 34), ("ops", 100), ("dyn", 61200)];

impl Directory for Book {
    fn uid_of(&self, name: &str) -> Option<Uid> {
        USERS.iter().find(|u| u.0 == name).map(|u| Uid(u.1))
    }
    fn gid_of(&self, name: &str) -> Option<Gid> {
        GROUPS.iter().find(|g| g.0 == name).map(|g| Gid(g.1))
    }
    fn users(&self) -> Vec<(String, Uid)> {
        USERS.iter().map(|u| (u.0.into(), Uid(u.1))).collect()
    }
    fn groups(&self) -> Vec<(String, Gid)> {
        GROUPS.iter().map(|g| (g.0.into(), Gid(g.1))).collect()
    }
}

/// A caller, who counts what was asked about him.
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub groups: Option<Vec<Gid>>,
    pub unit: Option<Option<String>>,
    pub service: Option<String>,
    pub process: Option<ProcessState>,
    pub now: i64,
    pub other_uids: Option<Vec<Uid>>,
    pub other_groups: Option<Vec<Gid>>,
    pub asked_groups: usize,
    pub asked_besides: usize,
    /// For the plain evaluator: each of his groups counts as his gid.
    pub choosy: bool,
    pub asked_unit: usize,
}

impl Caller {
    /// In no supplementary group and no unit.
    pub fn new(uid: u32, gid: u32) -> Self {
        Caller {
            uid,
            gid,
            groups: Some(Vec::new()),
            unit: Some(None),
            process: Some(ProcessState::default()),
            other_uids: Some(Vec::new()),
            other_groups: Some(Vec::new()),
            ..Caller::default()
        }
    }
    /// Whom else he may be, and which groups he may have dropped.
    pub fn besides(mut self, uids: Option<&[u32]>, groups: Option<&[u32]>) -> Self {
        self.other_uids = uids.map(|all| all.iter().map(|u| Uid(*u)).collect());
        self.other_groups = groups.map(|all| all.iter().map(|g| Gid(*g)).collect());
        self
    }
    pub fn groups(mut self, groups: &[u32]) -> Self {
        self.groups = Some(groups.iter().map(|g| Gid(*g)).collect());
        self
    }
    pub fn unit(mut self, unit: &str) -> Self {
        self.unit = Some(Some(unit.into()));
        self
    }
    pub fn service(mut self, service: &str) -> Self {
        self.service = Some(service.into());
        self
    }
    /// Nothing is known but uid and gid.
    pub fn opaque(mut self) -> Self {
        (self.groups, self.unit, self.process) = (None, None, None);
        self
    }
}

impl Facts for Caller {
    fn uid(&self) -> Uid {
        Uid(self.uid)
    }
    fn gid(&self) -> Gid {
        Gid(self.gid)
    }
    fn groups(&mut self) -> Option<&[Gid]> {
        self.asked_groups += 1;
        self.groups.as_deref()
    }
    fn other_uids(&mut self) -> Option<&[Uid]> {
        self.asked_besides += 1;
        self.other_uids.as_deref()
    }
    fn other_groups(&mut self) -> Option<&[Gid]> {
        self.asked_besides += 1;
        self.other_groups.as_deref()
    }
    fn unit(&mut self) -> Option<Option<&str>> {
        self.asked_unit += 1;
        self.unit.as_ref().map(|u| u.as_deref())
    }
    fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }
    fn process(&mut self) -> Option<ProcessState> {
        self.process
    }
    fn now(&self) -> Timestamp {
        Timestamp(self.now * 1_000_000)
    }
}

pub(super) fn secret() -> SecretName {
    "app/db".parse().unwrap()
}

/// The role is alice and unit `app.service`, the bot group `ops`.
pub(super) fn map() -> PrincipalMap {
    let locals = |l: &[&str]| l.iter().map(|l| l.parse().unwrap()).collect();
    PrincipalMap(
        [
            (ROLE.into(), locals(&["user:alice", "unit:app.service"])),
            (BOT.into(), locals(&["group:ops"])),
        ]
        .into(),
    )
}

pub(super) fn resolve(text: &str) -> Result<(PolicyRecord, Vec<Warning>), PolicyError> {
    PolicyRecord::resolve(text, &map(), &Book, &secret(), None)
}

#[track_caller]
pub(super) fn refused(text: &str) -> PolicyError {
    match resolve(text) {
        Err(e) => e,
        Ok(_) => panic!("accepted: {text}"),
    }
}

#[track_caller]
pub(super) fn compiled(text: &str) -> Compiled {
    match resolve(text) {
        Ok((record, _)) => record.compile(&secret(), None).unwrap(),
        Err(e) => panic!("{e}\n{text}"),
    }
}

/// A policy of one statement from its fields but the resource.
pub(super) fn statement(fields: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{{"Resource":"*",{fields}}}]}}"#)
}

/// `(effect, condition)` for everybody and every action.
pub(super) fn when(effect: &str, condition: &str) -> String {
    statement(&format!(
        r#""Effect":"{effect}","Principal":"*","Action":"secretsmanager:*","Condition":{condition}"#
    ))
}

/// A verdict that can be compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Yes(Layer, Option<u32>),
    No(Reason, Layer, Option<u32>),
}

pub(super) const ADMINISTRATION: Administration = Administration {
    owner: crate::id::ROOT,
    group: Some(Gid(900)),
    root_describes: true,
};

pub(super) fn ask(
    policy: Option<&Compiled>,
    action: Action,
    labels: &[Label],
    caller: &mut Caller,
    administration: &Administration,
) -> Verdict {
    let purpose = if action.reads_value() {
        Purpose::Read
    } else {
        Purpose::Administer
    };
    let name = secret();
    let request = Request {
        labels,
        ..Request::new(action, purpose, SecretId(7), &name)
    };
    let shared = Shared::default();
    let layers = Layers {
        administration,
        shared: &shared,
        secret: policy,
    };
    verdict(&layers, &request, caller)
}

/// The decision, in a form that can be compared.
pub(super) fn verdict(layers: &Layers<'_>, request: &Request<'_>, caller: &mut Caller) -> Verdict {
    match decide(layers, request, caller) {
        Decision::Allow(g) => {
            assert_eq!(
                (g.action(), g.purpose(), g.secret()),
                (request.action, request.purpose, request.secret)
            );
            Verdict::Yes(g.basis().layer, g.basis().statement)
        }
        Decision::Deny(r) => Verdict::No(r.reason, r.basis.layer, r.basis.statement),
    }
}

/// A read of the current version.
pub(super) fn read(policy: &Compiled, mut caller: Caller) -> Verdict {
    ask(
        Some(policy),
        Action::GetSecretValue,
        &[Label::current()],
        &mut caller,
        &ADMINISTRATION,
    )
}

pub(super) const ALLOWED: Verdict = Verdict::Yes(Layer::Secret, Some(0));
pub(super) const DENIED: Verdict = Verdict::No(Reason::ExplicitDeny, Layer::Secret, Some(0));
pub(super) const NOTHING: Verdict = Verdict::No(Reason::ImplicitDeny, Layer::Default, None);
pub(super) const UNKNOWN: Verdict = Verdict::No(Reason::NoPid, Layer::Secret, Some(0));
