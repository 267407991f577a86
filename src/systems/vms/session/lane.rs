//! How one kind of question fares: calls, intercoms and the login each have their own, so that one
//! that fails holds up no other. Pure.

use std::time::Duration;

use crate::systems::backoff::Backoff;

/// The first wait after a failure.
const WAIT_LEAST: Duration = Duration::from_secs(1);
/// What is refused for so long is no hiccup any more: then the link is said to be down.
const REFUSED_MOST: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    hold_until: Duration,
    backoff: Backoff,
    failing: Option<Failing>,
}

/// Failures in a row.
#[derive(Debug)]
struct Failing {
    since: Duration,
    count: u32,
    is_grave: bool,
    why: String,
}

impl Lane {
    /// One whose failures in a row wait from a second up to `most`.
    pub(super) fn new(most: Duration, seed: u64) -> Lane {
        let backoff = Backoff::new(WAIT_LEAST, most, seed);
        Lane { hold_until: Duration::ZERO, backoff, failing: None }
    }

    /// Nothing is asked before.
    pub(super) fn hold_until(&self) -> Duration {
        self.hold_until
    }

    /// Waits at least so long from now.
    pub(super) fn hold(&mut self, wait: Duration, now: Duration) {
        self.hold_until = self.hold_until.max(now.saturating_add(wait));
    }

    /// It failed: the next question waits, as long as `wait` says or longer each time. A `grave`
    /// failure means that nobody who can be talked to is there.
    pub(super) fn failed(
        &mut self,
        why: &str,
        is_grave: bool,
        wait: Option<Duration>,
        now: Duration,
    ) {
        let wait = wait.unwrap_or_else(|| self.backoff.next_wait());
        self.hold(wait, now);
        let failing = self.failing.get_or_insert(Failing {
            since: now,
            count: 0,
            is_grave,
            why: String::new(),
        });
        let is_same = failing.is_grave == is_grave;
        failing.count = if is_same { failing.count.saturating_add(1) } else { 1 };
        (failing.is_grave, failing.why) = (is_grave, why.to_string());
    }

    /// It was answered.
    pub(super) fn worked(&mut self) {
        self.backoff.reset();
        self.failing = None;
    }

    /// How often in a row it failed in the same way.
    pub(super) fn failures(&self) -> u32 {
        self.failing.as_ref().map_or(0, |failing| failing.count)
    }

    /// Why the link is down, if it is because of this.
    pub(super) fn trouble(&self, now: Duration) -> Option<&str> {
        let failing = self.failing.as_ref()?;
        let is_long = now.saturating_sub(failing.since) >= REFUSED_MOST;
        (failing.is_grave || is_long).then_some(failing.why.as_str())
    }
}
