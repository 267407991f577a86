//! What happened at doors: who, by which rule, and how it ended. It is kept apart from all other
//! events, so that no flood of them washes it off the page. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::door::EVENTS;
use crate::event::Event;

/// Events about doors that are remembered; one takes about 500 bytes. Older ones are in the journal.
const KEPT_MAX: usize = 200;

/// The latest events about doors, the oldest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Audit(VecDeque<Arc<Event>>);

impl Audit {
    /// Takes in an event, whether or not it is about a door; whether it was one, and new.
    pub fn take(&mut self, event: &Arc<Event>) -> bool {
        let is_new = || self.0.iter().all(|known| known.id != event.id);
        if !event.kind.starts_with(EVENTS) || !is_new() {
            return false;
        }
        if self.0.len() >= KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(event.clone());
        true
    }

    /// All, the newest first.
    pub fn newest_first(&self) -> Vec<Arc<Event>> {
        self.0.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::By;
    use crate::doors::tell;

    fn event(n: usize) -> Arc<Event> {
        let now = "2026-11-20T10:00:00Z".parse().unwrap();
        Arc::new(tell::pressed("front", &By::Terminal, None, &n.to_string(), now))
    }

    #[test]
    fn it_keeps_the_latest_once_over_a_checkpoint() {
        let mut audit = Audit::default();
        assert!((0..KEPT_MAX + 5).all(|n| audit.take(&event(n))));
        let mut audit: Audit =
            serde_json::from_str(&serde_json::to_string(&audit).unwrap()).unwrap();
        assert!(!audit.take(&event(KEPT_MAX + 4)));
        let other = Event { kind: "netatmo.ring".into(), ..(*event(0)).clone() };
        assert!(!audit.take(&Arc::new(other)));
        let all = audit.newest_first();
        assert_eq!((all.len(), all[0].id), (KEPT_MAX, event(KEPT_MAX + 4).id));
    }
}
