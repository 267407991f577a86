//! Indigo.

use std::time::Duration;

use portero::clock::Clock;
use portero::systems::indigo::commands::feed_of;
use portero::systems::indigo::sim::{KEY, Mischief, Sim};
use portero::systems::indigo::{COMMANDS, Feed};
use serde_json::{Value, json};

use super::{Estate, NOTES, PATIENCE, sample};
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

#[tokio::test(flavor = "multi_thread")]
async fn every_command_reaches_the_server() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let estate = Estate::start(&section(&sim));
    estate.until_up("indigo/house");
    until_exact(&estate, &sim);
    for spec in COMMANDS {
        let feed = feed_of(spec.name);
        let mut given = json!({ "schedule": [10, 0], "text": "hello", "deviceId": "Porch Light" });
        let mut id = Value::Null;
        if let Some(feed) = feed {
            let all = sim.truth(feed);
            let name = if spec.name.ends_with("lock") { "Front Door Lock" } else { "Porch Light" };
            let mut found = all.iter().filter(|(_, object)| object["name"] == name);
            let (key, object) = found.next().or(all.iter().next()).unwrap();
            (given["object"], id) = (object["name"].clone(), json!(key));
        }
        let before = sim.commands().len();
        estate.done("indigo/house", spec.name, sample(spec, &given));
        let came = sim.commands()[before..].to_vec();
        let named = match spec.name {
            "log" => "indigo.server.log".to_string(),
            plugin if plugin.starts_with("plugin.") => plugin.to_string(),
            other => format!("indigo.{other}"),
        };
        assert_eq!(came.len(), 1, "{}: {came:?}", spec.name);
        assert_eq!((&came[0]["message"], &came[0]["objectId"]), (&json!(named), &id));
    }
    until_exact(&estate, &sim);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_commands_and_does_not_hear_itself_for_ever() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let rules = format!(
        "{NOTES}  - name: porch
    when: {{ type: indigo.variable.changed }}
    if: state(\"indigo/house/device/Porch Light\").onState != true
    do:
      - indigo: {{ server: house, call: device.turnOn, object: Porch Light, duration: 600 }}
"
    );
    let estate = Estate::start_with(&section(&sim), &rules);
    estate.until_up("indigo/house");
    until_exact(&estate, &sim);
    let (variable, _) = sim.truth(Feed::Variable).into_iter().next().unwrap();
    for value in ["one", "two"] {
        sim.change(Feed::Variable, variable, |object| object["value"] = json!(value));
        estate.until_value("indigo/house/device/Porch Light", |light| light["onState"] == true);
        until_exact(&estate, &sim);
    }
    estate.until_events("indigo.variable.changed", 2);
    let commands = sim.commands();
    assert_eq!(commands.len(), 1, "{commands:?}");
    assert_eq!(commands[0]["parameters"]["duration"], 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_slow_and_stale_answers_end_in_the_same_objects() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let mut estate = Estate::start(&section(&sim));
    estate.until_up("indigo/house");
    until_exact(&estate, &sim);
    let id = device(&sim);
    let misdeeds: [fn(&mut Mischief); 5] = [
        |m| m.refuse = Some(401),
        |m| m.refuse = Some(503),
        |m| (m.slow_refresh, m.stale_refresh) = (Duration::from_millis(300), true),
        |m| (m.lose, m.garbage) = (3, 3),
        |m| (m.duplicate, m.reorder, m.no_id, m.empty) = (2, 2, 2, 2),
    ];
    for (n, misdeed) in misdeeds.into_iter().enumerate() {
        sim.misbehave(misdeed);
        for feed in KINDS {
            sim.cut(feed);
        }
        for step in 0..4 {
            sim.change(Feed::Device, id, |device| {
                device["description"] = json!(format!("{n}.{step}"));
                device["states"]["a.b"] = json!([n, step]);
            });
        }
        if n < 2 {
            estate.until_down("indigo/house");
        }
        sim.misbehave(|mischief| *mischief = Mischief::default());
        for feed in KINDS {
            sim.cut(feed);
        }
        estate.until_up("indigo/house");
        until_exact(&estate, &sim);
    }
    // A server without commands over HTTP takes them over the feed.
    sim.misbehave(|mischief| mischief.no_http = Some(404));
    estate.tell("indigo/house", "device.turnOn", json!({ "object": "Porch Light" }));
    estate.until_value("indigo/house/device/Porch Light", |light| light["onState"] == true);
    estate.crash();
    until_exact(&estate, &sim);
}
