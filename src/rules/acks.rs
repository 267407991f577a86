//! Alerts in a decision: a rung that is due, and an acknowledgement, which ends every rung that is
//! left and tells the other phones who has it in hand. Pure.

use jiff::SignedDuration;
use serde_json::Value;

use super::alerts::{Alert, Reached};
use super::compile::Rule;
use super::engine::{Deciding, Start, looked};
use super::steps;
use crate::action::{Action, ActionId, Lane, Message, PhoneId, Task, Urgency};
use crate::alert::{Acked, AlertId, MessageRef, acked_by};
use crate::event::Event;
use crate::record::Verdict;
use crate::timer::{End, Place, Timer};

/// Named as the rule of the notes that somebody has it in hand.
const ACK_RULE: &str = "acknowledged (built in)";
/// Whoever looks at a phone later sees the alert's own state on the page.
const NOTE_LIVES: SignedDuration = SignedDuration::from_hours(1);

impl<'a> Deciding<'a> {
    /// The next rung of an alert's ladder is due.
    pub fn rung(
        &mut self,
        rule: &'a Rule,
        timer: &'a Timer,
        alert: AlertId,
        (step, round): (&str, u32),
        if_unshown: bool,
    ) {
        let known = self.memory.alerts().get(alert);
        if let Some(acked) = known.and_then(|alert| alert.acked.as_ref()) {
            self.end(timer, End::Acknowledged);
            return self.looked(rule, Verdict::Ended, format!("{} has it in hand", acked.by));
        }
        if if_unshown && known.is_some_and(Alert::is_shown) {
            self.end(timer, End::Matched);
            return self.looked(rule, Verdict::Ended, "a phone has shown it".to_string());
        }
        let Some(rung) = rule.rung(step) else { return self.end(timer, End::RuleGone) };
        self.end(timer, End::Due);
        if if_unshown {
            self.end_twins(timer, step);
        }
        let mut why = self.late(Start::Over(timer, End::Due));
        if if_unshown {
            why = "no phone has shown it yet".to_string();
        }
        let scene = self.scene(&timer.event);
        scene.lower(timer.trust);
        let house = &self.rules.house;
        let mut plan = steps::climb(rule, &scene, self.memory, house, alert, rung, round);
        let mut answer = looked(&rule.name, Verdict::Fired, why);
        answer.not_sent.append(&mut plan.not_sent);
        self.take(plan, answer);
    }

    /// A rung that was climbed early is not climbed again at its own time.
    fn end_twins(&mut self, timer: &'a Timer, step: &str) {
        let twin = |other: &&Timer| {
            other.id != timer.id
                && other.at.alert() == timer.at.alert()
                && matches!(&other.at, Place::Rung { step: s, round: 0, .. } if s == step)
        };
        let twins: Vec<&Timer> = self.memory.timers().of(&timer.rule).filter(twin).collect();
        twins.into_iter().for_each(|twin| self.end(twin, End::Matched));
    }

    /// Somebody says that they have alerts in hand.
    pub fn ack(&mut self, event: &Event) {
        let text = |name: &str| event.data.get(name).and_then(Value::as_str).unwrap_or_default();
        let phone = event.data.get("phone").and_then(Value::as_str);
        for alert in acked_by(event) {
            self.acknowledge(alert, text("by"), text("via"), phone);
        }
    }

    /// Somebody has a message of an EMM in hand that an alert told, or is about.
    pub fn message_read(&mut self, event: &Event) {
        let Some(message) = MessageRef::in_hand(event) else { return };
        let status = event.data.get("status_name").and_then(Value::as_str).unwrap_or_default();
        let by = format!("{} ({status})", event.source);
        for alert in self.memory.alerts().open_with(&message) {
            self.acknowledge(alert, &by, "emm", None);
        }
    }

    /// Ends every rung that is left, and tells the phones that were told.
    pub fn acknowledge(&mut self, id: AlertId, by: &str, via: &str, phone: Option<&str>) {
        let Some(alert) = self.memory.alerts().get(id) else { return };
        let is_new = self.decided.acked.iter().all(|acked| acked.alert != id);
        if alert.acked.is_some() || !is_new {
            return;
        }
        let (by, via, at) = (by.to_string(), via.to_string(), self.now);
        let timers = self.memory.timers().of(&alert.rule);
        let left: Vec<&Timer> = timers.filter(|timer| timer.at.alert() == Some(id)).collect();
        left.into_iter().for_each(|timer| self.end(timer, End::Acknowledged));
        let why = format!("{by} has it in hand ({via})");
        self.decided.looked.push(looked(&alert.rule, Verdict::Ended, why));
        self.note(id, alert, &by, phone);
        self.decided.acked.push(Acked { alert: id, by, via, at });
    }

    /// Replaces the alert's notifications on every phone that has got any: under each tag, since
    /// none of the notes is sure to come. None of them makes a sound.
    fn note(&mut self, id: AlertId, alert: &Alert, by: &str, phone: Option<&str>) {
        let mut noted = Vec::new();
        for told in alert.told.values() {
            let Some(tag) = &told.tag else { continue };
            let is_there = !matches!(told.state, Reached::Failed(_));
            let key = (told.to.as_str(), tag.as_str());
            if !is_there || Some(told.to.as_str()) == phone || noted.contains(&key) {
                continue;
            }
            noted.push(key);
            let message = Message {
                title: alert.title.clone(),
                body: format!("{by} has it in hand"),
                url: Some(format!("/#event={}", alert.event)),
                tag: Some(tag.clone()),
                clears: Some(id),
                urgency: Urgency::Normal,
                ttl_s: u32::try_from(NOTE_LIVES.as_secs()).unwrap_or(0),
                ..Message::default()
            };
            let target = format!("{} {tag}", told.to);
            self.decided.actions.push(Action {
                id: ActionId::derive(self.decided.event, ACK_RULE, "do[0]", &target),
                rule: ACK_RULE.into(),
                step: "do[0]".into(),
                deadline: self.now + NOTE_LIVES,
                not_before: None,
                lane: Lane::Normal,
                alert: None,
                task: Task::Push { phone: PhoneId(told.to.clone()), message: Box::new(message) },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use crate::action::Outcome;
    use crate::node::SourceFile;
    use crate::record::Settled;
    use crate::rules::RuleSet;
    use crate::rules::tell::tests::estate;
    use crate::rules::tests::{decide, event, memory, noon};

    #[test]
    fn whoever_reads_the_message_that_an_alert_sent_has_it_in_hand() {
        let text = "rules:\n  - name: smoke\n    when: { type: netatmo.smoke }\n    do:\n      - escalate:\n          - { after: 0s, emm: { site: block, to: [\"12\"], text: Smoke } }\n          - { after: 1h, push: { to: ana, title: Nobody reads it } }\n";
        let rules = RuleSet::load(vec![SourceFile::new("a", text)], &estate()).unwrap();
        let mut memory = memory();
        let began = decide(&rules, &event("netatmo.smoke", json!({})), &memory, noon());
        memory.apply_decided(&began, noon());
        let read = |number: i64| {
            let mut read = (*event(
                "emm.message_read",
                json!({ "message_id": number, "status_name": "read" }),
            ))
            .clone();
            read.source = "emm/block".into();
            Arc::new(read)
        };
        assert!(decide(&rules, &read(77), &memory, noon()).acked.is_empty());
        let done = Settled::new(began.actions[0].id, Outcome::Done, 1, noon());
        memory.apply_settled(&Settled { message: Some("77".into()), ..done });
        assert!(decide(&rules, &read(78), &memory, noon()).acked.is_empty());
        let acked = decide(&rules, &read(77), &memory, noon());
        assert_eq!((acked.acked.len(), acked.ended.len()), (1, 1));
        memory.apply_decided(&acked, noon());
        assert!(memory.timers().is_empty());
        assert!(decide(&rules, &read(77), &memory, noon()).acked.is_empty());
    }
}
