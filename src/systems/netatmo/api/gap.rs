//! What happened while nobody listened: pages of `getevents` become the events that webhooks would
//! have made. Pure. Remembers per home which facts it has seen; the first look only learns them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::wire::{id, whole};

/// Pages of one round. More than this and a call of few is spent on yesterday.
pub const PAGES_MAX: u32 = 10;
/// Events of one page: the most that Netatmo gives.
pub const PAGE_SIZE: u64 = 30;
/// Facts remembered of one home: those of a few rounds of full pages.
const SEEN_MAX: usize = 600;
/// The most facts of one event; the largest visits have a handful.
const FACTS_PER_EVENT_MAX: usize = 32;
/// Webhooks come within seconds of what they report. What is younger than this is left to them:
/// their form counts as live, ours does not.
const SETTLED_AFTER_S: i64 = 15;
/// Events that only group others, which are told instead of them.
const GROUPS: [&str; 2] = ["outdoor", "cluster"];
/// What a camera sees: a webhook about the whole group has told of these.
const SEEN_IN_GROUPS: [&str; 4] = ["human", "animal", "vehicle", "movement"];

/// What is known of one home's events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// What happened up to then is known, whatever it was. Seconds since 1970.
    floor: i64,
    /// Facts known, and when each was.
    seen: BTreeMap<String, i64>,
}

/// Marks by home; kept over a restart.
pub type Marks = BTreeMap<String, Mark>;

/// One fact, in the form of a webhook.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// What tells it from others of its home.
    key: String,
    /// When, in seconds since 1970.
    pub time: i64,
    /// As a webhook would have it.
    pub frame: Map<String, Value>,
    /// Other forms in which a webhook may have told of it.
    pub alike: Vec<Map<String, Value>>,
    /// As Netatmo gave it.
    pub raw: Vec<u8>,
}

/// What is known of modules, for the device and the product of an event.
pub trait Modules {
    /// The module's bridge, if it has one.
    fn bridge(&self, module: &str) -> Option<&str>;
    /// The module's type.
    fn product(&self, module: &str) -> Option<&str>;
}

/// A look at one home, page by page.
#[derive(Debug)]
pub struct Round {
    /// The home.
    pub home: String,
    /// The oldest event so far: the next page begins below it.
    pub before: Option<String>,
    pages: u32,
    facts: BTreeMap<String, Fact>,
    asked_below: BTreeSet<String>,
}

/// What follows from a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another page.
    Page,
    /// That was all.
    End,
}

/// What a round found.
#[derive(Debug, Default)]
pub struct Found {
    /// New facts, oldest first.
    pub facts: Vec<Fact>,
    /// Whether some are left to webhooks for now.
    pub unsettled: bool,
}

impl Round {
    /// A look at a home.
    pub fn new(home: String) -> Round {
        let (facts, asked_below) = (BTreeMap::new(), BTreeSet::new());
        Round { home, before: None, pages: 0, facts, asked_below }
    }

    /// Takes a page, the newest event first. The same page may come again and again, whatever was
    /// asked for: it ends when one brings nothing new.
    pub fn page(&mut self, events: &[Value], mark: Option<&Mark>, modules: &dyn Modules) -> Next {
        self.pages += 1;
        let (mut fresh, mut reached) = (false, false);
        let mut oldest: Option<(i64, String)> = None;
        for event in events.iter().filter_map(Value::as_object).take(2 * PAGE_SIZE as usize) {
            for fact in facts(event, &self.home, modules) {
                match mark {
                    Some(mark) if mark.knows(&fact) => reached = true,
                    _ if self.facts.contains_key(&fact.key) => {}
                    _ => {
                        fresh = true;
                        self.facts.insert(fact.key.clone(), fact);
                    }
                }
            }
            let at = event.get("time").and_then(whole).unwrap_or(i64::MAX);
            if let Some(id) = event.get("id").and_then(id)
                && oldest.as_ref().is_none_or(|(time, _)| at <= *time)
            {
                oldest = Some((at, id));
            }
        }
        let is_first_ever = mark.is_none();
        let Some((_, oldest)) = oldest else { return Next::End };
        let asked = !self.asked_below.insert(oldest.clone());
        if !fresh || reached || asked || is_first_ever || self.pages >= PAGES_MAX {
            return Next::End;
        }
        self.before = Some(oldest);
        Next::Page
    }

    /// The round is over: what is new becomes known. `listening` is since when webhooks could come.
    pub fn end(self, mark: &mut Option<Mark>, listening: Timestamp, now: Timestamp) -> Found {
        let mut all: Vec<Fact> = self.facts.into_values().collect();
        all.sort_by(|a, b| (a.time, &a.key).cmp(&(b.time, &b.key)));
        let Some(mark) = mark else {
            let floor = all.last().map_or(0, |fact| fact.time);
            let mut first = Mark { floor, ..Mark::default() };
            first.learn(&all);
            *mark = Some(first);
            return Found::default();
        };
        let (since, settled) = (listening.as_second(), now.as_second() - SETTLED_AFTER_S);
        // A clock that is ahead must not hold a fact back for ever.
        let later = |fact: &Fact| {
            fact.time > since
                && fact.time > settled
                && fact.time <= now.as_second() + SETTLED_AFTER_S
        };
        let (young, facts): (Vec<Fact>, Vec<Fact>) = all.into_iter().partition(later);
        mark.learn(&facts);
        Found { facts, unsettled: !young.is_empty() }
    }
}

impl Mark {
    fn knows(&self, fact: &Fact) -> bool {
        fact.time < self.floor || self.seen.contains_key(&fact.key)
    }

    fn learn(&mut self, facts: &[Fact]) {
        self.seen.extend(facts.iter().map(|fact| (fact.key.clone(), fact.time)));
        while self.seen.len() > SEEN_MAX {
            let oldest = self.seen.iter().min_by_key(|(_, time)| **time);
            let Some((key, time)) = oldest.map(|(key, time)| (key.clone(), *time)) else { return };
            self.seen.remove(&key);
            // From here back nothing can be told apart any more.
            self.floor = self.floor.max(time.saturating_add(1));
        }
    }
}

/// The facts of one event: itself, or the parts of which it only is the sum.
fn facts(event: &Map<String, Value>, home: &str, modules: &dyn Modules) -> Vec<Fact> {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let parts = event.get("subevents").and_then(Value::as_array);
    let parts = parts.into_iter().flatten().filter_map(Value::as_object);
    let parts: Vec<_> = parts.take(FACTS_PER_EVENT_MAX).collect();
    let whole_event = fact(event, None, kind, home, modules);
    let mut all: Vec<Fact> = Vec::new();
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or(kind);
        let mut fact = fact(event, Some(part), kind, home, modules);
        if SEEN_IN_GROUPS.contains(&kind) {
            fact.alike.push(whole_event.frame.clone());
        }
        all.push(fact);
    }
    if all.is_empty() || !GROUPS.contains(&kind) {
        all.push(whole_event);
    }
    all
}

/// Fields of an event or of its part that a webhook has under the same name.
const SAME: [&str; 12] = [
    "sub_type",
    "message",
    "session_id",
    "video_id",
    "video_status",
    "snapshot",
    "vignette",
    "category",
    "mode",
    "change",
    "is_arrival",
    "person_id",
];

fn fact(
    event: &Map<String, Value>,
    part: Option<&Map<String, Value>>,
    kind: &str,
    home: &str,
    modules: &dyn Modules,
) -> Fact {
    let own = |name: &str| part.and_then(|part| part.get(name)).or_else(|| event.get(name));
    let event_id = event.get("id").and_then(id);
    let part_id = part.and_then(|part| part.get("id")).and_then(id);
    let time = own("time").and_then(whole).unwrap_or(0);
    let mut frame = Map::new();
    for name in SAME {
        frame.extend(own(name).filter(|v| !v.is_null()).map(|v| (name.to_string(), v.clone())));
    }
    frame.insert("event_type".into(), kind.into());
    frame.insert("home_id".into(), home.into());
    frame.insert("time".into(), time.into());
    frame.extend(event_id.clone().map(|id| ("event_id".to_string(), id.into())));
    frame.extend(part_id.clone().map(|id| ("subevent_id".to_string(), id.into())));
    persons(event, part, kind, &mut frame);
    let camera = own("camera_id").or_else(|| own("device_id")).and_then(id);
    let module = own("module_id").and_then(id);
    let about = module.clone().or_else(|| camera.clone());
    let bridge = module.as_deref().and_then(|module| modules.bridge(module));
    let device = camera.or_else(|| bridge.map(String::from)).or_else(|| module.clone());
    let of_device = module.filter(|module| Some(module) != device.as_ref());
    let product = about.as_deref().and_then(|about| modules.product(about));
    let pushed = product.map_or_else(|| kind.to_string(), |product| format!("{product}-{kind}"));
    frame.insert("push_type".into(), pushed.into());
    let place = |device: Option<&String>, module: Option<&String>| {
        let mut frame = frame.clone();
        let device = device.map(|device| Value::from(device.as_str()));
        frame.extend(device.clone().map(|device| ("camera_id".to_string(), device)));
        frame.extend(device.map(|device| ("device_id".to_string(), device)));
        frame.extend(module.map(|module| ("module_id".to_string(), module.as_str().into())));
        frame
    };
    // Which of the ids a webhook names as device and which as module depends on the product.
    let (device, module) = (device.as_ref(), of_device.as_ref());
    let alike = vec![
        place(device, about.as_ref()),
        place(about.as_ref(), None),
        place(device, None),
        place(about.as_ref(), about.as_ref()),
        place(None, about.as_ref()),
        place(None, None),
    ];
    let key = match (&event_id, &part_id) {
        (Some(event), Some(part)) => format!("{event}/{part}"),
        (Some(event), None) => format!("{event}/{kind}/{}", sub_type(&frame)),
        _ => format!("/{time}/{kind}/{}", about.as_deref().unwrap_or_default()),
    };
    let raw = raw(event, part);
    Fact { key, time, frame: place(device, module), alike, raw }
}

fn sub_type(frame: &Map<String, Value>) -> String {
    frame.get("sub_type").map(Value::to_string).unwrap_or_default()
}

/// Persons as a webhook lists them.
fn persons(
    event: &Map<String, Value>,
    part: Option<&Map<String, Value>>,
    kind: &str,
    frame: &mut Map<String, Value>,
) {
    let listed = part.and_then(|part| part.get("persons")).or_else(|| event.get("persons"));
    if let Some(listed) = listed.filter(|listed| listed.is_array()) {
        frame.insert("persons".into(), listed.clone());
    } else if kind.starts_with("person")
        && let Some(person) = frame.get("person_id").and_then(id)
    {
        frame.insert("persons".into(), json!([{ "id": person }]));
    }
}

/// The event as it came; of its parts only the one that it is about.
fn raw(event: &Map<String, Value>, part: Option<&Map<String, Value>>) -> Vec<u8> {
    let mut event = event.clone();
    if let Some(part) = part {
        event.insert("subevents".into(), json!([part]));
    }
    Value::Object(event).to_string().into_bytes()
}
