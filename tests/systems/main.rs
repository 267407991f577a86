//! The real binary against the simulators of all systems, each on a real socket: every type of
//! event reaches a rule, every command reaches the system, bad manners are survived, and what is
//! known afterwards is what the system is.

#[path = "../support/mod.rs"]
mod support;

mod demo;
mod doors;
mod emm;
mod fibaro;
mod front;
mod indigo;
mod netatmo;
mod vms;

use std::time::Duration;

use jiff::Timestamp;
use portero::clock::Clock;
use portero::command::{Kind, Spec};
use serde_json::{Map, Value, json};
use support::{Home, Server, http, within};

/// As long as a test waits for what must come: several reconnects with their waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every event leaves a note under its type.
const NOTES: &str = r#"
rules:
  - name: notes
    when: { type: "*" }
    do:
      - set: { "told/{{ event.type }}": "{{ event.subject | default('-') }}{% if event.caught_up %} (caught up){% endif %}" }
"#;

/// Arguments for a command: these where it takes them, the first that fits for what else it needs.
pub fn sample(spec: &Spec, given: &Value) -> Value {
    let mut args = Map::new();
    for arg in spec.args {
        let any = || match arg.kind {
            Kind::Int(least, _) => json!(least),
            Kind::Millis(least, _) => json!(least),
            Kind::Number => json!(21.5),
            Kind::Flag => json!(true),
            Kind::Word(words) => json!(words[0]),
            Kind::Texts => json!(["x"]),
            Kind::Json => json!({}),
            Kind::Text | Kind::Secret => json!("x"),
        };
        match given.get(arg.name) {
            Some(value) => drop(args.insert(arg.name.into(), value.clone())),
            None if arg.required => drop(args.insert(arg.name.into(), any())),
            None => {}
        }
    }
    Value::Object(args)
}

/// A running house with one system in it.
pub struct Estate {
    pub home: Home,
    server: Option<Server>,
    /// When the server was started last.
    since: Timestamp,
}

impl Estate {
    /// Starts with these sections beside the test home's.
    pub fn start(sections: &str) -> Estate {
        Estate::start_with(sections, NOTES)
    }

    /// The same with other rules.
    pub fn start_with(sections: &str, rules: &str) -> Estate {
        let home = Home::new(rules);
        home.configure("[people.ana]", &format!("{sections}\n[people.ana]"));
        let since = Clock::system().now();
        let server = Some(home.start());
        Estate { home, server, since }
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// SIGTERM and a new start; what was logged meanwhile.
    pub fn restart(&mut self) -> String {
        let log = self.stop();
        self.go_on();
        log
    }

    /// SIGTERM.
    pub fn stop(&mut self) -> String {
        let (code, log) = self.server.take().unwrap().terminate();
        assert_eq!(code, Some(0), "{log}");
        log
    }

    /// Starts again.
    pub fn go_on(&mut self) {
        self.since = Clock::system().now();
        self.server = Some(self.home.start());
    }

    /// `kill -9` and a new start.
    pub fn crash(&mut self) {
        self.server.take().unwrap().kill();
        self.go_on();
    }

    /// Gives a command by hand; how it went.
    pub fn tell(&self, to: &str, call: &str, args: Value) -> Value {
        let answer = self.post(&json!({ "to": to, "call": call, "args": args }));
        assert_eq!(answer.status, 200, "{call}: {}", answer.text());
        answer.json()
    }

    /// The same; it must be done. What the system answered.
    pub fn done(&self, to: &str, call: &str, args: Value) -> Value {
        let answer = self.tell(to, call, args);
        assert_eq!(answer["outcome"], "done", "{call}: {answer}");
        answer["result"].clone()
    }

    /// A call of the control API for commands.
    pub fn post(&self, ask: &Value) -> http::Answer {
        let control = std::fs::read(self.home.path("data/control.json")).unwrap();
        let control: Value = serde_json::from_slice(&control).unwrap();
        let token = format!("Bearer {}", control["token"].as_str().unwrap());
        let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
        let body = serde_json::to_vec(ask).unwrap();
        http::ask(self.server().admin, "POST", "/control/commands", &headers, &body)
    }

    /// What is known below a path: path to value.
    pub fn state(&self, path: &str) -> serde_json::Map<String, Value> {
        let output = self.home.run(&["state", path]);
        let text = String::from_utf8(output.stdout).unwrap();
        let Ok(Value::Object(all)) = serde_json::from_str(&text) else { panic!("{text}") };
        all.into_iter().map(|(path, entry)| (path, entry["value"].clone())).collect()
    }

    /// The value at a path.
    pub fn value(&self, path: &str) -> Value {
        self.state(path).get(path).cloned().unwrap_or_default()
    }

    /// Waits until a path has a value that this accepts.
    pub fn until_value(&self, path: &str, accept: impl Fn(&Value) -> bool) -> Value {
        within(PATIENCE, path, || Some(self.value(path)).filter(&accept))
    }

    /// Waits until the link to a system is up, by the word of the server that runs now.
    pub fn until_up(&self, source: &str) {
        let is_new = |link: &Value| {
            link["since"]
                .as_str()
                .is_some_and(|since| since.parse::<Timestamp>().unwrap() >= self.since)
        };
        self.until_value(&format!("{source}/link"), |link| link["up"] == true && is_new(link));
    }

    /// Waits until the link to a system is down.
    pub fn until_down(&self, source: &str) {
        self.until_value(&format!("{source}/link"), |link| link["up"] == false);
    }

    /// Waits until a rule has acted on an event of this type; the note it left.
    pub fn until_told(&self, kind: &str) -> String {
        let note = self.until_value(&format!("told/{kind}"), |note| !note.is_null());
        note.as_str().unwrap().to_string()
    }

    /// All events of a type so far.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.home.events(&[]);
        events.into_iter().filter(|event| event["type"] == kind).collect()
    }

    /// Waits for the `count`-th event of a type.
    pub fn until_events(&self, kind: &str, count: usize) -> Vec<Value> {
        within(PATIENCE, kind, || Some(self.events(kind)).filter(|all| all.len() >= count))
    }

    /// A metric's value; 0 if there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let text = http::get(self.server().admin, "/metrics").text();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_said_before_anything_is_sent() {
    let estate = Estate::start(
        "[fibaro.gate]\nurl = \"wss://127.0.0.1:9/wsock\"\nuser = \"u\"\npass = \"p\"\n",
    );
    let bad = |ask: Value| {
        let answer = estate.post(&ask);
        assert_eq!(answer.status, 400, "{}", answer.text());
        answer.json()["error"].as_str().unwrap().to_string()
    };
    assert!(bad(json!({ "to": "fibaro/gte", "call": "x" })).contains("did you mean `fibaro/gate`"));
    let near = bad(json!({ "to": "fibaro/gate", "call": "relay.opne" }));
    assert!(near.contains("did you mean `relay.open`"), "{near}");
    let wrong = bad(json!({ "to": "fibaro/gate", "call": "relay.open", "args": { "relay": 7 } }));
    assert!(wrong.contains("`relay` must be a whole number from 0 to 1"), "{wrong}");
    // Nobody listens there: it never leaves, and ends when it is of no use any more.
    let answer = estate.tell("fibaro/gate", "relay.open", json!({ "relay": 0 }));
    assert_eq!(answer["outcome"], "expired", "{answer}");
    let token = [("authorization", "Bearer wrong")];
    let answer = http::ask(estate.server().admin, "POST", "/control/commands", &token, b"{}");
    assert!([400, 403].contains(&answer.status));
}
