//! The only reader of the wall clock. Everything else is handed a [`Clock`] or a moment, so that
//! tests, `portero test` and replays decide what time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// Where `now` comes from: the system, or a hand that a test moves.
#[derive(Debug, Clone)]
pub struct Clock(Hand);

#[derive(Debug, Clone)]
enum Hand {
    System,
    /// Milliseconds since the Unix epoch.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Clock {
        Clock(Hand::System)
    }

    /// A clock that stands still until [`Clock::set`].
    pub fn manual(start: Timestamp) -> Clock {
        Clock(Hand::Manual(Arc::new(AtomicI64::new(start.as_millisecond()))))
    }

    /// The moment, cut to whole milliseconds: no system reports finer, and records stay short.
    #[allow(clippy::disallowed_methods)] // The one place that may read the clock.
    pub fn now(&self) -> Timestamp {
        let ms = match &self.0 {
            Hand::System => Timestamp::now().as_millisecond(),
            Hand::Manual(ms) => ms.load(Ordering::SeqCst),
        };
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Moves a manual clock; a system clock cannot be moved and stays as it is.
    pub fn set(&self, to: Timestamp) {
        if let Hand::Manual(ms) = &self.0 {
            ms.store(to.as_millisecond(), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let start: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let clock = Clock::manual(start);
        let other = clock.clone();
        assert_eq!(clock.now(), start);
        other.set("2026-11-20T10:00:01.5Z".parse().unwrap());
        assert_eq!(clock.now().to_string(), "2026-11-20T10:00:01.5Z");
    }
}
