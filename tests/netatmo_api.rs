//! Netatmo's cloud: the driver against the simulated one, over real loopback sockets, with webhooks
//! that come to a small server of the test's own.

#[path = "support/link.rs"]
mod link;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer, web};
use link::{Run, TestHouse};
use portero::clock::Clock;
use portero::event::{Event, Trust};
use portero::secret::Secret;
use portero::systems::link::Reply;
use portero::systems::netatmo::api::sim::{
    CLIENT_ID, CLIENT_SECRET, Mischief, REFRESH_TOKEN, Sim, ids,
};
use portero::systems::netatmo::api::{COMMANDS, CallHeard, Cloud, Config, TYPES, run};
use portero::systems::netatmo::session::Session;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use url::Url;

const SOURCE: &str = "netatmo/home";

/// A house, a simulated cloud, and the way of webhooks from one to the other.
struct Street {
    house: Arc<TestHouse>,
    sim: Sim,
    config: Config,
}

/// One run of the driver.
struct Driver {
    run: Run,
    cloud: Cloud,
    task: JoinHandle<()>,
    hooks: actix_web::dev::ServerHandle,
}

struct Hook {
    session: Session,
    cloud: Cloud,
    house: Arc<TestHouse>,
}

/// Takes webhooks as the real one does; the signature is another test's.
async fn hook(body: Bytes, hook: Data<Hook>) -> HttpResponse {
    let now = Clock::system().now();
    let heard = hook.session.webhook(&body, Trust::Authentic, now);
    let event = heard[0].event.clone();
    hook.cloud.webhook(now, event.kind == "netatmo.webhook_activation");
    let own = |name: &str| event.data.get(name).and_then(Value::as_str).map(String::from);
    if own("session_id").is_some() {
        hook.cloud.call(CallHeard {
            kind: event.kind.clone(),
            event_id: own("event_id"),
            subevent_id: own("subevent_id"),
            device_id: own("device_id"),
            at: now,
        });
    }
    hook.house.take(heard).await;
    HttpResponse::Ok().finish()
}

impl Street {
    async fn new() -> Street {
        let house = Arc::new(TestHouse::new().await);
        let sim = Sim::start(Clock::system()).unwrap();
        let config = Config {
            name: "home".into(),
            client_id: CLIENT_ID.into(),
            client_secret: Some(Secret::new(CLIENT_SECRET)),
            refresh_token: Some(Secret::new(REFRESH_TOKEN)),
            api: sim.url(),
            public_url: Url::parse("https://door.example.org").unwrap(),
        };
        Street { house, sim, config }
    }

    fn start(&self) -> Driver {
        let (cloud, inbox) = Cloud::new();
        let session = Session::new("home", &Default::default()).with_cloud(Some(cloud.clone()));
        let data = Data::new(Hook { session, cloud: cloud.clone(), house: self.house.clone() });
        let app = move || App::new().app_data(data.clone()).default_service(web::to(hook));
        let server = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(0);
        let server = server.bind("127.0.0.1:0").unwrap();
        self.sim.deliver_to(server.addrs()[0]);
        let server = server.run();
        let hooks = server.handle();
        tokio::spawn(server);
        let (link, run_of) = self.house.link(SOURCE);
        let task = tokio::spawn(run(self.config.clone(), inbox, link));
        Driver { run: run_of, cloud, task, hooks }
    }

    async fn up(&self) {
        let up =
            |house: &TestHouse| (house.state("netatmo/home/link")?["up"] == true).then_some(());
        self.house.until("the link", up).await;
    }

    /// Up, and the history learnt or caught up with.
    async fn settled(&self, calls_before: usize) {
        self.up().await;
        self.until("the history", || self.sim.calls("/api/getevents") > calls_before).await;
        self.house
            .until("the state", |house| {
                house.state(&format!("netatmo/home/module/{}", ids::TAG))?.get("status").cloned()
            })
            .await;
    }

    async fn until(&self, what: &str, found: impl Fn() -> bool) {
        self.house.until(what, |_| found().then_some(())).await;
    }

    fn bad_text(&self) -> String {
        self.house
            .bad()
            .iter()
            .map(|bad| format!("{bad:?}{}", String::from_utf8_lossy(&bad.raw)))
            .collect()
    }
}

impl Driver {
    async fn stop(self) {
        self.run.stopping.cancel();
        tokio::time::timeout(Duration::from_secs(3), self.task).await.expect("it ends").unwrap();
        self.hooks.stop(false).await;
    }

    async fn order(&self, call: &str, args: Value) -> Reply {
        self.run.order(SOURCE, call, args).await
    }
}

#[actix_web::test]
async fn names_states_and_the_webhook_are_there_after_a_start() {
    let street = Street::new().await;
    let driver = street.start();
    street.settled(0).await;
    street.house.event("netatmo.webhook_activation", 1).await;
    let active =
        |house: &TestHouse| (house.state("netatmo/home/webhook")?["active"] == true).then_some(());
    street.house.until("the proof", active).await;
    assert_eq!(street.sim.registered().unwrap(), "https://door.example.org/hooks/netatmo/home");
    // The state is the simulator's truth.
    let truth = street.sim.truth();
    for module in truth["modules"].as_array().unwrap() {
        let path = format!("netatmo/home/module/{}", module["id"].as_str().unwrap());
        let state = street.house.state(&path).unwrap();
        for (name, value) in module.as_object().unwrap() {
            assert_eq!(state.get(name), Some(value), "{path} {name}");
        }
        let by_name = format!("netatmo/home/module/{}", module["name"].as_str().unwrap());
        assert_eq!(street.house.state(&by_name), Some(state));
    }
    let ana = street.house.state("netatmo/home/person/Ana").unwrap();
    assert_eq!(ana["out_of_sight"], false);
    // Webhooks know the names.
    street.sim.happen("movement", ids::INDOOR, json!({}));
    let moved = street.house.event("netatmo.movement", 1).await;
    assert_eq!(moved.data["device_name"], "Hall camera");
    assert_eq!(street.sim.in_flight_max(), 1);
    driver.stop().await;
}

#[actix_web::test]
async fn what_webhooks_told_is_not_told_again_and_what_they_did_not_is() {
    let street = Street::new().await;
    let driver = street.start();
    street.settled(0).await;
    street.house.event("netatmo.webhook_activation", 1).await;
    let everything = || {
        let visit = street.sim.ring(ids::BELL);
        street.sim.go_on(&visit, "missed_call");
        street.sim.happen("human", ids::OUTDOOR, json!({}));
        street.sim.happen("tag_open", ids::TAG, json!({}));
        street.sim.happen("siren_sounding", ids::SIREN, json!({ "sub_type": 1 }));
        street.sim.happen("smoke", ids::SMOKE, json!({ "sub_type": 1 }));
        street.sim.happen("person", ids::INDOOR, json!({ "persons": [{ "id": ids::ANA }] }));
    };
    everything();
    street.house.event("netatmo.person", 1).await;
    let live = street.house.events().len();
    driver.stop().await;
    // Nobody listens: the same again, and only the history knows.
    street.sim.deaf(true);
    everything();
    let calls = street.sim.calls("/api/getevents");
    let driver = street.start();
    street.settled(calls).await;
    street.house.event("netatmo.person", 2).await;
    let caught: Vec<Arc<Event>> =
        street.house.events().into_iter().filter(|event| event.marks.caught_up).collect();
    let kinds: Vec<&str> = caught.iter().map(|event| event.kind.as_str()).collect();
    let told: BTreeSet<&str> = kinds.iter().copied().collect();
    assert_eq!((kinds.len(), told.len()), (7, 7), "{kinds:?}");
    assert!(caught.iter().all(|event| event.trust == Trust::Authentic && event.time.is_some()));
    assert!(caught.iter().all(|event| !event.raw.is_empty()));
    driver.stop().await;
    // And a third start tells nothing of all that.
    let before = street.house.events().iter().filter(|event| event.marks.caught_up).count();
    let calls = street.sim.calls("/api/getevents");
    let driver = street.start();
    street.settled(calls).await;
    driver.stop().await;
    let events = street.house.events();
    assert_eq!(events.iter().filter(|event| event.marks.caught_up).count(), before);
    assert!(events.len() > live);
}

#[actix_web::test]
async fn every_command_reaches_the_cloud() {
    let street = Street::new().await;
    let driver = street.start();
    street.settled(0).await;
    let done = |reply: Reply| assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    done(driver.order("floodlight", json!({ "module": "Garden camera", "mode": "on" })).await);
    done(driver.order("monitoring", json!({ "module": ids::INDOOR, "on": false })).await);
    done(driver.order("staircase_light", json!({ "module": "Staircase" })).await);
    // The second time it is on already.
    done(driver.order("staircase_light", json!({ "module": "Staircase" })).await);
    done(driver.order("persons_home", json!({ "persons": ["Ana", "Benoît"] })).await);
    done(driver.order("persons_away", json!({ "person": "ana" })).await);
    done(driver.order("unlock", json!({ "module": "Street door" })).await);
    for asked in ["homes", "status", "events"] {
        done(driver.order(asked, json!({})).await);
    }
    let sent = street.sim.commands();
    assert_eq!(sent.len(), 7, "{sent:?}");
    assert_eq!(
        sent[6].body["home"]["modules"][0],
        json!({ "id": ids::LOCK, "bridge": ids::GATEWAY, "lock": false })
    );
    assert_eq!(COMMANDS.len(), 9);
    let floodlight = |house: &TestHouse| {
        let state = house.state("netatmo/home/module/Garden camera")?;
        (state["floodlight"] == "on").then_some(())
    };
    street.house.until("the light's state", floodlight).await;
    driver.stop().await;
}

#[actix_web::test]
async fn a_lock_meets_bad_manners_and_is_opened_at_most_once() {
    let street = Street::new().await;
    let driver = street.start();
    street.settled(0).await;
    type Check = fn(&Reply) -> bool;
    let cases: [(Mischief, Check, usize); 9] = [
        (Mischief::LostAnswer, |r| matches!(r, Reply::Unknown(_)), 1),
        (Mischief::Drop, |r| matches!(r, Reply::Unknown(_)), 0),
        (Mischief::Html, |r| matches!(r, Reply::Unknown(_)), 0),
        (Mischief::ErrorPage, |r| matches!(r, Reply::Unknown(_)), 0),
        (Mischief::Empty, |r| matches!(r, Reply::Unknown(_)), 0),
        (Mischief::ThrottledAs403, |r| matches!(r, Reply::Refused(_)), 0),
        (Mischief::ErrorInside(6), |r| matches!(r, Reply::Refused(_)), 0),
        (Mischief::Expired, |r| matches!(r, Reply::Done(_)), 1),
        (Mischief::Concurrent, |r| matches!(r, Reply::Refused(_)), 0),
    ];
    for (mischief, is_right, opened) in cases {
        let before = street.sim.commands().len();
        street.sim.misbehave(mischief, "/api/setstate", 1);
        let reply = driver.order("unlock", json!({ "module": ids::LOCK })).await;
        assert!(is_right(&reply), "{mischief:?}: {reply:?}");
        assert_eq!(street.sim.commands().len() - before, opened, "{mischief:?}");
        street.sim.behave();
    }
    driver.stop().await;
}

#[actix_web::test]
async fn a_lost_grant_asks_a_person_and_their_consent_mends_it() {
    let street = Street::new().await;
    street.sim.revoke();
    let driver = street.start();
    let asked = street.house.event("netatmo.consent_needed", 1).await;
    assert_eq!(asked.data["link"], "https://door.example.org/oauth/netatmo/home");
    assert_eq!(asked.data["reason"], "invalid_grant");
    let reply = driver.order("homes", json!({})).await;
    assert!(matches!(reply, Reply::Unsent(_)), "{reply:?}");
    // A person agrees at the cloud's page, which sends them back with a code.
    let page = street.config.authorize_url("state-1");
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let back = client.build().unwrap().get(page).send().await.unwrap();
    let back: Url = back.headers()["location"].to_str().unwrap().parse().unwrap();
    let code = back.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    assert!(driver.cloud.consent(Secret::new("wrong")).await.is_err());
    // The simulator's code is good for one try of any code.
    let page = street.config.authorize_url("state-2");
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let back = client.build().unwrap().get(page).send().await.unwrap();
    let back: Url = back.headers()["location"].to_str().unwrap().parse().unwrap();
    let again = back.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    assert_ne!(code, again);
    assert_eq!(driver.cloud.consent(Secret::new(again)).await, Ok(()));
    street.settled(0).await;
    driver.stop().await;
    // What the consent brought is kept.
    let refused = street.sim.refused_refreshes();
    let driver = street.start();
    street.until("a start", || street.sim.calls("/api/homesdata") >= 2).await;
    assert_eq!(street.sim.refused_refreshes(), refused);
    assert_eq!(street.house.events_of("netatmo.consent_needed").len(), 1);
    driver.stop().await;
}

#[actix_web::test]
async fn short_lived_tokens_are_renewed_and_no_pair_is_lost_over_restarts() {
    let street = Street::new().await;
    street.sim.access_life(Duration::from_secs(2));
    for n in 1..=3 {
        let calls = street.sim.calls("/api/homesdata");
        let driver = street.start();
        street.until("a start", || street.sim.calls("/api/homesdata") > calls).await;
        street.sim.expire_access();
        let reply = driver.order("status", json!({})).await;
        assert!(matches!(reply, Reply::Done(_) | Reply::Unsent(_)), "{n}: {reply:?}");
        driver.stop().await;
    }
    assert_eq!(street.sim.refused_refreshes(), 0);
    assert!(street.house.events_of("netatmo.consent_needed").is_empty());
}

#[actix_web::test]
async fn bad_manners_of_every_kind_are_survived_and_show_no_token() {
    let street = Street::new().await;
    let manners = [
        Mischief::Drop,
        Mischief::Html,
        Mischief::Empty,
        Mischief::Garbage,
        Mischief::WrongShape,
        Mischief::ErrorPage,
        Mischief::Concurrent,
        Mischief::WrongTypes,
        Mischief::Duplicates,
        Mischief::Reversed,
        Mischief::SamePage,
    ];
    let driver = street.start();
    street.settled(0).await;
    for mischief in manners {
        street.sim.misbehave(mischief, "/api/", 1);
        let reply = driver.order("status", json!({})).await;
        assert!(!matches!(reply, Reply::Refused(_)), "{mischief:?}: {reply:?}");
        street.sim.behave();
    }
    // It works all the same, and the state is exact.
    street.sim.set_reachable(ids::SMOKE, false);
    street.sim.set_status(ids::TAG, "status", "open");
    street.until("an answer", || street.sim.calls("/api/homestatus") > 1).await;
    let reply = driver.order("status", json!({})).await;
    assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    street.house.event("netatmo.module_unreachable", 1).await;
    let tag = street.house.event("netatmo.tag_status", 1).await;
    assert_eq!((&tag.data["status"], &tag.data["previous"]), (&json!("open"), &json!("closed")));
    let text = street.bad_text();
    assert!(!text.contains("sim-user|"), "{text}");
    driver.stop().await;
}

#[test]
fn the_documented_types_are_those_that_can_come() {
    let page = std::fs::read_to_string("docs/events.md").unwrap();
    for kind in TYPES {
        assert!(page.contains(&format!("| `{kind}` |")), "{kind}");
    }
    let known: BTreeSet<_> = portero::rules::types::NETATMO_API.iter().collect();
    assert_eq!(known, TYPES.iter().collect());
}
