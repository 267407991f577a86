//! What rules remember between events: state variables, cooldowns, waits, alerts and
//! who has which phone. It is
//! a fold of the journal: the same records in the same order give the same memory. It decides
//! nothing and reads no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::alerts::Alerts;
use super::known::KnownMap;
use super::timers::Timers;
use crate::action::{Action, ActionId, PhoneId, Task, Urgency};
use crate::command::Repeat;
use crate::event::Trust;
use crate::record::{Decided, Known, Looked, Position, Receipt, Settled};

/// The most cooldowns remembered. Keys may come from event data, which strangers can fill; one
/// cooldown takes about 200 bytes.
pub const COOLDOWNS_MAX: usize = 50_000;
/// The most state variables; paths may come from event data too, and a value takes up to 4 KiB.
pub const STATES_MAX: usize = 10_000;
/// Cooldowns are first swept for expired ones when there are this many.
const SWEEP_FROM: usize = 128;

/// Everything rules remember. Cheap to write into a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub struct Memory {
    /// Shared with the decision that reads it, which is over before the next record is applied.
    state: Arc<BTreeMap<String, StateEntry>>,
    /// What systems told about themselves, by path; rules read it and never write it.
    known: Arc<KnownMap>,
    cooldowns: BTreeMap<CooldownKey, Cooldown>,
    /// Which cooldown an unsettled action belongs to.
    waiting: BTreeMap<ActionId, CooldownKey>,
    directory: BTreeMap<String, BTreeSet<PhoneId>>,
    timers: Timers,
    alerts: Alerts,
    sweep_at: usize,
}

/// A state variable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateEntry {
    /// Its value.
    pub value: serde_json::Value,
    /// The least trust of what set it.
    pub trust: Trust,
    /// When it was set.
    pub at: Timestamp,
}

/// Rule name and rendered key.
type CooldownKey = (String, String);

/// A cooldown in force, or one whose notifications are still under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cooldown {
    /// The most urgent thing that firing did.
    pub severity: Urgency,
    /// When it ends; moved once by the first delivery.
    pub until: Timestamp,
    /// How long it lasts from its beginning.
    every_ms: u64,
    /// The firing that began it.
    firing: Position,
    /// Actions of that firing that are not settled yet.
    waiting: BTreeSet<ActionId>,
    delivered: bool,
}

/// The memory as it is written: without what can be computed from the rest.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    state: Arc<BTreeMap<String, StateEntry>>,
    #[serde(default)]
    known: Arc<KnownMap>,
    #[serde(default)]
    cooldowns: Vec<(String, String, Cooldown)>,
    #[serde(default)]
    directory: BTreeMap<String, BTreeSet<PhoneId>>,
    #[serde(default)]
    timers: Timers,
    #[serde(default)]
    alerts: Alerts,
    #[serde(default)]
    sweep_at: usize,
}

impl From<Kept> for Memory {
    fn from(kept: Kept) -> Memory {
        let mut memory = Memory {
            state: kept.state,
            known: kept.known,
            directory: kept.directory,
            timers: kept.timers,
            alerts: kept.alerts,
            sweep_at: kept.sweep_at,
            ..Memory::default()
        };
        for (rule, key, cooldown) in kept.cooldowns {
            let key = (rule, key);
            memory.waiting.extend(cooldown.waiting.iter().map(|action| (*action, key.clone())));
            memory.cooldowns.insert(key, cooldown);
        }
        memory
    }
}

impl From<Memory> for Kept {
    fn from(memory: Memory) -> Kept {
        let triple = |((rule, key), cooldown)| (rule, key, cooldown);
        Kept {
            state: memory.state,
            known: memory.known,
            cooldowns: memory.cooldowns.into_iter().map(triple).collect(),
            directory: memory.directory,
            timers: memory.timers,
            alerts: memory.alerts,
            sweep_at: memory.sweep_at,
        }
    }
}

impl Memory {
    /// An empty memory.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Takes in what the rules decided at `at`: new state, and cooldowns that begin.
    pub fn apply_decided(&mut self, decided: &Decided, at: Timestamp) {
        if !decided.sets.is_empty() {
            self.apply_sets(decided, at);
        }
        self.timers.apply(decided);
        self.alerts.apply(decided);
        for looked in &decided.looked {
            if looked.cooldown.is_some() {
                self.begin_cooldown(decided, looked);
            }
        }
    }

    fn apply_sets(&mut self, decided: &Decided, at: Timestamp) {
        let state = Arc::make_mut(&mut self.state);
        for set in &decided.sets {
            if set.value.is_null() {
                state.remove(&set.path);
                continue;
            }
            if state.len() >= STATES_MAX && !state.contains_key(&set.path) {
                forget_oldest(state);
            }
            let entry = StateEntry { value: set.value.clone(), trust: set.trust, at };
            state.insert(set.path.clone(), entry);
        }
    }

    fn begin_cooldown(&mut self, decided: &Decided, looked: &Looked) {
        let Some(start) = &looked.cooldown else { return };
        let tells = |task: &Task| match task {
            Task::Push { .. } => true,
            // A message is a notification, whoever carries it.
            Task::Command(command) => command.repeat == Repeat::Better,
            Task::Emit(_) | Task::Open(_) => false,
        };
        // What is held for quiet hours moves no cooldown when it is delivered at their end.
        let delivers = |action: &&Action| {
            action.rule == looked.rule && tells(&action.task) && action.not_before.is_none()
        };
        let waiting: BTreeSet<ActionId> =
            decided.actions.iter().filter(delivers).map(|action| action.id).collect();
        let every_ms = start.until.as_millisecond() - decided.at.as_millisecond();
        let cooldown = Cooldown {
            severity: start.severity,
            until: start.until,
            every_ms: u64::try_from(every_ms).unwrap_or(0),
            firing: decided.seen,
            waiting,
            delivered: false,
        };
        let key = (looked.rule.clone(), start.key.clone());
        self.end_cooldown(&key);
        self.make_room(decided.at);
        self.waiting.extend(cooldown.waiting.iter().map(|action| (*action, key.clone())));
        self.cooldowns.insert(key, cooldown);
    }

    /// Takes in how an action ended. The first delivery moves its cooldown; if every notification
    /// of a firing failed, its cooldown is lifted, since nobody has heard of it.
    pub fn apply_settled(&mut self, settled: &Settled) {
        self.alerts.apply_settled(settled);
        let Some(key) = self.waiting.remove(&settled.action) else { return };
        let Some(cooldown) = self.cooldowns.get_mut(&key) else { return };
        cooldown.waiting.remove(&settled.action);
        if settled.outcome.is_delivered() && !cooldown.delivered {
            cooldown.delivered = true;
            let every = Duration::from_millis(cooldown.every_ms);
            cooldown.until = settled.at.checked_add(every).unwrap_or(Timestamp::MAX);
        }
        if cooldown.waiting.is_empty() && !cooldown.delivered {
            self.cooldowns.remove(&key);
        }
    }

    /// Takes in what a phone said of a notification.
    pub fn apply_receipt(&mut self, receipt: &Receipt) {
        self.alerts.apply_receipt(receipt);
    }

    /// A person can be pushed to on this phone. A phone has one owner.
    pub fn set_phone(&mut self, person: &str, phone: PhoneId) {
        self.remove_phone(&phone);
        self.directory.entry(person.to_string()).or_default().insert(phone);
    }

    /// Nobody can be pushed to on this phone any more.
    pub fn remove_phone(&mut self, phone: &PhoneId) {
        self.directory.retain(|_, phones| {
            phones.remove(phone);
            !phones.is_empty()
        });
    }

    /// A person's phones, in a fixed order.
    pub fn phones(&self, person: &str) -> impl Iterator<Item = &PhoneId> {
        self.directory.get(person).into_iter().flatten()
    }

    /// Takes in what a system told about itself.
    pub fn apply_known(&mut self, known: &Known) {
        Arc::make_mut(&mut self.known).apply(known);
    }

    /// A state variable, or what a system told about itself.
    pub fn state(&self, path: &str) -> Option<&StateEntry> {
        self.known.get(path).or_else(|| self.state.get(path))
    }

    /// What systems told about themselves.
    pub fn known(&self) -> &KnownMap {
        &self.known
    }

    /// Waits under way.
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Alerts, and how far each has come.
    pub fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// All state variables by path.
    pub fn states(&self) -> &BTreeMap<String, StateEntry> {
        &self.state
    }

    /// Sets a state variable by hand: how tests and the systems' own state come in.
    pub fn set_state(&mut self, path: &str, entry: StateEntry) {
        Arc::make_mut(&mut self.state).insert(path.to_string(), entry);
    }

    pub(super) fn shared_state(&self) -> Arc<BTreeMap<String, StateEntry>> {
        Arc::clone(&self.state)
    }

    pub(super) fn shared_known(&self) -> Arc<KnownMap> {
        Arc::clone(&self.known)
    }

    /// The cooldown in force for a rule and key at `now`.
    pub fn cooldown(&self, rule: &str, key: &str, now: Timestamp) -> Option<&Cooldown> {
        if self.cooldowns.is_empty() {
            return None;
        }
        let cooldown = self.cooldowns.get(&(rule.to_string(), key.to_string()))?;
        (cooldown.until > now).then_some(cooldown)
    }

    /// How many cooldowns are remembered.
    pub fn cooldowns(&self) -> usize {
        self.cooldowns.len()
    }

    fn end_cooldown(&mut self, key: &CooldownKey) {
        if let Some(ended) = self.cooldowns.remove(key) {
            ended.waiting.iter().for_each(|action| {
                self.waiting.remove(action);
            });
        }
    }

    /// Drops cooldowns that are over, each time their number has doubled; if all are in force at
    /// the limit, the one that ends first goes.
    fn make_room(&mut self, at: Timestamp) {
        if self.cooldowns.len() < self.sweep_at.max(SWEEP_FROM) {
            return;
        }
        self.cooldowns.retain(|_, cooldown| cooldown.until > at || !cooldown.waiting.is_empty());
        if self.cooldowns.len() >= COOLDOWNS_MAX {
            let first = self.cooldowns.iter().min_by_key(|(_, cooldown)| cooldown.until);
            if let Some(key) = first.map(|(key, _)| key.clone()) {
                self.end_cooldown(&key);
            }
        }
        self.sweep_at = (2 * self.cooldowns.len()).clamp(SWEEP_FROM, COOLDOWNS_MAX);
    }
}

fn forget_oldest(state: &mut BTreeMap<String, StateEntry>) {
    let oldest = state.iter().min_by_key(|(_, entry)| entry.at).map(|(path, _)| path.clone());
    if let Some(path) = oldest {
        state.remove(&path);
    }
}
