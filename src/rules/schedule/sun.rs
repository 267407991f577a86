//! Sunrise and sunset, by the equations of NOAA's solar calculator (after Meeus, Astronomical
//! Algorithms): within a minute between the polar circles. Pure; knows a place and a moment.

use jiff::Timestamp;

/// Where the house is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Degrees, north is positive.
    pub latitude: f64,
    /// Degrees, east is positive.
    pub longitude: f64,
}

/// What the sun does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sun {
    Rises,
    Sets,
}

/// The sun's upper rim touches the horizon when its middle is so far from straight above, in
/// degrees: its radius and the bending of light by the air.
const ZENITH: f64 = 90.833;
/// The days after a moment that are looked at: a polar night or day is over by then.
const DAYS_MAX: i64 = 370;
/// Each turn uses the sun's place at the moment that the turn before found. The third changes
/// nothing that is seen.
const TURNS: usize = 3;
const DAY_S: f64 = 86_400.0;
const DAY_MINUTES: f64 = 1440.0;
/// Noon of 1 January 2000, from which the equations count, in seconds since 1970.
const J2000_S: f64 = 946_728_000.0;
const CENTURY_DAYS: f64 = 36_525.0;

impl Sun {
    pub const WORDS: [(&str, Sun); 2] = [("sunrise", Sun::Rises), ("sunset", Sun::Sets)];

    pub fn word(self) -> &'static str {
        match self {
            Sun::Rises => "sunrise",
            Sun::Sets => "sunset",
        }
    }
}

impl Place {
    /// The next time after a moment that the sun does so; none if it does not within a year.
    pub(super) fn next(self, sun: Sun, after: Timestamp) -> Option<Timestamp> {
        let today = after.as_second().div_euclid(86_400);
        let days = (today - 2..=today + DAYS_MAX).filter_map(|day| self.on(sun, day));
        days.into_iter().find(|at| *at > after)
    }

    /// The moment on a day, counted from 1970, to the second.
    fn on(self, sun: Sun, day: i64) -> Option<Timestamp> {
        #[allow(clippy::cast_precision_loss)] // Days are few.
        let midnight_s = day as f64 * DAY_S;
        // The sun's noon, roughly: four minutes for each degree.
        let mut minutes = DAY_MINUTES / 2.0 - 4.0 * self.longitude;
        for _ in 0..TURNS {
            let (declination, time_equation) = sun_at(midnight_s + 60.0 * minutes);
            let latitude = self.latitude.to_radians();
            let angle = ZENITH.to_radians().cos() / (latitude.cos() * declination.cos())
                - latitude.tan() * declination.tan();
            if !(-1.0..=1.0).contains(&angle) {
                return None;
            }
            let half_day = 4.0 * angle.acos().to_degrees();
            let noon = DAY_MINUTES / 2.0 - 4.0 * self.longitude - time_equation;
            minutes = match sun {
                Sun::Rises => noon - half_day,
                Sun::Sets => noon + half_day,
            };
        }
        #[allow(clippy::cast_possible_truncation)] // Within the years of the calendar.
        Timestamp::from_second((midnight_s + 60.0 * minutes).round() as i64).ok()
    }
}

/// The sun's declination in radians, and by how many minutes a sundial is ahead, at a moment in
/// seconds since 1970.
fn sun_at(moment_s: f64) -> (f64, f64) {
    let t = (moment_s - J2000_S) / DAY_S / CENTURY_DAYS;
    let mean_longitude = (280.46646 + t * (36_000.769_83 + t * 0.000_303_2)).to_radians();
    let anomaly = (357.52911 + t * (35_999.050_29 - 0.000_153_7 * t)).to_radians();
    let eccentricity = 0.016_708_634 - t * (0.000_042_037 + 0.000_000_126_7 * t);
    let centre = anomaly.sin() * (1.914_602 - t * (0.004_817 + 0.000_014 * t))
        + (2.0 * anomaly).sin() * (0.019_993 - 0.000_101 * t)
        + (3.0 * anomaly).sin() * 0.000_289;
    let node = (125.04 - 1934.136 * t).to_radians();
    let seen = mean_longitude + (centre - 0.00569 - 0.00478 * node.sin()).to_radians();
    let tilt =
        23.0 + (26.0 + (21.448 - t * (46.815 + t * (0.00059 - t * 0.001_813))) / 60.0) / 60.0;
    let tilt = (tilt + 0.00256 * node.cos()).to_radians();
    let declination = (tilt.sin() * seen.sin()).asin();
    let y = (tilt / 2.0).tan().powi(2);
    let equation = y * (2.0 * mean_longitude).sin() - 2.0 * eccentricity * anomaly.sin()
        + 4.0 * eccentricity * y * anomaly.sin() * (2.0 * mean_longitude).cos()
        - 0.5 * y * y * (4.0 * mean_longitude).sin()
        - 1.25 * eccentricity * eccentricity * (2.0 * anomaly).sin();
    (declination, 4.0 * equation.to_degrees())
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    /// Seconds between what is computed and what almanacs print.
    fn off(place: (f64, f64), zone: &str, sun: Sun, printed: &str) -> i64 {
        let place = Place { latitude: place.0, longitude: place.1 };
        let printed: jiff::civil::DateTime = printed.parse().unwrap();
        let printed = printed.to_zoned(TimeZone::get(zone).unwrap()).unwrap().timestamp();
        let before = printed - jiff::SignedDuration::from_hours(2);
        let found = place.next(sun, before).unwrap();
        found.duration_since(printed).as_secs().abs()
    }

    #[test]
    fn it_rises_and_sets_when_almanacs_say() {
        let paris = (48.8566, 2.3522);
        let sydney = (-33.8688, 151.2093);
        let new_york = (40.7128, -74.0060);
        for (place, zone, sun, printed) in [
            (paris, "Europe/Paris", Sun::Rises, "2026-06-21T05:47"),
            (paris, "Europe/Paris", Sun::Sets, "2026-06-21T21:58"),
            (paris, "Europe/Paris", Sun::Rises, "2026-12-21T08:41"),
            (paris, "Europe/Paris", Sun::Sets, "2026-12-21T16:56"),
            (sydney, "Australia/Sydney", Sun::Rises, "2026-06-21T07:00"),
            (sydney, "Australia/Sydney", Sun::Sets, "2026-06-21T16:54"),
            (new_york, "America/New_York", Sun::Rises, "2026-06-21T05:25"),
            (new_york, "America/New_York", Sun::Sets, "2026-06-21T20:31"),
        ] {
            let off = off(place, zone, sun, printed);
            assert!(off <= 90, "{zone} {printed}: {off} s off");
        }
    }

    #[test]
    fn a_polar_night_is_waited_out_and_the_pole_has_no_end_of_it() {
        let tromso = Place { latitude: 69.65, longitude: 18.96 };
        let rises = tromso.next(Sun::Rises, "2026-12-01T00:00:00Z".parse().unwrap()).unwrap();
        let back = jiff::civil::date(2027, 1, 14)..=jiff::civil::date(2027, 1, 17);
        assert!(back.contains(&rises.to_zoned(TimeZone::UTC).date()), "{rises}");
        let pole = Place { latitude: 90.0, longitude: 0.0 };
        assert_eq!(pole.next(Sun::Sets, Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn each_one_follows_the_one_before_by_about_a_day() {
        let place = Place { latitude: -17.0, longitude: 179.9 };
        let mut at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for _ in 0..800 {
            let next = place.next(Sun::Sets, at).unwrap();
            assert!(next > at && next.duration_since(at).as_secs() < 86_400 + 120);
            at = next;
        }
    }
}
