//! A caller whose facts are known as plain data: the peer of a control connection, the process of a command
//! that opened the store itself, or one that is only supposed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Caller, CallerKey};
use crate::audit::{Identity, Who};
use crate::id::{Gid, Pid, ROOT, Tid, Uid};
use crate::policy::{Facts, ProcessState, Reason};
use crate::sys::accounts::{self, Namespace};
use crate::sys::caller::Hardening;

/// Plain facts of a caller.
#[derive(Debug, Clone)]
pub struct KnownCaller {
    /// Effective uid.
    pub uid: Uid,
    /// Effective gid.
    pub gid: Gid,
    /// Supplementary groups; `None`: not to be had.
    pub groups: Option<Vec<Gid>>,
    /// systemd unit; `None`: not to be had, `Some(None)`: in none.
    pub unit: Option<Option<String>>,
    /// Process.
    pub pid: Option<Pid>,
    /// Thread.
    pub tid: Option<Tid>,
    /// Start of the process, in clock ticks since boot.
    pub start_time: Option<u64>,
    /// Command name, as the kernel keeps it.
    pub command: Option<Vec<u8>>,
    /// Login uid, for the record.
    pub login_uid: Option<u32>,
    /// The state of the process; `None`: not to be had.
    pub process: Option<ProcessState>,
    /// The user namespace that his process is in.
    pub namespace: Namespace,
    /// By which door he comes.
    pub door: &'static str,
    /// Set when he is gone.
    pub gone: Arc<AtomicBool>,
    /// What a Deny counts besides, once it was asked for.
    other_uids: Option<Option<Arc<[Uid]>>>,
    other_groups: Option<Option<Arc<[Gid]>>>,
}

impl KnownCaller {
    /// Somebody of whom only ids are known; he is in no unit, did not log in, and his process is an ordinary one.
    pub fn supposed(uid: Uid, gid: Gid, groups: Vec<Gid>) -> Self {
        KnownCaller {
            uid,
            gid,
            groups: Some(groups),
            unit: Some(None),
            pid: None,
            tid: None,
            start_time: None,
            command: None,
            login_uid: None,
            process: Some(ProcessState::default()),
            namespace: Namespace::Initial,
            door: "command",
            gone: Arc::default(),
            other_uids: None,
            other_groups: None,
        }
    }

    /// The same, with what was seen of his process.
    pub fn seen(mut self, process: Option<Hardening>) -> Self {
        self.process = process.map(|p| ProcessState {
            no_new_privs: p.no_new_privs,
            traced: p.traced,
            login_uid: p.login_uid,
        });
        self
    }

    /// Root without anything else.
    pub fn root() -> Self {
        Self::supposed(ROOT, Gid(0), Vec::new())
    }
}

impl Facts for KnownCaller {
    fn uid(&self) -> Uid {
        self.uid
    }
    fn gid(&self) -> Gid {
        self.gid
    }
    fn groups(&mut self) -> Option<&[Gid]> {
        self.groups.as_deref()
    }
    fn other_uids(&mut self) -> Option<&[Uid]> {
        let (uid, namespace) = (self.uid, self.namespace);
        let others = self
            .other_uids
            .get_or_insert_with(|| accounts::others(uid, || namespace));
        others.as_deref()
    }
    fn other_groups(&mut self) -> Option<&[Gid]> {
        let (uid, namespace) = (self.uid, self.namespace);
        let groups = self
            .other_groups
            .get_or_insert_with(|| accounts::groups(uid, || namespace));
        groups.as_deref()
    }
    fn unit(&mut self) -> Option<Option<&str>> {
        self.unit.as_ref().map(Option::as_deref)
    }
    fn service(&self) -> Option<&str> {
        None
    }
    fn process(&mut self) -> Option<ProcessState> {
        self.process
    }
}

impl Caller for KnownCaller {
    fn identify(&mut self) -> Result<(), Reason> {
        Ok(())
    }
    fn who(&mut self, detail: Identity) -> Who<'_> {
        let ids = Who {
            uid: self.uid.0,
            gid: self.gid.0,
            ..Who::default()
        };
        if detail == Identity::Short {
            return ids;
        }
        Who {
            groups: self.groups.as_deref(),
            pid: self.pid.map(|p| p.0),
            tid: self.tid.map(|t| t.0),
            start_time: self.start_time,
            command: self.command.as_deref(),
            unit: self.unit.as_ref().and_then(Option::as_deref),
            login_uid: self.login_uid,
            ..ids
        }
    }
    fn thread(&self) -> u32 {
        self.tid.map_or(0, |t| t.0)
    }
    fn key(&mut self) -> CallerKey {
        CallerKey {
            uid: self.uid.0,
            gid: self.gid.0,
            tid: self.tid.map_or(0, |t| t.0),
            start: self.start_time,
        }
    }
    fn gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
    fn door(&self) -> &'static str {
        self.door
    }
}
