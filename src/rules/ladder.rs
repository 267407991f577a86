//! `escalate`: whom an alert is told to one after the other, read from rule files, and the climbing
//! of one rung. What stops it is [`super::engine`]'s to see.

use std::time::Duration;

use super::compile::{Act, Rule, Scope, Step, act};
use super::engine;
use super::steps::{Planner, later};
use super::wait::Ends;
use crate::alert::{AlertBegun, AlertId, MessageRef};
use crate::node::{Cursor, Value};
use crate::timer::Place;

/// An escalation is for minutes and hours; a day is beyond any.
const AFTER_MAX: Duration = Duration::from_secs(86_400);
/// The shortest time between two repetitions: people need some to look.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Repetitions of one rung; whoever has not answered a thousand will not.
const TIMES_MAX: i64 = 1000;
/// After its last rung an alert listens this long for what `until` describes; later only a person
/// ends it.
const WATCH_FOR: Duration = Duration::from_secs(86_400);
/// Rungs of one ladder.
const RUNGS_MAX: usize = 50;

/// An `escalate` step.
#[derive(Debug)]
pub(super) struct Ladder {
    pub rungs: Vec<Rung>,
    /// Any of these events counts as an acknowledgement.
    pub until: Vec<Ends>,
}

/// One rung.
#[derive(Debug)]
pub(super) struct Rung {
    /// Counted from the alert's beginning.
    pub after: Duration,
    /// Climbed earlier if no phone has shown the alert this long after the rung before.
    pub not_shown: Option<Duration>,
    pub repeat: Option<Repeat>,
    pub step: Step,
}

/// `repeat: { every: 2m, times: 3 }`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeat {
    pub every: Duration,
    /// After the first time.
    pub times: u32,
}

impl Ladder {
    /// Until the last rung's last repetition.
    fn lasts(&self) -> Duration {
        let repeats = |repeat: Repeat| repeat.every.saturating_mul(repeat.times);
        let lasts = |rung: &Rung| rung.after + rung.repeat.map(repeats).unwrap_or_default();
        self.rungs.iter().map(lasts).max().unwrap_or_default()
    }
}

/// `escalate: [ … ]`, or `escalate: { until: …, steps: [ … ] }`.
pub(super) fn ladder(scope: &Scope<'_>, at: Cursor<'_>, path: &str) -> Option<Ladder> {
    if !matches!(at.node().value, Value::Map(_)) {
        return Some(Ladder { rungs: rungs(scope, at, path)?, until: Vec::new() });
    }
    let mut table = at.table()?;
    let steps = table.required("steps").and_then(|at| rungs(scope, at, path));
    let until = table.optional("until").map(|at| super::file::ends(at, scope.house));
    table.done();
    Some(Ladder { rungs: steps?, until: until.unwrap_or(Some(Vec::new()))? })
}

fn rungs(scope: &Scope<'_>, at: Cursor<'_>, path: &str) -> Option<Vec<Rung>> {
    let items = at.list()?;
    if items.is_empty() || items.len() > RUNGS_MAX {
        at.wrong(format!("an escalation has 1 to {RUNGS_MAX} steps"));
        return None;
    }
    let numbered = items.into_iter().enumerate();
    let all: Vec<Option<Rung>> =
        numbered.map(|(i, item)| rung(scope, item, &format!("{path}.escalate[{i}]"))).collect();
    let all: Vec<Rung> = all.into_iter().collect::<Option<_>>()?;
    if let Some(pair) = all.windows(2).find(|pair| pair[1].after < pair[0].after) {
        at.wrong(format!("`after: {:?}` stands behind `{:?}`", pair[1].after, pair[0].after));
        return None;
    }
    Some(all)
}

fn rung(scope: &Scope<'_>, at: Cursor<'_>, path: &str) -> Option<Rung> {
    let mut table = at.table()?;
    let after = table.required("after").map(|at| at.duration(Duration::ZERO, AFTER_MAX));
    let not_shown = table.optional("not_shown").map(|at| at.duration(EVERY_MIN, AFTER_MAX));
    let repeat = table.optional("repeat").map(repeat);
    let others = [after.is_some(), not_shown.is_some(), repeat.is_some()];
    let others = others.into_iter().filter(|given| *given).count();
    let act = act(scope, at, table, path, others);
    if let Some(Act::Wait(_) | Act::Escalate(_) | Act::Open(_) | Act::Stop | Act::If { .. }) = &act
    {
        at.wrong("an escalation's step tells somebody something: `push`, `emm`, …");
        return None;
    }
    Some(Rung {
        after: after??,
        not_shown: not_shown.map_or(Some(None), |after| after.map(Some))?,
        repeat: repeat.map_or(Some(None), |repeat| repeat.map(Some))?,
        step: Step { path: path.into(), act: act? },
    })
}

fn repeat(at: Cursor<'_>) -> Option<Repeat> {
    let mut table = at.table()?;
    let every = table.required("every").and_then(|at| at.duration(EVERY_MIN, AFTER_MAX));
    let times = table.required("times").and_then(|at| at.int(1..=TIMES_MAX));
    table.done();
    Some(Repeat { every: every?, times: u32::try_from(times?).ok()? })
}

impl Rule {
    /// The rung at this path.
    pub fn rung(&self, path: &str) -> Option<&Rung> {
        self.ladders().flat_map(|(_, ladder)| &ladder.rungs).find(|rung| *rung.step.path == *path)
    }

    /// The ladder that has a rung of this path.
    pub fn ladder_of(&self, rung: &str) -> Option<&Ladder> {
        let has = |ladder: &&Ladder| ladder.rungs.iter().any(|one| *one.step.path == *rung);
        self.ladders().map(|(_, ladder)| ladder).find(has)
    }

    /// The ladder of this step.
    pub fn ladder(&self, step: &str) -> Option<&Ladder> {
        self.ladders().find(|(path, _)| *path == step).map(|(_, ladder)| ladder)
    }

    /// All escalations, with their paths.
    pub fn ladders(&self) -> impl Iterator<Item = (&str, &Ladder)> {
        let mut found = Vec::new();
        collect(&self.steps, &mut found);
        found.into_iter()
    }
}

fn collect<'r>(steps: &'r [Step], found: &mut Vec<(&'r str, &'r Ladder)>) {
    for step in steps {
        match &step.act {
            Act::Escalate(ladder) => found.push((&step.path, ladder)),
            Act::If { then, otherwise, .. } => {
                collect(then, found);
                collect(otherwise, found);
            }
            _ => {}
        }
    }
}

// === impl Planner ===

impl Planner<'_> {
    /// An alert begins: its first rungs at once, the others later.
    pub fn escalate(&mut self, step: &str, ladder: &Ladder) {
        let event = self.scene.event().id;
        let alert = AlertId::derive(event, &self.rule.name, step);
        self.alert = Some(alert);
        let before = self.plan.actions.len();
        for (i, rung) in ladder.rungs.iter().enumerate() {
            if rung.after.is_zero() {
                self.climb(rung, 0);
                continue;
            }
            self.later_rung(alert, rung, rung.after, false);
            let earlier = i.checked_sub(1).map_or(Duration::ZERO, |i| ladder.rungs[i].after);
            if let Some(not_shown) = rung.not_shown.map(|after| earlier + after)
                && not_shown < rung.after
            {
                self.later_rung(alert, rung, not_shown, true);
            }
        }
        self.watch(alert, step, ladder);
        self.alert = None;
        let told = self.plan.actions[before..].iter().find_map(|action| match &action.task {
            crate::action::Task::Push { message, .. } => Some(message.title.clone()),
            _ => None,
        });
        let (rule, title) = (self.rule.name.to_string(), told);
        let title = title.unwrap_or_else(|| rule.clone());
        let about = MessageRef::of(self.scene.event());
        self.plan.alerts.push(AlertBegun { id: alert, rule, event, title, about });
    }

    /// What `until` describes counts as an acknowledgement also after the last rung.
    fn watch(&mut self, alert: AlertId, step: &str, ladder: &Ladder) {
        if ladder.until.is_empty() {
            return;
        }
        let place = Place::Watch { alert, step: step.to_string() };
        let due = later(self.scene.now(), ladder.lasts() + WATCH_FOR);
        self.plan.timers.push(engine::timer(self.rule, self.scene, place, due, None));
    }

    fn later_rung(&mut self, alert: AlertId, rung: &Rung, after: Duration, if_unshown: bool) {
        let step = rung.step.path.to_string();
        let place = Place::Rung { alert, step, round: 0, if_unshown };
        let due = later(self.scene.now(), after);
        // An alert is worth telling however late.
        self.plan.timers.push(engine::timer(self.rule, self.scene, place, due, None));
    }

    /// Tells what one rung tells, and sees to its repetition.
    pub fn climb(&mut self, rung: &Rung, round: u32) {
        let before = std::mem::replace(&mut self.round, round);
        self.steps(std::slice::from_ref(&rung.step));
        self.round = before;
        let Some(alert) = self.alert else { return };
        if let Some(repeat) = rung.repeat.filter(|repeat| round < repeat.times) {
            let step = rung.step.path.to_string();
            let place = Place::Rung { alert, step, round: round + 1, if_unshown: false };
            let due = later(self.scene.now(), repeat.every);
            self.plan.timers.push(engine::timer(self.rule, self.scene, place, due, None));
        }
    }
}
