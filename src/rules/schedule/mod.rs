//! Time triggers: `at`, `cron` and `sun`, read from rule files, and when each comes next on the
//! house's clock. Pure; what a rule does when its time has come is [`turn`]'s.
//!
//! A time of day that a clock put forward leaves out comes at the moment of the jump; one that a
//! clock put back shows twice comes the first time only.

mod cron;
mod sun;
mod turn;

use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::House;
use super::scene::parse_clock_time;
use crate::node::{Cursor, duration};
use cron::Cron;
use sun::Sun;

pub use sun::Place;

/// A time trigger found later than this does nothing unless the rule says otherwise: what is meant
/// for seven in the morning is no use at noon.
const LATE_DEFAULT: Duration = Duration::from_secs(3600);
/// The latest that a rule may want it.
const LATE_MAX: Duration = Duration::from_secs(365 * 86_400);
/// The farthest from sunrise or sunset: beyond half a day the other one is nearer.
const OFFSET_MAX: Duration = Duration::from_secs(12 * 3600);
/// A day's shift of the clock is the largest that ever was: the days before and after this one are
/// looked at, too.
const DAYS_BEFORE: i64 = 1;
const DAYS_AFTER: i64 = 2;

/// Keys of which one makes a time trigger.
const KEYS: [&str; 3] = ["at", "cron", "sun"];

/// A time trigger.
#[derive(Debug)]
pub(super) struct Schedule {
    what: What,
    /// After this it is too late.
    pub late: Duration,
    /// As it is called in explanations: `at 07:00`.
    pub said: String,
}

#[derive(Debug)]
enum What {
    At(Time),
    Cron(Box<Cron>),
    Sun { sun: Sun, offset: SignedDuration },
}

/// Whether this alternative of a `when` is a time trigger.
pub(super) fn is_schedule(at: Cursor<'_>) -> bool {
    KEYS.iter().any(|key| at.get(key).is_some())
}

/// Takes one alternative of a `when` apart; several if `at` is a list.
pub(super) fn read(at: Cursor<'_>, house: &House) -> Option<Vec<Schedule>> {
    let mut table = at.table()?;
    let mut found = Vec::new();
    if let Some(times) = table.optional("at") {
        found.extend(times.list_or_one().into_iter().map(clock_time));
    }
    found.extend(table.optional("cron").map(cron_times));
    let offset = table.optional("offset");
    match table.optional("sun") {
        Some(sun) => found.push(sun_time(sun, offset, house)),
        None => offset.into_iter().for_each(|at| at.wrong("`offset` needs a `sun` beside it")),
    }
    let kinds = KEYS.iter().filter(|key| at.get(key).is_some()).count();
    let late = table.optional("late").map(|at| at.duration(Duration::ZERO, LATE_MAX));
    table.done_with(|key| {
        ["type", "source", "subject", "data"].contains(&key).then(|| {
            "a time trigger has no event; for either write `when: [ { at: … }, { type: … } ]`"
                .to_string()
        })
    });
    if kinds > 1 {
        at.wrong_help("one trigger has one time", "write `when: [ { at: … }, { sun: … } ]`");
        return None;
    }
    let late = late.unwrap_or(Some(LATE_DEFAULT))?;
    let found: Option<Vec<_>> = found.into_iter().collect();
    Some(found?.into_iter().map(|(what, said)| Schedule { what, late, said }).collect())
}

fn clock_time(at: Cursor<'_>) -> Option<(What, String)> {
    let text = at.loose_text()?;
    let Some(time) = parse_clock_time(text) else {
        at.wrong_help(format!("\"{text}\" is no time of day"), "write `at: \"07:00\"`");
        return None;
    };
    Some((What::At(time), format!("at {text}")))
}

fn cron_times(at: Cursor<'_>) -> Option<(What, String)> {
    let text = at.text()?;
    match Cron::parse(text) {
        Ok(cron) => Some((What::Cron(Box::new(cron)), format!("cron {text}"))),
        Err(why) => {
            let help = "five fields: minute, hour, day of the month, month, day of the week, such \
                        as `0 7 * * mon-fri`";
            at.wrong_help(format!("`cron`: {why}"), help);
            None
        }
    }
}

fn sun_time(at: Cursor<'_>, offset: Option<Cursor<'_>>, house: &House) -> Option<(What, String)> {
    let sun = at.one_of(&Sun::WORDS);
    let shift = offset.map_or(Some((SignedDuration::ZERO, String::new())), signed);
    if house.place.is_none() {
        let help = "add `latitude` and `longitude` to [house] in portero.toml";
        at.wrong_help("`sun` needs to know where the house is", help);
        return None;
    }
    let (offset, shown) = shift?;
    let sun = sun?;
    Some((What::Sun { sun, offset }, format!("{}{shown}", sun.word())))
}

/// `30m`, `-30m` or `+30m`, and how it is shown.
fn signed(at: Cursor<'_>) -> Option<(SignedDuration, String)> {
    let text = at.loose_text()?.trim();
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let span = duration(rest).filter(|span| *span <= OFFSET_MAX);
    let Some(span) = span.and_then(|span| SignedDuration::try_from(span).ok()) else {
        let help = "write `offset: -30m`, twelve hours at most";
        at.wrong_help(format!("`offset` is \"{text}\""), help);
        return None;
    };
    Some((span * sign, format!(" {}{rest}", if sign < 0 { '-' } else { '+' })))
}

impl Schedule {
    /// The first time after a moment; none if it never comes, as the sun in a polar night.
    pub fn next(&self, after: Timestamp, house: &House) -> Option<Timestamp> {
        match &self.what {
            What::At(time) => next_at(*time, after, &house.time_zone),
            What::Cron(cron) => cron.next(after, &house.time_zone),
            What::Sun { sun, offset } => {
                let before = after.checked_sub(*offset).ok()?;
                house.place?.next(*sun, before)?.checked_add(*offset).ok()
            }
        }
    }

    /// The last time not after `now`, given that one was at `from`. Halves the time between until
    /// nothing is left in it.
    pub fn latest(&self, from: Timestamp, now: Timestamp, house: &House) -> Timestamp {
        let next = |after| self.next(after, house).filter(|at| *at <= now);
        let (mut found, mut until) = (from, now);
        while let Some(later) = next(found) {
            let middle = found.saturating_add(until.duration_since(found) / 2).unwrap_or(until);
            match next(middle) {
                Some(at) => found = at,
                None if middle <= later => found = later,
                None => until = middle,
            }
        }
        found
    }

    /// Whether it comes at just this moment.
    pub fn comes_at(&self, at: Timestamp, house: &House) -> bool {
        let before = at.saturating_sub(SignedDuration::from_secs(1)).unwrap_or(at);
        self.next(before, house) == Some(at)
    }
}

/// The next time that the clock shows this, or jumps over it.
pub(super) fn next_at(time: Time, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let days = days_around(after, zone).filter_map(|date| first(date, time, zone));
    days.filter(|at| *at > after).min()
}

/// The days on which something near this moment may begin.
pub(super) fn days_around(at: Timestamp, zone: &TimeZone) -> impl Iterator<Item = Date> {
    let today = at.to_zoned(zone.clone()).date();
    (-DAYS_BEFORE..=DAYS_AFTER).filter_map(move |days| today.checked_add(days.days()).ok())
}

/// The moment at which the clock shows this for the first time that day, or jumps over it.
pub(super) fn first(date: Date, time: Time, zone: &TimeZone) -> Option<Timestamp> {
    let local = zone.to_ambiguous_zoned(date.to_datetime(time));
    let gap = matches!(local.offset(), AmbiguousOffset::Gap { .. });
    let earlier = local.earlier().ok()?.timestamp();
    // With the offset from after the jump, a time that is left out lies before the jump.
    if gap { zone.following(earlier).next().map(|jump| jump.timestamp()) } else { Some(earlier) }
}

#[cfg(test)]
mod tests;
