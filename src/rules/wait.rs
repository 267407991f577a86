//! `for`, `unless`, `wait` and `mode`: how long a rule waits, what ends it, and what happens if it
//! fires again meanwhile. Read from rule files; the waiting itself is [`super::engine`]'s.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::compile::{Act, Rule, Step};
use super::expr::Text;
use super::pattern::{Field, Matcher};
use super::scene::Scene;
use super::steps::later;
use crate::action::Lane;
use crate::event::Event;
use crate::node::{Cursor, Value};
use crate::timer::Place;

/// Waits are for people and doors; a year is beyond any.
const WAIT_MAX: Duration = Duration::from_secs(365 * 86_400);
/// The shortest wait.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// A wait that came due this long ago is not gone on with unless the rule says otherwise: its news
/// is history. Rules in the alarm lane have no such limit.
const LATE_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// `for: 10m`, or `for: { time: 10m, late: 1h }` with `unless` beside it.
#[derive(Debug)]
pub(super) struct For {
    pub span: Span,
    /// Any of them ends it.
    pub unless: Vec<Ends>,
}

/// `wait: { for: 5m, until: … }`.
#[derive(Debug)]
pub(super) struct Wait {
    pub span: Span,
    /// Any of them lets the rule go on at once.
    pub until: Vec<Ends>,
}

/// How long, and how late is too late.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub time: Duration,
    pub late: Option<Duration>,
}

/// An event that ends a wait: fixed fields, and fields that depend on what the wait is about.
#[derive(Debug)]
pub(super) struct Ends {
    pub matcher: Matcher,
    pub computed: Vec<(Field, Text)>,
}

/// What happens if a rule fires while an earlier firing still waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each firing by itself.
    #[default]
    Parallel,
    /// The earlier one goes on, the new one does not begin.
    Single,
    /// The earlier one ends, the new one begins.
    Restart,
    /// The new one begins when the earlier one has ended.
    Queued,
}

impl Mode {
    pub const WORDS: [(&str, Mode); 4] = [
        ("parallel", Mode::Parallel),
        ("single", Mode::Single),
        ("restart", Mode::Restart),
        ("queued", Mode::Queued),
    ];
}

impl Span {
    /// A duration, or `{ <name>: …, late: … }` with what else `table` allows.
    pub fn read(at: Cursor<'_>) -> Option<Span> {
        if !matches!(at.node().value, Value::Map(_)) {
            return Some(Span { time: at.duration(WAIT_MIN, WAIT_MAX)?, late: None });
        }
        let mut table = at.table()?;
        let time = table.required("time").and_then(|at| at.duration(WAIT_MIN, WAIT_MAX));
        let late = table.optional("late").map(Span::late);
        table.done();
        Some(Span { time: time?, late: late.map_or(Some(None), |late| late.map(Some))? })
    }

    /// How late is too late.
    pub fn late(at: Cursor<'_>) -> Option<Duration> {
        at.duration(Duration::ZERO, WAIT_MAX)
    }

    /// When a wait that begins `now` is due, and until when it is worth going on.
    pub fn moments(self, now: Timestamp, lane: Lane) -> (Timestamp, Option<Timestamp>) {
        let due = later(now, self.time);
        let late = self.late.or((lane != Lane::Alarm).then_some(LATE_DEFAULT));
        (due, late.map(|late| later(due, late)))
    }
}

impl Ends {
    /// Reads what it depends on, so that its trust counts.
    pub fn read(&self, scene: &Arc<Scene>) {
        self.computed.iter().for_each(|(_, text)| drop(text.render(scene)));
    }

    /// Whether this event ends a wait that `scene` is about.
    pub fn accepts(&self, event: &Event, scene: &Arc<Scene>) -> bool {
        self.matcher.accepts(event)
            && self.computed.iter().all(|(field, text)| {
                text.render(scene).is_ok_and(|wanted| field.of(event).is_text(&wanted))
            })
    }
}

impl Rule {
    /// Whether it may keep an event from the rules behind it.
    pub fn may_stop(&self) -> bool {
        may_stop(&self.steps)
    }

    /// Everything that may end one of its waits.
    pub fn ends(&self) -> impl Iterator<Item = &Ends> {
        let mut found: Vec<&Ends> = self.wait.iter().flat_map(|wait| &wait.unless).collect();
        collect(&self.steps, &mut found);
        found.into_iter()
    }

    /// What may end the wait at this place.
    pub fn ends_at(&self, place: &Place) -> &[Ends] {
        match place {
            Place::Fire => self.wait.as_ref().map_or(&[], |wait| &wait.unless),
            Place::Schedule { .. } => &[],
            Place::After(path) => find(&self.steps, path).map_or(&[], |wait| &wait.until),
            Place::Rung { step, .. } => self.ladder_of(step).map_or(&[], |ladder| &ladder.until),
            Place::Watch { step, .. } => self.ladder(step).map_or(&[], |ladder| &ladder.until),
        }
    }
}

/// Only what is done at once stops an event.
fn may_stop(steps: &[Step]) -> bool {
    let at_once = steps.iter().take_while(|step| !matches!(step.act, Act::Wait(_)));
    at_once.into_iter().any(|step| match &step.act {
        Act::Stop => true,
        Act::If { then, otherwise, .. } => may_stop(then) || may_stop(otherwise),
        _ => false,
    })
}

fn collect<'r>(steps: &'r [Step], found: &mut Vec<&'r Ends>) {
    for step in steps {
        match &step.act {
            Act::Wait(wait) => found.extend(&wait.until),
            Act::Escalate(ladder) => found.extend(&ladder.until),
            Act::If { then, otherwise, .. } => {
                collect(then, found);
                collect(otherwise, found);
            }
            Act::Push(_) | Act::Set(_) | Act::Emit(_) | Act::Tell(_) | Act::Open(_) | Act::Stop => {
            }
        }
    }
}

fn find<'r>(steps: &'r [Step], path: &str) -> Option<&'r Wait> {
    steps.iter().find_map(|step| match &step.act {
        Act::Wait(wait) if *step.path == *path => Some(&**wait),
        Act::If { then, otherwise, .. } => find(then, path).or_else(|| find(otherwise, path)),
        _ => None,
    })
}
