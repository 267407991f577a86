//! What must hold for any bytes that Netatmo's cloud answers with. Shared by the fuzz target and
//! the stable test that replays its corpus.

use std::time::Duration;

use jiff::Timestamp;
use portero::event::Trust;
use portero::secret::Secret;
use portero::systems::http::{Answer, Ask};
use portero::systems::netatmo::api::session::{Earlier, Now, Output, Session};
use portero::systems::netatmo::api::wire::{self, Read};
use portero::systems::netatmo::api::{Config, TYPES};

/// Questions answered with the same bytes; a session that stops asking would fail here.
const ANSWERS: usize = 16;
/// Steps of time within which it must ask again.
const STEPS_MAX: usize = 64;

const TOKEN: &str = r#"{"access_token":"A","refresh_token":"R","expires_in":10800}"#;
const HOMES: &str = r#"{"body":{"homes":[{"id":"h","modules":[{"id":"m","type":"NOC"}]}]}}"#;

/// Fails if something panics, if the session stops asking, or if it tells of an undocumented type.
pub fn check(body: &[u8]) {
    for status in [200, 400, 403, 429, 502] {
        let (read, _) = wire::read(&answer(status, body));
        if let Read::Good(fields) = &read {
            let _ = (wire::token(fields), wire::status(fields), wire::errors(fields));
            let _ = (wire::homes(fields), wire::events(fields));
        }
        if let Read::Refused(refusal) = &read {
            assert!(!refusal.to_string().contains('\n'));
        }
        play(body, status);
    }
}

fn answer(status: u16, body: &[u8]) -> Answer {
    Answer {
        status,
        content_type: String::new(),
        retry_after: None,
        date: None,
        location: None,
        body: body.to_vec(),
    }
}

/// The bytes as the answer to everything after a good token and good homes.
fn play(body: &[u8], status: u16) {
    let config = Config {
        name: "home".into(),
        client_id: "app".into(),
        client_secret: Some(Secret::new("app-secret")),
        refresh_token: Some(Secret::new("refresh")),
        api: "https://api.netatmo.com".parse().expect("a URL"),
        public_url: "https://door.example.org".parse().expect("a URL"),
    };
    let wall = Timestamp::from_second(1_790_000_000).expect("a moment in 2026");
    let mut now = Now { wall, run: Duration::ZERO };
    let earlier = Earlier::default();
    let mut session = Session::new("netatmo/home", Trust::Fresh, config, earlier, &[], now, 1);
    let mut outputs = session.tick(now);
    for n in 0..ANSWERS {
        let mut asked = question(&mut outputs);
        for _ in 0..STEPS_MAX {
            if asked.is_some() {
                break;
            }
            let wait = session.next_tick(now).saturating_sub(now.run);
            let wait = wait.clamp(Duration::from_millis(1), Duration::from_secs(3600));
            now = Now { wall: now.wall + wait, run: now.run + wait };
            outputs = session.tick(now);
            asked = question(&mut outputs);
        }
        let (id, ask) = asked.expect("it goes on asking");
        // A dead grant would end it, as it should; that is another test's.
        let said = match ask.url.path() {
            "/oauth2/token" => answer(200, TOKEN.as_bytes()),
            "/api/homesdata" if n < 3 => answer(200, HOMES.as_bytes()),
            _ => answer(status, body),
        };
        outputs = session.answered(id, Ok(said), now);
    }
}

/// The question among outputs; every event must be of a known type.
fn question(outputs: &mut Vec<Output>) -> Option<(u64, Ask)> {
    let mut asked = None;
    for output in outputs.drain(..) {
        match output {
            Output::Ask(id, ask) => asked = Some((id, ask)),
            Output::Tell(news) => {
                assert!(news.events.iter().all(|heard| TYPES.contains(&&*heard.event.kind)));
            }
            Output::Found(past, _) => {
                let types = portero::systems::netatmo::types();
                assert!(past.iter().all(|past| types.contains(&&*past.heard.event.kind)));
                assert!(past.iter().all(|past| past.heard.event.marks.caught_up));
            }
            _ => {}
        }
    }
    asked
}
