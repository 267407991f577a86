//! What happened, in one shape for every system: CloudEvents 1.0 attribute names, the trust that
//! the way in has earned, normalised fields, and the bytes exactly as they came.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The most rules an event may pass through by `emit` before the chain is cut.
/// Eight is far above any sensible chain and far below anything that could keep a core busy.
pub const HOPS_MAX: u8 = 8;

/// One fact that a system reported, or that Portero itself noticed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Stable per upstream fact: the same fact heard twice has the same id, so it is also the
    /// duplicate key.
    pub id: EventId,
    /// `<system>/<name>`, `hook/<name>` or `portero`.
    pub source: String,
    /// Dotted kind such as `netatmo.ring`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The device, person, variable or alarm it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it happened by the source's own clock, if the source says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// When Portero took it.
    pub received: Timestamp,
    /// The least trust of everything this event was made from.
    pub trust: Trust,
    /// What sets this event apart from a live one.
    #[serde(default, skip_serializing_if = "Marks::is_plain")]
    pub marks: Marks,
    /// How many `emit` steps lie between a system's event and this one; at most [`HOPS_MAX`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u8,
    /// Normalised fields, documented per type in `docs/events.md`.
    #[serde(default)]
    pub data: Map<String, Value>,
    /// The bytes as they came; empty for events that Portero made itself. Journalled beside the
    /// JSON, not inside it.
    #[serde(skip)]
    pub raw: Vec<u8>,
}

fn is_zero(hops: &u8) -> bool {
    *hops == 0
}

/// One event that a system heard, and how to tell whether it was heard before.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// The event; its id is its duplicate key.
    pub event: Event,
    /// A second duplicate key, for facts that carry nothing of their own: if either is known, the
    /// event was heard.
    pub also: Option<EventId>,
}

impl From<Event> for Heard {
    fn from(event: Event) -> Heard {
        Heard { event, also: None }
    }
}

/// What sets an event apart from a live one. A marked event never opens a door.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Marks {
    /// Fetched after a gap instead of heard as it happened.
    pub caught_up: bool,
    /// Run again from the journal.
    pub replayed: bool,
    /// Made by a test, a drill or the demo.
    pub test: bool,
}

impl Marks {
    /// Whether nothing is marked.
    pub fn is_plain(&self) -> bool {
        *self == Marks::default()
    }
}

/// How far a message can be vouched for; ordered, least first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Nobody vouches for it: an unsigned webhook that the config lets through.
    #[default]
    Unverified,
    /// The sender is proven, the moment is not: a good HMAC that covers no time.
    Authentic,
    /// Heard live on our own authenticated connection.
    Fresh,
    /// A signed-in person pressed a button.
    Human,
}

impl Trust {
    /// The word used in rules, config and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Trust::Unverified => "unverified",
            Trust::Authentic => "authentic",
            Trust::Fresh => "fresh",
            Trust::Human => "human",
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 128 bits that name one upstream fact, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub [u8; 16]);

impl EventId {
    /// Derives the id from what makes the fact unique. Each part is preceded by its length, so
    /// that `("ab", "c")` and `("a", "bc")` differ.
    pub fn derive<'a>(parts: impl IntoIterator<Item = &'a str>) -> EventId {
        EventId(digest128(parts))
    }
}

/// The first 128 bits of SHA-256 over length-prefixed parts. By ring, which takes half the time of
/// the sha2 crate on a processor without SHA instructions.
pub(crate) fn digest128<'a>(parts: impl IntoIterator<Item = &'a str>) -> [u8; 16] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let full = hash.finish();
    let mut id = [0; 16];
    id.copy_from_slice(&full.as_ref()[..16]);
    id
}

/// Implements the text form (lower-case hexadecimal) of a 16-byte id.
macro_rules! hex_id {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{self}")
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::event::IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err($crate::event::IdError);
                }
                let number = u128::from_str_radix(text, 16).map_err(|_| $crate::event::IdError)?;
                Ok($name(number.to_be_bytes()))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let mut digits = [0u8; 32];
                for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
                    pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
                    pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
                }
                to.serialize_str(std::str::from_utf8(&digits).expect("hex digits are ASCII"))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use hex_id;

hex_id!(EventId);

/// An id is 32 hexadecimal digits; this text is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hexadecimal digits")]
pub struct IdError;

impl Event {
    /// The event as one CloudEvents 1.0 JSON object (CloudEvents JSON format, section 3), with our
    /// own facts as extension attributes (`received`, `trust`, and marks where set). `raw` comes
    /// along as text where it is UTF-8 (`raw`), as base64 otherwise (`raw_base64`).
    pub fn to_cloud_event(&self) -> Value {
        use base64::Engine as _;
        let mut object = match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        };
        object.insert("specversion".into(), "1.0".into());
        object.insert("datacontenttype".into(), "application/json".into());
        let time = self.time.unwrap_or(self.received);
        object.insert("time".into(), time.to_string().into());
        if let Some(Value::Object(marks)) = object.remove("marks") {
            let set = marks.into_iter().filter(|(_, on)| *on == Value::Bool(true));
            object.extend(set.map(|(name, on)| (name.replace('_', ""), on)));
        }
        if !self.raw.is_empty() {
            match std::str::from_utf8(&self.raw) {
                Ok(text) => object.insert("raw".into(), text.into()),
                Err(_) => {
                    let text = base64::engine::general_purpose::STANDARD.encode(&self.raw);
                    object.insert("raw_base64".into(), text.into())
                }
            };
        }
        Value::Object(object)
    }
}

/// An event of our own, about ourselves; `unique` tells it from others of its type. We know that it
/// happened, but a forger, a cut cable or a flood can make it happen, so nobody vouches for its
/// cause and it opens nothing.
pub fn own_event(kind: &str, unique: &str, data: Map<String, Value>, now: Timestamp) -> Event {
    Event {
        id: EventId::derive(["portero", kind, unique]),
        source: "portero".into(),
        kind: kind.into(),
        subject: None,
        time: None,
        received: now,
        trust: Trust::Unverified,
        marks: Marks::default(),
        hops: 0,
        data,
        raw: Vec::new(),
    }
}

impl FromStr for Trust {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "unverified" => Ok(Trust::Unverified),
            "authentic" => Ok(Trust::Authentic),
            "fresh" => Ok(Trust::Fresh),
            "human" => Ok(Trust::Human),
            other => Err(format!(
                "`{other}` is no trust; it is one of unverified, authentic, fresh, human"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(EventId::derive(["ab", "c"]), EventId::derive(["a", "bc"]));
        assert_ne!(EventId::derive(["a", ""]), EventId::derive(["a"]));
        assert_eq!(EventId::derive(["a", "b"]), EventId::derive(["a", "b"]));
    }

    #[test]
    fn an_id_survives_its_text_form() {
        let id = EventId::derive(["netatmo/home", "ring"]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("xyz".parse::<EventId>(), Err(IdError));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<EventId>(&json).unwrap(), id);
    }

    #[test]
    fn trust_is_ordered_least_first() {
        assert!(Trust::Unverified < Trust::Authentic);
        assert!(Trust::Authentic < Trust::Fresh);
        assert!(Trust::Fresh < Trust::Human);
    }

    #[test]
    fn a_cloud_event_names_its_marks_and_keeps_bytes_that_are_no_text() {
        let event = Event {
            id: EventId::derive(["x"]),
            source: "netatmo/home".into(),
            kind: "netatmo.ring".into(),
            subject: None,
            time: None,
            received: "2026-11-20T10:00:00Z".parse().unwrap(),
            trust: Trust::Authentic,
            marks: Marks { test: true, ..Marks::default() },
            hops: 0,
            data: Map::new(),
            raw: vec![0xff, 0x00],
        };
        let json = event.to_cloud_event();
        assert_eq!(json["specversion"], "1.0");
        assert_eq!(json["type"], "netatmo.ring");
        assert_eq!(json["test"], true);
        assert_eq!(json.get("caughtup"), None);
        assert_eq!(json["raw_base64"], "/wA=");
    }
}
