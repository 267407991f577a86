//! Indigo's messages: reading what the feeds and `/v2/api/command` say, tolerantly, and writing
//! refresh requests. Pure; any bytes may come in.

use serde_json::{Map, Value, json};

use super::Feed;
use crate::systems::json::{self, Mends};

/// The most characters of an error text that goes on into replies.
const ERROR_CHARS_MAX: usize = 500;

/// One message from a feed.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// All objects, or all folders, of a kind.
    All {
        /// Our id of the request.
        id: Option<String>,
        /// Whether these are folders.
        folders: bool,
        /// As sent.
        list: Vec<Value>,
    },
    /// One object that we asked for.
    One {
        /// Our id of the request.
        id: Option<String>,
        /// As sent.
        object: Value,
    },
    /// A new object, or one that became visible.
    Added(Value),
    /// An object changed.
    Changed {
        /// Which; the documentation's samples leave it out for some kinds.
        object: Option<i64>,
        /// As sent.
        patch: Value,
    },
    /// An object is gone, or hidden.
    Deleted(Option<i64>),
    /// What we sent was refused.
    Failed {
        /// Our id of it.
        id: Option<String>,
        /// What Indigo says, with the fields it complains about.
        why: String,
    },
}

/// Why a frame is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Odd {
    /// No JSON.
    #[error("no JSON: line {line}, column {column}")]
    NotJson {
        /// Where it stops to be JSON.
        line: usize,
        /// Where it stops to be JSON.
        column: usize,
    },
    /// JSON, and no object.
    #[error("JSON, but no object")]
    NotObject,
    /// A `message` that nobody documented.
    #[error("an unknown message `{0}`")]
    Unknown(String),
    /// It belongs to another feed.
    #[error("a message about `{0}`, which has another feed")]
    OtherFeed(String),
    /// A message without what makes it one.
    #[error("a message without its {0}")]
    Lacks(&'static str),
}

impl Feed {
    /// What messages of this feed are about.
    pub fn object_type(self) -> &'static str {
        match self {
            Feed::Device => "indigo.Device",
            Feed::Variable => "indigo.Variable",
            Feed::Action => "indigo.ActionGroup",
            Feed::Schedule => "indigo.Schedule",
            Feed::Trigger => "indigo.Trigger",
            Feed::Page => "indigo.ControlPage",
            Feed::Log => "indigo.LogEvent",
        }
    }
}

/// Reads one frame of a feed, and says what was mended in it: Python writes `NaN`, and halves of
/// characters, which are no JSON.
pub fn read(feed: Feed, text: &str) -> (Result<Message, Odd>, Mends) {
    match json::value(text.as_bytes()) {
        Ok((value, mends)) => (message(feed, value), mends),
        Err(error) => {
            let odd = Odd::NotJson { line: error.line(), column: error.column() };
            (Err(odd), Mends::default())
        }
    }
}

fn message(feed: Feed, value: Value) -> Result<Message, Odd> {
    let Value::Object(mut fields) = value else { return Err(Odd::NotObject) };
    let kind = fields.get("message").and_then(Value::as_str).unwrap_or_default().to_string();
    let known = ["refresh", "add", "patch", "delete"].contains(&kind.as_str());
    if fields.contains_key("error") && !known {
        return Ok(Message::Failed { id: id(&fields), why: complaint(&fields) });
    }
    let folders = about(feed, &fields)?;
    let object = fields.get("objectId").and_then(number);
    match kind.as_str() {
        "refresh" => match (fields.remove("list"), fields.remove("objectDict")) {
            (Some(Value::Array(list)), _) => Ok(Message::All { id: id(&fields), folders, list }),
            (_, Some(object)) => Ok(Message::One { id: id(&fields), object }),
            _ => Err(Odd::Lacks("list")),
        },
        "add" => fields.remove("objectDict").map(Message::Added).ok_or(Odd::Lacks("objectDict")),
        "patch" => {
            let patch = fields.remove("patch").unwrap_or_default();
            Ok(Message::Changed { object, patch })
        }
        "delete" => Ok(Message::Deleted(object)),
        _ => Err(Odd::Unknown(kind.chars().take(64).collect())),
    }
}

/// Whether a message is about folders; an error if it is about another feed's objects. The
/// documentation does not show the types of schedules and triggers, so others are let through.
fn about(feed: Feed, fields: &Map<String, Value>) -> Result<bool, Odd> {
    let Some(named) = fields.get("objectType").and_then(Value::as_str) else { return Ok(false) };
    let (plain, folders) = match named.strip_suffix(".Folder") {
        Some(plain) => (plain, true),
        None => (named, false),
    };
    let other = Feed::ALL.into_iter().any(|f| f != feed && f.object_type() == plain);
    if other { Err(Odd::OtherFeed(plain.to_string())) } else { Ok(folders) }
}

/// An id in a message; Indigo passes through whatever it was given.
fn id(fields: &Map<String, Value>) -> Option<String> {
    fields.get("id").and_then(Value::as_str).map(String::from)
}

/// An object's number, also where it is a text.
pub fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// An Indigo object's own id.
pub fn id_of(object: &Value) -> Option<i64> {
    object.as_object()?.get("id").and_then(number)
}

/// What an error message complains about, in words.
pub fn complaint(fields: &Map<String, Value>) -> String {
    let mut why = plain(fields.get("error").unwrap_or(&Value::Null));
    if let Some(Value::Object(wrong)) = fields.get("validationErrors") {
        for (field, what) in wrong {
            why = format!("{why}; {field}: {}", plain(what));
        }
    }
    why.chars().take(ERROR_CHARS_MAX).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// Asks for all objects of a feed, all its folders, or one object.
pub fn refresh(feed: Feed, id: &str, what: Refresh) -> String {
    let kind = feed.object_type();
    let message = |kind: &str| json!({ "id": id, "message": "refresh", "objectType": kind });
    let message = match what {
        Refresh::All => message(kind),
        Refresh::Folders => message(&format!("{kind}.Folder")),
        Refresh::One(object) => {
            let mut message = message(kind);
            message["objectId"] = object.into();
            message
        }
    };
    message.to_string()
}

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Every object.
    All,
    /// Every folder.
    Folders,
    /// This object.
    One(i64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(feed: Feed, text: &str) -> Result<Message, Odd> {
        super::read(feed, text).0
    }

    #[test]
    fn messages_are_told_apart() {
        let text = r#"{"message":"delete","objectType":"indigo.Device","objectId":"7"}"#;
        assert_eq!(read(Feed::Device, text), Ok(Message::Deleted(Some(7))));
        let other = Err(Odd::OtherFeed("indigo.Device".into()));
        assert_eq!(read(Feed::Variable, text), other);
        let text = r#"{"error":"no","id":"p-1","validationErrors":{"value":"must be a string"}}"#;
        let why = "no; value: must be a string".to_string();
        let failed = Message::Failed { id: Some("p-1".into()), why };
        assert_eq!(read(Feed::Device, text), Ok(failed));
        let text = r#"{"message":"patch","objectType":"indigo.Variable","patch":{}}"#;
        let changed = Message::Changed { object: None, patch: json!({}) };
        assert_eq!(read(Feed::Variable, text), Ok(changed));
        let text = r#"{"message":"refresh","objectType":"indigo.Page.Folder","list":[]}"#;
        let all = Message::All { id: None, folders: true, list: Vec::new() };
        assert_eq!(read(Feed::Page, text), Ok(all));
    }

    #[test]
    fn oddities_are_named() {
        assert_eq!(read(Feed::Device, "[]"), Err(Odd::NotObject));
        assert_eq!(read(Feed::Device, r#"{"message":"x"}"#), Err(Odd::Unknown("x".into())));
        assert!(matches!(read(Feed::Device, "{"), Err(Odd::NotJson { .. })));
        let text = r#"{"message":"refresh","objectType":"indigo.Device"}"#;
        assert_eq!(read(Feed::Device, text), Err(Odd::Lacks("list")));
    }

    #[test]
    fn pythons_not_a_number_is_null_outside_texts() {
        let text =
            r#"{"message":"add","objectDict":{"a":NaN,"b":[-Infinity,Infinity],"c":"NaN \" NaN"}}"#;
        let object = json!({"a": null, "b": [null, null], "c": "NaN \" NaN"});
        assert_eq!(read(Feed::Device, text), Ok(Message::Added(object)));
        assert!(read(Feed::Device, "{NaN").is_err());
        let text = r#"{"message":"add","objectDict":{"a":"\ud83d","b":1e400}}"#;
        let object = json!({"a": "\u{fffd}", "b": null});
        let (message, mends) = super::read(Feed::Device, text);
        assert_eq!(
            (message, mends.to_string()),
            (Ok(Message::Added(object)), "texts, numbers".into())
        );
    }

    #[test]
    fn requests_look_as_documented() {
        let text = refresh(Feed::Action, "p-1", Refresh::One(5));
        let expect = json!({"id": "p-1", "message": "refresh", "objectType": "indigo.ActionGroup", "objectId": 5});
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expect);
    }
}
