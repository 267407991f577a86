//! What the simulated Netatmo answers: one request in, one answer out. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::tokens::Bad;
use super::world::{World, ids};

/// The most events on a page, and how many if nobody says.
const PAGE: usize = 30;

/// One request.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    pub method: String,
    pub path: String,
    /// Of the query and of a form.
    pub params: BTreeMap<String, String>,
    /// A JSON body; null if it is none.
    pub json: Value,
    pub bearer: Option<String>,
}

/// An answer on its way out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Said {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection ends before the body does.
    pub cut: bool,
}

impl Said {
    pub fn json(status: u16, body: &Value) -> Said {
        Said::raw(status, "application/json; charset=utf-8", body.to_string().into_bytes())
    }

    pub fn raw(status: u16, content_type: &'static str, body: Vec<u8>) -> Said {
        Said { status, content_type, headers: Vec::new(), body, cut: false }
    }

    pub fn error(status: u16, code: i64, message: &str) -> Said {
        Said::json(status, &json!({ "error": { "code": code, "message": message } }))
    }
}

impl Asked {
    /// What was asked for, as one object.
    pub fn content(&self) -> Value {
        match &self.json {
            Value::Null => json!(self.params),
            json => json.clone(),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }
}

impl World {
    /// Answers one request whose path is no page for people.
    pub fn answer(&mut self, asked: &Asked, now: Timestamp) -> Said {
        let call = (asked.method.as_str(), asked.path.as_str());
        match call {
            ("POST", "/oauth2/token") => return self.tokens.token(&asked.params, now),
            ("GET", "/oauth2/authorize") => return self.tokens.authorize(&asked.params),
            _ => {}
        }
        match self.tokens.check(asked.bearer.as_deref(), now) {
            Ok(()) => {}
            Err(Bad::Missing) => return Said::error(401, 1, "Access token is missing"),
            Err(Bad::Invalid) => return Said::error(403, 2, "Invalid access token"),
            Err(Bad::Expired) => return Said::error(403, 3, "Access token expired"),
        }
        match call {
            ("GET" | "POST", "/api/homesdata") => self.homesdata(asked, now),
            ("GET" | "POST", "/api/homestatus") => self.homestatus(asked, now),
            ("GET" | "POST", "/api/getevents") => self.getevents(asked, now),
            ("GET" | "POST", "/api/addwebhook") => self.add(asked.get("url"), now),
            ("GET" | "POST", "/api/dropwebhook") => self.drop_webhook(now),
            (_, "/webhooks/v1") => self.newer(asked, now),
            ("POST", "/api/setstate") => self.setstate(&asked.json, now),
            ("POST", "/api/setpersonsaway") => self.away(asked, now),
            ("POST", "/api/setpersonshome") => self.home(asked, now),
            _ => Said::error(404, 31, "Method not found"),
        }
    }

    fn homesdata(&self, asked: &Asked, now: Timestamp) -> Said {
        if asked.get("home_id").is_some_and(|id| id != ids::HOME) {
            return Said::error(404, 9, "Device not found");
        }
        let modules: Vec<_> = self.modules.values().map(|module| &module.data).collect();
        let person = |person: &Map<String, Value>| {
            let kept = ["id", "pseudo", "url"].map(|name| (name.to_string(), person[name].clone()));
            Value::Object(kept.into_iter().collect())
        };
        let persons: Vec<Value> = self.persons.iter().map(person).collect();
        let home = json!({ "id": ids::HOME, "name": "Orchard Lane 3", "timezone": "Europe/Paris",
            "country": "FR", "coordinates": [2.35, 48.85], "altitude": 35,
            "modules": modules, "persons": persons, "rooms": self.rooms });
        let user = json!({ "id": ids::USER, "email": "resident@example.org", "language": "fr" });
        ok(json!({ "homes": [home], "user": user }), now)
    }

    /// What cannot be reached is missing and named as an error, inside 200.
    fn homestatus(&self, asked: &Asked, now: Timestamp) -> Said {
        if asked.get("home_id") != Some(ids::HOME) {
            return Said::error(404, 9, "Device not found");
        }
        let (reachable, lost): (Vec<_>, Vec<_>) =
            self.modules.values().partition(|module| module.reachable);
        let modules: Vec<_> = reachable.iter().map(|module| &module.status).collect();
        let person = |person: &Map<String, Value>| {
            json!({ "id": person["id"], "last_seen": person["last_seen"],
                "out_of_sight": person["out_of_sight"] })
        };
        let persons: Vec<Value> = self.persons.iter().map(person).collect();
        let mut body =
            json!({ "home": { "id": ids::HOME, "modules": modules, "persons": persons } });
        if !lost.is_empty() {
            let error = |id: &Value| json!({ "code": 6, "id": id });
            let errors: Vec<Value> = lost.iter().map(|module| error(&module.data["id"])).collect();
            body["errors"] = errors.into();
        }
        ok(body, now)
    }

    fn getevents(&self, asked: &Asked, now: Timestamp) -> Said {
        if asked.get("home_id") != Some(ids::HOME) {
            return Said::error(404, 9, "Device not found");
        }
        let size = match asked.get("size").map(str::parse::<usize>) {
            None => PAGE,
            Some(Ok(size)) if (1..=PAGE).contains(&size) => size,
            Some(_) => return Said::error(400, 21, "Invalid size parameter"),
        };
        let skip = match asked.get("event_id") {
            None => 0,
            Some(id) => match self.events.iter().position(|event| event["id"] == id) {
                Some(at) => at + 1,
                None => return Said::error(400, 21, "Invalid event_id parameter"),
            },
        };
        let fits = |event: &&Map<String, Value>| {
            let is = |asked: Option<&str>, names: [&str; 2]| {
                asked.is_none_or(|id| names.iter().any(|n| event.get(*n) == Some(&json!(id))))
            };
            is(asked.get("person_id"), ["person_id", "person_id"])
                && is(asked.get("device_id"), ["module_id", "camera_id"])
        };
        let events: Vec<_> = self.events.iter().skip(skip).filter(fits).take(size).collect();
        ok(json!({ "home": { "id": ids::HOME, "events": events } }), now)
    }

    fn add(&mut self, url: Option<&str>, now: Timestamp) -> Said {
        let is_url = |url: &&str| {
            let parsed = url::Url::parse(url);
            parsed.is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
        };
        let Some(url) = url.filter(is_url) else {
            return Said::error(400, 21, "Invalid url parameter (21)");
        };
        self.register(url);
        fine(now)
    }

    fn drop_webhook(&mut self, now: Timestamp) -> Said {
        match self.webhook.take() {
            Some(_) => fine(now),
            None => Said::error(406, 7, "Nothing to drop"),
        }
    }

    /// The newer interface of registrations.
    fn newer(&mut self, asked: &Asked, now: Timestamp) -> Said {
        match (asked.method.as_str(), &self.webhook) {
            ("GET", current) => {
                let list: Vec<Value> = current.iter().map(|url| json!({ "url": url })).collect();
                ok(json!({ "webhooks": list }), now)
            }
            ("POST", Some(_)) => Said::error(409, 7, "A webhook is registered already"),
            ("POST", None) => self.add(asked.json["url"].as_str(), now),
            ("DELETE", _) => self.drop_webhook(now),
            _ => Said::error(405, 31, "Method not found"),
        }
    }

    fn setstate(&mut self, json: &Value, now: Timestamp) -> Said {
        if json["home"]["id"] != ids::HOME {
            return Said::error(400, 21, "Invalid home");
        }
        let mut errors = Vec::new();
        for wanted in json["home"]["modules"].as_array().into_iter().flatten() {
            match self.set_one(wanted) {
                Ok(()) => {}
                Err(Wrong::Argument(what)) => return Said::error(400, 21, what),
                Err(Wrong::Inside(code)) => {
                    errors.push(json!({ "code": code, "id": wanted["id"] }))
                }
            }
        }
        if errors.is_empty() { fine(now) } else { ok(json!({ "errors": errors }), now) }
    }

    fn set_one(&mut self, wanted: &Value) -> Result<(), Wrong> {
        let found = wanted["id"].as_str().and_then(|id| self.modules.get_mut(id));
        let Some(module) = found else { return Err(Wrong::Inside(9)) };
        let kind = module.data["type"].as_str().unwrap_or_default();
        let is_bridged = !module.data.contains_key("bridge")
            || wanted.get("bridge").is_some_and(|bridge| *bridge == module.data["bridge"]);
        let named = wanted.as_object().into_iter().flatten();
        for (name, value) in named.filter(|(name, _)| !["id", "bridge"].contains(&name.as_str())) {
            let may = match (kind, name.as_str()) {
                ("NOC", "floodlight") => ["on", "off", "auto"].iter().any(|word| value == word),
                ("NACamera" | "NOC" | "NDB", "monitoring") => value == "on" || value == "off",
                ("BNDL", "lock") => value == false && is_bridged,
                ("BNSL", "on") => value.is_boolean() && is_bridged,
                _ => false,
            };
            if !may {
                return Err(Wrong::Argument("Invalid state"));
            }
            if !module.reachable {
                return Err(Wrong::Inside(6));
            }
            match name.as_str() {
                // Momentary: it is over at once, and was never to be read.
                "lock" => {}
                "on" if module.hidden.get("on") == Some(value) => return Err(Wrong::Inside(23)),
                "on" => drop(module.hidden.insert("on".into(), value.clone())),
                _ => drop(module.status.insert(name.clone(), value.clone())),
            }
        }
        Ok(())
    }

    fn away(&mut self, asked: &Asked, now: Timestamp) -> Said {
        let wanted = asked.get("person_id").map(|id| vec![id.to_string()]);
        self.put_persons(asked, wanted, true, now)
    }

    fn home(&mut self, asked: &Asked, now: Timestamp) -> Said {
        let list = asked.get("person_ids").map(serde_json::from_str::<Vec<String>>);
        match list {
            Some(Ok(ids)) => self.put_persons(asked, Some(ids), false, now),
            _ => Said::error(400, 21, "Invalid person_ids"),
        }
    }

    /// None for all of them.
    fn put_persons(
        &mut self,
        asked: &Asked,
        wanted: Option<Vec<String>>,
        away: bool,
        now: Timestamp,
    ) -> Said {
        let known = |id: &String| self.persons.iter().any(|person| person["id"] == id.as_str());
        if asked.get("home_id") != Some(ids::HOME) || !wanted.iter().flatten().all(known) {
            return Said::error(400, 21, "Invalid home or person");
        }
        for person in &mut self.persons {
            let is_meant = |ids: &Vec<String>| ids.iter().any(|id| person["id"] == id.as_str());
            if wanted.as_ref().is_none_or(is_meant) {
                person.insert("out_of_sight".into(), away.into());
            }
        }
        fine(now)
    }
}

enum Wrong {
    /// Refused as a whole.
    Argument(&'static str),
    /// Named inside 200.
    Inside(i64),
}

fn ok(body: Value, now: Timestamp) -> Said {
    let time = now.as_second();
    let said = json!({ "status": "ok", "body": body, "time_exec": 0.04, "time_server": time });
    Said::json(200, &said)
}

fn fine(now: Timestamp) -> Said {
    let said = json!({ "status": "ok", "time_exec": 0.02, "time_server": now.as_second() });
    Said::json(200, &said)
}
