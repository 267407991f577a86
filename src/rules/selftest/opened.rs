//! Doors in a rule test: whether they would open, by the very check that stands before the real
//! ones. `expect: - open: { door: front }` means that it opens, not that a rule wished it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::case::{Count, Known, times};
use crate::clock::Doubt;
use crate::door::{Doors, Opening};
use crate::doors::admit::{At, Memory, admit};
use crate::doors::tell::opening;
use crate::node::Cursor;
use crate::record::Decided;
use crate::rules::open;

/// A door that a test looks for; any if it names none.
#[derive(Debug, Default)]
pub(in crate::rules) struct OpenWanted {
    door: Option<String>,
    for_ms: Option<u64>,
}

/// The doors of one test.
pub(super) struct Opened {
    start: Timestamp,
    /// When Portero started last.
    up_since: Timestamp,
    memories: BTreeMap<String, Memory>,
    opened: Vec<Opening>,
    refused: Vec<String>,
}

impl OpenWanted {
    fn fits(&self, opening: &Opening) -> bool {
        let door = self.door.as_ref().is_none_or(|door| *door == opening.door);
        door && self.for_ms.is_none_or(|ms| opening.for_ms == Some(ms))
    }
}

impl fmt::Display for OpenWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.door {
            Some(door) => write!(f, "opening of `{door}`")?,
            None => f.write_str("opening")?,
        }
        self.for_ms.map_or(Ok(()), |ms| write!(f, " for {ms} ms"))
    }
}

impl Opened {
    /// Doors that nobody has opened yet.
    pub fn new(start: Timestamp) -> Opened {
        Opened {
            start,
            up_since: start,
            memories: BTreeMap::new(),
            opened: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Portero starts again: how old what came before is, nobody knows.
    pub fn restart(&mut self, now: Timestamp) {
        self.up_since = now;
    }

    /// Opens what a decision opens. Systems do at once what they are told.
    pub fn take(&mut self, decided: &Decided, doors: &Doors, now: Timestamp) {
        for wish in decided.actions.iter().filter_map(opening) {
            let Some(door) = doors.get(&wish.door) else { continue };
            let since = |from: Timestamp| Duration::try_from(now.duration_since(from));
            let steady = since(self.start).unwrap_or_default();
            let age = match wish.received < self.up_since {
                true => Err(Doubt::Before),
                false => since(wish.received).map_err(|_| Doubt::Jumped),
            };
            let at = At { now, steady, age };
            let memory = self.memories.entry(wish.door.clone()).or_default();
            match admit(door, wish, &at, memory) {
                Ok(_) => {
                    memory.sent(door, steady);
                    memory.ended();
                    self.opened.push(wish.clone());
                }
                Err(why) => self.refused.push(format!("`{}` was refused: {why}", wish.door)),
            }
        }
    }

    /// How often a door opened.
    pub fn count(&self, wanted: &OpenWanted) -> usize {
        self.opened.iter().filter(|opening| wanted.fits(opening)).count()
    }

    /// What was refused, to explain what is missing.
    pub fn why_not(&self) -> String {
        self.refused.iter().map(|why| format!("; {why}")).collect()
    }
}

/// Takes one expectation apart.
pub(super) fn open_wanted(at: Cursor<'_>, known: &Known<'_>) -> Option<(OpenWanted, Count)> {
    let mut table = at.table()?;
    let door = table.optional("door").map(|at| open::door(known.house, at));
    let span = table.optional("for").map(|at| at.duration(Duration::ZERO, Duration::MAX));
    let count = times(table.optional("times"));
    table.done();
    let door = match door {
        Some(door) => Some(door?.name.clone()),
        None => None,
    };
    let for_ms = match span {
        Some(span) => Some(u64::try_from(span?.as_millis()).ok()?),
        None => None,
    };
    Some((OpenWanted { door, for_ms }, count))
}
