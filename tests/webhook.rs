//! Outgoing webhooks with the real binary: signed, sent again with the same id until taken, and
//! none after the receiver has said no for good.

mod support;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use support::push::{Does, Seen, Service};
use support::{Home, Netatmo, within};

/// As long as a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

const RULES: &str = r#"
rules:
  - name: tell
    when: { type: netatmo.smoke }
    lane: alarm
    do:
      - webhook: { to: ops, type: house.smoke, data: { home: "{{ event.data.home_id }}", kind: "{{ event.type }}" } }
      - webhook: { to: rude }
"#;

/// The specification's way, with other crates than ours.
fn is_signed(seen: &Seen) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"a test's secret").unwrap();
    let (id, at) = (seen.header("webhook-id"), seen.header("webhook-timestamp"));
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(&seen.body);
    seen.header("webhook-signature")
        == format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[test]
fn a_webhook_is_signed_and_sent_again_with_its_id_until_it_is_taken() {
    let (home, service) = (Home::new(RULES), Service::start());
    let at = service.at;
    let secret = STANDARD.encode("a test's secret");
    home.configure(
        "[people.ana]",
        &format!(
            "[webhook.ops]\nurl = \"http://{at}/ops\"\nsecret = \"whsec_{secret}\"\n\
             [webhook.rude]\nurl = \"http://{at}/rude\"\n[people.ana]"
        ),
    );
    service.tell("/ops", &[Does::Answers(503, ""), Does::Answers(500, ""), Does::Answers(204, "")]);
    service.tell("/rude", &[Does::Answers(410, "")]);
    let server = home.start();
    let body = r#"{"event_type":"smoke","push_type":"NSD-smoke","event_id":"s1","sub_type":1,"device_id":"70:ee:50:00:00:02","home_id":"h1"}"#;
    assert_eq!(Netatmo::connect(server.listen).unwrap().post(body.as_bytes()).unwrap(), 200);
    let seen = within(PATIENCE, "three tries", || {
        Some(service.seen("/ops")).filter(|seen| seen.len() >= 3)
    });
    assert!(seen.iter().all(is_signed));
    assert!(seen.iter().all(|one| one.header("webhook-id") == seen[0].header("webhook-id")));
    assert!(seen.iter().all(|one| one.body == seen[0].body));
    assert_eq!(seen[0].header("content-type"), "application/json");
    let told: Value = serde_json::from_slice(&seen[0].body).unwrap();
    let wanted = serde_json::json!({ "type": "house.smoke", "data": { "home": "h1", "kind": "netatmo.smoke" } });
    assert_eq!(told, wanted);
    let explained = within(PATIENCE, "the ends", || {
        let output = home.run(&["explain", "last"]);
        let text = String::from_utf8(output.stdout).unwrap();
        (text.contains("done at") && text.contains("410")).then_some(text)
    });
    assert!(!explained.contains(&secret), "{explained}");
    assert_eq!((service.seen("/ops").len(), service.seen("/rude").len()), (3, 1));
    let (_, log) = server.terminate();
    assert!(!log.contains(&secret) && !log.contains("a test's secret"), "{log}");
}
