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
    /// When Portero first listened, by the server's clock and in the form of its timestamps;
    /// nothing up to then is news.
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

    /// A new connection: repeated entries come first. Returns what to remember of the first one.
    pub fn connected(&mut self, now: Moment, teller: &Teller) -> Option<KnownChange> {
        self.connected = Some(now);
        self.repeated = 0;
        if self.before.is_some() {
            return None;
        }
        let local = teller.zone.to_datetime(now.at).strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string();
        self.before = Some(local.clone());
        let marker = json!({ "before": local });
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
        let is_repeated = self.is_repeated(&entry, now, teller);
        let is_repeating = self.is_repeating(now);
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
        // Only what comes at once: were the zone in the config wrong, live entries would look old.
        if is_old && is_repeating {
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

    fn teller() -> Teller {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        Teller::new("indigo/house", Trust::Fresh, zone, at(0).at)
    }

    /// An entry of this second after the start, in the server's zone.
    fn say(log: &mut Log, second: i64, now: i64) -> Option<Event> {
        let teller = teller();
        let moment = at(0).at + SignedDuration::from_secs(second);
        let local = teller.zone.to_datetime(moment).to_string();
        let entry = json!({"message": format!("m{second}"), "timeStamp": local,
            "typeStr": "Error", "typeVal": 1});
        let heard = Heard { at: at(now).at, raw: Vec::new() };
        log.entry(&entry, heard, at(now), &teller).unwrap()
    }

    #[test]
    fn the_first_visit_ever_tells_nothing_old() {
        let mut log = Log::new("indigo/house", &[]);
        let known = log.connected(at(0), &teller()).unwrap();
        let before = json!({ "before": "2026-11-21T11:00:00.000000" });
        assert_eq!(known.to, Becomes::Is(before));
        for second in -60..-35 {
            assert_eq!(say(&mut log, second, 0), None);
        }
        let event = say(&mut log, 5, 5).unwrap();
        assert!(!event.marks.caught_up && event.trust == Trust::Fresh);
        assert_eq!(event.data["level"], "error");
        assert_eq!(event.time, Some(at(5).at));
    }

    #[test]
    fn after_a_gap_only_what_was_missed_is_told_as_caught_up() {
        let mut log = Log::new("indigo/house", &[]);
        log.connected(at(0), &teller());
        assert!(say(&mut log, 5, 5).is_some());
        assert_eq!(log.connected(at(100), &teller()), None);
        assert_eq!(say(&mut log, 5, 100), None);
        assert!(say(&mut log, 50, 100).unwrap().marks.caught_up);
        // Late on a slow line, and still an old one.
        assert!(say(&mut log, 60, 104).unwrap().marks.caught_up);
        assert!(!say(&mut log, 110, 110).unwrap().marks.caught_up);
    }

    #[test]
    fn a_restart_does_not_make_news_of_what_was_before_the_first_visit() {
        let mut first = Log::new("indigo/house", &[]);
        let Some(KnownChange { path, to: Becomes::Is(marker) }) =
            first.connected(at(90), &teller())
        else {
            panic!("nothing to remember")
        };
        let mut log = Log::new("indigo/house", &[(path, marker)]);
        log.connected(at(100), &teller());
        assert_eq!(say(&mut log, 90, 100), None);
        let missed = say(&mut log, 95, 100).unwrap();
        assert_eq!(say(&mut first, 95, 95).unwrap().id, missed.id, "live and caught up are one");
    }
}
