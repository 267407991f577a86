//! One feed's objects kept equal to the server's: snapshots, changes while they are under way, and
//! what to fetch again when something does not fit. Says what changed, and not yet how that is
//! told. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::mirror::{Mirror, name_of};
use super::patch::{DEPTH_MAX, Patch, depth};
use super::reconcile::{Step, replay, settle};
use super::requests::Requests;
use super::wire::{Message, Refresh, id_of};
use super::{Feed, Moment};
use crate::record::{Becomes, KnownChange};

/// The most objects of one kind; the largest homes have some 2 000.
const OBJECTS_MAX: usize = 20_000;
/// Changes kept while an answer is awaited; a flood above it makes the answer useless, and the
/// list is asked for again.
const STEPS_KEPT_MAX: usize = 5_000;
/// The most bytes of the raw frames of these changes.
const STEPS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// One feed's objects.
#[derive(Debug)]
pub struct Sync {
    /// Which feed.
    pub feed: Feed,
    /// Its objects.
    pub mirror: Mirror,
    source: String,
    folders: BTreeMap<i64, Value>,
    requests: Requests,
    /// Whether a snapshot came since connecting; before it changes are only kept.
    is_live: bool,
    /// How many snapshots were ever compared; none means that nothing is news yet.
    round: u64,
    steps: Vec<Kept>,
    steps_bytes: usize,
    steps_ever: u64,
    overflowed: bool,
    /// Why the list cannot be had, while it cannot.
    flaw: Option<String>,
}

/// A change that an answer on its way may hold or not.
#[derive(Debug)]
struct Kept {
    id: i64,
    step: Step,
    number: u64,
    heard: Heard,
}

/// When a frame came, and its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// When.
    pub at: Timestamp,
    /// Its bytes, cut to what events keep.
    pub raw: Vec<u8>,
}

/// How we learned of a change.
#[derive(Debug, Clone, PartialEq)]
pub enum How {
    /// As it happened.
    Live(Heard),
    /// By asking for that object again.
    Refetched(Heard),
    /// By comparing this snapshot, counted over all runs.
    Compared(u64),
}

/// An object came, changed or went.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its id.
    pub id: i64,
    /// What it was.
    pub old: Option<Value>,
    /// What it is.
    pub new: Option<Value>,
    /// How we know.
    pub how: How,
}

/// What one step leads to; state first, then the change that it belongs to.
#[derive(Debug, Default)]
pub struct Effects {
    /// State, with the change that it belongs to if that is worth telling.
    pub pieces: Vec<(Vec<KnownChange>, Option<Change>)>,
    /// What could not be understood.
    pub bad: Vec<String>,
    /// The connection is of no use any more.
    pub close: Option<&'static str>,
}

// === impl Sync ===

impl Sync {
    /// The objects of a feed, as they were when Portero stopped.
    pub fn new(source: &str, feed: Feed, every: Duration, known: &[(String, Value)]) -> Sync {
        let marker = format!("{source}/feed/{}", feed.as_str());
        let marker = known.iter().find(|(path, _)| *path == marker);
        let round = marker.and_then(|(_, value)| value.get("round")?.as_u64());
        let folders = format!("{source}/folder/{}/", feed.as_str());
        let folder = |(path, value): &(String, Value)| {
            Some((path.strip_prefix(&folders)?.parse().ok()?, value.clone()))
        };
        Sync {
            feed,
            mirror: Mirror::new(source, feed, known),
            source: source.to_string(),
            folders: known.iter().filter_map(folder).collect(),
            requests: Requests::new(feed, every),
            is_live: false,
            round: round.unwrap_or(0),
            steps: Vec::new(),
            steps_bytes: 0,
            steps_ever: 0,
            overflowed: false,
            flaw: None,
        }
    }

    /// A new connection: nothing is sure until the snapshot is there. If it may be the snapshot
    /// that ends connections, changes are heard without it.
    pub fn connected(&mut self, now: Moment) {
        self.disconnected();
        self.requests.connected(now.up);
        if self.requests.is_list_held(now.up) {
            self.is_live = true;
            let why = || "connections end while its list is awaited".to_string();
            self.flaw.get_or_insert_with(why);
        }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.requests.closed();
        self.is_live = false;
        self.overflowed = false;
        self.forget_steps();
    }

    /// What to send now.
    pub fn due(&mut self, now: Moment) -> Vec<String> {
        self.requests.due(now.up, self.steps_ever)
    }

    /// Whether the server has stopped to answer.
    pub fn is_overdue(&self, now: Moment) -> bool {
        self.requests.is_overdue(now.up)
    }

    /// Why the list cannot be had, while it cannot: then only changes are heard.
    pub fn flaw(&self) -> Option<&str> {
        self.flaw.as_deref()
    }

    /// Whether a snapshot was ever taken.
    pub fn has_snapshot(&self) -> bool {
        self.round > 0
    }

    /// A folder's name.
    pub fn folder(&self, id: i64) -> Option<&str> {
        self.folders.get(&id).and_then(name_of)
    }

    /// Something was lost or could not be read: everything must be compared.
    pub fn doubt(&mut self, now: Moment) {
        self.requests.want_all(now.up);
    }

    /// A frame that cannot be read, and why: the answer to a question, or a change of anything.
    pub fn unreadable(&mut self, text: &str, why: &str, now: Moment, out: &mut Effects) {
        match self.requests.answered_badly(text) {
            Some(Refresh::All) => self.no_list(format!("its list cannot be read, {why}"), now, out),
            Some(Refresh::One(id)) => self.requests.want_one(id, now.up),
            Some(Refresh::Folders) => {}
            None => self.doubt(now),
        }
    }

    /// Time passed: questions that were passed over are asked again.
    pub fn tick(&mut self, now: Moment, out: &mut Effects) {
        for what in self.requests.take_overlooked(now.up) {
            match what {
                Refresh::All => self.no_list("its list does not come".into(), now, out),
                Refresh::One(id) => self.requests.want_one(id, now.up),
                Refresh::Folders => {}
            }
        }
    }

    /// There is no list for now. Changes are heard all the same, against what was known.
    fn no_list(&mut self, why: String, now: Moment, out: &mut Effects) {
        self.requests.list_failed(now.up);
        self.flaw = Some(why);
        if !std::mem::replace(&mut self.is_live, true) {
            self.overflowed = false;
            for Kept { id, step, heard, .. } in std::mem::take(&mut self.steps) {
                self.live(id, step, heard, now, out);
            }
            self.forget_steps();
        }
    }

    /// Takes a message. False if it answers none of our questions here.
    pub fn message(
        &mut self,
        message: Message,
        heard: Heard,
        now: Moment,
        out: &mut Effects,
    ) -> bool {
        match message {
            Message::All { id, folders, list } => self.all(id, folders, list, now, out),
            Message::One { id, object } => self.one(id, object, heard, now, out),
            Message::Added(object) => match id_of(&object) {
                Some(id) => self.step(id, Step::Added(object), heard, now, out),
                None => out.bad.push("a new object without an id".into()),
            },
            Message::Changed { object: Some(id), patch } if patch.is_array() => {
                let step = Patch::read(&patch).map_or(Step::Garbled, Step::Patched);
                self.step(id, step, heard, now, out);
            }
            Message::Changed { .. } | Message::Deleted(None) => self.requests.want_all(now.up),
            Message::Deleted(Some(id)) => self.step(id, Step::Deleted, heard, now, out),
            Message::Failed { id, why } => return self.failed(id, &why, now, out),
        }
        true
    }

    fn failed(&mut self, id: Option<String>, why: &str, now: Moment, out: &mut Effects) -> bool {
        let Some(id) = id else { return false };
        let Some(pending) = self.requests.answered(Some(&id), |_| true) else { return false };
        match pending.what {
            // A server without folders; the answer shows that it lives.
            Refresh::Folders => {}
            // It may be gone, with the word of that lost.
            Refresh::One(_) => self.requests.want_all(now.up),
            Refresh::All => {
                let why = format!("its list is refused: {why}");
                out.bad.push(why.clone());
                self.no_list(why, now, out);
            }
        }
        true
    }

    /// A change as it happens.
    fn step(&mut self, id: i64, step: Step, heard: Heard, now: Moment, out: &mut Effects) {
        if self.is_live {
            if self.requests.oldest_mark().is_some() {
                self.keep(id, step.clone(), heard.clone());
            }
            self.live(id, step, heard, now, out);
        } else {
            self.keep(id, step, heard);
        }
    }

    fn live(&mut self, id: i64, step: Step, heard: Heard, now: Moment, out: &mut Effects) {
        let patched = match step {
            Step::Added(object) => return self.put(id, Some(object), How::Live(heard), true, out),
            Step::Deleted => return self.put(id, None, How::Live(heard), true, out),
            Step::Garbled => None,
            Step::Patched(patch) => self.mirror.whole(id).and_then(|o| patch.apply(o).ok()),
        };
        match patched.filter(|applied| id_of(&applied.object) == Some(id)) {
            Some(applied) => {
                if applied.surprised {
                    self.requests.want_one(id, now.up);
                }
                self.put(id, Some(applied.object), How::Live(heard), true, out);
            }
            None => {
                let source = self.source.clone();
                metrics::counter!("portero_indigo_misfits_total", "source" => source).increment(1);
                self.requests.want_one(id, now.up);
            }
        }
    }

    fn one(
        &mut self,
        id: Option<String>,
        object: Value,
        heard: Heard,
        now: Moment,
        out: &mut Effects,
    ) {
        let asked = |what| match what {
            Refresh::One(id) => id_of(&object).is_none_or(|is| is == id),
            _ => false,
        };
        let Some(pending) = self.requests.answered(id.as_deref(), asked) else { return };
        let Refresh::One(id) = pending.what else { return };
        if id_of(&object).is_none() {
            return self.requests.want_all(now.up);
        }
        let kept = self.steps.iter().filter(|kept| kept.id == id && kept.number >= pending.mark);
        let steps: Vec<Step> = kept.map(|kept| kept.step.clone()).collect();
        let settled = settle(Some(&object), &steps);
        if settled.doubtful {
            self.requests.want_one(id, now.up);
        }
        // Without any snapshot so far, an object that is not known is not new.
        let tell = self.has_snapshot() || self.mirror.get(id).is_some();
        self.put(id, replay(&settled, &steps), How::Refetched(heard), tell, out);
        self.prune_steps();
    }

    fn all(
        &mut self,
        id: Option<String>,
        folders: bool,
        list: Vec<Value>,
        now: Moment,
        out: &mut Effects,
    ) {
        let what = if folders { Refresh::Folders } else { Refresh::All };
        let Some(pending) = self.requests.answered(id.as_deref(), |asked| asked == what) else {
            return;
        };
        let items = list.len();
        let listed: BTreeMap<i64, Value> =
            list.into_iter().filter_map(|item| Some((id_of(&item)?, item))).collect();
        let is_whole = listed.len() == items;
        if !is_whole {
            out.bad.push(format!("{} of {items} in a list have no id", items - listed.len()));
        }
        if folders {
            self.put_folders(listed, out);
        } else {
            self.compare(listed, is_whole, pending.mark, now, out);
        }
    }

    /// Compares a snapshot with what we have. What came before it and is not in it follows.
    fn compare(
        &mut self,
        listed: BTreeMap<i64, Value>,
        is_whole: bool,
        mark: u64,
        now: Moment,
        out: &mut Effects,
    ) {
        self.requests.list_read();
        self.flaw = None;
        let tell = self.has_snapshot();
        let (was_live, overflowed) = (self.is_live, std::mem::take(&mut self.overflowed));
        self.is_live = true;
        let mut since: BTreeMap<i64, Vec<(Step, Heard)>> = BTreeMap::new();
        for kept in self.steps.iter().filter(|kept| kept.number >= mark) {
            since.entry(kept.id).or_default().push((kept.step.clone(), kept.heard.clone()));
        }
        let ids: BTreeSet<i64> = listed
            .keys()
            .chain(self.mirror.objects().keys())
            .chain(since.keys())
            .copied()
            .collect();
        for id in ids {
            let (steps, heard): (Vec<Step>, Vec<Heard>) =
                since.remove(&id).unwrap_or_default().into_iter().unzip();
            let settled = settle(listed.get(&id), &steps);
            if settled.doubtful {
                self.requests.want_one(id, now.up);
            }
            let base = if was_live { replay(&settled, &steps) } else { settled.base };
            if base.is_some() || is_whole {
                self.put(id, base, How::Compared(self.round), tell, out);
            }
            if !was_live {
                let rest = steps.into_iter().zip(heard).skip(settled.contained);
                rest.for_each(|(step, heard)| self.live(id, step, heard, now, out));
            }
        }
        if overflowed {
            self.requests.want_all(now.up);
        }
        self.prune_steps();
        self.mark_round(now, out);
    }

    /// Written last: until then a crash repeats the comparison, with the same ids.
    fn mark_round(&mut self, now: Moment, out: &mut Effects) {
        self.round += 1;
        let path = format!("{}/feed/{}", self.source, self.feed.as_str());
        let objects = self.mirror.objects().len();
        let marker = json!({ "round": self.round, "objects": objects, "at": now.at });
        out.pieces.push((vec![KnownChange { path, to: Becomes::Is(marker) }], None));
    }

    fn put(&mut self, id: i64, new: Option<Value>, how: How, tell: bool, out: &mut Effects) {
        let is_full = self.mirror.objects().len() >= OBJECTS_MAX && self.mirror.get(id).is_none();
        if new.is_some() && is_full {
            return out.bad.push(format!("more than {OBJECTS_MAX} objects"));
        }
        // What is written around it must still be readable.
        if new.as_ref().is_some_and(|object| depth(object) > DEPTH_MAX) {
            return out.bad.push(format!("an object deeper than {DEPTH_MAX}"));
        }
        let mut known = Vec::new();
        let old = match &new {
            Some(object) => self.mirror.put(id, object.clone(), &mut known),
            None => self.mirror.remove(id, &mut known),
        };
        if old != new {
            let change = tell.then_some(Change { id, old, new, how });
            out.pieces.push((known, change));
        }
    }

    fn put_folders(&mut self, listed: BTreeMap<i64, Value>, out: &mut Effects) {
        let mut known = Vec::new();
        let prefix = format!("{}/folder/{}", self.source, self.feed.as_str());
        for (id, folder) in listed.iter().take(OBJECTS_MAX) {
            if self.folders.get(id) != Some(folder) {
                let path = format!("{prefix}/{id}");
                known.push(KnownChange { path, to: Becomes::Is(folder.clone()) });
            }
        }
        for id in self.folders.keys().filter(|id| !listed.contains_key(id)) {
            known.push(KnownChange { path: format!("{prefix}/{id}"), to: Becomes::Gone });
        }
        self.folders = listed.into_iter().take(OBJECTS_MAX).collect();
        if !known.is_empty() {
            out.pieces.push((known, None));
        }
    }

    fn keep(&mut self, id: i64, step: Step, heard: Heard) {
        self.steps_bytes += heard.raw.len();
        if self.steps.len() >= STEPS_KEPT_MAX || self.steps_bytes > STEPS_BYTES_MAX {
            self.forget_steps();
            self.overflowed = true;
            return;
        }
        self.steps.push(Kept { id, step, number: self.steps_ever, heard });
        self.steps_ever += 1;
    }

    /// Drops what no answer on its way needs.
    fn prune_steps(&mut self) {
        match self.requests.oldest_mark() {
            Some(mark) => self.steps.retain(|kept| kept.number >= mark),
            None => self.steps.clear(),
        }
        self.steps_bytes = self.steps.iter().map(|kept| kept.heard.raw.len()).sum();
    }

    fn forget_steps(&mut self) {
        self.steps.clear();
        self.steps_bytes = 0;
    }
}
