//! When to try again, and when to give up. Pure: the answer, the moment and the deadline come in,
//! a decision goes out. The jitter derives from the action's id, so that a run can be repeated.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::action::{ActionId, Lane, Outcome};
use crate::delivery::push::Verdict;
use crate::delivery::push::payload::Form;

/// The wait after the first fault, before jitter: a service that stumbled is back within seconds,
/// and a doorbell's push lives for about a minute.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Waits double up to this: once a minute for each message is no burden to a service that has
/// been down for long, and an alarm is no later than that once it is back.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How long an alarm waits at most when a far side asks for patience: long enough that a throttled
/// phone is asked four times a minute and not on and on, short enough for whoever must hear of
/// smoke. What can wait heeds the whole wish.
pub const ALARM_HEEDS_MAX: Duration = Duration::from_secs(15);
/// Rather than give up while time is left, one last attempt is made this long before the
/// deadline: enough for a healthy service to answer.
pub const LAST_CALL: Duration = Duration::from_secs(1);

/// One attempt that has come back.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Which one it was, counted from 1.
    pub number: u32,
    /// The form that was sent.
    pub form: Form,
    /// An alarm does not end because of a service's wish to wait: its lane heeds that as far as
    /// [`ALARM_HEEDS_MAX`].
    pub lane: Lane,
    /// No attempt begins at or after it.
    pub deadline: Timestamp,
    /// Sets the jitter: [`seed_of`].
    pub seed: u64,
}

/// What follows an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is over.
    Settle(Outcome),
    /// Try again then: after now, before the deadline.
    Wait(Timestamp),
    /// Try again at once, in [`Form::Short`].
    Shorten,
}

/// The jitter's seed for an action: the same in every run.
pub fn seed_of(action: &ActionId) -> u64 {
    let (head, _) = action.0.split_first_chunk().expect("an id has 16 bytes");
    u64::from_be_bytes(*head)
}

/// Decides what follows `attempt`, which ended now with `verdict`.
pub fn next(attempt: &Attempt, verdict: &Verdict, now: Timestamp) -> Next {
    match verdict {
        Verdict::Done => Next::Settle(Outcome::Delivered),
        Verdict::Refused { why } => Next::Settle(Outcome::Refused { why: why.clone() }),
        Verdict::Gone { why } => Next::Settle(Outcome::Gone { why: why.clone() }),
        Verdict::TooBig if attempt.form == Form::Short => Next::Settle(Outcome::Refused {
            why: "the push service finds even the short form too big".into(),
        }),
        Verdict::TooBig if now < attempt.deadline => Next::Shorten,
        Verdict::TooBig => expired("the push service found it too big"),
        Verdict::Retry { after, why } => {
            let wish = after.filter(|_| attempt.lane == Lane::Normal).unwrap_or_default();
            match again_at(attempt, wish, now) {
                Some(until) => Next::Wait(until),
                None => expired(why),
            }
        }
    }
}

fn expired(last: &str) -> Next {
    Next::Settle(Outcome::Expired { last: last.to_owned() })
}

/// The moment of the next attempt; none if no sensible one is left before the deadline.
fn again_at(attempt: &Attempt, wish: Duration, now: Timestamp) -> Option<Timestamp> {
    let own = backoff(attempt.number, attempt.seed);
    let until = later(now, own.max(wish));
    if until < attempt.deadline {
        return Some(until);
    }
    let last_call = later_by(attempt.deadline, -SignedDuration::try_from(LAST_CALL).ok()?);
    (last_call >= later(now, wish.max(BACKOFF_FIRST))).then_some(last_call)
}

/// Between half and all of `BACKOFF_FIRST * 2^(number - 1)`, at most [`BACKOFF_MAX`].
pub fn backoff(number: u32, seed: u64) -> Duration {
    let doubled = 1u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX);
    let full = BACKOFF_FIRST.saturating_mul(doubled).min(BACKOFF_MAX);
    let half_ms = full.as_millis() as u64 / 2;
    let jitter_ms = mix(seed ^ u64::from(number)) % (half_ms + 1);
    Duration::from_millis(half_ms + jitter_ms)
}

/// Until when an alarm of this deadline heeds a wish to wait: one attempt is made in any case.
pub fn alarm_heeds(wish: Timestamp, deadline: Timestamp) -> Timestamp {
    let last_call = SignedDuration::try_from(LAST_CALL).unwrap_or_default();
    wish.min(later_by(deadline, -last_call))
}

/// Spreads a seed over all bits (the finaliser of SplitMix64, Steele et al. 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `moment` plus `wait`, as far as time goes.
pub fn later(moment: Timestamp, wait: Duration) -> Timestamp {
    later_by(moment, SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX))
}

fn later_by(moment: Timestamp, wait: SignedDuration) -> Timestamp {
    moment.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-20T10:00:00Z".parse().unwrap()
    }

    fn attempt(number: u32, lane: Lane, deadline_s: u64) -> Attempt {
        let deadline = later(now(), Duration::from_secs(deadline_s));
        Attempt { number, form: Form::Full, lane, deadline, seed: 7 }
    }

    fn retry(after_s: Option<u64>) -> Verdict {
        Verdict::Retry { after: after_s.map(Duration::from_secs), why: "503".into() }
    }

    /// Milliseconds until the next attempt, or the outcome's label.
    fn check(attempt: Attempt, verdict: Verdict) -> Result<i64, &'static str> {
        match next(&attempt, &verdict, now()) {
            Next::Wait(until) => Ok(until.as_millisecond() - now().as_millisecond()),
            Next::Settle(outcome) => Err(outcome.label()),
            Next::Shorten => Err("shorten"),
        }
    }

    #[test]
    fn final_answers_settle() {
        let first = || attempt(1, Lane::Normal, 60);
        let why = || "x".to_owned();
        assert_eq!(check(first(), Verdict::Done), Err("delivered"));
        assert_eq!(check(first(), Verdict::Refused { why: why() }), Err("refused"));
        assert_eq!(check(first(), Verdict::Gone { why: why() }), Err("gone"));
        assert_eq!(check(first(), Verdict::TooBig), Err("shorten"));
        let short = Attempt { form: Form::Short, ..first() };
        assert_eq!(check(short, Verdict::TooBig), Err("refused"));
        assert_eq!(check(attempt(1, Lane::Normal, 0), Verdict::TooBig), Err("expired"));
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<u64> = (1..=9).map(|n| backoff(n, 7).as_millis() as u64).collect();
        for (wait, full) in waits.iter().zip([1, 2, 4, 8, 16, 32, 60, 60, 60]) {
            assert!((full * 500..=full * 1000).contains(wait), "{waits:?}");
        }
        assert_ne!(backoff(1, 7), backoff(1, 8));
        assert_eq!(backoff(1, 7), backoff(1, 7));
        assert!(backoff(u32::MAX, 7) <= BACKOFF_MAX);
        assert!(backoff(0, 7) <= BACKOFF_FIRST);
    }

    #[test]
    fn a_services_wish_is_heeded_within_the_deadline_and_ends_no_alarm() {
        let check_s = |lane, deadline_s, after_s| {
            check(attempt(1, lane, deadline_s), retry(Some(after_s))).map(|ms| ms / 1000)
        };
        assert_eq!(check_s(Lane::Normal, 60, 30), Ok(30));
        assert_eq!(check_s(Lane::Normal, 60, 61), Err("expired"));
        assert_eq!(check_s(Lane::Normal, 60, 60), Err("expired"));
        assert!(check_s(Lane::Alarm, 60, 61).unwrap() <= 1);
    }

    #[test]
    fn one_last_call_is_made_before_the_deadline() {
        let check =
            |number, deadline_s| check(attempt(number, Lane::Normal, deadline_s), retry(None));
        assert_eq!(check(7, 20), Ok(19_000));
        assert_eq!(check(7, 2), Ok(1_000));
        assert_eq!(check(7, 1), Err("expired"));
        assert_eq!(check(1, 0), Err("expired"));
    }

    proptest! {
        #[test]
        fn no_attempt_begins_at_or_after_the_deadline_and_all_come_to_an_end(
            seed: u64, deadline_s in 0u64..100_000, after_s in proptest::option::of(0u64..10_000),
            alarm: bool,
        ) {
            let lane = if alarm { Lane::Alarm } else { Lane::Normal };
            let start = Attempt { seed, ..attempt(1, lane, deadline_s) };
            let (mut at, mut number) = (now(), 1);
            while let Next::Wait(until) =
                next(&Attempt { number, ..start }, &retry(after_s), at)
            {
                prop_assert!(until > at && until < start.deadline);
                (at, number) = (until, number + 1);
                prop_assert!(number < 100 + 2 * deadline_s as u32);
            }
        }
    }
}
