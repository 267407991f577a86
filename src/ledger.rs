//! What is true now, as a fold of the journal: phones and who they belong to, open invitations,
//! what is still owed, what rules remember. Pure: records in, state out; nothing here reads a
//! clock or does I/O. Applying a record twice changes nothing, so a checkpoint may overlap the
//! records that follow it.

mod audit;
mod dead;
mod drill;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::action::{Action, ActionId, Outcome, PhoneId, Task};
use crate::alert::{AlertId, MessageRef, acked_by};
use crate::builtin::drill::RULE as DRILL_RULE;
use crate::door::{CONFIRMED, Opening, RATE_PER_MAX, RATE_TIMES_MAX, UNCONFIRMED};
use crate::event::{Event, EventId};
use crate::record::{
    Checkpoint, Decided, PhoneChange, Position, Receipt, Record, Settled, Shown, Subscription,
};
use crate::rules::Memory;

pub use audit::Audit;
pub use dead::{DEAD_MAX, DeadLetter, DeadLetters, Sent, is_letter};
pub use drill::Drill;

/// A phone that has not been heard of for this long is pointed out: push services drop
/// subscriptions of devices that stay away, and a person should look before an alarm needs it.
pub const PHONE_UNSEEN_AFTER: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The fold. [`Ledger::checkpoint`] writes it down whole.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// What rules remember: state variables, cooldowns, who has which phone.
    pub memory: Memory,
    /// Every phone that was paired or added and not removed.
    pub phones: BTreeMap<PhoneId, Phone>,
    /// Unused pairing codes, by the SHA-256 of the code.
    pub invites: BTreeMap<String, Invite>,
    /// Decided and not settled.
    pub owed: BTreeMap<ActionId, Action>,
    /// Of what is owed, that which somebody would miss.
    #[serde(default)]
    pub sent: BTreeMap<ActionId, Sent>,
    /// What somebody was to be told and was not.
    #[serde(default)]
    pub dead: DeadLetters,
    /// When each door was last told to open, oldest first: how often it may open counts over
    /// restarts.
    #[serde(default)]
    pub opened: BTreeMap<String, VecDeque<Timestamp>>,
    /// What happened at doors.
    #[serde(default)]
    pub audit: Audit,
    /// Openings that were commanded, by door, and when; the door has not yet said that it opened.
    #[serde(default)]
    pub commanded: BTreeMap<String, (Action, Timestamp)>,
    /// What systems gave and will not give again, and nobody has read yet.
    #[serde(default)]
    pub unread: BTreeMap<EventId, Unread>,
    /// The last event that was decided in the journal's order.
    pub decided_to: Option<Position>,
    /// Later events that were decided before their turn: they are about alarms.
    #[serde(default)]
    pub ahead: BTreeSet<Position>,
}

/// A body that was kept and not read before the process ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unread {
    /// Which system gave it.
    pub source: String,
    /// When.
    pub received: Timestamp,
    /// Its bytes, as base64.
    raw: String,
}

impl Unread {
    /// Its bytes as they came.
    pub fn raw(&self) -> Vec<u8> {
        STANDARD.decode(&self.raw).unwrap_or_default()
    }
}

/// A code that one phone may use once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invite {
    /// Who the phone will belong to.
    pub person: String,
    /// After this it is void.
    pub expires: Timestamp,
}

/// One phone and how it is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phone {
    /// Whose it is.
    pub person: String,
    /// What the person calls it.
    pub name: String,
    /// SHA-256 of its session cookie; none when its subscription was added by hand.
    pub session: Option<String>,
    /// Where to push to; none while it does not want to be.
    pub subscription: Option<Subscription>,
    /// When it came.
    pub added: Timestamp,
    /// When its page or service worker last spoke to us.
    pub seen: Timestamp,
    /// When the push service last took a message for it.
    pub last_delivered: Option<Timestamp>,
    /// When it last said that it showed one.
    pub last_shown: Option<Timestamp>,
    /// Why the last message did not get through; none after one that did.
    pub failing: Option<String>,
    /// How it did in its last drill.
    #[serde(default)]
    pub drill: Option<Drill>,
}

impl Phone {
    /// What is known of a phone after a change; the fold that the ledger and the index share. A
    /// change to a phone that is not known was made before it was removed, and changes nothing.
    pub fn after(before: Option<Phone>, change: &PhoneChange) -> Option<Phone> {
        match change {
            PhoneChange::Removed { .. } => return None,
            PhoneChange::Added { person, name, session, at, .. } if before.is_none() => {
                return Some(Phone {
                    person: person.clone(),
                    name: name.clone(),
                    session: session.clone(),
                    subscription: None,
                    added: *at,
                    seen: *at,
                    last_delivered: None,
                    last_shown: None,
                    failing: None,
                    drill: None,
                });
            }
            _ => {}
        }
        let mut phone = before?;
        match change {
            PhoneChange::Subscribed { subscription, at, .. } => {
                phone.subscription = Some(subscription.clone());
                phone.seen = phone.seen.max(*at);
                phone.failing = None;
            }
            PhoneChange::Unsubscribed { why, .. } => {
                phone.subscription = None;
                phone.failing = Some(why.clone());
            }
            PhoneChange::Alive { at, .. } => phone.seen = phone.seen.max(*at),
            PhoneChange::Invited { .. }
            | PhoneChange::Added { .. }
            | PhoneChange::Removed { .. } => {}
        }
        Some(phone)
    }

    /// Whether it has not been heard of for [`PHONE_UNSEEN_AFTER`].
    pub fn is_stale(&self, now: Timestamp) -> bool {
        let last = self.last_shown.map_or(self.seen, |shown| shown.max(self.seen));
        now.duration_since(last) > PHONE_UNSEEN_AFTER
    }

    /// The phone as the page and the command line show it, for `vapid`, the key in force. Neither
    /// endpoint nor session is in it.
    pub fn to_json(&self, id: &PhoneId, vapid: &str, now: Timestamp) -> Value {
        json!({
            "id": id,
            "person": self.person,
            "name": self.name,
            "subscribed": self.subscription.is_some(),
            "host": self.subscription.as_ref().map_or(String::new(), Subscription::host),
            "added": self.added,
            "seen": self.seen,
            "stale": self.is_stale(now),
            "vapid_changed": self.has_other_vapid_key(vapid),
            "last_delivered": self.last_delivered,
            "last_shown": self.last_shown,
            "failing": self.failing,
            "drill": self.drill.as_ref().map(Drill::to_json),
        })
    }

    /// Whether its subscription was made with another VAPID key than ours, which makes it useless
    /// (RFC 8292 section 4.2).
    pub fn has_other_vapid_key(&self, ours: &str) -> bool {
        let made_with = self.subscription.as_ref().map_or("", |sub| sub.vapid.as_str());
        !made_with.is_empty() && made_with != ours
    }
}

// === impl Ledger ===

impl Ledger {
    /// The ledger as a checkpoint wrote it.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Ledger, serde_json::Error> {
        serde_json::from_str(checkpoint.truth.get())
    }

    /// Everything still true, with all records before `as_of` folded in.
    pub fn checkpoint(&self, as_of: Position) -> Result<Checkpoint, serde_json::Error> {
        let truth = RawValue::from_string(serde_json::to_string(self)?)?;
        Ok(Checkpoint { as_of, truth })
    }

    /// Folds one record in.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Decided(decided) => self.decided(decided),
            Record::Settled(settled) => self.settled(settled),
            Record::Receipt(receipt) => self.receipt(receipt),
            Record::Phone(change) => self.phone(change),
            Record::Known(known) => self.memory.apply_known(known),
            Record::Body(body) => {
                let unread = Unread {
                    source: body.source.clone(),
                    received: body.received,
                    raw: STANDARD.encode(&body.raw),
                };
                self.unread.insert(body.id, unread);
            }
            Record::BodyRead(read) => drop(self.unread.remove(&read.body)),
            Record::Seen(event) => drop(self.seen(event)),
            Record::Quarantined(_) | Record::Checkpoint(_) | Record::Keys(_) => {}
        }
    }

    /// Takes in an event for what it says of a door; whether it did.
    pub fn seen(&mut self, event: &Arc<Event>) -> bool {
        let is_last = [CONFIRMED, UNCONFIRMED].contains(&event.kind.as_str());
        if let Some(door) = event.subject.as_ref().filter(|_| is_last) {
            self.commanded.remove(door);
        }
        self.audit.take(event)
    }

    /// Whether the event at `position` still waits for the rules.
    pub fn awaits_decision(&self, position: Position) -> bool {
        self.decided_to.is_none_or(|last| position > last) && !self.ahead.contains(&position)
    }

    /// Alerts that somebody has in hand, also if that was not decided any more before the last stop:
    /// nothing of them is sent.
    pub fn acknowledged<'e>(&self, undecided: impl Iterator<Item = &'e Event>) -> Vec<AlertId> {
        let alerts = self.memory.alerts();
        let acknowledges = |event: &Event| match MessageRef::in_hand(event) {
            Some(message) => alerts.open_with(&message),
            None => acked_by(event),
        };
        let named = undecided.flat_map(acknowledges);
        let known = alerts.iter();
        let known = known.filter(|(_, alert)| alert.acked.is_some()).map(|(id, _)| id);
        named.chain(known).collect()
    }

    /// The phone that holds this session, by the SHA-256 of its cookie.
    pub fn phone_by_session(&self, session: &str) -> Option<(&PhoneId, &Phone)> {
        self.phones.iter().find(|(_, phone)| phone.session.as_deref() == Some(session))
    }

    fn decided(&mut self, decided: &Decided) {
        if !self.awaits_decision(decided.seen) {
            return;
        }
        if decided.ahead {
            self.ahead.insert(decided.seen);
        } else {
            self.decided_to = self.decided_to.max(Some(decided.seen));
            self.ahead.retain(|ahead| Some(*ahead) > self.decided_to);
        }
        self.memory.apply_decided(decided, decided.at);
        decided.resent.iter().for_each(|letter| self.dead.resent(letter));
        decided.actions.iter().for_each(|action| self.begun(action, decided));
        self.dead.untold(decided);
        let owed = decided.actions.iter().filter(|a| !matches!(a.task, Task::Emit(_)));
        self.owed.extend(owed.map(|action| (action.id, action.clone())));
    }

    /// A notification begins: a drill is remembered by its phone, anything else would be missed.
    fn begun(&mut self, action: &Action, decided: &Decided) {
        let phone = match &action.task {
            Task::Push { phone, .. } => self.phones.get_mut(phone),
            Task::Emit(_) | Task::Command(_) | Task::Open(_) => None,
        };
        if action.rule == DRILL_RULE {
            if let Some(phone) = phone {
                phone.drill = Some(Drill::begun(action.id, decided.at));
            }
        } else if is_letter(action) {
            let person = phone.as_ref().map(|phone| phone.person.clone());
            let name = phone.map(|phone| phone.name.clone());
            let sent = Sent { at: decided.at, event: decided.event, person, name };
            self.sent.insert(action.id, sent);
        }
    }

    fn settled(&mut self, settled: &Settled) {
        self.memory.apply_settled(settled);
        let Some(action) = self.owed.remove(&settled.action) else { return };
        if let Some(sent) = self.sent.remove(&settled.action) {
            self.dead.settled(DeadLetter {
                action: action.clone(),
                sent,
                outcome: settled.outcome.clone(),
                attempts: settled.attempts,
                at: settled.at,
            });
        }
        let phone = match &action.task {
            Task::Push { phone, .. } => phone,
            Task::Open(wish) => return self.opened(wish, &action, settled),
            Task::Emit(_) | Task::Command(_) => return,
        };
        let Some(phone) = self.phones.get_mut(phone) else { return };
        let drill = phone.drill.as_mut().filter(|drill| drill.action == settled.action);
        if let Some(drill) = drill {
            match settled.outcome.is_delivered() {
                true => drill.accepted = Some(settled.at),
                false => drill.failed = Some(settled.outcome.why().to_string()),
            }
        }
        match &settled.outcome {
            Outcome::Delivered | Outcome::Done => {
                phone.last_delivered = Some(settled.at);
                phone.failing = None;
            }
            // It says nothing about the phone.
            Outcome::Stopped { .. } => {}
            failed => phone.failing = Some(failed.why().to_string()),
        }
    }

    /// A door was told to open, if it was.
    fn opened(&mut self, wish: &Opening, action: &Action, settled: &Settled) {
        if matches!(settled.outcome, Outcome::Refused { .. }) {
            return;
        }
        self.commanded.remove(&wish.door);
        if settled.outcome.is_delivered() {
            self.commanded.insert(wish.door.clone(), (action.clone(), settled.at));
        }
        let opened = self.opened.entry(wish.door.clone()).or_default();
        opened.push_back(settled.at);
        while opened.len() > RATE_TIMES_MAX as usize {
            opened.pop_front();
        }
        let since = settled.at - RATE_PER_MAX;
        self.opened.values_mut().for_each(|opened| opened.retain(|at| *at > since));
        self.opened.retain(|_, opened| !opened.is_empty());
    }

    fn receipt(&mut self, receipt: &Receipt) {
        self.memory.apply_receipt(receipt);
        if let Some(phone) = self.phones.get_mut(&receipt.phone) {
            phone.seen = phone.seen.max(receipt.at);
            if receipt.what == Shown::Shown {
                phone.last_shown = phone.last_shown.max(Some(receipt.at));
            }
            // Whoever opened it has seen it, whatever the phone forgot to say.
            let drill = phone.drill.as_mut().filter(|drill| drill.action == receipt.action);
            if let Some(drill) = drill {
                drill.shown.get_or_insert(receipt.at);
            }
        }
    }

    fn phone(&mut self, change: &PhoneChange) {
        match change {
            PhoneChange::Invited { person, code, expires } => {
                let invite = Invite { person: person.clone(), expires: *expires };
                self.invites.insert(code.clone(), invite);
            }
            PhoneChange::Added { code, at, .. } => {
                self.invites
                    .retain(|hash, invite| Some(hash) != code.as_ref() && invite.expires > *at);
            }
            _ => {}
        }
        let Some(id) = change.phone() else { return };
        match Phone::after(self.phones.remove(id), change) {
            Some(phone) => {
                if phone.subscription.is_some() {
                    self.memory.set_phone(&phone.person, id.clone());
                } else {
                    self.memory.remove_phone(id);
                }
                self.phones.insert(id.clone(), phone);
            }
            None => self.memory.remove_phone(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(seen: u64, ahead: bool) -> Record {
        let seen = Position(seen);
        Record::Decided(Arc::new(Decided { seen, ahead, ..Decided::default() }))
    }

    fn waiting(ledger: &Ledger) -> Vec<u64> {
        (1..=5).filter(|at| ledger.awaits_decision(Position(*at))).collect()
    }

    #[test]
    fn what_was_decided_before_its_turn_is_not_decided_again_and_hides_nothing() {
        let mut ledger = Ledger::default();
        for (seen, ahead, left) in [
            (1, false, vec![2, 3, 4, 5]),
            (4, true, vec![2, 3, 5]),
            (2, false, vec![3, 5]),
            (3, false, vec![5]),
            (5, false, vec![]),
        ] {
            ledger.apply(&decided(seen, ahead));
            assert_eq!(waiting(&ledger), left);
            // Over a restart, too, and however often it is read.
            let checkpoint = ledger.checkpoint(Position(9)).unwrap();
            ledger = Ledger::from_checkpoint(&checkpoint).unwrap();
            ledger.apply(&decided(seen, ahead));
            assert_eq!(waiting(&ledger), left);
        }
        assert!(ledger.ahead.is_empty());
    }
}
