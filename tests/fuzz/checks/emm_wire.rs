//! What must hold for any bytes that an EMM answers with. Shared by the fuzz target and the stable
//! test that replays its corpus.

use std::time::Duration;

use jiff::Timestamp;
use portero::event::{EventId, Trust};
use portero::secret::Secret;
use portero::systems::Certificate;
use portero::systems::emm::session::{Input, Moment, Output, Session, Setup};
use portero::systems::emm::{Config, TYPES, notification, repair, wire};
use portero::systems::http::Answer;
use portero::systems::json;
use portero::systems::link::UnreadBody;

/// Questions answered with the same bytes; a session that asks on and on would fail here.
const ANSWERS: u64 = 12;

/// Fails if something panics, if sound JSON is read otherwise by the repair, if the session stops
/// asking, or if it tells of an undocumented type.
pub fn check(body: &[u8]) {
    if let Ok(read) = wire::body_value(body) {
        let _ = notification::notifications(read.value);
    }
    let (text, mends) = json::mend(body);
    if let Ok(strict) = serde_json::from_slice::<serde_json::Value>(body)
        && (strict.is_object() || strict.is_array())
        && let Some((mended, fixes)) = repair::repair(&text, mends)
    {
        assert_eq!((mended, fixes), (strict, repair::Fixes::default()));
    }
    let shown = wire::answer(400, "", body).unwrap_err().to_string();
    assert!(!shown.contains('\n'));
    for status in [200, 403, 404, 500] {
        play(body, status);
    }
}

fn session() -> Session {
    let config = Config {
        url: "https://emm.example.org/Fusion".parse().expect("a URL"),
        username: "portero".into(),
        password: Some(Secret::new("pass")),
        certificate: Certificate::System,
        poll: Duration::from_secs(30),
        flat_send: false,
    };
    let (source, trust, known) = ("emm/block".into(), Trust::Fresh, Vec::new());
    Session::new(Setup { source, config, trust, known, kept: None, seed: 1 })
}

/// The bytes as a body that was kept, and as the answer to everything after a good login.
fn play(body: &[u8], status: u16) {
    let mut session = session();
    let wall = Timestamp::from_second(1_790_000_000).expect("a moment in 2026");
    let mut now = Moment { wall, since: Duration::ZERO };
    let unread = UnreadBody { id: EventId::derive(["x"]), received: wall, raw: body.to_vec() };
    let mut outputs = session.handle(Input::Unread(unread), now);
    for answer in 0..ANSWERS {
        // Far enough for every wait to be over.
        now.since += Duration::from_secs(3600);
        outputs.extend(session.handle(Input::Tick, now));
        let calls = outputs.drain(..).filter_map(|output| match output {
            Output::Call(call) => Some(call.id),
            Output::Tell(news) => {
                assert!(news.events.iter().all(|heard| TYPES.contains(&&*heard.event.kind)));
                None
            }
            _ => None,
        });
        let calls: Vec<u64> = calls.collect();
        assert!(!calls.is_empty(), "it goes on asking");
        for call in calls {
            let login: &[u8] = br#"{"token":"T"}"#;
            let (status, body) = if answer == 0 { (200, login) } else { (status, body) };
            let said = Answer {
                status,
                content_type: String::new(),
                retry_after: None,
                date: None,
                location: None,
                body: body.to_vec(),
            };
            outputs
                .extend(session.handle(Input::Answer { call, answer: Ok(said), kept: None }, now));
        }
    }
}
