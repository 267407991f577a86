//! Two decisions about one event, side by side: which rules answered otherwise, and what was
//! gained or lost by it. It compares what is done, not by which id.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::action::{Action, Task};
use crate::event::{Event, EventId};
use crate::record::{Decided, StateSet, Verdict};

/// Differences kept, each some hundred bytes; beyond these they are only counted.
pub const DIFFERENCES_MAX: usize = 10_000;

/// Everything that is not as it was.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Differences {
    /// How often each rule fired.
    pub rules: BTreeMap<String, Fired>,
    /// Event by event, in the order of decisions.
    pub events: Vec<Difference>,
    /// How many events are decided otherwise, also those that are not kept.
    pub count: u64,
}

/// How often a rule fired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Fired {
    /// By the rules of then.
    pub before: u64,
    /// By these.
    pub now: u64,
}

/// One event that is decided otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// When the event was received.
    pub at: Timestamp,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id.
    pub id: EventId,
    /// Rules that answer otherwise.
    pub rules: Vec<VerdictChange>,
    /// What is done now and was not.
    pub gained: Vec<String>,
    /// What was done and is not.
    pub lost: Vec<String>,
}

/// One rule's two answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerdictChange {
    /// The rule.
    pub rule: String,
    /// What came of it then; `-` if it did not look.
    pub before: String,
    /// What comes of it now.
    pub now: String,
    /// Why it does not fire now, or did not then.
    pub why: String,
}

/// One rule's answers to one event: mostly one.
#[derive(Debug, Default)]
struct Answer<'d> {
    verdicts: Vec<Verdict>,
    why: &'d str,
}

impl Answer<'_> {
    fn words(&self) -> String {
        let words: Vec<&str> = self.verdicts.iter().map(|verdict| verdict.as_str()).collect();
        if words.is_empty() { "-".into() } else { words.join(", ") }
    }

    fn fired(&self) -> u64 {
        self.verdicts.iter().filter(|verdict| **verdict == Verdict::Fired).count() as u64
    }
}

impl Differences {
    /// Whether all is as it was.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes in what was, and what now is, decided about an event.
    pub fn compare(&mut self, event: &Event, before: Option<&Decided>, now: Option<&Decided>) {
        let (was, is) = (answers(before), answers(now));
        let mut changed = Vec::new();
        let mut names: Vec<&str> = was.keys().chain(is.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        for rule in names {
            let nothing = Answer::default();
            let (was, is) = (was.get(rule).unwrap_or(&nothing), is.get(rule).unwrap_or(&nothing));
            let fired = self.rules.entry(rule.to_string()).or_default();
            fired.before += was.fired();
            fired.now += is.fired();
            if was.verdicts != is.verdicts {
                let why = if is.why.is_empty() { was.why } else { is.why };
                changed.push(VerdictChange {
                    rule: rule.to_string(),
                    before: was.words(),
                    now: is.words(),
                    why: why.to_string(),
                });
            }
        }
        let (lost, gained) = apart(effects(before), effects(now));
        if changed.is_empty() && lost.is_empty() && gained.is_empty() {
            return;
        }
        self.count += 1;
        if self.events.len() < DIFFERENCES_MAX {
            let (at, kind) = (event.received, event.kind.clone());
            self.events.push(Difference { at, kind, id: event.id, rules: changed, gained, lost });
        }
    }
}

fn answers(decided: Option<&Decided>) -> BTreeMap<&str, Answer<'_>> {
    let mut answers: BTreeMap<&str, Answer<'_>> = BTreeMap::new();
    for looked in decided.iter().flat_map(|decided| &decided.looked) {
        let answer = answers.entry(&looked.rule).or_default();
        answer.verdicts.push(looked.verdict);
        answer.why = &looked.why;
    }
    answers
}

fn effects(decided: Option<&Decided>) -> Vec<String> {
    let Some(decided) = decided else { return Vec::new() };
    let sets =
        decided.sets.iter().map(|StateSet { path, value, .. }| format!("set {path} to {value}"));
    let mut all: Vec<String> = decided.actions.iter().map(effect).chain(sets).collect();
    all.sort();
    all
}

/// What an action does, without what differs between two runs: ids, deadlines, marks.
fn effect(action: &Action) -> String {
    match &action.task {
        Task::Push { phone, message } => {
            let (title, body) = (&message.title, &message.body);
            let body = if body.is_empty() { String::new() } else { format!(" {body:?}") };
            format!("push to {phone}: {title:?}{body} ({})", message.urgency.as_str())
        }
        Task::Command(command) => {
            let args = serde_json::Value::Object(command.args.clone());
            format!("tell {} to {} {args}", command.to, command.call)
        }
        Task::Open(wish) => format!("open {} for {} news", wish.door, wish.trust),
        Task::Emit(event) => {
            let data = serde_json::Value::Object(event.data.clone());
            format!("emit {} {data}", event.kind)
        }
    }
}

/// What only the first and only the second has; both are sorted.
fn apart(first: Vec<String>, second: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut only_second = second;
    let mut only_first = Vec::new();
    for effect in first {
        match only_second.iter().position(|other| *other == effect) {
            Some(at) => drop(only_second.remove(at)),
            None => only_first.push(effect),
        }
    }
    (only_first, only_second)
}
