//! Dead letters: pushes and messages that ended without reaching anybody, kept so that a person
//! can send them again. A fold like all of the ledger: it decides nothing and reads no clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::{Action, ActionId, Lane, Outcome, REPLACED, Task};
use crate::command::Repeat;
use crate::event::EventId;

/// Dead letters kept; the oldest goes first, alarms last. One takes about 1 KiB.
pub const DEAD_MAX: usize = 500;

/// What may become a dead letter, while it is owed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// When it was decided.
    pub at: Timestamp,
    /// The event that led to it.
    pub event: EventId,
    /// Whose phone it goes to; none for a message that a system carries.
    pub person: Option<String>,
    /// What that phone is called.
    pub name: Option<String>,
}

/// One that ended undelivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// What was to be told, to whom.
    pub action: Action,
    /// When, why and whose it was.
    pub sent: Sent,
    /// How it ended.
    pub outcome: Outcome,
    /// How many times it was attempted.
    pub attempts: u32,
    /// When it ended.
    pub at: Timestamp,
}

/// All dead letters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeadLetters(BTreeMap<ActionId, Arc<DeadLetter>>);

/// Whether an action that is not delivered is missed by somebody: a notification, whoever carries
/// it. Commands and doors are for their moment only.
pub fn is_letter(action: &Action) -> bool {
    match &action.task {
        Task::Push { .. } => true,
        Task::Command(command) => command.repeat == Repeat::Better,
        Task::Emit(_) | Task::Open(_) => false,
    }
}

/// Whether an end like this leaves somebody untold: nothing newer took its place, and nobody had
/// the alert in hand.
fn is_dead(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Delivered | Outcome::Done | Outcome::Stopped { .. } => false,
        Outcome::Expired { last } => last != REPLACED,
        Outcome::Refused { .. } | Outcome::Unknown { .. } | Outcome::Gone { .. } => true,
    }
}

impl DeadLetters {
    /// Takes in how a letter ended.
    pub(super) fn settled(&mut self, letter: DeadLetter) {
        if !is_dead(&letter.outcome) {
            return;
        }
        self.0.insert(letter.action.id, Arc::new(letter));
        if self.0.len() > DEAD_MAX {
            let first = self.0.values().min_by_key(|one| (one.action.lane == Lane::Alarm, one.at));
            if let Some(id) = first.map(|one| one.action.id) {
                self.0.remove(&id);
            }
        }
    }

    /// It was decided anew.
    pub(super) fn resent(&mut self, id: &ActionId) {
        self.0.remove(id);
    }

    /// The letter of this id.
    pub fn get(&self, id: &ActionId) -> Option<&Arc<DeadLetter>> {
        self.0.get(id)
    }

    /// All, the newest first.
    pub fn newest_first(&self) -> Vec<Arc<DeadLetter>> {
        let mut all: Vec<Arc<DeadLetter>> = self.0.values().cloned().collect();
        all.sort_by_key(|letter| (std::cmp::Reverse(letter.at), letter.action.id));
        all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether everything reached somebody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl DeadLetter {
    /// How long it had been worth telling: sent again, it is for as long.
    pub fn lives(&self) -> SignedDuration {
        self.action.deadline.duration_since(self.sent.at).max(SignedDuration::from_secs(1))
    }

    /// As the page and the command line show it.
    pub fn to_json(&self) -> Value {
        let (to, title) = match &self.action.task {
            Task::Push { phone, message } => (phone.0.clone(), message.title.clone()),
            Task::Command(command) => {
                let text = command.args.get("text").and_then(|text| text.as_str());
                (command.to.clone(), text.unwrap_or(&command.call).to_string())
            }
            Task::Emit(_) | Task::Open(_) => Default::default(),
        };
        json!({
            "id": self.action.id,
            "to": to,
            "person": self.sent.person,
            "name": self.sent.name,
            "title": title,
            "rule": self.action.rule,
            "event": self.sent.event,
            "lane": self.action.lane,
            "outcome": self.outcome.label(),
            "why": self.outcome.why(),
            "attempts": self.attempts,
            "begun": self.sent.at,
            "at": self.at,
        })
    }
}
