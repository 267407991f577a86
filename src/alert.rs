//! Alerts: what an `escalate` step began and tells one after the other until somebody acknowledges
//! it. Words only; who is told when is the rules' to decide.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::event::{Event, EventId, Marks, Trust, digest128, hex_id};

/// The type of the event by which somebody acknowledges; `data.alerts` names the alerts, `data.by`
/// who, `data.via` how.
pub const ACK_EVENT: &str = "portero.ack";

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
    /// How: `phone`, `page`, `terminal`, `event`.
    pub via: String,
    /// When.
    pub at: Timestamp,
}
