//! The journal on a disk that is full: what is about alarms is written all the same.

use std::sync::Arc;
use std::time::Duration;

use super::tests::{moment, note, number, numbers};
use super::*;
use crate::disk::SimDisk;

/// Two cuts and a bit: enough to see that it is given in pieces.
const RESERVE: u64 = 160 << 10;

/// From here on a note is about what frees space, and from there on about an alarm.
const KEEPING: u32 = 1_000_000;
const ALARM: u32 = 2_000_000;

fn config() -> Config {
    Config { reserve_bytes: RESERVE, segment_bytes: 50_000, ..Config::default() }
}

fn class(records: &[Record]) -> Class {
    match records.iter().map(number).max().unwrap_or(0) {
        ALARM.. => Class::Alarm,
        KEEPING.. => Class::Keeping,
        _ => Class::Ordinary,
    }
}

async fn open_as_it_is(disk: &SimDisk) -> Journal {
    let disk = Arc::new(disk.clone());
    let (journal, _) = Journal::open(disk, config(), Clock::manual(moment(0))).await.unwrap();
    journal.set_judge(class);
    journal
}

/// A journal that has had the time to see to its reserve.
async fn open(disk: &SimDisk) -> Journal {
    let journal = open_as_it_is(disk).await;
    pass(1).await;
    journal
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Appends from `first` on until that is refused; those that were taken, and why the next was not.
async fn fill(journal: &Journal, first: u32) -> (Vec<u32>, AppendError) {
    let mut taken = Vec::new();
    for n in first.. {
        match journal.append(vec![note(n)]).await {
            Ok(_) => taken.push(n),
            Err(error) => return (taken, error),
        }
    }
    unreachable!("the disk has no end")
}

/// A disk that a flood has filled, and what is acknowledged on it.
async fn full() -> (SimDisk, Journal, Vec<u32>) {
    let disk = SimDisk::new(1);
    let journal = open(&disk).await;
    assert_eq!((journal.reserve(), journal.is_full()), (RESERVE, false));
    disk.faults(|faults| faults.space = Some(10_000));
    let (taken, error) = fill(&journal, 0).await;
    assert!(taken.len() > 50 && matches!(error, AppendError::DiskFull), "{error:?}");
    (disk, journal, taken)
}

#[tokio::test(start_paused = true)]
async fn a_flood_fills_the_disk_and_alarms_are_written_on() {
    let (disk, journal, mut taken) = full().await;
    assert_eq!((journal.is_full(), journal.is_writable()), (true, false));
    let refused = journal.append(vec![note(5_000)]).await;
    assert!(matches!(refused, Err(AppendError::KeptForAlarms)), "{refused:?}");
    // In one batch with the flood, and a call of both kinds is one of alarms.
    let calls: Vec<_> = (0..300)
        .map(|n| match n % 3 {
            0 => vec![note(6_000 + n)],
            1 => vec![note(ALARM + n)],
            _ => vec![note(7_000 + n), note(ALARM + n)],
        })
        .map(|records| {
            let numbers: Vec<u32> = records.iter().map(number).collect();
            (numbers, journal.submit(records))
        })
        .collect();
    journal.barrier().await.unwrap();
    let mut last = None;
    for (numbers, call) in calls {
        let answer = call.await;
        assert_eq!(answer.is_ok(), numbers.last() >= Some(&ALARM), "{numbers:?}: {answer:?}");
        for (number, position) in numbers.into_iter().zip(answer.unwrap_or_default()) {
            assert!(last < Some(position));
            last = Some(position);
            taken.push(number);
        }
    }
    assert!(journal.reserve() < RESERVE, "something was given");
    assert!(journal.reserve() > 0, "and not all of it at once");
    assert!(!journal.is_writable() && journal.is_full());
    assert_eq!(numbers(journal.read(Position(0))), taken);
    let journal = open(&disk.crash()).await;
    assert_eq!(numbers(journal.read(Position(0))), taken);
}

/// The flood fills the disk in the very batch that the alarm is in.
#[tokio::test(start_paused = true)]
async fn an_alarm_amid_the_batch_that_fills_the_disk_is_written() {
    let disk = SimDisk::new(2);
    let journal = open(&disk).await;
    disk.faults(|faults| faults.space = Some(2_000));
    let flood: Vec<_> = (0..500).map(|n| journal.submit(vec![note(n)])).collect();
    let alarm = journal.submit(vec![note(ALARM)]);
    let behind = journal.submit(vec![note(501)]);
    alarm.await.unwrap();
    assert!(matches!(behind.await, Err(AppendError::DiskFull)));
    for call in flood {
        assert!(matches!(call.await, Err(AppendError::DiskFull)));
    }
    let journal = open(&disk.crash()).await;
    assert_eq!(numbers(journal.read(Position(0))), [ALARM]);
}

#[tokio::test(start_paused = true)]
async fn with_room_again_all_is_taken_and_the_reserve_is_back() {
    let (disk, journal, _) = full().await;
    journal.append(vec![note(ALARM)]).await.unwrap();
    // Room for the reserve, but none to spare: the next flood would fill it at once.
    disk.faults(|faults| faults.space = Some(RESERVE / 2));
    pass(200).await;
    assert_eq!((journal.is_full(), journal.is_writable()), (true, false));
    assert!(matches!(journal.append(vec![note(1)]).await, Err(AppendError::KeptForAlarms)));
    journal.append(vec![note(ALARM + 1)]).await.unwrap();
    disk.faults(|faults| faults.space = Some(4 * RESERVE));
    pass(61).await;
    assert_eq!((journal.is_full(), journal.is_writable()), (false, true));
    assert_eq!(journal.reserve(), RESERVE);
    assert_eq!(disk.bytes("reserve").unwrap().len() as u64, RESERVE);
    journal.append(vec![note(1)]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restart_on_a_full_disk_keeps_the_rest_for_alarms() {
    let (disk, journal, _) = full().await;
    for n in 0..1_000 {
        journal.append(vec![note(ALARM + n)]).await.unwrap();
    }
    let left = journal.reserve();
    assert!(left > 0 && left < RESERVE, "{left}");
    journal.close().await;
    let journal = open(&disk).await;
    assert_eq!((journal.is_full(), journal.is_writable()), (true, false));
    assert_eq!(journal.reserve(), left);
    assert!(matches!(journal.append(vec![note(1)]).await, Err(AppendError::KeptForAlarms)));
    journal.append(vec![note(ALARM)]).await.unwrap();
    // The power goes, and the disk is as full as before.
    let disk = disk.crash();
    disk.faults(|faults| faults.space = Some(0));
    let journal = open(&disk).await;
    assert!(matches!(journal.append(vec![note(1)]).await, Err(AppendError::KeptForAlarms)));
    journal.append(vec![note(ALARM + 1)]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_frees_space_never_takes_the_alarms_half() {
    let (_disk, journal, _) = full().await;
    let large = |n: u32, bytes: usize| {
        let Record::Quarantined(mut kept) = note(n) else { unreachable!() };
        kept.raw.resize(bytes, 0);
        vec![Record::Quarantined(kept)]
    };
    // One that is too large takes nothing along.
    let refused = journal.append(large(KEEPING, RESERVE as usize)).await;
    assert!(matches!(refused, Err(AppendError::DiskFull)), "{refused:?}");
    assert_eq!(journal.reserve(), RESERVE);
    let (taken, _) = fill(&journal, KEEPING).await;
    assert!(taken.len() > 100, "{}", taken.len());
    assert!(journal.reserve() >= RESERVE / 2 - 100, "{}", journal.reserve());
    journal.append(large(ALARM, RESERVE as usize / 2 - 1_000)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_start_gets_room_but_not_the_alarms_half() {
    let (disk, journal, _) = full().await;
    disk.faults(|faults| faults.space = Some(0));
    assert!(journal.make_room(50_000).await);
    let left = journal.reserve();
    assert!((RESERVE / 2..RESERVE).contains(&left), "{left}");
    while journal.make_room(50_000).await {}
    assert_eq!(journal.reserve(), RESERVE / 2);
    journal.close().await;
    assert!(!journal.make_room(1).await);
}

#[tokio::test(start_paused = true)]
async fn even_a_reserve_has_an_end() {
    let (disk, journal, _) = full().await;
    let (taken, error) = fill(&journal, ALARM).await;
    assert!(matches!(error, AppendError::DiskFull), "{error:?}");
    let mut one = Vec::new();
    let bytes = taken.len() * frame::put(&mut one, &note(ALARM), false);
    assert!(bytes as u64 > RESERVE - 1_000, "{bytes} of {RESERVE} were of use");
    assert_eq!(journal.reserve(), 0);
    disk.faults(|faults| faults.space = None);
    pass(61).await;
    assert_eq!((journal.is_writable(), journal.reserve()), (true, RESERVE));
    journal.append(vec![note(1)]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_reserve_it_does_what_it_can() {
    let disk = SimDisk::new(3);
    disk.faults(|faults| faults.space = Some(20_000));
    let journal = open(&disk).await;
    assert_eq!((journal.reserve(), journal.is_full(), journal.is_writable()), (0, false, true));
    assert_eq!(disk.bytes("reserve.new"), None, "half of one is no use to anybody");
    let (taken, error) = fill(&journal, 0).await;
    assert!(taken.len() > 50 && matches!(error, AppendError::DiskFull));
    // A little comes free: without a reserve there is nothing to keep it for.
    disk.faults(|faults| faults.space = Some(5_000));
    pass(2).await;
    assert!(journal.is_writable());
    journal.append(vec![note(1)]).await.unwrap();
    disk.faults(|faults| faults.space = None);
    pass(61).await;
    assert_eq!(journal.reserve(), RESERVE);
}

#[tokio::test(start_paused = true)]
async fn somebody_removes_it_and_it_comes_back() {
    let disk = SimDisk::new(4);
    let journal = open(&disk).await;
    crate::disk::Disk::remove(&disk, "reserve").unwrap();
    pass(122).await;
    assert_eq!(disk.bytes("reserve").unwrap().len() as u64, RESERVE);
    journal.append(vec![note(1)]).await.unwrap();
    // Neither it nor a draft of it passes for a segment.
    disk.faults(|faults| faults.space = Some(1_000));
    disk.rot("reserve", |bytes| bytes.truncate(7));
    let mut names = crate::disk::Disk::list(&disk).unwrap();
    names.sort();
    assert_eq!(names, [segment::file_name(0), "reserve".to_string()]);
    assert_eq!(segments_in(&disk).unwrap(), [Position(0)]);
    assert_eq!(numbers(read_dir(Arc::new(disk.clone()), Position(0))), [1]);
}

#[tokio::test(start_paused = true)]
async fn old_segments_go_on_a_full_disk() {
    let disk = SimDisk::new(5);
    let seen = |n: u32| super::tests::seen(n, 0);
    let config = Config { keep_bytes: 0, segment_bytes: 5_000, ..config() };
    let clock = Clock::manual(moment(0));
    let (journal, _) = Journal::open(Arc::new(disk.clone()), config, clock).await.unwrap();
    pass(1).await;
    for n in 0..60 {
        journal.append(vec![seen(n)]).await.unwrap();
    }
    let of_keys = |records: &[Record]| match records {
        [Record::Keys(_)] => Class::Keeping,
        _ => Class::Ordinary,
    };
    journal.set_judge(of_keys);
    disk.faults(|faults| faults.space = Some(0));
    assert!(journal.append(vec![seen(60)]).await.is_err());
    let done = journal.retain(journal.end()).await.unwrap();
    assert!(done.segments > 1 && done.ids > 20, "{done:?}");
    assert!(disk.bytes("reserve").unwrap().len() as u64 >= RESERVE / 2);
}

#[test]
fn a_sync_that_wants_space_is_told_from_one_that_fails() {
    let error = |kind: std::io::ErrorKind| AppendError::sync(kind.into());
    assert!(error(std::io::ErrorKind::StorageFull).wants_space());
    assert!(error(std::io::ErrorKind::QuotaExceeded).wants_space());
    assert!(!error(std::io::ErrorKind::TimedOut).wants_space());
    assert!(AppendError::write(std::io::ErrorKind::QuotaExceeded.into()).wants_space());
}
