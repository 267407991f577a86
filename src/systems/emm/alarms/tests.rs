//! One activation, one fact: pushed, listed, ended, and what odd lists may not do.

use std::time::Duration;

use super::*;
use crate::systems::emm::notification;

/// Second 0 of the tests, of the wall clock.
const ZERO: i64 = 1_800_000_000;

fn at(second: i64) -> Moment {
    stepped(second, 0)
}

/// The wall clock was turned by so many seconds; the other one was not.
fn stepped(second: i64, by: i64) -> Moment {
    let wall = Timestamp::from_second(ZERO + second + by).unwrap();
    Moment { wall, since: Duration::from_secs(second as u64) }
}

fn alarm(fields: Value) -> Alarm {
    notification::alarm(fields.as_object().unwrap().clone()).unwrap()
}

fn pushed(id: i64, since: i64, is_cleared: bool) -> Alarm {
    by_message(id, since, 10 * since, is_cleared)
}

fn by_message(id: i64, since: i64, msg_id: i64, is_cleared: bool) -> Alarm {
    alarm(json!({ "id": id, "active_time": ZERO + since, "msg_id": msg_id,
        "cleared": is_cleared, "name": "Lift" }))
}

fn listed(id: i64, duration: i64) -> Alarm {
    alarm(json!({ "id": id, "alarm_name": "Lift", "duration": duration }))
}

fn keys(changes: &[Change]) -> Vec<(String, bool)> {
    changes.iter().filter(|c| c.is_news).map(|c| (c.key.clone(), c.is_cleared)).collect()
}

fn key(key: &str, is_cleared: bool) -> Vec<(String, bool)> {
    vec![(key.to_string(), is_cleared)]
}

impl Alarms {
    fn push(&mut self, alarm: &Alarm, now: Moment) -> Vec<Change> {
        self.pushed(alarm, now.wall, now)
    }

    fn list(&mut self, list: &[Alarm], now: Moment) -> Vec<Change> {
        self.listed(list, Cover::Whole, now).0
    }
}

#[test]
fn pushed_and_listed_are_one_fact_in_either_order() {
    let mut alarms = Alarms::default();
    let raised = alarms.push(&pushed(1, 5, false), at(20));
    assert_eq!(keys(&raised), key("1:50:1800000005", false));
    assert_eq!(keys(&alarms.list(&[listed(1, 95)], at(100))), []);
    let gone = alarms.list(&[], at(130));
    assert_eq!(keys(&gone), key("1:50:1800000005", true));
    assert!(gone[0].is_concluded);
    // The push of the end comes late.
    let late = alarms.push(&pushed(1, 5, true), at(131));
    assert_eq!(keys(&late), key("1:50:1800000005", true));
    assert_eq!(late[0].state, None);

    let found = alarms.list(&[listed(2, 10)], at(200));
    assert_eq!(keys(&found), key("2:listed:1800000190:1", false));
    let pushed_late = alarms.push(&pushed(2, 190, false), at(230));
    assert_eq!(keys(&pushed_late), key("2:listed:1800000190:1", false));
}

#[test]
fn a_number_that_is_used_again_is_another_alarm() {
    let mut alarms = Alarms::default();
    alarms.push(&pushed(1, 5, false), at(20));
    alarms.push(&pushed(1, 5, true), at(50));
    let again = alarms.push(&pushed(1, 60, false), at(80));
    assert_eq!(keys(&again), key("1:600:1800000060", false));
    let other = alarms.push(&pushed(1, 700, false), at(720));
    assert_eq!(keys(&other).len(), 2, "the lost end is concluded");
}

#[test]
fn a_late_copy_raises_nothing_again_and_an_old_end_ends_nothing_new() {
    let mut alarms = Alarms::default();
    alarms.push(&pushed(1, 5, false), at(20));
    alarms.push(&pushed(1, 5, true), at(50));
    assert_eq!(alarms.push(&pushed(1, 5, false), at(51))[0].state, None);
    assert_eq!(alarms.active.len(), 0);
    alarms.push(&pushed(1, 60, false), at(80));
    assert_eq!(alarms.push(&pushed(1, 5, true), at(81))[0].state, None);
    assert_eq!(alarms.active.len(), 1);
    // The end before the beginning, as a reordered batch tells them.
    let end = alarms.push(&pushed(2, 90, true), at(95));
    let begin = alarms.push(&pushed(2, 90, false), at(95));
    assert_eq!((end[0].key.clone(), begin[0].state.clone()), (begin[0].key.clone(), None));
}

#[test]
fn the_same_moment_with_another_message_is_raised_again_after_an_end() {
    let mut alarms = Alarms::default();
    alarms.push(&by_message(1, 5, 50, false), at(20));
    alarms.push(&by_message(1, 5, 50, true), at(50));
    let again = alarms.push(&by_message(1, 5, 77, false), at(80));
    assert_eq!(keys(&again), key("1:77:1800000005", false));
    assert!(again[0].state.is_some());
    // A late copy of the first end does not end it, its own end does.
    assert_eq!(alarms.push(&by_message(1, 5, 50, true), at(81))[0].state, None);
    let end = alarms.push(&by_message(1, 5, 77, true), at(90));
    assert_eq!((keys(&end), &end[0].state), (key("1:77:1800000005", true), &Some(State::Gone)));
}

#[test]
fn what_says_neither_moment_nor_message_is_named_anew_after_each_end() {
    let mut alarms = Alarms::default();
    let (raise, clear) = (json!({ "id": 1 }), json!({ "id": 1, "cleared": true }));
    let mut names = BTreeSet::new();
    for n in 0..3 {
        let begin = alarms.push(&alarm(raise.clone()), at(10 * n));
        assert_eq!(keys(&begin), keys(&alarms.push(&alarm(raise.clone()), at(10 * n + 1))));
        names.extend(keys(&begin));
        let end = alarms.push(&alarm(clear.clone()), at(10 * n + 2));
        assert_eq!((&end[0].key, &end[0].state), (&begin[0].key, &Some(State::Gone)));
    }
    assert_eq!(names.len(), 3);
}

#[test]
fn what_is_found_after_a_false_end_has_another_name_even_after_a_restart() {
    let mut alarms = Alarms::default();
    let mut names = BTreeSet::new();
    for round in 0..4 {
        // The same beginning each time: 100 s after zero.
        let now = 120 + 10 * round;
        let found = keys(&alarms.list(&[listed(7, now - 100)], at(now)));
        assert!(names.insert(found[0].0.clone()), "{found:?} was told before");
        assert_eq!(keys(&alarms.list(&[], at(now + 5))).len(), 1);
        alarms = Alarms::restore(std::iter::empty(), alarms.ends());
    }
}

#[test]
fn an_alarm_in_the_list_is_not_over_whatever_its_duration_says() {
    let mut alarms = Alarms::default();
    alarms.push(&pushed(1, 5, false), at(20));
    alarms.list(&[listed(1, 10), listed(2, 5)], at(21));
    let mut looks_again = 0;
    for n in 1..20 {
        for duration in [5, 0, 1, 1_000_000_000_000, 5, 5] {
            let (changes, is_doubtful) =
                alarms.listed(&[listed(1, 5), listed(2, duration)], Cover::Whole, at(600 * n));
            assert_eq!(keys(&changes), []);
            looks_again += i32::from(is_doubtful);
        }
    }
    assert!(looks_again < 250, "{looks_again}");
    let frozen = [listed(1, 5), listed(2, 5), listed(3, 5)];
    alarms.list(&frozen, at(20_000));
    let again = (1..50).filter(|n| alarms.listed(&frozen, Cover::Whole, at(20_000 + 60 * n)).1);
    assert!(again.count() <= 1, "a number that stands still is asked about once");
}

#[test]
fn a_missed_end_and_beginning_are_one_new_alarm_once_its_duration_runs() {
    let mut alarms = Alarms::default();
    alarms.push(&pushed(1, 5, false), at(20));
    let look = |alarms: &mut Alarms, second, duration| {
        let (changes, is_doubtful) =
            alarms.listed(&[listed(1, duration)], Cover::Whole, at(second));
        (keys(&changes), is_doubtful)
    };
    assert_eq!(look(&mut alarms, 600, 595), (vec![], false));
    assert_eq!(look(&mut alarms, 1200, 30), (vec![], true));
    assert_eq!(look(&mut alarms, 1203, 33), (vec![], true), "too near to tell");
    assert_eq!(look(&mut alarms, 1211, 41), (key("1:listed:1800001170:1", false), false));
    assert_eq!(look(&mut alarms, 1800, 630), (vec![], false));
    // Where the list gives the moment, nothing else is needed.
    let mut other = listed(1, 40);
    other.active_time = Some(ZERO + 2000);
    let mut known = listed(1, 640);
    known.active_time = Some(ZERO + 1170);
    assert_eq!(keys(&alarms.list(&[known], at(1810))), []);
    assert_eq!(keys(&alarms.list(&[other.clone()], at(2040))).len(), 1);
    assert_eq!(keys(&alarms.list(&[other], at(2050))), []);
}

#[test]
fn our_own_clock_may_be_turned() {
    for by in [-86_400, 86_400] {
        let mut alarms = Alarms::default();
        alarms.push(&pushed(1, 5, false), at(20));
        alarms.list(&[listed(1, 15), listed(2, 10)], at(20));
        for n in 1..5 {
            let now = stepped(20 + 100 * n, by);
            let (changes, is_doubtful) = alarms.listed(
                &[listed(1, 15 + 100 * n), listed(2, 10 + 100 * n)],
                Cover::Whole,
                now,
            );
            assert_eq!((keys(&changes), is_doubtful), (vec![], false), "{by}");
        }
        // Known since an earlier run, and the clock is turned after the first look.
        let Some(State::Is(value)) = alarms.push(&pushed(3, 400, false), at(430))[0].state.clone()
        else {
            panic!("a state")
        };
        let mut again = Alarms::restore([value].into_iter(), 0);
        assert_eq!(keys(&again.list(&[listed(3, 100)], at(500))), []);
        assert_eq!(keys(&again.list(&[listed(3, 200)], stepped(600, by))), []);
        assert_eq!(keys(&again.list(&[listed(3, 300)], stepped(700, by))), []);
    }
}

#[test]
fn a_likely_end_needs_a_second_look_and_a_partial_list_says_nothing() {
    let mut alarms = Alarms::default();
    alarms.push(&pushed(1, 5, false), at(20));
    let look = |alarms: &mut Alarms, cover, second| {
        let (changes, is_doubtful) = alarms.listed(&[], cover, at(second));
        (keys(&changes).len(), is_doubtful)
    };
    assert_eq!(look(&mut alarms, Cover::Partial, 30), (0, false));
    assert_eq!(look(&mut alarms, Cover::Likely, 40), (0, true));
    assert_eq!(look(&mut alarms, Cover::Likely, 42), (0, true), "too near to tell");
    // It is there again.
    alarms.list(&[listed(1, 40)], at(45));
    assert_eq!(look(&mut alarms, Cover::Likely, 50), (0, true));
    assert_eq!(look(&mut alarms, Cover::Partial, 55), (0, false));
    assert_eq!(look(&mut alarms, Cover::Likely, 60), (1, false));
}

#[test]
fn a_restart_forgets_nothing() {
    let mut alarms = Alarms::default();
    let raised = alarms.push(&pushed(1, 5, false), at(20));
    let Some(State::Is(value)) = raised[0].state.clone() else { panic!("a state") };
    let mut again = Alarms::restore([value].into_iter(), 0);
    assert_eq!(keys(&again.push(&pushed(1, 5, false), at(90))), keys(&raised));
    assert_eq!(keys(&again.list(&[], at(91))), key("1:50:1800000005", true));
}
