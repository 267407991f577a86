//! The only reader of the wall clock and of the monotonic one. Everything else is handed a
//! [`Clock`] or a moment, so that tests, `portero test` and replays decide what time it is.
//!
//! The wall clock may be set at any time, by a person or by the network, and a machine that slept
//! wakes to another one. Nothing that must not happen late may trust it. So each reading is held
//! against the monotonic clock, and [`Clock::age`] says how long ago a reading was only if both
//! agree about it.
//!
//! Nor does a reading say how long the news had waited that was read then: while the process stands
//! still, news waits in sockets. So the clock of a running server beats, and what was read when
//! beats were missing has no age either.

mod beats;

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;

use self::beats::{BEAT_EVERY, Beats};

/// Wall clock and monotonic clock may drift apart by so much before the wall clock counts as set.
const DRIFT_MS_MAX: i64 = 1000;
/// How far they drift before the newer relation is noted beside the older one. Half of
/// [`DRIFT_MS_MAX`], so that slow drift is followed and never mistaken for a jump.
const DRIFT_MS_NOTED: i64 = DRIFT_MS_MAX / 2;
/// Stretches remembered: a clock that was set so often since the start is not to be trusted at
/// all, and what lies before is in doubt.
const STRETCHES_MAX: usize = 64;

/// Where `now` comes from: the system, or a hand that a test moves.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hand: Hand,
    /// Short lock, never held across an await.
    seen: Mutex<Seen>,
}

/// What readings so far have shown.
#[derive(Debug, Default)]
struct Seen {
    stretches: Stretches,
    beats: Beats,
}

#[derive(Debug)]
enum Hand {
    System {
        start: std::time::Instant,
    },
    /// Milliseconds since the Unix epoch, and since the start.
    Manual {
        wall: AtomicI64,
        steady: AtomicI64,
    },
}

/// One reading of both clocks, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Reading {
    wall: i64,
    steady: i64,
}

/// A stretch in which the wall clock went as the monotonic clock did.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// First and last wall reading.
    from: i64,
    to: i64,
    /// Wall minus monotonic.
    offset: i64,
}

#[derive(Debug, Default)]
struct Stretches {
    all: Vec<Stretch>,
    /// Wall readings of stretches that were forgotten lie between these.
    forgotten: Option<(i64, i64)>,
}

/// Why nobody can say how old something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// No reading of this process: from before the start, or from elsewhere.
    #[error("it was received before Portero started")]
    Before,
    /// The wall clock was set, or the machine slept, since then.
    #[error("the clock was set since then, so that nobody knows how old it is")]
    Jumped,
    /// The process stood still when it was read, or right before.
    #[error(
        "Portero stood still right before (or the clock was set), so that nobody knows how long \
         the news had waited"
    )]
    StoodStill,
}

impl Clock {
    /// The machine's clocks.
    #[allow(clippy::disallowed_methods)] // The one place that may read the clock.
    pub fn system() -> Clock {
        Clock::new(Hand::System { start: std::time::Instant::now() })
    }

    /// A clock that stands still until [`Clock::set`].
    pub fn manual(start: Timestamp) -> Clock {
        let wall = AtomicI64::new(start.as_millisecond());
        Clock::new(Hand::Manual { wall, steady: AtomicI64::new(0) })
    }

    fn new(hand: Hand) -> Clock {
        Clock(Arc::new(Shared { hand, seen: Mutex::default() }))
    }

    /// The moment, cut to whole milliseconds: no system reports finer, and records stay short.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.read().wall).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Time since this clock was made, by the clock that nobody sets.
    pub fn steady(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.read().steady).unwrap_or(0))
    }

    /// How long ago a reading of this clock was, by the monotonic clock.
    pub fn age(&self, reading: Timestamp) -> Result<Duration, Doubt> {
        let mut seen = self.0.seen();
        let now = self.0.read(&mut seen);
        let (earliest, latest) = seen.stretches.steady(reading.as_millisecond(), now)?;
        if seen.beats.in_doubt(earliest, latest, now) {
            return Err(Doubt::StoodStill);
        }
        // Of two that are close, the older one counts.
        Ok(Duration::from_millis(u64::try_from(now.steady - earliest).unwrap_or(0)))
    }

    /// Lets the clock beat from now on, in a thread that ends soon after the last of its clones is
    /// gone. Without, as in tests and simulators, no standstill is ever noticed.
    pub fn keep_beating(&self) -> io::Result<JoinHandle<()>> {
        self.beat();
        let clock = Arc::downgrade(&self.0);
        std::thread::Builder::new().name("clock".into()).spawn(move || keep_beating(&clock))
    }

    /// Beats once. How long the process stood still since the last beat, if it did.
    pub fn beat(&self) -> Option<Duration> {
        let mut seen = self.0.seen();
        let now = self.0.read(&mut seen);
        seen.beats.beat(now)
    }

    /// Moves a manual clock, forward or back, and lets as much time pass as it goes forward; a
    /// system clock cannot be moved and stays as it is.
    pub fn set(&self, to: Timestamp) {
        if let Hand::Manual { wall, steady } = &self.0.hand {
            let before = wall.swap(to.as_millisecond(), Ordering::SeqCst);
            steady.fetch_add((to.as_millisecond() - before).max(0), Ordering::SeqCst);
        }
    }

    /// Sets a manual clock as a person sets a wall clock: no time passes.
    pub fn jump(&self, to: Timestamp) {
        if let Hand::Manual { wall, .. } = &self.0.hand {
            wall.store(to.as_millisecond(), Ordering::SeqCst);
        }
    }

    fn read(&self) -> Reading {
        self.0.read(&mut self.0.seen())
    }
}

/// Beats as long as anybody has the clock.
fn keep_beating(clock: &Weak<Shared>) {
    loop {
        std::thread::sleep(BEAT_EVERY);
        let Some(shared) = clock.upgrade() else { return };
        if let Some(stood) = Clock(shared).beat() {
            let seconds = stood.as_secs_f32();
            tracing::warn!(seconds, "Portero stood still, or the clock was set");
        }
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both clocks are read under the lock, or a reading could be noted after a later one.
    #[allow(clippy::disallowed_methods)] // The one place that may read the clock.
    fn read(&self, seen: &mut Seen) -> Reading {
        let reading = match &self.hand {
            Hand::System { start } => Reading {
                wall: Timestamp::now().as_millisecond(),
                steady: i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX),
            },
            Hand::Manual { wall, steady } => {
                Reading { wall: wall.load(Ordering::SeqCst), steady: steady.load(Ordering::SeqCst) }
            }
        };
        seen.stretches.note(reading);
        reading
    }
}

impl Stretches {
    fn note(&mut self, now: Reading) {
        let offset = now.wall - now.steady;
        if let Some(last) = self.all.last_mut()
            && (last.offset - offset).abs() <= DRIFT_MS_NOTED
        {
            last.from = last.from.min(now.wall);
            last.to = last.to.max(now.wall);
            return;
        }
        if self.all.len() == STRETCHES_MAX {
            let gone = self.all.remove(0);
            let (from, to) = self.forgotten.unwrap_or((gone.from, gone.to));
            self.forgotten = Some((from.min(gone.from), to.max(gone.to)));
        }
        self.all.push(Stretch { from: now.wall, to: now.wall, offset });
    }

    /// When the wall clock showed this, by the monotonic clock: at the earliest, at the latest.
    fn steady(&self, wall: i64, now: Reading) -> Result<(i64, i64), Doubt> {
        if self.forgotten.is_some_and(|(from, to)| (from..=to).contains(&wall)) {
            return Err(Doubt::Jumped);
        }
        let mut found = self.all.iter().filter(|one| (one.from..=one.to).contains(&wall));
        let first = found.next().ok_or(Doubt::Before)?;
        // The clock may have shown this twice: on both sides of a jump.
        let (least, most) = found.fold((first.offset, first.offset), |(least, most), one| {
            (least.min(one.offset), most.max(one.offset))
        });
        let offset = now.wall - now.steady;
        if (offset - least).abs() > DRIFT_MS_MAX || (offset - most).abs() > DRIFT_MS_MAX {
            return Err(Doubt::Jumped);
        }
        Ok((wall - most, wall - least))
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-20T{text}Z").parse().unwrap()
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let start: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let clock = Clock::manual(start);
        let other = clock.clone();
        assert_eq!(clock.now(), start);
        other.set("2026-11-20T10:00:01.5Z".parse().unwrap());
        assert_eq!(clock.now().to_string(), "2026-11-20T10:00:01.5Z");
    }

    #[test]
    fn an_age_is_what_has_passed() {
        let clock = Clock::manual(at("10:00:00"));
        let reading = clock.now();
        clock.set(at("10:00:07"));
        assert_eq!(clock.age(reading), Ok(Duration::from_secs(7)));
        assert_eq!(clock.age(clock.now()), Ok(Duration::ZERO));
        assert_eq!(clock.steady(), Duration::from_secs(7));
    }

    #[test]
    fn what_was_read_before_the_start_or_not_yet_is_in_doubt() {
        let clock = Clock::manual(at("10:00:00"));
        clock.set(at("10:00:05"));
        assert_eq!(clock.age(at("09:59:59")), Err(Doubt::Before));
        assert_eq!(clock.age(at("10:00:06")), Err(Doubt::Before));
    }

    #[test]
    fn a_jump_puts_everything_before_it_in_doubt() {
        for jump in ["10:30:00", "09:30:00", "10:00:06.1", "10:00:03.9"] {
            let clock = Clock::manual(at("10:00:00"));
            clock.set(at("10:00:04"));
            let reading = clock.now();
            clock.set(at("10:00:05"));
            clock.now();
            clock.jump(at(jump));
            assert!(clock.age(reading).is_err(), "{jump}");
        }
    }

    #[test]
    fn what_is_read_after_a_jump_has_an_age_unless_it_may_be_from_before() {
        let clock = Clock::manual(at("10:00:00"));
        clock.now();
        clock.jump(at("11:00:00"));
        let reading = clock.now();
        clock.set(at("11:00:03"));
        assert_eq!(clock.age(reading), Ok(Duration::from_secs(3)));
        // Back where it was once already: nobody knows which of the two is meant.
        clock.jump(at("10:00:00"));
        assert_eq!(clock.age(clock.now()), Err(Doubt::Jumped));
        clock.set(at("10:00:02"));
        let reading = clock.now();
        assert_eq!(clock.age(reading), Ok(Duration::ZERO));
    }

    #[test]
    fn slow_drift_is_no_jump() {
        let clock = Clock::manual(at("10:00:00"));
        let mut wall = at("10:00:00");
        for _ in 0..200 {
            let reading = clock.now();
            wall += SignedDuration::from_secs(10);
            clock.set(wall);
            wall -= SignedDuration::from_millis(50);
            clock.jump(wall);
            let age = clock.age(reading).unwrap();
            assert!(age >= Duration::from_millis(9_500), "{age:?}");
            assert!(age <= Duration::from_millis(10_600), "{age:?}");
        }
    }

    #[test]
    fn what_lay_in_a_socket_while_the_process_stood_still_has_no_age() {
        let clock = Clock::manual(at("10:00:00"));
        clock.beat();
        let before = clock.now();
        clock.set(at("10:00:00.25"));
        clock.beat();
        // Nobody beats for 20 seconds; then it is read, before or after the first beat.
        clock.set(at("10:00:20"));
        let early = clock.now();
        assert_eq!(clock.age(early), Err(Doubt::StoodStill));
        assert_eq!(clock.beat(), Some(Duration::from_millis(19_750)));
        assert_eq!(clock.age(early), Err(Doubt::StoodStill));
        assert_eq!(clock.age(before), Ok(Duration::from_secs(20)));
        clock.set(at("10:00:22"));
        clock.beat();
        let late = clock.now();
        clock.set(at("10:00:22.25"));
        clock.beat();
        assert_eq!(clock.age(late), Err(Doubt::StoodStill));
        assert_eq!(clock.age(clock.now()), Ok(Duration::ZERO));
    }

    #[test]
    fn a_clock_that_does_not_beat_knows_no_standstill() {
        let clock = Clock::manual(at("10:00:00"));
        let reading = clock.now();
        clock.set(at("10:01:00"));
        assert_eq!(clock.age(reading), Ok(Duration::from_secs(60)));
    }

    #[test]
    fn the_beat_ends_with_the_last_clone() {
        let clock = Clock::system();
        let beat = clock.keep_beating().unwrap();
        let other = clock.clone();
        drop(clock);
        assert!(other.age(other.now()).is_ok());
        drop(other);
        beat.join().unwrap();
    }

    #[test]
    fn a_clock_that_is_set_all_the_time_is_believed_no_more() {
        let clock = Clock::manual(at("10:00:00"));
        for _ in 0..2 * STRETCHES_MAX {
            clock.jump(at("11:00:00"));
            clock.now();
            clock.jump(at("10:00:00"));
            clock.now();
        }
        assert_eq!(clock.age(clock.now()), Err(Doubt::Jumped));
    }
}
