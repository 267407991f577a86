//! Rule files: saved, broken, checked, tested, explained.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{Home, Server, until, within};
use crate::{QUIET, call, movement, pair, post};

/// A rule that leaves its mark in the state.
fn rule(mark: &str) -> String {
    format!(
        "rules:\n  - name: mark\n    when: {{ type: netatmo.movement }}\n    do:\n      - set: {{ mark: \"{mark}\" }}\n"
    )
}

/// A typing error in a key, a person nobody knows, a broken template, in three files.
fn break_rules(home: &Home) {
    home.write(
        "rules/a.yaml",
        "rules:\n  - name: a\n    wen: { type: netatmo.ring }\n    do:\n      - push: { to: [anna], title: \"x\" }\n",
    );
    home.write(
        "rules/b.yaml",
        "rules:\n  - name: b\n    when: { type: netatmo.rong }\n    if: event.data.x ==\n    do:\n      - push: { to: [ana], title: \"{{ event.\" }\n",
    );
    home.write("rules/c.yaml", "rules: [\n");
}

fn mark(home: &Home) -> String {
    let output = home.run(&["state", "mark"]);
    let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    state["mark"]["value"].as_str().unwrap_or_default().to_string()
}

/// Posts movements until the rules leave this mark, for at most a second and what asking takes.
fn marks(home: &Home, server: &Server, from: usize, wanted: &str) {
    let mut n = from;
    within(Duration::from_secs(3), &format!("mark {wanted}"), || {
        n += 1;
        post(server, &movement(n));
        (mark(home) == wanted).then_some(())
    });
}

#[test]
fn a_saved_file_is_in_force_within_a_second() {
    let home = Home::new(&rule("one"));
    let server = home.start();
    marks(&home, &server, 0, "one");
    home.write("rules/rules.yaml", &rule("two"));
    marks(&home, &server, 100, "two");
    // As editors do it: a new file in the old one's place.
    home.write("rules/.draft", &rule("three"));
    std::fs::rename(home.path("rules/.draft"), home.path("rules/rules.yaml")).unwrap();
    marks(&home, &server, 200, "three");
    std::fs::remove_file(home.path("rules/rules.yaml")).unwrap();
    home.write("rules/other.yaml", &rule("four"));
    marks(&home, &server, 300, "four");
}

#[test]
fn bad_rules_leave_the_old_ones_in_force_also_over_a_restart() {
    let home = Home::new(&rule("good"));
    let server = home.start();
    let cookie = pair(&home, &server, "ana");
    let status =
        |server: &Server| call(server, "GET", "/api/status", &cookie, "").json()["rules"].clone();
    assert_eq!(status(&server)["ok"], true);
    let version = status(&server)["version"].clone();
    break_rules(&home);
    let rejected = until("rejected", || home.events(&["--type", "portero.rules.rejected"]).pop());
    let problems = rejected["data"]["problems"].as_str().unwrap();
    assert!(problems.contains("a.yaml:3:5") && problems.contains("b.yaml"), "{problems}");
    let now = status(&server);
    assert_eq!((&now["ok"], &now["version"]), (&false.into(), &version));
    assert!(now["problems"].as_str().unwrap().contains("a.yaml:3:5"));
    marks(&home, &server, 0, "good");
    let (_, log) = server.terminate();
    assert!(log.contains("ERROR") && log.contains("the earlier ones stay in force"), "{log}");

    let server = home.start();
    home.write("rules/unrelated.txt", "");
    assert_eq!(status(&server)["ok"], false);
    assert_eq!(status(&server)["version"], version);
    post(&server, &movement(500));
    for name in ["a", "b", "c"] {
        std::fs::remove_file(home.path(&format!("rules/{name}.yaml"))).unwrap();
    }
    until("good again", || (status(&server)["ok"] == true).then_some(()));
}

#[test]
fn a_first_start_with_bad_rules_is_refused_with_all_problems() {
    let home = Home::new(QUIET);
    break_rules(&home);
    let output = home.run(&["run"]);
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("a.yaml:3:5") && text.contains("b.yaml:3"), "{text}");
}

#[test]
fn check_lists_everything_with_its_place_and_a_suggestion() {
    let home = Home::new(QUIET);
    let output = home.run(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    break_rules(&home);
    let output = home.run(&["check"]);
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    for part in [
        "a.yaml:3:5",
        "did you mean `when`?",
        "a.yaml:5:22",
        "`anna`",
        "did you mean `ana`?",
        "b.yaml:3:19",
        "b.yaml:4:",
        "b.yaml:6:",
        "c.yaml:",
        "^",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn check_lists_everything_in_the_config_and_exits_64() {
    let home = Home::new(QUIET);
    home.configure("[server]", "[server]\npubic_url = 1\n[store]\nkeep = \"nine\"");
    home.configure("\"ben\"]", "\"bem\"]");
    let output = home.run(&["check"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64));
    for part in ["portero.toml:2:1", "`public_url`", "portero.toml:4:8", "`ben`"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(home.run(&["run"]).status.code(), Some(64));
}

#[test]
fn rules_are_tested_by_their_own_files() {
    let home = Home::new(&rule("x"));
    let test = |expect: &str| {
        home.write("rules/rules.yaml", &format!(
            "{}tests:\n  - name: it marks\n    events: [ {{ type: netatmo.movement }} ]\n    expect: [ {expect} ]\n",
            rule("x")
        ));
        let output = home.run(&["test"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = test("{ set: { mark: x } }");
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = test("{ set: { mark: y } }");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("it marks"), "{text}");
    break_rules(&home);
    assert_eq!(home.run(&["test"]).status.code(), Some(64));
}

#[test]
fn explain_says_why_each_rule_did_or_did_not() {
    let home = Home::new(
        r#"
rules:
  - name: fires
    when: { type: netatmo.movement }
    do:
      - set: { seen: "yes" }
  - name: never
    when: { type: netatmo.movement }
    if: event.data.camera_id == "another"
    do:
      - set: { never: "yes" }
  - name: once
    when: { type: netatmo.movement }
    cooldown: { every: 1h }
    do:
      - set: { once: "yes" }
  - name: broken
    when: { type: netatmo.movement }
    if: event.data.nothing.at_all == 1
    do:
      - set: { broken: "yes" }
  - name: stops
    when: { type: netatmo.movement }
    if: event.data.camera_id != "x"
    do:
      - stop
  - name: after
    when: { type: netatmo.movement }
    do:
      - set: { after: "yes" }
"#,
    );
    let server = home.start();
    (0..2).for_each(|n| drop(post(&server, &movement(n))));
    let text = until("decided", || {
        let text = String::from_utf8(home.run(&["explain", "last"]).stdout).unwrap();
        text.contains("Decided").then_some(text)
    });
    for part in ["fires", "never", "cam1", "another", "once", "broken", "nothing", "stops", "after"]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let id = home.events(&["-n", "1"])[0]["id"].as_str().unwrap().to_string();
    let same = String::from_utf8(home.run(&["explain", &id[..8]]).stdout).unwrap();
    assert_eq!(same, text);
    assert_eq!(home.run(&["explain", "0123456789"]).status.code(), Some(1));
    assert_eq!(home.run(&["explain", "01"]).status.code(), Some(1));
    let state = String::from_utf8(home.run(&["state"]).stdout).unwrap();
    assert!(
        state.contains("seen") && !state.contains("never") && !state.contains("after"),
        "{state}"
    );
}

#[test]
fn explain_says_who_has_an_alert_in_hand() {
    let home = Home::new(
        r#"
rules:
  - name: smoke
    when: { type: netatmo.movement }
    do: [ escalate: [ { after: 0s, push: { to: ana, title: Smoke } } ] ]
"#,
    );
    let server = home.start();
    post(&server, &movement(1));
    let id = home.events(&["-n", "1"])[0]["id"].as_str().unwrap().to_string();
    let explained = || String::from_utf8(home.run(&["explain", &id]).stdout).unwrap();
    until("begun", || explained().contains("nobody has it in hand").then_some(()));
    assert!(home.run(&["ack"]).status.success());
    let said =
        until("in hand", || Some(explained()).filter(|said| said.contains("has it in hand since")));
    assert!(said.contains("somebody at the terminal") && said.contains("(terminal)"), "{said}");
    assert!(!said.contains("nobody has it"), "{said}");
}

#[test]
fn a_reader_that_has_gone_is_no_fault() {
    let home = Home::new(QUIET);
    let server = home.start();
    post(&server, &movement(1));
    until("decided", || home.run(&["explain", "last"]).status.success().then_some(()));
    for args in [&["explain", "last"][..], &["events"], &["state"], &["dead", "list"]] {
        let mut command = home.command(args);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code();
        assert!([Some(0), Some(141)].contains(&code), "{args:?}: {code:?} {said}");
        assert_eq!(said, "", "{args:?}");
    }
}

#[test]
fn explain_commands_no_terminal() {
    let home = Home::new(QUIET);
    let server = home.start();
    let body = "{\"event_type\":\"movement\",\"push_type\":\"NACamera-movement\",\"event_id\":\"e\",\"camera_id\":\"\\u001b]0;x\\u0007\",\"home_id\":\"h\"}";
    post(&server, body.as_bytes());
    let output = until("explained", || {
        Some(home.run(&["explain", "last"]).stdout).filter(|text| !text.is_empty())
    });
    let listed = home.run(&["events"]).stdout;
    for byte in [0x1b, 0x07] {
        assert!(!output.contains(&byte) && !listed.contains(&byte));
    }
}
