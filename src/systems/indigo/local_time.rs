//! Indigo's timestamps: local time without a zone. Pure.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// The moment that a naive local time means. In the hour that happens twice in autumn it is the
/// one nearer to `heard`; a time that spring leaves out is read as the clock before the change
/// would have gone on.
pub fn moment(naive: &str, zone: &TimeZone, heard: Timestamp) -> Option<Timestamp> {
    let naive: DateTime = naive.trim().replacen(' ', "T", 1).parse().ok()?;
    let meant = || zone.to_ambiguous_timestamp(naive);
    if matches!(meant().offset(), AmbiguousOffset::Gap { .. }) {
        return meant().compatible().ok();
    }
    let (earlier, later) = (meant().earlier().ok()?, meant().later().ok()?);
    let far = |at: Timestamp| heard.duration_since(at).abs();
    Some(if far(later) < far(earlier) { later } else { earlier })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(naive: &str, heard: &str, expect: Option<&str>) {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        let at = moment(naive, &zone, heard.parse().unwrap());
        assert_eq!(at.map(|at| at.to_string()).as_deref(), expect, "{naive}");
    }

    #[test]
    fn summer_winter_and_the_hours_between() {
        let heard = "2026-10-25T12:00:00Z";
        check("2026-07-01T12:00:00", heard, Some("2026-07-01T10:00:00Z"));
        check("2022-12-01T12:03:27.759000", heard, Some("2022-12-01T11:03:27.759Z"));
        // 02:30 happens twice on this morning.
        check("2026-10-25T02:30:00", "2026-10-25T00:30:01Z", Some("2026-10-25T00:30:00Z"));
        check("2026-10-25T02:30:00", "2026-10-25T01:30:01Z", Some("2026-10-25T01:30:00Z"));
        // And never on this one.
        check("2026-03-29T02:30:00", heard, Some("2026-03-29T01:30:00Z"));
        check("yesterday", heard, None);
    }
}
