//! The few decisions that need no rule file. Pure.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::action::{Action, ActionId, Lane, Message, PhoneId, Task, Urgency};
use crate::event::Event;
use crate::record::{Decided, Looked, Position, Verdict};

/// The event behind the page's "send a test" button; `data.phone` names the phone.
pub const TEST_EVENT: &str = "portero.test";

/// Named as the rule in the journal and on the page.
const TEST_RULE: &str = "test button (built in)";

/// A test that comes late tells nothing.
const TEST_LIVES: SignedDuration = SignedDuration::from_mins(5);

/// Decides about the events that are ours to decide about; `None` for all others.
pub fn decide(event: &Arc<Event>, seen: Position, now: Timestamp) -> Option<Decided> {
    if event.kind != TEST_EVENT {
        return None;
    }
    let phone = PhoneId(event.data.get("phone")?.as_str()?.to_string());
    let message = Message {
        title: "Portero can reach this phone".into(),
        body: "This is the test you asked for.".into(),
        tag: Some("portero-test".into()),
        urgency: Urgency::High,
        ttl_s: u32::try_from(TEST_LIVES.as_secs()).unwrap_or(0),
        ..Message::default()
    };
    let action = Action {
        id: ActionId::derive(event.id, TEST_RULE, "do[0]", &phone.0),
        rule: TEST_RULE.into(),
        step: "do[0]".into(),
        deadline: now + TEST_LIVES,
        lane: Lane::Normal,
        task: Task::Push { phone, message: Box::new(message) },
    };
    let looked = Looked {
        rule: TEST_RULE.into(),
        verdict: Verdict::Fired,
        why: String::new(),
        not_sent: Vec::new(),
        cooldown: None,
    };
    Some(Decided {
        event: event.id,
        seen,
        at: now,
        rules: "built in".into(),
        looked: vec![looked],
        sets: Vec::new(),
        actions: vec![action],
    })
}
