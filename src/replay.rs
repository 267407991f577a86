//! What other rules would have made of events that the journal holds: the same events, state,
//! phones, answers and acknowledgements in the journal's order, through [`RuleSet::decide`] itself,
//! compared with what was decided then. Pure, and nothing in it can act: decisions are looked at
//! and forgotten. What rules made themselves (emitted events, waits) is made anew instead of read;
//! only its moment is taken from the journal where both runs made the same.

mod compare;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

pub use compare::{DIFFERENCES_MAX, Difference, Differences, Fired, VerdictChange};

use crate::action::{ActionId, Outcome, Task};
use crate::alert::{ACK_EVENT, AlertId};
use crate::builtin;
use crate::doors;
use crate::event::{Event, EventId};
use crate::ledger::Ledger;
use crate::record::{Decided, Position, Record, Settled};
use crate::rules::RuleSet;
use crate::timer::{DUE_EVENT, End, Ended, GONE_EVENT, Timer, TimerId};

/// Events that one event may lead to anew: rules that feed each other end sometime.
const FOLLOWING_MAX: usize = 1000;

/// What was read, and what that is worth.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// Events that came from outside.
    pub events: u64,
    /// Of these, those that had been decided.
    pub decided: u64,
    /// Events that rules or waits had made: made anew, not read.
    pub made_by_rules: u64,
    /// The first event's moment.
    pub first: Option<Timestamp>,
    /// The last event's moment.
    pub last: Option<Timestamp>,
    /// Actions that nobody had decided then: taken to go through at once, and shown by no phone.
    pub assumed_delivered: u64,
    /// Events that followed from others without end and were cut off.
    pub cut_off: u64,
}

/// Other rules, at work on an old journal.
pub struct Replay<'r> {
    rules: &'r RuleSet,
    ledger: Ledger,
    /// Events before it are history.
    start: Position,
    /// Events received later are left out.
    until: Timestamp,
    closed: bool,
    /// What waits for the decision of the first event in it.
    queue: VecDeque<(Position, Record)>,
    answers: HashMap<EventId, Arc<Decided>>,
    answered_to: Position,
    before: Before,
    /// Emitted in both runs: decided when the journal comes to it.
    held: HashMap<EventId, Event>,
    now: Timestamp,
    coverage: Coverage,
    differences: Differences,
}

/// What the rules of then have under way.
#[derive(Default)]
struct Before {
    emitted: HashSet<EventId>,
    timers: HashMap<TimerId, Timestamp>,
    alerts: HashMap<AlertId, EventId>,
}

impl Before {
    fn take(&mut self, decided: &Decided) {
        for ended in &decided.ended {
            self.timers.remove(&ended.timer);
        }
        self.timers.extend(decided.begun.iter().map(|timer| (timer.id, timer.due)));
        self.alerts.extend(decided.alerts.iter().map(|alert| (alert.id, alert.event)));
        self.emitted.extend(decided.actions.iter().filter_map(|action| match &action.task {
            Task::Emit(event) => Some(event.id),
            Task::Push { .. } | Task::Command(_) | Task::Open(_) => None,
        }));
    }
}

// === impl Replay ===

impl<'r> Replay<'r> {
    /// Begins with what was true before the event at `start`; the rules come into force there, as
    /// by a reload: waits of rules that say something else are over.
    pub fn new(
        rules: &'r RuleSet,
        ledger: Ledger,
        start: Position,
        until: Timestamp,
    ) -> Replay<'r> {
        let memory = &ledger.memory;
        let before = Before {
            emitted: HashSet::new(),
            timers: memory.timers().iter().map(|timer| (timer.id, timer.due)).collect(),
            alerts: memory.alerts().iter().map(|(id, alert)| (id, alert.event)).collect(),
        };
        let mut replay = Replay {
            rules,
            ledger,
            start,
            until,
            closed: false,
            queue: VecDeque::new(),
            answers: HashMap::new(),
            answered_to: Position::default(),
            before,
            held: HashMap::new(),
            now: Timestamp::MIN,
            coverage: Coverage::default(),
            differences: Differences::default(),
        };
        replay.reload();
        replay
    }

    fn reload(&mut self) {
        let timers = self.ledger.memory.timers().iter();
        let gone = timers.filter(|timer| self.rules.stamp(&timer.rule) != Some(&*timer.stamp));
        let ended = gone.map(|timer| Ended { timer: timer.id, why: End::RuleGone }).collect();
        let decided = Decided { ended, ..Decided::default() };
        self.ledger.memory.apply_decided(&decided, Timestamp::MIN);
    }

    /// Takes the journal's next record at or after the start.
    pub fn record(&mut self, position: Position, record: Record) {
        match record {
            Record::Decided(decided) if decided.seen < self.start => {
                self.before.take(&decided);
                self.ledger.memory.apply_decided(&decided, decided.at);
            }
            Record::Decided(decided) => {
                self.answered_to = self.answered_to.max(decided.seen);
                self.answers.insert(decided.event, decided);
            }
            Record::Seen(event) if event.received > self.until => self.closed = true,
            record if !self.closed => self.queue.push_back((position, record)),
            _ => {}
        }
        self.drain(false);
    }

    /// Whether nothing that comes now is of any interest.
    pub fn is_over(&self) -> bool {
        self.closed && self.queue.is_empty()
    }

    /// All that was read is decided; waits that are over by the last moment asked for have ended.
    pub fn finish(mut self) -> (Coverage, Differences) {
        self.drain(true);
        self.pass(self.until);
        (self.coverage, self.differences)
    }

    /// What stands in the journal before the first event whose decision is still to come.
    fn drain(&mut self, is_end: bool) {
        while let Some((position, record)) = self.queue.front() {
            if let Record::Seen(event) = record {
                let is_answered = self.answers.contains_key(&event.id);
                // Decisions are made in order: one that was passed over is lost to damage.
                if !is_answered && !is_end && *position >= self.answered_to {
                    return;
                }
            }
            let Some((position, record)) = self.queue.pop_front() else { return };
            match record {
                Record::Seen(event) => {
                    let answer = self.answers.remove(&event.id);
                    self.event(position, &event, answer.as_deref());
                }
                Record::Known(_) | Record::Phone(_) | Record::Receipt(_) | Record::Settled(_) => {
                    self.ledger.apply(&record);
                }
                // Checkpoints repeat; bodies and what was quarantined never reach rules.
                _ => {}
            }
        }
    }

    fn event(&mut self, position: Position, event: &Arc<Event>, answer: Option<&Decided>) {
        let at = answer.map_or(event.received, |answer| answer.at);
        self.pass(at);
        self.now = self.now.max(at);
        if let Some(answer) = answer {
            self.before.take(answer);
        }
        let is_own = event.source == "portero";
        let is_emitted = self.before.emitted.remove(&event.id);
        let mut again = match event.kind.as_str() {
            // Waits end with their rules here, too, but not because files were edited then.
            GONE_EVENT if is_own => return,
            DUE_EVENT if is_own => self.still_due(event).then(|| (**event).clone()),
            _ if is_emitted => self.held.remove(&event.id),
            ACK_EVENT if is_own => Some(self.ack(event)),
            _ => Some((**event).clone()),
        };
        match is_emitted || (is_own && event.kind == DUE_EVENT) {
            true => self.coverage.made_by_rules += 1,
            false => self.read(event, answer.is_some()),
        }
        match again.take() {
            Some(again) => self.decide(position, again, at, answer),
            None => self.differences.compare(event, answer, None),
        }
    }

    fn read(&mut self, event: &Event, is_decided: bool) {
        self.coverage.events += 1;
        self.coverage.decided += u64::from(is_decided);
        self.coverage.first.get_or_insert(event.received);
        self.coverage.last = Some(event.received);
    }

    /// Whether the wait that is said to be over is under way here, too, and as long.
    fn still_due(&self, event: &Event) -> bool {
        let named = event.data.get("timer").and_then(|id| id.as_str()?.parse().ok());
        let timer = named.and_then(|id| self.ledger.memory.timers().get(id));
        timer.is_some_and(|timer| Some(timer.due) == event.time)
    }

    /// Whoever acknowledged an alert would have acknowledged what these rules raise for the same
    /// event instead.
    fn ack(&self, event: &Event) -> Event {
        let alerts = self.ledger.memory.alerts();
        let named = event.data.get("alerts").and_then(|ids| ids.as_array());
        let named = named.into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok());
        let mut meant: Vec<AlertId> = Vec::new();
        for id in named {
            let about = self.before.alerts.get(&id);
            let same = alerts.iter().filter(|(_, alert)| Some(&alert.event) == about);
            meant.extend(std::iter::once(id).chain(same.map(|(id, _)| id)));
        }
        meant.sort();
        meant.dedup();
        let mut again = event.clone();
        let ids: Vec<String> = meant.iter().map(ToString::to_string).collect();
        again.data.insert("alerts".into(), ids.into());
        again
    }

    /// Time passes; waits that the rules of then did not have end at their own moment.
    fn pass(&mut self, until: Timestamp) {
        while let Some(timer) = self.own_timer(until) {
            let (id, at) = (timer.id, self.now.max(timer.due));
            let due = timer.due_event(at);
            self.now = at;
            self.decide(self.start, due, at, None);
            if self.ledger.memory.timers().get(id).is_some_and(|timer| timer.due <= at) {
                // It goes on for ever: what decides it would never let time pass.
                self.coverage.cut_off += 1;
                let ended = vec![Ended { timer: id, why: End::Expired }];
                let decided = Decided { ended, ..Decided::default() };
                self.ledger.memory.apply_decided(&decided, at);
            }
        }
    }

    /// The first wait that is over by then, if the rules of then did not have it.
    fn own_timer(&self, until: Timestamp) -> Option<&Timer> {
        let before = &self.before.timers;
        let mut due = self.ledger.memory.timers().due(until);
        due.find(|timer| before.get(&timer.id) != Some(&timer.due))
    }

    /// One event and all that follows from it and did not before.
    fn decide(&mut self, seen: Position, event: Event, at: Timestamp, answer: Option<&Decided>) {
        let known: HashSet<ActionId> =
            answer.iter().flat_map(|a| &a.actions).map(|action| action.id).collect();
        let mut following = VecDeque::from([event]);
        let mut answer = answer;
        for _ in 0..FOLLOWING_MAX {
            let Some(event) = following.pop_front() else { return };
            let decided = self.ask(seen, &event, at);
            self.differences.compare(&event, answer.take(), Some(&decided));
            self.ledger.memory.apply_decided(&decided, at);
            for action in &decided.actions {
                let is_known = known.contains(&action.id);
                if !is_known {
                    self.assume(action.id, &action.task, at);
                }
                match &action.task {
                    Task::Emit(event) if is_known => {
                        self.held.insert(event.id, (**event).clone());
                    }
                    Task::Emit(event) => following.push_back((**event).clone()),
                    Task::Push { .. } | Task::Command(_) | Task::Open(_) => {}
                }
            }
        }
        self.coverage.cut_off += following.len() as u64;
    }

    fn ask(&self, seen: Position, event: &Event, at: Timestamp) -> Decided {
        let plain = Arc::new(event.clone());
        if let Some(decided) = builtin::decide(&plain, seen, at) {
            return decided;
        }
        let mut marked = event.clone();
        marked.marks.replayed = true;
        let memory = &self.ledger.memory;
        let mut decided = self.rules.decide(&Arc::new(marked), seen, memory, at);
        doors::announce(event, &mut decided, &self.rules.house().doors, memory, at);
        decided
    }

    /// Nobody knows how it would have ended.
    fn assume(&mut self, action: ActionId, task: &Task, at: Timestamp) {
        let outcome = match task {
            Task::Push { .. } | Task::Emit(_) => Outcome::Delivered,
            Task::Command(_) | Task::Open(_) => Outcome::Done,
        };
        self.coverage.assumed_delivered += u64::from(!matches!(task, Task::Emit(_)));
        self.ledger.memory.apply_settled(&Settled::new(action, outcome, 1, at));
    }
}

#[cfg(test)]
mod tests;
