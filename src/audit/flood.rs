//! Floods of refusals: the first of a kind are written, the others counted, and no count is ever lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::error::LogError;
use super::record::Event;
use super::{Options, writer};

/// What becomes of a refusal.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Write its record.
    Write,
    /// It was counted.
    Counted,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    uid: u32,
    event: Event,
    secret: Option<Box<str>>,
    reason: &'static str,
}

struct Window {
    began: Instant,
    written: u32,
    suppressed: u64,
}

/// The open windows. Bounded: kinds that do not fit are counted by uid, uids that do not fit in one number.
pub(super) struct Floods {
    first: u32,
    length: Duration,
    kinds: usize,
    windows: HashMap<Kind, Window>,
    /// Kinds in `windows` and refusals beyond them, by uid.
    uids: HashMap<u32, (usize, u64)>,
    others: u64,
    began: Instant,
}

/// How a count is written: the fields of its record.
pub(super) type Write<'w> = dyn FnMut(&[u8]) -> Result<(), LogError> + 'w;

impl Floods {
    pub(super) fn new(options: &Options) -> Self {
        Floods {
            first: options.refusals_per_window,
            length: options.refusal_window,
            kinds: options.refusal_kinds.max(16),
            windows: HashMap::new(),
            uids: HashMap::new(),
            others: 0,
            began: Instant::now(),
        }
    }

    /// Decides about one refusal; a window of its kind that is over is closed first.
    pub(super) fn admit(
        &mut self,
        uid: u32,
        event: Event,
        secret: Option<&str>,
        reason: &'static str,
        write: &mut Write<'_>,
    ) -> Verdict {
        let kind = Kind {
            uid,
            event,
            secret: secret.map(Into::into),
            reason,
        };
        let now = Instant::now();
        if let Some(window) = self.windows.get_mut(&kind) {
            if now.duration_since(window.began) >= self.length {
                if window.suppressed > 0 && tell(&kind, window.suppressed, write).is_err() {
                    // Counted on in the old window: nothing is written while the log fails.
                    window.suppressed += 1;
                    return Verdict::Counted;
                }
                *window = Window {
                    began: now,
                    written: 0,
                    suppressed: 0,
                };
            }
            if window.written < self.first {
                window.written += 1;
                return Verdict::Write;
            }
            window.suppressed += 1;
            return Verdict::Counted;
        }
        if self.has_room(uid) {
            self.uids.entry(uid).or_default().0 += 1;
            self.windows.insert(
                kind,
                Window {
                    began: now,
                    written: 1,
                    suppressed: 0,
                },
            );
            return Verdict::Write;
        }
        self.overflow(uid, 1);
        Verdict::Counted
    }

    /// Counts a refusal whose record could not be written.
    pub(super) fn count(&mut self, uid: u32, event: Event, secret: Option<&str>, reason: &'static str) {
        match self.windows.get_mut(&Kind {
            uid,
            event,
            secret: secret.map(Into::into),
            reason,
        }) {
            Some(window) => window.suppressed += 1,
            None => self.overflow(uid, 1),
        }
    }

    /// Writes the counts of the windows that are over (of all, if `all`). What cannot be written is kept, and the
    /// first failure told.
    pub(super) fn close(&mut self, all: bool, write: &mut Write<'_>) -> Result<(), LogError> {
        let now = Instant::now();
        let over = |began: Instant| all || now.duration_since(began) >= self.length;
        let mut result = Ok(());
        let uids = &mut self.uids;
        self.windows.retain(|kind, window| {
            if result.is_err() || !over(window.began) {
                return true;
            }
            if window.suppressed > 0 {
                result = tell(kind, window.suppressed, write);
            }
            if result.is_ok()
                && let Some((kinds, _)) = uids.get_mut(&kind.uid)
            {
                *kinds = kinds.saturating_sub(1);
            }
            result.is_err()
        });
        if result.is_ok() && over(self.began) {
            self.began = now;
            for (&uid, (_, count)) in uids.iter_mut().filter(|(_, (_, count))| *count > 0) {
                if result.is_ok() {
                    result = summary(Some(uid), *count, write);
                }
                if result.is_ok() {
                    *count = 0;
                }
            }
            if self.others > 0 && result.is_ok() {
                result = summary(None, self.others, write);
                if result.is_ok() {
                    self.others = 0;
                }
            }
        }
        uids.retain(|_, (kinds, count)| *kinds > 0 || *count > 0);
        result
    }

    /// One uid gets a sixteenth of the table, so that it cannot hide what others do.
    fn has_room(&self, uid: u32) -> bool {
        self.windows.len() < self.kinds
            && match self.uids.get(&uid) {
                Some((kinds, _)) => *kinds < self.kinds / 16,
                None => self.uids.len() < self.kinds,
            }
    }

    fn overflow(&mut self, uid: u32, n: u64) {
        let room = self.uids.len() < self.kinds;
        match self.uids.get_mut(&uid) {
            Some((_, count)) => *count += n,
            None if room => {
                self.uids.insert(uid, (0, n));
            }
            None => self.others += n,
        }
    }
}

fn tell(kind: &Kind, count: u64, write: &mut Write<'_>) -> Result<(), LogError> {
    let mut fields = Vec::with_capacity(512);
    let secret = kind.secret.as_deref();
    writer::suppressed_fields(
        &mut fields,
        Some(kind.uid),
        Some(kind.event),
        secret,
        Some(kind.reason),
        count,
    );
    write(&fields)
}

fn summary(uid: Option<u32>, count: u64, write: &mut Write<'_>) -> Result<(), LogError> {
    let mut fields = Vec::with_capacity(256);
    writer::suppressed_fields(&mut fields, uid, None, None, None, count);
    write(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::collections::HashSet;

    #[derive(Debug, Clone)]
    enum Step {
        /// A refusal; whether its own record can be written, if it is to be.
        Refusal { uid: u32, secret: u8, written: bool },
        /// An end of all windows, of whose records this many can be written.
        Close(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            40 => (0..60u32, 0..6u8, any::<bool>())
                .prop_map(|(uid, secret, written)| Step::Refusal { uid, secret, written }),
            1 => (0..40usize).prop_map(Step::Close),
        ]
    }

    /// What was refused and not yet told, by uid; `None` for all beyond the table.
    type Owed = HashMap<Option<u32>, u64>;

    fn owed(floods: &Floods) -> Owed {
        let mut owed = Owed::new();
        let windows = floods.windows.iter().map(|(k, w)| (Some(k.uid), w.suppressed));
        let uids = floods.uids.iter().map(|(uid, (_, n))| (Some(*uid), *n));
        for (uid, n) in windows.chain(uids).chain([(None, floods.others)]) {
            *owed.entry(uid).or_default() += n;
        }
        owed.retain(|_, n| *n > 0);
        owed
    }

    proptest! {
        #[test]
        fn each_refusal_is_written_or_counted_for_its_uid(steps in prop::collection::vec(step(), 1..400)) {
            let mut floods = Floods::new(&Options {
                refusals_per_window: 2,
                refusal_window: Duration::from_secs(3600),
                refusal_kinds: 32,
                ..Options::default()
            });
            let mut expected = Owed::new();
            for step in steps {
                match step {
                    Step::Refusal { uid, secret, written } => {
                        let secret = secret.to_string();
                        let known = floods.uids.contains_key(&uid) || floods.uids.len() < 32;
                        let args = (uid, Event::OpenSecret, Some(&*secret), "implicit_deny");
                        let verdict = floods.admit(args.0, args.1, args.2, args.3, &mut |_| unreachable!());
                        if verdict == Verdict::Write && !written {
                            floods.count(args.0, args.1, args.2, args.3);
                        }
                        if verdict == Verdict::Counted || !written {
                            *expected.entry(known.then_some(uid)).or_default() += 1;
                        }
                    }
                    Step::Close(mut room) => {
                        let done = floods.close(true, &mut |fields| {
                            let record: Value = serde_json::from_str(&format!("{{{}}}", str::from_utf8(fields).unwrap())).unwrap();
                            if room == 0 {
                                return Err(LogError::Unfit("a full disk"));
                            }
                            room -= 1;
                            let uid = record["uid"].as_u64().map(|uid| uid as u32);
                            let told = record["suppressed"].as_u64().unwrap();
                            assert_ne!(told, 0, "{record}");
                            *expected.entry(uid).or_default() -= told;
                            Ok(())
                        });
                        expected.retain(|_, n| *n > 0);
                        prop_assert_eq!(done.is_ok(), expected.is_empty());
                        if done.is_ok() {
                            prop_assert!(floods.windows.is_empty() && floods.uids.is_empty());
                        }
                    }
                }
                prop_assert_eq!(owed(&floods), expected.clone());
                prop_assert!(floods.windows.len() <= 32 && floods.uids.len() <= 32);
                let holders: HashSet<u32> = floods.windows.keys().map(|k| k.uid).collect();
                for (uid, (kinds, _)) in &floods.uids {
                    let windows = floods.windows.keys().filter(|k| k.uid == *uid).count();
                    prop_assert!(*kinds == windows && windows <= 2, "{uid}: {kinds} and {windows}");
                }
                prop_assert!(holders.iter().all(|uid| floods.uids.contains_key(uid)));
            }
        }
    }

    #[test]
    fn a_window_that_is_over_begins_anew() {
        let mut floods = Floods::new(&Options {
            refusals_per_window: 1,
            refusal_window: Duration::from_millis(300),
            ..Options::default()
        });
        let mut told = Vec::new();
        let mut admit = |fails: bool| {
            floods.admit(1, Event::OpenSecret, None, "implicit_deny", &mut |fields| {
                told.push(String::from_utf8(fields.to_vec()).unwrap());
                match fails {
                    true => Err(LogError::Unfit("a full disk")),
                    false => Ok(()),
                }
            })
        };
        assert_eq!([admit(false), admit(false)], [Verdict::Write, Verdict::Counted]);
        std::thread::sleep(Duration::from_millis(310));
        assert_eq!(
            admit(true),
            Verdict::Counted,
            "nothing is written while the log fails"
        );
        assert_eq!(admit(false), Verdict::Write);
        std::thread::sleep(Duration::from_millis(310));
        assert_eq!(admit(false), Verdict::Write, "there is nothing to tell");
        let counts: Vec<bool> = told.iter().map(|t| t.contains("\"suppressed\":2")).collect();
        assert_eq!(counts, [false, true], "{told:?}");
        assert!(
            floods.close(false, &mut |_| unreachable!()).is_ok(),
            "no window is over"
        );
        assert_eq!(floods.windows.len(), 1);
    }
}
