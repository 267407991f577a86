//! The far sides: what phones, people and the intercom saw, and the store that takes its time.

use std::collections::VecDeque;

use jiff::Timestamp;
use portero::action::ActionId;
use portero::alert::AlertId;
use portero::event::Trust;
use portero::record::Record;

/// A fault that is put in on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    None,
    /// A door's pulse leaves before its intent is durable.
    SendsBeforeDurable,
    /// A pulse without an outcome is sent again after a crash.
    ResumesPulse,
    /// Timers are lost at a restart.
    ForgetsTimers,
}

/// One pulse as the intercom saw it.
#[derive(Debug, Clone)]
pub struct Pulse {
    pub intent: ActionId,
    pub at: Timestamp,
    /// When the event behind it was received.
    pub received: Timestamp,
    pub trust: Trust,
    /// Whether its intent was durable by then.
    pub durable: bool,
}

/// One push that left.
#[derive(Debug, Clone)]
pub struct Sent {
    pub alert: Option<AlertId>,
    pub at: Timestamp,
}

/// Records on their way to the disk, in order, and those that are there.
#[derive(Default)]
pub struct Store {
    pub durable: Vec<Record>,
    waiting: VecDeque<(Timestamp, Record)>,
    last: Option<Timestamp>,
}

impl Store {
    /// Takes a record that will be durable at `ready`, never before an earlier one.
    pub fn submit(&mut self, record: Record, ready: Timestamp) {
        let ready = self.last.map_or(ready, |last| last.max(ready));
        self.last = Some(ready);
        self.waiting.push_back((ready, record));
    }

    /// The next record that is durable by `now`; what the index of it is.
    pub fn next(&mut self, now: Timestamp) -> Option<(usize, Record)> {
        let (ready, _) = self.waiting.front()?;
        if *ready > now {
            return None;
        }
        let (_, record) = self.waiting.pop_front()?;
        self.durable.push(record.clone());
        Some((self.durable.len() - 1, record))
    }

    /// When the next one is.
    pub fn wake(&self) -> Option<Timestamp> {
        self.waiting.front().map(|(ready, _)| *ready)
    }

    /// What is not durable is gone.
    pub fn crash(&mut self) {
        self.waiting.clear();
        self.last = None;
    }
}
