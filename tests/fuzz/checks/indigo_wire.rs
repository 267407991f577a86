//! What must hold for any bytes that an Indigo server may send: over each feed, as patches of a
//! known device, and as answers to a command. Shared by the fuzz target and the stable test that
//! replays its corpus.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use portero::command::{Command, Repeat};
use portero::event::Trust;
use portero::systems::Certificate;
use portero::systems::indigo::orders::Asked;
use portero::systems::indigo::session::{Output, Session};
use portero::systems::indigo::{Config, Feed, Moment, types};
use serde_json::{Map, Value, json};

/// The first byte chooses the feed; every line of the rest is a frame.
pub fn check(bytes: &[u8]) {
    let (mut session, now) = session();
    let feed = Feed::ALL[usize::from(bytes.first().copied().unwrap_or(0)) % Feed::ALL.len()];
    let ids = start(&mut session, feed, now);
    for line in bytes.split(|byte| *byte == b'\n') {
        let outputs = match std::str::from_utf8(line) {
            // So that what is found by chance reaches a question, too.
            Ok(text) => session.frame(feed, &text.replace("QUESTION", &ids), now),
            Err(_) => session.binary(feed, line, now),
        };
        outputs.iter().for_each(|output| check_output(output, &session));
    }
    check_answer(&mut session, bytes, now);
    let later = Moment { up: Duration::from_secs(100_000), ..now };
    session.tick(later).iter().for_each(|output| check_output(output, &session));
}

fn session() -> (Session, Moment) {
    let at = Timestamp::from_second(1_790_000_000).expect("a moment in 2026");
    let config = Config {
        url: "ws://192.168.0.5:8176".parse().expect("a URL"),
        api_key: None,
        key_in_query: false,
        certificate: Certificate::System,
        time_zone: TimeZone::UTC,
        feeds: Feed::ALL.to_vec(),
        refresh: Duration::from_secs(4 * 3600),
    };
    let session = Session::new("indigo/house", &config, Trust::Fresh, &[], at);
    (session, Moment { at, up: Duration::ZERO })
}

/// Connects, and has one object that patches may be about.
fn start(session: &mut Session, feed: Feed, now: Moment) -> String {
    let asked = session.opened(feed, now);
    let mut asked = asked.iter().filter_map(|output| match output {
        Output::Send(_, text) => serde_json::from_str::<Value>(text).ok(),
        _ => None,
    });
    let id = asked.next_back().map(|ask| ask["id"].clone()).unwrap_or_default();
    let object = json!({ "id": 7, "name": "x", "states": { "a.b": [1] }, "value": "v" });
    let kind = feed.object_type();
    let list = json!({ "id": id, "message": "refresh", "objectType": kind, "list": [object] });
    session.frame(feed, &list.to_string(), now);
    id.as_str().unwrap_or_default().to_string()
}

fn check_output(output: &Output, session: &Session) {
    let Output::Tell(news) = output else { return };
    for event in news.events.iter().map(|heard| &heard.event) {
        assert!(types().contains(&event.kind), "{} is not documented", event.kind);
    }
    for change in &news.known {
        assert!(change.path.starts_with("indigo/house/"), "{}", change.path);
    }
    let objects = session.objects(Feed::Device).into_iter().flatten();
    objects.for_each(|(id, object)| assert_eq!(object["id"].as_i64().or(Some(*id)), Some(*id)));
}

fn check_answer(session: &mut Session, body: &[u8], now: Moment) {
    let mut args = Map::new();
    args.insert("object".into(), "7".into());
    let (to, call) = ("indigo/house".to_string(), "device.turnOn".to_string());
    let command = Command { to, call, args, repeat: Repeat::Never, trust: Trust::Human };
    for (order, status) in [200, 400, 404, 500].into_iter().enumerate() {
        let order = order as u64;
        session.order(order, &command, Timestamp::MAX, now);
        session.asked(order, Asked::Answer(status, body.to_vec()), now);
    }
}
