//! FIBARO Intercom.

use portero::systems::fibaro::sim::Sim;
use serde_json::json;

use super::Estate;

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
