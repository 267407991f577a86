//! One event, all rules: which waits it ends, which rules look at it, what they do, and what waits
//! from now on. Pure.

use std::sync::Arc;

use jiff::Timestamp;

use super::RuleSet;
use super::compile::{Cooldown as CooldownRule, Rule};
use super::expr::{self, Refused};
use super::memory::{Cooldown, Memory};
use super::scene::Scene;
use super::steps::Plan;
use super::timers::{QUEUED_MAX, TIMERS_MAX};
use super::wait::Mode;
use super::{explain, steps};
use crate::action::Urgency;
use crate::alert::{ACK_EVENT, READ_EVENT};
use crate::event::{Event, Trust};
use crate::record::{CooldownStart, Decided, Looked, NotSent, NotSentReason, Position, Verdict};
use crate::timer::{
    DUE_EVENT, End, Ended, Place, Queued, SCHEDULE_EVENT, SCHEDULE_SET_EVENT, Timer, TimerId,
};

/// How late a timer may be before its explanation says so: less is how long a busy machine takes.
const LATE_FROM_S: i64 = 2;

/// Why a rule is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Start<'t> {
    /// An event matched its `when`.
    Event,
    /// Its turn has come (`mode: queued`).
    Turn,
    /// A time trigger's time has come; if some came while nobody looked, `first` is the earliest.
    Time { due: Timestamp, first: Timestamp },
    /// One of its waits is over: by time, or by the event it waited for.
    Over(&'t Timer, End),
}

/// One event's decision in the making.
pub(super) struct Deciding<'a> {
    pub(super) rules: &'a RuleSet,
    pub(super) memory: &'a Memory,
    pub(super) now: Timestamp,
    pub(super) decided: Decided,
    /// The least trust of what let it come to the rule that is asked: of rules before it that could
    /// have stopped the event, of what ended the firing that it waited for.
    floor: Trust,
}

impl RuleSet {
    /// What the rules make of an event at `now`.
    pub fn decide(
        &self,
        event: &Arc<Event>,
        seen: Position,
        memory: &Memory,
        now: Timestamp,
    ) -> Decided {
        let decided = Decided {
            event: event.id,
            seen,
            at: now,
            rules: self.version.clone(),
            ..Decided::default()
        };
        let mut deciding = Deciding { rules: self, memory, now, decided, floor: Trust::Human };
        let own = event.source == "portero";
        match event.kind.as_str() {
            DUE_EVENT | SCHEDULE_EVENT if own => deciding.due(event),
            SCHEDULE_SET_EVENT if own => deciding.set_schedules(event),
            ACK_EVENT if own => {
                deciding.ack(event);
                deciding.event(event);
            }
            READ_EVENT => {
                deciding.message_read(event);
                deciding.event(event);
            }
            _ => deciding.event(event),
        }
        deciding.decided
    }
}

// === impl Deciding ===

impl<'a> Deciding<'a> {
    fn event(&mut self, event: &Arc<Event>) {
        if !self.memory.timers().is_empty() {
            self.end_waits(event);
        }
        let rules = &self.rules.rules;
        let found = self
            .rules
            .index
            .find(event, |rule, which| &rules[rule as usize].matchers[which as usize]);
        if !found.is_empty() {
            let scene = self.scene(event);
            let mut stopped_by: Option<&str> = None;
            for rule in found {
                let rule = &rules[rule as usize];
                if let Some(stopper) = stopped_by {
                    self.looked(rule, Verdict::Stopped, format!("rule `{stopper}` said stop"));
                } else if self.look(rule, &scene, Start::Event) {
                    stopped_by = Some(&rule.name);
                } else if rule.may_stop() {
                    self.floor = self.floor.min(scene.trust());
                }
            }
        }
        self.give_turns(event);
    }

    /// The waits that this event ends.
    fn end_waits(&mut self, event: &Arc<Event>) {
        let rules = &self.rules.rules;
        let found = self
            .rules
            .ends
            .find(event, |rule, which| &self.rules.end_matchers[rule as usize][which as usize]);
        for rule in found {
            let rule = &rules[rule as usize];
            let mut timers: Vec<&'a Timer> = self.memory.timers().of(&rule.name).collect();
            timers.sort_by_key(|timer| (timer.due, timer.id));
            for timer in timers.into_iter().filter(|timer| timer.stamp == rule.stamp) {
                let scene = self.scene(&timer.event);
                if rule.ends_at(&timer.at).iter().any(|ends| ends.accepts(event, &scene)) {
                    scene.lower(event.trust);
                    self.matched(rule, timer, &scene, &event.kind);
                }
            }
        }
    }

    fn matched(&mut self, rule: &'a Rule, timer: &'a Timer, scene: &Arc<Scene>, by: &str) {
        match &timer.at {
            Place::Fire => {
                self.end(timer, End::Matched);
                let why = format!("it waited since {}; `unless` came", self.clock(timer.begun));
                self.looked(rule, Verdict::Ended, why);
            }
            Place::After(_) => drop(self.look(rule, scene, Start::Over(timer, End::Matched))),
            // No event ends it.
            Place::Schedule { .. } => {}
            // Handled by its alert, of which this is one rung.
            Place::Rung { alert, .. } | Place::Watch { alert, .. } => {
                self.acknowledge(*alert, by, "event", None);
            }
        }
    }

    /// A timer says that it is due.
    fn due(&mut self, event: &Event) {
        let named = event.data.get("timer").and_then(|id| id.as_str()?.parse().ok());
        let Some(timer) = named.and_then(|id| self.memory.timers().get(id)) else { return };
        let rule = self.rules.rule(&timer.rule).filter(|rule| rule.stamp == timer.stamp);
        let Some(rule) = rule else {
            self.end(timer, End::RuleGone);
            let why = "the rule was removed or changed while it waited".to_string();
            return self.decided.looked.push(looked(&timer.rule, Verdict::Ended, why));
        };
        if let Place::Schedule { which } = timer.at {
            self.scheduled(rule, timer, which, event);
        } else if timer.expires.is_some_and(|expires| expires < self.now) {
            self.end(timer, End::Expired);
            let why = format!("it was due at {} and is too late", self.clock(timer.due));
            self.looked(rule, Verdict::Ended, why);
        } else if let Place::Watch { .. } = timer.at {
            self.end(timer, End::Due);
            let why = "nobody has acknowledged it; only a person can now".to_string();
            self.looked(rule, Verdict::Ended, why);
        } else if let Place::Rung { alert, step, round, if_unshown } = &timer.at {
            self.rung(rule, timer, *alert, (step, *round), *if_unshown);
        } else {
            let scene = self.scene(&timer.event);
            // That nothing ended it depends on what it was waiting for.
            rule.ends_at(&timer.at).iter().for_each(|ends| ends.read(&scene));
            self.look(rule, &scene, Start::Over(timer, End::Due));
        }
        self.give_turns(event);
    }

    /// Lets firings begin that wait for a rule's earlier ones to end, as `event` may have let them.
    fn give_turns(&mut self, event: &Event) {
        self.floor = event.trust;
        let rows: Vec<&'a str> = self.memory.timers().rows().collect();
        for name in rows {
            let Some(rule) = self.rules.rule(name) else {
                self.empty_row(name);
                continue;
            };
            let row: Vec<&'a Arc<Event>> = self.memory.timers().queued(name).collect();
            for event in row {
                if self.is_running(rule) {
                    break;
                }
                self.decided.queued.push(Queued { rule: name.to_string(), event: None });
                let scene = self.scene(event);
                self.look(rule, &scene, Start::Turn);
            }
        }
    }

    /// The rule is gone: nobody waits for its turn any more.
    fn empty_row(&mut self, name: &str) {
        for _ in self.memory.timers().queued(name) {
            self.decided.queued.push(Queued { rule: name.to_string(), event: None });
        }
        let why = "the rule was removed while firings waited for their turn".to_string();
        self.decided.looked.push(looked(name, Verdict::Ended, why));
    }

    /// One rule is asked; whether it said `stop`.
    pub(super) fn look(&mut self, rule: &'a Rule, scene: &Arc<Scene>, start: Start<'a>) -> bool {
        match start {
            Start::Event | Start::Turn | Start::Time { .. } => {
                scene.begin();
                scene.lower(self.floor);
            }
            Start::Over(timer, _) => scene.lower(timer.trust),
        }
        if let Start::Over(timer, end) = start {
            self.end(timer, end);
        }
        let goes_on = matches!(start, Start::Over(Timer { at: Place::After(_), .. }, _));
        let refused = rule.condition.as_ref().filter(|_| !goes_on);
        match refused.and_then(|condition| condition.check(scene).err()) {
            Some(Refused::False(why)) => return self.refused(rule, Verdict::Condition, why),
            Some(Refused::Error(why)) => return self.refused(rule, Verdict::ConditionError, why),
            None => {}
        }
        let begins = !matches!(start, Start::Over(..));
        if begins && !self.may_begin(rule, scene) {
            return false;
        }
        if begins && rule.wait.is_some() {
            self.begin_for(rule, scene);
            return false;
        }
        self.fire(rule, scene, start)
    }

    fn fire(&mut self, rule: &'a Rule, scene: &Arc<Scene>, start: Start<'a>) -> bool {
        let mut answer = looked(&rule.name, Verdict::Fired, self.late(start));
        let from = match start {
            Start::Over(Timer { at: Place::After(path), .. }, end) => Some((path.as_str(), end)),
            _ => None,
        };
        let cooldown = rule.cooldown.as_ref().filter(|_| from.is_none());
        let key = cooldown.and_then(|cooldown| cooldown_key(cooldown, scene, &mut answer));
        scene.set_timed_out(from.is_some_and(|(_, end)| end == End::Due));
        let mut plan = steps::plan(rule, scene, self.memory, &self.rules.house, from.map(|f| f.0));
        let severity = plan.severity.unwrap_or(Urgency::VeryLow);
        if let (Some(cooldown), Some(key)) = (cooldown, key) {
            let running = self.memory.cooldown(&rule.name, &key, self.now);
            if let Some(running) = running.filter(|running| severity <= running.severity) {
                let why = cooling_why(scene, running, &key);
                return self.refused(rule, Verdict::Cooldown, why);
            }
            let until = self.now.checked_add(cooldown.every).unwrap_or(Timestamp::MAX);
            answer.cooldown = Some(CooldownStart { key, severity, until });
        }
        answer.not_sent.append(&mut plan.not_sent);
        let stopped = plan.stopped;
        self.take(plan, answer);
        stopped
    }

    pub(super) fn take(&mut self, plan: Plan, mut answer: Looked) {
        for timer in plan.timers {
            answer.not_sent.extend(self.begin(timer));
        }
        self.decided.looked.push(answer);
        self.decided.sets.extend(plan.sets);
        self.decided.actions.extend(plan.actions);
        self.decided.alerts.extend(plan.alerts);
    }

    /// Whether a new firing may begin beside those that still wait.
    fn may_begin(&mut self, rule: &'a Rule, scene: &Arc<Scene>) -> bool {
        if rule.mode == Mode::Parallel || !self.is_running(rule) {
            return true;
        }
        match rule.mode {
            Mode::Parallel => true,
            Mode::Single => {
                self.looked(rule, Verdict::Busy, "an earlier firing still waits".to_string());
                false
            }
            Mode::Restart => {
                let earlier = self.memory.timers().of(&rule.name);
                let earlier: Vec<&Timer> = earlier.filter(|t| t.at.is_firing()).collect();
                earlier.into_iter().for_each(|timer| self.end(timer, End::Restarted));
                let stays = |timer: &Timer| timer.rule != *rule.name || !timer.at.is_firing();
                self.decided.begun.retain(stays);
                true
            }
            Mode::Queued => {
                self.queue(rule, scene.event());
                false
            }
        }
    }

    fn queue(&mut self, rule: &'a Rule, event: &Arc<Event>) {
        let joined = self.decided.queued.iter().filter(|q| q.rule == *rule.name);
        let row = self.memory.timers().queued(&rule.name).len() + joined.count();
        if row >= QUEUED_MAX {
            let why = format!("{QUEUED_MAX} firings wait for their turn already");
            return self.looked(rule, Verdict::Busy, why);
        }
        let queued = Queued { rule: rule.name.to_string(), event: Some(without_raw(event)) };
        self.decided.queued.push(queued);
        self.looked(rule, Verdict::Queued, format!("{} before it", row + 1));
    }

    /// Whether an earlier firing still waits.
    fn is_running(&self, rule: &Rule) -> bool {
        let ended = |timer: &Timer| self.decided.ended.iter().any(|e| e.timer == timer.id);
        let runs = |timer: &Timer| timer.rule == *rule.name && timer.at.is_firing();
        self.memory.timers().of(&rule.name).any(|timer| runs(timer) && !ended(timer))
            || self.decided.begun.iter().any(runs)
    }

    fn begin_for(&mut self, rule: &'a Rule, scene: &Arc<Scene>) {
        let Some(wait) = &rule.wait else { return };
        let (due, expires) = wait.span.moments(self.now, rule.lane);
        let why = format!("it fires at {} unless something ends it", self.clock(due));
        let mut answer = looked(&rule.name, Verdict::Waiting, why);
        let timer = timer(rule, scene, Place::Fire, due, expires);
        answer.not_sent.extend(self.begin(timer));
        self.decided.looked.push(answer);
    }

    /// A timer begins, if there is room for it.
    fn begin(&mut self, timer: Timer) -> Option<NotSent> {
        if self.memory.timers().len() + self.decided.begun.len() >= TIMERS_MAX {
            let detail = format!("{TIMERS_MAX} timers are under way already");
            let step = timer.at.path().to_string();
            return Some(NotSent::new(step, NotSentReason::TooManyTimers, detail));
        }
        self.decided.begun.push(timer);
        None
    }

    pub(super) fn end(&mut self, timer: &Timer, why: End) {
        if self.decided.ended.iter().all(|ended| ended.timer != timer.id) {
            self.decided.ended.push(Ended { timer: timer.id, why });
        }
    }

    /// What a late firing says of itself.
    pub(super) fn late(&self, start: Start<'_>) -> String {
        let (due, first) = match start {
            Start::Over(timer, End::Due) => (timer.due, timer.due),
            Start::Time { due, first } => (due, first),
            Start::Event | Start::Turn | Start::Over(..) => return String::new(),
        };
        let late = self.now.duration_since(due).as_secs();
        let mut why = match late {
            LATE_FROM_S.. => format!("{late} s late: it was due at {}", self.clock(due)),
            _ => String::new(),
        };
        if first < due {
            why.push_str(if why.is_empty() { "" } else { "; " });
            why.push_str(&format!("for all that it missed since {}", self.clock(first)));
        }
        if why.is_empty() {
            return why;
        }
        self.assumed().into_iter().fold(why, |why, assumed| format!("{why}; {assumed}"))
    }

    /// Systems that are not connected: what they said last is taken for what is.
    fn assumed(&self) -> Vec<String> {
        let links = self.memory.known().iter().filter_map(|(path, entry)| {
            let source = path.strip_suffix("/link").filter(|_| entry.value["up"] != true)?;
            let newest = self.memory.known().below(source);
            let newest =
                newest.filter(|(other, _)| *other != path).map(|(_, entry)| entry.at).max();
            Some((source, newest.unwrap_or(entry.at)))
        });
        links
            .map(|(source, at)| {
                let at = self.clock(at);
                format!("{source} is not connected, its state is assumed to be as of {at}")
            })
            .collect()
    }

    pub(super) fn scene(&self, event: &Arc<Event>) -> Arc<Scene> {
        Scene::new(event, self.memory, self.now, &self.rules.house.time_zone)
    }

    pub(super) fn clock(&self, at: Timestamp) -> String {
        explain::clock(at, self.now, &self.rules.house.time_zone)
    }

    pub(super) fn looked(&mut self, rule: &Rule, verdict: Verdict, why: String) {
        self.decided.looked.push(looked(&rule.name, verdict, why));
    }

    fn refused(&mut self, rule: &Rule, verdict: Verdict, why: String) -> bool {
        self.looked(rule, verdict, why);
        false
    }
}

/// A timer of this rule, about this scene's event.
pub(super) fn timer(
    rule: &Rule,
    scene: &Arc<Scene>,
    at: Place,
    due: Timestamp,
    expires: Option<Timestamp>,
) -> Timer {
    Timer {
        id: TimerId::derive(scene.event().id, &rule.name, &at.name()),
        rule: rule.name.to_string(),
        stamp: rule.stamp.clone(),
        at,
        event: without_raw(scene.event()),
        begun: scene.now(),
        due,
        expires,
        trust: scene.trust(),
    }
}

/// The bytes as they came are in the journal, and rules do not see them.
fn without_raw(event: &Arc<Event>) -> Arc<Event> {
    if event.raw.is_empty() {
        return event.clone();
    }
    Arc::new(Event { raw: Vec::new(), ..(**event).clone() })
}

pub(super) fn looked(rule: &str, verdict: Verdict, why: String) -> Looked {
    let rule = rule.to_string();
    Looked { rule, verdict, why, not_sent: Vec::new(), cooldown: None }
}

/// The rendered key. A key that cannot be rendered is noted, and the rule fires without cooling
/// down: better told twice than not at all.
fn cooldown_key(
    cooldown: &CooldownRule,
    scene: &Arc<Scene>,
    answer: &mut Looked,
) -> Option<String> {
    match cooldown.key.render(scene) {
        Ok(mut key) => {
            expr::cut(&mut key, steps::NAME_BYTES_MAX);
            Some(key)
        }
        Err(detail) => {
            let reason = NotSentReason::TemplateError;
            answer.not_sent.push(NotSent::new("cooldown.key", reason, detail));
            None
        }
    }
}

fn cooling_why(scene: &Scene, running: &Cooldown, key: &str) -> String {
    let until = explain::clock(running.until, scene.now(), scene.zone());
    match key {
        "" => format!("cooling down until {until}"),
        key => format!("cooling down until {until} (key {key})"),
    }
}
