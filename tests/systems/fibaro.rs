//! FIBARO Intercom.

use std::time::Duration;

use portero::systems::fibaro::sim::Sim;
use portero::systems::fibaro::sim::house::{Manners, TokenError};
use portero::systems::fibaro::{COMMANDS, TRUST_CERTIFICATE, TYPES};
use portero::systems::tls;
use serde_json::{Value, json};

use super::{Estate, NOTES, PATIENCE, sample};
use crate::support::within;

fn section(sim: &Sim, certificate: &str) -> String {
    format!(
        "[fibaro.gate]\nurl = \"{}\"\nuser = \"portero\"\npass = \"open sesame\"\n\
         certificate = \"{certificate}\"\n",
        sim.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_reaches_a_rule_and_the_relay_is_known() {
    let sim = Sim::start().await.unwrap();
    let estate = Estate::start(&section(&sim, "pin-first"));
    estate.until_up("fibaro/gate");
    sim.ring(2);
    assert_eq!(estate.until_told("fibaro.button"), "2");
    sim.turn(0, true, "PIN-ENTERED", "ana");
    estate.until_told("fibaro.relay");
    sim.day_night("night");
    estate.until_told("fibaro.day_night");
    sim.near(true);
    estate.until_told("fibaro.proximity");
    let relay = estate.until_value("fibaro/gate/relay/0", |relay| relay["open"] == true);
    assert_eq!(relay["user"], "ana");
    let ring = &estate.events("fibaro.button")[0];
    assert_eq!(ring["trust"], "fresh");
    assert_eq!(ring.get("caughtup"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_opens_once_for_each_command_whatever_the_intercom_does() {
    let sim = Sim::start().await.unwrap();
    let estate = Estate::start(&section(&sim, "pin-first"));
    estate.until_up("fibaro/gate");
    estate.done("fibaro/gate", "relay.open", json!({ "relay": 0, "timeout": "3s" }));
    assert_eq!(sim.truth().relays[0].openings, 1);
    sim.expire_tokens();
    estate.tell("fibaro/gate", "relay.open", json!({ "relay": 0 }));
    assert!(sim.truth().relays[0].openings <= 2);
    let before = sim.truth().relays[1].openings;
    sim.behave(|manners| {
        manners.mute.insert("relay.open");
    });
    let answer = estate.tell("fibaro/gate", "relay.open", json!({ "relay": 1 }));
    assert_eq!(answer["outcome"], "unknown", "{answer}");
    assert_eq!(sim.truth().relays[1].openings - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_refused_and_alarms() {
    let sim = Sim::start().await.unwrap();
    let estate = Estate::start(&section(&sim, "pin-first"));
    estate.until_up("fibaro/gate");
    sim.change_certificate().unwrap();
    sim.drop_sockets();
    estate.until_told("fibaro.certificate_changed");
    assert_eq!(sim.logged_in(), 0);
    let answer = estate.tell("fibaro/gate", "relay.open", json!({ "relay": 0 }));
    assert_eq!(answer["outcome"], "expired", "{answer}");
    assert_eq!(sim.truth().relays[0].openings, 0);
    estate.done("fibaro/gate", "trust_certificate", json!({}));
    estate.until_up("fibaro/gate");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_drops_and_silence_are_survived() {
    let sim = Sim::start().await.unwrap();
    let mut estate = Estate::start(&section(&sim, "pin-first"));
    estate.until_up("fibaro/gate");
    sim.say_text("{not json");
    sim.say_text("[]");
    sim.say_text(r#"{"jsonrpc":"2.0","method":"com.fibaro.intercom.unheard.of","params":7}"#);
    sim.say_bytes(&[0, 159, 146, 150]);
    sim.say_text(&"x".repeat(2 << 20));
    sim.ring(1);
    estate.until_events("fibaro.button", 1);
    assert!(estate.metric("portero_quarantined_total") >= 4.0);
    // What changes while nobody listens is told afterwards, and never as fresh.
    sim.go_away(true);
    estate.until_down("fibaro/gate");
    sim.turn(0, true, "DTMF", "ben");
    sim.go_away(false);
    let told = estate.until_events("fibaro.relay", 1);
    assert_eq!(told[0]["caughtup"], true, "{told:?}");
    assert_eq!(told[0]["trust"], "authentic");
    estate.until_up("fibaro/gate");
    estate.stop();
    assert_eq!(sim.logged_in(), 0);
}

/// Waits until both relays are known as they are.
fn until_exact(estate: &Estate, sim: &Sim) {
    within(PATIENCE, "the mirror", || {
        let known = estate.state("fibaro/gate/relay");
        let is_same = |relay: usize| {
            known.get(&format!("fibaro/gate/relay/{relay}")).map(|known| &known["open"])
                == Some(&Value::Bool(sim.truth().relays[relay].open))
        };
        (is_same(0) && is_same(1)).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_event_reaches_a_rule() {
    let sim = Sim::start().await.unwrap();
    let estate = Estate::start(&section(&sim, "pin-first"));
    estate.until_up("fibaro/gate");
    for kind in TYPES {
        match *kind {
            "fibaro.relay" => sim.turn(1, true, "BLE", "ana"),
            "fibaro.button" => sim.ring(3),
            "fibaro.day_night" => sim.day_night("night"),
            "fibaro.proximity" => sim.near(true),
            "fibaro.certificate_changed" => {
                sim.change_certificate().unwrap();
                sim.drop_sockets();
            }
            other => panic!("{other} is new: make it happen here"),
        }
        estate.until_told(kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_reaches_the_intercom() {
    let sim = Sim::start().await.unwrap();
    let estate = Estate::start(&section(&sim, "pin-first"));
    estate.until_up("fibaro/gate");
    let given = json!({ "user": "ben", "pin": "4321", "pass": "a pass", "timeout": 500,
        "high_threshold": 33, "low_threshold": 3, "mode": "night" });
    for spec in COMMANDS {
        if spec.name == TRUST_CERTIFICATE {
            let fingerprint = tls::show(&sim.change_certificate().unwrap());
            sim.drop_sockets();
            estate.until_told("fibaro.certificate_changed");
            estate.done("fibaro/gate", spec.name, json!({ "fingerprint": fingerprint }));
            estate.until_up("fibaro/gate");
            continue;
        }
        let before = sim.received(spec.name).len();
        let args = sample(spec, &given);
        estate.done("fibaro/gate", spec.name, args.clone());
        let received = &sim.received(spec.name)[before..];
        // The driver asks some things of its own accord, too.
        let is_it = |came: &&Value| {
            let wanted = args.as_object().unwrap().iter();
            wanted.filter(|(name, _)| *name != "framerate").all(|(name, v)| came[name] == *v)
        };
        let came = received.iter().filter(is_it).count();
        let asks = args == json!({});
        assert!(came == 1 || (asks && came > 0), "{}: {received:?}", spec.name);
    }
    let truth = sim.truth();
    assert_eq!(truth.relays[0].openings, 1);
    assert_eq!(
        (&truth.settings["high_threshold"], &truth.settings["mode"]),
        (&json!(33), &json!("night"))
    );
    assert!(truth.users.iter().all(|user| user.name != "ben"), "added, changed and removed");
    let state = serde_json::to_string(&estate.state("fibaro")).unwrap();
    assert!(!state.contains("4321"), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_opens_the_door_for_a_ring_and_never_for_an_old_one() {
    let sim = Sim::start().await.unwrap();
    let rules = format!(
        "{NOTES}  - name: porter
    when: {{ type: fibaro.button }}
    do:
      - fibaro: {{ intercom: gate, call: relay.open, relay: 1 }}
"
    );
    let estate = Estate::start_with(&section(&sim, "pin-first"), &rules);
    estate.until_up("fibaro/gate");
    sim.ring(1);
    within(PATIENCE, "the door", || (sim.truth().relays[1].openings == 1).then_some(()));
    until_exact(&estate, &sim);
    assert_eq!(sim.received("relay.open").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_manners_lose_nothing_and_leave_the_relays_exact() {
    let sim = Sim::start().await.unwrap();
    let mut estate = Estate::start(&section(&sim, "pin-first"));
    estate.until_up("fibaro/gate");
    let manners: [fn(&mut Manners); 6] = [
        |m| m.twice = true,
        |m| m.reorder = true,
        |m| m.text_ids = true,
        |m| (m.twice, m.reorder, m.signal_first) = (true, true, false),
        |m| m.token_lives = Duration::from_millis(700),
        |m| m.token_error = TokenError::InvalidToken,
    ];
    for (n, manner) in manners.into_iter().enumerate() {
        sim.behave(|all| {
            *all = Manners::default();
            manner(all);
        });
        sim.expire_tokens();
        let before = sim.truth().relays[0].openings;
        estate.done("fibaro/gate", "relay.open", json!({ "relay": 0, "timeout": 250 }));
        assert_eq!(sim.truth().relays[0].openings, before + 1, "manner {n}");
        let heard = estate.events("fibaro.button").len();
        sim.ring(n as i64);
        // A signal has no id: two of them are two presses, since a lost release costs no ring.
        let presses = if [0, 3].contains(&n) { 2 } else { 1 };
        estate.until_events("fibaro.button", heard + presses);
        until_exact(&estate, &sim);
        assert_eq!(estate.events("fibaro.button").len(), heard + presses, "manner {n}");
    }
    sim.behave(|all| *all = Manners::default());
    sim.drop_sockets();
    estate.done("fibaro/gate", "relay.state", json!({ "relay": 0 }));
    estate.crash();
    // What changed while nobody listened.
    sim.turn(1, true, "DTMF", "ben");
    until_exact(&estate, &sim);
    estate.until_up("fibaro/gate");
    sim.turn(1, false, "TIMEOUT", "");
    until_exact(&estate, &sim);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_socket_is_found_within_a_minute() {
    let sim = Sim::start().await.unwrap();
    let estate = Estate::start(&section(&sim, "pin-first"));
    estate.until_up("fibaro/gate");
    sim.freeze(true);
    sim.turn(0, true, "PIN-ENTERED", "ana");
    estate.until_down("fibaro/gate");
    sim.freeze(false);
    estate.until_up("fibaro/gate");
    until_exact(&estate, &sim);
    assert!(estate.events("fibaro.relay").len() <= 1);
}
