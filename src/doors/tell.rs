//! What Portero tells of its doors: one event for each step of an opening.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::action::{Action, ActionId, Task};
use crate::door::{By, Opening};
use crate::event::{Event, EventId, Marks, Trust};

/// A person pressed, on a phone or at the terminal; it leads to an opening.
pub const PRESSED: &str = "portero.door.pressed";
/// A person pressed and may not, or too late, or twice.
pub const DENIED: &str = "portero.door.denied";
/// A door reports open without a command of ours.
pub const OPENED_ELSEWHERE: &str = "portero.door.opened_elsewhere";
/// All events about doors begin like this.
pub use crate::door::EVENTS as PREFIX;

/// Named as the rule in the journal and on the page.
pub const PRESS_RULE: &str = "door by hand (built in)";

/// A step of an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The system took the command.
    Commanded,
    /// The door's own signal says that it opened.
    Confirmed,
    /// The door's own signal did not come.
    Unconfirmed,
    /// It was not told to open, or the system said no.
    Refused,
    /// Nobody knows whether it opened.
    Unknown,
}

impl Step {
    /// The word in metrics, and the end of the event's type.
    pub fn word(self) -> &'static str {
        match self {
            Step::Commanded => "commanded",
            Step::Confirmed => "confirmed",
            Step::Unconfirmed => "unconfirmed",
            Step::Refused => "refused",
            Step::Unknown => "unknown",
        }
    }
}

/// The event that tells a step. The same step of the same action is the same event.
pub fn step(
    step: Step,
    action: &Action,
    wish: &Opening,
    why: &str,
    since: Option<Duration>,
    now: Timestamp,
) -> Event {
    let mut data = Map::new();
    data.insert("door".into(), wish.door.as_str().into());
    put_by(&mut data, &wish.by);
    data.insert("rule".into(), action.rule.as_str().into());
    if let Some(event) = wish.event {
        data.insert("event".into(), json!(event));
    }
    if !why.is_empty() {
        data.insert("why".into(), why.into());
    }
    if let Some(since) = since {
        data.insert("ms".into(), json!(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
    }
    let kind = format!("{PREFIX}{}", step.word());
    let mut event = made(&kind, &action.id.to_string(), &wish.door, data, now);
    event.trust = wish.trust.min(Trust::Fresh);
    event.marks = wish.marks;
    event.hops = wish.hops.saturating_add(1);
    event
}

/// Somebody presses. `unique` tells one press from the next.
pub fn pressed(door: &str, by: &By, about: Option<EventId>, unique: &str, now: Timestamp) -> Event {
    let mut data = Map::new();
    data.insert("door".into(), door.into());
    put_by(&mut data, by);
    if let Some(event) = about {
        data.insert("event".into(), json!(event));
    }
    let mut event = made(PRESSED, unique, door, data, now);
    event.trust = Trust::Human;
    event
}

/// Somebody pressed in vain.
pub fn denied(
    door: &str,
    by: &By,
    about: Option<EventId>,
    why: &str,
    unique: &str,
    now: Timestamp,
) -> Event {
    let mut event = pressed(door, by, about, unique, now);
    event.kind = DENIED.into();
    event.id = EventId::derive(["portero", DENIED, unique]);
    // Whoever has no right can cause it at will.
    event.trust = Trust::Unverified;
    event.data.insert("why".into(), why.into());
    event
}

/// A door opened without us; `signal` is how we know.
pub fn opened_elsewhere(door: &str, signal: &Event, now: Timestamp) -> Event {
    let mut data = Map::new();
    data.insert("door".into(), door.into());
    data.insert("event".into(), json!(signal.id));
    for name in ["method", "user"] {
        if let Some(value) = signal.data.get(name) {
            data.insert(name.into(), value.clone());
        }
    }
    let mut event = made(OPENED_ELSEWHERE, &signal.id.to_string(), door, data, now);
    event.trust = signal.trust.min(Trust::Fresh);
    event.marks = signal.marks;
    event.hops = signal.hops.saturating_add(1);
    event
}

/// Who pressed, from a [`PRESSED`] event.
pub fn by_of(event: &Event) -> Option<By> {
    let text = |name: &str| event.data.get(name).and_then(Value::as_str).map(str::to_string);
    match text("by")?.as_str() {
        "person" => Some(By::Person {
            person: text("person")?,
            phone: crate::action::PhoneId(text("phone")?),
            device: text("device").unwrap_or_default(),
        }),
        "terminal" => Some(By::Terminal),
        _ => None,
    }
}

/// The opening that an action is, if it is one.
pub fn opening(action: &Action) -> Option<&Opening> {
    match &action.task {
        Task::Open(wish) => Some(wish),
        Task::Push { .. } | Task::Emit(_) | Task::Command(_) => None,
    }
}

/// Names the action of a press.
pub fn press_action(event: EventId, door: &str) -> ActionId {
    ActionId::derive(event, PRESS_RULE, "do[0]", door)
}

fn put_by(data: &mut Map<String, Value>, by: &By) {
    data.insert("by".into(), by.as_str().into());
    if let By::Person { person, phone, device } = by {
        data.insert("person".into(), person.as_str().into());
        data.insert("phone".into(), json!(phone));
        data.insert("device".into(), device.as_str().into());
    }
}

fn made(kind: &str, unique: &str, door: &str, data: Map<String, Value>, now: Timestamp) -> Event {
    Event {
        id: EventId::derive(["portero", kind, unique]),
        source: "portero".into(),
        kind: kind.into(),
        subject: Some(door.into()),
        time: None,
        received: now,
        trust: Trust::Fresh,
        marks: Marks::default(),
        hops: 0,
        data,
        raw: Vec::new(),
    }
}
