//! A drill: a marked test that goes the way of an alarm to phones, so that one knows beforehand
//! which of them would show it. Pure; how each phone did is in [`crate::ledger::Drill`].

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::action::{Action, ActionId, Lane, Message, PhoneId, Task, Urgency};
use crate::event::{Event, EventId};

/// The event behind `portero drill`; `data.phones` names the phones, `data.lives_s` how long each
/// notification is worth showing.
pub const EVENT: &str = "portero.drill";

/// Named as the rule in the journal and on the page.
pub const RULE: &str = "drill (built in)";

/// All that it does.
const STEP: &str = "do[0]";

/// How long one waits for the phones if nobody says otherwise.
pub const WAIT_DEFAULT_S: u32 = 60;

/// How long one may wait: a phone that shows an alarm later than that is no help.
pub const WAIT_S_MAX: u32 = 600;

/// The data of a drill's event.
pub fn data(phones: &[PhoneId], lives_s: u32) -> Map<String, Value> {
    let lives_s = lives_s.clamp(1, WAIT_S_MAX);
    let fields = [("phones", json!(phones)), ("lives_s", json!(lives_s))];
    fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// The notification that the drill of this event sends to a phone.
pub fn action(event: EventId, phone: &PhoneId) -> ActionId {
    ActionId::derive(event, RULE, STEP, &phone.0)
}

/// A push to each phone, as urgent as can be.
pub(super) fn actions(event: &Event, now: Timestamp) -> Vec<Action> {
    let phones = event.data.get("phones").and_then(Value::as_array);
    let phones = phones.into_iter().flatten().filter_map(Value::as_str);
    let lives_s = event.data.get("lives_s").and_then(Value::as_u64);
    let lives_s = lives_s.and_then(|s| u32::try_from(s).ok()).unwrap_or(WAIT_DEFAULT_S);
    let lives_s = lives_s.clamp(1, WAIT_S_MAX);
    let push = |phone: &str| {
        let phone = PhoneId(phone.to_string());
        let message = Message {
            title: "This is a drill".into(),
            body: "An alarm would reach this phone like this. There is nothing to do.".into(),
            url: Some(format!("/#event={}", event.id)),
            tag: Some("portero-drill".into()),
            urgency: Urgency::High,
            ttl_s: lives_s,
            ..Message::default()
        };
        Action {
            id: action(event.id, &phone),
            rule: RULE.into(),
            step: STEP.into(),
            deadline: now + SignedDuration::from_secs(lives_s.into()),
            lane: Lane::Alarm,
            alert: None,
            not_before: None,
            task: Task::Push { phone, message: Box::new(message) },
        }
    };
    phones.map(push).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::alert::ack_event;
    use crate::record::Position;

    #[test]
    fn every_phone_gets_an_alarm_that_is_not_worth_keeping() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let phones = ["a", "b"].map(|id| PhoneId(id.into()));
        let mut event = ack_event(&[], "ana", "terminal", None, now);
        (event.kind, event.data) = (EVENT.into(), data(&phones, 5));
        let decided = crate::builtin::decide(&Arc::new(event.clone()), Position(1), now).unwrap();
        assert_eq!(decided.actions.len(), 2);
        for (made, phone) in decided.actions.iter().zip(&phones) {
            assert_eq!((made.id, made.lane), (action(event.id, phone), Lane::Alarm));
            assert_eq!(made.deadline, now + SignedDuration::from_secs(5));
        }
        event.source = "hook/somebody".into();
        assert!(crate::builtin::decide(&Arc::new(event), Position(1), now).is_none());
    }
}
