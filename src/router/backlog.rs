//! What the router has heard and not dealt with yet: events to decide and durable decisions to act
//! upon. What is about an alarm or a door overtakes the rest, so that no flood stands before it.
//! Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::action::{Lane, Task};
use crate::event::Event;
use crate::record::{Decided, Position};

/// One thing to do.
#[derive(Debug)]
pub enum Work {
    /// Ask the rules about an event; whether older ones still wait.
    Decide(Position, Arc<Event>, bool),
    /// Carry out a durable decision.
    Act(Arc<Decided>),
}

/// Everything that waits.
#[derive(Debug, Default)]
pub struct Backlog {
    urgent: Waiting,
    rest: Waiting,
}

#[derive(Debug, Default)]
struct Waiting {
    act: VecDeque<Arc<Decided>>,
    /// In the journal's order.
    decide: VecDeque<(Position, Arc<Event>)>,
}

impl Backlog {
    /// An event that the rules have not been asked about.
    pub fn decide(&mut self, at: Position, event: Arc<Event>, is_urgent: bool) {
        let waiting = if is_urgent { &mut self.urgent } else { &mut self.rest };
        waiting.decide.push_back((at, event));
    }

    /// A durable decision that was not acted upon.
    pub fn act(&mut self, decided: Arc<Decided>) {
        let waiting = if is_urgent(&decided) { &mut self.urgent } else { &mut self.rest };
        waiting.act.push_back(decided);
    }

    /// The next thing to do: what is urgent first, and of that what is nearest to its end.
    pub fn pop(&mut self) -> Option<Work> {
        if let Some(decided) = self.urgent.act.pop_front() {
            return Some(Work::Act(decided));
        }
        if let Some((at, event)) = self.urgent.decide.pop_front() {
            let is_ahead = self.rest.oldest().is_some_and(|oldest| oldest < at);
            return Some(Work::Decide(at, event, is_ahead));
        }
        if let Some(decided) = self.rest.act.pop_front() {
            return Some(Work::Act(decided));
        }
        let (at, event) = self.rest.decide.pop_front()?;
        Some(Work::Decide(at, event, false))
    }

    /// The oldest event that the rules have not been asked about.
    pub fn oldest(&self) -> Option<Position> {
        [self.urgent.oldest(), self.rest.oldest()].into_iter().flatten().min()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        [&self.urgent, &self.rest].iter().all(|w| w.act.is_empty() && w.decide.is_empty())
    }
}

impl Waiting {
    fn oldest(&self) -> Option<Position> {
        self.decide.front().map(|(at, _)| *at)
    }
}

/// Whether somebody waits for it at once.
fn is_urgent(decided: &Decided) -> bool {
    let counts = |task: &Task| matches!(task, Task::Open(_));
    !decided.acked.is_empty()
        || decided.actions.iter().any(|a| a.lane == Lane::Alarm || counts(&a.task))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::own_event;

    fn event(at: u64) -> Arc<Event> {
        let now = "2026-11-20T10:00:00Z".parse().unwrap();
        Arc::new(own_event("portero.test", &at.to_string(), serde_json::Map::new(), now))
    }

    fn rest(backlog: &mut Backlog) -> Vec<(u64, bool)> {
        let mut order = Vec::new();
        while let Some(work) = backlog.pop() {
            match work {
                Work::Decide(at, _, is_ahead) => order.push((at.0, is_ahead)),
                Work::Act(decided) => order.push((decided.seen.0 + 1000, false)),
            }
        }
        order
    }

    #[test]
    fn alarms_overtake_and_say_so() {
        let mut backlog = Backlog::default();
        for (at, is_urgent) in [(1, false), (2, true), (3, false), (4, true)] {
            backlog.decide(Position(at), event(at), is_urgent);
        }
        let decided = |at| Decided { seen: Position(at), ..Decided::default() };
        backlog.act(Arc::new(decided(0)));
        assert_eq!(backlog.oldest(), Some(Position(1)));
        let order = [(2, true), (4, true), (1000, false), (1, false), (3, false)];
        assert_eq!(rest(&mut backlog), order);
        assert!(backlog.is_empty());
        // Alone, or behind what is newer, nothing was overtaken.
        backlog.decide(Position(5), event(5), true);
        backlog.decide(Position(6), event(6), false);
        assert_eq!(rest(&mut backlog), [(5, false), (6, false)]);
    }
}
