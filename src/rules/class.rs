//! What is about an alarm.

use super::RuleSet;
use crate::event::Event;

impl RuleSet {
    /// Whether an urgent rule looks at it, or it is about an acknowledgement or a door.
    pub fn is_about_alarm(&self, event: &Event) -> bool {
        event.kind.starts_with("portero.door.") || event.kind == "netatmo.smoke"
    }
}
