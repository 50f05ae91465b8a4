//! A drain as somebody asks for it: when it is complete, and over which time before that.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// From the instant `until` on the drained thing takes no new connection while another can; its
/// share falls to that over the time before. Written `<until>,<over>`, as in
/// `2026-05-04T10:00:00Z,10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Drain {
    until_ms: i64,
    over: Duration,
}

/// A text that is no drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseDrainError {
    /// The instant cannot be read.
    #[error("the instant is not of RFC 3339; write it as in 2026-05-04T10:00:00Z,10m")]
    Until,
    /// The time cannot be read, or is too long.
    #[error("the time is not a duration of at most 24h; write it as in 90s, 10m or 2h")]
    Over,
}

impl Drain {
    /// The longest time over which a share may fall.
    pub const LONGEST: Duration = Duration::from_hours(24);

    /// A drain that begins at `now_ms` (Unix milliseconds) and is complete `over` later.
    ///
    /// # Errors
    /// `over` is longer than [`Drain::LONGEST`].
    pub fn beginning(now_ms: i64, over: Duration) -> Result<Self, ParseDrainError> {
        if over > Self::LONGEST {
            return Err(ParseDrainError::Over);
        }
        let over_ms = i64::try_from(over.as_millis()).map_err(|_| ParseDrainError::Over)?;
        Ok(Self { until_ms: now_ms.saturating_add(over_ms), over })
    }

    /// Parses `<until>,<over>`: an instant of RFC 3339 and a duration; without one it is sudden.
    ///
    /// # Errors
    /// Says which half cannot be read.
    pub fn parse(text: &str) -> Result<Self, ParseDrainError> {
        let (until, over) = match text.split_once(',') {
            Some((until, over)) => (until, Some(over)),
            None => (text, None),
        };
        let until: jiff::Timestamp = until.trim().parse().map_err(|_| ParseDrainError::Until)?;
        let over = over.map_or(Ok(Duration::ZERO), Self::parse_over)?;
        Ok(Self { until_ms: until.as_millisecond(), over })
    }

    /// Parses the time alone: `10m`, `90s`, `1h 30m`.
    ///
    /// # Errors
    /// It is no duration, or longer than [`Drain::LONGEST`].
    pub fn parse_over(text: &str) -> Result<Duration, ParseDrainError> {
        let over = humantime::parse_duration(text.trim()).map_err(|_| ParseDrainError::Over)?;
        if over <= Self::LONGEST { Ok(over) } else { Err(ParseDrainError::Over) }
    }

    /// When it is complete, Unix milliseconds.
    #[must_use]
    pub fn until_ms(self) -> i64 {
        self.until_ms
    }

    /// Over which time the share falls before that.
    #[must_use]
    pub fn over(self) -> Duration {
        self.over
    }

    /// The instant of its completion as in RFC 3339.
    #[must_use]
    pub fn until(self) -> String {
        let at = jiff::Timestamp::from_millisecond(self.until_ms).unwrap_or_default();
        at.to_string()
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.until(), humantime::format_duration(self.over))
    }
}

impl TryFrom<String> for Drain {
    type Error = ParseDrainError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Drain> for String {
    fn from(drain: Drain) -> Self {
        drain.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_and_a_duration_are_read_and_written() {
        let drain = Drain::parse(" 2026-05-04T10:00:00Z, 10m ").unwrap();
        assert_eq!((drain.until_ms(), drain.over()), (1_777_888_800_000, Duration::from_mins(10)));
        assert_eq!(drain.to_string(), "2026-05-04T10:00:00Z,10m");
        let local = Drain::parse("2026-05-04T12:00:00+02:00,10m").unwrap();
        assert_eq!(local, drain, "an offset is understood");
        assert_eq!(Drain::parse("2026-05-04T10:00:00.250Z").unwrap().over(), Duration::ZERO);
        let saved = serde_json::to_string(&drain).unwrap();
        assert_eq!(serde_json::from_str::<Drain>(&saved).unwrap(), drain);
    }

    #[test]
    fn what_is_no_drain_says_which_half() {
        for (text, error) in [
            ("", ParseDrainError::Until),
            ("10m", ParseDrainError::Until),
            ("2026-05-04,10m", ParseDrainError::Until),
            ("2026-05-04T10:00:00,10m", ParseDrainError::Until),
            ("2026-05-04T10:00:00Z,", ParseDrainError::Over),
            ("2026-05-04T10:00:00Z,soon", ParseDrainError::Over),
            ("2026-05-04T10:00:00Z,25h", ParseDrainError::Over),
            ("2026-05-04T10:00:00Z,-1s", ParseDrainError::Over),
        ] {
            assert_eq!(Drain::parse(text), Err(error), "{text}");
        }
        assert!(Drain::beginning(0, Drain::LONGEST + Duration::from_millis(1)).is_err());
        assert_eq!(Drain::beginning(5, Duration::from_secs(1)).unwrap().until_ms(), 1_005);
    }
}
