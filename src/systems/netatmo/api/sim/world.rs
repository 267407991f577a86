//! The simulated Netatmo's truth: a home, its modules and persons, what happened there, and who is
//! to be told. Knows neither HTTP nor mischief of the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::tokens::Tokens;

/// Ids of the simulated home.
pub mod ids {
    /// The home.
    pub const HOME: &str = "6a1f0c1a2b3c4d5e6f70e001";
    /// The account.
    pub const USER: &str = "6a1f0c1a2b3c4d5e6f70e000";
    /// `NACamera`
    pub const INDOOR: &str = "70:ee:50:e0:00:01";
    /// `NOC`
    pub const OUTDOOR: &str = "70:ee:50:e0:00:02";
    /// `NDB`
    pub const BELL: &str = "70:ee:50:e0:00:03";
    /// `NSD`
    pub const SMOKE: &str = "70:ee:50:e0:00:04";
    /// `NACamDoorTag`, of [`INDOOR`]
    pub const TAG: &str = "70:ee:50:e0:01:01";
    /// `NIS`, of [`INDOOR`]
    pub const SIREN: &str = "70:ee:50:e0:01:02";
    /// `BNCX`
    pub const GATEWAY: &str = "00:03:50:e0:00:01";
    /// `BNDL`, of [`GATEWAY`]
    pub const LOCK: &str = "e00001-1002-000000000001";
    /// `BNSL`, of [`GATEWAY`]
    pub const STAIRS: &str = "e00001-1003-000000000002";
    /// Ana
    pub const ANA: &str = "e2bf7000-0000-4000-8000-00000000e0a1";
    /// Benoît
    pub const BENOIT: &str = "e2bf7000-0000-4000-8000-00000000e0b2";
}

/// So many events are remembered; the oldest go.
const EVENTS_MAX: usize = 2_000;

/// Kinds that happen to whom a camera sees or hears: the history has them below one `outdoor`.
const GROUPED: [&str; 6] =
    ["human", "animal", "vehicle", "incoming_call", "accepted_call", "missed_call"];

/// Fields of a webhook that the history has, too.
const TOLD_TWICE: [&str; 6] =
    ["sub_type", "message", "session_id", "video_id", "video_status", "person_id"];

/// One thing of the home.
#[derive(Debug, Clone)]
pub(super) struct Module {
    /// What `homesdata` says of it.
    pub data: Map<String, Value>,
    /// What `homestatus` says of it.
    pub status: Map<String, Value>,
    /// What can be set and never read back.
    pub hidden: Map<String, Value>,
    pub reachable: bool,
}

/// A webhook that is to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Post {
    pub url: String,
    pub body: Value,
    /// Whether it proves the registration; those come a moment later.
    pub is_activation: bool,
}

/// Everything.
#[derive(Debug)]
pub(super) struct World {
    pub tokens: Tokens,
    pub modules: BTreeMap<String, Module>,
    /// As `homesdata` prints them, with what `homestatus` adds.
    pub persons: Vec<Map<String, Value>>,
    pub rooms: Value,
    /// The newest first.
    pub events: Vec<Map<String, Value>>,
    /// Where webhooks go.
    pub webhook: Option<String>,
    /// Every address that was ever registered.
    pub registrations: Vec<String>,
    /// Says nothing of what happens.
    pub deaf: bool,
    /// Never proves a registration.
    pub mute: bool,
    /// The history names the session of a call; it is seen with and without.
    pub tells_sessions: bool,
    /// What is to be sent.
    pub outbox: Vec<Post>,
    next: u64,
}

impl World {
    pub fn new(secret: &str, now: Timestamp) -> World {
        let modules = modules(now.as_second());
        let persons = [(ids::ANA, "Ana"), (ids::BENOIT, "Benoît")].map(|(id, name)| {
            fields(json!({ "id": id, "pseudo": name, "url": "https://images.example.org/face",
                "last_seen": now.as_second() - 600, "out_of_sight": false }))
        });
        World {
            tokens: Tokens::new(secret),
            modules: modules.into_iter().collect(),
            persons: persons.into(),
            rooms: json!([
                { "id": "101", "name": "Hall", "type": "lobby",
                    "module_ids": [ids::INDOOR, ids::SMOKE, ids::SIREN] },
                { "id": "102", "name": "Garden", "type": "outdoor",
                    "module_ids": [ids::OUTDOOR, ids::BELL] },
            ]),
            events: Vec::new(),
            webhook: None,
            registrations: Vec::new(),
            deaf: false,
            mute: false,
            tells_sessions: true,
            outbox: Vec::new(),
            next: 0,
        }
    }

    /// An id as Netatmo makes them.
    pub fn id(&mut self) -> String {
        self.next += 1;
        format!("6a20{:020x}", self.next)
    }

    /// An id of a call or of a part of a visit.
    pub fn uuid(&mut self) -> String {
        self.next += 1;
        format!("0e000000-0000-4000-8000-{:012x}", self.next)
    }

    /// Something happens to a thing: the history has it, and the webhook tells it with the same
    /// ids. `fields` are the webhook's further ones; `event_id` among them continues a visit, and
    /// `time` puts it elsewhere in the history. Its id.
    pub fn happen(
        &mut self,
        kind: &str,
        module: &str,
        mut more: Map<String, Value>,
        now: Timestamp,
    ) -> String {
        let time = more.remove("time").and_then(|time| time.as_i64()).unwrap_or(now.as_second());
        let (product, device) = self.product_and_device(module);
        let mut body = fields(json!({ "user_id": ids::USER, "event_type": kind,
            "device_id": device, "camera_id": device, "home_id": ids::HOME,
            "home_name": "Orchard Lane 3", "push_type": format!("{product}-{kind}") }));
        if device != module {
            body.insert("module_id".into(), module.into());
        }
        let continued = more.contains_key("event_id");
        let id = match more.get("event_id").and_then(Value::as_str) {
            Some(id) => id.to_string(),
            None => self.id(),
        };
        body.insert("event_id".into(), id.as_str().into());
        if GROUPED.contains(&kind) && product != "NACamera" {
            body.insert("subevent_id".into(), self.uuid().into());
        }
        body.extend(more);
        self.remember(kind, module, &body, time, continued);
        self.post(Value::Object(body));
        id
    }

    /// What only a webhook tells.
    pub fn post(&mut self, body: Value) {
        if let (Some(url), false) = (&self.webhook, self.deaf) {
            self.outbox.push(Post { url: url.clone(), body, is_activation: false });
        }
    }

    /// Takes an address for webhooks in place of any other.
    pub fn register(&mut self, url: &str) {
        self.webhook = Some(url.to_string());
        self.registrations.push(url.to_string());
        if !self.mute {
            let body = json!({ "user_id": ids::USER, "push_type": "webhook_activation",
                "user": { "id": ids::USER, "email": "resident@example.org" } });
            self.outbox.push(Post { url: url.to_string(), body, is_activation: true });
        }
    }

    /// The code of a module's kind, and the camera or gateway that speaks for it.
    pub fn product_and_device(&self, module: &str) -> (String, String) {
        let found = self.modules.get(module);
        let text = |name: &str| {
            let value = found.and_then(|module| module.data.get(name)).and_then(Value::as_str);
            value.map(String::from)
        };
        let product = text("type").unwrap_or_else(|| "NACamera".into());
        (product, text("bridge").unwrap_or_else(|| module.into()))
    }

    fn remember(
        &mut self,
        kind: &str,
        module: &str,
        body: &Map<String, Value>,
        time: i64,
        continued: bool,
    ) {
        let mut own = Map::new();
        for name in TOLD_TWICE {
            own.extend(body.get(name).map(|value| (name.to_string(), value.clone())));
        }
        if !self.tells_sessions {
            own.remove("session_id");
        }
        for (name, url) in [("snapshot", "snapshot_url"), ("vignette", "vignette_url")] {
            own.extend(body.get(url).map(|url| (name.to_string(), json!({ "url": url }))));
        }
        if let Some(id) = body.get("persons").and_then(|persons| persons[0]["id"].as_str()) {
            own.insert("person_id".into(), id.into());
        }
        own.extend([("type".into(), kind.into()), ("time".into(), time.into())]);
        let id = body.get("event_id").cloned().unwrap_or_default();
        let Some(part) = body.get("subevent_id") else {
            own.extend([("id".into(), id), ("module_id".into(), module.into())]);
            own.insert("camera_id".into(), body["camera_id"].clone());
            return self.insert(own);
        };
        own.insert("id".into(), part.clone());
        let visit = self.events.iter_mut().find(|event| continued && event["id"] == id);
        match visit.and_then(|visit| visit.get_mut("subevents")?.as_array_mut()) {
            Some(parts) => parts.push(Value::Object(own)),
            None => self.insert(fields(json!({ "id": id, "type": "outdoor", "time": time,
                "module_id": module, "video_status": "available", "subevents": [own] }))),
        }
    }

    fn insert(&mut self, event: Map<String, Value>) {
        let time = |event: &Map<String, Value>| event["time"].as_i64().unwrap_or_default();
        let own = time(&event);
        let at = self.events.iter().position(|other| time(other) <= own);
        self.events.insert(at.unwrap_or(self.events.len()), event);
        self.events.truncate(EVENTS_MAX);
    }

    /// The home with all that is true of it, in the words of the API.
    pub fn truth(&self) -> Value {
        let whole = |module: &Module| {
            let mut all = module.data.clone();
            all.extend(module.status.clone());
            all.insert("reachable".into(), module.reachable.into());
            Value::Object(all)
        };
        let modules: Vec<Value> = self.modules.values().map(whole).collect();
        json!({ "id": ids::HOME, "name": "Orchard Lane 3", "timezone": "Europe/Paris",
            "modules": modules, "persons": self.persons, "rooms": self.rooms })
    }
}

/// The fields of an object.
pub(super) fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn modules(now: i64) -> [(String, Module); 9] {
    let camera = json!({ "firmware_revision": 3_011_000, "wifi_strength": 58, "monitoring": "on",
        "sd_status": 4, "alim_status": 2, "is_local": false });
    let outdoor = json!({ "firmware_revision": 3_011_000, "wifi_strength": 61, "monitoring": "on",
        "sd_status": 4, "alim_status": 2, "floodlight": "auto" });
    let bell = json!({ "firmware_revision": 121, "wifi_strength": 66, "sd_status": 4,
        "alim_status": 2, "quick_display_zone": 62 });
    let smoke = json!({ "firmware_revision": 84, "wifi_strength": 57, "last_seen": now - 3_600 });
    let tag = json!({ "firmware_revision": 58, "rf_strength": 70, "battery_percent": 84,
        "battery_state": "high", "status": "closed", "last_seen": now - 30,
        "last_activity": now - 900 });
    let siren = json!({ "firmware_revision": 209, "rf_strength": 76, "battery_percent": 95,
        "status": "no_sound", "monitoring": false, "last_seen": now - 30 });
    let gateway = json!({ "firmware_revision": 3_000, "wifi_strength": 55, "last_seen": now - 5 });
    let none = json!({});
    [
        (ids::INDOOR, "NACamera", "Hall camera", None, camera),
        (ids::OUTDOOR, "NOC", "Garden camera", None, outdoor),
        (ids::BELL, "NDB", "Garden gate bell", None, bell),
        (ids::SMOKE, "NSD", "Hall smoke alarm", None, smoke),
        (ids::TAG, "NACamDoorTag", "Terrace door", Some(ids::INDOOR), tag),
        (ids::SIREN, "NIS", "Hall siren", Some(ids::INDOOR), siren),
        (ids::GATEWAY, "BNCX", "Flat's intercom", None, gateway),
        (ids::LOCK, "BNDL", "Street door", Some(ids::GATEWAY), none.clone()),
        (ids::STAIRS, "BNSL", "Staircase", Some(ids::GATEWAY), none),
    ]
    .map(|(id, kind, name, bridge, status)| {
        let mut data = fields(json!({ "id": id, "type": kind, "name": name,
            "setup_date": now - 86_400 }));
        let mut status = fields(status);
        status.extend([("id".into(), id.into()), ("type".into(), kind.into())]);
        if let Some(bridge) = bridge {
            data.insert("bridge".into(), bridge.into());
            status.insert("bridge".into(), bridge.into());
        }
        match id {
            ids::TAG => drop(data.insert("category".into(), "door".into())),
            ids::INDOOR | ids::SMOKE | ids::SIREN => {
                drop(data.insert("room_id".into(), "101".into()))
            }
            ids::GATEWAY => {
                data.insert("modules_bridged".into(), json!([ids::LOCK, ids::STAIRS]));
            }
            _ => {}
        }
        (id.to_string(), Module { data, status, hidden: Map::new(), reachable: true })
    })
}
