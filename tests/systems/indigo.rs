//! Indigo.

use std::time::Duration;

use portero::clock::Clock;
use portero::systems::indigo::Feed;
use portero::systems::indigo::sim::{KEY, Sim};
use serde_json::{Value, json};

use super::{Estate, PATIENCE};
use crate::support::within;

const KINDS: [Feed; 6] =
    [Feed::Device, Feed::Variable, Feed::Action, Feed::Schedule, Feed::Trigger, Feed::Page];

fn section(sim: &Sim) -> String {
    format!("[indigo.house]\nurl = \"{}\"\napi_key = \"{KEY}\"\ntime_zone = \"UTC\"\n", sim.url())
}

/// Waits until everything known is what the server has, no more and no less.
fn until_exact(estate: &Estate, sim: &Sim) {
    within(PATIENCE, "the mirror", || {
        let known = estate.state("indigo/house");
        let same = |feed: &Feed| {
            let prefix = format!("indigo/house/{}/", feed.as_str());
            let truth = sim.truth(*feed);
            let ours = known.iter().filter_map(|(path, value)| {
                let id: i64 = path.strip_prefix(&prefix)?.parse().ok()?;
                Some((id, value.clone()))
            });
            ours.collect::<std::collections::BTreeMap<i64, Value>>() == truth
        };
        KINDS.iter().all(same).then_some(())
    });
}

fn device(sim: &Sim) -> i64 {
    *sim.truth(Feed::Device).keys().next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_every_kind_of_object_reaches_a_rule() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let estate = Estate::start(&section(&sim));
    estate.until_up("indigo/house");
    until_exact(&estate, &sim);
    for feed in KINDS {
        let (id, mut object) = sim.truth(feed).into_iter().next_back().unwrap();
        sim.change(feed, id, |object| object["description"] = json!("changed by a test"));
        estate.until_told(&format!("indigo.{}.changed", feed.as_str()));
        object["id"] = json!(777_000 + feed as i64);
        object["name"] = json!("Brand new");
        sim.add(feed, object);
        estate.until_told(&format!("indigo.{}.added", feed.as_str()));
        sim.delete(feed, 777_000 + feed as i64);
        estate.until_told(&format!("indigo.{}.deleted", feed.as_str()));
    }
    sim.log("Schedule", 0, "the sun has set");
    estate.until_told("indigo.log");
    until_exact(&estate, &sim);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_arrive_and_a_variable_is_read_by_its_name() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let estate = Estate::start(&section(&sim));
    estate.until_value("indigo/house/variable/house_status", Value::is_string);
    estate.done(
        "indigo/house",
        "variable.updateValue",
        json!({ "object": "house_status", "value": 7 }),
    );
    estate.until_value("indigo/house/variable/house_status", |value| *value == json!("7"));
    let refused = estate.tell("indigo/house", "device.turnOn", json!({ "object": "No such lamp" }));
    assert_eq!(refused["outcome"], "refused", "{refused}");
    assert!(sim.commands().iter().any(|c| c["message"] == "indigo.variable.updateValue"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mirror_is_exact_whatever_the_server_does() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let mut estate = Estate::start(&section(&sim));
    estate.until_up("indigo/house");
    until_exact(&estate, &sim);
    let id = device(&sim);
    sim.misbehave(|mischief| {
        (mischief.lose, mischief.duplicate, mischief.reorder) = (1, 2, 1);
        (mischief.no_id, mischief.empty, mischief.garbage) = (1, 1, 2);
    });
    for step in 0..12 {
        sim.change(Feed::Device, id, |device| {
            device["states"]["sensorValue.ui"] = json!(format!("{step} lux"));
            device["globalProps"]["com.example.plugin"] = json!({ "list": [step, step + 1] });
        });
    }
    sim.say_binary(Feed::Device, &[0, 1, 2, 255]);
    sim.say_text(Feed::Device, "{\"message\":\"patch\",");
    sim.say_text(Feed::Variable, "\"just a text\"");
    // One that is lost without a trace is found by the refresh; here a change makes it show.
    sim.cut(Feed::Device);
    until_exact(&estate, &sim);
    // What changes while Portero is away is told as caught up, once.
    estate.stop();
    sim.change(Feed::Device, id, |device| device["name"] = json!("Renamed meanwhile"));
    let before = estate.events("indigo.device.changed").len();
    estate.go_on();
    let told = estate.until_events("indigo.device.changed", before + 1);
    assert_eq!(told.last().unwrap()["caughtup"], true, "{told:?}");
    until_exact(&estate, &sim);
    estate.crash();
    estate.until_up("indigo/house");
    until_exact(&estate, &sim);
    assert_eq!(estate.events("indigo.device.changed").len(), before + 1);
    assert!(estate.value("indigo/house/device/Renamed meanwhile")["id"] == json!(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_feed_is_found_within_a_minute() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let estate = Estate::start(&section(&sim));
    estate.until_up("indigo/house");
    until_exact(&estate, &sim);
    let id = device(&sim);
    sim.freeze(Feed::Device);
    sim.change(Feed::Device, id, |device| device["description"] = json!("not heard"));
    within(Duration::from_secs(60), "the change", || {
        let known = estate.value(&format!("indigo/house/device/{id}"));
        (known["description"] == json!("not heard")).then_some(())
    });
}
