//! A decision allocates nothing, whatever the policy asks.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use wardfs::id::{Gid, Label, SecretId, SecretName, Uid};
use wardfs::policy::*;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; the counter is a plain cell of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is being torn down has no counter any more, and none is needed.
        let _ = COUNT.try_with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Caller {
    uid: u32,
    known: bool,
    groups: Vec<Gid>,
    unit: Option<&'static str>,
}

impl Facts for Caller {
    fn uid(&self) -> Uid {
        Uid(self.uid)
    }
    fn gid(&self) -> Gid {
        Gid(7)
    }
    fn groups(&mut self) -> Option<&[Gid]> {
        self.known.then_some(&self.groups)
    }
    fn unit(&mut self) -> Option<Option<&str>> {
        self.known.then_some(self.unit)
    }
    fn service(&self) -> Option<&str> {
        Some("wardfs-rotator")
    }
    fn process(&mut self) -> Option<ProcessState> {
        self.known.then(ProcessState::default)
    }
}

struct Nobody;

impl Directory for Nobody {
    fn uid_of(&self, name: &str) -> Option<Uid> {
        (name == "bob").then_some(Uid(1001))
    }
    fn gid_of(&self, name: &str) -> Option<Gid> {
        (name == "ops").then_some(Gid(100))
    }
    fn users(&self) -> Vec<(String, Uid)> {
        vec![("bob".into(), Uid(1001))]
    }
    fn groups(&self) -> Vec<(String, Gid)> {
        vec![("ops".into(), Gid(100))]
    }
}

const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[
 {"Effect":"Deny","NotPrincipal":{"User":"bob","Group":"ops","Unit":"a.service","Service":"x"},"Action":"*","Resource":"*",
  "Condition":{"StringNotLike":{"wardfs:Unit":["a*","?.scope"],"wardfs:Groups":["1*","o?s"]},"StringEqualsIgnoreCase":{"wardfs:Unit":"B.SERVICE"}}},
 {"Effect":"Deny","Principal":"*","Action":"*","Resource":"*",
  "Condition":{"ArnLikeIfExists":{"aws:PrincipalArn":"arn:aws:iam::*:role/*"},"Null":{"aws:username":"true","wardfs:Unit":"false"}}},
 {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::1:role/app"},"Action":"secretsmanager:Get*","Resource":"*",
  "Condition":{"StringLike":{"secretsmanager:VersionStage":"AWS*","wardfs:Uid":"10*"},"StringNotEquals":{"wardfs:Gid":"8"}}},
 {"Effect":"Allow","Principal":{"Uid":["1","2","3"],"Gid":"100","Unit":"a.service"},"Action":"*","Resource":"*"}]}"#;

#[test]
fn a_decision_allocates_nothing() {
    let name: SecretName = "app/db".parse().unwrap();
    let map: PrincipalMap =
        serde_json::from_str(r#"{"arn:aws:iam::1:role/app":["user:bob","group:ops","unit:a.service"]}"#)
            .unwrap();
    let (record, _) = PolicyRecord::resolve(POLICY, &map, &Nobody, &name, None).unwrap();
    let policy = record.compile(&name, None).unwrap();
    let administration = Administration {
        owner: wardfs::id::ROOT,
        group: Some(Gid(900)),
        root_describes: true,
    };
    let shared = Shared::default();
    let layers = Layers {
        administration: &administration,
        shared: &shared,
        secret: Some(&policy),
    };
    let labels = [Label::current()];
    let (mut allowed, mut denied) = (0, 0);
    for uid in [0, 1, 1001, 4242] {
        for known in [true, false] {
            for unit in [None, Some("a.service"), Some("b.service"), Some("x.scope")] {
                for &action in Action::ALL {
                    let purpose = if action.reads_value() {
                        Purpose::Read
                    } else {
                        Purpose::Administer
                    };
                    let request = Request {
                        labels: &labels,
                        ..Request::new(action, purpose, SecretId(1), &name)
                    };
                    let mut caller = Caller {
                        uid,
                        known,
                        groups: vec![Gid(5), Gid(100)],
                        unit,
                    };
                    let before = COUNT.get();
                    let decision = decide(&layers, &request, &mut caller);
                    assert_eq!(
                        COUNT.get() - before,
                        0,
                        "uid {uid} known {known} {unit:?} {action}"
                    );
                    match decision {
                        Decision::Allow(_) => allowed += 1,
                        Decision::Deny(_) => denied += 1,
                    }
                }
            }
        }
    }
    assert!(allowed > 10 && denied > 10, "{allowed} allowed, {denied} denied");
    let before = COUNT.get();
    drop(Box::new(1));
    assert_eq!(COUNT.get() - before, 1, "the counter counts");
}
