//! The index against journals it has seen whole, partly, or not at all.

use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::clock::Clock;
use crate::disk::SimDisk;
use crate::event::{Event, Marks};
use crate::journal::Config;
use crate::record::Keys;
use crate::record::{Decided, PhoneChange, Subscription};

fn moment(s: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + s).unwrap()
}

fn id(n: u32) -> EventId {
    EventId::derive([n.to_string().as_str()])
}

fn seen(n: u32) -> Record {
    Record::Seen(Arc::new(Event {
        id: id(n),
        source: "hook/x".into(),
        kind: "x.y".into(),
        subject: None,
        time: None,
        received: moment(n.into()),
        trust: Trust::Authentic,
        marks: Marks::default(),
        hops: 0,
        data: Default::default(),
        raw: vec![1; 50],
    }))
}

fn decided(n: u32, seen: Position, sets: Vec<StateSet>) -> Record {
    Record::Decided(Arc::new(Decided {
        event: id(n),
        seen,
        at: moment(n.into()),
        rules: "0".into(),
        sets,
        ..Decided::default()
    }))
}

fn set(path: &str, value: Value) -> StateSet {
    StateSet { path: path.into(), value, trust: Trust::Fresh }
}

fn phone(name: &str) -> PhoneId {
    PhoneId(name.into())
}

fn added(name: &str) -> Record {
    let (id, person, name) = (phone(name), "ana".into(), "Ana's phone".into());
    let (session, code, at) = (None, None, moment(0));
    Record::Phone(PhoneChange::Added { id, person, name, session, code, at })
}

fn subscribed(name: &str) -> Record {
    let subscription = Subscription {
        endpoint: "https://push.example.org/1".into(),
        p256dh: "p".into(),
        auth: "a".into(),
        vapid: String::new(),
    };
    Record::Phone(PhoneChange::Subscribed { id: phone(name), subscription, at: moment(9) })
}

async fn journal(disk: &SimDisk) -> Journal {
    let config = Config { segment_bytes: 4000, ..Config::default() };
    let clock = Clock::manual(moment(0));
    Journal::open(Arc::new(disk.clone()), config, clock).await.unwrap().0
}

/// Events 0 to 49, all but the last ten decided; two phones, one of them gone again; states.
async fn filled(disk: &SimDisk) -> Journal {
    let journal = journal(disk).await;
    for n in 0..50 {
        let at = journal.append(vec![seen(n)]).await.unwrap()[0];
        if n < 40 {
            let sets = vec![
                set("count", n.into()),
                set("old", if n < 20 { 1.into() } else { Value::Null }),
            ];
            journal.append(vec![decided(n, at, sets)]).await.unwrap();
        }
    }
    let gone = PhoneChange::Removed { id: phone("b"), at: moment(9) };
    let records =
        vec![added("a"), added("b"), subscribed("a"), subscribed("b"), Record::Phone(gone)];
    journal.append(records).await.unwrap();
    journal
}

/// All that an index holds.
fn contents(index: &Index) -> impl PartialEq + std::fmt::Debug + use<> {
    let places: Vec<_> =
        (0..60).map(|n| (index.seen(id(n)).unwrap(), index.decided(id(n)).unwrap())).collect();
    (places, index.states().unwrap(), index.phones().unwrap(), index.cursor().unwrap())
}

#[tokio::test(start_paused = true)]
async fn deleted_or_behind_it_becomes_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let disk = SimDisk::new(1);
    let journal = filled(&disk).await;
    let (index, condition) = Index::open(&path).unwrap();
    assert_eq!(condition, Condition::Missing);
    let done = index.catch_up(&journal).unwrap();
    assert_eq!((done.entries, done.rebuilt, done.is_partial), (95, None, false));
    let whole = contents(&index);
    assert_eq!(index.seen(id(50)).unwrap(), None);
    assert!(index.decided(id(39)).unwrap() > index.seen(id(39)).unwrap());
    assert_eq!(index.decided(id(40)).unwrap(), None);
    assert_eq!(index.state("count").unwrap().unwrap().value, 39);
    assert_eq!(index.state("old").unwrap(), None);
    assert!(index.phone(&phone("a")).unwrap().unwrap().subscription.is_some());
    assert_eq!(index.phone(&phone("b")).unwrap(), None);

    index.flush().unwrap();
    assert!(matches!(Index::open(&path), Err(IndexError::Busy { .. })));
    drop(index);
    let (index, condition) = Index::open(&path).unwrap();
    assert_eq!((condition, index.catch_up(&journal).unwrap().entries), (Condition::Kept, 0));
    assert_eq!(contents(&index), whole);
    drop(index);

    fs::remove_dir_all(&path).unwrap();
    let (index, _) = Index::open(&path).unwrap();
    let entries: Vec<Entry> = journal.read(Position(0)).map(Result::unwrap).collect();
    index.apply(&entries[..33]).unwrap();
    index.apply(&entries[20..50]).unwrap();
    index.catch_up(&journal).unwrap();
    assert_eq!(contents(&index), whole);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_index_is_moved_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    for text in ["first", "second"] {
        let _ = fs::remove_dir_all(&path);
        fs::write(&path, text).unwrap();
        let (index, condition) = Index::open(&path).unwrap();
        let Condition::Damaged { moved_to, .. } = condition else { panic!("{condition:?}") };
        assert_eq!(fs::read_to_string(moved_to).unwrap(), text);
        assert_eq!(index.cursor().unwrap(), Position(0));
    }
}

/// sled goes back to before the damage, and its cursor with it; so nothing is missing afterwards.
#[tokio::test(start_paused = true)]
async fn a_damaged_index_becomes_whole_again() {
    let folder = tempfile::tempdir().unwrap();
    let journal = filled(&SimDisk::new(5)).await;
    let path = folder.path().join("index");
    let whole = {
        let (index, _) = Index::open(&path).unwrap();
        for entry in journal.read(Position(0)) {
            index.apply(&[entry.unwrap()]).unwrap();
        }
        index.flush().unwrap();
        contents(&index)
    };
    let (db, conf) = (fs::read(path.join("db")).unwrap(), fs::read(path.join("conf")).unwrap());
    for n in 0..20 {
        let path = folder.path().join(n.to_string());
        let mut damaged = db.clone();
        damaged[n * (db.len() - 1) / 19] ^= 0x55;
        fs::create_dir(&path).unwrap();
        fs::write(path.join("db"), damaged).unwrap();
        fs::write(path.join("conf"), &conf).unwrap();
        let (index, _) = Index::open(&path).unwrap();
        index.catch_up(&journal).unwrap();
        assert_eq!(contents(&index), whole, "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_cannot_be_right_empties_it() {
    let folder = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(folder.path().join("index")).unwrap();
    let journal = filled(&SimDisk::new(2)).await;
    index.catch_up(&journal).unwrap();
    let whole = contents(&index);
    for wrong in [Position(journal.end().0 + 1), Position(101)] {
        index.set_cursor(wrong).unwrap();
        let done = index.catch_up(&journal).unwrap();
        assert!(done.rebuilt.is_some() && done.entries == 95, "{done:?}");
        assert_eq!(contents(&index), whole);
    }
}

#[tokio::test(start_paused = true)]
async fn ids_go_with_their_segments_unless_carried() {
    let folder = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(folder.path().join("index")).unwrap();
    let journal = filled(&SimDisk::new(3)).await;
    index.catch_up(&journal).unwrap();
    let keys = Keys { received: moment(3), ids: vec![id(3), id(99)] };
    let at = journal.append(vec![Record::Keys(keys)]).await.unwrap()[0];
    index.catch_up(&journal).unwrap();
    let first = index.seen(id(10)).unwrap().unwrap();
    assert_eq!(index.forget_before(first).unwrap(), 9);
    assert_eq!(index.seen(id(2)).unwrap(), None);
    assert_eq!(index.seen(id(3)).unwrap(), Some(at));
    assert!(index.decided(id(3)).unwrap().is_some());
    assert_eq!(index.seen(id(99)).unwrap(), Some(at));
    assert_eq!(index.seen(id(10)).unwrap(), Some(first));
}

#[tokio::test(start_paused = true)]
async fn what_a_checkpoint_says_replaces_state_and_phones() {
    let folder = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(folder.path().join("index")).unwrap();
    let journal = filled(&SimDisk::new(4)).await;
    index.catch_up(&journal).unwrap();
    let (row, state) = (index.phone(&phone("a")).unwrap().unwrap(), index.states().unwrap());
    let (phones, states) = ([(phone("c"), row.clone())], [("x".to_string(), state[0].1.clone())]);
    index.restore(states.clone(), phones.clone()).unwrap();
    assert_eq!(index.phones().unwrap(), phones);
    assert_eq!(index.states().unwrap(), states);
    assert!(index.seen(id(1)).unwrap().is_some());
}

#[test]
fn an_index_elsewhere_is_like_any_other_and_leaves_nothing() {
    let index = Index::aside().unwrap();
    assert_eq!(index.cursor().unwrap(), Position(0));
    let path = index.path.clone();
    assert!(path.exists());
    drop(index);
    assert!(!path.exists());
}
