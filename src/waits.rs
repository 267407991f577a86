//! When the router looks at its timers. Pure but for the moments it is handed: the wall clock's,
//! by which timers are due, and the steady clock's, by which the start is counted.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::event::Event;
use crate::ledger::Ledger;
use crate::timer::{Timer, TimerId};

/// The longest sleep: the wall clock may be set while we sleep.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// What came due while nobody looked waits this long for the systems to connect, so that it is
/// decided by what is true now. Most are connected in a second or two.
const RECONNECT_WITHIN: Duration = Duration::from_secs(10);
/// From then on they have this long to say how things are: most answer in a moment.
const SETTLE_WITHIN: Duration = Duration::from_secs(3);
/// How often that is looked at.
const RECONNECT_LOOK_EVERY: Duration = Duration::from_millis(200);
/// What is said to be due and not decided yet is said again after this long: the way there may
/// have failed. Saying it twice changes nothing.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Which timers were said to be due.
#[derive(Debug)]
pub struct Waits {
    said: HashSet<TimerId>,
    /// Of these it was said before, and nothing came of it.
    again: HashSet<TimerId>,
    said_at: Instant,
    /// What is overdue waits for systems to tell how they are.
    hold: Option<Hold>,
}

/// Why nothing is due yet after a start.
#[derive(Debug)]
struct Hold {
    /// The end of waiting for connections.
    until: Instant,
    /// The last word about a connection before the start.
    last: Timestamp,
    /// Since when all systems are connected.
    connected: Option<Instant>,
}

impl Waits {
    /// Just started: if something is overdue, the systems are given a moment.
    pub fn after_start(ledger: &Ledger, up: Instant) -> Waits {
        let links = ledger.memory.known().iter().filter(|(path, _)| path.ends_with("/link"));
        let last = links.map(|(_, entry)| entry.at).max();
        let hold = last.map(|last| Hold { until: up + RECONNECT_WITHIN, last, connected: None });
        Waits { said: HashSet::new(), again: HashSet::new(), said_at: up, hold }
    }

    /// How long the router may sleep.
    pub fn sleep(&self, ledger: &Ledger, now: Timestamp, up: Instant) -> Duration {
        let Some(due) = ledger.memory.timers().next_due() else { return LOOK_EVERY };
        if due <= now {
            let waits = self.hold.is_some() && self.is_held(ledger, up);
            let new = ledger.memory.timers().due(now).any(|timer| !self.said.contains(&timer.id));
            return match (waits, new) {
                (true, _) => RECONNECT_LOOK_EVERY,
                (false, true) => Duration::ZERO,
                (false, false) => LOOK_EVERY.min(AGAIN_AFTER),
            };
        }
        let left = due.duration_since(now);
        Duration::try_from(left).unwrap_or(LOOK_EVERY).min(LOOK_EVERY)
    }

    /// The events that say which timers are due; each timer's once in a while.
    pub fn due(&mut self, ledger: &Ledger, now: Timestamp, up: Instant) -> Vec<Event> {
        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.are_connected(ledger)) {
            hold.connected.get_or_insert(up);
        }
        if self.is_held(ledger, up) {
            return Vec::new();
        }
        self.hold = None;
        if up.saturating_duration_since(self.said_at) > AGAIN_AFTER {
            self.again = std::mem::take(&mut self.said);
            self.said_at = up;
        }
        let timers = ledger.memory.timers();
        self.said.retain(|id| timers.get(*id).is_some());
        let new: Vec<_> = timers.due(now).filter(|timer| !self.said.contains(&timer.id)).collect();
        self.said.extend(new.iter().map(|timer| timer.id));
        let say = |timer: &Timer| match self.again.contains(&timer.id) {
            true => timer.due_again(now),
            false => timer.due_event(now),
        };
        new.into_iter().map(say).collect()
    }

    /// Whether a system may not yet have said how things are.
    fn is_held(&self, ledger: &Ledger, up: Instant) -> bool {
        let Some(hold) = &self.hold else { return false };
        match hold.connected {
            Some(connected) => up < connected + SETTLE_WITHIN,
            None => up < hold.until || hold.are_connected(ledger),
        }
    }
}

impl Hold {
    /// Whether every system has said since the start that it is connected.
    fn are_connected(&self, ledger: &Ledger) -> bool {
        let links = ledger.memory.known().iter().filter(|(path, _)| path.ends_with("/link"));
        let mut links = links.map(|(_, entry)| entry);
        links.all(|link| link.at > self.last && link.value["up"] == true)
    }
}
