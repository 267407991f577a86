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

fn moment(hours: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
}

fn note(n: u32) -> Record {
    let raw = n.to_le_bytes().to_vec();
    let (source, reason) = ("hook/x".into(), "test".into());
    Record::Quarantined(Quarantined { source, reason, received: moment(0), raw })
}

fn number(record: &Record) -> u32 {
    match record {
        Record::Quarantined(kept) => u32::from_le_bytes(kept.raw[..4].try_into().unwrap()),
        other => panic!("{other:?}"),
    }
}

fn seen(id: u32, hours: i64) -> Record {
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

fn small() -> Config {
    Config { segment_bytes: 1000, ..Config::default() }
}

async fn open(disk: &SimDisk, config: Config) -> (Journal, Opened) {
    let disk = Arc::new(disk.clone());
    Journal::open(disk, config, Clock::manual(moment(0))).await.unwrap()
}

fn numbers(reader: Reader) -> Vec<u32> {
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
    drop(journal);

    let (journal, opened) = Journal::open(disk, small(), Clock::manual(moment(0))).await.unwrap();
    assert_eq!((opened.damage, opened.torn_bytes), (vec![], 0));
    assert_eq!(numbers(journal.read(Position(0))), Vec::from_iter(0..40));
}

#[tokio::test(start_paused = true)]
async fn calls_keep_their_order_and_share_syncs() {
    let disk = SimDisk::new(1);
    let (journal, _) = open(&disk, Config::default()).await;
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
            tokio::time::sleep(Duration::from_millis(1)).await; // Lets the writer leave its mark.
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
    drop(journal);
    let (_, opened) = open(&disk, small()).await;
    let (position, checkpoint) = opened.checkpoint.unwrap();
    assert_eq!((position, checkpoint.truth.get()), (at[0], "2"));
}
