//! `open: { door: front, for: 3s }` and a push's `buttons`: taken from the tree, checked against
//! the config's doors, and planned. Whether the door then opens is not decided here.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::House;
use super::compile::Push;
use super::expr::Text;
use super::memory::Memory;
use super::scene::Scene;
use super::steps::later;
use super::tell::Tell;
use crate::action::{Action, ActionId, Button, Lane, PhoneId, Task};
use crate::door::{By, Door, MAX_AGE_DEFAULT, Opening};
use crate::event::{Event, HOPS_MAX, Trust};
use crate::node::{Cursor, nearest};

/// How long an intercom holds a relay, says its vendor.
const FOR: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(30)];
/// Phones show two buttons at most.
const BUTTONS_MAX: usize = 2;

/// One `open` step.
#[derive(Debug)]
pub(super) struct Open {
    pub door: Box<str>,
    pub for_ms: Option<u64>,
    /// The bytes of the door's name, to point at.
    pub range: Range<usize>,
}

/// One button of a push.
#[derive(Debug)]
pub(super) struct PushButton {
    pub title: Text,
    pub open: Box<str>,
}

impl Open {
    /// `open: front`, or with `for`.
    pub fn compile(house: &House, at: Cursor<'_>) -> Option<Open> {
        if at.get("door").is_none() && at.node().value.kind() != "a map" {
            let door = door(house, at)?;
            return Some(Open { door: door.name.as_str().into(), for_ms: None, range: at.range() });
        }
        let mut table = at.table()?;
        let name = table.required("door");
        let span = table.optional("for");
        table.done();
        let name = name?;
        let door = door(house, name)?;
        let for_ms = match span {
            None => None,
            Some(at) if !door.takes_time() => {
                let message = format!("`{}` opens for its system's own time", door.name);
                at.wrong_help(message, "leave `for` out");
                return None;
            }
            Some(at) => Some(u64::try_from(at.duration(FOR[0], FOR[1])?.as_millis()).ok()?),
        };
        Some(Open { door: door.name.as_str().into(), for_ms, range: name.range() })
    }

    /// What it is for the event that its rule fires for; why not, if the chain is too long.
    pub fn plan(
        &self,
        house: &House,
        scene: &Arc<Scene>,
        rule: &str,
        step: &str,
        lane: Lane,
    ) -> Result<Action, String> {
        let event = scene.event();
        if event.hops >= HOPS_MAX {
            return Err(format!("`open` would be hop {}", u16::from(event.hops) + 1));
        }
        let received = first_received(event);
        let max_age = house.doors.get(&self.door).map_or(MAX_AGE_DEFAULT, |door| door.max_age);
        let opening = Opening {
            door: self.door.to_string(),
            for_ms: self.for_ms,
            // Asked last: the state that was read on the way counts, too.
            trust: scene.trust(),
            marks: event.marks,
            received,
            time: event.time.filter(|_| event.hops == 0),
            by: By::Rule,
            event: Some(event.id),
            hops: event.hops,
        };
        Ok(Action {
            id: ActionId::derive(event.id, rule, step, &self.door),
            rule: rule.to_string(),
            step: step.to_string(),
            deadline: later(received, max_age),
            not_before: None,
            lane,
            alert: None,
            task: Task::Open(Box::new(opening)),
        })
    }
}

/// When the first event of a chain was received: passing news on makes it no younger.
fn first_received(event: &Event) -> jiff::Timestamp {
    let first = event.time.filter(|_| event.hops > 0);
    first.map_or(event.received, |first| first.min(event.received))
}

/// The time of an event that a rule makes of another one: since when it has been news.
pub(super) fn news_since(event: &Event) -> jiff::Timestamp {
    let own = event.time.filter(|_| event.hops > 0 || event.trust >= Trust::Fresh);
    own.map_or(event.received, |time| time.min(event.received))
}

/// A push's `buttons`.
pub(super) fn buttons(house: &House, at: Cursor<'_>) -> Option<Vec<PushButton>> {
    let items = at.list_or_one();
    if items.len() > BUTTONS_MAX {
        at.wrong(format!("more than {BUTTONS_MAX} buttons; phones show no more"));
        return None;
    }
    let all: Vec<_> = items.into_iter().map(|at| button(house, at)).collect();
    all.into_iter().collect()
}

fn button(house: &House, at: Cursor<'_>) -> Option<PushButton> {
    let mut table = at.table()?;
    let title = table.required("title").and_then(Text::compile);
    let open = table.required("open").and_then(|at| door(house, at));
    table.done();
    Some(PushButton { title: title?, open: open?.name.as_str().into() })
}

/// The buttons of one notification. One whose title cannot be rendered says "Open".
pub(super) fn planned(push: &Push, house: &House, scene: &Arc<Scene>) -> Vec<Button> {
    let event = scene.event().id;
    let one = |button: &PushButton| {
        let shown = || house.doors.get(&button.open).map_or(&*button.open, |door| door.shown());
        let title = button.title.render(scene).ok().filter(|title| !title.is_empty());
        Button {
            title: title.unwrap_or_else(|| format!("Open {}", shown())),
            open: button.open.to_string(),
            url: format!("/#door={}&event={event}", button.open),
        }
    };
    push.buttons.iter().map(one).collect()
}

/// Takes away the buttons of doors that a phone's person may not open: they would lead to a no.
pub(super) fn keep_permitted(
    buttons: &mut Vec<Button>,
    phone: &PhoneId,
    memory: &Memory,
    house: &House,
) {
    buttons.retain(|button| {
        let mut people = house.doors.people_of(&button.open);
        people.any(|person| memory.phones(person).any(|other| other == phone))
    });
}

/// The door of this name; a problem if there is none.
pub(super) fn door<'h>(house: &'h House, at: Cursor<'_>) -> Option<&'h Door> {
    let name = at.loose_text()?;
    let found = house.doors.get(name);
    if name.contains("{{") {
        at.wrong_help(
            "a template cannot say which door",
            "write one step for each, behind an `if`",
        );
    } else if found.is_none() {
        let known = || house.doors.all.keys().map(String::as_str);
        let message = format!("no door is called `{name}`");
        match nearest(name, known()) {
            Some(near) => at.wrong_help(message, format!("did you mean `{near}`?")),
            None if known().next().is_none() => {
                at.wrong_help(message, "add `[doors.<name>]` to portero.toml");
            }
            None => {
                let all: Vec<&str> = known().collect();
                at.wrong_help(message, format!("doors: {}", all.join(", ")));
            }
        }
    }
    found
}

/// Refuses a command that would open a door past all that its section of the config asks for.
pub(super) fn no_way_past(house: &House, tell: &Tell, at: Cursor<'_>) -> Option<()> {
    let Some(door) = house.doors.opened_by(&tell.to, tell.call(), |arg| tell.fixed_arg(arg)) else {
        return Some(());
    };
    let message = format!("this opens the door `{}` without asking what it requires", door.name);
    at.wrong_help(message, format!("write `open: {{ door: {} }}`", door.name));
    None
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::door::{Doors, Opener, Rate};
    use crate::event::{EventId, Marks};
    use crate::node::SourceFile;
    use crate::record::{Decided, Position};
    use crate::rules::RuleSet;
    use crate::rules::tests::house as bare;

    const RULES: &str = r#"
rules:
  - name: bell
    when: { type: fibaro.button }
    do:
      - emit: { type: house.rang }
      - push: { to: family, title: Bell, buttons: [ { title: Open, open: front } ] }
  - name: opens
    when: { type: house.rang }
    do: [ { open: { door: front, for: 3s } } ]
"#;

    fn start() -> Timestamp {
        "2026-11-20T10:00:00Z".parse().unwrap()
    }

    fn house() -> House {
        let door = Door {
            name: "front".into(),
            title: None,
            by: Opener::Fibaro { intercom: "gate".into(), relay: 0 },
            requires: Trust::Fresh,
            max_age: MAX_AGE_DEFAULT,
            max_rate: Rate::default(),
        };
        let rights = [("ana".to_string(), ["front".to_string()].into())].into();
        let doors = Arc::new(Doors { all: [("front".to_string(), door)].into(), rights });
        let sources = ["fibaro/gate".to_string()].into();
        House { doors, sources, ..bare() }
    }

    fn ring(time: Option<Timestamp>) -> Event {
        Event {
            id: EventId([3; 16]),
            source: "fibaro/gate".into(),
            kind: "fibaro.button".into(),
            subject: None,
            time,
            received: start(),
            trust: Trust::Fresh,
            marks: Marks::default(),
            hops: 0,
            data: Default::default(),
            raw: Vec::new(),
        }
    }

    fn decide(event: &Event, after_s: i64) -> Decided {
        let file = SourceFile::new("rules/a.yaml", RULES);
        let rules = RuleSet::load(vec![file], &house()).unwrap_or_else(|wrong| panic!("{wrong}"));
        let mut memory = Memory::new();
        memory.set_phone("ana", PhoneId("a".into()));
        memory.set_phone("ben", PhoneId("b".into()));
        let now = start() + SignedDuration::from_secs(after_s);
        rules.decide(&Arc::new(event.clone()), Position(1), &memory, now)
    }

    fn emitted(decided: &Decided) -> Event {
        let made = decided.actions.iter().find_map(|action| match &action.task {
            Task::Emit(event) => Some((**event).clone()),
            _ => None,
        });
        made.unwrap()
    }

    #[test]
    fn passing_news_on_makes_it_no_younger() {
        let hours_ago = start() - SignedDuration::from_hours(2);
        for (time, since) in [(None, start()), (Some(hours_ago), hours_ago)] {
            let made = emitted(&decide(&ring(time), 8));
            assert_eq!(made.received, start() + SignedDuration::from_secs(8));
            let decided = decide(&made, 9);
            let Task::Open(wish) = &decided.actions[0].task else { panic!() };
            assert_eq!((wish.received, wish.time), (since, None));
            assert_eq!((wish.for_ms, wish.hops, wish.trust), (Some(3000), 1, Trust::Fresh));
        }
        // Somebody else's time is no better than its signature.
        let authentic = Event { trust: Trust::Authentic, ..ring(Some(hours_ago)) };
        assert_eq!(emitted(&decide(&authentic, 1)).time, Some(start()));
    }

    #[test]
    fn a_button_is_for_those_who_may_open() {
        let decided = decide(&ring(None), 0);
        let pushed: Vec<(&str, Vec<&str>)> = decided
            .actions
            .iter()
            .filter_map(|action| match &action.task {
                Task::Push { phone, message } => {
                    let urls = message.buttons.iter().map(|button| button.url.as_str()).collect();
                    Some((phone.0.as_str(), urls))
                }
                _ => None,
            })
            .collect();
        let url = format!("/#door=front&event={}", EventId([3; 16]));
        assert_eq!(pushed, [("a", vec![url.as_str()]), ("b", vec![])]);
    }
}
