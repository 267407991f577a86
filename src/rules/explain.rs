//! Decisions in words: why each rule did or did not fire, and which rules came close. It reads
//! what was decided and decides nothing again.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::RuleSet;
use super::pattern::{Field, Wanted};
use crate::action::{Action, Task};
use crate::event::Event;
use crate::record::{Decided, Looked, NotSentReason, Verdict};
use crate::timer::Place;

/// Values of one key shown in a near miss; a list of a hundred subjects helps nobody.
const SHOWN_VALUES_MAX: usize = 5;

/// A decision for people: every rule that looked, whether it fired, with what, and if not why.
/// Times are shown on the house's clock.
pub fn explain(decided: &Decided, zone: &TimeZone) -> String {
    if decided.looked.is_empty() {
        return "no rule waits for this event\n".to_string();
    }
    let mut text = String::new();
    for looked in &decided.looked {
        rule_lines(&mut text, looked, decided, zone);
    }
    for set in &decided.sets {
        let _ = writeln!(text, "set {} to {} ({})", set.path, set.value, set.trust);
    }
    text
}

/// Writing into a `String` cannot fail, so the results below are dropped.
fn rule_lines(text: &mut String, looked: &Looked, decided: &Decided, zone: &TimeZone) {
    let verdict = match looked.verdict {
        Verdict::Fired => "fired",
        Verdict::Condition => "did not fire: its `if` is false",
        Verdict::ConditionError => "did not fire: its `if` could not be evaluated",
        Verdict::Cooldown => "did not fire: it fired too recently",
        Verdict::Stopped => "was not asked",
        Verdict::Waiting => "waits",
        Verdict::Busy => "did not fire: it is busy",
        Verdict::Queued => "waits for its turn",
        Verdict::Ended => "does not fire: its wait has ended",
    };
    let _ = writeln!(text, "{}: {verdict}", looked.rule);
    if !looked.why.is_empty() {
        let _ = writeln!(text, "    {}", looked.why);
    }
    if looked.verdict != Verdict::Fired {
        return;
    }
    for action in decided.actions.iter().filter(|action| action.rule == looked.rule) {
        let _ = writeln!(text, "    {}", action_line(action, decided.at, zone));
    }
    for note in &looked.not_sent {
        let what = match note.reason {
            NotSentReason::NoPhone => format!("{} has no phone", note.detail),
            NotSentReason::TemplateError => format!("not rendered: {}", note.detail),
            NotSentReason::BadArgument => note.detail.clone(),
            NotSentReason::NotTrusted => format!("refused: {}", note.detail),
            NotSentReason::TooManyTimers => format!("does not wait: {}", note.detail),
            NotSentReason::TooManyHops => {
                format!("not made, the chain is too long: {}", note.detail)
            }
        };
        let _ = writeln!(text, "    {}: {what}", note.step);
    }
    for timer in decided.begun.iter().filter(|t| t.rule == looked.rule && t.at != Place::Fire) {
        let due = clock(timer.due, decided.at, zone);
        let (path, name) = (timer.at.path(), timer.at.name());
        let _ = match &timer.at {
            Place::Rung { .. } => writeln!(text, "    {name}: at {due} unless acknowledged"),
            Place::Watch { .. } => writeln!(text, "    {path}: its `until` counts until {due}"),
            Place::Schedule { .. } => writeln!(text, "    next at {due}"),
            Place::Fire | Place::After(_) => writeln!(text, "    {path}: waits until {due}"),
        };
    }
    if let Some(cooldown) = &looked.cooldown {
        let until = clock(cooldown.until, decided.at, zone);
        let _ = writeln!(text, "    cools down until {until} unless delivery is later");
    }
}

/// A moment on the house's clock, with its day if that is not `now`'s.
pub(super) fn clock(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let at = at.to_zoned(zone.clone());
    let today = at.date() == now.to_zoned(zone.clone()).date();
    at.strftime(if today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
}

fn action_line(action: &Action, now: Timestamp, zone: &TimeZone) -> String {
    let step = &action.step;
    match &action.task {
        Task::Push { phone, message } => {
            let until = clock(action.deadline, now, zone);
            let body = match message.body.as_str() {
                "" => String::new(),
                body => format!(" {body:?}"),
            };
            let urgency = message.urgency.as_str();
            let held = match action.not_before {
                Some(end) => format!("held for quiet hours until {}, ", clock(end, now, zone)),
                None => String::new(),
            };
            let title = &message.title;
            format!("{step}: push to {phone}: {title:?}{body} ({held}{urgency}, until {until})")
        }
        Task::Command(command) => {
            let args = serde_json::Value::Object(command.args.clone());
            let until = clock(action.deadline, now, zone);
            format!("{step}: tells {} to {} {args} (until {until})", command.to, command.call)
        }
        Task::Open(wish) => {
            let until = clock(action.deadline, now, zone);
            format!("{step}: opens {} for {} news (until {until})", wish.door, wish.trust)
        }
        Task::Emit(event) => {
            let data = serde_json::Value::Object(event.data.clone());
            format!("{step}: emits {} {data}", event.kind)
        }
    }
}

impl RuleSet {
    /// Rules that wait for this type of event and did not look, each with what was different.
    pub fn near_misses(&self, event: &Event) -> Vec<(String, String)> {
        let miss = |rule: &super::Rule| {
            if rule.matchers.iter().any(|matcher| matcher.accepts(event)) {
                return None;
            }
            let close = rule.matchers.iter().find(|matcher| {
                let kinds = matcher.wanted(&Field::Type);
                let kind = Field::Type.of(event);
                kinds.is_some_and(|kinds| kinds.iter().any(|wanted| wanted.accepts(kind)))
            })?;
            let (field, wanted) = close.first_miss(event, |field| *field == Field::Type)?;
            let has = field.of(event);
            let text = format!("`when.{field}` is {}, the event has {has}", alternatives(wanted));
            Some((rule.name.to_string(), text))
        };
        self.rules.iter().filter_map(miss).collect()
    }
}

fn alternatives(wanted: &[Wanted]) -> String {
    let mut words: Vec<String> =
        wanted.iter().take(SHOWN_VALUES_MAX).map(ToString::to_string).collect();
    if wanted.len() > SHOWN_VALUES_MAX {
        words.push(format!("{} more", wanted.len() - SHOWN_VALUES_MAX));
    }
    words.join(" or ")
}
