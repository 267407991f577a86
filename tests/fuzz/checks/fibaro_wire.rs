//! What must hold for any frame of a FIBARO Intercom. Shared by the fuzz target and the stable
//! test that replays its corpus.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use portero::event::Trust;
use portero::secret::Secret;
use portero::systems::fibaro::names::Names;
use portero::systems::fibaro::session::{Input, Moment, Output, Session, Setup};
use portero::systems::fibaro::{TYPES, wire};

/// The token of the session that hears the frame; nothing that is kept may hold it.
const TOKEN: &str = "f00dfeedf00dfeed";

/// Fails if `frame` panics, shows a secret, or makes an event of a type that nobody documented.
pub fn check(frame: &[u8]) {
    assert!(!wire::read(frame).0.is_empty(), "every frame is something");
    let clean = wire::without_secrets(frame);
    assert_eq!(clean, wire::without_secrets(&clean), "hidden is hidden");
    let at = Timestamp::from_second(1_790_000_000).expect("a moment in 2026");
    let mut now = Moment { at, up: Duration::from_secs(1) };
    let setup = Setup {
        source: "fibaro/gate".into(),
        trust: Trust::Fresh,
        user: "portero".into(),
        pass: Secret::new("open sesame"),
        names: Names::new(&BTreeMap::new()),
        boot: 1,
    };
    let mut session = Session::new(setup, &[]);
    session.handle(Input::Connected, now);
    let login = format!(r#"{{"id":1,"result":{{"token":"{TOKEN}","exp_time":"900000"}}}}"#);
    session.handle(Input::Frame(login.as_bytes()), now);
    for output in session.handle(Input::Frame(frame), now) {
        match output {
            Output::Bad(_, raw) => assert!(!String::from_utf8_lossy(&raw).contains(TOKEN)),
            Output::News(news) => {
                for heard in &news.events {
                    assert!(TYPES.contains(&heard.event.kind.as_str()));
                    assert!(!String::from_utf8_lossy(&heard.event.raw).contains(TOKEN));
                }
            }
            Output::Send(_) | Output::Answer(..) | Output::Up | Output::Down { .. } => {}
        }
    }
    // Whatever it was, time goes on and the session ends.
    now.up += Duration::from_secs(120);
    session.handle(Input::Tick, now);
    session.handle(Input::Closed("the end"), now);
    assert_eq!(session.due(), None);
}
