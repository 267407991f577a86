//! Indigo's event log. On every connect the feed repeats the last entries and then goes on live;
//! this tells one from the other and drops what was heard. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::Moment;
use super::local_time::moment;
use super::news::Teller;
use super::sync::Heard;
use crate::event::Event;
use crate::record::{Becomes, KnownChange};
use crate::systems::link::event;

/// How many entries the feed repeats.
const REPEATED_MAX: usize = 25;
/// The repeated entries come at once; what comes later is live.
const REPEATED_WITHIN: Duration = Duration::from_secs(2);
/// An entry this much older than its connection is a repeated one, however late it came. More
/// than clocks in a house differ.
const OLD_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// Entries remembered as heard; four times what is repeated.
const HEARD_MAX: usize = 100;
/// The most bytes of a message that an event carries; `raw` has more.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// The log feed.
#[derive(Debug)]
pub struct Log {
    path: String,
    /// The last entry that was there before Portero ever listened; nothing up to it is news. None
    /// until the first connection.
    before: Option<String>,
    heard: VecDeque<[String; 3]>,
    connected: Option<Moment>,
    repeated: usize,
}

/// An entry.
struct Entry {
    at: String,
    kind: String,
    level: i64,
    message: String,
}

// === impl Log ===

impl Log {
    /// The log of a server, as far as it was known when Portero stopped.
    pub fn new(source: &str, known: &[(String, Value)]) -> Log {
        let path = format!("{source}/feed/log");
        let marker = known.iter().find(|(known, _)| *known == path);
        let before = marker.and_then(|(_, value)| Some(value.get("before")?.as_str()?.to_string()));
        Log { path, before, heard: VecDeque::new(), connected: None, repeated: 0 }
    }

    /// A new connection: repeated entries come first.
    pub fn connected(&mut self, now: Moment) {
        self.connected = Some(now);
        self.repeated = 0;
    }

    /// On the first connection ever, what was repeated is over at some time: from then on
    /// everything is news. Returns what to remember of that.
    pub fn tick(&mut self, now: Moment) -> Option<KnownChange> {
        if self.before.is_some() || self.connected.is_none() || self.is_repeating(now) {
            return None;
        }
        let before = self.heard.back().map_or(String::new(), |[at, ..]| at.clone());
        let marker = json!({ "before": before });
        self.before = Some(before);
        Some(KnownChange { path: self.path.clone(), to: Becomes::Is(marker) })
    }

    /// Takes an entry. An error says what it lacks.
    pub fn entry(
        &mut self,
        object: &Value,
        heard: Heard,
        now: Moment,
        teller: &Teller,
    ) -> Result<Option<Event>, &'static str> {
        let entry = Entry::read(object).ok_or("a log entry without message or timeStamp")?;
        let is_first_visit = self.before.is_none() && self.is_repeating(now);
        let is_repeated = self.is_repeated(&entry, now, teller);
        self.repeated += 1;
        let key = [entry.at.clone(), entry.kind.clone(), entry.message.clone()];
        if self.heard.contains(&key) {
            return Ok(None);
        }
        let is_old = self.before.as_ref().is_some_and(|before| entry.at <= *before);
        self.heard.push_back(key);
        if self.heard.len() > HEARD_MAX {
            self.heard.pop_front();
        }
        if is_first_visit || (is_repeated && is_old) {
            return Ok(None);
        }
        Ok(Some(entry.event(is_repeated, heard, teller)))
    }

    fn is_repeating(&self, now: Moment) -> bool {
        self.repeated < REPEATED_MAX
            && self.connected.is_some_and(|at| now.up.saturating_sub(at.up) < REPEATED_WITHIN)
    }

    fn is_repeated(&self, entry: &Entry, now: Moment, teller: &Teller) -> bool {
        let Some(connected) = self.connected else { return true };
        let at = moment(&entry.at, &teller.zone, connected.at);
        let is_late = at.is_some_and(|at| connected.at.duration_since(at) > OLD_AFTER);
        self.is_repeating(now) || (self.repeated < REPEATED_MAX && is_late)
    }
}

// === impl Entry ===

impl Entry {
    fn read(object: &Value) -> Option<Entry> {
        let text = |field: &str| object.get(field).and_then(Value::as_str).map(String::from);
        Some(Entry {
            at: text("timeStamp")?,
            kind: text("typeStr").unwrap_or_default(),
            level: object.get("typeVal").and_then(Value::as_i64).unwrap_or(0),
            message: text("message")?,
        })
    }

    fn event(self, caught_up: bool, heard: Heard, teller: &Teller) -> Event {
        let unique = [self.at.as_str(), &self.kind, &self.message];
        let kind = "indigo.log";
        let mut event = event(&teller.source, kind, &unique, teller.trust, caught_up, heard.at);
        event.time = moment(&self.at, &teller.zone, heard.at);
        event.subject = Some(self.kind.clone()).filter(|kind| !kind.is_empty());
        event.raw = heard.raw;
        event.data.insert("message".into(), cut(self.message).into());
        event.data.insert("type".into(), self.kind.into());
        event.data.insert("level".into(), level(self.level).into());
        event
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
    text
}

/// What a `typeVal` means to somebody who reads it.
fn level(value: i64) -> &'static str {
    match value {
        1 | 2 => "error",
        3 | 4 => "warning",
        5..=7 => "debug",
        _ => "info",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::event::Trust;

    fn at(seconds: i64) -> Moment {
        let start: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let up = Duration::from_secs(seconds as u64);
        Moment { at: start + up, up }
    }

    /// An entry of this second after the start, in the server's zone.
    fn say(log: &mut Log, second: i64, now: i64) -> Option<Event> {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        let teller = Teller::new("indigo/house", Trust::Fresh, zone.clone(), at(0).at);
        let local = (at(0).at + SignedDuration::from_secs(second)).to_zoned(zone).datetime();
        let entry = json!({"message": format!("m{second}"), "timeStamp": local.to_string(),
            "typeStr": "Error", "typeVal": 1});
        let heard = Heard { at: at(now).at, raw: Vec::new() };
        log.entry(&entry, heard, at(now), &teller).unwrap()
    }

    #[test]
    fn the_first_visit_ever_tells_nothing_old() {
        let mut log = Log::new("indigo/house", &[]);
        log.connected(at(0));
        for second in -60..-35 {
            assert_eq!(say(&mut log, second, 0), None);
        }
        assert!(log.tick(at(3)).is_some());
        let event = say(&mut log, 5, 5).unwrap();
        assert!(!event.marks.caught_up && event.trust == Trust::Fresh);
        assert_eq!(event.data["level"], "error");
        assert_eq!(event.time, Some(at(5).at));
        assert_eq!(log.tick(at(9)), None);
    }

    #[test]
    fn after_a_gap_only_what_was_missed_is_told_as_caught_up() {
        let mut log = Log::new("indigo/house", &[]);
        log.connected(at(0));
        log.tick(at(3));
        assert!(say(&mut log, 5, 5).is_some());
        log.connected(at(100));
        assert_eq!(say(&mut log, 5, 100), None);
        assert!(say(&mut log, 50, 100).unwrap().marks.caught_up);
        // Late on a slow line, and still an old one.
        assert!(say(&mut log, 60, 104).unwrap().marks.caught_up);
        assert!(!say(&mut log, 110, 110).unwrap().marks.caught_up);
    }

    #[test]
    fn a_restart_does_not_make_news_of_what_was_before_the_first_visit() {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        let before = at(90).at.to_zoned(zone).datetime().to_string();
        let known = [("indigo/house/feed/log".to_string(), json!({ "before": before }))];
        let mut log = Log::new("indigo/house", &known);
        log.connected(at(100));
        assert_eq!(say(&mut log, 90, 100), None);
        let missed = say(&mut log, 95, 100).unwrap();
        let mut other = Log::new("indigo/house", &known);
        other.connected(at(93));
        assert_eq!(say(&mut other, 95, 95).unwrap().id, missed.id, "live and caught up are one");
    }
}
