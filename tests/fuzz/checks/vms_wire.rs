//! What must hold for any bytes that a VMS answers with. Shared by the fuzz target and the stable
//! test that replays its corpus.

use std::time::Duration;

use jiff::Timestamp;
use portero::event::Trust;
use portero::secret::Secret;
use portero::systems::Certificate;
use portero::systems::http::Answer;
use portero::systems::vms::session::{Kept, Now, Output, Session};
use portero::systems::vms::{Config, TYPES, wire};

/// Questions answered with the same bytes; a session that asks on and on would fail here.
const ANSWERS: u64 = 12;

/// Fails if something panics, if the session stops asking, or if it tells of an undocumented type.
pub fn check(body: &[u8]) {
    if let Ok(list) = wire::intercoms(body) {
        assert!(list.items.iter().all(|intercom| intercom.fields["id"] == intercom.id));
    }
    if let Ok(list) = wire::calls(body) {
        assert!(list.items.iter().all(|call| !call.id.is_empty()));
    }
    let shown = wire::refusal::refusal(422, body).to_string();
    assert!(!shown.contains('\n'));
    let _ = (wire::token::token(body), wire::token::full(body));
    for status in [200, 401, 419, 422] {
        play(body, status);
    }
}

/// The bytes as the answer to everything after a good login.
fn play(body: &[u8], status: u16) {
    let config = Config {
        url: "https://vms.example.org".parse().expect("a URL"),
        login: "ana".into(),
        password: Some(Secret::new("pass")),
        certificate: Certificate::System,
        intercoms: Vec::new(),
        poll: Duration::from_secs(30),
        poll_calls: Duration::from_secs(5),
        client: "web".into(),
    };
    let mut session =
        Session::new("vms/block", Trust::Fresh, config, Kept::new("u".into()), &[], 1);
    let wall = Timestamp::from_second(1_790_000_000).expect("a moment in 2026");
    let mut now = Now { wall, run: Duration::ZERO };
    let login: &[u8] = br#"{"access_token":"T"}"#;
    let mut outputs = session.tick(now);
    for answer in 0..ANSWERS {
        // Far enough for every wait to be over.
        now.run += Duration::from_secs(3600);
        outputs.extend(session.tick(now));
        let asked = outputs.drain(..).find_map(|output| match output {
            Output::Ask(id, _) => Some(id),
            _ => None,
        });
        let id = asked.expect("it goes on asking");
        let (status, body) = if answer == 0 { (200, login) } else { (status, body) };
        let said = Answer {
            status,
            content_type: String::new(),
            retry_after: None,
            date: Some(now.wall),
            location: None,
            body: body.to_vec(),
        };
        outputs = session.answered(id, Ok(said), now);
        for output in &outputs {
            if let Output::Tell(news) = output {
                assert!(news.events.iter().all(|heard| TYPES.contains(&&*heard.event.kind)));
            }
        }
    }
}
