//! What holds the records together: the segment's key, the MAC over each line, and the walk that checks them.

use std::io::{BufRead, Read};
use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::id::StoreId;
use crate::secret::{HASH_STACK, SecretBytes, on_clean_stack};

use super::error::{Broken, BrokenKind, LogError};

/// Bytes of a line between the part that the MAC covers and the newline: `,"mac":"`, 43 characters, `"}`.
pub(super) const TAIL: usize = 8 + MAC_TEXT + 2;
const MAC_TEXT: usize = 43;

/// The longest line that is written.
pub(super) const MAX_WRITTEN: usize = 128 << 10;
/// The most of it that the fields of a record take: sequence, epoch and MAC, and time and id where they are no part of
/// them, have their room beside.
pub(super) const MAX_FIELDS: usize = MAX_WRITTEN - 512;
/// The longest line that is believed: earlier versions wrote all groups of a caller.
pub(super) const MAX_LINE: usize = 1 << 20;

/// A MAC, and the head of a chain.
pub(super) type Head = [u8; 32];

/// What the first record of a store's log takes for its predecessor's MAC.
pub(super) fn genesis(store: StoreId) -> Head {
    Sha256::new()
        .chain_update(b"wardfs audit genesis 1")
        .chain_update(store.0)
        .finalize()
        .into()
}

/// The key of one segment: HKDF-SHA256(log key, "wardfs audit segment 1" ‖ store ‖ segment number, big-endian).
pub(super) struct SegmentKey(SecretBytes);

impl SegmentKey {
    pub(super) fn derive(log_key: &SecretBytes, store: StoreId, segment: u64) -> Result<Self, LogError> {
        let mut key = crate::sys::mem::secret(32).map_err(|e| LogError::Key(e.to_string()))?;
        let mut info = [0u8; 22 + 16 + 8];
        info[..22].copy_from_slice(b"wardfs audit segment 1");
        info[22..38].copy_from_slice(&store.0);
        info[38..].copy_from_slice(&segment.to_be_bytes());
        let into = key.expose_mut();
        on_clean_stack::<HASH_STACK, _>(|| {
            hkdf::Hkdf::<Sha256>::new(None, log_key.expose()).expand(&info, into)
        })
        .map_err(|e| LogError::Key(e.to_string()))?;
        Ok(SegmentKey(key))
    }

    /// HMAC-SHA256(predecessor's MAC ‖ covered bytes). Keyed anew for each record: the key stays in locked memory.
    pub(super) fn mac(&self, previous: &Head, covered: &[u8]) -> Head {
        on_clean_stack::<HASH_STACK, _>(|| {
            let mut mac =
                Hmac::<Sha256>::new_from_slice(self.0.expose()).expect("HMAC takes a key of any length");
            mac.update(previous);
            mac.update(covered);
            mac.finalize().into_bytes().into()
        })
    }
}

/// A MAC as it stands in a line.
pub(super) fn mac_text(mac: &Head) -> [u8; MAC_TEXT] {
    let mut text = [0; MAC_TEXT];
    BASE64URL_NOPAD.encode_mut(mac, &mut text);
    text
}

/// Splits a line (without its newline) into what the MAC covers and the MAC's text.
pub(super) fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (covered, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
    let mac = tail.strip_prefix(b",\"mac\":\"")?.strip_suffix(b"\"}")?;
    Some((covered, mac))
}

/// The MAC at the end of a line, of which no more than the end need be there.
pub(super) fn mac_of(end: &[u8]) -> Option<Head> {
    let (_, text) = split(end)?;
    let bytes = BASE64URL_NOPAD.decode(text).ok()?;
    bytes.try_into().ok()
}

/// The sequence number at the head of a line.
pub(super) fn sequence(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"{\"seq\":")?;
    let end = rest.iter().take(21).position(|&b| b == b',')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

/// The time and the name of a record, as they stand at the head of its line.
pub(super) fn event(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let quoted = |text: &'_ [u8]| text.iter().take(64).position(|&b| b == b'"');
    let rest = line.strip_prefix(b"{\"seq\":")?;
    let digits = rest.iter().take(21).position(|&b| b == b',')?;
    let rest = rest[digits..].strip_prefix(b",\"eventTime\":\"")?;
    let (time, rest) = rest.split_at(quoted(rest)?);
    let rest = rest.strip_prefix(b"\",\"eventID\":\"")?;
    let rest = rest[quoted(rest)?..].strip_prefix(b"\",\"eventName\":\"")?;
    Some((time, &rest[..quoted(rest)?]))
}

/// Splits `,"epoch":N` off the end. No string can end in it unescaped, so what is found was written as the epoch.
pub(super) fn split_epoch(covered: &[u8]) -> (&[u8], Option<u64>) {
    const NAME: &[u8] = b",\"epoch\":";
    let digits = covered.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (rest, digits) = covered.split_at(covered.len() - digits);
    let epoch = std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok());
    match (rest.strip_suffix(NAME), epoch) {
        (Some(rest), Some(epoch)) => (rest, Some(epoch)),
        _ => (covered, None),
    }
}

/// Where a chain stands after a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub seq: u64,
    pub head: Head,
    /// The highest epoch so far.
    pub epoch: u64,
}

impl State {
    pub(super) fn genesis(store: StoreId) -> Self {
        State {
            seq: 0,
            head: genesis(store),
            epoch: 0,
        }
    }

    /// Takes a line if it is the next one of the chain; gives the part that its MAC covers.
    pub(super) fn advance<'l>(&mut self, key: &SegmentKey, line: &'l [u8]) -> Option<&'l [u8]> {
        let (covered, text) = split(line)?;
        if sequence(covered)? != self.seq + 1 {
            return None;
        }
        let mac = key.mac(&self.head, covered);
        if !bool::from(mac_text(&mac).ct_eq(text)) {
            return None;
        }
        self.seq += 1;
        self.head = mac;
        if let Some(epoch) = split_epoch(covered).1 {
            self.epoch = self.epoch.max(epoch);
        }
        Some(covered)
    }
}

/// How the walk of a segment ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// Bytes up to the end of the last whole line.
    pub offset: u64,
    /// Whole lines seen.
    pub lines: u64,
    /// Bytes of an unfinished line behind it.
    pub torn: u64,
}

/// Checks the lines of a segment from `end` (its offset and line count so far) on, as far as `input` goes, and
/// moves `state` along. `each` sees every record as (state after it, covered bytes, bytes up to its end).
pub(super) fn walk(
    path: &Path,
    input: &mut impl BufRead,
    key: &SegmentKey,
    state: &mut State,
    end: &mut End,
    mut each: impl FnMut(&State, &[u8], u64) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut line = Vec::with_capacity(1024);
    while let Some(whole) = next_line(path, input, &mut line)? {
        if !whole && line.len() < MAX_LINE {
            end.torn = line.len() as u64;
            return Ok(());
        }
        let body = line.strip_suffix(b"\n").unwrap_or(&line);
        match state.advance(key, body) {
            Some(covered) => {
                end.lines += 1;
                end.offset += line.len() as u64;
                each(state, covered, end.offset)?;
            }
            None => {
                let bad = std::mem::take(&mut line);
                let (resumed, lines) = resume(path, input, key, state, &bad, end)?;
                let (covered, _) = split(&resumed).unwrap_or_default();
                end.lines += lines + 1;
                each(state, covered, end.offset)?;
            }
        }
    }
    Ok(())
}

/// Reads one line with its newline; false if there is none at its end.
fn next_line(path: &Path, input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<Option<bool>, LogError> {
    line.clear();
    let n = input
        .take(MAX_LINE as u64)
        .read_until(b'\n', line)
        .map_err(|e| LogError::io(path, e))?;
    Ok((n > 0).then(|| line.last() == Some(&b'\n')))
}

/// What does not fit is accepted only where a later record of the chain itself says how many bytes with which
/// digest were left unfinished before it. Gives that record's line and the number of lines passed over.
fn resume(
    path: &Path,
    input: &mut impl BufRead,
    key: &SegmentKey,
    state: &mut State,
    bad: &[u8],
    end: &mut End,
) -> Result<(Vec<u8>, u64), LogError> {
    let mut passed = bad.to_vec();
    let mut lines = 1;
    let mut line = Vec::new();
    let mut later = Vec::new();
    // No mark stands further away than a line is long, and no more is read to say what was done.
    while passed.len() <= MAX_LINE
        && let Some(whole) = next_line(path, input, &mut line)?
    {
        let body = line.strip_suffix(b"\n").unwrap_or(&line);
        let mut next = *state;
        if whole && next.advance(key, body).is_some() {
            if torn_mark(body) == Some((passed.len() as u64 - 1, digest(&passed[..passed.len() - 1]))) {
                *state = next;
                end.offset += (passed.len() + line.len()) as u64;
                return Ok((body.to_vec(), lines));
            }
            later.push((sequence(body), true));
        } else {
            later.push((sequence(body), false));
        }
        passed.extend_from_slice(&line);
        lines += 1;
    }
    Err(classify(path, state.seq + 1, bad, &later, end.lines + 1).into())
}

/// The text form of the digest of unfinished bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(&Sha256::digest(bytes))
}

/// The `torn` parameters of a `LogResumed` record.
fn torn_mark(line: &[u8]) -> Option<(u64, String)> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mark {
        event_name: String,
        request_parameters: Parameters,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Parameters {
        torn_bytes: u64,
        torn_digest: String,
        cut: bool,
    }
    let Mark {
        event_name,
        request_parameters: torn,
    } = serde_json::from_slice(line).ok()?;
    (event_name == "LogResumed" && !torn.cut).then_some((torn.torn_bytes, torn.torn_digest))
}

/// Says what was done, from the line that does not fit and the (sequence, fits here) of those after it.
fn classify(path: &Path, expected: u64, bad: &[u8], later: &[(Option<u64>, bool)], line: u64) -> Broken {
    let found = sequence(bad);
    let genuine_later = later.iter().any(|&(_, fits)| fits);
    let (kind, text) = match found {
        _ if genuine_later && found.is_some_and(|s| s > expected) => (
            BrokenKind::Reordered,
            format!("record {} stands before it", found.unwrap_or_default()),
        ),
        _ if genuine_later => (
            BrokenKind::Inserted,
            "a line that was not written here stands before it".into(),
        ),
        Some(s) if s > expected => (
            BrokenKind::Removed,
            format!("it is missing; record {s} follows at once"),
        ),
        Some(s) if s < expected => (
            BrokenKind::Inserted,
            format!("a copy of record {s}, or a forged line, stands in its place"),
        ),
        _ => (
            BrokenKind::Edited,
            "its bytes are not the ones that were written".into(),
        ),
    };
    Broken {
        sequence: expected,
        segment: path.into(),
        line,
        kind,
        text,
    }
}
