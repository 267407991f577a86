//! The timers of all rules, and the firings that wait for their turn: a fold of what was decided.
//! It decides nothing and reads no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::record::Decided;
use crate::timer::{Timer, TimerId};

/// The most timers at once. One takes about 1 KiB with its event; strangers can cause events.
pub const TIMERS_MAX: usize = 20_000;
/// The most firings of one rule that wait for their turn.
pub const QUEUED_MAX: usize = 100;

/// All timers under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub struct Timers {
    all: BTreeMap<TimerId, Timer>,
    by_due: BTreeSet<(Timestamp, TimerId)>,
    by_rule: BTreeMap<String, BTreeSet<TimerId>>,
    queued: BTreeMap<String, VecDeque<Arc<Event>>>,
}

/// Without what can be computed from the rest.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    timers: Vec<Timer>,
    #[serde(default)]
    queued: BTreeMap<String, VecDeque<Arc<Event>>>,
}

impl From<Kept> for Timers {
    fn from(kept: Kept) -> Timers {
        let mut timers = Timers { queued: kept.queued, ..Timers::default() };
        kept.timers.into_iter().for_each(|timer| timers.insert(timer));
        timers
    }
}

impl From<Timers> for Kept {
    fn from(timers: Timers) -> Kept {
        Kept { timers: timers.all.into_values().collect(), queued: timers.queued }
    }
}

impl Timers {
    /// Takes in a decision.
    pub fn apply(&mut self, decided: &Decided) {
        decided.ended.iter().for_each(|ended| self.remove(ended.timer));
        decided.begun.iter().for_each(|timer| self.insert(timer.clone()));
        for change in &decided.queued {
            let row = self.queued.entry(change.rule.clone()).or_default();
            match &change.event {
                Some(event) => row.push_back(event.clone()),
                None => drop(row.pop_front()),
            }
            if row.is_empty() {
                self.queued.remove(&change.rule);
            }
        }
    }

    /// The timer of this id.
    pub fn get(&self, id: TimerId) -> Option<&Timer> {
        self.all.get(&id)
    }

    /// All, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Timer> {
        self.all.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// Those that are due at `now`, the earliest first.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = &Timer> {
        let due = self.by_due.iter().take_while(move |(due, _)| *due <= now);
        due.filter_map(|(_, id)| self.all.get(id))
    }

    /// A rule's timers.
    pub fn of(&self, rule: &str) -> impl Iterator<Item = &Timer> {
        let ids = self.by_rule.get(rule).into_iter().flatten();
        ids.filter_map(|id| self.all.get(id))
    }

    /// The firings of a rule that wait for their turn.
    pub fn queued(&self, rule: &str) -> impl ExactSizeIterator<Item = &Arc<Event>> {
        static NONE: VecDeque<Arc<Event>> = VecDeque::new();
        self.queued.get(rule).unwrap_or(&NONE).iter()
    }

    /// Rules of which firings wait for their turn.
    pub fn rows(&self) -> impl Iterator<Item = &str> {
        self.queued.keys().map(String::as_str)
    }

    fn insert(&mut self, timer: Timer) {
        self.remove(timer.id);
        self.by_due.insert((timer.due, timer.id));
        self.by_rule.entry(timer.rule.clone()).or_default().insert(timer.id);
        self.all.insert(timer.id, timer);
    }

    fn remove(&mut self, id: TimerId) {
        let Some(timer) = self.all.remove(&id) else { return };
        self.by_due.remove(&(timer.due, id));
        if let Some(ids) = self.by_rule.get_mut(&timer.rule) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_rule.remove(&timer.rule);
            }
        }
    }
}
