//! What is said of who may read, against really reading: in random stores with guardrails, identity policies and a
//! secret's own policy, whose accounts went, were renamed or made anew after the policies were set.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use support::etc::Etc;
use support::product::Product;
use support::{Deadline, Run, long_run};
use wardfs::access::KnownCaller;
use wardfs::config::Config;
use wardfs::control::client::Client;
use wardfs::control::protocol::{Enclosed, Request};

/// Users and groups of the tests; the last of each is nobody's account to begin with.
const UIDS: [u32; 5] = [44818, 44819, 44820, 44821, 44822];
const GIDS: [u32; 3] = [44826, 44827, 44828];
const USERS: [&str; 5] = ["wat", "wbea", "wcy", "wdot", "weve"];
const GROUPS: [&str; 3] = ["wred", "wblue", "wgrey"];
const NAME: &str = "app/db";

/// How many stores: a few, or a thousand.
fn stores() -> usize {
    if long_run() { 1_000 } else { 10 }
}

/// splitmix64: the same stores at each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }
}

/// The accounts of this machine, as the test would have them.
#[derive(Debug, Clone, Default)]
struct Accounts {
    users: BTreeMap<&'static str, u32>,
    groups: BTreeMap<&'static str, (u32, BTreeSet<&'static str>)>,
}

impl Accounts {
    fn rolled(dice: &mut Dice) -> Accounts {
        let mut accounts = Accounts::default();
        for (name, uid) in USERS.iter().zip(UIDS).take(4) {
            accounts.users.insert(name, uid);
        }
        for (name, gid) in GROUPS.iter().zip(GIDS).take(2) {
            accounts.groups.insert(name, (gid, BTreeSet::new()));
        }
        accounts.join(dice);
        accounts
    }

    fn join(&mut self, dice: &mut Dice) {
        let names: Vec<&'static str> = self.users.keys().copied().collect();
        for (_, members) in self.groups.values_mut() {
            members.clear();
            members.extend(names.iter().filter(|_| dice.roll(3) == 0));
        }
    }

    /// Some go, some are renamed, some come to have another's uid.
    fn drift(&mut self, dice: &mut Dice) {
        for _ in 0..1 + dice.roll(3) {
            let (user, other) = (*dice.of(&USERS), *dice.of(&USERS));
            let uid = *dice.of(&UIDS);
            match dice.roll(4) {
                0 => drop(self.users.remove(user)),
                1 => {
                    if let Some(uid) = self.users.remove(user) {
                        self.users.insert(other, uid);
                    }
                }
                2 => {
                    self.users.retain(|_, u| *u != uid);
                    self.users.insert(user, uid);
                }
                _ => {
                    let (group, gid) = (*dice.of(&GROUPS), *dice.of(&GIDS));
                    self.groups.retain(|_, (g, _)| *g != gid);
                    self.groups.insert(group, (gid, BTreeSet::new()));
                }
            }
        }
        self.join(dice);
    }

    /// The groups of the account with this uid, its own first; none if there is none.
    fn groups_of(&self, uid: u32) -> Vec<u32> {
        let Some((name, _)) = self.users.iter().find(|(_, u)| **u == uid) else {
            return Vec::new();
        };
        let member = self.groups.values().filter(|(_, members)| members.contains(name));
        std::iter::once(uid).chain(member.map(|(gid, _)| *gid)).collect()
    }

    /// Into the files that stand where the user database is for this thread.
    fn write(&self, etc: &Etc) {
        let users = self.users.iter().map(|(name, uid)| (*name, *uid));
        let groups = self
            .groups
            .iter()
            .map(|(name, (gid, members))| (*name, *gid, members.iter().copied().collect()));
        etc.accounts(&users.collect::<Vec<_>>(), &groups.collect::<Vec<_>>());
    }
}

fn principal(dice: &mut Dice, accounts: &Accounts) -> Value {
    let users: Vec<&str> = accounts.users.keys().copied().collect();
    let groups: Vec<&str> = accounts.groups.keys().copied().collect();
    match dice.roll(10) {
        0 | 8 => json!("*"),
        1 | 2 | 9 if !users.is_empty() => json!({"User": dice.of(&users)}),
        3 if !users.is_empty() => json!({"User": [dice.of(&users), dice.of(&users)]}),
        4 if !groups.is_empty() => json!({"Group": dice.of(&groups)}),
        5 => json!({"Uid": dice.of(&UIDS).to_string()}),
        6 => json!({"Unit": "wardfs-nosuch.service"}),
        _ => json!({"Gid": dice.of(&GIDS).to_string(), "Uid": dice.of(&UIDS).to_string()}),
    }
}

fn condition(dice: &mut Dice, accounts: &Accounts) -> Value {
    let users: Vec<&str> = accounts.users.keys().copied().collect();
    let groups: Vec<&str> = accounts.groups.keys().copied().collect();
    match dice.roll(12) {
        0 if !users.is_empty() => json!({"StringEquals": {"aws:username": dice.of(&users)}}),
        1 if !users.is_empty() => json!({"StringNotEquals": {"aws:username": dice.of(&users)}}),
        2 if !groups.is_empty() => json!({"ForAnyValue:StringEquals": {"wardfs:groups": dice.of(&groups)}}),
        3 => json!({"StringEquals": {"wardfs:Uid": dice.of(&UIDS).to_string()}}),
        4 => json!({"NumericGreaterThan": {"wardfs:Uid": "44819"}}),
        5 => json!({"StringEquals": {"secretsmanager:VersionStage": "AWSCURRENT"}}),
        6 => json!({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}),
        _ => Value::Null,
    }
}

fn document(dice: &mut Dice, accounts: &Accounts, whose: Whose) -> String {
    let statement = |dice: &mut Dice| {
        let deny = dice.roll(5) == 0;
        let mut statement = json!({"Effect": if deny { "Deny" } else { "Allow" }, "Resource": "*",
            "Action": dice.of(&["*", "secretsmanager:GetSecretValue"])});
        // A Deny of everything would only make the stores alike, and lock the test out.
        if deny || whose == Whose::Guardrail {
            statement["Action"] = json!(["secretsmanager:GetSecretValue", "wardfs:*"]);
            if whose == Whose::Guardrail && !deny {
                statement["Action"] = json!("*");
            }
            if deny {
                statement["Action"] = json!("secretsmanager:GetSecretValue");
            }
        }
        if whose != Whose::Identity {
            let who = match whose == Whose::Guardrail && !deny && dice.roll(3) > 0 {
                true => json!("*"),
                false => principal(dice, accounts),
            };
            let field = if deny && who != "*" && dice.roll(3) == 0 {
                "NotPrincipal"
            } else {
                "Principal"
            };
            statement[field] = who;
        }
        let condition = condition(dice, accounts);
        if !condition.is_null() {
            statement["Condition"] = condition;
        }
        statement
    };
    let mut all: Vec<Value> = (0..1 + dice.roll(4)).map(|_| statement(dice)).collect();
    if whose == Whose::Guardrail {
        // Whatever else it says, root sets up the next thing.
        let rest = json!({"Effect": "Allow", "Principal": "*", "Resource": "*",
            "NotAction": "secretsmanager:GetSecretValue"});
        all.push(rest);
    }
    json!({"Version": "2012-10-17", "Statement": all}).to_string()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Secret,
    Guardrail,
    Identity,
}

fn request(value: Value) -> Request {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}

/// What a list of readers says of a process of this uid and these groups, in no unit that it names: yes, no, or that it
/// depends.
fn told(list: &Value, uid: u32, groups: &[u32]) -> Option<bool> {
    let is = |who: &Value| {
        who["everyone"] == true
            || who["uid"] == uid
            || who["gid"].as_u64().is_some_and(|g| groups.contains(&(g as u32)))
    };
    let mut depends = false;
    for reading in list.as_array().expect("a list").iter().filter(|r| is(r)) {
        let empty = Vec::new();
        let except = reading["except"].as_array().unwrap_or(&empty);
        let hit: Vec<&Value> = except.iter().filter(|e| is(e)).collect();
        if hit.iter().any(|e| e["when"].is_null()) {
            continue;
        }
        match hit.is_empty() && reading["when"].is_null() {
            true => return Some(true),
            false => depends = true,
        }
    }
    (!depends).then_some(false)
}

/// One store, its answers and its reads.
struct Trial<'a> {
    product: Product,
    accounts: &'a Accounts,
    seen: &'a Seen,
}

/// What was compared.
#[derive(Default)]
struct Seen {
    reads: AtomicUsize,
    allowed: AtomicUsize,
    open: AtomicUsize,
    drifted: AtomicUsize,
    again: AtomicUsize,
}

impl Trial<'_> {
    fn client(&self) -> Client {
        Client::connect(&self.product.store())
            .expect("a socket")
            .expect("a daemon")
    }

    fn ask(&self, client: &mut Client, value: Value) -> Value {
        let asked = value.to_string();
        client
            .call(&request(value), None)
            .unwrap_or_else(|e| panic!("{asked}: {e:?}"))
    }

    /// Every answer, and a read by everybody.
    fn differences(&self, client: &mut Client) -> Vec<String> {
        let described = self.ask(client, json!({"command": "describe", "name": NAME}));
        let listed = self.ask(client, json!({"command": "list", "under": null}));
        let mut found = Vec::new();
        if listed["secrets"][0]["readers"] != described["readers"] {
            found.push(format!("list says {}", listed["secrets"][0]["readers"]));
        }
        let path = self.product.path(NAME);
        for uid in UIDS.into_iter().chain([0, 44823]) {
            let groups = match uid {
                0 => vec![0],
                _ => self.accounts.groups_of(uid),
            };
            let told = told(&described["readers"], uid, &groups);
            let mut run = Run::uid(uid);
            for group in groups.iter().filter(|g| **g != uid) {
                run = run.group(*group);
            }
            let read = run.call(|| {
                std::fs::read(&path)
                    .map(drop)
                    .map_err(|e| e.raw_os_error().unwrap_or(0))
            });
            assert!(matches!(read, Ok(()) | Err(libc::EACCES)), "{read:?}");
            let reads = read.is_ok();
            self.seen.reads.fetch_add(1, Ordering::Relaxed);
            self.seen.allowed.fetch_add(usize::from(reads), Ordering::Relaxed);
            self.seen
                .open
                .fetch_add(usize::from(told.is_none()), Ordering::Relaxed);
            let why = self.ask(
                client,
                json!({"command": "why", "name": NAME, "about": {"uid": uid}}),
            );
            let explained = self.ask(
                client,
                json!({"command": "policy_explain", "name": NAME, "question": {"action": "GetSecretValue", "label": null,
                "subject": {"who": format!("uid:{uid}"), "groups": null, "unit": null}}}),
            );
            let mut answers = vec![("why", Some(why["decision"] == "allow")), ("describe", told)];
            answers.push(("explain", Some(explained["decision"] == "allow")));
            if uid == 0 {
                answers.push(("root_may_read", described["root_may_read"].as_bool()));
                answers.push(("you_may_read", described["you_may_read"].as_bool()));
            }
            for (which, answer) in answers {
                if answer.is_some_and(|a| a != reads) {
                    found.push(format!(
                        "{which} says {answer:?} of uid {uid} with {groups:?}, which reads: {reads}"
                    ));
                }
            }
        }
        let status = self.ask(client, json!({"command": "status"}));
        if status["running"] != true || status["audit"]["healthy"] != true || status["healthy"] == false {
            found.push(format!("status says {status}"));
        }
        if !found.is_empty() {
            found.push(described.to_string());
        }
        found
    }

    /// No difference; a uid that was never asked about is looked up by a thread of its own, and a Deny waits for that.
    fn agrees(&self, client: &mut Client, seed: usize, stage: &str) {
        let mut found = self.differences(client);
        for _ in 0..20 {
            if found.is_empty() {
                return;
            }
            self.seen.again.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(100));
            found = self.differences(client);
        }
        panic!("store {seed}, {stage}: {found:#?}\n{:#?}", self.accounts);
    }
}

/// Sets everything up in this process, as root's commands without a daemon do.
fn set_up(store: &Path, requests: Vec<Request>) {
    let (desk, _access) =
        wardfs::daemon::desk(store, &Config::load(store).expect("settings")).expect("the store");
    for request in requests {
        let mut value = wardfs::sys::mem::secret(6).expect("memory");
        value.expose_mut().copy_from_slice(b"s3cret");
        let enclosed = matches!(request, Request::Put(_)).then_some(Enclosed::Value(value));
        let answered = desk.answer(&request, enclosed, &mut |_| {}, &mut KnownCaller::root());
        answered.unwrap_or_else(|e| panic!("{request:?}: {e:?}"));
    }
}

fn one_store(seed: usize, etc: &Etc, seen: &Seen) {
    let mut dice = Dice(seed as u64);
    let mut accounts = Accounts::rolled(&mut dice);
    accounts.write(etc);
    let mut product = Product::new();
    let dice = &mut dice;
    let mut requests = vec![json!({"command": "put", "name": NAME})];
    for i in 0..dice.roll(2) + dice.roll(4) / 3 {
        let text = document(dice, &accounts, Whose::Guardrail);
        requests.push(json!({"command": "layer_set", "key": {"guardrail": format!("g{i}")}, "text": text}));
    }
    for _ in 0..dice.roll(3) {
        let who = match dice.roll(3) {
            0 => format!("group:{}", dice.of(&GROUPS[..2])),
            _ => format!("user:{}", dice.of(&USERS[..4])),
        };
        let text = document(dice, &accounts, Whose::Identity);
        requests.push(json!({"command": "layer_set", "key": {"identity": who}, "text": text}));
    }
    if dice.roll(8) > 0 {
        let text = document(dice, &accounts, Whose::Secret);
        requests.push(json!({"command": "policy_set", "name": NAME, "text": text}));
    }
    set_up(&product.store(), requests.into_iter().map(request).collect());
    if dice.roll(4) > 0 {
        accounts.drift(dice);
    }
    accounts.write(etc);
    product.mount();
    let trial = Trial {
        product,
        accounts: &accounts,
        seen,
    };
    let mut client = trial.client();
    trial.agrees(&mut client, seed, "as it was set up");
    let described = trial.ask(&mut client, json!({"command": "describe", "name": NAME}));
    let drift = trial.ask(&mut client, json!({"command": "drift"}))["drift"].clone();
    let drifted = drift.as_array().expect("a list").len();
    for row in described["drift"].as_array().expect("a list") {
        assert!(
            drift.as_array().expect("a list").contains(row),
            "store {seed}: {row}"
        );
    }
    seen.drifted.fetch_add(drifted, Ordering::Relaxed);

    // A change that is tried, and then made.
    let text = document(dice, &accounts, Whose::Secret);
    let tried = trial.ask(
        &mut client,
        json!({"command": "policy_check", "name": NAME, "text": text, "comparison": "with_today"}),
    );
    let made = trial.ask(
        &mut client,
        json!({"command": "policy_set", "name": NAME, "text": text}),
    );
    assert_eq!(
        tried["readers"], made["readers"],
        "store {seed}: the trial of {text}"
    );
    trial.agrees(&mut client, seed, "after a change");
    let after = trial.ask(&mut client, json!({"command": "describe", "name": NAME}));
    assert_eq!(after["readers"], made["readers"], "store {seed}");
    assert_eq!(
        after["drift"],
        json!([]),
        "store {seed}: the document was set just now"
    );
    let mut put = request(json!({"command": "put", "name": NAME}));
    if let Request::Put(put) = &mut put {
        put.description = Some("again".into());
    }
    let mut value = wardfs::sys::mem::secret(5).expect("memory");
    value.expose_mut().copy_from_slice(b"newer");
    let put = client.call(&put, Some(Enclosed::Value(value))).expect("put");
    assert_eq!(put["readers"], made["readers"], "store {seed}");
    gains(&described["readers"], &made["readers"], &tried, &accounts, seed);
    drop(client);
    let Trial { mut product, .. } = trial;
    product.kill();
}

/// Who really gains is said to gain, and nobody is said to who could read before.
fn gains(before: &Value, after: &Value, tried: &Value, accounts: &Accounts, seed: usize) {
    let said = |key: &str, uid: u32| {
        let all = tried[key].as_array().expect("a list").iter();
        let own = [format!("(uid {uid})"), format!("uid {uid}")];
        let who = all
            .filter_map(Value::as_str)
            .filter_map(|line| line.split(", but only").next());
        who.into_iter().any(|who| who.ends_with(&own[0]) || who == own[1])
    };
    for uid in UIDS {
        let groups = accounts.groups_of(uid);
        let (was, is) = (told(before, uid, &groups), told(after, uid, &groups));
        if (was, is) == (Some(true), Some(true)) || (was, is) == (Some(false), Some(false)) {
            assert!(
                !said("gain", uid) && !said("lose", uid),
                "store {seed}: uid {uid} is the same: {tried}"
            );
        }
        let lists = |key: &str| !tried[key].as_array().expect("a list").is_empty();
        if (was, is) == (Some(false), Some(true)) {
            assert!(lists("gain"), "store {seed}: uid {uid} gains: {tried}");
        }
        if (was, is) == (Some(true), Some(false)) {
            assert!(lists("lose"), "store {seed}: uid {uid} loses: {tried}");
        }
    }
}

#[test]
fn what_is_said_of_readers_is_what_they_find() {
    let _deadline = Deadline::new(
        Duration::from_secs(if long_run() { 4 * 3600 } else { 300 }),
        "agreement",
    );
    let (seen, next) = (Seen::default(), AtomicUsize::new(0));
    let from = std::env::var("WARDFS_TEST_FROM")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    std::thread::scope(|scope| {
        for _ in 0..if long_run() { 3 } else { 2 } {
            scope.spawn(|| {
                support::private_mounts();
                let etc = Etc::bound();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= stores() {
                        return;
                    }
                    one_store(from + seed, &etc, &seen);
                }
            });
        }
    });
    let count = |n: &AtomicUsize| n.load(Ordering::Relaxed);
    println!(
        "{} stores: {} reads, {} of them allowed, {} of which it depends, {} names drifted, {} asked again; 0 differences",
        stores(),
        count(&seen.reads),
        count(&seen.allowed),
        count(&seen.open),
        count(&seen.drifted),
        count(&seen.again)
    );
    assert!(count(&seen.allowed) > stores() && count(&seen.open) < count(&seen.reads) / 4);
    assert!(count(&seen.drifted) > stores() / 4);
}
