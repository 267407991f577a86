//! The journal against a plain list, on a disk that fails in every way we know, in virtual time.
//!
//! What must hold after anything: every acknowledged record is there exactly once, at its position
//! and in order; nothing appears that was never submitted; a call is there whole or not at all;
//! damage costs the damaged records only and is named; on a full disk alarms are taken as long as
//! there is a reserve, and it comes back.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use portero::clock::Clock;
use portero::disk::SimDisk;
use portero::event::{Event, EventId, Marks, Trust};
use portero::journal::{AppendError, Config, Damage, Entry, Journal, read_dir};
use portero::record::{Class, Position, Record};

const HOUR: Duration = Duration::from_secs(3600);

/// Room for some calls.
const RESERVE: u64 = 6_000;

/// After it a healthy disk has its reserve again.
const MENDED_AFTER: Duration = Duration::from_secs(150);

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// Calls with that many records each, submitted at once and awaited.
    Append(Vec<u8>),
    /// The same, not awaited.
    Submit(Vec<u8>),
    /// Time passes: microseconds, so that crashes fall into syncs.
    Wait(u16),
    /// Time passes: minutes, so that the reserve is looked at.
    Pause(u8),
    /// Time passes: hours on the wall clock.
    Age(u8),
    /// An orderly end and a new start.
    Reopen,
    /// The power goes, and comes back.
    Crash,
    Space(u16),
    FailSyncs(u8),
    FailAppends(u8),
    ShortWrites,
    LyingWrites,
    Heal,
    /// A bit flips in one of the acknowledged records.
    Rot(u16, u16),
    /// Old segments may go.
    Retain,
}

fn step() -> impl Strategy<Value = Step> {
    let calls = || prop::collection::vec(1u8..5, 1..6);
    prop_oneof![
        8 => calls().prop_map(Step::Append),
        4 => calls().prop_map(Step::Submit),
        4 => (0u16..9000).prop_map(Step::Wait),
        1 => (1u8..3).prop_map(Step::Pause),
        2 => (1u8..8).prop_map(Step::Age),
        2 => Just(Step::Reopen),
        3 => Just(Step::Crash),
        2 => (0u16..3000).prop_map(Step::Space),
        1 => (1u8..4).prop_map(Step::FailSyncs),
        1 => (1u8..4).prop_map(Step::FailAppends),
        1 => Just(Step::ShortWrites),
        1 => Just(Step::LyingWrites),
        3 => Just(Step::Heal),
        2 => (any::<u16>(), any::<u16>()).prop_map(|(which, bit)| Step::Rot(which, bit)),
        2 => Just(Step::Retain),
    ]
}

fn config() -> Config {
    Config {
        segment_bytes: 2_500,
        keep: 10 * HOUR,
        keep_bytes: 30_000,
        duplicates_for: 30 * HOUR,
        reserve_bytes: RESERVE,
    }
}

/// Every third record is about an alarm.
fn class(records: &[Record]) -> Class {
    let is_alarm = |record: &Record| number(record).is_some_and(|number| number % 3 == 0);
    match records.iter().any(is_alarm) {
        true => Class::Alarm,
        false => Class::Ordinary,
    }
}

fn id(number: u32) -> EventId {
    EventId::derive([number.to_string().as_str()])
}

fn record(number: u32, received: Timestamp) -> Record {
    let mut raw = number.to_le_bytes().to_vec();
    raw.resize(4 + (number as usize * 37) % 400, 0xab);
    Record::Seen(Arc::new(Event {
        id: id(number),
        source: "hook/x".into(),
        kind: "x.y".into(),
        subject: None,
        time: None,
        received,
        trust: Trust::Authentic,
        marks: Marks::default(),
        hops: 0,
        data: Default::default(),
        raw,
    }))
}

type Appended = Result<Vec<Position>, AppendError>;

/// A call nobody has heard of yet.
struct Pending {
    numbers: Vec<u32>,
    handle: JoinHandle<Appended>,
}

/// What the list knows of an acknowledged record.
struct Known {
    position: Position,
    received: Timestamp,
    is_rotten: bool,
}

/// The journal under test and the list beside it.
struct World {
    disk: SimDisk,
    journal: Journal,
    follower: UnboundedReceiver<Arc<[Entry]>>,
    followed: HashSet<u32>,
    clock: Clock,
    next: u32,
    pending: Vec<Pending>,
    calls: Vec<Vec<u32>>,
    received: BTreeMap<u32, Timestamp>,
    acknowledged: BTreeMap<u32, Known>,
    /// Nothing at or behind this may have been forgotten.
    safe: Position,
}

type Check = Result<(), String>;

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(why()) }
}

async fn open(disk: &SimDisk, clock: &Clock) -> Result<Journal, String> {
    let opened = Journal::open(Arc::new(disk.clone()), config(), clock.clone()).await;
    let journal = opened.map(|(journal, _)| journal).map_err(|error| error.to_string())?;
    journal.set_judge(class);
    Ok(journal)
}

impl World {
    async fn new(seed: u64, idle_syncs: bool) -> World {
        let disk = SimDisk::new(seed);
        disk.faults(|faults| faults.idle_syncs = idle_syncs);
        let clock = Clock::manual(Timestamp::from_second(1_800_000_000).unwrap());
        let journal = open(&disk, &clock).await.unwrap();
        World {
            follower: journal.subscribe(),
            followed: HashSet::new(),
            disk,
            journal,
            clock,
            next: 0,
            pending: vec![],
            calls: vec![],
            received: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            safe: Position(0),
        }
    }

    fn submit(&mut self, sizes: &[u8]) {
        for size in sizes {
            let numbers: Vec<u32> = (self.next..self.next + u32::from(*size)).collect();
            self.next += u32::from(*size);
            let now = self.clock.now();
            self.received.extend(numbers.iter().map(|number| (*number, now)));
            let records = numbers.iter().map(|number| record(*number, now)).collect();
            let handle = tokio::spawn(self.journal.submit(records));
            self.calls.push(numbers.clone());
            self.pending.push(Pending { numbers, handle });
        }
    }

    /// Takes in the answers that have come; with `all`, waits for the others.
    async fn collect(&mut self, all: bool) -> Check {
        for mut call in std::mem::take(&mut self.pending) {
            if !all && !call.handle.is_finished() {
                self.pending.push(call);
                continue;
            }
            let answer = (&mut call.handle).await.map_err(|error| error.to_string())?;
            while let Ok(batch) = self.follower.try_recv() {
                self.followed.extend(batch.iter().filter_map(|entry| number(&entry.record)));
            }
            let is_alarm = call.numbers.iter().any(|number| number % 3 == 0);
            if matches!(answer, Err(AppendError::KeptForAlarms)) {
                ensure(!is_alarm, || format!("an alarm was refused: {:?}", call.numbers))?;
            }
            let Ok(positions) = answer else { continue };
            for (number, position) in call.numbers.into_iter().zip(positions) {
                ensure(self.followed.contains(&number), || format!("{number} was not published"))?;
                let known = Known { position, received: self.received[&number], is_rotten: false };
                self.acknowledged.insert(number, known);
            }
        }
        Ok(())
    }

    async fn reopen(&mut self, power_cut: bool) -> Check {
        self.collect(!power_cut).await?;
        if power_cut {
            self.pending.clear();
            self.disk = self.disk.crash();
        } else {
            self.journal.close().await;
        }
        let mut journal = open(&self.disk, &self.clock).await;
        if journal.is_err() {
            self.disk = self.disk.crash();
            journal = open(&self.disk, &self.clock).await;
        }
        self.journal = journal?;
        self.follower = self.journal.subscribe();
        self.check()
    }

    /// Nothing goes wrong any more, and the journal has had time to see that.
    async fn mend(&mut self) {
        self.disk.faults(|faults| *faults = Default::default());
        tokio::time::sleep(MENDED_AFTER).await;
    }

    async fn rot(&mut self, which: u16, bit: u16) -> Check {
        self.mend().await;
        // Something behind it, so that all before is sealed; then a moment for the mark.
        self.submit(&[1]);
        self.collect(true).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let count = self.acknowledged.len();
        let first = self.journal.first();
        let Some((_, known)) = self.acknowledged.iter_mut().nth(usize::from(which) % count.max(1))
        else {
            return Ok(());
        };
        if known.position < first || known.is_rotten {
            return Ok(());
        }
        let Ok(Some(entry)) = self.journal.read_one(known.position) else {
            return Err(format!("nothing at {}", known.position));
        };
        let bases = self.journal.segments();
        let base = bases.iter().rfind(|base| **base <= known.position).ok_or("no segment")?;
        let bits = (entry.next.0 - entry.position.0) as usize * 8;
        let bit = usize::from(bit) % bits;
        let offset = (known.position.0 - base.0) as usize + bit / 8;
        self.disk.rot(&format!("{:020}.log", base.0), |bytes| bytes[offset] ^= 1 << (bit % 8));
        known.is_rotten = true;
        self.check()
    }

    async fn retain(&mut self) -> Check {
        self.safe = self.journal.end();
        let before = self.journal.first();
        // With a broken disk it may fail half way; what it did must be right all the same.
        let done = self.journal.retain(self.safe).await;
        let first = self.journal.first();
        ensure(first >= before && first <= self.safe, || format!("{before} {first} {done:?}"))?;
        self.collect(true).await?;
        self.check()
    }

    fn check(&self) -> Check {
        let inside: Vec<_> = self.journal.read(Position(0)).collect();
        self.check_items(&inside)?;
        if self.pending.is_empty() {
            let outside: Vec<_> = read_dir(Arc::new(self.disk.clone()), Position(0)).collect();
            self.check_items(&outside)?;
        }
        ensure(self.journal.first() <= self.safe, || "forgotten too early".into())
    }

    fn check_items(&self, items: &[Result<Entry, Damage>]) -> Check {
        let mut found = BTreeMap::new();
        let mut carried = BTreeSet::new();
        let mut last = None;
        for entry in items.iter().flatten() {
            if let Record::Keys(keys) = &entry.record {
                carried.extend(keys.ids.iter().copied());
                continue;
            }
            let number = number(&entry.record).ok_or("a record that was never submitted")?;
            ensure(number < self.next, || format!("{number} was never submitted"))?;
            ensure(last < Some(number), || format!("{number} after {last:?}"))?;
            last = Some(number);
            found.insert(number, entry.position);
        }
        self.check_known(&found, &carried)?;
        self.check_whole(&found)?;
        self.check_damage(items)
    }

    /// Everything acknowledged is where it was said to be, or forgotten, or rotten.
    fn check_known(&self, found: &BTreeMap<u32, Position>, carried: &BTreeSet<EventId>) -> Check {
        let first = self.journal.first();
        let cutoff = self.clock.now() - SignedDuration::from_hours(30);
        for (number, known) in &self.acknowledged {
            if known.is_rotten {
                ensure(!found.contains_key(number), || format!("rotten {number} is back"))?;
            } else if known.position >= first {
                let at = found.get(number);
                ensure(at == Some(&known.position), || {
                    format!("{number} at {}: found {at:?}", known.position)
                })?;
            } else {
                let is_there = known.received < cutoff || carried.contains(&id(*number));
                ensure(is_there, || format!("the id of {number} is lost"))?;
            }
        }
        Ok(())
    }

    /// A call is there whole or not at all, but for rot and segments that went.
    fn check_whole(&self, found: &BTreeMap<u32, Position>) -> Check {
        for call in &self.calls {
            let is_acknowledged = |number| self.acknowledged.contains_key(number);
            let there = call.iter().filter(|number| found.contains_key(number)).count();
            let is_whole = there == 0 || there == call.len() || call.iter().all(is_acknowledged);
            ensure(is_whole, || format!("{there} of call {call:?}"))?;
        }
        Ok(())
    }

    /// All that is rotten is named, and nothing else is.
    fn check_damage(&self, items: &[Result<Entry, Damage>]) -> Check {
        let first = self.journal.first();
        let covers = |damage: &Damage, position: Position| {
            damage.position <= position && position.0 < damage.position.0 + damage.bytes
        };
        let rotten: Vec<Position> = self
            .acknowledged
            .values()
            .filter(|known| known.is_rotten && known.position >= first)
            .map(|known| known.position)
            .collect();
        let named: Vec<&Damage> = items.iter().filter_map(|item| item.as_ref().err()).collect();
        for damage in &named {
            let is_known = rotten.iter().any(|position| covers(damage, *position));
            ensure(is_known, || format!("named for nothing: {damage}"))?;
        }
        for position in rotten {
            let is_named = named.iter().any(|damage| covers(damage, position));
            ensure(is_named, || format!("rot at {position} was not named"))?;
        }
        Ok(())
    }

    async fn go(&mut self, step: &Step) -> Check {
        let disk = self.disk.clone();
        match step {
            Step::Append(sizes) => {
                self.submit(sizes);
                return self.collect(true).await;
            }
            Step::Submit(sizes) => self.submit(sizes),
            Step::Wait(us) => tokio::time::sleep(Duration::from_micros((*us).into())).await,
            Step::Pause(minutes) => {
                tokio::time::sleep(Duration::from_secs(60 * u64::from(*minutes))).await;
            }
            Step::Age(hours) => {
                let hours = SignedDuration::from_hours((*hours).into());
                self.clock.set(self.clock.now() + hours);
            }
            Step::Reopen => return self.reopen(false).await,
            Step::Crash => return self.reopen(true).await,
            Step::Space(bytes) => disk.faults(|faults| faults.space = Some((*bytes).into())),
            Step::FailSyncs(n) => disk.faults(|faults| faults.failing_syncs = (*n).into()),
            Step::FailAppends(n) => disk.faults(|faults| faults.failing_appends = (*n).into()),
            Step::ShortWrites => disk.faults(|faults| faults.short_writes = true),
            Step::LyingWrites => disk.faults(|faults| faults.lying_writes = true),
            Step::Heal => disk.faults(|faults| *faults = Default::default()),
            Step::Rot(which, bit) => return self.rot(*which, *bit).await,
            Step::Retain => return self.retain().await,
        }
        self.collect(false).await
    }
}

fn number(record: &Record) -> Option<u32> {
    match record {
        Record::Seen(event) => event.raw.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)),
        _ => None,
    }
}

/// Runs the steps, and at the end checks that a healed disk takes records again.
fn run(seed: u64, steps: &[Step], idle_syncs: bool) -> Check {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed, idle_syncs).await;
        for (i, step) in steps.iter().enumerate() {
            world.go(step).await.map_err(|why| format!("step {i}: {why}"))?;
        }
        world.collect(true).await?;
        world.mend().await;
        let kept = world.journal.reserve();
        ensure(kept == RESERVE, || format!("{kept} bytes are kept for alarms"))?;
        world.submit(&[2]);
        world.collect(true).await?;
        let last = world.next - 1;
        ensure(world.acknowledged.contains_key(&last), || "a healed disk takes nothing".into())?;
        ensure(world.journal.is_writable(), || "not writable although it writes".into())?;
        world.reopen(true).await
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_acknowledged_is_lost(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let result = run(seed, &steps, false);
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}

/// A crash at every moment of the first two milliseconds after each acknowledgement.
#[test]
fn power_cuts_right_after_an_acknowledgement_lose_nothing() {
    for seed in 0..200 {
        let wait = Step::Wait((seed * 10) as u16);
        let round = [Step::Append(vec![1, 3]), Step::Submit(vec![2, 1]), wait, Step::Crash];
        let steps: Vec<Step> = round.iter().cycle().take(20).cloned().collect();
        assert_eq!(run(seed, &steps, false), Ok(()), "seed {seed}");
    }
}

/// A flood fills the disk, whatever else is on it; then alarms are taken, and outlive a power cut.
#[test]
fn on_a_full_disk_alarms_are_taken_all_the_same() {
    for seed in 0..100 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let checked = runtime.block_on(async {
            let mut world = World::new(seed, false).await;
            world.mend().await;
            let space = 3_000 + seed * 17;
            world.disk.faults(|faults| faults.space = Some(space));
            for _ in 0..40 {
                world.submit(&[1]);
                if world.next % 3 == 0 {
                    world.next += 1; // No alarm yet.
                }
                world.collect(true).await?;
            }
            ensure(!world.journal.is_writable(), || "it is not full".into())?;
            let before = world.acknowledged.len();
            for call in 0..8 {
                // One alone, and then two of which the second is none.
                world.next = world.next.next_multiple_of(3);
                world.submit(&[1 + call % 2]);
                world.collect(true).await?;
            }
            let taken = world.acknowledged.len() - before;
            ensure(taken == 12, || format!("{taken} of 12 were taken"))?;
            world.reopen(true).await
        });
        assert_eq!(checked, Ok(()), "seed {seed}");
    }
}

/// The test of the test: with syncs that do nothing the same checks must find losses.
#[test]
fn a_sync_that_does_nothing_is_found_out() {
    let steps = [Step::Append(vec![1, 2, 1]), Step::Crash];
    let found = (0..100).filter(|seed| run(*seed, &steps, true).is_err()).count();
    assert!(found > 50, "found in {found} of 100 runs");
    assert!((0..100).all(|seed| run(seed, &steps, false).is_ok()));
}
