//! What a user could check of the first way through the house, checked from outside: the real
//! binary on loopback, with real files, sockets and signals.

#[path = "../support/mod.rs"]
mod support;

mod api;
mod netatmo;
mod push;
mod rules;
mod server;
mod storage;
mod undelivered;

use serde_json::Value;
use support::http::{self, Answer};
use support::{Home, Server};

/// One rule that pushes every movement, and all that Portero itself has to say.
const PUSH: &str = r#"
rules:
  - name: movement
    when: { type: netatmo.movement }
    do:
      - push: { to: [family], title: "Moved: {{ event.data.camera_id }}", urgency: high, ttl: 60s, tag: "m-{{ event.data.camera_id }}" }
  - name: own
    when: { type: "portero.*" }
    do:
      - push: { to: [family], title: "{{ event.type }}" }
"#;

/// One rule that looks at everything and tells nobody.
const QUIET: &str = r#"
rules:
  - name: everything
    when: { type: "netatmo.*" }
    do:
      - set: { "last/kind": "{{ event.type }}" }
"#;

/// A movement's body; `n` makes it a fact of its own.
fn movement(n: usize) -> Vec<u8> {
    format!(
        r#"{{"event_type":"movement","push_type":"NACamera-movement","event_id":"e{n}","camera_id":"cam{n}","home_id":"h1"}}"#
    )
    .into_bytes()
}

/// Posts a signed webhook on a connection of its own.
fn post(server: &Server, body: &[u8]) -> Answer {
    post_signed(server, body, Some(&support::sign(body)))
}

/// Posts a webhook with this signature.
fn post_signed(server: &Server, body: &[u8], signature: Option<&str>) -> Answer {
    let headers: Vec<_> = signature.map(|s| ("X-Netatmo-secret", s)).into_iter().collect();
    http::ask(server.listen, "POST", "/hooks/netatmo/home", &headers, body)
}

/// The types of the events in the journal, with those of Portero's own left out.
fn kinds(home: &Home) -> Vec<String> {
    let kind = |event: &Value| event["type"].as_str().unwrap().to_string();
    home.events(&["--type", "netatmo.*"]).iter().map(kind).collect()
}

/// A pairing code for a person, from the command line.
fn code(home: &Home, person: &str) -> String {
    let output = home.run(&["pair", person]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (_, code) = text.split_once("#pair=").expect("a link");
    code.split_whitespace().next().unwrap().to_string()
}

/// Uses a pairing code.
fn try_code(server: &Server, code: &str) -> Answer {
    let body = serde_json::json!({ "code": code, "name": "a phone" }).to_string();
    let headers = [("Content-Type", "application/json")];
    http::ask(server.listen, "POST", "/api/pair", &headers, body.as_bytes())
}

/// Pairs a phone; the cookie it was given.
fn pair(home: &Home, server: &Server, person: &str) -> String {
    let answer = try_code(server, &code(home, person));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("set-cookie").split(';').next().unwrap().to_string()
}

/// A call of the page's API by a paired phone.
fn call(server: &Server, method: &str, path: &str, cookie: &str, body: &str) -> Answer {
    let headers = [("Cookie", cookie), ("Content-Type", "application/json")];
    http::ask(server.listen, method, path, &headers, body.as_bytes())
}

/// Adds a phone by the command line; its id.
fn add_phone(home: &Home, person: &str, phone: &support::push::Phone) -> String {
    let output = try_add_phone(home, person, &phone.subscription());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

fn try_add_phone(home: &Home, person: &str, subscription: &Value) -> std::process::Output {
    home.write("phone.json", &subscription.to_string());
    let file = home.path("phone.json");
    home.run(&["phone", "add", person, "--subscription", file.to_str().unwrap()])
}

/// The phones, as `portero phone list --json` has them.
fn phones(home: &Home) -> Vec<Value> {
    let output = home.run(&["phone", "list", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// One value of the metrics, by the beginning of its line.
fn metric(server: &Server, line: &str) -> f64 {
    let text = http::get(server.admin, "/metrics").text();
    let found = text.lines().filter(|l| l.starts_with(line));
    found.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
