//! Conversations from `fixtures/fibaro`, played into the session; what comes out is in
//! `tests/snapshots`.

use std::collections::BTreeMap;
use std::time::Duration;

use portero::event::Trust;
use portero::record::Becomes;
use portero::secret::Secret;
use portero::systems::fibaro::names::Names;
use portero::systems::fibaro::session::{Ask, Input, Moment, Output, Session, Setup};
use portero::systems::link::{News, Reply};
use serde_json::{Map, Value};

fn session() -> Session {
    let setup = Setup {
        source: "fibaro/gate".into(),
        trust: Trust::Fresh,
        user: "portero".into(),
        pass: Secret::new("open sesame"),
        names: Names::new(&BTreeMap::new()),
        boot: 1,
    };
    Session::new(setup, &[])
}

/// Plays one transcript; what happened, line by line.
fn play(transcript: &str) -> String {
    let (mut session, mut told) = (session(), String::new());
    let at = "2026-11-21T10:00:00Z".parse().unwrap();
    let mut now = Moment { at, up: Duration::from_secs(1) };
    for line in transcript.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let (what, value) = line.as_object().unwrap().iter().next().unwrap();
        told.push_str(&format!("> {what} {value}\n"));
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let input = match what.as_str() {
            "note" => continue,
            "connected" => Input::Connected,
            "hear" | "hear_text" => Input::Frame(text.as_bytes()),
            "closed" => Input::Closed(&text),
            "stop" => Input::Stop,
            "order" => Input::Order(ask(value, now)),
            "wait_ms" => {
                let ms = value.as_u64().unwrap();
                now.up += Duration::from_millis(ms);
                now.at += jiff::SignedDuration::from_millis(i64::try_from(ms).unwrap());
                Input::Tick
            }
            other => panic!("{other}"),
        };
        for output in session.handle(input, now) {
            told.push_str(&shown(output));
        }
    }
    told
}

fn ask(value: &Value, now: Moment) -> Ask {
    Ask {
        ticket: value[0].as_u64().unwrap(),
        call: value[1].as_str().unwrap().into(),
        args: value[2].as_object().unwrap().clone(),
        secrets: Map::new(),
        deadline: now.at + jiff::SignedDuration::from_secs(10),
    }
}

fn shown(output: Output) -> String {
    match output {
        Output::Send(text) => format!("send {}\n", text.expose()),
        Output::News(news) => shown_news(news),
        Output::Bad(reason, raw) => format!("bad {reason}: {}\n", String::from_utf8_lossy(&raw)),
        Output::Answer(ticket, Reply::Done(value)) => format!("answer {ticket} done {value}\n"),
        Output::Answer(ticket, reply) => format!("answer {ticket} {reply:?}\n"),
        Output::Up => "up\n".into(),
        Output::Down { why, slow } => format!("down {why} slow={slow}\n"),
    }
}

fn shown_news(news: News) -> String {
    let mut text = String::new();
    for change in news.known {
        match change.to {
            Becomes::Is(value) => text.push_str(&format!("state {} = {value}\n", change.path)),
            other => panic!("{other:?}"),
        }
    }
    for heard in news.events {
        let event = heard.event;
        let (kind, subject, data) = (event.kind, event.subject.unwrap(), Value::from(event.data));
        let trust = event.trust;
        text.push_str(&format!("event {kind} {subject} {trust} {data}\n"));
    }
    text
}

#[test]
fn transcripts_play_as_before() {
    for entry in std::fs::read_dir("fixtures/fibaro").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let played = play(&std::fs::read_to_string(&path).unwrap());
        insta::with_settings!({ snapshot_path => "../snapshots", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(format!("fibaro__{name}"), played);
        });
    }
}
