//! What a test in a rule file says, taken from the tree: moment, state, events, expectations.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use serde_json::{Map, Value as Json};

use super::opened::{OpenWanted, open_wanted};
use super::told::{CommandWanted, wanted};
use crate::action::Message;
use crate::event::{Event, EventId, Marks, Trust};
use crate::node::{Cursor, Value, nearest};
use crate::rules::compile::unknown_person;
use crate::rules::file::{check_type, json};
use crate::rules::pattern::{Has, Wanted};
use crate::rules::tell::WORDS;
use crate::rules::{House, System, types};

/// When a test happens if it does not say: a Thursday noon in winter, on the house's clock.
const AT_DEFAULT: DateTime = DateTime::constant(2026, 1, 15, 12, 0, 0, 0);
/// The longest pause between events.
const AFTER_MAX: Duration = Duration::from_secs(366 * 86_400);

/// One test.
#[derive(Debug)]
pub(in crate::rules) struct Case {
    pub name: String,
    pub place: String,
    pub at: Timestamp,
    pub given: Vec<(String, Json)>,
    /// Who has a phone; everybody if not said.
    pub phones: Option<BTreeSet<String>>,
    pub events: Vec<Happening>,
    pub expect: Vec<Expect>,
}

/// One thing that happens in a test.
#[derive(Debug)]
pub(in crate::rules) enum Happening {
    After(Duration),
    Clock(Time),
    Day(DateTime),
    Restart,
    /// Portero does not run so long; what came due meanwhile is found at the start.
    Down(Duration),
    Reload,
    /// A person acknowledges everything that is open.
    Ack(String),
    /// Every phone shows what it was sent.
    Shown,
    /// From now on these persons' phones, or these systems, take nothing.
    Fail(BTreeSet<String>),
    Event(Box<Event>),
    Fixture(String),
}

/// One thing that a test expects.
#[derive(Debug)]
pub(in crate::rules) enum Expect {
    Push(PushWanted, Count),
    /// A push that waits for the end of quiet hours when the test is over.
    Held(PushWanted, Count),
    Emit {
        kind: String,
        subject: Option<String>,
        data: Map<String, Json>,
        count: Count,
    },
    Fired(String, Count),
    State(String, Json),
    NoSet,
    NoEmit,
    Told(CommandWanted, Count),
    Open(OpenWanted, Count),
}

/// How often something is expected.
#[derive(Debug, Clone, Copy)]
pub(in crate::rules) enum Count {
    Some,
    Exactly(usize),
}

impl Count {
    /// What to say if it was found another number of times.
    pub fn miss(self, found: usize, what: &str) -> Option<String> {
        match self {
            Count::Some if found == 0 => Some(format!("expected {what}, but there was none")),
            Count::Exactly(0) if found > 0 => {
                Some(format!("expected no {what}, but there was {found}"))
            }
            Count::Exactly(times) if found != times => {
                Some(format!("expected {what} {times} times, but there was {found}"))
            }
            _ => None,
        }
    }
}

/// A push that a test looks for.
#[derive(Debug, Default)]
pub(in crate::rules) struct PushWanted {
    /// Every one of them; anybody if empty.
    pub people: Vec<String>,
    /// Field and text, in which `*` stands for anything.
    pub fields: Vec<(&'static str, String)>,
}

impl PushWanted {
    pub fn fits(&self, message: &Message) -> bool {
        self.fields.iter().all(|(field, wanted)| {
            let has = match *field {
                "title" => message.title.as_str(),
                "body" => message.body.as_str(),
                "image" => message.image.as_deref().unwrap_or_default(),
                "url" => message.url.as_deref().unwrap_or_default(),
                "tag" => message.tag.as_deref().unwrap_or_default(),
                _ => message.urgency.as_str(),
            };
            fits(wanted, has)
        })
    }
}

/// Whether a text is as wanted; each `*` stands for anything.
pub(super) fn fits(wanted: &str, has: &str) -> bool {
    let Some((start, rest)) = wanted.split_once('*') else { return wanted == has };
    let Some(mut left) = has.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(end)
}

impl fmt::Display for PushWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields.iter().try_for_each(|(field, wanted)| write!(f, " with {field} {wanted:?}"))
    }
}

/// What tests may name.
pub(in crate::rules) struct Known<'a> {
    pub house: &'a House,
    pub rules: &'a [&'a str],
    /// Types that rules emit.
    pub emitted: &'a [&'a str],
    /// Types of their own that rules wait for, whoever may emit them.
    pub awaited: &'a [&'a Wanted],
}

impl Known<'_> {
    /// Notes a type of which no event can come: the test would pass without testing anything.
    fn check_type(&self, at: Cursor<'_>, kind: &str) {
        let is_own = !types::RESERVED.iter().any(|begin| kind.starts_with(begin));
        let is_awaited = || self.awaited.iter().any(|wanted| wanted.accepts(Has::Text(kind)));
        if !(is_own && is_awaited()) {
            check_type(at, kind, self.emitted);
        }
    }
}

/// Takes the `tests:` of a file apart.
pub(in crate::rules) fn cases(at: Cursor<'_>, known: &Known<'_>) -> Vec<Case> {
    at.list().unwrap_or_default().into_iter().filter_map(|at| case(at, known)).collect()
}

fn case(at: Cursor<'_>, known: &Known<'_>) -> Option<Case> {
    let mut table = at.table()?;
    let name = table.required("name").and_then(Cursor::loose_text);
    let moment = table.optional("at").map(|at| moment(at, known.house));
    let given = table.optional("given").map(|at| at.named());
    let phones = table.optional("phones").map(|at| phones(at, known));
    let events = table.required("events").and_then(Cursor::list);
    let events = events.map(|items| {
        let numbered = items.into_iter().enumerate();
        numbered.filter_map(|(i, at)| happening(at, known, i)).flatten().collect::<Vec<_>>()
    });
    let expects = table.required("expect");
    let expect = expects.map(|at| expectations(at, known));
    table.done();
    let given = given.flatten().unwrap_or_default();
    Some(Case {
        name: name?.to_string(),
        place: at.place(),
        at: moment.unwrap_or_else(|| local(AT_DEFAULT, known.house))?,
        given: given.into_iter().map(|(key, at)| (key.name.clone(), json(at.node()))).collect(),
        phones: phones.flatten(),
        events: events?,
        expect: expect?,
    })
}

/// `2026-11-20T23:15:00+01:00`, `2026-11-20T23:15` or `23:15`.
fn moment(at: Cursor<'_>, house: &House) -> Option<Timestamp> {
    let text = at.loose_text()?;
    let civil = || text.parse::<DateTime>().ok();
    let time = || text.parse::<Time>().ok().map(|time| AT_DEFAULT.date().to_datetime(time));
    let exact: Option<Timestamp> = text.parse().ok();
    let found = exact.or_else(|| local(civil().or_else(time)?, house));
    if found.is_none() {
        let help = "write 2026-11-20T23:15:00+01:00, 2026-11-20T23:15 or 23:15";
        at.wrong_help(format!("\"{text}\" is no moment"), help);
    }
    found
}

fn local(civil: DateTime, house: &House) -> Option<Timestamp> {
    let zoned = house.time_zone.to_ambiguous_zoned(civil).compatible().ok();
    zoned.map(|zoned| zoned.timestamp())
}

fn phones(at: Cursor<'_>, known: &Known<'_>) -> Option<BTreeSet<String>> {
    let mut owners = BTreeSet::new();
    for item in at.list()? {
        owners.extend(members(item, known)?);
    }
    Some(owners)
}

fn members(at: Cursor<'_>, known: &Known<'_>) -> Option<Vec<String>> {
    let name = at.loose_text()?;
    let people = known.house.members(name);
    if people.is_none() {
        unknown_person(known.house, at, name);
    }
    Some(people?.iter().map(ToString::to_string).collect())
}

/// A pause, a restart, a fixture or an event; each may say how long after the one before.
fn happening(at: Cursor<'_>, known: &Known<'_>, number: usize) -> Option<Vec<Happening>> {
    let mut table = at.table()?;
    let mut found = Vec::new();
    if let Some(after) = table.optional("after") {
        found.push(Happening::After(after.duration(Duration::ZERO, AFTER_MAX)?));
    }
    if let Some(at) = table.optional("at") {
        found.push(clock(at)?);
    }
    if let Some(fixture) = table.optional("fixture") {
        found.push(Happening::Fixture(fixture.text()?.to_string()));
    } else if table.optional("restart").and_then(Cursor::flag) == Some(true) {
        found.push(Happening::Restart);
    } else if let Some(down) = table.optional("down") {
        found.push(Happening::Down(down.duration(Duration::ZERO, AFTER_MAX)?));
    } else if table.optional("reload").and_then(Cursor::flag) == Some(true) {
        found.push(Happening::Reload);
    } else if table.optional("shown").and_then(Cursor::flag) == Some(true) {
        found.push(Happening::Shown);
    } else if let Some(who) = table.optional("ack") {
        let named = members(who, known)?;
        found.push(Happening::Ack(named.first()?.clone()));
    } else if let Some(fail) = table.optional("fail") {
        found.push(Happening::Fail(failing(fail, known)?));
    } else if let Some(kind) = table.optional("type") {
        known.check_type(kind, kind.text()?);
        let kind = kind.text()?.to_string();
        let source = table.optional("source").and_then(Cursor::text).map(str::to_string);
        let trust = table.optional("trust").and_then(|at| at.parse("a trust"));
        let caught_up = table.optional("caught_up").and_then(Cursor::flag) == Some(true);
        let data = table.optional("data").map(|at| json(at.node()));
        let subject = table.optional("subject").and_then(Cursor::loose_text);
        found.push(Happening::Event(Box::new(Event {
            id: EventId::derive(["test", &at.place(), &number.to_string()]),
            source: source.unwrap_or_else(|| default_source(&kind, known.house)),
            subject: subject.map(str::to_string),
            time: None,
            received: Timestamp::UNIX_EPOCH,
            trust: heard_with(&kind, trust, caught_up),
            // Not marked as a test: here it is the real thing, and may open what it may open.
            marks: Marks { caught_up, ..Marks::default() },
            hops: 0,
            data: match data {
                Some(Json::Object(data)) => data,
                _ => Map::new(),
            },
            raw: Vec::new(),
            kind,
        })));
    }
    table.done();
    if found.is_empty() {
        at.wrong_help(
            "nothing happens here",
            "give a `type`, a `fixture`, `after: 10m` or `at: 23:15`",
        );
    }
    Some(found)
}

/// `23:15`, the next one on the house's clock, or `2026-11-20T23:15`.
fn clock(at: Cursor<'_>) -> Option<Happening> {
    let text = at.loose_text()?;
    let day = || text.parse().ok().map(Happening::Day);
    let found = text.parse().ok().map(Happening::Clock).filter(|_| text.len() <= 8).or_else(day);
    if found.is_none() {
        at.wrong_help(format!("\"{text}\" is no moment"), "write 23:15 or 2026-11-20T23:15");
    }
    found
}

/// Persons, groups, or systems such as `emm/block`.
fn failing(at: Cursor<'_>, known: &Known<'_>) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for item in at.list_or_one() {
        match item.loose_text()? {
            system if system.contains('/') => drop(all.insert(told_system(item, system, known)?)),
            _ => all.extend(members(item, known)?),
        }
    }
    Some(all)
}

/// A system that can be told something.
fn told_system(at: Cursor<'_>, name: &str, known: &Known<'_>) -> Option<String> {
    let one = |(word, system): (&String, &System)| {
        system.names.iter().map(|name| format!("{word}/{name}")).collect::<Vec<_>>()
    };
    let all: Vec<String> = known.house.systems.iter().flat_map(one).collect();
    if all.iter().any(|system| system == name) {
        return Some(name.to_string());
    }
    let message = format!("no system is called `{name}`");
    match nearest(name, all.iter().map(String::as_str)) {
        Some(near) => at.wrong_help(message, format!("did you mean `{near}`?")),
        None => at.wrong_help(message, format!("systems: {}", all.join(", "))),
    }
    None
}

/// The trust that such an event has if it is live; what is caught up is never fresh.
fn heard_with(kind: &str, trust: Option<Trust>, caught_up: bool) -> Trust {
    let on_our_connection =
        ["fibaro.", "indigo.", "emm.", "vms."].iter().any(|begin| kind.starts_with(begin));
    let live = if on_our_connection { Trust::Fresh } else { Trust::Authentic };
    let trust = trust.unwrap_or(live);
    if caught_up { trust.min(Trust::Authentic) } else { trust }
}

/// The first source of the type's system, as the config names it.
fn default_source(kind: &str, house: &House) -> String {
    let system = kind.split('.').next().unwrap_or(kind);
    let begin = format!("{system}/");
    let known = house.sources.iter().find(|source| source.starts_with(&begin));
    match (known, system) {
        (Some(source), _) => source.clone(),
        (None, "netatmo" | "fibaro" | "indigo" | "emm" | "vms" | "hook") => {
            format!("{system}/test")
        }
        (None, _) => "portero".to_string(),
    }
}

fn expectations(at: Cursor<'_>, known: &Known<'_>) -> Vec<Expect> {
    let items = at.list_or_one();
    if items.is_empty() {
        at.wrong_help(
            "`expect` is empty: the test cannot fail",
            "say what should happen, or `no: push`",
        );
    }
    items.into_iter().filter_map(|item| expectation(item, known)).flatten().collect()
}

fn expectation(at: Cursor<'_>, known: &Known<'_>) -> Option<Vec<Expect>> {
    let mut table = at.table()?;
    let mut found = Vec::new();
    if let Some(push) = table.optional("push") {
        let (wanted, count) = push_wanted(push, known)?;
        found.push(Expect::Push(wanted, count));
    }
    if let Some(held) = table.optional("held") {
        let (wanted, count) = push_wanted(held, known)?;
        found.push(Expect::Held(wanted, count));
    }
    if let Some(emit) = table.optional("emit") {
        found.push(emit_wanted(emit)?);
    }
    if let Some(set) = table.optional("set") {
        let entry = |(key, at): (&crate::node::Key, Cursor<'_>)| {
            Expect::State(key.name.clone(), json(at.node()))
        };
        found.extend(set.named()?.into_iter().map(entry));
    }
    for word in &WORDS {
        if let Some(told) = table.optional(word.system) {
            let (wanted, count) = wanted(word, told, known)?;
            found.push(Expect::Told(wanted, count));
        }
    }
    if let Some(open) = table.optional("open") {
        let (wanted, count) = open_wanted(open, known)?;
        found.push(Expect::Open(wanted, count));
    }
    if let Some(rule) = table.optional("fired") {
        found.push(Expect::Fired(rule_name(rule, known)?, Count::Some));
    }
    if let Some(rule) = table.optional("not") {
        found.push(Expect::Fired(rule_name(rule, known)?, Count::Exactly(0)));
    }
    if let Some(no) = table.optional("no") {
        found.push(nothing(no, known)?);
    }
    let before = table.len();
    table.done();
    if found.is_empty() && before == 0 {
        at.wrong("nothing is expected here");
    }
    Some(found)
}

fn rule_name(at: Cursor<'_>, known: &Known<'_>) -> Option<String> {
    let name = at.loose_text()?;
    if !known.rules.contains(&name) {
        let message = format!("no rule is called `{name}`");
        match nearest(name, known.rules.iter().copied()) {
            Some(near) => at.wrong_help(message, format!("did you mean `{near}`?")),
            None => at.wrong(message),
        }
        return None;
    }
    Some(name.to_string())
}

/// `no: push`, or `no: { push: { to: ana } }`.
fn nothing(at: Cursor<'_>, known: &Known<'_>) -> Option<Expect> {
    if matches!(at.node().value, Value::Text(..)) {
        return no_such(at);
    }
    let mut table = at.table()?;
    let none = Count::Exactly(0);
    let mut found = Vec::new();
    if let Some(push) = table.optional("push") {
        found.push(push_wanted(push, known).map(|(wanted, _)| Expect::Push(wanted, none)));
    }
    if let Some(held) = table.optional("held") {
        found.push(push_wanted(held, known).map(|(wanted, _)| Expect::Held(wanted, none)));
    }
    if let Some(Some(emit)) = table.optional("emit").map(emit_wanted) {
        found.push(match emit {
            Expect::Emit { kind, subject, data, .. } => {
                Some(Expect::Emit { kind, subject, data, count: none })
            }
            _ => None,
        });
    }
    for word in &WORDS {
        if let Some(told) = table.optional(word.system) {
            found.push(wanted(word, told, known).map(|(wanted, _)| Expect::Told(wanted, none)));
        }
    }
    if let Some(open) = table.optional("open") {
        found.push(open_wanted(open, known).map(|(wanted, _)| Expect::Open(wanted, none)));
    }
    let given = table.len();
    table.done();
    if given != 1 {
        at.wrong("`no` takes one thing that must not happen");
    }
    found.pop().flatten().filter(|_| given == 1)
}

/// `no: push`, and so on.
fn no_such(at: Cursor<'_>) -> Option<Expect> {
    let systems = WORDS.iter().enumerate().map(|(i, word)| (word.system, i));
    let (push, set, emit) = (WORDS.len(), WORDS.len() + 1, WORDS.len() + 2);
    let (open, held) = (WORDS.len() + 3, WORDS.len() + 4);
    let own = [("push", push), ("set", set), ("emit", emit), ("open", open), ("held", held)];
    let words: Vec<(&str, usize)> = own.into_iter().chain(systems).collect();
    let none = Count::Exactly(0);
    Some(match at.one_of(&words)? {
        word if word == push => Expect::Push(PushWanted::default(), none),
        word if word == held => Expect::Held(PushWanted::default(), none),
        word if word == set => Expect::NoSet,
        word if word == emit => Expect::NoEmit,
        word if word == open => Expect::Open(OpenWanted::default(), none),
        word => Expect::Told(CommandWanted::any(&WORDS[word]), none),
    })
}

fn push_wanted(at: Cursor<'_>, known: &Known<'_>) -> Option<(PushWanted, Count)> {
    let mut table = at.table()?;
    let mut wanted = PushWanted::default();
    for to in table.optional("to").into_iter().flat_map(Cursor::list_or_one) {
        wanted.people.extend(members(to, known)?);
    }
    for field in ["title", "body", "image", "url", "tag", "urgency"] {
        if let Some(text) = table.optional(field).and_then(Cursor::loose_text) {
            wanted.fields.push((field, text.to_string()));
        }
    }
    let count = times(table.optional("times"));
    table.done();
    Some((wanted, count))
}

fn emit_wanted(at: Cursor<'_>) -> Option<Expect> {
    let mut table = at.table()?;
    let kind = table.required("type").and_then(Cursor::text);
    let subject = table.optional("subject").and_then(Cursor::loose_text).map(str::to_string);
    let data = table.optional("data").map(|at| json(at.node()));
    let count = times(table.optional("times"));
    table.done();
    let data = match data {
        Some(Json::Object(data)) => data,
        _ => Map::new(),
    };
    Some(Expect::Emit { kind: kind?.to_string(), subject, data, count })
}

/// How often; at least once if not said.
pub(super) fn times(at: Option<Cursor<'_>>) -> Count {
    let times = at.and_then(|at| at.int(0..=1000)).and_then(|times| usize::try_from(times).ok());
    times.map_or(Count::Some, Count::Exactly)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_anything() {
        for (wanted, has) in
            [("a", "a"), ("*", ""), ("a*", "abc"), ("*c", "abc"), ("a*c*e", "abcde")]
        {
            assert!(fits(wanted, has), "{wanted} {has}");
        }
        for (wanted, has) in
            [("a", "ab"), ("a*", "ba"), ("*c", "ab"), ("a*c*e", "ace2"), ("ab*b", "ab")]
        {
            assert!(!fits(wanted, has), "{wanted} {has}");
        }
    }
}
