//! A refused look-up that is held back for a moment: of a name that it has in its cache the kernel asks a second time
//! when the first answer is no, and one refused `open` or `stat` shall be one record.

use std::time::{Duration, Instant};

use super::super::flood::Refused;
use super::super::record::optional;
use super::{Context, Stamp, Writer};

/// How long one is held back for an equal one.
pub const HOLD: Duration = Duration::from_millis(5);

/// One of them, laid out.
pub(in crate::audit) struct Held {
    thread: (u32, u32),
    secret: Option<Box<str>>,
    reason: &'static str,
    since: Instant,
    requests: u64,
    fields: Vec<u8>,
}

impl Held {
    pub(in crate::audit) fn new(refused: &Refused<'_>, tid: u32, fields: &[u8]) -> Held {
        Held {
            thread: (refused.uid, tid),
            secret: refused.secret.map(Into::into),
            reason: refused.reason,
            since: Instant::now(),
            requests: 1,
            fields: fields.into(),
        }
    }

    /// Counts this one in, if it is the same request, asked again.
    pub(in crate::audit) fn again(&mut self, refused: &Refused<'_>, tid: u32) -> bool {
        let same = self.thread == (refused.uid, tid)
            && self.secret.as_deref() == refused.secret
            && self.reason == refused.reason
            && self.since.elapsed() < HOLD;
        self.requests += u64::from(same);
        same
    }
}

impl Writer {
    /// Writes what is held back. What cannot be written is among the refused of the next `LogResumed`.
    pub(in crate::audit) fn settle(&mut self, ctx: &Context) {
        let Some(mut held) = self.held.take() else { return };
        optional(
            &mut held.fields,
            "requests",
            Some(held.requests).filter(|n| *n > 1),
        );
        let taken = self.admit(ctx, held.fields.len() as u64 + 512, false);
        let taken = taken.and_then(|()| self.put(ctx, Stamp::Fresh, &held.fields, None, false));
        if taken.is_err() {
            self.refused += 1;
        }
    }
}
