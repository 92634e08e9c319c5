//! A store under load, and what it must hold after its power, or its process, was cut.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::product::{A, Product};

/// Chance that a failure can be repeated with, as far as timing can be.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Dice {
        let time = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
        let seed = std::env::var("WARDFS_TEST_SEED")
            .ok()
            .and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or(time.as_nanos() as u64);
        println!("WARDFS_TEST_SEED={seed}");
        Dice(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// What one writer knows of its thing: the last number that was acknowledged, and those tried after it.
#[derive(Default, Clone)]
pub struct Known {
    pub acknowledged: u64,
    pub tried: Vec<u64>,
}

impl Known {
    pub fn allows(&self, found: u64) -> bool {
        found == self.acknowledged || self.tried.contains(&found)
    }

    /// After a crash was looked at: what was found is what is there from now on.
    pub fn settle(&mut self, found: u64) {
        (self.acknowledged, self.tried) = (found, Vec::new());
    }
}

pub const SECRETS: [&str; 2] = ["app/first", "app/second"];

/// Versions carry the number that the value has, padded to what an id needs.
pub fn value(name: &str, n: u64) -> String {
    // Of several lengths, some longer than what is kept in memory.
    let filler = if n.is_multiple_of(3) {
        6000
    } else {
        (n % 40) as usize
    };
    format!("{name}:{n:08}:{}", "x".repeat(filler))
}

pub fn number(value: &str) -> u64 {
    let n = value.split(':').nth(1).and_then(|n| n.parse().ok());
    n.unwrap_or_else(|| panic!("no value of ours: {value:.60}"))
}

/// One try of a numbered change; true if it was acknowledged.
pub fn change(known: &Mutex<Known>, next: u64, run: impl FnOnce() -> bool) -> bool {
    known.lock().expect("lock").tried.push(next);
    let done = run();
    let mut known = known.lock().expect("lock");
    if done {
        known.settle(next);
    }
    done
}

pub fn policy_text(n: u64) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Sid":"n{n}","Effect":"Allow","Principal":{{"Uid":"{A}"}},"Action":"secretsmanager:GetSecretValue","Resource":"*"}}]}}"#
    )
}

pub fn policy_number(text: &str) -> u64 {
    let at = text
        .find("\"n")
        .unwrap_or_else(|| panic!("no Sid of ours: {text}"))
        + 2;
    let digits: String = text[at..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

pub struct Rig {
    pub product: Product,
    pub known: Vec<Mutex<Known>>,
    pub policy: Mutex<Known>,
    pub next: std::sync::atomic::AtomicU64,
}

impl Rig {
    /// Two secrets of A's and root's, and one whose policy changes.
    pub fn new(product: Product) -> Rig {
        let rules = ["--allow", "uid:0", "--allow", &format!("uid:{A}")];
        for name in SECRETS {
            product.put(name, value(name, 0), &rules);
        }
        product.put("policed", "value", &[]);
        let policy = product.run_with(&["policy", "set", "policed", "-"], policy_text(0).as_bytes());
        policy.ok();
        Rig {
            product,
            known: SECRETS.iter().map(|_| Mutex::default()).collect(),
            policy: Mutex::default(),
            next: 1.into(),
        }
    }

    /// Puts and policy changes from three threads until `cut` returns; how many were acknowledged.
    pub fn load(&self, cut: impl FnOnce()) -> u64 {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stop = &stop;
            let until = |i: usize| {
                scope.spawn(move || {
                    let mut done = 0;
                    while !stop.load(Ordering::SeqCst) {
                        done += u64::from(match i < SECRETS.len() {
                            true => self.put(i),
                            false => self.set_policy(),
                        });
                    }
                    done
                })
            };
            let writers: Vec<_> = (0..=SECRETS.len()).map(until).collect();
            cut();
            stop.store(true, Ordering::SeqCst);
            writers.into_iter().map(|w| w.join().expect("a writer")).sum()
        })
    }

    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    pub fn put(&self, i: usize) -> bool {
        let n = self.next();
        change(&self.known[i], n, || {
            let said = self
                .product
                .run_with(&["put", SECRETS[i]], value(SECRETS[i], n).as_bytes());
            // Killed in between, not reached, in use by the one who was faster: all but a damaged store.
            assert!(matches!(said.code(), 0 | 1 | 7), "{said:?}");
            said.code() == 0
        })
    }

    pub fn set_policy(&self) -> bool {
        let n = self.next();
        change(&self.policy, n, || {
            let said = self
                .product
                .run_with(&["policy", "set", "policed", "-"], policy_text(n).as_bytes());
            assert!(matches!(said.code(), 0 | 1 | 7), "{said:?}");
            said.code() == 0
        })
    }

    /// Everything acknowledged is there, and nothing that was not tried.
    pub fn check(&self) {
        for (i, name) in SECRETS.iter().enumerate() {
            let found = number(&self.product.run(&["get", name]).ok().out);
            let mut known = self.known[i].lock().expect("lock");
            assert!(
                known.allows(found),
                "{name}: {found} is there, {} was acknowledged, then tried: {:?}",
                known.acknowledged,
                known.tried
            );
            known.settle(found);
        }
        let found = policy_number(&self.product.run(&["policy", "get", "policed"]).ok().out);
        let mut known = self.policy.lock().expect("lock");
        assert!(
            known.allows(found),
            "policy: {found}, not {} or {:?}",
            known.acknowledged,
            known.tried
        );
        known.settle(found);
        self.product.run(&["audit", "verify"]).ok();
    }
}
