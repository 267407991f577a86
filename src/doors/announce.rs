//! Who must hear at once that a door was not opened, or that nobody knows: all who may open it,
//! without any rule. Rules see the same events besides and may do more.

use jiff::{SignedDuration, Timestamp};

use super::tell::{PREFIX, Step};
use crate::action::{Action, ActionId, Lane, Message, Task, Urgency};
use crate::door::Doors;
use crate::event::Event;
use crate::record::{CooldownStart, Decided, Looked, Verdict};
use crate::rules::Memory;

/// Named as the rule in the journal and on the page.
const RULE: &str = "doors are watched (built in)";
/// Whoever sees it later than that looks at the page anyway.
const LIVES: SignedDuration = SignedDuration::from_hours(1);
/// Refusals of one door within this are told once: a bell that is rung a hundred times, or a
/// message sent again and again, must not drum on everybody's phones. All of them are events.
const AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Adds to a decision what is announced without any rule.
pub fn announce(
    event: &Event,
    decided: &mut Decided,
    doors: &Doors,
    memory: &Memory,
    now: Timestamp,
) {
    let Some(step) = told(event) else { return };
    let Some(door) = event.subject.as_deref() else { return };
    let key = format!("{door} {}", step.word());
    let refused = step == Step::Refused;
    let looked = |verdict, why: String, cooldown| Looked {
        rule: RULE.into(),
        verdict,
        why,
        not_sent: Vec::new(),
        cooldown,
    };
    if refused && memory.cooldown(RULE, &key, now).is_some() {
        let why = "its people were told a moment ago".into();
        decided.looked.push(looked(Verdict::Cooldown, why, None));
        return;
    }
    let shown = doors.get(door).map_or(door, |door| door.shown());
    let message = message(step, shown, event);
    let mut actions = Vec::new();
    for person in doors.people_of(door) {
        for phone in memory.phones(person) {
            actions.push(Action {
                id: ActionId::derive(event.id, RULE, "do[0]", &phone.0),
                rule: RULE.into(),
                step: "do[0]".into(),
                deadline: now + LIVES,
                not_before: None,
                lane: Lane::Alarm,
                alert: None,
                task: Task::Push { phone: phone.clone(), message: Box::new(message.clone()) },
            });
        }
    }
    let until = now + AGAIN_AFTER;
    let cooldown = refused.then_some(CooldownStart { key, severity: Urgency::High, until });
    decided.looked.push(looked(Verdict::Fired, String::new(), cooldown));
    decided.actions.extend(actions);
}

/// The step that people must hear of. Nobody waits at the door for what is not live.
fn told(event: &Event) -> Option<Step> {
    if !event.marks.is_plain() || event.source != "portero" {
        return None;
    }
    let word = event.kind.strip_prefix(PREFIX)?;
    [Step::Refused, Step::Unknown].into_iter().find(|step| step.word() == word)
}

fn message(step: Step, door: &str, event: &Event) -> Message {
    let text = |name: &str| event.data.get(name).and_then(|value| value.as_str());
    let why = text("why").unwrap_or_default();
    let who = match (text("by"), text("person"), text("rule")) {
        (Some("person"), Some(person), _) => format!("{person} pressed"),
        (Some("terminal"), ..) => "asked for at the terminal".into(),
        (_, _, rule) => format!("rule “{}”", rule.unwrap_or_default()),
    };
    let (title, body) = match step {
        Step::Refused => (format!("Not opened: {door}"), format!("{who}: {why}")),
        _ => (
            format!("Did it open? {door}"),
            format!("{who}: {why}. Nobody knows whether it opened; it is not told again."),
        ),
    };
    Message {
        title,
        body,
        url: Some(format!("/#event={}", event.id)),
        tag: Some(format!("door-{}-{}", event.subject.as_deref().unwrap_or(door), step.word())),
        urgency: Urgency::High,
        ttl_s: u32::try_from(LIVES.as_secs()).unwrap_or(0),
        ..Message::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::action::PhoneId;
    use crate::event::{EventId, Marks, Trust};
    use crate::record::Position;

    fn now() -> Timestamp {
        "2026-11-20T10:00:00Z".parse().unwrap()
    }

    fn event(kind: &str) -> Event {
        let data = json!({ "door": "front", "by": "rule", "rule": "x", "why": "the news is old" });
        let data: Map<String, serde_json::Value> = serde_json::from_value(data).unwrap();
        Event {
            id: EventId([1; 16]),
            source: "portero".into(),
            kind: kind.into(),
            subject: Some("front".into()),
            time: None,
            received: now(),
            trust: Trust::Fresh,
            marks: Marks::default(),
            hops: 1,
            data,
            raw: Vec::new(),
        }
    }

    fn announced(event: &Event, memory: &mut Memory) -> Vec<String> {
        let mut doors = Doors::default();
        doors.rights.insert("ana".into(), ["front".to_string()].into());
        doors.rights.insert("ben".into(), ["back".to_string()].into());
        let mut decided =
            Decided { event: event.id, seen: Position(7), at: now(), ..Decided::default() };
        announce(event, &mut decided, &doors, memory, now());
        memory.apply_decided(&decided, now());
        let told = |action: &Action| match &action.task {
            Task::Push { phone, message } => format!("{phone}: {}", message.title),
            _ => String::new(),
        };
        decided.actions.iter().map(told).collect()
    }

    #[test]
    fn those_who_may_open_it_are_told_once() {
        let mut memory = Memory::new();
        memory.set_phone("ana", PhoneId("a".into()));
        memory.set_phone("ben", PhoneId("b".into()));
        let refused = event("portero.door.refused");
        assert_eq!(announced(&refused, &mut memory), ["a: Not opened: front"]);
        assert!(announced(&refused, &mut memory).is_empty());
        let unknown = event("portero.door.unknown");
        assert_eq!(announced(&unknown, &mut memory), ["a: Did it open? front"]);
        assert_eq!(announced(&unknown, &mut memory), ["a: Did it open? front"]);
    }

    #[test]
    fn nothing_else_is_announced() {
        let mut memory = Memory::new();
        memory.set_phone("ana", PhoneId("a".into()));
        for kind in ["portero.door.commanded", "portero.door.confirmed", "portero.test"] {
            assert!(announced(&event(kind), &mut memory).is_empty(), "{kind}");
        }
        let marks = Marks { caught_up: true, ..Marks::default() };
        let caught_up = Event { marks, ..event("portero.door.refused") };
        assert!(announced(&caught_up, &mut memory).is_empty());
        let forged = Event { source: "netatmo/home".into(), ..event("portero.door.refused") };
        assert!(announced(&forged, &mut memory).is_empty());
    }
}
