//! Waits: what a rule goes on with at a moment unless something ends it first. A timer is a value:
//! it is journalled in the decision that begins it, and its end in the decision that ends it, so
//! that a restart or a reload finds it as it was.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::alert::AlertId;
use crate::event::{Event, EventId, Marks, Trust, digest128, hex_id};

/// The type of the event that says that a timer is due; `data.timer` names the timer.
pub const DUE_EVENT: &str = "portero.timer.due";

/// The type of the event that ends timers of rules that are no more; `data.timers` names them.
pub const GONE_EVENT: &str = "portero.timer.gone";

/// The type of the event that a rule's time trigger makes; `subject` is the rule, `data.due` when.
pub const SCHEDULE_EVENT: &str = "portero.schedule";

/// The type of the event by which the time triggers of rules that came into force are set;
/// `data.rules` names the rules.
pub const SCHEDULE_SET_EVENT: &str = "portero.schedule.set";

/// 128 bits that name one timer: derived from (event, rule, place), so that deciding twice begins
/// it once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(pub [u8; 16]);

hex_id!(TimerId);

impl TimerId {
    /// The id of the wait at `place` of `rule` because of `event`.
    pub fn derive(event: EventId, rule: &str, place: &str) -> TimerId {
        TimerId(digest128(["timer", event.to_string().as_str(), rule, place]))
    }
}

/// A wait under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timer {
    /// See [`TimerId::derive`].
    pub id: TimerId,
    /// The rule that waits.
    pub rule: String,
    /// The first digits of the hash of what the rule says: a changed rule does not go on.
    pub stamp: String,
    /// Where it goes on.
    pub at: Place,
    /// The event it is about.
    pub event: Arc<Event>,
    /// When it began.
    pub begun: Timestamp,
    /// When it is due.
    pub due: Timestamp,
    /// After this moment it is not worth going on; none for what must be told however late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The least trust of what led to it.
    pub trust: Trust,
}

impl Timer {
    /// The same once more, after the first was not decided. A time trigger's has an id of its own:
    /// if the clock was put back, the first was taken for one that was known already.
    pub fn due_again(&self, now: Timestamp) -> Event {
        let event = self.due_event(now);
        if !self.at.is_schedule() {
            return event;
        }
        let (id, moment) = (event.id.to_string(), now.to_string());
        Event { id: EventId::derive([SCHEDULE_EVENT, &id, "again", &moment]), ..event }
    }

    /// The event that says that it is due: one for each timer, however often it is said. That of a
    /// time trigger is the one that its rule is about.
    pub fn due_event(&self, now: Timestamp) -> Event {
        if self.at.is_schedule() {
            let mut event = (*self.event).clone();
            event.data.insert("timer".into(), self.id.to_string().into());
            return Event { received: now, ..event };
        }
        let mut data = Map::new();
        data.insert("timer".into(), self.id.to_string().into());
        data.insert("rule".into(), self.rule.as_str().into());
        data.insert("due".into(), self.due.to_string().into());
        Event {
            id: EventId::derive([DUE_EVENT, self.id.to_string().as_str()]),
            source: "portero".into(),
            kind: DUE_EVENT.into(),
            subject: Some(self.rule.clone()),
            time: Some(self.due),
            received: now,
            trust: self.trust,
            marks: Marks::default(),
            hops: 0,
            data,
            raw: Vec::new(),
        }
    }
}

/// Where a rule goes on after a wait, or begins by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Its `for` is over: it fires now.
    Fire,
    /// After the `wait` step of this path: `do[1]`.
    After(String),
    /// It begins: this alternative of its `when` is a time, and it has come.
    Schedule {
        /// Which of its time triggers, from 0.
        which: usize,
    },
    /// The next rung of an alert's ladder.
    Rung {
        /// Which alert.
        alert: AlertId,
        /// The rung's path: `do[0].escalate[2]`.
        step: String,
        /// Which repetition, from 0.
        round: u32,
        /// It is climbed only if no phone has shown the alert by then.
        if_unshown: bool,
    },
    /// The alert is told to the end; what its `until` describes still counts.
    Watch {
        /// Which alert.
        alert: AlertId,
        /// The path of its `escalate` step.
        step: String,
    },
}

impl Place {
    /// The alert whose rung it is.
    pub fn alert(&self) -> Option<AlertId> {
        match self {
            Place::Fire | Place::After(_) | Place::Schedule { .. } => None,
            Place::Rung { alert, .. } | Place::Watch { alert, .. } => Some(*alert),
        }
    }

    /// Whether it is a time trigger's, which waits whether or not its rule is under way.
    pub fn is_schedule(&self) -> bool {
        matches!(self, Place::Schedule { .. })
    }

    /// Whether its rule is under way, so that another firing may have to wait.
    pub fn is_firing(&self) -> bool {
        !matches!(self, Place::Schedule { .. } | Place::Watch { .. })
    }

    /// What tells it from all other places of the rule.
    pub fn name(&self) -> String {
        match self {
            Place::Fire | Place::After(_) => self.path().to_string(),
            Place::Schedule { which } => format!("when {which}"),
            Place::Watch { step, .. } => format!("{step} until"),
            Place::Rung { step, round, if_unshown, .. } => {
                format!("{step} {round}{}", if *if_unshown { " unshown" } else { "" })
            }
        }
    }

    /// The path in the rule, for explanations.
    pub fn path(&self) -> &str {
        match self {
            Place::Fire => "for",
            Place::Schedule { .. } => "when",
            Place::After(step) | Place::Rung { step, .. } | Place::Watch { step, .. } => step,
        }
    }
}

/// A timer that is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which.
    pub timer: TimerId,
    /// Why.
    pub why: End,
}

/// Why a timer is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Its time had come.
    Due,
    /// The event that it waited for came: `unless` or `until`.
    Matched,
    /// The rule fired anew and its `mode` is `restart`.
    Restarted,
    /// Somebody has the alert in hand, or a phone has shown it.
    Acknowledged,
    /// Its time came while nobody looked, and it is too late by its own limit.
    Expired,
    /// The rule was removed or changed.
    RuleGone,
}

/// A change in the row of firings that wait for their turn (`mode: queued`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queued {
    /// The rule.
    pub rule: String,
    /// The event that joins the row; none if the first one leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Arc<Event>>,
}
