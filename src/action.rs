//! What a rule decided to do, addressed to one target, and how it ended. An action is a value: it
//! is journalled before anybody acts on it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::alert::AlertId;
use crate::command::Command;
use crate::door::Opening;
use crate::event::{Event, EventId, digest128, hex_id};

/// 128 bits that name one action: derived from (event, rule, step, target), so that a repeat is
/// recognised in the journal, in a cluster and on the phone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(pub [u8; 16]);

hex_id!(ActionId);

impl ActionId {
    /// The id of what `step` of `rule` does to `target` because of `event`.
    pub fn derive(event: EventId, rule: &str, step: &str, target: &str) -> ActionId {
        ActionId(digest128([event.to_string().as_str(), rule, step, target]))
    }
}

/// One thing to do, for one target, by one deadline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// See [`ActionId::derive`].
    pub id: ActionId,
    /// Name of the rule that asked for it.
    pub rule: String,
    /// Where in the rule: `do[0]`, `do[1].then[0]`.
    pub step: String,
    /// After this moment it is settled as [`Outcome::Expired`] and never attempted again.
    pub deadline: Timestamp,
    /// It is held until then: somebody's quiet hours. Its deadline counts from then, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Which queue it stands in.
    #[serde(default)]
    pub lane: Lane,
    /// The alert that it is part of: acknowledged, it is not begun any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<AlertId>,
    /// What to do.
    pub task: Task,
}

/// Which queue an action stands in: an alarm never waits behind the ordinary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Everything that is not an alarm.
    #[default]
    Normal,
    /// `lane: alarm` in a rule.
    Alarm,
}

/// What an action does. A closed set: each kind has one executor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Show a notification on one phone.
    Push {
        /// The phone to reach.
        phone: PhoneId,
        /// What it shows.
        message: Box<Message>,
    },
    /// Put an event of our own into the journal.
    Emit(Box<Event>),
    /// Tell a system to do something.
    Command(Box<Command>),
    /// Open a door: at most once, never late.
    Open(Box<Opening>),
}

/// A notification, its texts already rendered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// First line.
    pub title: String,
    /// Text below the title.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// A picture's address; shown where the browser can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Where a tap leads, within the page; the event's own place if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A later notification with the same tag replaces this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The alert that can be acknowledged from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert: Option<AlertId>,
    /// The alert that it says is in hand: it is shown without a sound, in place of all that was
    /// told of that alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clears: Option<AlertId>,
    /// How eagerly the push service wakes the phone.
    pub urgency: Urgency,
    /// How long the push service may hold it, in seconds (RFC 8030 section 5.2).
    pub ttl_s: u32,
    /// Buttons below it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<Button>,
}

/// A button of a notification. It leads to a page that asks, and does nothing by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Button {
    /// What stands on it.
    pub title: String,
    /// The door that the page is about.
    pub open: String,
    /// Where it leads, within the page.
    pub url: String,
}

/// Urgency of a push message (RFC 8030 section 5.3); ordered, least first.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// On power and Wi-Fi.
    VeryLow,
    /// On either power or Wi-Fi.
    Low,
    /// On neither power nor Wi-Fi.
    #[default]
    Normal,
    /// Low battery.
    High,
}

impl Urgency {
    /// The header's value (RFC 8030 section 5.3).
    pub fn as_str(self) -> &'static str {
        match self {
            Urgency::VeryLow => "very-low",
            Urgency::Low => "low",
            Urgency::Normal => "normal",
            Urgency::High => "high",
        }
    }
}

/// Names one phone (a paired device or an added subscription): 16 hexadecimal digits. Empty where
/// a person has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PhoneId(pub String);

impl std::fmt::Display for PhoneId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands in the journal for a message that a newer one with the same tag made pointless.
pub const REPLACED: &str = "replaced by a newer one";

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The far side took it. For a push: the push service, not yet the person.
    Delivered,
    /// A system did what it was told, by its own word.
    Done,
    /// Its deadline passed before the far side took it.
    Expired {
        /// The last answer or fault before that.
        last: String,
    },
    /// The far side, or our own check, said no for good.
    Refused {
        /// Why, in words for the page.
        why: String,
    },
    /// It left us and nobody knows whether it arrived.
    Unknown {
        /// What is known.
        why: String,
    },
    /// It was not worth doing any more: somebody acknowledged the alert.
    Stopped {
        /// Why.
        why: String,
    },
    /// Its target is gone: an unsubscribed or removed phone.
    Gone {
        /// Why.
        why: String,
    },
}

impl Outcome {
    /// Short name for metrics and the page.
    pub fn label(&self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Done => "done",
            Outcome::Expired { .. } => "expired",
            Outcome::Refused { .. } => "refused",
            Outcome::Unknown { .. } => "unknown",
            Outcome::Stopped { .. } => "stopped",
            Outcome::Gone { .. } => "gone",
        }
    }

    /// Why it did not go well; empty if it did.
    pub fn why(&self) -> &str {
        match self {
            Outcome::Delivered | Outcome::Done => "",
            Outcome::Expired { last: why }
            | Outcome::Refused { why }
            | Outcome::Unknown { why }
            | Outcome::Stopped { why }
            | Outcome::Gone { why } => why,
        }
    }

    /// Whether the far side took it.
    pub fn is_delivered(&self) -> bool {
        matches!(self, Outcome::Delivered | Outcome::Done)
    }
}
