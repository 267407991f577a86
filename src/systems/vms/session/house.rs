//! The intercoms as the VMS last told them: a batch of answers goes in, what changed comes out as
//! state and as events. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Told;
use crate::event::{Event, Heard};
use crate::record::{Becomes, KnownChange};
use crate::systems::link::News;
use crate::systems::vms::wire::Intercom;

/// A title that is longer is no name to look things up by.
const NAME_BYTES_MAX: usize = 200;

/// Fields of which null or nothing means that the answer does not say: what was known stays.
const LASTING: [&str; 5] = ["title", "address", "is_online", "is_enabled", "is_open_door_app"];

/// All intercoms that are known.
#[derive(Debug, Default)]
pub struct House {
    source: String,
    intercoms: BTreeMap<u64, Map<String, Value>>,
    /// Names that stand for an intercom, the first that bears one has it.
    names: BTreeMap<String, u64>,
    /// What was told of them all together.
    summary: Value,
    /// Whether all were asked for at least once, ever: before that nothing is a change.
    learned: bool,
    /// Whether names are from before a restart and were not told since.
    names_stale: bool,
    /// Those that the last look did not find: a second one must agree before they are gone.
    missed: BTreeSet<u64>,
}

impl House {
    /// The house as it was when Portero stopped.
    pub fn new(source: &str, known: &[(String, Value)]) -> House {
        let mut house = House { source: source.to_string(), ..House::default() };
        let inside = format!("{source}/intercom/");
        for (path, value) in known {
            let id = path.strip_prefix(&inside).and_then(|id| id.parse().ok());
            if let (Some(id), Value::Object(fields)) = (id, value) {
                house.intercoms.insert(id, fields.clone());
            }
            house.learned |= *path == house.summary_path();
        }
        for (id, fields) in &house.intercoms {
            if let Some(title) = fields.get("title").and_then(Value::as_str).filter(|t| is_name(t))
            {
                house.names.entry(title.to_string()).or_insert(*id);
            }
        }
        house.names_stale = true;
        house
    }

    /// The ids that are known.
    pub fn ids(&self) -> BTreeSet<u64> {
        self.intercoms.keys().copied().collect()
    }

    /// Whether all were asked for at least once.
    pub fn is_learned(&self) -> bool {
        self.learned
    }

    /// A field of an intercom.
    pub fn field(&self, id: u64, name: &str) -> Option<&Value> {
        self.intercoms.get(&id)?.get(name)
    }

    /// The title of an intercom, else its id, so that a text with it can always be written.
    pub fn title(&self, id: u64) -> String {
        let title = self.field(id, "title").and_then(Value::as_str);
        title.filter(|title| !title.is_empty()).map_or_else(|| id.to_string(), String::from)
    }

    /// The intercom that somebody means: by id, by title, or by the title in other letters if
    /// only one has it.
    pub fn find(&self, wanted: &str) -> Result<u64, String> {
        let wanted = wanted.trim();
        if let Some(id) = wanted.parse().ok().filter(|id| self.intercoms.contains_key(id)) {
            return Ok(id);
        }
        let by = |same: fn(&str, &str) -> bool| -> Vec<u64> {
            let bears = |id: &&u64| same(&self.title(**id), wanted);
            self.intercoms.keys().filter(bears).copied().collect()
        };
        let mut found = by(|title, wanted| title == wanted);
        if found.is_empty() {
            found = by(|title, wanted| title.to_lowercase() == wanted.to_lowercase());
        }
        match found.as_slice() {
            [id] => Ok(*id),
            [] => Err(format!("there is no intercom `{wanted}`")),
            _ => Err(format!("several intercoms are called `{wanted}`; name one by its id")),
        }
    }

    /// The answer to a question for these ids. Only if it was `whole` do missing ones count, and
    /// only two looks in a row make them gone: a list may be empty for a moment.
    pub fn hear(&mut self, asked: &[u64], got: Vec<Intercom>, whole: bool, told: &Told) -> News {
        let mut news = News::default();
        let mut missing: BTreeSet<u64> = asked.iter().copied().collect();
        for intercom in got {
            // What was not asked for is not ours to judge, and the first of two counts.
            if missing.remove(&intercom.id) {
                self.missed.remove(&intercom.id);
                self.one(intercom, told, &mut news);
            }
        }
        for id in missing.into_iter().filter(|_| whole) {
            self.lost(id, told, &mut news);
        }
        self.summarise(&mut news);
        news
    }

    /// All that are wanted were asked for. What was known of others, which the config no longer
    /// names, is forgotten; names are told anew, since a restart forgets which of two had one.
    pub fn round_ended(&mut self, wanted: &BTreeSet<u64>) -> News {
        let mut news = News::default();
        for id in self.ids().difference(wanted) {
            self.forget(*id, &mut news);
        }
        if std::mem::take(&mut self.names_stale) {
            let names = self.names.iter().map(|(title, id)| KnownChange {
                path: self.name_path(title),
                to: Becomes::SameAs(self.path(*id)),
            });
            news.known.extend(names);
        }
        if !self.learned {
            // Also where there is no intercom at all: the next one is news.
            self.learned = true;
            self.summary = Value::Null;
        }
        self.summarise(&mut news);
        news
    }

    fn one(&mut self, intercom: Intercom, told: &Told, news: &mut News) {
        let Intercom { id, mut fields, raw } = intercom;
        let Some(old) = self.intercoms.get(&id).cloned() else {
            news.set(self.path(id), Value::Object(fields.clone()));
            self.intercoms.insert(id, fields);
            self.name(id, None, news);
            if self.learned {
                let event = self.event("appeared", id, "", told, raw);
                news.events.push(event);
            }
            return;
        };
        keep_lasting(&old, &mut fields);
        let Some(change) = difference(&old, &fields) else { return };
        news.known.push(KnownChange { path: self.path(id), to: change });
        self.intercoms.insert(id, fields);
        let old_title = old.get("title").and_then(Value::as_str);
        self.name(id, old_title, news);
        self.edges(id, &old, told, &raw, news);
    }

    /// What of the change is worth an event.
    fn edges(&self, id: u64, old: &Map<String, Value>, told: &Told, raw: &[u8], news: &mut News) {
        for (field, on, off) in
            [("is_online", "online", "offline"), ("is_enabled", "enabled", "disabled")]
        {
            let was = old.get(field).and_then(Value::as_bool);
            let is = self.field(id, field).and_then(Value::as_bool);
            if let (Some(was), Some(is)) = (was, is)
                && was != is
            {
                let kind = if is { on } else { off };
                news.events.push(self.event(kind, id, "", told, raw.to_vec()));
            }
        }
        let was = old.get("title").and_then(Value::as_str).unwrap_or_default();
        let is = self.field(id, "title").and_then(Value::as_str).unwrap_or_default();
        if was != is {
            let mut heard = self.event("renamed", id, is, told, raw.to_vec());
            heard.event.data.insert("old_title".into(), was.into());
            news.events.push(heard);
        }
    }

    fn lost(&mut self, id: u64, told: &Told, news: &mut News) {
        if !self.intercoms.contains_key(&id) || self.missed.insert(id) {
            return;
        }
        if self.learned {
            let event = self.event("gone", id, "", told, Vec::new());
            news.events.push(event);
        }
        self.forget(id, news);
    }

    fn forget(&mut self, id: u64, news: &mut News) {
        self.missed.remove(&id);
        let Some(fields) = self.intercoms.remove(&id) else { return };
        news.remove(self.path(id));
        if let Some(title) = fields.get("title").and_then(Value::as_str) {
            self.unname(id, title, news);
        }
    }

    /// Gives an intercom its title as a second path.
    fn name(&mut self, id: u64, old_title: Option<&str>, news: &mut News) {
        let title = self.field(id, "title").and_then(Value::as_str).unwrap_or_default().to_string();
        if let Some(old) = old_title.filter(|old| *old != title) {
            self.unname(id, old, news);
        }
        if is_name(&title) && !self.names.contains_key(&title) {
            let to = Becomes::SameAs(self.path(id));
            news.known.push(KnownChange { path: self.name_path(&title), to });
            self.names.insert(title, id);
        }
    }

    /// Takes a name back; another intercom with the same one inherits it.
    fn unname(&mut self, id: u64, title: &str, news: &mut News) {
        if self.names.get(title) != Some(&id) {
            return;
        }
        self.names.remove(title);
        let heir = self.intercoms.keys().copied().find(|heir| {
            *heir != id && self.field(*heir, "title").and_then(Value::as_str) == Some(title)
        });
        match heir {
            Some(heir) => self.name(heir, None, news),
            None => news.remove(self.name_path(title)),
        }
    }

    fn summarise(&mut self, news: &mut News) {
        if !self.learned {
            return;
        }
        let online = |fields: &&Map<String, Value>| fields.get("is_online") == Some(&true.into());
        let online = self.intercoms.values().filter(online).count();
        let summary = json!({ "count": self.intercoms.len(), "online": online });
        if summary != self.summary {
            news.set(self.summary_path(), summary.clone());
            self.summary = summary;
        }
    }

    /// `unique` is what tells this edge from another of the same kind, beside the moment: a state
    /// and its edge are made durable together, so that no edge is found twice.
    fn event(&self, kind: &str, id: u64, unique: &str, told: &Told, raw: Vec<u8>) -> Heard {
        let (id_text, received) = (id.to_string(), told.received.to_string());
        let kind = format!("vms.intercom.{kind}");
        let mut event = told.event(&kind, &[&id_text, unique, &received], told.gap);
        event.subject = Some(id_text);
        self.describe(id, &mut event);
        for name in ["is_online", "is_enabled"] {
            let flag = self.field(id, name).filter(|flag| flag.is_boolean()).cloned();
            event.data.extend(flag.map(|flag| (name.to_string(), flag)));
        }
        event.raw = raw;
        event.into()
    }

    /// Says in an event's data which intercom it is about.
    pub fn describe(&self, id: u64, event: &mut Event) {
        event.data.insert("intercom_id".into(), id.into());
        event.data.insert("title".into(), self.title(id).into());
        if let Some(address) = self.field(id, "address").filter(|address| address.is_string()) {
            event.data.insert("address".into(), address.clone());
        }
    }

    fn path(&self, id: u64) -> String {
        format!("{}/intercom/{id}", self.source)
    }

    fn name_path(&self, title: &str) -> String {
        format!("{}/intercom/{title}", self.source)
    }

    fn summary_path(&self) -> String {
        format!("{}/intercoms", self.source)
    }
}

/// Whether a title can stand where an id stands.
fn is_name(title: &str) -> bool {
    !title.is_empty() && title.len() <= NAME_BYTES_MAX && title.parse::<u64>().is_err()
}

fn keep_lasting(old: &Map<String, Value>, new: &mut Map<String, Value>) {
    for name in LASTING {
        if new.get(name).is_none_or(Value::is_null)
            && let Some(kept) = old.get(name)
        {
            new.insert(name.to_string(), kept.clone());
        }
    }
}

/// What turns `old` into `new`; nothing if they are equal.
fn difference(old: &Map<String, Value>, new: &Map<String, Value>) -> Option<Becomes> {
    let changed = new.iter().filter(|(name, value)| old.get(*name) != Some(*value));
    let set: Map<String, Value> = changed.map(|(n, v)| (n.clone(), v.clone())).collect();
    let gone: Vec<String> = old.keys().filter(|name| !new.contains_key(*name)).cloned().collect();
    (!set.is_empty() || !gone.is_empty()).then_some(Becomes::Fields { set, gone })
}

/// Whether `at` lies within `span` of `now`, on either side by the same slack.
pub(super) fn is_young(at: Timestamp, now: Timestamp, most: jiff::SignedDuration) -> bool {
    now.duration_since(at).abs() <= most
}
