//! The simulator's truth: objects, folders and the log, what commands do to them, and the messages
//! that follow. Pure; who hears what is the server's business.

use std::collections::{BTreeMap, VecDeque};

use jiff::civil::DateTime;
use serde_json::{Map, Value, json};

use super::house;
use crate::systems::indigo::commands::{COMMANDS, feed_of};
use crate::systems::indigo::diff::{diff, to_json};
use crate::systems::indigo::patch::same;
use crate::systems::indigo::{Feed, wire};

/// What the log feed repeats to a new listener.
const LOG_REPEATED: usize = 25;

/// What is true.
#[derive(Debug)]
pub struct World {
    objects: BTreeMap<Feed, BTreeMap<i64, Value>>,
    folders: BTreeMap<Feed, BTreeMap<i64, Value>>,
    log: VecDeque<Value>,
    /// The server's clock, in its own zone.
    pub now: DateTime,
    ticks: i64,
}

/// What listeners of a feed hear.
pub type Word = (Feed, Value);

// === impl World ===

impl World {
    /// A furnished house.
    pub fn new(now: DateTime) -> World {
        let (objects, folders) = house::furnish();
        World { objects, folders, log: VecDeque::new(), now, ticks: 0 }
    }

    /// All objects of a feed.
    pub fn objects(&self, feed: Feed) -> BTreeMap<i64, Value> {
        self.objects.get(&feed).cloned().unwrap_or_default()
    }

    /// Changes an object; the patch that follows, if it differs for dictdiffer.
    pub fn change(&mut self, feed: Feed, id: i64, how: impl FnOnce(&mut Value)) -> Option<Word> {
        let stamp = self.stamp();
        let object = self.objects.get_mut(&feed)?.get_mut(&id)?;
        let old = object.clone();
        how(object);
        if *object != old && object.get("lastChanged").is_some() {
            house::set(object, &["lastChanged"], stamp.as_str().into());
            house::set(object, &["lastSuccessfulComm"], stamp.into());
        }
        let patch = diff(&old, object, same);
        let message = json!({
            "message": "patch", "objectType": feed.object_type(), "objectId": id,
            "patch": to_json(&patch),
        });
        (!patch.0.is_empty()).then_some((feed, message))
    }

    /// Changes an object without telling anybody.
    pub fn drift(&mut self, feed: Feed, id: i64, how: impl FnOnce(&mut Value)) {
        if let Some(object) = self.objects.get_mut(&feed).and_then(|all| all.get_mut(&id)) {
            how(object);
        }
    }

    /// A new object.
    pub fn add(&mut self, feed: Feed, object: Value) -> Option<Word> {
        let id = object.get("id")?.as_i64()?;
        self.objects.entry(feed).or_default().insert(id, object.clone());
        let kind = feed.object_type();
        Some((feed, json!({ "message": "add", "objectType": kind, "objectDict": object })))
    }

    /// An object is gone.
    pub fn delete(&mut self, feed: Feed, id: i64) -> Option<Word> {
        self.objects.get_mut(&feed)?.remove(&id)?;
        let kind = feed.object_type();
        Some((feed, json!({ "message": "delete", "objectType": kind, "objectId": id })))
    }

    /// A new folder; nobody is told.
    pub fn add_folder(&mut self, feed: Feed, id: i64, name: &str) {
        let folder =
            json!({ "id": id, "class": "indigo.Folder", "name": name, "remoteDisplay": true });
        self.folders.entry(feed).or_default().insert(id, folder);
    }

    /// A line in the log.
    pub fn log(&mut self, kind: &str, level: i64, message: &str) -> Word {
        // A time of its own for every line.
        self.ticks += 1;
        let at = format!("{}.{:06}", self.stamp(), self.ticks % 1_000_000);
        let entry =
            json!({ "message": message, "timeStamp": at, "typeStr": kind, "typeVal": level });
        let word =
            json!({ "message": "add", "objectType": "indigo.LogEvent", "objectDict": entry });
        if self.log.len() >= LOG_REPEATED {
            self.log.pop_front();
        }
        self.log.push_back(word.clone());
        (Feed::Log, word)
    }

    /// What a new listener of the log hears.
    pub fn last_log(&self) -> impl Iterator<Item = &Value> {
        self.log.iter()
    }

    /// The answer to a refresh request.
    pub fn refresh(&self, feed: Feed, ask: &Map<String, Value>) -> Value {
        let id = ask.get("id").cloned().unwrap_or_default();
        let kind = ask.get("objectType").and_then(Value::as_str).unwrap_or_default();
        let from = if kind.ends_with(".Folder") { &self.folders } else { &self.objects };
        let all = from.get(&feed).cloned().unwrap_or_default();
        let one = ask.get("objectId").and_then(wire::number);
        match one {
            None => {
                let list: Vec<Value> = all.into_values().collect();
                json!({ "id": id, "message": "refresh", "objectType": kind, "list": list })
            }
            Some(object) => match all.get(&object) {
                Some(object) => {
                    json!({ "id": id, "message": "refresh", "objectType": kind, "objectDict": object })
                }
                None => json!({ "id": id, "error": format!("no object {object}") }),
            },
        }
    }

    /// Does what a command asks for: what is heard of it, or the error.
    pub fn command(&mut self, message: &Map<String, Value>) -> Result<Vec<Word>, Value> {
        let named = message.get("message").and_then(Value::as_str).unwrap_or_default();
        let call = named.strip_prefix("indigo.").unwrap_or(named);
        let call = if call == "server.log" { "log" } else { call };
        if !COMMANDS.iter().any(|spec| spec.name == call) {
            return Err(complain(message, "message", "unknown message"));
        }
        if call == "log" {
            let text = message.get("messageText").and_then(Value::as_str);
            let text = text.ok_or_else(|| complain(message, "messageText", "required"))?;
            return Ok(vec![self.log("Script", 0, text)]);
        }
        let Some(feed) = feed_of(call) else { return Ok(Vec::new()) };
        let id = message.get("objectId").and_then(Value::as_i64);
        let is_there = |id: &i64| self.objects.get(&feed).is_some_and(|all| all.contains_key(id));
        let id = id.filter(is_there).ok_or_else(|| complain(message, "objectId", "not found"))?;
        let none = Map::new();
        let given = message.get("parameters").and_then(Value::as_object).unwrap_or(&none);
        let value = given.get("value").cloned().unwrap_or_default();
        if call == "variable.updateValue" && !value.is_string() {
            return Err(complain(message, "value", "variable values must be strings"));
        }
        let mut words: Vec<Word> =
            self.change(feed, id, |object| act(object, call, given, value)).into_iter().collect();
        if call.ends_with(".execute") {
            words.push(self.log("Action Group", 0, &format!("executed {id}")));
        }
        Ok(words)
    }

    fn stamp(&self) -> String {
        self.now.round(jiff::Unit::Second).unwrap_or(self.now).to_string()
    }
}

/// What a command does to its object.
fn act(object: &mut Value, call: &str, given: &Map<String, Value>, value: Value) {
    let on = object.get("onState").and_then(Value::as_bool).unwrap_or(false);
    let brightness = object.get("brightness").and_then(Value::as_i64).unwrap_or(0);
    let by = given.get("by").and_then(Value::as_i64).unwrap_or(10);
    match call {
        "device.turnOn" | "device.lock" => house::turn(object, true),
        "device.turnOff" | "device.unlock" => house::turn(object, false),
        "device.toggle" => house::turn(object, !on),
        "sensor.setOnState" => house::turn(object, value.as_bool().unwrap_or(false)),
        "dimmer.setBrightness" => house::dim(object, value.as_i64().unwrap_or(0)),
        "dimmer.brighten" => house::dim(object, (brightness + by).min(100)),
        "dimmer.dim" => house::dim(object, (brightness - by).max(0)),
        "variable.updateValue" => house::set(object, &["value"], value),
        "thermostat.setHeatSetpoint" => house::set(object, &["heatSetpoint"], value),
        "thermostat.setCoolSetpoint" => house::set(object, &["coolSetpoint"], value),
        "thermostat.setHvacMode" => house::set(object, &["hvacMode"], value),
        "thermostat.setFanMode" => house::set(object, &["fanMode"], value),
        "device.enable" | "schedule.enable" | "trigger.enable" => {
            house::set(object, &["enabled"], value);
        }
        _ => {}
    }
}

fn complain(message: &Map<String, Value>, field: &str, what: &str) -> Value {
    let id = message.get("id").cloned().unwrap_or_default();
    let shown = id.as_str().unwrap_or("null");
    json!({
        "error": format!("invalid command payload received, id: {shown}"), "id": id,
        "validationErrors": { field: what },
    })
}
