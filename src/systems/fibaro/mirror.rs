//! What is known of one intercom, and what a signal makes of it: news for rules and state. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::names::Signal;
use super::wire;
use crate::event::{Event, Trust};
use crate::systems::link::{News, event};

/// The most relays, and the most buttons, of one intercom: ten times a large one. A number above
/// is a mistake, and no reason to fill the state.
const NUMBER_MAX: i64 = 255;

/// What a pressed button is called that has neither number nor name.
const UNKNOWN_BUTTON: &str = "unknown";

/// The most bytes of a frame that stay with its event; a signal has some hundred.
const RAW_BYTES_MAX: usize = 64 * 1024;

/// One intercom as far as it is known.
#[derive(Debug, Clone)]
pub struct Mirror {
    source: String,
    trust: Trust,
    /// Drawn at start: signals have neither id nor time, so theirs derive from it and a counter.
    boot: u64,
    told: u64,
    relays: BTreeMap<i64, Relay>,
}

/// One relay.
#[derive(Debug, Clone, Default, PartialEq)]
struct Relay {
    /// Not known until a signal or an answer says so.
    open: Option<bool>,
    /// How many signals came about it since start.
    signals: u64,
}

impl Mirror {
    /// What was known when Portero stopped, by path.
    pub fn new(source: &str, trust: Trust, boot: u64, known: &[(String, Value)]) -> Mirror {
        let prefix = format!("{source}/relay/");
        let relay = |(path, value): &(String, Value)| {
            let number = path.strip_prefix(&prefix)?.parse().ok()?;
            Some((number, Relay { open: Some(value.get("open")?.as_bool()?), signals: 0 }))
        };
        let relays = known.iter().filter_map(relay).collect();
        Mirror { source: source.to_string(), trust, boot, told: 0, relays }
    }

    /// How many signals came about this relay: an answer that was asked for before the last one
    /// may be older than it.
    pub fn signals(&self, relay: i64) -> u64 {
        self.relays.get(&relay).map_or(0, |relay| relay.signals)
    }

    /// News of a signal; none if it tells nothing (a button let go changes state only). The error
    /// says why it cannot be understood.
    pub fn signal(
        &mut self,
        signal: Signal,
        params: &Map<String, Value>,
        raw: &[u8],
        now: Timestamp,
    ) -> Result<News, &'static str> {
        let mut news = match signal {
            Signal::Relay => self.relay(params, now)?,
            Signal::Button => self.button(params, now)?,
            Signal::DayNight => self.day_night(params, now)?,
            Signal::Proximity => self.proximity(params, now)?,
        };
        for heard in &mut news.events {
            heard.event.raw = raw[..raw.len().min(RAW_BYTES_MAX)].to_vec();
        }
        Ok(news)
    }

    /// News of a relay that was asked after a gap: only what is not as it was known.
    pub fn caught_up(&mut self, relay: i64, open: bool, now: Timestamp) -> News {
        let mut news = News::default();
        let known = self.relays.entry(relay).or_default();
        let before = known.open.replace(open);
        if before == Some(open) {
            return news;
        }
        news.set(self.path(&format!("relay/{relay}")), relay_state(open, "", ""));
        if before.is_some() {
            let data = json!({ "relay": relay, "open": open, "method": "", "user": "" });
            let event = self.event("fibaro.relay", &relay.to_string(), data, true, now);
            news.events.push(event.into());
        }
        news
    }

    /// The certificate is not the remembered one. Nobody vouches for this news but we ourselves,
    /// and nothing may be opened for it: it is unverified. Once for each fingerprint.
    pub fn certificate_changed(&self, expected: &str, seen: &str, now: Timestamp) -> News {
        let kind = "fibaro.certificate_changed";
        let mut event = event(&self.source, kind, &[seen], Trust::Unverified, false, now);
        event.subject = Some(self.name().to_string());
        let data = json!({ "fingerprint": seen, "expected": expected, "intercom": self.name() });
        event.data = object(data);
        News { known: Vec::new(), events: vec![event.into()] }
    }

    fn relay(&mut self, params: &Map<String, Value>, now: Timestamp) -> Result<News, &'static str> {
        let relay = number(params, "relay").ok_or("a relay signal without the relay's number")?;
        let open = wire::is_open(params).ok_or("a relay signal without its state")?;
        let (method, user) = (wire::text(params.get("method")), wire::text(params.get("user")));
        let known = self.relays.entry(relay).or_default();
        known.open = Some(open);
        known.signals += 1;
        let mut news = News::default();
        news.set(self.path(&format!("relay/{relay}")), relay_state(open, &method, &user));
        let data = json!({ "relay": relay, "open": open, "method": method, "user": user });
        let event = self.event("fibaro.relay", &relay.to_string(), data, false, now);
        news.events.push(event.into());
        Ok(news)
    }

    fn button(
        &mut self,
        params: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<News, &'static str> {
        let pressed = params.get("state").and_then(wire::flag);
        let pressed = pressed.ok_or("a button signal without its state")?;
        let mut news = News::default();
        if let Some(button) = number(params, "button") {
            news.set(self.path(&format!("button/{button}")), json!({ "pressed": pressed }));
        }
        if pressed {
            // Somebody rings, whatever the intercom calls the button.
            let button = params.get("button").filter(|n| n.is_number() || n.is_string());
            let named = Some(wire::text(button)).filter(|name| !name.trim().is_empty());
            let whole = button.and_then(wire::whole);
            let subject = whole.map(|n| n.to_string()).or(named.clone());
            let button = whole.map_or_else(|| json!(named), Value::from);
            let subject = subject.unwrap_or_else(|| UNKNOWN_BUTTON.into());
            let event =
                self.event("fibaro.button", &subject, json!({ "button": button }), false, now);
            news.events.push(event.into());
        }
        Ok(news)
    }

    fn day_night(
        &mut self,
        params: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<News, &'static str> {
        let mode = wire::text(params.get("mode"));
        if mode.is_empty() {
            return Err("a day and night signal without its mode");
        }
        let mut news = News::default();
        news.set(self.path("day_night"), json!({ "mode": mode }));
        let (subject, data) = (self.name().to_string(), json!({ "mode": mode }));
        news.events.push(self.event("fibaro.day_night", &subject, data, false, now).into());
        Ok(news)
    }

    fn proximity(
        &mut self,
        params: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<News, &'static str> {
        let near = params.get("state").and_then(wire::flag);
        let near = near.ok_or("a proximity signal without its state")?;
        let mut news = News::default();
        news.set(self.path("proximity"), json!({ "near": near }));
        let (subject, data) = (self.name().to_string(), json!({ "near": near }));
        news.events.push(self.event("fibaro.proximity", &subject, data, false, now).into());
        Ok(news)
    }

    fn event(
        &mut self,
        kind: &str,
        subject: &str,
        data: Value,
        caught_up: bool,
        now: Timestamp,
    ) -> Event {
        self.told += 1;
        let unique =
            [now.as_nanosecond().to_string(), format!("{:x}", self.boot), self.told.to_string()];
        let unique = unique.each_ref().map(String::as_str);
        let mut event = event(&self.source, kind, &unique, self.trust, caught_up, now);
        event.subject = Some(subject.to_string());
        event.data = object(data);
        event.data.insert("intercom".into(), self.name().into());
        event
    }

    /// The user's name for it.
    fn name(&self) -> &str {
        self.source.split_once('/').map_or(self.source.as_str(), |(_, name)| name)
    }

    fn path(&self, below: &str) -> String {
        format!("{}/{below}", self.source)
    }
}

fn relay_state(open: bool, method: &str, user: &str) -> Value {
    json!({ "open": open, "method": method, "user": user })
}

fn number(params: &Map<String, Value>, name: &str) -> Option<i64> {
    params.get(name).and_then(wire::whole).filter(|n| (0..=NUMBER_MAX).contains(n))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn mirror() -> Mirror {
        let known = [("fibaro/gate/relay/0".to_string(), json!({ "open": true }))];
        Mirror::new("fibaro/gate", Trust::Fresh, 7, &known)
    }

    fn heard(mirror: &mut Mirror, signal: Signal, params: Value) -> Result<News, &'static str> {
        mirror.signal(signal, &object(params), b"raw", now())
    }

    #[test]
    fn two_presses_at_one_moment_are_two_events_and_a_release_is_none() {
        let mut mirror = mirror();
        let mut press = |state| {
            heard(&mut mirror, Signal::Button, json!({ "button": 2, "state": state })).unwrap()
        };
        let (one, two, release) = (press(true), press(true), press(false));
        assert_ne!(one.events[0].event.id, two.events[0].event.id);
        let event = &one.events[0].event;
        assert_eq!((event.subject.as_deref(), event.trust), (Some("2"), Trust::Fresh));
        assert_eq!(Value::Object(event.data.clone()), json!({ "button": 2, "intercom": "gate" }));
        assert_eq!(event.raw, b"raw");
        assert!(release.events.is_empty() && release.known.len() == 1);
    }

    #[test]
    fn only_a_change_is_caught_up_and_never_fresh() {
        let mut mirror = mirror();
        assert!(mirror.caught_up(0, true, now()).is_empty());
        let first = mirror.caught_up(1, false, now());
        assert!(first.events.is_empty() && first.known.len() == 1, "not known before");
        let changed = mirror.caught_up(0, false, now());
        let event = &changed.events[0].event;
        assert!(event.marks.caught_up && event.trust == Trust::Authentic);
        assert_eq!((event.subject.as_deref(), &event.data["open"]), (Some("0"), &json!(false)));
    }

    #[test]
    fn what_is_missing_or_absurd_is_said() {
        let mut mirror = mirror();
        for (signal, params) in [
            (Signal::Relay, json!({ "relay": 0 })),
            (Signal::Relay, json!({ "is_open": true })),
            (Signal::Relay, json!({ "relay": -1, "is_open": true })),
            (Signal::Relay, json!({ "relay": 1e15, "is_open": true })),
            (Signal::Button, json!({ "button": 1, "state": {} })),
            (Signal::DayNight, json!({})),
            (Signal::Proximity, json!({ "state": null })),
        ] {
            assert!(heard(&mut mirror, signal, params.clone()).is_err(), "{params}");
        }
    }

    #[test]
    fn a_press_is_a_ring_whatever_the_buttons_number() {
        for (button, subject, shown) in [
            (json!(256), "256", json!(256)),
            (json!("70000"), "70000", json!(70000)),
            (json!(-1), "-1", json!(-1)),
            (json!(1e300), "1e+300", json!("1e+300")),
            (json!("front"), "front", json!("front")),
            (json!(null), "unknown", json!(null)),
            (json!(" "), "unknown", json!(null)),
            (json!([2]), "unknown", json!(null)),
        ] {
            let mut mirror = mirror();
            let params = json!({ "button": button, "state": true });
            let news = heard(&mut mirror, Signal::Button, params).unwrap();
            let event = &news.events[0].event;
            assert_eq!((event.subject.as_deref(), &event.data["button"]), (Some(subject), &shown));
            assert!(!event.raw.is_empty() && news.known.is_empty(), "{button}");
        }
        let released = json!({ "state": false });
        assert!(heard(&mut mirror(), Signal::Button, released).unwrap().is_empty());
    }

    #[test]
    fn one_foreign_certificate_is_one_event_that_opens_nothing() {
        let mirror = mirror();
        let event = |seen| mirror.certificate_changed("aa", seen, now()).events.remove(0).event;
        assert_eq!(event("bb").id, event("bb").id);
        assert_ne!(event("bb").id, event("cc").id);
        assert_eq!(event("bb").trust, Trust::Unverified);
    }
}
