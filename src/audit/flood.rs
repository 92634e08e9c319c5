//! Records of what changed nothing and gave no byte: bounded in bytes, by all callers together. The first of each kind
//! go before repetitions, whoever floods hides nobody else's, and what is not written is counted exactly.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::Options;
use super::budget::{BURST, Debt};
use super::error::LogError;
use super::json;
use super::record::{Event, Outcome, Record, field, optional};

/// How long a kind counts as seen.
const MINUTE: Duration = Duration::from_secs(60);
/// So many owners that flood at once have the whole budget; one alone has this part of it.
const SHARES: u64 = 8;
/// First records of an owner in a minute that are written as long as there is any budget.
const FIRSTS: u32 = 16;
/// Kinds and owners told apart at a time.
const TABLE: usize = 16_384;
/// Owners whose counts are told one by one.
const NAMED: usize = 1024;
/// Bytes of records of counts for each second.
const COUNTS_PER_SECOND: u64 = 4096;
/// Stands for all owners beyond the table; no account has this uid.
const OTHERS: u32 = u32::MAX;

/// What was refused, as far as it is told apart. All of it is known before anything is looked up for the record.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Who asked.
    pub uid: u32,
    /// What was tried.
    pub event: Event,
    /// On which secret. `None` for names that are not there: else whoever invents names makes kinds.
    pub secret: Option<&'a str>,
    /// Why not.
    pub reason: &'static str,
}

impl<'a> Refused<'a> {
    /// What a record speaks of, whose secret is there; `None` for one of something that was done.
    pub fn of(record: &Record<'a>) -> Option<Self> {
        let (Outcome::Denied { reason } | Outcome::Failed { reason }) = record.outcome else {
            return None;
        };
        Some(Refused {
            uid: record.who.uid,
            event: record.event,
            secret: record.secret,
            reason,
        })
    }
}

/// What was refused has a budget by its weight, so that a flood of looks displaces no refused deletion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weight {
    Common,
    Grave,
}

impl Weight {
    fn of(event: Event) -> Weight {
        match event {
            Event::DeleteSecret
            | Event::PurgeSecret
            | Event::RestoreSecret
            | Event::PutResourcePolicy
            | Event::DeleteResourcePolicy
            | Event::PutGuardrail
            | Event::DeleteGuardrail
            | Event::PutIdentityPolicy
            | Event::DeleteIdentityPolicy
            | Event::AcceptConfig
            | Event::ArchiveLog
            | Event::BreakGlass
            | Event::ReplaceKeySlot
            | Event::CreateStore
            | Event::BackupStore
            | Event::RestoreStore
            | Event::CheckStore
            | Event::Mount
            | Event::Unmount => Weight::Grave,
            _ => Weight::Common,
        }
    }
}

/// What becomes of a refusal.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Its record is to be written, and told by [`Floods::charge`] or [`Floods::unwritten`].
    Write(Ticket),
    /// It was counted.
    Counted,
}

/// A record that is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    owner: u32,
    event: Event,
    kind: u64,
}

/// A kind that was seen in the last minute.
struct Seen {
    first: Instant,
    window: Instant,
    /// In this window.
    written: u32,
}

struct Owner {
    minute: Instant,
    /// First records in this minute.
    firsts: u32,
    common: Debt,
    grave: Debt,
    suppressed: u64,
}

impl Owner {
    fn new(now: Instant) -> Owner {
        Owner {
            minute: now,
            firsts: 0,
            common: Debt::none(now),
            grave: Debt::none(now),
            suppressed: 0,
        }
    }

    fn debt(&mut self, weight: Weight) -> &mut Debt {
        match weight {
            Weight::Common => &mut self.common,
            Weight::Grave => &mut self.grave,
        }
    }
}

/// The budgets, and the counts that are not told yet.
pub(super) struct Floods {
    per_window: u32,
    window: Duration,
    per_second: u64,
    /// How many times dearer a byte is than while there is space: 1 or more.
    dearth: f64,
    /// By the keyed hash of (owner, event, secret, reason): nobody can make two kinds one.
    kinds: HashMap<u64, Seen>,
    hasher: RandomState,
    owners: HashMap<u32, Owner>,
    common: Debt,
    grave: Debt,
    events: Vec<(Event, u64)>,
    counting_since: Option<Instant>,
    tell_after: Instant,
}

impl Floods {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        Floods {
            per_window: options.refusals_per_window,
            window: options.refusal_window,
            per_second: options.refusal_bytes_per_second.max(64),
            dearth: 1.0,
            kinds: HashMap::new(),
            hasher: RandomState::new(),
            owners: HashMap::new(),
            common: Debt::none(now),
            grave: Debt::none(now),
            events: Vec::new(),
            counting_since: None,
            tell_after: now,
        }
    }

    /// While less than `low` bytes are free, a byte is dearer in proportion, so that what is refused never fills a
    /// disk: each record leaves enough for the next.
    pub(super) fn space(&mut self, free: u64, low: u64) {
        self.dearth = (low as f64 / free.max(1) as f64).clamp(1.0, 1e6);
    }

    /// Decides about one refusal, `owner`'s.
    pub(super) fn admit(&mut self, owner: u32, refused: &Refused<'_>, now: Instant) -> Verdict {
        let Refused {
            event,
            secret,
            reason,
            ..
        } = *refused;
        let owner = match self.owners.len() < TABLE || self.owners.contains_key(&owner) {
            true => owner,
            false => OTHERS,
        };
        let kind = self.hasher.hash_one((owner, event, secret, reason));
        let weight = Weight::of(event);
        let account = self.owners.entry(owner).or_insert_with(|| Owner::new(now));
        if now.duration_since(account.minute) >= MINUTE {
            (account.minute, account.firsts) = (now, 0);
        }
        let in_share = account.debt(weight).owed(now) < BURST;
        let seen = self.kinds.get_mut(&kind);
        let mut seen = seen.filter(|seen| now.duration_since(seen.first) < MINUTE);
        // How deep in debt all together may be for this one to be written.
        let allowed = match &mut seen {
            None if account.firsts < FIRSTS => BURST,
            None if in_share => BURST * 3 / 4,
            None => BURST / 2,
            Some(seen) => {
                if now.duration_since(seen.window) >= self.window {
                    (seen.window, seen.written) = (now, 0);
                }
                match in_share && self.dearth <= 1.0 && seen.written < self.per_window {
                    true => BURST / 2,
                    false => Duration::ZERO,
                }
            }
        };
        let owed = match weight {
            Weight::Common => self.common.owed(now),
            Weight::Grave => self.grave.owed(now),
        };
        if owed >= allowed {
            self.count(owner, event, now);
            return Verdict::Counted;
        }
        match seen {
            Some(seen) => seen.written += 1,
            None => {
                account.firsts += 1;
                if self.kinds.len() < TABLE || self.kinds.contains_key(&kind) {
                    let seen = Seen {
                        first: now,
                        window: now,
                        written: 1,
                    };
                    self.kinds.insert(kind, seen);
                }
            }
        }
        Verdict::Write(Ticket { owner, event, kind })
    }

    /// The record of a ticket was written: these many bytes.
    pub(super) fn charge(&mut self, ticket: Ticket, bytes: u64, now: Instant) {
        let weight = Weight::of(ticket.event);
        let (debt, per_second) = match weight {
            Weight::Common => (&mut self.common, self.per_second),
            Weight::Grave => (&mut self.grave, self.per_second / 4),
        };
        let bytes = bytes as f64 * self.dearth;
        debt.add(bytes, per_second, now);
        if let Some(owner) = self.owners.get_mut(&ticket.owner) {
            owner.debt(weight).add(bytes, per_second / SHARES, now);
        }
    }

    /// The record of a ticket was not written: it is counted, and the next of its kind is the first.
    pub(super) fn unwritten(&mut self, ticket: Ticket, now: Instant) {
        self.kinds.remove(&ticket.kind);
        self.count(ticket.owner, ticket.event, now);
    }

    fn count(&mut self, owner: u32, event: Event, now: Instant) {
        self.owners
            .entry(owner)
            .or_insert_with(|| Owner::new(now))
            .suppressed += 1;
        match self.events.iter_mut().find(|(e, _)| *e == event) {
            Some((_, n)) => *n += 1,
            None => self.events.push((event, 1)),
        }
        self.counting_since.get_or_insert(now);
    }

    /// Forgets who was quiet, and writes what was counted, if that is due; in any case if `all`. What cannot be written
    /// is kept.
    pub(super) fn tell(
        &mut self,
        all: bool,
        now: Instant,
        write: &mut dyn FnMut(&[u8]) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let recent = |at: Instant| now.duration_since(at) < MINUTE;
        if let Some(since) = self.counting_since
            && (all || now.duration_since(since) >= self.window && now >= self.tell_after)
        {
            let fields = self.counts();
            write(&fields)?;
            self.owners.values_mut().for_each(|owner| owner.suppressed = 0);
            self.events.clear();
            self.counting_since = None;
            let cost = fields.len() as f64 * self.dearth / COUNTS_PER_SECOND as f64;
            self.tell_after = now + Duration::from_secs_f64(cost.min(600.0));
        }
        self.kinds.retain(|_, seen| recent(seen.first));
        self.owners.retain(|_, owner| {
            let owes = [owner.common, owner.grave]
                .iter()
                .any(|debt| !debt.owed(now).is_zero());
            owes || owner.suppressed > 0 || recent(owner.minute)
        });
        Ok(())
    }

    /// The fields of the record of all counts.
    fn counts(&self) -> Vec<u8> {
        let counted = self.owners.iter().map(|(uid, owner)| (*uid, owner.suppressed));
        let mut owners: Vec<(u32, u64)> = counted.filter(|(uid, n)| *n > 0 && *uid != OTHERS).collect();
        owners.sort_unstable_by_key(|&(uid, n)| (std::cmp::Reverse(n), uid));
        owners.truncate(NAMED);
        let total: u64 = self.events.iter().map(|(_, n)| n).sum();
        let others = total - owners.iter().map(|(_, n)| n).sum::<u64>();
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"\"eventName\":\"RefusalsSuppressed\",\"eventSource\":\"wardfs\",\"uid\":");
        match owners[..] {
            [(uid, _)] if others == 0 => json::number(&mut out, uid.into()),
            _ => out.extend_from_slice(b"null"),
        }
        optional(&mut out, "suppressed", Some(total));
        let mut map = |name: &str, counts: &mut dyn Iterator<Item = (&str, u64)>| {
            field(&mut out, name);
            out.push(b'{');
            for (i, (key, n)) in counts.enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                json::string(&mut out, key);
                out.push(b':');
                json::number(&mut out, n);
            }
            out.push(b'}');
        };
        map(
            "refusedEvents",
            &mut self.events.iter().map(|(event, n)| (event.name(), *n)),
        );
        let uids: Vec<(String, u64)> = owners.iter().map(|(uid, n)| (uid.to_string(), *n)).collect();
        map("refusedUids", &mut uids.iter().map(|(uid, n)| (uid.as_str(), *n)));
        optional(&mut out, "refusedOthers", Some(others).filter(|n| *n > 0));
        out.extend_from_slice(b",\"outcome\":\"denied\",\"errorCode\":\"AccessDenied\"");
        out
    }
}
