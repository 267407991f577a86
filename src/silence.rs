//! Notices sources that fell silent, apart from the sources themselves: a driver that hangs cannot
//! say so. [`Watch`] is pure; [`watch`] is the thin loop that feeds it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::event::{Event, Heard, own_event};
use crate::intake::Intake;
use crate::record::{Becomes, Known, KnownChange};

/// A source was not heard for as long as it may be silent.
pub const SILENT: &str = "portero.source.silent";
/// A source that was silent is heard again.
pub const HEARD: &str = "portero.source.heard";

/// After a start a source may take this long to be heard, or as long as it may be silent if that
/// is less: a restart takes seconds, and connecting again a few minutes at worst.
const GRACE_MOST: Duration = Duration::from_secs(10 * 60);
/// A silence that has outlasted the grace already is not spared by the next start, or a program
/// that starts again and again would never say it. This long drivers may take in any case.
const SETTLE: Duration = Duration::from_secs(60);
/// How often is looked; the shortest silence worth an alarm lasts minutes.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The most that one look adds to a silence. More has passed only if the clock jumped or the
/// machine slept, and then nobody was listening.
const LOOK_ADDS_MOST: Duration = Duration::from_secs(60);

/// Every watched source.
#[derive(Debug)]
pub struct Watch {
    sources: BTreeMap<String, Source>,
    looked: Timestamp,
}

#[derive(Debug)]
struct Source {
    silent_after: Duration,
    /// When it was last heard, if it ever was.
    last_heard: Option<Timestamp>,
    /// Its last sign of life since the start.
    contact: Option<Timestamp>,
    /// How long it was silent when we started.
    before: Duration,
    /// How long it has been silent since then, or since its last sign of life: a sum of the times
    /// between looks, so that a clock that jumps changes it by one look at most.
    quiet: Duration,
    /// Whether its silence was raised and is not over.
    is_silent: bool,
}

impl Watch {
    /// Watches these sources from `start` on, each allowed to be silent for so long.
    /// `last_heard_before` is when each was last heard before the start, as far as known; for one
    /// whose silence was raised, the `last_heard` of that event, or it is raised again.
    pub fn new(
        silent_after: BTreeMap<String, Duration>,
        last_heard_before: BTreeMap<String, Timestamp>,
        start: Timestamp,
    ) -> Watch {
        let source = |(name, silent_after): (String, Duration)| {
            let last_heard = last_heard_before.get(&name).copied();
            // Before a clock that was ahead is put right, the past can lie in the future.
            let before = last_heard.map_or(Duration::ZERO, |at| between(at, start));
            let (contact, quiet, is_silent) = (None, Duration::ZERO, false);
            (name, Source { silent_after, last_heard, contact, before, quiet, is_silent })
        };
        Watch { sources: silent_after.into_iter().map(source).collect(), looked: start }
    }

    /// The silence of these sources was raised before the start and was not over: it is not raised
    /// again, and its end is told.
    pub fn still_silent<'a>(mut self, sources: impl IntoIterator<Item = &'a str>) -> Watch {
        for name in sources {
            if let Some(source) = self.sources.get_mut(name) {
                source.is_silent = true;
            }
        }
        self
    }

    /// The watched sources.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// Looks at all sources; `contact` is each one's last sign of life since the start.
    pub fn look(
        &mut self,
        contact: impl Fn(&str) -> Option<Timestamp>,
        now: Timestamp,
    ) -> Vec<Event> {
        let passed = between(self.looked, now).min(LOOK_ADDS_MOST);
        self.looked = now;
        let sources = self.sources.iter_mut();
        sources.filter_map(|(name, source)| source.look(name, contact(name), passed, now)).collect()
    }
}

impl Source {
    fn look(
        &mut self,
        name: &str,
        contact: Option<Timestamp>,
        passed: Duration,
        now: Timestamp,
    ) -> Option<Event> {
        // Another moment than last time is a sign of life, whichever way the clock went.
        if contact.is_some() && contact != self.contact {
            let was_silent = std::mem::take(&mut self.is_silent);
            let event = was_silent.then(|| self.event(HEARD, name, now));
            self.contact = contact;
            self.last_heard = contact;
            self.quiet = Duration::ZERO;
            return event;
        }
        self.quiet = self.quiet.saturating_add(passed);
        if self.is_silent || !self.is_too_long() {
            return None;
        }
        self.is_silent = true;
        Some(self.event(SILENT, name, now))
    }

    fn is_too_long(&self) -> bool {
        if self.contact.is_some() {
            return self.quiet >= self.silent_after;
        }
        let all = self.before.saturating_add(self.quiet);
        let grace = self.silent_after.min(GRACE_MOST);
        let is_spared = self.quiet < grace;
        let outlasted = all >= self.silent_after.saturating_add(grace) && self.quiet >= SETTLE;
        all >= self.silent_after && (!is_spared || outlasted)
    }

    /// The same silence has the same id, before and after a restart; so has its end.
    fn event(&self, kind: &str, name: &str, now: Timestamp) -> Event {
        let last_heard = self.last_heard.map(|at| at.to_string());
        let unique = format!("{name} {}", last_heard.as_deref().unwrap_or("never"));
        let mut data = Map::new();
        data.insert("source".into(), name.into());
        data.insert("last_heard".into(), last_heard.map_or(Value::Null, Value::from));
        data.insert("silent_after_s".into(), self.silent_after.as_secs().into());
        let mut event = own_event(kind, &unique, data, now);
        event.subject = Some(name.to_string());
        event
    }
}

/// From one moment to a later one; nothing if it is not later.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Looks every few seconds until Portero stops.
pub async fn watch(intake: Intake, mut watch: Watch, stopping: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    // After a pause one look tells as much as many.
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased; // To stop goes before the next look.
            () = stopping.cancelled() => return,
            _ = looks.tick() => {}
        }
        let raised = watch.look(|source| intake.last_contact(source), intake.clock().now());
        for event in &raised {
            let source = event.subject.as_deref().unwrap_or_default();
            if event.kind == SILENT {
                tracing::warn!(source, last_heard = %event.data["last_heard"], "silent");
            } else {
                tracing::info!(source, "heard again");
            }
        }
        for event in raised {
            let known = known(&event);
            intake.report(known, vec![Heard::from(event)]).await;
        }
    }
}

/// Where rules and the next start read that a source is silent: `<source>/silent`.
pub fn path(source: &str) -> String {
    format!("{source}/silent")
}

/// What a raised event makes known of its source.
fn known(event: &Event) -> Option<Known> {
    let source = event.subject.clone()?;
    let to = match event.kind == SILENT {
        true => Becomes::Is(Value::Object(event.data.clone())),
        false => Becomes::Gone,
    };
    let changes = vec![KnownChange { path: path(&source), to }];
    Some(Known { source, trust: event.trust, at: event.received, changes })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    const HOUR: u64 = 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).unwrap()
    }

    fn watch_one(silent_after_s: u64, before: Option<i64>, start: i64) -> Watch {
        let silent_after = [("vms/block".to_string(), Duration::from_secs(silent_after_s))];
        let before = before.map(|before| ("vms/block".to_string(), at(before)));
        Watch::new(silent_after.into(), before.into_iter().collect(), at(start))
    }

    /// Looks every ten seconds and says when what was raised, and the ids.
    fn run(
        watch: &mut Watch,
        from: i64,
        to: i64,
        contact: impl Fn(i64) -> Option<i64>,
    ) -> Vec<(i64, Event)> {
        let looks = (from..=to).step_by(10);
        let raised = looks.flat_map(|now| {
            let events = watch.look(|_| contact(now).map(at), at(now));
            events.into_iter().map(move |event| (now, event)).collect::<Vec<_>>()
        });
        raised.collect()
    }

    fn kinds(raised: &[(i64, Event)]) -> Vec<(i64, &str)> {
        raised.iter().map(|(at, event)| (*at, event.kind.as_str())).collect()
    }

    #[test]
    fn a_silence_is_raised_once_and_so_is_its_end() {
        let mut watch = watch_one(300, None, 0);
        let contact = |now: i64| Some(if now < 1000 { now.min(100) } else { now });
        let raised = run(&mut watch, 0, 2000, contact);
        assert_eq!(kinds(&raised), [(400, SILENT), (1000, HEARD)]);
        let silent = &raised[0].1;
        assert_eq!(silent.subject.as_deref(), Some("vms/block"));
        assert_eq!(silent.data["source"], "vms/block");
        assert_eq!(silent.data["last_heard"], at(100).to_string());
        assert_eq!(silent.data["silent_after_s"], 300);
        assert_ne!(silent.id, raised[1].1.id);
    }

    #[test]
    fn one_that_was_never_heard_is_silent_too() {
        let raised = run(&mut watch_one(2 * HOUR, None, 0), 0, 9000, |_| None);
        assert_eq!(kinds(&raised), [(7200, SILENT)]);
        assert_eq!(raised[0].1.data["last_heard"], Value::Null);
    }

    #[test]
    fn a_restart_does_not_alarm_at_once() {
        // Heard 50 minutes before the start, and an hour is too long: ten minutes are left anyway.
        let raised = run(&mut watch_one(HOUR, Some(-3000), 0), 0, 5000, |_| None);
        assert_eq!(kinds(&raised), [(600, SILENT)]);
        // Five minutes may pass, four have: the grace is no longer than the five.
        let raised = run(&mut watch_one(300, Some(-240), 0), 0, 5000, |_| None);
        assert_eq!(kinds(&raised), [(300, SILENT)]);
        // It comes back in time.
        let contact = |now: i64| (now >= 120).then_some(now);
        assert!(run(&mut watch_one(300, Some(-290), 0), 0, 5000, contact).is_empty());
    }

    #[test]
    fn a_program_that_restarts_again_and_again_alarms_all_the_same() {
        let mut raised = Vec::new();
        for start in (0..7200).step_by(300) {
            let mut watch = watch_one(HOUR, Some(0), start);
            raised.extend(run(&mut watch, start, start + 290, |_| None));
        }
        // An hour, the grace of ten minutes, and a minute after the next start. Afterwards every
        // start says it again, by the same id.
        assert_eq!(raised[0].0, 4260);
        assert!(raised.iter().all(|(_, event)| event.id == raised[0].1.id));
    }

    #[test]
    fn a_silence_from_before_the_start_ends_with_word_of_it() {
        let mut watch = watch_one(300, Some(-900), 0).still_silent(["vms/block", "other"]);
        let raised = run(&mut watch, 0, 1000, |now| (now >= 100).then_some(100));
        assert_eq!(kinds(&raised), [(100, HEARD), (400, SILENT)]);
    }

    #[test]
    fn a_clock_that_jumps_makes_no_silence_and_hides_none() {
        let mut watch = watch_one(600, None, 0);
        assert!(run(&mut watch, 0, 100, Some).is_empty());
        // A day ahead, and back: contacts go on meanwhile.
        assert!(run(&mut watch, 86_400, 86_500, Some).is_empty());
        assert!(run(&mut watch, 200, 300, Some).is_empty());
        // A jump ahead in a silence counts as one look.
        let mut raised = run(&mut watch, 310, 400, |_| Some(300));
        assert!(raised.is_empty());
        raised = run(&mut watch, 90_000, 91_000, |_| Some(300));
        assert_eq!(kinds(&raised), [(90_440, SILENT)]);
        // A jump back in a silence loses one look.
        let mut watch = watch_one(600, None, 0);
        run(&mut watch, 0, 300, |_| Some(0));
        let raised = run(&mut watch, -1000, 0, |_| Some(0));
        assert_eq!(kinds(&raised), [(-700, SILENT)]);
    }

    #[test]
    fn a_last_sign_from_the_future_counts_as_now() {
        let raised = run(&mut watch_one(300, Some(99_999), 0), 0, 1000, |_| None);
        assert_eq!(kinds(&raised), [(300, SILENT)]);
        assert_eq!(between(at(5), at(0)), Duration::ZERO);
        assert_eq!(at(1).duration_since(at(0)), SignedDuration::from_secs(1));
    }
}
