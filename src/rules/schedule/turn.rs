//! Time triggers in a decision: the first time of each is set when its rule comes into force, and
//! each time that comes begins the wait for the next. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Schedule;
use crate::event::{Event, EventId, Marks, Trust};
use crate::record::Verdict;
use crate::rules::compile::Rule;
use crate::rules::engine::{Deciding, Start};
use crate::rules::{Memory, RuleSet};
use crate::timer::{End, Place, SCHEDULE_EVENT, Timer, TimerId};

impl RuleSet {
    /// Rules with a time trigger that nothing waits for, or that waits for a moment which is no
    /// time of its any more: the house has moved, or its clock has another time zone.
    pub fn unscheduled(&self, memory: &Memory) -> Vec<&str> {
        let timed = self.rules.iter().filter(|rule| !rule.schedules.is_empty());
        let lacks = |rule: &&Rule| {
            let mut all = rule.schedules.iter().enumerate();
            all.any(|(which, schedule)| {
                let timer = set_for(rule, which, memory);
                timer.is_none_or(|timer| !schedule.comes_at(timer.due, &self.house))
            })
        };
        timed.filter(lacks).map(|rule| &*rule.name).collect()
    }
}

impl<'a> Deciding<'a> {
    /// Rules with time triggers have come into force.
    pub fn set_schedules(&mut self, event: &Event) {
        let names = event.data.get("rules").and_then(Value::as_array);
        let names: Vec<&str> = names.into_iter().flatten().filter_map(Value::as_str).collect();
        let house = &self.rules.house;
        for rule in names.into_iter().filter_map(|name| self.rules.rule(name)) {
            for (which, schedule) in rule.schedules.iter().enumerate() {
                match set_for(rule, which, self.memory) {
                    Some(timer) if schedule.comes_at(timer.due, house) => continue,
                    Some(timer) => self.end(timer, End::RuleGone),
                    None => {}
                }
                // They came into force then, even if that is decided only now.
                let since = event.received.min(self.now);
                let why = match self.wait_for_next(rule, which, since) {
                    Some(due) => format!("{}: next at {}", schedule.said, self.clock(due)),
                    None => format!("{}: it does not come within a year", schedule.said),
                };
                self.looked(rule, Verdict::Waiting, why);
            }
        }
    }

    /// A time trigger's time has come.
    pub fn scheduled(&mut self, rule: &'a Rule, timer: &'a Timer, which: usize, event: &Event) {
        let Some(schedule) = rule.schedules.get(which) else {
            return self.end(timer, End::RuleGone);
        };
        let latest = schedule.latest(timer.due, self.now, &self.rules.house);
        let expires = latest.checked_add(schedule.late).unwrap_or(Timestamp::MAX);
        let is_late = expires < self.now;
        self.end(timer, if is_late { End::Expired } else { End::Due });
        if is_late {
            let due = self.clock(latest);
            let why = format!("{}: it was due at {due} and is too late", schedule.said);
            self.looked(rule, Verdict::Ended, why);
        } else {
            let event = Arc::new(at_time(event, latest));
            let scene = self.scene(&event);
            self.look(rule, &scene, Start::Time { due: latest, first: timer.due });
        }
        // Not before what is decided now, even if the clock was put back meanwhile.
        self.wait_for_next(rule, which, self.now.max(timer.due));
    }

    fn wait_for_next(&mut self, rule: &Rule, which: usize, after: Timestamp) -> Option<Timestamp> {
        let schedule = rule.schedules.get(which)?;
        let due = schedule.next(after, &self.rules.house)?;
        // Their number is that of the rules, so they need no limit of their own.
        self.decided.begun.push(timer(rule, which, schedule, (self.now, due)));
        Some(due)
    }
}

/// What waits for a time trigger of a rule as it is now.
fn set_for<'m>(rule: &Rule, which: usize, memory: &'m Memory) -> Option<&'m Timer> {
    let place = Place::Schedule { which };
    memory.timers().of(&rule.name).find(|timer| timer.at == place && timer.stamp == rule.stamp)
}

fn timer(
    rule: &Rule,
    which: usize,
    schedule: &Schedule,
    (now, due): (Timestamp, Timestamp),
) -> Timer {
    let event = occurrence(rule, which, schedule, due);
    let at = Place::Schedule { which };
    // A changed rule's timer is another one, even if it is due at the same moment.
    let place = format!("{} {}", at.name(), rule.stamp);
    Timer {
        id: TimerId::derive(event.id, &rule.name, &place),
        rule: rule.name.to_string(),
        stamp: rule.stamp.clone(),
        at,
        event: Arc::new(event),
        begun: now,
        due,
        expires: Some(due.checked_add(schedule.late).unwrap_or(Timestamp::MAX)),
        trust: Trust::Fresh,
    }
}

/// The event of one time: the same however often it is made.
fn occurrence(rule: &Rule, which: usize, schedule: &Schedule, due: Timestamp) -> Event {
    let (number, moment) = (which.to_string(), due.to_string());
    let mut data = Map::new();
    data.insert("trigger".into(), schedule.said.as_str().into());
    let event = Event {
        id: EventId::derive([SCHEDULE_EVENT, &*rule.name, &number, &moment]),
        source: "portero".into(),
        kind: SCHEDULE_EVENT.into(),
        subject: Some(rule.name.to_string()),
        time: Some(due),
        received: due,
        trust: Trust::Fresh,
        marks: Marks::default(),
        hops: 0,
        data,
        raw: Vec::new(),
    };
    at_time(&event, due)
}

/// The event as of this moment. It counts as heard when it was due: a late one is no fresh news,
/// least of all for a door.
fn at_time(event: &Event, due: Timestamp) -> Event {
    let mut event = event.clone();
    event.data.insert("due".into(), due.to_string().into());
    Event { time: Some(due), received: due, ..event }
}
