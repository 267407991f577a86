//! The journal through its own door: what is appended is followed, read, kept and mended.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::segment::file_name;
use super::*;
use crate::disk::{OsDisk, SimDisk};
use crate::event::{Event, EventId, Marks, Trust};
use crate::record::{Checkpoint, Quarantined};

pub(super) fn moment(hours: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
}

pub(super) fn note(n: u32) -> Record {
    let raw = n.to_le_bytes().to_vec();
    let (source, reason) = ("hook/x".into(), "test".into());
    Record::Quarantined(Quarantined { source, reason, received: moment(0), raw })
}

pub(super) fn number(record: &Record) -> u32 {
    match record {
        Record::Quarantined(kept) => u32::from_le_bytes(kept.raw[..4].try_into().unwrap()),
        other => panic!("{other:?}"),
    }
}

pub(super) fn seen(id: u32, hours: i64) -> Record {
    Record::Seen(Arc::new(Event {
        id: EventId::derive([id.to_string().as_str()]),
        source: "netatmo/home".into(),
        kind: "netatmo.ring".into(),
        subject: None,
        time: None,
        received: moment(hours),
        trust: Trust::Authentic,
        marks: Marks::default(),
        hops: 0,
        data: Default::default(),
        raw: vec![7; 100],
    }))
}

/// Without space for alarms, whose syncs nobody wants to count.
fn bare() -> Config {
    Config { reserve_bytes: 0, ..Config::default() }
}

fn small() -> Config {
    Config { segment_bytes: 1000, ..Config::default() }
}

async fn open(disk: &SimDisk, config: Config) -> (Journal, Opened) {
    let disk = Arc::new(disk.clone());
    Journal::open(disk, config, Clock::manual(moment(0))).await.unwrap()
}

pub(super) fn numbers(reader: Reader) -> Vec<u32> {
    reader.map(|item| number(&item.unwrap().record)).collect()
}

#[tokio::test]
async fn on_a_real_disk_records_are_followed_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(OsDisk::create(folder.path()).unwrap());
    let (journal, opened) =
        Journal::open(disk.clone(), small(), Clock::manual(moment(0))).await.unwrap();
    assert_eq!((opened.first, opened.end), (Position(0), Position(0)));
    let mut follower = journal.subscribe();
    let mut positions = Vec::new();
    for n in (0..40).step_by(2) {
        positions.extend(journal.append(vec![note(n), note(n + 1)]).await.unwrap());
    }
    let mut followed = Vec::new();
    while let Ok(batch) = follower.try_recv() {
        followed.extend(batch.iter().map(|entry| (entry.position, number(&entry.record))));
    }
    let expected: Vec<_> = positions.iter().copied().zip(0..40).collect();
    assert_eq!(followed, expected);
    assert!(journal.segments().len() > 2);
    assert_eq!(numbers(journal.read(Position(0))), Vec::from_iter(0..40));
    assert_eq!(numbers(journal.read(positions[7])), Vec::from_iter(7..40));
    assert_eq!(numbers(journal.read(positions[7]).until(positions[9])), [7, 8]);
    assert_eq!(numbers(read_dir(disk.clone(), Position(0))), Vec::from_iter(0..40));
    let one = journal.read_one(positions[11]).unwrap().unwrap();
    assert_eq!((number(&one.record), one.next), (11, positions[12]));
    assert!(journal.read_one(journal.end()).unwrap().is_none());
    journal.close().await;
    assert!(matches!(journal.append(vec![note(0)]).await, Err(AppendError::Closed)));

    let (journal, opened) = Journal::open(disk, small(), Clock::manual(moment(0))).await.unwrap();
    assert_eq!((opened.damage, opened.torn_bytes), (vec![], 0));
    assert_eq!(numbers(journal.read(Position(0))), Vec::from_iter(0..40));
}

#[tokio::test(start_paused = true)]
async fn calls_keep_their_order_and_share_syncs() {
    let disk = SimDisk::new(1);
    let (journal, _) = open(&disk, bare()).await;
    let before = disk.syncs();
    let calls: Vec<_> = (0..500).map(|n| journal.submit(vec![note(n)])).collect();
    journal.barrier().await.unwrap();
    assert!(disk.syncs() - before <= 4, "{}", disk.syncs() - before);
    let mut last = None;
    for call in calls {
        let position = call.await.unwrap()[0];
        assert!(last < Some(position));
        last = Some(position);
    }
    assert_eq!(numbers(journal.read(Position(0))), Vec::from_iter(0..500));
}

#[tokio::test(start_paused = true)]
async fn readers_inside_and_outside_follow() {
    let disk = SimDisk::new(2);
    let (journal, _) = open(&disk, small()).await;
    let mut inside = journal.read(Position(0));
    let mut outside = read_dir(Arc::new(disk.clone()), Position(0));
    for n in 0..60 {
        assert!(inside.next().is_none() && outside.next().is_none());
        journal.append(vec![note(n)]).await.unwrap();
        assert_eq!(number(&inside.next().unwrap().unwrap().record), n);
        assert_eq!(number(&outside.next().unwrap().unwrap().record), n);
        if n % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await; // Lets the writer leave its mark.
        }
    }
    assert!(journal.segments().len() > 3);
}

#[tokio::test(start_paused = true)]
async fn the_newest_checkpoint_is_found_from_the_end() {
    let disk = SimDisk::new(3);
    let (journal, _) = open(&disk, small()).await;
    let truth = |n: u64| RawValue::from_string(n.to_string()).unwrap();
    let mut at = Vec::new();
    for n in 0..3 {
        let checkpoint = Checkpoint { as_of: journal.end(), truth: truth(n) };
        at = journal.append(vec![Record::Checkpoint(checkpoint)]).await.unwrap();
    }
    for n in 0..50 {
        journal.append(vec![note(n)]).await.unwrap();
    }
    journal.close().await;
    let (_, opened) = open(&disk, small()).await;
    let (position, checkpoint) = opened.checkpoint.unwrap();
    assert_eq!((position, checkpoint.truth.get()), (at[0], "2"));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_until_there_is_room() {
    let disk = SimDisk::new(4);
    let (journal, _) = open(&disk, bare()).await;
    journal.append(vec![note(0)]).await.unwrap();
    disk.faults(|faults| faults.space = Some(20));
    let refused = journal.append(vec![note(1)]).await;
    assert!(matches!(refused, Err(AppendError::DiskFull)), "{refused:?}");
    assert!(!journal.is_writable());
    disk.faults(|faults| faults.space = None);
    // Without any traffic it finds out by itself.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(journal.is_writable());
    journal.append(vec![note(2)]).await.unwrap();
    assert_eq!(numbers(journal.read(Position(0))), [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_sync_a_new_segment_is_begun_at_the_same_place() {
    let disk = SimDisk::new(5);
    let (journal, _) = open(&disk, bare()).await;
    let mut rolled = journal.segments_rolled();
    journal.append(vec![note(0)]).await.unwrap();
    let end = journal.end();
    disk.faults(|faults| faults.failing_syncs = 1);
    assert!(matches!(journal.append(vec![note(1)]).await, Err(AppendError::Sync(_))));
    assert_eq!(journal.append(vec![note(2)]).await.unwrap(), [end]);
    assert_eq!(journal.segments(), [Position(0), end]);
    assert_eq!(*rolled.borrow_and_update(), end);
    assert_eq!(numbers(journal.read(Position(0))), [0, 2]);
    let (journal, _) = open(&disk.crash(), Config::default()).await;
    assert_eq!(numbers(journal.read(Position(0))), [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_middle_is_named_and_skipped() {
    let disk = SimDisk::new(6);
    let (journal, _) = open(&disk, Config::default()).await;
    let positions = journal.append((0..9).map(note).collect()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let name = file_name(0);
    let at = |n: usize| positions[n].0 as usize;
    // A payload, a head, and the very last byte.
    let last = journal.end().0 as usize - 1;
    disk.rot(&name, |bytes| [at(2) + 30, at(5) + 1, last].iter().for_each(|at| bytes[*at] ^= 4));
    journal.close().await;
    let (journal, opened) = open(&disk, Config::default()).await;
    let places: Vec<_> = opened.damage.iter().map(|damage| damage.position).collect();
    assert_eq!(places, [positions[2], positions[5], positions[8]]);
    let whys: Vec<_> = opened.damage.iter().map(|damage| damage.why.clone()).collect();
    assert_eq!(whys, [Flaw::Payload, Flaw::Head, Flaw::Payload]);
    assert_eq!(opened.damage[1].bytes, positions[6].0 - positions[5].0);
    let text = opened.damage[0].to_string();
    assert!(text.starts_with("00000000000000000000.log: "), "{text}");
    let read: Vec<_> = journal.read(Position(0)).collect();
    assert_eq!(read.iter().filter(|item| item.is_err()).count(), 3);
    let good: Vec<u32> = read.iter().flatten().map(|entry| number(&entry.record)).collect();
    assert_eq!(good, [0, 1, 3, 4, 6, 7]);
    assert!(journal.read_one(positions[5]).is_err());
    assert!(journal.read_one(positions[6]).unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_missing_segment_and_a_cut_one_are_named() {
    let disk = SimDisk::new(7);
    let (journal, _) = open(&disk, small()).await;
    for n in 0..60 {
        journal.append(vec![note(n)]).await.unwrap();
    }
    let bases = journal.segments();
    disk.rot(&file_name(bases[1].0), |bytes| bytes.truncate(bytes.len() - 40));
    crate::disk::Disk::remove(&disk, &file_name(bases[3].0)).unwrap();
    let read: Vec<_> = journal.read(Position(0)).collect();
    let damage: Vec<_> = read.iter().filter_map(|item| item.as_ref().err()).collect();
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert_eq!((damage[0].segment, &damage[0].why), (bases[1], &Flaw::Missing));
    assert_eq!((damage[1].segment, damage[1].bytes), (bases[3], bases[4].0 - bases[3].0));
    let last = read.last().unwrap().as_ref().unwrap();
    assert_eq!(number(&last.record), 59);
    // From outside the missing file is a hole behind its forerunner.
    let outside = read_dir(Arc::new(disk), Position(0)).filter(Result::is_err).count();
    assert_eq!(outside, 2);
}

#[tokio::test(start_paused = true)]
async fn bytes_in_a_body_never_pass_for_a_frame() {
    let disk = SimDisk::new(8);
    let (journal, _) = open(&disk, Config::default()).await;
    let mut forged = Vec::new();
    frame::put(&mut forged, &note(66), false);
    frame::place(&mut forged, 0);
    let mut raw = 1u32.to_le_bytes().to_vec();
    raw.extend(&forged);
    let mut record = note(1);
    if let Record::Quarantined(kept) = &mut record {
        kept.raw = raw;
    }
    journal.append(vec![record]).await.unwrap();
    journal.append(vec![note(2)]).await.unwrap();
    disk.rot(&file_name(0), |bytes| bytes[0] ^= 1);
    let good: Vec<u32> =
        journal.read(Position(0)).flatten().map(|entry| number(&entry.record)).collect();
    assert_eq!(good, [2]);
}

#[tokio::test(start_paused = true)]
async fn old_segments_go_and_their_ids_stay() {
    let disk = SimDisk::new(9);
    let config = Config {
        keep: Duration::from_secs(10 * 3600),
        duplicates_for: Duration::from_secs(30 * 3600),
        ..small()
    };
    let clock = Clock::manual(moment(0));
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let (journal, _) = Journal::open(disk, config, clock.clone()).await.unwrap();
    let mut positions = Vec::new();
    for hour in 0..40 {
        clock.set(moment(hour.into()));
        positions.extend(journal.append(vec![seen(hour, hour.into())]).await.unwrap());
    }
    let kept = journal.retain(Position(0)).await.unwrap();
    assert_eq!((kept.segments, kept.first), (0, Position(0)));
    let safe = positions[35];
    let done = journal.retain(safe).await.unwrap();
    assert!(done.segments > 3 && done.first > positions[20] && done.first <= positions[30]);
    let mut ids = Vec::new();
    for entry in journal.read(Position(0)) {
        if let Record::Keys(keys) = entry.unwrap().record {
            ids.extend(keys.ids);
        }
    }
    let gone = positions.iter().filter(|position| **position < done.first).count() as u32;
    let expected: Vec<EventId> =
        (9..gone).map(|n| EventId::derive([n.to_string().as_str()])).collect();
    assert_eq!((ids.len(), &ids), (done.ids, &expected));
    assert_eq!(journal.retain(safe).await.unwrap().segments, 0);
}

#[tokio::test(start_paused = true)]
async fn too_much_at_once_is_refused_and_append_waits() {
    let disk = SimDisk::new(10);
    let (journal, _) = open(&disk, Config::default()).await;
    let large = |bytes: usize| {
        let Record::Quarantined(kept) = note(0) else { unreachable!() };
        Record::Quarantined(Quarantined { raw: vec![0; bytes], ..kept })
    };
    let refused = journal.append(vec![large(CALL_BYTES_MAX)]).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
    // Nothing runs between these calls, so the writer cannot take any.
    let first = journal.submit(vec![large(QUEUE_BYTES_MAX - 10_000)]);
    let second = journal.submit(vec![large(20_000)]);
    let third = journal.submit(vec![note(1)]);
    assert!(matches!(third.await, Err(AppendError::Busy)));
    journal.append(vec![note(2)]).await.unwrap();
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_submitted_is_written_although_the_handle_is_gone() {
    let disk = SimDisk::new(11);
    let (journal, _) = open(&disk, Config::default()).await;
    let call = journal.submit(vec![note(5)]);
    drop(journal);
    call.await.unwrap();
    let (journal, _) = open(&disk.crash(), Config::default()).await;
    assert_eq!(numbers(journal.read(Position(0))), [5]);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_cannot_be_read_are_named_and_not_cut_off() {
    let disk = SimDisk::new(12);
    let (journal, _) = open(&disk, Config::default()).await;
    for n in 0..100 {
        journal.append(vec![note(n)]).await.unwrap();
    }
    let end = journal.end();
    let mut reader = journal.read(Position(0));
    disk.faults(|faults| faults.unreadable = true);
    let damage = reader.next().unwrap().unwrap_err();
    assert!(matches!(damage.why, Flaw::Unreadable(_)) && damage.bytes == end.0, "{damage}");
    assert!(reader.next().is_none());
    journal.close().await;
    let (journal, opened) = open(&disk, Config::default()).await;
    assert!(opened.torn_bytes == 0 && opened.damage.len() == 1, "{opened:?}");
    journal.append(vec![note(100)]).await.unwrap();
    disk.faults(|faults| faults.unreadable = false);
    assert_eq!(numbers(journal.read(Position(0))), Vec::from_iter(0..=100));
}
