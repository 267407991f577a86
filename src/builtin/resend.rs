//! Sending a dead letter again. The letter travels whole in the event, so that the decision needs
//! nothing else and can be made again from the journal.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::action::{Action, ActionId, PhoneId, Task};
use crate::event::{Event, EventId, Marks, Trust};
use crate::ledger::DeadLetter;

/// The event by which somebody sends a dead letter again: `data.action` is its id, `data.by` who,
/// `data.phones` the phones, `data.letter` the old [`Action`], `data.lives_ms` for how long.
pub const EVENT: &str = "portero.resend";

/// Named as the rule in the journal and on the page.
pub const RULE: &str = "sent again by hand (built in)";

/// All that it does.
const STEP: &str = "do[0]";

/// The event by which `by` sends it again, to these phones if it is a push. The same letter gives
/// the same event: pressing twice sends once.
pub fn event(letter: &DeadLetter, phones: &[PhoneId], by: &str, now: Timestamp) -> Event {
    let id = letter.action.id.to_string();
    let lives_ms = i64::try_from(letter.lives().as_millis()).unwrap_or(i64::MAX);
    let fields = [
        ("action", json!(id)),
        ("by", json!(by)),
        ("phones", json!(phones)),
        ("lives_ms", json!(lives_ms)),
        ("letter", json!(letter.action)),
    ];
    let data: Map<String, Value> =
        fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    Event {
        id: EventId::derive([EVENT, &id, &letter.at.to_string()]),
        source: "portero".into(),
        kind: EVENT.into(),
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

/// The letter anew, with a fresh deadline of the same length; and its old id.
pub(super) fn actions(event: &Event, now: Timestamp) -> Option<(Vec<Action>, ActionId)> {
    let letter: Action = serde_json::from_value(event.data.get("letter")?.clone()).ok()?;
    let lives = SignedDuration::from_millis(event.data.get("lives_ms")?.as_i64()?);
    let anew = |target: &str, task: Task| Action {
        id: ActionId::derive(event.id, RULE, STEP, target),
        rule: RULE.into(),
        step: STEP.into(),
        deadline: now.saturating_add(lives).unwrap_or(Timestamp::MAX),
        lane: letter.lane,
        alert: letter.alert,
        not_before: None,
        task,
    };
    let actions = match &letter.task {
        Task::Push { message, .. } => {
            let phones = event.data.get("phones").and_then(Value::as_array);
            let phones = phones.into_iter().flatten().filter_map(Value::as_str);
            let push = |phone: &str| {
                let (id, message) = (PhoneId(phone.to_string()), message.clone());
                anew(phone, Task::Push { phone: id, message })
            };
            phones.map(push).collect()
        }
        Task::Command(command) => vec![anew(&command.to, Task::Command(command.clone()))],
        // Neither is ever a letter.
        Task::Emit(_) | Task::Open(_) => return None,
    };
    Some((actions, letter.id))
}
