//! All alerts and how far each of their notifications has come: a fold of the journal. It decides
//! nothing and reads no clock.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionId, Task};
use crate::alert::{Acked, AlertId, MessageRef};
use crate::event::EventId;
use crate::record::{Decided, Receipt, Settled, Shown};

/// Alerts remembered; the oldest that are over go first. One takes about 2 KiB.
pub const ALERTS_MAX: usize = 500;

/// All alerts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<AlertId, Alert>", into = "BTreeMap<AlertId, Alert>")]
pub struct Alerts {
    all: BTreeMap<AlertId, Alert>,
    by_action: BTreeMap<ActionId, AlertId>,
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The rule that raised it.
    pub rule: String,
    /// What it is about.
    pub event: EventId,
    /// In a line.
    pub title: String,
    /// The message of a system that it is about.
    #[serde(default)]
    pub about: Option<MessageRef>,
    /// When it began.
    pub begun: Timestamp,
    /// Who has it in hand.
    pub acked: Option<Acked>,
    /// Everything that was told.
    pub told: BTreeMap<ActionId, Told>,
}

/// One notification or command of an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The phone's id, or the system: `emm/block`.
    pub to: String,
    /// Which step of the rule.
    pub step: String,
    /// The notification's tag, by which another one replaces it.
    pub tag: Option<String>,
    /// How far it has come.
    pub state: Reached,
    /// Since when.
    pub at: Timestamp,
    /// The number under which the system knows it.
    #[serde(default)]
    pub message: Option<String>,
}

/// How far a notification has come; ordered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    /// Not yet taken by anybody.
    Sent,
    /// It ended without being taken; why.
    Failed(String),
    /// Taken by the push service, or by the system.
    Accepted,
    /// The phone showed it.
    Shown,
    /// Somebody opened it.
    Opened,
}

impl Reached {
    /// The word on the page.
    pub fn word(&self) -> &'static str {
        match self {
            Reached::Sent => "sent",
            Reached::Failed(_) => "failed",
            Reached::Accepted => "accepted",
            Reached::Shown => "shown",
            Reached::Opened => "opened",
        }
    }

    /// Why it failed; empty if it did not.
    pub fn why(&self) -> &str {
        match self {
            Reached::Failed(why) => why,
            Reached::Sent | Reached::Accepted | Reached::Shown | Reached::Opened => "",
        }
    }
}

impl From<BTreeMap<AlertId, Alert>> for Alerts {
    fn from(all: BTreeMap<AlertId, Alert>) -> Alerts {
        let actions = |(id, alert): (&AlertId, &Alert)| {
            let id = *id;
            alert.told.keys().map(move |action| (*action, id)).collect::<Vec<_>>()
        };
        let by_action = all.iter().flat_map(actions).collect();
        Alerts { all, by_action }
    }
}

impl From<Alerts> for BTreeMap<AlertId, Alert> {
    fn from(alerts: Alerts) -> BTreeMap<AlertId, Alert> {
        alerts.all
    }
}

impl Alerts {
    /// Takes in a decision.
    pub fn apply(&mut self, decided: &Decided) {
        for begun in &decided.alerts {
            self.make_room();
            let alert = Alert {
                rule: begun.rule.clone(),
                event: begun.event,
                title: begun.title.clone(),
                about: begun.about.clone(),
                begun: decided.at,
                acked: None,
                told: BTreeMap::new(),
            };
            self.all.entry(begun.id).or_insert(alert);
        }
        for acked in &decided.acked {
            if let Some(alert) = self.all.get_mut(&acked.alert) {
                alert.acked.get_or_insert_with(|| acked.clone());
            }
        }
        for action in &decided.actions {
            self.tell(action, decided.at);
        }
    }

    fn tell(&mut self, action: &Action, at: Timestamp) {
        let Some(id) = action.alert else { return };
        let Some(alert) = self.all.get_mut(&id) else { return };
        let (to, tag) = match &action.task {
            Task::Push { phone, message } => (phone.to_string(), message.tag.clone()),
            Task::Command(command) => (command.to.clone(), None),
            Task::Emit(_) | Task::Open(_) => return,
        };
        let (step, state) = (action.step.clone(), Reached::Sent);
        let told = Told { to, step, tag, state, at, message: None };
        alert.told.entry(action.id).or_insert(told);
        self.by_action.insert(action.id, id);
    }

    /// Takes in how an action ended.
    pub fn apply_settled(&mut self, settled: &Settled) {
        let state = match settled.outcome.is_delivered() {
            true => Reached::Accepted,
            false => Reached::Failed(settled.outcome.why().to_string()),
        };
        self.reached(settled.action, state, settled.at);
        if let Some(told) = self.told_mut(settled.action) {
            told.message = settled.message.clone().or(told.message.take());
        }
    }

    /// Takes in what a phone said.
    pub fn apply_receipt(&mut self, receipt: &Receipt) {
        let state = match receipt.what {
            Shown::Shown => Reached::Shown,
            Shown::Clicked => Reached::Opened,
        };
        self.reached(receipt.action, state, receipt.at);
    }

    fn reached(&mut self, action: ActionId, state: Reached, at: Timestamp) {
        // A phone may say that it was shown before the push service has answered us.
        if let Some(told) = self.told_mut(action).filter(|told| told.state < state) {
            (told.state, told.at) = (state, at);
        }
    }

    fn told_mut(&mut self, action: ActionId) -> Option<&mut Told> {
        let alert = self.all.get_mut(self.by_action.get(&action)?)?;
        alert.told.get_mut(&action)
    }

    /// Alerts that nobody has in hand and that told this message, or are about it.
    pub fn open_with(&self, message: &MessageRef) -> Vec<AlertId> {
        let has = |alert: &Alert| alert.acked.is_none() && alert.has(message);
        self.all.iter().filter(|(_, alert)| has(alert)).map(|(id, _)| *id).collect()
    }

    /// The alert of this id.
    pub fn get(&self, id: AlertId) -> Option<&Alert> {
        self.all.get(&id)
    }

    /// The alert that an action belongs to.
    pub fn of(&self, action: ActionId) -> Option<AlertId> {
        self.by_action.get(&action).copied()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (AlertId, &Alert)> {
        self.all.iter().map(|(id, alert)| (*id, alert))
    }

    fn make_room(&mut self) {
        if self.all.len() < ALERTS_MAX {
            return;
        }
        let oldest = self.all.iter().min_by_key(|(_, a)| (a.acked.is_none(), a.begun));
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.all.remove(&id);
            self.by_action.retain(|_, of| *of != id);
        }
    }
}

impl Alert {
    /// Whether some phone has shown one of its notifications.
    pub fn is_shown(&self) -> bool {
        self.told.values().any(|told| told.state >= Reached::Shown)
    }

    fn has(&self, message: &MessageRef) -> bool {
        let is = |told: &Told| {
            told.to == message.source && told.message.as_deref() == Some(&message.number)
        };
        self.about.as_ref() == Some(message) || self.told.values().any(is)
    }
}
