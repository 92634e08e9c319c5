//! Time as the records show it.

use std::time::{SystemTime, UNIX_EPOCH};

/// A wall-clock instant in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The last instant that can be written as RFC 3339 whatever the time zone.
    pub const LAST: Timestamp = Timestamp(253_402_207_199_999_999);

    /// The wall clock now. A clock before 1970 reads as the epoch itself, one past the year 9999 as
    /// [`Timestamp::LAST`].
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// As the standard library's instant, for file times.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + std::time::Duration::from_micros(self.0.max(0) as u64)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(t: SystemTime) -> Self {
        let since = t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        Timestamp(since.min(Self::LAST.0 as u128) as i64)
    }
}

/// RFC 3339 in UTC with microseconds, as `2026-11-25T08:30:00.123456Z`.
impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}
