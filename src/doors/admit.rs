//! Whether a door may open now: the last word, given right before the command leaves, whatever
//! was decided before. It trusts nothing that it can check, and refuses whatever is in doubt.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::Doubt;
use crate::door::{Door, Opening, Rate};
use crate::event::Trust;
use crate::node::duration_text;

/// A source's clock may be ahead of ours by so much; beyond it, one of the two is wrong.
const AHEAD_MAX: SignedDuration = SignedDuration::from_secs(2);

/// The moment at which a door is asked for.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// By the wall clock.
    pub now: Timestamp,
    /// By the clock that nobody sets.
    pub steady: Duration,
    /// How old the news is, by the monotonic clock ([`crate::clock::Clock::age`]).
    pub age: Result<Duration, Doubt>,
}

/// What is remembered of one door.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// When it was told to open, oldest first, by the clock that nobody sets; before the start it
    /// was below 0.
    opened: VecDeque<SignedDuration>,
    /// Nobody knows yet how the last command ended.
    on_way: bool,
}

/// Why a door stays shut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The config has no such door.
    #[error("the config has no such door any more")]
    NoDoor,
    /// The decision is not durable.
    #[error("the journal cannot be written, and without it no door opens")]
    NoJournal,
    /// The event is not a live one.
    #[error("the event is caught up, replayed or a test")]
    Marked,
    /// Not vouched for well enough.
    #[error("what led to it is only {has}, and the door requires {needs}")]
    TrustTooLow {
        /// The least trust of all that led to it.
        has: Trust,
        /// What the door requires.
        needs: Trust,
    },
    /// Nobody knows how old it is.
    #[error("{0}")]
    Doubt(#[from] Doubt),
    /// The news is too old.
    #[error("the news is {} old, and the door takes it for {}", span(.0), span(.1))]
    TooOld(Duration, Duration),
    /// The news is too old by its source's clock.
    #[error("by its source's clock it happened {} ago, and the door takes it for {}", span(.0), span(.1))]
    TooOldAtSource(Duration, Duration),
    /// It has not happened yet, by its source's clock.
    #[error("by its source's clock it is still to come, so that nobody knows how old it is")]
    Ahead,
    /// Another command for it is on its way.
    #[error("it is already on its way")]
    OnItsWay,
    /// It opened often enough.
    #[error("it opened too often: at most {0}")]
    TooOften(Rate),
    /// Portero stops.
    #[error("Portero stops")]
    Stopping,
}

fn span(span: &Duration) -> String {
    // Tenths of a second are all that a person can make something of.
    let tenths = u64::try_from(span.as_millis() / 100).unwrap_or(u64::MAX);
    duration_text(Duration::from_millis(tenths.saturating_mul(100)))
}

impl Why {
    /// The word in metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Why::NoDoor => "no_door",
            Why::NoJournal => "no_journal",
            Why::Marked => "marked",
            Why::TrustTooLow { .. } => "trust_too_low",
            Why::Doubt(_) | Why::Ahead => "doubt",
            Why::TooOld(..) | Why::TooOldAtSource(..) => "too_old",
            Why::OnItsWay => "on_its_way",
            Why::TooOften(_) => "too_often",
            Why::Stopping => "stopping",
        }
    }
}

/// Whether the door opens; if so, for how long the news stays young enough. The caller notes it in
/// the memory by [`Memory::sent`].
pub fn admit(door: &Door, wish: &Opening, at: &At, memory: &Memory) -> Result<Duration, Why> {
    if !wish.marks.is_plain() {
        return Err(Why::Marked);
    }
    if wish.trust < door.requires {
        return Err(Why::TrustTooLow { has: wish.trust, needs: door.requires });
    }
    let age = at.age?;
    if age > door.max_age {
        return Err(Why::TooOld(age, door.max_age));
    }
    let mut left = door.max_age - age;
    // A signature that covers no time makes a time no better.
    if let Some(time) = wish.time.filter(|_| wish.trust >= Trust::Fresh) {
        left = left.min(left_at_source(door, time, at.now)?);
    }
    if memory.on_way {
        return Err(Why::OnItsWay);
    }
    if memory.count(door.max_rate.per, at.steady) >= door.max_rate.times {
        return Err(Why::TooOften(door.max_rate));
    }
    Ok(left)
}

fn left_at_source(door: &Door, time: Timestamp, now: Timestamp) -> Result<Duration, Why> {
    let age = now.duration_since(time);
    if age < -AHEAD_MAX {
        return Err(Why::Ahead);
    }
    let age = Duration::try_from(age).unwrap_or_default();
    door.max_age.checked_sub(age).ok_or(Why::TooOldAtSource(age, door.max_age))
}

// === impl Memory ===

impl Memory {
    /// As an earlier run left it: when the door opened, by the wall clock. What seems still to come,
    /// since that clock was set, counts as now.
    pub fn restore(
        opened: impl IntoIterator<Item = Timestamp>,
        now: Timestamp,
        steady: Duration,
    ) -> Memory {
        let steady_at =
            |at| signed(steady).saturating_sub(now.duration_since(at).max(SignedDuration::ZERO));
        Memory { opened: opened.into_iter().map(steady_at).collect(), on_way: false }
    }

    /// The door is told to open.
    pub fn sent(&mut self, door: &Door, at: Duration) {
        self.on_way = true;
        self.opened.push_back(signed(at));
        while self.opened.len() > door.max_rate.times as usize {
            self.opened.pop_front();
        }
    }

    /// It is known how that ended, or that nobody will ever know.
    pub fn ended(&mut self) {
        self.on_way = false;
    }

    fn count(&self, per: Duration, now: Duration) -> u32 {
        let recent = |at: &&SignedDuration| signed(now).saturating_sub(**at) < signed(per);
        let recent = self.opened.iter().filter(recent).count();
        u32::try_from(recent).unwrap_or(u32::MAX)
    }
}

fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests;
