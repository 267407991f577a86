use proptest::prelude::*;

use super::*;
use crate::door::{By, Opener};
use crate::event::Marks;

fn door(requires: Trust) -> Door {
    Door {
        name: "front".into(),
        title: None,
        by: Opener::Fibaro { intercom: "gate".into(), relay: 0 },
        requires,
        max_age: Duration::from_secs(10),
        max_rate: Rate { times: 2, per: Duration::from_secs(60) },
    }
}

fn start() -> Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

fn wish(trust: Trust) -> Opening {
    Opening {
        door: "front".into(),
        for_ms: None,
        trust,
        marks: Marks::default(),
        received: start(),
        time: None,
        by: By::Rule,
        event: None,
        hops: 0,
    }
}

fn at(seconds: u64) -> At {
    let age = Duration::from_secs(seconds);
    At { now: start() + age, steady: age, age: Ok(age) }
}

fn why(door: &Door, wish: &Opening, at: &At, memory: &Memory) -> &'static str {
    admit(door, wish, at, memory).err().map_or("admitted", |why| why.word())
}

#[test]
fn young_plain_news_of_enough_trust_opens() {
    let (fresh, none) = (door(Trust::Fresh), Memory::default());
    assert_eq!(admit(&fresh, &wish(Trust::Fresh), &at(4), &none), Ok(Duration::from_secs(6)));
    assert_eq!(why(&fresh, &wish(Trust::Human), &at(10), &none), "admitted");
    assert_eq!(why(&fresh, &wish(Trust::Authentic), &at(0), &none), "trust_too_low");
    assert_eq!(why(&fresh, &wish(Trust::Fresh), &at(11), &none), "too_old");
    assert_eq!(why(&door(Trust::Authentic), &wish(Trust::Authentic), &at(0), &none), "admitted");
    assert_eq!(why(&door(Trust::Human), &wish(Trust::Fresh), &at(0), &none), "trust_too_low");
}

#[test]
fn whatever_is_marked_or_in_doubt_does_not() {
    let (door, none) = (door(Trust::Fresh), Memory::default());
    for mark in 0..3 {
        let marks = Marks { caught_up: mark == 0, replayed: mark == 1, test: mark == 2 };
        assert_eq!(why(&door, &Opening { marks, ..wish(Trust::Human) }, &at(0), &none), "marked");
    }
    for doubt in [Doubt::Before, Doubt::Jumped, Doubt::StoodStill] {
        let at = At { age: Err(doubt), ..at(0) };
        assert_eq!(why(&door, &wish(Trust::Human), &at, &none), "doubt");
    }
}

#[test]
fn a_sources_own_time_counts_where_it_is_vouched_for() {
    let (fresh, none) = (door(Trust::Fresh), Memory::default());
    let ago = |seconds: i64, trust| Opening {
        time: Some(start() - SignedDuration::from_secs(seconds)),
        ..wish(trust)
    };
    assert_eq!(admit(&fresh, &ago(3, Trust::Fresh), &at(1), &none), Ok(Duration::from_secs(6)));
    assert_eq!(why(&fresh, &ago(11, Trust::Fresh), &at(0), &none), "too_old");
    assert_eq!(why(&fresh, &ago(-2, Trust::Fresh), &at(0), &none), "admitted");
    assert_eq!(why(&fresh, &ago(-3, Trust::Fresh), &at(0), &none), "doubt");
    assert_eq!(why(&door(Trust::Authentic), &ago(11, Trust::Authentic), &at(0), &none), "admitted");
}

#[test]
fn one_at_a_time_and_only_so_often() {
    let (door, wish, mut memory) = (door(Trust::Fresh), wish(Trust::Fresh), Memory::default());
    let later = |seconds: u64| At { steady: Duration::from_secs(seconds), ..at(0) };
    memory.sent(&door, Duration::ZERO);
    assert_eq!(why(&door, &wish, &later(0), &memory), "on_its_way");
    memory.ended();
    assert_eq!(why(&door, &wish, &later(1), &memory), "admitted");
    memory.sent(&door, Duration::from_secs(1));
    memory.ended();
    assert_eq!(why(&door, &wish, &later(59), &memory), "too_often");
    assert_eq!(why(&door, &wish, &later(60), &memory), "admitted");
}

#[test]
fn reasons_are_sentences() {
    let (door, none) = (door(Trust::Fresh), Memory::default());
    let said = |wish: &Opening, at: &At| admit(&door, wish, at, &none).unwrap_err().to_string();
    assert_eq!(
        said(&wish(Trust::Authentic), &at(0)),
        "what led to it is only authentic, and the door requires fresh"
    );
    let late = At { age: Ok(Duration::from_millis(12_345)), ..at(0) };
    let text = said(&wish(Trust::Fresh), &late);
    assert_eq!(text, "the news is 12s300ms old, and the door takes it for 10s");
}

fn trust() -> impl Strategy<Value = Trust> {
    prop_oneof![
        Just(Trust::Unverified),
        Just(Trust::Authentic),
        Just(Trust::Fresh),
        Just(Trust::Human)
    ]
}

proptest! {
    /// Whatever is asked in whatever order: what opens is plain, trusted, young, alone, and not
    /// too often.
    #[test]
    fn nothing_opens_that_must_not(
        needs in trust(),
        wishes in prop::collection::vec(
            (trust(), 0u64..30_000, any::<Option<i16>>(), 0u8..8, 0u64..20_000, any::<bool>()),
            1..60,
        ),
    ) {
        let door = door(needs);
        let (mut memory, mut steady) = (Memory::default(), Duration::ZERO);
        let (mut opened, mut on_way): (Vec<Duration>, bool) = (Vec::new(), false);
        for (trust, age, time, marks, pause, ends) in wishes {
            steady += Duration::from_millis(pause);
            if ends {
                memory.ended();
                on_way = false;
            }
            let now = start() + steady;
            let age = Duration::from_millis(age);
            let time = time.map(|ms| now - SignedDuration::from_millis(i64::from(ms)));
            let marks =
                Marks { caught_up: marks == 1, replayed: marks == 2, test: marks == 3 };
            let wish = Opening { marks, time, ..wish(trust) };
            let at = At { now, steady, age: Ok(age) };
            if let Ok(left) = admit(&door, &wish, &at, &memory) {
                prop_assert!(marks.is_plain() && trust >= needs && !on_way);
                prop_assert!(age + left <= door.max_age);
                if let Some(time) = time.filter(|_| trust >= Trust::Fresh) {
                    prop_assert!(now.duration_since(time) <= SignedDuration::from_secs(10));
                    prop_assert!(now.duration_since(time) >= SignedDuration::from_secs(-2));
                }
                let recent = opened.iter().filter(|at| steady - **at < door.max_rate.per);
                prop_assert!(recent.count() < door.max_rate.times as usize);
                memory.sent(&door, steady);
                opened.push(steady);
                on_way = true;
            }
        }
    }
}

#[test]
fn how_often_it_opened_counts_over_a_restart() {
    let (door, fresh) = (door(Trust::Fresh), wish(Trust::Fresh));
    let ago = |seconds: i64| start() - SignedDuration::from_secs(seconds);
    // The new process has counted 7 s by its own clock.
    let after = |opened: &[i64]| {
        let opened = opened.iter().map(|seconds| ago(*seconds));
        Memory::restore(opened, start(), Duration::from_secs(7))
    };
    let asked = |steady: u64, memory: &Memory| {
        why(&door, &fresh, &At { steady: Duration::from_secs(steady), ..at(0) }, memory)
    };
    assert_eq!(asked(8, &after(&[])), "admitted");
    assert_eq!(asked(8, &after(&[3000, 50])), "admitted");
    assert_eq!(asked(8, &after(&[50, 20])), "too_often");
    assert_eq!(asked(18, &after(&[50, 20])), "admitted");
    // The wall clock was put back meanwhile.
    assert_eq!(asked(8, &after(&[-500, -400])), "too_often");
}
