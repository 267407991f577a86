//! The last drill of each phone: how far its notification came, and when. A fold; what a drill is
//! stands in [`crate::builtin`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::ActionId;

/// How one phone did in its last drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// The notification.
    pub action: ActionId,
    /// When it was decided.
    pub sent: Timestamp,
    /// When the push service took it.
    pub accepted: Option<Timestamp>,
    /// When the phone showed it, by its own word.
    pub shown: Option<Timestamp>,
    /// Why the push service did not get it.
    pub failed: Option<String>,
}

impl Drill {
    /// A drill that has just begun.
    pub fn begun(action: ActionId, sent: Timestamp) -> Drill {
        Drill { action, sent, accepted: None, shown: None, failed: None }
    }

    /// Seconds from the decision to a moment.
    fn after_s(&self, at: Option<Timestamp>) -> Option<f64> {
        let ms = at?.duration_since(self.sent).as_millis().max(0);
        Some(ms as f64 / 1000.0)
    }

    /// As the page and the command line show it.
    pub fn to_json(&self) -> Value {
        json!({
            "action": self.action,
            "sent": self.sent,
            "accepted_after_s": self.after_s(self.accepted),
            "shown_after_s": self.after_s(self.shown),
            "failed": self.failed,
        })
    }
}
