//! Properties of the engine over made-up events and files: decisions do not depend on restarts,
//! the index loses nothing, no file makes it panic.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::RuleSet;
use super::tell::tests::estate;
use super::tests::{decide, event, load, memory, noon, settle};
use crate::action::Outcome;
use crate::event::{Event, EventId, HOPS_MAX};
use crate::node::SourceFile;
use crate::record::{Decided, Position};

/// Events of the kinds that the rules below know, with data that sometimes fits.
fn any_event() -> impl Strategy<Value = Arc<Event>> {
    let kinds = prop_oneof![
        Just("netatmo.ring"),
        Just("netatmo.battery_status"),
        Just("house.count"),
        Just("netatmo.smoke")
    ];
    let value = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|flag| json!(flag)),
        (-3i64..3).prop_map(|number| json!(number)),
        // Quarters survive JSON exactly; serde_json reads other floats to the last digit but one.
        (-300i32..300).prop_map(|number| json!(f64::from(number) / 4.0)),
        "[a-c{}é ]{0,6}".prop_map(|text| json!(text)),
        Just(json!([1, { "a": [] }])),
    ];
    let names = prop_oneof![Just("n"), Just("sub_type"), Just("home_name"), Just("x")];
    let data = proptest::collection::btree_map(names, value, 0..4);
    (kinds, data, 0u8..=HOPS_MAX).prop_map(|(kind, data, hops)| {
        let mut made = (*event(kind, json!(data))).clone();
        made.hops = hops;
        Arc::new(made)
    })
}

const LIVELY: &str = r#"
rules:
  - name: ring
    when: { type: netatmo.ring }
    if: event.data.n != 2 and not state("quiet")
    cooldown: { every: 30s, key: "{{ event.data.home_name }}" }
    do:
      - push: { to: family, title: "{{ event.data.home_name ~ event.data.x }}" }
      - set: { "rang/{{ event.data.n }}": "{{ event.data.x }}", quiet: "{{ event.data.sub_type }}" }
      - emit: { type: house.count, data: { n: "{{ event.data.n }}" } }
  - name: battery
    when: { type: netatmo.battery_status, data: { sub_type: [0, 1, null] } }
    cooldown: 1h
    do:
      - if: event.data.sub_type > 0
        then: [ { push: { to: ana, title: x, urgency: high } } ]
        else: [ { push: { to: "{{ event.data.x }}", title: "{% for n in event.data.x %}{{ n }}{% endfor %}" } } ]
  - name: count
    when: { type: house.* }
    if: event.data.n / 2 > 0 or state("rang/1") is defined
    do: [ { set: { count: "{{ (state('count') | default(0)) + 1 }}" } }, stop ]
  - name: tell
    when: { type: [netatmo.smoke, house.count] }
    cooldown: { every: 20s, key: "{{ event.type }}" }
    do:
      - emm: { to: ["12", "{{ event.data.x }}"], text: "{{ event.data.home_name }}", priority: "{{ event.data.n }}" }
      - indigo: { call: device.turnOn, object: "{{ event.data.x }}", duration: "{{ event.data.n }}" }
      - fibaro: { intercom: gate, call: relay.open, relay: "{{ event.data.sub_type }}" }
  - name: hold
    when: { type: netatmo.smoke }
    for: 15s
    unless: { type: netatmo.ring, data: { n: "{{ event.data.n }}" } }
    mode: restart
    do: [ { emit: { type: house.count, data: { n: 1 } } } ]
  - name: slow
    when: { type: netatmo.battery_status }
    mode: queued
    do:
      - wait: { for: 20s, until: { type: netatmo.ring } }
      - if: event.data.n > 0
        then: [ { wait: 5s }, { set: { quiet: true } } ]
      - set: { slow: "{{ timed_out() }}" }
  - { name: rest, when: { type: "*" }, if: event.data.x, do: [ { set: { quiet: false } } ] }
"#;

proptest! {
    #[test]
    fn a_restart_changes_no_decision(
        events in proptest::collection::vec((any_event(), 0u64..40, any::<bool>(), 0u8..3), 1..25)
    ) {
        let rules = RuleSet::load(vec![SourceFile::new("a", LIVELY)], &estate()).unwrap();
        let (mut whole, mut restarted) = (memory(), memory());
        let mut now = noon();
        for (number, (event, pause, restart, outcome)) in events.into_iter().enumerate() {
            now += Duration::from_secs(pause);
            if restart {
                let kept = serde_json::to_string(&restarted).unwrap();
                restarted = serde_json::from_str(&kept).unwrap();
            }
            let seen = Position(number as u64);
            // Rules decide no event twice: what is known already does not come past the intake.
            let id = EventId::derive([&*event.kind, &number.to_string()]);
            let event = Arc::new(Event { id, ..(*event).clone() });
            let due: Vec<_> = whole.timers().due(now).map(|t| Arc::new(t.due_event(now))).collect();
            for event in due.into_iter().chain([event]) {
                let one = rules.decide(&event, seen, &whole, now);
                prop_assert_eq!(&one, &rules.decide(&event, seen, &restarted, now));
                let read: Decided = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
                prop_assert_eq!(&one, &read);
                for memory in [&mut whole, &mut restarted] {
                    memory.apply_decided(&one, now);
                    for action in &one.actions {
                        let gone = Outcome::Gone { why: "404".into() };
                        match outcome {
                            0 => settle(memory, action, Outcome::Delivered, now),
                            1 => settle(memory, action, gone, now),
                            _ => {}
                        }
                    }
                }
                prop_assert_eq!(&whole, &restarted);
            }
            // Whoever waits for a turn waits for somebody.
            let running = |rule: &str| whole.timers().of(rule).next().is_some();
            prop_assert!(whole.timers().rows().all(running));
            prop_assert!(whole.timers().of("slow").count() <= 1);
        }
    }

    #[test]
    fn any_rule_file_is_read_without_a_panic(parts in proptest::collection::vec(
        prop_oneof![
            Just("rules:\n"), Just("  - name: a\n"), Just("    when: "), Just("{ type: netatmo.ring }\n"),
            Just("    if: "), Just("event.data.x"), Just(" and "), Just("state(\"é\")"), Just("\n"),
            Just("    do:\n"), Just("      - push: "), Just("{ to: ana, title: "), Just("\"{{ "),
            Just(" }}\""), Just(" }\n"), Just("      - set: { a: "), Just("{% if "), Just(" %}"),
            Just("      - if: "), Just("        then: [ stop ]\n"), Just("[ "), Just(" ]"), Just("|\n"),
            Just("    cooldown: "), Just("30s"), Just("'"), Just("tests:\n"), Just("    events: "),
            Just("    expect: "), Just("      - emm: { to: "), Just("text: "), Just(", "), Just("- "), Just("not "), Just("é"), Just("\u{feff}"), Just("~"),
        ],
        0..40,
    )) {
        let text = parts.concat();
        if let Err(wrong) = RuleSet::load(vec![SourceFile::new("a", text)], &estate()) {
            wrong.render();
        }
    }

    /// The index finds what trying every matcher finds.
    #[test]
    fn the_index_loses_nothing(event in any_event(), picks in proptest::collection::vec(0usize..8, 1..40)) {
        let choices = [
            "{ type: netatmo.ring }", "{ type: netatmo.*, data: { n: [1, 2] } }", "{ subject: cam }",
            "{ data: { x: true } }", "{ type: [house.count, netatmo.smoke], data: { n: null } }",
            "[ { type: netatmo.smoke }, { data: { sub_type: -1 } } ]", "{ source: netatmo/home, data.n: 0 }",
            "{ type: \"*\" }",
        ];
        let mut text = String::from("rules:\n  - { name: x, when: { type: netatmo.hush }, do: [ emit: { type: house.count } ] }\n");
        for (i, pick) in picks.iter().enumerate() {
            text.push_str(&format!("  - {{ name: r{i}, when: {}, do: [ set: {{ a: 1 }} ] }}\n", choices[*pick]));
        }
        let rules = load(&text);
        let found: Vec<String> = decide(&rules, &event, &memory(), noon())
            .looked.into_iter().map(|looked| looked.rule).collect();
        let wanted: Vec<String> = rules.rules.iter()
            .filter(|rule| rule.matchers.iter().any(|matcher| matcher.accepts(&event)))
            .map(|rule| rule.name.to_string()).collect();
        prop_assert_eq!(found, wanted);
    }
}
