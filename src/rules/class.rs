//! What is about an alarm: which records may have the space that is kept for alarms when the disk
//! is full. Pure.
//!
//! An opening counts as one: it happens only if its intent is durable, and somebody stands at the
//! door.

use serde_json::Value;

use super::RuleSet;
use super::compile::{Act, Rule, Step};
use crate::action::{Lane, Task};
use crate::alert::{ACK_EVENT, READ_EVENT};
use crate::doors::tell;
use crate::event::Event;
use crate::record::{Class, Decided, Record};
use crate::timer::{DUE_EVENT, GONE_EVENT, SCHEDULE_EVENT, SCHEDULE_SET_EVENT};

impl RuleSet {
    /// The class of a call: the highest of its records. How the actions of a decision ended adds
    /// nothing to the decision.
    pub fn class(&self, records: &[Record]) -> Class {
        let decides = records.iter().any(|record| matches!(record, Record::Decided(_)));
        let class = |record: &Record| match record {
            Record::Settled(_) if decides => Class::Ordinary,
            record => self.class_of(record),
        };
        records.iter().map(class).max().unwrap_or(Class::Ordinary)
    }

    fn class_of(&self, record: &Record) -> Class {
        let is_alarm = match record {
            Record::Seen(event) => self.is_about_alarm(event),
            Record::Decided(decided) => self.decides_alarm(decided),
            // A system that drains what it gives may have given an alarm.
            Record::Body(_) | Record::BodyRead(_) => true,
            Record::Settled(_) | Record::Phone(_) | Record::Checkpoint(_) | Record::Keys(_) => {
                return Class::Keeping;
            }
            Record::Receipt(_) | Record::Quarantined(_) | Record::Known(_) => false,
        };
        if is_alarm { Class::Alarm } else { Class::Ordinary }
    }

    /// Whether an event is about an alarm, an acknowledgement or a door.
    pub fn is_about_alarm(&self, event: &Event) -> bool {
        if event.source == "portero" {
            match event.kind.as_str() {
                ACK_EVENT => return true,
                kind if kind.starts_with(tell::PREFIX) => return true,
                DUE_EVENT | SCHEDULE_EVENT | SCHEDULE_SET_EVENT | GONE_EVENT => {
                    return self.names_urgent(event);
                }
                _ => {}
            }
        }
        event.kind == READ_EVENT || self.is_looked_at(event)
    }

    /// Whether a wait that this event tells of is one of an urgent rule.
    fn names_urgent(&self, event: &Event) -> bool {
        let one = event.data.get("rule").and_then(Value::as_str).or(event.subject.as_deref());
        let all = event.data.get("rules").and_then(Value::as_array);
        let all = all.into_iter().flatten().filter_map(Value::as_str);
        one.into_iter().chain(all).any(|name| self.is_urgent(name))
    }

    /// Whether an urgent rule begins, goes on or ends with it.
    fn is_looked_at(&self, event: &Event) -> bool {
        let begins = |rule: u32, which: u32| &self.rules[rule as usize].matchers[which as usize];
        let ends = |rule: u32, which: u32| &self.end_matchers[rule as usize][which as usize];
        let found = self.index.find(event, begins).into_iter().chain(self.ends.find(event, ends));
        found.into_iter().any(|rule| urgent(&self.rules[rule as usize]))
    }

    fn decides_alarm(&self, decided: &Decided) -> bool {
        let counts = |task: &Task| matches!(task, Task::Open(_));
        !decided.acked.is_empty()
            || decided.looked.iter().any(|looked| self.is_urgent(&looked.rule))
            || decided.actions.iter().any(|a| a.lane == Lane::Alarm || counts(&a.task))
            || decided.begun.iter().any(|timer| self.is_urgent(&timer.rule))
    }

    fn is_urgent(&self, rule: &str) -> bool {
        self.rule(rule).is_some_and(urgent)
    }
}

/// Whether a rule is of the alarm lane, or may open a door.
fn urgent(rule: &Rule) -> bool {
    rule.lane == Lane::Alarm || opens(&rule.steps)
}

fn opens(steps: &[Step]) -> bool {
    steps.iter().any(|step| match &step.act {
        Act::Open(_) => true,
        Act::If { then, otherwise, .. } => opens(then) || opens(otherwise),
        // No rung of an escalation opens anything.
        Act::Escalate(_) | Act::Push(_) | Act::Set(_) | Act::Emit(_) => false,
        Act::Tell(_) | Act::Wait(_) | Act::Stop => false,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::House;
    use super::super::tests::{decide, event, house, memory, noon};
    use super::*;
    use crate::action::{ActionId, Outcome};
    use crate::door::{Door, Doors, MAX_AGE_DEFAULT, Opener, Rate};
    use crate::event::{EventId, Trust, own_event};
    use crate::node::SourceFile;
    use crate::record::{Body, Keys, Known, Quarantined, Receipt, Settled, Shown};
    use serde_json::{Map, json};

    const RULES: &str = r#"
rules:
  - name: smoke
    when: { type: netatmo.smoke }
    lane: alarm
    do: [ { push: { to: ana, title: Smoke } } ]
  - name: window
    when: { type: netatmo.tag_open }
    lane: alarm
    for: 5m
    unless: { type: netatmo.tag_small_move }
    do: [ { push: { to: ana, title: Open } } ]
  - name: moved
    when: { type: netatmo.movement }
    for: 10s
    do: [ { push: { to: ana, title: Moved } } ]
  - name: ring
    when: { type: netatmo.ring }
    do: [ { emit: { type: house.rang } } ]
  - name: chain
    when: { type: netatmo.battery_status }
    do: [ { emit: { type: house.fire } } ]
  - name: fire
    when: { type: house.fire }
    lane: alarm
    do: [ { push: { to: ana, title: Fire } } ]
  - name: face
    when: { type: netatmo.person }
    do:
      - if: event.data.known == true
        then: [ { open: front } ]
"#;

    fn rules() -> RuleSet {
        let front = Door {
            name: "front".into(),
            title: None,
            by: Opener::Fibaro { intercom: "gate".into(), relay: 0 },
            requires: Trust::Authentic,
            max_age: MAX_AGE_DEFAULT,
            max_rate: Rate::default(),
        };
        let all = [("front".to_string(), front)].into();
        let doors = Arc::new(Doors { all, ..Doors::default() });
        let house = House { doors, ..house() };
        let loaded = RuleSet::load(vec![SourceFile::new("rules/a.yaml", RULES)], &house);
        loaded.unwrap_or_else(|problems| panic!("{}", problems.render()))
    }

    fn own(kind: &str, data: serde_json::Value) -> Record {
        let data = data.as_object().cloned().unwrap_or_else(Map::new);
        Record::Seen(Arc::new(own_event(kind, "1", data, noon())))
    }

    #[test]
    fn an_event_is_an_alarm_if_an_urgent_rule_looks_at_it() {
        let rules = rules();
        let of = |kind: &str| rules.class(&[Record::Seen(event(kind, json!({})))]);
        for kind in ["netatmo.smoke", "netatmo.tag_open", "netatmo.tag_small_move", "house.fire"] {
            assert_eq!(of(kind), Class::Alarm, "{kind}");
        }
        // Opens a door, if its face is known.
        assert_eq!(of("netatmo.person"), Class::Alarm);
        assert_eq!(of("emm.message_read"), Class::Alarm);
        // Our own words in another's mouth are nothing special.
        for kind in ["netatmo.movement", "netatmo.ring", "portero.ack", "portero.door.pressed"] {
            assert_eq!(of(kind), Class::Ordinary, "{kind}");
        }
        assert_eq!(rules.class(&[own("portero.ack", json!({}))]), Class::Alarm);
        assert_eq!(rules.class(&[own("portero.door.refused", json!({}))]), Class::Alarm);
        assert_eq!(rules.class(&[own("portero.journal.failed", json!({}))]), Class::Ordinary);
        let due = |rule: &str| rules.class(&[own("portero.timer.due", json!({ "rule": rule }))]);
        assert_eq!((due("window"), due("moved")), (Class::Alarm, Class::Ordinary));
        let set = json!({ "rules": ["moved", "window"] });
        assert_eq!(rules.class(&[own("portero.schedule.set", set)]), Class::Alarm);
    }

    #[test]
    fn a_decision_is_of_the_class_of_what_it_is_about() {
        let rules = rules();
        let of = |kind: &str, data| {
            let decided = decide(&rules, &event(kind, data), &memory(), noon());
            rules.class(&[Record::Decided(Arc::new(decided))])
        };
        assert_eq!(of("netatmo.smoke", json!({})), Class::Alarm);
        assert_eq!(of("netatmo.tag_open", json!({})), Class::Alarm, "it waits");
        assert_eq!(of("netatmo.movement", json!({})), Class::Ordinary);
        assert_eq!(of("netatmo.person", json!({ "known": true })), Class::Alarm);
        let acked = Decided {
            acked: vec![crate::alert::Acked {
                alert: crate::alert::AlertId::derive(EventId([1; 16]), "smoke", "do[0]"),
                by: "ana".into(),
                via: "page".into(),
                at: noon(),
            }],
            ..Decided::default()
        };
        assert_eq!(rules.class(&[Record::Decided(Arc::new(acked))]), Class::Alarm);
    }

    #[test]
    fn a_call_is_of_the_highest_class_in_it_and_settling_an_emit_lifts_none() {
        let rules = rules();
        let call = |kind: &str, emitted: &str| {
            let decided = decide(&rules, &event(kind, json!({})), &memory(), noon());
            let settled = Settled::new(ActionId([0; 16]), Outcome::Delivered, 1, noon());
            let seen = Record::Seen(event(emitted, json!({})));
            rules.class(&[Record::Decided(Arc::new(decided)), seen, Record::Settled(settled)])
        };
        assert_eq!(call("netatmo.ring", "house.rang"), Class::Ordinary);
        assert_eq!(call("netatmo.battery_status", "house.fire"), Class::Alarm);
    }

    #[test]
    fn what_portero_needs_to_go_on_has_a_part() {
        let (rules, id, at) = (rules(), EventId([0; 16]), noon());
        let settled = Settled::new(ActionId([0; 16]), Outcome::Delivered, 1, at);
        let keys = Keys { received: at, ids: vec![id] };
        for record in [Record::Settled(settled), Record::Keys(keys)] {
            assert_eq!(rules.class(&[record]), Class::Keeping);
        }
        let (source, raw) = ("emm/block".to_string(), Vec::new());
        let body = Body { id, source: source.clone(), received: at, raw: raw.clone() };
        assert_eq!(rules.class(&[Record::Body(body)]), Class::Alarm);
        let phone = crate::action::PhoneId("p".into());
        let receipt = Receipt { action: ActionId([0; 16]), phone, what: Shown::Shown, at };
        let reason = String::new();
        let kept = Quarantined { source: source.clone(), reason, received: at, raw };
        let known = Known { source, trust: Trust::Fresh, at, changes: vec![] };
        let ordinary =
            [Record::Receipt(receipt), Record::Quarantined(kept), Record::Known(Arc::new(known))];
        for record in ordinary {
            assert_eq!(rules.class(&[record]), Class::Ordinary);
        }
    }
}
