//! The few decisions that need no rule file. Pure.

pub mod drill;
pub mod resend;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::action::{Action, ActionId, Lane, Message, PhoneId, Task, Urgency};
use crate::command::Command;
use crate::door::{MAX_AGE, Opening};
use crate::doors::tell;
use crate::event::{Event, EventId};
use crate::record::{Decided, Looked, Position, Verdict};
use crate::timer::{End, Ended, GONE_EVENT};

/// The event behind the page's "send a test" button; `data.phone` names the phone.
pub const TEST_EVENT: &str = "portero.test";

/// Named as the rule in the journal and on the page.
const TEST_RULE: &str = "test button (built in)";

/// All that they do.
const STEP: &str = "do[0]";

/// A test that comes late tells nothing.
const TEST_LIVES: SignedDuration = SignedDuration::from_mins(5);

/// The event behind a command that a person gives; `data.command` is the [`Command`],
/// `data.deadline` when it is void.
pub const COMMAND_EVENT: &str = "portero.command";

/// Named as the rule in the journal and on the page.
const COMMAND_RULE: &str = "command by hand (built in)";

/// The action that a [`COMMAND_EVENT`] of this id leads to.
pub fn command_action(event: EventId, to: &str) -> ActionId {
    ActionId::derive(event, COMMAND_RULE, STEP, to)
}

/// Decides about the events that are ours to decide about; `None` for all others.
pub fn decide(event: &Arc<Event>, seen: Position, now: Timestamp) -> Option<Decided> {
    let is_own = event.source == "portero";
    let (actions, resent) = match event.kind.as_str() {
        TEST_EVENT if is_own => (vec![test(event, now)?], None),
        COMMAND_EVENT if is_own => (vec![command(event)?], None),
        GONE_EVENT if is_own => return Some(gone(event, seen, now)),
        tell::PRESSED if is_own => (vec![press(event)?], None),
        drill::EVENT if is_own => (drill::actions(event, now), None),
        resend::EVENT if is_own => {
            let (actions, letter) = resend::actions(event, now)?;
            (actions, Some(letter))
        }
        _ => return None,
    };
    let looked = actions.first().map(|action| Looked {
        rule: action.rule.clone(),
        verdict: Verdict::Fired,
        why: String::new(),
        not_sent: Vec::new(),
        cooldown: None,
    });
    Some(Decided {
        event: event.id,
        seen,
        at: now,
        rules: "built in".into(),
        looked: looked.into_iter().collect(),
        actions,
        resent: resent.into_iter().collect(),
        ..Decided::default()
    })
}

/// Rules are no more: their waits end.
fn gone(event: &Event, seen: Position, now: Timestamp) -> Decided {
    let list = event.data.get("timers").and_then(Value::as_array);
    let ids = list.into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok());
    Decided {
        event: event.id,
        seen,
        at: now,
        rules: "built in".into(),
        ended: ids.map(|timer| Ended { timer, why: End::RuleGone }).collect(),
        ..Decided::default()
    }
}

fn test(event: &Event, now: Timestamp) -> Option<Action> {
    let phone = PhoneId(event.data.get("phone")?.as_str()?.to_string());
    let message = Message {
        title: "Portero can reach this phone".into(),
        body: "This is the test you asked for.".into(),
        url: Some(format!("/#event={}", event.id)),
        tag: Some("portero-test".into()),
        urgency: Urgency::High,
        ttl_s: u32::try_from(TEST_LIVES.as_secs()).unwrap_or(0),
        ..Message::default()
    };
    Some(Action {
        id: ActionId::derive(event.id, TEST_RULE, STEP, &phone.0),
        rule: TEST_RULE.into(),
        step: STEP.into(),
        deadline: now + TEST_LIVES,
        not_before: None,
        lane: Lane::Normal,
        alert: None,
        task: Task::Push { phone, message: Box::new(message) },
    })
}

/// Somebody pressed; the right to do so was checked before the event was made, and the door itself
/// looks once more.
fn press(event: &Event) -> Option<Action> {
    let door = event.subject.clone().filter(|_| event.source == "portero")?;
    let seen = event.data.get("event").and_then(|id| id.as_str()?.parse().ok());
    let opening = Opening {
        door: door.clone(),
        for_ms: None,
        trust: event.trust,
        marks: event.marks,
        received: event.received,
        time: None,
        by: tell::by_of(event)?,
        event: seen,
        hops: event.hops,
    };
    Some(Action {
        id: tell::press_action(event.id, &door),
        rule: tell::PRESS_RULE.into(),
        step: STEP.into(),
        deadline: event.received + MAX_AGE[1],
        not_before: None,
        lane: Lane::Alarm,
        alert: None,
        task: Task::Open(Box::new(opening)),
    })
}

/// Its arguments were checked before the event was made.
fn command(event: &Event) -> Option<Action> {
    let command: Command = serde_json::from_value(event.data.get("command")?.clone()).ok()?;
    Some(Action {
        id: command_action(event.id, &command.to),
        rule: COMMAND_RULE.into(),
        step: STEP.into(),
        deadline: event.data.get("deadline")?.as_str()?.parse().ok()?,
        not_before: None,
        lane: Lane::Normal,
        alert: None,
        task: Task::Command(Box::new(command)),
    })
}
