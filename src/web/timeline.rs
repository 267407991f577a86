//! The latest events with what became of each, as the page shows them: a fold of the journal in
//! memory. Owns nothing that is not in the journal; losing it costs a re-read.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::action::{Action, ActionId, Task};
use crate::event::{Event, EventId};
use crate::journal::{Entry, Journal};
use crate::record::{Decided, Position, Record, Shown};
use crate::router::View;

/// Events kept in memory: some screens full on the page. Older ones are read from the journal.
pub const ITEMS_MAX: usize = 500;

/// Raw bytes shown of one event.
const RAW_CHARS_MAX: usize = 8 * 1024;

/// Changes sent to the page for one durable batch; in a flood the page is told to fetch anew.
const CHANGES_PER_BATCH_MAX: usize = 64;

/// Changes a slow page may be behind before it has to fetch anew.
const BEHIND_MAX: usize = 1024;

/// The latest events, and a feed of what changes.
pub struct Timeline {
    latest: Mutex<Latest>,
    changes: broadcast::Sender<Change>,
}

/// What changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// This event is new or has news.
    Event(EventId),
    /// Phones or their health changed.
    Phones,
    /// Rules, journal or quarantine changed.
    Status,
    /// More changed than is sent one by one.
    Much,
}

/// The fold itself.
#[derive(Debug, Default)]
pub struct Latest {
    items: HashMap<EventId, Item>,
    order: VecDeque<(Position, EventId)>,
    by_action: HashMap<ActionId, EventId>,
    sources: HashMap<String, (Timestamp, u64)>,
}

#[derive(Debug)]
struct Item {
    position: Position,
    event: Arc<Event>,
    decided: Option<Arc<Decided>>,
    actions: HashMap<ActionId, State>,
}

/// What is known of one action.
#[derive(Debug, Default)]
struct State {
    outcome: Option<(&'static str, String)>,
    shown_at: Option<Timestamp>,
    clicked_at: Option<Timestamp>,
}

// === impl Timeline ===

impl Timeline {
    /// A timeline that starts with what `latest` holds.
    pub fn new(latest: Latest) -> Timeline {
        Timeline { latest: Mutex::new(latest), changes: broadcast::Sender::new(BEHIND_MAX) }
    }

    /// Folds a durable batch in and tells the pages.
    pub fn batch(&self, batch: &[Entry]) {
        let mut changes = Vec::new();
        {
            let mut latest = self.lock();
            for entry in batch {
                changes.extend(latest.apply(entry));
            }
        }
        if self.changes.receiver_count() == 0 {
            return;
        }
        if changes.len() > CHANGES_PER_BATCH_MAX {
            changes = vec![Change::Much];
        }
        for change in changes {
            self.tell(change);
        }
    }

    /// Tells the pages about a change that is in no record.
    pub fn tell(&self, change: Change) {
        // Without a page there is nobody to tell.
        let _ = self.changes.send(change);
    }

    /// The feed of changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// How many pages listen.
    pub fn listeners(&self) -> usize {
        self.changes.receiver_count()
    }

    /// One event as the page shows it.
    pub fn item(&self, id: &EventId, view: &View) -> Option<Value> {
        self.lock().items.get(id).map(|item| item.to_json(view))
    }

    /// Up to `limit` events before `before`, newest first.
    pub fn page(&self, before: Option<Position>, limit: usize, view: &View) -> Vec<Value> {
        self.lock().page(before, limit, view)
    }

    /// The newest events of types that begin like this and that are wanted, newest first.
    pub fn told(&self, prefix: &str, max: usize, want: impl Fn(&Event) -> bool) -> Vec<Arc<Event>> {
        let latest = self.lock();
        let events =
            latest.order.iter().rev().filter_map(|(_, id)| Some(&latest.items.get(id)?.event));
        let fits = |event: &&Arc<Event>| event.kind.starts_with(prefix) && want(event);
        events.filter(fits).take(max).cloned().collect()
    }

    /// Whether a phone has already reported this of a notification that is still in memory.
    pub fn has_receipt(&self, id: &ActionId, what: Shown) -> bool {
        let latest = self.lock();
        let item = latest.by_action.get(id).and_then(|event| latest.items.get(event));
        item.and_then(|item| item.actions.get(id)).is_some_and(|state| match what {
            Shown::Shown => state.shown_at.is_some(),
            Shown::Clicked => state.clicked_at.is_some(),
        })
    }

    /// The events of a source that are in memory, oldest first.
    pub fn events_of(&self, source: &str) -> Vec<Arc<Event>> {
        let latest = self.lock();
        let events = latest.order.iter().filter_map(|(_, id)| Some(&latest.items.get(id)?.event));
        events.filter(|event| event.source == source).cloned().collect()
    }

    /// The position of the oldest event in memory.
    pub fn oldest(&self) -> Option<Position> {
        self.lock().order.front().map(|(position, _)| *position)
    }

    /// Every source heard since start: its name, when last, how many events.
    pub fn sources(&self) -> Vec<(String, Timestamp, u64)> {
        let latest = self.lock();
        let sources = latest.sources.iter();
        let mut list: Vec<_> = sources.map(|(name, (at, n))| (name.clone(), *at, *n)).collect();
        list.sort();
        list
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Latest ===

impl Latest {
    /// The events before a position, as far back as one page reaches, read from the journal.
    /// What became of them is followed to the end of the segment after theirs.
    pub fn before(journal: &Journal, before: Position) -> Latest {
        let segments = journal.segments();
        let newest = segments.partition_point(|base| *base < before).saturating_sub(1);
        let until = segments.get(newest + 2).copied().unwrap_or_else(|| journal.end());
        let mut latest = Latest::default();
        // The segment may just begin before the position; one more makes a page of it.
        let from = segments.get(newest.saturating_sub(1)).copied().unwrap_or_default();
        for entry in journal.read(from).until(until).flatten() {
            let is_later = matches!(entry.record, Record::Seen(_)) && entry.position >= before;
            if !is_later {
                latest.apply(&entry);
            }
        }
        latest
    }

    /// Folds one record in; what the page should hear of it.
    pub fn apply(&mut self, entry: &Entry) -> Option<Change> {
        match &entry.record {
            Record::Seen(event) => Some(self.seen(entry.position, event)),
            Record::Decided(decided) => self.decided(decided),
            Record::Settled(settled) => self.action(&settled.action, |state| {
                state.outcome = Some((settled.outcome.label(), settled.outcome.why().into()));
            }),
            Record::Receipt(receipt) => self.action(&receipt.action, |state| match receipt.what {
                Shown::Shown => state.shown_at = Some(receipt.at),
                Shown::Clicked => state.clicked_at = Some(receipt.at),
            }),
            Record::Phone(_) => Some(Change::Phones),
            Record::Quarantined(_) => Some(Change::Status),
            Record::Known(_)
            | Record::Body(_)
            | Record::BodyRead(_)
            | Record::Checkpoint(_)
            | Record::Keys(_) => None,
        }
    }

    /// Up to `limit` events before `before`, newest first.
    pub fn page(&self, before: Option<Position>, limit: usize, view: &View) -> Vec<Value> {
        let older = self.order.iter().rev().filter(|(at, _)| before.is_none_or(|b| *at < b));
        older.take(limit).filter_map(|(_, id)| Some(self.items.get(id)?.to_json(view))).collect()
    }

    fn seen(&mut self, position: Position, event: &Arc<Event>) -> Change {
        if self.order.len() == ITEMS_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.forget(&oldest);
        }
        let source = self.sources.entry(event.source.clone()).or_default();
        *source = (event.received, source.1 + 1);
        let item = Item { position, event: event.clone(), decided: None, actions: HashMap::new() };
        self.items.insert(event.id, item);
        self.order.push_back((position, event.id));
        Change::Event(event.id)
    }

    fn forget(&mut self, id: &EventId) {
        if let Some(item) = self.items.remove(id) {
            for action in item.actions.keys() {
                self.by_action.remove(action);
            }
        }
    }

    fn decided(&mut self, decided: &Arc<Decided>) -> Option<Change> {
        let item = self.items.get_mut(&decided.event)?;
        for action in &decided.actions {
            item.actions.entry(action.id).or_default();
            self.by_action.insert(action.id, decided.event);
        }
        item.decided = Some(decided.clone());
        Some(Change::Event(decided.event))
    }

    fn action(&mut self, id: &ActionId, change: impl FnOnce(&mut State)) -> Option<Change> {
        let event = *self.by_action.get(id)?;
        change(self.items.get_mut(&event)?.actions.get_mut(id)?);
        Some(Change::Event(event))
    }
}

// === impl Item ===

impl Item {
    fn to_json(&self, view: &View) -> Value {
        let mut event = self.event.to_cloud_event();
        if let Value::Object(fields) = &mut event {
            fields.remove("raw");
            fields.remove("raw_base64");
        }
        let raw: String =
            String::from_utf8_lossy(&self.event.raw).chars().take(RAW_CHARS_MAX).collect();
        json!({
            "id": self.event.id,
            "position": self.position,
            "event": event,
            "raw": raw,
            "decided": self.decided.as_ref().map(|decided| self.decision(decided, view)),
        })
    }

    fn decision(&self, decided: &Decided, view: &View) -> Value {
        let actions: Vec<Value> =
            decided.actions.iter().map(|action| self.action(action, view)).collect();
        json!({
            "at": decided.at,
            "rules": decided.rules,
            "looked": decided.looked,
            "sets": decided.sets,
            "actions": actions,
        })
    }

    fn action(&self, action: &Action, view: &View) -> Value {
        let state = self.actions.get(&action.id);
        let outcome = state.and_then(|state| state.outcome.as_ref());
        let waiting = if action.not_before.is_some() { "held" } else { "waiting" };
        let mut json = json!({
            "id": action.id,
            "rule": action.rule,
            "step": action.step,
            "state": outcome.map_or(waiting, |(label, _)| label),
            "held_until": action.not_before,
            "detail": outcome.map_or("", |(_, detail)| detail.as_str()),
            "shown_at": state.and_then(|state| state.shown_at),
            "clicked_at": state.and_then(|state| state.clicked_at),
        });
        if let Value::Object(fields) = &mut json {
            describe(&action.task, view, fields);
        }
        json
    }
}

fn describe(task: &Task, view: &View, fields: &mut serde_json::Map<String, Value>) {
    match task {
        Task::Push { phone: id, message } => {
            let phone = view.phone(id);
            fields.insert("kind".into(), "push".into());
            fields.insert("phone".into(), json!(id));
            fields.insert("person".into(), json!(phone.map(|p| &p.person)));
            fields.insert("phone_name".into(), json!(phone.map(|p| &p.name)));
            if let Ok(Value::Object(message)) = serde_json::to_value(message) {
                fields.extend(message);
            }
        }
        Task::Command(command) => {
            fields.insert("kind".into(), "command".into());
            fields.insert("to".into(), json!(command.to));
            fields.insert("call".into(), json!(command.call));
            fields.insert("args".into(), json!(command.args));
        }
        Task::Open(wish) => {
            fields.insert("kind".into(), "open".into());
            fields.insert("door".into(), json!(wish.door));
            fields.insert("by".into(), json!(wish.by.as_str()));
            fields.insert("person".into(), json!(wish.by.person()));
        }
        Task::Emit(event) => {
            fields.insert("kind".into(), "emit".into());
            fields.insert("emits".into(), json!(event.kind));
        }
    }
}
