//! How well we serve Netatmo: it bans a URL for 24 hours after more than five bad answers in a
//! row (`protocols/netatmo.md`, "Answer and ban"). Pure counters, fed by the webhook's handler.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Bad answers in a row at which a person is told: early enough to mend it before the sixth.
const RISK_AFTER: u32 = 2;

/// An answer that takes longer is as good as none: Netatmo gives up after 10 s, and the way there
/// and back takes some of it.
const SLOW_AFTER: Duration = Duration::from_secs(5);

/// Bad signatures in a row that point at a wrong secret rather than at a forger.
const BAD_SIGNATURES_AFTER: u32 = 5;

/// A forger must not make us cry wolf: one announcement in this time.
const BAD_SIGNATURES_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// Counts our own bad answers in a row.
#[derive(Debug, Default)]
pub struct BanWatch {
    bad: u32,
}

impl BanWatch {
    /// Counts one answer; true when it is time to warn, once per row of bad ones.
    pub fn answered(&mut self, status: u16, took: Duration) -> bool {
        if status == 200 && took < SLOW_AFTER {
            self.bad = 0;
            return false;
        }
        self.bad = self.bad.saturating_add(1);
        self.bad == RISK_AFTER
    }
}

/// Counts bad signatures in a row: with a wrong secret in the config Portero would be deaf.
#[derive(Debug, Default)]
pub struct BadSignatures {
    bad: u32,
    announced: Option<Timestamp>,
}

impl BadSignatures {
    /// A good one ends the row.
    pub fn good(&mut self) {
        self.bad = 0;
    }

    /// Counts a bad one; true when it is time to say so.
    pub fn bad(&mut self, now: Timestamp) -> bool {
        self.bad = self.bad.saturating_add(1);
        let recently =
            self.announced.is_some_and(|at| now.duration_since(at) < BAD_SIGNATURES_EVERY);
        if self.bad < BAD_SIGNATURES_AFTER || recently {
            return false;
        }
        self.announced = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(3);

    #[test]
    fn two_bad_answers_in_a_row_are_a_risk_said_once() {
        let mut watch = BanWatch::default();
        assert!(!watch.answered(500, QUICK));
        assert!(!watch.answered(200, QUICK));
        assert!(!watch.answered(201, QUICK));
        assert!(watch.answered(200, SLOW_AFTER));
        assert!(!watch.answered(500, QUICK));
        assert!(!watch.answered(200, QUICK));
    }

    #[test]
    fn a_wrong_secret_is_said_once_an_hour() {
        let mut signatures = BadSignatures::default();
        let start = Timestamp::UNIX_EPOCH;
        let said = |s: &mut BadSignatures, at| (0..20).filter(|_| s.bad(at)).count();
        assert_eq!(said(&mut signatures, start), 1);
        assert_eq!(said(&mut signatures, start + BAD_SIGNATURES_EVERY), 1);
        signatures.good();
        assert!(!signatures.bad(start + BAD_SIGNATURES_EVERY * 3));
    }
}
