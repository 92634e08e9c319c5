//! Random operations of several callers on a real mount, beside a model of a few lines that says what each must give.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use support::product::{A, B, Product};
use support::{Child, Deadline, Run};

const CALLERS: [u32; 3] = [A, B, 0];
const NAMES: [&str; 3] = ["m/a", "m/b", "c"];
const SLOTS: usize = 3;

/// What a caller does.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Step {
    Open { slot: usize, name: usize },
    Read { slot: usize, offset: u64, length: usize },
    Seek { slot: usize },
    Stat { name: usize },
    List,
    Attribute { name: usize },
    Poll { slot: usize },
    CloseAll,
}

/// What an administrator does.
#[derive(Debug, Clone)]
enum Change {
    Put { name: usize, length: usize },
    Readers { name: usize, mask: u8 },
    Current { name: usize, back: usize },
    Delete { name: usize },
    Restart,
}

#[derive(Debug, Clone)]
enum Op {
    Of(usize, Step),
    Change(Change),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Seen {
    Done,
    Bytes(Vec<u8>),
    Number(u64),
    Names(Vec<String>),
    Error(i32),
    /// There is no open file in that slot.
    Nothing,
}

fn step() -> impl Strategy<Value = Step> {
    let (slot, name) = (0..SLOTS, 0..NAMES.len());
    prop_oneof![
        4 => (slot.clone(), name.clone()).prop_map(|(slot, name)| Step::Open { slot, name }),
        6 => (slot.clone(), 0..40u64, 0..80usize).prop_map(|(slot, offset, length)| Step::Read { slot, offset, length }),
        1 => slot.clone().prop_map(|slot| Step::Seek { slot }),
        2 => name.clone().prop_map(|name| Step::Stat { name }),
        1 => Just(Step::List),
        1 => name.prop_map(|name| Step::Attribute { name }),
        1 => slot.prop_map(|slot| Step::Poll { slot }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..NAMES.len();
    let change = prop_oneof![
        4 => (name.clone(), 1..60usize).prop_map(|(name, length)| Change::Put { name, length }),
        4 => (name.clone(), 0..8u8).prop_map(|(name, mask)| Change::Readers { name, mask }),
        2 => (name.clone(), 1..3usize).prop_map(|(name, back)| Change::Current { name, back }),
        1 => name.prop_map(|name| Change::Delete { name }),
        1 => Just(Change::Restart),
    ];
    prop_oneof![
        3 => (0..CALLERS.len(), step()).prop_map(|(who, step)| Op::Of(who, step)),
        1 => change.prop_map(Op::Change),
    ]
}

/// A process of one uid that does what it is told.
struct Caller {
    _child: Child<()>,
    line: BufReader<UnixStream>,
}

impl Caller {
    fn start(uid: u32, target: PathBuf) -> Caller {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let child = Run::uid(uid)
            .limit(Duration::from_secs(600))
            .start(move || serve(&theirs, &target));
        Caller {
            _child: child,
            line: BufReader::new(ours),
        }
    }

    fn does(&mut self, step: &Step) -> Seen {
        let text = serde_json::to_string(step).expect("text") + "\n";
        self.line.get_mut().write_all(text.as_bytes()).expect("send");
        let mut answer = String::new();
        self.line.read_line(&mut answer).expect("an answer");
        serde_json::from_str(&answer).expect("an answer")
    }
}

fn serve(line: &UnixStream, target: &std::path::Path) {
    let mut slots: [Option<File>; SLOTS] = Default::default();
    let mut out = line;
    for order in BufReader::new(line).lines() {
        let Ok(order) = order else { return };
        let step = serde_json::from_str(&order).expect("an order");
        let seen =
            done(step, target, &mut slots).unwrap_or_else(|e| Seen::Error(e.raw_os_error().unwrap_or(0)));
        let text = serde_json::to_string(&seen).expect("text") + "\n";
        if out.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn done(step: Step, target: &std::path::Path, slots: &mut [Option<File>; SLOTS]) -> std::io::Result<Seen> {
    let of =
        |slots: &[Option<File>; SLOTS], slot: usize| slots[slot].as_ref().and_then(|f| f.try_clone().ok());
    Ok(match step {
        Step::Open { slot, name } => {
            slots[slot] = None;
            slots[slot] = Some(File::open(target.join(NAMES[name]))?);
            Seen::Done
        }
        Step::Read { slot, offset, length } => match of(slots, slot) {
            None => Seen::Nothing,
            Some(file) => {
                let mut bytes = vec![0; length];
                let count = file.read_at(&mut bytes, offset)?;
                bytes.truncate(count);
                Seen::Bytes(bytes)
            }
        },
        Step::Seek { slot } => match of(slots, slot) {
            None => Seen::Nothing,
            Some(mut file) => {
                // The position is the file's, not the copy's: nothing else here uses it.
                let end = file.seek(SeekFrom::Start(7))?;
                Seen::Number(end)
            }
        },
        Step::Stat { name } => Seen::Number(std::fs::metadata(target.join(NAMES[name]))?.len()),
        Step::List => {
            let mut names = Vec::new();
            for dir in ["", "m"] {
                match std::fs::read_dir(target.join(dir)) {
                    Ok(entries) => {
                        for entry in entries {
                            let path = entry?.path();
                            let name = path.strip_prefix(target).expect("below it");
                            names.push(name.to_string_lossy().into_owned());
                        }
                    }
                    // Who sees nothing in a directory cannot open it.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EACCES)) => {}
                    Err(e) => return Err(e),
                }
            }
            names.retain(|n| NAMES.contains(&n.as_str()));
            names.sort();
            Seen::Names(names)
        }
        Step::Attribute { name } => {
            let path =
                std::ffi::CString::new(target.join(NAMES[name]).to_str().expect("text")).expect("a path");
            let mut value = [0u8; 256];
            // SAFETY: both strings end in a zero byte, and the buffer has the length that is given.
            let count = unsafe {
                libc::getxattr(
                    path.as_ptr(),
                    c"user.wardfs.version".as_ptr(),
                    value.as_mut_ptr().cast(),
                    value.len(),
                )
            };
            match usize::try_from(count) {
                Ok(count) => Seen::Bytes(value[..count].to_vec()),
                Err(_) => return Err(std::io::Error::last_os_error()),
            }
        }
        Step::Poll { slot } => match of(slots, slot) {
            None => Seen::Nothing,
            Some(file) => {
                let events = support::sys::poll(&file, libc::POLLIN | libc::POLLPRI, Duration::ZERO);
                Seen::Number(u64::from(events & libc::POLLPRI != 0))
            }
        },
        Step::CloseAll => {
            *slots = Default::default();
            Seen::Done
        }
    })
}

/// A version's number and value.
type Version = (u64, Vec<u8>);

#[derive(Debug, Default, Clone)]
struct Secret {
    versions: Vec<Version>,
    current: usize,
    longest: usize,
    readers: BTreeSet<usize>,
}

/// What was opened: of which secret, which version.
type Pin = (usize, Version);

#[derive(Default)]
struct Model {
    /// Deleted ones keep their readers and have no versions.
    secrets: BTreeMap<usize, Secret>,
    slots: BTreeMap<(usize, usize), Pin>,
    made: u64,
}

fn token(n: u64) -> String {
    format!("a-version-of-the-model-{n:016}")
}

impl Model {
    fn live(&self, name: usize) -> Option<&Secret> {
        self.secrets.get(&name).filter(|s| !s.versions.is_empty())
    }

    /// What a look at a file gives: its secret, if the caller may see it.
    fn seen(&self, who: usize, name: usize) -> Result<&Secret, Seen> {
        let secret = self.live(name).ok_or(Seen::Error(libc::ENOENT))?;
        // Root may describe what it may not read.
        match secret.readers.contains(&who) || CALLERS[who] == 0 {
            true => Ok(secret),
            false => Err(Seen::Error(libc::EACCES)),
        }
    }

    /// What must come of a step; `None` where more than one answer is right.
    fn expects(&mut self, who: usize, step: &Step) -> Option<Seen> {
        let open = |slot: &usize| self.slots.get(&(who, *slot)).cloned();
        Some(match step {
            Step::Open { slot, name } => {
                self.slots.remove(&(who, *slot));
                match self.live(*name) {
                    None => Seen::Error(libc::ENOENT),
                    Some(secret) if !secret.readers.contains(&who) => Seen::Error(libc::EACCES),
                    Some(secret) => {
                        let pin = (*name, secret.versions[secret.current].clone());
                        self.slots.insert((who, *slot), pin);
                        Seen::Done
                    }
                }
            }
            Step::Read { slot, offset, length } => {
                let Some((name, (number, value))) = open(slot) else {
                    return Some(Seen::Nothing);
                };
                let there = self
                    .live(name)
                    .filter(|s| s.versions.iter().any(|(n, _)| *n == number));
                match there {
                    // Nothing is asked of the file system.
                    _ if *length == 0 => Seen::Bytes(Vec::new()),
                    None => Seen::Error(libc::EKEYREVOKED),
                    Some(secret) if !secret.readers.contains(&who) => Seen::Error(libc::EACCES),
                    Some(_) => {
                        let from = value.len().min(*offset as usize);
                        Seen::Bytes(value[from..value.len().min(from + length)].to_vec())
                    }
                }
            }
            Step::Seek { slot } => open(slot).map_or(Seen::Nothing, |_| Seen::Number(7)),
            Step::Stat { name } => match self.seen(who, *name) {
                Ok(secret) => Seen::Number(secret.versions[secret.current].1.len() as u64),
                Err(error) => error,
            },
            Step::List => {
                let names = (0..NAMES.len()).filter(|n| self.seen(who, *n).is_ok());
                let mut names: Vec<String> = names.map(|n| NAMES[n].to_string()).collect();
                names.sort();
                Seen::Names(names)
            }
            Step::Attribute { name } => match self.seen(who, *name) {
                Ok(secret) => Seen::Bytes(token(secret.versions[secret.current].0).into_bytes()),
                Err(error) => error,
            },
            Step::Poll { slot } => {
                let Some((name, (number, _))) = open(slot) else {
                    return Some(Seen::Nothing);
                };
                match self.live(name) {
                    // Nothing new is never told; what is new is told once to each who waits.
                    Some(secret) if secret.versions[secret.current].0 == number => Seen::Number(0),
                    _ => return None,
                }
            }
            Step::CloseAll => Seen::Done,
        })
    }
}

struct Rig {
    product: Product,
    callers: Vec<Caller>,
    model: Model,
}

impl Rig {
    fn new() -> Rig {
        let mut product = Product::new();
        product.mount();
        let callers = CALLERS
            .iter()
            .map(|uid| Caller::start(*uid, product.target()))
            .collect();
        Rig {
            product,
            callers,
            model: Model::default(),
        }
    }

    fn change(&mut self, change: &Change) {
        let model = &mut self.model;
        match change {
            Change::Put { name, length } => {
                model.made += 1;
                let value: Vec<u8> = (0..*length)
                    .map(|i| b'a' + ((model.made as usize + i) % 26) as u8)
                    .collect();
                let said = self
                    .product
                    .run_with(&["put", NAMES[*name], "--token", &token(model.made)], &value);
                said.ok();
                let secret = model.secrets.entry(*name).or_default();
                secret.longest = secret.longest.max(*length);
                secret.versions.push((model.made, value));
                secret.current = secret.versions.len() - 1;
            }
            Change::Readers { name, mask } => {
                let readers: BTreeSet<usize> = (0..CALLERS.len()).filter(|i| mask & (1 << i) != 0).collect();
                let uids: Vec<String> = readers.iter().map(|i| CALLERS[*i].to_string()).collect();
                let statement = match uids.is_empty() {
                    true => {
                        serde_json::json!({"Effect": "Deny", "Principal": "*", "Action": "secretsmanager:GetSecretValue", "Resource": "*",
                        "Condition": {"StringEquals": {"secretsmanager:ResourceTag/never": "there"}}})
                    }
                    false => {
                        serde_json::json!({"Effect": "Allow", "Principal": {"Uid": uids}, "Action": "secretsmanager:GetSecretValue", "Resource": "*"})
                    }
                };
                let policy = serde_json::json!({"Version": "2012-10-17", "Statement": statement}).to_string();
                let said = self
                    .product
                    .run_with(&["policy", "set", NAMES[*name], "-"], policy.as_bytes());
                // A deleted secret's name keeps its policy, which can be changed.
                match model.secrets.get_mut(name) {
                    Some(secret) => {
                        said.ok();
                        secret.readers = readers;
                    }
                    None => assert_eq!(said.code(), 4, "{said:?}"),
                }
            }
            Change::Current { name, back } => {
                let Some(secret) = model.secrets.get_mut(name).filter(|s| s.versions.len() > *back) else {
                    return;
                };
                let to = (secret.current + secret.versions.len() - back) % secret.versions.len();
                let (from, next) = (
                    token(secret.versions[secret.current].0),
                    token(secret.versions[to].0),
                );
                self.product
                    .run(&[
                        "label",
                        "move",
                        NAMES[*name],
                        "current",
                        "--to",
                        &next,
                        "--from",
                        &from,
                    ])
                    .ok();
                secret.current = to;
            }
            Change::Delete { name } => {
                let live = model.live(*name).is_some();
                let said = self.product.run(&["delete", NAMES[*name], "--now"]);
                assert_eq!(said.code(), if live { 0 } else { 4 }, "{said:?}");
                if let Some(secret) = model.secrets.get_mut(name) {
                    (secret.versions, secret.current) = (Vec::new(), 0);
                }
            }
            Change::Restart => {
                for caller in &mut self.callers {
                    caller.does(&Step::CloseAll);
                }
                model.slots.clear();
                self.product.stop();
                self.product.mount();
            }
        }
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), TestCaseError> {
        for op in ops {
            match op {
                Op::Change(change) => self.change(change),
                Op::Of(who, step) => {
                    let expected = self.model.expects(*who, step);
                    let mut seen = self.callers[*who].does(step);
                    // A size may be that of a version that is held open, or was current two seconds ago: never less
                    // than what a reader gets.
                    if let (Seen::Number(size), Some(Seen::Number(least)), Step::Stat { name }) =
                        (&seen, &expected, step)
                    {
                        let most = self.model.secrets[name].longest as u64;
                        prop_assert!((*least..=most).contains(size), "{size} is not {least} to {most}");
                        seen = Seen::Number(*least);
                    }
                    if let Some(expected) = expected {
                        prop_assert_eq!(seen, expected, "uid {} {:?}", CALLERS[*who], step);
                    }
                }
            }
        }
        self.product.run(&["audit", "verify"]).ok();
        Ok(())
    }
}

#[test]
fn any_history_gives_what_the_model_says() {
    let long = support::long_run();
    let _deadline = Deadline::new(Duration::from_secs(if long { 1800 } else { 150 }), "model");
    let config = ProptestConfig {
        cases: if long { 400 } else { 16 },
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let count = std::cell::Cell::new(0);
    proptest!(config, |(ops in proptest::collection::vec(op(), 20..120))| {
        count.set(count.get() + ops.len());
        Rig::new().run(&ops)?;
    });
    println!("{} operations as the model says", count.get());
}
