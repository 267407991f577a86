//! Changes of objects as events. What each carries is documented in `docs/events.md`. Pure.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::Feed;
use super::diff::{Changed, changed};
use super::local_time::moment;
use super::mirror::{name_of, variable_value};
use super::stand_in;
use super::sync::{Change, How};
use crate::event::{Event, Trust, digest128};
use crate::secret::hex;
use crate::systems::link::event;

/// The most changed values in one event; a plugin's device may have thousands of states.
const CHANGED_MAX: usize = 64;
/// The most bytes of one old or new value in an event, as JSON; state has it whole, if the whole
/// object fits there.
const VALUE_BYTES_MAX: usize = 4 * 1024;
/// The most bytes of a frame that an event keeps.
pub const RAW_BYTES_MAX: usize = 64 * 1024;

/// Fields that change whenever a device is in touch; alone they are no news.
pub const IN_TOUCH: [&str; 2] = ["lastChanged", "lastSuccessfulComm"];

/// Every type of event of this system.
pub fn types() -> Vec<String> {
    let objects = Feed::ALL.into_iter().filter(|feed| *feed != Feed::Log);
    let all = objects.flat_map(|feed| ["added", "changed", "deleted"].map(|what| kind(feed, what)));
    all.chain(["indigo.log".to_string()]).collect()
}

fn kind(feed: Feed, what: &str) -> String {
    format!("indigo.{}.{what}", feed.as_str())
}

/// Makes events of one Indigo server.
#[derive(Debug)]
pub struct Teller {
    /// `indigo/house`.
    pub source: String,
    /// Of what is heard live.
    pub trust: Trust,
    /// The server's zone.
    pub zone: TimeZone,
    /// Tells this run's events from those of others.
    run: String,
    told: u64,
}

impl Teller {
    /// A teller of a run that began at `start`.
    pub fn new(source: &str, trust: Trust, zone: TimeZone, start: Timestamp) -> Teller {
        let (source, run) = (source.to_string(), start.as_millisecond().to_string());
        Teller { source, trust, zone, run, told: 0 }
    }

    /// The event of a change, if it is one worth telling.
    pub fn event(
        &mut self,
        feed: Feed,
        change: Change,
        folder: impl Fn(i64) -> Option<String>,
        now: Timestamp,
    ) -> Option<Event> {
        let differs = match (&change.old, &change.new) {
            // Of a large object only its sum is known from before a restart.
            (Some(old), Some(new)) if stand_in::is(old) => {
                changed(old, stand_in::of(new).as_ref().unwrap_or(new))
            }
            (Some(old), Some(new)) => changed(old, new),
            _ => Vec::new(),
        };
        let what = match (&change.old, &change.new) {
            (None, Some(_)) => "added",
            (Some(_), None) => "deleted",
            (Some(_), Some(_)) if differs.iter().any(is_news) => "changed",
            _ => return None,
        };
        let mut event = self.bare(&kind(feed, what), &change, now);
        let object = change.new.as_ref().or(change.old.as_ref())?;
        let name = name_of(object).map_or_else(|| change.id.to_string(), String::from);
        event.subject = Some(name.clone());
        let data = &mut event.data;
        data.insert("id".into(), change.id.into());
        data.insert("name".into(), name.into());
        for (field, value) in [
            ("class", object.get("class").and_then(Value::as_str).map(String::from)),
            ("folder", object.get("folderId").and_then(Value::as_i64).and_then(folder)),
        ] {
            data.extend(value.map(|value| (field.to_string(), value.into())));
        }
        if feed == Feed::Variable {
            data.insert("value".into(), bounded(variable_value(object).into()));
        }
        if what == "changed" {
            let has_value = |old: &&Value| feed == Feed::Variable && !stand_in::is(old);
            let old = change.old.as_ref().filter(has_value);
            let old = old.map(|old| ("old_value".into(), bounded(variable_value(old).into())));
            data.extend(old);
            self.add_differences(&mut event, &differs);
        }
        Some(event)
    }

    fn bare(&mut self, kind: &str, change: &Change, now: Timestamp) -> Event {
        let id = change.id.to_string();
        match &change.how {
            How::Live(heard) => {
                let mut event = self.counted(kind, &id, false, heard.at);
                event.raw = heard.raw.clone();
                event
            }
            How::Refetched(heard) => {
                let mut event = self.counted(kind, &id, true, heard.at);
                event.raw = heard.raw.clone();
                event
            }
            How::Compared(round) => {
                let (old, new) = (digest(change.old.as_ref()), digest(change.new.as_ref()));
                let unique = ["compared", &round.to_string(), &id, &old, &new];
                event(&self.source, kind, &unique, self.trust, true, now)
            }
        }
    }

    /// An event that can never be heard again: what led to it is durable together with it.
    fn counted(&mut self, kind: &str, id: &str, caught_up: bool, at: Timestamp) -> Event {
        self.told += 1;
        let unique = ["live", &self.run, &self.told.to_string(), id];
        event(&self.source, kind, &unique, self.trust, caught_up, at)
    }

    fn add_differences(&self, event: &mut Event, differs: &[Changed]) {
        let last = differs.iter().find(|changed| changed.path == ["lastChanged"]);
        let last = last.and_then(|changed| changed.new.as_str());
        event.time = last.and_then(|last| moment(last, &self.zone, event.received));
        let line = |changed: &Changed| {
            let (old, new) = (bounded(changed.old.clone()), bounded(changed.new.clone()));
            json!({ "path": changed.path.join("."), "old": old, "new": new })
        };
        // What is news first: only that must not be left out.
        let (news, rest): (Vec<_>, Vec<_>) = differs.iter().partition(|changed| is_news(changed));
        let lines: Vec<Value> = news.into_iter().chain(rest).take(CHANGED_MAX).map(line).collect();
        let left_out = differs.len() - lines.len();
        event.data.insert("changed".into(), lines.into());
        if left_out > 0 {
            event.data.insert("changed_left_out".into(), left_out.into());
        }
        let states = differs.iter().filter(|c| c.path.len() > 1 && c.path[0] == "states");
        let states: Map<String, Value> = states
            .take(CHANGED_MAX)
            .map(|changed| (changed.path[1..].join("."), bounded(changed.new.clone())))
            .collect();
        if !states.is_empty() {
            event.data.insert("states".into(), states.into());
        }
    }
}

fn is_news(changed: &Changed) -> bool {
    !matches!(changed.path.as_slice(), [field] if IN_TOUCH.contains(&field.as_str()))
}

/// The value, or how large it is.
fn bounded(value: Value) -> Value {
    let bytes = match &value {
        Value::String(text) => text.len(),
        Value::Array(_) | Value::Object(_) => value.to_string().len(),
        _ => 0,
    };
    if bytes > VALUE_BYTES_MAX { json!({ "bytes_left_out": bytes }) } else { value }
}

fn digest(object: Option<&Value>) -> String {
    object.map_or_else(String::new, |object| hex(&digest128([object.to_string().as_str()])))
}

#[cfg(test)]
mod tests {
    use super::super::sync::Heard;
    use super::*;

    fn teller() -> Teller {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        Teller::new("indigo/house", Trust::Fresh, zone, Timestamp::UNIX_EPOCH)
    }

    fn change(old: Value, new: Value, how: How) -> Change {
        let some = |value: Value| (!value.is_null()).then_some(value);
        Change { id: 7, old: some(old), new: some(new), how }
    }

    fn live() -> How {
        How::Live(Heard { at: "2026-11-21T10:00:00Z".parse().unwrap(), raw: b"raw".to_vec() })
    }

    fn folder(id: i64) -> Option<String> {
        (id == 3).then(|| "Hall".to_string())
    }

    #[test]
    fn a_change_tells_what_it_was_and_is() {
        let old = json!({"id": 7, "name": "Lamp", "class": "indigo.RelayDevice", "folderId": 3,
            "lastChanged": "2026-11-21T10:00:00", "states": {"onOffState": true, "s.ui": "on"}});
        let mut new = old.clone();
        new["states"] = json!({"onOffState": false, "s.ui": "off"});
        new["lastChanged"] = "2026-11-21T10:59:59".into();
        let now = Timestamp::UNIX_EPOCH;
        let event = teller().event(Feed::Device, change(old, new, live()), folder, now).unwrap();
        assert_eq!((event.kind.as_str(), event.trust), ("indigo.device.changed", Trust::Fresh));
        assert_eq!(event.subject.as_deref(), Some("Lamp"));
        assert_eq!(event.time.unwrap().to_string(), "2026-11-21T09:59:59Z");
        assert_eq!(event.raw, b"raw");
        let expect = json!({
            "id": 7, "name": "Lamp", "class": "indigo.RelayDevice", "folder": "Hall",
            "changed": [
                {"path": "states.onOffState", "old": true, "new": false},
                {"path": "states.s.ui", "old": "on", "new": "off"},
                {"path": "lastChanged", "old": "2026-11-21T10:00:00", "new": "2026-11-21T10:59:59"},
            ],
            "states": {"onOffState": false, "s.ui": "off"},
        });
        assert_eq!(Value::Object(event.data), expect);
    }

    #[test]
    fn being_in_touch_is_no_news() {
        let (old, new) = (json!({"lastSuccessfulComm": 1}), json!({"lastSuccessfulComm": 2}));
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(teller().event(Feed::Device, change(old, new, live()), folder, now), None);
    }

    #[test]
    fn a_comparison_repeated_gives_the_same_id_and_the_next_one_another() {
        let tell = |round| {
            let change = change(Value::Null, json!({"value": "x"}), How::Compared(round));
            teller().event(Feed::Variable, change, folder, Timestamp::UNIX_EPOCH).unwrap()
        };
        assert_eq!(tell(1).id, tell(1).id);
        assert_ne!(tell(1).id, tell(2).id);
        assert!(tell(1).marks.caught_up && tell(1).trust == Trust::Authentic);
        assert_eq!(tell(1).data["value"], "x");
        assert_eq!(types().len(), 19);
    }

    #[test]
    fn large_changes_are_bounded() {
        let fields = |n: i64| -> Map<String, Value> {
            (0..200).map(|i| (format!("f{i}"), (i + n).into())).collect()
        };
        let (mut old, new) = (fields(0), fields(1));
        old.insert("f0".into(), "x".repeat(5_000).into());
        let change = change(old.into(), new.into(), live());
        let event = teller().event(Feed::Page, change, folder, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(event.data["changed"].as_array().unwrap().len(), CHANGED_MAX);
        assert_eq!(event.data["changed_left_out"], 200 - CHANGED_MAX);
        assert_eq!(event.data["changed"][0]["old"], json!({"bytes_left_out": 5000}));
    }
}
