//! The journal's records: everything Portero must not forget, each as one value. All other state
//! is a fold of these.

mod codec;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::action::{Action, ActionId, Outcome, PhoneId};
use crate::alert::{Acked, AlertBegun};
use crate::event::{Event, EventId, Trust};
use crate::timer::{Ended, Queued, Timer};

pub use codec::RecordError;

/// Where a record starts: its byte offset in the journal since the first segment ever. Grows with
/// every record and is never used twice.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Position(pub u64);

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One line of the journal.
#[derive(Debug, Clone)]
pub enum Record {
    /// An event was taken; a webhook is answered only after this is durable.
    Seen(Arc<Event>),
    /// The rules have looked at an event: one record, so planning is atomic.
    Decided(Arc<Decided>),
    /// An action ended.
    Settled(Settled),
    /// A phone told us what became of a notification.
    Receipt(Receipt),
    /// A phone came, changed or went.
    Phone(PhoneChange),
    /// A message that nobody vouches for, kept to be looked at, never routed.
    Quarantined(Quarantined),
    /// Everything still true at `as_of`, so that older segments may be forgotten.
    Checkpoint(Checkpoint),
    /// Event ids out of forgotten segments that must still count as duplicates.
    Keys(Keys),
    /// What a system's own state is from now on.
    Known(Arc<Known>),
    /// What a system gave and will not give again, kept before it is read.
    Body(Body),
    /// Such a body was read: all it told is in the journal.
    BodyRead(BodyRead),
}

/// What claim a record has on the space that is kept for alarms, when the disk is full; the least
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// None: it is refused.
    Ordinary,
    /// On a part of it: what Portero must write to know what it has done, and to free space.
    Keeping,
    /// On all of it.
    Alarm,
}

/// What the rules made of one event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// The event.
    pub event: EventId,
    /// Where its `Seen` record is; decisions are made in this order, but for those that are ahead.
    pub seen: Position,
    /// It overtook older events that still waited: it is about an alarm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ahead: bool,
    /// The moment the rules were asked.
    pub at: Timestamp,
    /// Which set of rule files answered: the first digits of their hash.
    pub rules: String,
    /// Every rule whose `when` let the event in, in file order, and what came of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub looked: Vec<Looked>,
    /// State variables to set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<StateSet>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
    /// Waits that begin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub begun: Vec<Timer>,
    /// Waits that end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<Ended>,
    /// Alerts that begin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<AlertBegun>,
    /// Alerts that somebody has in hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acked: Vec<Acked>,
    /// Firings that join or leave the row of those that wait for their turn, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queued: Vec<Queued>,
    /// Dead letters that are sent again by this, and are none any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resent: Vec<ActionId>,
}

impl Decided {
    /// Whether somebody was to be told and has no phone.
    pub fn has_letters(&self) -> bool {
        let notes = self.looked.iter().flat_map(|looked| &looked.not_sent);
        notes.into_iter().any(|note| note.letter.is_some())
    }
}

/// One rule's answer to one event: the source of every "why did it (not) fire?".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Looked {
    /// The rule's name.
    pub rule: String,
    /// What came of it.
    pub verdict: Verdict,
    /// The first thing that failed, with the values it had; empty when the rule fired.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Steps that could not be planned although the rule fired, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_sent: Vec<NotSent>,
    /// The cooldown this firing starts, if the rule has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<CooldownStart>,
}

/// What came of one rule looking at one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The rule's steps were planned.
    Fired,
    /// Its `if` was false.
    Condition,
    /// Its `if` could not be evaluated; counts as false.
    ConditionError,
    /// It fired too recently.
    Cooldown,
    /// An earlier rule said `stop`.
    Stopped,
    /// Its `for` has begun: it fires later.
    Waiting,
    /// An earlier firing still waits, and its `mode` allows one only.
    Busy,
    /// It begins when an earlier firing has ended.
    Queued,
    /// A wait of its ended without firing.
    Ended,
}

impl Verdict {
    /// The word in the journal and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Fired => "fired",
            Verdict::Condition => "condition",
            Verdict::ConditionError => "condition_error",
            Verdict::Cooldown => "cooldown",
            Verdict::Stopped => "stopped",
            Verdict::Waiting => "waiting",
            Verdict::Busy => "busy",
            Verdict::Queued => "queued",
            Verdict::Ended => "ended",
        }
    }
}

/// A step that was not turned into an action, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotSent {
    /// Where in the rule: `do[0]`.
    pub step: String,
    /// Named reason.
    pub reason: NotSentReason,
    /// The person, text or value concerned.
    pub detail: String,
    /// What would have been sent, if somebody misses it: an alarm for a person without a phone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<Box<Action>>,
}

impl NotSent {
    /// Noted, and nothing was lost that could be sent again.
    pub fn new(step: impl Into<String>, reason: NotSentReason, detail: impl Into<String>) -> Self {
        NotSent { step: step.into(), reason, detail: detail.into(), letter: None }
    }
}

/// Why a step of a rule that fired led to nothing. Closed and counted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotSentReason {
    /// The person has no phone with a subscription.
    NoPhone,
    /// A text or value could not be rendered.
    TemplateError,
    /// The chain of `emit` steps is longer than [`crate::event::HOPS_MAX`].
    TooManyHops,
    /// A command's argument is not what the system takes.
    BadArgument,
    /// It would open something for news that is old, marked or not vouched for.
    NotTrusted,
    /// No more waits can begin.
    TooManyTimers,
}

impl NotSentReason {
    /// The word in the journal and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            NotSentReason::NoPhone => "no_phone",
            NotSentReason::TemplateError => "template_error",
            NotSentReason::TooManyHops => "too_many_hops",
            NotSentReason::BadArgument => "bad_argument",
            NotSentReason::NotTrusted => "not_trusted",
            NotSentReason::TooManyTimers => "too_many_timers",
        }
    }
}

/// A cooldown that begins with this firing; see [`crate::rules`] for how it is counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CooldownStart {
    /// The rendered key; one rule may cool down per subject.
    pub key: String,
    /// The most urgent thing this firing does: only something more urgent breaks through.
    pub severity: crate::action::Urgency,
    /// When it ends if counted from the decision; delivery moves it.
    pub until: Timestamp,
}

/// A state variable's new value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateSet {
    /// Path as `state("…")` names it.
    pub path: String,
    /// The value; `null` removes it.
    pub value: serde_json::Value,
    /// The least trust of what led to it.
    pub trust: Trust,
}

/// What a system told about its own state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Which system: `indigo/house`. Its paths begin with it.
    pub source: String,
    /// How far it is vouched for.
    pub trust: Trust,
    /// When we heard.
    pub at: Timestamp,
    /// What changed, in order.
    pub changes: Vec<KnownChange>,
}

/// One change of a system's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownChange {
    /// Path as `state("…")` names it: `indigo/house/device/1508839119`.
    pub path: String,
    /// What became of it.
    pub to: Becomes,
}

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Becomes {
    /// This value.
    Is(serde_json::Value),
    /// An object whose fields change: these are set, those are gone; the others stay.
    Fields {
        /// Fields with new values.
        #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
        set: serde_json::Map<String, serde_json::Value>,
        /// Fields that are no more.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gone: Vec<String>,
    },
    /// The same as another path: a name for what is kept by its number.
    SameAs(String),
    /// It is no more.
    Gone,
}

/// What a system gave and will not give again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// Names it: the same bytes from the same place at the same moment are the same body.
    pub id: EventId,
    /// Which system: `emm/block`.
    pub source: String,
    /// When it came.
    pub received: Timestamp,
    /// The bytes as they came.
    #[serde(skip)]
    pub raw: Vec<u8>,
}

/// A [`Body`] was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BodyRead {
    /// Its id.
    pub body: EventId,
    /// When.
    pub at: Timestamp,
}

/// How one action ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// The action.
    pub action: ActionId,
    /// How it ended.
    pub outcome: Outcome,
    /// How many times it was attempted.
    pub attempts: u32,
    /// When it ended.
    pub at: Timestamp,
    /// The number under which the system knows the message that it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Settled {
    /// Ended, and nothing more is to be said.
    pub fn new(action: ActionId, outcome: Outcome, attempts: u32, at: Timestamp) -> Settled {
        Settled { action, outcome, attempts, at, message: None }
    }
}

/// What a phone said about one notification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The action that the notification belongs to.
    pub action: ActionId,
    /// The phone that said so, by its delivery token.
    pub phone: PhoneId,
    /// What happened on it.
    pub what: Shown,
    /// When we heard.
    pub at: Timestamp,
}

/// What happened to a notification on a phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// It was shown.
    Shown,
    /// It was tapped.
    Clicked,
}

/// A phone came, changed or went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhoneChange {
    /// `portero pair` made a code that one phone may use once.
    Invited {
        /// Who the phone will belong to.
        person: String,
        /// SHA-256 of the code, as hexadecimal digits.
        code: String,
        /// After this it is void.
        expires: Timestamp,
    },
    /// A phone was paired, or its subscription was added by hand.
    Added {
        /// The phone's name for itself from now on.
        id: PhoneId,
        /// Whose it is.
        person: String,
        /// What the person sees in the list: "Ana's phone".
        name: String,
        /// SHA-256 of its session cookie, as hexadecimal digits; none when added by hand.
        session: Option<String>,
        /// The invitation used up by this, as in [`PhoneChange::Invited`].
        code: Option<String>,
        /// When.
        at: Timestamp,
    },
    /// It can be pushed to, from now on at this endpoint.
    Subscribed {
        /// Which phone.
        id: PhoneId,
        /// What the browser gave.
        subscription: Subscription,
        /// When.
        at: Timestamp,
    },
    /// It can no longer be pushed to.
    Unsubscribed {
        /// Which phone.
        id: PhoneId,
        /// Who ended it: the push service (404, 410), the phone, or a person.
        why: String,
        /// When.
        at: Timestamp,
    },
    /// The page or its service worker was alive on it.
    Alive {
        /// Which phone.
        id: PhoneId,
        /// When.
        at: Timestamp,
    },
    /// It is gone, with its session.
    Removed {
        /// Which phone.
        id: PhoneId,
        /// When.
        at: Timestamp,
    },
}

impl PhoneChange {
    /// The phone concerned; an invitation is for none yet.
    pub fn phone(&self) -> Option<&PhoneId> {
        match self {
            PhoneChange::Invited { .. } => None,
            PhoneChange::Added { id, .. }
            | PhoneChange::Subscribed { id, .. }
            | PhoneChange::Unsubscribed { id, .. }
            | PhoneChange::Alive { id, .. }
            | PhoneChange::Removed { id, .. } => Some(id),
        }
    }
}

/// A browser's push subscription (W3C Push API, `PushSubscription.toJSON()`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Where to send; whoever knows it can fill the phone's quota, so it is never logged whole.
    pub endpoint: String,
    /// The browser's public key: 65 bytes, base64url.
    pub p256dh: String,
    /// The authentication secret: 16 bytes, base64url.
    pub auth: String,
    /// The VAPID public key it was made with, base64url: another one makes it useless
    /// (RFC 8292 section 4.2). Empty if unknown.
    #[serde(default)]
    pub vapid: String,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscription({})", self.host())
    }
}

impl Subscription {
    /// The push service's host: the part of the endpoint that may be shown.
    pub fn host(&self) -> String {
        let url = url::Url::parse(&self.endpoint).ok();
        url.and_then(|url| url.host_str().map(String::from)).unwrap_or_default()
    }
}

/// A message that nobody vouches for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The way it came in: `netatmo/home`.
    pub source: String,
    /// Why it is not routed, in words.
    pub reason: String,
    /// When it came.
    pub received: Timestamp,
    /// What came, cut to the limit of what is kept.
    #[serde(skip)]
    pub raw: Vec<u8>,
}

/// Everything still true at one position.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint {
    /// All records before this position are folded in.
    pub as_of: Position,
    /// The ledger, as it writes itself.
    pub truth: Box<RawValue>,
}

/// Event ids that must still count as duplicates, with the day after which they need not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Keys {
    /// The youngest of these events was received then.
    pub received: Timestamp,
    /// The ids.
    #[serde(skip)]
    pub ids: Vec<EventId>,
}
