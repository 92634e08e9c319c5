//! The process behind a file request.

use std::sync::Arc;

use crate::access::{Caller, CallerKey};
use crate::audit::{Identity, Who};
use crate::id::{Gid, Uid};
use crate::policy::{Facts, ProcessState, Reason};
use crate::sys::accounts::{self, Namespace};
use crate::sys::caller::{Hardening, Header, Identified, Observer, Unidentified};

/// The caller of one request: the kernel's uid and gid at once, the rest when it is asked for. The thread is
/// blocked in this very request, so what is read now is his.
pub struct RequestCaller<'o> {
    header: Header,
    process: Process<'o>,
    relaxed: bool,
    answered: Answered,
    /// What a Deny counts besides, once it was asked for.
    other_uids: Option<Option<Arc<[Uid]>>>,
    other_groups: Option<Option<Arc<[Gid]>>>,
}

/// By what right a caller was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// His own.
    ByRight,
    /// None: everybody is answered this.
    Barely,
}

enum Process<'o> {
    NotLooked(&'o mut Observer),
    Known(Identified<'o>),
    Unknown(Unidentified),
}

impl<'o> RequestCaller<'o> {
    /// For the ids of a request's header.
    pub fn new(header: Header, observer: &'o mut Observer) -> Self {
        RequestCaller {
            header,
            process: Process::NotLooked(observer),
            relaxed: false,
            answered: Answered::ByRight,
            other_uids: None,
            other_groups: None,
        }
    }

    /// By what right he was answered.
    pub fn answered(&self) -> Answered {
        self.answered
    }

    /// Who cannot be looked at may be anywhere.
    fn namespace(&mut self) -> Namespace {
        let relaxed = self.relaxed;
        self.look().map_or(Namespace::Foreign, |known| match relaxed {
            true => known.namespace_lately(),
            false => known.namespace(),
        })
    }

    fn look(&mut self) -> Result<&mut Identified<'o>, Unidentified> {
        if let Process::NotLooked(_) = self.process {
            let before = std::mem::replace(&mut self.process, Process::Unknown(Unidentified::Gone));
            if let Process::NotLooked(observer) = before {
                self.process = match observer.identify(&self.header) {
                    Ok(known) => Process::Known(known),
                    Err(why) => Process::Unknown(why),
                };
            }
        }
        match &mut self.process {
            Process::Known(known) => Ok(known),
            Process::Unknown(why) => Err(*why),
            Process::NotLooked(_) => Err(Unidentified::Gone),
        }
    }
}

impl Facts for RequestCaller<'_> {
    fn uid(&self) -> Uid {
        self.header.uid
    }

    fn gid(&self) -> Gid {
        self.header.gid
    }

    fn groups(&mut self) -> Option<&[Gid]> {
        let relaxed = self.relaxed;
        let known = self.look().ok()?;
        if relaxed {
            known.groups_for_record()
        } else {
            known.groups()
        }
        .ok()
    }

    fn other_uids(&mut self) -> Option<&[Uid]> {
        if self.other_uids.is_none() {
            self.other_uids = Some(accounts::others(self.header.uid, || self.namespace()));
        }
        self.other_uids.as_ref()?.as_deref()
    }

    fn other_groups(&mut self) -> Option<&[Gid]> {
        if self.other_groups.is_none() {
            self.other_groups = Some(accounts::groups(self.header.uid, || self.namespace()));
        }
        self.other_groups.as_ref()?.as_deref()
    }

    fn unit(&mut self) -> Option<Option<&str>> {
        self.look().ok()?.unit().ok()
    }

    fn service(&self) -> Option<&str> {
        None
    }

    fn process(&mut self) -> Option<ProcessState> {
        let Hardening {
            no_new_privs,
            traced,
            login_uid,
        } = self.look().ok()?.hardening().ok()?;
        Some(ProcessState {
            no_new_privs,
            traced,
            login_uid,
        })
    }
}

impl Caller for RequestCaller<'_> {
    fn identify(&mut self) -> Result<(), Reason> {
        self.look().map(drop).map_err(|why| match why {
            Unidentified::NoPid | Unidentified::Gone => Reason::NoPid,
            Unidentified::CredMismatch => Reason::CredMismatch,
            Unidentified::IoWorker => Reason::IoWorker,
        })
    }

    fn who(&mut self, detail: Identity) -> Who<'_> {
        let header = Who {
            uid: self.header.uid.0,
            gid: self.header.gid.0,
            ..Who::default()
        };
        if detail == Identity::Short {
            return header;
        }
        let tid = Some(self.header.tid.0).filter(|t| *t != 0);
        match self.look() {
            Ok(known) => {
                let facts = known.for_record();
                Who {
                    groups: facts.groups,
                    pid: Some(facts.pid.0),
                    tid,
                    start_time: facts.start_time,
                    command: Some(facts.command),
                    unit: facts.unit,
                    login_uid: facts.login_uid,
                    ..header
                }
            }
            Err(_) => Who { tid, ..header },
        }
    }

    fn relax(&mut self, relaxed: bool) {
        self.relaxed = relaxed;
        (self.other_uids, self.other_groups) = (None, None);
    }

    fn barely_answered(&mut self) {
        self.answered = Answered::Barely;
    }

    fn was_served(&mut self) {
        if let Process::Known(known) = &mut self.process {
            known.was_served();
        }
    }

    fn relied_on_the_past(&self) -> bool {
        matches!(&self.process, Process::Known(known) if known.is_of_the_past())
    }

    fn thread(&self) -> u32 {
        self.header.tid.0
    }

    fn key(&mut self) -> CallerKey {
        let start = self.look().ok().and_then(|known| known.start_time());
        CallerKey {
            uid: self.header.uid.0,
            gid: self.header.gid.0,
            tid: self.header.tid.0,
            start,
        }
    }

    fn door(&self) -> &'static str {
        "mount"
    }
}
