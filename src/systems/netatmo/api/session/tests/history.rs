//! The cloud's history, played into the session.

use super::*;

const EVENTS: &str = include_str!("../../../../../../fixtures/netatmo_api/getevents.json");
const BEFORE: &str = include_str!("../../../../../../fixtures/netatmo_api/getevents_before.json");

#[test]
fn the_history_is_learnt_first_and_then_told_as_webhooks_would() {
    let mut play = Play::new(Some("first"));
    play.lay("/api/getevents", 200, BEFORE);
    play.run(Duration::from_secs(1));
    assert_eq!(play.events(), Vec::<String>::new());
    play.pass(9 * MINUTE);
    // The same page again and again, whatever is asked for.
    play.lay("/api/getevents", 200, EVENTS);
    play.lay("/api/getevents", 200, EVENTS);
    play.asked.clear();
    play.run(2 * MINUTE);
    assert_eq!(play.count("/api/getevents"), 2);
    let told: Vec<String> =
        play.events().into_iter().filter(|event| !event.contains("webhook_failed")).collect();
    let expected = [
        "netatmo.movement* 70:ee:50:aa:00:01",
        "netatmo.sd* 70:ee:50:aa:00:02",
        "netatmo.person* e2bf7000-0000-4000-8000-000000000001",
        "netatmo.tag_open* 70:ee:50:aa:01:01",
        "netatmo.human* 70:ee:50:aa:00:04",
        "netatmo.ring* 70:ee:50:aa:00:04",
        "netatmo.missed_call* 70:ee:50:aa:00:04",
    ];
    assert_eq!(told, expected);
    let marks = play.session.marks.clone();
    // After a restart nothing of it is told again.
    let earlier =
        Earlier { kept: Some(play.session.oauth.kept().clone()), marks, ..Earlier::default() };
    let mut again = Play::after(Some("first"), earlier, &[]);
    again.lay("/api/getevents", 200, EVENTS);
    again.run(Duration::from_secs(1));
    assert_eq!(again.events(), Vec::<String>::new());
}

/// A webhook and the history tell of the same fact: it has one id.
#[test]
fn the_history_names_a_fact_as_its_webhook_did() {
    let mut play = Play::new(Some("first"));
    play.lay("/api/getevents", 200, BEFORE);
    play.run(Duration::from_secs(1));
    play.pass(9 * MINUTE);
    play.lay("/api/getevents", 200, EVENTS);
    play.run(2 * MINUTE);
    let found: Vec<Past> = play
        .said
        .iter()
        .filter_map(|output| match output {
            Output::Found(past, _) => Some(past.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    let hook = netatmo::session::Session::new("home", &netatmo::Config::default());
    for body in [
        &include_bytes!("../../../../../../fixtures/netatmo/movement.json")[..],
        include_bytes!("../../../../../../fixtures/netatmo/human_before_ring.json"),
        include_bytes!("../../../../../../fixtures/netatmo/incoming_call.json"),
        include_bytes!("../../../../../../fixtures/netatmo/missed_call.json"),
        include_bytes!("../../../../../../fixtures/netatmo/tag_open.json"),
        include_bytes!("../../../../../../fixtures/netatmo/person_known.json"),
        include_bytes!("../../../../../../fixtures/netatmo/sd_working.json"),
    ] {
        let live = hook.webhook(body, Trust::Authentic, START).remove(0).event;
        let past = found.iter().find(|past| past.heard.event.kind == live.kind).unwrap();
        assert_eq!(past.heard.event.id, live.id, "{}", live.kind);
        assert_eq!(past.heard.event.trust, Trust::Authentic);
        assert!(past.heard.event.time.is_some());
    }
}

#[test]
fn a_ring_heard_live_is_known_without_its_session() {
    let mut play = Play::new(Some("first"));
    play.lay("/api/getevents", 200, BEFORE);
    play.run(Duration::from_secs(1));
    let heard = |kind: &str, event: Option<&str>, s: i64| CallHeard {
        kind: kind.into(),
        event_id: event.map(String::from),
        subevent_id: None,
        device_id: Some("70:ee:50:aa:00:04".into()),
        at: Timestamp::from_second(s).unwrap(),
    };
    let calls = vec![
        heard("netatmo.ring", None, 1_795_082_702),
        heard("netatmo.missed_call", Some("6a1f0c1a2b3c4d5e6f70aaaa"), 1_795_082_731),
    ];
    play.session.webhooks(Some(play.now.wall), calls);
    play.pass(9 * MINUTE);
    let without = EVENTS.replace(r#""session_id":"08800000-0000-4000-8000-000000000101","#, "");
    play.lay("/api/getevents", 200, &without);
    play.run(2 * MINUTE);
    let told = play.events().join(" ");
    assert!(told.contains("netatmo.human*"), "{told}");
    assert!(!told.contains("netatmo.ring") && !told.contains("missed_call"), "{told}");
}

#[test]
fn what_is_too_young_is_left_to_its_webhook() {
    let mut play = Play::new(Some("first"));
    play.lay("/api/getevents", 200, BEFORE);
    play.run(Duration::from_secs(1));
    play.pass(Duration::from_secs(1_795_082_740 - 1_795_082_401));
    let outputs = play.session.doubt(play.now);
    play.lay("/api/getevents", 200, EVENTS);
    play.lay("/api/getevents", 200, EVENTS);
    play.settle(outputs);
    let told = play.events().join(" ");
    assert!(told.contains("netatmo.ring*") && !told.contains("missed_call"), "{told}");
    play.lay("/api/getevents", 200, EVENTS);
    play.run(Duration::from_secs(30));
    assert!(play.events().join(" ").contains("missed_call*"));
}
