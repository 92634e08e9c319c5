//! A record that waits in an outbox: serialised with the change that it speaks of, appended after it.

use std::borrow::Cow;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;

use super::chain::MAX_FIELDS;
use super::error::LogError;
use super::json::{self, TimeText};
use super::record::{Event, Identity, Outcome, Record, Value, Who, field};

/// A record serialised beforehand, for an outbox: everything but sequence and MAC, its time and `eventID` included.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", from = "String")]
pub struct Body(pub Vec<u8>);

/// JSON is text, and so is a piece of it.
impl From<Body> for String {
    fn from(body: Body) -> Self {
        String::from_utf8_lossy(&body.0).into_owned()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body(text.into_bytes())
    }
}

impl Body {
    /// The record's `eventID`; empty if the bytes are no body.
    pub fn event_id(&self) -> &str {
        self.0
            .strip_prefix(b"\"eventTime\":\"")
            .and_then(|rest| rest.get(rest.iter().position(|&b| b == b'"')?..))
            .and_then(|rest| rest.strip_prefix(b"\",\"eventID\":\""))
            .and_then(|rest| std::str::from_utf8(rest.get(..rest.iter().position(|&b| b == b'"')?)?).ok())
            .unwrap_or("")
    }

    /// Splits off the epoch that the body carries, after checking that the rest makes one line of one object.
    pub(super) fn parts(&self) -> Result<(&[u8], Option<u64>), LogError> {
        let foreign = LogError::Unfit("it was not made by this program");
        if self.event_id().is_empty() || self.0.contains(&b'\n') || self.object().is_none() {
            return Err(foreign);
        }
        let parts = super::chain::split_epoch(&self.0);
        match parts.0.len() > MAX_FIELDS {
            true => Err(LogError::TOO_LONG),
            false => Ok(parts),
        }
    }

    fn object(&self) -> Option<serde_json::Map<String, serde_json::Value>> {
        serde_json::from_slice(&[b"{", self.0.as_slice(), b"}"].concat()).ok()
    }

    /// Whether the log will take it, as far as that is a matter of the body: to be asked before what it speaks of is
    /// done.
    ///
    /// # Errors
    /// [`LogError::Unfit`], with the reason.
    pub fn fit(&self) -> Result<(), LogError> {
        self.parts().map(drop)
    }

    /// The body, or what stands for one that no line can hold, as earlier releases made them: event, who, secret, and
    /// size and digest of the body itself. It keeps time and `eventID`.
    pub fn writable(&self) -> Cow<'_, Body> {
        match self.fit() {
            Ok(()) => Cow::Borrowed(self),
            Err(_) => Cow::Owned(self.short()),
        }
    }

    fn short(&self) -> Body {
        let object = self.object().unwrap_or_default();
        let text = |name: &str| object.get(name).and_then(|v| v.as_str());
        let number = |name: &str| object.get(name).and_then(|v| u32::try_from(v.as_u64()?).ok());
        let raw = Sha256::digest(&self.0);
        let event = Event::ALL.iter().find(|e| Some(e.name()) == text("eventName"));
        let parameters = object.get("requestParameters");
        let digest = HEXLOWER.encode(&raw);
        let record = Record {
            event: event.copied().unwrap_or(Event::ControlCall),
            outcome: Outcome::Allowed,
            secret: parameters.and_then(|p| p.get("secretId")?.as_str()),
            parameters: &[
                ("recordBytes", Value::Number(self.0.len() as u64)),
                ("recordSha256", Value::Text(&digest)),
            ],
            message: Some("the record was too long for a line of the log: this one stands for it"),
            who: Who {
                uid: number("uid").unwrap_or(u32::MAX),
                gid: number("gid").unwrap_or(u32::MAX),
                pid: number("pid"),
                login_uid: number("loginUid"),
                ..Who::default()
            },
            via: ["mount", "control", "command"]
                .into_iter()
                .find(|door| text("via") == Some(door))
                .unwrap_or(""),
            identity: Identity::Full,
            ..Record::default()
        };
        let stamp = br#""eventTime":"","eventID":"","#.len() + text("eventTime").map_or(0, str::len);
        let stamp = self.0.get(..stamp + self.event_id().len());
        record.with_stamp(match stamp.filter(|s| s.len() < 128 && s.ends_with(b"\",")) {
            Some(stamp) => stamp.to_vec(),
            None => {
                // The same id each time, so that it is appended once.
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&raw[..16]);
                stamp_of(
                    Timestamp::now(),
                    uuid::Builder::from_custom_bytes(bytes).into_uuid(),
                )
            }
        })
    }
}

/// Time and id, as a body begins.
fn stamp_of(time: Timestamp, id: uuid::Uuid) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"\"eventTime\":\"");
    TimeText::default().write(&mut out, time);
    out.extend_from_slice(b"\",\"eventID\":\"");
    out.extend_from_slice(
        id.hyphenated()
            .encode_lower(&mut uuid::Uuid::encode_buffer())
            .as_bytes(),
    );
    out.extend_from_slice(b"\",");
    out
}

impl Record<'_> {
    /// The record with the time and a fresh id, to be kept in an outbox and appended after the commit.
    pub fn body(&self) -> Body {
        let now = Timestamp::now();
        // Not of the clock itself, which may stand where no UUID has a time for it.
        let seconds = now.0.unsigned_abs() / 1_000_000;
        let time = uuid::Timestamp::from_unix(uuid::NoContext, seconds, (now.0 % 1_000_000 * 1000) as u32);
        self.with_stamp(stamp_of(now, uuid::Uuid::new_v7(time)))
    }

    fn with_stamp(&self, mut out: Vec<u8>) -> Body {
        self.write(&mut out);
        if let Some(epoch) = self.epoch {
            field(&mut out, "epoch");
            json::number(&mut out, epoch);
        }
        Body(out)
    }
}
