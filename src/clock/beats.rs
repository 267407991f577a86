//! When the process stood still: stopped by a signal, swapped out, or paused with its machine. What
//! is read right after lay somewhere for nobody knows how long, though it is stamped as new. Pure:
//! moments go in, and whether a moment is in doubt comes out.

use std::collections::VecDeque;
use std::time::Duration;

use super::Reading;

/// How often a clock beats: often enough that a standstill is told from load to a quarter second.
pub(super) const BEAT_EVERY: Duration = Duration::from_millis(250);
/// Beats further apart than this were kept apart by a standstill: load delays a thread that sleeps
/// by less, and news that waited for less is young enough for any door but the strictest.
pub(super) const APART_MS_MAX: i64 = 3000;
/// What is read so long after a standstill may have waited for its end. Sockets are drained at
/// once; this leaves time to those that come last.
pub(super) const DRAINED_MS: i64 = 2000;
/// Standstills remembered, the last ones. They last over [`APART_MS_MAX`] each, so that all that
/// lies before the first is older than any door takes.
pub(super) const STANDSTILLS_MAX: usize = 64;

/// The beats of one clock; a clock that never beat knows of no standstill.
#[derive(Debug, Default)]
pub(super) struct Beats {
    last: Option<Reading>,
    standstills: VecDeque<Standstill>,
    /// Before this moment standstills were forgotten, so that all of it is in doubt.
    forgotten: Option<i64>,
}

/// From the last beat before it to the first one after it, by the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Standstill {
    from: i64,
    to: i64,
}

impl Beats {
    /// The clock beats. How long the process stood still since the last beat, if it did.
    pub(super) fn beat(&mut self, now: Reading) -> Option<Duration> {
        let stood = self.standstill(now);
        let length = stood.and_then(|_| self.apart(now));
        self.last = Some(now);
        let stood = stood?;
        if self.standstills.len() == STANDSTILLS_MAX {
            let gone = self.standstills.pop_front();
            self.forgotten = gone.map(|gone| gone.to.saturating_add(DRAINED_MS));
        }
        self.standstills.push_back(stood);
        length.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis)
    }

    /// Whether what was read between these two moments, by the monotonic clock, may have waited
    /// for the end of a standstill: one that is known, or one that no beat has noticed yet.
    pub(super) fn in_doubt(&self, earliest: i64, latest: i64, now: Reading) -> bool {
        let touches = |stood: &Standstill| {
            latest >= stood.from && earliest <= stood.to.saturating_add(DRAINED_MS)
        };
        self.forgotten.is_some_and(|before| earliest < before)
            || self.standstills.iter().any(touches)
            || self.standstill(now).is_some_and(|stood| touches(&stood))
    }

    /// The standstill that has just ended, if there was one since the last beat.
    fn standstill(&self, now: Reading) -> Option<Standstill> {
        self.apart(now).filter(|apart| *apart > APART_MS_MAX)?;
        self.last.map(|last| Standstill { from: last.steady, to: now.steady })
    }

    /// How far the last beat is away. A machine that slept shows it only in its wall clock.
    fn apart(&self, now: Reading) -> Option<i64> {
        let last = self.last?;
        Some(now.steady.saturating_sub(last.steady).max(now.wall.saturating_sub(last.wall)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment of clocks that agree.
    fn at(ms: i64) -> Reading {
        Reading { wall: ms, steady: ms }
    }

    /// Beats at all of these.
    fn beats(all: impl IntoIterator<Item = i64>) -> Beats {
        let mut beats = Beats::default();
        for ms in all {
            beats.beat(at(ms));
        }
        beats
    }

    fn doubted(beats: &Beats, read: i64, now: i64) -> bool {
        beats.in_doubt(read, read, at(now))
    }

    #[test]
    fn a_clock_that_never_beat_doubts_nothing() {
        assert!(!doubted(&Beats::default(), 0, 1_000_000));
    }

    #[test]
    fn load_is_no_standstill() {
        let mut beats = beats([0, 250, 500]);
        assert_eq!(beats.beat(at(500 + APART_MS_MAX)), None);
        assert!(!doubted(&beats, 600, 3600));
        assert_eq!(beats.beat(at(3501 + APART_MS_MAX)), Some(Duration::from_millis(3001)));
    }

    #[test]
    fn what_is_read_in_a_standstill_or_right_after_is_in_doubt() {
        let beats = beats([0, 250, 20_000, 20_250, 22_500]);
        for (read, expected) in [
            (249, false),
            (250, true),
            (10_000, true),
            (20_000, true),
            (22_000, true),
            (22_001, false),
        ] {
            assert_eq!(doubted(&beats, read, 22_600), expected, "{read}");
        }
        // Nobody knows exactly when it was read.
        assert!(beats.in_doubt(100, 250, at(22_600)) && beats.in_doubt(22_000, 22_300, at(22_600)));
    }

    #[test]
    fn a_standstill_counts_before_any_beat_notices_it() {
        let beats = beats([0, 250]);
        assert!(!doubted(&beats, 300, 3250));
        assert!(doubted(&beats, 300, 3251) && doubted(&beats, 3251, 3251));
        // What was read before has the age that it has.
        assert!(!doubted(&beats, 200, 3251));
    }

    #[test]
    fn a_machine_that_slept_stood_still_too() {
        let mut beats = beats([0, 250]);
        let woken = Reading { wall: 60_000, steady: 300 };
        assert!(beats.in_doubt(300, 300, woken));
        assert_eq!(beats.beat(woken), Some(Duration::from_millis(59_750)));
        let later = |ms| Reading { wall: 59_700 + ms, steady: ms };
        assert!(beats.in_doubt(2300, 2300, later(2400)));
        assert!(!beats.in_doubt(2301, 2301, later(2400)));
        // A clock that is put back shows no standstill.
        assert_eq!(beats.beat(at(2500)), None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_stays_in_doubt() {
        let apart = 10_000;
        let count = 3 * i64::try_from(STANDSTILLS_MAX).unwrap();
        let beats = beats((0..=count).map(|n| n * apart));
        assert_eq!(beats.standstills.len(), STANDSTILLS_MAX);
        for read in (0..count * apart).step_by(500) {
            assert!(doubted(&beats, read, count * apart), "{read}");
        }
        assert!(!doubted(&beats, count * apart + DRAINED_MS + 1, count * apart + DRAINED_MS + 1));
    }
}
