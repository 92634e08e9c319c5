//! What the index says beside what asking each secret says, in stores that change.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::access::KnownCaller;
use crate::id::{Gid, Label, SecretName, Uid, VersionId};
use crate::policy::{
    Administration, Attached, GuardrailRecord, IdentityRecord, PolicyRecord, PrincipalMap, ProcessState,
};
use crate::store::snapshot::Item;
use crate::vault::tests::{Nobody, Place as Store, body, change, make};
use crate::vault::{ChangeKind, LayerKey, LayerRecord, Life, Vault, VaultError, default_key};

/// splitmix64: a failure is had again by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

const NAMES: [&str; 12] = [
    "a/1", "a/2", "a/b/1", "a/b/2", "a/b/c/1", "b/1", "b/2", "c", "d/e/f/1", "d/e/2", "a/b-c", "top",
];
const DIRS: [&str; 8] = ["", "a", "a/b", "a/b/c", "b", "d", "d/e", "d/e/f"];
const PRINCIPALS: [&str; 13] = [
    r#""Principal": "*""#,
    r#""Principal": {"Uid": "1"}"#,
    r#""Principal": {"Uid": ["2", "3"]}"#,
    r#""Principal": {"Uid": "4"}"#,
    r#""Principal": {"Gid": "11"}"#,
    r#""Principal": {"Gid": ["12", "13"], "Uid": "4"}"#,
    r#""Principal": {"Unit": "a.service"}"#,
    r#""Principal": {"Unit": "b.service", "Gid": "13"}"#,
    r#""Principal": {"Service": "wardfs-rotator"}"#,
    r#""Principal": {"Uid": "0"}"#,
    r#""NotPrincipal": {"Uid": "1"}"#,
    r#""NotPrincipal": {"Gid": "12"}"#,
    r#""Principal": {"AWS": "arn:aws:iam::111122223333:role/app"}"#,
];
const ACTIONS: [&str; 6] = [
    r#""secretsmanager:GetSecretValue""#,
    r#""secretsmanager:GetSecretValue""#,
    r#""secretsmanager:DescribeSecret""#,
    r#""secretsmanager:*""#,
    r#"["secretsmanager:Get*", "secretsmanager:DescribeSecret"]"#,
    r#""secretsmanager:PutSecretValue""#,
];
const RESOURCES: [&str; 7] = [
    r#""Resource": "*""#,
    r#""Resource": "*""#,
    r#""Resource": "*""#,
    r#""Resource": "arn:aws:secretsmanager:*:*:secret:a/*""#,
    r#""NotResource": "arn:aws:secretsmanager:*:*:secret:a/b*""#,
    r#""Resource": "arn:aws:secretsmanager:*:*:secret:*/${wardfs:Uid}""#,
    r#""Resource": "arn:aws:secretsmanager:*:*:secret:*1""#,
];
const CONDITIONS: [&str; 16] = [
    r#""StringEquals": {"secretsmanager:VersionStage": "AWSPREVIOUS"}"#,
    r#""StringEquals": {"secretsmanager:VersionStage": "AWSCURRENT"}"#,
    r#""StringEquals": {"secretsmanager:ResourceTag/team": "x"}"#,
    r#""StringNotEquals": {"secretsmanager:ResourceTag/team": "x"}"#,
    r#""StringEquals": {"wardfs:Uid": "1"}"#,
    r#""StringNotEquals": {"wardfs:Uid": ["1", "2"]}"#,
    r#""StringEquals": {"wardfs:Groups": "11"}"#,
    r#""ForAllValues:StringNotEquals": {"wardfs:Groups": "12"}"#,
    r#""StringLike": {"wardfs:Unit": "*.service"}"#,
    r#""Null": {"wardfs:Unit": "true"}"#,
    r#""Null": {"secretsmanager:VersionId": "false"}"#,
    r#""Bool": {"wardfs:NoNewPrivs": "true"}"#,
    r#""NumericGreaterThan": {"aws:EpochTime": "1"}"#,
    r#""StringLike": {"secretsmanager:SecretId": "a/*"}"#,
    r#""StringEqualsIfExists": {"wardfs:Unit": "a.service"}"#,
    r#""StringEquals": {"aws:PrincipalTag/team": "x"}"#,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Grammar {
    Secret,
    Guardrail,
    Identity,
}

fn document(dice: &mut Dice, grammar: Grammar) -> String {
    let statements: Vec<String> = (0..1 + dice.below(3))
        .map(|_| {
            let effect = dice.of(&["Allow", "Allow", "Deny"]);
            let mut parts = vec![
                format!(r#""Effect": "{effect}""#),
                format!(r#""Action": {}"#, dice.of(&ACTIONS)),
                dice.of(&RESOURCES).to_string(),
            ];
            if grammar != Grammar::Identity {
                parts.push(dice.of(&PRINCIPALS).to_string());
            }
            if dice.below(5) < 2 {
                parts.push(format!(r#""Condition": {{{}}}"#, dice.of(&CONDITIONS)));
            }
            format!("{{{}}}", parts.join(", "))
        })
        .collect();
    format!(
        r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#,
        statements.join(", ")
    )
}

fn map() -> PrincipalMap {
    let role = ("arn:aws:iam::111122223333:role/app", ["uid:2", "unit:b.service"]);
    let locals = role.1.map(|l| l.parse().unwrap());
    PrincipalMap([(role.0.to_string(), locals.into())].into())
}

/// One random change. What the grammar refuses is no change.
fn step(vault: &Vault, dice: &mut Dice) {
    let name = dice.of(&NAMES);
    let state = vault.state();
    let there = state.secrets.by_name(name).cloned();
    match (dice.below(20), there) {
        (_, None) => {
            let mut above = name.match_indices('/').map(|(at, _)| &name[..at]);
            if !state.secrets.is_directory(name) && above.all(|a| state.secrets.by_name(a).is_none()) {
                make(vault, name, || {}).unwrap();
            }
        }
        (0..=8, Some(_)) => change(vault, name, |_, meta| {
            let text = document(dice, Grammar::Secret);
            if let Ok((record, _)) = PolicyRecord::resolve(&text, &map(), &Nobody, &meta.name, None) {
                meta.policy = Some(record.into());
            }
            ChangeKind::Settings
        }),
        // The same as another one.
        (9..=11, Some(_)) => change(vault, name, |draft, meta| {
            let other = draft.state().secrets.by_name(dice.of(&NAMES));
            meta.policy = other.and_then(|s| s.meta.policy.clone());
            ChangeKind::Settings
        }),
        (12, Some(_)) => change(vault, name, |_, meta| {
            meta.tags = [("team".to_string(), dice.of(&["x", "y"]).to_string())].into();
            ChangeKind::Settings
        }),
        (13, Some(_)) => change(vault, name, |draft, meta| {
            let mut value = crate::sys::mem::secret(3).unwrap();
            value.expose_mut().copy_from_slice(b"new");
            let (key, now) = (default_key(), crate::clock::Timestamp::now());
            let no = draft.add_version(
                meta.id,
                &meta.name,
                &key,
                (VersionId::random(), crate::id::ROOT),
                now,
                &value,
            );
            if let Some(old) = meta.labels.insert(Label::current(), no.unwrap()) {
                meta.labels.insert("previous".parse().unwrap(), old);
            }
            meta.life = Life::Active;
            ChangeKind::Value
        }),
        (14..=15, Some(secret)) => change(vault, name, |draft, meta| {
            secret.versions.keys().for_each(|no| draft.destroy_version(*no));
            meta.labels = Default::default();
            meta.life = Life::Deleted;
            ChangeKind::Deleted
        }),
        (16, Some(secret)) => {
            let purged = vault.change(|draft| -> Result<_, VaultError> {
                secret.versions.keys().for_each(|no| draft.destroy_version(*no));
                draft.forget_secret(secret.meta.id);
                Ok(((), body(name)))
            });
            purged.unwrap();
        }
        (_, Some(_)) => layer(vault, dice),
    }
}

fn layer(vault: &Vault, dice: &mut Dice) {
    let (guardrail, number) = (dice.below(3) == 0, dice.below(2));
    let principal: Attached = dice
        .of(&["uid:3", "gid:13", "unit:a.service", "uid:4"])
        .parse()
        .unwrap();
    let key = match guardrail {
        true => LayerKey::Guardrail(format!("g{number}")),
        false => LayerKey::Identity(principal.clone()),
    };
    let record = match guardrail {
        true => {
            let text = document(dice, Grammar::Guardrail);
            let record = GuardrailRecord::resolve(&key.name(), &text, &map(), &Nobody);
            record.ok().map(|(r, _)| LayerRecord::Guardrail(r))
        }
        false => {
            let tags = [("team".to_string(), dice.of(&["x", "y"]).to_string())].into();
            let text = document(dice, Grammar::Identity);
            let record = IdentityRecord::resolve(&principal, tags, &text, &map(), &Nobody);
            record.ok().map(|(r, _)| LayerRecord::Identity(r))
        }
    };
    let remove = dice.below(3) > 0;
    let changed = vault.change(|draft| -> Result<_, VaultError> {
        let known = draft.state().layers.get(&key).cloned();
        match (known, record) {
            (Some(known), _) if remove => draft.remove_layer(&known),
            (_, Some(record)) => draft.put_layer(record, Uid(0)),
            (_, None) => {}
        }
        Ok(((), body("layers")))
    });
    changed.unwrap();
}

fn caller(dice: &mut Dice) -> KnownCaller {
    let gid = |dice: &mut Dice| Gid(10 + dice.below(4) as u32);
    let groups = (0..dice.below(3)).map(|_| gid(dice)).collect();
    let mut caller = KnownCaller::supposed(Uid(dice.below(6) as u32), gid(dice), groups);
    caller.unit = match dice.below(5) {
        0 => None,
        1 => Some(Some("a.service".into())),
        2 => Some(Some("b.service".into())),
        _ => Some(None),
    };
    if dice.below(6) == 0 {
        caller.groups = None;
    }
    caller.process = match dice.below(3) {
        0 => None,
        n => Some(ProcessState {
            no_new_privs: n == 1,
            ..ProcessState::default()
        }),
    };
    caller
}

/// By asking each secret.
fn slowly(access: &Access, secret: &Secret, side: Side, caller: &mut KnownCaller) -> bool {
    let state = access.vault().state();
    let readable = |v: &Arc<crate::vault::Version>, caller: &mut KnownCaller| {
        access.may_read_version(state.view(secret), v, caller).is_ok()
    };
    secret.is_active()
        && secret.broken.is_none()
        && (access.peek(state.view(secret), caller).is_ok()
            || side == Side::Versions && secret.versions.values().any(|v| readable(v, caller)))
}

/// Compares all directories for one caller; how many were compared, and in how many he sees something.
fn compare(access: &Access, dice: &mut Dice, seed: u64) -> (usize, usize) {
    let state = access.vault().state();
    let mut caller = caller(dice);
    let (mut compared, mut seen) = (0, 0);
    for side in [Side::Values, Side::Versions] {
        let visible: BTreeSet<&str> = (state.secrets.iter())
            .filter(|s| slowly(access, s, side, &mut caller))
            .map(|s| s.meta.name.as_str())
            .collect();
        for dir in DIRS {
            let prefix = if dir.is_empty() {
                String::new()
            } else {
                format!("{dir}/")
            };
            let below = visible.iter().filter_map(|name| name.strip_prefix(&prefix));
            let wanted: BTreeSet<&str> = below.map(|tail| tail.split('/').next().unwrap()).collect();
            let who = format!("seed {seed}, {dir:?}, {side:?}, {caller:?}");
            let mut copy = caller.clone();
            let mut sight = Sight::new(access, &state, side, &mut copy);
            assert_eq!(sight.sees_below(DirId::of(dir)), !wanted.is_empty(), "{who}");
            let mut copy = caller.clone();
            let mut sight = Sight::new(access, &state, side, &mut copy);
            let (mut listed, mut places) = (Vec::new(), vec![Place::START]);
            let page = 1 + dice.below(3) as usize;
            loop {
                let (mut room, before) = (page, listed.len());
                sight.list(DirId::of(dir), *places.last().unwrap(), &mut |child| {
                    if room == 0 {
                        return Enough::Yes;
                    }
                    room -= 1;
                    listed.push(child.segment.to_string());
                    places.push(child.place);
                    Enough::No
                });
                if listed.len() == before {
                    break;
                }
            }
            assert!(places.windows(2).all(|w| w[0] < w[1]), "{who}");
            let found: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
            assert_eq!((found, listed.len()), (wanted.clone(), wanted.len()), "{who}");
            compared += 1;
            seen += usize::from(!wanted.is_empty());
        }
    }
    (compared, seen)
}

#[test]
fn the_index_sees_what_asking_each_secret_sees() {
    let administrations = [(Some(Gid(12)), true), (None, false), (Some(Gid(13)), false)];
    let (mut compared, mut seen) = (0, 0);
    for seed in 0..6 {
        let (group, root_describes) = administrations[seed as usize % 3];
        let administration = Administration {
            owner: Uid(0),
            group,
            root_describes,
        };
        let store = Store::new();
        let mut access = Access::new(Arc::new(store.open_with(administration)), false);
        let dice = &mut Dice(seed);
        for round in 0..60 {
            step(access.vault(), dice);
            for _ in 0..3 {
                let (some, of_them) = compare(&access, dice, seed);
                compared += some;
                seen += of_them;
            }
            // What is made of the records at a start is what the changes made of it.
            if round % 20 == 19 {
                drop(access);
                access = Access::new(Arc::new(store.open_with(administration)), false);
                compare(&access, dice, seed);
            }
        }
    }
    println!("{compared} compared, in {seen} something is seen");
    assert!(compared >= 10_000 && seen > compared / 20 && seen < compared * 19 / 20);
}

/// A place is that of its name, for secrets and for directories.
#[test]
fn every_place_leads_back() {
    let store = Store::new();
    let access = Access::new(Arc::new(store.open()), false);
    for name in ["a/b/1", "a/2"] {
        make(access.vault(), name, || {}).unwrap();
    }
    let state = access.vault().state();
    let name: SecretName = "a/b/1".parse().unwrap();
    let id = state.secrets.by_name("a/b/1").unwrap().meta.id;
    let (dir, place) = state.secrets.place_of(name.as_str(), Item::Secret(id)).unwrap();
    assert_eq!(
        (dir, state.secrets.child(dir, place).unwrap().segment),
        (DirId::of("a/b"), "1")
    );
    let (dir, place) = state.secrets.place_of("a/b", Item::Directory(dir)).unwrap();
    assert_eq!(
        (dir, state.secrets.child(dir, place).unwrap().segment),
        (DirId::of("a"), "b")
    );
}
