//! How large the journal's segments are and how long they are kept.

use std::time::Duration;

use jiff::{SpanRelativeTo, Unit};
use serde::{Deserialize, Deserializer};

/// What is kept for alarms, unless somebody says otherwise: an alarm takes about 3 kB from the event
/// to the last outcome, so it is room for some thousands of them, weeks of an estate, and nothing
/// that a disk on which history is kept would miss.
pub const RESERVE_BYTES: u64 = 8 << 20;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How large the journal's segments are and how long they are kept. Durations are written as
/// `90d` or `36h`, a day as 24 hours.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A segment that has reached this size is closed and the next one begun. Opening reads the
    /// newest one, so this bounds the time a start takes.
    pub segment_bytes: u64,
    /// Segments whose newest record is older than this are removed.
    #[serde(deserialize_with = "duration")]
    pub keep: Duration,
    /// The oldest segments are removed when all together are larger than this.
    pub keep_bytes: u64,
    /// How long an event's id counts as a duplicate, even if its segment is gone. A captured
    /// request has no date that could expire, so this is longer than a year.
    #[serde(deserialize_with = "duration")]
    pub duplicates_for: Duration,
    /// The space that is kept for alarms, for when the disk is full; none if 0.
    pub reserve_bytes: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            segment_bytes: 16 << 20,
            keep: 90 * DAY,
            keep_bytes: 4 << 30,
            duplicates_for: 400 * DAY,
            reserve_bytes: RESERVE_BYTES,
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let span = jiff::Span::deserialize(from)?;
    let total = span.total((Unit::Second, SpanRelativeTo::days_are_24_hours()));
    let seconds = total.map_err(serde::de::Error::custom)?;
    Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_words_and_the_rest_has_defaults() {
        let config: Config = toml::from_str("keep = '7d'\nduplicates_for = '36h'").unwrap();
        assert_eq!((config.keep, config.duplicates_for), (7 * DAY, DAY + DAY / 2));
        assert_eq!(config.segment_bytes, Config::default().segment_bytes);
        assert!(toml::from_str::<Config>("keep = '-1d'").is_err());
        assert!(toml::from_str::<Config>("kept = '1d'").is_err());
    }
}
