//! Waits with the real binary: a `kill -9`, a restart and a reload at any point change nothing, and
//! a wait whose rule is gone says so.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Home, Netatmo, Server, within};

/// As long as a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

const RULES: &str = r#"
rules:
  - name: left open
    when: { type: netatmo.tag_open }
    for: 2s
    unless: { type: netatmo.tag_small_move, subject: "{{ event.subject }}" }
    do:
      - set: { "open/{{ event.subject }}": "{{ (state('open/' ~ event.subject) | default(0)) + 1 }}" }
"#;

fn tag(server: &Server, kind: &str, tag: &str, number: u32) {
    let body = format!(
        r#"{{"event_type":"{kind}","push_type":"NACamera-{kind}","event_id":"e{number}","module_id":"{tag}","camera_id":"70:ee:50:00:00:01","device_id":"70:ee:50:00:00:01","home_id":"h1"}}"#
    );
    assert_eq!(Netatmo::connect(server.listen).unwrap().post(body.as_bytes()).unwrap(), 200);
}

fn opened(home: &Home, tag: &str) -> Value {
    let output = home.run(&["state", &format!("open/{tag}")]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    all[format!("open/{tag}")]["value"].clone()
}

fn until_opened(home: &Home, tag: &str) {
    within(PATIENCE, tag, || Some(opened(home, tag)).filter(|value| *value == 1));
}

fn due(home: &Home) -> usize {
    home.events(&[]).iter().filter(|event| event["type"] == "portero.timer.due").count()
}

#[test]
fn kills_and_restarts_change_nothing() {
    let home = Home::new(RULES);
    let mut server = home.start();
    for number in 0..6 {
        tag(&server, "tag_open", &format!("w{number}"), number);
        if number % 2 == 0 {
            server.kill();
        } else {
            server.terminate();
        }
        server = home.start();
    }
    for number in 0..6 {
        until_opened(&home, &format!("w{number}"));
    }
    // Killed right when things come due, what was decided is not decided again.
    server.kill();
    let server = home.start();
    assert_eq!(due(&home), 6);
    (0..6).for_each(|number| assert_eq!(opened(&home, &format!("w{number}")), 1));
    drop(server.terminate());
}

#[test]
fn what_ends_a_wait_ends_it_after_a_restart_too() {
    let home = Home::new(RULES);
    let server = home.start();
    tag(&server, "tag_open", "w1", 1);
    tag(&server, "tag_open", "w2", 2);
    server.kill();
    let server = home.start();
    tag(&server, "tag_small_move", "w1", 3);
    until_opened(&home, "w2");
    assert_eq!(opened(&home, "w1"), Value::Null);
    drop(server.terminate());
}

#[test]
fn a_reload_keeps_the_waits_of_unchanged_rules_and_ends_the_others() {
    let home = Home::new(&RULES.replace("for: 2s", "for: 1h"));
    let server = home.start();
    tag(&server, "tag_open", "w1", 1);
    within(PATIENCE, "the wait", || {
        let events = home.events(&[]);
        events.iter().any(|event| event["type"] == "netatmo.tag_open").then_some(())
    });
    // Another rule and a comment beside it change nothing; another time does.
    let moved = RULES.replace("for: 2s", "for: 1h # as before");
    let more =
        "  - { name: other, when: { type: netatmo.alert }, do: [ set: { open/other: 1 } ] }\n";
    home.write("rules/rules.yaml", &(moved + more));
    let mut number = 10;
    within(PATIENCE, "the reload", || {
        number += 1;
        tag(&server, "alert", "other", number);
        (opened(&home, "other") == 1).then_some(())
    });
    assert!(home.events(&[]).iter().all(|event| event["type"] != "portero.timer.gone"));
    home.write("rules/rules.yaml", RULES);
    let gone = within(PATIENCE, "the end", || {
        let events = home.events(&[]);
        events.into_iter().find(|event| event["type"] == "portero.timer.gone")
    });
    assert_eq!(gone["data"]["rules"], serde_json::json!(["left open"]));
    drop(server.terminate());
}

/// A time trigger so many seconds from now, on the clock that the server takes for the house's.
fn timed(seconds: i64) -> String {
    let at = portero::clock::Clock::system().now() + jiff::SignedDuration::from_secs(seconds);
    let at = at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string();
    format!(
        "rules:\n  - name: timed\n    when: {{ at: \"{at}\", late: 1h }}\n    do:\n      \
         - set: {{ open/timed: \"{{{{ (state('open/timed') | default(0)) + 1 }}}}\" }}\n"
    )
}

fn scheduled(home: &Home, kind: &str) -> Vec<Value> {
    home.events(&[]).into_iter().filter(|event| event["type"] == kind).collect()
}

/// The rules are in force once they wait for their times.
fn until_set(home: &Home, times: usize) {
    within(PATIENCE, "the time is set", || {
        (scheduled(home, "portero.schedule.set").len() >= times).then_some(())
    });
}

#[test]
fn a_time_trigger_fires_once_whatever_is_killed() {
    let rules = timed(6);
    let home = Home::new(&rules);
    let server = home.start();
    until_set(&home, 1);
    server.kill();
    let server = home.start();
    until_opened(&home, "timed");
    server.kill();
    let server = home.start();
    assert_eq!(opened(&home, "timed"), 1);
    assert_eq!(scheduled(&home, "portero.schedule").len(), 1);
    assert_eq!(scheduled(&home, "portero.schedule.set").len(), 1, "set once, then remembered");
    drop(server.terminate());
}

#[test]
fn a_time_that_passed_while_it_was_down_is_made_up_for() {
    let rules = timed(5);
    let home = Home::new(&rules);
    let server = home.start();
    until_set(&home, 1);
    server.kill();
    within(PATIENCE, "the time passes", || {
        let set = &scheduled(&home, "portero.schedule.set")[0]["time"];
        let set: jiff::Timestamp = set.as_str()?.parse().ok()?;
        let now = portero::clock::Clock::system().now();
        (now.duration_since(set).as_secs() > 6).then_some(())
    });
    assert_eq!(scheduled(&home, "portero.schedule").len(), 0);
    let server = home.start();
    until_opened(&home, "timed");
    drop(server.terminate());
}

#[test]
fn a_changed_time_is_another_one() {
    let rules = timed(3600);
    let home = Home::new(&rules);
    let server = home.start();
    until_set(&home, 1);
    let rules = timed(4);
    home.write("rules/rules.yaml", &rules);
    until_set(&home, 2);
    until_opened(&home, "timed");
    let gone = scheduled(&home, "portero.timer.gone");
    assert_eq!(gone[0]["data"]["rules"], serde_json::json!(["timed"]));
    drop(server.terminate());
}
