//! One configured Netatmo, sans I/O: a webhook's bytes, its trust and the moment go in, events
//! come out. Journals nothing and drops no duplicates: it names them, the journal knows them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::Value;

use crate::event::{Event, EventId, Heard, Marks, Trust};

use super::Config;
use super::api::Cloud;
use super::calls::{Calls, Facts};
use super::fields::Fields;
use super::identity::{self, Identity};
use super::names::{self, Role};
use super::normalise::{self, Frame};
use super::wire::Unparsable;
use crate::systems::json::Mends;
use crate::systems::link;

/// One configured Netatmo.
#[derive(Debug)]
pub struct Session {
    source: String,
    /// Ids in lower case.
    names: BTreeMap<String, String>,
    /// Knows Netatmo's own names, if the cloud is used.
    cloud: Option<Cloud>,
    /// Held only while one frame of a call is noted.
    calls: Mutex<Calls>,
}

/// Ids, and the field that says what people call them.
const NAMED: [(&str, &str); 6] = [
    ("home_id", "home_name"),
    ("device_id", "device_name"),
    ("camera_id", "camera_name"),
    ("module_id", "module_name"),
    ("room_id", "room_name"),
    ("person_id", "person"),
];

/// What an event is about, the most specific first.
const SUBJECTS: [&str; 7] =
    ["person_id", "module_id", "device_id", "camera_id", "room_id", "home_id", "user_id"];

impl Session {
    /// The session of `[netatmo.<name>]`; its events' source is `netatmo/<name>`.
    pub fn new(name: &str, config: &Config) -> Session {
        let names = &config.names;
        Session {
            source: format!("netatmo/{name}"),
            names: names.iter().map(|(id, name)| (id.to_lowercase(), name.clone())).collect(),
            cloud: None,
            calls: Mutex::default(),
        }
    }

    /// The same, with the names that the cloud tells for what has none.
    pub fn with_cloud(self, cloud: Option<Cloud>) -> Session {
        Session { cloud, ..self }
    }

    /// The events that the webhook of a fact would have made, from the cloud's history: the same
    /// ids, marked as caught up. `raw` is what the history holds of it.
    pub fn caught_up(&self, body: &[u8], raw: &[u8], trust: Trust, now: Timestamp) -> Vec<Heard> {
        let mut all = self.webhook(body, trust, now);
        for Heard { event, .. } in &mut all {
            event.marks.caught_up = true;
            event.raw = raw.to_vec();
        }
        all
    }

    /// The ids of the events that a body reports, without remembering anything of it.
    pub fn ids(&self, body: &[u8], now: Timestamp) -> Vec<EventId> {
        let Ok(mut frame) = normalise::frame(body) else { return Vec::new() };
        let persons = std::mem::take(&mut frame.persons);
        let id = |person| identity::of(&self.source, &frame, person, now).id;
        if persons.is_empty() {
            vec![id(None)]
        } else {
            persons.iter().map(|p| id(Some(p))).collect()
        }
    }

    /// The events that one body reports; at least one, whatever the body is.
    pub fn webhook(&self, body: &[u8], trust: Trust, now: Timestamp) -> Vec<Heard> {
        match normalise::frame(body) {
            Ok(frame) => {
                link::mended(&self.source, frame.mends);
                self.events(frame, body, trust, now)
            }
            Err(why) => vec![self.unparsable(&why, body, trust, now)],
        }
    }

    fn events(
        &self,
        mut frame: Frame<'_>,
        body: &[u8],
        trust: Trust,
        now: Timestamp,
    ) -> Vec<Heard> {
        let persons = std::mem::take(&mut frame.persons);
        if persons.is_empty() {
            // First the id: it must not depend on what happens to be remembered.
            let identity = identity::of(&self.source, &frame, None, now);
            self.recall(&mut frame, trust, now);
            return vec![self.event(frame, identity, body, trust, now)];
        }
        let heard = persons.into_iter().map(|person| {
            let identity = identity::of(&self.source, &frame, Some(&person), now);
            let mut frame = frame.clone();
            frame.data.put_all(person.into_map());
            self.event(frame, identity, body, trust, now)
        });
        heard.collect()
    }

    /// Completes a frame of a call by what earlier frames said.
    fn recall(&self, frame: &mut Frame<'_>, trust: Trust, now: Timestamp) {
        use Role::{Answered, Ended, Missed, Ring, Rtc};
        let role = frame.kind.role;
        let data = &mut frame.data;
        let Some(session) = data.text("session_id") else { return };
        if !matches!(role, Ring | Answered | Missed | Rtc | Ended) {
            return;
        }
        let own = |name| data.text(name).map(String::from);
        let facts = Facts {
            module_id: own("module_id"),
            module_name: own("module_name"),
            device_id: own("device_id"),
            rang: false,
        };
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let known = calls.hear(session, role, facts, trust, now);
        drop(calls);
        data.put_new("module_id", known.module_id.map(Value::from));
        data.put_new("module_name", known.module_name.map(Value::from));
        data.put_new("device_id", known.device_id.map(Value::from));
        if role == Missed {
            data.put("rang", known.rang);
        }
    }

    /// Gives every id a name: the owner's, else the body's, else the id itself, so that a text
    /// with a name in it can always be written.
    fn complete(&self, data: &mut Fields<'_>) {
        for (id, name) in NAMED {
            let Some(id) = data.text(id) else { continue };
            match self.owners_name(id) {
                Some(owners) => data.put(name, owners),
                None if data.text(name).is_some() => {}
                None => {
                    let learned = self.cloud.as_ref().and_then(|cloud| cloud.name(id));
                    let name_of = learned.unwrap_or_else(|| id.to_owned());
                    data.put(name, name_of);
                }
            }
        }
    }

    fn owners_name(&self, id: &str) -> Option<&str> {
        if self.names.is_empty() {
            return None;
        }
        self.names.get(&id.to_lowercase()).map(String::as_str)
    }

    fn unparsable(&self, why: &Unparsable, body: &[u8], trust: Trust, now: Timestamp) -> Heard {
        let kind = names::UNPARSABLE;
        let mut data = Fields::new();
        data.put("reason", why.as_str());
        data.put("error", why.to_string());
        let identity = identity::of_bytes(&self.source, kind.name, body, now);
        let mends = Mends::default();
        let frame = Frame { kind, data, persons: Vec::new(), time: None, mends };
        self.event(frame, identity, body, trust, now)
    }

    fn event(
        &self,
        mut frame: Frame<'_>,
        identity: Identity,
        body: &[u8],
        trust: Trust,
        now: Timestamp,
    ) -> Heard {
        self.complete(&mut frame.data);
        let subject = SUBJECTS.iter().find_map(|name| frame.data.text(name)).map(String::from);
        let event = Event {
            id: identity.id,
            source: self.source.clone(),
            kind: frame.kind.name.to_owned(),
            subject,
            time: frame.time,
            received: now,
            trust,
            marks: Marks::default(),
            hops: 0,
            data: frame.data.into_map(),
            raw: body.to_vec(),
        };
        Heard { event, also: identity.also }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(session: &Session, body: &str, now: &str) -> Vec<Heard> {
        session.webhook(body.as_bytes(), Trust::Authentic, now.parse().unwrap())
    }

    fn session() -> Session {
        Session::new("home", &Config::default())
    }

    const NOON: &str = "2026-11-20T12:00:00Z";
    const CALL: &str = include_str!("../../../fixtures/netatmo/incoming_call.json");

    #[test]
    fn whichever_comes_first_of_call_and_offer_is_the_ring() {
        let offer = r#"{"session_id":"08800000-0000-4000-8000-000000000101","data":{"type":"offer"},
            "device_id":"70:ee:50:aa:00:04","push_type":"NDB-rtc"}"#;
        let session = session();
        let [call, offer] = [CALL, offer].map(|body| hear(&session, body, NOON).remove(0).event);
        assert_eq!((call.kind.as_str(), call.id), ("netatmo.ring", offer.id));
        assert_eq!(
            (&call.data["via"], &offer.data["via"]),
            (&"incoming_call".into(), &"rtc".into())
        );
        let id = EventId::derive([
            "netatmo-ring",
            "netatmo/home",
            "08800000-0000-4000-8000-000000000101",
        ]);
        assert_eq!(call.id, id);
    }

    #[test]
    fn a_body_with_nothing_of_its_own_counts_once_a_minute() {
        let body = r#"{"push_type":"webhook_activation","user_id":"u1"}"#;
        let session = session();
        let [first, again, across, later] = [
            "2026-11-20T12:00:55Z",
            "2026-11-20T12:00:59Z",
            "2026-11-20T12:01:02Z",
            "2026-11-21T12:00:55Z",
        ]
        .map(|now| hear(&session, body, now).remove(0));
        assert_eq!(first.event.id, again.event.id);
        assert_eq!(across.also, Some(first.event.id));
        assert_ne!(later.event.id, first.event.id);
        assert_ne!(later.also, Some(first.event.id));
    }

    #[test]
    fn an_alarm_with_one_bad_byte_is_an_alarm_and_its_raw_bytes_stay() {
        let bodies: [&[u8]; 3] = [
            b"{\"event_type\":\"smoke\",\"sub_type\":1,\"message\":\"fum\xe9e\"}",
            br#"{"event_type":"smoke","sub_type":1,"message":"\ud83d"}"#,
            br#"{"event_type":"smoke","sub_type":1,"timestamp":1e400}"#,
        ];
        for body in bodies {
            let heard = session().webhook(body, Trust::Authentic, NOON.parse().unwrap());
            let event = &heard[0].event;
            assert_eq!((event.kind.as_str(), event.raw.as_slice()), ("netatmo.smoke", body));
            assert_eq!(event.data["sub_type_name"], "detected");
        }
    }

    #[test]
    fn the_owners_name_stands_before_the_bodys_and_the_id() {
        let body = r#"{"event_type":"tag_open","module_id":"02:00:00:AA:00:01","home_id":"h1",
            "home_name":"Home","device_id":"70:ee:50:aa:00:01","push_type":"NACamera-tag_open"}"#;
        let names = [("02:00:00:aa:00:01", "Kitchen window"), ("h1", "Our house")];
        let names = names.map(|(id, name)| (id.to_owned(), name.to_owned())).into();
        let session = Session::new("home", &Config { names, ..Config::default() });
        let event = hear(&session, body, NOON).remove(0).event;
        assert_eq!(event.data["module_name"], "Kitchen window");
        assert_eq!(event.data["home_name"], "Our house");
        assert_eq!(event.data["device_name"], "70:ee:50:aa:00:01");
        assert_eq!(event.subject.as_deref(), Some("02:00:00:AA:00:01"));
    }
}
