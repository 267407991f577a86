//! The tests that stand beside the rules: run on the real engine with a clock that a test sets.
//! Every person has one phone that takes everything at once, unless the test says otherwise; what
//! rules emit comes back as it does in the house, and systems do what they are told.

mod case;
mod held;
mod opened;
mod told;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::{Timestamp, ToSpan};
use serde_json::Value as Json;

pub(super) use case::{Case, Known, cases};
use case::{Count, Expect, Happening, PushWanted};
use held::Held;
use opened::Opened;

use super::{Memory, Reached, RuleSet, StateEntry, explain::explain};
use crate::action::{Action, ActionId, Message, Outcome, PhoneId, Task};
use crate::alert::ack_event;
use crate::command::Command;
use crate::event::{Event, EventId, Trust, own_event};
use crate::record::{Decided, Position, Receipt, Settled, Shown, Verdict};
use crate::timer::SCHEDULE_SET_EVENT;

/// Events one test may lead to: rules that feed each other must not run a test for ever. A week of
/// a rule that runs every minute.
const EVENTS_MAX: usize = 10_000;

/// Turns a fixture's name, such as `netatmo/incoming_call.json`, into events.
pub type Fixtures<'f> = dyn Fn(&str) -> Result<Vec<Event>, String> + 'f;

/// How the tests went.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many passed.
    pub passed: usize,
    /// Those that failed.
    pub failures: Vec<Failure>,
    /// Rules that fired in some test; the others are not tested.
    pub fired: BTreeSet<String>,
}

/// One failed test.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Where it stands: `rules/a.yaml:20:5`.
    pub place: String,
    /// Its name.
    pub test: String,
    /// What was expected and what was found instead, a line each.
    pub wrong: Vec<String>,
    /// Everything that happened, with every rule's explanation.
    pub happened: String,
}

impl Report {
    /// Whether nothing failed.
    pub fn is_ok(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "FAILED {} ({})", failure.test, failure.place)?;
            for line in &failure.wrong {
                writeln!(f, "  {line}")?;
            }
            for line in failure.happened.lines() {
                writeln!(f, "  | {line}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "{} passed, {} failed", self.passed, self.failures.len())
    }
}

/// Runs all tests of a rule set.
pub fn run(rules: &RuleSet, fixtures: &Fixtures<'_>) -> Report {
    let mut report = Report::default();
    for case in &rules.tests {
        match run_case(rules, case, fixtures, &mut report.fired) {
            None => report.passed += 1,
            Some(failure) => report.failures.push(failure),
        }
    }
    report
}

fn run_case(
    rules: &RuleSet,
    case: &Case,
    fixtures: &Fixtures<'_>,
    fired: &mut BTreeSet<String>,
) -> Option<Failure> {
    let mut world = World::new(rules, case);
    let mut wrong = Vec::from_iter(world.set_schedules().err());
    for happening in &case.events {
        if let Err(why) = world.happen(happening, fixtures) {
            wrong.push(why);
        }
    }
    let looked = world.done.iter().flat_map(|(_, decided)| &decided.looked);
    let new = looked.filter(|looked| looked.verdict == Verdict::Fired);
    fired.extend(new.map(|looked| looked.rule.clone()));
    wrong.extend(case.expect.iter().filter_map(|expect| world.miss(expect)));
    if wrong.is_empty() {
        return None;
    }
    let (place, test) = (case.place.clone(), case.name.clone());
    Some(Failure { place, test, wrong, happened: world.story() })
}

/// A house for one test.
struct World<'r> {
    first: &'r RuleSet,
    reloaded: Option<RuleSet>,
    /// Whose phones, and which systems, take nothing.
    failing: BTreeSet<String>,
    memory: Memory,
    now: Timestamp,
    done: Vec<(Arc<Event>, Decided)>,
    doors: Opened,
    held: Held,
}

impl<'r> World<'r> {
    fn new(rules: &'r RuleSet, case: &Case) -> World<'r> {
        let mut memory = Memory::new();
        let people = case.phones.as_ref().unwrap_or(&rules.house.people);
        people.iter().for_each(|person| memory.set_phone(person, PhoneId(person.clone())));
        for (path, value) in &case.given {
            let entry = StateEntry { value: value.clone(), trust: Trust::Fresh, at: case.at };
            memory.set_state(path, entry);
        }
        let doors = Opened::new(case.at);
        World {
            first: rules,
            reloaded: None,
            failing: BTreeSet::new(),
            memory,
            now: case.at,
            done: Vec::new(),
            doors,
            held: Held::default(),
        }
    }

    fn happen(&mut self, happening: &Happening, fixtures: &Fixtures<'_>) -> Result<(), String> {
        match happening {
            Happening::After(pause) => {
                self.pass(self.now.checked_add(*pause).unwrap_or(Timestamp::MAX))
            }
            Happening::Clock(time) => {
                let zone = self.rules().house.time_zone.clone();
                let now = self.now.to_zoned(zone);
                let days = if time < &now.time() { 1.days() } else { 0.days() };
                self.pass_to(now.date().saturating_add(days).to_datetime(*time))
            }
            Happening::Day(at) => self.pass_to(*at),
            Happening::Restart => self.restart(),
            Happening::Down(pause) => {
                self.now = self.now.checked_add(*pause).unwrap_or(Timestamp::MAX);
                self.restart()?;
                self.pass(self.now)
            }
            Happening::Reload => self.reload(),
            Happening::Ack(by) => self.ack(by),
            Happening::Shown => {
                self.show();
                Ok(())
            }
            Happening::Fail(who) => {
                self.failing = who.clone();
                Ok(())
            }
            Happening::Event(event) => self.take((**event).clone()),
            Happening::Fixture(name) => {
                let events = fixtures(name).map_err(|why| format!("fixture {name}: {why}"))?;
                if events.is_empty() {
                    return Err(format!("fixture {name} makes no event"));
                }
                events.into_iter().try_for_each(|event| self.take(event))
            }
        }
    }

    /// Time passes; what comes due on the way happens at its own moment.
    fn pass(&mut self, until: Timestamp) -> Result<(), String> {
        loop {
            let due = self.memory.timers().next_due().unwrap_or(Timestamp::MAX);
            let let_go = self.held.next().unwrap_or(Timestamp::MAX);
            if due.min(let_go) > until || due.min(let_go) == Timestamp::MAX {
                break;
            }
            self.now = self.now.max(due.min(let_go));
            if let_go <= due {
                self.let_go();
                continue;
            }
            let Some(timer) = self.memory.timers().due(due).next() else { break };
            self.take(timer.due_event(self.now))?;
        }
        self.now = until;
        Ok(())
    }

    /// Quiet hours are over: what was held for them goes.
    fn let_go(&mut self) {
        for action in self.held.let_go(self.now) {
            self.settle(&action);
        }
    }

    fn settle(&mut self, action: &Action) {
        let outcome = self.outcome(&action.task);
        let settled = Settled::new(action.id, outcome, 1, self.now);
        self.memory.apply_settled(&settled);
    }

    /// As the router does when rules come into force.
    fn set_schedules(&mut self) -> Result<(), String> {
        let rules = self.rules().unscheduled(&self.memory);
        if rules.is_empty() {
            return Ok(());
        }
        let mut data = serde_json::Map::new();
        data.insert("rules".into(), serde_json::json!(rules));
        self.take(own_event(SCHEDULE_SET_EVENT, "test", data, self.now))
    }

    /// Time passes until the house's clock shows this.
    fn pass_to(&mut self, at: DateTime) -> Result<(), String> {
        let zone = self.rules().house.time_zone.clone();
        let local = zone.to_ambiguous_zoned(at).compatible().map_err(|error| error.to_string())?;
        let moment = local.timestamp();
        if moment < self.now {
            return Err(format!("{at} is before {}", self.now.to_zoned(zone).datetime()));
        }
        self.pass(moment)
    }

    /// What a restart keeps is what a checkpoint writes.
    fn restart(&mut self) -> Result<(), String> {
        // A moment, so that what was received before can be told from what comes after.
        self.now += Duration::from_millis(1);
        self.doors.restart(self.now);
        let kept = serde_json::to_string(&self.memory).map_err(|error| error.to_string())?;
        self.memory = serde_json::from_str(&kept).map_err(|error| error.to_string())?;
        self.set_schedules()
    }

    /// How an action ends at once.
    fn outcome(&self, task: &Task) -> Outcome {
        let (to, good) = match task {
            Task::Command(command) => (command.to.as_str(), Outcome::Done),
            // In a test, everybody's phone has its owner's name.
            Task::Push { phone, .. } => (phone.0.as_str(), Outcome::Delivered),
            Task::Open(_) => return Outcome::Done,
            Task::Emit(_) => return Outcome::Delivered,
        };
        match self.failing.contains(to) {
            true => Outcome::Expired { last: "it fails in this test".into() },
            false => good,
        }
    }

    /// Somebody acknowledges everything that is open, on their phone.
    fn ack(&mut self, by: &str) -> Result<(), String> {
        let alerts = self.memory.alerts().iter();
        let open = alerts.filter(|(_, alert)| alert.acked.is_none()).map(|(id, _)| id);
        let event = ack_event(&open.collect::<Vec<_>>(), by, "phone", Some(by), self.now);
        self.take(event)
    }

    /// Every phone that was reached says that it has shown what it was sent.
    fn show(&mut self) {
        let reached: Vec<(ActionId, PhoneId)> = self
            .memory
            .alerts()
            .iter()
            .flat_map(|(_, alert)| &alert.told)
            .filter(|(_, told)| told.state == Reached::Accepted)
            .map(|(action, told)| (*action, PhoneId(told.to.clone())))
            .collect();
        for (action, phone) in reached {
            let receipt = Receipt { action, phone, what: Shown::Shown, at: self.now };
            self.memory.apply_receipt(&receipt);
        }
    }

    /// The files are read anew; what waits goes on, since no rule has changed.
    fn reload(&mut self) -> Result<(), String> {
        let (files, house) = (self.first.files().to_vec(), &self.first.house);
        let again = RuleSet::load(files, house).map_err(|problems| problems.render())?;
        self.reloaded = Some(again);
        self.set_schedules()
    }

    fn rules(&self) -> &RuleSet {
        self.reloaded.as_ref().unwrap_or(self.first)
    }

    /// One event and all that follows from it at once.
    fn take(&mut self, event: Event) -> Result<(), String> {
        let mut queue = VecDeque::from([event]);
        while let Some(mut event) = queue.pop_front() {
            if self.done.len() >= EVENTS_MAX {
                return Err(format!("more than {EVENTS_MAX} events followed"));
            }
            // A test that rings twice means two rings, also with one fixture.
            let number = self.done.len().to_string();
            event.id = EventId::derive([event.id.to_string().as_str(), &number]);
            event.received = self.now;
            let event = Arc::new(event);
            let seen = Position(self.done.len() as u64);
            let decided = self.rules().decide(&event, seen, &self.memory, self.now);
            self.memory.apply_decided(&decided, self.now);
            let house = &self.reloaded.as_ref().unwrap_or(self.first).house;
            self.doors.take(&decided, &house.doors, self.now);
            for action in &decided.actions {
                if !self.held.take(action, self.now) {
                    self.settle(action);
                }
                if let Task::Emit(made) = &action.task {
                    queue.push_back((**made).clone());
                }
            }
            self.done.push((event, decided));
        }
        Ok(())
    }

    fn pushes(&self) -> impl Iterator<Item = (&str, &Message)> {
        let actions = self.done.iter().flat_map(|(_, decided)| &decided.actions);
        actions.filter_map(|action| match &action.task {
            Task::Push { phone, message } => Some((phone.0.as_str(), &**message)),
            Task::Emit(_) | Task::Command(_) | Task::Open(_) => None,
        })
    }

    fn emitted(&self) -> impl Iterator<Item = &Event> {
        let actions = self.done.iter().flat_map(|(_, decided)| &decided.actions);
        actions.filter_map(|action| match &action.task {
            Task::Emit(event) => Some(&**event),
            Task::Push { .. } | Task::Command(_) | Task::Open(_) => None,
        })
    }

    fn told(&self) -> impl Iterator<Item = &Command> {
        let actions = self.done.iter().flat_map(|(_, decided)| &decided.actions);
        actions.filter_map(|action| match &action.task {
            Task::Command(command) => Some(&**command),
            Task::Push { .. } | Task::Emit(_) | Task::Open(_) => None,
        })
    }

    fn fired(&self, rule: &str) -> usize {
        let looked = self.done.iter().flat_map(|(_, decided)| &decided.looked);
        looked.filter(|looked| looked.rule == rule && looked.verdict == Verdict::Fired).count()
    }

    /// What was expected and what is instead, if it is not met.
    fn miss(&self, expect: &Expect) -> Option<String> {
        match expect {
            Expect::Push(wanted, count) => miss_push(|| self.pushes(), "push", wanted, *count),
            Expect::Held(wanted, count) => {
                miss_push(|| self.held.pushes(), "held push", wanted, *count)
            }
            Expect::Emit { kind, subject, data, count } => {
                let fits = |event: &&Event| {
                    event.kind == *kind
                        && subject.as_ref().is_none_or(|s| event.subject.as_ref() == Some(s))
                        && data.iter().all(|(name, value)| event.data.get(name) == Some(value))
                };
                let found = self.emitted().filter(fits).count();
                count.miss(found, &format!("emit of {kind}"))
            }
            Expect::Fired(rule, count) => {
                count.miss(self.fired(rule), &format!("firing of `{rule}`"))
            }
            Expect::NoSet => {
                let set = self.done.iter().flat_map(|(_, decided)| &decided.sets).next()?;
                Some(format!("expected no set, but `{}` was set to {}", set.path, set.value))
            }
            Expect::State(path, value) => {
                let has = self.memory.state(path).map_or(&Json::Null, |entry| &entry.value);
                let same = has == value;
                (!same).then(|| format!("expected `{path}` to be {value}, but it is {has}"))
            }
            Expect::Told(wanted, count) => {
                let found = self.told().filter(|command| wanted.fits(command)).count();
                count.miss(found, &wanted.to_string())
            }
            Expect::Open(wanted, count) => {
                let miss = count.miss(self.doors.count(wanted), &wanted.to_string())?;
                Some(format!("{miss}{}", self.doors.why_not()))
            }
            Expect::NoEmit => {
                let event = self.emitted().next()?;
                Some(format!("expected no emit, but {} was emitted", event.kind))
            }
        }
    }

    fn story(&self) -> String {
        if self.done.is_empty() {
            return "nothing happened\n".to_string();
        }
        let zone = &self.rules().house.time_zone;
        let mut story = String::new();
        let clock = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string();
        let mut let_go = self.held.story().peekable();
        for (event, decided) in &self.done {
            while let Some((at, line)) = let_go.next_if(|(at, _)| *at < decided.at) {
                story.push_str(&format!("{} {line}\n", clock(at)));
            }
            let at = clock(decided.at);
            let data = Json::Object(event.data.clone());
            story.push_str(&format!("{at} {} {data}\n", event.kind));
            for line in explain(decided, zone).lines() {
                story.push_str(&format!("    {line}\n"));
            }
            for (rule, why) in self.rules().near_misses(event) {
                story.push_str(&format!("    {rule}: did not look: {why}\n"));
            }
        }
        for (at, line) in let_go {
            story.push_str(&format!("{} {line}\n", clock(at)));
        }
        story
    }
}

/// What of these pushes is not as expected.
fn miss_push<'w, I>(
    pushes: impl Fn() -> I,
    what: &str,
    wanted: &PushWanted,
    count: Count,
) -> Option<String>
where
    I: Iterator<Item = (&'w str, &'w Message)>,
{
    for person in &wanted.people {
        let found = pushes().filter(|(to, message)| to == person && wanted.fits(message));
        if let Some(miss) = count.miss(found.count(), &format!("{what} to {person}{wanted}")) {
            return Some(miss);
        }
    }
    if wanted.people.is_empty() {
        let found = pushes().filter(|(_, message)| wanted.fits(message)).count();
        return count.miss(found, &format!("{what}{wanted}"));
    }
    None
}
