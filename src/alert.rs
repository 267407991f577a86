//! Alerts: what an `escalate` step began and tells one after the other until somebody acknowledges
//! it. Words only; who is told when is the rules' to decide.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::{Event, EventId, Marks, Trust, digest128, hex_id};

/// The type of the event that says that somebody read, accepted or answered a message of an EMM.
pub const READ_EVENT: &str = "emm.message_read";

/// The type of the event by which somebody acknowledges; `data.alerts` names the alerts, `data.by`
/// who, `data.via` how.
pub const ACK_EVENT: &str = "portero.ack";

/// The EMM's words for a message that somebody has in hand. `complete` is none of them: it may mean
/// that it was delivered.
const IN_HAND: [&str; 4] = ["read", "acknowledge", "replied", "cancel_alarm"];

/// 128 bits that name one alert: derived from (event, rule, step).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AlertId(pub [u8; 16]);

hex_id!(AlertId);

impl AlertId {
    /// The id of what the `escalate` step of a rule begins because of `event`.
    pub fn derive(event: EventId, rule: &str, step: &str) -> AlertId {
        AlertId(digest128(["alert", event.to_string().as_str(), rule, step]))
    }
}

/// An alert begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertBegun {
    /// See [`AlertId::derive`].
    pub id: AlertId,
    /// The rule that raised it.
    pub rule: String,
    /// What it is about.
    pub event: EventId,
    /// In a line, for people.
    pub title: String,
    /// The message of a system that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<MessageRef>,
}

/// A message as its system numbers it: what is read there may be what an alert is about, or what it
/// told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRef {
    /// The system: `emm/block`.
    pub source: String,
    /// Its number in the whole system.
    pub number: String,
}

impl MessageRef {
    /// The message that an event is about: an EMM's, or that of an EMM's alarm.
    pub fn of(event: &Event) -> Option<MessageRef> {
        let numbers = ["message_id", "msg_id"].iter().filter_map(|name| event.data.get(*name));
        let number = numbers.filter_map(message_number).next()?;
        let is_emm = event.kind.starts_with("emm.");
        is_emm.then(|| MessageRef { source: event.source.clone(), number })
    }

    /// The message that somebody has in hand by this event. What nobody vouches for, and what
    /// happened in a test, takes nothing in hand.
    pub fn in_hand(event: &Event) -> Option<MessageRef> {
        let status = event.data.get("status_name").and_then(Value::as_str);
        let is = event.kind == READ_EVENT
            && status.is_some_and(|status| IN_HAND.contains(&status))
            && event.trust >= Trust::Authentic
            && !event.marks.test;
        MessageRef::of(event).filter(|_| is)
    }
}

/// The alerts that an [`ACK_EVENT`] names.
pub fn acked_by(event: &Event) -> Vec<AlertId> {
    let is_ours = event.kind == ACK_EVENT && event.source == "portero";
    let named = event.data.get("alerts").filter(|_| is_ours);
    let named = named.and_then(Value::as_array).into_iter().flatten();
    named.filter_map(|id| id.as_str()?.parse().ok()).collect()
}

/// A message's number, from wherever a system says it.
pub fn message_number(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

/// The event by which `by` acknowledges. Each time is another one: the second changes nothing.
pub fn ack_event(
    alerts: &[AlertId],
    by: &str,
    via: &str,
    phone: Option<&str>,
    now: Timestamp,
) -> Event {
    let ids: Vec<String> = alerts.iter().map(ToString::to_string).collect();
    let unique = [ACK_EVENT, &ids.join(" "), by, via, &now.to_string()];
    let mut data = Map::new();
    data.insert("alerts".into(), ids.clone().into());
    data.insert("by".into(), by.into());
    data.insert("via".into(), via.into());
    if let Some(phone) = phone {
        data.insert("phone".into(), phone.into());
    }
    Event {
        id: EventId::derive(unique),
        source: "portero".into(),
        kind: ACK_EVENT.into(),
        subject: Some(by.into()),
        time: None,
        received: now,
        trust: Trust::Human,
        marks: Marks::default(),
        hops: 0,
        data,
        raw: Vec::new(),
    }
}

/// Somebody has it in hand: nothing more is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    /// Which alert.
    pub alert: AlertId,
    /// Who: a person, or the event that ended it.
    pub by: String,
    /// How: `phone`, `page`, `terminal`, `emm`, `event`.
    pub via: String,
    /// When.
    pub at: Timestamp,
}
