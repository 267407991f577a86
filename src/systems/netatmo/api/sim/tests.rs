use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::answers::{Asked, Said};
use super::world::{World, fields, ids};
use super::*;
use crate::systems::netatmo::{Config, Signature, signature};

fn noon() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn world() -> World {
    World::new(CLIENT_SECRET, noon())
}

fn params(given: &[(&str, &str)]) -> BTreeMap<String, String> {
    given.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn read(said: &Said) -> Value {
    serde_json::from_slice(&said.body).unwrap()
}

fn refresh(world: &mut World, token: &str, now: Timestamp) -> (u16, Value) {
    let form = params(&[
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT_ID),
        ("client_secret", CLIENT_SECRET),
        ("refresh_token", token),
    ]);
    let said = world.tokens.token(&form, now);
    (said.status, read(&said))
}

/// A world with a good access token.
fn entered() -> (World, String) {
    let mut world = world();
    let (_, pair) = refresh(&mut world, REFRESH_TOKEN, noon());
    let bearer = pair["access_token"].as_str().unwrap().to_string();
    (world, bearer)
}

fn get(world: &mut World, bearer: &str, path: &str, given: &[(&str, &str)]) -> (u16, Value) {
    let asked = Asked {
        method: "POST".into(),
        path: path.into(),
        params: params(given),
        bearer: Some(bearer.into()),
        ..Asked::default()
    };
    let said = world.answer(&asked, noon());
    (said.status, read(&said))
}

fn set(world: &mut World, bearer: &str, module: Value) -> (u16, Value) {
    let asked = Asked {
        method: "POST".into(),
        path: "/api/setstate".into(),
        json: json!({ "home": { "id": ids::HOME, "modules": [module] } }),
        bearer: Some(bearer.into()),
        ..Asked::default()
    };
    let said = world.answer(&asked, noon());
    (said.status, read(&said))
}

#[test]
fn every_refresh_kills_the_pair_before() {
    let mut world = world();
    let (status, first) = refresh(&mut world, REFRESH_TOKEN, noon());
    assert_eq!(
        (status, &first["expires_in"], &first["expire_in"]),
        (200, &json!(10_800), &json!(10_800))
    );
    assert!(first["scope"].is_array());
    let bearer = first["access_token"].as_str().unwrap();
    let (status, second) = refresh(&mut world, first["refresh_token"].as_str().unwrap(), noon());
    assert_eq!(status, 200);
    let (status, error) = refresh(&mut world, REFRESH_TOKEN, noon());
    assert_eq!((status, error), (400, json!({ "error": "invalid_grant" })));
    assert_eq!(get(&mut world, bearer, "/api/homesdata", &[]).1["error"]["code"], 2);
    let bearer = second["access_token"].as_str().unwrap();
    assert_eq!(get(&mut world, bearer, "/api/homesdata", &[]).0, 200);
    world.tokens.expire(noon());
    assert_eq!(get(&mut world, bearer, "/api/homesdata", &[]).1["error"]["code"], 3);
    assert_eq!((world.tokens.refreshes, world.tokens.refused), (2, 1));
}

#[test]
fn a_code_is_good_once_and_only_for_its_address() {
    let mut world = world();
    world.tokens.revoke();
    let home = "http://house/oauth/netatmo/home";
    let ask = [("client_id", CLIENT_ID), ("redirect_uri", home), ("state", "s t")];
    let code = |world: &mut World| {
        let said = world.tokens.authorize(&params(&ask));
        let back = Url::parse(&said.headers[0].1).unwrap();
        let query: BTreeMap<_, _> = back.query_pairs().into_owned().collect();
        assert_eq!((said.status, query["state"].as_str()), (302, "s t"));
        query.get("code").cloned().unwrap_or_default()
    };
    let exchange = |world: &mut World, code: &str, to: &str| {
        let form = params(&[
            ("grant_type", "authorization_code"),
            ("client_id", CLIENT_ID),
            ("client_secret", CLIENT_SECRET),
            ("code", code),
            ("redirect_uri", to),
        ]);
        world.tokens.token(&form, noon()).status
    };
    let first = code(&mut world);
    assert_eq!(exchange(&mut world, &first, "http://elsewhere/"), 400);
    let second = code(&mut world);
    assert_eq!([0, 1].map(|_| exchange(&mut world, &second, home)), [200, 400]);
    world.tokens.declines = true;
    assert_eq!(code(&mut world), "");
}

#[test]
fn what_happens_is_in_the_history_and_told_with_the_same_ids() {
    let (mut world, bearer) = entered();
    world.register("http://127.0.0.1:1/hooks/netatmo/home");
    let activation = world.outbox.remove(0);
    assert!(activation.is_activation);
    let id = world.happen("tag_open", ids::TAG, Map::new(), noon());
    let told = world.outbox.remove(0).body;
    assert_eq!(told["event_id"], id.as_str());
    assert_eq!((&told["device_id"], &told["module_id"]), (&json!(ids::INDOOR), &json!(ids::TAG)));
    assert_eq!(told["push_type"], "NACamDoorTag-tag_open");
    let call = fields(json!({ "session_id": "s", "snapshot_url": "u" }));
    let visit = world.happen("incoming_call", ids::BELL, call, noon());
    let missed = fields(json!({ "session_id": "s", "event_id": visit }));
    world.deaf = true;
    world.happen("missed_call", ids::BELL, missed, noon());
    assert_eq!(world.outbox.len(), 1);
    let page = get(&mut world, &bearer, "/api/getevents", &[("home_id", ids::HOME)]).1;
    let events = page["body"]["home"]["events"].as_array().unwrap();
    assert_eq!((&events[0]["id"], &events[1]["id"]), (&json!(visit), &json!(id)));
    let parts = events[0]["subevents"].as_array().unwrap();
    assert_eq!(
        (&parts[0]["type"], &parts[1]["type"]),
        (&json!("incoming_call"), &json!("missed_call"))
    );
    assert_eq!(parts[0]["id"], world.outbox[0].body["subevent_id"]);
    assert_eq!(parts[0]["snapshot"]["url"], "u");
}

#[test]
fn pages_go_back_from_an_event() {
    let (mut world, bearer) = entered();
    for n in 0..40 {
        let now = noon() + SignedDuration::from_secs(n);
        world.happen("movement", ids::INDOOR, Map::new(), now);
    }
    let old = fields(json!({ "time": 7 }));
    let oldest = world.happen("boot", ids::INDOOR, old, noon());
    let page = |world: &mut World, more: &[(&str, &str)]| {
        let given = [&[("home_id", ids::HOME)], more].concat();
        let (_, body) = get(world, &bearer, "/api/getevents", &given);
        let events = body["body"]["home"]["events"].as_array().unwrap().clone();
        events.iter().map(|e| e["id"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let first = page(&mut world, &[]);
    assert_eq!(first.len(), 30);
    let second = page(&mut world, &[("event_id", &first[29]), ("size", "20")]);
    assert_eq!((second.len(), second.last()), (11, Some(&oldest)));
}

#[test]
fn what_cannot_be_reached_is_an_error_inside() {
    let (mut world, bearer) = entered();
    world.modules.get_mut(ids::OUTDOOR).unwrap().reachable = false;
    let (status, body) = get(&mut world, &bearer, "/api/homestatus", &[("home_id", ids::HOME)]);
    assert_eq!(
        (status, &body["body"]["errors"]),
        (200, &json!([{ "code": 6, "id": ids::OUTDOOR }]))
    );
    assert_eq!(body["body"]["home"]["modules"].as_array().unwrap().len(), 8);
    let light = json!({ "id": ids::OUTDOOR, "floodlight": "on" });
    assert_eq!(set(&mut world, &bearer, light.clone()).1["body"]["errors"][0]["code"], 6);
    world.modules.get_mut(ids::OUTDOOR).unwrap().reachable = true;
    assert_eq!(set(&mut world, &bearer, light).1["status"], "ok");
    assert_eq!(world.modules[ids::OUTDOOR].status["floodlight"], "on");
}

#[test]
fn a_lock_needs_its_bridge_and_a_light_is_on_once() {
    let (mut world, bearer) = entered();
    let lock = json!({ "id": ids::LOCK, "lock": false });
    assert_eq!(set(&mut world, &bearer, lock).0, 400);
    let lock = json!({ "id": ids::LOCK, "bridge": ids::GATEWAY, "lock": false });
    assert_eq!(set(&mut world, &bearer, lock).1["body"], Value::Null);
    let light = json!({ "id": ids::STAIRS, "bridge": ids::GATEWAY, "on": true });
    let said = [0, 1].map(|_| set(&mut world, &bearer, light.clone()).1);
    assert_eq!(said[0]["body"], Value::Null);
    assert_eq!(said[1]["body"]["errors"][0]["code"], 23);
    let siren = json!({ "id": ids::SIREN, "monitoring": "off" });
    assert_eq!(set(&mut world, &bearer, siren).0, 400);
}

#[test]
fn persons_go_all_together_and_come_one_by_one() {
    let (mut world, bearer) = entered();
    let away =
        |world: &World| world.persons.iter().map(|p| p["out_of_sight"] == true).collect::<Vec<_>>();
    let home = ("home_id", ids::HOME);
    assert_eq!(get(&mut world, &bearer, "/api/setpersonsaway", &[home]).0, 200);
    assert_eq!(away(&world), [true, true]);
    let ids = json!([ids::BENOIT]).to_string();
    assert_eq!(
        get(&mut world, &bearer, "/api/setpersonshome", &[home, ("person_ids", &ids)]).0,
        200
    );
    assert_eq!(away(&world), [true, false]);
    let one = ("person_id", ids::BENOIT);
    assert_eq!(get(&mut world, &bearer, "/api/setpersonsaway", &[home, one]).0, 200);
    assert_eq!(away(&world), [true, true]);
    assert_eq!(get(&mut world, &bearer, "/api/setpersonshome", &[home]).0, 400);
}

#[test]
fn one_registration_at_a_time() {
    let (mut world, bearer) = entered();
    assert_eq!(get(&mut world, &bearer, "/api/dropwebhook", &[]).1["error"]["code"], 7);
    for url in ["http://a/", "http://b/"] {
        assert_eq!(get(&mut world, &bearer, "/api/addwebhook", &[("url", url)]).0, 200);
    }
    assert_eq!(world.webhook.as_deref(), Some("http://b/"));
    assert_eq!(get(&mut world, &bearer, "/webhooks/v1", &[]).0, 409);
    assert_eq!(get(&mut world, &bearer, "/api/dropwebhook", &[]).0, 200);
    assert_eq!(
        get(&mut world, &bearer, "/api/addwebhook", &[("url", "no")]).1["error"]["code"],
        21
    );
}

/// Over a socket: the proof of a registration arrives, signed, and a webhook is told once more if
/// so wished.
#[tokio::test]
async fn webhooks_arrive_signed() {
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::method};
    let house = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&house).await;
    let sim = Sim::start(Clock::manual(noon())).unwrap();
    sim.repeat_webhooks(1);
    sim.change(|world| world.register("https://house.example.org/hooks/netatmo/home"));
    sim.happen("smoke", ids::SMOKE, json!({ "sub_type": 1 }));
    sim.deliver_to(*house.address());
    let all = async {
        while sim.deliveries().len() < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    assert!(sim.deliveries().iter().all(|delivery| delivery.status == Some(200)));
    let client_secret = Some(Secret::new(CLIENT_SECRET));
    let config = Config { client_secret, signature: Signature::Require, ..Config::default() };
    for request in house.received_requests().await.unwrap() {
        let header = request.headers.get(signature::HEADER).map(|value| value.as_bytes());
        assert!(signature::verify(&config, header, &request.body).is_ok());
        assert_eq!(request.url.path(), "/hooks/netatmo/home");
    }
}
