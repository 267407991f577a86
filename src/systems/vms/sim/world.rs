//! What the simulated VMS knows and how it answers: one request in, one answer out. Knows no
//! socket and no mischief of the wire.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Map, Value, json};

/// The account of every simulated VMS.
pub const LOGIN: &str = "portero";
/// Its password.
pub const PASSWORD: &str = "a simulated password";
/// Items on a page of intercoms: Laravel's default, small enough that tests see a second page.
const INTERCOMS_PER_PAGE: usize = 15;
/// The most ids of one question.
const IDS_MAX: usize = 25;

/// One request that came.
#[derive(Debug, Clone)]
pub struct Received {
    /// `POST`
    pub method: String,
    /// `/api/v1/token`
    pub path: String,
    /// Decoded, in order.
    pub query: Vec<(String, String)>,
    /// By names in small letters.
    pub headers: BTreeMap<String, String>,
    /// As JSON; null if there is none.
    pub body: Value,
    /// What it was answered; 0 if it was not.
    pub status: u16,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Said {
    /// The status.
    pub status: u16,
    /// The body; null for none.
    pub body: Value,
}

/// The whole VMS.
#[derive(Debug)]
pub struct World {
    /// By id, as `/shows` prints them.
    pub intercoms: BTreeMap<u64, Map<String, Value>>,
    /// The newest first.
    pub calls: Vec<Map<String, Value>>,
    /// Good tokens and the ids of their sessions, oldest first.
    pub sessions: Vec<(String, u64)>,
    /// How many sessions fit.
    pub sessions_max: usize,
    /// Whether a login needs a captcha.
    pub wants_captcha: bool,
    /// Whether 419 has the bare array for its body.
    pub bare_sessions: bool,
    /// Doors that opened.
    pub opened: Vec<u64>,
    /// The server's clock minus the true one.
    pub skew: SignedDuration,
    next_id: u64,
}

impl World {
    /// Two intercoms at two doors, and a call of long ago.
    pub fn new(now: Timestamp) -> World {
        let mut world = World {
            intercoms: BTreeMap::new(),
            calls: Vec::new(),
            sessions: Vec::new(),
            sessions_max: 5,
            wants_captcha: false,
            bare_sessions: false,
            opened: Vec::new(),
            skew: SignedDuration::ZERO,
            next_id: 5_000,
        };
        world.add(180, "Home", now);
        world.add(181, "Garage", now);
        world.call(180, "missed", now - SignedDuration::from_hours(5));
        world
    }

    /// Adds an intercom.
    pub fn add(&mut self, id: u64, title: &str, now: Timestamp) {
        let fields = json!({
            "id": id, "title": title, "is_online": true, "is_enabled": true,
            "timetable": { "days": [
                { "from": "00:00:00+05:00", "to": "23:59:59+05:00", "type": "tuesday" },
                { "from": "00:00:00+05:00", "to": "23:59:59", "type": "saturday" },
            ], "intervals": [] },
            "department": 100, "address": "12 Orchard Road",
            "camera": { "id": id + 650, "status": "active", "type": "media_server_v2",
                "start_at": naive(now), "created_at": "", "billing_id": null, "lat": null },
            "status": "confirmed", "is_open_door_app": true,
            "created_at": null, "updated_at": precise(now),
        });
        if let Value::Object(fields) = fields {
            self.intercoms.insert(id, fields);
        }
    }

    /// Adds a call with this status.
    pub fn call(&mut self, intercom: u64, status: &str, at: Timestamp) -> u64 {
        self.next_id += 1;
        let place = self.intercoms.get(&intercom);
        let told = |name: &str| place.and_then(|place| place.get(name)).cloned();
        let call = json!({
            "id": self.next_id, "status": status, "created_at": naive(at + self.skew),
            "started_at": null, "ended_at": "",
            "intercom": { "id": intercom, "title": told("title"), "address": told("address"),
                "is_online": true },
        });
        if let Value::Object(call) = call {
            self.calls.insert(0, call);
        }
        self.next_id
    }

    /// Brings a call a step on.
    pub fn step(&mut self, call: u64, status: &str, now: Timestamp) {
        let at = naive(now + self.skew);
        let Some(call) = self.calls.iter_mut().find(|fields| fields["id"] == call) else { return };
        call.insert("status".into(), status.into());
        let field = if status == "answered" { "started_at" } else { "ended_at" };
        call.insert(field.into(), at.into());
    }

    /// A session of somebody else, or of ours before.
    pub fn open_session(&mut self, token: &str) -> u64 {
        self.next_id += 1;
        self.sessions.push((token.to_string(), self.next_id));
        self.next_id
    }

    /// Answers one request; `accepts_json` says whether its header did.
    pub fn answer(&mut self, asked: &Received, now: Timestamp) -> Said {
        let path = asked.path.strip_prefix("/api/v1/").unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        match (asked.method.as_str(), parts.as_slice()) {
            ("POST", ["token"]) => return self.token(&asked.body),
            ("GET", ["captcha"]) => return said(200, json!({ "key": "k", "img": "data:" })),
            _ => {}
        }
        let bearer = asked.headers.get("authorization").and_then(|a| a.strip_prefix("Bearer "));
        if !self.sessions.iter().any(|(token, _)| Some(token.as_str()) == bearer) {
            return said(401, json!({ "message": "Unauthenticated." }));
        }
        match (asked.method.as_str(), parts.as_slice()) {
            ("POST", ["logout"]) => {
                self.sessions.retain(|(token, _)| Some(token.as_str()) != bearer);
                said(204, Value::Null)
            }
            ("GET", ["intercom"]) => self.list(&asked.query),
            ("GET", ["intercom", "shows"]) => self.shows(&asked.query),
            ("GET", ["intercom", "events"]) => page(Vec::new(), &asked.query, INTERCOMS_PER_PAGE),
            ("GET", ["intercom", "calls"]) => self.list_calls(&asked.query),
            ("GET", ["intercom", "calls", id]) => self.one_call(id),
            ("POST", ["intercom", id, "open-door"]) => self.open_door(id),
            ("PATCH", ["intercom", id]) => self.change(id, &asked.body, now),
            ("GET", ["wsurl"]) => said(200, json!({ "ws_url": "", "app_key": "key" })),
            _ => said(404, json!({ "message": "" })),
        }
    }

    fn token(&mut self, body: &Value) -> Said {
        if self.wants_captcha && body["captcha"].is_null() {
            return invalid("captcha", "The captcha field is required.");
        }
        if body["login"] != LOGIN || body["password"] != PASSWORD {
            return invalid("login", "These credentials do not match our records.");
        }
        let dropped = body["session_id"].as_u64();
        self.sessions.retain(|(_, id)| Some(*id) != dropped);
        if self.sessions.len() >= self.sessions_max {
            let open: Vec<Value> =
                self.sessions.iter().map(|(_, id)| json!({ "id": id })).collect();
            let body = if self.bare_sessions {
                Value::Array(open)
            } else {
                json!({ "sessions": open, "sessions_limit": self.sessions_max })
            };
            return said(419, body);
        }
        self.next_id += 1;
        let token = format!("sim-token-{}", self.next_id);
        let id = self.open_session(&token);
        said(
            200,
            json!({
                "user": { "id": 1, "login": LOGIN, "access_token_id": id, "permissions": [] },
                "access_token": token,
            }),
        )
    }

    fn list(&self, query: &[(String, String)]) -> Said {
        let all = self.intercoms.values().cloned().map(Value::Object).collect();
        page(all, query, INTERCOMS_PER_PAGE)
    }

    /// Ids that are not the account's are silently missing.
    fn shows(&self, query: &[(String, String)]) -> Said {
        let is_ids = |name: &str| name.starts_with("ids[") && name.ends_with(']');
        let ids: Vec<&String> =
            query.iter().filter(|(name, _)| is_ids(name)).map(|(_, id)| id).collect();
        if ids.is_empty() {
            return invalid("ids", "The ids field is required.");
        }
        if ids.len() > IDS_MAX {
            return invalid("ids", "The ids may not have more than 25 items.");
        }
        let found = ids.iter().filter_map(|id| self.intercoms.get(&id.parse().ok()?));
        said(200, found.cloned().map(Value::Object).collect())
    }

    fn list_calls(&self, query: &[(String, String)]) -> Said {
        let get = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, value)| value);
        let intercom: Option<u64> = get("intercom").and_then(|id| id.parse().ok());
        let wanted = |call: &&Map<String, Value>| {
            intercom.is_none_or(|intercom| call["intercom"]["id"] == intercom)
        };
        let all = self.calls.iter().filter(wanted).cloned().map(Value::Object).collect();
        let size = get("per_page").and_then(|size| size.parse().ok()).unwrap_or(25);
        page(all, query, size)
    }

    fn one_call(&self, id: &str) -> Said {
        let found = self.calls.iter().find(|call| call["id"].to_string() == id);
        found.map_or_else(not_found, |call| said(200, Value::Object(call.clone())))
    }

    fn open_door(&mut self, id: &str) -> Said {
        let id = id.parse().unwrap_or(0);
        let is_ours = self.intercoms.get(&id).is_some_and(|i| i["status"] == "confirmed");
        if !is_ours {
            return not_found();
        }
        self.opened.push(id);
        said(204, Value::Null)
    }

    fn change(&mut self, id: &str, body: &Value, now: Timestamp) -> Said {
        let found = id.parse().ok().and_then(|id: u64| self.intercoms.get_mut(&id));
        let Some(fields) = found else { return not_found() };
        if body["title"].as_str().is_some_and(|title| title.chars().count() > 100) {
            return invalid("title", "The title may not be greater than 100 characters.");
        }
        for name in ["title", "is_enabled", "timetable"] {
            if let Some(value) = body.get(name) {
                fields.insert(name.into(), value.clone());
            }
        }
        fields.insert("updated_at".into(), precise(now).into());
        said(200, Value::Object(fields.clone()))
    }
}

fn said(status: u16, body: Value) -> Said {
    Said { status, body }
}

fn not_found() -> Said {
    said(404, json!({ "message": "No query results." }))
}

fn invalid(field: &str, why: &str) -> Said {
    said(422, json!({ "message": "The given data was invalid.", "errors": { field: [why] } }))
}

/// A page as Laravel prints it.
fn page(all: Vec<Value>, query: &[(String, String)], size: usize) -> Said {
    let size = size.clamp(1, 100);
    let asked = query.iter().find(|(name, _)| name == "page");
    let this = asked.and_then(|(_, page)| page.parse().ok()).unwrap_or(1).max(1);
    let last = all.len().div_ceil(size).max(1);
    let total = all.len();
    let data: Vec<Value> = all.into_iter().skip((this - 1) * size).take(size).collect();
    said(
        200,
        json!({
            "data": data,
            "links": { "next": (this < last).then(|| format!("?page={}", this + 1)) },
            "meta": { "current_page": this, "last_page": last, "per_page": size, "total": total },
        }),
    )
}

/// `2022-04-19 16:43:15`
pub fn naive(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `2022-04-20T12:34:32.000000Z`
pub fn precise(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string()
}
