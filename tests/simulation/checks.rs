//! What must hold afterwards, by the journal and by what the far sides saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::SignedDuration;
use portero::event::{Event, EventId, Trust};
use portero::record::{Record, Verdict as Said};
use portero::rules::Reached;

use super::world::{MAX_AGE, World};

impl World {
    /// What each event of the outside led to: rule by rule, without what only a clock decides.
    pub fn fired(&self) -> BTreeSet<(String, String)> {
        let mut events: BTreeMap<EventId, Arc<Event>> = BTreeMap::new();
        let mut fired = BTreeSet::new();
        for record in &self.store.durable {
            match record {
                Record::Seen(event) => drop(events.insert(event.id, event.clone())),
                Record::Decided(decided) => {
                    let event = &events[&decided.event];
                    let about = if event.source == "portero" { "" } else { event.kind.as_str() };
                    for looked in decided.looked.iter().filter(|l| l.verdict == Said::Waiting) {
                        let subject = event.subject.clone().unwrap_or_default();
                        fired.insert((looked.rule.clone(), format!("{about} {subject}")));
                    }
                }
                _ => {}
            }
        }
        for (_, alert) in self.ledger.memory.alerts().iter() {
            fired.insert((alert.rule.clone(), alert.event.to_string()));
        }
        fired
    }

    /// What is wrong with how it went, by the journal and by what the far sides saw.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        self.check_doors(&mut wrong);
        self.check_alarms(&mut wrong);
        for timer in self.ledger.memory.timers().iter() {
            wrong.push(format!("a wait of `{}` never ended", timer.rule));
        }
        for action in self.ledger.owed.values().filter(|action| action.deadline <= self.now) {
            wrong.push(format!("{} of `{}` never ended", action.step, action.rule));
        }
        wrong
    }

    fn check_doors(&self, wrong: &mut Vec<String>) {
        let mut intents = BTreeSet::new();
        for pulse in &self.pulses {
            let age = pulse.at.duration_since(pulse.received);
            if !intents.insert(pulse.intent) {
                wrong.push(format!("{} opened a door twice", pulse.intent));
            }
            if age > SignedDuration::try_from(MAX_AGE).unwrap() {
                wrong.push(format!("{} opened a door {age} late", pulse.intent));
            }
            if pulse.trust < Trust::Authentic {
                wrong.push(format!("{} opened a door for nobody's word", pulse.intent));
            }
            if !pulse.durable {
                wrong.push(format!("{} opened a door before that was durable", pulse.intent));
            }
        }
    }

    fn check_alarms(&self, wrong: &mut Vec<String>) {
        let alerts = self.ledger.memory.alerts();
        for record in &self.store.durable {
            let Record::Seen(event) = record else { continue };
            if event.kind != "netatmo.smoke" {
                continue;
            }
            let Some((_, alert)) = alerts.iter().find(|(_, alert)| alert.event == event.id) else {
                wrong.push(format!("the smoke {} raised no alert", event.id));
                continue;
            };
            let reached = alert.told.values().any(|told| told.state >= Reached::Accepted);
            let ended = alert.told.values().all(|told| matches!(told.state, Reached::Failed(_)));
            if !(reached || ended && !alert.told.is_empty()) {
                wrong.push(format!("the smoke {} reached nobody, and nobody knows", event.id));
            }
            // Everybody was to be told, unless somebody had it in hand.
            let steps: BTreeSet<&str> = alert.told.values().map(|t| t.step.as_str()).collect();
            if alert.acked.is_none() && steps.len() < 3 {
                wrong.push(format!("the smoke {} stopped at {steps:?}", event.id));
            }
        }
        for sent in &self.sent {
            let Some(acked) = sent.alert.and_then(|alert| self.acked.get(&alert)) else { continue };
            let durable = self.ledger.memory.alerts().get(sent.alert.unwrap());
            if sent.at > *acked && durable.is_some_and(|a| a.acked.is_some()) {
                wrong.push(format!("a push left at {} after {acked}", sent.at));
            }
        }
    }
}
