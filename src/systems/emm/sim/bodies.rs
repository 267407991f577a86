//! How a simulated EMM prints: JSON, or what the vendor's document prints in its place.

use serde_json::{Map, Value};

/// How `/changes` is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// As JSON.
    #[default]
    Valid,
    /// Without commas between notifications.
    NoCommas,
    /// As the vendor's sample: without commas, and the last two closers in the wrong order.
    AsPrinted,
}

/// The order in which the vendor's code writes an alarm.
const WRITTEN: [&str; 20] = [
    "id",
    "alarm_id",
    "cleared",
    "active_time",
    "active_duration",
    "msg_id",
    "reset_msg_id",
    "source_gateway_id",
    "source_gateway_name",
    "name",
    "identifier",
    "recipient_id",
    "recipient_name",
    "active_text",
    "reset_text",
    "priority",
    "send_resets",
    "total_messages",
    "total_messages_sent",
    "total_messages_read",
];

/// What `/changes` answers, empty ones in all the forms that an empty one may have.
pub(super) fn changes(list: &[Value], form: Form, literal_alarms: bool, turn: usize) -> String {
    if list.is_empty() {
        return ["{}", "{\"notifications\":[]}", "null", "", "[]"][turn % 5].to_string();
    }
    let printed: Vec<String> = list.iter().map(|entry| one(entry, literal_alarms)).collect();
    match form {
        Form::Valid => format!("{{\"notifications\":[{}]}}", printed.join(",")),
        Form::NoCommas => format!("{{\"notifications\":[{}]}}", printed.join(" ")),
        Form::AsPrinted => {
            format!("{{\n  \"notifications\": [{}\n}}\n]\n", printed.join(" "))
        }
    }
}

fn one(entry: &Value, literal_alarms: bool) -> String {
    let is_alarm = entry["type"] == "active_alarm";
    match entry["notification"].as_object() {
        Some(fields) if is_alarm && literal_alarms => {
            let alarm = literal(fields);
            format!("{{\"type\":\"active_alarm\",\"notification\":{alarm}}}")
        }
        _ => entry.to_string(),
    }
}

/// As a writer prints that puts `:` behind every first and `,` behind every second value, and is
/// given the recipient without its key.
fn literal(fields: &Map<String, Value>) -> String {
    let mut values = Vec::new();
    for name in WRITTEN {
        if name != "recipient_id" {
            values.push(Value::from(name).to_string());
        }
        values.push(fields.get(name).cloned().unwrap_or(Value::Null).to_string());
    }
    let mut text = String::from("{");
    for (n, value) in values.iter().enumerate() {
        if n > 0 {
            text.push(if n % 2 == 1 { ':' } else { ',' });
        }
        text.push_str(value);
    }
    text.push('}');
    text
}

/// A list with the commas missing that are missing in the document, and one too many.
pub(super) fn sloppy(list: &str) -> String {
    let mut text = list.to_string();
    for key in ["\"current_cycle\"", "\"subevents\"", "\"thread_id\""] {
        text = text.replace(&format!(",{key}"), &format!(" {key}"));
    }
    text.replace("]}", ",]}").replace("[,]", "[]")
}
