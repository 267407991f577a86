//! The vendor's objects made into ours: notifications from `/changes`, messages of the inbox,
//! alarms of the list of active ones. The two forms of one thing become the same fields. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::{self, Status};

/// One entry of `/changes`.
#[derive(Debug, Clone, PartialEq)]
pub enum Notification {
    /// `user_event`.
    Message(Message),
    /// `active_alarm`, raised or cleared.
    Alarm(Alarm),
    /// A type that nobody has documented, and its fields.
    Unknown {
        /// What the EMM calls it.
        kind: String,
        /// As sent.
        fields: Map<String, Value>,
    },
    /// An entry without what it needs to be one of these.
    Broken {
        /// What is missing.
        why: &'static str,
    },
}

/// A message to this user.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its number in the inbox: what `read`, `accept` and the others take.
    pub id: i64,
    /// The message's number in the whole system.
    pub message_id: Option<i64>,
    /// When it was queued.
    pub queued: Option<Timestamp>,
    /// How far it is; only the inbox says so.
    pub status: Option<Status>,
    /// What an event about it carries.
    pub data: Map<String, Value>,
}

impl Message {
    /// Whether somebody has looked at it.
    pub fn is_read(&self) -> bool {
        self.status.as_ref().is_some_and(Status::is_read)
    }
}

/// An alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// Its number while it is active: what `cancel_alarm` takes.
    pub id: i64,
    /// The message that told of it; the list does not say.
    pub msg_id: Option<i64>,
    /// Since when, in seconds since 1970 by the EMM's clock; the list does not say.
    pub active_time: Option<i64>,
    /// For how many seconds.
    pub duration: Option<i64>,
    /// Whether it is over.
    pub is_cleared: bool,
    /// What an event about it carries.
    pub data: Map<String, Value>,
}

/// The entries of a `/changes` body and, beside each, its JSON. None: it is no such body.
pub fn notifications(body: Value) -> Option<Vec<(Notification, Value)>> {
    let list = match body {
        Value::Null => Vec::new(),
        Value::Array(list) => list,
        Value::Object(fields) if fields.is_empty() => Vec::new(),
        Value::Object(mut fields) => match fields.remove("notifications") {
            Some(Value::Array(list)) => list,
            Some(Value::Null) => Vec::new(),
            Some(one @ Value::Object(_)) => vec![one],
            None if fields.contains_key("type") => vec![Value::Object(fields)],
            _ => return None,
        },
        _ => return None,
    };
    Some(list.into_iter().map(|entry| (notification(&entry), entry)).collect())
}

fn notification(entry: &Value) -> Notification {
    let Some(kind) = entry.get("type").and_then(Value::as_str) else {
        return Notification::Broken { why: "it has no `type`" };
    };
    let fields = match entry.get("notification") {
        Some(Value::Object(fields)) => fields.clone(),
        Some(other) => Map::from_iter([("notification".to_string(), other.clone())]),
        None => Map::new(),
    };
    match kind.trim() {
        "user_event" => message(fields)
            .map_or(Notification::Broken { why: "a message without id" }, Notification::Message),
        "active_alarm" => alarm(fields)
            .map_or(Notification::Broken { why: "an alarm without id" }, Notification::Alarm),
        other => Notification::Unknown { kind: other.to_string(), fields },
    }
}

/// A message, from either form.
pub fn message(mut fields: Map<String, Value>) -> Option<Message> {
    rename(&mut fields, &[("current_cycle", "escalation_cycle")]);
    let id = fields.get("id").and_then(wire::int)?;
    let queued = fields.get("queue_time").and_then(wire::time);
    let status = fields.get("status").and_then(Status::read);
    if let Some(status) = &status {
        fields.insert("status_name".into(), status.name().into());
    }
    fields.entry("message").or_insert_with(|| "".into());
    fields.entry("priority").or_insert(Value::Bool(false));
    const INTS: [&str; 7] = [
        "id",
        "message_id",
        "escalation_cycle",
        "escalation_step",
        "thread_id",
        "from_user_id",
        "from_gateway_id",
    ];
    normal(&mut fields, &INTS, &["priority"], &["queue_time", "status_time"], &["message"]);
    let message_id = fields.get("message_id").and_then(Value::as_i64);
    Some(Message { id, message_id, queued, status, data: fields })
}

/// An alarm, from either form.
pub fn alarm(mut fields: Map<String, Value>) -> Option<Alarm> {
    const LISTED: [(&str, &str); 5] = [
        ("alarm_name", "name"),
        ("activation_text", "active_text"),
        ("duration", "active_duration"),
        ("recipient", "recipient_id"),
        ("message_id", "msg_id"),
    ];
    rename(&mut fields, &LISTED);
    let id = fields.get("id").and_then(wire::int)?;
    let active_time = fields.get("active_time").and_then(wire::epoch);
    if let Some(status) = fields.get("status").and_then(Status::read) {
        fields.insert("status_name".into(), status.name().into());
    }
    for flag in ["priority", "cleared"] {
        fields.entry(flag).or_insert(Value::Bool(false));
    }
    const INTS: [&str; 10] = [
        "id",
        "alarm_id",
        "active_duration",
        "msg_id",
        "reset_msg_id",
        "source_gateway_id",
        "recipient_id",
        "total_messages",
        "total_messages_sent",
        "total_messages_read",
    ];
    const TEXTS: [&str; 6] = [
        "name",
        "active_text",
        "reset_text",
        "identifier",
        "recipient_name",
        "source_gateway_name",
    ];
    normal(&mut fields, &INTS, &["priority", "cleared", "send_resets"], &["active_time"], &TEXTS);
    fields.retain(|name, value| {
        let is_blank = value.as_str().is_some_and(|text| text.trim().is_empty());
        !(is_blank && TEXTS.contains(&name.as_str()))
    });
    Some(Alarm {
        id,
        // 0 means that no message was sent.
        msg_id: fields.get("msg_id").and_then(Value::as_i64).filter(|id| *id > 0),
        active_time,
        duration: fields.get("active_duration").and_then(Value::as_i64).filter(|s| *s >= 0),
        is_cleared: fields.get("cleared") == Some(&Value::Bool(true)),
        data: fields,
    })
}

/// An alarm's fields with a name and texts in any case, so that a rule can always say something:
/// a missing text is the name, a missing name the number.
pub fn filled(mut data: Map<String, Value>) -> Map<String, Value> {
    let id = data.get("id").and_then(wire::text).unwrap_or_default();
    let name = data.entry("name").or_insert_with(|| id.into()).clone();
    for text in ["active_text", "reset_text"] {
        data.entry(text).or_insert_with(|| name.clone());
    }
    data
}

fn rename(fields: &mut Map<String, Value>, names: &[(&str, &str)]) {
    for (theirs, ours) in names {
        if !fields.contains_key(*ours)
            && let Some(value) = fields.remove(*theirs)
        {
            fields.insert((*ours).to_string(), value);
        }
    }
}

/// Gives fields their types; what is of another type stays as it came.
fn normal(
    fields: &mut Map<String, Value>,
    ints: &[&str],
    flags: &[&str],
    times: &[&str],
    texts: &[&str],
) {
    for (name, value) in fields.iter_mut() {
        let name = name.as_str();
        let typed = if ints.contains(&name) {
            wire::int(value).map(Value::from)
        } else if flags.contains(&name) {
            wire::flag(value).map(Value::from)
        } else if times.contains(&name) {
            wire::time(value).map(|at| at.to_string().into())
        } else if texts.contains(&name) {
            wire::text(value).map(Value::from)
        } else {
            None
        };
        if let Some(typed) = typed {
            *value = typed;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn both_forms_of_an_alarm_become_the_same_fields() {
        let listed = alarm(object(json!({
            "id": "3", "alarm_name": "Lift", "activation_text": "stuck", "duration": 12,
            "recipient": 4, "priority": 1, "status": "in progress"
        })));
        let listed = listed.unwrap();
        assert_eq!((listed.id, listed.duration, listed.is_cleared), (3, Some(12), false));
        assert_eq!(
            Value::Object(listed.data),
            json!({ "id": 3, "name": "Lift", "active_text": "stuck",
                "active_duration": 12, "recipient_id": 4, "priority": true, "cleared": false,
                "status": "in progress", "status_name": "in_progress" })
        );
        let live = alarm(object(json!({
            "id": 3, "cleared": "1", "active_time": 1_664_924_064_000_i64, "msg_id": 0,
            "name": 7, "new_field": [1]
        })));
        let live = live.unwrap();
        assert_eq!((live.active_time, live.msg_id), (Some(1_664_924_064), None));
        assert!(live.is_cleared);
        assert_eq!(live.data["active_time"], "2022-10-04T22:54:24Z");
        assert_eq!((&live.data["name"], &live.data["new_field"]), (&json!("7"), &json!([1])));
    }

    #[test]
    fn there_is_always_something_to_say() {
        let data = filled(alarm(object(json!({ "id": 3, "name": " " }))).unwrap().data);
        assert_eq!((&data["name"], &data["active_text"]), (&json!("3"), &json!("3")));
        let data = filled(object(json!({ "id": 3, "name": "Lift", "reset_text": "runs" })));
        assert_eq!((&data["active_text"], &data["reset_text"]), (&json!("Lift"), &json!("runs")));
    }

    #[test]
    fn a_message_reads_from_the_inbox_too() {
        let read = message(object(json!({
            "id": 1, "message_id": 2, "queue_time": 1_674_146_027, "message": "x",
            "status": 5, "current_cycle": 1, "priority": 1
        })));
        let read = read.unwrap();
        assert_eq!(read.data["escalation_cycle"], 1);
        assert_eq!(read.data["status_name"], "read");
        assert!(read.status.unwrap().is_read());
    }

    #[test]
    fn every_shape_of_a_body_is_a_list() {
        let count = |body: Value| notifications(body).map(|list| list.len());
        for empty in [json!(null), json!({}), json!([]), json!({ "notifications": null })] {
            assert_eq!(count(empty), Some(0));
        }
        let one = json!({ "type": "user_event", "notification": { "id": 1 } });
        assert_eq!(count(json!({ "notifications": one })), Some(1));
        assert_eq!(count(one.clone()), Some(1));
        assert_eq!(count(json!([one])), Some(1));
        assert_eq!(count(json!({ "changes": [] })), None);
        assert_eq!(count(json!(7)), None);
        let broken = notifications(json!([{ "type": "active_alarm", "notification": {} }, 1]));
        let broken = broken.unwrap();
        assert!(broken.iter().all(|(n, _)| matches!(n, Notification::Broken { .. })));
    }
}
