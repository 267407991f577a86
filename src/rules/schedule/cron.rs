//! Five-field cron: minute, hour, day of the month, month, day of the week. Reads it and finds its
//! next time; knows nothing of rules.
//!
//! With fixed hours it is a list of times of day, as if each were an `at`. With `*` as the hour it
//! follows the hours that really pass: none twice for the clock's sake, none left out.

use jiff::Span;
use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};

/// The longest wait for a date that exists: from 29 February 2096 to that of 2104.
const DAYS_MAX: i64 = 366 * 8 + 2;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One field's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    /// A bit for each value.
    values: u64,
    /// It began with `*`.
    any: bool,
}

/// What a field may hold.
struct Kind {
    name: &'static str,
    least: u8,
    most: u8,
    /// Words for the values from `least` on.
    words: &'static [&'static str],
}

const MINUTE: Kind = Kind { name: "minute", least: 0, most: 59, words: &[] };
const HOUR: Kind = Kind { name: "hour", least: 0, most: 23, words: &[] };
const DAY: Kind = Kind { name: "day of the month", least: 1, most: 31, words: &[] };
const MONTH: Kind = Kind { name: "month", least: 1, most: 12, words: &MONTHS };
/// Seven is Sunday, too.
const WEEKDAY: Kind = Kind { name: "day of the week", least: 0, most: 7, words: &WEEKDAYS };

/// A cron expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cron {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

impl Cron {
    /// Reads it; why not, if it is none.
    pub fn parse(text: &str) -> Result<Cron, String> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(format!("it has {} fields instead of five", parts.len()));
        };
        let mut cron = Cron {
            minute: field(minute, &MINUTE)?,
            hour: field(hour, &HOUR)?,
            day: field(day, &DAY)?,
            month: field(month, &MONTH)?,
            weekday: field(weekday, &WEEKDAY)?,
        };
        if cron.weekday.has(7) {
            cron.weekday.values = (cron.weekday.values | 1) & 0x7f;
        }
        match cron.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC) {
            Some(_) => Ok(cron),
            None => Err("no such day ever comes".to_string()),
        }
    }

    /// Its first time after a moment.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let today = after.to_zoned(zone.clone()).date();
        let on = |days: i64| {
            let date = today.checked_add(Span::new().try_days(days).ok()?).ok()?;
            self.is_on(date).then(|| self.of_day(date, after, zone)).flatten()
        };
        // A clock put back over midnight shows a day's last hour after the next day's first.
        let day = (-1..=DAYS_MAX).find(|days| on(*days).is_some())?;
        on(day).into_iter().chain(on(day + 1)).min()
    }

    /// As cron has it: if both kinds of day are given, either will do.
    fn is_on(&self, date: Date) -> bool {
        let day = self.day.has(date.day().unsigned_abs());
        let weekday = date.weekday().to_sunday_zero_offset().unsigned_abs();
        let weekday = self.weekday.has(weekday);
        let right = if self.day.any || self.weekday.any { day && weekday } else { day || weekday };
        right && self.month.has(date.month().unsigned_abs())
    }

    /// The first time after a moment that belongs to this day.
    fn of_day(&self, date: Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minutes = (0..60_i8).filter(|minute| self.minute.has(minute.unsigned_abs()));
        let minutes: Vec<i8> = minutes.collect();
        let hours = (0..24_i8).filter(|hour| self.hour.has(hour.unsigned_abs()));
        let times = hours.flat_map(|hour| minutes.iter().map(move |minute| (hour, *minute)));
        let times = times.filter_map(|(hour, minute)| Time::new(hour, minute, 0, 0).ok());
        times.flat_map(|time| self.moments(date, time, zone)).filter(|at| *at > after).min()
    }

    fn moments(&self, date: Date, time: Time, zone: &TimeZone) -> Vec<Timestamp> {
        if !self.hour.any {
            return super::first(date, time, zone).into_iter().collect();
        }
        let local = zone.to_ambiguous_zoned(date.to_datetime(time));
        match local.offset() {
            AmbiguousOffset::Gap { .. } => Vec::new(),
            _ => {
                let both = [local.clone().earlier(), local.later()];
                both.into_iter().flatten().map(|at| at.timestamp()).collect()
            }
        }
    }
}

impl Field {
    fn has(self, value: u8) -> bool {
        self.values >> value & 1 == 1
    }
}

/// A list of `*`, `5`, `1-5`, each perhaps with `/2`.
fn field(text: &str, kind: &Kind) -> Result<Field, String> {
    let mut found = Field { values: 0, any: text.starts_with('*') };
    for part in text.split(',') {
        found.values |= range(part, kind)?;
    }
    Ok(found)
}

fn range(part: &str, kind: &Kind) -> Result<u64, String> {
    let (span, step) = match part.split_once('/') {
        Some((span, step)) => (span, Some(step)),
        None => (part, None),
    };
    let every: u8 = match step {
        None => 1,
        Some(step) => match step.parse() {
            Ok(every) if every > 0 => every,
            _ => return Err(format!("`{part}` has no step such as `*/5`")),
        },
    };
    // A week that begins on Sunday would have it twice.
    let most = if kind.most == 7 { 6 } else { kind.most };
    let (from, to) = match (span, span.split_once('-')) {
        ("*", _) => (kind.least, most),
        (_, Some((from, to))) => (value(from, kind)?, value(to, kind)?),
        // `5/15` counts on from 5.
        (_, None) => (value(span, kind)?, if step.is_some() { most } else { value(span, kind)? }),
    };
    let values: Vec<u8> = if from <= to {
        (from..=to).collect()
    } else if kind.most == 7 {
        // `fri-mon` goes over the weekend.
        (from..=most).chain(0..=to).collect()
    } else {
        return Err(format!("`{part}` ends before it begins"));
    };
    Ok(values.into_iter().step_by(every.into()).fold(0, |bits, value| bits | 1 << value))
}

fn value(text: &str, kind: &Kind) -> Result<u8, String> {
    let word = text.to_ascii_lowercase();
    let named = kind.words.iter().position(|known| *known == word);
    let named = named.and_then(|at| u8::try_from(at).ok()).map(|at| at + kind.least);
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    let found = named.or(number).filter(|value| (kind.least..=kind.most).contains(value));
    found.ok_or_else(|| format!("`{text}` is no {} ({} to {})", kind.name, kind.least, kind.most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let cron = Cron::parse(cron).unwrap_or_else(|why| panic!("{cron}: {why}"));
        let next = cron.next(after.parse().unwrap(), &zone).unwrap();
        next.to_zoned(zone).strftime("%a %Y-%m-%d %H:%M %:z").to_string()
    }

    #[test]
    fn the_next_time_of_usual_ones() {
        let noon = "2026-11-20T11:00:00Z"; // a Friday
        let paris = |cron| next(cron, noon, "Europe/Paris");
        assert_eq!(paris("0 7 * * mon-fri"), "Mon 2026-11-23 07:00 +01:00");
        assert_eq!(paris("*/20 * * * *"), "Fri 2026-11-20 12:20 +01:00");
        assert_eq!(paris("0 12 * * *"), "Sat 2026-11-21 12:00 +01:00");
        assert_eq!(paris("30 6 1 * *"), "Tue 2026-12-01 06:30 +01:00");
        assert_eq!(paris("0 0 29 feb *"), "Tue 2028-02-29 00:00 +01:00");
        assert_eq!(paris("15 8 13 * fri"), "Fri 2026-11-27 08:15 +01:00");
        assert_eq!(paris("0 9 */2 * 7"), "Sun 2026-11-29 09:00 +01:00");
        assert_eq!(paris("0 9 * * SAT-Mon"), "Sat 2026-11-21 09:00 +01:00");
        assert_eq!(paris("5/25 13 * * *"), "Fri 2026-11-20 13:05 +01:00");
    }

    #[test]
    fn fixed_hours_come_once_over_the_clocks_changes() {
        let paris = |cron, after| next(cron, after, "Europe/Paris");
        // Put forward: 02:30 is not there, and comes when the clock jumps to 03:00.
        assert_eq!(paris("30 2 * * *", "2026-03-29T00:10:00Z"), "Sun 2026-03-29 03:00 +02:00");
        assert_eq!(paris("30 2 * * *", "2026-03-29T01:00:00Z"), "Mon 2026-03-30 02:30 +02:00");
        // Put back: 02:30 is there twice.
        assert_eq!(paris("30 2 * * *", "2026-10-24T23:00:00Z"), "Sun 2026-10-25 02:30 +02:00");
        assert_eq!(paris("30 2 * * *", "2026-10-25T00:30:00Z"), "Mon 2026-10-26 02:30 +01:00");
    }

    #[test]
    fn every_hour_is_every_hour_that_passes() {
        let paris = |after| next("30 * * * *", after, "Europe/Paris");
        assert_eq!(paris("2026-03-29T00:30:00Z"), "Sun 2026-03-29 03:30 +02:00");
        assert_eq!(paris("2026-10-25T00:30:00Z"), "Sun 2026-10-25 02:30 +01:00");
    }

    #[test]
    fn what_is_none_is_named() {
        let why = |text| Cron::parse(text).unwrap_err();
        assert_eq!(why("0 7 * *"), "it has 4 fields instead of five");
        assert_eq!(why("60 7 * * *"), "`60` is no minute (0 to 59)");
        assert_eq!(why("0 7 * * someday"), "`someday` is no day of the week (0 to 7)");
        assert_eq!(why("0 7-5 * * *"), "`7-5` ends before it begins");
        assert_eq!(why("*/0 * * * *"), "`*/0` has no step such as `*/5`");
        assert_eq!(why("0 0 30 2 *"), "no such day ever comes");
        assert_eq!(why("+5 0 * * *"), "`+5` is no minute (0 to 59)");
    }
}
