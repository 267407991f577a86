//! What must hold for any bytes that come in as a Netatmo webhook. Shared by the fuzz target and
//! the stable test that replays its corpus.

use jiff::Timestamp;
use portero::event::Trust;
use portero::secret::Secret;
use portero::systems::netatmo::session::Session;
use portero::systems::netatmo::{Config, Signature, normalise, signature, types};

/// Fails if `body` is not heard as at least one event of a documented type, the same each time.
pub fn check(body: &[u8]) {
    let now = Timestamp::from_second(1_790_000_000).expect("a moment in 2026");
    let hear = || Session::new("home", &Config::default()).webhook(body, Trust::Unverified, now);
    let heard = hear();
    assert!(!heard.is_empty() && heard.len() <= normalise::PERSONS_MAX);
    assert_eq!(heard, hear(), "the same bytes, the same events");
    for event in heard.iter().map(|heard| &heard.event) {
        assert!(types().contains(&event.kind.as_str()), "{} is not documented", event.kind);
        assert_eq!(event.raw, body);
    }
    // The bytes as a signature: nobody gets in by luck.
    let strict = Config { client_secret: Some(Secret::new("secret")), ..Config::default() };
    assert_eq!(strict.signature, Signature::Require);
    assert!(signature::verify(&strict, Some(body), body).is_err());
}
