//! Plans the steps of a rule that fires: which actions, which state, and what could not be
//! planned and why. A text that cannot be rendered never costs a notification: a missing title
//! becomes the rule's name, anything else is left out, and each is noted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use super::House;
use super::compile::{Act, Emit, Push, Recipient, Rule, Step, Template};
use super::engine;
use super::expr::{Refused, Text};
use super::ladder::Rung;
use super::memory::Memory;
use super::open::{self, Open};
use super::scene::Scene;
use super::tell::Tell;
use super::types;
use super::wait::Wait;
use crate::action::{Action, ActionId, Lane, Message, PhoneId, Task, Urgency};
use crate::alert::{AlertBegun, AlertId};
use crate::event::{Event, EventId, HOPS_MAX};
use crate::record::{NotSent, NotSentReason, StateSet};
use crate::timer::{Place, Timer};

/// How long an emitted event may wait for the journal before it is no news any more.
const EMIT_TTL: Duration = Duration::from_secs(24 * 3600);
/// The most bytes of a state variable's path, an emitted event's subject or a cooldown's key:
/// event data may end up in them, and they are kept.
pub(super) const NAME_BYTES_MAX: usize = 512;
/// The most bytes of a state variable's value, written as JSON; all of them stay in memory.
const VALUE_BYTES_MAX: usize = 4 << 10;
/// The most bytes of an emitted event's data, so that a chain of `emit` cannot grow without end.
const DATA_BYTES_MAX: usize = 64 << 10;
/// Digits of the event's id in a default tag: enough to tell two events of one rule apart.
const TAG_ID_DIGITS: usize = 8;

/// Stands for the phone of a person who has none, in the action's id.
const NO_PHONE_OF: &str = "no phone of ";

/// What one firing leads to.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub actions: Vec<Action>,
    pub sets: Vec<StateSet>,
    pub not_sent: Vec<NotSent>,
    pub stopped: bool,
    /// It left off at a `wait`.
    pub waits: bool,
    /// Waits that begin.
    pub timers: Vec<Timer>,
    /// Alerts that begin.
    pub alerts: Vec<AlertBegun>,
    /// The most urgent push, also of those that reach nobody.
    pub severity: Option<Urgency>,
}

/// Plans a rule's steps, all of them or those after the `wait` at a path.
pub(super) fn plan(
    rule: &Rule,
    scene: &Arc<Scene>,
    memory: &Memory,
    house: &House,
    after: Option<&str>,
) -> Plan {
    let mut planner =
        Planner { rule, scene, memory, house, after, alert: None, round: 0, plan: Plan::default() };
    planner.steps(&rule.steps);
    planner.plan
}

/// Plans one rung of an alert's ladder.
pub(super) fn climb(
    rule: &Rule,
    scene: &Arc<Scene>,
    memory: &Memory,
    house: &House,
    alert: AlertId,
    rung: &Rung,
    round: u32,
) -> Plan {
    let (plan, alert) = (Plan::default(), Some(alert));
    let mut planner = Planner { rule, scene, memory, house, after: None, alert, round, plan };
    planner.climb(rung, round);
    planner.plan
}

pub(super) struct Planner<'a> {
    pub(super) rule: &'a Rule,
    pub(super) scene: &'a Arc<Scene>,
    memory: &'a Memory,
    house: &'a House,
    /// The `wait` that is over, until it has been found again.
    after: Option<&'a str>,
    /// The alert that the steps belong to.
    pub(super) alert: Option<AlertId>,
    /// Which repetition of an alert's rung it is.
    pub(super) round: u32,
    pub(super) plan: Plan,
}

impl Planner<'_> {
    pub(super) fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            if self.plan.stopped || self.plan.waits {
                return;
            }
            if let Some(after) = self.after {
                self.skip_to(after, step);
                continue;
            }
            match &step.act {
                Act::Push(push) => self.push(&step.path, push),
                Act::Set(entries) => self.set(&step.path, entries),
                Act::Emit(emit) => self.emit(&step.path, emit),
                Act::Tell(tell) => self.tell(&step.path, tell),
                Act::Open(open) => self.open(&step.path, open),
                Act::If { condition, then, otherwise } => match condition.check(self.scene) {
                    Ok(()) => self.steps(then),
                    Err(Refused::False(_)) => self.steps(otherwise),
                    Err(Refused::Error(why)) => {
                        self.note(format!("{}.if", step.path), why);
                        self.steps(otherwise);
                    }
                },
                Act::Wait(wait) => self.wait(&step.path, wait),
                Act::Escalate(ladder) => self.escalate(&step.path, ladder),
                Act::Stop => self.plan.stopped = true,
            }
        }
    }

    /// Passes over a step that was done before the wait, and enters the branch that waits in it.
    fn skip_to(&mut self, after: &str, step: &Step) {
        if *step.path == *after {
            self.after = None;
        } else if let Act::If { then, otherwise, .. } = &step.act {
            let inside = after.strip_prefix(&*step.path).unwrap_or_default();
            if inside.starts_with(".then[") {
                self.steps(then);
            } else if inside.starts_with(".else[") {
                self.steps(otherwise);
            }
        }
    }

    fn wait(&mut self, step: &str, wait: &Wait) {
        let (due, expires) = wait.span.moments(self.scene.now(), self.rule.lane);
        let place = Place::After(step.to_string());
        self.plan.timers.push(engine::timer(self.rule, self.scene, place, due, expires));
        self.plan.waits = true;
    }

    /// Each repetition is another action.
    fn action_id(&self, step: &str, target: &str) -> ActionId {
        let (event, rule) = (self.scene.event().id, &self.rule.name);
        match self.round {
            0 => ActionId::derive(event, rule, step, target),
            round => ActionId::derive(event, rule, &format!("{step} {round}"), target),
        }
    }

    fn note(&mut self, step: String, detail: String) {
        let reason = NotSentReason::TemplateError;
        self.plan.not_sent.push(NotSent::new(step, reason, detail));
    }

    /// A text that may be missing: noted if it cannot be rendered.
    fn text(&mut self, step: &str, name: &str, text: &Text) -> Option<String> {
        match text.render(self.scene) {
            Ok(text) => Some(text),
            Err(why) => {
                self.note(format!("{step}.{name}"), why);
                None
            }
        }
    }

    fn push(&mut self, step: &str, push: &Push) {
        self.plan.severity = self.plan.severity.max(Some(push.urgency));
        let message = self.message(step, push);
        for person in self.people(step, push) {
            let phones: Vec<PhoneId> = self.memory.phones(&person).cloned().collect();
            if phones.is_empty() {
                self.no_phone(step, push, &person, &message);
            }
            let not_before = self.held_until(&person, push);
            for phone in phones {
                let mut message = message.clone();
                open::keep_permitted(&mut message.buttons, &phone, self.memory, self.house);
                let id = self.action_id(step, &phone.0);
                let task = Task::Push { phone, message: Box::new(message) };
                let action = self.notification(id, step, push, not_before, task);
                self.plan.actions.push(action);
            }
        }
    }

    fn notification(
        &self,
        id: ActionId,
        step: &str,
        push: &Push,
        not_before: Option<Timestamp>,
        task: Task,
    ) -> Action {
        Action {
            id,
            rule: self.rule.name.to_string(),
            step: step.to_string(),
            deadline: later(not_before.unwrap_or(self.scene.now()), push.ttl),
            not_before,
            lane: self.rule.lane,
            alert: self.alert,
            task,
        }
    }

    /// A person without a phone is noted. An alarm is kept whole, so that it can be sent again when
    /// the person has one; what is ordinary is for those who can be reached, and would only pile up.
    fn no_phone(&mut self, step: &str, push: &Push, person: &str, message: &Message) {
        let mut note = NotSent::new(step, NotSentReason::NoPhone, person);
        if self.rule.lane == Lane::Alarm || self.alert.is_some() {
            let mut message = message.clone();
            // They were for phones of whoever may open the doors; this one has none yet.
            message.buttons.clear();
            let id = self.action_id(step, &format!("{NO_PHONE_OF}{person}"));
            let task = Task::Push { phone: PhoneId::default(), message: Box::new(message) };
            note.letter = Some(Box::new(self.notification(id, step, push, None, task)));
        }
        self.plan.not_sent.push(note);
    }

    /// Until when a push is held: quiet hours stand before what can wait, and before nothing else.
    fn held_until(&self, person: &str, push: &Push) -> Option<Timestamp> {
        let urgent = push.urgency == Urgency::High || self.rule.lane == Lane::Alarm;
        if urgent || push.wakes || self.alert.is_some() {
            return None;
        }
        self.house.quiet_until(person, self.scene.now())
    }

    fn message(&mut self, step: &str, push: &Push) -> Message {
        let title = self.text(step, "push.title", &push.title);
        let mut optional = |name, text: &Option<Text>| {
            let text = text.as_ref().and_then(|text| self.text(step, name, text))?;
            Some(text).filter(|text| !text.is_empty())
        };
        let body = optional("push.body", &push.body);
        let image = optional("push.image", &push.image);
        let url = optional("push.url", &push.url);
        let tag = optional("push.tag", &push.tag);
        Message {
            title: title.unwrap_or_else(|| self.rule.name.to_string()),
            body: body.unwrap_or_default(),
            image,
            // A tap leads to the event on the page, unless the rule knows better.
            url: Some(url.unwrap_or_else(|| format!("/#event={}", self.scene.event().id))),
            tag: Some(tag.unwrap_or_else(|| self.default_tag(step))),
            alert: self.alert,
            clears: None,
            urgency: push.urgency,
            ttl_s: u32::try_from(push.ttl.as_secs()).unwrap_or(u32::MAX),
            buttons: open::planned(push, self.house, self.scene),
        }
    }

    /// The same for a resend of the same notification, different for the next event and for
    /// another step of the same rule.
    fn default_tag(&self, step: &str) -> String {
        let id = self.scene.event().id.to_string();
        let tag = format!("{}-{}", self.rule.name, &id[..TAG_ID_DIGITS]);
        if step == "do[0]" { tag } else { format!("{tag}-{step}") }
    }

    /// The people to reach, each once.
    fn people(&mut self, step: &str, push: &Push) -> Vec<Arc<str>> {
        let mut people: Vec<Arc<str>> = Vec::new();
        for recipient in &push.to {
            match recipient {
                Recipient::People(names) => people.extend(names.iter().cloned()),
                Recipient::Computed(text) => people.extend(self.computed(step, text)),
            }
        }
        let mut told = BTreeSet::new();
        people.retain(|person| told.insert(Arc::clone(person)));
        people
    }

    fn computed(&mut self, step: &str, text: &Text) -> Vec<Arc<str>> {
        let Some(name) = self.text(step, "push.to", text) else { return Vec::new() };
        match self.house.members(name.trim()) {
            Some(people) => people,
            None => {
                self.note(format!("{step}.push.to"), format!("nobody is called `{name}`"));
                Vec::new()
            }
        }
    }

    fn set(&mut self, step: &str, entries: &[(Text, Template)]) {
        for (path, value) in entries {
            let Some(path) = self.text(step, "set", path) else { continue };
            if path.is_empty() || path.len() > NAME_BYTES_MAX {
                self.note(format!("{step}.set"), "the path is empty or too long".to_string());
                continue;
            }
            if types::owner(&path).is_some() {
                let reason = NotSentReason::BadArgument;
                let detail = format!("only the system itself sets `{path}`");
                self.plan.not_sent.push(NotSent::new(format!("{step}.set"), reason, detail));
                continue;
            }
            match value.value(self.scene).and_then(|value| within(value, VALUE_BYTES_MAX)) {
                Ok(value) => {
                    let trust = self.scene.trust();
                    self.plan.sets.push(StateSet { path, value, trust });
                }
                Err(why) => self.note(format!("{step}.set.{path}"), why),
            }
        }
    }

    fn tell(&mut self, step: &str, tell: &Tell) {
        let filled = tell.fill(step, &self.rule.name, self.scene);
        self.plan.not_sent.extend(filled.notes);
        let Some((command, deadline)) = filled.command else { return };
        self.plan.actions.push(Action {
            id: self.action_id(step, &command.to),
            rule: self.rule.name.to_string(),
            step: step.to_string(),
            deadline,
            not_before: None,
            lane: self.rule.lane,
            alert: self.alert,
            task: Task::Command(Box::new(command)),
        });
    }

    fn open(&mut self, step: &str, open: &Open) {
        let lane = self.rule.lane;
        match open.plan(self.house, self.scene, &self.rule.name, step, lane) {
            Ok(action) => self.plan.actions.push(action),
            Err(detail) => {
                let reason = NotSentReason::TooManyHops;
                self.plan.not_sent.push(NotSent::new(step, reason, detail));
            }
        }
    }

    fn emit(&mut self, step: &str, emit: &Emit) {
        let event = self.scene.event();
        if event.hops >= HOPS_MAX {
            let detail = format!("`{}` would be hop {}", emit.kind, u16::from(event.hops) + 1);
            let reason = NotSentReason::TooManyHops;
            self.plan.not_sent.push(NotSent::new(step, reason, detail));
            return;
        }
        let (event, now) = (Arc::clone(event), self.scene.now());
        let Some((subject, data)) = self.emitted(step, emit) else { return };
        let id = event.id.to_string();
        let made = Event {
            id: EventId::derive(["emit", &id, &self.rule.name, step]),
            source: "portero".to_string(),
            kind: emit.kind.to_string(),
            subject,
            time: Some(open::news_since(&event)),
            received: now,
            trust: self.scene.trust(),
            marks: event.marks,
            hops: event.hops + 1,
            data,
            raw: Vec::new(),
        };
        self.plan.actions.push(Action {
            id: self.action_id(step, "emit"),
            rule: self.rule.name.to_string(),
            step: step.to_string(),
            deadline: later(now, EMIT_TTL),
            not_before: None,
            lane: self.rule.lane,
            alert: self.alert,
            task: Task::Emit(Box::new(made)),
        });
    }

    /// Subject and data of an event to emit; `None` if one cannot be rendered, since an event
    /// with a part missing would be another event.
    fn emitted(&mut self, step: &str, emit: &Emit) -> Option<(Option<String>, Map<String, Json>)> {
        let subject = match &emit.subject {
            Some(text) => Some(self.text(step, "emit.subject", text)?),
            None => None,
        };
        let mut data = Map::new();
        for (name, value) in &emit.data {
            match value.value(self.scene) {
                Ok(value) => drop(data.insert(name.to_string(), value)),
                Err(why) => {
                    self.note(format!("{step}.emit.data.{name}"), why);
                    return None;
                }
            }
        }
        if subject.as_ref().is_some_and(|subject| subject.len() > NAME_BYTES_MAX) {
            self.note(format!("{step}.emit.subject"), "the subject is too long".to_string());
            return None;
        }
        match within(Json::Object(data), DATA_BYTES_MAX) {
            Ok(Json::Object(data)) => Some((subject.filter(|text| !text.is_empty()), data)),
            Ok(_) => None,
            Err(why) => {
                self.note(format!("{step}.emit.data"), why);
                None
            }
        }
    }
}

impl Template {
    /// What it becomes; if it cannot be rendered, why and where.
    pub(super) fn value(&self, scene: &Arc<Scene>) -> Result<Json, String> {
        match self {
            Template::Fixed(json) => Ok(json.clone()),
            Template::Text(text) => text.value(scene),
            Template::List(items) => items.iter().map(|item| item.value(scene)).collect(),
            Template::Map(entries) => {
                let field = |(name, value): &(Box<str>, Template)| {
                    Ok((name.to_string(), value.value(scene)?))
                };
                entries.iter().map(field).collect::<Result<_, String>>().map(Json::Object)
            }
        }
    }
}

/// The value, if it is not too long as JSON.
pub(super) fn within(value: Json, bytes_max: usize) -> Result<Json, String> {
    let bytes = match &value {
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        other => serde_json::to_vec(other).map_or(usize::MAX, |json| json.len()),
    };
    if bytes > bytes_max {
        return Err(format!("the value takes {bytes} bytes, more than {bytes_max}"));
    }
    Ok(value)
}

pub(super) fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}
