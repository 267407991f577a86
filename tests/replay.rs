//! `portero replay` on a journal that the real binary wrote, while it still runs and after a
//! restart: the same rules differ in nothing, others say where and why.

mod support;

use serde_json::{Value, json};
use support::push::{Phone, Service};
use support::{Home, Netatmo, within};

const RULES: &str = r#"
rules:
  - name: bell
    when: { type: netatmo.ring }
    do:
      - push: { to: ana, title: "Ring" }
      - emit: { type: house.rang, data: { camera: "{{ event.subject }}" } }
  - name: rang
    when: { type: house.rang }
    for: 1s
    do: [ set: { house/rang: 1 } ]
  - name: smoke
    when: { type: netatmo.smoke, data: { sub_type: 1 } }
    do:
      - escalate:
          - { after: 0s, push: { to: ana, title: "SMOKE" } }
          - { after: 1h, push: { to: ben, title: "SMOKE, still" } }
"#;

fn ring(number: u32) -> String {
    json!({
        "event_type": "incoming_call", "push_type": "NDB-incoming_call", "event_id": format!("r{number}"),
        "session_id": format!("s{number}"), "home_id": "h1", "device_id": "70:ee:50:00:00:01",
    })
    .to_string()
}

const SMOKE: &str = r#"{"event_type":"smoke","push_type":"NSD-smoke","event_id":"s1","sub_type":1,"device_id":"70:ee:50:00:00:02","home_id":"h1"}"#;

fn replay(home: &Home, rules: &str, args: &[&str]) -> (Option<i32>, String) {
    home.write("other/rules.yaml", rules);
    let folder = home.path("other");
    let output = home.run(&[&["replay", "--rules", folder.to_str().unwrap()], args].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text + &String::from_utf8(output.stderr).unwrap_or_default())
}

fn replay_json(home: &Home, rules: &str) -> Value {
    let (_, text) = replay(home, rules, &["--json"]);
    serde_json::from_str(text.lines().next().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{text}"))
}

#[test]
fn other_rules_are_compared_with_what_was_decided() {
    let (home, service) = (Home::new(RULES), Service::start());
    let phone = Phone::new(format!("http://{}/ana", service.at), 1);
    home.write("phone.json", &phone.subscription().to_string());
    let file = home.path("phone.json");
    assert!(
        home.run(&["phone", "add", "ana", "--subscription", file.to_str().unwrap()])
            .status
            .success()
    );
    let server = home.start();
    let kind = {
        let mut netatmo = Netatmo::connect(server.listen).unwrap();
        assert_eq!(netatmo.post(ring(1).as_bytes()).unwrap(), 200);
        service.wait("/ana", 1);
        assert_eq!(netatmo.post(SMOKE.as_bytes()).unwrap(), 200);
        service.wait("/ana", 2);
        let events = home.events(&[]);
        events.iter().find(|event| event["type"] == "netatmo.ring").is_some()
    };
    assert!(kind, "{:?}", home.events(&[]));
    assert!(home.run(&["ack", "--by", "ben"]).status.success());
    let state_is_set = || {
        let output = home.run(&["state", "house/rang"]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (all["house/rang"]["value"] == 1).then_some(())
    };
    within(std::time::Duration::from_secs(20), "the wait", state_is_set);

    // The third is the note that Ben has it in hand.
    service.wait("/ana", 3);
    // Beside the running server: nothing differs, and nothing is done.
    let (code, text) = replay(&home, RULES, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("Coverage: 3 events"), "{text}");
    assert!(text.ends_with("No difference.\n"), "{text}");
    assert_eq!(service.seen("/ana").len() + service.seen("/ben").len(), 3);

    let pushes_ben = RULES.replace("to: ana, title: \"Ring\"", "to: ana, title: \"Ding\"");
    let (code, text) = replay(&home, &pushes_ben, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("\"Ring\"") && text.contains("\"Ding\""), "{text}");

    // After a crash and a restart the same.
    server.kill();
    let server = home.start();
    let (code, text) = replay(&home, RULES, &[]);
    assert_eq!(code, Some(0), "{text}");
    let quiet = RULES
        .replace("when: { type: netatmo.ring }", "when: { type: netatmo.ring }\n    if: false");
    let all = replay_json(&home, &quiet);
    assert_eq!(all["rules"]["bell"], json!({ "before": 1, "now": 0 }), "{all}");
    assert_eq!(all["rules"]["rang"], json!({ "before": 1, "now": 0 }), "{all}");
    let first = &all["differences"][0];
    assert_eq!(
        (&first["type"], &first["rules"][0]["now"]),
        (&json!("netatmo.ring"), &json!("condition"))
    );
    assert_eq!(all["coverage"]["decided"], 3, "{all}");

    // Nothing later than now, nothing before it began: no events, no difference.
    let (code, text) = replay(&home, &quiet, &["--until", "2020-01-01", "--since", "2019-01-01"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, _) = replay(&home, "rules: [ { name: x } ]", &[]);
    assert_eq!(code, Some(64));
    drop(server);
    let (code, text) = replay(&home, RULES, &["--since", "nonsense"]);
    assert_eq!(code, Some(1), "{text}");
}
