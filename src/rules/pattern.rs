//! Which rules an event may concern: `when` matchers, and an index over their equalities so that
//! ten thousand rules cost like ten. It evaluates no expressions.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::event::Event;

/// What part of an event a matcher looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Field {
    Type,
    Source,
    Subject,
    /// Names below `data`.
    Data(Vec<Box<str>>),
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Field::Type => f.write_str("type"),
            Field::Source => f.write_str("source"),
            Field::Subject => f.write_str("subject"),
            Field::Data(names) => write!(f, "data.{}", names.join(".")),
        }
    }
}

/// One value that is accepted.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    Text(Box<str>),
    /// A text that begins like this.
    Prefix(Box<str>),
    Plain(Plain),
    /// `null`: the field is absent or null.
    Nothing,
}

/// A value that is no text, comparable and hashable. Whole floats equal their integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Plain {
    Bool(bool),
    Int(i64),
    /// Bits of a float with a fraction.
    Float(u64),
}

impl Plain {
    pub fn float(number: f64) -> Plain {
        // Beyond 2^53 not every whole number is a float; such floats stay floats.
        if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
            #[allow(clippy::cast_possible_truncation)] // Checked above: whole and small enough.
            return Plain::Int(number as i64);
        }
        Plain::Float(number.to_bits())
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Text(text) => write!(f, "{text}"),
            Wanted::Prefix(text) => write!(f, "{text}*"),
            Wanted::Plain(Plain::Bool(flag)) => write!(f, "{flag}"),
            Wanted::Plain(Plain::Int(number)) => write!(f, "{number}"),
            Wanted::Plain(Plain::Float(bits)) => write!(f, "{}", f64::from_bits(*bits)),
            Wanted::Nothing => f.write_str("null"),
        }
    }
}

/// What an event has in a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Has<'e> {
    Text(&'e str),
    Plain(Plain),
    Nothing,
    /// A list or a map, which no matcher accepts.
    Many,
}

impl Has<'_> {
    /// Whether it is this text, or a number or flag that is written like it: what a template makes
    /// is always a text.
    pub fn is_text(&self, wanted: &str) -> bool {
        match self {
            Has::Text(text) => *text == wanted,
            Has::Plain(plain) => Wanted::Plain(*plain).to_string() == wanted,
            Has::Nothing | Has::Many => false,
        }
    }
}

impl std::fmt::Display for Has<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Has::Text(text) => write!(f, "{text}"),
            Has::Plain(plain) => write!(f, "{}", Wanted::Plain(*plain)),
            Has::Nothing => f.write_str("none"),
            Has::Many => f.write_str("several values"),
        }
    }
}

impl Field {
    /// What the event has here.
    pub fn of<'e>(&self, event: &'e Event) -> Has<'e> {
        match self {
            Field::Type => Has::Text(&event.kind),
            Field::Source => Has::Text(&event.source),
            Field::Subject => event.subject.as_deref().map_or(Has::Nothing, Has::Text),
            Field::Data(names) => {
                let Some((first, rest)) = names.split_first() else { return Has::Many };
                let mut found = event.data.get(&**first);
                for name in rest {
                    found = found.and_then(|value| value.get(&**name));
                }
                found.map_or(Has::Nothing, has)
            }
        }
    }
}

/// What a JSON value is to a matcher.
pub(super) fn has(json: &Json) -> Has<'_> {
    match json {
        Json::Null => Has::Nothing,
        Json::Bool(flag) => Has::Plain(Plain::Bool(*flag)),
        Json::String(text) => Has::Text(text),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Has::Plain(Plain::Int(whole)),
            (None, Some(float)) => Has::Plain(Plain::float(float)),
            (None, None) => Has::Many,
        },
        Json::Array(_) | Json::Object(_) => Has::Many,
    }
}

impl Wanted {
    pub fn accepts(&self, has: Has<'_>) -> bool {
        match (self, has) {
            (Wanted::Text(wanted), Has::Text(text)) => **wanted == *text,
            (Wanted::Prefix(prefix), Has::Text(text)) => text.starts_with(&**prefix),
            (Wanted::Plain(wanted), Has::Plain(plain)) => *wanted == plain,
            (Wanted::Nothing, Has::Nothing) => true,
            _ => false,
        }
    }

    /// Whether everything that `other` accepts is accepted here too.
    pub fn covers(&self, other: &Wanted) -> bool {
        match (self, other) {
            (Wanted::Prefix(mine), Wanted::Prefix(theirs) | Wanted::Text(theirs)) => {
                theirs.starts_with(&**mine)
            }
            _ => self == other,
        }
    }
}

impl Matcher {
    /// Whether one event may fit both.
    pub fn meets(&self, other: &Matcher) -> bool {
        self.pairs.iter().all(|(field, mine)| {
            let either = |one: &Wanted, two: &Wanted| one.covers(two) || two.covers(one);
            let theirs = other.wanted(field);
            theirs.is_none_or(|all| all.iter().any(|two| mine.iter().any(|one| either(one, two))))
        })
    }
}

/// One alternative of a `when`: all of its fields must fit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matcher {
    /// Each field once, with the values of which one must fit.
    pub pairs: Vec<(Field, Vec<Wanted>)>,
}

impl Matcher {
    pub fn accepts(&self, event: &Event) -> bool {
        self.first_miss(event, |_| false).is_none()
    }

    /// The first field, apart from those to skip, that does not fit.
    pub fn first_miss(
        &self,
        event: &Event,
        skip: impl Fn(&Field) -> bool,
    ) -> Option<(&Field, &[Wanted])> {
        let misses = |(field, wanted): &&(Field, Vec<Wanted>)| {
            let has = field.of(event);
            !skip(field) && !wanted.iter().any(|wanted| wanted.accepts(has))
        };
        self.pairs.iter().find(misses).map(|(field, wanted)| (field, &**wanted))
    }

    pub fn wanted(&self, field: &Field) -> Option<&[Wanted]> {
        self.pairs.iter().find(|(other, _)| other == field).map(|(_, wanted)| &**wanted)
    }

    /// Whether every event that `other` accepts is accepted here too.
    pub fn covers(&self, other: &Matcher) -> bool {
        self.pairs.iter().all(|(field, mine)| {
            other.wanted(field).is_some_and(|theirs| {
                theirs.iter().all(|their| mine.iter().any(|my| my.covers(their)))
            })
        })
    }

    /// The fields over which this matcher can be found by its values.
    fn indexable(&self) -> impl Iterator<Item = &(Field, Vec<Wanted>)> {
        let exact = |wanted: &Wanted| matches!(wanted, Wanted::Text(_) | Wanted::Plain(_));
        self.pairs.iter().filter(move |(_, wanted)| wanted.iter().all(exact))
    }
}

/// Finds the rules whose `when` accepts an event. Each matcher stands under the values of one of
/// its fields: the field whose values the fewest other matchers ask for.
#[derive(Debug, Default)]
pub(super) struct Index {
    fields: Vec<(Field, Values)>,
    /// Matchers without an equality, tried one by one.
    rest: Vec<Entry>,
}

#[derive(Debug, Default)]
struct Values {
    texts: HashMap<Box<str>, Vec<Entry>>,
    plains: HashMap<Plain, Vec<Entry>>,
}

/// (rule, which of its matchers)
type Entry = (u32, u32);

impl Index {
    /// Builds the index over all rules' matchers, given in rule order.
    pub fn new<'m>(rules: impl Iterator<Item = &'m [Matcher]> + Clone) -> Index {
        let mut frequency: HashMap<(&Field, Key<'_>), u32> = HashMap::new();
        for matcher in rules.clone().flatten() {
            for (field, wanted) in matcher.indexable() {
                for key in wanted.iter().filter_map(Key::of) {
                    *frequency.entry((field, key)).or_default() += 1;
                }
            }
        }
        let mut fields: HashMap<&Field, Values> = HashMap::new();
        let mut rest = Vec::new();
        for (rule, matchers) in (0u32..).zip(rules) {
            for (which, matcher) in (0u32..).zip(matchers) {
                let cost = |(field, wanted): &&(Field, Vec<Wanted>)| {
                    let shared = |key| frequency.get(&(field, key)).copied().unwrap_or(0);
                    wanted.iter().filter_map(Key::of).map(shared).max().unwrap_or(0)
                };
                match matcher.indexable().min_by_key(cost) {
                    Some((field, wanted)) => {
                        let values = fields.entry(field).or_default();
                        wanted.iter().for_each(|wanted| values.insert(wanted, (rule, which)));
                    }
                    None => rest.push((rule, which)),
                }
            }
        }
        let mut fields: Vec<(Field, Values)> =
            fields.into_iter().map(|(field, values)| (field.clone(), values)).collect();
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        Index { fields, rest }
    }

    /// The rules that accept the event, in order, each once.
    pub fn find<'m>(&self, event: &Event, matcher: impl Fn(u32, u32) -> &'m Matcher) -> Vec<u32> {
        let mut found = Vec::new();
        let mut try_all = |entries: &[Entry]| {
            for (rule, which) in entries {
                if matcher(*rule, *which).accepts(event) {
                    found.push(*rule);
                }
            }
        };
        for (field, values) in &self.fields {
            try_all(values.get(field.of(event)));
        }
        try_all(&self.rest);
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Values {
    fn insert(&mut self, wanted: &Wanted, entry: Entry) {
        match wanted {
            Wanted::Text(text) => self.texts.entry(text.clone()).or_default().push(entry),
            Wanted::Plain(plain) => self.plains.entry(*plain).or_default().push(entry),
            Wanted::Prefix(_) | Wanted::Nothing => {}
        }
    }

    fn get(&self, has: Has<'_>) -> &[Entry] {
        let found = match has {
            Has::Text(text) => self.texts.get(text),
            Has::Plain(plain) => self.plains.get(&plain),
            Has::Nothing | Has::Many => None,
        };
        found.map_or(&[], Vec::as_slice)
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Key<'m> {
    Text(&'m str),
    Plain(Plain),
}

impl Key<'_> {
    fn of(wanted: &Wanted) -> Option<Key<'_>> {
        match wanted {
            Wanted::Text(text) => Some(Key::Text(text)),
            Wanted::Plain(plain) => Some(Key::Plain(*plain)),
            Wanted::Prefix(_) | Wanted::Nothing => None,
        }
    }
}
