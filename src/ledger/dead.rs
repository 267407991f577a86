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
use crate::record::Decided;

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

    /// Takes in what was for people without a phone.
    pub(super) fn untold(&mut self, decided: &Decided) {
        for note in decided.looked.iter().flat_map(|looked| &looked.not_sent) {
            let Some(action) = note.letter.as_deref().filter(|action| is_letter(action)) else {
                continue;
            };
            let person = Some(note.detail.clone());
            self.settled(DeadLetter {
                action: action.clone(),
                sent: Sent { at: decided.at, event: decided.event, person, name: None },
                outcome: Outcome::Gone { why: format!("{} has no phone", note.detail) },
                attempts: 0,
                at: decided.at,
            });
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

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::action::{Message, PhoneId};
    use crate::builtin::{drill, resend};
    use crate::command::Command;
    use crate::event::{Event, Trust, own_event};
    use crate::ledger::Ledger;
    use crate::node::SourceFile;
    use crate::record::{PhoneChange, Position, Record, Settled};
    use crate::rules::{House, Memory, RuleSet};

    fn now() -> Timestamp {
        "2026-11-20T10:00:00Z".parse().unwrap()
    }

    fn push(number: usize, lane: Lane) -> Action {
        let phone = PhoneId("p1".into());
        Action {
            id: ActionId::derive(EventId::default(), "r", "do[0]", &number.to_string()),
            rule: "r".into(),
            step: "do[0]".into(),
            deadline: now() + SignedDuration::from_mins(10),
            lane,
            alert: None,
            not_before: None,
            task: Task::Push { phone, message: Box::default() },
        }
    }

    fn command(repeat: Repeat) -> Action {
        let (to, call) = ("emm/block".to_string(), "message".to_string());
        let command = Command { to, call, args: Map::new(), repeat, trust: Trust::Human };
        Action { task: Task::Command(Box::new(command)), ..push(0, Lane::Normal) }
    }

    /// A ledger in which this was decided and ended like this, some seconds later.
    fn ends(ledger: &mut Ledger, seen: u64, action: Action, outcome: Outcome) {
        let id = action.id;
        let decided = Decided {
            seen: Position(seen),
            at: now(),
            actions: vec![action],
            ..Decided::default()
        };
        ledger.apply(&Record::Decided(decided.into()));
        let at = now() + SignedDuration::from_secs(seen as i64);
        let settled = Settled::new(id, outcome, 2, at);
        // A checkpoint may overlap what follows it.
        ledger.apply(&Record::Settled(settled.clone()));
        ledger.apply(&Record::Settled(settled));
    }

    fn is_dead(action: Action, outcome: Outcome) -> bool {
        let mut ledger = Ledger::default();
        ends(&mut ledger, 1, action, outcome);
        assert!(ledger.sent.is_empty() && ledger.owed.is_empty());
        ledger.dead.len() == 1
    }

    #[test]
    fn only_what_somebody_misses_is_a_dead_letter() {
        let push = || push(1, Lane::Normal);
        let why = || "x".to_string();
        assert!(is_dead(push(), Outcome::Expired { last: why() }));
        assert!(is_dead(push(), Outcome::Refused { why: why() }));
        assert!(is_dead(push(), Outcome::Gone { why: why() }));
        assert!(is_dead(push(), Outcome::Unknown { why: why() }));
        assert!(!is_dead(push(), Outcome::Expired { last: REPLACED.into() }));
        assert!(!is_dead(push(), Outcome::Stopped { why: why() }));
        assert!(!is_dead(push(), Outcome::Delivered));
        assert!(is_dead(command(Repeat::Better), Outcome::Unknown { why: why() }));
        assert!(!is_dead(command(Repeat::Never), Outcome::Unknown { why: why() }));
        assert!(!is_dead(command(Repeat::Harmless), Outcome::Expired { last: why() }));
        let drill = Action { rule: drill::RULE.into(), ..push() };
        assert!(!is_dead(drill, Outcome::Expired { last: why() }));
    }

    #[test]
    fn an_alarm_for_a_person_without_a_phone_is_one() {
        let text = "rules:\n  - { name: alarm, when: { type: house.smoke }, lane: alarm, \
                    do: { push: { to: ben, title: Smoke, ttl: 10m } } }\n  - { name: ordinary, \
                    when: { type: house.smoke }, do: { push: { to: ben, title: Smoke } } }\n  \
                    - { name: emits, when: { type: portero.test }, do: { emit: { type: house.smoke } } }\n";
        let house = House { people: ["ben".to_string()].into(), ..House::default() };
        let rules = RuleSet::load(vec![SourceFile::new("a.yaml", text)], &house);
        let rules = rules.unwrap_or_else(|wrong| panic!("{wrong}"));
        let smoke = own_event("house.smoke", "1", Map::new(), now());
        let decided = rules.decide(&smoke.into(), Position(1), &Memory::new(), now());
        let mut ledger = Ledger::default();
        let record = Record::Decided(decided.into());
        // A checkpoint may overlap what follows it.
        (0..2).for_each(|_| ledger.apply(&record));
        let all = ledger.dead.newest_first();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((all[0].outcome.label(), all[0].outcome.why()), ("gone", "ben has no phone"));
        assert_eq!(all[0].lives(), SignedDuration::from_mins(10));
        let shown = all[0].to_json();
        assert_eq!((&shown["person"], &shown["title"]), (&json!("ben"), &json!("Smoke")));
        let event = resend::event(&all[0], &[PhoneId("new".into())], "ana", now());
        let decided = crate::builtin::decide(&event.into(), Position(2), now()).unwrap();
        assert_eq!((decided.actions.len(), decided.actions[0].lane), (1, Lane::Alarm));
        ledger.apply(&Record::Decided(decided.into()));
        assert!(ledger.dead.is_empty());
    }

    #[test]
    fn the_newest_are_kept_and_alarms_longest() {
        let mut ledger = Ledger::default();
        for number in 0..DEAD_MAX + 100 {
            let lane = if number < 50 { Lane::Alarm } else { Lane::Normal };
            let outcome = Outcome::Expired { last: "503".into() };
            ends(&mut ledger, number as u64 + 1, push(number, lane), outcome);
        }
        assert_eq!(ledger.dead.len(), DEAD_MAX);
        let all = ledger.dead.newest_first();
        assert_eq!(all[0].action.id, push(DEAD_MAX + 99, Lane::Normal).id);
        assert_eq!(all.iter().filter(|letter| letter.action.lane == Lane::Alarm).count(), 50);
        let again = Ledger::from_checkpoint(&ledger.checkpoint(Position(9)).unwrap()).unwrap();
        assert_eq!(again.dead, ledger.dead);
    }

    #[test]
    fn sent_again_it_is_a_new_action_as_long_as_the_old_one_and_no_dead_letter_any_more() {
        let mut ledger = Ledger::default();
        let added = PhoneChange::Added {
            id: PhoneId("p1".into()),
            person: "ana".into(),
            name: "Ana's phone".into(),
            session: None,
            code: None,
            at: now(),
        };
        ledger.apply(&Record::Phone(added));
        let message = Message { title: "Smoke".into(), ttl_s: 600, ..Message::default() };
        let mut action = push(1, Lane::Alarm);
        action.task = Task::Push { phone: PhoneId("p1".into()), message: message.into() };
        ends(&mut ledger, 1, action.clone(), Outcome::Gone { why: "410".into() });
        let letter = ledger.dead.get(&action.id).unwrap().clone();
        assert_eq!(letter.sent.person.as_deref(), Some("ana"));
        assert_eq!(letter.to_json()["title"], "Smoke");

        let later = now() + SignedDuration::from_hours(5);
        let phones = ["p2", "p3"].map(|id| PhoneId(id.into()));
        let event: Event = resend::event(&letter, &phones, "ben", later);
        assert_eq!(event.id, resend::event(&letter, &phones, "ana", now()).id);
        let decided = crate::builtin::decide(&event.clone().into(), Position(2), later).unwrap();
        assert_eq!(decided.resent, [action.id]);
        assert_eq!(decided.actions.len(), 2);
        for made in &decided.actions {
            assert_ne!(made.id, action.id);
            assert_eq!(made.deadline, later + SignedDuration::from_mins(10));
            assert_eq!(made.lane, Lane::Alarm);
        }
        ledger.apply(&Record::Decided(decided.into()));
        assert!(ledger.dead.is_empty());
        assert_eq!(ledger.owed.len(), 2);
        let forged = Event { source: "hook/somebody".into(), ..event };
        assert!(crate::builtin::decide(&forged.into(), Position(3), later).is_none());
    }
}
