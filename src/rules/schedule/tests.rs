use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;

const ZONES: [&str; 9] = [
    "Europe/Paris",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "America/Santiago",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "UTC",
];

fn house(zone: &str) -> House {
    let place = Some(Place { latitude: 48.85, longitude: 2.35 });
    House { time_zone: TimeZone::get(zone).unwrap(), place, ..House::default() }
}

fn schedule(what: What) -> Schedule {
    Schedule { what, late: LATE_DEFAULT, said: String::new() }
}

fn at(text: &str) -> Schedule {
    schedule(What::At(parse_clock_time(text).unwrap()))
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_time_left_out_comes_with_the_jump_and_one_shown_twice_comes_once() {
    let next = |after| at("02:30").next(moment(after), &house("Europe/Paris")).unwrap().to_string();
    assert_eq!(next("2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
    assert_eq!(next("2026-03-29T01:00:00Z"), "2026-03-30T00:30:00Z");
    assert_eq!(next("2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
    assert_eq!(next("2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
    // Samoa left a whole day out.
    let next = at("08:00").next(moment("2011-12-29T20:00:00Z"), &house("Pacific/Apia")).unwrap();
    assert_eq!(next.to_string(), "2011-12-30T10:00:00Z");
}

#[test]
fn the_latest_of_many_is_found_and_is_one_of_them() {
    let house = house("Europe/Paris");
    let (from, now) = (moment("2026-01-01T06:00:00Z"), moment("2026-11-20T11:00:00Z"));
    assert_eq!(at("07:00").latest(from, now, &house).to_string(), "2026-11-20T06:00:00Z");
    assert_eq!(at("07:00").latest(from, from, &house), from);
    let minutes = schedule(What::Cron(Box::new(Cron::parse("* * * * *").unwrap())));
    assert_eq!(minutes.latest(from, now, &house), now);
    let rare = schedule(What::Cron(Box::new(Cron::parse("0 7 2 jan *").unwrap())));
    assert_eq!(rare.latest(from, now, &house).to_string(), "2026-01-02T06:00:00Z");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Strictly later, within two days, and the clock shows the time unless it leaves it out.
    #[test]
    fn the_next_time_is_later_and_is_what_the_clock_shows(
        seconds in 0_i64..4_000_000_000, zone in 0..ZONES.len(), hour in 0_i8..24, minute in 0_i8..60,
    ) {
        let house = house(ZONES[zone]);
        let time = Time::new(hour, minute, 0, 0).unwrap();
        let after = Timestamp::from_second(seconds).unwrap();
        let schedule = schedule(What::At(time));
        let next = schedule.next(after, &house).unwrap();
        prop_assert!(next > after);
        prop_assert!(next.duration_since(after).as_hours() < 49);
        prop_assert!(schedule.comes_at(next, &house));
        let shown = next.to_zoned(house.time_zone.clone());
        if shown.time() != time {
            let jump = house.time_zone.following(
                next.saturating_sub(SignedDuration::from_secs(1)).unwrap()
            ).next().unwrap();
            prop_assert_eq!(jump.timestamp(), next);
            let before = jiff::tz::Offset::from_seconds(
                house.time_zone.to_offset(
                    next.saturating_sub(SignedDuration::from_secs(1)).unwrap()).seconds()
            ).unwrap();
            prop_assert!(before < jump.offset(), "left out only where the clock is put forward");
        }
    }

    /// From one to the next no day is left out and none is there twice. From 2014 on: at the end of
    /// 2011 Apia left out a whole day, whose time comes at the jump, hours before the next day's.
    #[test]
    fn each_day_has_it_once(seconds in 1_400_000_000_i64..3_000_000_000, zone in 0..ZONES.len(),
        hour in 0_i8..24, minute in 0_i8..60,
    ) {
        let house = house(ZONES[zone]);
        let schedule = schedule(What::At(Time::new(hour, minute, 0, 0).unwrap()));
        let mut at = Timestamp::from_second(seconds).unwrap();
        at = schedule.next(at, &house).unwrap();
        for _ in 0..30 {
            let next = schedule.next(at, &house).unwrap();
            let hours = next.duration_since(at).as_secs() as f64 / 3600.0;
            prop_assert!((21.9..=26.1).contains(&hours), "{at} then {next}");
            at = next;
        }
    }

    #[test]
    fn crons_and_the_sun_come_later_too(
        seconds in 0_i64..4_000_000_000, zone in 0..ZONES.len(), hour in 0..24, minute in 0..60,
        offset in -12_i64..=12,
    ) {
        let house = house(ZONES[zone]);
        let after = Timestamp::from_second(seconds).unwrap();
        let cron = format!("{minute} {hour} * * mon-fri");
        let daily = schedule(What::Cron(Box::new(Cron::parse(&cron).unwrap())));
        let offset = SignedDuration::from_hours(offset);
        for schedule in [daily, schedule(What::Sun { sun: Sun::Sets, offset })] {
            let next = schedule.next(after, &house).unwrap();
            prop_assert!(next > after && schedule.comes_at(next, &house));
            let later = schedule.next(next, &house).unwrap();
            prop_assert!(later > next);
            prop_assert_eq!(schedule.latest(next, later, &house), later);
        }
    }
}

// === in a decision ===

use crate::record::{Decided, Position};
use crate::rules::{Memory, RuleSet, explain};
use crate::timer::{End, SCHEDULE_SET_EVENT};
use std::sync::Arc;

const RULES: &str = r#"
rules:
  - name: morning
    when: { at: ["07:00", "19:00"] }
    do: [ { set: { house/woken: "{{ event.time.strftime('%H:%M') }}" } } ]
"#;

fn load(text: &str, house: &House) -> RuleSet {
    let file = crate::node::SourceFile::new("rules/a.yaml", text);
    RuleSet::load(vec![file], house).unwrap_or_else(|wrong| panic!("{}", wrong.render()))
}

fn set(rules: &RuleSet, memory: &mut Memory, now: &str) -> Decided {
    let names = serde_json::json!({ "rules": rules.unscheduled(memory) });
    let serde_json::Value::Object(data) = names else { unreachable!() };
    let event = crate::event::own_event(SCHEDULE_SET_EVENT, now, data, moment(now));
    take(rules, memory, event, now)
}

fn take(rules: &RuleSet, memory: &mut Memory, event: crate::event::Event, now: &str) -> Decided {
    let decided = rules.decide(&Arc::new(event), Position(1), memory, moment(now));
    memory.apply_decided(&decided, decided.at);
    decided
}

fn dues(memory: &Memory) -> Vec<String> {
    let mut all: Vec<_> = memory.timers().iter().map(|timer| timer.due.to_string()).collect();
    all.sort();
    all
}

/// The decision when the next one is found due at `now`.
fn due(rules: &RuleSet, memory: &mut Memory, now: &str) -> Decided {
    let event = memory.timers().due(moment(now)).next().unwrap().due_event(moment(now));
    take(rules, memory, event, now)
}

#[test]
fn each_time_is_set_once_and_leads_to_the_next() {
    let (house, mut memory) = (house("UTC"), Memory::new());
    let rules = load(RULES, &house);
    assert_eq!(rules.unscheduled(&memory), ["morning"]);
    let decided = set(&rules, &mut memory, "2026-11-20T06:00:00Z");
    let said = explain(&decided, &house.time_zone);
    assert!(said.contains("morning: waits\n    at 07:00: next at 07:00:00\n"), "{said}");
    assert_eq!(dues(&memory), ["2026-11-20T07:00:00Z", "2026-11-20T19:00:00Z"]);
    assert_eq!(rules.unscheduled(&memory), Vec::<&str>::new());
    assert_eq!(set(&rules, &mut memory, "2026-11-20T06:01:00Z").begun, []);
    let decided = due(&rules, &mut memory, "2026-11-20T07:00:00Z");
    assert_eq!(decided.sets[0].value, "07:00");
    let said = explain(&decided, &house.time_zone);
    assert!(said.contains("morning: fired\n    next at 2026-11-21 07:00:00\n"), "{said}");
    assert_eq!(dues(&memory), ["2026-11-20T19:00:00Z", "2026-11-21T07:00:00Z"]);
}

#[test]
fn a_late_one_says_so_and_one_that_is_too_late_too() {
    let (house, mut memory) = (house("UTC"), Memory::new());
    let rules = load(RULES, &house);
    set(&rules, &mut memory, "2026-11-20T06:00:00Z");
    let decided = due(&rules, &mut memory, "2026-11-22T07:10:00Z");
    let why = &decided.looked[0].why;
    assert_eq!(
        why,
        "600 s late: it was due at 07:00:00; for all that it missed since 2026-11-20 07:00:00"
    );
    let decided = due(&rules, &mut memory, "2026-11-22T07:10:00Z");
    assert_eq!(
        decided.looked[0].why,
        "at 19:00: it was due at 2026-11-21 19:00:00 and is too late"
    );
    assert_eq!((decided.ended[0].why, decided.sets.len()), (End::Expired, 0));
    assert_eq!(dues(&memory), ["2026-11-22T19:00:00Z", "2026-11-23T07:00:00Z"]);
}

#[test]
fn another_time_zone_sets_anew_and_other_rules_do_not() {
    let mut memory = Memory::new();
    set(&load(RULES, &house("UTC")), &mut memory, "2026-11-20T06:00:00Z");
    let more = format!("{RULES}  - {{ name: b, when: {{ at: '08:00' }}, do: [ stop ] }}\n");
    assert_eq!(load(&more, &house("UTC")).unscheduled(&memory), ["b"]);
    let moved = load(RULES, &house("Europe/Paris"));
    let decided = set(&moved, &mut memory, "2026-11-20T06:00:00Z");
    assert_eq!((decided.ended.len(), decided.begun.len()), (2, 2));
    assert_eq!(dues(&memory), ["2026-11-20T18:00:00Z", "2026-11-21T06:00:00Z"]);
}

#[test]
fn a_clock_that_is_put_back_brings_no_time_twice() {
    let (house, mut memory) = (house("UTC"), Memory::new());
    let rules = load(RULES, &house);
    set(&rules, &mut memory, "2026-11-20T06:00:00Z");
    let timer = memory.timers().due(moment("2026-11-20T07:00:00Z")).next().unwrap().clone();
    let first = timer.due_event(moment("2026-11-20T07:00:00Z"));
    // Put back between the word that it is due and the decision.
    assert_eq!(take(&rules, &mut memory, first.clone(), "2026-11-20T06:30:00Z").sets.len(), 1);
    assert_eq!(dues(&memory), ["2026-11-20T19:00:00Z", "2026-11-21T07:00:00Z"]);
    // Said again, it is another event and decides nothing.
    let again = timer.due_again(moment("2026-11-20T07:02:00Z"));
    assert_ne!(again.id, first.id);
    assert_eq!(take(&rules, &mut memory, again, "2026-11-20T07:02:00Z").looked, []);
}

#[test]
fn sunset_needs_a_place() {
    let text = "rules:\n  - { name: a, when: { sun: sunset }, do: [ stop ] }\n";
    let file = crate::node::SourceFile::new("rules/a.yaml", text);
    let wrong = RuleSet::load(vec![file], &House::default()).unwrap_err().to_string();
    assert!(wrong.contains("needs to know where the house is"), "{wrong}");
    assert!(wrong.contains("`latitude` and `longitude` to [house]"), "{wrong}");
}
