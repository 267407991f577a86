//! Quiet hours: when a person is not to be disturbed by what can wait, and when that ends. Pure.

use jiff::Timestamp;
use jiff::civil::Time;

use super::House;
use super::scene::parse_clock_time;
use super::schedule::{days_around, first, next_at};

/// From one time of day to another, over midnight if need be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    from: Time,
    to: Time,
}

impl Quiet {
    /// Reads `22:00-07:00`.
    pub fn parse(text: &str) -> Option<Quiet> {
        let (from, to) = text.split_once('-')?;
        let (from, to) = (parse_clock_time(from.trim())?, parse_clock_time(to.trim())?);
        (from != to).then_some(Quiet { from, to })
    }
}

impl House {
    /// Until when this person is not to be disturbed; none if they may be now. Each night is from
    /// the first time that the clock shows its beginning to the first time after that it shows its
    /// end, so that a clock put back does not begin a night anew.
    pub fn quiet_until(&self, person: &str, now: Timestamp) -> Option<Timestamp> {
        let quiet = self.quiet.get(person)?;
        let zone = &self.time_zone;
        let nights = days_around(now, zone).filter_map(|date| {
            let from = first(date, quiet.from, zone)?;
            Some((from, next_at(quiet.to, from, zone)?))
        });
        nights.filter(|(from, to)| *from <= now && now < *to).map(|(_, to)| to).max()
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn until(quiet: &str, now: &str) -> Option<String> {
        let quiet = [("ana".to_string(), Quiet::parse(quiet).unwrap())].into();
        let time_zone = TimeZone::get("Europe/Paris").unwrap();
        let house = House { quiet, time_zone, ..House::default() };
        house.quiet_until("ana", now.parse().unwrap()).map(|at| at.to_string())
    }

    #[test]
    fn over_midnight_and_by_day() {
        let night = |now| until("22:00-07:00", now);
        assert_eq!(night("2026-11-20T20:59:59Z"), None);
        assert_eq!(night("2026-11-20T21:00:00Z").unwrap(), "2026-11-21T06:00:00Z");
        assert_eq!(night("2026-11-21T05:59:59Z").unwrap(), "2026-11-21T06:00:00Z");
        assert_eq!(night("2026-11-21T06:00:00Z"), None);
        let nap = |now| until("13:00-14:30", now);
        assert_eq!(nap("2026-11-20T12:10:00Z").unwrap(), "2026-11-20T13:30:00Z");
        assert_eq!(nap("2026-11-20T13:30:00Z"), None);
        assert_eq!(House::default().quiet_until("ana", Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn over_the_nights_in_which_the_clock_changes() {
        let night = |now| until("22:00-02:30", now);
        // Put forward at 02:00: there is no 02:30, it ends with the jump.
        assert_eq!(night("2026-03-29T00:30:00Z").unwrap(), "2026-03-29T01:00:00Z");
        assert_eq!(night("2026-03-29T01:00:00Z"), None);
        // Put back at 03:00: it ends at the first 02:30, and the second begins no other night.
        assert_eq!(night("2026-10-25T00:10:00Z").unwrap(), "2026-10-25T00:30:00Z");
        assert_eq!(night("2026-10-25T01:10:00Z"), None);
        // A night of which the beginning is left out begins with the jump.
        assert_eq!(until("02:30-07:00", "2026-03-29T01:00:00Z").unwrap(), "2026-03-29T05:00:00Z");
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for wrong in ["", "22:00", "22:00-22:00", "22-7", "22:00-25:00", "night"] {
            assert_eq!(Quiet::parse(wrong), None, "{wrong}");
        }
    }
}
