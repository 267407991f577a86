//! The account's homes as Netatmo has them: what `homesdata` and `homestatus` say becomes state,
//! names, and events about modules. Pure.
//!
//! State is the difference between what should be known and what is: whatever was known of an
//! earlier run, it ends exact.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::gap::Modules;
use super::wire::{errors, homes, id, status, things};
use crate::event::{Event, Trust};
use crate::record::{Becomes, KnownChange};
use crate::systems::link::{self, News};

/// The most bytes of a name that becomes part of a path.
const NAME_BYTES_MAX: usize = 200;
/// Netatmo's number for a module that does not answer.
const UNREACHABLE: i64 = 6;
/// Addresses that show live pictures or faces to whoever has them: state is no place for them.
const NOT_KEPT: [&str; 5] = ["vpn_url", "local_ipv4", "local_ipv6", "url", "face"];

/// One kind of thing: what the path calls it, and the lists that hold it.
const KINDS: [(&str, &str); 3] = [("module", "modules"), ("person", "persons"), ("room", "rooms")];

/// A thing: what `homesdata` says of it, and what `homestatus` said last.
#[derive(Debug, Clone, Default)]
struct Thing {
    base: Map<String, Value>,
    status: Map<String, Value>,
}

/// One home.
#[derive(Debug, Clone, Default)]
struct Home {
    base: Map<String, Value>,
    status: Map<String, Value>,
    things: BTreeMap<(&'static str, String), Thing>,
}

/// A path's value.
#[derive(Debug, Clone, PartialEq)]
enum Entry {
    Is(Map<String, Value>),
    SameAs(String),
}

/// The moment and its circumstances.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// How far the cloud is vouched for.
    pub trust: Trust,
    /// Now.
    pub at: Timestamp,
    /// Whether something may have happened unheard since the last answer.
    pub gap: bool,
}

/// All homes.
#[derive(Debug)]
pub struct Homes {
    source: String,
    homes: BTreeMap<String, Home>,
    known: BTreeMap<String, Entry>,
    /// What was known at the start and is not filled in yet.
    earlier: BTreeMap<(&'static str, String), Map<String, Value>>,
    is_learned: bool,
}

impl Homes {
    /// Begins with what is known of an earlier run.
    pub fn new(source: &str, known: &[(String, Value)]) -> Homes {
        let mut entries = BTreeMap::new();
        let mut earlier = BTreeMap::new();
        for (path, value) in known {
            let Some(rest) = path.strip_prefix(source).and_then(|rest| rest.strip_prefix('/'))
            else {
                continue;
            };
            let Some((kind, last)) = rest.split_once('/') else { continue };
            let Some(kind) = ["home", "module", "person", "room"].iter().find(|k| **k == kind)
            else {
                continue;
            };
            let fields = value
                .as_object()
                .filter(|fields| fields.get("id").and_then(id).is_some_and(|id| id == last));
            let entry = match fields {
                Some(fields) => {
                    earlier.insert((*kind, last.to_string()), fields.clone());
                    Entry::Is(fields.clone())
                }
                // A name; of what, is told anew.
                None => Entry::SameAs(String::new()),
            };
            entries.insert(path.clone(), entry);
        }
        let (source, homes) = (source.to_string(), BTreeMap::new());
        Homes { source, homes, known: entries, earlier, is_learned: false }
    }

    /// Whether the homes are known.
    pub fn is_learned(&self) -> bool {
        self.is_learned
    }

    /// The homes' ids.
    pub fn ids(&self) -> impl Iterator<Item = &String> {
        self.homes.keys()
    }

    /// Takes a `homesdata` answer; none if it is not one.
    pub fn hear_homes(&mut self, fields: &Map<String, Value>) -> Option<News> {
        let heard = homes(fields)?;
        let mut all = BTreeMap::new();
        for said in heard {
            let Some(home_id) = said.get("id").and_then(id) else { continue };
            let old = self.homes.remove(&home_id).unwrap_or_default();
            let earlier = self.earlier.remove(&("home", home_id.clone()));
            let status = earlier.unwrap_or(old.status);
            let mut home = Home { base: plain(said), status, things: BTreeMap::new() };
            for (kind, list) in KINDS {
                for thing in things(said, list) {
                    let Some(id) = thing.get("id").and_then(id) else { continue };
                    let key = (kind, id);
                    let mut base = kept(thing);
                    base.insert("id".into(), key.1.clone().into());
                    base.insert("home_id".into(), home_id.clone().into());
                    let old = old.things.get(&key).map(|thing| thing.status.clone());
                    let status = old.or_else(|| self.earlier.remove(&key)).unwrap_or_default();
                    home.things.insert(key, Thing { base, status });
                }
            }
            all.insert(home_id, home);
        }
        self.homes = all;
        self.is_learned = true;
        Some(self.difference())
    }

    /// Takes a `homestatus` answer for a home; none if it is not one. Also says whether it tells of
    /// a module that is not known yet.
    pub fn hear_status(
        &mut self,
        home_id: &str,
        fields: &Map<String, Value>,
        told: Told,
    ) -> Option<(News, bool)> {
        let said = status(fields);
        let errors = errors(fields);
        if said.is_none() && errors.is_empty() {
            return None;
        }
        let before = self.modules(home_id);
        let home = self.homes.get_mut(home_id)?;
        let mut strangers = false;
        if let Some(said) = said {
            home.status = plain(said);
            for (kind, list) in KINDS {
                for thing in things(said, list) {
                    let Some(id) = thing.get("id").and_then(id) else { continue };
                    let mut status = kept(thing);
                    status.insert("id".into(), id.clone().into());
                    match home.things.get_mut(&(kind, id)) {
                        Some(thing) => {
                            if kind == "module" {
                                status.entry("reachable").or_insert(true.into());
                            }
                            thing.status = status;
                        }
                        None => strangers |= kind == "module",
                    }
                }
            }
        }
        let unreachable = errors.into_iter().filter(|(code, _)| *code == UNREACHABLE);
        for id in unreachable.filter_map(|(_, id)| id) {
            if let Some(thing) = home.things.get_mut(&("module", id)) {
                thing.status.insert("reachable".into(), false.into());
            }
        }
        let mut news = self.difference();
        self.edges(home_id, &before, told, &mut news);
        Some((news, strangers))
    }

    /// Names by ids, for webhooks.
    pub fn names(&self) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        for (home_id, home) in &self.homes {
            names.extend(name(&home.base).map(|name| (home_id.to_lowercase(), name.to_string())));
            for ((_, id), thing) in &home.things {
                names.extend(name(&thing.base).map(|name| (id.to_lowercase(), name.to_string())));
            }
        }
        names
    }

    /// A module's own word of its state, or another thing's.
    pub fn fields(&self, kind: &'static str, id: &str) -> Option<Map<String, Value>> {
        let key = (kind, id.to_string());
        let thing = self.homes.values().find_map(|home| home.things.get(&key))?;
        Some(merged(&thing.base, &thing.status))
    }

    /// The home that somebody means; the only one, if they name none.
    pub fn find_home(&self, wanted: Option<&str>) -> Result<String, String> {
        let homes = self.homes.iter().map(|(id, home)| (id.as_str(), name(&home.base)));
        let all: Vec<_> = homes.collect();
        match (wanted, all.as_slice()) {
            (Some(wanted), _) => choose("home", wanted, &all).map_err(|(why, _)| why),
            (None, [(id, _)]) => Ok((*id).to_string()),
            (None, []) => Err("the account has no home".into()),
            (None, _) => Err(format!("there are several homes; name one of {}", listed(&all))),
        }
    }

    /// The thing that somebody means: its id and its home's. `suits` decides between several that
    /// are called the same.
    pub fn find(
        &self,
        kind: &'static str,
        wanted: &str,
        home: Option<&str>,
        suits: impl Fn(&Map<String, Value>) -> bool,
    ) -> Result<(String, String), String> {
        let mut all = Vec::new();
        for (home_id, own) in self.homes.iter().filter(|(id, _)| home.is_none_or(|h| h == *id)) {
            for ((_, id), thing) in own.things.iter().filter(|((of, _), _)| *of == kind) {
                all.push((id.as_str(), name(&thing.base), home_id, thing));
            }
        }
        let named = |all: &[(&str, Option<&str>, &String, &Thing)]| {
            let named: Vec<_> = all.iter().map(|(id, name, ..)| (*id, *name)).collect();
            choose(kind, wanted, &named)
        };
        let chosen = match named(&all) {
            Err((_, true)) => {
                let fit = |thing: &Thing| suits(&merged(&thing.base, &thing.status));
                let fitting: Vec<_> = all.iter().copied().filter(|(.., t)| fit(t)).collect();
                if fitting.is_empty() { named(&all) } else { named(&fitting) }
            }
            other => other,
        };
        let id = chosen.map_err(|(why, _)| why)?;
        let home = all.iter().find(|(own, ..)| *own == id).map(|(.., home, _)| (*home).clone());
        Ok((id, home.unwrap_or_default()))
    }

    fn modules(&self, home_id: &str) -> BTreeMap<String, Map<String, Value>> {
        let things = self.homes.get(home_id).map(|home| &home.things);
        let modules = things.into_iter().flatten().filter(|((kind, _), _)| *kind == "module");
        modules.map(|((_, id), thing)| (id.clone(), merged(&thing.base, &thing.status))).collect()
    }

    /// What of the change of modules is worth an event.
    fn edges(
        &self,
        home_id: &str,
        before: &BTreeMap<String, Map<String, Value>>,
        told: Told,
        news: &mut News,
    ) {
        for (id, new) in self.modules(home_id) {
            let Some(old) = before.get(&id) else { continue };
            let flag = |of: &Map<String, Value>| of.get("reachable").and_then(Value::as_bool);
            if let (Some(was), Some(is)) = (flag(old), flag(&new))
                && was != is
            {
                let kind =
                    if is { "netatmo.module_reachable" } else { "netatmo.module_unreachable" };
                news.events.push(self.event(kind, &new, told).into());
            }
            if new.get("type").and_then(Value::as_str) != Some("NACamDoorTag") {
                continue;
            }
            let word = |of: &Map<String, Value>| {
                of.get("status").and_then(Value::as_str).map(String::from)
            };
            if let (Some(was), Some(is)) = (word(old), word(&new))
                && was != is
            {
                let mut event = self.event("netatmo.tag_status", &new, told);
                event.data.insert("status".into(), is.into());
                event.data.insert("previous".into(), was.into());
                let category = new.get("category").filter(|category| category.is_string());
                event.data.extend(category.map(|c| ("category".to_string(), c.clone())));
                news.events.push(event.into());
            }
        }
    }

    /// `unique` is the moment: a state and its edge are durable together, so no edge is found twice.
    fn event(&self, kind: &str, module: &Map<String, Value>, told: Told) -> Event {
        let text = |name: &str| module.get(name).and_then(Value::as_str).unwrap_or_default();
        let at = told.at.to_string();
        let unique = [text("home_id"), text("id"), &at];
        let mut event = link::event(&self.source, kind, &unique, told.trust, told.gap, told.at);
        let (id, home_id) = (text("id"), text("home_id"));
        let home = self.homes.get(home_id).and_then(|home| name(&home.base)).unwrap_or(home_id);
        event.subject = Some(id.to_string());
        event.data.insert("module_id".into(), id.into());
        event.data.insert("module_name".into(), name(module).unwrap_or(id).into());
        event.data.insert("product".into(), text("type").into());
        event.data.insert("home_id".into(), home_id.into());
        event.data.insert("home_name".into(), home.into());
        event
    }

    /// What turns what is known into what should be.
    fn difference(&mut self) -> News {
        let wanted = self.wanted();
        let mut news = News::default();
        for path in self.known.keys().filter(|path| !wanted.contains_key(*path)) {
            news.remove(path.clone());
        }
        for (path, entry) in &wanted {
            let to = match (self.known.get(path), entry) {
                (Some(old), new) if old == new => continue,
                (Some(Entry::Is(old)), Entry::Is(new)) => changed(old, new),
                (_, Entry::Is(new)) => Becomes::Is(Value::Object(new.clone())),
                (_, Entry::SameAs(other)) => Becomes::SameAs(other.clone()),
            };
            news.known.push(KnownChange { path: path.clone(), to });
        }
        self.known = wanted;
        news
    }

    fn wanted(&self) -> BTreeMap<String, Entry> {
        let mut wanted = BTreeMap::new();
        let mut named = Vec::new();
        let mut add = |kind: &str, id: &str, fields: Map<String, Value>| {
            let path = format!("{}/{kind}/{id}", self.source);
            let name = name(&fields).filter(|name| is_name(name));
            named.extend(name.map(|n| (format!("{}/{kind}/{n}", self.source), path.clone())));
            wanted.insert(path, Entry::Is(fields));
        };
        for (home_id, home) in &self.homes {
            let mut fields = merged(&home.base, &home.status);
            fields.insert("id".into(), home_id.clone().into());
            add("home", home_id, fields);
            for ((kind, id), thing) in &home.things {
                add(kind, id, merged(&thing.base, &thing.status));
            }
        }
        for (path, same) in named {
            // The first of several with one name has it, and ids come before names.
            wanted.entry(path).or_insert(Entry::SameAs(same));
        }
        wanted
    }
}

impl Modules for Homes {
    fn bridge(&self, module: &str) -> Option<&str> {
        self.module(module)?.get("bridge")?.as_str().filter(|bridge| !bridge.is_empty())
    }

    fn product(&self, module: &str) -> Option<&str> {
        self.module(module)?.get("type")?.as_str()
    }
}

impl Homes {
    fn module(&self, id: &str) -> Option<&Map<String, Value>> {
        let key = ("module", id.to_string());
        self.homes.values().find_map(|home| home.things.get(&key)).map(|thing| &thing.base)
    }
}

/// What stands in a home's own state: no lists, which are things of their own or long plans.
fn plain(fields: &Map<String, Value>) -> Map<String, Value> {
    let kept = kept(fields).into_iter();
    kept.filter(|(_, value)| !value.is_array() && !value.is_object()).collect()
}

fn kept(fields: &Map<String, Value>) -> Map<String, Value> {
    let kept = fields.iter().filter(|(name, _)| !NOT_KEPT.contains(&name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What `homesdata` says stands over what was found in an earlier run's state.
fn merged(base: &Map<String, Value>, status: &Map<String, Value>) -> Map<String, Value> {
    let mut all = status.clone();
    all.extend(base.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}

fn changed(old: &Map<String, Value>, new: &Map<String, Value>) -> Becomes {
    let set = new.iter().filter(|(name, value)| old.get(*name) != Some(*value));
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    Becomes::Fields {
        set: set.map(|(name, value)| (name.clone(), value.clone())).collect(),
        gone: gone.cloned().collect(),
    }
}

/// What people call it: persons have a pseudonym instead of a name.
fn name(fields: &Map<String, Value>) -> Option<&str> {
    let named = ["name", "pseudo"].iter().find_map(|name| fields.get(*name)?.as_str());
    named.filter(|name| !name.trim().is_empty())
}

/// Whether a name can stand where an id stands.
fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && !name.contains('/')
}

/// The one meant among ids and names. An error says what there is, and whether several are meant.
fn choose(
    kind: &str,
    wanted: &str,
    all: &[(&str, Option<&str>)],
) -> Result<String, (String, bool)> {
    let wanted = wanted.trim();
    let by = |same: &dyn Fn(&str, Option<&str>) -> bool| -> Vec<&str> {
        all.iter().filter(|(id, name)| same(id, *name)).map(|(id, _)| *id).collect()
    };
    let folded = wanted.to_lowercase();
    let mut found = by(&|id, _| id.eq_ignore_ascii_case(wanted));
    if found.is_empty() {
        found = by(&|_, name| name == Some(wanted));
    }
    if found.is_empty() {
        found = by(&|_, name| name.is_some_and(|name| name.to_lowercase() == folded));
    }
    match found.as_slice() {
        [id] => Ok((*id).to_string()),
        [] if all.is_empty() => Err((format!("there is no {kind} at all"), false)),
        [] => Err((format!("there is no {kind} `{wanted}`; there is {}", listed(all)), false)),
        several => {
            let ids = several.join(", ");
            Err((format!("several are called `{wanted}`; name one by its id: {ids}"), true))
        }
    }
}

/// How many candidates an error names.
const LISTED_MAX: usize = 20;

fn listed(all: &[(&str, Option<&str>)]) -> String {
    let named = all.iter().take(LISTED_MAX).map(|(id, name)| name.unwrap_or(id).to_string());
    let mut text = named.collect::<Vec<_>>().join(", ");
    if all.len() > LISTED_MAX {
        text.push_str(", …");
    }
    text
}
