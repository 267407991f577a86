//! What steps make besides what they do: an `emit` its event, an `open` the news of its door and
//! what the intercom then tells of its relay. Rules may wait for all of it, so the checks of a whole
//! rule set must know it. It looks at compiled steps and decides nothing.

use std::ops::Range;

use serde_json::Value as Json;

use super::House;
use super::compile::{Emit, Template};
use super::expr::Text;
use super::open::Open;
use super::pattern::{Field, Has, Matcher, Plain, Wanted, has};
use crate::door::{Door, Opener};
use crate::event::Trust;

/// How surely one thing follows from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sure {
    No,
    Perhaps,
    Yes,
}

/// An event that a step makes.
#[derive(Clone, Copy)]
pub(super) enum Made<'r> {
    Emit(&'r Emit),
    /// What becomes of an opening.
    Opening(News<'r>),
}

/// An event that comes of an `open`.
#[derive(Clone, Copy)]
pub(super) struct News<'r> {
    open: &'r Open,
    door: &'r Door,
    kind: &'static str,
    /// Whether it comes whenever the door opens.
    sure: Sure,
}

/// What is told of every opening, and how surely: the door's own signal may be missing, and a door
/// may refuse.
const STEPS: [(&str, Sure); 5] = [
    ("portero.door.commanded", Sure::Yes),
    ("portero.door.confirmed", Sure::Perhaps),
    ("portero.door.unconfirmed", Sure::Perhaps),
    ("portero.door.refused", Sure::Perhaps),
    ("portero.door.unknown", Sure::Perhaps),
];

/// What an intercom tells when its relay opens and when it closes again.
const RELAY: &str = "fibaro.relay";

/// Every event that comes of an `open`.
pub(super) fn of_open<'r>(open: &'r Open, house: &'r House) -> Vec<Made<'r>> {
    let Some(door) = house.doors.get(&open.door) else { return Vec::new() };
    let relay = relay(door).map(|_| (RELAY, Sure::Yes));
    let all = STEPS.into_iter().chain(relay);
    all.map(|(kind, sure)| Made::Opening(News { open, door, kind, sure })).collect()
}

/// The state that the system tells after an `open`, if it tells any.
pub(super) fn state_of_open(open: &Open, house: &House) -> Option<String> {
    let (intercom, relay) = relay(house.doors.get(&open.door)?)?;
    Some(format!("fibaro/{intercom}/relay/{relay}"))
}

/// The least trust that what comes of an `open` has: no door opens for less than it requires, and
/// its news are no person.
pub(super) fn trust_of_open(open: &Open, house: &House, least: Trust) -> Trust {
    let requires = house.doors.get(&open.door).map_or(least, |door| door.requires);
    least.max(requires).min(Trust::Fresh)
}

fn relay(door: &Door) -> Option<(&str, u8)> {
    match &door.by {
        Opener::Fibaro { intercom, relay } => Some((intercom, *relay)),
        Opener::Netatmo { .. } | Opener::Vms { .. } => None,
    }
}

impl<'r> Made<'r> {
    /// The event's type.
    pub fn kind(&self) -> &'r str {
        match self {
            Made::Emit(emit) => &emit.kind,
            Made::Opening(news) => news.kind,
        }
    }

    /// The bytes of what makes it, to point at.
    pub fn range(&self) -> &'r Range<usize> {
        match self {
            Made::Emit(emit) => &emit.range,
            Made::Opening(news) => &news.open.range,
        }
    }

    /// It, on the way to whoever hears it.
    pub fn words(&self) -> String {
        match self {
            Made::Emit(emit) => emit.kind.to_string(),
            Made::Opening(news) => format!("door `{}` → {}", news.door.name, news.kind),
        }
    }

    /// The least trust that it has if the rule that makes it has this.
    pub fn trust(&self, least: Trust, house: &House) -> Trust {
        match self {
            Made::Emit(_) => least,
            // Whoever has no right can cause it.
            Made::Opening(news) if news.kind == "portero.door.refused" => Trust::Unverified,
            Made::Opening(news) => trust_of_open(news.open, house, least),
        }
    }

    /// Whether it is one that a matcher accepts.
    pub fn fits(&self, matcher: &Matcher) -> Sure {
        match self {
            Made::Emit(emit) => emit_fits(matcher, emit),
            Made::Opening(news) => news.fits(matcher),
        }
    }
}

impl News<'_> {
    fn fits(&self, matcher: &Matcher) -> Sure {
        let relay = relay(self.door).filter(|_| self.kind == RELAY);
        let one = |(field, wanted): &(Field, Vec<Wanted>)| {
            let text = |text: &str| {
                let any = wanted.iter().any(|wanted| wanted.accepts(Has::Text(text)));
                if any { Sure::Yes } else { Sure::No }
            };
            match (field, relay) {
                (Field::Type, _) => text(self.kind),
                (Field::Source, None) => text("portero"),
                (Field::Source, Some((intercom, _))) => text(&format!("fibaro/{intercom}")),
                (Field::Subject, None) => text(&self.door.name),
                (Field::Subject, Some((_, relay))) => text(&relay.to_string()),
                (Field::Data(names), Some((_, relay))) => relay_fits(names, relay, wanted),
                (Field::Data(names), None) if is(names, "door") => text(&self.door.name),
                (Field::Data(names), None) if is(names, "by") => text("rule"),
                (Field::Data(_), None) => Sure::Perhaps,
            }
        };
        matcher.pairs.iter().map(one).min().unwrap_or(Sure::Yes).min(self.sure)
    }
}

/// A relay opens and closes again: both are told.
fn relay_fits(names: &[Box<str>], relay: u8, wanted: &[Wanted]) -> Sure {
    let any = |has: Plain| wanted.iter().any(|wanted| wanted.accepts(Has::Plain(has)));
    let found = match names {
        _ if is(names, "relay") => any(Plain::Int(relay.into())),
        _ if is(names, "open") => any(Plain::Bool(true)) || any(Plain::Bool(false)),
        _ => return Sure::Perhaps,
    };
    if found { Sure::Yes } else { Sure::No }
}

fn is(names: &[Box<str>], name: &str) -> bool {
    matches!(names, [one] if **one == *name)
}

fn emit_fits(matcher: &Matcher, emit: &Emit) -> Sure {
    let one = |(field, wanted): &(Field, Vec<Wanted>)| {
        let accepts = |has: Has<'_>| {
            let any = wanted.iter().any(|wanted| wanted.accepts(has));
            if any { Sure::Yes } else { Sure::No }
        };
        match field {
            Field::Type => accepts(Has::Text(&emit.kind)),
            Field::Source => accepts(Has::Text("portero")),
            Field::Subject => match emit.subject.as_ref().map(Text::as_literal) {
                None => accepts(Has::Nothing),
                Some(Some(text)) => accepts(Has::Text(text)),
                Some(None) => Sure::Perhaps,
            },
            Field::Data(names) => data_fits(names, &emit.data, &accepts),
        }
    };
    matcher.pairs.iter().map(one).min().unwrap_or(Sure::Yes)
}

fn data_fits(
    names: &[Box<str>],
    data: &[(Box<str>, Template)],
    accepts: &impl Fn(Has<'_>) -> Sure,
) -> Sure {
    let Some((first, rest)) = names.split_first() else { return Sure::No };
    let Some((_, template)) = data.iter().find(|(name, _)| name == first) else {
        return accepts(Has::Nothing);
    };
    match template {
        Template::Text(text) => match text.as_literal() {
            Some(text) if rest.is_empty() => accepts(Has::Text(text)),
            Some(_) => accepts(Has::Nothing),
            None => Sure::Perhaps,
        },
        Template::Fixed(json) => {
            let found = rest.iter().try_fold(json, |json: &Json, name| json.get(&**name));
            accepts(found.map_or(Has::Nothing, has))
        }
        Template::Map(fields) if !rest.is_empty() => data_fits(rest, fields, accepts),
        Template::Map(_) | Template::List(_) => accepts(Has::Many),
    }
}
