//! The whole driver against the simulator: TLS, frames, misbehaviour, certificates.

use std::time::Duration;

use portero::event::Trust;
use portero::secret::Secret;
use portero::systems::Certificate;
use portero::systems::fibaro::sim::house::{Expiry, TokenError};
use portero::systems::fibaro::sim::{PASS, Sim, USER};
use portero::systems::fibaro::{COMMANDS, Config, TRUST_CERTIFICATE, run};
use portero::systems::link::Reply;
use portero::systems::tls;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use super::link::{Run, TestHouse};

const GATE: &str = "fibaro/gate";

struct Scene {
    house: TestHouse,
    sim: Sim,
    run: Run,
    driver: JoinHandle<()>,
}

fn config(sim: &Sim) -> Config {
    Config {
        url: sim.url(),
        user: USER.into(),
        pass: Some(Secret::new(PASS)),
        certificate: Certificate::PinFirst,
        names: Default::default(),
    }
}

impl Scene {
    async fn new() -> Scene {
        let sim = Sim::start().await.unwrap();
        let config = config(&sim);
        Scene::with(sim, config).await
    }

    async fn with(sim: Sim, config: Config) -> Scene {
        let house = TestHouse::new().await;
        let (link, run_handle) = house.link(GATE);
        let driver = tokio::spawn(run(config, link));
        let scene = Scene { house, sim, run: run_handle, driver };
        scene.up().await;
        scene
    }

    /// Logged in, and the relays' states known.
    async fn up(&self) {
        self.house
            .until("the link", |house| {
                let up = house.state("fibaro/gate/link")?["up"] == json!(true);
                (up && self.sim.logged_in() > 0).then_some(())
            })
            .await;
    }

    async fn order(&self, call: &str, args: Value) -> Reply {
        self.run.order(GATE, call, args).await
    }

    fn openings(&self, relay: usize) -> u64 {
        self.sim.truth().relays[relay].openings
    }

    async fn stop(self) -> (TestHouse, Sim) {
        self.run.stopping.cancel();
        tokio::time::timeout(Duration::from_secs(2), self.driver).await.unwrap().unwrap();
        (self.house, self.sim)
    }
}

#[tokio::test]
async fn what_happens_at_the_gate_is_told_live() {
    let scene = Scene::new().await;
    scene.sim.ring(2);
    scene.sim.ring(2);
    let ring = scene.house.event("fibaro.button", 2).await;
    assert_eq!(Value::Object(ring.data.clone()), json!({ "button": 2, "intercom": "gate" }));
    assert_eq!((ring.subject.as_deref(), ring.trust), (Some("2"), Trust::Fresh));
    assert!(ring.marks.is_plain() && ring.raw.starts_with(b"{"));
    scene.sim.turn(0, true, "PIN-ENTERED", "ana");
    let relay = scene.house.event("fibaro.relay", 1).await;
    let data = json!({"relay": 0, "open": true, "method": "PIN-ENTERED", "user": "ana", "intercom": "gate"});
    assert_eq!(Value::Object(relay.data.clone()), data);
    scene.sim.day_night("night");
    scene.sim.near(true);
    scene.house.event("fibaro.day_night", 1).await;
    scene.house.event("fibaro.proximity", 1).await;
    let states = scene.house.states(GATE);
    assert_eq!(states["fibaro/gate/button/2"], json!({ "pressed": false }));
    let open = json!({ "open": true, "method": "PIN-ENTERED", "user": "ana" });
    assert_eq!(states["fibaro/gate/relay/0"], open);
    assert_eq!(states["fibaro/gate/day_night"], json!({ "mode": "night" }));
    assert_eq!(states["fibaro/gate/proximity"], json!({ "near": true }));
    let (house, sim) = scene.stop().await;
    assert_eq!(sim.received("account.logout").len(), 1);
    assert_eq!(house.events().len(), 5);
    assert!(house.bad().is_empty());
}

#[tokio::test]
async fn every_command_reaches_the_intercom() {
    let scene = Scene::new().await;
    let secrets = Map::from_iter([
        ("pass".to_string(), json!("let me in")),
        ("pin".to_string(), json!("4711")),
    ]);
    let tour = [
        ("relay.open", json!({ "relay": 1, "timeout": 250 }), json!(0)),
        ("relay.state", json!({ "relay": 0 }), json!({ "opened": false })),
        ("relay.set_timeout", json!({ "relay": 0, "timeout": 250 }), json!(0)),
        ("relay.timeout", json!({ "relay": 0 }), json!({ "timeout": 250 })),
        ("users.add", json!({ "user": "ana", "uuid": "u-1" }), json!(0)),
        ("users.change", json!({ "user": "ana", "is_admin": true }), json!(0)),
        ("users.list", json!({}), Value::Null),
        ("users.remove", json!({ "user": "ana" }), json!(0)),
        ("video.set", json!({"hdr": false, "dewarping": true, "framerate": "60"}), json!(0)),
        ("day_night.set_mode", json!({ "mode": "night IR ext" }), json!(0)),
        ("day_night.mode", json!({}), json!({ "mode": "night IR ext" })),
        ("day_night.set_high_threshold", json!({ "high_threshold": 30 }), json!(0)),
        ("day_night.high_threshold", json!({}), json!({ "high_threshold": 30 })),
        ("day_night.set_low_threshold", json!({ "low_threshold": 3 }), json!(0)),
        ("day_night.low_threshold", json!({}), json!({ "low_threshold": 3 })),
        ("day_night.luminosity", json!({}), json!({ "luminosity": 120 })),
        ("proximity.set_sensitivity", json!({ "sensitivity": "HIGH" }), json!(0)),
        ("proximity.sensitivity", json!({}), json!({ "sensitivity": "HIGH" })),
        ("proximity.set_timeout", json!({ "timeout": 9000 }), json!(0)),
        ("proximity.timeout", json!({}), json!({ "timeout": 9000 })),
    ];
    for (call, args, expected) in &tour {
        let secrets = if *call == "users.add" { secrets.clone() } else { Map::new() };
        let reply = scene.run.secret_order(GATE, call, args.clone(), secrets).await;
        let Reply::Done(result) = &reply else { panic!("{call}: {reply:?}") };
        if *call == "users.list" {
            assert_eq!(
                (&result[1]["user"], &result[1]["pin"]),
                (&json!("ana"), &json!("(hidden)"))
            );
            assert_eq!(scene.sim.truth().users[1].pin, "4711");
        } else {
            assert_eq!(result, expected, "{call}");
        }
    }
    for command in COMMANDS.iter().filter(|command| command.name != TRUST_CERTIFICATE) {
        assert!(tour.iter().any(|(call, ..)| *call == command.name), "{}", command.name);
    }
    let truth = scene.sim.truth();
    assert_eq!(truth.users.len(), 1);
    assert_eq!(truth.settings["video"]["framerate"], 60);
    // The relay closed by itself after its quarter of a second.
    let closed = |house: &TestHouse| {
        let of_relay = house.events_of("fibaro.relay");
        let closed = of_relay.into_iter().find(|event| event.data["open"] == false)?;
        (closed.data["method"] == "TIMEOUT").then_some(())
    };
    scene.house.until("the relay to close", closed).await;
}

#[tokio::test]
async fn all_mischief_at_once_is_survived_and_each_door_opens_once() {
    let scene = Scene::new().await;
    for (round, form) in [TokenError::Expired, TokenError::InvalidToken].into_iter().enumerate() {
        scene.sim.behave(|manners| {
            manners.token_error = form;
            manners.twice = true;
            manners.reorder = true;
            manners.text_ids = true;
            manners.signal_first = round == 0;
        });
        scene.sim.expire_tokens();
        for garbage in ["", "{", "[]", "null", "{\"method\":1}", "{\"id\":1e99,\"result\":0}"] {
            scene.sim.say_text(garbage);
        }
        scene.sim.say_bytes(&[0, 159, 146, 150]);
        scene.sim.say_text(&"x".repeat(2 * 1024 * 1024));
        let opened = scene.order("relay.open", json!({ "relay": round })).await;
        assert_eq!(opened, Reply::Done(json!(0)));
        assert_eq!(scene.openings(round), 1);
        let asked = tokio::join!(
            scene.order("relay.timeout", json!({ "relay": 0 })),
            scene.order("day_night.mode", json!({})),
            scene.order("day_night.luminosity", json!({})),
        );
        assert_eq!(asked.0, Reply::Done(json!({ "timeout": 3000 })));
        assert_eq!(asked.1, Reply::Done(json!({ "mode": "auto" })));
        assert_eq!(asked.2, Reply::Done(json!({ "luminosity": 120 })));
    }
    assert_eq!(scene.house.bad().len(), 16);
    let huge = scene.house.bad().into_iter().find(|bad| bad.reason == "a huge frame");
    assert!(huge.is_some());
    assert_eq!(scene.sim.received("account.login").len(), 3);
}

#[tokio::test]
async fn a_text_that_is_no_text_is_counted_and_the_driver_goes_on() {
    let scene = Scene::new().await;
    scene.sim.say_broken(b"{\"method\":\"\xff\xfe\"}");
    let bad = scene.house.until("it is kept", |house| house.bad().pop()).await;
    assert!(bad.reason.to_ascii_lowercase().contains("utf"), "{}", bad.reason);
    scene
        .house
        .until("a new login", |_| (scene.sim.received("account.login").len() == 2).then_some(()))
        .await;
    scene.up().await;
    scene.sim.ring(2);
    scene.house.event("fibaro.button", 1).await;
    assert_eq!(scene.house.bad().len(), 1);
    scene.stop().await;
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_the_door_is_not_opened_again() {
    let scene = Scene::new().await;
    scene.sim.behave(|manners| manners.mute = ["relay.open"].into());
    let (reply, ()) = tokio::join!(scene.order("relay.open", json!({ "relay": 0 })), async {
        scene.house.event("fibaro.relay", 1).await;
        scene.sim.drop_sockets();
    });
    assert!(matches!(reply, Reply::Unknown(why) if why.contains("heard to open")));
    scene.up().await;
    assert_eq!(scene.order("relay.state", json!({"relay": 0})).await, {
        Reply::Done(json!({ "opened": true }))
    });
    assert_eq!(scene.openings(0), 1);
}

#[tokio::test]
async fn what_changed_while_the_line_was_cut_is_caught_up() {
    let scene = Scene::new().await;
    scene.house.until("the relays", |house| house.state("fibaro/gate/relay/1")).await;
    scene.sim.go_away(true);
    let down =
        |house: &TestHouse| (house.state("fibaro/gate/link")?["up"] == json!(false)).then_some(());
    scene.house.until("the link to fall", down).await;
    let refused = scene.order("relay.open", json!({ "relay": 0 })).await;
    assert!(matches!(refused, Reply::Unsent(_)), "{refused:?}");
    scene.sim.turn(1, true, "DTMF", "ana");
    scene.sim.go_away(false);
    scene.up().await;
    let event = scene.house.event("fibaro.relay", 1).await;
    assert!(event.marks.caught_up && event.trust == Trust::Authentic);
    assert_eq!((&event.data["relay"], &event.data["open"]), (&json!(1), &json!(true)));
    assert_eq!(scene.openings(0), 0);
    // And over a restart.
    let (house, sim) = scene.stop().await;
    sim.turn(1, false, "TIMEOUT", "");
    let (link, _run) = house.link(GATE);
    let _driver = tokio::spawn(run(config(&sim), link));
    let event = house.event("fibaro.relay", 2).await;
    assert!(event.marks.caught_up && event.data["open"] == false);
}

#[tokio::test]
async fn an_intercom_that_lacks_what_is_guessed_works_all_the_same() {
    let sim = Sim::start().await.unwrap();
    sim.behave(|manners| {
        let known = ["account.login", "account.logout", "account.refresh", "relay.open"];
        let names = portero::systems::fibaro::names::NAMES.iter().map(|name| name.key);
        manners.lacks = names.filter(|key| !known.contains(key)).collect();
        manners.expiry = Expiry::NumberMoment;
    });
    let config = config(&sim);
    let scene = Scene::with(sim, config).await;
    let refused = scene.order("day_night.luminosity", json!({})).await;
    assert!(matches!(refused, Reply::Refused(why) if why.contains("lacks")));
    assert_eq!(scene.order("relay.open", json!({ "relay": 0 })).await, Reply::Done(json!(0)));
    scene.sim.ring(1);
    scene.house.event("fibaro.button", 1).await;
    assert_eq!(scene.sim.received("account.login").len(), 1);
}

#[tokio::test]
async fn the_config_corrects_names_on_the_wire() {
    let corrected = [("relay.state", "com.fibaro.intercom.relay.get"), ("signal.button", "bell")];
    let corrected = corrected.map(|(key, wire)| (key.to_string(), wire.to_string())).into();
    let names = portero::systems::fibaro::names::Names::new(&corrected);
    let sim = Sim::start_with(names).await.unwrap();
    let config = Config { names: corrected, ..config(&sim) };
    let scene = Scene::with(sim, config).await;
    scene.sim.ring(1);
    scene.house.event("fibaro.button", 1).await;
    assert_eq!(scene.order("relay.state", json!({"relay": 1})).await, {
        Reply::Done(json!({ "opened": false }))
    });
}

#[tokio::test]
async fn another_certificate_is_refused_told_once_and_trusted_by_hand_only() {
    let scene = Scene::new().await;
    let first = tls::show(&scene.sim.fingerprint());
    let second = tls::show(&scene.sim.change_certificate().unwrap());
    scene.sim.drop_sockets();
    let event = scene.house.event("fibaro.certificate_changed", 1).await;
    assert_eq!(
        (&event.data["fingerprint"], &event.data["expected"]),
        (&json!(second), &json!(first))
    );
    assert_eq!(event.trust, Trust::Unverified);
    let unsent = scene.order("relay.open", json!({ "relay": 0 })).await;
    assert!(matches!(unsent, Reply::Unsent(why) if why.contains("certificate changed")));
    assert_eq!(scene.sim.received("account.login").len(), 1, "no password for a stranger");
    let wrong = scene.order(TRUST_CERTIFICATE, json!({ "fingerprint": first })).await;
    assert!(matches!(wrong, Reply::Refused(why) if why.contains(&second)));
    let trusted = scene.order(TRUST_CERTIFICATE, json!({ "fingerprint": second })).await;
    assert_eq!(trusted, Reply::Done(json!({ "fingerprint": second })));
    scene
        .house
        .until("a login", |_| (scene.sim.received("account.login").len() == 2).then_some(()))
        .await;
    scene.up().await;
    // It is remembered.
    let (house, sim) = scene.stop().await;
    sim.change_certificate().unwrap();
    let (link, _run) = house.link(GATE);
    let _driver = tokio::spawn(run(config(&sim), link));
    let event = house.event("fibaro.certificate_changed", 2).await;
    assert_eq!(event.data["expected"], json!(second));
}

#[tokio::test]
async fn a_given_certificate_and_any_certificate() {
    for right in [true, false] {
        let sim = Sim::start().await.unwrap();
        let pin = if right { sim.fingerprint() } else { [7; 32] };
        let config = Config { certificate: Certificate::Pin(pin), ..config(&sim) };
        let house = TestHouse::new().await;
        let (link, run_handle) = house.link(GATE);
        let _driver = tokio::spawn(run(config, link));
        if right {
            house.until("a login", |_| (sim.logged_in() > 0).then_some(())).await;
        } else {
            house.event("fibaro.certificate_changed", 1).await;
            let refused = run_handle.order(GATE, TRUST_CERTIFICATE, json!({})).await;
            assert!(matches!(refused, Reply::Refused(why) if why.contains("pin-first")));
        }
    }
    let sim = Sim::start().await.unwrap();
    let config = Config { certificate: Certificate::Insecure, ..config(&sim) };
    let scene = Scene::with(sim, config).await;
    scene.sim.change_certificate().unwrap();
    scene.sim.drop_sockets();
    scene
        .house
        .until("a login", |_| (scene.sim.received("account.login").len() > 1).then_some(()))
        .await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_never_shown() {
    let sim = Sim::start().await.unwrap();
    let config = Config { pass: Some(Secret::new("wrong word")), ..config(&sim) };
    let house = TestHouse::new().await;
    let (link, run_handle) = house.link(GATE);
    let _driver = tokio::spawn(run(config, link));
    let why = house
        .until("the refusal", |house| {
            let link = house.state("fibaro/gate/link")?;
            Some(link["why"].as_str()?.to_string())
        })
        .await;
    assert!(why.contains("login was refused") && !why.contains("wrong word"), "{why}");
    let unsent = run_handle.order(GATE, "relay.state", json!({ "relay": 0 })).await;
    assert!(matches!(unsent, Reply::Unsent(_)));
}

#[tokio::test]
async fn it_stops_in_time_even_if_the_intercom_is_frozen() {
    let scene = Scene::new().await;
    scene.sim.freeze(true);
    scene.stop().await;
}
